"""Matrix products over channels, group by group: g groups of c input and d output channels each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.linear import accumulator, split_groups
from fnconv.spec import ConvSpec

Product = Callable[[ConvSpec, jax.Array, jax.Array], jax.Array]


def by_kernel(spec: ConvSpec, cells: jax.Array, w: jax.Array) -> jax.Array:
    """(N, *O, g c) . (c, g d) -> (N, *O, g d)."""
    if spec.groups == 1:
        return dot(spec, cells, w, (cells.ndim - 1, 0))
    grouped = split_groups(cells, spec.groups)
    # (N, *O, g, c) . (c, g, d) -> (g, N, *O, d)
    product = dot(spec, grouped, split_groups(w, spec.groups), (grouped.ndim - 1, 0), (grouped.ndim - 2, 1))
    return jnp.moveaxis(product, 0, -2).reshape(*cells.shape[:-1], -1)


def by_kernel_transposed(spec: ConvSpec, cells: jax.Array, w: jax.Array) -> jax.Array:
    """(N, *O, g d) . (c, g d) -> (N, *O, g c)."""
    if spec.groups == 1:
        return dot(spec, cells, w, (cells.ndim - 1, 1))
    grouped = split_groups(cells, spec.groups)
    # (N, *O, g, d) . (c, g, d) -> (g, N, *O, c)
    product = dot(spec, grouped, split_groups(w, spec.groups), (grouped.ndim - 1, 2), (grouped.ndim - 2, 1))
    return jnp.moveaxis(product, 0, -2).reshape(*cells.shape[:-1], -1)


def by_cotangent(spec: ConvSpec, cells: jax.Array, dy: jax.Array) -> jax.Array:
    """(N, *O, g c) . (N, *O, g d) -> (c, g d)."""
    positions = tuple(range(dy.ndim - 1))
    if spec.groups == 1:
        return dot(spec, cells, dy, (positions, positions))
    a, b = split_groups(cells, spec.groups), split_groups(dy, spec.groups)
    product = dot(spec, a, b, (positions, positions), (a.ndim - 2, b.ndim - 2))  # (g, c, d)
    return jnp.moveaxis(product, 0, 1).reshape(product.shape[1], -1)


Axes = int | tuple[int, ...]


def dot(
    spec: ConvSpec, a: jax.Array, b: jax.Array, contract: tuple[Axes, Axes], batch: tuple[int, int] | None = None
) -> jax.Array:
    """Contract one set of axes of a and b, with at most one pair of batch axes; sums in the accumulator's dtype."""
    contracted = tuple((axes,) if isinstance(axes, int) else axes for axes in contract)
    batched = ((), ()) if batch is None else ((batch[0],), (batch[1],))
    numbers: Any = (contracted, batched)
    return lax.dot_general(a, b, numbers, precision=spec.precision, preferred_element_type=accumulator(a.dtype))
