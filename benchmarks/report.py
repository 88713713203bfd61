"""The figures of both READMEs and the picture, from the kept measurements alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import accelerators, picture, random_layers
from benchmarks.kept import COUNTED, RESULTS, TIMED, Results, load
from benchmarks.scaling import exponent
from benchmarks.targets import RESIDUALS, Row, Standing, ratio, share, standings, verdict

FOLDER = Path(__file__).parent
README, DETAILS, PICTURE = FOLDER.parent / "README.md", FOLDER / "README.md", RESULTS / "picture.svg"
COUNTED_PICTURE = RESULTS / "accelerators.svg"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def write(folder: Path = RESULTS) -> list[Path]:
    """Renew both READMEs and the picture; what was written."""
    results = load(folder)
    for path, block in ((README, summary(results)), (DETAILS, details(results))):
        path.write_text(replaced(path.read_text(), block))
    written = [README, DETAILS]
    for names, draw, path in ((TIMED, picture.draw, PICTURE), (COUNTED, picture.draw_counted, COUNTED_PICTURE)):
        if any(name in results for name in names):
            draw(results, path)
            written.append(path)
    return written


def replaced(text: str, block: str) -> str:
    """The text with the block between its markers; raises ValueError where they are missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"report: the text must hold {BEGIN} and {END} once each")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


# ---- README ---------------------------------------------------------------------------------------------------------


def summary(results: Results) -> str:
    """The chart of the layers, and a line for each network."""
    timed = [name for name in TIMED if name in results]
    if not timed:
        return "Not measured yet."
    link = PICTURE.relative_to(README.parent).as_posix()
    parts = [
        f"Speed-up: their time ÷ ours; above 1, fnconv is faster. Measured on {_machine(results[timed[0]])}:",
        f"![Speed-up over JAX's automatic gradients and over Torch, layer by layer]({link})",
    ]
    if "models" in results:
        parts.append(_networks(results["models"]["rows"], results.get("memory", {}).get("rows", ())))
    if any(name in results for name in COUNTED):
        parts.append(_on_accelerators(results))
    return "\n\n".join(parts)


def _on_accelerators(results: Results) -> str:
    """What all programs for each target have in common, in one sentence."""
    told = []
    for target in (name.removeprefix("accelerators-") for name in COUNTED if name in results):
        _, _, number, mean, least, where = accelerators.standings(target, results[f"accelerators-{target}"]["rows"])[-1]
        what = "estimated cycles" if target in accelerators.TPUS else "bytes moved"
        told.append(f"{target} {figure(mean)} of {what} ({number} programs, least {figure(least)}: {where})")
    link = f"{DETAILS.relative_to(README.parent).as_posix()}"
    return f"[Compiled, counted, not run]({link}), autodiff's ÷ ours, geometric means: {'; '.join(told)}."


def _networks(rows: Sequence[Row], memory: Sequence[Row]) -> str:
    kept = {row["name"]: share(row, "residuals") for row in memory if row["map"] == "step"}
    lines = []
    for row in rows:
        part = kept.get(row["name"])
        speed = [figure(ratio(row, side)) for side in ("autodiff", "torch")]
        lines.append([row["name"], *speed, f"{100 * part:.0f} %" if part is not None else ""])
    headings = [
        "One training step",
        "Speed-up over autodiff",
        "over Torch",
        "Memory for the backward pass ÷ autodiff's",
    ]
    return table(headings, lines)


