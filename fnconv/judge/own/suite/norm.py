"""Normalisation, also where the mean is large against the deviation; gates and dropout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.own.bounds import Multilinear, Traced
from fnconv.judge.own.case import NORMAL, Arrays, Case, DataKind, Function, normal
from fnconv.ops import functional as ops

SHAPE, CHANNELS = (3, 4, 6), (6,)


def _offset(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    x, *rest = normal(rng, shapes, reach)
    return (x + 500, *rest)


OFFSET = DataKind("a mean of 500", _offset)


def cases() -> Iterator[Case]:
    """All cases of this module."""
    three = {"x": SHAPE, "scale": CHANNELS, "bias": CHANNELS}
    yield _case("layer_norm", ops.layer_norm, partial(_plain, axes=(-1,)), three)
    yield _case("rms_norm", ops.rms_norm, _plain_rms, {"x": SHAPE, "scale": CHANNELS})
    yield _case("group_norm", partial(ops.group_norm, groups=2), _plain_groups, three)
    yield _case("instance_norm", ops.instance_norm, partial(_plain, axes=(1,)), three)
    yield _case("batch_norm", lambda *a: ops.batch_norm(*a).y, partial(_plain, axes=(0, 1), epsilon=1e-5), three)
    five = {"x": SHAPE, "mean": CHANNELS, "deviation": CHANNELS, "scale": CHANNELS, "bias": CHANNELS}
    yield _case("batch_norm_inference", _given, _plain_given, five)
    options: dict[str, Any] = {"size": 4, "alpha": 0.5, "beta": 0.75}
    yield _case("local_response_norm", partial(ops.local_response_norm, **options), _plain_response, {"x": SHAPE})
    yield _case("gate", ops.gate, lambda x, s: x * s, {"x": SHAPE, "s": (3, 1, 6)})
    yield replace(_case("dropout", _dropped, _plain_dropped, {"x": SHAPE}), bound=Multilinear())


def _dropped(x: Any) -> Any:
    return ops.dropout(x, jax.random.key(3), 0.375)


def _plain_dropped(x: Any) -> Any:
    drawn = jax.random.bernoulli(jax.random.key(3), jnp.float32(0.625), SHAPE)
    return jnp.where(drawn, x / 0.625, jnp.zeros((), x.dtype))


def _case(name: str, manual: Function, reference: Function, operands: dict[str, tuple[int, ...]]) -> Case:
    batched = frozenset() if name == "batch_norm" else frozenset({"y", "dx"})
    bound = Traced(manual, reference, tuple(operands))
    samples = (NORMAL, OFFSET)
    return Case(name, str(SHAPE), lambda rule: manual, reference, operands, bound, samples, batched=batched, quick=True)


def _plain(x: Any, scale: Any, bias: Any, *, axes: tuple[int, ...], epsilon: float = 1e-6) -> Any:
    d = x - jnp.mean(x, axes, keepdims=True)
    return d * jax.lax.rsqrt(jnp.mean(d * d, axes, keepdims=True) + epsilon) * scale + bias


def _plain_rms(x: Any, scale: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def _plain_groups(x: Any, scale: Any, bias: Any) -> Any:
    parts = (v.reshape(*v.shape[:-1], 2, 3) for v in (x, scale, bias))
    return _plain(*parts, axes=(1, 3)).reshape(SHAPE)


def _plain_response(x: Any) -> Any:
    """Windows from two channels below to one above."""
    squares = jnp.pad(x * x, ((0, 0), (0, 0), (2, 1)))
    return x / (1 + 0.125 * sum(squares[..., i : i + CHANNELS[0]] for i in range(4))) ** 0.75


def _given(x: Any, mean: Any, deviation: Any, scale: Any, bias: Any) -> Any:
    return ops.batch_norm_inference(x, mean, deviation * deviation + 1, scale, bias)


def _plain_given(x: Any, mean: Any, deviation: Any, scale: Any, bias: Any) -> Any:
    return (x - mean) * jax.lax.rsqrt(deviation * deviation + 1 + 1e-5) * scale + bias
