"""A call of a user's function taken apart into arrays, each with the name that its author would give it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Leaves:
    """The leaves of (args, kwargs), in order.

    names: "x", "params['w']".  positions: of the argument that each belongs to, None for a keyword's.
    attributes: whether each is an attribute of an object, such as a module.
    """

    tree: Any
    values: tuple[Any, ...]
    names: tuple[str, ...]
    positions: tuple[int | None, ...]
    attributes: tuple[bool, ...]

    def merged(self, places: Sequence[int], values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with these values in these places."""
        leaves = list(self.values)
        for place, value in zip(places, values, strict=True):
            leaves[place] = value
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        return args, kwargs


def leaves_of(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Leaves:
    """Take a call apart."""
    found, tree = jax.tree.flatten_with_path((tuple(args), dict(kwargs)))
    parameters = _parameter_names(fn, len(args))
    names, positions = [], []
    for path, _ in found:
        by_position = path[0].idx == 0
        names.append((parameters[path[1].idx] if by_position else path[1].key) + jax.tree_util.keystr(path[2:]))
        positions.append(path[1].idx if by_position else None)
    attributes = (any(isinstance(key, jax.tree_util.GetAttrKey) for key in path) for path, _ in found)
    return Leaves(tree, tuple(value for _, value in found), tuple(names), tuple(positions), tuple(attributes))


def _parameter_names(fn: Callable[..., Any], count: int) -> list[str]:
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
