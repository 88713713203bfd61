"""A convolution as symbols and as numbers: what the sections of its page are generated from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from fnconv.base.geometry import volume
from fnconv.base.spec import ConvSpec
from fnconv.ops import functional as ops
from fnconv.show import numbers
from fnconv.show.relation import Relation
from fnconv.show.symbols import Expression, Partial, Product, Sum, namer


class Layer(numbers.Written):
    """I * W + b = O.  Indices are 0-based here and 1-based in the symbols."""

    name = "show.conv"

    def __init__(self, spec: ConvSpec, seed: int, given: Mapping[str, numbers.Array]) -> None:
        self.spec, self.seed, self.given = spec, seed, given
        self.ranges = {"I": (1, 9), "W": (-4, 5), "b": (1, 5), "δ": (-3, 6)}
        self.relation = r = Relation(spec.axes)
        ins, kernels, axes = (spec.in_channels,), (spec.out_channels,), spec.axes
        weights = (*kernels, self.per_group)
        self.shapes = {"I": spec.x_shape(1)[1:], "W": spec.w_shape, "b": kernels, "δ": spec.y_shape(1)[1:]}
        inner, outer = (n if n != (1,) else () for n in (ins, kernels))  # one channel has no index
        self.I, self.W = namer("I", (inner, r.input)), namer("W", (weights if weights != (1, 1) else (), r.window))
        self.O, self.delta = namer("O", (outer, r.output)), namer("δ", (outer, r.output))
        self.b = namer("b", (outer,))
        self.tensors = {
            "I": (self.I, ins, r.input),
            "W": (self.W, weights, r.window),
            "b": (lambda _, d: self.b(d), (), kernels),
            "O": (self.O, kernels, r.output),
            "δ": (self.delta, kernels, r.output),
        }
        steps, dilation = [a.stride for a in axes], [a.dilation for a in axes]
        self.options: dict[str, Any] = {"strides": steps, "dilation": dilation, "groups": spec.groups}
        self.apply = partial(ops.conv, padding=[(a.low, a.high) for a in axes], **self.options)

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

    # ---- the equations, from the index tables --------------------------------------------------------------------

    def forward(self) -> Iterator[tuple[Expression, Sum]]:
        """O_d,o = sum over c and k of I_c,i W_dc,k, then + b_d."""
        for d, *o in self.first(self.spec.out_channels, *self.relation.output):
            met, above = self.relation.of_output(o), self.group_of_output(d) * self.per_group
            pairs = ((self.I((above + c,), i), self.W((d, c), k)) for c in range(self.per_group) for k, i in met)
            yield self.O((d,), o), self.some(chain(map(Product, pairs), [self.b((d,))]), self.per_group * len(met) + 1)

    def input_gradient(self) -> Iterator[tuple[Expression, Sum]]:
        """dL/dI_c,i = sum over d and over (o, k) in m^-1(i) of delta_d,o W_dc,k."""
        for c, *i in self.first(self.spec.in_channels, *self.relation.input):
            met, kernels, within = self.relation.of_cell(i), self.kernels_of_input(c), c % self.per_group
            pairs = ((self.delta((d,), o), self.W((d, within), k)) for d in kernels for o, k in met)
            yield Partial(self.I((c,), i)), self.some(map(Product, pairs), len(kernels) * len(met))

    def kernel_gradient(self) -> Iterator[tuple[Expression, Sum]]:
        """dL/dW_dc,k = sum over o of delta_d,o I_c,i."""
        for d, c, *k in self.first(self.spec.out_channels, self.per_group, *self.relation.window):
            met, channel = self.relation.of_element(k), self.group_of_output(d) * self.per_group + c
            pairs = ((self.delta((d,), o), self.I((channel,), i)) for o, i in met)
            yield Partial(self.W((d, c), k)), self.some(map(Product, pairs), len(met))

    def bias_gradient(self) -> Iterator[tuple[Expression, Sum]]:
        """dL/db_d = sum over o of delta_d,o."""
        for (d,) in self.first(self.spec.out_channels):
            terms = (self.delta((d,), o) for o in np.ndindex(*self.relation.output))
            yield Partial(self.b((d,))), self.some(terms, volume(self.relation.output))
