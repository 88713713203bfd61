"""Which checker finds which planted bug: `fnconv.check_vjp` beside those of Torch, JAX and Chex.

    python -m benchmarks.kill_table

runs every checker, with its defaults, on the catalogue of the tests and writes benchmarks/results/kill_table.md.
Each is given the same arguments: normal floats, in float32 for those of JAX and in float64 for Torch's, which asks
for that.  A checker finds a bug if it raises or, for ours, reports a failure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.test_util import check_grads

from fnconv import check_vjp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from vjp_bugs import BUGS, OPERATIONS  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "kill_table.md"
SEED = 20


def torch_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The JAX function as one of Torch's, its rule included, through NumPy."""

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            arrays = [jnp.asarray(t.detach().numpy()) for t in tensors]
            value, ctx.pull = jax.vjp(fn, *arrays)
            return torch.from_numpy(np.array(value))

        @staticmethod
        def backward(ctx: Any, cotangent: Any) -> Any:
            with jax.enable_x64(True):  # Torch may call this from a thread of its own
                return tuple(torch.from_numpy(np.array(g)) for g in ctx.pull(jnp.asarray(cotangent.numpy())))

    return Bridge.apply  # type: ignore[no-any-return]


def gradcheck(fn: Callable[..., Any], args: Any, *, fast: bool) -> None:
    """Torch's, in float64."""
    with jax.enable_x64(True):
        tensors = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in args]
        torch.autograd.gradcheck(torch_function(fn), tensors, fast_mode=fast)


def ours(fn: Callable[..., Any], args: Any) -> None:
    """fnconv's."""
    report = check_vjp(fn, *args)
    if not report.ok:
        raise AssertionError(str(report.failures[0]))


CHECKERS: dict[str, Callable[[Callable[..., Any], Any], None]] = {
    "check_vjp": ours,
    "gradcheck": lambda fn, args: gradcheck(fn, args, fast=False),
    "gradcheck fast": lambda fn, args: gradcheck(fn, args, fast=True),
    "check_grads 1": lambda fn, args: check_grads(fn, args, order=1, modes=["rev"]),
    "check_grads 2": lambda fn, args: check_grads(fn, args, order=2, modes=["rev"]),
    "chex": lambda fn, args: chex.assert_numerical_grads(fn, args, order=1, modes=["rev"]),
}


def finds(checker: Callable[[Callable[..., Any], Any], None], fn: Callable[..., Any], args: Any) -> bool:
    """Whether a checker objects."""
    try:
        checker(fn, args)
    except Exception:  # whatever it ends in, it does not pass
        return True
    return False


def main() -> None:
    """Run everything and write the table."""
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "fnconv-kill-table"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    seconds = dict.fromkeys(CHECKERS, 0.0)
    found: dict[tuple[str, str], dict[str, bool]] = {}
    for operation, bug in [*((name, "") for name in OPERATIONS), *BUGS]:
        plan = OPERATIONS[operation]
        args = plan.args(np.random.default_rng(SEED), jnp.float32, 1.0)
        found[operation, bug] = {}
        for name, checker in CHECKERS.items():
            start = time.process_time()
            fn = plan.wrong(bug) if bug else plan.right()
            found[operation, bug][name] = finds(checker, fn, args)
            seconds[name] += time.process_time() - start
        print(operation, bug, [name for name, yes in found[operation, bug].items() if yes], flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(table(found, seconds))


def table(found: dict[tuple[str, str], dict[str, bool]], seconds: dict[str, float]) -> str:
    """Markdown: totals first, then every bug."""
    bugs = {key: row for key, row in found.items() if key[1]}
    right = {key: row for key, row in found.items() if not key[1]}
    names = list(CHECKERS)
    head = ["# Planted bugs that each checker finds", "", f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    kills = " | ".join(str(sum(row[n] for row in bugs.values())) for n in names)
    alarms = " | ".join(str(sum(row[n] for row in right.values())) for n in names)
    times = " | ".join(f"{seconds[n] / len(found):.1f}" for n in names)
    head += [f"| found, of {len(bugs)} bugs | {kills} |", f"| alarms on {len(right)} right rules | {alarms} |"]
    head += [
        f"| CPU seconds for each | {times} |",
        "",
        "Defaults of every checker, reverse mode; JAX "
        f"{jax.__version__}, Torch {torch.__version__}, Chex {chex.__version__}; `python -m benchmarks.kill_table`.",
        "",
    ]
    head += [f"| operation | bug | {' | '.join(names)} |", f"|---|---|{':-:|' * len(names)}"]
    previous = ""
    for (operation, bug), row in bugs.items():
        marks = " | ".join("✓" if row[n] else "–" for n in names)
        head.append(f"| {operation if operation != previous else ''} | {bug} | {marks} |")
        previous = operation
    return "\n".join(head) + "\n"


if __name__ == "__main__":
    main()
