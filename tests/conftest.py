"""Every test runs on the CPU, with strict dtype promotion, and compiles each program once per machine.

Compiling is what the tests cost.  LLVM's optimisations are off unless XLA_FLAGS is set, and what was compiled is kept;
the processes that tests start inherit both.  XLA's own passes stay, and `test_as_users_compile` has LLVM's as well.
"""

import gc
import os
import tempfile
from collections.abc import Iterator

for name in ("COLUMNS", "LINES"):  # the size of pytest's own terminal, which readline hands on to its workers
    os.environ.pop(name, None)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("FNCONV_CHOICES", "off")  # what "auto" runs is the same on every machine
os.environ.setdefault("FNCONV_ONEDNN", "off")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "fnconv-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def quick_collection() -> Iterator[None]:
    """What other tests left is not searched for garbage: a collection costs as much as the heap holds."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `sample(n)`, n cases, spread evenly over its parameters, run by default; the rest are slow."""
    cases: dict[tuple[object, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sample") and not item.get_closest_marker("slow"):
            cases.setdefault((item.path, item.originalname), []).append(item)
    for all_ in cases.values():
        n = all_[0].get_closest_marker("sample").args[0]
        kept = {round(i * (len(all_) - 1) / max(n - 1, 1)) for i in range(n)}
        for i, item in enumerate(all_):
            if i not in kept:
                item.add_marker("slow")
