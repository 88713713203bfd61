"""What a derivative may be where a function has a kink or a tie.

Near such a point the gradient takes several values, one for each side.  Those at close points all around it are
sampled; what a rule returns is a subgradient if it lies between them, and, for one result at a time, in the affine
space that they span: two maxima that tie may share a cotangent in any way, but not both receive the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fnconv.judge.engine.running_error import Values

Arrays = Sequence[Values]
Gradient = Callable[[Arrays, Arrays], Arrays]  # values, vectors -> derivatives

STEP = 2.0**-24
SIDES = 24  # points around
LARGE = 16.0  # a slope, so near a pole
RESULTS = 24  # results that are looked at one by one; in forward mode, directions


@dataclass(frozen=True)
class Limits:
    """The gradient's values around a point, and how much of their differences is not due to a kink."""

    low: Arrays
    high: Arrays
    smooth: Arrays
    samples: Sequence[Arrays]

    def kinks(self, i: int) -> np.ndarray:
        """Where the gradient by leaf i jumps."""
        with np.errstate(invalid="ignore"):
            jump = self.high[i] - self.low[i]
            return np.asarray(jump > 4 * self.smooth[i])

    def undefined(self, i: int, want: Values) -> np.ndarray:
        """Where it is not finite around, or a pole: not finite here, and growing towards it."""
        with np.errstate(invalid="ignore"):
            span, largest = self.high[i] - self.low[i], np.maximum(abs(self.high[i]), abs(self.low[i]))
            return np.asarray(
                ~np.isfinite(span) | ~np.isfinite(want) & (8 * self.smooth[i] > largest) & (largest > LARGE)
            )

    def between(self, i: int, got: Values, slack: Values) -> np.ndarray:
        """Where `got` lies between them."""
        room = 4 * self.smooth[i] + slack
        with np.errstate(invalid="ignore"):
            inside = (got >= self.low[i] - room) & (got <= self.high[i] + room)
            return inside | ~np.isfinite(self.high[i] - self.low[i])


def limits(
    gradient: Gradient, values: Arrays, vectors: Arrays, got: Arrays = (), want: Arrays = (), sides: int = SIDES
) -> Limits:
    """Sample the gradient around a point, all values moved, also those that a rule may rely on.

    Where `got` differs from `want`, the gradient at the point, it may belong to a side that no random step meets, as
    one of many entries that tie: there are steps towards what it prefers, and away.
    """
    rng = np.random.default_rng((0x5EED, 1))
    samples: list[Arrays] = []
    apart: list[list[Values]] = []
    for directions in (
        *_towards(rng, values, got, want),
        *([_direction(rng, v) for v in values] for _ in range(sides)),
    ):
        with np.errstate(invalid="ignore"):
            near, far = (
                gradient(tuple(v + k * STEP * d for v, d in zip(values, directions, strict=True)), vectors)
                for k in (1, 2)
            )
        samples.append(near)
        with np.errstate(invalid="ignore"):
            apart.append([abs(a - b) for a, b in zip(near, far, strict=True)])
    low, high = (tuple(bound(same, axis=0) for same in zip(*samples, strict=True)) for bound in (np.min, np.max))
    size = [2.0**-40 * np.max(abs(np.where(np.isfinite(h), h, 0)), initial=0) for h in high]
    smooth = [np.fmax.reduce(same, axis=0, initial=0.0) for same in zip(*apart, strict=True)]
    return Limits(low, high, tuple(s + z for s, z in zip(smooth, size, strict=True)), samples)


def _direction(rng: np.random.Generator, value: Values) -> Values:
    """Of the size of the entries, or of the largest one where they are zero."""
    largest = float(np.max(abs(np.where(np.isfinite(value), value, 0)), initial=0)) or 1.0
    size = np.where(value == 0, largest, abs(value))
    return np.asarray(rng.standard_normal(value.shape) * size)


