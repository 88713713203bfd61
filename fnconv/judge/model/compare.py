"""`compare`: manual against automatic gradient of a user's function, leaf by leaf."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax

from fnconv.base.errors import invalid, mistyped
from fnconv.judge.engine.programs import InFloat64, residual_bytes
from fnconv.judge.engine.rounding import quantile
from fnconv.judge.model.gradient import GradientProblem, pose
from fnconv.judge.model.leaf import leaf_of
from fnconv.judge.model.measure import Cost, medians
from fnconv.judge.model.report import Comparison
from fnconv.judge.model.slope import central_difference
from fnconv.transform.manual_rules import with_manual_rules
from fnconv.transform.report import LATE, Report
from fnconv.transform.staged import of_arguments_alone

Progress = Callable[[str], None]


def compare(
    fn: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    cotangent: Any = None,
    only: Iterable[str] | None = None,
    fuse: bool = False,
    samples: int = 16,
    rounds: int = 11,
    seed: int = 0,
    progress: Progress | None = None,
    precision: Literal["highest", "high", "default"] = "highest",
    **kwargs: Any,
) -> Comparison:
    """Compare the gradient by fnconv's rules with JAX's automatic one, and both with float64.

    The manual gradient is that of `with_manual_rules(fn)`; both are jitted.  The third is autodiff's program once
    more with every operation in float64.  An error is measured by what rounding
    explains: the float64 program runs `samples` times with a rounding error of random sign at every operation, as
    large as the type of the operation allows, and the bound on an entry is so many of its standard deviations that
    rounding takes any entry of the report beyond its bound once in a million reports; see `engine.rounding`.
    No tolerance is set by hand.  Where autodiff's gradient is the one beyond its bound, the report says so; where an
    error of a percent (64 roundings, if that is more) might have been missed in a leaf, as where it is 0, that is no
    agreement.

    Args:
      fn: a function of any trees; a model of Flax, Equinox, Haiku, a loss.  It must not change anything outside.
      args, kwargs: its arguments.  Arrays are traced, all else is as it is.
      argnums: which of args to differentiate; of these, every leaf of a floating type.
      has_aux: fn returns (value, auxiliary).
      cotangent: of the value, a tree like it; where fn returns more than one number, normally distributed by default.
      only, fuse: which operations to replace, and whether to fuse chains of them, as in `with_manual_rules`.
      samples: at least 2; with more of them the bounds are sharper.
      rounds: how often each gradient is timed; 0 for not at all.
      seed: of cotangent and rounding errors.
      precision: of products and convolutions of which the program says nothing: the default of an accelerator would
        leave bounds too wide to find a mistake.
      progress: called with what is about to be done, in words.

    Returns:
      A `Comparison`: `.ok`, `.worst`, `.leaves`, `.replaced`, `.to_json()`; `print` shows a table, so do notebooks.

    Raises:
      TypeError, ValueError: naming the argument that is wrong; fn, where neither JAX nor fnconv has a gradient of it.

    >>> import jax, jax.numpy as jnp
    >>> def loss(params, x):
    ...     y = jax.nn.relu(jax.lax.conv(x, params["w"], (1, 1), "SAME") + params["b"])
    ...     return jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID").sum()
    >>> params = {"w": jnp.arange(-4.0, 5.0).reshape(1, 1, 3, 3), "b": jnp.ones(())}
    >>> report = compare(loss, params, jnp.arange(16.0).reshape(1, 1, 4, 4), rounds=0)
    >>> report.ok, [(leaf.path, leaf.verdict) for leaf in report.leaves]
    (True, [("params['b']", 'equal'), ("params['w']", 'equal')])
    >>> dict(report.replaced.counts)
    {'conv': 1, 'relu': 1, 'max_pool': 1}
    """
    _check("samples", samples, 2)
    _check("seed", seed, 0)
    _check("rounds", rounds, 0)
    with of_arguments_alone("compare"):
        problem = pose(fn, args, kwargs, argnums, has_aux, cotangent, seed)
    with warnings.catch_warnings(), jax.default_matmul_precision(precision):
        warnings.filterwarnings("ignore", message="with_manual_rules: ")  # the report has it
        manual = with_manual_rules(fn, only=only, fuse=fuse)
        replaced = manual.replaced(*args, **kwargs)
        found = _compare(problem, manual, replaced, samples, rounds, seed, progress or (lambda _: None))
        return replace(found, precision=precision)


def _compare(
    problem: GradientProblem, manual: Any, replaced: Any, samples: int, rounds: int, seed: int, progress: Progress
) -> Comparison:
    progress("compiling manual and automatic gradient")
    operands = moving, given, _ = problem.operands
    notes = [f"{entry} carries no derivative" for entry in problem.undifferentiated]
    notes += [f"{problem.name} {LATE}"] * replaced.late
    functions = [manual, problem.fn]
    try:
        jaxpr = jax.make_jaxpr(problem.gradient(problem.fn))(*operands)
    except (NotImplementedError, ValueError) as error:
        missing = str(error) or type(error).__name__
        notes.append(f"autodiff has no gradient: {missing}")
        functions = [manual]
        try:
            jaxpr = jax.make_jaxpr(problem.gradient(manual))(*operands)
        except (NotImplementedError, ValueError):
            raise invalid("compare", "fn", _no_gradient(replaced), missing) from error
    gradients = [jax.jit(problem.gradient(f)).lower(*operands).compile() for f in functions]
    mine, *others = [jax.tree.leaves(g(*operands)) for g in gradients]
    progress(f"in float64, with {samples} draws of rounding errors")
    flat = jax.tree.leaves(operands)
    program = InFloat64(jaxpr, flat, runs=samples)
    exact, deviations = program.exact(flat), program.deviation(flat, samples=samples, seed=seed)
    if len(functions) == 1:
        notes.append(central_difference(problem, manual, exact[len(problem.value_paths) :], seed))
    scale = quantile(sum(e.size for e in exact), samples)
    columns = zip(problem.paths, mine, *(others or [[None] * len(mine)]), exact, deviations, strict=True)
    split, unused = len(problem.value_paths), problem.unused()
    leaves = [
        leaf_of(path, m, a, e, scale * deviation, weighed=path not in unused and i >= split)
        for i, (path, m, a, e, deviation) in enumerate(columns)
    ]
    notes += [f"{path} does not enter the value" for path in unused]
    progress("timing")
    times = medians(gradients, operands, rounds)
    kept = [residual_bytes(problem.value(f), moving, given) for f in functions]
    costs = [Cost(*cost) for cost in zip(times, kept, strict=True)]
    return Comparison(
        problem.name,
        tuple(leaves[:split]),
        tuple(leaves[split:]),
        replaced,
        costs[0],
        costs[1] if len(costs) > 1 else None,
        tuple(notes),
        jax.default_backend(),
        "highest",
    )


def _no_gradient(replaced: Report) -> str:
    """Who lacks it."""
    left = "; ".join(f"{s.operation} at {s.source}: {s.reason}" for s in replaced.left)
    return "must be differentiable in reverse mode: JAX itself has no gradient of it, nor has fnconv" + (
        f" (left to JAX: {left})" if left else ""
    )


def _check(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise mistyped("compare", name, "must be an integer", repr(value))
    if value < least:
        raise invalid("compare", name, f"must be at least {least}", value)
