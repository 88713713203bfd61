"""Every notebook gives what is stored, and its exercises tell right answers from wrong ones."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from extras import needs

needs("notebooks", "jupytext", "nbclient", "nbformat", "ipykernel")

import nbformat

import fnconv
from notebooks import build, exercises, pictures

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS, SOLUTIONS = ROOT / "notebooks", ROOT / "tests" / "house" / "notebook_solutions"
EXERCISES = (1, 2, 3)
STORED_BYTES = 3_000_000
NAMES = [path.stem for path in build.sources()]
by_name = pytest.mark.parametrize("name", NAMES)


def source(name):
    return build.read_source(NOTEBOOKS / f"{name}.py")


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def only(notebook, tag):
    (cell,) = tagged(notebook, tag)
    return cell


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


# ---- the notebooks --------------------------------------------------------------------------------------------------


@pytest.mark.sample(2)
@by_name
def test_notebook_gives_what_is_stored_and_tells_right_from_wrong(name):
    """One run: the notebook itself, then every solution followed by the check of its exercise."""
    path = NOTEBOOKS / f"{name}.py"
    notebook, solutions = source(name), build.read_source(SOLUTIONS / f"{name}.py")
    length = len(notebook.cells)
    verdicts = []
    for number in EXERCISES:
        check = only(notebook, f"check-{number}").source
        for kind in ("right", "wrong"):
            attempts = tagged(solutions, f"{kind}-{number}")
            assert attempts, f"no {kind} solution of exercise {number}"
            for attempt in attempts:
                notebook.cells += [build.code(attempt.source), build.code(check)]
                verdicts.append((kind, attempt.source))
    run = build.execute(notebook)
    checks = run.cells[length + 1 :: 2]
    run.cells = run.cells[:length]
    assert not build.differences(build.read_stored(path), run)
    for number in EXERCISES:
        assert printed(only(run, f"check-{number}")).strip() == "not done yet"
    for (kind, attempt), check in zip(verdicts, checks, strict=True):
        assert printed(check).startswith(kind), f"{printed(check)}: {attempt}"


@by_name
def test_notebook_has_prose_pictures_and_exercises(name):
    cells = source(name).cells
    stored = build.read_stored(NOTEBOOKS / f"{name}.py")
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith(f"# {int(name[:2])} ")
    assert not tagged(source(name), "raises-exception")  # the tag by which a cell may fail
    drawn = [c for c in stored.cells if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))]
    assert len(drawn) >= 2
    assert drawn == tagged(stored, "hide-input")  # the code of figures, and no other, is folded
    assert all(cell.metadata.jupyter.source_hidden for cell in drawn)
    assert "| letter | meaning |" in cells[0].source
    for number in EXERCISES:
        student = only(source(name), f"exercise-{number}").source
        assert "..." in student
        (text,) = [c.source for c in cells if c.cell_type == "markdown" and f"### Exercise {number}" in c.source]
        hint = text.partition(f"### Exercise {number}")[2]
        assert re.search(r"\n\n<details><summary>Hint</summary>\n\n.+\n\n</details>", hint, re.DOTALL)


def test_terms_of_the_glossary_stand_in_the_notebook_that_it_names():
    page = (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| \[\d\]\((\w+)\.ipynb\), (\d+) \|$", page, re.MULTILINE)
    assert len(rows) == page.count("\n|") - 2
    for term, name, section in rows:
        text = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
        part = re.search(rf"^# ## {section}\. .*?(?=^# ## |\Z)", text, re.MULTILINE | re.DOTALL)
        words = re.sub(r"\n# ?", " ", part[0]).lower()
        assert term.lower().strip("*") in words, (term, name, section)


@pytest.mark.parametrize("name", NAMES[:4])
def test_every_layer_is_drawn_forward_and_backward(name):
    """Of notebooks 1-4: a diagram with both rows, as many as there are layers."""
    diagrams = [c for c in source(name).cells if re.search(r"^flow\(", c.source, re.MULTILINE)]
    assert len(diagrams) >= {"01": 2, "02": 1, "03": 4, "04": 5}[name[:2]]


def test_every_notebook_is_stored_and_listed():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(1, 10)]
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)
    assert {path.stem for path in SOLUTIONS.glob("[0-9]*.py")} == set(NAMES)
    page = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"]({name}.ipynb)" not in page] == []


def test_stored_notebooks_are_small_and_name_no_machine():
    texts = [path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb")]
    assert sum(map(len, texts)) < STORED_BYTES
    for text in texts:
        assert str(ROOT) not in text
        assert str(Path.home()) + "/" not in text


def test_the_reference_shows_every_public_function():
    """A page asks for folders by {{ fnconv.FOLDER }}, or names a module whose functions are public."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (NOTEBOOKS / "reference").glob("*.md"))
    folders = re.findall(r"\{\{ fnconv\.([\w.]+) \}\}", pages)
    for name, module in fnconv._ORIGIN.items():
        folder = any(f"{module}.".startswith(f"fnconv.{f}.") for f in folders)
        assert folder or (module == "fnconv" and f"fnconv.{name}" in pages), name
    index = (NOTEBOOKS / "index.md").read_text(encoding="utf-8").split()
    assert {f"reference/{path.stem}" for path in (NOTEBOOKS / "reference").glob("*.md")} | set(NAMES) <= set(index)


# ---- what compares them ---------------------------------------------------------------------------------------------


