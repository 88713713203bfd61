"""`fnconv check`: green where the rules are right, and what it says where they are not."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
import typer
from typer.testing import CliRunner

import fnconv.ops.conv
from fnconv.base import pairs
from fnconv.base.attach import attach
from fnconv.cli.check import check as command
from fnconv.judge.engine import programs as engine
from fnconv.judge.own import check, describe_failures, plan
from fnconv.judge.own.run import DTYPES
from fnconv.judge.own.suite import cases, operations
from fnconv.rules import available, avg_pool, conv, max_pool
from fnconv.rules.conv import correlation
from fnconv.rules.max_pool import offsets

app = typer.Typer()
app.command()(command)


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def fresh_caches():
    """Programs traced with a planted bug are forgotten."""
    jax.clear_caches()
    yield
    jax.clear_caches()


# ---- what is checked ------------------------------------------------------------------------------------------------


def test_every_public_operation_is_checked():
    """A new operation must come with cases."""
    tools = {
        *("jvp", "both_modes", "with_manual_rules", "compare", "check_jvp", "check_vjp", "check_rules"),
        *("explain", "available_rules", "tune", "tune_cpu"),
    }
    public = {name for name in fnconv.__all__ if callable(getattr(fnconv, name))} - tools
    assert public <= set(operations())


def test_the_default_plan_meets_every_operation_rule_and_dtype():
    """Dtypes are met by turns, none is left out."""
    met = {(job.case.operation, rule, dtype) for job in plan() for rule in job.rules for dtype in job.dtypes}
    for operation, maps in fnconv.available_rules().items():
        for rule in {name for names in maps.values() for name in names} | {"auto"}:
            assert {d for o, r, d in met if (o, r) == (operation, rule)} == {"f16", "bf16", "f32", "f64"}
    assert {(o, d) for o, _, d in met} == {(o, d) for o in operations() for d in ("f16", "bf16", "f32", "f64")}


def test_a_wrong_tangent_is_found(monkeypatch):
    """Its cotangents are right."""
    case = next(c for c in cases() if c.forward and c.operation == "squared_error")

    @jax.custom_jvp
    def lost(prediction, target):
        return (prediction - target) ** 2

    lost.defjvps(lambda t, y, p, q: 2 * (p - q) * t, lambda t, y, p, q: 0 * t)
    for manual, ok in ((case.reference, True), (lost, False)):
        wrong = replace(case, manual=lambda rule, manual=manual: manual)
        monkeypatch.setattr("fnconv.judge.own.run.cases", lambda wrong=wrong: (wrong,))
        report = check(["squared_error"], dtypes=["f32"], devices=["cpu"])
        assert report.ok == ok
        assert {f.argument for row in report.rows for f in row.failures} == (set() if ok else {"tangent"})


def test_every_operation_but_the_fused_one_has_a_case_of_tangents():
    """Those with a second result, such as indices, and the block have theirs in `test_modes.py`."""
    assert set(operations()) - {c.operation for c in cases() if c.forward} == {"conv_block", "max_pool_with_indices"}


def test_every_operation_has_a_quick_case():
    assert {case.operation for case in cases() if case.quick} == set(operations())


def test_a_rule_is_asked_for_in_the_maps_that_have_it(monkeypatch):
    """A rule of one map alone is checked in that map, the others being left to auto."""
    monkeypatch.setitem(conv.RULES["weight_vjp"], "only_here", correlation.weight_vjp)
    job = plan(["conv"], ["only_here"])[0]
    assert job.rules["only_here"] == {"forward": "auto", "input_vjp": "auto", "weight_vjp": "only_here"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"operations": ["konv"]}, "check: operation must be one of conv, .*; got 'konv'"),
        ({"rules": ["best"]}, "check: rule must be one of kronecker, .*auto; got 'best'"),
        ({"dtypes": ["f8"]}, "check: dtype must be one of f32, f16, bf16, f64; got 'f8'"),
        ({"devices": ["abacus"]}, "check: device must be one of cpu.*; got 'abacus'"),
        ({"operations": ["relu"], "rules": ["im2col"]}, "check: no operation of relu has a rule of im2col"),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(names, message):
    with pytest.raises(ValueError, match=message):
        check(**names)


# ---- green ----------------------------------------------------------------------------------------------------------


def test_every_rule_meets_every_dtype():
    met = {}
    for job in plan(devices=["cpu"]):
        for rule in job.rules:
            met.setdefault((job.case.operation, rule), set()).update(job.dtypes)
    assert {names for names, _ in met} == set(operations())
    assert {pair: dtypes for pair, dtypes in met.items() if dtypes != set(DTYPES)} == {}
    assert all(job.dtypes == ("f16",) for job in plan(dtypes=["f16"]))


def test_right_rules_agree_and_no_setting_changes():
    """All dtypes; float64 is enabled for the check alone."""
    before = dict(jax.config.values)
    seen = []
    report = check(["relu", "squared_error", "dense"], progress=lambda *step: seen.append(step))
    assert report.ok
    assert [row.verdict for row in report.rows] == ["agrees"] * 3
    assert all(row.exact for row in report.rows)
    assert all(0 <= row.ratio <= 1 for row in report.rows)
    assert report.dtypes == ("bf16", "f16", "f32", "f64")
    assert report.summary() == "3 operations, 3 rules, 14 cases: all agree"
    assert [step[:2] for step in seen][-1] == (14, 14)
    assert dict(jax.config.values) == before
    assert jnp.ones(2).dtype == jnp.float32


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    """Status 0, a table of at most 100 columns, and the schema of the file."""
    file = tmp_path / "found.json"
    result = invoke("--quick", "--op", "max_unpool,avg_pool", "--op", "sigmoid", "--dtype", "f32", "--json", str(file))
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 100
    for word in ("max_unpool", "avg_pool", "segment_sum", "sigmoid", "agrees"):
        assert word in result.stdout
    found = json.loads(file.read_text())
    assert found["ok"] is True
    assert found["dtypes"] == ["f32"]
    rows = {(row["operation"], row["rule"]): row for row in found["rows"]}
    rules = {name for names in fnconv.available_rules()["avg_pool"].values() for name in names} | {"auto"}
    assert set(rows) == {("max_unpool", "-"), ("sigmoid", "-")} | {("avg_pool", rule) for rule in rules}
    assert found["summary"] == f"3 operations, {2 + len(rules)} rules, {2 + 3 * len(rules)} cases: all agree"
    assert found["summary"] in result.stdout
    assert rows["avg_pool", "matrix"] | {"ratio": 0, "ulps_automatic": 0, "ulps_float64": 0} == {
        "operation": "avg_pool",
        "rule": "matrix",
        "cases": 3,
        "refused": 0,
        "exact": True,
        "ratio": 0,
        "ulps_automatic": 0,
        "ulps_float64": 0,
        "failures": [],
        "refusal": "",
        "verdict": "agrees",
    }
    assert rows["sigmoid", "-"]["exact"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--op", "konv"), "--op must be one of conv"),
        (("--op", "relu", "--json", "/no/such/folder/found.json"), "--json must name a file in a folder that exists"),
        (("--rule",), "requires an argument"),
    ],
)
def test_bad_usage_ends_with_status_2(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


# ---- planted bugs ---------------------------------------------------------------------------------------------------


def rot180_missing(patch):
    patch.setattr(correlation, "rot180", lambda w: w)
    return "conv", "correlation", "dx", "input_vjp", "the kernel is turned by 180 degrees: rot180 missing"


def padding_swapped(patch):
    right = conv.RULES["input_vjp"]["lax"]

    def wrong(spec, dy, w):
        first, *others = spec.axes
        return right(replace(spec, axes=(replace(first, low=first.high, high=first.low), *others)), dy, w)

    patch.setitem(conv.RULES["input_vjp"], "lax", wrong)
    return "conv", "lax", "dx", "input_vjp", "low and high padding of spatial axis 0 are exchanged"


def leftover_dropped(patch):
    right = conv.RULES["input_vjp"]["im2col"]

    def wrong(spec, dy, w):
        cells = spec.axes[0].leftover
        return right(spec, dy, w).at[:, spec.axes[0].size - cells :].set(0)

    patch.setitem(conv.RULES["input_vjp"], "im2col", wrong)
    return "conv", "im2col", "dx", "input_vjp", "only in the last 1 of 9 along axis 1 (leftover or high padding?)"


def element_scaled(patch):
    right = conv.RULES["input_vjp"]["im2col"]

    def wrong(spec, dy, w):
        last = (-1,) * len(spec.axes)
        return right(spec, dy, w.at[last].multiply(jnp.asarray(1.0005, w.dtype)))

    patch.setitem(conv.RULES["input_vjp"], "im2col", wrong)
    return "conv", "im2col", "dx", "input_vjp", ") counts 1.0005 times"


def bias_averaged(patch):
    def mean(residuals, dy):
        return dy, dy.mean(tuple(range(dy.ndim - 1)))

    patch.setattr(fnconv.ops.conv, "bias", attach(lambda y, b: y + b, fnconv.ops.conv._bias_fwd, mean, has_spec=False))
    return "conv", "lax", "db", "bias", "a mean over batch and positions ("


def max_padding_zero(patch):
    patch.setattr(offsets, "pad_once", lambda x, axes, fill=0: pairs.pad(x, axes))
    patch.setattr(offsets, "lowest", lambda dtype: -1e4)
    return "max_pool", "offsets", "y", "forward", "the padding counts as 0 instead of -inf"


def ties_swapped(patch):
    right = max_pool.RULES["forward"]["segment_sum"]
    other = {"row_major": "column_major", "column_major": "row_major"}

    def wrong(spec, x):
        return right(replace(spec, ties=other[spec.ties]), x)

    patch.setitem(max_pool.RULES["forward"], "segment_sum", wrong)
    return "max_pool", "segment_sum", "dx", "input_vjp", "ties are broken in "


def batch_leak(patch):
    right = avg_pool.RULES["input_vjp"]["upsample"]

    def wrong(spec, dy):
        return right(spec, dy + dy[::-1] / 4)

    patch.setitem(avg_pool.RULES["input_vjp"], "upsample", wrong)
    return "avg_pool", "upsample", "dx", "input_vjp", "the batch leaks: 0.25 times the others"


BUGS = [
    rot180_missing,
    padding_swapped,
    leftover_dropped,
    element_scaled,
    bias_averaged,
    max_padding_zero,
    ties_swapped,
    batch_leak,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_and_explained(bug, monkeypatch, fresh_caches):
    """The report names rule, argument, map, geometry, element, got, want, and guesses the cause."""
    consequences = {max_padding_zero: {"dx"}}  # where the padding wins no cell receives the cotangent
    operation, rule, argument, map_, guess = bug(monkeypatch)
    report = check([operation], [rule], ["f32"], quick=True)
    assert not report.ok
    (row,) = report.rows
    assert (row.verdict, {f.argument for f in row.failures}) == ("FAILS", {argument} | consequences.get(bug, set()))
    for failure in row.failures:
        assert (failure.operation, failure.rule) == (operation, rule)
        assert failure.map == map_ or failure.argument != argument
        assert failure.got != failure.want
        assert failure.wrong > 0
    text = describe_failures(row)
    assert f"{operation}, rule {rule}:" in text
    assert f"{argument} (map {map_}), f32 on cpu" in text
    assert "geometry  " in text
    assert f"element   {argument}[" in text
    assert ": got " in text
    assert ", want " in text
    assert guess in text


def test_the_command_reports_a_planted_bug(monkeypatch, fresh_caches, tmp_path):
    """Status 1, the failure in words and in the file; other rules stay green."""
    batch_leak(monkeypatch)
    file = tmp_path / "found.json"
    result = invoke("--quick", "--op", "avg_pool", "--rule", "upsample,matrix", "--dtype", "f32", "--json", str(file))
    assert result.exit_code == 1
    assert "FAILS" in result.stdout
    assert "guess     the batch leaks: 0.25 times" in result.stdout
    assert "1 of 2 rules FAIL" in result.stdout
    found = json.loads(file.read_text())
    assert found["ok"] is False
    assert {row["rule"]: row["verdict"] for row in found["rows"]} == {"upsample": "FAILS", "matrix": "agrees"}
    (failure, *_) = next(row["failures"] for row in found["rows"] if row["failures"])
    assert {"argument", "map", "geometry", "dtype", "device", "index", "got", "want", "bound", "guess"} <= set(failure)


def test_an_error_within_the_bound_on_floats_is_still_found_on_integers(monkeypatch, fresh_caches):
    """The judgements complement each other: one unit in the last place hides in no integer."""
    right = avg_pool.RULES["forward"]["upsample"]
    monkeypatch.setitem(avg_pool.RULES["forward"], "upsample", lambda spec, x: right(spec, x) * (1 + 2.0**-23))
    (row,) = check(["avg_pool"], ["upsample"], ["f32"], quick=True).rows
    assert row.exact is False
    assert row.ratio < 1


def test_a_cancelling_formula_exceeds_its_bound(monkeypatch, fresh_caches):
    """sigmoid' as y (1 - y) loses what s(x) s(-x) keeps."""

    def bwd(spec, y, dy):
        return (dy * y * (1 - y),)

    naive = attach(lambda _, x: jax.lax.logistic(x), lambda _, x: (jax.lax.logistic(x),) * 2, bwd)
    case = next(c for c in cases() if c.operation == "sigmoid")
    wrong = replace(case, manual=lambda rule: lambda x: naive((), x))
    monkeypatch.setattr("fnconv.judge.own.run.cases", lambda: (wrong,))
    (row,) = check(["sigmoid"], dtypes=["f32"]).rows
    assert row.ratio > 10
    assert {f.argument for f in row.failures} == {"dx"}


