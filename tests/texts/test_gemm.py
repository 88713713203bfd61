"""GEMM: Caffe's way of doing convolution and max pooling, its shapes, np.add.at, and FC as a full-size convolution.

The text's layouts: x (H, W, D, N), kernels (H', W', D, D'), y (H1, W1, D', N).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_rule import assert_every, conv_and_gradients, f32, max_pool_and_gradient
from loops import integers

import fnconv

equal = np.testing.assert_array_equal

H, W, D, N = 5, 4, 2, 3
KH, KW, KERNELS = 3, 2, 4
H1, W1 = H - KH + 1, W - KW + 1


def fancy_indices(size, window, stride=1, low=0, dilation=1):
    """Row and column in the padded image for every (window element, output position), both row-major."""
    i, j = (a.reshape(-1) for a in np.indices(window))
    outputs = [(n - (k - 1) * dilation - 1) // stride + 1 for n, k in zip(size, window, strict=True)]
    p, q = (a.reshape(-1) for a in np.indices(outputs))
    return i[:, None] * dilation + p * stride, j[:, None] * dilation + q * stride


@pytest.fixture(scope="module")
def layer():
    """x, F, dz/dY and the matrices x_col and w_col by NumPy's fancy indexing."""
    rng = np.random.default_rng(0)
    x, f, dy = integers(rng, H, W, D, N), integers(rng, KH, KW, D, KERNELS), integers(rng, H1, W1, KERNELS, N)
    rows, cols = fancy_indices((H, W), (KH, KW))
    x_col = x[rows, cols]  # (KH KW, H1 W1, D, N)
    x_col = x_col.transpose(0, 2, 1, 3).reshape(KH * KW * D, H1 * W1 * N)
    return x, f, dy, x_col, f.reshape(KH * KW * D, KERNELS).T


def images(x):
    """(H, W, D, N) -> (N, H, W, D)."""
    return np.moveaxis(x, -1, 0)


# ---- 1, convolution -------------------------------------------------------------------------------------------------


def test_x_col_and_w_col_have_the_shapes_of_the_text(layer):
    """x_col is (H W D) x (H1 W1 N), one column a patch; im2col keeps N apart."""
    x, _, _, x_col, w_col = layer
    cols = np.asarray(fnconv.im2col(f32(images(x)), (KH, KW)))
    assert cols.shape == (N, KH * KW * D, H1 * W1)
    equal(cols.transpose(1, 2, 0).reshape(KH * KW * D, H1 * W1 * N), x_col)
    assert w_col.shape == (KERNELS, KH * KW * D)


def test_forward_is_w_col_times_x_col_reshaped(layer):
    x, f, dy, x_col, w_col = layer
    y = (w_col @ x_col).reshape(KERNELS, H1, W1, N).transpose(1, 2, 0, 3)
    for got, *_ in conv_and_gradients(images(x), f, images(dy)).values():
        equal(got, images(y))


def test_backward_is_two_products_and_an_addition_at_mapped_positions(layer):
    """dz/dF = dY x_col^T; dz/dX adds the entries of w_col^T dY where they came from, by np.add.at."""
    x, f, dy, x_col, w_col = layer
    dy_col = dy.transpose(2, 0, 1, 3).reshape(KERNELS, H1 * W1 * N)
    df = (dy_col @ x_col.T).T.reshape(f.shape)
    dx_col = w_col.T @ dy_col
    assert dx_col.shape == x_col.shape
    dx = np.zeros_like(x)
    rows, cols = fancy_indices((H, W), (KH, KW))
    np.add.at(dx, (rows, cols), dx_col.reshape(KH * KW, D, H1 * W1, N).transpose(0, 2, 1, 3))
    y = (w_col @ x_col).reshape(KERNELS, H1, W1, N).transpose(1, 2, 0, 3)
    assert_every(conv_and_gradients(images(x), f, images(dy)), images(y), images(dx), df)


