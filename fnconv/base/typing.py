"""The types of public arguments; names that an argument may have are written here, and read from here by its check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from jax import lax
from jax.typing import ArrayLike as ArrayLike

from fnconv.base.geometry import PaddingName

IntOrTuple = int | Sequence[int]  # one for all spatial axes, or one for each
Padding = PaddingName | int | Sequence[int | tuple[int, int]]  # pairs are (low, high)
RuleNames = str | Mapping[str, str]  # a name of `available_rules()` or "auto"; or such a name for each map
Layout = Literal["channels_last", "channels_first"]
Ties = Literal["row_major", "column_major"]
Order = Literal["c", "matlab"]
Reduction = Literal["max", "avg"]
ChannelOrder = Literal["CRD", "DCR"]  # of what becomes space: the channel or the position in the block runs slowest
Modes = Literal["reverse", "both"]
Level = Literal["quick", "full"]

_Precisions = str | tuple[str, str] | lax.Precision | tuple[lax.Precision, lax.Precision] | lax.DotAlgorithmPreset
Precision = _Precisions | None

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
TIES: tuple[Ties, ...] = get_args(Ties)
ORDERS: tuple[Order, ...] = get_args(Order)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)
MODES: tuple[Modes, ...] = get_args(Modes)
LEVELS: tuple[Level, ...] = get_args(Level)
