"""Programs as the compilers for GPUs and TPUs make them, on a machine that has neither: counted, never run.

A *topology* describes devices that are not there; XLA's compilers take it in place of devices.  What they return is
read here: the compiler's own estimate of cycles (TPU), the bytes that kernels read and write (GPU), temporaries,
library calls.  None of these is a time.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax

from benchmarks.same_program import fingerprint

EXTRA = "pip install 'fnconv[aot]'"
# GpuTargetConfigProto of openxla/xla, xla/backends/gpu/target_config/specs, shortened to what differs
_GPU = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: {shared} threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {fpus}
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth}
l2_cache_size: {l2} clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {optin}
cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{name}" """
GPUS: dict[str, dict[str, Any]] = {
    "h100": {
        "shared": 233472, "cores": 132, "fpus": 128, "bandwidth": 3352320000000, "l2": 52428800, "clock": 1.98,
        "memory": 84942979072, "optin": 232448, "major": 9, "name": "NVIDIA H100 80GB HBM3",
    },
    "a100": {
        "shared": 167936, "cores": 108, "fpus": 64, "bandwidth": 2039040000000, "l2": 41943040, "clock": 1.41,
        "memory": 85100068864, "optin": 166912, "major": 8, "name": "NVIDIA A100-SXM4-80GB",
    },
}  # fmt: skip
TPUS = {"tpu-v5e": "v5e"}
TARGETS = (*GPUS, *TPUS)


class Missing(RuntimeError):
    """A compiler that is not installed."""


@cache
def devices(target: str, count: int = 1) -> Sequence[Any]:
    """Devices of a topology: 1 or 8 GPUs, up to 4 TPUs."""
    from jax.experimental import topologies

    wanted = "libtpu" if target in TPUS else "jax-cuda13-plugin"
    try:
        importlib.metadata.version(wanted)
    except importlib.metadata.PackageNotFoundError:
        raise Missing(f"{target} needs {wanted}: {EXTRA}, best in an environment of its own") from None
    if target in TPUS:
        found = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
        os.environ.update(found, ALLOW_MULTIPLE_LIBTPU_LOAD="1")  # none of them holds a device
        topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{TPUS[target]}:2x2")
    else:
        config = _GPU.format(**GPUS[target])
        topology = topologies.get_topology_desc(platform="cuda", topology=f"1x1x{count}", target_config=config)
    return topology.devices[:count]


def options(target: str) -> dict[str, Any]:
    """Of the compiler: where CUDA's own tools are, and no measurements on a device to choose kernels."""
    if target in TPUS:
        return {}
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(f) / "cu13" for f in (spec.submodule_search_locations or ())] if spec else []
    return {"xla_gpu_cuda_data_dir": str(folders[0] if folders else ""), "xla_gpu_autotune_level": 0}


def lowered(target: str, fn: Callable[..., Any], *shapes: Any) -> Any:
    """fn of arguments of these shapes, as it is put to the compiler, for one device."""
    one = jax.sharding.SingleDeviceSharding(devices(target)[0])
    return jax.jit(fn, in_shardings=one, out_shardings=one).lower(*shapes)


def compiled(target: str, fn: Callable[..., Any], *shapes: Any, **more: Any) -> Any:
    return lowered(target, fn, *shapes).compile(compiler_options={**options(target), **more})


