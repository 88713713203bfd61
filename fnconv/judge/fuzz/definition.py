"""Every operation that is a polynomial of its operands, by its definition: a list of terms, in NumPy.

    y[o] = constant[o] + sum over terms t with to[t] = o of  coefficient[t] * prod_f operand_f[at_f[t]]

Maxima and ReLU are linear once the cells that they select are known, so they are terms as well.  Functions have the
names and arguments of the public operations; arrays are NumPy's, and places in them are flat.  Nothing here is shared
with the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fnconv.judge.engine.windows import (
    PADDING,
    Undefined,
    Windows,
    adaptive,
    all_windows,
    meetings,
    padding_of,
    per_axis,
    resizing,
)

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Terms:
    """Terms of the same operands: `factors` pairs an operand's number with places in it."""

    to: Array
    factors: tuple[tuple[int, Array], ...]
    coefficient: Any = 1

    def product(self, operands: Sequence[Array], start: Any = 1, without: int = -1) -> Any:
        """Every term, times `start`; one factor left out."""
        p = start * self.coefficient
        for number, (a, at) in enumerate(self.factors):
            if number != without:
                p = p * operands[a].reshape(-1)[at]
        return p


@dataclass(frozen=True)
class Form:
    """indices: a second result, of max_pool_with_indices.  inner: another form, whose result is the one operand."""

    shape: Shape
    terms: tuple[Terms, ...]
    constant: Any = 0
    indices: Array | None = None
    inner: Form | None = None

    def value(self, operands: Sequence[Array]) -> Array:
        given = self._given(operands)
        y = np.full(self.shape, self.constant, np.result_type(*given))
        for t in self.terms:
            np.add.at(y.reshape(-1), t.to, t.product(given))
        return y

    def gradient(self, operands: Sequence[Array], dy: Array) -> list[Array]:
        """For every operand the sum over its places in the terms of dy times the other factors."""
        given = self._given(operands)
        grads = [np.zeros(x.shape, dy.dtype) for x in given]
        for t in self.terms:
            for number, (a, at) in enumerate(t.factors):
                np.add.at(grads[a].reshape(-1), at, t.product(given, dy.reshape(-1)[t.to], number))
        return self.inner.gradient(operands, grads[0]) if self.inner else grads

    def moduli(self) -> Form:
        """The same terms without their signs; constants are not computed."""
        terms = tuple(replace(t, coefficient=abs(t.coefficient)) for t in self.terms)
        return Form(self.shape, terms, inner=self.inner and self.inner.moduli())

    @property
    def whole(self) -> bool:
        """Whether whole numbers have whole results."""
        coefficients = (np.asarray(t.coefficient) for t in self.terms)
        return all((c == np.round(c)).all() for c in coefficients) and (self.inner is None or self.inner.whole)

    def steps(self, operands: Sequence[Array]) -> int:
        """The roundings between an operand and a value or an entry of a gradient, at most."""
        given = [np.zeros(self.inner.shape)] if self.inner else operands
        by_operand = ([at for t in self.terms for b, at in t.factors if b == a] for a in range(len(given)))
        sums = ([t.to for t in self.terms], *by_operand)
        most = max(np.bincount(np.concatenate([np.zeros(0, int), *s])).max(initial=0) for s in sums)
        factors = max((len(t.factors) for t in self.terms), default=0)
        return int(most) + factors + 2 + (2 * self.inner.steps(operands) if self.inner else 0)

    @property
    def stored(self) -> int:
        """How often a sum is stored before it is complete: parts of it, or the result of the inner form."""
        return len(self.terms) - 1 + (1 + self.inner.stored if self.inner else 0)

    def _given(self, operands: Sequence[Array]) -> Sequence[Array]:
        return [self.inner.value(operands)] if self.inner else operands


# ---- layouts --------------------------------------------------------------------------------------------------------


def places(shape: Sequence[int], spatial: int, layout: str) -> Array:
    """The place of every entry, as (N, *spatial, C)."""
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    if layout == "channels_first":
        numbers = np.moveaxis(numbers, -spatial - 1, -1)
    batch = numbers.shape[: numbers.ndim - spatial - 1]
    return numbers.reshape(prod(batch), *numbers.shape[len(batch) :])


def kernel_places(shape: Sequence[int], layout: str) -> Array:
    """The place of every weight, as (*window, in / groups, out)."""
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    return np.moveaxis(numbers, (1, 0), (-2, -1)) if layout == "channels_first" else numbers


