"""Formulations of convolution.  Each module has the three maps, all of the forward's spec, on canonical arrays:

forward(spec, x, w) -> y        input_vjp(spec, dy, w) -> dx        weight_vjp(spec, x, dy) -> dw
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from fnconv.rules.conv import blocked, columns, correlation, im2col, jacobian, kronecker, lax, merged, taps, winograd

# Formulations that add up larger numbers than the products themselves, and how much larger along every axis; and of
# these the ones whose transforms divide so that whole numbers do not stay exact.
GROWTH = {"winograd": winograd.growth(2), "winograd4": winograd.growth(4)}
ROUNDING = frozenset({"winograd4"})

RULES: dict[str, dict[str, Callable[..., Any]]] = {
    "forward": {
        "kronecker": kronecker.forward,
        "jacobian": jacobian.forward,
        "im2col": im2col.forward,
        "correlation": correlation.forward,
        "taps": taps.forward,
        "columns": columns.forward,
        "blocked": blocked.forward,
        "winograd": winograd.forward,
        "winograd4": partial(winograd.forward, m=4),
        "merged": merged.forward,
        "lax": lax.forward,
    },
    "input_vjp": {
        "kronecker": kronecker.input_vjp,
        "jacobian": jacobian.input_vjp,
        "im2col": im2col.input_vjp,
        "correlation": correlation.input_vjp,
        "taps": taps.input_vjp,
        "columns": taps.input_vjp,
        "blocked": blocked.input_vjp,
        "winograd": winograd.input_vjp,
        "winograd4": partial(winograd.input_vjp, m=4),
        "merged": merged.input_vjp,
        "lax": lax.input_vjp,
    },
    "weight_vjp": {
        "kronecker": kronecker.weight_vjp,
        "jacobian": jacobian.weight_vjp,
        "im2col": im2col.weight_vjp,
        "correlation": correlation.weight_vjp,
        "taps": taps.weight_vjp,
        "columns": columns.weight_vjp,
        "blocked": blocked.weight_vjp,
        "winograd": winograd.weight_vjp,
        "winograd4": partial(winograd.weight_vjp, m=4),
        "merged": merged.weight_vjp,
        "lax": lax.weight_vjp,
    },
}
