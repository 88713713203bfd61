"""The pages of `fnconv show` as text, LaTeX, HTML and command: complete, readable, never megabytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from fnconv import show
from fnconv.cli.app import app
from fnconv.show.html import marked
from fnconv.textbook.equations import BY_LABEL

PAGES = {
    "small": lambda: show.conv((3, 3), (2, 2)),
    "same": lambda: show.conv((5, 5), (3, 3), strides=2, padding="INPUT_SIZE"),
    "groups": lambda: show.conv((3, 4), (2, 2), channels=4, out_channels=6, groups=2, padding="SAME"),
    "one": lambda: show.conv((7,), (3,), dilation=2, values=True),
    "three": lambda: show.conv((3, 2, 4), (2, 1, 3), padding=1),
    "broad": lambda: show.conv((2, 16), (1, 2), channels=2),
    "large": lambda: show.conv((224, 224), (7, 7), strides=2, padding=3, channels=3, out_channels=64),
    "long": lambda: show.conv((4096, 4096), (3, 3)),
    "max": lambda: show.pool((5, 5), (3, 3), strides=2),
    "lp": lambda: show.pool((4, 4), (2, 2), kind="lp", p=3, values=True),
    "square": lambda: show.pool((4096, 4096), (2, 2)),
    "avg": lambda: show.pool((40, 40), (3, 3), strides=2, kind="avg", padding="SAME", count_include_pad=False),
    "dense": lambda: show.dense(3, 2, values=True),
    "wide": lambda: show.dense(784, 120),
    "net": lambda: show.net("resnet18"),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request):
    return PAGES[request.param]()


def test_text_fits_a_terminal(page):
    lines = str(page).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 420
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in str(page)


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.bad = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_whole_and_needs_nothing(page):
    html = page.to_html()
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    assert not parser.bad
    assert len(html) < 400_000
    assert not re.search(r"https?:|<script src|<link|@import|url\(", html)
    assert page.title in "".join(parser.text)
    assert "<script" not in page._repr_html_()
    assert page._repr_html_().partition("</h1>")[2] in html


def test_what_is_too_large_to_be_stepped_through_says_so():
    stepped = {name: '<section class="live"' in make().to_html() for name, make in PAGES.items()}
    assert {name for name, is_live in stepped.items() if not is_live} == {"large", "long", "square", "wide", "net"}
    assert "Too large to be stepped through" in PAGES["wide"]().to_html()


def test_latex_is_balanced_and_ascii(page):
    for latex in (page.to_latex(), page._repr_latex_()):
        assert latex.isascii(), sorted({c for c in latex if not c.isascii()})
        bare = re.sub(r"\\\\|\\[{}]", "", latex)
        assert bare.count("{") == bare.count("}")
        begun, ended = (re.findall(rf"\\{word}\{{(\w+\*?)\}}", latex) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)
        assert latex.count(r"\left") - latex.count(r"\leftarrow") == latex.count(r"\right")
        assert len(latex) < 300_000


def test_every_label_is_known(page):
    """Labels stand in the blocks themselves; each is one of `fnconv.textbook.equations`."""
    labels = [label for s in page.sections for b in s.blocks for label in getattr(b, "labels", ())]
    assert set(labels) <= set(BY_LABEL)


def test_every_equation_is_labelled():
    for name in ("small", "same", "max", "dense"):
        for section in PAGES[name]().sections:
            for block in section.blocks:
                assert getattr(block, "labels", ("none needed",)), f"{name}, {section.title}: {block}"


def test_a_large_layer_says_so_and_shows_a_corner():
    for name in ("large", "long", "square", "avg", "wide"):
        text = str(PAGES[name]())
        assert "too large to be read as a whole" in text
        assert re.search(r"… [\d,]+ more equations", text)
        assert "a corner of" in text
    assert "too large" not in str(PAGES["small"]())


def test_what_is_shown_of_a_padded_layer_is_not_padding_alone():
    """The first outputs of Notes' example see padding only: m, φ and M are shown from where cells begin."""
    text = str(show.conv((5, 5), (3, 3), strides=2, padding="INPUT_SIZE"))
    assert "m, a part of 25×9" in text
    assert "   p=6 ⎢   -   -   -   -   0   1   -   5   6 ⎥" in text
    assert "⎢ 0    0    0    0 I_11 I_21    0 I_12 I_22 ⎥  ⎢ W_21 ⎥         ⎢ O_22 ⎥" in text
    assert "  12,0 ⎢ · · · · · · 1 · · · · · · · · · · · · · · · · · · ⎥" in text
    text = str(show.conv((64, 64), (7, 7), padding=3))
    assert "  p=195 ⎢   0   1   2   3   4   5 ⋯ ⎥" in text
    assert "  195,0 ⎢ 1 · · ·" in text


