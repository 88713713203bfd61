"""Neighbouring outputs as channels: t of them along the last axis make wide products out of narrow ones.

With few channels a matrix product has too little to contract.  Cut the last axis into blocks of t outputs, which read
blocks of t * stride inputs, and let each block's cells be channels: a reshape, since channels lie next to them.

    y[o, (u, d)] = sum over b, v, c of x[o + b, (v, c)] T[b, (v, c), (u, d)]
    T[b, (v, c), (u, d)] = w[k, c, d]  where  b t stride + v = u stride + k dilation,  else 0

T is the Toeplitz matrix of one block, and this is a convolution of stride 1 along the last axis with windows of B
blocks, t * stride * c input and t * d output channels.  More products, most of them by zero, all of them fast.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.dtypes import to_accumulator
from fnconv.base.geometry import OUTSIDE, Axis, Table, volume, windows
from fnconv.base.pairs import split_groups
from fnconv.base.spec import ConvSpec
from fnconv.rules.conv import columns, taps
from fnconv.rules.conv import lax as xla
from fnconv.rules.conv.rewrite import Map, Rewrite

BLOCK = {4: 4, 16: 2}  # {largest number of input channels of a group: outputs of a block}


def spreads(spec: ConvSpec, map_: str) -> bool:
    return True


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """The convolution of the blocks, Notes 1."""
    return rewrite(spec, _length(spec)).forward(xla.forward, x, w)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """One product for all blocks and shifted additions of what they give, Wei (2.29), (2.30)."""
    return rewrite(spec, _length(spec)).input_vjp(taps.input_vjp, dy, w)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """The columns of the blocks times the cotangents, Wei (2.21); dw collects its entries from T's."""
    return (
        rewrite(spec, _length(spec))
        .weight_vjp(columns.weight_vjp, to_accumulator(x), to_accumulator(dy))
        .astype(x.dtype)
    )


def _length(spec: ConvSpec) -> int:
    """Outputs of a block: more where there are few channels to contract, though more zeros are then multiplied."""
    c = spec.in_channels // spec.groups
    wanted = next((t for channels, t in BLOCK.items() if c <= channels), 1)
    return max(1, min(wanted, spec.axes[-1].output))


def rewrite(spec: ConvSpec, t: int) -> Rewrite:
    """The changes of variables for blocks of t outputs."""
    a, g = spec.axes[-1], spec.groups
    step = t * a.stride
    length = -(-((t - 1) * a.stride + a.span) // step)  # B
    blocks = -(-a.output // t)
    cells = (blocks - 1 + length) * step
    inner = replace(
        spec,
        axes=(*spec.axes[:-1], Axis(blocks - 1 + length, length)),
        in_channels=spec.in_channels * step,
        out_channels=spec.out_channels * t,
    )
    x_widths, y_widths = (a.low, cells - a.low - a.size), (0, blocks * t - a.output)
    x_maps = _blocks(x_widths, step, g), _joined(x_widths, step, g)
    y_maps = _joined(y_widths, t, g), _blocks(y_widths, t, g)
    return Rewrite(inner, x=x_maps, w=_toeplitz(spec, inner, t), y=y_maps)


def _blocks(widths: tuple[int, int], t: int, groups: int) -> Map:
    """(N, .., W, g c) -> (N, .., W' / t, g t c), padded."""

    def blocks(x: jax.Array) -> jax.Array:
        x = _padded(x, widths)
        x = split_groups(x.reshape(*x.shape[:-2], -1, t, x.shape[-1]), groups)
        return jnp.moveaxis(x, -2, -3).reshape(*x.shape[:-3], -1)

    return blocks


def _joined(widths: tuple[int, int], t: int, groups: int) -> Map:
    """The adjoint and, but for the padding, the inverse of `_blocks`."""

    def joined(y: jax.Array) -> jax.Array:
        *rest, blocks, channels = y.shape
        y = y.reshape(*rest, blocks, groups, t, channels // (groups * t))
        y = jnp.moveaxis(y, -2, -3).reshape(*rest, blocks * t, channels // t)
        return _padded(y, (-widths[0], -widths[1]))

    return joined


def _padded(x: jax.Array, widths: tuple[int, int]) -> jax.Array:
    return lax.pad(x, jnp.zeros((), x.dtype), [*((0, 0, 0),) * (x.ndim - 2), (*widths, 0), (0, 0, 0)])


def _toeplitz(spec: ConvSpec, inner: ConvSpec, t: int) -> tuple[Map, Map]:
    """w (*K, c, g d) -> T (*K', B, t stride c, g t d), and the sum of T's entries at each element of w."""
    a, g = spec.axes[-1], spec.groups
    table = _elements(a, t, inner.axes[-1].window)  # (B t stride, t)
    one_hot = (table[..., None] == np.arange(a.window)).astype(np.float32)  # (B t stride, t, k)
    *_, c, out = spec.w_shape
    rows = volume(windows(spec.axes[:-1]))

    def spread(w: jax.Array) -> jax.Array:
        w = w.reshape(rows, a.window, c, g, out // g)
        padded = jnp.concatenate([w, jnp.zeros_like(w[:, :1])], axis=1)
        each = padded[:, np.where(table == OUTSIDE, a.window, table)]  # (rows, B t stride, t, c, g, d)
        return each.transpose(0, 1, 3, 4, 2, 5).reshape(inner.w_shape)

    def collected(dt: jax.Array) -> jax.Array:
        each = dt.reshape(rows, len(table), c, g, t, out // g)
        # (rows, p, c, g, t, d) . (p, t, k) -> (rows, c, g, d, k)
        dw = lax.dot_general(each, jnp.asarray(one_hot, dt.dtype), (((1, 4), (0, 1)), ((), ())), precision="highest")
        return jnp.moveaxis(dw, -1, 1).reshape(spec.w_shape)

    return spread, collected


def _elements(a: Axis, t: int, length: int) -> Table:
    """Which element of the window output u of a block meets at place p of its inputs, (B t stride, t)."""
    distance = np.arange(length * t * a.stride)[:, None] - np.arange(t)[None, :] * a.stride
    k = distance // a.dilation
    return np.where((distance >= 0) & (distance % a.dilation == 0) & (k < a.window), k, OUTSIDE).astype(np.int32)