# ---- what a compiled program does -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """A line of a compiled program: `name = shape opcode(operands), rest`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
_LINE = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\(.*?\)|\S+) (?P<opcode>[\w-]+)\((?P<rest>.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")
_BITS = re.compile(r"\d+")


def entry(text: str) -> list[Instruction]:
    """The instructions of a program's entry, which are its kernels and what costs nothing."""
    body = text[text.index("\nENTRY ") :]
    return [found for line in body.splitlines() if (found := _instruction(line)) is not None]


def _instruction(line: str) -> Instruction | None:
    match = _LINE.match(line)
    if match is None:
        return None
    inside, _, rest = match["rest"].partition(")")
    return Instruction(match["name"], match["shape"], match["opcode"], tuple(re.findall(r"%([\w.-]+)", inside)), rest)


def size(shape: str) -> int:
    """Bytes of the arrays of a shape, or of a tuple of them."""
    return sum(_bytes(dtype) * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in _ARRAY.findall(shape))


def _bytes(dtype: str) -> int:
    bits = _BITS.search(dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


def traffic(program: Sequence[Instruction]) -> int:
    """Bytes of the operands and results of every kernel; one that only slices reads what it writes."""
    sizes = {i.name: size(i.shape) for i in program}
    read = {i.name: sizes[i.name] if "wrapped_slice" in i.rest else sum(sizes[o] for o in i.operands) for i in program}
    return sum(sizes[i.name] + read[i.name] for i in program if i.opcode not in FREE)


# ---- the two sides of every case ------------------------------------------------------------------------------------

Row = dict[str, Any]


def measured(target: str, fn: Callable[..., Any], *shapes: Any) -> dict[str, Any]:
    """What is counted of one program.  `cycles` is the estimate of a TPU's compiler; it has none for some kernels."""
    start = time.perf_counter()
    program = compiled(target, fn, *shapes)
    seconds = time.perf_counter() - start
    text = program.as_text()
    instructions = entry(text)
    kernels = [i for i in instructions if i.opcode not in FREE]
    cycles = [int(found[1]) for i in kernels if (found := re.search(r'"estimated_cycles":"(\d+)"', i.rest))]
    flops = (program.cost_analysis() or {}).get("flops") if target in TPUS else None
    return {
        "seconds": round(seconds, 2),
        "cycles": sum(cycles) if target in TPUS else None,
        "unestimated": dict(Counter(i.opcode for i in kernels if target in TPUS and "estimated_cycles" not in i.rest)),
        "bytes": traffic(instructions),
        "temporaries": program.memory_analysis().temp_size_in_bytes,
        "flops": flops,
        "kernels": len(kernels),
        "calls": dict(Counter(re.findall(r'custom_call_target="([^"]+)"', text))),
        "scatters": len(re.findall(r"= \S+ scatter\(", text)),
        "collectives": len(re.findall(rf"= \S+ (?:{'|'.join(COLLECTIVES)})(?:-start)?\(", text)),
    }


def run(target: str, only: Callable[[str], bool], model: Any = None, *, skip_same: bool = False) -> Iterator[Row]:
    """A row for each case, as it is compiled; or of one model, (its name, its loss, the loss's arguments).

    A case whose two programs are the same before any compiler sees them is compiled once, or not at all.
    """
    from benchmarks.accelerator_cases import cases, transformed

    devices(target)
    for case in cases() if model is None else [transformed(*model)]:
        if only(f"{case.name} {case.map}"):
            yield counted(target, case, skip_same=skip_same)
            jax.clear_caches()


def counted(target: str, case: Any, *, skip_same: bool = False) -> Row:
    theirs, ours = (fingerprint(lowered(target, fn, *case.shapes)) for fn in (case.autodiff, case.fnconv))
    row = {"name": case.name, "map": case.map, "same": theirs == ours}
    if row["same"] and skip_same:
        return row
    found = measured(target, case.fnconv, *case.shapes)
    other = found if row["same"] else measured(target, case.autodiff, *case.shapes)
    return row | {"autodiff": other, "fnconv": found}


def ratio(target: str, row: Row) -> float:
    """Autodiff's cycles (TPU) or bytes (GPU) over fnconv's; above 1, fnconv's program is the smaller."""
    if row.get("same"):
        return 1.0
    what = "cycles" if target in TPUS else "bytes"
    theirs, ours = (row[side][what] for side in ("autodiff", "fnconv"))
    return theirs / ours if ours else 1.0 if theirs == ours else math.inf


GROUPS = ("conv", "pool max", "pool avg", "in context max", "in context avg", "step")


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by (group, map)."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        group = next((g for g in GROUPS if row["name"].startswith(f"{g} ")), "other operations")
        found.setdefault((group, row["map"]), []).append(row)
    return found


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def standings(target: str, rows: Sequence[Row]) -> list[tuple[str, str, int, float, float, str]]:
    """(group, map, number of rows, geometric mean, the smallest, of what) for every group and map, and for all."""
    found = []
    for (group, map_), of in [*grouped(rows).items(), (("all", ""), list(rows))]:
        ratios = [ratio(target, row) for row in of]
        least = min(ratios)
        found.append((group, map_, len(of), geometric_mean(ratios), least, of[ratios.index(least)]["name"]))
    return found


def unit(target: str) -> str:
    """What the ratios are of."""
    return "the TPU compiler's estimate of cycles" if target in TPUS else "bytes that kernels read and write"


def line(target: str, row: Row) -> str:
    if "fnconv" not in row:
        return f"{row['name']} {row['map']}: the same program"
    what = "cycles" if target in TPUS else "bytes"
    sides = [
        f"{side} {of[what]:.4g} {what}, {of['temporaries'] / 2**20:.1f} MiB, {of['kernels']} kernels"
        for side, of in ((s, row[s]) for s in ("autodiff", "fnconv"))
    ]
    return f"{row['name']} {row['map']}: {ratio(target, row):.2f}  ({'; '.join(sides)})"
