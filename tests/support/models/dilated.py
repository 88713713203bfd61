"""Dilated residual blocks in plain JAX: scan over the weights, each step checkpointed, group normalisation."""

import jax
import jax.numpy as jnp
from jax import lax


def conv(x, w, dilation):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", rhs_dilation=(dilation, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def norm(x, scale):
    groups = x.reshape(*x.shape[:-1], 2, -1)
    centred = groups - groups.mean(axis=(1, 2, 4), keepdims=True)
    return (centred * lax.rsqrt((centred**2).mean(axis=(1, 2, 4), keepdims=True) + 1e-5)).reshape(x.shape) * scale


@jax.checkpoint
def block(x, weights):
    y = jax.nn.relu(norm(conv(x, weights["first"], 1), weights["scale"]))
    return x + jax.nn.silu(conv(y, weights["second"], 2)), x.mean()


@jax.jit
def loss(params, x):
    """One score per image: a vector."""
    y, means = lax.scan(block, conv(x, params["stem"], 1), params["blocks"])
    return (y**2).mean(axis=(1, 2, 3)) + means.sum()


def args():
    keys = jax.random.split(jax.random.key(0), 4)
    blocks = {
        "first": jax.random.normal(keys[0], (3, 3, 3, 4, 4)) / 6,
        "second": jax.random.normal(keys[1], (3, 3, 3, 4, 4)) / 6,
        "scale": jnp.ones((3, 4)),
    }
    stem = jax.random.normal(keys[2], (3, 3, 2, 4)) / 4
    return {"stem": stem, "blocks": blocks}, jax.random.normal(keys[3], (2, 8, 8, 2))


options = {"argnums": (0, 1)}
replaced = {"conv": 3, "norm": 1, "gate": 1, "relu": 1, "silu": 1}
left = set()
