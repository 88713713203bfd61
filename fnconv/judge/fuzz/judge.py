"""One problem judged: its program run on several data sets, each result against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnconv.base.spec import CONV_MAPS, ConvSpec
from fnconv.judge.fuzz.definition import FORMS, Array, Form, Undefined, geometry, kernel, parts
from fnconv.judge.fuzz.draw import CONVS, COPIES, DENSE, RULED, Data, Problem, data, held, highest_order
from fnconv.judge.fuzz.expected import Expected, bound, polynomial, unit
from fnconv.judge.fuzz.program import compiled, traced
from fnconv.judge.fuzz.smooth import SMOOTH, smooth
from fnconv.rules.available import available_rules
from fnconv.rules.choice import conv_choice
from fnconv.rules.conv import DIVIDES, GROWTH, ROUNDING

# Formulations of convolution in which a NaN or an infinity may reach neighbouring results, as the README says
SPREADING = frozenset({"winograd", "winograd4", "merged", "blocked"})
ROLES = {  # what the operands and the result are in y = conv(x, w)
    **dict.fromkeys(("conv", "conv_block"), "xwy"),
    **dict.fromkeys(("conv_input_vjp", "conv_transpose"), "ywx"),
    "conv_weight_vjp": "xyw",
}
SETS = 20  # of data for one program: compiling it is what takes time
IN_STORAGE = ("sigmoid", "tanh", "leaky_relu", "squared_error")  # computed in the type of the operands


@dataclass(frozen=True)
class Failure:
    problem: Problem
    number: int  # of the data set
    kind: str
    order: int
    operand: int  # whose gradient it is; 0 for a value
    message: str
    got: Array | None = None
    want: Array | None = None


@dataclass(frozen=True)
class Judged:
    problem: Problem
    cases: tuple[tuple[int, str], ...]  # (order, kind of data) of each case
    failures: tuple[Failure, ...]
    refused: str = ""


def slices(p: Problem, arrays: Sequence[Array], copy: int) -> list[Array]:
    return [a[copy] if m else a for a, m in zip(arrays, p.mapped or (False,) * len(arrays), strict=True)]


def form(p: Problem, operands: Sequence[Array]) -> Form:
    options = {k: v for k, v in p.options.items() if k != "rule"}
    typed = [o.astype(p.dtype) if p.integer and a != p.index else o for a, o in enumerate(operands)]
    return FORMS[p.operation](*typed, *p.args, **options)


def y_shape(p: Problem) -> tuple[int, ...]:
    zeros = [np.zeros(s, np.int64 if p.integer or a == p.index else float) for a, s in enumerate(p.shapes)]
    if p.operation in FORMS:
        shape = form(p, zeros).shape
    elif p.operation == "lp_pool":
        options = {k: v for k, v in p.options.items() if k not in ("p", "rule")}
        shape = FORMS["avg_pool"](*zeros, *p.args, **options).shape
    else:
        shape = p.shapes[0][:-1] if p.operation == "softmax_cross_entropy" else p.shapes[0]
    return (COPIES, *shape) if p.way in ("vmap", "scan") else shape


def expected(p: Problem, d: Data, c: Array, dy: Array, order: int) -> tuple[list[Expected], Form | None]:
    """Of mapped operands each copy by itself; gradients of the others are sums over the copies."""
    copies: list[list[Expected]] = []
    forms: list[Form] = []
    mapped = p.way in ("vmap", "scan")
    for i in range(COPIES if mapped else 1):
        operands, directions = (slices(p, d[name], i) for name in ("operands", "directions"))
        c_i, dy_i = (c[i], dy[i]) if mapped else (c, dy)
        if p.operation in SMOOTH:
            options = {k: v for k, v in p.options.items() if k != "rule"}
            copies.append(smooth(p.operation, operands, p.args, options, directions, c_i, dy_i, order))
        else:
            with np.errstate(all="ignore"):
                forms.append(form(p, operands))
            copies.append(polynomial(forms[-1], operands, directions, c_i, dy_i, order))
    if not mapped:
        return copies[0], forms[0] if forms else None
    together = []
    for a, each in enumerate(zip(*copies, strict=True)):
        join = np.stack if order == 0 or p.mapped[a] else lambda v: np.sum(v, axis=0)
        roundings = max(e.roundings for e in each) + (COPIES if order else 0)
        stored = max(e.stored for e in each) + (COPIES if order else 0)
        with np.errstate(all="ignore"):
            value, moduli = (join([getattr(e, name) for e in each]) for name in ("value", "moduli"))
        together.append(Expected(value, moduli, roundings, stored))
    indices = [f.indices for f in forms if f.indices is not None]
    return together, Form((), (), 0, np.stack(indices)) if indices else None


def judge(p: Problem, sets: int = SETS) -> Judged:
    try:
        shape, defined = y_shape(p), True
    except Undefined:
        shape, defined = (), False
    try:
        dtype, given = traced(p)
    except Exception as error:
        return _refused(p, error, defined)
    if not defined or (dtype, given) != (p.dtype, shape):
        due = f"{p.dtype}{shape}" if defined else "a refusal"
        return _failed(p, "type", f"{dtype}{given} for {due}")
    try:
        run = compiled(p, shape)
    except Exception as error:
        return _failed(p, "error", _text(error))
    cases: list[tuple[int, str]] = []
    failures: list[Failure] = []
    for number in range(sets if p.way != "eager" else min(sets, 5)):
        d, c, dy = data_set(p, number, shape)
        try:
            results = run(d["operands"], d["directions"], c, dy)
        except Exception as error:
            return _failed(p, "error", _text(error), number)
        orders = range(min(len(results), highest_order(p, d["kind"]) + 1))
        cases += [(order, d["kind"]) for order in orders]
        failures += judge_data(p, number, d, c, dy, results)
    return Judged(p, tuple(cases), tuple(failures))


def judge_data(
    p: Problem, number: int, d: Data, c: Array, dy: Array, results: Sequence[Sequence[Array]]
) -> list[Failure]:
    """The orders of one data set that are wrong."""
    found = []
    for order, result in enumerate(results[: highest_order(p, d["kind"]) + 1]):
        wrong = verdict(p, d, c, dy, order, result)
        if wrong:
            found.append(Failure(p, number, d["kind"], order, *wrong))
    return found


def data_set(p: Problem, number: int, shape: tuple[int, ...]) -> tuple[Data, Array, Array]:
    zeros = [np.ones(s, np.int64 if p.integer or a == p.index else float) for a, s in enumerate(p.shapes)]
    factor = 1
    if "avg" in p.operation or p.options.get("pool") == "avg":
        factor = lcm(*form(p, zeros).divisors)
    d = data(p, number, factor)
    return d, d["draw"]("c", shape).astype(float), d["draw"]("dy", shape).astype(float)


def _refused(p: Problem, error: Exception, defined: bool) -> Judged:
    """A refusal is a ValueError or TypeError of the library's own, and due; anything else is a failure."""
    text, due = _text(error), []
    if not defined:
        due.append(f"Error: {p.operation}: padding must not crop ")
    if p.integer and set(p.rules) & DIVIDES:
        due.append(" divides, and takes no integers")
    if set(p.rules) & set(DENSE):
        due.append("the dense matrix must have at most")
    if isinstance(error, ValueError | TypeError) and any(words in text for words in due):
        return Judged(p, (), (), text)
    return _failed(p, "error", text)


