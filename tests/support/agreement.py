"""All formulations of one geometry in one compiled program, and the demand that they agree with the oracles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import Conv, Pool

import fnconv
from fnconv.rules.conv import ROUNDING

kept = lru_cache(maxsize=8)  # a compiled program holds some 150 memory maps, of which a process may have 65,530
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed; the extra `oracles` has it"
)


def compiled(f: Callable[..., Any], **options: Any) -> Any:
    """jit with XLA's dearest passes off: what is compiled here runs once, and compiling it is what these tests cost."""
    return jax.jit(f, compiler_options=cheap_options(), **options)


def as_users_compile(f: Callable[..., Any]) -> Any:
    """jit with all of XLA's passes, whatever the tests' own settings are."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 3})


@cache
def cheap_options() -> dict[str, Any]:
    """Those of the options that this version of XLA knows."""
    options: dict[str, Any] = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    known = {}
    for name, value in options.items():
        with suppress(jax.errors.JaxRuntimeError):  # no such option
            jax.jit(lambda x: x, compiler_options={name: value})(0)
            known[name] = value
    return known


def width(dtype: str) -> AbstractContextManager[Any]:
    """float64 exists only while 64-bit values are enabled."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


def formulations(operation: str) -> dict[str, Any]:
    """Every name of `available_rules`, for those maps that have it, and "auto"."""
    maps = fnconv.available_rules()[operation]
    names = dict.fromkeys(name for rules in maps.values() for name in rules)
    return {name: {m: name for m, rules in maps.items() if name in rules} for name in names} | {"auto": "auto"}


def exact(operation: str) -> dict[str, Any]:
    """Those of them that keep whole numbers exact."""
    return {name: rule for name, rule in formulations(operation).items() if name not in ROUNDING}


def assert_equal(got: Any, want: np.ndarray, what: str) -> None:
    """Bit for bit: every entry the same number."""
    np.testing.assert_array_equal(np.asarray(got, np.float64), np.asarray(want, np.float64), err_msg=what)


# ---- conv -----------------------------------------------------------------------------------------------------------

ConvResult = dict[str, tuple[jax.Array, ...]]


