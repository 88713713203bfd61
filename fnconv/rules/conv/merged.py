"""Grouped convolution as a few dense ones: small groups side by side in a block-diagonal kernel.

Groups of a few channels are too small for matrix products.  b neighbouring groups become one of b times the channels
whose kernel is block diagonal: more multiplications, most of them by zero, all of them fast.  The weight gradient
keeps the diagonal blocks.  The blocks then are dense convolutions of slices of the channels.  In y and dx a NaN or an
infinity reaches the other groups of its block, 0 * inf being NaN; not where b = 1, and not in dw.

G groups of c input and d output channels become S = G / b blocks.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from fnconv.base.spec import ConvSpec
from fnconv.rules.conv import lax
from fnconv.rules.conv.rewrite import Formulation, Rewrite, identity

# The fewest channels of a block.  With fewer, products are too narrow; with more, too many zeros are multiplied.
WIDTHS = {"forward": 16, "input_vjp": 16, "weight_vjp": 32}


def spreads(spec: ConvSpec, map_: str) -> bool:
    """Into the other groups of a block; of dw only the diagonal is read."""
    return map_ != "weight_vjp" and _merge(spec, map_).spec.groups < spec.groups


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array, dense: Formulation = lax.forward) -> jax.Array:
    """conv(x, blocks on the diagonal)."""
    return _merge(spec, "forward").forward(_each_block(dense, -1), x, w)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array, dense: Formulation = lax.input_vjp) -> jax.Array:
    """The input gradient of the block-diagonal kernel."""
    return _merge(spec, "input_vjp").input_vjp(_each_block(dense, -1), dy, w)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array, dense: Formulation = lax.weight_vjp) -> jax.Array:
    """The diagonal blocks of the dense weight gradient."""
    return _merge(spec, "weight_vjp").weight_vjp(_each_block(dense, -1), x, dy)


def block(spec: ConvSpec, map_: str) -> ConvSpec:
    """The dense convolution that every block is in a map."""
    return _block(_merge(spec, map_).spec)


def _block(spec: ConvSpec) -> ConvSpec:
    n = spec.groups
    return replace(spec, in_channels=spec.in_channels // n, out_channels=spec.out_channels // n, groups=1)


def _merge(spec: ConvSpec, map_: str) -> Rewrite:
    *window, c, out = spec.w_shape
    g, d = spec.groups, out // spec.groups
    blocks = max(s for s in range(1, g + 1) if g % s == 0 and (spec.in_channels // s >= WIDTHS[map_] or s == 1))
    b = g // blocks
    eye = jnp.eye(b, dtype=bool)

    def on_diagonal(w: jax.Array) -> jax.Array:
        # (*K, c, S b d) -> (*K, b c, S b d): block i of c rows is w where i is the column's group, else 0
        w = w.reshape(*window, 1, c, blocks, b, d)
        return jnp.where(eye[:, None, None, :, None], w, jnp.zeros((), w.dtype)).reshape(*window, b * c, out)

    def diagonal(w: jax.Array) -> jax.Array:
        w = w.reshape(*window, b, c, blocks, b, d)
        blocks_alone = jnp.where(eye[:, None, None, :, None], w, jnp.zeros((), w.dtype))
        return blocks_alone.sum(axis=-5, dtype=w.dtype).reshape(spec.w_shape)

    return Rewrite(
        replace(spec, groups=blocks), x=(identity, identity), w=(on_diagonal, diagonal), y=(identity, identity)
    )


def _each_block(dense: Formulation, axis: int) -> Formulation:
    """A dense formulation on every block's channels, results side by side."""

    def each(spec: ConvSpec, a: jax.Array, b: jax.Array) -> jax.Array:
        n, one = spec.groups, _block(spec)
        parts = zip(jnp.split(a, n, axis=-1), jnp.split(b, n, axis=-1), strict=True)
        return jnp.concatenate([dense(one, p, q) for p, q in parts], axis=axis)

    return each
