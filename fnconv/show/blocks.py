"""What a page is made of: prose, formulas, equations, matrices, tables; and how much of it can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    """A general statement, in plain text and in LaTeX, and the labels of `fnconv.equations` that it goes by."""

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


@dataclass(frozen=True)
class Matrix:
    """The upper left corner of a matrix of `shape`; None is an entry that is structurally zero, such as padding."""

    name: str
    rows: tuple[tuple[Expression | None, ...], ...]
    shape: tuple[int, int]
    row_heads: tuple[str, ...] = ()
    column_heads: tuple[str, ...] = ()
    blank: str = "0"

    @property
    def cut(self) -> tuple[bool, bool]:
        """Whether rows and columns are left out."""
        return len(self.rows) < self.shape[0], len(self.rows[0] if self.rows else ()) < self.shape[1]


@dataclass(frozen=True)
class Row:
    """Matrices side by side, with signs such as * and = between them."""

    parts: tuple[Matrix | str, ...]


@dataclass(frozen=True)
class Table:
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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
) -> Matrix:
    """The readable corner of a matrix whose entries are given by a function."""
    rows = readable(shape[0], SPARSE_ROWS if sparse else ROWS)
    columns = readable(shape[1], SPARSE_COLUMNS if sparse else COLUMNS)
    entries = tuple(tuple(entry(i, j) for j in range(columns)) for i in range(rows))
    row_heads = tuple(map(row_head, range(rows))) if row_head else ()
    column_heads = tuple(map(column_head, range(columns))) if column_head else ()
    return Matrix(name, entries, shape, row_heads, column_heads, "·" if sparse else blank)