# ---- rules that do not run ------------------------------------------------------------------------------------------


def _picky(spec, dy):
    if any(a.stride != a.window for a in spec.axes):
        raise ValueError("avg_pool: rule picky accepts windows that tile the input only")
    return avg_pool.upsample.input_vjp(spec, dy)


def test_a_refusal_is_counted_not_judged(monkeypatch, fresh_caches):
    monkeypatch.setitem(avg_pool.RULES["input_vjp"], "picky", _picky)
    report = check(["avg_pool"], ["picky"], ["f32"], quick=True)
    (row,) = report.rows
    assert (row.cases, row.refused, row.verdict) == (1, 2, "agrees")
    assert "accepts windows that tile" in row.refusal
    assert "1 cases (2 more not applicable" in report.summary()


@pytest.mark.parametrize("wrong", ["numpy", "unpacking", "type", "shape"])
def test_an_error_that_is_no_refusal_fails(wrong, monkeypatch, fresh_caches):
    """Only a `raise ValueError` of the rule's own is a refusal."""

    def broken(spec, dy):
        match wrong:
            case "numpy":
                return dy.reshape(-1, 7919)
            case "unpacking":
                _, _ = spec.axes * 3
            case "type":
                raise TypeError("avg_pool: this rule takes nothing")
        return avg_pool.upsample.input_vjp(spec, dy)[:, 1:]

    monkeypatch.setitem(avg_pool.RULES["input_vjp"], "broken", broken)
    report = check(["avg_pool"], ["broken", "matrix"], ["f32"], quick=True)
    rows = {row.rule: row for row in report.rows}
    assert rows["broken"].verdict == "FAILS"
    assert rows["broken"].refused == 0
    assert rows["matrix"].verdict == "agrees"


