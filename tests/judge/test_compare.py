"""`compare` on functions of which the outcome is known."""

from __future__ import annotations

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from small_network import W, X, block, conv, net

import fnconv
from fnconv import compare
from fnconv.transform import table

RNG = np.random.default_rng(0)
w, x = (jnp.asarray(RNG.standard_normal(a.shape), jnp.float32) for a in (W, X))


def verdicts(report):
    return {leaf.path: leaf.verdict for leaf in report.leaves}


# ---- both are right -------------------------------------------------------------------------------------------------


def test_integers_leave_nothing_to_rounding():
    """Bits, values and bounds: an error of one unit would be beyond the bound of 0."""
    report = compare(net, W, X, argnums=(0, 1), rounds=0)
    assert report.ok
    assert verdicts(report) == {"w": "equal", "x": "equal"}
    for leaf, arg in zip(report.leaves, (W, X), strict=True):
        assert (leaf.shape, leaf.dtype) == (arg.shape, "float32")
        assert leaf.equal
        assert leaf.ulps == leaf.relative == leaf.error == leaf.ratio == leaf.ratio_autodiff == leaf.worst.bound == 0
        assert leaf.nearer == leaf.worst.nearer == "neither"
    assert report.values[0].path == "value"
    assert report.replaced.counts == {"conv": 1, "relu": 1, "max_pool": 1}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_floats_are_within_their_bounds(dtype):
    """Off by more than nothing, by less than rounding explains; bounds that say something."""

    def fn(w, x):
        return jnp.tanh(conv(w, jax.nn.relu(conv(w, x)))).sum()

    report = compare(fn, w.astype(dtype), x.astype(dtype), argnums=(0, 1), rounds=0)
    assert {leaf.verdict for leaf in report.leaves} <= {"equal", "agrees", "too weak"}
    unit = float(jnp.finfo(dtype).eps)
    for leaf in report.leaves:
        assert leaf.dtype == dtype
        assert 0 < leaf.ratio <= 1
        assert 0 < leaf.error < 100 * unit
        assert leaf.worst.bound < 5000 * unit * max(1.0, abs(leaf.worst.float64))


def test_float64():
    with jax.enable_x64(True):
        report = compare(lambda w, x: jnp.tanh(conv(w, x)), w.astype(np.float64), x.astype(np.float64), rounds=0)
        assert report.ok
        assert report.leaves[0].dtype == "float64"
        assert report.leaves[0].error < 1e-13
        integers = compare(net, W.astype(np.float64), X.astype(np.float64), rounds=0)
        assert integers.worst.worst.bound == 0


# ---- one of them is wrong -------------------------------------------------------------------------------------------


def scaled_relu(x):
    """ReLU with a gradient that is off by one part in a thousand."""

    @jax.custom_vjp
    def f(x):
        return jnp.maximum(x, 0.0)

    f.defvjp(lambda x: (f(x), x > 0), lambda kept, dy: (jnp.where(kept, dy * 1.001, 0.0),))
    return f(x)


def test_a_wrong_rule_is_found(monkeypatch):
    monkeypatch.setitem(table.CUSTOM_JVP, "relu", table.Rule("relu", lambda params, avals: scaled_relu))
    report = compare(lambda w, x: jax.nn.relu(conv(w, x)), w, x, rounds=0)
    assert not report.ok
    assert verdicts(report) == {"w": "MANUAL IS WRONG"}
    assert report.values[0].ok
    assert report.worst.path == "w"
    element = report.worst.worst
    assert element.nearer == report.worst.nearer == "autodiff"
    assert abs(element.manual - element.float64) > element.bound > abs(element.autodiff - element.float64)
    assert "FAILED: 1 of 2 arrays" in str(report)


