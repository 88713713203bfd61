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

    def between(self, i: int, got: Values, slack: Values) -> np.ndarray:
        """Where `got` lies between them."""
        room = 4 * self.smooth[i] + slack
        with np.errstate(invalid="ignore"):
            inside = (got >= self.low[i] - room) & (got <= self.high[i] + room)
        return inside | ~np.isfinite(self.high[i] - self.low[i])


def limits(gradient: Gradient, values: Arrays, vectors: Arrays) -> Limits:
    """Sample the gradient around a point, all values moved, also those that a rule may rely on."""
    rng = np.random.default_rng((0x5EED, 1))
    samples: list[Arrays] = []
    apart: list[list[Values]] = []
    for _ in range(SIDES):
        directions = [_direction(rng, v) for v in values]
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
    rule: Gradient, reference: Gradient, values: Arrays, vectors: Arrays, forward: bool
) -> tuple[int, str] | None:
    """(derivative, where) that is no mixture of those around; None if all are.

    Looks at one result at a time, at most `RESULTS` of them.  In forward mode each result has a slope of its own along
    a direction, so that all are looked at together, along `RESULTS` directions: both halves of a tie, taken whole,
    leave the slopes on the sides in some of them.
    """
    total = sum(v.size for v in vectors)
    rng = np.random.default_rng((0x5EED, 2))
    chosen = range(total) if total <= RESULTS else sorted(rng.choice(total, RESULTS, replace=False))
    for position in range(RESULTS) if forward else chosen:
        tried = tuple(map(rng.standard_normal, map(np.shape, vectors))) if forward else _unit(vectors, int(position))
        around = limits(reference, values, tried)
        got, want = rule(values, tried), reference(values, tried)
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            if not around.kinks(i).any() or not all(np.isfinite(s[i]).all() for s in around.samples):
                continue
            if not np.isfinite(g).all() and not np.isfinite(w).all():  # a pole: autodiff's is not finite either
                continue
            spanned = forward or _in_span(g, around, i)
            if not spanned or not around.between(i, g, np.zeros_like(g)).all():
                return i, "along some direction" if forward else f"for the single result {position}"
    return None


def _in_span(got: Values, around: Limits, i: int) -> bool:
    """Whether got is an affine combination of the samples; yes where there are too few to tell."""
    samples = np.stack([s[i].ravel() for s in around.samples])
    room = float(np.max(around.smooth[i], initial=0)) * 64
    centre = samples.mean(axis=0)
    _, weights, axes = np.linalg.svd(samples - centre, full_matrices=False)
    axes = axes[weights > room + 1e-9 * weights[0]]
    if len(axes) >= len(samples) - 2:
        return True
    rest = got.ravel() - centre
    rest = rest - axes.T @ (axes @ rest)
    return bool(abs(rest).max(initial=0) <= room + 1e-6 * abs(samples).max(initial=0))


def _unit(vectors: Arrays, position: int) -> Arrays:
    result = [np.zeros_like(c) for c in vectors]
    for r in result:
        if position < r.size:
            r.reshape(-1)[position] = 1.0
            break
        position -= r.size
    return tuple(result)
