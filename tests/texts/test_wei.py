"""Wei 2: the worked examples with their own numbers, the equations as identities on random shapes, exactly."""

from __future__ import annotations

from itertools import pairwise, product

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from every_rule import assert_every, conv_and_gradients, f32
from loops import integers

import fnconv
from fnconv import textbook
from fnconv.base.geometry import window_axes

A = np.array([[1, 3, 1, 4], [2, 8, 5, 1], [3, 2, 0, 3]])
K = np.array([[1, 0], [-1, 1]])
B = np.array([[1, 2, 3, 8, 1, 5], [2, 3, 8, 2, 5, 0], [3, 8, 1, 5, 4, 1], [8, 2, 5, 0, 1, 3]])
A_K = np.array([[7, 0, -3], [1, 6, 8]])
SOBEL = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])


def forward(x: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    """Single images and kernels through every rule: x (H, W), w (H', W')."""
    x, w = x[None], w[None, None]
    dy = np.zeros((1, x.shape[1] - w.shape[2] + 1, x.shape[2] - w.shape[3] + 1))
    return {rule: y[0] for rule, (y, *_) in conv_and_gradients(x, w, dy, layout="channels_first").items()}


# ---- 2.1, the worked example ----------------------------------------------------------------------------------------


def test_2_1_the_convolution_of_a_with_k():
    """The two steps that the text computes are 7 and 0; the kernel is not flipped."""
    assert 1 * 1 + 0 * 3 + (-1) * 2 + 1 * 8 == A_K[0, 0] == 7
    assert 1 * 3 + 0 * 1 + (-1) * 8 + 1 * 5 == A_K[0, 1] == 0
    for y in forward(A, K).values():
        np.testing.assert_array_equal(y, A_K)
    for y in forward(A, K[::-1, ::-1]).values():
        assert (y != A_K).any()


def test_im2col_of_a_is_b():
    """MATLAB's order: windows counted down the columns, and so are the elements of each."""
    np.testing.assert_array_equal(fnconv.im2col(f32(A)[None], (2, 2), order="matlab", layout="channels_first"), B)
    np.testing.assert_array_equal(textbook.phi(f32(A)[None], window_axes((3, 4), (2, 2))).T, B)
    assert (np.asarray(fnconv.im2col(f32(A)[None], (2, 2), order="c", layout="channels_first")) != B).any()


def test_2_2_b_transposed_times_the_columns_of_k():
    assert (B.T @ [1, -1, 0, 1]).tolist() == [7, 1, 0, 6, -3, 8]
    cols = fnconv.im2col(f32(A)[:, :, None], (2, 2), order="matlab")
    assert (cols.T @ f32([1, -1, 0, 1])).tolist() == [7, 1, 0, 6, -3, 8]


def test_slip_in_2_3_vec_k_stands_there_without_its_transpose():
    """im2col(A)^T vec(K) = vec(A * K); the printed (vec K)^T, a row, cannot be multiplied from the left by B^T."""
    cols = np.asarray(fnconv.im2col(f32(A)[:, :, None], (2, 2), order="matlab"))
    column = np.asarray(textbook.vec(f32(K)))[:, None]
    assert column.tolist() == [[1], [-1], [0], [1]]
    np.testing.assert_array_equal(cols.T @ column, np.asarray(textbook.vec(f32(A_K)))[:, None])
    with pytest.raises(ValueError, match="mismatch"):
        cols.T @ column.T


def test_sobel_finds_horizontal_edges_and_its_transpose_vertical_ones():
    """A step of height 5 between rows 2 and 3: G answers -4 * 5 in the windows across it, G^T nowhere."""
    horizontal = np.zeros((6, 5), int)
    horizontal[3:] = 5
    answer = np.array([[0, 0, 0], [-20, -20, -20], [-20, -20, -20], [0, 0, 0]])
    for image, kernel, want in [
        (horizontal, SOBEL, answer),
        (horizontal, SOBEL.T, np.zeros((4, 3))),
        (horizontal.T, SOBEL.T, answer.T),
        (horizontal.T, SOBEL, np.zeros((3, 4))),
    ]:
        for y in forward(image, kernel).values():
            np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("padding", ["SAME", "INPUT_SIZE"])
@pytest.mark.parametrize("window", [(3, 3), (2, 5)])
def test_an_input_padded_to_h_plus_h1_minus_1_keeps_its_size(padding, window):
    """After (2.4): (H + H' - 1) x (W + W' - 1) cells with the padding, at stride 1."""
    for a in window_axes((5, 6), window, padding=padding):
        assert (a.padded, a.output) == (a.size + a.window - 1, a.size)


# ---- 2.1 to 2.3, the equations --------------------------------------------------------------------------------------

# D, D', (H, W), (H', W')
SHAPES = {
    "rectangular": (2, 3, (4, 5), (2, 3)),
    "one kernel": (3, 1, (3, 3), (2, 1)),
    "1x1": (2, 2, (2, 3), (1, 1)),
    "full size": (2, 4, (3, 2), (3, 2)),
}


class Layer:
    """One convolution of random whole numbers with its cotangent, and phi, C and M of it by loops."""

    def __init__(self, channels, kernels, size, window):
        rng = np.random.default_rng(sum(size) + 7 * kernels)
        self.size, self.window, self.axes = size, window, window_axes(size, window)
        self.output = tuple(n - k + 1 for n, k in zip(size, window, strict=True))
        self.x, self.w = integers(rng, channels, *size), integers(rng, kernels, channels, *window)
        self.dy = integers(rng, kernels, *self.output)
        self.y = loops.conv(self.x, self.w)
        self.dx = loops.conv_input_gradient(self.dy, self.w, size)
        self.dw = loops.conv_weight_gradient(self.x, self.dy, window)
        self.phi = np.array(
            [
                [self.x[d, i + i1, j + j1] for d in range(channels) for i, j in loops.column_major(window)]
                for i1, j1 in loops.column_major(self.output)
            ]
        )
        self.c = np.stack([vec(kernel) for kernel in self.w], axis=1)
        self.d_phi_c = columns(self.dy)  # dz / d(phi C), (2.21)

    def m(self):
        """(p, q) -> (d, i, j), from (2.14)-(2.17)."""
        rows, height = self.output[0], self.window[0]
        elements = self.window[0] * self.window[1]
        outputs = list(product(*map(range, self.output)))
        return {
            (i1 + rows * j1, elements * d + height * j + i): (d, i + i1, j + j1)
            for (i1, j1), d in product(outputs, range(self.x.shape[0]))
            for i, j in product(*map(range, self.window))
        }


def vec(x):
    """(2.7) for a stack of maps."""
    return np.concatenate([loops.column_vec(channel) for channel in x.reshape(-1, *x.shape[-2:])])


def columns(y):
    """The matrix (positions, D') whose columns are the vecs of the channels."""
    return np.stack([loops.column_vec(channel) for channel in y], axis=1)


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def layer(request):
    return Layer(*request.param)


@pytest.fixture(scope="module")
def objects(layer):
    """Everything that fnconv.textbook makes of the layer, in one program."""

    @jax.jit
    def build(x, w):
        axes = layer.axes
        return {
            "phi": textbook.phi(x, axes),
            "c": textbook.matrix_c(w),
            "m": textbook.matrix_m(axes, x.shape[0], x.dtype),
            "by_kernel": textbook.forward_by_kernel(x, w, axes),
            "by_input": textbook.forward_by_input(x, w, axes),
            "jacobian_w": textbook.jacobian_by_kernel(x, w.shape[0], axes),
            "jacobian_x": textbook.jacobian_by_input(w, axes),
            "im2col": fnconv.im2col(x, layer.window, order="matlab", layout="channels_first"),
            "vec_x": textbook.vec(x),
            "vec_w": textbook.vec(w),
        }

    return jax.tree.map(np.asarray, build(f32(layer.x), f32(layer.w)))


equal = np.testing.assert_array_equal


def test_conv_is_the_loops_by_every_rule(layer):
    """(2.4) forward; (2.21) and (2.30) backward, by every public rule."""
    results = conv_and_gradients(layer.x, layer.w, layer.dy, layout="channels_first")
    assert_every(results, layer.y, layer.dx, layer.dw)


def test_2_4_channels_add(layer):
    """x * kappa is the sum of A_i * K_i, a matrix of (H - H' + 1) x (W - W' + 1)."""
    parts = [loops.conv(layer.x[i : i + 1], layer.w[:, i : i + 1]) for i in range(len(layer.x))]
    equal(sum(parts), layer.y)
    y = fnconv.conv(f32(layer.x), f32(layer.w), layout="channels_first")
    assert y.shape == (len(layer.w), *layer.output)
    equal(y, sum(parts))


def test_2_5_to_2_8_phi_and_c(layer, objects):
    equal(objects["phi"], layer.phi)
    equal(objects["phi"], objects["im2col"].T)
    equal(objects["c"], layer.c)
    positions, elements = layer.output[0] * layer.output[1], layer.window[0] * layer.window[1]
    assert objects["phi"].shape == (positions, elements * len(layer.x))
    assert objects["c"].shape == (elements * len(layer.x), len(layer.w))
    equal(objects["vec_x"], vec(layer.x))


def test_2_9_vec_of_phi_c_is_vec_of_y(layer, objects):
    equal(loops.column_vec(objects["phi"] @ objects["c"]), vec(layer.y))


def test_2_12_and_2_13_the_kronecker_forms(layer, objects):
    positions = len(layer.phi)
    equal(np.kron(np.eye(len(layer.w)), layer.phi) @ loops.column_vec(layer.c), vec(layer.y))
    equal(np.kron(layer.c.T, np.eye(positions)) @ loops.column_vec(layer.phi), vec(layer.y))
    equal(objects["by_kernel"], vec(layer.y))
    equal(objects["by_input"], vec(layer.y))


@pytest.mark.parametrize("seed", range(3))
def test_2_10_and_2_11_kronecker_identities(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 4)
    a, x, b = (integers(rng, *shape) for shape in pairwise(sizes))
    equal(jnp.kron(f32(a), f32(b)).T, jnp.kron(f32(a).T, f32(b).T))
    left, right = textbook.kron_times_vec(f32(b), f32(x), f32(a))
    equal(left, loops.column_vec(a @ x @ b))
    equal(right, left)


def test_2_14_to_2_17_the_map_m(layer):
    """p = i1 + H1 j1, q = H' W' d + H' j + i, i_k = i + i1, j_k = j + j1."""
    table = textbook.index_map(layer.axes, len(layer.x))
    position = {
        (d, i, j): n for n, (d, (i, j)) in enumerate(product(range(len(layer.x)), loops.column_major(layer.size)))
    }
    m = layer.m()
    assert len(m) == table.size
    assert all(table[pq] == position[cell] for pq, cell in m.items())


def test_slip_after_2_17_m_is_a_function_that_is_not_injective(layer, objects):
    """Several (p, q) share a cell unless the window is 1x1 or fills the input; were m injective, (2.30) had no sum."""
    sources = list(layer.m().values())
    overlapping = any(n > k > 1 for n, k in zip(layer.size, layer.window, strict=True))
    assert (len(set(sources)) < len(sources)) == overlapping
    assert (objects["m"].sum(axis=1) == 1).all()  # a function: one cell for each (p, q)
    assert (objects["m"].sum(axis=0) > 1).any() == overlapping
    last_alone = dict(zip(sources, layer.m(), strict=True))  # the inverse that an injective m would have
    d_phi = layer.d_phi_c @ layer.c.T
    as_printed = np.zeros_like(layer.dx)
    for cell, pq in last_alone.items():
        as_printed[cell] = d_phi[pq]
    assert (as_printed != layer.dx).any() == overlapping


def test_2_18_to_2_21_the_kernel_gradient(layer, objects):
    """dz/dvec(w) = vec(dY)^T (I (x) phi) = vec(phi^T dY), and dz/dC = phi^T dz/d(phi C)."""
    equal(objects["vec_w"], loops.column_vec(layer.c))  # vec(C) = vec(w), before (2.19)
    equal(objects["jacobian_w"], np.kron(np.eye(len(layer.w)), layer.phi))
    d_c = objects["phi"].T @ layer.d_phi_c
    equal(vec(layer.dy) @ objects["jacobian_w"], loops.column_vec(d_c))
    equal(vec(layer.dy) @ objects["jacobian_w"], vec(layer.dw))
    equal(textbook.unvec(f32(loops.column_vec(d_c)), layer.w.shape), layer.dw)


def test_2_23_and_2_24_the_matrix_m(layer, objects):
    """M has a 1 at ((p, q), m(p, q)), rows as in vec(phi), and vec(phi) = M vec(x)."""
    expected = np.zeros((layer.phi.size, layer.x.size))
    cells = {(d, i, j): n for n, (d, (i, j)) in enumerate(product(range(len(layer.x)), loops.column_major(layer.size)))}
    for (p, q), cell in layer.m().items():
        expected[p + len(layer.phi) * q, cells[cell]] = 1
    equal(objects["m"], expected)
    equal(objects["m"] @ vec(layer.x), loops.column_vec(layer.phi))


def test_2_25_to_2_28_the_input_gradient(layer, objects):
    positions = len(layer.phi)
    kronecker = np.kron(layer.c.T, np.eye(positions))
    equal(objects["jacobian_x"], kronecker @ objects["m"])  # (2.25)
    equal(vec(layer.dy) @ objects["jacobian_x"], vec(layer.dx))  # (2.26)
    d_phi = layer.d_phi_c @ layer.c.T
    equal(loops.column_vec(layer.d_phi_c) @ kronecker, loops.column_vec(d_phi))  # (2.27)
    equal(np.kron(layer.c, np.eye(positions)) @ loops.column_vec(layer.d_phi_c), loops.column_vec(d_phi))
    equal(objects["m"].T @ loops.column_vec(d_phi), vec(layer.dx))  # (2.28)


def test_2_29_and_2_30_the_sum_over_what_m_sends_to_a_cell(layer):
    d_phi = layer.d_phi_c @ layer.c.T
    assert d_phi.shape == layer.phi.shape  # (2.29)
    dx = np.zeros_like(layer.dx)
    for pq, cell in layer.m().items():
        dx[cell] += d_phi[pq]
    equal(dx, layer.dx)
    cols = f32(d_phi.T)
    equal(fnconv.col2im(cols, layer.x.shape, layer.window, order="matlab", layout="channels_first"), dx)
