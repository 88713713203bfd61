"""Max pooling one window element at a time: nothing is gathered, scattered or unfolded.

The forward pass runs through the window in reverse tie order.  An element at least as large as the largest so far
becomes the winner, so the first of equal maxima is the last to become it.  No element is compared with the maximum
afterwards: a compiler may compute x twice and round it differently, and then nothing would be equal.  In a window whose
cells all have the value of the padding, the winner is the first cell that is not padding.  The backward pass gives
each window element the cotangents whose offset names it, shifted back to where it came from: Wei (4.6) with the sum
taken over window elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.dtypes import accumulator, lowest, to_accumulator
from fnconv.base.geometry import AnyAxis, Axis, is_symbolic, outputs, sliding, taps, volume, windows
from fnconv.base.lowering import along, by_runs, computed_once, pad_once, polyphase, starts
from fnconv.base.pairs import pad, tap
from fnconv.base.spec import PoolSpec
from fnconv.rules.max_pool.segment_sum import offset_dtype

FEW_PHASES = 4  # up to this many phases, interleaving them is as fast as one comparison that spreads cotangents


def forward(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first maximum of each window in tie order, Wei (4.2); the first NaN, where there is one."""
    axes, winners = sliding(spec.axes), partial(_forward, spec.ties)
    strided = any(a.stride > 1 for a in axes)  # at stride 1 the two results are as large as x: joining runs costs more
    best, winner = by_runs(winners, (x,), axes) if strided else winners((x,), axes)
    return best, winner


def _forward(ties: str, arrays: Sequence[jax.Array], axes: Sequence[Axis]) -> tuple[jax.Array, jax.Array]:
    (x,) = arrays
    dtype, lowest_ = offset_dtype(tuple(axes)), lowest(x.dtype)
    xp = pad_once(x, axes, lowest_)
    shape = (x.shape[0], *outputs(axes), x.shape[-1])
    best, winner = jnp.full(shape, lowest_, x.dtype), jnp.full(shape, -1, dtype)
    for offset, k in reversed([*taps(axes, ties)]):
        values = tap(xp, axes, k)
        winner = jnp.where((values >= best) | (values != values), np.asarray(offset, dtype), winner)
        best = lax.max(best, values)
    inside = jnp.broadcast_to(_first_inside(axes).astype(dtype)[..., None], best.shape)
    winner = jnp.where(best == jnp.asarray(lowest_, x.dtype), inside, winner)
    return computed_once(best), computed_once(winner)  # apart: without a gradient nobody asks for the winner


def input_vjp(spec: PoolSpec, offset: jax.Array, dy: jax.Array) -> jax.Array:
    """S^T dy: each window element passes the cotangents it won back to its cells."""
    axes = sliding(spec.axes)
    if tile(axes) and volume(windows(axes)) > FEW_PHASES:
        return computed_once(_disjoint(axes, offset, dy))
    wide, zero = to_accumulator(dy), jnp.zeros((), accumulator(dy.dtype))
    number = {k: np.asarray(q, offset.dtype) for q, k in taps(axes)}
    dx = polyphase((offset, wide), (-1, 0), axes, lambda k, won, dy: jnp.where(won == number[k], dy, zero))
    return computed_once(dx.astype(dy.dtype))


def tile(axes: Sequence[AnyAxis]) -> bool:
    """Whether windows lie side by side; then `input_vjp` is one comparison for windows of any size."""
    return all(isinstance(a, Axis) and a.stride == a.span == a.window for a in axes)


def select(spec: PoolSpec, offset: jax.Array, x: jax.Array) -> jax.Array:
    """S x: each window takes the cell that won."""
    axes = sliding(spec.axes)
    xp = pad(x, axes)
    y = jnp.zeros(offset.shape, x.dtype)
    for q, k in taps(axes):
        y = jnp.where(offset == np.asarray(q, offset.dtype), tap(xp, axes, k), y)
    return y


def _disjoint(axes: tuple[Axis, ...], offset: jax.Array, dy: jax.Array) -> jax.Array:
    """Windows that tile the input: one comparison spreads dy, no sum is needed (Wei after (4.5))."""
    n, c = dy.shape[0], dy.shape[-1]
    window = tuple(a.window for a in axes)
    # offset (N, O1, 1, .., On, 1, C) against element numbers (1, 1, K1, .., 1, Kn, 1)
    elements = np.arange(np.prod(window)).reshape([1, *(size for k in window for size in (1, k)), 1])
    between = tuple(range(2, 2 * len(axes) + 1, 2))
    hit = jnp.expand_dims(offset, between) == elements.astype(offset.dtype)
    spread = jnp.where(hit, jnp.expand_dims(dy, between), jnp.zeros((), dy.dtype))
    spread = spread.reshape(n, *(a.output * a.window for a in axes), c)
    widths = [(-a.low, a.size + a.low - a.output * a.window, 0) for a in axes]
    return lax.pad(spread, jnp.zeros((), dy.dtype), [(0, 0, 0), *widths, (0, 0, 0)])


def _first_inside(axes: Sequence[Axis]) -> jax.Array:
    """Offset of the first element of each window that is not padding; -1 where all is padding.

    In either tie order it is the first along every axis.  The result broadcasts to (*O): an axis along which every
    window starts inside the input has size 1.
    """
    offset, inside = jnp.zeros((1,) * len(axes), jnp.int32), jnp.ones((1,) * len(axes), bool)
    for i, a in enumerate(axes):
        start = starts(a) if is_symbolic(a.size) else np.arange(a.output, dtype=np.int32) * a.stride - a.low
        k = (-(start // a.dilation)).clip(0)
        within = (k < a.window) & (start + k * a.dilation < a.size)
        if not is_symbolic(a.size) and within.all() and not k.any():
            k, within = k[:1], within[:1]
        offset = offset * a.window + along(k, i, len(axes))
        inside = inside & along(within, i, len(axes))
    return jnp.where(inside, offset, -1)
