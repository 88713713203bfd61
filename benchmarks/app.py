"""The commands; each measures on the machine at hand and may keep what it found as JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)

Only = Annotated[str, typer.Option(metavar="REGEX", help="Cases whose name matches.")]
Against = Annotated[str, typer.Option(help="What to compare with besides autodiff: torch, or none.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Tiny shapes, one round: does everything run and agree?")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was measured as JSON.")]
Tuned = Annotated[bool, typer.Option("--tuned", help="Call fnconv.tune_cpu() first.")]
Seconds = Annotated[float, typer.Option(help="Time for each function of a case.")]
Rounds = Annotated[int, typer.Option(help="At most so many rounds.")]
Names = Annotated[str, typer.Option(metavar="A,B", help="Rules to time beside auto, or all.")]
Maps = Annotated[str, typer.Option(metavar="A,B", help="Of fwd, dW, dX.")]

SECONDS, ROUNDS = 0.6, 25


@app.command()
def layers(
    against: Against = "torch",
    only: Only = "",
    maps: Maps = "fwd,dW,dX",
    rules: Names = "",
    seconds: Seconds = SECONDS,
    rounds: Rounds = ROUNDS,
    tuned: Tuned = False,
    smoke: Smoke = False,
    json_file: Json = None,
) -> None:
    """Convolutions: forward, weight gradient, input gradient."""
    settings = _tune(tuned)
    from benchmarks import layers as module

    _check_names("--maps", maps, module.MAPS)
    _check_names("--rules", rules, {"all", *module.rule_names()})
    with _torch(against, smoke) as torch:
        options = {"maps": _split(maps), "rules": _split(rules), "torch": torch}
        run = _bound(module.run, only, smoke, seconds, rounds, options)
        _report("layers", run, settings, smoke, json_file)


@app.command()
def pools(
    against: Against = "torch",
    only: Only = "",
    seconds: Seconds = SECONDS,
    rounds: Rounds = ROUNDS,
    tuned: Tuned = False,
    smoke: Smoke = False,
    json_file: Json = None,
) -> None:
    """Pools: backward, and forward + backward."""
    settings = _tune(tuned)
    from benchmarks import pools as module

    with _torch(against, smoke) as torch:
        run = _bound(module.run, only, smoke, seconds, rounds, {"torch": torch})
        _report("pools", run, settings, smoke, json_file)


@app.command()
def models(
    against: Against = "torch",
    only: Only = "",
    seconds: Seconds = 10 * SECONDS,
    rounds: Rounds = ROUNDS,
    tuned: Tuned = False,
    smoke: Smoke = False,
    json_file: Json = None,
) -> None:
    """Whole networks: one step of gradient descent."""
    settings = _tune(tuned)
    from benchmarks import models as module

    with _torch(against, smoke) as torch:
        run = _bound(module.run, only, smoke, seconds, rounds, {"torch": torch})
        _report("models", run, settings, smoke, json_file)


@app.command()
def random(
    cases: Annotated[int, typer.Option(min=1, help="Layers and pools of each seed.")] = 60,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    against: Against = "torch",
    only: Only = "",
    rules: Names = "",
    seconds: Seconds = SECONDS / 2,
    rounds: Rounds = ROUNDS,
    tuned: Tuned = False,
    smoke: Smoke = False,
    json_file: Json = None,
) -> None:
    """Layers and pools drawn at random, as networks use them; Torch in a process of its own."""
    settings = _tune(tuned)
    from benchmarks import layers, random_layers

    _check_names("--rules", rules, {"all", *layers.rule_names()})
    with _torch(against, smoke, apart=True) as torch:
        options = {"seeds": seed or [0], "count": cases, "rules": _split(rules), "torch": torch}
        run = _bound(random_layers.run, only, smoke, seconds, rounds, options)
        _report("random", run, settings, smoke, json_file)


@app.command()
def memory(only: Only = "", smoke: Smoke = False, json_file: Json = None) -> None:
    """Bytes that gradients keep from the forward pass, and temporaries; nothing is timed."""
    from benchmarks import memory as module

    _report("memory", _bound(module.run, only, smoke, 0, 0, {}), {}, smoke, json_file)


@app.command()
def scaling(
    only: Only = "",
    seconds: Seconds = SECONDS / 4,
    rounds: Rounds = ROUNDS,
    tuned: Tuned = False,
    smoke: Smoke = False,
    json_file: Json = None,
) -> None:
    """Cost against batch, channels and image size, autodiff and fnconv."""
    settings = _tune(tuned)
    from benchmarks import scaling as module

    _report("scaling", _bound(module.run, only, smoke, seconds, rounds, {}), settings, smoke, json_file)


@app.command()
def tangents(
    only: Only = "",
    seconds: Seconds = SECONDS,
    rounds: Rounds = ROUNDS,
    tuned: Tuned = False,
    smoke: Smoke = False,
    json_file: Json = None,
) -> None:
    """Forward mode of a dozen layers: value and tangent, autodiff and fnconv."""
    settings = _tune(tuned)
    from benchmarks import tangents as module

    _report("tangents", _bound(module.run, only, smoke, seconds, rounds, {}), settings, smoke, json_file)


@app.command()
def accelerators(
    target: Annotated[str, typer.Option(help="h100, a100 or tpu-v5e.")],
    only: Only = "",
    model: Annotated[str, typer.Option(help="FILE.py:LOSS of yours alone; args() of FILE.py are its arguments.")] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows of the --json file and add the others.")
    ] = False,
    skip_same: Annotated[
        bool, typer.Option("--skip-same", help="Do not compile what is the same on both sides.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Programs for a GPU or a TPU that is not there: compiled and counted, not run. Needs the extra `aot`."""
    from benchmarks import accelerators as module
    from benchmarks import environment, table
    from fnconv.cli import user_file

    if target not in module.TARGETS:
        raise typer.BadParameter(f"--target must be one of {', '.join(module.TARGETS)}; got {target}")
    found, start, pattern = environment.describe(), time.perf_counter(), re.compile(only)
    before = json.loads(json_file.read_text()) if resume and json_file is not None else {"rows": [], "seconds": 0}
    rows = [row for row in before["rows"] if skip_same or "fnconv" in row]
    there = {f"{row['name']} {row['map']}" for row in rows}
    yours = None
    if model:
        loss = user_file.load("benchmarks", "--model", model)
        yours = (model, loss, user_file.arguments("benchmarks", loss, model, user_file.ARGS))
    try:
        wanted = lambda name: name not in there and pattern.search(name) is not None  # noqa: E731
        for row in module.run(target, wanted, yours, skip_same=skip_same):
            rows.append(row)
            typer.echo(module.line(target, row))
            if json_file is not None:  # after each row: all of them take hours on a TPU
                kept = {"command": f"accelerators-{target}", "smoke": False, "environment": found, "rows": rows}
                kept["seconds"] = before["seconds"] + round(time.perf_counter() - start)
                json_file.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    except module.Missing as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(2) from None
    if rows:
        Console().print(table.counted(module.unit(target), module.standings(target, rows)))


