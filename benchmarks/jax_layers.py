"""The layers of the networks in JAX: with automatic gradients, and with fnconv's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fnconv
from benchmarks.networks import fan_in

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
EPSILON = 1e-5


class Parameters:
    """Given ones in order, or, where none are given, the shapes of those that are asked for."""

    def __init__(self, given: Any = None) -> None:
        self.given, self.drawn = None if given is None else iter(given), [] if given is None else None
        self.random = np.random.default_rng(0)

    def take(self, *shape: int, fill: float | None = None) -> Any:
        if self.given is not None:
            return next(self.given)
        if fill is not None:
            value = np.full(shape, fill, np.float32)
        else:  # variance 2 / fan-in, He, Zhang, Ren and Sun, 2015
            value = self.random.standard_normal(shape, dtype=np.float32) * np.float32((2 / fan_in(shape)) ** 0.5)
        assert self.drawn is not None
        self.drawn.append(value)
        return jnp.asarray(value)


class JaxLayers:
    """What no gradient of ours enters: the same for both."""

    def __init__(self, given: Any = None) -> None:
        self.parameters = Parameters(given)
        self.take = self.parameters.take

    def _kernel(self, x: jax.Array, features: int, window: int, groups: int = 1) -> jax.Array:
        kernel: jax.Array = self.take(window, window, x.shape[-1] // groups, features)
        return kernel

    def batch_norm(self, x: jax.Array) -> jax.Array:
        mean = x.mean((0, 1, 2))
        variance = jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)
        return self._scale_and_shift((x - mean) * lax.rsqrt(variance + EPSILON))

    def layer_norm(self, x: jax.Array) -> jax.Array:
        mean = x.mean(-1, keepdims=True)
        variance = jnp.maximum((x * x).mean(-1, keepdims=True) - mean * mean, 0)
        return self._scale_and_shift((x - mean) * lax.rsqrt(variance + EPSILON))

    def _scale_and_shift(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        return x * self.take(c, fill=1.0) + self.take(c, fill=0.0)

    def scaled(self, x: jax.Array) -> jax.Array:
        return x * self.take(x.shape[-1], fill=0.5)

    def relu6(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu6(x)

    def gelu(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=True)

    def mean(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2))

    def channels(self, x: jax.Array) -> int:
        return x.shape[-1]


def half(window: int, padding: int | None) -> int:
    """The padding, by default that of an odd window."""
    return (window - 1) // 2 if padding is None else padding


class Autodiff(JaxLayers):
    """lax and jax.nn, differentiated by JAX."""

    def conv(
        self,
        x: jax.Array,
        features: int,
        window: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> jax.Array:
        w, pads = self._kernel(x, features, window, groups), (half(window, padding),) * 2
        y = lax.conv_general_dilated(
            x, w, (stride, stride), (pads, pads), dimension_numbers=DIMENSIONS, feature_group_count=groups
        )
        return y + self.take(features, fill=0.0) if bias else y

    def block(
        self, x: jax.Array, features: int, window: int, *, padding: int | None = None, pool: int | None = None
    ) -> jax.Array:
        y = jax.nn.relu(self.conv(x, features, window, padding=padding, bias=True))
        return y if pool is None else self.max_pool(y, pool, pool, 0)

    def max_pool(self, x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
        pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), pads)

    def relu(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)

    def flatten(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)

    def dense(self, x: jax.Array, features: int) -> jax.Array:
        return x @ self.take(x.shape[-1], features) + self.take(features, fill=0.0)

    def loss(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1).mean()


class Manual(JaxLayers):
    """fnconv's operations, under "auto"."""

    def conv(
        self,
        x: jax.Array,
        features: int,
        window: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> jax.Array:
        w = self._kernel(x, features, window, groups)
        b = self.take(features, fill=0.0) if bias else None
        return fnconv.conv(x, w, b, strides=stride, padding=half(window, padding), groups=groups)

    def block(
        self, x: jax.Array, features: int, window: int, *, padding: int | None = None, pool: int | None = None
    ) -> jax.Array:
        w, b = self._kernel(x, features, window), self.take(features, fill=0.0)
        return fnconv.conv_block(x, w, b, padding=half(window, padding), pool=pool)

    def max_pool(self, x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
        return fnconv.max_pool(x, (window, window), strides=stride, padding=padding)

    def relu(self, x: jax.Array) -> jax.Array:
        return fnconv.relu(x)

    def flatten(self, x: jax.Array) -> jax.Array:
        return fnconv.flatten(x)

    def dense(self, x: jax.Array, features: int) -> jax.Array:
        return fnconv.dense(x, self.take(x.shape[-1], features), self.take(features, fill=0.0))

    def loss(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return fnconv.softmax_cross_entropy(logits, labels).mean()
