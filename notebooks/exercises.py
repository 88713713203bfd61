"""Tell a right answer from a wrong one, and both from none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ROUNDING = 1e-5  # of the largest entry, for answers in floating point


def check(answer: Any, expected: Any, cases: Sequence[tuple[Any, ...]] = ()) -> None:
    """Print "right", "wrong" and why, or "not done yet".

    answer: a value, compared with `expected`; or a function, of which answer(*case) is compared with expected(*case)
    for every case.  Shapes must be the same, integers equal, other numbers equal up to rounding.  A value of None
    or ..., or a function that returns one, is an answer not given yet.

    >>> check(..., 4)
    not done yet
    >>> check(4, 4)
    right
    >>> check(lambda x: x + x, lambda x: x * x, [(2,), (3,)])
    wrong: for (3) it should be 9, you have 6
    """
    if not callable(answer):
        print(verdict(answer, expected) or "right")
        return
    for case in cases:
        if found := of_case(answer, expected, case):
            print(found)
            return
    print("right" if len(cases) == 1 else f"right, in all {len(cases)} cases")


def of_case(answer: Callable[..., Any], expected: Callable[..., Any], case: tuple[Any, ...]) -> str:
    """What is wrong with a function's answer to one case; "" where nothing is."""
    where = f"for ({', '.join(map(brief, case))}) "
    try:
        value = answer(*case)
    except Exception as error:
        return f"wrong: {where}it raises {type(error).__name__}: {error}"
    return verdict(value, expected(*case), where)


def verdict(value: Any, expected: Any, where: str = "") -> str:
    """What is wrong with a value; "" where nothing is."""
    if value is None or value is ...:
        return "not done yet"
    if isinstance(expected, tuple) and isinstance(value, tuple) and len(value) == len(expected):
        found = (
            verdict(v, e, f"{where}entry {i} ")
            for i, (v, e) in enumerate(zip(value, expected, strict=True))
        )
        return next(filter(None, found), "")
    if isinstance(expected, str | bool):
        return "" if value == expected else f"wrong: {where}{value!r} is not the answer"
    value, expected = np.asarray(value), np.asarray(expected)
    if value.shape != expected.shape:
        return f"wrong: {where}the shape should be {expected.shape}, yours is {value.shape}"
    if not equal(value, expected):
        return f"wrong: {where}it should be {brief(expected)}, you have {brief(value)}"
    return ""


def equal(value: np.ndarray, expected: np.ndarray) -> bool:
    if np.issubdtype(expected.dtype, np.floating) or np.issubdtype(value.dtype, np.floating):
        return np.allclose(value, expected, rtol=0, atol=ROUNDING * np.max(np.abs(expected), initial=0))
    return bool(np.array_equal(value, expected))


def brief(value: Any) -> str:
    """A value on one line, large arrays by their shape."""
    if hasattr(value, "shape"):
        value = np.asarray(value)
        return str(value.tolist()) if value.size <= 16 else f"an array of shape {value.shape}"
    return str(value)
