"""Sizes, paddings and index tables against rows of cells written out one by one."""

from __future__ import annotations

import math
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
from extras import needs
from hypothesis import given, settings
from jax import lax
from loops import OVERSHOOT, PADDING, column_major, padded_row, slide

from fnconv.base import geometry
from fnconv.base.geometry import OUTSIDE, AdaptiveAxis, Axis, named_padding, runs

GRID = [
    Axis(size, window, stride, dilation, low, high)
    for size, window, stride, dilation, low, high in product(
        range(7), range(1, 5), range(1, 4), (1, 2), range(-2, 5), range(-2, 5)
    )
    if size + low + high >= 0
]

wide = settings(deadline=None, max_examples=300)


@st.composite
def any_axis(draw: st.DrawFn) -> Axis:
    """Axes far outside the grid: dilated windows longer than the input, paddings longer than both, crops."""
    size, low, high = draw(st.integers(0, 30)), draw(st.integers(-8, 20)), draw(st.integers(-8, 20))
    high = max(high, -size - low)
    return Axis(size, draw(st.integers(1, 8)), draw(st.integers(1, 9)), draw(st.integers(1, 5)), low, high)


def row_of(a: Axis) -> list[int]:
    return padded_row(a.size, a.low, a.high, a.overshoot)


def windows_of(a: Axis) -> list[list[int]]:
    return slide(row_of(a), a.window, a.stride, a.dilation)


# ---- one axis -------------------------------------------------------------------------------------------------------


def check_sizes(a: Axis) -> None:
    row, cells = row_of(a), windows_of(a)
    assert a.padded == len(row)
    assert a.output == len(cells)
    assert a.span == len(range(0, a.window * a.dilation, a.dilation)) * a.dilation - a.dilation + 1
    reached = (len(cells) - 1) * a.stride + a.span if cells else 0
    assert (a.reach, a.leftover) == (reached, len(row) - reached)
    assert a.leftover < a.stride or not cells


def check_positions(a: Axis) -> None:
    expected = np.array(windows_of(a), np.int64).reshape(-1, a.window)
    assert a.positions().shape == a.valid().shape == expected.shape
    np.testing.assert_array_equal(a.valid(), expected >= 0)
    np.testing.assert_array_equal(np.where(a.valid(), a.positions(), PADDING), np.maximum(expected, PADDING))


def check_counts(a: Axis) -> None:
    cells = windows_of(a)
    assert a.counts(include_pad=False).tolist() == [sum(i >= 0 for i in window) for window in cells]
    assert a.counts(include_pad=True).tolist() == [sum(i != OVERSHOOT for i in window) for window in cells]


def test_sizes_positions_and_counts_on_a_grid():
    for a in GRID:
        check_sizes(a)
        check_positions(a)
        check_counts(a)


@wide
@given(any_axis())
def test_sizes_positions_and_counts(a):
    check_sizes(a)
    check_positions(a)
    check_counts(a)


def test_grid_holds_every_kind_of_axis():
    assert any(a.low > a.span for a in GRID)
    assert any(a.low < 0 < a.output for a in GRID)
    assert any(a.leftover and a.output for a in GRID)
    assert any(a.size and not a.output for a in GRID)
    assert any(not a.size and a.output for a in GRID)


# ---- the backward correlations --------------------------------------------------------------------------------------


def insert_zeros(values: list[int], stride: int) -> list[int]:
    spread = [v for value in values for v in (value, *[0] * (stride - 1))]
    return spread[: len(spread) - (stride - 1)] if values else []


def correlate(values: list[int], kernel: list[int], a: Axis) -> list[int]:
    """The correlation that an axis describes, over plain lists."""
    assert (a.size, a.window) == (len(values), len(kernel))
    return [sum(values[i] * v for i, v in zip(cells, kernel, strict=True) if i >= 0) for cells in windows_of(a)]


def gradients(x: list[int], w: list[int], dy: list[int], a: Axis) -> tuple[list[int], list[int]]:
    """(dx, dw) of y[o] = sum x[i] w[k], every term given back."""
    dx, dw = [0] * a.size, [0] * a.window
    for o, cells in enumerate(windows_of(a)):
        for k, i in enumerate(cells):
            if i >= 0:
                dx[i] += dy[o] * w[k]
                dw[k] += dy[o] * x[i]
    return dx, dw


