"""Programs evaluated in float64, whatever their dtypes: exactly, with rounding errors, or checked for being exact.

A replay with `Rounding` moves each result y of a step by b, up or down at random (Monte Carlo arithmetic; Parker 1997);
u is the unit roundoff of its dtype:

    u |y|                       one rounding: sums of two, products, quotients, roots
    sqrt(n + 2) u (|a| * |b|)   sums of n products, in any order: contractions, convolutions, window and other sums;
                                no partial sum is larger than the magnitude |a| * |b|
    8 u |y|                     elementary functions, see `running_error`; of powers (1 + |log y|) times as much, of
                                what oscillates 8 u (1 + |y|)
    64 u max |y|                transforms, solvers, and what can be evaluated in its own dtype alone
    0                           what only moves or compares numbers, and what needs no rounding

Let s be the standard deviation of a final result under these moves.  If roundings are independent and of mean zero
(the model of Higham and Mary, A new approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41, 2019),
the error of that result satisfies, to first order, Hoeffding's inequality

    P(|error| > t s) <= 2 exp(-t^2 / 2)

Of s there are k samples; averaged over their chi-square distribution the right side becomes
2 (1 + t^2 / k)^(-k / 2), which `quantile` solves for t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from fnconv.base.dtypes import accumulator, unit_roundoff
from fnconv.judge.engine.constants import rounded_numbers, typed
from fnconv.judge.engine.replay import JAXPRS, LOOPS, STRUCTURES, Arithmetic, Arrays, bind, equations, inner, opened
from fnconv.judge.engine.replay import replay as evaluate
from fnconv.judge.engine.running_error import ELEMENTARY
from fnconv.transform.contraction import Contraction

CHANCE = 1e-6  # that rounding alone takes any entry of a report beyond its bound
F64, F32 = 2.0**-53, 2.0**-24
MAGNIFIED = 16.0  # moves of float64's own size would be rounded away; the deviations are divided by this again

# fmt: off
EXACT = frozenset({
    "abs", "all_gather", "all_to_all", "argmax", "argmin", "broadcast_in_dim", "ceil", "clamp", "complex",
    "concatenate", "conj", "copy", "copy_p", "cummax", "cummin", "device_put", "dynamic_slice", "dynamic_update_slice",
    "expand_dims", "floor", "gather", "imag", "iota", "max", "min", "neg", "optimization_barrier", "pad", "pbroadcast",
    "pcast", "ppermute", "pvary", "real", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min",
    "reshape", "reshard", "rev", "round", "scatter", "scatter_max", "scatter_min", "select_and_gather_add", "select_n",
    "sharding_constraint", "sign", "slice", "sort", "split", "squeeze", "stack", "stop_gradient", "tile", "top_k",
    "transpose", "unstack",
})
ONE = frozenset({
    "add", "add_any", "convert_element_type", "div", "mul", "reduce_precision", "rem", "sqrt", "square",
    "sub",
})
OSCILLATING = frozenset({
    "bessel_i0e", "bessel_i1e", "cos", "digamma", "erf_inv", "igamma", "igammac", "lgamma", "polygamma",
    "regularized_incomplete_beta", "sin", "tan", "zeta",
})
NORMWISE = frozenset({
    "cholesky", "cumlogsumexp", "eigh", "fft", "householder_product", "lu", "qr", "reduce", "svd", "triangular_solve",
    "tridiagonal_solve",
})
# they read bits, draw numbers or leave JAX: in float64 they would be something else
NATIVE = (
    "bitcast_convert_type", "cholesky_update", "custom_call", "custom_partitioning", "ffi_call", "io_callback",
    "nextafter", "pallas_call", "pure_callback", "random_", "rng_uniform", "tpu_custom_call", "triton_kernel_call",
)
# fmt: on
# by which operands they are sums of products; absolute values of these give the magnitude
SUMS = {
    "dot_general": (0, 1),
    "conv_general_dilated": (0, 1),
    "reduce_sum": (0,),
    "reduce_window_sum": (0,),
    "cumsum": (0,),
    "select_and_scatter_add": (0,),
    "scatter_add": (0, 2),
    "psum": (0,),
    "psum_invariant": (0,),
    "fnconv_linear": (0, 1),
}
WIDE_SUMS = ("dot_general", "conv_general_dilated", "fnconv_linear", "reduce_sum")  # of half precisions, in float32
STEPPED = {"floor": 1, "ceil": 1, "convert_element_type": 1, "round": 2}  # by 1, or at halves
STEP_ROOM = 2.0**-36
REDUCERS = ("scatter", "scatter_add", "scatter_sub", "scatter_mul", "scatter_min", "scatter_max", "reduce")


def quantile(entries: int, samples: int) -> float:
    """How many sampled standard deviations an error may have, with CHANCE that any of the entries has more."""
    return math.sqrt(samples * ((2 * max(entries, 1) / CHANCE) ** (2 / samples) - 1))


# ---- exactly --------------------------------------------------------------------------------------------------------


class Float64(Arithmetic):
    """Floating types become float64; 64-bit types must be enabled."""

    def constant(self, value: Any, aval: Any) -> Any:
        return widened(np.asarray(value, aval.dtype) if np.isscalar(value) else value)

    def equation(self, e: Any, operands: Arrays) -> Arrays:
        name = _name(e)
        if "debug_callback" in name or name == "debug_print":
            return [None] * len(e.outvars)
        if name in STRUCTURES:
            return STRUCTURES[name](e, operands, self)
        if not is_native(e):
            operands = [self.settled(o, STEPPED[name]) for o in operands] if _is_stepped(e) else operands
            try:
                results = [operands[0]] if name == "reduce_precision" else in_float64(e, operands)
            except (TypeError, ValueError, NotImplementedError):
                pass
            else:
                return self.rounded(e, operands, results, lambda *other: in_float64(e, other))
        own = [_cast(o, v.aval.dtype) for o, v in zip(operands, e.invars, strict=True)]
        return self.rounded(e, operands, [widened(r) for r in bind(e, own)], None)

    def rounded(self, e: Any, operands: Arrays, results: Arrays, again: Callable[..., Arrays] | None) -> Arrays:
        """What the step makes of its exact results; `again` evaluates it on other operands, None if only natively."""
        return results

    def settled(self, value: Any, steps: int, room: Any = STEP_ROOM) -> Any:
        """A value that misses one of the places where a staircase steps by a rounding is taken to be there.

        Positions are computed with roundings, in a rule and in its function alike: neither is to find another cell.
        """
        place = jnp.round(value * steps) / steps
        return jnp.where(abs(value - place) <= room * jnp.maximum(1.0, abs(value)), place, value)


def float64_of(dtype: Any) -> Any:
    """float64 for a floating type, complex128 for a complex one, any other type itself."""
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    return np.dtype(np.complex128) if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


def widened(value: Any) -> Any:
    """An array with the type that it has in a replay."""
    dtype = jax.typeof(value).dtype
    value = jnp.asarray(value, dtype) if isinstance(value, bool | int | float | complex) else value
    return _cast(value, float64_of(dtype))


def _cast(value: Any, dtype: Any) -> Any:
    return value if jax.typeof(value).dtype == dtype else lax.convert_element_type(value, dtype)


def is_native(e: Any) -> bool:
    """Whether a step can be evaluated in the dtypes alone that it was traced in."""
    return _name(e).startswith(NATIVE) or (bool(inner(e)) and _name(e) not in (*REDUCERS, *STRUCTURES))


def is_opaque(jaxpr: Any) -> bool:
    """Whether any step is native."""
    return any(map(is_native, equations(jaxpr)))


def _is_stepped(e: Any) -> bool:
    """Whether a step jumps: rounding to whole numbers, also by a cast."""
    to_integers = jnp.issubdtype(e.outvars[0].aval.dtype, jnp.integer) or _name(e) != "convert_element_type"
    return _name(e) in STEPPED and to_integers and bool(jnp.issubdtype(e.invars[0].aval.dtype, jnp.floating))


def _name(e: Any) -> str:
    return str(e.primitive.name.replace("-", "_"))


def in_float64(e: Any, operands: Arrays) -> Arrays:
    return bind(e, operands, {key: _widened_parameter(value) for key, value in e.params.items()})


def _widened_parameter(value: Any) -> Any:
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return float64_of(value)
    if isinstance(value, lax.DotAlgorithmPreset | lax.DotAlgorithm):
        return None
    if isinstance(value, Contraction):
        return value._replace(dtypes=tuple(map(float64_of, value.dtypes)))
    if isinstance(value, JAXPRS):  # what a scatter or a reduction does with two numbers
        avals = [jax.core.ShapedArray(a.aval.shape, float64_of(a.aval.dtype)) for a in opened(value).invars]
        again = jax.make_jaxpr(lambda *a: evaluate(value, a, Float64()))(*avals)
        return again if isinstance(value, core.ClosedJaxpr) else opened(again)
    return value


# ---- with rounding errors -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounding(Float64):
    """Errors added to results, their signs drawn by a counter-based hash.

    key: of the sample, a scalar uint32; 0 for no errors at all.
    platform: where the program runs; it tells what DEFAULT precision means.
    dtype: of the function, where float64 in its program stands for that; None where every dtype is meant.
    limited: no step may claim more than `dtype`'s roundoff, and sums of half precisions are kept in float32.
    fine: a traced boolean.  True: the errors are those of float64 itself, times `MAGNIFIED`, and constants of the
      program have the error of the digits in which they were typed.  False: the errors of the program's dtypes.
      None: as False, with constants taken to be exact.
    """

    key: Any
    platform: str = "cpu"
    dtype: Any = None
    limited: bool = False
    fine: Any = None
    drawn: list[int] = field(default_factory=lambda: [0])
    known: dict[Any, tuple[Arrays, Arrays]] = field(default_factory=dict)  # results of steps, by step and operands

    numbered = True

    def at(self, iteration: Any) -> Rounding:
        key = _mixed(self.key ^ _mixed(iteration + np.uint32(1)))
        return replace(self, key=jnp.where(self.key == np.uint32(0), self.key, key), known={})

    def settled(self, value: Any, steps: int, room: Any = STEP_ROOM) -> Any:
        """Not under roundings of the program's own dtypes, which may lead to another cell."""
        plain = self.key == np.uint32(0)
        return super().settled(value, steps, jnp.where(plain if self.fine is None else plain | self.fine, room, 0.0))

    def apart(self) -> Rounding:
        return replace(self, known={})

    def equation(self, e: Any, operands: Arrays) -> Arrays:
        """A step that is taken twice on the same operands is rounded alike: a rule may compare a value with itself."""
        if _name(e) in STRUCTURES and _name(e) not in LOOPS:
            return super().equation(e, operands)
        same = [v.val if isinstance(v, core.Literal) else id(o) for v, o in zip(e.invars, operands, strict=True)]
        step = _name(e), str(e.params), tuple(map(str, same))
        if step not in self.known:
            self.known[step] = super().equation(e, operands), operands  # kept, so that ids are
        return self.known[step][0]

    def constant(self, value: Any, aval: Any) -> Any:
        exact = super().constant(value, aval)
        if self.fine is None or not jnp.issubdtype(aval.dtype, jnp.floating) or isinstance(value, jax.core.Tracer):
            return exact
        array = np.asarray(value).astype(aval.dtype).astype(np.float64)
        long, rounded = rounded_numbers(array, aval.dtype)
        if not rounded:
            return exact
        own = unit_roundoff(self._computed(aval.dtype))
        meant = own
        if aval.dtype == jnp.float64:
            meant = typed(array, min(unit_roundoff(self.dtype or aval.dtype), F32))
        return self._moved(exact, self._either(MAGNIFIED * meant, own if long else 0.0) * abs(exact))

    def rounded(self, e: Any, operands: Arrays, results: Arrays, again: Callable[..., Arrays] | None) -> Arrays:
        modulus = _name(e) in ("abs", "sign") and jnp.iscomplexobj(operands[0])
        if again is not None and _name(e) in EXACT and not modulus:
            return results
        moved = []
        for i, (y, v) in enumerate(zip(results, e.outvars, strict=True)):
            floats = jnp.issubdtype(getattr(v.aval, "dtype", np.bool_), jnp.inexact)
            moved.append(self._step(e, operands, y, again, i) if floats else y)
        return moved

    def _step(self, e: Any, operands: Arrays, y: Any, again: Callable[..., Arrays] | None, i: int) -> Any:
        name, dtype = _name(e), self._computed(_real(e.outvars[i].aval.dtype))
        info = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
        unit = self._scaled(unit_roundoff(dtype))
        if again is None or name in NORMWISE:
            if again is None:
                own = unit_roundoff(_real(e.outvars[i].aval.dtype))
                unit = self._either(MAGNIFIED * own, own)
            return self._moved(y, 64 * unit * jnp.max(jnp.where(jnp.isfinite(y), abs(y), 0), initial=0))
        if name == "reduce_precision" and not self.limited:
            unit = self._scaled(max(unit_roundoff(dtype), 2.0 ** -(e.params["mantissa_bits"] + 1)))
        if name in SUMS:
            magnitude = abs(again(*_with(abs, name, operands))[i])
            n = jnp.asarray(_terms(name, e, operands, again, i) + 2, np.float64)  # products, and once more the result
            kept = accumulator(dtype) if self.limited and name in WIDE_SUMS else dtype
            size = (self._scaled(unit_roundoff(kept)) * jnp.sqrt(n) + self._operands(name, e, dtype)) * magnitude
            if kept != dtype:
                size = size + unit * abs(y)
            # that a sum happens to be one of the type says nothing of its partial sums: some digits must be free
            spare = _fits(magnitude, info, free=min(7, int(info.nmant) // 3))
            if not name.startswith("psum"):  # of several devices each sees its own operands alone
                spare = spare | (magnitude <= 2.0 ** (info.nmant + 1)) & _whole(name, operands)
            exact = _fits(y, info) & spare
        else:
            weight = _weight(name, e, y)
            if jnp.iscomplexobj(y) and name not in ("add", "add_any", "sub", "convert_element_type"):
                weight = max(weight, 1) * ELEMENTARY  # several steps; their products may cancel
            size = unit * weight * (1 + abs(y) if name in OSCILLATING else abs(y))
            # that float64 rounds tanh(20) to 1 does not make it 1
            exact = _fits(y, info) if name not in ("pow", "reduce_precision") and weight != ELEMENTARY else y == 0
        # subnormal results may be flushed to zero; in float16 only by functions with an intermediate result that
        # overflows, such as exp(-x) in the logistic function
        gradual = dtype == jnp.float16 and (name in SUMS or name in ONE)
        tiny = float(info.smallest_subnormal if gradual else info.smallest_normal)
        return self._moved(y, size + self._either(float(np.finfo(np.float64).tiny), tiny), exact)

    def _computed(self, dtype: Any) -> Any:
        """The dtype that a step of the program is taken to be computed in."""
        if self.dtype is None:
            return dtype
        narrow = dtype == jnp.float64 or (self.limited and unit_roundoff(dtype) > unit_roundoff(self.dtype))
        return self.dtype if narrow else dtype

    def _scaled(self, unit: float) -> Any:
        return self._either(MAGNIFIED * F64, unit)

    def _either(self, fine: float, own: float) -> Any:
        return own if self.fine is None else lax.select(self.fine, np.float64(fine), np.float64(own))

    def _moved(self, y: Any, size: Any, exact: Any = False) -> Any:
        """y with an error of this size and a random sign, but where it is exact."""
        if jnp.iscomplexobj(y):
            return lax.complex(*(self._moved(part, size, exact) for part in (y.real, y.imag)))
        self.drawn[0] += 1
        index = lax.iota(np.uint32, max(y.size, 1))[: y.size].reshape(y.shape)
        h = index * np.uint32(0x85EBCA6B) + (self.key ^ np.uint32(self.drawn[0] * 0x9E3779B1 & 0xFFFFFFFF))
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0xC2B2AE35)
        size = jnp.broadcast_to(size, y.shape)
        moved = y + lax.select(h < np.uint32(2**31), size, -size)
        return lax.select(jnp.broadcast_to(exact | (self.key == np.uint32(0)), y.shape), y, moved)

    def _operands(self, name: str, e: Any, dtype: Any) -> float:
        """What an accelerator's units do to the operands of a product before they multiply."""
        if self.platform == "cpu" or dtype != jnp.float32 or name not in ("dot_general", "conv_general_dilated"):
            return 0.0
        if "HIGHEST" in str(e.params.get("precision")):
            return 0.0
        return 2 * 2.0 ** (-11 if self.platform in ("gpu", "cuda", "rocm") else -8)  # TF32, bfloat16


def _mixed(h: Any) -> Any:
    """Murmur3's finaliser: every bit of the argument changes every bit of the result."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def _fits(y: Any, info: Any, free: int = 0) -> Any:
    """Whether a number is one of the type, with so many binary digits free, so that nothing was rounded.

    Of float64, one with half its digits.
    """
    if jnp.iscomplexobj(y):
        return _fits(y.real, info, free) & _fits(y.imag, info, free)
    exponent, mantissa = int(info.bits) - 1 - int(info.nmant), int(info.nmant)
    return lax.reduce_precision(y, exponent_bits=exponent, mantissa_bits=mantissa - free if mantissa < 52 else 26) == y


def _weight(name: str, e: Any, y: Any) -> Any:
    """How many roundings a step makes that is no sum."""
    if name in ONE:
        return 1.0
    match name:
        case "integer_pow":
            return float(abs(e.params["y"]))
        case "reduce_prod" | "cumprod" | "scatter_mul":
            return float(e.invars[0].aval.size)
        case "pow":
            return ELEMENTARY * (1 + abs(jnp.log(jnp.where(y > 0, y, 1.0))))
    return ELEMENTARY


def _terms(name: str, e: Any, operands: Sequence[Any], again: Callable[..., Sequence[Any]], i: int) -> Any:
    """How many terms an entry of a sum has."""
    q = e.params
    shape = getattr(e.invars[0].aval, "shape", ())
    match name:
        case "dot_general":
            return math.prod(shape[axis] for axis in q["dimension_numbers"][0][0])
        case "conv_general_dilated":
            w = e.invars[1].aval.shape
            return math.prod(w) // max(w[q["dimension_numbers"].rhs_spec[0]], 1)
        case "reduce_sum":
            return math.prod(shape[axis] for axis in q["axes"])
        case "reduce_window_sum" | "select_and_scatter_add":
            return math.prod(q["window_dimensions"])
        case "cumsum":
            return shape[q["axis"]]
        case "psum" | "psum_invariant":
            return jax.device_count()
    return abs(again(*_with(jnp.ones_like, name, operands))[i])


def _with(change: Callable[[Any], Any], name: str, operands: Sequence[Any]) -> list[Any]:
    """The operands, those changed in which the result is linear."""
    linear = [i in SUMS[name] and jnp.issubdtype(o.dtype, jnp.inexact) for i, o in enumerate(operands)]
    return [change(o).astype(o.dtype) if moves else o for o, moves in zip(operands, linear, strict=True)]


def _whole(name: str, operands: Sequence[Any]) -> Any:
    """Whether a sum is one of whole numbers, which no order of adding rounds while they are small enough."""
    floats = [o for i, o in enumerate(operands) if i in SUMS[name] and jnp.issubdtype(o.dtype, jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.all(o == jnp.round(o)) for o in floats], bool))


def _real(dtype: Any) -> Any:
    """The dtype of the parts of a complex number, any other dtype itself."""
    return np.zeros((), dtype).real.dtype if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


# ---- on whole numbers -----------------------------------------------------------------------------------------------


@dataclass
class WholeNumbers(Float64):
    """`whole` stays true while all numbers are integers that their dtypes hold, so that no step rounds.

    Values must be concrete: inside a loop, where they are traced, `whole` becomes false.
    """

    whole: bool = True

    def rounded(self, e: Any, operands: Arrays, results: Arrays, again: Callable[..., Arrays] | None) -> Arrays:
        name = _name(e)
        if again is None or name in EXACT:
            self.whole &= again is not None
            return results
        for i, (y, v) in enumerate(zip(results, e.outvars, strict=True)):
            if jnp.issubdtype(v.aval.dtype, jnp.inexact):
                most = again(*_with(abs, name, operands))[i] if name in SUMS else y
                self.whole &= not isinstance(y, jax.core.Tracer) and _holds(_real(v.aval.dtype), y, most)
        return results

    def constant(self, value: Any, aval: Any) -> Any:
        if jnp.issubdtype(aval.dtype, jnp.floating) and np.ndim(value) == 0:
            number = float(value)
            self.whole &= not np.isfinite(number) or number * 256 == round(number * 256)
        return super().constant(value, aval)


def _holds(dtype: Any, y: Any, most: Any) -> bool:
    seen, limit = np.asarray(y), 1 / unit_roundoff(dtype)
    return bool((seen == np.round(seen)).all() and (abs(np.asarray(most)) <= limit).all())
