"""Bugs planted in the package, each of which the fuzzer must find among the first programs that it draws for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from random import Random

import jax
import jax.numpy as jnp
import pytest
from planted_bugs import (
    CONV_RULES,
    MAX_RULES,
    four_times_dy,
    not_orthogonal_to_z,
    overshoot,
    rebind,
    resized_back,
    trust_the_maximum,
)

from fnconv.base import attach, lowering
from fnconv.judge.fuzz.draw import Problem, problem
from fnconv.judge.fuzz.judge import Judged, judge
from fnconv.ops import activation, max_pool, resize
from fnconv.rules.avg_pool import divide, upsample
from fnconv.rules.conv import lax as lax_rule

Patch = pytest.MonkeyPatch
PROGRAMS = 12


def strided_one_off(rule: Callable) -> Callable:
    """Windows of a strided convolution start one cell early."""

    def wrong(spec, x, w):
        steps = [a for a, axis in enumerate(spec.axes, start=1) if axis.stride > 1]
        return rule(spec, jnp.roll(x, 1, axis=steps), w)

    return wrong


def sides_swapped(rule: Callable) -> Callable:
    def wrong(spec, x, dy):
        axes = tuple(dataclasses.replace(a, low=a.high, high=a.low) for a in spec.axes)
        return rule(dataclasses.replace(spec, axes=axes), x, dy)

    return wrong


def leaks_float32(rule: Callable) -> Callable:
    return lambda spec, x, w: rule(spec, x, w).astype(jnp.float32) if x.dtype == jnp.float16 else rule(spec, x, w)


def spreads_nan(rule: Callable) -> Callable:
    """Results next to a NaN are NaN."""

    def wrong(spec, a, b):
        y = rule(spec, a, b)
        return y + 0 * jnp.roll(y, 1, axis=-2)

    return wrong


def copies_not_added(patch: Patch) -> None:
    """Under vmap the cotangent of an operand that is not mapped is that of the first copy alone."""
    original = attach._unstack
    patch.setattr(
        attach,
        "_unstack",
        lambda value, axes: original(value[0], axes[:-1]) if axes and axes[-1] is None else original(value, axes),
    )


def residual_in_bfloat16(patch: Patch) -> None:
    def fwd(x):
        return activation._tangent(x), x.astype(jnp.bfloat16)

    def bwd(x, dy):
        return activation._tanh_bwd(x.astype(dy.dtype), dy)

    patch.setattr(activation, "_tanh", attach.attach(activation._tangent, fwd, bwd, has_spec=False))


def refuses_channels_first(patch: Patch) -> None:
    original = max_pool.canonical

    def wrong(x, spatial, layout):
        if layout == "channels_first":
            raise ValueError("adaptive_max_pool: layout must be channels_last")
        return original(x, spatial, layout)

    patch.setattr(max_pool, "canonical", wrong)


def second_derivative_lost(patch: Patch) -> None:
    zero = (None, lambda spec, ddx, offset, dy: 0 * max_pool.select(spec, offset, ddx))
    patch.setattr(max_pool.unselect, "adjoints", zero)


def nan_becomes_zero(patch: Patch) -> None:
    def primal(x):
        return jnp.maximum(jnp.nan_to_num(x, nan=0.0, posinf=jnp.inf, neginf=-jnp.inf), 0)

    wrong = attach.attach(primal, activation._relu_fwd, activation._relu_bwd, has_spec=False)
    patch.setattr(activation, "_relu", wrong)


def later_tie_wins(forward: Callable) -> Callable:
    """The windows are read backwards, and the winner's offset is turned again."""

    def wrong(spec, x):
        other = {"row_major": "column_major", "column_major": "row_major"}[spec.ties]
        return forward(spec, x)[0], forward(dataclasses.replace(spec, ties=other), x)[1]

    return wrong


def compared_as_signed(forward: Callable) -> Callable:
    def wrong(spec, x):
        if x.dtype != jnp.uint8:
            return forward(spec, x)
        y, offset = forward(spec, x.astype(jnp.int8))
        return y.astype(x.dtype), offset

    return wrong


def channels_exchanged(patch: Patch) -> None:
    """Channels first is undone by an exchange of axes, right for one spatial axis alone."""
    original = max_pool.canonical

    def wrong(x, spatial, layout):
        if layout == "channels_last" or spatial == 1:
            return original(x, spatial, layout)
        return original(jnp.swapaxes(jnp.moveaxis(x, -1, -spatial - 1), -1, -2), spatial, layout)

    patch.setattr(max_pool, "canonical", lambda x, n, layout: wrong(x, n, layout).reshape(original(x, n, layout).shape))


def uses(*rules: str) -> Callable[[Problem], bool]:
    return lambda p: p.options.get("rule") in rules


def anything(p: Problem) -> bool:
    return True


