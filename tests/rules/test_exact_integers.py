"""On small integers every formulation, autodiff, NumPy loops and Torch give the same bits."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from agreement import (
    as_users_compile,
    assert_equal,
    check_conv,
    compiled,
    exact,
    needs_torch,
    run_conv,
    width,
)
from cases import CHANNELS_FIRST, CONVS, CONVS_IN_EVERY_DTYPE, FLOATS, Conv

import fnconv
from fnconv.rules.conv import DIVIDES

HALVES_AND_DOUBLE = [d for d in FLOATS if d != "float32"]


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", CONVS)
def test_conv_and_its_gradients_in_every_formulation(name):
    check_conv(CONVS[name])


@pytest.mark.parametrize("name", [CONVS_IN_EVERY_DTYPE[-1], "2d depthwise, multiplier 2"])
def test_as_users_compile(name):
    """With LLVM's optimisations, which the other tests do without."""
    check_conv(CONVS[name], compiled=as_users_compile)


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", HALVES_AND_DOUBLE)
@pytest.mark.parametrize("name", CONVS_IN_EVERY_DTYPE)
def test_conv_in_the_other_dtypes(name, dtype):
    check_conv(CONVS[name], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES_AND_DOUBLE)
@pytest.mark.parametrize("name", sorted(set(CONVS) - set(CONVS_IN_EVERY_DTYPE)))
def test_conv_every_geometry_in_the_other_dtypes(name, dtype):
    check_conv(CONVS[name], dtype)


@needs_torch
@pytest.mark.parametrize("name", CONVS)
def test_loops_agree_with_torch(name):
    """Torch's conv and autograd, behind F.pad, give what the loops give; test_conv_... compares the loops with ours."""
    import torch

    case = CONVS[name]
    x, w, b, dy = case.integers()
    steps = case.steps()
    convs = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)

    def conv(x, w, b):
        padded = torch.nn.functional.pad(x, oracles.torch_padding(steps))
        strides, dilations = [a.stride for a in steps], [a.dilation for a in steps]
        return convs[len(steps) - 1](padded, w, b, stride=strides, dilation=dilations, groups=case.groups)

    operands = oracles.channels_first(x), oracles.kernel_first(w), b
    y, dx, dw, db = oracles.torch_gradients(conv, operands, oracles.channels_first(dy))
    want = oracles.conv_maps(x, w, dy, steps, case.groups)
    assert_equal(y, oracles.channels_first(want[0] + b), "y")
    assert_equal(dx, oracles.channels_first(want[1]), "dx")
    assert_equal(dw, oracles.kernel_first(want[2]), "dw")
    assert_equal(db, dy.sum(axis=tuple(range(dy.ndim - 1))), "db")


def test_integer_operands_are_convolved_as_integers():
    """int32 and int8 forward in every formulation that takes them, exact and of their own dtype."""
    case = CONVS["2d one side cropped, one padded"]
    x, w, _, dy = (a.astype(np.int8) for a in case.integers("bfloat16"))
    want, _, _ = oracles.conv_maps(*(a.astype(np.int64) for a in (x, w, dy)), case.steps(), case.groups)
    assert np.abs(want).max() < 128
    for dtype in (jnp.int8, jnp.int32):
        for name, rule in exact("conv").items():
            if name in DIVIDES:
                continue
            y = fnconv.conv(jnp.asarray(x, dtype), jnp.asarray(w, dtype), rule=rule, **case.options)
            assert y.dtype == dtype
            assert_equal(y, want, name)


# ---- transposed convolution -----------------------------------------------------------------------------------------

# inputs and outputs are those of the conv that is transposed: x has `outputs` channels, y has `inputs`
TRANSPOSES = {
    "1d": (Conv((), (3,), 2), (4,), 0),
    "1d output padding, int padding": (Conv((), (3,), 3, 1, batch=()), (3,), 2),
    "1d output padding below the dilation": (Conv((), (2,), 1, 0, 3, **CHANNELS_FIRST), (4,), 2),
    "2d grouped": (Conv((), (2, 3), (2, 1), ((1, 0), (0, 2)), groups=2, inputs=4, outputs=2), (3, 4), (1, 0)),
    "2d dilated, Torch's layout": (Conv((), (2, 2), (1, 3), (1, 0), (2, 1), **CHANNELS_FIRST), (3, 3), (1, 2)),
    "2d negative padding, two batch axes": (Conv((), (2, 2), 2, ((-1, -2), (0, -1)), batch=(2, 1)), (2, 3), 0),
    "2d depthwise": (Conv((), (3, 3), 2, 1, groups=3, inputs=3, outputs=3), (3, 2), 1),
    "3d": (Conv((), (2, 1, 2), (1, 2, 2), 0, batch=(1,), **CHANNELS_FIRST), (2, 2, 2), (0, 1, 1)),
}


