"""The user's own folder of things that take time to find out, and how to write to it from several processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def folder() -> Path:
    """$FNCONV_CACHE, else `fnconv` in the user's cache directory."""
    given = os.environ.get("FNCONV_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fnconv"


def writable(path: Path) -> bool:
    """Whether a file may be put there; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path.parent, os.W_OK) and not path.is_dir()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write, put in the place of `path` at the end: readers see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it, no other process is in it for the same path; where the system has no such locks, as if there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as file:
        try:
            import fcntl
        except ImportError:
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file ends it
        yield
