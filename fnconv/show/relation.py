"""The index tables read in three directions: which cells a window covers, which windows cover a cell.

Everything that a page prints element by element comes from here, and this from `geometry`'s table of one axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

import numpy as np

from fnconv.base.errors import invalid
from fnconv.base.geometry import AnyAxis, Axis, outputs, sizes, volume, windows
from fnconv.show.blocks import Limit, readable

Index = tuple[int, ...]
MOST_PAIRS = 2**24  # entries of an index table


@dataclass(frozen=True)
class Pairs:
    """Pairs of indices, put together from pairs of positions along each axis."""

    along: tuple[Sequence[tuple[int, int]], ...]

    def __len__(self) -> int:
        return prod(map(len, self.along))

    def __iter__(self) -> Iterator[tuple[Index, Index]]:
        for combination in product(*self.along):
            yield tuple(a for a, _ in combination), tuple(b for _, b in combination)


class Relation:
    """Output o meets window element k at cell i: the map m of Wei (2.14)-(2.17) and its inverse, without channels."""

    def __init__(self, axes: Sequence[AnyAxis]) -> None:
        self.input, self.window, self.output = sizes(axes), windows(axes), outputs(axes)
        for o, k in zip(self.output, self.window, strict=True):
            if o * k > MOST_PAIRS:
                rule = f"must have at most {MOST_PAIRS} pairs of an output and a window element along an axis"
                raise invalid("show", "input", rule, o * k)
        self._met = [np.where(a.valid(), a.positions(), -1) for a in axes]

    def cell(self, o: Index, k: Index) -> Index | None:
        """The cell that window element k of output o lies on; None in the padding."""
        i = tuple(int(met[at]) for met, at in zip(self._met, zip(o, k, strict=True), strict=True))
        return None if -1 in i else i

    def of_output(self, o: Sequence[int]) -> Pairs:
        """(k, i) of every cell that output o is computed from."""
        return Pairs(tuple(_met(m[j]) for m, j in zip(self._met, o, strict=True)))

    def of_cell(self, i: Sequence[int]) -> Pairs:
        """(o, k) of every place where cell i is used: m^-1, the terms of Wei (2.30)."""
        places = (np.argwhere(m == j).tolist() for m, j in zip(self._met, i, strict=True))
        return Pairs(tuple([(o, k) for o, k in along] for along in places))

    def of_element(self, k: Sequence[int]) -> Pairs:
        """(o, i) of every output to which window element k brings a cell."""
        return Pairs(tuple(_met(m[:, j]) for m, j in zip(self._met, k, strict=True)))

    def first_output(self, k: Index | None = None) -> Index:
        """The first output that meets a cell, in any order of counting; with window element k where that is given.

        Outputs before it lie on padding.  Zeros where none meets one.
        """
        met = [m >= 0 if k is None else m[:, [at]] >= 0 for m, at in zip(self._met, k or self.output, strict=True)]
        return tuple(int(np.argmax(m.any(axis=1))) for m in met)

    @property
    def unused(self) -> int:
        """Cells that no window covers."""
        used = [len(np.unique(m[m >= 0])) for m in self._met]
        return int(np.prod(self.input)) - int(np.prod(used))


def _met(line: np.ndarray) -> list[tuple[int, int]]:
    """The places of a line of the index table that are no padding, each with its cell."""
    return [(at, i) for at, i in enumerate(line.tolist()) if i >= 0]


def cell_formula(axis: Axis, output: str, element: str) -> str:
    """The 1-based cell on which 1-based output and window element meet: "2i+a-1"."""
    constant = 1 - axis.stride - axis.dilation - axis.low
    factors = ((axis.stride, output), (axis.dilation, element))
    terms = "+".join(f"{factor}{letter}" if factor > 1 else letter for factor, letter in factors)
    return terms + (f"{constant:+d}" if constant else "")


def unravel(position: int, shape: Index) -> Index:
    """The index of a position in vec, which counts column-major: the first axis runs fastest."""
    index = []
    for extent in shape:
        position, at = divmod(position, extent)
        index.append(at)
    return tuple(index)


def ravel(index: Index, shape: Index) -> int:
    """The inverse of `unravel`."""
    position = 0
    for at, extent in zip(index[::-1], shape[::-1], strict=True):
        position = position * extent + at
    return position


def first(shape: Index, limit: Limit) -> Iterator[Index]:
    """The indices of a shape in reading order, as many as can be read."""
    yield from islice(np.ndindex(*shape), readable(volume(shape), limit))
