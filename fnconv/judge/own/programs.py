"""One compiled program for a case: the automatic reference and every rule, values and cotangents together."""

from __future__ import annotations

import contextlib
import dis
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.sharding import SingleDeviceSharding

from fnconv.judge.own.bounds import Results
from fnconv.judge.own.case import Case, Function
from fnconv.judge.own.references import abstract

Rule = str | Mapping[str, str]
Outputs = dict[str, dict[str, np.ndarray]]

AUTOMATIC = "automatic"  # the reference's place among the outputs of a program
FOREIGN = ("jax", "jaxlib", "numpy")  # errors raised there are mistakes, not refusals


@dataclass(frozen=True)
class Program:
    """What was compiled, and what could not be.

    refused: rules that do not take this geometry and say so; broken: rules that ended in another error.
    """

    run: Callable[..., Outputs]
    cotangent_shape: tuple[int, ...]
    refused: Mapping[str, str]
    broken: Mapping[str, str]


def compile_case(
    case: Case, rules: Mapping[str, Rule], dtype: Any, device: jax.Device, *, optimised: Collection[str] = ()
) -> Program:
    """The program of the reference and of `rules`, which maps the names of the outputs to rules.

    optimised: the rules that are compiled as users compile; the others without LLVM's optimisations, which compute
    the same operations.
    """
    refused: dict[str, str] = {}
    broken: dict[str, str] = {}
    functions = {AUTOMATIC: case.reference} | {name: case.manual(rule) for name, rule in rules.items()}
    with arithmetic(dtype):
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
        place = SingleDeviceSharding(device)
        operands, cotangent = jax.tree.map(lambda s: abstract(s, dtype, place), (case.shapes, shape), is_leaf=_is_shape)
        lowered = jax.jit(partial(program, names)).lower(operands, cotangent)
        return lowered.compile(None if set(names) <= set(optimised) else fast_options(device.platform))

    kinds = ([name for name in functions if (name in optimised) == kind] for kind in (False, True))
    with arithmetic(dtype):
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
        with arithmetic(dtype):
            placed = jax.device_put((tuple(a.astype(dtype) for a in operands), cotangent.astype(dtype)), device)
            results: dict[str, Any] = {}
            for part in parts:
                results |= part(*placed)
            outputs: Outputs = jax.tree.map(np.asarray, results)
            return outputs

    return Program(run, shape, refused, broken)


def compile_reference(case: Case, function: Function, device: jax.Device) -> Callable[..., Results]:
    """`function` and its automatic gradients in float64, on float64 arrays."""
    with arithmetic(jnp.float64):
        place = SingleDeviceSharding(device)
        shapes = (case.shapes, case.cotangent_shape(jnp.float64))
        operands, cotangent = jax.tree.map(lambda s: abstract(s, jnp.float64, place), shapes, is_leaf=_is_shape)
        evaluate = partial(case.evaluate, function)
        program = jax.jit(evaluate).lower(operands, cotangent).compile(fast_options(device.platform))

    def run(operands: Sequence[np.ndarray], cotangent: np.ndarray) -> Results:
        with arithmetic(jnp.float64):
            results = program(*jax.device_put((tuple(operands), cotangent), device))
            return {name: np.asarray(value) for name, value in results.items()}

    return run


@contextlib.contextmanager
def arithmetic(dtype: Any) -> Iterator[None]:
    """float64 enabled where it is asked for, full precision in products; for this thread and this block alone."""
    with contextlib.ExitStack() as stack:
        if dtype == jnp.float64:
            stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_matmul_precision("highest"))
        yield


@cache
def fast_options(platform: str) -> dict[str, Any] | None:
    """Options for a short compilation, of those that this version of XLA knows."""
    if platform != "cpu":
        return None
    options: dict[str, Any] = {}
    wanted: dict[str, Any] = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,  # programs are compiled side by side, not their parts
    }
    for name, value in wanted.items():
        try:
            jax.jit(lambda: 0).lower().compile({name: value})
        except jax.errors.JaxRuntimeError:  # no such option
            continue
        options[name] = value
    return options


@contextlib.contextmanager
def compilation_cache(folder: Path | None = None) -> Iterator[None]:
    """Keep compiled programs in a folder of the user's for this block, unless JAX has a cache already.

    The folder is $XDG_CACHE_HOME/fnconv or ~/.cache/fnconv.  Settings are put back; without a folder that can be
    written nothing is kept.
    """
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fnconv"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    if before["jax_compilation_cache_dir"] is not None or not _writable(folder):
        yield
        return
    try:
        _configure(settings)
        yield
    finally:
        _configure(before)


def _configure(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    reset_cache()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


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


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(n, int) for n in value)
