"""Numbers for the symbols: random integers, or the reader's own arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fnconv.base.errors import invalid, mistyped
from fnconv.base.typing import ArrayLike
from fnconv.show.blocks import EQUATIONS, TERMS, Limit, readable
from fnconv.show.relation import Index, first
from fnconv.show.symbols import Expression, Partial, Sum, Symbol, substitute

Array = npt.NDArray[np.float32]
Numbers = ArrayLike | npt.ArrayLike | Path  # an array, what makes one, or the path of a .npy file
ShapeOrNumbers = int | Sequence[int] | Numbers
Given = Array | tuple[int, ...]
Tensor = tuple[Callable[..., Symbol], tuple[int, ...], tuple[int, ...]]  # symbol(channels, position), their extents
MOST_NUMBERS = 2**22  # elements of a tensor that numbers are still put into


def load(function: str, argument: str, given: Any) -> Given:
    """A shape as it is; an array, or the array in a .npy file, as float32."""
    if isinstance(given, str | Path):
        try:
            given = np.load(given, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise invalid(function, argument, f"must be a .npy file that can be read ({error})", given) from None
    if isinstance(given, int):
        given = (given,)
    if isinstance(given, tuple | list) and all(isinstance(n, int) and not isinstance(n, bool) for n in given):
        if not given or any(n < 1 for n in given):
            raise invalid(function, argument, "must have sizes of at least 1", tuple(given))
        return tuple(given)
    array = np.asarray(given)
    if array.dtype.kind not in "iuf":
        raise mistyped(function, argument, "must be a shape or an array of real numbers", array.dtype.name)
    if array.ndim < 1 or array.size == 0:
        raise invalid(function, argument, "must have an entry or more", array.shape)
    return array.astype(np.float32)


def fit(function: str, argument: str, array: Array, shape: tuple[int, ...], optional: int) -> Array:
    """An array in the shape wanted, of which the last `optional` axes may be missing where they are 1."""
    bare = shape[: len(shape) - optional]
    if array.shape == bare and set(shape[len(bare) :]) <= {1}:
        return array.reshape(shape)
    if array.shape != shape:
        raise invalid(function, argument, f"must have the shape {shape}", array.shape)
    return array


def cotangent(function: str, given: Any, shape: tuple[int, ...], optional: int = 1) -> dict[str, Array]:
    """The numbers of δ under its name, where there are any."""
    if given is None:
        return {}
    array = load(function, "cotangent", given)
    if not isinstance(array, np.ndarray):
        raise invalid(function, "cotangent", "must be an array or a .npy file", array)
    return {"δ": fit(function, "cotangent", array, shape, optional)}


def random(shape: tuple[int, ...], seed: tuple[int, ...], low: int, high: int, *, repeat: bool = False) -> Array:
    """Integers from low to high without 0, which would hide a term; all different where there are enough of them.

    Entries that are equal would hide a kernel that was not turned; `repeat` asks for them, as ties.
    """
    if min(seed) < 0:
        raise invalid("show", "seed", "must be at least 0", min(seed))
    pool = np.array([n for n in range(low, high + 1) if n])
    count = int(np.prod(shape))
    drawn = np.random.default_rng(seed).choice(pool, count, replace=repeat or count > len(pool))
    return drawn.reshape(shape).astype(np.float32)


class Written:
    """A layer in symbols, and in numbers in the library's layout: given or random ones, and what fnconv computes.

    name: of the function that writes it.  shapes: of the operands, the last of them the cotangent.
    tensors: the operands that are drawn as matrices, and the result.  apply: the library's operation.
    ranges: of the random integers for each operand.  limits: of equations, and of terms in each.
    """

    name: str
    seed: int
    given: Mapping[str, Array]
    shapes: dict[str, tuple[int, ...]]
    tensors: dict[str, Tensor]
    apply: Callable[..., Any]
    ranges: Mapping[str, tuple[int, int]]
    limits: tuple[Limit, Limit] = EQUATIONS, TERMS

    def first(self, *shape: int) -> Iterator[Index]:
        """The indices of the equations that are shown, of so many."""
        return first(shape, self.limits[0])

    def some(self, terms: Iterable[Expression], total: int) -> Sum:
        """The terms that are shown of a sum of `total`."""
        shown = readable(total, self.limits[1])
        return Sum(tuple(islice(terms, shown)), total - shown)

    @property
    def numeric(self) -> bool:
        """Whether tensors are small enough to be filled with numbers."""
        return all(np.prod(shape, dtype=float) <= MOST_NUMBERS for shape in self.shapes.values())

    def drawn(self, name: str) -> Array:
        """An operand that is not given."""
        return random(self.shapes[name], (self.seed, list(self.shapes).index(name)), *self.ranges[name])

    @cached_property
    def operands(self) -> dict[str, Array]:
        if not self.numeric:
            listed = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
            raise invalid(self.name, "values", f"can be put into tensors of at most {MOST_NUMBERS} elements", listed)
        return {name: self.given[name] if name in self.given else self.drawn(name) for name in self.shapes}

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The operands, the result and the gradients."""
        *given, cotangent = map(jnp.asarray, self.operands.values())
        y, pullback = jax.vjp(self.apply, *given)
        (result,) = self.tensors.keys() - self.shapes.keys()
        found = {result: y, **dict(zip(map("d{}".format, self.shapes), pullback(cotangent), strict=False))}
        return self.operands | {name: np.asarray(array) for name, array in found.items()}

    def value(self, symbol: Symbol) -> float:
        """The entry that a symbol names: channels, which a symbol has first, are an array's last axes, reversed.

        W_21,11 is w[0, 0, 0, 1] of (*window, in, out), I_2,31 is x[2, 0, 1] of (*spatial, channel).
        """
        table = self.arrays[symbol.name]
        *channels, position = symbol.groups or ((),)
        at = tuple(i - 1 for i in (*position, *(c for group in channels for c in reversed(group))))
        return float(table[at + (0,) * (table.ndim - len(at))])

    def result(self, left: Expression) -> float:
        """What fnconv computes for the left side of an equation."""
        if isinstance(left, Partial):
            return self.value(Symbol("d" + left.symbol.name, left.symbol.groups))
        if isinstance(left, Symbol):
            return self.value(left)
        raise TypeError(f"{self.name}: no number for {left}")

    def put(self, e: Expression, values: bool) -> Expression:
        """With numbers for its symbols, if `values` are wanted."""
        return substitute(e, self.value) if values else e
