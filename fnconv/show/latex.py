"""A page in LaTeX: a fragment for a document with amsmath, or the mathematics alone for a notebook."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from fnconv.equations import cite
from fnconv.show.blocks import Block, Equations, Formula, Matrix, Prose, Row, Section, Slip, Table
from fnconv.show.symbols import Expression, Sum, Symbol, write

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


class Latex:
    """Expressions in LaTeX's mathematics."""

    dot, plus, ellipsis = r"\,", " + ", r"\cdots"

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

    def parentheses(self, inner: str) -> str:
        return f"({inner})"

    def fraction(self, above: str, below: str) -> str:
        return rf"\frac{{{above}}}{{{below}}}"

    def power(self, base: str, exponent: str) -> str:
        return f"{base}^{{{exponent}}}"

    def modulus(self, inner: str) -> str:
        return f"|{inner}|"

    def sign(self, inner: str) -> str:
        return rf"\mathrm{{sign}}({inner})"

    def largest(self, of: list[str]) -> str:
        return rf"\max\{{{', '.join(of)}\}}"


class Numbers(Latex):
    """The same with a dot between numbers, which would run into one another."""

    dot = r" \cdot "


NOTATION = Latex()
TERMS, COLUMNS = 8, 16  # on a line


def fragment(title: str, sections: Sequence[Section]) -> str:
    parts = [rf"\section*{{{prose(title)}}}"]
    for section in sections:
        parts.append(rf"\subsection*{{{prose(section.title)}}}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


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
        case Table(heads, rows):
            lines = [" & ".join(map(prose, row)) + r" \\" for row in (heads, *rows)]
            return "\n".join([rf"\begin{{tabular}}{{{'r' * len(heads)}}}", *lines, r"\end{tabular}"])
    if isinstance(block, Row):
        return "\n".join(f"\\[\n{_mathematics(Row(parts))}\n\\]" for parts in _lines(block.parts))
    return f"\\[\n{_mathematics(block)}\n\\]"


def _lines(parts: Sequence[Matrix | str]) -> list[tuple[Matrix | str, ...]]:
    """Matrices that fit beside each other, by their columns; a sign stands before the matrix that it belongs to."""
    rows: list[list[Matrix | str]] = [[]]
    used = 0
    for number, part in enumerate(parts):
        behind = parts[number + 1] if isinstance(part, str) and number + 1 < len(parts) else part
        wide = 1 + len(behind.rows[0]) if isinstance(behind, Matrix) else 1
        if rows[-1] and used + wide > COLUMNS and not (number and isinstance(parts[number - 1], str)):
            rows.append([])
            used = 0
        rows[-1].append(part)
        used += wide if isinstance(part, Matrix) else 1
    return [tuple(row) for row in rows]


def _mathematics(block: Block) -> str:
    match block:
        case Formula(_, latex, labels):
            return latex + _tag(labels)
        case Equations():
            return _equations(block)
        case Matrix():
            return _matrix(block)
        case Row(parts):
            return " ".join(_sign(p) if isinstance(p, str) else _matrix(p) for p in parts)
    raise TypeError(f"latex: no mathematics in {type(block).__name__}")


def _equations(block: Equations) -> str:
    lines = []
    for row in block.rows:
        numeric = row.value is not None
        right = _broken(row.right, Numbers() if numeric else NOTATION)
        value = f" = {write(row.value, NOTATION)}" if row.value is not None else ""
        lines.append(f"{write(row.left, NOTATION)} &= {right}{value}")
    if block.total > len(block.rows):
        lines.append(rf"&\;\;\vdots \quad \text{{{block.total - len(block.rows):,} more}}")
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}" + _tag(block.labels)


def _broken(e: Expression, notation: Latex) -> str:
    """A long sum on several lines."""
    if not isinstance(e, Sum) or len(e.terms) <= TERMS:
        return write(e, notation)
    parts = [Sum(e.terms[n : n + TERMS]) for n in range(0, len(e.terms), TERMS)]
    parts[-1] = Sum(parts[-1].terms, e.hidden)
    return " \\\\\n&\\qquad {} + ".join(write(part, notation) for part in parts)


def _tag(labels: Sequence[str]) -> str:
    return rf" \tag*{{[{cite(labels)}]}}" if labels else ""


def _sign(text: str) -> str:
    return " ".join(SIGNS.get(word, word if len(word) == 1 else rf"\text{{{word}}}") for word in text.split())


def _matrix(m: Matrix) -> str:
    blank = r"\cdot" if m.blank == "·" else m.blank
    before = [r"\cdots"] if m.start[1] else []
    cells = [before + [blank if e is None else write(e, NOTATION) for e in row] for row in m.rows]
    heads = list(m.row_heads)
    short, narrow = m.cut
    if narrow:
        cells = [[*row, r"\cdots"] for row in cells]
    if short:
        cells.append([r"\vdots"] * len(cells[0]))
    if m.start[0]:
        cells.insert(0, [r"\vdots"] * len(cells[0]))
        heads = ["", *heads] if heads else []
    name = prose(m.name + m.part())
    body = " \\\\\n".join(_head(heads, i) + " & ".join(row) for i, row in enumerate(cells))
    top = [rf"\scriptstyle {h}" for h in m.column_heads]
    line = " & ".join([*([""] if heads else []), *([""] if before and top else []), *top])
    columns = len(cells[0])
    if m.row_heads or m.column_heads:
        table = rf"\begin{{array}}{{{'r' if m.row_heads else ''}|{'c' * columns}|}}"
        inner = (line + " \\\\ \\hline\n" if m.column_heads else "") + body
    else:
        table, inner = rf"\left[\begin{{array}}{{{'c' * columns}}}", body
    end = r"\end{array}" + ("" if m.row_heads or m.column_heads else r"\right]")
    return rf"\overset{{\text{{{name}}}}}{{{table}" + "\n" + inner + "\n" + end + "}"


def _head(heads: Sequence[str], row: int) -> str:
    if not heads:
        return ""
    return rf"\scriptstyle {heads[row]} & " if row < len(heads) and heads[row] else " & "
