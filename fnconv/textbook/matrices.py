"""The objects of Wei's derivation, literally: vec, phi, C, M, S, the dense Jacobians.

One image x of shape (D, *S) and kernels w of shape (D', D, *K), as in the text; indices from 0.  `axes` is the
geometry, e.g. `window_axes((3, 4), (2, 2))`; stride, dilation and padding generalise the text's VALID, stride 1.
The matrices are dense, for small sizes, and refuse to be built where they would not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import lowest
from fnconv.base.geometry import OUTSIDE, AnyAxis, flat_table, sizes, taps, volume, windows

MAX_ELEMENTS = 2**24


def refuse_if_large(what: str, rows: int, columns: int, instead: str) -> None:
    """Raise where a dense matrix would have more than 2**24 elements."""
    if rows * columns > MAX_ELEMENTS:
        raise ValueError(
            f"{what}: the dense matrix must have at most {MAX_ELEMENTS} elements; "
            f"got {rows} x {columns} = {rows * columns}; use {instead} instead"
        )


# ---- vec and the Kronecker product ----------------------------------------------------------------------------------


def vec(x: jax.Array, spatial: int = 2) -> jax.Array:
    """Stack columns, Wei (2.7): the last `spatial` axes column-major, the axes before them in order.

    >>> vec(jnp.array([[1, 3], [2, 4]])).tolist()
    [1, 2, 3, 4]
    """
    spatial = min(spatial, x.ndim)
    lead = tuple(range(x.ndim - spatial))
    return jnp.transpose(x, (*lead, *range(x.ndim - 1, x.ndim - spatial - 1, -1))).reshape(-1)


def unvec(v: jax.Array, shape: Sequence[int], spatial: int = 2) -> jax.Array:
    """The inverse of `vec`: the tensor of that shape whose `vec` is v."""
    spatial = min(spatial, len(shape))
    lead = tuple(range(len(shape) - spatial))
    order = (*lead, *range(len(shape) - 1, len(shape) - spatial - 1, -1))
    return jnp.transpose(v.reshape([shape[a] for a in order]), order)


def jacobian(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """d vec(f(x)) / d vec(x)^T, Wei (1.2): a row per output, which is its gradient (1.1), by the VJP of f.

    >>> jacobian(lambda x: x * x, jnp.array([[1., 3.]])).tolist()
    [[2.0, 0.0], [0.0, 6.0]]
    """
    y, pullback = jax.vjp(f, x)
    units = jnp.eye(y.size, dtype=y.dtype)
    return jax.vmap(lambda unit: vec(pullback(unvec(unit, y.shape))[0]))(units)


def kron_transposed(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both sides of (A (x) B)^T = A^T (x) B^T, Wei (2.10)."""
    return jnp.kron(a, b).T, jnp.kron(a.T, b.T)