def _machine(result: Mapping[str, Any]) -> str:
    environment = result["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("jax", "torch", "onednn") if environment.get(name))
    flags = f", XLA_FLAGS `{environment['XLA_FLAGS']}`" if environment["XLA_FLAGS"] else ""
    where = environment["device"] if environment["platform"] != "cpu" else f"{environment['cores']} cores of"
    return f"{where} {environment['processor']}, {versions}{flags}, {environment['date']}"


# ---- benchmarks/README ----------------------------------------------------------------------------------------------


def details(results: Results) -> str:
    """Where every group stands against its target, then every case of every command."""
    parts = [*_targets(results)]
    for name, result in results.items():
        parts.append(f"### {name}\n\nMeasured on {_machine(result)}; {len(result['rows'])} rows.")
        if result["environment"]["tuned"]:
            settings = ", ".join(f"`{k}={v}`" for k, v in result["environment"]["tuned"].items())
            parts[-1] += f"\nAll sides under {settings}."
        match result["command"]:
            case "memory":
                parts.append(_memory(result["rows"]))
            case "scaling":
                parts.append(_scaling(result["rows"]))
            case command if command in COUNTED:
                parts[-1] = _counted(command.removeprefix("accelerators-"), result)
            case "random":
                parts += _random(result["rows"])
            case _:
                parts.append(_cases(result["rows"]))
    if any(name in results for name in COUNTED):
        link = COUNTED_PICTURE.relative_to(FOLDER).as_posix()
        parts.append(f"![What is counted of autodiff's programs for accelerators over fnconv's]({link})")
    return "\n\n".join(parts) or "None is kept here yet."


def _counted(target: str, result: Mapping[str, Any]) -> str:
    """Geometric means and the least row of each group, of programs that ran nowhere."""
    lines = [
        [group, map_, str(rows), figure(mean), f"{figure(least)}: {where}"]
        for group, map_, rows, mean, least, where in accelerators.standings(target, result["rows"])
    ]
    environment, skipped = result["environment"], sum("fnconv" not in row for row in result["rows"])
    same = f"  {skipped} of the programs are the same on both sides and were not compiled: 1.00." if skipped else ""
    return (
        f"### accelerators, {target}\n\nCompiled without a device, jax {environment['jax']}, {environment['date']}, "
        f"not run. Autodiff's ÷ fnconv's of {accelerators.unit(target)}; above 1, fnconv's is the smaller.{same}\n\n"
        + table(["", "map", "programs", "geometric mean", "least"], lines)
    )


def _targets(results: Results) -> list[str]:
    parts = []
    timed = [name for name in TIMED if name in results]
    if timed:
        parts.append("### Targets\n\nSpeed-up: their time ÷ ours, geometric means; above 1, fnconv is faster.")
        parts.append(_standings(results))
    on_gpu = [name for name in TIMED if f"{name}-gpu" in results]
    if on_gpu:
        parts.append(f"The same on {_machine(results[f'{on_gpu[0]}-gpu'])}:")
        parts.append(_on_gpu(results))
    if "memory" in results:
        parts.append("Memory that the gradient keeps from the forward pass, as a share of what autodiff keeps:")
        parts.append(_residuals(results["memory"]["rows"]))
    return parts


def _standings(results: Results) -> str:
    lines = []
    for command in (name for name in TIMED if name in results):
        tuned = {s.target.label: s for s in _of(results, f"{command}-tuned")}
        for s in _of(results, command):
            beside = tuned.get(s.target.label)
            cells = [_aimed(s.autodiff, s.target.autodiff), _aimed(s.torch, s.target.torch)]
            worst = f"{figure(s.least)}: {s.worst['name']}, {s.worst['map']}"
            if s.target.floor is not None:
                worst += f" (≥ {s.target.floor:g}: {verdict(s.least, s.target.floor)})"
            cells += [_both(beside), worst]
            lines.append([s.target.label, *cells])
    return table(
        ["", "over autodiff", "over Torch", "with `tune_cpu()`: autodiff, Torch", "slowest case against autodiff"],
        lines,
    )


def _on_gpu(results: Results) -> str:
    """Aims are those of a CPU; here "auto" leaves convolutions to cuDNN."""
    found = [s for command in TIMED for s in _of(results, f"{command}-gpu")]
    lines = [
        [s.target.label, figure(s.autodiff), f"{figure(s.least)}: {s.worst['name']}, {s.worst['map']}"] for s in found
    ]
    return table(["", "over autodiff", "slowest case"], lines)


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
    return table(["", f"speed-up over autodiff{of}", "over Torch", "fnconv, ms", "equal bits, or error ÷ bound"], lines)


def _random(rows: Sequence[Row]) -> list[str]:
    seeds = ", ".join(map(str, dict.fromkeys(row["seed"] for row in rows)))
    return [
        f"Layers and pools drawn with the seeds {seeds}; geometric means, with the factor that one standard error is.",
        table(random_layers.HEADINGS, random_layers.summary(rows)),
        "Slowest against autodiff:",
        table(["", "", "speed-up over autodiff", "over Torch"], random_layers.worst(rows)),
    ]


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
    return table(
        ["", "time grows as work to the power: autodiff", "fnconv", "fnconv, ms", "speed-up over autodiff"], lines
    )


# ---- Markdown -------------------------------------------------------------------------------------------------------


def figure(value: float | None) -> str:
    """Two digits or three."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
