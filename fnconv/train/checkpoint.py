"""Checkpoints: a safetensors file of the parameters and velocities, the rest of the run in its header as JSON."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from fnconv.base.errors import invalid
from fnconv.train.lenet import SHAPES
from fnconv.train.run import Config, Copy, Drift, Epoch, Metrics, Run

ARCHITECTURE = "LeNet-5"
HEADER = "fnconv"
Tensors = Mapping[str, NDArray[Any]]


def check_save(path: Path) -> Path:
    """Refuse a `path` that `save` could not write, before the training that is to be saved; where links lead, if not.

    Only a regular file may be replaced: a device, a pipe or a folder would be gone.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir() or target.is_dir():
        raise invalid("check_save", "path", "must be a file in an existing directory", path)
    if os.path.lexists(target) and not target.is_file():
        raise invalid("check_save", "path", "must be a regular file, or none yet", path)
    return target


def save(path: Path, run: Run) -> None:
    """Write `run` to `path`, which holds the old content or the whole of the new one at any moment.

    A symbolic link stays, and what it leads to is written.
    """
    path = check_save(path)
    tensors = {
        f"{name}.{part}.{key}": np.asarray(value)
        for name, copy in run.copies.items()
        for part, params in copy._asdict().items()
        for key, value in params.items()
    }
    header = {
        "architecture": ARCHITECTURE,
        "config": asdict(run.config),
        "data": run.data,
        "epochs": len(run.history),
        "history": [asdict(epoch) for epoch in run.history],
    }
    header["sha256"] = _checksum(header, tensors)
    content = serialize(tensors, {HEADER: json.dumps(header)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> Run:
    """Read the run that `save` wrote to `path`; a file that is damaged or of another kind is a ValueError."""
    if not path.is_file():
        raise invalid("load", "path", "must be a checkpoint file", f"{path}, which is no file")
    tensors, header = _read(path)
    try:
        checksum = header.pop("sha256")
        architecture = header["architecture"]
        config = Config(**header["config"])
        history = tuple(_epoch(epoch) for epoch in header["history"])
        data = str(header["data"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        found = f"a damaged or foreign one ({type(error).__name__}: {error})"
        raise invalid("load", str(path), "must have the header that save writes", found) from error
    if architecture != ARCHITECTURE:
        raise invalid("load", str(path), f"must hold the architecture {ARCHITECTURE!r}", repr(architecture))
    _check_tensors(path, config, tensors)
    if checksum != (found := _checksum(header, tensors)):
        rule = f"must have the content of checksum {checksum} that its header announces"
        raise invalid("load", str(path), rule, f"damaged content, of checksum {found}")

    def part(name: str) -> dict[str, Any]:
        return {key: jnp.asarray(tensors[f"{name}.{key}"]) for key in SHAPES}

    copies = {name: Copy(*(part(f"{name}.{field}") for field in Copy._fields)) for name in config.copies}
    return Run(config, data, copies, history)


def _read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise invalid("load", str(path), "must be a whole safetensors file", f"a damaged one ({error})") from error
    try:
        header = json.loads(metadata[HEADER])
    except (KeyError, ValueError) as error:
        raise invalid("load", str(path), f"must have a JSON entry {HEADER!r} in its header", metadata) from error
    if not isinstance(header, dict):
        raise invalid("load", str(path), f"must have a JSON object as its entry {HEADER!r}", type(header).__name__)
    return tensors, header


def _check_tensors(path: Path, config: Config, tensors: Tensors) -> None:
    names = (f"{name}.{part}.{key}" for name in config.copies for part in Copy._fields for key in SHAPES)
    expected = {name: f"float32 of shape {SHAPES[name.split('.', 2)[2]]}" for name in names}
    found = {name: f"{value.dtype} of shape {value.shape}" for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        rule = f"must hold {name!r} as {expected[name]}" if name in expected else f"must hold no {name!r}"
        if expected.get(name) != found.get(name):
            raise invalid("load", str(path), rule, found.get(name, "no such tensor"))


def _checksum(header: Mapping[str, Any], tensors: Tensors) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def _epoch(saved: dict[str, Any]) -> Epoch:
    drift = saved["drift"]
    return Epoch(
        {name: Metrics(**metrics) for name, metrics in saved["metrics"].items()},
        None if drift is None else Drift(**drift),
    )
