"""Where a measurement was made: machine, versions, flags; and what other processes take of it meanwhile."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

STAT, CPUINFO = Path("/proc/stat"), Path("/proc/cpuinfo")
FIELDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything that a reader needs in order to compare: as JSON."""
    import jax

    from fnconv.rules.conv import onednn

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("jax", "jaxlib", "numpy", "torch")},
        "onednn": _version(onednn.PACKAGES[0]) if onednn.installed() else None,
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "tuned": settings or {},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    if CPUINFO.exists():
        names = [line.partition(":")[2].strip() for line in CPUINFO.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or "unknown"


class Others:
    """Cores that other processes keep busy between two readings; None where the system does not tell."""

    def __init__(self) -> None:
        self.before = self._read()

    def cores(self) -> float | None:
        """Since the last reading."""
        before, self.before = self.before, self._read()
        if before is None or self.before is None:
            return None
        busy, own, wall = (b - a for a, b in zip(before, self.before, strict=True))
        return max(0.0, busy - own) / wall if wall > 0 else 0.0

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds: all processes', this process's, the clock's."""
        if not STAT.exists():
            return None
        numbers = [int(n) for n in STAT.read_text().splitlines()[0].split()[1:9]]
        busy = sum(numbers[i] for i in FIELDS) / os.sysconf("SC_CLK_TCK")
        return busy, time.process_time(), time.perf_counter()
