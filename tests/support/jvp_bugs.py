"""Rules of forward mode with one bug each, and right ones: what `check_jvp` must find, and what it must leave alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

X = jnp.asarray(np.random.default_rng(11).standard_normal((2, 3)), jnp.float32)
W = X[::-1] + 1
M = jnp.asarray(np.random.default_rng(12).standard_normal((3, 3)), jnp.float32)
TIES = jnp.array([1.0, 2.0, -1.0])

Planted = tuple[Callable[..., Any], tuple[Any, ...]]  # the rule, and what to call it with


def rule(primal: Callable[..., Any], tangent: Callable[..., Any], *, symbolic: bool = False, static: Any = ()) -> Any:
    """A custom_jvp of its own; tangent(*primals, *tangents)."""
    with_rule = jax.custom_jvp(wraps(primal)(lambda *args: primal(*args)), nondiff_argnums=static)

    def jvp(*given: Any) -> tuple[Any, Any]:
        *held, primals, tangents = given
        return primal(*held, *primals), tangent(*held, *primals, *tangents)

    def jvp_of_symbols(primals: Any, tangents: Any) -> tuple[Any, Any]:
        return primal(*primals), tangent(*primals, *tangents)

    with_rule.defjvp(jvp_of_symbols if symbolic else jvp, symbolic_zeros=symbolic)
    return with_rule


def sine(tangent: Callable[..., Any]) -> Planted:
    return rule(jnp.sin, tangent), (X,)


def square(tangent: Callable[..., Any]) -> Planted:
    return rule(lambda x: x * x, tangent), (X,)


def product(tangent: Callable[..., Any], **options: Any) -> Planted:
    return rule(lambda x, w: x * w, tangent, **options), (X, W)


def pair(tangent: Callable[..., Any]) -> Planted:
    return rule(lambda x: (jnp.sin(x), jnp.cos(x)), tangent), (X,)


def relu(slope: float) -> Planted:
    def tangent(x, t):
        return jnp.where(x == 0, slope * t, jnp.where(x > 0, t, 0 * t))

    return rule(lambda x: jnp.maximum(x, 0), tangent), (TIES - 1,)


def maximum(shares: Callable[[jax.Array, jax.Array], jax.Array]) -> Planted:
    def tangent(a, b, s, t):
        return jnp.where(a > b, s, jnp.where(a < b, t, shares(s, t)))

    return rule(lambda a, b: jnp.maximum(a, b), tangent), (TIES, TIES[::-1])


def norm(at_zero: Callable[..., Any]) -> Planted:
    def safe(x):
        square = (x * x).sum(-1)
        alive = square > 0
        return jnp.where(alive, jnp.sqrt(jnp.where(alive, square, 1)), 0)

    def tangent(x, t):
        y = safe(x)
        return (x * t).sum(-1) / jnp.where(y > 0, y, at_zero(y))

    return rule(safe, tangent), (X,)


def with_primal(primal: Callable[..., Any], seen: Callable[..., Any]) -> Planted:
    """A rule whose own value is another one."""
    with_rule = jax.custom_jvp(lambda x: primal(x))
    with_rule.defjvp(lambda p, t: (seen(*p), t[0] * jnp.cos(p[0])))
    return with_rule, (X,)


@jax.custom_batching.custom_vmap
def turned(t):
    return t


@turned.def_vmap
def _turned_under_vmap(size, batched, t):
    return t[::-1], True


def heron(x):
    """sqrt(1 + x^2)."""
    square = 1 + x * x
    return lax.fori_loop(0, 40, lambda _, y: (y + square / y) / 2, square)


def halved(x):
    """x / 2 until it is below 1: no loop that reverse mode takes."""
    return lax.while_loop(lambda y: jnp.any(abs(y) >= 1), lambda y: y / 2, x)


def halved_tangent(x, t):
    return lax.while_loop(lambda s: jnp.any(abs(s[0]) >= 1), lambda s: (s[0] / 2, s[1] / 2), (x, t))[1]


def forgets(x, w, s, t):
    """Of x * w with symbolic zeros: half of it where w does not move."""
    zero = jax.custom_derivatives.SymbolicZero
    if isinstance(t, zero):
        return s * w / 2
    return (0 * w if isinstance(s, zero) else s * w) + x * t


def remembers(x, w, s, t):
    zero = jax.custom_derivatives.SymbolicZero
    parts = [v * d for v, d in ((w, s), (x, t)) if not isinstance(d, zero)]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(x)


def best(x):
    return jnp.sin(x), jnp.argmax(x)


# name: (rule and arguments, words of the diagnosis)
WRONG: dict[str, tuple[Planted, str]] = {
    "factor": (sine(lambda x, t: 2 * t * jnp.cos(x)), "every entry is 2 times the right one"),
    "factor 1.0005": (sine(lambda x, t: 1.0005 * t * jnp.cos(x)), "every entry is 1.0005 times"),
    "sign": (sine(lambda x, t: -t * jnp.cos(x)), "the sign is flipped"),
    "operand dropped": (product(lambda x, w, s, t: s * w), "the tangent of w is ignored"),
    "operands exchanged": (product(lambda x, w, s, t: s * x + t * w), ""),
    "one of a pair": (pair(lambda x, t: (t * jnp.cos(x), t * jnp.cos(x))), "it is the tangent of value[0]"),
    "size of t": (sine(lambda x, t: abs(t) * jnp.cos(x)), "the sign of the incoming tangent is lost"),
    "t squared": (sine(lambda x, t: t * t * jnp.cos(x)), ""),
    "not zero at 0": (sine(lambda x, t: t * jnp.cos(x) + 1e-3), ""),
    "t clipped": (
        square(lambda x, t: 2 * x * jnp.clip(t, -1e4, 1e4)),
        "the rule is not linear in the incoming tangent",
    ),
    "float16": (sine(lambda x, t: (t * jnp.cos(x)).astype(jnp.float16)), "corresponding shapes and dtypes"),
    "in bfloat16": (sine(lambda x, t: (t * jnp.cos(x)).astype(jnp.bfloat16).astype(x.dtype)), ""),
    "weak": (sine(lambda x, t: jnp.broadcast_to(0.5, x.shape)), ""),
    "batch turned by its vmap": (square(lambda x, t: 2 * turned(x) * t), "under vmap it differs from a loop"),
    "stop_gradient": (sine(lambda x, t: t * jnp.cos(lax.stop_gradient(x))), "no derivative flows through the rule"),
    "rounded": (square(lambda x, t: 2 * jnp.round(x) * t), ""),
    "lost beyond 100": (square(lambda x, t: jnp.where(abs(x) < 100, 2 * x * t, 0)), ""),
    "slope 2 at 0": (relu(2.0), ""),
    "both sides of a tie": (maximum(lambda s, t: s + t), "no subgradient: at a tie"),
    "no side of a tie": (maximum(lambda s, t: 0 * s), "no subgradient: at a tie"),
    "NaN at zero": (norm(lambda y: y), ""),
    "value doubled": (with_primal(jnp.sin, lambda x: 2 * jnp.sin(x)), "every entry is 2 times the right one"),
    "no transpose": (sine(lambda x, t: abs(t) * jnp.sign(t) * jnp.cos(x)), "the rule cannot be transposed"),
    "random": (sine(lambda x, t: t * jnp.cos(x) * (1 + 0.01 * random.random())), ""),
    "right under jit only": (sine(lambda x, t: t * jnp.cos(x) * (1 if isinstance(t, jax.core.Tracer) else 3)), ""),
    "sums without their last": ((rule(lambda x: jnp.cumsum(x, -1), lambda x, t: jnp.cumsum(t, -1) - t), (X,)), ""),
    "transposed": ((rule(lambda a: a @ M, lambda a, t: t @ M.T), (M,)), ""),
    "symbolic zeros": (product(forgets, symbolic=True), "one argument and one result at a time"),
}

RIGHT: dict[str, Planted] = {
    "sine": sine(lambda x, t: t * jnp.cos(x)),
    "product": product(lambda x, w, s, t: s * w + x * t),
    "relu, 1 at 0": relu(1.0),
    "relu, 0.5 at 0": relu(0.5),
    "maximum, halves": maximum(lambda s, t: (s + t) / 2),
    "maximum, one side": maximum(lambda s, t: t),
    "norm": norm(jnp.ones_like),
    "symbolic zeros": product(remembers, symbolic=True),
    "pair": pair(lambda x, t: (t * jnp.cos(x), -t * jnp.sin(x))),
    "integers beside": (rule(best, lambda x, t: (t * jnp.cos(x), np.zeros((), jax.dtypes.float0))), (X,)),
    "static": (rule(lambda n, x: x**n, lambda n, x, t: n * x ** (n - 1) * t, static=(0,)), (3, X)),
    "thirds": (rule(lambda x: 3 * x, lambda x, t: t / jnp.asarray(1 / 3, x.dtype)), (X,)),
    "half precision": (rule(jnp.tanh, lambda x, t: t * (1 - jnp.square(jnp.tanh(x)))), (X.astype(jnp.bfloat16),)),
    "implicit": (rule(heron, lambda x, t: x * t / heron(x)), (X,)),
    "forward alone": (rule(halved, halved_tangent), (X,)),
    "contraction": (rule(lambda a, b: a @ b, lambda a, b, s, t: s @ b + a @ t), (X, M)),
    "softplus": (rule(lambda x: jnp.logaddexp(x, 0), lambda x, t: t * lax.logistic(x)), (10 * X,)),
    "inside": (lambda x: rule(jnp.sin, lambda x, t: t * jnp.cos(x))(2 * x).sum(), (X,)),
}
