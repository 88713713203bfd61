"""A sentence classifier in Flax Linen: an embedding of integers, windows of three sizes, the maximum over time."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn


class TextCNN(nn.Module):
    @nn.compact
    def __call__(self, tokens, train):
        x = nn.Embed(20, 6)(tokens)
        x = jnp.concatenate([nn.relu(nn.Conv(4, (size,))(x)).max(axis=1) for size in (2, 3, 4)], axis=-1)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.log_softmax(nn.Dense(3)(x))


net = TextCNN()


def loss(params, tokens, labels, key):
    scores = net.apply(params, tokens, train=True, rngs={"dropout": key})
    return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()


def args():
    tokens = jax.random.randint(jax.random.key(0), (4, 9), 0, 20)
    return (
        jax.jit(partial(net.init, train=False))(jax.random.key(1), tokens),
        tokens,
        jnp.arange(4) % 3,
        jax.random.key(2),
    )


options = {"argnums": (0, 1)}
replaced = {"conv": 3, "relu": 3, "dense": 1, "log_softmax": 1}
