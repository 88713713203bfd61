"""Layers that nothing was tuned for: drawn from what published networks hold, anew for every seed.

The weights and ranges follow the layers of ResNet, VGG, Inception, MobileNet, EfficientNet, ConvNeXt, ViT, U-Net,
DCGAN, DQN, WaveNet and video networks.  A draw is kept where its forward pass takes 0.02 to 4 GFLOP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import layers, pools
from benchmarks.cases import MAPS, Layer, Pool
from benchmarks.targets import geometric_mean, ratio
from benchmarks.timing import SMOKE, Budget, Case, Side

Row = dict[str, Any]
CHANNELS = (16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512)
SIZES = (7, 8, 14, 16, 28, 32, 40, 56, 64, 80, 112)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GFLOP = 0.02, 4.0  # of the forward pass


class Draw:
    """The choices that the kinds below make."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def one(self, values: Sequence[Any]) -> Any:
        return values[self.random.integers(len(values))]

    def conv(
        self, kind: str, window: int, stride: int = 1, axes: int = 2, *, padding: int | None = None, **given: Any
    ) -> Layer:
        """`given` where a kind fixes what is otherwise drawn."""
        dilation = given.get("dilation", 1)
        fields = {
            "batch": self.one(BATCHES),
            "size": (self.one(SIZES),) * axes,
            "channels": (self.one(CHANNELS), self.one(CHANNELS)),
            "padding": (window - 1) * dilation // 2 if padding is None else padding,
        } | given
        n, size, (c, d) = fields["batch"], fields["size"], fields["channels"]
        shape = "x".join(map(str, (window,) * axes)) + f"/{stride}" * (stride > 1) + f":{dilation}" * (dilation > 1)
        name = f"{kind} {shape} {n}x{'x'.join(map(str, size))} {c}-{d}"
        groups = fields.get("groups", 1)
        tags = {"conv", *(["groups"] if groups > 1 else [])}
        return Layer(
            name + f" in {groups}" * (1 < groups < c),
            window=(window,) * axes,
            stride=stride,
            tags=frozenset(tags),
            **fields,
        )

    def depthwise(self) -> Layer:
        c = self.one(CHANNELS)
        return self.conv("depthwise", self.one((3, 3, 5, 7)), self.one((1, 1, 2)), channels=(c, c), groups=c)

    def grouped(self) -> Layer:
        groups = self.one((2, 4, 8, 32))
        c, d = (groups * self.one((4, 8, 16, 32)) for _ in range(2))
        return self.conv("grouped", 3, self.one((1, 1, 2)), channels=(c, d), groups=groups)

    def stem(self) -> Layer:
        window, stride = self.one(((7, 2), (3, 1), (3, 2), (5, 1)))
        return self.conv(
            "stem",
            window,
            stride,
            size=(self.one((32, 64, 112, 128, 224)),) * 2,
            channels=(self.one((1, 3, 3, 4)), self.one(CHANNELS[:6])),
        )

    def patches(self) -> Layer:
        window, size = self.one(((16, 224), (14, 224), (4, 224), (4, 32), (8, 128)))
        return self.conv(
            "patches", window, window, padding=0, size=(size,) * 2, channels=(3, self.one((96, 192, 384, 768)))
        )

    def atari(self) -> Layer:
        window, stride, size, c, d = self.one(((8, 4, 84, 4, 32), (4, 2, 20, 32, 64), (3, 1, 9, 64, 64)))
        return self.conv(
            "atari", window, stride, padding=0, size=(size,) * 2, channels=(c, d), batch=self.one((1, 8, 32, 64))
        )

    def one_axis(self) -> Layer:
        window, dilation = self.one((3, 5, 7, 9, 15)), self.one((1, 1, 2, 4))
        return self.conv("1-D", window, 1, 1, size=(self.one((128, 256, 1000, 4096, 16000)),), dilation=dilation)

    def three_axes(self) -> Layer:
        c, d = (self.one((3, 8, 16, 32, 64)) for _ in range(2))
        return self.conv(
            "3-D",
            3,
            self.one((1, 1, 2)),
            3,
            size=(self.one((8, 16, 24, 32)),) * 3,
            channels=(c, d),
            batch=self.one((1, 2, 4)),
        )

    def transposed(self) -> Layer:
        window, padding = self.one(((2, 0), (4, 1), (3, 1)))
        return self.conv(
            "transposed", window, 2, padding=padding, size=(self.one((4, 7, 8, 14, 16, 28, 32)),) * 2, transposed=True
        )

    def pool(self) -> Pool:
        kind, (window, stride, padding) = (
            self.one(("max", "max", "avg")),
            self.one(((2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0))),
        )
        n, size, c = self.one(BATCHES), self.one(SIZES), self.one(CHANNELS)
        name = f"{kind} pool {window}x{window}/{stride} {n}x{size}x{size}x{c}"
        return Pool(name, kind, n, (size, size), c, window, stride, padding, frozenset(("pool",)))


