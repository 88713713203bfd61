"""Frozen, hashable descriptions of an operation; the only place where user input is checked.

Equal calls make equal specs, so nothing is traced twice.  A spec holds integers, tuples and strings only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from fnconv.base import dtypes, geometry
from fnconv.base.errors import MaybeShape, invalid, mistyped
from fnconv.base.geometry import AnyAxis, Axis
from fnconv.base.typing import TIES

REALS = (jnp.floating, jnp.integer)
CONV_MAPS = ("forward", "input_vjp", "weight_vjp")
POOL_MAPS = ("forward", "input_vjp")
LARGEST = 2**31 - 1  # positions are int32: entries of a geometry, cells of an image, padded or not, and of its output
DEFAULT_PRECISION = "jax_default_matmul_precision"  # mypy does not see that jax.config has it

NO_SEQUENCE = (Mapping, Set, bytes)  # of no order, or of no integers


# ---- values ---------------------------------------------------------------------------------------------------------


def as_array(function: str, argument: str, x: Any, *, integers: bool = True, clip: bool = False) -> jax.Array:
    """x as an array of a dtype that the operations take; integers only where the operation has a meaning for them."""
    x = native(function, argument, x, clip=clip)
    try:
        array = jnp.asarray(x)
    except OverflowError as error:  # a list
        raise invalid(function, argument, "must fit JAX's integers", error) from error
    except (TypeError, ValueError) as error:  # neither an array nor a list of numbers; a ragged list
        raise mistyped(function, argument, "must be an array", type(x).__name__) from error
    if dtypes.accepted(array.dtype, integers=integers):
        return array
    rule = f"must have dtype {dtypes.accepted_names(integers=integers)}"
    raise mistyped(function, argument, rule, array.dtype.name, array.shape, argument)


def native(function: str, argument: str, x: Any, *, clip: bool = False) -> Any:
    """A NumPy array as JAX takes it: in the machine's byte order, of integers that fit.

    Without jax_enable_x64 JAX would wrap 64-bit integers to 32 bits.  Those that do not fit are refused, or, where
    all of them mean the same, clipped.
    """
    if not isinstance(x, np.ndarray | np.generic):
        return x
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    if x.dtype.kind not in "iu":
        return x
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(x.dtype))
    beyond = np.asarray((x < limits.min) | (x > limits.max))
    if beyond.any() and not clip:
        rule = f"must fit {limits.dtype.name} while jax_enable_x64 is off"
        raise invalid(function, argument, rule, np.asarray(x)[beyond][0], x.shape, argument)
    return np.clip(x, limits.min, limits.max) if beyond.any() else x


def same_dtype(function: str, **arrays: jax.Array | None) -> None:
    """All operands share one dtype, as in lax: no silent promotion."""
    present = {name: a.dtype.name for name, a in arrays.items() if a is not None}
    if len(set(present.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in present.items())
        raise mistyped(function, " and ".join(present), "must have one dtype (cast with .astype)", listed)


def _integer(function: str, argument: str, value: Any, shape: MaybeShape, of: str = "x") -> int:
    if isinstance(value, bool):
        raise mistyped(function, argument, "must be integers", repr(value), shape, of)
    try:
        integer = operator.index(value)
    except (TypeError, jax.errors.JAXTypeError) as error:
        rule = "must be static integers (known at trace time)"
        raise mistyped(function, argument, rule, repr(value), shape, of) from error
    if abs(integer) > LARGEST:
        raise invalid(function, argument, f"must fit an int32, at most {LARGEST}", _written(integer), shape, of)
    return integer


def _written(integer: int) -> str:
    """An integer in digits, or its size where there are too many to read."""
    return str(integer) if abs(integer) < 10**40 else f"{'-' * (integer < 0)}1e{math.floor(math.log10(abs(integer)))}"


def number(function: str, argument: str, value: Any, shape: tuple[int, ...] | None = None) -> float:
    """A real number: Python's, NumPy's, or that of an array without axes."""
    if _is_real(value):
        with suppress(jax.errors.JAXTypeError):  # traced
            try:
                return float(value)
            except OverflowError:
                rule = "must not exceed the largest floating number"
                raise invalid(function, argument, rule, _written(value), shape) from None
    raise mistyped(function, argument, "must be a number known at trace time", repr(value), shape)


def _is_real(value: Any) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    return hasattr(value, "dtype") and np.ndim(value) == 0 and any(jnp.issubdtype(value.dtype, k) for k in REALS)


def is_scalar(value: Any) -> bool:
    return isinstance(value, str) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0


def per_axis(
    function: str, argument: str, value: Any, axes: int, shape: MaybeShape, *, minimum: int, of: str = "x"
) -> tuple[int, ...]:
    """One integer for all axes, or one entry per spatial axis."""
    if isinstance(value, NO_SEQUENCE):
        raise mistyped(function, argument, "must be an integer or a sequence of integers", repr(value), shape, of)
    if is_scalar(value):
        entries: tuple[int, ...] = (_integer(function, argument, value, shape, of),) * axes
    else:
        entries = tuple(_integer(function, argument, v, shape, of) for v in value)
    if len(entries) != axes:
        raise invalid(function, argument, "needs one entry per spatial dimension", entries, shape, of)
    if any(e < minimum for e in entries):
        raise invalid(function, argument, f"must be at least {minimum}", entries, shape, of)
    return entries


def spatial_shape(
    function: str, argument: str, value: Any, shape: tuple[int, ...], *, minimum: int, of: str = "x"
) -> tuple[int, ...]:
    """A shape with one entry per spatial dimension; an int is read as in `max_pool`."""
    axes = max(1, len(shape) - 2) if is_scalar(value) else len(value)
    entries = per_axis(function, argument, value, axes, shape, minimum=minimum, of=of)
    if is_scalar(value) and len(shape) == 3:
        rule = f"must tell how many axes are spatial: {entries} for one, or {entries * 2} for two and no batch axis"
        raise invalid(function, argument, rule, value, shape, of)
    if not 1 <= axes < len(shape):
        raise invalid(function, argument, "needs one entry per spatial dimension", entries, shape, of)
    check_volume(function, argument, entries, shape, of=of)
    return entries


def whole_shape(function: str, argument: str, value: Any) -> tuple[int, ...]:
    """The shape of an array, batch axes and channels included."""
    if is_scalar(value):
        raise mistyped(function, argument, "must be a sequence of integers", repr(value))
    if isinstance(value, list | tuple) and any(map(is_symbolic_dim, value)):  # of an export
        known = [0 if is_symbolic_dim(v) else v for v in value]
        per_axis(function, argument, known, len(known), None, minimum=0)
        return tuple(value)
    return per_axis(function, argument, value, len(value), None, minimum=0)


def paddings(function: str, padding: Any, axes: Sequence[Axis], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(low, high) of every axis from a name, an int, one int per axis, or pairs."""
    if isinstance(padding, str):
        if padding.upper() not in geometry.PADDING_NAMES:
            rule = f"must be one of {', '.join(geometry.PADDING_NAMES)}, an int, one int per axis, or (low, high) pairs"
            raise invalid(function, "padding", rule, repr(padding), shape)
        return tuple(geometry.named_padding(padding, a.size, a.span, a.stride) for a in axes)
    if is_scalar(padding):
        p = _integer(function, "padding", padding, shape)
        return ((p, p),) * len(axes)
    if isinstance(padding, NO_SEQUENCE) or any(isinstance(entry, NO_SEQUENCE) for entry in padding):
        raise mistyped(function, "padding", "must be in a tuple or a list, for their order", repr(padding), shape)
    entries = tuple(padding)
    if len(entries) != len(axes):
        raise invalid(function, "padding", "needs one entry per spatial dimension", padding, shape)
    pairs = []
    for entry in entries:
        pair = (entry, entry) if is_scalar(entry) else tuple(entry)
        if len(pair) != 2:
            raise invalid(function, "padding", "needs (low, high) pairs", padding, shape)
        low, high = (_integer(function, "padding", p, shape) for p in pair)
        pairs.append((low, high))
    return tuple(pairs)


