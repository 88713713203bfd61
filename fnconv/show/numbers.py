"""Numbers for the symbols: random integers, or the reader's own arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fnconv.base.errors import invalid, mistyped
from fnconv.show.symbols import Symbol, Values

Array = npt.NDArray[np.float32]
Given = Array | tuple[int, ...]
LARGEST = 2**22  # elements of a tensor that numbers are still put into


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


def fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether tensors are small enough to be filled with numbers."""
    return all(np.prod(shape, dtype=float) <= LARGEST for shape in shapes.values())


def refuse_if_large(function: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not fits(shapes):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise invalid(function, "values", f"can be put into tensors of at most {LARGEST} elements", listed)


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


def lookup(arrays: Mapping[str, Any]) -> Values:
    """The entry that a symbol names: channels, which a symbol has first, are an array's last axes, reversed.

    W_21,11 is w[0, 0, 0, 1] of (*window, in, out), I_2,31 is x[2, 0, 1] of (*spatial, channel).
    """
    tables = {name: np.asarray(array) for name, array in arrays.items()}

    def value(symbol: Symbol) -> float:
        table = tables[symbol.name]
        *channels, position = symbol.groups or ((),)
        index = (*position, *(c for group in channels for c in reversed(group)))
        at = tuple(i - 1 for i in index)
        return float(table[at + (0,) * (table.ndim - len(at))])

    return value
