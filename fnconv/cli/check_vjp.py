"""`fnconv check FILE.py:FUNCTION`: the custom gradient of a function in a user's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from fnconv.cli.outcome import conclude, refuse, write
from fnconv.cli.user_file import load

ARGS = "args"  # what the function that returns the arguments is called by default


def check_file(target: str, args: str, reference: str | None, level: str, json_file: Path | None) -> None:
    """Print the report of `fnconv.check_vjp`; status 1 if anything fails, 2 on bad usage."""
    from fnconv.judge.rule.entry import check_vjp

    function = _load("FILE.py:FUNCTION", target)
    given = _arguments(target, args)
    plain = None if reference is None else _load("--reference", _in_file(target, reference))
    try:
        report = check_vjp(function, *given, reference=plain, level=level)
    except Exception as error:  # the user's function may raise anything
        text = str(error).removeprefix("check_vjp: ").strip()
        name = target.rpartition(":")[2]
        raise refuse("check", f"{name} on these arguments: {type(error).__name__}: {text}") from None
    write("check", json_file, report)
    conclude(report)


def _in_file(target: str, name: str) -> str:
    """NAME alone stands for the same file."""
    return name if ":" in name else f"{target.rpartition(':')[0]}:{name}"


def _load(what: str, target: str) -> Callable[..., Any]:
    try:
        return load(target)
    except typer.BadParameter as error:
        raise refuse("check", f"{what}: {error.message}") from None


def _arguments(target: str, name: str) -> tuple[Any, ...]:
    """What the function of that name returns: a tuple of arguments, or a single one."""
    make = _load("--args", _in_file(target, name))
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise refuse("check", f"--args: {name}() ends in {type(error).__name__}: {error}") from None
    return made if isinstance(made, tuple) else (made,)
