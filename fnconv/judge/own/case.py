"""What is checked: one operation in one geometry, with its reference, its data and its bound."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from fnconv.judge.engine.programs import abstract
from fnconv.judge.engine.running_error import Format, Values
from fnconv.judge.own.bounds import TANGENT, Bound, Reference
from fnconv.transform.both_modes import both_modes

Function = Callable[..., Any]
Arrays = tuple[Values, ...]
Make = Callable[[np.random.Generator, tuple[tuple[int, ...], ...], int], Arrays]

REACHES = (8, 4, 3, 2, 1)  # largest integers to try, until no sum can leave the exact ones


@dataclass(frozen=True)
class DataKind:
    """One kind of data.

    make(rng, shapes, reach) -> the operands and, last, the cotangent, of the given shapes.
    exact: integers on which value and gradients have no rounding; `reach` bounds them.
    unit: a power of two of which they are multiples.
    """

    name: str
    make: Make
    exact: bool = False
    unit: int = 1


@dataclass(frozen=True)
class Case:
    """An operation in one geometry.

    manual(rule) is the public function under that rule, of the operands alone; `reference` the plain JAX function
    that automatic differentiation is applied to.  Both return the value, or (value, auxiliary) if `auxiliary` is named.
    maps: which of a rule's maps a result comes from, where the operation has rules.
    alternatives: the reference with a certain mistake in it, by the name of the mistake.
    components(operands) -> the operands of which only a part takes effect, by the name of the part.
    """

    operation: str
    geometry: str
    manual: Callable[[Any], Function]
    reference: Function
    operands: Mapping[str, tuple[int, ...]]
    bound: Bound
    samples: Sequence[DataKind]
    value: str = "y"
    auxiliary: str | None = None
    rules: str | None = None  # its key in available_rules()
    maps: Mapping[str, str] = field(default_factory=dict)
    alternatives: Mapping[str, Function] = field(default_factory=dict)
    components: Callable[[Arrays], Mapping[str, Arrays]] | None = None
    batched: frozenset[str] = frozenset({"y", "dx"})  # results whose first axis is the batch
    forward: bool = False  # of operands and their tangents, to the tangent of the value; no cotangents
    quick: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the operands."""
        return tuple(self.operands.values())

    def cotangent_shape(self, dtype: Any) -> tuple[int, ...]:
        """Of the value."""
        n = len(self.shapes) // 2 if self.forward else len(self.shapes)
        operands = [abstract(shape, dtype) for shape in self.shapes[:n]]
        result = jax.eval_shape(self.reference, *operands)
        shape: tuple[int, ...] = (result[0] if self.auxiliary else result).shape
        return shape

    def tangents(self, *, quick: bool) -> Case | None:
        """The same for `jax.jvp` under `both_modes`; None where there is no bound for it."""
        bound = self.bound.of_tangents(len(self.operands))
        if bound is None or self.auxiliary is not None:
            return None
        moved = {f"t{name}": shape for name, shape in self.operands.items()}
        return replace(
            self,
            geometry=f"{self.geometry}, tangents",
            operands={**self.operands, **moved},
            bound=bound,
            value=TANGENT,
            maps={},
            alternatives={},
            components=None,
            forward=True,
            quick=quick,
        )

    def evaluate(self, function: Function, operands: Sequence[Any], cotangent: Any) -> dict[str, Any]:
        """The value and the cotangents of the operands, by name; in forward mode the tangent of the value."""
        if self.forward:
            n = len(operands) // 2
            return {self.value: jax.jvp(both_modes(function), tuple(operands[:n]), tuple(operands[n:]))[1]}
        if self.auxiliary is None:
            value, pull = jax.vjp(function, *operands)
            results = {self.value: value}
        else:
            value, pull, auxiliary = jax.vjp(function, *operands, has_aux=True)
            results = {self.value: value, self.auxiliary: auxiliary}
        return results | dict(zip(map("d{}".format, self.operands), pull(cotangent), strict=True))

    def draw(
        self, sample: DataKind, cotangent_shape: tuple[int, ...], dtype: Any, run: Reference
    ) -> tuple[Arrays, Values]:
        """Operands and cotangent, representable in dtype; the same for equal arguments."""
        shapes = (*self.shapes, cotangent_shape)
        limit = sample.unit / Format.of(dtype).u
        for reach in REACHES:
            rng = np.random.default_rng(zlib.crc32(f"{self.operation} {self.geometry} {sample.name}".encode()))
            drawn = tuple(np.asarray(a).astype(dtype).astype(np.float64) for a in sample.make(rng, shapes, reach))
            operands, cotangent = drawn[:-1], drawn[-1]
            if not sample.exact:
                return operands, cotangent
            sums = self.bound.magnitude(run, operands, cotangent)
            if all(np.where(np.isfinite(m), m, 0).max(initial=0) <= limit for m in sums.values()):
                return operands, cotangent
        raise ValueError(f"check: {self.operation}, {self.geometry}: sums of {sample.name} leave the exact integers")


# ---- kinds of data --------------------------------------------------------------------------------------------------


def integers(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Everything between -reach and reach."""
    return tuple(rng.integers(-reach, reach + 1, shape).astype(np.float64) for shape in shapes)


def normal(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    return tuple(np.asarray(rng.standard_normal(shape)) for shape in shapes)


def distinct(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Feature maps without equal entries; all negative, so that a padding of 0 would win."""
    x, *rest = shapes
    cells = int(np.prod(x[1:-1]))
    order = np.argsort(rng.random((x[0], cells, x[-1])), axis=1)
    return (-1.0 - order.reshape(x).astype(np.float64), *integers(rng, tuple(rest), reach))


def ties(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """Feature maps of three values."""
    x, *rest = shapes
    return (rng.integers(-2, 1, x).astype(np.float64), *integers(rng, tuple(rest), reach))


INTEGERS, NORMAL = DataKind("integers", integers, exact=True), DataKind("normal floats", normal)
DISTINCT, TIES = DataKind("distinct integers", distinct, exact=True), DataKind("integers with ties", ties, exact=True)
