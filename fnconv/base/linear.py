"""Linear maps on canonical arrays, each beside its adjoint: <u, A v> = <A* u, v>."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from fnconv.base.geometry import OUTSIDE, AnyAxis, Axis, flat_table, outputs, runs, sizes, volume, windows

TERMS = 28  # of a sum, at most, that one loop adds
BORDERS = 6  # one in so many outputs, at most, is worth a program for each border
UNROLL = 64  # window elements beyond which one operation per element is no longer a reasonable program


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums are kept in: half precisions add in float32."""
    return jnp.dtype(jnp.float32) if dtype in (jnp.float16, jnp.bfloat16) else dtype


def computed_once(arrays: Any) -> Any:
    """The same arrays, which XLA keeps rather than computes again inside each of what reads them.

    On a CPU XLA drops `optimization_barrier` before it fuses; a call that it may not inline it keeps.
    """
    return lax.platform_dependent(arrays, cpu=_called, default=lax.optimization_barrier)


def _called(arrays: Any) -> Any:
    with set_xla_metadata(inlineable="false"):
        return _barrier(arrays)


_barrier = jax.jit(lax.optimization_barrier)


def wide(a: jax.Array) -> jax.Array:
    """As its sums are kept."""
    return a.astype(accumulator(a.dtype))


# ---- zero insertion and padding / subsampling and cropping ----------------------------------------------------------


def pad(x: jax.Array, axes: Sequence[Axis], fill: float = 0) -> jax.Array:
    """Pad (crop, where negative) the spatial axes of x (N, *S, C)."""
    widths = [(0, 0, 0), *((a.low, a.high + a.overshoot, 0) for a in axes), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(fill, x.dtype), widths) if any(w != (0, 0, 0) for w in widths) else x


def pad_once(x: jax.Array, axes: Sequence[Axis], fill: float = 0) -> jax.Array:
    """`pad` for many readers, none of which pads again."""
    padded = pad(x, axes, fill)
    return padded if padded is x else computed_once(padded)


def unpad(y: jax.Array, axes: Sequence[Axis]) -> jax.Array:
    """The adjoint of `pad` with zeros: cropping where it padded, zeros where it cropped."""
    widths = [(0, 0, 0), *((-a.low, -a.high - a.overshoot, 0) for a in axes), (0, 0, 0)]
    return lax.pad(y, jnp.zeros((), y.dtype), widths) if any(w != (0, 0, 0) for w in widths) else y


def zero_insert(y: jax.Array, strides: Sequence[int]) -> jax.Array:
    """stride - 1 zeros between neighbours along each spatial axis (Notes, step 1)."""
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)])


def subsample(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """The adjoint of `zero_insert`: every stride-th entry."""
    return x[(slice(None), *(slice(None, None, s) for s in strides))]


# ---- one window element at a time -----------------------------------------------------------------------------------


def tap(xp: jax.Array, axes: Sequence[Axis], k: Sequence[int]) -> jax.Array:
    """The cells of the padded xp (N, *P, C) that window element k meets: (N, *O, C)."""
    start = [i * a.dilation for a, i in zip(axes, k, strict=True)]
    stop = [b + (a.output - 1) * a.stride + 1 for a, b in zip(axes, start, strict=True)]
    n, c = xp.shape[0], xp.shape[-1]
    return lax.slice(xp, (0, *start, 0), (n, *stop, c), (1, *(a.stride for a in axes), 1))


def tap_adjoint(y: jax.Array, axes: Sequence[Axis], k: Sequence[int]) -> jax.Array:
    """Put y (N, *O, C) back where window element k took it from, zeros elsewhere: (N, *S, C), padding cropped."""
    widths = [(0, 0, 0)]
    for a, i in zip(axes, k, strict=True):
        low = i * a.dilation - a.low
        widths.append((low, a.size - low - (a.output - 1) * a.stride - 1, a.stride - 1))
    return lax.pad(y, jnp.zeros((), y.dtype), [*widths, (0, 0, 0)])


def by_runs(f: Callable[..., Any], arrays: Sequence[jax.Array], axes: Sequence[Axis]) -> Any:
    """f(arrays, axes), on a CPU put together from its runs, so that no padded copies of the arrays are made.

    f takes arrays (N, *S, C) to some of (N, *O, C) whose entries depend on the cells of their windows alone.  These are
    copied in turn, which pays where strides make them smaller or where few windows meet a border.
    """
    inside = volume([max((run.output for _, run in runs(a)), default=0) for a in axes])
    if all(a.stride == 1 for a in axes) and BORDERS * (volume(outputs(axes)) - inside) > volume(outputs(axes)):
        return f(arrays, axes)

    def along(arrays: Sequence[jax.Array], done: tuple[Axis, ...]) -> Any:
        if len(done) == len(axes):
            return f(arrays, done)
        at = len(done) + 1
        parts = [
            along([lax.slice_in_dim(x, cells.start, cells.stop, axis=at) for x in arrays], (*done, run))
            for cells, run in runs(axes[len(done)])
        ]
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *p: lax.concatenate(p, at), *parts)

    return lax.platform_dependent(*arrays, cpu=lambda *a: along(a, ()), default=lambda *a: f(a, axes))


