"""gelu and silu, recognised by the polynomial that a chain of primitives is, however it was written.

Sums, products and powers of one x, of constants and of tanh, erf, erfc and sigmoid of such polynomials are multiplied
out: a monomial is a tuple of factors, "x" or (function, polynomial), and a polynomial gives each its coefficient.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Monomial = tuple[Any, ...]
Polynomial = dict[Monomial, float]

X: Polynomial = {("x",): 1.0}
ONE: Polynomial = {(): 1.0}
FUNCTIONS = ("tanh", "erf", "erfc", "logistic")
TERMS, DEGREE, ORIGINS = 4, 4, 6  # of what is followed, at most


class Found(NamedTuple):
    """An activation, and of what."""

    operation: str
    x: Any


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    product: Polynomial = {}
    for m, c in a.items():
        for n, d in b.items():
            key = tuple(sorted((*m, *n), key=str))
            product[key] = product.get(key, 0.0) + c * d
    return product


def _plus(a: Polynomial, b: Polynomial, sign: float = 1.0) -> Polynomial:
    return {m: a.get(m, 0.0) + sign * b.get(m, 0.0) for m in {**a, **b}}


def _scaled(a: Polynomial, c: float) -> Polynomial:
    return {m: c * d for m, d in a.items()}


def _of(function: str, a: Polynomial) -> Polynomial:
    return {((function, tuple(sorted(a.items(), key=str))),): 1.0}


_CUBIC = _scaled({("x",): 1.0, ("x", "x", "x"): 0.044715}, math.sqrt(2 / math.pi))
_HALF_X, _ROOT = _scaled(X, 0.5), _scaled(X, math.sqrt(0.5))
PATTERNS: tuple[tuple[str, Polynomial], ...] = (
    ("silu", _times(X, _of("logistic", X))),
    ("gelu", _times(X, _of("logistic", _scaled(_CUBIC, 2)))),
    ("gelu", _times(_HALF_X, _plus(ONE, _of("tanh", _CUBIC)))),
    ("gelu_exact", _times(_HALF_X, _plus(ONE, _of("erf", _ROOT)))),
    ("gelu_exact", _times(_HALF_X, _of("erfc", _scaled(_ROOT, -1)))),
)


class Polynomials:
    """What is known of the values so far; constant(value) is the number of one that is known, else None."""

    def __init__(self, constant: Callable[[Any], float | None]) -> None:
        self._constant = constant
        self._numbers: dict[int, tuple[Any, float]] = {}
        self._known: dict[int, tuple[Any, dict[int, tuple[Any, Polynomial]]]] = {}

    def constant(self, value: Any) -> float | None:
        return self._numbers[id(value)][1] if id(value) in self._numbers else self._constant(value)

    def name(self, value: Any, number: float | None) -> None:
        """Tell the number of a value, if there is one."""
        if number is not None:
            self._numbers[id(value)] = value, number

    def match(self, primitive: str, params: Mapping[str, Any], operands: Sequence[Any]) -> Found | None:
        """What the primitive completes, if it ends such a chain."""
        if primitive not in ("add", "mul", "div"):
            return None
        for x, polynomial in self._result(primitive, params, operands).values():
            for operation, pattern in PATTERNS:
                if _close(tuple(polynomial.items()), tuple(pattern.items()), _tolerance(x)):
                    return Found(operation, x)
        return None

    def follow(self, primitive: str, params: Mapping[str, Any], operands: Sequence[Any], result: Any) -> None:
        numbers = [self.constant(v) for v in operands] if primitive in ARITHMETIC else [None]
        # a conversion to whole numbers, and their arithmetic, may change the number
        if None not in numbers and (_is_float(result) or primitive == "gt"):
            self.name(result, float(ARITHMETIC[primitive](*numbers)))
        elif found := self._result(primitive, params, operands):
            self._known[id(result)] = result, found  # a value is kept, so that its id stays its own

    def _of(self, value: Any) -> dict[int, tuple[Any, Polynomial]]:
        """By the x that it is a polynomial of, the latest first: it is one itself unless it is of a higher degree."""
        _, known = self._known.get(id(value), (None, {}))
        linear = all(len(monomial) < 2 for _, polynomial in known.values() for monomial in polynomial)
        return {id(value): (value, X), **known} if linear else known

    def _result(
        self, primitive: str, params: Mapping[str, Any], operands: Sequence[Any]
    ) -> dict[int, tuple[Any, Polynomial]]:
        step = STEPS.get(primitive)
        if step is None:
            return {}
        numbers = [self.constant(v) for v in operands]
        moving = [self._of(v) for v, number in zip(operands, numbers, strict=True) if number is None]
        floats = all(_is_float(v) for v, number in zip(operands, numbers, strict=True) if number is None)
        if not moving or not floats or (primitive == "div" and not numbers[1]):
            return {}
        origins = [key for key in moving[0] if all(key in other for other in moving[1:])]
        found: dict[int, tuple[Any, Polynomial]] = {}
        for key in origins[:ORIGINS]:
            rest = iter(moving)
            given = [next(rest)[key][1] if number is None else _scaled(ONE, number) for number in numbers]
            polynomial = step(params, *given)
            if len(polynomial) <= TERMS and max(map(len, polynomial)) <= DEGREE:
                found[key] = moving[0][key][0], polynomial
        return found


def _is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(_dtype(x), jnp.floating))


def _dtype(x: Any) -> Any:
    aval = getattr(x, "aval", None)
    return (jax.typeof(x) if aval is None else aval).dtype


def _tolerance(x: Any) -> float:
    """Constants have been typed and rounded to the program's dtype, of which the next number is another constant."""
    return max(0.75 * float(jnp.finfo(_dtype(x)).eps), 2.0**-22)  # type: ignore[no-untyped-call]


def _close(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two nested tuples are the same but for the last digits of their numbers."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        same = len(a) == len(b)
        return same and all(_close(v, w, tolerance) for v, w in zip(_ordered(a), _ordered(b), strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance)
    return bool(a == b)


def _ordered(a: tuple[Any, ...]) -> tuple[Any, ...]:
    """The terms of a polynomial by the number of their factors."""
    terms = all(isinstance(t, tuple) and len(t) == 2 and isinstance(t[1], float) for t in a)
    return tuple(sorted(a, key=lambda t: len(t[0]))) if terms else a


ARITHMETIC: dict[str, Callable[..., float]] = {  # of numbers alone
    "convert_element_type": lambda a: a,
    "add": operator.add,
    "sub": operator.sub,
    "gt": operator.gt,
}

STEPS: dict[str, Callable[..., Polynomial]] = {
    "add": lambda params, a, b: _plus(a, b),
    "sub": lambda params, a, b: _plus(a, b, -1.0),
    "mul": lambda params, a, b: _times(a, b),
    "div": lambda params, a, b: _scaled(a, 1 / b[()]),
    "neg": lambda params, a: _scaled(a, -1.0),
    "square": lambda params, a: _times(a, a),
    "integer_pow": lambda params, a: _power(a, params["y"]),
    **{f: lambda params, a, f=f: _of(f, a) for f in FUNCTIONS},
}


def _power(a: Polynomial, y: int) -> Polynomial:
    """Of more than DEGREE, which nothing continues, nothing is written out."""
    return a if y == 1 else _times(a, _power(a, y - 1)) if 1 < y <= DEGREE else {("x",) * (DEGREE + 1): 1.0}
