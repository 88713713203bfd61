"""Convolutions: forward, weight gradient and input gradient of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import fnconv
from benchmarks import convolutions, verify
from benchmarks.cases import LAYERS, MAPS, Layer
from benchmarks.timing import SMOKE, Budget, Side, compare, timer

Row = dict[str, Any]
FIELD = {"fwd": "forward", "dW": "weight_vjp", "dX": "input_vjp"}  # the rule that a map of conv runs
TRANSPOSED = {"fwd": "input_vjp", "dW": "weight_vjp", "dX": "forward"}


def run(
    only: Callable[[str], bool],
    budget: Budget,
    *,
    maps: Sequence[str] = MAPS,
    rules: Sequence[str] = (),
    torch: Side | None = None,
) -> Iterator[Row]:
    """A row for each map of each layer, when it is measured."""
    for layer in (case for case in LAYERS if only(case.name)):
        yield from measure(layer.tiny() if budget is SMOKE else layer, budget, maps, rules, torch)
        jax.clear_caches()


def measure(
    layer: Layer, budget: Budget, maps: Sequence[str], rules: Sequence[str], torch: Side | None
) -> Iterator[Row]:
    integers, numbers = (
        tuple(map(jnp.asarray, convolutions.arrays(layer, draw()))) for draw in (verify.integers, verify.normal)
    )
    wide = convolutions.maps(convolutions.in_lax(replace(layer, dtype="float32")))
    automatic = convolutions.maps(convolutions.in_lax(layer))
    for map_ in maps:
        programs = {"autodiff": jax.jit(automatic[map_])}
        for name, rule in _rules(layer, map_, rules).items():
            programs[name] = jax.jit(convolutions.maps(convolutions.in_fnconv(layer, rule))[map_])
        programs, refused = _without_refused(programs, integers)
        results = {name: program(*integers) for name, program in programs.items()}
        if torch is not None:
            results["torch"] = torch.result(layer, map_)
        truth = programs["autodiff"] if layer.dtype == "float32" else jax.jit(wide[map_])
        operands = tuple(a.astype(jnp.float32) for a in integers)
        verdicts = verify.verify(f"{layer.name} {map_}", operands, truth, results, layer.dtype)
        del results
        thunks = {name: partial(_ready, program, numbers) for name, program in programs.items()}
        times = compare(thunks, timer(torch, layer, map_), budget)
        yield {
            "name": layer.name,
            "map": map_,
            "tags": sorted(layer.tags),
            "times": {name: t.to_json() for name, t in times.items()},
            "verified": {name: str(v) for name, v in verdicts.items()},
            "refused": refused,
        }


def rule_names() -> set[str]:
    """Of all maps of convolution."""
    return {name for names in fnconv.available_rules()["conv"].values() for name in names}


def _ready(program: Callable[..., Any], operands: tuple[jax.Array, ...]) -> None:
    jax.block_until_ready(program(*operands))


def _rules(layer: Layer, map_: str, names: Sequence[str]) -> dict[str, Any]:
    """ "auto", and those of the named rules that exist for this map; all for "all"."""
    field = (TRANSPOSED if layer.transposed else FIELD)[map_]
    available = fnconv.available_rules()["conv"][field]
    chosen = available if "all" in names else [n for n in names if n in available]
    return {"fnconv": "auto", **{name: {field: name} for name in chosen}}


def _without_refused(programs: dict[str, Any], operands: tuple[jax.Array, ...]) -> tuple[dict[str, Any], list[str]]:
    """A rule may refuse a geometry; "auto" and autodiff may not."""
    refused = []
    for name in list(programs):
        if name in ("autodiff", "fnconv"):
            continue
        try:
            jax.eval_shape(programs[name], *operands)
        except ValueError:
            refused.append(name)
            del programs[name]
    return programs, refused
