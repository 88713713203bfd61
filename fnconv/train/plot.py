"""One figure of a run: loss and accuracy by epoch, the drift of two copies, and the kernels of the first layer."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fnconv.base.errors import invalid
from fnconv.train.run import Run

FORMATS = (".png", ".svg", ".pdf")
COLOURS = {"train": "tab:orange", "test": "tab:blue"}
# Two copies often coincide, so the second is drawn broad and pale beneath the first.
STYLES: tuple[dict[str, Any], ...] = (
    {"linewidth": 1.5, "marker": ".", "zorder": 3},
    {"linewidth": 6, "marker": "s", "alpha": 0.3, "zorder": 2},
)


def check_plot(path: Path) -> None:
    """Refuse a `path` that `save_plot` could not write, before the training that the plot is of."""
    if path.suffix.lower() not in FORMATS:
        raise invalid("check_plot", "path", f"must end in {', '.join(FORMATS)}", path)
    if path.is_dir() or not path.parent.is_dir():
        raise invalid("check_plot", "path", "must be a file in an existing directory", path)


def save_plot(path: Path, run: Run) -> None:
    """Draw `run` and write the figure to `path`, in the format of its extension."""
    draw(run).savefig(path, dpi=150)


def draw(run: Run) -> Figure:
    """The figure of `run`: curves above, kernels below."""
    panels = 3 if run.config.gradients == "both" else 2
    figure = Figure(figsize=(4.2 * panels, 4.4 + 1.6 * len(run.copies)), layout=ConstrainedLayoutEngine(w_pad=0.1))
    grid = figure.add_gridspec(2, 1, height_ratios=(4.4, 1.6 * len(run.copies)))
    curves, kernels = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    figure.suptitle(
        f"LeNet-5 ({run.config.model}), {run.config.gradients} gradients, "
        f"seed {run.config.seed}, after epoch {len(run.history)}"
    )
    axes = curves.subplots(1, panels)
    _draw_curves(axes[0], run, "loss")
    axes[0].set(title="Loss", ylabel="mean cross-entropy", yscale="log")
    _draw_curves(axes[1], run, "accuracy")
    axes[1].set(title="Accuracy", ylabel="share of right answers")
    if panels == 3:
        _draw_drift(axes[2], run)
    for panel in axes:
        panel.set(xlabel="epoch", xlim=(0.5, len(run.history) + 0.5))
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panel.grid(alpha=0.3)
        panel.legend()
    _draw_kernels(kernels, run)
    return figure


def _draw_curves(axes: Axes, run: Run, quantity: str) -> None:
    epochs = range(1, len(run.history) + 1)
    for name, style in zip(run.copies, STYLES, strict=False):
        for split, colour in COLOURS.items():
            values = [getattr(epoch.metrics[name], f"{split}_{quantity}") for epoch in run.history]
            axes.plot(epochs, values, color=colour, **style, label=f"{split}, {name}")


def _draw_drift(axes: Axes, run: Run) -> None:
    epochs = range(1, len(run.history) + 1)
    drifts = [epoch.drift for epoch in run.history if epoch.drift is not None]
    axes.plot(epochs, [drift.max_abs for drift in drifts], "-", color="tab:red", marker=".", label="largest difference")
    axes.plot(epochs, [drift.relative_l2 for drift in drifts], "--", color="tab:red", marker=".", label="relative L2")
    axes.set(title="Drift of manual from autodiff", ylabel="difference of the weights", yscale="log")


def _draw_kernels(figure: SubFigure, run: Run) -> None:
    kernels = {name: np.asarray(copy.params["c1.w"])[:, :, 0, :] for name, copy in run.copies.items()}
    limit = max(float(np.abs(kernel).max()) for kernel in kernels.values())
    rows = figure.subplots(len(kernels), 6, squeeze=False)
    for row, (name, kernel) in zip(rows, kernels.items(), strict=True):
        for number, axes in enumerate(row):
            image = axes.imshow(kernel[:, :, number], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set(xticks=[], yticks=[], title=f"kernel {number + 1}")
        row[0].set_ylabel(name)
    figure.colorbar(image, ax=rows, shrink=0.9, label="weight")
    figure.suptitle("Kernels of the first layer, C1")
