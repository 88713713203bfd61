"""What a gradient costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax

Program = Callable[..., Any]


@dataclass(frozen=True)
class Cost:
    """Of value and gradient together.

    seconds: median of the runs, None if none was timed.
    residual_bytes: arrays that the backward pass holds from the forward one, without the function's own arguments.
    """

    seconds: float | None
    residual_bytes: int


def medians(programs: Sequence[Program], operands: Sequence[Any], rounds: int) -> list[float | None]:
    """Median seconds of each program; one run of each in turn, so that all see the same machine.

    None for no rounds.
    """
    taken: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, times in zip(programs, taken, strict=True):
            start = time.perf_counter()
            for result in jax.tree.leaves(program(*operands)):
                result.block_until_ready()
            times.append(time.perf_counter() - start)
    return [median(times) if times else None for times in taken]
