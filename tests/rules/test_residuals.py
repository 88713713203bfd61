"""What the gradient keeps from the forward pass: the arrays held by `jax.vjp`, counted in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnconv
from fnconv.rules import maps

Kept = list[tuple[str, tuple[int, ...]]]
X = np.random.default_rng(0).normal(size=(2, 16, 16, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(3, 3, 4, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def _not_for_a_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libtpu is installed, max pooling hands x to its gradient: see `test_platforms`."""
    monkeypatch.setattr(maps, "may_target_tpu", lambda: False)


def kept(fn: Callable[..., Any], *args: Any, **how: Any) -> Kept:
    """dtype and shape of every array that the vjp of the jitted fn holds, largest first."""
    _, vjp, *_ = jax.vjp(jax.jit(fn), *map(jnp.asarray, args), **how)
    leaves = [a for a in jax.tree.leaves(vjp) if hasattr(a, "dtype")]
    return [(a.dtype.name, a.shape) for a in sorted(leaves, key=lambda a: (-a.size, a.dtype.name))]


def size(found: Kept) -> int:
    return sum(jnp.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in found)


def pool(fn: Callable[..., Any], *given: Any, **options: Any) -> Callable[[jax.Array], Any]:
    return lambda x: fn(x, *given, **options)


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_max_pool_keeps_one_byte_for_every_output(layout: str) -> None:
    (only,) = kept(pool(fnconv.max_pool, (2, 2), layout=layout), X)
    assert only[0] == "int8"
    assert size([only]) == jax.eval_shape(pool(fnconv.max_pool, (2, 2), layout=layout), X).size


@pytest.mark.parametrize(
    ("window", "dtype"), [((11, 11), "int8"), ((127, 1), "int8"), ((8, 16), "int16"), ((16, 16), "int16")]
)
def test_offsets_are_wide_enough_for_their_window(window: tuple[int, int], dtype: str) -> None:
    x = jnp.zeros((1, 130, 16, 1))
    fn = pool(fnconv.max_pool, window, strides=16)
    assert kept(fn, x) == [(dtype, jax.eval_shape(fn, x).shape)]


@pytest.mark.parametrize("rule", fnconv.available_rules()["max_pool"]["forward"])
def test_every_max_pool_rule_keeps_offsets_alone(rule: str) -> None:
    assert kept(pool(fnconv.max_pool, (3, 3), strides=2, rule=rule), X) == [("int8", (2, 7, 7, 4))]


def test_indices_are_an_output_and_not_kept() -> None:
    assert kept(pool(fnconv.max_pool_with_indices, (2, 2)), X) == [("int8", (2, 8, 8, 4))]


def test_adaptive_and_pyramid_max_pooling_keep_offsets() -> None:
    assert kept(pool(fnconv.adaptive_max_pool, (5, 3)), X) == [("int8", (2, 5, 3, 4))]
    assert kept(pool(fnconv.spatial_pyramid_pool, (1, 2)), X) == [("int16", (2, 1, 1, 4)), ("int8", (2, 2, 2, 4))][::-1]


def test_max_unpool_keeps_the_indices() -> None:
    y, indices = fnconv.max_pool_with_indices(X, (2, 2))
    assert kept(lambda y: fnconv.max_unpool(y, indices, (16, 16)), y) == [("int32", (2, 8, 8, 4))]


COLS = np.ones((2, 16, 64), np.float32)


@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (pool(fnconv.avg_pool, (2, 2)), X),
        (pool(fnconv.avg_pool, (3, 3), strides=2, padding=1, count_include_pad=False), X),
        (pool(fnconv.avg_pool, (3, 3), strides=2, rule="segment_sum"), X),
        (pool(fnconv.adaptive_avg_pool, (5, 3)), X),
        (pool(fnconv.spatial_pyramid_pool, (1, 3), pool="avg"), X),
        (pool(fnconv.im2col, (3, 3), strides=2, padding=1), X),
        (pool(fnconv.im2col, (3, 3), order="matlab"), X),
        (pool(fnconv.im2col, (2, 2), layout="channels_first"), X),
        (pool(fnconv.col2im, (2, 16, 16, 4), (2, 2), strides=2), COLS),
        (pool(fnconv.col2im, (2, 16, 16, 4), (2, 2), strides=2, order="matlab"), COLS),
        (fnconv.flatten, X),
    ],
)
def test_linear_maps_of_one_operand_keep_nothing(fn: Callable[..., Any], x: np.ndarray) -> None:
    assert kept(fn, x) == []


@pytest.mark.parametrize("rule", fnconv.available_rules()["conv"]["forward"])
def test_conv_keeps_its_operands_and_no_columns(rule: str) -> None:
    x, w = X[:, :7, :7], W
    found = kept(lambda x, w, b: fnconv.conv(x, w, b, strides=2, rule=rule), x, w, np.ones(8, np.float32))
    assert found == [("float32", x.shape), ("float32", w.shape)]


