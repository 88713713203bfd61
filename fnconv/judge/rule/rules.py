"""`check_rules`: every custom rule that a program calls, judged with the arguments that it is called with."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fnconv.base.errors import mistyped
from fnconv.base.typing import Level
from fnconv.judge.engine import report
from fnconv.judge.engine.programs import abstract
from fnconv.judge.rule.entry import check_vjp
from fnconv.judge.rule.report import FAILS, PASSES, SKIPPED, RuleReport
from fnconv.judge.rule.structure import ALONE, STRUCTURE
from fnconv.judge.rule.trial import first_line

JAX = str(Path(jax.__file__).parent)
KINDS = (jax.custom_vjp, jax.custom_jvp)
# what was traced before is traced again: the context is part of jit's key
_watched = jax.make_user_context(None)  # type: ignore[no-untyped-call]


@dataclass
class Judged(report.Row):
    """One call of a rule: of its arguments' shapes, dtypes and static values the first that was met.

    source: the file and the line where its function is defined.  calls: how many of the same kind were traced.
    report: of `check_vjp`; None where it could not be judged, for the reason in `detail`.
    """

    rule: str
    source: str
    arguments: str
    calls: int = 1
    report: RuleReport | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        return SKIPPED if self.report is None else PASSES if self.report.ok else FAILS

    @property
    def ok(self) -> bool:
        return self.report is None or self.report.ok

    def cells(self) -> tuple[str, ...]:
        return self.rule, self.source, self.arguments, str(self.calls), self.verdict, self.detail


@dataclass
class RulesReport(report.Report):
    """The rules that were found; `print` shows a line for each, and the failures of those that are wrong."""

    headings = ("rule", "defined", "arguments", "calls", "verdict", "")
    left = (0, 1, 2, 4, 5)
    spare = (3, 2)

    function: str
    rows: list[Judged] = field(default_factory=list)

    @property
    def lines(self) -> Sequence[Judged]:
        return self.rows

    @property
    def ok(self) -> bool:
        """None is wrong, and something was judged."""
        return super().ok and any(row.report for row in self.rows)

    def summary(self) -> str:
        if not self.rows:
            return f"{self.function}: no custom rule is called, nothing was judged"
        wrong, left = (sum(row.verdict == word for row in self.rows) for word in (FAILS, SKIPPED))
        return f"{self.function}: {len(self.rows) - left} calls of custom rules judged, {wrong} wrong" + (
            f", {left} not judged" if left else ""
        )

    def facts(self) -> dict[str, Any]:
        rows = [vars(row) | {"report": row.report and row.report.facts(), "verdict": row.verdict} for row in self.rows]
        return {"ok": self.ok, "summary": self.summary(), "function": self.function, "rows": rows}

    def below(self) -> list[str]:
        """What stands below the table."""
        wrong = [line for row in self.rows if row.report and not row.ok for line in ["", *row.report.below()]]
        return [*wrong, "", self.summary()]

    def __str__(self) -> str:
        return "\n".join([*self.table(), *self.below()])


def check_rules(
    fn: Callable[..., Any],
    *args: Any,
    level: Level = "quick",
    kwargs: Mapping[str, Any] | None = None,
    order: int = 2,
    seed: int = 0,
) -> RulesReport:
    """Run fn once, and judge every `jax.custom_vjp` and `jax.custom_jvp` that it calls, whoever wrote it.

    They are found inside jit, grad, scan, vmap, remat and shard_map; those of JAX itself are left out.  Each is judged
    by `check_vjp`, once for each kind of call: with the values that it was first called with, one member of a batch
    under vmap, one step of a loop.

    Args:
      fn: any function, as a model or a training step.
      level, order, seed: as in `check_vjp`.
      kwargs: keyword arguments of fn.

    Returns:
      A report: `.ok`, `.rows`, each with its `.report`, `.to_json()`.  A rule that cannot be called by itself, as one
      that closes over values of the traced program, is not judged, and its row says why.

    Raises:
      TypeError: fn is not callable; and whatever fn itself raises.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def double(x):
    ...     return 2 * x
    >>> double.defvjp(lambda x: (2 * x, None), lambda _, dy: (3 * dy,))
    >>> report = check_rules(jax.jit(jax.grad(lambda x: double(jnp.sin(x)).sum())), jnp.array([1., -3.]))
    >>> report.ok, [(row.rule, row.verdict) for row in report.rows]
    (False, [('double', 'FAILS')])
    """
    if not callable(fn):
        raise mistyped("check_rules", "fn", "must be a function", type(fn).__name__)
    found = RulesReport(str(getattr(fn, "__name__", type(fn).__name__)))
    for call in _calls(partial(fn, *args, **(kwargs or {}))):
        row = call.row
        found.rows.append(row)
        try:
            given, options = call.arguments()
            judged = check_vjp(call.rule, *given, level=level, kwargs=options, order=order, seed=seed)
        except Exception as error:  # whatever the rule raises when it is called by itself
            row.detail = first_line(error)
            continue
        alone = [f.diagnosis for f in judged.failures if f.check == STRUCTURE and f.diagnosis.startswith(ALONE)]
        row.report = None if alone else judged  # it ran in the program
        row.detail = "; ".join(alone or judged.notes)
    return found


@dataclass
class _Call:
    """Leaves of (args, kwargs): arrays once they are known, else their shapes; anything else as it is."""

    rule: Any
    tree: Any
    leaves: list[Any]
    row: Judged

    def keep(self, places: Sequence[int], *arrays: Any) -> None:
        for place, array in zip(places, arrays, strict=True):
            if isinstance(self.leaves[place], jax.ShapeDtypeStruct):
                self.leaves[place] = np.asarray(array)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = [jax.numpy.asarray(v) if isinstance(v, np.ndarray) else v for v in self.leaves]
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        return args, kwargs


def _calls(run: Callable[[], Any]) -> list[_Call]:
    """The distinct calls of rules while `run` runs."""
    found: dict[Any, _Call] = {}

    def note(rule: Any, args: Any, kwargs: Any) -> None:
        function = rule.__wrapped__ if hasattr(rule, "__wrapped__") else rule.fun
        name, source = _defined(function)
        if source.startswith(JAX):
            return
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [i for i, v in enumerate(leaves) if isinstance(v, jax.Array | np.ndarray | np.generic)]
        kinds = [abstract(v.shape, v.dtype) if i in places else v for i, v in enumerate(leaves)]
        key = source, str(tree), tuple(map(str, kinds))
        if key in found:
            found[key].row.calls += 1
            return
        words = ", ".join(f"{k.dtype}{list(k.shape)}" if i in places else str(k)[:20] for i, k in enumerate(kinds))
        call = found[key] = _Call(rule, tree, kinds, Judged(name, Path(source).name, words))
        jax.debug.callback(partial(call.keep, places), *(leaves[i] for i in places))

    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(_noting(kind, note))
        stack.enter_context(_watched(object()))
        jax.block_until_ready(run())  # type: ignore[no-untyped-call]
        jax.effects_barrier()  # type: ignore[no-untyped-call]
    return list(found.values())


@contextlib.contextmanager
def _noting(kind: Any, note: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Calls of rules of a kind are noted, in this block."""
    original = kind.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        note(self, args, kwargs)
        return original(self, *args, **kwargs)

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = original


def _defined(function: Any) -> tuple[str, str]:
    """(name, file:line) of a function."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    name = str(getattr(function, "__name__", type(function).__name__))
    return name, f"{code.co_filename}:{code.co_firstlineno}" if code else name
