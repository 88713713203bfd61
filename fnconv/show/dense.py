"""`show.dense`: the fully connected layer and its gradients, every element written out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import jax
import numpy as np

from fnconv.base.errors import invalid
from fnconv.ops import functional as ops
from fnconv.show import interactive, numbers
from fnconv.show.blocks import EQUATIONS, TERMS, Formula, Matrix, Prose, Section, readable
from fnconv.show.page import Page
from fnconv.show.relation import first
from fnconv.show.symbols import Expression, Number, Partial, Product, Sum, Symbol, namer, some, substitute
from fnconv.show.tensors import equations, side_by_side, slices, too_large

NAME = "show.dense"


def dense(
    input: Any, output: Any = None, *, weights: Any = None, cotangent: Any = None, values: bool = False, seed: int = 0
) -> Page:
    """A fully connected layer written out: y = x W + b and its three gradients.

    Args:
      input: how many inputs there are; or their numbers, an array or a .npy file of one axis.
      output: how many outputs there are; left out where `weights` say.
      weights: numbers (in, out), an array or a .npy file.
      cotangent: numbers (out,) for δ = dL/dy.
      values: write numbers for the symbols, computed by `fnconv.dense`.  True where an array is given.
      seed: of the random integers.

    Returns:
      a `Page`: text when printed, HTML in a notebook, LaTeX by `.to_latex()`.

    Raises:
      ValueError, TypeError: naming the argument, the rule broken and the value.

    >>> print(dense(2, 3).find("∂L/∂x_1"))
    ∂L/∂x_1 = δ_1·W_11 + δ_2·W_12 + δ_3·W_13
    """
    x = numbers.load(NAME, "input", input)
    given: dict[str, numbers.Array] = {}
    inputs = x.size if isinstance(x, np.ndarray) else int(np.prod(x))
    if weights is not None:
        w = numbers.load(NAME, "weights", weights)
        if not isinstance(w, np.ndarray) or w.ndim != 2:
            raise invalid(NAME, "weights", "must be an array of shape (in, out)", np.shape(w))
        given["W"] = w
        output = w.shape[1] if output is None else output
    if output is None:
        raise invalid(NAME, "output", "must say how many outputs there are", output)
    outputs = int(np.prod(numbers.load(NAME, "output", output)))
    if isinstance(x, np.ndarray):
        given["x"] = numbers.fit(NAME, "input", x, (inputs,), 0)
    if "W" in given:
        numbers.fit(NAME, "weights", given["W"], (inputs, outputs), 0)
    if cotangent is not None:
        dy = numbers.load(NAME, "cotangent", cotangent)
        if not isinstance(dy, np.ndarray):
            raise invalid(NAME, "cotangent", "must be an array or a .npy file", dy)
        given["δ"] = numbers.fit(NAME, "cotangent", dy, (outputs,), 0)
    return _page(inputs, outputs, given, values or bool(given), seed)


def _page(inputs: int, outputs: int, given: dict[str, numbers.Array], values: bool, seed: int) -> Page:
    shapes = {"x": (inputs,), "W": (inputs, outputs), "b": (outputs,), "δ": (outputs,)}
    extents = {"x": (inputs,), "W": (inputs, outputs), "b": (outputs,), "y": (outputs,), "δ": (outputs,)}
    x, w, b, y, delta = (namer(name, (extent,)) for name, extent in extents.items())
    arrays: dict[str, Any] = {}

    def operands() -> dict[str, Any]:
        numbers.refuse_if_large(NAME, shapes)
        return {k: numbers.random(shape, (seed, n), -4, 9) for n, (k, shape) in enumerate(shapes.items())} | given

    def live() -> str:
        symbols = {"I": x, "W": w, "b": b, "O": y, "δ": delta}
        return interactive.section(
            interactive.dense(inputs, outputs, symbols, lambda: {"I": (a := operands())["x"], **a})
        )

    if values:
        arrays = operands()
        value, pullback = jax.vjp(ops.dense, *(jax.numpy.asarray(arrays[n]) for n in ("x", "W", "b")))
        gradients = pullback(jax.numpy.asarray(arrays["δ"]))
        arrays |= {"y": value, **dict(zip(("dx", "dW", "db"), gradients, strict=True))}
    lookup = numbers.lookup(arrays)

    def put(e: Expression) -> Expression:
        return substitute(e, lookup) if values else e

    def result(left: Expression) -> float:
        if isinstance(left, Partial):
            return lookup(Symbol("d" + left.symbol.name, left.symbol.groups))
        return lookup(left) if isinstance(left, Symbol) else 0.0

    def column(name: str, symbol: Any, size: int) -> list[Matrix]:
        return slices(name, (), (size,), lambda _, i: put(symbol(i)))

    def block(pairs: Sequence[tuple[Expression, Expression]], total: int, label: str) -> Any:
        return equations(pairs, total, (label,), lookup if values else None, result)

    shown_in, shown_out = readable(inputs, TERMS), readable(outputs, TERMS)
    some_in, some_out = range(readable(inputs, EQUATIONS)), range(readable(outputs, EQUATIONS))

    def affine(j: int) -> Expression:
        terms = (Product((x((i,)), w((i, j)))) for i in range(inputs))
        return Sum((*islice(terms, shown_in), b((j,))), inputs - shown_in)

    forward = [(y((j,)), affine(j)) for j in some_out]
    dx = [
        (Partial(x((i,))), some((Product((delta((j,)), w((i, j)))) for j in range(outputs)), outputs, shown_out))
        for i in some_in
    ]
    dw = [(Partial(w((i, j))), Product((x((i,)), delta((j,))))) for i, j in first((inputs, outputs), EQUATIONS)]
    db = [(Partial(b((j,))), delta((j,))) for j in some_out]
    matrix_w = slices("W", (), (inputs, outputs), lambda _, i: put(w(i)))
    layer = Section(
        "The layer",
        (
            *too_large(inputs * outputs),
            Formula("y = x W + b,  y_j = Σ_i x_i·W_ij + b_j", r"y = x\,W + b, \quad y_j = \sum_i x_i W_{ij} + b_j",
                    ("Notes 1",)),
            side_by_side(column("x", x, inputs), "·", matrix_w, "+", column("b", b, outputs), "=",
                         column("y", y, outputs)),
            Prose(
                "It is a convolution whose kernel is as large as its input: one window, so that no cell is copied.  "
                f"{inputs * outputs:,} weights, {outputs:,} biases."
            ),
            block(forward, outputs, "Notes 1"),
        ),
    )  # fmt: skip
    weights_section = Section(
        "Gradients of weights and biases",
        (
            Formula("∂L/∂W = xᵀ δ,  ∂L/∂W_ij = x_i·δ_j;  ∂L/∂b = δ,   δ = ∂L/∂y", LATEX_W, ("Notes 2.1",)),
            block(dw, inputs * outputs, "Notes 2.1"),
            block(db, outputs, "Notes 2.1"),
        ),
    )
    input_section = Section(
        "Gradient of the input",
        (
            Formula("∂L/∂x = δ Wᵀ,  ∂L/∂x_i = Σ_j δ_j·W_ij", LATEX_X, ("Notes 2.1", "Wei 3")),
            block(dx, inputs, "Notes 2.1"),
        ),
    )
    title = f"Fully connected layer, {inputs:,} inputs and {outputs:,} outputs"
    if not values:
        return Page(title, (layer, weights_section, input_section), live)
    found = slices("∂L/∂W", (), (inputs, outputs), lambda _, i: Number(float(np.asarray(arrays["dW"])[i])))
    last = Section("As matrices", (side_by_side(column("x", x, inputs), column("δ", delta, outputs), found),))
    return Page(title, (layer, weights_section, input_section, last), live)


LATEX_W = (
    r"\frac{\partial L}{\partial W} = x^T \delta, \quad \frac{\partial L}{\partial W_{ij}} = x_i\,\delta_j, \qquad "
    r"\frac{\partial L}{\partial b} = \delta, \quad \delta = \frac{\partial L}{\partial y}"
)
LATEX_X = (
    r"\frac{\partial L}{\partial x} = \delta\, W^T, \quad \frac{\partial L}{\partial x_i} = \sum_j \delta_j W_{ij}"
)
