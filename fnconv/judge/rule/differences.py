"""Finite differences in float64, extrapolated, with an estimate of their own error; kinks are told by their sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fnconv.judge.engine.distances import dot
from fnconv.judge.engine.programs import FEW, settled
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.programs import Replayed
from fnconv.judge.rule.trial import Trial

DIFFERENCES = "finite differences"
HALVINGS = 18
SMALL_JACOBIAN = 64  # inputs, up to which every column of the Jacobian is tried


@dataclass(frozen=True)
class Slope:
    """A directional derivative: its value, how far off it may be, and whether the two sides agree."""

    value: float
    error: float
    kink: bool


def slope(f: Callable[[float], float], noise: float, size: float = 1.0) -> Slope | None:
    """f'(0) by Richardson extrapolation of central differences; None where f is not finite nearby.

    The step is halved again and again; the extrapolation that agrees best with its neighbour is taken, and its error is
    their distance and what `noise` in f makes of it.
    """
    steps = size * 2.0 ** -np.arange(3, 3 + HALVINGS)
    up, down, centre = np.array([f(h) for h in steps]), np.array([f(-h) for h in steps]), f(0.0)
    if not (np.isfinite(up).all() and np.isfinite(down).all() and np.isfinite(centre)):
        finite = np.isfinite(up) & np.isfinite(down)
        if not np.isfinite(centre) or finite[-6:].sum() < 6:
            return None
        steps, up, down = steps[finite], up[finite], down[finite]
    central = (up - down) / (2 * steps)
    first = (4 * central[1:] - central[:-1]) / 3
    second = (16 * first[1:] - first[:-1]) / 15
    roundoff = 4 * noise / steps[2:]
    errors = np.maximum(abs(second - first[1:]), abs(first[1:] - first[:-1]) / 8)
    errors = np.maximum(errors[:-1], abs(np.diff(second))) + roundoff[:-1]
    best = int(errors.argmin())
    right, left = (up - centre) / steps, (centre - down) / steps
    k = best + 2
    gap, gap_before = abs(right[k] - left[k]), abs(right[k - 1] - left[k - 1])
    kink = bool(gap > 0.75 * gap_before and gap > 16 * noise / steps[k] + 1e-9 * abs(right[k]))
    return Slope(float(second[best]), float(8 * errors[best]), kink)


def check_differences(trial: Trial) -> None:
    """The rule's derivatives against differences of the function itself, in each argument alone.

    Automatic differentiation may be wrong as well: where it is, and the rule was judged by it, differences decide.
    What the function itself holds by stop_gradient is held here as well.
    """
    row = trial.report.row(DIFFERENCES)
    row.detail = ""
    program = trial.right or trial.plain
    if program is None:
        trial.report.skip(DIFFERENCES, "the function cannot be evaluated in float64")
        return
    kinks = tried = 0
    draw = trial.draw(8)
    for _ in range(4 if trial.level == "full" else 1):
        point = draw.smooth()
        if point is None:
            return
        for i, direction in _directions(trial, point):
            found = _one(trial, program, point, i, direction)
            if found is None:
                continue
            tried += 1
            kinks += found
    row.detail = f"{tried} slopes" + (f", {kinks} of them at kinks and left out" if kinks else "")
    if not tried and any(leaf.shape.count(0) == 0 for leaf in trial.call.moving):
        trial.report.skip(DIFFERENCES, "the function is not finite where it was tried")


def _directions(trial: Trial, point: Point) -> list[tuple[int, Values]]:
    """(leaf, direction): every entry where there are few and time, else random ones."""
    rng = np.random.default_rng((0x5EED, 3))
    total = sum(v.size for v in point.values)
    found: list[tuple[int, Values]] = []
    for i, value in enumerate(point.values):
        if not value.size:
            continue
        if trial.level == "full" and total <= SMALL_JACOBIAN:
            for k in range(value.size):
                unit = np.zeros_like(value)
                unit.reshape(-1)[k] = 1.0
                found.append((i, unit))
        for _ in range(2):
            direction = np.asarray(rng.standard_normal(value.shape))
            found.append((i, direction / max(float(np.sqrt((direction**2).sum())), 1e-300)))
    return found


def _one(trial: Trial, program: Replayed, point: Point, i: int, direction: Values) -> bool | None:
    """Whether there is a kink; None where there is no slope.  A wrong slope is written down.

    The slope is that of <weights, fn>, which is <weights, J direction> = <Jᵀ weights, direction>.
    """
    results = program.exact(point.values, point.vectors)[0]
    along = tuple(direction if j == i else np.zeros_like(v) for j, v in enumerate(point.values))
    rng = np.random.default_rng((0x5EED, 4))
    weights = tuple(rng.standard_normal(r.shape) for r in results) if trial.forward else point.vectors
    vectors, others = (along, weights) if trial.forward else (weights, along)

    def f(t: float, held: Replayed | None = None) -> float:
        values = tuple(v + t * d for v, d in zip(point.values, along, strict=True))
        of = program.exact(values, point.vectors) if held is None else held.exact(values, point.values)
        return dot(of[0], weights)

    room = program.bounds(point.values, point.vectors, FEW)[0]
    noise = dot(room, map(abs, weights)) + 2.0**-52 * dot(map(abs, results), map(abs, weights))
    size = float(np.sqrt(np.mean(np.square(point.values[i])))) or 1.0
    found = slope(f, noise, size)
    if found is None:
        return None
    if found.kink or (found.error > 0.02 * max(abs(found.value), 1e-300) and found.error > 1e3 * noise):
        return True
    derivatives = trial.rule.exact(point.values, vectors)[1]
    got = dot(derivatives, others)
    error = abs(got - found.value)

    def bounds(samples: int) -> float:
        return found.error + dot(trial.rule.bounds(point.values, vectors, samples)[1], map(abs, others))

    bound = settled(bounds, lambda bound: error <= bound)
    row = trial.report.row(DIFFERENCES)
    if error <= bound:
        row.reach(error / bound if bound else 0.0)
        return False
    if error <= 1e-6 * (abs(found.value) + dot(map(abs, derivatives), map(abs, others))):
        return False  # finite differences cannot tell so little
    with_held = None if trial.held is None else slope(lambda t: f(t, trial.held), noise, size)
    if with_held is not None and abs(got - with_held.value) <= bound - found.error + with_held.error:
        trial.report.note("results of stop_gradient in the function are held in its finite differences")
        return False
    if trial.reference is not None:
        trial.report.warn(
            DIFFERENCES,
            f"differences of the function disagree with the reference's own gradient by "
            f"{trial.names[i]}: the rule agrees with the reference",
        )
        return False
    text = (
        f"along a random direction in {trial.names[i]} the function's slope is {found.value:.9g}, the rule's {got:.9g}"
    )
    text += ", as automatic differentiation has it" if trial.right is not None else ""
    numbers = {"got": got, "want": found.value, "error": error, "bound": bound, "ratio": error / bound}
    trial.report.fail(DIFFERENCES, trial.names[i], text, point.name, "float64", **numbers)
    return False
