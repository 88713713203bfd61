"""The objects of Wei's derivation, each against its definition written as loops; stride, dilation, padding included."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from every_rule import f32

from fnconv import textbook
from fnconv.base.geometry import OUTSIDE, AdaptiveAxis, Axis, volume, window_axes

GEOMETRIES = {
    "wei": {"size": (3, 4), "window": (2, 2)},
    "one axis, leftover": {"size": (6,), "window": (3,), "stride": 2},
    "stride, dilation, padding": {
        "size": (4, 3),
        "window": (2, 2),
        "stride": 2,
        "dilation": 2,
        "padding": [(2, 0), (1, 2)],
    },
    "crop": {"size": (4, 4), "window": (2, 1), "padding": [(-1, 0), (2, -1)]},
    "three axes": {"size": (2, 3, 2), "window": (1, 2, 2), "padding": [(0, 0), (0, 0), (1, 0)]},
}
by_geometry = pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)


def axes_of(g):
    pairs = g.get("padding", [(0, 0)] * len(g["size"]))
    return tuple(
        Axis(n, k, g.get("stride", 1), g.get("dilation", 1), low, high)
        for n, k, (low, high) in zip(g["size"], g["window"], pairs, strict=True)
    )


def met(g):
    """Output shape and the meetings of output, window element and cell."""
    return loops.meetings(**g)


def phi_by_loops(x, g):
    """Entry (p, q): p counts outputs column-major; q counts channels, within them window elements column-major."""
    shape, meetings = met(g)
    row = {o: p for p, o in enumerate(loops.column_major(shape))}
    column = {k: q for q, k in enumerate(loops.column_major(g["window"]))}
    table = np.zeros((len(row), x.shape[0] * len(column)), x.dtype)
    for o, k, i in meetings:
        for d in range(x.shape[0]):
            table[row[o], d * len(column) + column[k]] = x[:, *i][d]
    return table


def vec_by_loops(x):
    """The vec of each channel, one under the other."""
    return np.concatenate([loops.column_vec(channel) for channel in x])


# ---- vec ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 2, 3, 2)])
def test_vec_stacks_columns_and_unvec_undoes_it(shape):
    """Wei (2.7): a tensor of higher order is the stack of the vecs of its parts."""
    x = np.arange(np.prod(shape)).reshape(shape)
    expected = np.concatenate([loops.column_vec(m) for m in x.reshape(-1, *shape[-2:])])
    np.testing.assert_array_equal(textbook.vec(jnp.asarray(x)), expected)
    np.testing.assert_array_equal(textbook.unvec(jnp.asarray(expected), shape), x)


@pytest.mark.parametrize("spatial", [1, 3])
def test_vec_in_one_and_three_dimensions(spatial):
    x = np.arange(2 * 3**spatial).reshape(2, *(3,) * spatial)
    np.testing.assert_array_equal(textbook.vec(jnp.asarray(x), spatial), vec_by_loops(x))
    np.testing.assert_array_equal(textbook.unvec(jnp.asarray(vec_by_loops(x)), x.shape, spatial), x)


def test_vec_of_a_vector_is_itself():
    assert textbook.vec(jnp.arange(3)).tolist() == textbook.unvec(jnp.arange(3), (3,)).tolist() == [0, 1, 2]


def test_kron_times_vec_gives_both_sides():
    """Wei (2.11), against np.kron and np.matmul."""
    rng = np.random.default_rng(0)
    a, x, b = (loops.integers(rng, *s) for s in ((2, 3), (3, 4), (4, 5)))
    left, right = textbook.kron_times_vec(f32(b), f32(x), f32(a))
    np.testing.assert_array_equal(left, loops.column_vec(a @ x @ b))
    np.testing.assert_array_equal(right, np.kron(b.T, a) @ loops.column_vec(x))
    np.testing.assert_array_equal(left, right)


# ---- phi, C, m, M ---------------------------------------------------------------------------------------------------


@by_geometry
def test_phi_and_m_and_the_matrix_m(g):
    """phi's entries, the map m that says where each is from, and M that makes vec(phi) of vec(x): (2.14)-(2.24)."""
    x = np.arange(1, 1 + 2 * np.prod(g["size"])).reshape(2, *g["size"])
    phi, vec = phi_by_loops(x, g), vec_by_loops(x)
    got, big = jax.jit(lambda x: (textbook.phi(x, axes_of(g)), textbook.matrix_m(axes_of(g), 2, jnp.int32)))(x)
    np.testing.assert_array_equal(got, phi)
    m = textbook.index_map(axes_of(g), 2)
    np.testing.assert_array_equal(np.where(m == OUTSIDE, 0, vec[m]), phi)
    assert big.shape == (phi.size, vec.size)
    np.testing.assert_array_equal(np.asarray(big) @ vec, loops.column_vec(phi))
    np.testing.assert_array_equal(big.sum(axis=1), loops.column_vec(m != OUTSIDE))  # one 1 a row, none in the padding


