"""What is elementwise is computed again for the gradient: one tensor for norm, activation and convolution.

c is the output of a convolution, u = norm(c), a = activation(u), y = conv(a, w).  Each rule keeps its operand, c, u and
a, though u and a are functions of c, element by element, once the moments are known.  The value of such a chain has a
`Recipe`; an operation that keeps a value with a recipe keeps what the recipe reads in its place, and follows it again
on the way back.  Cotangents go the way they went: to the value itself, and through the chain once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.attach import attach, modes
from fnconv.transform.moments import Moments
from fnconv.transform.table import ELEMENTWISE

Operation = Callable[..., jax.Array]

KEEP_Y = frozenset(("relu", "relu6", "leaky_relu"))  # what these keep, the next operation keeps as well
ACTIVATIONS = frozenset(("gelu", "sigmoid", "tanh", *ELEMENTWISE)) - KEEP_Y - {"glu"}
BEGIN = ACTIVATIONS | {"norm"}
CONTINUE = ACTIVATIONS | KEEP_Y | {"gate"}
PRODUCTS = frozenset(("conv", "dense"))
KEEPERS = CONTINUE | PRODUCTS


class Recipe(NamedTuple):
    """A value: each step is applied to the result of the one before it and to as many `values` as it reads further."""

    steps: tuple[tuple[Operation, int], ...]
    values: tuple[Any, ...]

    def then(self, step: Operation, *values: Any) -> Recipe:
        return Recipe((*self.steps, (step, len(values))), (*self.values, *values))


class Recipes:
    """Those of the values so far."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self._known: dict[int, tuple[Any, Recipe]] = {}  # a value is kept, so that its id stays its own

    def of(self, value: Any) -> Recipe | None:
        found = self._known.get(id(value))
        return found[1] if found else None

    def kept_again(self, operation: str, run: Operation, values: Sequence[Any]) -> tuple[Operation, Sequence[Any]]:
        """The operation, keeping what its first operand's recipe reads in place of that operand, if it has a recipe."""
        recipe = self.of(values[0]) if operation in KEEPERS and modes.value == "reverse" else None
        if recipe is None:
            return run, values
        moments = tuple(self.moments.is_moment(v) for v in recipe.values)
        return recomputing(run, recipe.steps, moments, operation in PRODUCTS), (*values, *recipe.values)

    def follow_operation(self, operation: str, run: Operation, values: Sequence[Any], result: Any) -> None:
        recipe = self.of(values[0]) if operation in CONTINUE else None
        if recipe is not None:
            recipe = recipe.then(run, *values[1:])
        elif operation in BEGIN:
            recipe = Recipe(((run, len(values)),), tuple(values))
        self._keep(result, recipe)

    def follow(self, primitive: str, params: Mapping[str, Any], operands: Sequence[Any], result: Any) -> None:
        """Through the addition of a broadcast operand, and conversions."""
        if primitive == "convert_element_type":
            recipe = self.of(operands[0])
            self._keep(result, recipe and recipe.then(_conversion(params["new_dtype"])))
        elif primitive == "add":
            for v, b in (operands, operands[::-1]):
                recipe = self.of(v)
                if recipe is not None and self.moments.is_small(b, v):
                    placed = self.moments.placed(b)
                    self._keep(result, recipe.then(_addition(placed.shape), placed.source))

    def _keep(self, result: Any, recipe: Recipe | None) -> None:
        if recipe is not None:
            self._known[id(result)] = result, recipe


@lru_cache
def _conversion(dtype: Any) -> Operation:
    return lambda v: v.astype(dtype)


@lru_cache
def _addition(shape: tuple[int, ...]) -> Operation:
    return lambda v, b: v + b.reshape(shape)


@lru_cache(maxsize=4096)
def recomputing(
    run: Operation, steps: tuple[tuple[Operation, int], ...], moments: tuple[bool, ...], apart: bool
) -> Operation:
    """run(v, *others), given further what v is made of: that is kept in the place of v.

    moments: which of that are the moments of another one, whose derivative they are a part of, see norm.py.
    apart: v is an array in memory and not part of a loop, and is not to be made before dy is there.
    """
    count = len(moments)

    def parts(operands: Sequence[jax.Array]) -> tuple[Any, Any]:
        return operands[: len(operands) - count], operands[len(operands) - count :]

    def made(*values: jax.Array) -> jax.Array:
        given, v = iter(values), None
        for step, n in steps:
            read = [next(given) for _ in range(n)]
            v = step(*read) if v is None else step(v, *read)
        return cast(jax.Array, v)

    def primal(*operands: jax.Array) -> jax.Array:
        return run(*parts(operands)[0])

    def fwd(*operands: jax.Array) -> tuple[jax.Array, Any]:
        own, made_of = parts(operands)
        y, _ = jax.vjp(run, *own)  # not run(*own), which a tangent of this rule could not pass
        return y, (own[1:], made_of)

    def bwd(kept: Any, dy: jax.Array) -> tuple[jax.Array, ...]:
        others, made_of = kept
        # or the compiler would keep what the forward pass has made of the same
        made_of, *late = lax.optimization_barrier((made_of, dy) if apart else (made_of,))  # type: ignore[no-untyped-call]
        dy = late[0] if late else dy
        v, _ = jax.vjp(made, *made_of)
        _, pull = jax.vjp(run, v, *others)
        return (*pull(dy), *map(jnp.zeros_like, made_of))

    primal.__name__ = getattr(run, "__name__", "run")
    attached = attach(primal, fwd, bwd, has_spec=False)

    def operation(*operands: jax.Array) -> jax.Array:
        own, made_of = parts(operands)
        held = [lax.stop_gradient(v) if is_moment else v for v, is_moment in zip(made_of, moments, strict=True)]
        y: jax.Array = attached(*own, *held)
        return y

    operation.__name__ = operation.__qualname__ = primal.__name__
    return jax.jit(operation)
