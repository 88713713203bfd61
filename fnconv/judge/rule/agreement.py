"""The decisive checks: the rule's values and cotangents against the reference's.

In float64, where only a mistake can make a difference; in the rule's own dtype, where rounding may; and on integers,
where every bit is due.  What rounding may do is measured, not guessed: see `widen`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.running_error import Arithmetic, Values
from fnconv.judge.rule import kinks
from fnconv.judge.rule.accuracy import compare_accuracy
from fnconv.judge.rule.data import Draw, Point
from fnconv.judge.rule.explain import explain
from fnconv.judge.rule.integers import rounds_nowhere
from fnconv.judge.rule.programs import FACTOR, MORE, OWN_FACTOR, SAMPLES, Wide
from fnconv.judge.rule.report import Failure
from fnconv.judge.rule.trial import Trial, short

VALUE, FLOAT64, OWN, INTEGERS = "value", "cotangents, float64", "cotangents, own dtype", "integers, bit for bit"


def points(draw: Draw, level: str) -> Iterator[Point]:
    """Where rule and reference are compared in float64."""
    given = draw.given()
    if given is not None:
        yield given
    if draw.free:
        yield draw.normal()
        yield draw.normal(1e-3)
        yield draw.normal(1e3)
        yield draw.magnitudes()
        yield draw.ties()
        yield draw.zeros()
        yield draw.one_zero()
        yield draw.integers(3)
    for _ in range(6 if level == "full" else 0):
        yield draw.normal(10.0 ** draw.rng.integers(-2, 3))
        yield draw.ties()


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


def _compare_float64(trial: Trial, point: Point, reference: Wide) -> None:
    got, want = (p.clean(point.values, point.cotangents) for p in (trial.rule, reference))

    def bounds(samples: int) -> Bounds:
        return _exact_bounds(point, trial.rule, reference, FACTOR, samples)

    judge(trial, Comparison(point, got, want, bounds, "float64", FLOAT64))


def _exact_bounds(point: Point, a: Wide, b: Wide, factor: float, samples: int) -> Bounds:
    """What float64's roundings and those of the numbers written in both programs explain."""
    spreads = (p.spread(point.values, point.cotangents, native=False, samples=samples) for p in (a, b))
    values, gradients = ([factor * (x + y) for x, y in zip(i, j, strict=True)] for i, j in zip(*spreads, strict=True))
    return values, gradients


def check_own_dtype(trial: Trial) -> None:
    """The rule as it runs, against float64, within what rounding in its dtype explains."""
    report = trial.report
    report.row(OWN)
    if trial.right is None:
        report.skip(OWN, "no automatic derivative of the reference")
        return
    draw = trial.draw(1)
    tried = [p for p in (draw.given(),) if p is not None]
    if draw.free:
        tried += [draw.normal(), draw.normal(1e-3), draw.normal(1e3), draw.ties(), draw.zeros()]
    for point in tried:
        rounded = point.rounded([k.dtype for k in trial.kinds], [r.dtype for r in trial.results])
        if not all(np.isfinite(v).all() for v in rounded.values):
            continue
        _compare_formulas(trial, rounded, trial.right)
        if report.ok:
            _compare_own(trial, rounded, trial.right)
        if report.failures:
            return


def _compare_formulas(trial: Trial, point: Point, right: Wide) -> None:
    """What is traced for a half precision, evaluated exactly: no overflow in the reference hides a mistake.

    Only where the reference traced so is the function still, and the dtype holds its results: scores beyond the dtype's
    range pass a mask that is its lowest number, and a rule may rely on the mask.
    """
    rule, reference = trial.rule_rounded, trial.right_rounded
    if rule is trial.rule or reference is None or reference is right or rule.opaque or reference.opaque:
        return
    largest = float(jnp.finfo(trial.dtype).max)  # type: ignore[no-untyped-call]
    traced, plain = (p.clean(point.values, point.cotangents) for p in (reference, right))
    for part in zip(traced, plain, _exact_bounds(point, reference, right, FACTOR, SAMPLES), strict=True):
        if not all((_within(g, w, b) & (abs(w) <= largest)).all() for g, w, b in zip(*part, strict=True)):
            return

    def bounds(samples: int) -> Bounds:
        """The numbers written in both are the dtype's; beside their roundings those of float64 hardly count."""
        spreads = _exact_bounds(point, rule, reference, OWN_FACTOR, samples)
        values, gradients = (
            [s + 2.0**-40 * float(abs(w).max(initial=0)) for s, w in zip(*part, strict=True)]
            for part in zip(spreads, traced, strict=True)
        )
        return values, gradients

    got, dtype = rule.clean(point.values, point.cotangents), f"{short(trial.dtype)}, evaluated exactly"
    judge(trial, Comparison(point, got, traced, bounds, dtype, OWN))


