"""What every judge reports: rows with a verdict each, and failures with the entry that is worst.

`fnconv check` has a row for each rule of an operation, `check_vjp` for each check, `compare` for each array.
"""

from __future__ import annotations

import html
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

# ---- rows, failures, reports ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One result that is wrong.

    argument: the result, or the argument whose cotangent it is.  data, dtype: what it was tried with.
    index, got, want: the worst entry; None where the whole is wrong, as a dtype.
    error: |got - want|; bound: what rounding explains, 0 or None where every bit was due; ratio: error over bound.
    wrong, of: how many entries are wrong, of how many.
    """

    argument: str
    data: str = ""
    dtype: str = ""
    index: tuple[int, ...] | None = None
    got: float | None = None
    want: float | None = None
    error: float | None = None
    bound: float | None = None
    ratio: float | None = None
    wrong: int = 0
    of: int = 0


class Row:
    """One line of a report."""

    verdict: Any  # a word

    @property
    @abstractmethod
    def ok(self) -> bool:
        """Whether nothing is wrong."""

    @abstractmethod
    def cells(self) -> tuple[str, ...]:
        """The words of the line."""


class Report:
    """Rows as a table, in text and HTML, with what else there is to say; `facts` as JSON.

    headings: of the columns; left: the positions of those that are aligned to the left.
    spare: columns that a narrow terminal can do without, the least wanted first.
    """

    headings: ClassVar[tuple[str, ...]]
    left: ClassVar[tuple[int, ...]]
    spare: ClassVar[tuple[int, ...]] = ()

    @property
    @abstractmethod
    def lines(self) -> Sequence[Row]:
        """All rows."""

    @abstractmethod
    def summary(self) -> str:
        """One line."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Everything that was found."""

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return all(row.ok for row in self.lines)

    def table(self) -> list[str]:
        """The rows below their headings."""
        rows = [self.headings, *(row.cells() for row in self.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.headings))]
        return [
            "  ".join(
                c.ljust(w) if i in self.left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]

    def html_table(self, style: Callable[[Row], str] = lambda row: "") -> str:
        """For notebooks."""

        def line(cells: Sequence[str], tag: str, style: str = "") -> str:
            return f"<tr{style}>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line(row.cells(), "td", style(row)) for row in self.lines)
        return f"<table><thead>{line(self.headings, 'th')}</thead><tbody>{body}</tbody></table>"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; infinities and NaN as strings."""
        plain: dict[str, Any] = jsonable(self.facts())
        return plain


def jsonable(value: Any) -> Any:
    """The value with lists for tuples, and words for numbers that are not finite, of which JSON has none.

    >>> jsonable({"worst": (1.5, float("inf"))})
    {'worst': [1.5, 'inf']}
    """
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def short(number: float, form: str) -> str:
    """In a column of a table."""
    return format(number, form if number < 1e5 else ".0e")
