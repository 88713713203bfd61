"""The part of an HTML page that a reader steps through: numbers and tables of geometry, drawn by `interactive.js`.

The script multiplies and adds.  Which output meets which window element at which cell it reads from `flat_table`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np

from fnconv.base.geometry import Axis, flat_table, outputs, taps, volume
from fnconv.show.layer import Layer
from fnconv.show.numbers import Written
from fnconv.show.pooling import Pooling
from fnconv.show.symbols import Symbol
from fnconv.show.tensors import headings

Index = tuple[int, ...]
Model = dict[str, Any]
CELLS, TERMS = 4096, 2**14  # what can be seen at once, and what a small file holds
WORDS = {"I": "input", "x": "input", "W": "weights", "b": "bias", "O": "output", "y": "output", "δ": "from above"}
KEYS = {"x": "I", "y": "O"}  # one name for each part


def conv(layer: Layer) -> Model | None:
    """The model of I * W + b = O; None where it is too large to be seen at once."""
    spec, r = layer.spec, layer.relation
    kernels, per_group, elements = spec.out_channels, layer.per_group, volume(r.window)
    links = (
        (d, layer.group_of_output(d) * per_group + c, (d * per_group + c) * elements)
        for d in range(kernels)
        for c in range(per_group)
    )
    terms = kernels * per_group * volume(r.output) * elements
    geometry = partial(_geometry, spec.axes, (spec.in_channels,))
    return _model("sum", layer, geometry, links, terms, sign="∗")


def pool(pooling: Pooling) -> Model | None:
    """The model of a pooling, channel by channel; None where it is too large."""
    r, channels = pooling.relation, pooling.channels
    links = ((c, c, 0) for c in range(channels))
    geometry = partial(_geometry, pooling.axes, (channels,), pooling.spec.ties)
    special = {"counts": pooling.counts.ravel().tolist(), "p": pooling.spec.p}
    terms = channels * volume(r.output) * volume(r.window)
    return _model(pooling.kind, pooling, geometry, links, terms, **special)


def dense(layer: Written) -> Model | None:
    """The model of y = x W + b: a convolution of one cell, whose channels are the inputs and the outputs."""
    inputs, outs = layer.shapes["W"]
    links = ((j, i, i * outs + j) for j in range(outs) for i in range(inputs))
    geometry = partial(_geometry, (Axis(1, 1),), ())
    return _model("sum", layer, geometry, links, inputs * outs, sign="·", frame=_grid((), (inputs,)))


def _model(
    kind: str,
    layer: Written,
    geometry: Callable[[], Model],
    links: Iterable[tuple[int, int, int]],
    terms: int,
    **more: Any,
) -> Model | None:
    """What the script reads.  links: kernel d, input channel c and the first of the weights between them."""
    cells = sum(volume((*channels, *spatial)) for _, channels, spatial in layer.tensors.values())
    if terms > TERMS or cells > CELLS:
        return None
    given = layer.operands
    tensors = {KEYS.get(name, name): _tensor(*tensor, given.get(name)) for name, tensor in layer.tensors.items()}
    return {"kind": kind, **geometry(), "links": list(links), "tensors": tensors, **more}


def frame(axes: Sequence[Axis]) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """The input as it is drawn, with its padding: axes of the windows on it, axes from its cells to the input's.

    A negative padding leaves out cells of the input; they are drawn, and no window covers them.
    """
    ends = [(a, a.high + a.overshoot) for a in axes]
    drawn = [(a, high, a.size + max(a.low, 0) + max(high, 0)) for a, high in ends]
    over = (Axis(size, a.window, a.stride, a.dilation, min(a.low, 0), min(high, 0)) for a, high, size in drawn)
    inside = (Axis(a.size, 1, low=max(a.low, 0), high=max(high, 0)) for a, high in ends)
    return tuple(over), tuple(inside)


def _geometry(axes: Sequence[Axis], channels: Index, order: str = "row_major") -> Model:
    """windows[o][k]: the cell of the frame on which window element k of output o lies; inside: the input's cell there
    (-1 for padding); order: the window's elements as ties are resolved."""
    over, inside = frame(axes)
    shape = outputs(inside)
    return {
        "windows": flat_table(over).tolist(),
        "inside": flat_table(inside)[:, 0].tolist(),
        "order": [offset for offset, _ in taps(axes, order)],
        "cells": volume([a.size for a in axes]),
        "frame": _grid(channels, shape, tuple(a.low for a in inside)),
    }


def _grid(channels: Index, spatial: Index, before: Index = ()) -> Model:
    """How a tensor is drawn: matrices of rows and columns, with a heading each where there are several."""
    rows, columns = spatial[-2:] if len(spatial) > 1 else (1, *spatial)
    panels = [headings(channels, at, before) for at in np.ndindex(*channels, *spatial[:-2])]
    across = channels[1] if len(channels) > 1 else 1 + (len(panels) > 3)
    return {"panels": panels, "rows": rows, "columns": columns, "across": across}


def _tensor(symbol: Callable[..., Symbol], channels: Index, spatial: Index, array: Any) -> Model:
    """A tensor, channels first, with the index of each of its symbols."""
    n = len(channels)
    symbols = [symbol(at[:n], at[n:]) for at in np.ndindex(*channels, *spatial)]
    values = None
    if array is not None:  # (*spatial, channels), channels before kernels
        array = np.asarray(array)
        values = array.transpose(*reversed(range(array.ndim - n, array.ndim)), *range(array.ndim - n)).ravel().tolist()
    letter = symbols[0].name
    labels = [s.index for s in symbols]
    return {"letter": letter, "word": WORDS[letter], "labels": labels, "values": values, **_grid(channels, spatial)}


def section(model: Model | None) -> str:
    """The part of the page and its script; a sentence where the layer is too large."""
    if model is None:
        return f'<p class="more">Too large to be stepped through: {CELLS:,} numbers, {TERMS:,} products at most.</p>'
    data = json.dumps(model, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
    script = files("fnconv.show").joinpath("interactive.js").read_text("utf-8")
    return f"""<section class="live" aria-label="The layer, step by step">
<script type="application/json">{data}</script>
<noscript><p>Stepping through the layer needs JavaScript; all that follows does not.</p></noscript>
</section>
<script>{script}</script>"""
