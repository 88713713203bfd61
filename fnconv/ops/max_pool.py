"""Max pooling: S selects one cell of every window; S^T gives its cotangent back.  Each is the other's adjoint."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.attach import AS_INPUT, LinearMap, adjoint_to_each_other, attach
from fnconv.base.errors import invalid, mistyped
from fnconv.base.geometry import ENTRIES, adaptive_axis, volume
from fnconv.base.layout import canonical, check_layout, restore, split_shape
from fnconv.base.spec import PoolSpec, as_array, check_volume, spatial_shape
from fnconv.base.typing import ArrayLike, IntOrTuple, Layout, Padding, RuleNames, Ties
from fnconv.rules import available, maps
from fnconv.rules.max_pool.segment_sum import winners

# ---- y = S vec(x), dx = S^T dy --------------------------------------------------------------------------------------


def max_pool(
    x: ArrayLike,
    window_shape: IntOrTuple,
    *,
    strides: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    ties: Ties = "row_major",
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
) -> jax.Array:
    """Maximum of each window, Wei (4.2); vec(y) = S vec(x), dx = S^T dy, Wei (4.4)-(4.6), GEMM 3, Notes 2.2.

    Only the offset of the winner in its window is kept for the gradient, one byte per output for windows of fewer
    than 128 cells.  TPUs find the winners in x again: where their compiler (libtpu) is installed, x is handed to the
    gradient as well, and the programs of other platforms leave it out when both passes are compiled as one.

    At kinks: of equal maxima the first wins alone, in the order of `ties`; a NaN wins over every number, the first
    one over later ones; the padding counts as -inf and never wins, so that cells of -inf win over it; a window wholly
    in the padding has value -inf (the smallest integer, for integers) and no gradient.

    Args:
      x: (*batch, *spatial, C), or (*batch, C, *spatial) with layout="channels_first"; floating or integer.
      window_shape: one entry per spatial axis, or an int for all of them.  With an int, an x of four axes or more has
        one batch axis, and an x of two axes none.  For three axes it is refused: write (2,) for x of shape (N, size, C)
        and (2, 2) for an image (H, W, C).
      strides: None for the window itself, an int, or one per axis.
      padding: as in `conv`.
      dilation: distance between window elements.
      ceil_mode: round the output size up, as Torch does: a last window may reach past the padding, but starts
        inside the input or the low padding.
      ties: "row_major", the first in reading order, as XLA; "column_major", the smallest column, then the smallest
        row, as Wei.
      rule: formulation, a name or {"forward": ..., "input_vjp": ...}; see `fnconv.available_rules()`.

    Returns:
      y (*batch, *output, C) in x's dtype.

    Raises:
      ValueError, TypeError: at trace time, naming the argument, the rule broken, the value and the shape.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([[.1, .2], [.3, .6]])[:, :, None]  # Notes 1
    >>> float(max_pool(x, (2, 2))[0, 0, 0]) == float(x.max())
    True
    >>> jax.grad(lambda x: max_pool(x, (2, 2)).sum())(x)[:, :, 0].tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    options = {"strides": strides, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode, "ties": ties}
    x, spec, batch = pool_arguments("max_pool", x, window_shape, layout, rule, options, integers=True)
    return restore(_max_pool(spec, canonical(x, len(spec.axes), layout)), batch, layout)


# S vec(x), Wei (4.4), of (offset, witness, x), and S^T vec(dy), Wei (4.5), of (offset, witness, dy)
select = LinearMap("select", maps.max_pool_select)
unselect = LinearMap("unselect", maps.max_pool_input_vjp)
adjoint_to_each_other(select, unselect, constants=2)

Winners = tuple[jax.Array, jax.Array]  # the offset of each window's winner, and the witness of `maps`


def select_winners(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, Winners]:
    """y, being S x to whoever differentiates it, and its winners."""
    fixed = jax.lax.stop_gradient(x)
    y, offset = maps.max_pool_forward(spec, fixed)
    won = (offset, maps.max_pool_witness(spec, offset, fixed))
    return _as_selected(spec, *won, x, y) if x.size and y.size else y, won


# y as S x, of (offset, witness, x, y): dy = S dx, for derivatives of every order; a custom_jvp would be lost in a scan
_as_selected = LinearMap("selected", lambda spec, offset, witness, x, y: y, of_tangents=select)


def _max_pool_fwd(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, Winners]:
    return select_winners(spec, x)


def _max_pool_bwd(spec: PoolSpec, won: Winners, dy: jax.Array) -> tuple[jax.Array]:
    return (unselect(spec, *won, dy),)


_max_pool = attach(maps.max_pool_value, _max_pool_fwd, _max_pool_bwd, placement=AS_INPUT)


