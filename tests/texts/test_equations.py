"""Labels of equations: each that a docstring cites exists and has a function; the page of the notebooks lists it."""

from __future__ import annotations

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fnconv
from fnconv import textbook
from fnconv.base.geometry import window_axes
from fnconv.textbook.equations import BY_LABEL, EQUATIONS, NOTEBOOKS, cite, lookup, resolve, table

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(Path(fnconv.__file__).parent.rglob("*.py"))
NUMBER = r"(?:\(\d(?:\.\d+)?\)|\d(?:\.\d)?(?![\d.(]*\d)|(?<=Small )(?:forward|pooling))"
CITED = re.compile(rf"\b(Wei|Notes|Small|GEMM)(?:,? section)? ({NUMBER}(?:(?:, ?|-| and ){NUMBER})*)")
BARE = re.compile(r"(?<![\w.])\(([1-5]\.\d{1,2})\)")  # (2.30) alone is Wei's


def cited(source: str) -> set[str]:
    """The labels that a source cites: Wei (2.28), (2.30); Wei (2.14)-(2.17); Notes 2.3; (2.30) alone."""
    text = re.sub(r"\s+", " ", source)
    labels = {f"Wei ({number})" for number in BARE.findall(text)}
    for name, numbers in CITED.findall(text):
        labels |= {f"{name} {number}" for number in re.findall(NUMBER, numbers)}
    return labels


def test_citations_are_found():
    text = "Wei (2.28),\n    (2.30); Wei (2.14)-(2.17), Notes 2.3, GEMM 1.2 and Small (1): see Wei 3, GEMM 2, Notes 1."
    expected = "Wei (2.28)|Wei (2.30)|Wei (2.14)|Wei (2.17)|Notes 2.3|GEMM 1.2|Small (1)|Wei 3|GEMM 2|Notes 1"
    assert cited(text) == set(expected.split("|"))
    assert cited("the summation (5.9)") == {"Wei (5.9)"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_the_package_cites_is_an_equation(path):
    unknown = cited(path.read_text(encoding="utf-8")) - set(BY_LABEL)
    assert not unknown


def test_the_package_cites_in_more_than_a_few_places():
    """The search above finds what it is for."""
    found = set().union(*(cited(path.read_text(encoding="utf-8")) for path in SOURCES if path.stem != "equations"))
    assert len(found & set(BY_LABEL)) > 50


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.labels[0])
def test_an_equation_has_functions_and_a_notebook(equation):
    assert equation.functions
    for path in equation.functions:
        assert callable(resolve(path)), path
        assert resolve(path).__doc__ or (resolve(path).__module__ or "").startswith("fnconv"), path
    assert equation.notebook in NOTEBOOKS
    assert equation.statement


def test_labels_are_unique_and_complete():
    """Every numbered equation of Wei, once."""
    labels = [label for e in EQUATIONS for label in e.labels]
    assert len(labels) == len(set(labels))
    numbers = {1: 4, 2: 30, 4: 6, 5: 3}
    assert {f"Wei ({s}.{n})" for s, last in numbers.items() for n in range(1, last + 1)} <= set(labels)


def test_lookup_refuses_other_labels():
    with pytest.raises(ValueError, match=r"must be the label of an equation of the texts; got 'Wei \(2.31\)'"):
        lookup("Wei (2.31)")


def test_cite_shortens():
    assert cite(["Wei (2.5)", "Wei (2.6)"]) == "Wei (2.5), (2.6)"
    assert cite(["Wei (2.30)", "Wei (2.28)", "Notes 2.3"]) == "Wei (2.28), (2.30); Notes 2.3"


# ---- notebooks/README.md --------------------------------------------------------------------------------------------


def test_the_page_of_the_notebooks_holds_the_table():
    assert table() in (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_notebooks_of_the_table_exist_and_name_their_equations(number):
    """A label of the table stands in the notebook that it is said to be derived in."""
    source = ROOT / "notebooks" / f"{NOTEBOOKS[number]}.py"
    assert source.with_suffix(".ipynb").is_file()
    text = re.sub(r"\n# ?", " ", source.read_text(encoding="utf-8"))  # prose on one line
    missing = [label for e in EQUATIONS if e.notebook == number for label in e.labels if not named(label, text)]
    assert not missing


def named(label: str, text: str) -> bool:
    """Wei's numbers as they are or in a \\tag; of the others the text's name and the number."""
    name, _, number = label.partition(" ")
    if re.fullmatch(r"\(\d\.\d+\)", number):
        return number in text or rf"\tag{{{number[1:-1]}}}" in text or in_range(number, text)
    return re.search(rf"{name}[^\n]{{0,40}}{re.escape(number)}", text) is not None


def in_range(number: str, text: str) -> bool:
    """(2.15) is named by (2.14)-(2.17)."""
    section, index = number[1:-1].split(".")
    ranges = re.findall(rf"\({section}\.(\d+)\)[-–]\({section}\.(\d+)\)", text)
    return any(int(low) <= int(index) <= int(high) for low, high in ranges)


# ---- the two that nothing else uses ----------------------------------------------------------------------------------


def test_kron_transposed():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.integers(-9, 10, shape)) for shape in ((2, 3), (4, 2)))
    left, right = textbook.kron_transposed(a, b)
    np.testing.assert_array_equal(left, right)
    assert left.shape == (6, 8)


def test_jacobian_is_that_of_the_derivation():
    """(1.2), unit by unit, against (2.25) and (2.19) for a convolution of two channels and two kernels."""
    rng = np.random.default_rng(1)
    x, w = (jnp.asarray(rng.integers(-4, 5, s), jnp.float32) for s in ((2, 3, 4), (2, 2, 2, 3)))
    axes = window_axes((3, 4), (2, 3))

    def forward(x, w):
        return fnconv.conv(x[None], w, layout="channels_first")[0]

    np.testing.assert_array_equal(textbook.jacobian(lambda x: forward(x, w), x), textbook.jacobian_by_input(w, axes))
    np.testing.assert_array_equal(
        textbook.jacobian(lambda w: forward(x, w), w), textbook.jacobian_by_kernel(x, 2, axes)
    )
