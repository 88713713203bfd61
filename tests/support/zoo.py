"""Five networks, written once, in the layers of five libraries.

An architecture is a function of a `layers` object and an input; each adapter makes the library's own layer at every
call, in the library's own way: Flax Linen and Haiku inside their transforms, Keras in its functional interface, nnx
and Equinox as modules that are built on a first pass and reused in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import lax

# ---- architectures --------------------------------------------------------------------------------------------------


def lenet(layers, x):
    for features in (4, 6):
        x = layers.max_pool(layers.relu(layers.conv(x, features, 3)), 2, 2)
    x = layers.relu(layers.dense(layers.flatten(x), 10))
    return layers.dense(x, 5)


def stem(layers, x):
    """Statistics and overlapping maxima of one tensor."""
    return layers.max_pool(layers.relu(layers.norm(layers.conv(x, 2, 3, bias=False))), 3, 2)


def resnet18(layers, x):
    """Stem, four stages of two basic blocks, projections where the shape changes, global mean."""
    x = stem(layers, x)
    for stage, features in enumerate((2, 3, 4, 5)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = layers.relu(layers.norm(layers.conv(x, features, 3, stride, bias=False)))
            y = layers.norm(layers.conv(y, features, 3, bias=False))
            if stride > 1:
                x = layers.norm(layers.conv(x, features, 1, stride, bias=False))
            x = layers.relu(x + y)
    return layers.dense(layers.mean(x), 5)


def mobilenet(layers, x):
    """Inverted residuals: 1x1 expansion, depthwise 3x3, 1x1 projection without activation."""
    x = layers.relu(layers.norm(layers.conv(x, 4, 3, 2, bias=False)))
    for features, stride in ((4, 1), (6, 2), (6, 1)):
        channels = layers.channels(x)
        y = layers.relu(layers.norm(layers.conv(x, 2 * channels, 1, bias=False)))
        y = layers.relu(layers.norm(layers.conv(y, 2 * channels, 3, stride, groups=2 * channels, bias=False)))
        y = layers.norm(layers.conv(y, features, 1, bias=False))
        x = x + y if stride == 1 and channels == features else y
    return layers.dense(layers.flatten(layers.avg_pool(x, 2, 2)), 5)


def unet(layers, x):
    """Two levels down by max pooling, two up by transposed convolution, skips by concatenation."""
    skips = []
    for features in (3, 4):
        x = layers.relu(layers.conv(x, features, 3))
        skips.append(x)
        x = layers.max_pool(x, 2, 2)
    x = layers.relu(layers.conv(x, 5, 3))
    for features, skip in ((4, skips[1]), (3, skips[0])):
        x = layers.concatenate([layers.conv_transpose(x, features, 2, 2), skip])
        x = layers.relu(layers.conv(x, features, 3))
    return layers.conv(x, 2, 1)


def video(layers, x):
    """A convolutional network on every frame, a recurrent one over the frames."""
    return layers.dense(layers.recurrent(x, 4), 3)


def frame(layers, x):
    return layers.flatten(layers.max_pool(layers.relu(layers.conv(x, 3, 3)), 2, 2))


# operations that a forward pass evaluates: convolutions, max pools, window sums, contractions, ReLUs
OPERATIONS = {
    lenet: {"conv": 2, "max_pool": 2, "dense": 2, "relu": 3},
    stem: {"conv": 1, "max_pool": 1, "relu": 1},
    resnet18: {"conv": 20, "max_pool": 1, "dense": 1, "relu": 17},
    mobilenet: {"conv": 10, "avg_pool": 1, "dense": 1, "relu": 7},
    unet: {"conv": 8, "max_pool": 2, "relu": 5},
    video: {"conv": 1, "max_pool": 1, "relu": 1},
}
ARCHITECTURES = tuple(OPERATIONS)
SHAPES = {
    lenet: (2, 8, 8, 1),
    stem: (2, 32, 32, 2),
    resnet18: (2, 32, 32, 2),
    mobilenet: (2, 16, 16, 2),
    unet: (2, 8, 8, 2),
    video: (2, 3, 6, 6, 1),
}


# ---- adapters -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """apply(params, x) -> (y, what training changes besides the parameters); `params` are shapes."""

    params: Any
    apply: Callable[[Any, jax.Array], tuple[jax.Array, Any]]


def zeros(state, like):
    """Values for a state of which only the shapes are known; statistics in the input's dtype."""
    return jax.tree.map(
        lambda s: jnp.zeros(s.shape, like.dtype if jnp.issubdtype(s.dtype, jnp.floating) else s.dtype), state
    )


