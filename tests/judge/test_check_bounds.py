"""The bounds that `fnconv check` judges floats by, and the data it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnconv.judge.engine import distances
from fnconv.judge.engine.followed import follow
from fnconv.judge.own import bounds, programs
from fnconv.judge.own.case import NORMAL
from fnconv.judge.own.suite import cases, pointwise

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_ulps_count_the_numbers_between(dtype):
    one = np.ones((), dtype)
    tiny = np.asarray(jnp.finfo(dtype).smallest_subnormal, dtype)
    assert distances.ulps(np.nextafter(one, 2 * one).reshape(1), one.reshape(1)) == 1
    assert distances.ulps(np.array([0.0, 1.0], dtype), np.array([-0.0, 1.0], dtype)) == 0
    assert distances.ulps(tiny.reshape(1), -tiny.reshape(1)) == 2
    assert distances.ulps(np.array([np.nan], dtype), np.array([np.nan], dtype)) == 0
    assert distances.ulps(np.array([np.inf], dtype), np.array([1.0], dtype)) == np.inf


def test_the_bound_on_a_sum_is_the_a_priori_one():
    """gamma(count + 2) magnitude, and v |exact| where the result is stored in another type."""
    count, magnitude, exact = np.array(7.0), np.array(3.0), np.array(0.5)
    u, v, w = 2.0**-24, 2.0**-8, 2.0**-53
    sum_ = 9 * u / (1 - 9 * u) * 3 + 9 * w / (1 - 9 * w) * 3
    assert bounds.sum_error(count, magnitude, exact, jnp.float32) == pytest.approx(sum_, rel=1e-9)
    stored = sum_ + v * (0.5 + 9 * u / (1 - 9 * u) * 3)
    assert bounds.sum_error(count, magnitude, exact, jnp.bfloat16) == pytest.approx(stored, rel=1e-9)


@pytest.mark.parametrize(
    "formula",
    [
        lambda a, b: (a * b + a) / (b * b + 1),
        lambda a, b: jnp.exp(a - b),
        lambda a, b: a**3.5,
        lambda a, b: jnp.tanh(jnp.sqrt(a) - b),
        lambda a, b: jnp.log((a * b).sum(0)),
        lambda a, b: jnp.sign(a - b) * b * jnp.ldexp(jnp.float32(1), jnp.frexp(a)[1]),
    ],
)
def test_running_errors_bound_what_float32_does(formula):
    """And are not beyond all measure: within a factor of 100 of the worst that happens."""
    x, y = RNG.uniform(0.1, 4, (2, 500)).astype(np.float32)
    program = jax.make_jaxpr(formula)(x, y)
    with jax.enable_x64(True):
        (result,) = follow(program, (x, y))
    error = np.abs(np.asarray(jax.jit(formula)(x, y), np.float64) - result.value)
    assert (error <= result.error).all()
    assert result.error.max() <= 100 * max(error.max(), 2.0**-24 * abs(result.value).max())


def test_drawn_integers_are_representable_and_exact():
    """The reach is lowered until no sum leaves the integers of the dtype; equal arguments draw equal data."""
    case = [c for c in cases() if c.operation == "conv"][3]
    run = programs.compile_reference(case, case.reference, jax.devices("cpu")[0])
    shape = case.cotangent_shape(jnp.float32)
    integers = next(s for s in case.samples if s.exact)
    reach = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        operands, cotangent = case.draw(integers, shape, dtype, run)
        sums = run(tuple(map(abs, operands)), abs(cotangent))
        assert max(s.max() for s in sums.values()) <= {2: 2**8, 4: 2**24}[jnp.dtype(dtype).itemsize]
        reach[dtype] = abs(operands[0]).max()
    assert reach[jnp.bfloat16] < reach[jnp.float32]
    again = case.draw(NORMAL, shape, jnp.float16, run)
    for a, b in zip(again[0], case.draw(NORMAL, shape, jnp.float16, run)[0], strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, a.astype(np.float16))


def test_the_samples_of_the_activations_reach_their_kinks_and_extremes():
    rng = np.random.default_rng(0)
    assert 0 in pointwise.SMALL.make(rng, ((4, 6), (4, 6)), 8)[0]
    far = pointwise.EXTREME.make(rng, ((4, 6), (4, 6)), 8)[0]
    assert {-1e4, 1e4} <= set(far.flat)
