"""What a function calls its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def parameter_names(fn: Callable[..., Any], count: int) -> list[str]:
    """Names of the first positional parameters, as far as the function tells them."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for p in parameters:
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
        elif p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(count - len(names))]
    return names[:count] + [f"args[{i}]" for i in range(len(names), count)]
