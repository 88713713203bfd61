"""`flax.linen`'s pooling functions, signature for signature, on fnconv's maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.errors import invalid
from fnconv.base.typing import ArrayLike
from fnconv.compat.arguments import as_operand, check_dtypes, sequence
from fnconv.compat.windows import Pads, reduce_window
from fnconv.ops.avg_pool import avg_pool as mean_pool


def pool(
    inputs: ArrayLike,
    init: Any,
    reduce_fn: Callable[..., Any],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: Pads,
) -> jax.Array:
    """`flax.linen.pool` for max, min and add, with the gradients of `fnconv.compat.lax.reduce_window`.

    Args:
      inputs: (*batch, *spatial, features); any number of batch axes, also none.
      init, reduce_fn: -inf and `jax.lax.max`, inf and `jax.lax.min`, or 0 and `jax.lax.add`.
      window_shape: one entry per spatial axis.
      strides: one entry per spatial axis; None for 1, not for the window.
      padding: "VALID", "SAME", "SAME_LOWER", or a (low, high) pair per spatial axis.

    Returns:
      (*batch, *output, features) in the dtype of inputs.

    Raises:
      NotImplementedError: other reductions, naming reduce_fn's or init's part in `reduce_window`.
      ValueError, TypeError: where the number of entries is wrong, and as `reduce_window`.

    >>> pool(jnp.arange(4.)[:, None], 0., lax.add, (2,), None, "VALID")[:, 0].tolist()
    [1.0, 3.0, 5.0]
    """
    inputs = as_operand("pool", "inputs", inputs)
    batch, window, steps = _geometry("pool", inputs, window_shape, strides)
    if not isinstance(padding, str):
        sequence("pool", "padding", padding)
        pairs = tuple(tuple(p) for p in padding)
        if len(pairs) != len(window) or any(len(p) != 2 for p in pairs):
            raise invalid("pool", "padding", "needs a (low, high) pair per spatial axis", padding, inputs.shape)
        padding = [(0, 0)] * batch + [(low, high) for low, high in pairs] + [(0, 0)]
    ones = (1,) * batch
    return reduce_window(inputs, init, reduce_fn, (*ones, *window, 1), (*ones, *steps, 1), padding)


def max_pool(
    inputs: ArrayLike, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding: Pads = "VALID"
) -> jax.Array:
    """`flax.linen.max_pool` with the gradient of `fnconv.max_pool`; arguments as in `pool`.

    >>> x = jnp.array([1., 4., 2., 3.])[:, None]
    >>> jax.grad(lambda x: max_pool(x, (2,), strides=(2,)).sum())(x)[:, 0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    return pool(inputs, -jnp.inf, lax.max, window_shape, strides, padding)


def min_pool(
    inputs: ArrayLike, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding: Pads = "VALID"
) -> jax.Array:
    """`flax.linen.min_pool` with the gradient of `fnconv.max_pool`; arguments as in `pool`.

    >>> min_pool(jnp.array([1., 4., 2., 3.])[:, None], (2,), padding="SAME")[:, 0].tolist()
    [1.0, 2.0, 2.0, 3.0]
    """
    return pool(inputs, jnp.inf, lax.min, window_shape, strides, padding)


def avg_pool(
    inputs: ArrayLike,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Pads = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """`flax.linen.avg_pool` with the gradient of `fnconv.avg_pool`.

    Args:
      inputs, window_shape, strides, padding: as in `pool`.
      count_include_pad: whether the padding counts in the size that is divided by.  A window of which nothing is
        counted has value and gradient 0, where Flax divides 0 by 0.

    Returns:
      (*batch, *output, features) in the dtype of Flax's result: that of inputs where it is floating; without
      count_include_pad at least the default floating dtype, in which Flax counts.

    Raises:
      NotImplementedError, ValueError, TypeError: as `pool`.

    >>> avg_pool(jnp.arange(3.)[:, None], (2,), padding="SAME", count_include_pad=False)[:, 0].tolist()
    [0.5, 1.5, 2.0]
    """
    inputs = jnp.asarray(as_operand("avg_pool", "inputs", inputs))
    _, window, steps = _geometry("avg_pool", inputs, window_shape, strides)
    check_dtypes("avg_pool", inputs=inputs)
    default = jnp.result_type(float)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        inputs = inputs.astype(default)
    elif not count_include_pad:
        with jax.numpy_dtype_promotion("standard"):
            inputs = inputs.astype(jnp.promote_types(inputs.dtype, default))
    return mean_pool(inputs, window, strides=steps, padding=padding, count_include_pad=bool(count_include_pad))


def _geometry(
    name: str, inputs: jax.Array, window_shape: Sequence[int], strides: Sequence[int] | None
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """(number of batch axes, window, strides)."""
    window = tuple(sequence(name, "window_shape", window_shape))
    steps = tuple(sequence(name, "strides", strides or (1,) * len(window)))
    if len(steps) != len(window):
        raise invalid(name, "strides", f"needs one entry per entry of window_shape {window}", steps, inputs.shape)
    batch = inputs.ndim - len(window) - 1
    if batch < 0:
        raise invalid(name, "window_shape", "needs one entry per spatial axis", window, inputs.shape)
    return batch, window, steps
