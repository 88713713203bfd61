"""What the rule "auto" resolves to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from fnconv.base.geometry import Axis, is_symbolic, outputs, volume, windows
from fnconv.base.lowering import UNROLL
from fnconv.base.spec import ConvSpec, PoolSpec
from fnconv.rules import conv, max_pool, measured

# ---- convolution ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of the table below: the rule that "auto" runs on a CPU where the condition holds, and why."""

    rule: str
    holds: Callable[[Traits], bool]
    because: str


class Traits:
    """What the table asks of a convolution: its groups, the input and output channels of one, and its windows.

    batch: of all images, vmap's copies too; None: many.  onednn: whether that library may be called.
    """

    def __init__(self, spec: ConvSpec, dtype: Any, batch: int | None = None, onednn: bool = False) -> None:
        self.onednn = onednn
        self.few_positions = batch is not None and batch * volume(outputs(spec.axes)) < 1000
        self.c, self.d = spec.in_channels // spec.groups, spec.out_channels // spec.groups
        self.elements = volume(windows(spec.axes))
        self.unrolled = self.elements <= UNROLL
        self.dense = spec.groups == 1
        self.depthwise = spec.groups > 1 and self.c == 1
        self.narrow = conv.taps.is_narrow(spec)
        self.wide_groups = not self.dense and self.c >= conv.merged.WIDTHS["forward"]
        self.strided = any(a.stride > 1 for a in spec.axes)
        self.patches = self.dense and self.elements > 1 and conv.space_to_depth.meet(spec)
        self.short = all(a.window <= conv.winograd.LONGEST for a in spec.axes)
        self.overlaps = all(a.window >= 3 * a.stride for a in spec.axes)  # neighbouring windows do, by two thirds
        self.extended = sum(a.window > 1 for a in spec.axes)  # axes along which the window is
        self.solid = self.extended > 2 and self.unrolled
        self.few_columns = self.unrolled and not self.strided
        self.blocks = spec.axes[-1].window >= 5 or self.d <= 16
        # images of equal residue modulo a dilation, large enough for tiles
        self.residues = all(a.dilation == 1 or a.output >= 8 * a.dilation for a in spec.axes)
        self.output = min(a.output for a in spec.axes)
        self.single = dtype == jnp.float32
        self.component_wise = spec.precision not in (None, lax.Precision.DEFAULT)

    @property
    def tiles(self) -> bool:
        """Where Winograd's tiles need fewer products."""
        fewer = self.extended > 0 and self.short and not self.strided and self.residues
        return self.single and not self.component_wise and fewer

    @property
    def winograd(self) -> bool:
        """Where fewer products are worth the transforms of x and y, which channels share."""
        channels = 32 if self.extended == 2 else 16
        return self.dense and self.tiles and self.extended > 1 and min(self.c, self.d) >= channels

    @property
    def winograd_dw(self) -> bool:
        """The same for the weight gradient, where XLA's own program is slower."""
        channels = 64 if self.few_positions else 24 if self.extended == 2 else 16
        return self.dense and self.tiles and self.extended > 1 and min(self.c, self.d) >= channels

    @property
    def many_tiles(self) -> bool:
        """Enough for their products to pay, which three axes always are."""
        return (self.output >= 8 or self.extended > 2) and not self.few_positions

    @property
    def gathers(self) -> bool:
        """Whether dx is more than one product, of channels enough: else oneDNN is no faster."""
        return self.elements > 1 and (self.c > 8 or not self.dense)

    @property
    def few_tiles(self) -> bool:
        """Where the fewer products of tiles save less than oneDNN's loops do."""
        return not (self.winograd_dw and (self.extended > 2 or min(self.c, self.d) >= 64))


def _always(s: Traits) -> bool:
    return True


