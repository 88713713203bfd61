"""Max pooling through Wei's selection matrix S, dense, image by image: (4.4), (4.5).  Small sizes, finite values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.dtypes import accumulator, lowest
from fnconv.base.geometry import volume
from fnconv.base.spec import PoolSpec
from fnconv.rules.max_pool import segment_sum
from fnconv.textbook import refuse_if_large


def forward(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """vec(y) = S vec(x), Wei (4.4), S chosen by (4.2) and the tie rule."""
    _, offset = segment_sum.forward(spec, x)
    y = select(spec, offset, x)
    return jnp.where(offset < 0, jnp.asarray(lowest(x.dtype), x.dtype), y), offset


def input_vjp(spec: PoolSpec, offset: jax.Array, dy: jax.Array) -> jax.Array:
    """dz/dvec(x) = S^T dz/dvec(y), Wei (4.5)."""
    return _each_map(spec, offset, dy, "os,o->s").reshape(dy.shape[0], *spec.size, dy.shape[-1])


def select(spec: PoolSpec, offset: jax.Array, x: jax.Array) -> jax.Array:
    """S vec(x), Wei (4.4)."""
    return _each_map(spec, offset, x, "os,s->o").reshape(offset.shape)


def _each_map(spec: PoolSpec, offset: jax.Array, v: jax.Array, formula: str) -> jax.Array:
    """S or S^T times every feature map of v."""
    n, c, cells = v.shape[0], v.shape[-1], volume(spec.size)
    refuse_if_large("S of Wei (4.4)", volume(spec.output) * c, cells, 'rule="offsets"')
    position = jnp.moveaxis(segment_sum.winners(spec, offset), -1, 1)  # (N, C, O)

    def feature_map(position: jax.Array, v: jax.Array) -> jax.Array:
        s = (position[:, None] == jnp.arange(cells, dtype=jnp.int32)[None]).astype(v.dtype)  # (O, S)
        return jnp.einsum(formula, s, v, precision=lax.Precision.HIGHEST)

    flat = jnp.moveaxis(v.reshape(n, -1, c), -1, 1).astype(accumulator(v.dtype))
    result = lax.map(lambda image: jax.vmap(feature_map)(*image), (position, flat))
    return jnp.moveaxis(result, 1, -1).astype(v.dtype)
