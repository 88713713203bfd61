"""Data for a program: operands and cotangents of one kind, as the numbers that its dtype holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, nan, pi, prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnconv.judge.fuzz.definition import Array, Shape
from fnconv.judge.fuzz.draw import CONVS, COPIES, DENSE, HALVES, NORMS, SUMS, Problem


@dataclass(frozen=True)
class Sample:
    """kind: of the numbers.  target: the one operand, or "dy", that is extreme; None where all are alike."""

    kind: str
    target: int | str | None
    operands: Sequence[Array]
    directions: Sequence[Array]
    c: Array
    dy: Array

    def each(self, change: Callable[[Array], Array]) -> Sample:
        operands, directions = (tuple(map(change, arrays)) for arrays in (self.operands, self.directions))
        return Sample(self.kind, self.target, operands, directions, change(self.c), change(self.dy))

    def moduli(self) -> Sample:
        return self.each(np.abs)

    def copy(self, number: int, mapped: Sequence[bool]) -> Sample:
        """What one of the copies under vmap or scan is given."""
        operands, directions = (
            [x[number] if m else x for x, m in zip(arrays, mapped, strict=True)]
            for arrays in (self.operands, self.directions)
        )
        return Sample(self.kind, self.target, operands, directions, self.c[number], self.dy[number])

    def at(self, t: Any) -> list[Array]:
        """The operands, moved along the directions."""
        return [x + t * v.astype(np.longdouble) for x, v in zip(self.operands, self.directions, strict=True)]

    def radius(self, p: Problem) -> float:
        """A quarter of how far operations that are no polynomials are analytic around the operands.

        Norms: where no |x + t v|^p turns by more than a right angle; |v| is at most |x|, see `sample`.
        Others: where no exponent of e turns by more than a right angle.
        """
        if p.operation == "lp_pool":
            return 0.25 * min(1.0, pi / 2 / p.options.get("p", 2))
        return 0.25 * pi / 2 / max(1.0, *(float(np.max(abs(v), initial=0)) for v in self.directions))


def kinds(p: Problem) -> tuple[str, ...]:
    """Those for which the definition says what is right."""
    if p.integer:
        return ("integers", "wrapping", "wrapping")
    if p.operation == "conv_block":
        return ("integers", "ties", "integers")
    found = ["integers", "ties", "normal", "normal", "scales"]
    if not p.rules & set(DENSE) and p.options.get("p") != 200:
        found += ["special", "special", "mask"]
    if p.operation not in (*CONVS, "dense", "squared_error"):
        found += ["denormal"] * (p.operation != "max_pool_with_indices")  # which CPUs take for equal, as zeros
        sums = {"avg", "norm", "resize"}  # which may overflow, or those of squares do
        if not sums & {*p.operation.split("_"), p.options.get("pool")}:
            found.append("largest")
    return tuple(found)


def highest_order(p: Problem, kind: str) -> int:
    """The order up to which the data are judged: powers of extremes overflow, and a norm has no curvature at 0."""
    if kind == "normal" or (kind in ("integers", "ties") and p.operation != "lp_pool"):
        return p.orders
    return min(p.orders, 0 if kind == "denormal" else 1)


def sample(p: Problem, number: int) -> Sample:
    """The kinds in turn, from a random one on."""
    r, choices = np.random.default_rng((p.seed, number)), kinds(p)
    kind = choices[(number + p.seed) % len(choices)]
    shape = p.outline()
    floats = [a for a in range(len(p.shapes)) if a != p.index]
    target: Any = None
    if kind in ("special", "mask", "largest", "denormal"):
        target = (*floats, "dy")[r.integers(len(floats) + 1)]
        huge = kind == "largest" and p.operation in SUMS  # cotangents, whose sums overflow
        if kind in ("mask", "denormal") or huge or p.operation in NORMS:  # these mix all of dy
            target = 0

    def draw(place: Any, shape: Shape) -> Array:
        plain = target is not None and place != target
        return held(numbers(r, "integers" if plain else kind, shape, p), p.dtype)

    shapes = [(COPIES, *s) if m else s for s, m in zip(p.shapes, p.mapped, strict=True)]
    shape = (COPIES, *shape) if any(p.mapped) else shape
    operands, directions = [], []
    for a, s in enumerate(shapes):
        if a == p.index:
            most = prod(p.args[0]) if p.operation == "max_unpool" else p.shapes[0][-1]
            operands.append(np.array(r.integers(-2, most + 2, s)))
            directions.append(np.zeros(s))
            continue
        operands.append(draw(a, s))
        if p.operation == "lp_pool":
            directions.append(held(operands[-1] * r.uniform(-1, 1, s), p.dtype))
        else:
            moving = "normal" if kind == "normal" else "integers"
            directions.append(held(numbers(r, moving, s, p), p.dtype))
    return Sample(kind, target, operands, directions, draw("c", shape).astype(float), draw("dy", shape).astype(float))


def numbers(r: np.random.Generator, kind: str, shape: Shape, p: Problem) -> Array:
    """float64, or int64 for integers; not yet rounded to the dtype."""
    if p.integer:
        info = np.iinfo(p.dtype)
        low, high = (max(info.min, -3), 4) if kind == "integers" else (info.min, info.max + 1)
        return r.integers(low, high, shape, dtype=np.int64)
    half, limits = p.dtype in HALVES, jnp.finfo(p.dtype)  # type: ignore[no-untyped-call]
    few, powers = (2, 2) if half else (4, 4)
    small = r.integers(-few, few + 1, shape).astype(np.float64)
    normal = r.choice((-1, 1), shape) * np.exp(r.normal(0, 0.7, shape))
    match kind:
        case "integers":
            return small
        case "ties":
            return np.sign(small)
        case "normal":
            return normal
        case "scales":
            return normal * 10.0 ** r.uniform(-powers, powers, shape)
        case "special":
            return np.where(r.random(shape) < r.choice((0.1, 0.3, 0.6)), r.choice((nan, inf, -inf), shape), small)
        case "mask":
            return np.where(r.random(shape) < r.choice((0.3, 0.8, 1.0)), -inf, small)
        case "largest":
            cells = prod(p.args[0]) if p.operation == "lp_pool" else 2  # so that no norm and no difference overflows
            return np.asarray(r.choice((-1, 1), shape) * float(limits.max) / cells * r.uniform(0.1, 0.99, shape))
        case "denormal":
            return normal * float(limits.smallest_normal) * r.choice((0.3, 2.0), shape)
    raise ValueError(f"no data of kind {kind}")


def held(values: Array, dtype: str) -> Array:
    """The numbers of the dtype nearest to these, as float64; integers as they are."""
    values = np.array(values)  # an array without axes, no scalar
    if "int" in dtype:
        return values
    with np.errstate(all="ignore"):
        return np.array(values.astype(jnp.dtype(dtype)).astype(np.float64))
