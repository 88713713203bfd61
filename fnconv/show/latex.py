"""A page in LaTeX: a fragment for a document with amsmath, or the mathematics alone for a notebook."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

from fnconv.show.blocks import Block, Equations, Formula, Grid, Matrix, Prose, Row, Section, Slip, Table
from fnconv.show.latex_width import BRACKETS, COLUMN, LINE, broken, fitting, parts, width
from fnconv.show.symbols import Notation, Symbol, write
from fnconv.textbook.equations import cite

# what prose and names are made of beside ASCII
CHARACTERS = {
    "φ": r"\(\phi\)", "δ": r"\(\delta\)", "∂": r"\(\partial\)", "Σ": r"\(\Sigma\)", "∞": r"\(\infty\)",
    "×": r"\(\times\)", "·": r"\(\cdot\)", "→": r"\(\to\)", "⌊": r"\(\lfloor\)", "⌋": r"\(\rfloor\)",
    "ᵀ": r"\({}^T\)", "⁶": r"\({}^6\)", "…": r"\dots{}", "≤": r"\(\le\)", "⊗": r"\(\otimes\)", "′": "'",
    "\\": r"\textbackslash{}", "_": r"\_", "^": r"\^{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#",
    "$": r"\$", "~": r"\~{}", "<": r"\(<\)", ">": r"\(>\)", "|": r"\(|\)",
}  # fmt: skip
SYMBOL = re.compile(r"(?<![A-Za-z])([A-Za-zδφ])_([0-9]+(?:[,;][0-9]+)*|[a-z]{1,3}\b)")
GREEK = {"δ": r"\delta", "φ": r"\phi"}
SIGNS = {"*": "*", "→": r"\to", "=": "=", "+": "+", "·": r"\cdot", "…": r"\cdots"}


class Latex(Notation):
    """Expressions in LaTeX's mathematics."""

    dot = r"\,"

    def more(self, hidden: int) -> str:
        return rf"\cdots \text{{ ({hidden:,} more)}}"

    def symbol(self, symbol: Symbol) -> str:
        name = GREEK.get(symbol.name, symbol.name)
        return f"{name}_{{{symbol.index}}}" if symbol.groups else name

    def partial(self, symbol: str) -> str:
        return rf"\frac{{\partial L}}{{\partial {symbol}}}"

    def number(self, number: str) -> str:
        above, _, below = number.partition("/")
        mantissa, _, power = above.partition("e")
        above = rf"{mantissa} \cdot 10^{{{int(power)}}}" if power else above
        return rf"\tfrac{{{above}}}{{{below}}}" if below else above

    def fraction(self, above: str, below: str) -> str:
        return rf"\frac{{{above}}}{{{below}}}"

    def power(self, base: str, exponent: str) -> str:
        return f"{base}^{{{exponent}}}"

    def sign(self, inner: str) -> str:
        return rf"\mathrm{{sign}}({inner})"

    def largest(self, of: list[str]) -> str:
        return rf"\max\{{{', '.join(of)}\}}"


class LatexNumbers(Latex):
    """The same with a dot between numbers, which would run into one another."""

    dot = r" \cdot "


NOTATION = Latex()
# narrower arrays, which fit a page; long blocks of equations may go on on the next one
SETTINGS = r"\begingroup \setlength{\arraycolsep}{3pt} \allowdisplaybreaks"


def fragment(title: str, sections: Sequence[Section]) -> str:
    pieces = [SETTINGS, rf"\section*{{\raggedright {prose(title)}}}"]
    for section in sections:
        pieces.append(rf"\subsection*{{{prose(section.title)}}}")
        pieces += [_block(block) for block in section.blocks]
    return "\n\n".join([*pieces, r"\endgroup"]) + "\n"


def mathematics(sections: Sequence[Section]) -> str:
    """The formulas and matrices, each in $$ $$, which is what a notebook typesets."""
    blocks = [b for section in sections for b in section.blocks]
    return "\n\n".join(f"$$\n{_mathematics(b)}\n$$" for b in blocks if not isinstance(b, Prose | Slip | Table))


def prose(text: str) -> str:
    """Plain text: symbols such as I_12 as mathematics, what LaTeX reads otherwise spelt out."""
    words = SYMBOL.split(text)  # plain, letter, index, plain, letter, index, ...
    plain = ["".join(CHARACTERS.get(c, c) for c in word) for word in words[::3]]
    symbols = [rf"\({GREEK.get(n, n)}_{{{i}}}\)" for n, i in zip(words[1::3], words[2::3], strict=True)]
    return "".join(a + b for a, b in zip_longest(plain, symbols, fillvalue=""))


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return prose(text)
        case Slip(text):
            return rf"\emph{{Slip: {prose(text)}}}"
        case Table():
            return _table(block)
        case Formula(_, latex, labels):
            lines = parts(latex)
            return _display("gather*", [*lines[:-1], lines[-1] + _tag(labels)])
        case Equations():
            return _display("align*", _equations(block, _tag(block.labels)))
        case Row():
            return "\n".join(f"\\[\n{_mathematics(Row(beside))}\n\\]" for beside in _lines(block.parts))
    return f"\\[\n{_mathematics(block)}\n\\]"


