"""What "auto" runs on a GPU and on a TPU, run here: `platform_dependent` takes the branch of another platform.

XLA runs every branch on a CPU; which kernels it becomes elsewhere is `house/test_accelerators.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import agreement
import jax
import jax.numpy as jnp
import numpy as np
import pool_data
import pytest
import test_orders
import test_pools_averages as pools_averages
from cases import CONVS, POOLS, Conv, Pool
from jax import lax

import fnconv
from fnconv.base import chunks
from fnconv.base.geometry import Axis
from fnconv.base.spec import PoolSpec
from fnconv.ops import activation
from fnconv.rules import maps, max_pool

PLATFORMS = ("cuda", "tpu")


def forget() -> None:
    jax.clear_caches()
    for program in (agreement.conv_program, agreement.max_pool_program, agreement.avg_pool_program):
        program.cache_clear()


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every choice of a platform falls on this one; no program traced for another is used."""

    def branch(*args: Any, default: Callable[..., Any], **branches: Callable[..., Any]) -> Any:
        return branches.get(request.param, default)(*args)

    forget()
    monkeypatch.setattr(lax, "platform_dependent", branch)
    monkeypatch.setattr(maps, "may_target_tpu", lambda: request.param == "tpu")
    yield request.param
    monkeypatch.undo()
    forget()


@pytest.mark.sample(4)
@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("data", [pool_data.distinct, pool_data.tied, pool_data.not_finite])
def test_max_pool(case: Pool, data: Callable[[Pool], np.ndarray], platform: str) -> None:
    agreement.check_max_pool(case, data(case))


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS)
def test_avg_pool(case: Pool, platform: str) -> None:
    agreement.check_avg_pool(case)


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS)
def test_conv(case: Conv, platform: str) -> None:
    agreement.check_conv(case)


@pytest.mark.sample(4)
@pytest.mark.parametrize("size", [(11, 21), (9, 10)], ids=["side by side", "all there is"])
@pytest.mark.parametrize("data", [pool_data.tied, pool_data.not_finite])
def test_pools_of_large_windows(data: Callable[[Pool], np.ndarray], size: tuple[int, int], platform: str) -> None:
    case = Pool(size, (9, 10), None)
    agreement.check_max_pool(case, data(case))
    agreement.check_avg_pool(case)


@pytest.mark.parametrize("name", ["max_pool-disjoint", "lp_pool-2"])
def test_pools_differentiated_again(name: str, platform: str) -> None:
    with jax.enable_x64(True):
        test_orders.check_orders(next(o for o in test_orders.EVERY if o.name == name))


def test_lp_pool_at_its_limits(platform: str) -> None:
    pools_averages.test_lp_pool_of_a_window_of_zeros_has_gradient_zero()
    pools_averages.test_lp_pool_where_it_is_not_finite(2)
    for exponent in (-120, 0, 120):
        pools_averages.test_lp_pool_neither_overflows_nor_vanishes(exponent)
    met = jnp.asarray([3.0, -4.0, jnp.nan, 6.0, 8.0, jnp.nan])[:, None]
    dx = jax.grad(lambda x: fnconv.lp_pool(x, (2,), strides=3).sum())(met)
    np.testing.assert_allclose(dx[:, 0], [0.6, -0.8, 0, 0.6, 0.8, 0], rtol=4 * np.finfo(np.float32).eps)


def test_rows_that_are_read_once_are_what_they_were(platform: str) -> None:
    rows = jnp.asarray([[0.0, -0.0, -2.0], [-jnp.inf, -jnp.inf, 3.0], [jnp.inf, 1.0, -1.0], [-0.0, -0.0, -1.0]])
    read = partial(activation._read_once, 1)
    for f in (read, lambda a: jax.jvp(read, (a,), (a,))[1], lambda a: jax.vjp(read, a)[1](a)[0]):
        np.testing.assert_array_equal(np.asarray(f(rows)).view(np.int32), np.asarray(rows).view(np.int32))
    pull = jax.vjp(fnconv.softmax, jnp.ones((2, 2)))[1]
    assert jnp.isnan(pull(jnp.asarray([[jnp.nan, 1.0], [1.0, 1.0]]))[0]).tolist() == [[True] * 2, [False] * 2]


def test_the_variance_of_what_is_read_once(platform: str) -> None:
    """The variance errs by 1 + (first - mean)^2 / variance times the roundings of its sums, and is never negative."""
    rows = 1e4 + np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    rows[0, 0], rows[1] = 0, 0.1
    wide = rows.astype(np.float64)
    mean, deviation = wide.mean(1, keepdims=True), np.maximum(wide.std(1, keepdims=True), 1e-30)
    z = np.asarray(fnconv.layer_norm(jnp.asarray(rows), epsilon=1e-30))
    of_first = 1 + ((wide[:, :1] - mean) / deviation) ** 2
    error = np.abs(z - (wide - mean) / deviation)[[0, *range(2, 16)]]
    assert (error <= 16 * np.finfo(np.float32).eps * (of_first * (1 + np.abs(z)))[[0, *range(2, 16)]]).all()
    assert not z[1].any()


