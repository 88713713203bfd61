"""A failure made small, and written down as a script."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fnconv.judge.fuzz.draw import HALVES, Problem, consistent
from fnconv.judge.fuzz.expected import expected
from fnconv.judge.fuzz.judge import FuzzFailure, judge
from fnconv.judge.fuzz.sample import sample

SECONDS = 30.0


def shrink(failure: FuzzFailure, seconds: float = SECONDS) -> FuzzFailure:
    """The smallest failure of the same operation and order that simpler problems lead to, one change after another."""
    end, tried = time.monotonic() + seconds, set()
    changed = True
    while changed:
        changed = False
        for candidate in simpler(failure.problem, failure.order):
            if time.monotonic() > end:
                return failure
            if candidate in tried:
                continue
            tried.add(candidate)
            smaller = still(candidate, failure)
            if smaller is not None:
                failure, changed = smaller, True
                break
    return failure


def still(p: Problem, failure: FuzzFailure) -> FuzzFailure | None:
    """The like failure of another problem, if it fails; with small whole numbers if with them as well."""
    try:
        found = judge(p, sets=12).failures
    except Exception:  # a geometry that does not exist
        return None
    like = [f for f in found if f.order == failure.order and bool(f.words) == bool(failure.words)]
    return min(like, key=lambda f: ("ties", "integers", f.data).index(f.data), default=None)


def simpler(p: Problem, order: int) -> Iterator[Problem]:
    """Problems with one thing less: a transformation, an option, a part of a size, a batch axis."""
    if p.way != "jit":
        yield replace(p, way="jit", mapped=(False,) * len(p.shapes))
    if p.orders > order:
        yield replace(p, orders=order)
    for name in p.options:
        if name != "rule":
            yield consistent(replace(p, options={k: v for k, v in p.options.items() if k != name}))
    rule = p.options.get("rule", "auto")
    if not isinstance(rule, str):
        for part in rule:
            yield replace(p, options={**p.options, "rule": {**rule, part: "auto"}})
    if p.dtype in (*HALVES, "float64"):
        yield replace(p, dtype="float32")
    for n in sorted({n for s in (*p.shapes, *sized(p)) for n in s if n > 1}, reverse=True):
        for smaller in {1, n // 2, n - 1}:
            shapes, args = (exchanged(value, n, smaller) for value in (p.shapes, p.args))
            for a, shape in enumerate(p.shapes):  # one axis alone, then all that are as long
                for i in (i for i, m in enumerate(shape) if m == n):
                    alone = (*shape[:i], smaller, *shape[i + 1 :])
                    yield consistent(replace(p, shapes=(*p.shapes[:a], alone, *p.shapes[a + 1 :])))
            yield consistent(replace(p, shapes=shapes, args=args))
            yield consistent(replace(p, args=args))
            yield consistent(replace(p, shapes=shapes))
    if p.operation not in ("dense", "conv_input_vjp", "col2im") and p.shapes[0][:1] == (1,):
        yield consistent(replace(p, shapes=(p.shapes[0][1:], *p.shapes[1:])))


def sized(p: Problem) -> list[Sequence[int]]:
    return [a for a in p.args if isinstance(a, tuple) and all(isinstance(n, int) for n in a)]


def exchanged(value: Any, n: int, by: int) -> Any:
    if isinstance(value, tuple):
        return tuple(exchanged(v, n, by) for v in value)
    return by if isinstance(value, int) and not isinstance(value, bool) and value == n else value


def script(failure: FuzzFailure) -> str:
    """At most ten lines that show the failure."""
    p, order = failure.problem, failure.order
    s = sample(p, failure.number)
    names = [f"x{a}" for a in range(len(p.shapes))]
    moving = [a for a in range(len(names)) if a != p.index]
    operands, moved = ", ".join(names), ", ".join(names[a] for a in moving)

    def written(array: Any, dtype: str = p.dtype) -> str:
        return f"jnp.array({array.tolist()!r}, {dtype!r}).reshape({array.shape})"

    switches = ['"jax_enable_x64", True'] if p.dtype == "float64" else []
    switches += ['"jax_numpy_rank_promotion", "raise"', '"jax_numpy_dtype_promotion", "strict"'] * (p.way == "strict")
    lines = ["import jax, jax.numpy as jnp, fnconv; from numpy import inf, nan"]
    lines += ["; ".join(f"jax.config.update({switch})" for switch in switches)] if switches else []
    types = ["int32" if a == p.index else p.dtype for a in range(len(names))]
    lines.append("; ".join(f"{n} = {written(x, t)}" for n, x, t in zip(names, s.operands, types, strict=True)))
    rest = [*(repr(a) for a in p.args), *(f"{k}={v!r}" for k, v in p.options.items())]
    axes = tuple(0 if m else None for m in p.mapped)
    wraps = {"vmap": f"jax.vmap(%s, in_axes={axes})", "remat": "jax.checkpoint(%s)", "jit": "jax.jit(%s)"}
    lines.append(
        "f = " + wraps.get(p.way, "%s") % f"lambda {operands}: fnconv.{p.operation}({', '.join([*names, *rest])})"
    )
    if p.way in ("scan", "sharded"):
        lines.append(f"# under {p.way}, operands mapped: {p.mapped}")
    if order == 0:
        lines.append(f"got = f({operands})")
    elif order == 1:
        lines.append(f"dy = {written(s.dy)}")
        lines.append(f"got = jax.vjp(f, {operands})[1](dy)[{moving[failure.operand]}]")
    else:
        lines.append(f"c = {written(s.c)}; v = ({''.join(written(s.directions[a]) + ', ' for a in moving)})")
        lines.append(f"g = jax.grad(lambda {moved}: (c * f({operands}) ** 3).sum(), {tuple(range(len(moving)))})")
        lines += ["h = lambda *x: jax.jvp(g, x, v)[1]"] * (order - 2)
        lines.append(f"got = jax.jvp({'h' if order == 3 else 'g'}, ({moved},), v)[1][{failure.operand}]")
    want = "" if failure.words else np.asarray(expected(p, s, order)[order][failure.operand].value, float).tolist()
    lines.append(f"print(got); print('by the definition', {want!r})")
    return "\n".join(lines)
