"""Sphinx: the reference, from the docstrings, with the notebooks as they are stored.

    sphinx-build -W notebooks build/docs

Nothing is executed, and no page loads anything from outside: equations become MathML while the pages are built.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import fnconv  # noqa: E402

project = "fnconv"
author = copyright = "The fnconv developers"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
root_doc = "index"
include_patterns = ["index.md", "README.md", "glossary.md", "reference/*.md", "*.ipynb"]
html_theme = "furo"
html_title = "fnconv"
html_static_path = ["reference/static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_update_mathjax = False
myst_dmath_double_inline = True
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_code_prompt_show = "Show the code of the picture"
nb_code_prompt_hide = "Hide the code of the picture"

napoleon_use_rtype = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_type_aliases = {name: name for name in ("IntOrTuple", "Padding", "Precision", "RuleNames")}
add_module_names = False
default_role = "code"
smartquotes_action = "D"  # dashes alone


# ---- docstrings -----------------------------------------------------------------------------------------------------


CITATION = r"\b((?:Wei|Notes|GEMM|Small) (?:\(\d(?:\.\d+)?\)|\d(?:\.\d)?\b))"  # Wei (2.28), Notes 2.3, Small (1)
MARKUP = r"(\*\w+\*)|([*|]|_(?=\W|$))"


def as_rst(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`, *emphasis*, citations, examples, and blocks, indented by four."""
    example = block = False
    result: list[str] = []
    for line in lines:
        example = line.lstrip().startswith(">>>") or (example and bool(line))
        if line.startswith(" " * 4) and result[-1:] == [""] and not block:
            block = True
            result += ["::", ""]
        block = block and (not line or line.startswith(" " * 4))
        result.append(line if example or block else _escaped(line))
    lines[:] = result


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)  # text, code, text, code, ..., text
    parts[::2] = [re.sub(MARKUP, lambda m: m[1] or f"\\{m[2]}", text) for text in parts[::2]]
    parts[::2] = [re.sub(CITATION, r":doc:`\1 </README>`", text) for text in parts[::2]]
    parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", text) for text in parts[2::2]]  # the plural of `Choice`s
    return "".join(parts)


def signature(
    app: Sphinx, what: str, name: str, obj: object, options: Any, arguments: str, result: str
) -> Any:
    """Aliases by their names: `Padding`, not what it stands for."""
    return re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", arguments or "") or arguments, result


# ---- pages ----------------------------------------------------------------------------------------------------------


def with_functions(app: Sphinx, page: str, source: list[str]) -> None:
    """`{{ fnconv.ops }}` on a page becomes every public function from there, a heading for each module."""
    source[0] = re.sub(r"\{\{ fnconv\.([\w.]+) \}\}", lambda found: _functions(found[1]), source[0])


def _functions(folder: str) -> str:
    modules: dict[str, list[str]] = {}
    for name, module in fnconv._ORIGIN.items():
        if f"{module}.".startswith(f"fnconv.{folder}.") and callable(getattr(fnconv, name)):
            modules.setdefault(module, []).append(name)
    parts = []
    for module, names in modules.items():
        heading = (
            names[0] if len(names) == 1 else module.rpartition(".")[2].replace("_", " ").capitalize()
        )
        entries = "\n".join(f".. autofunction:: fnconv.{name}" for name in names)
        parts.append(f"## {heading}\n\n```{{eval-rst}}\n.. automodule:: {module}\n\n{entries}\n```\n")
    return "\n".join(parts)


# ---- equations ------------------------------------------------------------------------------------------------------


PRIME = r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>"  # an exponent, too small to be seen


def mathml(display: str) -> tuple[Any, None]:
    def visit(writer: Any, node: nodes.Element) -> None:
        text, tag = node.astext(), ""
        if found := re.search(r"\\tag\{([^}]*)\}", text):
            text, tag = (
                text.replace(found[0], ""),
                f'<span class="eqno">({html.escape(found[1])})</span>',
            )
        equation = convert(text.replace(r"\operatorname", r"\text"), display=display)
        equation = re.sub(PRIME, r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>', equation)
        writer.body.append(
            equation if display == "inline" else f'<div class="math">{tag}{equation}</div>'
        )
        raise nodes.SkipNode

    return visit, None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", signature)
    app.connect("source-read", with_functions)
    app.add_html_math_renderer("mathml", mathml("inline"), mathml("block"))
    return {"parallel_read_safe": True}
