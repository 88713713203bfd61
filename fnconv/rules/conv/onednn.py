"""oneDNN's convolution, called by XLA on a CPU: the three maps in the geometry derived by hand.

    y = phi(x) C, Wei (2.9)        dx = phi*(dy C^T), Wei (2.29), (2.30)        dC = phi(x)^T dy, Wei (2.21)

An optional extra: `pip install 'fnconv[onednn]'` brings the library and its headers, and the C++ compiler of the
system builds `onednn.cc` once, into the user's cache.  Where one of them is missing the rule raises an error that
names it, and "auto" goes on without.  float32 and bfloat16, one to three spatial axes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from threading import Lock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from fnconv.base import user_cache
from fnconv.base.errors import invalid
from fnconv.base.geometry import Axis, is_symbolic
from fnconv.base.spec import ConvSpec

DTYPES = ("float32", "bfloat16")
PACKAGES = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"
FORWARD, INPUT_VJP, WEIGHT_VJP = range(3)  # as in onednn.cc
LIBRARY, AVX512 = "libdnnl.so.3", 0x27  # its name, and its flags of bfloat16's instructions
SOURCE = Path(__file__).with_suffix(".cc")


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """y = phi(x) C."""
    return _call(FORWARD, _without_cropping(spec), _cropped(spec, x), w)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """dx = phi*(dy C^T); cells that were cropped get zeros."""
    inner = _without_cropping(spec)
    dx = _call(INPUT_VJP, inner, dy, w)
    ends = [_cells(a) for a in spec.axes]
    widths = [(0, 0, 0), *((first, a.size - last, 0) for (first, last), a in zip(ends, spec.axes, strict=True))]
    whole = inner.x_shape(1) == spec.x_shape(1)
    return dx if whole else lax.pad(dx, jnp.zeros((), dx.dtype), [*widths, (0, 0, 0)])


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dC = phi(x)^T dy."""
    return _call(WEIGHT_VJP, _without_cropping(spec), _cropped(spec, x), dy)


def spreads(spec: ConvSpec, map_: str) -> bool:
    """Its loops multiply zeros that fill up blocks."""
    return True


def refusal(spec: ConvSpec, dtype: jnp.dtype) -> str | None:
    """Why the rule, which is there, does not take these operands, or None."""
    if dtype.name not in DTYPES:
        return f"takes {' and '.join(DTYPES)}"
    if dtype == jnp.bfloat16 and _instructions() & AVX512 != AVX512:
        return "takes bfloat16 on CPUs with AVX-512 alone"
    if not 1 <= len(spec.axes) <= 3:
        return "takes one to three spatial axes"
    if any(is_symbolic(a.size) for a in spec.axes):
        return "takes sizes that are known"
    return None


def _cells(a: Axis) -> tuple[int, int]:
    """The first and the last cell that windows reach, and what is left over if it is too little for another window."""
    last = min(a.size, a.reach - a.low)
    return max(0, -a.low), a.size if a.size - last < a.stride else last


def _cropped(spec: ConvSpec, x: jax.Array) -> jax.Array:
    ends = [_cells(a) for a in spec.axes]
    return x[(slice(None), *(slice(first, last) for first, last in ends))]


def _without_cropping(spec: ConvSpec) -> ConvSpec:
    """The same windows over the cropped x, with no more padding than they reach."""
    axes = []
    for a in spec.axes:
        first, last = _cells(a)
        high = max(0, a.reach - a.low - last)
        axes.append(replace(a, size=last - first, low=max(0, a.low), high=high, overshoot=0))
    return replace(spec, axes=tuple(axes))


