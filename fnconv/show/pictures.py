"""The three pictures of Notes: insert zeros, pad, correlate with rot180; and the kernel's gradient as a correlation."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnconv.base.geometry import Axis, inserted_size
from fnconv.ops import functional as ops
from fnconv.show import texts
from fnconv.show.blocks import Block, Formula, Matrix, Prose, Section
from fnconv.show.layer import Layer
from fnconv.show.relation import Index
from fnconv.show.symbols import Expression, Number
from fnconv.show.tensors import Entry, shape_of, side_by_side, slices


def sections(layer: Layer, values: bool) -> list[Section]:
    return [_input_gradient(layer, values), _kernel_gradient(layer, values)]


# ---- the entries of the pictures, for channel and kernel 1 -----------------------------------------------------------


class Pictures:
    """δ with zeros inserted, the same padded, rot180(W), the padded input: shapes and entries."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.axes = layer, layer.spec.axes
        self.inserted = tuple(inserted_size(a.output, a.stride) for a in self.axes)
        self.padded = tuple(a.padded + a.span - 1 for a in self.axes)
        self.result = tuple(a.padded for a in self.axes)
        self._back = tuple(a.weight_gradient() for a in self.axes)
        self.covered = tuple(a.low + a.size + a.high for a in self._back)

    def with_zeros(self, n: Index) -> Expression | None:
        """Entry n of δ with stride - 1 zeros between neighbours."""
        if any(i < 0 or i >= size or i % a.stride for i, size, a in zip(n, self.inserted, self.axes, strict=True)):
            return None
        return self.layer.delta((0,), tuple(i // a.stride for i, a in zip(n, self.axes, strict=True)))

    def with_rim(self, n: Index) -> Expression | None:
        """The same behind span - 1 zeros; what is left over of the input makes the rim wider at the high end."""
        return self.with_zeros(tuple(i - a.span + 1 for i, a in zip(n, self.axes, strict=True)))

    def rotated(self, k: Index) -> Expression:
        return self.layer.W((0, 0), tuple(a.window - 1 - i for i, a in zip(k, self.axes, strict=True)))

    def padded_input(self, n: Index) -> Expression | None:
        """The input as the kernel's gradient needs it: padded, cells that are left over cut off."""
        i = tuple(at - a.low for at, a in zip(n, self._back, strict=True))
        return self.layer.I((0,), i) if all(0 <= c < a.size for c, a in zip(i, self.axes, strict=True)) else None

    def padded_gradient(self) -> Any:
        """dL/d(padded I), (*padded, channels)."""
        a, shape = self.layer.arrays, (*self.result, self.layer.spec.in_channels)
        return np.asarray(ops.conv_input_vjp(a["δ"], a["W"], shape, **self.layer.options))


# ---- sections -------------------------------------------------------------------------------------------------------


def _input_gradient(layer: Layer, values: bool) -> Section:
    p, axes = Pictures(layer), layer.spec.axes
    rim = ", ".join(sorted({str(a.span - 1) for a in axes}))
    left_over = ", and by the left-over cells more at the high end" if any(a.leftover for a in axes) else ""
    dilated = f" dilated by {', '.join(str(a.dilation) for a in axes)}" if any(a.dilation > 1 for a in axes) else ""
    result = f"{shape_of(p.result)}, the gradient of the padded input" if _pads(axes) else "∂L/∂I"
    zeros = ", ".join(dict.fromkeys(str(a.stride - 1) for a in axes))
    none = ", none here" if p.inserted == layer.relation.output else ""
    steps: list[Block] = [
        Formula(
            "∂L/∂I = crop( pad( δ with zeros ) * rot180(W) ), at stride 1",
            r"\frac{\partial L}{\partial I} = \mathrm{crop}\left(\mathrm{pad}(\delta \text{ with zeros}) * "
            r"\mathrm{rot180}(W)\right)",
            ("Notes 2.3",),
        ),
        Prose(f"1. Insert stride - 1 = {zeros} zeros between neighbours of δ{none}: {shape_of(p.inserted)}."),
        side_by_side(_draw(layer, values, "δ with zeros", p.inserted, p.with_zeros)),
        Prose(f"2. Pad it by span - 1 = {rim} on every side{left_over}: {shape_of(p.padded)}."),
        side_by_side(_draw(layer, values, "padded", p.padded, p.with_rim)),
        Prose(f"3. Correlate it with rot180(W){dilated} at stride 1: {result}."),
    ]
    if not values:
        steps.append(side_by_side("padded *", _draw(layer, False, "rot180(W)", layer.relation.window, p.rotated)))
    steps += _input_numbers(layer, p, values) if layer.numeric else []
    return Section("The gradient of the input as a correlation", (*steps, *texts.slips(layer, "pictures")))


def _input_numbers(layer: Layer, p: Pictures, values: bool) -> list[Block]:
    """Step 3 with numbers, and what is left behind the padding."""
    axes, window = layer.spec.axes, layer.relation.window
    name = "∂L/∂I padded" if _pads(axes) else "∂L/∂I"
    steps: list[Block] = [] if values else [Prose(f"With numbers (random integers, seed {layer.seed}):")]
    padded = _draw(layer, True, "padded", p.padded, p.with_rim)
    rotated = _draw(layer, True, "rot180(W)", window, p.rotated)
    steps.append(side_by_side(padded, "*", rotated, *_result(layer, name, p.result, p.padded_gradient())))
    if _pads(axes):
        sides = "; ".join(dict.fromkeys(f"{a.low} low, {a.high} high" for a in axes))
        back = ", put zeros where a negative one cut off" if any(min(a.low, a.high) < 0 for a in axes) else ""
        steps.append(Prose(f"4. Take off the padding ({sides}){back}: {shape_of(layer.relation.input)}."))
        steps.append(side_by_side(*_result(layer, "∂L/∂I", layer.relation.input, layer.arrays["dI"])[1:]))
    return steps


def _kernel_gradient(layer: Layer, values: bool) -> Section:
    p, axes = Pictures(layer), layer.spec.axes
    at = ", ".join(dict.fromkeys(str(a.dilation) for a in axes))
    cut = ", less the cells that are left over" if any(a.leftover for a in axes) else ""
    steps: list[Block] = [
        Formula(
            f"∂L/∂W = pad(I) * (δ with zeros), at stride {at}",
            r"\frac{\partial L}{\partial W} = \mathrm{pad}(I) * (\delta \text{ with zeros})",
            ("Notes 3",),
        ),
        Prose(f"δ with its zeros is now the kernel; it runs over the padded input{cut}."),
    ]
    for numeric in (True,) if values else (False, True) if layer.numeric else (False,):
        of = _result(layer, "∂L/∂W", layer.relation.window, layer.arrays["dW"]) if numeric else ()
        steps.append(
            side_by_side(
                _draw(layer, numeric, "I, padded" if _pads(axes) else "I", p.covered, p.padded_input),
                "*",
                _draw(layer, numeric, "δ with zeros", p.inserted, p.with_zeros),
                *of,
            )
        )
    return Section("The gradient of the kernel as a correlation", (*steps, *texts.slips(layer, "kernel pictures")))


def _pads(axes: tuple[Axis, ...]) -> bool:
    return any(a.low or a.high for a in axes)


def _draw(layer: Layer, values: bool, name: str, shape: Index, entry: Any) -> list[Matrix]:
    """A picture in symbols or in numbers; of several channels and kernels the first."""

    def put(_: Index, i: Index) -> Expression | None:
        e = entry(i)
        return None if e is None else layer.put(e, values)

    several = layer.spec.in_channels > 1 or layer.spec.out_channels > 1
    return slices(name + (" (channel 1)" if several else ""), (), shape, put)


def _result(layer: Layer, name: str, shape: Index, array: Any) -> tuple[str | list[Matrix], ...]:
    """ "= the gradient of channel 1", to which with several kernels each adds a correlation."""
    several = layer.spec.in_channels > 1 or layer.spec.out_channels > 1
    table = np.asarray(array)

    def entry(_: Index, i: Index) -> Expression:
        return Number(float(table[(*i, *(0,) * (table.ndim - len(i)))]))

    equals: Entry = entry
    drawn = slices(name + (" (channel 1)" if several else ""), (), shape, equals)
    more = name.startswith("∂L/∂I") and len(layer.kernels_of_input(0)) > 1  # kernels than the one that is drawn
    return ("+ … =" if more else "=", drawn)
