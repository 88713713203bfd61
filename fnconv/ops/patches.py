"""im2col and col2im, each the adjoint of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fnconv.base.attach import AS_INPUT, LinearMap, adjoint_to_each_other
from fnconv.base.errors import invalid
from fnconv.base.geometry import volume, windows
from fnconv.base.layout import canonical, check_layout, restore, split_shape
from fnconv.base.spec import PoolSpec, as_array, spatial_shape, whole_shape
from fnconv.base.typing import ORDERS, ArrayLike, IntOrTuple, Layout, Order, Padding, RuleNames
from fnconv.ops.rearrange import rearrange
from fnconv.rules import available, maps


def im2col(
    x: ArrayLike,
    window_shape: IntOrTuple,
    *,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    layout: Layout = "channels_last",
    order: Order = "c",
    rule: RuleNames = "auto",
) -> jax.Array:
    """Unfold the windows of x into the columns of a matrix, Wei (2.5), GEMM 1.1; phi(x) is its transpose, Wei (2.6).

    Every column is one window.  order="c" counts columns row-major and rows as a flattened kernel of the same layout:
    (*window, C) for channels_last, (C, *window) for channels_first, which is Torch's `unfold`.  order="matlab" counts
    both column-major and stacks the channels, as MATLAB's im2col and Wei do.

    Args:
      x: (*batch, *spatial, C) or (*batch, C, *spatial).
      window_shape: one entry per spatial axis, or an int as in `max_pool`.
      strides, padding, dilation, layout: as in `conv`.
      rule: formulation, a name or {"forward": ..., "input_vjp": ...}; see `fnconv.available_rules()`.

    Returns:
      (*batch, C * window elements, output positions), zeros in the padding, in x's dtype.

    Raises:
      ValueError, TypeError: at trace time, naming the argument, the rule broken, the value and the shape.

    >>> import jax.numpy as jnp
    >>> a = jnp.array([[1, 3, 1, 4], [2, 8, 5, 1], [3, 2, 0, 3]])[:, :, None]
    >>> im2col(a, (2, 2), order="matlab").tolist()  # B of Wei 2.1
    [[1, 2, 3, 8, 1, 5], [2, 3, 8, 2, 5, 0], [3, 8, 1, 5, 4, 1], [8, 2, 5, 0, 1, 3]]
    """
    x = as_array("im2col", "x", x)
    options = {"strides": strides, "padding": padding, "dilation": dilation, "rule": rule}
    spec, batch, channels = _geometry("im2col", x.shape, window_shape, layout, order, options)
    cols = columns.attached(spec, canonical(x, len(spec.axes), layout))
    n, positions, elements, _ = cols.shape
    target = (*batch, channels * elements, positions)
    return rearrange(cols, _unfolded(spec, n, channels), _matrix_axes(len(spec.axes), layout, order), target)


def col2im(
    cols: ArrayLike,
    x_shape: Sequence[int],
    window_shape: IntOrTuple,
    *,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    layout: Layout = "channels_last",
    order: Order = "c",
    rule: RuleNames = "auto",
) -> jax.Array:
    """The adjoint of `im2col`: add every entry at the cell it came from, Wei (2.30), GEMM 1.2.

    Args:
      cols: (*batch, C * window elements, output positions), as `im2col` returns.
      x_shape: the whole shape of the result, batch axes and channels included.
      window_shape, strides, padding, dilation, layout, order, rule: of the im2col, whose input_vjp runs forward.

    Returns:
      An array of shape x_shape in the dtype of cols; half precisions are added in float32.

    Raises:
      ValueError, TypeError: as `im2col`, and where cols is not of the shape that x_shape leads to.

    >>> import jax.numpy as jnp
    >>> col2im(jnp.ones((4, 4)), (3, 3, 1), (2, 2))[:, :, 0].astype(int).tolist()  # windows that cover each cell
    [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    """
    cols = as_array("col2im", "cols", cols)
    shape = whole_shape("col2im", "x_shape", x_shape)
    options = {"strides": strides, "padding": padding, "dilation": dilation, "rule": rule}
    spec, batch, channels = _geometry("col2im", shape, window_shape, layout, order, options)
    positions, elements = volume(spec.output), volume(windows(spec.axes))
    expected = (*batch, channels * elements, positions)
    if cols.shape != expected:
        raise invalid("col2im", "cols", f"must have the shape of im2col's result, {expected}", cols.shape)
    n, axes = volume(batch), _matrix_axes(len(spec.axes), layout, order)
    unfolded = _unfolded(spec, n, channels)
    back = tuple(int(i) for i in np.argsort(axes))
    cols = rearrange(cols, [unfolded[a] for a in axes], back, (n, positions, elements, channels))
    return restore(columns_adjoint.attached(spec, cols), batch, layout)


def _unfolded(spec: PoolSpec, n: int, channels: int) -> tuple[int, ...]:
    return (n, *spec.output, *windows(spec.axes), channels)


def _matrix_axes(spatial: int, layout: Layout, order: Order) -> tuple[int, ...]:
    """The axes of (N, *O, *K, C) as the matrix has them: batch, rows, columns."""
    positions, elements, channel = range(1, spatial + 1), range(spatial + 1, 2 * spatial + 1), 2 * spatial + 1
    if order == "matlab":
        return (0, channel, *reversed(elements), *reversed(positions))
    rows = (channel, *elements) if layout == "channels_first" else (*elements, channel)
    return (0, *rows, *positions)


def _geometry(
    name: str,
    shape: tuple[int, ...],
    window_shape: IntOrTuple,
    layout: Layout,
    order: Order,
    options: Mapping[str, Any],
) -> tuple[PoolSpec, tuple[int, ...], int]:
    check_layout(name, layout)
    if order not in ORDERS:
        raise invalid(name, "order", f"must be one of {', '.join(ORDERS)}", repr(order))
    window = spatial_shape(name, "window_shape", window_shape, shape, minimum=1)
    batch, size, channels = split_shape(shape, len(window), layout)
    names = available.names("im2col")
    return PoolSpec.from_args(name, shape, size, window, ceil_mode=False, available=names, **options), batch, channels


columns = LinearMap("im2col", maps.im2col_forward, AS_INPUT)
columns_adjoint = LinearMap("col2im", maps.im2col_input_vjp, AS_INPUT)
adjoint_to_each_other(columns, columns_adjoint)
