"""Measurements as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.targets import Row, ratio, share, standings, verdict

SIDES = ("autodiff", "fnconv", "torch")


def cases(rows: Sequence[Row], title: str) -> Table:
    """A line for each row; of named rules how much faster than autodiff each is."""
    compiled = any("compiled" in row for row in rows)
    rules = list(dict.fromkeys(n for row in rows for n in (*row["times"], *row.get("refused", ())) if n not in SIDES))
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("case", no_wrap=True)
    table.add_column("map", no_wrap=True)
    for heading in ("autodiff\nms", "fnconv\nms", "torch\nms", "autodiff\n/ fnconv", "torch\n/ fnconv"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("equal", no_wrap=True)
    if compiled:
        table.add_column("compiled in\nautodiff, fnconv", justify="right", no_wrap=True)
    if rules:
        table.add_column("autodiff\n/ named rule, fastest first")
    previous = ""
    for row in rows:
        times = [f"{row['times'][s]['ms']:.3f}" if s in row["times"] else "" for s in SIDES]
        equal = row["verified"].get("fnconv", "")
        name = row["name"] if row["name"] != previous else ""
        ratios = [times_faster(ratio(row, side)) for side in ("autodiff", "torch")]
        seconds = [f"{row['compiled']['autodiff']:.1f} s, {row['compiled']['fnconv']:.1f} s"] if compiled else []
        table.add_row(name, row["map"], *times, *ratios, equal, *seconds, *([_named(row)] if rules else []))
        previous = row["name"]
    return table


def _named(row: Row) -> str:
    """The named rules, fastest first, and those that refuse the geometry."""
    found = {name: r for name in row["times"] if name not in SIDES and (r := ratio(row, "autodiff", name))}
    faster = [f"{name} {times_faster(found[name])}" for name in sorted(found, key=found.__getitem__, reverse=True)]
    return ", ".join(faster + [f"{name} n/a" for name in row.get("refused", ())])


def tables(command: str, rows: Sequence[Row]) -> list[Table]:
    """What a command shows at its end."""
    match command:
        case "memory":
            return [memory(rows)]
        case "scaling":
            return [cases(rows, command), scaling(rows)]
        case "tangents":
            return [cases(rows, command)]
        case "random":
            from benchmarks import random_layers

            slowest = ("slowest against autodiff", "", "autodiff / fnconv", "torch / fnconv")
            return [
                cases(rows, command),
                _plain(slowest, random_layers.worst(rows)),
                _plain(random_layers.HEADINGS, random_layers.summary(rows)),
            ]
        case _:
            return [cases(rows, command), summary(command, rows)]


def _plain(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for cells in lines:
        table.add_row(*cells)
    return table


def counted(of: str, found: Sequence[tuple[str, str, int, float, float, str]]) -> Table:
    """Of `accelerators`: each group's geometric mean and its least row."""
    table = Table(title=f"autodiff / fnconv, {of}", box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for heading in ("group", "map", "rows", "geometric mean", "least", "where"):
        table.add_column(heading)
    for group, map_, rows, mean, least, where in found:
        table.add_row(group, map_, str(rows), f"{mean:.2f}", f"{least:.2f}", where)
    return table


def line(row: Row) -> str:
    """One row, as soon as it is measured."""
    if "bytes" in row:
        kept = [times_faster(share(row, what)) for what in ("residuals", "temporaries")]
        return f"{row['name']} {row['map']}: of autodiff's residuals {kept[0]}, of its temporaries {kept[1]}"
    faster = "  ".join(
        f"{s} / fnconv {times_faster(ratio(row, s))}" for s in ("autodiff", "torch") if s in row["times"]
    )
    named = f"  ({_named(row)})" if _named(row) else ""
    return f"{row['name']} {row['map']}: {row['times']['fnconv']['ms']:.3f} ms  {faster}{named}"


def summary(command: str, rows: Sequence[Row]) -> Table:
    """Geometric means of the groups beside their targets, and the worst line of each."""
    table = Table(title="geometric means", box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for heading in ("group", "autodiff / fnconv", "torch / fnconv", "worst line"):
        table.add_column(heading, no_wrap=True)
    for s in standings(command, rows):
        least = f"{s.least:.2f} {s.worst['name']} {s.worst['map']}"
        if s.target.floor is not None:
            least += f" ({verdict(s.least, s.target.floor)}: {s.target.floor})"
        table.add_row(
            s.target.label,
            _beside(s.autodiff, s.target.autodiff),
            _beside(s.torch, s.target.torch),
            least,
        )
    return table


def times_faster(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _beside(figure: float | None, target: float | None) -> str:
    if figure is None or target is None:
        return times_faster(figure)
    return f"{times_faster(figure)} (>= {target:g}: {verdict(figure, target)})"


def environment(found: dict[str, Any]) -> str:
    """Two lines."""
    versions = ", ".join(f"{n} {found[n]}" for n in ("jax", "jaxlib", "torch", "python") if found[n])
    tuned = f"tuned: {found['tuned']}" if found["tuned"] else "default settings"
    flags = f"XLA_FLAGS={found['XLA_FLAGS']!r}" if found["XLA_FLAGS"] else "no XLA_FLAGS"
    machine = f"{found['processor']}, {found['cores']} cores, {found['platform']}, {found['date']}"
    return f"{machine}\n{versions}; {flags}; {tuned}"


# ---- memory and scaling ---------------------------------------------------------------------------------------------


def memory(rows: Sequence[Row]) -> Table:
    """Megabytes, and fnconv's share of autodiff's."""
    table = Table(title="memory, MB", box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for heading in ("case", "kind"):
        table.add_column(heading, no_wrap=True)
    for heading in ("residuals\nautodiff", "\nfnconv", "\nshare", "temporaries\nautodiff", "\nfnconv", "\nshare"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for what in ("residuals", "temporaries"):
            automatic, manual = (row["bytes"][side][what] for side in ("autodiff", "fnconv"))
            cells += [_megabytes(automatic), _megabytes(manual), times_faster(share(row, what))]
        table.add_row(row["name"], row["map"], *cells)
    return table


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.2f}"


def scaling(rows: Sequence[Row]) -> Table:
    """Time for each value, and the exponents of every sweep."""
    from benchmarks.scaling import exponent, steepest

    table = Table(title="time ~ work^exponent", box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("sweep", no_wrap=True)
    for heading in (
        "autodiff\nexponent",
        "\nsteepest",
        "fnconv\nexponent",
        "\nsteepest",
        "autodiff / fnconv\nleast to largest",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in dict.fromkeys(row["name"] for row in rows):
        group = [row for row in rows if row["name"] == name]
        slopes = [f"{f(group, side):.2f}" for side in ("autodiff", "fnconv") for f in (exponent, steepest)]
        ratios = [r for row in group if (r := ratio(row, "autodiff")) is not None]
        table.add_row(name, *slopes, f"{times_faster(min(ratios))} - {times_faster(max(ratios))}")
    return table
