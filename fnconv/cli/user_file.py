"""Functions out of a user's file, named as FILE.py:FUNCTION on the command line."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import typer


def load(target: str) -> Callable[..., Any]:
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
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _instead(found: Any) -> str:
    """The functions that are there."""
    names = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")] if found else []
    own = [n for n in names if getattr(getattr(found, n), "__module__", None) == getattr(found, "__name__", "")]
    return f"; it has {', '.join(sorted(own or names))}" if names else ""
