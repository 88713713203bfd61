"""Matrix products over channels, group by group: g groups of c input and d output channels each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.dtypes import accumulator
from fnconv.base.pairs import split_groups
from fnconv.base.spec import ConvSpec

Product = Callable[[ConvSpec, jax.Array, jax.Array], jax.Array]


def by_kernel(spec: ConvSpec, cells: jax.Array, w: jax.Array) -> jax.Array:
    """(N, *O, g c) . (c, g d) -> (N, *O, g d)."""
    return _contract_channels(spec, cells, w, 0)


def by_kernel_transposed(spec: ConvSpec, cells: jax.Array, w: jax.Array) -> jax.Array:
    """(N, *O, g d) . (c, g d) -> (N, *O, g c)."""
    return _contract_channels(spec, cells, w, -1)


def _contract_channels(spec: ConvSpec, cells: jax.Array, w: jax.Array, axis: int) -> jax.Array:
    rows = cells.reshape(-1, cells.shape[-1])
    if spec.groups == 1:
        product = dot(spec, rows, w, (1, axis % 2))
    else:
        # (R, g, a) . (c, g, d) over a, which is c or d -> (g, R, b) -> (R, g, b)
        grouped, kernel = split_groups(rows, spec.groups), split_groups(w, spec.groups)
        product = jnp.moveaxis(dot(spec, grouped, kernel, (2, axis % 3), (1, 1)), 0, 1)
    return product.reshape(*cells.shape[:-1], -1)


def by_cotangent(spec: ConvSpec, cells: jax.Array, dy: jax.Array) -> jax.Array:
    """(N, *O, g c) . (N, *O, g d) -> (c, g d)."""
    a, b = (v.reshape(-1, v.shape[-1]) for v in (cells, dy))
    if spec.groups == 1 and a.dtype != jnp.bfloat16:  # XLA has none on a CPU of bfloat16 where b alone is mapped over
        return dot(spec, a, b, (0, 0))
    # (R, g, c) . (R, g, d) -> (g, c, d) -> (c, g, d)
    product = dot(spec, split_groups(a, spec.groups), split_groups(b, spec.groups), (0, 0), (1, 1))
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
