"""Formulations of im2col, which col2im and power-average pooling use too: each map is the other's adjoint.

forward(spec, x) -> cols (N, O, K, C), zeros in the padding     input_vjp(spec, cols) -> (N, *S, C), equal cells added
"""

from fnconv.base.spec import POOL_MAPS
from fnconv.rules.im2col import segment_sum, shifted
from fnconv.rules.table import rules

FORMULATIONS = (segment_sum, shifted)  # simplest first
RULES = rules(POOL_MAPS, FORMULATIONS)
