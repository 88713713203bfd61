"""Running error analysis of a program as it is traced: no formula is written out a second time.

`follow` evaluates a jaxpr on `Approx`s, each step in the format of its dtype.  A monotone elementary function moves an
error to the larger of its two differences, and adds its own.  A constant that is not short has been rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from operator import mul
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.attach import LinearMap
from fnconv.judge.engine.replay import STRUCTURES, Arithmetic, bind, opened, replay
from fnconv.judge.engine.rounding import EXACT, in_float64
from fnconv.judge.engine.running_error import Approx, Format, Values

MONOTONE: dict[str, Callable[[Any], Any]] = {
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": lambda x: np.exp(-np.logaddexp(0, -x)),
    "rsqrt": lambda x: x**-0.5,
    "tanh": np.tanh,
}
STEPS: dict[str, Callable[..., Approx]] = {
    "abs": lambda e, a: a.abs(),
    "add": lambda e, a, b: a + b,
    "add_any": lambda e, a, b: a + b,
    "convert_element_type": lambda e, a: _converted(a, _format(e)),
    "div": lambda e, a, b: a / b,
    "integer_pow": lambda e, a: _power(a, e.params["y"]),
    "max": lambda e, a, b: _either(a.value >= b.value, a, b, np.maximum(a.error, b.error)),
    "min": lambda e, a, b: _either(a.value <= b.value, a, b, np.maximum(a.error, b.error)),
    "mul": lambda e, a, b: a * b,
    "neg": lambda e, a: -a,
    "pow": lambda e, a, p: a.power(float(np.unique(p.value).item())),  # of one exponent
    "reduce_sum": lambda e, a: a.sum(e.params["axes"]),
    "select_n": lambda e, which, a, b: _either(which, b, a, np.where(which, b.error, a.error)),
    "sign": lambda e, a: Approx(np.sign(a.value), 2.0 * (a.error >= abs(a.value)) * (a.error > 0), a.format),
    "sqrt": lambda e, a: a.sqrt(),
    "square": lambda e, a: a * a,
    "sub": lambda e, a, b: a - b,
}


def follow(jaxpr: Any, operands: Sequence[Values]) -> list[Approx]:
    """The results of a jaxpr on exact floating operands; 64-bit types must be enabled."""
    formats = [Format.of(a.dtype) for a in jaxpr.in_avals]
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return replay(jaxpr, [f.exact(o) for f, o in zip(formats, operands, strict=True)], _Followed())


def _of_bits(e: Any, operands: Sequence[Any]) -> list[Any]:
    """jax.numpy's frexp and ldexp, which read and write bits: they multiply by powers of two, without error."""
    a = operands[0] if isinstance(operands[0], Approx) else _format(e).exact(operands[0])
    if e.params["name"] == "ldexp":
        return [replace(a, value=np.ldexp(a.value, operands[1]), error=np.ldexp(a.error, operands[1]))]
    mantissa, exponent = np.frexp(a.value)
    parts = {True: replace(a, value=mantissa, error=np.ldexp(a.error, -exponent)), False: exponent}
    return [parts[jnp.issubdtype(v.aval.dtype, jnp.floating)] for v in e.outvars]


def _converted(a: Approx, to: Format) -> Approx:
    """In another type; a wider one holds the same numbers."""
    wider = to.u <= a.format.u and to.tiny <= a.format.tiny
    return replace(a if wider else a.stored(to), format=to)


def _power(a: Approx, y: int) -> Approx:
    product = reduce(mul, [a] * abs(y))
    return product if y > 0 else a.format.exact(1) / product


class _Followed(Arithmetic):
    def constant(self, value: Any, aval: Any) -> Any:
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            return np.asarray(value)
        exact, format = np.asarray(value, np.float64), Format.of(aval.dtype)
        return Approx(exact, np.where(exact * 256 == np.round(exact * 256), 0.0, format.u * abs(exact)), format)

    def equation(self, e: Any, operands: Sequence[Any]) -> Sequence[Any]:
        name = e.primitive.name
        if isinstance(e.params.get("map"), LinearMap):
            function = partial(e.primitive.impl, **e.params)
            return replay(jax.make_jaxpr(function)(*(v.aval for v in e.invars)), operands, self)
        if name == "cond":  # of platforms: the one that there is
            return replay(e.params["branches"][int(operands[0])], operands[1:], self)
        if name in ("empty", "empty2"):  # a residual of another platform's branch, which nothing reads
            return [self.constant(np.full(v.aval.shape, np.nan), v.aval) for v in e.outvars]
        if e.params.get("name") in ("frexp", "ldexp"):
            return _of_bits(e, operands)
        if name in STRUCTURES:
            return super().equation(e, operands)
        values = [o.value if isinstance(o, Approx) else o for o in operands]
        if not jnp.issubdtype(e.outvars[0].aval.dtype, jnp.floating):  # a comparison
            return [np.asarray(v) for v in bind(e, values)]
        if name in MONOTONE:
            return [_monotone(name, operands[0])]
        lifted = [o if isinstance(o, Approx) else _format(e).exact(o) for o in operands]
        if name in STEPS:
            return [STEPS[name](e, *(operands[:1] if name == "select_n" else []), *lifted[name == "select_n" :])]
        if name not in EXACT and not _is_extremum(e):
            raise NotImplementedError(f"the error of {name}")
        errors = [o.error if isinstance(o, Approx) else o for o in operands]
        moved = [[np.asarray(v, np.float64) for v in in_float64(e, vs)] for vs in (values, errors)]
        return [Approx(v, abs(error), _format(e)) for v, error in zip(*moved, strict=True)]


def _is_extremum(e: Any) -> bool:
    """Whether it is a reduction to the largest or the smallest."""
    steps = {i.primitive.name for i in opened(e.params["jaxpr"]).eqns} if e.primitive.name == "reduce" else {""}
    return steps <= {"max", "min"}


def _format(e: Any) -> Format:
    return Format.of(e.outvars[0].aval.dtype)


def _either(first: Any, a: Approx, b: Approx, error: Values) -> Approx:
    return Approx(np.where(first, a.value, b.value), error, a.format)


def _monotone(name: str, x: Approx) -> Approx:
    """erfc may lose x^2 times as much as exp: the argument of the e^(-x^2) in it has been rounded."""
    f = MONOTONE[name]
    value = f(x.value)
    spread = np.fmax(abs(f(x.value + x.error) - value), abs(f(x.value - x.error) - value))
    return x.elementary(value, spread, 1 + x.value**2 if name == "erfc" else 1.0)