def _compare_own(trial: Trial, point: Point, reference: Wide) -> None:
    native = trial.run_native(point)
    got = tuple(tuple(x.astype(np.float64) for x in part) for part in native)
    want = reference.clean(point.values, point.cotangents)
    rounded = trial.right_rounded or reference
    facts = Arithmetic.of(trial.dtype)
    by_itself: list[Values] = []

    def bounds(samples: int) -> Bounds:
        a = trial.rule_rounded.spread(point.values, point.cotangents, native=True, samples=samples)
        b = rounded.spread(point.values, point.cotangents, native=True, samples=samples)
        by_itself[:] = map(allowed, b[1], b[1], want[1])
        values, gradients = (list(map(allowed, i, j, w)) for i, j, w in zip(a, b, want, strict=True))
        return values, gradients

    def allowed(a: Values, b: Values, right: Values) -> Values:
        spread = a + b
        return OWN_FACTOR * spread + np.where(spread > 0, 2 * facts.u * abs(right) + 1024 * facts.tiny, 0.0)

    within = judge(trial, Comparison(point, (got[0], got[1]), want, bounds, short(trial.dtype), OWN, native=True))[1]
    if trial.report.ok and not trial.rule_rounded.opaque:
        compare_accuracy(trial, OWN, point, got[1], want[1], within, by_itself)


def check_integers(trial: Trial) -> None:
    """On whole numbers small enough that no sum leaves those that the dtype holds, every bit is due."""
    report, draw = trial.report, trial.draw(2)
    row = report.row(INTEGERS)
    if trial.right is None or not draw.free:
        report.skip(INTEGERS, "no reference to compare with" if trial.right is None else "the arguments are kept")
        return
    limit = 1 / Arithmetic.of(trial.dtype).u
    for reach in (8, 4, 3, 2, 1):
        point = draw.integers(reach)
        want = trial.right.clean(point.values, point.cotangents)
        sums = trial.right.clean(tuple(map(abs, point.values)), tuple(map(abs, point.cotangents)))
        flat = [x for part in want for x in part]
        if not all(np.isfinite(x).all() and (x == np.round(x)).all() for x in flat):
            row.detail = "does not apply: the results are no integers"
            return
        if all((abs(x) <= limit).all() for part in (*sums, *want) for x in part):
            break
    else:
        row.detail = "does not apply: sums leave the integers that the dtype holds"
        return
    native = trial.run_native(point)
    agrees = all(
        np.array_equal(g.astype(np.float64), w)
        for a, b in zip(native, want, strict=True)
        for g, w in zip(a, b, strict=True)
    )
    row.ratio = 0.0 if agrees else None
    if agrees:
        row.detail = "the same"
        return
    if not rounds_nowhere(trial, point):
        row.detail = "does not apply: the rule rounds on its way"
        return
    got = tuple(tuple(x.astype(np.float64) for x in part) for part in native)
    exact = [[np.zeros_like(x) for x in part] for part in want]
    judge(
        trial, Comparison(point, (got[0], got[1]), want, lambda _: (exact[0], exact[1]), short(trial.dtype), INTEGERS)
    )


# ---- one comparison -------------------------------------------------------------------------------------------------


Bounds = tuple[Sequence[Values], Sequence[Values]]


@dataclass(frozen=True)
class Comparison:
    """Results of the rule and of the reference at one point; `bounds(samples)` what rounding may do to each."""

    point: Point
    got: tuple[Sequence[Values], Sequence[Values]]
    want: tuple[Sequence[Values], Sequence[Values]]
    bounds: Callable[[int], Bounds]
    dtype: str
    check: str
    native: bool = False


def judge(trial: Trial, c: Comparison) -> Bounds:
    """Write down what is wrong at this point; the bounds that were used."""
    samples = SAMPLES
    while True:
        bounds = c.bounds(samples)
        wrong = [
            [~_within(g, w, b) for g, w, b in zip(*part, strict=True)]
            for part in zip(c.got, c.want, bounds, strict=True)
        ]
        if samples == MORE or not any(w.any() for part in wrong for w in part):
            break
        samples = MORE
    if any(w.any() for w in wrong[0]):
        _judge_values(trial, c, wrong[0], bounds)
    row = trial.report.row(c.check)
    for g, w, b, bad in zip(c.got[1], c.want[1], bounds[1], wrong[1], strict=True):
        row.ratio = max(row.ratio or 0.0, float(_ratio(g, w, b)[~bad & np.isfinite(b)].max(initial=0)))
    if any(w.any() for w in wrong[1]):
        wrong[1] = _judge_kinks(trial, c, wrong[1], bounds[1])
    for i, bad in enumerate(wrong[1]):
        if c.native and bad.any():
            bad = bad & ~_too_hard(trial, c, 1, i, bounds)
        if bad.any():
            failed = failure(trial, c, i, bad, bounds[1][i])
            row.ratio = max(row.ratio or 0.0, failed.ratio or 0.0)
            trial.report.fail(failed)
    return bounds