def kron_times_vec(b: jax.Array, x: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both sides of vec(A X B) = (B^T (x) A) vec(X), Wei (2.11)."""
    return vec(a @ x @ b), jnp.kron(b.T, a) @ vec(x)


# ---- convolution ----------------------------------------------------------------------------------------------------


def index_map(axes: Sequence[AnyAxis], channels: int) -> np.ndarray:
    """m of Wei (2.14)-(2.17): entry (p, q) is the position in vec(x) that phi(x)[p, q] is taken from, or OUTSIDE.

    p counts output positions column-major, q counts (channel, window column-major).  m is a function; it is in
    general not injective (the text says it is): that is why (2.30) is a sum.
    """
    table = flat_table(axes, "column_major")
    cells = volume(sizes(axes))
    return np.concatenate([np.where(table == OUTSIDE, OUTSIDE, table + d * cells) for d in range(channels)], axis=1)


def phi(x: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """phi(x) = im2col(x)^T, Wei (2.5), (2.6): (D, *S) -> (outputs, D * window elements)."""
    m = index_map(axes, x.shape[0])
    return vec(x, len(axes)).at[np.where(m == OUTSIDE, x.size, m)].get(mode="fill", fill_value=0)


def matrix_c(w: jax.Array) -> jax.Array:
    """C of Wei (2.8): column d' is the vec of kernel d'; (D', D, *K) -> (D * window elements, D')."""
    return jnp.stack([vec(kernel, w.ndim - 2) for kernel in w], axis=1)


def matrix_m(axes: Sequence[AnyAxis], channels: int, dtype: jnp.dtype) -> jax.Array:
    """The sparse M of Wei (2.23), dense: vec(phi(x)) = M vec(x), (2.24).  A row of padding is zero."""
    m = index_map(axes, channels).T.reshape(-1)  # vec of a matrix is column-major
    columns = channels * volume(sizes(axes))
    refuse_if_large("M of Wei (2.23)", m.size, columns, 'rule="im2col"')
    return (jnp.asarray(m)[:, None] == jnp.arange(columns, dtype=jnp.int32)[None]).astype(dtype)


def forward_by_kernel(x: jax.Array, w: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """vec(y) = (I (x) phi(x)) vec(C), Wei (2.12)."""
    return jacobian_by_kernel(x, w.shape[0], axes) @ vec(matrix_c(w))


def forward_by_input(x: jax.Array, w: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """vec(y) = (C^T (x) I) vec(phi(x)), Wei (2.13)."""
    f = phi(x, axes)
    refuse_if_large("C^T (x) I of Wei (2.13)", f.shape[0] * w.shape[0], f.size, 'rule="im2col"')
    return jnp.kron(matrix_c(w).T, jnp.eye(f.shape[0], dtype=w.dtype)) @ vec(f)


def jacobian_by_kernel(x: jax.Array, kernels: int, axes: Sequence[AnyAxis]) -> jax.Array:
    """d vec(y) / d vec(w)^T = I (x) phi(x), Wei (2.19)."""
    f = phi(x, axes)
    refuse_if_large("I (x) phi(x) of Wei (2.19)", kernels * f.shape[0], kernels * f.shape[1], 'rule="im2col"')
    return jnp.kron(jnp.eye(kernels, dtype=x.dtype), f)


def jacobian_by_input(w: jax.Array, axes: Sequence[AnyAxis]) -> jax.Array:
    """d vec(y) / d vec(x)^T = (C^T (x) I) M, Wei (2.25)."""
    m = matrix_m(axes, w.shape[1], w.dtype)
    positions = m.shape[0] // (w.shape[1] * volume(windows(axes)))
    refuse_if_large("C^T (x) I of Wei (2.25)", positions * w.shape[0], m.shape[0], 'rule="im2col"')
    return jnp.kron(matrix_c(w).T, jnp.eye(positions, dtype=w.dtype)) @ m


# ---- max pooling ----------------------------------------------------------------------------------------------------


def selection_matrix(x: jax.Array, axes: Sequence[AnyAxis], ties: str = "column_major") -> jax.Array:
    """S of Wei (4.4) for one feature map x of shape S: vec(y) = S vec(x), (4.4).

    Row o holds a single 1, at the maximum of window o; of several maxima Wei takes the smallest column, then the
    smallest row.  A NaN counts as the maximum.  A window wholly in the padding gives a row of zeros.
    """
    positions = jnp.asarray(candidates(axes, ties))
    refuse_if_large("S of Wei (4.4)", positions.shape[0], x.size, 'rule="offsets"')
    v = vec(x, len(axes))
    values = v.at[jnp.where(positions == OUTSIDE, x.size, positions)].get(mode="fill", fill_value=lowest(x.dtype))
    best = jnp.take_along_axis(positions, first_maximum(values, positions != OUTSIDE)[:, None], axis=1)
    return (best == jnp.arange(x.size, dtype=jnp.int32)[None]).astype(x.dtype)


def candidates(axes: Sequence[AnyAxis], ties: str) -> np.ndarray:
    """Column-major input positions of each window in the order in which ties are resolved."""
    columns = [offset for offset, _ in taps(axes, "column_major")]  # row-major offset of column-major element
    order = np.argsort(columns) if ties == "row_major" else np.arange(len(columns))
    return flat_table(axes, "column_major")[:, order]


def first_maximum(values: jax.Array, inside: np.ndarray | jax.Array, axis: int = -1) -> jax.Array:
    """Index of the first maximum inside the input along `axis`; the first NaN, where there is one."""
    inside = jnp.broadcast_to(jnp.asarray(inside), values.shape)
    hit, nan = values == jnp.max(values, axis=axis, keepdims=True), jnp.isnan(values)
    hit = jnp.where(nan.any(axis=axis, keepdims=True), nan, hit)  # the maximum may lose NaN: XLA's on a CPU does
    return jnp.argmax(hit & inside, axis=axis)
