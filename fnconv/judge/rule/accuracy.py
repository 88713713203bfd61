"""Whether a rule is as accurate as automatic differentiation, in its own dtype.

What rounding explains includes the rounding of the rule itself, so that a right formula passes however many digits
cancel in it.  Here the error is measured against what rounding does to the reference alone, by the largest entry: a
rule that loses many more digits is noted, one that keeps none at ordinary arguments fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fnconv.base.dtypes import short_name
from fnconv.judge.engine.distances import worst
from fnconv.judge.engine.running_error import Format, Values
from fnconv.judge.rule.data import GIVEN, Point
from fnconv.judge.rule.trial import Trial

LOST = 0.5  # of the largest entry: no digit is left
WORSE = 64.0


def compare_accuracy(
    trial: Trial,
    check: str,
    point: Point,
    got: Sequence[Values],
    want: Sequence[Values],
    bounds: Sequence[Values],
    alone: Sequence[Values],
) -> None:
    """bounds: of rule and reference together; alone: what rounding does to each derivative of the reference."""
    ordinary = point.name in (GIVEN, "normal floats")
    dtype, u = short_name(trial.dtype), Format.of(trial.dtype).u
    for i, (g, w, bound, own) in enumerate(zip(got, want, bounds, alone, strict=True)):
        with np.errstate(invalid="ignore"):
            error = np.where(np.isfinite(bound + own) & (abs(g - w) <= bound), abs(g - w), 0.0)
        size = float(abs(np.where(np.isfinite(w), w, 0)).max(initial=0))
        due = max(float(np.where(np.isfinite(own), own, 0).max(initial=0)), 2 * u * size)
        most = float(error.max(initial=0))
        if not due or most <= WORSE * due:
            continue
        ratio = most / due
        if ordinary and most > LOST * size > LOST * WORSE * due:
            text = f"no digit is left in {dtype}: digits cancel in the rule that do not in automatic differentiation"
            off = worst(g, w, np.full_like(w, due), error > due)
            trial.report.fail(check, trial.derivative_names[i], text, point.name, dtype, **off)
        else:
            text = (
                f"the cotangent of {trial.of_derivatives[i]} ({dtype}, {point.name}) is {ratio:.2g} times as far off "
            )
            text += "as rounding in automatic differentiation explains: digits cancel in the rule?"
            trial.report.warn(check, text)
