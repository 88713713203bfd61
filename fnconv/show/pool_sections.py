"""The sections of a pooling's page."""

from __future__ import annotations

import numpy as np

from fnconv.base.geometry import volume
from fnconv.show.blocks import Block, Formula, Prose, Section, Table, matrix
from fnconv.show.pooling import Pooling
from fnconv.show.relation import Index, ravel, unravel
from fnconv.show.symbols import Expression, Number
from fnconv.show.tensors import axes_table, equations, remaining, side_by_side, slices, tensor, too_large


def sections(pooling: Pooling, values: bool) -> list[Section]:
    parts = [_layer(pooling, values), _forward(pooling, values)]
    if pooling.kind == "max" and pooling.numeric:
        parts.append(_selection(pooling))
    parts.append(_gradient(pooling, values))
    return [*parts, _example(pooling)] if pooling.numeric else parts


def _layer(pooling: Pooling, values: bool) -> Section:
    r, channels = pooling.relation, (pooling.channels,)
    blocks: list[Block] = [
        *too_large(volume(r.input)),
        Prose("I is the input, O the output, L the loss, and δ = ∂L/∂O what comes back from the layers behind."),
        axes_table(pooling.axes),
        side_by_side(tensor(pooling, "I", values), "→", tensor(pooling, "O", values)),
        *remaining(channels, r.input),
    ]
    if r.unused:
        of = f"{r.unused:,} of the {volume(r.input):,} cells"
        blocks.append(Prose(f"Left over: no window covers {of}.  They are lost forward, and their gradient is 0."))
    if any(a.stride < a.span and a.output > 1 for a in pooling.axes):
        blocks.append(Prose("Windows overlap: a cell of several windows receives the sum of what they send back."))
    if pooling.channels > 1:
        blocks.append(Prose("Every channel is pooled by itself; it stands before the comma in the indices."))
    return Section("The layer", tuple(blocks))


def _forward(pooling: Pooling, values: bool) -> Section:
    kind, p = pooling.kind, f"{pooling.spec.p:g}"
    formula = {
        "max": Formula(
            "O_o = max of the cells of window o; padding counts as -∞",
            r"O_o = \max_{i \,\in\, \text{window } o} I_i",
            ("Small pooling", "Wei (4.2)", "Notes 1"),
        ),
        "avg": Formula(
            "O_o = (sum of the cells of window o) / (size of the window)",
            r"O_o = \frac{1}{\text{size}} \sum_{i \,\in\, \text{window } o} I_i",
            ("Notes 1",),
        ),
        "lp": Formula(
            f"O_o = (Σ |I_i|^{p} over the window)^(1/{p})",
            rf"O_o = \Bigl(\sum_{{i \,\in\, \text{{window }} o}} |I_i|^{{{p}}}\Bigr)^{{1/{p}}}",
            ("Notes 1",),
        ),
    }[kind]
    blocks: list[Block] = [formula]
    counts = sorted(set(pooling.counts.reshape(-1).tolist()))
    if kind == "avg" and len(counts) > 1:
        blocks.append(Prose(f"Windows differ in size here: {', '.join(map(str, counts))} cells are counted."))
    total = pooling.channels * volume(pooling.relation.output)
    blocks.append(equations(pooling, pooling.forward(), total, formula.labels[:1], values))
    return Section("Forward, element by element", tuple(blocks))


def _selection(pooling: Pooling) -> Section:
    """S, for numbers: which cell wins is no matter of symbols."""
    r = pooling.relation
    rows, differ = _windows(pooling)
    total = volume(r.output)
    blocks: list[Block] = [
        Formula(
            "S[o, i] = 1 where window o takes cell i, else 0;  vec(O) = S vec(I)",
            r"S_{o,i} = [\,\text{window } o \text{ takes cell } i\,], \qquad \mathrm{vec}(O) = S\, \mathrm{vec}(I)",
            ("Wei (4.4)",),
        ),
        Prose(
            "Which cell is the largest depends on the numbers."
            + ("" if "I" in pooling.given else f"  Random integers (seed {pooling.seed}), with ties:")
        ),
        side_by_side(tensor(pooling, "I", True), "→", tensor(pooling, "O", True)),
        Table(("window", "its cells", "maximum", "row_major takes", "column_major takes"), tuple(rows)),
    ]
    if total > len(rows):
        blocks.append(Prose(f"… {total - len(rows):,} more windows."))
    tie = f"Ties: {pooling.spec.ties} is in force.  row_major takes the first in reading order (XLA, Torch), "
    tie += "column_major the smallest column, then the smallest row (Wei)."
    blocks.append(Prose(tie + ("" if differ else "  Here both take the same cells.")))

    def entry(row: int, column: int) -> Expression | None:
        taken = pooling.taken(0, unravel(row, r.output))
        return Number(1) if taken is not None and ravel(taken, r.input) == column else None

    def window(row: int) -> str:
        return f"O_{pooling.O((0,), unravel(row, r.output)).index}"

    name = "S, a row per window, a column per cell of vec(I)" + (" (channel 1)" if pooling.channels > 1 else "")
    blocks.append(Prose("vec stacks columns: the first index runs fastest."))
    blocks.append(matrix(name, (total, volume(r.input)), entry, sparse=True, row_head=window))
    return Section("The selection matrix S", tuple(blocks))


