"""One way to word an error: function, argument, rule broken, value, shape."""

from __future__ import annotations

from typing import Any

MaybeShape = tuple[int, ...] | None


def describe(function: str, argument: str, rule: str, value: Any, shape: MaybeShape = None, of: str = "x") -> str:
    """`"conv: strides must be at least 1; got 0 for x of shape (8, 28, 28, 3)"`; `of` names the array of that shape."""
    suffix = "" if shape is None else f" for {of} of shape {tuple(shape)}"
    return f"{function}: {argument} {rule}; got {value}{suffix}"


def invalid(function: str, argument: str, rule: str, value: Any, shape: MaybeShape = None, of: str = "x") -> ValueError:
    """A value of the right type that breaks a rule."""
    return ValueError(describe(function, argument, rule, value, shape, of))


def mistyped(function: str, argument: str, rule: str, value: Any, shape: MaybeShape = None, of: str = "x") -> TypeError:
    """A value of a type that the function does not take."""
    return TypeError(describe(function, argument, rule, value, shape, of))
