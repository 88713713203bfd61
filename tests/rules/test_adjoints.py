"""The dot test <u, A v> = <A^T u, v> in exact integers: every linear map, its adjoint, and the adjoint's own rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import TIES, common_multiple, compiled, exact, formulations
from cases import CONVS, POOLS

import fnconv
from fnconv.base import pairs, window_sums
from fnconv.base.geometry import Axis
from fnconv.base.spec import PoolSpec
from fnconv.ops.conv import bias
from fnconv.rules import max_pool
from fnconv.rules.im2col import shifted

CONV_CASES = ("1d SAME, dilated, grouped", "2d one side cropped, one padded", "2d depthwise, multiplier 2")
MORE_CONV_CASES = [pytest.param(name, marks=pytest.mark.slow) for name in CONVS if name not in CONV_CASES]
POOL_CASES = (
    "2d dilated, asymmetric",
    "2d ceil mode, padded",
    "2d disjoint, leftovers",
    "1d windows wholly in the padding",
)


def integers(seed: int, shape, largest: int = 3) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(-largest, largest + 1, shape), jnp.float32)


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b)


def closed(linear_map, v: jax.Array, scale: int = 1) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Pairs that must be equal: <u, A v> and <A^T u, v>; A v and (A^T)^T v; A^T u and ((A^T)^T)^T u."""
    y, transpose = jax.vjp(linear_map, v)
    u = integers(1, y.shape) * scale
    (v_bar,) = transpose(u)
    _, back = jax.vjp(lambda u: transpose(u)[0], u)
    (again,) = back(v)
    _, twice = jax.vjp(lambda v: back(v)[0], v)
    return {"dot": (inner(u, y), inner(v_bar, v)), "twice": (again, y), "three times": (twice(u)[0], v_bar)}


def assert_closed(pairs: dict) -> None:
    for where, (got, want) in jax.tree_util.tree_leaves_with_path(pairs, is_leaf=lambda p: isinstance(p, tuple)):
        np.testing.assert_array_equal(got, want, err_msg=str(where))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", [*CONV_CASES, *MORE_CONV_CASES])
def test_conv_and_its_two_gradient_maps(name):
    """Each map is linear in both of its operands: six adjoints, each with its own, in every formulation."""
    case = CONVS[name]
    x, w, _, dy = (jnp.asarray(a, jnp.float32) for a in case.integers())
    x, w, dy = (jnp.asarray(a) for a in (case.arranged(x), case.kernel(w), case.arranged(dy)))

    def program(x, w, dy):
        result = {}
        for rule_name, rule in exact("conv").items():
            options = {**case.options, "rule": rule}
            result[rule_name] = {
                "conv of x": closed(lambda x, o=options: fnconv.conv(x, w, **o), x),
                "conv of w": closed(lambda w, o=options: fnconv.conv(x, w, **o), w),
                "input_vjp of dy": closed(lambda dy, o=options: fnconv.conv_input_vjp(dy, w, x.shape, **o), dy),
                "input_vjp of w": closed(lambda w, o=options: fnconv.conv_input_vjp(dy, w, x.shape, **o), w),
                "weight_vjp of x": closed(lambda x, o=options: fnconv.conv_weight_vjp(x, dy, case.window, **o), x),
                "weight_vjp of dy": closed(lambda dy, o=options: fnconv.conv_weight_vjp(x, dy, case.window, **o), dy),
            }
        return result

    assert_closed(compiled(program)(x, w, dy))


def test_conv_transpose_dense_bias_and_flatten():
    w, rows, kernel, b = (integers(i, s) for i, s in enumerate(((3, 2, 2, 4), (3, 5), (5, 2), (4,))))
    u = integers(7, (2, 3, 4, 4))
    transposed = {"strides": (2, 1), "padding": ((1, 0), (0, 1)), "output_padding": (1, 0)}

    def program(u, w, rows, kernel, b):
        return {
            "conv_transpose of x": closed(lambda u: fnconv.conv_transpose(u, w, **transposed), u),
            "conv_transpose of w": closed(lambda w: fnconv.conv_transpose(u, w, **transposed), w),
            "dense of x": closed(lambda rows: fnconv.dense(rows, kernel), rows),
            "dense of w": closed(lambda kernel: fnconv.dense(rows, kernel), kernel),
            "bias": closed(lambda b: bias(jnp.zeros_like(u), b), b),
            "flatten": closed(fnconv.flatten, u),
        }

    assert_closed(compiled(program)(u, w, rows, kernel, b))


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", POOL_CASES)
def test_selection_averaging_and_patches(name):
    """S of max pooling at fixed winners (select, unselect), averages of multiples of their sizes, im2col and col2im."""
    case = POOLS[name]
    x = integers(2, case.x_shape)
    scale = common_multiple(case)  # of x and of u: every quotient is an integer

    def program(x):
        v = integers(3, case.x_shape)
        x, v = (jnp.moveaxis(a, -1, 1) if case.layout == "channels_first" else a for a in (x, v))
        result = {}
        for rule_name, rule in formulations("max_pool").items():
            for ties in TIES:

                def pool(x, rule=rule, ties=ties):
                    return fnconv.max_pool(x, case.window, ties=ties, rule=rule, **case.options)

                y, transpose = jax.vjp(pool, x)
                result["max_pool", rule_name, ties] = closed(lambda dy, t=transpose: t(dy)[0], integers(4, y.shape))
        for rule_name, rule in formulations("avg_pool").items():
            for include in (True, False):
                options = {**case.options, "count_include_pad": include, "rule": rule}
                result["avg_pool", rule_name, include] = closed(
                    lambda x, o=options: fnconv.avg_pool(x, case.window, **o), v * scale, scale
                )
        y, indices = fnconv.max_pool_with_indices(x, case.window, **case.options)

        def unpool(y):
            return fnconv.max_unpool(y, indices, case.size, layout=case.layout)

        result["max_unpool"] = closed(unpool, integers(5, y.shape))
        for order in ("c", "matlab"):
            options = {**case.sliding, "order": order}
            if case.strides is None:
                options["strides"] = case.window
            cols = fnconv.im2col(v, case.window, **options)
            result["im2col", order] = closed(lambda x, o=options: fnconv.im2col(x, case.window, **o), v)
            result["col2im", order] = closed(
                lambda c, o=options: fnconv.col2im(c, v.shape, case.window, **o), integers(6, cols.shape)
            )
        return {str(k): v for k, v in result.items()}

    assert_closed(compiled(program)(x))


