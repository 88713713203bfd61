"""fnconv.compat.lax.reduce_window against jax.lax's: values, derivatives, ties, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat_helpers import assert_hand_derived, assert_identical, both, distinct, integers, weights
from jax import lax

from fnconv.compat import lax as compat

MONOIDS = {"max": (-np.inf, lax.max), "min": (np.inf, lax.min), "add": (0.0, lax.add)}
WINDOWS = {
    "tiles": ((2, 4, 6, 3), (1, 2, 2, 1), (1, 2, 2, 1), "VALID", {}),
    "overlapping, SAME": ((2, 5, 5, 2), (1, 3, 2, 1), (1, 2, 1, 1), "SAME", {}),
    "batch and channels too": ((4, 5, 3), (2, 3, 2), (1, 2, 1), "same_lower", {}),
    "channels first, negative padding": (
        (2, 2, 6, 6),
        (1, 1, 2, 3),
        (1, 1, 2, 1),
        ((0, 0), (0, 0), (-1, 1), (2, -1)),
        {},
    ),
    "an axis between": ((5, 2, 4), (2, 1, 2), (2, 1, 1), "SAME", {}),
    "one axis, a window in the padding": ((7,), (2,), (3,), ((3, 4),), {}),
    "no window": ((3, 2), (1, 1), None, "VALID", {}),
    "base dilation": ((2, 4, 3), (1, 3, 1), (1, 2, 1), ((0, 0), (1, 2), (0, 0)), {"base_dilation": (1, 3, 1)}),
    "base dilation of the batch": ((3, 4), (2, 2), None, ((1, 0), (0, 0)), {"base_dilation": (2, 1)}),
    "window dilation": ((2, 7, 6), (1, 2, 3), (1, 1, 2), "SAME", {"window_dilation": (1, 3, 2)}),
    "both dilations": ((8, 2), (2, 2), (1, 1), "VALID", {"base_dilation": (2, 1), "window_dilation": (3, 1)}),
}
NOT_DIFFERENTIABLE_IN_LAX = ("channels first, negative padding", "window dilation", "both dilations")


@pytest.mark.sample(6)
@pytest.mark.parametrize("monoid", MONOIDS)
@pytest.mark.parametrize("case", WINDOWS)
def test_window_reduction_equals_lax(case, monoid):
    """Value, gradient, at times the second derivative; the sum of slices where lax has no gradient of extrema."""
    shape, window, strides, padding, options = WINDOWS[case]
    init, computation = MONOIDS[monoid]
    x = distinct(0, shape)
    arguments = (init, computation, window, strides, padding)
    order = 2 if case in ("overlapping, SAME", "batch and channels too", "base dilation", "window dilation") else 1
    if case == "one axis, a window in the padding" and monoid != "add":
        assert_identical(*(f.reduce_window(x, *arguments) for f in (compat, lax)))  # infinite: no second derivative
        gradient = jax.grad(lambda x: jnp.sum(compat.reduce_window(x, *arguments)))(x)
        extremum = jnp.maximum if monoid == "max" else jnp.minimum
        pairs = [(0, 1), (3, 4), (6, 6)]  # windows at -3, 0, 3, 6, 9
        winners = [i if extremum(x[i], x[j]) == x[i] else j for i, j in pairs]
        np.testing.assert_array_equal(gradient, np.isin(np.arange(7), winners).astype(np.float32))
        return
    if case in NOT_DIFFERENTIABLE_IN_LAX and monoid != "add":

        def by_slices(x, *arguments, **options):
            return taps(monoid, x, *arguments[2:], options)

        got, want = both(compat.reduce_window, by_slices, (x,), *arguments, nonlinear=True, order=order, **options)
        assert_identical(got[0], lax.reduce_window(x, *arguments, **options))
    else:
        options = {**options, "nonlinear": True, "order": order}
        got, want = both(compat.reduce_window, lax.reduce_window, (x,), *arguments, **options)
    assert_identical(got, want)


def taps(monoid, x, window, strides, padding, options):
    """The reduction over explicitly padded and stacked slices, which autodiff can be trusted with (no ties)."""
    n = x.ndim
    base, dilation = options.get("base_dilation", (1,) * n), options.get("window_dilation", (1,) * n)
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    pads = lax.padtype_to_pads(x.shape, spans, strides, padding) if isinstance(padding, str) else padding
    neutral = jnp.asarray(MONOIDS[monoid][0], x.dtype)
    x = lax.pad(x, neutral, [(low, high, b - 1) for (low, high), b in zip(pads, base, strict=True)])
    out = [(s - k) // t + 1 for s, k, t in zip(x.shape, spans, strides, strict=True)]
    cells = []
    for k in itertools.product(*map(range, window)):
        start = [i * d for i, d in zip(k, dilation, strict=True)]
        cells.append(x[tuple(slice(b, b + (o - 1) * t + 1, t) for b, o, t in zip(start, out, strides, strict=True))])
    return getattr(jnp, {"add": "sum"}.get(monoid, monoid))(jnp.stack(cells), axis=0)


@pytest.mark.parametrize("monoid", ["max", "min"])
def test_of_equal_extrema_the_first_wins_as_in_lax(monoid):
    """Ties in row-major order of the operand, whatever axes the window covers; lax's second derivative mixes them."""
    init, computation = MONOIDS[monoid]
    x = integers(0, (3, 6, 6, 3), 0, 2)
    for window, strides in (((1, 3, 3, 1), (1, 2, 2, 1)), ((2, 3, 1, 2), (1, 1, 1, 1))):
        arguments = (init, computation, window, strides, "SAME")
        cotangent = weights(jax.eval_shape(lambda x, a=arguments: lax.reduce_window(x, *a), x).shape)

        def gradient(module, x, a=arguments, u=cotangent):
            return jax.value_and_grad(lambda x: jnp.sum(module.reduce_window(x, *a) * u))(x)

        assert_identical(*(jax.jit(gradient, static_argnums=0)(f, x) for f in (compat, lax)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, np.int8, np.uint8, np.int32])
