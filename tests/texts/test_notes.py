"""Notes 1 and 2.1, 2.2: forward, the fully connected layer and pooling, with the text's own numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_rule import assert_every, f32, last, max_pool_and_gradient, one_channel
from loops import From1, fill, from_1, integers, value_and_slope

import fnconv

equal = np.testing.assert_array_equal


def case(seed, size, window, output):
    """Random input, kernel and cotangent."""
    rng = np.random.default_rng(seed)
    return integers(rng, size, size), integers(rng, window, window), integers(rng, output, output)


# ---- 1, forward -----------------------------------------------------------------------------------------------------


def test_slip_in_the_first_formula_the_index_is_a_pair():
    """a_{i+p-1, j+q-1}; the printed a_{i+p-1+j+q-1} is one number, the same for z_12 and z_21."""
    a, k, delta = case(0, 4, 2, 3)
    right = fill((3, 3), lambda i, j: sum(From1(a)[i + p - 1, j + q - 1] * From1(k)[p, q] for p, q in from_1(2, 2)))
    flat = a.reshape(-1)
    printed = fill((3, 3), lambda i, j: sum(flat[i + p - 1 + j + q - 1 - 1] * From1(k)[p, q] for p, q in from_1(2, 2)))
    for y, *_ in one_channel(a, k, delta).values():
        equal(y[:, :, 0], right)
        assert (y[:, :, 0] != printed).any()
        assert y[0, 1, 0] != y[1, 0, 0]
    assert printed[0, 1] == printed[1, 0]


def test_conv_is_a_correlation_and_with_the_kernel_turned_the_mathematical_convolution():
    """At stride 1, against np.convolve; the kernel of a network is not flipped."""
    rng = np.random.default_rng(1)
    x, w = integers(rng, 7), integers(rng, 3)
    y = fnconv.conv(f32(x)[:, None], f32(w)[:, None, None], padding="FULL")[:, 0]
    flipped = fnconv.conv(f32(x)[:, None], f32(w[::-1])[:, None, None], padding="FULL")[:, 0]
    equal(y, np.correlate(x, w, "full"))
    equal(flipped, np.convolve(x, w, "full"))
    assert (np.asarray(y) != np.convolve(x, w, "full")).any()


PIXELS = np.array([[0.1, 0.2], [0.3, 0.6]])


def test_max_and_average_pooling_of_the_2x2_example():
    """Maximum 0.6; average 0.3, drawn by the text over the whole window."""
    x = last(f32(PIXELS))
    assert fnconv.max_pool(x, (2, 2)).item() == np.float32(0.6)
    y, pullback = jax.vjp(lambda x: fnconv.avg_pool(x, (2, 2)), x)
    # four rounded inputs, three rounded sums: 7 half-ulps of the largest partial sum, over 4
    assert abs(y.item() - 0.3) <= 7 * 2**-24 * PIXELS.sum() / 4
    spread = pullback(4 * y)[0][:, :, 0]
    equal(spread, np.full((2, 2), y.item(), np.float32))


def test_l2_norm_pooling():
    """sqrt(sum x^2) of each window, gradient x / y: on 3-4-12-... windows it is whole numbers."""
    x = np.array([[3, 4, 0, 0], [12, 0, 0, -5]])
    y, pullback = jax.vjp(lambda x: fnconv.lp_pool(x, (2, 2)), last(f32(x)))
    assert y[:, :, 0].tolist() == [[13, 5]]
    dx = pullback(last(f32([[13, 2]])))[0][:, :, 0]
    expected = np.array([[3, 4, 0, 0], [12, 0, 0, -2]])
    # x / y and its product with dy, two roundings each of a value below 16
    np.testing.assert_allclose(dx, expected, rtol=2 * 2.0**-23, atol=0)
    # under the root 2 half-ulps from the inputs, 1 from the squares, 3 from the sums; the root halves them and adds 1
    assert fnconv.lp_pool(last(f32(PIXELS)), (2, 2)).item() == pytest.approx(np.sqrt(0.5), rel=4.5 * 2.0**-24)


@pytest.mark.parametrize("pool", [fnconv.max_pool, fnconv.avg_pool, fnconv.lp_pool])
def test_pooling_does_not_feel_a_shift_inside_a_window(pool):
    """Translation invariance "in a certain sense": within the window, not across its border."""
    feature = np.zeros((3, 4, 4))
    feature[0, 0, 0] = feature[1, 1, 1] = feature[2, 1, 2] = 3
    y = np.asarray(pool(f32(feature)[..., None], (2, 2)))
    equal(y[0], y[1])
    assert (y[1] != y[2]).any()


def test_pool_sizes_bring_images_of_different_sizes_to_one_size():
    shapes = {fnconv.adaptive_max_pool(jnp.ones((h, w, 2)), (3, 3)).shape for h, w in ((3, 7), (8, 5))}
    assert shapes == {(3, 3, 2)}
    assert {fnconv.spatial_pyramid_pool(jnp.ones((h, 9, 2)), ((1, 1), (2, 2))).shape for h in (4, 7)} == {(10,)}


# ---- 2.1, the fully connected layer ---------------------------------------------------------------------------------


def test_fully_connected_gradients_in_indices_and_as_matrices():
    """Delta w_mn = delta_m a_n, Delta b_j = delta_j, delta_j^L = sum_k delta_k w_kj sigma'(z_j); and the matrix form.

    The ReLU's slopes differ from cell to cell, so that its place shows.  w_kn of the text is w[n, k] of `dense`.
    """
    rng = np.random.default_rng(3)
    z, w, b, delta = (integers(rng, *s) for s in ((4,), (3, 4), (3,), (3,)))
    slope = (z > 0).astype(int)
    a = z * slope
    assert 0 < slope.sum() < 4

    def layer(z, w, b):
        return fnconv.dense(fnconv.relu(z), w.T, b)

    y, pullback = jax.vjp(layer, f32(z), f32(w), f32(b))
    dz, dw, db = pullback(f32(delta))
    equal(y, [sum(w[k, n] * a[n] for n in range(4)) + b[k] for k in range(3)])
    equal(dw, [[delta[m] * a[n] for n in range(4)] for m in range(3)])
    equal(db, delta)
    equal(dz, [sum(delta[k] * w[k, j] for k in range(3)) * slope[j] for j in range(4)])
    equal(dw, delta[:, None] @ a[None])
    equal(dz, (delta @ w) * slope)  # "exchange the order": delta stands left as a row, w^T left of a column
    equal(dz, (w.T @ delta) * slope)


# ---- 2.2, pooling ---------------------------------------------------------------------------------------------------

DELTA = np.array([[9, 18], [36, 72]])  # whole ninths, and every sum of them tells its terms


def test_mean_pool_5x5_window_3x3_stride_2_shares_ninths():
    """Every cell collects 1/9 of each window that it lies in: one, two where two overlap, all four in the centre."""
    d11, d12, d21, d22 = (DELTA // 9).reshape(-1)
    left, both, right = [d11, d21], [d11 + d12, d21 + d22], [d12, d22]
    columns = [[top, top, top + bottom, bottom, bottom] for top, bottom in (left, left, both, right, right)]
    for rule in ("auto", *fnconv.available_rules()["avg_pool"]["input_vjp"]):
        y, pullback = jax.vjp(
            lambda x, rule=rule: fnconv.avg_pool(x, (3, 3), strides=2, rule=rule), jnp.ones((5, 5, 1))
        )
        assert y.shape == (2, 2, 1)
        equal(pullback(last(f32(DELTA)))[0][:, :, 0], np.array(columns).T)


# maxima of the four 3x3 windows: 20 at (2, 3), which the upper two share, 30 at (4, 1), 25 at (5, 5); negative slopes
MAXIMA = np.arange(25).reshape(5, 5) % 7
MAXIMA[1, 2], MAXIMA[3, 0], MAXIMA[4, 4] = 20, 30, 25


def test_max_pool_adds_the_deltas_that_meet_at_one_cell():
    """delta_11 sigma'(z) + delta_12 sigma'(z) at the repeated position, zeros where nothing was selected."""
    dx = np.zeros((5, 5))
    dx[1, 2], dx[3, 0], dx[4, 4] = DELTA[0, 0] + DELTA[0, 1], DELTA[1, 0], DELTA[1, 1]
    results = max_pool_and_gradient(last(MAXIMA), last(DELTA), (3, 3), strides=2)
    assert_every(results, last([[20, 20], [30, 25]]), last(dx))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_upsample_times_the_slope_of_the_layer_before(pool, activation):
    """delta^{l-1} = upsample(delta^l) * sigma'(z^{l-1}): each cell with the slope at its own z."""
    rng = np.random.default_rng(5)
    sigma, f = getattr(fnconv, activation), getattr(fnconv, pool)
    z = rng.permutation(25).reshape(5, 5) - 12
    z[:3, :3] = -1 - abs(z[:3, :3])  # the first window selects a cell without slope
    if activation == "sigmoid":
        z = rng.integers(-1, 1, (5, 5)) * 200
        z[0, 0] = 200  # the maximum of the first window, without slope as well; the others select 0
    a, slope = value_and_slope(activation, z)
    assert 0 < (slope != 0).sum() < 25
    delta = last(f32(36 * DELTA))
    got = jax.vjp(lambda z: f(sigma(z), (3, 3), strides=2), last(f32(z)))[1](delta)[0]
    upsampled = jax.vjp(lambda a: f(a, (3, 3), strides=2), last(f32(a)))[1](delta)[0]
    equal(got[:, :, 0], np.asarray(upsampled)[:, :, 0] * slope)
    assert (np.asarray(got) != np.asarray(upsampled)).any()
    assert np.asarray(got).any()


@pytest.mark.parametrize("pool", [fnconv.max_pool, fnconv.avg_pool])
def test_cells_left_over_by_pooling_keep_zero(pool):
    """5x5 with 2x2 windows: the fifth row and column are lost, their gradient stays 0 however large they are."""
    x = np.arange(1, 26).reshape(5, 5)
    y, pullback = jax.vjp(lambda x: pool(x, (2, 2)), last(f32(x)))
    assert y.shape == (2, 2, 1)
    dx = np.asarray(pullback(last(f32([[4, 8], [12, 16]])))[0][:, :, 0])
    assert not dx[4].any()
    assert not dx[:, 4].any()
    assert dx.sum() == 40
