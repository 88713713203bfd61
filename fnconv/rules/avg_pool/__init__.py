"""Formulations of average pooling: forward(spec, x) -> y and input_vjp(spec, dy) -> dx.

y = (sum over the window) / size and dx = the windows' adjoint of (dy / size): the two are each other's adjoint and so
closed under differentiation.  `size` is constant; a window wholly in uncounted padding has value and gradient 0.
"""

from fnconv.base.spec import POOL_MAPS
from fnconv.rules.avg_pool import lax, matrix, segment_sum, upsample
from fnconv.rules.table import rules

FORMULATIONS = (matrix, segment_sum, upsample, lax)  # simplest first
RULES = rules(POOL_MAPS, FORMULATIONS)
