"""`with_manual_rules` inside every construct of JAX, around numbers that are integers, so that bits agree."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core
from jax.sharding import PartitionSpec as P
from small_network import ONE, W, X, block, compiled, conv, net, per_example, pool, weigh

import fnconv
from fnconv.judge.engine.programs import residual_bytes
from fnconv.transform.manual_rules import with_manual_rules

AUTODIFF = {"conv_general_dilated", "reduce_window_max", "select_and_scatter_add", "select_and_gather_add"}

# ---- constructs -----------------------------------------------------------------------------------------------------


def named_scope(w, x):
    with jax.named_scope("block"):
        return net(w, x)


def saved_by_name(w, x):
    return weigh(pool(jax.nn.relu(checkpoint_name(conv(w, x), "y"))))


def scan(w, x):
    def step(carry, _):
        y = jax.nn.relu(conv(w, carry)) * 0.25
        return y, pool(y)

    return weigh(lax.scan(step, x, None, length=2)[1])


def counted_loop(w, x):
    return weigh(pool(lax.fori_loop(0, 2, lambda i, c: jax.nn.relu(conv(w, c)), x)))


def mapped(w, x):
    return lax.map(lambda one: per_example(w, one), x).sum()


def cond(w, x):
    return weigh(lax.cond(x.sum() > -1e6, block, lambda w, x: pool(x), w, x))


def switch(w, x):
    branches = [lambda w, x: pool(x), block, lambda w, x: pool(conv(w, x))]
    return weigh(lax.switch((x.sum() > -1e6).astype(jnp.int32), branches, w, x))


def vmap_examples(w, x):
    return jax.vmap(per_example, (None, 0))(w, x).sum()


def vmap_kernels(w, x):
    return jax.vmap(net, (0, None))(jnp.stack([w, w + 1]), x).sum()


def vmap_both(w, x):
    return jax.vmap(per_example)(jnp.stack([w, w + 1]), x).sum()


def vmap_of_scan(w, x):
    return jax.vmap(lambda one: scan(w, one[None]))(x).sum()


def collective(w, x):
    return jax.vmap(lambda one: lax.psum(per_example(w, one), "i"), axis_name="i")(x).sum()


def callbacks(w, x):
    jax.debug.callback(lambda v: None, x.sum())
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return net(w, x) + jax.pure_callback(lambda v: v, shape, lax.stop_gradient(x.sum()))


def mutable(w, x):
    ref = jax.new_ref(x)
    ref[...] = jax.nn.relu(conv(w, ref[...]))
    return weigh(pool(ref[...]))


def typed_key(w, x):
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
    return net(w, x * kept.astype(x.dtype))


def shard_map(w, x):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def shard(w, x):
        return lax.psum(scan(w, x), "d")

    return jax.shard_map(shard, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())(w, x)


def large_window(w, x):
    return weigh(lax.reduce_window(jax.nn.relu(conv(w, x)), -np.inf, lax.max, (1, 9, 9, 1), (1, 2, 2, 1), "SAME"))


GATED = {**ONE, "gate": 1}  # by weights that are alike for all that is mapped over

CONSTRUCTS = {
    "plain": (net, ONE),
    "jit": (jax.jit(net), ONE),
    "jit in jit": (jax.jit(lambda w, x: 2.0 * jax.jit(net)(w, x)), ONE),
    "named scope": (named_scope, ONE),
    "checkpoint": (jax.checkpoint(net), ONE),
    "checkpoint, policy": (jax.checkpoint(net, policy=jax.checkpoint_policies.dots_saveable), ONE),
    "checkpoint, names": (
        jax.checkpoint(saved_by_name, policy=jax.checkpoint_policies.save_only_these_names("y")),
        ONE,
    ),
    "scan": (scan, ONE),
    "fori_loop": (counted_loop, ONE),
    "map": (mapped, ONE),
    "cond": (cond, {"conv": 1, "relu": 1, "max_pool": 2}),
    "switch": (switch, {"conv": 2, "relu": 1, "max_pool": 3}),
    "vmap over examples": (vmap_examples, GATED),
    "vmap over kernels": (vmap_kernels, GATED),
    "vmap over both": (vmap_both, ONE),
    "vmap of jit": (lambda w, x: jax.vmap(jax.jit(per_example), (None, 0))(w, x).sum(), ONE),
    "vmap of scan": (vmap_of_scan, ONE),
    "collective": (collective, ONE),
    "callbacks": (callbacks, ONE),
    "ref": (mutable, ONE),
    "ref in jit": (jax.jit(mutable), ONE),
    "typed key": (typed_key, ONE),
    "shard_map": (shard_map, ONE),
    "shard_map in jit": (jax.jit(shard_map), ONE),
    "large window": (jax.jit(large_window), ONE),
}


def primitives(jaxpr):
    """Names of the primitives that are evaluated, fnconv's own maps taken as one each."""
    names = set()
    for e in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        names.add(e.primitive.name)
        if e.primitive.name != "fnconv_linear":
            names |= set().union(*map(primitives, core.jaxprs_in_params(e.params)))
    return names


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", CONSTRUCTS)
def test_inside(name):
    """Value and gradients agree to the bit, by rules that are none of autodiff's, each operation replaced once."""
    fn, counts = CONSTRUCTS[name]
    manual = with_manual_rules(fn)
    report = manual.replaced(W, X)
    assert report.counts == counts
    assert not report.left
    assert not report.late
    assert all("test_transform.py:" in s.source or "small_network.py:" in s.source for s in report)

    both = compiled(lambda w, x: [jax.value_and_grad(f, (0, 1))(w, x) for f in (manual, fn)])
    ours, autodiff = both(W, X)
    jax.tree.map(np.testing.assert_array_equal, ours, autodiff)
    assert np.any(ours[1][0])
    left = primitives(jax.make_jaxpr(jax.grad(manual, (0, 1)))(W, X)) & AUTODIFF
    assert not left
    assert primitives(jax.make_jaxpr(jax.grad(fn, (0, 1)))(W, X)) & AUTODIFF


