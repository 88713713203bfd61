"""Formulations of max pooling.  All speak of the winner of each window by its offset in the window:

    forward(spec, x) -> (y, offset)     unselect(spec, offset, dy) -> dx = S^T dy     select(spec, offset, x) -> S x

`offset` counts window elements row-major whatever the tie order, and is -1 where a window lies in the padding.
`select` is the adjoint of `unselect`: the two are closed under differentiation.
"""

from collections.abc import Callable
from typing import Any

import jax

from fnconv.rules.max_pool import offsets, segment_sum, selection

RULES: dict[str, dict[str, Callable[..., Any]]] = {
    "forward": {"selection": selection.forward, "segment_sum": segment_sum.forward, "offsets": offsets.forward},
    "input_vjp": {"selection": selection.unselect, "segment_sum": segment_sum.unselect, "offsets": offsets.unselect},
}
ADJOINTS: dict[str, Callable[..., jax.Array]] = {
    "selection": selection.select,
    "segment_sum": segment_sum.select,
    "offsets": offsets.select,
}
