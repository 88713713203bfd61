"""`show.dense`: the fully connected layer and its gradients, every element written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from fnconv.base.errors import invalid
from fnconv.ops import functional as ops
from fnconv.show import interactive, numbers
from fnconv.show.blocks import Equations, Formula, Prose, Section
from fnconv.show.numbers import Numbers, ShapeOrNumbers
from fnconv.show.page import Page
from fnconv.show.symbols import Expression, Number, Partial, Product, Sum, Symbol, namer
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
    apply = staticmethod(ops.dense)

    def __init__(self, inputs: int, outputs: int, given: Mapping[str, numbers.Array], seed: int) -> None:
        self.inputs, self.outputs, self.given, self.seed = inputs, outputs, given, seed
        self.x, self.W = namer("x", ((inputs,),)), namer("W", ((inputs, outputs),))
        self.b, self.y, self.delta = (namer(name, ((outputs,),)) for name in ("b", "y", "δ"))
        self.shapes = {"x": (inputs,), "W": (inputs, outputs), "b": (outputs,), "δ": (outputs,)}
        self.ranges = dict.fromkeys(self.shapes, (-4, 9))

        def of(symbol: Callable[..., Symbol], *shape: int) -> numbers.Tensor:
            return lambda _, i: symbol(i), (), shape

        vectors = {"b": of(self.b, outputs), "y": of(self.y, outputs), "δ": of(self.delta, outputs)}
        self.tensors = {"x": of(self.x, inputs), "W": of(self.W, inputs, outputs), **vectors}

    def forward(self) -> Iterator[tuple[Expression, Expression]]:
        """y_j = sum over i of x_i W_ij, then + b_j."""
        for (j,) in self.first(self.outputs):
            sums = self.some((Product((self.x((i,)), self.W((i, j)))) for i in range(self.inputs)), self.inputs)
            yield self.y((j,)), Sum((*sums.terms, self.b((j,))), sums.hidden)

    def input_gradient(self) -> Iterator[tuple[Expression, Expression]]:
        """dL/dx_i = sum over j of delta_j W_ij."""
        for (i,) in self.first(self.inputs):
            terms = (Product((self.delta((j,)), self.W((i, j)))) for j in range(self.outputs))
            yield Partial(self.x((i,))), self.some(terms, self.outputs)

    def weight_gradient(self) -> Iterator[tuple[Expression, Expression]]:
        for i, j in self.first(self.inputs, self.outputs):
            yield Partial(self.W((i, j))), Product((self.x((i,)), self.delta((j,))))

    def bias_gradient(self) -> Iterator[tuple[Expression, Expression]]:
        for (j,) in self.first(self.outputs):
            yield Partial(self.b((j,))), self.delta((j,))


def _page(layer: Dense, values: bool) -> Page:
    inputs, outputs = layer.inputs, layer.outputs

    def block(pairs: Iterator[tuple[Expression, Expression]], total: int, label: str) -> Equations:
        return equations(layer, pairs, total, (label,), values)

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
            block(layer.forward(), outputs, "Notes 1"),
        ),
    )  # fmt: skip
    weights_section = Section(
        "Gradients of weights and biases",
        (
            Formula("∂L/∂W = xᵀ δ,  ∂L/∂W_ij = x_i·δ_j;  ∂L/∂b = δ,   δ = ∂L/∂y", LATEX_W, ("Notes 2.1",)),
            block(layer.weight_gradient(), inputs * outputs, "Notes 2.1"),
            block(layer.bias_gradient(), outputs, "Notes 2.1"),
        ),
    )
    input_section = Section(
        "Gradient of the input",
        (
            Formula("∂L/∂x = δ Wᵀ,  ∂L/∂x_i = Σ_j δ_j·W_ij", LATEX_X, ("Notes 2.1", "Wei 3")),
            block(layer.input_gradient(), inputs, "Notes 2.1"),
        ),
    )
    title = f"Fully connected layer, {inputs:,} inputs and {outputs:,} outputs"
    parts = [first_section, weights_section, input_section]
    if values:
        found = slices("∂L/∂W", (), (inputs, outputs), lambda _, i: Number(float(layer.arrays["dW"][i])))
        parts.append(Section("As matrices", (side_by_side(row["x"], row["δ"], found),)))
    return Page(title, tuple(parts), lambda: interactive.section(interactive.dense(layer)))


LATEX_W = (
    r"\frac{\partial L}{\partial W} = x^T \delta, \quad \frac{\partial L}{\partial W_{ij}} = x_i\,\delta_j, \qquad "
    r"\frac{\partial L}{\partial b} = \delta, \quad \delta = \frac{\partial L}{\partial y}"
)
LATEX_X = (
    r"\frac{\partial L}{\partial x} = \delta\, W^T, \quad \frac{\partial L}{\partial x_i} = \sum_j \delta_j W_{ij}"
)
