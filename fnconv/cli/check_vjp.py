"""`fnconv check FILE.py:FUNCTION`: the custom derivative of a function in a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from fnconv.cli.outcome import conclude, console, refuse, working, write
from fnconv.cli.user_file import arguments, in_file, load, told

if TYPE_CHECKING:
    from fnconv.base.typing import Level


def check_file(target: str, args: str, reference: str | None, level: str, json_file: Path | None) -> None:
    """Print the report of `fnconv.check_vjp`; status 1 if anything fails, 2 on bad usage."""
    from fnconv.judge.rule.entry import check_vjp

    function = load("check", "FILE.py:FUNCTION", target)
    given = arguments("check", function, target, args)
    plain = None if reference is None else load("check", "--reference", in_file(target, reference))
    try:
        with working("checking"):
            report = check_vjp(function, *given, reference=plain, level=cast("Level", level))
    except (Exception, SystemExit) as error:  # of the user's function
        raise refuse("check", told(error, target, {"level": "--level", "args": "--args"})) from None
    write("check", json_file, report)
    conclude(report, console(json_file))
