"""The table of an operation's rules, derived from its formulations.

A formulation is a module with one function for each map of the operation; in every formulation a map has the same
signature.  Its rule is called as the module.  Beside the functions stand, as constants, the facts that others need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def rules(maps: Sequence[str], formulations: Sequence[ModuleType]) -> dict[str, dict[str, Callable[..., Any]]]:
    """{map: {rule: function}}, in the order of the formulations."""
    return {m: {_name(f): getattr(f, m) for f in formulations} for m in maps}


def stated(fact: str, formulations: Sequence[ModuleType]) -> dict[str, Any]:
    """{rule: value} of a fact, for the formulations that state it."""
    return {_name(f): getattr(f, fact) for f in formulations if hasattr(f, fact)}


def _name(formulation: ModuleType) -> str:
    return formulation.__name__.rpartition(".")[2]
