"""The three judgements on one rule's results, and a guess at the cause of a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fnconv.judge.engine.diagnose import diagnose
from fnconv.judge.engine.distances import ratios, ulps, worst
from fnconv.judge.engine.running_error import Values
from fnconv.judge.own.bounds import Results
from fnconv.judge.own.case import Arrays, Case, DataKind
from fnconv.judge.own.programs import compile_reference
from fnconv.judge.own.report import OwnFailure, OwnRow


@dataclass(frozen=True)
class Drawn:
    """A sample with what is right for it."""

    sample: DataKind
    operands: Arrays
    cotangent: Values
    right: Results  # the float64 reference
    errors: Results  # the bound on the distance from it
    grown: Mapping[str, Results] = field(default_factory=dict)  # the same, for rules that have another one
    rounding: frozenset[str] = frozenset()  # rules that divide, so that integers do not stay exact


def assess(
    case: Case,
    drawn: Drawn,
    got: Mapping[str, np.ndarray],
    automatic: Mapping[str, np.ndarray],
    where: tuple[str, str],
    found: OwnRow,
) -> Iterator[OwnFailure]:
    """Compare one rule's results on one sample with autodiff's and with float64's: its failures, without a guess.

    where: dtype and device.  found: the row of the rule, which takes note of the distances.
    """
    exact = drawn.sample.exact and found.rule not in drawn.rounding
    bounds = drawn.grown.get(found.rule, drawn.errors)
    for name, right in drawn.right.items():
        result, bits_due = got[name], exact or name == case.auxiliary
        if result.shape != right.shape:
            yield _failure(case, found.rule, name, drawn, where, wrong=right.size, of=right.size)
            found.exact = False if exact else found.exact
            continue
        bound = np.zeros_like(right) if bits_due else bounds[name]
        ratio = ratios(result, right, bound)
        agrees = ratio <= 1
        if bits_due:
            agrees &= ratios(result, automatic[name].astype(np.float64), bound) <= 1
            if exact:
                found.exact = bool(agrees.all()) and found.exact is not False
        else:
            found.ratio = max(found.ratio, float(ratio.max(initial=0)))
            found.ulps_automatic = max(found.ulps_automatic, ulps(result, automatic[name]))
            if result.dtype != right.dtype:  # else float64 is no better
                found.ulps_float64 = max(found.ulps_float64, ulps(result, right))
        if not agrees.all():
            facts = worst(result, right, bound, ~agrees) | ({"bound": None} if bits_due else {})
            yield _failure(case, found.rule, name, drawn, where, **facts)


def _failure(case: Case, rule: str, name: str, drawn: Drawn, where: tuple[str, str], **facts: Any) -> OwnFailure:
    return OwnFailure(
        operation=case.operation,
        rule=rule,
        map=case.maps.get(name, "forward" if name == case.value else "backward"),
        argument=name,
        geometry=case.geometry,
        dtype=where[0],
        device=where[1],
        data=drawn.sample.name,
        **facts,
    )


def guess_of(case: Case, failure: OwnFailure, drawn: Drawn, result: np.ndarray, run: Any, device: Any) -> str:
    """A guess at the cause of a failure: from the pattern, and from what this operation's usual mistakes give."""
    name = failure.argument

    def mistaken(text: str) -> np.ndarray:
        program = compile_reference(case, case.alternatives[text], device)
        return np.asarray(program(drawn.operands, drawn.cotangent)[name])

    def part(operands: Arrays) -> np.ndarray:
        return np.asarray(run(operands, drawn.cotangent)[name])

    parts = case.components(drawn.operands) if case.components and name not in _UNAFFECTED else {}
    batch = drawn.right[case.value].shape[0] if case.batched else 1
    positions = int(np.prod(drawn.right[case.value].shape[:-1]))
    return diagnose(
        result,
        drawn.right[name],
        alternatives={text: partial(mistaken, text) for text in case.alternatives},
        components={text: partial(part, operands) for text, operands in parts.items()},
        counts={"batch and positions": positions, "batch": batch, "positions": positions // max(batch, 1)},
        batch_axis=0 if name in case.batched else None,
        axis_names=_axis_names(case, name, drawn.right[name].ndim),
        tolerance=0.0 if failure.bound is None else None,
    )


_UNAFFECTED = ("dw", "db", "indices")  # gradients that the kernel does not enter


def _axis_names(case: Case, name: str, ndim: int) -> list[str]:
    if name in case.batched:
        return ["batch", *(f"axis {i}" for i in range(1, ndim))]
    return [f"axis {i}" for i in range(ndim)]