def _judge_values(trial: Trial, c: Comparison, wrong: list[np.ndarray], bounds: Bounds) -> None:
    row = trial.report.row(VALUE)
    for i, bad in enumerate(wrong):
        bad = bad & np.isfinite(c.want[0][i])
        if c.native and bad.any():
            bad = bad & ~_too_hard(trial, c, 0, i, bounds)
        if bad.any():
            trial.report.fail(failure(trial, c, i, bad, bounds[0][i], part=0))
    if row.ratio is None:
        row.ratio = 0.0


def _judge_kinks(trial: Trial, c: Comparison, wrong: list[np.ndarray], bounds: Sequence[Values]) -> list[np.ndarray]:
    """What remains wrong when each element may be any subgradient."""
    reference = trial.right
    if reference is None:
        return wrong

    def gradient(values: tuple[Values, ...], cotangents: tuple[Values, ...]) -> tuple[Values, ...]:
        return reference.clean(values, cotangents)[1]

    fixed = [False] * len(c.point.values)  # the reference alone is moved, also where a rule may rely on its arguments
    around = kinks.limits(gradient, c.point.values, c.point.cotangents, fixed)
    remaining, met = [], False
    for i, (g, w, bad, bound) in enumerate(zip(c.got[1], c.want[1], wrong, bounds, strict=True)):
        slack = np.where(np.isfinite(bound), bound, 0)
        kink = around.kinks(i)
        off = ~around.between(i, np.where(np.isfinite(w), w, np.inf), slack)
        excused = around.between(i, g, slack) & (kink | off | ~np.isfinite(around.high[i] - around.low[i]))
        undefined = ~np.isfinite(around.high[i] - around.low[i])
        hollow = bad & ~np.isfinite(g) & ~np.isfinite(w) & ~undefined
        if hollow.any() and c.point.name != "the arguments given":
            if all(np.isfinite(value).all() for value in c.want[0]):
                trial.report.warn(
                    c.check,
                    f"the cotangent of {trial.names[i]} is not finite, as automatic differentiation's is not, "
                    f"for {c.point.name}, where the function has finite slopes",
                )
            excused |= hollow
        met |= bool((bad & excused & kink).any())
        remaining.append(bad & ~(excused | (undefined & ~np.isfinite(w))))
    if met and not any(r.any() for r in remaining):
        span = kinks.not_spanned(
            lambda v, u: trial.rule.clean(v, u)[1], gradient, c.point.values, c.point.cotangents, fixed
        )
        if span is None:
            text = f"at a kink ({c.point.name}) the rule takes another slope than the reference, between its sides"
            trial.report.row(c.check).detail = "other slopes at kinks, all between the sides"
            if text not in trial.report.notes:
                trial.report.notes.append(text)
        else:
            i, position = span
            remaining[i] = wrong[i]
            trial.problems.append(
                f"no subgradient: at a tie, for the single result {position}, the cotangents are no "
                "mixture of those on the sides (shared out more or less than once?)"
            )
    return remaining


def _within(got: Values, want: Values, bound: Values) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        equal = (got == want) | (np.isnan(got) & np.isnan(want) & False)
        return np.asarray(equal | (abs(got - want) <= bound) | np.isinf(bound))


def _ratio(got: Values, want: Values, bound: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(got == want, 0.0, abs(got - want) / bound)
    return np.where(np.isnan(ratio), np.inf, ratio)


def _too_hard(trial: Trial, c: Comparison, part: int, i: int, bounds: Bounds) -> np.ndarray:
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
    values = zip(results[0], c.want[0], bounds[0], strict=True)
    if part == 1 and not all(_within(g.astype(np.float64), w, b).all() for g, w, b in values):
        return np.ones(shape, bool)
    return ~_within(results[part][i].astype(np.float64), c.want[part][i], bounds[part][i])


def failure(
    trial: Trial, c: Comparison, i: int, bad: np.ndarray, bound: Values, part: int = 1, check: str | None = None
) -> Failure:
    """The worst element in numbers, and the guess."""
    got, want = c.got[part][i], c.want[part][i]
    ratio = np.where(bad, _ratio(got, want, bound), -1.0)
    difference = np.where(bad, abs(np.nan_to_num(got) - np.nan_to_num(want)), -1.0)
    lost = bad & ~np.isfinite(got)
    place = lost.argmax() if lost.any() else difference.argmax()
    index = tuple(int(k) for k in np.unravel_index(int(place), got.shape))
    guess = trial.problems.pop() if trial.problems else explain(trial, c.point, i, part, c.got, c.want, bad, bound)
    return Failure(
        check=check or (c.check if part == 1 else VALUE),
        argument=trial.names[i] if part == 1 else trial.result_names[i],
        diagnosis=guess,
        data=c.point.name,
        dtype=c.dtype,
        index=index,
        got=float(got[index]),
        want=float(want[index]),
        error=float(difference[index]) if np.isfinite(got[index]) else float("inf"),
        bound=float(bound[index]),
        ratio=float(ratio[index]),
        wrong=int(bad.sum()),
        of=int(got.size),
    )
