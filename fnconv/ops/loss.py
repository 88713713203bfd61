"""Losses, one value per example or per element; reductions are the caller's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.attach import attach
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.spec import as_array, same_dtype
from fnconv.base.typing import ArrayLike
from fnconv.ops.activation import _softmax_primal, log_p, row_top

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


# ---- squared error --------------------------------------------------------------------------------------------------


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
    name = "squared_error"
    prediction = as_array(name, "prediction", prediction, integers=False)
    target = as_array(name, "target", target, integers=False)
    same_dtype(name, prediction=prediction, target=target)
    if prediction.shape != target.shape:
        raise invalid(name, "target", f"must have prediction's shape {prediction.shape}", target.shape)
    return _squared_error(prediction, target)


def _squared_error_primal(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.square(prediction - target)


def _squared_error_fwd(prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _squared_error_primal(prediction, target), prediction - target


def _squared_error_bwd(error: jax.Array, dy: jax.Array) -> Pair:
    d_prediction = error * dy * 2  # twice either factor might overflow
    return d_prediction, -d_prediction


_squared_error = attach(_squared_error_primal, _squared_error_fwd, _squared_error_bwd, has_spec=False)
