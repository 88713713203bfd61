"""A convolutional network in Flax, as its author wrote it: nothing here knows of fnconv."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class Net(nn.Module):
    """Two convolutions with pooling, two dense layers: 28x28 images to ten classes."""

    @nn.compact
    def __call__(self, images):
        x = images
        for features in (6, 16):
            x = nn.Conv(features, (5, 5))(x)
            x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(84)(x))
        return nn.Dense(10)(x)


net = Net()


def loss(params, images, labels):
    """Mean cross-entropy of a batch."""
    logits = net.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def args():
    """Parameters as they are initialised, and a batch of noise."""
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (32, 28, 28, 1))
    params = net.init(keys[1], images)
    return params, images, jnp.arange(32) % 10
