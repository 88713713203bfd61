"""Activations of `ops/elementwise.py`: their digits, also in the tails, their kinks, their ends, Torch's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled, needs_torch, width
from bounds import gamma, units_of
from cases import FLOATS

import fnconv
from fnconv.base.dtypes import accumulator, unit_roundoff

Array = np.ndarray

# ---- in extended precision ------------------------------------------------------------------------------------------


def logistic(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def normal(x: Array) -> Array:
    """By erfc in float64, whose own error is allowed for."""
    return np.vectorize(math.erfc, otypes=[np.longdouble])(-x * np.sqrt(np.longdouble(0.5))) / 2


def cubic(x: Array) -> Array:
    return 2 * np.sqrt(2 / np.longdouble(np.pi)) * (x + np.longdouble(0.044715) * x**3)


def cubic_slope(x: Array) -> Array:
    return 2 * np.sqrt(2 / np.longdouble(np.pi)) * (1 + 3 * np.longdouble(0.044715) * x**2)


def density(x: Array) -> Array:
    return np.exp(-x * x / 2) / np.sqrt(2 * np.longdouble(np.pi))


def sech(x: Array) -> Array:
    return 1 / np.cosh(x)


def below(x: Array) -> Array:
    return np.minimum(x, 0)


def inside(x: Array) -> Array:
    return (x > -3) & (x < 3)


SCALE, ALPHA = np.longdouble("1.0507009873554804934"), np.longdouble("1.6732632423543772848")


@dataclass(frozen=True)
class Exact:
    """The value, the terms whose sum is the slope, and 1 plus the size of the argument of an e^... in it."""

    fn: Callable[..., jax.Array]
    value: Callable[[Array], Array]
    terms: Callable[[Array], tuple[Array, ...]]
    condition: Callable[[Array], Array] = np.ones_like


EXACT = {
    "gelu": Exact(
        fnconv.gelu,
        lambda x: x * logistic(cubic(x)),
        lambda x: (logistic(cubic(x)), x * logistic(cubic(x)) * logistic(-cubic(x)) * cubic_slope(x)),
        lambda x: 1 + abs(cubic(x)),
    ),
    "gelu-exact": Exact(
        partial(fnconv.gelu, approximate=False),
        lambda x: x * normal(x),
        lambda x: (normal(x), x * density(x)),
        lambda x: 1 + x**2,
    ),
    "silu": Exact(fnconv.silu, lambda x: x * logistic(x), lambda x: (logistic(x), x * logistic(x) * logistic(-x))),
    "mish": Exact(
        fnconv.mish,
        lambda x: x * np.tanh(softplus(x)),
        lambda x: (np.tanh(softplus(x)), x * sech(softplus(x)) ** 2 * logistic(x)),
        lambda x: 1 + softplus(x),
    ),
    "softplus": Exact(fnconv.softplus, softplus, lambda x: (logistic(x),)),
    "log_sigmoid": Exact(fnconv.log_sigmoid, lambda x: -softplus(-x), lambda x: (logistic(-x),)),
    "elu": Exact(
        partial(fnconv.elu, alpha=0.5),
        lambda x: np.where(x > 0, x, np.expm1(below(x)) / 2),
        lambda x: (np.where(x > 0, 1, np.exp(below(x)) / 2),),
    ),
    "celu": Exact(
        partial(fnconv.celu, alpha=2),
        lambda x: np.where(x > 0, x, 2 * np.expm1(below(x) / 2)),
        lambda x: (np.where(x > 0, 1, np.exp(below(x) / 2)),),
    ),
    "selu": Exact(
        fnconv.selu,
        lambda x: SCALE * np.where(x > 0, x, ALPHA * np.expm1(below(x))),
        lambda x: (SCALE * np.where(x > 0, 1, ALPHA * np.exp(below(x))),),
    ),
    "soft_sign": Exact(fnconv.soft_sign, lambda x: x / (1 + abs(x)), lambda x: ((1 + abs(x)) ** -2,)),
    "relu6": Exact(fnconv.relu6, lambda x: np.clip(x, 0, 6), lambda x: ((x > 0) & (x < 6),)),
    "hard_tanh": Exact(fnconv.hard_tanh, lambda x: np.clip(x, -1, 1), lambda x: (abs(x) <= 1,)),
    "hard_sigmoid": Exact(
        fnconv.hard_sigmoid, lambda x: np.clip(x + 3, 0, 6) / 6, lambda x: (inside(x) / np.longdouble(6),)
    ),
    "hard_silu": Exact(
        fnconv.hard_silu,
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: (np.clip(x + 3, 0, 6) / 6, inside(x) * x / 6),
    ),
}
REACH = {"float16": 15.0, "bfloat16": 80.0, "float32": 80.0, "float64": 700.0}


def check_digits(name: str, dtype: str) -> None:
    """At most three elementary functions, e roundings each, and 16 other steps; once more where halves are stored."""
    case, wide = EXACT[name], accumulator(jnp.dtype(dtype))
    with width(dtype):
        grid = np.concatenate([np.linspace(-REACH[dtype], REACH[dtype], 2001), np.linspace(-4, 4, 401)])
        given = jnp.asarray(grid, dtype)
        x = np.asarray(given).astype(np.longdouble)
        y, pullback = compiled(lambda x: jax.vjp(case.fn, x))(given)
        (dx,) = pullback(jnp.full_like(y, 1.5))
    e = max(units_of(f, g, np.linspace(-30, 0, 4001), wide.name) for f, g in ((jnp.exp, np.exp), (jnp.expm1, np.expm1)))
    terms = [1.5 * np.asarray(t, np.longdouble) for t in case.terms(x)]
    k = (3 * e + 16) * case.condition(x)
    for what, got, want, size in (
        ("y", y, case.value(x), abs(case.value(x))),
        ("dx", dx, sum(terms), sum(map(abs, terms))),
    ):
        assert got.dtype == jnp.dtype(dtype)
        bound = (gamma(k, wide) + gamma(k, "float64")) * size + gamma(1, dtype) * abs(want)
        error = abs(np.asarray(got).astype(np.longdouble) - want)
        lost = 512 * float(jnp.finfo(dtype).smallest_normal)  # a sigmoid that underflows, times x u'(x) in gelu's slope
        bad = ~(error <= bound + lost)
        assert not bad.any(), f"{name} {what}: {[(x[i], np.asarray(got)[i], want[i]) for i in np.flatnonzero(bad)[:4]]}"


@pytest.mark.sample(24)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", EXACT)
def test_values_and_gradients_keep_their_digits(name: str, dtype: str) -> None:
    check_digits(name, dtype)


# ---- ends and kinks -------------------------------------------------------------------------------------------------

INF = math.inf
ENDS = {  # f(-inf), f(inf), f'(-inf), f'(inf)
    "gelu": (-0.0, INF, 0, 1),
    "gelu-exact": (-0.0, INF, 0, 1),
    "silu": (-0.0, INF, 0, 1),
    "mish": (-0.0, INF, 0, 1),
    "softplus": (0, INF, 0, 1),
    "log_sigmoid": (-INF, 0, 1, 0),
    "elu": (-0.5, INF, 0, 1),
    "celu": (-2, INF, 0, 1),
    "selu": (-float(np.float32(SCALE * ALPHA)), INF, 0, float(np.float32(SCALE))),
    "soft_sign": (-1, 1, 0, 0),
    "relu6": (0, 6, 0, 0),
    "hard_tanh": (-1, 1, 0, 0),
    "hard_sigmoid": (0, 1, 0, 0),
    "hard_silu": (-0.0, INF, 0, 1),
}


def test_all_have_ends():
    assert ENDS.keys() == EXACT.keys()


@pytest.mark.parametrize("name", ENDS)
def test_at_infinity_and_at_the_largest_numbers(name):
    """The limits, the first three derivatives without NaN; a NaN stays one."""
    fn, (low, high, slope_low, slope_high) = EXACT[name].fn, ENDS[name]
    largest = float(np.finfo(np.float32).max)
    x = jnp.asarray([-INF, INF, -largest, largest, -1e4, 1e4, -0.0, 0.0, np.nan], jnp.float32)
    slope = jax.grad(lambda x: fn(x))
    second = jax.grad(slope)
    y, dx, *more = (np.asarray(jax.vmap(f)(x)) for f in (fn, slope, second, jax.grad(second)))
    np.testing.assert_allclose(y[:2], [low, high], rtol=2e-7)
    np.testing.assert_allclose(dx[:2], [slope_low, slope_high], rtol=2e-7, atol=0)
    assert np.isnan(y[-1])
    for derivative in (dx, *more):
        assert np.isfinite(derivative[:-1]).all(), derivative
    for derivative in more:
        assert not derivative[:2].any()
    if low == 0 and name not in ("softplus", "relu6", "hard_sigmoid"):
        assert np.signbit(y[0])


def test_slopes_at_kinks():
    """jax.nn's."""
    kinks = {
        "relu6": (0.0, 6.0),
        "hard_tanh": (-1.0, 1.0),
        "hard_sigmoid": (-3.0, 3.0),
        "hard_silu": (-3.0, 3.0),
        "elu": (0.0, -0.0),
        "celu": (0.0, -0.0),
        "selu": (0.0, -0.0),
        "soft_sign": (0.0, -0.0),
    }
    wanted = {
        "relu6": [0, 0],
        "hard_tanh": [1, 1],
        "hard_sigmoid": [0, 0],
        "hard_silu": [0, 1],
        "elu": [1, 1],
        "celu": [1, 1],
        "selu": [float(np.float32(SCALE * ALPHA))] * 2,
        "soft_sign": [1, 1],
    }
    for name, at in kinks.items():
        ours, theirs = (jax.vmap(jax.grad(getattr(m, name)))(jnp.asarray(at)) for m in (fnconv, jax.nn))
        np.testing.assert_allclose(ours, wanted[name], rtol=2e-7, err_msg=name)
        np.testing.assert_allclose(ours, theirs, rtol=2e-7, err_msg=name)