def test_window_reduction_dtypes(dtype):
    """With the float initial values that Flax passes, and with integers' own; sums stay below 256, bfloat16's limit."""
    x = jnp.asarray(distinct(0, (2, 6, 5)) % 40, dtype)
    monoids = list(MONOIDS.values())
    if jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        own = ((info.min, lax.max), (info.max, lax.min), (0, lax.add))
        monoids += [(np.asarray(init, dtype), computation) for init, computation in own]

    def values(module, x):
        geometry = ((1, 3, 2), (1, 2, 1), "SAME", (1, 2, 1))
        return [module.reduce_window(x, init, computation, *geometry) for init, computation in monoids]

    assert_identical(*jax.jit(lambda x: (values(compat, x), values(lax, x)))(x))


@pytest.mark.parametrize("monoid", MONOIDS)
def test_window_reduction_gradients_in_bfloat16(monoid):
    x = jnp.asarray(distinct(0, (2, 6, 5)), jnp.bfloat16)
    arguments = (*MONOIDS[monoid], (1, 2, 2), (1, 2, 1), "VALID")
    assert_identical(*both(compat.reduce_window, lax.reduce_window, (x,), *arguments, order=1))


def test_nan_wins_over_numbers_as_in_lax():
    x = np.array([1.0, np.nan, 2.0, 3.0], np.float32)
    for init, computation in (MONOIDS["max"], MONOIDS["min"]):
        assert_identical(*(f.reduce_window(x, init, computation, (2,)) for f in (compat, lax)))


@pytest.mark.parametrize("monoid", MONOIDS)
def test_no_window_gradient_is_left_to_autodiff(monoid):
    init, computation = MONOIDS[monoid]
    x = distinct(0, (6, 4))
    assert_hand_derived(lambda x: compat.reduce_window(x, init, computation, (2, 2)), x)


def test_vmap_of_a_window_reduction():
    x = distinct(0, (3, 6, 4))
    for init, computation in MONOIDS.values():

        def of(module, init=init, computation=computation):
            return jax.vmap(lambda x: module.reduce_window(x, init, computation, (3, 2), (2, 1), "SAME"), 1, 1)

        assert_identical(*both(of(compat), of(lax), (x,), nonlinear=True, order=1))


@pytest.mark.parametrize(
    ("operand", "init", "computation", "argument"),
    [
        (1.0, 1.0, lax.mul, "computation"),
        (1.0, -np.inf, jnp.maximum, "computation"),
        (1.0, 0.0, lax.max, "init_value"),
        (1.0, -1.0, lax.add, "init_value"),
        (1.0, -128, lax.max, "init_value"),
        (1.0, np.zeros(1), lax.add, "init_value"),
        (1.0, (0.0,), lax.add, "init_value"),
        ((1.0, 1.0), (0.0, 0.0), lax.add, "operand"),
    ],
)
def test_other_reductions_are_declined_by_name(operand, init, computation, argument):
    operand = jax.tree.map(lambda v: jnp.full((4,), v), operand)
    with pytest.raises(NotImplementedError, match=f"reduce_window: {argument} must be"):
        compat.reduce_window(operand, init, computation, (2,))


def test_an_initial_value_known_only_at_run_time_is_declined():
    with pytest.raises(NotImplementedError, match="init_value must be a scalar known at trace time"):
        jax.jit(lambda init: compat.reduce_window(jnp.ones(4), init, lax.add, (2,)))(0.0)


@pytest.mark.parametrize(
    "arguments", [((2,),), ((2, 2), (1,)), ((0, 1),), ((2, 2), (1, 1), "same_higher"), ((2, 2), (1, 1), "SAME", (1,))]
)
def test_bad_windows_raise_what_lax_raises(arguments):
    x = np.ones((4, 4), np.float32)
    with pytest.raises(Exception) as original:
        lax.reduce_window(x, 0.0, lax.add, *arguments)
    with pytest.raises(original.type):
        compat.reduce_window(x, 0.0, lax.add, *arguments)


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, jnp.float8_e4m3fn])
def test_unsupported_dtypes_are_declined_by_name(dtype):
    with pytest.raises(NotImplementedError, match=f"operand must have dtype .* got {np.dtype(dtype).name}"):
        compat.reduce_window(jnp.ones(4, dtype), -np.inf, lax.max, (2,))