def _display(environment: str, lines: Sequence[str]) -> str:
    return f"\\begin{{{environment}}}\n" + " \\\\\n".join(lines) + f"\n\\end{{{environment}}}"


def _table(table: Table) -> str:
    columns = "".join("l" if i in table.words else "r" for i in range(len(table.heads)))
    rows = "\n".join(" & ".join(map(prose, row)) + r" \\" for row in (table.heads, *table.rows))
    letters = sum(max(map(len, column)) for column in zip(table.heads, *table.rows, strict=True))
    size = r"\footnotesize" if letters < 70 else r"\scriptsize"
    return (
        rf"{{\noindent{size} \setlength{{\tabcolsep}}{{3pt}}"
        + f"\n\\begin{{tabular}}{{{columns}}}\n{rows}\n\\end{{tabular}}}}"
    )


def _lines(members: Sequence[Matrix | str]) -> list[tuple[Matrix | str, ...]]:
    """Matrices that fit beside each other; a sign stands before the matrix that it belongs to."""
    rows: list[list[Matrix | str]] = [[]]
    used = 0.0
    for number, part in enumerate(members):
        wide = _width(part)
        behind = _width(members[number + 1]) if isinstance(part, str) and number + 1 < len(members) else 0
        if rows[-1] and used + wide + behind > LINE and not (number and isinstance(members[number - 1], str)):
            rows.append([])
            used = 0
        rows[-1].append(part)
        used += wide
    return [tuple(row) for row in rows]


def _width(part: Matrix | str) -> float:
    if isinstance(part, str):
        return width(_sign(part)) + 5
    grid = _grid(part)
    columns = sum(max(map(width, column)) + COLUMN for column in zip(*grid.rows, strict=True))
    return max(BRACKETS + columns + _margin(part), 0.7 * width(_name(part, grid.cut)))


def _mathematics(block: Block) -> str:
    match block:
        case Formula(_, latex, labels):
            return latex + _tag(labels)
        case Equations():
            return _display("aligned", _equations(block)) + _tag(block.labels)
        case Matrix():
            return _matrix(block)
        case Row(members):
            return " ".join(_sign(p) if isinstance(p, str) else _matrix(p) for p in members)
    raise TypeError(f"latex: no mathematics in {type(block).__name__}")


def _equations(block: Equations, tag: str = "") -> list[str]:
    """Lines, the tag behind the first equation."""
    lines: list[str] = []
    for number, row in enumerate(block.rows):
        left = write(row.left, NOTATION)
        right = write(row.right, LatexNumbers() if row.value is not None else NOTATION)
        value = f" = {write(row.value, NOTATION)}" if row.value is not None else ""
        first, *others = broken(right, LINE - width(f"{left} =") - width(value))
        lines += [f"{left} &= {first}", *(rf"&\qquad {{}} {line}" for line in others)]
        lines[-1] += value + (tag if number == 0 else "")
    if block.total > len(block.rows):
        lines.append(rf"&\;\;\vdots \quad \text{{{block.total - len(block.rows):,} more}}")
    return lines


def _tag(labels: Sequence[str]) -> str:
    return rf" \tag*{{[{cite(labels)}]}}" if labels else ""


def _sign(text: str) -> str:
    return " ".join(SIGNS.get(word, word if len(word) == 1 else rf"\text{{{word}}}") for word in text.split())


def _grid(m: Matrix) -> Grid:
    blank = r"\cdot" if m.blank == "·" else m.blank
    return m.grid(
        lambda e: blank if e is None else write(e, NOTATION), partial(fitting, _margin(m)), (r"\cdots", r"\vdots")
    )


def _margin(m: Matrix) -> float:
    return max((0.7 * width(head) for head in m.row_heads), default=0) + (COLUMN if m.row_heads else 0)


def _name(m: Matrix, cut: bool) -> str:
    return prose(m.name + m.part(cut))


def _matrix(m: Matrix) -> str:
    grid = _grid(m)
    columns, heads = "c" * len(grid.rows[0]), [rf"\scriptstyle {head} & " if head else " & " for head in grid.row_heads]
    rows = [head + " & ".join(row) for head, row in zip(heads or [""] * len(grid.rows), grid.rows, strict=True)]
    body = " \\\\\n".join(rows)
    if not (m.row_heads or m.column_heads):
        table = rf"\left[\begin{{array}}{{{columns}}}" + f"\n{body}\n" + r"\end{array}\right]"
    else:
        top = " & ".join([*[""] * bool(heads), *(rf"\scriptstyle {h}" if h else "" for h in grid.column_heads)])
        top = f"{top} \\\\ \\hline\n" if m.column_heads else ""
        table = rf"\begin{{array}}{{{'r' if heads else ''}|{columns}|}}" + f"\n{top}{body}\n" + r"\end{array}"
    return rf"\overset{{\text{{{_name(m, grid.cut)}}}}}{{{table}}}"
