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

Image = Callable[[jax.Array, jax.Array], jax.Array]


def spreads(spec: ConvSpec, map_: str) -> bool:
    return True


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """vec(y) = (I (x) phi(x)) vec(C), Wei (2.12)."""

    def image(x: jax.Array, w: jax.Array) -> jax.Array:
        jacobian = jacobian_by_kernel(x, w.shape[0], spec.axes)
        return matmul(spec)(jacobian, vec(matrix_c(w)))

    return each_image(spec, image, x, w, outputs(spec.axes))


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """dz/dvec(x) = M^T vec(dY C^T), Wei (2.28)."""
    n = len(spec.axes)

    def image(dy: jax.Array, w: jax.Array) -> jax.Array:
        m = matrix_m(spec.axes, w.shape[1], w.dtype)
        d_phi = matmul(spec)(vec(dy, n).reshape(dy.shape[0], -1).T, matrix_c(w).T)
        return matmul(spec)(m.T, vec(d_phi))

    return each_image(spec, image, dy, w, sizes(spec.axes))


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dz/dvec(C) = (I (x) phi(x)^T) vec(dY), Wei (2.20), summed over the batch."""
    n = len(spec.axes)

    def image(x: jax.Array, dy: jax.Array) -> jax.Array:
        identity = jnp.eye(dy.shape[0], dtype=x.dtype)
        jacobian_by_kernel(x, dy.shape[0], spec.axes)  # the same size as the matrix below: refuses what is too large
        return matmul(spec)(jnp.kron(identity, phi(x, spec.axes).T), vec(dy, n))

    return each_image_pair(spec, image, x, dy)


# ---- between the canonical layout and Wei's -------------------------------------------------------------------------


def matmul(spec: ConvSpec) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return partial(jnp.matmul, precision=spec.precision)


def to_wei(spec: ConvSpec, x: jax.Array) -> jax.Array:
    """(N, *S, C) -> (N, g, C/g, *S), in the dtype that sums are kept in."""
    x = jnp.moveaxis(x, -1, 1).astype(accumulator(x.dtype))
    return x.reshape(x.shape[0], spec.groups, x.shape[1] // spec.groups, *x.shape[2:])


def each_image(spec: ConvSpec, image: Image, x: jax.Array, w: jax.Array, spatial: tuple[int, ...]) -> jax.Array:
    """(N, *spatial, D) from the vec that `image` makes of every image and group with that group's kernels."""
    # (*K, in/g, out) -> (g, out/g, in/g, *K)
    kernels = jnp.moveaxis(w, (-1, -2), (0, 1)).astype(accumulator(w.dtype))
    kernels = kernels.reshape(spec.groups, -1, *kernels.shape[1:])
    vecs = lax.map(lambda a: jnp.stack([image(a[g], kernels[g]) for g in range(spec.groups)]), to_wei(spec, x))
    y = jax.vmap(lambda v: unvec(v, (v.size // volume(spatial), *spatial), len(spatial)))(vecs.reshape(x.shape[0], -1))
    return jnp.moveaxis(y, 1, -1).astype(x.dtype)


def each_image_pair(spec: ConvSpec, image: Image, x: jax.Array, dy: jax.Array) -> jax.Array:
    """The kernels' gradient from the vec that `image` makes of every image and group, summed over the images."""
    pairs = to_wei(spec, x), to_wei(spec, dy)
    vecs = lax.map(lambda pair: jnp.stack([image(*of_group) for of_group in zip(*pair, strict=True)]), pairs).sum(
        axis=0
    )
    *window, c, out = spec.w_shape
    w = unvec(vecs.reshape(-1), (out, c, *window), len(window))
    return jnp.moveaxis(w, (0, 1), (-1, -2)).astype(x.dtype)
