"""Formulations of convolution.  Each module has the three maps, all of the forward's spec, on canonical arrays:

forward(spec, x, w) -> y        input_vjp(spec, dy, w) -> dx        weight_vjp(spec, x, dy) -> dw

A formulation may state

GROWTH   a factor for each axis: it adds numbers up to this much larger than the products themselves (default 1)
DIVIDES  its transforms divide, so it takes no integers
ROUNDS   its transforms round even where all operands are whole numbers
spreads  spreads(spec, map_): whether zeros that stand for cells out of reach are multiplied, so that a NaN or an
         infinity may reach results whose sums it is not in (default never)

and raises ValueError for sizes and dtypes that it refuses.
"""

from collections.abc import Callable

from fnconv.base.spec import CONV_MAPS, ConvSpec
from fnconv.rules.conv import (
    blocked,
    columns,
    correlation,
    im2col,
    jacobian,
    kronecker,
    lax,
    merged,
    onednn,
    space_to_depth,
    taps,
    winograd,
    winograd4,
)
from fnconv.rules.table import rules, stated

FORMULATIONS = (  # simplest first
    kronecker,
    jacobian,
    im2col,
    correlation,
    taps,
    columns,
    blocked,
    winograd,
    winograd4,
    merged,
    space_to_depth,
    onednn,
    lax,
)
RULES = rules(CONV_MAPS, FORMULATIONS)
GROWTH: dict[str, float] = stated("GROWTH", FORMULATIONS)
DIVIDES = frozenset(stated("DIVIDES", FORMULATIONS))
ROUNDING = frozenset(stated("ROUNDS", FORMULATIONS))
SPREADS: dict[str, Callable[[ConvSpec, str], bool]] = stated("spreads", FORMULATIONS)
