"""The convolutions of fnconv.compat.lax against jax.lax: signatures, values, derivatives, refusals."""

import itertools
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat_helpers import assert_hand_derived, assert_identical, both, integers, parameters, weights
from jax import lax

import fnconv
from fnconv.compat import lax as compat

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("name", compat.__all__)
def test_signature_is_lax_own(name):
    assert parameters(getattr(compat, name)) == parameters(getattr(lax, name))


# ---- conv_general_dilated -------------------------------------------------------------------------------------------


def by_definition(lhs, rhs, strides, padding, lhs_dilation=None, rhs_dilation=None, dimension_numbers=None, **groups):
    """The convolution in NumPy, as a sum over window elements."""
    n = lhs.ndim - 2
    feature_groups, batch_groups = groups.get("feature_group_count", 1), groups.get("batch_group_count", 1)
    lhs_spec, rhs_spec, out_spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    x, w = np.transpose(lhs, lhs_spec), np.transpose(rhs, rhs_spec)  # (N, C, *S), (D, C, *K)
    spans = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], rhs_dilation or (1,) * n, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[2:], spans, strides, padding)
    for axis, (low, high), d in zip(range(2, n + 2), padding, lhs_dilation or (1,) * n, strict=True):
        wide = np.zeros([(s - 1) * d + 1 if i == axis else s for i, s in enumerate(x.shape)], x.dtype)
        wide[(slice(None),) * axis + (slice(None, None, d),)] = x
        x = np.pad(wide, [(max(low, 0), max(high, 0)) if i == axis else (0, 0) for i in range(n + 2)])
        x = np.take(x, range(max(-low, 0), x.shape[axis] - max(-high, 0)), axis)
    out = [(s - k) // t + 1 for s, k, t in zip(x.shape[2:], spans, strides, strict=True)]
    parts = []
    for g in range(feature_groups * batch_groups):
        xg = np.split(x, batch_groups, axis=0)[g] if batch_groups > 1 else np.split(x, feature_groups, axis=1)[g]
        wg = np.split(w, feature_groups * batch_groups, axis=0)[g]
        total = np.zeros((xg.shape[0], wg.shape[0], *out))
        for k in itertools.product(*map(range, w.shape[2:])):
            start = [i * d for i, d in zip(k, rhs_dilation or (1,) * n, strict=True)]
            cells = [slice(b, b + (o - 1) * t + 1, t) for b, t, o in zip(start, strides, out, strict=True)]
            total += np.einsum("nc...,dc->nd...", xg[(..., *cells)], wg[(slice(None), slice(None), *k)])
        parts.append(total)
    return np.transpose(np.concatenate(parts, axis=1), np.argsort(out_spec))


CONVOLUTIONS = {
    "default numbers, stride 2, SAME": ((2, 3, 6, 5), (4, 3, 3, 2), (2, 2), "SAME", {}),
    "channels last, dilated kernel, SAME_LOWER": (
        (2, 6, 5, 2),
        (2, 3, 2, 3),
        (1, 1),
        "same_lower",
        {"dimension_numbers": NHWC, "rhs_dilation": (2, 1)},
    ),
    "spatial axes in the kernel's order, groups, asymmetric padding": (
        (4, 5, 2, 7),  # C H N W
        (2, 3, 6, 2),  # I W O H
        (1, 2),
        ((0, 1), (2, 1)),
        {"dimension_numbers": ("CHNW", "IWOH", "WNCH"), "feature_group_count": 2},
    ),
    "depthwise, 1-D, numbers object, leftover": (
        (2, 9, 3),
        (2, 1, 6),
        (3,),
        "VALID",
        {
            "dimension_numbers": lax.ConvDimensionNumbers((0, 2, 1), (2, 1, 0), (1, 2, 0)),
            "feature_group_count": 3,
        },
    ),
    "batch groups": (
        (6, 5, 4, 2),
        (3, 2, 2, 4),
        (2, 1),
        ((1, 0), (0, 1)),
        {"dimension_numbers": NHWC, "batch_group_count": 2},
    ),
    "dilated input, groups, dilated kernel": (
        (2, 4, 3, 4),
        (3, 2, 2, 6),
        (1, 1),
        ((2, 1), (0, 3)),
        {"dimension_numbers": NHWC, "lhs_dilation": (2, 3), "rhs_dilation": (1, 2), "feature_group_count": 2},
    ),
    "dilated input, negative padding": (
        (2, 5, 4, 2),
        (2, 2, 2, 3),
        (1, 1),
        ((-1, 2), (1, -2)),
        {"dimension_numbers": NHWC, "lhs_dilation": (2, 3)},
    ),
    "dilated input, padding larger than the kernel": (
        (2, 3, 2),
        (2, 2, 3),
        (1,),
        ((4, 3),),
        {"dimension_numbers": ("NWC", "WIO", "NWC"), "lhs_dilation": (2,)},
    ),
    "dilated input and stride, negative padding": (
        (2, 6, 4, 2),
        (2, 3, 2, 3),
        (2, 3),
        ((-2, 1), (2, -1)),
        {"dimension_numbers": NHWC, "lhs_dilation": (3, 2)},
    ),
    "dilated input, batch groups": (
        (4, 2, 4),
        (6, 2, 3),
        (1,),
        ((1, 1),),
        {"lhs_dilation": (2,), "batch_group_count": 2},
    ),
    "three dimensions": (
        (1, 4, 3, 5, 2),
        (2, 3, 2, 2, 3),
        (2, 1, 2),
        "SAME",
        {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"), "rhs_dilation": (1, 2, 1)},
    ),
    "no spatial dimension": ((3, 4), (4, 5), (), "VALID", {"dimension_numbers": ("NC", "IO", "NC")}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_lax_and_the_definition(case):
    """Value, gradients, second derivatives equal lax's; value and gradients also NumPy's, by <u, C(x, w)> = <dx, x>."""
    lhs_shape, rhs_shape, strides, padding, options = CONVOLUTIONS[case]
    lhs, rhs = integers(0, lhs_shape), integers(1, rhs_shape)
    got, want = both(compat.conv_general_dilated, lax.conv_general_dilated, (lhs, rhs), strides, padding, **options)
    assert_identical(got, want)
    y, dlhs, drhs, *_ = got
    np.testing.assert_array_equal(y, by_definition(lhs, rhs, strides, padding, **options))
    u = weights(y.shape)
    other = integers(7, lhs_shape), integers(8, rhs_shape)
    assert np.vdot(u, by_definition(other[0], rhs, strides, padding, **options)) == np.vdot(dlhs, other[0])
    assert np.vdot(u, by_definition(lhs, other[1], strides, padding, **options)) == np.vdot(drhs, other[1])


@pytest.mark.parametrize("case", ["default numbers, stride 2, SAME", "batch groups", "dilated input, negative padding"])
@pytest.mark.parametrize(("dtype", "wider"), [(jnp.bfloat16, None), (jnp.bfloat16, jnp.float32), (jnp.float16, None)])
def test_half_precisions_and_preferred_element_type(case, dtype, wider):
    """Exact on integers of which bfloat16 holds every partial sum."""
    lhs_shape, rhs_shape, strides, padding, options = CONVOLUTIONS[case]
    operands = [jnp.asarray(integers(i, shape, -1, 2), dtype) for i, shape in enumerate((lhs_shape, rhs_shape))]
    options = {**options, "preferred_element_type": wider}
    got, want = both(compat.conv_general_dilated, lax.conv_general_dilated, operands, strides, padding, **options)
    assert got[0].dtype == (wider or dtype)
    assert_identical(got, want)


@pytest.mark.parametrize("lhs_spec", list(itertools.permutations("NHC")))
@pytest.mark.parametrize("rhs_spec", list(itertools.permutations("OIH")))
def test_every_permutation_of_dimension_numbers(lhs_spec, rhs_spec):
    """All 36 pairs of operand orders in one dimension, each with one of the 6 orders of the result."""
    outs = list(itertools.permutations("NHC"))
    out_spec = outs[(outs.index(lhs_spec) + list(itertools.permutations("OIH")).index(rhs_spec)) % 6]
    shape = {"N": 2, "H": 5, "C": 3, "O": 4, "I": 3}
    lhs = integers(0, [shape[c] for c in lhs_spec])
    rhs = integers(1, [{**shape, "H": 2}[c] for c in rhs_spec])
    numbers = tuple("".join(spec) for spec in (lhs_spec, rhs_spec, out_spec))
    y = compat.conv_general_dilated(lhs, rhs, (2,), [(1, 0)], dimension_numbers=numbers)
    np.testing.assert_array_equal(y, by_definition(lhs, rhs, (2,), [(1, 0)], dimension_numbers=numbers))


@pytest.mark.parametrize(
    ("dtype", "preferred"), [(np.int8, None), (np.int8, np.int32), (np.uint8, np.float32), (np.int32, None)]
)
def test_integer_convolutions_work_as_in_lax(dtype, preferred):
    """int8 wraps around, as lax's does, unless a wider type is preferred."""
    lhs, rhs = integers(0, (1, 5, 5, 3), 0, 100, dtype), integers(1, (2, 2, 3, 2), 0, 100, dtype)
    options = {"dimension_numbers": NHWC, "preferred_element_type": preferred}
    calls = [f.conv_general_dilated(lhs, rhs, (1, 2), "SAME", **options) for f in (compat, lax)]
    assert_identical(*calls)


@pytest.mark.parametrize(
    ("lhs_shape", "rhs_shape"),
    [
        ((1, 2, 3, 1), (6, 2, 1, 2)),
        ((1, 2, 3, 1), (12, 2, 1, 2)),
        ((0, 3, 3, 1), (2, 2, 1, 2)),
        ((1, 3, 3, 0), (2, 2, 0, 2)),
        ((1, 0, 3, 1), (2, 2, 1, 2)),
    ],
)
@pytest.mark.parametrize("lhs_dilation", [(1, 1), (2, 1)])
def test_empty_operands_and_results_have_lax_own_shapes_and_zero_gradients(lhs_shape, rhs_shape, lhs_dilation):
    lhs, rhs = np.ones(lhs_shape, np.float32), np.ones(rhs_shape, np.float32)
    options = {"lhs_dilation": lhs_dilation, "dimension_numbers": NHWC}

    def of(f):
        return lambda x, w: f.conv_general_dilated(x, w, (1, 1), [(0, 2), (0, 0)], **options)

    assert_identical(of(compat)(lhs, rhs), of(lax)(lhs, rhs))
    for gradient in jax.grad(lambda x, w: of(compat)(x, w).sum(), (0, 1))(lhs, rhs):
        assert not np.any(gradient)


def test_precision_reaches_the_gradients():
    """Also a pair, and the context manager's default."""

    def precisions(precision):
        def loss(x, w):
            return (compat.conv_general_dilated(x, w, (1, 1), "SAME", precision=precision) ** 2).sum()

        text = jax.jit(jax.grad(loss, (0, 1))).lower(jnp.ones((1, 20, 4, 4)), jnp.ones((17, 20, 2, 2))).as_text()
        convolutions = re.findall(r"stablehlo.convolution.*?<precision (\w+)>, #stablehlo<precision (\w+)>", text)
        products = re.findall(r"stablehlo.dot_general.*?precision = \[(\w+), (\w+)\]", text)
        found = convolutions + products
        assert len(found) == len(re.findall(r"stablehlo\.(?:convolution|dot_general)\b", text)) >= 3  # one for each map
        return set(found)

    assert precisions(None) == {("DEFAULT", "DEFAULT")}
    assert precisions(lax.Precision.HIGHEST) == precisions("highest") == {("HIGHEST", "HIGHEST")}
    assert precisions(["highest", "default"]) == {("HIGHEST", "DEFAULT")}
    with jax.default_matmul_precision("highest"):
        assert precisions(None) == {("HIGHEST", "HIGHEST")}


@pytest.mark.parametrize("options", [{}, {"lhs_dilation": (2,)}, {"lhs_dilation": (2,), "window_strides": (2,)}])
def test_no_gradient_is_left_to_autodiff(options):
    """Forward mode meets a custom rule on every path; `fnconv.jvp` gives lax's tangent."""
    options = {"window_strides": (1,), "padding": [(1, 1)], **options}
    x, w = integers(0, (2, 3, 6)), integers(1, (4, 3, 2))
    assert_hand_derived(lambda x, w: compat.conv_general_dilated(x, w, **options), x, w)
    tangents = integers(2, x.shape), integers(3, w.shape)
    ours = fnconv.jvp(lambda x, w: compat.conv_general_dilated(x, w, **options), (x, w), tangents)
    assert_identical(ours, jax.jvp(lambda x, w: lax.conv_general_dilated(x, w, **options), (x, w), tangents))


def test_vmap_over_both_operands():
    x, w = integers(0, (3, 2, 4, 6)), integers(1, (3, 6, 2, 2))
    options = {"lhs_dilation": (2,), "feature_group_count": 2}
    got, want = both(
        jax.vmap(lambda x, w: compat.conv_general_dilated(x, w, (1,), [(1, 0)], **options)),
        jax.vmap(lambda x, w: lax.conv_general_dilated(x, w, (1,), [(1, 0)], **options)),
        (x, w),
    )
    assert_identical(got, want)


SHARDED = """
    import jax, numpy as np
    from jax import lax
    from jax.sharding import AxisType, PartitionSpec as P
    from fnconv.compat import lax as compat

    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
    x = np.arange(8 * 5 * 5 * 2, dtype=np.float32).reshape(8, 5, 5, 2) % 5
    w = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4) % 3

    def run(module, x, w, out):
        def loss(x, w):
            y = module.conv_general_dilated(
                x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), out_sharding=out)
            z = module.reduce_window(y, -np.inf, lax.max, (1, 2, 2, 1)) if out is None else y
            return (z * z).sum(), (y, z)
        gradients, values = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, w)
        return [*gradients, *values]

    with jax.set_mesh(mesh):
        for xs, ws, out in ((P("d"), P(), None), (P("d"), P(), P()), (P(), P(None, None, None, "d"), P("d"))):
            operands = jax.sharding.reshard(x, xs), jax.sharding.reshard(w, ws)
            for got, want in zip(run(compat, *operands, out), run(lax, *operands, out), strict=True):
                assert jax.typeof(got).sharding == jax.typeof(want).sharding, (jax.typeof(got), jax.typeof(want))
                np.testing.assert_array_equal(got, want)
    print("equal")
"""


def test_out_sharding_on_an_explicit_mesh():
    """Shardings, values and gradients on four devices equal lax's, with and without out_sharding."""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    path = [p for p in (*sys.path, ".") if p]
    code = f"import sys; sys.path[:0] = {path!r}\n" + textwrap.dedent(SHARDED)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (((1, 2, 4), (3, 2, 2), (1,), "SAME"), {"lhs_dilation": (2,)}),
        (((1, 2, 4), (3, 2, 2), (1,), "same_higher"), {}),
        (((1, 2, 4), (3, 2, 2), (1,), 1), {}),
        (((1, 2, 4), (3, 3, 2), (1,), "VALID"), {}),
        (((1, 2, 4), (3, 2, 2), (1, 1), "VALID"), {}),
        (((1, 2, 4), (3, 2, 2), (1,), [(-3, -2)]), {}),
        (((1, 4, 4), (3, 2, 2), (1,), "VALID"), {"feature_group_count": 2}),
        (((3, 4, 4), (2, 4, 2), (1,), "VALID"), {"batch_group_count": 2}),
        (((1, 2, 4), (3, 2, 2), (1,), "VALID"), {"dimension_numbers": ("NCH", "OIW", "NCH")}),
        (((1, 2, 4), (3, 2, 2), (1,), "VALID"), {"precision": "sharp"}),
    ],
)
def test_bad_arguments_raise_what_lax_raises(arguments, options):
    """Type and message."""
    lhs, rhs, *rest = arguments
    operands = np.ones(lhs, np.float32), np.ones(rhs, np.float32)
    with pytest.raises(Exception) as original:
        lax.conv_general_dilated(*operands, *rest, **options)
    with pytest.raises(original.type) as ours:
        compat.conv_general_dilated(*operands, *rest, **options)
    assert str(ours.value) == str(original.value)


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, jnp.float8_e4m3fn])
def test_unsupported_dtypes_are_declined_by_name(dtype):
    x, w = jnp.ones((1, 1, 4), dtype), jnp.ones((1, 1, 2), dtype)
    with pytest.raises(NotImplementedError, match=f"lhs must have dtype .* got {np.dtype(dtype).name}"):
        compat.conv_general_dilated(x, w, (1,), "VALID")


