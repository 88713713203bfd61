"""What `check_vjp` found: a row for each check, and each failure in words."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from typing import Any

from fnconv.judge.engine.jsonable import jsonable

PASSES, FAILS, WARNS, SKIPPED = "passes", "FAILS", "warns", "not run"
WIDTH = 100


@dataclass(frozen=True)
class Failure:
    """One disagreement: which result, on which data, its worst element, and a guess at the cause.

    check: the row that it belongs to.  argument: the argument whose cotangent is wrong, or "value" for a result.
    index, got, want: the worst element; None where the whole is wrong, as a dtype.
    error: |got - want|; bound: what rounding explains; ratio: error over bound (inf where no rounding is allowed).
    wrong, of: how many elements are beyond their bounds, of how many.
    """

    check: str
    argument: str
    diagnosis: str
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

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.dtype, self.data) if part)
        what = "value" if self.argument.startswith("value") else f"cotangent of {self.argument}"
        lines = [f"{self.check}: {what if self.argument else 'the rule'}" + (f" ({where})" if where else "")]
        if self.index is not None and self.got is not None and self.want is not None:
            name = self.argument if self.argument.startswith("value") else f"d{self.argument}"
            element = f"{name}{list(self.index) if self.index else ''}"
            lines.append(f"  element    {element}: got {self.got:.9g}, want {self.want:.9g}")
            lines.append(f"  error      {_size(self)}; {self.wrong} of {self.of} elements are wrong")
        lines.append(f"  diagnosis  {self.diagnosis}")
        return "\n".join(lines)


def _size(failure: Failure) -> str:
    if not failure.bound:
        return f"{failure.error:.3g} where nothing is rounded"
    return f"{failure.error:.3g}, {failure.ratio:.3g} times what rounding explains"


@dataclass
class Row:
    """One check: what came of it.

    ratio: worst error over its bound; None where the check compares no numbers.
    """

    check: str
    status: str = PASSES
    ratio: float | None = None
    detail: str = ""


@dataclass
class Report:
    """Everything that was found; `print` shows a table and the failures.

    notes: facts that are no failures, such as another convention at a kink.
    cost: residual bytes, operations and temporaries of the rule and of automatic differentiation.
    """

    function: str
    level: str
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return not self.failures

    def row(self, check: str) -> Row:
        """The row of a check, made where there is none."""
        for row in self.rows:
            if row.check == check:
                return row
        self.rows.append(Row(check))
        return self.rows[-1]

    def fail(self, failure: Failure) -> None:
        """Note a failure, once for each check and argument."""
        self.row(failure.check).status = FAILS
        if not any((f.check, f.argument) == (failure.check, failure.argument) for f in self.failures):
            self.failures.append(failure)

    def warn(self, check: str, text: str) -> None:
        """Note what is no failure but should be known."""
        row = self.row(check)
        if row.status == PASSES:
            row.status = WARNS
        if text not in self.notes:
            self.notes.append(text)

    def skip(self, check: str, why: str) -> None:
        """A check that could not run."""
        row = self.row(check)
        row.status, row.detail = SKIPPED, why

    def summary(self) -> str:
        """One line."""
        ran = [row for row in self.rows if row.status != SKIPPED]
        if self.ok:
            return f"{self.function}: {len(ran)} checks, all pass ({self.seconds:.1f} s)"
        bad = ", ".join(row.check for row in self.rows if row.status == FAILS)
        return f"{self.function}: FAILS in {bad} ({self.seconds:.1f} s)"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; infinities and NaN as strings."""
        plain: dict[str, Any] = jsonable({"ok": self.ok, "summary": self.summary()} | asdict(self))
        return plain

    def __str__(self) -> str:
        width = max((len(row.check) for row in self.rows), default=0)
        lines = [f"{'check':<{width}}  verdict  error/bound  "]
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
            lines.append(f"{row.check:<{width}}  {row.status:<7}  {ratio:>11}  {row.detail}".rstrip())
        told: dict[str, str] = {}
        for failure in self.failures:
            if failure.argument and failure.argument in told:
                lines += ["", f"{failure.check}: {failure.argument} as well, as in {told[failure.argument]}"]
            else:
                lines += ["", str(failure)]
            told.setdefault(failure.argument, failure.check)
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, "", self.summary()])

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        cells = []
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
            words = "".join(f"<td>{html.escape(text)}</td>" for text in (row.check, row.status, ratio, row.detail))
            cells.append(f"<tr>{words}</tr>")
        head = "<tr><th>check</th><th>verdict</th><th>error/bound</th><th></th></tr>"
        failures = "".join(f"<pre>{html.escape(str(f))}</pre>" for f in self.failures)
        return f"<table>{head}{''.join(cells)}</table>{failures}<p>{html.escape(self.summary())}</p>"
