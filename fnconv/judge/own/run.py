"""Every operation x rule x dtype over the suite's geometries, on the devices present.

Each geometry meets one dtype, by turns, or as many as it takes for the operation to meet them all; the most telling
ones meet the first dtype as well.  The quick check gives each of its geometries one dtype, by turns.

Compilation is what takes the time: "auto" is compiled as users compile in the most telling geometries and the first
dtype, everything else without LLVM's optimisations, which change no operation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp

from fnconv.base.cpu_settings import cores
from fnconv.base.dtypes import FLOATS
from fnconv.base.errors import invalid
from fnconv.base.typing import RuleNames
from fnconv.judge.engine.programs import fast_options
from fnconv.judge.own.bounds import Multilinear, Results
from fnconv.judge.own.case import Case
from fnconv.judge.own.judgement import Drawn, assess, guess_of
from fnconv.judge.own.programs import AUTOMATIC, compile_case, compile_reference
from fnconv.judge.own.report import ONLY, OwnFailure, OwnReport, OwnRow
from fnconv.judge.own.suite import cases, operations
from fnconv.rules import conv
from fnconv.rules.available import available_rules

DTYPES = {row.short: row.dtype for row in sorted(FLOATS.values(), key=lambda row: row.name != "float32")}

TRANSFORM_STEPS = 16  # additions of the transforms along one axis, at most: six values, three transforms

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Job:
    """One case on one device, in the dtypes that it meets; in `optimised`, "auto" is compiled as users compile."""

    case: Case
    dtypes: tuple[str, ...]
    optimised: str | None
    device: str
    rules: Mapping[str, RuleNames]


def check(
    operations: Sequence[str] | None = None,
    rules: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    *,
    quick: bool = False,
    progress: Progress | None = None,
) -> OwnReport:
    """Compare manual with automatic gradients.

    Three judgements on every value and cotangent: on integers that leave nothing to round, equality with automatic
    differentiation and with float64, bit for bit; on floats, the distance from float64 against the a-priori bound of
    `fnconv.judge.own.bounds`; and the distances in units in the last place, for information.  A rule that refuses a
    geometry with a ValueError of its own is counted as not applicable.

    Args:
      operations, rules, dtypes, devices: names to keep to; None for all.  Rules are those of
        `fnconv.available_rules()` and "auto"; dtypes "f32", "f16", "bf16", "f64"; devices "cpu", "gpu", "tpu".
      quick: the few telling geometries alone, each in one dtype, by turns.
      progress: called with the number of cases done, their total and the name of the last one.

    Returns:
      An `OwnReport`; `report.ok` is the verdict.

    Raises:
      ValueError: for a name that does not exist, with those that do, and where nothing is left to check.

    >>> check(["relu"], dtypes=["f32"], devices=["cpu"]).ok
    True
    """
    return execute(plan(operations, rules, dtypes, devices, quick=quick), progress)


def execute(jobs: Sequence[Job], progress: Progress | None = None) -> OwnReport:
    """Run what `plan` made, on a thread more than there are cores (XLA compiles beside Python, which waits for it)."""
    rows: list[OwnRow] = []
    total, done = sum(len(job.dtypes) for job in jobs), 0
    stop = threading.Event()
    for platform in {job.device for job in jobs}:
        fast_options(platform)  # found out once, not by every thread
    with ThreadPoolExecutor(cores() + 1) as pool:
        running = {pool.submit(_run, job, stop): job for job in sorted(jobs, key=_cost, reverse=True)}
        try:
            for future in as_completed(running):
                rows += future.result()
                done += len(running[future].dtypes)
                if progress is not None:
                    progress(done, total, running[future].case.operation)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    order = list(dict.fromkeys(job.case.operation for job in jobs))
    total_of: dict[tuple[str, str], OwnRow] = {}
    for row in sorted(rows, key=lambda row: order.index(row.operation)):
        total_of.setdefault((row.operation, row.rule), OwnRow(row.operation, row.rule)).add(row)
    dtypes, devices = {name for job in jobs for name in job.dtypes}, {job.device for job in jobs}
    return OwnReport(tuple(total_of.values()), tuple(sorted(dtypes)), tuple(sorted(devices)))


def plan(
    operations_: Sequence[str] | None = None,
    rules: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    *,
    quick: bool = False,
) -> list[Job]:
    """What `check` will run; see there."""
    chosen = _named("operation", operations_, operations())
    kept = _named("rule", rules, all_rules())
    types = _named("dtype", dtypes, tuple(DTYPES))
    places = _named("device", devices, platforms())
    lead, *others = types
    jobs = []
    for operation in chosen:
        selected = [c for c in cases() if c.operation == operation and (c.quick or not quick)]
        each = 1 if quick else max(1, ceil(len(others) / len(selected)))
        turns = cycle(types if quick else (*others, lead))
        for case in selected:
            names = {name: rule for name, rule in _rules(case).items() if rules is None or name in kept}
            if not names:
                continue
            optimised = lead if case.quick and not quick else None
            met = (*([optimised] if optimised else []), *islice(turns, each))
            jobs += [Job(case, tuple(dict.fromkeys(met)), optimised, device, names) for device in places]
    if not jobs:
        raise ValueError(f"check: no operation of {', '.join(chosen)} has a rule of {', '.join(kept)}")
    return jobs


def all_rules() -> tuple[str, ...]:
    """The rules of all operations, and "auto"."""
    every = (name for maps in available_rules().values() for names in maps.values() for name in names)
    return (*dict.fromkeys(every), "auto")


def platforms() -> tuple[str, ...]:
    """The kinds of device present."""
    found = [jax.default_backend()]
    for platform in ("cpu", "gpu", "tpu"):
        try:
            jax.devices(platform)
        except RuntimeError:
            continue
        found.append(platform)
    return tuple(dict.fromkeys(found))


def _rules(case: Case) -> dict[str, RuleNames]:
    """Each rule of the operation, in the maps that have it; "auto" in the others, and for all."""
    if case.rules is None:
        return {ONLY: "auto"}
    if case.forward:
        return {"auto": "auto"}
    maps = available_rules()[case.rules]
    every = dict.fromkeys(name for names in maps.values() for name in names)
    mapped: dict[str, RuleNames] = {r: {m: r if r in names else "auto" for m, names in maps.items()} for r in every}
    return mapped | {"auto": "auto"}


def _named(kind: str, given: Sequence[str] | None, existing: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return existing
    for name in given:
        if name not in existing:
            raise invalid("check", kind, f"must be one of {', '.join(existing)}", repr(name))
    return tuple(name for name in existing if name in given)


def _cost(job: Job) -> int:
    """Programs with many rules and window elements take longest to compile."""
    return len(job.rules) * len(job.dtypes)


# ---- one job --------------------------------------------------------------------------------------------------------


def _run(job: Job, stop: threading.Event) -> list[OwnRow]:
    """A row for each dtype and rule."""
    case, device = job.case, jax.devices(job.device)[0]
    host = jax.devices("cpu")[0] if "cpu" in platforms() else device
    if stop.is_set():
        return []
    reference = compile_reference(case, case.reference, host)

    def float64(operands: Any, cotangent: Any) -> Results:
        return {name: v for name, v in reference(operands, cotangent).items() if name != case.auxiliary}

    rows: list[OwnRow] = []
    for name in job.dtypes:
        if stop.is_set():
            break
        dtype = jnp.dtype(DTYPES[name])
        optimised = [rule for rule in job.rules if rule in ("auto", ONLY)] if name == job.optimised else ()
        program = compile_case(case, job.rules, dtype, device, optimised=optimised)
        found = {rule: OwnRow(case.operation, rule, refusal=program.refused.get(rule, "")) for rule in job.rules}
        for sample in case.samples:
            operands, cotangent = case.draw(sample, program.cotangent_shape, dtype, float64)
            errors = case.bound.errors(float64, operands, cotangent, dtype)
            grown = _grown(job, operands, cotangent, dtype, float64)
            drawn = Drawn(sample, operands, cotangent, reference(operands, cotangent), errors, grown, conv.ROUNDING)
            outputs = program.run(operands, cotangent)
            automatic = outputs.pop(AUTOMATIC)
            for rule, results in outputs.items():
                for failure in assess(case, drawn, results, automatic, (name, job.device), found[rule]):
                    guess = guess_of(case, failure, drawn, results[failure.argument], reference, host)
                    found[rule].failures.append(replace(failure, guess=guess))
        for rule, row in found.items():
            row.refused = int(bool(row.refusal))
            row.cases = 1 - row.refused
            row.failures += [_broken(job, rule, name, program.broken[rule])] if rule in program.broken else []
        rows += found.values()
    return rows


def _grown(job: Job, operands: Any, cotangent: Any, dtype: Any, run: Callable[..., Results]) -> dict[str, Results]:
    """Bounds of the rules of convolution that add up larger numbers than the products."""
    case = job.case
    if case.rules != "conv" or not isinstance(case.bound, Multilinear):
        return {}
    axes = max(1, max(map(len, case.shapes)) - 2)
    given, steps = (run, operands, cotangent, dtype), TRANSFORM_STEPS * axes
    return {r: case.bound.grown(*given, g**axes, steps) for r, g in conv.GROWTH.items() if r in job.rules}


def _broken(job: Job, rule: str, dtype: str, error: str) -> OwnFailure:
    return OwnFailure(
        operation=job.case.operation,
        rule=rule,
        map="all",
        argument="every result",
        geometry=job.case.geometry,
        dtype=dtype,
        device=job.device,
        data="no data",
        guess=error,
    )
