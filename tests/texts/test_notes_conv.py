"""Notes 2.3 and the kernel's update: the worked examples with their own numbers, the formulas with 1-based indices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from every_rule import assert_every, conv_and_gradients, f32, input_gradient_products, last, one_channel
from loops import From1, fill, from_1, integers, value_and_slope

import fnconv
from fnconv.base.geometry import Axis, named_padding, window_axes
from fnconv.base.pairs import pad, zero_insert

equal = np.testing.assert_array_equal


def case(seed, size, window, output):
    """Random input, kernel and cotangent."""
    rng = np.random.default_rng(seed)
    return integers(rng, size, size), integers(rng, window, window), integers(rng, output, output)


# ---- 2.3, convolution: delta ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_index_of_the_backward_formula_is_that_of_the_forward(stride):
    """a + m - 1 + (a - 1)(stride - 1), where the window element m of output a lies, is m + (a - 1) stride."""
    positions = Axis(20, 4, stride).positions()
    assert positions.shape[0] > 3
    for a, m in from_1(*positions.shape):
        assert positions[a - 1, m - 1] + 1 == a + m - 1 + (a - 1) * (stride - 1) == m + (a - 1) * stride


def backward_formula(w, delta, shape, stride, extra):
    """delta_wh = sum_ab delta_ab w_{w - (a-1) stride + extra, h - (b-1) stride + extra}, 1-based."""
    w, rows, cols = From1(w), *delta.shape
    d = From1(delta)
    return fill(
        shape,
        lambda i, j: sum(
            d[a, b] * w[i - (a - 1) * stride + extra, j - (b - 1) * stride + extra] for a, b in from_1(rows, cols)
        ),
    )


@pytest.mark.parametrize(("stride", "output"), [(1, 4), (2, 2), (3, 2)])
def test_slip_in_conv_backward_the_kernel_index_has_no_plus_1(stride, output):
    """w_{w-(a-1) stride, ...}, as in the text's own correction; a + 1 more shifts every delta."""
    a, w, delta = case(7 + stride, 5, 2, output)
    right, printed = (backward_formula(w, delta, (5, 5), stride, extra) for extra in (0, 1))
    for _, dx, _ in one_channel(a, w, delta, strides=stride).values():
        equal(dx[:, :, 0], right)
        assert (dx[:, :, 0] != printed).any()


def test_delta_adds_over_all_filters_for_each_input_channel():
    """delta_{w,h,k} of channel k sums the filters' deltas through their channel k, and only that one."""
    rng = np.random.default_rng(11)
    x, w, delta = integers(rng, 5, 5, 2), integers(rng, 2, 2, 2, 3), integers(rng, 2, 2, 3)
    expected = [
        sum(backward_formula(w[:, :, k, num], delta[:, :, num], (5, 5), 2, 0) for num in range(3)) for k in range(2)
    ]
    for _, dx, _ in conv_and_gradients(x, w, delta, strides=2).values():
        equal(dx, np.stack(expected, axis=-1))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_delta_carries_the_slope_of_the_layer_before(activation):
    """delta^L = (sum_ab delta w) sigma'(z^L), and the kernel's gradient sees a = sigma(z), not z."""
    rng = np.random.default_rng(13)
    z = integers(rng, 5, 5) if activation == "relu" else rng.integers(0, 2, (5, 5)) * 200
    a, slope = value_and_slope(activation, z)
    w, delta = integers(rng, 2, 2), integers(rng, 2, 2)
    sigma = getattr(fnconv, activation)
    _, pullback = jax.vjp(lambda z, w: fnconv.conv(sigma(z), w, strides=2), last(f32(z)), f32(w)[:, :, None, None])
    dz, dw = pullback(last(f32(delta)))
    equal(dz[:, :, 0], backward_formula(w, delta, (5, 5), 2, 0) * slope)
    d = From1(delta)
    a = np.asarray(2 * a, int)
    twice = fill(
        (2, 2), lambda m, n: sum(d[i, j] * From1(a)[m + (i - 1) * 2, n + (j - 1) * 2] for i, j in from_1(2, 2))
    )
    equal(2 * dw[:, :, 0, 0], twice)


def test_slip_in_the_general_backward_formula_the_layer_sees_sigma_not_its_slope():
    """The forward inside the derivative is sum w sigma(z) + b; with the printed sigma'(z) the slope would be sigma''.

    At z = 0 they are 1/4 and 0 for the sigmoid, and the forward 1/2 and 1/4.
    """
    z, w = jnp.zeros((2, 2, 1)), f32([[1, 2], [3, 4]])[:, :, None, None]
    y, pullback = jax.vjp(lambda z: fnconv.conv(fnconv.sigmoid(z), w), z)
    printed = jax.vjp(lambda z: fnconv.conv(jax.vmap(jax.grad(fnconv.sigmoid))(z.reshape(-1)).reshape(z.shape), w), z)
    assert (y.item(), printed[0].item()) == (5, 2.5)
    assert pullback(f32([[[1]]]))[0].reshape(-1).tolist() == [0.25, 0.5, 0.75, 1]
    assert printed[1](f32([[[1]]]))[0].reshape(-1).tolist() == [0, 0, 0, 0]


