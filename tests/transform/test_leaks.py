"""Nothing that a call worked on outlives it: the number of live arrays, and JAX's own search for leaked tracers."""

import gc

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fnconv import with_manual_rules

pytestmark = pytest.mark.usefixtures("quick_collection")


@jax.custom_jvp
def own(x):
    return jnp.sin(x)


@own.defjvp
def _own_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return own(x), jnp.cos(x) * dx


@jax.custom_vjp
def backward_only(x):
    return jax.nn.relu(x) * 2


backward_only.defvjp(lambda x: (backward_only(x), x), lambda x, dy: (jnp.where(x > 0, 2 * dy, 0 * dy),))

W = 0.1 * jnp.ones((3, 3, 2, 2))
ONES = jnp.ones((2, 2), jnp.int32)
ROWS = Mesh(jax.devices()[:1], "i")
NUMBERS = ("NHWC", "HWIO", "NHWC")


def scanned(f, x):
    return lax.scan(lambda carry, _: (f(carry), None), x, None, length=3)[0]


def convolved(x, **options):
    return lax.conv_general_dilated(x, W, (1, 1), "SAME", dimension_numbers=NUMBERS, **options)


def window(x, init, computation):
    return lax.reduce_window(x, init, computation, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def block(x):
    return window(jax.nn.relu(convolved(x) + jnp.ones(2)), -jnp.inf, lax.max)


def picked(x):
    return -jnp.take_along_axis(jax.nn.log_softmax(x), jnp.zeros((*x.shape[:-1], 1), jnp.int32), -1)


# each with (N, H, W, C) = (2, 4, 4, 2) of float32
REPLACED = {
    "conv": convolved,
    "max": lambda x: window(x, -jnp.inf, lax.max),
    "min": lambda x: window(x, jnp.inf, lax.min),
    "sum": lambda x: window(x, 0.0, lax.add),
    "dot": lambda x: x @ jnp.ones((2, 3)),
    "relu": jax.nn.relu,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.1),
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": lambda x: jax.nn.logsumexp(x, -1),
    "cross entropy": picked,
    "block": block,
    "jit": jax.jit(block),
    "checkpoint": jax.checkpoint(block),
    "scan": lambda x: scanned(jax.nn.softmax, x),
    "map": lambda x: lax.map(jax.nn.softmax, x),
    "vmap": jax.vmap(jax.nn.softmax),
    "cond": lambda x: lax.cond(x.sum() > 0, jax.nn.softmax, jax.nn.relu, x),
    "shard_map": jax.shard_map(jax.nn.softmax, mesh=ROWS, in_specs=P("i"), out_specs=P("i")),
    "softmax beside a scan of a custom_jvp": lambda x: scanned(own, jax.nn.softmax(x)),
    "softmax after a scan of a custom_jvp": lambda x: jax.nn.softmax(scanned(own, x)),
    "softmax beside a scan of relu": lambda x: jax.nn.softmax(scanned(jax.nn.relu, jax.nn.softmax(x))),
    "softmax beside a cond of a custom_jvp": lambda x: lax.cond(x.sum() > 0, own, own, jax.nn.softmax(x)),
    "softmax beside a custom_vjp": lambda x: scanned(backward_only, jax.nn.softmax(x)),
}
DECLINED = {
    "slope": lambda x: jax.nn.leaky_relu(x, x[0, 0, 0, 0]),
    "integers": lambda x: x * lax.dot(ONES, ONES).sum().astype(x.dtype),
    "precisions": lambda x: lax.dot(x[0, 0], x[0, 0].T, precision=("highest", "default")),
    "window": lambda x: window(lax.stop_gradient(x), 1.0, lax.add) * x[:, ::2, ::2],
    "custom_jvp": own,
    "custom_vjp": backward_only,
    "while": lambda x: lax.while_loop(lambda v: v.sum() < 0, jax.nn.softmax, lax.stop_gradient(x)) * x,
}
PROGRAMS = {**REPLACED, **DECLINED}


def kept(run, calls):
    """Arrays that so many calls leave behind, once the caches are filled."""
    run()
    run()
    gc.collect()
    before = len(jax.live_arrays())
    for _ in range(calls):
        run()
    gc.collect()
    return len(jax.live_arrays()) - before


@pytest.mark.sample(12)
@pytest.mark.parametrize("calls", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("only", [None, ("conv",)], ids=["all", "only conv"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_array_outlives_a_call(name, only, calls):
    manual = with_manual_rules(PROGRAMS[name], only=only)
    x = jnp.linspace(-1.0, 1.0, 64).reshape(2, 4, 4, 2)
    assert kept(lambda: manual(x + 1), calls) == 0
    gradient = jax.grad(lambda x: manual(x).sum())
    assert kept(lambda: gradient(x + 1), calls) == 0
    compiled = jax.jit(gradient)
    assert kept(lambda: compiled(x + 1), calls) == 0


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_tracer_outlives_a_trace(name):
    manual = with_manual_rules(PROGRAMS[name])
    x = jnp.linspace(-1.0, 1.0, 64).reshape(2, 4, 4, 2)
    with jax.checking_leaks():
        jax.make_jaxpr(manual)(x)
        jax.make_jaxpr(jax.grad(lambda x: manual(x).sum()))(x)
        manual(x)
        jax.jit(manual)(x)
        manual.replaced(x)
