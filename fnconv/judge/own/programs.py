"""One compiled program for a case: the automatic reference and every rule, values and cotangents together."""

from __future__ import annotations

import dis
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from fnconv.base.typing import RuleNames
from fnconv.judge.engine.programs import abstract, fast_options, precision
from fnconv.judge.own.bounds import Results
from fnconv.judge.own.case import Case, Function

Outputs = dict[str, dict[str, np.ndarray]]

AUTOMATIC = "automatic"  # the reference's place among the outputs of a program
FOREIGN = ("jax", "jaxlib", "numpy")  # errors raised there are mistakes, not refusals


@dataclass(frozen=True)
class CompiledCase:
    """What was compiled, and what could not be.

    refused: rules that do not take this geometry and say so; broken: rules that ended in another error.
    """

    run: Callable[..., Outputs]
    cotangent_shape: tuple[int, ...]
    refused: Mapping[str, str]
    broken: Mapping[str, str]


def compile_case(
    case: Case, rules: Mapping[str, RuleNames], dtype: Any, device: jax.Device, *, optimised: Collection[str] = ()
) -> CompiledCase:
    """The program of the reference and of `rules`, which maps the names of the outputs to rules.

    optimised: the rules that are compiled as users compile; the others without LLVM's optimisations, which compute
    the same operations.
    """
    refused: dict[str, str] = {}
    broken: dict[str, str] = {}
    functions = {AUTOMATIC: case.reference} | {name: case.manual(rule) for name, rule in rules.items()}
    with precision(dtype):
        shape = case.cotangent_shape(dtype)

    def program(names: Sequence[str], operands: Sequence[jax.Array], cotangent: jax.Array) -> dict[str, Any]:
        results = {}
        for name in names:
            try:
                results[name] = case.evaluate(functions[name], operands, cotangent)
            except Exception as error:
                if name == AUTOMATIC:
                    raise
                target = refused if _is_refusal(error) and name != "auto" else broken
                target[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return results

    def compiled(names: Sequence[str]) -> Any:
        return _compiled(partial(program, names), case, shape, dtype, device, fast=not set(names) <= set(optimised))

    kinds = ([name for name in functions if (name in optimised) == kind] for kind in (False, True))
    with precision(dtype):
        try:
            parts = [compiled(tuple(names)) for names in kinds if names]
        except Exception:
            parts = [compiled((AUTOMATIC,))]  # one rule spoils it: each alone, to find out which
            for name in rules:
                try:
                    parts.append(compiled((name,)))
                except Exception as error:
                    broken[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"

    def run(operands: Sequence[np.ndarray], cotangent: np.ndarray) -> Outputs:
        with precision(dtype):
            placed = jax.device_put((tuple(a.astype(dtype) for a in operands), cotangent.astype(dtype)), device)
            results: dict[str, Any] = {}
            for part in parts:
                results |= part(*placed)
            outputs: Outputs = jax.tree.map(np.asarray, results)
            return outputs

    return CompiledCase(run, shape, refused, broken)


def compile_reference(case: Case, function: Function, device: jax.Device) -> Callable[..., Results]:
    """`function` and its automatic gradients in float64, on float64 arrays."""
    with precision(jnp.float64):
        shape = case.cotangent_shape(jnp.float64)
        program = _compiled(partial(case.evaluate, function), case, shape, jnp.float64, device)

    def run(operands: Sequence[np.ndarray], cotangent: np.ndarray) -> Results:
        with precision(jnp.float64):
            results = program(*jax.device_put((tuple(operands), cotangent), device))
            return {name: np.asarray(value) for name, value in results.items()}

    return run


def _compiled(
    f: Function, case: Case, cotangent: tuple[int, ...], dtype: Any, device: jax.Device, *, fast: bool = True
) -> Any:
    """f(operands, cotangent) on one device."""
    *operands, last = (abstract(shape, dtype, SingleDeviceSharding(device)) for shape in (*case.shapes, cotangent))
    return jax.jit(f).lower(tuple(operands), last).compile(fast_options(device.platform) if fast else None)


def _is_refusal(error: Exception) -> bool:
    """A ValueError raised by a `raise` of the rule's own; any other means that the rule is wrong."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, ValueError):
        return False
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    on_purpose = trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return on_purpose and module.partition(".")[0] not in FOREIGN
