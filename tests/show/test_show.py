"""What `fnconv show` prints: symbols, evaluated, are the gradients that fnconv computes, for any geometry."""

from __future__ import annotations

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_small import INPUT_GRADIENT

from fnconv import show, textbook
from fnconv.base.geometry import Axis, window_axes
from fnconv.show import symbols
from fnconv.show.blocks import Matrix
from fnconv.show.conv import _layer
from fnconv.show.pictures import Pictures
from fnconv.show.pool import _pooling
from fnconv.show.relation import cell_formula

ALL = (10**6, 0)
DEFAULTS = {"strides": 1, "padding": "VALID", "dilation": 1, "channels": 1, "out_channels": 1, "groups": 1}


def layer_of(size, window, **options):
    return _layer(size, window, seed=3, **{**DEFAULTS, **options})


def evaluate(e, values):
    """The number that an expression stands for, by its definition; a quotient 0 / 0 is 0, as in a norm's gradient."""

    def value(inner):
        return evaluate(inner, values)

    match e:
        case symbols.Symbol():
            return values(e)
        case symbols.Number(number):
            return float(number)
        case symbols.Sum(terms, 0):
            return math.fsum(map(value, terms))
        case symbols.Product(factors):
            return math.prod(map(value, factors))
        case symbols.Quotient(above, below):
            return value(above) / value(below) if value(above) else 0.0
        case symbols.Power(base, exponent):
            return value(base) ** float(exponent)
        case symbols.Modulus(inner):
            return abs(value(inner))
        case symbols.Sign(inner):
            return float(np.sign(value(inner)))
        case symbols.Largest(of, 0):
            return max(map(value, of), default=-math.inf)
    raise ValueError(f"not a whole expression: {e}")


def assert_symbols_are_gradients(layer):
    """Every equation that a page could show, against a convolution by jax alone."""
    a, axes = layer.arrays, layer.spec.axes

    def reference(x, w, b):
        n = len(axes)
        numbers = "NHWDT"[: n + 1] + "C", "HWDT"[:n] + "IO", "NHWDT"[: n + 1] + "C"
        padded = jax.lax.pad(x[None], jnp.float32(0), [(0, 0, 0), *((t.low, t.high, 0) for t in axes), (0, 0, 0)])
        return (
            jax.lax.conv_general_dilated(
                padded,
                w,
                [t.stride for t in axes],
                "VALID",
                rhs_dilation=[t.dilation for t in axes],
                dimension_numbers=numbers,
                feature_group_count=layer.spec.groups,
            )[0]
            + b
        )

    y, pullback = jax.vjp(reference, *(jnp.asarray(a[k]) for k in ("I", "W", "b")))
    dx, dw, db = pullback(jnp.asarray(a["δ"]))
    kernels_first = np.moveaxis(np.asarray(dw), (-1, -2), (0, 1))
    channels_first = [np.moveaxis(np.asarray(t), -1, 0) for t in (y, dx)]
    layer.limits = ALL, ALL
    kinds = [layer.forward, layer.input_gradient, layer.kernel_gradient, layer.bias_gradient]
    for equations, array in zip(kinds, [*channels_first, kernels_first, np.asarray(db)], strict=True):
        pairs = list(equations())
        np.testing.assert_array_equal([evaluate(right, layer.value) for _, right in pairs], array.reshape(-1))
        np.testing.assert_array_equal([layer.result(left) for left, _ in pairs], array.reshape(-1))


GEOMETRIES = [
    ((3, 3), (2, 2), {}),
    ((5, 5), (2, 2), {"strides": 2}),
    ((5, 5), (3, 3), {"strides": 2, "padding": "INPUT_SIZE"}),
    ((4, 4), (2, 2), {"strides": 3, "padding": "INPUT_SIZE"}),
    ((4, 5), (3, 2), {"strides": (1, 2), "padding": [(2, 0), (-1, 1)], "dilation": (1, 2)}),
    ((5,), (3,), {"strides": 2, "padding": 1, "channels": 2, "out_channels": 3}),
    ((3, 4), (2, 2), {"channels": 4, "out_channels": 6, "groups": 2, "padding": "SAME"}),
    ((3, 3), (2, 2), {"channels": 3, "out_channels": 3, "groups": 3}),
    ((3, 2, 4), (2, 1, 3), {"strides": (1, 1, 2), "padding": 1, "channels": 2}),
    ((11, 3), (2, 2), {"strides": 2, "channels": 11}),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("size", "window", "options"), GEOMETRIES)
def test_symbols_of_conv_evaluate_to_its_gradients(size, window, options):
    assert_symbols_are_gradients(layer_of(size, window, **options))


