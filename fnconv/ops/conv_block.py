"""Convolution, bias, ReLU and max pooling as one operation: what lies between them is never kept.

    z = convolution(x, w) + b,   y = max over windows of max(z, 0)

A window's maximum is positive only where its largest z is, and then the same cell wins; where it is 0 nothing flows
back.  So the pooling may come first, and one number for each output tells the whole way back: the offset of the
winner, or -1 where ReLU is off.  With S the selection of Wei (4.4),

    dz = S^T dy,   dx = input_gradient(dz, w),   dw = weight_gradient(x, dz),   db = sum dz,

which is the sum of the entries of dy that pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fnconv.base.attach import attach
from fnconv.base.errors import invalid, mistyped
from fnconv.base.geometry import may_be_empty
from fnconv.base.layout import canonical, restore
from fnconv.base.lowering import per_channel
from fnconv.base.spec import (
    ConvSpec,
    PoolSpec,
    per_axis,
)
from fnconv.base.typing import ArrayLike, IntOrTuple, Layout, Padding, Precision, RuleNames
from fnconv.ops import conv as conv_
from fnconv.ops import max_pool as max_pool_
from fnconv.rules import available, maps

ACTIVATIONS = ("relu", None)
POOL_OPTIONS = ("window_shape", "strides", "padding", "dilation", "ceil_mode", "ties", "rule")

Pool = IntOrTuple | Mapping[str, Any]


def conv_block(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    activation: Literal["relu"] | None = "relu",
    pool: Pool | None = None,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    groups: int = 1,
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
    precision: Precision = None,
) -> jax.Array:
    """max_pool(relu(conv(x, w, b))), the same values and gradients, keeping x, w and one byte per output.

    The rule is the composition's, Wei (2.9), (5.1), (4.2) forward and (4.5), (5.3), (2.21), (2.28) backward, with ties,
    NaN and ReLU'(0) = 0 as there.  Windows of more than 127 cells keep four bytes per output.

    Args:
      x, w: as in `conv`.
      b: bias (out,), or None.
      activation: "relu" or None.
      pool: None, the window of the pooling (its stride is the window), or the options of `max_pool` by name, such as
        {"window_shape": 3, "strides": 2, "padding": 1}.
      strides, padding, dilation, groups, layout, rule, precision: of the convolution, as in `conv`.

    Returns:
      y (*batch, *output, out) in x's dtype.

    Raises:
      ValueError, TypeError: as `conv` and `max_pool`, under the name of this function.

    >>> import jax, jax.numpy as jnp
    >>> x, w = jnp.array([3., -1, 2, -5])[None, :, None], jnp.ones((1, 1, 1))
    >>> conv_block(x, w, jnp.zeros(1), pool=2)[0, :, 0].tolist()
    [3.0, 2.0]
    >>> jax.grad(lambda x: conv_block(x, w, pool=2).sum())(x)[0, :, 0].tolist()
    [1.0, 0.0, 1.0, 0.0]
    """
    name = "conv_block"
    if activation not in ACTIVATIONS:
        raise invalid(name, "activation", 'must be "relu" or None', repr(activation))
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    x, kernel, spec, batch = conv_.arguments(name, x, w, layout, rule, precision, options)
    spatial = len(spec.axes)
    pooling = None if pool is None else _pooling(name, pool, x.shape, spec)
    biases = () if b is None else (conv_.checked_bias(name, x, b, spec.out_channels),)
    y = _block(Block(spec, pooling, activation, bool(biases)), canonical(x, spatial, layout), kernel, *biases)
    return restore(y, batch, layout)


class Block(NamedTuple):
    conv: ConvSpec
    pool: PoolSpec | None
    activation: str | None
    biased: bool


def _block_primal(block: Block, x: jax.Array, w: jax.Array, *b: jax.Array) -> jax.Array:
    z = _biased(conv_.convolution(block.conv, x, w), *b)
    y, offset = (z, None) if block.pool is None else maps.max_pool_forward(block.pool, z)
    return _activate(block, y, offset)[0]


def _block_fwd(block: Block, x: jax.Array, w: jax.Array, *b: jax.Array) -> tuple[jax.Array, Any]:
    z = _biased(conv_.convolution(block.conv, x, w), *b)
    y, (won, witness) = (z, (None, None)) if block.pool is None else max_pool_.select_winners(block.pool, z)
    y, offset = _activate(block, y, won)
    return y, (x, w, offset, None if witness is won else witness)


def _block_bwd(block: Block, residuals: Any, dy: jax.Array) -> tuple[jax.Array, ...]:
    x, w, offset, witness = residuals
    passed = dy if offset is None else jnp.where(offset >= 0, dy, jnp.zeros((), dy.dtype))
    dz = passed
    if block.pool is not None:  # an offset of -1 passes nothing; a witness knows nothing of ReLU
        dz = max_pool_.unselect(block.pool, offset, *((offset, dy) if witness is None else (witness, passed)))
    dx, dw = conv_.input_gradient(block.conv, dz, w), conv_.weight_gradient(block.conv, x, dz)
    return (dx, dw, conv_.bias_vjp(passed)) if block.biased else (dx, dw)


def _biased(z: jax.Array, *b: jax.Array) -> jax.Array:
    return sum((per_channel(v, z) for v in b), z)


def _activate(block: Block, y: jax.Array, offset: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """The value, and its offset, or -1 where no gradient passes: where y <= 0, or NaN, as in `relu`."""
    if block.activation is None:
        return y, offset
    off = y <= 0
    if offset is not None and block.pool is not None and may_be_empty(block.pool.axes):
        off &= offset >= 0  # a window wholly in the padding keeps its value
    value = jnp.where(off, jnp.zeros((), y.dtype), y)
    kept = jnp.zeros(y.shape, jnp.int8) if offset is None else offset
    return value, jnp.where(y > 0, kept, jnp.full((), -1, kept.dtype))


_block = attach(_block_primal, _block_fwd, _block_bwd, placement=((0, 0), (1, -1)))


# ---- arguments ------------------------------------------------------------------------------------------------------


def _pooling(name: str, pool: Pool, x_shape: tuple[int, ...], spec: ConvSpec) -> PoolSpec:
    """The pooling's spec, over the convolution's output."""
    options = dict(pool) if isinstance(pool, Mapping) else {"window_shape": pool}
    unknown = [key for key in options if key not in POOL_OPTIONS]
    if unknown or "window_shape" not in options:
        raise mistyped(name, "pool", f"must be a window or a mapping of {', '.join(POOL_OPTIONS)}", repr(pool))
    size = spec.y_shape(1)[1:-1]
    window = per_axis(name, "pool", options.pop("window_shape"), len(size), x_shape, minimum=1)
    defaults = {"strides": None, "padding": "VALID", "dilation": 1, "ceil_mode": False, "rule": "auto"}
    named = {**defaults, **options, "available": available.names("max_pool")}
    return PoolSpec.from_args(f"{name}'s pool", x_shape, size, window, **named)
