"""Rules that are no functions, or not of the dtype that they should be."""

from __future__ import annotations

import random
from typing import Any

import jax
import jax.numpy as jnp

from vjp_bugs.catalogue import normal, plan


def _square(x):
    return x * x


square = plan("square", _square, lambda x: (x * x, x), lambda x, dy: (2 * x * dy,), normal((3, 5)))
_kept: list[Any] = []


def _keeps_outside(x):
    _kept[:] = [x]
    return x * x, ()


square.bug("residual kept in a global", fwd=_keeps_outside, bwd=lambda _, dy: (2 * _kept[0] * dy,))
square.bug("random factor", bwd=lambda x, dy: (2 * x * dy * jnp.asarray(1 + 0.01 * random.random(), dy.dtype),))
square.bug("right under jit only", bwd=lambda x, dy: (2 * x * dy if isinstance(dy, jax.core.Tracer) else 3 * x * dy,))
square.bug("needs concrete numbers", bwd=lambda x, dy: (2 * x * dy if float(x.sum()) > -1e9 else dy,))
square.bug("sign of the cotangent lost", bwd=lambda x, dy: (2 * x * abs(dy),))
square.bug("cotangent in float16", bwd=lambda x, dy: ((2 * x * dy).astype(jnp.float16),))
square.bug("rounded to half", bwd=lambda x, dy: ((2 * x * dy).astype(jnp.float16).astype(dy.dtype),))
square.bug("wrong at -0", bwd=lambda x, dy: (jnp.where(jnp.signbit(x) & (x == 0), dy, 2 * x * dy),))
square.bug("adds a constant", bwd=lambda x, dy: (2 * x * dy + jnp.asarray(1e-3, dy.dtype),))


@jax.custom_batching.custom_vmap
def _twice(x):
    return 2 * x


@_twice.def_vmap
def _twice_vmap(size, batched, x):
    return 2 * x[::-1], True


square.bug("batch reversed by its vmap", bwd=lambda x, dy: (_twice(x) * dy,))
