"""Pixel shuffle, averages over space, PReLU and local response normalisation: whole numbers, ends, errors, Torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_equal, needs_torch, width
from bounds import assert_within, gamma, units_of
from cases import FLOATS

import fnconv
from fnconv.base.dtypes import accumulator

RNG = np.random.default_rng(8)


def whole(*shape: int) -> np.ndarray:
    return RNG.integers(-3, 4, shape)


# ---- pixel shuffle --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize(
    ("batch", "size", "factor"), [((), (3,), (2,)), ((2,), (2, 3), (3, 1)), ((1, 2), (2, 1, 2), (2, 1, 3))]
)
def test_pixel_shuffle_is_a_permutation(batch: tuple, size: tuple, factor: tuple, mode: str) -> None:
    """Entry by entry, in both layouts; the unshuffled gradient is where y came from."""
    channels, blocks = 2, math.prod(factor)
    x = np.arange(math.prod((*batch, *size)) * channels * blocks).reshape(*batch, *size, channels * blocks)
    want = np.empty((*batch, *(s * f for s, f in zip(size, factor, strict=True)), channels), int)
    for at in np.ndindex(*want.shape[len(batch) :]):
        *cell, c = at
        i = int(np.ravel_multi_index([p % f for p, f in zip(cell, factor, strict=True)], factor))
        source = tuple(p // f for p, f in zip(cell, factor, strict=True))
        want[(..., *at)] = x[(..., *source, c * blocks + i if mode == "CRD" else i * channels + c)]
    for layout in ("channels_last", "channels_first"):
        given, wanted = (a if layout == "channels_last" else np.moveaxis(a, -1, len(batch)) for a in (x, want))
        shuffle = partial(fnconv.pixel_shuffle, factor=factor, mode=mode, layout=layout)
        assert_equal(shuffle(given), wanted, layout)
        back = fnconv.pixel_unshuffle(wanted, factor, mode=mode, layout=layout)
        assert_equal(back, given, layout)
        (dx,) = jax.vjp(shuffle, jnp.asarray(given, jnp.float32))[1](jnp.asarray(wanted, jnp.float32))
        assert_equal(dx, given, f"dx, {layout}")


# ---- averages over space --------------------------------------------------------------------------------------------


@pytest.mark.sample(5)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", [(), (4,), (2, 4), (2, 2, 2)])
def test_global_averages(space: tuple, dtype: str) -> None:
    n = max(1, math.prod(space))
    x, dy = n * whole(2, *space, 3), n * whole(2, 3)
    axes = tuple(range(1, 1 + len(space)))
    for layout in ("channels_last", "channels_first"):
        place = (lambda a: a) if layout == "channels_last" else (lambda a: np.moveaxis(a, -1, 1))
        with width(dtype):
            f = partial(fnconv.global_avg_pool, layout=layout)
            y, pullback = jax.vjp(f, jnp.asarray(place(x), dtype))
            (dx,) = pullback(jnp.asarray(dy, dtype))
        assert_equal(y, x.sum(axes) / n, "y")
        assert_equal(dx, place(np.broadcast_to(np.expand_dims(dy / n, axes), x.shape)), "dx")


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_nothing_to_average(shape: tuple) -> None:
    y, pullback = jax.vjp(fnconv.global_avg_pool, jnp.ones(shape))
    assert_equal(y, np.full((shape[0], shape[2]), shape[1] > 0), "y")
    assert pullback(y)[0].shape == shape


def test_averages_of_halves_are_summed_in_float32() -> None:
    assert fnconv.global_avg_pool(jnp.full((1, 4096, 1), 1.0, jnp.bfloat16)).item() == 1


# ---- PReLU ----------------------------------------------------------------------------------------------------------


@pytest.mark.sample(6)
@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (2, 3, 4), (1, 1, 1)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_prelu(dtype: str, shape: tuple) -> None:
    """At 0 the slope of x is that of the left, and the slope's 0."""
    x, s, dy = whole(2, 3, 4), whole(*shape), whole(2, 3, 4)
    with width(dtype):
        y, pullback = jax.vjp(fnconv.prelu, jnp.asarray(x, dtype), jnp.asarray(s, dtype))
        dx, ds = pullback(jnp.asarray(dy, dtype))
    assert_equal(y, np.where(x > 0, x, s * x), "y")
    assert_equal(dx, np.where(x > 0, 1, s) * dy, "dx")
    ranked = (1,) * (3 - len(shape)) + shape
    axes = tuple(i for i, n in enumerate(ranked) if n == 1)
    assert_equal(ds, (dy * np.minimum(x, 0)).sum(axes, keepdims=True).reshape(shape), "d slope")


