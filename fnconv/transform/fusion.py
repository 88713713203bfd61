"""Chains of convolution, bias, ReLU and max pooling in a jaxpr, which `conv_block` evaluates as one operation.

    conv_general_dilated -> [add of a broadcast bias] -> [jax.nn.relu] -> reduce_window_max

each the only reader of the one before; axes may change their order, and axes of size 1 come and go, in between, as
they do in a model that is mapped over its batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend import core

from fnconv.ops.conv_block import conv_block
from fnconv.transform.table import CUSTOM_JVP, Declined, Operation, Params, Rule, of_jax_nn

Dims = tuple[int, ...]  # for every axis of a value which axis of the convolution's it is, NEW for one of size 1
NEW = -1


class Chain(NamedTuple):
    """One of them: its equations in order, what it reads, what `BLOCK` is built from."""

    equations: tuple[Any, ...]
    operands: tuple[Any, ...]
    params: Mapping[str, Any]

    @property
    def last(self) -> Any:
        return self.equations[-1]


def chains_of(jaxpr: Any) -> list[Chain]:
    """The chains of a jaxpr, those of its bodies not included."""
    read = [v for e in jaxpr.eqns for v in e.invars] + list(jaxpr.outvars)
    uses = Counter(v for v in read if isinstance(v, core.Var))
    reader = {v: e for e in jaxpr.eqns for v in e.invars if isinstance(v, core.Var) and uses[v] == 1}
    writer = {v: e for e in jaxpr.eqns for v in e.outvars}
    convolutions = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    found = [_chain(e, reader, writer) for e in convolutions]
    return [chain for chain in found if chain is not None]


def _chain(conv: Any, reader: Mapping[Any, Any], writer: Mapping[Any, Any]) -> Chain | None:
    equations, operands, activation = [conv], list(conv.invars), None
    dims: Dims | None = tuple(range(conv.outvars[0].aval.ndim))
    channel = conv.params["dimension_numbers"].out_spec[1]
    while dims is not None:
        v = equations[-1].outvars[0]
        e = reader.get(v)
        if e is None:
            return None
        equations.append(e)
        match e.primitive.name:
            case "add" if len(operands) == 2 and activation is None and channel in dims:
                other = next((o for o in e.invars if o is not v), None)
                bias = _bias(other, dims.index(channel), v.aval.shape[dims.index(channel)], writer)
                if bias is None:
                    return None
                operands.append(bias)
            case "custom_jvp_call" if activation is None and _is_relu(e):
                activation = "relu"
            case "reduce_window_max":
                params = {
                    "conv": tuple(sorted(conv.params.items())),
                    "pool": tuple(sorted(e.params.items())),
                    "dims": dims,
                    "shape": e.outvars[0].aval.shape,
                    "activation": activation,
                }
                return Chain(tuple(equations), tuple(operands), params)
            case _:
                dims = _moved(e, dims)
    return None


def _is_relu(e: Any) -> bool:
    body = e.params["call_jaxpr"]
    rule = of_jax_nn(CUSTOM_JVP, getattr(body, "jaxpr", body).debug_info)
    return rule is not None and rule.operation == "relu"


def _moved(e: Any, dims: Dims) -> Dims | None:
    """Where the axes are after an equation that only moves them; None after any other."""
    if len(e.invars) != 1:
        return None
    before, after = _shape(e.invars[0]), _shape(e.outvars[0])
    match e.primitive.name:
        case "transpose":
            return tuple(dims[i] for i in e.params["permutation"])
        case "squeeze":
            return tuple(d for i, d in enumerate(dims) if i not in e.params["dimensions"])
        case "broadcast_in_dim" if before == tuple(after[i] for i in e.params["broadcast_dimensions"]):
            source = dict(zip(e.params["broadcast_dimensions"], dims, strict=True))
            new = {i for i, size in enumerate(after) if i not in source and size != 1}
            return None if new else tuple(source.get(i, NEW) for i in range(len(after)))
        case "reshape" if [s for s in before if s != 1] == [s for s in after if s != 1]:
            long = iter([d for d, size in zip(dims, before, strict=True) if size != 1])
            return tuple(NEW if size == 1 else next(long) for size in after)
    return None


def _bias(v: Any, at: int, channels: int, writer: Mapping[Any, Any]) -> Any:
    """What is broadcast along axis `at` of v alone, one number for each channel; None if v is something else."""
    found = None
    while isinstance(v, core.Var) and _shape(v)[at] == channels:
        found = v if v.aval.size == channels else found  # type: ignore[attr-defined]
        e = writer.get(v)
        if e is None or len(e.invars) != 1:
            break
        match e.primitive.name:
            case "broadcast_in_dim" if at in e.params["broadcast_dimensions"]:
                at = e.params["broadcast_dimensions"].index(at)
            case "reshape" if len(_shape(e.invars[0])) == 1 and found is v:
                at = 0
            case _:
                break
        v = e.invars[0]
    return found


def _shape(v: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = v.aval.shape
    return shape


# ---- the operation --------------------------------------------------------------------------------------------------


def _build(params: Params, avals: Sequence[Any]) -> Operation:
    conv, pool, dims = dict(params["conv"]), dict(params["pool"]), params["dims"]
    numbers = conv["dimension_numbers"]
    spatial = numbers.out_spec[2:]
    result = conv["preferred_element_type"]
    still = {"window_dimensions": 1, "window_strides": 1, "window_dilation": 1, "padding": (0, 0)}
    plain = (
        {*conv["lhs_dilation"], *pool["base_dilation"], conv["batch_group_count"]} <= {1}
        and (result is None or result == avals[0].dtype)
        and conv.get("out_sharding") is None
        and all(
            tuple(pool[k][i]) == v if k == "padding" else pool[k][i] == v
            for i, d in enumerate(dims)
            if d not in spatial
            for k, v in still.items()
        )
    )
    if not plain:
        raise Declined("a convolution or pooling that conv_block has no argument for")

    def along(key: str) -> tuple[Any, ...]:
        return tuple(pool[key][dims.index(d)] if d in dims else still[key] for d in spatial)

    options = {
        "strides": conv["window_strides"],
        "padding": conv["padding"],
        "dilation": conv["rhs_dilation"],
        "groups": conv["feature_group_count"],
        "precision": conv["precision"],
        "activation": params["activation"],
        "pool": {
            "window_shape": along("window_dimensions"),
            "strides": along("window_strides"),
            "padding": along("padding"),
            "dilation": along("window_dilation"),
        },
    }
    of_x, of_y = _last(numbers.lhs_spec), _last(numbers.out_spec)
    of_w = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    kept = [d for d in dims if d != NEW]
    back = [of_y.index(d) for d in (*kept, *(d for d in of_y if d not in kept))]

    def block(x: jax.Array, w: jax.Array, *b: jax.Array) -> jax.Array:
        y = conv_block(_turned(x, of_x), _turned(w, of_w), *(v.reshape(-1) for v in b), **options)
        return _turned(y, back).reshape(params["shape"])

    return block


BLOCK = Rule("conv_block", _build)


def _last(spec: Sequence[int]) -> tuple[int, ...]:
    """From (batch, channels, *spatial) to (batch, *spatial, channels)."""
    return (spec[0], *spec[2:], spec[1])


def _turned(x: jax.Array, order: Sequence[int]) -> jax.Array:
    return x if tuple(order) == tuple(range(x.ndim)) else lax.transpose(x, tuple(order))