def test_dot_algorithm_is_declined():
    algorithm = lax.DotAlgorithm(np.float32, np.float32, np.float32)
    with pytest.raises(NotImplementedError, match="precision must not be a DotAlgorithm"):
        compat.conv_general_dilated(np.ones((1, 1, 4)), np.ones((1, 1, 2)), (1,), "VALID", precision=algorithm)


# ---- conv_transpose -------------------------------------------------------------------------------------------------

TRANSPOSED_PADS = [
    ("SAME", False),
    ("VALID", False),
    ([(2, 1)], False),
    ([(0, -1)], False),
    ("SAME", True),
    ([(1, 0)], True),
]


@pytest.mark.parametrize(("window", "stride", "dilation"), [(1, 2, 1), (3, 2, 1), (2, 3, 1), (4, 2, 2), (3, 1, 1)])
def test_conv_transpose_equals_lax(window, stride, dilation):
    """All paddings of one geometry; kernels as they are and transposed."""
    x, w = integers(0, (2, 5, 3)), integers(1, (window, 3, 3))

    def every(f):
        def calls(x, w):
            return [
                f(x, w, (stride,), p, (dilation,), transpose_kernel=t, use_consistent_padding=c)
                for (p, c), t in itertools.product(TRANSPOSED_PADS, (False, True))
            ]

        def joined(x, w):
            return jnp.concatenate([y.reshape(-1) for y in calls(x, w)])

        return calls, joined

    (ours, ours_joined), (original, original_joined) = every(compat.conv_transpose), every(lax.conv_transpose)
    got, want = jax.jit(lambda x, w: (ours(x, w), original(x, w)))(x, w)
    assert_identical(got, want)
    assert_identical(*both(ours_joined, original_joined, (x, w), order=1))


