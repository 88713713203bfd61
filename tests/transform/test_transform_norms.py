"""`with_manual_rules` on normalisation, however it is written; and what it keeps of a chain that follows one."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extras import needs
from jax import lax

needs("oracles", "equinox", "flax", "haiku", "keras")

import equinox as eqx
import haiku as hk
import keras
from flax import linen, nnx

from fnconv.transform.manual_rules import with_manual_rules

SHAPE = (3, 4, 4, 6)
EPSILON = 1e-3


@pytest.fixture(autouse=True)
def _float64():
    """The libraries promote dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(True):
        yield


# ---- formulas -------------------------------------------------------------------------------------------------------


def by_jnp(scale, bias, x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(jnp.var(x, -1, keepdims=True) + EPSILON) * scale + bias


def by_squares(scale, bias, x):
    """Batch norm as Flax writes it: E x^2 - (E x)^2."""
    mean, square = jnp.mean(x, (0, 1, 2)), jnp.mean(lax.square(x), (0, 1, 2))
    variance = jnp.maximum(0.0, square - mean * mean)
    return (x - mean) * (lax.rsqrt(variance + EPSILON) * scale) + bias


def spread(scale, bias, x):
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    factor = lax.rsqrt(variance + EPSILON) * scale
    return x * factor + (bias - mean * factor)


def root_mean_square(scale, bias, x):
    return x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON) * scale + bias


def by_sums(scale, bias, x):
    centred = x - jnp.sum(x, (1, 2, 3), keepdims=True) * (1 / 96)
    return centred * (1 / jnp.sqrt(jnp.sum(centred * centred, (1, 2, 3), keepdims=True) / 96 + EPSILON)) * scale + bias


def norms_of_means(scale, bias, x):
    """A mean may itself be what is normalised; and the scale of a layer's norm is no factor of its mean."""
    pooled = x.mean((1, 2))
    return x + (by_jnp(scale, bias, pooled) + root_mean_square(scale, bias, pooled))[:, None, None]


def by_hand(fn):
    scale, bias = 1 + jnp.arange(6.0) / 8, jnp.arange(6.0) / 4
    return (lambda parameters, x: fn(*parameters, x)), (scale, bias)


# ---- libraries ------------------------------------------------------------------------------------------------------


def of_linen(layer):
    variables = layer.init(jax.random.key(0), jnp.zeros(SHAPE))
    state = {k: v for k, v in variables.items() if k != "params"}
    return lambda p, x: layer.apply({"params": p, **state}, x, mutable=["batch_stats"])[0], variables["params"]


def of_nnx(layer):
    graph, parameters, rest = nnx.split(layer, nnx.Param, ...)
    rest = jax.tree.map(lambda a: a.astype(jnp.float64), rest)
    return lambda p, x: nnx.merge(graph, p, rest, copy=True)(x), parameters


def of_equinox(layer, vmaps):
    parameters, static = eqx.partition(layer, eqx.is_inexact_array)

    def apply(p, x):
        fn = eqx.combine(p, static)
        for _ in range(vmaps):
            fn = jax.vmap(fn)
        return fn(x)

    return apply, parameters


def equinox_batch_norm():
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="batch")
    parameters, static = eqx.partition(layer, eqx.is_inexact_array)

    def apply(p, x):
        return jax.vmap(eqx.combine(p, static), (0, None), (0, None), axis_name="batch")(x, state)[0]

    return apply, parameters


def of_haiku(build):
    net = hk.transform_with_state(lambda x: build()(x) if build is not haiku_batch_norm else build()(x, True))
    parameters, state = net.init(None, jnp.zeros(SHAPE))
    return lambda p, x: net.apply(p, state, None, x)[0], parameters


def haiku_batch_norm():
    return hk.BatchNorm(True, True, 0.9)


def of_keras(layer, **options):
    layer.build(SHAPE)
    parameters, rest = ([v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables))
    return lambda p, x: layer.stateless_call(p, rest, x, **options)[0], parameters


WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}
WRITTEN = {
    **{f.__name__: lambda f=f: by_hand(f) for f in (by_jnp, by_squares, spread, root_mean_square, by_sums)},
    "linen.BatchNorm": lambda: of_linen(linen.BatchNorm(use_running_average=False, **WIDE)),
    "linen.BatchNorm, two passes": lambda: of_linen(
        linen.BatchNorm(use_running_average=False, use_fast_variance=False, **WIDE)
    ),
    "linen.LayerNorm": lambda: of_linen(linen.LayerNorm(**WIDE)),
    "linen.RMSNorm": lambda: of_linen(linen.RMSNorm(**WIDE)),
    "linen.InstanceNorm": lambda: of_linen(linen.InstanceNorm(**WIDE)),
    "linen.GroupNorm": lambda: of_linen(linen.GroupNorm(3, **WIDE)),
    "nnx.GroupNorm": lambda: of_nnx(nnx.GroupNorm(6, 2, rngs=nnx.Rngs(0), **WIDE)),
    "nnx.BatchNorm": lambda: of_nnx(nnx.BatchNorm(6, rngs=nnx.Rngs(0), **WIDE)),
    "nnx.LayerNorm": lambda: of_nnx(nnx.LayerNorm(6, rngs=nnx.Rngs(0), **WIDE)),
    "equinox.LayerNorm": lambda: of_equinox(eqx.nn.LayerNorm(6, dtype=jnp.float64), 3),
    "equinox.RMSNorm": lambda: of_equinox(eqx.nn.RMSNorm(6, dtype=jnp.float64), 3),
    "equinox.BatchNorm": equinox_batch_norm,
    "norms of means": lambda: by_hand(norms_of_means),
    "haiku.BatchNorm": lambda: of_haiku(haiku_batch_norm),
    "haiku.LayerNorm": lambda: of_haiku(lambda: hk.LayerNorm(-1, True, True)),
    "keras.BatchNormalization": lambda: of_keras(keras.layers.BatchNormalization(dtype="float64"), training=True),
    "keras.LayerNormalization": lambda: of_keras(keras.layers.LayerNormalization(dtype="float64")),
    "keras.GroupNormalization": lambda: of_keras(keras.layers.GroupNormalization(3, dtype="float64")),
    "keras.RMSNormalization": lambda: of_keras(keras.layers.RMSNormalization(dtype="float64")),
}
DEFAULT = (
    *(f.__name__ for f in (by_jnp, by_squares, spread, root_mean_square, by_sums)),
    "norms of means",
    "equinox.BatchNorm",
)


def given():
    return 3 + 2 * jax.random.normal(jax.random.key(1), SHAPE, jnp.float64)


def moved(parameters):
    key = jax.random.key(2)
    return jax.tree.map(lambda a: a + 0.3 * jax.random.normal(key, a.shape, a.dtype), parameters)


def loss_of(apply):
    return lambda p, x: jnp.sum(jnp.sin(apply(p, x)) * jnp.cos(jnp.arange(x.size)).reshape(x.shape))


def orders(loss, p, x):
    """The gradient, and that of a function of the gradient."""

    def gradient(p, x):
        return jax.grad(loss, (0, 1))(p, x)

    def second(p, x):
        return sum(jnp.sum(jnp.cos(3 * a)) for a in jax.tree.leaves(gradient(p, x)))

    return jax.jit(lambda p, x: (gradient(p, x), jax.grad(second, (0, 1))(p, x)))(p, x)


def agree(ours, autodiff, roundings=1e-10):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(autodiff), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=roundings * max(1, float(jnp.abs(b).max())))


def kept(fn, *args):
    """How many arrays of x's size a pullback keeps."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda *args: jax.vjp(fn, *args)[1], *args))
    return sum(leaf.size == args[-1].size for leaf in leaves)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in WRITTEN])
def test_norm(name, wrap):
    """One rule, one array of x's size kept, and the derivatives of both orders."""
    apply, parameters = WRITTEN[name]()
    parameters, x = moved(parameters), given()
    manual = with_manual_rules(wrap(apply))
    report = manual.replaced(parameters, x)
    assert set(report.counts) == {"norm"}
    assert kept(manual, parameters, x) == (name != "norms of means")
    roundings = 2**-16 if "keras" in name else 1e-10  # Keras's moments are in float32
    agree(orders(loss_of(manual), parameters, x), orders(loss_of(apply), parameters, x), roundings)


