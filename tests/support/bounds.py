"""A-priori error bounds: gamma(n) = n u / (1 - n u), u the unit roundoff of the dtype that sums are kept in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from agreement import width

from fnconv.base import dtypes


def gamma(operations: Any, dtype: Any) -> Any:
    """Relative error of a chain of that many roundings."""
    u = np.asarray(operations) * dtypes.unit_roundoff(dtype)
    return u / (1 - u)


def sum_bound(count: Any, magnitude: Any, exact: Any, dtype: str) -> np.ndarray:
    """|g - g64| where g adds `count` products of moduli adding to `magnitude`, in any order, and is rounded at the end.

    gamma(count + 2) * magnitude in the accumulator, the same in float64 for the reference, and for a half precision
    its own final rounding, of which the smallest subnormal limits the relative part.
    """
    accumulator = dtypes.FLOATS[jnp.dtype(dtype)].accumulator
    accumulated = gamma(np.asarray(count) + 2, accumulator) * magnitude
    reference = gamma(np.asarray(count) + 2, "float64") * magnitude
    if accumulator == jnp.dtype(dtype):
        return accumulated + reference
    final = dtypes.unit_roundoff(dtype) * (np.abs(exact) + accumulated) + float(jnp.finfo(dtype).smallest_subnormal)
    return accumulated + reference + final


def units_of(function: Callable[..., Any], exact: Callable[..., Any], points: np.ndarray, dtype: str) -> float:
    """Largest error of an elementary function over the points, in units of roundoff, and one more for between them."""
    with width(dtype):
        x = jnp.asarray(points, dtype)
        got = np.asarray(function(x)).astype(np.longdouble)
    want = exact(np.asarray(x).astype(np.longdouble))
    normal = np.abs(want) >= float(jnp.finfo(dtype).tiny)
    return 1 + float(np.max(np.abs(got - want)[normal] / (np.abs(want[normal]) * dtypes.unit_roundoff(dtype))))


def assert_within(got: Any, exact: np.ndarray, bound: np.ndarray, what: str) -> float:
    """Every entry within its bound; returns the largest fraction of the bound that was used."""
    error = np.abs(np.asarray(got, np.float64) - exact)
    bad = ~(error <= bound)
    if bad.any():
        at = tuple(int(i[0]) for i in np.nonzero(bad))
        raise AssertionError(f"{what}: at {at} got {np.asarray(got)[at]!r}, want {exact[at]!r} within {bound[at]:.3g}")
    return float(np.max(error / np.maximum(bound, np.finfo(np.float64).tiny), initial=0.0))
