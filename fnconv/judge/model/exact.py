"""The results of a program in float64, and how far rounding takes them from there."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from fnconv.judge.model.gradient import Function, Problem
from fnconv.judge.model.replay import replay, widen
from fnconv.judge.model.rounding import Rounding

Float64s = npt.NDArray[np.float64]

STEP = 2.0**-20  # of the central differences: h^2 and u / h are alike in float64, to a factor of some hundred

# XLA on a CPU compiles a program five times as fast with these, and runs it a tenth as fast
HASTY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def in_float64(jaxpr: Any, operands: Any, samples: int, seed: int) -> tuple[list[Float64s], list[Float64s]]:
    """Every result of the program without rounding, and the standard deviation that rounding gives it."""
    leaves = jax.tree.leaves(operands)
    platform = jax.default_backend()
    rounding = Rounding(None, platform)

    def program(leaves: Any, key: Any) -> Any:
        return replay(jaxpr, [widen(leaf) for leaf in leaves], Rounding(key, platform, rounding.drawn))

    keys = np.random.default_rng(seed).integers(1, 2**32, samples, dtype=np.uint32)
    with jax.enable_x64(True):
        lowered = jax.jit(program).lower(leaves, np.uint32(0))
        run = _compiled(lowered, rounding.drawn[0], samples)
        exact = [np.asarray(v, np.float64) for v in run(leaves, np.uint32(0))]
        squares = [np.zeros(e.shape) for e in exact]
        for key in keys:
            for square, value, e in zip(squares, run(leaves, key), exact, strict=True):
                with np.errstate(invalid="ignore", over="ignore"):
                    off = np.asarray(value, np.float64) - e
                square += np.where(np.isnan(off), 0.0, off) ** 2
    return exact, [np.sqrt(square / samples) for square in squares]


def central_difference(problem: Problem, fn: Function, gradient: list[Float64s], seed: int) -> str:
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
        leaves = [widen(leaf) for leaf in jax.tree.leaves(with_step)]
        value = jax.jit(lambda leaves, step: replay(jaxpr, [*leaves[:-1], step], Rounding.none())[0])
        at = {n: float(value(leaves, jax.numpy.float64(n * STEP))) for n in (-2, -1, 1, 2)}
    slopes = [(at[n] - at[-n]) / (2 * n * STEP) for n in (1, 2)]
    expected = sum(float((g * v).sum()) for g, v in zip(gradient, direction, strict=True))
    return (
        f"along a random direction float64 rises by {slopes[0]:.9g} (central differences, {slopes[1]:.9g} at twice the "
        f"step), the gradient says {expected:.9g}"
    )


def _compiled(lowered: Any, operations: int, samples: int) -> Any:
    """Compiled so that compiling and running together take the least time, by rough figures for both."""
    flops = float((lowered.cost_analysis() or {}).get("flops", np.inf))
    if jax.default_backend() == "cpu" and samples * flops / 1e8 < operations / 25:
        try:
            return lowered.compile(compiler_options=HASTY)
        except jax.errors.JaxRuntimeError:  # an option that this version does not know
            pass
    return lowered.compile()
