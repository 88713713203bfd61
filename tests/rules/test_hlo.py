"""What reaches the compiler: a gradient that nobody asks for costs nothing, and equal calls are traced once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnconv
from fnconv.rules import maps as rule_maps
from fnconv.rules.available import RULES

X = np.random.default_rng(0).integers(-3, 4, (4, 9, 8, 4)).astype(np.float32)
B = np.arange(6, dtype=np.float32)
GEOMETRIES = {
    "plain": ((3, 3, 4, 6), {}),
    "strided": ((3, 2, 4, 6), {"strides": (2, 3), "padding": "SAME"}),
    "groups": ((3, 3, 2, 6), {"groups": 2, "padding": 1}),
    "dilated": ((2, 2, 4, 6), {"dilation": 2}),
    "pointwise": ((1, 1, 4, 6), {}),
}


def optimised(fn: Callable[..., Any], *args: Any) -> Any:
    return jax.jit(fn).lower(*args).compile()


def flops(fn: Callable[..., Any], *args: Any) -> float:
    return optimised(fn, *args).cost_analysis()["flops"]


def products(fn: Callable[..., Any], *args: Any) -> int:
    """Convolutions and matrix products of the compiled program."""
    return len(re.findall(r" (?:convolution|dot)\(", optimised(fn, *args).as_text()))


def parameters(fn: Callable[..., Any], *args: Any) -> list[str]:
    """Types of what the compiled program reads; JAX passes nothing that is not used."""
    text = optimised(fn, *args).as_text()
    return re.findall(r"= (\w+\[[\d,]*\])\S* parameter\(", text[text.index("ENTRY") :])


@pytest.mark.sample(3)
@pytest.mark.parametrize("rule", ["auto", "im2col", "correlation"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_gradient_of_conv_costs_its_own_map_alone(geometry: str, rule: str) -> None:
    """Same number of convolutions and products, and the same work, as that map by itself: not even the forward."""
    shape, options = GEOMETRIES[geometry]
    w, options = np.ones(shape, np.float32), {**options, "rule": rule}
    dy = np.ones(jax.eval_shape(lambda x, w: fnconv.conv(x, w, **options), X, w).shape, np.float32)

    def vjp(x: jax.Array, w: jax.Array, b: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vjp(lambda *args: fnconv.conv(*args, **options), x, w, b)[1](dy)

    alone = (
        lambda x, w, b, dy: fnconv.conv_input_vjp(dy, w, X.shape, **options),
        lambda x, w, b, dy: fnconv.conv_weight_vjp(x, dy, shape[:-2], **options),
        lambda x, w, b, dy: dy.sum((0, 1, 2)),
    )
    for i, own in enumerate(alone):
        asked = lambda *args, i=i: vjp(*args)[i]  # noqa: E731
        assert products(asked, X, w, B, dy) == products(own, X, w, B, dy)
        assert flops(asked, X, w, B, dy) == flops(own, X, w, B, dy)
    assert products(alone[0], X, w, B, dy) > 0
    assert products(alone[2], X, w, B, dy) == 0
    assert flops(vjp, X, w, B, dy) > flops(alone[0], X, w, B, dy) + flops(alone[1], X, w, B, dy)


@pytest.mark.parametrize("argnum", [0, 1, 2])
def test_differentiating_by_one_argument_leaves_the_other_maps_out(argnum: int) -> None:
    """`jax.grad` of a loss that reads the value: the forward, the loss, and one map."""
    w, dy = np.ones((3, 3, 4, 6), np.float32), np.ones((4, 7, 6, 6), np.float32)
    forward = products(fnconv.conv, X, w)
    gradients = (
        products(lambda w, dy: fnconv.conv_input_vjp(dy, w, X.shape), w, dy),
        products(lambda x, dy: fnconv.conv_weight_vjp(x, dy, (3, 3)), X, dy),
        0,
    )
    assert min(forward, *gradients[:2]) > 0
    grad = jax.grad(lambda x, w, b: (fnconv.conv(x, w, b) ** 2).sum(), argnum)
    assert products(grad, X, w, B) == forward + gradients[argnum]
    both = jax.grad(lambda x, w, b: (fnconv.conv(x, w, b) ** 2).sum(), (0, 1, 2))
    assert products(both, X, w, B) == forward + sum(gradients)
    linear = jax.grad(lambda x, w, b: (fnconv.conv(x, w, b) * dy).sum(), argnum)
    assert products(linear, X, w, B) == gradients[argnum]


@pytest.mark.parametrize("argnum", [0, 1, 2])
def test_each_gradient_of_dense_is_one_product(argnum: int) -> None:
    x, w, dy = np.ones((40, 30), np.float32), np.ones((30, 20), np.float32), np.ones((40, 20), np.float32)
    grad = jax.grad(lambda x, w, b: (fnconv.dense(x, w, b) * dy).sum(), argnum)
    b = np.ones(20, np.float32)
    assert products(grad, x, w, b) == (1 if argnum < 2 else 0)
    if argnum < 2:
        assert flops(grad, x, w, b) < 1.1 * flops(lambda x, w: x @ w, x, w)


@pytest.mark.parametrize("argnum", [0, 1])
def test_second_derivatives_leave_unneeded_terms_out(argnum: int) -> None:
    """<grad_w <c, conv>, t> is X(c, t) by x alone and nothing by w: a bilinear map is linear in each."""
    w, c = np.ones((3, 3, 4, 6), np.float32), np.ones((4, 7, 6, 6), np.float32)

    def slope(x: jax.Array, w: jax.Array) -> jax.Array:
        return (jax.grad(lambda w: (fnconv.conv(x, w) * c).sum())(w) * 2).sum()

    assert products(jax.grad(slope, argnum), X, w) == (1 if argnum == 0 else 0)


@pytest.mark.parametrize("argnum", [0, 1])
def test_labels_and_targets_cost_nothing(argnum: int) -> None:
    z, t = np.ones((32, 10), np.float32), np.full((32, 10), 0.1, np.float32)
    grad = jax.grad(lambda z, t: fnconv.softmax_cross_entropy(z, t).sum(), argnum)
    assert flops(grad, z, t) < flops(jax.grad(lambda z, t: fnconv.softmax_cross_entropy(z, t).sum(), (0, 1)), z, t)
    logarithm = len(re.findall(r" log\(", optimised(grad, z, t).as_text()))
    exponential = len(re.findall(r" exponential\(", optimised(grad, z, t).as_text()))
    assert exponential > 0
    assert logarithm <= 1


POOLS = {
    "overlapping": {"window_shape": (3, 3), "strides": 2, "padding": 1},
    "disjoint": {"window_shape": (2, 2)},
    "dilated": {"window_shape": (2, 2), "dilation": 2},
    "large": {"window_shape": (9, 8), "strides": 1, "padding": 4},
}


@pytest.mark.parametrize("pool", POOLS)
def test_max_pool_computes_no_offsets_without_a_gradient(pool: str) -> None:
    def forward(x: jax.Array) -> jax.Array:
        return fnconv.max_pool(x, **POOLS[pool])

    with_gradient = jax.grad(lambda x: (forward(x) ** 2).sum())
    if pool != "large":  # there the maximum is read through its offset
        assert not re.search(r"\bs(8|16|32)\[\d", optimised(forward, X).as_text())
    assert re.search(r"\bs8\[\d", optimised(with_gradient, X).as_text())


def test_the_gradient_of_max_pool_does_not_read_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_maps, "may_target_tpu", lambda: False)
    dy = np.ones((4, 4, 4, 4), np.float32)
    _, vjp = jax.vjp(lambda x: fnconv.max_pool(x, (2, 2)), X)
    assert sorted(parameters(lambda vjp, dy: vjp(dy), vjp, dy)) == ["f32[4,4,4,4]", "s8[4,4,4,4]"]


@pytest.mark.parametrize(
    "fn", [lambda x: fnconv.avg_pool(x, (2, 2)), lambda x: fnconv.im2col(x, (2, 2)), fnconv.flatten]
)
def test_the_gradient_of_a_linear_map_runs_no_forward(fn: Callable[[jax.Array], jax.Array]) -> None:
    dy = np.ones(jax.eval_shape(fn, X).shape, np.float32)
    assert parameters(jax.grad(lambda x: (fn(x) * dy).sum()), X) == []
    assert parameters(jax.grad(lambda x: (fn(x) ** 2).sum()), X) == ["f32[4,9,8,4]"]


# ---- equal calls ----------------------------------------------------------------------------------------------------


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every rule that is traced leaves its name here; in a fresh cache."""
    seen: list[str] = []

    def counted(name: str, rule: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*args: Any) -> Any:
            seen.append(name)
            return rule(*args)

        return traced

    for operation, maps in RULES.items():
        for map_, rules in maps.items():
            for name, rule in rules.items():
                monkeypatch.setitem(rules, name, counted(f"{operation} {map_} {name}", rule))  # type: ignore[arg-type]
    jax.clear_caches()
    return seen


