"""Reshape and transposition as one linear map, whose adjoint puts every entry back; pixel shuffle is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fnconv.base.attach import LinearMap
from fnconv.base.errors import invalid
from fnconv.base.geometry import volume
from fnconv.base.layout import check_layout, join_shape, split_shape
from fnconv.base.spec import as_array, spatial_shape
from fnconv.base.typing import CHANNEL_ORDERS, ArrayLike, ChannelOrder, IntOrTuple, Layout


class Rearrangement(NamedTuple):
    """x.reshape(unfolded).transpose(axes).reshape(target) for an x of shape source."""

    source: tuple[int, ...]
    unfolded: tuple[int, ...]
    axes: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def inverse(self) -> Rearrangement:
        return Rearrangement(
            self.target,
            tuple(self.unfolded[a] for a in self.axes),
            tuple(int(i) for i in np.argsort(self.axes)),
            self.source,
        )


def rearrange(x: jax.Array, unfolded: Sequence[int], axes: Sequence[int], target: Sequence[int]) -> jax.Array:
    """x read as `unfolded`, its axes in the order `axes`, read as `target`; sharded as x along the first axis."""
    return rearrangement.attached(Rearrangement(x.shape, tuple(unfolded), tuple(axes), tuple(target)), x)


def fold(x: jax.Array, kept: int) -> jax.Array:
    """All axes after the first `kept` as one."""
    shape = (*x.shape[:kept], math.prod(x.shape[kept:]))
    return rearrange(x, x.shape, range(x.ndim), shape)


def _evaluate(spec: Rearrangement, x: jax.Array) -> jax.Array:
    return x.reshape(spec.unfolded).transpose(spec.axes).reshape(spec.target)


rearrangement = LinearMap("rearrange", _evaluate, ((0, 0), None))
rearrangement.adjoints = (lambda spec, dy, x: rearrangement(spec.inverse, dy),)


# ---- channels to space ----------------------------------------------------------------------------------------------


def pixel_shuffle(
    x: ArrayLike, factor: IntOrTuple, *, mode: ChannelOrder = "CRD", layout: Layout = "channels_last"
) -> jax.Array:
    """Groups of prod(factor) channels become blocks of pixels (Shi et al., 2016): depth to space.

    y[s * factor + i, c] = x[s, (c, i)], i a position in the block; a permutation, so dx is `pixel_unshuffle` of dy.

    Args:
      x: (*batch, *spatial, C) or (*batch, C, *spatial).
      factor: one entry per spatial axis, or an int as the window of `max_pool`.
      mode: how the channels of x count: "CRD", blocks first within each channel of y, as Torch; "DCR",
        channels first within each position of the block, as TensorFlow.  The names are ONNX's.

    Returns:
      (*batch, *(spatial * factor), C / prod(factor)), or with channels first.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(8.).reshape(1, 1, 8)
    >>> pixel_shuffle(x, (2, 2))[..., 0].tolist(), pixel_shuffle(x, (2, 2), mode="DCR")[..., 0].tolist()
    ([[0.0, 1.0], [2.0, 3.0]], [[0.0, 2.0], [4.0, 6.0]])
    """
    return _shuffled("pixel_shuffle", x, factor, mode, layout)


def pixel_unshuffle(
    x: ArrayLike, factor: IntOrTuple, *, mode: ChannelOrder = "CRD", layout: Layout = "channels_last"
) -> jax.Array:
    """The inverse of `pixel_shuffle`, and its adjoint: space to depth.  Arguments and errors are the same.

    >>> import jax.numpy as jnp
    >>> pixel_unshuffle(jnp.arange(4.).reshape(2, 2, 1), (2, 2)).tolist()
    [[[0.0, 1.0, 2.0, 3.0]]]
    """
    return _shuffled("pixel_unshuffle", x, factor, mode, layout)


def _shuffled(name: str, x: ArrayLike, factor: IntOrTuple, mode: ChannelOrder, layout: Layout) -> jax.Array:
    x = as_array(name, "x", x)
    check_layout(name, layout)
    if mode not in CHANNEL_ORDERS:
        raise invalid(name, "mode", f"must be one of {', '.join(CHANNEL_ORDERS)}", repr(mode))
    f = spatial_shape(name, "factor", factor, x.shape, minimum=1)
    (batch, size, channels), n, blocks = split_shape(x.shape, len(f), layout), len(f), volume(f)
    forward, last = name == "pixel_shuffle", layout == "channels_last"
    if forward and channels % blocks:
        raise invalid(name, "factor", f"must have a product that divides the {channels} channels", f, x.shape)
    if not forward and any(s % k for s, k in zip(size, f, strict=True)):
        raise invalid(name, "factor", "must divide the size of every spatial axis", f, x.shape)
    small = size if forward else tuple(s // k for s, k in zip(size, f, strict=True))
    large = tuple(s * k for s, k in zip(small, f, strict=True))
    narrow, wide = (channels // blocks, channels) if forward else (channels, channels * blocks)
    # (*batch, *small, *depth) or (*batch, *depth, *small): where the axes of space, blocks and channels lie
    depth = (narrow, *f) if mode == "CRD" else (*f, narrow)
    b = len(batch)
    space, at = (range(b, b + n), b + n) if last else (range(b + n + 1, b + 2 * n + 1), b)
    block, channel = (range(at + 1, at + n + 1), at) if mode == "CRD" else (range(at, at + n), at + n)
    woven = [a for pair in zip(space, block, strict=True) for a in pair]
    shuffle = Rearrangement(
        join_shape(batch, small, wide, layout),
        (*batch, *small, *depth) if last else (*batch, *depth, *small),
        (*range(b), *woven, channel) if last else (*range(b), channel, *woven),
        join_shape(batch, large, narrow, layout),
    )
    return rearrangement.attached(shuffle if forward else shuffle.inverse, x)
