"""Trees, shapes, dtypes and weak types of what a rule returns; zeros that are symbols; arguments left out."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import short_name
from fnconv.base.errors import invalid
from fnconv.judge.engine.programs import precision
from fnconv.judge.engine.replay import RULE_CALLS, equations, opened
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.agree import agree, relaxed
from fnconv.judge.rule.programs import Flat, Task, compile_all
from fnconv.judge.rule.trial import Trial, first_line

STRUCTURE, SYMBOLS = "structure", "arguments one by one"
ALONE = "the rule does not run"


def check_structure(trial: Trial) -> bool:
    """Whether the rule runs; what it returns is compared with what it must return."""
    row = trial.report.row(STRUCTURE)
    raw = _raw_cotangents(trial)
    with precision(trial.dtype):
        try:
            program = jax.make_jaxpr(trial.derivative(trial.rule_flat), return_shape=True)
            jaxpr, shape = program(trial.kinds, trial.vectors)
        except Exception as error:  # whatever a user's rule raises
            guess = _misshapen(trial, raw) or _explain_error(trial, error)
            trial.report.fail(STRUCTURE, "", guess)
            return False
    results, derivatives, _ = shape
    variables = opened(jaxpr).outvars[len(results) :]
    due = trial.results if trial.forward else trial.kinds
    for name, d, v, own in zip(trial.derivative_names, derivatives, variables, due, strict=False):
        if d.dtype != own.dtype:  # of tangents JAX sees to that
            text = f"the cotangent is {short_name(d.dtype)}, the argument {short_name(own.dtype)}; "
            text += f"JAX accepts it silently: bwd should end in .astype({name}.dtype)"
            trial.report.fail(STRUCTURE, name, text, dtype=short_name(own.dtype))
        elif v.aval.weak_type and not own.weak_type:
            text = "the cotangent is weakly typed, as a Python number is: whatever it is added to decides its dtype"
            trial.report.fail(STRUCTURE, name, text, dtype=short_name(own.dtype))
    for name, r, own in zip(trial.result_names, results, trial.results, strict=True):
        if (r.shape, r.dtype) != (own.shape, own.dtype):
            text = f"{'the rule' if trial.forward else 'fwd'} returns {short_name(r.dtype)}{list(r.shape)}, "
            text += f"the function {short_name(own.dtype)}{list(own.shape)}"
            trial.report.fail(STRUCTURE, name, text)
    if raw is not None:
        _check_integers(trial, raw)
    _check_reference(trial)
    row.detail = row.detail or _summary(trial, raw)
    rules = (e.params for e in equations(jaxpr_of(trial)) if e.primitive.name in RULE_CALLS)
    trial.symbolic = any(p.get("symbolic_zeros") for p in rules)
    return True


def _check_reference(trial: Trial) -> None:
    """The reference returns arrays of the same shapes."""
    if trial.reference is None:
        return
    with precision(trial.dtype):
        try:
            results, _ = jax.eval_shape(trial.reference_flat, *trial.kinds)
        except Exception as error:
            raise invalid(trial.call.judge, "reference", "must take fn's arguments", first_line(error)) from error
    if [r.shape for r in results] != [r.shape for r in trial.results]:
        rule = f"must return arrays of fn's shapes {[r.shape for r in trial.results]}"
        raise invalid(trial.call.judge, "reference", rule, [r.shape for r in results])


def jaxpr_of(trial: Trial) -> Any:
    """The function as JAX sees it before it differentiates."""
    with precision(trial.dtype):
        return jax.make_jaxpr(trial.rule_flat)(*trial.kinds)


def _summary(trial: Trial, raw: Any) -> str:
    parts = [f"{len(trial.derivative_names)} {trial.report.derivative}s"]
    none = [] if raw is None else [n for n, i in zip(trial.names, trial.call.places, strict=True) if raw[i] is None]
    if none:
        parts.append(f"bwd returns None for {', '.join(none)}")
    if trial.call.held:
        parts.append(f"{', '.join(trial.call.held)} held, known at trace time")
    return "; ".join(parts)


def _raw_cotangents(trial: Trial, values: Sequence[Any] | None = None) -> list[Any] | None:
    """What bwd returns before JAX fits it to the arguments, one entry for each leaf of theirs: shapes, None.

    values: of the moving leaves; then fwd and bwd are run, and arrays returned.  None where they cannot be called
    alone.
    """
    fn = trial.call.fn
    if not isinstance(fn, jax.custom_vjp) or fn.symbolic_zeros or fn.fwd is None or fn.bwd is None:
        return None
    fwd, bwd = fn.fwd, fn.bwd
    args, kwargs = trial.call.merge(trial.kinds if values is None else values)
    static = {i: args[i] for i in fn.nondiff_argnums if i < len(args)}
    moving = [a for i, a in enumerate(args) if i not in static]
    if kwargs:
        return None

    def run(*values: Any) -> Any:
        given = iter(values)
        full = [static[i] if i in static else next(given) for i in range(len(args))]
        out, residuals = fwd(*full)
        ones = jax.tree.map(lambda o: jnp.ones(jnp.shape(o), jnp.result_type(o)), out)
        return bwd(*static.values(), residuals, ones)

    with precision(trial.dtype):
        try:
            returned = jax.eval_shape(run, *moving) if values is None else run(*moving)
        except Exception:  # then JAX says what is wrong
            return None
    return _by_leaf(args, static, returned)


def _by_leaf(args: Sequence[Any], static: Container[int], returned: Any) -> list[Any] | None:
    """The cotangents in the places of the arguments' leaves."""
    if not isinstance(returned, tuple | list) or len(returned) != sum(i not in static for i in range(len(args))):
        return None
    given, leaves = iter(returned), list[Any]()
    for i, argument in enumerate(args):
        count = len(jax.tree.leaves(argument))
        value = None if i in static else next(given)
        found = [None] * count if value is None else jax.tree.leaves(value, is_leaf=lambda v: v is None)
        if len(found) != count:
            return None
        leaves += found
    return leaves