def _failed(p: Problem, kind: str, message: str, number: int = 0) -> Judged:
    """No numbers to judge."""
    return Judged(p, ((0, kind),), (Failure(p, number, kind, 0, 0, message),))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def verdict(p: Problem, d: Data, c: Array, dy: Array, order: int, results: Sequence[Array]) -> Any:
    """None, or (operand, message, got, want)."""
    wants, form_ = expected(p, d, c, dy, order)
    if order == 0 and form_ is not None and form_.indices is not None:
        if not np.array_equal(results[1], form_.indices):
            return 0, "indices", results[1], form_.indices
        results = results[:1]
    if order:
        wants = [w for a, w in enumerate(wants) if a != p.index]
    for a, (got, want) in enumerate(zip(results, wants, strict=True)):
        if got.dtype != jnp.dtype(p.dtype) or got.shape != want.value.shape:
            return a, f"{got.dtype.name}{got.shape} for {p.dtype}{want.value.shape}", got, want.value
        message = differs(p, d, c, dy, order, a, got, want)
        if message:
            return a, message, got, want.value
    return None


def differs(p: Problem, d: Data, c: Array, dy: Array, order: int, a: int, got: Array, want: Expected) -> str:
    if p.integer:
        wrong = got != want.value.astype(got.dtype)  # modulo 2^bits
        return f"{int(wrong.sum())} of {got.size} integers" if wrong.any() else ""
    summed = p.dtype if p.dtype in ("float32", "float64") or p.operation in IN_STORAGE else "float32"
    u, _, top = unit(p.dtype)
    moduli, growth = want.moduli, grown(p)
    if growth > 1:  # such a formulation mixes all entries
        moduli = np.full_like(moduli, growth * np.max(largest_moduli(p, d, c, dy, order, a), initial=0))
    close = bound(want, p.dtype, summed, moduli, underflow(p, d, c, dy, order))
    if is_exact(p, d, c, dy, order, growth):
        close = np.zeros_like(close)
    wide = got.astype(np.float64)
    with np.errstate(all="ignore"):
        limit = held(want.value, p.dtype)
        near = abs(wide - want.value) <= close
        overflow = (abs(want.value) + close >= top * (1 - u)) & np.isinf(wide) & (np.sign(wide) == np.sign(want.value))
        unjudged = ~np.isnan(want.moduli) & np.isfinite(want.value) & (want.moduli > min(top, unit(summed)[2]))
    same = near | overflow | unjudged | (wide == limit) | (np.isnan(wide) & np.isnan(limit))
    if spreads(p, d, order, a) and not all(np.isfinite(x).all() for x in (*d["operands"], dy)):
        same |= ~np.isfinite(wide)
    wrong = ~same
    if not wrong.any():
        return ""
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    exactly = "an exact result" if not close[where] else f"a bound of {close[where]:.3g}"
    return (
        f"{int(wrong.sum())} of {got.size} entries; {list(where)} is {wide[where]:.9g}, not {want.value[where]:.9g}, "
        f"for {exactly}"
    )