# What "auto" runs on a CPU, first line that holds; on other platforms it runs "lax", cuDNN's and the TPU's own.
# The factors are times of autodiff's program over the rule's, float32, two cores, layers as networks use them, see
# benchmarks/README.  They are about causes, not shapes: XLA's CPU convolution has one fast path, for dense kernels of
# stride 1, and its weight gradient is a convolution whose window is a whole image.
CPU: dict[str, tuple[Line, ...]] = {
    "forward": (
        Line("onednn", lambda s: s.onednn, "oneDNN's loops, made for this layer: 1.3-10x"),
        Line("space_to_depth", lambda s: s.patches, "windows that meet: one product of the cells as they lie, 1-10x"),
        Line("merged", lambda s: s.depthwise and not s.unrolled, "depthwise, a window too large to unroll"),
        Line("taps", lambda s: s.narrow and s.unrolled, "XLA loops over single channels of narrow groups: 8-50x"),
        Line("merged", lambda s: s.wide_groups, "every group is a dense convolution: 2-4x"),
        Line("taps", lambda s: not s.dense and s.unrolled, "groups of some channels, NaN kept within each: 1x"),
        Line("im2col", lambda s: not s.dense, "groups of a few channels, a window too large to unroll"),
        Line("taps", lambda s: s.elements == 1, "1x1: one matrix product, 1-2x"),
        Line("blocked", lambda s: s.c == 1 and s.blocks, "one input channel: wider products of its blocks, 3-4x"),
        Line(
            "blocked", lambda s: s.c <= 4 and s.d <= 32 and s.overlaps, "few channels in and out: wider products, 2-12x"
        ),
        Line("winograd", lambda s: s.winograd and s.many_tiles, "fewer products: 1.1-2.8x"),
        Line("columns", lambda s: s.solid and s.c <= 32, "three axes, no fast path of XLA's: 1.6-4x"),
        Line("taps", lambda s: s.solid, "three axes, no fast path of XLA's: 1.5-2.4x"),
        Line("columns", lambda s: s.c == 1 and s.few_columns, "one channel, but enough in all columns: 1.5x"),
        Line("lax", _always, "XLA's own convolution is as fast as any rule here"),
    ),
    "input_vjp": (
        Line("space_to_depth", lambda s: s.patches, "windows that meet: one product of the cells as they lie, 1-10x"),
        Line("onednn", lambda s: s.onednn and s.gathers, "oneDNN's loops, made for this layer: 1.2-4x"),
        Line("merged", lambda s: s.depthwise and not s.unrolled, "depthwise, a window too large to unroll"),
        Line("taps", lambda s: s.narrow and s.unrolled, "XLA loops over single channels of narrow groups: 7-600x"),
        Line("merged", lambda s: s.wide_groups, "every group is a dense convolution: 2-4x"),
        Line("taps", lambda s: not s.dense and s.unrolled, "groups of some channels, NaN kept within each: 1x"),
        Line("im2col", lambda s: not s.dense, "groups of a few channels, a window too large to unroll"),
        Line("taps", lambda s: s.elements == 1, "1x1: one matrix product, 1-4x"),
        Line(
            "blocked",
            lambda s: s.c <= 8 and s.d <= 64 and s.blocks and s.overlaps,
            "few channels, long windows: 1.2-9x",
        ),
        Line("winograd", lambda s: s.winograd and s.many_tiles, "fewer products: 1.1-2.5x"),
        Line("taps", lambda s: s.c <= 16 and s.few_columns, "few channels: one product and shifted additions, 2.3x"),
        Line("taps", lambda s: s.c <= min(32, s.d) and s.few_columns, "few channels, more in y: the same, 1.2-2.4x"),
        Line("taps", lambda s: s.solid and (s.strided or s.c <= s.d), "three axes, no fast path of XLA's: 2-50x"),
        Line("taps", lambda s: s.strided and s.elements <= 9, "XLA multiplies the zeros between cotangents: 1.1-2.3x"),
        Line("lax", _always, "XLA's own convolution is as fast as any rule here"),
    ),
    "weight_vjp": (
        Line("onednn", lambda s: s.onednn and s.few_tiles, "oneDNN's loops, made for this layer: 1.1-30x"),
        Line("space_to_depth", lambda s: s.patches, "windows that meet: one product of the cells as they lie, 1-10x"),
        Line("taps", lambda s: s.depthwise and s.unrolled, "a sum over positions without a product: 9-400x"),
        Line("merged", lambda s: not s.dense, "XLA runs group by group in scalar code: 20-1000x"),
        Line("taps", lambda s: s.elements == 1, "1x1: one matrix product, 4-15x"),
        Line("lax", lambda s: s.extended == 1 and s.c > 1, "one axis: XLA's own is fast, its window a whole row"),
        Line("winograd4", lambda s: s.winograd_dw and s.output >= 8, "fewer products: 1.2-22x"),
        Line("winograd", lambda s: s.winograd_dw, "fewer products, of small images: 2-3x"),
        Line("taps", lambda s: s.solid, "three axes, no fast path of XLA's: 1.4-9x"),
        Line(
            "lax",
            lambda s: s.d < s.c and (s.strided or s.d <= 16 or s.elements > 9),
            "fewer channels in y: 0.7x otherwise",
        ),
        Line("blocked", lambda s: s.c <= 16 and s.blocks and s.overlaps, "few channels, long windows: 1.4-6x"),
        Line("columns", lambda s: s.c < 32 and s.overlaps and s.unrolled, "one product of all columns: 2-6x"),
        Line("taps", lambda s: s.unrolled, "one product for each window element: 2-5x"),
        Line("lax", _always, "a window too large to unroll"),
    ),
}


