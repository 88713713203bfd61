"""Operations that are no polynomials, by their formulas, for real and for complex operands.

    sigmoid      s(x) = 1 / (1 + e^-x)                        dx = dy s(x) s(-x)
    tanh         (e^x - e^-x) / (e^x + e^-x)                  dx = 4 dy s(2x) s(-2x)
    softmax      p = e^x / sum e^x                            dx = p (dy - sum(p dy))
    log softmax  x - log sum e^x                              dx = dy - p sum(dy)
    p-norm       y = (sum |x|^p)^(1/p)                        dx = dy sign(x) (|x| / y)^(p - 1), summed over windows

Each function returns a `Smooth`.  The modulus of a sum is the sum of its terms' moduli.  exp, log and pow count as
ELEMENTARY roundings each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log
from typing import Any

import numpy as np

from fnconv.judge.engine.running_error import ELEMENTARY
from fnconv.judge.fuzz.definition import Array, Shape, pool_windows, pooled


@dataclass(frozen=True)
class Smooth:
    """back: from dy and its modulus to the gradients, each with its modulus.

    stored: how many intermediate results of a gradient are rounded to the dtype of the operands.
    """

    value: Array
    modulus: Array
    back: Callable[[Array, Array], list[tuple[Array, Array]]]
    roundings: float
    stored: float = 0


def logistic(x: Array) -> Array:
    e = np.exp(np.where(x.real < 0, x, -x))
    return np.where(x.real < 0, e, 1) / (1 + e)


def sigmoid(x: Array) -> Smooth:
    y, slope = logistic(x), logistic(x) * logistic(-x)
    return Smooth(y, abs(y), lambda dy, modulus: [(dy * slope, modulus * abs(slope))], 4 * ELEMENTARY)


def tanh(x: Array) -> Smooth:
    y, slope = np.tanh(x), 4 * logistic(2 * x) * logistic(-2 * x)
    return Smooth(y, abs(y), lambda dy, modulus: [(dy * slope, modulus * abs(slope))], 4 * ELEMENTARY)


def softmax(x: Array, axis: int = -1, logarithm: bool = False) -> Smooth:
    top = x.real.max(axis=axis, keepdims=True, initial=-inf)
    near = x - np.where(np.isfinite(top), top, 0)
    total = np.exp(near).sum(axis=axis, keepdims=True)
    p, log_total = np.exp(near) / total, np.log(total)

    def back(dy: Array, modulus: Array) -> list[tuple[Array, Array]]:
        def mean(a: Array) -> Array:
            return a.sum(axis=axis, keepdims=True)

        if logarithm:
            return [(dy - p * mean(dy), modulus + abs(p) * mean(modulus))]
        return [(p * (dy - mean(p * dy)), abs(p) * (modulus + mean(abs(p) * modulus)))]

    farthest = float(abs(near[np.isfinite(near)]).max(initial=0))  # e^x is off by |x| times the error of x
    roundings = 3 * ELEMENTARY + x.shape[axis] + 2 * farthest
    if logarithm:
        return Smooth(near - log_total, 1 + abs(near) + abs(log_total), back, roundings, 1)
    return Smooth(p, abs(p), back, roundings, 2)


def log_softmax(x: Array, axis: int = -1) -> Smooth:
    return softmax(x, axis, logarithm=True)


def softmax_cross_entropy(logits: Array, labels: Array) -> Smooth:
    """-sum(weights log p); an integer label gives its class the weight 1, and no weight where it is no class."""
    classes = labels.ndim < logits.ndim
    w = (labels[..., None] == np.arange(logits.shape[-1])).astype(float) if classes else labels
    p, log_p = softmax(logits), softmax(logits, logarithm=True)
    ignored = classes & ~w.any(-1, keepdims=True)
    total = w.sum(-1, keepdims=True)

    def weighed(number: Array) -> Array:
        """0 * -inf = 0."""
        return np.where((w == 0) & (classes | np.isinf(number)), 0.0, w * number)

    def back(dy: Array, modulus: Array) -> list[tuple[Array, Array]]:
        dy, modulus = dy[..., None], modulus[..., None]
        slope, size = total * p.value - w, abs(total * p.value) + abs(w)
        d_logits = np.where(ignored, 0, slope * dy), np.where(ignored, 0, size * modulus)
        return [d_logits, (-log_p.value * dy, log_p.modulus * modulus)][: 1 if classes else 2]

    roundings = log_p.roundings + logits.shape[-1]
    return Smooth(-weighed(log_p.value).sum(-1), abs(weighed(log_p.modulus)).sum(-1), back, roundings, 1)


def lp_pool(x: Array, window: Shape, p: float = 2, layout: str = "channels_last", **options: Any) -> Smooth:
    to, at, _, _, shape = pooled(x, pool_windows(x, window, layout, options), layout)
    to, at = to.ravel(), at.ravel()
    sign = np.sign(x.real.ravel()[at])
    cells = sign * x.ravel()[at]  # |x|, for a complex x near a real one as well
    largest = np.zeros(shape).ravel()
    np.maximum.at(largest, to, np.where(np.isfinite(cells), abs(cells), 0))
    scale = np.where(largest > 0, largest, 1)
    sums = np.zeros(scale.shape, x.dtype)
    np.add.at(sums, to, (cells / scale[to]) ** p)
    norm = scale * sums ** (1 / p)
    ratio = np.where(norm[to] == 0, 0, cells / norm[to])
    slope = sign * ratio ** (p - 1) if p > 1 else sign

    def back(dy: Array, modulus: Array) -> list[tuple[Array, Array]]:
        dx, size = np.zeros(x.size, dy.dtype), np.zeros(x.size)
        np.add.at(dx, at, slope * dy.ravel()[to])
        np.add.at(size, at, abs(slope) * modulus.ravel()[to])
        return [(dx.reshape(x.shape), size.reshape(x.shape))]

    elements = int(np.bincount(to, minlength=1).max(initial=1))
    near = abs(ratio[(ratio != 0) & np.isfinite(ratio)])
    power = abs(log(float(near.min()))) if near.size else 0.0  # r^(p - 1) is off by (p - 1) |log r| as much
    of_norm = 5 * ELEMENTARY + elements + ELEMENTARY * log(elements + 1)
    roundings = of_norm if p == 1 else of_norm * p + ELEMENTARY * (p - 1) * power
    return Smooth(norm.reshape(shape), abs(norm).reshape(shape), back, roundings, p - 1)


SMOOTH: dict[str, Callable[..., Smooth]] = {
    f.__name__: f for f in (sigmoid, tanh, softmax, log_softmax, softmax_cross_entropy, lp_pool)
}
