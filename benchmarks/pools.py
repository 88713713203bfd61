"""Pools: the backward pass alone, given what the forward kept, and both passes in one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fnconv
from benchmarks import verify
from benchmarks.cases import DIRECTIONS, POOLS, Pool
from benchmarks.timing import SMOKE, Budget, Side, compare, timer

Row = dict[str, Any]
Function = Callable[[jax.Array], jax.Array]
Program = Callable[[], Any]


def run(only: Callable[[str], bool], budget: Budget, *, torch: Side | None = None, **unused: object) -> Iterator[Row]:
    """A row for each direction of each pool, when it is measured."""
    for pool in (case for case in POOLS if only(case.name)):
        yield from measure(pool.tiny() if budget is SMOKE else pool, budget, torch)
        jax.clear_caches()


def in_lax(pool: Pool) -> Function:
    """The pool by `lax.reduce_window`, whose gradient is automatic."""
    axes = len(pool.size)
    window, strides = (1, *(pool.window,) * axes, 1), (1, *(pool.stride,) * axes, 1)
    pads = ((0, 0), *((pool.padding,) * 2,) * axes, (0, 0))
    if pool.kind == "max":
        return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)
    return lambda x: lax.reduce_window(x, 0.0, lax.add, window, strides, pads) / pool.window**axes


def in_fnconv(pool: Pool) -> Function:
    """The pool by fnconv's public function."""
    function = fnconv.max_pool if pool.kind == "max" else fnconv.avg_pool
    window = (pool.window,) * len(pool.size)
    return lambda x: function(x, window, strides=pool.stride, padding=pool.padding)


def programs(function: Function, x: jax.Array, dy: jax.Array) -> dict[str, Program]:
    """Compiled, for these operands; the backward pass gets the residuals as arguments."""
    residuals, tree = jax.tree.flatten(jax.vjp(jax.jit(function), x)[1])

    @jax.jit
    def backward(residuals: list[Any], dy: jax.Array) -> jax.Array:
        return jax.tree.unflatten(tree, residuals)(dy)[0]

    @jax.jit
    def both(x: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, vjp = jax.vjp(function, x)
        return y, vjp(dy)[0]

    return {"bwd": partial(backward, residuals, dy), "fwd+bwd": partial(both, x, dy)}


def torch_programs(pool: Pool, x: np.ndarray, dy: np.ndarray, channels_last: bool) -> dict[str, Program]:
    """Of two spatial axes, in one of Torch's memory formats; results have channels first."""
    import torch

    memory = torch.channels_last if channels_last else torch.contiguous_format
    tx, tdy = (
        torch.tensor(np.ascontiguousarray(np.moveaxis(a, -1, 1))).contiguous(memory_format=memory) for a in (x, dy)
    )
    window, steps, aten = [pool.window] * 2, ([pool.stride] * 2, [pool.padding] * 2), torch.ops.aten
    if pool.kind == "max":

        def forward() -> Any:
            return aten.max_pool2d_with_indices(tx, window, *steps, [1, 1], False)

        def backward(kept: Any) -> Any:
            return aten.max_pool2d_with_indices_backward(tdy, tx, window, *steps, [1, 1], False, kept[1])
    else:

        def forward() -> Any:
            return (aten.avg_pool2d(tx, window, *steps, False, True),)

        def backward(kept: Any) -> Any:
            return aten.avg_pool2d_backward(tdy, tx, window, *steps, False, True, None)

    def both() -> Any:
        kept = forward()
        return kept[0], backward(kept)

    return {"bwd": partial(backward, forward()), "fwd+bwd": both}


def _arrays(pool: Pool, draw: Callable[[tuple[int, ...]], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """x and dy."""
    x = jax.ShapeDtypeStruct(pool.x_shape, jnp.float32)
    return draw(x.shape), draw(jax.eval_shape(in_lax(pool), x).shape)


def integers(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """x and dy, such that averages are integers."""
    draw = verify.integers()
    scale = np.float32(1 if pool.kind == "max" else pool.window ** len(pool.size))
    return _arrays(pool, lambda shape: scale * draw(shape))


def normal(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    return _arrays(pool, verify.normal())


def measure(pool: Pool, budget: Budget, torch: Side | None) -> Iterator[Row]:
    whole, numbers = (tuple(map(jnp.asarray, draw(pool))) for draw in (integers, normal))
    sides = {"autodiff": in_lax(pool), "fnconv": in_fnconv(pool)}
    checked, timed = ({name: programs(side, *given) for name, side in sides.items()} for given in (whole, numbers))
    for direction in DIRECTIONS:
        results = {n: p[direction]() for n, p in checked.items()}
        if torch is not None:
            results["torch"] = torch.result(pool, direction)
        verdicts = _verify(pool, direction, whole, results)
        thunks = {name: partial(_ready, p[direction]) for name, p in timed.items()}
        times = compare(thunks, timer(torch, pool, direction), budget)
        yield {
            "name": pool.name,
            "map": direction,
            "tags": sorted(pool.tags),
            "times": {name: t.to_json() for name, t in times.items()},
            "verified": verdicts,
        }


def _ready(program: Program) -> None:
    jax.block_until_ready(program())


def _verify(pool: Pool, direction: str, integers: tuple[jax.Array, ...], found: dict[str, Any]) -> dict[str, str]:
    """Values and gradients; a maximum and the choice of it know no rounding."""
    worst: dict[str, verify.Verdict] = {}
    parts = {name: value if isinstance(value, tuple) else (value,) for name, value in found.items()}
    x, dy = integers

    def value(x: jax.Array) -> Any:
        return jax.jit(in_lax(pool))(x)

    def gradient(dy: jax.Array) -> Any:
        return jax.jit(lambda x, dy: jax.vjp(in_lax(pool), x)[1](dy)[0])(x, dy)

    linear = [(gradient, dy)] if direction == "bwd" else [(value, x), (gradient, dy)]
    for i, (truth, operand) in enumerate(linear):
        results = {n: p[i] for n, p in parts.items()}
        what = f"{pool.name} {direction}"
        for name, verdict in verify.verify(what, (operand,), truth, results, exact=pool.kind == "max").items():
            worst[name] = max(worst.get(name, verdict), verdict, key=lambda v: v.fraction)
    return {name: str(verdict) for name, verdict in worst.items()}
