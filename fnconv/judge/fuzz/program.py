"""A problem as a JAX program: the value and the gradients of every order, under one transformation."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnconv.judge.engine.programs import fast_options
from fnconv.judge.fuzz.draw import COPIES, Problem
from fnconv.judge.fuzz.sample import Sample
from fnconv.ops import functional

shape_of: Callable[..., Any] = jax.ShapeDtypeStruct  # both carry no annotations
spec: Callable[..., Any] = PartitionSpec

RunSample = Callable[[Sample], list[list[np.ndarray]]]  # for every order its results
OPTIMISED = 1000  # numbers in an operand


def function(p: Problem) -> Callable[..., Any]:
    """The public operation with the problem's options, mapped over the operands that the problem maps."""
    operation = getattr(functional, p.operation)

    def f(*operands: Any) -> Any:
        return operation(*operands, *p.args, **p.options)

    if p.way == "vmap":
        return jax.vmap(f, in_axes=tuple(0 if m else None for m in p.mapped))
    if p.way == "scan":

        def scanned(*operands: Any) -> Any:
            def step(carry: None, moving: Sequence[Any]) -> tuple[None, Any]:
                rest = iter(moving)
                return carry, f(*(next(rest) if m else o for o, m in zip(operands, p.mapped, strict=True)))

            return jax.lax.scan(step, None, [o for o, m in zip(operands, p.mapped, strict=True) if m])[1]

        return scanned
    return jax.checkpoint(f) if p.way == "remat" else f


def derivatives(p: Problem) -> Callable[..., list[list[Any]]]:
    f = function(p)
    moving = tuple(a for a in range(len(p.shapes)) if a != p.index)

    def value(*operands: Any) -> Any:
        y = f(*operands)
        return y[0] if isinstance(y, tuple) else y

    def evaluate(operands: Sequence[Any], directions: Sequence[Any], c: Any, dy: Any) -> list[list[Any]]:
        def partial(*chosen: Any) -> Any:
            rest = iter(chosen)
            return value(*(next(rest) if a in moving else o for a, o in enumerate(operands)))

        at, along = (tuple(arrays[a] for a in moving) for arrays in (operands, directions))
        if p.integer:
            return [jax.tree.leaves(f(*operands))]

        def cube(*x: Any) -> Any:
            y = partial(*x)
            y = jnp.where(jnp.isfinite(y), y, jnp.zeros_like(y))
            return (c * y * y * y).sum()

        every = tuple(range(len(moving)))
        order1 = jax.vjp(partial, *at)[1](dy)
        results = [jax.tree.leaves(f(*operands)), list(order1)]
        slope = jax.grad(cube, argnums=every)
        for order in range(2, p.orders + 1):
            slope = _once_more(slope, along, p.forward and order == p.orders)
            results.append(list(slope(*at)))
        return results

    return evaluate


def _once_more(slope: Callable[..., Any], along: Sequence[Any], forward: bool) -> Callable[..., Any]:
    """The gradient of the derivative along `along`: the derivative along it of the gradient, forward, or reverse."""
    if forward:
        return lambda *x: jax.jvp(slope, x, tuple(along))[1]

    def inner(*x: Any) -> Any:
        return sum((g * v).sum() for g, v in zip(slope(*x), along, strict=True))

    return jax.grad(inner, argnums=tuple(range(len(along))))


def operands_of(p: Problem) -> list[Any]:
    shapes = [(COPIES, *s) if m else s for s, m in zip(p.shapes, p.mapped, strict=True)]
    return [shape_of(s, dtype_of(p, a), **_placed(p, a)) for a, s in enumerate(shapes)]


def dtype_of(p: Problem, operand: int) -> Any:
    return jnp.dtype(jnp.int32 if operand == p.index else p.dtype)


def traced(p: Problem) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of the value, without derivatives; raises the operation's refusals."""
    with surroundings(p):
        value = jax.tree.leaves(jax.eval_shape(function(p), *operands_of(p)))[0]
    return value.dtype.name, value.shape


def compiled(p: Problem, y_shape: tuple[int, ...]) -> RunSample:
    """Compile once, for all data; eager programs are run operation by operation.

    Most programs are compiled without optimisation, which takes less time; those of many numbers are not, since loops
    over them are what compilers change.
    """
    evaluate, dtype = derivatives(p), jnp.dtype(p.dtype)
    with surroundings(p):
        if p.way != "eager":
            abstract, result = operands_of(p), shape_of(y_shape, dtype)
            fast = p.seed % 4 > 0 and max(map(prod, p.shapes)) < OPTIMISED
            options = fast_options("cpu") if fast else None
            program = jax.jit(evaluate).lower(abstract, abstract, result, result).compile(options)

    def run(s: Sample) -> list[list[np.ndarray]]:
        def typed(arrays: Sequence[np.ndarray]) -> list[Any]:
            return [x.astype(dtype_of(p, a)) for a, x in enumerate(arrays)]

        with surroundings(p):
            given = (typed(s.operands), typed(s.directions), s.c.astype(dtype), s.dy.astype(dtype))
            if p.way == "eager":
                arrays = jax.tree.map(jnp.asarray, given)
                with jax.disable_jit(p.seed % 4 == 0):
                    return [list(map(np.asarray, results)) for results in evaluate(*arrays)]
            if p.way == "sharded":
                places = [_placed(p, a)["sharding"] for a in range(len(p.shapes))]
                given = (*(jax.device_put(arrays, places) for arrays in given[:2]), *given[2:])
            return [list(map(np.asarray, results)) for results in program(*given)]

    return run


def _placed(p: Problem, operand: int) -> dict[str, Any]:
    """The first batch axis over as many devices as divide it; other operands whole on each."""
    if p.way != "sharded":
        return {}
    n = p.shapes[0][0]
    count = max(d for d in range(1, len(jax.devices("cpu")) + 1) if n % d == 0)
    mesh = Mesh(np.array(jax.devices("cpu")[:count]), ("batch",))
    split = len(p.shapes[operand]) > 0 and p.shapes[operand][0] == n and (operand == 0 or operand == p.index)
    return {"sharding": NamedSharding(mesh, spec("batch") if split else spec())}


@contextlib.contextmanager
def surroundings(p: Problem) -> Iterator[None]:
    """JAX's switches, and a CPU, whose products are as precise as their type."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(jax.enable_x64(p.dtype == "float64" or p.seed % 5 == 0))
        enter(jax.default_device(jax.devices("cpu")[0]))
        if p.way == "strict":
            enter(jax.numpy_dtype_promotion("strict"))
            enter(jax.numpy_rank_promotion("raise"))
        enter(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
