"""How often `fnconv.check_vjp` objects to right rules.

    python -m benchmarks.false_alarms

runs it on the right rule of every operation of the tests' catalogue, in four dtypes, with arguments of five scales from
1e-3 to 1e3, and writes benchmarks/results/false_alarms.md.  Each run tries, besides the arguments given, normal floats,
1e-3 and 1e3 times as large ones, magnitudes side by side, ties, zeros of both signs, a first argument of zeros, and
integers.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import FLOATS
from fnconv.judge.rule.run import prepare, run_checks

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from vjp_bugs import OPERATIONS  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "false_alarms.md"
DTYPES = tuple(sorted(row.name for row in FLOATS.values()))
SCALES = (1e-3, 1.0, 1e3, 0.1, 30.0)
ROUNDS = 18


class Run(NamedTuple):
    """One call of the judge on a right rule; alarm is empty where it passed."""

    operation: str
    dtype: str
    scale: float
    seed: int
    alarm: str
    broken: tuple[str, ...]  # checks that ended in an error


def runs(names: Iterable[str], dtypes: Iterable[str], rounds: int) -> Iterator[Run]:
    """Each rule is compiled once for a dtype, with second derivatives and transformations, and tried on many draws."""
    for name in names:
        for dtype in dtypes:
            wide = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
            with wide, jax.numpy_dtype_promotion("standard"):
                yield from _of(name, dtype, rounds)


def _of(name: str, dtype: str, rounds: int) -> Iterator[Run]:
    plan, trial = OPERATIONS[name], None
    for seed in range(rounds):
        scale = SCALES[seed % len(SCALES)]
        args = plan.args(np.random.default_rng(seed), jnp.dtype(dtype), scale)
        fresh = prepare(plan.right(), args, {}, None, "quick", seed)
        if trial is None:
            trial, order = fresh, 2
        else:  # the same programs on other numbers
            trial.call, trial.report, trial.seed, order = fresh.call, fresh.report, seed, 1
        report = run_checks(trial, order, transformations=seed == 0)
        broken = tuple(row.detail for row in report.rows if "ended in" in row.detail)
        yield Run(name, dtype, scale, seed, "" if report.ok else str(report.failures[0]), broken)


def main() -> None:
    """Run everything and write the table."""
    start, found = time.process_time(), []
    for run in runs(OPERATIONS, DTYPES, ROUNDS):
        found.append(run)
        if run.seed == 0 or run.alarm:
            print(*run, flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(table(found, time.process_time() - start))


def table(found: list[Run], seconds: float) -> str:
    """Markdown: how many runs, how many alarms, for each operation and dtype; and the alarms in words."""
    count: Counter[Any] = Counter((r.operation, r.dtype) for r in found)
    alarms: Counter[Any] = Counter((r.operation, r.dtype) for r in found if r.alarm)
    operations, dtypes = list(dict.fromkeys(r.operation for r in found)), list(dict.fromkeys(r.dtype for r in found))
    lines = [
        "# Alarms of check_vjp on right rules",
        "",
        f"{sum(alarms.values())} alarms in {len(found)} runs, {seconds:.0f} s of CPU time; JAX {jax.__version__}; "
        "`python -m benchmarks.false_alarms`.",
        "",
        f"Arguments of the scales {', '.join(f'{s:g}' for s in SCALES)}; each run tries normal floats, 1e-3 and 1e3 "
        "times as large ones, magnitudes side by side,",
        "ties, zeros of both signs, a first argument of zeros, and integers. Alarms / runs:",
        "",
        f"| | {' | '.join(dtypes)} |",
        f"|---|{'---:|' * len(dtypes)}",
        *(f"| {o} | {' | '.join(f'{alarms[o, d]} / {count[o, d]}' for d in dtypes)} |" for o in operations),
    ]
    lines += [f"\n{r.operation}, {r.dtype}, scale {r.scale:g}, seed {r.seed}: {r.alarm}" for r in found if r.alarm]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
