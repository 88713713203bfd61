"""What the gradient keeps from the forward pass, and the temporaries of the compiled program; nothing is run.

Residuals are the distinct leaves of `jax.vjp`'s function, the operands among them, which live anyway, listed apart.
Temporaries are what XLA's memory analysis says of value and gradients in one program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import convolutions, models, pools
from benchmarks.cases import LAYERS, POOLS
from benchmarks.networks import NETWORKS
from benchmarks.timing import SMOKE, Budget

Row = dict[str, Any]
Function = Callable[..., Any]
BLOCKS = ("LeNet conv1 1-6 5x5", "LeNet conv2 6-16 5x5", "64-64 3x3 @32", "128-128 3x3 @16")


def run(only: Callable[[str], bool], budget: Budget, **unused: object) -> Iterator[Row]:
    """A row for each layer, pool, block (convolution + bias + ReLU + max pool) and network."""
    for case in cases(small=budget is SMOKE):
        if only(case[0]):
            yield measure(*case)
            jax.clear_caches()


def cases(small: bool) -> Iterator[tuple[str, str, dict[str, Function], Sequence[Any]]]:
    """Name, kind, the function on each side, and the shapes of what it is differentiated by."""
    for layer in LAYERS:
        chosen = layer.tiny() if small else layer
        sides = {"autodiff": convolutions.in_lax(chosen), "fnconv": convolutions.in_fnconv(chosen)}
        yield layer.name, "layer", sides, convolutions.shapes(chosen)[:2]
    for pool in POOLS:
        chosen_pool = pool.tiny() if small else pool
        sides = {"autodiff": pools.in_lax(chosen_pool), "fnconv": pools.in_fnconv(chosen_pool)}
        yield pool.name, "pool", sides, (jax.ShapeDtypeStruct(chosen_pool.x_shape, jnp.float32),)
    for layer in (case for case in LAYERS if case.name in BLOCKS):
        chosen = layer.tiny() if small else layer
        features, window, padding = chosen.channels[1], chosen.window[0], chosen.padding

        def block(side: Any, x: Any, w: Any, b: Any, f: int = features, k: int = window, p: int = padding) -> Any:
            return side((w, b)).block(x, f, k, padding=p, pool=2)

        shapes = (*convolutions.shapes(chosen)[:2], jax.ShapeDtypeStruct((features,), jnp.float32))
        yield f"block {layer.name}", "block", {n: partial(block, s) for n, s in models.SIDES.items()}, shapes
    for network in NETWORKS:
        weights, images, labels = models.data(network, small)

        def loss(side: Any, weights: Any, x: Any, network: Any = network, labels: Any = labels) -> Any:
            return models.loss(side, network, small, weights, x, labels)

        shapes = jax.eval_shape(lambda *a: a, weights, images)
        yield network.name, "step", {n: partial(loss, s) for n, s in models.SIDES.items()}, shapes


def measure(name: str, kind: str, sides: dict[str, Function], shapes: Sequence[Any]) -> Row:
    found = {}
    for side, function in sides.items():
        kept, operands = residuals(function, *shapes)
        found[side] = {"residuals": kept, "operands": operands, "temporaries": temporaries(function, *shapes)}
    return {"name": name, "map": kind, "bytes": found}


def residuals(function: Function, *shapes: Any) -> tuple[int, int]:
    """Bytes of the distinct arrays that the gradient keeps; and how many of them are operands."""

    def kept(*operands: Any) -> list[Any]:
        return jax.tree.leaves(jax.vjp(jax.jit(function), *operands)[1])

    jaxpr = jax.make_jaxpr(kept)(*shapes).jaxpr
    arrays = {id(v): v.aval for v in jaxpr.outvars if hasattr(v.aval, "dtype")}
    operands = {id(v) for v in jaxpr.invars}
    size = {key: a.size * a.dtype.itemsize for key, a in arrays.items()}
    return sum(size.values()), sum(bytes_ for key, bytes_ in size.items() if key in operands)


def temporaries(function: Function, *shapes: Any) -> int | None:
    """Bytes that value and gradients take beside operands and results; None where XLA does not tell."""

    def both(*operands: Any) -> Any:
        y, vjp = jax.vjp(function, *operands)
        return y, vjp(jnp.ones_like(y))

    analysis = jax.jit(both).lower(*shapes).compile().memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)
