"""Wei 4, 5 and 1.2: max pooling through S, ReLU, sigmoid, and the flow of gradients, exactly."""

from __future__ import annotations

import jax
import loops
import numpy as np
import pytest
from every_rule import assert_every, f32, max_pool_and_gradient
from loops import integers

import fnconv
from fnconv import textbook
from fnconv.base.geometry import window_axes

equal = np.testing.assert_array_equal

# ---- 4, max pooling -------------------------------------------------------------------------------------------------

POOLS = {"tiling": ((2, 4, 6), (2, 3), (2, 3)), "stride below the filter": ((2, 5, 4), (3, 2), (1, 1))}


@pytest.fixture(scope="module", params=POOLS.values(), ids=POOLS)
def pool(request):
    """x of few values, so that ties abound; A maps each cell to the outputs it reached, S holds the same as ones."""
    shape, window, strides = request.param
    rng = np.random.default_rng(4)
    x = rng.integers(0, 3, shape)
    output = tuple((n - k) // s + 1 for n, k, s in zip(shape[1:], window, strides, strict=True))
    dy = rng.integers(1, 50, (shape[0], *output))
    selected = {}
    for d, i1, j1 in np.ndindex(dy.shape):
        cells = [(i1 * strides[0] + i, j1 * strides[1] + j) for i in range(window[0]) for j in range(window[1])]
        top = max(x[d][c] for c in cells)
        column = min(j for i, j in cells if x[d, i, j] == top)
        row = min(i for i, j in cells if j == column and x[d, i, j] == top)
        selected[d, i1, j1] = (d, row, column)
    return x, dy, window, strides, selected


def test_4_1_and_4_2_the_output_of_pooling(pool):
    x, _, window, strides, selected = pool
    y = np.asarray(fnconv.max_pool(f32(x), window, strides=strides, layout="channels_first"))
    if strides == window:
        assert y.shape == (x.shape[0], x.shape[1] // window[0], x.shape[2] // window[1])  # (4.1)
    for (d, i1, j1), cell in selected.items():
        block = x[d, i1 * strides[0] : i1 * strides[0] + window[0], j1 * strides[1] : j1 * strides[1] + window[1]]
        assert y[d, i1, j1] == block.max() == x[cell]


def test_4_4_and_4_5_the_selection_matrix(pool):
    """S has one 1 a row; vec(y) = S vec(x), dz/dvec(x) = S^T dz/dvec(y), with Wei's ties."""
    x, dy, window, strides, selected = pool
    axes = window_axes(x.shape[1:], window, strides)
    for d in range(len(x)):
        s = np.asarray(textbook.selection_matrix(f32(x[d]), axes))
        position = {cell: n for n, cell in enumerate(loops.column_major(x.shape[1:]))}
        expected = [position[selected[d, i1, j1][1:]] for i1, j1 in loops.column_major(dy.shape[1:])]
        equal(s, np.eye(x[d].size)[expected])
        dx = np.zeros_like(x[d])
        for o, cell in selected.items():
            if o[0] == d:
                dx[cell[1:]] += dy[o]
        got = fnconv.max_pool(f32(x[d])[:, :, None], window, strides=strides, ties="column_major")[:, :, 0]
        equal(s @ loops.column_vec(x[d]), loops.column_vec(np.asarray(got)))
        equal(s.T @ loops.column_vec(dy[d]), loops.column_vec(dx))
        assert strides != window or s.sum(axis=0).max() == 1  # tiling: each cell is selected at most once


def test_slip_in_4_6_the_summand_is_the_gradient_at_x_k_plus_1(pool):
    """dz/dx^k at a cell sums dz/dx^{k+1} over the outputs it reached; summing dz/dx^k, as printed, gives another."""
    x, dy, window, strides, selected = pool
    reached = {cell: [o for o, c in selected.items() if c == cell] for cell in np.ndindex(x.shape)}
    dx, printed = np.zeros(x.shape), np.zeros(x.shape)
    for cell, outputs in reached.items():
        dx[cell] = sum(dy[o] for o in outputs)
    for cell, outputs in reached.items():
        printed[cell] = sum(dx[o] for o in outputs)
    y = np.array([x[c] for c in selected.values()]).reshape(dy.shape)
    results = max_pool_and_gradient(x, dy, window, strides=strides, ties="column_major", layout="channels_first")
    assert_every(results, y, dx)
    assert (printed != dx).any()


def test_ties_take_the_smallest_column_then_the_smallest_row():
    """Wei after (4.3), and XLA's order beside it: where they differ, each is as named."""
    x = np.array([[0, 5, 5], [5, 1, 5], [5, 2, 5]])[None]
    wei, xla = np.zeros((1, 3, 3)), np.zeros((1, 3, 3))
    wei[0, 1, 0] = xla[0, 0, 1] = 7  # column 0 before column 1; in column 0 row 1 before row 2
    y, dy = np.array([[[5]]]), np.array([[[7]]])
    for ties, dx in (("column_major", wei), ("row_major", xla)):
        assert_every(max_pool_and_gradient(x, dy, (3, 3), ties=ties, layout="channels_first"), y, dx)


# ---- 5, activations; 1.2, the flow of gradients ---------------------------------------------------------------------


def test_5_1_to_5_3_relu():
    """Relu'(0) = 0 by definition."""
    x, dy = np.array([-3, -1, 0, 1, 4]), np.array([2, 3, 5, 7, 11])
    y, pullback = jax.vjp(fnconv.relu, f32(x))
    assert y.tolist() == [0, 0, 0, 1, 4]
    assert pullback(f32(dy))[0].tolist() == [0, 0, 0, 7, 11]


def test_sigmoid_has_slope_one_quarter_at_most():
    """sigma(x) = 1 / (1 + e^-x); its slope is 1/4 at 0, its maximum, and vanishes where |x| is large."""
    x = np.linspace(-20, 20, 81)
    slope = np.asarray(jax.vmap(jax.grad(fnconv.sigmoid))(f32(x)))
    assert slope[40] == slope.max() == 0.25
    assert slope[0] == slope[-1] < 3e-9
    assert (np.diff(slope)[:40] > 0).all()
    assert fnconv.sigmoid(f32([-200, 0, 200])).tolist() == [0, 0.5, 1]


def test_1_2_the_gradients_of_a_network_flow_back_layer_by_layer():
    """(1.3), (1.4) for conv, ReLU, max pooling, FC and squared error, each step by loops; then one step of SGD."""
    rng = np.random.default_rng(12)
    x, w, v, target = integers(rng, 2, 5, 5), integers(rng, 3, 2, 2, 2), integers(rng, 12, 2), integers(rng, 2)

    def loss(w, v):
        y = fnconv.relu(fnconv.conv(f32(x), w, layout="channels_first"))
        y = fnconv.max_pool(y, (2, 2), ties="column_major", layout="channels_first")
        return fnconv.squared_error(fnconv.dense(y.reshape(-1), v), f32(target)).sum()

    x2 = loops.conv(x, w)
    x3 = np.maximum(x2, 0)
    pooled = [loops.max_pool(c, np.zeros((2, 2), int), (2, 2), "column_major", stride=2)[0] for c in x3]
    x4 = np.stack(pooled).reshape(-1)
    error = 2 * (x4 @ v - target)  # dz/dx^n of the mean squared error without its mean
    d_v = np.outer(x4, error)
    d4 = (v @ error).reshape(3, 2, 2)
    d3 = np.stack([loops.max_pool(c, d, (2, 2), "column_major", stride=2)[1] for c, d in zip(x3, d4, strict=True)])
    d2 = np.where(x2 > 0, d3, 0)
    d_w = loops.conv_weight_gradient(x, d2, (2, 2))
    assert abs(d_w).max() < 2**24  # float32 keeps every sum exactly
    got_w, got_v = jax.jit(jax.grad(loss, argnums=(0, 1)))(f32(w), f32(v))
    equal(got_w, d_w)
    equal(got_v, d_v)
    rate = 2.0**-16
    step = f32(w) - rate * got_w  # w_{t+1} = w_t - alpha dz/dw_t
    equal(step, (w - rate * d_w).astype(np.float32))
    assert loss(step, f32(v) - rate * got_v) < loss(f32(w), f32(v))
