"""Dense blocks with squeeze and excitation, in Flax Linen: concatenations, batch statistics, gates."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class SqueezeExcite(nn.Module):
    @nn.compact
    def __call__(self, x):
        gate = x.mean(axis=(1, 2))
        gate = nn.relu(nn.Dense(2)(gate))
        gate = nn.sigmoid(nn.Dense(x.shape[-1])(gate))
        return x * gate[:, None, None, :]


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        for _ in range(2):
            for _ in range(2):
                y = nn.relu(nn.BatchNorm(use_running_average=False)(x))
                x = jnp.concatenate([x, nn.Conv(3, (3, 3), use_bias=False)(y)], axis=-1)
            x = SqueezeExcite()(x)
            x = nn.avg_pool(nn.relu(nn.Conv(5, (1, 1))(x)), (2, 2), (2, 2))
        return nn.Dense(4)(x.mean(axis=(1, 2)))


net = DenseNet()


def loss(params, statistics, images, labels):
    logits, changed = net.apply({"params": params, "batch_stats": statistics}, images, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed


def args():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = jax.jit(net.init)(jax.random.key(1), images)
    return variables["params"], variables["batch_stats"], images, jnp.arange(4)


options = {"has_aux": True}
replaced = {"conv": 7, "norm": 4, "relu": 8, "dense": 5, "sigmoid": 2, "gate": 2, "avg_pool": 2, "logsumexp": 1}