def conv_options() -> list[dict[str, Any]]:
    """One geometry in many spellings."""
    return [
        {"strides": 2, "padding": "SAME", "dilation": 1, "groups": 1, "precision": "highest"},
        {"strides": (2, 2), "padding": "same", "dilation": (1, 1), "precision": lax.Precision.HIGHEST},
        {"strides": [2, 2], "padding": [[1, 1], [0, 1]], "dilation": [1, 1], "precision": "highest"},
        {"strides": np.int64(2), "padding": ((1, 1), (0, 1)), "groups": np.int32(1), "precision": "highest"},
        {"strides": np.array([2, 2]), "padding": np.array([[1, 1], [0, 1]]), "precision": "highest"},
        {"strides": 2, "padding": "Same", "rule": {}, "precision": "highest"},
        {"strides": 2, "padding": "SAME", "rule": {"forward": "auto"}, "precision": "highest"},
    ]


def test_equal_convolutions_are_traced_once(traces: list[str]) -> None:
    w = jnp.ones((3, 3, 4, 6))
    counts = []
    for options in [*conv_options(), *conv_options()]:
        fnconv.conv(X, w, **options)
        jax.grad(lambda x, w, options=options: fnconv.conv(x, w, **options).sum(), (0, 1))(X, w)
        counts.append(len(traces))
    assert counts[0] > 0
    assert set(counts) == {counts[0]}
    assert {t.rsplit(" ", 1)[0] for t in traces} == {"conv forward", "conv input_vjp", "conv weight_vjp"}


