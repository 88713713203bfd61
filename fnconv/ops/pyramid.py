"""Spatial pyramid pooling: images of different sizes to features of one size (Notes 1)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fnconv.base.errors import invalid, mistyped
from fnconv.base.geometry import volume
from fnconv.base.layout import check_layout, split_shape
from fnconv.base.spec import NO_SEQUENCE, as_array, is_scalar, spatial_shape
from fnconv.base.typing import REDUCTIONS, ArrayLike, IntOrTuple, Layout, Reduction
from fnconv.ops.avg_pool import adaptive_avg_pool
from fnconv.ops.max_pool import adaptive_max_pool

POOLS = {"max": adaptive_max_pool, "avg": adaptive_avg_pool}


def spatial_pyramid_pool(
    x: ArrayLike, levels: Sequence[IntOrTuple], *, pool: Reduction = "max", layout: Layout = "channels_last"
) -> jax.Array:
    """Adaptive pooling at several resolutions, flattened and joined: the size of the result is not x's.

    "By the choice of pool sizes, images of different sizes become features of one dimension" (Notes 1); He et al.,
    2014.  The gradient is that of the pools, added over the levels.

    Args:
      x: (*batch, *spatial, C) or (*batch, C, *spatial).
      levels: for each level the number of bins, one entry per spatial axis, or an int as the window of `max_pool`.
      pool: "max" or "avg".

    Returns:
      (*batch, C * total number of bins): level after level, each flattened in the order of its layout.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax.numpy as jnp
    >>> [spatial_pyramid_pool(jnp.ones((2, h, h, 3)), (1, 2, 4)).shape for h in (7, 32)]
    [(2, 63), (2, 63)]
    """
    name = "spatial_pyramid_pool"
    check_layout(name, layout)
    if pool not in REDUCTIONS:
        raise invalid(name, "pool", f"must be one of {', '.join(REDUCTIONS)}", repr(pool))
    if isinstance(levels, NO_SEQUENCE):
        raise mistyped(name, "levels", "must be a sequence, for their order", repr(levels))
    if is_scalar(levels) or len(levels) == 0:
        raise invalid(name, "levels", "must be a sequence with one entry or more", levels)
    x = as_array(name, "x", x, integers=pool == "max")
    parts = []
    for level in levels:
        bins = spatial_shape(name, "levels", level, x.shape, minimum=1)
        batch, _, channels = split_shape(x.shape, len(bins), layout)
        parts.append(POOLS[pool](x, bins, layout=layout).reshape(*batch, volume(bins) * channels))
    return jnp.concatenate(parts, axis=-1)
