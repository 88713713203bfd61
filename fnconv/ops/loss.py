"""Losses, one value per example or per element; reductions are the caller's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.attach import attach
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.spec import as_array, number, same_dtype
from fnconv.base.typing import ArrayLike
from fnconv.ops.activation import _logistic, _softmax_primal, log_p, row_top
from fnconv.ops.elementwise import elementwise, log_one_plus_exp

# ---- softmax cross-entropy ------------------------------------------------------------------------------------------


def softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """-sum(labels * log softmax(logits)) for each example; d logits = (p sum(labels) - labels) dy: p - y.

    Stable for logits of any size: the maximum is subtracted first.  A label of 0 asks nothing of its logit, be it
    -inf.  Integer labels outside [0, classes) have all weights 0: loss and gradient 0.

    Args:
      logits: (*batch, classes), floating.
      labels: integers (*batch,), or weights (*batch, classes) of logits' dtype, one-hot or not; these are
        differentiated too: d labels = -log p dy.

    Returns:
      (*batch,) in logits' dtype.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax, jax.numpy as jnp
    >>> logits = jnp.array([[0., 0.]])
    >>> jax.grad(lambda z: softmax_cross_entropy(z, jnp.array([1])).sum())(logits).tolist()
    [[0.5, -0.5]]
    """
    name = "softmax_cross_entropy"
    logits = as_array(name, "logits", logits, integers=False)
    labels = as_array(name, "labels", labels, clip=True)
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise invalid(name, "logits", "must end in an axis of one class or more", logits.shape)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        if labels.shape != logits.shape[:-1]:
            raise invalid(name, "integer labels", f"must have the shape {logits.shape[:-1]}", labels.shape)
        return _cross_entropy(logits, labels)
    same_dtype(name, logits=logits, labels=labels)
    if labels.shape != logits.shape:
        raise invalid(name, "labels", f"must have logits' shape {logits.shape}", labels.shape)
    return _cross_entropy(logits, labels)


Pair = tuple[jax.Array, jax.Array]


def _cross_entropy_primal(logits: jax.Array, labels: jax.Array) -> jax.Array:
    if not _are_classes(labels):
        logs = log_p(logits)
        return -jnp.sum(_product(labels.astype(logs.dtype), logs), axis=-1).astype(logits.dtype)
    asked, top = _asked(logits, labels), row_top(to_accumulator(logits), -1)
    total = jnp.sum(jnp.exp(to_accumulator(logits) - top), axis=-1)
    chosen = jnp.take_along_axis(logits, jnp.where(asked, labels, 0)[..., None], axis=-1, mode="clip")
    loss = jnp.log(total) - (to_accumulator(chosen) - top)[..., 0]
    return jnp.where(asked, loss, jnp.zeros((), loss.dtype)).astype(logits.dtype)


def _cross_entropy_fwd(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, Pair]:
    return _cross_entropy_primal(logits, labels), (logits, labels)


def _cross_entropy_bwd(residuals: Pair, dy: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Rows that ask nothing have the gradient 0, whatever stands in them and in dy."""
    logits, labels = residuals
    dy, rows = to_accumulator(dy)[..., None], to_accumulator(logits)
    if not _are_classes(labels):
        weights = labels.astype(rows.dtype)
        d_logits = (_softmax_primal(-1, rows) * jnp.sum(weights, axis=-1, keepdims=True) - weights) * dy
        return d_logits.astype(logits.dtype), (-log_p(rows) * dy).astype(labels.dtype)
    asked, zero = _asked(logits, labels)[..., None], jnp.zeros((), rows.dtype)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    hot = labels[..., None] == jax.lax.broadcasted_iota(labels.dtype, logits.shape, labels.ndim)
    slopes = _probabilities(rows, asked) - hot.astype(rows.dtype)
    return (slopes * jnp.where(asked, dy, zero)).astype(logits.dtype), None


@jax.custom_jvp
def _probabilities(rows: jax.Array, asked: jax.Array) -> jax.Array:
    """softmax(rows); 0, and without a derivative, in rows that are not asked, where there may be NaN."""
    return jnp.where(asked, _softmax_primal(-1, rows), jnp.zeros((), rows.dtype))


@_probabilities.defjvp
def _probabilities_jvp(primals: Pair, tangents: Pair) -> Pair:
    p, dx = _probabilities(*primals), tangents[0]
    return p, p * (dx - jnp.sum(p * dx, axis=-1, keepdims=True))


def _are_classes(labels: jax.Array) -> bool:
    return bool(jnp.issubdtype(labels.dtype, jnp.integer))


