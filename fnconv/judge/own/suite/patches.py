"""im2col and col2im; pixel shuffle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnconv.base.typing import ChannelOrder, Order
from fnconv.judge.engine.programs import abstract
from fnconv.judge.own import references
from fnconv.judge.own.bounds import Multilinear, Selecting
from fnconv.judge.own.case import INTEGERS, NORMAL, Case
from fnconv.judge.own.references import Window
from fnconv.ops import functional as ops

BATCH, CHANNELS = 2, 2
WINDOWS: tuple[tuple[Window, Order], ...] = (
    (Window((6,), (3,), 2, ((2, -1),)), "c"),
    (Window((4, 3), (2, 2), (1, 2), "SAME", dilation=(2, 1)), "c"),
    (Window((3, 4), (2, 3), 1, ((1, 0), (0, 2))), "matlab"),
)


def cases() -> Iterator[Case]:
    """All cases of this module."""
    yield from (im2col(window, order) for window, order in WINDOWS)
    yield from (col2im(window, order) for window, order in WINDOWS)
    for channels_slowest in (True, False):
        yield pixel_shuffle("pixel_shuffle", channels_slowest)
        yield pixel_shuffle("pixel_unshuffle", channels_slowest)


def pixel_shuffle(name: str, channels_slowest: bool) -> Case:
    """Factors 2 and 3 of a (2, 3) image; the inverse is the automatic transpose of the plain one."""
    mode: ChannelOrder = "CRD" if channels_slowest else "DCR"
    narrow, wide = (BATCH, 4, 9, CHANNELS), (BATCH, 2, 3, 6 * CHANNELS)

    def shuffled(x: Any) -> jax.Array:
        depth = (CHANNELS, 2, 3) if channels_slowest else (2, 3, CHANNELS)
        order = (0, 1, 4, 2, 5, 3) if channels_slowest else (0, 1, 3, 2, 4, 5)
        return jnp.transpose(jnp.reshape(x, (BATCH, 2, 3, *depth)), order).reshape(narrow)

    def unshuffled(y: Any) -> jax.Array:
        (x,) = jax.linear_transpose(shuffled, abstract(wide, y.dtype))(y)
        return x

    there = name == "pixel_shuffle"
    return Case(
        name,
        f"factor (2, 3), {mode}",
        lambda rule: partial(getattr(ops, name), factor=(2, 3), mode=mode),
        shuffled if there else unshuffled,
        {"x": wide if there else narrow},
        Selecting(),
        (INTEGERS, NORMAL),
    )


def im2col(g: Window, order: Order) -> Case:
    return Case(
        "im2col",
        f"{g}, order {order}",
        lambda rule: lambda x: ops.im2col(x, g.window, order=order, rule=rule, **g.options()),
        partial(_im2col, g, order),
        {"x": (BATCH, *g.size, CHANNELS)},
        Multilinear(),
        (INTEGERS, NORMAL),
        rules="im2col",
        maps={"y": "forward", "dx": "input_vjp"},
    )


def col2im(g: Window, order: Order) -> Case:
    """Its reference is the automatic transpose of im2col's."""
    shape = (BATCH, *g.size, CHANNELS)
    rows, columns = CHANNELS * math.prod(g.window), math.prod(g.output)

    def reference(cols: Any) -> jax.Array:
        x = abstract(shape, cols.dtype)
        (result,) = jax.linear_transpose(partial(_im2col, g, order), x)(cols)
        return result

    return Case(
        "col2im",
        f"{g}, order {order}",
        lambda rule: lambda cols: ops.col2im(cols, shape, g.window, order=order, rule=rule, **g.options()),
        reference,
        {"cols": (BATCH, rows, columns)},
        Multilinear(),
        (INTEGERS, NORMAL),
        rules="im2col",
        maps={"y": "input_vjp", "dcols": "forward"},
        batched=frozenset({"y", "dcols"}),
    )


def _im2col(g: Window, order: Order, x: Any) -> jax.Array:
    """Stacked slices; MATLAB's order has the first axis run fastest, in windows and over positions."""
    n = len(g.size)
    cells = references.windows(g, x)  # (N, *O, C, K)
    cells = cells.reshape(BATCH, *g.output, CHANNELS, *g.window)
    positions, channel, window = range(1, n + 1), n + 1, range(n + 2, 2 * n + 2)
    if order == "matlab":
        axes = (0, channel, *reversed(window), *reversed(positions))
    else:
        axes = (0, *window, channel, *positions)
    return jnp.transpose(cells, axes).reshape(BATCH, CHANNELS * math.prod(g.window), math.prod(g.output))
