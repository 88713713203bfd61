"""Settings of the process that make JAX faster on a CPU, XLA's and the C library's; never made by an import."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import jax

# YNNPACK's fused convolutions often run on one thread where Eigen's use all: automatic gradients of convolutional
# networks get 1.25 to 1.3 times faster without them.  An empty value names no kind of fusion.
XLA_FLAGS = {"--xla_cpu_experimental_ynn_fusion_type": ""}


@dataclass(frozen=True)
class _Option:
    """One of mallopt's: its number in <malloc.h>, our value, glibc's own at the start, its environment variable."""

    number: int
    value: int
    initial: int
    variable: str


# XLA allocates the temporaries of a program as one block.  glibc maps a block of 32 MB or more at every call and
# unmaps it after, and every page of it faults.  Blocks of the heap keep their pages, but only the first arena has one
# that grows without limit, so that threads must share it.
MALLOC = {
    "M_MMAP_THRESHOLD": _Option(-3, 2**30, 128 * 2**10, "MALLOC_MMAP_THRESHOLD_"),
    "M_TRIM_THRESHOLD": _Option(-1, 2**31 - 1, 128 * 2**10, "MALLOC_TRIM_THRESHOLD_"),
    "M_ARENA_MAX": _Option(-8, 1, 0, "MALLOC_ARENA_MAX"),
}


@dataclass
class CpuSettings:
    """What `tune_cpu` did.

    Attributes:
      applied: from setting to value.
      skipped: from setting to the reason why it was left alone.
    """

    applied: Mapping[str, str]
    skipped: Mapping[str, str]
    _undo: list[Callable[[], None]] = field(repr=False)

    def undo(self) -> None:
        """Take the settings back, and give free memory back to the system.

        XLA does not read its flags again once it has started.  glibc does not tell its settings: the initial ones
        return, without their adjustment to what a program does.
        """
        while self._undo:
            self._undo.pop()()


def tune_cpu() -> CpuSettings:
    """Make the settings under which JAX runs convolutional networks fastest on a CPU; call it before the first array.

    Two causes of slowness lie outside of any program: fusions of XLA that use one thread (`XLA_FLAGS`), and an
    allocator that returns the memory of large temporaries to the system after every call (`mallopt`, on Linux with
    glibc).  Automatic gradients gain as fnconv's do.  What the environment sets already is left alone, and so is a
    flag that this jaxlib does not know; a short-lived process finds that out, in about a second.

    The price: memory that was used once stays with the process, its heap grows to its full size during some calls,
    and its threads allocate from one arena, which may slow down other libraries that allocate from many threads.

        settings = fnconv.tune_cpu()  # the first thing that the program does
        ...
        settings.undo()

    Returns:
      What was applied, and what was skipped for which reason.

    Raises:
      RuntimeError: where JAX's backend has started, as XLA has read its flags and its threads have their arenas.

    >>> import jax
    >>> devices = jax.devices()  # starts the backend
    >>> tune_cpu()
    Traceback (most recent call last):
      ...
    RuntimeError: tune_cpu: must be called before JAX's backend starts, that is before the first array; it has started
    """
    if backend_started():
        raise RuntimeError(
            "tune_cpu: must be called before JAX's backend starts, that is before the first array; it has started"
        )
    applied: dict[str, str] = {}
    skipped: dict[str, str] = {}
    undo: list[Callable[[], None]] = []
    _set_flags(applied, skipped, undo)
    _set_allocator(applied, skipped, undo)
    return CpuSettings(MappingProxyType(applied), MappingProxyType(skipped), undo)


def cores() -> int:
    """Those that the process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend_started() -> bool:
    """Whether JAX has devices yet: it then refuses to change their number."""
    name = "jax_num_cpu_devices"
    number: int = getattr(jax.config, name)
    try:
        jax.config.update(name, number + 1)
    except RuntimeError:
        return True
    jax.config.update(name, number)
    return False


# ---- XLA ------------------------------------------------------------------------------------------------------------


def _set_flags(applied: dict[str, str], skipped: dict[str, str], undo: list[Callable[[], None]]) -> None:
    before = os.environ.get("XLA_FLAGS")
    flags = (before or "").split()
    given = {flag.partition("=")[0] for flag in flags}
    for name, value in XLA_FLAGS.items():
        if name in given:
            skipped[name] = "XLA_FLAGS has it"
        elif not known(f"{name}={value}"):
            skipped[name] = "this jaxlib does not know it"
        else:
            flags.append(f"{name}={value}")
            applied[name] = value
    if applied:
        os.environ["XLA_FLAGS"] = " ".join(flags)
        undo.append(lambda: _restore("XLA_FLAGS", before))


def known(flag: str) -> bool:
    """Whether XLA starts with this flag: it aborts the process at one that it does not know, so another one tries."""
    if not sys.executable:
        return False
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    program = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(program, env=environment, capture_output=True, check=False).returncode == 0


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


# ---- the allocator --------------------------------------------------------------------------------------------------


def _set_allocator(applied: dict[str, str], skipped: dict[str, str], undo: list[Callable[[], None]]) -> None:
    if platform.libc_ver()[0] != "glibc":
        skipped.update(dict.fromkeys(MALLOC, "the C library is not glibc"))
        return
    libc = ctypes.CDLL(None)
    mallopt = libc.mallopt
    undo.append(lambda: libc.malloc_trim(0))
    for name, option in MALLOC.items():
        if option.variable in os.environ or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
            skipped[name] = "the environment sets the allocator"
        elif not mallopt(option.number, option.value):
            skipped[name] = f"mallopt refuses {option.value}"
        else:
            applied[name] = str(option.value)
            undo.append(lambda o=option: mallopt(o.number, o.initial))  # type: ignore[misc]
