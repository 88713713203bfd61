"""A convolution as symbols and as numbers: what the sections of its page are generated from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np

from fnconv.base.geometry import volume
from fnconv.base.spec import ConvSpec
from fnconv.ops import functional as ops
from fnconv.show import numbers
from fnconv.show.blocks import EQUATIONS, TERMS, Limit, readable
from fnconv.show.relation import Index, Relation, first
from fnconv.show.symbols import Expression, Partial, Product, Sum, Symbol, namer, some

NAME = "show.conv"


class Layer:
    """I * W + b = O.  Indices are 0-based here and 1-based in the symbols."""

    def __init__(self, spec: ConvSpec, seed: int, given: Mapping[str, numbers.Array]) -> None:
        self.spec, self.relation = spec, Relation(spec.axes)
        r, many_in, many_out = self.relation, spec.in_channels > 1, spec.out_channels > 1
        inner, outer = (spec.in_channels,) if many_in else (), (spec.out_channels,) if many_out else ()
        per_group = spec.in_channels // spec.groups
        kernel = (spec.out_channels, per_group) if many_out or per_group > 1 else ()
        self.I, self.W = namer("I", (inner, r.input)), namer("W", (kernel, r.window))
        self.O, self.delta = namer("O", (outer, r.output)), namer("δ", (outer, r.output))
        self.b = namer("b", (outer,))
        self.given, self.seed = given, seed

    # ---- the terms, from the index tables -----------------------------------------------------------------------

    @property
    def per_group(self) -> int:
        return self.spec.in_channels // self.spec.groups

    def group_of_output(self, d: int) -> int:
        return d // (self.spec.out_channels // self.spec.groups)

    def kernels_of_input(self, c: int) -> range:
        """The output channels that input channel c contributes to."""
        per_group = self.spec.out_channels // self.spec.groups
        group = c // self.per_group
        return range(group * per_group, (group + 1) * per_group)

    def forward_terms(self, d: int, o: Index) -> Iterator[Expression]:
        """O_d,o = sum over c and k of I_c,i W_dc,k, then + b_d."""
        first = self.group_of_output(d) * self.per_group
        for c in range(self.per_group):
            for k, i in self.relation.of_output(o):
                yield Product((self.I((first + c,), i), self.W((d, c), k)))
        yield self.b((d,))

    def input_terms(self, c: int, i: Index) -> Iterator[Expression]:
        """dL/dI_c,i = sum over d and over (o, k) in m^-1(i) of delta_d,o W_dc,k."""
        for d in self.kernels_of_input(c):
            for o, k in self.relation.of_cell(i):
                yield Product((self.delta((d,), o), self.W((d, c % self.per_group), k)))

    def kernel_terms(self, d: int, c: int, k: Index) -> Iterator[Expression]:
        """dL/dW_dc,k = sum over o of delta_d,o I_c,i."""
        channel = self.group_of_output(d) * self.per_group + c
        for o, i in self.relation.of_element(k):
            yield Product((self.delta((d,), o), self.I((channel,), i)))

    def bias_terms(self, d: int) -> Iterator[Expression]:
        for o in np.ndindex(*self.relation.output):
            yield self.delta((d,), o)

    # ---- equations ----------------------------------------------------------------------------------------------

    def forward(self, limit: Limit = EQUATIONS, terms: Limit = TERMS) -> Iterator[tuple[Expression, Sum]]:
        for d, *o in first((self.spec.out_channels, *self.relation.output), limit):
            total = self.per_group * sum(1 for _ in self.relation.of_output(tuple(o))) + 1
            yield self.O((d,), tuple(o)), some(self.forward_terms(d, tuple(o)), total, readable(total, terms))

    def input_gradient(self, limit: Limit = EQUATIONS, terms: Limit = TERMS) -> Iterator[tuple[Expression, Sum]]:
        for c, *i in first((self.spec.in_channels, *self.relation.input), limit):
            total = len(self.kernels_of_input(c)) * self.relation.uses(tuple(i))
            yield Partial(self.I((c,), tuple(i))), some(self.input_terms(c, tuple(i)), total, readable(total, terms))

    def kernel_gradient(self, limit: Limit = EQUATIONS, terms: Limit = TERMS) -> Iterator[tuple[Expression, Sum]]:
        for d, c, *k in first((self.spec.out_channels, self.per_group, *self.relation.window), limit):
            total = self.relation.places(tuple(k))
            yield (
                Partial(self.W((d, c), tuple(k))),
                some(self.kernel_terms(d, c, tuple(k)), total, readable(total, terms)),
            )

    def bias_gradient(self, limit: Limit = EQUATIONS, terms: Limit = TERMS) -> Iterator[tuple[Expression, Sum]]:
        total = volume(self.relation.output)
        for (d,) in first((self.spec.out_channels,), limit):
            yield Partial(self.b((d,))), some(self.bias_terms(d), total, readable(total, terms))

    # ---- numbers ------------------------------------------------------------------------------------------------

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        spec = self.spec
        return {"I": spec.x_shape(1)[1:], "W": spec.w_shape, "b": (spec.out_channels,), "δ": spec.y_shape(1)[1:]}

    @property
    def numeric(self) -> bool:
        """Whether numbers can be put in."""
        return numbers.fits(self.shapes)

    @cached_property
    def operands(self) -> dict[str, Any]:
        """I, W, b and δ in the library's layout: what was given, or random integers."""
        numbers.refuse_if_large(NAME, self.shapes)
        ranges = {"I": (1, 9), "W": (-4, 5), "b": (1, 5), "δ": (-3, 6)}
        drawn = enumerate(self.shapes.items())
        return {k: numbers.random(shape, (self.seed, n), *ranges[k]) for n, (k, shape) in drawn} | dict(self.given)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """The operands and what the library's operations make of them: O and the gradients."""
        a = self.operands
        y, pullback = jax.vjp(self.apply, a["I"], a["W"], a["b"])
        dx, dw, db = pullback(jax.numpy.asarray(a["δ"]))
        return {**a, "O": y, "dI": dx, "dW": dw, "db": db}

    def apply(self, x: Any, w: Any, b: Any) -> Any:
        """fnconv's own convolution."""
        axes = self.spec.axes
        return ops.conv(
            x,
            w,
            b,
            strides=[a.stride for a in axes],
            padding=[(a.low, a.high) for a in axes],
            dilation=[a.dilation for a in axes],
            groups=self.spec.groups,
        )

    def value(self, symbol: Symbol) -> float:
        return numbers.lookup(self.arrays)(symbol)

    def result(self, left: Expression) -> float:
        """What fnconv computes for the left side of an equation."""
        if isinstance(left, Partial):
            renamed = Symbol("d" + left.symbol.name, left.symbol.groups)
            return numbers.lookup(self.arrays)(renamed)
        if isinstance(left, Symbol):
            return self.value(left)
        raise TypeError(f"{NAME}: no number for {left}")
