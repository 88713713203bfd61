"""What everything stands on: geometry, dtypes, errors, specs, linear maps with their adjoints, how a rule meets JAX."""
