"""What `check_vjp` or `check_jvp` found: a row for each check, and each failure in words."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fnconv.judge.engine import report

PASSES, FAILS, WARNS, SKIPPED = "passes", "FAILS", "warns", "not run"


@dataclass(frozen=True, kw_only=True)
class RuleFailure(report.Failure):
    """One disagreement: which result, on which data, its worst entry, and a guess at the cause.

    check: the row that it belongs to.  argument: the argument whose cotangent is wrong, or "value" for a result; in
    forward mode "tangent" for the tangent of a result.
    """

    check: str
    diagnosis: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.dtype, self.data) if part)
        of_result = self.argument.partition("[")[0] in ("value", "tangent")
        what = self.argument if of_result else f"cotangent of {self.argument}"
        lines = [f"{self.check}: {what if self.argument else 'the rule'}" + (f" ({where})" if where else "")]
        if self.index is not None:
            element = ("" if of_result else "d") + self.argument + (str(list(self.index)) if self.index else "")
            lines.append(f"  element    {element}: got {self.got:.9g}, want {self.want:.9g}")
            size = f", {self.ratio:.3g} times what rounding explains" if self.bound else " where nothing is rounded"
            lines.append(f"  error      {self.error:.3g}{size}; {self.wrong} of {self.of} elements are wrong")
        return "\n".join([*lines, f"  diagnosis  {self.diagnosis}"])


@dataclass
class Check(report.Row):
    """What came of one check.

    ratio: worst error over its bound; None where the check compares no numbers.
    """

    check: str
    status: str = PASSES
    ratio: float | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.status != FAILS

    def cells(self) -> tuple[str, ...]:
        return self.check, self.status, "" if self.ratio is None else f"{self.ratio:.3g}", self.detail

    def reach(self, ratio: float) -> None:
        """Take note of an error over its bound."""
        self.ratio = max(self.ratio or 0.0, ratio)


@dataclass
class RuleReport(report.Report):
    """Everything that was found; `print` shows a table and the failures.

    derivative: what was judged, "cotangent" or "tangent"; the checks are written for cotangents.
    notes: facts that are no failures, such as another convention at a kink.
    cost: residual bytes, operations and temporaries of the rule and of automatic differentiation.
    """

    headings = ("check", "verdict", "error/bound", "")
    left = (0, 1, 3)

    function: str
    level: str
    derivative: str = "cotangent"
    rows: list[Check] = field(default_factory=list)
    failures: list[RuleFailure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def lines(self) -> Sequence[Check]:
        return self.rows

    def row(self, check: str) -> Check:
        """The row of a check, made where there is none."""
        check = self._said(check)
        for row in self.rows:
            if row.check == check:
                return row
        self.rows.append(Check(check))
        return self.rows[-1]

    def fail(self, check: str, argument: str, diagnosis: str, data: str = "", dtype: str = "", **worst: Any) -> None:
        """Note a failure, once for each check and argument."""
        row, diagnosis = self.row(check), self._said(diagnosis)
        row.status = FAILS
        if worst.get("ratio") is not None:
            row.reach(worst["ratio"])
        if not any((f.check, f.argument) == (row.check, argument) for f in self.failures):
            self.failures.append(
                RuleFailure(check=row.check, argument=argument, diagnosis=diagnosis, data=data, dtype=dtype, **worst)
            )

    def warn(self, check: str, text: str) -> None:
        """Note what is no failure but should be known."""
        row = self.row(check)
        if row.status == PASSES:
            row.status = WARNS
        self.note(text)

    def note(self, text: str) -> None:
        """Note a fact, once."""
        text = self._said(text)
        if text not in self.notes:
            self.notes.append(text)

    def skip(self, check: str, why: str) -> None:
        """A check that could not run."""
        row = self.row(check)
        row.status, row.detail = SKIPPED, self._said(why)

    def _said(self, text: str) -> str:
        return text.replace("cotangent", self.derivative)

    def summary(self) -> str:
        left = [row.check for row in self.rows if row.status == SKIPPED]
        if self.ok:
            rest = f"; not run: {', '.join(left)}" if left else ""
            return f"{self.function}: {len(self.rows) - len(left)} checks, all pass{rest} ({self.seconds:.1f} s)"
        bad = ", ".join(row.check for row in self.rows if not row.ok)
        return f"{self.function}: FAILS in {bad} ({self.seconds:.1f} s)"

    def facts(self) -> dict[str, Any]:
        return {"ok": self.ok, "summary": self.summary()} | asdict(self)

    def __str__(self) -> str:
        return "\n".join([*self.table(), *self.below()])

    def below(self) -> list[str]:
        """What stands below the table."""
        lines: list[str] = []
        told: dict[str, str] = {}
        for failure in self.failures:
            if failure.argument and failure.argument in told:
                lines += ["", f"{failure.check}: {failure.argument} as well, as in {told[failure.argument]}"]
            else:
                lines += ["", str(failure)]
            told.setdefault(failure.argument, failure.check)
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return [*lines, "", self.summary()]

    def _repr_html_(self) -> str:
        failures = "".join(f"<pre>{html.escape(str(f))}</pre>" for f in self.failures)
        return f"{self.html_table()}{failures}<p>{html.escape(self.summary())}</p>"
