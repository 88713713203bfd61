"""`jax.lax.reduce_window` on fnconv's maps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base.attach import LinearMap, adjoint_to_each_other
from fnconv.base.dtypes import lowest, to_accumulator
from fnconv.base.geometry import Axis, outputs, sizes, volume
from fnconv.base.lowering import unless_empty
from fnconv.base.pairs import subsample, zero_insert
from fnconv.base.window_sums import window_sum, window_sum_adjoint
from fnconv.compat.arguments import as_operand, check_dtypes, declined, sequence, static, with_sharding_of
from fnconv.ops.max_pool import max_pool

Pads = Literal["VALID", "SAME", "SAME_LOWER"] | Sequence[tuple[int, int]]
PerAxis = tuple[Any, ...]


def reduce_window(
    operand: Any,
    init_value: Any,
    computation: Callable[..., Any],
    window_dimensions: Sequence[int],
    window_strides: Sequence[int] | None = None,
    padding: Pads = "VALID",
    base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
) -> Any:
    """`jax.lax.reduce_window` for its three monoids, with the gradients of `fnconv.max_pool` and of window sums.

    The monoids are those that lax recognises: `lax.max` with -inf or the smallest integer, `lax.min` with inf or the
    largest, `lax.add` with 0.  Kinks are `max_pool`'s: of equal extrema the first in row-major order wins alone, a
    NaN wins over numbers.  Unlike lax's, extrema with window_dilation have a gradient.

    Args:
      operand: one array of float16, bfloat16, float32, float64 or integers, of any rank.
      init_value: the neutral element of the computation, a scalar that is known at trace time.
      computation: `jax.lax.max`, `jax.lax.min` or `jax.lax.add`.
      window_dimensions, window_strides, padding, base_dilation, window_dilation: as in lax, one entry per axis of
        operand; windows may cover any axis.  Half precisions are added in float32.

    Returns:
      What `jax.lax.reduce_window` returns: shape, dtype and value.

    Raises:
      NotImplementedError: several operands; other computations or initial values; complex, boolean and 8-bit
        floating operands.
      ValueError, TypeError: where lax raises, with its message.

    >>> x = jnp.array([3., 1., 4., 1., 5.])
    >>> reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "SAME").tolist()
    [3.0, 4.0, 4.0, 5.0, 5.0]
    >>> jax.grad(lambda x: reduce_window(x, 0., lax.add, (2,), window_dilation=(3,)).sum())(x).tolist()
    [1.0, 1.0, 0.0, 1.0, 1.0]
    """
    name = "reduce_window"
    if operand is not None and not jax.tree_util.all_leaves([operand]):
        raise declined(name, "operand", "must be one array", jax.tree.structure(operand))
    operand = as_operand(name, "operand", operand)
    if not callable(computation) or computation not in _MONOIDS:
        raise declined(name, "computation", "must be jax.lax.max, jax.lax.min or jax.lax.add", computation)
    scalar = isinstance(init_value, int | float | complex | np.generic | np.ndarray | jax.Array) and not np.ndim(
        init_value
    )
    if isinstance(init_value, jax.core.Tracer) or not scalar:
        raise declined(name, "init_value", "must be a scalar known at trace time", init_value)
    dtype = jnp.result_type(init_value)  # not always the operand's, as in lax
    if dtype == jnp.bool_ or init_value != _MONOIDS[computation][1](dtype):
        rule = f"must be the neutral element of jax.lax.{computation.__name__}"
        raise declined(name, "init_value", rule, init_value)
    n = len(sequence(name, "window_dimensions", window_dimensions))
    padding = padding if isinstance(padding, str) else sequence(name, "padding", padding)
    return _reduce_window(
        operand,
        computation=computation,
        window_dimensions=static(window_dimensions),
        window_strides=(1,) * n if window_strides is None else static(window_strides),
        padding=static(padding),
        base_dilation=(1,) * n if base_dilation is None else static(base_dilation),
        window_dilation=(1,) * n if window_dilation is None else static(window_dilation),
    )


_STATIC = ("computation", *tuple(inspect.signature(reduce_window).parameters)[3:])


@partial(jax.jit, static_argnames=_STATIC)
def _reduce_window(operand: jax.Array, *, computation: Callable[..., Any], **options: Any) -> jax.Array:
    check_dtypes("reduce_window", operand=operand)
    reduce, neutral = _MONOIDS[computation]
    init_value = np.asarray(neutral(operand.dtype), operand.dtype)
    as_lax = partial(lax.reduce_window, init_value=init_value, computation=computation, **options)
    result = jax.eval_shape(as_lax, operand)  # lax's own checks and messages
    window, strides, dilation = options["window_dimensions"], options["window_strides"], options["window_dilation"]
    pads = options["padding"]
    if isinstance(pads, str):
        spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        pads = lax.padtype_to_pads(operand.shape, spans, strides, pads)

    axes = tuple(zip(window, strides, options["base_dilation"], dilation, pads, strict=True))
    moving = [i for i, axis in enumerate(axes) if axis != (1, 1, 1, 1, (0, 0))]
    if not moving:
        return operand
    first, last = moving[0], moving[-1] + 1

    def evaluate(x: jax.Array) -> jax.Array:
        batch, size, channels = x.shape[:first], x.shape[first:last], x.shape[last:]
        spatial = zip(*axes[first:last], strict=True)
        return reduce(x.reshape(volume(batch), *size, volume(channels)), *spatial).reshape(result.shape)

    return with_sharding_of(result, evaluate, operand)


# ---- extrema --------------------------------------------------------------------------------------------------------


def _max(x: jax.Array, window: PerAxis, strides: PerAxis, base: PerAxis, dilation: PerAxis, pads: PerAxis) -> jax.Array:
    if max(base) > 1:
        dilated = zero_insertion.attached(base, x)
        hole = np.ones(dilated.shape[1:-1], np.bool_)
        hole[tuple(slice(None, None, b) for b in base)] = False
        x = jnp.where(hole[..., None], jnp.asarray(lowest(x.dtype), x.dtype), dilated)
    return max_pool(x, window, strides=strides, padding=pads, dilation=dilation)


def _min(x: jax.Array, *geometry: PerAxis) -> jax.Array:
    """The maximum in the reversed order; ~ reverses integers without overflow."""
    reverse = jnp.negative if jnp.issubdtype(x.dtype, jnp.floating) else jnp.bitwise_not
    return reverse(_max(reverse(x), *geometry))


def _highest(dtype: Any) -> float | int:
    """The neutral element of min."""
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else int(~np.asarray(lowest(dtype), dtype))


# ---- sums -----------------------------------------------------------------------------------------------------------

zero_insertion = LinearMap("zero_insert", lambda factors, x: zero_insert(x, factors))
subsampled = LinearMap("subsample", lambda factors, dy: subsample(dy, factors))
adjoint_to_each_other(zero_insertion, subsampled)

sums = LinearMap("window_sum", lambda axes, x: _in_accumulator(window_sum, x, axes))
sums_adjoint = LinearMap("window_sum_adjoint", lambda axes, dy: _in_accumulator(window_sum_adjoint, dy, axes))
adjoint_to_each_other(sums, sums_adjoint)


def _sum(x: jax.Array, window: PerAxis, strides: PerAxis, base: PerAxis, dilation: PerAxis, pads: PerAxis) -> jax.Array:
    x = zero_insertion.attached(base, x) if max(base) > 1 else x
    axes = zip(x.shape[1:-1], window, strides, dilation, pads, strict=True)
    return sums.attached(tuple(Axis(s, k, t, d, low, high) for s, k, t, d, (low, high) in axes), x)


def _in_accumulator(sum_: Callable[..., jax.Array], x: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
    cells = outputs(axes) if sum_ is window_sum else sizes(axes)

    def added(axes: tuple[Axis, ...], x: jax.Array) -> jax.Array:
        return sum_(to_accumulator(x), axes).astype(x.dtype)

    return unless_empty(added, (x.shape[0], *cells, x.shape[-1]), x)(axes, x)


_MONOIDS: dict[Any, tuple[Callable[..., jax.Array], Callable[[Any], Any]]] = {
    lax.add: (_sum, lambda dtype: 0),
    lax.max: (_max, lowest),
    lax.min: (_min, _highest),
}
