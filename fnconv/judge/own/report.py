"""The outcomes, added up by operation and rule; as rows, as JSON, and each failure in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fnconv.base.dtypes import FLOATS, unit_roundoff
from fnconv.judge.engine import report
from fnconv.judge.engine.report import short

ONLY = "-"  # the rule of an operation that has one only
AGREES, FAILS, INAPPLICABLE = "agrees", "FAILS", "n/a"
# short names of the dtypes, the one in which a failure tells most first
PREFERRED = [row.short for row in sorted(FLOATS.values(), key=lambda row: unit_roundoff(row.dtype))]


@dataclass(frozen=True, kw_only=True)
class OwnFailure(report.Failure):
    """A result that is wrong: of which operation, rule and map, in which geometry, and a guess at the cause.

    bound: None where every bit was due.
    """

    operation: str
    rule: str
    map: str
    geometry: str
    device: str
    guess: str = ""


@dataclass
class OwnRow(report.Row):
    """One operation under one rule.

    cases: geometries x dtypes x devices that ran; refused: those that the rule does not take.
    exact: bit for bit on integers, None where no integers leave the operation without rounding.
    ratio: worst float error over its bound.
    """

    operation: str
    rule: str
    cases: int = 0
    refused: int = 0
    exact: bool | None = None
    ratio: float = 0.0
    ulps_automatic: float = 0.0
    ulps_float64: float = 0.0
    failures: list[OwnFailure] = field(default_factory=list)
    refusal: str = ""

    def add(self, other: OwnRow) -> None:
        """The same operation and rule, elsewhere."""
        self.cases, self.refused = self.cases + other.cases, self.refused + other.refused
        self.exact = self.exact if other.exact is None else other.exact and self.exact is not False
        self.ratio = max(self.ratio, other.ratio)
        self.ulps_automatic = max(self.ulps_automatic, other.ulps_automatic)
        self.ulps_float64 = max(self.ulps_float64, other.ulps_float64)
        self.failures += other.failures
        self.refusal = other.refusal or self.refusal

    @property
    def verdict(self) -> str:
        if self.failures:
            return FAILS
        return AGREES if self.cases else INAPPLICABLE

    @property
    def ok(self) -> bool:
        return not self.failures

    def cells(self) -> tuple[str, ...]:
        bits = {True: "yes", False: "NO", None: "-"}[self.exact]
        numbers = str(self.cases), str(self.refused or ""), bits, short(self.ratio, ".3f")
        return self.operation, self.rule, *numbers, self.verdict


@dataclass(frozen=True)
class OwnReport(report.Report):
    """Everything that was found."""

    headings = ("operation", "rule", "cases", "n/a", "bits", "error/bound", "verdict")
    left = (0, 1, 6)
    spare = (3,)

    rows: tuple[OwnRow, ...]
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]

    @property
    def lines(self) -> Sequence[OwnRow]:
        return self.rows

    def summary(self) -> str:
        """One line; a rule is counted once for each operation."""
        operations = len({row.operation for row in self.rows})
        rules = len({(row.operation, row.rule) for row in self.rows})
        cases, refused = sum(row.cases for row in self.rows), sum(row.refused for row in self.rows)
        failed = [row for row in self.rows if row.failures]
        verdict = f"{len(failed)} of {rules} rules FAIL" if failed else "all agree"
        aside = f" ({refused} more not applicable: the rule refuses the geometry)" if refused else ""
        return f"{operations} operations, {rules} rules, {cases} cases{aside}: {verdict}"

    def facts(self) -> dict[str, Any]:
        rows = [asdict(row) | {"verdict": row.verdict} for row in self.rows]
        head = {"ok": self.ok, "summary": self.summary(), "dtypes": self.dtypes, "devices": self.devices}
        return head | {"rows": rows}


def describe_failures(row: OwnRow) -> str:
    """The failures of one row in words: for each argument the most telling one, and how many more there are."""
    lines = [f"{row.operation}, rule {row.rule}: {len(row.failures)} failures in {row.cases} cases"]
    for argument in dict.fromkeys(f.argument for f in row.failures):
        failures = sorted((f for f in row.failures if f.argument == argument), key=_telling)
        lines += _describe_one(failures[0], len(failures))
    return "\n".join(lines)


def _describe_one(failure: OwnFailure, count: int) -> list[str]:
    head = f"  {failure.argument} (map {failure.map}), {failure.dtype} on {failure.device}, {failure.data}"
    if count > 1:
        head += f"; {count - 1} more like it"
    lines = [head, f"    geometry  {failure.geometry}"]
    if failure.index is not None:
        due = "every bit was due" if failure.bound is None else f"the bound is {failure.bound:.3g}"
        lines.append(
            f"    element   {failure.argument}{list(failure.index)}: got {failure.got:.9g}, want {failure.want:.9g}; "
            f"{due}; {failure.wrong} of {failure.of} entries are wrong"
        )
    return [*lines, f"    guess     {failure.guess}"]


def _telling(failure: OwnFailure) -> tuple[bool, bool, int, int]:
    """Patterns recognised before those that are not, integers before floats, wide types, small arrays."""
    vague = failure.guess.startswith(("no known pattern", "rounding only"))
    return vague, failure.bound is not None, PREFERRED.index(failure.dtype), failure.of
