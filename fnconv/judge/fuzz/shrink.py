"""A failure made small, and written down as a script."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fnconv.judge.fuzz.definition import FORMS, Array
from fnconv.judge.fuzz.draw import Problem
from fnconv.judge.fuzz.judge import Failure, data_set, judge, judge_data, y_shape
from fnconv.judge.fuzz.program import compiled

SECONDS = 30.0


def shrink(failure: Failure, seconds: float = SECONDS) -> Failure:
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


def still(p: Problem, failure: Failure) -> Failure | None:
    """The like failure of another problem, if it fails."""
    try:
        found = judge(p, sets=12).failures
    except Exception:  # a geometry that does not exist
        return None
    return next((f for f in found if f.order == failure.order and (f.want is None) == (failure.want is None)), None)


def simpler(p: Problem, order: int) -> Iterator[Problem]:
    """Problems with one thing less: a transformation, an option, a part of a size, a batch axis."""
    if p.way != "jit":
        yield replace(p, way="jit", mapped=())
    if p.orders > order:
        yield replace(p, orders=order)
    for name in p.options:
        if name != "rule":
            yield repaired(replace(p, options={k: v for k, v in p.options.items() if k != name}))
    rule = p.options.get("rule", "auto")
    if not isinstance(rule, str):
        for part in rule:
            yield replace(p, options={**p.options, "rule": {**rule, part: "auto"}})
    if p.dtype in ("float16", "bfloat16", "float64"):
        yield replace(p, dtype="float32")
    numbers = sorted({n for s in (*p.shapes, *sized(p)) for n in s if n > 1}, reverse=True)
    for n in numbers:
        for smaller in {1, n // 2, n - 1}:
            for a, shape in enumerate(p.shapes):  # one axis alone, then all that are as long
                for i in (i for i, m in enumerate(shape) if m == n):
                    alone = (*shape[:i], smaller, *shape[i + 1 :])
                    yield repaired(replace(p, shapes=(*p.shapes[:a], alone, *p.shapes[a + 1 :])))
            yield repaired(replace(p, shapes=exchanged(p.shapes, n, smaller), args=exchanged(p.args, n, smaller)))
            yield repaired(replace(p, args=exchanged(p.args, n, smaller)))
            yield repaired(replace(p, shapes=exchanged(p.shapes, n, smaller)))
    if p.operation not in ("dense", "conv_input_vjp", "col2im") and p.shapes[0][:1] == (1,):
        yield repaired(replace(p, shapes=(p.shapes[0][1:], *p.shapes[1:])))


def sized(p: Problem) -> list[Sequence[int]]:
    return [a for a in p.args if isinstance(a, tuple) and all(isinstance(n, int) for n in a)]


def exchanged(value: Any, n: int, by: int) -> Any:
    if isinstance(value, tuple):
        return tuple(exchanged(v, n, by) for v in value)
    return by if isinstance(value, int) and not isinstance(value, bool) and value == n else value


def repaired(p: Problem) -> Problem:
    """With the shapes that follow from the others."""
    options = {k: v for k, v in p.options.items() if k != "rule"}
    zeros = [np.zeros(s) for s in p.shapes]
    try:
        match p.operation:
            case "conv_input_vjp":
                y = FORMS["conv"](np.zeros(p.args[0]), zeros[1], **options).shape
                return replace(p, shapes=(y, p.shapes[1]))
            case "conv_weight_vjp":
                first = options.get("layout") == "channels_first"
                at = -len(p.args[0]) - 1 if first else -1
                c, d = p.shapes[0][at] // options.get("groups", 1), p.shapes[1][at]
                w = np.zeros((d, c, *p.args[0]) if first else (*p.args[0], c, d))
                return replace(p, shapes=(p.shapes[0], FORMS["conv"](zeros[0], w, **options).shape))
            case "col2im":
                return replace(p, shapes=(FORMS["im2col"](np.zeros(p.args[0]), p.args[1], **options).shape,))
            case "max_unpool" | "squared_error":
                return replace(p, shapes=(p.shapes[0], p.shapes[0]))
            case "softmax_cross_entropy":
                return replace(p, shapes=(p.shapes[0], p.shapes[0][:-1] if p.index else p.shapes[0]))
    except Exception:  # no such geometry: what is tried next refuses it
        return p
    return p


def plain_data(failure: Failure) -> tuple[Failure, dict[str, Any], Array, Array]:
    """The failure's data, with zeros and ones where they still fail."""
    p, shape = failure.problem, y_shape(failure.problem)
    d, c, dy = data_set(p, failure.number, shape)
    arrays = [*d["operands"], *d["directions"], c, dy]
    if failure.got is None or sum(a.size for a in arrays) > 300:
        return failure, d, c, dy
    run = compiled(p, shape)
    for array in arrays:
        for i in np.ndindex(array.shape):
            for plain in (0, 1):
                before = array[i]
                if before in (0, 1):
                    break
                array[i] = plain
                wrong = judge_data(p, failure.number, d, c, dy, run(d["operands"], d["directions"], c, dy))
                kept = next((f for f in wrong if f.order == failure.order), None)
                if kept is not None:
                    failure = kept
                    break
                array[i] = before
    return failure, d, c, dy


