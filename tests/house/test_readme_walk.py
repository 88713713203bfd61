"""The README: its model runs, and prints what is pasted there, times and roundings apart; its figures are kept ones."""

from __future__ import annotations

import re
from pathlib import Path

import jax
from typer.testing import CliRunner

from fnconv.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Your own model\n")[2].partition("\n## ")[0]


def block(start):
    return SECTION.partition(start)[2].partition("\n```")[0]


def what_stays(report):
    """Names, shapes and dtypes of the leaves; what was replaced; what is kept; that they agree."""
    lines = report.strip().splitlines()
    leaves = [line.split()[:3] for line in lines if "float32" in line and not line.startswith(("worst", " "))]
    kept = [line for line in lines if line.startswith(("loss on", "leaf", "ulp,", "(at most", "residuals", "replaced"))]
    return leaves, [" ".join(line.split()) for line in kept], re.findall(r"^OK: \d+ of \d+ leaves agree", report, re.M)


def test_the_model_of_the_readme_prints_its_report(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(block("```python\n") + "\n")
    assert len(path.read_text().splitlines()) <= 41
    with jax.numpy_dtype_promotion("standard"):  # the model's author promotes
        result = CliRunner().invoke(app, ["compare", f"{path}:loss", "--rounds", "1", "--samples", "4"])
    assert result.exit_code == 0, result.output
    assert what_stays(result.output) == what_stays(block("prints:\n\n```\n"))


def test_the_rule_of_the_readme_is_diagnosed_as_it_says(tmp_path):
    section = README.partition("## Your own rule\n")[2].partition("\n## ")[0]
    path = tmp_path / "rule.py"
    path.write_text(section.partition("```python\n")[2].partition("\n```")[0] + "\n")
    with jax.numpy_dtype_promotion("standard"):
        result = CliRunner().invoke(app, ["check", f"{path}:softmax"])
    assert result.exit_code == 1, result.output
    (diagnosis,) = re.findall(r"^  diagnosis .*", section, re.M)
    assert diagnosis in result.output


def test_the_tables_of_the_readme_are_those_of_the_results():
    """Every figure of an excerpt stands in the table that it is taken from."""
    whole = (ROOT / "benchmarks" / "results" / "transform_models.md").read_text(encoding="utf-8")
    names = {"LeNet": "lenet", "U-Net": "unet", "MobileNetV2-like": "mobilenet", "ResNet-18": "resnet18"}
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in whole.splitlines() if line.startswith("| ")]
    found = {(row[0], row[1]): (row[2], row[5], row[6], row[9]) for row in rows if len(row) == 11}
    excerpt = re.findall(r"^\| (\S+), (\w+) \| (.*?) \| (\S+) \| (\S+) \| (\S+) \|$", SECTION, re.M)
    assert len(excerpt) == len(names)
    for model, library, *figures in excerpt:
        assert found[names[model], {"Flax": "linen"}.get(library, library.lower())] == tuple(figures)


def test_the_kill_table_of_the_readme_is_that_of_the_results():
    whole = (ROOT / "benchmarks" / "results" / "kill_table.md").read_text(encoding="utf-8")
    for what in ("found, of", "alarms on"):
        (theirs,) = re.findall(rf"^\| {what} .*$", whole, re.M)
        (ours,) = re.findall(rf"^\| {what} .*$", README, re.M)
        assert re.findall(r"\d+", theirs) == re.findall(r"\d+", ours)
