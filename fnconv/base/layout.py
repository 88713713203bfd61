"""Layouts to and from the canonical one: features (N, *spatial, C), kernels (*window, in, out)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fnconv.base.errors import invalid
from fnconv.base.typing import LAYOUTS, Layout


def check_layout(function: str, layout: Layout) -> None:
    if layout not in LAYOUTS:
        raise invalid(function, "layout", f"must be one of {', '.join(LAYOUTS)}", repr(layout))


def split_shape(shape: tuple[int, ...], spatial: int, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """(batch axes, spatial axes, channels) of a feature shape."""
    batch, rest = shape[: len(shape) - spatial - 1], shape[len(shape) - spatial - 1 :]
    return (batch, rest[:-1], rest[-1]) if layout == "channels_last" else (batch, rest[1:], rest[0])


def join_shape(batch: tuple[int, ...], spatial: tuple[int, ...], channels: int, layout: Layout) -> tuple[int, ...]:
    return (*batch, *spatial, channels) if layout == "channels_last" else (*batch, channels, *spatial)


def canonical(x: jax.Array, spatial: int, layout: Layout) -> jax.Array:
    """(*batch, *spatial, C) or (*batch, C, *spatial) -> (N, *spatial, C); one batch axis stays untouched."""
    if layout == "channels_first":
        x = jnp.moveaxis(x, -spatial - 1, -1)
    batch = x.shape[: x.ndim - spatial - 1]
    return x if len(batch) == 1 else x.reshape(math.prod(batch), *x.shape[len(batch) :])


def restore(y: jax.Array, batch: tuple[int, ...], layout: Layout) -> jax.Array:
    """The inverse of `canonical` for a result with the given batch axes."""
    if len(batch) != 1:
        y = y.reshape(*batch, *y.shape[1:])
    return jnp.moveaxis(y, -1, len(batch)) if layout == "channels_first" else y


def canonical_kernel(w: jax.Array, layout: Layout) -> jax.Array:
    """(*window, in, out) or (out, in, *window) -> (*window, in, out)."""
    return w if layout == "channels_last" else jnp.moveaxis(w, (1, 0), (-2, -1))


def restore_kernel(w: jax.Array, layout: Layout) -> jax.Array:
    return w if layout == "channels_last" else jnp.moveaxis(w, (-1, -2), (0, 1))
