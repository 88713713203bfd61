"""The house: floors, dependencies, the top level, the public surface."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
import tomllib
import types
from fnmatch import fnmatch
from functools import cache
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import fnconv
from fnconv.ops import functional

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(fnconv.__file__).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

FLOORS = {
    "base": 1,
    "textbook": 2,
    "rules": 3,
    "ops": 4,
    "compat": 5,
    "transform": 6,
    "judge": 7,
    "show": 7,
    "train": 7,
    "testing": 8,
    "cli": 8,
    "__main__": 9,
}
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"),
    *("fnconv", "tests", "benchmarks", "notebooks"),
}
BASE = {"jax", "jaxlib", "numpy"}
DISTRIBUTION = {"sklearn": "scikit-learn"}  # where a distribution is not called as its module

SOURCES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in SOURCES.items()}


@cache
def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports(module: str, running: bool = False) -> set[str]:
    """Full names of the modules that a module imports, wherever in it; a name of the package's own is its source's.

    `running` leaves out what only a type checker imports.
    """
    found: set[str] = set()
    nodes = list(ast.walk(parse(module)))
    if running:
        guards = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        unseen = {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}
        nodes = [n for n in nodes if n not in unseen]
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} line {node.lineno}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def floor(module: str) -> int:
    """The floor of a module of the package; the package itself shows all of them."""
    return FLOORS[module.split(".")[1]] if module != "fnconv" else max(FLOORS.values())


def own(module: str) -> bool:
    return module.split(".")[0] == "fnconv"


INNER = sorted(set(MODULES) - {"fnconv"})


# ---- floors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", INNER)
def test_every_module_has_a_floor(module):
    assert module.split(".")[1] in FLOORS, f"{module} stands on no floor"


@pytest.mark.parametrize("module", INNER)
def test_a_floor_imports_lower_ones_alone(module):
    def room(m):
        return m.split(".")[1]

    above = {m for m in imports(module) if own(m) and (m == "fnconv" or floor(m) >= floor(module))}
    assert not {m for m in above if m == "fnconv" or room(m) != room(module)}


def test_the_judges_share_an_engine_and_not_each_other():
    parts = {"own", "rule", "model", "fuzz"}
    for module in INNER:
        _, room, part, *_ = [*module.split("."), "", ""]
        if room == "judge":
            reached = {m.split(".")[2] for m in imports(module) if m.startswith("fnconv.judge.")}
            assert not reached & parts - {part}, module


def test_modules_do_not_import_each_other_in_circles():
    graph = {m: {i for i in imports(m, running=True) if own(i)} - {m} for m in INNER}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_public_names_are_those_of_the_stub():
    """A name is written once, where type checkers read it; a star stands for the public operations."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    lines = [(n.module, a.name, a.asname) for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names]
    lines.remove(("fnconv.ops.functional", "*", None))
    operations = [(n.module, a.name, a.asname) for n in parse("fnconv.ops.functional").body[1:] for a in n.names]
    assert {name: module for module, name, _ in lines + operations} == fnconv._ORIGIN
    assert all(name == shown for _, name, shown in lines + operations)  # or checkers take it for private


def test_package_root_imports_nothing_of_its_own():
    program = "import sys, fnconv; print([m for m in sys.modules if m.startswith(('fnconv.', 'jax', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- dependencies ---------------------------------------------------------------------------------------------------


def requirement_name(requirement: str) -> str:
    return requirement.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip()


def test_base_dependencies_are_jax_jaxlib_numpy():
    assert {requirement_name(r) for r in PYPROJECT["project"]["dependencies"]} == BASE


@pytest.mark.parametrize("module", sorted(MODULES))
def test_third_party_imports_are_declared(module):
    """Floors 1 to 4 import the base dependencies alone; above them an extra may be needed."""
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    declared = BASE | {requirement_name(r) for extra in extras for r in extra}
    allowed = BASE if module != "fnconv" and floor(module) <= 4 else declared
    roots = {m.split(".")[0] for m in imports(module) if not own(m)} - set(sys.stdlib_module_names)
    assert {DISTRIBUTION.get(r, r) for r in roots} <= allowed


def test_geometry_names_no_jax():
    assert not {m for m in imports("fnconv.base.geometry") if m.split(".")[0] in ("jax", "jaxlib", "fnconv")}


