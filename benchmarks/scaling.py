"""Cost against batch, channels and image size: time should grow as the work does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax

from benchmarks import layers, pools
from benchmarks.cases import MAPS, Layer, Pool
from benchmarks.timing import SMOKE, Budget

Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """One case at several values of one of its dimensions."""

    name: str
    axis: str
    values: tuple[int, ...]
    case: Layer | Pool

    def at(self, value: int) -> Layer | Pool:
        case = self.case
        if self.axis == "batch":
            return replace(case, batch=value)
        if self.axis == "size":
            return replace(case, size=(value,) * len(case.size))
        if isinstance(case, Pool):
            return replace(case, channels=value)
        return replace(case, channels=(value, value), groups=value if case.groups > 1 else 1)

    def work(self, value: int) -> float:
        """Multiplications of the forward pass, or comparisons."""
        case = self.at(value)
        cells = case.batch * math.prod(s // case.stride for s in case.size)
        if isinstance(case, Pool):
            return cells * case.channels * case.window ** len(case.size)
        return cells * math.prod(case.window) * case.channels[0] * case.channels[1] / case.groups


def _sweeps() -> Iterator[Sweep]:
    dense = Layer("3x3", 8, (28, 28), (64, 64), (3, 3), padding=1)
    depthwise = Layer("depthwise 3x3", 8, (28, 28), (64, 64), (3, 3), padding=1, groups=64)
    pool = Pool("max pool 3x3 /2", "max", 8, (56, 56), 64, 3, 2, 1)
    for case in (dense, depthwise, pool):
        yield Sweep(case.name, "batch", (1, 2, 4, 8, 16, 32), case)
        yield Sweep(case.name, "channels", (8, 16, 32, 64, 128, 256), case)
        yield Sweep(case.name, "size", (7, 14, 28, 56, 112), case)


SWEEPS = tuple(_sweeps())


def run(only: Callable[[str], bool], budget: Budget, **unused: object) -> Iterator[Row]:
    """A row for every value of every sweep: all maps of a layer added up, or a pool's two passes in one program."""
    for sweep in (s for s in SWEEPS if only(f"{s.name} {s.axis}")):
        for value in (2, 4) if budget is SMOKE else sweep.values:
            case = sweep.at(value)
            if budget is SMOKE:
                case = replace(case, batch=min(case.batch, 4), size=tuple(min(8, n) for n in case.size))
            yield _measure(sweep, value, case, budget)
            jax.clear_caches()


def _measure(sweep: Sweep, value: int, case: Layer | Pool, budget: Budget) -> Row:
    if isinstance(case, Pool):
        parts = [row for row in pools.measure(case, budget, torch=None) if row["map"] == "fwd+bwd"]
    else:
        parts = list(layers.measure(case, budget, MAPS, (), torch=None))
    return {
        "name": f"{sweep.name} by {sweep.axis}",
        "map": str(value),
        "work": sweep.work(value),
        "times": {side: {"ms": sum(p["times"][side]["ms"] for p in parts)} for side in ("autodiff", "fnconv")},
        "verified": {"fnconv": ", ".join(dict.fromkeys(p["verified"]["fnconv"] for p in parts))},
    }


def exponent(rows: Sequence[Row], side: str) -> float:
    """The slope of log time over log work, by least squares: 1 where time grows as the work does."""
    points = [(math.log(row["work"]), math.log(row["times"][side]["ms"])) for row in rows]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def steepest(rows: Sequence[Row], side: str) -> float:
    """The largest such slope between two neighbouring values."""
    return max(exponent(pair, side) for pair in pairwise(rows))
