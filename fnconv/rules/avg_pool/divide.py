"""The division that all formulations share."""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.geometry import is_symbolic, sliding, window_counts
from fnconv.base.lowering import along, starts
from fnconv.base.spec import PoolSpec


def by_size(spec: PoolSpec, y: jax.Array) -> jax.Array:
    """y / size, (N, *O, C); 0 where size is 0, as nothing was summed there."""
    if any(is_symbolic(a.size) for a in spec.axes):
        return y / _variable_sizes(spec, y.ndim).astype(y.dtype)
    counts = np.maximum(window_counts(spec.axes, spec.include_pad), 1)
    return y / jnp.asarray(counts, y.dtype)[None, ..., None]


def _variable_sizes(spec: PoolSpec, ndim: int) -> jax.Array:
    """Where sizes are variables: the product of what the windows count along each axis."""
    axes = sliding(spec.axes)
    counts = [along(a.counts_from(starts(a), spec.include_pad), i, ndim) for i, a in enumerate(axes, start=1)]
    return jnp.maximum(reduce(lax.mul, jnp.broadcast_arrays(*counts)), 1)
