"""What rounding can do to the result of each operation of a program, as errors of random sign.

A replay moves each result y of an operation by b, up or down at random; u is the unit roundoff of its type:

    u |y|                       one rounding: sums of two, products, quotients, roots
    sqrt(n + 2) u (|a| * |b|)   sums of n products, in any order: contractions, convolutions, window and other sums;
                                no partial sum is larger than the magnitude |a| * |b|
    8 u |y|                     elementary functions, see `fnconv.judge.engine.running_error`
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
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.judge.engine.running_error import ELEMENTARY

CHANCE = 1e-6  # that rounding alone takes any entry of a report beyond its bound

# fmt: off
EXACT = frozenset({
    "abs", "all_gather", "all_to_all", "argmax", "argmin", "broadcast_in_dim", "ceil", "clamp", "concatenate",
    "conj", "copy", "copy_p", "cummax", "cummin", "device_put", "dynamic_slice", "dynamic_update_slice",
    "expand_dims", "floor", "gather", "imag", "iota", "max", "min", "neg", "optimization_barrier", "pad", "pcast",
    "ppermute", "pvary", "real", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "reshape",
    "reshard", "rev", "round", "scatter", "scatter_max", "scatter_min", "select_and_gather_add", "select_n",
    "sharding_constraint", "sign", "slice", "sort", "split", "squeeze", "stop_gradient", "top_k", "transpose",
})
# fmt: on
ONE = frozenset({"add", "add_any", "complex", "convert_element_type", "div", "mul", "rem", "sqrt", "square", "sub"})


def quantile(entries: int, samples: int) -> float:
    """How many sampled standard deviations an error may have, with CHANCE that any of the entries has more."""
    return math.sqrt(samples * ((2 * max(entries, 1) / CHANCE) ** (2 / samples) - 1))


@dataclass(frozen=True)
class Rounding:
    """Errors to be added to results, drawn by a counter-based hash.

    key: of the sample, a scalar uint32; None for no errors at all.
    platform: where the program runs; it tells what DEFAULT precision means.
    """

    key: Any
    platform: str = "cpu"
    drawn: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def none(cls) -> Rounding:
        return cls(None)

    def at(self, iteration: Any) -> Rounding:
        """That of one iteration of a loop."""
        if self.key is None:
            return self
        key = _mixed(self.key ^ _mixed(iteration + np.uint32(1)))
        return Rounding(jnp.where(self.key == np.uint32(0), self.key, key), self.platform, self.drawn)

    def of(
        self, e: Any, operands: Sequence[Any], results: Sequence[Any], again: Callable[..., Sequence[Any]]
    ) -> Sequence[Any]:
        """The results of an equation, each with an error; `again` evaluates it on other operands.

        Key 0 is the sample without errors.
        """
        name = e.primitive.name.replace("-", "_")
        if self.key is None or name in EXACT:
            return results
        moved = []
        for i, (result, v) in enumerate(zip(results, e.outvars, strict=True)):
            dtype = getattr(v.aval, "dtype", None)
            moves = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
            moved.append(self._moved(name, e, operands, result, dtype, again, i) if moves else result)
        return moved

    def _moved(
        self,
        name: str,
        e: Any,
        operands: Sequence[Any],
        y: Any,
        dtype: Any,
        again: Callable[..., Sequence[Any]],
        i: int,
    ) -> Any:
        info = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
        unit = float(info.eps) / 2
        tiny = float(info.smallest_subnormal if dtype == jnp.float16 else info.smallest_normal)  # others may be flushed
        if name in SUMS:
            magnitude = abs(again(*_with(abs, name, operands))[i])
            n = _terms(name, e, operands, again, i) + 2  # products are rounded too, and a narrow result once more
            size = (unit * jnp.sqrt(jnp.asarray(n, np.float64)) + self._operands(name, e, dtype)) * magnitude
            # that a sum happens to be one of the type says nothing of its partial sums: some digits must be free
            exact = _fits(y, info) & _fits(magnitude, info, free=min(7, int(info.nmant) // 3))
        else:
            size, exact = unit * _roundings(name, e) * abs(y), _fits(y, info)
            if _roundings(name, e) == ELEMENTARY:  # that float64 rounds tanh(20) to 1 does not make it 1
                exact = y == 0
        self.drawn[0] += 1
        index = lax.iota(np.uint32, max(y.size, 1))[: y.size].reshape(y.shape)
        start = _mixed(self.key ^ np.uint32(self.drawn[0] * 0x9E3779B1 & 0xFFFFFFFF))
        h = index * np.uint32(0x85EBCA6B) + start
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0xC2B2AE35)
        size = lax.select(exact | (self.key == np.uint32(0)), jnp.zeros_like(y), size + tiny)
        return y + lax.select(h < np.uint32(2**31), size, -size)

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
    exponent, mantissa = int(info.bits) - 1 - int(info.nmant), int(info.nmant)
    return lax.reduce_precision(y, exponent_bits=exponent, mantissa_bits=mantissa - free if mantissa < 52 else 26) == y


def _roundings(name: str, e: Any) -> float:
    if name in ONE:
        return 1.0
    match name:
        case "integer_pow":
            return float(abs(e.params["y"]))
        case "reduce_prod" | "cumprod" | "scatter_mul":
            return float(e.invars[0].aval.size)
    return ELEMENTARY


# ---- sums -----------------------------------------------------------------------------------------------------------

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


def _terms(name: str, e: Any, operands: Sequence[Any], again: Callable[..., Sequence[Any]], i: int) -> Any:
    """How many terms an entry of the result has."""
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
    linear = [i in SUMS[name] and jnp.issubdtype(o.dtype, jnp.floating) for i, o in enumerate(operands)]
    return [change(o) if moves else o for o, moves in zip(operands, linear, strict=True)]
