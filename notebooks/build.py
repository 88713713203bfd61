"""Execute the notebooks: NN_name.py (percent format, the source) becomes NN_name.ipynb (with outputs).

    python notebooks/build.py [NAME ...]            execute and write
    python notebooks/build.py --check [NAME ...]    execute again; exit status 1 where something differs

NAME is a number or the beginning of a file's name.  What is compared, cell by cell: the source, and of the outputs
all text, exactly.  A picture is compared by the text that describes it (`pictures.describe`: its labels, the numbers
in its cells, its integer matrices), not by its pixels, which depend on fonts.  In a cell tagged "volatile" (timings,
figures that depend on the machine or the version of XLA) only the kinds of its outputs are compared.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
CELL_SECONDS = 300
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# The same everywhere: the CPU, and in `execute` the checkout's fnconv and no settings of the user's.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "jax",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA complains on stderr where a busy machine compiles slowly
}


def sources() -> list[Path]:
    """The notebooks, in the order of their numbers."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def read_source(path: Path) -> NotebookNode:
    """The notebook that a percent-format file describes: cells without outputs, of deterministic metadata."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    return plain(notebook.cells)


def plain(cells: Iterable[NotebookNode]) -> NotebookNode:
    """A notebook of these cells that keeps their tags and no other metadata: no times, no versions, no ids.

    JupyterLab folds the code of a cell by `source_hidden`, the reference by the tag "hide-input".
    """
    kept = []
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        kept.append(
            NotebookNode({k: v for k, v in cell.items() if k != "id"} | {"metadata": NotebookNode()})
        )
        if "hide-input" in tags:
            kept[-1].metadata.jupyter = NotebookNode(source_hidden=True)
        if tags:
            kept[-1].metadata.tags = list(tags)
    return nbformat.from_dict({"nbformat": 4, "nbformat_minor": 4, "metadata": METADATA, "cells": kept})


def code(source: str) -> NotebookNode:
    """A code cell to append to a notebook."""
    return NotebookNode(
        cell_type="code", source=source, metadata=NotebookNode(), outputs=[], execution_count=None
    )


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run every cell in a fresh kernel; an error in a cell is raised here."""
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--log-level=ERROR"],
    )
    with TemporaryDirectory() as settings:
        own = {"PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": settings}
        client.execute(env=os.environ | ENVIRONMENT | own)
    result = plain(notebook.cells)
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.outputs = list(merged(cell.outputs))
    return result


def merged(outputs: Sequence[Any]) -> Iterable[NotebookNode]:
    """Outputs without metadata, the pieces of one stream joined: how a kernel cuts a stream is chance."""
    for name, group in groupby(outputs, key=lambda output: output.get("name")):
        if name is None:
            yield from (nbformat.from_dict({**output, "metadata": {}}) for output in group)
        else:
            text = "".join(output.text for output in group)
            yield nbformat.from_dict({"output_type": "stream", "name": name, "text": text})


def readable(cell: NotebookNode) -> list[str]:
    """The outputs of a cell as lines to compare."""
    lines = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            kinds, texts = output.name, [output.text]
        else:
            kinds = ", ".join(sorted(output.data))
            texts = [output.data[kind] for kind in sorted(output.data) if kind.startswith("text/")]
        lines.append(f"[{kinds}]")
        if "volatile" not in cell.metadata.get("tags", []):
            lines += [line for text in texts for line in text.splitlines()]
    return lines


def written(cell: NotebookNode) -> str:
    """Everything of a cell but its outputs."""
    return f"{cell.cell_type} {dict(cell.metadata)}\n{cell.source}"


def differences(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """How two executed notebooks differ, as lines of a diff; [] where they agree."""
    found = []
    if stored.metadata != fresh.metadata:
        found.append(f"metadata: stored {dict(stored.metadata)}, fresh {dict(fresh.metadata)}")
    old, new = ([written(cell) for cell in notebook.cells] for notebook in (stored, fresh))
    if old != new:
        return found + list(
            difflib.unified_diff(old, new, "stored cells", "cells of the .py", lineterm="", n=0)
        )
    for number, (a, b) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        names = (f"cell {number}, stored", f"cell {number}, fresh")
        found += difflib.unified_diff(readable(a), readable(b), *names, lineterm="")
        found += [
            f"cell {number} wrote to stderr: {o.text}"
            for o in b.get("outputs", [])
            if o.get("name") == "stderr"
        ]
    return found


def read_stored(path: Path) -> NotebookNode:
    """The .ipynb beside a source, as it is stored."""
    return nbformat.read(path.with_suffix(".ipynb"), as_version=nbformat.NO_CONVERT)


def selected(names: Sequence[str]) -> list[Path]:
    chosen = [
        path for path in sources() if not names or any(path.name.startswith(name) for name in names)
    ]
    if not chosen:
        raise SystemExit(
            f"build: no notebook begins with {' or '.join(names)}; there are {[p.stem for p in sources()]}"
        )
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute the notebooks.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="number or beginning of the name; all without"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with what is stored instead of writing it"
    )
    options = parser.parse_args(arguments)
    status = 0
    for path in selected(options.names):
        fresh = execute(read_source(path))
        if not options.check:
            nbformat.write(fresh, path.with_suffix(".ipynb"))
            print(f"{path.stem}: written")
        elif found := differences(read_stored(path), fresh):
            status = 1
            print(f"{path.stem}: differs", *found, sep="\n")
        else:
            print(f"{path.stem}: as stored")
    return status


if __name__ == "__main__":
    sys.exit(main())
