"""The operations and geometries that are checked."""

from functools import cache

from fnconv.judge.own.case import Case
from fnconv.judge.own.suite import block, convolution, norm, patches, pointwise, pooling

# of whose tangents the quick check has a case: one operation for each kind of rule
TANGENTS = ("conv", "max_pool", "relu", "softmax", "softmax_cross_entropy", "squared_error")


@cache
def cases() -> tuple[Case, ...]:
    """All of them; behind them the tangents of one geometry of each operation."""
    found = (
        *convolution.cases(),
        *block.cases(),
        *patches.cases(),
        *pooling.cases(),
        *pointwise.cases(),
        *norm.cases(),
    )
    first = {case.operation: case for case in reversed(found) if case.quick}
    tangents = (case.tangents(quick=name in TANGENTS) for name, case in first.items())
    return (*found, *(case for case in tangents if case is not None))


def operations() -> tuple[str, ...]:
    """The names of what is checked."""
    return tuple(dict.fromkeys(case.operation for case in cases()))
