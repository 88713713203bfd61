"""Every mode of differentiation of every operation, under both attachments, against JAX's own of a plain reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from jax import lax
from operations import CHANNELS_LAST, Operation, each
from plain import assert_same

import fnconv

Arrays = tuple[jax.Array, ...]
Loss = Callable[..., jax.Array]
DOTS = jax.checkpoint_policies.dots_saveable


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Whole numbers of third derivatives stay whole."""
    with jax.enable_x64(True):
        yield


def dot(a: Arrays, b: Arrays) -> jax.Array:
    return sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True))


def forward(f: Loss, args: Arrays, t: Arrays) -> jax.Array:
    return jax.jvp(f, args, t)[1]


def reverse(f: Loss, args: Arrays, t: Arrays) -> jax.Array:
    return dot(jax.grad(f, tuple(range(len(args))))(*args), t)


def along(modes: str, f: Loss, t: Arrays) -> Loss:
    """The derivative along t, once for each mode: "fr" is forward over reverse."""
    if not modes:
        return f
    outermost = {"f": forward, "r": reverse}[modes[0]]
    return lambda *args: outermost(along(modes[1:], f, t), args, t)


def loss(fn: Callable[..., jax.Array], c: jax.Array) -> Loss:
    """A cubic of the values, no derivative of which vanishes before the fourth."""

    def cubic(*args: jax.Array) -> jax.Array:
        y = fn(*args)
        return jnp.sum(c * (y + y * y + y * y * y))

    return cubic


def steps(f: Loss) -> dict[str, Loss]:
    """f at its arguments and at twice their size, summed in both kinds of loop."""

    def scan(*args: jax.Array) -> jax.Array:
        zero, twice = jnp.zeros((), args[0].dtype), jnp.array([1, 2], args[0].dtype)
        return lax.scan(lambda sum_, k: (sum_ + f(*(k * a for a in args)), None), zero, twice)[0]

    def while_loop(*args: jax.Array) -> jax.Array:
        one = jnp.ones((), args[0].dtype)
        return lax.while_loop(
            lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] + f(*(s[0] * a for a in args))), (one, 0 * one)
        )[1]

    return {"scan": scan, "while": while_loop}


def in_reverse(fn: Callable[..., jax.Array], c: jax.Array, args: Arrays, t: Arrays) -> dict[str, Any]:
    """What `jax.custom_vjp` allows."""
    f = loss(fn, c)
    return {
        "vjp": jax.vjp(fn, *args)[1](c),
        **{modes: along(modes, f, t)(*args) for modes in ("r", "fr", "rr", "frr", "rrr")},
        "checkpoint": along("fr", jax.checkpoint(f, policy=DOTS), t)(*args),
        "scan r": along("r", steps(f)["scan"], t)(*args),
    }


def in_forward(fn: Callable[..., jax.Array], c: jax.Array, args: Arrays, t: Arrays) -> dict[str, Any]:
    """What it refuses."""
    f = loss(fn, c)
    y, pushforward = jax.linearize(fn, *args)
    scales = jnp.arange(3, dtype=args[0].dtype)
    return {
        "jvp": jax.jvp(fn, args, t),
        "linearize": (y, pushforward(*t)),
        "transpose": jax.linear_transpose(pushforward, *args)(c),
        "vmap": jax.vmap(lambda k: jax.jvp(fn, args, tuple(k * v for v in t))[1])(scales),
        **{modes: along(modes, f, t)(*args) for modes in ("f", "ff", "rf", "fff", "rff", "rfr")},
        "checkpoint f": along("rf", jax.checkpoint(f, policy=DOTS), t)(*args),
        "scan f": along("f", steps(f)["scan"], t)(*args),
        "while f": along("ff", steps(f)["while"], t)(*args),
    }


def of_reference(fn: Callable[..., jax.Array], c: jax.Array, args: Arrays, t: Arrays) -> dict[str, Any]:
    """The same by JAX, once for each value that they share."""
    f = loss(fn, c)
    (y, dy), vjp = jax.jvp(fn, args, t), jax.vjp(fn, *args)[1](c)
    first, second, third = (along(modes, f, t)(*args) for modes in ("f", "rf", "rff"))

    def twice(*args: jax.Array) -> jax.Array:
        return f(*args) + f(*(2 * a for a in args))

    loop, loop2 = along("f", twice, t)(*args), along("rf", twice, t)(*args)
    return {
        "vjp": vjp,
        "transpose": vjp,
        "jvp": (y, dy),
        "linearize": (y, dy),
        "vmap": jnp.stack([k * dy for k in range(3)]),
        **dict.fromkeys(("r", "f"), first),
        **dict.fromkeys(("fr", "rr", "ff", "rf", "checkpoint", "checkpoint f"), second),
        **dict.fromkeys(("frr", "rrr", "fff", "rff", "rfr"), third),
        "scan r": loop,
        "scan f": loop,
        "while f": loop2,
    }


@partial(compiled, static_argnums=(0, 1))
def table(fn: Callable[..., jax.Array], reference: Callable[..., jax.Array], *given: Any) -> tuple[Any, Any, Any]:
    both = fnconv.both_modes(fn)
    return in_reverse(both, *given) | in_forward(both, *given), in_reverse(fn, *given), of_reference(reference, *given)


# One of each kind of rule; the slow run has all.
DEFAULT = ("conv-strided", "max_pool-overlapping", "dense", "softmax_cross_entropy-weights")


@each(CHANNELS_LAST, slow=lambda o: o.name not in DEFAULT)
def test_every_mode(operation: Operation) -> None:
    args = tuple(a.astype(np.float64) for a in operation.args)
    t = tuple(np.roll(a, 1).reshape(a.shape) + 1 for a in args)
    shape = jax.eval_shape(operation.reference, *args).shape
    c = np.random.default_rng(1).integers(-2, 3, shape).astype(np.float64)
    both, reverse, want = table(operation.fn, operation.reference, c, args, t)
    assert both.keys() == want.keys()
    for attachment in (both, reverse):
        for name in attachment:
            assert_same(attachment[name], want[name], operation.exact, name)