def joined(batch: Sequence[int], size: Sequence[int], channels: int, layout: str) -> Shape:
    return (*batch, channels, *size) if layout == "channels_first" else (*batch, *size, channels)


def split(shape: Sequence[int], spatial: int, layout: str) -> tuple[Shape, Shape, int]:
    """(batch axes, spatial axes, channels)."""
    b = len(shape) - spatial - 1
    if layout == "channels_first":
        return tuple(shape[:b]), tuple(shape[b + 1 :]), shape[b]
    return tuple(shape[:b]), tuple(shape[b:-1]), shape[-1]


def kernel_shape(window: Sequence[int], c: int, d: int, layout: str) -> Shape:
    return (d, c, *window) if layout == "channels_first" else (*window, c, d)


# ---- convolution: y[n, o, d] = sum over k, c of x[n, o stride + k dilation - low, c] w[k, c, d] ----------------------

GEOMETRY: dict[str, Any] = {"strides": 1, "padding": "VALID", "dilation": 1}


def geometry(options: dict[str, Any], **defaults: Any) -> list[Any]:
    """Strides, padding and dilation among options."""
    return [options.get(name, default) for name, default in (GEOMETRY | defaults).items()]


def conv(x: Array, w: Array, *b: Array, layout: str = "channels_last", groups: int = 1, **options: Any) -> Form:
    n, at_w = w.ndim - 2, kernel_places(w.shape, layout)
    batch, size, _ = split(x.shape, n, layout)
    windows = all_windows(size, at_w.shape[:n], *geometry(options))
    c, d = at_w.shape[n:]
    shape = joined(batch, [len(ws) for ws in windows], d, layout)
    o, k, i = meetings(windows)
    channel = np.arange(d) // max(1, d // groups) * c + np.arange(c)[:, None]  # of x, (c, d)
    at_x = places(x.shape, n, layout)[(slice(None), *i)]
    at_x = at_x[..., channel] if c else np.zeros((*at_x.shape[:2], 0, d), np.int64)
    to = places(shape, n, layout)[(slice(None), *o)][:, :, None]
    to, at_x, at_w = (a.ravel() for a in np.broadcast_arrays(to, at_x, at_w[k]))
    return biased(Form(shape, (Terms(to, ((0, at_x), (1, at_w))),)), b, n, layout)


def biased(form: Form, b: Sequence[Array], spatial: int, layout: str) -> Form:
    """A third operand is added to every channel."""
    to = places(form.shape, spatial, layout)
    channel = np.broadcast_to(np.arange(to.shape[-1]), to.shape)
    bias = Terms(to.ravel(), ((2, channel.ravel()),))
    return replace(form, terms=(*form.terms, bias)) if b else form


def adjoint(form: Form, operand: int, shape: Sequence[int]) -> Form:
    """The map from cotangents of a form's result, in this operand's place, to those of the operand, of this shape."""
    (t,) = form.terms
    factors = tuple((a, t.to if a == operand else at) for a, at in t.factors)
    return Form(tuple(shape), (Terms(dict(t.factors)[operand], factors),))


def conv_input_vjp(dy: Array, w: Array, input_shape: Shape, **options: Any) -> Form:
    return adjoint(conv(np.zeros(input_shape), w, **options), 0, input_shape)


