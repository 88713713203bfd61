"""Convolution, bias, ReLU and max pooling as one operation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.running_error import Values
from fnconv.judge.own import references
from fnconv.judge.own.bounds import Results, Run, sum_error
from fnconv.judge.own.case import INTEGERS, Arrays, Case, Function, Sample, integers
from fnconv.judge.own.references import Window
from fnconv.judge.own.suite.convolution import (
    Conv,
    batched,
    from_layout,
    kernel_to_layout,
    mistakes,
    one_batch,
    to_layout,
)
from fnconv.ops import functional as ops

TRIES = 10_000


@dataclass(frozen=True)
class Block:
    """A convolution with what follows it; `pool` slides over its output."""

    conv: Conv
    pool: Window | None
    ties: str = "row_major"
    activation: str | None = "relu"
    biased: bool = True

    def __str__(self) -> str:
        pool = "no pool" if self.pool is None else f"pool of {self.pool}, ties {self.ties}"
        return f"{self.conv}, {'bias' if self.biased else 'no bias'}, {self.activation or 'no activation'}, {pool}"


BLOCKS = (
    Block(Conv(Window((6, 5), (2, 2)), quick=True), Window((5, 4), (3, 2), (2, 1), (1, 0))),  # pooling overlaps
    Block(Conv(Window((5, 6), (2, 3), 1, "SAME"), (4, 4), groups=2), Window((5, 6), (2, 2), 2), biased=False),
    Block(Conv(Window((9,), (3,), 2, ((2, 1),)), layout="channels_first"), Window((5,), (2,), 1), "column_major"),
    Block(Conv(Window((5, 4), (2, 2), dilation=(2, 1))), Window((3, 3), (2, 2), 1, 1), "column_major", None),
    Block(Conv(Window((3, 4, 3), (2, 2, 1))), Window((2, 3, 3), (1, 2, 2), 2, ceil_mode=True), biased=False),
    Block(Conv(Window((7,), (4,)), batch=()), None),
)


def cases() -> Iterator[Case]:
    """All cases of this module."""
    yield from map(conv_block, BLOCKS)


def conv_block(block: Block) -> Case:
    """Against lax's convolution, jax.nn.relu and then max pooling, in the order that the name says."""
    c, pool = block.conv, block.pool

    def reference(g: Window, x: Any, w: Any, *b: Any) -> jax.Array:
        z = sum(b, references.conv(g, one_batch(x, c), w, groups=c.groups))
        a = z if block.activation is None else jax.nn.relu(z)
        if pool is None:
            return a.reshape(*c.batch, *a.shape[1:])
        native = block.ties == "row_major"
        return references.reduce_window_max(pool, a) if native else references.max_pool(pool, a, ties=block.ties)[0]

    def manual(rule: Any) -> Function:
        options = {**c.options(rule), "activation": block.activation}
        if pool is not None:
            window = {"window_shape": pool.window, "ceil_mode": pool.ceil_mode, "ties": block.ties}
            options["pool"] = {**window, **pool.options()}

        def function(x: Any, w: Any, *b: Any) -> jax.Array:
            x, w = to_layout(x, c), kernel_to_layout(w, c)
            return from_layout(ops.conv_block(x, w, *b, **options), c)

        return function

    bound = Blocked(block)
    return Case(
        "conv_block",
        str(block),
        manual,
        partial(reference, c.window),
        {"x": c.x, "w": c.kernel} | ({"b": c.kernel[-1:]} if block.biased else {}),
        bound,
        (INTEGERS, Sample("integers with ties", _ties, exact=True), Sample("floats", partial(_apart, bound))),
        maps={"y": "forward", "dx": "input_vjp", "dw": "weight_vjp", "db": "bias"},
        alternatives=mistakes(c.window, reference, kernel=1),
        batched=batched(c, "y", "dx"),
        quick=c.quick,
    )


# ---- data -----------------------------------------------------------------------------------------------------------


