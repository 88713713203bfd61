"""softmax and log_softmax, recognised by the chain of primitives that JAX writes them in.

    top = max x        shifted = x - top        total = sum e^shifted
    softmax = e^shifted / total                 log_softmax = shifted - log total

along one axis; broadcasts, `stop_gradient`, a maximum with -inf and conversions between floating types may stand in
between.  A chain is followed as it is evaluated, one primitive after another, in either front end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Link(NamedTuple):
    """A value that was made of x on the way to its softmax along `axis`."""

    stage: str
    x: Any
    axis: int


class Match(NamedTuple):
    operation: str
    x: Any
    axis: int


class Chains:
    """The chains begun so far.

    constant(value) is the number of a value that is known, else None.
    """

    def __init__(self, constant: Callable[[Any], float | None]) -> None:
        self.constant = constant
        self._links: dict[int, tuple[Any, Link]] = {}  # a value is kept, so that its id stays its own

    def match(self, primitive: str, operands: Sequence[Any]) -> Match | None:
        """What the primitive completes, if it ends a chain."""
        if primitive not in ENDS:
            return None
        above, below, operation = ENDS[primitive]
        a, b = (self.link(v) for v in operands)
        if a is None or b is None or (a.stage, b.stage) != (above, below) or a.x is not b.x or a.axis != b.axis:
            return None
        return Match(operation, a.x, a.axis)

    def follow(self, primitive: str, params: Mapping[str, Any], operands: Sequence[Any], result: Any) -> None:
        """Remember the result, if it begins a chain or continues one."""
        if primitive in STEPS:
            link = STEPS[primitive](self, params, operands)
            if link is not None:
                self._links[id(result)] = (result, link)

    def link(self, value: Any) -> Link | None:
        found = self._links.get(id(value))
        return found[1] if found else None


def _begin(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    (x,) = operands
    if len(params["axes"]) != 1:
        return None
    return Link("top", x, params["axes"][0])


def _not_below(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    """max(-inf, top) is top."""
    for v, other in (operands, operands[::-1]):
        link, bound = chains.link(v), chains.link(other)
        lowest = bound.stage == "lowest" if bound is not None else chains.constant(other) == -jnp.inf
        if link is not None and link.stage == "top" and lowest:
            return link
    return None


def _same(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0])
    return link if link is not None and link.stage in ("top", "exponential", "total", "log") else None


def _converted(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    if not jnp.issubdtype(params["new_dtype"], jnp.floating):
        return None
    return Link("lowest", None, 0) if chains.constant(operands[0]) == -jnp.inf else _same(chains, params, operands)


def _broadcast(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    """A reduced axis comes back where it was."""
    link = chains.link(operands[0])
    if link is None or link.stage not in ("top", "total", "log"):
        return None
    rank, dims = len(params["shape"]), tuple(params["broadcast_dimensions"])
    kept, reduced = tuple(range(rank)), tuple(i for i in range(rank) if i != link.axis)
    return link if rank == _rank(link.x) and dims in (kept, reduced) else None


def _shifted(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    x, v = operands
    link = chains.link(v)
    if link is None or link.stage != "top" or link.x is not x or _rank(v) != _rank(x):
        return None
    return link._replace(stage="shifted")


def _exponential(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0])
    return link._replace(stage="exponential") if link is not None and link.stage == "shifted" else None


def _total(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0])
    if link is None or link.stage != "exponential" or tuple(params["axes"]) != (link.axis,):
        return None
    return link._replace(stage="total")


def _log(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0])
    return link._replace(stage="log") if link is not None and link.stage == "total" else None


def number(value: Any) -> float | None:
    """A floating scalar of Python's or NumPy's; a value on a device is not waited for."""
    return float(value) if isinstance(value, float | np.floating | np.ndarray) and _is_scalar(value) else None


def _is_scalar(value: Any) -> bool:
    return np.ndim(value) == 0 and jnp.issubdtype(np.result_type(value), jnp.floating)


def _rank(value: Any) -> int:
    aval = getattr(value, "aval", None)
    return len((jax.typeof(value) if aval is None else aval).shape)


# what a last primitive makes of values at two stages
ENDS = {"div": ("exponential", "total", "softmax"), "sub": ("shifted", "log", "log_softmax")}
STEPS: dict[str, Callable[[Chains, Mapping[str, Any], Sequence[Any]], Link | None]] = {
    "reduce_max": _begin,
    "max": _not_below,
    "stop_gradient": _same,
    "convert_element_type": _converted,
    "broadcast_in_dim": _broadcast,
    "sub": _shifted,
    "exp": _exponential,
    "reduce_sum": _total,
    "log": _log,
}