# the bug, the operations that are fuzzed, and the programs drawn for them that could meet it
BUGS: dict[str, tuple[Callable[[Patch], None], tuple[str, ...], Callable[[Problem], bool]]] = {
    "stride one off in one rule": (rebind(CONV_RULES, "forward", "taps", strided_one_off), ("conv",), uses("taps")),
    "padding swapped in one rule's weight gradient": (
        rebind(CONV_RULES, "weight_vjp", "correlation", sides_swapped), ("conv",), uses("correlation")),
    "tie broken the other way": (
        rebind(MAX_RULES, "forward", "segment_sum", later_tie_wins), ("max_pool",), uses("segment_sum")),
    "last window of ceil mode missing": (
        overshoot(lambda axis, cells: 0), ("avg_pool",), lambda p: "ceil_mode" in p.options),
    "overshoot counts": (
        lambda patch: patch.setattr(divide, "counts", lambda a, pad: lowering.counts(
            dataclasses.replace(a, high=a.high + a.overshoot, overshoot=0), pad)),
        ("avg_pool",), lambda p: "ceil_mode" in p.options and p.options["count_include_pad"]),
    "dtype leaks": (
        rebind(CONV_RULES, "forward", "im2col", leaks_float32), ("conv",),
        lambda p: uses("im2col")(p) and p.dtype == "float16" and len(p.shapes) == 2),
    "vmapped cotangents not added": (
        copies_not_added, ("conv", "dense"), lambda p: p.way == "vmap" and not all(p.mapped) and p.orders > 1),
    "residual kept in bfloat16": (residual_in_bfloat16, ("tanh",), lambda p: p.dtype == "float32"),
    "summed in float16": (
        lambda patch: patch.setattr(upsample, "to_accumulator", lambda x: x), ("avg_pool",),
        lambda p: uses("auto", "upsample")(p) and p.dtype == "float16"),
    "refuses a layout": (
        refuses_channels_first, ("adaptive_max_pool",), lambda p: p.options["layout"] == "channels_first"),
    "spreads a NaN": (
        rebind(CONV_RULES, "forward", "taps", spreads_nan), ("conv",),
        lambda p: uses("taps")(p) and not p.integer),
    "spreads a NaN in the gradient": (
        rebind(CONV_RULES, "weight_vjp", "columns", spreads_nan), ("conv",),
        lambda p: uses("columns")(p) and not p.integer and p.orders > 0),
    "groups mixed": (
        lambda patch: patch.setattr(lax_rule, "swap_channels", lambda w, groups: jnp.swapaxes(w, -1, -2).reshape(
            *w.shape[:-2], w.shape[-1] // groups, groups * w.shape[-2])),
        ("conv",), lambda p: uses("lax")(p) and p.options["groups"] > 1),
    "second derivative lost": (second_derivative_lost, ("max_pool",), lambda p: p.orders > 1),
    "NaN becomes 0": (nan_becomes_zero, ("relu",), anything),
    "unsigned compared as signed": (
        rebind(MAX_RULES, "forward", "offsets", compared_as_signed), ("max_pool",), lambda p: p.dtype == "uint8"),
    "4 dy before the slope": (four_times_dy, ("tanh",), lambda p: p.dtype == "float16"),
    "NaN lost by a maximum": (
        trust_the_maximum, ("max_pool",),
        lambda p: uses("segment_sum")(p) and p.args[0] == (3, 3) and p.dtype == "float32" and p.shapes[0][-1] > 3),
    "no gradient through the variance": (not_orthogonal_to_z, ("layer_norm",), lambda p: p.orders > 0),
    "resized back to the old size": (
        lambda patch: patch.setattr(resize._resize, "adjoints", (resized_back,)), ("resize",),
        lambda p: p.orders > 0 and p.args[1] == "linear"),
    "channels first exchanged": (
        channels_exchanged, ("max_pool",), lambda p: p.options["layout"] == "channels_first" and len(p.args[0]) > 1),
}  # fmt: skip


def judged(operations: tuple[str, ...], meets: Callable[[Problem], bool]) -> Iterator[Judged]:
    """The first programs of the fuzzer's own sequence that could meet a bug."""
    drawn = (problem(Random(f"7/{number}"), operations, 8) for number in range(5000))
    for p, _ in zip(filter(meets, drawn), range(PROGRAMS), strict=False):
        yield judge(p, sets=10)


@pytest.fixture
def patch(monkeypatch: Patch) -> Iterator[Patch]:
    jax.clear_caches()
    yield monkeypatch
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.parametrize("bug", BUGS)
def test_finds(bug, patch):
    plant, operations, meets = BUGS[bug]
    plant(patch)
    found = next((j for j in judged(operations, meets) if j.failures), None)
    assert found is not None
    assert found.failures[0].data != "error" or "refuses" in bug  # a wrong number, no crash
    print(bug, found.failures[0].message, sep=" | ")
