"""Any convolution as one of stride 1 without dilation and with short windows, by more input channels.

Along one axis the element k of the window reads position k * dilation after the window's start.  Elements of equal
residue r modulo the stride lie at r + stride * p and read, from the input's phase r, every cell once: the polyphase
decomposition.  Runs of T consecutive p make a segment, p = p_0 + t:

    y[o] = sum_j sum_t x_j[o + t] w_j[t],      x_j[q] = x[q * stride + start_j],   start_j = p_0 * stride + r - low

with w_j[t] = w[k] for the element k at that place, or 0 where there is none.  The segments j of all axes are
channels of the input, so this is one convolution with windows of T elements, of fewer cells and more channels.

Where the stride is 1, a dilation d needs no more channels: outputs of equal residue modulo d read cells of equal
residue alone, and the d residues are images of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from fnconv.base.geometry import OUTSIDE, Axis, Table, flat_table, volume, windows
from fnconv.base.pairs import pad, split_groups, tap, tap_adjoint, unpad
from fnconv.base.spec import ConvSpec
from fnconv.rules.conv.rewrite import Map, Rewrite, identity


@dataclass(frozen=True)
class Segments:
    """One axis: where each x_j starts in the input, and which element of the window w_j[t] is.

    A table like that of an `Axis`: segments take the place of outputs, elements of the window that of cells.
    """

    size: int  # of the window
    starts: tuple[int, ...]
    elements: Table  # (segments, T), OUTSIDE where there is none

    @property
    def length(self) -> int:
        return self.elements.shape[1]

    def positions(self) -> Table:
        return self.elements

    def valid(self) -> npt.NDArray[np.bool_]:
        return self.elements != OUTSIDE


def segments(a: Axis, longest: int | None = None) -> Segments:
    """Cut the window of an axis into segments of at most `longest` elements; one for every phase if that is None.

    >>> s = segments(Axis(9, 5, 2), 3)
    >>> s.starts, s.elements.tolist()
    ((0, 1), [[0, 2, 4], [1, 3, -1]])
    """
    phases: dict[int, list[int]] = {}
    for k in range(a.window):
        phases.setdefault(k * a.dilation % a.stride, []).append(k)
    places = {k: k * a.dilation // a.stride for k in range(a.window)}
    needed = max(places[ks[-1]] - places[ks[0]] + 1 for ks in phases.values())
    length = needed if longest is None else min(longest, needed)
    starts, rows = [], []
    for r, ks in sorted(phases.items()):
        while ks:
            first = places[ks[0]]
            inside = [k for k in ks if places[k] < first + length]
            row = [OUTSIDE] * length
            for k in inside:
                row[places[k] - first] = k
            starts.append(first * a.stride + r - a.low)
            rows.append(row)
            ks = ks[len(inside) :]
    return Segments(a.window, tuple(starts), np.array(rows, np.int32))


def rewrite(spec: ConvSpec, longest: int | None = None) -> Rewrite:
    """The changes of variables; identities where the convolution is such a one already."""
    if any(a.stride == 1 and a.dilation > 1 < a.window for a in spec.axes):
        images = _residues(spec)
        return images.then(_segmented(images.spec, longest))
    return _segmented(spec, longest)


def _residues(spec: ConvSpec) -> Rewrite:
    """Residues modulo the dilation as images, on every axis of stride 1."""
    steps = [a.dilation if a.stride == 1 and a.window > 1 else 1 for a in spec.axes]
    rows = [-(-a.reach // d) if d > 1 else a.size for a, d in zip(spec.axes, steps, strict=True)]
    axes = tuple(Axis(r, a.window) if d > 1 else a for a, d, r in zip(spec.axes, steps, rows, strict=True))
    x_axes = [
        Axis(a.size, 1, low=a.low, high=r * d - a.low - a.size) if d > 1 else Axis(a.size, 1)
        for a, d, r in zip(spec.axes, steps, rows, strict=True)
    ]
    y_axes = [Axis(a.output, 1, high=b.output * d - a.output) for a, b, d in zip(spec.axes, axes, steps, strict=True)]

    def apart(widths: Sequence[Axis]) -> Map:
        return lambda x: _images(pad(x, widths), steps)

    def together(widths: Sequence[Axis]) -> Map:
        return lambda y: unpad(_joined(y, steps), widths)

    x, y = (apart(x_axes), together(x_axes)), (together(y_axes), apart(y_axes))
    return Rewrite(replace(spec, axes=axes), x=x, w=(identity, identity), y=y)


def _images(x: jax.Array, steps: Sequence[int]) -> jax.Array:
    """(N, h1 d1, h2 d2, .., C) -> (N d1 d2 .., h1, h2, .., C)."""
    m, rows = len(steps), [size // d for size, d in zip(x.shape[1:-1], steps, strict=True)]
    x = x.reshape(x.shape[0], *(n for pair in zip(rows, steps, strict=True) for n in pair), x.shape[-1])
    x = x.transpose(0, *range(2, 2 * m + 1, 2), *range(1, 2 * m, 2), 2 * m + 1)
    return x.reshape(-1, *rows, x.shape[-1])


def _joined(y: jax.Array, steps: Sequence[int]) -> jax.Array:
    """The inverse and the adjoint of `_images`."""
    m, rows = len(steps), y.shape[1:-1]
    y = y.reshape(-1, *steps, *rows, y.shape[-1])
    y = y.transpose(0, *(i for axis in range(m) for i in (1 + m + axis, 1 + axis)), 2 * m + 1)
    return y.reshape(y.shape[0], *(r * d for r, d in zip(rows, steps, strict=True)), y.shape[-1])


def _segmented(spec: ConvSpec, longest: int | None) -> Rewrite:
    cut = [segments(a, longest) for a in spec.axes]
    if all(a.stride == 1 and len(s.starts) == 1 for a, s in zip(spec.axes, cut, strict=True)):
        return Rewrite(_undilated(spec, cut), x=(identity, identity), w=_kernel(spec, cut), y=(identity, identity))
    cells = [a.output + s.length - 1 for a, s in zip(spec.axes, cut, strict=True)]
    places = [
        tuple(_cells(a, start, q) for a, start, q in zip(spec.axes, starts, cells, strict=True))
        for starts in product(*(s.starts for s in cut))
    ]
    g, zero = spec.groups, (0,) * len(spec.axes)

    def parts(x: jax.Array) -> jax.Array:
        # (N, *S, g c) -> (N, *Q, g j c)
        each = [split_groups(tap(pad(x, axes), axes, zero), g) for axes in places]
        return jnp.stack(each, axis=-2).reshape(x.shape[0], *cells, -1)

    def joined(dx: jax.Array) -> jax.Array:
        each = dx.reshape(*dx.shape[:-1], g, len(places), -1)
        back = (
            tap_adjoint(
                lax.index_in_dim(each, j, each.ndim - 2, keepdims=False).reshape(*dx.shape[:-1], -1), axes, zero
            )
            for j, axes in enumerate(places)
        )
        return reduce(lax.add, back)

    inner = replace(
        spec,
        axes=tuple(Axis(q, s.length) for q, s in zip(cells, cut, strict=True)),
        in_channels=spec.in_channels * len(places),
    )
    return Rewrite(inner, x=(parts, joined), w=_kernel(spec, cut), y=(identity, identity))


def _cells(a: Axis, start: int, q: int) -> Axis:
    """The axis whose windows of one element are the cells start, start + stride, ..."""
    return Axis(a.size, 1, a.stride, 1, -start, (q - 1) * a.stride + 1 + start - a.size)


def _undilated(spec: ConvSpec, cut: Sequence[Segments]) -> ConvSpec:
    axes = (replace(a, window=s.length, dilation=1) for a, s in zip(spec.axes, cut, strict=True))
    return replace(spec, axes=tuple(axes))


def _kernel(spec: ConvSpec, cut: Sequence[Segments]) -> tuple[Map, Map]:
    """(*K, c, out) -> (*T, j c, out) by the table of elements, and back."""
    table = flat_table(cut)  # (J, T)
    (segment, place), elements = np.nonzero(table != OUTSIDE), table[table != OUTSIDE]
    where = np.empty((volume(windows(spec.axes)), 2), np.int32)
    where[elements] = np.stack([segment, place], axis=1)
    shape, (j, t) = tuple(s.length for s in cut), table.shape
    *_, c, out = spec.w_shape
    source = np.where(table == OUTSIDE, volume(windows(spec.axes)), table)

    def spread(w: jax.Array) -> jax.Array:
        each = w.reshape(-1, c, out).at[source].get(mode="fill", fill_value=0)  # (J, T, c, out)
        return jnp.moveaxis(each, 0, 1).reshape(*shape, j * c, out)

    def collected(dw: jax.Array) -> jax.Array:
        each = dw.reshape(t, j, c, out)
        return each[where[:, 1], where[:, 0]].reshape(spec.w_shape)

    return (
        (identity, identity) if table.shape[0] == 1 and np.array_equal(table[0], np.arange(t)) else (spread, collected)
    )
