"""`fnconv check FILE.py:FUNCTION`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fnconv.cli.app import app

FILE = """
import jax, jax.numpy as jnp

@jax.custom_vjp
def triple(x):
    return 3 * x

triple.defvjp(lambda x: (3 * x, None), lambda _, dy: (3 * dy,))

@jax.custom_vjp
def wrong(x):
    return 3 * x

wrong.defvjp(lambda x: (3 * x, None), lambda _, dy: (dy,))

def args():
    return jnp.array([1.0, -2.0, 5.0])

def plain(x):
    return 3 * x

def integers():
    return jnp.arange(3)

@jax.custom_jvp
def forward(x):
    return 3 * x

forward.defjvp(lambda p, t: (3 * p[0], 2 * t[0]))

def broken():
    raise RuntimeError("no data")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_a_right_rule_passes(file):
    result = invoke(f"{file}:triple", "--reference", "plain")
    assert result.exit_code == 0
    assert "all pass" in result.stdout


def test_a_wrong_rule_fails_with_its_diagnosis(file, tmp_path):
    found = tmp_path / "found.json"
    result = invoke(f"{file}:wrong", "--json", found)
    assert result.exit_code == 1
    assert "every entry is 0.333333 times the right one" in result.stdout
    assert json.loads(found.read_text())["ok"] is False


def test_a_rule_of_forward_mode_is_judged_by_its_tangents(file):
    result = invoke(f"{file}:forward")
    assert result.exit_code == 1
    assert "every entry is 0.666667 times the right one" in result.stdout
    assert "tangents, float64" in result.stdout


def test_a_file_that_exits_is_no_pass(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("def f(x):\n    return x\n\n\nraise SystemExit(0)\n")
    result = invoke(f"{script}:f")
    assert result.exit_code == 2
    assert "script.py, line 5 ends in SystemExit" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{}:none",), "has no none; it has args"),
        (("{}x:triple",), "must name a Python file"),
        (("/no/such/file.py:f",), "there is no file /no/such/file.py"),
        (("nothing",), "must be FILE.py:FUNCTION; got 'nothing'"),
        (("{}:triple", "--args", "broken"), "mine.py:broken ends in line 32 with RuntimeError: no data"),
        (("{}:triple", "--args", "integers"), "--args must hold a floating-point array"),
        (("{}:triple", "--level", "slow"), "--level must be one of quick, full"),
        (("{}:triple", "--op", "conv"), "--op: for fnconv's own operations"),
        (("--reference", "plain"), "need FILE.py:FUNCTION"),
    ],
)
def test_bad_usage_ends_with_status_2(arguments, message, file):
    result = invoke(*(a.format(file) for a in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