def transpose_loops(x, w, dy, case, size, steps):
    """(y, dx, dw): y[o * stride + k * dilation - low] += x[o] w[k], from the definition."""
    c, d = case.inputs // case.groups, case.outputs // case.groups
    y = np.zeros((case.images, *size, case.inputs), np.int64)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for o in np.ndindex(*x.shape[1:-1]):
        for k in np.ndindex(*case.window):
            i = tuple(p * a.stride + q * a.dilation - a.low for p, q, a in zip(o, k, steps, strict=True))
            if any(not 0 <= p < n for p, n in zip(i, size, strict=True)):
                continue
            for g in range(case.groups):
                at_x = (slice(None), *o, slice(g * d, (g + 1) * d))
                at_y = (slice(None), *i, slice(g * c, (g + 1) * c))
                at_w = (*k, slice(None), slice(g * d, (g + 1) * d))
                y[at_y] += x[at_x] @ w[at_w].T
                dx[at_x] += dy[at_y] @ w[at_w]
                dw[at_w] += dy[at_y].T @ x[at_x]
    return y, dx, dw


def transpose_arrays(name):
    case, positions, output_padding = TRANSPOSES[name]
    extra = (output_padding,) * len(positions) if isinstance(output_padding, int) else output_padding
    bare = oracles.resolve(positions, case.window, case.strides, case.padding, case.dilation)
    size = tuple(
        (a.size - 1) * a.stride + (a.window - 1) * a.dilation + 1 - a.low - a.high + e
        for a, e in zip(bare, extra, strict=True)
    )
    rng = np.random.default_rng(11)
    shapes = (case.images, *positions, case.outputs), case.w_shape, (case.inputs,), (case.images, *size, case.inputs)
    return case, bare, size, extra, [rng.integers(-2, 3, shape) for shape in shapes]


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TRANSPOSES)
def test_conv_transpose_and_its_gradients_in_every_formulation(name, dtype):
    import jax

    case, steps, size, extra, (x, w, b, dy) = transpose_arrays(name)
    want = transpose_loops(x, w, dy, case, size, steps)
    want = want[0] + b, *want[1:], dy.sum(axis=tuple(range(dy.ndim - 1)))

    def program(x, w, b, dy):
        result = {}
        for rule_name, rule in exact("conv").items():
            y, pullback = jax.vjp(
                lambda x, w, b, rule=rule: fnconv.conv_transpose(
                    x, w, b, output_padding=extra, rule=rule, **case.options
                ),
                *(x, w, b),
            )
            result[rule_name] = (y, *pullback(dy))
        return result

    arranged = case.arranged(x), case.kernel(w), b, case.arranged(dy)
    for rule, (y, dx, dw, db) in compiled(program)(*(jnp.asarray(a, dtype) for a in arranged)).items():
        got = case.canonical(y), case.canonical(dx), case.canonical_kernel(dw), db
        for argument, value, expected in zip(("y", "dx", "dw", "db"), got, want, strict=True):
            assert_equal(value, expected, f"{rule}: {argument}")


@needs_torch
@pytest.mark.parametrize("name", TRANSPOSES)
def test_transposed_loops_agree_with_torch(name):
    """Torch's conv_transpose without padding, cropped by F.pad; weights (in, out / groups, *window) as they are."""
    import torch

    case, steps, size, extra, (x, w, b, dy) = transpose_arrays(name)
    names = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    transposed = getattr(torch.nn.functional, names[len(steps) - 1])

    def conv_transpose(x, w, b):
        strides, dilations = [a.stride for a in steps], [a.dilation for a in steps]
        whole = transposed(x, w, None, stride=strides, groups=case.groups, dilation=dilations)
        crop = [p for a, e in zip(reversed(steps), reversed(extra), strict=True) for p in (-a.low, e - a.high)]
        y = torch.nn.functional.pad(whole, crop)
        return y + b.reshape(-1, *(1,) * len(steps))

    operands = oracles.channels_first(x), oracles.kernel_first(w), b
    y, dx, dw, _ = oracles.torch_gradients(conv_transpose, operands, oracles.channels_first(dy))
    want = transpose_loops(x, w, dy, case, size, steps)
    assert_equal(y, oracles.channels_first(want[0] + b), "y")
    assert_equal(dx, oracles.channels_first(want[1]), "dx")
    assert_equal(dw, oracles.kernel_first(want[2]), "dw")


