"""Bad operands: refused at trace time, in words that name function, argument, rule, value and shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import DY, SMALL, STATIC, WT, W, X, of, refused

import fnconv

# ---- operands -------------------------------------------------------------------------------------------------------

OPERANDS = {
    "groups and inputs": (lambda x, w: fnconv.conv(x, w, groups=2), (X, W), ValueError,
        "conv: groups must divide the 3 input channels; got 2 for x of shape (8, 28, 28, 3)"),
    "groups and outputs": (lambda x, w: fnconv.conv(x, w, groups=2), (SMALL, of((2, 2, 1, 3))), ValueError,
        "conv: groups must divide the 3 output channels; got 2 for x of shape (2, 4, 4, 2)"),
    "groups 0": (lambda x, w: fnconv.conv(x, w, groups=0), (X, W), ValueError,
        "conv: groups must be at least 1; got 0"),
    "groups 1.0": (lambda x, w: fnconv.conv(x, w, groups=1.0), (X, W), TypeError, f"conv: groups {STATIC} 1.0"),
    "channels": (lambda x, w: fnconv.conv(x, w), (SMALL, W), ValueError,
        "conv: w must have 2 input channels per group, x's 2 / groups; got 3 for x of shape (2, 4, 4, 2)"),
    "conv_transpose: channels": (lambda x, w: fnconv.conv_transpose(x, w), (SMALL, W), ValueError,
        "conv_transpose: w must have as many input channels as x, 2; got 6 for x of shape (2, 4, 4, 2)"),
    "dtypes": (lambda x, w: fnconv.conv(x, w), (X, of(W.shape, jnp.float16)), TypeError,
        "conv: x and w must have one dtype (cast with .astype); got x float32, w float16"),
    "dtype of the bias": (fnconv.conv, (X, W, of((6,), jnp.bfloat16)), TypeError,
        "conv: x and b must have one dtype (cast with .astype); got x float32, b bfloat16"),
    "shape of the bias": (fnconv.conv, (X, W, of((5,))), ValueError,
        "conv: b must have one entry per output channel, shape (6,); got (5,)"),
    "axes of w": (fnconv.conv, (X, of((3, 6))), ValueError,
        "conv: w must have a window axis or more and two channel axes; got (3, 6) for x of shape (8, 28, 28, 3)"),
    "axes of x": (fnconv.conv, (of((28, 3)), W), ValueError,
        "conv: x must have 2 spatial axes, as w of shape (3, 3, 3, 6), and one for channels; got (28, 3)"),
    "an empty window": (fnconv.conv, (X, of((0, 3, 3, 6))), ValueError,
        "conv: the kernel's window must be at least 1 on every axis; got (0, 3) for x of shape (8, 28, 28, 3)"),
    "precision": (lambda x, w: fnconv.conv(x, w, precision="best"), (X, W), ValueError,
        "conv: precision must be None, a lax.Precision or its name, or a pair; got 'best'"),
    "cotangent": (lambda dy, w: fnconv.conv_input_vjp(dy, w, (8, 27, 28, 3)), (DY, W), ValueError,
        "conv_input_vjp: dy must have the shape of conv's output, (8, 25, 26, 6); got (8, 26, 26, 6)"),
    "input_shape too short": (lambda dy, w: fnconv.conv_input_vjp(dy, w, (28, 28)), (DY, W), ValueError,
        "conv_input_vjp: input_shape needs one entry"),
    "input_shape, a single integer": (lambda dy, w: fnconv.conv_input_vjp(dy, w, 8), (DY, W), TypeError,
        "conv_input_vjp: input_shape must be a sequence of integers; got 8"),
    "input_shape too long": (lambda dy, w: fnconv.conv_input_vjp(dy, w, (1, 8, 28, 28, 3)), (DY, W), ValueError,
        "conv_input_vjp: input_shape needs one entry per axis of dy; got (1, 8, 28, 28, 3) for dy of shape (8,"),
    "geometry of the input": (
        lambda dy, w: fnconv.conv_input_vjp(dy, w, (8, 28, 28, 3), strides=0), (DY, W), ValueError,
        "conv_input_vjp: strides must be at least 1; got (0, 0) for x of shape (8, 28, 28, 3)"),
    "w beside a cotangent": (lambda dy, w: fnconv.conv_input_vjp(dy, w, (8, 28, 28, 3)), (DY, of((3, 6))), ValueError,
        "conv_input_vjp: w must have a window axis or more and two channel axes; got (3, 6) for dy of shape (8,"),
    "paddings without order": (lambda x, w: fnconv.conv(x, w, padding={0: 1, 1: 2}), (X, W), TypeError,
        "conv: padding must be in a tuple or a list, for their order; got {0: 1, 1: 2} for x of shape (8, 28, 28, 3)"),
    "a pair without order": (lambda x: fnconv.max_pool(x, (2, 2), padding=({0, 1}, 1)), (X,), TypeError,
        "max_pool: padding must be in a tuple or a list, for their order; got ({0, 1}, 1)"),
    "padding in bytes": (lambda x: fnconv.avg_pool(x, (2, 2), padding=b"SAME"), (X,), TypeError,
        "avg_pool: padding must be in a tuple or a list"),
    "conv_transpose: groups": (lambda x, w: fnconv.conv_transpose(x, w, groups=2), (X, WT), ValueError,
        "conv_transpose: groups must divide the 3 input channels; got 2 for x of shape (8, 28, 28, 3)"),
    "input_shape's channels": (lambda dy, w: fnconv.conv_input_vjp(dy, w, (8, 28, 28, 4)), (DY, W), ValueError,
        "conv_input_vjp: input_shape must have w's 3 x groups 1 channels; got 4"),
    "cotangent of dw": (lambda x, dy: fnconv.conv_weight_vjp(x, dy, (5, 5)), (X, DY), ValueError,
        "conv_weight_vjp: dy must have the shape of conv's output, (8, 24, 24, 6); got (8, 26, 26, 6)"),
    "axes of the cotangent": (lambda x, dy: fnconv.conv_weight_vjp(x, dy, (3, 3)), (X, of((26, 26, 6))), ValueError,
        "conv_weight_vjp: dy must have 4 axes as x; got (26, 26, 6)"),
    "output padding": (lambda x, w: fnconv.conv_transpose(x, w, strides=2, output_padding=2), (X, WT), ValueError,
        "conv_transpose: output_padding must be less than the stride or the dilation; got (2, 2)"),
    "output padding and SAME": (
        lambda x, w: fnconv.conv_transpose(x, w, strides=2, padding="SAME", output_padding=1), (X, WT), ValueError,
        "conv_transpose: output_padding must be 0 with padding SAME; got (1, 1)"),
    "nothing left": (lambda x, w: fnconv.conv_transpose(x, w, padding=20), (X, WT), ValueError,
        "conv_transpose: padding must leave a non-negative output size; got 20"),
    "dense": (fnconv.dense, (of((2, 3)), of((4, 5))), ValueError,
        "dense: x must end in an axis of w's 4 inputs; got (2, 3)"),
    "dense's w": (fnconv.dense, (of((2, 3)), of((3,))), ValueError, "dense: w must have the shape (in, out); got (3,)"),
    "dense's b": (fnconv.dense, (of((2, 3)), of((3, 4)), of((3,))), ValueError,
        "dense: b must have the shape (4,); got (3,)"),
    "flatten": (fnconv.flatten, (of(()),), ValueError, "flatten: x must have a batch axis; got ()"),
    "ties": (lambda x: fnconv.max_pool(x, (2, 2), ties="first"), (X,), ValueError,
        "max_pool: ties must be one of row_major, column_major; got 'first'"),
    "p below 1": (lambda x: fnconv.lp_pool(x, (2, 2), p=0.5), (X,), ValueError,
        "lp_pool: p must be finite and at least 1"),
    "p infinite": (lambda x: fnconv.lp_pool(x, (2, 2), p=float("inf")), (X,), ValueError,
        "lp_pool: p must be finite and at least 1 (max_pool is the limit); got inf"),
    "p NaN": (lambda x: fnconv.lp_pool(x, (2, 2), p=float("nan")), (X,), ValueError, "lp_pool: p must be finite"),
    "p traced": (lambda x, p: fnconv.lp_pool(x, (2, 2), p=p), (X, of(())), TypeError,
        "lp_pool: p must be a number known at trace time; got"),
    "count_include_pad": (lambda x: fnconv.avg_pool(x, (2, 2), count_include_pad=None), (X,), TypeError,
        "avg_pool: count_include_pad must be True or False; got None"),
    "no adaptive output": (lambda x: fnconv.adaptive_max_pool(x, (0, 2)), (X,), ValueError,
        "adaptive_max_pool: output_shape must be at least 1; got (0, 2) for x of shape (8, 28, 28, 3)"),
    "no adaptive input": (lambda x: fnconv.adaptive_avg_pool(x, (2, 2)), (of((8, 0, 28, 3)),), ValueError,
        "adaptive_avg_pool: x must have a cell or more on every spatial axis; got (8, 0, 28, 3)"),
    "levels": (lambda x: fnconv.spatial_pyramid_pool(x, ()), (X,), ValueError,
        "spatial_pyramid_pool: levels must be a sequence with one entry or more; got ()"),
    "a level": (lambda x: fnconv.spatial_pyramid_pool(x, (1, (1, 2, 3, 4))), (X,), ValueError,
        "spatial_pyramid_pool: levels needs one entry per spatial dimension; got (1, 2, 3, 4)"),
    "pool": (lambda x: fnconv.spatial_pyramid_pool(x, (1,), pool="lp"), (X,), ValueError,
        "spatial_pyramid_pool: pool must be one of max, avg; got 'lp'"),
    "indices of floats": (lambda y, i: fnconv.max_unpool(y, i, (8, 8)), (SMALL, SMALL), TypeError,
        "max_unpool: indices must be integers; got float32"),
    "shape of indices": (lambda y, i: fnconv.max_unpool(y, i, (8, 8)), (SMALL, of((2, 4), jnp.int32)), ValueError,
        "max_unpool: indices must have y's shape (2, 4, 4, 2); got (2, 4)"),
    "output_shape": (lambda y, i: fnconv.max_unpool(y, i, (8,) * 4), (SMALL, of((2, 4, 4, 2), jnp.int32)), ValueError,
        "max_unpool: output_shape needs one entry per spatial dimension; got (8, 8, 8, 8) for y of shape (2, 4, 4, 2)"),
    "order": (lambda x: fnconv.im2col(x, (2, 2), order="fortran"), (X,), ValueError,
        "im2col: order must be one of c, matlab; got 'fortran'"),
    "x_shape, a single integer": (lambda c: fnconv.col2im(c, 3, (2, 2)), (of((4, 5)),), TypeError,
        "col2im: x_shape must be a sequence of integers; got 3"),
    "shape of cols": (lambda c: fnconv.col2im(c, (3, 3, 1), (2, 2)), (of((4, 5)),), ValueError,
        "col2im: cols must have the shape of im2col's result, (4, 4); got (4, 5)"),
    "axis": (lambda x: fnconv.softmax(x, axis=4), (X,), ValueError,
        "softmax: axis must be between -4 and 3; got 4 for x of shape (8, 28, 28, 3)"),
    "axes": (lambda x: fnconv.log_softmax(x, axis=(0, 1)), (X,), TypeError,
        "log_softmax: axis must be an integer; got (0, 1)"),
    "no axis": (fnconv.softmax, (of(()),), ValueError, "softmax: x must have one axis or more; got ()"),
    "the dtype of w": (fnconv.conv, (X, of(W.shape, jnp.bool_)), TypeError,
        "conv: w must have dtype float16, bfloat16, float32, float64 or an integer type of 8 bits or more; got bool"),
    "labels": (fnconv.softmax_cross_entropy, (of((2, 3)), of((3,), jnp.int32)), ValueError,
        "softmax_cross_entropy: integer labels must have the shape (2,); got (3,)"),
    "one-hot labels": (fnconv.softmax_cross_entropy, (of((2, 3)), of((2, 4))), ValueError,
        "softmax_cross_entropy: labels must have logits' shape (2, 3); got (2, 4)"),
    "dtype of labels": (fnconv.softmax_cross_entropy, (of((2, 3)), of((2, 3), jnp.float16)), TypeError,
        "softmax_cross_entropy: logits and labels must have one dtype"),
    "no classes": (fnconv.softmax_cross_entropy, (of((2, 0)), of((2, 0))), ValueError,
        "softmax_cross_entropy: logits must end in an axis of one class or more; got (2, 0)"),
    "target": (fnconv.squared_error, (of((2, 3)), of((3,))), ValueError,
        "squared_error: target must have prediction's shape (2, 3); got (3,)"),
    "slope traced": (fnconv.leaky_relu, (X, of(())), TypeError,
        "leaky_relu: slope must be a number known at trace time"),
    "slope infinite": (lambda x: fnconv.leaky_relu(x, float("inf")), (X,), ValueError,
        "leaky_relu: slope must be finite in float32; got inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPERANDS)
def test_operands(case):
    function, arrays, error, message = OPERANDS[case]
    refused(error, message, function, *arrays)


# ---- dtypes ---------------------------------------------------------------------------------------------------------

UNARY = {
    "conv": lambda x: fnconv.conv(x, x),
    "conv_transpose": lambda x: fnconv.conv_transpose(x, x),
    "dense": lambda x: fnconv.dense(x, x),
    "flatten": fnconv.flatten,
    "max_pool": lambda x: fnconv.max_pool(x, (2, 2)),
    "max_pool_with_indices": lambda x: fnconv.max_pool_with_indices(x, (2, 2)),
    "avg_pool": lambda x: fnconv.avg_pool(x, (2, 2)),
    "lp_pool": lambda x: fnconv.lp_pool(x, (2, 2)),
    "adaptive_max_pool": lambda x: fnconv.adaptive_max_pool(x, (2, 2)),
    "adaptive_avg_pool": lambda x: fnconv.adaptive_avg_pool(x, (2, 2)),
    "relu": fnconv.relu,
    "leaky_relu": fnconv.leaky_relu,
    "sigmoid": fnconv.sigmoid,
    "tanh": fnconv.tanh,
    "softmax": fnconv.softmax,
    "log_softmax": fnconv.log_softmax,
    "softmax_cross_entropy": lambda x: fnconv.softmax_cross_entropy(x, x),
    "squared_error": lambda x: fnconv.squared_error(x, x),
    "im2col": lambda x: fnconv.im2col(x, (2, 2)),
}
FLOAT_ONLY = (
    "avg_pool", "lp_pool", "adaptive_avg_pool", "leaky_relu", "sigmoid", "tanh", "softmax", "log_softmax",
    "softmax_cross_entropy", "squared_error",
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["complex64", "bool"])
@pytest.mark.parametrize("name", UNARY)
def test_complex_and_bool_are_refused(name, dtype):
    kinds = "must have dtype float16, bfloat16, float32, float64"
    with pytest.raises(TypeError, match=rf"^{name}: (\w+) {kinds}.*; got {dtype} for \1 of shape \(2, 4, 4, 2\)"):
        jax.eval_shape(UNARY[name], of(SMALL.shape, dtype))


@pytest.mark.parametrize("name", FLOAT_ONLY)
def test_integers_are_refused_where_they_have_no_meaning(name):
    with pytest.raises(
        TypeError, match=rf"^{name}: \w+ must have dtype float16, bfloat16, float32, float64; got int32"
    ):
        jax.eval_shape(UNARY[name], of(SMALL.shape, jnp.int32))


NOT_ARRAYS = {
    "a list of strings": ["one", "two"],
    "a string": "one",
    "None": None,
    "a dictionary": {},
    "a ragged list": [[1.0, 2.0], [3.0]],
    "an array of objects": np.array([object()]),
}


@pytest.mark.parametrize("value", NOT_ARRAYS)
@pytest.mark.parametrize("name", UNARY)
def test_what_is_no_array(name, value):
    with pytest.raises(TypeError, match=rf"^{name}: \w+ must be an array; got"):
        UNARY[name](NOT_ARRAYS[value])


@pytest.mark.parametrize("dtype", ["int64", "uint64", ">i8"])
@pytest.mark.parametrize("name", [name for name in UNARY if name not in FLOAT_ONLY])
def test_integers_that_do_not_fit_without_64_bit_types(name, dtype):
    x = np.ones(SMALL.shape, dtype)
    x[0, 1, 2, 1] = 2**32 + 1
    with pytest.raises(ValueError, match=rf"^{name}: \w+ must fit u?int32 while jax_enable_x64 is off; got 4294967297"):
        UNARY[name](x)


def test_integers_that_fit_and_those_in_a_list():
    x = np.array([2**31 - 1, -(2**31)])
    assert fnconv.relu(x).tolist() == fnconv.relu(x.astype(">i8")).tolist() == [2**31 - 1, 0]
    with jax.enable_x64(True):
        assert fnconv.relu(4 * x).tolist() == [2**33 - 4, 0]
    with pytest.raises(ValueError, match=r"^relu: x must fit JAX's integers; got"):
        fnconv.relu([2**33])
    with pytest.raises(ValueError, match=r"^conv: w must fit int32"):
        fnconv.conv(np.ones((1, 3, 1), np.int64), np.full((1, 1, 1), -(2**31) - 1))


@pytest.mark.parametrize("name", UNARY)
def test_float0_is_refused(name):
    """The dtype of an integer's tangent is no number."""
    with pytest.raises(TypeError, match=rf"^{name}: \w+ must have dtype"):
        UNARY[name](np.zeros(SMALL.shape, jax.dtypes.float0))