def test_one_cell_maps_to_many_columns_and_each_entry_to_one_cell(layer):
    """Numbered cells: every entry of x_col names one cell; inner cells are named by several entries."""
    x = np.arange(1, 1 + H * W).reshape(1, H, W, 1)
    cols = np.asarray(fnconv.im2col(jnp.asarray(x), (KH, KW)))
    assert set(np.unique(cols)) <= set(x.reshape(-1).tolist())
    uses = np.bincount(cols.reshape(-1), minlength=H * W + 1)[1:].reshape(H, W)
    expected = [[min(i + 1, KH, H1, H - i) * min(j + 1, KW, W1, W - j) for j in range(W)] for i in range(H)]
    equal(uses, expected)
    assigned = np.zeros((H, W), int)
    assigned[fancy_indices((H, W), (KH, KW))] += 1  # plain assignment loses the repeated positions
    assert (assigned != uses).any()


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("stride", "pads", "dilation"), [(1, ((0, 0), (0, 0)), 1), (2, ((1, 2), (3, 0)), 1), (1, ((2, 2), (0, 1)), 2)]
)
def test_im2col_and_col2im_are_fancy_indexing_and_add_at(layout, stride, pads, dilation):
    rng = np.random.default_rng(1)
    x, window = integers(rng, N, H, W, D), (3, 2)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    index = fancy_indices(padded.shape[1:3], window, stride, dilation=dilation)
    cols = padded[:, *index]  # (N, window elements, positions, D)
    first = layout == "channels_first"
    matrix = cols.transpose((0, 3, 1, 2) if first else (0, 1, 3, 2)).reshape(N, -1, cols.shape[2])
    options = {"strides": stride, "padding": pads, "dilation": dilation, "layout": layout}
    given = np.moveaxis(x, -1, 1) if first else x
    equal(fnconv.im2col(f32(given), window, **options), matrix)
    entries = integers(rng, *matrix.shape)
    spread = (
        entries.reshape(N, D, 6, -1).transpose(0, 2, 3, 1) if first else entries.reshape(N, 6, D, -1).swapaxes(2, 3)
    )
    added = np.zeros_like(padded)
    np.add.at(added, (slice(None), *index), spread)
    (top, _), (left, _) = pads
    want = added[:, top : top + H, left : left + W]
    got = fnconv.col2im(f32(entries), given.shape, window, **options)
    equal(got, np.moveaxis(want, -1, 1) if first else want)


# ---- 2, the fully connected layer -----------------------------------------------------------------------------------


def second_derivatives(f, operands, directions, dy):
    """Gradients of <dx, u> + <dw, v> + <db, t> with respect to x, w, b and dy: every second derivative, transposed."""

    def inner(x, w, b, dy):
        first = jax.vjp(f, x, w, b)[1](dy)
        return sum(jnp.vdot(g, u) for g, u in zip(first, directions, strict=True))

    return jax.grad(inner, argnums=(0, 1, 2, 3))(*operands, dy)


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_dense_is_a_convolution_with_a_full_size_kernel(layout):
    """Value, dx, dw, db and all second derivatives, through flatten; the kernel, flattened, is dense's matrix."""
    rng = np.random.default_rng(2)
    first = layout == "channels_first"
    x_shape, w_shape = ((N, D, H, W), (KERNELS, D, H, W)) if first else ((N, H, W, D), (H, W, D, KERNELS))

    def operands():
        return tuple(f32(integers(rng, *shape)) for shape in (x_shape, w_shape, (KERNELS,)))

    def convolution(x, w, b):
        return fnconv.conv(x, w, b, layout=layout).reshape(N, KERNELS)

    def fully_connected(x, w, b):
        matrix = w.reshape(KERNELS, -1).T if first else w.reshape(-1, KERNELS)
        return fnconv.dense(fnconv.flatten(x), matrix, b)

    at, directions, dy = operands(), operands(), f32(integers(rng, N, KERNELS))

    @jax.jit
    def both(*operands):
        results = []
        for f in (convolution, fully_connected):
            y, pullback = jax.vjp(f, *operands)
            results.append((y, *pullback(dy), *second_derivatives(f, operands, directions, dy)))
        return results

    as_conv, as_dense = both(*at)
    x, w, b = (np.asarray(a) for a in at)
    rows = x.reshape(N, -1)
    matrix = w.reshape(KERNELS, -1).T if first else w.reshape(-1, KERNELS)
    equal(as_dense[0], rows @ matrix + b)
    equal(as_dense[1], (np.asarray(dy) @ matrix.T).reshape(x.shape))
    equal(as_dense[3], np.asarray(dy).sum(axis=0))
    assert all(np.asarray(a).any() for i, a in enumerate(as_dense) if i != 6)  # nothing depends on b
    for a, b in zip(as_conv, as_dense, strict=True):
        equal(a, b)


