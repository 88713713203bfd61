"""A cotangent map is linear: zero, negation, doubling, sums; and its transpose is the derivative itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np

from fnconv.judge.engine.programs import settled
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.agree import agree, largest, relaxed
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.programs import Replayed, Task, compile_all
from fnconv.judge.rule.trial import Trial, first_line

LINEAR, ADJOINT, MULTILINEAR = "linear in the cotangent", "adjoint identity", "multilinear"


def check_linear(trial: Trial) -> None:
    """V(0) = 0, V(-u) = -V(u), V(c u) = c V(u), V(u + v) = V(u) + V(v), in float64 within rounding."""
    trial.report.row(LINEAR)
    draw = trial.draw(3)
    point = draw.smooth()
    if point is None:
        return
    u, v = point.cotangents, draw.cotangents()
    zero, other = tuple(0 * c for c in u), tuple(map(np.add, u, v))
    of_u, of_v = pull(trial.rule, point, u), pull(trial.rule, point, v)

    @cache
    def allowed(samples: int) -> list[Values]:
        rooms = [trial.rule.bounds(point.values, cotangents, samples)[1] for cotangents in (u, v, other)]
        together = [np.sqrt(a**2 + b**2 + c**2) for a, b, c in zip(*rooms, strict=True)]
        return [r + 2.0**-46 * largest(x, y) + 1e-300 for r, x, y in zip(together, of_u, of_v, strict=True)]

    far = 1024 if trial.rule.opaque else 2**40  # a step that keeps its dtype may overflow
    tests: list[tuple[str, float, Sequence[Values], list[Values]]] = [
        ("the cotangents of a zero cotangent are not zero", 0, zero, [0 * g for g in of_u]),
        ("V(-u) is not -V(u)", 2, tuple(-c for c in u), [-g for g in of_u]),
        ("V(2u) is not 2 V(u)", 2, tuple(2 * c for c in u), [2 * g for g in of_u]),
        (f"V({far:.3g} u) is not {far:.3g} V(u)", far, tuple(far * c for c in u), [far * g for g in of_u]),
        (f"V(u / {far:.3g}) is not V(u) / {far:.3g}", 1 / far, tuple(c / far for c in u), [g / far for g in of_u]),
        ("V(u + v) is not V(u) + V(v)", 2, other, [a + b for a, b in zip(of_u, of_v, strict=True)]),
    ]
    for text, times, cotangents, want in tests:
        got = pull(trial.rule, point, cotangents)

        def bounds(samples: int, times: float = times, want: list[Values] = want) -> list[Values]:
            return relaxed(allowed(samples), want, times)

        def guess(name: str, wrong: Values, text: str = text) -> str:
            return f"{text}: the rule is not linear in the incoming cotangent"

        if not agree(trial, LINEAR, trial.names, got, want, bounds, guess, point.name):
            return


def check_adjoint(trial: Trial) -> None:
    """<u, J t> = <V(u), t>, V being transposed by JAX: `linear_transpose` of the rule gives the derivative back.

    Both sides are evaluated in float64 whatever dtypes the rule casts to, so that float64's roundings bound them.
    """
    row = trial.report.row(ADJOINT)
    draw = trial.draw(4)
    point = draw.smooth()
    if point is None or trial.right is None:
        trial.report.skip(ADJOINT, "no automatic derivative of the reference")
        return
    tangents = tuple(draw.rng.standard_normal(v.shape) for v in point.values)
    kinds = trial.traced_for(trial.rule_flat)
    if kinds is None:
        trial.report.skip(ADJOINT, "the rule cannot be traced alone")
        return

    def transposed(values: Any, tangents: Any) -> tuple[Any, Any, Any]:
        _, pullback, _ = jax.vjp(trial.rule_flat, *values, has_aux=True)
        return (), jax.linear_transpose(pullback, kinds[1])(tuple(tangents))[0], ()

    (program,) = compile_all([Task(transposed, kinds[0], kinds[0], trial.dtype, limited=True, exactly=True)])
    if isinstance(program, Exception):  # not every rule can be transposed
        trial.report.warn(ADJOINT, f"the rule cannot be transposed: {first_line(program)}")
        return
    pushed = program.exact(point.values, tangents)[1]
    left = sum(float((p * c).sum()) for p, c in zip(pushed, point.cotangents, strict=True))
    gradients = pull(trial.rule, point, point.cotangents)
    terms = [(g * t) for g, t in zip(gradients, tangents, strict=True)]
    right = sum(float(t.sum()) for t in terms)
    size = sum(float(abs(t).sum()) for t in terms) + sum(
        float(abs(p * c).sum()) for p, c in zip(pushed, point.cotangents, strict=True)
    )
    count = sum(v.size for v in (*point.values, *point.cotangents))

    def room(samples: int) -> float:
        rooms = trial.rule.bounds(point.values, point.cotangents, samples)[1]
        spread = sum(float((r * abs(t)).sum()) for r, t in zip(rooms, tangents, strict=True))
        return 2 * spread + 2.0**-51 * (count + 64) * size

    bound = settled(room, lambda bound: abs(left - right) <= bound)
    if not np.isfinite(left + right + bound):
        return
    error = abs(left - right)
    ratio = error / bound if bound else 0.0
    row.reach(ratio)
    if ratio > 1:
        text = (
            f"<u, J t> = {left:.9g} by the transposed rule, <V(u), t> = {right:.9g}: V is not what its transpose undoes"
        )
        trial.report.fail(ADJOINT, "", text, point.name, "float64", error=error, bound=bound, ratio=ratio)


def note_multilinear(trial: Trial) -> None:
    """In which arguments the function is linear, found on integers, exactly."""
    if trial.right is None:
        return
    draw = trial.draw(5)
    base, other = draw.integers(3), draw.integers(3)
    run = trial.right.exact
    linear = []
    for i, name in enumerate(trial.names):

        def at(value: Values, i: int = i) -> Any:
            values = tuple(value if j == i else v for j, v in enumerate(base.values))
            return run(values, base.cotangents)[0]

        a, b = base.values[i], other.values[i]
        sums = zip(at(a), at(b), at(a + b), at(0 * a), at(2 * a), strict=True)
        if all(np.array_equal(x + y, z) and not o.any() and np.array_equal(2 * x, t) for x, y, z, o, t in sums):
            linear.append(name)
    row = trial.report.row(MULTILINEAR)
    row.detail = f"linear in {', '.join(linear)}" if linear else "in no argument"


def pull(program: Replayed, point: Point, cotangents: Sequence[Values]) -> list[Values]:
    """The rule's cotangents at a point."""
    return list(program.exact(point.values, tuple(cotangents))[1])
