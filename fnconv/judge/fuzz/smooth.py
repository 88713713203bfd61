"""Operations that are no polynomials, by the differential equations that they satisfy.

With a series x(t) every coefficient of y(t) follows from y' = f(y, x) x', and the gradient is a polynomial of y:

    sigmoid      s' = s r x', r = s(-x), r' = -s r x'         dx = dy s r
    tanh         y' = 4 s(2x) s(-2x) x'                       dx = 4 dy s(2x) s(-2x)
    softmax      y' = y (x' - sum(y x'))                      dx = y (dy - sum(y dy))
    log softmax  l' = x' - sum(p x'), p = softmax             dx = dy - p sum(dy)
    p-norm       y' = sum(r x'), r = sign(x) (|x| / y)^(p-1)  dx = sum of dy r;  r' = (p-1) r (x'/x - y'/y)

`minus` is -1; with +1, on moduli, the same formulas bound what rounding can do: the relative error of each factor is
at most so many units, see `roundings`, in which exp, log and pow count ELEMENTARY.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial, inf, log
from typing import Any

import numpy as np

from fnconv.judge.engine.running_error import ELEMENTARY
from fnconv.judge.fuzz.definition import Array, pool_windows, pooled
from fnconv.judge.fuzz.expected import Expected, Series, kept, series, times

# y and gradient(dy) of a series, with the sign of what is subtracted; and the roundings of one factor
Smooth = tuple[Callable[[float], tuple[Series, Callable[[Series], list[Series]]]], float]


def solve(starts: Sequence[Array], slopes: Callable[..., Sequence[Series]], length: int) -> list[Series]:
    """Power series that start at `starts` and whose derivatives are `slopes` of themselves."""
    found = [s[None] for s in starts]
    for k in range(1, length):
        found = [np.concatenate([f, d[k - 1 : k] / k]) for f, d in zip(found, slopes(*found), strict=True)]
    return found


def velocity(x: Series, length: int) -> Series:
    """The derivative of a series."""
    rates = np.stack([(k + 1) * x[k + 1] for k in range(len(x) - 1)] + [np.zeros_like(x[0])])
    return rates[:length]


def logistic(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.where(x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-x)))


def sigmoid(operands: list[Series], scale: float = 1) -> Smooth:
    (x,) = operands

    def at(minus: float) -> tuple[Series, Callable[[Series], list[Series]]]:
        def slopes(s: Series, r: Series) -> list[Series]:
            v = scale * velocity(x if minus < 0 else abs(x), len(s))
            return [times(times(s, r), v), minus * times(times(s, r), v)]

        s, r = solve([logistic(scale * x[0]), logistic(-scale * x[0])], slopes, len(x))
        return s, lambda dy: [times(times(s[: len(dy)], r[: len(dy)]), dy)]

    return at, 4 * ELEMENTARY


def tanh(operands: list[Series]) -> Smooth:
    (x,) = operands
    both, roundings = sigmoid(operands, 2)

    def at(minus: float) -> tuple[Series, Callable[[Series], list[Series]]]:
        _, slope = both(minus)

        def slopes(y: Series) -> list[Series]:
            v = velocity(x if minus < 0 else abs(x), len(y))
            if minus > 0:  # autodiff's 1 - y^2, where the rule is differentiated once more
                return [times(np.concatenate([1 + y[:1] ** 2, times(y, y)[1:]]), v)]
            return [4 * slope(v)[0]]

        start = np.tanh(x[0]) if minus < 0 else abs(np.tanh(x[0]))
        (y,) = solve([start], slopes, len(x))
        return y, lambda dy: [4 * slope(dy)[0]]

    return at, roundings


def squared_error(operands: list[Series]) -> Smooth:
    prediction, target = operands

    def at(minus: float) -> tuple[Series, Callable[[Series], list[Series]]]:
        error = prediction - target if minus < 0 else abs(prediction) + abs(target)
        return times(error, error), lambda dy: [2 * times(error, dy), minus * 2 * times(error, dy)]

    return at, 4


def centred(x: Array, axis: int) -> Array:
    top = x.max(axis=axis, keepdims=True, initial=-inf)
    return x - np.where(np.isfinite(top), top, 0)


def spread(x: Array, axis: int) -> float:
    """How many units of a logit the exponent's rounding is worth, at most."""
    near = centred(x, axis)
    return float(np.max(abs(near[np.isfinite(near)]), initial=0))


def softmax(operands: list[Series], axis: int = -1, logarithm: bool = False) -> Smooth:
    (x,) = operands
    along = axis % (x.ndim - 1) + 1

    def total(a: Series) -> Series:
        return a.sum(axis=along, keepdims=True)

    def at(minus: float) -> tuple[Series, Callable[[Series], list[Series]]]:
        near = centred(x[0], along - 1)
        e = np.exp(near)
        norm = e.sum(axis=along - 1, keepdims=True)
        log_p0 = near - np.log(norm) if minus < 0 else 1 + abs(near) + abs(np.log(norm))

        def slopes(p: Series, log_p: Series) -> list[Series]:
            v = velocity(x if minus < 0 else abs(x), len(p))
            change = v + minus * total(times(p, v))
            return [times(p, change), change]

        p, log_p = solve([e / norm, log_p0], slopes, len(x))
        if logarithm:
            return log_p, lambda dy: [dy + minus * times(p, np.broadcast_to(total(dy), dy.shape))]
        return p, lambda dy: [times(p, dy + minus * total(times(p, dy)))]

    return at, 3 * ELEMENTARY + x.shape[along] + 2 * spread(x[0], along - 1)


def log_softmax(operands: list[Series], axis: int = -1) -> Smooth:
    return softmax(operands, axis, logarithm=True)


