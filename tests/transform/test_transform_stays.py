"""What `with_manual_rules` leaves as it was, and what it says about that."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_network import W, X, block, compiled, conv, net, pool, weigh

import fnconv
from fnconv.transform.manual_rules import with_manual_rules

# ---- what stays as it is --------------------------------------------------------------------------------------------


def test_structures_weak_types_and_donation_stay():
    @jax.jit
    def tree(w, x):
        return {"y": (block(w, x), None), "one": [jnp.tanh(1.0), jax.nn.relu(2.0)]}

    for fn in (tree, tree.__wrapped__):
        ours, theirs = with_manual_rules(fn)(W, X), fn(W, X)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        assert [v.weak_type for v in jax.tree.leaves(ours)] == [v.weak_type for v in jax.tree.leaves(theirs)]
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    given = X + 0
    with_manual_rules(jax.jit(lambda x: jax.nn.relu(x), donate_argnums=0))(given)
    assert given.is_deleted()


def test_eager_control_flow_static_arguments_and_closures():
    def loop(w, x, steps, scale=1.0):
        for _ in range(steps):
            x = jax.nn.relu(conv(w, x)) if x.sum() > -1e9 else x
        return scale * x.sum()

    manual = with_manual_rules(loop)
    np.testing.assert_array_equal(jax.grad(manual)(W, X, 2, scale=2.0), jax.grad(loop)(W, X, 2, scale=2.0))
    closed = jax.grad(lambda w: with_manual_rules(lambda: net(w, X))())(W)
    np.testing.assert_array_equal(closed, jax.grad(net)(W, X))


def test_scalars_of_every_kind_pass():
    def fn(z, n):
        key = jax.random.key(n)
        return jnp.real(z), (n + 1).astype(jnp.float32), jax.random.uniform(key), jnp.max(jnp.arange(3)), jnp.bool_(n)

    args = np.complex64(1 + 2j), np.int32(3)
    jax.tree.map(np.testing.assert_array_equal, with_manual_rules(fn)(*args), fn(*args))


def test_effects_happen_once_per_call():
    seen = []

    def fn(x):
        jax.debug.callback(lambda v: seen.append(int(v)), x.sum())
        return jax.nn.relu(x)

    for f in (fn, jax.jit(fn)):
        seen.clear()
        with_manual_rules(f)(X).block_until_ready()
        jax.effects_barrier()
        assert seen == [int(X.sum())]


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event) if "backend_compile" in event else None
)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["values", "jit", "checkpoint"])
def test_equal_calls_compile_nothing(wrap):
    """Neither inside jit, of which the cache holds one program, nor evaluated operation by operation."""
    traces = []

    def counted(w, x):
        traces.append(None)
        return net(w, x)

    step = jax.jit(jax.grad(with_manual_rules(wrap(counted))))
    eager = jax.grad(with_manual_rules(wrap(net)))
    other = W + 1
    for _ in range(2):
        step(W, X)
        eager(W, X)
    COMPILED.clear()
    step(other, X)
    eager(other, X)
    assert not COMPILED
    assert len(traces) == step._cache_size() == 1
    jax.jit(lambda x: x * 1.25 + 17)(X)
    assert COMPILED  # of something new


@jax.custom_jvp
def relu(x):
    """A user's own, with another convention at 0."""
    return jnp.maximum(x, 0.0)


relu.defjvp(lambda p, t: (relu(*p), t[0] * (p[0] >= 0).astype(p[0].dtype)))


@jax.custom_vjp
def tripled(w, x):
    return conv(w, x)


tripled.defvjp(lambda w, x: (conv(w, x), (w, x)), lambda kept, dy: (3 * kept[0], dy))


@jax.custom_jvp
def halved(w, x):
    return conv(w, x)


halved.defjvp(lambda p, t: (conv(*p), (conv(t[0], p[1]) + conv(p[0], t[1])) / 2))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
@pytest.mark.parametrize(("rule", "kind"), [(tripled, "custom_vjp"), (halved, "custom_jvp")])
def test_a_users_rule_stays(rule, kind, wrap):
    fn = wrap(lambda w, x: weigh(pool(relu(rule(w, x)))))
    manual = with_manual_rules(fn)
    report = manual.replaced(W, X)
    assert report.counts == {"max_pool": 1}
    assert [(s.operation, s.reason) for s in report.left] == [
        ("conv", f"inside a jax.{kind} function, whose own rule stays")
    ]
    ours, theirs = compiled(lambda w, x: [jax.grad(f, (0, 1))(w, x) for f in (manual, fn)])(W, X)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
