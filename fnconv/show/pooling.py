"""A pooling as symbols and as numbers: what the sections of its page are generated from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from fnconv.base.geometry import Axis, window_counts
from fnconv.base.spec import PoolSpec
from fnconv.ops import functional as ops
from fnconv.show import numbers
from fnconv.show.relation import Index, Relation
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
        self.shapes = {"I": (*spec.size, channels), "δ": (*spec.output, channels)}
        symbols = {"I": (self.I, r.input), "O": (self.O, r.output), "δ": (self.delta, r.output)}
        self.tensors = {name: (symbol, (channels,), shape) for name, (symbol, shape) in symbols.items()}
        self.counts = window_counts(spec.axes, spec.include_pad)
        self.options = {"window_shape": r.window, **options}
        self.apply = partial(getattr(ops, KINDS[kind]), **self.options)

    # ---- the terms ----------------------------------------------------------------------------------------------

    def value_of(self, c: Index, o: Index) -> Expression:
        """O_o as a function of the cells of its window."""
        met = self.relation.of_output(o)
        cells, hidden = (found := self.some((self.I(c, i) for _, i in met), len(met))).terms, found.hidden
        if self.kind == "max":
            return Largest(cells, hidden)
        if self.kind == "avg":
            return Product((self._share(o), found))
        p = Fraction(self.spec.p).limit_denominator(1000)
        return Power(Sum(tuple(Power(Modulus(cell), p) for cell in cells), hidden), 1 / p)

    def share_of(self, c: Index, o: Index, i: Index) -> Expression:
        """What window o gives cell i of its δ."""
        delta, cell = self.delta(c, o), self.I(c, i)
        if self.kind == "max":
            return Product((self.S(c, o, i), delta))
        if self.kind == "avg":
            return Product((self._share(o), delta))
        if self.spec.p == 2:
            return Product((delta, Quotient(cell, self.O(c, o))))
        slope = Power(Quotient(Modulus(cell), self.O(c, o)), Fraction(self.spec.p).limit_denominator(1000) - 1)
        return Product((delta, Sign(cell), slope))

    def _share(self, o: Index) -> Number:
        """1 / the number of cells that are counted."""
        divisor = int(self.counts[o])
        return Number(Fraction(1, divisor) if divisor else 0)

    def forward(self) -> Iterator[tuple[Expression, Expression]]:
        for c, *o in self.first(self.channels, *self.relation.output):
            yield self.O((c,), o), self.value_of((c,), tuple(o))

    def gradient(self) -> Iterator[tuple[Expression, Expression]]:
        for c, *i in self.first(self.channels, *self.relation.input):
            windows = self.relation.of_cell(i)
            shares = (self.share_of((c,), o, tuple(i)) for o, _ in windows)
            yield Partial(self.I((c,), i)), self.some(shares, len(windows))

    # ---- numbers ------------------------------------------------------------------------------------------------

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

    def winners(self, ties: str, x: Any = None) -> np.ndarray:
        """Row-major position of the cell that every window of a max pooling takes, (*output, channels); -1 for none."""
        x = jnp.asarray(self.operands["I"] if x is None else x)
        return np.asarray(ops.max_pool_with_indices(x, **self.options | {"ties": ties})[1])

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
