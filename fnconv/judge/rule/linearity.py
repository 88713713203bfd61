"""The map from vectors to derivatives is linear: zero, negation, doubling, sums; and JAX can transpose it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.distances import dot
from fnconv.judge.engine.programs import abstract, precision, settled
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.agree import agree, largest, relaxed
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.programs import Flat, Replayed, Task, compile_all
from fnconv.judge.rule.trial import Trial, first_line

LINEAR, ADJOINT, MULTILINEAR = "linear in the cotangent", "adjoint identity", "multilinear"


def check_linear(trial: Trial) -> None:
    """V(0) = 0, V(-u) = -V(u), V(c u) = c V(u), V(u + v) = V(u) + V(v), in float64 within rounding."""
    trial.report.row(LINEAR)
    draw = trial.draw(3)
    point = draw.smooth()
    if point is None:
        return
    u, v = point.vectors, draw.vectors()
    zero, other = tuple(0 * c for c in u), tuple(map(np.add, u, v))
    of_u, of_v = pull(trial.rule, point, u), pull(trial.rule, point, v)

    @cache
    def allowed(samples: int) -> list[Values]:
        rooms = [trial.rule.bounds(point.values, vectors, samples)[1] for vectors in (u, v, other)]
        together = [np.sqrt(a**2 + b**2 + c**2) for a, b, c in zip(*rooms, strict=True)]
        return [r + 2.0**-46 * largest(x, y) + 1e-300 for r, x, y in zip(together, of_u, of_v, strict=True)]

    far = 1024 if trial.rule.opaque else 2**40  # a step that keeps its dtype may overflow
    far = 2 if trial.rule.further else far  # a loop may end at a residual of a certain size
    tests: list[tuple[str, float, Sequence[Values], list[Values]]] = [
        ("the cotangents of a zero cotangent are not zero", 0, zero, [0 * g for g in of_u]),
        ("V(-u) is not -V(u)", 2, tuple(-c for c in u), [-g for g in of_u]),
        ("V(2u) is not 2 V(u)", 2, tuple(2 * c for c in u), [2 * g for g in of_u]),
        (f"V({far:.3g} u) is not {far:.3g} V(u)", far, tuple(far * c for c in u), [far * g for g in of_u]),
        (f"V(u / {far:.3g}) is not V(u) / {far:.3g}", 1 / far, tuple(c / far for c in u), [g / far for g in of_u]),
        ("V(u + v) is not V(u) + V(v)", 2, other, [a + b for a, b in zip(of_u, of_v, strict=True)]),
    ]
    for text, times, vectors, want in tests:
        got = pull(trial.rule, point, vectors)

        def bounds(samples: int, times: float = times, want: list[Values] = want) -> list[Values]:
            return relaxed(allowed(samples), want, times)

        def guess(name: str, wrong: Values, text: str = text) -> str:
            return f"{text}: the rule is not linear in the incoming cotangent"

        if not agree(trial, LINEAR, trial.derivative_names, got, want, bounds, guess, point.name):
            return


def check_adjoint(trial: Trial) -> None:
    """<Vᵀ(t), u> = <t, V(u)>, Vᵀ being `jax.linear_transpose` of the rule.

    Second derivatives transpose a cotangent map where they can; reverse mode transposes the tangent map of a rule of
    forward mode, which must have a transpose where the function's own has.
    Both sides are evaluated in float64 whatever dtypes the rule casts to, so that float64's roundings bound them.
    """
    row = trial.report.row(ADJOINT)
    draw = trial.draw(4)
    point = draw.smooth()
    if point is None or trial.right is None:
        trial.report.skip(ADJOINT, "no automatic derivative of the reference")
        return
    if trial.traced_for(trial.rule_flat) is None:
        trial.report.skip(ADJOINT, "the rule cannot be traced alone")
        return
    (program,) = compile_all([_transposed(trial, trial.rule_flat)])
    if isinstance(program, Exception):  # not every rule can be transposed
        text = f"the rule cannot be transposed: {first_line(program)}"
        if trial.forward and isinstance(compile_all([_transposed(trial, trial.reference_flat)])[0], Replayed):
            trial.report.fail(ADJOINT, "", f"{text}; reverse mode needs it, and the function itself has it")
        else:
            trial.report.warn(ADJOINT, text)
        return
    derivatives = pull(trial.rule, point, point.vectors)
    others = tuple(draw.rng.standard_normal(d.shape) for d in derivatives)
    back = program.exact(point.values, others)[1]
    left, right = dot(back, point.vectors), dot(derivatives, others)
    size = dot(map(abs, back), map(abs, point.vectors)) + dot(map(abs, derivatives), map(abs, others))
    count = sum(v.size for v in (*others, *point.vectors))

    def room(samples: int) -> float:
        spread = dot(trial.rule.bounds(point.values, point.vectors, samples)[1], map(abs, others))
        return 2 * spread + 2.0**-51 * (count + 64) * size

    error = abs(left - right)
    bound = settled(room, lambda bound: error <= bound)
    if not np.isfinite(left + right + bound):
        return
    ratio = error / bound if bound else 0.0
    row.reach(ratio)
    if ratio > 1:
        text = f"<Vᵀ(t), u> = {left:.9g} by the transposed rule, <t, V(u)> = {right:.9g}: "
        text += "V is not what its transpose undoes"
        trial.report.fail(ADJOINT, "", text, point.name, "float64", error=error, bound=bound, ratio=ratio)


def _transposed(trial: Trial, flat: Flat) -> Task:
    """Vᵀ, of arrays like the derivatives."""
    values, vectors = trial.traced_for(flat) or (trial.kinds, trial.vectors)
    derivative = trial.derivative(flat)

    def program(values: Any, others: Any) -> tuple[Any, Any, Any]:
        transpose = jax.linear_transpose(lambda vectors: tuple(derivative(values, vectors)[1]), vectors)
        return (), transpose(tuple(others))[0], ()

    with precision(jnp.float64):
        others = jax.eval_shape(derivative, values, vectors)[1]
    strong = tuple(abstract(o.shape, o.dtype) for o in others)
    return Task(program, values, strong, trial.dtype, limited=True, exactly=True)


def note_multilinear(trial: Trial) -> None:
    """In which arguments the function is linear, found on integers, exactly."""
    if trial.right is None:
        return
    draw = trial.draw(5)
    base, other = draw.integers(3), draw.integers(3)
    if base is None or other is None:
        return
    run = trial.right.exact
    linear = []
    for i, name in enumerate(trial.names):

        def at(value: Values, i: int = i) -> Any:
            values = tuple(value if j == i else v for j, v in enumerate(base.values))
            return run(values, base.vectors)[0]

        a, b = base.values[i], other.values[i]
        sums = zip(at(a), at(b), at(a + b), at(0 * a), at(2 * a), strict=True)
        if all(np.array_equal(x + y, z) and not o.any() and np.array_equal(2 * x, t) for x, y, z, o, t in sums):
            linear.append(name)
    row = trial.report.row(MULTILINEAR)
    row.detail = f"linear in {', '.join(linear)}" if linear else "in no argument"


def pull(program: Replayed, point: Point, vectors: Sequence[Values]) -> list[Values]:
    """The rule's derivatives at a point."""
    return list(program.exact(point.values, tuple(vectors))[1])
