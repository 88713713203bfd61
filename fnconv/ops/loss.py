"""Losses, one value per example or per element; reductions are the caller's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.attach import attach
from fnconv.base.dtypes import accumulator
from fnconv.base.errors import invalid
from fnconv.base.spec import as_array, same_dtype
from fnconv.base.typing import ArrayLike
from fnconv.ops.activation import log_p

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
    logs, weights = log_p(_asked(logits, labels, logits.shape[-1])), _weights(logits, labels)
    return -jnp.sum(_product(weights, logs), axis=-1).astype(logits.dtype)


def _cross_entropy_fwd(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, Pair]:
    return _cross_entropy_primal(logits, labels), (logits, labels)


def _cross_entropy_bwd(residuals: Pair, dy: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    logits, labels = residuals
    wide = accumulator(logits.dtype)
    weights, dy = _weights(logits, labels), _asked(dy.astype(wide)[..., None], labels, logits.shape[-1])
    log_probability = log_p(_asked(logits, labels, logits.shape[-1]))
    d_logits = (jnp.exp(log_probability) * jnp.sum(weights, axis=-1, keepdims=True) - weights) * dy
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    return d_logits.astype(logits.dtype), None if integer else (-log_probability * dy).astype(labels.dtype)


def _weights(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The weight of every class; one-hot for integer labels, of which only the integers are kept for the gradient."""
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
        classes = jax.lax.broadcasted_iota(labels.dtype, (*labels.shape, logits.shape[-1]), labels.ndim)
        labels = labels[..., None] == classes
    return labels.astype(accumulator(logits.dtype))


def _asked(rows: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """The rows; 0 in those whose integer label is outside the classes, so that NaN there has no effect."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return rows
    ignored = (labels < 0) | (labels > min(classes - 1, np.iinfo(labels.dtype).max))
    return jnp.where(ignored[..., None], jnp.zeros((), rows.dtype), rows)


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
