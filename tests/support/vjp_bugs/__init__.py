"""Custom rules with one bug each, beside the right one: what `check_vjp` must find, and what it must leave alone."""

from vjp_bugs import layers, elementwise, attention, impure  # noqa: F401, I001  # in the order of the tables
from vjp_bugs.catalogue import OPERATIONS, rule

BUGS = [(name, bug) for name, operation in OPERATIONS.items() for bug in operation.bugs]

__all__ = ["BUGS", "OPERATIONS", "rule"]
