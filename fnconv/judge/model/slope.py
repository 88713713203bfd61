"""The slope of a function in float64, beside what its gradient says."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from fnconv.judge.engine.distances import dot
from fnconv.judge.engine.programs import InFloat64, abstract
from fnconv.judge.engine.running_error import Values
from fnconv.judge.model.gradient import Function, GradientProblem

STEP = 2.0**-20  # of the central differences: h^2 and u / h are alike in float64, to a factor of some hundred


def central_difference(problem: GradientProblem, fn: Function, gradient: Sequence[Values], seed: int) -> str:
    """<gradient, v> beside the slope of the value in float64 along a random direction v: one line.

    The slope is (f(h) - f(-h)) / 2h; that at 2h differs from it by three times its error, where f is smooth.
    """
    moving, given, cotangents = problem.operands
    rng = np.random.default_rng(seed)
    direction = [rng.standard_normal(a.shape) for a in moving]
    avals = [*(abstract(a.shape, np.float64) for a in moving), *given]
    program = InFloat64(jax.make_jaxpr(problem.value(fn))(moving, given), avals, exactly=True, runs=4)

    def value(step: float) -> float:
        at = [np.asarray(a, np.float64) + step * v for a, v in zip(moving, direction, strict=True)]
        return dot(program.exact([*at, *given]), [np.asarray(c, np.float64) for c in cotangents])

    at = {n: value(n * STEP) for n in (-2, -1, 1, 2)}
    slopes = [(at[n] - at[-n]) / (2 * n * STEP) for n in (1, 2)]
    expected = sum(float((g * v).sum()) for g, v in zip(gradient, direction, strict=True))
    return (
        f"along a random direction float64 rises by {slopes[0]:.9g} (central differences, {slopes[1]:.9g} at twice the "
        f"step), the gradient says {expected:.9g}"
    )
