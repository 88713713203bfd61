"""What the second attachment costs: it keeps what the first keeps and runs the maps that the first runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from agreement import as_users_compile
from jax import lax
from jax.extend import core
from operations import CHANNELS_LAST, Operation, each, network
from test_residuals import EQUIVALENTS, X, kept

import fnconv

# what JAX's own rules for convolutions, pools, contractions and lookups are made of
AUTODIFF = {"conv_general_dilated", "dot_general", "gather", "scatter", "scatter-add", "scatter_add", "cumsum"}
AUTODIFF |= {
    "reduce_window",
    "reduce_window_sum",
    "reduce_window_max",
    "select_and_scatter_add",
    "select_and_gather_add",
}


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_both_keep_the_same_arrays(name: str) -> None:
    ours, _, args = EQUIVALENTS[name]
    assert kept(fnconv.both_modes(ours), *args) == kept(ours, *args)


def test_pools_and_blocks_keep_one_byte_for_every_output() -> None:
    for fn in (fnconv.max_pool, lambda x, k: fnconv.max_pool_with_indices(x, k)[0]):
        assert kept(fnconv.both_modes(lambda x, fn=fn: fn(x, (2, 2))), X) == [("int8", (2, 8, 8, 4))]
    block = fnconv.both_modes(lambda x, w: fnconv.conv_block(x, w, pool=2))
    w = jnp.ones((3, 3, 4, 8))
    assert kept(block, X, w) == [("float32", X.shape), ("int8", (2, 7, 7, 8)), ("float32", w.shape)]


def equations(jaxpr: Any) -> Iterator[Any]:
    """All of them, those of bodies in place of what calls them; fnconv's maps are not opened."""
    for e in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        bodies = [] if e.primitive.name == "fnconv_linear" else list(core.jaxprs_in_params(e.params))
        if not bodies:
            yield e
        for body in bodies:
            yield from equations(body)


def maps(fn: Callable[..., Any], *args: Any) -> Counter[tuple[Any, ...]]:
    """Which of our linear maps a function evaluates, and how often, what nobody reads left out."""
    jaxpr = jax.make_jaxpr(fn)(*args)
    needed, _ = jax.interpreters.partial_eval.dce_jaxpr(getattr(jaxpr, "jaxpr", jaxpr), [True] * len(jaxpr.out_avals))
    found = (e for e in equations(needed) if e.primitive.name == "fnconv_linear")
    return Counter((str(e.params["map"]), e.params["spec"]) for e in found)


@pytest.mark.sample(8)
@each(CHANNELS_LAST)
def test_a_tangent_is_made_of_our_maps_and_reverse_mode_of_the_same(operation: Operation) -> None:
    args = tuple(map(jnp.asarray, operation.args))
    both = fnconv.both_modes(operation.fn)
    pushforward = jax.make_jaxpr(jax.linearize(both, *args)[1])(*args)
    assert not {e.primitive.name for e in equations(pushforward)} & AUTODIFF

    def gradient(fn: Callable[..., jax.Array]) -> Callable[..., Any]:
        return lambda *args: jax.vjp(fn, *args)[1](jnp.ones(jax.eval_shape(fn, *args).shape))

    assert maps(gradient(both), *args) == maps(gradient(operation.fn), *args)
    tangents = maps(lambda *t: jax.jvp(both, args, t)[1], *args)
    values = maps(operation.fn, *args)
    if operation.name.startswith("lp_pool"):  # the slopes, of x and of the norms, and their sum
        assert {name for name, _ in tangents} <= {"im2col", "window_sum", "window_spread"}
        assert sum(tangents.values()) <= sum(values.values()) + 2
    elif values:  # linear itself: each operand that moves costs what the value costs
        assert set(tangents) == set(values)
        assert sum(tangents.values()) <= len(args) * sum(values.values())


def plain_network(x: jax.Array, w: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
    y = lax.reduce_window(jax.nn.relu(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    logits = y.reshape(x.shape[0], -1) @ v
    chosen = jnp.take_along_axis(logits, (jnp.arange(x.shape[0]) % v.shape[-1])[:, None], axis=1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen).sum()


def test_a_networks_tangent_moves_less_memory_than_autodiffs() -> None:
    """The bytes that the compiled programs read and write, and no second contraction or convolution in ours."""
    shapes = ((4, 16, 16, 8), (3, 3, 8, 16), (16,), (1024, 10))
    args = tuple(jnp.ones(shape) for shape in shapes)

    def traffic(fn: Callable[..., Any]) -> float:
        program = as_users_compile(lambda *args: jax.jvp(fn, args, args))
        return program.lower(*args).compile().cost_analysis()["bytes accessed"]

    assert traffic(fnconv.both_modes(network)) <= traffic(plain_network)
    counted = maps(lambda *args: jax.jvp(fnconv.both_modes(network), args, args), *args)
    times = {
        name: n for (name, _), n in counted.items() if name not in ("rearrange", "selected")
    }  # which compute nothing
    assert times == {"conv": 3, "dense": 3, "select": 1}
