"""The one place where a hand-derived rule meets JAX.

`attach` is what the public operations use: `jax.custom_vjp`, reverse mode.  A rule must itself be differentiable, in
either mode, for second derivatives: `jax.grad` of a gradient transposes the rule, `jax.hessian` pushes tangents
through it.  `LinearMap` serves that: an operation linear in each of its operands that carries its adjoints with it,
so that whatever is done to a rule built of such maps, the derivative is one of ours again.

Where `modes` is "both", the same rule is attached for forward mode as well.  The vjp dy -> J^T dy is linear and built
of such maps, so its transpose dx -> J dx is too: that is the tangent, and the transpose of the tangent, which reverse
mode takes, is the vjp.  `jax.custom_jvp` holds it, and `jax.checkpoint` lets it keep what the vjp keeps, no more.

`jax.experimental.hijax.VJPHiPrimitive` would hold the vjp and the tangent side by side, and batching with them.  It is
not used while it is experimental: JAX 0.12 has another class in its place, `HiPrim`, its rule is not applied under
`jax.checkpoint`, and it has to be told every shape.  It would take the place of `_both` below, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fnconv.base import chunks

Stack = tuple[tuple[int | None, ...], ...]  # batch axis of each operand, for every enclosing vmap, innermost first
# for the first axis of a result and for its last: the operand, and the axis of it, whose sharding it has; or None
Placement = tuple[tuple[int, int] | None, tuple[int, int] | None]
AS_INPUT: Placement = ((0, 0), (0, -1))  # (N, *S, C) -> (N, *O, C)

# how operations are attached while they are traced: "reverse" or "both"; a part of the key of every cache of JAX's
modes = jax.make_user_context("reverse")


def attach(
    primal: Callable[..., Any],
    fwd: Callable[..., Any],
    bwd: Callable[..., Any],
    *,
    has_spec: bool = True,
    placement: Placement | None = None,
) -> Callable[..., Any]:
    """Make `primal(spec, *operands)` differentiable by its own rule, and jit it with the spec static.

    fwd(spec, *operands) -> (value, residuals) and bwd(spec, residuals, cotangent) -> one cotangent per operand.
    Integer operands carry no derivative; where there are no others the primal runs alone.
    has_spec: False for an operation without options; its functions have no first argument `spec`.
    placement: how results lie on the explicit axes of a mesh; None leaves that to JAX, which finds it for what is
    element-wise.
    """
    static = (0,) if has_spec else ()
    reverse = jax.custom_vjp(primal, nondiff_argnums=static)
    reverse.defvjp(fwd, bwd)
    both = primal if isinstance(primal, LinearMap) else _both(primal, fwd, bwd, static)
    attached = {"reverse": reverse, "both": both}

    def call(*arguments: Any) -> Any:
        spec, operands = arguments[: len(static)], _vary_alike(arguments[len(static) :])
        f = partial(attached[modes.value] if any(map(_differentiable, operands)) else primal, *spec)
        return f(*operands) if placement is None else _placed(f, operands, placement)

    call.__name__ = call.__qualname__ = primal.__name__.strip("_")
    return jax.jit(call, static_argnums=static)


def _both(
    primal: Callable[..., Any], fwd: Callable[..., Any], bwd: Callable[..., Any], static: tuple[int, ...]
) -> Callable[..., Any]:
    """`primal` whose tangent is the transpose of bwd at the residuals of fwd."""
    rule = jax.custom_jvp(primal, nondiff_argnums=static)

    def jvp(*arguments: Any) -> tuple[Any, Any]:
        *spec, primals, tangents = arguments
        with modes("both"):  # the rule of what was traced in both modes may be asked for later
            value, residuals = fwd(*spec, *primals)
        moving = {i: t for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero) and _differentiable(t)}
        values, tree = jax.tree.flatten(value)
        zeros = {i: np.zeros(v.shape, jax.dtypes.float0) for i, v in enumerate(values) if not _differentiable(v)}
        types = [jax.typeof(v).to_tangent_aval() for i, v in enumerate(values) if i not in zeros]

        def filled(of_values: Sequence[Any]) -> Any:
            rest = iter(of_values)
            return jax.tree.unflatten(tree, [zeros[i] if i in zeros else next(rest) for i in range(len(values))])

        @partial(jax.checkpoint, prevent_cse=False)
        def push(residuals: Any, moving: dict[int, jax.Array]) -> Any:
            def pull(*dy: jax.Array) -> dict[int, jax.Array]:
                cotangents = bwd(*spec, residuals, filled(dy))
                return {i: cotangents[i] for i in moving}

            return jax.linear_transpose(pull, *types)(moving)

        return value, filled(push(residuals, moving))

    rule.defjvp(jvp, symbolic_zeros=True)
    return rule


class LinearMap:
    """value = fun(spec, *operands), linear in every operand that has an adjoint.

    adjoints[i](spec, cotangent, *operands) is the cotangent of operand i; it does not read operands[i], for which it
    is given None.  An operand whose adjoint is None carries no derivative.
    of_tangents: the map of the first operands that the value is a result of, where `fun` is given the value.
    """

    def __init__(
        self,
        name: str,
        fun: Callable[..., jax.Array],
        placement: Placement | None = None,
        of_tangents: LinearMap | None = None,
    ) -> None:
        self.name = self.__name__ = name
        self.fun, self.placement, self.of_tangents = fun, placement, of_tangents or self
        self.adjoints: tuple[Callable[..., jax.Array] | None, ...] = ()

    def __call__(self, spec: Any, *operands: jax.Array) -> jax.Array:
        value: jax.Array = _linear_p.bind(*_vary_alike(operands), map=self, spec=spec, stack=())
        return value

    @cached_property
    def attached(self) -> Callable[..., jax.Array]:
        """What a public operation calls: `attach` with the rule that the adjoints make.

        Each operand is kept only if the adjoint of another one reads it: nothing for a map of one operand.
        """

        def fwd(spec: Any, *operands: jax.Array) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
            moving = {i for i, adjoint in enumerate(self.adjoints) if adjoint is not None}
            return self(spec, *operands), tuple(o if moving - {i} else None for i, o in enumerate(operands))

        def bwd(spec: Any, kept: Sequence[jax.Array | None], dy: jax.Array) -> tuple[jax.Array | None, ...]:
            return tuple(None if adjoint is None else adjoint(spec, dy, *kept) for adjoint in self.adjoints)

        return attach(self, fwd, bwd, placement=self.placement)

    def __repr__(self) -> str:
        return self.name


def adjoint_to_each_other(a: LinearMap, b: LinearMap, *, constants: int = 0) -> None:
    """Make each of two maps the adjoint of the other in their last operand; those before it are constants of both."""

    def adjoint(other: LinearMap) -> Callable[..., jax.Array]:
        return lambda spec, cotangent, *operands: other(spec, *operands[:-1], cotangent)

    a.adjoints, b.adjoints = (*(None,) * constants, adjoint(b)), (*(None,) * constants, adjoint(a))


def _differentiable(operand: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(operand), jnp.inexact))


def _placed(f: Callable[..., Any], operands: Sequence[jax.Array], placement: Placement) -> Any:
    """f(*operands); on the explicit axes of a mesh as on automatic ones, with the results sharded as `placement` says.

    The cotangents come out sharded as the operands are.
    """
    shardings = [jax.typeof(o).sharding for o in operands]
    mesh = next((s.mesh for s in shardings if AxisType.Explicit in s.mesh.axis_types), None)
    if mesh is None:
        return f(*operands)
    first, last = (None if at is None else shardings[at[0]].spec[at[1]] for at in placement)
    last = None if last == first else last

    def sharding(result: Any) -> NamedSharding:
        middle = (None,) * (result.ndim - 2)
        return NamedSharding(mesh, P(*(first, *middle, last)[: result.ndim]))

    results = jax.eval_shape(f, *(jax.ShapeDtypeStruct(o.shape, o.dtype) for o in operands))
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.auto_axes(f, out_sharding=jax.tree.map(sharding, results))(*operands)


def _vary_alike(operands: Sequence[Any]) -> tuple[Any, ...]:
    """Inside shard_map: mark every operand as varying over the mesh axes that any of them varies over.

    The cotangent of an operand that was replicated is then summed over those axes, as autodiff's is.
    """
    varying = [jax.typeof(o).manual_axis_type.varying for o in operands]
    axes: frozenset[Any] = frozenset().union(*varying)
    return tuple(
        o if v == axes else lax.pcast(o, tuple(sorted(axes - v)), to="varying")
        for o, v in zip(operands, varying, strict=True)
    )


# ---- the primitive behind LinearMap ---------------------------------------------------------------------------------

_linear_p = Primitive("fnconv_linear")


def _mapped(map: LinearMap, spec: Any, stack: Stack) -> Callable[..., jax.Array]:
    """The map's function under the vmaps around it."""
    f = partial(map.fun, spec)
    for axes in stack:
        f = jax.vmap(f, in_axes=axes)
    return f


