"""Normalisation with moments that the program has computed already: its own forward pass, one hand-derived gradient.

m is the mean and r = 1 / sqrt(v + epsilon) of the variance of x, or of its mean square where it is not centred:

    y = r scale (x - m) + bias        dx = r (g - mean(g) - z mean(g z))        z = r (x - m), g = scale dy

The gradient through the moments is part of dx, see ops/norm.py; x is kept in the dtype that it came in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.attach import attach
from fnconv.base.dtypes import accumulator
from fnconv.ops import norm as own

Arrays = tuple[jax.Array, ...]


class Spec(NamedTuple):
    """form: how the program multiplies, see `FORMS`; dtype: what it computes in; deviation: r is given as 1 / r."""

    axes: tuple[int, ...]
    centred: bool
    form: str
    deviation: bool
    dtype: Any


FORMS: dict[str, Callable[..., jax.Array]] = {
    "apart": lambda x, m, r, scale, bias: (x - m) * r * scale,
    "joint": lambda x, m, r, scale, bias: (x - m) * (r * scale),
    "spread": lambda x, m, r, scale, bias: x * (r * scale) + (-m * (r * scale) + bias),
}


def _primal(spec: Spec, x: jax.Array, m: jax.Array, r: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    x, m = x.astype(spec.dtype), m if spec.centred else jnp.zeros((), spec.dtype)
    if spec.deviation:
        return (x - m) / r * scale
    return FORMS[spec.form](x, m, r, scale, bias)


def _fwd(spec: Spec, x: jax.Array, m: jax.Array, r: jax.Array, *affine: jax.Array) -> tuple[jax.Array, Arrays]:
    m, r = _given(spec, x, m, r)
    return _primal(spec, x, m, r, *affine), (x, m, r, *affine)


def _bwd(spec: Spec, kept: Arrays, dy: jax.Array) -> Arrays:
    x, m, r, scale, bias = kept
    wide = accumulator(spec.dtype)
    d, inverse = x.astype(wide) - m.astype(wide) * spec.centred, r.astype(wide)
    of_x, of_scale, of_bias = own.pull_back(
        own.Spec(spec.axes, 0.0, spec.centred),
        x,
        scale,
        bias,
        d,
        1 / inverse if spec.deviation else inverse,
        dy.astype(wide),
    )
    return of_x, jnp.zeros_like(m), jnp.zeros_like(r), of_scale, of_bias


_norm = attach(_primal, _fwd, _bwd)


def norm(spec: Spec, x: jax.Array, m: jax.Array, r: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """All of one rank; m and r are those of x, so that what they were computed by needs no gradient."""
    y: jax.Array = _norm(spec, x, lax.stop_gradient(m), lax.stop_gradient(r), scale, bias)
    return y


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _given(spec: Spec, x: jax.Array, m: jax.Array, r: jax.Array) -> Arrays:
    """m and r themselves, which are functions of x to whatever differentiates again.

    dm = mean(dx), and of v = mean((x - m)^2) dr = -r^3 dv / 2, d(1 / r) = r dv / 2, dv = 2 mean((x - m) dx).
    """
    return m, r


@_given.defjvp
def _given_jvp(spec: Spec, primals: Arrays, tangents: Arrays) -> tuple[Arrays, Arrays]:
    x, dx, (m, r) = primals[0], tangents[0], _given(spec, *primals)
    wide = accumulator(spec.dtype)

    def mean(v: jax.Array) -> jax.Array:
        return jnp.mean(v, axis=spec.axes, keepdims=True)

    d, of_r, dx = x.astype(wide) - m.astype(wide) * spec.centred, r.astype(wide), dx.astype(wide)
    half_dv = mean(d * dx)
    dr = half_dv / of_r if spec.deviation else -(of_r**3) * half_dv
    return (m, r), (mean(dx).astype(m.dtype) if spec.centred else jnp.zeros_like(m), dr.astype(r.dtype))
