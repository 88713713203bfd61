"""How far a result may be from the exact one: a-priori bounds, never tolerances.

For a sum of `count` products, accumulated in any order with unit roundoff u and stored with unit roundoff v,

    |computed - exact| <= gamma_u(count + 2) magnitude + v (|exact| + gamma_u(count + 2) magnitude) + underflow

gamma_n = n u / (1 - n u), magnitude the same sum of absolute values (Higham, Accuracy and Stability of Numerical
Algorithms, 3.1); v is counted only where it differs from u.  Count and magnitude come from the reference itself,
applied to ones and to absolute values.  What is not linear is followed step by step, see `engine.followed`.
Each bound takes the float64 reference's own error in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import accumulator
from fnconv.judge.engine.followed import follow
from fnconv.judge.engine.programs import abstract, precision
from fnconv.judge.engine.running_error import Approx, Format, Values
from fnconv.transform.both_modes import both_modes

Results = dict[str, Values]
Reference = Callable[[tuple[Values, ...], Values], Results]  # the float64 reference: operands, cotangent -> results

F64 = Format.of(jnp.float64)
TANGENT = "tangent"  # the name of the result of forward mode


class Bound(Protocol):
    """What a case knows about the size and the rounding errors of its results."""

    def magnitude(self, run: Reference, operands: tuple[Values, ...], cotangent: Values) -> Results:
        """No partial sum is larger: the test that integers stay exact."""

    def errors(self, run: Reference, operands: tuple[Values, ...], cotangent: Values, dtype: Any) -> Results:
        """The largest |computed - float64 reference| that rounding explains, for every result."""

    def of_tangents(self, operands: int) -> Bound | None:
        """The bound on the tangent, a function of so many operands and then of their tangents; None if not known."""


@dataclass(frozen=True)
class Multilinear:
    """Results that are sums of products of the operands and the cotangent.

    scale: the reference applied to ones, times this, counts the terms (averages: the cells of a window).
    rounded: how often a result is stored before it is complete (a bias added to a stored result: once).
    """

    scale: int = 1
    rounded: Mapping[str, int] = field(default_factory=dict)

    def of_tangents(self, operands: int) -> Multilinear:
        """A sum of one term for each operand, stored each."""
        return Multilinear(self.scale, {TANGENT: operands})

    def magnitude(self, run: Reference, operands: tuple[Values, ...], cotangent: Values) -> Results:
        sums = run(tuple(map(abs, operands)), abs(cotangent))
        return {name: abs(value) * self.scale for name, value in sums.items()}

    def errors(self, run: Reference, operands: tuple[Values, ...], cotangent: Values, dtype: Any) -> Results:
        counts, sums = self._counted(run, operands, cotangent), run(tuple(map(abs, operands)), abs(cotangent))
        return self._bounds(run(operands, cotangent), counts, sums, dtype)

    def grown(
        self, run: Reference, operands: tuple[Values, ...], cotangent: Values, dtype: Any, growth: float, steps: int
    ) -> Results:
        """`errors` of a formulation that adds numbers `growth` times as large as the products, after `steps` roundings.

        What is added need not be products of this very result, so all entries count as the largest.
        """
        most = self._counted(run, operands, cotangent)
        counts = {name: np.full_like(n, n.max(initial=0) + steps) for name, n in most.items()}
        largest = tuple(np.full_like(o, abs(o).max(initial=0)) for o in (*operands, cotangent))
        sums = run(largest[:-1], largest[-1])
        sums = {name: np.full_like(s, growth * abs(s).max(initial=0)) for name, s in sums.items()}
        return self._bounds(run(operands, cotangent), counts, sums, dtype)

    def _counted(self, run: Reference, operands: tuple[Values, ...], cotangent: Values) -> Results:
        """The terms of every entry."""
        ones = run(tuple(map(np.ones_like, operands)), np.ones_like(cotangent))
        return {name: abs(n) * self.scale for name, n in ones.items()}

    def _bounds(self, exact: Results, counts: Results, sums: Results, dtype: Any) -> Results:
        given = ((name, counts[name], abs(sums[name])) for name in exact)
        return {n: sum_error(count, size, exact[n], dtype, self.rounded.get(n, 0)) for n, count, size in given}


@dataclass(frozen=True)
class Selecting:
    """Values that are picked, not computed, and gradients linear in the cotangent alone."""

    value: str = "y"
    rounded: int = 0  # how often a gradient is stored before it is complete

    def of_tangents(self, operands: int) -> Selecting:
        """Picked as well."""
        return Selecting(TANGENT)

    def magnitude(self, run: Reference, operands: tuple[Values, ...], cotangent: Values) -> Results:
        return {name: abs(value) for name, value in run(operands, abs(cotangent)).items()}

    def errors(self, run: Reference, operands: tuple[Values, ...], cotangent: Values, dtype: Any) -> Results:
        ones, sums = run(operands, np.ones_like(cotangent)), run(operands, abs(cotangent))
        exact = run(operands, cotangent)
        gradients = [name for name in exact if name != self.value]
        errors = {n: sum_error(ones[n], sums[n], exact[n], dtype, self.rounded) for n in gradients}
        return {self.value: np.zeros_like(cotangent), **errors}


@dataclass(frozen=True)
class Traced:
    """Results followed step by step through the programs of the rule and of the reference, as they are traced."""

    manual: Callable[..., Any]
    reference: Callable[..., Any]
    names: tuple[str, ...] = ("x",)
    forward: bool = False

    def of_tangents(self, operands: int) -> Traced:
        return replace(self, forward=True)

    def magnitude(self, run: Reference, operands: tuple[Values, ...], cotangent: Values) -> Results:
        return {name: abs(value) for name, value in run(operands, cotangent).items()}

    def errors(self, run: Reference, operands: tuple[Values, ...], cotangent: Values, dtype: Any) -> Results:
        manual = self._followed(self.manual, operands, cotangent, dtype)
        reference = self._followed(self.reference, operands, cotangent, jnp.float64)
        return {name: manual[name].error + reference[name].error for name in manual}

    def _followed(
        self, function: Callable[..., Any], operands: tuple[Values, ...], cotangent: Values, dtype: Any
    ) -> dict[str, Approx]:
        given = operands if self.forward else (*operands, cotangent)

        def results(*given: jax.Array) -> list[Any]:
            if self.forward:
                n = len(given) // 2
                return [jax.jvp(both_modes(function), given[:n], given[n:])[1]]
            y, pull = jax.vjp(function, *given[:-1])
            return [y, *pull(given[-1].astype(y.dtype))]

        with precision(dtype):
            jaxpr = jax.make_jaxpr(results)(*(abstract(a.shape, dtype) for a in given))
        with precision(jnp.float64):
            found = follow(jaxpr, given)
        return dict(zip([TANGENT] if self.forward else ["y", *map("d{}".format, self.names)], found, strict=True))


def sum_error(count: Values, magnitude: Values, exact: Values, dtype: Any, rounded: int = 0) -> Values:
    """The bound at the top of this module, with the reference's own error."""
    storage, wide = Format.of(dtype), Format.of(accumulator(jnp.dtype(dtype)))
    error = _sum(wide, count, magnitude)
    if storage != wide or rounded:
        error = error + storage.u * (abs(exact) + error) + storage.gamma(rounded) * magnitude
    underflow = (count + 2) * wide.tiny + storage.tiny
    return np.where(magnitude > 0, error + underflow + _sum(F64, count, magnitude), 0.0)


def _sum(format: Format, count: Values, magnitude: Values) -> Values:
    return np.asarray(format.gamma(count + 2) * magnitude)