def softmax_cross_entropy(operands: list[Series]) -> Smooth:
    """-sum(weights log p); integer labels are weights that do not move, all 0 where there is no such class."""
    logits, labels = operands
    whole = labels.ndim < logits.ndim
    hot = labels[..., None] == np.arange(logits.shape[-1]) if whole else labels
    both, roundings = softmax([logits], -1, logarithm=True)

    def product(w: Series, other: Series) -> Series:
        """A weight of 0 asks nothing: 0 * -inf = 0; a label that is no class asks nothing at all."""
        if len(w) == 1:
            return np.where((w == 0) & (whole | np.isinf(other)), 0.0, w * other)
        return times(w, other)

    def at(minus: float) -> tuple[Series, Callable[[Series], list[Series]]]:
        log_p, _ = both(minus)
        p = softmax([logits], -1)[0](minus)[0]
        w = hot.astype(float) * np.eye(len(logits), 1).reshape(-1, *(1,) * (logits.ndim - 1)) if whole else hot
        w = abs(w) if minus > 0 else w

        def back(dy: Series) -> list[Series]:
            wide = np.broadcast_to(dy[..., None], log_p.shape)
            total = np.broadcast_to(w.sum(-1, keepdims=True), w.shape)
            slope = product(total, p) + minus * w
            if whole:
                return [times(np.where(total[:1].any(-1, keepdims=True), slope, 0.0), wide), np.zeros_like(labels)]
            return [times(slope, wide), minus * times(log_p, wide)]

        return minus * product(w, log_p).sum(-1), back

    return at, roundings + logits.shape[-1]


def lp_pool(operands: list[Series], window: Any, p: float = 2, **options: Any) -> Smooth:
    (x,) = operands
    windows, layout = pool_windows(x[0], window, options)
    at_y, at_x, _, _, shape = pooled(x[0], windows, layout)
    to, at_ = at_y.ravel(), at_x.ravel()
    cells = abs(x[0].ravel()[at_])
    size = int(np.prod(shape))
    scale = np.zeros(size)
    np.maximum.at(scale, to, np.where(np.isfinite(cells), cells, 0))
    scale = np.where(scale > 0, scale, 1.0)
    sums = np.zeros(size)
    np.add.at(sums, to, (cells / scale[to]) ** p)
    with np.errstate(all="ignore"):
        norm = scale * sums ** (1 / p)
    sign = np.sign(x[0].ravel()[at_])
    with np.errstate(all="ignore"):
        ratio = np.where(norm[to] == 0, 0.0, cells / norm[to])
        r0 = sign * ratio ** (p - 1) if p > 1 else sign
    elements = int(np.bincount(to, minlength=1).max()) if to.size else 1

    def at(minus: float) -> tuple[Series, Callable[[Series], list[Series]]]:
        flat = x.reshape(len(x), -1)
        moved = flat[:, at_] if minus < 0 else abs(flat[:, at_])

        def summed(values: Series, places: Array, n: int) -> Series:
            total = np.zeros((len(values), n))
            for row, v in zip(total, values, strict=True):
                np.add.at(row, places, v)
            return total

        def slopes(y: Series, r: Series, over_x: Series, over_y: Series) -> list[Series]:
            v = velocity(moved, len(y))
            dy = summed(times(r, v), to, size)
            change = times(v, over_x) + minus * times(dy, over_y)[:, to]
            inverses = [minus * times(times(over, over), moving) for over, moving in ((over_x, v), (over_y, dy))]
            return [dy, (p - 1) * times(r, change), *inverses]

        with np.errstate(all="ignore"):
            start = [norm, r0 if minus < 0 else abs(r0), 1 / moved[0], 1 / norm]
            y, r, _, _ = solve(start, slopes, len(x)) if len(x) > 1 else [s[None] for s in start]

        def back(dy: Series) -> list[Series]:
            shares = times(r[: len(dy)], dy.reshape(len(dy), -1)[:, to])
            return [summed(shares, at_, x[0].size).reshape(len(dy), *x.shape[1:])]

        return y.reshape(len(x), *shape), back

    near = ratio[(ratio > 0) & np.isfinite(ratio)]
    power = abs(log(float(near.min()))) if near.size else 0.0
    of_norm = 5 * ELEMENTARY + elements + ELEMENTARY * log(elements + 1)
    return at, of_norm if p == 1 else of_norm * p + ELEMENTARY * (p - 1) * power


SMOOTH: dict[str, Callable[..., Smooth]] = {
    f.__name__: f for f in (sigmoid, tanh, squared_error, softmax, log_softmax, softmax_cross_entropy, lp_pool)
}


def smooth(
    name: str,
    operands: Sequence[Array],
    args: Sequence[Any],
    options: dict[str, Any],
    directions: Sequence[Array],
    c: Array,
    dy: Array,
    order: int,
) -> list[Expected]:
    """As `expected.polynomial`."""
    with np.errstate(all="ignore"):
        at, roundings = SMOOTH[name](series(operands, directions, max(order, 1)), *args, **options)

    def results(minus: float) -> list[Array]:
        y, back = at(minus)
        y = abs(y) if minus > 0 and order < 2 else y
        w, d = (c, dy) if minus < 0 else (abs(c), abs(dy))
        if order == 0:
            return [y[0]]
        if order == 1:
            return [g[0] for g in back(d[None])]
        return [factorial(order - 1) * g[-1] for g in back(3 * w[None] * times(y, y))]

    with np.errstate(all="ignore"):
        n = (roundings + 4) * (1 if order == 0 else 2 * (order + 2))
        stored = kept(order) + (order > 0) * (options.get("p", 2) - 1)  # y is stored, and in a norm's slope a power
        return [Expected(v, abs(m), n, stored) for v, m in zip(results(-1.0), results(1.0), strict=True)]
