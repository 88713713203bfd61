"""Averages, norms, adaptive pooling and patches: against loops and Torch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from agreement import assert_equal, check_avg_pool, compiled, needs_torch, width
from cases import CHANNELS_FIRST, FLOATS, POOLS, Pool
from pool_data import OUR_WORDS, TORCH_POOLS, both, distinct, tensor

import fnconv

HALVES_AND_DOUBLE = [d for d in FLOATS if d != "float32"]

# ---- average --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POOLS)
def test_avg_pool_and_its_gradient_in_every_formulation(name):
    check_avg_pool(POOLS[name])


@pytest.mark.parametrize("dtype", HALVES_AND_DOUBLE)
def test_avg_pool_in_the_other_dtypes(dtype):
    check_avg_pool(POOLS["2d disjoint, padded"], dtype)


@needs_torch
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize(("size", "options"), [(s, o) for s, o in TORCH_POOLS if "dilation" not in o])
def test_avg_pool_is_torch_s(size, options, count_include_pad):
    """To one rounding of each operation: Torch in float64 divides the same sums by the same sizes."""
    x = oracles.channels_first(distinct(Pool(size, options["kernel_size"])))
    theirs, ours = both("avg_pool", size, options, count_include_pad=count_include_pad)
    dy = np.random.default_rng(3).integers(-3, 4, theirs(tensor(x)).shape)
    want_y, want_dx = oracles.torch_gradients(theirs, [x], dy)
    with width("float64"):
        y, pullback = jax.vjp(lambda x: fnconv.avg_pool(x, **ours, **CHANNELS_FIRST), jnp.asarray(x, "float64"))
        dx = pullback(jnp.asarray(dy, "float64"))[0]
    windows = int(np.prod(options["kernel_size"]))  # no cell lies in more windows than a window has cells
    unit = np.finfo(np.float64).eps / 2
    assert np.all(np.abs(np.asarray(y) - want_y) <= 2 * unit * np.abs(want_y))
    largest = np.abs(dy).max() * windows
    assert np.all(np.abs(np.asarray(dx) - want_dx) <= 2 * (windows + 1) * unit * largest)


# ---- power average --------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(("size", "window", "strides"), [((7,), 3, 2), ((6, 7), (2, 3), (2, 2)), ((4, 5, 4), 2, 2)])
def test_lp_pool_is_torch_s_for_positive_inputs(size, window, strides, p):
    """Torch takes x^p without the modulus and leaves padding and clipped windows out of comparison."""
    import torch

    theirs = getattr(torch.nn.functional, f"lp_pool{len(size)}d")
    x = np.random.default_rng(5).random((2, 3, *size)) + 0.1
    dy = np.random.default_rng(6).standard_normal(theirs(tensor(x), p, window, strides).shape)
    want_y, want_dx = oracles.torch_gradients(lambda x: theirs(x, p, window, strides), [x], dy)
    ours = window if len(size) > 1 else (window,)
    with width("float64"):
        y, pullback = jax.vjp(
            lambda x: fnconv.lp_pool(x, ours, p=p, strides=strides, **CHANNELS_FIRST), jnp.asarray(x, "float64")
        )
        dx = pullback(jnp.asarray(dy, "float64"))[0]
    # a dozen operations on each side, the elementary functions to 4 units; no cell lies in more than 8 windows
    unit = np.finfo(np.float64).eps / 2
    assert np.all(np.abs(np.asarray(y) - want_y) <= 64 * unit * np.abs(want_y))
    assert np.all(np.abs(np.asarray(dx) - want_dx) <= 64 * unit * 8 * np.abs(dy).max())


def test_lp_pool_of_a_window_of_zeros_has_gradient_zero():
    for p, rule in itertools.product((1, 1.5, 2, 3), ("auto", "segment_sum")):
        x = jnp.array([0.0, 0.0, 3.0, 0.0])[:, None]
        grad = jax.grad(lambda x, p=p, rule=rule: fnconv.lp_pool(x, (2,), p=p, rule=rule).sum())(x)
        assert grad.ravel().tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_lp_pool_where_it_is_not_finite(p):
    for infinite in (np.inf, -np.inf):
        y, pullback = jax.vjp(lambda x: fnconv.lp_pool(x, (2,), p=p), jnp.array([infinite, 1.0, np.nan, 1.0])[:, None])
        assert_equal(y.ravel(), np.array([np.inf, np.nan]), "y")
        first, second, *others = np.asarray(pullback(jnp.ones((2, 1)))[0]).ravel()
        assert_equal([first, second], np.array([np.sign(infinite), 1] if p == 1 else [np.nan, 0]), "beside infinity")
        assert_equal(others, np.array([np.nan, 1] if p == 1 else [np.nan, np.nan]), "beside NaN")


@pytest.mark.parametrize("exponent", [-120, 0, 120])
def test_lp_pool_neither_overflows_nor_vanishes(exponent):
    """3-4-5 triangles at scales whose squares float32 does not hold; a power of two changes no bit."""
    scale = 2.0**exponent
    x = jnp.array([3 * scale, -4 * scale], jnp.float32)[:, None]
    y, pullback = jax.vjp(lambda x: fnconv.lp_pool(x, (2,)), x)
    assert y.item() == 5 * scale
    unscaled = jax.vjp(lambda x: fnconv.lp_pool(x, (2,)), x / np.float32(scale))[1](jnp.ones((1, 1)))[0]
    assert_equal(pullback(jnp.ones((1, 1)))[0], unscaled, "dx")


# ---- adaptive -------------------------------------------------------------------------------------------------------

ADAPTIVE = [((7,), (3,)), ((5, 6), (3, 4)), ((6, 4), (3, 2)), ((3, 2), (5, 4)), ((4, 5, 3), (2, 3, 3))]


@needs_torch
@pytest.mark.parametrize(("size", "output"), ADAPTIVE)
def test_adaptive_max_pool_is_torch_s(size, output):
    """Divisible, not divisible, and more outputs than inputs: value and gradient."""
    import torch

    theirs = getattr(torch.nn.functional, f"adaptive_max_pool{len(size)}d")
    x = oracles.channels_first(distinct(Pool(size, size)))
    dy = np.random.default_rng(3).integers(1, 8, (2, 2, *output))
    want_y, want_dx = oracles.torch_gradients(lambda x: theirs(x, output), [x], dy)

    def program(x, dy):
        y, pullback = jax.vjp(lambda x: fnconv.adaptive_max_pool(x, output, **CHANNELS_FIRST), x)
        return y, pullback(dy)[0]

    y, dx = compiled(program)(*(jnp.asarray(a, jnp.float32) for a in (x, dy)))
    assert_equal(y, want_y, "y")
    assert_equal(dx, want_dx, "dx")


@needs_torch
@pytest.mark.parametrize(("size", "output"), ADAPTIVE)
def test_adaptive_avg_pool_is_torch_s(size, output):
    """Exactly: x and dy are multiples of every window's size."""
    import torch

    theirs = getattr(torch.nn.functional, f"adaptive_avg_pool{len(size)}d")
    scale = np.lcm.reduce(np.arange(1, 13))
    x = oracles.channels_first(distinct(Pool(size, size))) * scale
    dy = np.random.default_rng(3).integers(1, 8, (2, 2, *output)) * scale
    want_y, want_dx = (np.rint(a) for a in oracles.torch_gradients(lambda x: theirs(x, output), [x], dy))

    def program(x, dy):
        y, pullback = jax.vjp(lambda x: fnconv.adaptive_avg_pool(x, output, **CHANNELS_FIRST), x)
        return y, pullback(dy)[0]

    with width("float64"):
        y, dx = compiled(program)(*(jnp.asarray(a, "float64") for a in (x, dy)))
    assert_equal(y, want_y, "y")
    assert_equal(dx, want_dx, "dx")


