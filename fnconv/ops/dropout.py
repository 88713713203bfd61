"""Dropout: a mask that is drawn again from its key on the way back, so that nothing of x's size is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnconv.base.attach import LinearMap, adjoint_to_each_other
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid, mistyped
from fnconv.base.spec import as_array, number
from fnconv.base.typing import ArrayLike
from fnconv.ops.activation import _axis


class _Spec(NamedTuple):
    keep: float
    shape: tuple[int, ...]
    kind: Any  # of key


def dropout(x: ArrayLike, key: jax.Array, rate: float = 0.5, *, broadcast_axes: Sequence[int] = ()) -> jax.Array:
    """x / (1 - rate) where `jax.random.bernoulli(key, 1 - rate)`, else 0 (Srivastava et al., 2014); dx so of dy.

    Keeps the key.  With all axes but the batch's in broadcast_axes whole images are dropped: stochastic depth.

    Args:
      x: floating.
      key: of `jax.random.key` or `jax.random.PRNGKey`.
      rate: a number in [0, 1], known at trace time.
      broadcast_axes: along which all share one draw.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax, jax.numpy as jnp
    >>> y = dropout(jnp.ones(1000), jax.random.key(0), 0.75)
    >>> sorted(set(y.tolist())), bool(abs(y.mean() - 1) < 0.2)
    ([0.0, 4.0], True)
    """
    x = as_array("dropout", "x", x, integers=False)
    rate = number("dropout", "rate", rate)
    if not 0 <= rate <= 1:
        raise invalid("dropout", "rate", "must be between 0 and 1", rate)
    shared = {_axis("dropout", a, x) for a in broadcast_axes}
    shape = tuple(1 if i in shared else size for i, size in enumerate(x.shape))
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    try:
        data, kind = (jax.random.key_data(key), str(jax.random.key_impl(key))) if typed else (jnp.asarray(key), None)
        one = jax.eval_shape(lambda k: jax.random.wrap_key_data(k, impl=kind), data).shape == ()
    except (TypeError, ValueError):
        one = False
    if not one:
        raise mistyped("dropout", "key", "must be one key of jax.random", repr(key))
    return _dropout.attached(_Spec(1 - rate, shape, kind), data, x)


def _dropped(spec: _Spec, key: jax.Array, x: jax.Array) -> jax.Array:
    # in float32 always, or the mask would depend on jax_enable_x64
    drawn = jax.random.bernoulli(jax.random.wrap_key_data(key, impl=spec.kind), jnp.float32(spec.keep), spec.shape)
    return jnp.where(drawn, (to_accumulator(x) / (spec.keep or 1)).astype(x.dtype), jnp.zeros((), x.dtype))


_dropout = LinearMap("dropout", _dropped)
adjoint_to_each_other(_dropout, _dropout, constants=1)
