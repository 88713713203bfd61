"""What Torch computes for a case, and how long it takes: in this process, or in one of its own.

Torch's threads are 1.2 to 1.4 times slower beside another pool of spinning threads, so a comparison that is to be fair
to Torch times it apart; the two processes take turns.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks import convolutions, pools, verify
from benchmarks.cases import Layer
from benchmarks.timing import Budget, Case, Times, fastest


class Here:
    """In this process, on so many threads."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.case: Case | None = None

    def result(self, case: Case, map_: str) -> Any:
        if isinstance(case, Layer):
            formats = convolutions.torch_formats(case)
            return convolutions.InTorch(case, convolutions.arrays(case, verify.integers()), formats[-1]).result(map_)
        found = pools.torch_programs(case, *pools.integers(case), channels_last=True)[map_]()
        parts = tuple(np.moveaxis(a.numpy(), 1, -1) for a in (found if isinstance(found, tuple) else (found,)))
        return parts if isinstance(found, tuple) else parts[0]

    def times(self, case: Case, map_: str, budget: Budget) -> Times:
        if case != self.case:
            self.case, self.timed, self.programs = case, {}, self._programs(case)
        if map_ not in self.timed:
            self.timed[map_] = fastest({name: program(map_) for name, program in self.programs.items()}, budget)
        return self.timed[map_](budget)

    @staticmethod
    def _programs(case: Case) -> dict[str, Callable[[str], Callable[[], Any]]]:
        if isinstance(case, Layer):
            operands = convolutions.arrays(case, verify.normal())
            return {str(f): convolutions.InTorch(case, operands, f).thunk for f in convolutions.torch_formats(case)}
        x, dy = pools.normal(case)
        return {str(f): pools.torch_programs(case, x, dy, channels_last=f).__getitem__ for f in (False, True)}


class Apart:
    """In a process of its own, which ends with the context."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
        self.process.start()
        theirs.close()

    def _ask(self, method: str, *args: Any) -> Any:
        self.line.send((method, args))
        answer = self.line.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def result(self, case: Case, map_: str) -> Any:
        return self._ask("result", case, map_)

    def times(self, case: Case, map_: str, budget: Budget) -> Times:
        times: Times = self._ask("times", case, map_, budget)
        return times

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.line.close()
        self.process.join(5)
        self.process.kill()


def _serve(line: Any, threads: int) -> None:
    side = Here(threads)
    while True:
        try:
            method, args = line.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            line.send(getattr(side, method)(*args))
        except Exception as error:
            line.send(error)
