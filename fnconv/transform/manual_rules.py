"""`with_manual_rules`: the transformation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial, update_wrapper
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import jax

from fnconv.base import attach
from fnconv.base.errors import invalid, mistyped
from fnconv.base.typing import MODES, Modes
from fnconv.transform.handler import handling
from fnconv.transform.jaxpr import sites_in_rules
from fnconv.transform.report import LATE, Report, Site
from fnconv.transform.staged import is_array, of_arguments_alone, staged, with_arrays
from fnconv.transform.table import CHAIN, FUSED, OPERATIONS

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class ManualFunction(Protocol[P, R_co]):
    """What `with_manual_rules` returns: a function of the same signature."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def replaced(self, *args: Any, **kwargs: Any) -> Report: ...


def with_manual_rules(
    fn: Callable[P, R_co], *, only: Iterable[str] | None = None, fuse: bool = False, modes: Modes = "reverse"
) -> ManualFunction[P, R_co]:
    """The same function, evaluated with fnconv's operations: its gradients are the hand-derived ones.

    Any function that JAX can trace or evaluate, unchanged: a model of Flax, Equinox, Haiku, Keras, a loss, a step
    without its gradient.  Each convolution, window maximum, minimum and sum, each contraction (`dot_general`),
    activation of jax.nn that fnconv has, gelu and silu also by their formula, softmax, log-softmax and logsumexp, and
    with the last two softmax cross-entropies of weights and of integer labels, optax's among them, is evaluated by the
    operation of fnconv, also inside jit, checkpoint, scan, while loops, cond, map, vmap and shard_map.  So is each
    normalisation whose moments are computed from what it normalises, over any axes: batch, layer, group, instance and
    RMS norm, in training; and each product with a factor that is broadcast.  Everything else is evaluated as it was:
    values, types, shardings, effects and structures stay.

    Of normalisation, activation and the convolution, contraction or gate that follows, one array is kept: what is
    normalised, or of an activation without norm its operand.  The rest is computed again, element by element, on the
    way back; no convolution is.  With modes="both" each operation keeps what it keeps by itself.

    Differentiate outside: `jax.grad(with_manual_rules(f))`.  What `f` differentiates inside itself is JAX's own
    gradient already; a `UserWarning` says so.  `jax.vmap`, `jax.jit`, a second gradient and `jax.hessian` apply to
    the result; `jax.jvp` does with modes="both", or inside `both_modes`.  Nothing remains of the transformation after
    tracing.

    Left as they are, and reported: what stands inside a `jax.custom_jvp` or `jax.custom_vjp` function, whose rule is
    the author's wish; operands that are not float16, bfloat16, float32 or float64; `jax.nn.leaky_relu`, `elu` and
    `celu` with a parameter that is an array; `reduce_window` with a computation of the user's; activations that fnconv
    does not have, as `jax.nn.squareplus`.  The tanh or sigmoid of a gelu or silu that is
    found by its formula is reported beside it, and so is a norm beside the same norm times its scale; nothing reads
    their results.

    Checkpoint policies that ask for products by name, as `dots_saveable`, save fnconv's convolutions and contractions
    too; one that asks for another primitive by name, as `reduce_window_max`, does not find it.

    Args:
      fn: the function; its arguments and results are of any kind.
      only: names of the operations to replace, all by default: "conv", "max_pool", "min_pool", "avg_pool" (window
        sums), "dense" (contractions), "softmax", "log_softmax", "logsumexp", "relu", "leaky_relu", "sigmoid", "tanh",
        "gelu", "silu" and the other activations, by their names; "norm", "gate".
      fuse: make one operation, `conv_block`, of convolution, bias, ReLU and max pooling that follow each other with no
        other reader in between, which keeps one byte per output of them all.  For this fn is traced as a whole, as by
        `jax.jit`: it cannot look at values, nor change objects in place other than nnx modules among its arguments.
      modes: "reverse", `jax.custom_vjp` as everywhere; or "both", forward mode beside it, as by `both_modes`.  With
        "reverse", `both_modes(g)` inside `fn` holds for the operations that are replaced while g runs.  Of
        `jax.jit(both_modes(g))`, as of a checkpoint or scan of it, only the trace is there when they are replaced:
        they have reverse mode alone, while fnconv's operations that g calls by themselves have both modes.

    Returns:
      The function, with a method `replaced(*args, **kwargs)` that traces `fn` as `jax.make_jaxpr` does, for arrays
      or `jax.ShapeDtypeStruct`s, and returns a `Report`: a sequence of `Site`s, of which `print` makes a table.
      `fn` must not change objects that it closes over there; a stateful module goes in as an argument.

    Raises:
      TypeError: fn is not callable, only is not a collection of names, fuse is not a bool.
      ValueError: modes is neither; only holds no name, or an unknown one, or not all that fuse needs; or, when it is
        traced, fn changes an nnx module that it closes over, or with fuse=True another argument.

    >>> import jax.numpy as jnp
    >>> def loss(w, x):
    ...     y = jax.nn.relu(jax.lax.conv(x, w, (1, 1), "SAME"))
    ...     return jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID").sum()
    >>> w, x = jnp.arange(-4., 5.).reshape(1, 1, 3, 3), jnp.arange(16.).reshape(1, 1, 4, 4)
    >>> manual = with_manual_rules(loss)
    >>> bool((jax.grad(manual)(w, x) == jax.grad(loss)(w, x)).all())
    True
    >>> [(site.operation, site.types) for site in manual.replaced(w, x)]  # doctest: +NORMALIZE_WHITESPACE
    [('conv', 'f32[1,1,4,4], f32[1,1,3,3] -> f32[1,1,4,4]'),
     ('relu', 'f32[1,1,4,4] -> f32[1,1,4,4]'),
     ('max_pool', 'f32[1,1,4,4] -> f32[1,1,2,2]')]
    >>> [(site.operation, site.reason) for site in with_manual_rules(loss, only=("conv",)).replaced(w, x).left]
    [('relu', 'not in `only`'), ('max_pool', 'not in `only`')]
    """
    if not callable(fn):
        raise mistyped("with_manual_rules", "fn", "must be a function", type(fn).__name__)
    selection = _selection(only, fuse)
    name = getattr(fn, "__name__", type(fn).__name__)
    if modes not in MODES:
        raise invalid("with_manual_rules", "modes", f"must be one of {', '.join(MODES)}", repr(modes))
    evaluated = staged(fn) if fuse else fn
    attached = partial(attach.modes, "both") if modes == "both" else nullcontext

    def manual(*args: Any, **kwargs: Any) -> Any:
        sites: list[Site] = []
        with attached(), handling(selection, sites):
            result = evaluated(*args, **kwargs)
        if any(s.differentiated for s in sites):
            warnings.warn(f"with_manual_rules: {name} {LATE}", stacklevel=2)
        return result

    def replaced(*args: Any, **kwargs: Any) -> Report:
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [x for x in leaves if is_array(x)]
        sites: list[Site] = []

        def run(*arrays: Any) -> None:
            positional, named = jax.tree.unflatten(tree, with_arrays(leaves, arrays))
            with attached(), handling(selection, sites):
                evaluated(*positional, **named)

        with of_arguments_alone("with_manual_rules"):
            jaxpr = jax.make_jaxpr(run)(*arrays)
        return Report(name, [*sites, *sites_in_rules(jaxpr, selection)])

    update_wrapper(manual, fn, updated=())
    manual.replaced = replaced  # type: ignore[attr-defined]
    return cast(ManualFunction[P, R_co], manual)


def _selection(only: Iterable[str] | None, fuse: bool) -> frozenset[str]:
    """The operations to replace; none stands for all.  `FUSED` is among them where chains are to become one."""
    if not isinstance(fuse, bool):
        raise mistyped("with_manual_rules", "fuse", "must be a bool", repr(fuse))
    if only is None:
        return frozenset({*OPERATIONS, "reduce_window", FUSED}) if fuse else frozenset()
    if isinstance(only, str) or not isinstance(only, Iterable):
        raise mistyped("with_manual_rules", "only", "must be a collection of names", repr(only))
    names = tuple(only)
    unknown = [n for n in names if n not in OPERATIONS]
    if unknown or not names:
        rule = f"must name operations among {', '.join(OPERATIONS)}"
        raise invalid("with_manual_rules", "only", rule, unknown or names)
    if fuse and not CHAIN.issubset(names):
        raise invalid("with_manual_rules", "only", f"must name {', '.join(sorted(CHAIN))} with fuse=True", names)
    return frozenset({*names, FUSED} if fuse else names)
