"""A program once more in float64, with or without the rounding errors of its own types.

The program is a jaxpr, so that what a model computes in float16 or float32, whatever it says in Python, is replayed
as it was traced: the same operations on the same numbers, each result a float64.  `Rounding` may add to each result
what rounding could have done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from fnconv.judge.model.rounding import Rounding
from fnconv.transform.contraction import Contraction
from fnconv.transform.jaxpr import over_shards

Values = Sequence[Any]
JAXPRS = tuple({core.Jaxpr, core.ClosedJaxpr})  # one class from JAX 0.12 on

# they read bits, draw numbers or leave JAX: in float64 they would be something else
NATIVE = ("bitcast_convert_type", "nextafter", "pure_callback", "io_callback", "ffi_call", "random_", "rng_uniform")
REDUCERS = ("scatter", "scatter_add", "scatter_sub", "scatter_mul", "scatter_min", "scatter_max", "reduce")
DTYPES = ("new_dtype", "dtype", "preferred_element_type")


def wide(dtype: Any) -> Any:
    """float64 for a floating type, complex128 for a complex one, any other type itself."""
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    return np.dtype(np.complex128) if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


def widen(value: Any) -> Any:
    """An array with the type that it has in a replay."""
    dtype = jax.typeof(value).dtype
    value = jnp.asarray(value, dtype) if isinstance(value, bool | int | float | complex) else value
    return value if wide(dtype) == dtype else lax.convert_element_type(value, wide(dtype))


def replay(jaxpr: Any, operands: Values, rounding: Rounding) -> list[Any]:
    """The results of a jaxpr, in float64; 64-bit types must be enabled.

    Raises:
      NotImplementedError: it holds an operation that cannot be evaluated in another type.
    """
    inner = opened(jaxpr)
    consts = getattr(jaxpr, "consts", ())
    values: dict[Any, Any] = dict(zip(inner.constvars, map(widen, consts), strict=True))
    values.update(zip(inner.invars, operands, strict=True))

    def read(v: Any) -> Any:
        literal = isinstance(v, core.Literal)
        return widen(np.asarray(v.val, v.aval.dtype)) if literal else values[v]

    for e in inner.eqns:
        if "debug_callback" in e.primitive.name or e.primitive.name == "debug_print":
            continue
        results = _equation(e, [read(v) for v in e.invars], rounding)
        values.update(zip(e.outvars, results, strict=True))
    return [read(v) for v in inner.outvars]


def opened(jaxpr: Any) -> Any:
    """The jaxpr without its constants."""
    return jaxpr.jaxpr if len(JAXPRS) == 2 and isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _equation(e: Any, operands: Values, rounding: Rounding) -> Values:
    name = e.primitive.name
    if name in STRUCTURES:
        return STRUCTURES[name](e, operands, rounding)
    evaluate = _native if name.startswith(NATIVE) else _evaluator(e)
    results = evaluate(e, operands)
    return rounding.of(e, operands, results, lambda *other: evaluate(e, other))


def _evaluator(e: Any) -> Callable[[Any, Values], Values]:
    holds_jaxprs = any(isinstance(p, JAXPRS) for v in e.params.values() for p in (v if isinstance(v, tuple) else (v,)))
    if not holds_jaxprs:
        return _bind
    return _reduce if e.primitive.name.replace("-", "_") in REDUCERS else _native


def _bind(e: Any, operands: Values, **params: Any) -> Values:
    given = {**e.params, **params}
    for key in DTYPES:
        if given.get(key) is not None:
            given[key] = wide(given[key])
    if isinstance(given.get("spec"), Contraction):
        given["spec"] = given["spec"]._replace(dtypes=tuple(map(wide, given["spec"].dtypes)))
    results = e.primitive.bind(*operands, **given)
    return list(results) if e.primitive.multiple_results else [results]


def _native(e: Any, operands: Values) -> Values:
    """In the types of the program."""
    own = [
        o if jax.typeof(o).dtype == v.aval.dtype else lax.convert_element_type(o, v.aval.dtype)
        for o, v in zip(operands, e.invars, strict=True)
    ]
    results = e.primitive.bind(*own, **e.params)
    return [widen(r) for r in (results if e.primitive.multiple_results else [results])]


def _reduce(e: Any, operands: Values) -> Values:
    """Scatters and reductions hold what they do with two numbers as a jaxpr: that in float64 too."""
    params = {}
    for key, value in e.params.items():
        if isinstance(value, JAXPRS):
            avals = [jax.core.ShapedArray(a.aval.shape, wide(a.aval.dtype)) for a in opened(value).invars]
            again = jax.make_jaxpr(lambda *a, value=value: replay(value, a, Rounding.none()))(*avals)
            params[key] = again if isinstance(value, core.ClosedJaxpr) else opened(again)
    return _bind(e, operands, **params)


# ---- control flow ---------------------------------------------------------------------------------------------------


def _inline(e: Any, operands: Values, rounding: Rounding) -> Values:
    (body,) = (e.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in e.params)
    return replay(body, operands, rounding)


def _scan(e: Any, operands: Values, rounding: Rounding) -> Values:
    q, body = e.params, opened(e.params["jaxpr"])  # how many of each there are is called otherwise in JAX 0.12
    carried = sum(_same_rank(v, w) for v, w in zip(e.outvars, body.outvars, strict=True))
    consts = sum(_same_rank(v, w) for v, w in zip(e.invars, body.invars, strict=True)) - carried
    fixed, init, xs = operands[:consts], operands[consts : consts + carried], operands[consts + carried :]

    def step(carry: Any, x: Any) -> Any:
        i, values = carry
        results = replay(q["jaxpr"], [*fixed, *values, *x], rounding.at(i))
        return (i + np.uint32(1), results[:carried]), results[carried:]

    options = {"length": q["length"], "reverse": q["reverse"], "unroll": q["unroll"]}
    (_, last), ys = lax.scan(step, (jnp.uint32(0), list(init)), list(xs), **options)
    return [*last, *ys]


def _same_rank(of_scan: Any, of_body: Any) -> bool:
    """Whether a value goes into or out of the body as it is, not slice by slice."""
    same: bool = of_scan.aval.ndim == of_body.aval.ndim
    return same


def _while(e: Any, operands: Values, rounding: Rounding) -> Values:
    q = e.params
    of_cond, rest = operands[: q["cond_nconsts"]], operands[q["cond_nconsts"] :]
    of_body, init = rest[: q["body_nconsts"]], rest[q["body_nconsts"] :]

    def condition(carry: Any) -> Any:
        return replay(q["cond_jaxpr"], [*of_cond, *carry[1]], Rounding.none())[0]

    def body(carry: Any) -> Any:
        i, values = carry
        return i + np.uint32(1), replay(q["body_jaxpr"], [*of_body, *values], rounding.at(i))

    return list(lax.while_loop(condition, body, (jnp.uint32(0), list(init)))[1])


def _cond(e: Any, operands: Values, rounding: Rounding) -> Values:
    which, *rest = operands
    branches = [lambda *given, b=b: replay(b, given, rounding) for b in e.params["branches"]]
    return list(lax.switch(which, branches, *rest))


def _shard_map(e: Any, operands: Values, rounding: Rounding) -> Values:
    def body(*shards: Any) -> Any:
        return tuple(replay(e.params["jaxpr"], shards, rounding))

    return list(over_shards(body, e)(*operands))


CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
STRUCTURES: dict[str, Callable[[Any, Values, Rounding], Values]] = {
    **dict.fromkeys(CALLS, _inline),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}