def test_a_part_of_a_matrix_in_every_notation():
    page = show.conv((224, 224), (7, 7), strides=2, padding=3)
    text, html, latex = str(page), page.to_html(), page.to_latex()
    assert "M, a row per (p, q), a column per cell of vec(I), a part of 614,656×50,176" in text
    assert "a part of 614,656×50,176" in html
    assert r"a part of 614,656\(\times\)50,176" in latex
    assert "226,0 ⎢ ⋯ 1 ·" in text
    assert re.search(r"<th>226,0</th>(<td [^>]*></td>)?<td>⋯</td><td>1</td>", html)
    assert r"\scriptstyle 226,0 & \cdots & 1 & \cdot" in latex


def test_titles_keep_the_names_of_matrices():
    titles = [section.title for section in show.conv((3, 3), (2, 2), pooling=True).sections]
    assert "Max pooling of the same windows: the selection matrix S" in titles


def test_latex_of_one_equation():
    latex = show.conv((3, 3), (2, 2)).to_latex()
    right = r"\delta_{11}\,W_{12} + \delta_{12}\,W_{11}"
    assert rf"\frac{{\partial L}}{{\partial I_{{12}}}} &= {right}" in latex
    assert r"\tfrac{1}{4}" in show.pool((2, 2), (2, 2), kind="avg").to_latex()


def test_html_of_one_equation():
    html = show.conv((3, 3), (2, 2)).to_html()
    assert "∂<i>L</i>/∂<i>I</i><sub>12</sub></td><td>=</td><td><i>δ</i><sub>11</sub>" in html


def test_html_lowers_indices_and_nothing_else():
    assert marked("I_[2i+r-1, j] W_rs I_2,31 S_o,i O_1;1,10") == (
        "I<sub>2i+r-1, j</sub> W<sub>rs</sub> I<sub>2,31</sub> S<sub>o,i</sub> O<sub>1;1,10</sub>"
    )
    assert marked("∂L/∂b = Σ_ij δ_ij") == "∂L/∂b = Σ<sub>ij</sub> δ<sub>ij</sub>"
    assert marked("row_major takes I_12, then (Σ |I_i|^3)^(1/3) < a") == (
        "row_major takes I<sub>12</sub>, then (Σ |I<sub>i</sub>|<sup>3</sup>)<sup>1/3</sup> &lt; a"
    )


def test_find_refuses_what_is_not_there():
    with pytest.raises(ValueError, match="must begin one of the equations"):
        show.conv((3, 3), (2, 2)).find("∂L/∂I_44")


def test_output_sizes_are_written_with_signs():
    page = show.conv((6, 6), (2, 2), padding=[(-1, 0), (2, -1)])
    assert "⌊(6 - 1 + 0 - 2) / 1⌋ + 1 = 4" in " ".join(str(page).split())


def test_words_of_a_table_stand_flush_left():
    page = show.net("lenet5")
    assert '<td class="words">conv 5×5</td><td>28×28×6</td>' in page.to_html()
    assert r"\begin{tabular}{llrrrrr}" in page.to_latex()


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_values_of_given_arrays(tmp_path):
    x, w, dy = np.array([[2, 7, 1], [8, 3, 5], [4, 6, 9]]), np.array([[11, 13], [17, 19]]), np.array([[2, 3], [5, 7]])
    page = show.conv(x, w, cotangent=dy)
    assert page.find("∂L/∂I_12") == "∂L/∂I_12 = 2·13 + 3·11 = 59"
    assert page.find("∂L/∂W_12") == f"∂L/∂W_12 = 2·7 + 3·1 + 5·3 + 7·5 = {14 + 3 + 15 + 35}"
    for name, array in (("x", x), ("w", w), ("dy", dy)):
        np.save(tmp_path / f"{name}.npy", array)
    options = ["--input", tmp_path / "x.npy", "--kernel", tmp_path / "w.npy", "--cotangent", tmp_path / "dy.npy"]
    done = CliRunner().invoke(app, ["show", "conv", *map(str, options)])
    assert done.exit_code == 0
    assert done.output.splitlines() == str(page).splitlines()


