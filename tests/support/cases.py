"""Geometries: few and telling, in 1, 2 and 3 dimensions, and whole numbers that every dtype adds exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracles

from fnconv.base import dtypes

FLOATS = tuple(row.name for row in dtypes.FLOATS.values())
# a sum of integers is exact while no partial sum exceeds 2 ** (mantissa bits + 1)
EXACT = {row.name: int(1 / dtypes.unit_roundoff(row.dtype)) for row in dtypes.FLOATS.values()}


def random_integers(seed: Sequence[int], shape: Sequence[int], largest: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-largest, largest + 1, shape)


@dataclass(frozen=True)
class Geometry:
    """What conv and the poolings share; padding, strides, dilation in the words of the interface."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: Any = 1
    padding: Any = "VALID"
    dilation: Any = 1
    batch: tuple[int, ...] = (2,)
    layout: str = "channels_last"

    @property
    def sliding(self) -> dict[str, Any]:
        return {"strides": self.strides, "padding": self.padding, "dilation": self.dilation, "layout": self.layout}

    @property
    def images(self) -> int:
        return int(np.prod(self.batch))

    def steps(self, ceil_mode: bool = False) -> tuple[oracles.Steps, ...]:
        strides = self.window if self.strides is None else self.strides
        return oracles.resolve(self.size, self.window, strides, self.padding, self.dilation, ceil_mode)

    def arranged(self, a: np.ndarray) -> np.ndarray:
        """(N, *S, C) -> the batch axes and the layout of this case."""
        a = a.reshape(*self.batch, *a.shape[1:])
        return np.moveaxis(a, -1, len(self.batch)) if self.layout == "channels_first" else a

    def canonical(self, a: Any) -> np.ndarray:
        """The inverse of `arranged`."""
        a = np.asarray(a)
        a = np.moveaxis(a, len(self.batch), -1) if self.layout == "channels_first" else a
        return a.reshape(self.images, *a.shape[len(self.batch) :])


