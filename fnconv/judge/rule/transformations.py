"""The rule under JAX's transformations: eager, jit, vmap, checkpoint, scan; run twice, traced twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.judge.engine.running_error import Arithmetic, Values
from fnconv.judge.own.programs import arithmetic
from fnconv.judge.own.references import abstract
from fnconv.judge.rule import primal
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.linearity import smooth_point
from fnconv.judge.rule.programs import FACTOR, MORE, SAMPLES, Native, Task, compile_wide, trace, value_and_cotangents
from fnconv.judge.rule.report import FAILS, Failure
from fnconv.judge.rule.trial import Trial, first_line, short

EAGER, REPEAT, STALE, VMAP = "jit = eager", "repeated runs", "two traces at once", "vmap = loop"
TRACES, PROMOTION, TRANSFER = "checkpoint, scan", "strict promotion", "host transfers"
CALLBACKS = ("pure_callback", "io_callback", "debug_callback")
BATCH = 3


def check_transformations(trial: Trial) -> None:
    """All of them; those that evaluate use the same smooth data."""
    point = smooth_point(trial.draw(9))
    if point is None:
        return
    rounded = point.rounded([k.dtype for k in trial.kinds], [r.dtype for r in trial.results])
    _check_eager(trial, rounded)
    _check_two_traces(trial, rounded)
    _check_vmap(trial)
    _check_traces(trial)
    _check_promotion(trial)
    _check_transfers(trial)


def _check_eager(trial: Trial, point: Point) -> None:
    row, again = trial.report.row(EAGER), trial.report.row(REPEAT)
    eager = Native(value_and_cotangents(trial.rule_flat), trial.dtype, eager=True)
    jitted = trial.run_native(point)
    try:
        first, second = trial.run_native(point, eager), trial.run_native(point, eager)
    except Exception as error:  # whatever a user's rule raises
        trial.report.fail(Failure(EAGER, "", f"it runs under jit only: {first_line(error)}"))
        return
    _compare(
        trial, EAGER, point, first, jitted, "jit and eager evaluation differ: a side effect, or a test for tracers?"
    )
    if row.status != FAILS:
        row.detail = "bitwise" if _same(first, jitted) else "within rounding"
    for name, pair in (("eager", (first, second)), ("jit", (jitted, trial.run_native(point)))):
        if not _same(*pair):
            _compare(
                trial,
                REPEAT,
                point,
                *pair,
                f"two {name} runs on the same numbers differ: random numbers, or a state?",
                exact=True,
            )
            return
    again.detail = "bitwise"


def _check_two_traces(trial: Trial, point: Point) -> None:
    """Pullbacks that are alive at the same time, and one whose forward was traced: residuals kept outside show."""
    trial.report.row(STALE)
    other = smooth_point(trial.draw(10))
    if other is None:
        return
    other = other.rounded([k.dtype for k in trial.kinds], [r.dtype for r in trial.results])
    want = trial.run_native(point)
    with arithmetic(trial.dtype):
        a, b = ([jnp.asarray(v, k.dtype) for v, k in zip(p.values, trial.kinds, strict=True)] for p in (point, other))
        u = tuple(jnp.asarray(c, r.dtype) for c, r in zip(point.cotangents, trial.results, strict=True))
        try:
            value, pull, _ = jax.vjp(trial.rule_flat, *a, has_aux=True)
            jax.vjp(trial.rule_flat, *b, has_aux=True)
            late = tuple(map(np.asarray, value)), tuple(map(np.asarray, pull(u)))
            value, pull, _ = jax.vjp(jax.jit(trial.rule_flat), *a, has_aux=True)
            traced = tuple(map(np.asarray, value)), tuple(map(np.asarray, pull(u)))
        except Exception as error:
            leak = isinstance(error, jax.errors.UnexpectedTracerError) or "Tracer" in str(error)
            guess = (
                "the rule keeps a tracer outside of its residuals (a global, an attribute?)"
                if leak
                else "vjp of jit fails"
            )
            trial.report.fail(Failure(STALE, "", f"{guess}: {first_line(error)}"))
            return
    text = "the pullback of one call uses numbers of a later one: residuals belong into what fwd returns"
    _compare(trial, STALE, point, late, want, text)
    _compare(trial, STALE, point, traced, want, "vjp of the jitted function differs from the function's own")


def _check_vmap(trial: Trial) -> None:
    """A batch of primals and cotangents at once, in float64, against one after the other."""
    row = trial.report.row(VMAP)
    base = trial.task(trial.rule_flat, native=False, own=True)

    def batched(values: Any, cotangents: Any) -> tuple[Any, Any, Any]:
        results, gradients, _ = jax.vmap(lambda v, c: (*base.program(v, c)[:2], ()))(tuple(values), tuple(cotangents))
        return results, gradients, ()

    def stacked(avals: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(abstract((BATCH, *a.shape), a.dtype) for a in avals)

    task = Task(batched, stacked(base.values), stacked(base.cotangents), trial.dtype, True, quiet=True)
    (program,) = compile_wide([task])
    if isinstance(program, Exception):
        trial.report.fail(Failure(VMAP, "", f"it does not run under vmap: {first_line(program)}"))
        return
    draw = trial.draw(11)
    several = [p for p in (smooth_point(draw) for _ in range(BATCH)) if p is not None]
    values = tuple(np.stack([p.values[i] for p in several]) for i in range(len(trial.kinds)))
    cotangents = tuple(np.stack([draw.rng.standard_normal(r.shape) for _ in several]) for r in trial.results)
    got = program.clean(values, cotangents)
    single = [tuple(c[b] for c in cotangents) for b in range(BATCH)]
    loop = [trial.rule.clean(p.values, c) for p, c in zip(several, single, strict=True)]

    def room(part: int, i: int, samples: int) -> Values:
        runs = [
            trial.rule.spread(p.values, c, native=False, samples=samples) for p, c in zip(several, single, strict=True)
        ]
        return np.stack([r[part][i] for r in runs])

    for part in (0, 1):
        for i, g in enumerate(got[part]):
            want = np.stack([r[part][i] for r in loop])
            size = float(abs(np.where(np.isfinite(want), want, 0)).max(initial=0))

            def bound(samples: int, part: int = part, i: int = i, size: float = size) -> Values:
                return np.asarray(4 * FACTOR * room(part, i, samples) + 2.0**-48 * size)

            name = (trial.result_names, trial.names)[part][i]
            text = "under vmap it differs from a loop: a reduction over a batch axis, or a rule that counts axes?"
            if _numbers(trial, VMAP, name, g, want, bound, "normal floats, a batch of 3", "float64", text):
                return
    row.detail = row.detail or "primals and cotangents"


def _check_traces(trial: Trial) -> None:
    """jax.checkpoint and lax.scan take the rule; with level "full" their results are compared."""
    row = trial.report.row(TRACES)
    base = trial.task(trial.rule_flat, native=False, own=True)

    def remat(values: Any, cotangents: Any) -> tuple[Any, Any, Any]:
        return value_and_cotangents(jax.checkpoint(trial.rule_flat))(values, cotangents)

    def scanned(values: Any, cotangents: Any) -> tuple[Any, Any, Any]:
        def step(carry: Any, _: Any) -> Any:
            return carry, base.program(values, cotangents)[:2]

        results, gradients = lax.scan(step, 0, None, length=2)[1]
        return [r[-1] for r in results], [g[-1] for g in gradients], ()

    for name, program in (("jax.checkpoint", remat), ("lax.scan", scanned)):
        task = Task(program, base.values, base.cotangents, trial.dtype, True, quiet=True)
        try:
            with arithmetic(jnp.float64):
                trace(task)
        except Exception as error:
            trial.report.fail(Failure(TRACES, "", f"it does not run under {name}: {first_line(error)}"))
            return
        if trial.level == "full" and not _equal_program(trial, task, name):
            return
    row.detail = "compared" if trial.level == "full" else "traced"


def _equal_program(trial: Trial, task: Task, name: str) -> bool:
    (program,) = compile_wide([task])
    point = smooth_point(trial.draw(12))
    if isinstance(program, Exception) or point is None:
        return True
    got, want = program.clean(point.values, point.cotangents), trial.rule.clean(point.values, point.cotangents)
    for part in (0, 1):
        for i, (g, w) in enumerate(zip(got[part], want[part], strict=True)):
            size = 2.0**-48 * float(abs(np.where(np.isfinite(w), w, 0)).max(initial=0))

            def bound(samples: int, part: int = part, i: int = i, size: float = size) -> Values:
                room = trial.rule.spread(point.values, point.cotangents, native=False, samples=samples)
                return np.asarray(4 * FACTOR * room[part][i] + size)

            label = (trial.result_names, trial.names)[part][i]
            text = f"under {name} it differs from itself"
            if _numbers(trial, TRACES, label, g, w, bound, point.name, "float64", text):
                return False
    return True


def _check_promotion(trial: Trial) -> None:
    """Under strict promotion a rule should run where its function does."""
    trial.report.row(PROMOTION)
    cotangents = tuple(abstract(r.shape, r.dtype) for r in trial.results)
    with arithmetic(trial.dtype), jax.numpy_dtype_promotion("strict"):
        try:
            jax.eval_shape(lambda *v: trial.rule_flat(*v), *trial.kinds)
        except Exception:  # the function itself promotes
            trial.report.skip(PROMOTION, "the function itself mixes dtypes")
            return
        try:
            jax.eval_shape(value_and_cotangents(trial.rule_flat), trial.kinds, cotangents)
        except Exception as error:
            trial.report.warn(PROMOTION, f"the rule mixes dtypes, which strict promotion refuses: {first_line(error)}")


def _check_transfers(trial: Trial) -> None:
    """Callbacks to the host in the rule that the function does not have."""
    trial.report.row(TRANSFER)
    task = trial.task(trial.rule_flat, native=True, own=True)
    with arithmetic(trial.dtype):
        rule = _callbacks(trace(task)[0])
        function = _callbacks(jax.make_jaxpr(trial.rule_flat)(*trial.kinds))
    if rule > function:
        trial.report.warn(TRANSFER, f"the rule calls the host {rule - function} times more than the function does")


def _callbacks(jaxpr: Any) -> int:
    count = 0
    for e in primal.opened(jaxpr).eqns:
        count += e.primitive.name in CALLBACKS
        if e.primitive.name not in ("custom_vjp_call", "custom_jvp_call"):
            count += sum(_callbacks(j) for j in primal.inner(e))
    return count


# ---- comparing ------------------------------------------------------------------------------------------------------

Both = tuple[Sequence[Any], Sequence[Any]]


def _same(a: Both, b: Both) -> bool:
    pairs = [(x, y) for i, j in zip(a, b, strict=True) for x, y in zip(i, j, strict=True)]
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def _compare(trial: Trial, check: str, point: Point, got: Both, want: Both, text: str, *, exact: bool = False) -> None:
    """Two runs of the rule in its own dtype, within twice what rounding explains."""
    if _same(got, want):
        return
    u = Arithmetic.of(trial.dtype).u
    for part in (0, 1):
        for i, (g, w) in enumerate(zip(got[part], want[part], strict=True)):
            g, w = g.astype(np.float64), w.astype(np.float64)

            def bound(samples: int, part: int = part, i: int = i, w: Values = w) -> Values:
                if exact:
                    return np.zeros_like(w)
                room = trial.rule_rounded.spread(point.values, point.cotangents, native=True, samples=samples)
                return np.asarray(2 * FACTOR * room[part][i] + 4 * u * abs(np.nan_to_num(w)))

            name = (trial.result_names, trial.names)[part][i]
            if _numbers(trial, check, name, g, w, bound, point.name, short(trial.dtype), text):
                return


def _numbers(
    trial: Trial,
    check: str,
    name: str,
    got: Values,
    want: Values,
    bounds: Callable[[int], Values],
    data: str,
    dtype: str,
    text: str,
) -> bool:
    """Write a failure down if two arrays differ by more than the bound, which takes a number of samples."""
    for samples in (SAMPLES, MORE):
        bound = bounds(samples)
        with np.errstate(invalid="ignore"):
            bad = ~((abs(got - want) <= bound) | (got == want) | (np.isnan(got) & np.isnan(want)) | np.isinf(bound))
        if not bad.any():
            return False
    index = tuple(
        int(k) for k in np.unravel_index(int(np.where(bad, abs(np.nan_to_num(got - want)), -1).argmax()), got.shape)
    )
    error, size = float(abs(got - want)[index]), float(bound[index])
    ratio = error / size if size else float("inf")
    facts = (index, float(got[index]), float(want[index]), error, size, ratio, int(bad.sum()), int(got.size))
    trial.report.fail(Failure(check, name, text, data, dtype, *facts))
    return True


Check = Callable[[Trial], None]
