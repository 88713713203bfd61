"""How sums over windows are put to XLA, so that its programs are small and nothing is computed or copied twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, reduce
from importlib.util import find_spec
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from fnconv.base.geometry import AnyAxis, Axis, is_symbolic, outputs, runs, sizes, taps, volume
from fnconv.base.pairs import pad, tap

TERMS = 28  # the most terms of a sum that XLA should fuse into one loop
BORDERS = 6  # `by_runs` pays where at most one window in so many meets a border
LONG_ROW = 16384  # the most entries of a row that a block of a GPU holds
UNROLL = 64  # the most window elements for which a program may have one operation each


def computed_once(arrays: Any) -> Any:
    """The same arrays, on a CPU stored once: XLA does not compute them again inside each loop that reads them.

    There XLA removes `optimization_barrier` before it fuses loops, so a call that must not be inlined holds it.
    """
    return lax.platform_dependent(arrays, cpu=_called, default=lambda a: a)


def _called(arrays: Any) -> Any:
    with set_xla_metadata(inlineable="false"):
        return _barrier(arrays)


_barrier = jax.jit(lax.optimization_barrier)


def rows_read_once(axis: int, a: jax.Array) -> jax.Array:
    """The same array.  What is made of its rows and of their sums becomes one kernel of a GPU, not two.

    There XLA knows rows by the pattern a op reduce(a), and min(a, max of the row) = a is one.
    """

    def seen(a: jax.Array) -> jax.Array:
        top = lax.reduce(a, np.asarray(-np.inf, a.dtype), lax.max, (axis,))
        return jnp.minimum(a, jnp.expand_dims(top, axis))

    if axis != a.ndim - 1 or a.dtype != jnp.float32 or is_symbolic(a.shape[-1]) or a.shape[-1] > LONG_ROW:
        return a
    return lax.platform_dependent(a, cuda=seen, default=lambda a: a)


@cache
def may_target_tpu() -> bool:
    """Whether a program that is being traced may be compiled for a TPU: where its compiler is installed."""
    return "TPU_LIBRARY_PATH" in os.environ or find_spec("libtpu") is not None


def unless_empty(f: Callable[..., jax.Array], shape: Sequence[int], *operands: jax.Array) -> Callable[..., jax.Array]:
    """f(spec, *operands), a sum of that shape; zeros in its place where nothing is added up or there is no result."""
    if 0 in shape or any(0 in o.shape for o in operands):
        return lambda spec, *operands: jnp.zeros(shape, operands[-1].dtype)
    return f


def pad_once(x: jax.Array, axes: Sequence[Axis], fill: float = 0) -> jax.Array:
    """`pad`, stored once, for arrays that are read many times."""
    padded = pad(x, axes, fill)
    return padded if padded is x else computed_once(padded)


def along(vector: Any, axis: int, axes: int) -> Any:
    """A vector as an array of so many axes that all but one have size 1."""
    return vector.reshape([-1 if i == axis else 1 for i in range(axes)])


def per_channel(vector: jax.Array, like: jax.Array) -> jax.Array:
    """One number for each of the last axis' entries, as an array of as many axes: nothing is promoted silently."""
    return along(vector, like.ndim - 1, like.ndim)


def starts(a: AnyAxis) -> jax.Array:
    """Position of the first element of each window, (output,); before 0 in the padding."""
    if isinstance(a, Axis):
        return jnp.arange(a.output, dtype=np.int32) * np.int32(a.stride) - np.int32(a.low)
    return jnp.asarray(a.starts())


def counts(a: AnyAxis, include_pad: bool) -> jax.Array:
    """Cells of each window that an average divides by, (output,)."""
    if isinstance(a, Axis) and is_symbolic(a.size):
        return jnp.asarray(a.counts_from(starts(a), include_pad))
    return jnp.asarray(a.counts(include_pad))


def by_runs(f: Callable[..., Any], arrays: Sequence[jax.Array], axes: Sequence[Axis]) -> Any:
    """f(arrays, axes); on a CPU it is computed run by run (see `runs`), so that the arrays are not copied to be padded.

    f takes arrays (N, *S, C) to arrays (N, *O, C), each entry of which depends only on the cells of its window.  The
    results of the runs are joined, which copies them: that pays where strides make the results small, or where few
    windows meet a border.
    """
    if any(is_symbolic(a.size) for a in axes):
        return f(arrays, axes)
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
    widths = [
        (-low, jax.core.max_dim(0, q + high - a.output), 0)
        for a, q, (low, high) in zip(axes, cells, reach, strict=True)
    ]
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

        return reduce(lax.add, (share(k) for _, k in taps(axes)))

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
