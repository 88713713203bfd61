"""The LaTeX of `fnconv show`, typeset by matplotlib: every formula can be read by it, and every line fits its page."""

from __future__ import annotations

import re
from functools import cache

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from test_show_pages import PAGES

from fnconv import show
from fnconv.show import latex
from fnconv.show.blocks import Equations, Formula, Matrix, Row
from fnconv.show.latex_width import COLUMN, broken, width

TEXT, BRACKETS = 345, 12  # points: the width of an article, and of two tall brackets
COMPUTER_MODERN = FontProperties(size=10, math_fontfamily="cm")
WIDE = {
    "negative": lambda: show.conv((4, 5), (2, 2), strides=(2, 1), dilation=(1, 2), padding=[(-1, 0), (2, -1)]),
    "eleven": lambda: show.conv((11,), (3,), strides=2, channels=2),
    "four": lambda: show.conv((2, 2, 2, 2), (2, 1, 2, 2), padding=1),
    "root": lambda: show.pool((5, 5), (5, 5), kind="lp", p=1.5),
    "mean": lambda: show.pool((5, 5), (5, 5), kind="avg", channels=2),
    "largest": lambda: show.pool((12, 12), (5, 5), strides=3),
}

CHOSEN = ["small", "groups", "large", "lp", "avg", "dense", *WIDE]  # of many alike


@cache
def typeset(formula):
    """The width of a formula in points, in the fonts of an article."""
    formula = (
        re.sub(r"\\(?:Bigl|Bigr|scriptstyle)\b|&", "", formula)
        .replace(r"\text{", r"\mathrm{")
        .replace(r"\tfrac", r"\frac")
    )
    if not formula.strip():
        return 0
    return MathTextParser("path").parse(f"${formula}$", 720, COMPUTER_MODERN).width / 10  # it rounds up


@pytest.fixture(scope="module", params=CHOSEN)
def page(request):
    return (PAGES | WIDE)[request.param]()


def blocks(page, kind):
    return [block for section in page.sections for block in section.blocks if isinstance(block, kind)]


@pytest.mark.sample(3)
def test_equations_are_read_and_fit(page):
    for block in blocks(page, Equations):
        for line in latex._equations(block):
            assert typeset(line) <= TEXT, line


def test_formulas_are_read_and_fit(page):
    for block in blocks(page, Formula):
        for line in latex.parts(block.latex):
            assert typeset(line) <= TEXT, line


def test_matrices_are_read_and_fit(page):
    rows = [block.parts for block in blocks(page, Row)] + [(block,) for block in blocks(page, Matrix)]
    for line in (line for row in rows for line in latex._lines(row)):
        total = 0
        for part in line:
            if isinstance(part, str):
                total += typeset(latex._sign(part))
                continue
            columns = zip(*latex._grid(part).rows, strict=True)
            heads = 0.7 * max(map(typeset, part.row_heads), default=0)  # \scriptstyle
            total += BRACKETS + heads + sum(max(map(typeset, column)) + COLUMN for column in columns)
        assert total <= TEXT, [getattr(part, "name", part) for part in line]


def test_widths_are_near_those_of_the_fonts():
    for formula in (
        r"\frac{\partial L}{\partial I_{12}} = \delta_{11}\,W_{12} + \delta_{12}\,W_{11}",
        r"O_{1,12} = I_{1,12}\,W_{11,11} + b_{1}",
        r"2 \cdot (-3) + 4 \cdot 15",
        r"\max\{I_{11}, I_{12}, I_{21}\}",
        r"I_{11}\,W_{11} + \frac{I_{11}}{O_{11}}",
    ):
        assert 1 <= width(formula) / typeset(formula) < 1.3, formula


def test_a_long_sum_is_broken_between_its_terms():
    terms = [rf"\delta_{{{n}}}\,W_{{{n}}}" for n in range(10, 40)]
    lines = broken(" + ".join(terms), 200)
    assert " ".join(lines) == " + ".join(terms)
    assert len(lines) > 3
    assert all(line.startswith("+ ") for line in lines[1:])


def test_long_blocks_go_on_on_the_next_page_and_tag_their_first_equation():
    text = show.conv((5, 5), (2, 2), strides=2).to_latex()
    block = text.split("\\begin{align*}\n\\frac{\\partial L}{\\partial I_{11}}")[1].split(r"\end{align*}")[0]
    assert block.splitlines()[0].endswith(r"\tag*{[Small (3); Wei (2.30)]} \\")
    assert block.count("&=") == 25
    assert r"\allowdisplaybreaks" in text
