"""Distances between arrays: absolute, relative to a bound, in units in the last place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fnconv.judge.engine.running_error import Values


def distance(got: np.ndarray, want: Values) -> Values:
    """|got - want|; 0 where both are the same infinity or no number, infinite where only one is a number."""
    value = got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        off = abs(value - want)
    same = (value == want) | (np.isnan(value) & np.isnan(want))
    return np.where(same, 0.0, np.where(np.isnan(off), np.inf, off))


def ratios(got: np.ndarray, want: Values, bound: Values) -> Values:
    """|got - want| over the bound; 0 where the two are equal, both no number, or the bound is infinite."""
    off = distance(got, want)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where((off == 0) | (bound == np.inf), 0.0, off / bound)
    return np.where(np.isnan(ratio), np.inf, ratio)


def within(got: np.ndarray, want: Values, bound: Values) -> bool:
    """Whether all entries are as near as the bound says."""
    return bool((ratios(got, want, bound) <= 1).all())


def dot(a: Iterable[Values], b: Iterable[Values]) -> float:
    """The inner product of two lists of arrays; a factor of 0 leaves out what is not finite."""
    with np.errstate(invalid="ignore"):
        return sum(float(np.where(y == 0, 0.0, x * y).sum()) for x, y in zip(a, b, strict=True))


def worst(got: np.ndarray, want: Values, bound: Values, wrong: np.ndarray) -> dict[str, Any]:
    """The numbers of a `Failure`: those of the first wrong entry that is not finite, or of the one furthest off."""
    lost = wrong & ~np.isfinite(got)
    off = np.where(wrong, np.nan_to_num(distance(got, want)), -1.0)
    place = np.unravel_index(int(lost.argmax() if lost.any() else off.argmax()), got.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        error, room = float(distance(got, want)[place]), float(bound[place])
    return {
        "index": tuple(int(i) for i in place),
        "got": float(got[place]),
        "want": float(want[place]),
        "error": error,
        "bound": room,
        "ratio": error / room if room else math.inf,
        "wrong": int(wrong.sum()),
        "of": int(got.size),
    }


def ulps(got: np.ndarray, want: np.ndarray) -> float:
    """How many numbers of got's type lie between got and want at most; inf where only one of the two is a number."""
    want = want.astype(got.dtype)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    lost = ~same & ~(np.isfinite(got) & np.isfinite(want))
    a, b = _place(got), _place(want)
    distance = (np.maximum(a, b) - np.minimum(a, b)).astype(np.float64)
    return float(np.where(lost, np.inf, np.where(same, 0, distance)).max(initial=0))


def _place(x: np.ndarray) -> npt.NDArray[np.uint64]:
    """The place of each number among those of its type; that of both zeros is 2^63."""
    bits = x.view(np.dtype(f"i{x.dtype.itemsize}")).astype(np.int64)
    size = (bits & np.int64(2 ** (8 * x.dtype.itemsize - 1) - 1)).astype(np.uint64)
    zero = np.uint64(2**63)
    return np.where(bits < 0, zero - size, zero + size)
