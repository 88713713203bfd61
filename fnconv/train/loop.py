"""Mini-batch stochastic gradient descent with momentum."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnconv.base.errors import describe, invalid
from fnconv.train.data import Data, shift_images
from fnconv.train.lenet import LAYERS, Gradients, Layers, Params, logits
from fnconv.train.run import Copy, Epoch, Metrics, Run

EVALUATION_BATCH = 1000
OnBatch = Callable[[dict[Gradients, tuple[float, float]]], None]


@partial(jax.jit, static_argnames="layers")
def step(
    copy: Copy, images: Array, labels: Array, learning_rate: float, momentum: float, *, layers: Layers
) -> tuple[Copy, Array, Array]:
    """One update on a mini-batch; returns the new copy, the summed loss and the number of right answers before it.

    With v the velocity, m the momentum and a the learning rate: v <- m v + dz/dw, w <- w - a v; m = 0 is the
    update of Wei, section 1.2. z is the mean loss, so its own derivative, 1 / N per example, is the cotangent.
    """

    def losses(params: Params) -> tuple[Array, Array]:
        predicted = logits(layers, params, images)
        return layers.loss(predicted, labels), predicted

    loss, vjp, predicted = jax.vjp(losses, copy.params, has_aux=True)
    (gradient,) = vjp(jnp.full_like(loss, 1 / loss.size))
    velocity = jax.tree.map(lambda v, g: momentum * v + g, copy.velocity, gradient)
    params = jax.tree.map(lambda w, v: w - learning_rate * v, copy.params, velocity)
    return Copy(params, velocity), loss.sum(), (predicted.argmax(-1) == labels).sum()


@partial(jax.jit, static_argnames="layers")
def score(params: Params, images: Array, labels: Array, *, layers: Layers) -> tuple[Array, Array]:
    """The summed loss and the number of right answers on a batch."""
    predicted = logits(layers, params, images)
    return layers.loss(predicted, labels).sum(), (predicted.argmax(-1) == labels).sum()


def fit(run: Run, data: Data, epochs: int, on_batch: OnBatch | None = None) -> Iterator[Run]:
    """Train until `epochs` epochs are done, counting those that `run` has behind it; yields the run after each epoch.

    `on_batch` is told the mean loss and accuracy of the epoch so far, per copy, after every mini-batch.
    The order of the images and their shifts are functions of the seed and the epoch alone, so a run that was saved
    and resumed equals one that was not. The images left over by the last whole mini-batch sit the epoch out: every
    step has one shape and is traced once.
    """
    if run.data != data.digest():
        rule = f"must be the training set that the run began with, of digest {run.data[:12]}"
        raise invalid("fit", "data", rule, f"digest {data.digest()[:12]}")
    if epochs <= len(run.history):
        raise invalid("fit", "epochs", f"must be more than the {len(run.history)} that the run has done", epochs)
    if run.config.batch_size > len(data.train_images):
        rule = f"must be at most the number of training images, {len(data.train_images)}"
        raise invalid("fit", "batch_size", rule, run.config.batch_size)
    return _epochs(run, data, epochs, on_batch)


def _epochs(run: Run, data: Data, epochs: int, on_batch: OnBatch | None) -> Iterator[Run]:
    while len(run.history) < epochs:
        run = _train_epoch(run, data, on_batch)
        yield run


def batches(run: Run, data: Data) -> Iterator[tuple[Array, Array]]:
    """The mini-batches of the next epoch of `run`."""
    size = run.config.batch_size
    random = np.random.default_rng((run.config.seed, 1 + len(run.history)))
    order = random.permutation(len(data.train_images))
    for first in range(0, len(order) - size + 1, size):
        chosen = order[first : first + size]
        images = shift_images(data.train_images[chosen], run.config.shift, random)
        yield jnp.asarray(images), jnp.asarray(data.train_labels[chosen])


def _train_epoch(run: Run, data: Data, on_batch: OnBatch | None) -> Run:
    config = run.config
    learning_rate = config.learning_rate / (1 + config.decay * len(run.history))
    copies = dict(run.copies)
    loss: dict[Gradients, float] = defaultdict(float)
    right: dict[Gradients, int] = defaultdict(int)
    seen = 0
    for images, labels in batches(run, data):
        seen += len(labels)
        for name, copy in copies.items():
            copies[name], batch_loss, batch_right = step(
                copy, images, labels, learning_rate, config.momentum, layers=LAYERS[config.model, name]
            )
            loss[name] += float(batch_loss)
            right[name] += int(batch_right)
            _check_finite(loss[name], run)
        if on_batch is not None:
            on_batch({name: (loss[name] / seen, right[name] / seen) for name in copies})
    metrics = {
        name: Metrics(loss[name] / seen, right[name] / seen, *evaluate(copy.params, data, LAYERS[config.model, name]))
        for name, copy in copies.items()
    }
    for metric in metrics.values():
        _check_finite(metric.test_loss, run)
    run = replace(run, copies=copies)
    return replace(run, history=(*run.history, Epoch(metrics, run.drift())))


def _check_finite(loss: float, run: Run) -> None:
    if not math.isfinite(loss):
        rule = "must be small enough for the loss to stay finite"
        found = f"{run.config.learning_rate}, which makes it {loss} in epoch {len(run.history) + 1}"
        raise FloatingPointError(describe("fit", "learning_rate", rule, found))


def evaluate(params: Params, data: Data, layers: Layers) -> tuple[float, float]:
    """Mean loss and accuracy on the test set."""
    loss, right, count = 0.0, 0, len(data.test_labels)
    for first in range(0, count, EVALUATION_BATCH):
        part = slice(first, first + EVALUATION_BATCH)
        batch = jnp.asarray(data.test_images[part]), jnp.asarray(data.test_labels[part])
        batch_loss, batch_right = score(params, *batch, layers=layers)
        loss += float(batch_loss)
        right += int(batch_right)
    return loss / count, right / count
