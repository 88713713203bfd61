"""`dot_general` closed under differentiation: an index notation in which the adjoint only moves labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.attach import LinearMap
from fnconv.base.dtypes import accumulator

Labels = tuple[int, ...]


class Contraction(NamedTuple):
    """Labels of the axes of a, b and y, a label being summed over where it is not y's; and their dtypes.

    Sums are kept in the widest of the dtypes, and at least in float32, whichever of the three is the result.
    """

    a: Labels
    b: Labels
    y: Labels
    dtypes: tuple[Any, Any, Any]
    precision: Any = None

    def of(self, a: int, b: int, y: int) -> Contraction:
        """The same contraction with its three arrays in other places."""
        labels, dtypes = self[:3], self.dtypes
        return self._replace(a=labels[a], b=labels[b], y=labels[y], dtypes=(dtypes[a], dtypes[b], dtypes[y]))


def _evaluate(spec: Contraction, a: jax.Array, b: jax.Array) -> jax.Array:
    wide = np.result_type(*map(accumulator, spec.dtypes))
    a, b = (a, b) if a.dtype == b.dtype else (a.astype(wide), b.astype(wide))
    # bfloat16 to bfloat16 XLA sums in float32, and its CPU has not every such product if it is told so
    preferred = None if a.dtype == spec.dtypes[2] == jnp.bfloat16 else wide
    y = jnp.einsum(a, spec.a, b, spec.b, spec.y, precision=spec.precision, preferred_element_type=preferred)
    return y.astype(spec.dtypes[2])


# delta^L = w^T delta^{L+1} and Delta w = delta^{L+1} a^T, Notes 2.1, for any axes: each label stands in two of the
# three arrays, or in all, so that summing over what is not in the result gives either gradient.
contract = LinearMap("contraction", _evaluate)
contract.adjoints = (
    lambda spec, dy, a, b: contract(spec.of(2, 1, 0), dy, b),
    lambda spec, dy, a, b: contract(spec.of(0, 2, 1), a, dy),
)
contraction: Callable[..., jax.Array] = contract.attached


def labelled(a: Any, b: Any, result: Any, dimension_numbers: Any, precision: Any) -> Contraction:
    """`dot_general`'s numbers in labels: y, of dtype `result`, has the batch axes, then a's free ones, then b's."""
    (a_summed, b_summed), (a_batch, b_batch) = dimension_numbers
    of_a = tuple(range(a.ndim))
    place = dict(zip((*b_summed, *b_batch), (*a_summed, *a_batch), strict=True))
    of_b = tuple(place.get(i, a.ndim + i) for i in range(b.ndim))
    free = [i for i in of_a if i not in (*a_summed, *a_batch)] + [i for i in of_b if i >= a.ndim]
    return Contraction(of_a, of_b, (*a_batch, *free), (a.dtype, b.dtype, result), precision)
