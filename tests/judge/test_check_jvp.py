"""check_jvp: every planted bug of a rule of forward mode is found, and right ones pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jvp_bugs import RIGHT, WRONG, X, rule

from fnconv import check_jvp, check_vjp
from fnconv.testing import assert_vjp

FOUND = ("operand dropped", "both sides of a tie", "no transpose")
PASSED = ("relu, 1 at 0", "forward alone")


def some(names, default):
    return [n if n in default else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", some(WRONG, FOUND))
def test_a_planted_bug_is_found(name):
    (fn, args), words = WRONG[name]
    with jax.numpy_dtype_promotion("standard"):
        report = check_jvp(fn, *args)
    assert not report.ok
    assert words in report.failures[0].diagnosis
    assert "cotangent" not in report.failures[0].diagnosis


@pytest.mark.parametrize("name", some(RIGHT, PASSED))
def test_a_right_rule_passes(name):
    fn, args = RIGHT[name]
    with jax.numpy_dtype_promotion("standard"):
        report = check_jvp(fn, *args)
    assert report.ok, str(report)


def test_there_are_twins_enough():
    assert len(WRONG) >= 25
    assert len(RIGHT) >= 15


def test_check_vjp_takes_either_kind():
    wrong, args = WRONG["sign"][0]
    report = check_vjp(wrong, *args)
    assert [(f.argument, f.diagnosis) for f in report.failures][:1] == [("tangent", "the sign is flipped")]
    assert "tangent[" in str(report)
    with pytest.raises(AssertionError, match="the sign is flipped"):
        assert_vjp(wrong, *args)


@pytest.mark.slow
def test_full_level_and_a_reference():
    fn, args = RIGHT["product"]
    report = check_jvp(fn, *args, level="full")
    assert report.ok, str(report)
    assert "order 2, forward over forward" in [row.check for row in report.rows]
    assert not check_jvp(fn, *args, reference=lambda x, w: x * w * w).ok


def test_bad_calls_are_refused():
    reverse = jax.custom_vjp(jnp.sin)
    with pytest.raises(TypeError, match=r"check_jvp: fn must have tangents; .* got a jax.custom_vjp"):
        check_jvp(reverse, X)
    with pytest.raises(TypeError, match="check_jvp: args must hold a floating-point array"):
        check_vjp(rule(jnp.sin, lambda x, t: t), 3)
    with pytest.raises(ValueError, match="check_jvp: order must be an integer"):
        check_jvp(jnp.sin, X, order=0)
