"""`with_manual_rules`: a model as it is, evaluated with fnconv's operations.

table.py         which operation takes the place of a primitive, and when none does
contraction.py   the one operation that only models in general need: `dot_general`
logsumexp.py     another one, and leaky_relu.py, with JAX's convention at 0
softmax.py       softmax, log_softmax and logsumexp, which JAX writes out, recognised by their chain of primitives
handler.py       front end that sees every primitive as it is evaluated
jaxpr.py         front end for the bodies of jit, scan, cond, ..., which are there as jaxprs
staged.py        a function as one jaxpr, which fusion needs
policy.py        checkpoint policies, which ask for primitives by name
report.py        what was replaced, and what was not
manual_rules.py  the transformation
both_modes.py    forward mode for fnconv's operations, beside reverse mode
forward_mode.py  forward products of any function that has reverse mode alone
"""
