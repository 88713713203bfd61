"""Every public operation, forward and backward, under each of JAX's strict modes, and under all of them at once."""

from contextlib import ExitStack, nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from operations import OPERATIONS, Operation, each, integers

import fnconv
from fnconv.compat import flax, keras
from fnconv.compat import lax as drop_in

pytestmark = pytest.mark.usefixtures("quick_collection")

TOOLS = {
    *(
        "available_rules",
        "check_jvp",
        "check_rules",
        "check_vjp",
        "compare",
        "explain",
        "jvp",
        "tune",
        "tune_cpu",
        "with_manual_rules",
    ),
    *("textbook", "show", "train", "compat", "testing", "__version__", "both_modes"),
}
X, W, B, V = integers(2, 6, 5, 4), integers(3, 2, 4, 4), integers(4), integers(3, 2, 2, 4)
DEPTHWISE = integers(3, 2, 1, 8)


def net(x, w, b):
    """As a model has it, for `with_manual_rules`."""
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = jax.nn.relu(y + b[None, None, None])
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.log_softmax(jax.nn.sigmoid(y) @ w[0, 0])


def _more():
    """What the table of the derivative tests has no entry for."""
    for name, pool in (("plain", None), ("pool", 2), ("overlapping", {"window_shape": 3, "strides": 1, "padding": 1})):
        yield f"conv_block-{name}", partial(fnconv.conv_block, pool=pool), (X, W, B)
    yield "with_manual_rules", fnconv.with_manual_rules(net), (X, W, B)
    yield "with_manual_rules-fuse", fnconv.with_manual_rules(net, fuse=True), (X, W, B)
    yield "jvp", lambda x, w: fnconv.jvp(lambda x: fnconv.conv(x, w), (x,), (x,))[1], (X, W)
    numbers = ("NHWC", "HWIO", "NHWC")
    options = {"window_strides": (2, 1), "padding": "SAME", "dimension_numbers": numbers}
    dilated = {**options, "padding": ((1, 1), (0, 1)), "lhs_dilation": (1, 2)}
    yield "lax.conv", partial(drop_in.conv_general_dilated, **options), (X, W)
    yield "lax.conv-dilated", partial(drop_in.conv_general_dilated, **dilated), (X, W)
    yield "lax.conv_transpose", lambda x, w: drop_in.conv_transpose(x, w, (2, 1), "SAME"), (X, W)
    for name, init, reduce in (("max", -jnp.inf, lax.max), ("min", jnp.inf, lax.min), ("sum", 0.0, lax.add)):
        geometry = {"window_dimensions": (1, 3, 2, 1), "window_strides": (1, 2, 1, 1), "base_dilation": (1, 1, 2, 1)}
        fn = partial(drop_in.reduce_window, init_value=init, computation=reduce, padding="SAME", **geometry)
        yield f"lax.reduce_window-{name}", fn, (X,)
    yield "flax.max_pool", lambda x: flax.max_pool(x, (3, 2)), (X,)
    yield "flax.min_pool", lambda x: flax.min_pool(x, (3, 2)), (X,)
    yield "flax.avg_pool", lambda x: flax.avg_pool(x, (3, 2), padding="SAME", count_include_pad=False), (X,)
    yield "keras.conv", lambda x, w: keras.conv(x, w, 2, "same"), (X, W)
    yield "keras.depthwise_conv", lambda x, w: keras.depthwise_conv(x, w), (X, integers(3, 2, 4, 2))
    yield "keras.conv_transpose", lambda x, w: keras.conv_transpose(x, w, 2), (X, W)
    yield "keras.max_pool", lambda x: keras.max_pool(x, 2), (X,)
    yield "keras.average_pool", lambda x: keras.average_pool(x, 2, padding="same"), (X,)


def _rules():
    """Every formulation by its name."""
    available = fnconv.available_rules()
    for operation, maps in available.items():
        for name in dict.fromkeys(name for names in maps.values() for name in names):
            rule = {m: name if name in names else "auto" for m, names in maps.items()}
            if operation == "conv":
                yield f"conv-{name}", partial(fnconv.conv, rule=rule), (X, W, B)
                yield f"conv-depthwise-{name}", partial(fnconv.conv, rule=rule, groups=4, padding=1), (X, DEPTHWISE)
            else:
                pool = partial(getattr(fnconv, operation), window_shape=(3, 2), rule=rule, strides=2, padding=1)
                yield f"{operation}-{name}", pool, (X,)


MORE = tuple(Operation(name, fn, fn, args) for name, fn, args in (*_more(), *_rules()))
EVERY = (*OPERATIONS, *MORE)
MODES = {
    "rank promotion": partial(jax.numpy_rank_promotion, "raise"),
    "dtype promotion": partial(jax.numpy_dtype_promotion, "strict"),
    "tracer leaks": jax.checking_leaks,
    "debug nans": partial(jax.debug_nans, True),
    "no jit": partial(jax.disable_jit, True),
    "x64": partial(jax.enable_x64, True),
}
TRACED = ("rank promotion", "dtype promotion", "tracer leaks", "x64")  # what these refuse, tracing meets


def modes(*names):
    stack = ExitStack()
    for name in names:
        stack.enter_context(MODES[name]())
    return stack


def value_and_gradients(operation, wide=False):
    args = [jnp.asarray(a, jnp.float64 if wide else jnp.float32) for a in operation.args]

    def loss(*args):
        y = operation.fn(*args)
        return jnp.square(y).sum(), y

    return jax.value_and_grad(loss, tuple(range(len(args))), has_aux=True)(*args)


def test_every_operation_is_here():
    public = set(fnconv.__all__) - TOOLS
    assert not {name for name in public if not any(o.name.partition("-")[0] == name for o in EVERY)}


@pytest.mark.sample(20)
@pytest.mark.parametrize("wide", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["float32", "float64"])
@each(EVERY)
def test_traced_in_all_modes(operation, wide):
    with modes(*TRACED[: 4 if wide else 3]):
        jax.eval_shape(partial(value_and_gradients, operation, wide))


@pytest.mark.slow
@pytest.mark.parametrize("names", [*((name,) for name in MODES), tuple(MODES)[:-1], tuple(MODES)], ids="+".join)
@each(EVERY)
def test_computed_in_every_mode(operation, names):
    """The same bits, or in float64 the same numbers."""
    want = value_and_gradients(operation)
    with modes(*names):
        found = value_and_gradients(operation, wide="x64" in names)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        if {"x64", "no jit"} & {*names}:  # 128 roundings: fused otherwise, or in float64
            np.testing.assert_allclose(a, b, rtol=0, atol=2**-17 * max(1, np.abs(b).max(initial=0)))
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.sample(1)
@each([o for o in MORE if o.name in ("conv_block-pool", "with_manual_rules", "lax.reduce_window-max")])
def test_all_modes_at_once(operation):
    for wide in (True, False, True):  # in one process, back and forth
        with modes(*tuple(MODES)[:-1]), MODES["x64"]() if wide else nullcontext():
            found = jax.tree.leaves(value_and_gradients(operation, wide))
        assert {a.dtype.name for a in found} == {"float64" if wide else "float32"}
