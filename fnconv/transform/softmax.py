"""softmax, log_softmax and logsumexp, recognised by the chain of primitives that JAX writes them in.

    top = max x        shifted = x - top        total = sum e^shifted
    softmax = e^shifted / total        log_softmax = shifted - log total        logsumexp = log total + top

along one axis; broadcasts, transpositions, `stop_gradient`, a maximum with -inf, the replacement of an infinite top
by 0 and conversions between floating types may stand in between.  A chain is followed as it is evaluated, one
primitive after another, in either front end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.transform.moments import Moments
from fnconv.transform.polynomials import Polynomials
from fnconv.transform.recompute import Recipes

Dims = tuple[int, ...]


class Link(NamedTuple):
    """A value that was made of x on the way to its softmax along `axis`.

    dims: for every axis of the value which axis of x it is; `axis` itself is there where it was kept or came back.
    """

    stage: str
    x: Any
    axis: int
    dims: Dims


class Match(NamedTuple):
    """What completes a chain, and how the result lies: `dims` as in `Link`."""

    operation: str
    x: Any
    axis: int
    dims: Dims


LOWEST, ZERO = (Link(name, None, 0, ()) for name in ("lowest", "zero"))  # constants


class Chains:
    """The chains begun so far.

    constant(value) is the number of a value that is known, else None.
    """

    def __init__(self, constant: Callable[[Any], float | None]) -> None:
        self.constant, self.polynomials = constant, Polynomials(constant)
        self.moments = Moments(self.polynomials.constant)
        self.recipes = Recipes(self.moments)
        self._links: dict[int, tuple[Any, Link]] = {}  # a value is kept, so that its id stays its own

    def match(self, primitive: str, operands: Sequence[Any]) -> Match | None:
        """What the primitive completes, if it ends a chain."""
        if primitive not in ENDS:
            return None
        above, below, operation = ENDS[primitive]
        a, b = (self.link(v) for v in operands)
        if primitive == "add" and a is not None and a.stage == below:
            a, b = b, a
        if a is None or b is None or (a.stage, b.stage) != (above, below):
            return None
        if a.x is not b.x or a.axis != b.axis or a.dims != b.dims:
            return None
        return Match(operation, a.x, a.axis, a.dims)

    def follow(self, primitive: str, params: Mapping[str, Any], operands: Sequence[Any], result: Any) -> None:
        """Remember the result, if it begins a chain or continues one."""
        self.polynomials.follow(primitive, params, operands, result)
        self.moments.follow(primitive, params, operands, result)
        self.recipes.follow(primitive, params, operands, result)
        if primitive in STEPS:
            link = STEPS[primitive](self, params, operands)
            if link is not None:
                self._links[id(result)] = (result, link)

    def link(self, value: Any, *stages: str) -> Link | None:
        """That of a value, if it has one of these stages, or any."""
        found = self._links.get(id(value))
        return found[1] if found and (not stages or found[1].stage in stages) else None

    def base(self, value: Any) -> Link:
        """A value as x itself, or as x with its axes in another order."""
        return self.link(value, "x") or Link("x", value, 0, tuple(range(_rank(value))))

    def is_constant(self, value: Any, number: float, link: Link) -> bool:
        return self.link(value) is link or self.constant(value) == number


Step = Callable[[Chains, Mapping[str, Any], Sequence[Any]], Link | None]


def _begin(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    if len(params["axes"]) != 1:
        return None
    base, reduced = chains.base(operands[0]), int(params["axes"][0])
    return Link("top", base.x, base.dims[reduced], base.dims[:reduced] + base.dims[reduced + 1 :])


def _not_below(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    """max(-inf, top) is top."""
    for v, other in (operands, operands[::-1]):
        link = chains.link(v, "top")
        if link is not None and chains.is_constant(other, -jnp.inf, LOWEST):
            return link
    return None


def _same(*stages: str) -> Step:
    return lambda chains, params, operands: chains.link(operands[0], *stages)


def _converted(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    if not jnp.issubdtype(params["new_dtype"], jnp.floating):
        return None
    for value, link in ((-jnp.inf, LOWEST), (0, ZERO)):
        if chains.is_constant(operands[0], value, link):
            return link
    return chains.link(operands[0], "top", "exponential", "total", "log")


def _finite(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0], "top")
    return link._replace(stage="finite") if link is not None else None


def _made_finite(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    """top where it is finite, else 0."""
    if len(operands) != 3:
        return None
    which, otherwise, v = operands
    finite, link = chains.link(which, "finite"), chains.link(v, "top")
    same = link is not None and finite == link._replace(stage="finite")
    return link if same and chains.is_constant(otherwise, 0, ZERO) else None


def _broadcast(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    """A reduced axis comes back."""
    if chains.is_constant(operands[0], 0, ZERO):
        return ZERO
    link = chains.link(operands[0], "top", "finite", "total", "log")
    if link is None:
        return None
    dims = dict(zip(params["broadcast_dimensions"], link.dims, strict=True))
    new = [i for i in range(len(params["shape"])) if i not in dims]
    if len(new) > 1 or (new and link.axis in link.dims):
        return None
    return link._replace(dims=tuple(dims.get(i, link.axis) for i in range(len(params["shape"]))))


def _transposed(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0]) or chains.base(operands[0])
    return link._replace(dims=tuple(link.dims[i] for i in params["permutation"])) if link.x is not None else None


def _shifted(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    base, link = chains.base(operands[0]), chains.link(operands[1], "top")
    if link is None or link.x is not base.x or link.dims != base.dims:
        return None
    return link._replace(stage="shifted")


def _exponential(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0], "shifted")
    return link._replace(stage="exponential") if link is not None else None


def _total(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0], "exponential")
    if link is None or [link.dims[i] for i in params["axes"]] != [link.axis]:
        return None
    return link._replace(stage="total", dims=tuple(d for d in link.dims if d != link.axis))


def _log(chains: Chains, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = chains.link(operands[0], "total")
    return link._replace(stage="log") if link is not None else None


def number(value: Any) -> float | None:
    """A scalar of Python's or NumPy's; a value on a device is not waited for."""
    return float(value) if isinstance(value, int | float | np.number | np.ndarray) and _is_scalar(value) else None


def _is_scalar(value: Any) -> bool:
    kind = np.result_type(value)
    return np.ndim(value) == 0 and (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer))


def _rank(value: Any) -> int:
    aval = getattr(value, "aval", None)
    return len((jax.typeof(value) if aval is None else aval).shape)


# what a last primitive makes of values at two stages
ENDS = {
    "div": ("exponential", "total", "softmax"),
    "sub": ("shifted", "log", "log_softmax"),
    "add": ("log", "top", "logsumexp"),
}
STEPS: dict[str, Step] = {
    "reduce_max": _begin,
    "max": _not_below,
    "is_finite": _finite,
    "select_n": _made_finite,
    "stop_gradient": _same("top"),
    "abs": _same("total"),
    "convert_element_type": _converted,
    "broadcast_in_dim": _broadcast,
    "transpose": _transposed,
    "sub": _shifted,
    "exp": _exponential,
    "reduce_sum": _total,
    "log": _log,
}
