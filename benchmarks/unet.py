"""A model of a user's, in plain JAX: U-Net.  `accelerators --model benchmarks/unet.py:loss` counts its gradient.

Ronneberger, Fischer and Brox, 2015, with padded convolutions: a contracting path of three levels, an expanding path
that takes each level's features up again, one label for every pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.networks import fan_in

WIDTHS, CLASSES, IMAGES = (32, 64, 128), 4, (4, 96, 96, 3)
NHWC = ("NHWC", "HWIO", "NHWC")


def loss(weights: Sequence[jax.Array], images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy over the pixels; labels (N, H, W)."""
    w, kept, x = iter(weights), [], images
    for level in range(len(WIDTHS)):
        if level:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = _twice(x, w)
        kept.append(x)
    for beside in reversed(kept[:-1]):
        x = lax.conv_transpose(x, next(w), (2, 2), "VALID", dimension_numbers=NHWC)
        x = _twice(jnp.concatenate([beside, x], axis=-1), w)
    logits = lax.conv_general_dilated(x, next(w), (1, 1), "VALID", dimension_numbers=NHWC)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1).mean()


def _twice(x: jax.Array, w: Iterator[jax.Array]) -> jax.Array:
    for _ in range(2):
        x = jax.nn.relu(lax.conv_general_dilated(x, next(w), (1, 1), "SAME", dimension_numbers=NHWC))
    return x


def args() -> tuple[Any, ...]:
    """Weights, images, labels."""
    down = [(c, f) for before, f in zip((IMAGES[-1], *WIDTHS), WIDTHS, strict=False) for c in (before, f)]
    shapes = [(3, 3, c, f) for c, f in down]
    for f in reversed(WIDTHS[:-1]):
        shapes += [(2, 2, 2 * f, f), (3, 3, 2 * f, f), (3, 3, f, f)]
    shapes.append((1, 1, WIDTHS[0], CLASSES))
    random = np.random.default_rng(0)
    weights = [random.standard_normal(s, np.float32) * np.float32((2 / fan_in(s)) ** 0.5) for s in shapes]
    return weights, random.standard_normal(IMAGES, np.float32), np.zeros(IMAGES[:-1], np.int32)
