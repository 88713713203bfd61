"""The judge: manual gradients against automatic ones, with a guess at the cause where they differ."""

from fnconv.judge.engine.diagnose import diagnose
from fnconv.judge.own.report import OwnReport, describe_failures
from fnconv.judge.own.run import check, execute, plan

__all__ = ["OwnReport", "check", "describe_failures", "diagnose", "execute", "plan"]
