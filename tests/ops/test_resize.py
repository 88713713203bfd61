"""Resizing: jax.image's numbers and Torch's, whole ones where weights are dyadic, and the adjoint of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_equal, needs_torch, width
from bounds import assert_within, sum_bound
from cases import FLOATS

import fnconv

RNG = np.random.default_rng(9)
METHODS = ("nearest", "linear", "cubic", "cubic-pytorch", "lanczos3", "lanczos5", "area")


def value_and_gradient(f: Callable[..., Any], x: Any, dy: Any, dtype: str) -> tuple[Any, Any]:
    with width(dtype):
        y, pullback = jax.vjp(f, jnp.asarray(x, dtype))
        return y, pullback(jnp.asarray(dy, dtype))[0]


def both_axes(w: tuple[np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
    """W0 x W1^T of each (H, W) between a batch and channels."""
    return np.einsum("ih,jw,nhwc->nijc", *w, x)


# ---- whole numbers --------------------------------------------------------------------------------------------------


def linear_by_loops(size: int, output: int, corners: bool) -> np.ndarray:
    """W of linear interpolation between the two cells around each output, the border's outside."""
    w = np.zeros((output, size))
    for i in range(output):
        p = i * (size - 1) / (output - 1) if corners else (i + 0.5) * size / output - 0.5
        low = int(np.floor(p))
        for j, weight in ((low, 1 - (p - low)), (low + 1, p - low)):
            w[i, min(max(j, 0), size - 1)] += weight
    return w