# ---- 5x5, 2x2 kernel, stride 2: valid, with leftovers ---------------------------------------------------------------


@pytest.fixture(scope="module")
def products_5x5():
    return input_gradient_products(5, 2, strides=2)


def test_5x5_stride_2_the_first_row_term_by_term(products_5x5):
    """delta_11 = w_11 d_11, delta_12 = w_12 d_11, delta_13 = w_11 d_12, delta_14 = w_12 d_12, delta_15 = 0."""
    row = [{("11", "11")}, {("11", "12")}, {("12", "11")}, {("12", "12")}, set()]
    for products in products_5x5.values():
        assert [products[f"1{j}"] for j in range(1, 6)] == row


def test_slip_in_5x5_delta_12_is_w_12_times_the_first_delta(products_5x5):
    """w_12 d_11; the printed w_12 d_12 is delta_14."""
    for products in products_5x5.values():
        assert products["12"] == {("11", "12")} != {("12", "12")} == products["14"]


def test_5x5_stride_2_every_cell_has_one_product_and_the_leftovers_none(products_5x5):
    for products in products_5x5.values():
        assert {c for c, found in products.items() if not found} == {
            "15",
            "25",
            "35",
            "45",
            "51",
            "52",
            "53",
            "54",
            "55",
        }
        assert all(len(found) == 1 for c, found in products.items() if "5" not in c)


