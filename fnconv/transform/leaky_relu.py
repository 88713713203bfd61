"""Leaky ReLU with jax.nn's slope at 0, which is that of the right side; `fnconv.leaky_relu` takes the left."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnconv.base.attach import attach


def _primal(slope: float, x: jax.Array) -> jax.Array:
    return _slopes(slope, x >= 0, x)


def _fwd(slope: float, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _primal(slope, x), x >= 0


def _bwd(slope: float, kept: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (_slopes(slope, kept, dy),)


def _slopes(slope: float, kept: jax.Array, x: jax.Array) -> jax.Array:
    """A diagonal matrix times x, its own adjoint."""
    return x * jnp.where(kept, jnp.ones((), x.dtype), jnp.asarray(slope, x.dtype))


leaky_relu = attach(_primal, _fwd, _bwd)
