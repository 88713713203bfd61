"""LeNet-5 trained on real digits, every gradient derived by hand."""

from fnconv.train import data, lenet, loop, run

__all__ = ["data", "lenet", "loop", "run"]
