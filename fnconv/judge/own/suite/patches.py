"""im2col and col2im."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnconv.base.typing import Order
from fnconv.judge.engine.programs import abstract
from fnconv.judge.own import references
from fnconv.judge.own.bounds import Multilinear
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
    for i, (window, order) in enumerate(WINDOWS):
        yield im2col(window, order, quick=i == 0)
    for i, (window, order) in enumerate(WINDOWS):
        yield col2im(window, order, quick=i == 0)


def im2col(g: Window, order: Order, *, quick: bool) -> Case:
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
        quick=quick,
    )


def col2im(g: Window, order: Order, *, quick: bool) -> Case:
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
        quick=quick,
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
