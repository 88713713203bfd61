"""A program evaluated in float64 whatever its dtypes, with the rounding errors that it may make as an input.

Every floating-point number of the jaxpr is widened: without noise the results are those of exact arithmetic, up to
float64's own roundings.  With noise each step that rounds is moved by a random part of what its rounding may be
(Monte Carlo arithmetic; Parker 1997).  The spread of several such runs measures how far rounding alone can carry the
results; sums are moved at their terms, which is where a backward error of n u puts the errors of n additions (Higham,
Accuracy and Stability of Numerical Algorithms, 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from fnconv.judge.own.references import abstract
from fnconv.judge.rule.primal import CALLS, LOOPS, RULES, bind, consts, inner, opened

NOISE_LENGTH = 4099
HARD = 8.0  # exp, tanh, ...: libraries promise 1 to 4 units in the last place
F64, F32 = 2.0**-53, 2.0**-24


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXACT = _names(
    """
    reshape transpose broadcast_in_dim squeeze expand_dims slice dynamic_slice dynamic_update_slice gather rev
    concatenate pad select_n max min neg abs sign copy copy_p stop_gradient reduce_max reduce_min argmax argmin
    sort cummax cummin iota floor ceil round real imag reduce_window_max reduce_window_min top_k
    reduce_precision clamp select_and_gather_add scatter optimization_barrier split pbroadcast pvary reduce_or
    reduce_and convert_element_type scatter-max scatter-min scatter_max scatter_min tile unstack stack
    """
)
FUNCTIONS = _names(
    """
    exp exp2 log log1p expm1 tanh logistic erf erfc pow rsqrt cbrt integer_pow asinh acosh atanh sinh cosh asin
    acos atan atan2
    """
)
OSCILLATING = _names(
    """
    sin cos tan lgamma digamma erf_inv polygamma igamma igammac bessel_i0e bessel_i1e
    regularized_incomplete_beta zeta
    """
)
OPAQUE = _names(
    """
    pure_callback io_callback debug_callback pallas_call ffi_call custom_call bitcast_convert_type nextafter
    shard_map custom_partitioning tpu_custom_call triton_kernel_call psum all_gather cholesky_update
    """
)


@dataclass
class Noise:
    """How far each step is moved.

    native: times the roundoff of the step's own dtype; double: times float64's; numbers: between -1 and 1.
    narrow: roundoff of the function's dtype, for steps traced in float64.
    largest: the most that a step may claim.  A rule that computes in float32 inside is allowed float32's roundoff
    there, one that computes in bfloat16 for float32 arguments no more than theirs.
    """

    native: Any
    double: Any
    numbers: Any
    narrow: float
    largest: float
    tiny: float
    wide_sums: bool  # sums are kept in float32 at least
    count: list[int] = field(default_factory=lambda: [0])

    def draw(self, shape: tuple[int, ...]) -> Any:
        size = int(np.prod(shape))
        self.count[0] += 1
        numbers = self.numbers if size <= NOISE_LENGTH else jnp.tile(self.numbers, -(-size // NOISE_LENGTH) + 1)
        start = (self.count[0] * 997) % (numbers.shape[0] - size + 1)
        return lax.slice(numbers, (start,), (start + size,)).reshape(shape)

    def move(self, value: Any, roundoff: float, times: Any = 1.0, offset: Any = None) -> Any:
        """value (1 + a multiple of the roundoff); offset: the size of the error, where it is not the value's."""
        r = self.draw(value.shape)
        size = (self.native * roundoff + self.double * F64) * times * r
        moved = value + size * offset if offset is not None else value * (1 + size)
        return moved + self.native * self.tiny * r if self.tiny > 1e-30 else moved

    def roundoff(self, dtype: Any) -> float:
        if not jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.float64:
            return self.narrow
        return min(float(jnp.finfo(dtype).eps) / 2, self.largest)  # type: ignore[no-untyped-call]


class Silence(Noise):
    """No noise: a program that is shorter to compile."""

    def draw(self, shape: tuple[int, ...]) -> Any:
        return jnp.zeros(shape)

    def move(self, value: Any, roundoff: float, times: Any = 1.0, offset: Any = None) -> Any:
        return value