def test_the_maps_of_conv_keep_their_operands() -> None:
    dy = np.ones((2, 14, 14, 8), np.float32)
    assert kept(lambda dy, w: fnconv.conv_input_vjp(dy, w, X.shape), dy, W) == [
        ("float32", dy.shape),
        ("float32", W.shape),
    ]
    assert kept(lambda x, dy: fnconv.conv_weight_vjp(x, dy, (3, 3)), X, dy) == [
        ("float32", dy.shape),
        ("float32", X.shape),
    ]
    transposed = kept(lambda x, w: fnconv.conv_transpose(x, w, strides=2), dy, W)
    assert transposed == [("float32", dy.shape), ("float32", W.shape)]


def test_a_bias_alone_keeps_nothing() -> None:
    assert kept(lambda b: fnconv.conv(X, W, b), np.ones(8, np.float32)) == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_relu_keeps_its_output_and_no_copy(dtype: str) -> None:
    x = jnp.asarray(X, dtype)
    assert kept(fnconv.relu, x) == [(dtype, x.shape)]
    y, vjp = jax.vjp(fnconv.relu, x)
    (only,) = jax.tree.leaves(vjp)
    assert only.unsafe_buffer_pointer() == y.unsafe_buffer_pointer()


def test_lp_pool_keeps_the_norms_where_the_slopes_ask_for_them() -> None:
    x, y = ("float32", X.shape), ("float32", (2, 8, 8, 4))
    assert kept(pool(fnconv.lp_pool, (2, 2)), X) == [x, y]
    assert kept(pool(fnconv.lp_pool, (2, 2), p=1), X) == [x]


def test_leaky_relu_keeps_one_byte_for_every_element() -> None:
    assert kept(fnconv.leaky_relu, X) == [("bool", X.shape)]


@pytest.mark.parametrize("function", [fnconv.layer_norm, lambda x, *p: fnconv.batch_norm(x, *p).y])
def test_norms_keep_x_and_three_numbers_for_each_group(function: Callable[..., Any]) -> None:
    """Beside the parameters, which are arguments."""
    x, *rest = kept(function, X, np.ones(X.shape[-1], np.float32), np.ones(X.shape[-1], np.float32))
    assert x == ("float32", X.shape)
    groups = max(X.size // X.shape[-1], X.shape[-1])
    assert size(rest) <= 4 * (3 * groups + 4 * X.shape[-1])


def autodiff_avg_pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, np.float32(0), lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def autodiff_lp_pool(x: jax.Array) -> jax.Array:
    return jnp.sqrt(lax.reduce_window(x * x, np.float32(0), lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"))


def autodiff_max_pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, np.float32(-np.inf), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def autodiff_conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def autodiff_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


LOGITS = np.random.default_rng(2).normal(size=(32, 10)).astype(np.float32)
LABELS = np.arange(32) % 10
HOT = np.eye(10, dtype=np.float32)[LABELS]


EQUIVALENTS: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "conv": (fnconv.conv, autodiff_conv, (X, W)),
    "dense": (fnconv.dense, lambda x, w, b: x @ w + b, (LOGITS, HOT[:10], HOT[0])),
    "max_pool": (pool(fnconv.max_pool, (2, 2)), autodiff_max_pool, (X,)),
    "avg_pool": (pool(fnconv.avg_pool, (2, 2)), autodiff_avg_pool, (X,)),
    "lp_pool": (pool(fnconv.lp_pool, (2, 2)), autodiff_lp_pool, (X,)),
    "relu": (fnconv.relu, jax.nn.relu, (X,)),
    "leaky_relu": (fnconv.leaky_relu, jax.nn.leaky_relu, (X,)),
    "sigmoid": (fnconv.sigmoid, jax.nn.sigmoid, (X,)),
    "tanh": (fnconv.tanh, jnp.tanh, (X,)),
    "softmax": (fnconv.softmax, jax.nn.softmax, (LOGITS,)),
    "log_softmax": (fnconv.log_softmax, jax.nn.log_softmax, (LOGITS,)),
    "cross_entropy-integer": (
        lambda z: fnconv.softmax_cross_entropy(z, LABELS),
        lambda z: autodiff_cross_entropy(z, LABELS),
        (LOGITS,),
    ),
    "cross_entropy-constant": (
        lambda z: fnconv.softmax_cross_entropy(z, HOT),
        lambda z: -jnp.sum(HOT * jax.nn.log_softmax(z), axis=-1),
        (LOGITS,),
    ),
    "cross_entropy-weights": (
        fnconv.softmax_cross_entropy,
        lambda z, t: -jnp.sum(t * jax.nn.log_softmax(z), axis=-1),
        (LOGITS, HOT),
    ),
    "squared_error": (fnconv.squared_error, lambda p, t: (p - t) ** 2, (LOGITS, HOT)),
}


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_nothing_keeps_more_than_autodiff(name: str) -> None:
    ours, autodiff, args = EQUIVALENTS[name]
    assert size(kept(ours, *args)) <= size(kept(autodiff, *args))
