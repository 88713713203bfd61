"""A page as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

from fnconv.show.blocks import Block, Equations, Formula, Matrix, Prose, Row, Section, Slip, Table
from fnconv.show.symbols import Expression, Notation, write
from fnconv.textbook.equations import cite

TextLine = tuple[str, str]  # text and what it is: title, heading, formula, label, slip, or nothing


NOTATION = Notation()


def lines(title: str, sections: Sequence[Section], width: int) -> Iterator[TextLine]:
    yield from ((line, "title") for line in textwrap.wrap(title, width))
    yield "═" * min(len(title), width), "title"
    for section in sections:
        yield "", ""
        *above, heading = textwrap.wrap(f"── {section.title}", width - 1)
        yield from ((line, "heading") for line in above)
        yield f"{heading} ".ljust(width, "─"), "heading"
        for block in section.blocks:
            yield "", ""
            yield from _block(block, width)


def equations(sections: Sequence[Section]) -> Iterator[str]:
    """Every equation on one line."""
    for section in sections:
        for block in section.blocks:
            for row in block.rows if isinstance(block, Equations) else ():
                value = f" = {_spell(row.value)}" if row.value is not None else ""
                yield f"{_spell(row.left)} = {_spell(row.right)}{value}"


def _block(block: Block, width: int) -> Iterator[TextLine]:
    match block:
        case Prose(text):
            yield from ((line, "") for line in textwrap.wrap(text, width))
        case Slip(text):
            yield from ((line, "slip") for line in textwrap.wrap(f"In the text: {text}", width, subsequent_indent="  "))
        case Formula(text, _, labels):
            yield from _labelled(textwrap.wrap("  " + text, width, subsequent_indent="      "), labels, width)
        case Equations():
            yield from _equations(block, width)
        case Matrix():
            yield from _row((block,), width)
        case Row(parts):
            yield from _row(parts, width)
        case Table():
            yield from _table(block, width)


def _labelled(text: list[str], labels: Sequence[str], width: int) -> Iterator[TextLine]:
    """Lines with the labels flush right of the last one, or below it."""
    label = f"[{cite(labels)}]" if labels else ""
    yield from ((line, "formula") for line in text[:-1])
    if not label or len(text[-1]) + 2 + len(label) <= width:
        yield text[-1] + label.rjust(width - len(text[-1])) if label else text[-1], "formula"
    else:
        yield text[-1], "formula"
        yield label.rjust(width), "label"


def _equations(block: Equations, width: int) -> Iterator[TextLine]:
    lefts = [write(row.left, NOTATION) for row in block.rows]
    margin = max(map(len, lefts), default=0)
    for number, (left, row) in enumerate(zip(lefts, block.rows, strict=True)):
        text = f"  {left.ljust(margin)} = {_spell(row.right)}"
        if row.value is not None:
            text += f" = {_spell(row.value)}"
        wrapped = textwrap.wrap(text, width, subsequent_indent=" " * (margin + 5), break_long_words=False)
        if number == 0:
            yield from _labelled(wrapped, block.labels, width)
        else:
            yield from ((line, "") for line in wrapped)
    if block.total > len(block.rows):
        yield f"  … {block.total - len(block.rows):,} more equations ({block.total:,} in all)", "slip"


def _spell(e: Expression) -> str:
    return write(e, NOTATION)


# ---- matrices -------------------------------------------------------------------------------------------------------


def _row(parts: Sequence[Matrix | str], width: int) -> Iterator[TextLine]:
    """Matrices next to each other, as many as fit on a line."""
    boxes = [_box(part, width) for part in parts]
    line: list[list[str]] = []
    for number, box in enumerate(boxes):
        # a sign goes to the line of the matrix behind it
        extra = len(boxes[number + 1][0]) + 2 if isinstance(parts[number], str) and number + 1 < len(boxes) else 0
        if line and sum(len(b[0]) + 2 for b in line) + len(box[0]) + extra > width - 2:
            yield from _beside(line, width)
            line = []
        line.append(box)
    yield from _beside(line, width)


def _beside(boxes: Sequence[Sequence[str]], width: int) -> Iterator[TextLine]:
    """Boxes, their lines of text of equal length, centred on a common middle; the first line of each is its name."""
    height = max(len(b) - 1 for b in boxes)
    columns = []
    for name, *body in boxes:
        above = (height - len(body)) // 2
        blank = " " * len(name)
        columns.append([name, *[blank] * above, *body, *[blank] * (height - len(body) - above)])
    names, *body = [("  " + "  ".join(line)).rstrip() for line in zip(*columns, strict=True)]
    if len(names) > width:
        names, *body = [*textwrap.wrap(names, width, subsequent_indent="  "), *body]
    yield from ((line, "") for line in (names, *body) if line)


def _box(part: Matrix | str, width: int) -> list[str]:
    """The lines of a matrix, its name first, all of one length."""
    if isinstance(part, str):
        return [" " * len(part), part]
    margin = max(map(len, part.row_heads), default=-1) + 1
    grid = part.grid(lambda e: part.blank if e is None else _spell(e), partial(_fitting, width - margin - 8))
    narrow = len(grid.rows[0]) - len(grid.column_heads)
    table = [[*grid.column_heads, *["⋯"] * narrow]] if grid.column_heads else []
    top, table = len(table), table + grid.rows
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    body = [" ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
    text = [f"{' ' * margin}  {body[0]}  "] if top else []
    heads = [f"{head} ".rjust(margin) for head in grid.row_heads] or [""] * len(grid.rows)
    text += [
        f"{head}{left} {line} {right}"
        for head, line, (left, right) in zip(heads, body[top:], _brackets(len(grid.rows)), strict=True)
    ]
    name = part.name + part.part(grid.cut)
    length = max(len(text[0]), len(name))
    return [name.ljust(length), *(line.ljust(length) for line in text)]


def _fitting(width: int, cells: list[list[str]]) -> int:
    """How many columns fit."""
    ends = accumulate(max(map(len, column)) + 1 for column in zip(*cells, strict=True))
    return sum(end <= width for end in ends)


def _brackets(height: int) -> list[tuple[str, str]]:
    if height == 1:
        return [("[", "]")]
    return [("⎡", "⎤"), *[("⎢", "⎥")] * (height - 2), ("⎣", "⎦")]


def _table(table: Table, width: int) -> Iterator[TextLine]:
    """Columns that do not fit go on below, beside the first one again."""
    rows = [table.heads, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    begin, columns = 1, len(widths)
    while begin < columns:
        end, used = begin + 1, 2 + widths[0] + 2 + widths[begin]
        while end < columns and (used := used + 2 + widths[end]) <= width:
            end += 1
        if begin > 1:
            yield "", ""
        for number, row in enumerate(rows):
            text = "  ".join(
                row[i].ljust(widths[i]) if i in table.words else row[i].rjust(widths[i])
                for i in (0, *range(begin, end))
            )
            yield "  " + text.rstrip(), "label" if number == 0 else ""
        begin = end
