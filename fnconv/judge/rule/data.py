"""Where a rule is tried: at the arguments given, and at others drawn like them.

A mask of zeros and ones, a distribution over the last axis and a symmetric matrix stay what they are: a rule may rely
on that.  Everything else is drawn anew, at several scales, with ties, with zeros of both signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


Domain = Callable[[Arrays], bool]
Sampler = Callable[[np.random.Generator], Arrays]


class Draw:
    """Points for arguments of certain shapes, from one seed.

    inside: whether values lie in the function's domain; those that do not are made positive or moved towards the
    arguments given until they do, and points that would lose what they are for, such as ties, are left out.
    sample: the user's own values, in place of all others.
    """

    def __init__(
        self,
        leaves: Sequence[Argument],
        vector_shapes: Shapes,
        seed: int,
        inside: Domain = lambda values: True,
        sample: Sampler | None = None,
        arrange: Callable[[Arrays], Arrays] = lambda values: values,
    ) -> None:
        self.leaves, self.vector_shapes = leaves, vector_shapes
        self.rng = np.random.default_rng((0x5EED, seed))  # not the stream that arguments are drawn from
        self.fixed = [kept(leaf.value) for leaf in leaves]
        self.inside, self.sample, self.arrange = inside, sample, arrange
        self.outside: list[str] = []  # points that had to be moved or left out

    @property
    def free(self) -> bool:
        """Whether there is anything to draw."""
        return self.sample is not None or not all(self.fixed)

    def vectors(self, *, integers: int = 0) -> Arrays:
        if integers:
            return tuple(self.rng.integers(-integers, integers + 1, s).astype(np.float64) for s in self.vector_shapes)
        return tuple(self.rng.standard_normal(s) for s in self.vector_shapes)

    def given(self) -> Point | None:
        """The arguments themselves, if they have values."""
        values = self._values
        return None if values is None else Point(GIVEN, values, self.vectors())

    @property
    def _values(self) -> Arrays | None:
        values = [leaf.value for leaf in self.leaves]
        return None if any(v is None for v in values) else tuple(v for v in values if v is not None)

    def smooth(self) -> Point | None:
        """Somewhere without a kink; the arguments themselves where they must stay."""
        return (self.normal() if self.free else None) or self.given()

    def normal(self, scale: float = 1.0) -> Point | None:
        """Normal floats, `scale` times as large as the arguments; of scale 1 positive where those are."""

        def make(leaf: Argument) -> Values:
            value = np.asarray(self.rng.standard_normal(leaf.shape) * _size(leaf) * scale)
            return np.abs(value, dtype=np.float64) if scale == 1 and _positive(leaf) else value

        text = "normal floats" if scale == 1 else f"normal floats, {scale:g} times the arguments"
        return self._point(text, make, smooth=True)

    def magnitudes(self) -> Point | None:
        """Floats of magnitudes from 1e-3 to 1e3 side by side."""

        def make(leaf: Argument) -> Values:
            powers = 10 ** self.rng.uniform(-3, 3, leaf.shape)
            return np.asarray(self.rng.standard_normal(leaf.shape) * powers)

        return self._point("floats of magnitudes 1e-3 to 1e3", make, smooth=True)

    def ties(self) -> Point | None:
        """A few values many times."""
        return self._point("ties", lambda leaf: self._whole(leaf, 1))

    def zeros(self) -> Point | None:
        """Nothing but zeros of both signs."""

        def make(leaf: Argument) -> Values:
            return np.asarray(np.copysign(np.zeros(leaf.shape), self.rng.random(leaf.shape) - 0.5), np.float64)

        return self._point("zeros of both signs", make)

    def one_zero(self) -> Point | None:
        """The first leaf zero, the others normal."""

        def make(leaf: Argument) -> Values:
            value = np.asarray(self.rng.standard_normal(leaf.shape) * _size(leaf))
            value = np.abs(value, dtype=np.float64) if _positive(leaf) else value
            return np.zeros_like(value) if leaf is self.leaves[0] else value

        return self._point("a first argument of zeros", make)

    def integers(self, reach: int) -> Point | None:
        """Whole numbers, distinct where there is room for that."""

        def make(leaf: Argument) -> Values:
            n = int(np.prod(leaf.shape))
            if len(self.leaves) == 1 and n <= 2 * reach + 1:
                numbers = self.rng.permutation(2 * reach + 1)[:n] - reach
                return numbers.astype(np.float64).reshape(leaf.shape)
            return self._whole(leaf, reach)

        return self._point("integers", make, integers=min(reach, 4))

    def _whole(self, leaf: Argument, reach: int) -> Values:
        return self.rng.integers(-reach, reach + 1, leaf.shape).astype(np.float64)

    def _point(self, name: str, make: object, *, smooth: bool = False, integers: int = 0) -> Point | None:
        if self.sample is not None:
            name, values = "the domain", self.sample(self.rng) if smooth else None
        else:
            values = self._moved(name, self.arrange(self._draw(make)), smooth)
        if values is None:
            return None
        return Point(name, values, self.vectors(integers=integers), smooth, integers > 0)

    def _moved(self, name: str, drawn: Arrays, smooth: bool) -> Arrays | None:
        """Inside the domain: as drawn, without signs, or nearer to the arguments given; None if nowhere."""
        if self.inside(drawn):
            return drawn
        self.outside.append(name)
        tried = [tuple(v if fixed else abs(v) for v, fixed in zip(drawn, self.fixed, strict=True))]
        given = self._values
        if smooth and given is not None:
            steps = 0.5 ** np.arange(1, 9)
            tried += [tuple(g + t * (v - g) for v, g in zip(drawn, given, strict=True)) for t in steps]
        return next(filter(self.inside, tried), None)

    def _draw(self, make: object) -> Arrays:
        values: list[Values] = []
        for leaf, fixed in zip(self.leaves, self.fixed, strict=True):
            value = leaf.value if fixed and leaf.value is not None else np.asarray(make(leaf), np.float64)  # type: ignore[operator]
            if leaf.value is not None and symmetric(leaf.value):
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


def symmetric(value: Values) -> bool:
    """Whether it holds symmetric matrices, not all entries of which are equal."""
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < 2:
        return False
    constant = np.ptp(value) == 0
    return bool(not constant and np.array_equal(value, np.swapaxes(value, -1, -2)))
