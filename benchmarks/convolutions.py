"""The three maps of a layer, as functions of (x, w, dy), of JAX's automatic gradients, of fnconv, and of Torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fnconv
from benchmarks.cases import Layer

Conv = Callable[[jax.Array, jax.Array], jax.Array]
Maps = Mapping[str, Callable[..., Any]]


def in_lax(layer: Layer) -> Conv:
    """The layer by `lax`, whose gradients are automatic."""
    letters = "DHW"[3 - len(layer.size) :]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    strides, axes = (layer.stride,) * len(layer.size), len(layer.size)
    if layer.transposed:
        pads = [(k - 1 - layer.padding,) * 2 for k in layer.window]
        return lambda x, w: lax.conv_transpose(x, w, strides, pads, dimension_numbers=numbers, transpose_kernel=True)
    return lambda x, w: lax.conv_general_dilated(
        x,
        w,
        strides,
        [(layer.padding,) * 2] * axes,
        rhs_dilation=(layer.dilation,) * axes,
        dimension_numbers=numbers,
        feature_group_count=layer.groups,
    )


def in_fnconv(layer: Layer, rule: Any = "auto") -> Conv:
    """The layer by fnconv's public function."""
    options = {"strides": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    function = fnconv.conv_transpose if layer.transposed else fnconv.conv
    return lambda x, w: function(x, w, rule=rule, **options)


def maps(conv: Conv) -> Maps:
    """The value, and of the gradients only the one that is asked for."""
    return {
        "fwd": lambda x, w, dy: conv(x, w),
        "dW": lambda x, w, dy: jax.vjp(lambda w: conv(x, w), w)[1](dy)[0],
        "dX": lambda x, w, dy: jax.vjp(lambda x: conv(x, w), x)[1](dy)[0],
    }


def shapes(layer: Layer) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Of x, w and dy."""
    x, w = (jax.ShapeDtypeStruct(s, jnp.dtype(layer.dtype)) for s in (layer.x_shape, layer.w_shape))
    return x, w, jax.eval_shape(in_lax(layer), x, w)


def arrays(layer: Layer, draw: Callable[[tuple[int, ...]], np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(draw(s.shape).astype(s.dtype) for s in shapes(layer))


# ---- Torch ----------------------------------------------------------------------------------------------------------


class InTorch:
    """The maps of a layer as Torch computes them, for operands in one of its memory formats."""

    def __init__(self, layer: Layer, operands: tuple[np.ndarray, ...], channels_last: bool) -> None:
        import torch

        self.torch, self.layer, self.axes = torch, layer, len(layer.size)
        formats = {2: torch.channels_last, 3: torch.channels_last_3d}
        memory = formats[self.axes] if channels_last else torch.contiguous_format
        x, w, dy = (a.astype(np.float32) for a in operands)
        dtype = getattr(torch, layer.dtype)
        first = (np.moveaxis(x, -1, 1), np.moveaxis(w, (-1, -2), (0, 1)), np.moveaxis(dy, -1, 1))
        self.x, self.w, self.dy = (
            torch.tensor(np.ascontiguousarray(a)).to(dtype).contiguous(memory_format=memory) for a in first
        )

    def thunk(self, map_: str) -> Callable[[], Any]:
        torch, layer, n = self.torch, self.layer, self.axes
        steps = ([layer.stride] * n, [layer.padding] * n, [layer.dilation] * n, layer.transposed, [0] * n, layer.groups)
        if map_ == "fwd":
            return lambda: torch.ops.aten.convolution(self.x, self.w, None, *steps)
        wanted, place = [map_ == "dX", map_ == "dW", False], 0 if map_ == "dX" else 1
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(self.dy, self.x, self.w, None, *steps, wanted)[place]

    def result(self, map_: str) -> np.ndarray:
        """In the order of axes that JAX has."""
        found = self.thunk(map_)().float().numpy()
        return np.moveaxis(found, (0, 1), (-1, -2)) if map_ == "dW" else np.moveaxis(found, 1, -1)


def torch_formats(layer: Layer) -> tuple[bool, ...]:
    """Whether channels are last in memory: for every format that Torch has for this number of axes."""
    return (False, True) if len(layer.size) in (2, 3) else (False,)
