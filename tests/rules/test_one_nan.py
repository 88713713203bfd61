"""One NaN in an operand reaches the results whose sums it is in, and no others, but for rules that say so."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from agreement import compiled, formulations
from cases import Conv

import fnconv
from fnconv.base.geometry import Axis
from fnconv.base.spec import CONV_MAPS, ConvSpec
from fnconv.rules.choice import conv_spreads

ROOT = Path(__file__).parents[2]
CASES = {
    "plain": Conv((5, 6), (3, 3), 1, 1, inputs=3, outputs=2),
    "strided, cells left over": Conv((8, 5), (2, 2), (3, 2), inputs=2, outputs=3),
    "strided, overlapping": Conv((9,), (3,), 2, inputs=2, outputs=2),
    "dilated, cropped": Conv((9,), (3,), 2, ((-1, 2),), 2, inputs=2, outputs=2),
    "grouped": Conv((6, 4), (3, 1), 1, ((1, 1), (0, 0)), inputs=4, outputs=4, groups=2),
    "depthwise": Conv((11, 4), (3, 2), (1, 2), inputs=3, outputs=6, groups=3),
    "one channel": Conv((4, 12), (2, 5), inputs=1, outputs=2),
}


def maps(case: Conv, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, ...]:
    """(y, dx, dw) by the definition, in which the padding is cells of 0."""
    widths = [(max(a.low, 0), max(a.high, 0)) for a in case.steps()]
    wide = np.pad(x, [(0, 0), *widths, (0, 0)])
    steps = [
        replace(a, size=a.size + low + high, low=a.low - low, high=a.high - high)
        for a, (low, high) in zip(case.steps(), widths, strict=True)
    ]
    y, dx, dw = oracles.conv_maps(wide, w, dy, steps, case.groups)
    inside = tuple(slice(low, low + a.size) for a, (low, _) in zip(case.steps(), widths, strict=True))
    return y, dx[(slice(None), *inside)], dw


def stated(name: str) -> set[tuple[str, str]]:
    """The rules and maps of which the package says so."""
    case = CASES[name]
    axes = tuple(Axis(a.size, a.window, a.stride, a.dilation, a.low, a.high) for a in case.steps())
    specs = {rule: ConvSpec(axes, case.inputs, case.outputs, case.groups, (rule,) * 3) for rule in formulations("conv")}
    return {(rule, map_) for rule, spec in specs.items() for map_ in CONV_MAPS if conv_spreads(map_, spec)}


@cache
def spread(name: str) -> set[tuple[str, str]]:
    """The rules and maps where a NaN, in one element of x or dy after another or in one of w, reaches others' sums."""
    case, rng = CASES[name], np.random.default_rng(0)
    y_shape = (case.images, *oracles.outputs(case.steps()), case.outputs)
    x, w, dy = (
        rng.integers(1, 4, s).astype(float) for s in ((case.images, *case.size, case.inputs), case.w_shape, y_shape)
    )

    @compiled
    def program(x: jax.Array, w: jax.Array, dy: jax.Array) -> dict[str, tuple[jax.Array, ...]]:
        return {
            n: (
                fnconv.conv(x, w, rule=rule, **case.options),
                fnconv.conv_input_vjp(dy, w, x.shape, rule=rule, **case.options),
                fnconv.conv_weight_vjp(x, dy, case.window, rule=rule, **case.options),
            )
            for n, rule in formulations("conv").items()
        }

    def places(a: np.ndarray) -> list[tuple[int, ...]]:
        return [(0, *at, a.shape[-1] - 1) for at in np.ndindex(*a.shape[1:-1])]

    found = set()
    for which, at in [*((0, at) for at in places(x)), (1, (0,) * w.ndim), *((2, at) for at in places(dy))]:
        operands = [a.copy() for a in (x, w, dy)]
        operands[which][at] = np.nan
        want = maps(case, *operands)
        for n, got in program(*(jnp.asarray(a, jnp.float32) for a in operands)).items():
            for map_, value, expected in zip(CONV_MAPS, got, want, strict=True):
                gaps = (which, map_) == (1, "input_vjp")  # some rules multiply weights by the zeros between cotangents
                if not gaps and not np.array_equal(np.isnan(value), np.isnan(expected)):
                    found.add((n, map_))
    return found


@pytest.mark.parametrize("output", [3, 4, 9])
def test_averages_over_adaptive_windows(output: int) -> None:
    """Of 7 cells, with windows that overlap, and with more windows than cells."""
    windows = [slice(o * 7 // output, -(-(o + 1) * 7 // output)) for o in range(output)]

    @jax.jit
    def program(x: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, pullback = jax.vjp(lambda x: fnconv.adaptive_avg_pool(x, (output, 1)), x)
        return y, pullback(dy)[0]

    ones = jnp.ones((1, 7, 2, 1)), jnp.ones((1, output, 1, 1))
    for i in range(7):
        y, _ = program(ones[0].at[0, i, 1, 0].set(jnp.nan), ones[1])
        assert jnp.isnan(y)[0, :, 0, 0].tolist() == [i in range(7)[w] for w in windows]
    for o in range(output):
        y, dx = program(ones[0], ones[1].at[0, o, 0, 0].set(jnp.nan))
        assert jnp.isnan(dx)[0, :, 0, 0].tolist() == [i in range(7)[windows[o]] for i in range(7)]


@pytest.mark.parametrize("name", CASES)
def test_it_stays_in_its_sums(name: str) -> None:
    assert spread(name) <= stated(name)


def test_no_rule_says_more_than_it_does() -> None:
    assert set().union(*map(spread, CASES)) == set().union(*map(stated, CASES))


def test_the_readme_says_so() -> None:
    said = (ROOT / "fnconv" / "README.md").read_text().partition("## Where a NaN goes")[2]
    kept, others = said[: said.index('by "auto"')].split("It also")
    spreading = {rule for name in CASES for rule, _ in stated(name)} - {"auto"}
    assert set(re.findall(r'`"(\w+)"`', others)) == spreading
    assert set(re.findall(r'`"(\w+)"`', kept)) == set(formulations("conv")) - spreading - {"auto"}