def conv_weight_vjp(x: Array, dy: Array, window: Shape, **options: Any) -> Form:
    layout = options.get("layout", "channels_last")
    c, d = (split(a.shape, len(window), layout)[2] for a in (x, dy))
    shape = kernel_shape(window, c // options.get("groups", 1), d, layout)
    return adjoint(conv(x, np.zeros(shape), **options), 1, shape)


def conv_transpose(x: Array, w: Array, *b: Array, output_padding: Any = 0, **options: Any) -> Form:
    """The adjoint of the convolution that takes the result's cells to those of x."""
    layout, n = options.get("layout", "channels_last"), w.ndim - 2
    *window, c, _ = kernel_places(w.shape, layout).shape
    strides, padding, dilation = (per_axis(value, n) for value in geometry(options))
    batch, outputs, _ = split(x.shape, n, layout)
    size, pads = [], []
    for o, k, t, d, p, extra in zip(
        outputs, window, strides, dilation, padding, per_axis(output_padding, n), strict=True
    ):
        span, s = (k - 1) * d + 1, {"INPUT_SIZE": o, "SAME": o * t, "SAME_LOWER": o * t}.get(str(p), -1)
        low, high = padding_of(p, s, span, t) if isinstance(p, str) else per_axis(p, 2)
        s = s if s >= 0 else ((o - 1) * t + span - low - high + extra if o else 0)
        if s < 0 or s + low + high < 0:
            raise Undefined("padding removes more than there is")
        size.append(s)
        pads.append((low, max((o - 1) * t + span, 0) - s - low))  # as many windows as x has cells
    shape = joined(batch, size, c * options.get("groups", 1), layout)
    form = conv(np.zeros(shape), w, **options | {"padding": pads})
    return biased(adjoint(form, 0, shape), b, n, layout)


def dense(x: Array, w: Array, *b: Array) -> Form:
    """A convolution over one cell."""
    return replace(conv(x[..., None, :], w[None], *b), shape=(*x.shape[:-1], w.shape[1]))


# ---- pooling --------------------------------------------------------------------------------------------------------


def pooled(x: Array, windows: Sequence[Windows], layout: str) -> tuple[Array, Array, Array, Array, Shape]:
    """Places in y and x that meet, (N, meetings, C); output and cell, (axes, meetings); y's shape."""
    n = len(windows)
    batch, _, channels = split(x.shape, n, layout)
    shape = joined(batch, [len(ws) for ws in windows], channels, layout)
    o, _, i = meetings(windows)
    to, at = places(shape, n, layout)[(slice(None), *o)], places(x.shape, n, layout)[(slice(None), *i)]
    return to, at, np.array(o), np.array(i), shape


def maxima(x: Array, windows: Sequence[Windows], layout: str, ties: str = "row_major") -> Form:
    """Of each window the largest cell, the first in tie order of equal ones; the first NaN where there is one."""
    to, at, _, cell, shape = pooled(x, windows, layout)
    _, size, _ = split(x.shape, len(windows), layout)

    def number(order: Any) -> Array:
        ravelled = np.ravel_multi_index(tuple(cell), size, order=order) if cell.size else cell[0]
        return np.broadcast_to(ravelled[:, None], met).ravel()

    met, to, at = at.shape, to.ravel(), at.ravel()
    rank = number("F" if ties == "column_major" else "C")
    values = x.ravel()[at].astype(np.float64)
    order = np.lexsort((rank, np.where(values != values, 0, -values), values == values, to))
    results, first = np.unique(to[order], return_index=True)  # of each window the one that sorts first
    won = order[first]
    lowest = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.integer) else -np.inf
    constant, indices = np.full(prod(shape), lowest), np.full(prod(shape), -1)
    constant[results], indices[results] = 0, number("C")[won]
    return Form(shape, (Terms(results, ((0, at[won]),)),), constant.reshape(shape), indices.reshape(shape))


def pool_windows(x: Array, window: Shape, layout: str, options: dict[str, Any]) -> list[Windows]:
    _, size, _ = split(x.shape, len(window), layout)
    strides, padding, dilation = geometry(options, strides=None)
    strides = window if strides is None else strides
    return all_windows(size, window, strides, padding, dilation, options.get("ceil_mode", False))


def max_pool_with_indices(x: Array, window_shape: Shape, layout: str = "channels_last", **options: Any) -> Form:
    return maxima(x, pool_windows(x, window_shape, layout, options), layout, options.get("ties", "row_major"))


def max_pool(x: Array, window_shape: Shape, **options: Any) -> Form:
    return replace(max_pool_with_indices(x, window_shape, **options), indices=None)


def adaptive_windows(x: Array, output: Shape, layout: str) -> list[Windows]:
    return [adaptive(s, o) for s, o in zip(split(x.shape, len(output), layout)[1], output, strict=True)]


def adaptive_max_pool(x: Array, output: Shape, layout: str = "channels_last") -> Form:
    return replace(maxima(x, adaptive_windows(x, output, layout), layout), indices=None)


def means(x: Array, windows: Sequence[Windows], layout: str, least: int = 0) -> Form:
    """Sums over windows, divided by the number of their cells from `least` on."""
    to, at, o, _, shape = pooled(x, windows, layout)
    counts = [np.array([sum(i >= least for i in w) for w in ws], np.int64) for ws in windows]
    size = np.prod([n[index] for n, index in zip(counts, o, strict=True)], axis=0, dtype=np.int64)
    size = np.broadcast_to(size[:, None], to.shape).ravel()
    return Form(shape, (Terms(to.ravel(), ((0, at.ravel()),), 1 / size),))


