"""Winograd's minimal filtering: m outputs of an r-element kernel by m + r - 1 products instead of m r.

The transforms are those of polynomial multiplication, turned over.  With n = m + r - 1 points a_i, the last of them
infinity, and E_k the evaluation of a polynomial of k coefficients at them (at infinity: its last coefficient), the
product of u (m coefficients) and w (r coefficients) is interpolated from its values:

    u * w = E_n^-1 [(E_r w) . (E_m u)]                                                       Toom and Cook

For a fixed w that is a matrix times u; its transpose correlates n inputs with w, since (T^T x)_i = sum_k w_k x_{i+k}:

    y = A^T [(G w) . (B^T x)],     A = E_m,   G = E_r,   B^T = E_n^-T                        Winograd

Row i of B^T may be multiplied by f_i = prod_{j != i} (a_i - a_j), and row i of G divided by it.  In several dimensions
every axis has its own transforms.  Products over channels are matrix products, one for each of the points, and the
two gradients are the adjoints in x and in w:

    dx: the forward map of the rotated kernel, Notes 2.3          dw = G^T [sum over tiles (B^T x) (A dy)]

Any geometry is brought to stride 1 and windows of at most 3 elements first, see `unit_stride`.  With m = 2 the
points are 0, 1, -1: A and B only add, G halves, whole numbers stay exact, and errors are those of a plain sum or
less.  With m = 4 the customary 0, 1, -1, 2, -2 cost a factor of ten; points that are each other's reciprocals,
+-2/3 and +-3/2, keep powers and differences near 1 and cost a factor of two.  A NaN or an infinity spreads over its
tile.

N images, g groups of c input and d output channels each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from fnconv.chunks import map_batch, sum_batch
from fnconv.geometry import Axis, outputs, volume
from fnconv.linear import accumulator, interleave, pad, rot180
from fnconv.rules.conv import unit_stride
from fnconv.rules.conv.products import Product, by_cotangent, by_kernel, by_kernel_transposed
from fnconv.spec import ConvSpec

LONGEST = 3
POINTS = {  # finite ones, by the outputs of a tile; all of them where a window has LONGEST elements
    1: ("0", "1"),
    2: ("0", "1", "-1"),
    4: ("0", "2/3", "-2/3", "3/2", "-3/2"),
}
Parts = npt.NDArray[Any]  # arrays (N, *tiles, C), by their place in a tile


@dataclass(frozen=True)
class Transforms:
    """Of one axis: A^T (m, n), G (n, r), B^T (n, n), exact."""

    at: npt.NDArray[Any]
    g: npt.NDArray[Any]
    bt: npt.NDArray[Any]


@cache
def transforms(m: int, r: int) -> Transforms:
    """A^T, G and B^T for m outputs and r kernel elements.

    >>> t = transforms(2, 3)
    >>> t.bt.astype(int).tolist()
    [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]
    >>> [[str(f) for f in row] for row in t.g]
    [['-1', '0', '0'], ['1/2', '1/2', '1/2'], ['1/2', '-1/2', '1/2'], ['0', '0', '1']]
    >>> t.at.astype(int).tolist()
    [[1, 1, 1, 0], [0, 1, -1, 1]]
    """
    n = m + r - 1
    points = [Fraction(p) for p in POINTS[m][: n - 1]]
    f = [math.prod((a - b for b in points if b != a), start=Fraction(1)) for a in points]
    scale = np.array([*f, Fraction(1)], object)[:, None]
    values = _inverse(_evaluation(points, n))
    return Transforms(_evaluation(points, m).T, _evaluation(points, r) / scale, values.T * scale)


@cache
def growth(m: int) -> float:
    """How much larger the numbers are that are added up along an axis than the products they make, at most.

    The largest row sum of |A^T| |G| |B^T| over outputs, and of |G^T| |B^T| |A| over kernel elements.
    """
    found = []
    for r in range(2, LONGEST + 1):
        t = transforms(m, r)
        at, g, bt = (abs(matrix).astype(np.float64) for matrix in (t.at, t.g, t.bt))
        products = bt.sum(axis=1)
        found += [(at @ (g.sum(axis=1) * products)).max(), (g.T @ (at.sum(axis=0) * products)).max()]
    return float(max(found))


def _evaluation(points: Sequence[Fraction], coefficients: int) -> npt.NDArray[Any]:
    """E_k: powers of the points, and the last coefficient; (n, k)."""
    finite = [[p**i for i in range(coefficients)] for p in points]
    return np.array([*finite, [Fraction(i == coefficients - 1) for i in range(coefficients)]], object)


def _inverse(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """By Gauss and Jordan, exactly."""
    n = len(matrix)
    rows = np.concatenate([matrix, np.array([[Fraction(i == j) for j in range(n)] for i in range(n)], object)], axis=1)
    for i in range(n):
        pivot = next(j for j in range(i, n) if rows[j, i] != 0)
        rows[[i, pivot]] = rows[[pivot, i]]
        rows[i] = rows[i] / rows[i, i]
        for j in range(n):
            if j != i:
                rows[j] = rows[j] - rows[j, i] * rows[i]
    return rows[:, n:]


# ---- the three maps -------------------------------------------------------------------------------------------------


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array, *, m: int = 2) -> jax.Array:
    """y = A^T [(G w) . (B^T x)], tile by tile."""

    def inner(inner: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
        return _correlate(inner, x, w, m, by_kernel)

    return unit_stride.rewrite(spec, LONGEST).forward(inner, x, w)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array, *, m: int = 2) -> jax.Array:
    """The forward map of the rotated kernel: at stride 1 dx is one more correlation, Notes 2.3."""

    def inner(inner: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
        axes = tuple(a.input_gradient() for a in inner.axes)
        return _correlate(replace(inner, axes=axes), dy, rot180(w), m, by_kernel_transposed)

    return unit_stride.rewrite(spec, LONGEST).input_vjp(inner, dy, w)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array, *, m: int = 2) -> jax.Array:
    """dw = G^T [sum over tiles (B^T x) (A dy)], the adjoint of the forward map in w."""

    def inner(inner: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
        tiles = Tiles(inner, m)
        size = tiles.bytes(x.shape[0] * (inner.in_channels + inner.out_channels), x.dtype)
        products = sum_batch(tiles.products, size, x, dy)
        return tiles.of_kernel(products).astype(x.dtype)

    return unit_stride.rewrite(spec, LONGEST).weight_vjp(inner, x, dy)


def _correlate(spec: ConvSpec, x: jax.Array, w: jax.Array, m: int, product: Product) -> jax.Array:
    tiles = Tiles(spec, m)
    kernels = tiles.kernels(w)
    size = tiles.bytes(x.shape[0] * (spec.in_channels + spec.out_channels), x.dtype)
    return map_batch(lambda x: tiles.correlate(x, kernels, product), size, x)


class Tiles:
    """The transforms of one convolution of stride 1, axis by axis.

    What is transformed is computed into separate arrays, one for each point: right into a common one XLA would write
    entry by entry.
    """

    def __init__(self, spec: ConvSpec, m: int) -> None:
        self.spec = spec
        self.m = tuple(1 if a.window == 1 else m for a in spec.axes)
        self.n = tuple(k + a.window - 1 for k, a in zip(self.m, spec.axes, strict=True))
        self.transforms = [transforms(k, a.window) for k, a in zip(self.m, spec.axes, strict=True)]
        self.tiles = tuple(-(-a.output // k) for k, a in zip(self.m, spec.axes, strict=True))
        extra = [t * k - a.output for t, k, a in zip(self.tiles, self.m, spec.axes, strict=True)]
        self.axes = tuple(replace(a, high=a.high + e) for a, e in zip(spec.axes, extra, strict=True))
        self.of_output = tuple(Axis(a.output, 1, high=e) for a, e in zip(spec.axes, extra, strict=True))

    def bytes(self, maps: int, dtype: jnp.dtype) -> int:
        """Of so many feature maps, transformed."""
        return maps * volume(self.tiles) * volume(self.n) * accumulator(dtype).itemsize

    def correlate(self, x: jax.Array, kernels: Parts, product: Product) -> jax.Array:
        """A^T [kernels . (B^T x)]: (N, *S, C) -> (N, *O, D)."""
        products = _elementwise(partial(product, self.spec), self.inputs(x), kernels)
        y = _apply([t.at for t in self.transforms], products)
        woven = interleave(lax.optimization_barrier(list(y.flat)), self.m, outputs(self.spec.axes))
        return woven.astype(x.dtype)

    def products(self, x: jax.Array, dy: jax.Array) -> jax.Array:
        """The sum over tiles of (B^T x) (A dy) at each of the points: (P, c, g d)."""
        v, q = (jnp.stack(list(a.flat)) for a in (self.inputs(x), self.cotangents(dy)))
        return jax.vmap(partial(by_cotangent, self.spec))(v, q)

    def inputs(self, x: jax.Array) -> Parts:
        """B^T x of every tile: (N, *S, C) -> (N, *tiles, C) at each of the points."""
        xp = pad(x.astype(accumulator(x.dtype)), self.axes)
        return _apart(_apply([t.bt for t in self.transforms], self._slices(xp, self.n)))

    def cotangents(self, dy: jax.Array) -> Parts:
        """A dy of every tile, the adjoint of A^T: (N, *O, D) -> (N, *tiles, D) at each of the points."""
        padded = pad(dy.astype(accumulator(dy.dtype)), self.of_output)
        return _apart(_apply([t.at.T for t in self.transforms], self._slices(padded, self.m)))

    def kernels(self, w: jax.Array) -> Parts:
        """G w: (*K, c, g d) -> (c, g d) at each of the points."""
        wide = w.astype(accumulator(w.dtype))
        return _apart(_apply([t.g for t in self.transforms], _parts(w.shape[:-2], lambda k: wide[k])))

    def of_kernel(self, products: jax.Array) -> jax.Array:
        """G^T, the adjoint of `kernels`."""
        dw = _apply([t.g.T for t in self.transforms], _arranged(self.n, list(products)))
        return jnp.stack(list(dw.flat)).reshape(self.spec.w_shape)

    def _slices(self, xp: jax.Array, size: tuple[int, ...]) -> Parts:
        """The cells at every place of a tile: tiles start m cells apart."""

        def cells(place: tuple[int, ...]) -> jax.Array:
            stop = [i + (t - 1) * k + 1 for i, t, k in zip(place, self.tiles, self.m, strict=True)]
            return lax.slice(xp, (0, *place, 0), (xp.shape[0], *stop, xp.shape[-1]), (1, *self.m, 1))

        return _parts(size, cells)


# ---- arrays by their place in a tile --------------------------------------------------------------------------------


def _parts(shape: Sequence[int], part: Callable[[tuple[int, ...]], jax.Array]) -> Parts:
    parts = np.empty(tuple(shape), object)
    for place in np.ndindex(parts.shape):
        parts[place] = part(place)
    return parts


def _elementwise(f: Callable[..., jax.Array], a: Parts, b: Parts) -> Parts:
    return _parts(a.shape, lambda place: f(a[place], b[place]))


def _apart(parts: Parts) -> Parts:
    """Written once, and not computed again by everything that reads them."""
    return _arranged(parts.shape, lax.optimization_barrier(list(parts.flat)))


def _arranged(shape: tuple[int, ...], arrays: Sequence[jax.Array]) -> Parts:
    """Row-major."""
    return _parts(shape, lambda place: arrays[int(np.ravel_multi_index(place, shape))])


def _apply(matrices: Sequence[npt.NDArray[Any]], parts: Parts) -> Parts:
    """One matrix for each axis of places: sums of a few arrays with small factors."""
    for axis, matrix in enumerate(matrices):
        columns = np.moveaxis(parts, axis, 0)
        rows = np.empty((len(matrix), *columns.shape[1:]), object)
        for i, *rest in np.ndindex(rows.shape):
            rows[(i, *rest)] = _combination(list(matrix[i]), list(columns[(slice(None), *rest)]))
        parts = np.moveaxis(rows, 0, axis)
    return parts


def _combination(factors: Sequence[Fraction], arrays: Sequence[jax.Array]) -> jax.Array:
    """The sum of factors times arrays, of which at least one counts."""
    terms = [(f, a) for f, a in zip(factors, arrays, strict=True) if f != 0]
    return reduce(lax.add, (a if f == 1 else -a if f == -1 else a * np.asarray(float(f), a.dtype) for f, a in terms))
