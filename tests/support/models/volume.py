"""A network on volumes in Haiku: three dimensions, depthwise and pointwise convolutions, half precision."""

import haiku as hk
import jax
import jax.numpy as jnp


def forward(x):
    x = jax.nn.relu(hk.Conv3D(4, 3, stride=2)(x))
    x = hk.max_pool(x, (1, 2, 2, 2, 1), (1, 1, 1, 1, 1), "SAME")
    x = hk.Conv3D(8, 3, feature_group_count=4, padding="VALID")(x)
    x = jax.nn.relu(hk.Conv3D(4, 1)(x))
    return hk.Linear(2)(hk.avg_pool(x, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), "VALID").mean(axis=(1, 2, 3)))


net = hk.without_apply_rng(hk.transform(forward))


def loss(params, x):
    """In float16; the parameters are float32."""
    half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    return (net.apply(half, x.astype(jnp.float16)) ** 2).mean()


def args():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 8, 2))
    return jax.jit(net.init)(jax.random.key(1), x), x


options = {"argnums": (0, 1)}
replaced = {"conv": 3, "relu": 2, "max_pool": 1, "avg_pool": 1, "dense": 1}
