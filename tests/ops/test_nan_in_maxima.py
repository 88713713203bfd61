"""NaN is the maximum in arrays of every size: XLA's own maximum on a CPU loses it in larger ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import as_users_compile, formulations, width
from cases import FLOATS
from jax import lax
from test_autodiff_is_wrong import wrong_up_to

import fnconv
from fnconv.compat import lax as compat_lax

DTYPES = ("float32", *(pytest.param(d, marks=pytest.mark.slow) for d in FLOATS if d != "float32"))
SHAPES = ((4, 5, 6), (64, 32, 16))


def with_nan(shape: tuple[int, ...], dtype: str, seed: int = 0) -> jax.Array:
    """Numbers, one in twenty of them NaN, infinite or the other infinite."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape)
    a[rng.random(shape) < 1 / 40] = np.nan
    a[rng.random(shape) < 1 / 80] = np.inf
    a[rng.random(shape) < 1 / 80] = -np.inf
    return jnp.asarray(a, dtype)


@wrong_up_to(0, 10)
def test_xla_s_maximum_loses_nan_in_larger_arrays():
    """In float32, from a few thousand numbers on: where this passes no more, `first_maximum` may trust it again."""
    small, large = (with_nan(shape, "float32") for shape in SHAPES[:2])
    assert np.array_equal(jnp.isnan(jnp.max(small, axis=2)), np.isnan(small).any(axis=2))
    assert np.isnan(large).any(axis=2).sum() > 500
    assert not jnp.isnan(as_users_compile(partial(jnp.max, axis=2))(large)).any()


def windows_with_nan(x: np.ndarray, window: tuple[int, ...], strides: int, low: int, high: int) -> np.ndarray:
    """Which windows of x (N, H, W, C) hold a NaN."""
    padded = np.pad(np.isnan(x), ((0, 0), (low, high), (low, high), (0, 0)))
    cells = np.lib.stride_tricks.sliding_window_view(padded, window, axis=(1, 2))
    return cells[:, ::strides, ::strides].any(axis=(-1, -2))


POOLINGS = {"3x3": ((3, 3), 2, 1), "9x9": ((9, 9), 3, 4)}  # with 9 and with more than 64 cells


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POOLINGS)
def test_every_formulation_of_max_pooling_keeps_them(name, dtype):
    window, strides, p = POOLINGS[name]
    with width(dtype):
        x = with_nan((2, 24, 24, 16), dtype)
        want = windows_with_nan(np.asarray(x, np.float64), window, strides, p, p)
        for rule, names in formulations("max_pool").items():
            if rule == "selection":  # dense products, for finite values
                continue
            pool = partial(fnconv.max_pool_with_indices, window_shape=window, strides=strides, padding=p, rule=names)
            y, indices = jax.jit(pool)(x)
            np.testing.assert_array_equal(jnp.isnan(y), want, err_msg=rule)
            flat = np.asarray(x, np.float64).reshape(2, -1, 16)
            taken = np.take_along_axis(flat, np.asarray(indices).reshape(2, -1, 16), axis=1).reshape(y.shape)
            np.testing.assert_array_equal(taken, np.asarray(y, np.float64), err_msg=rule)


def maxima(x: jax.Array) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """Everything else that reduces by a maximum, of x (N, H, W, C); one NaN makes the whole of its region NaN."""
    whole = (1, *x.shape[1:3], 1)
    return {
        "adaptive_max_pool": lambda x: fnconv.adaptive_max_pool(x, (1, 1)),
        "spatial_pyramid_pool": lambda x: fnconv.spatial_pyramid_pool(x, (1,))[:, None, None],
        "lp_pool": lambda x: fnconv.lp_pool(x, x.shape[1:3], p=3),
        "reduce_window max": lambda x: compat_lax.reduce_window(x, -np.inf, lax.max, whole),
        "reduce_window min": lambda x: compat_lax.reduce_window(x, np.inf, lax.min, whole),
        "softmax": lambda x: fnconv.softmax(x.reshape(len(x), -1, x.shape[-1]), axis=1)[:, :1, None],
        "log_softmax": lambda x: fnconv.log_softmax(x.reshape(len(x), -1, x.shape[-1]), axis=1)[:, :1, None],
        "logsumexp": fnconv.with_manual_rules(lambda x: jax.nn.logsumexp(x, axis=(1, 2), keepdims=True)),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", maxima(jnp.zeros((1, 1, 1, 1))))
def test_whatever_reduces_by_a_maximum_keeps_them(name, dtype):
    with width(dtype):
        x = np.asarray(jnp.asarray(np.random.default_rng(1).standard_normal((8, 24, 24, 16)), dtype)).copy()
        rng = np.random.default_rng(2)
        hit = rng.random((8, 16)) < 0.5
        x[np.arange(8)[:, None], rng.integers(0, 24, (8, 16)), rng.integers(0, 24, (8, 16)), np.arange(16)] = np.where(
            hit, np.nan, 0
        )
        y = jax.jit(maxima(x)[name])(jnp.asarray(x))
        np.testing.assert_array_equal(jnp.isnan(y).reshape(hit.shape), hit, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_keeps_them(dtype):
    with width(dtype):
        logits = with_nan((512, 257), dtype)
        loss = jax.jit(fnconv.softmax_cross_entropy)(logits, np.zeros(512, np.int32))
        assert jnp.isnan(loss)[np.isnan(logits).any(axis=1)].all()
