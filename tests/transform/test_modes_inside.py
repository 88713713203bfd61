"""Forward mode of functions and models as they are: `both_modes` and `with_manual_rules` in JAX's constructs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from extras import needs
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from operations import NETWORK_ARGS, network
from plain import assert_same
from small_network import W, X, block, conv, net, weigh
from test_transform import AUTODIFF, CONSTRUCTS, primitives

import fnconv
from fnconv.judge.engine.programs import residual_bytes
from fnconv.transform.manual_rules import with_manual_rules

REFUSED = r"can't apply forward-mode autodiff \(jvp\) to a custom_vjp function"
in_both = partial(with_manual_rules, modes="both")
T = jnp.roll(W, 1) - 1, jnp.roll(X, 1, axis=2)


def forwards(fn):
    """Value and tangent, the linearised function and its transpose, and the gradient of the tangent."""

    def run(w, x):
        pushforward = jax.linearize(fn, w, x)[1]
        return (
            jax.jvp(fn, (w, x), T),
            pushforward(*T),
            jax.linear_transpose(pushforward, w, x)(jnp.ones(())),
            jax.grad(lambda w, x: jax.jvp(lambda w, x: fn(w, x) ** 2 / 2, (w, x), T)[1])(w, x),
        )

    return run


DEFAULT = ("plain", "checkpoint, policy", "scan", "cond", "vmap over kernels", "ref", "shard_map")
SLOW = [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in CONSTRUCTS]


@pytest.mark.parametrize("name", SLOW)
def test_inside(name):
    """Tangents agree to the bit, by none of autodiff's rules, each operation replaced once."""
    fn, counts = CONSTRUCTS[name]
    manual = in_both(fn)
    assert manual.replaced(W, X).counts == counts
    ours, autodiff = compiled(lambda w, x: (forwards(manual)(w, x), forwards(fn)(w, x)))(W, X)
    assert_same(ours, autodiff, exact=True)
    assert ours[0][1]
    assert not primitives(jax.make_jaxpr(forwards(manual))(W, X)) & AUTODIFF
    assert primitives(jax.make_jaxpr(forwards(fn))(W, X)) & AUTODIFF


# ---- where it holds -------------------------------------------------------------------------------------------------

ORDERS = {
    "modes": in_both,
    "outside": lambda f: fnconv.both_modes(with_manual_rules(f)),
    "inside": lambda f: with_manual_rules(fnconv.both_modes(f)),
    "fused": partial(in_both, fuse=True),
    "fused, outside": lambda f: fnconv.both_modes(with_manual_rules(f, fuse=True)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
def test_every_order_of_the_transformations(order, wrap):
    manual = ORDERS[order](wrap(net))
    assert_same(jax.jvp(manual, (W, X), T), jax.jvp(net, (W, X), T), exact=True)
    assert not primitives(jax.make_jaxpr(lambda w, x: jax.jvp(manual, (w, x), T))(W, X)) & AUTODIFF


@pytest.mark.parametrize("through", [lambda f: f, with_manual_rules], ids=["fnconv", "with_manual_rules"])
def test_functions_traced_before_are_traced_again_and_nothing_leaks(through):
    """Under `both_modes`, after and before it, of one jitted function with one cache."""

    def loss(w, x):
        y = fnconv.relu(fnconv.conv(x, w)) if through is not with_manual_rules else jax.nn.relu(conv(w, x))
        return weigh(y)

    jitted = jax.jit(loss)
    plain = through(jitted)
    both = fnconv.both_modes(plain)
    value = plain(W, X)
    for _ in range(2):
        with pytest.raises(TypeError, match=REFUSED):
            jax.jvp(plain, (W, X), T)
        assert_same(jax.jvp(both, (W, X), T)[0], value, exact=True)
        assert_same(jax.grad(plain)(W, X), jax.grad(both)(W, X), exact=True)


INSIDE = {
    "itself": (lambda g: g, True),
    "around jit": (lambda g: fnconv.both_modes(jax.jit(g)), True),
    "jit": (jax.jit, False),
    "checkpoint": (jax.checkpoint, False),
    "scan": (lambda g: lambda x: lax.scan(lambda x, _: (g(x), None), x, None, length=2)[0], False),
}


@pytest.mark.parametrize("where", INSIDE)
def test_both_modes_inside_a_body_reaches_fnconvs_own_operations_alone(where):
    around, replaced = INSIDE[where]
    for g, both in ((fnconv.relu, True), (jax.nn.relu, replaced)):
        manual = with_manual_rules(around(fnconv.both_modes(lambda x, g=g: g(x))))
        assert manual(X).shape == X.shape
        if both:
            assert_same(jax.jvp(manual, (X,), (X,)), jax.jvp(jax.nn.relu, (X,), (X,)), exact=True)
        else:
            with pytest.raises(TypeError, match=REFUSED):
                jax.jvp(manual, (X,), (X,))
        everywhere = in_both(around(fnconv.both_modes(lambda x, g=g: g(x))))
        assert_same(jax.jvp(everywhere, (X,), (X,)), jax.jvp(jax.nn.relu, (X,), (X,)), exact=True)


def test_derivatives_taken_after_tracing():
    """A jaxpr made under `both_modes` is differentiated outside of it."""
    traced = jax.make_jaxpr(fnconv.both_modes(lambda x: fnconv.max_pool(fnconv.tanh(x), 2)))(X)
    evaluate = jax.extend.core.jaxpr_as_fun(traced)
    ours = jax.jvp(lambda x: jax.jvp(lambda x: evaluate(x)[0], (x,), (x,))[1], (X,), (X,))
    theirs = jax.jvp(lambda x: fnconv.jvp(lambda x: evaluate(x)[0], (x,), (x,))[1], (X,), (X,))
    assert_same(ours, theirs, exact=False)


def test_a_users_rule_stays_reverse():
    @jax.custom_vjp
    def tripled(x):
        return x

    tripled.defvjp(lambda x: (x, None), lambda _, dy: (3 * dy,))
    with pytest.raises(TypeError, match=REFUSED):
        jax.jvp(fnconv.both_modes(tripled), (1.0,), (1.0,))
    assert jax.grad(fnconv.both_modes(tripled))(1.0) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fnconv.both_modes(3), "both_modes: fn must be a function"),
        (lambda: with_manual_rules(net, modes="forward"), "with_manual_rules: modes must be one of reverse, both"),
    ],
)
def test_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