# ---- with indices ---------------------------------------------------------------------------------------------------


def max_pool_with_indices(
    x: ArrayLike,
    window_shape: IntOrTuple,
    *,
    strides: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    ties: Ties = "row_major",
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
) -> tuple[jax.Array, jax.Array]:
    """`max_pool` and where each maximum stood: the positions that Wei (4.6) sums over.

    Returns:
      y as `max_pool`, and indices of y's shape, int32: flat row-major positions in the spatial input, as Torch's;
      -1 where a window lies wholly in the padding.  Indices carry no derivative.

    >>> import jax.numpy as jnp
    >>> y, indices = max_pool_with_indices(jnp.array([[1., 5.], [7., 2.]])[:, :, None], (2, 2))
    >>> y.item(), indices.item()
    (7.0, 2)
    """
    options = {"strides": strides, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode, "ties": ties}
    x, spec, batch = pool_arguments("max_pool_with_indices", x, window_shape, layout, rule, options, integers=True)
    y, indices = _with_indices(spec, canonical(x, len(spec.axes), layout))
    return restore(y, batch, layout), restore(indices, batch, layout)


def _with_indices_primal(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y, offset = maps.max_pool_forward(spec, x)
    return y, _indices(spec, offset)


def _with_indices_fwd(spec: PoolSpec, x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Winners]:
    y, won = select_winners(spec, x)
    return (y, _indices(spec, won[0])), won


def _with_indices_bwd(spec: PoolSpec, won: Winners, cotangents: tuple[jax.Array, Any]) -> tuple[jax.Array]:
    return (unselect(spec, *won, cotangents[0]),)


def _indices(spec: PoolSpec, offset: jax.Array) -> jax.Array:
    if offset.size == 0 or volume(spec.size) == 0:
        return jnp.full(offset.shape, -1, jnp.int32)
    return jnp.where(offset < 0, -1, winners(spec, offset).reshape(offset.shape))


_with_indices = attach(_with_indices_primal, _with_indices_fwd, _with_indices_bwd, placement=AS_INPUT)


# ---- unpooling ------------------------------------------------------------------------------------------------------


def max_unpool(
    y: ArrayLike, indices: ArrayLike, output_shape: IntOrTuple, *, layout: Layout = "channels_last"
) -> jax.Array:
    """Put every y at its index in a map of zeros: vec(x) = S^T vec(y), Wei (4.5), the upsampling of Notes 2.2.

    Where several y share an index, the last in row-major order stays, alone: unpooling what overlapping windows
    pooled returns the maxima, not multiples of them.  The gradient is the cotangent at the index of those that
    stayed, and 0 for the others.  Indices outside the map are dropped.

    Args:
      y: (*batch, *spatial, C) or (*batch, C, *spatial).
      indices: integers of y's shape, as from `max_pool_with_indices`.
      output_shape: spatial shape of the result, one entry per spatial axis, or an int as the window of `max_pool`.

    Returns:
      (*batch, *output_shape, C) or (*batch, C, *output_shape) in y's dtype.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax.numpy as jnp
    >>> max_unpool(jnp.array([[[7.]]]), jnp.array([[[2]]]), (2, 2))[:, :, 0].tolist()
    [[0.0, 0.0], [7.0, 0.0]]
    """
    name = "max_unpool"
    check_layout(name, layout)
    y = as_array(name, "y", y)
    indices = as_array(name, "indices", indices, clip=True)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise mistyped(name, "indices", "must be integers", indices.dtype.name)
    if indices.shape != y.shape:
        raise invalid(name, "indices", f"must have y's shape {y.shape}", indices.shape)
    output = spatial_shape(name, "output_shape", output_shape, y.shape, minimum=0, of="y")
    batch, _, _ = split_shape(y.shape, len(output), layout)
    numbers = np.iinfo(indices.dtype)
    if numbers.max > np.iinfo(np.int32).max:  # what int32 would wrap lies outside the map
        indices = jnp.clip(indices, max(numbers.min, -1), np.iinfo(np.int32).max)
    indices = indices.astype(jnp.int32)  # int8 could not name the cells beyond 127
    x = unpool.attached(output, canonical(indices, len(output), layout), canonical(y, len(output), layout))
    return restore(x, batch, layout)


def _last_writer(output: tuple[int, ...], indices: jax.Array) -> jax.Array:
    """For every cell the number of the last y that is put there, -1 for none: (N, cells, C)."""
    n, c, cells = indices.shape[0], indices.shape[-1], volume(output)
    flat = indices.reshape(n, -1, c)
    numbers = jnp.arange(flat.shape[1], dtype=jnp.int32)
    flat = jnp.where((flat < 0) | (flat >= cells), cells, flat)

    def feature_map(positions: jax.Array) -> jax.Array:
        return jax.ops.segment_max(numbers, positions, num_segments=cells)

    last = jax.vmap(jax.vmap(feature_map, in_axes=1, out_axes=1))(flat)
    return jnp.maximum(last, -1)  # an empty segment holds the smallest integer


def _unpool_forward(output: tuple[int, ...], indices: jax.Array, y: jax.Array) -> jax.Array:
    shape = (y.shape[0], *output, y.shape[-1])
    if 0 in (*shape, *y.shape):
        return jnp.zeros(shape, y.dtype)
    return _take(y, _last_writer(output, indices)).reshape(shape)


def _unpool_input_vjp(output: tuple[int, ...], indices: jax.Array, dx: jax.Array) -> jax.Array:
    if 0 in (*indices.shape, *dx.shape):
        return jnp.zeros(indices.shape, dx.dtype)
    n, c, cells = dx.shape[0], dx.shape[-1], volume(output)
    flat = indices.reshape(n, -1, c)
    number = np.arange(flat.shape[1], dtype=np.int32)[None, :, None]
    outside = (flat < 0) | (flat >= cells)
    clipped = jnp.where(outside, 0, flat)
    stayed = (jnp.take_along_axis(_last_writer(output, indices), clipped, axis=1) == number) & ~outside
    dy = jnp.where(stayed, jnp.take_along_axis(dx.reshape(n, cells, c), clipped, axis=1), jnp.zeros((), dx.dtype))
    return dy.reshape(indices.shape)


def _take(y: jax.Array, number: jax.Array) -> jax.Array:
    """y[number] along the flattened spatial axes, 0 where number is negative."""
    flat = y.reshape(y.shape[0], -1, y.shape[-1])
    taken = jnp.take_along_axis(flat, jnp.maximum(number, 0), axis=1)
    return jnp.where(number < 0, jnp.zeros((), y.dtype), taken)


unpool = LinearMap("max_unpool", _unpool_forward, AS_INPUT)
unpool_adjoint = LinearMap("max_unpool_input_vjp", _unpool_input_vjp)
adjoint_to_each_other(unpool, unpool_adjoint, constants=1)


# ---- adaptive -------------------------------------------------------------------------------------------------------


def adaptive_max_pool(x: ArrayLike, output_shape: IntOrTuple, *, layout: Layout = "channels_last") -> jax.Array:
    """Maxima of as many windows as the output has cells: from floor(o size / out) to ceil((o + 1) size / out).

    The windows are Torch's; they may overlap by one cell.  Rule and conventions are those of `max_pool`.

    Args:
      x: (*batch, *spatial, C) or (*batch, C, *spatial).
      output_shape: one entry per spatial axis, or an int as the window of `max_pool`.

    Returns:
      (*batch, *output_shape, C) or (*batch, C, *output_shape) in x's dtype.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax.numpy as jnp
    >>> adaptive_max_pool(jnp.arange(5.)[:, None], (3,))[:, 0].tolist()
    [1.0, 3.0, 4.0]
    """
    x = as_array("adaptive_max_pool", "x", x)
    spec, batch = adaptive_spec("adaptive_max_pool", x, output_shape, layout)
    return restore(_max_pool(spec, canonical(x, len(spec.axes), layout)), batch, layout)


def adaptive_spec(
    name: str, x: jax.Array, output_shape: IntOrTuple, layout: Layout
) -> tuple[PoolSpec, tuple[int, ...]]:
    check_layout(name, layout)
    output = spatial_shape(name, "output_shape", output_shape, x.shape, minimum=1)
    batch, size, _ = split_shape(x.shape, len(output), layout)
    if 0 in size:
        raise invalid(name, "x", "must have a cell or more on every spatial axis", x.shape)
    check_volume(name, "output_shape", output, x.shape, ENTRIES)
    return PoolSpec(tuple(adaptive_axis(s, o) for s, o in zip(size, output, strict=True))), batch


def pool_arguments(
    name: str,
    x: ArrayLike,
    window_shape: IntOrTuple,
    layout: Layout,
    rule: RuleNames,
    options: dict[str, Any],
    *,
    integers: bool = False,
) -> tuple[jax.Array, PoolSpec, tuple[int, ...]]:
    """x as an array, its pool and its batch axes."""
    check_layout(name, layout)
    x = as_array(name, "x", x, integers=integers)
    window = spatial_shape(name, "window_shape", window_shape, x.shape, minimum=1)
    batch, size, _ = split_shape(x.shape, len(window), layout)
    names = available.names("max_pool" if name == "max_pool_with_indices" else name)
    return x, PoolSpec.from_args(name, x.shape, size, window, rule=rule, available=names, **options), batch
