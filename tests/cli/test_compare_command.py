"""`fnconv compare FILE.py:FUNCTION`: a newcomer's model, and what is said where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from extras import needs
from typer.testing import CliRunner

from fnconv.cli.app import app
from fnconv.transform import table

DIGITS = Path(__file__).parents[1] / "support" / "models" / "digits.py"


def invoke(*arguments):
    with jax.numpy_dtype_promotion("standard"):  # the model's author promotes
        return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def file(tmp_path):
    """A user's file with this text."""

    def write(text, name="model.py"):
        path = tmp_path / name
        path.write_text("import jax, jax.numpy as jnp\n" + text)
        return path

    return write


GOOD = """
def loss(w, x):
    return jax.nn.relu(w * x).sum()
def args():
    return jnp.arange(3.0), jnp.ones(3)
def other():
    return jnp.arange(4.0), jnp.ones(4)
"""


@pytest.mark.slow
def test_a_flax_model_of_forty_lines(tmp_path):
    """Unchanged and unaware: every operation is replaced, every leaf agrees."""
    needs("oracles", "flax")
    assert len(DIGITS.read_text().splitlines()) <= 40
    assert "fnconv" not in DIGITS.read_text().split('"""', 2)[2]
    found = tmp_path / "report.json"
    result = invoke(f"{DIGITS}:loss", "--rounds", 0, "--samples", 4, "--json", found)
    assert result.exit_code == 0, result.output
    assert "OK: 8 of 8 leaves agree" in result.output
    assert "params['params']['Conv_0']['kernel']" in result.output
    report = json.loads(found.read_text())
    assert report["ok"]
    assert report["replaced"]["conv"] == report["replaced"]["max_pool"] == report["replaced"]["dense"] == 2


def test_options(file):
    path = file(GOOD)
    result = invoke(f"{path}:loss", "--args", "other", "--argnums", "0,1", "--only", "conv", "--rounds", 1)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith(("w ", "x "))] == [["w", "4"], ["x", "4"]]
    assert any(line.startswith("left      relu at ") for line in lines)
    elsewhere = file(GOOD.replace("4", "5"), "elsewhere.py")
    result = invoke(f"{path}:loss", "--args", f"{elsewhere}:other", "--argnums", 1, "--rounds", 0)
    assert ["x", "5"] in [line.split()[:2] for line in result.output.splitlines()]


def test_one_argument_that_is_no_tuple(file):
    path = file("def f(params): return (params['w'] ** 2).sum()\ndef args(): return {'w': jnp.ones(2)}\n")
    result = invoke(f"{path}:f", "--rounds", 0)
    assert result.exit_code == 0, result.output
    assert "params['w']" in result.output


def test_status_1_where_the_manual_gradient_is_off(file, monkeypatch):
    """Of a rule that gives twice the gradient."""
    doubled = jax.custom_vjp(lambda x: jnp.maximum(x, 0.0))
    doubled.defvjp(lambda x: (doubled(x), x > 0), lambda kept, dy: (jnp.where(kept, 2 * dy, 0.0),))
    monkeypatch.setitem(table.CUSTOM_JVP, "relu", table.Rule("relu", lambda params, avals: doubled))
    result = invoke(f"{file(GOOD)}:loss", "--rounds", 0)
    assert result.exit_code == 1
    assert "MANUAL IS WRONG" in result.output
    assert "FAILED: 1 of 2 arrays" in result.output


REFUSED = {
    "no colon": (GOOD, "{path}", "must be FILE.py:FUNCTION"),
    "no file": (GOOD, "{path}x.py:loss", "there is no file"),
    "no such name": (GOOD, "{path}:lose", "has no lose"),
    "no arguments": (GOOD.split("def args")[0], "{path}:loss", "--args: model.py has no args"),
    "arguments of args": (GOOD.replace("args()", "args(n)"), "{path}:loss", "must take no arguments; it takes (n)"),
    "too few": (
        GOOD.replace(", jnp.ones(3)", ""),
        "{path}:loss",
        "does not take the 1 arguments that {path}:args returns: missing a required argument: 'x'",
    ),
    "an error in the file": (GOOD + "1 / 0\n", "{path}:loss", "line 9 ends in ZeroDivisionError"),
    "an error in the function": (
        GOOD.replace("jnp.ones(3)", "jnp.ones(5)"),
        "{path}:loss",
        "{path}:loss ends in line 4 with TypeError",
    ),
    "an error in args": (GOOD.replace("jnp.ones(3)", "missing"), "{path}:loss", "args ends in line 6 with NameError"),
    "no floats": (GOOD.replace("3.0", "3"), "{path}:loss", "argnums must choose an argument that holds floating-point"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, file, monkeypatch):
    text, target, message = REFUSED[name]
    path = file(text)
    monkeypatch.chdir(path.parent)
    result = invoke(target.format(path=path.name), "--rounds", 0)
    assert result.exit_code == 2, result.output
    assert "fnconv compare: " in result.output
    assert message.format(path=path.name) in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--argnums", "x"), "--argnums must be integers with commas between them; got 'x'"),
        (("--argnums", "7"), "argnums must be positions among 2 arguments"),
        (("--only", "pool"), "only must name operations among"),
        (("--samples", "1"), "samples must be at least 2"),
        (("--json", "nowhere/report.json"), "--json must name a file in a folder that exists"),
    ],
)
def test_refused_options(options, message, file):
    result = invoke(f"{file(GOOD)}:loss", *options)
    assert result.exit_code == 2
    assert message in result.output
