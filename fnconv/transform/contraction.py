"""`dot_general` closed under differentiation: an index notation in which the adjoint only moves labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnconv.attach import LinearMap
from fnconv.linear import accumulator

Labels = tuple[int, ...]


class Contraction(NamedTuple):
    """Labels of the axes of a, b and y; a label is summed over where it is not y's."""

    a: Labels
    b: Labels
    y: Labels
    precision: Any = None


def _evaluate(spec: Contraction, a: jax.Array, b: jax.Array) -> jax.Array:
    wide = accumulator(a.dtype)
    y = jnp.einsum(a, spec.a, b, spec.b, spec.y, precision=spec.precision, preferred_element_type=wide)
    return y.astype(a.dtype)


# delta^L = w^T delta^{L+1} and Delta w = delta^{L+1} a^T, Notes 2.1, for any axes: each label stands in two of the
# three arrays, or in all, so that summing over what is not in the result gives either gradient.
_M = LinearMap("contraction", _evaluate)
_M.adjoints = (
    lambda spec, dy, a, b: _M(spec._replace(a=spec.y, b=spec.b, y=spec.a), dy, b),
    lambda spec, dy, a, b: _M(spec._replace(a=spec.a, b=spec.y, y=spec.b), a, dy),
)
contraction: Callable[..., jax.Array] = _M.attached()


def labels(a_axes: int, b_axes: int, dimension_numbers: Any, precision: Any) -> Contraction:
    """`dot_general`'s numbers in labels: y has the batch axes, then a's free ones, then b's."""
    (a_summed, b_summed), (a_batch, b_batch) = dimension_numbers
    a = tuple(range(a_axes))
    of_b = dict(zip((*b_summed, *b_batch), (*a_summed, *a_batch), strict=True))
    b = tuple(of_b.get(i, a_axes + i) for i in range(b_axes))
    free = [i for i in a if i not in (*a_summed, *a_batch)] + [i for i in b if i >= a_axes]
    return Contraction(a, b, (*a_batch, *free), precision)
