"""A convolution as symbols and as numbers: what the sections of its page are generated from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from fnconv.base.geometry import volume
from fnconv.base.spec import ConvSpec
from fnconv.ops import functional as ops
from fnconv.show import numbers
from fnconv.show.blocks import EQUATIONS, TERMS, Limit, readable
from fnconv.show.relation import Index, Relation, first
from fnconv.show.symbols import Expression, Partial, Product, Sum, namer, some

NAME = "show.conv"


class Layer(numbers.Written):
    """I * W + b = O.  Indices are 0-based here and 1-based in the symbols."""

    name = NAME

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
    def tensors(self) -> dict[str, numbers.Tensor]:
        spec, r, kernels = self.spec, self.relation, (self.spec.out_channels,)
        return {
            "I": (self.I, (spec.in_channels,), r.input),
            "W": (self.W, (*kernels, self.per_group), r.window),
            "b": (lambda _, d: self.b(d), (), kernels),
            "O": (self.O, kernels, r.output),
            "δ": (self.delta, kernels, r.output),
        }

    def drawn(self, name: str) -> numbers.Array:
        number = list(self.shapes).index(name)
        ranges = {"I": (1, 9), "W": (-4, 5), "b": (1, 5), "δ": (-3, 6)}
        return numbers.random(self.shapes[name], (self.seed, number), *ranges[name])

    def computed(self, operands: Mapping[str, Any]) -> dict[str, Any]:
        y, pullback = jax.vjp(self.apply, *(operands[name] for name in ("I", "W", "b")))
        return {"O": y, **dict(zip(("dI", "dW", "db"), pullback(jax.numpy.asarray(operands["δ"])), strict=True))}

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
