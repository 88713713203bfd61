"""The slope of a function in float64, beside what its gradient says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fnconv.judge.engine.replay import replay
from fnconv.judge.engine.rounding import Float64, widened
from fnconv.judge.engine.running_error import Values
from fnconv.judge.model.gradient import Function, Problem

STEP = 2.0**-20  # of the central differences: h^2 and u / h are alike in float64, to a factor of some hundred


def central_difference(problem: Problem, fn: Function, gradient: Sequence[Values], seed: int) -> str:
    """<gradient, v> beside the slope of the value in float64 along a random direction v: one line.

    The slope is (f(h) - f(-h)) / 2h; that at 2h differs from it by three times its error, where f is smooth.
    """
    moving, given, cotangents = problem.operands
    rng = np.random.default_rng(seed)
    direction = [rng.standard_normal(a.shape).astype(np.float32) for a in moving]

    def along(moving: Any, given: Any, cotangents: Any, direction: Any, step: Any) -> Any:
        at = [a + v.astype(a.dtype) * step.astype(a.dtype) for a, v in zip(moving, direction, strict=True)]
        values = problem.value(fn)(at, given)
        return sum((y.astype(np.float32) * c.astype(np.float32)).sum() for y, c in zip(values, cotangents, strict=True))

    with_step = (moving, given, cotangents, [jax.numpy.asarray(v) for v in direction], jax.numpy.float32(0))
    jaxpr = jax.make_jaxpr(along)(*with_step)
    with jax.enable_x64(True):
        leaves = [widened(leaf) for leaf in jax.tree.leaves(with_step)]
        value = jax.jit(lambda leaves, step: replay(jaxpr, [*leaves[:-1], step], Float64())[0])
        at = {n: float(value(leaves, jax.numpy.float64(n * STEP))) for n in (-2, -1, 1, 2)}
    slopes = [(at[n] - at[-n]) / (2 * n * STEP) for n in (1, 2)]
    expected = sum(float((g * v).sum()) for g, v in zip(gradient, direction, strict=True))
    return (
        f"along a random direction float64 rises by {slopes[0]:.9g} (central differences, {slopes[1]:.9g} at twice the "
        f"step), the gradient says {expected:.9g}"
    )
