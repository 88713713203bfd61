"""What accuracy "auto" promises on data whose scale varies by the pixel, over many orders of magnitude."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import jax
import numpy as np
import oracles
import pytest
from bounds import gamma
from cases import Conv
from jax import lax

import fnconv
from fnconv.base.geometry import Axis
from fnconv.base.spec import CONV_MAPS, ConvSpec
from fnconv.judge.own.run import TRANSFORM_STEPS
from fnconv.rules import conv as rules
from fnconv.rules.choice import conv_choice

CASES = {
    "winograd": Conv((10, 9), (3, 3), 1, 1, inputs=32, outputs=32, batch=(12,)),
    "few channels": Conv((8, 12), (3, 5), 1, 1, inputs=1, outputs=4),
    "strided": Conv((9, 9), (3, 3), 2, 1, inputs=32, outputs=32),
    "groups of 32": Conv((9, 9), (3, 3), 1, 1, inputs=64, outputs=64, groups=2),
}


@cache
def operands(name: str) -> tuple[Any, ...]:
    """x, w, dy, each pixel, kernel element and position with a scale of its own, from 2^-20 to 2^20."""
    case, rng = CASES[name], np.random.default_rng(7)
    y_shape = (case.images, *oracles.outputs(case.steps()), case.outputs)
    shapes = ((case.images, *case.size, case.inputs), case.w_shape, y_shape)
    scales = (2.0 ** rng.integers(-20, 21, (*s[:-2], 1, 1) if s is case.w_shape else (*s[:-1], 1)) for s in shapes)
    arrays = [(rng.standard_normal(s) * scale).astype(np.float32) for s, scale in zip(shapes, scales, strict=True)]
    wide = [a.astype(np.float64) for a in arrays]
    maps = [oracles.conv_maps(*f(wide), case.steps(), case.groups) for f in (list, lambda w: map(np.abs, w))]
    return case, arrays, *maps, oracles.conv_maps(*map(np.ones_like, wide), case.steps(), case.groups)


def results(name: str, precision: Any) -> tuple[np.ndarray, ...]:
    return _results(name, precision, jax.config.jax_default_matmul_precision)


@cache
def _results(name: str, precision: Any, setting: str | None) -> tuple[np.ndarray, ...]:
    """y, dx and dw; `setting` is JAX's own, which precision=None follows."""
    case, arrays, *_ = operands(name)

    def program(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pullback = jax.vjp(lambda x, w: fnconv.conv(x, w, precision=precision, **case.options), x, w)
        return y, *pullback(dy)

    return tuple(np.asarray(a, np.float64) for a in jax.jit(program)(*arrays))


def errors_over_moduli(name: str, precision: Any) -> list[float]:
    """The largest error of each map, over the bound of a plain sum, entry by entry."""
    _, _, exact, moduli, counts = operands(name)
    got = results(name, precision)
    return [
        float(np.max(np.abs(g - e) / ((gamma(n, "float32") + gamma(n + 2, "float64")) * m)))
        for g, e, m, n in zip(got, exact, moduli, counts, strict=True)
    ]


def check_component_wise(name: str, precision: Any = "highest") -> None:
    assert max(errors_over_moduli(name, precision)) <= 1


@pytest.mark.parametrize("name", CASES)
def test_highest_precision_holds_every_entry_to_its_own_moduli(name: str) -> None:
    check_component_wise(name)


def test_high_precision_and_jax_s_setting_hold_it_as_well() -> None:
    check_component_wise("winograd", lax.Precision.HIGH)
    with jax.default_matmul_precision("highest"):
        check_component_wise("winograd", None)


def test_by_default_entries_are_held_to_the_largest_modulus_and_not_to_their_own() -> None:
    _, arrays, exact, _, counts = operands("winograd")
    x, w, dy = (float(np.abs(a).max()) for a in arrays)
    growth, steps = max(rules.GROWTH.values()) ** 2, 2 * TRANSFORM_STEPS
    for got, e, n, largest in zip(results("winograd", None), exact, counts, (x * w, dy * w, x * dy), strict=True):
        assert np.abs(got - e).max() <= gamma(n.max() + steps, "float32") * growth * n.max() * largest
    assert max(errors_over_moduli("winograd", None)) > 10, "else the check above shows nothing"


@pytest.mark.sample(1)
@pytest.mark.parametrize("precision", [lax.Precision.HIGH, lax.Precision.HIGHEST])
def test_no_line_of_the_table_adds_larger_numbers_at_a_higher_precision(precision: lax.Precision) -> None:
    axes = [Axis(16, k, s, d, 1, 1) for k, s, d in product((1, 2, 3, 5), (1, 2), (1, 2))]
    found = set()
    for (a, b), c, d, groups in product(product(axes, axes), (1, 16, 64), (16, 64), (1, 2, 16)):
        for asked in (None, precision):
            spec = ConvSpec((a, b), c * groups, d * groups, groups, precision=asked)
            for map_ in CONV_MAPS:
                rule = conv_choice(map_, spec).rule
                if rule == "merged":
                    rule = conv_choice(map_, rules.merged.block(spec, map_)).rule
                if rule in rules.GROWTH:
                    found.add(asked)
    assert found == {None}
