"""Plain JAX and NumPy versions of the operations, whose automatic gradients are the reference.

The geometry is that of `engine.windows`, not that of `base.geometry`: the two check each other.
Where JAX's own gradient is wrong or missing the reference goes around it: paddings are applied explicitly, by padding
and cropping, before a convolution without any (JAX's input gradient reads out of bounds on CPU where an asymmetric
padding is as large as the kernel); windows that dilate or break ties Wei's way are stacked as slices and their first
maximum is taken (max pooling with dilation has no gradient in JAX).  All arrays are (N, *spatial, C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.judge.engine.programs import abstract
from fnconv.judge.engine.windows import adaptive, all_windows, padding_of, per_axis

LowHigh = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A sliding window over a spatial size, in a user's words."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...] | int = 1
    padding: Any = "VALID"
    dilation: tuple[int, ...] | int = 1
    ceil_mode: bool = False

    def options(self) -> dict[str, Any]:
        """The keyword arguments that convolutions take."""
        return {"strides": self.strides, "padding": self.padding, "dilation": self.dilation}

    def pool_options(self) -> dict[str, Any]:
        """And those that poolings take."""
        return {"window_shape": self.window, "ceil_mode": self.ceil_mode, **self.options()}

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(per_axis(self.strides, len(self.size)))

    @property
    def gaps(self) -> tuple[int, ...]:
        return tuple(per_axis(self.dilation, len(self.size)))

    @property
    def spans(self) -> tuple[int, ...]:
        return tuple((k - 1) * d + 1 for k, d in zip(self.window, self.gaps, strict=True))

    @cached_property
    def pads(self) -> tuple[LowHigh, ...]:
        """(low, high) of every axis."""
        named = per_axis(self.padding, len(self.size))
        axes = zip(named, self.size, self.spans, self.steps, strict=True)
        pairs = (padding_of(p, n, span, s) if isinstance(p, str) else per_axis(p, 2) for p, n, span, s in axes)
        return tuple((int(low), int(high)) for low, high in pairs)

    @cached_property
    def output(self) -> tuple[int, ...]:
        found = all_windows(self.size, self.window, self.strides, self.padding, self.dilation, self.ceil_mode)
        return tuple(map(len, found))

    @property
    def overshoot(self) -> tuple[int, ...]:
        """Cells past the padding that the last window covers."""
        axes = zip(self.output, self.steps, self.spans, self.size, self.pads, strict=True)
        return tuple(max(0, (o - 1) * s + span - (low + n + high)) for o, s, span, n, (low, high) in axes)

    def swapped(self) -> dict[str, Window]:
        """The same with the two paddings of one axis exchanged, where they differ: by the name of the mistake."""
        return {
            f"low and high padding of spatial axis {axis} are exchanged": replace(
                self, padding=(*self.pads[:axis], (high, low), *self.pads[axis + 1 :])
            )
            for axis, (low, high) in enumerate(self.pads)
            if low != high
        }

    def __str__(self) -> str:
        parts = [f"{len(self.size)}-D {_times(self.size)}", f"window {_times(self.window)}"]
        if self.steps != (1,) * len(self.size):
            parts.append(f"strides {_times(self.steps)}")
        if self.padding != "VALID":
            parts.append(f"padding {str(self.padding).replace(' ', '')}")
        if self.gaps != (1,) * len(self.size):
            parts.append(f"dilation {_times(self.gaps)}")
        return ", ".join(parts) + (", ceil_mode" if self.ceil_mode else "")


def _times(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


# ---- convolution ----------------------------------------------------------------------------------------------------


def conv(g: Window, x: Any, w: Any, *, groups: int = 1) -> jax.Array:
    """Pad or crop, then lax's convolution without padding."""
    n = len(g.size)
    spatial = "DHW"[:n]
    return lax.conv_general_dilated(
        pad_or_crop(x, g.pads),
        w,
        window_strides=g.steps,
        padding="VALID",
        rhs_dilation=g.gaps,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
    )


def conv_input_vjp(g: Window, dy: Any, w: Any, in_channels: int, *, groups: int = 1) -> jax.Array:
    """The automatic transpose of `conv` in x."""
    x = abstract((dy.shape[0], *g.size, in_channels), dy.dtype)
    (dx,) = jax.linear_transpose(lambda x: conv(g, x, w, groups=groups), x)(dy)
    return dx


