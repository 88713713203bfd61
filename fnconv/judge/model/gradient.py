"""The user's function as a list of arrays to a list of arrays, and its gradient by either way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from fnconv.base.errors import invalid, mistyped
from fnconv.judge.engine.arguments import Leaves, leaves_of

Arrays = list[jax.Array]
Function = Callable[..., Any]


@dataclass(frozen=True)
class GradientProblem:
    """A function at certain arguments.

    Attributes:
      fn: the user's.
      leaves: of its arguments.
      moving: which leaves the derivative is taken for; `given` are the other arrays.
      argument_paths: of the moving leaves; `value_paths` of the floating leaves of the value.
      undifferentiated: leaves of the arguments asked for that carry no derivative, with their dtypes.
      cotangents: one for each floating leaf of the value.
    """

    fn: Function
    has_aux: bool
    leaves: Leaves
    moving: tuple[int, ...]
    given: tuple[int, ...]
    argument_paths: tuple[str, ...]
    undifferentiated: tuple[str, ...]
    value_paths: tuple[str, ...] = ()
    cotangents: tuple[jax.Array, ...] = ()

    @property
    def name(self) -> str:
        """Of the function."""
        return getattr(self.fn, "__name__", type(self.fn).__name__)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of what `gradient` returns."""
        return self.value_paths + self.argument_paths

    @property
    def operands(self) -> tuple[Arrays, Arrays, Arrays]:
        """(moving leaves, other arrays, cotangents)."""
        return (
            [jnp.asarray(self.leaves.values[i]) for i in self.moving],
            [jnp.asarray(self.leaves.values[i]) for i in self.given],
            list(self.cotangents),
        )

    def value(self, fn: Function) -> Callable[[Arrays, Arrays], Arrays]:
        """(moving leaves, other arrays) -> the floating leaves of the value."""

        def run(moving: Arrays, given: Arrays) -> Arrays:
            return [leaf for _, leaf in floating_leaves(self.call(fn, moving, given))]

        return run

    def unused(self) -> list[str]:
        """Paths of the moving leaves on which the value does not depend at all."""
        moving, given, _ = self.operands
        program = jax.make_jaxpr(self.value(self.fn))(moving, given).jaxpr
        used = set(map(id, program.outvars))
        for e in reversed(program.eqns):
            used |= set(map(id, e.invars)) if used & set(map(id, e.outvars)) else set()
        return [path for path, v in zip(self.argument_paths, program.invars, strict=False) if id(v) not in used]

    def gradient(self, fn: Function) -> Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]:
        """(moving leaves, other arrays, cotangents) -> (the value's leaves, the gradient's)."""

        def run(moving: Arrays, given: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
            values, pull = jax.vjp(lambda moving: self.value(fn)(moving, given), moving)
            return values, pull(cotangents)[0]

        return run

    def call(self, fn: Function, moving: Sequence[Any], given: Sequence[Any]) -> Any:
        """fn's value where these arrays stand in its arguments."""
        args, kwargs = self.leaves.merged((*self.moving, *self.given), (*moving, *given))
        result = fn(*args, **kwargs)
        if not self.has_aux:
            return result
        if not isinstance(result, tuple) or len(result) != 2:
            raise mistyped("compare", "fn", "must return (value, auxiliary) with has_aux=True", type(result).__name__)
        return result[0]


def pose(
    fn: Function, args: Sequence[Any], kwargs: Mapping[str, Any], argnums: Any, has_aux: bool, cotangent: Any, seed: int
) -> GradientProblem:
    """The problem that arguments of `compare` pose; raises what `compare` raises for them."""
    if not callable(fn):
        raise mistyped("compare", "fn", "must be a function", type(fn).__name__)
    wanted = _argnums(argnums, len(args))
    leaves = leaves_of(fn, args, kwargs)
    moving, given, others = [], [], []
    for i, (name, leaf, position) in enumerate(zip(leaves.names, leaves.values, leaves.positions, strict=True)):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise mistyped("compare", name, "must be an array, for values are compared", leaf)
        if position in wanted and _is_float(leaf, leaves.attributes[i]):
            moving.append(i)
        elif isinstance(leaf, jax.Array | np.ndarray | np.generic):
            given.append(i)
            if position in wanted:
                others.append(f"{name}: {leaf.dtype}")
    if not moving:
        raise invalid("compare", "argnums", "must choose an argument that holds floating-point arrays", argnums)
    paths = tuple(leaves.names[i] for i in moving)
    problem = GradientProblem(fn, has_aux, leaves, tuple(moving), tuple(given), paths, tuple(others))
    return _with_cotangents(problem, cotangent, seed)


def _argnums(argnums: Any, count: int) -> frozenset[int]:
    numbers = argnums if isinstance(argnums, tuple | list) else (argnums,)
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in numbers):
        raise mistyped("compare", "argnums", "must be an integer or some of them", repr(argnums))
    if any(not -count <= n < count for n in numbers):
        raise invalid("compare", "argnums", f"must be positions among {count} arguments", argnums)
    return frozenset(int(n) % count for n in numbers)


def _is_float(leaf: Any, attribute: bool) -> bool:
    """Whether a leaf moves; a number of Python's that is an attribute, of a module, is a setting of it."""
    if isinstance(leaf, float):
        return not attribute
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return False
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise mistyped("compare", "argnums", "must choose real arguments", leaf.dtype, leaf.shape)
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def floating_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Path and leaf of whatever floats in a tree."""
    leaves = tree_flatten_with_path(tree)[0]
    return [(keystr(path), leaf) for path, leaf in leaves if _floats(leaf)]


def _floats(leaf: Any) -> bool:
    return isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", np.bool_), jnp.floating)


def _with_cotangents(problem: GradientProblem, cotangent: Any, seed: int) -> GradientProblem:
    moving, given, _ = problem.operands
    found: list[Any] = []

    def run(moving: Arrays, given: Arrays) -> Arrays:
        value = problem.call(problem.fn, moving, given)
        floating = floating_leaves(value)
        found[:] = jax.tree.structure(value), [path for path, _ in floating], list(map(_floats, jax.tree.leaves(value)))
        return [leaf for _, leaf in floating]

    avals = jax.eval_shape(run, moving, given)
    structure, paths, mask = found
    if not avals:
        raise invalid("compare", "fn", "must return at least one floating-point array", structure)
    if cotangent is not None:
        if jax.tree.structure(cotangent) != structure:
            raise invalid("compare", "cotangent", f"must be a tree like the value, {structure}", cotangent)
        leaves = [np.asarray(c) for c, floats in zip(jax.tree.leaves(cotangent), mask, strict=True) if floats]
        shapes = [c.shape for c in leaves], [a.shape for a in avals]
        if shapes[0] != shapes[1]:
            raise invalid("compare", "cotangent", f"must have the value's shapes, {shapes[1]}", shapes[0])
        cotangents = [jnp.asarray(c, a.dtype) for c, a in zip(leaves, avals, strict=True)]
    elif len(avals) == 1 and avals[0].shape == ():
        cotangents = [jnp.ones((), avals[0].dtype)]
    else:
        rng = np.random.default_rng(seed)
        cotangents = [jnp.asarray(rng.standard_normal(a.shape), a.dtype) for a in avals]
    named = tuple("value" + path for path in paths)
    return replace(problem, value_paths=named, cotangents=tuple(cotangents))
