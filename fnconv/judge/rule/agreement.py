"""The decisive checks: the rule's values and cotangents against the reference's.

In float64, where only a mistake can make a difference; in the rule's own dtype, where rounding may; and on integers,
where every bit is due.  What rounding may do is measured, not guessed: see `engine.rounding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import short_name
from fnconv.judge.engine.distances import ratios, worst
from fnconv.judge.engine.programs import FEW, precision, settled
from fnconv.judge.engine.replay import replay
from fnconv.judge.engine.rounding import WholeNumbers
from fnconv.judge.engine.running_error import Format, Values
from fnconv.judge.rule import kinks
from fnconv.judge.rule.accuracy import compare_accuracy
from fnconv.judge.rule.agree import agree
from fnconv.judge.rule.data import GIVEN, Draw, Point
from fnconv.judge.rule.explain import cause
from fnconv.judge.rule.programs import Both, Replayed, compile_all, trace
from fnconv.judge.rule.trial import Trial

VALUE, FLOAT64, OWN, INTEGERS = "value", "cotangents, float64", "cotangents, own dtype", "integers, bit for bit"
NOT_THE_SAME = "a result without derivative, of integers or booleans, is not the function's"


def points(draw: Draw, level: str) -> Iterator[Point]:
    """Where rule and reference are compared in float64."""
    yield from filter(None, [draw.given()])
    if draw.free:
        near = (draw.normal(scale) for scale in (1, 1e-3, 1e3))
        others = (make() for make in (draw.magnitudes, draw.ties, draw.zeros, draw.one_zero, partial(draw.integers, 3)))
        yield from filter(None, (*near, *others))
    for _ in range(6 if level == "full" else 0):
        yield from filter(None, (draw.normal(10.0 ** draw.rng.integers(-2, 3)), draw.ties()))


def check_float64(trial: Trial) -> None:
    """Value and cotangents of the rule's formulas, in exact arithmetic but for float64's roundings."""
    trial.report.row(VALUE)
    trial.report.row(FLOAT64)
    if trial.right is None:
        trial.report.skip(FLOAT64, f"no automatic derivative of the reference: {trial.no_reference}")
        return
    for point in points(trial.draw(), trial.level):
        _compare_float64(trial, point, trial.right)
        if trial.report.failures:  # the first data that shows a mistake tells most
            return


def _compare_float64(trial: Trial, point: Point, right: Replayed) -> None:
    got, want = (p.exact(point.values, point.vectors) for p in (trial.rule, right))
    bounds = partial(explained, point, trial.rule, right)
    compare_at(trial, PointResults(point, got, want, bounds, "float64", FLOAT64))


def check_others(trial: Trial) -> None:
    """Results without derivative, such as indices and masks, against the function's, in float64 within rounding."""
    kept = [k for k, r in enumerate(trial.others) if r.dtype == bool or jnp.issubdtype(r.dtype, jnp.integer)]
    if not kept:
        return

    def of(program: Any) -> Any:
        return lambda values, vectors: ([program(values, vectors)[k] for k in kept], (), ())

    rule = trial.task(trial.rule_flat, native=False, limited=True)
    derivative, rule = rule.program, replace(rule, further=None)
    programs = compile_all(
        [
            replace(rule, program=of(lambda values, vectors: derivative(values, vectors)[2])),
            replace(rule, program=of(lambda values, vectors: trial.reference_flat(*values)[1]), limited=False),
        ]
    )
    mine, plain = (p if isinstance(p, Replayed) else None for p in programs)
    if mine is None or plain is None:
        trial.report.note("results without derivative could not be evaluated in float64, and were not compared")
        return
    names = [f"value[{len(trial.results) + k}]" for k in kept]
    for point in points(trial.draw(), trial.level):
        got, want = (p.exact(point.values, point.vectors)[0] for p in (mine, plain))

        def bounds(samples: int, point: Point = point) -> Sequence[Values]:
            return explained(point, mine, plain, samples)[0]

        if not agree(trial, VALUE, names, got, want, bounds, lambda *_: NOT_THE_SAME, point.name):
            return