@needs_torch
@pytest.mark.parametrize(
    ("window", "options"),
    [
        ((3, 3), {"strides": (2, 2), "padding": (1, 1), "output_padding": (1, 1)}),
        ((2, 3), {"strides": (3, 2), "padding": (0, 1), "output_padding": (2, 0), "dilation": (2, 1)}),
        ((3, 2), {"strides": (1, 2), "padding": (2, 0), "output_padding": (1, 1), "dilation": (2, 3)}),
    ],
)
def test_conv_transpose_takes_torch_arguments_as_they_are(window, options):
    """Same arguments, same weights, same result as torch.nn.functional.conv_transpose2d, groups included."""
    import torch

    rng = np.random.default_rng(2)
    x, w, b = (rng.integers(-3, 4, shape) for shape in ((2, 4, 3, 4), (4, 3, *window), (6,)))
    theirs = torch.nn.functional.conv_transpose2d(
        *(torch.tensor(a, dtype=torch.float32) for a in (x, w, b)),
        groups=2,
        **{{"strides": "stride"}.get(k, k): v for k, v in options.items()},
    )
    ours = fnconv.conv_transpose(
        *(jnp.asarray(a, jnp.float32) for a in (x, w, b)), groups=2, **CHANNELS_FIRST, **options
    )
    assert_equal(ours, theirs.numpy(), "y")


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_transpose_agrees_with_lax_where_the_two_definitions_meet(padding, stride):
    """lax.conv_transpose(transpose_kernel=True) transposes the conv of the same strides and padding.

    For VALID lax returns at least stride cells per position, so that the two differ where the kernel is smaller than
    the stride.
    """
    from jax import lax

    rng = np.random.default_rng(4)
    x, w = (jnp.asarray(rng.integers(-3, 4, s), jnp.float32) for s in ((2, 4, 5, 3), (3, 4, 2, 3)))
    theirs = lax.conv_transpose(x, w, (stride,) * 2, padding, transpose_kernel=True)
    assert_equal(fnconv.conv_transpose(x, w, strides=stride, padding=padding), theirs, "y")


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "INPUT_SIZE", "FULL", "VALID"])
def test_conv_transpose_is_the_adjoint_of_conv_for_named_paddings(padding):
    """<u, conv(v)> = <conv_transpose(u), v> with the result's own size as the conv's input."""
    rng = np.random.default_rng(6)
    u, w = (jnp.asarray(rng.integers(-3, 4, s), jnp.float32) for s in ((2, 4, 5, 3), (3, 2, 2, 3)))
    y = fnconv.conv_transpose(u, w, strides=(2, 3), padding=padding)
    v = jnp.asarray(rng.integers(-3, 4, y.shape), jnp.float32)
    assert float((u * fnconv.conv(v, w, strides=(2, 3), padding=padding)).sum()) == float((y * v).sum())


# ---- dense ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_dense_and_its_gradients(dtype, batch):
    import jax

    rng = np.random.default_rng(8)
    x, w, b, dy = (rng.integers(-2, 3, s) for s in ((*batch, 4), (4, 5), (5,), (*batch, 5)))
    rows, drows = x.reshape(-1, 4), dy.reshape(-1, 5)
    want = x @ w + b, dy @ w.T, rows.T @ drows, drows.sum(axis=0)
    with width(dtype):
        y, pullback = jax.vjp(fnconv.dense, *(jnp.asarray(a, dtype) for a in (x, w, b)))
        got = (y, *pullback(jnp.asarray(dy, dtype)))
    for argument, value, expected in zip(("y", "dx", "dw", "db"), got, want, strict=True):
        assert value.dtype == jnp.dtype(dtype)
        assert_equal(value, expected, argument)


def test_dense_is_a_convolution_with_a_kernel_of_full_size():
    """Wei 3, GEMM 2: forward and backward, in every formulation of the conv."""
    import jax

    case = CONVS["2d full-size kernel"]
    x, w, b, dy = case.integers()
    flat, kernel = x.reshape(case.images, -1), w.reshape(-1, case.outputs)
    y, pullback = jax.vjp(fnconv.dense, *(jnp.asarray(a, jnp.float32) for a in (flat, kernel, b)))
    dense = (y, *pullback(jnp.asarray(dy.reshape(case.images, -1), jnp.float32)))
    results = run_conv(case, "float32", x, w, b, dy)
    for name, conv in ((name, results[name]) for name in exact("conv")):
        for argument, value, expected in zip(("y", "dx", "dw", "db"), conv, dense, strict=True):
            assert_equal(value.reshape(expected.shape), expected, f"{name}: {argument}")
