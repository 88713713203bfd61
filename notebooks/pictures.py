"""Pictures of arrays: numbers in cells, arrows between cells, matrices as heat maps.

A `Canvas` places arrays from left to right, each as wide as its longest label needs, so that nothing overlaps by
construction; arrays and operators of a row have their middles on one line.  `flow` draws a layer: forward, what is
kept, backward.  A notebook refuses to show a figure in which two labels touch (`overlapping`).
Importing this module in a notebook gives every figure one resolution and a description in words (`describe`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.text import Text
from matplotlib.textpath import TextPath

CELL = 0.42  # inches
GAP = 0.6  # between two things of a row, in units of CELL
NUMBER, LABEL, TITLE = 11, 9, 12  # points
DPI = 90

# One colour for one role, in all notebooks (Okabe and Ito's palette, which the colour-blind can tell apart).
COLOURS = {
    "x": "#56B4E9",  # inputs
    "w": "#E69F00",  # kernels
    "y": "#009E73",  # outputs
    "d": "#CC79A7",  # cotangents: gradients with respect to outputs
    "g": "#F0E442",  # gradients that are computed
    "none": "#FFFFFF",
    "padding": "#DDDDDD",
}
INK = "#222222"


@cache
def _size(text: str, points: float) -> tuple[float, float]:
    """Width and height of a text in inches, mathematics included."""
    if not text.strip():
        return 0.0, 0.0
    box = TextPath((0, 0), text, size=points, prop=FontProperties(family="DejaVu Sans")).get_extents()
    return box.width / 72, max(box.height, points) / 72


def number(value: Any) -> str:
    """What is written in a cell: strings as they are, integers without a point, others with three digits."""
    if isinstance(value, str):
        return value
    value = np.asarray(value).item()
    if isinstance(value, bool):
        return str(int(value))
    text = f"{value:.3g}" if value != round(value) else f"{value:.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


@dataclass
class Placed:
    """An array on the canvas: its upper left corner and the size of its cells, in units of CELL.

    y is 0 until the row is complete, for the tallest array of the row decides it.
    """

    x: float
    y: float
    wide: float
    high: float
    rows: int
    columns: int

    def centre(self, cell: tuple[int, int]) -> tuple[float, float]:
        return self.x + (cell[1] + 0.5) * self.wide, self.y + (cell[0] + 0.5) * self.high


class Canvas:
    """Arrays and operators from left to right, row after row, the middles of a row on one line.

    canvas = Canvas()
    canvas.array([[1, 2], [3, 4]], "input", colour="x")
    canvas.text("$*$")
    canvas.array([[1, 0]], "kernel", colour="w", mark=[(0, 0)])
    canvas.show()
    """

    def __init__(self) -> None:
        self.figure = Figure()
        self.axes = self.figure.subplots()
        self.axes.set_axis_off()
        self.axes.set_aspect("equal")
        self._x = self._top = self._right = 0.0
        self._row: list[
            tuple[float, float, Callable[[float], None]]
        ] = []  # above, below the middle; draw(middle)

    # ---- placing ----------------------------------------------------------------------------------------------------

    def array(
        self,
        values: Any,
        title: str = "",
        *,
        colour: str | Sequence[Sequence[str]] = "none",
        mark: Sequence[tuple[int, int]] = (),
        rows: Sequence[Any] = (),
        columns: Sequence[Any] = (),
        zeros: bool = True,
    ) -> None:
        """An array with its numbers (or strings, mathematics in $...$) in cells; a vector is drawn as a column.

        colour: a role of COLOURS, for all cells or one per cell; mark: cells (i, j) with a thick border;
        rows, columns: labels along the sides; zeros=False leaves the cells that hold 0 empty.
        """
        cells = _as_matrix(values)
        words = [["" if not zeros and w == "0" else w for w in map(number, row)] for row in cells]
        wide = max(1.0, *(_size(w, NUMBER)[0] / CELL + 0.35 for row in words for w in row))

        def draw(placed: Placed) -> None:
            for i, row in enumerate(words):
                for j, word in enumerate(row):
                    role = colour if isinstance(colour, str) else colour[i][j]
                    self._cell(placed, i, j, _tint(COLOURS[role]), (i, j) in set(mark))
                    if word:
                        self._write(placed.centre((i, j)), word, NUMBER)

        self._place(len(words), len(words[0]), wide, 1.0, title, rows, columns, draw)

    def heat(
        self,
        values: Any,
        title: str = "",
        *,
        cell: float = 0.4,
        colour: str = "y",
        rows: Sequence[Any] = (),
        columns: Sequence[Any] = (),
        every: tuple[int, int] = (0, 0),
    ) -> None:
        """A matrix without its numbers: the larger |value|, the darker; negative ones in another colour.

        cell: side of a cell in units of CELL; every=(r, c): a line after every r rows and c columns, 0 for none.
        """
        cells = np.asarray(_as_matrix(values), float)
        side = max([cell, *(_size(str(c), LABEL)[1] / CELL + 0.08 for c in [*rows, *columns])])
        scale = np.max(np.abs(cells), initial=0) or 1
        shown = _shades(cells / scale, COLOURS[colour], COLOURS["d"] if colour != "d" else COLOURS["w"])
        height, width = cells.shape

        def draw(placed: Placed) -> None:
            x1, y1 = placed.x + width * side, placed.y + height * side
            image = self.axes.imshow(
                shown,
                extent=(placed.x, x1, y1, placed.y),
                interpolation="nearest",
                aspect="equal",
                zorder=1,
            )
            image.set_gid(_digest(cells))
            for step, count, lines, low, high, start in (
                (every[0], height, self.axes.hlines, placed.x, x1, placed.y),
                (every[1], width, self.axes.vlines, placed.y, y1, placed.x),
            ):
                inner = [start + n * side for n in range(step, count, step)] if step else []
                at = [start, *inner, start + count * side]
                lines(at, low, high, color=INK, linewidth=0.8, zorder=2)

        self._place(*cells.shape, side, side, title, rows, columns, draw)

    def text(self, words: str) -> None:
        """An operator or a few words, on the line of the arrays' middles."""
        width, x = _size(words, TITLE)[0] / CELL, self._x
        self._row.append((0.5, 0.5, lambda middle: self._write((x + width / 2, middle), words, TITLE)))
        self._x += width + GAP

    def line(self, gap: float = 0.6) -> None:
        """The next array starts a new row."""
        above, below = (max((item[side] for item in self._row), default=0.0) for side in (0, 1))
        for _, _, draw in self._row:
            draw(self._top + above)
        self._right = max(self._right, self._x - GAP)
        self._x, self._top, self._row = 0.0, self._top + above + below + gap, []

    def show(self) -> Figure:
        """Fit the figure to what is on it; the last expression of a cell, so that the notebook shows it."""
        self.line(gap=0.0)
        margin = 0.15
        width, height = self._right + 2 * margin, self._top + 2 * margin
        self.figure.set_size_inches(width * CELL, height * CELL)
        self.axes.set_position((0, 0, 1, 1))
        self.axes.set_xlim(-margin, self._right + margin)
        self.axes.set_ylim(self._top + margin, -margin)
        return self.figure

    # ---- drawing ----------------------------------------------------------------------------------------------------

    def _place(
        self,
        rows: int,
        columns: int,
        wide: float,
        high: float,
        title: str,
        left: Sequence[Any],
        top: Sequence[Any],
        draw: Callable[[Placed], None],
    ) -> None:
        head = _size(title, TITLE)[1] / CELL + 0.35 if title else 0.0
        names = [str(c) for c in top]
        upright = any(_size(c, LABEL)[0] / CELL + 0.15 > wide for c in names)
        above = max((_size(c, LABEL)[0 if upright else 1] / CELL + 0.3 for c in names), default=0.0)
        beside = max((_size(str(r), LABEL)[0] / CELL + 0.25 for r in left), default=0.0)
        body = columns * wide
        overhang = max(0.0, (_size(title, TITLE)[0] / CELL - body) / 2)
        placed = Placed(self._x + max(beside, overhang), 0.0, wide, high, rows, columns)

        def complete(middle: float) -> None:
            placed.y = middle - rows * high / 2
            if title:
                at = placed.y - above - head / 2 - 0.1
                self._write((placed.x + body / 2, at), title, TITLE)
            for j, name in enumerate(names):
                at = placed.x + (j + 0.5) * wide
                self._write((at, placed.y - above / 2), name, LABEL, rotation=90 if upright else 0)
            for i, name in enumerate(left):
                self._write(
                    (placed.x - 0.12, placed.y + (i + 0.5) * high), str(name), LABEL, ha="right"
                )
            draw(placed)

        self._row.append((head + above + rows * high / 2, rows * high / 2, complete))
        self._x = placed.x + body + overhang + GAP

    def _cell(self, placed: Placed, i: int, j: int, colour: Any, marked: bool) -> None:
        corner = placed.x + j * placed.wide, placed.y + i * placed.high
        self.axes.add_patch(
            Rectangle(corner, placed.wide, placed.high, facecolor=colour, edgecolor=INK, linewidth=0.8)
        )
        if marked:
            inner = (corner[0] + 0.05, corner[1] + 0.05)
            size = (placed.wide - 0.1, placed.high - 0.1)
            self.axes.add_patch(
                Rectangle(inner, *size, fill=False, edgecolor="#D55E00", linewidth=2.5, zorder=4)
            )

    def _box(self, at: tuple[float, float], words: str, role: str, wide: float = 0.0) -> None:
        wide = wide or _width(words, TITLE) + 0.5
        corner, shape = (at[0] - wide / 2, at[1] - 0.5), "round,pad=0,rounding_size=0.2"
        colour = _tint(COLOURS[role])
        self.axes.add_patch(
            FancyBboxPatch(
                corner, wide, 1.0, boxstyle=shape, facecolor=colour, edgecolor=INK, linewidth=0.8
            )
        )
        self._write(at, words, TITLE)

    def _arrow(self, start: tuple[float, float], stop: tuple[float, float], style: str = "-") -> None:
        arrow = FancyArrowPatch(
            start,
            stop,
            arrowstyle="-|>",
            linestyle=style,
            color=INK,
            mutation_scale=11,
            linewidth=1.2,
            shrinkA=0,
            shrinkB=0,
        )
        self.axes.add_patch(arrow)

    def _write(self, at: tuple[float, float], words: str, points: float, **options: Any) -> None:
        options = {"ha": "center", "va": "center", "color": INK, "zorder": 6} | options
        self.axes.text(*at, words, fontsize=points, **options)