def explained(point: Point, a: Replayed, b: Replayed, samples: int, *, fine: bool = True) -> Both:
    """What independent roundings in two programs cause together."""
    bounds = [p.bounds(point.values, point.vectors, samples, fine=fine) for p in (a, b)]
    results, gradients = ([np.hypot(*each) for each in zip(*part, strict=True)] for part in zip(*bounds, strict=True))
    return results, gradients


def check_own_dtype(trial: Trial) -> None:
    """The rule as it runs, against float64, within what rounding in its dtype explains."""
    report = trial.report
    report.row(OWN)
    if trial.right is None:
        report.skip(OWN, "no automatic derivative of the reference")
        return
    if not report.ok:
        report.skip(OWN, "wrong in float64 already")
        return
    draw = trial.draw(1)
    tried = [draw.given()]
    if draw.free:
        tried += [draw.normal(), draw.normal(1e-3), draw.normal(1e3), draw.ties(), draw.zeros()]
    for point in filter(None, tried):
        rounded = trial.rounded(point)
        if not all(np.isfinite(v).all() for v in rounded.values):
            continue
        _compare_formulas(trial, rounded, trial.right)
        if report.ok:
            _compare_own(trial, rounded, trial.right)
        if report.failures:
            return


def _compare_formulas(trial: Trial, point: Point, right: Replayed) -> None:
    """What is traced for a half precision, evaluated exactly: no overflow in the reference hides a mistake.

    Only where the reference traced so is the function still, and the dtype holds its results: scores beyond the dtype's
    range pass a mask that is its lowest number, and a rule may rely on the mask.
    """
    rule, reference = trial.rule_rounded, trial.right_rounded
    if rule is trial.rule or reference is None or reference is right or rule.opaque or reference.opaque:
        return
    largest = float(jnp.finfo(trial.dtype).max)  # type: ignore[no-untyped-call]
    traced, plain = (p.exact(point.values, point.vectors) for p in (reference, right))
    for part in zip(traced, plain, explained(point, reference, right, FEW), strict=True):
        if not all((_within(g, w, b) & (abs(w) <= largest)).all() for g, w, b in zip(*part, strict=True)):
            return

    def bounds(samples: int) -> Both:
        """The numbers written in both are the dtype's; beside their roundings those of float64 hardly count."""
        values, gradients = (
            [b + 2.0**-40 * float(abs(w).max(initial=0)) for b, w in zip(*part, strict=True)]
            for part in zip(explained(point, rule, reference, samples), traced, strict=True)
        )
        return values, gradients

    got, dtype = rule.exact(point.values, point.vectors), f"{short_name(trial.dtype)}, evaluated exactly"
    compare_at(trial, PointResults(point, got, traced, bounds, dtype, OWN))


def _compare_own(trial: Trial, point: Point, right: Replayed) -> None:
    got, want = _float64(trial.run_native(point)), right.exact(point.values, point.vectors)
    rounded = trial.right_rounded or right
    bounds = partial(explained, point, trial.rule_rounded, rounded, fine=False)
    within = compare_at(trial, PointResults(point, got, want, bounds, short_name(trial.dtype), OWN, native=True))
    if trial.report.ok and not trial.rule_rounded.opaque:
        alone = rounded.bounds(point.values, point.vectors, FEW, fine=False)[1]
        compare_accuracy(trial, OWN, point, got[1], want[1], within[1], alone)


def _float64(results: Any) -> Both:
    values, gradients = ([x.astype(np.float64) for x in part] for part in results)
    return values, gradients


