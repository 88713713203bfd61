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
less.  With m = 4 the customary 0, 1, -1, 2, -2 make errors up to eight times those of autodiff's sums; points that
are each other's reciprocals, +-2/3 and +-3/2, keep powers and differences near 1 and make a quarter of that.  A NaN
or an infinity spreads over its tile.

N images, g groups of c input and d output channels each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from fnconv.base.chunks import map_batch, sum_batch
from fnconv.base.dtypes import to_accumulator
from fnconv.base.geometry import Axis, outputs, volume
from fnconv.base.lowering import interleave
from fnconv.base.pairs import pad, rot180
from fnconv.base.spec import ConvSpec
from fnconv.rules.conv import unit_stride
from fnconv.rules.conv.products import Product, by_cotangent, by_kernel, by_kernel_transposed

LONGEST = 3
POINTS = {  # finite ones, by the outputs of a tile; all of them where a window has LONGEST elements
    1: ("0", "1"),
    2: ("0", "1", "-1"),
    4: ("0", "2/3", "-2/3", "3/2", "-3/2"),
}
Matrix = npt.NDArray[Any]  # of fractions


@dataclass(frozen=True)
class Transforms:
    """A^T (m, n), G (n, r) and B^T (n, n) of one axis, as fractions."""

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
    """An upper bound: along one axis, the sums reach at most this many times the products that they make.

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


GROWTH = growth(2)
DIVIDES = True


def spreads(spec: ConvSpec, map_: str) -> bool:
    return True


# ---- the three maps -------------------------------------------------------------------------------------------------


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array, *, m: int = 2) -> jax.Array:
    """y = A^T [(G w) . (B^T x)], tile by tile."""

    def inner(inner: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
        return _correlate(inner, x, w, m, by_kernel)

    return unit_stride.rewrite(spec, LONGEST).forward(inner, to_accumulator(x), to_accumulator(w)).astype(x.dtype)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array, *, m: int = 2) -> jax.Array:
    """The forward map of the rotated kernel: at stride 1 dx is one more correlation, Notes 2.3."""

    def inner(inner: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
        axes = tuple(a.input_gradient() for a in inner.axes)
        return _correlate(replace(inner, axes=axes), dy, rot180(w), m, by_kernel_transposed)

    return unit_stride.rewrite(spec, LONGEST).input_vjp(inner, to_accumulator(dy), to_accumulator(w)).astype(dy.dtype)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array, *, m: int = 2) -> jax.Array:
    """dw = G^T [sum over tiles (B^T x) (A dy)], the adjoint of the forward map in w."""

    def inner(inner: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
        tiles = Tiles(inner, m)
        size = tiles.bytes(x.shape[0] * (inner.in_channels + inner.out_channels), x.dtype)
        return tiles.of_kernel(sum_batch(tiles.products, size, x, dy))

    return unit_stride.rewrite(spec, LONGEST).weight_vjp(inner, to_accumulator(x), to_accumulator(dy)).astype(x.dtype)


def _correlate(spec: ConvSpec, x: jax.Array, w: jax.Array, m: int, product: Product) -> jax.Array:
    tiles = Tiles(spec, m)
    kernels = tiles.kernel(w)
    size = tiles.bytes(x.shape[0] * (spec.in_channels + spec.out_channels), x.dtype)
    return map_batch(lambda x: tiles.correlate(x, kernels, product), size, x)


class Tiles:
    """The transforms of one convolution of stride 1, one axis after another.

    Points of all axes but the last are leading axes of an array; those of the last axis are separate arrays, which
    XLA computes row by row.  Right into a common array it would write entry by entry, and one array for each point
    of all axes would be many small programs to compile.
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
        """The size of that many transformed feature maps."""
        return maps * volume(self.tiles) * volume(self.n) * dtype.itemsize

    def correlate(self, x: jax.Array, kernels: jax.Array, product: Product) -> jax.Array:
        """A^T [kernels . (B^T x)]: (N, *S, C) -> (N, *O, D)."""
        by_points = jax.vmap(partial(product, self.spec))
        products = [by_points(v, kernels[q]) for q, v in enumerate(self.inputs(x))]
        return interleave(self._outputs(products), self.m, outputs(self.spec.axes))

    def products(self, x: jax.Array, dy: jax.Array) -> jax.Array:
        """The sum over tiles of (B^T x) (A dy) at each of the points: (n, points, c, g d)."""
        v, q = (jnp.stack(arrays) for arrays in (self.inputs(x), self.cotangents(dy)))
        return jax.vmap(jax.vmap(partial(by_cotangent, self.spec)))(v, q)

    def inputs(self, x: jax.Array) -> list[jax.Array]:
        """B^T x of every tile, for each of the last axis's points: (N, *S, C) -> (points, N, *tiles, C)."""
        return self._points(pad(x, self.axes), self.n, [t.bt for t in self.transforms])

    def cotangents(self, dy: jax.Array) -> list[jax.Array]:
        """A dy of every tile, the adjoint of A^T: (N, *O, D) -> (points, N, *tiles, D)."""
        return self._points(pad(dy, self.of_output), self.m, [t.at.T for t in self.transforms])

    def kernel(self, w: jax.Array) -> jax.Array:
        """G w: (*K, c, g d) -> (n of the last axis, points of the others, c, g d)."""
        for i, t in enumerate(self.transforms):
            # (*n, K_i, ..) -> (n_i, *n, ..): the last axis's points come to lie first, as those of the tiles do
            w = _combined(t.g, w, i, 0)
        return w.reshape(self.n[-1], -1, *w.shape[-2:])

    def of_kernel(self, products: jax.Array) -> jax.Array:
        """G^T, the adjoint of `kernel`."""
        u = products.reshape(*reversed(self.n), *products.shape[-2:])
        for i, t in reversed(list(enumerate(self.transforms))):
            u = _combined(t.g.T, u, 0, i)
        return u

    def _points(self, xp: jax.Array, places: Sequence[int], matrices: Sequence[Matrix]) -> list[jax.Array]:
        """Each axis's cells at all places of its tiles, m cells apart, combined by its matrix."""
        stacked = xp[None]  # (points, N, *cells, C), the batch an axis of its own
        for i, matrix in enumerate(matrices):
            stop, m = (self.tiles[i] - 1) * self.m[i] + 1, self.m[i]
            cells = [lax.slice_in_dim(stacked, p, p + stop, m, axis=2 + i) for p in range(places[i])]
            rows: list[jax.Array] = lax.optimization_barrier([_combination(row, cells) for row in matrix])
            if i < len(matrices) - 1:
                stacked = jnp.stack(rows).reshape(-1, *xp.shape[:1], *rows[0].shape[2:])
        return rows

    def _outputs(self, products: Sequence[jax.Array]) -> list[jax.Array]:
        """A^T of (points, N, *tiles, D), one for each of the last axis's points: (N, *tiles, D) by place, row-major."""
        groups = [list(products)]  # by the places of the axes done: arrays by the points of the next axis
        for i in reversed(range(len(self.n))):
            at = self.transforms[i].at
            places = lax.optimization_barrier([_combination(row, arrays) for row in at for arrays in groups])
            points = self.n[i - 1] if i else 1
            groups = [list(array.reshape(points, -1, *array.shape[1:])) for array in places]
        return [array[0] for (array,) in groups]


def _combined(matrix: Matrix, w: jax.Array, axis: int, to: int) -> jax.Array:
    """The matrix applied along an axis, which comes to lie elsewhere."""
    cells = [lax.index_in_dim(w, k, axis, keepdims=False) for k in range(w.shape[axis])]
    return jnp.stack(lax.optimization_barrier([_combination(row, cells) for row in matrix]), axis=to)


def _combination(factors: Sequence[Fraction], arrays: Sequence[jax.Array]) -> jax.Array:
    """The sum of factors times arrays, of which at least one counts."""
    terms = [(f, a) for f, a in zip(factors, arrays, strict=True) if f != 0]
    return reduce(lax.add, (a if f == 1 else -a if f == -1 else a * np.asarray(float(f), a.dtype) for f, a in terms))
