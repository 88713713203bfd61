"""`jax.jvp` under `fnconv.both_modes` beside that of the plain operations: value and tangent, all operands moving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnconv
from benchmarks import convolutions, pools, verify
from benchmarks.cases import LAYERS, POOLS
from benchmarks.timing import SMOKE, Budget, compare
from fnconv.judge.engine.programs import MANY, InFloat64, abstract

Row = dict[str, Any]
Arrays = tuple[jax.Array, ...]

NAMES = (
    *("64-64 3x3 @32", "64-256 1x1 @56", "depthwise 128 3x3 @56", "128-128 3x3 /2 @56"),
    *("transposed 128-64 2x2 /2 @28", "dilated 64-64 3x3 :2 @32", "4 groups 128 3x3 @28"),
    *("max 3x3 /2 8x112x112x64", "max 2x2 /2 32x32x32x64", "avg 3x3 /2 8x112x112x64"),
)


@dataclass(frozen=True)
class Case:
    """Two functions that should agree; of sums of products on integers bit for bit, otherwise within rounding."""

    name: str
    autodiff: Callable[..., jax.Array]
    fnconv: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]
    scale: int = 0  # of integers on which nothing is rounded; 0 where there are none


def cases(tiny: bool) -> Iterator[Case]:
    """A dozen layers."""
    for layer in (case.tiny() if tiny else case for case in LAYERS if case.name in NAMES):
        shapes = (layer.x_shape, layer.w_shape)
        yield Case(layer.name, convolutions.in_lax(layer), convolutions.in_fnconv(layer), shapes, 1)
    for pool in (case.tiny() if tiny else case for case in POOLS if case.name in NAMES):
        scale = 1 if pool.kind == "max" else pool.window ** len(pool.size)
        yield Case(pool.name, pools.in_lax(pool), pools.in_fnconv(pool), (pool.x_shape,), scale)
    logits = (8, 10) if tiny else (256, 1000)
    yield Case("softmax 256x1000", jax.nn.softmax, fnconv.softmax, (logits,))
    yield Case("log_softmax 256x1000", jax.nn.log_softmax, fnconv.log_softmax, (logits,))
    labels = jnp.arange(logits[0]) % logits[1]

    def plain_loss(x: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], axis=-1)[:, 0]

    yield Case("cross entropy 256x1000", plain_loss, lambda x: fnconv.softmax_cross_entropy(x, labels), (logits,))


def run(only: Callable[[str], bool], budget: Budget, **unused: object) -> Iterator[Row]:
    """A row for each case, when it is measured."""
    for case in (c for c in cases(budget is SMOKE) if only(c.name)):
        sides = {"autodiff": case.autodiff, "fnconv": fnconv.both_modes(case.fnconv)}
        programs = {name: jax.jit(partial(_value_and_tangent, f, len(case.shapes))) for name, f in sides.items()}
        verdicts = _verify(case, programs)
        draw = verify.normal()
        arrays = tuple(jnp.asarray(draw(shape)) for shape in case.shapes * 2)
        thunks = {name: partial(_ready, program, arrays) for name, program in programs.items()}
        times = compare(thunks, None, budget)
        yield {
            "name": case.name,
            "map": "jvp",
            "tags": [],
            "times": {name: t.to_json() for name, t in times.items()},
            "verified": verdicts,
        }
        jax.clear_caches()


def _value_and_tangent(f: Callable[..., jax.Array], n: int, *arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(f, arrays[:n], arrays[n:])


def _ready(program: Callable[..., Any], arrays: Arrays) -> None:
    jax.block_until_ready(program(*arrays))


def _verify(case: Case, programs: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    shapes = case.shapes * 2
    if case.scale:
        draw = verify.integers()
        arrays = tuple(jnp.asarray(case.scale * draw(shape)) for shape in shapes)
        results = {name: program(*arrays)[1] for name, program in programs.items()}
        if len(case.shapes) > 1:  # linear in each operand and tangent: autodiff's on ones counts the products
            found = verify.verify(case.name, arrays, lambda *a: programs["autodiff"](*a)[1], results)
        else:  # linear in the tangent
            x, t = arrays
            exact = case.scale == 1
            found = verify.verify(case.name, (t,), lambda t: programs["autodiff"](x, t)[1], results, exact=exact)
        return {name: str(verdict) for name, verdict in found.items()}
    draw = verify.normal()
    arrays = tuple(jnp.asarray(draw(shape)) for shape in shapes)
    operands = [np.asarray(a, np.float64) for a in arrays]
    in_float64 = {name: _in_float64(program, operands) for name, program in programs.items()}
    right = in_float64["autodiff"].exact(operands)[1]
    verdicts = {}
    for name, program in programs.items():
        bound = in_float64[name].bound(operands, MANY)[1]
        value = np.asarray(program(*arrays)[1], np.float64)
        verdicts[name] = str(verify.judge(f"{case.name}, {name}", value, right, bound))
    return verdicts


def _in_float64(program: Callable[..., Any], operands: list[np.ndarray]) -> InFloat64:
    """The same program in float64, with what rounding explains of it in float32."""
    shapes = [abstract(o.shape, jnp.float32) for o in operands]
    return InFloat64(jax.make_jaxpr(program)(*shapes), [abstract(o.shape, jnp.float64) for o in operands])
