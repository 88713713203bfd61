"""Forward products from reverse rules: the transpose of the transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

R = TypeVar("R")


def jvp(fn: Callable[..., R], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[R, R]:
    """(fn(*primals), the directional derivative along tangents): what `jax.jvp` refuses to give for `custom_vjp`.

    `jax.jvp` and `jax.jacfwd` of a function with a `jax.custom_vjp` rule, and the linear function that
    `jax.linearize` returns of it, raise "can't apply forward-mode autodiff (jvp) to a custom_vjp function" when
    called.  The vjp u -> J^T u is linear in u, so its own vjp is t -> J t, whatever u: two reverse passes, all by
    hand.  `jax.hessian(f)` is forward over reverse; use `jax.jacrev(jax.jacrev(f))`, or this function on `jax.grad(f)`.

    Args:
      fn: any function of arrays (pytrees) that can be differentiated twice in reverse mode.
      primals: a tuple or list of arguments.
      tangents: a tuple or list like primals; for an integer argument zeros of dtype float0.

    Returns:
      The value and its tangent, as `jax.jvp` returns them.

    Raises:
      TypeError: where primals and tangents are not tuples or lists of one structure.

    >>> from fnconv import relu
    >>> y, dy = jvp(relu, (jnp.array([-1., 2.]),), (jnp.array([5., 5.]),))
    >>> y.tolist(), dy.tolist()
    ([0.0, 2.0], [0.0, 5.0])
    """
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        found = f"{type(primals).__name__} and {type(tangents).__name__}"
        raise TypeError(f"jvp: primals and tangents must be tuples or lists of arguments; got {found}")
    leaves, tree = jax.tree.flatten(tuple(primals))
    directions, other = jax.tree.flatten(tuple(tangents))
    if tree != other:  # type: ignore[operator]
        raise TypeError(f"jvp: tangents must have the structure of primals, {tree}; got {other}")
    for x, t in zip(leaves, directions, strict=True):
        _check_tangent(x, t)
    moving = [i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]

    def of_moving(*values: jax.Array) -> Any:
        full = list(leaves)
        for i, v in zip(moving, values, strict=True):
            full[i] = v
        return fn(*jax.tree.unflatten(tree, full))

    y, pullback = jax.vjp(of_moving, *(leaves[i] for i in moving))
    cotangent = jax.tree.map(_zero_cotangent, y)
    _, pushforward = jax.vjp(pullback, cotangent)
    (tangent,) = pushforward(tuple(jnp.asarray(directions[i]) for i in moving))
    return y, tangent


def _check_tangent(x: Any, t: Any) -> None:
    expected = jax.dtypes.float0 if not jnp.issubdtype(jnp.result_type(x), jnp.inexact) else jnp.result_type(x)
    found = jax.dtypes.float0 if getattr(t, "dtype", None) == jax.dtypes.float0 else jnp.result_type(t)
    if np.shape(x) != np.shape(t) or expected != found:
        raise TypeError(
            f"jvp: a tangent must have its primal's shape and tangent dtype, {np.shape(x)} {np.dtype(expected).name}; "
            f"got {np.shape(t)} {np.dtype(found).name}"
        )


def _zero_cotangent(y: jax.Array) -> Any:
    if jnp.issubdtype(y.dtype, jnp.inexact):
        return jnp.zeros_like(y)
    return np.zeros(y.shape, jax.dtypes.float0)
