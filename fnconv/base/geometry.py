"""Sliding windows as integers: sizes, paddings and index tables, one spatial axis at a time.

Everything rests on one relation.  Output o meets window element k at the input position

    i = o * stride + k * dilation - low                      Wei (2.16), (2.17), with stride, dilation and padding

and positions outside [0, size) are padding.  The forward correlation reads the relation from left to right; the
input gradient collects, for each i, every (o, k) that leads to it, Wei (2.30); the weight gradient every (o, i).
This module imports no jax: the numbers are known before anything is traced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int32]
# The most entries of an index table.  It is a constant of a program: XLA limits those to 2 GiB, and copies them.
ENTRIES = 2**27
OUTSIDE = -1  # what a flat table holds where the window leaves the input

PaddingName = Literal["VALID", "SAME", "SAME_LOWER", "FULL", "INPUT_SIZE"]
PADDING_NAMES: tuple[PaddingName, ...] = get_args(PaddingName)


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution or a pooling.

    `overshoot` counts the cells past the padding that the last window of a `ceil_mode` pooling covers.
    """

    size: int
    window: int
    stride: int = 1
    dilation: int = 1
    low: int = 0
    high: int = 0
    overshoot: int = 0

    @property
    def span(self) -> int:
        """Length of the dilated window."""
        return (self.window - 1) * self.dilation + 1

    @property
    def padded(self) -> int:
        return self.low + self.size + self.high + self.overshoot

    @property
    def output(self) -> int:
        """floor((size + low + high - span) / stride) + 1, or 0 where no window fits."""
        return max(0, (self.padded - self.span) // self.stride + 1)

    @property
    def leftover(self) -> int:
        """Padded cells at the high end that no window reaches."""
        return self.padded - self.reach if self.output else self.padded

    @property
    def reach(self) -> int:
        """Padded cells from the first to the last one covered."""
        return (self.output - 1) * self.stride + self.span if self.output else 0

    def positions(self) -> Table:
        """i for every (o, k), shape (output, window); outside [0, size) lies padding."""
        _refuse_if_large(self.output, self.window)
        o = np.arange(self.output, dtype=np.int32)[:, None] * self.stride
        k = np.arange(self.window, dtype=np.int32)[None, :] * self.dilation
        return (o + k - self.low).astype(np.int32)

    def valid(self) -> npt.NDArray[np.bool_]:
        """True where `positions` falls inside the input."""
        i = self.positions()
        return (i >= 0) & (i < self.size)

    def counts(self, include_pad: bool) -> npt.NDArray[np.int32]:
        """Cells of each window that an average divides by, shape (output,); overshoot never counts."""
        return self.counts_from(np.arange(self.output, dtype=np.int64) * self.stride - self.low, include_pad)

    def counts_from(self, start: Any, include_pad: bool) -> Any:
        """The same for windows whose first elements are at these positions, an array of NumPy's or JAX's."""
        first = 0 if include_pad else (-(start // self.dilation)).clip(0)  # element of each window
        beyond = self.size + (self.high if include_pad else 0)
        stop = (-((start - beyond) // self.dilation)).clip(None, self.window)
        return (stop - first).clip(0).astype(np.int32)

    def input_gradient(self) -> Axis:
        """Geometry of the stride-1 correlation of the zero-inserted cotangent with the rotated kernel.

        dx[i] = sum_k d0[i + low - k * dilation] w[k], with d0 the cotangent with stride - 1 zeros between its
        entries.  Rotation replaces k by window - 1 - k, so that the low padding is span - 1 - low, and the high
        padding follows from the result having `size` entries: cells that were left over receive zero (Notes).
        """
        inserted = inserted_size(self.output, self.stride)
        low = self.span - 1 - self.low
        return Axis(inserted, self.window, 1, self.dilation, low, self.size + self.span - 1 - inserted - low)

    def weight_gradient(self) -> Axis:
        """Geometry of the correlation of the input with the cotangent dilated by the stride (Notes).

        dw[k] = sum_o d[o] x[o * stride + k * dilation - low]: the window is the cotangent, stride and dilation
        change places, and the high padding is what gives `window` results: leftover cells are cropped.
        """
        reach = (self.window - 1) * self.dilation + inserted_size(self.output, self.stride)
        return Axis(self.size, self.output, self.dilation, self.stride, self.low, reach - self.size - self.low)


@dataclass(frozen=True)
class AdaptiveAxis:
    """One axis of an adaptive pooling: output o covers [floor(o * size / output), ceil((o + 1) * size / output))."""

    size: int
    output: int

    @property
    def window(self) -> int:
        """Length of the longest window."""
        return int((self._stop() - self.starts()).max(initial=1))

    def starts(self) -> Table:
        """Position of the first element of each window."""
        return (np.arange(self.output, dtype=np.int64) * self.size // max(self.output, 1)).astype(np.int32)

    def _stop(self) -> Table:
        o = np.arange(1, self.output + 1, dtype=np.int64)
        return (-(-o * self.size // max(self.output, 1))).astype(np.int32)

    def positions(self) -> Table:
        i = self.starts()[:, None] + np.arange(self.window, dtype=np.int32)[None, :]
        return np.where(i < self._stop()[:, None], i, OUTSIDE).astype(np.int32)

    def valid(self) -> npt.NDArray[np.bool_]:
        return self.positions() != OUTSIDE

    def counts(self, include_pad: bool) -> npt.NDArray[np.int32]:
        return (self._stop() - self.starts()).astype(np.int32)

    def windows_of_cells(self) -> tuple[Table, Table]:
        """The first of the windows that each cell lies in, and how many they are: neighbours all."""
        cells = np.arange(self.size)
        first = np.searchsorted(self._stop(), cells, side="right")
        stop = np.searchsorted(self.starts(), cells, side="right")
        return first.astype(np.int32), (stop - first).astype(np.int32)


AnyAxis = Axis | AdaptiveAxis


def _refuse_if_large(windows: int, elements: int) -> None:
    """Raise before an index table would be made of more than 2**27 entries."""
    if windows * elements > ENTRIES:
        raise ValueError(
            f"window_shape must unfold into at most {ENTRIES} table entries; got {windows} windows of {elements} cells"
        )


def runs(a: Axis) -> list[tuple[slice, Axis]]:
    """Cut the outputs into runs: windows that meet the low padding, no padding, the high padding.

    Each run comes as the cells of the input that it reads and the axis of a pooling over them.

    >>> [(cells.start, cells.stop, run.low, run.high, run.output) for cells, run in runs(Axis(8, 3, 2, low=1, high=1))]
    [(0, 2, 1, 0, 1), (1, 8, 0, 0, 3)]
    """
    inside = max(0, -(-a.low // a.stride))
    beyond = max(inside, (a.size - a.span + a.low) // a.stride + 1)
    bounds = [min(o, a.output) for o in (0, inside, beyond, a.output)]
    found = []
    for first, last in ((b, e - 1) for b, e in pairwise(bounds) if b < e):
        start, stop = first * a.stride - a.low, last * a.stride - a.low + a.span
        cells = slice(*(min(max(0, i), a.size) for i in (start, stop)))
        low, high = cells.start - start, stop - cells.stop
        found.append((cells, Axis(cells.stop - cells.start, a.window, a.stride, a.dilation, low, high)))
    return found


def inserted_size(size: int, stride: int) -> int:
    """Length after stride - 1 zeros are put between neighbours."""
    return max(0, (size - 1) * stride + 1)


def adaptive_axis(size: int, output: int) -> AnyAxis:
    """The axis of an adaptive pooling; an ordinary one where the output divides the size."""
    if output and size % output == 0 and size:
        return Axis(size, size // output, size // output)
    return AdaptiveAxis(size, output)


def named_padding(name: str, size: int, span: int, stride: int) -> tuple[int, int]:
    """(low, high) of a padding given by name.

    VALID       none
    SAME        output = ceil(size / stride), the odd cell at the high end; SAME_LOWER: at the low end
    FULL        every window that touches the input: span - 1 on both sides
    INPUT_SIZE  output = size at every stride, the *same* of Notes: (size - 1) * stride + span - size cells in all,
                the odd one at the high end (4x4, 2x2 kernel, stride 3: 7 cells, 3 low and 4 high)
    """
    match name.upper():
        case "VALID":
            return 0, 0
        case "SAME" | "SAME_LOWER" as same:
            total = max(0, (-(-size // stride) - 1) * stride + span - size)
            small, large = total // 2, total - total // 2
            return (small, large) if same == "SAME" else (large, small)
        case "FULL":
            return span - 1, span - 1
        case "INPUT_SIZE":
            total = max(0, (size - 1) * stride + span - size)
            return total // 2, total - total // 2
    raise ValueError(f"padding must be one of {', '.join(PADDING_NAMES)}; got {name!r}")


def ceil_overshoot(axis: Axis) -> int:
    """Cells past the padding that rounding the output size up adds, as Torch and ONNX count.

    A last window is added where cells are left over, unless it would start past the input and the low padding.
    """
    leftover = axis.padded - axis.span - (axis.output - 1) * axis.stride
    starts_inside = axis.output * axis.stride < axis.low + axis.size
    if leftover <= 0 or not starts_inside:
        return 0
    return axis.stride - leftover


def crop_instead_of_negative(size: int, stride: int, low: int, high: int) -> tuple[slice, int, int]:
    """Rewrite paddings of a zero-inserted axis without negative ones: entries to keep, then (low, high) >= 0.

    A padding of -p removes the first ceil(p / stride) entries and leaves their surplus as ordinary padding.
    """
    drop_low, drop_high = -(min(low, 0) // stride), -(min(high, 0) // stride)
    kept = slice(min(drop_low, size), max(size - drop_high, min(drop_low, size)))
    return kept, low + drop_low * stride, high + drop_high * stride


def taps(axes: Sequence[AnyAxis], order: str = "row_major") -> Iterator[tuple[int, tuple[int, ...]]]:
    """The taps of a window, which are its elements: (flat row-major offset, index per axis) of each.

    `order` is row-major or column-major.  Column-major is Wei's: the first axis runs fastest.
    """
    window = tuple(a.window for a in axes)
    if order == "row_major":
        yield from enumerate(product(*map(range, window)))
        return
    for reverse in product(*map(range, window[::-1])):
        k = reverse[::-1]
        yield int(np.ravel_multi_index(k, window)) if k else 0, k


class Indexed(Protocol):
    """What `flat_table` reads of an axis: where in [0, size) every (o, k) lies."""

    @property
    def size(self) -> int: ...

    def positions(self) -> Table: ...

    def valid(self) -> npt.NDArray[np.bool_]: ...


def flat_table(axes: Sequence[Indexed], order: str = "row_major") -> Table:
    """The index map m of Wei (2.14)-(2.17) over all axes: flat input position of (o, k), OUTSIDE in the padding.

    Shape (outputs, window elements); rows, columns and positions are counted row-major, or column-major as Wei does.
    """
    axes = tuple(axes) if order == "row_major" else tuple(axes)[::-1]
    table, inside = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
    for a in axes:
        i, ok = a.positions(), a.valid()
        (o, k), (rows, columns) = table.shape, i.shape
        _refuse_if_large(o * rows, k * columns)
        table = (table[:, None, :, None] * a.size + i[None, :, None, :]).reshape(o * rows, k * columns)
        inside = (inside[:, None, :, None] & ok[None, :, None, :]).reshape(o * rows, k * columns)
    return np.where(inside, table, OUTSIDE).astype(np.int32)


def window_counts(axes: Sequence[AnyAxis], include_pad: bool) -> npt.NDArray[np.int64]:
    """Divisor of each average, shape (*outputs)."""
    counts = np.ones((), np.int64)
    for a in axes:
        counts = counts[..., None] * a.counts(include_pad)
    return counts


def window_axes(
    size: Sequence[int],
    window: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str | int = "VALID",
    dilation: int | Sequence[int] = 1,
) -> tuple[Axis, ...]:
    """The axes of a plain geometry, for explorations and tests.

    >>> [a.output for a in window_axes((5, 5), (3, 3), strides=2, padding="INPUT_SIZE")]
    [5, 5]
    """
    n = len(size)
    s = (strides,) * n if isinstance(strides, int) else strides
    d = (dilation,) * n if isinstance(dilation, int) else dilation
    result = []
    for a in (Axis(*geometry) for geometry in zip(size, window, s, d, strict=True)):
        low, high = (padding, padding) if isinstance(padding, int) else named_padding(padding, a.size, a.span, a.stride)
        result.append(Axis(a.size, a.window, a.stride, a.dilation, low, high))
    return tuple(result)


def outputs(axes: Sequence[AnyAxis]) -> tuple[int, ...]:
    return tuple(a.output for a in axes)


def sizes(axes: Sequence[AnyAxis]) -> tuple[int, ...]:
    return tuple(a.size for a in axes)


def sliding(axes: Sequence[AnyAxis]) -> tuple[Axis, ...]:
    """The axes along which windows slide, which are all but those of an adaptive pooling."""
    return tuple(a for a in axes if isinstance(a, Axis))


def windows(axes: Sequence[AnyAxis]) -> tuple[int, ...]:
    return tuple(a.window for a in axes)


def is_symbolic(size: object) -> bool:
    """Whether a size is a variable, as `jax.export` has them: then there are no tables, and few comparisons."""
    return not isinstance(size, int)


def may_be_empty(axes: Sequence[AnyAxis]) -> bool:
    """Whether a window may lie wholly in the padding."""
    return any(is_symbolic(a.size) or not a.counts(include_pad=False).all() for a in axes)


def volume(shape: Sequence[int]) -> int:
    return math.prod(shape)
