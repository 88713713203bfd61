"""check_vjp: every planted bug is found and named, and right rules pass."""

from __future__ import annotations

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vjp_bugs import BUGS, OPERATIONS, rule

import fnconv
from benchmarks.false_alarms import DTYPES, ROUNDS, runs
from fnconv import check_vjp
from fnconv.testing import assert_vjp

CHEAP = [bug for bug in BUGS if bug[0] not in ("conv", "attention", "layer_norm", "dense")]
COSTLY = [bug for bug in BUGS if bug not in CHEAP]
X = jnp.asarray(np.random.default_rng(7).standard_normal((3, 4)), jnp.float32)


def report_of(operation, bug):
    plan = OPERATIONS[operation]
    args = plan.args(np.random.default_rng(20), jnp.float32, 1.0)
    with jax.numpy_dtype_promotion("standard"):
        return check_vjp(plan.wrong(bug), *args)


# ---- the catalogue --------------------------------------------------------------------------------------------------


def test_the_catalogue_is_large_enough():
    assert len(BUGS) >= 60
    assert len(set(BUGS)) == len(BUGS)


@pytest.mark.sample(5)
@pytest.mark.parametrize(("operation", "bug"), CHEAP[::6])
def test_a_planted_bug_is_found(operation, bug):
    report = report_of(operation, bug)
    assert not report.ok
    assert all(f.diagnosis for f in report.failures)


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "bug"), BUGS)
def test_every_planted_bug_is_found(operation, bug):
    assert not report_of(operation, bug).ok


@pytest.mark.parametrize(
    ("operation", "bug", "argument", "guess"),
    [
        ("dense", "db not summed", "", "cotangent not summed over the broadcast axis 0"),
        ("dense", "cotangent in bfloat16", "b", "the cotangent is bf16, the argument f32"),
        ("dense", "value doubled under vjp", "value", "every entry is 2 times the right one"),
        ("avg_pool", "flipped", "x", "flipped along axis 1"),
        ("cross_entropy", "no gradient for labels", "labels", "all zero"),
        ("max_pool", "every tie takes the whole", "x", "no subgradient: at a tie"),
        ("square", "right under jit only", "x", "jit and eager evaluation differ"),
        ("square", "needs concrete numbers", "", "cannot run inside jit"),
        ("square", "batch reversed by its vmap", "x", "under vmap it differs from a loop"),
    ],
)
def test_the_diagnosis_says_what_to_mend(operation, bug, argument, guess):
    failure = report_of(operation, bug).failures[0]
    assert failure.argument == argument
    assert guess in failure.diagnosis


# ---- no false alarms ------------------------------------------------------------------------------------------------


def test_right_rules_pass():
    found = list(runs(("avg_pool", "huber"), ("float16", "float32"), 5))
    assert len(found) == 20
    assert not [run for run in found if run.alarm or run.broken]


@pytest.mark.slow
def test_right_rules_pass_a_thousand_times():
    found = list(runs(OPERATIONS, DTYPES, ROUNDS))
    assert len(found) >= 1000
    assert not [run for run in found if run.alarm or run.broken]


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]).sum(), ({"w": X.T, "b": X[:, 0]}, X)),
        (lambda x, m, n: jnp.where(m, x, 0), (X[0], jnp.array([True, False, True, True]), None)),
        (lambda x: {"a": jnp.sin(x), "b": (x.sum(), jnp.argmax(x))}, (X,)),
        (fnconv.leaky_relu, (X, 0.1)),
        (lambda x: x * 2, (jnp.zeros((0, 3)),)),
        (functools.partial(fnconv.conv, padding=((2, 0), (2, 0))), (jnp.ones((1, 4, 4, 1)), X[:2, :2, None, None])),
    ],
    ids=["pytrees", "masks and None", "several results", "static float", "empty", "where JAX's gradient is wrong"],
)
def test_arguments_of_every_kind(fn, args):
    report = check_vjp(fn, *args)
    assert report.ok, str(report)


# ---- what decides ---------------------------------------------------------------------------------------------------