# ---- local response normalisation -----------------------------------------------------------------------------------


def windows(v: np.ndarray, size: int, *, back: bool = False) -> np.ndarray:
    """The sum from c - size // 2 to c + (size - 1) // 2 of the last axis; back: its adjoint."""
    low, high = size // 2, (size - 1) // 2
    c = np.arange(v.shape[-1])
    met = (c[:, None] - low <= c) & (c <= c[:, None] + high)
    return v @ (met if back else met.T)


@pytest.mark.sample(5)
@pytest.mark.parametrize("size", [1, 2, 5, 30])
@pytest.mark.parametrize("dtype", FLOATS)
def test_response_of_power_one_is_whole(dtype: str, size: int) -> None:
    """y = x s for beta = -1, a polynomial: sums stay below 2^8."""
    x, dy = RNG.integers(-1, 2, (2, 3, 5)), RNG.integers(-2, 3, (2, 3, 5))
    with width(dtype):
        f = partial(fnconv.local_response_norm, size=size, alpha=2 * size, beta=-1, k=3)
        y, pullback = jax.vjp(f, jnp.asarray(x, dtype))
        (dx,) = pullback(jnp.asarray(dy, dtype))
    s = 3 + 2 * windows(x * x, size)
    assert_equal(y, x * s, "y")
    assert_equal(dx, dy * s + 4 * x * windows(x * dy, size, back=True), "dx")


def check_response(dtype: str, size: int = 5, beta: float = 0.75) -> None:
    """Sums of n squares, one power, 8 other steps; the power turns the error of s into beta times that."""
    x, dy = RNG.standard_normal((2, 4, 9)) * 8, RNG.standard_normal((2, 4, 9))
    kept = accumulator(jnp.dtype(dtype))
    e = units_of(lambda s: s**-beta, lambda s: s**-beta, np.geomspace(1, 1e3, 999), kept.name)
    with width(dtype):
        f = partial(fnconv.local_response_norm, size=size, alpha=0.5, beta=beta)
        given, cotangent = jnp.asarray(x, dtype), jnp.asarray(dy, dtype)
        y, pullback = jax.vjp(f, given)
        (dx,) = pullback(cotangent)
    x, dy = (np.asarray(a).astype(np.longdouble) for a in (given, cotangent))
    s = 1 + windows(x * x, size) * (np.longdouble(0.5) / size)
    t, n = s**-beta, 2 * (size + 2 + e + 8) + 4
    share = np.longdouble(beta) / size * abs(x)
    for what, got, want, magnitude in (
        ("y", y, x * t, abs(x * t)),
        (
            "dx",
            dx,
            dy * t - np.sign(x) * share * windows(x * dy * t / s, size, back=True),
            abs(dy * t) + share * windows(abs(x * dy * t / s), size, back=True),
        ),
    ):
        stored = gamma(1, dtype) * abs(want) if kept != jnp.dtype(dtype) else 0
        bound = (gamma(n, kept) + gamma(n, "float64")) * magnitude + stored
        assert_within(got, want.astype(float), bound.astype(float), what)


