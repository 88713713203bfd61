"""Dropout, gates, gated units and the losses of a prediction and a target."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agreement import assert_equal, needs_torch, width
from bounds import gamma, units_of
from cases import FLOATS

import fnconv
from fnconv.base.dtypes import accumulator, unit_roundoff

RNG = np.random.default_rng(6)

# ---- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")])
@pytest.mark.parametrize("axes", [(), (1, -1)])
def test_dropout_is_a_mask_of_its_key(key, axes):
    """As Flax draws it; the gradient drops the same."""
    x = jnp.asarray(RNG.integers(1, 9, (5, 4, 6)), jnp.float32)

    def theirs(x: jax.Array) -> jax.Array:
        keep = jax.random.bernoulli(key, 0.75, tuple(1 if i in (1, 2) and axes else n for i, n in enumerate(x.shape)))
        return jnp.where(keep, x / 0.75, 0.0)

    (y, pullback), want = jax.vjp(partial(fnconv.dropout, key=key, rate=0.25, broadcast_axes=axes), x), theirs(x)
    np.testing.assert_allclose(y, want, rtol=2 * unit_roundoff("float32"))
    assert_equal((np.asarray(pullback(x)[0]) != 0), np.asarray(want) != 0, "dx")


def test_dropout_keeps_its_key_alone():
    x = jnp.ones((64, 64))
    _, pullback = jax.vjp(jax.jit(lambda x: fnconv.dropout(x, jax.random.key(0), 0.5)), x)
    assert sum(a.size for a in jax.tree.leaves(pullback) if hasattr(a, "dtype")) <= 4


def test_rates_at_the_ends():
    x = jnp.arange(4.0)
    assert fnconv.dropout(x, jax.random.key(0), 0).tolist() == [0, 1, 2, 3]
    assert fnconv.dropout(jnp.full(4, jnp.nan), jax.random.key(0), 1).tolist() == [0] * 4


# ---- gates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gate_adds_up_what_was_broadcast(dtype):
    """Whole numbers: exact."""
    x, s, dy = RNG.integers(-3, 4, (2, 3, 4)), RNG.integers(-3, 4, (2, 1, 4)), RNG.integers(-3, 4, (2, 3, 4))
    with width(dtype):
        y, pullback = jax.vjp(fnconv.gate, *(jnp.asarray(a, dtype) for a in (x, s)))
        dx, ds = pullback(jnp.asarray(dy, dtype))
    assert_equal(y, x * s, "y")
    assert_equal(dx, dy * s, "dx")
    assert_equal(ds, (dy * x).sum(1, keepdims=True), "ds")


# ---- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_piecewise_losses(dtype):
    """Exact; |.| has the slope 0 at 0, the slopes of Huber's loss meet at delta."""
    p, t, dy = (np.array(a) for a in ([3.0, -2, 1, 0.5, 1], [1.0, 2, 1, 0, 0], [1.0, -2, 3, 4, 2]))
    e = p - t
    for fn, y, slope in (
        (fnconv.absolute_error, abs(e), np.sign(e)),
        (fnconv.huber_loss, np.where(abs(e) <= 1, e * e / 2, abs(e) - 0.5), np.clip(e, -1, 1)),
        (partial(fnconv.huber_loss, delta=2), np.where(abs(e) <= 2, e * e / 2, 2 * abs(e) - 2), np.clip(e, -2, 2)),
    ):
        with width(dtype):
            got, pullback = jax.vjp(fn, jnp.asarray(p, dtype), jnp.asarray(t, dtype))
            dp, dt = pullback(jnp.asarray(dy, dtype))
        assert_equal(got, y, "y")
        assert_equal(dp, slope * dy, "d prediction")
        assert_equal(dt, -slope * dy, "d target")


def check_binary_cross_entropy(dtype: str) -> None:
    """For labels 0 and 1 the slope is one sigmoid, to its last digits, where s - label would be 0."""
    with width(dtype):
        z = jnp.asarray(np.linspace(-15, 15, 601), dtype)
        labels = jnp.asarray(np.arange(601) % 2, dtype)
        y, pullback = jax.vjp(fnconv.sigmoid_binary_cross_entropy, z, labels)
        dz, dl = pullback(jnp.ones_like(y))
    x, one = np.asarray(z).astype(np.longdouble), np.asarray(labels).astype(bool)
    toward = np.where(one, -x, x)
    kept = accumulator(jnp.dtype(dtype))
    k = 2 * units_of(jnp.exp, np.exp, np.linspace(-15, 15, 2001), kept.name) + 8
    for what, got, want in (
        ("y", y, np.logaddexp(0, toward)),
        ("dz", dz, np.where(one, -1, 1) * np.exp(-np.logaddexp(0, -toward))),
    ):
        error = abs(np.asarray(got).astype(np.longdouble) - want)
        bound = gamma(k, kept) * abs(want) + gamma(1, dtype) * abs(want) + float(jnp.finfo(dtype).smallest_normal)
        assert (error <= bound).all(), f"{what}: {float(np.max(error / bound))} of the bound"
    assert_equal(dl, -np.asarray(z, np.float64), "d labels")


