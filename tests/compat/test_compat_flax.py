"""fnconv.compat.flax against flax.linen's pooling, and Flax models that train with fnconv.compat.lax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat_helpers import assert_hand_derived, assert_identical, both, distinct, integers, parameters
from extras import needs

needs("oracles", "flax")

from flax import linen, nnx
from flax.linen import pooling

from fnconv.compat import flax as compat
from fnconv.compat import lax as compat_lax

POOLS = ("max_pool", "min_pool", "avg_pool")
GEOMETRIES = {
    "defaults": ((2, 5, 4, 3), (2, 2), {}),
    "tiles": ((2, 4, 6, 3), (2, 2), {"strides": (2, 2)}),
    "overlapping, SAME": ((2, 7, 3), (4,), {"strides": (2,), "padding": "SAME"}),
    "pairs": ((2, 5, 4, 2), (2, 4), {"strides": (1, 2), "padding": ((1, 0), (2, 1))}),
    "no batch axis": ((4, 5, 2), (2, 2), {"padding": [(0, 1), (1, 1)]}),
    "three batch axes": ((2, 1, 2, 6, 2), (4,), {"strides": (2,), "padding": "same"}),
    "three dimensions": ((1, 4, 3, 5, 2), (2, 1, 4), {"strides": (2, 1, 1), "padding": "SAME_LOWER"}),
}


@pytest.mark.parametrize("name", ["pool", *POOLS])
def test_signature_is_flax_own(name):
    assert parameters(getattr(compat, name)) == parameters(getattr(pooling, name))


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name in ("max_pool", "avg_pool") for case in GEOMETRIES]
    + [("min_pool", case) for case in ("pairs", "no batch axis", "three batch axes")],
)
def test_pooling_equals_flax(name, case):
    """Value and gradient, for one geometry the second derivative; windows of 4, so that means of integers are exact."""
    shape, window, options = GEOMETRIES[case]
    ours, original = getattr(compat, name), getattr(pooling, name)
    order = 2 if case == "tiles" else 1
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by a NumPy integer
        got, want = both(ours, original, (4 * distinct(0, shape),), window, nonlinear=True, order=order, **options)
    assert_identical(got, want)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, np.int32])
@pytest.mark.parametrize("padding", ["SAME", ((1, 1),)])
def test_uncounted_padding_equals_flax(padding, dtype):
    """bfloat16 and integers give Flax's float32; windows of 2 keep shares exact in bfloat16."""
    window = (2,) if dtype == jnp.bfloat16 else (3,)
    x = jnp.asarray(6 * distinct(0, (2, 7, 2)), dtype)
    options = {"strides": (2,), "padding": padding, "count_include_pad": False}
    with jax.numpy_dtype_promotion("standard"):
        if dtype == np.int32:
            got, want = (f.avg_pool(x, window, **options) for f in (compat, pooling))
        else:
            got, want = both(compat.avg_pool, pooling.avg_pool, (x,), window, **options)
    assert_identical(got, want)
    assert jax.tree.leaves(got)[0].dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.int32])
@pytest.mark.parametrize("name", POOLS)
def test_dtypes_are_flax_own(name, dtype):
    x = jnp.asarray(4 * integers(0, (2, 6, 3)), dtype)
    with jax.numpy_dtype_promotion("standard"):
        assert_identical(*(getattr(f, name)(x, (4,), (2,), "SAME") for f in (compat, pooling)))


def test_a_window_of_which_nothing_is_counted_is_zero_where_flax_has_nan():
    x = np.ones((1, 2, 1), np.float32)
    options = {"padding": ((2, 0),), "count_include_pad": False}
    assert np.isnan(pooling.avg_pool(x, (2,), **options)[0, 0, 0])
    assert compat.avg_pool(x, (2,), **options)[0, :, 0].tolist() == [0, 1, 1]
    assert np.all(np.isfinite(jax.grad(lambda x: compat.avg_pool(x, (2,), **options).sum())(x)))


@pytest.mark.parametrize("name", POOLS)
def test_no_gradient_is_left_to_autodiff(name):
    assert_hand_derived(lambda x: getattr(compat, name)(x, (2,)), distinct(0, (1, 4, 1)))


