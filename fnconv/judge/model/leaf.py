"""One leaf of a gradient: manual, automatic and in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fnconv.base.dtypes import unit_roundoff
from fnconv.judge.engine.distances import distance, ratios, ulps
from fnconv.judge.engine.report import Row, short
from fnconv.judge.engine.running_error import Values

EQUAL, AGREES, AUTODIFF_WRONG, MANUAL_WRONG, BOTH_WRONG, ALONE, TOO_WEAK = (
    "equal",
    "agrees",
    "AUTODIFF IS WRONG",
    "MANUAL IS WRONG",
    "BOTH ARE WRONG",
    "no autodiff",
    "too weak",
)
WEAK, ROUNDINGS = 0.01, 64  # a relative error that has to be caught, in dtypes that have more digits than that
MANUAL, AUTODIFF, NEITHER = "manual", "autodiff", "neither"


@dataclass(frozen=True)
class Element:
    """The worst entry of a leaf: that of the largest manual error over its bound.

    nearer: which of the two is nearer to float64's.
    """

    index: tuple[int, ...]
    manual: float
    autodiff: float | None
    float64: float
    bound: float
    nearer: str


@dataclass(frozen=True)
class Leaf(Row):
    """What was found on one array of the gradient, or of the value.

    Attributes:
      path: of the argument, as one would write it in Python.
      shape, dtype: its own.
      equal: whether manual and automatic are the same to the last bit.
      ulps: largest number of floating-point numbers between the two.
      relative: max |manual - autodiff| / max |autodiff|.
      error: max |manual - float64| / max |float64|; error_autodiff the same of the other.
      ratio: largest |manual - float64| over its bound, at most 1 if rounding explains it; ratio_autodiff likewise.
      caught: the smallest relative error of the leaf that would have been caught.
      nearer: which is nearer to float64 in the root mean square.
      worst: one entry, with its values; None of an empty array.
      verdict: one of the words in this module.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    equal: bool
    ulps: float
    relative: float
    error: float
    error_autodiff: float
    ratio: float
    ratio_autodiff: float
    caught: float
    nearer: str
    worst: Element | None
    verdict: str

    @property
    def ok(self) -> bool:
        """The manual gradient is autodiff's, or as near to float64's as rounding leaves it."""
        return self.verdict in (EQUAL, AGREES, AUTODIFF_WRONG, ALONE)

    def cells(self) -> tuple[str, ...]:
        return (
            self.path,
            "x".join(map(str, self.shape)) or "()",
            self.dtype,
            short(self.relative, ".1e") if self.relative else "0",
            short(self.ratio, ".3f"),
            short(self.ratio_autodiff, ".3f"),
            short(self.caught, ".0e"),
            self.nearer,
            self.verdict,
        )


def leaf_of(
    path: str, manual: Any, autodiff: Any | None, exact: Values, bound: Values, *, weighed: bool = True
) -> Leaf:
    """The leaf of these arrays; `bound` is the error that rounding explains, entry by entry.

    weighed: whether an agreement that would have missed an error of `WEAK` is none.
    """
    alone = autodiff is None
    mine, theirs = np.asarray(manual), np.asarray(manual if alone else autodiff)
    off, off_autodiff = distance(mine, exact), distance(theirs, exact)
    ratio, ratio_autodiff = ratios(mine, exact, bound), ratios(theirs, exact, bound)
    equal = not alone and np.array_equal(mine, theirs, equal_nan=True)
    within, within_autodiff = ratio.max(initial=0) <= 1, ratio_autodiff.max(initial=0) <= 1
    if equal:
        verdict = EQUAL
    elif alone:
        verdict = ALONE if within else MANUAL_WRONG
    elif within:
        verdict = AGREES if within_autodiff else AUTODIFF_WRONG
    else:
        verdict = MANUAL_WRONG if within_autodiff else BOTH_WRONG
    caught = _caught(off, exact, bound)
    if caught > max(WEAK, ROUNDINGS * unit_roundoff(mine.dtype)) and verdict in (EQUAL, AGREES, ALONE) and weighed:
        verdict = TOO_WEAK
    apart = distance(mine, theirs.astype(np.float64))
    place = _worst(ratio, off, apart)
    element = None
    if place is not None:
        there = None if alone else float(theirs[place])
        nearer = _nearer(float(off[place]), float(off_autodiff[place]), alone)
        element = Element(place, float(mine[place]), there, float(exact[place]), float(bound[place]), nearer)
    return Leaf(
        path,
        mine.shape,
        mine.dtype.name,
        equal,
        ulps(mine, theirs),
        _relative(apart, theirs.astype(np.float64)),
        _relative(off, exact),
        _relative(off_autodiff, exact),
        float(ratio.max(initial=0)),
        float(ratio_autodiff.max(initial=0)),
        caught,
        _nearer(_rms(off), _rms(off_autodiff), alone),
        element,
        verdict,
    )


def _caught(off: Values, exact: Values, bound: Values) -> float:
    """By what factor all entries have to be off for one to exceed its bound; infinite where all are 0 or NaN."""
    finite = np.isfinite(exact) & (exact != 0) & np.isfinite(bound + off)
    rest = (bound + off)[finite] / abs(exact[finite])
    return float(rest.min(initial=np.inf)) if exact.size else 0.0


def _relative(off: Values, of: Values) -> float:
    finite = abs(of[np.isfinite(of)])
    most, size = float(off.max(initial=0)), float(finite.max(initial=0))
    return 0.0 if most == 0 else most / size if size else np.inf


def _rms(off: Values) -> float:
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(off**2))) if off.size else 0.0


def _worst(ratio: Values, off: Values, apart: Values) -> tuple[int, ...] | None:
    """Where the ratio is largest; among equals where the error is, then where the two are furthest apart."""
    if not ratio.size:
        return None
    order = np.lexsort((apart.ravel(), off.ravel(), ratio.ravel()))
    return tuple(int(i) for i in np.unravel_index(order[-1], ratio.shape))


def _nearer(manual: float, autodiff: float, alone: bool) -> str:
    if alone:
        return MANUAL
    return NEITHER if manual == autodiff else MANUAL if manual < autodiff else AUTODIFF