# ---- all window elements of one output phase at a time --------------------------------------------------------------


def polyphase(
    arrays: Sequence[jax.Array],
    fills: Sequence[float | int],
    axes: Sequence[Axis],
    term: Callable[..., jax.Array],
) -> jax.Array:
    """Sum over window elements of what each puts back, without inserting a zero: (N, *O, C) -> (N, *S, C).

    Cell i = q * stride + r is met by element k at output o = q + (r + low - k * dilation) / stride, for those k that
    make it an integer: they depend on the phase r alone.  So each phase is a sum of unit-stride slices, and the
    phases interleave.  term(k, *slices) is what element k gives to the cells of one phase; outside the outputs the
    arrays are continued by `fills`.
    """
    if all(a.stride == 1 for a in axes):
        return _only_phase(arrays, fills, axes, term)
    met = [_elements_of_phases(a) for a in axes]
    reach = [
        (min(0, *shifts), max(0, *shifts)) for shifts in ([o for p in phases for _, o in p] or [0] for phases in met)
    ]
    cells = [-(-a.size // a.stride) for a in axes]
    widths = [(-low, max(0, q + high - a.output), 0) for a, q, (low, high) in zip(axes, cells, reach, strict=True)]
    padded = [
        lax.pad(y, jnp.asarray(fill, y.dtype), [(0, 0, 0), *widths, (0, 0, 0)])
        for y, fill in zip(arrays, fills, strict=True)
    ]
    padded = list(computed_once(tuple(padded)))
    n, c = padded[0].shape[0], padded[0].shape[-1]

    def phase(elements: Sequence[tuple[tuple[int, int], ...]]) -> jax.Array | None:
        terms = []
        for combination in product(*elements):
            start = [o - low for (_, o), (low, _) in zip(combination, reach, strict=True)]
            stop = [b + q for b, q in zip(start, cells, strict=True)]
            slices = [lax.slice(y, (0, *start, 0), (n, *stop, c)) for y in padded]
            terms.append(term(tuple(k for k, _ in combination), *slices))
        return reduce(lax.add, terms) if terms else None

    phases = [phase(elements) for elements in product(*met)]
    some = next(p for p in phases if p is not None)
    filled = [jnp.zeros_like(some) if p is None else p for p in phases]
    return interleave(filled, [a.stride for a in axes], sizes(axes))


def _only_phase(
    arrays: Sequence[jax.Array],
    fills: Sequence[float | int],
    axes: Sequence[Axis],
    term: Callable[..., jax.Array],
) -> jax.Array:
    """Stride 1: cell i is met by element k at output i + low - k * dilation, the correlation with the window turned."""

    def collect(arrays: Sequence[jax.Array], back: Sequence[Axis]) -> jax.Array:
        padded = [pad_once(y, back, fill) for y, fill in zip(arrays, fills, strict=True)]

        def share(k: tuple[int, ...]) -> jax.Array:
            turned = [a.window - 1 - i for a, i in zip(axes, k, strict=True)]
            return term(k, *(tap(y, back, turned) for y in padded))

        return reduce(lax.add, map(share, window_elements(axes)))

    dx: jax.Array = by_runs(collect, arrays, [a.input_gradient() for a in axes])
    return dx


def _elements_of_phases(a: Axis) -> list[tuple[tuple[int, int], ...]]:
    """For every phase r the (window element, output less q) that reach it."""
    distances = [[(k, r + a.low - k * a.dilation) for k in range(a.window)] for r in range(a.stride)]
    return [tuple((k, d // a.stride) for k, d in phase if d % a.stride == 0) for phase in distances]


def interleave(phases: Sequence[jax.Array], strides: Sequence[int], size: Sequence[int]) -> jax.Array:
    """Phases (N, *Q, C), row-major over the residues modulo the strides, to (N, *size, C), cut to size."""
    n, *cells, c = phases[0].shape
    m = len(strides)
    woven = phases[0]
    if len(phases) > 1:
        order = [m, *(i for q in range(m) for i in (m + 1 + q, q)), 2 * m + 1]  # (*s, N, *Q, C) -> (N, Q, s, .., C)
        stacked = jnp.stack(phases).reshape(*strides, n, *cells, c)
        woven = stacked.transpose(order).reshape(n, *(q * s for q, s in zip(cells, strides, strict=True)), c)
    return lax.slice(woven, (0,) * woven.ndim, (n, *size, c))


# ---- im2col / col2im ------------------------------------------------------------------------------------------------


def im2col(x: jax.Array, axes: Sequence[AnyAxis], fill: float = 0) -> jax.Array:
    """Gather by the index map m, Wei (2.24) without the matrix: (N, *S, C) -> (N, O, K, C), `fill` in the padding."""
    n, c = x.shape[0], x.shape[-1]
    table = flat_table(axes)
    source = np.where(table == OUTSIDE, volume(sizes(axes)), table)
    return x.reshape(n, -1, c).at[:, source].get(mode="fill", fill_value=fill)


def col2im(cols: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """Add every column entry at the cell it came from, Wei (2.30), GEMM 1.2: (N, O, K, C) -> (N, *S, C).

    The segments are the spatial cells; the batch axis stays a batch axis.
    """
    n, c = cols.shape[0], cols.shape[-1]
    cells = volume(sizes(axes))
    table = flat_table(axes).reshape(-1)
    segments = jnp.asarray(np.where(table == OUTSIDE, cells, table))  # past the last segment: dropped

    def scatter_one(entries: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(entries, segments, num_segments=cells)

    return jax.vmap(scatter_one)(cols.reshape(n, -1, c)).reshape(n, *sizes(axes), c)


def shifted_im2col(x: jax.Array, axes: Sequence[Axis], fill: float = 0) -> jax.Array:
    """`im2col` as one strided slice for each window element."""
    xp = pad(x, axes, fill)
    n, c = x.shape[0], x.shape[-1]
    cols = [tap(xp, axes, k).reshape(n, volume(outputs(axes)), c) for k in window_elements(axes)]
    return jnp.stack(cols, axis=2)


def shifted_col2im(cols: jax.Array, axes: Sequence[Axis]) -> jax.Array:
    """`col2im` as one shifted addition for each window element."""
    n, c = cols.shape[0], cols.shape[-1]
    total = jnp.zeros((n, *sizes(axes), c), cols.dtype)
    for q, k in enumerate(window_elements(axes)):
        total = total + tap_adjoint(cols[:, :, q].reshape(n, *outputs(axes), c), axes, k)
    return total


def window_elements(axes: Sequence[AnyAxis]) -> Iterator[tuple[int, ...]]:
    return product(*map(range, windows(axes)))


# ---- window sums ----------------------------------------------------------------------------------------------------


def window_sum(x: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """The sum of every window, zeros in the padding: (N, *S, C) -> (N, *O, C).

    Small windows in one loop, others along one axis after another.
    """
    if volume(windows(axes)) <= TERMS:
        sliding = tuple(a for a in axes if isinstance(a, Axis))
        if len(sliding) == len(axes):
            return by_runs(_sum_of_taps, (x,), sliding)
    for i, a in enumerate(axes, start=1):
        x = _reduce_window(x, a, i) if isinstance(a, Axis) else _contract_axis(x, _membership(a, x.dtype), i)
    return x


def window_sum_adjoint(y: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """Every cell collects the windows it lies in: (N, *O, C) -> (N, *S, C).

    Disjoint windows repeat their entry (upsampling, Notes); overlapping ones are summed phase by phase or, where they
    are long, as the correlation of the zero-inserted cotangent with rot180 of a kernel of ones.
    """
    sliding = tuple(a for a in axes if isinstance(a, Axis))
    disjoint = all(a.stride == a.window and a.dilation == 1 for a in sliding)
    if len(sliding) == len(axes) and not disjoint and volume(windows(axes)) <= TERMS:
        return polyphase((y,), (0,), sliding, lambda k, cells: cells)
    for i, a in enumerate(axes, start=1):
        if not isinstance(a, Axis):
            y = _contract_axis(y, _membership(a, y.dtype).T, i)
        elif a.stride == a.window and a.dilation == 1:
            y = _fit(jnp.repeat(y, a.window, axis=i), a, i)
        elif a.window <= UNROLL:
            others = [a if j == i else Axis(y.shape[j], 1) for j in range(1, len(axes) + 1)]
            y = polyphase((y,), (0,), others, lambda k, cells: cells)
        else:
            widths = [(0, 0, 0)] * y.ndim
            widths[i] = (0, 0, a.stride - 1)
            y = _reduce_window(lax.pad(y, jnp.zeros((), y.dtype), widths), a.input_gradient(), i)
    return y


def _sum_of_taps(arrays: Sequence[jax.Array], axes: Sequence[Axis]) -> jax.Array:
    xp = pad_once(arrays[0], axes)
    return reduce(lax.add, (tap(xp, axes, k) for k in window_elements(axes)))


def _reduce_window(x: jax.Array, a: Axis, i: int) -> jax.Array:
    widths = [(0, 0, 0)] * x.ndim
    widths[i] = (a.low, a.high + a.overshoot, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), widths)
    window, strides, dilation = [1] * x.ndim, [1] * x.ndim, [1] * x.ndim
    window[i], strides[i], dilation[i] = a.window, a.stride, a.dilation
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, strides, "VALID", window_dilation=dilation)


def _fit(y: jax.Array, a: Axis, i: int) -> jax.Array:
    """Remove the padding and append zeros where cells were left over."""
    widths = [(0, 0, 0)] * y.ndim
    widths[i] = (-a.low, a.size + a.low - y.shape[i], 0)
    return lax.pad(y, jnp.zeros((), y.dtype), widths)


def _membership(a: AnyAxis, dtype: jnp.dtype) -> np.ndarray:
    """1 where cell i lies in window o, shape (output, size)."""
    member = np.zeros((a.output, a.size + 1), dtype)
    o, k = np.nonzero(a.valid())
    member[o, a.positions()[o, k]] = 1
    return member[:, : a.size]


def _contract_axis(x: jax.Array, matrix: np.ndarray, i: int) -> jax.Array:
    product_ = lax.dot_general(x, jnp.asarray(matrix), (((i,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(product_, -1, i)


# ---- kernels --------------------------------------------------------------------------------------------------------


def rot180(w: jax.Array) -> jax.Array:
    """Reverse every window axis of w (*K, in, out); its own adjoint and inverse."""
    return jnp.flip(w, tuple(range(w.ndim - 2)))


def swap_channels(w: jax.Array, groups: int) -> jax.Array:
    """Exchange in and out within each group: (*K, in/g, out) -> (*K, out/g, in); its own adjoint and inverse."""
    *window, c, out = w.shape
    grouped = w.reshape(*window, c, groups, out // groups)
    return jnp.moveaxis(grouped, (-1, -3), (-3, -1)).reshape(*window, out // groups, groups * c)


def split_groups(a: jax.Array, groups: int) -> jax.Array:
    """(..., C) -> (..., g, C/g)."""
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