# in percent
KINDS: tuple[tuple[int, Callable[[Draw], Case]], ...] = (
    (22, lambda draw: draw.conv("dense", 3)),
    (15, lambda draw: draw.conv("dense", 1)),
    (6, lambda draw: draw.conv("dense", 3, 2)),
    (4, lambda draw: draw.conv("dense", 5)),
    (2, lambda draw: draw.conv("dense", 1, 2)),
    (10, Draw.depthwise),
    (4, Draw.grouped),
    (7, Draw.stem),
    (3, Draw.patches),
    (3, Draw.atari),
    (3, Draw.one_axis),
    (3, Draw.three_axes),
    (3, lambda draw: draw.conv("dilated", 3, dilation=draw.one((2, 4)))),
    (3, Draw.transposed),
    (12, Draw.pool),
)


def cases(seed: int, count: int) -> Iterator[Case]:
    """The first `count` of a seed."""
    draw, weights = Draw(seed), np.array([weight for weight, _ in KINDS], float)
    while count:
        case = KINDS[draw.random.choice(len(KINDS), p=weights / weights.sum())][1](draw)
        if isinstance(case, Pool) or GFLOP[0] <= _gflop(case) <= GFLOP[1]:
            count -= 1
            yield case


def _gflop(layer: Layer) -> float:
    cells = math.prod(layer.size) if layer.transposed else math.prod(-(-n // layer.stride) for n in layer.size)
    return 2e-9 * layer.batch * cells * math.prod(layer.window) * layer.channels[0] * layer.channels[1] / layer.groups


def run(
    only: Callable[[str], bool],
    budget: Budget,
    *,
    seeds: Sequence[int],
    count: int,
    rules: Sequence[str] = (),
    torch: Side | None = None,
) -> Iterator[Row]:
    """A row for each map of each case, when it is measured."""
    for seed in seeds:
        for case in (c for c in cases(seed, count) if only(c.name)):
            tiny = case.tiny() if budget is SMOKE else case
            if isinstance(tiny, Pool):
                rows = pools.measure(tiny, budget, torch)
            else:
                rows = layers.measure(tiny, budget, MAPS, rules, torch)
            yield from ({**row, "seed": seed} for row in rows)
            jax.clear_caches()


# ---- what a draw shows ----------------------------------------------------------------------------------------------

GROUPS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "convolutions without groups": lambda row: "conv" in row["tags"] and "groups" not in row["tags"],
    "grouped and depthwise": lambda row: "groups" in row["tags"],
    "pools": lambda row: "pool" in row["tags"],
}
HEADINGS = ("", "maps", "speed-up over autodiff", "slower than autodiff", "slowest", "speed-up over Torch", "slowest")
SLOWER = 0.95  # of autodiff's speed, below which a row counts as slower


def summary(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line for each group: geometric means with the factor that one standard error is, and worst rows."""
    lines = []
    for label, has in GROUPS.items():
        group = [row for row in rows if has(row)]
        if not group:
            continue
        automatic = [r for row in group if (r := ratio(row, "autodiff")) is not None]
        torch = [r for row in group if (r := ratio(row, "torch")) is not None]
        slower = f"{sum(r < SLOWER for r in automatic)} of {len(automatic)}"
        of_torch = (_mean(torch), f"{min(torch):.2f}") if torch else ("", "")
        lines.append((label, str(len(group)), _mean(automatic), slower, f"{min(automatic):.2f}", *of_torch))
    return lines


def _mean(ratios: Sequence[float]) -> str:
    logarithms = [math.log(r) for r in ratios]
    error = float(np.std(logarithms, ddof=1)) / math.sqrt(len(ratios)) if len(ratios) > 1 else 0.0
    return f"{geometric_mean(ratios):.2f} ×/÷ {math.exp(error):.2f}"


def worst(rows: Sequence[Row], count: int = 10) -> list[tuple[str, str, str, str]]:
    """Against autodiff: name, map, speed-up over autodiff, over Torch."""
    slowest = sorted(rows, key=lambda row: ratio(row, "autodiff") or math.inf)[:count]
    return [
        (row["name"], row["map"], *(f"{r:.2f}" if (r := ratio(row, side)) else "" for side in ("autodiff", "torch")))
        for row in slowest
    ]
