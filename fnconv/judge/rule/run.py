"""One run of `check_vjp` or `check_jvp`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fnconv.judge.rule import agreement, cost, differences, linearity, second, structure
from fnconv.judge.rule.arguments import Function, Signature, python_floats, signature
from fnconv.judge.rule.report import RuleReport
from fnconv.judge.rule.transformations import check_transformations
from fnconv.judge.rule.trial import Trial, first_line

RUNS = "runs"


def prepare(
    fn: Function,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    reference: Function | None,
    level: str,
    seed: int,
    name: str = "check_vjp",
    domain: Function | None = None,
) -> Trial:
    """The rule on trial before check_vjp or check_jvp; Python floats that fn must know at trace time are held."""
    call, forward = signature(name, fn, args, kwargs), name == "check_jvp"
    report = RuleReport(_name(fn), level, "tangent" if forward else "cotangent")
    options = reference, level, seed, report, forward, domain
    try:
        trial = Trial(call, *options)
        halves = trial.read_by_half()
        return Trial(replace(call, symmetric=halves), *options) if halves else trial
    except Exception:
        floats = python_floats(call)
        if not floats or len(floats) == len(call.moving):
            raise
        held: Signature = call.holding(floats)
        return Trial(held, *options)


def run_checks(trial: Trial, order: int, *, transformations: bool = True) -> RuleReport:
    """The checks in order; programs that are compiled already are used again."""
    report = trial.report
    if not structure.check_structure(trial):
        return report
    if not trial.compiled:
        try:
            trial.compile()
        except Exception as error:
            report.fail(RUNS, "", f"the rule's program does not compile: {first_line(error)}")
            return report
    _guarded(report, agreement.check_others, trial)
    if not trial.results:
        report.skip(agreement.FLOAT64, "no result carries a derivative: nothing else is to be judged")
        return report
    _guarded(report, agreement.check_float64, trial)
    _guarded(report, agreement.check_own_dtype, trial)
    _guarded(report, agreement.check_integers, trial)
    _guarded(report, linearity.note_multilinear, trial)
    _guarded(report, linearity.check_linear, trial)
    for check, names in (
        (linearity.check_adjoint, [linearity.ADJOINT]),
        (differences.check_differences, [differences.DIFFERENCES]),
        (structure.check_one_by_one, []),
        (partial(second.check_orders, order=order), [name for _, name, _ in second.orders(trial, order)]),
    ):
        if report.ok:
            _guarded(report, check, trial)
            continue
        for name in names:
            report.skip(name, "something is wrong already")
    if trial.outside:
        report.note(
            "the function is NaN, or its loops do not converge, at some of the values drawn: they were left out "
            "or moved towards the arguments given; `domain` says where it is meant to be"
        )
    if transformations:
        _guarded(report, check_transformations, trial)
        _guarded(report, cost.measure, trial)
    return report


def _guarded(report: RuleReport, check: Callable[[Trial], None], trial: Trial) -> None:
    """A check that ends in an error has not run, and says so; what a rule may raise the checks catch themselves."""
    before = len(report.rows)
    try:
        check(trial)
    except Exception as error:
        name = report.rows[-1].check if len(report.rows) > before else RUNS
        report.skip(name, f"ended in {first_line(error)}")


def _name(fn: Any) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))
