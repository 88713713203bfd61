"""Evaluation of a jaxpr once more, in an arithmetic of the caller's choice.

`replay` walks over the equations and into the bodies of calls, loops, branches and shards.  What a step means, an
`Arithmetic` says: with or without derivative rules (here), in float64, with rounding errors, on whole numbers (see
`rounding`), with gates on the derivative of each step (`rule.routes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core, source_info_util

from fnconv.base.attach import LinearMap
from fnconv.transform.jaxpr import over_shards

Arrays = Sequence[Any]
JAXPRS = tuple({core.Jaxpr, core.ClosedJaxpr})  # one class from JAX 0.12 on
RULE_CALLS = ("custom_vjp_call", "custom_jvp_call")
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", *RULE_CALLS)
_JAX = str(Path(jax.__file__).parent)
source_info_util.register_exclusion(str(Path(__file__).parents[1]))  # the source of a step is the user's line


class Arithmetic:
    """Every step as it was traced; subclasses change what a constant or a step is.

    numbered: whether the iterations of a loop differ, so that `at` has to be told their number.
    """

    numbered = False
    more = False  # whether loops take twice as many steps and one: see `continued`

    def at(self, iteration: Any) -> Arithmetic:
        """The arithmetic of one iteration of a loop."""
        return self

    def apart(self) -> Arithmetic:
        """The arithmetic of a body that is traced by itself: none of its values is known outside."""
        return self

    def body(self, jaxpr: Any) -> Arithmetic:
        """The arithmetic of a jaxpr that is about to be evaluated."""
        return self

    def constant(self, value: Any, aval: Any) -> Any:
        """A literal or a constant of the program."""
        return value

    def equation(self, e: Any, operands: Arrays) -> Arrays:
        """The results of an equation."""
        structure = STRUCTURES.get(e.primitive.name)
        return bind(e, operands) if structure is None else structure(e, operands, self)


def replay(jaxpr: Any, operands: Arrays, arithmetic: Arithmetic) -> list[Any]:
    """The results of a jaxpr."""
    body, arithmetic = opened(jaxpr), arithmetic.body(jaxpr)
    values: dict[Any, Any] = dict(zip(body.invars, operands, strict=True))
    consts = getattr(jaxpr, "consts", ()) or ()
    values |= {v: arithmetic.constant(c, v.aval) for v, c in zip(body.constvars, consts, strict=True)}

    def read(v: Any) -> Any:
        return arithmetic.constant(v.val, v.aval) if isinstance(v, core.Literal) else values[v]

    for e in body.eqns:
        results = arithmetic.equation(e, [read(v) for v in e.invars])
        values |= zip(e.outvars, results, strict=True)
    return [read(v) for v in body.outvars]


def bind(e: Any, operands: Arrays, params: Any = None) -> list[Any]:
    """An equation as it stands, on other operands."""
    source = source_info_util.user_context(e.source_info.traceback)
    with source, e.ctx.manager:  # mesh, compute_on, metadata
        parameters = e.primitive.get_bind_params(e.params if params is None else params)
        results = e.primitive.bind(*operands, **parameters)
    return list(results) if e.primitive.multiple_results else [results]


def opened(jaxpr: Any) -> Any:
    """The jaxpr without its constants."""
    return jaxpr.jaxpr if len(JAXPRS) == 2 and isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def inner(e: Any) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    values = [v if isinstance(v, tuple | list) else (v,) for v in e.params.values()]
    return [v for several in values for v in several if isinstance(v, JAXPRS)]


def equations(jaxpr: Any, enter: Callable[[Any], bool] = lambda e: True) -> list[Any]:
    """All equations, those of inner jaxprs behind the one that holds them, where `enter` says so."""
    found: list[Any] = []
    for e in opened(jaxpr).eqns:
        found += [e, *(i for j in inner(e) * enter(e) for i in equations(j, enter))]
    return found


# ---- control flow ---------------------------------------------------------------------------------------------------


def _inline(e: Any, operands: Arrays, arithmetic: Arithmetic) -> Arrays:
    return replay(inner(e)[0], operands, arithmetic)


def _scan(e: Any, operands: Arrays, arithmetic: Arithmetic) -> Arrays:
    q, body = e.params, opened(e.params["jaxpr"])  # how many of each there are is called otherwise in JAX 0.12
    carried = sum(_same_rank(v, w) for v, w in zip(e.outvars, body.outvars, strict=True))
    consts = sum(_same_rank(v, w) for v, w in zip(e.invars, body.invars, strict=True)) - carried
    fixed, init, xs = operands[:consts], operands[consts : consts + carried], operands[consts + carried :]

    def step(carry: Any, x: Any) -> Any:
        i, values = carry
        results = replay(q["jaxpr"], [*fixed, *values, *x], arithmetic if i is None else arithmetic.at(i))
        return (_next(i), results[:carried]), results[carried:]

    more = arithmetic.more and consts + carried == len(operands) and carried == len(body.outvars)
    length = q["length"] * (2 if more else 1) + more
    options = {"length": length, "reverse": q["reverse"], "unroll": q["unroll"]}
    (_, last), ys = lax.scan(step, (_first(arithmetic), list(init)), list(xs), **options)
    return [*last, *ys]


def _same_rank(of_scan: Any, of_body: Any) -> bool:
    """Whether a value goes into or out of the body as it is, not slice by slice."""
    same: bool = of_scan.aval.ndim == of_body.aval.ndim
    return same


def _while(e: Any, operands: Arrays, arithmetic: Arithmetic) -> Arrays:
    q = e.params
    c, b = q["cond_nconsts"], q["cond_nconsts"] + q["body_nconsts"]
    of_cond, of_body, init = operands[:c], operands[c:b], operands[b:]

    def goes_on(values: Arrays) -> Any:
        return replay(q["cond_jaxpr"], [*of_cond, *values], arithmetic.apart())[0]

    def body(carry: Any) -> Any:
        i, values = carry
        results = replay(q["body_jaxpr"], [*of_body, *values], arithmetic if i is None else arithmetic.at(i))
        going = goes_on(values)
        if going.ndim:  # under vmap every member of the batch ends on its own
            results = [
                jnp.where(jnp.expand_dims(going, range(going.ndim, r.ndim)), r, v)
                for r, v in zip(results, values, strict=True)
            ]
        return _next(i), results

    def condition(carry: Any) -> Any:
        return jnp.any(goes_on(carry[1]))

    if not arithmetic.more:
        return list(lax.while_loop(condition, body, (_first(arithmetic), list(init)))[1])

    def counted(carry: Any) -> Any:
        return carry[0] + 1, replay(q["body_jaxpr"], [*of_body, *carry[1]], arithmetic)

    def another(_: Any, values: Any) -> Any:
        """One more, while it can be told from the last."""
        new = replay(q["body_jaxpr"], [*of_body, *values], arithmetic)
        finite = jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(v)) for v in new if jnp.issubdtype(v.dtype, jnp.inexact)] or [True])
        )
        return [jnp.where(finite, n, v) for n, v in zip(new, values, strict=True)]

    count, values = lax.while_loop(condition, counted, (jnp.int32(0), list(init)))
    return list(lax.fori_loop(0, count + 1, another, values))


def _first(arithmetic: Arithmetic) -> Any:
    return jnp.uint32(0) if arithmetic.numbered else None


def _next(i: Any) -> Any:
    return None if i is None else i + np.uint32(1)


def _cond(e: Any, operands: Arrays, arithmetic: Arithmetic) -> Arrays:
    which, *rest = operands
    branches = [lambda *given, b=b: replay(b, given, arithmetic.apart()) for b in e.params["branches"]]
    return list(lax.switch(which, branches, *rest))


def _shard_map(e: Any, operands: Arrays, arithmetic: Arithmetic) -> Arrays:
    def body(*shards: Any) -> Any:
        return tuple(replay(e.params["jaxpr"], shards, arithmetic.apart()))

    return list(over_shards(body, e)(*operands))


LOOPS: dict[str, Callable[[Any, Arrays, Arithmetic], Arrays]] = {"scan": _scan, "while": _while, "cond": _cond}
STRUCTURES = {**dict.fromkeys(CALLS, _inline), **LOOPS, "shard_map": _shard_map}


# ---- without derivative rules ---------------------------------------------------------------------------------------


class WithoutRules(Arithmetic):
    """The same computation with the derivative rules left out that are not JAX's own.

    Calls of `jax.custom_vjp` functions, of `jax.custom_jvp` functions that are not JAX's, and linear maps of this
    package become what they compute, so that automatic differentiation goes through that.
    """

    def equation(self, e: Any, operands: Arrays) -> Arrays:
        if isinstance(e.params.get("map"), LinearMap):
            return [e.primitive.impl(*operands, **e.params)]
        structure = STRUCTURES.get(e.primitive.name)
        if structure is None or not (_has_own_rule(e) or any(map(has_rules, inner(e)))):
            return bind(e, operands)
        return structure(e, operands, self)


def without_rules(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun`, with every derivative rule but JAX's own left out."""
    return _replayed(fun, WithoutRules())


