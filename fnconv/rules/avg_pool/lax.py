"""XLA's own sum over windows, which GPUs and TPUs have kernels for; its adjoint is such a sum in our geometry."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax import lax

from fnconv.base.dtypes import to_accumulator
from fnconv.base.geometry import Axis, sliding
from fnconv.base.pairs import pad, zero_insert
from fnconv.base.spec import PoolSpec
from fnconv.rules.avg_pool.divide import by_size


def forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The mean of each window."""
    return by_size(spec, _sums(to_accumulator(x), sliding(spec.axes))).astype(x.dtype)


def input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """Every cell collects the shares of the windows it lies in: the zero-inserted shares, summed at stride 1."""
    axes = sliding(spec.axes)
    shares = zero_insert(by_size(spec, to_accumulator(dy)), [a.stride for a in axes])
    return _sums(shares, [a.input_gradient() for a in axes]).astype(dy.dtype)


def _sums(x: jax.Array, axes: Sequence[Axis]) -> jax.Array:
    window, strides, dilation = (
        (1, *v, 1) for v in zip(*((a.window, a.stride, a.dilation) for a in axes), strict=True)
    )
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(pad(x, axes), zero, lax.add, window, strides, "VALID", window_dilation=dilation)
