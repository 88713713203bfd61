"""Which rule of a convolution's map was measured to be the fastest on this machine: "auto" follows it.

`fnconv.tune` writes the file, JSON for people to read, one list for each machine.  It is $FNCONV_CHOICES where that is
set, else `choices.json` in the user's cache; $FNCONV_CHOICES=off ignores it.  A process reads it once.
"""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fnconv.base import user_cache
from fnconv.base.cpu_settings import cores
from fnconv.base.spec import ConvSpec
from fnconv.rules import conv

Entry = dict[str, Any]  # {"rule": name, "ms": {rule: milliseconds}}
Choices = dict[str, Entry]  # by `key`
OFF = "off"


_followed: list[Path] = []  # at most one, in place of what the environment names


def follow(file: Path) -> None:
    """Let this process's programs follow a file from now on."""
    _followed[:] = [file]
    choices.cache_clear()


def path() -> Path | None:
    """Of the file that "auto" follows; None where it follows none."""
    if _followed:
        return _followed[0]
    given = os.environ.get("FNCONV_CHOICES")
    return None if given == OFF else Path(given) if given else user_cache.folder() / "choices.json"


def key(map_: str, spec: ConvSpec, dtype: Any, batch: int) -> str:
    """A map of a convolution in words, `"forward float32 8x28x28x3 -> 16, 5x5/2 pad 2+2,2+2"`."""

    def joined(values: Any) -> str:
        return "x".join(map(str, values))

    strides, dilations = ({getattr(a, field) for a in spec.axes} for field in ("stride", "dilation"))
    words = [map_, str(dtype), joined((batch, *(a.size for a in spec.axes), spec.in_channels)), "->"]
    words += [f"{spec.out_channels},", joined(a.window for a in spec.axes)]
    words[-1] += "" if strides == {1} else "/" + joined(a.stride for a in spec.axes)
    words += [] if dilations == {1} else ["dilation " + joined(a.dilation for a in spec.axes)]
    words += [] if spec.groups == 1 else [f"groups {spec.groups}"]
    words += ["pad " + ",".join(f"{a.low}+{a.high}" for a in spec.axes)]
    words += [] if spec.precision is None else [f"precision {spec.precision}"]
    return " ".join(words)


@cache
def machine() -> str:
    """What times depend on besides the program."""
    model = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), model)
    return f"{model}, {cores()} threads, jaxlib {version('jaxlib')}, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}"


@cache
def choices() -> Mapping[str, Entry]:
    """Of this machine."""
    file = path()
    return read(file).get(machine(), {}) if file is not None and file.exists() else {}


def chosen(map_: str, spec: ConvSpec, dtype: Any, batch: int) -> Entry | None:
    """What was measured for a map, or None."""
    here = choices()
    return here.get(key(map_, spec, dtype, batch)) if here else None


def read(file: Path) -> dict[str, Choices]:
    """{machine: choices}; what is damaged, or names a rule that does not exist, is left out with a warning."""
    try:
        stored = json.loads(file.read_text())
        return {m: {k: e for k, e in entries.items() if _sound(file, k, e)} for m, entries in stored.items()}
    except (OSError, ValueError, AttributeError) as error:
        warnings.warn(f'{file}: no choices of rules, "auto" goes on without: {error}', stacklevel=2)
        return {}


def add(file: Path, found: Choices) -> None:
    """To this machine's, also where other processes add to the file; "auto" follows it from the next program on."""
    with user_cache.locked(file):
        stored = read(file) if file.exists() else {}
        stored[machine()] = dict(sorted((stored.get(machine(), {}) | found).items()))
        with user_cache.replaced(file) as to:
            to.write_text(json.dumps(stored, indent=1) + "\n")
    choices.cache_clear()


def _sound(file: Path, words: str, entry: Any) -> bool:
    map_ = words.partition(" ")[0]
    try:
        if entry["rule"] in conv.RULES[map_] and all(isinstance(ms, float) for ms in entry["ms"].values()):
            return True
    except (KeyError, TypeError, AttributeError):
        pass
    warnings.warn(f"{file}: an entry is damaged and left out: {words!r}: {entry!r}", stacklevel=3)
    return False
