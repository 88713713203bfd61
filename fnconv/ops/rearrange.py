"""Reshape and transposition as one linear map, whose adjoint puts every entry back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fnconv.base.attach import LinearMap


class Rearrangement(NamedTuple):
    """x.reshape(unfolded).transpose(axes).reshape(target) for an x of shape source."""

    source: tuple[int, ...]
    unfolded: tuple[int, ...]
    axes: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def inverse(self) -> Rearrangement:
        return Rearrangement(
            self.target,
            tuple(self.unfolded[a] for a in self.axes),
            tuple(int(i) for i in np.argsort(self.axes)),
            self.source,
        )


def rearrange(x: jax.Array, unfolded: Sequence[int], axes: Sequence[int], target: Sequence[int]) -> jax.Array:
    """x read as `unfolded`, its axes in the order `axes`, read as `target`; sharded as x along the first axis."""
    return rearrangement.attached(Rearrangement(x.shape, tuple(unfolded), tuple(axes), tuple(target)), x)


def fold(x: jax.Array, kept: int) -> jax.Array:
    """All axes after the first `kept` as one."""
    shape = (*x.shape[:kept], math.prod(x.shape[kept:]))
    return rearrange(x, x.shape, range(x.ndim), shape)


def _evaluate(spec: Rearrangement, x: jax.Array) -> jax.Array:
    return x.reshape(spec.unfolded).transpose(spec.axes).reshape(spec.target)


rearrangement = LinearMap("rearrange", _evaluate, ((0, 0), None))
rearrangement.adjoints = (lambda spec, dy, x: rearrangement(spec.inverse, dy),)
