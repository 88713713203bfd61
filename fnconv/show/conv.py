"""`show.conv`: a convolution and its gradients, every element written out."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnconv.base.errors import invalid
from fnconv.base.spec import ConvSpec
from fnconv.base.typing import IntOrTuple, Padding
from fnconv.rules import available
from fnconv.show import conv_sections, interactive, numbers
from fnconv.show.blocks import Section
from fnconv.show.layer import Layer
from fnconv.show.numbers import Numbers, ShapeOrNumbers
from fnconv.show.page import Page
from fnconv.show.pool import pool
from fnconv.show.tensors import shape_of, with_channels


def conv(
    input: ShapeOrNumbers,
    kernel: ShapeOrNumbers,
    *,
    cotangent: Numbers | None = None,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    channels: int = 1,
    out_channels: int = 1,
    groups: int = 1,
    values: bool = False,
    seed: int = 0,
    pooling: bool = False,
) -> Page:
    """One convolution written out: forward, the index map m, φ, C, M, and every gradient element by element.

    Args:
      input: the spatial shape of the input, such as (3, 3); or its numbers, an array or a .npy file of shape
        (*spatial, channels), where one channel's axis may be missing.
      kernel: the shape of the window; or numbers (*window, channels / groups, out_channels), of which axes of
        length 1 may be missing.
      cotangent: numbers for δ = dL/dO, (*output, out_channels); random integers where they are asked for and not given.
      strides, padding, dilation, groups: as in `fnconv.conv`.
      channels, out_channels: those of the input and of the output, where arrays do not say.
      values: write numbers for the symbols; they are computed by `fnconv.conv` and its gradients.  True where an
        array is given.
      seed: of the random integers.
      pooling: go on with max pooling of the same windows, as Small does.

    Returns:
      a `Page`: text when printed, HTML in a notebook, LaTeX by `.to_latex()`.

    Raises:
      ValueError, TypeError: as `fnconv.conv`.

    >>> print(conv((3, 3), (2, 2)).find("∂L/∂I_12"))
    ∂L/∂I_12 = δ_11·W_12 + δ_12·W_11
    """
    geometry: dict[str, Any] = {"strides": strides, "padding": padding, "dilation": dilation}
    layer = _layer(input, kernel, cotangent, seed, channels, out_channels, groups=groups, **geometry)
    values = values or bool(layer.given)
    spec, r = layer.spec, layer.relation
    title = f"Convolution of {with_channels(r.input, spec.in_channels)} with {shape_of(r.window)} kernels"
    title += f", giving {with_channels(r.output, spec.out_channels)}"
    sections = conv_sections.sections(layer, values)
    if pooling:
        options: dict[str, Any] = {**geometry, "values": values}
        if spec.in_channels == spec.out_channels:
            options["cotangent"] = cotangent
        for part in pool(input, r.window, channels=spec.in_channels, seed=seed, **options).sections[1:]:
            heading = f"Max pooling of the same windows: {part.title[0].lower()}{part.title[1:]}"
            sections.append(Section(heading, part.blocks))
    return Page(title, tuple(sections), lambda: interactive.section(interactive.conv(layer)))


def _layer(
    input: ShapeOrNumbers,
    kernel: ShapeOrNumbers,
    cotangent: Numbers | None = None,
    seed: int = 0,
    channels: int = 1,
    out_channels: int = 1,
    *,
    groups: int = 1,
    **geometry: Any,
) -> Layer:
    x, w = numbers.load(Layer.name, "input", input), numbers.load(Layer.name, "kernel", kernel)
    n = _spatial(x, w)
    size, window = (tuple(a.shape[:n] if isinstance(a, np.ndarray) else a) for a in (x, w))
    if isinstance(w, np.ndarray) and w.ndim == n + 2:
        channels, out_channels = w.shape[-2] * groups, w.shape[-1]
    if isinstance(x, np.ndarray) and x.ndim == n + 1:
        channels = x.shape[-1]
    shape = (1, *size, channels)
    if len(size) != len(window):
        raise invalid(Layer.name, "kernel", f"must have as many spatial dimensions as the input {size}", tuple(window))
    for argument, count in (("channels", channels), ("out_channels", out_channels)):
        if count < 1:
            raise invalid(Layer.name, argument, "must be at least 1", count)
    options: dict[str, Any] = {**geometry, "groups": groups, "rule": "auto", "precision": None}
    names = available.names("conv")
    spec = ConvSpec.from_args(Layer.name, shape, size, window, channels, out_channels, available=names, **options)
    if 0 in spec.y_shape(1):
        raise invalid(Layer.name, "kernel", "must fit into the padded input", tuple(window), shape)
    given: dict[str, numbers.Array] = {}
    if isinstance(x, np.ndarray):
        given["I"] = numbers.fit(Layer.name, "input", x, spec.x_shape(1)[1:], 1)
    if isinstance(w, np.ndarray):
        given["W"] = numbers.fit(Layer.name, "kernel", w, spec.w_shape, 2)
    given |= numbers.cotangent(Layer.name, cotangent, spec.y_shape(1)[1:])
    return Layer(spec, seed, given)


def _spatial(x: numbers.Given, w: numbers.Given) -> int:
    """Spatial dimensions: a shape has one entry for each; of two arrays the axes of channels may be missing."""
    if not isinstance(x, np.ndarray):
        return len(x)
    if not isinstance(w, np.ndarray):
        return len(w)
    return {0: x.ndim, 1: x.ndim - 1, 2: x.ndim}.get(w.ndim - x.ndim, w.ndim)
