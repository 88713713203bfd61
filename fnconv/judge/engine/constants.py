"""Numbers that stand in a program: how far they may be from those that were meant."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def rounded_numbers(array: np.ndarray, dtype: Any) -> tuple[bool, bool]:
    """(whether any has more than 20 bits, whether any may have been rounded when it was typed or computed).

    A number that leaves four bits of its dtype unused counts as exact; sqrt(1/2) in bfloat16, 181/256, does not.
    """
    finite = np.isfinite(array)
    with np.errstate(all="ignore"):
        few = np.ldexp(np.frexp(array)[0], jnp.finfo(dtype).nmant - 3)  # type: ignore[no-untyped-call]
        long = ((array * 256 != np.round(array * 256)) | (abs(array) >= 4096)) & finite
        return bool(long.any()), bool((long | (few != np.round(few)) & finite).any())


def typed(array: np.ndarray, least: float) -> float:
    """How far a number is from the one that was meant: by its last digit if somebody typed 7 or more; by one rounding
    if it was computed in float64, as 1 / 3; otherwise by `least`."""
    if array.size != 1:
        return least
    number = float(array.reshape(()))
    digits = len(repr(number).split("e")[0].replace(".", "").lstrip("-0").rstrip("0"))
    with np.errstate(over="ignore"):
        short = float(np.float32(number)) == number
    if digits >= 15 and not short:
        return 2.0**-53
    return max(least, float(10.0**-digits)) if digits >= 7 else least
