"""Where JAX's own derivatives go wrong, are missing or lose their digits, ours do not.

What is asserted of JAX holds for the versions named; what is asserted of fnconv holds always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from agreement import as_users_compile, exact
from bounds import gamma, units_of
from jax import lax

import fnconv

VERSION = tuple(int(part) for part in jax.__version__.split(".")[:2])


def wrong_up_to(*version: int) -> pytest.MarkDecorator:
    """The newest version of JAX that was seen to have the fault; a later one may have mended it."""
    return pytest.mark.skipif(version < VERSION, reason="JAX may have mended it since")


# ---- asymmetric padding as large as the kernel ----------------------------------------------------------------------

PADDING = ((2, 0), (2, 0))


def convolution():
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 4, (2, 3, 3, 2)), rng.integers(1, 4, (2, 2, 2, 3))
    steps = oracles.resolve((3, 3), (2, 2), padding=PADDING)
    dy = rng.integers(1, 4, (2, *oracles.outputs(steps), 3))
    return x, w, dy, oracles.conv_maps(x, w, dy, steps)[1]


def gradient_of_lax(x, w, dy):
    def conv(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), PADDING, dimension_numbers=numbers)

    return jax.vjp(conv, x)[1](dy)[0]


@wrong_up_to(0, 10)
def test_jax_s_input_gradient_reads_out_of_bounds():
    """2x2 kernel, padding ((2, 0), (2, 0)): the backward correlation has negative low paddings.

    What is read there is whatever lies in memory, so that one run may find zeros; one of many does not.  JAX 0.12
    gives the right gradient.
    """
    x, w, dy, want = convolution()
    operands = [jnp.asarray(a, jnp.float32) for a in (x, w, dy)]
    run = jax.jit(gradient_of_lax)
    wrong = [not np.array_equal(run(*operands), want) for _ in range(50)]
    assert any(wrong)


@pytest.mark.parametrize("rule", exact("conv"))
def test_ours_is_right(rule):
    x, w, dy, want = convolution()
    x, w, dy = (jnp.asarray(a, jnp.float32) for a in (x, w, dy))

    def gradient(x, w, dy):
        def conv(x):
            return fnconv.conv(x, w, padding=PADDING, rule=exact("conv")[rule])

        return jax.vjp(conv, x)[1](dy)[0]

    run = jax.jit(gradient)
    for _ in range(20):
        np.testing.assert_array_equal(run(x, w, dy), want)


# ---- max pooling with a dilated window ------------------------------------------------------------------------------


def dilated_max(x):
    return lax.reduce_window(x, -np.inf, lax.max, (1, 3, 1), (1, 1, 1), "VALID", window_dilation=(1, 2, 1))


@wrong_up_to(0, 12)
def test_jax_has_no_gradient_for_dilated_max_pooling():
    with pytest.raises(NotImplementedError):
        jax.grad(lambda x: dilated_max(x).sum())(jnp.ones((1, 7, 1)))


def test_ours_has():
    x = jnp.asarray(np.random.default_rng(1).permutation(7), jnp.float32).reshape(1, 7, 1)
    steps = oracles.resolve((7,), (3,), dilation=2)
    dy = np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
    y, _, dx = oracles.max_pool(np.asarray(x), dy, steps)
    np.testing.assert_array_equal(dilated_max(x), y)
    got, pullback = jax.vjp(lambda x: fnconv.max_pool(x, (3,), strides=1, dilation=2), x)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(pullback(jnp.asarray(dy, jnp.float32))[0], dx)


# ---- saturated activations ------------------------------------------------------------------------------------------


def sigmoid_slope(x):
    e = np.exp(-np.abs(np.float64(x)))
    return e / (1 + e) ** 2


SATURATED = {  # JAX's own, ours, the slope in float64, and where it is taken
    "sigmoid": (jax.nn.sigmoid, fnconv.sigmoid, sigmoid_slope, 20.0),
    "tanh": (jnp.tanh, fnconv.tanh, lambda x: 4 * sigmoid_slope(2 * x), 10.0),
}


@wrong_up_to(0, 12)
@pytest.mark.parametrize("name", SATURATED)
def test_jax_s_slope_loses_all_digits(name):
    """y (1 - y) and 1 - y^2 are 0 once y rounds to 1."""
    theirs, _, slope, at = SATURATED[name]
    assert slope(at) > 1e-9
    assert float(as_users_compile(jax.grad(theirs))(jnp.float32(at))) == 0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", SATURATED)
def test_our_slope_is_within_a_few_roundings(name, sign):
    """Two sigmoids of an exponential, a sum and a quotient each, and two products."""
    _, ours, slope, at = SATURATED[name]
    exponential = units_of(jnp.exp, np.exp, np.linspace(-40, 40, 10001), "float32")
    got = float(jax.grad(ours)(jnp.float32(sign * at)))
    assert abs(got - slope(at)) <= gamma(2 * (exponential + 2) + 2, "float32") * slope(at)


# ---- kinks ----------------------------------------------------------------------------------------------------------


def plain_l2_pool(x):
    return jnp.sqrt(lax.reduce_window(x * x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID"))


def test_l2_pooling_of_a_window_of_zeros():
    """Of the formula as it stands autodiff makes 0 * inf = NaN; the rule gives 0."""
    x = jnp.array([0.0, 0.0, 3.0, 4.0]).reshape(1, 4, 1)
    assert jnp.isnan(jax.grad(lambda x: plain_l2_pool(x).sum())(x)).ravel().tolist() == [True, True, False, False]
    dx = jax.grad(lambda x: fnconv.lp_pool(x, (2,)).sum())(x).ravel()
    np.testing.assert_allclose(dx, [0, 0, 0.6, 0.8], rtol=4 * np.finfo(np.float32).eps)
    assert dx[:2].tolist() == [0, 0]


def test_l2_pooling_of_large_and_of_small_numbers():
    """Squares leave float32 where the norms and their slopes do not."""
    for scale in (1e30, 1e-30):
        x = jnp.array([3.0, 4.0]).reshape(1, 2, 1) * scale
        assert not np.allclose(jax.grad(lambda x: plain_l2_pool(x).sum())(x).ravel(), [0.6, 0.8])
        dx = jax.grad(lambda x: fnconv.lp_pool(x, (2,)).sum())(x).ravel()
        np.testing.assert_allclose(dx, [0.6, 0.8], rtol=8 * np.finfo(np.float32).eps)


def test_relu_at_zero_written_as_a_maximum():
    """jnp.maximum shares the gradient between its equal arguments: 1/2 at 0; Wei (5.2) has 0, and so have we."""
    assert float(jax.grad(lambda x: jnp.maximum(x, 0.0))(0.0)) == 0.5
    assert float(jax.grad(fnconv.relu)(0.0)) == 0.0


def test_maximum_of_a_window_written_as_a_reduction():
    """jnp.max shares the gradient among equal maxima; of max pooling one wins, Wei (4.2)."""
    x = jnp.array([2.0, 2.0, 1.0, 2.0])
    assert jax.grad(jnp.max)(x).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    assert jax.grad(lambda x: fnconv.max_pool(x[:, None], (4,)).sum())(x).tolist() == [1, 0, 0, 0]


def test_max_pooling_whose_window_holds_only_minus_infinity_beside_padding():
    """XLA's select-and-scatter gives the gradient to the padding, which loses it; ours to the first cell."""
    x = jnp.full((1, 2, 1), -jnp.inf)
    steps = oracles.resolve((2,), (2,), padding=((1, 0),))
    theirs = jax.vjp(lambda x: oracles.plain_max_pool(x, steps), x)[1](jnp.ones((1, 2, 1)))[0]
    ours = jax.vjp(lambda x: fnconv.max_pool(x, (2,), strides=1, padding=((1, 0),)), x)[1](jnp.ones((1, 2, 1)))[0]
    assert theirs.sum() < 2
    assert ours.ravel().tolist() == [2, 0]


def test_cross_entropy_written_out():
    """log(softmax) overflows to -inf and its gradient to NaN at logits of 1e4; p - y does not."""
    z = jnp.array([[1e4, 0.0]])
    plain = jax.grad(lambda z: -jnp.log(jnp.exp(z) / jnp.exp(z).sum())[0, 1])(z)
    assert jnp.isnan(plain).any()
    ours = jax.grad(lambda z: fnconv.softmax_cross_entropy(z, jnp.array([1])).sum())(z)
    assert ours.tolist() == [[1.0, -1.0]]
