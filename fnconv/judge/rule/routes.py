"""On which way through the function a derivative is lost: gates on all of them, closed one by one.

The derivative of the reference is a sum over the ways from an argument to a result.  A gate multiplies by a number
what passes through one step; the derivative is affine in it, so that two runs tell by which number, if by any, the
rule's derivative would come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core, source_info_util

from fnconv.judge.engine.diagnose import UNKNOWN, diagnose
from fnconv.judge.engine.programs import fast_options, precision
from fnconv.judge.engine.replay import CALLS, STRUCTURES, Arithmetic, bind, opened, replay
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.trial import Trial

FUNCTIONS = (
    *("exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "erf", "erfc", "rsqrt", "cbrt", "integer_pow"),
    *("asinh", "acosh", "atanh", "sinh", "cosh", "asin", "acos", "atan"),
)
MANY = 200  # gates: a longer function is not looked at
PAIRS = 32  # gates up to which two are closed at once
FEW = 3  # entries of an array that any single number could explain


class Routes:
    """The reference with a gate on every step; `run(i, gates)` is its derivative i."""

    def __init__(self, trial: Trial, point: Point) -> None:
        self.names: list[str] = []
        self.functions: list[int] = []  # gates that make the derivative of a function 1 instead of 0
        with precision(jnp.float64):
            kinds = trial.traced_for(trial.reference_flat)
            if kinds is None:
                raise ValueError("the reference cannot be traced")
            jaxpr = jax.make_jaxpr(lambda *v: trial.reference_flat(*v)[0])(*kinds[0])
            jax.eval_shape(lambda *v: replay(jaxpr, v, _Gated(None, self)), *kinds[0])
            if len(self.names) > MANY:
                raise ValueError("the reference is too long")
            values = tuple(jnp.asarray(v, k.dtype) for v, k in zip(point.values, kinds[0], strict=True))
            vectors = tuple(jnp.asarray(c, k.dtype) for c, k in zip(point.vectors, kinds[1], strict=True))

            def program(gates: Any) -> Any:
                gated = trial.derivative(lambda *v: (tuple(replay(jaxpr, v, _Gated(gates, None))), ()))
                return gated(values, vectors)[1]

            lowered = jax.jit(program).lower(jnp.ones(len(self.names)))
            self.compiled = lowered.compile(fast_options(jax.default_backend()))

    def run(self, i: int, *changed: int) -> Values:
        """With some gates closed; those of functions are open when they are 1, and the derivative is 1 when 0."""
        gates = np.ones(len(self.names))
        gates[list(changed)] = 0.0
        with precision(jnp.float64):
            return np.asarray(self.compiled(jnp.asarray(gates))[i], np.float64)


class _Gated(Arithmetic):
    """A gate behind each step, and before each operand that is read more than once.

    Without numbers for the gates it only notes their names in `routes`.
    """

    def __init__(self, gates: Any, routes: Routes | None) -> None:
        self.gates, self.routes, self.count = gates, routes, 0
        self.moving: set[Any] = set()
        self.uses: Counter[Any] = Counter()

    def body(self, jaxpr: Any) -> _Gated:
        self.moving |= set(opened(jaxpr).invars)
        self.uses += Counter(v for e in opened(jaxpr).eqns for v in e.invars if isinstance(v, core.Var))
        return self

    def equation(self, e: Any, operands: Sequence[Any]) -> Sequence[Any]:
        active = [isinstance(v, core.Var) and v in self.moving for v in e.invars]
        if any(active):
            self.moving |= set(e.outvars)
        if e.primitive.name in CALLS:
            return STRUCTURES[e.primitive.name](e, operands, self)
        shared = [moves and self.uses[v] > 1 for v, moves in zip(e.invars, active, strict=True)]
        read = [
            self._gate(x, f"operand {k} of {_name(e)}") if gated and _is_float(x) else x
            for k, (x, gated) in enumerate(zip(operands, shared, strict=True))
        ]
        results = bind(e, read)
        if not any(active):
            return results
        if e.primitive.name in FUNCTIONS and _is_float(results[0]):
            results = [self._gate(results[0], _name(e), of=read[0])]
        return [self._gate(r, _name(e)) if _is_float(r) else r for r in results]

    def _gate(self, value: Any, name: str, of: Any = None) -> Any:
        k, self.count = self.count, self.count + 1
        if self.routes is not None:
            self.routes.names.append(name)
            self.routes.functions += [k] if of is not None else []
            return value
        gate = self.gates[k].astype(value.dtype)
        return _gate(value, gate) if of is None else _either(value, of, gate)


@jax.custom_jvp
def _gate(value: Any, gate: Any) -> Any:
    return value


_gate.defjvp(lambda primals, tangents: (primals[0], primals[1] * tangents[0]))


@jax.custom_jvp
def _either(value: Any, of: Any, gate: Any) -> Any:
    return value


_either.defjvp(lambda primals, tangents: (primals[0], primals[2] * tangents[0] + (1 - primals[2]) * tangents[1]))


def lost(trial: Trial, point: Point, i: int, got: Values, want: Values, tolerance: float) -> str:
    """What the rule makes of one of the ways, in words; empty where no single one explains it, nor two left out."""
    if want.size < FEW or not np.isfinite(got).all() or not np.isfinite(want).all():
        return ""
    try:
        routes = Routes(trial, point)
        whole = routes.run(i)
    except Exception:  # a guess is worth no error
        return ""
    if not np.isfinite(whole).all():
        return ""
    parts: dict[str, tuple[int, Values]] = {}
    others: dict[str, Callable[[], Values]] = {}
    # what comes back through a step as a whole is easier to understand than through one operand of the next
    for k, name in sorted(enumerate(routes.names), key=lambda gate: gate[1].startswith("operand")):
        closed = routes.run(i, k)
        if not np.isfinite(closed).all() or np.array_equal(closed, whole):
            continue
        if k in routes.functions:
            others[f"the derivative of {name} is left out: as if it were 1"] = lambda c=closed: c  # type: ignore[misc]
        elif closed.any() and not any(np.allclose(whole - closed, part) for _, part in parts.values()):
            parts.setdefault(f"the derivative through {name}", (k, whole - closed))  # 0: the only way, so a ratio
    components = {name: (lambda p=part: p) for name, (_, part) in parts.items()}
    for alternatives, given in ((others, components), (dict(_pairs(routes, i, parts)), {})):
        guess = diagnose(got, want, alternatives=alternatives, components=given, tolerance=tolerance)
        if guess in alternatives or (guess.startswith(tuple(components)) and not guess.startswith(UNKNOWN)):
            return guess
    return ""


def _pairs(routes: Routes, i: int, parts: dict[str, tuple[int, Values]]) -> Iterator[tuple[str, Callable[[], Values]]]:
    if len(parts) > PAIRS:
        return
    for (name, (a, _)), (other, (b, _)) in combinations(parts.items(), 2):
        text = f"{name} and that through {other.removeprefix('the derivative through ')} are left out"
        yield text, lambda a=a, b=b: routes.run(i, a, b)  # type: ignore[misc]


def _name(e: Any) -> str:
    """The step and the line of the user's that it stands on."""
    file, _, place = source_info_util.summarize(e.source_info).partition(":")
    line = place.partition(":")[0]
    return f"{e.primitive.name} ({Path(file).name}, line {line})" if line.isdigit() else str(e.primitive.name)


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating))
