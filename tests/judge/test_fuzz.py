"""The fuzzer: its definitions against known answers, its bounds, a corpus of past failures, and a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from fnconv.cli.app import app
from fnconv.judge.engine import windows
from fnconv.judge.fuzz import definition, expected, run
from fnconv.judge.fuzz.draw import DRAWS, Problem
from fnconv.judge.fuzz.judge import judge
from fnconv.judge.fuzz.sample import Sample
from fnconv.judge.fuzz.shrink import script, shrink

CORPUS = [json.loads(line) for line in (Path(__file__).parent / "fuzz_corpus.jsonl").read_text().splitlines()]


# ---- definitions ----------------------------------------------------------------------------------------------------


def test_convolution_of_wei_2_1():
    a = np.array([[1, 3, 1, 4], [2, 8, 5, 1], [3, 2, 0, 3]])[None, :, :, None]
    k = np.array([[1, 0], [-1, 1]])[:, :, None, None]
    form = definition.conv(a, k)
    assert form.value([a, k])[0, :, :, 0].tolist() == [[7, 0, -3], [1, 6, 8]]


def test_input_gradient_of_notes_leaves_the_fifth_column_over():
    w, dy = np.array([[1.0, 2], [3, 4]])[:, :, None, None], np.ones((1, 2, 2, 1))
    form = definition.conv_input_vjp(dy, w, (1, 5, 5, 1), strides=2)
    assert form.value([dy, w])[0, 0, :, 0].tolist() == [1, 2, 1, 2, 0]


@pytest.mark.parametrize(("ties", "index"), [("row_major", 1), ("column_major", 2)])
def test_ties(ties, index):
    x = np.array([[0.0, 5], [5, 1]])[:, :, None]
    form = definition.max_pool_with_indices(x, (2, 2), ties=ties)
    assert form.indices.item() == index


def test_padding_names_of_the_texts():
    assert windows.padding_of("INPUT_SIZE", 4, 2, 3) == (3, 4)
    assert windows.padding_of("INPUT_SIZE", 5, 3, 2) == (3, 3)


def gradient_of_third_order(operation, operands, directions, c, args=(), order=3, **options):
    """Order n as the fuzzer has it: the gradient of the (n - 1)st derivative of sum(c y^3) along directions."""
    p = Problem(operation, tuple(x.shape for x in operands), args, options, mapped=(False,) * len(operands), orders=3)
    results = expected.expected(p, Sample("normal", None, operands, directions, c, c), order)
    return [e.value for e in results[order]]


def test_third_derivative_of_a_cube_of_maxima_is_6_at_the_winners():
    x, one = np.array([1.0, 4, 3, 2])[:, None], np.ones((4, 1))
    (third,) = gradient_of_third_order("max_pool", [x], [one], np.ones((2, 1)), args=((2,),))
    assert third[:, 0].tolist() == [0, 6, 6, 0]


@pytest.mark.parametrize("order", [2, 3])
def test_derivatives_of_a_polynomial_are_its_coefficients(order):
    """x w for one cell: sum(c y^3) along (v, u) is c (x + t v)^3 (w + t u)^3, whose gradients are known."""
    x, w, v, u, c = 2.0, -3.0, 5.0, 7.0, 4.0
    arrays = [np.full((1, 1), number) for number in (x, w, v, u, c)]
    got = gradient_of_third_order("dense", arrays[:2], arrays[2:4], arrays[4], order=order)
    for value, (a, da, b, db) in zip(got, ((x, v, w, u), (w, u, x, v)), strict=True):
        along = np.polynomial.Polynomial([a, da]) ** 2 * np.polynomial.Polynomial([b, db]) ** 3 * (3 * c)
        assert value.item() == along.deriv(order - 1)(0)


@pytest.mark.parametrize("operation", ["sigmoid", "tanh"])
def test_derivatives_by_cauchy_s_formula_are_those_of_the_texts(operation):
    """d(y^3) = 3 y^2 y', and y'' = y' (1 - 2 y) of the logistic function, -2 y y' of tanh."""
    x, v, c = np.array([-2.0, 0.3, 1.5]), np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 3.0])
    (got,) = gradient_of_third_order(operation, [x], [v], c, order=2)
    y = np.tanh(x) if operation == "tanh" else 1 / (1 + np.exp(-x))
    slope = 1 - y**2 if operation == "tanh" else y * (1 - y)
    curvature = -2 * y * slope if operation == "tanh" else slope * (1 - 2 * y)
    np.testing.assert_allclose(got.astype(float), 3 * c * v * (2 * y * slope**2 + y**2 * curvature), rtol=1e-14)


# ---- past failures, and a run ---------------------------------------------------------------------------------------


SLOW = {"weight gradient of data whose scale varies": pytest.mark.slow}  # the same at a higher precision is not


@pytest.mark.parametrize("entry", [pytest.param(e, id=e["found"], marks=SLOW.get(e["found"], ())) for e in CORPUS])
def test_a_past_failure_is_right(entry):
    judged = judge(Problem.from_json(entry["problem"]))
    assert judged.cases
    assert not judged.failures, judged.failures[0].message


@pytest.mark.sample(4)
@pytest.mark.parametrize("operation", DRAWS)
def test_every_operation_is_right_where_it_is_drawn(operation):
    report = run.fuzz(cases=1, seed=11, operations=(operation,), shrinking=False)
    assert report.cases
    assert report.ok, report.failures[0].message


@pytest.mark.slow
def test_an_hour():
    report = run.fuzz(seconds=3600, seed=np.random.SeedSequence().entropy % 2**32)
    assert report.ok, (report.summary(), report.scripts)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_command_counts_and_writes_json(tmp_path):
    file = tmp_path / "report.json"
    done = CliRunner().invoke(app, ["check", "--fuzz", "20", "--op", "relu", "--seed", "1", "--json", str(file)])
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text())
    assert report["ok"]
    assert report["cases"] >= 20
    assert all(sum(counts.values()) == report["cases"] for counts in report["counts"].values())
    assert "OK: " in done.output


@pytest.mark.parametrize(
    "options", [["--fuzz", "soon"], ["--fuzz", "0"], ["--fuzz", "9", "--op", "no"], ["--fuzz", "9", "--quick"]]
)
def test_command_refuses(options):
    done = CliRunner().invoke(app, ["check", *options])
    assert done.exit_code == 2
    assert "--" in done.output


def test_a_failure_is_shrunk_to_a_script_of_ten_lines_that_shows_it(monkeypatch):
    """With a slope of ReLU that is wrong."""
    from fnconv.base.attach import attach
    from fnconv.ops import activation

    def bwd(y, dy):
        return (jnp.where(y > 0, 2 * dy, jnp.zeros_like(dy)),)

    wrong = attach(activation._relu_primal, activation._relu_fwd, bwd, has_spec=False)
    monkeypatch.setattr(activation, "_relu", wrong)
    report = run.fuzz(cases=150, seed=1, operations=("relu",), shrinking=False)
    failure = next(f for f in report.failures if f.order == 1)
    small = shrink(failure, seconds=10)
    assert max(map(len, small.problem.shapes)) <= len(failure.problem.shapes[0])
    text = script(small)
    assert len(text.splitlines()) <= 10
    printed = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    got, want = printed.strip().splitlines()[0], printed.strip().splitlines()[-1]
    assert "by the definition" in want
    # the library in that process has no bug: its answer is the definition's
    assert np.allclose(json.loads(got), json.loads(want.split("definition")[1]))