def test_other_reductions_are_declined_by_name():
    with pytest.raises(NotImplementedError, match="computation must be"):
        compat.pool(jnp.ones((1, 4, 1)), 1.0, jax.lax.mul, (2,), None, "VALID")


@pytest.mark.parametrize("name", POOLS)
def test_complex_inputs_are_declined_by_name(name):
    with pytest.raises(NotImplementedError, match=r"(inputs|operand) must have dtype .* got complex64"):
        getattr(compat, name)(jnp.ones((1, 4, 1), jnp.complex64), (2,))


@pytest.mark.parametrize(
    ("window", "options", "argument"),
    [
        ((2, 2), {"strides": (1,)}, "strides"),
        ((2,), {"padding": ((0, 0), (0, 0))}, "padding"),
        ((2,), {"padding": ((0, 0, 0),)}, "padding"),
        ((2, 2, 2), {}, "window_shape"),
    ],
)
def test_bad_arguments_are_named(window, options, argument):
    for name in POOLS:
        with pytest.raises(ValueError, match=argument):
            getattr(compat, name)(jnp.ones((1, 4, 1)), window, **options)


# ---- models ---------------------------------------------------------------------------------------------------------


class LinenModel(linen.Module):
    """Strides, groups, both dilations, pools."""

    convolve: object = None
    pools: object = linen

    @linen.compact
    def __call__(self, x):
        options = {"conv_general_dilated": self.convolve, "param_dtype": jnp.float64}
        x = linen.Conv(4, (3, 3), strides=(2, 1), padding=((1, 0), (2, 1)), **options)(x)
        x = self.pools.max_pool(jax.nn.relu(x), (2, 3), strides=(1, 2), padding="SAME")
        x = linen.Conv(4, (2, 2), feature_group_count=2, input_dilation=(2, 1), padding=((1, 0), (0, 2)), **options)(x)
        x = self.pools.avg_pool(x, (2, 2), strides=(2, 1))
        return linen.Conv(2, (2, 2), kernel_dilation=2, padding="CIRCULAR", **options)(x)


def nnx_model(convolve):
    options = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    if convolve is not None:
        options["conv_general_dilated"] = convolve
    first = nnx.Conv(2, 4, (3, 3), strides=(2, 1), padding=((1, 0), (2, 1)), **options)
    second = nnx.Conv(4, 4, (2, 2), feature_group_count=2, input_dilation=(2, 1), padding=((1, 0), (0, 2)), **options)
    return nnx.Sequential(first, jax.nn.relu, second)


def trained(apply, parameters, x, steps):
    """Parameters after steps of descent on a random functional of the output, integers at first: float64 is exact."""

    @jax.jit
    def step(parameters):
        def loss(parameters):
            y = apply(parameters, x)
            return jnp.sum(y * integers(5, y.shape, -1, 2, np.float64))

        return jax.tree.map(lambda p, g: p - g / 64, parameters, jax.grad(loss)(parameters))

    leaves, tree = jax.tree.flatten(parameters)
    start = [jnp.asarray(integers(i, leaf.shape, -1, 2, np.float64)) for i, leaf in enumerate(leaves)]
    parameters = jax.tree.unflatten(tree, start)
    for _ in range(steps):
        parameters = step(parameters)
    assert all(np.any(a != b) for a, b in zip(start, jax.tree.leaves(parameters), strict=True))
    return parameters


def test_linen_model_trains_as_with_autodiff():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x = jnp.asarray(integers(9, (2, 6, 5, 2), -1, 2, np.float64))
        models = [LinenModel(), LinenModel(compat_lax.conv_general_dilated, compat)]
        results = []
        for model in models:
            variables = jax.eval_shape(model.init, jax.random.key(0), x)
            results.append(trained(model.apply, variables, x, steps=3))
    assert_identical(*results)


def test_nnx_model_trains_as_with_autodiff():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x = jnp.asarray(integers(9, (2, 6, 5, 2), -1, 2, np.float64))
        results = []
        for convolve in (None, compat_lax.conv_general_dilated):
            graph, state = nnx.split(nnx_model(convolve))
            results.append(trained(lambda state, x, graph=graph: nnx.merge(graph, state)(x), state, x, steps=4))
    assert_identical(*results)