@pytest.mark.parametrize("ties", ["equal", "nan"])
def test_adaptive_max_pool_keeps_the_conventions_of_max_pool(ties):
    """Windows of 5 cells into 3 are [0, 2), [1, 4), [3, 5): the first maximum, or the first NaN, takes the gradient."""
    x = jnp.array([2.0, 2.0, 2.0, 1.0, 1.0] if ties == "equal" else [0.0, jnp.nan, jnp.nan, 1.0, 0.0])[:, None]
    y, pullback = jax.vjp(lambda x: fnconv.adaptive_max_pool(x, (3,)), x)
    dx = pullback(jnp.array([[1.0], [10.0], [100.0]]))[0].ravel().tolist()
    assert dx == ([1, 10, 0, 100, 0] if ties == "equal" else [0, 11, 0, 100, 0])
    assert_equal(y[:, 0], [2, 2, 1] if ties == "equal" else [np.nan, np.nan, 1], "y")


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_spatial_pyramid_pool_joins_the_adaptive_pools_of_its_levels(pool, layout):
    """Images of two sizes give features of one size, level after level; gradients add up."""
    adaptive = {"max": fnconv.adaptive_max_pool, "avg": fnconv.adaptive_avg_pool}[pool]
    levels = (1, (2, 3), 4)
    features = set()
    for size in ((5, 7), (6, 4)):
        case = Pool(size, size, layout=layout)
        x = jnp.asarray(case.arranged(distinct(case)), jnp.float32)
        bins = [(b, b) if isinstance(b, int) else b for b in levels]
        parts = [adaptive(x, b, layout=layout).reshape(2, -1) for b in bins]

        def pyramid(x):
            return fnconv.spatial_pyramid_pool(x, levels, pool=pool, layout=layout)

        y, pullback = jax.vjp(pyramid, x)
        features.add(y.shape)
        assert_equal(y, np.concatenate(parts, axis=1), "y")
        dy = jnp.asarray(np.random.default_rng(3).integers(-3, 4, y.shape), jnp.float32)
        total, start = jnp.zeros_like(x), 0
        for b in bins:
            out, pull = jax.vjp(lambda x, b=b: adaptive(x, b, layout=layout), x)
            total = total + pull(dy[:, start : start + out[0].size].reshape(out.shape))[0]
            start += out[0].size
        np.testing.assert_allclose(pullback(dy)[0], total, rtol=0, atol=4 * np.finfo(np.float32).eps * 3 * 25)
    assert features == {(2, 2 * (1 + 6 + 16))}


# ---- patches --------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
        {"kernel_size": (3, 2), "stride": (3, 2), "padding": (0, 1)},
    ],
)
def test_im2col_and_col2im_are_torch_s_unfold_and_fold(options):
    import torch

    x = oracles.channels_first(distinct(Pool((5, 6), (2, 2))))
    ours = {OUR_WORDS.get(k, k): v for k, v in options.items()}
    unfolded = torch.nn.functional.unfold(tensor(x), **options)
    cols = fnconv.im2col(jnp.asarray(x, jnp.float32), **ours, **CHANNELS_FIRST)
    assert_equal(cols, unfolded.numpy(), "im2col")
    folded = torch.nn.functional.fold(unfolded, (5, 6), **options)
    assert_equal(fnconv.col2im(cols, x.shape, **ours, **CHANNELS_FIRST), folded.numpy(), "col2im")
