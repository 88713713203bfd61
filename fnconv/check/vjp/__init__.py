"""`check_vjp`: the judge of anyone's custom gradient."""

from fnconv.check.vjp.entry import check_vjp

__all__ = ["check_vjp"]