def executed(source, *outputs, tags=()):
    cell = build.code(source)
    cell.outputs = [nbformat.v4.new_output(**output) for output in outputs]
    if tags:
        cell.metadata.tags = list(tags)
    return build.plain([cell])


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def picture(words):
    return {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": words}}


@pytest.mark.parametrize(
    ("stored", "fresh", "differs"),
    [
        (executed("x", stream("1")), executed("x", stream("1")), False),
        (executed("x", stream("1")), executed("x", stream("2")), True),
        (executed("x", stream("1")), executed("y", stream("1")), True),
        (executed("x", stream("1")), executed("x"), True),
        (executed("x", stream("1")), executed("x", stream("1"), tags=["volatile"]), True),
        (executed("x", stream("1"), tags=["volatile"]), executed("x", stream("2"), tags=["volatile"]), False),
        (executed("x", stream("1"), tags=["volatile"]), executed("x", tags=["volatile"]), True),
        (executed("x", picture("a 2 x 2")), executed("x", picture("a 2 x 2")), False),
        (executed("x", picture("a 2 x 2")), executed("x", picture("a 3 x 2")), True),
        (executed("x", stream("a warning", "stderr")), executed("x", stream("a warning", "stderr")), True),
    ],
)
def test_differences_are_found(stored, fresh, differs):
    assert bool(build.differences(stored, fresh)) == differs


def test_a_changed_result_of_an_executed_notebook_is_found():
    cells = [build.code("print('a')"), build.code("1 + 1")]
    stored = build.execute(build.plain(cells))
    again = build.execute(build.plain([cells[0], build.code("1 + 1")]))
    assert build.differences(stored, again) == []
    stored.cells[1].outputs[0].data["text/plain"] = "3"
    assert build.differences(stored, again)


# ---- exercises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "cases", "said"),
    [
        (..., 4, (), "not done yet"),
        (None, 4, (), "not done yet"),
        (4, 4, (), "right"),
        (5, 4, (), "wrong: it should be 4, you have 5"),
        ("a", "b", (), "wrong: 'a' is not the answer"),
        (np.ones(2), np.ones(3), (), "wrong: the shape should be (3,), yours is (2,)"),
        (1 + 1e-7, np.float64(1), (), "right"),
        (1 + 1e-3, np.float64(1), (), "wrong: it should be 1.0, you have 1.001"),
        ((1, ...), (1, 2), (), "not done yet"),
        ((1, 3), (1, 2), (), "wrong: entry 1 it should be 2, you have 3"),
        (lambda x: ..., abs, [(1,)], "not done yet"),
        (lambda x: x, abs, [(1,), (2,)], "right, in all 2 cases"),
        (lambda x: x, abs, [(1,), (-1,)], "wrong: for (-1) it should be 1, you have -1"),
        (lambda x: 1 / 0, abs, [(1,)], "wrong: for (1) it raises ZeroDivisionError: division by zero"),
    ],
)
def test_check_tells_right_from_wrong(capsys, answer, expected, cases, said):
    exercises.check(answer, expected, cases)
    assert capsys.readouterr().out.strip() == said


def test_the_example_of_check_is_right():
    assert doctest.testmod(exercises) == (0, 3)


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_labels_never_touch():
    canvas = pictures.Canvas()
    canvas.array([[1, -20], [r"$\delta_{11} w_{11} + \delta_{12} w_{12}$", 0.125]], "a title wider than its array")
    canvas.text("$=$")
    canvas.heat(np.eye(4), "M", rows=[f"row {i}" for i in range(4)], columns=[f"column {i}" for i in range(4)])
    canvas.line()
    canvas.array([7], "below")
    assert pictures.overlapping(canvas.show()) == []


def test_operators_stand_on_the_line_of_the_arrays_middles():
    canvas = pictures.Canvas()
    canvas.array(np.zeros((4, 1)), "high", columns=["upright label"])
    canvas.text("$*$")
    canvas.array([[7]])
    canvas.text("$=$")
    canvas.heat(np.eye(3))
    figure = canvas.show()
    heights = {t.get_text(): t.get_position()[1] for t in figure.axes[0].texts}
    (image,) = figure.axes[0].images
    assert heights["$*$"] == heights["$=$"] == heights["7"] == pytest.approx(sum(image.get_extent()[2:]) / 2)


def test_a_flow_diagram_shows_both_ways_and_what_is_kept():
    step = pictures.Step("times $A$", "times $A^T$", kept="$A$", weight="$w$", weight_gradient="$dw$")
    figure = pictures.flow(["$x$", "$y$"], [step], ["$dx$", "$dy$"])
    assert pictures.overlapping(figure) == []
    at = {t.get_text(): t.get_position() for t in figure.axes[0].texts}
    assert at["$x$"][0] < at["times $A$"][0] < at["$y$"][0]
    assert at["$w$"][1] < at["$x$"][1] == at["$y$"][1] < at["$A$"][1] < at["$dx$"][1] == at["$dy$"][1] < at["$dw$"][1]


def test_a_figure_with_touching_labels_is_not_shown():
    figure, axes = pictures.chart()
    axes.text(0.5, 0.5, "one")
    axes.text(0.51, 0.5, "two")
    assert ("one", "two") in pictures.overlapping(figure)
    with pytest.raises(ValueError, match="must not touch"):
        pictures.png(figure)


def test_a_picture_is_described_by_what_is_on_it():
    def described(number, matrix):
        canvas = pictures.Canvas()
        canvas.array([[number]], "A")
        canvas.heat(matrix, "M")
        return pictures.describe(canvas.show())

    assert described(3, np.eye(2)).startswith("picture: A | 3 | M\nmatrix: 2 x 2, ")
    assert described(3, np.eye(2)) == described(3, np.eye(2))
    assert described(3, np.eye(2)) != described(4, np.eye(2))
    assert described(3, np.eye(2)) != described(3, np.eye(2)[::-1])
