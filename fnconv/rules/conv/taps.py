"""One matrix product for each window element, or one for all of them with shifted additions after it.

    y  = sum_k tap_k(x) w_k            dx = sum_k tap_k*(dy w_k^T)            dw_k = tap_k(x)^T dy

tap_k takes the cells that element k meets, its adjoint puts them back: Wei (2.30) summed over window elements, so
that nothing is scattered.  For a 1x1 kernel each map is one matrix product.

For depthwise convolutions and groups of few channels, with next to nothing to contract, see `depthwise`.

N images, O output positions, K window elements, g groups of c input and d output channels each.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.chunks import map_batch
from fnconv.base.geometry import taps, volume, windows
from fnconv.base.pairs import pad, split_groups, tap, tap_adjoint
from fnconv.base.spec import ConvSpec
from fnconv.rules.conv import depthwise
from fnconv.rules.conv.products import by_cotangent, by_kernel, dot

NARROW = 4  # up to this many channels in a group, element-wise products are faster than matrix products


def is_narrow(spec: ConvSpec) -> bool:
    """Whether groups are too narrow for matrix products, and many enough for vectors over them."""
    c, d = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    return spec.groups > 1 and (c == 1 or (c <= NARROW and d <= NARROW and spec.groups >= 16))


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """y = sum_k tap_k(x) w_k, the correlation of Notes 1."""
    if is_narrow(spec):
        return depthwise.forward(spec, x, w)
    xp = pad(x, spec.axes)
    products = (by_kernel(spec, tap(xp, spec.axes, k), w[k]) for _, k in taps(spec.axes))
    return reduce(lax.add, products).astype(x.dtype)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """All dy w_k^T by one product, then one shifted addition for each k, Wei (2.29), (2.30)."""
    if is_narrow(spec):
        return depthwise.input_vjp(spec, dy, w)
    k = volume(windows(spec.axes))
    if k == 1:  # the product is dx
        return _put_back(spec, dy, w)
    size = volume(dy.shape[:-1]) * k * spec.in_channels * dy.dtype.itemsize
    return map_batch(lambda dy: _put_back(spec, dy, w), size, dy)


def _put_back(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    *_, c, out = spec.w_shape
    k, g, d = volume(windows(spec.axes)), spec.groups, out // spec.groups
    kernel = w.reshape(k, c, g, d)
    if g == 1:
        # (N, *O, d) . (K, c, d) -> (N, *O, K, c)
        cols = dot(spec, dy, kernel[:, :, 0], (dy.ndim - 1, 2))
    else:
        # (N, *O, g, d) . (K, c, g, d) -> (g, N, *O, K, c) -> (N, *O, K, g, c)
        grouped = split_groups(dy, g)
        cols = dot(spec, grouped, kernel, (grouped.ndim - 1, 3), (grouped.ndim - 2, 2))
        cols = jnp.moveaxis(cols, 0, -2)
    cols = cols.reshape(*dy.shape[:-1], k, g * c)
    shares = (
        tap_adjoint(lax.index_in_dim(cols, q, cols.ndim - 2, keepdims=False), spec.axes, element)
        for q, element in taps(spec.axes)
    )
    return reduce(lax.add, shares).astype(dy.dtype)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dw_k = tap_k(x)^T dy, Wei (2.21) row by row."""
    if is_narrow(spec):
        return depthwise.weight_vjp(spec, x, dy)
    xp = pad(x, spec.axes)
    rows = [by_cotangent(spec, tap(xp, spec.axes, k), dy) for _, k in taps(spec.axes)]
    return jnp.stack(rows).reshape(spec.w_shape).astype(x.dtype)
