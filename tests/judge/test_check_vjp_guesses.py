"""What `check_vjp` says of a lost way, of cotangents for integers, and that rounding alone is no failure."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from vjp_bugs import OPERATIONS, rule

from fnconv import check_vjp
from fnconv.judge.rule import agreement, linearity, second
from fnconv.judge.rule.run import prepare

RNG = np.random.default_rng(11)
X = jnp.asarray(RNG.standard_normal((3, 4)), jnp.float32)
INDICES = jnp.array([0, 2, 2, 1])


def batch_norm(x):
    centred = x - x.mean(0, keepdims=True)
    return centred * lax.rsqrt((centred * centred).mean(0, keepdims=True) + 2.0**-10)


def batch_norm_bwd(x, dy):
    """With 4 in place of 3 where the variance's share is divided by the batch."""
    centred = x - x.mean(0)
    scale = lax.rsqrt((centred * centred).mean(0) + 2.0**-10)
    hat = centred * scale
    return (scale * (dy - dy.mean(0) - hat * (dy * hat).sum(0) / 4),)


def silu(x):
    return x * lax.logistic(x)


def logsumexp(x):
    high = lax.stop_gradient(x.max(-1, keepdims=True))
    return jnp.log(jnp.exp(x - high).sum(-1)) + high[:, 0]


def turn(x):
    """Pairs of columns, each turned by an angle of its own."""
    a, b = x[:, :2], x[:, 2:]
    c, s = jnp.cos(jnp.asarray([0.5, 2.0], x.dtype)), jnp.sin(jnp.asarray([0.5, 2.0], x.dtype))
    return jnp.concatenate([a * c - b * s, a * s + b * c], 1)


@pytest.mark.parametrize(
    ("primal", "bwd", "guess"),
    [
        (
            silu,
            lambda x, dy: (dy * lax.logistic(x),),
            r"logistic \(test_check_vjp_guesses.py, line \d+\) is left",
        ),
        (batch_norm, batch_norm_bwd, "counts 0.75 times"),
        (logsumexp, lambda x, dy: (jnp.exp(x - x.max(-1, keepdims=True)) * dy[:, None],), "derivative of log .* as if"),
        (turn, lambda x, dy: (turn(dy),), "the function itself is applied to the incoming cotangent"),
    ],
    ids=["silu", "batch norm", "logsumexp", "rotation"],
)
def test_a_lost_way_is_named(primal, bwd, guess):
    with jax.numpy_dtype_promotion("standard"):
        report = check_vjp(rule(primal, lambda x: (primal(x), x), bwd), X)
    (failure, *_) = report.failures
    assert failure.argument == "x"
    assert re.search(guess, failure.diagnosis), failure.diagnosis


def test_a_sum_over_the_wrong_axis_is_named():
    square = jnp.asarray(RNG.standard_normal((4, 4)), jnp.float32)
    add = rule(lambda x, b: x + b, lambda x, b: (x + b, None), lambda _, dy: (dy, dy.sum(1)))
    report = check_vjp(add, square, square[0])
    assert report.failures[0].argument == "b"
    assert "summed over the wrong one" in report.failures[0].diagnosis


def rows(indices, table):
    return table[indices]


def back(kept, dy):
    indices, table = kept
    return jnp.zeros_like(table).at[indices].add(dy)


@pytest.mark.parametrize(
    ("of_indices", "ok", "noted"),
    [
        (lambda dy: None, True, False),
        (lambda dy: np.zeros(4, jax.dtypes.float0), True, False),
        (lambda dy: jnp.zeros(4), True, True),
        (lambda dy: dy.sum(1), False, False),
    ],
    ids=["None", "float0", "zeros", "numbers"],
)
def test_cotangents_of_integers(of_indices, ok, noted):
    gather = rule(rows, lambda i, t: (rows(i, t), (i, t)), lambda kept, dy: (of_indices(dy), back(kept, dy)))
    report = check_vjp(gather, INDICES, X)
    assert report.ok == ok, str(report)
    assert any("JAX drops it silently" in note for note in report.notes) == noted
    assert ok or report.failures[0].argument == "indices"


def test_a_misshapen_cotangent_is_blamed_on_its_own_argument():
    gather = rule(rows, lambda i, t: (rows(i, t), (i, t)), lambda kept, dy: (None, back(kept, dy).T))
    diagnosis = check_vjp(gather, INDICES, X).failures[0].diagnosis
    assert "bwd returns shape (4, 3) for table of shape (3, 4)" in diagnosis


def test_a_tracer_kept_outside_is_called_one():
    kept = {}

    def fwd(x):
        kept["x"] = x
        return x * x, None

    report = check_vjp(rule(lambda x: x * x, fwd, lambda _, dy: (2 * kept["x"] * dy,)), X)
    assert any("the rule keeps a tracer" in f.diagnosis for f in report.failures)


# ---- no false alarms ------------------------------------------------------------------------------------------------


def test_rounding_that_few_samples_do_not_show():
    """The second derivative of tanh near 0 cancels; its error is that of 1 + y, which 4 runs need not show."""
    plan = OPERATIONS["tanh"]
    args = plan.args(np.random.default_rng(0), jnp.float16, 1e-3)
    with jax.numpy_dtype_promotion("standard"):
        trial = prepare(plan.right(), args, {}, None, "quick", 0)
        trial.compile()
        second.check_orders(trial, 2)
    assert trial.report.ok, str(trial.report)


def test_a_rule_may_compute_in_another_dtype():
    """RMS norm in float32 whatever its argument's dtype: its transpose is float32's as well."""

    def scale(x):
        return lax.rsqrt(jnp.square(x.astype(jnp.float32)).mean(-1, keepdims=True) + 2.0**-10)

    def norm(x):
        return (x.astype(jnp.float32) * scale(x)).astype(x.dtype)

    def bwd(x, dy):
        wide, s = dy.astype(jnp.float32), scale(x)
        hat = x.astype(jnp.float32) * s
        return ((s * (wide - hat * (wide * hat).mean(-1, keepdims=True))).astype(x.dtype),)

    trial = prepare(rule(norm, lambda x: (norm(x), x), bwd), (X,), {}, None, "quick", 0)
    trial.compile()
    linearity.check_adjoint(trial)
    assert trial.report.ok, str(trial.report)


@pytest.mark.parametrize("bug", ["", "scale missing in dq"])
def test_scores_that_overflow_excuse_a_right_rule_alone(bug):
    """A thousand times these arguments, attention's scores are infinite in float16: there autodiff is no better."""
    plan = OPERATIONS["attention"]
    args = plan.args(np.random.default_rng(13), jnp.float16, 0.1)
    with jax.numpy_dtype_promotion("standard"):
        trial = prepare(plan.wrong(bug) if bug else plan.right(), args, {}, None, "quick", 13)
        trial.compile()
        agreement.check_own_dtype(trial)
    assert trial.report.ok == (not bug), str(trial.report)


def test_a_tie_among_zeros_and_ones_is_a_tie():
    """Arguments that look like a mask are kept, but have kinks all the same."""

    def last(x, dy):
        place = x.shape[-1] - 1 - x[:, ::-1].argmax(-1)
        return (jax.nn.one_hot(place, x.shape[-1], dtype=dy.dtype) * dy[:, None],)

    highest = rule(lambda x: x.max(-1), lambda x: (x.max(-1), x), last)
    report = check_vjp(highest, jnp.array([[1.0, 1.0, 0.0]]))
    assert report.ok, str(report)