def test_geometry_runs_where_jax_is_not_installed():
    """Loaded by its path in a fresh interpreter in which importing jax or fnconv raises."""
    program = f"""
import importlib.util, sys
sys.modules.update(jax=None, jaxlib=None, fnconv=None)
spec = importlib.util.spec_from_file_location("geometry", {str(MODULES["fnconv.base.geometry"])!r})
module = sys.modules["geometry"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.outputs(module.window_axes((5, 5), (2, 2), strides=2)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(2, 2)"), done.stderr


# ---- the top level and the files ------------------------------------------------------------------------------------


def test_top_level_holds_nothing_else():
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    entries = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")}
    extra = {e for e in entries - TOP_LEVEL if not any(fnmatch(e, pattern) for pattern in ignored)}
    assert not extra
    assert entries >= TOP_LEVEL
    assert (ROOT / ".ci" / "run").is_file()
    assert (ROOT / ".pre-commit-config.yaml").is_file()


def test_the_citation_and_the_changelog_name_the_version():
    version = fnconv.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_need_no_network():
    """They are local, and run what is installed."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert hooks.count("- repo:") == hooks.count("- repo: local") == 1
    assert hooks.count("- id:") == hooks.count("language: system") == 3


def test_type_information_is_shipped():
    assert (PACKAGE / "py.typed").is_file()
    assert {"py.typed", "*.pyi"} <= set(PYPROJECT["tool"]["setuptools"]["package-data"]["fnconv"])


def test_installed_version_is_the_packages():
    assert {d.version for d in metadata.distributions(name="fnconv")} <= {fnconv.__version__}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_files_can_be_read_in_one_sitting(module):
    assert len(SOURCES[module].read_text().splitlines()) <= 450


@pytest.mark.parametrize("module", sorted(MODULES))
def test_package_raises_instead_of_asserting(module):
    assert not [node.lineno for node in ast.walk(parse(module)) if isinstance(node, ast.Assert)]


# ---- the page that explains it --------------------------------------------------------------------------------------

PAGE = (PACKAGE / "README.md").read_text(encoding="utf-8")


def test_files_named_on_the_page_exist():
    """As in `base/spec.py` or, from the root, `tests/house/test_house.py`; NAME stands for a new one."""
    paths = {p for p in re.findall(r"[\w.]+(?:/[\w.]+)*\.(?:pyi?|md)\b", PAGE) if "NAME" not in p}
    assert len(paths) > 20
    assert [p for p in sorted(paths) if not (PACKAGE / p).is_file() and not (ROOT / p).is_file()] == []


def test_the_page_has_every_floor():
    named = re.findall(r"^\| (\d) \| (.*?) \|", PAGE, re.M)
    shown = {room.strip("`/").removesuffix(".py"): int(level) for level, rooms in named for room in rooms.split(", ")}
    assert shown == {room: level for room, level in FLOORS.items() if room != "__main__"}


def test_the_worked_example_of_the_page_is_right():
    """squareplus, as its recipe writes it, inside the module that it belongs to."""
    (code,) = re.findall(r"^   ```python\n(.*?)^   ```$", PAGE, re.M | re.S)
    space = dict(vars(importlib.import_module("fnconv.ops.elementwise")))
    exec(textwrap.dedent(code), space)
    report = fnconv.check_vjp(space["squareplus"], jnp.linspace(-3, 3, 5), reference=jax.nn.squareplus)
    assert report.ok, report


# ---- the public surface ---------------------------------------------------------------------------------------------

CONV = "strides=1, padding='VALID', dilation=1, groups=1, layout='channels_last', rule='auto', precision=None"
TRANSPOSE = CONV.replace("dilation", "output_padding=0, dilation")
POOL = "strides=None, padding='VALID', dilation=1, ceil_mode=False"
MAX_POOL = f"x, window_shape, *, {POOL}, ties='row_major', layout='channels_last', rule='auto'"
PATCHES = "strides=1, padding='VALID', dilation=1, layout='channels_last', order='c', rule='auto'"