def window_geometry(
    function: str,
    shape: tuple[int, ...],
    size: Sequence[int],
    window: Sequence[int],
    strides: Any,
    padding: Any,
    dilation: Any,
    *,
    ceil_mode: bool = False,
) -> tuple[Axis, ...]:
    """The checked axes of a sliding window over an input of the given spatial size."""
    n = len(window)
    s = per_axis(function, "strides", strides, n, shape, minimum=1)
    d = per_axis(function, "dilation", dilation, n, shape, minimum=1)
    axes = tuple(Axis(*geometry_) for geometry_ in zip(size, window, s, d, strict=True))
    pads = paddings(function, padding, axes, shape)
    axes = tuple(replace(a, low=low, high=high) for a, (low, high) in zip(axes, pads, strict=True))
    if any(a.padded < 0 for a in axes):
        pairs = tuple((a.low, a.high) for a in axes)
        raise invalid(function, "padding", "must not crop more than the input has", pairs, shape)
    _check_cells(function, axes, shape)
    if ceil_mode and any(a.high < 0 for a in axes):
        pairs = tuple((a.low, a.high) for a in axes)
        raise invalid(function, "padding", "must not crop the high end with ceil_mode", pairs, shape)
    # a stride beyond the image takes no second step, however long it is
    steps = (a.stride if geometry.is_symbolic(a.size) else min(a.stride, max(1, a.padded)) for a in axes)
    beyond = (geometry.ceil_overshoot(a) if ceil_mode else 0 for a in axes)
    return tuple(replace(a, stride=t, overshoot=o) for a, t, o in zip(axes, steps, beyond, strict=True))


