"""What the commands say: a refusal, a report on the terminal or as JSON, a verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fnconv.cli import interrupts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fnconv.judge.engine.report import Report
    from fnconv.judge.model.report import Comparison
    from fnconv.judge.rule.report import RuleReport
    from fnconv.judge.rule.rules import RulesReport


WIDTH = 100  # where neither a terminal nor COLUMNS tells its own
STDOUT = Path("-")  # as the file of --json

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write everything that was found as JSON; - for standard output."),
]


def table(report: Report, width: int) -> Table:
    """The rows of a report in `width` columns: words fold, and columns that can be spared go where they do not fit."""
    from rich import box
    from rich.table import Table

    rows = [(row.cells(), "" if row.ok else "bold red") for row in report.lines]
    widths = [max(map(len, column)) for column in zip(report.headings, *(cells for cells, _ in rows), strict=True)]
    kept = list(range(len(widths)))
    for column in report.spare:
        if sum(widths[i] + 2 for i in kept) > width:
            kept.remove(column)
    left_out = ", ".join(report.headings[i] for i in range(len(widths)) if i not in kept)
    caption = f"without {left_out}, for want of columns" if left_out else None
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, caption=caption, caption_justify="left")
    for i in kept:
        words = i in report.left
        heading = report.headings[i].replace("/b", "/\nb")
        shown.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for cells, style in rows:
        shown.add_row(*(cells[i] for i in kept), style=style)
    return shown


def console(json_file: Path | None = None) -> Console:
    """Standard output, or standard error where JSON alone is to be on that."""
    from rich.console import Console

    stderr = json_file == STDOUT
    shown = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in shown._environ:
        shown.width = WIDTH
    return shown


def refuse(command: str, message: str) -> typer.Exit:
    """Say why the command does not run; to be raised, for status 2."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(f"fnconv {command}: {message}", "red"), soft_wrap=True)
    return typer.Exit(2)


def told(error: Exception, options: Mapping[str, str]) -> str:
    """An error of fnconv's, "function: argument must ...", with the command's own name for the argument."""
    message = str(error).strip().partition(": ")[2] or str(error).strip()
    argument, _, rule = message.partition(" ")
    return f"{options[argument]} {rule}" if argument in options else message


def check_folder(command: str, json_file: Path | None) -> None:
    """Refuse, before anything is computed, a file that could not be written."""
    if json_file not in (None, STDOUT) and not (json_file.parent.is_dir() and not json_file.is_dir()):
        raise refuse(command, f"--json must name a file in a folder that exists, or be -; got {json_file}")


def write(command: str, json_file: Path | None, report: Report) -> None:
    if json_file is None:
        return
    text = json.dumps(report.to_json(), indent=1, allow_nan=False)
    try:
        with interrupts.whole():
            if json_file == STDOUT:
                print(text)
            else:
                json_file.write_text(text + "\n")
    except OSError as error:
        raise refuse(command, f"--json: cannot write {json_file}: {error.strerror}") from None


def conclude(report: Comparison | RuleReport | RulesReport, shown: Console) -> None:
    """Print the report; status 1 if anything fails."""
    *lines, verdict = "\n".join(report.below()).splitlines()
    shown.print(table(report, shown.width))
    cut = shown.is_terminal  # a file has lines of any length
    shown.print("\n".join(lines), soft_wrap=not cut)
    judge(report, shown, verdict, soft_wrap=not cut)


def judge(report: Report, shown: Console, verdict: str, *, soft_wrap: bool = True) -> None:
    """Print the last line in the colour of the verdict; status 1 if anything fails."""
    shown.print(verdict, style="bold green" if report.ok else "bold red", soft_wrap=soft_wrap)
    if not report.ok:
        raise typer.Exit(1)


@contextmanager
def working(what: str) -> Iterator[Callable[..., None]]:
    """A line on standard error while something is computed, where that is a terminal; yields what changes the line."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=shown, transient=True, refresh_per_second=4, disable=not shown.is_terminal)
    with interrupts.showing(progress):
        task = progress.add_task(what, total=None)

        def update(what: str, done: int | None = None, total: int | None = None) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield update
