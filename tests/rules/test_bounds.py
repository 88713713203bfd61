"""Float data: every formulation lies within the rounding error that its count of operations allows, and no more."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from agreement import avg_pool_program, compiled, formulations, run_conv, width
from bounds import assert_within, gamma, sum_bound, units_of
from cases import CONVS, CONVS_IN_EVERY_DTYPE, FLOATS, POOLS, Conv, Pool

import fnconv
from fnconv.base.dtypes import unit_roundoff
from fnconv.judge.own.run import TRANSFORM_STEPS
from fnconv.rules.conv import GROWTH

IN_F32 = ("2d Notes: same at stride 2", "2d asymmetric as large as the kernel", "2d depthwise, multiplier 2")


def rounded(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Normal numbers that the dtype holds, in float64."""
    with width(dtype):
        return np.asarray(jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype), np.float64)


def check_conv_bounds(case: Conv, dtype: str) -> float:
    steps = case.steps()
    y_shape = (case.images, *oracles.outputs(steps), case.outputs)
    shapes = (case.images, *case.size, case.inputs), case.w_shape, y_shape
    x, w, dy = (rounded(i, shape, dtype) for i, shape in enumerate(shapes))
    axes = tuple(range(dy.ndim - 1))

    def maps(x, w, dy):
        return *oracles.conv_maps(x, w, dy, steps, case.groups), dy.sum(axis=axes)

    exact, magnitude = maps(x, w, dy), maps(*map(np.abs, (x, w, dy)))
    count = maps(*map(np.ones_like, (x, w, dy)))
    bounds = [sum_bound(n, m, g, dtype) for n, m, g in zip(count, magnitude, exact, strict=True)]
    largest = maps(*(np.full_like(a, np.abs(a).max()) for a in (x, w, dy)))

    def grown(rule):
        """Where larger numbers are added than the products, of the whole tile: all entries count as the largest."""
        growth, steps = GROWTH[rule] ** len(case.size), TRANSFORM_STEPS * len(case.size)
        sums = zip(count, largest, exact, strict=True)
        return [sum_bound(n.max() + steps, growth * m.max() + 0 * g, g, dtype) for n, m, g in sums]

    results = run_conv(case, dtype, x, w, np.zeros(case.outputs), dy)
    del results["plain JAX"]
    return max(
        assert_within(value, g, bound, f"{name}: {argument}")
        for name, got in results.items()
        for argument, value, g, bound in zip(
            ("y", "dx", "dw", "db"), got, exact, grown(name) if name in GROWTH else bounds, strict=True
        )
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", CONVS_IN_EVERY_DTYPE)
def test_conv_and_its_gradients(name, dtype):
    check_conv_bounds(CONVS[name], dtype)


@pytest.mark.parametrize("name", IN_F32)
def test_conv_and_its_gradients_in_float32(name):
    check_conv_bounds(CONVS[name], "float32")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [n for n in CONVS if n not in CONVS_IN_EVERY_DTYPE])
