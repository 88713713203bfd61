"""The replay engine: float64's own errors, limits on what a step may claim, whole numbers, bounds from samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnconv.judge.engine.distances import ratios, worst
from fnconv.judge.engine.programs import FEW, MANY, InFloat64, settled
from fnconv.judge.engine.replay import has_rules, replay, without_rules
from fnconv.judge.engine.rounding import WholeNumbers

RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.standard_normal(8), jnp.float32)


def product(x):
    return x * x


# ---- rounding errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_fine_errors_are_those_of_float64_whatever_the_dtype(dtype):
    """For float16 too, whose smallest numbers would hide a mistake in small results."""
    with jax.enable_x64(True):
        x = X.astype(jnp.float64)
        program = InFloat64(jax.make_jaxpr(product)(x), [x], dtype=jnp.dtype(dtype))
    fine, own = (program.deviation([x], samples=4, fine=fine)[0] for fine in (True, False))
    y = np.asarray(x) ** 2
    np.testing.assert_allclose(fine, 2.0**-53 * y, rtol=0.1)
    np.testing.assert_allclose(
        own, float(jnp.finfo(dtype).eps) / 2 * y, rtol=1e-2 if dtype != jnp.float64 else 0.6, atol=1e-7
    )


@pytest.mark.parametrize("limited", [False, True])
def test_a_limited_step_claims_no_more_than_the_functions_dtype(limited):
    """A product in bfloat16 inside a function of float32."""

    def narrow(x):
        return (x.astype(jnp.bfloat16) * x.astype(jnp.bfloat16)).astype(jnp.float32)

    program = InFloat64(jax.make_jaxpr(narrow)(X), [X], dtype=jnp.dtype(jnp.float32), limited=limited)
    relative = program.deviation([X], samples=8)[0] / np.asarray(X, np.float64) ** 2
    assert relative.max() < 2.0**-21 if limited else relative.min() > 2.0**-10


def test_where_rounding_may_leave_the_domain_the_bound_is_infinite():
    """The logarithm of a difference that is 1.2e-8, its rounding error 6.5e-8."""
    x, c = jnp.asarray([1.0 + 2.0**-23], jnp.float32), np.float32(1.1)
    program = InFloat64(jax.make_jaxpr(lambda x: jnp.log(x * c - (c + np.float32(2.0**-23))))(x), [x])
    assert np.isfinite(program.exact([x])).all()
    assert np.isinf(program.deviation([x], samples=8)).all()


def test_errors_of_tiny_results_do_not_vanish():
    """Their squares are no numbers of float64."""
    with jax.enable_x64(True):
        x = jnp.asarray([-1e3 / 3], jnp.float64)
        program = InFloat64(jax.make_jaxpr(lambda x: jnp.exp(x) * 3)(x), [x], dtype=jnp.dtype(jnp.float16))
    assert program.deviation([x], samples=4, fine=True)[0] > 2.0**-53 * program.exact([x])[0] > 0


def test_only_many_samples_convict():
    asked = []

    def bounds(samples):
        asked.append(samples)
        return samples

    assert settled(bounds, lambda bound: bound >= FEW) == FEW
    assert settled(bounds, lambda bound: bound > MANY) == MANY
    assert asked == [FEW, FEW, MANY]


# ---- whole numbers --------------------------------------------------------------------------------------------------

WHOLE = {
    "products and sums": (lambda x: (x * x).sum() - x.max(), True),
    "division": (lambda x: (x + 1) / 3, False),
    "a constant": (lambda x: x * 0.1, False),
    "more than float16 holds": (lambda x: x * 1024 * 4 + 1, False),
    "a loop": (lambda x: lax.fori_loop(0, 2, lambda i, c: c + x, x), False),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name):
    fn, whole = WHOLE[name]
    jaxpr = jax.make_jaxpr(fn)(jnp.zeros(4, jnp.float16))
    watched = WholeNumbers()
    with jax.enable_x64(True):
        replay(jaxpr, [jnp.arange(4.0, dtype=jnp.float64)], watched)
    assert watched.whole == whole


# ---- without derivative rules ---------------------------------------------------------------------------------------


def test_rules_are_left_out_inside_loops_branches_and_calls():
    @jax.custom_vjp
    def wrong(x):
        return x * x

    wrong.defvjp(lambda x: (wrong(x), x), lambda x, dy: (7 * dy,))

    def fn(x):
        y = lax.scan(lambda c, _: (wrong(c), None), x, None, length=2)[0]
        return lax.cond(x[0] > 9, lambda v: v, jax.jit(wrong), y).sum()

    plain = without_rules(fn)
    assert has_rules(jax.make_jaxpr(fn)(X))
    assert not has_rules(jax.make_jaxpr(plain)(X))
    np.testing.assert_allclose(jax.grad(plain)(X), 8 * np.asarray(X, np.float64) ** 7, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(fn)(X), 343 * np.ones(8))


# ---- distances ------------------------------------------------------------------------------------------------------


def test_ratios_and_the_worst_entry():
    got, want = np.array([1.0, np.nan, np.inf, 2.0, np.inf]), np.array([1.0, np.nan, np.inf, 3.0, 0.0])
    bound = np.array([0.0, 0.0, 0.0, 0.5, np.inf])
    assert ratios(got, want, bound).tolist() == [0, 0, 0, 2, 0]
    assert ratios(got[3:4], want[3:4], np.array([np.nan])).tolist() == [np.inf]
    found = worst(got, want, bound, ratios(got, want, bound) > 1)
    assert (found["index"], found["error"], found["ratio"], found["wrong"], found["of"]) == ((3,), 1.0, 2.0, 1, 5)
