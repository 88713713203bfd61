"""Normalisation, recognised by its moments: what is subtracted is the mean of x, what divides is its deviation.

    mean = sum x / n        v = mean((x - mean)^2)  or  mean(x^2) - mean^2        r = 1 / sqrt(v + epsilon)
    (x - mean) r scale    or    x (r scale) + (-mean (r scale) + bias)    or    x / sqrt(mean(x^2) + epsilon) scale

over any axes; conversions, broadcasts and axes of size 1 may stand in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base import dtypes

Dims = tuple[int, ...]
NEW = -1  # in dims: an axis of size 1, or one along which a value was broadcast
ROUNDING = 2.0**-22  # of the numbers of a program in float32; n - 1 for n is further off, where it can be told
REPEATED = -2  # REPEATED - d: axis d, each entry of it repeated


class Link(NamedTuple):
    """What a value is of x.

    dims: for each axis of the value which of x it is; axes: those of x that were summed over; centred: whether of
    x - mean; left: what a sum must still be divided by to be a mean; of: values that it was made of.
    """

    stage: str
    x: Any
    dims: Dims
    axes: frozenset[int] = frozenset()
    centred: bool = False
    left: float = 1.0
    of: tuple[Any, ...] = ()

    @property
    def kind(self) -> str:
        """The stage; of sums that are means already: "mean", "mean of squares"."""
        is_mean = self.stage.startswith("sum") and math.isclose(self.left, 1.0, rel_tol=ROUNDING)
        return self.stage.replace("sum", "mean") if is_mean else self.stage


class Placed(NamedTuple):
    """A value by what it is a broadcast of, and the shape of the value's rank that this has."""

    source: Any
    shape: tuple[int, ...]

    def moved(self, moves: Dims) -> Placed:
        return Placed(self.source, tuple(1 if i == NEW else self.shape[i] for i in moves))


class Match(NamedTuple):
    """A normalisation: the parameters that `norm` is built from, and its operands."""

    params: Mapping[str, Any]
    operands: tuple[Any, ...]