def script(failure: Failure) -> str:
    """At most ten lines that show the failure."""
    failure, d, c, dy = plain_data(failure)
    p, order = failure.problem, failure.order
    names = [f"x{a}" for a in range(len(p.shapes))]
    listed = ", ".join(names)

    def written(array: Array, dtype: str = p.dtype) -> str:
        return f"jnp.array({array.tolist()!r}, {dtype!r}).reshape({array.shape})"

    switches = ['"jax_enable_x64", True'] if p.dtype == "float64" else []
    switches += ['"jax_numpy_rank_promotion", "raise"', '"jax_numpy_dtype_promotion", "strict"'] * (p.way == "strict")
    lines = ["import jax, jax.numpy as jnp, fnconv; from numpy import inf, nan"]
    lines += ["; ".join(f"jax.config.update({s})" for s in switches)] if switches else []
    types = ["int32" if a == p.index else p.dtype for a in range(len(names))]
    lines.append("; ".join(f"{n} = {written(a, t)}" for n, a, t in zip(names, d["operands"], types, strict=True)))
    rest = [*(repr(a) for a in p.args), *(f"{k}={v!r}" for k, v in p.options.items())]
    axes = tuple(0 if m else None for m in p.mapped)
    wraps = {"vmap": f"jax.vmap(%s, in_axes={axes})", "remat": "jax.checkpoint(%s)", "jit": "jax.jit(%s)"}
    call = f"lambda {listed}: fnconv.{p.operation}({', '.join([*names, *rest])})"
    lines.append("f = " + wraps.get(p.way, "%s") % call)
    if p.way in ("scan", "sharded"):
        lines.append(f"# under {p.way}, operands mapped: {p.mapped}")
    moving = tuple(a for a in range(len(names)) if a != p.index)
    if order == 0:
        lines.append(f"got = f({listed})")
    elif order == 1:
        lines.append(f"dy = {written(dy)}")
        lines.append(f"got = jax.vjp(f, {listed})[1](dy)[{moving[failure.operand]}]")
    else:
        lines.append(f"c = {written(c)}; v = [{', '.join(written(d['directions'][a]) for a in moving)}]")
        fixed = ", ".join(f"x{a}" for a in range(len(names)))
        lines.append(f"loss = lambda {', '.join(names[a] for a in moving)}: (c * f({fixed}) ** 3).sum()")
        lines.append(f"g = jax.grad(loss, {tuple(range(len(moving)))})")
        for _ in range(order - 2):
            lines.append("h = lambda *x: jax.jvp(g, x, tuple(v))[1]")
        last = "h" if order == 3 else "g"
        args = ", ".join(names[a] for a in moving)
        lines.append(f"got = jax.jvp({last}, ({args},), tuple(v))[1][{failure.operand}]")
    want = "" if failure.want is None else np.asarray(failure.want).tolist()
    lines.append(f"print(got); print('by the definition', {want!r})")
    return "\n".join(lines)
