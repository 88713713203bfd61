"""How the functions that are not linear are computed, step by step, for the bounds on their rounding errors.

Written out where sums in float32 are stored in between; `bounds.Traced` reads what works element by element from the
programs.  A formula is written twice where the rule and automatic differentiation take different ways.  `a` computes,
`s` stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fnconv.judge.engine.running_error import Approx, Format, Values
from fnconv.judge.own import references
from fnconv.judge.own.bounds import TANGENT, Formulas
from fnconv.judge.own.references import Window

Operands = tuple[Approx, ...]
Results = Mapping[str, Approx]


# ---- softmax --------------------------------------------------------------------------------------------------------


def _centred(x: Approx, axis: int) -> Approx:
    return x - x.value.max(axis=axis, keepdims=True)


def _softmax(x: Approx, axis: int) -> Approx:
    e = _centred(x, axis).exp()
    return e / e.sum(axis, keepdims=True)


def _log_softmax(x: Approx, axis: int) -> Approx:
    centred = _centred(x, axis)
    return centred - centred.exp().sum(axis, keepdims=True).log()


def softmax(axis: int) -> Formulas:
    def both(a: Format, s: Format, operands: Operands, dy: Approx) -> Results:
        """dx = y (dy - sum(dy y)); y is stored in between."""
        y = _softmax(operands[0], axis).stored(s)
        return {"y": y, "dx": (y * (dy - (dy * y).sum(axis, keepdims=True))).stored(s)}

    return Formulas(both, both)


def log_softmax(axis: int) -> Formulas:
    def both(a: Format, s: Format, operands: Operands, dy: Approx) -> Results:
        """dx = dy - p sum(dy); p is stored in between."""
        p = _softmax(operands[0], axis).stored(s)
        y = _log_softmax(operands[0], axis).stored(s)
        return {"y": y, "dx": (dy - p * dy.sum(axis, keepdims=True)).stored(s)}

    def tangent(a: Format, s: Format, given: Operands, _: Approx) -> Results:
        x, t = given
        p = _softmax(x, axis).stored(s)
        return {TANGENT: (t - (p * t).sum(axis, keepdims=True)).stored(s)}

    return Formulas(both, both, tangent=tangent)


def cross_entropy(hot: Values | None) -> Formulas:
    """hot: the weights of integer labels; None where weights are the second operand."""

    def split(a: Format, operands: Operands) -> tuple[Approx, Approx]:
        return (operands[0], operands[1]) if hot is None else (operands[0], a.exact(hot))

    def manual(a: Format, s: Format, operands: Operands, dy: Approx) -> Results:
        """d logits = (p sum(labels) - labels) dy with p = exp(log p)."""
        logits, weights = split(a, operands)
        log_p, dy = _log_softmax(logits, -1), dy.column()
        d_logits = (log_p.exp() * weights.sum(-1, keepdims=True) - weights) * dy
        return _losses(s, weights, log_p, d_logits, dy)

    def automatic(a: Format, s: Format, operands: Operands, dy: Approx) -> Results:
        """The cotangent of log p is c = -labels dy; that of the logits c - p sum(c)."""
        logits, weights = split(a, operands)
        log_p, p, dy = _log_softmax(logits, -1), _softmax(logits, -1), dy.column()
        c = -(weights * dy)
        return _losses(s, weights, log_p, c - p * c.sum(-1, keepdims=True), dy)

    def _losses(s: Format, weights: Approx, log_p: Approx, d_logits: Approx, dy: Approx) -> Results:
        y = -(weights * log_p).sum(-1)
        results = {"y": y.stored(s), "dlogits": d_logits.stored(s)}
        return results if hot is not None else results | {"dlabels": (-(log_p * dy)).stored(s)}

    def tangent(a: Format, s: Format, given: Operands, _: Approx) -> Results:
        """<p sum(labels) - labels, t>, and -<log p, t> of the labels' t."""
        operands, moved = given[: len(given) // 2], given[len(given) // 2 :]
        logits, weights = split(a, operands)
        log_p = _log_softmax(logits, -1)
        total = ((log_p.exp() * weights.sum(-1, keepdims=True) - weights) * moved[0]).sum(-1).stored(s)
        return {TANGENT: total if hot is not None else (total - (log_p * moved[1]).sum(-1).stored(s)).stored(s)}

    return Formulas(manual, automatic, tangent=tangent)


# ---- power-average pooling ------------------------------------------------------------------------------------------


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