class Moments:
    """The links so far; constant(value) is the number of a value that is known, else None."""

    def __init__(self, constant: Callable[[Any], float | None]) -> None:
        self.constant = constant
        self._links: dict[int, tuple[Any, Link]] = {}  # a value is kept, so that its id stays its own
        self._placed: dict[int, tuple[Any, Placed]] = {}
        self._split: dict[
            int, tuple[Any, Any, int]
        ] = {}  # an array, what it was reshaped from, and the axis cut in two

    def link(self, value: Any) -> Link:
        """That of a value; one that has none is an x itself."""
        found = self._links.get(id(value))
        return found[1] if found else Link("x", value, tuple(range(len(shape_of(value)))))

    def x(self, value: Any) -> Link:
        """A value as an x, whatever else it is."""
        link = self.link(value)
        return link if link.stage == "x" else Link("x", value, tuple(range(len(shape_of(value)))))

    def placed(self, value: Any) -> Placed:
        found = self._placed.get(id(value))
        return found[1] if found else Placed(value, shape_of(value))

    def parts(self, whole: Any, link: Link) -> bool:
        """Whether the link is of this array with its channels in groups, and lies on it, repeated in each group."""
        _, of, axis = self._split.get(id(link.x), (None, None, 0))
        at = [i for i, d in enumerate(link.dims) if d <= REPEATED]
        return of is not None and self.x(whole).x is of and at == [axis] and link.dims[axis] == REPEATED - axis

    def is_small(self, value: Any, x: Any) -> bool:
        """Whether what the value is a broadcast of is to be broadcast to x, which is larger; numbers are neither."""
        small, large = self.placed(value).shape, shape_of(x)
        fits = len(small) == len(large) and all(a in (1, b) for a, b in zip(small, large, strict=True))
        return fits and small != large and self.constant(value) is None

    def is_moment(self, value: Any) -> bool:
        return self.link(value).kind in ("mean", "root", "deviation")

    def follow(self, primitive: str, params: Mapping[str, Any], operands: Sequence[Any], result: Any) -> None:
        moves = _moves(primitive, params, operands, result)
        if moves is not None:
            self._placed[id(result)] = result, self.placed(operands[0]).moved(moves)
            link = self.link(operands[0])
            if link.stage != "x":
                dims = tuple(NEW if i == NEW else link.dims[i] for i in moves)
                of = tuple(v.moved(moves) if isinstance(v, Placed) else v for v in link.of)
                self._links[id(result)] = result, link._replace(dims=dims, of=of)
        elif primitive == "reshape" and self._follow_groups(operands[0], result):
            pass
        elif primitive in STEPS:
            found = STEPS[primitive](self, params, operands)
            if found is not None:
                self._links[id(result)] = result, found

    def _follow_groups(self, operand: Any, result: Any) -> bool:
        """A reshape that cuts an axis of an array in two, or joins an axis of moments and one they are repeated on."""
        old, new, link = shape_of(operand), shape_of(result), self.link(operand)
        for i in range(len(old)):
            if link.stage == "x" and old == (*new[:i], math.prod(new[i : i + 2]), *new[i + 2 :]):
                self._split[id(result)] = result, link.x, i
                return True
            joined = (*old[:i], math.prod(old[i : i + 2]), *old[i + 2 :])
            if link.stage != "x" and new == joined and link.dims[i + 1 : i + 2] == (NEW,) and link.dims[i] >= 0:
                dims = (*link.dims[:i], REPEATED - link.dims[i], *link.dims[i + 2 :])
                self._links[id(result)] = result, link._replace(dims=dims)
                return True
        return False

    def match(self, primitive: str, operands: Sequence[Any]) -> Match | None:
        """What the primitive completes, if it ends a normalisation."""
        link = ENDS[primitive](self, operands) if primitive in ENDS else None
        if link is None or link.stage != "norm":
            return None
        mean, root, scale, bias, form, deviation = link.of
        given = [(name, v) for name, v in (("m", mean), ("r", root), ("scale", scale), ("bias", bias)) if v is not None]
        params: dict[str, Any] = {
            "axes": tuple(sorted(link.axes)),
            "centred": link.centred,
            "form": form,
            "deviation": deviation,
            "shapes": tuple((name, v.shape) for name, v in given),
        }
        x = link.x
        if len(link.dims) < len(shape_of(x)):  # the array whose parts are normalised
            _, x, at = self._split[id(link.x)]
            params["groups"] = at, shape_of(link.x)[at : at + 2]
        return Match(params, (x, *(v.source for _, v in given)))

    def gate(self, primitive: str, operands: Sequence[Any]) -> Match | None:
        """A product with a factor that was broadcast, where it is no step of a normalisation."""
        if primitive != "mul" or _mul(self, {}, operands) is not None:
            return None
        for x, s in _both_ways(operands):
            placed = self.placed(s)
            floating = dtypes.accepted(dtype_of(x), integers=False)
            if floating and not is_one(placed.shape) and self.is_small(s, x) and self.constant(x) is None:
                return Match({"shape": placed.shape}, (x, placed.source))
        return None


Step = Callable[[Moments, Mapping[str, Any], Sequence[Any]], Link | None]


