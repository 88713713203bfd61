"""The programs that are compared: a function's value and derivatives, in its own dtypes and in float64.

Derivatives are products of the Jacobian and `vectors`: cotangents of the arguments, given those of the results; in
forward mode tangents of the results, given those of the arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.distances import distance
from fnconv.judge.engine.programs import InFloat64, abstract, precision
from fnconv.judge.engine.rounding import is_opaque
from fnconv.judge.engine.running_error import Values

Arrays = tuple[Values, ...]
Both = tuple[Sequence[Values], Sequence[Values]]  # of the results and of the derivatives
Flat = Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]
Program = Callable[..., tuple[Any, Any, Any]]


def value_and_cotangents(flat: Flat) -> Program:
    """program(values, cotangents) -> (results, cotangents of the values, results without derivative)."""

    def program(values: Sequence[Any], vectors: Sequence[Any]) -> tuple[Any, Any, Any]:
        results, pull, others = jax.vjp(flat, *values, has_aux=True)
        return results, pull(tuple(vectors)), others

    return program


def value_and_tangents(flat: Flat) -> Program:
    """program(values, tangents) -> (results, their tangents, results without derivative)."""

    def program(values: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any, Any]:
        return jax.jvp(flat, tuple(values), tuple(tangents), has_aux=True)

    return program


def next_order(program: Program) -> Program:
    """Their cotangents: (values, u) -> (_, g, _) becomes (values + u, v) -> ((), dg/d(values, u)ᵀ v, ())."""

    def higher(values: Sequence[Any], vectors: Sequence[Any], *, split: int) -> tuple[Any, Any, Any]:
        _, pull = jax.vjp(lambda *v: tuple(program(v[:split], v[split:])[1]), *values)
        return (), pull(tuple(vectors)), ()

    return higher


@dataclass(frozen=True)
class Task:
    """A program to evaluate in float64, traced for these avals.

    limited: whether its steps may claim no more than `dtype`'s roundoff.  exactly: whether no bounds are asked for.
    further: the same with more steps in its loops, if it has any: what they have left is an error that it may have.
    """

    program: Program
    values: Sequence[Any]
    vectors: Sequence[Any]
    dtype: Any
    limited: bool
    exactly: bool = False
    further: Program | None = None


CONVERGED = 2.0**-8  # of the largest entry, that more steps may change


class Replayed:
    """A program of values and vectors in float64, and what rounding may do to its results.

    opaque: whether a step of it knows its own dtypes alone.
    """

    def __init__(self, task: Task) -> None:
        with precision(jnp.float64):
            jaxpr, self.outputs = trace(task)
            avals = [abstract(v.shape, jnp.float64) for v in (*task.values, *task.vectors)]
            self.program = InFloat64(jaxpr, avals, dtype=task.dtype, limited=task.limited, exactly=task.exactly)
        self.opaque = is_opaque(jaxpr)
        self.further: Replayed | None = None
        if task.further is not None:
            with contextlib.suppress(Exception):  # as where JAX does not differentiate a loop
                self.further = Replayed(replace(task, program=task.further, further=None, exactly=True))

    def exact(self, values: Sequence[Values], vectors: Sequence[Values]) -> Both:
        """(results, derivatives) without rounding."""
        return self._split(self.program.exact(_float64(values, vectors)))

    def bounds(self, values: Sequence[Values], vectors: Sequence[Values], samples: int, *, fine: bool = True) -> Both:
        """What rounding explains of each: in float64, or in the program's own dtypes where it is not `fine`."""
        found = self.program.bound(_float64(values, vectors), samples, fine=fine)
        if self.further is not None:
            left = zip(*(p.program.exact(_float64(values, vectors)) for p in (self, self.further)), strict=True)
            found = [b + 2 * unsettled(*pair) for b, pair in zip(found, left, strict=True)]
        return self._split(found)

    def _split(self, arrays: Sequence[Values]) -> Both:
        return tuple(arrays[: self.outputs]), tuple(arrays[self.outputs :])


def unsettled(result: Values, further: Values) -> Values:
    """What more steps change; 0 where they change so much that it is no limit."""
    off, largest = distance(further, result), float(np.max(abs(result), initial=0, where=np.isfinite(result)))
    return off if off.max(initial=0) <= CONVERGED * largest else np.zeros_like(off)


def _float64(*groups: Sequence[Values]) -> list[Values]:
    return [np.asarray(v, np.float64) for values in groups for v in values]


def trace(task: Task) -> tuple[Any, int]:
    """(jaxpr of results and derivatives, number of results)."""
    count: list[int] = []

    def run(values: Any, vectors: Any) -> Any:
        results, derivatives, _ = task.program(values, vectors)
        count[:] = [len(results)]
        return [*results, *derivatives]

    return jax.make_jaxpr(run)(tuple(task.values), tuple(task.vectors)), count[0]


def compile_all(tasks: Sequence[Task]) -> list[Replayed | Exception]:
    """Each task's program, compiled side by side; the error in place of one that has none."""

    def build(task: Task) -> Replayed | Exception:
        try:
            return Replayed(task)
        except Exception as error:  # whatever a user's function raises
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(build, tasks))