def underflow(p: Problem, d: Data, c: Array, dy: Array, order: int) -> float:
    """What one underflow may be multiplied by afterwards: the other factors of its product."""
    if p.operation == "leaky_relu":
        return max(1.0, abs(p.args[0]))
    if p.operation == "lp_pool" and order < 2:  # a power that vanished, times dy
        return max(1.0, float(np.abs(dy[np.isfinite(dy)]).max(initial=0)))
    if order < 2:
        finite = [np.abs(x[np.isfinite(x)]) for x in (*d["operands"], dy)]
        return 1.0 if d["kind"] == "largest" else max(1.0, *(float(f.max(initial=0)) for f in finite))
    most = max(1.0, *(float(np.abs(x).max(initial=0)) for x in (*d["operands"], *d["directions"], c)))
    return most ** (2 * order)


def grown(p: Problem) -> float:
    """How much larger the numbers are that the formulations add up, over all axes."""
    if RULED.get(p.operation) != "conv":
        return 1.0
    spec = conv_spec(p)
    return float(max(GROWTH.get(rule, 1.0) for rule in runs(p, spec).values())) ** len(spec.axes)


def largest_moduli(p: Problem, d: Data, c: Array, dy: Array, order: int, a: int) -> Array:
    def full(x: Array) -> Array:
        return np.full_like(x, np.abs(x[np.isfinite(x)]).max(initial=0))

    flat = {**d, "operands": [*map(full, d["operands"])], "directions": [*map(full, d["directions"])]}
    return expected(p, flat, full(c), full(dy), order)[0][a].moduli


