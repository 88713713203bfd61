"""`check_vjp` and `check_jvp`: the judge of anyone's custom derivative."""

from fnconv.judge.rule.entry import check_jvp, check_vjp

__all__ = ["check_jvp", "check_vjp"]
