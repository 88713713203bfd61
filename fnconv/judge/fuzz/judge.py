"""One problem judged: its program run on several samples of data, each result against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import accumulator, unit_roundoff
from fnconv.base.spec import CONV_MAPS, ConvSpec
from fnconv.judge.engine import report
from fnconv.judge.engine.distances import worst
from fnconv.judge.engine.windows import Undefined
from fnconv.judge.fuzz.definition import GEOMETRY, Array, Shape, kernel_places, split
from fnconv.judge.fuzz.draw import COPIES, DENSE, RULED, Problem
from fnconv.judge.fuzz.expected import Expected, bound, expected
from fnconv.judge.fuzz.program import compiled, traced
from fnconv.judge.fuzz.sample import Sample, held, highest_order, sample
from fnconv.rules.available import available_rules
from fnconv.rules.choice import conv_choice, conv_spreads
from fnconv.rules.conv import DIVIDES, GROWTH, ROUNDING

ROLES = {  # what the operands, the bias and the result are in y = conv(x, w) + b
    **dict.fromkeys(("conv", "conv_block"), ("x", "w", "b", "y")),
    **dict.fromkeys(("conv_input_vjp", "conv_transpose"), ("y", "w", "b", "x")),
    "conv_weight_vjp": ("x", "y", "b", "w"),
}
SETS = 20  # of data for one program: compiling it is what takes time
LARGE = 9000  # numbers in an operand, of which fewer sets are run
IN_STORAGE = ("sigmoid", "tanh", "leaky_relu", "squared_error")  # computed in the type of the operands


@dataclass(frozen=True, kw_only=True)
class FuzzFailure(report.Failure):
    """One order of one sample that is wrong; the worst entry, or in words what else is wrong."""

    problem: Problem
    number: int = 0  # of the sample
    order: int = 0
    operand: int = 0  # whose gradient it is
    words: str = ""

    @property
    def message(self) -> str:
        if self.words:
            return self.words
        due = f"a bound of {self.bound:.3g}" if self.bound else "an exact result"
        place = list(self.index or ())
        return f"{self.wrong} of {self.of} entries; {place} is {self.got:.9g}, not {self.want:.9g}, for {due}"


@dataclass(frozen=True)
class Judged:
    """cases: (order, kind of data) of each.  vague: how many more had bounds that a wrong number would keep, too."""

    problem: Problem
    cases: tuple[tuple[int, str], ...]
    failures: tuple[FuzzFailure, ...] = ()
    vague: int = 0
    refused: str = ""


def judge(p: Problem, sets: int = SETS) -> Judged:
    try:
        shape: Shape | None = p.outline()
    except Undefined:
        shape = None
    try:
        dtype, given = traced(p)
    except Exception as error:
        return _refused(p, error, shape is not None)
    due = None if shape is None else ((COPIES, *shape) if any(p.mapped) else shape)
    if (dtype, given) != (p.dtype, due):
        return _failed(p, "type", f"{dtype}{given} for {f'{p.dtype}{due}' if due is not None else 'a refusal'}")
    number = 0
    try:
        run = compiled(p, given)
        cases, failures, vague = [], [], 0
        few = 5 if p.way == "eager" else 3 if max(map(prod, p.shapes)) > LARGE else sets
        for number in range(min(sets, few)):
            s = sample(p, number)
            for order, (wrong, told) in enumerate(verdicts(p, number, s, run(s))):
                failures += [wrong] if wrong else []
                cases += [(order, s.kind)] if told or wrong else []
                vague += not (told or wrong)
    except Exception as error:
        return _failed(p, "error", _text(error), number)
    return Judged(p, tuple(cases), tuple(failures), vague)


def _refused(p: Problem, error: Exception, defined: bool) -> Judged:
    """A refusal is a ValueError or TypeError of the library's own, and due; anything else is a failure."""
    text, due = _text(error), []
    if not defined:
        due += [f"Error: {p.operation}: padding must not crop ", "padding must leave a non-negative output size"]
    if p.integer and p.rules & DIVIDES:
        due.append(" divides, and takes no integers")
    if p.operation == "leaky_relu" and abs(p.args[0]) > float(jnp.finfo(p.dtype).max):  # type: ignore[no-untyped-call]
        due.append("slope must be finite")
    if "onednn" in p.rules and p.dtype not in ("float32", "bfloat16"):
        due.append('rule "onednn" takes')
    if p.rules & set(DENSE):
        due.append("the dense matrix must have at most")
    if isinstance(error, ValueError | TypeError) and any(words in text for words in due):
        return Judged(p, (), refused=text)
    return _failed(p, "error", text)


