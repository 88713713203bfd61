"""The files beside this one are cells that run inside a notebook, not modules."""

collect_ignore_glob = ["*.py"]