def test_conv_every_geometry_in_every_dtype(name, dtype):
    check_conv_bounds(CONVS[name], dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dense(dtype):
    x, w, dy = (rounded(i, s, dtype) for i, s in enumerate(((6, 40), (40, 5), (6, 5))))
    with width(dtype):
        y, pullback = jax.vjp(fnconv.dense, *(jnp.asarray(a, dtype) for a in (x, w)))
        got = (y, *pullback(jnp.asarray(dy, dtype)))
    for value, (a, b), n in zip(got, ((x, w), (dy, w.T), (x.T, dy)), (40, 5, 6), strict=True):
        assert_within(value, a @ b, sum_bound(n, np.abs(a) @ np.abs(b), a @ b, dtype), "dense")


# ---- pooling --------------------------------------------------------------------------------------------------------

AVERAGED = ("2d dilated, asymmetric", "2d ceil mode, padded", "2d disjoint, padded")


def check_avg_pool_bounds(case: Pool, dtype: str) -> float:
    """A window's cells, and the windows of a cell, are no more than the elements of the window; one more division."""
    x, dy = (rounded(i, shape, dtype) for i, shape in enumerate((case.x_shape, case.y_shape)))
    with width(dtype):
        got = avg_pool_program(case)(*(jnp.asarray(case.arranged(a), dtype) for a in (x, dy)))
    worst = 0.0
    for (name, include), values in got.items():
        exact = oracles.avg_pool(x, dy, case.axes, include)
        magnitude = oracles.avg_pool(np.abs(x), np.abs(dy), case.axes, include)
        for argument, value, g, m in zip(("y", "dx"), values, exact, magnitude, strict=True):
            bound = sum_bound(np.prod(case.window) + 1, m, g, dtype)
            worst = max(worst, assert_within(case.canonical(value), g, bound, f"{name}, {include}: {argument}"))
    return worst


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", AVERAGED)
def test_avg_pool_and_its_gradient(name, dtype):
    check_avg_pool_bounds(POOLS[name], dtype)


def lp_pool_program(case: Pool, p: float):
    def program(x, dy):
        def maps(rule):
            y, pullback = jax.vjp(lambda x: fnconv.lp_pool(x, case.window, p=p, rule=rule, **case.options), x)
            return y, pullback(dy)[0]

        return {name: maps(rule) for name, rule in formulations("lp_pool").items()}

    return compiled(program)


def check_lp_pool_bounds(case: Pool, p: float, dtype: str = "float32") -> None:
    """y adds n powers and takes a root, dx multiplies a power of x / y: roundings counted one by one.

    A power's own error e is that of the library's function at points all over its range; an error d of its argument
    becomes p d.  y: (p + e + n) of the sum, / p by the root, whose exponent 1 / p is rounded (|ln s| <= n), its error
    e, the scale and the final rounding.  slope: y's error and a division, times p - 1, a power, and the product.
    """
    n = int(np.prod(case.window))
    x, dy = (rounded(i, shape, dtype) for i, shape in enumerate((case.x_shape, case.y_shape)))
    with width(dtype):
        got = lp_pool_program(case, p)(*(jnp.asarray(case.arranged(a), dtype) for a in (x, dy)))
    points = np.geomspace(1e-6, 2 * n, 20001)
    e = max(units_of(lambda t, q=q: t**q, lambda t, q=q: t**q, points, dtype) for q in (p, 1 / p, p - 1) if q)
    root = (e + n) / p + np.log(2**p * n) + e + 2
    slope = (p - 1) * (root + 1) + e + 2
    y, dx = oracles.lp_pool(x, dy, case.axes, p)
    _, magnitude = oracles.lp_pool(np.abs(x), np.abs(dy), case.axes, p)
    for name, (value, gradient) in got.items():
        of_y, of_dx = (gamma(k, dtype) + gamma(k, "float64") for k in (root, slope + n))  # and the reference's own
        assert_within(case.canonical(value), y, of_y * y, f"{name}: y")
        assert_within(case.canonical(gradient), dx, of_dx * magnitude, f"{name}: dx")


@pytest.mark.parametrize(
    ("name", "p", "dtype"),
    [
        ("2d dilated, asymmetric", 2, "float32"),
        ("2d dilated, asymmetric", 3, "float32"),
        ("2d dilated, asymmetric", 3, "float64"),
        ("2d ceil mode, padded", 1, "float32"),
        ("2d ceil mode, padded", 1.5, "float32"),
        ("3d", 2, "float64"),
        ("1d dilated, two batch axes", 2, "float32"),
    ],
)
def test_lp_pool_and_its_gradient(name, p, dtype):
    check_lp_pool_bounds(POOLS[name], p, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lp_pool_in_half_precision_is_float32_rounded_twice(dtype):
    """y is rounded to half and the slope x / y is taken from it: two roundings of a half, the rest in float32."""
    case = POOLS["2d disjoint, padded"]
    x, dy = (rounded(i, shape, dtype) for i, shape in enumerate((case.x_shape, case.y_shape)))
    y, dx = oracles.lp_pool(x, dy, case.axes, 2)
    _, magnitude = oracles.lp_pool(np.abs(x), np.abs(dy), case.axes, 2)
    u, n = unit_roundoff(dtype), int(np.prod(case.window))
    few = gamma(2 * n + 6, "float32")
    subnormal = float(jnp.finfo(dtype).smallest_subnormal)
    for name, (value, gradient) in lp_pool_program(case, 2)(
        *(jnp.asarray(case.arranged(a), dtype) for a in (x, dy))
    ).items():
        assert value.dtype == gradient.dtype == jnp.dtype(dtype)
        assert_within(case.canonical(value), y, (u + few * (1 + u)) * y, f"{name}: y")
        bound = (gamma(2, dtype) + few * (1 + 2 * u)) * magnitude + subnormal
        assert_within(case.canonical(gradient), dx, bound, f"{name}: dx")


def test_the_bound_is_tight_enough_to_see_one_scaled_element():
    """A kernel element off by 1.0005 breaks the bound in float32: the check can fail."""
    case = CONVS["2d Notes: same at stride 2"]
    x, w, dy = (rounded(i, s, "float32") for i, s in enumerate(((1, 5, 5, 2), case.w_shape, (1, 5, 5, 3))))
    wrong = w.copy()
    wrong[0, 0, 0, 0] *= 1.0005
    exact, magnitude, count = (
        oracles.conv_maps(a, b, c, case.steps())[0]
        for a, b, c in ((x, w, dy), (abs(x), abs(w), abs(dy)), map(np.ones_like, (x, w, dy)))
    )
    bound = sum_bound(count, magnitude, exact, "float32")
    with pytest.raises(AssertionError):
        assert_within(oracles.conv_maps(x, wrong, dy, case.steps())[0], exact, bound, "y")