def _call(map_: int, spec: ConvSpec, a: jax.Array, b: jax.Array) -> jax.Array:
    if reason := missing():
        raise invalid("conv", "rule", f'"onednn" needs {reason}', "none")
    if reason := refusal(spec, a.dtype):
        raise invalid("conv", 'rule "onednn"', reason, a.dtype.name, a.shape, "an operand")
    batch = a.shape[0]
    shape = (spec.y_shape(batch), spec.x_shape(batch), spec.w_shape)[map_]
    if not batch:  # of no images under vmap
        return jnp.zeros(shape, a.dtype)

    def ints(values: Sequence[int]) -> np.ndarray:
        return np.array(values, np.int64)

    result = jax.ShapeDtypeStruct(shape, a.dtype)  # type: ignore[no-untyped-call]
    call = partial(
        jax.ffi.ffi_call("fnconv_onednn", result, vmap_method="sequential"),
        map=np.int64(map_),
        groups=np.int64(spec.groups),
        strides=ints([a.stride for a in spec.axes]),
        low=ints([a.low for a in spec.axes]),
        high=ints([a.high for a in spec.axes]),
        dilation=ints([a.dilation for a in spec.axes]),
    )
    if map_ == WEIGHT_VJP:
        return call(a, b)
    folding = custom_vmap(call)

    @folding.def_vmap
    def batched(size: int, is_batched: Sequence[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        """Images of all batches side by side, where one kernel serves all."""
        if is_batched[1]:
            return jax.vmap(call, in_axes=tuple(0 if one else None for one in is_batched))(a, b), True
        result = _call(map_, spec, a.reshape(size * batch, *a.shape[2:]), b)
        return result.reshape(size, batch, *result.shape[1:]), True

    return folding(a, b)


# ---- the library ----------------------------------------------------------------------------------------------------


def installed() -> bool:
    """Whether the extra is, and $FNCONV_ONEDNN does not say "off"."""
    return os.environ.get("FNCONV_ONEDNN") != "off" and _absent() is None


@cache
def _absent() -> str | None:
    """The first of the packages that is not there."""
    try:
        return next((p for p in PACKAGES if not distribution(p).files), None)
    except PackageNotFoundError as error:
        return error.name


def usable(spec: ConvSpec, dtype: jnp.dtype) -> bool:
    """Whether "auto" may run the rule on these operands."""
    return dtype.name in DTYPES and installed() and missing() is None and refusal(spec, dtype) is None


def missing() -> str | None:
    """What the rule lacks here, or None; the first call builds and loads the handler."""
    with _loading:
        return _load()


_loading = Lock()


@cache
def _load() -> str | None:
    if platform.system() != "Linux":
        return "Linux"
    if absent := _absent():
        return f"the package {absent}: pip install 'fnconv[onednn]'"
    library, header = (_file(p, end) for p, end in zip(PACKAGES, (LIBRARY, "dnnl/dnnl.hpp"), strict=True))
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    try:
        path = _built(compiler, library, header.parents[2])
        with _waiting_passively():
            handler = ctypes.CDLL(str(path)).fnconv_onednn
    except (OSError, subprocess.CalledProcessError) as error:
        return f"a C++ compiler that builds {SOURCE.name}: {getattr(error, 'stderr', None) or error}"
    capsule = jax.ffi.pycapsule(handler)  # type: ignore[no-untyped-call]
    jax.ffi.register_ffi_target("fnconv_onednn", capsule, platform="cpu")
    return None


@contextmanager
def _waiting_passively() -> Iterator[None]:
    """OpenMP reads its variable when it is loaded: else threads that wait take the cores from XLA's."""
    given = "OMP_WAIT_POLICY" in os.environ
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    yield
    if not given:
        del os.environ["OMP_WAIT_POLICY"]


@cache
def _instructions() -> int:
    """oneDNN's flags of the CPU's instruction sets."""
    flags: int = ctypes.CDLL(str(_file(PACKAGES[0], LIBRARY))).dnnl_get_effective_cpu_isa()
    return flags


def _file(package: str, end: str) -> Path:
    files = distribution(package).files or []
    return next((Path(str(f.locate())).resolve() for f in files if str(f).endswith(end)), Path(end))


def _built(compiler: str | None, library: Path, headers: Path) -> Path:
    """The handler in the user's cache, built where it is not there yet for these versions."""
    versions = [version(p) for p in (*PACKAGES, "jaxlib")]
    key = hashlib.sha256("\n".join([SOURCE.read_text(), str(library), *versions]).encode()).hexdigest()[:16]
    path = user_cache.folder() / f"onednn-{key}.so"
    if not path.exists():
        if compiler is None:
            raise FileNotFoundError("neither c++ nor g++ is on the path")
        options = ["-O2", "-std=c++17", "-fPIC", "-shared", "-w", f"-I{jax.ffi.include_dir()}", f"-I{headers}"]
        link = [str(library), f"-Wl,-rpath,{library.parent}"]
        with user_cache.replaced(path) as to:
            command = [compiler, *options, str(SOURCE), "-o", str(to), *link]
            subprocess.run(command, check=True, capture_output=True, text=True)
    return path