def avg_pool(
    x: Array, window: Shape, count_include_pad: bool = True, layout: str = "channels_last", **options: Any
) -> Form:
    """The padding counts or not; what `ceil_mode` adds past it never does."""
    return means(x, pool_windows(x, window, layout, options), layout, PADDING if count_include_pad else 0)


def adaptive_avg_pool(x: Array, output: Shape, layout: str = "channels_last") -> Form:
    return means(x, adaptive_windows(x, output, layout), layout)


def global_avg_pool(x: Array, layout: str = "channels_last") -> Form:
    form = adaptive_avg_pool(x, (1,) * (x.ndim - 2), layout)
    return replace(form, shape=tuple(form.shape[a] for a in (0, -1 if layout == "channels_last" else 1)))


def resize(x: Array, shape: Shape, method: str = "linear", antialias: bool = True) -> Form:
    """One matrix for all axes; its weights are fractions until they are divided."""
    matrix: Array = np.ones((1, 1))
    for size, output in zip(x.shape, shape, strict=True):
        matrix = np.kron(matrix, resizing(size, output, method, antialias) if size != output else np.eye(size))
    to, at = matrix.nonzero()
    return Form(tuple(shape), (Terms(to, ((0, at),), matrix[to, at]),))


def spatial_pyramid_pool(x: Array, levels: Any, pool: str = "max", layout: str = "channels_last") -> Form:
    """Adaptive pools, flattened one after another."""
    forms = [(adaptive_max_pool if pool == "max" else adaptive_avg_pool)(x, bins, layout=layout) for bins in levels]
    batch = split(x.shape, len(levels[0]), layout)[0]
    widths = [prod(f.shape[len(batch) :]) for f in forms]
    starts = np.cumsum([0, *widths])
    terms = []
    for form, width, start in zip(forms, widths, starts, strict=False):
        (t,) = form.terms
        terms.append(replace(t, to=t.to // max(width, 1) * starts[-1] + t.to % max(width, 1) + start))
    return Form((*batch, int(starts[-1])), tuple(terms))


def max_unpool(y: Array, indices: Array, output: Shape, layout: str = "channels_last") -> Form:
    """Every y stands at its index; of several the last in row-major order alone; outside of the map none."""
    n, (batch, _, channels) = len(output), split(y.shape, len(output), layout)
    shape = joined(batch, output, channels, layout)
    at, cells = (places(s, n, layout) for s in (y.shape, shape))
    at, cells = (a.reshape(a.shape[0], prod(a.shape[1:-1]), channels) for a in (at, cells))
    index = indices.ravel()[at]
    inside = (index >= 0) & (index < cells.shape[1])
    to = np.take_along_axis(cells, np.where(inside, index, 0), axis=1)[inside]
    results, last = np.unique(to[::-1], return_index=True)
    return Form(shape, (Terms(results, ((0, at[inside][::-1][last]),)),))


# ---- rearrangements -------------------------------------------------------------------------------------------------


def im2col(x: Array, window: Shape, layout: str = "channels_last", order: str = "c", **options: Any) -> Form:
    """A matrix (*batch, rows, columns) of the cells of x, 0 where there is padding.

    order "c": columns row-major, rows (*window, C), or (C, *window) with channels first; "matlab": both column-major,
    channel after channel.
    """
    n = len(window)
    batch, size, channels = split(x.shape, n, layout)
    windows = all_windows(size, window, *geometry(options))
    outputs = [len(ws) for ws in windows]
    o, k, i = meetings(windows)

    def number(index: Any, shape: Sequence[int]) -> Array:
        ravelled = np.ravel_multi_index(index, tuple(shape), order="F" if order == "matlab" else "C")
        return np.asarray(ravelled if len(index[0]) else index[0])[:, None]

    cells, elements, c = prod(outputs), prod(window), np.arange(channels)
    element, column = number(k, window), number(o, outputs)
    row = element * channels + c if layout == "channels_last" and order == "c" else c * elements + element
    start = np.arange(prod(batch))[:, None, None] * (elements * channels * cells)
    at = places(x.shape, n, layout)[(slice(None), *i)]
    to = start + row * cells + column
    return Form((*batch, channels * elements, cells), (Terms(to.ravel(), ((0, at.ravel()),)),))


def col2im(cols: Array, x_shape: Shape, window: Shape, **options: Any) -> Form:
    return adjoint(im2col(np.zeros(x_shape), window, **options), 0, x_shape)


def pixel_unshuffle(y: Array, factor: Shape, mode: str = "CRD", layout: str = "channels_last") -> Form:
    """One block position after another becomes a channel."""
    batch, size, channels = split(y.shape, len(factor), layout)
    at, parts = places(y.shape, len(factor), layout), []
    for block in np.ndindex(*factor):
        steps = [slice(b, None, f) for b, f in zip(block, factor, strict=True)]
        parts.append(at[(slice(None), *steps)])
    at = np.stack(parts, -1 if mode == "CRD" else -2)
    shape = joined(batch, [s // f for s, f in zip(size, factor, strict=True)], channels * len(parts), layout)
    return Form(shape, (Terms(places(shape, len(factor), layout).ravel(), ((0, at.ravel()),)),))


def pixel_shuffle(x: Array, factor: Shape, mode: str = "CRD", layout: str = "channels_last") -> Form:
    batch, size, channels = split(x.shape, len(factor), layout)
    large = tuple(s * f for s, f in zip(size, factor, strict=True))
    shape = joined(batch, large, channels // prod(factor), layout)
    return adjoint(pixel_unshuffle(np.zeros(shape), factor, mode, layout), 0, shape)


def flatten(x: Array) -> Form:
    return replace(entries(x), shape=(x.shape[0], prod(x.shape[1:])))


# ---- entry by entry, and blocks -------------------------------------------------------------------------------------


def entries(*operands: Array, coefficients: Sequence[Any] = (1,)) -> Form:
    """The operands times their coefficients, added."""
    every = np.arange(operands[0].size)
    terms = (Terms(every, ((a, every),), c) for a, c in enumerate(coefficients))
    return Form(operands[0].shape, tuple(terms))


def relu(x: Array) -> Form:
    """x where x > 0, else 0; NaN stays, without a gradient."""
    alive = np.flatnonzero(x.ravel() > 0)
    return Form(x.shape, (Terms(alive, ((0, alive),)),), np.where(x != x, x, np.zeros_like(x)))


def leaky_relu(x: Array, slope: float = 0.01) -> Form:
    return entries(x, coefficients=(np.where(x.ravel() > 0, 1.0, slope),))


def gate(x: Array, s: Array) -> Form:
    every = np.arange(x.size)
    at = np.broadcast_to(np.arange(s.size).reshape(s.shape), x.shape).ravel()
    return Form(x.shape, (Terms(every, ((0, every), (1, at))),))


def prelu(x: Array, slope: Array) -> Form:
    """x s where x is not positive; the slope has no part in the rest."""
    (_, every), (_, at) = gate(x, slope).terms[0].factors
    alive, bent = every[x.ravel() > 0], every[~(x.ravel() > 0)]
    return Form(x.shape, (Terms(alive, ((0, alive),)), Terms(bent, ((0, bent), (1, at[bent])))))


def squared_error(prediction: Array, target: Array) -> Form:
    every = np.arange(target.size)
    difference = entries(prediction, target, coefficients=(1, -1))
    return Form(target.shape, (Terms(every, ((0, every), (0, every))),), inner=difference)


def conv_block(x: Array, w: Array, *b: Array, activation: Any = "relu", pool: Any = None, **options: Any) -> Form:
    form = conv(x, w, *b, **options)
    if activation == "relu":
        form = replace(relu(form.value((x, w, *b))), inner=form)
    if pool is not None:
        layout = options.get("layout", "channels_last")
        form = replace(max_pool(form.value((x, w, *b)), **pool, layout=layout), inner=form)
    return form


FORMS: dict[str, Callable[..., Form]] = {
    f.__name__: f
    for f in (
        *(conv, conv_input_vjp, conv_weight_vjp, conv_transpose, conv_block, dense, flatten, im2col, col2im),
        *(max_pool, max_pool_with_indices, max_unpool, adaptive_max_pool, spatial_pyramid_pool),
        *(avg_pool, adaptive_avg_pool, relu, leaky_relu, squared_error, gate, prelu, resize, global_avg_pool),
        *(pixel_shuffle, pixel_unshuffle),
    )
}
