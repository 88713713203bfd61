"""`fnconv tune`: which rules are the fastest on this machine in a function of a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fnconv.cli.outcome import console, refuse
from fnconv.cli.user_file import ARGS, Args, arguments, load, running


def tune(
    target: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="A training step, a gradient, a model.")],
    args: Args = ARGS,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Where to keep the choices; by default $FNCONV_CHOICES, else the user's cache."),
    ] = None,
) -> None:
    """Time the rules of every convolution of fnconv in a function of yours; "auto" follows the fastest from then on.

    The function is traced, not run.  Leave the machine alone meanwhile.
    """
    function = load("tune", "FILE.py:FUNCTION", target)
    given = arguments("tune", function, target, args)
    from rich.table import Table

    from fnconv.rules import measured
    from fnconv.transform.tuning import tune as tune_function

    with running("tune", "tracing", target, {"path": "--file"}) as progress:
        found = tune_function(function, *given, path=file, progress=progress)
    shown = console()
    if not found:
        raise refuse("tune", f'{target} has no convolution of fnconv\'s under "auto"')
    table = Table("map", "before", "ms", "now", "ms", box=None)
    for m in found:
        table.add_row(m.map, m.before, f"{m.ms[m.before]:.2f}", m.rule, f"{m.ms[m.rule]:.2f}")
    shown.print(table)
    before, after = sum(m.ms[m.before] for m in found), sum(m.ms[m.rule] for m in found)
    shown.print(f"{before:.2f} ms before, {after:.2f} ms now, one of each; kept in {measured.path()}")
