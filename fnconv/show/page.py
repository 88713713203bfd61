"""A page and the ways to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fnconv.base.errors import invalid
from fnconv.show import html, latex, text
from fnconv.show.blocks import Section

WIDTH = 100


@dataclass(frozen=True)
class Page:
    """What `fnconv.show` returns: text when printed, HTML in a notebook, LaTeX when asked for."""

    title: str
    sections: tuple[Section, ...]
    live: Callable[[], str] = field(default=str, repr=False, compare=False)  # HTML to step through the layer

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def find(self, start: str) -> str:
        """The equation, in plain text, that starts with these characters."""
        for line in text.equations(self.sections):
            if line.startswith(start):
                return line
        raise invalid("Page.find", "start", "must begin one of the equations shown", repr(start))

    def to_text(self, width: int = WIDTH) -> str:
        """Plain text, lines of at most `width` characters where an entry does not need more."""
        return "\n".join(line for line, _ in text.lines(self.title, self.sections, width))

    def to_latex(self) -> str:
        """A fragment for a document that loads amsmath."""
        return latex.fragment(self.title, self.sections)

    def to_html(self) -> str:
        """A whole page that needs no other and no network; on top, the layer to step through and to change."""
        return html.document(self.title, self.sections, self.live())

    def _repr_html_(self) -> str:
        return html.fragment(self.title, self.sections)

    def _repr_latex_(self) -> str:
        return latex.mathematics(self.sections)