@pytest.mark.sample(6)
@pytest.mark.parametrize(("output", "corners"), [((6, 16), False), ((3, 2), False), ((5, 7), True), ((2, 4), True)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_whole_numbers(dtype: str, output: tuple[int, int], corners: bool) -> None:
    """Weights are multiples of 1/4 and of 1/8, data of 64: only what is stored is rounded, once."""
    x, dy = 64 * RNG.integers(-1, 2, (2, 3, 4, 2)), 64 * RNG.integers(-1, 2, (2, *output, 2))
    f = partial(fnconv.resize, shape=dy.shape, antialias=False, align_corners=corners)
    y, dx = value_and_gradient(f, x, dy, dtype)
    w0, w1 = (linear_by_loops(a, b, corners) for a, b in zip(x.shape[1:3], output, strict=True))
    with width(dtype):
        for what, got, want in (("y", y, both_axes((w0, w1), x)), ("dx", dx, both_axes((w0.T, w1.T), dy))):
            assert_equal(got, jnp.asarray(want, dtype), what)


@pytest.mark.sample(8)
@pytest.mark.parametrize("output", [(6, 8), (9, 4), (2, 3), (1, 11)])
@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "int32"])
def test_nearest_copies(dtype: str, output: tuple[int, int]) -> None:
    """The cell that floor((i + 1/2) in / out) names, whatever stands in others; cotangents are added up."""
    x = RNG.integers(-9, 9, (2, 3, 4, 2))
    source = [[(2 * i + 1) * a // (2 * b) for i in range(b)] for a, b in zip((3, 4), output, strict=True)]
    with width(dtype):
        y = fnconv.resize(jnp.asarray(x, dtype), (2, *output, 2), "nearest")
        assert y.dtype == jnp.dtype(dtype)
    assert_equal(y, x[:, source[0]][:, :, source[1]], "y")
    if dtype in FLOATS:
        dy, dx = RNG.integers(-3, 4, y.shape), np.zeros(x.shape)
        np.add.at(dx, (slice(None), np.array(source[0])[:, None], np.array(source[1])), dy)
        _, got = value_and_gradient(partial(fnconv.resize, shape=y.shape, method="nearest"), x, dy, dtype)
        assert_equal(got, dx, "dx")


# ---- jax.image's numbers --------------------------------------------------------------------------------------------


def dense(size: int, output: int, method: str, antialias: bool) -> np.ndarray:
    """W, read off what jax.image makes of each unit vector in float64."""
    with width("float64"):
        return np.asarray(jax.image.resize(jnp.eye(size), (output, size), method, antialias=antialias))


def check_resize(method: str, antialias: bool, dtype: str, output: tuple[int, int] = (4, 9)) -> None:
    """y = W0 x W1^T: as many terms as both have entries in a row, of two products and two weights that are rounded.

    Weights are kernels of positions up to n, of slopes below 4 and rounded four times in float64, and 16 more roundings
    of numbers below 2: by jax.image and by the package, each is off by less than d.
    """
    d = 2 * (max(7, *output) * 4 * 4 + 2 * 16) * 2**-53
    x, dy = RNG.standard_normal((2, 7, 5, 3)), RNG.standard_normal((2, *output, 3))
    x, dy = (np.asarray(jnp.asarray(a, dtype), np.float64) if dtype != "float64" else a for a in (x, dy))
    f = partial(fnconv.resize, shape=dy.shape, method=method, antialias=antialias)
    y, dx = value_and_gradient(f, x, dy, dtype)
    w0, w1 = (dense(a, b, method, antialias) for a, b in zip(x.shape[1:3], output, strict=True))
    for what, got, given, w in (("y", y, x, (w0, w1)), ("dx", dx, dy, (w0.T, w1.T))):
        exact, magnitude = both_axes(w, given), both_axes((abs(w[0]), abs(w[1])), abs(given))
        of_weights = both_axes(tuple(abs(v) + d * (v != 0) for v in w), abs(given)) - magnitude
        terms = sum(int((v != 0).sum(1).max()) for v in w)
        assert_within(got, exact, sum_bound(terms + 8, magnitude, exact, dtype) + of_weights, f"{method} {what}")


@pytest.mark.sample(7)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_resizing_is_jax_image_s(method: str, antialias: bool) -> None:
    """Smaller along one axis, larger along the other; and the adjoint of that."""
    check_resize(method, antialias, "float64")


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_it_keeps_its_digits(method: str, dtype: str) -> None:
    check_resize(method, True, dtype)


@pytest.mark.parametrize("output", [(1, 1), (70, 2), (7, 64), (3, 200)])
def test_far_sizes(output: tuple[int, int]) -> None:
    """Long runs, in either direction, are added up in a loop."""
    check_resize("linear", True, "float64", output)


def test_any_axes() -> None:
    """Space of any rank, wherever it lies; the batch as well."""
    x = RNG.standard_normal((3, 4, 2, 3, 5))
    with width("float64"):
        for shape in ((3, 4, 5, 2, 7), (3, 8, 4, 6, 5), (6, 4, 2, 3, 4)):
            want = jax.image.resize(jnp.asarray(x), shape, "cubic")
            np.testing.assert_allclose(fnconv.resize(x, shape, "cubic"), want, rtol=0, atol=100 * 2**-53)


# ---- Torch's --------------------------------------------------------------------------------------------------------

AXES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@pytest.mark.sample(4)
@needs_torch
@pytest.mark.parametrize(
    ("mode", "method", "options"),
    [
        *(("linear", "linear", {"align_corners": corners}) for corners in (False, True)),
        *(("bicubic", "cubic-pytorch", {"align_corners": corners}) for corners in (False, True)),
        *((mode, method, {"antialias": True}) for mode, method in (("bilinear", "linear"), ("bicubic", "cubic"))),
        ("nearest-exact", "nearest", {}),
    ],
)
def test_resizing_is_torch_s(mode: str, method: str, options: dict[str, bool]) -> None:
    """Value and gradient, in float64."""
    import torch

    for n in (2,) if mode.startswith("bi") else (1, 2, 3):
        x, output = RNG.standard_normal((2, 3, 5, 4, 6)[: n + 2]), (3, 8, 1)[:n]
        t = torch.tensor(x, requires_grad=True)
        y = torch.nn.functional.interpolate(t, output, mode=AXES[n] if mode == "linear" else mode, **options)
        dy = RNG.standard_normal(y.shape)
        y.backward(torch.tensor(dy))
        f = partial(fnconv.resize, shape=y.shape, method=method, **{"antialias": False, **options})
        got, dx = value_and_gradient(f, x, dy, "float64")
        bound = 400 * 2**-53 * max(1, np.abs(x).max())
        np.testing.assert_allclose(got, y.detach().numpy(), rtol=0, atol=bound)
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=0, atol=100 * bound)


# ---- what it leaves alone -------------------------------------------------------------------------------------------


def test_nan_reaches_only_what_weighs_it() -> None:
    """From a cell to the outputs beside it, and from a cotangent to the cells below it."""
    x = np.zeros((6, 1))
    x[2] = np.nan
    y, pullback = jax.vjp(lambda x: fnconv.resize(x, (12, 1)), jnp.asarray(x, jnp.float32))
    assert np.isnan(y[:, 0]).nonzero()[0].tolist() == [3, 4, 5, 6]
    dy = np.zeros((12, 1), np.float32)
    dy[3] = np.nan
    assert np.isnan(pullback(dy)[0][:, 0]).nonzero()[0].tolist() == [1, 2]


@pytest.mark.parametrize(("shape", "output"), [((0, 3), (0, 5)), ((2, 0), (2, 5)), ((2, 3), (2, 0)), ((2, 3), (2, 3))])
def test_nothing_to_resize(shape: tuple, output: tuple) -> None:
    y, pullback = jax.vjp(lambda x: fnconv.resize(x, output), jnp.ones(shape))
    assert_equal(y, np.full(output, shape == output), "y")
    assert_equal(pullback(y)[0], np.full(shape, shape == output), "dx")


def test_nothing_is_kept_and_the_batch_may_vary() -> None:
    f = jax.jit(lambda x: fnconv.resize(x, (x.shape[0], 5, 2), "cubic"))
    _, pullback = jax.vjp(f, jnp.ones((2, 3, 4)))
    assert not [a for a in jax.tree.leaves(pullback) if getattr(a, "size", 0) > 1]
    (b,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(jax.grad(lambda x: f(x).sum())))(jax.ShapeDtypeStruct((b, 3, 4), jnp.float32))
    x = jnp.ones((3, 3, 4))
    assert_equal(exported.call(x), jax.grad(lambda x: f(x).sum())(x), "dx")


X = jnp.ones((2, 4, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fnconv.resize(X, (2, 8)),
            ValueError,
            r"resize: shape needs one entry per axis; got \(2, 8\) for x of",
        ),
        (lambda: fnconv.resize(X, (2, -8, 3)), ValueError, "resize: shape must be at least 0"),
        (lambda: fnconv.resize(X, 8), TypeError, "resize: shape must be a sequence of integers; got 8"),
        (lambda: fnconv.resize(X, X.shape, "spline"), ValueError, "resize: method must be one of nearest, .*'spline'"),
        (lambda: fnconv.resize(X, X.shape, antialias=1), TypeError, "resize: antialias must be True or False; got 1"),
        (
            lambda: fnconv.resize(X, (2, 8, 3), "nearest", align_corners=True),
            ValueError,
            "resize: align_corners must be False for nearest; got True",
        ),
        (lambda: fnconv.resize(jnp.arange(3), (6,)), TypeError, "resize: x must have dtype float16, .*; got int32"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
