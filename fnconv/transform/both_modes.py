"""`both_modes`: forward mode beside reverse mode, from one hand-derived rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import ParamSpec, TypeVar

from fnconv.base.attach import modes
from fnconv.base.errors import mistyped

P = ParamSpec("P")
R = TypeVar("R")


def both_modes(fn: Callable[P, R]) -> Callable[P, R]:
    """The same function, to which every mode of differentiation applies: forward, reverse and all their orders.

    JAX refuses forward mode for a `jax.custom_vjp` function, which fnconv's operations are.  Those that `fn` calls or
    that `with_manual_rules` puts into it, outside or inside, are `jax.custom_jvp` functions or linear primitives
    instead, so `jax.jvp`, `jax.jacfwd`, `jax.linearize`, `jax.linear_transpose`, while loops and `jax.hessian` in each
    order of modes apply.  Everything is derived by hand still: with the vjp dy -> J^T dy, whose maps carry their
    adjoints, its transpose dx -> J dx is known, and the transpose of that is the vjp again.  Reverse mode keeps the
    same arrays and runs the same maps as without `both_modes`; a tangent runs one map of the forward's kind for each
    operand that moves.

    It holds while `fn` runs or is traced, also for functions in it that were jitted and traced before, and for
    derivatives taken later of what was traced.  Functions with a `jax.custom_vjp` rule of the user's own keep it: of
    them `fnconv.jvp` gives forward products.

    Args:
      fn: the function; its arguments and results are of any kind.

    Raises:
      TypeError: fn is not callable.

    >>> import jax, jax.numpy as jnp
    >>> from fnconv import max_pool
    >>> x = jnp.array([1., 3., 2., 0.])[:, None]
    >>> pool = both_modes(lambda x: max_pool(x, (2,)))
    >>> y, dy = jax.jvp(pool, (x,), (10 * x,))
    >>> y[:, 0].tolist(), dy[:, 0].tolist()
    ([3.0, 2.0], [30.0, 20.0])
    >>> jax.jacfwd(pool)(x)[:, 0, :, 0].tolist()
    [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    if not callable(fn):
        raise mistyped("both_modes", "fn", "must be a function", type(fn).__name__)

    def with_both(*args: P.args, **kwargs: P.kwargs) -> R:
        with modes("both"):
            return fn(*args, **kwargs)

    update_wrapper(with_both, fn, updated=())
    return with_both
