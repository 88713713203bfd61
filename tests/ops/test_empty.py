"""Nothing in, or room for nothing: zeros of the right shape, gradients included, in every formulation."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from agreement import TIES, formulations
from cases import Conv, Pool

import fnconv

CONVS = {
    "no image": Conv((4, 5), (2, 3), batch=(0,)),
    "no image among several batch axes": Conv((4,), (2,), batch=(3, 0), layout="channels_first"),
    "no room for a window": Conv((2, 5), (3, 3)),
    "no room for a dilated window": Conv((4,), (3,), dilation=2),
    "cropped to nothing": Conv((4,), (2,), padding=((-2, -2),)),
    "an empty axis": Conv((0, 3), (2, 2)),
    "an empty axis, padded": Conv((0, 3), (2, 2), padding=1),
    "no input channels": Conv((4,), (2,), inputs=0),
    "no output channels": Conv((4,), (2,), outputs=0),
}


def ones_like_vjp(f, *operands):
    y, pullback = jax.vjp(f, *operands)
    return y, *pullback(jnp.ones_like(y))


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CONVS)
def test_conv(name):
    """As the loops, which add nothing; the bias is all that is left where there are no input channels."""
    case = CONVS[name]
    x = np.ones((case.images, *case.size, case.inputs), np.float32)
    w, b = np.ones(case.w_shape, np.float32), np.full(case.outputs, 3, np.float32)
    y, dx, dw = oracles.conv_maps(
        x, w, np.ones((*x.shape[:1], *oracles.outputs(case.steps()), case.outputs)), case.steps()
    )
    want = case.arranged(y + b), case.arranged(dx), case.kernel(dw), np.full(b.shape, y[..., :1].size)
    for rule_name, rule in formulations("conv").items():
        got = ones_like_vjp(
            lambda x, w, b, rule=rule: fnconv.conv(x, w, b, rule=rule, **case.options),
            *(jnp.asarray(a) for a in (case.arranged(x), case.kernel(w), b)),
        )
        for value, expected in zip(got, want, strict=True):
            np.testing.assert_array_equal(value, expected, err_msg=rule_name)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_conv_transpose(shape):
    w = jnp.ones((2, 4, shape[-1]))
    y, dx, dw = ones_like_vjp(lambda x, w: fnconv.conv_transpose(x, w, strides=2), jnp.ones(shape), w)
    assert y.shape == (shape[0], 2 * shape[1], 4)
    assert not y.any()
    assert dx.shape == shape
    assert dw.shape == w.shape
    assert not dw.any()


POOLS = {
    "no image": Pool((4, 5), (2, 3), None, batch=(0,)),
    "no image, channels first": Pool((4,), (2,), 1, batch=(2, 0), layout="channels_first"),
    "no channels": Pool((4, 5), (2, 3), None, channels=0),
    "no room for a window": Pool((2, 5), (3, 3), 1),
    "an empty axis": Pool((0, 3), (2, 2), 1),
    "an empty axis, padded": Pool((0, 3), (2, 2), 1, 1),
    "cropped to nothing": Pool((4,), (2,), 1, ((-2, -2),)),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", POOLS)
def test_poolings(name):
    """max: -inf and index -1 where a window has no cell; averages and norms: 0; every gradient: 0."""
    case = POOLS[name]
    x = jnp.asarray(case.arranged(np.ones(case.x_shape, np.float32)))
    y_shape = case.arranged(np.zeros(case.y_shape)).shape
    calls = {
        ("max_pool", str(rule), ties): (
            -np.inf,
            lambda x, r=rule, t=ties: fnconv.max_pool(x, case.window, ties=t, rule=r, **case.options),
        )
        for rule in formulations("max_pool").values()
        for ties in TIES
    }
    for operation, options in (("avg_pool", {}), ("avg_pool", {"count_include_pad": False}), ("lp_pool", {"p": 3})):
        f = getattr(fnconv, operation)
        for rule in formulations(operation).values():
            calls[operation, str(rule), str(options)] = (
                0.0,
                lambda x, f=f, r=rule, o=options: f(x, case.window, rule=r, **o, **case.options),
            )
    for call, (value, f) in calls.items():
        y, dx = ones_like_vjp(f, x)
        np.testing.assert_array_equal(y, np.full(y_shape, value), err_msg=str(call))
        np.testing.assert_array_equal(dx, np.zeros(x.shape), err_msg=str(call))
    _, indices = fnconv.max_pool_with_indices(x, case.window, **case.options)
    np.testing.assert_array_equal(indices, np.full(y_shape, -1))


@pytest.mark.parametrize("shape", [(2, 0, 4, 4, 1), (2, 3, 0, 4, 1), (2, 3, 1, 4, 1), (0, 3, 4, 4, 1)])
def test_mapped_maxima(shape):
    """As one batch more: a pullback that is mapped has the shape of the mapped input."""
    f = jax.vmap(lambda x: fnconv.max_pool(x, (2, 2)))
    y, dx = ones_like_vjp(f, jnp.ones(shape))
    assert y.shape == (*shape[:2], shape[2] // 2, 2, 1)
    np.testing.assert_array_equal(dx, np.zeros(shape))


def test_unpooling_and_patches():
    for shape, output in (
        ((0, 2, 2, 3), (4, 4)),
        ((2, 2, 2, 0), (4, 4)),
        ((2, 0, 2, 3), (4, 4)),
        ((2, 2, 2, 3), (0, 4)),
    ):
        indices = jnp.zeros(shape, jnp.int32)
        y, dy = ones_like_vjp(lambda y, i=indices, o=output: fnconv.max_unpool(y, i, o), jnp.ones(shape))
        assert y.shape == (shape[0], *output, shape[-1])
        assert not y.any()
        assert dy.shape == shape
        assert not dy.any()
    for shape in ((0, 4, 3), (2, 1, 3), (2, 4, 0)):
        for layout in ("channels_last", "channels_first"):
            x = jnp.ones(shape if layout == "channels_last" else (shape[0], shape[2], shape[1]))
            cols, dx = ones_like_vjp(lambda x, o=layout: fnconv.im2col(x, (2,), layout=o), x)
            assert cols.shape == (shape[0], 2 * shape[2], max(0, shape[1] - 1))
            assert dx.shape == x.shape
            back = fnconv.col2im(cols, x.shape, (2,), layout=layout)
            np.testing.assert_array_equal(back, dx)


def test_dense_activations_and_losses():
    y, dx, dw = ones_like_vjp(fnconv.dense, jnp.ones((0, 3)), jnp.ones((3, 2)))
    assert (y.shape, dx.shape) == ((0, 2), (0, 3))
    assert dw.tolist() == [[0, 0]] * 3
    y, dx, dw = ones_like_vjp(fnconv.dense, jnp.ones((2, 0)), jnp.ones((0, 3)))
    assert y.tolist() == [[0] * 3] * 2
    for f in (
        fnconv.relu,
        fnconv.leaky_relu,
        fnconv.gelu,
        fnconv.sigmoid,
        fnconv.tanh,
        fnconv.softmax,
        fnconv.log_softmax,
    ):
        for shape in ((0, 3), (3, 0)):
            y, dx = ones_like_vjp(f, jnp.ones(shape))
            assert y.shape == dx.shape == shape
    loss, dz = ones_like_vjp(lambda z: fnconv.softmax_cross_entropy(z, jnp.zeros((0,), jnp.int32)), jnp.ones((0, 3)))
    assert (loss.shape, dz.shape) == ((0,), (0, 3))


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 4, 5, 0)])
def test_adaptive_poolings(shape):
    for f in (fnconv.adaptive_max_pool, fnconv.adaptive_avg_pool):
        y, dx = ones_like_vjp(lambda x, f=f: f(x, (3, 2)), jnp.ones(shape))
        assert y.shape == (shape[0], 3, 2, shape[-1])
        assert dx.shape == shape
    y, dx = ones_like_vjp(lambda x: fnconv.spatial_pyramid_pool(x, (1, 2)), jnp.ones(shape))
    assert y.shape == (shape[0], 5 * shape[-1])
    assert dx.shape == shape