def conv_weight_vjp(g: Window, x: Any, dy: Any, *, groups: int = 1) -> jax.Array:
    """The automatic transpose of `conv` in w."""
    w = abstract((*g.window, x.shape[-1] // groups, dy.shape[-1]), dy.dtype)
    (dw,) = jax.linear_transpose(lambda w: conv(g, x, w, groups=groups), w)(dy)
    return dw


def pad_or_crop(x: Any, pads: Sequence[LowHigh], fill: float = 0) -> Any:
    """Pad the spatial axes; negative paddings crop."""
    xp = x.__array_namespace__()
    kept = tuple(slice(max(-low, 0), n - max(-high, 0)) for n, (low, high) in zip(x.shape[1:-1], pads, strict=True))
    widths = [(0, 0), *((max(low, 0), max(high, 0)) for low, high in pads), (0, 0)]
    x = x[(slice(None), *kept)]
    return xp.pad(x, widths, constant_values=np.asarray(fill, x.dtype)) if any(map(any, widths)) else x


# ---- windows as stacked slices --------------------------------------------------------------------------------------


def windows(g: Window, x: Any, *, fill: float = 0, beyond: float | None = None) -> Any:
    """Every window's cells on a last axis, row-major: (N, *O, C, K); `beyond` fills the cells past the padding."""
    xp = x.__array_namespace__()
    padded = pad_or_crop(x, g.pads, fill)
    padded = pad_or_crop(padded, [(0, extra) for extra in g.overshoot], fill if beyond is None else beyond)
    cells = []
    for k in product(*map(range, g.window)):
        starts = [i * d for i, d in zip(k, g.gaps, strict=True)]
        slices = [slice(b, b + (o - 1) * s + 1, s) for b, o, s in zip(starts, g.output, g.steps, strict=True)]
        cells.append(padded[(slice(None), *slices)])
    return xp.stack(cells, axis=-1)


def positions(g: Window) -> Any:
    """The flat position of every window's cells, -1 in the padding: (1, *O, 1, K)."""
    return windows(g, np.arange(math.prod(g.size), dtype=np.int32).reshape(1, *g.size, 1), fill=-1)


def max_pool(g: Window, x: Any, *, ties: str = "row_major", fill: float = -math.inf) -> tuple[jax.Array, jax.Array]:
    """The first maximum of each window in tie order and its flat position, -1 for padding."""
    order = np.arange(math.prod(g.window))
    if ties == "column_major":
        order = order.reshape(g.window).transpose().reshape(-1)
    cells = windows(g, x, fill=fill)[..., order]
    first = jnp.argmax(cells, axis=-1, keepdims=True)
    where = jnp.broadcast_to(jnp.asarray(positions(g)[..., order]), cells.shape)
    return jnp.take_along_axis(cells, first, axis=-1)[..., 0], jnp.take_along_axis(where, first, axis=-1)[..., 0]


def reduce_window_max(g: Window, x: Any) -> jax.Array:
    """lax's own max pooling, as Flax calls it; no dilation."""
    return _reduce_window(g, x, -math.inf, lax.max)


def avg_pool(g: Window, x: Any, *, include_pad: bool = True) -> jax.Array:
    """lax's window sum over the number of cells counted; 0 where none is."""
    ones = np.ones((1, *g.size, 1))
    counts = windows(g, ones, fill=float(include_pad), beyond=0).sum(axis=-1)
    return _reduce_window(g, x, 0, lax.add) / jnp.asarray(np.maximum(counts, 1), x.dtype)


def counted(g: Window, *, include_pad: bool = True) -> set[int]:
    """The divisors that occur in `avg_pool`."""
    ones = np.ones((1, *g.size, 1))
    return {int(n) for n in windows(g, ones, fill=float(include_pad), beyond=0).sum(axis=-1).flat if n}


def _reduce_window(g: Window, x: Any, start: float, combine: Any) -> jax.Array:
    crops = [(min(low, 0), min(high, 0)) for low, high in g.pads]
    pads = [(max(low, 0), max(high, 0) + extra) for (low, high), extra in zip(g.pads, g.overshoot, strict=True)]
    return lax.reduce_window(
        pad_or_crop(x, crops),
        np.asarray(start, x.dtype),
        combine,
        (1, *g.window, 1),
        (1, *g.steps, 1),
        [(0, 0), *pads, (0, 0)],
        window_dilation=(1, *g.gaps, 1),
    )


def lp_pool(g: Window, x: Any, *, p: float) -> jax.Array:
    """(sum |x|^p)^(1/p), |x| being x sign(x); where x or a whole window is zero the gradient is 0.

    JAX's own |x| has the slope 1 at 0.
    """
    signed = windows(g, x)
    cells = signed * lax.stop_gradient(jnp.sign(signed))
    if p == 1:
        return cells.sum(axis=-1)
    powers = jnp.square(cells) if p == 2 else cells**p
    total = powers.sum(axis=-1)
    empty = total == 0
    safe = jnp.where(empty, jnp.ones((), x.dtype), total)
    return jnp.where(empty, jnp.zeros((), x.dtype), jnp.sqrt(safe) if p == 2 else safe ** (1 / p))


# ---- unpooling and adaptive pooling ---------------------------------------------------------------------------------


def max_unpool(y: Any, indices: Any, output: Sequence[int]) -> jax.Array:
    """Each cell takes the last y that names it, found by comparing every cell with every index."""
    n, c, cells = y.shape[0], y.shape[-1], math.prod(output)
    flat, where = y.reshape(n, -1, c), np.asarray(indices).reshape(n, -1, c)
    named = where[:, None] == np.arange(cells)[None, :, None, None]  # (N, cells, O, C)
    last = np.max(np.where(named, np.arange(where.shape[1])[None, None, :, None], -1), axis=2)
    taken = jnp.take_along_axis(flat, jnp.asarray(np.maximum(last, 0)), axis=1)
    return jnp.where(last >= 0, taken, jnp.zeros((), y.dtype)).reshape(n, *output, c)


def adaptive_pool(x: Any, output: Sequence[int], pool: str) -> jax.Array:
    """Window after window, cut out as Torch defines them."""
    size = x.shape[1:-1]
    results = []
    for window in product(*map(adaptive, size, output)):
        cut = [slice(cells[0], cells[-1] + 1) for cells in window]
        cells = x[(slice(None), *cut)].reshape(x.shape[0], -1, x.shape[-1])
        if pool == "max":
            results.append(jnp.take_along_axis(cells, jnp.argmax(cells, axis=1, keepdims=True), axis=1)[:, 0])
        else:
            results.append(cells.sum(axis=1) / jnp.asarray(cells.shape[1], x.dtype))
    return jnp.stack(results, axis=1).reshape(x.shape[0], *output, x.shape[-1])


def pyramid(x: Any, levels: Sequence[Sequence[int]], pool: str) -> jax.Array:
    return jnp.concatenate([adaptive_pool(x, level, pool).reshape(x.shape[0], -1) for level in levels], axis=-1)
