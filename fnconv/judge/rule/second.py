"""Second derivatives: reverse over reverse and forward over reverse, and higher ones where asked.

A rule that hides a stop_gradient, or a residual that no derivative flows through, is right once and wrong twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.running_error import Values
from fnconv.judge.own.programs import arithmetic
from fnconv.judge.own.references import abstract
from fnconv.judge.rule import kinks
from fnconv.judge.rule.linearity import smooth_point
from fnconv.judge.rule.programs import FACTOR, MORE, Task, Wide, compile_wide, next_order, value_and_cotangents
from fnconv.judge.rule.report import Failure
from fnconv.judge.rule.trial import Trial, first_line

REVERSE, FORWARD = "order {}, reverse over reverse", "order {}, forward over reverse"


def check_orders(trial: Trial, order: int) -> None:
    """Orders 2 to `order` by reverse mode, and order 2 by forward over reverse."""
    for n in range(2, order + 1):
        _check(trial, n, REVERSE.format(n), _reverse)
    if order > 1 and trial.level == "full":
        _check(trial, 2, FORWARD.format(2), _forward)


Make = Callable[[Trial, Any, int], Task]


def _reverse(trial: Trial, flat: Any, order: int) -> Task:
    task = trial.task(flat, native=False, own=True)
    program, values, cotangents = task.program, tuple(task.values), tuple(task.cotangents)
    for _ in range(order - 1):
        with arithmetic(jnp.float64):
            gradients = jax.eval_shape(program, values, cotangents)[1]
        program = partial(next_order(program), split=len(values))
        values, cotangents = (*values, *cotangents), tuple(abstract(g.shape, g.dtype) for g in gradients)
    return Task(program, values, cotangents, task.dtype, True)


def _forward(trial: Trial, flat: Any, order: int) -> Task:
    """Tangents of the cotangents, along the `cotangents` of this program; of the values alone."""
    first = value_and_cotangents(flat)
    task = trial.task(flat, native=False, own=True)
    n = len(task.values)

    def program(values: Any, tangents: Any) -> tuple[Any, Any, Any]:
        point, cotangents = values[:n], values[n:]
        _, moved = jax.jvp(lambda *v: tuple(first(v, cotangents)[1]), tuple(point), tuple(tangents))
        return (), moved, ()

    return Task(program, (*task.values, *task.cotangents), tuple(task.values), task.dtype, True)


def _check(trial: Trial, order: int, name: str, make: Make) -> None:
    row = trial.report.row(name)
    if trial.right is None:
        trial.report.skip(name, "no automatic derivative of the reference")
        return
    try:
        tasks = [make(trial, trial.rule_flat, order)]
    except Exception as error:  # whatever a user's rule raises
        trial.report.warn(name, f"the rule cannot be differentiated again: {first_line(error)}")
        row.detail = "not available"
        return
    try:
        tasks.append(make(trial, trial.reference_flat, order))
    except Exception as error:
        trial.report.skip(name, f"not for the reference: {first_line(error)}")
        return
    rule, right = compile_wide(tasks)
    if isinstance(right, Exception):
        trial.report.skip(name, f"not for the reference: {first_line(right)}")
        return
    if isinstance(rule, Exception):
        trial.report.warn(name, f"the rule cannot be differentiated again: {first_line(rule)}")
        row.detail = "not available"
        return
    _compare(trial, name, rule, right, [t.shape for t in tasks[0].values], [t.shape for t in tasks[0].cotangents])


def _compare(trial: Trial, name: str, rule: Wide, right: Wide, shapes: Any, ends: Any) -> None:
    row, draw = trial.report.row(name), trial.draw(6)
    first = smooth_point(draw)
    if first is None:
        return
    for seed in range(2):
        point = first if seed == 0 else smooth_point(draw)
        if point is None:
            return
        drawn = [draw.rng.standard_normal(s) for s in shapes[len(point.values) + len(point.cotangents) :]]
        values = (*point.values, *point.cotangents, *drawn)
        ends_ = tuple(draw.rng.standard_normal(s) for s in ends)
        got, want = rule.clean(values, ends_)[1], right.clean(values, ends_)[1]
        for samples in (4, MORE):  # in float64, so that more of them excuse digits that cancel and nothing else
            bounds = _bounds(rule, right, values, ends_, want, samples)
            wrong = [_beyond(g, w, b) for g, w, b in zip(got, want, bounds, strict=True)]
            if not any(bad.any() for bad in wrong):
                break
        for i, (g, w, bound, bad) in enumerate(zip(got, want, bounds, wrong, strict=True)):
            with np.errstate(invalid="ignore"):
                ratio = np.where(bound > 0, abs(g - w) / np.where(bound > 0, bound, 1), 0.0)
            row.ratio = max(row.ratio or 0.0, float(np.nan_to_num(ratio[~bad]).max(initial=0)))
            if bad.any():
                bad &= ~_at_a_kink(right, values, ends_, i)
            if bad.any():
                trial.report.fail(_failure(trial, name, i, g, w, bad, bound, point.name))
                return


def _bounds(rule: Wide, right: Wide, values: Any, ends: Any, want: Sequence[Values], samples: int) -> list[Values]:
    a, b = (p.spread(values, ends, native=False, samples=samples)[1] for p in (rule, right))
    sizes = [2.0**-50 * float(abs(np.where(np.isfinite(w), w, 0)).max(initial=0)) for w in want]
    return [2 * FACTOR * (x + y) + size for x, y, size in zip(a, b, sizes, strict=True)]


def _beyond(got: Values, want: Values, bound: Values) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(~((abs(got - want) <= bound) | (got == want)) & np.isfinite(want) & np.isfinite(bound))


def _at_a_kink(right: Wide, values: Any, ends: Any, i: int) -> np.ndarray:
    around = kinks.limits(lambda v, u: right.clean(v, u)[1], tuple(values), tuple(ends), [False] * len(values))
    return around.kinks(i) if i < len(around.low) else np.zeros(np.shape(around.low[0]), bool)


def _failure(
    trial: Trial, name: str, i: int, g: Values, w: Values, bad: np.ndarray, bound: Values, data: str
) -> Failure:
    index = tuple(int(k) for k in np.unravel_index(int(np.where(bad, abs(g - w), -1).argmax()), g.shape))
    names = [*trial.names, *(f"cotangent of {r}" for r in trial.result_names)]
    about = names[i] if i < len(names) else f"derivative {i}"
    if not g.any():
        guess = f"no derivative flows through the rule by {about}: a stop_gradient, or a residual computed outside?"
    else:
        guess = "the first derivative is right, its own derivative is not: a stop_gradient in the rule, or a residual "
        guess += "that a wrong derivative belongs to?"
    error = float(abs(g - w)[index])
    size = float(bound[index])
    return Failure(
        name, about, guess, data, "float64", index, float(g[index]), float(w[index]), error, size,
        error / size if size else float("inf"), int(bad.sum()), int(g.size),
    )  # fmt: skip
