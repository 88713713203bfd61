"""Activations, a norm, losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vjp_bugs.catalogue import normal, plan

# ---- activations ----------------------------------------------------------------------------------------------------


def elementwise(name, primal, slope, shape=(3, 7)):
    primal.__name__ = f"_{name}"
    return plan(name, primal, lambda x: (primal(x), x), lambda x, dy: (dy * slope(x),), normal(shape))


def slope_of(slope):
    return lambda x, dy: (dy * slope(x),)


relu = elementwise("relu", lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)), lambda x: (x > 0).astype(x.dtype))
relu.bug("mask of -x", bwd=slope_of(lambda x: (x < 0).astype(x.dtype)))
relu.bug("mask of |x|", bwd=slope_of(lambda x: (abs(x) > 0).astype(x.dtype)))
relu.bug("slope 2 at 0", bwd=slope_of(lambda x: jnp.where(x == 0, 2.0, (x > 0)).astype(x.dtype)))
relu.bug("lost beyond 100", bwd=slope_of(lambda x: ((x > 0) & (x < 100)).astype(x.dtype)))
sigmoid = elementwise("sigmoid", lambda x: lax.logistic(x), lambda x: lax.logistic(x) * lax.logistic(-x))
sigmoid.bug("y (1 + y)", bwd=slope_of(lambda x: lax.logistic(x) * (1 + lax.logistic(x))))
sigmoid.bug("x (1 - x)", bwd=slope_of(lambda x: x * (1 - x)))
tanh = elementwise("tanh", lambda x: jnp.tanh(x), lambda x: 1 - jnp.square(jnp.tanh(x)))
tanh.bug("1 - y", bwd=slope_of(lambda x: 1 - jnp.tanh(x)))
tanh.bug("1 - x^2", bwd=slope_of(lambda x: 1 - x * x))
tanh.bug("scaled by 1.0005", bwd=slope_of(lambda x: (1 - jnp.square(jnp.tanh(x))) * 1.0005))
tanh.bug("slope not below 1e-3", bwd=slope_of(lambda x: jnp.maximum(1 - jnp.square(jnp.tanh(x)), 1e-3)))
softplus = elementwise("softplus", lambda x: jnp.logaddexp(x, jnp.zeros_like(x)), lambda x: lax.logistic(x))
softplus.bug("overflows", bwd=slope_of(lambda x: jnp.exp(x) / (1 + jnp.exp(x))))


def bell(x):
    return jnp.exp(-x * x / 2) * (1 / np.sqrt(2 * np.pi)).item()


def half_erf(x):
    return (1 + lax.erf(x * np.sqrt(0.5).item())) / 2


gelu = elementwise("gelu", lambda x: x * half_erf(x), lambda x: half_erf(x) + x * bell(x))
gelu.bug("second term missing", bwd=slope_of(half_erf))
gelu.bug("1 / sqrt(pi)", bwd=slope_of(lambda x: half_erf(x) + x * bell(x) * np.sqrt(2).item()))


def _norm(x):
    square = jnp.sum(x * x, -1)
    safe = jnp.where(square > 0, square, jnp.ones_like(square))
    return jnp.where(square > 0, jnp.sqrt(safe), jnp.zeros_like(square))


def norm_bwd(x, dy):
    y = _norm(x)
    return (dy[:, None] * x / jnp.where(y > 0, y, jnp.ones_like(y))[:, None],)


norm = plan("norm", _norm, lambda x: (_norm(x), x), norm_bwd, normal((3, 4)))
norm.bug("NaN at zero", bwd=lambda x, dy: (dy[:, None] * x / _norm(x)[:, None],))
norm.bug("divided by the square", bwd=lambda x, dy: (dy[:, None] * x / jnp.maximum(_norm(x), 1e-20)[:, None] ** 2,))

# ---- losses ---------------------------------------------------------------------------------------------------------


def _cross_entropy(logits, labels):
    return -jnp.sum(labels * jax.nn.log_softmax(logits), -1)


def cross_bwd(res, dy):
    logits, labels = res
    p, total = jax.nn.softmax(logits), labels.sum(-1, keepdims=True)
    return (p * total - labels) * dy[:, None], -jax.nn.log_softmax(logits) * dy[:, None]


def cross_with(d_logits):
    return lambda res, dy: (d_logits(*res, dy[:, None]), cross_bwd(res, dy)[1])


def cross_args(rng, dtype, scale):
    return jnp.asarray(rng.standard_normal((4, 5)) * scale, dtype), jnp.asarray(rng.uniform(0, 2, (4, 5)), dtype)


cross_entropy = plan(
    "cross_entropy", _cross_entropy, lambda a, b: (_cross_entropy(a, b), (a, b)), cross_bwd, cross_args
)
cross_entropy.bug("p - y where labels do not add to 1", bwd=cross_with(lambda z, y, dy: (jax.nn.softmax(z) - y) * dy))
cross_entropy.bug("y - p", bwd=cross_with(lambda z, y, dy: (y - jax.nn.softmax(z) * y.sum(-1, keepdims=True)) * dy))
cross_entropy.bug("divided by the batch", bwd=lambda res, dy: tuple(g / 4 for g in cross_bwd(res, dy)))
cross_entropy.bug(
    "softmax over the batch",
    bwd=cross_with(lambda z, y, dy: (jax.nn.softmax(z, 0) * y.sum(-1, keepdims=True) - y) * dy),
)
cross_entropy.bug(
    "softmax without its maximum",
    bwd=cross_with(
        lambda z, y, dy: (jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True) * y.sum(-1, keepdims=True) - y) * dy
    ),
)
cross_entropy.bug("no gradient for labels", bwd=lambda res, dy: (cross_bwd(res, dy)[0], None))
cross_entropy.bug(
    "incoming cotangent ignored", bwd=lambda res, dy: (cross_bwd(res, jnp.ones_like(dy))[0], cross_bwd(res, dy)[1])
)


def _huber(x, t):
    e = x - t
    return jnp.where(abs(e) < 1, e * e / 2, abs(e) - 0.5)


def huber_bwd(res, dy):
    g = jnp.clip(res[0] - res[1], -1, 1) * dy
    return g, -g


huber = plan("huber", _huber, lambda x, t: (_huber(x, t), (x, t)), huber_bwd, normal((3, 6), (3, 6)))
huber.bug(
    "linear part 2",
    bwd=lambda res, dy: tuple(jnp.where(abs(res[0] - res[1]) < 1, g, 2 * g) for g in huber_bwd(res, dy)),
)
huber.bug("no sign for the target", bwd=lambda res, dy: (huber_bwd(res, dy)[0],) * 2)
huber.bug("target's gradient 0", bwd=lambda res, dy: (huber_bwd(res, dy)[0], jnp.zeros_like(dy)))
