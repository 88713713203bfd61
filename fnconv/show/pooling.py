"""A pooling as symbols and as numbers: what the sections of its page are generated from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice
from typing import Any, Literal

import jax
import numpy as np

from fnconv.base.geometry import Axis, volume, window_counts
from fnconv.base.spec import PoolSpec
from fnconv.ops import functional as ops
from fnconv.show import numbers
from fnconv.show.blocks import EQUATIONS, TERMS, Limit, readable
from fnconv.show.relation import Index, Relation, first, ravel
from fnconv.show.symbols import (
    Expression,
    Largest,
    Modulus,
    Number,
    Partial,
    Power,
    Product,
    Quotient,
    Sign,
    Sum,
    Symbol,
    namer,
    some,
)

NAME = "show.pool"
Kind = Literal["max", "avg", "lp"]
KINDS: dict[Kind, str] = {"max": "max_pool", "avg": "avg_pool", "lp": "lp_pool"}
ATTEMPTS = 10  # at an example with a tie that the two rules resolve differently


class Pooling(numbers.Written):
    """I pooled to O, channel by channel.  Indices are 0-based here and 1-based in the symbols."""

    name = NAME

    def __init__(
        self,
        kind: Kind,
        spec: PoolSpec,
        channels: int,
        seed: int,
        given: Mapping[str, numbers.Array],
        options: Mapping[str, Any],
    ) -> None:
        self.kind, self.spec, self.channels, self.seed, self.given = kind, spec, channels, seed, given
        self.axes = tuple(a for a in spec.axes if isinstance(a, Axis))
        self.relation = r = Relation(spec.axes)
        self.title = {"max": "Max", "avg": "Average", "lp": f"L{spec.p:g}-norm"}[kind]
        channel = (channels,) if channels > 1 else ()
        self.I = namer("I", (channel, r.input))
        self.O, self.delta = namer("O", (channel, r.output)), namer("δ", (channel, r.output))
        self.S = namer("S", (channel, r.output, r.input))
        self.counts = window_counts(spec.axes, spec.include_pad)
        self._pool: Callable[[Any], Any] = partial(getattr(ops, KINDS[kind]), window_shape=r.window, **dict(options))
        self._options = options

    # ---- the terms ----------------------------------------------------------------------------------------------

    def value_of(self, c: Index, o: Index, terms: Limit = TERMS) -> Expression:
        """O_o as a function of the cells of its window."""
        total = self.relation.covered(o)
        cells = [self.I(c, i) for _, i in islice(self.relation.of_output(o), readable(total, terms))]
        hidden = total - len(cells)
        if self.kind == "max":
            return Largest(tuple(cells), hidden)
        if self.kind == "avg":
            divisor = int(self.counts[o])
            share = Number(Fraction(1, divisor)) if divisor else Number(0)
            return Product((share, Sum(tuple(cells), hidden)))
        p = Fraction(self.spec.p).limit_denominator(1000)
        return Power(Sum(tuple(Power(Modulus(cell), p) for cell in cells), hidden), 1 / p)

    def gradient_terms(self, c: Index, i: Index) -> Iterator[Expression]:
        """What every window that holds cell i gives it of its δ."""
        for o, _ in self.relation.of_cell(i):
            delta, cell = self.delta(c, o), self.I(c, i)
            if self.kind == "max":
                yield Product((self.S(c, o, i), delta))
            elif self.kind == "avg":
                divisor = int(self.counts[o])
                yield Product((Number(Fraction(1, divisor)) if divisor else Number(0), delta))
            elif self.spec.p == 2:
                yield Product((delta, Quotient(cell, self.O(c, o))))
            else:
                slope = Power(Quotient(Modulus(cell), self.O(c, o)), Fraction(self.spec.p).limit_denominator(1000) - 1)
                yield Product((delta, Sign(cell), slope))

    def forward(self, limit: Limit = EQUATIONS, terms: Limit = TERMS) -> Iterator[tuple[Expression, Expression]]:
        for c, *o in first((self.channels, *self.relation.output), limit):
            yield self.O((c,), tuple(o)), self.value_of((c,), tuple(o), terms)

    def gradient(self, limit: Limit = EQUATIONS, terms: Limit = TERMS) -> Iterator[tuple[Expression, Expression]]:
        for c, *i in first((self.channels, *self.relation.input), limit):
            all_terms = self.gradient_terms((c,), tuple(i))
            total = self.relation.uses(tuple(i))
            yield Partial(self.I((c,), tuple(i))), some(all_terms, total, readable(total, terms))

    # ---- numbers ------------------------------------------------------------------------------------------------

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"I": (*self.spec.size, self.channels), "δ": (*self.spec.output, self.channels)}

    @property
    def tensors(self) -> dict[str, numbers.Tensor]:
        r, channels = self.relation, (self.channels,)
        symbols = {"I": self.I, "O": self.O, "δ": self.delta}
        return {name: (s, channels, r.input if name == "I" else r.output) for name, s in symbols.items()}

    def drawn(self, name: str) -> numbers.Array:
        """Random integers; for max pooling such that, if it can be, a tie is resolved in two ways."""
        shape = self.shapes[name]
        if name == "δ":
            return numbers.random(shape, (self.seed, 0), 1, 9)
        if self.kind != "max":
            return numbers.random(shape, (self.seed, 1), -4, 9)
        for attempt in range(1, ATTEMPTS + 1):
            drawn = numbers.random(shape, (self.seed, attempt), 1, 4, repeat=True)
            if (self.winners("row_major", drawn) != self.winners("column_major", drawn)).any():
                break
        return drawn

    def computed(self, operands: Mapping[str, Any]) -> dict[str, Any]:
        y, pullback = jax.vjp(self._pool, jax.numpy.asarray(operands["I"]))
        return {"O": np.asarray(y), "dI": np.asarray(pullback(jax.numpy.asarray(operands["δ"]))[0])}

    def winners(self, ties: str, x: Any = None) -> np.ndarray:
        """Row-major position of the cell that every window of a max pooling takes, (*output, channels); -1 for none."""
        options = {**self._options, "ties": ties}
        x = jax.numpy.asarray(self.operands["I"] if x is None else x)
        return np.asarray(ops.max_pool_with_indices(x, self.relation.window, **options)[1])

    @cached_property
    def _taken(self) -> np.ndarray:
        return self.winners(self.spec.ties)

    def taken(self, c: int, o: Index) -> Index | None:
        """The cell that window o takes, for the numbers there are."""
        at = int(self._taken[(*o, c)])
        return None if at < 0 else tuple(int(i) for i in np.unravel_index(at, self.relation.input))

    def value(self, symbol: Symbol) -> float:
        if symbol.name == "S":
            *channel, o, i = symbol.groups
            c = channel[0][0] - 1 if channel else 0
            return float(self.taken(c, tuple(n - 1 for n in o)) == tuple(n - 1 for n in i))
        return super().value(symbol)

    @property
    def vec_shape(self) -> tuple[int, int]:
        """Shape of S for one channel."""
        return volume(self.relation.output), volume(self.relation.input)

    def column(self, i: Index) -> int:
        """Position of a cell in vec(I)."""
        return ravel(i, self.relation.input)
