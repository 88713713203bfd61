"""The models of tests/support/zoo.py in five libraries under `with_manual_rules`: python benchmarks/transform_table.py

Writes benchmarks/results/transform_models.md: what was replaced, the worst error of a gradient over what rounding
explains, and time and residuals against autodiff's.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from itertools import product
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import jax
import jax.numpy as jnp
import numpy as np
import zoo

import fnconv
from fnconv.judge.model.report import Comparison

RESULTS = Path(__file__).resolve().parent / "results"
SHAPES = {
    "lenet": (32, 28, 28, 1),
    "video": (4, 6, 16, 16, 1),
    "unet": (4, 32, 32, 3),
    "mobilenet": (8, 32, 32, 3),
    "resnet18": (8, 32, 32, 3),
}
HEAD = "| model | library | replaced | left | leaves | error / bound | autodiff's | time | autodiff's | | residuals |"


def compare(library: str, architecture: str, samples: int, rounds: int) -> Comparison:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(SHAPES[architecture]), jnp.float32)
    model = zoo.LIBRARIES[library](getattr(zoo, architecture), x)
    params = jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape) / 2, s.dtype), model.params)
    options = {"argnums": (0, 1), "has_aux": True, "samples": samples, "rounds": rounds}
    return fnconv.compare(model.apply, params, x, **options)


def row(library: str, architecture: str, report: Comparison) -> str:
    replaced = ", ".join(f"{n} {name}" for name, n in report.replaced.counts.items())
    ratios = [max(getattr(leaf, name) for leaf in report.leaves) for name in ("ratio", "ratio_autodiff")]
    times = [1e3 * cost.seconds for cost in (report.manual, report.autodiff)]
    kept = report.manual.residual_bytes / report.autodiff.residual_bytes
    cells = [
        architecture,
        library,
        replaced,
        str(len(report.replaced.left)),
        f"{len(report.leaves)}{'' if report.ok else ' FAILED'}",
        *(f"{ratio:.3f}" for ratio in ratios),
        *(f"{t:.3g} ms" for t in times),
        f"{report.speedup:.2f}x",
        f"{kept:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, action="append")
    parser.add_argument("--library", choices=zoo.LIBRARIES, action="append")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--output", type=Path, default=RESULTS / "transform_models.md")
    args = parser.parse_args()
    rows = kept(args.output)
    for architecture in args.model or SHAPES:
        for library in args.library or zoo.LIBRARIES:
            line = row(library, architecture, compare(library, architecture, args.samples, args.rounds))
            print(line, flush=True)
            rows[architecture, library] = line
            jax.clear_caches()
            args.output.parent.mkdir(exist_ok=True)
            order = [rows[key] for key in product(SHAPES, zoo.LIBRARIES) if key in rows]
            args.output.write_text("\n".join([*head(), *order]) + "\n")


def kept(path: Path) -> dict[tuple[str, str], str]:
    """Rows of an earlier run, by model and library."""
    lines = path.read_text().splitlines() if path.is_file() else []
    cells = {line: [cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| ")}
    return {(c[1], c[2]): line for line, c in cells.items() if c[1] in SHAPES}


def head() -> list[str]:
    return [
        "# Models under `with_manual_rules`",
        "",
        f"JAX {jax.__version__}, {jax.default_backend()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        "float32; value and gradient of all parameters and the input, jitted.",
        "Shapes: " + ", ".join(f"{name} {shape}" for name, shape in SHAPES.items()) + ".",
        "error / bound: worst |gradient - float64| over what rounding explains, at most 1 (`fnconv.compare`); times "
        "are medians, taken in turn;",
        "residuals: bytes kept for the backward pass, as a part of autodiff's.",
        "",
        HEAD,
        "|" + "---|" * (HEAD.count("|") - 1),
    ]


if __name__ == "__main__":
    main()
