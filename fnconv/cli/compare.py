"""`fnconv compare`: manual against automatic gradient of a function in a user's file."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fnconv.cli.outcome import JsonFile, check_folder, conclude, console, refuse, write
from fnconv.cli.user_file import ARGS, Args, arguments, load, running

OPTIONS = {name: f"--{name}" for name in ("argnums", "only", "samples", "rounds", "seed")}


def compare(
    target: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="The function to differentiate.")],
    args: Args = ARGS,
    argnums: Annotated[str, typer.Option(metavar="N,...", help="Which arguments to differentiate.")] = "0",
    has_aux: Annotated[bool, typer.Option("--has-aux", help="The function returns (value, auxiliary).")] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Replace these operations alone, such as conv,max_pool.")
    ] = None,
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Make one operation of convolution, bias, ReLU and max pooling.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Runs with rounding errors, for the bounds.")] = 16,
    rounds: Annotated[int, typer.Option(help="How often each gradient is timed; 0 for not at all.")] = 11,
    seed: Annotated[int, typer.Option(help="Of cotangent and rounding errors.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Compare manual with automatic gradients of a function of yours, leaf by leaf.

    Ends with status 1 if the manual gradient is further from float64's than rounding explains.
    """
    check_folder("compare", json_file)
    function = load("compare", "FILE.py:FUNCTION", target)
    given = arguments("compare", function, target, args)
    differentiate = _integers(argnums)
    names = None if only is None else [name.strip() for name in only.split(",")]
    options: dict[str, Any] = {"has_aux": has_aux, "fuse": fuse, "samples": samples, "rounds": rounds, "seed": seed}
    from fnconv.judge.model.compare import compare as compare_gradients

    with running("compare", "tracing", target, OPTIONS) as progress:
        report = compare_gradients(function, *given, argnums=differentiate, only=names, **options, progress=progress)
    write("compare", json_file, report)
    shown = console(json_file)
    shown.print(f"{report.name} on {report.device}")
    conclude(report, shown)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise refuse("compare", f"--argnums must be integers with commas between them; got {text!r}") from None
