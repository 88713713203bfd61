"""Average pooling over the columns of im2col; its gradient adds the shares of each window at its cells."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnconv.base.dtypes import to_accumulator
from fnconv.base.geometry import volume, windows
from fnconv.base.pairs import col2im, im2col
from fnconv.base.spec import PoolSpec
from fnconv.rules.avg_pool.divide import by_size


def forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The mean of each column of im2col(x)."""
    y = im2col(to_accumulator(x), spec.axes).sum(axis=2)
    return by_size(spec, y.reshape(x.shape[0], *spec.output, -1)).astype(x.dtype)


def input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """Every element of a window receives dy / size; equal cells are added."""
    shares = by_size(spec, to_accumulator(dy)).reshape(dy.shape[0], volume(spec.output), 1, dy.shape[-1])
    elements = volume(windows(spec.axes))
    shares = jnp.broadcast_to(shares, (*shares.shape[:2], elements, shares.shape[-1]))
    return col2im(shares, spec.axes).astype(dy.dtype)
