"""Where a page is an example of one of the texts: what that text prints otherwise."""

from __future__ import annotations

from fnconv.show.blocks import Slip
from fnconv.show.layer import Layer

SMALL = ((3, 3), (2, 2), ((1, 1, 0, 0),) * 2)
NOTES_LEFTOVER = ((5, 5), (2, 2), ((2, 1, 0, 0),) * 2)
NOTES_SAME = ((5, 5), (3, 3), ((2, 1, 3, 3),) * 2)
NOTES_UPDATE = ((4, 4), (2, 2), ((2, 1, 0, 0),) * 2)
NOTES_SEVEN = ((4, 4), (2, 2), ((3, 1, 3, 4),) * 2)

SLIPS = {
    (SMALL, "forward"): "Small writes b both for the bias and for a summation index; here r, s run over the kernel.",
    (SMALL, "input"): (
        "Small, (iii), prints ∂L/∂I_12 = δ_11·W_22 + δ_12·W_11.  The first weight is W_12: output 11 meets I_12 "
        "with its element 12.  Its other eight are as here."
    ),
    (NOTES_LEFTOVER, "input"): (
        "Notes prints δ_12 of the layer before as w_12·δ_12.  It is w_12·δ_11, as ∂L/∂I_12 above: window 12 starts "
        "at column 3.  The row and column 5 are left over, and 0."
    ),
    (NOTES_SAME, "pictures"): (
        "Notes' own numbers: 11×11 after padding by 3, 5×5 outputs, 9×9 with zeros, 13×13 after padding by 2; the "
        "middle 5×5 of the result is the gradient."
    ),
    (NOTES_UPDATE, "kernel"): (
        "Notes prints a^{L+1} with one index each, twice.  The input is a^L, this layer's own, once, with both indices."
    ),
    (NOTES_SEVEN, "pictures"): "Notes pads by 3 = (11 - 4)/2 on each side; 7 is odd, so that the sides are 3 and 4.",
}


def example(layer: Layer) -> tuple[object, ...] | None:
    """What identifies a geometry of one channel."""
    spec = layer.spec
    if spec.in_channels > 1 or spec.out_channels > 1:
        return None
    axes = tuple((a.stride, a.dilation, a.low, a.high) for a in spec.axes)
    return layer.relation.input, layer.relation.window, axes


def slips(layer: Layer, part: str) -> tuple[Slip, ...]:
    """What the text whose example this is prints otherwise, in one part of the page."""
    text = {key: text for (where, key), text in SLIPS.items() if where == example(layer)}.get(part)
    return (Slip(text),) if text else ()
