"""The sections of a convolution's page, in the order in which one derives them."""

from __future__ import annotations

from fnconv.base.geometry import Axis, volume
from fnconv.show import pictures, texts
from fnconv.show.blocks import COLUMNS, Block, Formula, Matrix, Prose, Section, matrix, readable
from fnconv.show.layer import Layer
from fnconv.show.relation import cell_formula, ravel, unravel
from fnconv.show.symbols import Expression, Number
from fnconv.show.tensors import axes_table, equations, remaining, side_by_side, tensor, too_large

OUTPUTS = "ijklmn"  # the letters of an output's indices,
ELEMENTS = "rstxyz"  # of a window element's,
CELLS = "uvwabc"  # and of a cell's


def sections(layer: Layer, values: bool) -> list[Section]:
    parts = [_layer, _forward, _product, _big_m, _bias, _kernel, _input]
    return [*(part(layer, values) for part in parts), *pictures.sections(layer, values)]


# ---- forward --------------------------------------------------------------------------------------------------------


def _layer(layer: Layer, values: bool) -> Section:
    spec, r = layer.spec, layer.relation
    blocks: list[Block] = [
        *too_large(volume(r.input)),
        Prose(LETTERS),
        axes_table(spec.axes),
        Prose(_output_size(spec.axes[0])),
    ]
    if spec.groups > 1:
        per = spec.in_channels // spec.groups
        text = f"{spec.groups} groups: each kernel sees {per} of the {spec.in_channels} input channels"
        blocks.append(Prose(f"{text}; W counts them within its group."))
    if r.unused:
        blocks.append(Prose(f"No window covers {r.unused:,} of the {volume(r.input):,} cells: their gradient is 0."))
    blocks.append(
        side_by_side(
            tensor(layer, "I", values),
            "*",
            tensor(layer, "W", values),
            *_bias_part(layer, values),
            tensor(layer, "O", values),
        )
    )
    blocks += remaining((spec.in_channels,), r.input)
    if spec.in_channels > 1 or spec.out_channels > 1:
        blocks.append(Prose(CHANNEL_INDICES))
    return Section("The layer", tuple(blocks))


LETTERS = (
    "I is the input, W the kernel, b the bias, O the output, L the loss of the whole network; δ = ∂L/∂O is what comes "
    "back from the layers behind.  Wanted are ∂L/∂b and ∂L/∂W, to learn, and ∂L/∂I, to go on backwards."
)
CHANNEL_INDICES = (
    "Indices: a channel stands before the comma, a position behind it; W has kernel and input channel before it."
)


def _output_size(a: Axis) -> str:
    span = f"span {a.span} = ({a.window} - 1)·{a.dilation} + 1" if a.dilation > 1 else f"window {a.window}"
    padded = "".join(f" {'+' if n >= 0 else '-'} {abs(n)}" for n in (a.low, a.high))
    sizes = f"⌊({a.size}{padded} - {a.span}) / {a.stride}⌋ + 1 = {a.output}"
    return f"Output size = ⌊(input + padding - span) / stride⌋ + 1; on axis 1, {span}: {sizes}."


def _forward(layer: Layer, values: bool) -> Section:
    o, k, cells = _letters(layer)
    channels = layer.per_group > 1
    total = layer.spec.out_channels * volume(layer.relation.output)
    text = f"O_{o} = Σ_{k} I_[{cells}]·W_{k} + b"
    latex = rf"O_{{{o}}} = \sum_{{{','.join(k)}}} I_{{{cells}}} \, W_{{{k}}} + b"
    where = "Indices count from 1; I is 0 outside its size." + (" Channels are summed too." if channels else "")
    body = equations(layer, layer.forward(), total, ("Small forward", "Notes 1"), values)
    blocks = (Formula(text, latex, ("Small forward", "Notes 1", "Wei (2.4)")), Prose(where), body)
    return Section("Forward, element by element", (*blocks, *texts.slips(layer, "forward")))


