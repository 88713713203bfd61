"""Element by element near the largest and the smallest numbers of every dtype, with large and tiny cotangents.

The reference is NumPy's extended precision, whose range holds every product of two float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled, width
from bounds import gamma, units_of
from cases import FLOATS

import fnconv
from fnconv.base import dtypes

Array = np.ndarray


def accumulator(dtype: str) -> str:
    return dtypes.accumulator(jnp.dtype(dtype)).name


pytestmark = pytest.mark.skipif(np.finfo(np.longdouble).maxexp <= 1024, reason="no wider float than float64")


def grid(dtype: str) -> Array:
    """0, and both signs of numbers from the smallest normal to the largest, denser near 1."""
    info = jnp.finfo(dtype)
    low, high = np.longdouble(info.tiny), np.longdouble(info.max)
    magnitudes = [
        low,
        2 * low,
        high / 8,
        high / 4,
        high / 2,
        high,
        *np.geomspace(low, high, 9),
        *np.geomspace(0.01, 200, 13),
    ]
    return np.array([0, *magnitudes, *(-m for m in magnitudes)], np.longdouble)


def sech2(x: Array) -> Array:
    t = np.exp(-2 * np.abs(x))
    return 4 * t / (1 + t) ** 2


@dataclass(frozen=True)
class Pointwise:
    """fn of as many arguments as the reference, its gradient by the first, and roundings on the way to both.

    Roundings are those of the dtype itself on the way to the value, of the accumulator on the way to the gradient, `e`
    being those of its exponential.
    """

    fn: Callable[..., jax.Array]
    value: Callable[..., Array]
    slope: Callable[..., Array]
    of_value: Callable[[float], float]
    of_slope: Callable[[float], float]
    arguments: int = 1


POINTWISE = {
    "relu": Pointwise(fnconv.relu, lambda x: np.maximum(x, 0), lambda x: x > 0, lambda e: 0, lambda e: 0),
    "leaky_relu": Pointwise(
        lambda x: fnconv.leaky_relu(x, 0.25),
        lambda x: np.where(x > 0, x, x / 4),
        lambda x: np.where(x > 0, 1, 0.25),
        lambda e: 1,
        lambda e: 1,
    ),
    "sigmoid": Pointwise(
        fnconv.sigmoid, lambda x: 1 / (1 + np.exp(-x)), lambda x: sech2(x / 2) / 4, lambda e: e + 2, lambda e: 2 * e + 7
    ),
    "tanh": Pointwise(fnconv.tanh, np.tanh, sech2, lambda e: 2 * e + 7, lambda e: 2 * e + 7),
    "squared_error": Pointwise(
        fnconv.squared_error, lambda p, t: (p - t) ** 2, lambda p, t: 2 * (p - t), lambda e: 3, lambda e: 3, arguments=2
    ),
}


def assert_rounded(got: Any, want: Array, relative: float, dtype: str, message: str) -> None:
    """Within the relative error; past the largest number infinite; what is tiny may be 0.

    That is 16 times the smallest normal number: roots of slopes below twice that one vanish, and the largest cotangent
    is 4 over it.
    """
    info = jnp.finfo(dtype)
    tiny, largest = np.longdouble(info.tiny), np.longdouble(info.max)
    got = np.asarray(got).astype(np.longdouble)
    past = np.abs(want) * (1 + relative) > largest
    near = np.abs(got - want) <= relative * np.abs(want) + 16 * tiny
    ok = near | (past & (got == np.copysign(np.inf, want)))
    assert ok.all(), f"{message}: {[(g, w) for g, w, good in zip(got, want, ok, strict=True) if not good][:5]}"


def _value_and_gradient(fn: Callable[..., jax.Array], dy: jax.Array, *operands: jax.Array) -> tuple[jax.Array, ...]:
    y, pullback = jax.vjp(fn, *operands)
    return y, pullback(dy)[0]


def check_extremes(name: str, dtype: str) -> None:
    case = POINTWISE[name]
    with width(dtype):
        mesh = np.meshgrid(*[grid(dtype)] * (case.arguments + 1))
        *operands, dy = (jnp.asarray(a.reshape(-1).astype(np.float64), dtype) for a in mesh)
        *exact, exact_dy = (np.asarray(a).astype(np.longdouble) for a in (*operands, dy))
        e = units_of(jnp.exp, np.exp, np.linspace(-40, 0, 2001), accumulator(dtype))
        y, dx = compiled(lambda dy, *operands: _value_and_gradient(case.fn, dy, *operands))(dy, *operands)
        with np.errstate(all="ignore"):
            value, gradient = case.value(*exact), case.slope(*exact) * exact_dy
        fits = (
            np.abs(exact[0] - exact[-1]) <= np.longdouble(jnp.finfo(dtype).max) if case.arguments == 2 else slice(None)
        )
        assert_rounded(y, value, gamma(case.of_value(e) + 1, dtype), dtype, f"{name}: y")
        kept = dtype if case.arguments == 2 else accumulator(dtype)  # a difference is kept in the dtype
        of_slope = gamma(case.of_slope(e) + 1, kept) + gamma(1, dtype)
        assert_rounded(dx[fits], gradient[fits], of_slope, dtype, f"{name}: dx")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", POINTWISE)
def test_values_and_gradients_are_rounded_or_out_of_range(name: str, dtype: str) -> None:
    check_extremes(name, dtype)


def test_a_slope_that_overflows_the_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^leaky_relu: slope must be finite in float16; got 100000.0"):
        fnconv.leaky_relu(jnp.zeros(1, jnp.float16), 1e5)


# ---- norms ----------------------------------------------------------------------------------------------------------


def check_norms(p: float, dtype: str) -> None:
    """Of windows whose largest entry is anywhere in the dtype's range; the norm itself fits."""
    info = jnp.finfo(dtype)
    scales = np.array([info.tiny * 8, 1, info.max / 16, info.max / 8, info.max / 3], np.longdouble)
    x = np.array([1, 0.75, 0, -0.25], np.longdouble) * scales[:, None]
    with width(dtype):
        given = jnp.asarray(x.astype(np.float64), dtype)[:, :, None]
        y, pullback = jax.jit(lambda x: jax.vjp(lambda x: fnconv.lp_pool(x, (4,), p=p), x))(given)
        dx = pullback(jnp.ones_like(y))[0]
        given = np.asarray(given).astype(np.longdouble)[:, :, 0]
    top = np.abs(given).max(axis=1, keepdims=True)
    norm = top * ((np.abs(given) / top) ** p).sum(axis=1, keepdims=True) ** (1 / np.longdouble(p))
    slope = np.sign(given) * (np.abs(given) / norm) ** (p - 1)
    # y: a power whose argument and result are rounded, the root of 4 of them, three factors; slope: those times p - 1
    below, above = np.linspace(0.5, 1, 501), np.linspace(1, 4, 501)
    powers = ((p, below), (1 / p, above), (p - 1, below))
    e = max(units_of(lambda t, q=q: t**q, lambda t, q=q: t**q, at, accumulator(dtype)) for q, at in powers)
    root = (p + e + 4) / p + np.log(4) + e + 4
    bound = gamma(root, accumulator(dtype)) + gamma(1, dtype)
    np.testing.assert_allclose(np.asarray(y)[:, 0].astype(np.longdouble), norm, rtol=float(bound))
    of_slope = np.expm1((p - 1) * np.log1p(bound)) + gamma(p + e + 3, accumulator(dtype)) + gamma(1, dtype)
    np.testing.assert_allclose(
        np.asarray(dx)[:, :, 0].astype(np.longdouble), slope, rtol=float(of_slope), atol=float(info.tiny)
    )