@app.command()
def report() -> None:
    """Write the tables of both READMEs and the picture from benchmarks/results."""
    from benchmarks import report as module

    for path in module.write():
        typer.echo(path)


# ---- what the commands share ----------------------------------------------------------------------------------------


def _bound(
    run: Callable[..., Iterator[dict[str, Any]]],
    only: str,
    smoke: bool,
    seconds: float,
    rounds: int,
    options: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    from benchmarks.timing import SMOKE, Budget

    if smoke:
        import jax

        jax.config.update("jax_disable_most_optimizations", True)  # halves the compilation
    pattern, budget = re.compile(only), SMOKE if smoke else Budget(seconds, rounds)
    return run(lambda name: pattern.search(name) is not None, budget, **options)


def _report(
    command: str, run: Iterator[dict[str, Any]], settings: dict[str, Any], smoke: bool, json_file: Path | None
) -> None:
    from benchmarks import environment, table
    from benchmarks.verify import Disagreement

    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"--json must name a file in a folder that exists; got {json_file}")
    console, start, rows = Console(), time.perf_counter(), []
    console = console if console.is_terminal else Console(width=150)
    found = environment.describe(settings)
    console.print(table.environment(found), style="dim", highlight=False)
    wrong = ""
    try:
        for row in run:
            rows.append(row)
            console.print(table.line(row), highlight=False, soft_wrap=True)
    except Disagreement as error:
        wrong = str(error)
    for part in table.tables(command, rows):
        console.print(part)
    if wrong:
        console.print(f"not equal: {wrong}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)
    seconds = time.perf_counter() - start
    console.print(f"{len(rows)} rows in {seconds:.0f} s", style="dim")
    if json_file is not None:
        kept = {"command": command, "smoke": smoke, "environment": found, "seconds": round(seconds), "rows": rows}
        json_file.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")


def _tune(tuned: bool) -> dict[str, Any]:
    if not tuned:
        return {}
    import fnconv

    return dict(fnconv.tune_cpu().applied)


def _torch(against: str, smoke: bool, *, apart: bool = False) -> AbstractContextManager[Any]:
    """Torch, in this process or in one of its own, or None."""
    if against not in ("torch", "none"):
        raise typer.BadParameter(f"--against must be torch or none; got {against}")
    if against == "none":
        return nullcontext()
    if find_spec("torch") is None:
        raise typer.BadParameter("--against torch needs torch; leave it out with --against none")
    import jax

    from benchmarks.environment import cores
    from benchmarks.torch_side import Apart, Here

    if jax.default_backend() != "cpu":
        raise typer.BadParameter(f"--against torch is for the CPU; JAX runs on {jax.default_backend()}")
    threads = 1 if smoke else cores()
    return Apart(threads) if apart else nullcontext(Here(threads))


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _check_names(option: str, names: str, known: Any) -> None:
    unknown = [name for name in _split(names) if name not in known]
    if unknown:
        raise typer.BadParameter(f"{option} knows {', '.join(sorted(known))}; got {', '.join(unknown)}")