# ---- solvers, programs, meshes --------------------------------------------------------------------------------------


@fnconv.both_modes
def contraction(w, x, y):
    """A step towards y = x + tanh(w * y) / 4."""
    return x + fnconv.tanh(fnconv.conv(y, w / 16, padding="SAME")) / 4


def test_implicit_derivatives():
    """`custom_root` and `custom_linear_solve` ask for tangents and transposes of what they solve."""

    def iterate(f, y, steps=40):
        return lax.fori_loop(0, steps, lambda _, y: y - f(y), y)

    def neumann(g, b):
        return lax.custom_linear_solve(g, b, iterate_linear, transpose_solve=iterate_linear)

    def iterate_linear(g, b):
        return lax.fori_loop(0, 40, lambda _, v: v + b - g(v), b)

    def fixed_point(w, x):
        return lax.custom_root(lambda y: y - contraction(w, x, y), x, iterate, neumann)

    def unrolled(w, x):
        return lax.scan(lambda y, _: (contraction(w, x, y), None), x, None, length=40)[0]

    def derivatives(f):
        return jax.jvp(f, (w, x), (t, x)), jax.vjp(f, w, x)[1](x), jax.jacfwd(lambda w: f(w, x).sum())(w)

    with jax.enable_x64(True):
        w, t, x = (a.astype(jnp.float64) for a in (W, T[0], X[:1, :4, :4]))
        assert_same(compiled(derivatives, static_argnums=0)(fixed_point), derivatives_of(unrolled, derivatives), False)


def derivatives_of(f, derivatives):
    return compiled(derivatives, static_argnums=0)(f)


def test_exported_tangents():
    args = tuple(map(jnp.asarray, NETWORK_ARGS))
    product = jax.jit(lambda *args: jax.jvp(fnconv.both_modes(network), args, args))
    exported = jax.export.export(product, platforms=("cpu", "cuda", "tpu"))(*args)
    assert_same(exported.call(*args), product(*args), exact=False)