def _windows(pooling: Pooling) -> tuple[list[tuple[str, ...]], bool]:
    """For the first windows of channel 1: cells, maximum, what either rule for ties takes; whether they differ."""
    r = pooling.relation
    found = {ties: pooling.winners(ties) for ties in ("row_major", "column_major")}
    rows, differ = [], False
    for number in range(min(volume(r.output), 16)):
        o = tuple(int(n) for n in np.unravel_index(number, r.output))
        cells = [pooling.value(pooling.I((0,), i)) for _, i in r.of_output(o)][:9]
        taken = [_cell(pooling, int(found[t][(*o, 0)])) for t in found]
        differ = differ or taken[0] != taken[1]
        dots = " …" if len(r.of_output(o)) > len(cells) else ""
        numbers = " ".join(f"{v:g}" for v in cells) + dots
        rows.append((f"O_{pooling.O((0,), o).index}", numbers, f"{pooling.value(pooling.O((0,), o)):g}", *taken))
    return rows, differ


def _cell(pooling: Pooling, position: int) -> str:
    if position < 0:
        return "none"
    i: Index = tuple(int(n) for n in np.unravel_index(position, pooling.relation.input))
    return f"I_{pooling.I((0,), i).index}"


def _gradient(pooling: Pooling, values: bool) -> Section:
    p = f"{pooling.spec.p:g}"
    formula, why = {
        "max": (
            Formula(
                "∂L/∂vec(I) = Sᵀ ∂L/∂vec(O):  ∂L/∂I_i = Σ S_o,i·δ_o over the windows o that hold i",
                r"\frac{\partial L}{\partial\,\mathrm{vec}(I)} = S^T \frac{\partial L}{\partial\,\mathrm{vec}(O)}, "
                r"\qquad \frac{\partial L}{\partial I_i} = \sum_{o} S_{o,i}\, \delta_o",
                ("Small pooling", "Wei (4.5)", "Wei (4.6)"),
            ),
            "A small change of the largest cell changes the maximum by as much; of another cell, not at all.  So δ "
            "goes to the winner alone, and S, which remembers the winners, is all that the gradient needs.",
        ),
        "avg": (
            Formula(
                "∂L/∂I_i = Σ δ_o / (size of window o) over the windows o that hold i",
                r"\frac{\partial L}{\partial I_i} = \sum_{o \,\ni\, i} \frac{\delta_o}{\text{size of window } o}",
                ("Notes 2.2",),
            ),
            "Every cell of a window has the same part in its mean, so δ is shared out evenly.",
        ),
        "lp": (
            Formula(
                f"∂L/∂I_i = Σ δ_o·sign(I_i)·(|I_i|/O_o)^({p} - 1) over the windows o that hold i",
                r"\frac{\partial L}{\partial I_i} = \sum_{o \,\ni\, i} \delta_o\, \mathrm{sign}(I_i) "
                rf"\left(\frac{{|I_i|}}{{O_o}}\right)^{{{p} - 1}}",
                ("Notes 1", "Notes 2.2"),
            ),
            "The larger a cell, the larger its part; where a whole window is 0, the gradient is taken as 0.",
        ),
    }[pooling.kind]
    total = pooling.channels * volume(pooling.relation.input)
    body = equations(pooling, pooling.gradient(), total, formula.labels[-2:], values)
    return Section("Gradient of the input", (formula, Prose(why), body))


def _example(pooling: Pooling) -> Section:
    r, c = pooling.relation, (pooling.channels,)

    def gradient(channel: Index, i: Index) -> Expression:
        return Number(float(pooling.arrays["dI"][(*i, *channel)]))

    which = "" if {"I", "δ"} <= set(pooling.given) else f"  What is not given are random integers, seed {pooling.seed}."
    return Section(
        "With numbers",
        (
            Prose("Computed by fnconv's own pooling and its gradient." + which),
            side_by_side(tensor(pooling, "I", True), "→", tensor(pooling, "O", True)),
            side_by_side(tensor(pooling, "δ", True), "→", slices("∂L/∂I", c, r.input, gradient)),
        ),
    )
