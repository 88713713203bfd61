"""Layers written out: any geometry, forward and backward, element by element.

>>> from fnconv import show
>>> print(show.conv((3, 3), (2, 2)).find("∂L/∂I_12"))
∂L/∂I_12 = δ_11·W_12 + δ_12·W_11

Printed, a page is text; in a notebook it is HTML; `.to_latex()` and `.to_html()` give the rest.
"""

from fnconv.show.conv import conv
from fnconv.show.dense import dense
from fnconv.show.net import net
from fnconv.show.page import Page
from fnconv.show.pool import pool

__all__ = ["Page", "conv", "dense", "net", "pool"]
