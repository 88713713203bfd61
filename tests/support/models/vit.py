"""A vision transformer in Flax nnx: patches by a strided convolution, attention, dropout; the module is an argument."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Block(nnx.Module):
    def __init__(self, features, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(features, rngs=rngs), nnx.LayerNorm(features, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, features, decode=False, rngs=rngs)
        self.up, self.down = (
            nnx.Linear(features, 2 * features, rngs=rngs),
            nnx.Linear(2 * features, features, rngs=rngs),
        )
        self.dropout = nnx.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.dropout(self.down(nnx.gelu(self.up(self.norm2(x)))))


class ViT(nnx.Module):
    def __init__(self, features, rngs):
        self.patches = nnx.Conv(3, features, (4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
        self.position = nnx.Param(jax.random.normal(rngs.params(), (1, 5, features)))
        self.token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, features)))
        self.blocks = nnx.List([Block(features, rngs) for _ in range(2)])
        self.head = nnx.Linear(features, 3, rngs=rngs)

    def __call__(self, images):
        x = self.patches(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1])), x], axis=1)
        x = x + self.position[...]
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def loss(model, images, labels):
    return optax.softmax_cross_entropy(model(images), jax.nn.one_hot(labels, 3)).mean()


def args():
    return ViT(8, nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (3, 8, 8, 3)), jnp.arange(3)


options = {}
replaced = {"conv": 1, "norm": 4, "dense": 17, "softmax": 2, "tanh": 2, "gelu": 2, "log_softmax": 1}
