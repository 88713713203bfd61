"""One part of the batch after another, so that temporaries stay small.

XLA takes the temporaries of a program as one block.  From 32 MB on the C library maps it anew at every call, and each
of its pages faults; far below, it also stays in the cache.  Chunks are loops, not copies of the program.  A program
for several devices is not cut: each has a part of the batch already, and a loop over a sharded axis would gather it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

BYTES = 16 * 2**20

_target: ContextVar[tuple[int, bool, int]] = ContextVar("target", default=(1, False, 1))


@contextmanager
def for_devices(number: int, *, here: bool = False, copies: int = 1) -> Iterator[None]:
    """Within it, a program for this number of devices is lowered.

    here: to be run by this process, not exported.  copies: how many of the batches that a rule sees vmap maps over.
    """
    token = _target.set((number, here, copies if isinstance(copies, int) else 1))
    try:
        yield
    finally:
        _target.reset(token)


def for_one_device() -> bool:
    """Whether a program is lowered that no partitioner cuts."""
    return _target.get()[0] == 1


def for_one_device_here() -> bool:
    """Whether a program is lowered that may call what this process alone has, and that no device shares."""
    return _target.get()[:2] == (1, True)


def images(batch: int) -> int:
    """Of a batch and of its copies under vmap."""
    return batch * _target.get()[2]


def chunks(batch: int, size: int, limit: int = BYTES) -> int:
    """Into how many equal parts a batch is cut so that temporaries, `size` bytes for each copy, fit the limit."""
    if not for_one_device() or not isinstance(batch, int) or not batch:  # a symbolic batch is one part
        return 1
    wanted = min(batch, max(1, ceil(images(size) / limit)))
    return next(n for n in range(wanted, batch + 1) if batch % n == 0)


def map_batch(f: Callable[..., Any], size: int, *arrays: jax.Array, limit: int = BYTES) -> Any:
    """f(*arrays), whose first axis is the batch of every array and of the results."""
    batch = arrays[0].shape[0]
    n = chunks(batch, size, limit)
    if n == 1:
        return f(*arrays)
    parts = lax.map(lambda part: f(*part), tuple(_cut(a, n) for a in arrays))
    return jax.tree.map(lambda part: part.reshape(batch, *part.shape[2:]), parts)


def sum_batch(f: Callable[..., Any], size: int, *arrays: jax.Array, limit: int = BYTES) -> Any:
    """f(*arrays), sums over the batch, which is the first axis of every array."""
    n = chunks(arrays[0].shape[0], size, limit)
    if n == 1:
        return f(*arrays)
    cut = tuple(_cut(a, n) for a in arrays)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(f, *(a[0] for a in cut)))
    return lax.scan(lambda total, part: (jax.tree.map(lax.add, total, f(*part)), None), zeros, cut)[0]


def _cut(a: jax.Array, n: int) -> jax.Array:
    return a.reshape(n, a.shape[0] // n, *a.shape[1:])