def _check_cells(function: str, axes: Sequence[Axis], shape: tuple[int, ...]) -> None:
    """Positions in an image, padded or not, in its windows and in its output are int32."""
    counts = {
        "the image": geometry.sizes(axes),
        "the padded image": [a.padded for a in axes],
        "the dilated window": [a.span for a in axes],
        "the output": geometry.outputs(axes),
    }
    for what, sizes in counts.items():
        check_volume(function, what, sizes, shape)


def check_volume(
    function: str, argument: str, sizes: Sequence[int], shape: MaybeShape, most: int = LARGEST, of: str = "x"
) -> None:
    if not any(map(geometry.is_symbolic, sizes)) and geometry.volume(sizes) > most:
        raise invalid(function, argument, f"must have at most {most} cells", tuple(sizes), shape, of)


def check_flag(function: str, argument: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise mistyped(function, argument, "must be True or False", repr(value))
    return bool(value)


def rule_names(
    function: str, rule: Any, maps: Sequence[str], available: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """One formulation per map from a name for all maps or a mapping; maps left out are "auto"."""
    if isinstance(rule, str):
        chosen = dict.fromkeys(maps, rule)
    elif isinstance(rule, Mapping):
        unknown = [m for m in rule if m not in maps]
        if unknown:
            raise invalid(function, "rule", f"may name the maps {', '.join(maps)}", unknown)
        chosen = {m: rule.get(m, "auto") for m in maps}
    else:
        raise mistyped(function, "rule", "must be a name or a mapping from map to name", repr(rule))
    for m, name in chosen.items():
        if name != "auto" and name not in available[m]:
            raise invalid(function, "rule", f"for {m} must be one of auto, {', '.join(available[m])}", repr(name))
    return tuple(chosen[m] for m in maps)


def check_precision(function: str, precision: Any) -> Any:
    """A hashable lax precision, canonicalised so that equal requests make equal specs.

    None is what `jax.default_matmul_precision` says at this moment: a rule is lowered later, outside of its block.
    """
    if precision is None:
        precision = getattr(jax.config, DEFAULT_PRECISION)
    if precision is None or isinstance(precision, lax.Precision):
        return precision
    if isinstance(precision, str):
        try:
            return lax.Precision(precision)
        except ValueError:
            try:
                return lax.DotAlgorithmPreset[precision]
            except KeyError:
                pass
    if isinstance(precision, tuple | list) and len(precision) == 2:
        return tuple(check_precision(function, p) for p in precision)
    if isinstance(precision, lax.DotAlgorithmPreset):
        return precision
    raise invalid(function, "precision", "must be None, a lax.Precision or its name, or a pair", repr(precision))


# ---- convolution ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvSpec:
    """A convolution on canonical arrays: x (N, *S, in), w (*window, in / groups, out), y (N, *O, out).

    All three maps, the forward one and its two adjoints, take this one spec of the forward.
    """

    axes: tuple[Axis, ...]
    in_channels: int
    out_channels: int
    groups: int = 1
    rules: tuple[str, str, str] = ("auto", "auto", "auto")
    precision: Any = None

    def x_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, *geometry.sizes(self.axes), self.in_channels)

    def y_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, *geometry.outputs(self.axes), self.out_channels)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (*geometry.windows(self.axes), self.in_channels // self.groups, self.out_channels)

    def rule(self, map_: str) -> str:
        return self.rules[CONV_MAPS.index(map_)]

    @classmethod
    def from_args(
        cls,
        function: str,
        shape: tuple[int, ...],
        size: Sequence[int],
        window: Sequence[int],
        in_channels: int,
        out_channels: int,
        *,
        strides: Any,
        padding: Any,
        dilation: Any,
        groups: Any,
        rule: Any,
        precision: Any,
        available: Mapping[str, Sequence[str]],
    ) -> ConvSpec:
        """Check everything but the arrays; `shape` is the user's x or dy and serves the messages."""
        if any(k < 1 for k in window):
            raise invalid(function, "the kernel's window", "must be at least 1 on every axis", tuple(window), shape)
        axes = window_geometry(function, shape, size, window, strides, padding, dilation)
        groups = check_groups(function, groups, in_channels, out_channels, shape)
        names = rule_names(function, rule, CONV_MAPS, available)
        precision = check_precision(function, precision)
        return cls(axes, in_channels, out_channels, groups, (names[0], names[1], names[2]), precision)


def check_groups(function: str, groups: Any, in_channels: int, out_channels: int, shape: tuple[int, ...]) -> int:
    groups = _integer(function, "groups", groups, shape)
    if groups < 1:
        raise invalid(function, "groups", "must be at least 1", groups, shape)
    for name, channels in (("input", in_channels), ("output", out_channels)):
        if channels % groups:
            raise invalid(function, "groups", f"must divide the {channels} {name} channels", groups, shape)
    return groups


# ---- pooling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolSpec:
    """A pooling on canonical arrays: x (N, *S, C), y (N, *O, C).

    `ties` is read by max pooling, `include_pad` by average pooling, `p` by power-average pooling.
    """

    axes: tuple[AnyAxis, ...]
    ties: str = "row_major"
    include_pad: bool = True
    p: float = 2.0
    rules: tuple[str, str] = ("auto", "auto")

    @property
    def size(self) -> tuple[int, ...]:
        return geometry.sizes(self.axes)

    @property
    def output(self) -> tuple[int, ...]:
        return geometry.outputs(self.axes)

    def rule(self, map_: str) -> str:
        return self.rules[POOL_MAPS.index(map_)]

    @classmethod
    def from_args(
        cls,
        function: str,
        shape: tuple[int, ...],
        size: Sequence[int],
        window: Sequence[int],
        *,
        strides: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: Any,
        rule: Any,
        available: Mapping[str, Sequence[str]],
        ties: Any = "row_major",
        include_pad: Any = True,
        p: Any = 2.0,
    ) -> PoolSpec:
        ceil_mode = check_flag(function, "ceil_mode", ceil_mode)
        include_pad = check_flag(function, "count_include_pad", include_pad)
        if ties not in TIES:
            raise invalid(function, "ties", f"must be one of {', '.join(TIES)}", repr(ties), shape)
        p = number(function, "p", p, shape)
        if not 1 <= p < float("inf"):
            raise invalid(function, "p", "must be finite and at least 1 (max_pool is the limit)", p, shape)
        strides = window if strides is None else strides
        axes = window_geometry(function, shape, size, window, strides, padding, dilation, ceil_mode=ceil_mode)
        names = rule_names(function, rule, POOL_MAPS, available)
        return cls(axes, ties, include_pad, p, (names[0], names[1]))
