"""log(sum e^x), which losses on integer labels are written with, and how a softmax may lie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.attach import attach
from fnconv.base.dtypes import to_accumulator
from fnconv.ops.activation import softmax


def _primal(axis: int, x: jax.Array) -> jax.Array:
    wide = to_accumulator(x)
    top = lax.stop_gradient(jnp.max(wide, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros((), wide.dtype))
    return (jnp.log(jnp.sum(jnp.exp(wide - top), axis=axis, keepdims=True)) + top).astype(x.dtype)


# d log(sum e^x) = softmax(x) dy: the p of p - y
def _fwd(axis: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _primal(axis, x), softmax(x, axis=axis)


def _bwd(axis: int, p: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (p * dy,)


_logsumexp = attach(_primal, _fwd, _bwd)


def logsumexp(x: jax.Array, *, axis: int) -> jax.Array:
    """log(sum e^x) along `axis`, which stays with size 1."""
    return _logsumexp(axis, x)


def arranged(y: jax.Array, dims: tuple[int, ...]) -> jax.Array:
    """The axes of y in this order; those that are not named have size 1 and go."""
    gone = tuple(i for i in range(y.ndim) if i not in dims)
    left = [i for i in range(y.ndim) if i in dims]
    order = tuple(left.index(i) for i in dims)
    y = lax.squeeze(y, gone) if gone else y
    return y if order == tuple(range(len(order))) else lax.transpose(y, order)
