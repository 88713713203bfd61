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
from math import inf, log, prod
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


# ---- activations and normalisation ----------------------------------------------------------------------------------


def activation(
    name: str,
    value: Callable[[Array], Array],
    slope: Callable[[Array], tuple[Array, ...]],
    ends: tuple[float, float],
    slopes: tuple[float, float],
    mask: bool = False,
) -> Callable[[Array], Smooth]:
    """slope: the terms of the derivative.  ends, slopes: at -inf and inf.  mask: nothing comes through a slope of 0."""

    def function(x: Array) -> Smooth:
        low, high = x.real == -inf, x.real == inf
        near = np.where(low | high, 0, x)
        y = np.where(low, ends[0], np.where(high, ends[1], value(near)))
        terms = slope(near)
        d = np.where(low, slopes[0], np.where(high, slopes[1], sum(terms)))
        size = np.where(low | high, abs(d), sum(map(abs, terms)))

        def back(dy: Array, modulus: Array) -> list[tuple[Array, Array]]:
            return [(np.where(mask & (d == 0), 0, dy * d), np.where(mask & (d == 0), 0, modulus * size))]

        return Smooth(y, abs(y), back, 12 * ELEMENTARY)

    function.__name__ = name
    return function


def softplus(x: Array) -> Array:
    return np.where(x.real > 0, x, 0) + np.log1p(np.exp(np.where(x.real > 0, -x, x)))


def _clip6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def _inside(x: Array) -> Array:
    return ((x > 0) & (x < 6)) * 1.0


def _below(x: Array) -> Array:
    return np.minimum(x, 0)


ACTIVATIONS = (
    activation("silu", lambda x: x * logistic(x),
               lambda x: (logistic(x), x * logistic(x) * logistic(-x)), (-0.0, inf), (0, 1)),
    activation("softplus", softplus, lambda x: (logistic(x),), (0, inf), (0, 1)),
    activation("log_sigmoid", lambda x: -softplus(-x), lambda x: (logistic(-x),), (-inf, 0), (1, 0)),
    activation("mish", lambda x: x * np.tanh(softplus(x)),
               lambda x: (np.tanh(softplus(x)), x * logistic(x) / np.cosh(softplus(x)) ** 2), (-0.0, inf), (0, 1)),
    activation("elu", lambda x: np.where(x > 0, x, np.expm1(_below(x))),
               lambda x: (np.where(x > 0, 1, np.exp(_below(x))),), (-1, inf), (0, 1)),
    activation("soft_sign", lambda x: x / (1 + abs(x)), lambda x: ((1 + abs(x)) ** -2.0,), (-1, 1), (0, 0)),
    activation("relu6", _clip6, lambda x: (_inside(x),), (0, 6), (0, 0), True),
    activation("hard_tanh", lambda x: np.clip(x, -1, 1), lambda x: ((abs(x) <= 1) * 1.0,), (-1, 1), (0, 0), True),
    activation("hard_sigmoid", lambda x: _clip6(x + 3) / 6, lambda x: (_inside(x + 3) / 6,), (0, 1), (0, 0)),
    activation("hard_silu", lambda x: x * _clip6(x + 3) / 6,
               lambda x: (_clip6(x + 3) / 6, x * _inside(x + 3) / 6), (-0.0, inf), (0, 1)),
)  # fmt: skip


def layer_norm(x: Array, *given: Array, axes: Any = -1, epsilon: float = 1e-6, centred: bool = True) -> Smooth:
    """z = r (x - m) times a scale plus a bias; dx = r (g - mean(g) - z mean(g z)).

    Numbers stray by D from the first, 1 + D r is `reach`: moments are off by that many roundings of D and D^2, z by
    those times reach^2, dx by those times reach^3.
    """
    axes = tuple(a % x.ndim for a in (axes if isinstance(axes, tuple) else (axes,)))
    scale, bias = ([v.reshape([s if i in axes else 1 for i, s in enumerate(x.shape)]) for v in given] + [None] * 2)[:2]
    n = max(1, prod(x.shape[a] for a in axes))

    def mean(v: Array) -> Array:
        return np.asarray(v.sum(axis=axes, keepdims=True) / n)

    d = x - mean(x) if centred else x
    r = 1 / np.sqrt(mean(d * d) + epsilon)
    z, w = r * d, 1 if scale is None else scale
    first = x[tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.ndim))] if centred and x.size else 0
    reach = 1 + np.where(r > 0, r * abs(x - first).max(axis=axes, keepdims=True, initial=0), 0)
    y = w * z + (0 if bias is None else bias)

    def back(dy: Array, modulus: Array) -> list[tuple[Array, Array]]:
        g, size, others = dy * w, abs(modulus * w), tuple(i for i in range(x.ndim) if i not in axes)
        dx = (
            r * (g - (mean(g) if centred else 0) - z * mean(g * z)),
            r * (size + mean(size) + abs(z) * mean(size * abs(z))) * reach**3,
        )
        parameters = (dy * z, modulus * (abs(z) + reach**2)), (dy, modulus)
        summed = [tuple(v.sum(axis=others) for v in pair) for pair in parameters[: len(given)]]
        return [dx, *summed]

    return Smooth(y, abs(w) * reach**2 + abs(y), back, 3 * n + 2 * x.size + 32, 2)


def rms_norm(x: Array, *scale: Array, axes: Any = -1, epsilon: float = 1e-6) -> Smooth:
    return layer_norm(x, *scale, axes=axes, epsilon=epsilon, centred=False)


SMOOTH: dict[str, Callable[..., Smooth]] = {
    f.__name__: f
    for f in (sigmoid, tanh, softmax, log_softmax, softmax_cross_entropy, lp_pool, *ACTIVATIONS, layer_norm, rms_norm)
}
