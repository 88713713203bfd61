"""Where a rule is tried: at the arguments given, and at others drawn like them.

A mask of zeros and ones, a distribution over the last axis and a symmetric matrix stay what they are: a rule may rely
on that.  Everything else is drawn anew, at several scales, with ties, with zeros of both signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.arguments import Argument

GIVEN = "the arguments given"
Arrays = tuple[Values, ...]
Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Point:
    """Values of the moving leaves, and what the Jacobian there is multiplied by: cotangents or tangents.

    smooth: drawn from a continuum, so that no kink is met but by bad luck.
    integers: small whole numbers.
    """

    name: str
    values: Arrays
    vectors: Arrays
    smooth: bool = False
    integers: bool = False

    def rounded(self, dtypes: Sequence[object], vector_dtypes: Sequence[object]) -> Point:
        """The nearest point whose numbers these dtypes hold."""
        values = tuple(_round(v, d) for v, d in zip(self.values, dtypes, strict=True))
        vectors = tuple(_round(c, d) for c, d in zip(self.vectors, vector_dtypes, strict=True))
        return Point(self.name, values, vectors, self.smooth, self.integers)


def _round(value: Values, dtype: object) -> Values:
    with np.errstate(over="ignore"):
        return value.astype(dtype).astype(np.float64)  # type: ignore[call-overload]


def kept(value: Values | None) -> bool:
    """Whether an argument is of a kind that a rule may rely on: a mask, a distribution."""
    if value is None or value.size < 2:
        return False
    if set(np.unique(value)) == {0.0, 1.0}:
        return True
    rows = value.sum(axis=-1)
    return bool(value.shape[-1] > 1 and (value >= 0).all() and (abs(rows - 1) < 0.02).all())


class Draw:
    """Points for arguments of certain shapes, from one seed."""

    def __init__(self, leaves: Sequence[Argument], vector_shapes: Shapes, seed: int) -> None:
        self.leaves, self.vector_shapes = leaves, vector_shapes
        self.rng = np.random.default_rng((0x5EED, seed))  # not the stream that arguments are drawn from
        self.fixed = [kept(leaf.value) for leaf in leaves]

    @property
    def free(self) -> bool:
        """Whether there is anything to draw."""
        return not all(self.fixed)

    def vectors(self, *, integers: int = 0) -> Arrays:
        if integers:
            return tuple(self.rng.integers(-integers, integers + 1, s).astype(np.float64) for s in self.vector_shapes)
        return tuple(self.rng.standard_normal(s) for s in self.vector_shapes)

    def given(self) -> Point | None:
        """The arguments themselves, if they have values."""
        values = [leaf.value for leaf in self.leaves]
        if any(v is None for v in values):
            return None
        return Point(GIVEN, tuple(v for v in values if v is not None), self.vectors())

    def smooth(self) -> Point | None:
        """Somewhere without a kink; the arguments themselves where they must stay."""
        return self.normal() if self.free else self.given()

    def normal(self, scale: float = 1.0) -> Point:
        """Normal floats, `scale` times as large as the arguments; of scale 1 positive where those are."""

        def make(leaf: Argument) -> Values:
            value = np.asarray(self.rng.standard_normal(leaf.shape) * _size(leaf) * scale)
            return np.abs(value, dtype=np.float64) if scale == 1 and _positive(leaf) else value

        values = self._draw(make)
        text = "normal floats" if scale == 1 else f"normal floats, {scale:g} times the arguments"
        return Point(text, values, self.vectors(), smooth=True)

    def magnitudes(self) -> Point:
        """Floats of magnitudes from 1e-3 to 1e3 side by side."""

        def make(leaf: Argument) -> Values:
            powers = 10 ** self.rng.uniform(-3, 3, leaf.shape)
            return np.asarray(self.rng.standard_normal(leaf.shape) * powers)

        return Point("floats of magnitudes 1e-3 to 1e3", self._draw(make), self.vectors(), smooth=True)

    def ties(self) -> Point:
        """A few values many times."""
        return Point("ties", self._draw(lambda leaf: self._whole(leaf, 1)), self.vectors())

    def zeros(self) -> Point:
        """Nothing but zeros of both signs."""

        def make(leaf: Argument) -> Values:
            return np.asarray(np.copysign(np.zeros(leaf.shape), self.rng.random(leaf.shape) - 0.5), np.float64)

        return Point("zeros of both signs", self._draw(make), self.vectors())

    def one_zero(self) -> Point:
        """The first leaf zero, the others normal."""
        point = self.normal()
        values = [np.zeros_like(v) if i == 0 and not self.fixed[0] else v for i, v in enumerate(point.values)]
        return Point("a first argument of zeros", tuple(values), point.vectors)

    def integers(self, reach: int) -> Point:
        """Whole numbers, distinct where there is room for that."""

        def make(leaf: Argument) -> Values:
            n = int(np.prod(leaf.shape))
            if len(self.leaves) == 1 and n <= 2 * reach + 1:
                numbers = self.rng.permutation(2 * reach + 1)[:n] - reach
                return numbers.astype(np.float64).reshape(leaf.shape)
            return self._whole(leaf, reach)

        return Point("integers", self._draw(make), self.vectors(integers=min(reach, 4)), integers=True)

    def _whole(self, leaf: Argument, reach: int) -> Values:
        return self.rng.integers(-reach, reach + 1, leaf.shape).astype(np.float64)

    def _draw(self, make: object) -> Arrays:
        values: list[Values] = []
        for leaf, fixed in zip(self.leaves, self.fixed, strict=True):
            value = leaf.value if fixed and leaf.value is not None else np.asarray(make(leaf), np.float64)  # type: ignore[operator]
            if leaf.value is not None and _symmetric(leaf.value):
                value = (value + np.swapaxes(value, -1, -2)) / 2
            values.append(value)
        return tuple(values)


def _size(leaf: Argument) -> float:
    """Root mean square of an argument; 1 where there is none."""
    if leaf.value is None or leaf.value.size == 0:
        return 1.0
    size = float(np.sqrt(np.mean(np.square(np.where(np.isfinite(leaf.value), leaf.value, 0)))))
    return size if size > 0 else 1.0


def _positive(leaf: Argument) -> bool:
    """Whether a variance, a temperature, a base of powers may be meant; ones are no sign of that."""
    value = leaf.value
    return value is not None and bool((value > 0).all()) and not bool((value == 1).all())


def _symmetric(value: Values) -> bool:
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < 2:
        return False
    constant = np.ptp(value) == 0
    return bool(not constant and np.array_equal(value, np.swapaxes(value, -1, -2)))
