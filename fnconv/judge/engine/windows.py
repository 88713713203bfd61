"""Windows along an axis by their definition, in loops: the geometry of `base.geometry`, worked out a second time.

A window is the list of cells that it meets.  PADDING stands for a cell of the padding, BEYOND for one past it, which
the last window under `ceil` may meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Windows = list[list[int]]
Places = tuple[Any, ...]  # one array of indices for every axis
PADDING, BEYOND = -1, -2


class Undefined(ValueError):
    """There are no such windows: the library must refuse them."""


def padding_of(name: str, size: int, span: int, stride: int) -> tuple[int, int]:
    """The cells that a named padding adds below and above."""
    outputs = -(-size // stride) if name.startswith("SAME") else size
    total = {"VALID": 0, "FULL": 2 * (span - 1)}.get(name, max(0, (outputs - 1) * stride + span - size))
    small, large = total // 2, total - total // 2
    return (large, small) if name == "SAME_LOWER" else (small, large)


def padded(size: int, low: int, high: int) -> list[int]:
    """An axis with its padding; a negative padding removes cells."""
    if size + low + high < 0:
        raise Undefined("padding removes more than there is")
    row = [PADDING] * low + list(range(size)) + [PADDING] * high
    return row[max(-low, 0) : len(row) - max(-high, 0)]


def sliding(size: int, window: int, stride: int, dilation: int, low: int, high: int, ceil: bool) -> Windows:
    """The window moves by strides for as long as it fits; `ceil`: once more where cells are left over, if it starts
    inside the input or the low padding."""
    if ceil and high < 0:
        raise Undefined("cells past a removed end")
    row, span, found, start = padded(size, low, high), (window - 1) * dilation + 1, [], 0
    while start + span <= len(row):
        found.append(row[start : start + span : dilation])
        start += stride
    left_over = len(row) - (start - stride + span) > 0
    if ceil and left_over and start < low + size:
        found.append((row + [BEYOND] * span)[start : start + span : dilation])
    return found


def adaptive(size: int, output: int) -> Windows:
    return [list(range(o * size // output, -(-(o + 1) * size // output))) for o in range(output)]


def per_axis(value: Any, axes: int) -> list[Any]:
    """An integer or a name stands for every axis."""
    return [value] * axes if isinstance(value, int | str) else list(value)


def all_windows(
    size: Sequence[int], window: Any, strides: Any, padding: Any, dilation: Any, ceil: bool = False
) -> list[Windows]:
    """The windows of every axis."""
    found = []
    options = (per_axis(value, len(size)) for value in (window, strides, dilation, padding))
    for s, k, t, d, p in zip(size, *options, strict=True):
        low, high = padding_of(p, s, (k - 1) * d + 1, t) if isinstance(p, str) else per_axis(p, 2)
        found.append(sliding(s, k, t, d, low, high, ceil))
    return found


def meetings(windows: Sequence[Windows]) -> tuple[Places, Places, Places]:
    """Every output, window element and cell that meet: three lists of places, equally long."""
    lines = [[(o, k, i) for o, w in enumerate(ws) for k, i in enumerate(w) if i >= 0] for ws in windows]
    table = np.array([*product(*lines)], np.int64).reshape(-1, len(windows), 3)
    output, element, cell = (tuple(table[:, a, role] for a in range(len(windows))) for role in range(3))
    return output, element, cell


def resizing(size: int, output: int, method: str, antialias: bool) -> npt.NDArray[np.float64]:
    """Weights of output i for input j: a triangle around the place of i, or 1 in the cell that it lies in."""
    matrix = np.zeros((output, size))
    width = max(Fraction(1), Fraction(size, output)) if antialias else Fraction(1)
    for i in range(output):
        place = Fraction((2 * i + 1) * size, 2 * output)  # of the cells' low sides at 0, 1, ...
        if method == "nearest":
            matrix[i, place.__floor__()] = 1
            continue
        row = [max(Fraction(0), 1 - abs(place - j - Fraction(1, 2)) / width) for j in range(size)]
        matrix[i] = [float(w / sum(row)) for w in row]
    return matrix
