"""A function as one jaxpr of the arrays among its arguments, and what it does to objects on the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from fnconv.base.errors import invalid

AN_ARRAY = np.zeros(())  # stands for any


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)


def with_arrays(leaves: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """The leaves with these in place of the arrays among them."""
    given = iter(arrays)
    return [next(given) if is_array(leaf) else leaf for leaf in leaves]


def staged(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn as one jaxpr; what is no array stays as it is, among its results too, and nnx modules are changed in place."""

    def call(*args: Any, **kwargs: Any) -> Any:
        flat: tuple[list[Any], Any] = jax.tree.flatten((args, kwargs))
        leaves, tree = flat
        found: list[Any] = []

        def run(arrays: list[Any]) -> tuple[list[Any], dict[int, Any]]:
            before = with_arrays(leaves, arrays)
            positional, named = jax.tree.unflatten(tree, before)
            flat: tuple[list[Any], Any] = jax.tree.flatten(fn(*positional, **named))
            results, structure = flat
            found[:] = (
                [AN_ARRAY if is_array(r) else r for r in results],
                structure,
            )  # a tracer must not outlive the trace
            after, now = jax.tree.flatten((positional, named))
            if now != tree:
                raise invalid("with_manual_rules", "fn", "must keep its arguments' structure with fuse=True", now)
            changed = {i: new for i, (old, new) in enumerate(zip(before, after, strict=True)) if new is not old}
            return [r for r in results if is_array(r)], changed

        run.__name__ = getattr(fn, "__name__", "run")
        arrays, changed = jax.jit(run)([x for x in leaves if is_array(x)])
        if changed:
            _change((args, kwargs), changed)
        results, structure = found
        return jax.tree.unflatten(structure, with_arrays(results, arrays))

    return call


def _change(arguments: Any, changed: Mapping[int, Any]) -> None:
    """Put what became of some leaves into the nnx modules that they are of."""
    leaves, tree = jax.tree.flatten(arguments)
    new = [changed.get(i, leaf) for i, leaf in enumerate(leaves)]
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None:
        for old, module in zip(*(_modules(nnx, t) for t in (arguments, jax.tree.unflatten(tree, new))), strict=True):
            nnx.update(old, nnx.state(module))
    for (path, leaf), value in zip(jax.tree_util.tree_leaves_with_path(arguments), new, strict=True):
        if leaf is not value:
            place = ("args", "kwargs")[path[0].idx] + jax.tree_util.keystr(path[1:])
            raise invalid("with_manual_rules", "fn", "must change no argument but nnx modules with fuse=True", place)


def _modules(nnx: Any, tree: Any) -> list[Any]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, nnx.Module))
    return [leaf for leaf in leaves if isinstance(leaf, nnx.Module)]


@contextmanager
def of_arguments_alone(function: str) -> Iterator[None]:
    """What Flax says where an nnx module would be changed that a traced function closes over, in plain words."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # Flax is not imported here
            raise
        rule = "must not change what it closes over while it is traced: pass the nnx module as an argument"
        raise invalid(function, "fn", rule, str(error).partition(" (http")[0]) from error
