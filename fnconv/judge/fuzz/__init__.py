"""A fuzzer: random operations, geometries, data and transformations against definitions in NumPy."""