@pytest.mark.parametrize("inner", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
def test_vmap_outside(inner):
    manual = with_manual_rules(inner(per_example))

    @compiled
    def gradients(w, x):
        each = [jax.vmap(jax.grad(f), (None, 0))(w, x) for f in (manual, per_example)]
        return *each, jax.grad(lambda w: jax.vmap(manual, (None, 0))(w, x).sum())(w)

    ours, autodiff, summed = gradients(W, X)
    np.testing.assert_array_equal(ours, autodiff)
    np.testing.assert_array_equal(summed, ours.sum(0))


def quartic(w):
    return (conv(w, block(w, X)) ** 2).sum() / 2


@cache
def hessian_by_autodiff():
    return compiled(jax.hessian(quartic))(W)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["values", "checkpoint"])
def test_second_derivatives(wrap):
    """hessian, forward over reverse, and reverse over reverse."""
    manual = with_manual_rules(wrap(quartic))
    both = compiled(lambda w: (jax.hessian(manual)(w), jax.jacrev(jax.grad(manual))(w)))(W)
    for ours in both:
        np.testing.assert_array_equal(ours, hessian_by_autodiff())


def test_jvp_is_that_of_fnconv():
    tangent = (jnp.ones_like(W), jnp.ones_like(X))
    manual = with_manual_rules(net)
    ours, theirs = compiled(lambda *p: (fnconv.jvp(manual, p, tangent), jax.jvp(net, p, tangent)))(W, X)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(with_manual_rules(net), (W, X), tangent)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64])
def test_other_dtypes(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        w, x = W.astype(dtype), X[:1].astype(dtype)
        ours, autodiff = (compiled(jax.grad(f))(w, x) for f in (with_manual_rules(net), net))
        assert ours.dtype == autodiff.dtype == dtype
        np.testing.assert_array_equal(ours, autodiff)


def test_explicit_sharding_stays_or_the_reason_is_given():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))

    def loss(w, x):
        return weigh(block(w, x).reshape(2, 18) @ jnp.ones((18, 3))).sum()

    with jax.set_mesh(mesh):
        w, x = jax.reshard(W, P()), jax.reshard(X, P("d"))
        report = with_manual_rules(loss).replaced(w, x)
        assert report.counts == ONE
        assert [s.operation for s in report.left] == ["dense"]
        assert "explicit mesh axes" in report.left[0].reason
        ours, autodiff = (compiled(jax.grad(f, (0, 1)))(w, x) for f in (with_manual_rules(loss), loss))
    jax.tree.map(np.testing.assert_array_equal, ours, autodiff)
    assert [v.sharding for v in ours] == [v.sharding for v in autodiff]


TWO_DEVICES = """
import jax, numpy as np, small_network as t
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from fnconv.judge.engine.programs import residual_bytes
from fnconv.transform.manual_rules import with_manual_rules
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
w, x = jax.device_put(t.W, NamedSharding(mesh, P())), jax.device_put(t.X, NamedSharding(mesh, P("d")))

def shard(w, x):
    return jax.lax.psum(t.net(w, x), "d")

shards = jax.shard_map(shard, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
for fn in (shards, jax.jit(shards), t.net):
    ours = jax.jit(jax.grad(with_manual_rules(fn), (0, 1)))
    jax.tree.map(np.testing.assert_array_equal, ours(w, x), jax.grad(fn, (0, 1))(w, x))
program = ours.lower(w, x).compile().as_text()
assert program.count("all-reduce(") == 1, program
assert not any(c in program for c in ("all-gather(", "all-to-all(", "collective-permute(")), program
assert ours(w, x)[1].sharding.spec == P("d")
"""


def test_two_devices():
    """shard_map sums over devices; a batch-sharded gradient costs one all-reduce, for the weights."""
    here = Path(__file__).parent
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    path = os.pathsep.join([str(here), str(here.parent / "support"), str(Path(fnconv.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env={**os.environ, **flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def named(name):
    return lambda primitive, *_, **__: primitive.name == name


POLICIES = {
    "dots": (jax.checkpoint_policies.dots_saveable, True, True),
    "dots without batches": (jax.checkpoint_policies.dots_with_no_batch_dims_saveable, False, True),
    "conv by name": (named("conv_general_dilated"), True, False),
    "nothing": (jax.checkpoint_policies.nothing_saveable, False, False),
}


@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "mapped"])
@pytest.mark.parametrize("name", POLICIES)
def test_checkpoint_policies_find_products_by_their_jax_names(name, mapped):
    """The backward pass holds what it would hold of JAX's own."""
    policy, conv_is_kept, dot_is_kept = POLICIES[name]

    def fn(w, x, v):
        y = conv(w, jax.nn.relu(conv(w, x))).reshape(2, 72)
        return jnp.tanh(jax.vmap(jnp.dot)(y, jnp.stack([v, v])) if mapped else y @ v).sum()

    operands = (W, X, jnp.ones((72, 3)))
    kept = [
        residual_bytes(lambda moving, _, f=f: [f(*moving)], operands, [])
        for f in (jax.checkpoint(fn, policy=policy), with_manual_rules(jax.checkpoint(fn, policy=policy)))
    ]
    dots = dot_is_kept and not (mapped and "without" in name)
    assert kept == [4 * (2 * 144 * conv_is_kept + 6 * dots)] * 2
