"""XLA's own maximum over windows and its own scatter to the winners, which TPUs have kernels for.

The scatter finds the winners in x again, so it is no formulation of the table: those are given offsets.  "auto" runs
it on the platforms where it is best, for the windows that XLA knows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from fnconv.base import chunks
from fnconv.base.dtypes import accumulator, lowest
from fnconv.base.geometry import Axis, may_be_empty, sliding
from fnconv.base.pairs import pad
from fnconv.base.spec import PoolSpec
from fnconv.rules.max_pool.segment_sum import offset_dtype


def maximum(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The maximum of each window, NaN where it holds one; by a primitive that JAX has no derivative of."""
    axes, bottom = sliding(spec.axes), np.asarray(lowest(x.dtype), x.dtype)
    window, strides, dilation = (
        (1, *v, 1) for v in zip(*((a.window, a.stride, a.dilation) for a in axes), strict=True)
    )
    xp = pad(x, axes, lowest(x.dtype))
    larger = lambda a, b: lax.max(a, b)  # noqa: E731
    return lax.reduce_window(xp, bottom, larger, window, strides, "VALID", window_dilation=dilation)


def scatters(spec: PoolSpec) -> bool:
    """Whether `input_vjp` knows these windows: not dilated, ties row-major, none that lies wholly in the padding."""
    long = [a for a in spec.axes if a.window > 1]
    plain = (isinstance(a, Axis) and a.dilation == 1 and min(a.low, a.high) >= 0 for a in spec.axes)
    return (spec.ties == "row_major" or len(long) < 2) and not may_be_empty(spec.axes) and all(plain)


def is_reduction(spec: PoolSpec) -> bool:
    """Whether `winner` knows these windows: one, of all that there is, ties row-major."""
    whole = (isinstance(a, Axis) and a.window == a.size == a.padded and a.dilation == 1 for a in spec.axes)
    return spec.ties == "row_major" and all(whole)


def winner(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(y, offset) of the only window: one reduction of pairs, which reads x once."""
    offset = jnp.zeros(x.shape, jnp.int32)
    for i, a in enumerate(spec.axes, start=1):
        offset = offset * a.window + lax.broadcasted_iota(jnp.int32, x.shape, i)

    def better(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x, k), (y, m) = one, other
        wins = jnp.where(x != x, (y == y) | (k < m), (x > y) | ((x == y) & (k < m)))
        return jnp.where(wins, x, y), jnp.where(wins, k, m)

    nothing = np.asarray(lowest(x.dtype), x.dtype), np.int32(np.iinfo(np.int32).max)
    along = tuple(range(1, x.ndim - 1))
    y, k = (jnp.expand_dims(v, along) for v in lax.reduce((x, offset), nothing, better, along))
    return y, k.astype(offset_dtype(spec.axes))


def input_vjp(spec: PoolSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """S^T dy, S found in x: the first maximum of each window, row-major, or its first NaN."""
    axes = sliding(spec.axes)
    window, strides = ((1, *v, 1) for v in zip(*((a.window, a.stride) for a in axes), strict=True))
    padding = ((0, 0), *((a.low, a.high + a.overshoot) for a in axes), (0, 0))
    disjoint = all(a.stride >= a.window for a in axes)  # nothing is added
    wide = dy.dtype if disjoint else accumulator(dy.dtype)
    scalar = jnp.zeros((), wide)
    alone = chunks.for_one_device()
    keep, add = (jax.make_jaxpr(f)(scalar, scalar) for f in (_stays if alone else lax.ge, lax.add))

    @custom_vmap
    def scatter(x: jax.Array, dy: jax.Array) -> jax.Array:
        zero = jnp.sum(lax.slice_in_dim(dy, 0, 0))  # varies over the axes of `shard_map` that dy varies over
        dx: jax.Array = lax.select_and_scatter_p.bind(
            x,
            dy,
            zero,
            select_jaxpr=keep.jaxpr,
            select_consts=(),
            scatter_jaxpr=add.jaxpr,
            scatter_consts=(),
            window_dimensions=window,
            window_strides=strides,
            padding=padding,
        )
        return dx

    @scatter.def_vmap
    def batched(size: int, batched: list[bool], *operands: jax.Array) -> tuple[jax.Array, bool]:
        """The new axis beside that of the images."""
        full = [o if b else jnp.broadcast_to(o, (size, *o.shape)) for o, b in zip(operands, batched, strict=True)]
        dx = scatter(*(o.reshape(-1, *o.shape[2:]) for o in full))
        return dx.reshape(full[0].shape), True

    compared = x.astype(wide)
    return scatter(compared if alone else _below_nan(compared), dy.astype(wide)).astype(dy.dtype)


def _stays(winner: jax.Array, other: jax.Array) -> jax.Array:
    """Whether a winner stays one beside an element that comes after it."""
    return (winner >= other) | (winner != winner)


def _below_nan(x: jax.Array) -> jax.Array:
    """x in the same order with infinity for NaN: every positive number as the next smaller one, the least as 0.

    So `>=` alone decides as `_stays` does.  XLA's partitioner knows no other comparison here: it would gather the
    batch.  The least positive number, subnormal or not as the device has them, ties with 0; nothing else is moved.
    """
    bits = lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}")
    smaller = lax.bitcast_convert_type(bits - 1, x.dtype)
    return jnp.where(x != x, jnp.asarray(jnp.inf, x.dtype), jnp.where(x > 0, smaller, x))
