"""check_vjp on right rules and their wrong twins, by what may hide the mistake or make the right one look wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vjp_twins import TWINS, rule

from fnconv import check_vjp
from fnconv.testing import assert_vjp

RIGHT = [key for key, twin in TWINS.items() if twin.right is not None]
WRONG = [key for key, twin in TWINS.items() if twin.wrong is not None]
X = jnp.asarray(np.random.default_rng(1).uniform(0.5, 2, (4,)), jnp.float32)


def judged(key, which):
    twin = TWINS[key]
    return check_vjp(getattr(twin, which), *twin.args, **twin.options)


@pytest.fixture(autouse=True)
def _lenient():
    """As users' programs are, in every thread."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.mark.sample(8)
@pytest.mark.parametrize("key", RIGHT, ids="/".join)
def test_a_right_rule_passes(key):
    report = judged(key, "right")
    assert report.ok, str(report)
    assert not any(row.detail.startswith("ended in") for row in report.rows), str(report)


@pytest.mark.sample(12)
@pytest.mark.parametrize("key", WRONG, ids="/".join)
def test_a_wrong_twin_is_found(key):
    assert not judged(key, "wrong").ok


def test_what_did_not_run_is_not_called_passed():
    """A softmax whose cotangents are wrong everywhere."""
    softmax = lambda x: jax.nn.softmax(x)  # noqa: E731
    report = check_vjp(rule(softmax, lambda x: (softmax(x), softmax(x)), lambda y, dy: (y * dy,)), X)
    status = {row.check: row.status for row in report.rows}
    assert status["cotangents, float64"] == "FAILS"
    for check in ("cotangents, own dtype", "adjoint identity", "finite differences", "order 2, reverse over reverse"):
        assert status[check] == "not run"
    assert "integers, bit for bit" in check_vjp(softmax, X).summary().partition("not run")[2]


def test_a_function_without_a_rule_is_called_one():
    report = check_vjp(lambda x: jnp.sin(x), X)
    assert any("no custom rule" in note for note in report.notes)


# ---- domains --------------------------------------------------------------------------------------------------------


def arcsine():
    """Right in -1 to 1, where alone it is meant to be; the function goes on."""
    f = lambda x: jnp.where(abs(x) < 1, x * x, 0 * x)  # noqa: E731
    return rule(f, lambda x: (f(x), x), lambda x, dy: (2 * x * dy,))


@pytest.mark.parametrize("domain", [lambda x: abs(x) < 1, lambda rng: rng.uniform(-1, 1, 4)])
def test_a_domain_is_sampled_inside(domain):
    assert not check_vjp(arcsine(), X / 4).ok
    assert_vjp(arcsine(), X / 4, domain=domain)
    wrong = rule(lambda x: x * x, lambda x: (x * x, x), lambda x, dy: (jnp.where(abs(x) < 0.125, x, 2 * x) * dy,))
    assert not check_vjp(wrong, X / 4, domain=domain).ok


def test_a_sampler_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match="domain must return arguments of the shapes"):
        check_vjp(arcsine(), X / 4, domain=lambda rng: rng.uniform(-1, 1, 3))
    with pytest.raises(ValueError, match="domain must hold the arguments given"):
        check_vjp(arcsine(), X, domain=lambda x: abs(x) < 1)


def test_where_the_function_is_not_defined_the_rule_is_not_accused():
    f = lambda x: jnp.log(x)  # noqa: E731
    report = check_vjp(rule(f, lambda x: (f(x), x), lambda x, dy: (jnp.where(x > 0, dy / x, 0),)), X)
    assert report.ok
    assert any("the function is NaN" in note for note in report.notes)
