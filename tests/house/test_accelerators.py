"""What the compilers of GPUs and TPUs make of fnconv, counted where no such device is; needs the extra `aot`.

`python -m benchmarks accelerators` has the same figures of every case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import fnconv
from benchmarks import accelerators
from benchmarks.accelerator_cases import Case, cases
from benchmarks.same_program import fingerprint

NEEDED = {"h100": "jax_cuda13_plugin", "tpu-v5e": "libtpu"}
GPU, TPU = NEEDED
MARGIN = 0.95  # of autodiff's cycles (TPU) or bytes (GPU) over ours
EXPLAINED = {  # the least of what is known to be larger; benchmarks/README.md has the causes
    GPU: {},
    TPU: {"pool avg .* bfloat16 fwd": 0.4, "im2col 3x3": 0.69},
}
POOL, STEM = "pool max 3x3 /2 8x112x112x64", "conv stem 3-64 7x7 /2 @224"
TELLING = (
    f"{POOL} float32 fwd",
    f"{POOL} bfloat16 fwd+bwd",
    "pool max 3x3 /1 16x28x28x256 float32 fwd+bwd",
    "pool avg 3x3 /1 16x28x28x256 float32 fwd+bwd",
    f"{STEM} float32 fwd+bwd",
    "conv 128-128 3x3 /2 @56 bfloat16 fwd+bwd",
    "softmax float32 fwd+bwd",
    "log_softmax float32 fwd+bwd",
    "cross-entropy bfloat16 fwd+bwd",
    "in context max 3x3 /2 8x112x112x64 bfloat16 fwd+bwd",
)


def needs(target: str) -> Any:
    missing = find_spec(NEEDED[target]) is None
    marks = [pytest.mark.aot, pytest.mark.skipif(missing, reason=f"{NEEDED[target]} is not installed; see extra aot")]
    return pytest.param(target, marks=marks)


on_gpu = pytest.mark.parametrize("target", [needs(GPU)])
on_each = pytest.mark.parametrize("target", [needs(GPU), needs(TPU)])


@pytest.fixture(autouse=True)
def _not_kept() -> Iterator[None]:
    """A program for a device that is not there can be kept, but not be read again."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@cache
def named() -> dict[str, Case]:
    return {f"{case.name} {case.map}": case for case in cases()}


def counted(target: str, name: str) -> dict[str, Any]:
    return accelerators.counted(target, named()[name])


@on_each
@pytest.mark.parametrize("name", TELLING)
def test_no_program_is_larger_than_autodiff_s(target: str, name: str) -> None:
    assert accelerators.ratio(target, counted(target, name)) >= MARGIN


@on_each
@pytest.mark.slow
def test_no_program_at_all_is(target: str) -> None:
    found = {name: accelerators.ratio(target, counted(target, name)) for name in named()}
    least = {name: min([MARGIN, *(m for p, m in EXPLAINED[target].items() if re.match(p, name))]) for name in found}
    assert {name: ratio for name, ratio in found.items() if ratio < least[name]} == {}


@on_gpu
@pytest.mark.parametrize(("name", "least"), [(POOL, 1.5), ("global maximum", 1.0)])
def test_max_pooling_on_a_gpu_moves_less_and_scatters_nothing(target: str, name: str, least: float) -> None:
    row = counted(target, f"{name} float32 fwd+bwd")
    assert row["fnconv"]["scatters"] == 0
    assert accelerators.ratio(target, row) >= least


@on_gpu
def test_gradients_of_strided_convolutions_are_cudnn_s_backward_calls(target: str) -> None:
    calls = counted(target, f"{STEM} float32 fwd+bwd")["fnconv"]["calls"]
    kinds = ("__cudnn$convForward", "__cudnn$convBackwardInput", "__cudnn$convBackwardFilter")
    assert calls == dict.fromkeys(kinds, 1)


