"""Round-robin timing: in every round each function runs in turn, and the median over the rounds counts.

JAX's and Torch's idle threads spin and so disturb each other, therefore each is timed in blocks of its own: Torch,
JAX, Torch.  A round is dropped where *other processes* were busy, never because of the time that it took.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from benchmarks.cases import Layer, Pool
from benchmarks.environment import Others

Thunk = Callable[[], object]
Case = Layer | Pool

LONG_ENOUGH = 0.02  # seconds that a function is repeated for in one round
BUSY = 0.25  # cores that other processes may use during a round
TICK = 0.02  # seconds: the kernel counts in hundredths
SLOW = 3.0  # seconds to warm up, above which one round is enough
SETTLE = 0.05  # seconds after which the other library's threads sleep


@dataclass(frozen=True)
class Budget:
    """How long to measure: at most `rounds` rounds and about `seconds` for each function in a block, `least` anyway."""

    seconds: float = 1.0
    rounds: int = 25
    least: int = 3

    def of(self, part: float) -> Budget:
        return Budget(self.seconds * part, self.rounds, max(1, round(self.least * part)))


SMOKE = Budget(seconds=0.0, rounds=1, least=1)


@dataclass
class Times:
    """Milliseconds per call, a number for every round that was kept."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    dropped: int = 0
    forced: int = 0  # rounds kept although others were busy, as too many had been dropped

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    def joined(self, other: Times) -> Times:
        return Times(
            self.wall + other.wall, self.cpu + other.cpu, self.dropped + other.dropped, self.forced + other.forced
        )

    def to_json(self) -> dict[str, float | int]:
        ordered = sorted(self.wall)
        return {
            "ms": self.median,
            "least": ordered[0],
            "most": ordered[-1],
            "cores": sum(self.cpu) / max(sum(self.wall), 1e-9),
            "rounds": len(self.wall),
            "dropped": self.dropped,
            "forced": self.forced,
        }


def measure(thunks: Mapping[str, Thunk], budget: Budget) -> dict[str, Times]:
    """Time every thunk; each must end with its result ready."""
    start = time.perf_counter()
    repeats = {name: _repeats(thunk, budget) for name, thunk in thunks.items()}
    least = budget.least if time.perf_counter() - start < SLOW else 1
    times = {name: Times() for name in thunks}
    end = time.perf_counter() + budget.seconds * len(thunks)
    kept = dropped = 0
    others = Others()
    while kept < budget.rounds and (kept < least or time.perf_counter() < end):
        order = list(thunks) if kept % 2 == 0 else list(thunks)[::-1]
        start = time.perf_counter()
        others.cores()
        row = {name: _run(thunks[name], repeats[name]) for name in order}
        used, wall = others.cores(), time.perf_counter() - start
        busy = used is not None and used > BUSY + TICK / wall
        if busy and dropped < 2 * budget.rounds and time.perf_counter() < end:
            dropped += 1
            continue
        kept += 1
        for name, (ms, cpu) in row.items():
            times[name].wall.append(ms)
            times[name].cpu.append(cpu)
            times[name].forced += busy
    for entry in times.values():
        entry.dropped = dropped
    return times


def _repeats(thunk: Thunk, budget: Budget) -> int:
    start = time.perf_counter()
    thunk()
    if budget.seconds == 0 or time.perf_counter() - start > 1:
        return 1
    start = time.perf_counter()
    thunk()
    once = time.perf_counter() - start
    if once < LONG_ENOUGH:
        start = time.perf_counter()
        thunk()
        once = min(once, time.perf_counter() - start)
    return max(1, min(1000, int(LONG_ENOUGH / max(once, 1e-6))))


def _run(thunk: Thunk, repeats: int) -> tuple[float, float]:
    """Milliseconds of the clock and of all cores together, per call."""
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        thunk()
    wall = time.perf_counter() - start
    return wall * 1e3 / repeats, (time.process_time() - cpu) * 1e3 / repeats


def compare(in_jax: Mapping[str, Thunk], torch: Callable[[Budget], Times] | None, budget: Budget) -> dict[str, Times]:
    """JAX's functions; where Torch takes part: Torch, JAX, Torch, each in a block."""
    if torch is None:
        return measure(in_jax, budget)
    first = torch(budget.of(0.5))
    _settle(budget)
    result = measure(in_jax, budget)
    _settle(budget)
    return {**result, "torch": first.joined(torch(budget.of(0.5)))}


class Side(Protocol):
    """Torch: a map of a layer, or a direction of a pool."""

    def result(self, case: Case, map_: str) -> Any:
        """Of the case's integers, with JAX's order of axes."""

    def times(self, case: Case, map_: str, budget: Budget) -> Times:
        """Of the faster memory format, on the case's normally distributed numbers."""


def timer(side: Side | None, case: Case, map_: str) -> Callable[[Budget], Times] | None:
    """What `timing.compare` asks Torch for."""
    return None if side is None else partial(side.times, case, map_)


def fastest(thunks: Mapping[str, Thunk], budget: Budget) -> Callable[[Budget], Times]:
    """Of variants (Torch's memory formats) the one that a short probe finds the fastest, to be measured."""
    probe = {name: times.median for name, times in measure(thunks, budget.of(0.3)).items()}
    best = min(probe, key=probe.__getitem__)
    return lambda budget: measure({best: thunks[best]}, budget)[best]


def _settle(budget: Budget) -> None:
    if budget.seconds:
        time.sleep(SETTLE)