OTHERS = {
    "unbiased": lambda x: (x - x.mean(-1, keepdims=True)) / jnp.std(x, -1, keepdims=True, ddof=1),
    "unbiased, of many": lambda x: (lambda x: (x - x.mean()) * lax.rsqrt(x.var(ddof=1) + EPSILON))(
        jnp.tile(x.ravel(), 100)
    ).reshape(100, *SHAPE)[0],
    "other axes": lambda x: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(1, keepdims=True) + EPSILON),
    "another x": lambda x: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(jnp.sin(x).var(-1, keepdims=True) + EPSILON),
    "a frozen mean": lambda x: (
        (x - lax.stop_gradient(x.mean(-1, keepdims=True))) * lax.rsqrt(x.var(-1, keepdims=True) + EPSILON)
    ),
    "not centred": lambda x: x * lax.rsqrt(x.var(-1, keepdims=True) + EPSILON),
    "other groups": lambda x: (
        (x - jnp.repeat(x.reshape(3, 4, 4, 3, 2).mean((1, 2, 4)), 2, -1)[:, None, None])
        * jnp.tile(lax.rsqrt(x.reshape(3, 4, 4, 3, 2).var((1, 2, 4)) + EPSILON), 2)[:, None, None]
    ),
    "moments apart": lambda x: x.mean(-1, keepdims=True) * lax.rsqrt(x.var(-1, keepdims=True) + EPSILON) * x,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_norm(name):
    fn, x = OTHERS[name], given()
    manual = with_manual_rules(fn)
    assert "norm" not in manual.replaced(x).counts

    def loss(fn):
        return loss_of(lambda p, x: fn(x))

    agree(orders(loss(manual), (), x), orders(loss(fn), (), x))


def network(activation):
    """Convolution, norm, activation, gate, convolution, and a residual join."""

    def apply(p, x):
        w, v, scale, bias, s = p

        def conv(x, w):
            return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

        y = activation(by_squares(scale, bias, conv(x, w)))
        return x + conv(y * jax.nn.sigmoid(y.mean((1, 2)) @ s)[:, None, None], v)

    keys = jax.random.split(jax.random.key(3), 3)
    w, v = (0.2 * jax.random.normal(k, (3, 3, 6, 6), jnp.float64) for k in keys[:2])
    scale, bias = 1 + jnp.arange(6.0) / 8, jnp.arange(6.0) / 4
    return apply, (w, v, scale, bias, jax.random.normal(keys[2], (6, 6), jnp.float64))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.silu, jax.nn.gelu], ids=["relu", "silu", "gelu"])
def test_a_convolution_keeps_what_its_norm_keeps(activation, wrap):
    """x and the output of the first convolution; what lies between them and the second is computed again."""
    apply, p = network(activation)
    x = given()
    manual = with_manual_rules(wrap(apply))
    name = activation.__name__
    counts = manual.replaced(p, x).counts
    wanted = {"conv": 2, "norm": 1, name: 1, "dense": 1, "sigmoid": 1, "gate": 1}
    assert {o: n for o, n in counts.items() if o != "tanh"} == wanted
    assert kept(manual, p, x) == 2
    agree(orders(loss_of(manual), p, x), orders(loss_of(apply), p, x))


@pytest.mark.parametrize("transform", ["vmap", "scan", "checkpoint", "hessian", "third"])
def test_inside(transform):
    apply, p = network(jax.nn.silu)
    x = given()[:2, :2, :2]
    loss = loss_of(apply)

    def result(loss):
        match transform:
            case "vmap":
                return jax.vmap(lambda a: jax.grad(loss, (0, 1))(p, a * x))(jnp.arange(1.0, 3.0))
            case "scan":
                return jax.grad(lambda x: lax.scan(lambda c, _: (c + loss(p, c * x), None), 1.0, None, 2)[0])(x)
            case "checkpoint":
                return jax.grad(jax.checkpoint(lambda x: loss(p, x)))(x)
            case "hessian":
                return jax.hessian(lambda a: loss(p, a * x))(1.5)
            case "third":
                return jax.grad(jax.grad(jax.grad(lambda a: loss(p, a * x))))(1.5)

    agree(jax.jit(lambda: result(with_manual_rules(loss)))(), jax.jit(lambda: result(loss))())
