"""Convolution and pooling as loops over single cells, written from their definitions alone, in whole numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

PADDING, OVERSHOOT = -1, -2  # what a row of cells holds where there is no input


def padded_row(size: int, low: int = 0, high: int = 0, overshoot: int = 0) -> list[int]:
    """The input cells of one axis, written out with their padding; a negative padding removes cells."""
    row = [PADDING] * max(low, 0) + list(range(size)) + [PADDING] * max(high, 0)
    return row[max(-low, 0) : len(row) - max(-high, 0)] + [OVERSHOOT] * overshoot


def slide(row: Sequence[int], window: int, stride: int = 1, dilation: int = 1) -> list[list[int]]:
    """Move a window over a row for as long as it fits: the cells of each window."""
    found, start = [], 0
    while start + (window - 1) * dilation < len(row):
        found.append([row[start + k * dilation] for k in range(window)])
        start += stride
    return found


def meetings(
    size: Sequence[int],
    window: Sequence[int],
    stride: int = 1,
    padding: int | Sequence[tuple[int, int]] = 0,
    dilation: int = 1,
) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]]:
    """The output's shape, and every (output, window element, input cell) that meet, as index tuples."""
    pairs = [(padding, padding)] * len(size) if isinstance(padding, int) else padding
    slid = [
        slide(padded_row(n, low, high), k, stride, dilation)
        for n, k, (low, high) in zip(size, window, pairs, strict=True)
    ]
    lines = [
        [(o, k, i) for o, cells in enumerate(windows) for k, i in enumerate(cells) if i != PADDING] for windows in slid
    ]
    return tuple(map(len, slid)), [tuple(zip(*triples, strict=True)) for triples in product(*lines)]  # type: ignore[misc]


def conv(x: np.ndarray, w: np.ndarray, **geometry: object) -> np.ndarray:
    """y[d'] = sum_d x[d] * w[d', d]; x (D, *S), w (D', D, *K)."""
    shape, met = meetings(x.shape[1:], w.shape[2:], **geometry)
    y = np.zeros((w.shape[0], *shape), np.int64)
    for o, k, i in met:
        y[:, *o] += w[:, :, *k] @ x[:, *i]
    return y


def conv_input_gradient(dy: np.ndarray, w: np.ndarray, size: Sequence[int], **geometry: object) -> np.ndarray:
    """Every output gives its cotangent back along each of its terms."""
    dx = np.zeros((w.shape[1], *size), np.int64)
    for o, k, i in meetings(size, w.shape[2:], **geometry)[1]:
        dx[:, *i] += w[:, :, *k].T @ dy[:, *o]
    return dx


def conv_weight_gradient(x: np.ndarray, dy: np.ndarray, window: Sequence[int], **geometry: object) -> np.ndarray:
    dw = np.zeros((dy.shape[0], x.shape[0], *window), np.int64)
    for o, k, i in meetings(x.shape[1:], window, **geometry)[1]:
        dw[:, :, *k] += np.outer(dy[:, *o], x[:, *i])
    return dw


def winners(
    x: np.ndarray, window: Sequence[int], ties: str, **geometry: object
) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The cell of the feature map x (*S) that each window selects; windows without a cell are absent."""
    cells: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for o, _, i in meetings(x.shape, window, **geometry)[1]:
        cells.setdefault(o, []).append(i)
    order = {"row_major": lambda cell: cell, "column_major": lambda cell: cell[::-1]}[ties]
    return {o: min((c for c in met if x[c] == max(x[m] for m in met)), key=order) for o, met in cells.items()}


def max_pool(
    x: np.ndarray, dy: np.ndarray, window: Sequence[int], ties: str, **geometry: object
) -> tuple[np.ndarray, ...]:
    """(y, dx) of a feature map x (*S)."""
    y, dx = np.zeros_like(dy), np.zeros_like(x)
    for o, cell in winners(x, window, ties, **geometry).items():
        y[o] = x[cell]
        dx[cell] += dy[o]
    return y, dx


def column_major(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The cells of a map, first axis fastest."""
    return (cell[::-1] for cell in product(*(range(n) for n in reversed(shape))))


def column_vec(x: np.ndarray) -> np.ndarray:
    """vec of one map: its cells in column-major order."""
    return np.array([x[cell] for cell in column_major(x.shape)], x.dtype)


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Small whole numbers, of which float32 keeps every sum exactly."""
    return rng.integers(-4, 5, shape)


class From1:
    """A matrix read with 1-based indices, zero outside of it, as the formulas of the text sum over all a, b."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __getitem__(self, index):
        inside = all(1 <= i <= n for i, n in zip(index, self.values.shape, strict=True))
        return int(self.values[tuple(i - 1 for i in index)]) if inside else 0


def from_1(*shape):
    """The 1-based indices of a matrix of that shape."""
    return (tuple(i + 1 for i in index) for index in np.ndindex(*shape))


def fill(shape, entry):
    return np.array([entry(*index) for index in from_1(*shape)]).reshape(shape)


def value_and_slope(activation, z):
    """sigma(z) and sigma'(z), exact in float32: the sigmoid only where |z| is 0 or large, with slopes 1/4 and 0."""
    if activation == "relu":
        return np.maximum(z, 0), np.where(z > 0, 1.0, 0.0)
    return np.sign(z) / 2 + 0.5, np.where(z == 0, 0.25, 0.0)