def test_autodiff_is_the_wrong_one():
    """JAX's input gradient, on a CPU, of a padding as large as the kernel; both agree where a version has mended it."""
    k = jnp.asarray(RNG.integers(1, 4, (2, 2, 2, 3)), jnp.float32)

    def fn(x):
        return lax.conv_general_dilated(x, k, (1, 1), ((2, 0), (2, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

    reports = [compare(fn, x[:, :3, :3], rounds=0) for _ in range(3)]  # what is read is whatever lies there
    assert all(r.ok and r.leaves[0].ratio <= 1 for r in reports)
    wrong = [r for r in reports if r.leaves[0].verdict == "AUTODIFF IS WRONG"]
    assert wrong or jax.__version_info__ >= (0, 11)
    for r in wrong:
        assert "autodiff is the wrong one for x" in str(r)
        assert r.leaves[0].nearer == "manual"


def test_a_slope_that_autodiff_loses():
    """Of the sigmoid at 20 autodiff's is 0: what rounding may make of y (1 - y), and further from the truth."""
    report = compare(jax.nn.sigmoid, jnp.float32(20), rounds=0)
    assert report.leaves[0].verdict == "too weak"
    assert "too weak: an error of a percent might be missed in x" in str(report)
    assert report.leaves[0].nearer == "manual"
    assert report.leaves[0].worst.autodiff == 0


@pytest.mark.parametrize("at", [10.0, 40.0])
@pytest.mark.parametrize("fn", [jax.nn.sigmoid, jnp.tanh])
def test_a_slope_that_float64_loses_too(fn, at):
    """Rounded to 1 in float64 as well, the function has had a rounding error."""
    report = compare(lambda x, w: fn(x) * w, jnp.float32(at), jnp.float32(1e3), rounds=0)
    assert report.leaves[0].verdict == "too weak"
    assert report.worst.worst.manual > 0
    assert report.worst.worst.bound > 0


def dilated(x):
    return lax.reduce_window(x, -np.inf, lax.max, (1, 3, 1), (1, 1, 1), "VALID", window_dilation=(1, 2, 1))


def test_autodiff_has_no_gradient():
    given = jnp.asarray(RNG.permutation(7), jnp.float32).reshape(1, 7, 1)
    report = compare(dilated, given)
    assert report.ok
    assert verdicts(report) == {"x": "no autodiff"}
    assert report.autodiff is report.speedup is None
    missing, slope = report.notes
    assert missing.startswith("autodiff has no gradient: VJP not implemented")
    rises, again, says = map(float, re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?(?= \(| at twice|$)", slope))
    assert rises == pytest.approx(says, rel=1e-8)
    assert again == pytest.approx(says, rel=1e-8)
    assert "none" in str(report)


WITHOUT_GRADIENT = {
    "another reduction": (
        lambda x: lax.reduce_window(x, np.float32(1), lax.mul, (1, 2, 1), (1, 2, 1), "VALID"),
        r"left to JAX: reduce_window at .*test_compare\.py:\d+:\d+ .*: a computation .*; got Linearization failed",
    ),
    "while": (lambda x: lax.while_loop(lambda v: v.sum() < 9, lambda v: 2 * v, x), "got Reverse-mode .*while_loop"),
    "callback": (lambda x: jax.pure_callback(np.sin, jax.typeof(x), x), "got Pure callbacks do not support JVP"),
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_nobody_has_a_gradient(name):
    fn, message = WITHOUT_GRADIENT[name]
    with pytest.raises(ValueError, match=f"compare: fn must .*: JAX itself has no gradient of it, nor .*{message}"):
        compare(fn, jnp.ones((1, 4, 1)), rounds=0)


def test_no_autodiff_of_mixed_dtypes_in_float64():
    """A contraction with its own dtype of result is replayed in float64 as all else."""
    given = jnp.arange(7.0, 0.0, -1.0, jnp.bfloat16).reshape(1, 7, 1)  # each window has a maximum of its own
    kernel = jnp.asarray([[1.0 + 2**-7, 3.0]], jnp.bfloat16)

    def fn(x):
        y = lax.dot(dilated(x)[0], kernel, preferred_element_type=jnp.float32)
        return lax.dot(y.astype(jnp.bfloat16), kernel.T)

    report = compare(fn, given, cotangent=np.ones((3, 1)), rounds=0)
    assert report.ok
    exact = float(kernel.astype(jnp.float32)[0, 0]) ** 2 + 9  # no bfloat16
    assert exact in {report.leaves[0].worst.float64}


# ---- trees, cotangents, arguments -----------------------------------------------------------------------------------


def test_trees_auxiliary_keywords_and_integers():
    def fn(params, x, *, scale):
        y = conv(params["layer"][0], x) * scale
        return {"y": y, "count": jnp.int32(3)}, params["steps"]

    params = {"layer": (w, None), "steps": jnp.arange(3), "rate": 0.5, "name": "unused"}
    report = compare(fn, params, x, argnums=0, has_aux=True, scale=jnp.float32(2), rounds=0)
    assert report.ok
    assert [leaf.path for leaf in report.leaves] == ["params['layer'][0]", "params['rate']"]
    assert [leaf.path for leaf in report.values] == ["value['y']"]
    assert report.notes == ("params['steps']: int32 carries no derivative", "params['rate'] does not enter the value")


def test_cotangent():
    """Given or drawn; an example in the report follows it."""

    def fn(w):
        return [conv(w, X), w.sum()]

    cotangent = [np.ones((2, 6, 6, 2)), 0.0]
    given = compare(fn, W, cotangent=cotangent, rounds=0).leaves[0].worst
    expected = jax.grad(lambda w: conv(w, X).sum())(W)
    assert given.manual == expected[given.index]
    drawn = [compare(fn, W, seed=seed, rounds=0).leaves[0].worst.float64 for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_only_and_what_is_left():
    report = compare(net, w, x, only=("conv",), rounds=0)
    assert report.replaced.counts == {"conv": 1}
    assert "left      relu at " in str(report)
    assert "not in `only`" in str(report)


def test_fused():
    report = compare(block, W, X, fuse=True, rounds=0)
    assert report.ok
    assert report.replaced.counts == {"conv_block": 1}
    assert report.manual.residual_bytes == 2 * 3 * 3 * 2 < report.autodiff.residual_bytes


def test_nothing_to_replace_and_rules_that_come_too_late():
    assert "replaced  nothing" in str(compare(jnp.sin, x, rounds=0))
    late = compare(lambda w: jax.grad(net)(w, x).sum(), w, rounds=0)
    assert any("rules come too late" in note for note in late.notes)


def scalar(a):
    return a * 2.0


BAD = {
    "fn": (lambda: compare(3), TypeError, "compare: fn must be a function; got int"),
    "argnums, type": (lambda: compare(scalar, 1.0, argnums="0"), TypeError, "argnums must be an integer"),
    "argnums, range": (lambda: compare(scalar, 1.0, argnums=1), ValueError, "positions among 1 arguments; got 1"),
    "no floats": (lambda: compare(scalar, 1), ValueError, "argnums must choose an argument that holds floating"),
    "complex": (lambda: compare(scalar, np.complex64(1)), TypeError, "must choose real arguments"),
    "shapes alone": (
        lambda: compare(scalar, jax.ShapeDtypeStruct((2,), "float32")),
        TypeError,
        "a must be an array, for values are compared",
    ),
    "no value": (lambda: compare(lambda a: jnp.int32(1), 1.0), ValueError, "must return at least one floating"),
    "has_aux": (lambda: compare(scalar, 1.0, has_aux=True), TypeError, r"must return \(value, auxiliary\)"),
    "cotangent, tree": (lambda: compare(scalar, 1.0, cotangent=[1.0]), ValueError, "cotangent must be a tree like"),
    "cotangent, shape": (
        lambda: compare(scalar, 1.0, cotangent=np.ones(2)),
        ValueError,
        "cotangent must have the value's shapes",
    ),
    "samples": (lambda: compare(scalar, 1.0, samples=1), ValueError, "samples must be at least 2; got 1"),
    "rounds": (lambda: compare(scalar, 1.0, rounds=1.5), TypeError, "rounds must be an integer"),
    "only": (lambda: compare(scalar, 1.0, only=("pool",)), ValueError, "only must name operations"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


# ---- report ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    return compare(net, w, x, argnums=(0, 1), rounds=2)


def test_table(report):
    lines = str(report).splitlines()
    assert lines[0] == "net on cpu, products in precision highest"
    assert lines[2].split()[:3] == ["leaf", "shape", "dtype"]
    assert [line.split()[0] for line in lines[4:7]] == ["value", "w", "x"]
    assert lines[-1].startswith("OK: 2 of 2 leaves agree")
    assert "replaced  1 conv, 1 relu, 1 max_pool" in lines
    assert any(line.startswith("time      manual ") for line in lines)
    assert repr(report).startswith("<Comparison of net: 2 of 2 leaves agree")


def test_html(report):
    html = report._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td>w</td>" in html
    assert "&lt;" not in html or "<script" not in html


def test_json(report):
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["ok"] is True
    assert found["worst"] in {"w", "x"}
    assert [leaf["path"] for leaf in found["leaves"]] == ["w", "x"]
    assert found["leaves"][0]["worst"].keys() == {"index", "manual", "autodiff", "float64", "bound", "nearer"}
    assert found["replaced"] == {"conv": 1, "relu": 1, "max_pool": 1}
    assert found["speedup"] == found["autodiff"]["seconds"] / found["manual"]["seconds"]


def test_residual_bytes():
    """conv keeps its operands, which are arguments; ReLU its output; max pooling one byte for each of its own."""
    y = 2 * 6 * 6 * 2
    kept = {
        "conv": compare(conv, w, x, argnums=(0, 1), rounds=0),
        "relu": compare(lambda x: jax.nn.relu(x * 2.0), x, rounds=0),
        "pool": compare(lambda x: fnconv.max_pool(x, 2), x, rounds=0),
    }
    assert {name: r.manual.residual_bytes for name, r in kept.items()} == {"conv": 0, "relu": 4 * y, "pool": y // 4}
    assert kept["conv"].autodiff.residual_bytes == 0


def test_inside_shard_map_and_collectives():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def fn(w, x):
        def shard(w, x):
            return lax.psum(jnp.tanh(conv(w, x)).sum(), "d")

        return jax.shard_map(shard, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())(w, x)

    report = compare(fn, w, x, argnums=(0, 1), samples=8, rounds=0)
    assert report.ok
    assert report.replaced.counts == {"conv": 1, "tanh": 1}
    assert all(0 < leaf.error < 1e-5 for leaf in report.leaves)


# ---- what an agreement is worth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", ["a percent", "one element", "one channel", "a sign"])
def test_what_an_agreement_would_have_caught(planted, monkeypatch):
    """Each leaf says what it would have caught, and an error beyond that is caught."""

    def fn(w):
        return jnp.tanh(conv(w, X)).sum()

    right = compare(fn, W, rounds=0).leaves[0]
    assert right.ok
    assert 0 < right.caught < 1e-3
    change = {
        "a percent": lambda g: 1.01 * g,
        "one element": lambda g: g.at[(0,) * g.ndim].multiply(1.5),
        "one channel": lambda g: g.at[..., 0].multiply(1.1),
        "a sign": lambda g: -g,
    }[planted]
    module = sys.modules["fnconv.judge.model.compare"]
    plain = module.leaf_of

    def planted_leaf(path, manual, *rest, **options):
        return plain(path, change(jnp.asarray(manual)) if path == "w" else manual, *rest, **options)

    monkeypatch.setattr(module, "leaf_of", planted_leaf)
    assert compare(fn, W, rounds=0).leaves[0].verdict == "MANUAL IS WRONG"


@pytest.mark.parametrize(("fn", "at"), [(jax.nn.relu, -1.0), (lambda x: x * jnp.sqrt(x * 0 - 1), 1.0)])
def test_a_gradient_of_nothing_is_no_agreement(fn, at):
    report = compare(fn, jnp.float32(at), rounds=0)
    assert not report.ok
    assert report.leaves[0].verdict == "too weak"
    assert "neither 0 nor NaN" in report.summary()
