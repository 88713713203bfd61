"""The kept measurements: their files, by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accelerators import TARGETS

RESULTS = Path(__file__).parent / "results"
TIMED = ("layers", "pools", "models")
COUNTED = tuple(f"accelerators-{target}" for target in TARGETS)
COMMANDS = ("random", *TIMED, "memory", "scaling", "tangents", *COUNTED)
SUFFIXES = ("", "-onednn", "-tuned", "-onednn-tuned", "-gpu")

Results = Mapping[str, dict[str, Any]]  # by file name without ending: "layers", "layers-tuned", "layers-gpu", ...


def load(folder: Path = RESULTS) -> Results:
    """Every kept measurement; raises ValueError at one that is none."""
    names = [f"{command}{suffix}" for command in COMMANDS for suffix in SUFFIXES]
    found = {name: json.loads(path.read_text()) for name in names if (path := folder / f"{name}.json").exists()}
    for name, result in found.items():
        if result["smoke"]:
            raise ValueError(f"report: {name}.json is from a --smoke run, whose times mean nothing")
        if name != proper_name(result):
            raise ValueError(f"report: {name}.json holds what belongs to {proper_name(result)}.json")
    return found


def proper_name(result: Mapping[str, Any]) -> str:
    """The name under which a measurement is kept: command, and platform or settings where they are not the usual."""
    environment = result["environment"]
    suffix = f"-{environment['platform']}" if environment["platform"] != "cpu" else ""
    suffix += "-onednn" if environment.get("onednn") else ""
    return f"{result['command']}{suffix}{'-tuned' if environment['tuned'] else ''}"


def digest(results: Results) -> str:
    """A hash of all measurements; the picture carries that of those it was drawn from."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]
