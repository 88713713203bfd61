"""fnconv.compat.keras against keras.ops on the JAX backend."""

import os
import tempfile

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp())

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat_helpers import assert_hand_derived, assert_identical, both, distinct, integers, parameters
from extras import needs

needs("oracles", "keras")

import keras

if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

from fnconv.compat import keras as compat

NAMES = ("conv", "depthwise_conv", "conv_transpose", "max_pool", "average_pool")


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_keras_own(name):
    assert parameters(getattr(compat, name)) == parameters(getattr(keras.ops, name))


CONVOLUTIONS = {
    "defaults": ("conv", (2, 5, 4, 3), (2, 3, 3, 4), {}),
    "strides, same": ("conv", (2, 7, 6, 3), (3, 2, 3, 2), {"strides": (2, 3), "padding": "same"}),
    "groups, channels first": (
        "conv",
        (2, 4, 6, 5),
        (3, 2, 2, 6),
        {"padding": "SAME", "data_format": "channels_first", "dilation_rate": (1, 2)},
    ),
    "one dimension": ("conv", (2, 8, 2), (3, 2, 3), {"dilation_rate": 2}),
    "three dimensions": ("conv", (1, 4, 3, 5, 2), (2, 2, 3, 2, 2), {"strides": 2, "padding": "same"}),
    "depthwise": ("depthwise_conv", (2, 6, 5, 3), (3, 2, 3, 2), {"strides": 2, "padding": "same"}),
    "depthwise, channels first": (
        "depthwise_conv",
        (2, 3, 7),
        (2, 3, 1),
        {"data_format": "Channels_First", "dilation_rate": (3,)},
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_keras(case):
    """Value, gradients, second derivatives, bit for bit on integers."""
    name, inputs, kernel, options = CONVOLUTIONS[case]
    operands = integers(0, inputs), integers(1, kernel)
    got, want = both(getattr(compat, name), getattr(keras.ops, name), operands, **options)
    assert_identical(got, want)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("window", "stride", "dilation"), [(1, 2, 1), (2, 2, 1), (3, 2, 1), (3, 1, 1), (2, 3, 1), (4, 3, 2), (5, 2, 1)]
)
def test_conv_transpose_equals_keras(window, stride, dilation, padding):
    """Every output_padding of a geometry, None included, in both data formats."""
    x, w = integers(0, (2, 4, 3)), integers(1, (window, 2, 3))
    extras = [None, *range(stride)]

    def calls(f):
        def every(x, w):
            options = {"strides": stride, "padding": padding, "dilation_rate": dilation}
            last = [f(x, w, output_padding=e, data_format="channels_last", **options) for e in extras]
            first = f(x.swapaxes(1, 2), w, output_padding=(stride - 1,), data_format="channels_first", **options)
            return [*last, first]

        return every

    got, want = jax.jit(lambda x, w: (calls(compat.conv_transpose)(x, w), calls(keras.ops.conv_transpose)(x, w)))(x, w)
    assert_identical(got, want)


@pytest.mark.parametrize("output_padding", [None, (1, 0)])
def test_conv_transpose_derivatives_equal_keras(output_padding):
    operands = integers(0, (2, 3, 4, 3)), integers(1, (3, 2, 2, 3))
    options = {"strides": (2, 1), "padding": "same", "output_padding": output_padding}
    assert_identical(*both(compat.conv_transpose, keras.ops.conv_transpose, operands, **options))


POOLS = [
    ((2, 6, 4, 3), (2, 4), {"strides": (2, 4)}),
    ((2, 7, 2), 4, {"strides": 2, "padding": "same"}),
    ((2, 2, 6, 5), 2, {"strides": 1, "padding": "same", "data_format": "channels_first"}),
    ((1, 3, 4, 2, 2), (1, 2, 2), {"strides": 1}),
]


@pytest.mark.parametrize("name", ["max_pool", "average_pool"])
@pytest.mark.parametrize(("shape", "window", "options"), POOLS)
def test_pooling_equals_keras(name, shape, window, options):
    """Value and gradient; multiples of 48: means over 1, 2, 3, 4, 6 and 8 cells are integers."""
    x = 48 * distinct(0, shape)
    got, want = both(getattr(compat, name), getattr(keras.ops, name), (x,), window, nonlinear=True, order=1, **options)
    assert_identical(got, want)


@pytest.mark.parametrize("dtype", ["bfloat16", "int32"])
def test_dtypes_are_keras_own(dtype):
    x = jnp.asarray(4 * integers(0, (2, 6, 3)), dtype)
    for name in ("max_pool", "average_pool"):
        assert_identical(*(getattr(f, name)(x, 2, 2, "same") for f in (compat, keras.ops)))
    w = jnp.asarray(integers(1, (2, 3, 4)), "bfloat16")
    assert_identical(compat.conv(x, w), keras.ops.conv(x, w))


def test_default_strides_are_the_window_as_documented():
    x = distinct(0, (1, 4, 6, 1))
    for name in ("max_pool", "average_pool"):
        f = getattr(compat, name)
        assert_identical(f(x, (2, 3)), f(x, (2, 3), strides=(2, 3)))


def test_data_format_none_is_keras_setting():
    x = distinct(0, (1, 2, 4, 6))
    before = keras.config.image_data_format()
    try:
        for setting in ("channels_last", "channels_first"):
            keras.config.set_image_data_format(setting)
            assert_identical(compat.max_pool(x, 2, 2), keras.ops.max_pool(x, 2, 2))
    finally:
        keras.config.set_image_data_format(before)


def test_variables_are_taken_as_arrays():
    kernel = keras.Variable(integers(1, (2, 3, 4)))
    x = integers(0, (2, 5, 3))
    assert_identical(compat.conv(x, kernel), keras.ops.conv(x, kernel))


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_and_boolean_tensors_are_declined_by_name(name):
    symbolic = keras.Input((6, 3))
    second = 2 if "pool" in name else np.ones((2, 3, 3), np.float32)
    with pytest.raises(NotImplementedError, match=f"{name}: inputs must not be symbolic"):
        getattr(compat, name)(symbolic, second)
    with pytest.raises(NotImplementedError, match=f"{name}: inputs must have dtype .* got bool"):
        getattr(compat, name)(np.ones((1, 6, 3), np.bool_), second)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_is_left_to_autodiff(name):
    x, w = distinct(0, (1, 6, 3)), integers(1, (2, 3, 3))
    f = getattr(compat, name)
    assert_hand_derived(*((lambda x: f(x, 2, 2), x) if "pool" in name else (f, x, w)))


@pytest.mark.parametrize(
    ("name", "arguments", "options", "argument"),
    [
        ("conv", ((1, 5, 3), (2, 2, 4)), {}, "kernel"),
        ("conv", ((1, 2, 3), (4, 3, 4)), {}, "inputs"),
        ("conv", ((1, 5, 3), (2, 3, 4)), {"data_format": "NHWC"}, "data_format"),
        ("conv", ((1, 5, 3), (2, 3, 4)), {"padding": "full"}, "padding"),
        ("depthwise_conv", ((1, 5, 3), (2, 2, 4)), {}, "kernel"),
        ("conv_transpose", ((1, 5, 3), (2, 3, 4)), {}, "kernel"),
        ("conv_transpose", ((1, 5, 3), (2, 4, 3)), {"padding": "causal"}, "padding"),
        ("max_pool", ((1, 5, 3),), {"pool_size": 2, "padding": "causal"}, "padding"),
        ("average_pool", ((1, 5, 3),), {"pool_size": 2, "data_format": "first"}, "data_format"),
    ],
)
def test_bad_arguments_are_named(name, arguments, options, argument):
    arrays = [np.ones(shape, np.float32) for shape in arguments]
    with pytest.raises(ValueError, match=f"{name}: {argument}"):
        getattr(compat, name)(*arrays, **options)


def test_padding_must_be_a_name():
    with pytest.raises(TypeError, match="max_pool: padding"):
        compat.max_pool(np.ones((1, 4, 1), np.float32), 2, padding=((0, 1),))


def test_a_layer_with_the_drop_ins_fits_as_the_original():
    """A Keras model that calls the drop-ins in its layers trains as one that calls keras.ops."""

    class Block(keras.layers.Layer):
        def __init__(self, ops):
            super().__init__()
            self.ops = ops

        def build(self, shape):
            self.kernel = self.add_weight(shape=(3, 3, shape[-1], 2), initializer="ones")

        def call(self, x):
            x = self.ops.conv(x, self.kernel, strides=2, padding="same")
            return keras.ops.mean(self.ops.max_pool(x, 2, 2, padding="same"), axis=(1, 2))

    x, y = integers(0, (8, 6, 6, 1), -1, 2), integers(1, (8, 2), -1, 2)
    kernels = []  # two steps at a rate of 1/4 stay within the 24 bits of float32
    for ops in (keras.ops, compat):
        model = keras.Sequential([Block(ops)])
        model.compile(optimizer=keras.optimizers.SGD(0.25), loss="mse")
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
        kernels.append(np.asarray(model.layers[0].kernel.value))
    assert np.any(kernels[0] != 1)
    np.testing.assert_array_equal(*kernels)
