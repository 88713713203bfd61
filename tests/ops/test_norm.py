"""Normalisation: exact where it is, within counted roundings where the mean is large, its ends, Torch's numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_equal, needs_torch, width
from bounds import assert_within, gamma
from cases import FLOATS

import fnconv
from fnconv.base.dtypes import accumulator, unit_roundoff

RNG = np.random.default_rng(5)


# ---- whole numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 96])
@pytest.mark.parametrize("dtype", FLOATS)
def test_two_values_far_from_zero(dtype: str, offset: int) -> None:
    """offset +- 2: z is +-1, the variance 4; half of the numbers at each value, so that every mean is exact."""
    sign = np.array([[1, -1, -1, 1], [-1, -1, 1, 1]])
    g = np.array([[4, 0, -8, 12], [16, -4, 8, 4]])
    with width(dtype):
        x, dy = jnp.asarray(offset + 2 * sign, dtype), jnp.asarray(g, dtype)
        scale, bias = jnp.asarray([2, 4, -2, 1], dtype), jnp.asarray([1, 0, 3, -1], dtype)
        y, pullback = jax.vjp(partial(fnconv.layer_norm, epsilon=0), x, scale, bias)
        dx, d_scale, d_bias = pullback(dy)
    assert_equal(y, np.asarray(scale, float) * sign + np.asarray(bias, float), "y")
    weighted = g * np.asarray(scale, float)
    means = weighted.mean(-1, keepdims=True), (weighted * sign).mean(-1, keepdims=True)
    assert_equal(dx, (weighted - means[0] - sign * means[1]) / 2, "dx")
    assert_equal(d_scale, (g * sign).sum(0), "dscale")
    assert_equal(d_bias, g.sum(0), "dbias")


def test_moments_of_batch_norm_and_their_gradient():
    """m = 5, v = 4, unbiased 16 / 3; dx = dm / n + 2 (x - m) dv / n."""
    x = jnp.asarray([[3.0], [7.0], [3.0], [7.0]])
    (y, mean, variance, unbiased), pullback = jax.vjp(partial(fnconv.batch_norm, epsilon=0), x)
    assert_equal(y, [[-1], [1], [-1], [1]], "y")
    assert (mean.tolist(), variance.tolist()) == ([5], [4])
    np.testing.assert_allclose(unbiased, [16 / 3], rtol=2 * unit_roundoff("float32"))
    of = lambda dm, dv: pullback(fnconv.ops.norm.BatchNorm(0 * y, *map(jnp.asarray, ([dm], [dv], [0.0]))))[0]  # noqa: E731
    assert_equal(of(8.0, 0.0), np.full((4, 1), 2), "of the mean")
    assert_equal(of(0.0, 3.0), [[-3], [3], [-3], [3]], "of the variance")


# ---- large means ----------------------------------------------------------------------------------------------------


def check_large_means(dtype: str) -> None:
    """n numbers that stray by D from the first.

    Moments are within gamma(n + 8) of D and D^2, and z within three times that of D r and (D r)^2.  Each z in dx is off
    as much, and the means add n more: within gamma(2 n + 24) of r (|g| + mean |g| + |z| mean |g z|) (D r)^3.
    """
    n = 64
    with width(dtype):
        x = jnp.asarray(RNG.standard_normal((16, n)) + 1000, dtype)
        dy = jnp.asarray(RNG.standard_normal((16, n)), dtype)
        y, pullback = jax.vjp(partial(fnconv.layer_norm, epsilon=1e-3), x)
        (dx,) = pullback(dy)
    exact, g = (np.asarray(a).astype(np.longdouble) for a in (x, dy))
    d = exact - exact.mean(-1, keepdims=True)
    r = 1 / np.sqrt((d * d).mean(-1, keepdims=True) + np.longdouble(1e-3))
    z, reach = d * r, 1 + abs(exact - exact[:, :1]).max(-1, keepdims=True) * r
    kept = accumulator(jnp.dtype(dtype))
    mean = lambda v: v.mean(-1, keepdims=True)  # noqa: E731
    for what, got, want, bound in (
        ("y", y, z, 3 * gamma(n + 8, kept) * reach**2),
        (
            "dx",
            dx,
            r * (g - mean(g) - z * mean(g * z)),
            gamma(2 * n + 24, kept) * r * (abs(g) + mean(abs(g)) + abs(z) * mean(abs(g * z))) * reach**3,
        ),
    ):
        stored = gamma(1, dtype) * abs(want) if kept != jnp.dtype(dtype) else 0
        assert_within(got, want.astype(float), (bound + stored).astype(float), what)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_mean_of_a_thousand_costs_no_digits(dtype: str) -> None:
    check_large_means(dtype)


@pytest.mark.parametrize("value", [0.1, 1e4, -3e38])
def test_constant_groups(value):
    """z is 0, the variance 0 and never less, the gradient finite: the projection takes all of g but what sums to 0."""
    x = jnp.full((3, 37), value, jnp.float32)
    y, pullback = jax.vjp(partial(fnconv.layer_norm, bias=jnp.full(37, 2.0)), x)
    assert_equal(y, np.full(x.shape, 2), "y")
    assert np.isfinite(pullback(jnp.ones_like(x))[0]).all()
    statistics = fnconv.batch_norm(x)
    assert statistics.variance.tolist() == [0] * 37
    assert_equal(statistics.mean, x[0], "mean")


@pytest.mark.parametrize(("shape", "n"), [((0, 3), 0), ((1, 3), 1), ((2, 0), 2), ((2, 0, 3), 0)])
def test_no_numbers_or_one(shape, n):
    """Moments 0, or the number itself; nothing is divided by 0."""
    x = jnp.full(shape, 5.0)
    (y, *moments), pullback = jax.vjp(fnconv.batch_norm, x)
    assert y.shape == shape
    assert [np.asarray(m).tolist() for m in moments] == [[5.0 * (n > 0)] * shape[-1], *[[0.0] * shape[-1]] * 2]
    zeros = fnconv.ops.norm.BatchNorm(jnp.ones(shape), *map(jnp.zeros_like, moments))
    assert not pullback(zeros)[0].any()
    for function in (fnconv.layer_norm, fnconv.rms_norm, fnconv.instance_norm, partial(fnconv.group_norm, groups=1)):
        assert jax.grad(lambda x, f=function: f(x).sum())(x).shape == shape


# ---- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_scale", ["bfloat16", "float32"])
def test_half_precision_is_float32_rounded_once(of_scale):
    """Parameters may be of the dtype of sums; each gradient has the dtype of its own."""
    x = jnp.asarray(RNG.standard_normal((4, 6)), jnp.bfloat16)
    scale, bias = (jnp.asarray(RNG.standard_normal(6), of_scale) for _ in range(2))
    y, pullback = jax.vjp(fnconv.layer_norm, x, scale, bias)
    wide = fnconv.layer_norm(*(a.astype(jnp.float32) for a in (x, scale, bias)))
    assert_equal(y, wide.astype(jnp.bfloat16), "y")
    assert [a.dtype.name for a in (y, *pullback(y))] == ["bfloat16", "bfloat16", of_scale, of_scale]


X = jnp.ones((2, 4, 6))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fnconv.layer_norm(X, jnp.ones(4)),
            ValueError,
            r"layer_norm: scale must have the shape \(6,\); got \(4",
        ),
        (lambda: fnconv.layer_norm(X, axes=(1, -2)), ValueError, "layer_norm: axes must name .* each once; got"),
        (lambda: fnconv.layer_norm(X, axes=3), ValueError, "layer_norm: axis must be between -3 and 2; got 3"),
        (lambda: fnconv.rms_norm(X, epsilon=-1), ValueError, "rms_norm: epsilon must be finite and at least 0; got -1"),
        (lambda: fnconv.group_norm(X, groups=4), ValueError, "group_norm: groups must divide the 6 channels; got 4"),
        (
            lambda: fnconv.instance_norm(X[0, 0]),
            ValueError,
            "instance_norm: x must have a batch axis and a channel axis",
        ),
        (lambda: fnconv.batch_norm(X, layout="NHWC"), ValueError, "batch_norm: layout must be one of"),
        (lambda: fnconv.batch_norm(X, axis_name=1), TypeError, "batch_norm: axis_name must be a name; got 1"),
        (
            lambda: fnconv.layer_norm(X, jnp.ones(6, jnp.float16)),
            TypeError,
            "layer_norm: scale must have dtype float32; got float16",
        ),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- over devices ---------------------------------------------------------------------------------------------------

PROGRAM = """
    import re, jax, jax.numpy as jnp, numpy as np, fnconv
    from jax.sharding import PartitionSpec as P

    jax.config.update("jax_enable_x64", True)
    rng, split, auto = np.random.default_rng(0), P("d"), (jax.sharding.AxisType.Auto,)
    x, scale, bias, w = (jnp.asarray(rng.standard_normal(s)) for s in ((8, 3, 6), 6, 6, (8, 3, 6)))

    def loss(y, mean, variance, unbiased):
        return (y**3 * w).sum() + (mean**3).sum() + (variance**2 * unbiased).sum()

    def sharded(tracked):
        norm = lambda *a: tuple(fnconv.batch_norm(*a, axis_name="d"))
        return jax.shard_map(norm, mesh=jax.make_mesh((4,), ("d",), axis_types=auto), in_specs=(split, P(), P()),
            out_specs=(split, P(), P(), P()), check_vma=tracked)

    def mapped(x, *a):
        norm = lambda x: tuple(fnconv.batch_norm(x, *a, axis_name="d"))
        y, *moments = jax.vmap(norm, axis_name="d")(x.reshape(4, 2, 3, 6))
        return y.reshape(x.shape), *(m.mean(0) for m in moments)

    def gradients(f):
        first = jax.grad(lambda *a: loss(*f(*a)), (0, 1, 2))
        return first, jax.grad(lambda *a: sum((g**2).sum() for g in first(*a)), (0, 1, 2))

    for function in (sharded(True), sharded(False), mapped):
        for ours, whole in zip(gradients(function), gradients(fnconv.batch_norm)):
            for a, b in zip(ours(x, scale, bias), whole(x, scale, bias)):
                np.testing.assert_allclose(a, b, rtol=0, atol=2**-40 * abs(b).max())
    forward = jax.jit(lambda *a: sharded(True)(*a)[0])
    both = jax.jit(jax.grad(lambda x: (forward(x, scale, bias) ** 3).sum()))
    texts = forward.lower(x, scale, bias).compile().as_text(), both.lower(x).compile().as_text()
    print([len(re.findall(r" all-reduce(?:-start)?[(]", text)) for text in texts])