def test_arrays_tell_their_channels():
    x, w = np.ones((3, 4, 2)), np.ones((2, 2, 2, 3))
    assert "(2 channels)" in show.conv(x, w).title
    assert "(3 channels)" in show.conv(x, w).title
    assert show.conv((3, 4), w).title == show.conv(x, (2, 2), out_channels=3).title == show.conv(x, w).title


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: show.conv((3, 3), (2,)), "show.conv: kernel must have as many spatial dimensions"),
        (lambda: show.conv((3, 3), (4, 4)), r"show.conv: kernel must fit into the padded input; got \(4, 4\)"),
        (lambda: show.conv((3, 0), (2, 2)), r"show.conv: input must have sizes of at least 1; got \(3, 0\)"),
        (
            lambda: show.conv((10**8, 3), (1, 1)),
            "show: input must have at most 16777216 pairs of an output and a window",
        ),
        (lambda: show.pool((10**6,), (10**5,), strides=1), "show: input must have at most 16777216 pairs"),
        (lambda: show.conv((3, 3), (2, 2), channels=3, groups=2), "show.conv: groups must divide the 3 input channels"),
        (lambda: show.conv((3, 3), (2, 2), cotangent=np.ones((3, 3))), "show.conv: cotangent must have the shape"),
        (lambda: show.conv((3, 3), (2, 2), cotangent=(2, 2)), "show.conv: cotangent must be an array"),
        (lambda: show.conv((4096, 4097), (2, 2), values=True), "show.conv: values can be put into tensors of at most"),
        (lambda: show.conv("none.npy", (2, 2)), "show.conv: input must be a .npy file that can be read"),
        (lambda: show.pool((4, 4), (2, 2), kind="min"), "show.pool: kind must be one of max, avg, lp; got 'min'"),
        (lambda: show.pool((4, 4), np.ones((2, 2))), "show.pool: window must be a shape"),
        (lambda: show.dense(3), "show.dense: output must say how many"),
        (lambda: show.dense(3, 2, weights=np.ones((2, 3))), r"show.dense: weights must have the shape \(3, 2\)"),
        (lambda: show.net("lenet6"), "show.net: name must be one of lenet5"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "page"),
    [
        (["conv", "--input", "3x3", "--kernel", "2x2"], PAGES["small"]),
        (["conv", "--input", "5X5", "--kernel", "3x3", "--stride", "2", "--padding", "INPUT_SIZE"], PAGES["same"]),
        (
            ["conv", "--input=4x5", "--kernel=2x2", "--padding=2:0,-1:1", "--stride=1,2", "--dilation", "2,1"],
            lambda: show.conv((4, 5), (2, 2), padding=[(2, 0), (-1, 1)], strides=(1, 2), dilation=(2, 1)),
        ),
        (
            [
                "conv",
                "--input",
                "4x4",
                "--kernel",
                "2x2",
                "--stride",
                "2",
                "--padding",
                "1",
                "--channels",
                "2",
                "--pooling",
            ],
            lambda: show.conv((4, 4), (2, 2), strides=2, padding=1, channels=2, pooling=True),
        ),
        (["conv", "--input", "7", "--kernel", "3", "--dilation", "2", "--values"], PAGES["one"]),
        (
            ["pool", "--input", "5x5", "--window", "3x3", "--stride", "2", "--ties", "column_major"],
            lambda: show.pool((5, 5), (3, 3), strides=2, ties="column_major"),
        ),
        (["pool", "--input=4x4", "--window=2x2", "--kind=lp", "--p", "3", "--values"], PAGES["lp"]),
        (["dense", "--input", "3", "--output", "2", "--values"], PAGES["dense"]),
        (["net", "resnet18"], PAGES["net"]),
    ],
)
def test_command_prints_the_page(arguments, page):
    done = CliRunner().invoke(app, ["show", *arguments])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == str(page()).splitlines()


def test_command_writes_latex_and_html(tmp_path):
    file = tmp_path / "page.html"
    arguments = ["show", "conv", "--input", "3x3", "--kernel", "2x2"]
    done = CliRunner().invoke(app, [*arguments, "--html", str(file)])
    assert (done.exit_code, file.read_text(encoding="utf-8")) == (0, PAGES["small"]().to_html())
    assert CliRunner().invoke(app, [*arguments, "--latex"]).output == PAGES["small"]().to_latex()


@pytest.mark.parametrize(
    "arguments",
    [
        ["conv", "--input", "3by3", "--kernel", "2x2"],
        ["conv", "--input", "3x3", "--kernel", "5x5"],
        ["conv", "--input", "3x3", "--kernel", "2x2", "--padding", "1:2:3"],
        ["conv", "--input", "3x3", "--kernel", "2x2", "--html", "no/such/folder/page.html"],
        ["pool", "--input", "3x3", "--window", "2x2", "--ties", "last"],
        ["dense", "--input", "missing.npy", "--output", "2"],
    ],
)
def test_command_refuses_in_one_line_with_status_2(arguments):
    done = CliRunner().invoke(app, ["show", *arguments])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert not isinstance(done.exception, ValueError | TypeError | OSError)


def test_piped_output_has_no_colour():
    program = [sys.executable, "-m", "fnconv", "show", "net", "lenet5"]
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines() == str(show.net("lenet5")).splitlines()


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours_unless_it_asks_for_none(environment, coloured):
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    controller, terminal = pty.openpty()
    program = [sys.executable, "-m", "fnconv", "show", "net", "lenet5"]
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**inherited, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    with subprocess.Popen(program, stdout=terminal, env=environment) as process:
        os.close(terminal)
        output = b""
        while chunk := read(controller):
            output += chunk
    os.close(controller)
    assert process.returncode == 0
    text = output.decode().replace("\r", "")
    assert ("\x1b[36m" in text or "\x1b[1;36m" in text) == coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain.splitlines() == str(show.net("lenet5")).splitlines()


def read(file):
    """What a terminal shows next; nothing once the program has closed it."""
    try:
        return os.read(file, 65536)
    except OSError:
        return b""
