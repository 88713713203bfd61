"""Average pooling: each map is linear, and each is the other's adjoint."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnconv.base.attach import AS_INPUT, LinearMap, adjoint_to_each_other
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.layout import canonical, check_layout, restore
from fnconv.base.spec import as_array
from fnconv.base.typing import ArrayLike, IntOrTuple, Layout, Padding, RuleNames
from fnconv.ops.max_pool import adaptive_spec, pool_arguments
from fnconv.rules import maps


def avg_pool(
    x: ArrayLike,
    window_shape: IntOrTuple,
    *,
    strides: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
) -> jax.Array:
    """Mean of each window; dx = upsample(dy) * 1 / size, Notes 2.2, shares of overlapping windows added.

    Args:
      x: (*batch, *spatial, C) or (*batch, C, *spatial); floating.
      window_shape: one entry per spatial axis, or an int as in `max_pool`.
      strides: None for the window itself, an int, or one per axis.
      padding, dilation, layout: as in `conv`.
      ceil_mode: round the output size up, as Torch does; cells past the padding are never counted.
      count_include_pad: whether the padding counts in the size that is divided by.  A window of which nothing is
        counted has value and gradient 0.
      rule: formulation, a name or {"forward": ..., "input_vjp": ...}; see `fnconv.available_rules()`.

    Returns:
      y (*batch, *output, C) in x's dtype; half precisions are summed in float32.

    Raises:
      ValueError, TypeError: at trace time; integers are refused, their mean is none.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([[1., 2.], [3., 6.]])[:, :, None]
    >>> avg_pool(x, (2, 2)).item()
    3.0
    >>> jax.grad(lambda x: avg_pool(x, (2, 2)).sum())(x)[:, :, 0].tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    """
    options = {"strides": strides, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    options["include_pad"] = count_include_pad
    x, spec, batch = pool_arguments("avg_pool", x, window_shape, layout, rule, options)
    return restore(average.attached(spec, canonical(x, len(spec.axes), layout)), batch, layout)


average = LinearMap("avg_pool", maps.avg_pool_forward, AS_INPUT)
average_adjoint = LinearMap("avg_unpool", maps.avg_pool_input_vjp)
adjoint_to_each_other(average, average_adjoint)


def adaptive_avg_pool(x: ArrayLike, output_shape: IntOrTuple, *, layout: Layout = "channels_last") -> jax.Array:
    """Means of as many windows as the output has cells: from floor(o size / out) to ceil((o + 1) size / out).

    The windows are Torch's; they may overlap by one cell.  Gradient as `avg_pool`'s, each window with its own size.

    Args:
      x: (*batch, *spatial, C) or (*batch, C, *spatial); floating.
      output_shape: one entry per spatial axis, or an int as the window of `max_pool`.

    Returns:
      (*batch, *output_shape, C) or (*batch, C, *output_shape) in x's dtype.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax.numpy as jnp
    >>> adaptive_avg_pool(jnp.arange(5.)[:, None], (3,))[:, 0].tolist()
    [0.5, 2.0, 3.5]
    """
    x = as_array("adaptive_avg_pool", "x", x, integers=False)
    spec, batch = adaptive_spec("adaptive_avg_pool", x, output_shape, layout)
    return restore(average.attached(spec, canonical(x, len(spec.axes), layout)), batch, layout)


# ---- over all of space ----------------------------------------------------------------------------------------------


class _Space(NamedTuple):
    """The axes of x that are averaged over, and their sizes."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]


def global_avg_pool(x: ArrayLike, *, layout: Layout = "channels_last") -> jax.Array:
    """Mean of each channel of each image over space (Lin et al., 2014); dx = dy / size everywhere.  Keeps nothing.

    Args:
      x: (N, *spatial, C) or (N, C, *spatial), of any number of spatial axes; floating.

    Returns:
      (N, C) in x's dtype; half precisions are summed in float32.  0 where space is empty.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([[[1.], [3.]]])
    >>> global_avg_pool(x).tolist(), jax.grad(lambda x: global_avg_pool(x).sum())(x).ravel().tolist()
    ([[2.0]], [0.5, 0.5])
    """
    x = as_array("global_avg_pool", "x", x, integers=False)
    check_layout("global_avg_pool", layout)
    if x.ndim < 2:
        raise invalid("global_avg_pool", "x", "must have a batch axis and a channel axis", x.shape)
    axes = tuple(range(1, x.ndim - 1) if layout == "channels_last" else range(2, x.ndim))
    return _mean.attached(_Space(axes, tuple(x.shape[a] for a in axes)), x)


def _mean_forward(spec: _Space, x: jax.Array) -> jax.Array:
    return _divided(spec, jnp.sum(to_accumulator(x), axis=spec.axes)).astype(x.dtype)


def _mean_input_vjp(spec: _Space, dy: jax.Array) -> jax.Array:
    share = jnp.expand_dims(_divided(spec, to_accumulator(dy)).astype(dy.dtype), spec.axes)
    sizes = dict(zip(spec.axes, spec.sizes, strict=True))
    return jnp.broadcast_to(share, [sizes.get(i, n) for i, n in enumerate(share.shape)])


def _divided(spec: _Space, y: jax.Array) -> jax.Array:
    return y / jnp.asarray(jax.core.max_dim(1, math.prod(spec.sizes)), y.dtype)


_mean, _spread = LinearMap("global_avg_pool", _mean_forward), LinearMap("global_avg_unpool", _mean_input_vjp)
adjoint_to_each_other(_mean, _spread)
