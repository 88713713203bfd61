"""README's figures and the picture, from the kept measurements alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scaling import exponent
from benchmarks.targets import RESIDUALS, Row, Standing, ratio, share, standings, verdict

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
README, DETAILS, PICTURE = FOLDER.parent / "README.md", FOLDER / "README.md", RESULTS / "picture.svg"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
COMMANDS = ("layers", "pools", "models", "memory", "scaling")
TIMED = COMMANDS[:3]

SUFFIXES = ("", "-tuned", "-gpu")

Results = Mapping[str, dict[str, Any]]  # by file name without ending: "layers", "layers-tuned", "layers-gpu", ...


def load(folder: Path = RESULTS) -> Results:
    """Every kept measurement; raises ValueError at one that is none."""
    names = [f"{command}{suffix}" for command in COMMANDS for suffix in SUFFIXES]
    found = {name: json.loads(path.read_text()) for name in names if (path := folder / f"{name}.json").exists()}
    for name, result in found.items():
        if result["smoke"]:
            raise ValueError(f"report: {name}.json is from a --smoke run, whose times mean nothing")
        if name != proper_name(result):
            raise ValueError(f"report: {name}.json holds what belongs to {proper_name(result)}.json")
    return found


def proper_name(result: Mapping[str, Any]) -> str:
    """The name under which a measurement is kept: command, and platform or settings where they are not the usual."""
    environment = result["environment"]
    suffix = f"-{environment['platform']}" if environment["platform"] != "cpu" else ""
    return f"{result['command']}{suffix}{'-tuned' if environment['tuned'] else ''}"


def write(folder: Path = RESULTS) -> list[Path]:
    """Renew both READMEs and the picture; what was written."""
    results = load(folder)
    for path, block in ((README, summary(results)), (DETAILS, details(results))):
        path.write_text(replaced(path.read_text(), block))
    if any(name in results for name in TIMED):
        from benchmarks import picture

        picture.draw(results, PICTURE)
        return [README, DETAILS, PICTURE]
    return [README, DETAILS]


def replaced(text: str, block: str) -> str:
    """The text with the block between its markers; raises ValueError where they are missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"report: the text must hold {BEGIN} and {END} once each")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def digest(results: Results) -> str:
    """Of everything that the picture shows."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


# ---- README ---------------------------------------------------------------------------------------------------------


def summary(results: Results) -> str:
    """Where the library stands, group by group, with what it aims at."""
    timed = [name for name in TIMED if name in results]
    parts = []
    if timed:
        machine = _machine(results[timed[0]]["environment"])
        parts.append(f"Times over fnconv's, above 1 fnconv is faster; geometric means, {machine}:")
        parts.append(_standings(results))
        parts.append(f"![Every case, and the geometric means]({PICTURE.relative_to(README.parent).as_posix()})")
    on_gpu = [name for name in TIMED if f"{name}-gpu" in results]
    if on_gpu:
        machine = _machine(results[f"{on_gpu[0]}-gpu"]["environment"])
        parts.append(f"The same on {machine}:")
        parts.append(_on_gpu(results))
    if "memory" in results:
        parts.append("What the gradient keeps from the forward pass, over what autodiff keeps:")
        parts.append(_residuals(results["memory"]["rows"]))
    parts.append(
        "Every case, and how to measure: [benchmarks](benchmarks/README.md)." if parts else "Not measured yet."
    )
    return "\n\n".join(parts)


def _machine(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {environment[name]}" for name in ("jax", "torch") if environment[name])
    flags = f", XLA_FLAGS `{environment['XLA_FLAGS']}`" if environment["XLA_FLAGS"] else ""
    where = environment["device"] if environment["platform"] != "cpu" else f"{environment['cores']} cores of"
    return f"{where} {environment['processor']}, {versions}{flags}, {environment['date']}"


def _standings(results: Results) -> str:
    lines = []
    for command in (name for name in TIMED if name in results):
        tuned = {s.target.label: s for s in _of(results, f"{command}-tuned")}
        for s in _of(results, command):
            beside = tuned.get(s.target.label)
            cells = [_aimed(s.autodiff, s.target.autodiff), _aimed(s.torch, s.target.torch)]
            worst = f"{figure(s.least)} {s.worst['name']}, {s.worst['map']}"
            if s.target.floor is not None:
                worst += f" (≥ {s.target.floor:g}: {verdict(s.least, s.target.floor)})"
            cells += [_both(beside), worst]
            lines.append([s.target.label, *cells])
    return table(["", "autodiff", "Torch", "with `tune_cpu()`: autodiff, Torch", "least over autodiff"], lines)


def _on_gpu(results: Results) -> str:
    """Aims are those of a CPU; here "auto" leaves convolutions to cuDNN."""
    found = [s for command in TIMED for s in _of(results, f"{command}-gpu")]
    lines = [
        [s.target.label, figure(s.autodiff), f"{figure(s.least)} {s.worst['name']}, {s.worst['map']}"] for s in found
    ]
    return table(["", "autodiff", "least"], lines)


def _of(results: Results, name: str) -> list[Standing]:
    return standings(name.split("-")[0], results[name]["rows"]) if name in results else []


def _both(standing: Standing | None) -> str:
    if standing is None:
        return ""
    torch = _aimed(standing.torch, standing.target.tuned_torch)
    return f"{figure(standing.autodiff)}, {torch}" if torch else figure(standing.autodiff)


def _aimed(value: float | None, target: float | None) -> str:
    aim = "" if value is None or target is None else f" (≥ {target:g}: {verdict(value, target)})"
    return figure(value) + aim


def _residuals(rows: Sequence[Row]) -> str:
    lines = []
    for row in (r for r in rows if r["map"] in ("block", "step")):
        aim = RESIDUALS.get(row["name"], 1.0)
        part = share(row, "residuals")
        kept = row["bytes"]
        sizes = [f"{kept[side]['residuals'] / 1e6:.2f} MB" for side in ("autodiff", "fnconv")]
        lines.append([row["name"], *sizes, f"{figure(part)} (≤ {aim:g}: {verdict(part, aim, at_most=True)})"])
    return table(["", "autodiff", "fnconv", "share"], lines)


# ---- benchmarks/README ----------------------------------------------------------------------------------------------


def details(results: Results) -> str:
    """Every case of every command."""
    parts = []
    for name, result in results.items():
        parts.append(f"### {name}\n\n{_machine(result['environment'])}; {len(result['rows'])} rows.")
        if result["environment"]["tuned"]:
            settings = ", ".join(f"`{k}={v}`" for k, v in result["environment"]["tuned"].items())
            parts[-1] += f"\nAll sides under {settings}."
        match result["command"]:
            case "memory":
                parts.append(_memory(result["rows"]))
            case "scaling":
                parts.append(_scaling(result["rows"]))
            case _:
                parts.append(_cases(result["rows"]))
    return "\n\n".join(parts) or "None is kept here yet."


def _cases(rows: Sequence[Row]) -> str:
    """A line for each case, its maps side by side."""
    maps = list(dict.fromkeys(row["map"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        group = {row["map"]: row for row in rows if row["name"] == name}
        there = [m for m in maps if m in group]
        cells = [" ".join(figure(ratio(group[m], side)) or "-" for m in there) for side in ("autodiff", "torch")]
        times = " ".join(f"{group[m]['times']['fnconv']['ms']:.3g}" for m in there)
        equal = " ".join(group[m]["verified"]["fnconv"] for m in there)
        lines.append([name, *cells, times, equal])
    of = f" ({', '.join(maps)})"
    return table(
        ["", f"autodiff / fnconv{of}", "Torch / fnconv", "fnconv, ms", "equal, or fraction of the bound"], lines
    )


def _memory(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        cells = []
        for what in ("residuals", "temporaries"):
            sizes = [row["bytes"][side][what] for side in ("autodiff", "fnconv")]
            cells += ["" if size is None else f"{size / 1e6:.2f}" for size in sizes] + [figure(share(row, what))]
        lines.append([row["name"], row["map"], *cells])
    kinds = ["autodiff", "fnconv", "share"]
    return table(["", "", *(f"{what}, {k}" for what in ("residuals, MB", "temporaries, MB") for k in kinds)], lines)


def _scaling(rows: Sequence[Row]) -> str:
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        group = [row for row in rows if row["name"] == name]
        slopes = [f"{exponent(group, side):.2f}" for side in ("autodiff", "fnconv")]
        times = ", ".join(f"{row['map']}: {row['times']['fnconv']['ms']:.3g}" for row in group)
        ratios = ", ".join(figure(ratio(row, "autodiff")) for row in group)
        lines.append([name, *slopes, times, ratios])
    return table(["", "autodiff, time ~ work^", "fnconv, time ~ work^", "fnconv, ms", "autodiff / fnconv"], lines)


# ---- Markdown -------------------------------------------------------------------------------------------------------


def figure(value: float | None) -> str:
    """Two digits or three."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
