"""Custom rules of installed libraries, found and judged by `fnconv.check_rules`.

    python -m benchmarks.rules_of_libraries

runs a small program that calls each, and writes benchmarks/results/rules_of_libraries.md.
"""

from __future__ import annotations

import time
from pathlib import Path

import equinox as eqx
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.linen import fp8_ops

import fnconv

RESULT = Path(__file__).resolve().parent / "results" / "rules_of_libraries.md"
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 5)), jnp.float32)
WEIGHTS = jnp.asarray(RNG.dirichlet(np.ones(5), 4), jnp.float32)


@eqx.filter_custom_vjp
def squared(x, y):
    return (x * x * y).sum()


squared.def_fwd(lambda perturbed, x, y: (squared(x, y), (x, y)))
squared.def_bwd(lambda kept, dy, perturbed, x, y: 2 * kept[0] * kept[1] * dy)

PROGRAMS = {
    "optax.projections.projection_simplex": lambda: fnconv.check_rules(
        jax.jit(jax.grad(lambda x: (optax.projections.projection_simplex(x) ** 2).sum())), X[0]
    ),
    "optax.projections.projection_l1_ball": lambda: fnconv.check_rules(optax.projections.projection_l1_ball, X[1]),
    "optax.losses.convex_kl_divergence, softmax": lambda: fnconv.check_rules(
        jax.grad(lambda x: optax.losses.safe_softmax_cross_entropy(x, WEIGHTS).sum()), X
    ),
    "optax.scale_gradient": lambda: fnconv.check_rules(
        jax.grad(lambda x: jnp.sin(optax.scale_gradient(x, 0.5)).sum()), X
    ),
    "equinox.filter_custom_vjp": lambda: fnconv.check_rules(eqx.filter_jit(lambda x: squared(x, X[0])), X[1]),
    "flax.linen.fp8_ops.in_qdq": lambda: fnconv.check_rules(
        lambda x: fp8_ops.in_qdq(jnp.float32, jnp.float8_e4m3fn, x, jnp.ones(1), jnp.zeros(16)), X
    ),
}


def main() -> None:
    """Run everything and write the table."""
    lines = [
        "# Custom rules of installed libraries",
        "",
        "| program | rule | arguments | verdict | why |",
        "|---|---|---|---|---|",
    ]
    start = time.process_time()
    for name, run in PROGRAMS.items():
        with jax.numpy_dtype_promotion("standard"):
            report = run()
        for row in report.rows:
            why = row.detail
            if row.report is not None and not row.ok:
                why = "; ".join(f"{f.check}: {f.argument} {f.diagnosis}" for f in row.report.failures)
            lines.append(
                f"| {name} | {row.rule}, {row.source} | {row.arguments} | {row.verdict} | {why} |".replace("\n", " ")
            )
        if not report.rows:
            lines.append(f"| {name} | none | | | |")
        print(name, report.summary(), flush=True)
    lines += [
        "",
        f"JAX {jax.__version__}, Optax {optax.__version__}, Flax {flax.__version__}, Equinox {eqx.__version__}; ",
    ]
    lines += [f"{time.process_time() - start:.0f} s of CPU time; `python -m benchmarks.rules_of_libraries`.", ""]
    RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