@kept
def conv_program(case: Conv, compiled: Callable[..., Any] = compiled) -> Callable[..., ConvResult]:
    """(x, w, b, dy) -> {formulation: (y, dx, dw, db)}, with plain JAX and the public gradient maps among them."""

    def program(x: jax.Array, w: jax.Array, b: jax.Array, dy: jax.Array) -> ConvResult:
        def maps(f: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
            y, pullback = jax.vjp(f, x, w, b)
            return y, *pullback(dy)

        def plain(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
            if case.layout == "channels_first":
                x, w = jnp.moveaxis(x, len(case.batch), -1), jnp.moveaxis(w, (0, 1), (-1, -2))
            y = oracles.plain_conv(x.reshape(case.images, *x.shape[len(case.batch) :]), w, case.steps(), case.groups)
            y = (y + b).reshape(*case.batch, *y.shape[1:])
            return jnp.moveaxis(y, -1, len(case.batch)) if case.layout == "channels_first" else y

        result = {
            name: maps(lambda x, w, b, rule=rule: fnconv.conv(x, w, b, rule=rule, **case.options))
            for name, rule in formulations("conv").items()
        }
        y, _, _, db = result["auto"]
        dx = fnconv.conv_input_vjp(dy, w, x.shape, **case.options)
        dw = fnconv.conv_weight_vjp(x, dy, case.window, **case.options)
        return {**result, "the gradient maps": (y, dx, dw, db), "plain JAX": maps(plain)}

    return compiled(program)


def run_conv(
    case: Conv, dtype: str, *canonical: np.ndarray, compiled: Callable[..., Any] = compiled
) -> dict[str, list[np.ndarray]]:
    """{formulation: [y, dx, dw, db]}, canonical, of x, w, b, dy of the dtype."""
    with width(dtype):
        x, w, b, dy = canonical
        arranged = case.arranged(x), case.kernel(w), b, case.arranged(dy)
        results = conv_program(case, compiled)(*(jnp.asarray(a, dtype) for a in arranged))
        assert all(a.dtype == dtype for a in jax.tree.leaves(results))
        return {
            name: [case.canonical(y), case.canonical(dx), case.canonical_kernel(dw), np.asarray(db)]
            for name, (y, dx, dw, db) in results.items()
        }


def check_conv(case: Conv, dtype: str = "float32", compiled: Callable[..., Any] = compiled) -> None:
    """Every formulation, and plain JAX, gives the integers that the loops give: y, dx, dw, db."""
    x, w, b, dy = case.integers(dtype)
    y, dx, dw = oracles.conv_maps(x, w, dy, case.steps(), case.groups)
    want = {"y": y + b, "dx": dx, "dw": dw, "db": dy.sum(axis=tuple(range(dy.ndim - 1)))}
    for name, got in run_conv(case, dtype, x, w, b, dy, compiled=compiled).items():
        if name in ROUNDING:
            continue
        for (argument, expected), value in zip(want.items(), got, strict=True):
            assert_equal(value, expected, f"{name}: {argument}")


# ---- max pooling ----------------------------------------------------------------------------------------------------

TIES = ("row_major", "column_major")


@kept
def max_pool_program(case: Pool) -> Callable[..., dict[tuple[str, str], tuple[jax.Array, ...]]]:
    """(x, dy) -> {(formulation, ties): (y, indices, dx)}, or (y, indices) where x has no derivative."""

    def program(x: jax.Array, dy: jax.Array) -> dict[tuple[str, str], tuple[jax.Array, ...]]:
        def maps(rule: Any, ties: str) -> tuple[jax.Array, ...]:
            options = {**case.options, "ties": ties, "rule": rule}

            def with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
                return fnconv.max_pool_with_indices(x, case.window, **options)

            if jnp.issubdtype(x.dtype, jnp.integer):
                return with_indices(x)
            if ties == "row_major":  # both public functions, each with one of the orders
                y, pullback, indices = jax.vjp(with_indices, x, has_aux=True)
            else:
                y, pullback = jax.vjp(lambda x: fnconv.max_pool(x, case.window, **options), x)
                indices = with_indices(x)[1]
            return y, indices, pullback(dy)[0]

        return {(name, ties): maps(rule, ties) for name, rule in formulations("max_pool").items() for ties in TIES}

    return compiled(program)


def check_max_pool(case: Pool, x: np.ndarray, dtype: str = "float32") -> None:
    """Every formulation and tie order gives the value, the position and the gradient that the loops give.

    The selection matrix is for finite values: 0 * inf is NaN in a dense product; its S^T is right for any x.
    """
    kind = jnp.dtype(dtype)
    integer = jnp.issubdtype(kind, jnp.integer)
    lowest = np.iinfo(dtype).min if integer else -np.inf
    x = x if integer else x.astype(np.float64)
    dy = np.random.default_rng(3).integers(1, 8, case.y_shape)
    with width(dtype):
        got = max_pool_program(case)(*(jnp.asarray(case.arranged(a), dtype) for a in (x, dy)))
    for (name, ties), values in got.items():
        want = oracles.max_pool(x, dy, case.axes, ties, lowest)
        assert values[0].dtype == kind
        for argument, value, expected in zip(("y", "indices", "dx"), values, want, strict=False):
            if name == "selection" and argument == "y" and not np.isfinite(x).all():
                continue
            assert_equal(case.canonical(value), expected, f"{name}, {ties}: {argument}")


# ---- average pooling ------------------------------------------------------------------------------------------------


@kept
def avg_pool_program(case: Pool) -> Callable[..., dict[tuple[str, bool], tuple[jax.Array, ...]]]:
    """(x, dy) -> {(formulation, count_include_pad): (y, dx)}."""

    def program(x: jax.Array, dy: jax.Array) -> dict[tuple[str, bool], tuple[jax.Array, ...]]:
        def maps(rule: Any, include: bool) -> tuple[jax.Array, ...]:
            def pool(x: jax.Array) -> jax.Array:
                return fnconv.avg_pool(x, case.window, count_include_pad=include, rule=rule, **case.options)

            y, pullback = jax.vjp(pool, x)
            return y, *pullback(dy)

        rules = formulations("avg_pool").items()
        return {(name, include): maps(rule, include) for name, rule in rules for include in (True, False)}

    return compiled(program)


def check_avg_pool(case: Pool, dtype: str = "float32") -> None:
    """Every formulation gives the integers that the loops give: x and dy are multiples of all divisors."""
    rng = np.random.default_rng(5)
    scale = common_multiple(case)
    x, dy = (scale * rng.integers(-2, 3, shape) for shape in (case.x_shape, case.y_shape))
    with width(dtype):
        got = avg_pool_program(case)(*(jnp.asarray(case.arranged(a), dtype) for a in (x, dy)))
    for (name, include), values in got.items():
        want = oracles.avg_pool(x.astype(np.float64), dy.astype(np.float64), case.axes, include)
        for argument, value, expected in zip(("y", "dx"), values, want, strict=True):
            assert np.asarray(value).dtype == jnp.dtype(dtype)
            assert_equal(case.canonical(value), expected, f"{name}, count_include_pad={include}: {argument}")


def common_multiple(case: Pool) -> int:
    """Of all sizes that averages of this geometry divide by."""
    counts = [oracles.divisors(case.axes, include) for include in (True, False)]
    return int(np.lcm.reduce(np.maximum(np.concatenate(counts, axis=None), 1), initial=1))
