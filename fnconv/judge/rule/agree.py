"""Lists of arrays that must be within their bounds of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fnconv.judge.engine.distances import ratios, within, worst
from fnconv.judge.engine.programs import settled
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.trial import Trial

Arrays = Sequence[Values]


def agree(
    trial: Trial,
    check: str,
    names: Sequence[str],
    got: Sequence[np.ndarray],
    want: Arrays,
    bounds: Callable[[int], Arrays],
    text: Callable[[str, np.ndarray], str],
    data: str,
    dtype: str = "float64",
    excused: Callable[[int], np.ndarray] = lambda i: np.array(False),
) -> bool:
    """Whether all arrays are within their bounds; the first that is not is written down.

    bounds: of a number of samples, see `settled`.  text(name, array): the guess.  excused: entries that may differ.
    """
    row = trial.report.row(check)
    found = settled(bounds, lambda bounds: all(map(within, got, want, bounds)))
    for i, (name, g, w, bound) in enumerate(zip(names, got, want, found, strict=True)):
        ratio = ratios(g, w, bound)
        bad = ratio > 1
        row.reach(float(ratio[~bad].max(initial=0)))
        if bad.any():
            bad &= ~excused(i)
        if bad.any():
            trial.report.fail(check, name, text(name, g), data, dtype, **worst(g, w, bound, bad))
            return False
    return True


def relaxed(bounds: Arrays, want: Arrays, times: float = 2.0) -> list[Values]:
    """So many times the bounds, and float64's own roundings of the largest entry; none where there is no number.

    Two orders of evaluation may differ by twice what rounding explains of one.
    """
    with np.errstate(invalid="ignore"):  # 0 times an infinite bound
        rooms = [np.nan_to_num(times * b, nan=np.inf, posinf=np.inf) for b in bounds]
    return [np.where(np.isfinite(w), room + 2.0**-48 * largest(w), np.inf) for room, w in zip(rooms, want, strict=True)]


def largest(*arrays: Values) -> float:
    """The largest finite magnitude."""
    return max(float(abs(np.where(np.isfinite(a), a, 0)).max(initial=0)) for a in arrays)
