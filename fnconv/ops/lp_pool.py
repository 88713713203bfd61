"""Power-average pooling: the p-norm of each window; p = 2 is the L2-norm pooling of Notes 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.attach import AS_INPUT, LinearMap, adjoint_to_each_other, attach
from fnconv.base.dtypes import accumulator, to_accumulator
from fnconv.base.geometry import Axis, is_symbolic, sliding, volume, windows
from fnconv.base.layout import canonical, restore
from fnconv.base.lowering import TERMS, along, computed_once
from fnconv.base.spec import PoolSpec
from fnconv.base.typing import ArrayLike, IntOrTuple, Layout, Padding, RuleNames
from fnconv.ops.max_pool import pool_arguments
from fnconv.ops.patches import columns, columns_adjoint
from fnconv.rules import maps
from fnconv.rules.avg_pool.lax import sums as lengths
from fnconv.rules.choice import slides


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
    Powers are taken of x divided by the window's maximum, or by a power of two, so that they neither overflow nor
    vanish; where y itself overflows, slopes are those beside an infinity.  A TPU divides dy by y first: dx is 0, or
    not finite, where dy / y is.

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


# ---- entries of windows ---------------------------------------------------------------------------------------------

total, spread = LinearMap("window_sum", maps.sums_of_windows), LinearMap("window_spread", maps.spread_over_windows)
adjoint_to_each_other(total, spread)

Map = Callable[[jax.Array], jax.Array]


class Entries(NamedTuple):
    """How x (N, *S, C) becomes the entries of its windows, and y (N, *O, C) what belongs to each entry.

    `fold` is the adjoint of `unfold`; `total` adds the entries of each window up.
    """

    unfold: Map
    fold: Map
    spread: Map
    total: Map


def _entries(spec: PoolSpec, n: int, channels: int) -> Entries:
    """x itself where no cell lies in two windows, with 0 for what lies in none; else columns (N, O, K, C)."""
    axes = sliding(spec.axes)
    if _slides(spec) and all(a.stride >= a.span and not is_symbolic(a.size) for a in axes):
        return Entries(partial(_met, axes), lambda x: x, partial(spread, spec), partial(total, spec))
    return Entries(
        partial(columns, spec),
        partial(columns_adjoint, spec),
        lambda y: y.reshape(n, volume(spec.output), 1, channels),
        lambda cols: jnp.sum(cols, axis=2).reshape(n, *spec.output, channels),
    )


def _met(axes: Sequence[Axis], x: jax.Array) -> jax.Array:
    """x, and 0 in the cells that no window meets: NaN there must not reach anything."""
    for i, a in enumerate(axes, start=1):
        met = np.isin(np.arange(a.size), a.positions())
        x = x if met.all() else jnp.where(along(met, i, x.ndim), x, jnp.zeros((), x.dtype))
    return x


def _slides(spec: PoolSpec) -> bool:
    return slides(spec, "forward") and slides(spec, "input_vjp")


# ---- the norm -------------------------------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norm(spec: PoolSpec, x: jax.Array) -> jax.Array:
    wide = to_accumulator(x)
    if _slides(spec) and spec.p in (1, 2):
        y = computed_once(total(spec, jnp.abs(wide)) if spec.p == 1 else _length_of_windows(spec, wide))
    else:
        y = _norm_of_columns(spec.p, jnp.abs(columns(spec, wide)))
    return y.astype(x.dtype).reshape(x.shape[0], *spec.output, x.shape[-1])


def _length_of_windows(spec: PoolSpec, x: jax.Array) -> jax.Array:
    if not _for_tpu(spec):
        return _root_of_squares(spec, x)
    return lax.platform_dependent(
        x, tpu=lambda x: lengths(jnp.abs(x), spec.axes, _length), default=partial(_root_of_squares, spec)
    )


def _for_tpu(spec: PoolSpec) -> bool:
    """Whether a TPU adds up no squares: it would take three sums of them, and one of lengths costs as much as each."""
    return _slides(spec) and spec.p == 2 and volume(windows(spec.axes)) <= TERMS and 0 not in (*spec.size, *spec.output)


def _length(a: jax.Array, b: jax.Array) -> jax.Array:
    """sqrt(a^2 + b^2) of a, b >= 0, of any size."""
    longer, one = lax.max(a, b), jnp.ones((), a.dtype)
    ratio = lax.min(a, b) / jnp.where((longer == 0) | jnp.isinf(longer), one, longer)
    return longer * jnp.sqrt(one + ratio * ratio)


def _root_of_squares(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The root of one of three sums: of squares as they are, of large numbers made small, of small ones made large."""
    number = partial(jnp.asarray, dtype=x.dtype)
    e = int(jnp.finfo(x.dtype).maxexp)  # type: ignore[no-untyped-call]
    up, down, one, zero = number(2.0 ** (e * 45 // 64)), number(2.0 ** -(e * 45 // 64)), number(1), number(0)
    squares = total(spec, jnp.square(x))
    large, small = squares > 2.0 ** (e * 7 // 8), squares < 2.0 ** -(e * 5 // 8)
    # no entry of a window whose sum is small is left out below; others could overflow, and so would their derivatives
    of_small = total(spec, jnp.square(jnp.where(jnp.abs(x) < 2.0 ** -(e // 4), x, zero) * up))
    squares = jnp.where(large, total(spec, jnp.square(x * down)), jnp.where(small, of_small, squares))
    return jnp.where(large, up, jnp.where(small, down, one)) * _power(squares, 0.5)


def _norm_of_columns(p: float, cols: jax.Array) -> jax.Array:
    """(N, O, K, C) -> (N, O, C)."""
    if p == 1:
        return jnp.sum(cols, axis=2)
    largest = jnp.max(cols, axis=2, initial=0)
    scale = _power_of_two(largest)
    return scale * _norm_of_moderate(p, cols * (1 / scale)[:, :, None], largest / scale)


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


def _power_of_two(largest: jax.Array) -> jax.Array:
    """A power of two near each value, whose inverse is a normal number; 1 for 0 and for infinities and NaN."""
    one = jnp.ones((), largest.dtype)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest) & (largest > 0), largest, one))
    limit = jnp.finfo(largest.dtype).maxexp - 3  # type: ignore[no-untyped-call]
    return jnp.ldexp(one, jnp.clip(exponent - 1, -limit, limit))


@_norm.defjvp
def _norm_jvp(spec: PoolSpec, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """dy = the window's sum of slope * dx; it serves the second derivative."""
    (x,), (dx,) = primals, tangents
    y, entries = _norm(spec, x), _entries(spec, x.shape[0], x.shape[-1])
    dy = entries.total(_slopes(spec, entries, x, y) * entries.unfold(to_accumulator(dx)))
    return y, dy.astype(y.dtype)


def _slopes(spec: PoolSpec, entries: Entries, x: jax.Array, y: jax.Array | None) -> jax.Array:
    """dy / dx_i = sign(x_i) (|x_i| / y)^(p - 1) for every entry of a window, 0 where y is."""
    cells = entries.unfold(to_accumulator(x))
    if y is None or spec.p == 1:
        return jnp.sign(cells)
    norm = entries.spread(to_accumulator(y))
    one, zero = jnp.ones((), cells.dtype), jnp.zeros((), cells.dtype)
    big = 2.0 ** (jnp.finfo(cells.dtype).maxexp // 2)  # type: ignore[no-untyped-call]
    # XLA multiplies by a norm's inverse, which must be normal
    scale = jnp.where(norm > big, 1 / big * one, jnp.where(norm < 1 / big, big * one, one))
    cells, norm = cells * scale, norm * scale
    # nothing below is divided by 0, nor differentiated at a power of 0
    safe, cells = jnp.where(norm == 0, one, norm), jnp.where(norm == 0, zero, cells)
    if spec.p == 2:
        return cells / safe
    magnitude = jnp.where(cells == 0, safe, jnp.abs(cells))  # a ratio of 1, whose powers are finite
    at_zero = jnp.where(jnp.isnan(norm), norm, zero)
    return jnp.where(cells == 0, at_zero, jnp.sign(cells) * (magnitude / safe) ** (spec.p - 1))


# ---- dx -------------------------------------------------------------------------------------------------------------

Residuals = tuple[jax.Array, jax.Array | None]


_stored = jax.jit(lax.optimization_barrier)  # else XLA keeps y a second time, in the dtype of sums


def _lp_pool_fwd(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, Residuals]:
    y: jax.Array = _stored(_norm(spec, x))
    return y, (x, None if spec.p == 1 else y)  # for p = 1 slopes are signs


def _lp_pool_bwd(spec: PoolSpec, residuals: Residuals, dy: jax.Array) -> tuple[jax.Array]:
    by_entry = partial(_bwd_by_entry, spec)
    if not _for_tpu(spec):
        return (by_entry(*residuals, dy),)
    return (lax.platform_dependent(*residuals, dy, tpu=partial(_bwd_by_cell, spec), default=by_entry),)


def _bwd_by_entry(spec: PoolSpec, x: jax.Array, y: jax.Array | None, dy: jax.Array) -> jax.Array:
    entries = _entries(spec, dy.shape[0], dy.shape[-1])
    shares = entries.spread(to_accumulator(dy)) * _slopes(spec, entries, x, y)
    return entries.fold(shares).astype(dy.dtype)


def _bwd_by_cell(spec: PoolSpec, x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
    """x times the sum of dy / y over the windows that it is in, p being 2."""
    norm, zero = to_accumulator(y), jnp.zeros((), accumulator(y.dtype))
    ratio = jnp.where(norm == 0, zero, to_accumulator(dy) / jnp.where(norm == 0, zero + 1, norm))
    return (_met(sliding(spec.axes), to_accumulator(x)) * spread(spec, ratio)).astype(dy.dtype)


_lp_pool = attach(_norm, _lp_pool_fwd, _lp_pool_bwd, placement=AS_INPUT)
