"""The rule under JAX's transformations: eager, jit, vmap, checkpoint, scan; run twice, traced twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.dtypes import short_name, unit_roundoff
from fnconv.judge.engine.programs import abstract, precision
from fnconv.judge.engine.replay import RULE_CALLS, equations
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.agree import agree, relaxed
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.programs import Both, Flat, Task, compile_all, trace
from fnconv.judge.rule.report import FAILS
from fnconv.judge.rule.trial import Trial, first_line

EAGER, REPEAT, STALE, VMAP = "jit = eager", "repeated runs", "two traces at once", "vmap = loop"
TRACES, PROMOTION, TRANSFER = "checkpoint, scan", "strict promotion", "host transfers"
CALLBACKS = ("pure_callback", "io_callback", "debug_callback")
BATCHED_BY_RULES = (*CALLBACKS, "custom_vmap_call", "ffi_call", "pallas_call", "custom_partitioning")
Axes = tuple[int | None, ...]  # of every value and vector: 0 where it is batched
BATCH = 3
NOT_A_LOOP = "under vmap it differs from a loop: a reduction over a batch axis, or a rule that counts axes?"


def check_transformations(trial: Trial) -> None:
    """All of them; those that evaluate use the same smooth data."""
    point = trial.draw(9).smooth()
    if point is None:
        return
    rounded = trial.rounded(point)
    _check_eager(trial, rounded)
    _check_two_traces(trial, rounded)
    _check_vmap(trial)
    _check_traces(trial)
    _check_promotion(trial)
    _check_transfers(trial)


def _check_eager(trial: Trial, point: Point) -> None:
    row, again = trial.report.row(EAGER), trial.report.row(REPEAT)
    eager = trial.derivative(trial.rule_flat)
    jitted = trial.run_native(point)
    try:
        first, second = trial.run_native(point, eager), trial.run_native(point, eager)
    except Exception as error:  # whatever a user's rule raises
        trial.report.fail(EAGER, "", f"it runs under jit only: {first_line(error)}")
        return
    text = "jit and eager evaluation differ: a side effect, or a test for tracers?"
    _compare(trial, EAGER, point, first, jitted, text)
    elsewhere = trial.draw(10).smooth()
    if elsewhere is not None and row.status != FAILS:
        elsewhere = trial.rounded(elsewhere)
        text = "after a call with other numbers, jit and eager evaluation differ: it remembers by shape?"
        _compare(trial, EAGER, elsewhere, trial.run_native(elsewhere, eager), trial.run_native(elsewhere), text)
    if row.status != FAILS:
        row.detail = "bitwise" if _same(first, jitted) else "within rounding"
    for name, pair in (("eager", (first, second)), ("jit", (jitted, trial.run_native(point)))):
        if not _same(*pair):
            text = f"two {name} runs on the same numbers differ: random numbers, or a state?"
            _compare(trial, REPEAT, point, *pair, text, exact=True)
            return
    again.detail = "bitwise"


def _check_two_traces(trial: Trial, point: Point) -> None:
    """Linear maps that are alive at the same time, and one whose forward was traced: residuals kept outside show."""
    trial.report.row(STALE)
    other = trial.draw(10).smooth()
    if other is None:
        return
    other = trial.rounded(other)
    want = trial.run_native(point)
    with precision(trial.dtype):
        a, b = ([jnp.asarray(v, k.dtype) for v, k in zip(p.values, trial.kinds, strict=True)] for p in (point, other))
        u = tuple(jnp.asarray(c, r.dtype) for c, r in zip(point.vectors, trial.vectors, strict=True))
        try:
            value, linear = _linearized(trial, trial.rule_flat, a)
            _linearized(trial, trial.rule_flat, b)
            late = tuple(map(np.asarray, value)), tuple(map(np.asarray, linear(u)))
            value, linear = _linearized(trial, jax.jit(trial.rule_flat), a)
            traced = tuple(map(np.asarray, value)), tuple(map(np.asarray, linear(u)))
        except Exception as error:
            leak = isinstance(error, jax.errors.UnexpectedTracerError) or "Tracer" in str(error)
            guess = "the rule keeps a tracer outside of its residuals (a global, an attribute?)"
            guess = guess if leak else f"{'linearize' if trial.forward else 'vjp'} of jit fails"
            trial.report.fail(STALE, "", f"{guess}: {first_line(error)}")
            return
    text = "the linear map of one call uses numbers of a later one: residuals belong into what fwd returns"
    _compare(trial, STALE, point, late, want, text)
    _compare(trial, STALE, point, traced, want, "the derivative of the jitted function differs from the function's own")


def _linearized(trial: Trial, flat: Flat, values: Sequence[Any]) -> tuple[Any, Callable[[Any], Any]]:
    """The results, and the map from vectors to derivatives with its residuals."""
    if trial.forward:
        results, push, _ = jax.linearize(flat, *values, has_aux=True)
        return results, lambda tangents: push(*tangents)
    return jax.vjp(flat, *values, has_aux=True)[:2]


def _check_vmap(trial: Trial) -> None:
    """A batch at once, in float64, against one after the other: of all values and vectors, and of some alone.

    Which of them are batched is nothing to JAX's own steps, so that most subsets are only traced; where a step has a
    rule of its own for vmap, all of them are compared.
    """
    row = trial.report.row(VMAP)
    base = trial.task(trial.rule_flat, native=False, limited=True)
    n, m = len(base.values), len(base.vectors)

    def batched(axes: Axes) -> Any:
        return jax.vmap(lambda v, u: base.program(v, u)[:2], (axes[:n], axes[n:]), axis_size=BATCH)

    def program(values: Any, vectors: Any, which: Sequence[Axes]) -> tuple[Any, Any, Any]:
        found = []
        for axes in which:
            of = [x if axis == 0 else x[0] for axis, x in zip(axes, (*values, *vectors), strict=True)]
            found += [x for part in batched(axes)(tuple(of[:n]), tuple(of[n:])) for x in part]
        return found, (), ()

    subsets = _subsets(n, m)
    with precision(jnp.float64):
        own = any(e.primitive.name in BATCHED_BY_RULES for e in equations(trace(base)[0]))
        compared = subsets if own else subsets[: 2 if m else 1]
        avals = [tuple(abstract((BATCH, *a.shape), a.dtype) for a in part) for part in (base.values, base.vectors)]
        for axes in subsets:
            try:
                jax.make_jaxpr(partial(program, which=[axes]))(*avals)
            except Exception as error:
                text = f"it does not run under vmap{_some(trial, axes)}: {first_line(error)}"
                trial.report.fail(VMAP, "", text)
                return
    task = Task(partial(program, which=compared), avals[0], avals[1], trial.dtype, limited=True, exactly=True)
    (run,) = compile_all([task])
    if isinstance(run, Exception):
        trial.report.fail(VMAP, "", f"it does not run under vmap: {first_line(run)}")
        return
    draw = trial.draw(11)
    several = [p for p in (draw.smooth() for _ in range(BATCH)) if p is not None]
    if len(several) < BATCH:
        trial.report.skip(VMAP, "no values to run it with")
        return
    values = tuple(np.stack([p.values[i] for p in several]) for i in range(n))
    vectors = tuple(np.stack([draw.rng.standard_normal(v.shape) for _ in several]) for v in trial.vectors)
    together = run.exact(values, vectors)[0]
    for k, axes in enumerate(compared):
        of = [[x[b * (axis == 0)] for axis, x in zip(axes, (*values, *vectors), strict=True)] for b in range(BATCH)]
        want = _stacked([trial.rule.exact(x[:n], x[n:]) for x in of])

        def bounds(samples: int, of: Any = of, want: Any = want) -> list[Values]:
            return relaxed(_stacked([trial.rule.bounds(x[:n], x[n:], samples) for x in of]), want)

        got, where = together[k * len(want) : (k + 1) * len(want)], f"a batch of {BATCH}{_some(trial, axes)}"
        if not agree(trial, VMAP, trial.all_names, got, want, bounds, lambda *_: NOT_A_LOOP, where):
            return
    row.detail = f"arguments and {trial.report.derivative}s, {len(subsets) - 1} times some of them alone"


def _subsets(values: int, vectors: int) -> list[Axes]:
    """Axes of which operands are batched: all, the vectors alone, and others; each alone and all but each, if many."""
    n, m = values, vectors
    first = [(True,) * (n + m), (False,) * n + (True,) * m]
    if n + m <= 3:
        others = list(product((True, False), repeat=n + m))
    else:
        others = [tuple((k == i) == alone for k in range(n + m)) for alone in (True, False) for i in range(n + m)]
    kept = dict.fromkeys(s for s in (*first, *others) if any(s))
    return [tuple(0 if batched else None for batched in s) for s in kept]


def _some(trial: Trial, axes: Axes) -> str:
    if all(axis == 0 for axis in axes):
        return ""
    kind = "tangent" if trial.forward else "cotangent"
    names = [*trial.names, *(f"the {kind} of {name}" for name in trial.of_vectors)]
    return f" of {', '.join(name for name, axis in zip(names, axes, strict=True) if axis == 0)} alone"


def _check_traces(trial: Trial) -> None:
    """jax.checkpoint and lax.scan take the rule; with level "full" their results are compared."""
    row = trial.report.row(TRACES)
    base = trial.task(trial.rule_flat, native=False, limited=True)

    def remat(values: Any, vectors: Any) -> tuple[Any, Any, Any]:
        return trial.derivative(jax.checkpoint(trial.rule_flat))(values, vectors)

    def scanned(values: Any, vectors: Any) -> tuple[Any, Any, Any]:
        def step(carry: Any, _: Any) -> Any:
            return carry, base.program(values, vectors)[:2]

        results, derivatives = lax.scan(step, 0, None, length=2)[1]
        return [r[-1] for r in results], [d[-1] for d in derivatives], ()

    for name, program in (("jax.checkpoint", remat), ("lax.scan", scanned)):
        task = Task(program, base.values, base.vectors, trial.dtype, limited=True, exactly=True)
        try:
            with precision(jnp.float64):
                trace(task)
        except Exception as error:
            trial.report.fail(TRACES, "", f"it does not run under {name}: {first_line(error)}")
            return
        if trial.level == "full" and not _equal_program(trial, task, name):
            return
    row.detail = "compared" if trial.level == "full" else "traced"


def _equal_program(trial: Trial, task: Task, name: str) -> bool:
    (program,) = compile_all([task])
    point = trial.draw(12).smooth()
    if isinstance(program, Exception) or point is None:
        return True
    got, want = (_flat(p.exact(point.values, point.vectors)) for p in (program, trial.rule))

    def bounds(samples: int) -> list[Values]:
        return relaxed(_flat(trial.rule.bounds(point.values, point.vectors, samples)), want)

    text = f"under {name} it differs from itself"
    return agree(trial, TRACES, trial.all_names, got, want, bounds, lambda *_: text, point.name)


def _flat(both: Both) -> list[Values]:
    return [*both[0], *both[1]]


def _stacked(several: Sequence[Both]) -> list[Values]:
    return [np.stack(same) for same in zip(*map(_flat, several), strict=True)]


def _check_promotion(trial: Trial) -> None:
    """Under strict promotion a rule should run where its function does."""
    trial.report.row(PROMOTION)
    with precision(trial.dtype), jax.numpy_dtype_promotion("strict"):
        try:
            jax.eval_shape(lambda *v: trial.rule_flat(*v), *trial.kinds)
        except Exception:  # the function itself promotes
            trial.report.skip(PROMOTION, "the function itself mixes dtypes")
            return
        try:
            jax.eval_shape(trial.derivative(trial.rule_flat), trial.kinds, trial.vectors)
        except Exception as error:
            trial.report.warn(PROMOTION, f"the rule mixes dtypes, which strict promotion refuses: {first_line(error)}")


def _check_transfers(trial: Trial) -> None:
    """Callbacks to the host in the rule that the function does not have."""
    trial.report.row(TRANSFER)
    task = trial.task(trial.rule_flat, native=True, limited=True)
    with precision(trial.dtype):
        rule = _callbacks(trace(task)[0])
        function = _callbacks(jax.make_jaxpr(trial.rule_flat)(*trial.kinds))
    if rule > function:
        trial.report.warn(TRANSFER, f"the rule calls the host {rule - function} times more than the function does")


def _callbacks(jaxpr: Any) -> int:
    entered = equations(jaxpr, lambda e: e.primitive.name not in RULE_CALLS)
    return sum(e.primitive.name in CALLBACKS for e in entered)


# ---- comparing ------------------------------------------------------------------------------------------------------


def _same(a: Any, b: Any) -> bool:
    pairs = [(x, y) for i, j in zip(a, b, strict=True) for x, y in zip(i, j, strict=True)]
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def _compare(trial: Trial, check: str, point: Point, got: Any, want: Any, text: str, *, exact: bool = False) -> None:
    """Two runs of the rule in its own dtype, within twice what rounding explains."""
    if _same(got, want):
        return
    right = [w.astype(np.float64) for w in _flat(want)]
    u = unit_roundoff(trial.dtype)

    def bounds(samples: int) -> list[Values]:
        if exact:
            return [0 * w for w in right]
        room = trial.rule_rounded.bounds(point.values, point.vectors, samples, fine=False)
        return [2 * b + 4 * u * abs(np.nan_to_num(w)) for b, w in zip(_flat(room), right, strict=True)]

    dtype = short_name(trial.dtype)
    agree(trial, check, trial.all_names, _flat(got), right, bounds, lambda *_: text, point.name, dtype)