@pytest.mark.parametrize("strides", [1, 2, 3])
def test_max_pool_of_each_image_alone_and_in_bfloat16(strides: int, platform: str) -> None:
    """The scatter has a rule of its own for vmap; what overlapping windows give is added in float32."""
    x = jnp.asarray(np.random.default_rng(0).integers(-3, 3, (3, 2, 9, 8, 2)), jnp.bfloat16)

    def pulled(x: jax.Array, rule: str = "auto") -> tuple[jax.Array, jax.Array]:
        y, pull = jax.vjp(lambda x: fnconv.max_pool(x, (3, 3), strides=strides, padding=1, rule=rule), x)
        return y, pull(1 + jnp.abs(y) / 128)[0]

    want = jax.tree.map(lambda a: a.reshape(3, 2, *a.shape[1:]), pulled(x.reshape(6, 9, 8, 2), "segment_sum"))
    for got in (jax.vmap(pulled)(x), jax.vmap(jax.vmap(pulled), 1, 1)(x)):
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_block_pools_as_its_parts_do(platform: str) -> None:
    x = jnp.asarray(np.random.default_rng(0).integers(-3, 4, (2, 9, 8, 2)), jnp.float32)
    w, b = jnp.ones((1, 1, 2, 3)), jnp.asarray([0.0, 1, -1])

    def block(*given: jax.Array) -> jax.Array:
        return (fnconv.conv_block(*given, pool={"window_shape": 3, "strides": 2, "padding": 1}) ** 3).sum()

    def parts(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        y = fnconv.max_pool(fnconv.conv(x, w, b), (3, 3), strides=2, padding=1, rule="segment_sum")
        return (fnconv.relu(y) ** 3).sum()

    jax.tree.map(
        np.testing.assert_array_equal, jax.grad(block, (0, 1, 2))(x, w, b), jax.grad(parts, (0, 1, 2))(x, w, b)
    )


def _loop(x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return fnconv.max_pool(jnp.tanh(x) * 2, (3, 3), strides=1, padding=1), None

    return (lax.scan(layer, x, None, length=8)[0] ** 2).sum()


@pytest.mark.parametrize(
    "loss", [_loop, lambda x: (jnp.sin(jax.jit(fnconv.max_pool, static_argnums=1)(jnp.tanh(x), 2)) ** 2).sum()]
)
def test_in_one_program_a_cpu_keeps_nothing_for_a_tpu(
    loss: Callable[[jax.Array], jax.Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a program may be for a TPU, x is an operand of the gradient; the CPU's program drops it, in loops too."""
    x = jax.ShapeDtypeStruct((2, 32, 32, 8), jnp.float32)
    used, read = set(), set()
    for may in (False, True):
        forget()
        monkeypatch.setattr(maps, "may_target_tpu", lambda may=may: may)
        used.add(jax.jit(jax.value_and_grad(loss)).lower(x).compile().memory_analysis().temp_size_in_bytes)
        read.add(str(jax.make_jaxpr(jax.grad(loss))(x)))
    forget()
    assert len(used) == 1
    assert len(read) == 2


def test_a_tpu_s_gradient_inside_shard_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scatter varies over the mesh as its operands do; where a program is not for a TPU as well."""
    monkeypatch.setattr(maps, "may_target_tpu", lambda: True)
    auto = (jax.sharding.AxisType.Auto,)
    mesh, spec = jax.make_mesh((1,), ("batch",), axis_types=auto), jax.sharding.PartitionSpec("batch")
    x = jnp.arange(32.0).reshape(2, 4, 4, 1)
    slope = jax.grad(lambda x: jnp.sum(fnconv.max_pool(x, 2) ** 3))
    curvature = jax.grad(lambda x: jnp.sum(slope(x) ** 2))
    for f in (slope, curvature):
        inside = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec))
        np.testing.assert_array_equal(inside(x), f(x))
        assert "select_and_scatter" in inside.trace(x).lower(lowering_platforms=("tpu",)).as_text()


def test_a_tpu_compares_in_the_order_of_maxima() -> None:
    """All numbers of a dtype: their order with infinity for NaN, but that the least positive number ties with 0."""
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    numbers = np.concatenate([np.sort(numbers[~np.isnan(numbers)]), numbers[np.isnan(numbers)]])
    compared = np.asarray(max_pool.lax._below_nan(jnp.asarray(numbers)))
    below, above = numbers[:-1], numbers[1:]
    larger = (above > below) & (above != np.finfo(np.float16).smallest_subnormal) | np.isnan(above) & ~np.isnan(below)
    np.testing.assert_array_equal(compared[1:] > compared[:-1], larger)
    np.testing.assert_array_equal(compared[1:] == compared[:-1], ~larger)


def test_a_tpu_s_gradient_for_several_devices_is_that_for_one() -> None:
    spec = PoolSpec((Axis(9, 3, 2, low=1, high=1), Axis(8, 2, 1)))
    x = np.random.default_rng(0).choice([-np.inf, -1, 0, -0.0, 1, 2, np.inf, np.nan], (4, 9, 8, 3))
    dy = np.random.default_rng(1).integers(1, 9, (4, *spec.output, 3))
    got = []
    for number in (1, 2):
        with chunks.for_devices(number):
            got.append(max_pool.lax.input_vjp(spec, jnp.asarray(x, "float32"), jnp.asarray(dy, "float32")))
    np.testing.assert_array_equal(*got)
