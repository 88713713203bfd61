"""Power-average pooling: the p-norm of each window; p = 2 is the L2-norm pooling of Notes 1."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from fnconv.base.attach import AS_INPUT, attach
from fnconv.base.dtypes import accumulator
from fnconv.base.geometry import volume
from fnconv.base.layout import canonical, restore
from fnconv.base.spec import PoolSpec
from fnconv.base.typing import ArrayLike, IntOrTuple, Layout, Padding, RuleNames
from fnconv.ops.max_pool import pool_arguments
from fnconv.ops.patches import columns, columns_adjoint


def lp_pool(
    x: ArrayLike,
    window_shape: IntOrTuple,
    *,
    p: float = 2,
    strides: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
) -> jax.Array:
    """y = (sum |x_i|^p)^(1/p) over each window; dx_i = dy sign(x_i) (|x_i| / y)^(p - 1).

    The gradient is 0, not NaN, where a window is all zero; sign(0) = 0.  Beside an infinite entry finite ones have
    gradient 0 and its own is NaN, inf / inf, unless p = 1; NaN spreads over its window, for p = 1 to itself alone.
    Powers are taken of x divided by the window's maximum, or by a power of two near it, so that they neither overflow
    nor vanish; where y itself overflows, slopes are those beside an infinity.

    Differs from Torch's: that one takes x^p without the modulus, and scales windows clipped by ceil_mode up.

    Args:
      x: (*batch, *spatial, C) or (*batch, C, *spatial); floating.
      window_shape: one entry per spatial axis, or an int as in `max_pool`.
      p: a number of at least 1, known at trace time.
      strides: None for the window itself, an int, or one per axis.
      padding, dilation, layout: as in `conv`; ceil_mode as in `max_pool`.
      rule: formulation, a name or {"forward": ..., "input_vjp": ...}; see `fnconv.available_rules()`.

    Returns:
      y (*batch, *output, C) in x's dtype.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([3., -4., 0., 0.])[:, None]
    >>> lp_pool(x, (2,))[:, 0].tolist()
    [5.0, 0.0]
    >>> [round(float(g), 3) for g in jax.grad(lambda x: lp_pool(x, (2,)).sum())(x)[:, 0]]
    [0.6, -0.8, 0.0, 0.0]
    """
    options = {"strides": strides, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode, "p": p}
    x, spec, batch = pool_arguments("lp_pool", x, window_shape, layout, rule, options)
    return restore(_lp_pool(spec, canonical(x, len(spec.axes), layout)), batch, layout)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norm(spec: PoolSpec, x: jax.Array) -> jax.Array:
    cols = jnp.abs(columns(spec, x).astype(accumulator(x.dtype)))  # (N, O, K, C)
    if spec.p == 1:
        y = jnp.sum(cols, axis=2)
    else:
        largest = jnp.max(cols, axis=2, initial=0)
        scale = _power_of_two(largest)
        y = scale * _norm_of_moderate(spec.p, cols * (1 / scale)[:, :, None], largest / scale)
    return y.astype(x.dtype).reshape(x.shape[0], *spec.output, x.shape[-1])


def _norm_of_moderate(p: float, cols: jax.Array, largest: jax.Array) -> jax.Array:
    """The norm of numbers near 1.  For p other than 2 they are divided by the largest: then powers stay near 1 too."""
    if p == 2:
        return _power(jnp.sum(jnp.square(cols), axis=2), 0.5)
    one = jnp.ones((), largest.dtype)
    largest = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, one)
    return largest * _power(jnp.sum(_power(cols / largest[:, :, None], p), axis=2), 1 / p)


def _power(x: jax.Array, p: float) -> jax.Array:
    """x^p, without a derivative at 0: a scan differentiates the norm itself, not by the rule below."""
    zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    safe = jnp.where(x == 0, one, x)
    return jnp.where(x == 0, zero, jnp.sqrt(safe) if p == 0.5 else safe**p)


@_norm.defjvp
def _norm_jvp(spec: PoolSpec, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """dy = the window's sum of slope * dx; it serves the second derivative."""
    (x,), (dx,) = primals, tangents
    y = _norm(spec, x)
    dy = jnp.sum(_slopes(spec, x, _kept(spec, y)) * columns(spec, dx).astype(accumulator(x.dtype)), axis=2)
    return y, dy.astype(y.dtype).reshape(y.shape)


def _slopes(spec: PoolSpec, x: jax.Array, y: jax.Array | None) -> jax.Array:
    """dy / dx_i = sign(x_i) (|x_i| / y)^(p - 1) for every window element, 0 where y is: (N, O, K, C)."""
    cols = columns(spec, x).astype(accumulator(x.dtype))
    if y is None:
        return jnp.sign(cols)
    norm = y.astype(cols.dtype).reshape(x.shape[0], volume(spec.output), 1, x.shape[-1])
    inverse = 1 / _power_of_two(jax.lax.stop_gradient(norm))  # XLA multiplies by a norm's inverse, which must be normal
    cols, norm = cols * inverse, norm * inverse
    # nothing below is divided by 0, nor differentiated at a power of 0
    one, zero = jnp.ones((), cols.dtype), jnp.zeros((), cols.dtype)
    safe = jnp.where(norm == 0, one, norm)
    if spec.p == 2:
        return jnp.where(norm == 0, zero, cols / safe)
    magnitude = jnp.where(cols == 0, one, jnp.abs(cols))
    at_zero = jnp.where(jnp.isnan(norm), norm, zero)
    return jnp.where(cols == 0, at_zero, jnp.sign(cols) * (magnitude / safe) ** (spec.p - 1))


def _kept(spec: PoolSpec, y: jax.Array) -> jax.Array | None:
    """y, which the slopes need; for p = 1 nothing, since they are signs."""
    return None if spec.p == 1 else y


Residuals = tuple[jax.Array, jax.Array | None]


def _lp_pool_fwd(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, Residuals]:
    y = _norm(spec, x)
    return y, (x, _kept(spec, y))


def _lp_pool_bwd(spec: PoolSpec, residuals: Residuals, dy: jax.Array) -> tuple[jax.Array]:
    slopes = _slopes(spec, *residuals)
    wide = dy.astype(slopes.dtype).reshape(dy.shape[0], volume(spec.output), 1, dy.shape[-1])
    return (columns_adjoint(spec, wide * slopes).astype(dy.dtype),)


def _power_of_two(largest: jax.Array) -> jax.Array:
    """A power of two near each value, whose inverse is a normal number; 1 for 0 and for infinities and NaN."""
    one = jnp.ones((), largest.dtype)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest) & (largest > 0), largest, one))
    limit = jnp.finfo(largest.dtype).maxexp - 3  # type: ignore[no-untyped-call]
    return jnp.ldexp(one, jnp.clip(exponent - 1, -limit, limit))


_lp_pool = attach(_norm, _lp_pool_fwd, _lp_pool_bwd, placement=AS_INPUT)