def _evaluate(*operands: jax.Array, **params: Any) -> jax.Array:
    return _mapped(**params)(*operands)


def unmapped(operand: Any, stack: Stack) -> tuple[tuple[int, ...], int]:
    """The shape of a first operand inside the vmaps around it, and how many of that shape they map over."""
    shape, copies = list(operand.shape), 1
    for axes in reversed(stack):
        copies *= 1 if axes[0] is None else shape.pop(axes[0])
    return tuple(shape), copies


@partial(jax.jit, static_argnames=("devices", "here", "map", "spec", "stack"))
def _evaluate_for(*operands: jax.Array, devices: int, here: bool, **params: Any) -> jax.Array:
    """`_evaluate`, which may cut the batch into chunks where the program is for one device."""
    with chunks.for_devices(devices, here=here, copies=unmapped(operands[0], params["stack"])[1]):
        return _mapped(**params)(*operands)


def _jaxpr(*avals: Any, devices: int = 1, here: bool = True, **params: Any) -> Any:
    """A rule is traced once for its shapes and for its program: jit keeps the trace, for each mesh in use."""
    with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):  # none set and an empty one are the same
        return _evaluate_for.trace(*avals, devices=devices, here=here, **params).jaxpr


def _lower(ctx: Any, *operands: Any, **params: Any) -> Any:
    axes = ctx.module_context.axis_context
    mesh = getattr(axes, "mesh", None)
    manual = mesh is not None and axes.manual_axes == frozenset(mesh.axis_names)  # each device's own program
    devices: int = axes.num_devices if mesh is None else 1 if manual else mesh.size
    here = not ctx.module_context.lowering_parameters.for_export
    traced = _jaxpr(*ctx.avals_in, devices=devices, here=here, **params)
    return mlir.core_call_lowering(ctx, *operands, name=str(params["map"]), call_jaxpr=traced)


