"""Every operation that is a polynomial of its operands, by its definition: one term after another, in NumPy.

    y[o] = constant[o] + sum over terms t with to[t] = o of  coefficient[t] * prod_f operand_f[at_f[t]] / divisor[t]

Values and derivatives of every order follow from the terms, see `expected`.  What selects (maxima, ReLU) is linear
with the cells it selects at the given operands.  Functions have the names and arguments of the public operations;
arrays are NumPy's, positions in them are flat.  Nothing here is shared with the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Index = tuple[Any, ...]
PADDING, BEYOND = -1, -2  # what a row of cells holds where there is no input


class Undefined(ValueError):
    """There is no such result: the library must refuse it."""


@dataclass(frozen=True)
class Terms:
    """Terms that have the same operands: `factors` pairs an operand's number with positions in it."""

    to: Array
    factors: tuple[tuple[int, Array], ...]
    coefficient: Any = 1
    divisor: Any = 1


@dataclass(frozen=True)
class Form:
    shape: tuple[int, ...]
    terms: tuple[Terms, ...]
    constant: Any = 0
    indices: Array | None = None  # a second result, of max_pool_with_indices
    divisors: tuple[int, ...] = field(default=(1,))


# ---- windows over one axis ------------------------------------------------------------------------------------------

Windows = list[list[int]]  # the cells that each window meets


def cells(size: int, low: int, high: int) -> list[int]:
    """An axis with its padding; a negative padding removes cells."""
    if size + low + high < 0:
        raise Undefined("padding removes more than there is")
    row = [PADDING] * max(low, 0) + list(range(size)) + [PADDING] * max(high, 0)
    return row[max(-low, 0) : len(row) - max(-high, 0)]


