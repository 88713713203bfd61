"""What "auto" runs: every line of its table, its numerical price, its loops, and that `explain` tells."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnconv
from fnconv.base import chunks
from fnconv.base.geometry import window_axes
from fnconv.base.spec import ConvSpec
from fnconv.rules import choice, conv, maps

LINES = {  # (size, window, in, out, options of the geometry, groups) -> rules of forward, input_vjp, weight_vjp
    "depthwise": ((9, 9), (3, 3), 8, 8, {}, 8, ("taps", "taps", "taps")),
    "depthwise, large window": ((20, 20), (9, 9), 8, 8, {}, 8, ("merged", "merged", "merged")),
    "narrow groups": ((9, 9), (3, 3), 64, 64, {}, 16, ("taps", "taps", "merged")),
    "wide groups": ((9, 9), (3, 3), 32, 32, {}, 2, ("merged", "merged", "merged")),
    "groups between": ((9, 9), (3, 3), 16, 16, {}, 2, ("taps", "taps", "merged")),
    "groups between, large window": ((20, 20), (9, 9), 16, 16, {}, 2, ("im2col", "im2col", "merged")),
    "pointwise": ((9, 9), (1, 1), 8, 8, {}, 1, ("taps", "taps", "taps")),
    "one input channel": ((28, 28), (5, 5), 1, 6, {}, 1, ("blocked", "blocked", "blocked")),
    "few channels": ((32, 32), (3, 3), 3, 64, {}, 1, ("lax", "taps", "columns")),
    "one channel to many": ((32, 32), (3, 3), 1, 64, {}, 1, ("columns", "taps", "columns")),
    "stem": ((56, 56), (7, 7), 3, 64, {"strides": 2}, 1, ("lax", "blocked", "blocked")),
    "patches": ((32, 32), (4, 4), 3, 96, {"strides": 4}, 1, ("space_to_depth",) * 3),
    "stem of few": ((56, 56), (7, 7), 3, 24, {"strides": 2}, 1, ("blocked", "blocked", "blocked")),
    "fewer than y has": ((32, 32), (3, 3), 24, 64, {}, 1, ("lax", "taps", "winograd4")),
    "strided, more than y has": ((17, 17), (3, 3), 64, 32, {"strides": 2}, 1, ("lax", "taps", "lax")),
    "wide": ((16, 16), (3, 3), 64, 64, {}, 1, ("winograd", "winograd", "winograd4")),
    "wide, dilated": ((20, 20), (3, 3), 64, 64, {"dilation": 2}, 1, ("winograd", "winograd", "winograd4")),
    "wide, small image": ((6, 6), (3, 3), 64, 64, {}, 1, ("lax", "lax", "winograd")),
    "wide, strided": ((17, 17), (3, 3), 64, 64, {"strides": 2}, 1, ("lax", "taps", "taps")),
    "three axes": ((8, 8, 8), (3, 3, 3), 16, 32, {}, 1, ("winograd", "winograd", "winograd")),
    "three axes, few channels": ((8, 8, 8), (3, 3, 3), 8, 32, {"strides": 2}, 1, ("columns", "taps", "taps")),
    "three axes, strided": ((8, 8, 8), (3, 3, 3), 64, 16, {"strides": 2}, 1, ("taps", "taps", "taps")),
    "one axis": ((64,), (5,), 64, 64, {}, 1, ("lax", "lax", "lax")),
    "wide, large window": ((20, 20), (9, 9), 64, 64, {}, 1, ("lax", "lax", "lax")),
}


def spec_of(name: str) -> ConvSpec:
    size, window, inputs, outputs, options, groups, _ = LINES[name]
    return ConvSpec(window_axes(size, window, **options), inputs, outputs, groups)


@pytest.mark.parametrize("name", LINES)
def test_each_cause_has_its_rule(name):
    found = tuple(choice.conv_choice(m, spec_of(name)).rule for m in ("forward", "input_vjp", "weight_vjp"))
    assert found == LINES[name][-1]


def test_every_line_of_the_table_is_reached():
    for map_, choices in choice.CPU.items():
        reached = {choice.conv_choice(map_, spec_of(name)) for name in LINES}
        assert [c for c in choices if c not in reached and c.rule != "onednn"] == []
        assert {c.rule for c in choices} <= set(conv.RULES[map_])


def test_winograd_is_for_float32():
    """Half precisions have no use for its accuracy, and float64 products no fast path."""
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float64):
        assert choice.conv_choice("forward", spec_of("wide"), jnp.dtype(dtype)).rule == "lax"


KEPT_APART = ("depthwise", "narrow groups", "wide groups", "groups between", "groups between, large window")


@pytest.mark.parametrize("name", KEPT_APART)
def test_a_nan_stays_within_its_group(name):
    spec = spec_of(name)
    x, w, dy = (np.ones(s, np.float32) for s in (spec.x_shape(1), spec.w_shape, spec.y_shape(1)))
    c, d = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    x[..., 0], dy[..., 0] = np.nan, np.nan
    functions = maps.conv_forward, maps.conv_input_vjp, maps.conv_weight_vjp
    y, dx, dw = (
        jax.jit(f, static_argnums=0)(spec, *a) for f, a in zip(functions, ((x, w), (dy, w), (x, dy)), strict=True)
    )
    for value, first in ((y, d), (dx, c), (dw, d)):
        assert np.isnan(value[..., :first]).any()
        assert np.isfinite(value[..., first:]).all()


# ---- numerical price ------------------------------------------------------------------------------------------------

PRICED = ("wide", "wide, dilated", "wide, small image", "three axes", "wide groups", "few channels", "wide, strided")
FACTOR = 8  # of autodiff's own error


def gradients(f, x, w, dy):
    y, pullback = jax.vjp(f, x, w)
    return (y, *pullback(dy))


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", PRICED)
def test_auto_stays_near_autodiff_s_own_error(name):
    """Largest and root-mean-square distance from float64, against those of lax and its automatic gradients."""
    _, _, _, _, options, groups, _ = LINES[name]
    spec = spec_of(name)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in (spec.x_shape(4), spec.w_shape, spec.y_shape(4))]
    letters = "DHW"[3 - len(spec.axes) :]
    given = {
        "window_strides": [a.stride for a in spec.axes],
        "padding": "VALID",
        "rhs_dilation": [a.dilation for a in spec.axes],
        "dimension_numbers": (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        "feature_group_count": groups,
    }

    def automatic(x, w):
        return lax.conv_general_dilated(x, w, **given)

    def manual(x, w):
        return fnconv.conv(x, w, groups=groups, **options)

    with jax.enable_x64(True):
        right = [np.asarray(a) for a in gradients(automatic, *(jnp.asarray(a, jnp.float64) for a in arrays))]
    found = {f: jax.jit(lambda *a, f=f: gradients(f, *a))(*arrays) for f in (automatic, manual)}
    for r, theirs, ours in zip(right, found[automatic], found[manual], strict=True):
        for norm in (lambda e: abs(e).max(), lambda e: np.sqrt((e**2).mean())):
            assert norm(np.asarray(ours, np.float64) - r) <= FACTOR * norm(np.asarray(theirs, np.float64) - r)


# ---- loops ----------------------------------------------------------------------------------------------------------


def program(batch):
    x, w = jnp.ones((batch, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
    return jax.jit(lambda x, w: fnconv.conv(x, w, padding=1)).lower(x, w).compile()


def test_temporaries_stay_small_however_large_the_batch():
    """Half of the 32 MB from which on the C library maps a block anew, and as much again for what is padded."""
    for batch in (32, 64):
        compiled = program(batch)
        assert len(re.findall(r" while\(", compiled.as_text())) == 1
        assert compiled.memory_analysis().temp_size_in_bytes < 2 * chunks.BYTES


CUT = {"winograd": (32, 1), "columns": (32, 1), "taps": (64, 32)}  # rule -> (images, groups), enough for two chunks


@pytest.mark.parametrize("rule", CUT)
def test_chunks_under_vmap_and_twice_differentiated(rule):
    """On integers, whose products by Winograd's F(2) stay exact: as without a cut."""
    images, groups = CUT[rule]
    rng = np.random.default_rng(0)
    shapes = (2, images, 24, 24, 32), (2, 3, 3, 32 // groups, 32)
    x, w = (rng.integers(-1, 2, s).astype(np.float32) for s in shapes)

    def slopes(rule):
        conv = partial(fnconv.conv, padding=1, groups=groups, rule=rule)

        def loss(x, w):
            return (conv(x, w) * np.float32(2)).sum()

        def second(x, w):
            return jax.grad(lambda w: jax.grad(loss)(x, w)[:, ::5].sum())(w)

        each = jax.vmap(lambda x, w: (conv(x, w), jax.grad(loss, 1)(x, w)))
        return jax.jit(lambda x, w: (*each(x, w), second(x[0], w[0]))).lower(x, w).compile()

    found = slopes(dict.fromkeys(("forward", "input_vjp", "weight_vjp"), rule))
    right = slopes("lax" if groups == 1 else "merged")  # XLA's own is slow where there are groups
    for got, want in zip(found(x, w), right(x, w), strict=True):
        np.testing.assert_array_equal(got, want)
    loops = [len(re.findall(r" while\(", program.as_text())) for program in (found, right)]
    assert loops[0] >= loops[1] + (1 if rule == "taps" else 3)


def test_a_small_batch_is_not_cut():
    assert " while(" not in program(1).as_text()


def test_chunks_divide_the_batch():
    assert chunks.chunks(12, 5 * chunks.BYTES) == 6
    assert chunks.chunks(7, 2 * chunks.BYTES) == 7
    assert chunks.chunks(0, chunks.BYTES) == 1
    with chunks.for_devices(8):
        assert chunks.chunks(12, 5 * chunks.BYTES) == 1


# ---- explain --------------------------------------------------------------------------------------------------------


def test_explain_tells_every_map_of_a_network():
    x, w = jnp.ones((16, 16, 16, 64)), jnp.ones((3, 3, 64, 64))

    def loss(w, x):
        y = fnconv.max_pool(fnconv.relu(fnconv.conv(x, w)), (2, 2))
        return (fnconv.conv(y, w) ** 2).sum()

    told = fnconv.explain(jax.grad(loss), w, x, platform="cpu")
    assert [(c.operation, c.map, c.rule) for c in told] == [
        ("conv", "forward", "winograd"),
        ("conv", "forward", "lax"),
        ("conv", "input_vjp", "lax"),
        ("conv", "weight_vjp", "winograd"),
        ("max_pool", "input_vjp", "offsets"),
        ("conv", "weight_vjp", "winograd4"),
    ]
    assert "64->64, window 3x3" in str(told)
    assert {c.rule for c in fnconv.explain(jax.grad(loss), w, x, platform="gpu") if c.operation == "conv"} == {"lax"}
    assert {c.rule for c in fnconv.explain(jax.grad(loss), w, x, platform="tpu")} == {"lax"}


@pytest.mark.parametrize(("platform", "rule"), [("cpu", "upsample"), ("gpu", "lax"), ("tpu", "lax")])
def test_explain_tells_average_pools_by_platform(platform, rule):
    x = jnp.ones((2, 8, 8, 4))
    told = fnconv.explain(jax.grad(lambda x: (fnconv.avg_pool(x, (2, 2)) ** 2).sum()), x, platform=platform)
    assert [c.rule for c in told] == [rule] * 2
    (asked,) = fnconv.explain(lambda x: fnconv.avg_pool(x, (2, 2), rule="upsample"), x, platform=platform)
    assert asked.because == "asked for by name"


def test_explain_looks_into_loops_and_counts():
    w = jnp.ones((3, 3, 8, 8))

    def repeated(x):
        x = fnconv.conv(fnconv.conv(x, w, padding=1), w, padding=1)
        return lax.scan(lambda x, _: (fnconv.conv(x, w, rule="im2col", padding=1), None), x, length=3)[0]

    told = fnconv.explain(repeated, jax.ShapeDtypeStruct((2, 9, 9, 8), jnp.float32))
    assert [c.times for c in told] == [2, 1]
    assert told[1].because == "asked for by name"


def test_explain_of_a_function_without_fnconv():
    assert str(fnconv.explain(jnp.sin, 1.0)) == "no map with several formulations"


# ---- Winograd's transforms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "r"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2), (4, 3)])
def test_transforms_correlate_exactly(m, r):
    """A^T [(G w) . (B^T x)] = sum_k w_k x_{i + k}, in fractions."""
    t = conv.winograd.transforms(m, r)
    for k in range(r):
        w = np.eye(r, dtype=int)[k]
        product = t.at @ np.diag(t.g @ w) @ t.bt
        want = np.eye(m, m + r - 1, k, dtype=int)
        assert (product == want).all()


def test_points_that_are_each_other_s_reciprocals_keep_sums_small(monkeypatch):
    """With the customary 2 and -2 they are almost twice as large."""
    winograd = conv.winograd
    monkeypatch.setitem(winograd.POINTS, 4, ("0", "1", "-1", "2", "-2"))
    customary = winograd.growth.__wrapped__
    winograd.transforms.cache_clear()
    try:
        assert customary(4) > 1.8 * conv.GROWTH["winograd4"] > 1.8 * conv.GROWTH["winograd"]
    finally:
        winograd.transforms.cache_clear()