def conv_choice(
    map_: str, spec: ConvSpec, dtype: Any = jnp.float32, batch: int | None = None, *, here: bool = False
) -> Line:
    """The line of the table that "auto" follows on a CPU.

    here: for a program that this process runs on one device, which follows what was measured, and may call oneDNN.
    """
    if any(is_symbolic(a.size) for a in spec.axes):
        return Line("lax", _always, "sizes that are not known yet: the platform's own convolution")
    if here and isinstance(batch, int) and (found := measured.chosen(map_, spec, jnp.dtype(dtype), batch)):
        ms = found["ms"]
        others = {rule: time for rule, time in ms.items() if rule != found["rule"]}
        if found["rule"] in candidates(map_, spec, jnp.dtype(dtype)):
            against = f" against {min(others.values()):.2f}" if others else ""
            return Line(found["rule"], _always, f"measured: {ms[found['rule']]:.2f} ms{against}")
    onednn = here and conv.onednn.usable(spec, jnp.dtype(dtype))
    traits = Traits(spec, dtype, batch if isinstance(batch, int) else None, onednn)
    return next(line for line in CPU[map_] if line.holds(traits))


def candidates(map_: str, spec: ConvSpec, dtype: Any) -> tuple[str, ...]:
    """The rules that "auto" may take: those that are made for speed, and round no more than it promises."""
    s = Traits(spec, dtype)
    holds = {
        "taps": s.unrolled,
        "columns": s.unrolled and s.elements > 1 and map_ != "input_vjp",
        "blocked": spec.axes[-1].window > 1 and s.unrolled,
        "winograd": s.tiles,
        "winograd4": s.tiles and map_ == "weight_vjp",
        "merged": not s.dense,
        "space_to_depth": s.patches,
        "lax": True,
        "onednn": conv.onednn.usable(spec, dtype),
    }
    return tuple(rule for rule, may in holds.items() if may)


def conv_spreads(map_: str, spec: ConvSpec, dtype: Any = jnp.float32) -> bool:
    """Whether a NaN or an infinity may reach results whose sums it is not in, on a CPU."""
    rule = spec.rule(map_)
    if rule == "auto":
        rule = conv_choice(map_, spec, dtype, here=True).rule
        if rule == "merged" and conv_spreads(map_, conv.merged.block(spec, map_), dtype):
            return True
    return rule in conv.SPREADS and conv.SPREADS[rule](spec, map_)


# ---- pooling --------------------------------------------------------------------------------------------------------


def pool_rule(operation: str, map_: str, spec: PoolSpec) -> str:
    """The rule that a map of max_pool, avg_pool or im2col runs."""
    if (name := spec.rule(map_)) != "auto":
        return name
    if operation == "avg_pool":
        return "upsample"
    if all(isinstance(a, Axis) for a in spec.axes) and volume(windows(spec.axes)) <= UNROLL:
        return {"max_pool": "offsets", "im2col": "shifted"}[operation]
    return {"max_pool": "separable", "im2col": "segment_sum"}[operation]


def slides(spec: PoolSpec, map_: str) -> bool:
    """Whether XLA has an operation of its own for the windows of a pool under "auto", which is best off the CPU."""
    return spec.rule(map_) == "auto" and all(isinstance(a, Axis) for a in spec.axes)


def compares(spec: PoolSpec) -> bool:
    """Whether a GPU finds all winners of a max pool by one comparison, for the gradient, whatever the window's size."""
    return slides(spec, "input_vjp") and max_pool.offsets.tile(spec.axes)


def rescans(spec: PoolSpec) -> bool:
    """Whether a TPU finds the winners of a max pool in x again, for the gradient: that is its own scatter."""
    few = volume(windows(spec.axes)) <= UNROLL  # of a large window it does not fit a TPU's fast memory
    return slides(spec, "input_vjp") and few and max_pool.lax.scatters(spec)
