"""Losses of classes: weights, smoothing, ignored labels, negative log-likelihood, Dice; optax's numbers and Torch's."""

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
from bounds import assert_within, gamma, units_of
from cases import FLOATS

import fnconv
from fnconv.base.dtypes import accumulator

RNG = np.random.default_rng(10)
LABELS, CLASSES = np.array([2, 0, 4, -1, 7]), 5
HOT = LABELS[:, None] == np.arange(CLASSES)
WEIGHTS = np.array([1.0, 2, 0, 4, 0.5])


def pulled(f: Callable[..., jax.Array], dy: Any, *operands: Any, dtype: str) -> list[jax.Array]:
    """The value, then the gradients."""
    with width(dtype):
        y, pullback = jax.vjp(f, *(jnp.asarray(a, dtype) for a in operands))
        return [y, *pullback(jnp.asarray(dy, dtype))]


# ---- negative log-likelihood ----------------------------------------------------------------------------------------


@pytest.mark.sample(5)
@pytest.mark.parametrize("kind", ["int32", "int8", "weights"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_likelihoods_of_whole_numbers(dtype: str, kind: str) -> None:
    """Bit for bit, with the gradients of both kinds of weights; a label of none of the classes asks nothing."""
    q, dy = RNG.integers(-4, 5, (5, CLASSES)), RNG.integers(-3, 4, 5)
    t = HOT.astype(float) if kind != "weights" else RNG.integers(-2, 3, q.shape).astype(float)
    if kind == "weights":
        f = lambda q, w, t: fnconv.nll_loss(q, t, class_weights=w)  # noqa: E731
        y, dq, dw, dt = pulled(f, dy, q, WEIGHTS, t, dtype=dtype)
        assert_equal(dt, -q * WEIGHTS * dy[:, None], "d labels")
    else:
        f = lambda q, w: fnconv.nll_loss(q, LABELS.astype(kind), class_weights=w)  # noqa: E731
        y, dq, dw = pulled(f, dy, q, WEIGHTS, dtype=dtype)
    assert_equal(y, -(q * t * WEIGHTS).sum(-1), "y")
    assert_equal(dq, -t * WEIGHTS * dy[:, None], "d log probabilities")
    assert_equal(dw, -(q * t * dy[:, None]).sum(0), "d class weights")


def test_nothing_is_asked_of_minus_infinity() -> None:
    q = jnp.array([[0.0, -jnp.inf]])
    for labels in (jnp.array([0]), jnp.array([[1.0, 0.0]])):
        assert fnconv.nll_loss(q, labels).tolist() == [0]


# ---- cross-entropy with weights and smoothing -----------------------------------------------------------------------


def check_smoothing(dtype: str, *, soft: bool = False) -> None:
    """Against p sum(t) - t in extended precision.

    log p is off by k u of max - min + log n, e roundings of an exp, n + 4 others; t by four; p by as much as log p.
    """
    z, dy = RNG.standard_normal((5, CLASSES)) * 3, RNG.standard_normal(5)
    labels: Any = RNG.random((5, CLASSES)) if soft else LABELS
    kept = accumulator(jnp.dtype(dtype))
    with width(dtype):
        given = [jnp.asarray(a, dtype) for a in (z, WEIGHTS, labels if soft else 0)]
        target = given[2] if soft else jnp.asarray(labels)
        f = partial(fnconv.softmax_cross_entropy, labels=target, class_weights=given[1], label_smoothing=0.3)
        y, pullback = jax.vjp(f, given[0])
        (dz,) = pullback(jnp.asarray(dy, dtype))
        z, dy, labels = (np.asarray(a).astype(np.longdouble) for a in (given[0], jnp.asarray(dy, dtype), target))
    hot, asked = (labels, True) if soft else (HOT, HOT.any(-1, keepdims=True))
    t = asked * (np.longdouble("0.7") * hot + np.longdouble("0.3") / CLASSES) * WEIGHTS
    log_p = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
    p, total = np.exp(log_p), t.sum(-1, keepdims=True)
    spread = float(np.ptp(z) + np.log(CLASSES) + 1)
    n = CLASSES + 8 + 2 * units_of(jnp.exp, np.exp, np.linspace(-20, 0, 2001), kept.name)
    for what, got, want, magnitude in (
        ("y", y, -(t * log_p).sum(-1), (t * (abs(log_p) + spread)).sum(-1)),
        ("dz", dz, (p * total - t) * dy[:, None], (p * total * (1 + spread) + t) * abs(dy[:, None])),
    ):
        stored = gamma(1, dtype) * abs(want) if kept != jnp.dtype(dtype) else 0
        bound = 2 * (gamma(n, kept) + gamma(n, "float64")) * magnitude + stored
        assert_within(got, want.astype(float), bound.astype(float), f"soft {soft}: {what}")


@pytest.mark.sample(4)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_smoothing_and_weights_keep_their_digits(dtype: str, soft: bool) -> None:
    check_smoothing(dtype, soft=soft)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weights": jnp.ones(3)},
        {"label_smoothing": 0.1},
        {"class_weights": jnp.ones(3), "label_smoothing": 1.0},
    ],
    ids=["plain", "weights", "smoothing", "both"],
)
def test_ignored_rows_may_hold_anything(options: dict[str, Any]) -> None:
    """Loss and gradient 0, also where NaN stands; the first row is untouched by it."""
    z = jnp.array([[0.0, 1.0, 2.0], [jnp.nan, jnp.inf, 0.0]])
    for fn in (fnconv.softmax_cross_entropy, fnconv.nll_loss):
        given = {k: v for k, v in options.items() if fn is fnconv.softmax_cross_entropy or k == "class_weights"}
        y, pullback = jax.vjp(lambda z, fn=fn, given=given: fn(z, jnp.array([1, 3]), **given), z)
        (dz,) = pullback(jnp.ones(2))
        assert y[1] == 0
        assert not dz[1].any()
        assert np.isfinite(y[0])
        assert dz[0].any()


