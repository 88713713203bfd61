"""Activations, softmax and losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.own.bounds import Bound, Selecting, Traced
from fnconv.judge.own.case import Arrays, Case, DataKind, Function
from fnconv.ops import functional as ops

SHAPE = (4, 6)
ELEMENTWISE = (
    *("celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "mish", "relu6", "selu", "silu"),
    *("sigmoid", "soft_sign", "softplus", "tanh", "glu"),
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


def _probabilities(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    return tuple(rng.random(shape) for shape in shapes)


PROBABILITIES = DataKind("probabilities", _probabilities)
SMALL = DataKind("small integers", _small, exact=True)
MODERATE, EXTREME = DataKind("floats", _moderate), DataKind("arguments of +-1e4", _extreme)


def cases() -> Iterator[Case]:
    """All cases of this module."""
    plain = lambda x: jnp.where(x > 0, x, jnp.zeros((), x.dtype))  # noqa: E731
    yield _case("relu", str(SHAPE), ops.relu, plain, Selecting(), SMALL, MODERATE)
    yield _leaky_relu(0.25, SMALL)
    yield _leaky_relu(0.01)
    yield _traced("prelu", ops.prelu, lambda x, s: jnp.where(x > 0, x, s * x), SMALL, operands=("x", "slope"))
    for name in ELEMENTWISE:
        function, reference = getattr(ops, name), getattr(jax.nn, name)
        yield _traced(name, function, reference, *((SMALL,) if name in ("relu6", "hard_tanh") else ()))
    exact = {"approximate": False}
    yield _traced("gelu", partial(ops.gelu, **exact), partial(jax.nn.gelu, **exact), text=", exact")
    for name in ("elu", "celu"):
        yield _traced(name, partial(getattr(ops, name), alpha=0.3), partial(getattr(jax.nn, name), alpha=0.3))
    for name, axis in product(("softmax", "log_softmax"), (-1, 0)):
        manual, plain = (partial(getattr(module, name), axis=axis) for module in (ops, jax.nn))
        yield _traced(name, manual, plain, text="" if axis else ", axis 0", axis=axis)
    manual, hot = partial(ops.softmax_cross_entropy, labels=LABELS), LABELS[:, None] == np.arange(SHAPE[1])
    plain = partial(_cross_entropy, weights=hot)
    yield _traced("softmax_cross_entropy", manual, plain, operands=("logits",), text=", integer labels")
    functions, operands = (ops.softmax_cross_entropy, _cross_entropy), ("logits", "labels")
    yield _traced("softmax_cross_entropy", *functions, operands=operands, text=", weights for labels")
    of_classes = np.arange(1.0, 7.0)
    smooth = (0.75 * hot + 0.25 / 6) * (LABELS[:, None] < 6) * of_classes

    def weighted(z: Any) -> Any:
        given = jnp.asarray(of_classes, z.dtype)
        return ops.softmax_cross_entropy(z, LABELS, class_weights=given, label_smoothing=0.25)

    plain = partial(_cross_entropy, weights=smooth)
    yield _traced("softmax_cross_entropy", weighted, plain, operands=("logits",), text=", class weights, smoothing")
    manual, plain = partial(ops.nll_loss, labels=LABELS), partial(_expected, weights=hot)
    yield _traced("nll_loss", manual, plain, SMALL, operands=("log_probabilities",), text=", integer labels")
    operands = ("log_probabilities", "labels")
    yield _traced("nll_loss", ops.nll_loss, _expected, SMALL, operands=operands, text=", weights for labels")
    operands = ("prediction", "target")
    for fn, reference, *samples in (
        (ops.squared_error, _square_of_difference, SMALL, MODERATE),
        (ops.absolute_error, lambda p, t: abs(p - t), MODERATE),
        (ops.huber_loss, _huber, MODERATE, EXTREME),
        (ops.sigmoid_binary_cross_entropy, _binary_cross_entropy, MODERATE, EXTREME),
        (ops.kl_divergence, _kl_divergence, MODERATE),
    ):
        bound = Traced(fn, reference, operands)
        yield _case(fn.__name__, str(SHAPE), fn, reference, bound, *samples, operands=operands)
    operands, manual = ("predictions", "targets"), partial(ops.dice_loss, beta=0.75, axis=-1)
    bound = Traced(manual, _dice, operands)
    yield _case("dice_loss", str(SHAPE), manual, _dice, bound, PROBABILITIES, operands=operands)


def _case(
    name: str,
    text: str,
    manual: Function,
    reference: Function,
    bound: Bound,
    *samples: DataKind,
    operands: tuple[str, ...] = ("x",),
    axis: int = -1,
) -> Case:
    """axis: along which there are sums; the others are a batch."""
    results = frozenset({"y", *(f"d{operand}" for operand in operands)}) if axis else frozenset[str]()
    shapes = dict.fromkeys(operands, SHAPE)
    return Case(name, text, lambda rule: manual, reference, shapes, bound, samples, batched=results, quick=True)


def _traced(name: str, manual: Function, reference: Function, *samples: DataKind, text: str = "", **more: Any) -> Case:
    """A function whose bound is that of its program."""
    bound = Traced(manual, reference, more.get("operands", ("x",)))
    return _case(name, f"{SHAPE}{text}", manual, reference, bound, *samples, MODERATE, EXTREME, **more)


def _leaky_relu(slope: float, *samples: DataKind) -> Case:
    def reference(x: Any) -> jax.Array:
        return jnp.where(x > 0, x, x * jnp.asarray(slope, x.dtype))

    return _traced("leaky_relu", partial(ops.leaky_relu, slope=slope), reference, *samples, text=f", slope {slope}")


def _square_of_difference(prediction: Any, target: Any) -> Any:
    return (prediction - target) ** 2


def _huber(prediction: Any, target: Any) -> Any:
    e = prediction - target
    return jnp.where(abs(e) <= 1, e * e / 2, abs(e) - 0.5)


def _binary_cross_entropy(logits: Any, labels: Any) -> Any:
    return -labels * jax.nn.log_sigmoid(logits) - (1 - labels) * jax.nn.log_sigmoid(-logits)


def _kl_divergence(q: Any, t: Any) -> Any:
    return jnp.sum(t * (jnp.log(jnp.where(t > 0, t, jnp.ones((), t.dtype))) - q), axis=-1)


def _cross_entropy(logits: Any, weights: Any) -> jax.Array:
    return _expected(jax.nn.log_softmax(logits), weights)


def _expected(logs: Any, weights: Any) -> jax.Array:
    return -jnp.sum(jnp.asarray(weights, logs.dtype) * logs, axis=-1)


def _dice(p: Any, t: Any) -> jax.Array:
    false, missed = (v.sum(-1) for v in (p * (1 - t), t * (1 - p)))
    return 1 - (n := (p * t).sum(-1) + 1) / (n + 0.5 * false + 0.75 * missed)
