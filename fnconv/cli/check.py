"""`fnconv check`: manual gradients against automatic ones; with a file, a rule of the user's own."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fnconv.cli.fuzz import fuzz_command
from fnconv.cli.outcome import JsonFile, check_folder, conclude, console, judge, refuse, table, told, working, write
from fnconv.cli.user_file import ARGS, Args, arguments, in_file, load, running

if TYPE_CHECKING:
    from rich.table import Table

    from fnconv.base.typing import Level
    from fnconv.judge.own import OwnReport
    from fnconv.judge.own.run import Job

LEGEND = {
    "cases": "geometries x dtypes x devices; n/a: those that the rule refuses, with an error of its own",
    "bits": "value and every gradient are autodiff's and float64's, bit for bit, on integers that leave nothing to "
    'round; "-" where the operation always rounds',
    "error": "worst |result - float64| over the a-priori bound on rounding errors: at most 1",
    "autodiff": "jax.vjp of plain JAX, which goes around JAX's gradients where they are wrong or missing: conv pads "
    "first (paddings as large as the kernel), dilated and column-major max pooling stack slices",
}
OPTIONS = {"operation": "--op", "rule": "--rule", "dtype": "--dtype", "device": "--device"}

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
    json_file: JsonFile = None,
    args: Args = ARGS,
    reference: Annotated[
        str | None,
        typer.Option(metavar="FUNCTION", help="With FILE.py:FUNCTION: a plain function to differentiate instead."),
    ] = None,
    level: Annotated[str, typer.Option(help="With FILE.py:FUNCTION: quick or full.")] = "quick",
    domain: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION", help="With FILE.py:FUNCTION: whether arguments are in its domain; or a sampler."
        ),
    ] = None,
    fuzz: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Random cases against definitions in NumPy: 60s, 1h, or a number of them."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --fuzz: where its random numbers start.")] = 0,
) -> None:
    """Compare manual with automatic gradients, for every operation, rule and dtype.

    With FILE.py:FUNCTION, judge the custom gradient of that function instead, as fnconv.check_vjp does, or, of a
    function that is no rule itself, those of all rules that it calls, as fnconv.check_rules does.
    Ends with status 1 if anything disagrees.
    """
    if target is not None:
        mine = {"--op": op, "--rule": rule, "--dtype": dtype, "--device": device, "--quick": quick, "--fuzz": fuzz}
        unused = [name for name, value in mine.items() if value]
        if unused:
            raise refuse("check", f"{', '.join(unused)}: for fnconv's own operations, not with FILE.py:FUNCTION")
        _check_file(target, args, reference, domain, level, json_file)
        return
    if args != ARGS or reference is not None or domain is not None or level != "quick":
        raise refuse("check", "--args, --reference, --domain and --level need FILE.py:FUNCTION")
    if fuzz is not None:
        if rule or dtype or device or quick:
            raise refuse("check", "--fuzz draws rules, dtypes and devices; it takes --op, --seed and --json")
        fuzz_command(fuzz, seed, _names(op), json_file)
        return
    from fnconv.judge.engine.programs import compilation_cache
    from fnconv.judge.own import describe_failures, plan

    chosen = _names(op), _names(rule), _names(dtype), _names(device)
    try:
        jobs = plan(*chosen, quick=quick)
    except ValueError as error:
        raise refuse("check", told(error, OPTIONS)) from None
    check_folder("check", json_file)
    with compilation_cache():
        report = _run(jobs)
    write("check", json_file, report)
    shown = console(json_file)
    shown.print(table(report, shown.width))
    shown.print(_legend(), style="dim")
    for row in report.rows:
        if row.failures:
            shown.print("\n" + describe_failures(row), soft_wrap=True)
    if quick:
        shown.print("\n" + _left_out(jobs, plan(*chosen)))
    shown.print()
    judge(report, shown, report.summary())


def _check_file(
    target: str, args: str, reference: str | None, domain: str | None, level: str, json_file: Path | None
) -> None:
    """Print the report of `fnconv.check_vjp`, or `check_rules` where the function is no rule itself and no reference or
    domain of it is given; status 1 if anything fails, 2 on bad usage.
    """
    from fnconv.judge.rule.entry import check_vjp
    from fnconv.judge.rule.rules import KINDS, check_rules

    check_folder("check", json_file)
    function = load("check", "FILE.py:FUNCTION", target)
    given = arguments("check", function, target, args)
    plain = None if reference is None else load("check", "--reference", in_file(target, reference))
    inside = None if domain is None else load("check", "--domain", in_file(target, domain))
    with running("check", "checking", target, {"level": "--level", "args": "--args", "domain": "--domain"}):
        alone = isinstance(function, KINDS) or plain or inside
        options: dict[str, Any] = {"reference": plain, "domain": inside} if alone else {}
        report = (check_vjp if alone else check_rules)(function, *given, level=cast("Level", level), **options)
    write("check", json_file, report)
    conclude(report, console(json_file))


def _run(jobs: Sequence[Job]) -> OwnReport:
    from fnconv.judge.own import execute

    with working("compiling") as update:

        def progress(done: int, total: int, operation: str) -> None:
            update(f"{done} of {total} {operation}", done, total)

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


def _legend() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for term, meaning in LEGEND.items():
        table.add_row(term, meaning)
    return table


def _left_out(jobs: Sequence[Job], full: Sequence[Job]) -> str:
    """What the quick check does not run, in each dtype."""
    run, whole = (Counter(dtype for job in some for dtype in job.dtypes) for some in (jobs, full))
    counts = ", ".join(f"{run[dtype] or 'none'} of {whole[dtype]} in {dtype}" for dtype in sorted(whole))
    return f"--quick left cases out; it ran {counts}"
