"""Average pooling as one dense matrix, for small sizes and finite values: vec(y) = diag(1 / size) B vec(x)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.dtypes import accumulator, to_accumulator
from fnconv.base.geometry import OUTSIDE, flat_table, volume
from fnconv.base.spec import PoolSpec
from fnconv.rules.avg_pool.divide import by_size
from fnconv.textbook import refuse_if_large


def forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """vec(y) = diag(1 / size) B vec(x), B having a 1 for every cell of a window."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1]).astype(accumulator(x.dtype))
    # (O, S) . (N, S, C) -> (N, O, C)
    y = jnp.einsum("os,nsc->noc", _membership(spec, flat.dtype), flat, precision=lax.Precision.HIGHEST)
    return by_size(spec, y.reshape(x.shape[0], *spec.output, -1)).astype(x.dtype)


def input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """dz/dvec(x) = B^T diag(1 / size) dz/dvec(y)."""
    shares = by_size(spec, to_accumulator(dy)).reshape(dy.shape[0], -1, dy.shape[-1])
    # (O, S) . (N, O, C) -> (N, S, C)
    dx = jnp.einsum("os,noc->nsc", _membership(spec, shares.dtype), shares, precision=lax.Precision.HIGHEST)
    return dx.reshape(dy.shape[0], *spec.size, -1).astype(dy.dtype)


def _membership(spec: PoolSpec, dtype: jnp.dtype) -> jax.Array:
    """B: 1 where cell s lies in window o, (O, S)."""
    table = flat_table(spec.axes)
    cells = volume(spec.size)
    refuse_if_large("the averaging matrix", table.shape[0], cells, 'rule="upsample"')
    member = np.zeros((table.shape[0], cells), np.bool_)
    o, k = np.nonzero(table != OUTSIDE)
    member[o, table[o, k]] = True
    return jnp.asarray(member, dtype)
