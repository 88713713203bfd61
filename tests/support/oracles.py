"""Oracles that know nothing of the package: loops over the definitions in NumPy, plain JAX, and Torch.

Canonical arrays: features (N, *S, C), kernels (*K, in / groups, out).  Geometry: one (stride, low, high, dilation)
per axis, resolved here from the words of the interface, and not by the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = np.ndarray


@dataclass(frozen=True)
class Steps:
    """One axis of a sliding window, all numbers resolved."""

    size: int
    window: int
    stride: int
    dilation: int
    low: int
    high: int
    outputs: int

    def source(self, o: int, k: int) -> int:
        return o * self.stride + k * self.dilation - self.low


def named_padding(name: str, size: int, span: int, stride: int) -> tuple[int, int]:
    if name == "VALID":
        return 0, 0
    if name == "FULL":
        return span - 1, span - 1
    wanted = size if name == "INPUT_SIZE" else math.ceil(size / stride)
    total = max(0, (wanted - 1) * stride + span - size)
    return (total - total // 2, total // 2) if name == "SAME_LOWER" else (total // 2, total - total // 2)


def resolve(
    size: Sequence[int], window: Sequence[int], strides=1, padding="VALID", dilation=1, ceil_mode=False
) -> tuple[Steps, ...]:
    """The axes of a geometry given in the words of the interface."""
    n = len(size)
    s, d = ((v,) * n if isinstance(v, int) else v for v in (strides, dilation))
    steps = []
    for i in range(n):
        span = (window[i] - 1) * d[i] + 1
        entry = padding if isinstance(padding, str | int) else padding[i]
        if isinstance(entry, str):
            low, high = named_padding(entry, size[i], span, s[i])
        else:
            low, high = (entry, entry) if isinstance(entry, int) else entry
        room = size[i] + low + high - span
        count = room // s[i] + 1
        if ceil_mode and room % s[i] and count * s[i] < low + size[i]:  # one more, if it starts before the input ends
            count += 1
        steps.append(Steps(size[i], window[i], s[i], d[i], low, high, max(0, count)))
    return tuple(steps)


def outputs(steps: Sequence[Steps]) -> tuple[int, ...]:
    return tuple(a.outputs for a in steps)


def cells(steps: Sequence[Steps], o: Sequence[int], order: str = "row_major") -> Iterator[tuple[int, ...]]:
    """Input positions of window o in reading order, or by column and then row; also those in the padding."""
    ranges = [range(a.window) for a in steps]
    elements = product(*ranges) if order == "row_major" else (k[::-1] for k in product(*ranges[::-1]))
    for k in elements:
        yield tuple(a.source(p, q) for a, p, q in zip(steps, o, k, strict=True))


def inside(steps: Sequence[Steps], i: Sequence[int]) -> bool:
    """Whether a cell is neither padding nor cropped away."""
    return all(0 <= p < a.size + min(a.high, 0) for a, p in zip(steps, i, strict=True))


# ---- convolution ----------------------------------------------------------------------------------------------------


def conv_maps(x: Array, w: Array, dy: Array, steps: Sequence[Steps], groups: int = 1) -> tuple[Array, Array, Array]:
    """(y, dx, dw) by a loop over every output position, window element and group."""
    c, d = x.shape[-1] // groups, w.shape[-1] // groups
    y = np.zeros((x.shape[0], *outputs(steps), w.shape[-1]), x.dtype)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    elements = list(np.ndindex(*(a.window for a in steps)))
    for o in np.ndindex(*outputs(steps)):
        for k, i in zip(elements, cells(steps, o), strict=True):
            if not inside(steps, i):
                continue
            for g in range(groups):
                at_x = (slice(None), *i, slice(g * c, (g + 1) * c))
                at_y = (slice(None), *o, slice(g * d, (g + 1) * d))
                at_w = (*k, slice(None), slice(g * d, (g + 1) * d))
                y[at_y] += x[at_x] @ w[at_w]
                dx[at_x] += dy[at_y] @ w[at_w].T
                dw[at_w] += x[at_x].T @ dy[at_y]
    return y, dx, dw


def plain_conv(x: jax.Array, w: jax.Array, steps: Sequence[Steps], groups: int = 1) -> jax.Array:
    """`lax.conv_general_dilated` behind an explicit `lax.pad`: a form whose own gradients are right."""
    n = len(steps)
    widths = [(0, 0, 0), *((a.low, a.high, 0) for a in steps), (0, 0, 0)]
    letters = "".join("DHW"[3 - n :])
    return lax.conv_general_dilated(
        lax.pad(x, jnp.zeros((), x.dtype), widths),
        w,
        [a.stride for a in steps],
        "VALID",
        rhs_dilation=[a.dilation for a in steps],
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )


# ---- pooling --------------------------------------------------------------------------------------------------------


def max_pool(
    x: Array, dy: Array, steps: Sequence[Steps], ties: str = "row_major", lowest: float = -np.inf
) -> tuple[Array, Array, Array]:
    """(y, flat indices, dx): the first NaN, else the first maximum, of the cells inside the input."""
    n, c = x.shape[0], x.shape[-1]
    shape = (n, *outputs(steps), c)
    y, indices, dx = np.full(shape, lowest, x.dtype), np.full(shape, -1), np.zeros(x.shape, dy.dtype)
    size = [a.size for a in steps]
    for o in np.ndindex(*outputs(steps)):
        positions = [i for i in cells(steps, o, ties) if inside(steps, i)]
        for b, ch in product(range(n), range(c)):
            winner = None
            for i in positions:
                value = x[(b, *i, ch)]
                if winner is None or value > x[(b, *winner, ch)] or (value != value and not _isnan(x, b, winner, ch)):
                    winner = i
            if winner is not None:
                y[(b, *o, ch)] = x[(b, *winner, ch)]
                indices[(b, *o, ch)] = np.ravel_multi_index(winner, size)
                dx[(b, *winner, ch)] += dy[(b, *o, ch)]
    return y, indices, dx


def _isnan(x: Array, b: int, i: tuple[int, ...], ch: int) -> bool:
    return x[(b, *i, ch)] != x[(b, *i, ch)]


def divisors(steps: Sequence[Steps], include_pad: bool) -> Array:
    """Cells that each average divides by, (*O); those past the padding never count."""
    counts = np.zeros(outputs(steps), np.int64)
    for o in np.ndindex(*outputs(steps)):
        for i in cells(steps, o):
            counted = (
                all(p < a.size + a.high for a, p in zip(steps, i, strict=True)) if include_pad else inside(steps, i)
            )
            counts[o] += counted
    return counts


def avg_pool(x: Array, dy: Array, steps: Sequence[Steps], include_pad: bool = True) -> tuple[Array, Array]:
    """(y, dx); a window of which nothing counts is 0."""
    y, dx = np.zeros((x.shape[0], *outputs(steps), x.shape[-1]), x.dtype), np.zeros_like(x)
    counts = divisors(steps, include_pad)
    for o in np.ndindex(*outputs(steps)):
        for i in cells(steps, o):
            if inside(steps, i):
                y[(slice(None), *o)] += x[(slice(None), *i)] / counts[o]
                dx[(slice(None), *i)] += dy[(slice(None), *o)] / counts[o]
    return y, dx


def lp_pool(x: Array, dy: Array, steps: Sequence[Steps], p: float) -> tuple[Array, Array]:
    """(y, dx) of the p-norm; gradient 0 in a window of zeros."""
    y, dx = np.zeros((x.shape[0], *outputs(steps), x.shape[-1]), x.dtype), np.zeros_like(x)
    for o in np.ndindex(*outputs(steps)):
        within = [i for i in cells(steps, o) if inside(steps, i)]
        at = (slice(None), *o)
        y[at] = sum((np.abs(x[(slice(None), *i)]) ** p for i in within), np.zeros_like(y[at])) ** (1 / p)
        safe = np.where(y[at] > 0, y[at], 1)
        for i in within:
            v = x[(slice(None), *i)]
            dx[(slice(None), *i)] += dy[at] * np.sign(v) * (np.abs(v) / safe) ** (p - 1) * (y[at] > 0)
    return y, dx


def plain_max_pool(x: jax.Array, steps: Sequence[Steps]) -> jax.Array:
    """`lax.reduce_window`, whose gradient is XLA's select-and-scatter."""
    widths = [(0, 0, 0), *((a.low, a.high, 0) for a in steps), (0, 0, 0)]
    window, strides = (1, *(a.window for a in steps), 1), (1, *(a.stride for a in steps), 1)
    padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), widths)
    return lax.reduce_window(padded, np.asarray(-np.inf, x.dtype), lax.max, window, strides, "VALID")


# ---- Torch ----------------------------------------------------------------------------------------------------------


def torch_gradients(function, operands: Sequence[Array], dy: Array) -> tuple[Array, ...]:
    """(y, one gradient per operand) of a Torch function of float64 tensors."""
    import torch

    tensors = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in operands]
    y = function(*tensors)
    y.backward(torch.tensor(np.asarray(dy, np.float64)))
    return y.detach().numpy(), *(t.grad.numpy() for t in tensors)


def torch_padding(steps: Sequence[Steps]) -> list[int]:
    """The argument of `torch.nn.functional.pad`, which crops where it is negative."""
    return [p for a in reversed(steps) for p in (a.low, a.high)]


def channels_first(a: Array) -> Array:
    """(N, *S, C) -> (N, C, *S), contiguous."""
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def kernel_first(w: Array) -> Array:
    """(*K, in, out) -> (out, in, *K), contiguous."""
    return np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))
