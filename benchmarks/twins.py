"""What `fnconv.check_vjp` finds among wrong rules that hide, and what it says of their right twins.

    python -m benchmarks.twins

runs it on `tests/support/vjp_twins.py`, kind by kind, and writes benchmarks/results/twins.md.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import jax

from fnconv import check_vjp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from vjp_twins import TWINS  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "twins.md"


def main() -> None:
    """Run everything and write the table."""
    kinds: dict[str, list[tuple[bool, bool, float]]] = {}
    odd = []
    for (kind, name), twin in TWINS.items():
        for fn, wrong in ((twin.right, False), (twin.wrong, True)):
            if fn is None:
                continue
            start = time.perf_counter()
            report = check_vjp(fn, *twin.args, **twin.options)
            kinds.setdefault(kind, []).append((wrong, report.ok, time.perf_counter() - start))
            if report.ok == wrong:
                odd.append(f"{kind}, {name}: {'missed' if wrong else report.failures[0]}")
            print(kind, name, "wrong" if wrong else "right", report.ok, flush=True)
    lines = ["# Rules that hide their mistakes, and right ones that look wrong", ""]
    lines += ["| kind | wrong, found | right, passed | median s | largest s |", "|---|---:|---:|---:|---:|"]
    for kind, rows in kinds.items():
        wrong, right = ([ok for w, ok, _ in rows if w == which] for which in (True, False))
        seconds = [s for *_, s in rows]
        found = f"{wrong.count(False)} of {len(wrong)} | {right.count(True)} of {len(right)}"
        lines.append(f"| {kind} | {found} | {median(seconds):.1f} | {max(seconds):.1f} |")
    lines += ["", *odd, f"JAX {jax.__version__}; `python -m benchmarks.twins`.", ""]
    RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
