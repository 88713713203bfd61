"""Values and derivatives of every order from a definition's terms, and how far rounding may carry a result from them.

Order 0 is y, order 1 the gradient of <dy, y>.  Order n > 1 is the gradient of the n - 1st derivative of sum(c y^3)
along directions v: (n - 1)! times the coefficient of t^(n - 1) in the gradient at operands + t v.  Everything is a
polynomial, so power series in t, cut off, give it exactly.

A result made of N roundings of sums of products is off by at most gamma_N times the same sums of moduli (Higham,
Accuracy and Stability of Numerical Algorithms, 3.1); the moduli come from the same terms, applied to moduli.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import factorial, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fnconv.judge.fuzz.definition import Array, Form

Series = Array  # the coefficients of t^0, t^1, .. on the first axis


@dataclass(frozen=True)
class Expected:
    """A result, the same of moduli; the roundings between an operand and a result, and those of stored numbers."""

    value: Array
    moduli: Array
    roundings: float
    stored: float = 1


def times(a: Series, b: Series) -> Series:
    return np.stack([sum((a[i] * b[k - i] for i in range(1, k + 1)), a[0] * b[k]) for k in range(len(a))])


def series(operands: Sequence[Array], directions: Sequence[Array], order: int) -> list[Series]:
    rest = [np.zeros_like(o) for o in operands]
    return [np.stack([o, v, z][:order]) for o, v, z in zip(operands, directions, rest, strict=True)]


def gathered(to: Array, values: Series, shape: Sequence[int], start: Any = 0) -> Series:
    """Values added where `to` says."""
    total = np.zeros((len(values), prod(shape)), np.result_type(values))
    if np.ndim(start) or start:
        total[0] = np.broadcast_to(start, tuple(shape)).astype(total.dtype).ravel()
    for row, v in zip(total, values, strict=True):
        np.add.at(row, to, v)
    return total.reshape(len(values), *shape)


def weighted(t: Any, products: Series, modulus: bool) -> Series:
    """Coefficient and divisor of each term."""
    if np.ndim(t.coefficient) or t.coefficient != 1:
        c = abs(np.asarray(t.coefficient)) if modulus else np.asarray(t.coefficient)
        products = products * c.astype(products.dtype)
    return products / t.divisor if np.ndim(t.divisor) else products


def value(form: Form, operands: Sequence[Series], modulus: bool = False) -> Series:
    flat = [o.reshape(len(o), -1) for o in operands]
    constant = abs(np.asarray(form.constant, float)) if modulus else form.constant
    y: Series = np.zeros((len(flat[0]), *form.shape), flat[0].dtype)
    y[0] += np.asarray(constant).astype(y.dtype)
    for t in form.terms:
        (a, at), *others = t.factors
        p = flat[a][:, at]
        for b, at_b in others:
            p = times(p, flat[b][:, at_b])
        y = y + gathered(t.to, weighted(t, p, modulus), form.shape)
    return y


def gradient(form: Form, operands: Sequence[Series], dy: Series, modulus: bool = False) -> list[Series]:
    """For every operand the sum over its places in the terms of dy times the other factors."""
    flat, flat_dy = [o.reshape(len(o), -1) for o in operands], dy.reshape(len(dy), -1)
    grads = [np.zeros_like(o) for o in operands]
    for t in form.terms:
        for slot, (a, at) in enumerate(t.factors):
            p = weighted(t, flat_dy[:, t.to], modulus)
            for b, at_b in t.factors[:slot] + t.factors[slot + 1 :]:
                p = times(p, flat[b][:, at_b])
            grads[a] = grads[a] + gathered(at, p, operands[a].shape[1:])
    return grads


def counts(form: Form, operands: Sequence[Array]) -> float:
    """The most terms that are added up in a value, or in an entry of a gradient, and the factors of a term."""
    size = prod(form.shape)
    values = sum(np.bincount(t.to, minlength=size) for t in form.terms)
    added = [int(np.max(values, initial=0))]
    for a, o in enumerate(operands):
        slots = [at for t in form.terms for b, at in t.factors if b == a]
        added.append(int(np.max(sum((np.bincount(at, minlength=o.size) for at in slots), np.zeros(1)), initial=0)))
    return max(added) + max((len(t.factors) for t in form.terms), default=0) + 2


def polynomial(
    form: Form, operands: Sequence[Array], directions: Sequence[Array], c: Array, dy: Array, order: int
) -> list[Expected]:
    """The result of one order: y alone, or a gradient for every operand."""
    n, parts = counts(form, operands), max(1, len(form.terms))  # each part of a sum may be stored
    bounded = replace(form, constant=np.where(np.isfinite(form.constant), form.constant, 0))  # the loss leaves -inf out

    def results(modulus: bool) -> list[Array]:
        ops, dirs, w, d = (
            ([abs(o) for o in operands], [abs(v) for v in directions], abs(c), abs(dy))
            if modulus
            else (operands, directions, c, dy)
        )
        if order == 0:
            return [value(form, series(ops, dirs, 1), modulus)[0]]
        if order == 1:
            return [g[0] for g in gradient(form, series(ops, dirs, 1), d[None], modulus)]
        at = series(ops, dirs, order)
        y = value(bounded, at, modulus)
        slope = 3 * w[None] * times(y, y)
        return [factorial(order - 1) * g[-1] for g in gradient(form, at, slope, modulus)]

    n = n if order < 2 else (order + 2) * 2 * (n + 4)  # every factor y is a sum of its own
    with np.errstate(all="ignore"):
        return [Expected(v, m, n, kept(order) * parts) for v, m in zip(results(False), results(True), strict=True)]


def kept(order: int) -> float:
    """How often what becomes a result is stored: y, y^2, c y^2, a gradient and its sums, for every order again."""
    return 1 if order < 2 else 6 * (order + 2)


def unit(dtype: Any) -> tuple[float, float, float]:
    """Unit roundoff, smallest normal and largest number."""
    import jax.numpy as jnp

    info = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.eps) / 2, float(info.smallest_normal), float(info.max)


def gamma(n: float, u: float) -> float:
    return n * u / (1 - n * u) if n * u < 1 else np.inf


def bound(e: Expected, stored: str, summed: str, moduli: Any, underflows: float = 1.0) -> npt.NDArray[np.float64]:
    """gamma_N of the type that sums are kept in; gamma of the results stored on the way, where that type is another.

    moduli: the sums of moduli, larger than e's where a formulation adds up larger numbers.
    underflows: what a number that underflowed may be multiplied by afterwards.
    """
    (u, tiny, _), (v, small, _) = unit(summed), unit(stored)
    rounded = gamma(e.stored, v) if u != v else 0.0
    relative = gamma(e.roundings, u) + rounded + gamma(e.roundings, 2.0**-53)
    with np.errstate(all="ignore"):
        total = relative * np.asarray(moduli, np.float64)
        return np.asarray(total + (e.roundings * tiny + small) * underflows * (np.asarray(moduli) != 0))
