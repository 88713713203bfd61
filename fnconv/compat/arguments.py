"""What the drop-ins share: refusals, optional sequences, explicit meshes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from fnconv.base import dtypes
from fnconv.base.errors import describe, invalid, mistyped
from fnconv.base.spec import NO_SEQUENCE, native


def declined(function: str, argument: str, rule: str, value: Any) -> NotImplementedError:
    """What the original takes and fnconv has no rule for."""
    return NotImplementedError(describe(function, argument, rule, value))


def as_operand(function: str, argument: str, x: Any, axes: int = 0) -> jax.Array:
    """An array as it is, with so many axes or more; NumPy's as JAX takes them."""
    if not (isinstance(x, jax.Array | np.ndarray | np.generic) or hasattr(x, "__jax_array__")):
        raise mistyped(function, argument, "must be an array", type(x).__name__)
    if len(x.shape) < axes:
        raise invalid(function, argument, f"must have {axes} axes or more", tuple(x.shape))
    return native(function, argument, x)


def sequence(function: str, argument: str, value: Any) -> Any:
    """What must have an entry for each axis."""
    if isinstance(value, NO_SEQUENCE) or not hasattr(value, "__len__"):
        raise mistyped(function, argument, "must be a sequence with one entry per axis", repr(value))
    return value


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
