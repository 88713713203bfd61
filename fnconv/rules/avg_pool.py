"""Formulations of average pooling: forward(spec, x) -> y and input_vjp(spec, dy) -> dx.

y = (sum over the window) / size and dx = the windows' adjoint of (dy / size): the two are each other's adjoint and so
closed under differentiation.  `size` is constant; a window wholly in uncounted padding has value and gradient 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.dtypes import accumulator, to_accumulator
from fnconv.base.geometry import OUTSIDE, flat_table, volume, window_counts
from fnconv.base.pairs import col2im, im2col
from fnconv.base.spec import PoolSpec
from fnconv.base.window_sums import window_sum, window_sum_adjoint
from fnconv.textbook import refuse_if_large


def matrix_forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """vec(y) = diag(1 / size) B vec(x), B having a 1 for every cell of a window."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1]).astype(accumulator(x.dtype))
    y = jnp.einsum("os,nsc->noc", _membership(spec, flat.dtype), flat, precision=lax.Precision.HIGHEST)
    return _divide(spec, y.reshape(x.shape[0], *spec.output, -1)).astype(x.dtype)


def matrix_input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """dz/dvec(x) = B^T diag(1 / size) dz/dvec(y)."""
    wide = _divide(spec, to_accumulator(dy)).reshape(dy.shape[0], -1, dy.shape[-1])
    dx = jnp.einsum("os,noc->nsc", _membership(spec, wide.dtype), wide, precision=lax.Precision.HIGHEST)
    return dx.reshape(dy.shape[0], *spec.size, -1).astype(dy.dtype)


def segment_sum_forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The mean of each column of im2col(x)."""
    y = im2col(to_accumulator(x), spec.axes).sum(axis=2)
    return _divide(spec, y.reshape(x.shape[0], *spec.output, -1)).astype(x.dtype)


def segment_sum_input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """Every element of a window receives dy / size; equal cells are added."""
    wide = _divide(spec, to_accumulator(dy))
    shares = wide.reshape(dy.shape[0], volume(spec.output), 1, dy.shape[-1])
    elements = flat_table(spec.axes).shape[1]
    shares = jnp.broadcast_to(shares, (*shares.shape[:2], elements, shares.shape[-1]))
    return col2im(shares, spec.axes).astype(dy.dtype)


def upsample_forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The mean of each window, summed along one axis after another."""
    return _divide(spec, window_sum(to_accumulator(x), spec.axes)).astype(x.dtype)


def upsample_input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    """upsample(delta) * 1 / size, Notes 2.2; where windows overlap the shares are added."""
    wide = _divide(spec, to_accumulator(dy))
    return window_sum_adjoint(wide, spec.axes).astype(dy.dtype)


RULES: dict[str, dict[str, Callable[..., Any]]] = {
    "forward": {"matrix": matrix_forward, "segment_sum": segment_sum_forward, "upsample": upsample_forward},
    "input_vjp": {"matrix": matrix_input_vjp, "segment_sum": segment_sum_input_vjp, "upsample": upsample_input_vjp},
}


def _divide(spec: PoolSpec, y: jax.Array) -> jax.Array:
    """y / size, (N, *O, C); 0 where size is 0, as nothing was summed there."""
    counts = np.maximum(window_counts(spec.axes, spec.include_pad), 1)
    return y / jnp.asarray(counts, y.dtype)[..., None]


def _membership(spec: PoolSpec, dtype: jnp.dtype) -> jax.Array:
    """B: 1 where cell s lies in window o, (O, S)."""
    table = flat_table(spec.axes)
    cells = volume(spec.size)
    refuse_if_large("the averaging matrix", table.shape[0], cells, 'rule="upsample"')
    member = np.zeros((table.shape[0], cells), np.bool_)
    o, k = np.nonzero(table != OUTSIDE)
    member[o, table[o, k]] = True
    return jnp.asarray(member, dtype)
