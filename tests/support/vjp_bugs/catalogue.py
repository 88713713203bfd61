"""Operations with a custom rule each: the right one, and wrong ones by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Arrays = tuple[Any, ...]
HIGHEST = lax.Precision.HIGHEST


def rule(primal: Callable, fwd: Callable, bwd: Callable) -> Callable:
    """A custom_vjp of its own for every call."""

    @functools.wraps(primal)
    def function(*args: Any) -> Any:
        return primal(*args)

    function.__name__ = primal.__name__.lstrip("_")
    with_rule = jax.custom_vjp(function)
    with_rule.defvjp(fwd, bwd)
    return with_rule


@dataclass
class Operation:
    """A function with its right rule; bugs are other forwards or backwards by name."""

    primal: Callable
    fwd: Callable
    bwd: Callable
    args: Callable[[np.random.Generator, Any, float], Arrays]  # rng, dtype, scale
    bugs: dict[str, tuple[Callable, Callable]] = field(default_factory=dict)

    def right(self) -> Callable:
        return rule(self.primal, self.fwd, self.bwd)

    def wrong(self, name: str) -> Callable:
        return rule(self.primal, *self.bugs[name])

    def bug(self, name: str, *, fwd: Callable | None = None, bwd: Callable | None = None) -> None:
        self.bugs[name] = (fwd or self.fwd, bwd or self.bwd)


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator, Any, float], Arrays]:
    return lambda rng, dtype, scale: tuple(jnp.asarray(rng.standard_normal(s) * scale, dtype) for s in shapes)


OPERATIONS: dict[str, Operation] = {}


def plan(name: str, *args: Any) -> Operation:
    OPERATIONS[name] = Operation(*args)
    return OPERATIONS[name]