def _as_matrix(values: Any) -> list[list[Any]]:
    if not isinstance(values, list):
        values = np.asarray(values).tolist()
    if not isinstance(values, list):
        return [[values]]
    return [row if isinstance(row, list) else [row] for row in (np.asarray(r).tolist() for r in values)]


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _tint(colour: str) -> tuple[float, ...]:
    """Light enough to write on."""
    return tuple(1 - 0.55 * (1 - _rgb(colour)))


def _shades(cells: np.ndarray, positive: str, negative: str) -> np.ndarray:
    """Values from -1 to 1 as colours, 0 white, 1 and -1 full."""
    full = np.where(cells[..., None] >= 0, _rgb(positive), _rgb(negative))
    return 1 - np.abs(cells[..., None]) * (1 - full)


# ---- flow diagrams --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One map of a layer: what it does forward and backward, what it keeps for the way back, its weight's part."""

    forward: str
    backward: str
    kept: str = ""
    weight: str = ""
    weight_gradient: str = ""


def flow(
    values: Sequence[str], steps: Sequence[Step], gradients: Sequence[str], *, colour: str = "x"
) -> Figure:
    """A layer as a diagram: values[n] becomes values[n + 1] by steps[n]; below, gradients[n + 1] becomes gradients[n].

    A dashed arrow leads from what a step keeps to where the way back uses it.  colour: the role of all values but the
    last.
    """
    canvas = Canvas()
    weights = any(step.weight for step in steps)
    forward = 2.4 if weights else 1.0
    backward = forward + 3.0
    bottom = backward + (2.0 if weights else 0.6)
    x = max(_width(words, LABEL) for words in ("forward", "backward")) + 0.4
    canvas._write((0, forward), "forward", LABEL, ha="left")
    canvas._write((0, backward), "backward", LABEL, ha="left")
    for n, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        inside = n < len(steps)
        wide = max(_width(value, TITLE), _width(gradient, TITLE)) + 0.5
        canvas._box((x + wide / 2, forward), value, colour if inside else "y", wide)
        canvas._box((x + wide / 2, backward), gradient, "g" if inside else "d", wide)
        x += wide
        if not inside:
            break
        step = steps[n]
        boxes = [_width(words, TITLE) for words in (step.weight, step.weight_gradient)]
        labels = [_width(words, LABEL) for words in (step.forward, step.backward)]
        long = max(*boxes, *labels, 2 * _width(step.kept, LABEL)) + 1.2
        middle = x + long / 2
        canvas._arrow((x, forward), (x + long, forward))
        canvas._arrow((x + long, backward), (x, backward))
        canvas._write((middle, forward - 0.45), step.forward, LABEL)
        canvas._write((middle, backward - 0.45), step.backward, LABEL)
        if step.kept:
            canvas._arrow((middle, forward + 0.1), (middle, backward - 0.9), "--")
            canvas._write((middle + 0.2, (forward + backward) / 2 - 0.4), step.kept, LABEL, ha="left")
        if step.weight:
            canvas._box((middle, 0.5), step.weight, "w")
            canvas._arrow((middle, 1.0), (middle, forward - 0.9))
        if step.weight_gradient:
            canvas._arrow((middle, backward + 0.1), (middle, bottom - 0.5))
            canvas._box((middle, bottom), step.weight_gradient, "g")
        x += long
    canvas._right, canvas._top = x, bottom + 0.5
    return canvas.show()


