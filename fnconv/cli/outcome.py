"""How the commands that judge end: a refusal, a report in JSON, a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import typer


class Report(Protocol):
    @property
    def ok(self) -> bool: ...

    def to_json(self) -> dict[str, Any]: ...


def refuse(command: str, message: str) -> typer.Exit:
    """Say why the command does not run; to be raised, for status 2."""
    typer.secho(f"fnconv {command}: {message}", fg=typer.colors.RED, err=True)
    return typer.Exit(2)


def check_folder(command: str, json_file: Path | None) -> None:
    """Refuse, before anything is computed, a file that could not be written."""
    if json_file is not None and not (json_file.parent.is_dir() and not json_file.is_dir()):
        raise refuse(command, f"--json must name a file in a folder that exists; got {json_file}")


def write(command: str, json_file: Path | None, report: Report) -> None:
    if json_file is None:
        return
    try:
        json_file.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise refuse(command, f"--json: cannot write {json_file}: {error.strerror}") from None


def conclude(report: Report) -> None:
    """Print the report, its last line in the colour of the verdict; status 1 if anything fails."""
    *lines, verdict = str(report).splitlines()
    typer.echo("\n".join(lines))
    typer.secho(verdict, fg=typer.colors.GREEN if report.ok else typer.colors.RED, bold=True)
    if not report.ok:
        raise typer.Exit(1)
