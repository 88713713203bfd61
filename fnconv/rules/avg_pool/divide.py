"""The division that all formulations share."""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.lowering import along, counts
from fnconv.base.spec import PoolSpec


def by_size(spec: PoolSpec, y: jax.Array) -> jax.Array:
    """y / size, (N, *O, C); 0 where size is 0, as nothing was summed there.  A size is a product over the axes."""
    sides = [along(counts(a, spec.include_pad), i, y.ndim) for i, a in enumerate(spec.axes, start=1)]
    return y / jnp.maximum(reduce(lax.mul, jnp.broadcast_arrays(*sides)), 1).astype(y.dtype)
