"""Small: 3x3 input, 2x2 kernel, every gradient written out element by element, and its 2x2 pooling."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from every_rule import assert_every, conv_and_gradients, f32, input_gradient_products, max_pool_and_gradient

import fnconv

# dL/dI_ij as (index of dL/dO, index of W) of each product, in the order of the text: (i), (ii), (iii)
INPUT_GRADIENT = {
    "11": [("11", "11")],
    "13": [("12", "12")],
    "31": [("21", "21")],
    "33": [("22", "22")],
    "22": [("11", "22"), ("12", "21"), ("21", "12"), ("22", "11")],
    "12": [("11", "12"), ("12", "11")],  # the text prints W_22 for W_12
    "21": [("11", "21"), ("21", "11")],
    "23": [("12", "22"), ("22", "12")],
    "32": [("21", "22"), ("22", "21")],
}
PRINTED_12 = [("11", "22"), ("12", "11")]

IMAGE = np.array([[2, 7, 1], [8, 3, 5], [4, 6, 9]])
W = np.array([[11, 13], [17, 19]])
DELTA = np.array([[2, 3], [5, 7]])  # dL/dO


def at(matrix: np.ndarray, index: str) -> int:
    """The entry of a matrix with 1-based indices."""
    return int(matrix[int(index[0]) - 1, int(index[1]) - 1])


def evaluate(products: list[tuple[str, str]], delta: np.ndarray = DELTA, w: np.ndarray = W) -> int:
    return sum(at(delta, d) * at(w, k) for d, k in products)


def channels_last(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, :, None]


def kernel(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, :, None, None]


@pytest.fixture(scope="module")
def products_found() -> dict[str, dict[str, set[tuple[str, str]]]]:
    return input_gradient_products(3, 2)


@pytest.mark.parametrize("cell", INPUT_GRADIENT)
def test_input_gradient_has_the_products_of_the_text(cell, products_found):
    """(3): all nine, which the author could derive only one by one; by every rule."""
    for rule, products in products_found.items():
        assert products[cell] == set(INPUT_GRADIENT[cell]), rule


def test_slip_in_iii_dI12_has_W12_where_W22_is_printed(products_found):
    """delta_11 W_12 + delta_12 W_11, not delta_11 W_22 + delta_12 W_11: told apart by terms and by numbers."""
    for products in products_found.values():
        assert products["12"] != set(PRINTED_12)
    dx = conv_and_gradients(channels_last(IMAGE), kernel(W), channels_last(DELTA))
    for _, value, _ in dx.values():
        assert value[0, 1, 0] == evaluate(INPUT_GRADIENT["12"]) == 2 * 13 + 3 * 11
        assert value[0, 1, 0] != evaluate(PRINTED_12) == 2 * 19 + 3 * 11


def test_forward_and_gradients_in_numbers():
    """O, (2) dW and (3) dI written out with 1-based indices, by every rule."""
    o, dw, di = np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((3, 3))
    for i in (1, 2):
        for j in (1, 2):
            for a in (1, 2):
                for b in (1, 2):
                    o[i - 1, j - 1] += at(IMAGE, f"{i + a - 1}{j + b - 1}") * at(W, f"{a}{b}")
                    dw[i - 1, j - 1] += at(DELTA, f"{a}{b}") * at(IMAGE, f"{i + a - 1}{j + b - 1}")
    for cell, products in INPUT_GRADIENT.items():
        di[int(cell[0]) - 1, int(cell[1]) - 1] = evaluate(products)
    assert o[0, 0] == 2 * 11 + 7 * 13 + 8 * 17 + 3 * 19
    assert dw[0, 1] == 2 * 7 + 3 * 1 + 5 * 3 + 7 * 5
    results = conv_and_gradients(channels_last(IMAGE), kernel(W), channels_last(DELTA))
    assert_every(results, channels_last(o), channels_last(di), kernel(dw))


def test_bias_gradient_is_the_sum_of_delta():
    """(1): the sum, neither the mean nor one delta; unit cotangents each give 1."""
    db = jax.jit(
        jax.vmap(lambda dy: jax.vjp(lambda b: fnconv.conv(f32(IMAGE)[:, :, None], f32(kernel(W)), b), f32([5]))[1](dy))
    )
    cotangents = np.concatenate([np.eye(4), DELTA.reshape(1, 4)]).reshape(5, 2, 2, 1)
    assert db(f32(cotangents))[0].tolist() == [[1], [1], [1], [1], [2 + 3 + 5 + 7]]


def test_slip_b_is_the_bias_not_the_summation_index():
    """O = sum of products + bias; read with the index b of the printed sum, 1 and 2, as the summand it differs."""
    bias = 100
    sums = conv_and_gradients(channels_last(IMAGE), kernel(W), channels_last(DELTA))["auto"][0][:, :, 0]
    y = np.asarray(fnconv.conv(f32(IMAGE)[:, :, None], f32(kernel(W)), f32([bias])))[:, :, 0]
    np.testing.assert_array_equal(y, sums + bias)
    for literal in (
        sums + 1,
        sums + 2,
        sums + (1 + 2),
        sums + 2 * (1 + 2),
    ):  # last value, first, summed over b, a and b
        assert (y != literal).all()


# ---- pooling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", ["row_major", "column_major"])
def test_pooling_gives_the_cotangent_to_the_maximum_alone(ties):
    """2x2 windows at stride 1, as the kernel: O_ij = max I_{i+a-1,j+b-1}; 8 is selected twice."""
    # windows 2 7 8 3 | 7 1 3 5 | 8 3 4 6 | 3 5 6 9
    o = np.array([[8, 7], [8, 9]])
    di = np.array([[0, 3, 0], [2 + 5, 0, 0], [0, 0, 7]])
    results = max_pool_and_gradient(channels_last(IMAGE), channels_last(DELTA), (2, 2), strides=1, ties=ties)
    assert_every(results, channels_last(o), channels_last(di))


def test_pooling_adds_where_one_cell_is_the_maximum_of_several_windows():
    """dL/dI = dL/dO holds for each window; the centre, largest of all four, collects all four cotangents."""
    image = IMAGE.copy()
    image[1, 1] = 10
    di = np.zeros((3, 3))
    di[1, 1] = DELTA.sum()
    results = max_pool_and_gradient(channels_last(image), channels_last(DELTA), (2, 2), strides=1)
    assert_every(results, channels_last(np.full((2, 2), 10)), channels_last(di))
