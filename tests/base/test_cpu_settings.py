"""tune_cpu: what it sets, that it works, and that it leaves alone what is not its own; each in a fresh process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

import jax
import pytest

import fnconv
from fnconv.base import cpu_settings as tune

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
GLIBC = platform.libc_ver()[0] == "glibc"

# a convolution that XLA:CPU fuses, and a program with 40 MB of temporaries
PROGRAM = """
import json, os, resource
import fnconv
import jax, jax.numpy as jnp

def flags(): return os.environ.get("XLA_FLAGS")

def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        jax.block_until_ready(large(a, b, c))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

found = {"imported": flags()}
if TUNE:
    settings = fnconv.tune_cpu()
    found |= {"applied": dict(settings.applied), "skipped": dict(settings.skipped), "tuned": flags()}
x, w = jnp.ones((2, 16, 16, 64)), jnp.ones((3, 3, 64, 64))
axes = ("NHWC", "HWIO", "NHWC")
conv = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=axes))
found["fused"] = "ynn" in conv.lower(x, w).compile().as_text()
a, b, c = jnp.ones((2048, 8)), jnp.ones((8, 5120)), jnp.ones((5120, 8))
large = jax.jit(lambda a, b, c: (a @ b) @ c)
faults(40)
found["faults"] = min(faults(5) for _ in range(4))  # a thread's first arena is no one's setting
if TUNE:
    before = resident()
    settings.undo()
    settings.undo()
    found |= {"undone": flags(), "given back": before - resident()}
print(json.dumps(found))
"""


def run(tuned: bool, **environment: str) -> dict[str, Any]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "MALLOC_", "GLIBC_"))}
    program = PROGRAM.replace("TUNE", str(tuned))
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_import_tunes_nothing():
    found = run(tuned=False)
    assert found["imported"] is None
    if GLIBC:
        assert found["faults"] > 1000  # 40 MB are 10,000 pages


def test_settings_work_and_can_be_undone():
    found = run(tuned=True)
    assert found["imported"] is None
    assert set(found["applied"]) | set(found["skipped"]) == {FLAG, *tune.MALLOC}
    if FLAG in found["applied"]:
        assert found["tuned"] == f"{FLAG}="
        assert not found["fused"]
    assert found["undone"] is None
    if GLIBC:
        assert set(tune.MALLOC) <= set(found["applied"])
        assert found["faults"] < 100
        assert found["given back"] > 30  # of the 40 MB of temporaries


def test_what_the_environment_sets_is_left_alone():
    flags = f"--xla_cpu_enable_fast_math=false {FLAG}=LIBRARY_FUSION_TYPE_DOT"
    found = run(tuned=True, XLA_FLAGS=flags, MALLOC_ARENA_MAX="3")
    assert found["tuned"] == found["undone"] == flags
    assert found["skipped"][FLAG] == "XLA_FLAGS has it"
    if GLIBC:
        assert found["skipped"]["M_ARENA_MAX"] == "the environment sets the allocator"
        assert "M_TRIM_THRESHOLD" in found["applied"]


def test_after_the_start_of_the_backend_it_is_an_error():
    jax.devices()
    before = os.environ.get("XLA_FLAGS"), jax.config.values["jax_num_cpu_devices"]
    with pytest.raises(RuntimeError, match="must be called before JAX's backend starts"):
        fnconv.tune_cpu()
    assert (os.environ.get("XLA_FLAGS"), jax.config.values["jax_num_cpu_devices"]) == before


def test_a_flag_that_xla_does_not_know_is_found_out_by_another_process():
    assert not tune.known("--xla_cpu_make_it_fast=true")
    assert tune.known("--xla_cpu_enable_fast_math=false")
