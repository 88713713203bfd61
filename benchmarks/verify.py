"""Equality before speed: on integers, whose sums autodiff computes without rounding.

A result that equals autodiff's bit for bit is "exact".  One that rounds on the way (Winograd's transforms divide)
must be within the probabilistic bound on a sum of n products of moduli adding to m, lambda sqrt(n + 2) u m with
lambda = 8 (Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41,
2019); n and m are the same map's results on ones and on moduli.  Unlike n u m it stays far below the size of an
entry, so that a missing tap shows.  Half precisions round once more, when they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

LAMBDA = 8.0
EXACT = "exact"
F32 = float(jnp.finfo(jnp.float32).eps) / 2


class Disagreement(RuntimeError):
    """A result that is not autodiff's: nothing is timed."""


@dataclass(frozen=True)
class Verdict:
    """How near a result is: "exact", or the largest fraction of the bound that was used."""

    fraction: float = 0.0

    def __str__(self) -> str:
        return EXACT if self.fraction == 0 else f"{self.fraction:.2g}"


def integers(seed: int = 0) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Draws from -2..2, as float32."""
    random = np.random.default_rng(seed)
    return lambda shape: random.integers(-2, 3, shape).astype(np.float32)


def normal(seed: int = 1) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Draws from the normal distribution, as float32."""
    random = np.random.default_rng(seed)
    return lambda shape: random.standard_normal(shape, dtype=np.float32)


def verify(
    what: str,
    operands: tuple[Any, ...],
    truth: Callable[..., Any],
    results: Mapping[str, Any],
    dtype: str = "float32",
    *,
    exact: bool = False,
) -> dict[str, Verdict]:
    """Compare results with `truth`, a linear map of float32 integers; raises `Disagreement`.

    exact: every bit is due.
    """
    right = np.asarray(truth(*operands), np.float64)
    found = {name: np.asarray(jnp.asarray(value, jnp.float32), np.float64) for name, value in results.items()}
    rounding = 0.0 if dtype == "float32" else float(jnp.finfo(dtype).eps) / 2
    if all(np.array_equal(value, right) for value in found.values()):
        return {name: Verdict() for name in found}
    if exact:
        nothing = np.zeros_like(right)
        return {name: judge(f"{what}, {name}", value, right, nothing) for name, value in found.items()}
    magnitude = np.asarray(truth(*map(abs, operands)), np.float64)
    if magnitude.max(initial=0) > 2**24:
        raise ValueError(f"{what}: sums of {magnitude.max():.0f} are not exact in float32")
    count = np.asarray(truth(*map(jnp.ones_like, operands)), np.float64)
    bound = LAMBDA * np.sqrt(count + 2) * F32 * magnitude
    bound = bound + rounding * (abs(right) + bound)
    # Torch adds up half precisions in half precision
    bounds = {"torch": LAMBDA * np.sqrt(count + 2) * rounding * magnitude} if rounding else {}
    return {name: judge(f"{what}, {name}", value, right, bounds.get(name, bound)) for name, value in found.items()}


def judge(what: str, value: np.ndarray, right: np.ndarray, bound: np.ndarray) -> Verdict:
    """How much of the bound is used; raises `Disagreement` beyond it."""
    if value.shape != right.shape:
        raise Disagreement(f"{what}: shape {value.shape}, autodiff's is {right.shape}")
    error = np.abs(value - right)
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = np.where(error > 0, error / bound, 0.0)
    fraction = np.where(np.isnan(fraction) | ~np.isfinite(value), np.inf, fraction)
    worst = float(fraction.max(initial=0.0))
    if worst > 1:
        i = tuple(int(n) for n in np.unravel_index(int(fraction.argmax()), fraction.shape))
        raise Disagreement(f"{what}: at {i} got {value[i]!r}, want {right[i]!r} within {bound[i]:.3g}")
    return Verdict(worst)
