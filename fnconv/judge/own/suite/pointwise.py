"""Activations, softmax and losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.own.bounds import Bound, Selecting, Traced
from fnconv.judge.own.case import Arrays, Case, Function, Sample
from fnconv.judge.own.suite import formulas
from fnconv.ops import functional as ops

SHAPE = (4, 6)
ELEMENTWISE = (
    *("celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "mish", "relu6", "selu", "silu"),
    *("sigmoid", "soft_sign", "softplus", "tanh"),
)
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
    yield _leaky_relu(0.25, SMALL)
    yield _leaky_relu(0.01)
    for name in ELEMENTWISE:
        function, reference = getattr(ops, name), getattr(jax.nn, name)
        yield _traced(name, function, reference, *((SMALL,) if name in ("relu6", "hard_tanh") else ()))
    exact = {"approximate": False}
    yield _traced("gelu", partial(ops.gelu, **exact), partial(jax.nn.gelu, **exact), text=", exact")
    for name in ("elu", "celu"):
        yield _traced(name, partial(getattr(ops, name), alpha=0.3), partial(getattr(jax.nn, name), alpha=0.3))
    for axis in (-1, 0):
        yield _softmax("softmax", ops.softmax, jax.nn.softmax, formulas.softmax(axis), axis)
        yield _softmax("log_softmax", ops.log_softmax, jax.nn.log_softmax, formulas.log_softmax(axis), axis)
    yield _integer_labels()
    yield _one_hot_labels()
    yield Case(
        "squared_error",
        str(SHAPE),
        lambda rule: ops.squared_error,
        _square_of_difference,
        {"prediction": SHAPE, "target": SHAPE},
        Traced(ops.squared_error, _square_of_difference, ("prediction", "target")),
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


def _traced(name: str, manual: Function, reference: Function, *samples: Sample, text: str = "") -> Case:
    """A function of one array, whose bound is that of its program."""
    return _one(name, manual, reference, Traced(manual, reference), *samples, MODERATE, EXTREME, text=text)


def _leaky_relu(slope: float, *samples: Sample) -> Case:
    def reference(x: Any) -> jax.Array:
        return jnp.where(x > 0, x, x * jnp.asarray(slope, x.dtype))

    return _traced("leaky_relu", partial(ops.leaky_relu, slope=slope), reference, *samples, text=f", slope {slope}")


def _softmax(name: str, manual: Any, reference: Any, bound: Bound, axis: int) -> Case:
    text = "" if axis == -1 else f", axis {axis}"
    return _one(
        name, lambda x: manual(x, axis=axis), lambda x: reference(x, axis=axis), bound, MODERATE, EXTREME, text=text
    )


def _square_of_difference(prediction: Any, target: Any) -> Any:
    return (prediction - target) ** 2


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
