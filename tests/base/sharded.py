"""What batch-sharded gradients compile to on eight CPU devices, as JSON: `test_sharding.py` runs this by itself."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import conftest  # noqa: F401  the settings of every test
import jax
import jax.numpy as jnp
import numpy as np
from agreement import compiled
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from operations import CHANNELS_LAST, NETWORK_ARGS, network

import fnconv

N = 16
COLLECTIVE = re.compile(
    r" = (\(.*?\)|\S+) (all-reduce|all-gather|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
    r"|reduce-scatter)(?:-start)?\("
)
RNG = np.random.default_rng(0)
ROUNDED = (
    "conv-winograd",
    "sigmoid",
    "tanh",
    "gelu",
    "softmax",
    "log_softmax",
    "adaptive_avg_pool",
    "local_response_norm",
    "resize",
)  # results that are not whole numbers
Arrays = tuple[np.ndarray, ...]
Case = tuple[str, Callable[..., jax.Array], Arrays, Arrays]  # name, function, sharded arguments, replicated ones


def integers(*shape: int) -> np.ndarray:
    return RNG.integers(-3, 4, shape).astype(np.float32)


def convolutions() -> Iterator[Case]:
    geometries: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
        "plain": ((6, 5, 3), (3, 3, 3, 4), {}),
        "strided": ((7, 6, 3), (3, 2, 3, 4), {"strides": (2, 3), "padding": "SAME"}),
        "dilated-1d": ((9, 3), (3, 3, 4), {"dilation": 2}),
        "pointwise": ((5, 5, 3), (1, 1, 3, 4), {}),
        "cropped": ((6, 6, 3), (2, 2, 3, 4), {"padding": ((-1, 3), (2, 0)), "strides": (2, 1)}),
        "groups": ((6, 6, 4), (3, 3, 2, 6), {"groups": 2, "padding": 1}),
        "groups-strided": ((7, 6, 4), (3, 3, 2, 4), {"groups": 2, "strides": 2}),
        "depthwise": ((6, 6, 4), (3, 3, 1, 4), {"groups": 4, "padding": 1}),
        "depthwise-strided": ((7, 6, 4), (3, 3, 1, 4), {"groups": 4, "padding": 1, "strides": 2}),
        "depthwise-multiplier": ((6, 6, 4), (3, 3, 1, 8), {"groups": 4, "padding": 1}),
        "winograd": ((9, 8, 32), (3, 3, 32, 32), {"padding": 1}),
        "winograd-dilated": ((10, 9, 32), (3, 3, 32, 32), {"padding": 2, "dilation": 2}),
        # on one device the batch would be cut into chunks; here that would gather it
        "winograd-large": ((34, 34, 32), (3, 3, 32, 32), {"padding": 1}),
        "columns": ((6, 6, 3), (3, 3, 3, 20), {}),
        "blocked": ((9, 9, 3), (5, 5, 3, 4), {}),
        "narrow-groups": ((6, 6, 32), (3, 3, 2, 32), {"groups": 16, "padding": 1}),
    }
    for name, (x, w, options) in geometries.items():
        yield f"conv-{name}", partial(fnconv.conv, **options), (integers(N, *x),), (integers(*w), integers(w[-1]))
    first = partial(fnconv.conv, layout="channels_first", padding=1, strides=2)
    yield "conv-channels_first", first, (integers(N, 3, 7, 6),), (integers(4, 3, 3, 3), integers(4))
    depthwise = partial(fnconv.conv, layout="channels_first", padding=1, groups=3)
    yield "conv-channels_first-depthwise", depthwise, (integers(N, 3, 7, 6),), (integers(3, 1, 3, 3), integers(3))
    transposed = partial(fnconv.conv_transpose, strides=2)
    yield "conv_transpose", transposed, (integers(N, 4, 4, 3),), (integers(3, 3, 4, 3), integers(4))
    yield "dense", fnconv.dense, (integers(N, 5),), (integers(5, 3), integers(3))


def others() -> Iterator[Case]:
    x = RNG.permutation(N * 7 * 6 * 3).reshape(N, 7, 6, 3).astype(np.float32)
    pools: dict[str, tuple[Callable[..., jax.Array], dict[str, Any]]] = {
        "max_pool-disjoint": (fnconv.max_pool, {"window_shape": (2, 2)}),
        "max_pool-overlapping": (fnconv.max_pool, {"window_shape": (3, 3), "strides": 2, "padding": 1}),
        "max_pool-large": (fnconv.max_pool, {"window_shape": (9, 9), "strides": 1, "padding": 4}),
        "max_pool_with_indices": (lambda x, **o: fnconv.max_pool_with_indices(x, (3, 3), **o)[0], {"strides": 2}),
        "adaptive_max_pool": (fnconv.adaptive_max_pool, {"output_shape": (3, 4)}),
        "adaptive_avg_pool": (fnconv.adaptive_avg_pool, {"output_shape": (3, 4)}),
        "avg_pool-disjoint": (fnconv.avg_pool, {"window_shape": (2, 2)}),
        "avg_pool-overlapping": (fnconv.avg_pool, {"window_shape": (2, 2), "strides": 1, "padding": 1}),
        "lp_pool-shifted": (fnconv.lp_pool, {"window_shape": (2, 2), "strides": 1, "p": 1}),
        "lp_pool-segment_sum": (fnconv.lp_pool, {"window_shape": (9, 9), "strides": 1, "padding": 4, "p": 1}),
        "spatial_pyramid_pool": (fnconv.spatial_pyramid_pool, {"levels": (1, 2, 3)}),
        "global_avg_pool": (lambda x: fnconv.global_avg_pool(x[:, :4, :4]), {}),
        "pixel_unshuffle": (fnconv.pixel_unshuffle, {"factor": (7, 2)}),
        "local_response_norm": (fnconv.local_response_norm, {"size": 2}),
        "resize": (fnconv.resize, {"shape": (N, 14, 3, 3)}),
        "im2col": (fnconv.im2col, {"window_shape": (2, 3)}),
    }
    for name, (fn, options) in pools.items():
        yield name, partial(fn, **options), (x,), ()
        if name in ("max_pool-overlapping", "max_pool-large", "avg_pool-overlapping", "lp_pool-shifted"):
            first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
            yield f"{name}-channels_first", partial(fn, **options, layout="channels_first"), (first,), ()
    indices = np.stack([RNG.permutation(20)[:9] for _ in range(N * 3)]).reshape(N, 3, 3, 3).transpose(0, 2, 3, 1)

    def unpool(y: jax.Array, indices: jax.Array) -> jax.Array:
        return fnconv.max_unpool(y, indices.astype(jnp.int32), (4, 5))

    yield "max_unpool", unpool, (integers(N, 3, 3, 3), indices.astype(np.float32)), ()
    z = integers(N, 5)
    yield "leaky_relu", partial(fnconv.leaky_relu, slope=0.5), (z,), ()
    for name in ("relu", "sigmoid", "tanh", "gelu", "softmax", "log_softmax", "flatten"):
        yield name, getattr(fnconv, name), (z,), ()

    def integer_labels(z: jax.Array, labels: jax.Array) -> jax.Array:
        return fnconv.softmax_cross_entropy(z, labels.astype(jnp.int32))

    yield "softmax_cross_entropy-integer", integer_labels, (z, np.arange(N, dtype=np.float32) % 5), ()
    yield "softmax_cross_entropy-weights", fnconv.softmax_cross_entropy, (z, integers(N, 5)), ()
    yield "squared_error", fnconv.squared_error, (z, integers(N, 5)), ()


def collectives(case: Case, mesh: Any) -> dict[str, Any]:
    """For every argument the collectives of its own gradient, and whether all gradients are those of one device."""
    name, fn, batch, weights = case
    sharded, replicated = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())
    args = (*batch, *weights)
    dy = integers(*jax.eval_shape(fn, *args).shape)
    placed = [jax.device_put(dy, sharded), *(jax.device_put(a, sharded) for a in batch)]
    placed += [jax.device_put(a, replicated) for a in weights]

    def vjp(dy: jax.Array, *args: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vjp(fn, *args)[1](dy)

    want = compiled(vjp)(dy, *args)
    found, got = [], []
    for i in range(len(args)):
        program = compiled(lambda *a, i=i: vjp(*a)[i]).lower(*placed).compile()
        found.append([kind for _, kind in COLLECTIVE.findall(program.as_text())])
        got.append(program(*placed))
    forward = compiled(fn).lower(*placed[1:]).compile()
    together = compiled(vjp).lower(*placed).compile()
    return {
        "forward": [kind for _, kind in COLLECTIVE.findall(forward.as_text())],
        "batch": found[: len(batch)],
        "weights": found[len(batch) :],
        "together": [kind for _, kind in COLLECTIVE.findall(together.as_text())],
        "difference": excess(got, want, exact=not name.startswith(ROUNDED)),
    }


def explicit(case: Case) -> dict[str, Any]:
    """Gradients and their gradients on a mesh with explicit axes: how they lie, and whether they are right.

    Right is what one device says in float64, which holds the squares of squares without rounding; so does float32 for
    numbers as small as these, whatever the order of summation.
    """
    name, fn, batch, weights = case
    if name.startswith(("conv", "dense")):
        batch, weights = (tuple(map(np.sign, arrays)) for arrays in (batch, weights))
    elif "pool" in name and name != "max_unpool":
        batch = tuple(a % 9 - 4 for a in batch)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    args, argnums = (*batch, *weights), tuple(range(len(batch) + len(weights)))

    def gradients(*args: jax.Array) -> Any:
        return jax.grad(lambda *a: (fn(*a) ** 2).sum(), argnums)(*args)

    def second(*args: jax.Array) -> Any:
        return jax.grad(lambda *a: sum((g**2).sum() for g in gradients(*a)), argnums)(*args)

    with jax.enable_x64(True):
        want = [compiled(f)(*(a.astype(np.float64) for a in args)) for f in (gradients, second)]
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, NamedSharding(mesh, P("batch"))) for a in batch]
        placed += [jax.device_put(a, NamedSharding(mesh, P())) for a in weights]
        got = [compiled(f)(*placed) for f in (gradients, second)]
    moved = [i for i, (g, p) in enumerate(zip(got[0], placed, strict=True)) if not alike(g, p)]
    differences = (excess(g, w, exact=not name.startswith(ROUNDED)) for g, w in zip(got, want, strict=True))
    return {"moved": moved, "difference": max(differences)}


def alike(a: jax.Array, b: jax.Array) -> bool:
    return a.sharding.is_equivalent_to(b.sharding, a.ndim)


def shard_mapped(mesh: Any, step: int) -> dict[str, float]:
    """`jax.shard_map` over the batch: gradients of a network and of each operation against those of one device."""
    x, *weights = NETWORK_ARGS
    x = np.concatenate([x] * (N // x.shape[0]))
    differences = {}

    def network_loss(x: jax.Array, *weights: jax.Array) -> jax.Array:
        return jax.lax.psum(network(x, *weights), "batch")

    specs = (P("batch"), *(P() for _ in weights))
    inside = jax.shard_map(network_loss, mesh=mesh, in_specs=specs, out_specs=P())
    argnums = tuple(range(len(specs)))

    def whole(x: jax.Array, *weights: jax.Array) -> jax.Array:
        return sum(network(x[i : i + 2], *weights) for i in range(0, N, 2))

    got, want = (compiled(jax.grad(f, argnums))(x, *weights) for f in (inside, whole))
    differences["network"] = excess(got, want, exact=False)
    for operation in CHANNELS_LAST[::step]:
        first, *rest = operation.args

        def loss(first: jax.Array, *rest: jax.Array, fn: Any = operation.fn) -> jax.Array:
            return jnp.sum(fn(first[0], *rest) ** 2)

        def gradients(first: jax.Array, *rest: jax.Array, loss: Any = loss) -> tuple[jax.Array, ...]:
            return jax.grad(loss, tuple(range(1 + len(rest))))(first, *rest)

        stack = np.stack([np.roll(first, i) for i in range(8)])
        specs = (P("batch"), *(P() for _ in rest))
        per_device = jax.shard_map(gradients, mesh=mesh, in_specs=specs, out_specs=specs)
        got = compiled(per_device)(stack, *rest)
        one = compiled(gradients)
        alone = [one(stack[i : i + 1], *rest) for i in range(8)]
        want = [np.concatenate([g[0] for g in alone]), *(sum(g[j] for g in alone) for j in range(1, len(specs)))]
        differences[operation.name] = excess(got, want, operation.exact)
    return differences


def along_the_windows(mesh: Any) -> dict[str, bool]:
    """Whether pools are right, and their gradients, where one window is an axis that lies on eight devices."""
    x = jnp.asarray(integers(8, 2))
    placed = jax.device_put(x, NamedSharding(mesh, P("batch")))
    pools: dict[str, Callable[[jax.Array], jax.Array]] = {
        "max_pool": lambda x: fnconv.max_pool(x, (8,)),
        "avg_pool": lambda x: fnconv.avg_pool(x, (8,)),
        "lp_pool": lambda x: fnconv.lp_pool(x, (8,), p=1),
        "adaptive_avg_pool": lambda x: fnconv.adaptive_avg_pool(x, (1,)),
        "adaptive_max_pool": lambda x: fnconv.adaptive_max_pool(x, (2,)),
        "im2col": lambda x: fnconv.im2col(x, (8,), strides=8),
        "max_pool of halves": lambda x: fnconv.max_pool(x, (4,)),
    }

    def both(pool: Callable[[jax.Array], jax.Array], x: jax.Array) -> list[np.ndarray]:
        y, pullback = jax.jit(lambda x: jax.vjp(pool, x))(x)
        return [np.asarray(y), np.asarray(pullback(jnp.ones_like(y))[0])]

    return {n: all(map(np.array_equal, both(f, placed), both(f, x))) for n, f in pools.items()}


def excess(got: Any, want: Any, exact: bool) -> float:
    """By how much got and want differ more than rounding explains: 2^8 ulp of the largest entry, or nothing."""
    bound = 0.0 if exact else 2**8 * float(np.finfo(np.float32).eps) * max(float(np.abs(w).max()) for w in want)
    pairs = [(np.asarray(g), np.asarray(w)) for g, w in zip(got, want, strict=True)]
    return max(0.0, *(float(np.abs(g - w).max()) - bound for g, w in pairs))


def main(step: int) -> None:
    """Of the cases one in `step`."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    cases = [*convolutions(), *others()][::step]
    found = {case[0]: collectives(case, mesh) for case in cases}
    try:
        mapped: Any = shard_mapped(mesh, step)
    except Exception as error:
        mapped = {"error": f"{type(error).__name__}: {error}"}
    placed = {case[0]: explicit(case) for case in cases}
    print(json.dumps({"gradients": found, "shard_map": mapped, "explicit": placed, "windows": along_the_windows(mesh)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
