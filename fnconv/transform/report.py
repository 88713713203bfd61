"""What was replaced, and what was not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.extend import source_info_util


@dataclass(frozen=True)
class Site:
    """One operation of the function.

    Attributes:
      operation: name as in `only`.
      primitive: JAX's.
      source: file, line and function that called it.
      types: of its operands and result.
      reason: why it was left as it is; empty where it was replaced.
      differentiated: whether it stands inside a `jax.grad`, `jax.jvp`, ... of the function's own.
    """

    operation: str
    primitive: str
    source: str
    types: str
    reason: str = ""
    differentiated: bool = False

    @property
    def replaced(self) -> bool:
        return not self.reason

    @classmethod
    def at(cls, operation: str, primitive: str, source_info: Any, types: str) -> Site:
        return cls(operation, primitive, source_info_util.summarize(source_info), types)

    def left(self, why: Exception) -> Site:
        return replace(self, reason=str(why))

    def within(self, name_stack: Any, source_info: Any) -> Site:
        """The site as part of what stands at this place, under this part of the name stack."""
        differentiated = self.differentiated or any(map(_is_derivative, name_stack))
        source = self.source or source_info_util.summarize(source_info)
        return replace(self, differentiated=differentiated, source=source)


def _is_derivative(entry: Any) -> bool:
    """Whether an entry of a name stack is JAX's mark of a derivative, and not a scope that is called so."""
    return type(entry).__name__ == "Transform" and entry.name == "jvp"


def types(operands: Iterable[Any], results: Iterable[Any]) -> str:
    return f"{', '.join(map(_type, operands))} -> {', '.join(map(_type, results))}"


def _type(value: Any) -> str:
    aval = getattr(value, "aval", None)
    aval = aval if aval is not None else value if isinstance(value, jax.core.ShapedArray) else jax.typeof(value)
    return str(aval.str_short(short_dtypes=True))


LATE = (
    "differentiates inside itself: there the derivatives are JAX's own, for rules come too late for what they are "
    "applied outside of; write jax.grad(with_manual_rules(f)), not with_manual_rules(jax.grad(f))"
)


class Report(Sequence[Site]):
    """The sites of a function, in the order of evaluation; `str` shows them as a table."""

    def __init__(self, name: str, sites: Iterable[Site]) -> None:
        self.name, self._sites = name, tuple(sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __getitem__(self, index: Any) -> Any:
        return self._sites[index]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    @property
    def replaced(self) -> tuple[Site, ...]:
        return tuple(s for s in self if s.replaced)

    @property
    def left(self) -> tuple[Site, ...]:
        return tuple(s for s in self if not s.replaced)

    @property
    def late(self) -> bool:
        """Whether the function differentiates inside itself, where rules come too late."""
        return any(s.differentiated for s in self)

    @property
    def counts(self) -> Counter[str]:
        """Number of replaced sites of each operation."""
        return Counter(s.operation for s in self.replaced)

    def __repr__(self) -> str:
        return f"<Report on {self.name}: {len(self.replaced)} replaced, {len(self.left)} left>"

    def __str__(self) -> str:
        """One line per site: its operation, where it stands, its types, and why it was left."""
        head = f"{self.name}: {len(self.replaced)} replaced, {len(self.left)} left as they were"
        widths = [max((len(getattr(s, f)) for s in self), default=0) for f in ("operation", "types")]
        lines = [
            f"  {s.operation:{widths[0]}}  {s.types:{widths[1]}}  {s.source}" + (s.reason and f"\n    left: {s.reason}")
            for s in self
        ]
        return "\n".join([head, *lines, *([f"  {self.name} {LATE}"] if self.late else [])])