@pytest.mark.parametrize("dtype", FLOATS)
def test_binary_cross_entropy_keeps_its_digits(dtype: str) -> None:
    check_binary_cross_entropy(dtype)


def test_certain_logits():
    """A logit of +-inf on the side of its label costs nothing; on the other everything."""
    z, labels = jnp.asarray([jnp.inf, -jnp.inf, jnp.inf, -jnp.inf]), jnp.asarray([1.0, 0.0, 0.0, 1.0])
    y, pullback = jax.vjp(lambda z: fnconv.sigmoid_binary_cross_entropy(z, labels), z)
    assert y.tolist() == [0, 0, jnp.inf, jnp.inf]
    assert pullback(jnp.ones(4))[0].tolist() == [0, 0, 1, -1]


def test_they_are_optax_s():
    """In float64, value and gradients; where a target is 0, the divergence's slope is NaN in optax."""
    p, t = RNG.standard_normal((2, 3, 5))
    weights = np.abs(t) * (np.arange(5) > 0)
    for name, ours, theirs, given in (
        ("huber", partial(fnconv.huber_loss, delta=0.5), partial(optax.huber_loss, delta=0.5), (p, t)),
        ("binary", fnconv.sigmoid_binary_cross_entropy, optax.sigmoid_binary_cross_entropy, (p, np.abs(t) / 4)),
        ("divergence", fnconv.kl_divergence, optax.kl_divergence, (p, weights)),
    ):
        with width("float64"):
            results = [jax.vjp(f, *map(jnp.asarray, given)) for f in (ours, theirs)]
            for a, b in zip(*([y, *pull(jnp.ones_like(y))] for y, pull in results), strict=True):
                of_zero = (
                    np.isnan(b) & (weights == 0) if name == "divergence" and b.ndim == 2 else np.full(b.shape, False)
                )
                np.testing.assert_allclose(np.where(of_zero, 0, a), np.where(of_zero, 0, b), rtol=0, atol=2**-44)
                assert np.isfinite(a).all(), name


@needs_torch
def test_they_are_torch_s():
    """In float64."""
    import torch

    f = torch.nn.functional
    p, t = RNG.standard_normal((2, 3, 5))
    pairs: tuple[tuple[Any, Any, np.ndarray], ...] = (
        (fnconv.absolute_error, f.l1_loss, t),
        (partial(fnconv.huber_loss, delta=0.5), partial(f.huber_loss, delta=0.5), t),
        (fnconv.sigmoid_binary_cross_entropy, f.binary_cross_entropy_with_logits, np.abs(t) / 4),
    )
    for ours, theirs, target in pairs:
        a = torch.tensor(p, requires_grad=True)
        y = theirs(a, torch.tensor(target), reduction="none")
        y.sum().backward()
        with width("float64"):
            got, pullback = jax.vjp(lambda p, f=ours, t=target: f(p, jnp.asarray(t)), jnp.asarray(p))
            np.testing.assert_allclose(got, y.detach().numpy(), rtol=0, atol=2**-46)
            np.testing.assert_allclose(pullback(jnp.ones_like(got))[0], a.grad.numpy(), rtol=0, atol=2**-46)


X, KEY = jnp.ones((2, 4)), jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fnconv.dropout(X, KEY, 1.5), ValueError, "dropout: rate must be between 0 and 1; got 1.5"),
        (lambda: fnconv.dropout(X, 3), TypeError, "dropout: key must be one key of jax.random; got 3"),
        (lambda: fnconv.dropout(X, jax.random.split(KEY)), TypeError, "dropout: key must be one key of jax.random"),
        (lambda: fnconv.dropout(X, KEY, broadcast_axes=(2,)), ValueError, "dropout: axis must be between -2 and 1"),
        (
            lambda: fnconv.gate(X, jnp.ones(4)),
            ValueError,
            r"gate: s must have sizes 1 or those of \(2, 4\); got",
        ),
        (lambda: fnconv.glu(X.T[:3].T, 1), ValueError, "glu: axis must have an even size; got 1"),
        (lambda: fnconv.huber_loss(X, X, 0), ValueError, "huber_loss: delta must be positive and finite; got 0.0"),
        (
            lambda: fnconv.absolute_error(X, X[0]),
            ValueError,
            r"absolute_error: target must have prediction's shape \(2, 4\); got \(4,\)",
        ),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