def _width(words: str, points: float) -> float:
    return _size(words, points)[0] / CELL


# ---- charts ---------------------------------------------------------------------------------------------------------


def chart(
    title: str = "", x: str = "", y: str = "", *, size: tuple[float, float] = (5.5, 3.0)
) -> tuple[Figure, Axes]:
    """An empty chart with its labels; draw on the axes, return the figure as the last expression of the cell."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=TITLE)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


# ---- what a figure says ---------------------------------------------------------------------------------------------


def describe(figure: Figure) -> str:
    """A figure in words: all that is written on it, and a digest of every matrix of integers in it.

    It stands where a reader without pictures looks for one, and is what a check of the notebooks compares.
    """
    lines = []
    for axes in figure.axes:
        written = [
            axes.get_title(),
            axes.get_xlabel(),
            axes.get_ylabel(),
            *(t.get_text() for t in axes.texts),
        ]
        if legend := axes.get_legend():
            written += [t.get_text() for t in legend.get_texts()]
        lines.append("picture: " + " | ".join(filter(None, written)))
        lines += [f"matrix: {image.get_gid()}" for image in axes.images if image.get_gid()]
        counts = {"lines": len(axes.lines), "bars": sum(len(c) for c in axes.containers)}
        lines += [f"{count} {what}" for what, count in counts.items() if count]
    return "\n".join(lines)


def _digest(cells: np.ndarray) -> str:
    shape = " x ".join(map(str, cells.shape))
    if not np.array_equal(cells, np.round(cells)):
        return shape
    return f"{shape}, {hashlib.sha256(cells.astype(np.int64).tobytes()).hexdigest()[:12]}"


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of labels that touch."""
    figure.draw_without_rendering()
    boxes = [(t.get_text(), t.get_window_extent()) for t in _labels(figure)]
    return [(a, b) for (a, box), (b, other) in combinations(boxes, 2) if box.overlaps(other)]


def _labels(figure: Figure) -> Iterator[Text]:
    for axes in figure.axes:
        labels = [axes.title, *axes.texts]
        if legend := axes.get_legend():
            labels += legend.get_texts()
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            labels += [
                axis.label,
                axis.offsetText,
                *(t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high),
            ]
        yield from (text for text in labels if text.get_visible() and text.get_text().strip())


# ---- in a notebook --------------------------------------------------------------------------------------------------


def png(figure: Figure) -> bytes:
    """The figure as PNG; refused where labels touch, which only a look at the picture would show."""
    if touching := overlapping(figure):
        raise ValueError(f"pictures: labels of a figure must not touch each other; got {touching[:3]}")
    file = BytesIO()
    figure.savefig(
        file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None}
    )
    return file.getvalue()


def _in_notebook() -> None:
    shell = get_ipython()
    if shell is not None:
        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(Figure, png)
        formatters["text/plain"].for_type(
            Figure, lambda figure, printer, cycle: printer.text(describe(figure))
        )


_in_notebook()
