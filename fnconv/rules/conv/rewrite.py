"""A convolution as another convolution between changes of variables.

If conv(x, w) = U C'(X x, W w) with X, W, U linear and C' the convolution of another geometry, then, C' having the
adjoints X' and W',

    dx = X* X'(U* dy, W w)            dw = W* W'(X x, U* dy).

So a formulation is three linear maps with their adjoints, the inner geometry, and what computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from fnconv.base.spec import ConvSpec

Map = Callable[[jax.Array], jax.Array]
Formulation = Callable[[ConvSpec, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Rewrite:
    """The inner spec, and the changes of variables, each beside its adjoint."""

    spec: ConvSpec
    x: tuple[Map, Map]
    w: tuple[Map, Map]
    y: tuple[Map, Map]

    def forward(self, inner: Formulation, x: jax.Array, w: jax.Array) -> jax.Array:
        return self.y[0](inner(self.spec, self.x[0](x), self.w[0](w)))

    def input_vjp(self, inner: Formulation, dy: jax.Array, w: jax.Array) -> jax.Array:
        return self.x[1](inner(self.spec, self.y[1](dy), self.w[0](w)))

    def weight_vjp(self, inner: Formulation, x: jax.Array, dy: jax.Array) -> jax.Array:
        return self.w[1](inner(self.spec, self.x[0](x), self.y[1](dy)))

    def then(self, inner: Rewrite) -> Rewrite:
        """This rewrite, and then the inner geometry rewritten."""
        pairs = ((self.x, inner.x), (self.w, inner.w))
        x, w = ((_compose(b[0], a[0]), _compose(a[1], b[1])) for a, b in pairs)
        y = _compose(self.y[0], inner.y[0]), _compose(inner.y[1], self.y[1])
        return Rewrite(inner.spec, x=x, w=w, y=y)


def _compose(second: Map, first: Map) -> Map:
    return lambda a: second(first(a))


def identity(a: jax.Array) -> jax.Array:
    return a
