"""Speed-up of layers and pools: every case, and the geometric mean of each group, on one logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.kept import Results, digest
from benchmarks.targets import ratio, standings

SIDES = {"autodiff": ("over JAX's automatic gradients", "tab:blue"), "torch": ("over Torch", "tab:orange")}
TICKS = (0.25, 0.5, 1, 2, 4, 10, 20, 50, 100, 200, 500)


def draw(results: Results, path: Path) -> None:
    """As SVG, with the digest of the measurements in its description."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    groups: list[tuple[str, list[Any], Any]] = []
    for command in (name for name in ("layers", "pools") if name in results):
        rows = results[command]["rows"]
        groups += [(s.target.label, [r for r in rows if s.target.has(r)], s) for s in standings(command, rows)]
    with pyplot.rc_context({"svg.hashsalt": "fnconv", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(groups) + 1.2), layout="constrained")
        beside = axes.get_yaxis_transform()  # x in parts of the width
        labels = {side: label for side, (label, _) in SIDES.items()}
        for i, (_, rows, standing) in enumerate(groups):
            for side, (_, colour) in SIDES.items():
                y = i + (0.14 if side == "torch" else -0.14)
                each = [r for row in rows if (r := ratio(row, side)) is not None]
                axes.plot(each, [y] * len(each), "|", color=colour, alpha=0.4)
                mean = getattr(standing, side)
                if mean is not None:
                    axes.plot([mean], [y], "o", color=colour, label=labels.pop(side, None))
                    axes.text(
                        1.01,
                        y,
                        f"{mean:.2f}" if mean < 10 else f"{mean:.0f}",
                        transform=beside,
                        color=colour,
                        va="center",
                        fontsize=8,
                    )
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(xscale="log", yticks=range(len(groups)), yticklabels=[label for label, _, _ in groups])
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("speed-up: their time ÷ ours; ticks: single cases, dots and figures: geometric means")
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=2)
        figure.savefig(path, format="svg", metadata={"Date": None, "Description": digest(results)})
        pyplot.close(figure)
