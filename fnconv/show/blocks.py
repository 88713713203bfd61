"""What a page is made of: prose, formulas, equations, matrices, tables; and how much of it can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fnconv.show.symbols import Expression

# What can be read at once, and the corner that is shown where there is more.
EQUATIONS, TERMS, ROWS, COLUMNS, TENSORS = (36, 6), (25, 6), (16, 6), (16, 6), (4, 2)
SPARSE_ROWS, SPARSE_COLUMNS = (40, 12), (40, 24)
Limit = tuple[int, int]


def readable(total: int, limit: Limit) -> int:
    """All of it, or as much as the corner holds."""
    whole, corner = limit
    return total if total <= whole else corner


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Slip:
    """What a text prints otherwise."""

    text: str


@dataclass(frozen=True)
class Formula:
    """A general statement, in plain text and in LaTeX, and its labels in `textbook.equations`."""

    text: str
    latex: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Equation:
    """left = right (= value), element by element."""

    left: Expression
    right: Expression
    value: Expression | None = None


@dataclass(frozen=True)
class Equations:
    """The first equations of `total`."""

    rows: tuple[Equation, ...]
    total: int
    labels: tuple[str, ...] = ()


class Grid(NamedTuple):
    """A matrix as it is written: entries and heads, where there are any, and dots where something is left out.

    cut: whether columns are left out because they do not fit.
    """

    rows: list[list[str]]
    row_heads: list[str]
    column_heads: list[str]
    cut: bool


@dataclass(frozen=True)
class Matrix:
    """A part of a matrix of `shape`, as a rule its upper left corner; None is an entry that is structurally zero, such
    as padding.  `start` is the row and the column where the part begins."""

    name: str
    rows: tuple[tuple[Expression | None, ...], ...]
    shape: tuple[int, int]
    row_heads: tuple[str, ...] = ()
    column_heads: tuple[str, ...] = ()
    blank: str = "0"
    start: tuple[int, int] = (0, 0)

    @property
    def cut(self) -> tuple[bool, bool]:
        """Whether rows below and columns on the right are left out."""
        columns = len(self.rows[0] if self.rows else ())
        return self.start[0] + len(self.rows) < self.shape[0], self.start[1] + columns < self.shape[1]

    def grid(
        self,
        write: Callable[[Expression | None], str],
        fitting: Callable[[list[list[str]]], int] | None = None,
        dots: tuple[str, str] = ("⋯", "⋮"),
    ) -> Grid:
        """fitting: how many columns of these rows fit; dots: for columns and for rows."""
        (across, down), (short, narrow), (above, before) = dots, self.cut, map(bool, self.start)
        rows = [[across] * before + [write(e) for e in row] for row in self.rows]
        heads = ["", *self.column_heads] if before and self.column_heads else list(self.column_heads)
        shown = fitting([*rows, heads] if heads else rows) if fitting else len(rows[0])
        cut = shown < len(rows[0])
        rows = [row[:shown] + [across] * (narrow or cut) for row in rows]
        dotted = [[down] * len(rows[0])]
        row_heads = [*[""] * above, *self.row_heads, *[""] * short] if self.row_heads else []
        return Grid(dotted * above + rows + dotted * short, row_heads, heads[:shown], cut)

    def part(self, cut: bool = False) -> str:
        """What is said behind the name where it is not the whole; cut: whether still more is left out."""
        if not any((cut, *self.cut, *self.start)):
            return ""
        return f", {'a part' if any(self.start) else 'a corner'} of {self.shape[0]:,}×{self.shape[1]:,}"


@dataclass(frozen=True)
class Row:
    """Matrices side by side, with signs such as * and = between them."""

    parts: tuple[Matrix | str, ...]


@dataclass(frozen=True)
class Table:
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> set[int]:
        """The columns that are set flush left: the first, and those without numbers."""
        columns = enumerate(zip(*self.rows, strict=True))
        return {0, *(i for i, column in columns if not any(cell[:1].isdigit() for cell in column))}


Block = Prose | Slip | Formula | Equations | Matrix | Row | Table


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


def matrix(
    name: str,
    shape: tuple[int, int],
    entry: Callable[[int, int], Expression | None],
    *,
    row_head: Callable[[int], str] | None = None,
    column_head: Callable[[int], str] | None = None,
    sparse: bool = False,
    blank: str = "0",
    content: tuple[int, int] = (0, 0),
) -> Matrix:
    """The readable corner of a matrix whose entries are given by a function.

    content: row and column before which nothing is to be seen; where the corner ends before them, the part that is
    shown begins there.
    """
    limits = (SPARSE_ROWS, SPARSE_COLUMNS) if sparse else (ROWS, COLUMNS)
    corner = [readable(total, limit) for total, limit in zip(shape, limits, strict=True)]
    i0, j0 = start = tuple(at if at >= shown else 0 for at, shown in zip(content, corner, strict=True))
    rows, columns = (range(at, min(at + shown, total)) for at, shown, total in zip(start, corner, shape, strict=True))
    entries = tuple(tuple(entry(i, j) for j in columns) for i in rows)
    row_heads = tuple(map(row_head, rows)) if row_head else ()
    column_heads = tuple(map(column_head, columns)) if column_head else ()
    return Matrix(name, entries, shape, row_heads, column_heads, "·" if sparse else blank, (i0, j0))
