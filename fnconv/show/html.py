"""A page in HTML: tables and subscripts, readable without a script and, should the style be lost, without style."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import zip_longest

from fnconv.show.blocks import Block, Equations, Formula, Matrix, Prose, Row, Section, Slip, Table
from fnconv.show.symbols import Expression, Notation, Symbol, write
from fnconv.textbook.equations import cite


class Html(Notation):
    """Expressions in HTML."""

    dot = "\u2009·\u2009"

    def symbol(self, symbol: Symbol) -> str:
        return f"<i>{symbol.name}</i>" + (f"<sub>{symbol.index}</sub>" if symbol.groups else "")

    def partial(self, symbol: str) -> str:
        return f"∂<i>L</i>/∂{symbol}"

    def number(self, number: str) -> str:
        return number.replace("-", "\N{MINUS SIGN}")

    def power(self, base: str, exponent: str) -> str:
        return f"{base}<sup>{exponent}</sup>"


NOTATION = Html()
# I_12, I_2,31, W_rs, Σ_ij, I_[2i+r-1, j+s] and I_i, but no word with an underscore
SYMBOL = re.compile(
    r"(?<![A-Za-z])([A-Za-zδφΣ])_(?:\[([^]]*)\]|([0-9]+(?:[,;][0-9]+)*|[a-z](?:,[a-z]\b|[a-z]{0,5}\b)))"
)


def document(title: str, sections: Sequence[Section], live: str = "") -> str:
    """A file of its own; live: what its reader can step through, as HTML."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title>"
    body = fragment(title, sections, live)
    end = f"<style>{_style('page')}</style>\n</body></html>\n"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n{end}'


def fragment(title: str, sections: Sequence[Section], live: str = "") -> str:
    """A part of a page, with its style."""
    parts = [f"<style>\n{_style('fragment')}</style>", '<div class="fnconv">', f"<h1>{escape(title)}</h1>"]
    parts += ["</div>", live, '<div class="fnconv">'] if live else []
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [_block(block) for block in section.blocks]
    return "\n".join([*parts, "</div>"])


def _style(name: str) -> str:
    return files("fnconv.show").joinpath(f"{name}.css").read_text("utf-8")


def marked(text: str) -> str:
    """Plain text as HTML: indices behind _ lowered, exponents behind ^ raised."""
    text = escape(text, quote=False)
    text = SYMBOL.sub(lambda m: f"{m[1]}<sub>{m[2] or m[3]}</sub>", text)
    return re.sub(r"\^(?:\(([^)]*)\)|\{([^}]*)\}|(\w))", lambda m: f"<sup>{m[1] or m[2] or m[3]}</sup>", text)


def _label(labels: tuple[str, ...]) -> str:
    return f'<span class="label">{cite(labels)}</span>' if labels else ""


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return f"<p>{marked(text)}</p>"
        case Slip(text):
            return f'<p class="slip"><b>In the text:</b> {marked(text)}</p>'
        case Formula(text, _, labels):
            return f'<p class="formula">{marked(text)} {_label(labels)}</p>'
        case Equations():
            return _equations(block)
        case Matrix():
            return f'<div class="row">{_matrix(block)}</div>'
        case Row(parts):
            inner = "".join(f"<span>{escape(p)}</span>" if isinstance(p, str) else _matrix(p) for p in parts)
            return f'<div class="row">{inner}</div>'
        case Table(heads, rows):
            kind = [' class="words"' if i in block.words else "" for i in range(len(heads))]
            top = "".join(f"<th{k}>{escape(h)}</th>" for k, h in zip(kind, heads, strict=True))
            cells = ("".join(f"<td{k}>{marked(c)}</td>" for k, c in zip(kind, row, strict=True)) for row in rows)
            body = "".join(f"<tr>{row}</tr>" for row in cells)
            return f'<table class="geometry"><tr>{top}</tr>{body}</table>'


def _spell(e: Expression) -> str:
    return write(e, NOTATION)


def _equations(block: Equations) -> str:
    rows = []
    for number, row in enumerate(block.rows):
        value = f" = {_spell(row.value)}" if row.value is not None else ""
        label = _label(block.labels) if number == 0 else ""
        cells = (_spell(row.left), "=", f"{_spell(row.right)}{value} {label}")
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    more = block.total - len(block.rows)
    text = f'<p class="more">… {more:,} more equations ({block.total:,} in all)</p>' if more else ""
    return f'<table class="equations">{"".join(rows)}</table>{text}'


def _matrix(m: Matrix) -> str:
    blank = f'<span class="zero">{m.blank}</span>'
    grid = m.grid(lambda e: blank if e is None else _spell(e))
    heads = "".join(f"<th>{escape(h)}</th>" for h in grid.column_heads)
    named = bool(grid.row_heads)
    table = f"<tr>{'<th></th>' * (1 + named)}{heads}</tr>" if heads else ""
    for number, (head, cells) in enumerate(zip_longest(grid.row_heads, grid.rows, fillvalue="")):
        side = f'<td class="%s" rowspan="{len(grid.rows)}"></td>' * (number == 0)
        left, right = side.replace("%s", "left"), side.replace("%s", "right")
        inner = "".join(f"<td>{cell}</td>" for cell in cells)
        table += f"<tr>{f'<th>{marked(head)}</th>' * named}{left}{inner}{right}</tr>"
    name = m.name + m.part()
    return f'<figure><table class="matrix">{table}</table><figcaption>{marked(name)}</figcaption></figure>'
