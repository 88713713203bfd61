"""What the drop-ins share: refusals, optional sequences, explicit meshes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from fnconv.base.errors import describe
from fnconv.base.spec import FLOATS


def declined(function: str, argument: str, rule: str, value: Any) -> NotImplementedError:
    """What the original takes and fnconv has no rule for."""
    return NotImplementedError(describe(function, argument, rule, value))


def check_dtypes(function: str, **operands: jax.Array) -> None:
    for argument, a in operands.items():
        if not (any(a.dtype == f for f in FLOATS) or jnp.issubdtype(a.dtype, jnp.integer)):
            rule = "must have dtype float16, bfloat16, float32, float64 or an integer type"
            raise declined(function, argument, rule, np.dtype(a.dtype).name)


def static(value: Any) -> Any:
    """Sequences, also nested ones, as tuples: hashable."""
    return tuple(map(static, value)) if isinstance(value, list | tuple | np.ndarray) else value


def with_sharding_of(result: Any, f: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
    """f(*operands) with the sharding of `result`: on the explicit axes of a mesh f runs as on automatic ones."""
    mesh = getattr(result.sharding, "mesh", None)
    if mesh is None or AxisType.Explicit not in mesh.axis_types:
        return f(*operands)
    with jax.sharding.use_abstract_mesh(getattr(mesh, "abstract_mesh", mesh)):
        return jax.sharding.auto_axes(f, out_sharding=result.sharding)(*operands)
