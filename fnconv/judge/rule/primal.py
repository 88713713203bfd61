"""The plain forward of a function: the same computation without anybody's own derivative rules.

The jaxpr is evaluated again with each call of a `jax.custom_vjp` function, of a `jax.custom_jvp` function that is not
JAX's own, and of a linear map of this package replaced by what it computes; automatic differentiation of the result
goes through the computation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import lax
from jax.extend import core, source_info_util

from fnconv.base.attach import LinearMap

JAXPRS = tuple({core.Jaxpr, core.ClosedJaxpr})  # one class from JAX 0.12 on
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
RULES = ("custom_vjp_call", "custom_jvp_call")
source_info_util.register_exclusion(str(Path(__file__).parents[1]))  # the source of a step is the user's line
_JAX = str(Path(jax.__file__).parent)


def without_rules(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun`, with every derivative rule but JAX's own left out."""

    def plain(*args: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        leaves = jax.tree.leaves(args)
        return jax.tree.unflatten(jax.tree.structure(shape), evaluate(jaxpr, leaves))

    return plain


def has_rules(jaxpr: Any) -> bool:
    """Whether a rule that is not JAX's own stands anywhere in it."""
    return any(_replaced(e) or any(map(has_rules, inner(e))) for e in opened(jaxpr).eqns)


def evaluate(jaxpr: Any, operands: Sequence[Any]) -> list[Any]:
    """The jaxpr's results, rules left out."""
    body = opened(jaxpr)
    env: dict[Any, Any] = dict(zip(body.invars, operands, strict=True))
    env |= dict(zip(body.constvars, consts(jaxpr), strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else env[v]

    for e in body.eqns:
        results = _equation(e, [read(v) for v in e.invars])
        env |= dict(zip(e.outvars, results, strict=True))
    return [read(v) for v in body.outvars]


def _equation(e: Any, operands: list[Any]) -> list[Any]:
    name = e.primitive.name
    if isinstance(e.params.get("map"), LinearMap):
        return [e.primitive.impl(*operands, **e.params)]
    if _replaced(e) or (name in CALLS and has_rules(inner(e)[0])):
        return evaluate(inner(e)[0], operands)
    if any(map(has_rules, inner(e))):
        run = LOOPS.get(name)
        if run is not None:
            return run(e, operands, evaluate)
    return bind(e, operands)


def bind(e: Any, operands: Sequence[Any], params: Any = None) -> list[Any]:
    """An equation as it stands, on other operands."""
    source = source_info_util.user_context(e.source_info.traceback)
    with source, e.ctx.manager:  # mesh, compute_on, metadata
        parameters = e.primitive.get_bind_params(e.params if params is None else params)
        results = e.primitive.bind(*operands, **parameters)
    return list(results) if e.primitive.multiple_results else [results]


# ---- loops: their bodies evaluated by a function --------------------------------------------------------------------

Body = Callable[[Any, Sequence[Any]], list[Any]]


def scan(e: Any, operands: Sequence[Any], body: Body) -> list[Any]:
    p = e.params
    constants, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    fixed = operands[:constants]

    def step(carry: Any, x: Any) -> Any:
        results = body(p["jaxpr"], [*fixed, *carry, *x])
        return results[: p["num_carry"]], results[p["num_carry"] :]

    start, xs = list(operands[constants:carried]), list(operands[carried:])
    carry, ys = lax.scan(step, start, xs, length=p["length"], reverse=p["reverse"], unroll=p["unroll"])
    return [*carry, *ys]


def while_loop(e: Any, operands: Sequence[Any], body: Body) -> list[Any]:
    p = e.params
    c, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    of_cond, of_body, start = operands[:c], operands[c:b], list(operands[b:])
    return list(
        lax.while_loop(
            lambda carry: body(p["cond_jaxpr"], [*of_cond, *carry])[0],
            lambda carry: body(p["body_jaxpr"], [*of_body, *carry]),
            start,
        )
    )


def cond(e: Any, operands: Sequence[Any], body: Body) -> list[Any]:
    index, *rest = operands
    branches = [lambda *xs, j=j: body(j, xs) for j in e.params["branches"]]
    return list(lax.switch(index, branches, *rest))


LOOPS: dict[str, Callable[[Any, Sequence[Any], Body], list[Any]]] = {"scan": scan, "while": while_loop, "cond": cond}


# ---- jaxprs ---------------------------------------------------------------------------------------------------------


def opened(jaxpr: Any) -> Any:
    """Without its constants."""
    return jaxpr.jaxpr if len(JAXPRS) == 2 and isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def consts(jaxpr: Any) -> Sequence[Any]:
    return getattr(jaxpr, "consts", ()) or ()


def inner(e: Any) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    found: list[Any] = []
    for value in e.params.values():
        values = value if isinstance(value, tuple | list) else (value,)
        found += [v for v in values if isinstance(v, JAXPRS)]
    return found


def _replaced(e: Any) -> bool:
    """Whether the equation has a rule of somebody's own."""
    if isinstance(e.params.get("map"), LinearMap):
        return True
    if e.primitive.name not in RULES:
        return False
    return e.primitive.name == "custom_vjp_call" or not _written_by_jax(inner(e)[0])


def _written_by_jax(jaxpr: Any) -> bool:
    return f" at {_JAX}" in (opened(jaxpr).debug_info.func_src_info or "")
