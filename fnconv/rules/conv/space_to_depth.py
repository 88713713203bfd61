"""The cells that one stride passes over become channels, and the convolution one of stride 1.

Where the stride is the window's size and there is no dilation, as in a patch embedding, windows meet without
overlapping.  The columns phi(x) of Wei (2.9) are then x itself in another order, and phi* puts back without adding:

    y = phi(x) C            dx = phi^-1(dy C^T)            dC = phi(x)^T dy

a 1x1 convolution of the columns, one product.  Other strides and dilations go by the phases of `unit_stride`, whose
shorter windows some zeros fill up, and then element by element as in `taps`.

O output positions, K window elements, g groups of c input channels each.
"""

from __future__ import annotations

from dataclasses import replace

import jax

from fnconv.base.geometry import OUTSIDE, Axis, outputs, volume, windows
from fnconv.base.pairs import pad, unpad
from fnconv.base.spec import ConvSpec
from fnconv.rules.conv import taps, unit_stride
from fnconv.rules.conv.rewrite import Rewrite, identity


def spreads(spec: ConvSpec, map_: str) -> bool:
    """To and from the cells that zeros of the filled-up windows meet; of dw those are not read."""
    full = meet(spec) or all((unit_stride.segments(a).elements != OUTSIDE).all() for a in spec.axes)
    return map_ != "weight_vjp" and not full


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Y = phi(x) C."""
    return _rewrite(spec).forward(taps.forward, x, w)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """phi^-1(dY C^T), zeros where no window is."""
    return _rewrite(spec).input_vjp(taps.input_vjp, dy, w)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dC = phi(x)^T dY."""
    return _rewrite(spec).weight_vjp(taps.weight_vjp, x, dy)


def meet(spec: ConvSpec) -> bool:
    """Whether every cell between the first and the last window lies in one of them alone."""
    return all(a.stride == a.window and (a.dilation == 1 or a.window == 1) for a in spec.axes)


def _rewrite(spec: ConvSpec) -> Rewrite:
    return _columns(spec) if meet(spec) else unit_stride.rewrite(spec)


def _columns(spec: ConvSpec) -> Rewrite:
    n, g, size, out = len(spec.axes), spec.groups, windows(spec.axes), outputs(spec.axes)
    k, c = volume(size), spec.in_channels // g
    ends = [Axis(a.size, 1, low=a.low, high=a.reach - a.low - a.size) for a in spec.axes]
    cut = [length for pair in zip(out, size, strict=True) for length in pair]  # O1, k1, O2, k2, ...
    order = (0, *range(1, 2 * n, 2), 2 * n + 1, *range(2, 2 * n + 1, 2), 2 * n + 2)
    back = tuple(order.index(i) for i in range(len(order)))

    def columns(x: jax.Array) -> jax.Array:
        # (N, *S, g c) -> (N, O1, k1, O2, k2, .., g, c) -> (N, *O, g K c)
        x = pad(x, ends).reshape(x.shape[0], *cut, g, c).transpose(order)
        return x.reshape(x.shape[0], *out, g * k * c)

    def cells(cols: jax.Array) -> jax.Array:
        x = cols.reshape(cols.shape[0], *out, g, *size, c).transpose(back)
        return unpad(x.reshape(x.shape[0], *(a.reach for a in spec.axes), g * c), ends)

    inner = replace(spec, axes=tuple(Axis(o, 1) for o in out), in_channels=spec.in_channels * k)
    return Rewrite(
        inner,
        x=(columns, cells),
        w=(lambda w: w.reshape(inner.w_shape), lambda dw: dw.reshape(spec.w_shape)),
        y=(identity, identity),
    )