def _both_ways(operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    return operands, operands[::-1]


# ---- moments --------------------------------------------------------------------------------------------------------


def _sum(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = moments.link(operands[0])
    link = link.of[0] if link.stage == "mean squared" else link
    link = link if link.stage == "square" else moments.x(operands[0])
    return _summed(link._replace(stage="sum" if link.stage == "x" else "sum of squares"), params, operands)


def _sum_over_examples(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    """What a sum over a mapped axis becomes under `jax.vmap`, where a mean is of the means of all examples."""
    link = moments.link(operands[0])
    return _summed(link, params, operands) if link.stage.startswith("sum") else _sum(moments, params, operands)


def _summed(link: Link, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    axes = params["axes"]
    if not all(isinstance(a, int | np.integer) for a in axes):  # others are names of mesh axes
        return None
    gone = [link.dims[a] for a in axes]
    dims = tuple(d for i, d in enumerate(link.dims) if i not in axes)
    n = math.prod(shape_of(operands[0])[a] for a in axes)
    if NEW in gone or not isinstance(n, int):  # a symbolic number
        return None
    return link._replace(dims=dims, axes=link.axes | frozenset(gone), left=link.left * n)


def _square(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = moments.link(operands[0])
    if params.get("y", 2) != 2:
        return None
    square = (link if link.stage == "centred" else moments.x(operands[0]))._replace(stage="square")
    return link._replace(stage="mean squared", of=(square,)) if link.kind == "mean" else square


def _sub(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    (a, b), x = map(moments.link, operands), moments.x(operands[0])
    if moments.constant(moments.placed(operands[1]).source) == 0:
        return x
    if b.stage == "mean times r":
        return b._replace(stage="shift", of=(*b.of, moments.placed(operands[0])))
    if b.kind == "mean" and (moments.parts(operands[0], b) or (x.x is b.x and _lies(b))):
        return x._replace(stage="centred", x=b.x, axes=b.axes, centred=True, of=(moments.placed(operands[1]),))
    if (a.kind, b.kind) == ("mean of squares", "mean squared") and a.x is b.x and (a.axes, a.dims) == (b.axes, b.dims):
        return a._replace(stage="variance", centred=True)
    return None


def _root(stage: str) -> Step:
    def step(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
        link = moments.link(operands[0])
        return link._replace(stage=stage) if link.stage == "above zero" else None

    return step


def _max(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    for a, b in _both_ways(operands):
        if moments.constant(b) == 0:
            return _variance(moments.link(a))
    return None


def _select(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    which = moments.constant(operands[0])
    link = None if which is None else moments.link(operands[1 + int(which)])
    return link if link is not None and link.stage != "x" else None


def _converted(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    old, new, link = dtype_of(operands[0]), params["new_dtype"], moments.link(operands[0])
    if not (jnp.issubdtype(old, jnp.floating) and jnp.issubdtype(new, jnp.floating)):
        return None
    a, b = jnp.finfo(old), jnp.finfo(new)  # type: ignore[no-untyped-call]
    return link if link.stage != "x" or (a.nmant <= b.nmant and a.maxexp <= b.maxexp) else None


def _variance(link: Link) -> Link | None:
    """As a variance, or a mean square that serves as one."""
    return link._replace(stage="variance") if link.kind in ("variance", "mean of squares") else None


# ---- products and sums with them ------------------------------------------------------------------------------------


def _add(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    for a, b in _both_ways(operands):
        link = moments.link(a)
        variance = _variance(link)
        if variance is not None and (moments.constant(b) or -1) > 0:
            return variance._replace(stage="above zero")
        if link.stage == "shift" and len(link.of) == 2:
            return link._replace(of=(*link.of, moments.placed(b)))
    return None


def _mul(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    a, b = map(moments.link, operands)
    if operands[0] is operands[1] or (a.stage == b.stage == "centred" and a.x is b.x and a.axes == b.axes):
        return _square(moments, {}, operands)
    for v, w in _both_ways(operands):
        factor, other, x, number = moments.link(v), moments.link(w), moments.x(w), moments.constant(w)
        if factor.stage.startswith("sum") and number is not None:
            return factor._replace(left=factor.left * number)
        if factor.stage in ("root", "factor") and x.x is factor.x:
            return x._replace(stage="spread", axes=factor.axes, of=(v,))
        if factor.stage in ("root", "factor") and other.x is factor.x and other.axes == factor.axes:
            if other.stage == "minus":
                return other._replace(stage="shift", of=(*other.of, moments.placed(v)))
            if other.kind == "mean":
                return other._replace(stage="mean times r", of=(moments.placed(w), moments.placed(v)))
        if factor.stage == "root" and number is None:
            return factor._replace(stage="factor", of=(moments.placed(v), moments.placed(w)))
    return None


def _div(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    a, b = map(moments.link, operands)
    above, below = map(moments.constant, operands)
    if a.stage.startswith("sum") and below:
        return a._replace(left=a.left / below)
    return b._replace(stage="root") if b.stage == "deviation" and above == 1 else None


def _minus(moments: Moments, params: Mapping[str, Any], operands: Sequence[Any]) -> Link | None:
    link = moments.link(operands[0])
    return link._replace(stage="minus", of=(moments.placed(operands[0]),)) if link.kind == "mean" else None


def _ends_product(moments: Moments, operands: Sequence[Any]) -> Link | None:
    for v, w in _both_ways(operands):
        norm = moments.link(v)
        if norm.stage == "norm" and norm.of[2] is None and moments.is_small(w, v):
            return norm._replace(of=(*norm.of[:2], moments.placed(w), *norm.of[3:]))
        found = _normalised(moments, v, w, ("root", "factor"))
        if found is not None:
            return found
    return None


def _normalised(moments: Moments, v: Any, w: Any, stages: Sequence[str]) -> Link | None:
    """v times or divided by w: x - mean by its own deviation, or x by the root of its mean square."""
    root = moments.link(w)
    full = moments.link(v) if root.centred else moments.x(v)
    if root.stage not in stages or full.x is not root.x or not _lies(root):
        return None
    if root.centred and (full.stage != "centred" or full.axes != root.axes):
        return None
    r, scale = root.of if root.stage == "factor" else (moments.placed(w), None)
    form = "apart" if scale is None else "joint"
    made_of = (full.of[0] if root.centred else None, r, scale, None, form, root.stage == "deviation")
    return full._replace(stage="norm", axes=root.axes, centred=root.centred, of=made_of)


def _ends_sum(moments: Moments, operands: Sequence[Any]) -> Link | None:
    for v, w in _both_ways(operands):
        full, shift = moments.link(v), moments.link(w)
        if (full.stage, shift.stage) != ("spread", "shift") or full.x is not shift.x or not _lies(shift):
            continue
        (factor,), (mean, of_shift, bias) = full.of, (*shift.of, None)[:3]
        root = moments.link(factor)
        if moments.placed(factor).source is of_shift.source and root.centred and _lies(root):
            r, scale = root.of if root.stage == "factor" else (moments.placed(factor), None)
            return full._replace(stage="norm", axes=root.axes, centred=True, of=(mean, r, scale, bias, "spread", False))
    return None


ENDS: dict[str, Callable[[Moments, Sequence[Any]], Link | None]] = {
    "mul": _ends_product,
    "div": lambda moments, operands: _normalised(moments, operands[0], operands[1], ("deviation",)),
    "add": _ends_sum,
}


def _or_end(primitive: str, step: Step) -> Step:
    return lambda moments, params, operands: ENDS[primitive](moments, operands) or step(moments, params, operands)


STEPS: dict[str, Step] = {
    "reduce_sum": _sum,
    "psum": _sum_over_examples,
    "square": _square,
    "integer_pow": _square,
    "sub": _sub,
    "max": _max,
    "select_n": _select,
    "convert_element_type": _converted,
    "sqrt": _root("deviation"),
    "rsqrt": _root("root"),
    "neg": _minus,
    **{name: _or_end(name, step) for name, step in (("add", _add), ("mul", _mul), ("div", _div))},
}


# ---- how values lie -------------------------------------------------------------------------------------------------


def _lies(link: Link) -> bool:
    """Whether the axes of a value are those of x in their places."""
    return all(d in (NEW, i, REPEATED - i) for i, d in enumerate(link.dims))


def _moves(primitive: str, params: Mapping[str, Any], operands: Sequence[Any], result: Any) -> Dims | None:
    """For each axis of a broadcast or of an insertion or removal of axes of size 1: which axis of the operand it is."""
    if primitive == "broadcast_in_dim":
        old, new = shape_of(operands[0]), params["shape"]
        at = {b: i for i, b in enumerate(params["broadcast_dimensions"]) if old[i] == new[b] != 1}
        return tuple(at.get(i, NEW) for i in range(len(new)))
    if primitive in ("reshape", "squeeze", "expand_dims"):
        old, new = shape_of(operands[0]), shape_of(result)
        kept = [i for i, size in enumerate(old) if size != 1]
        if [old[i] for i in kept] == [size for size in new if size != 1]:
            at_end = iter(kept)
            return tuple(NEW if size == 1 else next(at_end) for size in new)
    return None


def is_one(shape: tuple[int, ...]) -> bool:
    """Whether it is the shape of a single number."""
    return all(size == 1 for size in shape)


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(_aval(value).shape)


def dtype_of(value: Any) -> Any:
    return _aval(value).dtype


def _aval(value: Any) -> Any:
    aval = getattr(value, "aval", None)
    return jax.typeof(value) if aval is None else aval
