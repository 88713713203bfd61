"""What `compare` found, as a table, as HTML for notebooks and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from fnconv.judge.engine import report
from fnconv.judge.model.leaf import AUTODIFF_WRONG, EQUAL, TOO_WEAK, Leaf
from fnconv.judge.model.measure import Cost
from fnconv.transform.report import Report

LEGEND = (
    "relative: manual against autodiff; manual, autodiff: |error against float64| over what rounding explains\n"
    "(at most 1); caught: the smallest relative error of the leaf that would have been; nearer: to float64, in the\n"
    "root mean square"
)


@dataclass(frozen=True, repr=False)
class Comparison(report.Report):
    """Manual against automatic gradient of one function at one point.

    Attributes:
      name: of the function.
      values: the function's own results, one `Leaf` for each.
      leaves: the gradient, one `Leaf` for each array.
      replaced: what `with_manual_rules` replaced, and what it did not.
      manual, autodiff: what each costs; autodiff is None where JAX has no gradient.
      notes: what else is to be known about this comparison.
      device: where it ran.
      precision: of products, where the program does not say.
    """

    headings = ("leaf", "shape", "dtype", "relative", "manual", "autodiff", "caught", "nearer", "")
    left = (0, 1, 2, 7, 8)
    spare = (6, 7, 2, 1)

    name: str
    values: tuple[Leaf, ...]
    leaves: tuple[Leaf, ...]
    replaced: Report
    manual: Cost
    autodiff: Cost | None
    notes: tuple[str, ...]
    device: str
    precision: str

    @property
    def lines(self) -> Sequence[Leaf]:
        """The value and the gradient."""
        return (*self.values, *self.leaves)

    @property
    def worst(self) -> Leaf:
        """The leaf whose manual error is largest, measured by what rounding explains."""
        return max(self.leaves, key=lambda leaf: (not leaf.ok, leaf.ratio, leaf.relative))

    @property
    def speedup(self) -> float | None:
        """Time of autodiff over time of the manual gradient; None where either is missing."""
        if self.autodiff is None or self.manual.seconds is None or self.autodiff.seconds is None:
            return None
        return self.autodiff.seconds / self.manual.seconds

    def summary(self) -> str:
        bad = [leaf for leaf in self.lines if not leaf.ok]
        weak = [leaf.path for leaf in bad if leaf.verdict == TOO_WEAK]
        if len(weak) < len(bad):
            return f"{len(bad) - len(weak)} of {len(self.lines)} arrays off by more than rounding explains"
        if weak:
            return f"too weak: an error of a percent might be missed in {', '.join(weak)}; take more samples, " + (
                "a cotangent, float64, or arguments at which the gradient is neither 0 nor NaN"
            )
        wrong = [leaf.path for leaf in self.leaves if leaf.verdict == AUTODIFF_WRONG]
        equal = sum(leaf.verdict == EQUAL for leaf in self.leaves)
        if self.autodiff is None:
            return "autodiff has no gradient here; the manual one is float64's, as far as rounding lets it be"
        if wrong:
            return f"the manual gradient is right; autodiff is the wrong one for {', '.join(wrong)}"
        return f"{len(self.leaves)} of {len(self.leaves)} leaves agree" + (
            f", {equal} to the last bit" if equal else ""
        )

    def facts(self) -> dict[str, Any]:
        sites = [asdict(site) | {"replaced": site.replaced} for site in self.replaced]
        return {
            "name": self.name,
            "ok": self.ok,
            "verdict": self.summary(),
            "device": self.device,
            "precision": self.precision,
            "worst": self.worst.path,
            "values": [asdict(leaf) | {"ok": leaf.ok} for leaf in self.values],
            "leaves": [asdict(leaf) | {"ok": leaf.ok} for leaf in self.leaves],
            "manual": asdict(self.manual),
            "autodiff": None if self.autodiff is None else asdict(self.autodiff),
            "speedup": self.speedup,
            "replaced": dict(self.replaced.counts),
            "sites": sites,
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return f"<Comparison of {self.name}: {self.summary()}>"

    def __str__(self) -> str:
        table = self.table()
        table.insert(1, "-" * max(map(len, table)))
        head = f"{self.name} on {self.device}, products in precision {self.precision}"
        return "\n".join([head, "", *table, *self.below()])

    def below(self) -> list[str]:
        """What stands below the table."""
        return [LEGEND, "", *self._summary()]

    def _summary(self) -> list[str]:
        lines = [*_describe(self.worst), *self._costs()]
        counts = ", ".join(f"{n} {name}" for name, n in self.replaced.counts.items())
        lines.append(f"replaced  {counts or 'nothing: no operation of the function is one of fnconv'}")
        left = dict.fromkeys(f"{s.operation} at {s.source}: {s.reason}" for s in self.replaced.left)
        lines += [f"left      {entry}" for entry in left]
        lines += [f"note      {note}" for note in self.notes]
        return [*lines, f"{'OK' if self.ok else 'FAILED'}: {self.summary()}"]

    def _costs(self) -> list[str]:
        lines = []
        if self.manual.seconds is not None:
            line = f"time      manual {_time(self.manual.seconds)}"
            if self.autodiff is not None and self.autodiff.seconds is not None:
                line += f", autodiff {_time(self.autodiff.seconds)}: {self.speedup:.2f} times as fast"
            lines.append(line)
        line = f"residuals manual {_size(self.manual.residual_bytes)}"
        if self.autodiff is not None:
            line += f", autodiff {_size(self.autodiff.residual_bytes)}"
        return [*lines, line]

    def _repr_html_(self) -> str:
        wrong = ' style="color: #c00"'
        table = self.html_table(lambda leaf: "" if leaf.ok and leaf.verdict != AUTODIFF_WRONG else wrong)
        summary = "<br>".join(escape(line) for line in self._summary())
        return f"<b>{escape(self.name)}</b> on {escape(self.device)}{table}<p>{escape(LEGEND)}</p><p>{summary}</p>"


def _describe(leaf: Leaf) -> list[str]:
    """The worst entry of a leaf in words."""
    w = leaf.worst
    if w is None:
        return []
    place = f"[{', '.join(map(str, w.index))}]" if w.index else ""
    theirs = "none" if w.autodiff is None else f"{w.autodiff:.9g}"
    nearer = {"neither": "both are as near"}.get(w.nearer, f"{w.nearer} is nearer")
    return [
        f"worst     {leaf.path}{place}: manual {w.manual:.9g}, autodiff {theirs}, float64 {w.float64:.12g};",
        f"          {nearer}; rounding explains an error of {w.bound:.2g}",
    ]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _size(count: int) -> str:
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"
