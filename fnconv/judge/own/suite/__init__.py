"""The operations and geometries that are checked."""

from functools import cache

from fnconv.judge.own.case import Case
from fnconv.judge.own.suite import block, convolution, patches, pointwise, pooling


@cache
def cases() -> tuple[Case, ...]:
    """All of them, in the order in which they are reported."""
    return (*convolution.cases(), *block.cases(), *patches.cases(), *pooling.cases(), *pointwise.cases())


def operations() -> tuple[str, ...]:
    """The names of what is checked."""
    return tuple(dict.fromkeys(case.operation for case in cases()))
