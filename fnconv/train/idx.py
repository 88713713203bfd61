"""The IDX format of the MNIST files: a magic number, big-endian sizes, then unsigned bytes; plain or gzip."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fnconv.base.errors import invalid


def find_idx(directory: Path, stem: str, ndim: int) -> Path:
    """The file called `stem`-idx`ndim`-ubyte in `directory`: with a dash or a dot before idx, plain or .gz."""
    names = [f"{stem}{mark}idx{ndim}-ubyte{suffix}" for suffix in ("", ".gz") for mark in "-."]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise invalid("find_idx", str(directory), f"must hold one of {', '.join(names)}", "none of them")


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read the unsigned bytes of `path`, an IDX file of `ndim` dimensions; whatever else it holds is a ValueError."""
    content = _contents(path)
    header = 4 * (1 + ndim)
    magic = 0x0800 + ndim
    if len(content) < header:
        raise invalid("read_idx", str(path), f"must begin with a header of {header} bytes", f"{len(content)} bytes")
    found, *shape = (int(field) for field in np.frombuffer(content, ">u4", 1 + ndim))
    if found != magic:
        axes = "axis" if ndim == 1 else "axes"
        rule = f"must begin with the magic number 0x{magic:08x} (unsigned bytes, {ndim} {axes})"
        raise invalid("read_idx", str(path), rule, f"0x{found:08x}")
    data = memoryview(content)[header:]
    expected = int(np.prod(shape, dtype=object))
    if len(data) != expected:
        problem = "truncated" if len(data) < expected else "trailing bytes"
        rule = f"must hold {expected} bytes after its header, which announces shape {tuple(shape)}"
        raise invalid("read_idx", str(path), rule, f"{len(data)} bytes ({problem})")
    try:
        return np.frombuffer(data, np.uint8).reshape(shape)
    except ValueError as error:  # one size is 0, and the others are too large together
        raise invalid("read_idx", str(path), "must announce a shape that an array can have", tuple(shape)) from error


def _contents(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise invalid("read_idx", str(path), "must be a whole gzip file", f"a corrupt one ({error})") from error
