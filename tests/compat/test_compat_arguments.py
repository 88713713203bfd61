"""Arguments of the wrong kind, in every place of every drop-in, are refused under the function's and their own name."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnconv.compat import flax, keras
from fnconv.compat import lax as drop_in

X, W = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
NUMBERS = ("NHWC", "HWIO", "NHWC")
POOL = {"inputs": X, "window_shape": (2, 2)}
CALLS = {
    drop_in.conv_general_dilated: {"lhs": X, "rhs": W, "window_strides": (1, 1), "padding": "SAME"},
    drop_in.conv_transpose: {"lhs": X, "rhs": W, "strides": (1, 1), "padding": "SAME"},
    drop_in.reduce_window: {"operand": X, "init_value": 0.0, "computation": lax.add, "window_dimensions": (1, 2, 2, 1)},
    flax.pool: {**POOL, "init": 0.0, "reduce_fn": lax.add, "strides": None, "padding": "SAME"},
    flax.max_pool: POOL,
    flax.min_pool: POOL,
    flax.avg_pool: POOL,
    keras.conv: {"inputs": X, "kernel": W, "strides": 1},
    keras.depthwise_conv: {"inputs": X, "kernel": W, "strides": 1},
    keras.conv_transpose: {"inputs": X, "kernel": jnp.ones((3, 3, 4, 3)), "strides": 1},
    keras.max_pool: {"inputs": X, "pool_size": 2},
    keras.average_pool: {"inputs": X, "pool_size": 2},
}
NAMES = {"init": "init_value", "reduce_fn": "computation"}  # flax's arguments as reduce_window calls them
CASES = [(f, argument) for f, given in CALLS.items() for argument in given]


@pytest.mark.parametrize(
    ("function", "argument"), CASES, ids=lambda v: getattr(v, "__module__", "") + getattr(v, "__name__", str(v))
)
@pytest.mark.parametrize("value", [None, object(), {1: 2}, {1, 2}], ids=["None", "object", "mapping", "set"])
def test_of_another_kind(function, argument, value):
    if value is None and (function, argument) == (flax.pool, "strides"):
        pytest.skip("None is a value of it")
    family = r"(\w*pool|reduce_window)" if function.__module__.endswith("flax") else function.__name__
    name = NAMES.get(argument, argument) if function is flax.pool else argument
    with pytest.raises(
        (TypeError, ValueError, NotImplementedError), match=rf"^{family}: {name} |^{name} argument to {family} "
    ):
        function(**{**CALLS[function], argument: value})


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f.__module__ + "." + f.__name__)
def test_operands_of_too_few_axes(function):
    for argument, given in CALLS[function].items():
        if not isinstance(given, jax.Array) or function is drop_in.reduce_window:
            continue
        with pytest.raises((TypeError, ValueError), match=rf"{argument}|window_shape"):
            function(**{**CALLS[function], argument: jnp.ones(())})


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f.__module__ + "." + f.__name__)
def test_big_endian_arrays(function):
    given = CALLS[function]
    swapped = {k: np.asarray(v).astype(">f4") if isinstance(v, jax.Array) else v for k, v in given.items()}
    if "dimension_numbers" in inspect.signature(function).parameters:
        given, swapped = ({**g, "dimension_numbers": NUMBERS} for g in (given, swapped))
    np.testing.assert_array_equal(function(**swapped), function(**given))


def test_a_tuple_is_no_kernel():
    with pytest.raises(ValueError, match=re.escape("conv: kernel must have 4 axes or more; got (2,)")):
        keras.conv(X, (1.0, 2.0))


@pytest.mark.parametrize("dtype", [jnp.int4, jnp.uint4, jnp.int2])
def test_integers_below_a_byte(dtype):
    message = f"operand must have dtype .* or an integer type of 8 bits or more; got {dtype.dtype.name}"
    with pytest.raises(NotImplementedError, match=message):
        drop_in.reduce_window(X.astype(dtype), 0, lax.add, (1, 2, 2, 1))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 8, 8, 1), {"window_dimensions": (1, 9, 9, 1)}),
        ((1, 8, 8, 1), {"window_dimensions": (1, 9, 2, 1), "window_strides": (1, 2, 2, 1)}),
        ((1, 8, 8, 1), {"window_dimensions": (1, 40, 40, 1), "base_dilation": (1, 2, 1, 1)}),
        ((1, 0, 8, 1), {"window_dimensions": (1, 2, 2, 1), "window_strides": (1, 1, 1, 1), "padding": "SAME"}),
        ((0, 8, 8, 1), {"window_dimensions": (1, 2, 2, 1)}),
    ],
)
@pytest.mark.parametrize(("init", "computation"), [(0.0, lax.add), (-jnp.inf, lax.max)], ids=["sum", "max"])
def test_windows_without_a_result(shape, options, init, computation):
    x = jnp.ones(shape)
    run = lambda x: drop_in.reduce_window(x, init, computation, **options)  # noqa: E731
    want = jax.eval_shape(lambda x: lax.reduce_window(x, init, computation, **{"padding": "VALID", **options}), x)
    y, pullback = jax.vjp(run, x)
    assert y.shape == want.shape
    np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0], np.full(shape, float(y.size > 0)))
