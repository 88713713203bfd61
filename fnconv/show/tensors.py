"""Tensors as matrices: one for each channel and, past two spatial dimensions, for each slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

from fnconv.base.geometry import Axis, volume
from fnconv.show.blocks import (
    EQUATIONS,
    TENSORS,
    Block,
    Equation,
    Equations,
    Matrix,
    Prose,
    Row,
    Table,
    matrix,
    readable,
)
from fnconv.show.numbers import Written
from fnconv.show.relation import first
from fnconv.show.symbols import Expression, Number

Index = tuple[int, ...]
Entry = Callable[[tuple[int, ...], Index], Expression | None]


def slices(name: str, channels: Index, spatial: Index, entry: Entry) -> list[Matrix]:
    """The first matrices of a tensor; entry(channel indices, spatial index)."""
    lead, plane = spatial[:-2], spatial[-2:] if len(spatial) > 1 else (1, *spatial)

    def one(at: Index) -> Matrix:
        c, front = at[: len(channels)], at[len(channels) :]
        title = ", ".join(filter(None, (name, headings(channels, at))))
        flat = len(spatial) == 1
        return matrix(title, (plane[0], plane[1]), lambda i, j: entry(c, (j,) if flat else (*front, i, j)))

    return [one(at) for at in first((*channels, *lead), TENSORS)]


def headings(channels: Index, at: Index, before: Index = ()) -> str:
    """ "kernel 1, channel 2, slice 3": which of a tensor's matrices this is; `before`, slices that are padding."""
    c, front = at[: len(channels)], at[len(channels) :]
    words = ("kernel", "channel")[2 - len(c) :]
    heads = [f"{word} {i + 1}" for word, i, n in zip(words, c, channels, strict=True) if n > 1]
    slices = (i + 1 - low for i, low in zip_longest(front, before[: len(front)], fillvalue=0))
    heads += [f"slice {','.join(map(str, slices))}"] if front else []
    return ", ".join(heads)


def remaining(channels: Index, spatial: Index) -> list[Block]:
    """What is said where not all matrices of a tensor are shown."""
    total = volume((*channels, *spatial[:-2]))
    hidden = total - readable(total, TENSORS)
    return [Prose(f"… and {hidden:,} more matrices of the input.")] if hidden else []


def side_by_side(*parts: Sequence[Matrix] | str) -> Row:
    """Rows of matrices; several matrices of one tensor stand next to each other."""
    flat: list[Matrix | str] = []
    for part in parts:
        flat += [part] if isinstance(part, str) else list(part)
    return Row(tuple(flat))


def tensor(layer: Written, name: str, values: bool) -> list[Matrix]:
    """One of a layer's tensors as matrices of symbols or of numbers."""
    symbol, channels, spatial = layer.tensors[name]
    return slices(name, channels, spatial, lambda c, i: layer.put(symbol(c, i), values))


def equations(
    layer: Written, pairs: Iterable[tuple[Expression, Expression]], total: int, labels: Sequence[str], values: bool
) -> Equations:
    """left = right, or with numbers for the symbols on the right and what fnconv computes for the left."""
    rows = (
        Equation(left, layer.put(right, values), Number(layer.result(left)) if values else None)
        for left, right in pairs
    )
    return Equations(tuple(rows), total, tuple(labels))


def shape_of(index: Sequence[int]) -> str:
    """ "3×3"."""
    return "×".join(map(str, index))


def with_channels(spatial: Sequence[int], channels: int) -> str:
    """ "3×3", or "3×3 (2 channels)"."""
    return shape_of(spatial) + (f" ({channels} channels)" if channels > 1 else "")


def too_large(equations: int) -> list[Block]:
    """What is said where matrices and equations do not fit on a page."""
    if equations <= EQUATIONS[0]:
        return []
    return [Prose("This is too large to be read as a whole: matrices and equations are shown by a corner.")]


def axes_table(axes: Sequence[Axis]) -> Table:
    """The geometry, an axis a row."""
    heads = ("axis", "input", "window", "stride", "dilation", "padding", "output", "left over")
    rows = []
    for number, a in enumerate(axes, start=1):
        padding = f"{a.low} low, {a.high} high" if a.low != a.high else str(a.low)
        numbers = (number, a.size, a.window, a.stride, a.dilation, padding, a.output, a.leftover)
        rows.append(tuple(map(str, numbers)))
    return Table(heads, tuple(rows))
