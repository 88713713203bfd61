"""Values and derivatives of every order by the definitions, and how far rounding may carry a result from them.

Order 0 is y, order 1 the gradient of <dy, y>.  Order n > 1 is the gradient of the (n - 1)st derivative of sum(c y^3)
along directions v.  It is the (n - 1)st derivative in t, at 0, of the gradient g(t) at operands + t v, whose dy is
3 c y^2; and that derivative is a weighted sum of values of g.

- Of polynomials g has a degree of at most 5 in t: seven values, at -3 .. 3, give derivatives without error.
- Other operations are analytic: with the values on a circle of radius r Cauchy's formula gives derivatives, and
  k! / r^k max |g| bounds them.  The circle stays within a quarter of the way to the nearest singularity.

A result made of n roundings of sums of products is off by at most gamma_n times the same sums of moduli (Higham,
Accuracy and Stability of Numerical Algorithms, 3.1); the moduli come from the same terms, applied to moduli.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import comb, factorial
from typing import Any

import numpy as np

from fnconv.judge.engine.running_error import Format
from fnconv.judge.fuzz.definition import Array, Form
from fnconv.judge.fuzz.draw import COPIES, Problem
from fnconv.judge.fuzz.sample import Sample
from fnconv.judge.fuzz.smooth import SMOOTH

STENCILS = {2: ((-1, 9, -45, 0, 45, -9, 1), 60), 3: ((2, -27, 270, -490, 270, -27, 2), 180)}
NODES = 16  # of the upper half of a circle; the lower half has their conjugates
EPSILON = float(np.finfo(np.longdouble).eps)  # in which derivatives from the second on are computed


@dataclass(frozen=True)
class Expected:
    """A result, the same of moduli, and how far rounding may have carried the result itself.

    roundings: between an operand and a result.  stored: how many intermediate results are rounded to the dtype of the
    operands.  whole: whether whole operands leave nothing to round.
    """

    value: Array
    moduli: Array
    own: Array
    roundings: float
    stored: float = 0
    whole: bool = False


def expected(p: Problem, s: Sample, orders: int) -> list[list[Expected]]:
    """For every order its results.  Gradients of operands that are not mapped are sums over the copies."""
    with np.errstate(all="ignore"):
        of_copy = _smooth if p.operation in SMOOTH else _polynomial
        if not any(p.mapped):
            return of_copy(p, s, orders)
        copies = [of_copy(p, s.copy(i, p.mapped), orders) for i in range(COPIES)]
        moving = [m for a, m in enumerate(p.mapped) if a != p.index]
        return [
            [
                _together(same, stacked=order == 0 or moving[a])
                for a, same in enumerate(zip(*(found[order] for found in copies), strict=True))
            ]
            for order in range(orders + 1)
        ]


def _together(same: Sequence[Expected], stacked: bool) -> Expected:
    join: Any = np.stack if stacked else partial(np.sum, axis=0)
    value, moduli, own = (join([getattr(e, name) for e in same]) for name in ("value", "moduli", "own"))
    roundings, stored = (max(getattr(e, name) for e in same) for name in ("roundings", "stored"))
    more = 0 if stacked else COPIES
    return Expected(value, moduli, own, roundings + more, stored + more, all(e.whole for e in same))


def _polynomial(p: Problem, s: Sample, orders: int) -> list[list[Expected]]:
    form = p.form(s.operands)
    values, sizes = _derivatives(form, s, orders), _derivatives(form.moduli(), s.moduli(), orders)
    n, found = form.steps(s.operands), []
    for order in range(orders + 1):
        # from order 2 on a term has the factors y, y and dy, and each of them is a sum itself, as the gradient is
        roundings = n if order < 2 else 3 * n + 8 * order
        own = 2.0**-53 if order < 2 else EPSILON
        stored = form.stored if order else len(form.terms) - 1
        found.append(
            [
                Expected(value, moduli, own * roundings * size, roundings, stored, form.whole)
                for a, ((value, _), (moduli, size)) in enumerate(zip(values[order], sizes[order], strict=True))
                if order == 0 or a != p.index
            ]
        )
    if form.indices is not None:
        found[0].append(Expected(form.indices, *2 * (np.zeros(form.shape),), 0))
    return found


def _derivatives(form: Form, s: Sample, orders: int) -> list[list[tuple[Array, Array]]]:
    """Results and, where all numbers are moduli, the sums of moduli in their computation."""
    y = form.value(s.operands)
    found = [[(y, y)]]
    if orders:
        found.append([(g, g) for g in form.gradient(s.operands, s.dy)])
    if orders > 1:

        def slope(t: int) -> list[Array]:
            y = form.value(at := s.at(t))
            y = np.where(np.isfinite(y), y, 0)  # as the program's loss leaves out what an empty window has
            return form.gradient(at, 3 * s.c * y * y)

        samples = {t: slope(t) for t in range(-3, 4)}
        for order in range(2, orders + 1):
            weights, divisor = STENCILS[order]
            results = []
            for a in range(len(s.operands)):
                value = sum(w * samples[t][a] for t, w in enumerate(weights, -3))
                size = sum(abs(w) * samples[abs(t)][a] for t, w in enumerate(weights, -3))
                results.append((np.asarray(value / divisor), np.asarray(size / divisor)))
            found.append(results)
    return found


def _smooth(p: Problem, s: Sample, orders: int) -> list[list[Expected]]:
    def at(operands: Sequence[Array]) -> Any:
        return SMOOTH[p.operation](*operands, *p.args, **p.formula)

    y = at(s.operands)
    n, unit = y.roundings + 4, 2.0**-53
    found = [[Expected(y.value, y.modulus, unit * n * y.modulus, n)]]
    if orders:
        gradient = y.back(s.dy, abs(s.dy))
        found.append([Expected(g, size, 2 * unit * n * size, 2 * n, y.stored) for g, size in gradient])
    if orders > 1:
        circle = s.radius(p) * np.exp(1j * np.pi * (np.arange(NODES, dtype=np.longdouble) + 0.5) / NODES)
        samples = [y.back(3 * s.c * y.value**2, 3 * abs(s.c) * y.modulus**2) for y in (at(s.at(t)) for t in circle)]
    for order in range(2, orders + 1):
        k, roundings, results = order - 1, 3 * n + 8 * order, []
        for nodes in zip(*samples, strict=True):
            value = sum((g * t**-k).real for (g, _), t in zip(nodes, circle, strict=True)) * (factorial(k) / NODES)
            size = np.max([size for _, size in nodes], axis=0) * (factorial(k) / s.radius(p) ** k)
            # the derivative may be any of those of c, y, y and the two factors of a gradient
            moduli = size * comb(k + 3, k)
            results.append(Expected(np.asarray(value), moduli, EPSILON * roundings * moduli, roundings))
        found.append(results)
    return found


def bound(e: Expected, moduli: Array, dtype: Any, summed: Any, underflows: float) -> Array:
    """How far a computed result may be, by gamma_n of the type that sums are kept in and what is stored in `dtype`.

    moduli: larger than e's where a formulation adds up larger numbers.
    underflows: what a number that underflowed may be multiplied by afterwards.
    """
    storage, wide = Format.of(dtype), Format.of(summed)
    error = wide.gamma(e.roundings) * moduli
    if storage != wide:
        error = error + storage.u * (abs(e.value) + error) + storage.gamma(e.stored) * moduli
    underflow = (e.roundings * wide.tiny + storage.tiny) * underflows * ((moduli != 0) | (e.value != 0))
    return np.asarray(error + underflow + e.own, np.float64)