def test_full_size_kernel_gives_one_position():
    """H x W x D x D' kernels on H x W x D: a vector of D' entries; every rule agrees with the matrix product."""
    rng = np.random.default_rng(3)
    x, w, dy = integers(rng, 2, 3, 2, 2), integers(rng, 3, 2, 2, 3), integers(rng, 2, 1, 1, 3)
    y = (x.reshape(2, -1) @ w.reshape(-1, 3)).reshape(2, 1, 1, 3)
    dx = (dy.reshape(2, 3) @ w.reshape(-1, 3).T).reshape(x.shape)
    dw = (x.reshape(2, -1).T @ dy.reshape(2, 3)).reshape(w.shape)
    assert_every(conv_and_gradients(x, w, dy), y, dx, dw)


# ---- 3, max pooling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pooling_through_im2col(stride):
    """Each column of the (H W) x (H1 W1 D N) matrix is one patch: its maximum forward, the mapping back backward."""
    rng = np.random.default_rng(4)
    x = rng.permutation(H * W * D * N).reshape(H, W, D, N)
    rows, cols = fancy_indices((H, W), (2, 2), stride)
    x_col = x[rows, cols].reshape(4, -1)
    h1, w1 = (H - 2) // stride + 1, (W - 2) // stride + 1
    assert x_col.shape == (4, h1 * w1 * D * N)
    y, best = x_col.max(axis=0).reshape(h1, w1, D, N), x_col.argmax(axis=0)
    # each channel and image alone gives its columns through the library's own im2col
    apart = np.asarray(fnconv.im2col(f32(x.transpose(3, 2, 0, 1)), (2, 2), strides=stride, layout="channels_first"))
    equal(apart.reshape(N, D, 4, -1).transpose(2, 3, 1, 0).reshape(4, -1), x_col)
    dy = integers(rng, *y.shape)
    d_col = np.zeros_like(x_col)
    d_col[best, np.arange(best.size)] = dy.reshape(-1)
    dx = np.zeros_like(x)
    np.add.at(dx, (rows, cols), d_col.reshape(4, h1 * w1, D, N))
    assert_every(max_pool_and_gradient(images(x), images(dy), (2, 2), strides=stride), images(y), images(dx))


# ---- 4, ReLU and softmax loss ---------------------------------------------------------------------------------------


def test_softmax_loss_gradient_is_p_minus_y():
    """Two classes with logits that give p = 1/2 each: loss log 2, gradient (p - y) dy, exactly."""
    logits, labels = f32([[3, 3], [-1, -1]]), jnp.array([0, 1])
    loss, pullback = jax.vjp(lambda z: fnconv.softmax_cross_entropy(fnconv.relu(z) - fnconv.relu(-z), labels), logits)
    np.testing.assert_allclose(loss, np.log([2, 2]), rtol=2.0**-23)  # one rounded logarithm
    assert pullback(f32([2, 4]))[0].tolist() == [[-1, 1], [2, -2]]