def test_relu6_keeps_what_the_next_layer_keeps():
    x = jnp.linspace(-3, 9, 13)
    y, pullback = jax.vjp(fnconv.relu6, x)
    (kept,) = jax.tree.leaves(pullback)
    assert kept.unsafe_buffer_pointer() == y.unsafe_buffer_pointer()


@pytest.mark.parametrize("name", ["silu", "gelu", "mish", "hard_silu"])
def test_zero_times_an_infinite_cotangent_is_autodiff_s(name):
    """A cotangent of 0 makes 0."""
    _, pullback = jax.vjp(getattr(fnconv, name), jnp.asarray([-INF, INF, 1e30]))
    assert not pullback(jnp.zeros(3))[0].any()


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fnconv.gelu(1.0, 1), TypeError, "gelu: approximate must be a bool; got 1"),
        (lambda: fnconv.elu(1.0, math.nan), ValueError, "elu: alpha must be finite; got nan"),
        (lambda: fnconv.celu(1.0, 0), ValueError, "celu: alpha must not be 0; got 0.0"),
        (lambda: jax.jit(fnconv.celu)(1.0, 2.0), TypeError, "celu: alpha must be a number known at trace time"),
        (lambda: fnconv.mish(jnp.arange(3)), TypeError, "mish: x must have dtype float16, .*; got int32"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- Torch ----------------------------------------------------------------------------------------------------------


@needs_torch
def test_they_are_torch_s():
    """In float64, to a few roundings: value and gradient."""
    import torch

    f = torch.nn.functional
    theirs = {
        "gelu": partial(f.gelu, approximate="tanh"),
        "gelu-exact": f.gelu,
        "elu": partial(f.elu, alpha=0.5),
        "celu": partial(f.celu, alpha=2.0),
        "log_sigmoid": f.logsigmoid,
        "soft_sign": f.softsign,
        "hard_tanh": f.hardtanh,
        "hard_sigmoid": f.hardsigmoid,
        "hard_silu": f.hardswish,
        **{name: getattr(f, name) for name in ("silu", "mish", "softplus", "selu", "relu6")},
    }
    assert theirs.keys() == EXACT.keys()
    x = np.random.default_rng(4).standard_normal((5, 7)) * 4
    for name, function in theirs.items():
        t = torch.tensor(x, requires_grad=True)
        y = function(t)
        y.backward(torch.full_like(y, 1.5))
        with width("float64"):
            ours, pullback = jax.vjp(EXACT[name].fn, jnp.asarray(x))
            (dx,) = pullback(jnp.full_like(ours, 1.5))
        # theirs cancel in the tails; softplus is x from 20 on, which is e^-20 away and not reached here
        atol = 400 * unit_roundoff("float64") * np.abs(x).max() ** 2
        np.testing.assert_allclose(ours, y.detach().numpy(), rtol=0, atol=atol, err_msg=name)
        single = 1e-7 if name == "hard_sigmoid" else 0  # Torch multiplies by the 1/6 of float32
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=single, atol=atol, err_msg=name)