def is_exact(p: Problem, d: Data, c: Array, dy: Array, order: int, growth: float) -> bool:
    """Whether whole numbers leave nothing to round: no sum of moduli, none below 1, exceeds the digits of the dtype."""
    if d["kind"] not in ("integers", "ties") or p.operation in SMOOTH or set(p.rules) & ROUNDING:
        return False
    if p.operation == "leaky_relu" and p.args[0] not in (0.5, 0, -2.0):
        return False
    if p.operation == "adaptive_avg_pool" or p.options.get("pool") == "avg":
        return False  # shares such as 1 / 7 are rounded

    def least(x: Array) -> Array:
        return np.maximum(np.abs(x), 1)

    if (
        p.operation == "conv_block"
        or p.operation in ("relu", "leaky_relu")
        or "max" in p.operation
        or p.index is not None
    ):
        moved = d["operands"]  # these select by value
        biggest = max((float(np.abs(x).max(initial=0)) for x in moved), default=0)
        wants = [*expected(p, {**d, "directions": [least(v) for v in d["directions"]]}, least(c), least(dy), order)[0]]
        if order > 1:
            wants = [Expected(w.value, w.moduli * max(biggest, 1), 0) for w in wants]
    else:
        loud = {**d, "operands": [*map(least, d["operands"])], "directions": [*map(least, d["directions"])]}
        wants = expected(p, loud, least(c), least(dy), order)[0]
    digits = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
    most = max((float(np.max(w.moduli, initial=0)) for w in wants), default=0.0)
    kept = 53 if p.dtype == "float64" else 24
    spatial = 4  # G of Winograd halves twice along an axis at most
    fine = most * (1 if growth == 1 else growth * 4.0**spatial * 16) <= 2**kept
    return fine and most * 2 <= 2 ** digits[p.dtype]


def spreads(p: Problem, d: Data, order: int, a: int) -> bool:
    """Whether one number that is not finite may reach results that it is no factor of: as the README says of the rule,
    or times the zeros that stand for the padding of x, or between and around dy."""
    if RULED.get(p.operation) != "conv" or d["target"] is None or a == 2:
        return False
    roles = ROLES[p.operation]
    made = roles[a] if order else roles[2]
    source = roles[2] if d["target"] == "dy" else roles[d["target"]]
    map_ = {"y": "forward", "x": "input_vjp", "w": "weight_vjp"}[made]
    spec = conv_spec(p)
    rule = runs(p, spec)[map_]
    padded = any(axis.low > 0 or axis.high > 0 for axis in spec.axes)
    return (
        rule in SPREADING
        or (map_ == "weight_vjp" and rule == "lax" and spec.groups > 1)
        or (map_ == "weight_vjp" and rule == "correlation" and any(axis.stride > 1 for axis in spec.axes))
        or (source == "w" and (made == "x" or padded))
        or (source == "y" and made == "w" and padded)
    )


@lru_cache(maxsize=8)
def conv_spec(p: Problem) -> ConvSpec:
    """The convolution whose maps the problem runs."""
    y = form(p, [np.zeros(s) for s in p.shapes]).shape
    x_shape = {"x": y, **dict(zip(ROLES[p.operation], p.shapes[:2], strict=False))}["x"]
    w_shape = y if p.operation == "conv_weight_vjp" else p.shapes[1]
    layout = p.options.get("layout", "channels_last")
    (size, c), kernel_ = parts(x_shape, len(w_shape) - 2, layout)[1:], kernel(w_shape, layout)
    named = {name: value for name, value in geometry(dict(p.options)).items() if name != "layout"}
    return ConvSpec.from_args(
        p.operation, x_shape, size, kernel_.shape[:-2], c, kernel_.shape[-1], **named,
        rule=p.options.get("rule", "auto"), precision=p.options.get("precision"), available=available_rules()["conv"]
    )  # fmt: skip


def runs(p: Problem, spec: ConvSpec) -> dict[str, str]:
    """The rule of each map."""
    named = zip(CONV_MAPS, spec.rules, strict=True)
    return {m: conv_choice(m, spec, jnp.dtype(p.dtype)).rule if rule == "auto" else rule for m, rule in named}


__all__ = ["CONVS", "Failure", "Judged", "judge"]