def network(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
    y = fnconv.avg_pool(fnconv.max_pool(fnconv.relu(fnconv.conv(x, w, padding=1)), (3, 3), strides=2, padding=1), 2)
    return fnconv.softmax_cross_entropy(y.mean((1, 2)) @ v, np.zeros(x.shape[0], np.int32)).mean()


def shapes(dtype: str) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(s, dtype) for s in ((16, 32, 32, 8), (3, 3, 8, 16), (16, 10)))


@on_each
def test_a_step_sharded_over_the_batch_has_one_all_reduce(target: str) -> None:
    n = 4 if target == TPU else 8
    mesh = Mesh(np.array(accelerators.devices(target, n)), ("batch",))
    over, whole = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())

    def step(x: jax.Array, *weights: jax.Array) -> Any:
        gradients = jax.grad(partial(network, x), (0, 1))(*weights)
        return jax.tree.map(lambda w, g: w - g, weights, gradients)

    compiled = jax.jit(step, in_shardings=(over, whole, whole), out_shardings=whole).lower(*shapes("float32"))
    text = compiled.compile(compiler_options=accelerators.options(target)).as_text()
    assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


@on_each
def test_nothing_is_double_or_complex_and_bfloat16_is_summed_in_float32(target: str) -> None:
    text = accelerators.compiled(target, jax.grad(network, (1, 2)), *shapes("bfloat16")).as_text()
    assert not re.search(r"\b(f64|c64|c128)\[", text)
    pool = jax.jit(lambda x: fnconv.avg_pool(x, (3, 3)))
    assert not re.search(r"= bf16\[\] add\(", accelerators.compiled(target, pool, shapes("bfloat16")[0]).as_text())


@on_gpu
def test_it_compiles_where_only_deterministic_kernels_are_allowed(target: str) -> None:
    flags = {"xla_gpu_deterministic_ops": True, "xla_gpu_exclude_nondeterministic_ops": True}
    assert accelerators.compiled(target, jax.grad(network, (0, 1, 2)), *shapes("float32"), **flags) is not None


def test_without_the_extra_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise accelerators.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(accelerators.importlib.metadata, "version", missing)
    accelerators.devices.cache_clear()
    with pytest.raises(accelerators.Missing, match=r"tpu-v5e needs libtpu: pip install 'fnconv\[aot\]'"):
        accelerators.devices("tpu-v5e")


def test_programs_are_the_same_whatever_calls_they_are_made_of() -> None:
    def program(f: Any) -> list[str]:
        return fingerprint(jax.jit(f).lower(jnp.ones(3), jnp.ones(3)))

    once = program(lambda x, y: jnp.sin(x) - y)
    chosen = lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)  # noqa: E731
    assert program(lambda x, y: jax.jit(lambda a, b: chosen(a) - b)(x, y)) == once
    others = (lambda x, y: y - jnp.sin(x), lambda x, y: jnp.cos(x) - y, lambda x, y: jnp.sin(y) - x)
    assert all(program(f) != once for f in others)


def test_bytes_are_those_of_operands_and_results() -> None:
    text = """HloModule m
ENTRY %main (x: f32[4,2]) -> bf16[4,2] {
  %x = f32[4,2]{1,0} parameter(0)
  %loop = (f32[4,2]{1,0}, s8[4,2]{1,0}) fusion(%x), kind=kLoop
  %first = f32[4,2]{1,0} get-tuple-element(%loop), index=0
  %row = f32[1,2]{1,0} fusion(%x), kind=kLoop, calls=%wrapped_slice_computation
  ROOT %y = bf16[4,2]{1,0} fusion(%first), kind=kLoop
}
"""
    assert accelerators.traffic(accelerators.entry("\n" + text)) == (32 + 32 + 8) + (8 + 8) + (32 + 16)
    rows = [{"name": "conv a", "map": "fwd", "autodiff": {"bytes": 8}, "fnconv": {"bytes": n}} for n in (2, 8)]
    assert accelerators.standings(GPU, rows)[0] == ("conv", "fwd", 2, pytest.approx(2.0), 1.0, "conv a")
    assert jnp.isclose(accelerators.ratio(GPU, rows[0]), 4)