class Last:
    """What is the same wherever channels are last and batches are there."""

    relu = staticmethod(jax.nn.relu)

    def mean(self, x):
        return x.mean(axis=(1, 2))

    def flatten(self, x):
        return x.reshape(x.shape[0], -1)

    def concatenate(self, xs):
        return jnp.concatenate(xs, axis=-1)

    def channels(self, x):
        return x.shape[-1]


class LinenLayers(Last):
    def conv(self, x, features, window, stride=1, groups=1, bias=True):
        return linen.Conv(features, (window, window), stride, feature_group_count=groups, use_bias=bias)(x)

    def conv_transpose(self, x, features, window, stride):
        return linen.ConvTranspose(features, (window, window), (stride, stride))(x)

    def dense(self, x, features):
        return linen.Dense(features)(x)

    def norm(self, x):
        return linen.BatchNorm(use_running_average=False)(x)

    def max_pool(self, x, window, stride):
        return linen.max_pool(x, (window, window), (stride, stride), "SAME")

    def avg_pool(self, x, window, stride):
        return linen.avg_pool(x, (window, window), (stride, stride))

    def recurrent(self, x, features):
        class Step(linen.Module):
            @linen.compact
            def __call__(self, carry, x):
                return linen.GRUCell(features)(carry, frame(LinenLayers(), x))

        scan = linen.scan(Step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        return scan()(jnp.zeros((x.shape[0], features), x.dtype), x)[0]


def in_linen(architecture, x):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return architecture(LinenLayers(), x)

    variables = jax.eval_shape(Net().init, jax.random.key(0), x)
    state = {k: v for k, v in variables.items() if k != "params"}

    def apply(params, x):
        return Net().apply({"params": params, **zeros(state, x)}, x, mutable=["batch_stats"])

    return Model(variables["params"], apply)


class HaikuLayers(Last):
    def conv(self, x, features, window, stride=1, groups=1, bias=True):
        return hk.Conv2D(features, window, stride, feature_group_count=groups, with_bias=bias)(x)

    def conv_transpose(self, x, features, window, stride):
        return hk.Conv2DTranspose(features, window, stride)(x)

    def dense(self, x, features):
        return hk.Linear(features)(x)

    def norm(self, x):
        return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training=True)

    def max_pool(self, x, window, stride):
        return hk.max_pool(x, (1, window, window, 1), (1, stride, stride, 1), "SAME")

    def avg_pool(self, x, window, stride):
        return hk.avg_pool(x, (1, window, window, 1), (1, stride, stride, 1), "VALID")

    def recurrent(self, x, features):
        class Step(hk.RNNCore):
            def __init__(self):
                super().__init__()
                self.cell, self.net = hk.GRU(features), hk.Module(name="frame")

            def __call__(self, x, state):
                return self.cell(frame(HaikuLayers(), x), state)

            def initial_state(self, batch_size):
                return self.cell.initial_state(batch_size)

        step = Step()
        frames = jnp.moveaxis(x, 1, 0)
        return hk.dynamic_unroll(step, frames, step.initial_state(x.shape[0]).astype(x.dtype))[1]


def in_haiku(architecture, x):
    net = hk.transform_with_state(lambda x: architecture(HaikuLayers(), x))
    params, state = jax.eval_shape(net.init, jax.random.key(0), x)
    return Model(params, lambda params, x: net.apply(params, zeros(state, x), None, x))