def _failed(p: Problem, kind: str, words: str, number: int = 0) -> Judged:
    """No numbers to judge."""
    return Judged(p, ((0, kind),), (FuzzFailure(argument="y", data=kind, problem=p, number=number, words=words),))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def verdicts(
    p: Problem, number: int, s: Sample, results: Sequence[Sequence[Array]]
) -> list[tuple[FuzzFailure | None, bool]]:
    """For every order what is wrong, and whether most entries have bounds below their values."""
    found = []
    for order, wants in enumerate(expected(p, s, highest_order(p, s.kind))):
        wrong, told, entries = None, 0, 0
        for a, (got, want) in enumerate(zip(results[order], wants, strict=True)):
            name = f"d_x{a}" if order else ("y", "indices")[a]
            names: dict[str, Any] = {"argument": name, "data": s.kind, "dtype": p.dtype, "problem": p, "number": number}
            dtype = "int32" if name == "indices" else p.dtype
            if (got.dtype.name, got.shape) != (dtype, want.value.shape):
                words = f"{got.dtype.name}{got.shape} for {dtype}{want.value.shape}"
                wrong = wrong or FuzzFailure(**names, order=order, operand=a, words=words)
                continue
            numbers, clear = compared(p, s, order, a, got, want)
            if numbers and wrong is None:
                wrong = FuzzFailure(**names, order=order, operand=a, **numbers)
            told, entries = told + int(clear.sum()), entries + clear.size
        found.append((wrong, 2 * told >= entries))
    return found


def compared(p: Problem, s: Sample, order: int, a: int, got: Array, want: Expected) -> tuple[dict[str, Any], Array]:
    """The numbers of a failure, or none; and which entries have a bound below their value."""
    if p.integer or got.dtype.name == "int32":
        target = want.value.astype(got.dtype)  # modulo 2^bits
        close, same = np.zeros(got.shape), got == target
    else:
        target = want.value.astype(np.float64)
        close = closeness(p, s, order, a, want)
        same = _same(p, s, got.astype(np.float64), target, close, want.moduli)
        if order and any(p.mapped) and not p.mapped[a]:  # infinite gradients of copies, added in another order
            same |= ~np.isfinite(got.astype(np.float64)) & ~np.isfinite(target)
        if s.target is not None and spreads(p, s, order, a):
            same |= ~np.isfinite(got.astype(np.float64))
    clear = (close == 0) | (close < abs(target)) | ~np.isfinite(target)
    numbers = {} if same.all() else worst(got.astype(np.float64), target.astype(np.float64), close, ~same)
    return numbers, clear


