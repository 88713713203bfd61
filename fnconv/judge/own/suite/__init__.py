"""The operations and geometries that are checked."""

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import chain

from fnconv.judge.own.case import Case
from fnconv.judge.own.suite import block, convolution, norm, patches, pointwise, pooling

# how many geometries of an operation the quick check has, the first ones, where it is not one
QUICK = {"conv": 2, "max_pool": 3, "avg_pool": 3, "lp_pool": 2}
# of whose tangents the quick check has a case: one operation for each kind of rule
TANGENTS = ("conv", "max_pool", "relu", "softmax", "softmax_cross_entropy", "squared_error")


@cache
def cases() -> tuple[Case, ...]:
    """All of them; behind them the tangents of one geometry of each operation."""
    found, counts = [], Counter[str]()
    for case in chain.from_iterable(m.cases() for m in (convolution, block, patches, pooling, pointwise, norm)):
        counts[case.operation] += 1
        quick = case.quick or counts[case.operation] <= QUICK.get(case.operation, 1)
        found.append(replace(case, quick=quick))
    first = {case.operation: case for case in reversed(found) if case.quick}
    tangents = (case.tangents(quick=name in TANGENTS) for name, case in first.items())
    return (*found, *(case for case in tangents if case is not None))


def operations() -> tuple[str, ...]:
    """The names of what is checked."""
    return tuple(dict.fromkeys(case.operation for case in cases()))
