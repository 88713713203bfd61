"""The division that all formulations share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.geometry import window_counts
from fnconv.base.spec import PoolSpec


def by_size(spec: PoolSpec, y: jax.Array) -> jax.Array:
    """y / size, (N, *O, C); 0 where size is 0, as nothing was summed there."""
    counts = np.maximum(window_counts(spec.axes, spec.include_pad), 1)
    return y / jnp.asarray(counts, y.dtype)[None, ..., None]