def check_gradients(a: Axis) -> None:
    rng = np.random.default_rng(a.size * 31 + a.window)
    x, w, dy = (rng.integers(1, 100, n).tolist() for n in (a.size, a.window, len(windows_of(a))))
    dx, dw = gradients(x, w, dy, a)
    inserted = insert_zeros(dy, a.stride)
    assert len(inserted) == geometry.inserted_size(len(dy), a.stride)
    assert correlate(inserted, w[::-1], a.input_gradient()) == dx
    if dy:
        assert correlate(x, dy, a.weight_gradient()) == dw


def test_gradients_are_correlations_on_a_grid():
    """Zero insertion, padding and the rotated kernel give dx; the dilated cotangent as kernel gives dw (Notes)."""
    for a in GRID:
        check_gradients(a)


@wide
@given(any_axis())
def test_gradients_are_correlations(a):
    check_gradients(a)


def check_crop(size: int, stride: int, low: int, high: int) -> None:
    """Cropping entries and then padding is padding by a negative number."""
    entries = list(range(1, size + 1))
    inserted = insert_zeros(entries, stride)
    row = [0] * max(low, 0) + inserted + [0] * max(high, 0)
    want = row[max(-low, 0) : len(row) - max(-high, 0)]
    kept, new_low, new_high = geometry.crop_instead_of_negative(size, stride, low, high)
    assert min(new_low, new_high) >= 0
    if entries[kept]:
        assert [0] * new_low + insert_zeros(entries[kept], stride) + [0] * new_high == want
    else:
        assert not any(want)


def test_crop_instead_of_negative_on_a_grid():
    for size, stride, low, high in product(range(1, 6), range(1, 4), range(-6, 4), range(-6, 4)):
        if low + high + geometry.inserted_size(size, stride) >= 0:
            check_crop(size, stride, low, high)


@wide
@given(st.integers(1, 30), st.integers(1, 9), st.integers(-40, 20), st.integers(-40, 20))
def test_crop_instead_of_negative(size, stride, low, high):
    check_crop(size, stride, low, max(high, -low - geometry.inserted_size(size, stride)))


# ---- paddings by name -----------------------------------------------------------------------------------------------

SIZES_AND_WINDOWS = [Axis(n, k, s, d) for n, k, s, d in product(range(1, 12), range(1, 6), range(1, 5), (1, 2, 3))]


def outputs_with(a: Axis, low: int, high: int) -> int:
    return len(slide(padded_row(a.size, low, high), a.window, a.stride, a.dilation))


@pytest.mark.parametrize("name", ["SAME", "SAME_LOWER"])
def test_same_gives_the_ceiling_with_the_least_padding(name):
    for a in SIZES_AND_WINDOWS:
        low, high = named_padding(name, a.size, a.span, a.stride)
        assert outputs_with(a, low, high) == math.ceil(a.size / a.stride)
        assert (high - low if name == "SAME" else low - high) in (0, 1)
        if low + high:
            assert outputs_with(a, low, high - 1) < math.ceil(a.size / a.stride)
        assert [(low, high)] == lax.padtype_to_pads((a.size,), (a.span,), (a.stride,), name)


def test_input_size_keeps_the_size_at_every_stride():
    """The *same* of Notes; what is odd goes to the high end, and no cell is left over."""
    for a in SIZES_AND_WINDOWS:
        low, high = named_padding("INPUT_SIZE", a.size, a.span, a.stride)
        assert outputs_with(a, low, high) == a.size
        assert high - low in (0, 1)
        assert Axis(a.size, a.window, a.stride, a.dilation, low, high).leftover == 0


def test_full_meets_the_input_in_every_way():
    """With stride 1 each window touches the input's range; one cell more on a side would add one that does not."""
    for a in (a for a in SIZES_AND_WINDOWS if a.stride == 1):
        low, high = named_padding("FULL", a.size, a.span, 1)
        starts = [o - low for o in range(outputs_with(a, low, high))]
        touching = [s for s in range(-50, 50) if s + a.span > 0 and s < a.size]
        assert starts == touching


