"""What `check_vjp` says where a function has a pole, and of a kernel that is rotated once too often."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import fnconv


def weighted_mean(x, w):
    return x @ w / w.sum()


def with_rule(forward, bwd):
    rule = jax.custom_vjp(forward)
    rule.defvjp(lambda *given: (forward(*given), given), bwd)
    return rule


def test_a_right_rule_passes_where_nothing_is_defined():
    """Among the data are weights of zero: 0 / 0, for the rule as for automatic differentiation."""

    def bwd(kept, dy):
        x, w = kept
        y = weighted_mean(x, w)
        return dy[:, None] * w / w.sum(), dy @ (x - y[:, None]) / w.sum()

    report = fnconv.check_vjp(
        with_rule(weighted_mean, bwd), jnp.array([[1.0, 2, 4], [0, -3, 5]]), jnp.array([2.0, 1, 1])
    )
    assert report.ok, str(report)


def test_a_rotated_kernel_is_recognised():
    def correlate(x, w):
        n = x.shape[0] - w.shape[0] + 1
        return sum(x[k : k + n] * w[k] for k in range(w.shape[0]))

    def bwd(kept, dy):
        x, w = kept
        dx, _ = jax.vjp(correlate, x, w[::-1])[1](dy)
        return dx, jax.vjp(correlate, x, w)[1](dy)[1]

    report = fnconv.check_vjp(with_rule(correlate, bwd), jnp.array([1.0, 2, 0, -1, 3]), jnp.array([1.0, -2, 4]))
    assert {f.argument for f in report.failures} == {"x"}
    assert "w reversed along axis 0" in report.failures[0].diagnosis