@pytest.mark.parametrize("window", [(3,), (2, 3), (2, 1, 2)])
def test_matrix_c_has_one_kernel_a_column(window):
    """Wei (2.8)."""
    w = np.arange(3 * 2 * np.prod(window)).reshape(3, 2, *window)
    c = textbook.matrix_c(jnp.asarray(w))
    np.testing.assert_array_equal(c, np.stack([vec_by_loops(kernel) for kernel in w], axis=1))


@by_geometry
def test_jacobians_are_those_of_the_loops(g):
    """Column by column: what a unit kernel and a unit input give, Wei (2.19), (2.25); and the two forwards."""
    rng = np.random.default_rng(1)
    x, w = loops.integers(rng, 2, *g["size"]), loops.integers(rng, 3, 2, *g["window"])
    options = {k: v for k, v in g.items() if k not in ("size", "window")}
    y = vec_by_loops(loops.conv(x, w, **options))
    by_input, by_kernel = [], []
    for d, cell in product(range(2), loops.column_major(g["size"])):
        unit = np.zeros_like(x)
        unit[:, *cell][d] = 1
        by_input.append(vec_by_loops(loops.conv(unit, w, **options)))
    for e, d, element in product(range(3), range(2), loops.column_major(g["window"])):
        unit = np.zeros_like(w)
        unit[:, :, *element][e, d] = 1
        by_kernel.append(vec_by_loops(loops.conv(x, unit, **options)))

    @jax.jit
    def built(x, w):
        axes = axes_of(g)
        jacobians = textbook.jacobian_by_input(w, axes), textbook.jacobian_by_kernel(x, 3, axes)
        return *jacobians, textbook.forward_by_input(x, w, axes), textbook.forward_by_kernel(x, w, axes)

    expected = np.stack(by_input, axis=1), np.stack(by_kernel, axis=1), y, y
    for value, want in zip(built(f32(x), f32(w)), expected, strict=True):
        np.testing.assert_array_equal(value, want)


# ---- S --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", ["column_major", "row_major"])
@by_geometry
def test_selection_matrix_has_the_winners(g, ties):
    """Row o of S holds a 1 at the cell that the loops select, with values so few that ties abound."""
    x = np.random.default_rng(2).integers(0, 2, g["size"])
    options = {k: v for k, v in g.items() if k not in ("size", "window")}
    won = loops.winners(x, g["window"], ties, **options)
    cell = {i: n for n, i in enumerate(loops.column_major(x.shape))}
    expected = np.zeros((volume(met(g)[0]), x.size))
    for p, o in enumerate(loops.column_major(met(g)[0])):
        if o in won:
            expected[p, cell[won[o]]] = 1
    matrix = jax.jit(lambda x: textbook.selection_matrix(x, axes_of(g), ties))(f32(x))
    np.testing.assert_array_equal(matrix, expected)


def test_selection_takes_column_major_ties_by_default():
    x, axes = f32([[1, 2], [2, 0]]), window_axes((2, 2), (2, 2))
    assert textbook.selection_matrix(x, axes).tolist() == [[0, 1, 0, 0]]  # vec(x) = 1, 2, 2, 0: row 1 of column 0
    assert textbook.selection_matrix(x, axes, "row_major").tolist() == [[0, 0, 1, 0]]


def test_selection_takes_nan_before_every_number_and_minus_infinity_before_padding():
    axes = (Axis(4, 2, 2, 1, 2, 0),)
    s = textbook.selection_matrix(f32([-np.inf, -np.inf, 3, np.nan]), axes)
    assert s.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]  # the first window lies in the padding


def test_selection_of_adaptive_windows_and_integers():
    s = textbook.selection_matrix(jnp.array([5, 4, 9, 1, 2]), (AdaptiveAxis(5, 3),))
    assert s.tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


# ---- sizes ----------------------------------------------------------------------------------------------------------

LARGE = window_axes((80, 80), (3, 3))


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (lambda: textbook.matrix_m(LARGE, 1, jnp.float32), r"54756 x 6400 = 350438400; use rule=.im2col."),
        (
            lambda: textbook.jacobian_by_kernel(jnp.ones((1, 80, 80)), 40, LARGE),
            r"243360 x 360 = 87609600; use rule=.im2col.",
        ),
        (
            lambda: textbook.forward_by_input(jnp.ones((1, 80, 80)), jnp.ones((1, 1, 3, 3)), LARGE),
            r"6084 x 54756 = .*im2col",
        ),
        (lambda: textbook.jacobian_by_input(jnp.ones((1, 1, 3, 3)), LARGE), r"54756 x 6400 = .*im2col"),
        (lambda: textbook.selection_matrix(jnp.ones((80, 80)), LARGE), r"6084 x 6400 = 38937600; use rule=.offsets."),
    ],
)
def test_dense_matrices_refuse_sizes_that_do_not_fit(build, numbers):
    """The error names the limit, the size, and a rule to use instead."""
    with pytest.raises(ValueError, match="at most 16777216 elements; got " + numbers):
        build()


def test_the_limit_itself_is_allowed():
    textbook.refuse_if_large("a matrix", 2**12, 2**12, "another rule")
    with pytest.raises(ValueError, match="a matrix"):
        textbook.refuse_if_large("a matrix", 2**12, 2**12 + 1, "another rule")
