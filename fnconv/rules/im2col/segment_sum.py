"""im2col by the index map of Wei (2.14): one gather, and one sum of segments for its adjoint."""

from __future__ import annotations

import jax

from fnconv.base import pairs
from fnconv.base.dtypes import to_accumulator
from fnconv.base.spec import PoolSpec


def forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The cells that the index map names, Wei (2.24)."""
    return pairs.im2col(x, spec.axes)


def input_vjp(spec: PoolSpec, cols: jax.Array) -> jax.Array:
    """Every entry is added at the cell it came from, Wei (2.30)."""
    return pairs.col2im(to_accumulator(cols), spec.axes).astype(cols.dtype)
