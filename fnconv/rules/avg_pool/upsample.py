"""Average pooling by window sums; its gradient upsamples the cotangent, Notes 2.2."""

from __future__ import annotations

import jax

from fnconv.base.dtypes import to_accumulator
from fnconv.base.spec import PoolSpec
from fnconv.base.window_sums import window_sum, window_sum_adjoint
from fnconv.rules.avg_pool.divide import by_size


def forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The mean of each window, summed along one axis after another."""
    return by_size(spec, window_sum(to_accumulator(x), spec.axes)).astype(x.dtype)


def input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """upsample(delta) * 1 / size, Notes 2.2; where windows overlap the shares are added."""
    return window_sum_adjoint(by_size(spec, to_accumulator(dy)), spec.axes).astype(dy.dtype)
