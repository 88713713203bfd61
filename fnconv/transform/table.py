"""Which operation of fnconv takes the place of a primitive, and when none does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base import dtypes
from fnconv.base.geometry import is_symbolic
from fnconv.compat import lax as compat
from fnconv.ops import elementwise
from fnconv.ops.activation import log_softmax, relu, sigmoid, softmax, tanh
from fnconv.transform.contraction import contraction, labelled
from fnconv.transform.leaky_relu import leaky_relu
from fnconv.transform.logsumexp import arranged, logsumexp
from fnconv.transform.norm import Spec as Normalised
from fnconv.transform.norm import norm

Operation = Callable[..., jax.Array]
Params = Mapping[str, Any]

# functions of jax.nn by their names, which are those of the operations
PARAMETER = {"leaky_relu": "slope", "elu": "alpha", "celu": "alpha", "glu": "axis"}
ELEMENTWISE = (
    *("elu", "celu", "selu", "silu", "mish", "softplus", "log_sigmoid", "soft_sign"),
    *("relu6", "hard_tanh", "hard_sigmoid", "hard_silu", "glu"),
)

OPERATIONS = (
    "conv",
    "max_pool",
    "min_pool",
    "avg_pool",
    "dense",
    "relu",
    "leaky_relu",
    *ELEMENTWISE,
    "gelu",
    "sigmoid",
    "tanh",
    "softmax",
    "log_softmax",
    "logsumexp",
    "norm",
    "gate",
)


FUSED = "conv_block"  # in a selection: chains of these become one operation
CHAIN = frozenset(("conv", "relu", "max_pool"))


class Declined(Exception):
    """An operation that the table knows stays as it is; the message says why."""


@dataclass(frozen=True)
class Rule:
    """`build(params, avals)` is the operation on operands of these types; it raises `Declined` where there is none."""

    operation: str
    build: Callable[[Params, Sequence[Any]], Operation]


# ---- primitives -----------------------------------------------------------------------------------------------------


def _conv(params: Params, avals: Sequence[Any]) -> Operation:
    return partial(compat.conv_general_dilated, **params)


def _window(computation: Callable[..., Any], neutral: float) -> Callable[[Params, Sequence[Any]], Operation]:
    def build(params: Params, avals: Sequence[Any]) -> Operation:
        init = np.asarray(neutral, avals[0].dtype)[()]
        return lambda x: compat.reduce_window(x, init, computation, **params)

    return build


def _any_window(params: Params, avals: Sequence[Any]) -> Operation:
    raise Declined("a computation or initial value other than max -inf, min inf and sum 0, known at trace time")


def _dense(params: Params, avals: Sequence[Any]) -> Operation:
    result = jax.eval_shape(partial(lax.dot_general, **params), *avals).dtype
    params = {k: v for k, v in params.items() if k != "preferred_element_type"}
    precision = params.pop("precision")
    if isinstance(precision, tuple):
        if precision[0] != precision[1]:
            raise Declined(f"the operands' precisions differ: {precision}")
        precision = precision[0]
    spec = labelled(avals[0], avals[1], result, params.pop("dimension_numbers"), precision)
    _refuse(params)
    return partial(contraction, spec)


def _elementwise(function: Operation) -> Callable[[Params, Sequence[Any]], Operation]:
    def build(params: Params, avals: Sequence[Any]) -> Operation:
        _refuse(params)
        return function

    return build


def _refuse(params: Params) -> None:
    """Parameters that no rule reads must be absent."""
    for name, value in params.items():
        if value is not None:
            raise Declined(f"{name}={value}")


PRIMITIVES = {
    "conv_general_dilated": Rule("conv", _conv),
    "reduce_window_max": Rule("max_pool", _window(lax.max, -np.inf)),
    "reduce_window_min": Rule("min_pool", _window(lax.min, np.inf)),
    "reduce_window_sum": Rule("avg_pool", _window(lax.add, 0)),
    "reduce_window": Rule("reduce_window", _any_window),
    "dot_general": Rule("dense", _dense),
    "logistic": Rule("sigmoid", _elementwise(sigmoid)),
    "tanh": Rule("tanh", _elementwise(tanh)),
}

# ---- functions of jax.nn --------------------------------------------------------------------------------------------


def _of_jax_nn(name: str) -> Callable[[Params, Sequence[Any]], Operation]:
    """With the number that its parameter has, if it has one."""

    def build(params: Params, avals: Sequence[Any]) -> Operation:
        if name not in PARAMETER:
            return partial(getattr(elementwise, name))
        given = params[PARAMETER[name]]
        if given is None:
            raise Declined(f"its {PARAMETER[name]} is not known at trace time")
        if name == "leaky_relu":
            return partial(leaky_relu, given)
        return partial(getattr(elementwise, name), **{PARAMETER[name]: given})

    return build


# ReLU and ReLU6 are rules of JAX's own, `jax.custom_jvp`; the others are bodies of jit
CUSTOM_JVP = {"relu": Rule("relu", lambda params, avals: relu), "relu6": Rule("relu6", _of_jax_nn("relu6"))}
JITTED = {name: Rule(name, _of_jax_nn(name)) for name in ("leaky_relu", *ELEMENTWISE) if name != "relu6"}
# those that fnconv has no operation for
STAYS = "log1mexp sparse_plus sparse_sigmoid squareplus"
_JAX_NN = inspect.unwrap(jax.nn.relu).__code__.co_filename


def of_jax_nn(rules: Mapping[str, Rule], debug_info: Any) -> Rule | None:
    """The rule for a function by its name, if it is JAX's own: a user's may have the same name."""
    return rules.get(debug_info.func_name) if _is_jax_nn(debug_info) else None


def stays(debug_info: Any) -> str:
    """The name of a function of jax.nn that fnconv has no operation for; empty of any other one."""
    return debug_info.func_name if debug_info.func_name in STAYS.split() and _is_jax_nn(debug_info) else ""


def _is_jax_nn(debug_info: Any) -> bool:
    return f" at {_JAX_NN}:" in (debug_info.func_src_info or "")


# ---- chains of primitives, see polynomials.py and softmax.py --------------------------------------------------------


def _along(function: Operation) -> Callable[[Params, Sequence[Any]], Operation]:
    def build(params: Params, avals: Sequence[Any]) -> Operation:
        return lambda x: arranged(function(x, axis=params["axis"]), params["dims"])

    return build


CHAINS = {
    "softmax": Rule("softmax", _along(softmax)),
    "log_softmax": Rule("log_softmax", _along(log_softmax)),
    "logsumexp": Rule("logsumexp", _along(logsumexp)),
}

POLYNOMIALS = {
    "silu": Rule("silu", _elementwise(elementwise.silu)),
    "gelu": Rule("gelu", _elementwise(partial(elementwise.gelu, approximate=True))),
    "gelu_exact": Rule("gelu", _elementwise(partial(elementwise.gelu, approximate=False))),
}


# ---- normalisation, see moments.py ----------------------------------------------------------------------------------


def _norm(params: Params, avals: Sequence[Any]) -> Operation:
    """A normalisation in the dtype of its moments; what it has not got is 0 or 1."""
    shapes, dtype = dict(params["shapes"]), avals[1].dtype
    spec = Normalised(params["axes"], params["centred"], params["form"], params["deviation"], dtype)

    at, sizes = params.get("groups", (None, ()))

    def apart(v: jax.Array, moment: bool) -> jax.Array:
        """With the channels in groups; the moments are alike in each."""
        if at is None:
            return v
        split = v.reshape(*v.shape[:at], *(sizes if v.shape[at] > 1 else (1, 1)), *v.shape[at + 1 :])
        return split[(*[slice(None)] * (at + 1), slice(0, 1))] if moment else split

    def build(x: jax.Array, *given: jax.Array) -> jax.Array:
        parts = {n: apart(v.reshape(shapes[n]), n in "mr") for n, v in zip(shapes, given, strict=True)}
        grouped = apart(x, moment=False)
        neutral = {n: jnp.full((1,) * grouped.ndim, n == "scale", dtype) for n in ("m", "scale", "bias")}
        return norm(spec, grouped, **{**neutral, **parts}).reshape(x.shape)

    return build


def _gate(params: Params, avals: Sequence[Any]) -> Operation:
    return lambda x, s: elementwise.gate_map(params["shape"], x, s.reshape(params["shape"]))


NORM, GATE = Rule("norm", _norm), Rule("gate", _gate)

# ---- the decision ---------------------------------------------------------------------------------------------------


def replacement(
    rule: Rule, only: frozenset[str], params: Params, avals: Sequence[Any], results: Sequence[Any]
) -> Operation:
    """The operation, jitted, or `Declined`; `results` are the types that the primitive returns.

    Equal calls get the same operation, which is compiled once.
    """
    if only and rule.operation not in only:
        raise Declined("not in `only`")
    found = _replacement(rule, tuple(sorted(params.items())), tuple(avals), tuple(results))
    if isinstance(found, str):
        raise Declined(found)
    return found


@lru_cache(maxsize=4096)
def _replacement(
    rule: Rule, params: tuple[tuple[str, Any], ...], avals: tuple[Any, ...], results: tuple[Any, ...]
) -> Operation | str:
    """The operation, or why there is none: an exception raised again would keep the arrays of every caller's frame."""
    for a in avals:
        if not dtypes.accepted(a.dtype, integers=False):
            whole = jnp.issubdtype(a.dtype, jnp.integer)
            return f"operands of dtype {a.dtype.name}" + " carry no derivative" * whole
    variable = any(is_symbolic(size) for a in avals for size in a.shape)
    try:
        operation = rule.build(dict(params), avals)

        def run(*operands: jax.Array) -> jax.Array:
            return operation(*operands)

        run.__name__ = run.__qualname__ = rule.operation
        jitted: Operation = jax.jit(run)
        found = jax.make_jaxpr(jitted)(*avals).out_avals
        if tuple(found) != results:
            raise Declined(f"it would return {', '.join(map(str, found))} in place of {', '.join(map(str, results))}")
        if any(axis is not None for a in avals for axis in a.sharding.spec):
            _check_gradient(jitted, avals, "operands sharded over explicit mesh axes")
        if variable:
            _check_gradient(jitted, avals, "sizes that are variables")
    except (Declined, NotImplementedError) as error:
        return str(error)
    except Exception as error:
        if not variable:
            raise
        return f"sizes that are variables: {error}"
    return jitted


def _check_gradient(operation: Operation, avals: Sequence[Any], because: str) -> None:
    """What the operation can do its gradient may not: explicit axes make a type ambiguous, variables a comparison."""

    def gradient(*operands: jax.Array) -> Any:
        y, pullback = jax.vjp(operation, *operands)
        return pullback(y)

    try:
        jax.make_jaxpr(gradient)(*avals)
    except Exception as error:
        raise Declined(f"{because}: {error}") from error
