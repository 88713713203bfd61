"""Ratios of many cases, in groups: every case, and the geometric mean of each group, on one logarithmic axis.

One picture is of the measured times of layers and pools, another of what is counted of programs for accelerators.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import accelerators
from benchmarks.kept import COUNTED, Results, digest
from benchmarks.targets import ratio, standings

SIDES = {"autodiff": ("over JAX's automatic gradients", "tab:blue"), "torch": ("over Torch", "tab:orange")}
TICKS = (0.25, 0.5, 1, 2, 4, 10, 20, 50, 100, 200, 500)


class Series(NamedTuple):
    """Of one side: what it is called, its colour, and for each group its ratios and their geometric mean."""

    label: str
    colour: str
    groups: list[tuple[list[float], float | None]]


def draw(results: Results, path: Path) -> None:
    """Speed-up of layers and pools, as SVG, with the digest of the measurements in its description."""
    found = [
        (s, results[c]["rows"]) for c in ("layers", "pools") if c in results for s in standings(c, results[c]["rows"])
    ]
    series = [
        Series(
            label,
            colour,
            [
                ([r for row in rows if s.target.has(row) and (r := ratio(row, side)) is not None], getattr(s, side))
                for s, rows in found
            ],
        )
        for side, (label, colour) in SIDES.items()
    ]
    _chart([s.target.label for s, _ in found], series, TICKS, "speed-up: their time ÷ ours", digest(results), path)


def draw_counted(results: Results, path: Path) -> None:
    """Autodiff's cycles or bytes over fnconv's for each target, in the same way."""
    targets = [c.removeprefix("accelerators-") for c in COUNTED if c in results]
    of_targets = {t: accelerators.grouped(results[f"accelerators-{t}"]["rows"]) for t in targets}
    groups = list(dict.fromkeys(group for of in of_targets.values() for group in of))
    series = []
    for target, colour in zip(targets, ("tab:blue", "tab:orange", "tab:green"), strict=False):
        ratios = [[accelerators.ratio(target, row) for row in of_targets[target].get(group, [])] for group in groups]
        means = [accelerators.geometric_mean(each) if each else None for each in ratios]
        series.append(Series(f"{target}: {accelerators.unit(target)}", colour, list(zip(ratios, means, strict=True))))
    what = "autodiff's ÷ ours, counted, not run"
    labels = [f"{group}, {map_}" for group, map_ in groups]
    _chart(labels, series, (0.25, 0.5, 1, 2, 4), what, digest(results), path)


def _chart(
    groups: Sequence[str], series: Sequence[Series], ticks: Sequence[float], what: str, measured: str, path: Path
) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "fnconv", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(groups) + 1.2), layout="constrained")
        beside = axes.get_yaxis_transform()  # x in parts of the width
        for n, (label, colour, ratios) in enumerate(series):
            named = iter([label])
            for i, (each, mean) in enumerate(ratios):
                y = i + 0.28 * (n / max(1, len(series) - 1) - 0.5)
                axes.plot(each, [y] * len(each), "|", color=colour, alpha=0.4)
                if mean is not None:
                    axes.plot([mean], [y], "o", color=colour, label=next(named, None))
                    axes.text(
                        1.01,
                        y,
                        f"{mean:.2f}" if mean < 10 else f"{mean:.0f}",
                        transform=beside,
                        color=colour,
                        va="center",
                        fontsize=8 if len(series) < 3 else 5,
                    )
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(xscale="log", yticks=range(len(groups)), yticklabels=groups)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"{what}; ticks: single cases, dots and figures: geometric means")
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=2)
        figure.savefig(path, format="svg", metadata={"Date": None, "Description": measured})
        pyplot.close(figure)
