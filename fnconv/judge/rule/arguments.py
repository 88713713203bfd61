"""The arguments and results of a function under test: which leaves move, which stay, and what each is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.errors import invalid, mistyped
from fnconv.judge.engine.arguments import Leaves, leaves_of
from fnconv.judge.engine.programs import abstract

Function = Callable[..., Any]
ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


@dataclass(frozen=True)
class Argument:
    """One array of the arguments that carries a derivative; of a complex one its real or its imaginary part."""

    name: str  # "x", "params['w']", "z.real"
    shape: tuple[int, ...]
    dtype: Any
    weak: bool
    value: np.ndarray | None  # float64; None where only shape and dtype were given
    place: int  # among all leaves of the call


@dataclass(frozen=True)
class Signature:
    """A call fn(*args, **kwargs) as a function of its floating leaves alone.

    judge: check_vjp or check_jvp, whose errors say so.
    symmetric: symmetric matrices that fn reads by half, so that its derivatives are symmetric ones or halves at will.
    held: names of Python floats that fn needs to know at trace time, and of which it was not differentiated.
    """

    judge: str
    fn: Function
    all: Leaves
    moving: tuple[Argument, ...]
    held: tuple[str, ...] = ()
    symmetric: tuple[str, ...] = ()  # names of matrices of which only the symmetric part counts

    @property
    def places(self) -> tuple[int, ...]:
        """Where the moving ones stand among all."""
        return tuple(leaf.place for leaf in self.moving)

    def merge(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with `values` in the places of the moving leaves."""
        found: dict[int, Any] = {}
        for place, value in zip(self.places, values, strict=True):
            found[place] = _complex(found[place], value) if place in found else value
        return self.all.merged(tuple(found), tuple(found.values()))

    def flat(self, fn: Function) -> Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """fn of the moving leaves: (its floating results and both parts of the complex ones, the others)."""

        def call(*values: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            halves = zip(self.moving, values, strict=True)
            values = tuple((v + jnp.swapaxes(v, -1, -2)) / 2 if a.name in self.symmetric else v for a, v in halves)
            args, kwargs = self.merge(values)
            results = [r for r in jax.tree.leaves(fn(*args, **kwargs)) if r is not None]
            parts = [p for r in results for p in ((jnp.real(r), jnp.imag(r)) if _is_complex(r) else (r,))]
            return tuple(filter(is_floating, parts)), tuple(p for p in parts if not is_floating(p))

        return call

    def cast(self, dtype: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the moving leaves in `dtype`; None for their own."""
        weak = [leaf.weak and dtype is None for leaf in self.moving]
        return tuple(abstract(a.shape, dtype or a.dtype, weak=w) for a, w in zip(self.moving, weak, strict=True))

    @property
    def dtype(self) -> Any:
        """The narrowest of the moving leaves' dtypes."""
        return max((leaf.dtype for leaf in self.moving), key=lambda d: float(jnp.finfo(d).eps))  # type: ignore[no-untyped-call]

    def sampler(self, domain: Function) -> Callable[[np.random.Generator], tuple[np.ndarray, ...]]:
        """Values of the moving leaves in what `domain(rng)` returns: all positional arguments of fn."""

        def sample(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
            drawn = domain(rng)
            args = drawn if isinstance(drawn, tuple) else (drawn,)
            moving = signature(self.judge, self.fn, args, self.merge(self.cast(None))[1]).moving
            found = [a.value for a in moving if a.value is not None and a.name not in self.held]
            if [v.shape for v in found] != [leaf.shape for leaf in self.moving]:
                shapes = {leaf.name: leaf.shape for leaf in self.moving}
                raise invalid(self.judge, "domain", f"must return arguments of the shapes {shapes}", drawn)
            return tuple(found)

        return sample

    def holding(self, names: Sequence[str]) -> Signature:
        """The same with some leaves, Python floats, held as they were given."""
        return replace(self, moving=tuple(leaf for leaf in self.moving if leaf.name not in names), held=tuple(names))


def signature(judge: str, fn: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature:
    """Take a call apart.  Arrays and Python numbers, floating or complex, move; everything else stays as it is.

    judge: its name, for errors.

    Raises:
      TypeError: fn is not callable, or nothing could be differentiated.
    """
    if not callable(fn):
        raise mistyped(judge, "fn", "must be a function", type(fn).__name__)
    static = set(getattr(fn, "nondiff_argnums", ()))
    leaves = leaves_of(fn, args, kwargs)
    places = []
    for i, (value, position) in enumerate(zip(leaves.values, leaves.positions, strict=True)):
        if position in static:
            continue
        if is_floating(value) or _is_complex(value):
            places.append(i)
    if not places:
        kinds = ", ".join(str(getattr(v, "dtype", type(v).__name__)) for v in leaves.values) or "no arguments"
        raise mistyped(judge, "args", "must hold a floating-point array to differentiate by", kinds)
    moving = [leaf for i in places for leaf in _arguments(judge, leaves.names[i], leaves.values[i], i)]
    return Signature(judge, fn, leaves, tuple(moving))


def is_sampler(domain: Function) -> bool:
    """Whether a domain is given by a function of `rng`, not by a predicate of the arguments."""
    return list(inspect.signature(domain).parameters) == ["rng"]


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


def _arguments(judge: str, name: str, value: Any, place: int) -> list[Argument]:
    if isinstance(value, jax.core.Tracer):
        raise mistyped(judge, name, "must be an array; call it outside of jit and other transformations", "tracer")
    weak = not isinstance(value, ARRAYS) or bool(getattr(value, "weak_type", False))
    if isinstance(value, jax.ShapeDtypeStruct):
        dtype, array = jnp.dtype(value.dtype), None
    else:
        array = np.asarray(value)
        kept = jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=False)
        dtype = jnp.dtype(jnp.result_type(value) if weak else kept)
        array = array.astype(dtype)
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return [
            Argument(name, np.shape(value), dtype, weak, None if array is None else array.astype(np.float64), place)
        ]
    real = jnp.finfo(dtype).dtype  # type: ignore[no-untyped-call]
    parts = {part: None if array is None else getattr(array, part).astype(np.float64) for part in ("real", "imag")}
    return [Argument(f"{name}.{part}", np.shape(value), real, weak, v, place) for part, v in parts.items()]


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or (
        hasattr(value, "dtype") and bool(jnp.issubdtype(value.dtype, jnp.complexfloating))
    )


def _complex(real: Any, imag: Any) -> Any:
    if not isinstance(real, jax.ShapeDtypeStruct):
        return jax.lax.complex(real, imag)
    return abstract(real.shape, jnp.result_type(real.dtype, jnp.complex64))
