"""The public maps by every formulation that `available_rules` lists, and by "auto", one compiled program a geometry."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from agreement import compiled

import fnconv
from fnconv.rules.conv import ROUNDING

CONV_MAPS = fnconv.available_rules()["conv"]
POOL_MAPS = fnconv.available_rules()["max_pool"]


def f32(a: Any) -> jax.Array:
    return jnp.asarray(a, jnp.float32)


def rule_choices(maps: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Every name that keeps whole numbers exact, with the maps that have it."""
    names = dict.fromkeys(name for rules in maps.values() for name in rules if name not in ROUNDING)
    return {"auto": "auto"} | {n: {m: n for m, rules in maps.items() if n in rules} for n in names}


@cache
def _conv_program(**options: Any) -> Any:
    @compiled
    def run(x: jax.Array, w: jax.Array, dy: jax.Array) -> dict[str, tuple[jax.Array, ...]]:
        result = {}
        for name, rule in rule_choices(CONV_MAPS).items():
            y, pullback = jax.vjp(lambda x, w, rule=rule: fnconv.conv(x, w, rule=rule, **options), x, w)
            result[name] = (y, *pullback(dy))
        return result

    return run


def conv_and_gradients(x: Any, w: Any, dy: Any, **options: Any) -> dict[str, tuple[np.ndarray, ...]]:
    """rule -> (y, dx, dw), dx and dw from the rule that is attached to conv."""
    return jax.tree.map(np.asarray, _conv_program(**options)(f32(x), f32(w), f32(dy)))


def input_gradient_products(size: int, outputs: int, **options: Any) -> dict[str, dict[str, set[tuple[str, str]]]]:
    """rule -> cell of dx -> the products of one delta and one weight that it sums, by their 1-based indices.

    2x2 kernels on square inputs.  Unit cotangents lie along the batch axis and unit kernels along the channels, so
    that each product shows alone.
    """
    deltas = np.eye(outputs**2).reshape(-1, outputs, outputs, 1)
    shape = (len(deltas), size, size, 4)

    @compiled
    def run(dy: jax.Array, w: jax.Array) -> dict[str, jax.Array]:
        rules = rule_choices(CONV_MAPS).items()
        return {name: fnconv.conv_input_vjp(dy, w, shape, rule=rule, **options) for name, rule in rules}

    found: dict[str, dict[str, set[tuple[str, str]]]] = {}
    for name, dx in jax.tree.map(np.asarray, run(f32(deltas), f32(np.eye(4).reshape(2, 2, 4, 1)))).items():
        assert set(np.unique(dx)) <= {0, 1}
        found[name] = {f"{i + 1}{j + 1}": set() for i, j in np.ndindex(size, size)}
        for d, i, j, k in zip(*np.nonzero(dx), strict=True):
            delta, weight = divmod(int(d), outputs), divmod(int(k), 2)
            found[name][f"{i + 1}{j + 1}"].add((f"{delta[0] + 1}{delta[1] + 1}", f"{weight[0] + 1}{weight[1] + 1}"))
    return found


def last(matrix: Any) -> np.ndarray:
    """One image of one channel."""
    return np.asarray(matrix)[:, :, None]


def one_channel(a: Any, w: Any, delta: Any, **options: Any) -> dict[str, tuple[np.ndarray, ...]]:
    """`conv_and_gradients` of matrices."""
    return conv_and_gradients(last(a), np.asarray(w)[:, :, None, None], last(delta), **options)


@cache
def _max_pool_program(window: tuple[int, ...], **options: Any) -> Any:
    @compiled
    def run(x: jax.Array, dy: jax.Array) -> dict[str, tuple[jax.Array, ...]]:
        result = {}
        for name, rule in rule_choices(POOL_MAPS).items():
            y, pullback = jax.vjp(lambda x, rule=rule: fnconv.max_pool(x, window, rule=rule, **options), x)
            result[name] = (y, *pullback(dy))
        return result

    return run


def max_pool_and_gradient(
    x: Any, dy: Any, window: tuple[int, ...], **options: Any
) -> dict[str, tuple[np.ndarray, ...]]:
    """rule -> (y, dx)."""
    return jax.tree.map(np.asarray, _max_pool_program(window, **options)(f32(x), f32(dy)))


def assert_every(results: dict[str, tuple[np.ndarray, ...]], *expected: np.ndarray) -> None:
    """Every formulation gives the expected whole numbers, exactly."""
    for rule, values in results.items():
        for value, want in zip(values, expected, strict=True):
            np.testing.assert_array_equal(value, want, err_msg=f"rule={rule}")