def check_integers(trial: Trial) -> None:
    """On whole numbers small enough that no sum leaves those that the dtype holds, every bit is due."""
    report, draw = trial.report, trial.draw(2)
    row = report.row(INTEGERS)
    if trial.right is None or not draw.free:
        report.skip(INTEGERS, "no reference to compare with" if trial.right is None else "the arguments are kept")
        return
    limit = 1 / Format.of(trial.dtype).u
    for reach in (8, 4, 3, 2, 1):
        point = draw.integers(reach)
        if point is None:
            report.skip(INTEGERS, "does not apply: whole numbers are outside of the domain")
            return
        want = trial.right.exact(point.values, point.vectors)
        sums = trial.right.exact(tuple(map(abs, point.values)), tuple(map(abs, point.vectors)))
        flat = [x for part in want for x in part]
        if not all(np.isfinite(x).all() and (x == np.round(x)).all() for x in flat):
            report.skip(INTEGERS, "does not apply: the results are no integers")
            return
        if all((abs(x) <= limit).all() for part in (*sums, *want) for x in part):
            break
    else:
        report.skip(INTEGERS, "does not apply: sums leave the integers that the dtype holds")
        return
    got = _float64(trial.run_native(point))
    agrees = all(np.array_equal(g, w) for part in zip(got, want, strict=True) for g, w in zip(*part, strict=True))
    row.ratio = 0.0 if agrees else None
    if agrees:
        row.detail = "the same"
        return
    if not rounds_nowhere(trial, point):
        report.skip(INTEGERS, "does not apply: the rule rounds on its way")
        return
    values, gradients = ([np.zeros_like(x) for x in part] for part in want)
    compare_at(trial, PointResults(point, got, want, lambda _: (values, gradients), short_name(trial.dtype), INTEGERS))


def rounds_nowhere(trial: Trial, point: Point) -> bool:
    """Whether the rule meets nothing but whole numbers that its dtypes hold, here."""
    with precision(trial.dtype):
        jaxpr, _ = trace(trial.task(trial.rule_flat, native=True, limited=False))
    watched = WholeNumbers()
    with precision(jnp.float64):
        replay(jaxpr, [jnp.asarray(v, jnp.float64) for v in (*point.values, *point.vectors)], watched)
    return watched.whole


# ---- one comparison -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointResults:
    """Results of the rule and of the reference at one point; `bounds(samples)` is the error that rounding explains."""

    point: Point
    got: Both
    want: Both
    bounds: Callable[[int], Both]
    dtype: str
    check: str
    native: bool = False


def compare_at(trial: Trial, c: PointResults) -> Both:
    """Write down what is wrong at this point; the bounds that were used."""

    def beyond(bounds: Both) -> list[list[np.ndarray]]:
        parts = zip(c.got, c.want, bounds, strict=True)
        return [[~_within(g, w, b) for g, w, b in zip(*part, strict=True)] for part in parts]

    bounds = settled(c.bounds, lambda bounds: not any(w.any() for part in beyond(bounds) for w in part))
    wrong = beyond(bounds)
    if any(w.any() for w in wrong[0]):
        _judge_values(trial, c, wrong[0], bounds)
    row = trial.report.row(c.check)
    for g, w, b, bad in zip(c.got[1], c.want[1], bounds[1], wrong[1], strict=True):
        row.reach(float(ratios(g, w, b)[~bad].max(initial=0)))
    if any(w.any() for w in wrong[1]):
        wrong[1] = _judge_kinks(trial, c, wrong[1], bounds[1])
    for i, bad in enumerate(wrong[1]):
        if c.native and bad.any():
            bad = bad & ~_too_hard(trial, c, 1, i, bounds)
        if bad.any():
            fail(trial, c, i, bad, bounds)
    return bounds


def _judge_values(trial: Trial, c: PointResults, wrong: list[np.ndarray], bounds: Both) -> None:
    for i, bad in enumerate(wrong):
        bad = bad & np.isfinite(c.want[0][i])
        if c.native and bad.any():
            bad = bad & ~_too_hard(trial, c, 0, i, bounds)
        if bad.any():
            fail(trial, c, i, bad, bounds, part=0)