def evaluate(jaxpr: Any, operands: Sequence[Any], noise: Noise) -> list[Any]:
    """The results in float64 of operands in float64; integers stay integers."""
    body = opened(jaxpr)
    env: dict[Any, Any] = dict(zip(body.invars, operands, strict=True))
    constants: list[tuple[Any, Any]] = list(zip(body.constvars, consts(jaxpr), strict=True))
    for v, value in constants:
        env[v] = _constant(value, v.aval.dtype, noise) if isinstance(value, np.ndarray | jax.Array) else value

    def read(v: Any) -> Any:
        if not isinstance(v, core.Literal):
            return env[v]
        aval: Any = v.aval
        return _constant(v.val, aval.dtype, noise)

    for e in body.eqns:
        results = _equation(e, [read(v) for v in e.invars], noise)
        env |= dict(zip(e.outvars, results, strict=True))
    return [read(v) for v in body.outvars]


def is_opaque(jaxpr: Any) -> bool:
    """Whether any step cannot be evaluated in another dtype than it was traced in."""
    return any(e.primitive.name in OPAQUE or any(map(is_opaque, inner(e))) for e in opened(jaxpr).eqns)


def _constant(value: Any, dtype: Any, noise: Noise) -> Any:
    """A number of the program's; short ones are exact, others were rounded, if only by whoever typed them.

    Beside native noise numbers of 20 bits are short.  Without it those are that leave four bits of their dtype unused:
    in bfloat16 sqrt(1/2) is 181/256, and was rounded.  The digits of the others are taken to suffice for the dtype of
    the function, or for float32.
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        return value
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.asarray(value, jnp.complex128)
    array = np.asarray(value).astype(dtype).astype(np.float64)
    with np.errstate(all="ignore"):
        few = np.ldexp(np.frexp(array)[0], jnp.finfo(dtype).nmant - 3)  # type: ignore[no-untyped-call]
        long = ((array * 256 != np.round(array * 256)) | (abs(array) >= 4096)) & np.isfinite(array)
        rounded = long | (few != np.round(few)) & np.isfinite(array)
    if not rounded.any():
        return jnp.asarray(array)
    roundoff = noise.roundoff(dtype)
    typed = max(min(noise.narrow, F32), _last_digit(array)) if dtype == jnp.float64 else roundoff
    r = noise.draw(array.shape)
    native, double = (noise.native * roundoff, noise.double * typed) if long.any() else (0.0, noise.double * typed)
    return jnp.asarray(array) * (1 + (native + double) * r)


def _last_digit(array: np.ndarray) -> float:
    """How far a number that somebody typed, with 7 digits or more, is from the one that was meant."""
    if array.size != 1:
        return 0.0
    text = repr(float(array.reshape(()))).split("e")[0]
    digits = len(text.replace(".", "").lstrip("-0").rstrip("0"))
    return float(10.0**-digits) if 7 <= digits <= 14 else 0.0


def _equation(e: Any, operands: list[Any], noise: Noise) -> list[Any]:
    name = e.primitive.name
    if name in CALLS or name in RULES:
        return evaluate(inner(e)[0], operands, noise)
    if name in LOOPS:
        return LOOPS[name](e, operands, lambda jaxpr, xs: evaluate(jaxpr, xs, noise))
    if name in OPAQUE:
        return _as_traced(e, operands, noise)
    if name == "reduce_precision" or (name == "convert_element_type" and _floats(e.invars[0], e.outvars[0])):
        results = list(operands)
    else:
        terms, place = _terms(e, noise)
        if terms:
            roundoff = noise.roundoff(_sum_dtype(e, place, noise))
            operands[place] = noise.move(operands[place], roundoff, terms)
        try:
            results = bind(e, operands, {k: _widened(v) for k, v in e.params.items()})
        except (TypeError, ValueError, NotImplementedError):
            return _as_traced(e, operands, noise)
    if name in EXACT and not (name == "convert_element_type" and _narrows(e)):
        return results
    return [
        _rounded(name, r, noise, v.aval.dtype) if jnp.issubdtype(v.aval.dtype, jnp.floating) else r
        for r, v in zip(results, e.outvars, strict=True)
    ]


def _rounded(name: str, value: Any, noise: Noise, dtype: Any) -> Any:
    roundoff = noise.roundoff(dtype)
    if name in FUNCTIONS:
        weight = HARD * (1 + abs(jnp.log(jnp.where(value > 0, value, 1.0)))) if "pow" in name else HARD
        return noise.move(value, roundoff, weight)
    if name in OSCILLATING:
        return noise.move(value, roundoff, HARD, 1 + abs(value))
    return noise.move(value, roundoff)


def _as_traced(e: Any, operands: Sequence[Any], noise: Noise) -> list[Any]:
    """A step that knows its own dtypes alone: its error is that of those, also where the rest is float64."""
    narrow = [x.astype(v.aval.dtype) if _is_float(v) else x for x, v in zip(operands, e.invars, strict=True)]
    results = bind(e, narrow)
    moved = []
    for r, v in zip(results, e.outvars, strict=True):
        if _is_float(v):
            u = float(jnp.finfo(v.aval.dtype).eps) / 2  # type: ignore[no-untyped-call]
            wide = r.astype(jnp.float64)
            size = jnp.max(abs(wide), initial=0)
            r = wide + (noise.native + noise.double) * 64 * u * size * noise.draw(wide.shape)
        moved.append(r)
    return moved


def _terms(e: Any, noise: Noise) -> tuple[float, int]:
    """How many roundings a sum makes and the operand whose entries are its terms; 0 for what is no sum."""
    name, p = e.primitive.name, e.params
    shapes = [v.aval.shape for v in e.invars]
    if not any(_is_float(v) for v in e.outvars):
        return 0, 0
    match name:
        case "reduce_sum" | "reduce_prod":
            return float(np.prod([shapes[0][a] for a in p["axes"]])), 0
        case "dot_general":
            return float(np.prod([shapes[0][a] for a in p["dimension_numbers"][0][0]])), 0
        case "conv_general_dilated":
            spec = p["dimension_numbers"].rhs_spec
            return float(np.prod([shapes[1][a] for a in spec[1:]])), 0
        case "cumsum" | "cumprod" | "cumlogsumexp":
            return 2 * np.log2(max(shapes[0][p["axis"]], 2)), 0
        case "reduce_window_sum":
            return float(np.prod(p["window_dimensions"])), 0
        case "select_and_scatter_add":
            return float(np.prod(p["window_dimensions"])), 0
        case "scatter-add" | "scatter_add" | "scatter-mul" | "scatter_mul":
            ratio = np.prod(shapes[2]) / max(np.prod(shapes[0]), 1)
            return float(min(2 * ratio + 2, 64)), 2
        case "fnconv_linear" | "reduce" | "fft" | "triangular_solve":
            return 16.0, 0
    return 0, 0


def _sum_dtype(e: Any, place: int, noise: Noise) -> Any:
    """What a sum is kept in: backends add half precisions in float32, but for those that are scattered."""
    dtype = e.invars[place].aval.dtype
    wide = e.primitive.name in ("reduce_sum", "dot_general", "conv_general_dilated", "fnconv_linear", "fft")
    if wide and noise.wide_sums and jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64:
        return jnp.promote_types(dtype, jnp.float32)
    return dtype


def _widened(value: Any) -> Any:
    """A parameter with float64 in place of narrower dtypes."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        if jnp.issubdtype(value, jnp.complexfloating):
            return np.dtype(np.complex128)
        return np.dtype(np.float64) if jnp.issubdtype(value, jnp.floating) else value
    if isinstance(value, lax.DotAlgorithmPreset | lax.DotAlgorithm):
        return None
    if type(value).__name__ in ("Jaxpr", "ClosedJaxpr"):
        return _widened_jaxpr(value)
    return value


