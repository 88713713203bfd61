"""A cotangent map is linear: zero, negation, doubling, sums; and its transpose is the derivative itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.check.programs import arithmetic
from fnconv.check.running_error import Values
from fnconv.check.vjp.agreement import Comparison, failure
from fnconv.check.vjp.data import Draw, Point
from fnconv.check.vjp.programs import FACTOR, MORE, SAMPLES, Wide, narrowest
from fnconv.check.vjp.report import Failure
from fnconv.check.vjp.trial import Trial, first_line

LINEAR, ADJOINT, MULTILINEAR = "linear in the cotangent", "adjoint identity", "multilinear"


def check_linear(trial: Trial) -> None:
    """V(0) = 0, V(-u) = -V(u), V(2u) = 2 V(u), V(u + v) = V(u) + V(v), in float64 within rounding."""
    row = trial.report.row(LINEAR)
    draw = trial.draw(3)
    point = draw.normal() if draw.free else draw.given()
    if point is None:
        return
    u, v = point.cotangents, draw.cotangents()
    zero, other = tuple(0 * c for c in u), tuple(map(np.add, u, v))
    of_u, of_v = pull(trial.rule, point, u), pull(trial.rule, point, v)

    def allowed(samples: int) -> list[Values]:
        room = [_spread(trial, point, cotangents, samples) for cotangents in (u, v, other)]
        return [
            FACTOR * (a + b + c) + 2.0**-46 * _largest(x, y) + 1e-300
            for a, b, c, x, y in zip(*room, of_u, of_v, strict=True)
        ]

    total, more = allowed(SAMPLES), False
    tests: list[tuple[str, Sequence[Values], list[Values]]] = [
        ("the cotangents of a zero cotangent are not zero", zero, [0 * g for g in of_u]),
        ("V(-u) is not -V(u)", tuple(-c for c in u), [-g for g in of_u]),
        ("V(2u) is not 2 V(u)", tuple(2 * c for c in u), [2 * g for g in of_u]),
        ("V(1024u) is not 1024 V(u)", tuple(1024 * c for c in u), [1024 * g for g in of_u]),
        ("V(u + v) is not V(u) + V(v)", other, [a + b for a, b in zip(of_u, of_v, strict=True)]),
    ]
    for text, cotangents, want in tests:
        got = pull(trial.rule, point, cotangents)
        times = 1024.0 if "1024" in text else 2.0
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            bound, bad = _beyond(g, w, 0 * total[i] if "zero" in text else times * total[i])
            if bad.any() and not more:
                total, more = allowed(MORE), True
                bound, bad = _beyond(g, w, 0 * total[i] if "zero" in text else times * total[i])
            with np.errstate(invalid="ignore"):
                part = np.where(bound > 0, abs(g - w) / np.where(bound > 0, bound, 1), 0.0)
            row.ratio = max(row.ratio or 0.0, float(np.nan_to_num(part[~bad]).max(initial=0)))
            if bad.any():
                trial.problems.append(f"{text}: the rule is not linear in the incoming cotangent")
                c = Comparison(point, ((), got), ((), want), lambda _: ([], []), "float64", LINEAR)
                trial.report.fail(failure(trial, c, i, bad, bound))
                return


def _beyond(got: Values, want: Values, bound: Values) -> tuple[Values, np.ndarray]:
    with np.errstate(invalid="ignore"):
        bound = np.where(np.isnan(bound), np.inf, bound)
        right = (got == want) | (abs(got - want) <= bound) | ~np.isfinite(bound) | ~np.isfinite(want)
    return bound, np.asarray(~right)


def check_adjoint(trial: Trial) -> None:
    """<u, J t> = <V(u), t>, V being transposed by JAX: `linear_transpose` of the rule gives the derivative back."""
    row = trial.report.row(ADJOINT)
    draw = trial.draw(4)
    point = draw.normal() if draw.free else draw.given()
    if point is None or trial.right is None:
        trial.report.skip(ADJOINT, "no automatic derivative of the reference")
        return
    tangents = tuple(draw.rng.standard_normal(v.shape) for v in point.values)
    kinds = trial.traced_for(trial.rule_flat)
    if kinds is None:
        trial.report.skip(ADJOINT, "the rule cannot be traced alone")
        return
    with arithmetic(jnp.float64):
        values = [jnp.asarray(v, k.dtype) for v, k in zip(point.values, kinds[0], strict=True)]
        try:
            _, pullback, _ = jax.vjp(trial.rule_flat, *values, has_aux=True)
            transpose = jax.linear_transpose(pullback, kinds[1])
            (pushed,) = transpose(tuple(jnp.asarray(t, k.dtype) for t, k in zip(tangents, kinds[0], strict=True)))
        except Exception as error:  # not every rule can be transposed
            trial.report.warn(ADJOINT, f"the rule cannot be transposed: {first_line(error)}")
            return
    left = sum(float((np.asarray(p, np.float64) * c).sum()) for p, c in zip(pushed, point.cotangents, strict=True))
    gradients = pull(trial.rule, point, point.cotangents)
    terms = [(g * t) for g, t in zip(gradients, tangents, strict=True)]
    right = sum(float(t.sum()) for t in terms)
    eps = narrowest(trial.rule_flat, kinds)  # a rule may compute in a narrower dtype than that of its arguments
    size = sum(float(abs(t).sum()) for t in terms) + sum(
        float(abs(np.asarray(p, np.float64) * c).sum()) for p, c in zip(pushed, point.cotangents, strict=True)
    )
    count = sum(v.size for v in (*point.values, *point.cotangents))
    for samples in (SAMPLES, MORE):
        room = _spread(trial, point, point.cotangents, samples)
        spread = sum(float((FACTOR * s * abs(t)).sum()) for s, t in zip(room, tangents, strict=True))
        bound = 4 * spread + 2 * eps * (count + 64) * size
        if abs(left - right) <= bound:
            break
    if not np.isfinite(left + right + bound):
        return
    row.ratio = abs(left - right) / bound if bound else 0.0
    if row.ratio > 1:
        text = (
            f"<u, J t> = {left:.9g} by the transposed rule, <V(u), t> = {right:.9g}: V is not what its transpose undoes"
        )
        trial.report.fail(
            Failure(ADJOINT, "", text, point.name, "float64", error=abs(left - right), bound=bound, ratio=row.ratio)
        )


def note_multilinear(trial: Trial) -> None:
    """In which arguments the function is linear, found on integers, exactly."""
    if trial.right is None:
        return
    draw = trial.draw(5)
    base, other = draw.integers(3), draw.integers(3)
    run = trial.right.clean
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


def pull(program: Wide, point: Point, cotangents: Sequence[Values]) -> list[Values]:
    """The rule's cotangents at a point."""
    return list(program.clean(point.values, tuple(cotangents))[1])


def _largest(*arrays: Values) -> float:
    return max(float(abs(np.where(np.isfinite(a), a, 0)).max(initial=0)) for a in arrays)


def _spread(trial: Trial, point: Point, cotangents: Sequence[Values], samples: int) -> list[Values]:
    return list(trial.rule.spread(point.values, tuple(cotangents), native=False, samples=samples)[1])


def smooth_point(draw: Draw) -> Point | None:
    """Somewhere without a kink; the arguments themselves where they must stay."""
    return draw.normal() if draw.free else draw.given()
