"""Mistakes that a bound too wide would hide: behind roundings, overflow, casts, or the size of a cotangent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from vjp_bugs import rule

from fnconv import check_vjp
from fnconv.judge.rule import agreement, linearity, structure
from fnconv.judge.rule.run import prepare

RNG = np.random.default_rng(5)
X = jnp.asarray(RNG.standard_normal((3, 8)), jnp.float32)


def trial_of(fn, *args):
    trial = prepare(fn, args, {}, None, "quick", 0)
    trial.compile()
    return trial


def rms(x):
    """x**2 overflows in float16 from 256 on."""
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + jnp.asarray(2.0**-10, x.dtype))


def rms_bwd(x, dy, most):
    wide, u = jnp.clip(x.astype(jnp.float32), -most, most), dy.astype(jnp.float32)
    scale = lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 2.0**-10)
    return ((scale * (u - wide * scale * jnp.mean(u * wide * scale, -1, keepdims=True))).astype(x.dtype),)


@pytest.mark.parametrize("most", [np.inf, 240.0], ids=["right", "clipped"])
def test_overflow_of_the_reference_hides_no_mistake(most):
    """In float16 autodiff's own gradient is lost there; the rule computes in float32 and loses nothing."""

    def bwd(x, dy):
        return rms_bwd(x, dy, most if x.dtype == jnp.float16 else np.inf)

    trial = trial_of(rule(rms, lambda x: (rms(x), x), bwd), X.astype(jnp.float16))
    agreement.check_own_dtype(trial)
    assert trial.report.ok == (most == np.inf), str(trial.report)


@pytest.mark.parametrize(("dtype", "factor"), [(jnp.bfloat16, 1.125), (jnp.float32, 1 + 2**-19)])
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_a_cast_inside_hides_no_mistake_in_symbolic_zeros(dtype, factor, wrong):
    def product(x, w):
        return (x.astype(dtype) * w.astype(dtype)).astype(x.dtype)

    def fwd(x, w):
        return product(x.value, w.value), (x.value, w.value, x.perturbed and w.perturbed)

    def bwd(kept, dy):
        x, w, both = kept
        return product(dy, w) * (1 if both or not wrong else jnp.asarray(factor, dy.dtype)), product(dy, x)

    with_rule = jax.custom_vjp(product)
    with_rule.defvjp(fwd, bwd, symbolic_zeros=True)
    trial = trial_of(with_rule, X.astype(dtype), X.astype(dtype) + 1)
    trial.symbolic = True
    structure.check_one_by_one(trial)
    assert trial.report.ok == (not wrong), str(trial.report)


@pytest.mark.parametrize(
    "change",
    [lambda dy: jnp.clip(dy, -1e4, 1e4), lambda dy: jnp.where(abs(dy) < 1e-6, 0 * dy, dy)],
    ids=["clipped", "flushed"],
)
def test_a_cotangent_is_tried_at_every_size(change):
    trial = trial_of(rule(lambda x: 2 * x, lambda x: (2 * x, None), lambda _, dy: (2 * change(dy),)), X)
    linearity.check_linear(trial)
    assert "the rule is not linear" in trial.report.failures[0].diagnosis


@pytest.mark.parametrize(("far", "ok", "noted"), [(0.0, True, False), (1e4, True, True), (1e8, False, True)])
def test_a_rule_in_which_digits_cancel_is_told(far, ok, noted):
    """Its own rounding is no excuse for a rule of whose digits none is left."""

    def bwd(x, dy):
        offset = jnp.exp((x * 0).sum()) * far  # nothing that a compiler folds
        return (2 * ((x + offset) - offset) * dy,)

    report = check_vjp(rule(lambda x: x * x, lambda x: (x * x, x), bwd), X)
    text = " ".join([*report.notes, *(f.diagnosis for f in report.failures)])
    assert report.ok == ok, str(report)
    assert ("cancel" in text) == noted


def test_a_straight_through_estimate_is_called_one():
    report = check_vjp(rule(lambda x: jnp.round(x), lambda x: (jnp.round(x), None), lambda _, dy: (dy,)), X)
    assert report.failures[0].diagnosis == "the incoming cotangent is passed straight through a flat function"
