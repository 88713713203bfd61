"""Programs compiled for a judge: quickly, in a precision of its own, and in float64 with their rounding errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend import core

from fnconv.judge.engine.distances import distance
from fnconv.judge.engine.replay import equations, replay
from fnconv.judge.engine.rounding import MAGNIFIED, Float64, Rounding, quantile, widened
from fnconv.judge.engine.running_error import Values

B = TypeVar("B")

FEW, MANY = 8, 64  # samples: see `settled`


def abstract(shape: Sequence[int], dtype: Any, place: Any = None, weak: bool = False) -> Any:
    """A shape and a dtype without values."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place, weak_type=weak)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """float64 enabled where it is asked for, full precision in products; for this thread and this block alone."""
    with contextlib.ExitStack() as stack:
        if dtype == jnp.float64:
            stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_matmul_precision("highest"))
        yield


# ---- in float64 -----------------------------------------------------------------------------------------------------


class InFloat64:
    """A jaxpr in float64: `exact` returns its results, `deviation` how far rounding errors move them.

    Args:
      avals: of its operands.
      dtype, limited: as `Rounding` has them; a dtype also gives the choice between its errors and float64's.
      exactly: that no errors are asked for, so that less has to be compiled.
      runs: how often it will be run, about.
    """

    def __init__(
        self,
        jaxpr: Any,
        avals: Sequence[Any],
        *,
        dtype: Any = None,
        limited: bool = False,
        exactly: bool = False,
        runs: int = 16 * FEW,
    ) -> None:
        platform = jax.default_backend()

        def program(operands: Sequence[Any], key: Any, fine: Any) -> list[Any]:
            rounding = Rounding(key, platform, dtype, limited, None if dtype is None else fine)
            results = replay(jaxpr, list(map(widened, operands)), Float64() if exactly else rounding)
            return list(map(widened, results))

        with jax.enable_x64(True):
            lowered = jax.jit(program).lower(list(avals), abstract((), np.uint32), abstract((), np.bool_))
            flops = float((lowered.cost_analysis() or {}).get("flops", np.inf))
            # compiling and running together are to take the least time, by rough figures for both
            quickly = runs * flops / 1e8 < len(equations(jaxpr)) / 25
            self._run = lowered.compile(fast_options(platform) if quickly else None)

    def exact(self, operands: Sequence[Any]) -> list[Values]:
        """Without rounding."""
        return self._sample(operands, 0, False)

    def deviation(self, operands: Sequence[Any], *, samples: int, seed: int = 0, fine: bool = False) -> list[Values]:
        """Standard deviation of each result; infinite where one of the samples is not finite and `exact` is."""
        right = self.exact(operands)
        lengths = [np.zeros(r.shape) for r in right]
        for key in np.random.default_rng(seed).integers(1, 2**32, samples, dtype=np.uint32):
            sample = self._sample(operands, key, fine)
            lengths = [np.hypot(n, distance(s, r)) for n, s, r in zip(lengths, sample, right, strict=True)]
        return [n / (samples**0.5 * (MAGNIFIED if fine else 1.0)) for n in lengths]

    def bound(self, operands: Sequence[Any], samples: int, *, fine: bool = False) -> list[Values]:
        """What rounding explains, of each result; see `settled` for the number of samples."""
        deviations = self.deviation(operands, samples=samples, fine=fine)
        scale = quantile(sum(d.size for d in deviations), MANY)
        return [scale * d for d in deviations]

    def _sample(self, operands: Sequence[Any], key: Any, fine: bool) -> list[Values]:
        with jax.enable_x64(True):
            results = self._run(list(operands), np.uint32(key), np.bool_(fine))
            return [np.asarray(r, np.float64) for r in results]


def settled(bounds: Callable[[int], B], within: Callable[[B], bool]) -> B:
    """The bounds from few samples if all results are within them, otherwise those from many.

    A result is called wrong only by many samples: a deviation estimated from few may be too small.
    """
    few = bounds(FEW)
    return few if within(few) else bounds(MANY)


def residual_bytes(value: Callable[..., Any], moving: Any, *given: Any) -> int:
    """Size of the arrays that `jax.vjp` of the jitted function holds, each counted once, arguments not at all.

    value: of `moving`, by which it is differentiated, and of `given`.
    """

    def keep(moving: Any, *given: Any) -> list[Any]:
        _, pull = jax.vjp(jax.jit(lambda moving: value(moving, *given)), moving)
        return [leaf for leaf in jax.tree.leaves(pull) if hasattr(leaf, "dtype")]

    jaxpr = jax.make_jaxpr(keep)(moving, *given).jaxpr
    kept = {v for v in jaxpr.outvars if isinstance(v, core.Var)} - {*jaxpr.invars, *jaxpr.constvars}
    avals: list[Any] = [v.aval for v in kept]
    return sum(a.size * a.dtype.itemsize for a in avals)


# ---- compilation ----------------------------------------------------------------------------------------------------


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
