"""Local response normalisation: every number divided by a power of the squares of its neighbours among the channels.

With W the sum over a window of channels, and a = alpha / size,

    s = k + a W x^2        y = x s^-beta

(Krizhevsky et al., 2012).  ds = 2 a W (x dx) and W* the adjoint of W give

    dx = t - 2 a beta x W* (x t / s)        t = dy s^-beta

x is kept, s computed again.  Sums and powers are in float32 for half precisions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnconv.base.attach import attach
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.geometry import Axis
from fnconv.base.layout import check_layout
from fnconv.base.spec import PoolSpec, as_array, number, per_axis
from fnconv.base.typing import ArrayLike, Layout
from fnconv.ops.lp_pool import spread, total


class _Spec(NamedTuple):
    """window: of channels, as the middle axis of (N, C, rest)."""

    window: PoolSpec
    a: float
    beta: float
    k: float


def local_response_norm(
    x: ArrayLike,
    size: int,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    layout: Layout = "channels_last",
) -> jax.Array:
    """x / (k + alpha / size * sum of squares)^beta, over the `size` channels around each; for dx see the top.

    Torch's.  The window of channel c runs from c - size // 2 to c + (size - 1) // 2, zeros outside; ONNX's of even size
    lies one channel further up.  TensorFlow's `depth_radius` r, which does not divide by the size, is
    size=2 * r + 1, alpha=(2 * r + 1) * alpha, k=bias.

    Args:
      x: (N, *spatial, C) or (N, C, *spatial); floating.
      size: an integer of at least 1.
      alpha, beta, k: finite numbers known at trace time, alpha at least 0 and k more: nothing is divided by 0.

    Returns:
      y as x.

    Raises:
      ValueError, TypeError: at trace time.

    >>> local_response_norm(jnp.array([[3., 4.]]), 3, alpha=3., beta=0.5, k=11.).tolist()
    [[0.5, 0.6666666865348816]]
    """
    name = "local_response_norm"
    x = as_array(name, "x", x, integers=False)
    check_layout(name, layout)
    if x.ndim < 2:
        raise invalid(name, "x", "must have a batch axis and a channel axis", x.shape)
    (size,) = per_axis(name, "size", size, 1, x.shape, minimum=1)
    alpha, beta, k = number(name, "alpha", alpha), number(name, "beta", beta), number(name, "k", k)
    if not (all(map(math.isfinite, (alpha, beta, k))) and alpha >= 0 and k > 0):
        raise invalid(name, "alpha, beta, k", "must be finite, alpha at least 0, k more than 0", (alpha, beta, k))
    channels = x.shape[-1] if layout == "channels_last" else x.shape[1]
    before, after = (x.shape[:-1], ()) if layout == "channels_last" else (x.shape[:1], x.shape[2:])
    rows = (math.prod(before), channels, math.prod(after))
    window = Axis(channels, size, low=size // 2, high=(size - 1) // 2)
    y: jax.Array = _response_norm(_Spec(PoolSpec((window,)), alpha / size, beta, k), x.reshape(rows))
    return y.reshape(x.shape)


def _scales(spec: _Spec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """s and s^-beta."""
    s = spec.k + spec.a * total(spec.window, jnp.square(x))
    return s, s**-spec.beta


def _forward(spec: _Spec, x: jax.Array) -> jax.Array:
    wide = to_accumulator(x)
    return (wide * _scales(spec, wide)[1]).astype(x.dtype)


def _fwd(spec: _Spec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _forward(spec, x), x


def _bwd(spec: _Spec, x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    wide = to_accumulator(x)
    s, power = _scales(spec, wide)
    t = to_accumulator(dy) * power
    return ((t - 2 * spec.a * spec.beta * wide * spread(spec.window, wide * t / s)).astype(x.dtype),)


_response_norm = attach(_forward, _fwd, _bwd)