def test_valid_is_none_and_names_ignore_case():
    assert named_padding("VALID", 5, 3, 2) == (0, 0)
    assert named_padding("same", 5, 3, 1) == named_padding("SAME", 5, 3, 1) == (1, 1)


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="'REFLECT'"):
        named_padding("REFLECT", 5, 3, 1)


# ---- ceil mode and adaptive windows ---------------------------------------------------------------------------------


def with_overshoot(a: Axis) -> Axis:
    return Axis(a.size, a.window, a.stride, a.dilation, a.low, a.high, geometry.ceil_overshoot(a))


def test_overshoot_adds_the_window_that_starts_before_the_input_ends():
    """Brute force over whole extra windows: as many as hold a leftover cell and start in the input or low padding."""
    for a in (a for a in GRID if a.low >= 0 and a.high >= 0):
        row, row_before_high = padded_row(a.size, a.low, a.high), a.low + a.size
        starts = [s for s in range(0, len(row) + 1, a.stride) if s + a.span <= len(row)]
        following = starts[-1] + a.stride if starts else 0
        reached = starts[-1] + a.span if starts else 0
        one_more = following + a.span - len(row) < a.stride and reached < len(row) and following < row_before_high
        b = with_overshoot(a)
        assert b.output == len(starts) + (1 if one_more else 0), a
        check_positions(b)
        check_counts(b)


def test_ceil_mode_has_torchs_output_sizes():
    needs("oracles", "torch")
    import torch

    compared = 0
    for n, k, s, d, p in product(range(1, 10), range(1, 5), range(1, 5), (1, 2), range(3)):
        if 2 * p > k:
            continue  # Torch refuses it
        a = with_overshoot(Axis(n, k, s, d, p, p))
        if a.output:
            y = torch.nn.functional.max_pool1d(torch.zeros(1, 1, n), k, s, p, d, ceil_mode=True)
            assert a.output == y.shape[-1], a
            compared += 1
        else:
            with pytest.raises(RuntimeError):
                torch.nn.functional.max_pool1d(torch.zeros(1, 1, n), k, s, p, d, ceil_mode=True)
    assert compared > 400


@pytest.mark.parametrize("include_pad", [True, False])
@pytest.mark.parametrize("ceil_mode", [True, False])
def test_counts_are_torchs_divisors(include_pad, ceil_mode):
    """The average of a map of ones is the share of the counted cells that hold input."""
    needs("oracles", "torch")
    import torch

    for n, k, s, p in product(range(1, 10), range(1, 5), range(1, 5), range(3)):
        a = Axis(n, k, s, 1, p, p)
        a = with_overshoot(a) if ceil_mode else a
        if 2 * p <= k and a.output:
            y = torch.nn.functional.avg_pool1d(
                torch.ones(1, 1, n, dtype=torch.float64), k, s, p, ceil_mode, include_pad
            )
            shares = a.valid().sum(axis=1) / a.counts(include_pad)
            np.testing.assert_array_equal(y[0, 0].numpy(), shares, err_msg=str(a))