@pytest.mark.parametrize("value", NOT_ARRAYS)
def test_what_is_no_array_in_the_other_arguments(value):
    x, bad = jnp.ones((2, 4, 4, 2)), NOT_ARRAYS[value]
    calls = {
        "max_unpool: indices": lambda: fnconv.max_unpool(x, bad, (8, 8)),
        "spatial_pyramid_pool: x": lambda: fnconv.spatial_pyramid_pool(bad, (1, 2)),
        "conv_weight_vjp: dy": lambda: fnconv.conv_weight_vjp(x, bad, (2, 2)),
        "conv: w": lambda: fnconv.conv(x, bad),
        "softmax_cross_entropy: labels": lambda: fnconv.softmax_cross_entropy(x, bad),
    }
    for where, call in calls.items():
        with pytest.raises(TypeError, match=rf"^{where} must be an array; got"):
            call()


def test_the_public_function_is_named_not_the_one_behind_it():
    x = jnp.ones((2, 4, 4, 2))
    refused(
        ValueError,
        "spatial_pyramid_pool: layout must be",
        lambda x: fnconv.spatial_pyramid_pool(x, (1,), layout="N"),
        x,
    )
    with pytest.raises(TypeError, match=r"^spatial_pyramid_pool: x must have dtype"):
        fnconv.spatial_pyramid_pool(x.astype(jnp.complex64), (1,))
    with pytest.raises((TypeError, ValueError), match=r"^spatial_pyramid_pool: pool must be one of max, avg"):
        fnconv.spatial_pyramid_pool(x, (1,), pool=["max"])
    with pytest.raises(TypeError, match=r"^col2im: x_shape must be"):
        fnconv.col2im(jnp.ones((4, 4)), 3, (2, 2))
    with pytest.raises(TypeError, match=r"^softmax: axis must be an integer; got True"):
        fnconv.softmax(x, axis=True)
    with pytest.raises(TypeError, match=r"^conv_transpose: groups must be static integers .*; got \(1, 2\)"):
        fnconv.conv_transpose(x, jnp.ones((2, 2, 3, 2)), groups=(1, 2))
    with pytest.raises(TypeError, match=r"^max_pool: strides must be .*; got \{1, 2\}"):
        fnconv.max_pool(x, (2, 2), strides={1, 2})
