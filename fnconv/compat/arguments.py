"""What the drop-ins share: refusals, optional sequences, explicit meshes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from fnconv.base import dtypes
from fnconv.base.errors import describe


def declined(function: str, argument: str, rule: str, value: Any) -> NotImplementedError:
    """What the original takes and fnconv has no rule for."""
    return NotImplementedError(describe(function, argument, rule, value))


def check_dtypes(function: str, **operands: jax.Array) -> None:
    for argument, a in operands.items():
        if not dtypes.accepted(a.dtype):
            rule = f"must have dtype {dtypes.accepted_names()}"
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