def _replayed(fun: Callable[..., Any], arithmetic: Arithmetic) -> Callable[..., Any]:
    def again(*args: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shape), replay(jaxpr, jax.tree.leaves(args), arithmetic))

    return again


class _Held(Arithmetic):
    """Results of stop_gradient are those of the second of two runs side by side."""

    def equation(self, e: Any, operands: Arrays) -> Arrays:
        if e.primitive.name == "stop_gradient":
            return [lax.all_gather(x, _HELD)[1] for x in operands]
        return super().equation(e, operands)


_HELD = "held"


def holding(fun: Callable[..., Any]) -> Callable[..., Any]:
    """(values, others) -> fun(*values), with its results of stop_gradient those of fun(*others)."""

    def held(values: Arrays, others: Arrays) -> Any:
        pairs = [jnp.stack(pair) for pair in zip(values, others, strict=True)]
        both = jax.vmap(_replayed(fun, _Held()), axis_name=_HELD)(*pairs)
        return jax.tree.map(lambda r: r[0], both)

    return held


def holds(jaxpr: Any) -> bool:
    """Whether there is a stop_gradient anywhere in it."""
    return any(e.primitive.name == "stop_gradient" for e in equations(jaxpr))


class _Continued(Arithmetic):
    """Loops without inputs of their own for each step go on when they should end."""

    more = True

    def equation(self, e: Any, operands: Arrays) -> Arrays:
        structure = STRUCTURES.get(e.primitive.name)
        if structure is None or not (is_loop(e) or any(map(has_loops, inner(e)))):
            return bind(e, operands)
        return structure(e, operands, self)