SIGNATURES = {
    "conv": f"x, w, b=None, *, {CONV}",
    "conv_input_vjp": f"dy, w, input_shape, *, {CONV}",
    "conv_weight_vjp": f"x, dy, window_shape, *, {CONV}",
    "conv_transpose": f"x, w, b=None, *, {TRANSPOSE}",
    "conv_block": f"x, w, b=None, *, activation='relu', pool=None, {CONV}",
    "dense": "x, w, b=None",
    "flatten": "x",
    "max_pool": MAX_POOL,
    "max_pool_with_indices": MAX_POOL,
    "max_unpool": "y, indices, output_shape, *, layout='channels_last'",
    "avg_pool": f"x, window_shape, *, {POOL}, count_include_pad=True, layout='channels_last', rule='auto'",
    "lp_pool": f"x, window_shape, *, p=2, {POOL}, layout='channels_last', rule='auto'",
    "adaptive_max_pool": "x, output_shape, *, layout='channels_last'",
    "adaptive_avg_pool": "x, output_shape, *, layout='channels_last'",
    "global_avg_pool": "x, *, layout='channels_last'",
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), "x, factor, *, mode='CRD', layout='channels_last'"),
    "resize": "x, shape, method='linear', *, antialias=True, align_corners=False",
    "prelu": "x, slope",
    "local_response_norm": "x, size, *, alpha=0.0001, beta=0.75, k=1.0, layout='channels_last'",
    "spatial_pyramid_pool": "x, levels, *, pool='max', layout='channels_last'",
    "relu": "x",
    "leaky_relu": "x, slope=0.01",
    "sigmoid": "x",
    "tanh": "x",
    **dict.fromkeys(("silu", "mish", "softplus", "log_sigmoid", "selu", "soft_sign"), "x"),
    **dict.fromkeys(("relu6", "hard_tanh", "hard_sigmoid", "hard_silu"), "x"),
    **dict.fromkeys(("elu", "celu"), "x, alpha=1.0"),
    "gelu": "x, approximate=True",
    "glu": "x, axis=-1",
    "gate": "x, s",
    "dropout": "x, key, rate=0.5, *, broadcast_axes=()",
    "absolute_error": "prediction, target",
    "huber_loss": "prediction, target, delta=1.0",
    "sigmoid_binary_cross_entropy": "logits, labels",
    "kl_divergence": "log_predictions, targets",
    "layer_norm": "x, scale=None, bias=None, *, axes=-1, epsilon=1e-06",
    "rms_norm": "x, scale=None, *, axes=-1, epsilon=1e-06",
    "group_norm": "x, scale=None, bias=None, *, groups, epsilon=1e-06, layout='channels_last'",
    "instance_norm": "x, scale=None, bias=None, *, epsilon=1e-06, layout='channels_last'",
    "batch_norm": "x, scale=None, bias=None, *, epsilon=1e-05, layout='channels_last', axis_name=None",
    "batch_norm_inference": "x, mean, variance, scale=None, bias=None, *, epsilon=1e-05, layout='channels_last'",
    "softmax": "x, *, axis=-1",
    "log_softmax": "x, *, axis=-1",
    "softmax_cross_entropy": "logits, labels, *, class_weights=None, label_smoothing=0.0",
    "nll_loss": "log_probabilities, labels, *, class_weights=None",
    "dice_loss": "predictions, targets, *, smooth=1.0, alpha=0.5, beta=0.5, axis=None",
    "squared_error": "prediction, target",
    "im2col": f"x, window_shape, *, {PATCHES}",
    "col2im": f"cols, x_shape, window_shape, *, {PATCHES}",
    "available_rules": "",
    "both_modes": "fn",
    "jvp": "fn, primals, tangents",
    "check_rules": "fn, *args, level='quick', kwargs=None, order=2, seed=0",
    "check_vjp": "fn, *args, reference=None, level='quick', kwargs=None, order=2, seed=0, domain=None",
    "tune_cpu": "",
}


FUNCTIONS = [name for name in fnconv.__all__ if callable(getattr(fnconv, name))]


def test_all_is_sorted_and_whole():
    assert sorted(fnconv.__all__) == fnconv.__all__
    operations = {name for name in vars(functional) if not name.startswith("_")}
    assert operations <= set(SIGNATURES) <= set(fnconv.__all__) <= set(dir(fnconv))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    """Names, order, kinds and defaults of the parameters are fixed."""
    signature = inspect.signature(getattr(fnconv, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_is_documented_by_an_example(name):
    function = getattr(fnconv, name)
    assert isinstance(function, types.FunctionType), f"{name} is a plain def"
    assert doctest.DocTestParser().get_examples(inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_is_annotated(name):
    signature = inspect.signature(getattr(fnconv, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