def not_spanned(
    rule: Gradient, reference: Gradient, results: Gradient, values: Arrays, vectors: Arrays, forward: bool
) -> tuple[int, str] | None:
    """(derivative, where) that is no mixture of those around; None if all are.

    Looks at one result at a time, the `RESULTS` that bend most; its derivatives by all arguments are mixed alike.  In
    forward mode each result has a slope of its own along a direction, so that all are looked at together, along
    `RESULTS` directions: both halves of a tie, taken whole, leave the slopes on the sides in some of them.
    """
    rng = np.random.default_rng((0x5EED, 2))
    for position in range(RESULTS) if forward else _bent(results, values, vectors):
        tried = tuple(map(rng.standard_normal, map(np.shape, vectors))) if forward else _unit(vectors, int(position))
        got, want = rule(values, tried), reference(values, tried)
        where = "along some direction" if forward else f"for the single result {position}"
        for sides in (SIDES, 8 * SIDES):
            around = limits(reference, values, tried, got, want, sides)
            kinked = [
                i
                for i, (g, w) in enumerate(zip(got, want, strict=True))
                if around.kinks(i).any()
                and all(np.isfinite(s[i]).all() for s in around.samples)
                and (np.isfinite(g).all() or np.isfinite(w).all())  # else a pole: autodiff's is not finite either
            ]
            for i in kinked:
                if not around.between(i, got[i], np.zeros_like(got[i])).all():
                    return i, where
            spanned = forward or not kinked or _in_span(got, around, kinked)
            if spanned is not None:
                break
        if spanned is False:
            return max(kinked, key=lambda i: float(abs(got[i] - want[i]).max(initial=0))), where
    return None


def _bent(results: Gradient, values: Arrays, vectors: Arrays) -> Sequence[int]:
    """The results, at most RESULTS, whose second differences are largest."""
    rng, bend = np.random.default_rng((0x5EED, 5)), np.zeros(sum(v.size for v in vectors))
    if bend.size <= RESULTS:
        return range(bend.size)
    for _ in range(4):
        step = [STEP * _direction(rng, v) for v in values]
        up, at, down = (
            np.concatenate(
                [r.ravel() for r in results(tuple(v + k * s for v, s in zip(values, step, strict=True)), vectors)]
            )
            for k in (1, 0, -1)
        )
        with np.errstate(invalid="ignore"):
            bend = np.fmax(bend, np.nan_to_num(abs(up - 2 * at + down), posinf=0.0))
    return [int(k) for k in np.argsort(-bend, kind="stable")[:RESULTS]]


def _in_span(got: Arrays, around: Limits, of: Sequence[int]) -> bool | None:
    """Whether these derivatives are one affine combination of the samples; None where there are too few to tell."""
    samples = np.stack([np.concatenate([s[i].ravel() for i in of]) for s in around.samples])
    room = float(max(np.max(around.smooth[i], initial=0) for i in of)) * 64
    centre = samples.mean(axis=0)
    _, weights, axes = np.linalg.svd(samples - centre, full_matrices=False)
    axes = axes[weights > room + 1e-9 * weights[0]]
    if len(axes) >= len(samples) - 2:
        return None
    rest = np.concatenate([got[i].ravel() for i in of]) - centre
    rest = rest - axes.T @ (axes @ rest)
    return bool(abs(rest).max(initial=0) <= room + 1e-6 * abs(samples).max(initial=0))


def _towards(rng: np.random.Generator, values: Arrays, got: Arrays, want: Arrays) -> list[list[Values]]:
    """Steps along the entries in which got and want differ, either in value or in size, both ways."""
    if [g.shape for g in got] != [v.shape for v in values]:  # tangents belong to the results
        return []
    with np.errstate(invalid="ignore"):
        apart = [
            [np.sign(np.nan_to_num(g - w)), np.sign(np.nan_to_num(abs(g) - abs(w)))]
            for g, w in zip(got, want, strict=True)
        ]
    return [
        [sign * a[kind] * abs(_direction(rng, v)) + _direction(rng, v) / 64 for a, v in zip(apart, values, strict=True)]
        for kind in (0, 1)
        for sign in (1, -1)
    ]


def _unit(vectors: Arrays, position: int) -> Arrays:
    result = [np.zeros_like(c) for c in vectors]
    for r in result:
        if position < r.size:
            r.reshape(-1)[position] = 1.0
            break
        position -= r.size
    return tuple(result)