def continued(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun`, its loops with twice as many steps and one: nearly the same result where they have converged."""
    return _replayed(fun, _Continued())


def is_loop(e: Any) -> bool:
    """Whether an equation repeats a step on what it carries alone."""
    if e.primitive.name == "scan":
        body = opened(e.params["jaxpr"])
        return len(e.outvars) == len(body.outvars) and all(
            map(_same_rank, (*e.outvars, *e.invars), (*body.outvars, *body.invars))
        )
    return bool(e.primitive.name == "while")


def has_loops(jaxpr: Any) -> bool:
    """Whether such a loop stands anywhere in it."""
    return any(map(is_loop, equations(jaxpr)))


def has_rules(jaxpr: Any) -> bool:
    """Whether a rule that is not JAX's own stands anywhere in it."""
    return any(map(_has_own_rule, equations(jaxpr)))


def _has_own_rule(e: Any) -> bool:
    if isinstance(e.params.get("map"), LinearMap) or e.primitive.name == "custom_vjp_call":
        return True
    if e.primitive.name != "custom_jvp_call":
        return False
    function, rule = opened(inner(e)[0]).debug_info, e.params["jvp_jaxpr_fun"].debug_info
    return not all(info and f" at {_JAX}" in (info.func_src_info or "") for info in (function, rule))