class Built(Last):
    """Modules that are made at the first pass, and taken in the same order at later ones."""

    def __init__(self, modules, building):
        self.modules, self.building, self.next = modules, building, 0

    def take(self, make):
        if self.building:
            self.modules.append(make())
        self.next += 1
        return self.modules[self.next - 1]


class NnxLayers(Built):
    rngs = property(lambda self: nnx.Rngs(len(self.modules)))

    def conv(self, x, features, window, stride=1, groups=1, bias=True):
        options = {"feature_group_count": groups, "use_bias": bias}
        return self.take(lambda: nnx.Conv(x.shape[-1], features, (window, window), stride, rngs=self.rngs, **options))(
            x
        )

    def conv_transpose(self, x, features, window, stride):
        return self.take(
            lambda: nnx.ConvTranspose(x.shape[-1], features, (window, window), (stride, stride), rngs=self.rngs)
        )(x)

    def dense(self, x, features):
        return self.take(lambda: nnx.Linear(x.shape[-1], features, rngs=self.rngs))(x)

    def norm(self, x):
        return self.take(lambda: nnx.BatchNorm(x.shape[-1], rngs=self.rngs))(x)

    max_pool, avg_pool = LinenLayers.max_pool, LinenLayers.avg_pool

    def recurrent(self, x, features):
        if self.building:
            one = frame(self, x[:, 0])
            self.modules.append(nnx.GRUCell(one.shape[-1], features, rngs=self.rngs))
        net, cell = self.modules[:1], self.modules[1]
        self.next = 2

        def step(carry, x):
            return cell(carry, frame(NnxLayers(net, building=False), x))

        carry = jnp.zeros((x.shape[0], features), x.dtype)
        return lax.scan(step, carry, jnp.moveaxis(x, 1, 0))[0]


class NnxNet(nnx.Module):
    def __init__(self, architecture, x):
        modules = []
        architecture(NnxLayers(modules, building=True), x)
        self.layers, self.architecture = nnx.List(modules), architecture

    def __call__(self, x):
        return self.architecture(NnxLayers(self.layers, building=False), x)


def in_nnx(architecture, x):
    graph, params, state = nnx.split(
        nnx.eval_shape(lambda: NnxNet(architecture, x.astype(jnp.float32))), nnx.Param, ...
    )

    def apply(params, x):
        net = nnx.merge(graph, params, zeros(state, x), copy=True)
        return net(x), nnx.state(net, nnx.BatchStat)

    return Model(params, apply)


