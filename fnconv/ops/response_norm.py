"""Local response normalisation: every number divided by a power of the squares of its neighbours among the channels.

With W the sum over a window of channels, and a = alpha / size,

    s = k + a W x^2        y = x s^-beta

(Krizhevsky et al., 2012).  ds = 2 a W (x dx) and W* the adjoint of W give

    dx = t - 2 a beta x W* (x t / s)        t = dy s^-beta

x is kept, s computed again.  Sums and powers are in float32 for half precisions.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.attach import LinearMap, attach
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.layout import check_layout
from fnconv.base.lowering import TERMS
from fnconv.base.spec import as_array, number, per_axis
from fnconv.base.typing import ArrayLike, Layout


class _Window(NamedTuple):
    """Of each channel: so many, from `low` below it, zeros outside."""

    axis: int
    size: int
    low: int

    @property
    def turned(self) -> _Window:
        return self._replace(low=self.size - 1 - self.low)


class _Spec(NamedTuple):
    window: _Window
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
    window = _Window(x.ndim - 1 if layout == "channels_last" else 1, size, size // 2)
    y: jax.Array = _response_norm(_Spec(window, alpha / size, beta, k), x)
    return y


def _sum_of_window(w: _Window, x: jax.Array) -> jax.Array:
    """One slice after the other; large windows in one loop."""
    zero, at = np.zeros((), x.dtype), range(x.ndim)
    around = [(w.low, w.size - 1 - w.low) if i == w.axis else (0, 0) for i in at]
    if w.size > TERMS:
        shape = [w.size if i == w.axis else 1 for i in at]
        return lax.reduce_window(x, zero, lax.add, shape, [1] * x.ndim, around)
    padded, n = lax.pad(x, zero, [(low, high, 0) for low, high in around]), x.shape[w.axis]
    return reduce(lax.add, (lax.slice_in_dim(padded, k, k + n, axis=w.axis) for k in range(w.size)))


window_sum = LinearMap("sum_of_channels", _sum_of_window)
window_sum.adjoints = (lambda w, dy, x: window_sum(w.turned, dy),)


def _scales(spec: _Spec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """s and s^-beta."""
    s = spec.k + spec.a * window_sum(spec.window, jnp.square(x))
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
    return ((t - 2 * spec.a * spec.beta * wide * window_sum(spec.window.turned, wide * t / s)).astype(x.dtype),)


_response_norm = attach(_forward, _fwd, _bwd)
