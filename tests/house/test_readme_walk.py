"""The README: its examples run and print what it says, times apart; its figures are those of the kept results."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import pytest
from extras import needs
from typer.testing import CliRunner

from fnconv.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title):
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(title, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section(title), re.M | re.S)
    return [text for name, text in found if name == language]


def test_the_layer_of_the_readme_prints_what_its_comment_says(capsys):
    (program,) = blocks("A layer and its gradient", "python")
    exec(program, {})
    assert capsys.readouterr().out.strip() == program.strip().rpartition("# ")[2]


def test_the_model_of_the_readme_prints_its_report(tmp_path):
    """Its times apart."""
    needs("oracles", "flax")
    (program,) = blocks("Your own model", "python")
    (report,) = blocks("Your own model", "")
    path = tmp_path / "model.py"
    path.write_text(program)
    with jax.numpy_dtype_promotion("standard"):  # the model's author promotes
        result = CliRunner().invoke(app, ["compare", f"{path}:loss", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    time, *lines = report.splitlines()
    assert time.startswith("time ")
    assert [re.sub(r"[\d.]+", "#", line) for line in result.output.splitlines() if line.startswith("time ")] == [
        re.sub(r"[\d.]+", "#", time)
    ]
    assert len(lines) == 3
    found = [re.sub(r", \d to the last bit$", "", line) for line in result.output.splitlines()]  # XLA's versions differ
    assert set(lines) <= set(found)


def test_the_rule_of_the_readme_is_diagnosed_as_it_says(tmp_path):
    (program,) = blocks("Your own rule", "python")
    (report,) = blocks("Your own rule", "")
    path = tmp_path / "rule.py"
    path.write_text(program)
    with jax.numpy_dtype_promotion("standard"):
        result = CliRunner().invoke(app, ["check", f"{path}:softmax"])
    assert result.exit_code == 1, result.output
    (diagnosis,) = re.findall(r"^  diagnosis .*", report, re.M)
    assert diagnosis in result.output


def test_the_figures_of_the_kill_table_are_those_of_the_results():
    whole = (ROOT / "benchmarks" / "results" / "kill_table.md").read_text(encoding="utf-8")
    columns, found, alarms = (
        [cell.strip() for cell in re.findall(rf"^\| {start}.*$", whole, re.M)[0].split("|")[1:-1]]
        for start in (r"\|", "found, of", "alarms on")
    )
    count = dict(zip(columns, found, strict=True))
    said = " ".join(section("Your own rule").split())
    bugs, right = re.search(r"finds all of \[(\d+) planted bugs\].* no alarm on (\d+) right rules", said).groups()
    gradcheck, check_grads = re.search(r"gradcheck` finds (\d+) and `jax.test_util.check_grads` (\d+)", said).groups()
    assert re.findall(r"\d+", found[0]) == [bugs]
    assert (count["check_vjp"], count["gradcheck"], count["check_grads 1"]) == (bugs, gradcheck, check_grads)
    assert re.findall(r"\d+", alarms[0]) == [right]
    assert dict(zip(columns, alarms, strict=True))["check_vjp"] == "0"


LINKS = re.compile(r"\]\((?!https?:)([^)#]+)\)")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("notebooks/*.md")]


@pytest.mark.parametrize("page", sorted(set(PAGES)), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    missing = [link for link in LINKS.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not missing
