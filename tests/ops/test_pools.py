"""Pooling: ties, padding, NaN, infinities, integers; against loops, XLA's select-and-scatter and Torch."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from agreement import (
    TIES,
    assert_equal,
    check_max_pool,
    compiled,
    formulations,
    max_pool_program,
    needs_torch,
)
from cases import CHANNELS_FIRST, FLOATS, POOLS, Pool
from pool_data import TORCH_POOLS, both, distinct, not_finite, tensor, tied

import fnconv

HALVES_AND_DOUBLE = [d for d in FLOATS if d != "float32"]
IN_EVERY_DTYPE = ("2d dilated, asymmetric", "2d disjoint, padded")


# ---- max ------------------------------------------------------------------------------------------------------------


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", POOLS)
def test_max_pool_value_position_and_gradient(name):
    """Distinct integers, ties, and NaN and infinities, in one compiled program: every formulation and tie order."""
    case = POOLS[name]
    for data in (distinct, tied, not_finite):
        check_max_pool(case, data(case))


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", HALVES_AND_DOUBLE)
@pytest.mark.parametrize("name", [n if n in IN_EVERY_DTYPE else pytest.param(n, marks=pytest.mark.slow) for n in POOLS])
def test_max_pool_in_the_other_float_dtypes(name, dtype):
    case = POOLS[name]
    for data in (distinct, tied, not_finite):
        check_max_pool(case, data(case), dtype)


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8"])
@pytest.mark.parametrize("name", ["2d dilated, asymmetric", "1d windows wholly in the padding"])
def test_max_pool_of_integers(name, dtype):
    """Also where all cells hold the smallest integer, which is what the padding holds."""
    case = POOLS[name]
    smallest = np.iinfo(dtype).min
    check_max_pool(case, tied(case), dtype)
    check_max_pool(case, np.full(case.x_shape, smallest), dtype)


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", [n for n, c in POOLS.items() if c.dilation == 1 and not c.ceil_mode])
def test_row_major_ties_are_those_of_xla(name):
    """jax.grad of reduce_window is select-and-scatter: the same winner of equal maxima, bit for bit."""
    case = POOLS[name]
    dy = np.random.default_rng(3).integers(1, 8, case.y_shape)

    def autodiff(x, dy):
        y, pullback = jax.vjp(lambda x: oracles.plain_max_pool(x, case.axes), x)
        return y, pullback(dy)[0]

    autodiff = compiled(autodiff)
    for x in (distinct(case), tied(case)):
        y, dx = autodiff(*(jnp.asarray(a, jnp.float32) for a in (x, dy)))
        got = max_pool_program(case)(*(jnp.asarray(case.arranged(a), jnp.float32) for a in (x, dy)))
        for rule in formulations("max_pool"):
            assert_equal(case.canonical(got[rule, "row_major"][0]), y, rule)
            assert_equal(case.canonical(got[rule, "row_major"][2]), dx, rule)


def test_tie_orders_differ_where_they_should():
    """[[1, 2], [2, 1]]: XLA takes the 2 of the first row, Wei the 2 of the first column."""
    x = jnp.array([[1.0, 2.0], [2.0, 1.0]])[:, :, None]
    positions = {t: int(fnconv.max_pool_with_indices(x, (2, 2), ties=t)[1][0, 0, 0]) for t in TIES}
    assert positions == {"row_major": 1, "column_major": 2}


@pytest.mark.sample(6)
@needs_torch
@pytest.mark.parametrize(("size", "options"), TORCH_POOLS)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_is_torch_s(size, options, ties):
    """Value, index and gradient, with padding, dilation and ceil_mode; ties are resolved in reading order there too."""
    case = Pool(size, options["kernel_size"])
    x = oracles.channels_first(tied(case) if ties else distinct(case))
    theirs, ours = both("max_pool", size, options)
    _, want_indices = theirs(tensor(x), return_indices=True)
    dy = np.random.default_rng(3).integers(1, 8, want_indices.shape)
    want_y, want_dx = oracles.torch_gradients(theirs, [x], dy)

    def pool(x):
        return fnconv.max_pool_with_indices(x, **ours, **CHANNELS_FIRST)

    y, pullback, indices = jax.vjp(pool, jnp.asarray(x, jnp.float32), has_aux=True)
    assert_equal(y, want_y, "y")
    assert_equal(indices, want_indices.numpy(), "indices")
    assert_equal(pullback(jnp.asarray(dy, jnp.float32))[0], want_dx, "dx")


# ---- unpooling ------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize(("strides", "size"), [((2, 2), (4, 6)), ((1, 2), (4, 5)), ((2, 1), (5, 4))])
def test_max_unpool_is_torch_s(strides, size):
    """Also for overlapping windows, where several maxima share a cell."""
    import torch

    x = oracles.channels_first(distinct(Pool(size, (2, 2))))
    y, indices = torch.nn.functional.max_pool2d(tensor(x), (2, 2), strides, return_indices=True)
    want = torch.nn.functional.max_unpool2d(y, indices, (2, 2), strides, output_size=size)
    ours = fnconv.max_unpool(
        jnp.asarray(y.numpy(), jnp.float32), jnp.asarray(indices.numpy(), jnp.int32), size, **CHANNELS_FIRST
    )
    assert_equal(ours, want.numpy(), "x")


def test_max_unpool_keeps_the_last_of_several_and_its_gradient_goes_there_alone():
    """Different values at one index, and indices outside the map."""
    y = np.array([[5, 6, 7, 8, 9, 3]]).reshape(1, 2, 3, 1)
    indices = np.array([[2, 0, 2, 2, -1, 99]]).reshape(1, 2, 3, 1)
    dx = np.array([10, 20, 30, 40]).reshape(1, 2, 2, 1)
    x, pullback = jax.vjp(
        lambda y: fnconv.max_unpool(y, jnp.asarray(indices, jnp.int32), (2, 2)), jnp.asarray(y, jnp.float32)
    )
    assert x.ravel().tolist() == [6, 0, 8, 0]
    assert pullback(jnp.asarray(dx, jnp.float32))[0].ravel().tolist() == [0, 10, 0, 30, 0, 0]


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_unpooling_what_was_pooled_restores_the_maxima(batch, layout):
    """Disjoint windows: every maximum at its place, zeros elsewhere, in both layouts and with any batch axes."""
    case = Pool((4, 6), (2, 3), None, batch=batch, layout=layout)
    x = distinct(case) + 1000
    y, indices = fnconv.max_pool_with_indices(jnp.asarray(case.arranged(x), jnp.float32), (2, 3), layout=layout)
    back = case.canonical(fnconv.max_unpool(y, indices, (4, 6), layout=layout))
    _, _, selected = oracles.max_pool(x.astype(float), np.ones(case.y_shape), case.axes)
    assert_equal(back, x * selected, "x")
