"""check_rules: every custom rule in a program is found, with what it is called with."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest
from vjp_bugs import rule

from fnconv import check_rules
from fnconv.testing import assert_rules

W, X = jnp.arange(6.0).reshape(3, 2) / 5, jnp.arange(12.0).reshape(4, 3) / 7 - 0.5


def sine(x):
    return jnp.sin(x)


def product(x, w):
    return x @ w


def squared_sum(x):
    return x.sum() ** 2


right = rule(sine, lambda x: (jnp.sin(x), x), lambda x, dy: (jnp.cos(x) * dy,))
wrong = rule(product, lambda x, w: (x @ w, (x, w)), lambda kept, dy: (dy @ kept[1].T, 1.1 * kept[0].T @ dy))
in_batch = rule(squared_sum, lambda x: (x.sum() ** 2, x), lambda x, dy: (2 * x.sum() * dy * jnp.ones_like(x),))
tangent = jax.custom_jvp(lambda x: x * x)
tangent.defjvps(lambda t, y, x: 2 * x * t)


def loss(w, x):
    h = jax.vmap(lambda v: v * in_batch(v))(wrong(x, w))
    total = jax.lax.scan(lambda c, v: (c + tangent(v).sum(), None), 0.0, h)[0]
    return total + jax.checkpoint(lambda v: right(v).sum())(x)


@jax.jit
def step(w, x):
    return w - 0.1 * jax.grad(loss)(w, x)


def test_every_rule_of_a_training_step_is_found_and_judged():
    step(W, X)  # traced before
    report = check_rules(step, W, X)
    found = {row.rule: row for row in report.rows}
    assert {name: row.verdict for name, row in found.items()} == {
        "product": "FAILS",
        "squared_sum": "passes",
        "<lambda>": "passes",
        "sine": "passes",
    }
    assert found["squared_sum"].arguments == "float32[2]"  # one of the batch
    assert all(row.source.startswith(("catalogue.py:", "test_check_rules.py:")) for row in report.rows)
    assert "every entry is 1.1 times the right one" in str(report)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["ok"] is False


def test_a_shard_is_a_call():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    assert_rules(jax.jit(jax.shard_map(right, mesh=mesh, in_specs=spec, out_specs=spec)), X)


def test_nothing_judged_is_no_pass():
    report = check_rules(jnp.sin, X)
    assert not report.ok
    assert "nothing was judged" in report.summary()
    with pytest.raises(AssertionError, match="nothing was judged"):
        assert_rules(jnp.sin, X)
    with pytest.raises(TypeError, match="check_rules: fn must be a function; got int"):
        check_rules(3, X)


def test_jax_is_as_it_was():
    before = jax.custom_vjp.__call__, jax.custom_jvp.__call__
    check_rules(right, X)
    assert (jax.custom_vjp.__call__, jax.custom_jvp.__call__) == before