def _check_integers(trial: Trial, raw: list[Any]) -> None:
    """Cotangents of integers and booleans, which JAX drops without a word."""
    integer = [i for i, leaf in enumerate(trial.call.all.values) if i not in trial.call.places and _is_exact(leaf)]
    given = [i for i in integer if raw[i] is not None and raw[i].dtype != jax.dtypes.float0]
    values = [leaf.value for leaf in trial.call.moving]
    if not given or any(v is None for v in values):
        return
    arrays = [jnp.asarray(v, k.dtype) for v, k in zip(values, trial.kinds, strict=True)]
    made = _raw_cotangents(trial, arrays)
    for i in given:
        name = trial.call.all.names[i]
        advice = f"JAX drops it silently; the cotangent of {name}, of integers, is None"
        if made is not None and np.asarray(made[i]).any():
            trial.report.fail(STRUCTURE, name, f"bwd returns numbers other than zero for it: {advice}")
        else:
            trial.report.warn(STRUCTURE, f"bwd returns zeros of {short_name(raw[i].dtype)} for {name}: {advice}")


def _is_exact(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and (jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == bool)


def _misshapen(trial: Trial, raw: list[Any] | None) -> str:
    """A cotangent of another shape than its argument's."""
    if raw is None:
        return ""
    for leaf, i in zip(trial.call.moving, trial.call.places, strict=True):
        r = raw[i]
        if r is None or r.shape == leaf.shape:
            continue
        start = f"bwd returns shape {tuple(r.shape)} for {leaf.name} of shape {leaf.shape}: "
        extra = len(r.shape) - len(leaf.shape)
        if extra > 0 and r.shape[extra:] == leaf.shape:
            return start + f"cotangent not summed over the broadcast {_axes(range(extra))}"
        padded = (1,) * extra + leaf.shape if extra >= 0 else leaf.shape
        if len(padded) == len(r.shape) and all(a in (1, b) for a, b in zip(padded, r.shape, strict=True)):
            broadcast = [i for i, (a, b) in enumerate(zip(padded, r.shape, strict=True)) if a != b or i < extra]
            return start + f"cotangent not summed over the broadcast {_axes(broadcast)}"
        if sorted(r.shape) == sorted(leaf.shape):
            return start + "its axes are exchanged: transposed?"
        if np.prod(r.shape) == np.prod(leaf.shape):
            return start + "it is not reshaped back"
        return start + "summed over an axis too many?" if extra < 0 else start.removesuffix(": ")
    return ""


def _axes(axes: Any) -> str:
    numbers = list(axes)
    return f"axis {numbers[0]}" if len(numbers) == 1 else f"axes {', '.join(map(str, numbers))}"


def _explain_error(trial: Trial, error: Exception) -> str:
    """The error, and what it says of the rule."""
    text = first_line(error)
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError):
        return f"the rule needs its numbers at trace time, so it cannot run inside jit, vmap or scan: {text}"
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return f"the rule keeps a tracer from an earlier trace (a global, an attribute?): {text}"
    whole = " ".join(str(error).split())
    return f"{ALONE}: {type(error).__name__}: {whole[:400]}"


def check_one_by_one(trial: Trial) -> None:
    """Each argument differentiated alone, each result alone: rules that see which ones are asked for may differ.

    The cotangents are evaluated in float64 whatever dtypes the rule casts to.
    """
    n, m = len(trial.call.moving), len(trial.results)
    if not trial.symbolic and (m <= 1 or trial.level == "quick"):
        return
    row, draw = trial.report.row(SYMBOLS), trial.draw(7)
    point, kinds = draw.smooth(), trial.traced_for(trial.rule_flat)
    if point is None or kinds is None or (n == 1 and m == 1):
        return
    asked = [0]

    def alone(values: Any, vectors: Any) -> tuple[Any, Any, Any]:
        parts: dict[int, Any] = {}
        for i, k in product(range(n), range(m)):
            asked[0] = i
            along, of = (i, k) if trial.forward else (k, i)
            (part,) = trial.derivative(_alone(trial, values, i, k))((values[i],), (vectors[along],))[1]
            parts[of] = parts[of] + part if of in parts else part
        return (), [parts[of] for of in sorted(parts)], ()

    (program,) = compile_all([Task(alone, *kinds, trial.dtype, limited=True, exactly=True)])
    if isinstance(program, Exception):
        name = trial.names[asked[0]]
        text = f"differentiating by {name} alone fails: {first_line(program)}"
        trial.report.fail(SYMBOLS, name, text)
        return
    got, want = (p.exact(point.values, point.vectors)[1] for p in (program, trial.rule))

    def bounds(samples: int) -> list[Values]:
        return relaxed(trial.rule.bounds(point.values, point.vectors, samples)[1], want)

    text = "differentiated by one argument and one result at a time, it differs from all at once: symbolic zeros?"
    if agree(trial, SYMBOLS, trial.derivative_names, got, want, bounds, lambda *_: text, point.name):
        row.detail = "the same"


def _alone(trial: Trial, values: Sequence[Any], i: int, k: int) -> Flat:
    """Result k as a function of leaf i, everything else held."""
    return lambda value: ((trial.rule_flat(*values[:i], value, *values[i + 1 :])[0][k],), ())