def test_explicit_axes_of_a_mesh():
    """Tangents lie as values do."""
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Explicit,))

    def loss(w, x, f):
        return f(fnconv.max_pool(fnconv.relu(fnconv.conv(x, w, padding=1)), 2))

    with jax.set_mesh(mesh):
        w, x = jax.reshard(W, P()), jax.reshard(X, P("d"))
        (y, dy) = jax.jit(lambda w, x: jax.jvp(fnconv.both_modes(partial(loss, f=lambda y: y)), (w, x), (w, x)))(w, x)
        assert y.sharding == dy.sharding
        assert jax.typeof(dy).sharding.spec[0] == "d"
        both = fnconv.both_modes(partial(loss, f=lambda y: (y**2).sum()))
        products = [
            jax.jit(lambda w, x, f=f: f(w, x))(w, x)
            for f in (
                lambda w, x: jax.jvp(jax.grad(both, (0, 1)), (w, x), (w, x))[1],
                jax.grad(lambda w, x: jax.jvp(both, (w, x), (w, x))[1], (0, 1)),
            )
        ]
    want = jax.jvp(jax.grad(lambda w, x: (block(w, x) ** 2).sum(), (0, 1)), (W, X), (W, X))[1]
    gradient = jax.grad(lambda w, x: (block(w, x) ** 2).sum(), (0, 1))(W, X)
    assert_same(jax.device_get(products[0]), jax.device_get(want), exact=True)
    both_terms = jax.tree.map(jnp.add, want, gradient)  # the tangent moves with the primal
    assert_same(jax.device_get(products[1]), jax.device_get(both_terms), exact=True)


TWO_DEVICES = """
import jax, numpy as np, fnconv
from jax.sharding import AxisType, PartitionSpec as P
from small_network import W, X, net

def layers(w, x):
    return fnconv.max_pool(fnconv.relu(fnconv.conv(x, w, padding=1)), 2)

both = fnconv.both_modes(layers)
want = jax.jvp(both, (W, X), (W, X))
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
with jax.set_mesh(mesh):
    w, x = jax.reshard(W, P()), jax.reshard(X, P("d"))
    got = jax.jit(lambda w, x: jax.jvp(both, (w, x), (w, x)))(w, x)
assert got[1].sharding == got[0].sharding and got[1].sharding.spec[0] == "d", got[1].sharding
jax.tree.map(np.testing.assert_array_equal, got, want)

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
def tangent(fn):
    inside = lambda w, x: jax.lax.psum(fn(w, x), "d")
    inside = jax.shard_map(inside, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
    return jax.jit(lambda w, x: jax.jvp(inside, (w, x), (w, x)))(W, X)
jax.tree.map(np.testing.assert_array_equal, tangent(fnconv.with_manual_rules(net, modes="both")), tangent(net))
"""


def test_two_devices():
    """Tangents lie as values do on explicit axes, and add up over the shards of `shard_map`."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), str(Path(fnconv.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env={**os.environ, **flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


# ---- models ---------------------------------------------------------------------------------------------------------


def gauss_newton(fn, params, tangent):
    """J^T H J v of the softmax cross-entropy, H its Hessian in the logits, and the logits' tangent J v."""
    logits, dz = jax.jvp(fn, (params,), (tangent,))
    p = jax.nn.softmax(logits)
    dp = p * (dz - (p * dz).sum(-1, keepdims=True))
    return dz, jax.vjp(fn, params)[1](dp)[0]


def laplacian(fn, x):
    """The sum of second derivatives along the first axes of x: one forward over forward for each."""

    def second(e):
        return jax.jvp(lambda x: jax.jvp(fn, (x,), (e,))[1], (x,), (e,))[1]

    return jax.vmap(second)(jnp.eye(4, x.size, dtype=x.dtype).reshape(4, *x.shape)).sum(0)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("library", "architecture"), [("equinox", "lenet"), ("linen", "resnet18")])
def test_models_as_they_are(library, architecture):
    """Gauss-Newton products in the weights and a Laplacian in the input, unchanged models, as autodiff's.

    Reverse mode keeps no more than without forward mode, nor than autodiff.
    """
    needs("oracles", "equinox", "flax", "haiku")
    import zoo

    architecture = getattr(zoo, architecture)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x = jnp.asarray(rng.standard_normal(zoo.SHAPES[architecture]))
        model = zoo.LIBRARIES[library](architecture, jnp.zeros_like(x))

        def random(like):
            return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape) / max(1, p.size) ** 0.5), like)

        params, tangent = random(model.params), random(model.params)

        def products(apply, params, tangent, x):
            def logits(params, x):
                return apply(params, x)[0]

            def smooth(x):
                return jnp.tanh(logits(params, x)).sum()

            return gauss_newton(lambda p: logits(p, x), params, tangent), laplacian(smooth, x)

        ours = compiled(partial(products, in_both(model.apply)))(params, tangent, x)
        autodiff = compiled(partial(products, model.apply))(params, tangent, x)
        assert all(float(jnp.abs(v).max()) > 0 for v in jax.tree.leaves(ours[0][0]))
        assert abs(ours[1]) > 0
        assert_same(ours, autodiff, exact=False)

        def kept(apply):
            return residual_bytes(lambda params: apply(params, x)[0], params)

        assert kept(in_both(model.apply)) <= min(kept(with_manual_rules(model.apply)), kept(model.apply))
