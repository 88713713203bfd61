"""Reports of `fnconv.check_vjp` on five different bugs, and how long both levels take on a small rule.

    python -m benchmarks.vjp_reports

writes benchmarks/results/check_vjp_reports.md.  The times are the CPU's, over all
threads, of a first call: compilation included, without a compilation cache.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv import check_vjp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from vjp_bugs import OPERATIONS  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "check_vjp_reports.md"
CHOSEN = (
    ("conv", "padding one off in dx"),
    ("layer_norm", "variance term missing"),
    ("dense", "db not summed"),
    ("max_pool", "every tie takes the whole"),
    ("square", "residual kept in a global"),
)
TIMED = ("tanh", "dense", "layer_norm")
SEED = 20


def cpu_seconds(fn: Callable[..., Any], args: Any, level: str) -> float:
    """Of one call that passes."""
    jax.clear_caches()
    start = time.process_time()
    assert check_vjp(fn, *args, level=level).ok
    return time.process_time() - start


def main() -> None:
    """Run and write."""
    lines = ["# Reports of check_vjp", "", f"`python -m benchmarks.vjp_reports`; JAX {jax.__version__}.", ""]
    lines += ["| right rule, CPU time | quick | full |", "|---|---:|---:|"]
    for name in TIMED:
        plan = OPERATIONS[name]
        args = plan.args(np.random.default_rng(SEED), jnp.float32, 1.0)
        seconds = [cpu_seconds(plan.right(), args, level) for level in ("quick", "full")]
        lines.append(f"| {name} | {seconds[0]:.1f} s | {seconds[1]:.1f} s |")
    for name, bug in CHOSEN:
        plan = OPERATIONS[name]
        report = check_vjp(plan.wrong(bug), *plan.args(np.random.default_rng(SEED), jnp.float32, 1.0))
        lines += ["", f"## {name}: {bug}", "", "```", str(report), "```"]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