def test_5x5_stride_2_the_matrices_as_drawn():
    """Zeros between the deltas, a rim of zeros, rot180(w): 4x4, the fifth row and column filled with zeros."""
    d = np.array([[2, 3], [5, 7]])
    w = np.array([[11, 13], [17, 19]])
    inserted = np.asarray(zero_insert(f32(d)[None, :, :, None], (2, 2)))[0, :, :, 0]
    equal(inserted, [[2, 0, 3], [0, 0, 0], [5, 0, 7]])
    (axis, _) = window_axes((5, 5), (2, 2), 2)
    assert (axis.output, axis.leftover, axis.reach) == ((5 - 2) // 2 + 1, 1, 4)
    rim = axis.input_gradient()
    assert (rim.low, rim.high) == (1, 1 + axis.leftover)  # the leftovers are part of the padding
    drawn = [[0, 0, 0, 0, 0], [0, 2, 0, 3, 0], [0, 0, 0, 0, 0], [0, 5, 0, 7, 0], [0, 0, 0, 0, 0]]
    padded = np.asarray(pad(f32(inserted)[None, :, :, None], (rim, rim)))[0, :, :, 0]
    equal(padded[:5, :5], drawn)
    assert not padded[5].any()
    assert not padded[:, 5].any()
    covered = loops.conv(np.array(drawn)[None], w[None, None, ::-1, ::-1])[0]
    filled = np.pad(covered, ((0, 1), (0, 1)))
    assert covered.shape == (4, 4)
    for _, dx, _ in one_channel(np.zeros((5, 5)), w, d, strides=2).values():
        equal(dx[:, :, 0], filled)


# ---- 5x5, 3x3 kernel, stride 2: same --------------------------------------------------------------------------------


def test_5x5_same_stride_2_step_by_step():
    """Padded by 3 on each side to 11; 5x5 out; zeros inserted to 9x9; padded by 2 to 13; correlated to 11; cropped."""
    a, w, delta = case(17, 5, 3, 5)
    low, high = named_padding("INPUT_SIZE", 5, 3, 2)
    assert (low, high, low + 5 + high) == (3, 3, 11)
    (axis,) = window_axes((5,), (3,), 2, "INPUT_SIZE")
    assert (axis.output, axis.leftover) == ((11 - 3) // 2 + 1, 0) == (5, 0)  # "no element is left out"
    y = loops.conv(np.pad(a, 3)[None], w[None, None], stride=2)
    inserted = np.zeros((9, 9), int)
    inserted[::2, ::2] = delta
    equal(zero_insert(f32(delta)[None, :, :, None], (2, 2))[0, :, :, 0], inserted)
    padded = np.pad(inserted, 2)
    assert padded.shape == (13, 13)
    full = loops.conv(padded[None], w[None, None, ::-1, ::-1])[0]
    assert full.shape == (11, 11)
    dw = loops.conv_weight_gradient(np.pad(a, 3)[None], delta[None], (3, 3), stride=2)[0, 0]
    results = one_channel(a, w, delta, strides=2, padding="INPUT_SIZE")
    assert_every(results, last(y[0]), last(full[3:8, 3:8]), dw[:, :, None, None])
    rim = axis.input_gradient()
    assert (rim.low, rim.high) == (2 - 3, 2 - 3)  # padding by 2 and taking the middle at once


def test_ecosystem_same_is_another_convention():
    """ "SAME" gives ceil(5 / 2) = 3 where the *same* of the text gives 5."""
    x, w = jnp.ones((5, 5, 1)), jnp.ones((3, 3, 1, 1))
    assert fnconv.conv(x, w, strides=2, padding="SAME").shape == (3, 3, 1)
    assert fnconv.conv(x, w, strides=2, padding="INPUT_SIZE").shape == (5, 5, 1)


# ---- the kernel's update --------------------------------------------------------------------------------------------


def kernel_formula(a, delta, window, stride):
    """dC/dw_mn = sum_ab delta_ab a_{m + (a-1) stride, n + (b-1) stride}, 1-based."""
    d, cells = From1(delta), From1(a)
    pairs = list(from_1(*delta.shape))
    return fill(
        (window, window),
        lambda m, n: sum(d[i, j] * cells[m + (i - 1) * stride, n + (j - 1) * stride] for i, j in pairs),
    )


def test_4x4_kernel_update_with_stride_2():
    """The deltas with zeros between them are the kernel that runs over a^L, unpadded, at stride 1."""
    a, w, delta = case(19, 4, 2, 2)
    inserted = np.zeros((3, 3), int)
    inserted[::2, ::2] = delta
    as_correlation = loops.conv(a[None], inserted[None, None])[0]
    for *_, dw in one_channel(a, w, delta, strides=2).values():
        equal(dw[:, :, 0, 0], kernel_formula(a, delta, 2, 2))
        equal(dw[:, :, 0, 0], as_correlation)


def test_slip_in_the_kernel_update_one_input_with_both_indices():
    """a_{m+.., n+..} of a^L; the product of two entries with one index each, or a^{L+1}, gives another."""
    a, w, delta = case(23, 4, 2, 2)
    diagonal = np.diag(a)  # some reading of an entry with one index
    by_two = fill(
        (2, 2),
        lambda m, n: sum(
            From1(delta)[i, j] * diagonal[m + (i - 1) * 2 - 1] * diagonal[n + (j - 1) * 2 - 1] for i, j in from_1(2, 2)
        ),
    )
    y = loops.conv(a[None], w[None, None], stride=2)[0]
    of_output = kernel_formula(y, delta, 2, 2)
    for *_, dw in one_channel(a, w, delta, strides=2).values():
        assert (dw[:, :, 0, 0] != by_two).any()
        assert (dw[:, :, 0, 0] != of_output).any()
    assert max(y.shape) < 2 + (2 - 1) * 2  # the index runs to 4, past the 2x2 of a^{L+1}


def test_4x4_kernel_update_with_a_3x3_kernel_uses_the_covered_cells_alone():
    """Stride 2 gives one delta: dw = delta_11 times the upper left 3x3, whatever stands in the leftover cells."""
    a, w, _ = case(29, 4, 3, 1)
    other = a.copy()
    other[3], other[:, 3] = 99, -99
    for image in (a, other):
        for *_, dw in one_channel(image, w, [[3]], strides=2).values():
            equal(dw[:, :, 0, 0], 3 * a[:3, :3])
    assert (window_axes((4,), (3,), 2)[0].output, window_axes((4,), (3,), 2)[0].leftover) == (1, 1)


def test_slip_in_the_last_example_seven_zeros_are_three_and_four():
    """4x4, 2x2 kernel, stride 3, *same*: 11 cells give 4; the printed 3 on both sides makes 10 cells, which give 3."""
    assert named_padding("INPUT_SIZE", 4, 2, 3) == (3, 4)
    assert (Axis(4, 2, 3, 1, 3, 4).output, Axis(4, 2, 3, 1, 3, 3).output) == (4, 3)
    a, w, delta = case(31, 4, 2, 4)
    padded = np.pad(a, ((3, 4), (3, 4)))
    inserted = np.zeros((10, 10), int)
    inserted[::3, ::3] = delta
    dw = loops.conv(padded[None], inserted[None, None])[0]
    assert (padded.shape, dw.shape) == ((11, 11), (2, 2))  # (11 - 10) / 1 + 1 = 2
    y = loops.conv(padded[None], w[None, None], stride=3)[0]
    dx = loops.conv_input_gradient(delta[None], w[None, None], (11, 11), stride=3)[0, 3:7, 3:7]
    results = one_channel(a, w, delta, strides=3, padding="INPUT_SIZE")
    assert_every(results, last(y), last(dx), dw[:, :, None, None])
    swapped = loops.conv(np.pad(a, ((4, 3), (4, 3)))[None], inserted[None, None])[0]
    assert (swapped != dw).any()
