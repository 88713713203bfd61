"""Activations, softmax and losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.own.bounds import Bound, Selecting
from fnconv.judge.own.case import Arrays, Case, Function, Sample
from fnconv.judge.own.suite import formulas
from fnconv.ops import functional as ops

SHAPE = (4, 6)
LABELS = np.array([0, 5, 2, 7], np.int32)  # the last is no class: loss and gradient 0


def _small(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    return tuple(rng.integers(-4, 5, shape).astype(np.float64) for shape in shapes)


def _moderate(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Arguments up to about 10."""
    return tuple((4 if i == 0 else 1) * rng.standard_normal(shape) for i, shape in enumerate(shapes))


def _extreme(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Arguments of +-1e4 among small ones."""
    x, *rest = shapes
    far = rng.choice([-1e4, 0.0, 1e4], x, p=[0.25, 0.5, 0.25])
    return (np.where(far == 0, rng.standard_normal(x), far), *(rng.standard_normal(s) for s in rest))


SMALL = Sample("small integers", _small, exact=True)
MODERATE, EXTREME = Sample("floats", _moderate), Sample("arguments of +-1e4", _extreme)


def cases() -> Iterator[Case]:
    """All cases of this module."""
    yield _one("relu", ops.relu, lambda x: jnp.where(x > 0, x, jnp.zeros((), x.dtype)), Selecting(), SMALL, MODERATE)
    for slope, samples in ((0.25, (SMALL, MODERATE)), (0.01, (MODERATE, EXTREME))):
        yield _leaky_relu(slope, *samples)
    yield _one("sigmoid", ops.sigmoid, jax.nn.sigmoid, formulas.SIGMOID, MODERATE, EXTREME)
    yield _one("tanh", ops.tanh, jnp.tanh, formulas.TANH, MODERATE, EXTREME)
    for axis in (-1, 0):
        yield _softmax("softmax", ops.softmax, jax.nn.softmax, formulas.softmax(axis), axis)
        yield _softmax("log_softmax", ops.log_softmax, jax.nn.log_softmax, formulas.log_softmax(axis), axis)
    yield _integer_labels()
    yield _one_hot_labels()
    yield Case(
        "squared_error",
        str(SHAPE),
        lambda rule: ops.squared_error,
        lambda prediction, target: (prediction - target) ** 2,
        {"prediction": SHAPE, "target": SHAPE},
        formulas.SQUARED_ERROR,
        (SMALL, MODERATE),
        batched=frozenset({"y", "dprediction", "dtarget"}),
        quick=True,
    )


def _one(name: str, manual: Function, reference: Function, bound: Bound, *samples: Sample, text: str = "") -> Case:
    """A function of one array."""
    return Case(
        name,
        f"{SHAPE}{text}",
        lambda rule: manual,
        reference,
        {"x": SHAPE},
        bound,
        samples,
        batched=frozenset({"y", "dx"}) if "axis 0" not in text else frozenset(),
        quick=True,
    )


def _leaky_relu(slope: float, *samples: Sample) -> Case:
    return _one(
        "leaky_relu",
        lambda x: ops.leaky_relu(x, slope),
        lambda x: jnp.where(x > 0, x, x * jnp.asarray(slope, x.dtype)),
        formulas.leaky_relu(slope),
        *samples,
        text=f", slope {slope}",
    )


def _softmax(name: str, manual: Any, reference: Any, bound: Bound, axis: int) -> Case:
    text = "" if axis == -1 else f", axis {axis}"
    return _one(
        name, lambda x: manual(x, axis=axis), lambda x: reference(x, axis=axis), bound, MODERATE, EXTREME, text=text
    )


def _cross_entropy(logits: Any, weights: Any) -> jax.Array:
    return -jnp.sum(weights * jax.nn.log_softmax(logits), axis=-1)


def _integer_labels() -> Case:
    hot = LABELS[:, None] == np.arange(SHAPE[1])
    return Case(
        "softmax_cross_entropy",
        f"{SHAPE}, integer labels",
        lambda rule: lambda logits: ops.softmax_cross_entropy(logits, jnp.asarray(LABELS)),
        lambda logits: _cross_entropy(logits, jnp.asarray(hot, logits.dtype)),
        {"logits": SHAPE},
        formulas.cross_entropy(hot.astype(np.float64)),
        (MODERATE, EXTREME),
        batched=frozenset({"y", "dlogits"}),
        quick=True,
    )


def _one_hot_labels() -> Case:
    """Any weights: their gradient is -log p."""
    return Case(
        "softmax_cross_entropy",
        f"{SHAPE}, weights for labels",
        lambda rule: ops.softmax_cross_entropy,
        _cross_entropy,
        {"logits": SHAPE, "labels": SHAPE},
        formulas.cross_entropy(None),
        (MODERATE, EXTREME),
        batched=frozenset({"y", "dlogits", "dlabels"}),
        quick=True,
    )
