"""im2col + GEMM forward, GEMM + col2im backward: Wei (2.9), (2.21), (2.30); GEMM 1.1, 1.2.

N images, O output positions, K window elements, g groups of c input and d output channels each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnconv.base.dtypes import accumulator
from fnconv.base.geometry import outputs, volume, windows
from fnconv.base.pairs import col2im, split_groups
from fnconv.base.pairs import im2col as gather_columns
from fnconv.base.spec import ConvSpec


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Y = phi(x) C, Wei (2.9)."""
    phi = split_groups(gather_columns(x, spec.axes), spec.groups)
    # (N, O, K, g, c) . (K, c, g, d) -> (N, O, g, d)
    y = _einsum(spec, "nokgc,kcgd->nogd", phi, _kernel(spec, w))
    return y.reshape(spec.y_shape(x.shape[0])).astype(x.dtype)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """dphi = dY C^T, then every entry is added where m says it came from, Wei (2.29), (2.30)."""
    n = dy.shape[0]
    # (N, O, g, d) . (K, c, g, d) -> (N, O, K, g, c)
    d_phi = _einsum(spec, "nogd,kcgd->nokgc", _positions(spec, dy), _kernel(spec, w))
    return col2im(d_phi.reshape(*d_phi.shape[:3], -1), spec.axes).reshape(spec.x_shape(n)).astype(dy.dtype)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dC = phi(x)^T dY, Wei (2.21); phi is gathered again, never saved."""
    phi = split_groups(gather_columns(x, spec.axes), spec.groups)
    # (N, O, K, g, c) . (N, O, g, d) -> (K, c, g, d)
    d_kernel = _einsum(spec, "nokgc,nogd->kcgd", phi, _positions(spec, dy))
    return d_kernel.reshape(spec.w_shape).astype(x.dtype)


def _kernel(spec: ConvSpec, w: jax.Array) -> jax.Array:
    """(*K, c, g * d) -> (K, c, g, d)."""
    *_, c, out = spec.w_shape
    return w.reshape(volume(windows(spec.axes)), c, spec.groups, out // spec.groups)


def _positions(spec: ConvSpec, dy: jax.Array) -> jax.Array:
    """(N, *O, g * d) -> (N, O, g, d)."""
    return split_groups(dy.reshape(dy.shape[0], volume(outputs(spec.axes)), -1), spec.groups)


def _einsum(spec: ConvSpec, formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, precision=spec.precision, preferred_element_type=accumulator(a.dtype))