def _same(p: Problem, s: Sample, got: Array, want: Array, close: Array, moduli: Array) -> Array:
    limits = jnp.finfo(p.dtype)  # type: ignore[no-untyped-call]
    top, most = float(limits.max), float(jnp.finfo(summed(p)).max)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        rounded = held(want, p.dtype)
        near = (abs(got - want) <= close) | (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        overflow = (abs(want) + close >= top * (1 - unit_roundoff(limits.dtype))) & (got == np.sign(want) * np.inf)
        partial = (np.isfinite(want) | (s.kind == "largest")) & (
            moduli > min(top, most)
        )  # some of its sums may have overflowed
    return np.asarray(near | overflow | partial)


def summed(p: Problem) -> Any:
    """The dtype that sums are kept in."""
    dtype = jnp.dtype(p.dtype)
    return dtype if p.operation in IN_STORAGE else accumulator(dtype)


def closeness(p: Problem, s: Sample, order: int, a: int, want: Expected) -> Array:
    """The bound on rounding errors, 0 where whole numbers leave nothing to round."""
    moduli, growth = want.moduli, grown(p)
    if growth > 1:  # such a formulation mixes all entries
        flat = s.each(lambda x: np.full_like(x, np.abs(x[np.isfinite(x)]).max(initial=0)))
        largest = expected(p, flat, order)[order][a].moduli.max(initial=0)
        moduli = np.full_like(moduli, growth * largest)
    with np.errstate(all="ignore"):
        close = bound(want, moduli, p.dtype, summed(p), underflow(p, s, order))
    exactly = want.whole and s.kind in ("integers", "ties") and growth == 1 and not p.rules & ROUNDING
    limit = 2.0 ** min(24, jnp.finfo(p.dtype).nmant + 1)  # type: ignore[no-untyped-call]
    return np.where((moduli <= limit) & (want.own < 0.5) & exactly, 0, close)


def underflow(p: Problem, s: Sample, order: int) -> float:
    """What one underflow may be multiplied by afterwards: the other factors of its product."""
    factors = [*s.operands, s.dy, *(np.array(slope) for slope in p.args if p.operation == "leaky_relu")]
    if p.operation == "lp_pool":  # a power that vanished, times dy
        factors = [s.dy]
    elif s.kind == "largest" or order > 1:  # no product underflows
        factors = []
    return max([1.0, *(float(np.abs(x[np.isfinite(x)]).max(initial=0)) for x in factors)])


# ---- what a rule of convolution may do ------------------------------------------------------------------------------


def grown(p: Problem) -> float:
    """How much larger the numbers are that the formulations add up, over all axes."""
    if RULED.get(p.operation) != "conv":
        return 1.0
    spec, used = conv_maps(p)
    return float(max(GROWTH.get(rule, 1.0) for rule in used.values())) ** len(spec.axes)


def spreads(p: Problem, s: Sample, order: int, a: int) -> bool:
    """Whether one number that is not finite may reach results that do not depend on it.

    It may where the rule `spreads`, and where it is multiplied by the zeros of the padding of x, or by those that stand
    between and around the entries of dy.
    """
    roles = ROLES.get(p.operation, ())
    if not roles or roles[a] == "b":
        return False
    made = roles[a] if order else roles[-1]
    source = roles[-1] if s.target == "dy" else roles[int(s.target or 0)]
    map_, (spec, used) = {"y": "forward", "x": "input_vjp", "w": "weight_vjp"}[made], conv_maps(p)
    padded = any(axis.low > 0 or axis.high > 0 for axis in spec.axes)
    return (
        conv_spreads(map_, spec, jnp.dtype(p.dtype))
        or (made == "w" and p.way == "vmap" and used["weight_vjp"] == "lax")  # which makes groups of copies
        or (p.dtype == "float64" and spec.groups > 1 and used[map_] == "lax")  # of which XLA makes one
        or (source == "w" and (made == "x" or padded))
        or (source == "y" and made == "w" and padded)
    )


@lru_cache(maxsize=8)
def conv_maps(p: Problem) -> tuple[ConvSpec, dict[str, str]]:
    """The convolution whose maps the problem runs, and the rule of each map."""
    shapes = dict(zip(ROLES[p.operation], p.shapes, strict=False)) | {ROLES[p.operation][-1]: p.outline()}
    layout = p.options.get("layout", "channels_last")
    *window, _, d = kernel_places(shapes["w"], layout).shape
    _, size, c = split(shapes["x"], len(window), layout)
    named = {
        name: p.options.get(name, default) for name, default in (GEOMETRY | {"groups": 1, "precision": None}).items()
    }
    spec = ConvSpec.from_args(
        p.operation, shapes["x"], size, window, c, d, **named,
        rule=p.options.get("rule", "auto"), available=available_rules()["conv"],
    )  # fmt: skip
    rules = zip(CONV_MAPS, spec.rules, strict=True)
    return spec, {m: conv_choice(m, spec, jnp.dtype(p.dtype)).rule if rule == "auto" else rule for m, rule in rules}
