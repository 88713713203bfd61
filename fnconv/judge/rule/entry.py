"""`check_vjp` and `check_jvp`: their public names, and what they refuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fnconv.base.errors import invalid, mistyped
from fnconv.base.typing import LEVELS, Level

if TYPE_CHECKING:
    from fnconv.judge.rule.report import RuleReport


def check_vjp(
    fn: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    level: Level = "quick",
    kwargs: Mapping[str, Any] | None = None,
    order: int = 2,
    seed: int = 0,
    domain: Callable[..., Any] | None = None,
) -> RuleReport:
    """Judge a function's gradient: a `jax.custom_vjp` of your own, or whatever contains one.

    A `jax.custom_jvp` is judged by `check_jvp`, with the same arguments.

    Right is V(u) = (∂f/∂x)ᵀ u, f being `reference`, differentiated automatically; without one, fn's own plain forward
    with every custom rule in it left out.  Compared are, first to last,

    - structure: trees, shapes, dtypes and weak types of what the rule returns;
    - values and cotangents in float64, where only a mistake makes a difference; in fn's own dtype, against what
      rounding explains (measured by Monte Carlo arithmetic, Parker 1997: there is no tolerance to set), with a note
      where the rule loses many more digits than automatic differentiation; on integers, bit for bit;
    - linearity in the cotangent, the transposed rule, finite differences with their own error estimate;
    - second derivatives; jit, eager, vmap, checkpoint, scan, repeated runs, residuals kept outside;
    - and, for information, what the rule costs beside autodiff.

    Of complex numbers the real and the imaginary parts are differentiated.  Results of stop_gradient in fn are held.
    They are tried at the arguments given and at others of the same shapes: at several scales, with ties, with zeros.
    A mask of zeros and ones, and a distribution along the last axis, are kept as they are.  At a kink any subgradient
    between the sides is right, and a note says that the rule takes another one than autodiff.

    Args:
      fn: the function; its positional arguments follow.  Arrays and Python floats of floating dtype are
        differentiated, those that a `jax.custom_vjp` names in `nondiff_argnums` excepted; pytrees, integers,
        booleans, None and anything else are passed on.  Results may be a pytree; those without derivative, such as
        indices, are compared too.  float16, bfloat16, float32, float64.
      reference: a plain function of the same arguments and results.
      level: "quick" for seconds; "full" tries more data, every column of a small Jacobian, forward over reverse,
        and measures temporaries and collectives.
      kwargs: keyword arguments of fn.
      order: the highest derivative to compare.
      seed: of the data.
      domain: where fn is meant to be: a predicate, called with fn's arguments; or a sampler, a function of `rng`, a
        NumPy generator, alone that returns fn's positional arguments.  Without it, values at which fn is NaN or its
        loops do not converge are left out or moved towards the arguments given.

    Returns:
      A report: `.ok`, `.failures`, `.notes`, `.rows`, `.cost`, `.to_json()`; `print` shows it as a table.

    Raises:
      TypeError: fn is not callable, nothing can be differentiated, an array is a tracer, fn returns no array.
      ValueError: an unknown level, an order below 1, a reference that does not match; and whatever fn itself raises.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def scale(x, w):
    ...     return x * w
    >>> scale.defvjp(lambda x, w: (x * w, (x, w)), lambda res, dy: (dy * res[1], (dy * res[0]).sum() / 3))
    >>> report = check_vjp(scale, jnp.array([1., -2., 4.]), jnp.array(3.))
    >>> report.ok, [(f.argument, f.diagnosis) for f in report.failures]  # doctest: +ELLIPSIS
    (False, [('w', 'every entry is 0.333333 times the right one: a mean over ...')])
    """
    from jax import custom_jvp

    options = reference, level, kwargs, order, seed, domain
    return _judge("check_jvp" if isinstance(fn, custom_jvp) else "check_vjp", fn, args, *options)


def check_jvp(
    fn: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    level: Level = "quick",
    kwargs: Mapping[str, Any] | None = None,
    order: int = 2,
    seed: int = 0,
    domain: Callable[..., Any] | None = None,
) -> RuleReport:
    """Judge a function's tangents, and that reverse mode follows: a `jax.custom_jvp` of your own, or what contains one.

    Right is T(t) = (∂f/∂x) t, f being `reference`, or fn with every custom rule in it left out.  The checks are those
    of `check_vjp` with tangents in the place of cotangents: values, tangents in float64, in fn's own dtype and on
    integers; kinks, where any slope between the sides is right; linearity in t; finite differences; the second
    derivative, reverse over forward; JAX's transformations.  T must be transposable, as `jax.linear_transpose` does
    for reverse mode, wherever f's own tangent is: the transpose must be its adjoint, <Tᵀ(u), t> = <u, T(t)>.

    Args and Returns: as `check_vjp`; a failure of a tangent has "tangent" for its argument.

    Raises:
      TypeError: as `check_vjp`; or fn is a `jax.custom_vjp`, to which forward mode does not apply.
      ValueError: as `check_vjp`.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_jvp
    ... def scale(x, w):
    ...     return x * w
    >>> scale.defjvps(lambda t, y, x, w: t * w, None)
    >>> report = check_jvp(scale, jnp.array([1., -2., 4.]), jnp.array([3., 1., 2.]))
    >>> report.ok, [(f.argument, f.diagnosis) for f in report.failures[:1]]
    (False, [('tangent', 'the tangent of w is ignored')])
    """
    from jax import custom_vjp

    if isinstance(fn, custom_vjp):
        raise mistyped("check_jvp", "fn", "must have tangents; check_vjp judges reverse rules", "a jax.custom_vjp")
    return _judge("check_jvp", fn, args, reference, level, kwargs, order, seed, domain)


def _judge(
    name: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    reference: Callable[..., Any] | None,
    level: Level,
    kwargs: Mapping[str, Any] | None,
    order: int,
    seed: int,
    domain: Callable[..., Any] | None,
) -> RuleReport:
    from fnconv.judge.rule.run import prepare, run_checks

    if level not in LEVELS:
        raise invalid(name, "level", f"must be one of {', '.join(LEVELS)}", repr(level))
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise invalid(name, "order", "must be an integer of at least 1", order)
    start = time.perf_counter()
    report = run_checks(prepare(fn, args, dict(kwargs or {}), reference, level, seed, name, domain), order)
    report.seconds = time.perf_counter() - start
    return report