def test_a_while_loop_keeps_its_forward_mode(wrap):
    def loop(w, x):
        return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jax.nn.relu(conv(w, c[1]))), (0, x))[1].sum()

    manual = with_manual_rules(wrap(loop))
    assert manual.replaced(W, X).counts == {"conv": 1, "relu": 1}
    jax.tree.map(np.testing.assert_array_equal, jax.jvp(manual, (W, X), (W, X)), jax.jvp(loop, (W, X), (W, X)))


def generic(x):
    return lax.reduce_window(x, jnp.float32(1), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


DECLINED = {
    "integers": (lambda: conv(W.astype(jnp.int32), X.astype(jnp.int32)), "conv", "int32 carry no derivative"),
    "complex": (lambda: conv(W.astype(jnp.complex64), X.astype(jnp.complex64)), "conv", "complex64"),
    "mixed precisions": (
        lambda: lax.dot(X[0, 0], X[0, 0].T, precision=(lax.Precision.HIGHEST, lax.Precision.DEFAULT)),
        "dense",
        "precisions differ",
    ),
    "initial value": (lambda: generic(X), "reduce_window", "initial value"),
    "leaky ReLU": (lambda: jax.nn.leaky_relu(X, X[0, 0, 0, 0]), "leaky_relu", "slope is not known at trace time"),
    "elu": (lambda: jax.nn.elu(X, X[0, 0, 0, 0]), "elu", "alpha is not known at trace time"),
    "squareplus": (lambda: jax.nn.squareplus(X), "squareplus", "fnconv has no squareplus"),
    "weak type": (lambda: jax.nn.relu(2.0), "relu", "in place of"),
    "accuracy": (lambda: lax.tanh(X, accuracy=lax.AccuracyMode.HIGHEST), "tanh", "accuracy"),
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
@pytest.mark.parametrize("name", DECLINED)
def test_declined(name, wrap):
    fn, operation, reason = DECLINED[name]
    manual = with_manual_rules(wrap(fn))
    report = manual.replaced()
    assert not report.replaced
    assert [s.operation for s in report.left] == [operation]
    assert reason in report.left[0].reason
    ours, theirs = manual(), wrap(fn)()
    assert (ours.dtype, ours.weak_type) == (theirs.dtype, theirs.weak_type)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(not hasattr(jax.config, "jax_remat3"), reason="a flag of some JAX versions")
def test_what_hides_its_body_is_named():
    jax.config.update("jax_remat3", True)
    try:
        report = with_manual_rules(jax.checkpoint(net)).replaced(W, X)
    finally:
        jax.config.update("jax_remat3", False)
    assert [(s.operation, s.primitive) for s in report.left] == [("unknown", "call_hi_primitive")]
    assert "hides what it evaluates" in str(report)


def test_fnconv_in_fnconv():
    """Nothing is left to replace in a function of fnconv's, or in one that has been transformed."""

    def own(w, x):
        y = fnconv.max_pool(fnconv.relu(fnconv.conv(x, w, padding="SAME")), (2, 2))
        return fnconv.sigmoid(fnconv.tanh(y)).sum()

    for fn in (own, jax.jit(own), with_manual_rules(net)):
        assert not len(with_manual_rules(fn).replaced(W, X))
    np.testing.assert_array_equal(jax.grad(with_manual_rules(with_manual_rules(net)))(W, X), jax.grad(net)(W, X))


# ---- rules that come too late ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "late",
    [jax.grad(net), jax.jit(jax.grad(net)), jax.grad(jax.jit(net)), lambda w, x: jax.jvp(net, (w, x), (w, x))[1]],
    ids=["grad", "jit of grad", "grad of jit", "jvp"],
)
def test_differentiating_inside_is_reported(late):
    manual = with_manual_rules(late)
    assert manual.replaced(W, X).late
    assert "with_manual_rules(f))" in str(manual.replaced(W, X))
    with pytest.warns(UserWarning, match="rules come too late"):
        value = manual(W, X)
    np.testing.assert_array_equal(value, late(W, X))


def test_differentiating_outside_is_not():
    def scoped(w, x):
        with jax.named_scope("jvp"):
            return net(w, x)

    for fn in (net, jax.jit(net), scoped, jax.jit(scoped)):
        jax.grad(with_manual_rules(fn))(W, X)  # a warning is an error here
        assert not with_manual_rules(fn).replaced(W, X).late