@pytest.mark.parametrize(("size", "window", "options"), [g for g in GEOMETRIES if "channels" not in g[2]])
def test_pictures_are_the_gradients(size, window, options):
    """Correlating what is drawn, entry by entry, gives the gradients."""
    layer = layer_of(size, window, **options)
    p, axes = Pictures(layer), layer.spec.axes

    def array(shape, entry):
        found = [entry(i) for i in np.ndindex(*shape)]
        return np.array([0 if e is None else evaluate(e, layer.value) for e in found]).reshape(shape)

    def correlate(x, w, steps, dilation):
        span = [(n - 1) * d + 1 for n, d in zip(w.shape, dilation, strict=True)]
        out = [(n - s) // t + 1 for n, s, t in zip(x.shape, span, steps, strict=True)]
        y = np.zeros(out)
        for o, k in itertools.product(np.ndindex(*out), np.ndindex(*w.shape)):
            y[o] += w[k] * x[tuple(i * t + j * d for i, t, j, d in zip(o, steps, k, dilation, strict=True))]
        return y

    ones, dilation = [1] * len(axes), [a.dilation for a in axes]
    drawn = correlate(array(p.padded, p.with_rim), array(window, p.rotated), ones, dilation)
    np.testing.assert_array_equal(drawn, p.padded_gradient()[..., 0])
    inner = np.zeros(size)
    for i in np.ndindex(*size):
        at = tuple(n + a.low for n, a in zip(i, axes, strict=True))
        inside = all(0 <= n < m for n, m in zip(at, drawn.shape, strict=True))
        inner[i] = drawn[at] if inside else 0
    np.testing.assert_array_equal(inner, np.asarray(layer.arrays["dI"])[..., 0])
    by_kernel = correlate(array(p.covered, p.padded_input), array(p.inserted, p.with_zeros), dilation, ones)
    np.testing.assert_array_equal(by_kernel, np.asarray(layer.arrays["dW"])[..., 0, 0])


def test_a_picture_of_one_of_several_kernels_says_so():
    """The correlations of two kernels are added; a depthwise channel has one kernel."""
    options = {"channels": 2, "out_channels": 2}
    assert "+ … =" in str(show.conv((3, 3), (2, 2), **options))
    assert "+ … =" not in str(show.conv((3, 3), (2, 2), **options, groups=2))


# ---- the matrices ---------------------------------------------------------------------------------------------------


def numbers(page, name):
    """A matrix of a page as numbers, structural zeros as 0."""
    blocks = [block for section in page.sections for block in section.blocks]
    parts = [part for block in blocks for part in getattr(block, "parts", (block,))]
    found = next(p for p in parts if isinstance(p, Matrix) and p.name.split(",")[0] == name)
    assert found.shape == (len(found.rows), len(found.rows[0])), "nothing is cut off"
    return np.array([[0 if e is None else float(e.value) for e in row] for row in found.rows])


@pytest.mark.parametrize(
    ("size", "window", "options"),
    [
        ((3, 3), (2, 2), {}),
        ((3, 4), (2, 2), {"strides": (1, 2), "padding": [(1, 0), (0, 1)]}),
        ((7,), (3,), {"dilation": 2, "channels": 2, "out_channels": 2}),
        ((2, 2, 2), (1, 2, 1), {"channels": 2}),
    ],
)
def test_matrices_of_conv_are_those_of_the_textbook(size, window, options):
    """m, phi, C, M and Y as printed against `fnconv.textbook`, for the numbers that the page shows."""
    layer, page = layer_of(size, window, **options), show.conv(size, window, values=True, seed=3, **options)
    x = jnp.moveaxis(jnp.asarray(layer.arrays["I"]), -1, 0)
    w = jnp.moveaxis(jnp.asarray(layer.arrays["W"]), (-1, -2), (0, 1))
    axes, channels = layer.spec.axes, layer.spec.in_channels
    m = textbook.index_map(axes, channels)
    np.testing.assert_array_equal(numbers(page, "m"), np.maximum(m, 0))  # padding is blank
    np.testing.assert_array_equal(numbers(page, "φ(I)"), textbook.phi(x, axes))
    np.testing.assert_array_equal(numbers(page, "C"), textbook.matrix_c(w))
    np.testing.assert_array_equal(numbers(page, "M"), textbook.matrix_m(axes, channels, jnp.float32))
    np.testing.assert_array_equal(numbers(page, "vec(I)ᵀ")[0], textbook.vec(x, len(axes)))
    product = textbook.phi(x, axes) @ textbook.matrix_c(w) + layer.arrays["b"]
    np.testing.assert_array_equal(numbers(page, "Y + b"), product)


@pytest.mark.parametrize("ties", ["row_major", "column_major"])
@pytest.mark.parametrize(("size", "window", "strides"), [((4, 4), (2, 2), 2), ((3, 4), (2, 3), 1), ((7,), (3,), 2)])
def test_selection_matrix_is_that_of_the_textbook(size, window, strides, ties):
    x = np.random.default_rng(0).integers(0, 3, size)
    page = show.pool(x, window, strides=strides, ties=ties)
    expected = textbook.selection_matrix(jnp.asarray(x, jnp.float32), window_axes(size, window, strides), ties)
    np.testing.assert_array_equal(numbers(page, "S"), expected)


@pytest.mark.parametrize(("stride", "dilation", "low"), list(itertools.product((1, 2, 3), (1, 2), (-1, 0, 3))))
def test_index_formula_is_the_index_table(stride, dilation, low):
    """ "2i+r-5" with 1-based letters, as it stands in the general formulas, against the positions of the axis."""
    axis = Axis(9, 3, stride, dilation, low, 2)
    formula = re.sub(r"(\d)([ir])", r"\1*\2", cell_formula(axis, "i", "r"))
    for (o, k), position in np.ndenumerate(axis.positions()):
        assert eval(formula, {"i": o + 1, "r": k + 1}) == position + 1


# ---- the texts' examples --------------------------------------------------------------------------------------------


def test_small_page():
    """All of Small's page: forward, (1), (2), the nine of (3) with the slip corrected and named, its pooling."""
    page = show.conv((3, 3), (2, 2), pooling=True)
    assert page.find("O_12") == "O_12 = I_12·W_11 + I_13·W_12 + I_22·W_21 + I_23·W_22 + b"
    assert page.find("∂L/∂b") == "∂L/∂b = δ_11 + δ_12 + δ_21 + δ_22"
    assert page.find("∂L/∂W_21") == "∂L/∂W_21 = δ_11·I_21 + δ_12·I_22 + δ_21·I_31 + δ_22·I_32"
    for cell, products in INPUT_GRADIENT.items():
        assert page.find(f"∂L/∂I_{cell}") == f"∂L/∂I_{cell} = " + " + ".join(f"δ_{d}·W_{k}" for d, k in products)
    text = str(page)
    assert "Small, (iii), prints ∂L/∂I_12 = δ_11·W_22 + δ_12·W_11." in " ".join(text.split())
    assert "3,1 ⎢ · · · · · 1 · · · ⎥" in text  # M: output p = 3 meets window element q = 1 at cell 5 of vec(I)
    assert "O_21 = max{I_21, I_22, I_31, I_32}" in text
    assert "∂L/∂I_12 = S_11,12·δ_11 + S_12,12·δ_12" in text
    assert "pooling" not in str(show.conv((3, 3), (2, 2)))


def test_notes_same_example():
    """Notes' sizes: 11x11 padded input, 5x5 out, 9x9 with zeros, 13x13 padded, 11x11, cropped to 5x5."""
    text = str(show.conv((5, 5), (3, 3), strides=2, padding="INPUT_SIZE"))
    for size in ("neighbours of δ: 9×9", "2 on every side: 13×13", "stride 1: 11×11", "(3 low, 3 high): 5×5"):
        assert size in text
    p = Pictures(layer_of((5, 5), (3, 3), strides=2, padding="INPUT_SIZE"))
    assert (p.inserted, p.padded, p.result, p.covered) == ((9, 9), (13, 13), (11, 11), (11, 11))


def test_notes_leftover_example():
    page = show.conv((5, 5), (2, 2), strides=2)
    row = ["δ_11·W_11", "δ_11·W_12", "δ_12·W_11", "δ_12·W_12", "0"]
    assert [page.find(f"∂L/∂I_1{j}").split(" = ")[1] for j in range(1, 6)] == row
    assert "9 of the 25 cells" in str(page)


@pytest.mark.parametrize(
    ("size", "window", "options"),
    [
        ((3, 3), (2, 2), {}),
        ((5, 5), (2, 2), {"strides": 2}),
        ((5, 5), (3, 3), {"strides": 2, "padding": "INPUT_SIZE"}),
        ((4, 4), (2, 2), {"strides": 2}),
        ((4, 4), (2, 2), {"strides": 3, "padding": "INPUT_SIZE"}),
    ],
)
def test_pages_that_are_examples_of_a_text_say_what_it_prints(size, window, options):
    assert "In the text:" in str(show.conv(size, window, **options))
    assert "In the text:" not in str(show.conv((size[0] + 1, size[1]), window, **options))


# ---- pooling --------------------------------------------------------------------------------------------------------

POOLS = [
    ((4, 4), (2, 2), {}),
    ((5, 5), (3, 2), {"strides": 2}),
    ((3, 3), (2, 2), {"strides": 1, "ties": "column_major"}),
    ((7,), (3,), {"strides": 2, "padding": 1, "channels": 2}),
    ((3, 3, 4), (2, 2, 2), {"strides": (1, 2, 2)}),
    ((5, 4), (3, 3), {"strides": 2, "padding": "SAME", "ceil_mode": True, "dilation": (1, 1)}),
    ((4, 4), (2, 2), {"padding": 2, "count_include_pad": False}),  # windows wholly in the padding
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("size", "window", "options"), POOLS)
@pytest.mark.parametrize("kind", ["max", "avg", "lp"])
def test_symbols_of_pool_evaluate_to_its_gradient(kind, size, window, options):
    geometry = {"strides": None, "padding": "VALID", "dilation": 1, "ceil_mode": False}
    pooling = _pooling(size, window, kind, p=3 if options else 2, **{**geometry, **options})
    pooling.limits = ALL, ALL
    own, tolerance = pooling.arrays, {"max": 0, "avg": 1e-6, "lp": 1e-5}[kind]
    for equations, array in ((pooling.forward, own["O"]), (pooling.gradient, own["dI"])):
        pairs = list(equations())
        assert len(pairs) == array.size
        values = np.array([evaluate(right, pooling.value) for _, right in pairs])
        results = np.array([pooling.result(left) for left, _ in pairs])
        np.testing.assert_allclose(values, results, rtol=tolerance, atol=0)
        np.testing.assert_array_equal(results, np.moveaxis(array, -1, 0).reshape(-1))


def test_ties_are_shown():
    """A constant input: Wei's rule and XLA's take different cells where a window is not a single row or column."""
    tied = np.array([[1, 2], [2, 0]])
    rows = {ties: str(show.pool(tied, (2, 2), ties=ties)) for ties in ("row_major", "column_major")}
    for text in rows.values():
        assert re.search("O_11 +1 2 2 0 +2 +I_12 +I_21", text)
    assert "O_11 [ · · 1 · ]" in rows["row_major"]  # vec(I) = I_11 I_21 I_12 I_22
    assert "O_11 [ · 1 · · ]" in rows["column_major"]


@pytest.mark.parametrize("seed", range(3))
def test_random_pools_hold_a_tie_that_matters(seed):
    assert "Here both take the same cells" not in str(show.pool((4, 4), (2, 2), seed=seed))


# ---- dense and networks ---------------------------------------------------------------------------------------------


def test_dense_in_symbols_and_numbers():
    page = show.dense(2, 3)
    assert page.find("y_2") == "y_2 = x_1·W_12 + x_2·W_22 + b_2"
    assert page.find("∂L/∂W_23") == "∂L/∂W_23 = x_2·δ_3"
    assert page.find("∂L/∂x_2") == "∂L/∂x_2 = δ_1·W_21 + δ_2·W_22 + δ_3·W_23"
    numeric = show.dense(np.array([2, 7]), weights=np.array([[1, 2], [3, 4]]), cotangent=np.array([5, -6]))
    assert numeric.find("∂L/∂x_1") == "∂L/∂x_1 = 5·1 + (-6)·2 = -7"
    assert numeric.find("∂L/∂W_21") == "∂L/∂W_21 = 7·5 = 35"


def test_lenet_is_the_one_that_is_trained():
    from fnconv.show.net import NETS, lines
    from fnconv.train.lenet import SHAPES

    names = {"c1", "c3", "c5", "f6", "output"}
    found = {x.name: x for x in lines(NETS["lenet5"])}
    for name in names:
        assert found[name].parameters == sum(int(np.prod(s)) for k, s in SHAPES.items() if k.startswith(f"{name}."))
    assert (found["c5"].output, found["c5"].maps.field) == ((1, 1, 120), 32)


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("lenet5", 61_706, 416_520),
        ("alexnet", 61_100_840, 714_188_480),
        ("vgg16", 138_357_544, 15_470_264_320),
        ("resnet18", 11_689_512, 1_814_073_344),
    ],
)
def test_networks_have_their_known_sizes(name, parameters, multiply_adds):
    """The counts of the published models: parameters exactly, multiply-adds of convolutions and dense layers."""
    from fnconv.show.net import NETS, lines

    found = lines(NETS[name])
    assert sum(x.parameters for x in found) == parameters
    assert sum(x.multiply_adds for x in found) == multiply_adds


def test_receptive_fields():
    """VGG-16's last pooling sees 212 pixels of the image, ResNet-18's last block 435, AlexNet's pool5 195."""
    from fnconv.show.net import NETS, lines

    fields = {net: {x.name: x.maps.field for x in lines(NETS[net])} for net in ("vgg16", "resnet18", "alexnet")}
    assert (fields["vgg16"]["pool5"], fields["vgg16"]["fc6"]) == (212, 212 + 6 * 32)
    assert (fields["resnet18"]["layer4.2.add"], fields["alexnet"]["pool5"]) == (435, 195)
