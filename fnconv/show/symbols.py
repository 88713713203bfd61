"""Expressions in symbols: what an equation says, apart from how it is written down.

A symbol is a letter with 1-based indices in groups, I_2,31 being cell (3, 1) of channel 2.  `substitute`
puts numbers for the symbols, `write` spells an expression in a notation (text, LaTeX, HTML).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Symbol:
    """A letter with groups of indices; `wide` symbols separate indices by commas, as one of them may pass 9."""

    name: str
    groups: tuple[tuple[int, ...], ...] = ()
    wide: bool = False

    @property
    def index(self) -> str:
        inner, outer = (",", ";") if self.wide else ("", ",")
        return outer.join(inner.join(map(str, group)) for group in self.groups)


@dataclass(frozen=True)
class Partial:
    """dL/dsymbol, the left side of a gradient."""

    symbol: Symbol


@dataclass(frozen=True)
class Number:
    value: float | Fraction


@dataclass(frozen=True)
class Sum:
    """Terms added; 0 where there are none.  `hidden` terms more are there, too many to be read."""

    terms: tuple[Expression, ...]
    hidden: int = 0


@dataclass(frozen=True)
class Product:
    factors: tuple[Expression, ...]


@dataclass(frozen=True)
class Quotient:
    above: Expression
    below: Expression


@dataclass(frozen=True)
class Power:
    base: Expression
    exponent: Fraction


@dataclass(frozen=True)
class Modulus:
    inner: Expression


@dataclass(frozen=True)
class Sign:
    inner: Expression


@dataclass(frozen=True)
class Largest:
    """The maximum of several."""

    of: tuple[Expression, ...]
    hidden: int = 0


Expression = Symbol | Partial | Number | Sum | Product | Quotient | Power | Modulus | Sign | Largest
ZERO = Sum(())


def substitute(e: Expression, values: Callable[[Symbol], float]) -> Expression:
    """The expression with numbers for its symbols."""

    def put(part: Any) -> Any:
        match part:
            case tuple():
                return tuple(map(put, part))
            case Sum() | Product() | Quotient() | Power() | Modulus() | Sign() | Largest():
                return replace(part, **{name: put(value) for name, value in vars(part).items()})
        return Number(values(part)) if isinstance(part, Symbol) else part

    found: Expression = put(e)
    return found


class Notation:
    """How the parts of an expression are spelt: here in plain text, in LaTeX and HTML with some of them otherwise."""

    dot, plus = "·", " + "

    def more(self, hidden: int) -> str:
        return f"… ({hidden:,} more)"

    def symbol(self, symbol: Symbol) -> str:
        return f"{symbol.name}_{symbol.index}" if symbol.groups else symbol.name

    def partial(self, symbol: str) -> str:
        return f"∂L/∂{symbol}"

    def number(self, number: str) -> str:
        return number

    def parentheses(self, inner: str) -> str:
        return f"({inner})"

    def fraction(self, above: str, below: str) -> str:
        return f"{above}/{below}"

    def power(self, base: str, exponent: str) -> str:
        return f"{base}^({exponent})" if "/" in exponent else f"{base}^{exponent}"

    def modulus(self, inner: str) -> str:
        return f"|{inner}|"

    def sign(self, inner: str) -> str:
        return f"sign({inner})"

    def largest(self, of: list[str]) -> str:
        return f"max{{{', '.join(of)}}}"


def write(e: Expression, n: Notation) -> str:
    """Spell an expression."""

    def factor(inner: Expression) -> str:
        negative = isinstance(inner, Number) and inner.value < 0
        return n.parentheses(write(inner, n)) if negative or isinstance(inner, Sum) else write(inner, n)

    def several(terms: tuple[Expression, ...], hidden: int) -> list[str]:
        return [write(t, n) for t in terms] + ([n.more(hidden)] if hidden else [])

    match e:
        case Symbol():
            return n.symbol(e)
        case Partial(symbol):
            return n.partial(n.symbol(symbol))
        case Number(value):
            return n.number(shorten(value))
        case Sum(terms, hidden):
            return n.plus.join(several(terms, hidden)) if terms or hidden else n.number("0")
        case Product(factors):
            return n.dot.join(map(factor, factors))
        case Quotient(above, below):
            return n.fraction(factor(above), factor(below))
        case Power(base, exponent):
            inner = factor(base) if isinstance(base, Sum | Symbol | Number | Modulus) else n.parentheses(write(base, n))
            return n.power(inner, str(exponent))
        case Modulus(inner):
            return n.modulus(write(inner, n))
        case Sign(inner):
            return n.sign(write(inner, n))
        case Largest(of, hidden):
            return n.largest(several(of, hidden))


def shorten(value: float | Fraction) -> str:
    """An integer or a fraction as it is, another number in four significant digits."""
    if isinstance(value, Fraction):
        return str(value)
    if abs(value) < 1e9 and value == int(value):  # nor inf, nor NaN
        return str(int(value))
    return f"{value:.4g}"


def namer(name: str, extents: tuple[tuple[int, ...], ...]) -> Callable[..., Symbol]:
    """Symbols of one letter from 0-based groups of indices; a group without extents is left out."""
    wide = any(e > 9 for group in extents for e in group)

    def symbol(*groups: Sequence[int]) -> Symbol:
        shown = [group for group, extent in zip(groups, extents, strict=True) if extent]
        return Symbol(name, tuple(tuple(int(i) + 1 for i in group) for group in shown), wide)

    return symbol
