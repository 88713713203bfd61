"""LeNet-5 as a pure function of a dictionary of parameters, with hand-derived or with automatic gradients.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of the IEEE
86 (1998). As in later accounts of the network, C3 is connected to every map of S2, pooling has no coefficients of its
own, and softmax cross-entropy takes the place of the radial basis functions.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fnconv.ops import functional as ops

Params = dict[str, Array]
Model = Literal["classic", "modern"]
Gradients = Literal["manual", "autodiff"]

IMAGE_SHAPE = (28, 28)
CLASSES = 10
SHAPES = {
    "c1.w": (5, 5, 1, 6),
    "c1.b": (6,),
    "c3.w": (5, 5, 6, 16),
    "c3.b": (16,),
    "c5.w": (5, 5, 16, 120),
    "c5.b": (120,),
    "f6.w": (120, 84),
    "f6.b": (84,),
    "output.w": (84, CLASSES),
    "output.b": (CLASSES,),
}


class Layers(NamedTuple):
    """What LeNet-5 is built from; the gradient of the network is the composition of the gradients of these."""

    conv: Callable[[Array, Array, Array, int], Array]
    pool: Callable[[Array], Array]
    activation: Callable[[Array], Array]
    flatten: Callable[[Array], Array]
    dense: Callable[[Array, Array, Array], Array]
    loss: Callable[[Array, Array], Array]


def logits(layers: Layers, params: Params, images: Array) -> Array:
    """The network: images of shape (N, 28, 28, 1) to logits of shape (N, 10)."""
    conv, pool, activation, flatten, dense, _ = layers
    c1 = activation(conv(images, params["c1.w"], params["c1.b"], 2))  # (N, 28, 28, 6)
    s2 = pool(c1)  # (N, 14, 14, 6)
    c3 = activation(conv(s2, params["c3.w"], params["c3.b"], 0))  # (N, 10, 10, 16)
    s4 = pool(c3)  # (N, 5, 5, 16)
    c5 = activation(conv(s4, params["c5.w"], params["c5.b"], 0))  # (N, 1, 1, 120)
    f6 = activation(dense(flatten(c5), params["f6.w"], params["f6.b"]))  # (N, 84)
    return dense(f6, params["output.w"], params["output.b"])


def init(model: Model, seed: int) -> Params:
    """Parameters drawn for `seed`: zero biases, uniform weights of variance 1 / fan-in (tanh) or 2 / fan-in (ReLU).

    The variances are those of LeCun, Bottou, Orr and Müller, "Efficient BackProp" (1998), and of He, Zhang, Ren and
    Sun, "Delving deep into rectifiers" (2015).
    """
    variance = {"classic": 1.0, "modern": 2.0}[model]
    random = np.random.default_rng((seed, 0))
    params = {}
    for name, shape in SHAPES.items():
        bound = 0.0 if len(shape) == 1 else (3 * variance / math.prod(shape[:-1])) ** 0.5
        params[name] = jnp.asarray(random.uniform(-bound, bound, shape), jnp.float32)
    return params


def _manual_conv(x: Array, w: Array, b: Array, padding: int) -> Array:
    return ops.conv(x, w, b, padding=padding)


def _autodiff_conv(x: Array, w: Array, b: Array, padding: int) -> Array:
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")) + b


def _reduce(start: float, computation: Callable[..., Array], x: Array) -> Array:
    result: Array = lax.reduce_window(x, start, computation, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return result


_MANUAL = Layers(
    conv=_manual_conv,
    pool=partial(ops.avg_pool, window_shape=(2, 2)),
    activation=ops.tanh,
    flatten=ops.flatten,
    dense=ops.dense,
    loss=ops.softmax_cross_entropy,
)
_AUTODIFF = Layers(
    conv=_autodiff_conv,
    pool=lambda x: _reduce(0.0, lax.add, x) / 4,
    activation=jnp.tanh,
    flatten=lambda x: x.reshape(x.shape[0], -1),
    dense=lambda x, w, b: x @ w + b,
    loss=lambda x, labels: -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], axis=-1)[:, 0],
)
LAYERS: dict[tuple[Model, Gradients], Layers] = {
    ("classic", "manual"): _MANUAL,
    ("modern", "manual"): _MANUAL._replace(pool=partial(ops.max_pool, window_shape=(2, 2)), activation=ops.relu),
    ("classic", "autodiff"): _AUTODIFF,
    ("modern", "autodiff"): _AUTODIFF._replace(pool=partial(_reduce, -jnp.inf, lax.max), activation=jax.nn.relu),
}
