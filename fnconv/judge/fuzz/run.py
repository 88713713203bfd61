"""Fuzzing for so many seconds, or so many cases, and the report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import jax

from fnconv.judge.fuzz.draw import DRAWS, Problem, problem
from fnconv.judge.fuzz.judge import Failure, Judged, judge
from fnconv.judge.fuzz.shrink import script, shrink

SHOWN = 8  # failures of different kinds that are shrunk and shown
FORGET = 150  # programs after which compiled ones are forgotten: each holds memory maps, of which there are not many

Progress = Callable[[int, float, str], None]  # cases, seconds, the operation


@dataclass
class Report:
    seed: int
    cases: int = 0
    programs: int = 0
    seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)  # the first of each kind
    failed: Counter[str] = field(default_factory=Counter)  # how many of each kind
    scripts: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures

    def add(self, judged: Judged) -> None:
        p = judged.problem
        self.programs += 1
        self.cases += len(judged.cases)
        if judged.refused:
            self.refused[p.operation] += 1
        for order, kind in judged.cases:
            entry = {"operation": p.operation, "rule": p.rule, "dtype": p.dtype, "order": str(order)}
            for name, value in (entry | {"transformation": p.way, "data": kind}).items():
                self.counts.setdefault(name, Counter())[value] += 1
        for f in judged.failures:
            kind = signature(f)
            if kind not in self.failed:
                self.failures.append(f)
            self.failed[kind] += 1

    def summary(self) -> str:
        found = f"{sum(self.failed.values())} of them wrong, in {len(self.failed)} ways" if self.failed else "all right"
        head = "FAILED" if self.failed else "OK"
        amount = f"{self.cases} cases of {self.programs} programs in {self.seconds:.0f} s"
        return f"{head}: {amount}, seed {self.seed}: {found}"

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "seed": self.seed,
            "cases": self.cases,
            "programs": self.programs,
            "seconds": round(self.seconds, 1),
            "refused": dict(self.refused),
            "counts": {name: dict(counter) for name, counter in self.counts.items()},
            "failed": dict(self.failed),
            "failures": [
                {"problem": f.problem.to_json(), "data": f.kind, "order": f.order, "message": f.message}
                for f in self.failures
            ],
            "scripts": self.scripts,
        }


def signature(f: Failure) -> str:
    """Failures that are probably one."""
    dtype = f.problem.dtype if f.problem.integer else "float"
    return f"{f.problem.operation}, rule {f.problem.rule}, {dtype}, order {f.order}, data {f.kind}"


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
) -> Report:
    """Draw and judge until the time or the number of cases is reached; then shrink what failed."""
    check_operations(operations)
    report, start, number = Report(seed), time.monotonic(), 0
    devices = len(jax.devices("cpu"))
    while max(report.cases, report.programs) < cases and time.monotonic() - start < seconds:
        p: Problem = problem(Random(f"{seed}/{number}"), operations, devices)
        report.add(judge(p))
        report.seconds = time.monotonic() - start
        number += 1
        if number % FORGET == 0:
            jax.clear_caches()  # type: ignore[no-untyped-call]
        if progress is not None:
            progress(report.cases, report.seconds, p.operation)
    if shrinking:
        report.scripts = [script(shrink(f)) for f in report.failures[:SHOWN]]
    return report
