"""Models in libraries of the extra `oracles` and a script with wrong calls: without doctests, and not to be imported."""

collect_ignore_glob = ["zoo.py", "models/*.py", "typed_script.py"]