class EquinoxLayers(Built):
    """Channels first, no batch: the model is mapped over it."""

    def __init__(self, modules, building, state):
        super().__init__(modules, building)
        self.state = state

    key = property(lambda self: jax.random.key(len(self.modules)))

    def conv(self, x, features, window, stride=1, groups=1, bias=True):
        pads = "SAME"
        return self.take(
            lambda: eqx.nn.Conv2d(
                x.shape[0], features, window, stride, pads, groups=groups, use_bias=bias, key=self.key
            )
        )(x)

    def conv_transpose(self, x, features, window, stride):
        return self.take(lambda: eqx.nn.ConvTranspose2d(x.shape[0], features, window, stride, key=self.key))(x)

    def dense(self, x, features):
        return self.take(lambda: eqx.nn.Linear(x.shape[0], features, key=self.key))(x)

    def norm(self, x):
        norm = self.take(lambda: eqx.nn.BatchNorm(x.shape[0], axis_name="batch", mode="batch"))
        if self.building:
            return x
        y, self.state = norm(x, self.state)
        return y

    def max_pool(self, x, window, stride):
        return self.take(lambda: eqx.nn.MaxPool2d(window, stride, padding=(window - 1) // 2))(x)

    def avg_pool(self, x, window, stride):
        return self.take(lambda: eqx.nn.AvgPool2d(window, stride))(x)

    def mean(self, x):
        return x.mean(axis=(1, 2))

    def flatten(self, x):
        return x.reshape(-1)

    def concatenate(self, xs):
        return jnp.concatenate(xs, axis=0)

    def channels(self, x):
        return x.shape[0]

    def recurrent(self, x, features):
        if self.building:
            one = frame(self, x[0])
            self.modules.append(eqx.nn.GRUCell(one.shape[0], features, key=self.key))
        net, cell = self.modules[:-2] if len(self.modules) > 3 else self.modules[:2], self.modules[2]
        self.next = 3

        def step(carry, x):
            return cell(frame(EquinoxLayers(net, False, self.state), x), carry), None

        return lax.scan(step, jnp.zeros((features,), x.dtype), x)[0]


def in_equinox(architecture, x):
    first = jnp.moveaxis(x, -1, -3)[0]

    def build():
        modules = []
        architecture(EquinoxLayers(modules, True, None), first)
        return modules

    modules, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build))
    params, static = eqx.partition(modules, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def one(params, state, x):
        layers = EquinoxLayers(eqx.combine(params, static), False, state)
        return architecture(layers, x), layers.state

    def apply(params, x):
        mapped = jax.vmap(one, in_axes=(None, None, 0), out_axes=(0, None), axis_name="batch")
        return mapped(params, zeros(state, x), jnp.moveaxis(x, -1, -3))

    return Model(params, apply)


class KerasLayers:
    """Symbolic: a layer is made and called on Keras tensors; `dtype` of all."""

    def __init__(self, dtype):
        import keras

        self.keras, self.of = keras, keras.layers
        self.options, self.zero = {"dtype": dtype}, {"dtype": dtype, "kernel_initializer": "zeros"}

    def conv(self, x, features, window, stride=1, groups=1, bias=True):
        if groups == 1:
            return self.of.Conv2D(features, window, stride, "same", use_bias=bias, **self.zero)(x)
        options = {**self.options, "depthwise_initializer": "zeros"}
        return self.of.DepthwiseConv2D(window, stride, "same", use_bias=bias, **options)(x)

    def conv_transpose(self, x, features, window, stride):
        return self.of.Conv2DTranspose(features, window, stride, "same", **self.zero)(x)

    def dense(self, x, features):
        return self.of.Dense(features, **self.zero)(x)

    def norm(self, x):
        return self.of.BatchNormalization(**self.options)(x)

    def relu(self, x):
        return self.of.Activation("relu", **self.options)(x)

    def max_pool(self, x, window, stride):
        return self.of.MaxPooling2D(window, stride, "same", **self.options)(x)

    def avg_pool(self, x, window, stride):
        return self.of.AveragePooling2D(window, stride, **self.options)(x)

    def mean(self, x):
        return self.of.GlobalAveragePooling2D(**self.options)(x)

    def flatten(self, x):
        return self.of.Flatten(**self.options)(x)

    def concatenate(self, xs):
        return self.of.Concatenate(**self.options)(xs)

    def channels(self, x):
        return x.shape[-1]

    def recurrent(self, x, features):
        image = self.keras.Input(x.shape[2:], **self.options)
        net = self.keras.Model(image, frame(self, image))
        cell = self.of.GRU(features, recurrent_initializer="zeros", **self.zero)
        return cell(self.of.TimeDistributed(net, **self.options)(x))


def in_keras(architecture, x):
    import keras

    keras.utils.set_random_seed(0)
    given = keras.Input(x.shape[1:], dtype=x.dtype.name)
    net = keras.Model(given, architecture(KerasLayers(x.dtype.name), given))
    other = [v.value for v in net.non_trainable_variables]

    def apply(params, x):
        return net.stateless_call(params, other, x, training=True)

    return Model([jax.ShapeDtypeStruct(v.shape, v.dtype) for v in net.trainable_variables], apply)


LIBRARIES = {"linen": in_linen, "nnx": in_nnx, "equinox": in_equinox, "haiku": in_haiku, "keras": in_keras}
