"""`fnconv check --fuzz`: random operations against their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fnconv.cli.outcome import check_folder, console, judge, refuse, table, told, working, write

DEVICES = 8


def fuzz_command(amount: str, seed: int, operations: Sequence[str] | None, json_file: Path | None) -> None:
    """Fuzz for a time or a number of cases; status 1 if anything is wrong."""
    import jax

    with suppress(RuntimeError):  # where JAX runs already, on as many devices as it has
        jax.config.update("jax_num_cpu_devices", DEVICES)  # type: ignore[no-untyped-call]
    from fnconv.judge.fuzz.run import check_operations, fuzz, read_amount

    check_folder("check", json_file)
    try:
        seconds, cases = read_amount(amount)
        check_operations(operations or ())
    except ValueError as error:
        raise refuse("check", told(error, {"amount": "--fuzz", "operations": "--op"})) from None
    with working("compiling") as update:

        def progress(done: int, elapsed: float, operation: str) -> None:
            share = max(done / cases, elapsed / seconds)
            update(f"{done} cases, {operation}", int(1000 * min(1.0, share)), 1000)

        report = fuzz(seconds=seconds, cases=cases, seed=seed, operations=operations or (), progress=progress)
    write("check", json_file, report)
    shown = console(json_file)
    shown.print(table(report, shown.width))
    for failure, script in zip(report.failures, report.scripts, strict=False):
        shown.print(f"# {failure.problem.operation}, order {failure.order}: {failure.message}\n", soft_wrap=True)
        shown.print(script + "\n", soft_wrap=True)
    judge(report, shown, report.summary())