def test_no_matrix_is_kept_for_integer_labels() -> None:
    """Weights of classes alone keep a number an example."""
    z, labels = jnp.ones((64, 100)), jnp.zeros(64, jnp.int32)
    _, pullback = jax.vjp(jax.jit(partial(fnconv.softmax_cross_entropy, labels=labels, class_weights=jnp.ones(100))), z)
    assert sum(a.size for a in jax.tree.leaves(pullback) if hasattr(a, "dtype")) <= z.size + 4 * 100


# ---- Dice -----------------------------------------------------------------------------------------------------------


def check_dice(dtype: str) -> None:
    """Sums of n positive terms of up to four factors; e / d, q and the slopes have eight roundings more."""
    p, t = RNG.random((3, 6, 2)), (RNG.random((3, 6, 2)) < 0.5) * 1.0
    dy, options = RNG.standard_normal((3, 2)), {"smooth": 0.5, "alpha": 0.3, "beta": 0.7}
    kept = accumulator(jnp.dtype(dtype))
    y, dp, dt = pulled(partial(fnconv.dice_loss, **options), dy, p, t, dtype=dtype)
    with width(dtype):
        p, t, dy = (np.asarray(jnp.asarray(a, dtype)).astype(np.longdouble) for a in (p, t, dy))
    alpha, beta, one = np.longdouble("0.3"), np.longdouble("0.7"), np.longdouble(1)
    e = (alpha * p * (1 - t) + beta * t * (1 - p)).sum(1, keepdims=True)
    d = (p * t).sum(1, keepdims=True) + one / 2 + e
    q, share = 1 - e / d, dy[:, None] / d
    k = gamma(4 * (6 + 8), kept) + gamma(4 * (6 + 8), "float64")
    for what, got, want, magnitude in (
        ("y", y, (e / d)[:, 0], (e / d)[:, 0]),
        ("dp", dp, share * (q * alpha - t), abs(share) * (alpha + abs(t))),
        ("dt", dt, share * (q * beta - p), abs(share) * (beta + p)),
    ):
        stored = gamma(1, dtype) * abs(want) if kept != jnp.dtype(dtype) else 0
        assert_within(got, want.astype(float), (k * magnitude + stored).astype(float), what)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dice_keeps_its_digits(dtype: str) -> None:
    check_dice(dtype)


def test_a_perfect_prediction_costs_nothing() -> None:
    """Exactly 0, and where nothing is there and nothing is seen; nothing is divided by 0."""
    t = jnp.array([[[1.0, 0], [0, 0], [1, 0]]])
    loss, (dp, _) = jax.value_and_grad(lambda p, t: fnconv.dice_loss(p, t).sum(), (0, 1))(t, t)
    assert loss == 0
    assert np.isfinite(dp).all()


# ---- theirs ---------------------------------------------------------------------------------------------------------


