"""Convolution, its two gradients as functions of their own, transposed convolution, the fully connected layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.own import references
from fnconv.judge.own.bounds import Multilinear
from fnconv.judge.own.case import INTEGERS, NORMAL, Arrays, Case, Function
from fnconv.judge.own.references import Window
from fnconv.ops import functional as ops

BATCH = 2
SAMPLES = (INTEGERS, NORMAL)


@dataclass(frozen=True)
class Conv:
    """A convolution: its window, its channels, and how the public function is given its arrays."""

    window: Window
    channels: tuple[int, int] = (2, 3)
    groups: int = 1
    layout: str = "channels_last"
    batch: tuple[int, ...] = (BATCH,)

    @property
    def kernel(self) -> tuple[int, ...]:
        return (*self.window.window, self.channels[0] // self.groups, self.channels[1])

    @property
    def x(self) -> tuple[int, ...]:
        return (*self.batch, *self.window.size, self.channels[0])

    @property
    def y(self) -> tuple[int, ...]:
        return (*self.batch, *self.window.output, self.channels[1])

    def options(self, rule: Any) -> dict[str, Any]:
        return {**self.window.options(), "groups": self.groups, "layout": self.layout, "rule": rule}

    def __str__(self) -> str:
        parts = [str(self.window), f"channels {self.channels[0]}->{self.channels[1]}"]
        if self.groups > 1:
            parts.append(f"groups {self.groups}")
        if self.layout != "channels_last":
            parts.append(self.layout)
        if len(self.batch) != 1:
            parts.append(f"batch {self.batch}")
        return ", ".join(parts)


CONVOLUTIONS = (
    Conv(Window((9,), (2,), 3, ((-1, 1),))),  # cropped, a stride beyond the window, a leftover element
    Conv(Window((4, 5), (2, 2), (2, 1), ((2, 0), (0, 3)))),  # asymmetric, as large as the kernel
    Conv(Window((7,), (3,), 2, "INPUT_SIZE"), batch=()),
    Conv(Window((5, 4), (2, 3), (2, 1), "SAME"), (4, 4), groups=2),
    Conv(Window((4, 3), (2, 2), 1, "FULL", dilation=(2, 1)), (2, 4), groups=2),  # depthwise, channel multiplier 2
    Conv(Window((5, 4), (2, 2), 2, "SAME_LOWER", dilation=(1, 2)), (1, 2)),
    Conv(Window((3, 4, 2), (2, 1, 2), (1, 2, 1), (1, 0, 1))),
    Conv(Window((4, 3), (1, 1), (2, 1)), layout="channels_first", batch=(2, 1)),
)
MAPS_CHECKED = (CONVOLUTIONS[0], CONVOLUTIONS[3], CONVOLUTIONS[1])


# (conv transposed, its window.size being that of the result; output_padding)
TRANSPOSED = (
    (Conv(Window((9,), (3,), 2, ((1, 0),))), (1,)),
    (Conv(Window((6, 4), (2, 3), 2, "SAME"), (4, 2), groups=2), (0, 0)),
    (Conv(Window((6, 5), (2, 2), (1, 3), (0, 1), dilation=(3, 1)), layout="channels_first"), (1, 2)),
)


def cases() -> Iterator[Case]:
    """All cases of this module."""
    yield from map(conv, CONVOLUTIONS)
    yield from map(input_vjp, MAPS_CHECKED)
    yield from map(weight_vjp, MAPS_CHECKED)
    for c, output_padding in TRANSPOSED:
        yield conv_transpose(c, output_padding)
    yield dense((3, 4), (2, 3))
    yield dense((2, 2, 5), (5, 4))
    yield flatten()


# ---- one case -------------------------------------------------------------------------------------------------------


def conv(c: Conv) -> Case:
    def reference(g: Window, x: Any, w: Any, b: Any) -> jax.Array:
        return references.conv(g, one_batch(x, c), w, groups=c.groups).reshape(c.y) + b

    operands = {"x": c.x, "w": c.kernel, "b": c.kernel[-1:]}
    maps = {"y": "forward", "dx": "input_vjp", "dw": "weight_vjp", "db": "bias"}
    return _case("conv", c, in_layout(c, ops.conv), reference, operands, maps)


def input_vjp(c: Conv) -> Case:
    """The gradient in x as a function: its own gradients are the forward and the weight map."""

    def reference(g: Window, dy: Any, w: Any) -> jax.Array:
        return references.conv_input_vjp(g, dy, w, c.channels[0], groups=c.groups)

    def manual(rule: Any) -> Function:
        return lambda dy, w: ops.conv_input_vjp(dy, w, c.x, **c.options(rule))

    maps = {"dx": "input_vjp", "ddy": "forward", "dw": "weight_vjp"}
    return _case("conv_input_vjp", c, manual, reference, {"dy": c.y, "w": c.kernel}, maps)


def weight_vjp(c: Conv) -> Case:
    """The gradient in w as a function: its own gradients are the input and the forward map."""

    def reference(g: Window, x: Any, dy: Any) -> jax.Array:
        return references.conv_weight_vjp(g, x, dy, groups=c.groups)

    def manual(rule: Any) -> Function:
        return lambda x, dy: ops.conv_weight_vjp(x, dy, c.window.window, **c.options(rule))

    maps = {"dw": "weight_vjp", "dx": "input_vjp", "ddy": "forward"}
    return _case("conv_weight_vjp", c, manual, reference, {"x": c.x, "dy": c.y}, maps)


def conv_transpose(c: Conv, output_padding: tuple[int, ...]) -> Case:
    """The reference takes output_padding off the high padding: the last window then ends where it has to."""
    pads = tuple((low, high - extra) for (low, high), extra in zip(c.window.pads, output_padding, strict=True))
    window = replace(c.window, padding=pads) if any(output_padding) else c.window

    def reference(g: Window, x: Any, w: Any, b: Any) -> jax.Array:
        return references.conv_input_vjp(g, x, w, c.channels[0], groups=c.groups) + b

    operands = {"x": (*c.batch, *window.output, c.channels[1]), "w": c.kernel, "b": c.channels[:1]}
    maps = {"y": "input_vjp", "dx": "forward", "dw": "weight_vjp", "db": "bias"}
    manual = in_layout(c, partial(ops.conv_transpose, output_padding=output_padding))
    case = _case("conv_transpose", replace(c, window=window), manual, reference, operands, maps)
    return replace(case, geometry=f"transpose of {c}, output_padding {output_padding}")


def _case(
    name: str,
    c: Conv,
    manual: Callable[[Any], Function],
    reference: Callable[..., jax.Array],
    operands: Mapping[str, tuple[int, ...]],
    maps: Mapping[str, str],
) -> Case:
    """reference: of a window and the operands.  maps: of the value, then of the gradients."""
    kernel = 1 if "w" in operands else None
    features = (result for result, map_ in maps.items() if map_ in ("forward", "input_vjp"))
    return Case(
        name,
        str(c),
        manual,
        partial(reference, c.window),
        operands,
        Multilinear(rounded={"y": 1} if "b" in operands else {}),
        SAMPLES,
        value=next(iter(maps)),
        rules="conv",
        maps=maps,
        alternatives=mistakes(c.window, reference, kernel=kernel),
        components=None if kernel is None else partial(_kernel_elements, kernel),
        batched=batched(c, *features),
    )


def dense(x: tuple[int, ...], w: tuple[int, ...]) -> Case:
    x = (*x[:-1], w[0])
    return Case(
        "dense",
        f"{x} times {w}",
        lambda rule: ops.dense,
        lambda x, w, b: jnp.matmul(x, w) + b,
        {"x": x, "w": w, "b": w[1:]},
        Multilinear(rounded={"y": 1}),
        SAMPLES,
    )


def flatten() -> Case:
    return Case(
        "flatten",
        "(2, 3, 2)",
        lambda rule: ops.flatten,
        lambda x: x.reshape(2, 6),
        {"x": (2, 3, 2)},
        Multilinear(),
        SAMPLES,
    )


# ---- layouts, mistakes ----------------------------------------------------------------------------------------------


def one_batch(x: Any, c: Conv) -> Any:
    return x.reshape(-1, *x.shape[len(c.batch) :])


def in_layout(c: Conv, operation: Callable[..., jax.Array]) -> Callable[[Any], Function]:
    """A public function of x, w and b, given them in the layout of c."""

    def manual(rule: Any) -> Function:
        def function(x: Any, w: Any, *b: Any) -> jax.Array:
            if c.layout == "channels_last":
                return operation(x, w, *b, **c.options(rule))
            n = len(c.batch)
            x, w = jnp.moveaxis(x, -1, n), jnp.moveaxis(w, (-1, -2), (0, 1))
            return jnp.moveaxis(operation(x, w, *b, **c.options(rule)), n, -1)

        return function

    return manual


def batched(c: Conv, *names: str) -> frozenset[str]:
    return frozenset(names) if len(c.batch) == 1 else frozenset()


def mistakes(
    window: Window, reference: Callable[..., jax.Array], *, kernel: int | None = None
) -> Mapping[str, Function]:
    """The reference with the kernel rotated, or with low and high padding exchanged."""
    mistakes: dict[str, Function] = {}
    if kernel is not None:

        def rotated(*operands: Any) -> jax.Array:
            w = operands[kernel]
            flipped = jnp.flip(w, tuple(range(w.ndim - 2)))
            return reference(window, *operands[:kernel], flipped, *operands[kernel + 1 :])

        mistakes["the kernel is turned by 180 degrees: rot180 missing, or one too many"] = rotated
    return mistakes | {text: partial(reference, swapped) for text, swapped in window.swapped().items()}


def _kernel_elements(kernel: int, operands: Arrays) -> Mapping[str, Arrays]:
    """All but one window element set to zero."""
    w = operands[kernel]
    parts = {}
    for k in product(*map(range, w.shape[:-2])):
        alone = np.zeros_like(w)
        alone[k] = w[k]
        parts[f"kernel element {k}"] = (*operands[:kernel], alone, *operands[kernel + 1 :])
    return parts