@dataclass(frozen=True)
class Conv(Geometry):
    inputs: int = 2
    outputs: int = 3
    groups: int = 1

    @property
    def options(self) -> dict[str, Any]:
        return {**self.sliding, "groups": self.groups}

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (*self.window, self.inputs // self.groups, self.outputs)

    def kernel(self, w: np.ndarray) -> np.ndarray:
        """(*K, in, out) -> the layout of this case."""
        return np.moveaxis(w, (-1, -2), (0, 1)) if self.layout == "channels_first" else w

    def canonical_kernel(self, w: Any) -> np.ndarray:
        return np.moveaxis(np.asarray(w), (0, 1), (-1, -2)) if self.layout == "channels_first" else np.asarray(w)

    def integers(self, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, w, b, dy, canonical, so small that the dtype adds them exactly: shown by adding the moduli."""
        steps = self.steps()
        shapes = (self.images, *self.size, self.inputs), self.w_shape, (self.outputs,)
        y_shape = (self.images, *oracles.outputs(steps), self.outputs)
        for largest in (4, 3, 2, 1):
            seeds = ([*map(ord, repr(self)), i] for i in range(4))
            x, w, b, dy = (
                random_integers(s, shape, largest) for s, shape in zip(seeds, (*shapes, y_shape), strict=True)
            )
            y, dx, dw = oracles.conv_maps(*map(np.abs, (x, w, dy)), steps, self.groups)
            sums = [y + np.abs(b), dx, dw, np.abs(dy).sum(axis=tuple(range(dy.ndim - 1)))]
            if max(s.max(initial=0) for s in sums) <= EXACT[dtype]:
                return x, w, b, dy
        raise AssertionError(f"{self} is too large for exact sums in {dtype}")


@dataclass(frozen=True)
class Pool(Geometry):
    channels: int = 2
    ceil_mode: bool = False

    @property
    def axes(self) -> tuple[oracles.Steps, ...]:
        return self.steps(self.ceil_mode)

    @property
    def options(self) -> dict[str, Any]:
        return {**self.sliding, "ceil_mode": self.ceil_mode}

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.images, *self.size, self.channels)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.images, *oracles.outputs(self.axes), self.channels)


CHANNELS_FIRST = {"layout": "channels_first"}

CONVS = {
    "1d": Conv((7,), (3,)),
    "1d leftover, no batch axis": Conv((9,), (3,), strides=4, batch=()),
    "1d SAME, dilated, grouped": Conv((8,), (3,), 2, "SAME", 2, inputs=4, outputs=6, groups=2, **CHANNELS_FIRST),
    "1d SAME_LOWER, even kernel": Conv((7,), (4,), 2, "SAME_LOWER"),
    "1d FULL, two batch axes": Conv((5,), (3,), 2, "FULL", batch=(2, 2), **CHANNELS_FIRST),
    "1d padding far larger than the kernel": Conv((4,), (2,), 1, ((5, 0),), batch=(1,)),
    "1d crop": Conv((9,), (3,), 2, ((-2, -1),)),
    "1d crop low, pad high": Conv((6,), (2,), 3, ((-3, 4),), 2),
    "2d": Conv((4, 5), (2, 3)),
    "2d Notes: 5x5, 2x2, stride 2": Conv((5, 5), (2, 2), 2),
    "2d Notes: same at stride 2": Conv((5, 5), (3, 3), 2, "INPUT_SIZE", batch=(1,)),
    "2d Notes: same at stride 3, sides differ": Conv((4, 4), (2, 2), 3, "INPUT_SIZE", **CHANNELS_FIRST),
    "2d SAME": Conv((5, 4), (3, 2), (2, 3), "SAME", batch=(), **CHANNELS_FIRST),
    "2d asymmetric as large as the kernel": Conv((3, 3), (2, 2), 1, ((2, 0), (2, 0))),
    "2d one side cropped, one padded": Conv((6, 5), (3, 2), (2, 1), ((-1, 3), (4, -2)), groups=2, outputs=4),
    "2d strides, dilations and sides all differ": Conv((7, 6), (2, 3), (2, 3), ((1, 2), (0, 3)), (3, 2)),
    "2d int padding, leftovers": Conv((6, 7), (3, 2), (2, 3), 1, batch=(1, 2)),
    "2d one int per axis": Conv((6, 4), (3, 3), 1, (0, 2), 2, **CHANNELS_FIRST),
    "2d depthwise, multiplier 2": Conv((4, 5), (2, 2), (1, 2), "SAME", inputs=3, outputs=6, groups=3),
    "2d depthwise": Conv((4, 4), (3, 2), 1, 1, inputs=3, outputs=3, groups=3, **CHANNELS_FIRST),
    "2d grouped, leftovers": Conv((5, 6), (2, 3), (2, 2), 0, 1, inputs=4, outputs=2, groups=2),
    "2d 1x1, stride 2": Conv((4, 5), (1, 1), 2),
    "1d groups of 8 channels": Conv((5,), (2,), 2, inputs=32, outputs=8, groups=4, batch=(1,)),
    "1d narrow groups": Conv((4,), (3,), 1, ((1, 0),), inputs=32, outputs=48, groups=16, batch=(1,)),
    "1d narrow groups, stride 2": Conv((5,), (2,), 2, ((0, 1),), inputs=32, outputs=16, groups=16, batch=(1,)),
    "2d one input channel, stride 2": Conv((6, 5), (3, 2), (2, 1), ((1, 0), (0, 1)), inputs=1),
    "2d full-size kernel": Conv((3, 4), (3, 4)),
    "2d stride larger than the kernel": Conv((7, 7), (2, 1), (4, 3), ((1, 0), (0, 0))),
    "3d": Conv((3, 3, 2), (2, 1, 2), (1, 2, 1), "FULL", batch=(1,)),
    "3d grouped": Conv((3, 4, 3), (2, 2, 1), (2, 1, 2), ((1, 0), (-1, 1), (0, 1)), 1, groups=2, outputs=4, batch=()),
    "3d dilated SAME": Conv((3, 4, 3), (2, 2, 2), (2, 1, 1), "SAME", (1, 2, 1), batch=(1,), **CHANNELS_FIRST),
}

# what is run in every dtype by default; all of CONVS is with -m slow
CONVS_IN_EVERY_DTYPE = (
    "1d SAME, dilated, grouped",
    "2d one side cropped, one padded",
    "2d strides, dilations and sides all differ",
)

POOLS = {
    "1d": Pool((6,), (2,), None),
    "1d overlap, leftover": Pool((8,), (3,), 2, batch=()),
    "1d dilated, two batch axes": Pool((7,), (3,), 1, "SAME", 2, batch=(2, 2), **CHANNELS_FIRST),
    "1d windows wholly in the padding": Pool((3,), (2,), 2, ((5, 4),)),
    "1d crop": Pool((8,), (2,), 2, ((-1, -2),)),
    "2d Notes: overlap and leftovers": Pool((5, 6), (3, 3), 2),
    "2d disjoint, leftovers": Pool((5, 7), (2, 3), None, **CHANNELS_FIRST),
    "2d disjoint, padded": Pool((4, 5), (2, 3), None, ((1, 0), (2, 1))),
    "2d SAME": Pool((4, 5), (3, 2), (2, 2), "SAME", batch=()),
    "2d SAME_LOWER": Pool((4, 5), (2, 2), (3, 1), "SAME_LOWER", **CHANNELS_FIRST),
    "2d dilated, asymmetric": Pool((6, 5), (2, 3), (2, 1), ((0, 2), (1, 2)), (3, 2)),
    "2d one side cropped, one padded": Pool((5, 5), (2, 2), (1, 2), ((-1, 2), (3, -1))),
    "2d ceil mode": Pool((5, 6), (2, 3), (2, 2), 0, ceil_mode=True),
    "2d ceil mode, padded": Pool((6, 7), (3, 3), (2, 3), 1, ceil_mode=True, **CHANNELS_FIRST),
    "2d ceil mode, a window past the input is not added": Pool(
        (3, 4), (1, 2), (3, 3), ((0, 1), (1, 1)), ceil_mode=True
    ),
    "2d stride larger than the window": Pool((7, 6), (2, 1), (3, 4)),
    "2d INPUT_SIZE": Pool((4, 3), (2, 2), (3, 2), "INPUT_SIZE", batch=(1,)),
    "3d": Pool((3, 4, 3), (2, 2, 2), (1, 2, 1), ((1, 0), (0, 1), (0, 0)), batch=(1,)),
    "3d ceil mode, dilated": Pool(
        (4, 3, 5), (2, 1, 2), (2, 1, 2), 0, (1, 1, 2), ceil_mode=True, batch=(1,), **CHANNELS_FIRST
    ),
}
