"""For test suites: a custom gradient is right, or the test fails and says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fnconv.base.typing import Level
from fnconv.judge.rule.entry import check_vjp
from fnconv.judge.rule.rules import check_rules

__all__ = ["assert_rules", "assert_vjp"]


def assert_vjp(
    fn: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    level: Level = "quick",
    kwargs: Mapping[str, Any] | None = None,
    order: int = 2,
    seed: int = 0,
    domain: Callable[..., Any] | None = None,
) -> None:
    """Fail with the report of `fnconv.check_vjp` as the message, unless all checks pass; same arguments.

    A `jax.custom_jvp` is judged by its tangents, as `fnconv.check_jvp` does.

    Raises:
      AssertionError: the gradient is wrong.
      TypeError, ValueError: as `check_vjp`.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def double(x):
    ...     return 2 * x
    >>> double.defvjp(lambda x: (2 * x, None), lambda _, dy: (2 * dy,))
    >>> assert_vjp(double, jnp.array([1., -3.]))
    """
    __tracebackhide__ = True
    report = check_vjp(
        fn, *args, reference=reference, level=level, kwargs=kwargs, order=order, seed=seed, domain=domain
    )
    if not report.ok:
        raise AssertionError(f"\n{report}")


def assert_rules(
    fn: Callable[..., Any], *args: Any, level: Level = "quick", kwargs: Mapping[str, Any] | None = None, seed: int = 0
) -> None:
    """Fail unless every custom rule that fn calls is right; it must call one.  Same arguments as `fnconv.check_rules`.

    Raises:
      AssertionError: a rule is wrong, or none could be judged.
      TypeError: as `check_rules`.
    """
    __tracebackhide__ = True
    report = check_rules(fn, *args, level=level, kwargs=kwargs, seed=seed)
    if not report.ok:
        raise AssertionError(f"\n{report}")
