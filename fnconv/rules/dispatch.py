"""What a rule's name, or "auto", resolves to, map by map; and the answer where nothing is to be computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.geometry import Axis, volume, windows
from fnconv.linear import UNROLL
from fnconv.rules import avg_pool, conv, max_pool, patches
from fnconv.spec import ConvSpec, PoolSpec
from fnconv.textbook import lowest

Rules = Mapping[str, Mapping[str, Callable[..., Any]]]

RULES: dict[str, Rules] = {
    "conv": conv.RULES,
    "max_pool": max_pool.RULES,
    "avg_pool": avg_pool.RULES,
    "lp_pool": patches.RULES,
}


def names(operation: str) -> dict[str, tuple[str, ...]]:
    """The formulations of an operation by map, simplest first."""
    return {m: tuple(rules) for m, rules in RULES[operation].items()}


def available_rules() -> dict[str, dict[str, tuple[str, ...]]]:
    """What exists: `{operation: {map: (rule, ...)}}`, simplest first.

    >>> available_rules()["conv"]["forward"]
    ('kronecker', 'jacobian', 'im2col', 'correlation', 'taps', 'merged', 'lax')
    """
    return {operation: names(operation) for operation in RULES}


# ---- convolution ----------------------------------------------------------------------------------------------------


def conv_forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    return _conv_map("forward", spec, x, w, spec.y_shape(x.shape[0]))


def conv_input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    return _conv_map("input_vjp", spec, dy, w, spec.x_shape(dy.shape[0]))


def conv_weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    return _conv_map("weight_vjp", spec, x, dy, spec.w_shape)


def _conv_map(map_: str, spec: ConvSpec, a: jax.Array, b: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if 0 in (*a.shape, *b.shape, *shape):  # a sum over nothing
        return jnp.zeros(shape, a.dtype)
    name = spec.rule(map_)
    if name != "auto":
        return conv.RULES[map_][name](spec, a, b)
    on_cpu, elsewhere = conv.RULES[map_][cpu_conv_rule(map_, spec)], conv.RULES[map_]["lax"]
    if on_cpu is elsewhere:
        return elsewhere(spec, a, b)
    return lax.platform_dependent(a, b, cpu=partial(on_cpu, spec), default=partial(elsewhere, spec))


def cpu_conv_rule(map_: str, spec: ConvSpec) -> str:
    """What "auto" runs on a CPU; on other platforms it runs "lax".

    XLA's CPU convolution has no fast path for these geometries (the ratios are its time over the rule's, float32,
    two cores, layers of 28 to 56 cells and 64 to 192 channels; they vary with the layer):

    depthwise            a loop over single channels: 10-50 forward, 20-600 input gradient, 4-20 weight gradient;
                         the weight gradient of more than 9 window elements is faster in blocks: 3-6
    grouped              the weight gradient runs group by group in scalar code: 40-500; the other maps 2-6 where
                         groups need no merging, as a block of several lets a NaN or an infinity reach its
                         neighbours, else about 1; and XLA gathers a sharded batch for its own grouped convolution
    1x1 kernels          a matrix product: weight gradient 4-7, the others 1-2
    one input channel    nothing to contract: 7-11 forward, 6 input gradient
    """
    elements = volume(windows(spec.axes))
    if spec.groups == spec.in_channels > 1:
        return "merged" if (map_ == "weight_vjp" and elements > 9) or elements > UNROLL else "taps"
    if spec.groups > 1:
        if map_ == "weight_vjp" or spec.in_channels >= conv.merged.WIDTH * spec.groups:
            return "merged"
        return "taps" if elements <= UNROLL else "im2col"
    if elements == 1:
        return "taps"
    if spec.in_channels == 1 and map_ != "weight_vjp" and elements <= UNROLL:
        return "taps"
    return "lax"


# ---- pooling --------------------------------------------------------------------------------------------------------


def pool_rule(operation: str, map_: str, spec: PoolSpec) -> str:
    """The formulation that a pooling's map runs."""
    name = spec.rule(map_)
    sliding = all(isinstance(a, Axis) for a in spec.axes)
    small = volume(windows(spec.axes)) <= UNROLL
    if name != "auto":
        return name
    match operation:
        case "max_pool":
            return "offsets" if sliding and small else "segment_sum"
        case "lp_pool":
            return "shifted" if sliding and small else "segment_sum"
        case _:
            return "upsample"


def max_pool_forward(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    forward = max_pool.RULES["forward"][pool_rule("max_pool", "forward", spec)]
    if x.size and volume(spec.output):
        return forward(spec, x)
    shape = (x.shape[0], *spec.output, x.shape[-1])
    return jnp.full(shape, lowest(x.dtype), x.dtype), jnp.full(shape, -1, max_pool.segment_sum.offset_dtype(spec.axes))


def unselect(spec: PoolSpec, offset: jax.Array, dy: jax.Array) -> jax.Array:
    shape = (dy.shape[0], *spec.size, dy.shape[-1])
    if 0 in (*shape, *dy.shape):
        return jnp.zeros(shape, dy.dtype)
    return max_pool.RULES["input_vjp"][pool_rule("max_pool", "input_vjp", spec)](spec, offset, dy)


def select(spec: PoolSpec, offset: jax.Array, x: jax.Array) -> jax.Array:
    if 0 in (*offset.shape, *x.shape):
        return jnp.zeros(offset.shape, x.dtype)
    return max_pool.ADJOINTS[pool_rule("max_pool", "input_vjp", spec)](spec, offset, x)


def avg_pool_forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    shape = (x.shape[0], *spec.output, x.shape[-1])
    if 0 in (*shape, *x.shape):
        return jnp.zeros(shape, x.dtype)
    return avg_pool.RULES["forward"][pool_rule("avg_pool", "forward", spec)](spec, x)


def avg_pool_input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    shape = (dy.shape[0], *spec.size, dy.shape[-1])
    if 0 in (*shape, *dy.shape):
        return jnp.zeros(shape, dy.dtype)
    return avg_pool.RULES["input_vjp"][pool_rule("avg_pool", "input_vjp", spec)](spec, dy)


def columns(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """(N, *S, C) -> (N, O, K, C), zeros in the padding."""
    shape = (x.shape[0], volume(spec.output), volume(windows(spec.axes)), x.shape[-1])
    if 0 in (*shape, *x.shape):
        return jnp.zeros(shape, x.dtype)
    return patches.RULES["forward"][pool_rule("lp_pool", "forward", spec)](x, spec.axes)


def columns_adjoint(spec: PoolSpec, cols: jax.Array) -> jax.Array:
    """(N, O, K, C) -> (N, *S, C), equal cells added."""
    shape = (cols.shape[0], *spec.size, cols.shape[-1])
    if 0 in (*shape, *cols.shape):
        return jnp.zeros(shape, cols.dtype)
    wide = cols.astype(patches.accumulator(cols.dtype))
    return patches.RULES["input_vjp"][pool_rule("lp_pool", "input_vjp", spec)](wide, spec.axes).astype(cols.dtype)
