"""Max pooling over columns, GEMM 3.1; its gradient adds at the winners' positions, Wei (4.6), GEMM 3.2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import lowest, to_accumulator
from fnconv.base.geometry import OUTSIDE, AnyAxis, Axis, flat_table, taps, volume, windows
from fnconv.base.lowering import along, starts
from fnconv.base.pairs import im2col
from fnconv.base.spec import PoolSpec
from fnconv.textbook import first_maximum


def offset_dtype(axes: tuple[AnyAxis, ...]) -> jnp.dtype:
    """int8 while the window has fewer than 128 elements."""
    return jnp.dtype(jnp.int8 if (k := volume(windows(axes))) < 2**7 else jnp.int16 if k < 2**15 else jnp.int32)


def forward(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maximum of each column of im2col(x), the padding being -inf, Wei (4.2)."""
    order = np.array([offset for offset, _ in taps(spec.axes, spec.ties)])
    inside = (flat_table(spec.axes) != OUTSIDE)[:, order]
    cols = im2col(x, spec.axes, lowest(x.dtype))[:, :, order]
    first = first_maximum(cols, inside[None, :, :, None], axis=2)
    y = jnp.take_along_axis(cols, first[:, :, None], axis=2)[:, :, 0]
    offset = jnp.where(inside.any(axis=1)[None, :, None], jnp.asarray(order)[first], -1)
    shape = (x.shape[0], *spec.output, x.shape[-1])
    return y.reshape(shape), offset.astype(offset_dtype(spec.axes)).reshape(shape)


def input_vjp(spec: PoolSpec, offset: jax.Array, dy: jax.Array) -> jax.Array:
    """dx at a cell is the sum of dy over the windows that selected it, Wei (4.6), whose summand is dz/dx^{k+1}."""
    n, c = dy.shape[0], dy.shape[-1]
    cells = volume(spec.size)
    position = winners(spec, offset)
    segments = position * c + np.arange(c, dtype=np.int32)[None, None]

    def image(segments: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(dy.reshape(-1), segments.reshape(-1), num_segments=cells * c)

    dx = jax.vmap(image)(segments, to_accumulator(dy))
    return dx.reshape(n, *spec.size, c).astype(dy.dtype)


def select(spec: PoolSpec, offset: jax.Array, x: jax.Array) -> jax.Array:
    """x at the winners' positions, S vec(x), Wei (4.4)."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    y = jnp.take_along_axis(flat, winners(spec, offset), axis=1, mode="fill", fill_value=0)
    return y.reshape(offset.shape)


def winners(spec: PoolSpec, offset: jax.Array) -> jax.Array:
    """Flat input position of every window's winner, (N, O, C); one past the last cell where there is none."""
    position, rest = jnp.zeros_like(offset, jnp.int32), offset.astype(jnp.int32)
    elements, cells = 1, 1
    for i, a in reversed([*enumerate(spec.axes, start=1)]):  # the last axis runs fastest
        k = rest // elements % a.window
        cell = along(starts(a), i, offset.ndim) + k * (a.dilation if isinstance(a, Axis) else 1)
        position = position + cell * cells
        elements, cells = elements * a.window, cells * a.size
    flat = jnp.where(rest < 0, cells, position)
    return flat.reshape(offset.shape[0], -1, offset.shape[-1])
