"""The ONNX standard's own test cases, run against the public functions.

Cases come with the `onnx` package: one or more per operator ("node"), and small models exported from another
framework.  Every case of an operator that fnconv has must pass or be declared below with the reason why it cannot.
Run with `-rP` to see the number of each.
"""

from __future__ import annotations

import importlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from extras import needs

needs("oracles", "onnx")

import onnx
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx_operators import OPERATORS, SHAPE_INPUTS

MODULES = {  # others: the operator's name in lower case
    "BatchNormalization": "batch_normalization",
    "InstanceNormalization": "instance_normalization",
    "SoftmaxCrossEntropyLoss": "softmax_cross_entropy_loss",
}
WITHOUT_NODE_CASES = {"GlobalLpPool"}
EXPORTED = ("pytorch-converted", "pytorch-operator", "simple")

# Operators whose results are copies of their inputs, and those that only add and multiply: exact on integers.
SELECTING = {"DepthToSpace", "Flatten", "GlobalMaxPool", "MaxPool", "MaxUnpool", "Relu", "SpaceToDepth"}
ADDING = {"Col2Im", "Conv", "ConvTranspose", "Gemm", "MatMul"}

REASONS = {  # of cases of Resize, without what all their names begin with
    "nearest rounds halves down": (
        "upsample_sizes_nearest", "downsample_sizes_nearest", "upsample_sizes_nearest_axes_2_3",
        "upsample_sizes_nearest_axes_3_2", "upsample_sizes_nearest_not_larger", "downsample_sizes_nearest_not_larger",
        "downsample_sizes_nearest_not_smaller", "upsample_sizes_nearest_floor_align_corners",
        "upsample_sizes_nearest_round_prefer_ceil_asymmetric", "upsample_sizes_nearest_ceil_half_pixel",
    ),
    "positions by a factor that is not the ratio of the sizes": (
        "downsample_scales_nearest", "downsample_scales_linear", "downsample_scales_linear_align_corners",
        "downsample_scales_cubic", "downsample_scales_cubic_align_corners",
        "downsample_scales_cubic_A_n0p5_exclude_outside", "downsample_scales_linear_half_pixel_symmetric",
        "upsample_scales_linear_half_pixel_symmetric",
    ),
    "other positions": (
        "upsample_scales_cubic_asymmetric", "tf_crop_and_resize", "tf_crop_and_resize_extrapolation_value",
        "tf_crop_and_resize_axes_2_3", "tf_crop_and_resize_axes_3_2", "downsample_sizes_linear_pytorch_half_pixel",
    ),
    "cells past the border count while antialiasing, unlike in jax.image and Torch": (
        "downsample_scales_linear_antialias", "downsample_sizes_linear_antialias",
        "downsample_scales_cubic_antialias", "downsample_sizes_cubic_antialias",
    ),
}  # fmt: skip
DECLARED = {f"test_resize_{name}": reason for reason, names in REASONS.items() for name in names}

Data = list[tuple[list[np.ndarray], list[np.ndarray]]]


@cache
def cases_of(operator: str) -> list[TestCase]:
    """The node cases of one operator, without those that spell it out in terms of others."""
    importlib.import_module(f"{node_cases.__name__}.{MODULES.get(operator, operator.lower())}")
    return [c for c in node_cases._NodeTestCases if [n.op_type for n in c.model.graph.node] == [operator]]


@cache
def exported(kind: str) -> list[tuple[TestCase, onnx.ModelProto]]:
    """The models, kept on disk, that consist of our operators alone."""
    loaded = [(c, onnx.load(Path(c.model_dir, "model.onnx"))) for c in load_model_tests(kind=kind)]
    return [(c, m) for c, m in loaded if {n.op_type for n in m.graph.node} <= OPERATORS.keys()]


