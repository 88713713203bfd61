"""Traced arrays, and the demand that a call on them is refused in given words."""

import re

import jax
import jax.numpy as jnp
import pytest

STATIC = "must be static integers (known at trace time); got"
X = jax.ShapeDtypeStruct((8, 28, 28, 3), jnp.float32)  # traced, never computed
SMALL = jax.ShapeDtypeStruct((2, 4, 4, 2), jnp.float32)
W = jax.ShapeDtypeStruct((3, 3, 3, 6), jnp.float32)
DY = jax.ShapeDtypeStruct((8, 26, 26, 6), jnp.float32)
WT = jax.ShapeDtypeStruct((3, 3, 5, 3), jnp.float32)


def of(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def refused(error, message, function, *arrays):
    """Raised with that message, by tracing alone and inside jit."""
    for trace in (lambda *a: jax.eval_shape(function, *a), lambda *a: jax.jit(function).trace(*a)):
        with pytest.raises(error, match=re.escape(message)):
            trace(*arrays)
