"""The rules that exist, for every operation that has several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fnconv.rules import avg_pool, conv, im2col, max_pool

RULES: dict[str, Mapping[str, Mapping[str, Callable[..., Any]]]] = {
    "conv": conv.RULES,
    "max_pool": max_pool.RULES,
    "avg_pool": avg_pool.RULES,
    "lp_pool": im2col.RULES,  # a norm of im2col's columns
    "im2col": im2col.RULES,
}


def names(operation: str) -> dict[str, tuple[str, ...]]:
    """The rules of an operation by map, simplest first."""
    return {m: tuple(rules) for m, rules in RULES[operation].items()}


def available_rules() -> dict[str, dict[str, tuple[str, ...]]]:
    """What runs here: `{operation: {map: (rule, ...)}}`, simplest first; "onednn" where that extra is installed.

    >>> available_rules()["max_pool"]["forward"]
    ('selection', 'segment_sum', 'separable', 'offsets')
    """
    absent = () if conv.onednn.installed() else ("onednn",)
    return {
        operation: {m: tuple(r for r in rules if r not in absent) for m, rules in names(operation).items()}
        for operation in RULES
    }
