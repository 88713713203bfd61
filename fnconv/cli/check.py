"""`fnconv check`: manual gradients against automatic ones; with a file, a rule of the user's own."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fnconv.cli.check_vjp import ARGS, check_file
from fnconv.cli.outcome import check_folder, refuse, write

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fnconv.judge.own import Report
    from fnconv.judge.own.run import Job

WIDTH = 100  # where the terminal does not tell its own
LEGEND = """\
cases     geometries x dtypes x devices; n/a: those that the rule refuses, with an error of its own
bits      value and every gradient are autodiff's and float64's, bit for bit, on integers that leave
          nothing to round; "-" where the operation always rounds
error     worst |result - float64| over the a-priori bound on rounding errors: at most 1
ulp       worst distance in units in the last place, for information: large where terms cancel, as
          in autodiff's own 1 - tanh^2; against float64, that of the narrower types
autodiff  jax.vjp of plain JAX, which goes around JAX's gradients where they are wrong or missing:
          conv pads first (paddings as large as the kernel), dilated and column-major max pooling
          stack slices"""

Names = list[str] | None


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE.py:FUNCTION]", help="A function of yours whose gradient to check.", show_default=False
        ),
    ] = None,
    op: Annotated[Names, typer.Option(help="Check this operation; may be repeated, or several with commas.")] = None,
    rule: Annotated[Names, typer.Option(help="Check this rule, of those that fnconv.available_rules() lists.")] = None,
    dtype: Annotated[Names, typer.Option(help="f32, f16, bf16 or f64.")] = None,
    device: Annotated[Names, typer.Option(help="cpu, gpu or tpu; all that are present by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The few most telling geometries alone.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was found as JSON.")
    ] = None,
    args: Annotated[
        str,
        typer.Option(
            metavar="FUNCTION",
            help="With FILE.py:FUNCTION: a function of the same file, or FILE.py:FUNCTION, that returns the arguments.",
        ),
    ] = ARGS,
    reference: Annotated[
        str | None,
        typer.Option(metavar="FUNCTION", help="With FILE.py:FUNCTION: a plain function to differentiate instead."),
    ] = None,
    level: Annotated[str, typer.Option(help="With FILE.py:FUNCTION: quick or full.")] = "quick",
) -> None:
    """Compare manual with automatic gradients, for every operation, rule and dtype.

    With FILE.py:FUNCTION, judge the custom gradient of that function instead, as fnconv.check_vjp does.
    Ends with status 1 if anything disagrees.
    """
    if target is not None:
        mine = {"--op": op, "--rule": rule, "--dtype": dtype, "--device": device, "--quick": quick}
        unused = [name for name, value in mine.items() if value]
        if unused:
            raise refuse("check", f"{', '.join(unused)}: for fnconv's own operations, not with FILE.py:FUNCTION")
        check_folder("check", json_file)
        check_file(target, args, reference, level, json_file)
        return
    if args != ARGS or reference is not None or level != "quick":
        raise refuse("check", "--args, --reference and --level need FILE.py:FUNCTION")
    from rich.console import Console

    from fnconv.judge.own import describe, plan
    from fnconv.judge.own.programs import compilation_cache

    try:
        jobs = plan(_names(op), _names(rule), _names(dtype), _names(device), quick=quick)
    except ValueError as error:
        raise refuse("check", str(error).removeprefix("check: ")) from None
    check_folder("check", json_file)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    with compilation_cache():
        report = _run(console, jobs)
    write("check", json_file, report)
    console.print(_table(report))
    console.print(LEGEND, style="dim", highlight=False, markup=False)
    for row in report.rows:
        if row.failures:
            console.print("\n" + describe(row), highlight=False, markup=False, soft_wrap=True)
    style = "bold green" if report.ok else "bold red"
    console.print("\n" + report.summary(), style=style, highlight=False, markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


def _run(console: Console, jobs: Sequence[Job]) -> Report:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fnconv.judge.own import execute

    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=None)

        def progress(done: int, total: int, operation: str) -> None:
            bar.update(task, completed=done, total=total, description=operation)

        collecting = gc.isenabled()
        gc.disable()  # traces leave few cycles behind, and looking for them takes an eighth of the time
        try:
            return execute(jobs, progress)
        finally:
            if collecting:
                gc.enable()


def _names(given: Sequence[str] | None) -> Names:
    """Names from repeated options and from lists with commas; None for none."""
    if not given:
        return None
    return [name.strip() for entry in given for name in entry.split(",")]


def _table(report: Report) -> Table:
    from rich import box
    from rich.table import Table

    from fnconv.judge.own.report import AGREES, FAILS

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("operation", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    for heading in ("cases", "n/a", "bits", "error/\nbound", "ulp\nautodiff", "ulp\nfloat64"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    previous = ""
    for row in report.rows:
        name = row.operation if row.operation != previous else ""
        bits = {True: "yes", False: "NO", None: "-"}[row.exact]
        distances = (_short(row.ulps_automatic, "g"), _short(row.ulps_float64, "g"))
        numbers = (str(row.cases), str(row.refused or ""), bits, _short(row.ratio, ".3f"), *distances)
        colour = {AGREES: "green", FAILS: "bold red"}.get(row.verdict, "yellow")
        table.add_row(name, row.rule, *numbers, f"[{colour}]{row.verdict}[/]")
        previous = row.operation
    return table


def _short(number: float, form: str) -> str:
    return format(number, form if number < 1e5 else ".0e")