def _widened_jaxpr(jaxpr: Any) -> Any:
    """The computation of a reduction or a scatter."""
    silent = Silence(0.0, 0.0, jnp.zeros(NOISE_LENGTH), 0.0, 0.0, 0.0, True)
    avals = [abstract(v.aval.shape, jnp.float64 if _is_float(v) else v.aval.dtype) for v in opened(jaxpr).invars]
    closed = jax.make_jaxpr(lambda *xs: _plain(jaxpr, xs, silent))(*avals)
    return closed if type(jaxpr).__name__ == "ClosedJaxpr" else opened(closed)


def _plain(jaxpr: Any, operands: Sequence[Any], silent: Silence) -> list[Any]:
    env: dict[Any, Any] = dict(zip(opened(jaxpr).invars, operands, strict=True))
    for e in opened(jaxpr).eqns:
        values = [v.val if isinstance(v, core.Literal) else env[v] for v in e.invars]
        env |= dict(zip(e.outvars, bind(e, values, {k: _widened(v) for k, v in e.params.items()}), strict=True))
    return [v.val if isinstance(v, core.Literal) else env[v] for v in opened(jaxpr).outvars]


def _is_float(v: Any) -> bool:
    return bool(jnp.issubdtype(v.aval.dtype, jnp.floating))


def _floats(a: Any, b: Any) -> bool:
    return _is_float(a) and _is_float(b)


def _narrows(e: Any) -> bool:
    if not _floats(e.invars[0], e.outvars[0]):
        return False
    info = jnp.finfo
    return bool(info(e.outvars[0].aval.dtype).eps > info(e.invars[0].aval.dtype).eps)  # type: ignore[no-untyped-call]
