"""`winograd` with tiles of four outputs along every axis: fewer products, at the points 0, +-2/3, +-3/2."""

from functools import partial

from fnconv.rules.conv import winograd

GROWTH = winograd.growth(4)
DIVIDES = ROUNDS = True
spreads = winograd.spreads

forward = partial(winograd.forward, m=4)
input_vjp = partial(winograd.input_vjp, m=4)
weight_vjp = partial(winograd.weight_vjp, m=4)