@pytest.mark.sample(4)
@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("dtype", FLOATS)
def test_response_keeps_its_digits(dtype: str, size: int) -> None:
    check_response(dtype, size)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_response_of_nothing(shape: tuple) -> None:
    y, pullback = jax.vjp(lambda x: fnconv.local_response_norm(x, 3), jnp.ones(shape))
    assert y.shape == pullback(y)[0].shape == shape


def test_what_is_kept() -> None:
    """x alone; nothing for what is linear."""
    x = jnp.ones((2, 4, 4, 4))
    for f, kept in ((partial(fnconv.local_response_norm, size=3), x.size), (fnconv.global_avg_pool, 0)):
        _, pullback = jax.vjp(jax.jit(f), x)
        assert sum(a.size for a in jax.tree.leaves(pullback) if hasattr(a, "dtype")) == kept


@needs_torch
@pytest.mark.parametrize("size", [1, 2, 5])
def test_they_are_torch_s(size: int) -> None:
    import torch

    f = torch.nn.functional
    x, s = RNG.standard_normal((2, 8, 4, 3)), RNG.standard_normal(8)
    pairs = {
        "response": (
            lambda x: fnconv.local_response_norm(x, size, alpha=0.3, beta=0.6, k=1.5, layout="channels_first"),
            lambda t: f.local_response_norm(t, size, alpha=0.3, beta=0.6, k=1.5),
        ),
        "prelu": (lambda x: fnconv.prelu(x, jnp.asarray(s)[:, None, None]), lambda t: f.prelu(t, torch.tensor(s))),
        "shuffle": (lambda x: fnconv.pixel_shuffle(x, 2, layout="channels_first"), lambda t: f.pixel_shuffle(t, 2)),
    }
    for name, (ours, theirs) in pairs.items():
        t = torch.tensor(x, requires_grad=True)
        y = theirs(t)
        y.backward(torch.ones_like(y) * 1.5)
        with width("float64"):
            got, pullback = jax.vjp(ours, jnp.asarray(x))
            (dx,) = pullback(jnp.full_like(got, 1.5))
        bound = 200 * np.finfo(float).eps / 2 * np.abs(x).max()
        np.testing.assert_allclose(got, y.detach().numpy(), rtol=0, atol=bound, err_msg=name)
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=0, atol=bound, err_msg=name)


# ---- arguments ------------------------------------------------------------------------------------------------------

X = jnp.ones((2, 4, 6, 6))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fnconv.pixel_shuffle(X, 4), ValueError, r"pixel_shuffle: factor must have a product that divides"),
        (lambda: fnconv.pixel_shuffle(X, 2, mode="RGB"), ValueError, "pixel_shuffle: mode must be one of CRD, DCR"),
        (lambda: fnconv.pixel_unshuffle(X, 4), ValueError, r"pixel_unshuffle: factor must divide the size of every"),
        (lambda: fnconv.pixel_unshuffle(X, 0), ValueError, "pixel_unshuffle: factor must be at least 1"),
        (lambda: fnconv.prelu(X, jnp.ones(4)), ValueError, r"prelu: slope must have sizes 1 or the last ones of \(2"),
        (lambda: fnconv.prelu(X[0, 0, 0], jnp.ones((1, 6))), ValueError, r"prelu: slope must have .*; got \(1, 6\)"),
        (lambda: fnconv.prelu(X, jnp.ones(6, jnp.bfloat16)), TypeError, "prelu: x and slope must have one dtype"),
        (lambda: fnconv.global_avg_pool(X[0, 0, 0]), ValueError, "global_avg_pool: x must have a batch axis and a"),
        (lambda: fnconv.local_response_norm(X, 0), ValueError, "local_response_norm: size must be at least 1"),
        (lambda: fnconv.local_response_norm(X, 3, k=0), ValueError, "local_response_norm: alpha, beta, k must be"),
        (lambda: fnconv.local_response_norm(jnp.ones(3), 3), ValueError, "local_response_norm: x must have a batch"),
    ],
)  # fmt: skip
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
