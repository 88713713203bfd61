"""A generator with transposed convolutions and the discriminator that judges it, in Flax Linen."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z):
        x = nn.Dense(2 * 2 * 6)(z).reshape(-1, 2, 2, 6)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.leaky_relu(nn.ConvTranspose(4, (4, 4), strides=(2, 2))(x), 0.2)
        return nn.tanh(nn.ConvTranspose(1, (3, 3), strides=(2, 2), padding="SAME")(x))


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, x):
        for features in (3, 5):
            x = nn.leaky_relu(nn.Conv(features, (4, 4), strides=(2, 2), padding=1)(x))
        return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


generator, discriminator = Generator(), Discriminator()


def loss(params, z, real):
    """Both players' losses: a tuple of two numbers."""
    scores = discriminator.apply(params["d"], generator.apply(params["g"], z))
    real_scores = discriminator.apply(params["d"], real)
    fool = optax.sigmoid_binary_cross_entropy(scores, jnp.ones_like(scores)).mean()
    tell = optax.sigmoid_binary_cross_entropy(real_scores, jnp.ones_like(scores)).mean()
    return fool, tell + optax.sigmoid_binary_cross_entropy(scores, jnp.zeros_like(scores)).mean()


def args():
    z, real = jax.random.normal(jax.random.key(0), (3, 5)), jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    g = jax.jit(generator.init)(jax.random.key(2), z)
    return {"g": g, "d": jax.jit(discriminator.init)(jax.random.key(3), real)}, z, real


options = {"argnums": (0, 1)}
replaced = {"conv": 6, "dense": 3, "gate": 1, "relu": 1, "leaky_relu": 5, "tanh": 1, "log_sigmoid": 6}
left = set()
