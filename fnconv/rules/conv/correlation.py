"""Notes' way: everything is a correlation.  Forward as defined; backward by zero insertion, padding and rot180.

    dx = correlate(pad(zero_insert(dy)), rot180(w))        VALID, strides with leftovers, *same*: one geometry
    dw = correlate(pad(x), zero_insert(dy))                the cotangent is the kernel

N images, g groups of c input and d output channels each.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp

from fnconv.base.dtypes import accumulator
from fnconv.base.geometry import Axis, taps
from fnconv.base.pairs import pad, rot180, split_groups, swap_channels, tap, zero_insert
from fnconv.base.spec import ConvSpec


def spreads(spec: ConvSpec, map_: str) -> bool:
    """By the zeros between cotangents, which are the kernel."""
    return map_ == "weight_vjp" and any(a.stride > 1 for a in spec.axes)


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """y[o] = sum_k x[o * stride + k * dilation - low] w[k], Notes 1; its index a_{i+p-1+j+q-1} is a_{i+p-1,j+q-1}."""
    return _correlate(spec, x, w, spec.axes).astype(x.dtype)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """Insert zeros, pad, correlate with rot180(w), Notes 2.3; left-over cells come out as zero."""
    inserted = zero_insert(dy, [a.stride for a in spec.axes])
    rotated = swap_channels(rot180(w), spec.groups)
    return _correlate(spec, inserted, rotated, [a.input_gradient() for a in spec.axes]).astype(dy.dtype)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """Correlate the input with the zero-inserted cotangent, Notes 3 (the input is a^L there, not a^{L+1})."""
    inserted = split_groups(zero_insert(dy, [a.stride for a in spec.axes]), spec.groups)
    axes = [_dense(a.weight_gradient()) for a in spec.axes]
    xp = split_groups(pad(x, axes), spec.groups)
    spatial = range(1, len(axes) + 1)
    rows = []
    for _, k in taps(spec.axes):
        start = [i * a.dilation for i, a in zip(k, spec.axes, strict=True)]
        cells = [slice(b, b + inserted.shape[s]) for b, s in zip(start, spatial, strict=True)]
        # (N, *O', g, c) . (N, *O', g, d) -> (c, g, d)
        rows.append(_contract(spec, "nogc,nogd->cgd", _flat(xp[(slice(None), *cells)]), _flat(inserted)))
    return jnp.stack(rows).reshape(spec.w_shape).astype(x.dtype)


def _correlate(spec: ConvSpec, x: jax.Array, w: jax.Array, axes: list[Axis] | tuple[Axis, ...]) -> jax.Array:
    """The sum over window elements of a shifted input times one slice of the kernel."""
    *_, c, out = w.shape
    xp = pad(x, axes)

    def term(k: tuple[int, ...]) -> jax.Array:
        cells = _flat(split_groups(tap(xp, axes, k), spec.groups))
        # (N, O, g, c) . (c, g, d) -> (N, O, g, d)
        return _contract(spec, "nogc,cgd->nogd", cells, w[k].reshape(c, spec.groups, out // spec.groups))

    total = reduce(jax.lax.add, (term(k) for _, k in taps(axes)))
    return total.reshape(x.shape[0], *(a.output for a in axes), out)


def _dense(a: Axis) -> Axis:
    """The same cells with the zero-inserted cotangent as an undilated window."""
    return Axis(a.size, a.span, a.stride, 1, a.low, a.high)


def _flat(a: jax.Array) -> jax.Array:
    """(N, *O, g, c) -> (N, O, g, c)."""
    return a.reshape(a.shape[0], -1, *a.shape[-2:])


def _contract(spec: ConvSpec, formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, precision=spec.precision, preferred_element_type=accumulator(a.dtype))
