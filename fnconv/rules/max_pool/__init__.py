"""Formulations of max pooling.  All speak of the winner of each window by its offset in the window:

forward(spec, x) -> (y, offset)     input_vjp(spec, offset, dy) -> dx = S^T dy     select(spec, offset, x) -> S x

`offset` counts window elements row-major whatever the tie order, and is -1 where a window lies in the padding.
`select` is the adjoint of `input_vjp`: the two are closed under differentiation.
"""

from fnconv.base.spec import POOL_MAPS
from fnconv.rules.max_pool import lax as lax
from fnconv.rules.max_pool import offsets, segment_sum, selection, separable
from fnconv.rules.table import rules, stated

FORMULATIONS = (selection, segment_sum, separable, offsets)  # simplest first
RULES = rules(POOL_MAPS, FORMULATIONS)
ADJOINTS = stated("select", FORMULATIONS)
