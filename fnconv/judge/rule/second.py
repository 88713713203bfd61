"""Second derivatives: reverse mode and forward mode over the rule, and higher ones where asked.

A rule that hides a stop_gradient, or a residual that no derivative flows through, is right once and wrong twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.engine.programs import abstract, precision
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.agree import agree, relaxed
from fnconv.judge.rule.kinks import limits
from fnconv.judge.rule.programs import Replayed, Task, compile_all, next_order
from fnconv.judge.rule.trial import Trial, first_line

ORDER = "order {}, {} over {}"


def check_orders(trial: Trial, order: int) -> None:
    """Orders 2 to `order` by reverse mode over the rule, and order 2 by forward mode over it."""
    for n, name, make in orders(trial, order):
        _check(trial, n, name, make)


Make = Callable[[Trial, Any, int], Task]


def orders(trial: Trial, order: int) -> list[tuple[int, str, Make]]:
    """(order, name of its row, what makes its program)."""
    mode = "forward" if trial.forward else "reverse"
    found: list[tuple[int, str, Make]] = [(n, ORDER.format(n, "reverse", mode), _reverse) for n in range(2, order + 1)]
    if order > 1 and trial.level == "full":
        found.append((2, ORDER.format(2, "forward", mode), _forward))
    return found


def _reverse(trial: Trial, flat: Any, order: int) -> Task:
    task = trial.task(flat, native=False, limited=True)
    for _ in range(order - 1):
        with precision(jnp.float64):
            gradients = jax.eval_shape(task.program, task.values, task.vectors)[1]
        split = len(task.values)
        program = partial(next_order(task.program), split=split)
        further = task.further and partial(next_order(task.further), split=split)
        values, vectors = (*task.values, *task.vectors), tuple(abstract(g.shape, g.dtype) for g in gradients)
        task = Task(program, values, vectors, task.dtype, True, further=further)
    return task


def _forward(trial: Trial, flat: Any, order: int) -> Task:
    """Tangents of the derivatives, along the vectors of this program; of the values alone."""
    task = trial.task(flat, native=False, limited=True)
    n = len(task.values)

    def along(first: Any) -> Any:
        def program(values: Any, tangents: Any) -> tuple[Any, Any, Any]:
            point, vectors = values[:n], values[n:]
            _, moved = jax.jvp(lambda *v: tuple(first(v, vectors)[1]), tuple(point), tuple(tangents))
            return (), moved, ()

        return program

    further = task.further and along(task.further)
    values = (*task.values, *task.vectors)
    return Task(along(task.program), values, tuple(task.values), task.dtype, True, further=further)


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
    rule, right = compile_all(tasks)
    if isinstance(right, Exception):
        trial.report.skip(name, f"not for the reference: {first_line(right)}")
        return
    if isinstance(rule, Exception):
        trial.report.warn(name, f"the rule cannot be differentiated again: {first_line(rule)}")
        row.detail = "not available"
        return
    _compare(trial, name, rule, right, tasks[0], make is _forward)


def _compare(trial: Trial, name: str, rule: Replayed, right: Replayed, task: Task, forward: bool) -> None:
    draw = trial.draw(6)
    for point in (draw.smooth(), draw.given(), draw.smooth()):
        if point is None:
            continue
        given = (*point.values, *point.vectors)
        values = (*given, *(draw.rng.standard_normal(v.shape) for v in task.values[len(given) :]))
        along = tuple(draw.rng.standard_normal(v.shape) for v in task.vectors)
        got, want = rule.exact(values, along)[1], right.exact(values, along)[1]

        def bounds(samples: int, values: Any = values, along: Any = along, want: Any = want) -> list[Values]:
            rooms = (p.bounds(values, along, samples)[1] for p in (rule, right))
            return relaxed(list(map(np.hypot, *rooms)), want, 1.0)

        def excused(i: int, values: Any = values, along: Any = along, got: Any = got, want: Any = want) -> np.ndarray:
            around = limits(lambda at, u: right.exact(at, u)[1], values, along)
            none = np.zeros_like(got[i])
            with np.errstate(invalid="ignore"):
                lost = ~around.between(i, want[i], none) | (around.smooth[i] > abs(got[i] - want[i]))
            return around.kinks(i) | around.between(i, got[i], none) & lost

        if forward:
            names = trial.derivative_names
        else:
            names = [*trial.names, *(f"{trial.report.derivative} of {v}" for v in trial.of_vectors)]
            names += [f"derivative {i}" for i in range(len(names), len(want))]
        if not agree(trial, name, names, got, want, bounds, _guess, point.name, excused=excused):
            return


def _guess(about: str, got: Values) -> str:
    if not got.any():
        return f"no derivative flows through the rule by {about}: a stop_gradient, or a residual computed outside?"
    guess = "the first derivative is right, its own derivative is not: a stop_gradient in the rule, or a residual "
    return guess + "that a wrong derivative belongs to?"
