"""`check_vjp`: the judge of anyone's custom gradient."""

from fnconv.judge.rule.entry import check_vjp

__all__ = ["check_vjp"]
