"""The layers of the networks in Torch; features have channels first, in one of Torch's memory formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as f

from benchmarks.jax_layers import EPSILON, half

Tensor = torch.Tensor


def parameter(value: np.ndarray, memory: torch.memory_format) -> Tensor:
    """A parameter of JAX's layers in Torch's order of axes: kernels (out, in, *window), matrices (out, in)."""
    axes = (*range(value.ndim)[:0:-1], 0) if value.ndim == 2 else (3, 2, 0, 1) if value.ndim == 4 else (0,)
    tensor = torch.tensor(np.ascontiguousarray(value.transpose(axes)))
    return (tensor.contiguous(memory_format=memory) if value.ndim == 4 else tensor).requires_grad_()


def back(tensor: Tensor) -> np.ndarray:
    """The inverse of `parameter`."""
    value = tensor.detach().contiguous().numpy()
    return value.transpose((2, 3, 1, 0)) if value.ndim == 4 else value.T


class TorchLayers:
    def __init__(self, given: Sequence[Tensor]) -> None:
        self.given = iter(given)

    def conv(
        self,
        x: Tensor,
        features: int,
        window: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        w, b = next(self.given), next(self.given) if bias else None
        return f.conv2d(x, w, b, stride, half(window, padding), groups=groups)

    def block(
        self, x: Tensor, features: int, window: int, *, padding: int | None = None, pool: int | None = None
    ) -> Tensor:
        y = f.relu(self.conv(x, features, window, padding=padding, bias=True))
        return y if pool is None else self.max_pool(y, pool, pool, 0)

    def max_pool(self, x: Tensor, window: int, stride: int, padding: int) -> Tensor:
        return f.max_pool2d(x, window, stride, padding)

    def batch_norm(self, x: Tensor) -> Tensor:
        return f.batch_norm(x, None, None, next(self.given), next(self.given), training=True, eps=EPSILON)

    def layer_norm(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        y = f.layer_norm(last, (x.shape[1],), next(self.given), next(self.given), EPSILON)
        return y.permute(0, 3, 1, 2) if x.ndim == 4 else y

    def scaled(self, x: Tensor) -> Tensor:
        return x * next(self.given)[:, None, None]

    def relu(self, x: Tensor) -> Tensor:
        return f.relu(x)

    def relu6(self, x: Tensor) -> Tensor:
        return f.relu6(x)

    def gelu(self, x: Tensor) -> Tensor:
        return f.gelu(x, approximate="tanh")

    def mean(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def flatten(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)

    def dense(self, x: Tensor, features: int) -> Tensor:
        return f.linear(x, next(self.given), next(self.given))

    def channels(self, x: Tensor) -> int:
        return x.shape[1]


def step(
    build: Callable[..., Any],
    small: bool,
    rate: float,
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    *,
    channels_last: bool,
) -> Callable[[], list[Tensor]]:
    """One step of gradient descent from the same weights at every call; the updated ones are new tensors."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    given = [parameter(w, memory) for w in weights]
    images = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1))).contiguous(memory_format=memory)
    targets = torch.tensor(labels.astype(np.int64))

    def run() -> list[Tensor]:
        with torch.enable_grad():
            loss = f.cross_entropy(build(TorchLayers(given), images, small), targets)
            gradients = torch.autograd.grad(loss, given)
        with torch.no_grad():
            return list(torch._foreach_add(given, gradients, alpha=-rate))

    return run
