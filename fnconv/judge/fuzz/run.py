"""Fuzzing for so many seconds, or so many cases, and the report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import jax

from fnconv.judge.engine import report
from fnconv.judge.fuzz.draw import DRAWS, problem
from fnconv.judge.fuzz.judge import FuzzFailure, Judged, judge
from fnconv.judge.fuzz.shrink import script, shrink

SHOWN = 8  # failures of different kinds that are shrunk and shown
FORGET = 150  # programs after which compiled ones are forgotten: each holds memory maps, of which there are not many
COUNTED = ("operation", "rule", "dtype", "order", "transformation", "data")

Progress = Callable[[int, float, str], None]  # cases, seconds, the operation


@dataclass
class FuzzRow(report.Row):
    """The cases, counted by one of their properties."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    ok = True

    def cells(self) -> tuple[str, ...]:
        return self.name, ", ".join(f"{value} {count}" for value, count in self.counts.most_common())


@dataclass
class FuzzReport(report.Report):
    """failures: the first of each kind; failed: how many there were of each.

    vague: results that are not counted as cases, because their bounds exceed their values.
    """

    headings = ("", "cases")
    left = (0, 1)

    seed: int
    cases: int = 0
    programs: int = 0
    vague: int = 0
    seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    rows: dict[str, FuzzRow] = field(default_factory=lambda: {name: FuzzRow(name) for name in COUNTED})
    failures: list[FuzzFailure] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    scripts: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def lines(self) -> Sequence[FuzzRow]:
        return list(self.rows.values())

    def add(self, judged: Judged) -> None:
        p = judged.problem
        self.programs += 1
        self.cases += len(judged.cases)
        self.vague += judged.vague
        if judged.refused:
            self.refused[p.operation] += 1
        for order, kind in judged.cases:
            for row, value in zip(self.lines, (p.operation, p.rule, p.dtype, str(order), p.way, kind), strict=True):
                row.counts[value] += 1
        for f in judged.failures:
            kind = signature(f)
            if kind not in self.failed:
                self.failures.append(f)
            self.failed[kind] += 1

    def summary(self) -> str:
        """One line."""
        found = f"{sum(self.failed.values())} of them wrong, in {len(self.failed)} ways" if self.failed else "all right"
        head = "FAILED" if self.failed else "OK"
        amount = f"{self.cases} cases of {self.programs} programs in {self.seconds:.0f} s"
        return f"{head}: {amount}, seed {self.seed}: {found}"

    def facts(self) -> dict[str, Any]:
        """All counts and failures."""
        plain = ("ok", "seed", "cases", "programs", "vague", "seconds", "refused", "failed", "scripts")
        failures = [
            {"problem": f.problem.to_json(), "data": f.data, "order": f.order, "message": f.message}
            for f in self.failures
        ]
        counts = {row.name: row.counts for row in self.lines}
        return {name: getattr(self, name) for name in plain} | {"counts": counts, "failures": failures}


def signature(f: FuzzFailure) -> str:
    """Failures that are probably one."""
    dtype = f.dtype if f.problem.integer else "float"
    return f"{f.problem.operation}, rule {f.problem.rule}, {dtype}, order {f.order}, data {f.data}"


def read_amount(text: str) -> tuple[float, float]:
    """(seconds, cases) of "60s", "10m", "1h" or a number of cases; the other one is infinite."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "")
    if not number.isdecimal() or int(number) == 0:
        raise ValueError(f"fuzz: amount must be a time such as 60s, 10m, 1h, or a number of cases; got {text!r}")
    return (float(int(number) * units[unit]), float("inf")) if unit else (float("inf"), float(number))


def check_operations(operations: Sequence[str]) -> None:
    unknown = [name for name in operations if name not in DRAWS]
    if unknown:
        raise ValueError(f"fuzz: operations must be among {', '.join(DRAWS)}; got {', '.join(unknown)}")


def fuzz(
    *,
    seconds: float = float("inf"),
    cases: float = float("inf"),
    seed: int = 0,
    operations: Sequence[str] = (),
    progress: Progress | None = None,
    shrinking: bool = True,
) -> FuzzReport:
    """Draw and judge until the time or the number of cases is reached; then shrink what failed."""
    check_operations(operations)
    found, start, devices = FuzzReport(seed), time.monotonic(), len(jax.devices("cpu"))
    while max(found.cases, found.programs) < cases and time.monotonic() - start < seconds:
        p = problem(Random(f"{seed}/{found.programs}"), operations, devices)
        found.add(judge(p))
        found.seconds = round(time.monotonic() - start, 1)
        if found.programs % FORGET == 0:
            jax.clear_caches()  # type: ignore[no-untyped-call]
        if progress is not None:
            progress(found.cases, found.seconds, p.operation)
    if shrinking:
        found.scripts = [script(shrink(f)) for f in found.failures[:SHOWN]]
    return found
