"""Losses, one value per example or per element; reductions are the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.attach import attach
from fnconv.base.dtypes import accumulator, to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.spec import as_array, number, same_dtype
from fnconv.base.typing import ArrayLike
from fnconv.ops.activation import _axis, _logistic, _softmax_primal, log_p, row_top
from fnconv.ops.elementwise import elementwise, gate, log_one_plus_exp

# ---- softmax cross-entropy ------------------------------------------------------------------------------------------


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, class_weights: ArrayLike | None = None, label_smoothing: float = 0.0
) -> jax.Array:
    """-sum(t * log softmax(logits)) for each example, t its labels; d logits = (p sum(t) - t) dy: p - y.

    Stable for logits of any size: the maximum is subtracted first.  A label of 0 asks nothing of its logit, be it
    -inf.  Integer labels outside [0, classes) have all weights 0: loss and gradient 0.

    Args:
      logits: (*batch, classes), floating.
      labels: integers (*batch,), or weights (*batch, classes) of logits' dtype, one-hot or not; these are
        differentiated too: d labels = -log p dy.
      class_weights: (classes,) of logits' dtype, by which t is multiplied; the mean that Torch then takes divides by
        their sum, not by the number of examples.
      label_smoothing: e in [0, 1]: t = (1 - e) labels + e / classes (Szegedy et al., 2016).

    Returns:
      (*batch,) in logits' dtype.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax, jax.numpy as jnp
    >>> logits = jnp.array([[0., 0.]])
    >>> jax.grad(lambda z: softmax_cross_entropy(z, jnp.array([1])).sum())(logits).tolist()
    [[0.5, -0.5]]
    """
    smoothing = number("softmax_cross_entropy", "label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise invalid("softmax_cross_entropy", "label_smoothing", "must be between 0 and 1", smoothing)
    return _of_classes("softmax_cross_entropy", _cross_entropy, {"logits": logits}, labels, class_weights, smoothing)


def nll_loss(log_probabilities: ArrayLike, labels: ArrayLike, *, class_weights: ArrayLike | None = None) -> jax.Array:
    """-sum(t * log_probabilities) for each example; gradients -t dy and -log_probabilities dy.

    Arguments, integer labels and errors as `softmax_cross_entropy`'s, which is this of `log_softmax`.

    >>> import jax, jax.numpy as jnp
    >>> nll_loss(jnp.array([[-1., -2.], [-3., -4.]]), jnp.array([1, -1]), class_weights=jnp.array([1., 3.])).tolist()
    [6.0, 0.0]
    """
    return _of_classes("nll_loss", _nll, {"log_probabilities": log_probabilities}, labels, class_weights, 0)


def _of_classes(
    name: str,
    loss: Callable[..., jax.Array],
    given: Mapping[str, ArrayLike],
    labels: ArrayLike,
    class_weights: ArrayLike | None,
    smoothing: float,
) -> jax.Array:
    """The loss of checked rows, with the weights of their classes."""
    ((argument, value),) = given.items()
    rows, labels = as_array(name, argument, value, integers=False), as_array(name, "labels", labels, clip=True)
    if rows.ndim < 1 or rows.shape[-1] < 1:
        raise invalid(name, argument, "must end in an axis of one class or more", rows.shape)
    classes = _are_classes(labels)
    if classes and labels.shape != rows.shape[:-1]:
        raise invalid(name, "integer labels", f"must have the shape {rows.shape[:-1]}", labels.shape)
    if not classes:
        same_dtype(name, **{argument: rows, "labels": labels})
        if labels.shape != rows.shape:
            raise invalid(name, "labels", f"must have {argument}' shape {rows.shape}", labels.shape)
    if class_weights is not None:
        class_weights = as_array(name, "class_weights", class_weights, integers=False)
        same_dtype(name, **{argument: rows, "class_weights": class_weights})
        if class_weights.shape != rows.shape[-1:]:
            raise invalid(name, "class_weights", f"must have the shape {rows.shape[-1:]}", class_weights.shape)
    if classes and not smoothing:
        each = loss(rows, labels)
        return each if class_weights is None else gate(each, jnp.take(class_weights, labels, mode="clip"))
    if not smoothing and class_weights is None:
        return loss(rows, labels)
    targets = _hot(rows, labels) if classes else labels
    targets = targets.astype(accumulator(rows.dtype)) * (1 - smoothing) + smoothing / rows.shape[-1]
    if class_weights is not None:
        targets = targets * class_weights.astype(targets.dtype)
    if classes:
        asked = _asked(rows, labels)[..., None]
        rows, targets = (jnp.where(asked, a, jnp.zeros((), a.dtype)) for a in (rows, targets))
    return loss(rows, targets)


Pair = tuple[jax.Array, jax.Array]


def _cross_entropy_primal(logits: jax.Array, labels: jax.Array) -> jax.Array:
    if not _are_classes(labels):
        return _nll_primal(log_p(logits), labels).astype(logits.dtype)
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
    slopes = _probabilities(rows, asked) - _hot(logits, labels).astype(rows.dtype)
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


def _hot(rows: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether a class is the label of its row."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    return labels[..., None] == jax.lax.broadcasted_iota(labels.dtype, rows.shape, labels.ndim)


def _nll_primal(logs: jax.Array, labels: jax.Array) -> jax.Array:
    if not _are_classes(labels):
        each = _product(labels.astype(accumulator(logs.dtype)), to_accumulator(logs))
        return -jnp.sum(each, axis=-1).astype(logs.dtype)
    asked = _asked(logs, labels)
    chosen = jnp.take_along_axis(logs, jnp.where(asked, labels, 0)[..., None], axis=-1, mode="clip")[..., 0]
    return jnp.where(asked, -chosen, jnp.zeros((), logs.dtype))


def _nll_bwd(residuals: Pair, dy: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    logs, labels = residuals
    dy = dy[..., None]
    if _are_classes(labels):
        return jnp.where(_hot(logs, labels), -dy, jnp.zeros((), dy.dtype)), None
    return (-labels * dy.astype(labels.dtype)).astype(logs.dtype), -logs.astype(labels.dtype) * dy.astype(labels.dtype)


def _product(weights: jax.Array, logs: jax.Array) -> jax.Array:
    """weights * logs with 0 * -inf = 0."""
    return weights * jnp.where((weights == 0) & jnp.isinf(logs), jnp.zeros((), logs.dtype), logs)


_cross_entropy = attach(_cross_entropy_primal, _cross_entropy_fwd, _cross_entropy_bwd, has_spec=False)
_nll = attach(_nll_primal, lambda logs, labels: (_nll_primal(logs, labels), (logs, labels)), _nll_bwd, has_spec=False)


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


# ---- overlap --------------------------------------------------------------------------------------------------------


class _Overlap(NamedTuple):
    axes: tuple[int, ...]
    smooth: float
    alpha: float
    beta: float


def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: float = 1.0,
    alpha: float = 0.5,
    beta: float = 0.5,
    axis: int | Sequence[int] | None = None,
) -> jax.Array:
    """e / d for each example and class: 1 less an overlap (Milletari et al., 2016; Salehi et al., 2017).

    With sums over space, e = alpha sum(p (1 - t)) + beta sum(t (1 - p)) and d = sum(p t) + smooth + e.  The overlap is
    q = 1 - e / d, and

        dp = dy (q ((1 - alpha - beta) t + alpha) - t) / d        dt: with p for t and beta for alpha

    Probabilities go in: of `sigmoid` or `softmax`.  Weights of classes and reductions are the caller's.  optax's
    dice_loss takes logits, and the mean over classes.

    Args:
      predictions, targets: (N, *spatial, classes), floating, of one shape and dtype; at least 0.
      smooth: a positive number, so that nothing is divided by 0.
      alpha, beta: what false positives and false negatives cost; 1/2 each is Dice's coefficient.
      axis: of the sums; None: all but the first and the last.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax.numpy as jnp
    >>> round(float(dice_loss(jnp.array([[[1.], [0.]]]), jnp.array([[[1.], [1.]]])).sum()), 6)
    0.2
    """
    p, t = _alike("dice_loss", predictions=predictions, targets=targets)
    numbers = [number("dice_loss", k, v) for k, v in (("smooth", smooth), ("alpha", alpha), ("beta", beta))]
    if not (all(map(np.isfinite, numbers)) and numbers[0] > 0):
        raise invalid("dice_loss", "smooth, alpha, beta", "must be finite, smooth more than 0", tuple(numbers))
    named = range(1, p.ndim - 1) if axis is None else axis if isinstance(axis, Sequence) else (axis,)
    loss: jax.Array = _dice(_Overlap(tuple(sorted({_axis("dice_loss", a, p) for a in named})), *numbers), p, t)
    return loss


def _dice_primal(spec: _Overlap, p: jax.Array, t: jax.Array) -> jax.Array:
    return _dice_fwd(spec, p, t)[0]


def _dice_fwd(spec: _Overlap, p: jax.Array, t: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Keeps p, t, and q and d with axes of size 1."""
    a, b = to_accumulator(p), to_accumulator(t)
    common, false, missed = (jnp.sum(v, axis=spec.axes, keepdims=True) for v in (a * b, a * (1 - b), b * (1 - a)))
    n, e = common + spec.smooth, spec.alpha * false + spec.beta * missed
    d = n + e
    return jnp.squeeze(e / d, spec.axes).astype(p.dtype), (p, t, n / d, d)


def _dice_bwd(spec: _Overlap, residuals: tuple[jax.Array, ...], dy: jax.Array) -> Pair:
    p, t, q, d = residuals
    share, both = jnp.expand_dims(to_accumulator(dy), spec.axes) / d, 1 - spec.alpha - spec.beta

    def slope(other: jax.Array, weight: float) -> jax.Array:
        other = to_accumulator(other)
        return (share * (q * (both * other + weight) - other)).astype(p.dtype)

    return slope(t, spec.alpha), slope(p, spec.beta)


_dice = attach(_dice_primal, _dice_fwd, _dice_bwd)
