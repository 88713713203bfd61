"""The judge: manual gradients against automatic ones, with a guess at the cause where they differ."""

from fnconv.check.diagnose import diagnose
from fnconv.check.report import Report, Row, describe
from fnconv.check.run import check, execute, plan

__all__ = ["Report", "Row", "check", "describe", "diagnose", "execute", "plan"]