@pytest.mark.parametrize(
    ("p", "dtype"), [(1, "float32"), (2, "float32"), (3, "float32"), (150, "float32"), (2, "float64"), (2, "bfloat16")]
)
def test_norms_near_the_ends_of_the_range(p: float, dtype: str) -> None:
    check_norms(p, dtype)


# ---- labels and indices ---------------------------------------------------------------------------------------------


def check_ignored_labels() -> None:
    """Loss and gradient 0, of the first and of the second order, whatever the row and its cotangent hold."""
    logits = np.array([[1, 2], [np.nan, 1], [-np.inf, -np.inf], [np.inf, 0]], np.float32)
    for dtype, labels in (("int32", [0, -1, 2, -100]), ("uint8", [0, 2, 255, 9]), ("int8", [0, -1, 2, 127])):
        loss = jax.jit(partial(fnconv.softmax_cross_entropy, labels=np.array(labels, dtype)))
        assert loss(logits)[1:].tolist() == [0, 0, 0]
        for dy in (np.nan, np.inf):
            _, pullback = jax.vjp(loss, logits)
            assert pullback(jnp.full(4, dy, jnp.float32))[0][1:].tolist() == [[0, 0]] * 3
        dz = jax.grad(lambda z, loss=loss: loss(z).sum())
        assert dz(logits)[1:].tolist() == [[0, 0]] * 3
        assert jax.grad(lambda z, dz=dz: (dz(z) ** 2).sum())(logits)[1:].tolist() == [[0, 0]] * 3


def test_a_row_of_an_ignored_label_may_hold_anything() -> None:
    check_ignored_labels()


def check_wide_indices() -> None:
    """2^32 + 1 is neither cell 1 nor class 1, in arrays of JAX and of NumPy, with and without 64-bit types."""
    far = (2**32 + 1, "int64"), (1 - 2**32, "int64"), (2**63, "uint64"), (2**32 + 1, "uint64"), (2**32 - 3, "uint32")
    for (number, dtype), wide, of in product(far, (True, False), (np.array, jnp.asarray)):
        with jax.enable_x64(wide):
            if of is np.array or wide:
                where = of(np.array([[0], [number], [2]], dtype))
                y = fnconv.max_unpool(jnp.asarray([[5.0], [6.0], [7.0]]), where, (4,))
                assert y[:, 0].tolist() == [5, 0, 7, 0], (dtype, number)
                loss = fnconv.softmax_cross_entropy(jnp.zeros((3, 3)), where[:, 0])
                assert (loss > 0).tolist() == [True, False, True], (dtype, number)


def test_indices_beyond_32_bits_are_outside_the_map() -> None:
    check_wide_indices()