def _asked(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the label of a row is one of its classes."""
    return (labels >= 0) & (labels <= min(logits.shape[-1] - 1, np.iinfo(labels.dtype).max))


def _product(weights: jax.Array, logs: jax.Array) -> jax.Array:
    """weights * logs with 0 * -inf = 0."""
    return weights * jnp.where((weights == 0) & jnp.isinf(logs), jnp.zeros((), logs.dtype), logs)


_cross_entropy = attach(_cross_entropy_primal, _cross_entropy_fwd, _cross_entropy_bwd, has_spec=False)


# ---- of a prediction and a target, element by element ---------------------------------------------------------------


def squared_error(prediction: ArrayLike, target: ArrayLike) -> jax.Array:
    """(prediction - target)^2 for each element, Wei 1.2; gradients 2 (prediction - target) dy and its negative.

    Args:
      prediction, target: floating, of one shape and dtype.

    Raises:
      ValueError, TypeError: at trace time; nothing is broadcast.

    >>> import jax, jax.numpy as jnp
    >>> jax.grad(lambda p: squared_error(p, jnp.array([1., 1.])).sum())(jnp.array([3., 1.])).tolist()
    [4.0, 0.0]
    """
    return _squared_error(*_alike("squared_error", prediction=prediction, target=target))


def absolute_error(prediction: ArrayLike, target: ArrayLike) -> jax.Array:
    """|prediction - target| for each element; gradients +-sign(prediction - target) dy, 0 where they are equal.

    >>> import jax
    >>> float(absolute_error(1., 3.)), float(jax.grad(absolute_error)(1., 3.)), float(jax.grad(absolute_error)(1., 1.))
    (2.0, -1.0, 0.0)
    """
    return _absolute_error((), *_alike("absolute_error", prediction=prediction, target=target))


def huber_loss(prediction: ArrayLike, target: ArrayLike, delta: float = 1.0) -> jax.Array:
    """e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), e = prediction - target (Huber, 1964).

    Gradients +-dy min(max(e, -delta), delta).  delta: a positive finite number known at trace time.

    >>> import jax
    >>> float(huber_loss(3., 0.)), float(jax.grad(huber_loss)(3., 0.)), float(jax.grad(huber_loss)(0.5, 0.))
    (2.5, 1.0, 0.5)
    """
    delta = number("huber_loss", "delta", delta)
    if not 0 < delta < np.inf:
        raise invalid("huber_loss", "delta", "must be positive and finite", delta)
    return _huber_loss((delta,), *_alike("huber_loss", prediction=prediction, target=target))


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """-labels log s(logits) - (1 - labels) log s(-logits) for each element, s the sigmoid.

    d logits = dy ((1 - labels) s(logits) - labels s(-logits)), which is s - labels without its cancellation;
    d labels = -logits dy.  Both floating, of one shape and dtype.

    >>> import jax
    >>> float(sigmoid_binary_cross_entropy(-1e4, 1.)), float(jax.grad(sigmoid_binary_cross_entropy)(0., 1.))
    (10000.0, -0.5)
    """
    name = "sigmoid_binary_cross_entropy"
    return _binary_cross_entropy((), *_alike(name, logits=logits, labels=labels))


def kl_divergence(log_predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    """sum(targets (log targets - log_predictions)) over the last axis, 0 log 0 being 0, in log_predictions' dtype.

    d log_predictions = -targets dy; d targets = (log targets + 1 - log_predictions) dy, without the logarithm and the 1
    where a target is 0.  Both (*batch, classes), floating, of one dtype.

    >>> import jax.numpy as jnp
    >>> float(kl_divergence(jnp.log(jnp.array([0.25, 0.75])), jnp.array([0.25, 0.75])))
    0.0
    """
    log_predictions, targets = _alike("kl_divergence", log_predictions=log_predictions, targets=targets)
    if log_predictions.ndim < 1:
        raise invalid("kl_divergence", "log_predictions", "must have an axis of classes", log_predictions.shape)
    each = _kl_divergence((), log_predictions, targets)
    return jnp.sum(to_accumulator(each), axis=-1).astype(each.dtype)


def _alike(name: str, **given: ArrayLike) -> list[jax.Array]:
    """Two floating arrays of one shape and dtype."""
    arrays = {k: as_array(name, k, v, integers=False) for k, v in given.items()}
    same_dtype(name, **arrays)
    (first, a), (second, b) = arrays.items()
    if a.shape != b.shape:
        raise invalid(name, second, f"must have {first}'s shape {a.shape}", b.shape)
    return [a, b]


def _squared_error_primal(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.square(prediction - target)


def _squared_error_fwd(prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _squared_error_primal(prediction, target), prediction - target


def _squared_error_bwd(error: jax.Array, dy: jax.Array) -> Pair:
    d_prediction = error * dy * 2  # twice either factor might overflow
    return d_prediction, -d_prediction


def _huber_value(p: jax.Array, t: jax.Array, delta: float) -> jax.Array:
    size = jnp.abs(p - t)
    small = jnp.minimum(size, delta)
    return small * (size - small / 2)


def _binary_cross_entropy_value(z: jax.Array, labels: jax.Array) -> jax.Array:
    return _product(labels, log_one_plus_exp(-z)) + _product(1 - labels, log_one_plus_exp(z))


def _log_of_target(t: jax.Array) -> jax.Array:
    return jnp.log(jnp.where(t > 0, t, jnp.ones((), t.dtype)))


_squared_error = attach(_squared_error_primal, _squared_error_fwd, _squared_error_bwd, has_spec=False)
_absolute_error = elementwise(
    "absolute_error", lambda p, t: jnp.abs(p - t), lambda p, t: jnp.sign(p - t), lambda p, t: jnp.sign(t - p)
)
_huber_loss = elementwise(
    "huber_loss", _huber_value, lambda p, t, d: jnp.clip(p - t, -d, d), lambda p, t, d: jnp.clip(t - p, -d, d)
)
_binary_cross_entropy = elementwise(
    "sigmoid_binary_cross_entropy",
    _binary_cross_entropy_value,
    lambda z, labels: (1 - labels) * _logistic(z) - labels * _logistic(-z),
    lambda z, labels: -z,
)
_kl_divergence = elementwise(
    "kl_divergence",
    lambda q, t: t * (_log_of_target(t) - q),
    lambda q, t: -t,
    lambda q, t: _log_of_target(t) + (t > 0).astype(t.dtype) - q,
)
