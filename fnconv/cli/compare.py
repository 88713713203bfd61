"""`fnconv compare`: manual against automatic gradient of a function in a user's file."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fnconv.cli.outcome import check_folder, conclude, refuse, write
from fnconv.cli.user_file import load

if TYPE_CHECKING:
    from fnconv.judge.model.report import Comparison

ARGS = "args"  # what the function that returns the arguments is called by default


def compare(
    target: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="The function to differentiate.")],
    args: Annotated[
        str,
        typer.Option(
            metavar="FUNCTION",
            help="A function of the same file, or FILE.py:FUNCTION, that returns the arguments: a tuple of them, "
            "or one that is no tuple.",
        ),
    ] = ARGS,
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
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was found as JSON.")
    ] = None,
) -> None:
    """Compare manual with automatic gradients of a function of yours, leaf by leaf.

    Ends with status 1 if the manual gradient is further from float64's than rounding explains.
    """
    check_folder("compare", json_file)
    function = _load("FILE.py:FUNCTION", target)
    arguments = _arguments(function, target, args)
    options = {
        "argnums": _integers(argnums),
        "has_aux": has_aux,
        "only": None if only is None else [name.strip() for name in only.split(",")],
        "fuse": fuse,
        "samples": samples,
        "rounds": rounds,
        "seed": seed,
    }
    report = _run(function, target, arguments, options)
    write("compare", json_file, report)
    conclude(report)


def _load(what: str, target: str) -> Callable[..., Any]:
    try:
        return load(target)
    except typer.BadParameter as error:
        raise refuse("compare", f"{what}: {error.message}") from None


def _arguments(function: Callable[..., Any], target: str, args: str) -> tuple[Any, ...]:
    """What the function is to be called with; refused where it does not take them."""
    file, _, name = target.rpartition(":")
    given = args if ":" in args else f"{file}:{args}"
    make = _load("--args", given)
    if _misfit(make, ()):
        raise refuse("compare", f"--args: {given} must take no arguments; it takes {inspect.signature(make)}")
    result = _call(make, given, ())
    arguments = result if isinstance(result, tuple) else (result,)
    misfit = _misfit(function, arguments)
    if misfit:
        signature = f"{name}{inspect.signature(function)}"
        found = f"the {len(arguments)} arguments that {given} returns"
        raise refuse("compare", f"{signature} does not take {found}: {misfit}")
    return arguments


def _misfit(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Why the function cannot be called so; empty if it can."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:  # it does not tell its signature
        pass
    return ""


def _run(function: Callable[..., Any], target: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Comparison:
    from fnconv.judge.model.compare import compare as compare_gradients

    def run(*given: Any) -> Comparison:
        return compare_gradients(function, *given, **options)

    return _call(run, target, arguments)


def _call(function: Callable[..., Any], target: str, arguments: tuple[Any, ...]) -> Any:
    """Call what is the user's; an error in it is told in one line, with the place in the file."""
    try:
        return function(*arguments)
    except Exception as error:
        file = str(Path(target.rpartition(":")[0]).expanduser().resolve())
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        message = f"{type(error).__name__}: {error}"
        if lines:
            raise refuse("compare", f"{target} ends in line {lines[-1]} with {message}") from None
        if isinstance(error, TypeError | ValueError) and str(error).startswith(("compare: ", "with_manual_rules: ")):
            raise refuse("compare", str(error).partition(": ")[2]) from None
        raise


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise refuse("compare", f"--argnums must be integers with commas between them; got {text!r}") from None
