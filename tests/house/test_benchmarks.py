"""The benchmarks: their judgement of equality, their clock, their sums, and what README says of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    cases,
    convolutions,
    kept,
    memory,
    models,
    networks,
    picture,
    random_layers,
    report,
    targets,
    timing,
    unet,
    verify,
)
from benchmarks.accelerator_cases import transformed
from benchmarks.jax_layers import Autodiff, Manual

ROOT = Path(__file__).resolve().parents[2]


# ---- cases ----------------------------------------------------------------------------------------------------------


def test_seventeen_layers_have_fifty_one_maps():
    assert sum("51" in layer.tags for layer in cases.LAYERS) * len(cases.MAPS) == 51


def test_names_are_unique():
    for named in (cases.LAYERS, cases.POOLS, networks.NETWORKS):
        assert len({case.name for case in named}) == len(named)


def test_every_case_belongs_to_a_group_of_the_summary():
    rows = [{"name": c.name, "map": m, "tags": sorted(c.tags)} for c in cases.LAYERS for m in cases.MAPS]
    assert all(any(t.has(row) for t in targets.TARGETS if t.command == "layers") for row in rows)


@pytest.mark.parametrize("layer", cases.LAYERS, ids=lambda layer: layer.name)
def test_both_sides_of_a_layer_have_one_shape(layer: cases.Layer):
    for case in (layer, layer.tiny()):
        x, w, dy = convolutions.shapes(case)
        assert jax.eval_shape(convolutions.in_fnconv(case), x, w) == dy
        assert all(dy.shape)


@pytest.mark.parametrize("network", networks.NETWORKS, ids=lambda network: network.name)
def test_a_network_asks_for_the_same_parameters_on_both_sides(network: networks.Network):
    weights, images, _ = models.data(network, small=True)
    for side in (Autodiff, Manual):
        layers = side(map(jnp.asarray, weights))
        logits = jax.eval_shape(lambda x, layers=layers: network.build(layers, x, True), jnp.asarray(images))
        assert logits.shape == (2, 10)
        assert next(layers.parameters.given, None) is None


def test_a_user_s_model_is_counted_with_the_gradient_of_each_weight():
    case = transformed("U-Net", unet.loss, unet.args())
    shapes = [w.shape for w in unet.args()[0]]
    for side in (case.autodiff, case.fnconv):
        assert [g.shape for g in jax.eval_shape(side, *case.shapes)] == shapes


# ---- equality -------------------------------------------------------------------------------------------------------

X = np.arange(12, dtype=np.float32).reshape(3, 4)
MATRIX = np.array([[1, -2, 0, 1], [2, 1, 1, -1]], np.float32)


def product(x: Any, w: Any) -> Any:
    return jnp.asarray(x) @ jnp.asarray(w).T


def judge(result: Any, **options: Any) -> str:
    return str(verify.verify("case", (X, MATRIX), product, {"rule": result}, **options)["rule"])


def test_equal_bits_are_exact():
    assert judge(X @ MATRIX.T) == verify.EXACT


def test_rounding_is_told_from_a_mistake():
    right = X @ MATRIX.T
    assert 0 < float(judge(right + np.float32(1e-6))) < 1
    for wrong in (right + np.float32(1e-3), np.where(right > 8, np.nan, right)):
        with pytest.raises(verify.Disagreement, match=r"case, rule: at \(\d, \d\)"):
            judge(wrong)


def test_where_every_bit_is_due_rounding_is_a_mistake():
    with pytest.raises(verify.Disagreement):
        judge(X @ MATRIX.T + np.float32(1e-6), exact=True)


def test_another_shape_is_a_mistake():
    with pytest.raises(verify.Disagreement, match="shape"):
        judge((X @ MATRIX.T)[:1])


def test_a_half_precision_may_round_once_more():
    right = X @ MATRIX.T + np.float32(0)
    rounded = np.asarray(jnp.asarray(right * 1.001, jnp.bfloat16))
    assert judge(rounded, dtype="bfloat16") != ""
    with pytest.raises(verify.Disagreement):
        judge(rounded * 1.02, dtype="bfloat16")


def test_a_missing_tap_of_a_large_weight_gradient_is_seen():
    """65,536 terms: the bound that grows with their number would be a sixth of the largest entry."""
    x = verify.integers(0)((65536, 2))
    dy = verify.integers(1)((65536, 3))

    def gradient(x: Any, dy: Any) -> Any:
        return jnp.asarray(x).T @ jnp.asarray(dy)

    with pytest.raises(verify.Disagreement):
        verify.verify("dW", (x, dy), gradient, {"rule": gradient(x[:-2000], dy[:-2000])})


@pytest.fixture(scope="module")
def lenet() -> Any:
    network = networks.NETWORKS[0]
    start = models.data(network, small=True)
    given = ([jnp.asarray(w) for w in start[0]], jnp.asarray(start[1]), jnp.asarray(start[2]))
    step = models.step(Autodiff, network, True)
    return step, start, [np.asarray(w) for w in step(*given)]


def test_updates_that_agree_are_accepted(lenet):
    step, start, updated = lenet
    assert models.verify("LeNet-5", step, start, {"autodiff": updated, "same": updated})["same"] == "0"


@pytest.mark.parametrize("number", range(10))
def test_a_gradient_that_is_off_by_a_percent_is_seen_in_every_parameter(lenet, number):
    step, start, updated = lenet
    wrong = list(updated)
    wrong[number] = (start[0][number] + 1.01 * (updated[number] - start[0][number])).astype(np.float32)
    with pytest.raises(verify.Disagreement, match=f"parameter {number}"):
        models.verify("LeNet-5", step, start, {"autodiff": updated, "wrong": wrong})


# ---- the clock ------------------------------------------------------------------------------------------------------


class FakeOthers:
    busy: Any = cycle([0.0])

    def __init__(self) -> None:
        self.calls = 0

    def cores(self) -> float | None:
        self.calls += 1
        return next(type(self).busy) if self.calls % 2 == 0 else 0.0  # every second call ends a round


def test_rounds_are_dropped_where_others_were_busy(monkeypatch):
    monkeypatch.setattr(timing, "Others", FakeOthers)
    monkeypatch.setattr(FakeOthers, "busy", cycle([0.0, math.inf]))
    monkeypatch.setattr(timing, "LONG_ENOUGH", 0.0)
    times = timing.measure({"a": lambda: None}, timing.Budget(seconds=60, rounds=4))["a"]
    assert (len(times.wall), times.dropped, times.forced) == (4, 3, 0)


def test_where_others_never_rest_rounds_are_kept_in_the_end(monkeypatch):
    monkeypatch.setattr(timing, "Others", FakeOthers)
    monkeypatch.setattr(FakeOthers, "busy", cycle([math.inf]))
    monkeypatch.setattr(timing, "LONG_ENOUGH", 0.0)
    times = timing.measure({"a": lambda: None}, timing.Budget(seconds=60, rounds=2))["a"]
    assert (len(times.wall), times.dropped, times.forced) == (2, 4, 2)


def test_functions_take_turns():
    calls: list[str] = []
    timing.measure({n: (lambda n=n: calls.append(n)) for n in "ab"}, timing.Budget(seconds=0, rounds=3, least=3))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # to warm up, then three rounds


def test_torch_has_blocks_before_and_after_jax(monkeypatch):
    calls: list[str] = []
    thunks = {n: (lambda n=n: calls.append(n)) for n in ("jax", "first", "last")}
    monkeypatch.setattr(
        timing, "measure", lambda given, budget: ({n: f() or timing.Times([len(n)], [1]) for n, f in given.items()})
    )
    in_torch = timing.fastest({n: thunks[n] for n in ("first", "last")}, timing.SMOKE)
    times = timing.compare({"autodiff": thunks["jax"]}, in_torch, timing.SMOKE)
    assert calls == ["first", "last", "last", "jax", "last"]
    assert times["torch"].wall == [4, 4]


# ---- random layers --------------------------------------------------------------------------------------------------


def test_a_seed_always_gives_the_same_cases_and_another_seed_others():
    first, again, other = (list(random_layers.cases(seed, 40)) for seed in (1, 1, 2))
    assert first == again == list(random_layers.cases(1, 80))[:40] != other


def test_every_kind_is_drawn_and_every_layer_is_of_the_sizes_that_are_stated():
    drawn = list(random_layers.cases(5, 150))
    kinds = {case.name.split()[0] for case in drawn}
    assert {
        "dense",
        "depthwise",
        "grouped",
        "stem",
        "patches",
        "1-D",
        "3-D",
        "dilated",
        "transposed",
        "max",
        "avg",
    } < kinds
    names = {layer.name for layer in cases.LAYERS}
    for case in drawn:
        assert case.name not in names
        assert case.batch in random_layers.BATCHES
        if isinstance(case, cases.Layer):
            _x, w, dy = convolutions.shapes(case)
            assert w.shape[-1] == case.channels[not case.transposed]
            assert min(dy.shape) > 0


def test_the_summary_of_a_draw():
    rows = [
        row("a", "fwd", ["conv"], autodiff=8, fnconv=1, torch=2),
        row("b", "dX", ["conv", "groups"], autodiff=1, fnconv=2),
    ]
    (_, n, mean, slower, least, *_), alone, grouped = random_layers.summary(rows)
    assert (n, slower, least) == ("2", "1 of 2", "0.50")
    assert mean.startswith("2.00 ×/÷ 4.00")
    assert alone[:4] == ("convolutions without groups", "1", "8.00 ×/÷ 1.00", "0 of 1")
    assert grouped[0] == "grouped and depthwise"
    assert random_layers.worst(rows, 1) == [("b", "dX", "0.50", "")]


# ---- groups and targets ---------------------------------------------------------------------------------------------


def row(name: str, map_: str, tags: list[str], **ms: float) -> dict[str, Any]:
    times = {side: {"ms": value} for side, value in ms.items()}
    return {"name": name, "map": map_, "tags": tags, "times": times, "verified": {"fnconv": "exact"}}


ROWS = [
    row("a", "fwd", ["51"], autodiff=8, fnconv=1, torch=2),
    row("b", "dW", ["51"], autodiff=2, fnconv=1, torch=2),
    row("c", "dW", ["51", "depthwise"], autodiff=0.5, fnconv=1, torch=2),
    row("d", "fwd", ["depthwise"], autodiff=64, fnconv=1, torch=0.5),
]


def test_groups_have_geometric_means_and_a_worst_line():
    found = {s.target.label: s for s in targets.standings("layers", ROWS)}
    assert found["17 convolutions, forward and both gradients"].autodiff == pytest.approx(2)
    assert found["17 convolutions, forward and both gradients"].torch == pytest.approx(2)
    assert (
        found["17 convolutions, forward and both gradients"].worst["name"],
        found["17 convolutions, forward and both gradients"].least,
    ) == ("c", 0.5)
    assert found["the same without depthwise"].autodiff == pytest.approx(4)
    assert found["depthwise, forward"].autodiff == pytest.approx(64)
    assert "grouped, forward" not in found


def test_verdicts():
    assert targets.verdict(2.6, 2.6) == "met"
    assert targets.verdict(1.3, 2.6) == "missed by 50 %"
    assert targets.verdict(0.5, 0.4, at_most=True) == "missed by 25 %"
    assert targets.verdict(0.3, 0.4, at_most=True) == "met"
    assert targets.verdict(None, 1) == targets.verdict(1, None) == ""


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_residuals_are_the_arrays_that_the_vjp_holds():
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))

    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sin(convolutions.in_lax(cases.Layer("", 2, (8, 8), (3, 4), (3, 3)))(x, w))

    leaves = jax.tree.leaves(jax.vjp(jax.jit(fn), x, w)[1])
    kept, operands = memory.residuals(fn, x, w)
    assert kept == sum({id(a): a.nbytes for a in leaves}.values()) == x.nbytes + w.nbytes + 2 * 6 * 6 * 4 * 4
    assert operands == x.nbytes + w.nbytes


# ---- README and the picture -----------------------------------------------------------------------------------------


def result(command: str, rows: list[dict[str, Any]], tuned: dict[str, str] | None = None) -> dict[str, Any]:
    environment = {"processor": "P", "cores": 2, "platform": "cpu", "device": "cpu", "date": "2026-01-02"}
    environment |= {"jax": "1", "torch": "2", "XLA_FLAGS": "", "tuned": tuned or {}}
    return {"command": command, "smoke": False, "environment": environment, "rows": rows}


@pytest.mark.parametrize(("path", "block"), [(report.README, report.summary), (report.DETAILS, report.details)])
def test_readme_is_what_the_measurements_generate(path, block):
    text = path.read_text()
    assert report.replaced(text, block(kept.load())) == text, "run python -m benchmarks report"


@pytest.mark.parametrize(
    ("path", "names"), [(report.PICTURE, kept.TIMED), (report.COUNTED_PICTURE, kept.COUNTED)], ids=["timed", "counted"]
)
def test_the_picture_is_of_these_measurements(path, names):
    results = kept.load()
    drawn = any(name in results for name in names)
    assert path.exists() == drawn
    if drawn:
        assert kept.digest(results) in path.read_text()


STEP = row("net", "step", [], autodiff=6, fnconv=2, torch=3)
BYTES = {"name": "net", "map": "step", "bytes": {"autodiff": {"residuals": 4}, "fnconv": {"residuals": 1}}}


def test_the_readme_has_a_chart_and_a_line_for_each_network_without_targets():
    results = {
        "layers": result("layers", ROWS),
        "models": result("models", [STEP]),
        "memory": result("memory", [BYTES]),
    }
    text = report.summary(results)
    assert "2 cores of P, jax 1, torch 2, 2026-01-02" in text
    assert "](benchmarks/results/picture.svg)" in text
    assert "| net | 3.00 | 1.50 | 25 % |" in text
    assert text.count("\n| ") == 3
    assert not [word for word in ("met", "missed", "≥", "≤") if word in text.split()]


def test_the_details_say_the_figures_and_the_targets():
    results = {"layers": result("layers", ROWS), "layers-tuned": result("layers", ROWS, {"F": "1"})}
    text = report.details(results)
    figures = "2.00 (≥ 2.6: missed by 23 %) | 2.00 (≥ 0.85: met) | 2.00, 2.00 (≥ 0.9: met)"
    assert f"| 17 convolutions, forward and both gradients | {figures} | 0.50: c, dW (≥ 0.95: missed by 47 %) |" in text
    assert "| d | 64.0 | 0.50 | 1 | exact |" in text
    assert "`F=1`" in text


def test_a_gpu_has_a_table_of_its_own():
    found = result("layers", ROWS)
    found["environment"] |= {"platform": "gpu", "device": "G"}
    assert kept.proper_name(found) == "layers-gpu"
    text = report.details({"layers-gpu": found})
    assert "The same on G P, jax 1" in text
    assert "| 17 convolutions, forward and both gradients | 2.00 | 0.50: c, dW |" in text


def test_picture_carries_its_digest(tmp_path):
    results = {"layers": result("layers", ROWS)}
    picture.draw(results, tmp_path / "a.svg")
    assert kept.digest(results) in (tmp_path / "a.svg").read_text()
    counted = [{"name": "conv a", "map": "fwd", "autodiff": {"bytes": 8}, "fnconv": {"bytes": n}} for n in (2, 8)]
    results = {"accelerators-h100": result("accelerators-h100", counted)}
    picture.draw_counted(results, tmp_path / "b.svg")
    assert kept.digest(results) in (tmp_path / "b.svg").read_text()


def test_smoke_runs_and_misplaced_results_are_refused(tmp_path):
    (tmp_path / "layers.json").write_text(json.dumps(result("layers", ROWS) | {"smoke": True}))
    with pytest.raises(ValueError, match="smoke"):
        kept.load(tmp_path)
    (tmp_path / "layers.json").write_text(json.dumps(result("layers", ROWS, {"F": "1"})))
    with pytest.raises(ValueError, match=r"belongs to layers-tuned\.json"):
        kept.load(tmp_path)


def test_markers_are_needed():
    with pytest.raises(ValueError, match="once each"):
        report.replaced("no marker", "block")


# ---- everything, at tiny shapes -------------------------------------------------------------------------------------

SMOKE = """
import json, sys
from benchmarks.app import app
for arguments in json.loads(sys.argv[1]):
    app(arguments, standalone_mode=False)