def test_a_reference_decides_instead_of_the_function_itself():
    wrong_everywhere = rule(lambda x: jnp.cos(x), lambda x: (jnp.cos(x), x), lambda x, dy: (-jnp.sin(x) * dy,))
    assert check_vjp(wrong_everywhere, X).ok
    report = check_vjp(wrong_everywhere, X, reference=jnp.sin)
    assert {"value", "x"} & {f.argument for f in report.failures}


def test_what_the_function_stops_is_held_in_its_differences():
    report = check_vjp(lambda x: x * jax.lax.stop_gradient(x), X)
    assert report.ok, str(report)
    assert any("stop_gradient in the function are held" in note for note in report.notes)


def test_differences_serve_where_there_is_no_automatic_derivative():
    def loop(x):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, x))[1]

    right = rule(loop, lambda x: (loop(x), x), lambda x, dy: (4 * x**3 * dy,))
    wrong = rule(loop, lambda x: (loop(x), x), lambda x, dy: (3 * x**3 * dy,))
    assert check_vjp(right, X).ok
    assert not check_vjp(wrong, X).ok


def test_another_subgradient_is_a_note_and_no_failure():
    relu = rule(
        lambda x: jnp.maximum(x, 0), lambda x: (jnp.maximum(x, 0), x), lambda x, dy: (jnp.where(x >= 0, dy, 0 * dy),)
    )
    report = check_vjp(relu, jnp.array([-1.0, 0.0, 2.0]))
    assert report.ok
    assert any("between its sides" in note for note in report.notes)


def test_a_third_derivative_is_compared_where_asked():
    report = check_vjp(OPERATIONS["tanh"].right(), X, order=3)
    assert report.ok
    assert "order 3, reverse over reverse" in [row.check for row in report.rows]


def test_symbolic_zeros_are_tried():
    """A rule that forgets x where w is not asked for."""
    f = jax.custom_vjp(lambda x, w: x * w)

    def fwd(x, w):
        return x.value * w.value, (x.value, w.value, x.perturbed and w.perturbed)

    def bwd(res, dy):
        x, w, both = res
        return (dy * w if both else 0 * dy), dy * x

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    report = check_vjp(f, X, X + 1)
    assert [f.check for f in report.failures] == ["arguments one by one"]


# ---- the report and the ways to it ----------------------------------------------------------------------------------


def test_the_report_reads_as_text_json_and_html():
    report = report_of("dense", "sign of db")
    (failure, *_) = report.failures
    assert failure.argument == "b"
    assert failure.index is not None
    assert failure.got == -failure.want
    assert failure.ratio > 1
    for words in ("cotangent of b", "got ", "want ", "the sign is flipped", "FAILS", "times what rounding explains"):
        assert words in str(report)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["ok"] is False
    assert data["failures"][0]["diagnosis"] == "the sign is flipped"
    assert "<table>" in report._repr_html_()


def test_assert_vjp_fails_with_the_report():
    assert_vjp(OPERATIONS["square"].right(), X)
    with pytest.raises(AssertionError, match="the sign of the incoming cotangent is lost"):
        assert_vjp(OPERATIONS["square"].wrong("sign of the cotangent lost"), X)


def test_no_setting_changes():
    before = dict(jax.config.values)
    check_vjp(OPERATIONS["square"].right(), X)
    assert dict(jax.config.values) == before
    assert jnp.ones(2).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_vjp(3, X), TypeError, "check_vjp: fn must be a function; got int"),
        (lambda: check_vjp(jnp.sin, jnp.arange(3)), TypeError, "must hold a floating-point array"),
        (lambda: check_vjp(lambda x: None, X), TypeError, "fn must return an array"),
        (lambda: check_vjp(jnp.sin, X, level="slow"), ValueError, "level must be one of quick, full; got 'slow'"),
        (lambda: check_vjp(jnp.sin, X, order=0), ValueError, "order must be an integer of at least 1; got 0"),
        (lambda: check_vjp(jnp.sin, X, reference=jnp.sum), ValueError, "reference must return arrays of fn's shapes"),
        (lambda: jax.jit(lambda x: check_vjp(jnp.sin, x).ok)(X), TypeError, "outside of jit"),
    ],
)
def test_bad_calls_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_quick_is_quick():
    """Compilation included, on a rule that was not seen before."""
    start = time.perf_counter()
    assert check_vjp(OPERATIONS["tanh"].right(), X).ok
    assert time.perf_counter() - start < 5