def _product(layer: Layer, values: bool) -> Section:
    """The index map m, phi, C and Y = phi C."""
    spec, r = layer.spec, layer.relation
    if spec.groups > 1:
        return Section(
            "The same as a matrix product",
            (Prose(f"Each of the {spec.groups} groups is a convolution of its own, with its own φ, C and M."),),
        )
    positions, elements, cells = volume(r.output), volume(r.window), volume(r.input)
    shape = (positions, elements * spec.in_channels)

    def m(p: int, q: int) -> tuple[int, int] | None:
        """(channel, position within the channel) of phi[p, q]."""
        d, element = divmod(q, elements)
        i = r.cell(unravel(p, r.output), unravel(element, r.window))
        return None if i is None else (d, ravel(i, r.input))

    def position(p: int, q: int) -> Expression | None:
        at = m(p, q)
        return None if at is None else Number(at[0] * cells + at[1])

    def phi(p: int, q: int) -> Expression | None:
        at = m(p, q)
        return None if at is None else layer.put(layer.I((at[0],), unravel(at[1], r.input)), values)

    def c(q: int, kernel: int) -> Expression:
        d, element = divmod(q, elements)
        return layer.put(layer.W((kernel, d), unravel(element, r.window)), values)

    def vec(_: int, at: int) -> Expression:
        d, cell = divmod(at, cells)
        return layer.put(layer.I((d,), unravel(cell, r.input)), values)

    def y(p: int, kernel: int) -> Expression:
        return layer.put(layer.O((kernel,), unravel(p, r.output)), values)

    columns = shape[1]
    all_shown = columns == readable(columns, COLUMNS)
    content = (ravel(r.first_output(None if all_shown else (0,) * len(r.window)), r.output), 0)
    padded = "  A - is padding." if any(a.low > 0 or a.high > 0 for a in spec.axes) else ""
    vec_i = matrix("vec(I)ᵀ", (1, cells * spec.in_channels), vec, sparse=True)
    return Section(
        "The same as a matrix product",
        (
            Prose(
                "vec stacks columns: the first index runs fastest, one channel after another.  p counts outputs and "
                "q window elements in that order, both from 0." + padded
            ),
            vec_i,
            Formula(
                "m(p, q) = position in vec(I) of the cell that window element q of output p lies on",
                r"m(p, q) = \text{position in } \mathrm{vec}(I) \text{ of the cell of output } p, \text{ element } q",
                ("Wei (2.14)", "Wei (2.15)", "Wei (2.16)", "Wei (2.17)"),
            ),
            matrix(
                "m",
                shape,
                position,
                row_head=lambda p: f"p={p}",
                column_head=lambda q: f"q={q}",
                blank="-",
                content=content,
            ),
            Formula(
                "φ(I)[p, q] = vec(I)[m(p, q)]",
                r"\phi(I)_{p,q} = \mathrm{vec}(I)_{m(p,q)}",
                ("Wei (2.5)", "Wei (2.6)"),
            ),
            Formula(
                "C: column d is vec of kernel d;  Y = φ(I) C, and vec(O) = vec(Y) before the bias",
                r"C = (\mathrm{vec}\,W_1, \dots), \quad Y = \phi(I)\, C, \quad \mathrm{vec}(O) = \mathrm{vec}(Y) + b",
                ("Wei (2.8)", "Wei (2.9)"),
            ),
            side_by_side(
                [matrix("φ(I)", shape, phi, content=content)],
                [matrix("C", (columns, spec.out_channels), c)],
                *_bias_part(layer, values),
                [matrix("Y + b", (positions, spec.out_channels), y, content=content)],
            ),
        ),
    )


def _big_m(layer: Layer, values: bool) -> Section:
    spec, r = layer.spec, layer.relation
    if spec.groups > 1:
        return Section("The matrix M", (Prose("One for each group, as φ and C."),))
    positions, elements, cells = volume(r.output), volume(r.window), volume(r.input)
    shape = (positions * elements * spec.in_channels, cells * spec.in_channels)

    def entry(row: int, column: int) -> Expression | None:
        q, p = divmod(row, positions)
        d, element = divmod(q, elements)
        i = r.cell(unravel(p, r.output), unravel(element, r.window))
        return Number(1) if i is not None and d * cells + ravel(i, r.input) == column else None

    text = "M[(p, q), i] = 1 where m(p, q) = i, else 0;  vec(φ(I)) = M vec(I)"
    latex = r"M_{(p,q),\,i} = [\,m(p,q) = i\,], \qquad \mathrm{vec}(\phi(I)) = M\, \mathrm{vec}(I)"
    why = (
        "A row holds one 1 (none where the window lies on padding): φ copies cells.  A column holds a 1 for every copy "
        "of its cell: that is why the gradient, which goes through Mᵀ, is a sum."
    )
    first = (0,) * len(r.output)
    o = r.first_output(first)
    at = r.cell(o, first)
    m = matrix(
        "M, a row per (p, q), a column per cell of vec(I)",
        shape,
        entry,
        sparse=True,
        row_head=lambda row: f"{row % positions},{row // positions}",
        content=(0, 0) if at is None else (ravel(o, r.output), ravel(at, r.input)),
    )
    return Section("The matrix M", (Formula(text, latex, ("Wei (2.23)", "Wei (2.24)")), Prose(why), m))


