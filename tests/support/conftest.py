"""Models in libraries of the extra `oracles`, and a script with wrong calls: they hold no doctests."""

collect_ignore_glob = ["zoo.py", "models/*.py", "typed_script.py"]