def adaptive_windows(size: int, output: int) -> list[list[int]]:
    return [list(range(o * size // output, math.ceil((o + 1) * size / output))) for o in range(output)]


def members(a: geometry.AnyAxis) -> list[list[int]]:
    return [
        [int(i) for i, ok in zip(cells, valid, strict=True) if ok]
        for cells, valid in zip(a.positions(), a.valid(), strict=True)
    ]


ADAPTIVE = list(product(range(1, 14), range(1, 14)))


def test_adaptive_windows_follow_their_formula():
    for size, output in ADAPTIVE:
        want = adaptive_windows(size, output)
        for a in (AdaptiveAxis(size, output), geometry.adaptive_axis(size, output)):
            assert (a.size, a.output) == (size, output)
            assert members(a) == want
            assert a.counts(include_pad=True).tolist() == a.counts(include_pad=False).tolist() == list(map(len, want))
            assert a.window == max(map(len, want))
        assert isinstance(geometry.adaptive_axis(size, output), Axis) == (size % output == 0)


def test_adaptive_windows_are_torchs():
    """The mean of each unit map shows in which windows its cell lies."""
    needs("oracles", "torch")
    import torch

    for size, output in ADAPTIVE:
        y = torch.nn.functional.adaptive_avg_pool1d(torch.eye(size)[None], output)[0].numpy()
        assert members(AdaptiveAxis(size, output)) == [np.nonzero(y[:, o])[0].tolist() for o in range(output)]


# ---- several axes ---------------------------------------------------------------------------------------------------

MIXED = [
    (Axis(5, 2, 2),),
    (Axis(3, 2), Axis(4, 2)),
    (Axis(4, 3, 2, 1, 2, 1), Axis(3, 2, 1, 2, -1, 3)),
    (Axis(3, 2, 1, 1, 3, 0), AdaptiveAxis(5, 3)),
    (Axis(3, 2), Axis(2, 1, 1, 1, 1, 0), Axis(4, 2, 3, 1, 0, 1)),
    (Axis(2, 3), Axis(3, 2)),  # no output
]


def cells_of(shape: tuple[int, ...], order: str) -> list[tuple[int, ...]]:
    return list(product(*map(range, shape))) if order == "row_major" else list(column_major(shape))


@pytest.mark.parametrize("order", ["row_major", "column_major"])
@pytest.mark.parametrize("axes", MIXED)
def test_flat_table_is_the_map_of_cells(axes, order):
    """Rows, columns and positions counted in one order: enumerated and looked up instead of computed."""
    number = {cell: n for n, cell in enumerate(cells_of(geometry.sizes(axes), order))}
    expected = [
        [
            number[tuple(int(a.positions()[o_, k_]) for a, o_, k_ in zip(axes, o, k, strict=True))]
            if all(a.valid()[o_, k_] for a, o_, k_ in zip(axes, o, k, strict=True))
            else OUTSIDE
            for k in cells_of(geometry.windows(axes), order)
        ]
        for o in cells_of(geometry.outputs(axes), order)
    ]
    table = geometry.flat_table(axes, order)
    assert table.dtype == np.int32
    np.testing.assert_array_equal(table, np.array(expected, int).reshape(table.shape))
    assert table.shape == (math.prod(geometry.outputs(axes)), math.prod(geometry.windows(axes)))


@pytest.mark.parametrize("order", ["row_major", "column_major"])
@pytest.mark.parametrize("axes", MIXED)
def test_taps_count_offsets_row_major_in_either_order(axes, order):
    window = geometry.windows(axes)
    row_major = list(product(*map(range, window)))
    assert list(geometry.taps(axes, order)) == [(row_major.index(k), k) for k in cells_of(window, order)]


@pytest.mark.parametrize("include_pad", [True, False])
@pytest.mark.parametrize("axes", MIXED)
def test_window_counts_multiply(axes, include_pad):
    counts = geometry.window_counts(axes, include_pad)
    assert counts.shape == geometry.outputs(axes)
    for o in product(*map(range, geometry.outputs(axes))):
        assert counts[o] == math.prod(int(a.counts(include_pad)[i]) for a, i in zip(axes, o, strict=True))


def test_window_axes_take_one_value_or_one_per_axis():
    assert geometry.window_axes((5, 6), (2, 3), 2, 1, (1, 2)) == (Axis(5, 2, 2, 1, 1, 1), Axis(6, 3, 2, 2, 1, 1))
    assert geometry.window_axes((5,), (3,), (2,), "INPUT_SIZE") == (Axis(5, 3, 2, 1, 3, 3),)


def test_runs_meet_the_cells_of_the_whole_axis():
    """The positions of the runs, one after the other, are those of the axis; the inner ones meet no padding."""
    for a in GRID:
        if not a.output or a.size + min(a.low, 0) + min(a.high, 0) < 1:
            continue
        found = [np.where(run.valid(), run.positions() + cells.start, OUTSIDE) for cells, run in runs(a)]
        np.testing.assert_array_equal(np.concatenate(found), np.where(a.valid(), a.positions(), OUTSIDE))
        assert sum(run.valid().all() for _, run in runs(a)) == a.valid().all(axis=1).any()
