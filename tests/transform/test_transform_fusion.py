"""`with_manual_rules(fn, fuse=True)`: chains that become one operation, and chains that must not."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extras import needs
from jax import lax
from small_network import W, X, block, compiled, conv, pool, weigh

from fnconv import with_manual_rules
from fnconv.judge.engine.programs import residual_bytes

B = jnp.asarray([1.0, -2.0])
NUMBERS = ("NHWC", "HWIO", "NHWC")


def biased(w, b, x):
    return pool(jax.nn.relu(conv(w, x) + b))


def first(w, b, x):
    """Channels first, a stride, a dilation, a bias along the second axis, an asymmetric pooling."""
    y = lax.conv_general_dilated(
        jnp.moveaxis(x, -1, 1), jnp.transpose(w, (3, 2, 0, 1)), (2, 1), [(1, 1), (2, 0)], rhs_dilation=(1, 2)
    )
    y = jax.nn.relu(y + b[None, :, None, None])
    return lax.reduce_window(y, -np.inf, lax.max, (1, 1, 2, 3), (1, 1, 1, 2), ((0, 0), (0, 0), (1, 0), (0, 1)))


def grouped(w, b, x):
    y = lax.conv_general_dilated(x, w[:, :, :1], (1, 1), "VALID", dimension_numbers=NUMBERS, feature_group_count=2)
    return pool(jax.nn.relu(y + b))


FUSED = {
    "bias": biased,
    "no bias": lambda w, b, x: block(w, x),
    "no ReLU": lambda w, b, x: pool(conv(w, x) + b),
    "channels first": first,
    "groups": grouped,
    "in jit": jax.jit(biased),
    "in checkpoint": jax.checkpoint(biased),
    "mapped": lambda w, b, x: jax.vmap(lambda one: biased(w, b, one[None]))(x),
    "one channel": lambda w, b, x: pool(jax.nn.relu(conv(w[..., :1], x))),
    "a bias of three axes": lambda w, b, x: biased(w, b[None, None], x),
    "turned in between": lambda w, b, x: lax.reduce_window(
        jnp.moveaxis(jax.nn.relu(conv(w, x) + b), -1, 0)[:, :, None],
        -np.inf,
        lax.max,
        (1, 1, 1, 2, 3),
        (1,) * 5,
        "SAME",
    ),
    "in scan": lambda w, b, x: lax.scan(lambda c, _: (c, biased(w, b, c)), x, None, length=2)[1],
}


@pytest.mark.parametrize("name", FUSED)
def test_fused(name):
    """One operation; value and gradients are autodiff's, bit for bit."""
    fn = FUSED[name]

    def loss(w, b, x):
        return weigh(fn(w, b, x))

    manual = with_manual_rules(loss, fuse=True)
    report = manual.replaced(W, B, X)
    assert report.counts == {"conv_block": 1}
    assert not report.left
    assert report[0].primitive.startswith("conv_general_dilated+")
    assert "py:" in report[0].source
    both = compiled(lambda *p: [jax.value_and_grad(f, (0, 1, 2))(*p) for f in (manual, loss)])
    ours, autodiff = both(W, B, X)
    jax.tree.map(np.testing.assert_array_equal, ours, autodiff)
    assert np.any(ours[1][0])


def read_twice(w, b, x):
    y = jax.nn.relu(conv(w, x) + b)
    return pool(y).sum() + y.sum()


def returned(w, b, x):
    z = conv(w, x)
    return pool(jax.nn.relu(z + b)), z


SEPARATE = {
    "two readers": (read_twice, {"conv": 1, "relu": 1, "max_pool": 1}),
    "a result": (returned, {"conv": 1, "relu": 1, "max_pool": 1}),
    "another sum": (lambda w, b, x: pool(jax.nn.relu(conv(w, x) + x)), {"conv": 1, "relu": 1, "max_pool": 1}),
    "a bias along another axis": (
        lambda w, b, x: pool(jax.nn.relu(conv(w, x[:, :2, :2]) + b[:, None])),
        {"conv": 1, "relu": 1, "max_pool": 1},
    ),
    "a bias for every pixel": (
        lambda w, b, x: pool(conv(w, x) + x[:1, :, :, :1]),
        {"conv": 1, "max_pool": 1},
    ),
    "two biases": (lambda w, b, x: pool(conv(w, x) + b + b), {"conv": 1, "max_pool": 1}),
    "a sum after ReLU": (lambda w, b, x: pool(jax.nn.relu(conv(w, x)) + b), {"conv": 1, "relu": 1, "max_pool": 1}),
    "twice itself": (lambda w, b, x: (lambda y: pool(y + y))(conv(w, x)), {"conv": 1, "max_pool": 1}),
    "a dilated input": (
        lambda w, b, x: pool(lax.conv_transpose(x, w, (2, 2), "SAME")),
        {"conv": 1, "max_pool": 1},
    ),
    "pooling of channels": (
        lambda w, b, x: lax.reduce_window(conv(w, x), -np.inf, lax.max, (1, 1, 1, 2), (1, 1, 1, 1), "VALID"),
        {"conv": 1, "max_pool": 1},
    ),
}


@pytest.mark.parametrize("name", SEPARATE)
def test_not_fused(name):
    fn, counts = SEPARATE[name]
    manual = with_manual_rules(fn, fuse=True)
    assert manual.replaced(W, B, X).counts == counts
    both = compiled(lambda *p: [jax.vjp(f, *p)[0] for f in (manual, fn)])(W, B, X)
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_what_is_kept():
    """x, w and b are arguments; of convolution, ReLU and pooling together one byte for each output remains."""
    moving = (W, B, X)
    fused = with_manual_rules(biased, fuse=True)
    assert residual_bytes(lambda m, _: [fused(*m)], moving, []) == 2 * 3 * 3 * 2


def test_arguments_and_results_that_are_no_arrays():
    def fn(w, b, x, *, mode):
        return {"y": biased(w, b, x), "mode": mode, "none": None}

    result = with_manual_rules(fn, fuse=True)(W, B, X, mode="train")
    assert result["mode"] == "train"
    np.testing.assert_array_equal(result["y"], biased(W, B, X))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fuse": 1}, TypeError, "fuse must be a bool; got 1"),
        ({"fuse": True, "only": ("conv",)}, ValueError, "only must name conv, max_pool, relu with fuse=True"),
    ],
)
def test_arguments_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        with_manual_rules(biased, **options)
    allowed = with_manual_rules(biased, fuse=True, only=("conv", "relu", "max_pool"))
    assert allowed.replaced(W, B, X).counts == {"conv_block": 1}


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox", "haiku", "keras"])
def test_in_libraries(library):
    """Both blocks of LeNet."""
    needs("oracles", "equinox", "flax", "haiku", "keras")
    import zoo

    with jax.numpy_dtype_promotion("standard"):
        x = jnp.zeros(zoo.SHAPES[zoo.lenet])
        model = zoo.LIBRARIES[library](zoo.lenet, x)
        report = with_manual_rules(partial(model.apply), fuse=True).replaced(model.params, x)
    assert report.counts == {"conv_block": 2, "dense": 2, "relu": 1}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("x", r"must change no argument but nnx modules with fuse=True; got args\[0\]\['x'\]"),
        ("other", "must keep its arguments' structure with fuse=True"),
    ],
)
def test_changes_that_would_be_lost_are_refused(key, message):
    def fn(given):
        given[key] = given["x"] + 1
        return given["x"].sum()

    with pytest.raises(ValueError, match=f"with_manual_rules: fn {message}"):
        with_manual_rules(fn, fuse=True)({"x": X})