def test_they_are_optax_s() -> None:
    """In float64: smoothed labels, and Dice of probabilities, weighted and averaged outside."""
    z, t = RNG.standard_normal((2, 4, 6, CLASSES))
    hot = np.eye(CLASSES)[t.argmax(-1)]
    with width("float64"):
        pairs = (
            (
                lambda z: fnconv.softmax_cross_entropy(z, jnp.asarray(hot), label_smoothing=0.1),
                lambda z: optax.softmax_cross_entropy(z, optax.smooth_labels(jnp.asarray(hot), 0.1)),
            ),
            (
                lambda z: (fnconv.dice_loss(fnconv.softmax(z), jnp.asarray(hot), alpha=0.2) * WEIGHTS).mean(-1),
                lambda z: optax.losses.dice_loss(z, jnp.asarray(hot), alpha=0.2, class_weights=jnp.asarray(WEIGHTS)),
            ),
        )
        for ours, theirs in pairs:
            (a, pull_a), (b, pull_b) = (jax.vjp(f, jnp.asarray(z)) for f in (ours, theirs))
            np.testing.assert_allclose(a, b, rtol=0, atol=2**-46)
            np.testing.assert_allclose(pull_a(jnp.ones_like(a))[0], pull_b(jnp.ones_like(b))[0], rtol=0, atol=2**-46)


@needs_torch
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_they_are_torch_s(weighted: bool, smoothing: float) -> None:
    """In float64, integer labels and soft ones."""
    import torch

    f, z = torch.nn.functional, RNG.standard_normal((5, CLASSES))
    w = WEIGHTS if weighted else None
    soft, known = RNG.random((5, CLASSES)), np.array([2, 0, 4, -1, 1])
    options = {"weight": None if w is None else torch.tensor(w), "reduction": "none"}
    for labels in (known, soft):
        ignored = {} if labels is soft else {"ignore_index": -1}
        calls = [
            (
                partial(fnconv.softmax_cross_entropy, label_smoothing=smoothing),
                partial(f.cross_entropy, label_smoothing=smoothing),
            )
        ]
        calls += [(fnconv.nll_loss, f.nll_loss)] if labels is known and not smoothing else []
        for ours, theirs in calls:
            t = torch.tensor(z, requires_grad=True)
            y = theirs(t, torch.tensor(labels), **options, **ignored)
            y.sum().backward()
            with width("float64"):
                given = None if w is None else jnp.asarray(w)
                got, pullback = jax.vjp(
                    lambda z, ours=ours, labels=labels, given=given: ours(z, jnp.asarray(labels), class_weights=given),
                    jnp.asarray(z),
                )
                np.testing.assert_allclose(got, y.detach().numpy(), rtol=0, atol=2**-46)
                np.testing.assert_allclose(pullback(jnp.ones_like(got))[0], t.grad.numpy(), rtol=0, atol=2**-46)


# ---- arguments ------------------------------------------------------------------------------------------------------

X = jnp.ones((2, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fnconv.nll_loss(X, jnp.zeros(4, int)),
            ValueError,
            r"nll_loss: integer labels must have the shape \(2,\)",
        ),
        (
            lambda: fnconv.nll_loss(X, X[0]),
            ValueError,
            r"nll_loss: labels must have log_probabilities' shape \(2, 4\); got",
        ),
        (
            lambda: fnconv.nll_loss(X, X, class_weights=jnp.ones(2)),
            ValueError,
            r"nll_loss: class_weights must have the shape \(4,\); got \(2,\)",
        ),
        (
            lambda: fnconv.softmax_cross_entropy(X, X, class_weights=jnp.ones(4, jnp.bfloat16)),
            TypeError,
            "softmax_cross_entropy: logits and class_weights must have one dtype",
        ),
        (
            lambda: fnconv.softmax_cross_entropy(X, X, label_smoothing=1.5),
            ValueError,
            "softmax_cross_entropy: label_smoothing must be between 0 and 1; got 1.5",
        ),
        (
            lambda: fnconv.dice_loss(X, X, smooth=0),
            ValueError,
            "dice_loss: smooth, alpha, beta must be finite, smooth more",
        ),
        (lambda: fnconv.dice_loss(X, X[0]), ValueError, r"dice_loss: targets must have predictions's shape \(2, 4\)"),
        (lambda: fnconv.dice_loss(X, X, axis=2), ValueError, "dice_loss: axis must be between -2 and 1; got 2"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