def _judge_kinks(trial: Trial, c: PointResults, wrong: list[np.ndarray], bounds: Sequence[Values]) -> list[np.ndarray]:
    """What remains wrong when each element may be any subgradient."""
    reference = trial.right
    if reference is None:
        return wrong

    def gradient(values: Sequence[Values], vectors: Sequence[Values]) -> Sequence[Values]:
        return reference.exact(values, vectors)[1]

    around = kinks.limits(gradient, c.point.values, c.point.vectors, c.got[1], c.want[1])
    remaining, met = [], False
    for i, (g, w, bad, bound) in enumerate(zip(c.got[1], c.want[1], wrong, bounds, strict=True)):
        slack = np.where(np.isfinite(bound), bound, 0)
        kink = around.kinks(i)
        off = ~around.between(i, np.where(np.isfinite(w), w, np.inf), slack)
        undefined = around.undefined(i, w)
        excused = around.between(i, g, slack) & (kink | off | undefined)
        hollow = bad & ~np.isfinite(g) & ~np.isfinite(w) & ~undefined & kink
        if hollow.any() and c.point.name != GIVEN:
            trial.report.warn(
                c.check,
                f"the cotangent of {trial.of_derivatives[i]} is not finite, as automatic differentiation's is not, "
                f"for {c.point.name}, where the function has finite slopes on its sides",
            )
            excused |= hollow
        met |= bool((bad & excused & kink).any())
        remaining.append(bad & ~(excused | (undefined & ~np.isfinite(w))))
    if met and not any(r.any() for r in remaining):
        rule = lambda v, u: trial.rule.exact(v, u)[1]  # noqa: E731
        results = lambda v, u: reference.exact(v, u)[0]  # noqa: E731
        span = kinks.not_spanned(rule, gradient, results, c.point.values, c.point.vectors, trial.forward)
        if span is None:
            text = f"at a kink ({c.point.name}) the rule takes another slope than the reference, between its sides"
            trial.report.row(c.check).detail = "other slopes at kinks, all between the sides"
            trial.report.note(text)
        else:
            i, where = span
            remaining[i] = wrong[i]
            trial.problems.append(
                f"no subgradient: at a tie, {where}, the cotangents are no "
                "mixture of those on the sides (shared out more or less than once?)"
            )
    return remaining


def _within(got: Values, want: Values, bound: Values) -> np.ndarray:
    """NaN in both is no agreement, for the function may have a derivative; a bound without a number excuses none."""
    lost = ~np.isfinite(got) & np.isfinite(want) | np.isnan(got) & np.isnan(want) & ~np.isinf(bound)
    return np.asarray((ratios(got, want, bound) <= 1) & ~lost)


def _too_hard(trial: Trial, c: PointResults, part: int, i: int, bounds: Both) -> np.ndarray:
    """Where the reference itself is as far off, in this dtype: the dtype is to blame, not the rule.

    That is everywhere for cotangents of a value that the dtype cannot hold on its way, as where scores overflow: an
    infinity spreads in the rule as its formulas have it, in the reference as others.  Rounding and overflow alone are
    excused so: the formulas have been compared before, without either.
    """
    shape = c.want[part][i].shape
    try:
        results = trial.run_native(c.point, trial.native_reference)
    except Exception:  # the reference may not run in this dtype
        return np.zeros(shape, bool)
    if not all(np.isfinite(x).all() for both in results for x in both):
        return np.ones(shape, bool)
    got = _float64(results)
    if part == 1 and not all(map(np.all, map(_within, got[0], c.want[0], bounds[0]))):
        return np.ones(shape, bool)
    return ~_within(got[part][i], c.want[part][i], bounds[part][i])


def fail(trial: Trial, c: PointResults, i: int, bad: np.ndarray, bounds: Both, part: int = 1) -> None:
    """Write the worst entry down, and the guess."""
    got, want, bound = c.got[part][i], c.want[part][i], bounds[part][i]
    guess = trial.problems.pop() if trial.problems else cause(trial, c.point, i, part, c.got, c.want, bad, bound)
    name = (trial.result_names, trial.derivative_names)[part][i]
    check = c.check if part == 1 else VALUE
    trial.report.fail(check, name, guess, c.point.name, c.dtype, **worst(got, want, bound, bad))
