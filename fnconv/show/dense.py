"""`show.dense`: the fully connected layer and its gradients, every element written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import jax
import numpy as np

from fnconv.base.errors import invalid
from fnconv.ops import functional as ops
from fnconv.show import interactive, numbers
from fnconv.show.blocks import EQUATIONS, TERMS, Equations, Formula, Prose, Section, readable
from fnconv.show.numbers import Numbers, ShapeOrNumbers
from fnconv.show.page import Page
from fnconv.show.relation import first
from fnconv.show.symbols import Expression, Number, Partial, Product, Sum, Symbol, namer, some
from fnconv.show.tensors import equations, side_by_side, slices, tensor, too_large

NAME = "show.dense"


def dense(
    input: ShapeOrNumbers,
    output: int | None = None,
    *,
    weights: Numbers | None = None,
    cotangent: Numbers | None = None,
    values: bool = False,
    seed: int = 0,
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
    given |= numbers.cotangent(NAME, cotangent, (outputs,), 0)
    return _page(Dense(inputs, outputs, given, seed), values or bool(given))


class Dense(numbers.Written):
    """x W + b = y.  Indices are 0-based here and 1-based in the symbols."""

    name = NAME

    def __init__(self, inputs: int, outputs: int, given: Mapping[str, numbers.Array], seed: int) -> None:
        self.inputs, self.outputs, self.given, self.seed = inputs, outputs, given, seed
        self.x, self.W = namer("x", ((inputs,),)), namer("W", ((inputs, outputs),))
        self.b, self.y, self.delta = (namer(name, ((outputs,),)) for name in ("b", "y", "δ"))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"x": (self.inputs,), "W": (self.inputs, self.outputs), "b": (self.outputs,), "δ": (self.outputs,)}

    @property
    def tensors(self) -> dict[str, numbers.Tensor]:
        def of(symbol: Callable[..., Symbol], *shape: int) -> numbers.Tensor:
            return lambda _, i: symbol(i), (), shape

        n, m = self.inputs, self.outputs
        vectors = {"b": of(self.b, m), "y": of(self.y, m), "δ": of(self.delta, m)}
        return {"x": of(self.x, n), "W": of(self.W, n, m), **vectors}

    def drawn(self, name: str) -> numbers.Array:
        return numbers.random(self.shapes[name], (self.seed, list(self.shapes).index(name)), -4, 9)

    def computed(self, operands: Mapping[str, Any]) -> dict[str, Any]:
        y, pullback = jax.vjp(ops.dense, *(jax.numpy.asarray(operands[n]) for n in ("x", "W", "b")))
        return {"y": y, **dict(zip(("dx", "dW", "db"), pullback(jax.numpy.asarray(operands["δ"])), strict=True))}


def _page(layer: Dense, values: bool) -> Page:
    inputs, outputs, x, w, b, delta = layer.inputs, layer.outputs, layer.x, layer.W, layer.b, layer.delta

    def block(pairs: Sequence[tuple[Expression, Expression]], total: int, label: str) -> Equations:
        return equations(layer, pairs, total, (label,), values)

    shown_in, shown_out = readable(inputs, TERMS), readable(outputs, TERMS)
    some_in, some_out = range(readable(inputs, EQUATIONS)), range(readable(outputs, EQUATIONS))

    def affine(j: int) -> Expression:
        terms = (Product((x((i,)), w((i, j)))) for i in range(inputs))
        return Sum((*islice(terms, shown_in), b((j,))), inputs - shown_in)

    forward = [(layer.y((j,)), affine(j)) for j in some_out]
    dx = [
        (Partial(x((i,))), some((Product((delta((j,)), w((i, j)))) for j in range(outputs)), outputs, shown_out))
        for i in some_in
    ]
    dw = [(Partial(w((i, j))), Product((x((i,)), delta((j,))))) for i, j in first((inputs, outputs), EQUATIONS)]
    db = [(Partial(b((j,))), delta((j,))) for j in some_out]
    row = {name: tensor(layer, name, values) for name in layer.tensors}
    first_section = Section(
        "The layer",
        (
            *too_large(inputs * outputs),
            Formula("y = x W + b,  y_j = Σ_i x_i·W_ij + b_j", r"y = x\,W + b, \quad y_j = \sum_i x_i W_{ij} + b_j",
                    ("Notes 1",)),
            side_by_side(row["x"], "·", row["W"], "+", row["b"], "=", row["y"]),
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
    parts = [first_section, weights_section, input_section]
    if values:
        dw_array = np.asarray(layer.arrays["dW"])
        found = slices("∂L/∂W", (), (inputs, outputs), lambda _, i: Number(float(dw_array[i])))
        parts.append(Section("As matrices", (side_by_side(row["x"], row["δ"], found),)))
    return Page(title, tuple(parts), lambda: interactive.section(interactive.dense(layer)))


LATEX_W = (
    r"\frac{\partial L}{\partial W} = x^T \delta, \quad \frac{\partial L}{\partial W_{ij}} = x_i\,\delta_j, \qquad "
    r"\frac{\partial L}{\partial b} = \delta, \quad \delta = \frac{\partial L}{\partial y}"
)
LATEX_X = (
    r"\frac{\partial L}{\partial x} = \delta\, W^T, \quad \frac{\partial L}{\partial x_i} = \sum_j \delta_j W_{ij}"
)
