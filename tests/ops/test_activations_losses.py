"""Activations and losses: exact where they are exact, within counted roundings elsewhere, stable at the extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_equal, needs_torch, width
from bounds import assert_within, gamma, units_of
from cases import FLOATS

import fnconv
from fnconv.base.dtypes import unit_roundoff

EXTREMES = [-np.inf, -1e4, -2.0, -0.0, 0.0, 3.0, 1e4, np.inf, np.nan]


def value_and_gradient(f, x, dy, dtype):
    with width(dtype):
        y, pullback = jax.vjp(f, jnp.asarray(x, dtype))
        return np.asarray(y), np.asarray(pullback(jnp.asarray(dy, dtype))[0])


def exp_units(dtype: str, largest: float) -> float:
    """Roundings that one exponential costs."""
    return units_of(jnp.exp, np.exp, np.linspace(-largest, largest, 20001), dtype)


# ---- piecewise linear -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_relu(dtype):
    """ReLU'(0) = 0 from both zeros; NaN stays NaN and has gradient 0; infinities pass."""
    with width(dtype):
        x = np.asarray(jnp.asarray(EXTREMES, dtype), np.float64)
    y, dx = value_and_gradient(fnconv.relu, x, np.arange(1, 10), dtype)
    assert y.dtype == dx.dtype == jnp.dtype(dtype)
    assert_equal(y, np.where(np.isnan(x), x, np.maximum(x, 0)), "y")
    assert_equal(dx, np.arange(1, 10) * (x > 0), "dx")


def test_relu_of_integers_stays_integer():
    y = fnconv.relu(jnp.array([-3, 0, 4], jnp.int8))
    assert y.dtype == jnp.int8
    assert y.tolist() == [0, 0, 4]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("slope", [0.5, 0, -2, 1])
def test_leaky_relu(dtype, slope):
    """Slopes that every dtype holds: exact; at 0 the left slope."""
    x, dy = np.array([-4.0, -0.5, -0.0, 0.0, 0.5, 3.0]), np.array([1.0, 2, 3, 4, 5, 6])
    y, dx = value_and_gradient(lambda x: fnconv.leaky_relu(x, slope), x, dy, dtype)
    assert_equal(y, np.where(x > 0, x, slope * x), "y")
    assert_equal(dx, np.where(x > 0, 1, slope) * dy, "dx")


@pytest.mark.parametrize("dtype", FLOATS)
def test_squared_error(dtype):
    """Integers: exact, and its two gradients are each other's negative."""
    p, t, dy = np.array([3, -2, 0, 5]), np.array([1, 2, 0, -3]), np.array([1, -2, 3, 1])
    with width(dtype):
        y, pullback = jax.vjp(fnconv.squared_error, jnp.asarray(p, dtype), jnp.asarray(t, dtype))
        dp, dt = pullback(jnp.asarray(dy, dtype))
    assert_equal(y, (p - t) ** 2, "y")
    assert_equal(dp, 2 * (p - t) * dy, "d prediction")
    assert_equal(dt, -2 * (p - t) * dy, "d target")


# ---- sigmoid and tanh -----------------------------------------------------------------------------------------------

RANGES = {"float16": 9.0, "bfloat16": 80.0, "float32": 80.0, "float64": 600.0}


def logistic(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.longdouble)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_sigmoid_and_its_gradient_keep_their_digits(dtype):
    """s = 1 / (1 + e^-x): an exponential, a sum, a quotient; s(x) s(-x) dy: two of them and two products."""
    with width(dtype):
        x = np.asarray(jnp.asarray(np.linspace(-RANGES[dtype], RANGES[dtype], 4001), dtype), np.float64)
    y, dx = value_and_gradient(fnconv.sigmoid, x, np.full_like(x, 1.5), dtype)
    s, slope = logistic(x), logistic(x) * logistic(-x)
    once = exp_units(dtype, RANGES[dtype]) + 2
    subnormal = float(jnp.finfo(dtype).smallest_subnormal)
    assert_within(y, s.astype(float), gamma(once, dtype) * s.astype(float) + subnormal, "y")
    want = (1.5 * slope).astype(float)
    assert_within(dx, want, gamma(2 * once + 2, dtype) * want + 4 * subnormal, "dx")


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_gradient_of_tanh_keeps_its_digits(dtype):
    """1 - tanh(x)^2 = 4 s(2x) s(-2x) dy: as the sigmoid's, the factors 2 and 4 exact; y is lax.tanh itself."""
    with width(dtype):
        x = np.asarray(jnp.asarray(np.linspace(-RANGES[dtype] / 2, RANGES[dtype] / 2, 4001), dtype), np.float64)
        plain = np.asarray(jax.lax.tanh(jnp.asarray(x, dtype)))
    y, dx = value_and_gradient(fnconv.tanh, x, np.full_like(x, 1.5), dtype)
    np.testing.assert_array_equal(y, plain)
    want = (1.5 * 4 * logistic(2 * x) * logistic(-2 * x)).astype(float)
    once = exp_units(dtype, RANGES[dtype]) + 2
    assert_within(dx, want, gamma(2 * once + 2, dtype) * want + 16 * float(jnp.finfo(dtype).smallest_subnormal), "dx")


