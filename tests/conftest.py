"""Every test runs on the CPU, with strict dtype promotion, and compiles each program once per machine.

Compiling is what the tests cost.  LLVM's optimisations are off unless XLA_FLAGS is set, and what was compiled is kept;
the processes that tests start inherit both.  XLA's own passes stay, and `test_as_users_compile` has LLVM's as well.
"""

import os
import tempfile

for name in ("COLUMNS", "LINES"):  # the size of pytest's own terminal, which readline hands on to its workers
    os.environ.pop(name, None)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "fnconv-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
