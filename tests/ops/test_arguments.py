"""What JAX itself does not take, and messages that name what is wrong."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from operations import CHANNELS_LAST, each
from refusals import of, refused

import fnconv

X, W, DY = of((1, 8, 8, 3)), of((3, 3, 3, 4)), of((1, 6, 6, 4))


@each([o for o in CHANNELS_LAST if not o.wide])
def test_big_endian_arrays(operation):
    swapped = [np.asarray(a).astype(">f4") for a in operation.args]
    np.testing.assert_array_equal(operation.fn(*swapped), operation.fn(*operation.args))


@pytest.mark.parametrize("dtype", [jnp.int4, jnp.uint4, jnp.int2, jnp.uint2])
@pytest.mark.parametrize("name", ["conv", "dense", "max_pool", "im2col", "relu", "flatten", "max_unpool"])
def test_integers_below_a_byte(name, dtype):
    call = {
        "conv": lambda x: fnconv.conv(x, x),
        "dense": lambda x: fnconv.dense(x, x),
        "max_pool": lambda x: fnconv.max_pool(x, (2,)),
        "im2col": lambda x: fnconv.im2col(x, (2,)),
        "max_unpool": lambda x: fnconv.max_unpool(x, x, (2,)),
    }.get(name, getattr(fnconv, name))
    argument = next(iter(inspect.signature(getattr(fnconv, name)).parameters))
    message = f"{name}: {argument} must have dtype float16, bfloat16, float32, float64 or an integer type of 8 bits or"
    refused(TypeError, message, call, of((2, 2, 2), dtype))


def test_tangents_of_numpy_are_converted_as_primals_are():
    y, dy = fnconv.jvp(fnconv.relu, (np.float64([-1, 2]),), (np.float64([3, 4]),))
    assert (y.tolist(), dy.tolist(), dy.dtype) == ([0, 2], [0, 4], y.dtype)


def test_messages_name_what_is_wrong():
    message = "conv_weight_vjp: window_shape needs one entry per spatial dimension, and to lead from x to dy of shape "
    call = lambda x, dy: fnconv.conv_weight_vjp(x, dy, (3, 3, 3))  # noqa: E731
    refused(ValueError, f"{message}(1, 6, 6, 4); got (3, 3, 3) for x of shape (1, 8, 8, 3)", call, X, DY)
    shape = "for x of shape (1, 8, 8, 3)"
    refused(ValueError, f"conv_block's pool: strides must be at least 1; got (0, 0) {shape}",
            lambda x, w: fnconv.conv_block(x, w, pool={"window_shape": 2, "strides": 0}), X, W)  # fmt: skip
    refused(ValueError, f"conv_block: pool needs one entry per spatial dimension; got (2, 2, 2) {shape}",
            lambda x, w: fnconv.conv_block(x, w, pool=(2, 2, 2)), X, W)  # fmt: skip
    with pytest.raises(TypeError, match="explain: fn must be a function; got NoneType"):
        fnconv.explain(None)
    for levels in ({1, 2}, {1: 2}, b"ab"):
        refused(TypeError, "spatial_pyramid_pool: levels must be a sequence, for their order; got",
                lambda x, levels=levels: fnconv.spatial_pyramid_pool(x, levels), X)  # fmt: skip


def test_a_transposed_convolution_of_nothing_is_empty():
    """Nobody gave a padding, and none is complained of."""
    y = fnconv.conv_transpose(jnp.ones((1, 0, 8, 3)), jnp.ones((3, 3, 4, 3)), strides=2, output_padding=1)
    assert y.shape == (1, 0, 18, 4)
