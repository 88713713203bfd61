"""`check_vjp` and `check_jvp`: the judge of anyone's custom derivative; `check_rules`: of all that a program calls."""

from fnconv.judge.rule.entry import check_jvp, check_vjp
from fnconv.judge.rule.rules import check_rules

__all__ = ["check_jvp", "check_rules", "check_vjp"]
