"""Programs to compile for accelerators: each operation and network, beside the same in plain JAX.

A program is a function of arrays; `alone` an operation is between the arguments of a program, `in context` between two
convolutions of a program, whose layouts it then meets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fnconv
from benchmarks import convolutions, models, pools, unet
from benchmarks.cases import LAYERS, POOLS, Pool
from benchmarks.networks import NETWORKS

Function = Callable[..., Any]
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    """What two libraries compute of arguments of these shapes."""

    name: str
    map: str
    autodiff: Function
    fnconv: Function
    shapes: tuple[Any, ...]


def cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for name, sides, shapes in (*_layers(dtype), *_pools(dtype), *_operations(dtype)):
            given = tuple(jax.ShapeDtypeStruct(s, d) for s, d in shapes)
            yield Case(f"{name} {dtype}", "fwd", *sides, given)
            yield _both(f"{name} {dtype}", sides, given)
        for pool in POOLS:
            if pool.channels >= 64:
                yield _in_context(pool, dtype)
    yield from _steps()


Sides = tuple[Function, Function]
Given = tuple[tuple[tuple[int, ...], Any], ...]
Entry = tuple[str, Sides, Given]


def _both(name: str, sides: Sides, given: tuple[Any, ...]) -> Case:
    dy = jax.eval_shape(sides[0], *given)

    def both(f: Function, dy: Any, *operands: Any) -> Any:
        fixed = [a for a in operands if not jnp.issubdtype(a.dtype, jnp.floating)]
        y, pull = jax.vjp(lambda *moving: f(*moving, *fixed), *operands[: len(operands) - len(fixed)])
        return y, pull(dy)

    return Case(name, "fwd+bwd", *(partial(both, f) for f in sides), (dy, *given))


def _layers(dtype: str) -> Iterator[Entry]:
    for layer in LAYERS:
        if layer.dtype == "float32":
            layer = replace(layer, dtype=dtype)
            given = tuple((s.shape, s.dtype) for s in convolutions.shapes(layer)[:2])
            yield f"conv {layer.name}", (convolutions.in_lax(layer), convolutions.in_fnconv(layer)), given


def _plain_pool(pool: Pool) -> Function:
    """`pools.in_lax`, for every dtype."""
    window, strides = (1, *(pool.window,) * 2, 1), (1, *(pool.stride,) * 2, 1)
    pads = ((0, 0), *((pool.padding,) * 2,) * 2, (0, 0))
    if pool.kind == "max":
        return lambda x: lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, window, strides, pads)
    count = pool.window**2
    return lambda x: lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, strides, pads) / count


def _pools(dtype: str) -> Iterator[Entry]:
    for pool in POOLS:
        yield f"pool {pool.name}", (_plain_pool(pool), pools.in_fnconv(pool)), ((pool.x_shape, dtype),)


def _in_context(pool: Pool, dtype: str) -> Case:
    """Forward and backward of conv 3x3, ReLU, pool, conv 3x3."""

    def loss(conv: Function, relu: Function, pool: Function, x: Any, w: Any, v: Any) -> Any:
        return (conv(pool(relu(conv(x, w))), v).astype(jnp.float32) ** 2).sum()

    def plain(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    losses = (
        partial(loss, plain, jax.nn.relu, _plain_pool(pool)),
        partial(loss, partial(fnconv.conv, padding="SAME"), fnconv.relu, pools.in_fnconv(pool)),
    )
    w = jax.ShapeDtypeStruct((3, 3, pool.channels, pool.channels), dtype)
    given = (jax.ShapeDtypeStruct(pool.x_shape, dtype), w, w)
    return Case(
        f"in context {pool.name} {dtype}", "fwd+bwd", *(jax.value_and_grad(f, (0, 1, 2)) for f in losses), given
    )


def _lp(x: Any) -> Any:
    return jnp.sqrt(lax.reduce_window(x * x, np.zeros((), x.dtype), lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"))


def _block(conv: Function, relu: Function, pool: Function, x: Any, w: Any, b: Any) -> Any:
    return relu(pool(conv(x, w) + b))


def _entropy(z: Any, labels: Any) -> Any:
    return jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, labels[:, None], axis=1)[:, 0]


def _patches(x: Any) -> Any:
    """Channels before positions, as `im2col` has them."""
    cols = lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NCHW"))
    return cols.reshape(*cols.shape[:2], -1)


def _operations(dtype: str) -> Iterator[Entry]:
    image, rows = (((32, 56, 56, 64), dtype),), (((256, 1000), dtype),)
    layer = next(n for n in LAYERS if n.name.startswith("64-64"))
    plain_block = partial(_block, convolutions.in_lax(layer), jax.nn.relu, _plain_pool(POOLS[0]))
    for name in ("relu", "leaky_relu", "sigmoid", "tanh"):
        yield name, (getattr(jax.nn, name), getattr(fnconv, name)), image
    for name in ("softmax", "log_softmax"):
        yield name, (getattr(jax.nn, name), getattr(fnconv, name)), rows
    attention = (((4, 8, 256, 256), dtype),)
    yield "softmax of scores", (jax.nn.softmax, fnconv.softmax), attention
    yield "cross-entropy", (_entropy, fnconv.softmax_cross_entropy), (*rows, ((256,), "int32"))
    soft: Function = lambda z, t: -jnp.sum(t * jax.nn.log_softmax(z), axis=-1)  # noqa: E731
    yield "cross-entropy, soft labels", (soft, fnconv.softmax_cross_entropy), rows * 2
    yield "squared error", (lambda p, t: (p - t) ** 2, fnconv.squared_error), rows * 2
    weights = (((1000, 512), dtype), ((512,), dtype))
    yield "dense", (lambda x, w, b: x @ w + b, fnconv.dense), (*rows, *weights)
    yield "lp_pool 2x2", (_lp, lambda x: fnconv.lp_pool(x, (2, 2))), image
    mean: Function = lambda x: x.mean((1, 2), keepdims=True)  # noqa: E731
    yield "global average", (mean, lambda x: fnconv.adaptive_avg_pool(x, (1, 1))), image
    top: Function = lambda x: x.max((1, 2), keepdims=True)  # noqa: E731
    yield "global maximum", (top, lambda x: fnconv.adaptive_max_pool(x, (1, 1))), image
    yield "im2col 3x3", (_patches, lambda x: fnconv.im2col(x, (3, 3))), (((32, 28, 28, 16), dtype),)
    block = (((32, 32, 32, 64), dtype), ((3, 3, 64, 64), dtype), ((64,), dtype))
    yield "conv_block", (plain_block, lambda x, w, b: fnconv.conv_block(x, w, b, padding=1, pool=2)), block


def _steps() -> Iterator[Case]:
    """Gradients of whole networks."""
    for network in NETWORKS:
        weights, images, labels = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), models.data(network, False)
        )
        gradients = (jax.grad(partial(models.loss, side, network, False)) for side in models.SIDES.values())
        yield Case(f"step of {network.name} float32", "step", *gradients, (weights, images, labels))
    yield transformed("U-Net, transformed, float32", unet.loss, unet.args())


def transformed(name: str, loss: Function, args: tuple[Any, ...]) -> Case:
    """The gradient of a user's loss by its first argument, and the same under `with_manual_rules`."""
    shapes = jax.eval_shape(lambda: args)
    return Case(f"step of {name}", "step", jax.grad(loss), jax.grad(fnconv.with_manual_rules(loss)), shapes)