def stored_data(case: TestCase) -> Data:
    def read(folder: Path, role: str) -> list[np.ndarray]:
        files = sorted(folder.glob(f"{role}_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
        return [onnx.numpy_helper.to_array(onnx.load_tensor(f)) for f in files]

    return [(read(f, "input"), read(f, "output")) for f in sorted(Path(case.model_dir).glob("test_data_set_*"))]


def attributes(node: onnx.NodeProto, opset: int) -> dict[str, Any]:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    values = {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}
    return values | {"opset": opset} if node.op_type in ("PRelu", "Softmax", "LogSoftmax") else values


def run(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Evaluate the nodes in order, as one jitted program; integers are narrowed to JAX's default ones."""
    graph, opset = model.graph, model.opset_import[0].version
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    values |= dict(zip([i.name for i in graph.input if i.name not in values], inputs, strict=True))
    shapes = {name for n in graph.node for name in n.input[SHAPE_INPUTS.get(n.op_type, slice(0))]}
    static = {name: values.pop(name) for name in shapes & values.keys()}
    values = {k: v.astype(np.int32) if v.dtype == np.int64 else v for k, v in values.items()}

    def program(values: dict[str, jax.Array]) -> list[jax.Array]:
        known = {"": None} | static | values
        for node in graph.node:
            results = OPERATORS[node.op_type](*(known[i] for i in node.input), **attributes(node, opset))
            results = results if isinstance(results, tuple) else (results,)
            known |= dict(zip(node.output, results, strict=False))
        return [known[o.name] for o in graph.output]

    return [np.asarray(y) for y in jax.jit(program)(values)]


def check(case: TestCase, model: onnx.ModelProto, data: Data) -> None:
    """Bit for bit where the operators are exact on the data, else within the case's own tolerances."""
    operators = {n.op_type for n in model.graph.node}
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    for inputs, outputs in data:
        whole = all(map(integral, [*inputs, *weights]))
        exact = operators <= SELECTING or (operators <= SELECTING | ADDING and whole)
        tolerances = {"rtol": 0, "atol": 0} if exact else {"rtol": case.rtol, "atol": case.atol}
        for got, want in zip(run(model, inputs), outputs, strict=True):
            assert got.shape == want.shape
            assert got.dtype == (np.int32 if want.dtype == np.int64 else want.dtype)
            np.testing.assert_allclose(got, want, **tolerances)


def integral(x: np.ndarray) -> bool:
    return bool(np.all(x == np.round(x)))


def judge(counts: Counter[str], case: TestCase, model: onnx.ModelProto, data: Data) -> str | None:
    """Count the case; the message of a failure."""
    if case.name in DECLARED:
        counts["declared"] += 1
        return None
    try:
        check(case, model, data)
    except Exception as error:
        counts["failed"] += 1
        return f"{case.name}: {type(error).__name__}: {error}"
    counts["passed"] += 1
    return None


def report(name: str, counts: Counter[str], failures: list[str | None]) -> None:
    print(f"{name}: {counts['passed']} passed, {counts['declared']} declared, {counts['failed']} failed")
    messages = [f for f in failures if f]
    assert not messages, "\n".join(messages)
    assert counts["passed"] > 0


@pytest.mark.sample(8)
@pytest.mark.parametrize("operator", sorted(OPERATORS.keys() - WITHOUT_NODE_CASES))
def test_node_cases(operator: str) -> None:
    """Every case of the operator passes or is declared."""
    counts: Counter[str] = Counter()
    report(operator, counts, [judge(counts, c, c.model, c.data_sets) for c in cases_of(operator)])


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", EXPORTED)
def test_exported_models(kind: str) -> None:
    """Small models made of our operators, with the data that the exporting framework computed."""
    counts: Counter[str] = Counter()
    report(kind, counts, [judge(counts, c, m, stored_data(c)) for c, m in exported(kind)])


def test_what_is_declared_is_a_case_that_fails() -> None:
    """No case is declared that would pass."""
    passed = [c.name for c in cases_of("Resize") if c.name in DECLARED and fails(c) is None]
    assert passed == []
    assert DECLARED.keys() <= {c.name for c in cases_of("Resize")}


def fails(case: TestCase) -> Exception | None:
    try:
        check(case, case.model, case.data_sets)
    except (AssertionError, TypeError) as error:
        return error
    return None


def test_a_wrong_result_is_a_failure() -> None:
    """The comparison sees one wrong element."""
    case = cases_of("Relu")[0]
    inputs, (want,) = case.data_sets[0]
    wrong = want.copy()
    wrong.flat[-1] += 1e-3
    with pytest.raises(AssertionError):
        check(case, case.model, [(inputs, [wrong])])
