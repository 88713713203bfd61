"""The public names, one line each; `__init__.py` reads them here, and so do type checkers."""

from fnconv import compat as compat
from fnconv import show as show
from fnconv import testing as testing
from fnconv import textbook as textbook
from fnconv import train as train
from fnconv.base.cpu_settings import tune_cpu as tune_cpu
from fnconv.base.version import __version__ as __version__
from fnconv.judge.model.compare import compare as compare
from fnconv.judge.rule.entry import check_jvp as check_jvp
from fnconv.judge.rule.entry import check_vjp as check_vjp
from fnconv.judge.rule.rules import check_rules as check_rules
from fnconv.ops.functional import *  # noqa: F403
from fnconv.rules.available import available_rules as available_rules
from fnconv.transform.both_modes import both_modes as both_modes
from fnconv.transform.explanation import explain as explain
from fnconv.transform.forward_mode import jvp as jvp
from fnconv.transform.manual_rules import with_manual_rules as with_manual_rules
from fnconv.transform.tuning import tune as tune
