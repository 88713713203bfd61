"""The dense Jacobians of Wei (2.18)-(2.26), formed whole: the plainest oracle, for small sizes and finite values."""

from __future__ import annotations

import jax

from fnconv.base.geometry import outputs, sizes
from fnconv.base.spec import ConvSpec
from fnconv.rules.conv.kronecker import each_image, each_image_pair, matmul, spreads
from fnconv.textbook import jacobian_by_input, jacobian_by_kernel, vec

__all__ = ["forward", "input_vjp", "spreads", "weight_vjp"]


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """vec(y) = (C^T (x) I) vec(phi(x)) = ((C^T (x) I) M) vec(x), Wei (2.13) with (2.24)."""

    def image(x: jax.Array, w: jax.Array) -> jax.Array:
        return matmul(spec)(jacobian_by_input(w, spec.axes), vec(x, len(spec.axes)))

    return each_image(spec, image, x, w, outputs(spec.axes))


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """dz/dvec(x) = J^T vec(dy) with J = (C^T (x) I) M, Wei (2.22), (2.25), (2.26)."""

    def image(dy: jax.Array, w: jax.Array) -> jax.Array:
        return matmul(spec)(jacobian_by_input(w, spec.axes).T, vec(dy, len(spec.axes)))

    return each_image(spec, image, dy, w, sizes(spec.axes))


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dz/dvec(w) = J^T vec(dy) with J = I (x) phi(x), Wei (2.18), (2.19), summed over the batch."""

    def image(x: jax.Array, dy: jax.Array) -> jax.Array:
        return matmul(spec)(jacobian_by_kernel(x, dy.shape[0], spec.axes).T, vec(dy, len(spec.axes)))

    return each_image_pair(spec, image, x, dy)
