"""Max pooling along one axis after another: as many comparisons as the window's sides are long, and no table.

Along the last axis first, or the first for column-major ties, so that of equal maxima the first in tie order stays.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.dtypes import lowest
from fnconv.base.geometry import AnyAxis, Axis, volume, windows
from fnconv.base.lowering import UNROLL, along, computed_once, starts
from fnconv.base.spec import PoolSpec
from fnconv.rules.max_pool.segment_sum import input_vjp, offset_dtype, select

__all__ = ["forward", "input_vjp", "select"]


def forward(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """max over k1 of max over k2 .. of x, Wei (4.2), with the offset of the winner so far beside each maximum."""
    best, offset = x, jnp.zeros(x.shape, offset_dtype(spec.axes))
    window, order = windows(spec.axes), range(len(spec.axes))
    for i in order if spec.ties == "column_major" else reversed(order):
        best, offset = computed_once(_along_axis(best, offset, spec.axes[i], i + 1, volume(window[i + 1 :])))
    return best, offset


def _along_axis(x: jax.Array, offset: jax.Array, a: AnyAxis, i: int, step: int) -> tuple[jax.Array, jax.Array]:
    """The maximum along axis i and the offset of its winner; one element further is `step` further in the window."""

    def meet(back: int | jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        best, winner = found
        k = a.window - 1 - back  # the first of equal maxima is the last to win
        cells, inside = _cells(a, k)
        value, at = (jnp.take(t, cells, axis=i, mode="clip") for t in (x, offset))
        wins = along(inside, i, x.ndim) & (at >= 0) & ((value >= best) | (value != value))
        return jnp.where(wins, value, best), jnp.where(wins, at + jnp.asarray(k * step, at.dtype), winner)

    shape = (*x.shape[:i], a.output, *x.shape[i + 1 :])
    found = jnp.full(shape, lowest(x.dtype), x.dtype), jnp.full(shape, -1, offset.dtype)
    if a.window > UNROLL:
        return lax.fori_loop(np.int32(0), np.int32(a.window), meet, found)
    for back in range(a.window):
        found = meet(back, found)
    return found


def _cells(a: AnyAxis, k: int | jax.Array) -> tuple[jax.Array, jax.Array]:
    """The cell that element k of each window meets, and whether there is one."""
    if not isinstance(a, Axis):
        return starts(a) + k, k < jnp.asarray(a.counts(include_pad=True))
    cells = starts(a) + k * a.dilation
    return cells, (cells >= 0) & (cells < a.size)
