"""A convolution, a ReLU and a max pooling of integers, small enough that every sum is exact."""

import jax
import jax.numpy as jnp
import numpy as np
from agreement import compiled  # noqa: F401
from jax import lax

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.integers(-3, 4, (2, 6, 6, 2)), jnp.float32)
W = jnp.asarray(RNG.integers(-2, 3, (3, 3, 2, 2)), jnp.float32)
COTANGENT = np.resize(np.arange(-2, 3), 1000)
ONE = {"conv": 1, "relu": 1, "max_pool": 1}  # what `net` evaluates


def conv(w, x):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pool(x):
    return lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def block(w, x):
    return pool(jax.nn.relu(conv(w, x)))


def weigh(y):
    return (y * jnp.asarray(np.resize(COTANGENT, y.shape), y.dtype)).sum()


def net(w, x):
    return weigh(block(w, x))


def per_example(w, x):
    return net(w, x[None])
