"""What the commands say beside their verdicts: widths, pipes, versions, help."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from rich.console import Console
from test_checkpoint import small_data, small_run
from typer.testing import CliRunner

import fnconv
from fnconv import show
from fnconv.cli.app import app
from fnconv.cli.outcome import table
from fnconv.judge.engine import report
from fnconv.judge.model.report import Comparison
from fnconv.judge.own.report import OwnReport
from fnconv.judge.rule.report import RuleReport
from fnconv.show import text
from fnconv.show.blocks import Table
from fnconv.train.display import Display

FILE = """
import jax, jax.numpy as jnp
def triple(x):
    return (3 * x).sum()
def args():
    return jnp.array([1.0, -2.0, 5.0])
@jax.custom_vjp
def tripled(x):
    return 3 * x
tripled.defvjp(lambda x: (3 * x, None), lambda _, dy: (3 * dy,))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


class Line(report.Row):
    ok = True

    def __init__(self, *cells):
        self._cells = cells

    def cells(self):
        return self._cells


LONGEST = [name for maps in fnconv.available_rules().values() for names in maps.values() for name in names]
REPORTS = {
    OwnReport: [
        ("max_pool_with_indices", rule, "120", "17", "yes", "0.856", "agrees") for rule in dict.fromkeys(LONGEST)
    ],
    Comparison: [
        (
            "params['stem']['Conv_0']['kernel']",
            "5x5x16x120",
            "float32",
            "2.4e-07",
            "0.001",
            "0.001",
            "1e-06",
            "autodiff",
            word,
        )
        for word in ("agrees", "equal", "MANUAL IS WRONG")
    ],
    RuleReport: [("integers, bit for bit", "FAILS", "1.99e+14", "residuals 0 bytes (autodiff 4), 12 flops")],
}


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("kind", REPORTS, ids=lambda kind: kind.__name__)
def test_tables_fit_and_hide_nothing_but_whole_columns(kind, width):
    made = type("Made", (kind,), {"lines": [Line(*row) for row in REPORTS[kind]], "__init__": lambda self: None})()
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table(made, width))
    printed = capture.get()
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    missing = re.search(r"without (.*), for want of columns", printed)
    gone = [kind.headings.index(heading) for heading in missing[1].split(", ")] if missing else []
    assert set(gone) <= set(kind.spare)
    assert width < 120 or not gone
    for cells in REPORTS[kind]:
        for i in set(range(len(cells))) - set(gone):
            start = cells[i].split()[0]
            assert (start[:12] if i in kind.left else start) in printed
    if kind is OwnReport:
        assert {"winograd", "winograd4"} <= set(printed.split())


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("gradients", ["manual", "both"])
def test_the_table_of_training_fits(gradients, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    Console().print(Display(small_run(gradients), small_data(), 9)._table)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    assert "accuracy" in printed


@pytest.mark.parametrize("command", [["check"], ["compare"], ["train"], ["show", "conv"], ["show", "pool"], []])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_fits(command, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    done = CliRunner().invoke(app, [*command, "--help"], terminal_width=width)
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= width
    assert "…" not in done.output
    assert "..." not in done.output.partition("Commands:")[2]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "page",
    [
        lambda: show.conv((12, 12), (5, 5), strides=2, padding=2, channels=2),
        lambda: show.conv((12, 12), (3, 3), pooling=True),
        lambda: show.pool((4, 4), (2, 2), kind="lp"),
        lambda: show.dense((6,), 4),
        lambda: show.net("resnet18"),
    ],
)
def test_pages_fit(page, width):
    shown = page()
    written = [line for line, _ in text.lines(shown.title, shown.sections, width)]
    assert max(map(len, written)) <= width
    for block in (block for section in shown.sections for block in section.blocks if isinstance(block, Table)):
        assert all(cell in "\n".join(written) for row in (block.heads, *block.rows) for cell in row)


def test_json_alone_on_standard_output(file):
    for arguments in (
        ["check", "--op", "relu", "--dtype", "f32", "--quick"],
        ["check", f"{file}:tripled"],
        ["compare", f"{file}:triple", "--rounds", "0"],
    ):
        done = CliRunner().invoke(app, [*arguments, "--json", "-"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["ok"] is True
        assert "agree" in done.stderr or "pass" in done.stderr


def test_quick_says_what_it_leaves_out():
    done = CliRunner().invoke(app, ["check", "--op", "relu", "--quick"])
    assert done.exit_code == 0
    assert "--quick left cases out; it ran " in done.stdout
    assert "none of 1 in f64" in " ".join(done.stdout.split())


def test_nothing_is_shown_of_the_progress_on_a_pipe(file):
    done = CliRunner().invoke(app, ["compare", f"{file}:triple", "--rounds", "0"])
    assert (done.exit_code, done.stderr) == (0, "")


def test_version():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"fnconv {fnconv.__version__}\n"


def test_help_imports_neither_jax_nor_rich():
    script = (
        "import sys, fnconv.cli\n"
        "try:\n    fnconv.cli.main()\n"
        "except SystemExit:\n    print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True)
    assert "Train LeNet-5" in done.stdout
    assert not {"jax", "jaxlib", "numpy", "rich", "matplotlib"} & set(done.stdout.splitlines()[-1].split())


def test_shells_can_complete():
    done = CliRunner().invoke(
        app, prog_name="fnconv", env={"_FNCONV_COMPLETE": "complete_bash", "COMP_WORDS": "fnconv sh", "COMP_CWORD": "1"}
    )
    assert done.stdout.split() == ["show"]


def test_a_closed_pipe_ends_the_command_quietly():
    program = [sys.executable, "-m", "fnconv", "show", "conv", "--input", "60x60", "--kernel", "5x5"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