def test_equal_poolings_are_traced_once(traces: list[str]) -> None:
    spellings: list[dict[str, Any]] = [
        {"window_shape": (2, 2), "strides": None, "padding": "VALID"},
        {"window_shape": 2, "strides": 2, "padding": 0},
        {"window_shape": [2, 2], "strides": [2, 2], "padding": "valid"},
        {"window_shape": np.array([2, 2]), "strides": np.int8(2), "padding": [0, (0, 0)]},
    ]
    counts = []
    for options in [*spellings, *spellings]:
        for fn in (fnconv.max_pool, fnconv.avg_pool, fnconv.lp_pool):
            fn(X, **options)
            jax.grad(lambda x, fn=fn, options=options: fn(x, **options).sum())(X)
        fnconv.max_pool_with_indices(X, **options)
        counts.append(len(traces))
    assert counts[0] > 0
    assert set(counts) == {counts[0]}


def test_another_geometry_is_traced_anew(traces: list[str]) -> None:
    """The counter counts."""
    counts = []
    for stride in (1, 2, 3, 1):
        fnconv.max_pool(X, (2, 2), strides=stride)
        counts.append(len(traces))
    assert counts[0] < counts[1] < counts[2] == counts[3]


def test_a_jitted_step_is_traced_once(traces: list[str]) -> None:
    w = jnp.ones((3, 3, 4, 6))
    step = jax.jit(jax.value_and_grad(lambda w, x: (fnconv.conv(x, w, padding="SAME") ** 2).sum()))
    step(w, X)
    first = len(traces)
    for _ in range(3):
        _, w = step(w, X + np.float32(1))
    assert first == len(traces) > 0


@pytest.mark.parametrize("operation", ["conv", "dense"])
def test_the_matmul_precision_around_a_call_reaches_every_product(operation):
    """A rule is lowered after the block has been left; the products keep what it said."""
    x, w = np.ones((2, 6), np.float32), np.ones((6, 4), np.float32)

    def loss(x, w):
        with jax.default_matmul_precision("highest"):
            y = fnconv.dense(x, w) if operation == "dense" else fnconv.conv(x[:, :, None], w[:3, None, :])
        return (y**2).sum()

    text = jax.jit(jax.grad(loss, (0, 1))).lower(x, w).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    assert products
    assert all("HIGHEST" in line for line in products), products


def test_winners_are_found_once_for_all_that_read_them():
    """On a CPU, where XLA fuses cheap loops into each of their readers: dx, dw and db read one dz."""

    def loss(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        return (fnconv.conv_block(x, w, b, pool=2) ** 2).sum()

    with jax.default_device(jax.devices("cpu")[0]):
        x, w, b = jnp.ones((8, 12, 12, 3)), jnp.ones((5, 5, 3, 6)), jnp.ones(6)
        text = optimised(jax.grad(loss, (0, 1, 2)), x, w, b).as_text()
    value, winners = 3, 2  # of four elements; the last is compared with the largest of those before it
    assert text.count(" maximum(") == value + winners


def test_pooling_pads_no_copy_of_the_input():
    """On a CPU: windows inside the input read it where it lies; what is padded are the few at its borders."""
    with jax.default_device(jax.devices("cpu")[0]):
        x = jnp.ones((2, 64, 64, 16))
        compiled = optimised(lambda x: fnconv.max_pool(x, 3, strides=2, padding=1), x)
    assert compiled.memory_analysis().temp_size_in_bytes < x.nbytes / 2
