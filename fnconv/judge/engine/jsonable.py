"""Reports as JSON has them."""

from __future__ import annotations

import math
from typing import Any


def jsonable(value: Any) -> Any:
    """The value with lists for tuples, and words for numbers that are not finite, of which JSON has none.

    >>> jsonable({"worst": (1.5, float("inf"))})
    {'worst': [1.5, 'inf']}
    """
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
