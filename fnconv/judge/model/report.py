"""What `compare` found, as a table, as HTML for notebooks and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from fnconv.judge.engine.jsonable import jsonable
from fnconv.judge.model.judge import AUTODIFF_WRONG, EQUAL, Leaf
from fnconv.judge.model.measure import Cost
from fnconv.transform.report import Report

HEADINGS = ("leaf", "shape", "dtype", "ulp", "relative", "manual", "autodiff", "nearer", "")
LEGEND = (
    "ulp, relative: manual against autodiff; manual, autodiff: |error against float64| over what rounding explains\n"
    "(at most 1); nearer: to float64, in the root mean square"
)


@dataclass(frozen=True, repr=False)
class Comparison:
    """Manual against automatic gradient of one function at one point.

    Attributes:
      name: of the function.
      values: the function's own results, one `Leaf` for each.
      leaves: the gradient, one `Leaf` for each array.
      replaced: what `with_manual_rules` replaced, and what it did not.
      manual, autodiff: what each costs; autodiff is None where JAX has no gradient.
      notes: what else is to be known about this comparison.
      device: where it ran.
    """

    name: str
    values: tuple[Leaf, ...]
    leaves: tuple[Leaf, ...]
    replaced: Report
    manual: Cost
    autodiff: Cost | None
    notes: tuple[str, ...]
    device: str

    @property
    def ok(self) -> bool:
        """Every leaf of the manual gradient, and the value, is autodiff's or within what rounding explains."""
        return all(leaf.ok for leaf in (*self.values, *self.leaves))

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

    def verdict(self) -> str:
        """One line."""
        bad = [leaf for leaf in (*self.values, *self.leaves) if not leaf.ok]
        if bad:
            return f"{len(bad)} of {len(self.values) + len(self.leaves)} arrays off by more than rounding explains"
        wrong = [leaf.path for leaf in self.leaves if leaf.verdict == AUTODIFF_WRONG]
        equal = sum(leaf.verdict == EQUAL for leaf in self.leaves)
        if self.autodiff is None:
            return "autodiff has no gradient here; the manual one is float64's, as far as rounding lets it be"
        if wrong:
            return f"the manual gradient is right; autodiff is the wrong one for {', '.join(wrong)}"
        return f"{len(self.leaves)} of {len(self.leaves)} leaves agree" + (
            f", {equal} to the last bit" if equal else ""
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; infinities and NaN as strings."""
        sites = [asdict(site) | {"replaced": site.replaced} for site in self.replaced]
        result: dict[str, Any] = jsonable(
            {
                "name": self.name,
                "ok": self.ok,
                "verdict": self.verdict(),
                "device": self.device,
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
        )
        return result

    def __repr__(self) -> str:
        return f"<Comparison of {self.name}: {self.verdict()}>"

    def __str__(self) -> str:
        rows = [HEADINGS, *(_cells(leaf) for leaf in (*self.values, *self.leaves))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
        table = [
            "  ".join(
                cell.ljust(w) if i in (0, 1, 2, 7) else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        table.insert(1, "-" * max(map(len, table)))
        return "\n".join([f"{self.name} on {self.device}", "", *table, LEGEND, "", *self._summary()])

    def _summary(self) -> list[str]:
        lines = [*_describe(self.worst), *self._costs()]
        counts = ", ".join(f"{n} {name}" for name, n in self.replaced.counts.items())
        lines.append(f"replaced  {counts or 'nothing: no operation of the function is one of fnconv'}")
        left = dict.fromkeys(f"{s.operation} at {s.source}: {s.reason}" for s in self.replaced.left)
        lines += [f"left      {entry}" for entry in left]
        lines += [f"note      {note}" for note in self.notes]
        return [*lines, f"{'OK' if self.ok else 'FAILED'}: {self.verdict()}"]

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
        """For notebooks."""

        def row(cells: Sequence[str], tag: str, style: str = "") -> str:
            return f"<tr{style}>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(
            row(_cells(leaf), "td", "" if leaf.ok and leaf.verdict != AUTODIFF_WRONG else ' style="color: #c00"')
            for leaf in (*self.values, *self.leaves)
        )
        summary = "<br>".join(escape(line) for line in self._summary())
        return (
            f"<b>{escape(self.name)}</b> on {escape(self.device)}"
            f"<table><thead>{row(HEADINGS, 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p>{escape(LEGEND)}</p><p>{summary}</p>"
        )


def _cells(leaf: Leaf) -> tuple[str, ...]:
    shape = "x".join(map(str, leaf.shape)) or "()"
    return (
        leaf.path,
        shape,
        leaf.dtype,
        _short(leaf.ulps, "g"),
        _short(leaf.relative, ".1e") if leaf.relative else "0",
        _short(leaf.ratio, ".3f"),
        _short(leaf.ratio_autodiff, ".3f"),
        leaf.nearer,
        leaf.verdict,
    )


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


def _short(number: float, form: str) -> str:
    return format(number, form if number < 1e5 else ".0e")


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _size(count: int) -> str:
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"