"""


def test_over_devices():
    """The first two derivatives of the whole batch's, and one sum over the devices a direction."""
    program = textwrap.dedent(PROGRAM)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "[1, 2]", done.stderr


# ---- Torch ----------------------------------------------------------------------------------------------------------


@needs_torch
def test_they_are_torch_s():
    """In float64, to a few roundings: value and every gradient; running averages take the unbiased variance."""
    import torch

    f = torch.nn.functional
    x, dy = RNG.standard_normal((2, 3, 6, 4, 5)) * 2 + 1
    scale, bias = RNG.standard_normal((2, 6))
    matrix, other = RNG.standard_normal((2, 4, 5))
    mean, variance = RNG.standard_normal(6), RNG.random(6) + 0.5
    first = {"layout": "channels_first"}
    pairs: dict[str, tuple[Any, Any, tuple[np.ndarray, ...]]] = {
        "layer_norm": (
            partial(fnconv.layer_norm, axes=(-2, -1), epsilon=1e-5),
            lambda x, w, b: f.layer_norm(x, (4, 5), w, b),
            (matrix, other),
        ),
        "rms_norm": (
            partial(fnconv.rms_norm, axes=(2, 3), epsilon=1e-5),
            lambda x, w: f.rms_norm(x, (4, 5), w, 1e-5),
            (matrix,),
        ),
        "group_norm": (
            partial(fnconv.group_norm, groups=3, epsilon=1e-5, **first),
            lambda x, w, b: f.group_norm(x, 3, w, b),
            (scale, bias),
        ),
        "instance_norm": (
            partial(fnconv.instance_norm, epsilon=1e-5, **first),
            lambda x, w, b: f.instance_norm(x, weight=w, bias=b),
            (scale, bias),
        ),
        "batch_norm": (
            lambda *a: fnconv.batch_norm(*a, **first).y,
            lambda x, w, b: f.batch_norm(x, None, None, w, b, training=True),
            (scale, bias),
        ),
        "batch_norm_inference": (
            lambda x, w, b: fnconv.batch_norm_inference(x, jnp.asarray(mean), jnp.asarray(variance), w, b, **first),
            lambda x, w, b: f.batch_norm(x, torch.tensor(mean), torch.tensor(variance), w, b),
            (scale, bias),
        ),
    }
    for name, (ours, theirs, parameters) in pairs.items():
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, *parameters)]
        y = theirs(*leaves)
        y.backward(torch.tensor(dy))
        with width("float64"):
            got, pullback = jax.vjp(ours, *map(jnp.asarray, (x, *parameters)))
            gradients = pullback(jnp.asarray(dy))
        for a, b in zip((got, *gradients), (y.detach(), *(v.grad for v in leaves)), strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=2**-42, err_msg=name)
    running = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    f.batch_norm(torch.tensor(x), *running, training=True, momentum=1.0)
    with width("float64"):
        found = fnconv.batch_norm(jnp.asarray(x), **first)
    np.testing.assert_allclose(found.mean, running[0], rtol=0, atol=2**-46)
    np.testing.assert_allclose(found.unbiased_variance, running[1], rtol=0, atol=2**-46)