def _abstract(*avals: Any, **params: Any) -> Any:
    return _jaxpr(*avals, **params).out_avals[0]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, map: LinearMap, spec: Any, stack: Stack) -> Any:
    """The product rule: one term for every operand that moves."""
    value = _linear_p.bind(*primals, map=map, spec=spec, stack=stack)
    map, n = map.of_tangents, len(map.of_tangents.adjoints)
    stack = tuple(axes[:n] for axes in stack)
    terms = [
        _linear_p.bind(*primals[:i], tangent, *primals[i + 1 : n], map=map, spec=spec, stack=stack)
        for i, tangent in enumerate(tangents[:n])
        if type(tangent) is not ad.Zero and map.adjoints[i] is not None
    ]
    return value, sum(terms[1:], terms[0]) if terms else ad.Zero(jax.typeof(value).to_tangent_aval())


def _transpose(cotangent: Any, *operands: Any, map: LinearMap, spec: Any, stack: Stack) -> list[Any]:
    """The adjoint of the one unknown operand, under the same vmaps; summed over those that it does not have."""
    (i,) = (i for i, o in enumerate(operands) if ad.is_undefined_primal(o))
    result: list[Any] = [None] * len(operands)
    if type(cotangent) is ad.Zero:
        result[i] = ad.Zero(operands[i].aval)
        return result
    adjoint = map.adjoints[i]
    known = [o for j, o in enumerate(operands) if j != i]

    def f(cotangent: Any, *known: Any) -> jax.Array:
        return adjoint(spec, cotangent, *known[:i], None, *known[i:])  # type: ignore[misc]

    for axes in stack:
        f = jax.vmap(f, in_axes=(0, *axes[:i], *axes[i + 1 :]))
    result[i] = _unstack(f(cotangent, *known), [axes[i] for axes in stack])
    return result


def _unstack(value: jax.Array, axes: Sequence[int | None]) -> jax.Array:
    """Leading batch axes, outermost first, to where the operand has them; summed where it has none."""
    if not axes:
        return value
    *inner, axis = axes
    if axis is None:
        return _unstack(value.sum(axis=0), inner)
    return jnp.moveaxis(jax.vmap(lambda v: _unstack(v, inner))(value), 0, axis)


def _batch(operands: Sequence[Any], dims: Sequence[Any], *, map: LinearMap, spec: Any, stack: Stack) -> tuple[Any, int]:
    axes = tuple(dims)  # None where an operand is not batched
    return _linear_p.bind(*operands, map=map, spec=spec, stack=(*stack, axes)), 0


_linear_p.def_impl(_evaluate)
_linear_p.def_abstract_eval(_abstract)
mlir.register_lowering(_linear_p, _lower)
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batch