def padding_of(name: str, size: int, span: int, stride: int) -> tuple[int, int]:
    outputs = -(-size // stride) if name.startswith("SAME") else size
    total = {"VALID": 0, "FULL": 2 * (span - 1)}.get(name, max(0, (outputs - 1) * stride + span - size))
    small, large = total // 2, total - total // 2
    return (large, small) if name == "SAME_LOWER" else (small, large)


def sliding(size: int, window: int, stride: int, dilation: int, low: int, high: int, ceil: bool) -> Windows:
    """The window moves by strides for as long as it fits; `ceil`: once more where cells are left over, if it starts
    inside the input or the low padding."""
    if ceil and high < 0:
        raise Undefined("cells past a removed end")
    row, span, found, start = cells(size, low, high), (window - 1) * dilation + 1, [], 0
    while start + span <= len(row):
        found.append([row[start + k * dilation] for k in range(window)])
        start += stride
    left_over = len(row) - (start - stride + span) > 0
    if ceil and left_over and start < low + size:
        found.append([(row + [BEYOND] * span)[start + k * dilation] for k in range(window)])
    return found


def adaptive(size: int, output: int) -> Windows:
    return [list(range(o * size // output, -(-(o + 1) * size // output))) for o in range(output)]


def tuples(value: Any, axes: int) -> list[Any]:
    return [value] * axes if isinstance(value, int) else list(value)


def all_windows(
    size: Sequence[int], window: Any, strides: Any, padding: Any, dilation: Any, ceil: bool = False
) -> list[Windows]:
    n, found = len(size), []
    strides = window if strides is None else strides
    named = [padding] * n if isinstance(padding, str) else tuples(padding, n)
    for s, k, t, d, p in zip(size, tuples(window, n), tuples(strides, n), tuples(dilation, n), named, strict=True):
        low, high = padding_of(p, s, (k - 1) * d + 1, t) if isinstance(p, str) else tuples(p, 2)
        found.append(sliding(s, k, t, d, low, high, ceil))
    return found


def meetings(windows: Sequence[Windows]) -> tuple[Index, ...]:
    """Every (output, window element, cell) that meet: for each of the three, one index array per axis."""
    lines = [[(o, k, i) for o, w in enumerate(ws) for k, i in enumerate(w) if i >= 0] for ws in windows]
    table = np.array([*product(*lines)], np.int64).reshape(-1, len(windows), 3)
    return tuple(tuple(table[:, a, role] for a in range(len(windows))) for role in range(3))


def positions(shape: Sequence[int], spatial: int, layout: str) -> Array:
    """The flat position of every entry, as (N, *spatial, C)."""
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    if layout == "channels_first":
        numbers = np.moveaxis(numbers, -spatial - 1, -1)
    batch = numbers.shape[: numbers.ndim - spatial - 1]
    return numbers.reshape(prod(batch), *numbers.shape[len(batch) :])


def shaped(batch: Sequence[int], size: Sequence[int], channels: int, layout: str) -> tuple[int, ...]:
    return (*batch, channels, *size) if layout == "channels_first" else (*batch, *size, channels)


def parts(shape: Sequence[int], spatial: int, layout: str) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """(batch axes, spatial axes, channels)."""
    b = len(shape) - spatial - 1
    if layout == "channels_first":
        return tuple(shape[:b]), tuple(shape[b + 1 :]), shape[b]
    return tuple(shape[:b]), tuple(shape[b:-1]), shape[-1]


# ---- convolution: y[n, o, d] = sum over k, c of x[n, o stride + k dilation - low, c] w[k, c, d] ----------------------


def kernel(shape: Sequence[int], layout: str) -> Array:
    """Positions in the kernels as (*window, in / groups, out)."""
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    return np.moveaxis(numbers, (1, 0), (-2, -1)) if layout == "channels_first" else numbers


def triples(x: Array, w: Array, y: Array, met: Any, groups: int) -> tuple[Array, Array, Array]:
    """The positions in x, w and y of every product."""
    o, k, i = met
    c, d = w.shape[-2:]
    channel = np.arange(d)[None, :] // max(1, d // groups) * c + np.arange(c)[:, None]  # of x, (c, d)
    at_x = x[(slice(None), *i)][..., channel] if c else np.zeros((x.shape[0], len(o[0]), 0, d), np.int64)
    at_y, at_w = y[(slice(None), *o)][:, :, None, :], w[k][None]
    return tuple(a.ravel() for a in np.broadcast_arrays(at_x, at_w, at_y))  # type: ignore[return-value]


def convolution(x_shape: Any, w_shape: Any, strides: Any, padding: Any, dilation: Any, groups: int, layout: str) -> Any:
    n, w = len(w_shape) - 2, kernel(w_shape, layout)
    batch, size, _ = parts(x_shape, n, layout)
    windows = all_windows(size, w.shape[:-2], strides, padding, dilation)
    y_shape = shaped(batch, [len(ws) for ws in windows], w.shape[-1], layout)
    places = positions(x_shape, n, layout), w, positions(y_shape, n, layout)
    return (*triples(*places, meetings(windows), groups), y_shape)


GEOMETRY: dict[str, Any] = {"strides": 1, "padding": "VALID", "dilation": 1, "groups": 1, "layout": "channels_last"}


def geometry(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.get(name, default) for name, default in GEOMETRY.items()}


def biased(form: Form, operands: Sequence[Array], layout: str, spatial: int) -> Form:
    """A third operand is added to every channel."""
    if len(operands) < 3:
        return form
    to = positions(form.shape, spatial, layout)
    channel = np.broadcast_to(np.arange(to.shape[-1]), to.shape)
    return Form(form.shape, (*form.terms, Terms(to.ravel(), ((2, channel.ravel()),))))


def conv(x: Array, w: Array, *b: Array, **options: Any) -> Form:
    g = geometry(options)
    at_x, at_w, at_y, shape = convolution(x.shape, w.shape, **g)
    return biased(Form(shape, (Terms(at_y, ((0, at_x), (1, at_w))),)), (x, w, *b), g["layout"], w.ndim - 2)


def adjoint(form: Form, operand: int, shape: Sequence[int]) -> Form:
    """The map from cotangents of a form's result, in this operand's place, to the operand's; linear, of one Terms."""
    (t,) = form.terms
    factors = tuple((a, t.to if a == operand else at) for a, at in t.factors)
    return Form(tuple(shape), (Terms(dict(t.factors)[operand], factors),))


def conv_input_vjp(dy: Array, w: Array, input_shape: Any, **options: Any) -> Form:
    return adjoint(conv(np.zeros(input_shape), w, **options), 0, input_shape)


def conv_weight_vjp(x: Array, dy: Array, window_shape: Any, **options: Any) -> Form:
    g, n = geometry(options), len(window_shape)
    c, d = (parts(a.shape, n, g["layout"])[2] for a in (x, dy))
    first = g["layout"] == "channels_first"
    shape = (d, c // g["groups"], *window_shape) if first else (*window_shape, c // g["groups"], d)
    return adjoint(conv(x, np.zeros(shape), **options), 1, shape)


def conv_transpose(x: Array, w: Array, *b: Array, output_padding: Any = 0, **options: Any) -> Form:
    """Every x[o] adds x[o] w[k] to cell o stride + k dilation - low of the result."""
    g, n, places = geometry(options), w.ndim - 2, kernel(w.shape, options.get("layout", "channels_last"))
    batch, outputs, _ = parts(x.shape, n, g["layout"])
    padding = [g["padding"]] * n if isinstance(g["padding"], str) else tuples(g["padding"], n)
    per_axis = (outputs, places.shape[:-2], *(tuples(g[a], n) for a in ("strides", "dilation")))
    size, windows = [], []
    for o, k, t, d, p, extra in zip(*per_axis, padding, tuples(output_padding, n), strict=True):
        span, s = (k - 1) * d + 1, {"INPUT_SIZE": o, "SAME": o * t, "SAME_LOWER": o * t}.get(str(p), -1)
        low, high = padding_of(p, s, span, t) if isinstance(p, str) else tuples(p, 2)
        s = s if s >= 0 else ((o - 1) * t + span - low - high + extra if o else 0)
        if s < 0:
            raise Undefined("padding removes more than there is")
        size.append(s)
        reached = [[i * t + e * d - low for e in range(k)] for i in range(o)]
        windows.append([[i if 0 <= i < s else PADDING for i in row] for row in reached])
    shape = shaped(batch, size, places.shape[-2] * g["groups"], g["layout"])
    conv_input, conv_output = positions(shape, n, g["layout"]), positions(x.shape, n, g["layout"])
    at_y, at_w, at_x = triples(conv_input, places, conv_output, meetings(windows), g["groups"])
    return biased(Form(shape, (Terms(at_y, ((0, at_x), (1, at_w))),)), (x, w, *b), g["layout"], n)


def dense(x: Array, w: Array, *b: Array) -> Form:
    form = conv(x[..., None, :], w[None], *b)  # a convolution over one cell
    return Form((*x.shape[:-1], w.shape[1]), form.terms)


# ---- pooling --------------------------------------------------------------------------------------------------------


def pooled(x: Array, windows: Sequence[Windows], layout: str) -> tuple[Array, Array, Array, Array, tuple[int, ...]]:
    """Positions in y and x of all that meet, (N, meetings, C); output, cell per axis; y's shape."""
    n = len(windows)
    batch, _, channels = parts(x.shape, n, layout)
    shape = shaped(batch, [len(ws) for ws in windows], channels, layout)
    o, _, i = meetings(windows)
    at_x, at_y = positions(x.shape, n, layout)[(slice(None), *i)], positions(shape, n, layout)[(slice(None), *o)]
    return at_y, at_x, np.array(o).reshape(n, -1), np.array(i).reshape(n, -1), shape


def lowest(dtype: Any) -> Any:
    return np.iinfo(dtype).min if np.issubdtype(dtype, np.integer) else -np.inf


def maxima(x: Array, windows: Sequence[Windows], ties: str, layout: str, bottom: Any = None) -> Form:
    """Of each window the largest cell, the first in tie order of equal ones; the first NaN where there is one."""
    at_y, at_x, _, cell, shape = pooled(x, windows, layout)
    flat, size = x.ravel(), parts(x.shape, len(windows), layout)[1]
    winner: dict[int, tuple[int, Any, int]] = {}  # of every output: its place in x, value, and cell
    number = np.ravel_multi_index(tuple(cell), size) if cell.size else np.zeros(cell.shape[1], np.int64)
    order = np.lexsort(tuple(cell) if ties == "column_major" else tuple(cell[::-1]))
    values = flat[at_x]
    for m in order:  # cells in tie order
        for y, i, v in zip(at_y[:, m].ravel(), at_x[:, m].ravel(), values[:, m].ravel(), strict=True):
            best = winner.get(y)
            if best is None or v > best[1] or (v != v and best[1] == best[1]):
                winner[y] = (i, v, number[m])
    constant, indices = np.full(prod(shape), lowest(x.dtype) if bottom is None else bottom), np.full(prod(shape), -1)
    to = np.array([*winner], np.int64)
    constant[to], indices[to] = 0, [w[2] for w in winner.values()]
    at = np.array([w[0] for w in winner.values()], np.int64)
    return Form(shape, (Terms(to, ((0, at),)),), constant.reshape(shape), indices.reshape(shape))


def pool_windows(x: Array, window: Any, options: dict[str, Any]) -> tuple[Any, str]:
    layout = options.get("layout", "channels_last")
    size = parts(x.shape, len(window), layout)[1]
    g = {name: options.get(name, default) for name, default in {**GEOMETRY, "strides": None}.items()}
    ceil = bool(options.get("ceil_mode", False))
    return all_windows(size, window, g["strides"], g["padding"], g["dilation"], ceil), layout


def max_pool_with_indices(x: Array, window: Any, **options: Any) -> Form:
    windows, layout = pool_windows(x, window, options)
    return maxima(x, windows, options.get("ties", "row_major"), layout)


def max_pool(x: Array, window: Any, **options: Any) -> Form:
    form = max_pool_with_indices(x, window, **options)
    return Form(form.shape, form.terms, form.constant)


def adaptive_windows(x: Array, output: Any, layout: str) -> list[Windows]:
    return [adaptive(s, o) for s, o in zip(parts(x.shape, len(output), layout)[1], output, strict=True)]


def adaptive_max_pool(x: Array, output: Any, layout: str = "channels_last") -> Form:
    form = maxima(x, adaptive_windows(x, output, layout), "row_major", layout)
    return Form(form.shape, form.terms, form.constant)


def means(x: Array, windows: Sequence[Windows], sizes: Sequence[Sequence[int]], layout: str) -> Form:
    """Sums over windows, divided by their sizes, which are products over the axes."""
    at_y, at_x, o, _, shape = pooled(x, windows, layout)
    size = np.prod([np.array(n, np.int64)[o[a]] for a, n in enumerate(sizes)], axis=0, dtype=np.int64)
    divisor = np.broadcast_to(size.reshape(1, -1, 1), at_y.shape).ravel()
    divisors = tuple(sorted(set(divisor.tolist()))) or (1,)
    return Form(shape, (Terms(at_y.ravel(), ((0, at_x.ravel()),), 1, divisor),), 0, None, divisors)


def avg_pool(x: Array, window: Any, count_include_pad: bool = True, **options: Any) -> Form:
    """The padding counts or not; what `ceil_mode` adds past it never does."""
    windows, layout = pool_windows(x, window, options)
    least = PADDING if count_include_pad else 0
    return means(x, windows, [[sum(i >= least for i in w) for w in ws] for ws in windows], layout)


def adaptive_avg_pool(x: Array, output: Any, layout: str = "channels_last") -> Form:
    windows = adaptive_windows(x, output, layout)
    return means(x, windows, [[len(w) for w in ws] for ws in windows], layout)


def spatial_pyramid_pool(x: Array, levels: Any, pool: str = "max", layout: str = "channels_last") -> Form:
    """Adaptive pools, flattened one after another."""
    forms = [(adaptive_max_pool if pool == "max" else adaptive_avg_pool)(x, bins, layout=layout) for bins in levels]
    batch = parts(x.shape, len(levels[0]), layout)[0]
    n = prod(batch)
    widths = [prod(f.shape) // n if n else prod(f.shape[len(batch) :]) for f in forms]
    total, start, terms = sum(widths), 0, []
    for form, width in zip(forms, widths, strict=True):
        (t,) = form.terms
        to = t.to // max(width, 1) * total + t.to % max(width, 1) + start
        terms.append(Terms(to, t.factors, 1, t.divisor))
        start += width
    return Form((*batch, total), tuple(terms), 0, None, tuple(sorted({d for f in forms for d in f.divisors})))


def max_unpool(y: Array, indices: Array, output: Any, layout: str = "channels_last") -> Form:
    """Every y stands at its index; of several the last in row-major order alone; outside of the map none."""
    n = len(output)
    batch, size, channels = parts(y.shape, n, layout)
    shape = shaped(batch, output, channels, layout)
    at_y = positions(y.shape, n, layout).reshape(prod(batch), prod(size), channels)
    to = positions(shape, n, layout).reshape(prod(batch), prod(output), channels)
    last: dict[int, int] = {}
    for image, number, c in np.ndindex(at_y.shape):
        index = int(indices.ravel()[at_y[image, number, c]])
        if 0 <= index < to.shape[1]:
            last[int(to[image, index, c])] = int(at_y[image, number, c])
    return Form(shape, (Terms(np.array([*last], np.int64), ((0, np.array([*last.values()], np.int64)),)),))


# ---- rearrangements -------------------------------------------------------------------------------------------------


def im2col(x: Array, window: Any, **options: Any) -> Form:
    """A matrix (*batch, rows, columns) of the cells of x, 0 where there is padding.

    order "c": columns row-major, rows (*window, C), or (C, *window) with channels first; "matlab": both column-major,
    channel after channel.
    """
    layout, order, n = options.get("layout", "channels_last"), options.get("order", "c"), len(window)
    batch, size, channels = parts(x.shape, n, layout)
    windows = all_windows(size, window, *(options.get(a, GEOMETRY[a]) for a in ("strides", "padding", "dilation")))
    outputs = [len(ws) for ws in windows]
    o, k, i = meetings(windows)

    def number(index: Any, shape: Any) -> Any:
        if not len(index[0]):
            return np.zeros(0, np.int64)
        return np.ravel_multi_index(index, shape, order="F" if order == "matlab" else "C")

    element, column = number(k, tuple(window)), number(o, tuple(outputs))
    c = np.arange(channels)[None]
    window_first = layout == "channels_last" and order == "c"
    row = element[:, None] * channels + c if window_first else c * prod(window) + element[:, None]
    entry = row * prod(outputs) + column[:, None]
    shape = (*batch, channels * prod(window), prod(outputs))
    start = np.arange(prod(batch))[:, None, None] * (shape[-1] * shape[-2])
    at_x = positions(x.shape, n, layout)[(slice(None), *i)]
    return Form(shape, (Terms((start + entry).ravel(), ((0, at_x.ravel()),)),))


def col2im(cols: Array, x_shape: Any, window: Any, **options: Any) -> Form:
    return adjoint(im2col(np.zeros(x_shape), window, **options), 0, x_shape)


def flatten(x: Array) -> Form:
    every = np.arange(x.size)
    return Form((x.shape[0], prod(x.shape[1:])), (Terms(every, ((0, every),)),))


# ---- activations of linear pieces, and blocks ----------------------------------------------------------


def relu(x: Array) -> Form:
    """x where x > 0, else 0; NaN stays, without a gradient."""
    alive = np.flatnonzero(x.ravel() > 0)
    return Form(x.shape, (Terms(alive, ((0, alive),)),), np.where(x != x, x, np.zeros_like(x)))


def leaky_relu(x: Array, slope: float = 0.01) -> Form:
    every = np.arange(x.size)
    return Form(x.shape, (Terms(every, ((0, every),), np.where(x.ravel() > 0, 1.0, slope)),))


def conv_block(x: Array, w: Array, *b: Array, activation: Any = "relu", pool: Any = None, **options: Any) -> Form:
    """The pool of the ReLU of the convolution: at each output the convolution's terms of the cell that wins."""
    inner = conv(x, w, *b, **options)
    z = evaluate_plain(inner, (x, w, *b))
    outer = [relu(z)] if activation == "relu" else []
    if pool is not None:
        after = evaluate_plain(outer[0], (z,)) if outer else z
        layout = options.get("layout", "channels_last")
        named = dict(pool)
        window = named.pop("window_shape")
        outer.append(max_pool(after, window, **named, layout=layout))
    for form in outer:
        inner = after_selection(form, inner)
    return inner


def evaluate_plain(form: Form, operands: Sequence[Array]) -> Array:
    y = np.broadcast_to(np.asarray(form.constant), form.shape).astype(operands[0].dtype).ravel()
    for t in form.terms:
        factors = [operands[a].ravel()[at] for a, at in t.factors]
        np.add.at(y, t.to, np.prod(factors, axis=0, dtype=y.dtype))  # integers modulo their size
    return y.reshape(form.shape)


def after_selection(outer: Form, inner: Form) -> Form:
    """outer(inner(...)) for an outer form that selects at most one cell for each result."""
    (selection,) = outer.terms
    results: dict[int, list[int]] = {}
    for to, at in zip(selection.to.tolist(), selection.factors[0][1].tolist(), strict=True):
        results.setdefault(at, []).append(to)
    terms = []
    for t in inner.terms:
        pairs = [(m, to) for m, at in enumerate(t.to.tolist()) for to in results.get(at, ())]
        kept, to = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
        terms.append(Terms(to, tuple((a, at[kept]) for a, at in t.factors)))
    constant = np.array(np.broadcast_to(np.asarray(outer.constant), outer.shape)).ravel()
    inherited = np.broadcast_to(np.asarray(inner.constant), inner.shape).ravel()
    constant[selection.to] += inherited[selection.factors[0][1]].astype(constant.dtype)
    return Form(outer.shape, tuple(terms), constant.reshape(outer.shape))


FORMS: dict[str, Callable[..., Form]] = {
    f.__name__: f
    for f in (
        *(conv, conv_input_vjp, conv_weight_vjp, conv_transpose, conv_block, dense, flatten, im2col, col2im),
        *(max_pool, max_pool_with_indices, max_unpool, adaptive_max_pool, spatial_pyramid_pool),
        *(avg_pool, adaptive_avg_pool, relu, leaky_relu),
    )
}
