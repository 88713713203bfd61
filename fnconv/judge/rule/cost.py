"""What a rule costs beside automatic differentiation of its reference: never a failure, always worth knowing."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from fnconv.judge.engine.programs import abstract, precision, residual_bytes
from fnconv.judge.rule.programs import Flat
from fnconv.judge.rule.trial import Trial

COST = "cost"
COLLECTIVE = re.compile(r"= \S+ (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def measure(trial: Trial) -> None:
    """Residual bytes and operations; with level "full" temporaries, and collectives where there are several devices."""
    row = trial.report.row(COST)
    cost: dict[str, Any] = {}
    for name, flat in (("rule", trial.rule_flat), ("autodiff", trial.reference_flat)):
        try:
            with precision(trial.dtype):
                cost[name] = _of(trial, flat)
        except Exception:  # there may be no derivative of the reference
            cost[name] = {}
    trial.report.cost = cost
    texts = []
    for key, text in (
        ("residual_bytes", "residuals {} bytes"),
        ("flops", "{} flops"),
        ("temporary_bytes", "{} temporary bytes"),
    ):
        if key in cost["rule"]:
            other = cost["autodiff"].get(key)
            texts.append(
                text.format(f"{cost['rule'][key]:,}") + (f" (autodiff {other:,})" if other is not None else "")
            )
    if "collectives" in cost["rule"]:
        texts.append(f"collectives {cost['rule']['collectives']} (autodiff {cost['autodiff'].get('collectives')})")
    row.detail = ", ".join(texts)


def _of(trial: Trial, flat: Flat) -> dict[str, Any]:
    found: dict[str, Any] = {"residual_bytes": residual_bytes(lambda values: flat(*values)[0], trial.kinds)}
    lowered = jax.jit(trial.derivative(flat)).lower(trial.kinds, trial.vectors)
    analysis = lowered.cost_analysis() or {}
    if "flops" in analysis:
        found["flops"] = int(analysis["flops"])
    if trial.level == "full":
        memory = lowered.compile().memory_analysis()
        if memory is not None:
            found["temporary_bytes"] = int(memory.temp_size_in_bytes)
        sharded = _collectives(trial, flat)
        if sharded is not None:
            found["collectives"] = sharded
    return found


def _collectives(trial: Trial, flat: Flat) -> dict[str, int] | None:
    """Collectives of the program whose leading axis, the batch, is split over all devices; None on one device."""
    devices = jax.devices()
    batch = trial.results[0].shape[:1] if trial.results else ()
    if len(devices) < 2 or not batch or batch[0] % len(devices):
        return None
    mesh = jax.make_mesh((len(devices),), ("batch",))

    def place(aval: Any) -> Any:
        split = aval.shape[:1] == batch
        spec = PartitionSpec(*("batch",) * split)  # type: ignore[no-untyped-call]
        return abstract(aval.shape, aval.dtype, NamedSharding(mesh, spec))

    placed = jax.tree.map(place, (trial.kinds, trial.vectors))
    text = jax.jit(trial.derivative(flat)).lower(*placed).compile().as_text() or ""
    found: dict[str, int] = {}
    for name in COLLECTIVE.findall(text):
        found[name] = found.get(name, 0) + 1
    return found
