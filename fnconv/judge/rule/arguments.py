"""The arguments and results of a function under test: which leaves move, which stay, and what each is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.errors import mistyped
from fnconv.judge.engine.arguments import Leaves, leaves_of
from fnconv.judge.engine.programs import abstract

Function = Callable[..., Any]
ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


@dataclass(frozen=True)
class Argument:
    """One array of the arguments that carries a derivative."""

    name: str  # "x", "params['w']"
    shape: tuple[int, ...]
    dtype: Any
    weak: bool
    value: np.ndarray | None  # float64; None where only shape and dtype were given


@dataclass(frozen=True)
class Signature:
    """A call fn(*args, **kwargs) as a function of its floating leaves alone.

    judge: check_vjp or check_jvp, whose errors say so.
    held: names of Python floats that fn needs to know at trace time, and of which it was not differentiated.
    """

    judge: str
    fn: Function
    all: Leaves
    moving: tuple[Argument, ...]
    places: tuple[int, ...]  # where the moving ones stand among all
    held: tuple[str, ...] = ()

    def merge(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with `values` in the places of the moving leaves."""
        return self.all.merged(self.places, values)

    def flat(self, fn: Function) -> Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """fn of the moving leaves: (its floating results, the others)."""

        def call(*values: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            args, kwargs = self.merge(values)
            results = [r for r in jax.tree.leaves(fn(*args, **kwargs)) if r is not None]
            floating = tuple(r for r in results if is_floating(r))
            return floating, tuple(r for r in results if not is_floating(r))

        return call

    def cast(self, dtype: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the moving leaves in `dtype`; None for their own."""
        weak = [leaf.weak and dtype is None for leaf in self.moving]
        return tuple(abstract(a.shape, dtype or a.dtype, weak=w) for a, w in zip(self.moving, weak, strict=True))

    @property
    def dtype(self) -> Any:
        """The narrowest of the moving leaves' dtypes."""
        return max((leaf.dtype for leaf in self.moving), key=lambda d: float(jnp.finfo(d).eps))  # type: ignore[no-untyped-call]

    def holding(self, names: Sequence[str]) -> Signature:
        """The same with some leaves, Python floats, held as they were given."""
        kept = [(leaf, place) for leaf, place in zip(self.moving, self.places, strict=True) if leaf.name not in names]
        moving, places = tuple(k[0] for k in kept), tuple(k[1] for k in kept)
        return replace(self, moving=moving, places=places, held=tuple(names))


def signature(judge: str, fn: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature:
    """Take a call apart.  Arrays and Python floats of floating dtype move; everything else stays as it is.

    judge: its name, for errors.

    Raises:
      TypeError: fn is not callable, an array is complex, or nothing could be differentiated.
    """
    if not callable(fn):
        raise mistyped(judge, "fn", "must be a function", type(fn).__name__)
    static = set(getattr(fn, "nondiff_argnums", ()))
    leaves = leaves_of(fn, args, kwargs)
    places = []
    for i, (name, value, position) in enumerate(zip(leaves.names, leaves.values, leaves.positions, strict=True)):
        if position in static:
            continue
        if _is_complex(value):
            raise mistyped(judge, name, "must be real; complex derivatives are not checked", value.dtype)
        if is_floating(value):
            places.append(i)
    if not places:
        kinds = ", ".join(str(getattr(v, "dtype", type(v).__name__)) for v in leaves.values) or "no arguments"
        raise mistyped(judge, "args", "must hold a floating-point array to differentiate by", kinds)
    moving = tuple(_argument(judge, leaves.names[i], leaves.values[i]) for i in places)
    return Signature(judge, fn, leaves, moving, tuple(places))


def is_floating(value: Any) -> bool:
    """Arrays, shapes and Python floats of floating dtype."""
    if isinstance(value, ARRAYS) or hasattr(value, "aval"):
        return bool(jnp.issubdtype(value.dtype, jnp.floating))
    return isinstance(value, float)


def python_floats(call: Signature) -> list[str]:
    """The moving leaves that were given as Python floats."""
    return [
        leaf.name
        for leaf, i in zip(call.moving, call.places, strict=True)
        if not isinstance(call.all.values[i], ARRAYS)
    ]


def _argument(judge: str, name: str, value: Any) -> Argument:
    if isinstance(value, jax.ShapeDtypeStruct):
        return Argument(name, value.shape, jnp.dtype(value.dtype), bool(getattr(value, "weak_type", False)), None)
    if isinstance(value, jax.core.Tracer):
        raise mistyped(judge, name, "must be an array; call it outside of jit and other transformations", "tracer")
    weak = not isinstance(value, ARRAYS) or bool(getattr(value, "weak_type", False))
    array = np.asarray(value)
    dtype = jnp.result_type(value) if weak else jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=False)
    return Argument(name, array.shape, jnp.dtype(dtype), weak, array.astype(dtype).astype(np.float64))


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or (
        isinstance(value, ARRAYS) and bool(jnp.issubdtype(value.dtype, jnp.complexfloating))
    )
