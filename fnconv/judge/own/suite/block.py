"""Convolution, bias, ReLU and max pooling as one operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.programs import precision
from fnconv.judge.engine.running_error import Values
from fnconv.judge.own import references
from fnconv.judge.own.bounds import Multilinear, Reference, Results, sum_error
from fnconv.judge.own.case import INTEGERS, Arrays, Case, DataKind, integers
from fnconv.judge.own.references import Window
from fnconv.judge.own.suite.convolution import Conv, batched, in_layout, mistakes, one_batch
from fnconv.ops import functional as ops

TRIES = 10_000


@dataclass(frozen=True)
class BlockCase:
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
    BlockCase(Conv(Window((6, 5), (2, 2))), Window((5, 4), (3, 2), (2, 1), (1, 0))),  # pooling overlaps
    BlockCase(Conv(Window((5, 6), (2, 3), 1, "SAME"), (4, 4), groups=2), Window((5, 6), (2, 2), 2), biased=False),
    BlockCase(Conv(Window((9,), (3,), 2, ((2, 1),)), layout="channels_first"), Window((5,), (2,), 1), "column_major"),
    BlockCase(Conv(Window((5, 4), (2, 2), dilation=(2, 1))), Window((3, 3), (2, 2), 1, 1), "column_major", None),
    BlockCase(Conv(Window((3, 4, 3), (2, 2, 1))), Window((2, 3, 3), (1, 2, 2), 2, ceil_mode=True), biased=False),
    BlockCase(Conv(Window((7,), (4,)), batch=()), None),
)


def cases() -> Iterator[Case]:
    """All cases of this module."""
    yield from map(conv_block, BLOCKS)


def conv_block(block: BlockCase) -> Case:
    """Against lax's convolution, jax.nn.relu and then max pooling, in the order that the name says."""
    c, pool = block.conv, block.pool

    def reference(g: Window, x: Any, w: Any, *b: Any) -> jax.Array:
        z = sum(b, references.conv(g, one_batch(x, c), w, groups=c.groups))
        a = z if block.activation is None else jax.nn.relu(z)
        if pool is None:
            return a.reshape(*c.batch, *a.shape[1:])
        native = block.ties == "row_major"
        return references.reduce_window_max(pool, a) if native else references.max_pool(pool, a, ties=block.ties)[0]

    options: dict[str, Any] = {"activation": block.activation}
    if pool is not None:
        options["pool"] = {**pool.pool_options(), "ties": block.ties}
    bound = Blocked(block)
    return Case(
        "conv_block",
        str(block),
        in_layout(c, partial(ops.conv_block, **options)),
        partial(reference, c.window),
        {"x": c.x, "w": c.kernel} | ({"b": c.kernel[-1:]} if block.biased else {}),
        bound,
        (INTEGERS, DataKind("integers with ties", _ties, exact=True), DataKind("floats", partial(_apart, bound))),
        maps={"y": "forward", "dx": "input_vjp", "dw": "weight_vjp", "db": "bias"},
        alternatives=mistakes(c.window, reference, kernel=1),
        batched=batched(c, "y", "dx"),
    )


# ---- data -----------------------------------------------------------------------------------------------------------


def _ties(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Outputs of few values, zero often among them: ties in windows, and inputs at the kink of ReLU."""
    *operands, cotangent = shapes
    return (*(rng.integers(-1, 2, shape).astype(np.float64) for shape in operands), *integers(rng, (cotangent,), reach))


def _apart(bound: Blocked, rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Sixteenths, which every dtype holds, of whose pre_activations no rounding changes a winner or a sign."""
    *operands, cotangent = shapes
    for _ in range(TRIES):
        drawn = tuple(np.rint(16 * rng.standard_normal(shape)) / 16 for shape in operands)
        if bound.certain(drawn, jnp.bfloat16):
            return (*drawn, np.asarray(rng.standard_normal(cotangent)))
    raise ValueError("check: conv_block: no data whose winners are certain")


# ---- bound ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocked:
    """Sums of products with a choice between them: of z = C(x, w) + b each window takes a cell, or none.

    The choice is that of the operands, which have to leave no doubt about it; all else is multilinear.  z is stored
    before the bias is added, dz before it enters the gradients.
    """

    block: BlockCase

    def of_tangents(self, operands: int) -> None:
        """Tangents are those of the convolution, the pooling and the ReLU."""

    def magnitude(self, run: Reference, operands: Arrays, cotangent: Values) -> Results:
        sizes = tuple(map(abs, operands))
        return {"z": self._z(sizes), **self._chosen(operands)(sizes, abs(cotangent))}

    def errors(self, run: Reference, operands: Arrays, cotangent: Values, dtype: Any) -> Results:
        sums = Multilinear(rounded={"y": self.block.biased, "dx": 1, "dw": 1, "db": 1})
        return sums.errors(self._chosen(operands), operands, cotangent, dtype)

    def certain(self, operands: Arrays, dtype: Any) -> bool:
        """No rounding in dtype changes which cell of a window is the largest, nor its sign."""
        z, count, size = (self._z(tuple(map(f, operands))) for f in (np.asarray, np.ones_like, abs))
        error = sum_error(count, size, z, dtype, rounded=self.block.biased)
        low, high = self._windows(z - error), self._windows(z + error)
        winner = low.argmax(axis=-1)[..., None]
        best = np.take_along_axis(low, winner, axis=-1)
        others = np.where(np.arange(low.shape[-1]) == winner, -np.inf, high)
        signed = (best > 0) | (np.take_along_axis(high, winner, axis=-1) < 0)
        return bool(((best > others) & signed).all())

    def _chosen(self, operands: Arrays) -> Reference:
        """y and its gradients, if each window takes the cell that it takes of these operands."""
        cells, pool = self._windows(self._z(operands)), self.block.pool
        order = np.arange(cells.shape[-1])
        if pool is not None and self.block.ties == "column_major":
            order = order.reshape(pool.window).transpose().reshape(-1)
        first = order[cells[..., order].argmax(axis=-1)][..., None]
        passes = np.take_along_axis(cells, first, axis=-1) > (0 if self.block.activation else -np.inf)
        taken = ((np.arange(cells.shape[-1]) == first) & passes).astype(np.float64)

        def value(*operands: Any) -> jax.Array:
            y = (taken * self._windows(pre_activations(self.block.conv, *operands), 0)).sum(axis=-1)
            return y.reshape(*self.block.conv.batch, *y.shape[1:])

        def run(operands: Arrays, cotangent: Values) -> Results:
            with precision(jnp.float64):
                y, pull = jax.vjp(value, *operands)
                return dict(zip(("y", "dx", "dw", "db"), map(np.asarray, (y, *pull(cotangent))), strict=False))

        return run

    def _z(self, operands: Arrays) -> Values:
        with precision(jnp.float64):
            return np.asarray(pre_activations(self.block.conv, *operands))

    def _windows(self, z: Any, fill: float = -np.inf) -> Any:
        return z[..., None] if self.block.pool is None else references.windows(self.block.pool, z, fill=fill)


@partial(jax.jit, static_argnums=0)
def pre_activations(c: Conv, x: Any, w: Any, *b: Any) -> jax.Array:
    return sum(b, references.conv(c.window, one_batch(x, c), w, groups=c.groups))
