"""The equations of the four texts: label, what it says, the functions that are it, the notebook that derives it.

Docstrings, pages of `fnconv show`, notebooks and the table in notebooks/README.md cite these labels and no others.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fnconv.base.errors import invalid

NOTEBOOKS = {
    1: "01_notation",
    2: "02_convolution",
    3: "03_three_cases",
    4: "04_pooling",
    5: "05_lenet",
}


@dataclass(frozen=True)
class Equation:
    """One equation, or a few that say one thing; `labels` in the order of the text, statement in plain text."""

    labels: tuple[str, ...]
    statement: str
    functions: tuple[str, ...]
    notebook: int


def _row(labels: str, statement: str, functions: str, notebook: int) -> Equation:
    text, *numbers = labels.split()
    names = tuple(f"{text} {number}" for number in numbers) if numbers else (text,)
    return Equation(names, statement, tuple(f"fnconv.{f}" for f in functions.split()), notebook)


EQUATIONS = (
    _row("Wei (1.1) (1.2)", "gradient of a scalar as a column; Jacobian, a row per output", "textbook.jacobian", 1),
    _row("Wei (1.3)", "chain rule for a layer's parameters", "conv_weight_vjp dense", 1),
    _row("Wei (1.4)", "chain rule for a layer's input", "conv_input_vjp dense", 1),
    _row("Wei 1.2", "loss; update w ← w - α ∂z/∂w", "squared_error train.loop.step", 5),
    _row("Wei 2.1", "im2col, an example", "im2col", 2),
    _row("Wei (2.1)", "A * K, an example", "conv", 2),
    _row("Wei (2.2) (2.3)", "im2col(A)ᵀ vec(K) = vec(A * K)", "textbook.phi textbook.vec", 2),
    _row("Wei (2.4)", "x * κ = Σ A_d * K_d over channels", "conv", 2),
    _row("Wei (2.5) (2.6)", "φ(x) = im2col(x)ᵀ, channels side by side", "textbook.phi im2col", 2),
    _row("Wei (2.7)", "vec of a tensor", "textbook.vec textbook.unvec", 1),
    _row("Wei (2.8)", "C, a column per kernel", "textbook.matrix_c", 2),
    _row("Wei (2.9)", "vec(φ(x) C) = vec(y)", "rules.conv.im2col.forward", 2),
    _row("Wei (2.10)", "(A ⊗ B)ᵀ = Aᵀ ⊗ Bᵀ", "textbook.kron_transposed", 1),
    _row("Wei (2.11)", "vec(A X B) = (Bᵀ ⊗ A) vec(X)", "textbook.kron_times_vec", 1),
    _row("Wei (2.12)", "vec(y) = (I ⊗ φ(x)) vec(C)", "textbook.forward_by_kernel rules.conv.kronecker.forward", 2),
    _row("Wei (2.13)", "vec(y) = (Cᵀ ⊗ I) vec(φ(x))", "textbook.forward_by_input rules.conv.jacobian.forward", 2),
    _row("Wei (2.14) (2.15) (2.16) (2.17)", "the index map m", "textbook.index_map base.geometry.flat_table", 2),
    _row("Wei (2.18) (2.19)", "∂vec(y)/∂vec(w)ᵀ = I ⊗ φ(x)", "textbook.jacobian_by_kernel", 2),
    _row("Wei (2.20)", "∂z/∂vec(C) = (I ⊗ φ(x)ᵀ) vec(∂z/∂Y)", "rules.conv.kronecker.weight_vjp", 2),
    _row("Wei (2.21)", "∂z/∂C = φ(x)ᵀ ∂z/∂Y", "rules.conv.im2col.weight_vjp conv_weight_vjp", 2),
    _row("Wei (2.22)", "∂z/∂vec(x)ᵀ = ∂z/∂vec(y)ᵀ ∂vec(y)/∂vec(x)ᵀ", "rules.conv.jacobian.input_vjp", 2),
    _row("Wei (2.23) (2.24)", "M; vec(φ(x)) = M vec(x)", "textbook.matrix_m base.pairs.im2col", 2),
    _row("Wei (2.25)", "∂vec(y)/∂vec(x)ᵀ = (Cᵀ ⊗ I) M", "textbook.jacobian_by_input", 2),
    _row("Wei (2.26) (2.27)", "the same times ∂z/∂vec(Y)ᵀ", "rules.conv.jacobian.input_vjp", 2),
    _row("Wei (2.28)", "∂z/∂vec(x) = Mᵀ vec(∂z/∂Y Cᵀ)", "rules.conv.kronecker.input_vjp", 2),
    _row("Wei (2.29) (2.30)", "∂z/∂x_i = Σ (∂z/∂Y Cᵀ)[p, q] over m⁻¹(i)", "rules.conv.im2col.input_vjp col2im", 2),
    _row("Wei 3", "fully connected is convolution with a kernel as large as the input", "dense", 5),
    _row("Wei (4.1)", "output sizes of pooling", "base.geometry.outputs", 4),
    _row("Wei (4.2)", "y = max over the window", "max_pool", 4),
    _row("Wei (4.3)", "∂z/∂vec(x)ᵀ = ∂z/∂vec(y)ᵀ ∂vec(y)/∂vec(x)ᵀ", "rules.max_pool.selection.input_vjp", 4),
    _row("Wei (4.4)", "vec(y) = S vec(x), ∂vec(y)/∂vec(x)ᵀ = S", "textbook.selection_matrix", 4),
    _row("Wei (4.5)", "∂z/∂vec(x) = Sᵀ ∂z/∂vec(y)", "rules.max_pool.selection.input_vjp max_unpool", 4),
    _row("Wei (4.6)", "∂z/∂x_i = Σ ∂z/∂y_o over the windows that chose i", "rules.max_pool.segment_sum.input_vjp", 4),
    _row("Wei (5.1) (5.2) (5.3)", "ReLU, ReLU' with ReLU'(0) = 0, its gradient", "relu", 4),
    _row("Wei 5", "σ(x) = 1/(1 + e⁻ˣ), σ' ≤ 1/4", "sigmoid", 4),
    _row(
        "Notes 1",
        "forward: correlation, pooling (max, average, L2), fully connected",
        "conv max_pool avg_pool lp_pool dense",
        3,
    ),
    _row("Notes 2.1", "fully connected: Δw = δ aᵀ, Δb = δ, δᴸ = wᵀ δ ⊙ σ'", "dense", 5),
    _row(
        "Notes 2.2",
        "pooling: upsample(δ) ⊙ σ', overlapping windows added",
        "max_unpool avg_pool base.window_sums.window_sum_adjoint",
        4,
    ),
    _row(
        "Notes 2.3",
        "convolution: insert zeros, pad, correlate with rot180(w)",
        "rules.conv.correlation.input_vjp conv_input_vjp base.pairs.zero_insert base.pairs.rot180",
        3,
    ),
    _row(
        "Notes 3",
        "kernel: ∂C/∂w = Σ δ_ab a^L at m + (a-1)·stride, n + (b-1)·stride",
        "rules.conv.correlation.weight_vjp conv_weight_vjp",
        3,
    ),
    _row("Small forward", "O_ij = Σ I_{i+a-1,j+b-1} W_ab + b", "conv show.conv", 3),
    _row("Small (1)", "∂L/∂b = Σ ∂L/∂O_ij", "ops.conv.bias show.conv", 3),
    _row("Small (2)", "∂L/∂W_ij = Σ ∂L/∂O_ab I_{i+a-1,j+b-1}", "conv_weight_vjp show.conv", 3),
    _row("Small (3)", "∂L/∂I element by element", "conv_input_vjp show.conv", 3),
    _row("Small pooling", "O_ij = max of the window; ∂L/∂I = ∂L/∂O at the maximum, else 0", "max_pool show.pool", 4),
    _row("GEMM 1.1", "convolution = im2col and one matrix product", "rules.conv.im2col.forward im2col", 2),
    _row("GEMM 1.2", "∂z/∂x by adding at the mapped positions", "rules.conv.im2col.input_vjp base.pairs.col2im", 2),
    _row("GEMM 2", "fully connected as convolution", "dense", 5),
    _row("GEMM 3 3.1 3.2", "max pooling through im2col", "rules.max_pool.segment_sum.forward max_pool", 4),
)

BY_LABEL = {label: equation for equation in EQUATIONS for label in equation.labels}


def lookup(label: str) -> Equation:
    """The equation that a label such as "Wei (2.30)" stands for."""
    if label not in BY_LABEL:
        raise invalid("equations.lookup", "label", "must be the label of an equation of the texts", repr(label))
    return BY_LABEL[label]


def resolve(path: str) -> Any:
    """The function that a path such as "fnconv.rules.conv.im2col.forward" names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def cite(labels: Iterable[str]) -> str:
    """Labels in short, a text named once, three and more in a row as a range.

    >>> cite(["Small (3)", "Wei (2.14)", "Wei (2.15)", "Wei (2.16)", "Wei (2.30)"])
    'Small (3); Wei (2.14)-(2.16), (2.30)'
    """
    order = list(BY_LABEL)
    texts: dict[str, list[str]] = {}
    for label in labels:
        texts.setdefault(lookup(label).labels[0].split()[0], []).append(label)
    parts = []
    for text, cited in texts.items():
        runs: list[list[str]] = []
        for label in sorted(cited, key=order.index):
            if runs and order.index(runs[-1][-1]) + 1 == order.index(label):
                runs[-1].append(label)
            else:
                runs.append([label])
        shown = [[r[0], r[-1]] if len(r) > 2 else r for r in runs]
        short = [
            "-".join(n.removeprefix(text + " ") for n in r)
            if len(runs[i]) > 2
            else ", ".join(n.removeprefix(text + " ") for n in r)
            for i, r in enumerate(shown)
        ]
        parts.append(f"{text} {', '.join(short)}")
    return "; ".join(parts)


def table() -> str:
    """The table of notebooks/README.md: equation, function and notebook, in the order of the texts."""
    lines = ["| equation | what it says | function | notebook |", "|---|---|---|---|"]
    for e in EQUATIONS:
        functions = ", ".join(f"`{f}`" for f in e.functions)
        notebook = f"[{e.notebook}]({NOTEBOOKS[e.notebook]}.ipynb)"
        lines.append(f"| {cite(e.labels)} | {e.statement} | {functions} | {notebook} |")
    return "\n".join(lines)