def _ties(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Outputs of few values, zero often among them: ties in windows, and inputs at the kink of ReLU."""
    *operands, cotangent = shapes
    return (*(rng.integers(-1, 2, shape).astype(np.float64) for shape in operands), *integers(rng, (cotangent,), reach))


def _apart(bound: Blocked, rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Sixteenths, which every dtype holds, of whose outputs no rounding changes a winner or a sign."""
    *operands, cotangent = shapes
    for _ in range(TRIES):
        drawn = tuple(np.rint(16 * rng.standard_normal(shape)) / 16 for shape in operands)
        if bound.certain(drawn, jnp.bfloat16):
            return (*drawn, np.asarray(rng.standard_normal(cotangent)))
    raise ValueError("check: conv_block: no data whose winners are certain")


# ---- bound ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocked:
    """Two sums of products with a choice between them: z, of which y takes some, and the gradients from dz.

    The choice is that of the operands, which have to leave no doubt about it.  z is stored before the bias is added,
    dz before it enters the gradients; what dz has lost by then passes through |w| and |x|.
    """

    block: Block

    def of_tangents(self, operands: int) -> None:
        """Tangents are those of the convolution, the pooling and the ReLU."""

    def magnitude(self, run: Run, operands: tuple[Values, ...], cotangent: Values) -> Results:
        sizes = tuple(map(abs, operands))
        dz = self._back(self._z(operands), abs(cotangent))
        return {"z": self._z(sizes), **self._gradients(sizes, dz)}

    def errors(self, run: Run, operands: tuple[Values, ...], cotangent: Values, dtype: Any) -> Results:
        z, sizes, ones = self._z(operands), tuple(map(abs, operands)), tuple(map(np.ones_like, operands))
        dz, size, count = (self._back(z, a) for a in (cotangent, abs(cotangent), np.ones_like(cotangent)))
        lost = sum_error(count, size, dz, dtype)
        exact, large = self._gradients(operands, dz), self._gradients(sizes, size)
        counts, passed = self._gradients(ones, np.ones_like(dz)), self._gradients(sizes, lost)
        gradients = {f: sum_error(counts[f], large[f], exact[f], dtype) + passed[f] for f in exact}
        y = self._windows(self._z_error(operands, dtype), 0).max(axis=-1)
        return {"y": y.reshape(cotangent.shape), **gradients}

    def certain(self, operands: tuple[Values, ...], dtype: Any) -> bool:
        """No rounding in dtype changes which cell of a window is the largest, nor its sign."""
        z, error = self._z(operands), self._z_error(operands, dtype)
        low, high = self._windows(z - error, -np.inf), self._windows(z + error, -np.inf)
        winner = low.argmax(axis=-1)[..., None]
        best = np.take_along_axis(low, winner, axis=-1)
        others = np.where(np.arange(low.shape[-1]) == winner, -np.inf, high)
        signed = (best > 0) | (np.take_along_axis(high, winner, axis=-1) < 0)
        return bool(((best > others) & signed).all())

    # z = C(x, w) + b and its gradients, by the cells of each window

    @cached_property
    def _channels(self) -> tuple[int, int, int, int]:
        """Window elements, input channels of a group, groups, output channels of a group."""
        c = self.block.conv
        return math.prod(c.window.window), c.channels[0] // c.groups, c.groups, c.channels[1] // c.groups

    def _cells(self, x: Values) -> Values:
        """(N, *O, groups, channels of a group, window elements)."""
        k, c, groups, _ = self._channels
        cells = references.windows(self.block.conv.window, one_batch(x, self.block.conv))
        return np.asarray(cells.reshape(*cells.shape[:-2], groups, c, k))

    def _z(self, operands: tuple[Values, ...]) -> Values:
        x, w, *b = operands
        z = np.einsum("n...gck,kcgo->n...go", self._cells(x), w.reshape(self._channels))
        return np.asarray(sum(b, z.reshape(*z.shape[:-2], -1)))

    def _z_error(self, operands: tuple[Values, ...], dtype: Any) -> Values:
        count, size = (self._z(tuple(map(f, operands))) for f in (np.ones_like, abs))
        return sum_error(count, size, self._z(operands), dtype, rounded=1 if self.block.biased else 0)

    def _gradients(self, operands: tuple[Values, ...], dz: Values) -> Results:
        x, w, *b = operands
        _, _, groups, o = self._channels
        split = dz.reshape(*dz.shape[:-1], groups, o)
        shares = np.einsum("n...go,kcgo->n...gck", split, w.reshape(self._channels))
        window, shape = self.block.conv.window, one_batch(x, self.block.conv).shape
        dx = _scatter(window, shares.reshape(*dz.shape[:-1], shape[-1], -1), shape).reshape(x.shape)
        cells = self._cells(x).reshape(-1, groups, w.shape[-2], math.prod(w.shape[:-2]))
        dw = np.einsum("ngck,ngo->kcgo", cells, split.reshape(-1, groups, o)).reshape(w.shape)
        return {"dx": dx, "dw": dw} | ({"db": dz.sum(axis=tuple(range(dz.ndim - 1)))} if b else {})

    # y = the largest of each window, and dz

    def _windows(self, z: Values, fill: float) -> Values:
        return (
            z[..., None] if self.block.pool is None else np.asarray(references.windows(self.block.pool, z, fill=fill))
        )

    def _back(self, z: Values, dy: Values) -> Values:
        """dy, to the cells that win."""
        order = np.arange(math.prod(self.block.pool.window) if self.block.pool else 1)
        if self.block.pool is not None and self.block.ties == "column_major":
            order = order.reshape(self.block.pool.window).transpose().reshape(-1)
        cells = self._windows(z, -np.inf)
        first = order[cells[..., order].argmax(axis=-1)][..., None]
        passes = np.take_along_axis(cells, first, axis=-1) > (0 if self.block.activation else -np.inf)
        shares = np.where((np.arange(cells.shape[-1]) == first) & passes, dy.reshape(cells.shape[:-1])[..., None], 0.0)
        return shares[..., 0] if self.block.pool is None else _scatter(self.block.pool, shares, z.shape)


def _scatter(g: Window, shares: Values, shape: tuple[int, ...]) -> Values:
    """The adjoint of `references.windows`: (N, *O, C, K) to (N, *size, C)."""
    n, *_, c = shape
    numbers = np.arange(1, math.prod(g.size) + 1, dtype=np.int64).reshape(1, *g.size, 1)
    table = references.windows(g, numbers)[0, ..., 0, :].reshape(-1)  # 0 in the padding
    total = np.zeros((math.prod(g.size) + 1, n, c))
    np.add.at(total, table, np.moveaxis(np.moveaxis(shares, -2, -1).reshape(n, -1, c), 1, 0))
    return np.moveaxis(total[1:], 0, 1).reshape(shape)