@pytest.mark.parametrize("function", [fnconv.sigmoid, fnconv.tanh])
def test_saturation_gives_neither_nan_nor_infinity(function):
    y, dx = value_and_gradient(function, [-np.inf, -1e4, 1e4, np.inf], np.ones(4), "float32")
    low = -1.0 if function is fnconv.tanh else 0.0
    assert y.tolist() == [low, low, 1.0, 1.0]
    assert dx.tolist() == [0.0] * 4


# ---- softmax --------------------------------------------------------------------------------------------------------


def softmax64(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def softmax_units(x, dtype) -> float:
    """Roundings of e^(x - max) / sum: the difference, an exponential, n - 1 sums of such, a quotient."""
    spread = float((x.max(axis=-1, keepdims=True) - x).max())
    return 2 * (spread + exp_units(dtype, spread)) + x.shape[-1] + 1


def float_logits(dtype, scale=3.0):
    rng = np.random.default_rng(0)
    with width(dtype):
        return [np.asarray(jnp.asarray(rng.standard_normal((4, 7)) * scale, dtype), np.float64) for _ in range(2)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_and_log_softmax_within_their_roundings(dtype):
    x, dy = float_logits(dtype)
    p, n = softmax64(x), x.shape[-1]
    k = softmax_units(x, dtype)
    y, dx = value_and_gradient(fnconv.softmax, x, dy, dtype)
    both = lambda k: gamma(k, dtype) + gamma(k, "float64")  # noqa: E731  ours, and the reference's
    assert_within(y, p, both(k) * p, "softmax")
    mean = (dy * p).sum(-1, keepdims=True)
    magnitude = p * (np.abs(dy) + (np.abs(dy) * p).sum(-1, keepdims=True))
    assert_within(dx, p * (dy - mean), both(2 * k + n + 3) * magnitude, "softmax dx")
    y, dx = value_and_gradient(fnconv.log_softmax, x, dy, dtype)
    # the sum of exponentials has the relative error that its logarithm has as an absolute one
    log_units = units_of(jnp.log, np.log, np.linspace(1.5, n, 2001), dtype)
    centred = x - x.max(-1, keepdims=True)
    magnitude = np.abs(centred) + np.abs(np.log(p)) + 1 + np.log(n)
    assert_within(y, np.log(p), both(k + log_units) * magnitude, "log_softmax")
    magnitude = np.abs(dy) + p * np.abs(dy).sum(-1, keepdims=True)
    assert_within(dx, dy - p * dy.sum(-1, keepdims=True), both(k + n + 2) * magnitude, "log_softmax dx")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("function", [fnconv.softmax, fnconv.log_softmax])
def test_softmax_in_half_precision_is_summed_in_float32(function, dtype):
    """The value is the float32 one, rounded once."""
    x, _ = float_logits(dtype)
    got = function(jnp.asarray(x, dtype))
    assert got.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(got, function(jnp.asarray(x, jnp.float32)).astype(dtype))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_softmax_along_any_axis(axis):
    """The same numbers as along the last axis, bit for bit; value and gradient."""
    rng = np.random.default_rng(1)
    x, dy = (rng.integers(-3, 4, (2, 3, 4)).astype(np.float32) for _ in range(2))
    for function in (fnconv.softmax, fnconv.log_softmax):
        y, dx = value_and_gradient(lambda x, f=function: f(x, axis=axis), x, dy, "float32")
        moved = [np.moveaxis(a, axis, -1) for a in (x, dy)]
        want_y, want_dx = value_and_gradient(function, *moved, "float32")
        k = 40 * float(np.finfo(np.float32).eps) / 2  # two orders of adding at most 4 terms below 40 in all
        np.testing.assert_allclose(np.moveaxis(y, axis, -1), want_y, rtol=0, atol=k)
        np.testing.assert_allclose(np.moveaxis(dx, axis, -1), want_dx, rtol=0, atol=k)


# ---- softmax cross-entropy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_is_log_p_and_its_gradient_p_minus_y(dtype):
    """Integer, one-hot and soft labels."""
    x, _ = float_logits(dtype)
    labels = np.array([0, 6, 3, 3])
    hot = np.eye(7)[labels]
    soft = np.random.default_rng(2).integers(0, 4, (4, 7)) / 4
    dy, p, n = np.array([1.0, -2.0, 0.5, 3.0]), softmax64(x), 7
    k = softmax_units(x, dtype) + units_of(jnp.log, np.log, np.linspace(1.5, n, 2001), dtype)
    spread = float((x.max() - x.min()) + np.log(n) + 1)
    k_of_exp_log = k + spread * (k + 1)  # exp(log p): the absolute error of log p becomes relative
    for kind, weights in (("integer", hot), ("one-hot", hot), ("soft", soft)):
        given = labels if kind == "integer" else weights
        with width(dtype):
            target = jnp.asarray(given, None if kind == "integer" else dtype)
            loss, pullback = jax.vjp(lambda z, t=target: fnconv.softmax_cross_entropy(z, t), jnp.asarray(x, dtype))
            (dx,) = pullback(jnp.asarray(dy, dtype))
        both = lambda k: gamma(k, dtype) + gamma(k, "float64")  # noqa: E731
        magnitude = (weights * (np.abs(np.log(p)) + spread)).sum(-1)
        assert_within(loss, -(weights * np.log(p)).sum(-1), both(k + n) * magnitude, f"{kind}: loss")
        total = weights.sum(-1, keepdims=True)
        magnitude = (p * total + weights) * np.abs(dy[:, None])
        assert_within(dx, (p * total - weights) * dy[:, None], both(k_of_exp_log + n + 2) * magnitude, f"{kind}: dx")


@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy_at_logits_of_ten_thousand(dtype):
    """Exact: the loss is the distance to the largest logit, the gradient 0, 1 or -1."""
    large = 8192.0  # a number of every dtype
    z = np.array([[large, -large, 0], [large, -large, 0], [-large, -large, large]])
    with width(dtype):
        loss, pullback = jax.vjp(
            lambda z: fnconv.softmax_cross_entropy(z, jnp.array([0, 1, 2], jnp.int32)), jnp.asarray(z, dtype)
        )
        (dz,) = pullback(jnp.ones(3, dtype))
    assert_equal(loss, [0, 2 * large, 0], "loss")
    assert_equal(dz, [[0, 0, 0], [1, -1, 0], [0, 0, 0]], "d logits")


def test_cross_entropy_conventions():
    """A label of 0 asks nothing of a logit of -inf; labels out of range weigh nothing; labels have a gradient too."""
    z = jnp.array([[0.0, 0.0, -jnp.inf]])
    loss, dz = jax.value_and_grad(lambda z: fnconv.softmax_cross_entropy(z, jnp.array([1])).sum())(z)
    np.testing.assert_allclose(loss, np.log(2), rtol=2 * unit_roundoff("float32") + 1e-7)
    assert dz.tolist() == [[0.5, -0.5, 0.0]]
    for label in (-1, 3):
        loss, dz = jax.value_and_grad(lambda z, t=label: fnconv.softmax_cross_entropy(z, jnp.array([t])).sum())(
            jnp.zeros((1, 3))
        )
        assert loss == 0
        assert not dz.any()
    d_labels = jax.grad(lambda t: fnconv.softmax_cross_entropy(jnp.zeros((1, 2)), t).sum())(jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(d_labels, np.log(2), rtol=4 * unit_roundoff("float32"))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "uint32"])
def test_cross_entropy_takes_labels_of_any_integer_dtype(dtype):
    """Also with more classes than the dtype counts: 1 is not 257."""
    z = jnp.zeros((2, 300)).at[:, 1].set(8192.0)
    loss, dz = jax.value_and_grad(lambda z: fnconv.softmax_cross_entropy(z, jnp.array([1, 100], dtype)).sum())(z)
    assert loss == 8192
    assert not dz[0].any()
    assert dz[1, 1] == 1
    assert dz[1, 100] == -1


@needs_torch
def test_losses_and_activations_are_torch_s():
    """In float64, to a few roundings: value and gradient."""
    import torch

    f = torch.nn.functional
    x, _ = float_logits("float64")
    labels = np.array([0, 6, 3, 3])
    pairs = {
        "relu": (fnconv.relu, f.relu),
        "leaky_relu": (lambda x: fnconv.leaky_relu(x, 0.2), lambda x: f.leaky_relu(x, 0.2)),
        "sigmoid": (fnconv.sigmoid, torch.sigmoid),
        "tanh": (fnconv.tanh, torch.tanh),
        "softmax": (fnconv.softmax, lambda x: f.softmax(x, -1)),
        "log_softmax": (fnconv.log_softmax, lambda x: f.log_softmax(x, -1)),
        "cross-entropy": (
            lambda x: fnconv.softmax_cross_entropy(x, jnp.asarray(labels)),
            lambda x: f.cross_entropy(x, torch.tensor(labels), reduction="none"),
        ),
        "squared_error": (
            lambda x: fnconv.squared_error(x, jnp.ones_like(x)),
            lambda x: f.mse_loss(x, torch.ones_like(x), reduction="none"),
        ),
    }
    for name, (ours, theirs) in pairs.items():
        t = torch.tensor(x, requires_grad=True)
        want = theirs(t)
        dy = np.random.default_rng(3).standard_normal(want.shape)
        want.backward(torch.tensor(dy))
        y, dx = value_and_gradient(ours, x, dy, "float64")
        # 1 - y^2 and y (1 - y) cancel in Torch: an absolute error of a few units, times |dy| and |x| below 10
        atol = 200 * unit_roundoff("float64") * max(1, np.abs(dy).max()) * max(1, np.abs(x).max())
        np.testing.assert_allclose(y, want.detach().numpy(), rtol=0, atol=atol, err_msg=name)
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=0, atol=atol, err_msg=name)
