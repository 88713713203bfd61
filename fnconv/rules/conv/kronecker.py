"""Wei's derivation as it stands: Kronecker products and the matrix M, dense, image by image.

x^k is (D, *S), C stacks the kernels' vecs, Y = phi(x) C is (positions, D').  Batches loop over images; grouped
channels are independent convolutions.  For small sizes and finite values: a dense product turns 0 * inf into NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.dtypes import accumulator
from fnconv.base.geometry import outputs, sizes, volume
from fnconv.base.spec import ConvSpec
from fnconv.textbook import jacobian_by_kernel, matrix_c, matrix_m, phi, unvec, vec


def spreads(spec: ConvSpec, map_: str) -> bool:
    return True


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """vec(y) = (I (x) phi(x)) vec(C), Wei (2.12)."""

    def image(x: jax.Array, w: jax.Array) -> jax.Array:
        jacobian = jacobian_by_kernel(x, w.shape[0], spec.axes)
        return matmul(spec)(jacobian, vec(matrix_c(w)))

    kernels = to_wei_kernel(spec, w)
    return from_wei(spec, outputs(spec.axes), each_image(image, to_wei(spec, x), kernels), x.dtype)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """dz/dvec(x) = M^T vec(dY C^T), Wei (2.28)."""
    n = len(spec.axes)

    def image(dy: jax.Array, w: jax.Array) -> jax.Array:
        m = matrix_m(spec.axes, w.shape[1], w.dtype)
        d_phi = matmul(spec)(vec(dy, n).reshape(dy.shape[0], -1).T, matrix_c(w).T)
        return matmul(spec)(m.T, vec(d_phi))

    kernels = to_wei_kernel(spec, w)
    return from_wei(spec, sizes(spec.axes), each_image(image, to_wei(spec, dy), kernels), dy.dtype)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dz/dvec(C) = (I (x) phi(x)^T) vec(dY), Wei (2.20), summed over the batch."""
    n = len(spec.axes)

    def image(x: jax.Array, dy: jax.Array) -> jax.Array:
        identity = jnp.eye(dy.shape[0], dtype=x.dtype)
        jacobian_by_kernel(x, dy.shape[0], spec.axes)  # the same size as the matrix below: refuses what is too large
        return matmul(spec)(jnp.kron(identity, phi(x, spec.axes).T), vec(dy, n))

    return from_wei_kernel(spec, each_image_pair(image, to_wei(spec, x), to_wei(spec, dy)), x.dtype)


# ---- between the canonical layout and Wei's -------------------------------------------------------------------------


def matmul(spec: ConvSpec) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return partial(jnp.matmul, precision=spec.precision)


def to_wei(spec: ConvSpec, x: jax.Array) -> jax.Array:
    """(N, *S, C) -> (N, g, C/g, *S), in the dtype that sums are kept in."""
    x = jnp.moveaxis(x, -1, 1).astype(accumulator(x.dtype))
    return x.reshape(x.shape[0], spec.groups, x.shape[1] // spec.groups, *x.shape[2:])


def to_wei_kernel(spec: ConvSpec, w: jax.Array) -> jax.Array:
    """(*K, in/g, out) -> (g, out/g, in/g, *K)."""
    w = jnp.moveaxis(w, (-1, -2), (0, 1)).astype(accumulator(w.dtype))
    return w.reshape(spec.groups, w.shape[0] // spec.groups, *w.shape[1:])


def from_wei(spec: ConvSpec, spatial: tuple[int, ...], vecs: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """vecs (N, g, C/g * positions) -> (N, *spatial, C)."""
    n, channels = vecs.shape[0], vecs[0].size // volume(spatial)
    y = jax.vmap(lambda v: unvec(v, (channels, *spatial), len(spatial)))(vecs.reshape(n, -1))
    return jnp.moveaxis(y, 1, -1).astype(dtype)


def from_wei_kernel(spec: ConvSpec, vecs: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """vecs (g, out/g * in/g * window) -> (*K, in/g, out)."""
    *window, c, out = spec.w_shape
    w = unvec(vecs.reshape(-1), (out, c, *window), len(window))
    return jnp.moveaxis(w, (0, 1), (-1, -2)).astype(dtype)


def each_image(f: Callable[[jax.Array, jax.Array], jax.Array], images: jax.Array, kernels: jax.Array) -> jax.Array:
    """f of every image and group with that group's kernels, one image after another."""
    groups = range(kernels.shape[0])
    return lax.map(lambda image: jnp.stack([f(image[g], kernels[g]) for g in groups]), images)


def each_image_pair(f: Callable[[jax.Array, jax.Array], jax.Array], xs: jax.Array, dys: jax.Array) -> jax.Array:
    """Sum over images of f(x, dy), for every group."""
    groups = range(xs.shape[1])
    return lax.map(lambda pair: jnp.stack([f(pair[0][g], pair[1][g]) for g in groups]), (xs, dys)).sum(axis=0)