# ---- gradients ------------------------------------------------------------------------------------------------------


def _bias(layer: Layer, values: bool) -> Section:
    o, _, _ = _letters(layer)
    latex = rf"\frac{{\partial L}}{{\partial b}} = \sum_{{{o}}} \delta_{{{o}}}, \qquad "
    latex += r"\delta = \frac{\partial L}{\partial O}"
    formula = Formula(f"∂L/∂b = Σ_{o} δ_{o},   δ = ∂L/∂O", latex, ("Small (1)", "Notes 2.1"))
    body = equations(layer, layer.bias_gradient(), layer.spec.out_channels, ("Small (1)",), values)
    return Section("Gradient of the bias", (formula, body))


def _kernel(layer: Layer, values: bool) -> Section:
    o, k, cells = _letters(layer)
    formula = Formula(
        f"∂L/∂W_{k} = Σ_{o} δ_{o}·I_[{cells}];   as matrices ∂L/∂C = φ(I)ᵀ ∂L/∂Y",
        rf"\frac{{\partial L}}{{\partial W_{{{k}}}}} = \sum_{{{o}}} \delta_{{{o}}}\, I_{{{cells}}}, \qquad "
        r"\frac{\partial L}{\partial C} = \phi(I)^{T}\, \frac{\partial L}{\partial Y}",
        ("Small (2)", "Wei (2.21)", "Notes 3"),
    )
    total = layer.spec.out_channels * layer.per_group * volume(layer.relation.window)
    body = equations(layer, layer.kernel_gradient(), total, ("Small (2)", "Wei (2.21)"), values)
    why = "W_" + k + " is multiplied by one cell for each output: every output sends back its δ times that cell."
    return Section("Gradient of the kernel", (formula, Prose(why), body, *texts.slips(layer, "kernel")))


def _input(layer: Layer, values: bool) -> Section:
    o, k, cells = _letters(layer)
    at = CELLS[: len(layer.spec.axes)]
    formula = Formula(
        f"∂L/∂I_{at} = Σ δ_{o}·W_{k} over all {o}, {k} with [{cells}] = [{', '.join(at)}]",
        rf"\frac{{\partial L}}{{\partial I_{{{at}}}}} = \sum_{{({o},\,{k})\,:\,({cells}) = ({at})}} "
        rf"\delta_{{{o}}}\, W_{{{k}}}, \qquad \frac{{\partial L}}{{\partial\,\mathrm{{vec}}(I)}} = "
        r"M^{T}\, \mathrm{vec}\!\left(\frac{\partial L}{\partial Y}\, C^{T}\right)",
        ("Small (3)", "Wei (2.28)", "Wei (2.30)"),
    )
    why = (
        "How to derive it: ask m where the cell went.  Find every place (p, q) of φ that holds a copy of it; that copy "
        "was multiplied by window element q and added to output p, so δ at p times W at q comes back; add the copies."
    )
    total = layer.spec.in_channels * volume(layer.relation.input)
    body = equations(layer, layer.input_gradient(), total, ("Small (3)", "Wei (2.30)"), values)
    return Section("Gradient of the input", (formula, Prose(why), body, *texts.slips(layer, "input")))


# ---- pieces ---------------------------------------------------------------------------------------------------------


def _bias_part(layer: Layer, values: bool) -> tuple[str | list[Matrix], ...]:
    """ "+ b =", with numbers a number for each output channel."""
    if not values:
        return ("+ b =",)
    row = matrix("b", (1, layer.spec.out_channels), lambda _, d: layer.put(layer.b((d,)), values))
    return "+", [row], "="


def _letters(layer: Layer) -> tuple[str, str, str]:
    """The indices of output and element, and the cell where they meet: "ij", "ab", "i+a-1, j+b-1"."""
    axes = layer.spec.axes
    if len(axes) > len(CELLS):
        return "i", "a", "m(i,a)"
    o, k = OUTPUTS[: len(axes)], ELEMENTS[: len(axes)]
    return o, k, ", ".join(cell_formula(a, i, e) for a, i, e in zip(axes, o, k, strict=True))
