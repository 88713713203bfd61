"""Integers of every dtype over its whole range: exact modulo 2^n in every rule and map, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
import oracles
import pytest
from agreement import compiled, formulations
from cases import Conv, Pool
from jax import lax

import fnconv
from fnconv.compat import lax as compat_lax
from fnconv.rules.conv import DIVIDES

DTYPES = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
CASES = {
    "plain": Conv((5, 6), (3, 3), 1, 1, inputs=3, outputs=2),
    "strided": Conv((7, 5), (3, 2), (2, 1), ((1, 0), (0, 2)), (1, 2), inputs=2, outputs=3),
    "grouped": Conv((6,), (3,), 1, 1, inputs=4, outputs=8, groups=2),
    "depthwise": Conv((5, 4), (2, 3), (2, 1), inputs=3, outputs=6, groups=3),
    "one channel": Conv((4, 12), (2, 5), inputs=1, outputs=2),
}


@pytest.fixture(autouse=True)
def _all_64_bits() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def anything(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def modulo(dtype: str, f: Callable[..., tuple[np.ndarray, ...]], *arrays: np.ndarray) -> list[np.ndarray]:
    """f in NumPy's uint64, whose arithmetic is modulo 2^64, and so is right modulo every smaller power of two."""
    return [np.asarray(a).astype(dtype) for a in f(*(a.astype(np.uint64) for a in arrays))]


def maps(case: Conv, rule: str) -> dict[str, Callable[..., jax.Array]]:
    options = {**case.options, "rule": rule}
    return {
        "forward": lambda x, w, dy: fnconv.conv(x, w, **options),
        "input_vjp": lambda x, w, dy: fnconv.conv_input_vjp(dy, w, x.shape, **options),
        "weight_vjp": lambda x, w, dy: fnconv.conv_weight_vjp(x, dy, case.window, **options),
    }


@pytest.mark.sample(6)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_every_rule_of_conv_is_exact_or_refuses(name: str, dtype: str) -> None:
    case = CASES[name]
    steps = case.steps()
    shapes = (case.images, *case.size, case.inputs), case.w_shape, (case.images, *oracles.outputs(steps), case.outputs)
    operands = [anything(i, shape, dtype) for i, shape in enumerate(shapes)]
    want = modulo(dtype, lambda x, w, dy: oracles.conv_maps(x, w, dy, steps, case.groups), *operands)
    rules = [rule for rule in formulations("conv") if rule not in DIVIDES]
    program = compiled(lambda *o: {rule: [f(*o) for f in maps(case, rule).values()] for rule in rules})
    for rule, got in program(*operands).items():
        for map_, value, expected in zip(maps(case, rule), got, want, strict=True):
            assert value.dtype == dtype, f"{rule}: {map_}"
            np.testing.assert_array_equal(value, expected, err_msg=f"{rule}: {map_}")
    for rule in DIVIDES:
        for map_, f in maps(case, rule).items():
            with pytest.raises(TypeError, match=rf'^conv: rule "{rule}" for {map_} .*; got {dtype}\b'):
                jax.eval_shape(f, *operands)


POOL = Pool((5, 6), (3, 2), (2, 1), ((1, 0), (0, 3)), channels=2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pools_and_columns_are_exact(dtype: str) -> None:
    x, dy = anything(0, POOL.x_shape, dtype), anything(1, POOL.y_shape, dtype)
    rules = formulations("max_pool")
    window, spans = (1, *POOL.window, 1), {"window_strides": (1, 2, 1, 1), "padding": ((0, 0), (1, 0), (0, 3), (0, 0))}
    columns = {k: v for k, v in POOL.options.items() if k != "ceil_mode"}
    info = np.iinfo(dtype)

    def program(x: jax.Array, dy: jax.Array) -> dict[str, jax.Array]:
        pooled = {n: fnconv.max_pool_with_indices(x, POOL.window, rule=r, **POOL.options) for n, r in rules.items()}
        cols = fnconv.im2col(x, POOL.window, **columns)
        return {
            **{f"{name}: {part}": a for name, pair in pooled.items() for part, a in zip("yi", pair, strict=True)},
            "max": compat_lax.reduce_window(x, np.asarray(info.min, dtype), lax.max, window, **spans),
            "min": compat_lax.reduce_window(x, np.asarray(info.max, dtype), lax.min, window, **spans),
            "sum": compat_lax.reduce_window(x, np.asarray(0, dtype), lax.add, window, **spans),
            "columns and back": fnconv.col2im(cols, x.shape, POOL.window, **columns),
            "relu": fnconv.relu(x),
            "dense": fnconv.dense(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])[:2]),
        }

    got = compiled(program)(x, dy)
    y, indices, _ = oracles.max_pool(x, dy.astype(np.float64), POOL.axes, lowest=info.min)
    low, _, _ = oracles.max_pool(~x, dy.astype(np.float64), POOL.axes, lowest=info.min)
    met = np.zeros(x.shape, np.uint64)
    total = np.zeros(POOL.y_shape, np.uint64)
    for o in np.ndindex(*oracles.outputs(POOL.axes)):
        for i in oracles.cells(POOL.axes, o):
            if oracles.inside(POOL.axes, i):
                total[(slice(None), *o)] += x.astype(np.uint64)[(slice(None), *i)]
                met[(slice(None), *i)] += x.astype(np.uint64)[(slice(None), *i)]
    left, right = x.reshape(-1, 2).astype(np.uint64), dy.reshape(-1, 2)[:2].astype(np.uint64)
    want = {
        **{f"{name}: {part}": a for name in rules for part, a in zip("yi", (y, indices), strict=True)},
        "max": y,
        "min": ~low,
        "sum": total.astype(dtype),
        "columns and back": met.astype(dtype),
        "relu": np.maximum(x, 0),
        "dense": (left @ right).astype(dtype),
    }
    for name, value in got.items():
        assert value.dtype == (np.int32 if name.endswith(": i") else dtype), name
        np.testing.assert_array_equal(value, want[name], err_msg=name)
