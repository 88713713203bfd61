"""Functions out of a user's file, named as FILE.py:FUNCTION on the command line."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from fnconv.cli import outcome

ARGS = "args"  # what the function that returns the arguments is called by default
Args = Annotated[
    str,
    typer.Option(
        metavar="FUNCTION",
        help="A function of the same file, or FILE.py:FUNCTION, that returns the arguments: a tuple of them, "
        "or one that is no tuple.",
    ),
]
REFUSALS = ("compare: ", "check_vjp: ", "check_jvp: ", "check_rules: ", "tune: ", "with_manual_rules: ")


def load(command: str, what: str, target: str) -> Callable[..., Any]:
    """The function that `what` of the command, such as "--args", names as "FILE.py:NAME"."""
    try:
        return find(target)
    except typer.BadParameter as error:
        raise outcome.refuse(command, f"{what}: {error.message}") from None


def in_file(target: str, name: str) -> str:
    """NAME alone stands for the same file."""
    return name if ":" in name else f"{target.rpartition(':')[0]}:{name}"


def arguments(command: str, function: Callable[..., Any], target: str, args: str) -> tuple[Any, ...]:
    """What the function is to be called with: a tuple, or one argument; refused where it does not take them."""
    given = in_file(target, args)
    make = load(command, "--args", given)
    if _misfit(make, ()):
        raise outcome.refuse(command, f"--args: {given} must take no arguments; it takes {inspect.signature(make)}")
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise outcome.refuse(command, f"--args: {told(error, given)}") from None
    result = made if isinstance(made, tuple) else (made,)
    if misfit := _misfit(function, result):
        signature = f"{target.rpartition(':')[2]}{inspect.signature(function)}"
        found = f"the {len(result)} arguments that {given} returns"
        raise outcome.refuse(command, f"{signature} does not take {found}: {misfit}")
    return result


def _misfit(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Why the function cannot be called so; empty if it can."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:  # it does not tell its signature
        pass
    return ""


def told(error: BaseException, target: str, options: Mapping[str, str] | None = None) -> str:
    """An error in one line: where the user's file raised it, or fnconv's refusal in terms of the command's options.

    One that is neither is raised again.
    """
    line = _line(error, Path(target.rpartition(":")[0]).expanduser().resolve())
    if line is None and options is not None:
        if not (isinstance(error, TypeError | ValueError) and str(error).startswith(REFUSALS)):
            raise error
        return outcome.told(error, {"fn": target, **options})
    return f"{target} ends{f' in line {line}' if line else ''} with {type(error).__name__}: {error}"


@contextmanager
def running(command: str, what: str, target: str, options: Mapping[str, str]) -> Iterator[Callable[..., None]]:
    """`working`; an error of the user's function, or a refusal of its arguments, ends the command with one line."""
    try:
        with outcome.working(what) as progress:
            yield progress
    except (Exception, SystemExit) as error:
        raise outcome.refuse(command, told(error, target, options)) from None


def find(target: str) -> Callable[..., Any]:
    """The function that "FILE.py:NAME" names; NAME may be dotted, as "FILE.py:Model.loss".

    The file is run as an import runs it, with its folder on the path; a file is run once for several names.

    Raises:
      typer.BadParameter: the target is not of that form, there is no such file, the file ends in an error, it has no
        such name, or what has that name cannot be called.
    """
    file, colon, name = target.rpartition(":")
    if not (colon and file and name):
        raise typer.BadParameter(f"must be FILE.py:FUNCTION; got {target!r}")
    path = Path(file).expanduser()
    if path.suffix != ".py":
        raise typer.BadParameter(f"must name a Python file, FILE.py:FUNCTION; got {target!r}")
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    found: Any = _module(path.resolve())
    for part in name.split("."):
        if not hasattr(found, part):
            raise typer.BadParameter(f"{file} has no {name}{_instead(found)}")
        found = getattr(found, part)
    if not callable(found):
        raise typer.BadParameter(f"{name} in {file} is no function; got {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _module(path: Path) -> ModuleType:
    """The file as a module; the same one for the same file."""
    name = f"_fnconv_user_file_{path.stem}_{abs(hash(path)):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise typer.BadParameter(f"{path.name} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = _line(error, path)
        place = f", line {line}" if line else ""
        raise typer.BadParameter(f"{path.name}{place} ends in {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _line(error: BaseException, path: Path) -> int | None:
    """Where in the file the error came up."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _instead(found: Any) -> str:
    """The functions that are there."""
    names = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")] if found else []
    own = [n for n in names if getattr(getattr(found, n), "__module__", None) == getattr(found, "__name__", "")]
    return f"; it has {', '.join(sorted(own or names))}" if names else ""