"""
HAS_TORCH = find_spec("torch") is not None
FEW = {
    "layers": "LeNet conv2|64-256 1x1|depthwise 128 3x3 /2|^4 groups 128 3x3 @28|transposed 128|bf16 64-256",
    "pools": "3x3 /2",
    "random": "",
    "models": "LeNet|MobileNet",
    "memory": "LeNet-5|3x3 /2 8x",
    "scaling": "max pool 3x3 /2 batch",
    "tangents": "dilated 64|max 2x2|cross entropy",
}
FEWER = {"random": ("--cases", "11")}


def smoke(chosen: dict[str, str], folder: Path, more: dict[str, tuple[str, ...]] = FEWER) -> dict[str, Any]:
    """What each command finds at tiny shapes; one process, whose settings stay its own."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    commands = [
        [name, *more.get(name, ()), "--smoke", "--only", only, "--json", f"{folder}/{name}.json"]
        for name, only in chosen.items()
    ]
    if not HAS_TORCH:
        commands = [[*c, "--against", "none"] if c[0] in (*kept.TIMED, "random") else c for c in commands]
    program = [sys.executable, "-c", SMOKE, json.dumps(commands)]
    done = subprocess.run(program, cwd=ROOT, env=os.environ | cache, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in chosen}


def test_a_command_runs_on_a_few_cases(tmp_path):
    assert len(smoke({"layers": FEW["layers"]}, tmp_path)["layers"]["rows"]) == 18


@pytest.mark.slow
def test_every_command_runs_on_a_few_cases(tmp_path):
    found = smoke(FEW, tmp_path)
    assert [len(found[name]["rows"]) for name in FEW] == [18, 4, 30, 2, 3, 2, 3]
    assert all(r["smoke"] for r in found.values())
    sides = {"autodiff", "fnconv", *(["torch"] if HAS_TORCH else [])}
    for name in ("layers", "pools", "random", "models"):
        assert all(set(row["times"]) == set(row["verified"]) == sides for row in found[name]["rows"])
        assert all(math.isfinite(t["ms"]) for row in found[name]["rows"] for t in row["times"].values())
    assert {"jax", "jaxlib", "torch", "processor", "cores", "XLA_FLAGS", "date"} <= set(found["layers"]["environment"])


@pytest.mark.slow
def test_every_command_runs_on_every_case(tmp_path):
    found = smoke(dict.fromkeys(FEW, ""), tmp_path, more={})
    assert [len(found[name]["rows"]) for name in FEW] == [99, 20, 165, 6, 53, 18, 13]
