"""Linear maps on canonical arrays, each beside its adjoint: <u, A v> = <A* u, v>."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.geometry import OUTSIDE, AnyAxis, Axis, flat_table, sizes, volume

# ---- zero insertion and padding / subsampling and cropping ----------------------------------------------------------


def pad(x: jax.Array, axes: Sequence[Axis], fill: float = 0) -> jax.Array:
    """Pad (crop, where negative) the spatial axes of x (N, *S, C)."""
    widths = [(0, 0, 0), *((a.low, a.high + a.overshoot, 0) for a in axes), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(fill, x.dtype), widths) if any(w != (0, 0, 0) for w in widths) else x


def unpad(y: jax.Array, axes: Sequence[Axis]) -> jax.Array:
    """The adjoint of `pad` with zeros: cropping where it padded, zeros where it cropped."""
    widths = [(0, 0, 0), *((-a.low, -a.high - a.overshoot, 0) for a in axes), (0, 0, 0)]
    return lax.pad(y, jnp.zeros((), y.dtype), widths) if any(w != (0, 0, 0) for w in widths) else y


def zero_insert(y: jax.Array, strides: Sequence[int]) -> jax.Array:
    """stride - 1 zeros between neighbours along each spatial axis (Notes, step 1)."""
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)])


def subsample(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """The adjoint of `zero_insert`: every stride-th entry."""
    return x[(slice(None), *(slice(None, None, s) for s in strides))]


# ---- one window element at a time -----------------------------------------------------------------------------------


def tap(xp: jax.Array, axes: Sequence[Axis], k: Sequence[int]) -> jax.Array:
    """The cells of the padded xp (N, *P, C) that window element k meets: (N, *O, C).

    A single cell has the stride 1: XLA takes another one, or fails, where it is strided and the axis is sharded.
    """
    start = [i * a.dilation for a, i in zip(axes, k, strict=True)]
    stop = [b + (a.output - 1) * a.stride + 1 for a, b in zip(axes, start, strict=True)]
    n, c = xp.shape[0], xp.shape[-1]
    strides = (1, *(1 if a.output == 1 else a.stride for a in axes), 1)
    return lax.slice(xp, (0, *start, 0), (n, *stop, c), strides)


def tap_adjoint(y: jax.Array, axes: Sequence[Axis], k: Sequence[int]) -> jax.Array:
    """Put y (N, *O, C) back where window element k took it from, zeros elsewhere: (N, *S, C), padding cropped."""
    widths = [(0, 0, 0)]
    for a, i in zip(axes, k, strict=True):
        low = i * a.dilation - a.low
        widths.append((low, a.size - low - (a.output - 1) * a.stride - 1, a.stride - 1))
    return lax.pad(y, jnp.zeros((), y.dtype), [*widths, (0, 0, 0)])


# ---- im2col / col2im ------------------------------------------------------------------------------------------------


def im2col(x: jax.Array, axes: Sequence[AnyAxis], fill: float = 0) -> jax.Array:
    """Gather by the index map m, Wei (2.24) without the matrix: (N, *S, C) -> (N, O, K, C), `fill` in the padding."""
    n, c = x.shape[0], x.shape[-1]
    table = flat_table(axes)
    source = np.where(table == OUTSIDE, volume(sizes(axes)), table)
    return x.reshape(n, -1, c).at[:, source].get(mode="fill", fill_value=fill)


def col2im(cols: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """Add every column entry at the cell it came from, Wei (2.30), GEMM 1.2: (N, O, K, C) -> (N, *S, C).

    The segments are the spatial cells; the batch axis stays a batch axis.
    """
    n, c = cols.shape[0], cols.shape[-1]
    cells = volume(sizes(axes))
    table = flat_table(axes).reshape(-1)
    segments = jnp.asarray(np.where(table == OUTSIDE, cells, table))  # past the last segment: dropped

    def scatter_one(entries: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(entries, segments, num_segments=cells)

    return jax.vmap(scatter_one)(cols.reshape(n, -1, c)).reshape(n, *sizes(axes), c)


# ---- kernels --------------------------------------------------------------------------------------------------------


def rot180(w: jax.Array) -> jax.Array:
    """Reverse every window axis of w (*K, in, out); its own adjoint and inverse."""
    return jnp.flip(w, tuple(range(w.ndim - 2)))


def swap_channels(w: jax.Array, groups: int) -> jax.Array:
    """Exchange in and out within each group: (*K, in/g, out) -> (*K, out/g, in); its own adjoint and inverse."""
    *window, c, out = w.shape
    grouped = w.reshape(*window, c, groups, out // groups)
    return jnp.moveaxis(grouped, (-1, -3), (-3, -1)).reshape(*window, out // groups, groups * c)


def split_groups(a: jax.Array, groups: int) -> jax.Array:
    """(..., C) -> (..., g, C/g)."""
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
