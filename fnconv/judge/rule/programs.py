"""The programs that are compared: a function's value and cotangents, in its own dtypes and widened to float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.running_error import Arithmetic, Values
from fnconv.judge.own.programs import arithmetic, fast_options
from fnconv.judge.own.references import abstract
from fnconv.judge.rule import widen

Arrays = tuple[Values, ...]
Flat = Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]

SAMPLES = 8
FACTOR = 16.0  # of the largest of 8 samples: less than one roundoff has a chance of (1/16)^8 for each step
OWN_FACTOR = 4.0  # of the largest of 64
# Runs before a difference is called one: float64 rounds most noise below a unit in its last place away, so that eight
# may leave no trace of a step.  Of smooth noise the largest of 64 is at most 1.1 times (one step that rounds) to 1.6
# times (many of them: 2.6 against 1.7 standard deviations) that of eight: nothing larger is let through.
MORE = 8 * SAMPLES


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


@dataclass
class Wide:
    """A program widened to float64: `clean` evaluates it, `spread` how far rounding alone moves its results."""

    compiled: Any
    outputs: int  # results before the cotangents
    opaque: bool

    def clean(self, values: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        return self._run(values, cotangents, 0.0, 0.0, np.zeros(widen.NOISE_LENGTH))

    def spread(self, values: Arrays, cotangents: Arrays, *, native: bool, samples: int = SAMPLES) -> tuple[Any, Any]:
        """The largest deviation in several runs, for each element; infinite where a run was not finite."""
        right = self.clean(values, cotangents)
        worst = jax.tree.map(np.zeros_like, right)
        rng = np.random.default_rng((0x5EED, 0))
        for _ in range(samples):
            noise = rng.uniform(-1, 1, widen.NOISE_LENGTH)
            moved = self._run(values, cotangents, float(native), float(not native), noise)
            worst = jax.tree.map(_further, worst, moved, right)
        return worst

    def _run(
        self, values: Arrays, cotangents: Arrays, native: float, double: float, noise: Values
    ) -> tuple[Arrays, Arrays]:
        with arithmetic(jnp.float64):
            operands = tuple(np.asarray(v, np.float64) for v in (*values, *cotangents))
            results = [np.asarray(r) for r in self.compiled(operands, np.float64(native), np.float64(double), noise)]
        return tuple(results[: self.outputs]), tuple(results[self.outputs :])


def _further(worst: Values, moved: Values, right: Values) -> Values:
    with np.errstate(invalid="ignore"):
        distance = np.where((moved == right) | (np.isnan(moved) & np.isnan(right)), 0.0, abs(moved - right))
    return np.maximum(worst, np.where(np.isnan(distance), np.inf, distance))


@dataclass(frozen=True)
class Task:
    """A program to widen, traced for these avals.

    own: whether its steps may claim no more than `dtype`'s roundoff.  quiet: whether `clean` alone is asked for.
    """

    program: Callable[..., Any]
    values: Sequence[Any]
    cotangents: Sequence[Any]
    dtype: Any
    own: bool
    quiet: bool = False


def trace(task: Task) -> tuple[Any, int]:
    """(jaxpr of results and cotangents, number of results)."""
    count: list[int] = []

    def run(values: Any, cotangents: Any) -> Any:
        results, gradients, _ = task.program(values, cotangents)
        count[:] = [len(results)]
        return [*results, *gradients]

    return jax.make_jaxpr(run)(tuple(task.values), tuple(task.cotangents)), count[0]


def compile_wide(tasks: Sequence[Task]) -> list[Wide | Exception]:
    """Each task's program, compiled side by side; the error in place of one that has none."""

    def build(task: Task) -> Wide | Exception:
        with arithmetic(jnp.float64):
            try:
                jaxpr, outputs = trace(task)
                return Wide(_compile(jaxpr, task), outputs, widen.is_opaque(jaxpr))
            except Exception as error:  # whatever a user's function raises
                return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(build, tasks))


def _compile(jaxpr: Any, task: Task) -> Any:
    facts = Arithmetic.of(task.dtype)
    tiny = 6e-8 if task.dtype == jnp.float16 else facts.tiny

    def run(operands: Any, native: Any, double: Any, numbers: Any) -> Any:
        largest = facts.u if task.own else 1.0
        kind = widen.Silence if task.quiet else widen.Noise
        noise = kind(native, double, numbers, facts.u, largest, tiny, task.own)
        return [_as_float64(r) for r in widen.evaluate(jaxpr, list(operands), noise)]

    shapes = [abstract(v.shape, jnp.float64) for v in (*task.values, *task.cotangents)]
    scalar, numbers = abstract((), jnp.float64), abstract((widen.NOISE_LENGTH,), jnp.float64)
    lowered = jax.jit(run).lower(tuple(shapes), scalar, scalar, numbers)
    return lowered.compile(fast_options(jax.default_backend()))


def _as_float64(value: Any) -> Any:
    return value.astype(jnp.float64) if hasattr(value, "dtype") and value.dtype != jax.dtypes.float0 else value


class Native:
    """A function's value and cotangents as its author runs them: (results, cotangents) in their own dtypes."""

    def __init__(self, program: Callable[..., Any], dtype: Any, *, eager: bool = False) -> None:
        self.dtype = dtype
        self.run = program if eager else jax.jit(program)

    def __call__(
        self, values: Arrays, cotangents: Arrays, kinds: Sequence[Any], result_kinds: Sequence[Any]
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        with arithmetic(self.dtype):
            given = tuple(jnp.asarray(v, k.dtype) for v, k in zip(values, kinds, strict=True))
            pulled = tuple(jnp.asarray(c, k.dtype) for c, k in zip(cotangents, result_kinds, strict=True))
            results, gradients, _ = self.run(given, pulled)
            return tuple(map(np.asarray, results)), tuple(map(np.asarray, gradients))
