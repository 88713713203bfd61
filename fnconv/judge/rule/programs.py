"""The programs that are compared: a function's value and cotangents, in its own dtypes and in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.programs import InFloat64, abstract, precision
from fnconv.judge.engine.rounding import is_opaque
from fnconv.judge.engine.running_error import Values

Arrays = tuple[Values, ...]
Both = tuple[Sequence[Values], Sequence[Values]]  # of the results and of the cotangents
Flat = Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]


def value_and_cotangents(flat: Flat) -> Callable[..., Any]:
    """program(values, cotangents) -> (results, cotangents of the values, results without derivative)."""

    def program(values: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, Any, Any]:
        results, pull, others = jax.vjp(flat, *values, has_aux=True)
        return results, pull(tuple(cotangents)), others

    return program


def next_order(program: Callable[..., Any]) -> Callable[..., Any]:
    """Cotangents of the cotangents: (values, u) -> (_, g, _) becomes (values + u, v) -> ((), dg/d(values, u) v, ())."""

    def higher(values: Sequence[Any], cotangents: Sequence[Any], *, split: int) -> tuple[Any, Any, Any]:
        _, pull = jax.vjp(lambda *v: tuple(program(v[:split], v[split:])[1]), *values)
        return (), pull(tuple(cotangents)), ()

    return higher


@dataclass(frozen=True)
class Task:
    """A program to evaluate in float64, traced for these avals.

    limited: whether its steps may claim no more than `dtype`'s roundoff.  exactly: whether no bounds are asked for.
    """

    program: Callable[..., Any]
    values: Sequence[Any]
    cotangents: Sequence[Any]
    dtype: Any
    limited: bool
    exactly: bool = False


class Replayed:
    """A program of values and cotangents in float64, and what rounding may do to its results.

    opaque: whether a step of it knows its own dtypes alone.
    """

    def __init__(self, task: Task) -> None:
        with precision(jnp.float64):
            jaxpr, self.outputs = trace(task)
            avals = [abstract(v.shape, jnp.float64) for v in (*task.values, *task.cotangents)]
            self.program = InFloat64(jaxpr, avals, dtype=task.dtype, limited=task.limited, exactly=task.exactly)
        self.opaque = is_opaque(jaxpr)

    def exact(self, values: Sequence[Values], cotangents: Sequence[Values]) -> Both:
        """(results, cotangents) without rounding."""
        return self._split(self.program.exact(_float64(values, cotangents)))

    def bounds(
        self, values: Sequence[Values], cotangents: Sequence[Values], samples: int, *, fine: bool = True
    ) -> Both:
        """What rounding explains of each: in float64, or in the program's own dtypes where it is not `fine`."""
        return self._split(self.program.bound(_float64(values, cotangents), samples, fine=fine))

    def _split(self, arrays: Sequence[Values]) -> Both:
        return tuple(arrays[: self.outputs]), tuple(arrays[self.outputs :])


def _float64(*groups: Sequence[Values]) -> list[Values]:
    return [np.asarray(v, np.float64) for values in groups for v in values]


def trace(task: Task) -> tuple[Any, int]:
    """(jaxpr of results and cotangents, number of results)."""
    count: list[int] = []

    def run(values: Any, cotangents: Any) -> Any:
        results, gradients, _ = task.program(values, cotangents)
        count[:] = [len(results)]
        return [*results, *gradients]

    return jax.make_jaxpr(run)(tuple(task.values), tuple(task.cotangents)), count[0]


def compile_all(tasks: Sequence[Task]) -> list[Replayed | Exception]:
    """Each task's program, compiled side by side; the error in place of one that has none."""

    def build(task: Task) -> Replayed | Exception:
        try:
            return Replayed(task)
        except Exception as error:  # whatever a user's function raises
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(build, tasks))


class Native:
    """A function's value and cotangents as its author runs them: (results, cotangents) in their own dtypes."""

    def __init__(self, program: Callable[..., Any], dtype: Any, *, eager: bool = False) -> None:
        self.dtype = dtype
        self.run = program if eager else jax.jit(program)

    def __call__(
        self, values: Arrays, cotangents: Arrays, kinds: Sequence[Any], result_kinds: Sequence[Any]
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        with precision(self.dtype):
            given = tuple(jnp.asarray(v, k.dtype) for v, k in zip(values, kinds, strict=True))
            pulled = tuple(jnp.asarray(c, k.dtype) for c, k in zip(cotangents, result_kinds, strict=True))
            results, gradients, _ = self.run(given, pulled)
            return tuple(map(np.asarray, results)), tuple(map(np.asarray, gradients))
