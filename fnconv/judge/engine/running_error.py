"""Running error analysis: formulas evaluated together with a bound on the rounding error of each step.

For functions that are not linear no constant times the magnitude bounds the error, so the bound is carried along
(Wilkinson; Higham, Accuracy and Stability of Numerical Algorithms, 3.3): every number is a float64 value and an
absolute error that a computation with unit roundoff u can have made by then,

    fl(a op b) = (a op b)(1 + d) + e,   |d| <= u,  |e| <= the smallest normal number (underflow, perhaps to zero)

and exp, log, tanh, pow, which no standard rounds correctly, are granted ELEMENTARY u instead of u.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

ELEMENTARY = 8.0  # 4 ulp: 1 ulp is at most 2 u; libraries promise 1 to 4 ulp


@dataclass(frozen=True)
class Format:
    """A floating-point type as error analysis sees it."""

    u: float
    tiny: float

    @classmethod
    def of(cls, dtype: Any) -> Format:
        info = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
        return cls(float(info.eps) / 2, float(info.smallest_normal))

    def gamma(self, n: Any) -> Any:
        """n u / (1 - n u), the relative error of n roundings."""
        return n * self.u / (1 - n * self.u)

    def exact(self, value: Any) -> Approx:
        return Approx(np.asarray(value, np.float64), np.zeros(np.shape(value)), self)


@dataclass(frozen=True)
class Approx:
    """A value and how far the computed one may be from it."""

    value: Values
    error: Values
    format: Format

    def __add__(self, other: Any) -> Approx:
        other = self._lift(other)
        return self._rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: Any) -> Approx:
        return self + -self._lift(other)

    def __neg__(self) -> Approx:
        return Approx(-self.value, self.error, self.format)

    def __mul__(self, other: Any) -> Approx:
        other = self._lift(other)
        error = abs(self.value) * other.error + abs(other.value) * self.error + self.error * other.error
        return self._rounded(self.value * other.value, error, ~(self._powers_of_two() | other._powers_of_two()))

    def __truediv__(self, other: Any) -> Approx:
        other = self._lift(other)
        quotient = self.value / other.value
        error = (self.error + abs(quotient) * other.error) / (abs(other.value) - other.error)
        return self._rounded(quotient, error)

    def sqrt(self) -> Approx:
        value = np.sqrt(self.value)
        return self._rounded(value, _ratio(self.error, value))

    def power(self, p: float) -> Approx:
        """a^p for a >= 0; a^p = exp(p log a) may lose |p log a| times as much as exp."""
        value = self.value**p
        relative = _ratio(self.error, self.value)
        near = np.minimum(relative, 0.5)
        slack = value * np.expm1(-abs(p) * np.log1p(-near))
        slack = np.where(relative < 0.5, slack, (self.value + self.error) ** p if p > 0 else np.inf)
        weight = 1 + abs(p * np.log(np.where(self.value > 0, self.value, 1.0)))
        return self.elementary(value, slack, weight)

    def sum(self, axis: Any) -> Approx:
        """In any order of summation."""
        sizes = np.sum(self.error, axis=axis), np.sum(abs(self.value) + self.error, axis=axis)
        terms = self.value.size // max(1, sizes[0].size)
        error = sizes[0] + self.format.gamma(max(terms - 1, 0)) * sizes[1] + terms * self.format.tiny
        return Approx(np.sum(self.value, axis=axis), error, self.format)

    def abs(self) -> Approx:
        return Approx(abs(self.value), self.error, self.format)

    def stored(self, format: Format) -> Approx:
        """Rounded to another type; further steps are done in this one again."""
        return Approx(self.value, Approx(self.value, self.error, format)._step(self.error), self.format)

    def _lift(self, other: Any) -> Approx:
        return other if isinstance(other, Approx) else self.format.exact(other)

    def _powers_of_two(self) -> Any:
        """Where it is one, without error: times it, nothing is rounded."""
        return (self.error == 0) & (abs(np.frexp(self.value)[0]) == 0.5)

    def _step(self, error: Values, factor: Any = 1.0) -> Values:
        size = abs(self.value) + error
        return np.asarray(error + factor * self.format.u * size + self.format.tiny * (size > 0))

    def _rounded(self, value: Values, error: Values, factor: Any = 1.0) -> Approx:
        return Approx(value, Approx(value, error, self.format)._step(error, factor), self.format)

    def elementary(self, value: Values, error: Values, weight: Any = 1.0) -> Approx:
        """A function of this that no standard rounds correctly, and how far it is off for this one's error."""
        return self._rounded(value, error, ELEMENTARY * weight)


def _ratio(error: Values, value: Values) -> Values:
    """error / value; where the value is 0, 0 or infinity."""
    rest = np.where(error > 0, np.inf, 0.0) + np.zeros_like(value)
    return np.divide(error, value, out=rest, where=value > 0)
