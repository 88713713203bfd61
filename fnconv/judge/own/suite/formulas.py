"""How power averages are computed, step by step, for the bounds on their rounding errors.

Written out because the program reads powers of two from bits, which `bounds.Traced` cannot follow in float64, and twice
because the rule and automatic differentiation take different ways.  `a` computes, `s` stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fnconv.judge.engine.running_error import Approx, Format
from fnconv.judge.own import references
from fnconv.judge.own.bounds import TANGENT, Formulas
from fnconv.judge.own.references import Window

Operands = tuple[Approx, ...]
Results = Mapping[str, Approx]


def lp_pool(g: Window, p: float) -> Formulas:
    """(sum |x|^p)^(1/p) for p > 1."""

    def gather(x: Approx) -> Approx:
        return Approx(references.windows(g, x.value), references.windows(g, x.error), x.format)

    def scatter(shares: Approx, shape: tuple[int, ...]) -> Approx:
        """Equal cells added."""
        windows_of_cells = references.scatter(g, np.ones_like(shares.value), shape)
        return shares.linear(lambda values: references.scatter(g, values, shape), int(windows_of_cells.max()))

    def norm(cells: Approx) -> tuple[Approx, Any]:
        """The norm, 1 where the window is all zero, and where it is not."""
        total = (cells * cells if p == 2 else cells.abs().power(p)).sum(-1)
        alive = total.value > 0
        safe = total.where(alive, 1.0)
        return safe.sqrt() if p == 2 else safe.power(1 / p), alive

    def by_hand(s: Format, x: Approx) -> tuple[Approx, Approx, Any]:
        """y and its slopes (|x| / y)^(p - 1) with the stored y; powers of x over a power of two near the largest."""
        cells = gather(x)
        largest = abs(cells.value).max(axis=-1, keepdims=True)
        scale = 2.0 ** np.floor(np.log2(np.where(largest > 0, largest, 1.0)))
        y, alive = norm(cells.scaled(1 / scale))
        y = y.scaled(scale[..., 0]).stored(s)
        ratio = (cells.abs() / y.column()).where(alive[..., None])
        return y, (ratio if p == 2 else ratio.power(p - 1)).scaled(np.sign(cells.value)), alive

    def manual(a: Format, s: Format, operands: Operands, dy: Approx) -> Results:
        y, slopes, alive = by_hand(s, operands[0])
        return _results(s, y, alive, slopes * dy.column(), operands[0].value.shape)

    def tangent(a: Format, s: Format, given: Operands, _: Approx) -> Results:
        _, slopes, alive = by_hand(s, given[0])
        return {TANGENT: (slopes * gather(given[1])).sum(-1).where(alive).stored(s)}

    def automatic(a: Format, s: Format, operands: Operands, dy: Approx) -> Results:
        """The chain rule through the root, the sum and the power."""
        cells = gather(operands[0])
        y, alive = norm(cells)
        outer = dy / y.scaled(2) if p == 2 else dy * (norm_total(cells, alive).power(1 / p - 1) * (1 / p))
        inner = cells.scaled(2) if p == 2 else (cells.abs().power(p - 1) * p).scaled(np.sign(cells.value))
        return _results(s, y, alive, (outer.column() * inner).where(alive[..., None]), operands[0].value.shape)

    def norm_total(cells: Approx, alive: Any) -> Approx:
        return cells.abs().power(p).sum(-1).where(alive, 1.0)

    def _results(s: Format, y: Approx, alive: Any, shares: Approx, shape: tuple[int, ...]) -> Results:
        return {"y": y.where(alive), "dx": scatter(shares, shape).stored(s)}

    return Formulas(manual, automatic, tangent=tangent)
