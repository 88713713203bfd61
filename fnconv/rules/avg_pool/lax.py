"""XLA's own sum over windows, which GPUs and TPUs have kernels for; its adjoint is such a sum in our geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import lax

from fnconv.base.dtypes import to_accumulator
from fnconv.base.geometry import AnyAxis, sliding
from fnconv.base.pairs import pad, zero_insert
from fnconv.base.spec import PoolSpec
from fnconv.rules.avg_pool.divide import by_size


def forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The mean of each window."""
    return by_size(spec, sums(to_accumulator(x), spec.axes)).astype(x.dtype)


def input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """Every cell collects the shares of the windows it lies in: the zero-inserted shares, summed at stride 1."""
    return sums_adjoint(by_size(spec, to_accumulator(dy)), spec.axes).astype(dy.dtype)


def sums(x: jax.Array, axes: Sequence[AnyAxis], add: Callable[..., jax.Array] = lax.add) -> jax.Array:
    """The sum of every sliding window: (N, *S, C) -> (N, *O, C); `add` may be another sum, 0 adding nothing to it.

    Where the only window is all there is, its stride is 1: XLA then sums as over any axis, and fuses that.
    """
    moving = sliding(axes)
    steps = (1 if a.padded == a.span else a.stride for a in moving)
    window, dilation = ((1, *v, 1) for v in zip(*((a.window, a.dilation) for a in moving), strict=True))
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(pad(x, moving), zero, add, window, (1, *steps, 1), "VALID", window_dilation=dilation)


def sums_adjoint(y: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """What each cell collects of the windows it lies in: (N, *O, C) -> (N, *S, C)."""
    moving = sliding(axes)
    return sums(zero_insert(y, [a.stride for a in moving]), [a.input_gradient() for a in moving])
