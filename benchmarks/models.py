"""One step of gradient descent: forward, backward, update, from the same weights on all sides.

Updates are equal before they are timed: for every parameter the distance from autodiff's update is at most 8 times
as large as the largest by which autodiff's own moves when weights and images move by 32 roundings (on a GPU those of
TF32), as sums of a thousand terms do.  A step is not smooth: a ReLU near 0, or two maxima near each other, flip at a
rounding, and do so in either case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.jax_layers import Autodiff, JaxLayers, Manual
from benchmarks.networks import NETWORKS, Network
from benchmarks.timing import SMOKE, Budget, Side, compare, fastest
from benchmarks.verify import Disagreement

Row = dict[str, Any]
Weights = list[np.ndarray]

RATE = 0.05
ROUNDINGS, DRAWS, FACTOR = 32, 3, 8.0
SIDES: dict[str, type[Any]] = {"autodiff": Autodiff, "fnconv": Manual}


def run(only: Callable[[str], bool], budget: Budget, *, torch: Side | None = None) -> Iterator[Row]:
    """A row for each network, when it is measured."""
    for network in (n for n in NETWORKS if only(n.name)):
        yield measure(network, budget, torch)
        jax.clear_caches()


def data(network: Network, small: bool) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Weights, images, labels."""
    random, shape = np.random.default_rng(1), network.small if small else network.shape
    images = random.standard_normal(shape, dtype=np.float32)
    weights = parameters(network, shape, small)
    return weights, images, (np.arange(shape[0]) % 10).astype(np.int32)


def parameters(network: Network, shape: tuple[int, ...], small: bool) -> Weights:
    """Those that the network asks for, drawn for the shape of its input."""
    layers = Autodiff()
    jax.eval_shape(lambda x: network.build(layers, x, small), jax.ShapeDtypeStruct(shape, jnp.float32))
    return layers.parameters.drawn or []


def loss(
    side: type[JaxLayers], network: Network, small: bool, weights: Sequence[Any], x: Any, labels: Any
) -> jax.Array:
    layers: Any = side(weights)
    return layers.loss(network.build(layers, x, small), labels)


def step(side: type[JaxLayers], network: Network, small: bool) -> Callable[..., Any]:
    """Compiled: (weights, images, labels) -> updated weights."""

    @jax.jit
    def run(weights: Sequence[jax.Array], x: jax.Array, labels: jax.Array) -> list[jax.Array]:
        gradients = jax.grad(partial(loss, side, network, small))(weights, x, labels)
        return [w - RATE * g for w, g in zip(weights, gradients, strict=True)]

    return run


def measure(network: Network, budget: Budget, torch: Side | None) -> Row:
    small = budget is SMOKE
    weights, images, labels = data(network, small)
    given = ([jnp.asarray(w) for w in weights], jnp.asarray(images), jnp.asarray(labels))
    compiled = {name: _compile(step(side, network, small), given) for name, side in SIDES.items()}
    steps = {name: program for name, (program, _) in compiled.items()}
    updated = {name: [np.asarray(w) for w in s(*given)] for name, s in steps.items()}
    if torch is not None:
        from benchmarks import torch_layers

        options = (network.build, small, RATE, weights, images, labels)
        in_torch = {str(last): torch_layers.step(*options, channels_last=last) for last in (False, True)}
        updated["torch"] = [torch_layers.back(t) for t in in_torch["True"]()]
    verdicts = verify(network.name, steps["autodiff"], (weights, images, labels), updated)
    thunks = {name: partial(_ready, s, given) for name, s in steps.items()}
    times = compare(thunks, None if torch is None else fastest(in_torch, budget), budget)
    return {
        "name": network.name,
        "map": "step",
        "tags": [],
        "times": {name: t.to_json() for name, t in times.items()},
        "verified": verdicts,
        "compiled": {name: seconds for name, (_, seconds) in compiled.items()},
    }


def _compile(program: Callable[..., Any], given: tuple[Any, ...]) -> tuple[Callable[..., Any], float]:
    """The program, and how many seconds tracing and compiling it took."""
    start = time.perf_counter()
    compiled = program.lower(*given).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - start


def _ready(step: Callable[..., Any], given: tuple[Any, ...]) -> None:
    jax.block_until_ready(step(*given))


# ---- equality -------------------------------------------------------------------------------------------------------


def verify(
    what: str, automatic: Callable[..., Any], start: tuple[Weights, np.ndarray, np.ndarray], updated: dict[str, Weights]
) -> dict[str, str]:
    """The largest fraction of the bound that an update uses; raises `Disagreement`."""
    weights, images, labels = start
    updates = {name: _difference(new, weights) for name, new in updated.items()}
    right = updates.pop("autodiff")
    allowed = [0.0] * len(right)
    random = np.random.default_rng(2)
    for _ in range(DRAWS):
        moved, x = [_moved(w, random) for w in weights], _moved(images, random)
        new = [np.asarray(w) for w in automatic([jnp.asarray(w) for w in moved], jnp.asarray(x), jnp.asarray(labels))]
        distances = _distances(_difference(new, moved), right)
        allowed = [max(a, FACTOR * d) for a, d in zip(allowed, distances, strict=True)]
    found = {"autodiff": "exact"}
    for name, update in updates.items():
        distances = _distances(update, right)
        fractions = [d / a if d > 0 else 0.0 for d, a in zip(distances, allowed, strict=True)]
        worst = max(range(len(fractions)), key=fractions.__getitem__)
        if not fractions[worst] <= 1:
            raise Disagreement(
                f"{what}, {name}: parameter {worst} of shape {right[worst].shape} moves {distances[worst]:.2g} of "
                f"autodiff's update away from it; allowed are {allowed[worst]:.2g}"
            )
        found[name] = f"{fractions[worst]:.2g}"
    return found


def _moved(value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    unit = 2.0**-11 if jax.default_backend() == "gpu" else 2.0**-24
    return (value * (1 + ROUNDINGS * unit * random.uniform(-1, 1, value.shape))).astype(np.float32)


def _difference(new: Weights, old: Weights) -> Weights:
    return [a.astype(np.float64) - b for a, b in zip(new, old, strict=True)]


def _distances(update: Weights, right: Weights) -> list[float]:
    """Of every parameter, relative to autodiff's update."""
    norm = np.linalg.norm
    return [float(norm(u - r) / max(float(norm(r)), 1e-30)) for u, r in zip(update, right, strict=True)]
