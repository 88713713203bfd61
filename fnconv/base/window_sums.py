"""The sum of every window and its adjoint, for sliding and for adaptive windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.geometry import AnyAxis, Axis, Table, sliding, taps, volume, windows
from fnconv.base.lowering import TERMS, UNROLL, along, by_runs, pad_once, polyphase
from fnconv.base.pairs import tap


def window_sum(x: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """The sum of every window, zeros in the padding: (N, *S, C) -> (N, *O, C).

    Small windows in one loop, others along one axis after another.
    """
    if volume(windows(axes)) <= TERMS and len(moving := sliding(axes)) == len(axes):
        return by_runs(_sum_of_taps, (x,), moving)
    for i, a in enumerate(axes, start=1):
        x = _reduce_window(x, a, i) if isinstance(a, Axis) else _sum_runs(x, a.starts(), a.counts(True), i)
    return x


def window_sum_adjoint(y: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """Every cell collects the windows it lies in: (N, *O, C) -> (N, *S, C).

    Disjoint windows repeat their entry (upsampling, Notes); overlapping ones are summed phase by phase or, where they
    are long, as the correlation of the zero-inserted cotangent with rot180 of a kernel of ones.
    """
    moving = sliding(axes)
    disjoint = all(a.stride == a.window and a.dilation == 1 for a in moving)
    if len(moving) == len(axes) and not disjoint and volume(windows(axes)) <= TERMS:
        return polyphase((y,), (0,), moving, lambda k, cells: cells)
    for i, a in enumerate(axes, start=1):
        if not isinstance(a, Axis):
            y = _sum_runs(y, *a.windows_of_cells(), i)
        elif a.stride == a.window and a.dilation == 1:
            y = _fit(jnp.repeat(y, a.window, axis=i), a, i)
        elif a.window <= UNROLL:
            others = [a if j == i else Axis(y.shape[j], 1) for j in range(1, len(axes) + 1)]
            y = polyphase((y,), (0,), others, lambda k, cells: cells)
        else:
            widths = [(0, 0, 0)] * y.ndim
            widths[i] = (0, 0, a.stride - 1)
            y = _reduce_window(lax.pad(y, jnp.zeros((), y.dtype), widths), a.input_gradient(), i)
    return y


def _sum_of_taps(arrays: Sequence[jax.Array], axes: Sequence[Axis]) -> jax.Array:
    xp = pad_once(arrays[0], axes)
    return reduce(lax.add, (tap(xp, axes, k) for _, k in taps(axes)))


def _reduce_window(x: jax.Array, a: Axis, i: int) -> jax.Array:
    widths = [(0, 0, 0)] * x.ndim
    widths[i] = (a.low, a.high + a.overshoot, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), widths)
    window, strides, dilation = [1] * x.ndim, [1] * x.ndim, [1] * x.ndim
    window[i], strides[i], dilation[i] = a.window, a.stride, a.dilation
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, strides, "VALID", window_dilation=dilation)


def _fit(y: jax.Array, a: Axis, i: int) -> jax.Array:
    """Remove the padding and append zeros where cells were left over."""
    widths = [(0, 0, 0)] * y.ndim
    widths[i] = (-a.low, a.size + a.low - y.shape[i], 0)
    return lax.pad(y, jnp.zeros((), y.dtype), widths)


def _sum_runs(x: jax.Array, first: Table, count: Table, i: int) -> jax.Array:
    """Sums of `count` neighbours along axis i, from `first` on.  Nothing is multiplied by 0: that would keep a NaN."""

    def term(k: int | jax.Array) -> jax.Array:
        taken = jnp.take(x, jnp.asarray(first) + k, axis=i, mode="clip")
        if isinstance(k, int) and (count > k).all():
            return taken
        return jnp.where(along(jnp.asarray(count) > k, i, x.ndim), taken, jnp.zeros((), x.dtype))

    terms = int(count.max(initial=1))
    if terms <= TERMS:
        return reduce(lax.add, map(term, range(terms)))
    return lax.fori_loop(np.int32(1), np.int32(terms), lambda k, total: total + term(k), term(0))