@pytest.mark.parametrize(
    ("lhs", "rhs", "options"),
    [
        ((2, 3), (3, 4), {}),
        ((1, 3, 4, 2), (2, 3, 2, 3), {}),
        ((1, 2, 3, 2, 2), (2, 1, 2, 2, 3), {}),
        (
            (1, 2, 3, 4),
            (2, 3, 2, 3),
            {"dimension_numbers": ("NCHW", "HWIO", "NWHC"), "preferred_element_type": "float32"},
        ),
    ],
)
def test_conv_transpose_layouts(lhs, rhs, options):
    """Default dimension numbers for 0 to 3 spatial dimensions, and given ones."""
    x, w = integers(0, lhs), integers(1, rhs)
    strides = (2, 3, 1)[: len(lhs) - 2]
    assert_identical(*(f.conv_transpose(x, w, strides, "SAME", **options) for f in (compat, lax)))


def test_conv_transpose_refuses_what_lax_refuses():
    x, w = np.ones((1, 4, 1), np.float32), np.ones((2, 1, 1), np.float32)
    for padding, consistent in (("same", False), ("CIRCULAR", True), ([3], True)):
        for f in (lax, compat):
            with pytest.raises((ValueError, TypeError)):
                f.conv_transpose(x, w, (2,), padding, use_consistent_padding=consistent)
    for f in (lax, compat):
        with pytest.raises(ValueError, match="default"):
            f.conv_transpose(np.ones((1,) * 6), np.ones((1,) * 6), (1,) * 4, "SAME")
    with pytest.raises(ValueError, match="conv_transpose: lhs must have as many axes as rhs"):
        compat.conv_transpose(x, w[0], (2,), "SAME")
