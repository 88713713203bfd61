"""What fnconv aims at, group by group: geometric means on two CPU cores, float32, default flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A group of rows, and how many times faster than autodiff and than Torch it is to be; `floor` for every row."""

    label: str
    command: str
    has: Callable[[Row], bool]
    autodiff: float | None = None
    torch: float | None = None
    floor: float | None = None
    tuned_torch: float | None = None  # with tune_cpu() on all sides


def _tagged(*tags: str, without: str = "", map_: str = "") -> Callable[[Row], bool]:
    return lambda row: (
        all(tag in row["tags"] for tag in tags) and without not in row["tags"] and map_ in ("", row["map"])
    )


def _named(*names: str) -> Callable[[Row], bool]:
    return lambda row: row["name"] in names


TARGETS: tuple[Target, ...] = (
    Target("17 convolutions, forward and both gradients", "layers", _tagged("51"), 2.6, 0.85, 0.95, 0.9),
    Target("the same without depthwise", "layers", _tagged("51", without="depthwise"), 1.8, 0.85),
    Target("depthwise, forward", "layers", _tagged("depthwise", map_="fwd"), 30, 0.6),
    Target("depthwise, weight gradient", "layers", _tagged("depthwise", map_="dW"), 12, 0.6),
    Target("depthwise, input gradient", "layers", _tagged("depthwise", map_="dX"), 40, 0.6),
    Target("grouped, forward", "layers", _tagged("grouped", map_="fwd"), 3.5, 0.5),
    Target("grouped, weight gradient", "layers", _tagged("grouped", map_="dW"), 50, 0.5),
    Target("grouped, input gradient", "layers", _tagged("grouped", map_="dX"), 4, 0.5),
    Target("other layers", "layers", _tagged("other")),
    Target("depthwise, two kernels a channel", "layers", _tagged("multiplier")),
    Target("max pooling, 64 channels or more, backward", "pools", _tagged("max", "wide", map_="bwd"), 30, 1.0),
    Target("all pools, forward + backward", "pools", _tagged(map_="fwd+bwd"), 5, 0.8, None, 1.0),
    Target("LeNet-5 step", "models", _named("LeNet-5"), 2.5, 0.9),
    Target("VGG-like step", "models", _named("VGG-like"), 1.7, 0.8),
    Target("ResNet-18 step", "models", _named("ResNet-18"), 1.5, 0.8),
    Target("ResNet-50 bottlenecks step", "models", _named("ResNet-50 bottlenecks")),
    Target("MobileNetV2-like and ConvNeXt-like steps", "models", _named("MobileNetV2-like", "ConvNeXt-like"), 10, 0.6),
)


RESIDUALS = {"LeNet-5": 0.4, "VGG-like": 0.4}  # at most, of what autodiff keeps; no other row keeps more than it


@dataclass(frozen=True)
class Standing:
    """Where a group stands: geometric means of times over fnconv's, and the row that gains least on autodiff."""

    target: Target
    autodiff: float
    torch: float | None
    worst: Row

    @property
    def least(self) -> float:
        return ratio(self.worst, "autodiff") or math.nan


def ratio(row: Row, side: str, of: str = "fnconv") -> float | None:
    """That side's time over fnconv's; above 1 fnconv is faster."""
    times = row["times"]
    return times[side]["ms"] / times[of]["ms"] if side in times and of in times else None


def geometric_mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def standings(command: str, rows: Iterable[Row]) -> list[Standing]:
    """For every target of a command of which there are rows."""
    rows, found = list(rows), []
    for target in (t for t in TARGETS if t.command == command):
        group = [row for row in rows if target.has(row)]
        if not group:
            continue
        torch = [r for row in group if (r := ratio(row, "torch")) is not None]
        found.append(
            Standing(
                target,
                geometric_mean(ratio(row, "autodiff") or math.nan for row in group),
                geometric_mean(torch) if len(torch) == len(group) else None,
                min(group, key=lambda row: ratio(row, "autodiff") or math.nan),
            )
        )
    return found


def share(row: Row, what: str) -> float | None:
    """fnconv's bytes over autodiff's; None where autodiff takes none, or XLA does not tell."""
    part, whole = (row["bytes"][side][what] for side in ("fnconv", "autodiff"))
    return part / whole if part is not None and whole else None


def verdict(figure: float | None, target: float | None, *, at_most: bool = False) -> str:
    """ "met", or by how much it is missed."""
    if figure is None or target is None:
        return ""
    if figure <= target if at_most else figure >= target:
        return "met"
    return f"missed by {100 * abs(1 - figure / target):.0f} %"