def test_auto_may_not_refuse(monkeypatch, fresh_caches):
    monkeypatch.setitem(avg_pool.RULES["input_vjp"], "upsample", _picky)
    (row,) = check(["avg_pool"], ["auto"], ["f32"], quick=True).rows
    assert row.verdict == "FAILS"
    assert "accepts windows that tile" in describe_failures(row)


def test_a_program_that_does_not_compile_is_blamed_on_its_rule(monkeypatch, fresh_caches):
    """One rule that XLA refuses does not take the others with it."""

    def unknown(spec, dy):
        shape = jax.ShapeDtypeStruct((dy.shape[0], *spec.size, dy.shape[-1]), dy.dtype)
        return jax.ffi.ffi_call("no_such_target", shape)(dy)

    monkeypatch.setitem(avg_pool.RULES["input_vjp"], "uncompiled", unknown)
    rows = {r.rule: r for r in check(["avg_pool"], ["uncompiled", "matrix"], ["f32"], quick=True).rows}
    assert (rows["uncompiled"].verdict, rows["matrix"].verdict) == ("FAILS", "agrees")
    assert "no_such_target" in describe_failures(rows["uncompiled"])


# ---- settings -------------------------------------------------------------------------------------------------------


def test_the_compilation_cache_is_the_users_and_is_put_back(tmp_path, monkeypatch):
    """One is used inside the block, unless JAX has one already or nothing can be written there."""
    mine = jax.config.jax_compilation_cache_dir
    with engine.compilation_cache(tmp_path / "ignored"):
        assert jax.config.jax_compilation_cache_dir == mine
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        before = dict(jax.config.values)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        with engine.compilation_cache():
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "home" / "fnconv")
            jax.jit(lambda x: x * 3 + 1)(jnp.arange(3.0)).block_until_ready()
        assert dict(jax.config.values) == before
        assert list((tmp_path / "home" / "fnconv").iterdir())
        (tmp_path / "file").write_text("")
        with engine.compilation_cache(tmp_path / "file" / "below"):
            assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", mine)


def test_precision_enables_float64_inside_alone():
    with engine.precision(jnp.float64):
        assert jnp.ones(2, jnp.float64).dtype == jnp.float64
    assert not jax.config.jax_enable_x64


def test_rules_in_dispatch_are_those_that_are_checked():
    """Every operation with rules has cases that take its rules."""
    assert {case.rules for case in cases() if case.rules} == set(available.RULES)