# ---- the maps of base, each written beside its adjoint -------------------------------------------------------------

AXES = (Axis(5, 2, 2, 2, 1, -1), Axis(4, 3, 1, 1, 2, 0))
CEIL = (Axis(5, 2, 2, 1, 0, 0, 1), Axis(4, 2, 3, 1, 1, 1))
DISJOINT = (Axis(7, 3, 3, 1, 1, 0), Axis(4, 2, 2, 1))
N, C = 2, 3


def spatial(axes):
    return (N, *(a.size for a in axes), C)


def out(axes):
    return (N, *(a.output for a in axes), C)


def padded(axes):
    return (N, *(a.padded for a in axes), C)


def columns(axes):
    positions, elements = (int(np.prod(s)) for s in ([a.output for a in axes], [a.window for a in axes]))
    return (N, positions, elements, C)


def by_pool_spec(f):
    return lambda v, axes: f(PoolSpec(axes), v)


BOTH_GEOMETRIES = {"strided": AXES, "overshoot": CEIL}
PAIRS = {
    f"{what}, {name}": (lambda v, f=f, a=a: f(v, a), lambda u, g=g, a=a: g(u, a), v_shape(a), u_shape(a))
    for name, a in {**BOTH_GEOMETRIES, "disjoint": DISJOINT}.items()
    for what, f, g, v_shape, u_shape in (
        ("pad, unpad", pairs.pad, pairs.unpad, spatial, padded),
        ("im2col, col2im", pairs.im2col, pairs.col2im, spatial, columns),
        ("shifted im2col", by_pool_spec(shifted.forward), by_pool_spec(shifted.input_vjp), spatial, columns),
        ("window_sum", window_sums.window_sum, window_sums.window_sum_adjoint, spatial, out),
        (
            "tap, tap_adjoint",
            lambda v, a: pairs.tap(pairs.pad(v, a), a, (1, 0)),
            lambda u, a: pairs.tap_adjoint(u, a, (1, 0)),
            spatial,
            out,
        ),
    )
} | {
    "zero_insert, subsample": (
        lambda v: pairs.zero_insert(v, (3, 2)),
        lambda u: pairs.subsample(u, (3, 2)),
        (N, 3, 4, C),
        (N, 7, 7, C),
    ),
    "rot180": (pairs.rot180, pairs.rot180, (3, 2, 2, 3), (3, 2, 2, 3)),
    "swap_channels": (
        lambda v: pairs.swap_channels(v, 2),
        lambda u: pairs.swap_channels(u, 2),
        (3, 2, 4),
        (3, 2, 4),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_linear_maps_beside_their_adjoints(name):
    """<u, A v> = <A* u, v>, and A* u is what JAX's transpose of A gives."""
    forward, adjoint, v_shape, u_shape = PAIRS[name]
    v, u = integers(1, v_shape), integers(2, u_shape)

    def program(v, u):
        (transposed,) = jax.linear_transpose(forward, v)(u)
        return inner(u, forward(v)), inner(adjoint(u), v), adjoint(u), transposed

    dot, adjoint_dot, ours, jax_s = compiled(program)(v, u)
    assert dot == adjoint_dot
    np.testing.assert_array_equal(ours, jax_s)


@pytest.mark.parametrize("rule", fnconv.available_rules()["max_pool"]["input_vjp"])
def test_select_beside_unselect(rule):
    """S and S^T at given winners, also where a window has none."""
    axes = (Axis(4, 2, 1, 2, 1, 0), Axis(5, 2, 2, 1, 0, 3))
    spec = PoolSpec(axes)
    _, offset = max_pool.RULES["forward"]["segment_sum"](spec, integers(1, spatial(axes)))
    assert (np.asarray(offset) < 0).any()
    v, u = integers(2, spatial(axes)), integers(3, out(axes))
    sv = max_pool.ADJOINTS[rule](spec, offset, v)
    stu = max_pool.RULES["input_vjp"][rule](spec, offset, u)
    assert inner(u, sv) == inner(stu, v)
