"""What a rule's name, or "auto", resolves to, map by map; and the answer where nothing is to be computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.dtypes import lowest
from fnconv.base.geometry import Axis, volume, windows
from fnconv.base.lowering import UNROLL, computed_once
from fnconv.base.spec import ConvSpec, PoolSpec
from fnconv.rules import avg_pool, conv, max_pool, patches

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

    >>> available_rules()["max_pool"]["forward"]
    ('selection', 'segment_sum', 'offsets')
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
    choice = conv_choice(map_, spec, a.dtype)
    elsewhere = conv.RULES[map_]["lax"]
    if choice.rule == "lax":
        return elsewhere(spec, a, b)
    formulation = _formulation(map_, spec, a.dtype)

    def on_cpu(a: jax.Array, b: jax.Array) -> jax.Array:
        # else what the operands come from, and the result, may be computed again for each of their many readers
        return computed_once(formulation(spec, *computed_once((a, b))))

    return lax.platform_dependent(a, b, cpu=on_cpu, default=partial(elsewhere, spec))


def _formulation(map_: str, spec: ConvSpec, dtype: Any) -> Callable[..., Any]:
    rule = conv_choice(map_, spec, dtype).rule
    if rule != "merged":
        return conv.RULES[map_][rule]
    dense = conv_choice(map_, conv.merged.block(spec, map_), dtype).rule
    return partial(conv.RULES[map_][rule], dense=conv.RULES[map_][dense])


@dataclass(frozen=True)
class Choice:
    """A line of the table: the rule that "auto" runs on a CPU where the condition holds, and the reason for it."""

    rule: str
    holds: Callable[[Shape], bool]
    because: str


class Shape:
    """What the table below asks of a convolution: its groups, the channels of one, and its windows."""

    def __init__(self, spec: ConvSpec, dtype: Any) -> None:
        self.c, self.d = spec.in_channels // spec.groups, spec.out_channels // spec.groups
        self.elements = volume(windows(spec.axes))
        self.unrolled = self.elements <= UNROLL
        self.dense = spec.groups == 1
        self.depthwise = spec.groups > 1 and self.c == 1
        self.narrow = conv.taps.is_narrow(spec)
        self.wide_groups = not self.dense and self.c >= conv.merged.WIDTHS["forward"]
        self.strided = any(a.stride > 1 for a in spec.axes)
        self.short = all(a.window <= conv.winograd.LONGEST for a in spec.axes)
        self.extended = sum(a.window > 1 for a in spec.axes)  # axes along which the window is
        self.few_columns = self.unrolled and not self.strided
        self.blocks = spec.axes[-1].window >= 5 or self.d <= 16
        # images of equal residue modulo a dilation, large enough for tiles
        self.residues = all(a.dilation == 1 or a.output >= 8 * a.dilation for a in spec.axes)
        self.output = min(a.output for a in spec.axes)
        self.single = dtype == jnp.float32

    @property
    def winograd(self) -> bool:
        """Where fewer products are worth the transforms of x and y, which channels share."""
        channels = 32 if self.extended == 2 else 16
        fewer = self.extended > 1 and self.short and not self.strided and self.residues
        return self.dense and self.single and fewer and min(self.c, self.d) >= channels


def _always(s: Shape) -> bool:
    return True


# What "auto" runs on a CPU, first line that holds; on other platforms it runs "lax", cuDNN's and the TPU's own.
# The factors are times of autodiff's program over the rule's, float32, two cores, layers of 8 to 56 cells and 1 to
# 512 channels, see benchmarks/results.  They are about causes, not shapes: XLA's CPU convolution has one fast path,
# for dense kernels of stride 1, and its weight gradient is a convolution whose window is a whole image.
CPU: dict[str, tuple[Choice, ...]] = {
    "forward": (
        Choice("merged", lambda s: s.depthwise and not s.unrolled, "depthwise, a window too large to unroll"),
        Choice("taps", lambda s: s.narrow and s.unrolled, "XLA loops over single channels of narrow groups: 8-50x"),
        Choice("merged", lambda s: s.wide_groups, "every group is a dense convolution: 2-4x"),
        Choice("taps", lambda s: not s.dense and s.unrolled, "groups of some channels, NaN kept within each: 1x"),
        Choice("im2col", lambda s: not s.dense, "groups of a few channels, a window too large to unroll"),
        Choice("taps", lambda s: s.elements == 1, "1x1: one matrix product, 1-2x"),
        Choice("blocked", lambda s: s.c == 1 and s.blocks, "one input channel: wider products of its blocks, 3-4x"),
        Choice("winograd", lambda s: s.winograd, "fewer products: 1.5-2.8x"),
        Choice("columns", lambda s: s.c <= 4 and s.few_columns, "few channels, but enough in all columns: 1.4x"),
        Choice("lax", _always, "XLA's own convolution is as fast as any rule here"),
    ),
    "input_vjp": (
        Choice("merged", lambda s: s.depthwise and not s.unrolled, "depthwise, a window too large to unroll"),
        Choice("taps", lambda s: s.narrow and s.unrolled, "XLA loops over single channels of narrow groups: 7-600x"),
        Choice("merged", lambda s: s.wide_groups, "every group is a dense convolution: 2-4x"),
        Choice("taps", lambda s: not s.dense and s.unrolled, "groups of some channels, NaN kept within each: 1x"),
        Choice("im2col", lambda s: not s.dense, "groups of a few channels, a window too large to unroll"),
        Choice("taps", lambda s: s.elements == 1, "1x1: one matrix product, 1-4x"),
        Choice("blocked", lambda s: s.c <= 8 and s.blocks, "few channels, long windows: wider products, 2-9x"),
        Choice("winograd", lambda s: s.winograd, "fewer products: 1.5-2.5x"),
        Choice("taps", lambda s: s.c <= 16 and s.few_columns, "few channels: one product and shifted additions, 2.3x"),
        Choice("taps", lambda s: s.strided and s.unrolled, "XLA multiplies the zeros between cotangents: 1.1-1.3x"),
        Choice("lax", _always, "XLA's own convolution is as fast as any rule here"),
    ),
    "weight_vjp": (
        Choice("taps", lambda s: s.depthwise and s.unrolled, "a sum over positions without a product: 9-400x"),
        Choice("merged", lambda s: not s.dense, "XLA runs group by group in scalar code: 20-1000x"),
        Choice("taps", lambda s: s.elements == 1, "1x1: one matrix product, 4-15x"),
        Choice("lax", lambda s: s.extended == 1 and s.c > 1, "one axis: XLA's own is fast, its window a whole row"),
        Choice("winograd4", lambda s: s.winograd and s.extended == 2 and s.output >= 8, "fewer products: 4-22x"),
        Choice("winograd", lambda s: s.winograd and s.extended == 2, "fewer products, of small images: 2-3x"),
        Choice("blocked", lambda s: s.c <= 16 and s.blocks, "few channels, long windows: wider products, 1.4-6x"),
        Choice("columns", lambda s: s.c < 32 and s.unrolled, "one product of all columns: 2-6x"),
        Choice("taps", lambda s: s.unrolled, "one product for each window element: 2-5x"),
        Choice("lax", _always, "a window too large to unroll"),
    ),
}


def conv_choice(map_: str, spec: ConvSpec, dtype: Any = jnp.float32) -> Choice:
    """The line of the table that "auto" follows on a CPU."""
    shape = Shape(spec, dtype)
    return next(choice for choice in CPU[map_] if choice.holds(shape))


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
