"""A guess at the cause of a wrong value or cotangent: `diagnose`, and what usual mistakes would have given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from fnconv.judge.engine.diagnose import UNKNOWN, diagnose
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.routes import lost
from fnconv.judge.rule.trial import Trial

Both = tuple[Sequence[Values], Sequence[Values]]

TAKEN = "the derivative is taken at"
VAGUE = (UNKNOWN, TAKEN, "wrong ", "zero where", "every wrong entry")  # guesses that may be improved on


def cause(
    trial: Trial, point: Point, i: int, part: int, got: Both, want: Both, wrong: np.ndarray, bound: Values
) -> str:
    """One line on why result or cotangent i is not what it should be."""
    g, w = got[part][i], want[part][i]
    if (wrong & ~np.isfinite(g) & ~np.isfinite(w)).any():
        return "not finite, nor is automatic differentiation's: but the function and its slopes around are"
    finite = bound[np.isfinite(bound)]
    tolerance = max(float(finite.max(initial=0)), 1e-12 * float(abs(np.nan_to_num(w)).max(initial=0)))
    alternatives = dict(_usual_mistakes(trial, point, i, want)) if part == 1 else {}
    batch = 0 if _leads(trial, i) and w.ndim else None
    mixed = np.where(wrong, g, w)
    guess = diagnose(
        mixed, w, alternatives=alternatives, counts=_counts(trial, i), batch_axis=batch, tolerance=tolerance
    )
    if part == 1 and guess.startswith(VAGUE):
        way = lost(trial, point, i, mixed, w, tolerance)
        if way:
            return way if guess.startswith((UNKNOWN, TAKEN)) else f"{way}; {guess}"
    return guess


def _leads(trial: Trial, i: int) -> bool:
    """Whether the first axis of derivative i looks like that of the vectors: a batch."""
    owners = trial.results if trial.forward else trial.kinds
    shape = owners[i].shape if i < len(owners) else ()
    return len(shape) > 1 and any(v.shape[:1] == shape[:1] for v in trial.vectors)


def _counts(trial: Trial, i: int) -> dict[str, int]:
    """Numbers of which a sum may be a mean."""
    counts: dict[str, int] = {}
    shapes = [("the value", r.shape) for r in trial.results] + [(leaf.name, leaf.shape) for leaf in trial.call.moving]
    for name, shape in shapes:
        counts.setdefault(f"all entries of {name}", int(np.prod(shape)))
        for axis, n in enumerate(shape):
            counts.setdefault(f"axis {axis} of {name}", n)
    for name, shape in shapes:
        for axis in range(1, len(shape)):
            counts.setdefault(f"axes 0 to {axis - 1} of {name}", int(np.prod(shape[:axis])))
    return counts


def _usual_mistakes(trial: Trial, point: Point, i: int, want: Both) -> list[tuple[str, Callable[[], Any]]]:
    """What would have come out, by the name of the mistake."""
    if trial.right is None:
        return []
    exact = trial.right.exact

    def pulled(vectors: Sequence[Values]) -> Values:
        return np.asarray(exact(point.values, tuple(vectors))[1][i])

    def at(values: Sequence[Values]) -> Values:
        return np.asarray(exact(tuple(values), point.vectors)[1][i])

    found: list[tuple[str, Callable[[], Any]]] = []
    for j, other in enumerate(want[1]):
        if j != i and other.shape == want[1][i].shape:
            text = f"the cotangent of {trial.of_derivatives[j]}"
            found.append((f"it is {text}: the two are exchanged?", partial(_same, other)))
            found.append((f"{text} is added to it", partial(np.add, other, want[1][i])))
    several = len(point.vectors) > 1
    for k, u in enumerate(point.vectors if several else ()):
        text = f"the cotangent of {trial.of_vectors[k]} is ignored"
        found.append((text, partial(pulled, _with(point.vectors, k, np.zeros_like(u)))))
    for k, u in enumerate(point.vectors):
        incoming = "the incoming cotangent" + (f" of {trial.of_vectors[k]}" if several else "")
        taken = [(f"{incoming} is taken to be 1", np.ones_like(u)), (f"the sign of {incoming} is lost", abs(u))]
        for axis in (a for a, n in enumerate(u.shape) if n > 1):
            first, last = _only(u, axis, 0), _only(u, axis, u.shape[axis] - 1)
            taken += [
                (f"only the first entry along axis {axis} of {incoming} counts", first),
                (f"only the last entry along axis {axis} of {incoming} counts", last),
                (f"the last entry along axis {axis} of {incoming} is left out", u - last),
                (f"the first entry along axis {axis} of {incoming} is left out", u - first),
                (f"{incoming} is flipped along axis {axis}", np.flip(u, axis)),
                (f"{incoming} is shifted by one along axis {axis}", np.roll(u, 1, axis)),
            ]
        for one, two in combinations(range(u.ndim), 2):
            if u.shape[one] == u.shape[two] > 1:
                text = f"axes {one} and {two} of {incoming} are exchanged: summed over the wrong one?"
                taken.append((text, np.swapaxes(u, one, two)))
        found += [(text, partial(pulled, _with(point.vectors, k, vector))) for text, vector in taken]
        if u.shape == want[1][i].shape:
            if not want[1][i].any():
                found.append((f"{incoming} is passed straight through a flat function", partial(_same, u)))
            due, (leaf, result) = ("derivative", (k, i)) if trial.forward else ("transpose", (i, k))
            text = f"the function itself is applied to {incoming}, instead of its {due}"
            found.append((text, partial(_applied, exact, point, u, leaf, result)))
    for j, v in enumerate(point.values):
        name = trial.names[j]
        found.append((f"{TAKEN} -{name}", partial(at, _with(point.values, j, -v))))
        found.append((f"{TAKEN} |{name}|", partial(at, _with(point.values, j, abs(v)))))
        found.append((f"{TAKEN} {name} = 0", partial(at, _with(point.values, j, np.zeros_like(v)))))
        for axes in (*((axis,) for axis in range(v.ndim)), (0, 1)):
            if max(axes) < v.ndim and min(v.shape[axis] for axis in axes) > 1:
                text = f"{TAKEN} {name} reversed along {_axes(axes)}: rotated once too often?"
                found.append((text, partial(at, _with(point.values, j, np.flip(v, axes)))))
    for k, value in enumerate(want[0]):
        for j, v in enumerate(point.values):
            if v.shape == value.shape:
                text = f"{TAKEN} the value instead of {trial.names[j]}"
                found.append((text, partial(at, _with(point.values, j, value))))
        if value.shape == want[1][i].shape:
            found.append(("it is multiplied by the value once more", partial(np.multiply, want[1][i], want[0][k])))
    return found


def _applied(exact: Callable[..., Any], point: Point, u: Values, leaf: int, result: int) -> Values:
    """The result where u takes the place of a leaf."""
    return np.asarray(exact(tuple(_with(point.values, leaf, u)), point.vectors)[0][result])


def _axes(axes: Sequence[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {' and '.join(map(str, axes))}"


def _same(value: Values) -> Values:
    return value


def _with(values: Sequence[Values], j: int, value: Values) -> list[Values]:
    return [value if k == j else v for k, v in enumerate(values)]


def _only(u: Values, axis: int, index: int) -> Values:
    mask = np.zeros(u.shape[axis])
    mask[index] = 1
    return np.asarray(u * mask.reshape([-1 if a == axis else 1 for a in range(u.ndim)]))
