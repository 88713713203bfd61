"""How wide LaTeX sets its mathematics, about, so that no line runs out of the page."""

from __future__ import annotations

import re

LINE = 335  # points: the text of LaTeX's article is 345 wide, at 10-point letters; what follows is rough
COLUMN = 6  # between two columns, at the \arraycolsep of `latex.fragment`
BRACKETS = 18  # and what else stands around an array
INDENT = 20  # of a line that goes on, \qquad
LETTERS = {",": 4.5, "(": 4, ")": 4, "|": 3, "+": 12.5, "-": 10, "=": 13.5, "*": 10, " ": 0, "{": 0, "}": 0, "^": 0}
WORDS = {
    r"\,": 2, r"\;": 3, r"\!": -1.5, r"\{": 5, r"\}": 5, r"\cdot": 8, r"\cdots": 15, r"\vdots": 3, r"\dots": 15,
    r"\qquad": 20, r"\quad": 10, r"\sum": 15, r"\max": 20, r"\in": 12, r"\times": 12, r"\to": 15, r"\left": 4,
    r"\right": 4, r"\scriptstyle": 0, r"\text": 0, r"\mathrm": 0, r"\frac": 3, r"\tfrac": 3,
}  # fmt: skip
FRACTION = re.compile(r"\\(t?)frac\{((?:[^{}]|\{[^{}]*\})*)\}\{((?:[^{}]|\{[^{}]*\})*)\}")
TOKEN = re.compile(r"([_^])\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[A-Za-z]+|\\.)|(.)", re.DOTALL)
BREAK = re.compile(r" (?=\+ )|(?<=,) (?!\\q)")
PARTS = re.compile(r"(?<=,) \\qq?uad ")


def width(latex: str) -> float:
    """In points."""
    if latex == r"\cdot":  # alone, it is no operator with space around it
        return 5
    found = FRACTION.search(latex)
    if found:
        small, above, below = found.groups()
        widest = max(width(above), width(below)) * (0.75 if small else 1)
        return width(latex[: found.start()]) + 3 + widest + width(latex[found.end() :])
    total = 0.0
    for kind, script, word, letter in TOKEN.findall(latex):
        if kind:
            total += 0.7 * width(script) + 0.5
        else:
            total += WORDS.get(word, 6) if word else LETTERS.get(letter, 8 if letter.isupper() else 5.2)
            total += 3 if letter == "W" else 0
    return total


def broken(latex: str, room: float) -> list[str]:
    """A sum or a list on as many lines as it needs, each but the first behind an indent."""
    lines = [""]
    for part in BREAK.split(latex):
        longer = f"{lines[-1]} {part}".lstrip()
        if lines[-1] and width(longer) > room - INDENT * (len(lines) > 1):
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def parts(latex: str) -> list[str]:
    """A statement on one line, or each of its parts on its own where they do not fit beside each other."""
    return [latex] if width(latex) <= LINE else PARTS.split(latex)


def fitting(margin: float, cells: list[list[str]]) -> int:
    """How many columns of an array fit."""
    used = margin + BRACKETS
    for number, column in enumerate(zip(*cells, strict=True)):
        used += max(map(width, column)) + COLUMN
        if used > LINE:
            return max(number - 1, 1)  # dots need a column
    return len(cells[0])
