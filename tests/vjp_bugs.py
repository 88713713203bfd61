"""Custom rules with one bug each, beside the right one: what `check_vjp` must find, and what it must leave alone."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Arrays = tuple[Any, ...]
HIGHEST = lax.Precision.HIGHEST


def rule(primal: Callable, fwd: Callable, bwd: Callable) -> Callable:
    """A custom_vjp of its own for every call."""

    @functools.wraps(primal)
    def function(*args: Any) -> Any:
        return primal(*args)

    function.__name__ = primal.__name__.lstrip("_")
    with_rule = jax.custom_vjp(function)
    with_rule.defvjp(fwd, bwd)
    return with_rule


@dataclass
class Operation:
    """A function with its right rule; bugs are other forwards or backwards by name."""

    primal: Callable
    fwd: Callable
    bwd: Callable
    args: Callable[[np.random.Generator, Any, float], Arrays]  # rng, dtype, scale
    bugs: dict[str, tuple[Callable, Callable]] = field(default_factory=dict)

    def right(self) -> Callable:
        return rule(self.primal, self.fwd, self.bwd)

    def wrong(self, name: str) -> Callable:
        return rule(self.primal, *self.bugs[name])

    def bug(self, name: str, *, fwd: Callable | None = None, bwd: Callable | None = None) -> None:
        self.bugs[name] = (fwd or self.fwd, bwd or self.bwd)


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator, Any, float], Arrays]:
    return lambda rng, dtype, scale: tuple(jnp.asarray(rng.standard_normal(s) * scale, dtype) for s in shapes)


OPERATIONS: dict[str, Operation] = {}


def plan(name: str, *args: Any) -> Operation:
    OPERATIONS[name] = Operation(*args)
    return OPERATIONS[name]


# ---- conv: 2-D, stride 2, padding (1, 0) ----------------------------------------------------------------------------

DIMS = ("NHWC", "HWIO", "NHWC")
PADS = ((1, 0), (1, 0))


def correlate(x, w, strides=(1, 1), padding=((0, 0), (0, 0)), lhs_dilation=(1, 1), rhs_dilation=(1, 1)):
    return lax.conv_general_dilated(x, w, strides, padding, lhs_dilation, rhs_dilation, DIMS, precision=HIGHEST)


def _conv(x, w, b):
    return correlate(x, w, (2, 2), PADS) + b


def conv_fwd(x, w, b):
    return _conv(x, w, b), (x, w)


def conv_dx(x, w, dy, *, turn=True, low=(1, 1), swap=True):
    """6x6 inputs, 3x3 kernels: outputs 3x3, the zero-inserted cotangent 5x5, one cell less reached."""
    kernel = w[::-1, ::-1] if turn else w
    kernel = jnp.swapaxes(kernel, 2, 3) if swap else kernel
    high = tuple(6 + 2 - 5 - p for p in low)
    return correlate(dy, kernel, padding=tuple(zip(low, high, strict=True)), lhs_dilation=(2, 2))


def conv_dw(x, dy, *, pads=PADS):
    patches = correlate(
        jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(dy, (1, 2, 0, 3)), padding=pads, rhs_dilation=(2, 2)
    )
    return jnp.transpose(patches, (1, 2, 0, 3))


def conv_bwd(res, dy):
    x, w = res
    return conv_dx(x, w, dy), conv_dw(x, dy), dy.sum((0, 1, 2))


def conv_args(rng, dtype, scale):
    return normal((2, 6, 6, 3), (3, 3, 3, 3), (3,))(rng, dtype, scale)


def conv_with(dx=None, dw=None, db=None):
    def bwd(res, dy):
        right = conv_bwd(res, dy)
        changes = [right[0] if dx is None else dx(*res, dy), right[1] if dw is None else dw(*res, dy)]
        return (*changes, right[2] if db is None else db(*res, dy))

    return bwd


conv = plan("conv", _conv, conv_fwd, conv_bwd, conv_args)
conv.bug("rot180 missing", bwd=conv_with(dx=lambda x, w, dy: conv_dx(x, w, dy, turn=False)))
conv.bug("channels not exchanged", bwd=conv_with(dx=lambda x, w, dy: conv_dx(x, w, dy, swap=False)))
conv.bug("padding one off in dx", bwd=conv_with(dx=lambda x, w, dy: conv_dx(x, w, dy, low=(2, 1))))
conv.bug("padding swapped in dw", bwd=conv_with(dw=lambda x, w, dy: conv_dw(x, dy, pads=((0, 1), (1, 0)))))
conv.bug("dw flipped", bwd=conv_with(dw=lambda x, w, dy: conv_dw(x, dy)[::-1, ::-1]))
conv.bug("dw of the last image alone", bwd=conv_with(dw=lambda x, w, dy: conv_dw(x[-1:], dy[-1:])))
conv.bug("dw a mean over the batch", bwd=conv_with(dw=lambda x, w, dy: conv_dw(x, dy) / x.shape[0]))
conv.bug("db a mean", bwd=conv_with(db=lambda x, w, dy: dy.mean((0, 1, 2))))
conv.bug(
    "one kernel element scaled by 1.0005",
    bwd=conv_with(dx=lambda x, w, dy: conv_dx(x, w.at[1, 2, 0, 1].multiply(1.0005), dy)),
)
conv.bug("last column of dx dropped", bwd=conv_with(dx=lambda x, w, dy: conv_dx(x, w, dy).at[:, :, -1].set(0)))
conv.bug("batch leak", bwd=conv_with(dx=lambda x, w, dy: conv_dx(x, w, dy + dy[::-1] * jnp.asarray(2**-8, dy.dtype))))
conv.bug("dw None", bwd=lambda res, dy: (conv_dx(*res, dy), None, dy.sum((0, 1, 2))))
conv.bug("kernel stopped", bwd=conv_with(dx=lambda x, w, dy: conv_dx(x, lax.stop_gradient(w), dy)))
conv.bug(
    "half precision inside",
    bwd=conv_with(dw=lambda x, w, dy: conv_dw(x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)).astype(w.dtype)),
)

# ---- max pooling, 2x2 windows with stride 2, and average pooling with overlap ---------------------------------------


def cells(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)


def uncells(v, shape):
    n, h, w, c = shape
    return v.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(shape)


def _max_pool(x):
    return cells(x).max(-1)


def max_fwd(x):
    v = cells(x)
    return v.max(-1), (v.argmax(-1), x)


def max_bwd(res, dy):
    winner, x = res
    hot = jax.nn.one_hot(winner, 4, dtype=dy.dtype)
    return (uncells(hot * dy[..., None], x.shape),)


def max_share(change):
    def bwd(res, dy):
        v, x = cells(res[1]), res[1]
        return (uncells(change(v, dy[..., None], res[0]), x.shape),)

    return bwd


max_pool = plan("max_pool", _max_pool, max_fwd, max_bwd, normal((2, 4, 4, 2)))
max_pool.bug(
    "every tie takes the whole",
    bwd=max_share(lambda v, dy, _: jnp.where(v == v.max(-1, keepdims=True), dy, jnp.zeros_like(dy))),
)
max_pool.bug("shared by all cells", bwd=max_share(lambda v, dy, _: jnp.broadcast_to(dy / 4, v.shape)))
max_pool.bug("to the minimum", bwd=max_share(lambda v, dy, _: jax.nn.one_hot(v.argmin(-1), 4, dtype=dy.dtype) * dy))
max_pool.bug(
    "window transposed", bwd=max_share(lambda v, dy, k: jax.nn.one_hot(k // 2 + 2 * (k % 2), 4, dtype=dy.dtype) * dy)
)
max_pool.bug("last image forgotten", bwd=lambda res, dy: (max_bwd(res, dy)[0].at[-1].set(0),))
max_pool.bug("dy of the neighbour", bwd=lambda res, dy: max_bwd(res, jnp.roll(dy, 1, 2)))
max_pool.bug("padding wins at 0", fwd=lambda x: (jnp.maximum(cells(x).max(-1), 0), max_fwd(x)[1]))
max_pool.bug(
    "dy lost where the winner is negative",
    bwd=max_share(lambda v, dy, k: jax.nn.one_hot(k, 4, dtype=dy.dtype) * dy * (v.max(-1, keepdims=True) > 0)),
)

WINDOW = 3


def _avg_pool(x):
    return sum(x[:, i : i + 4] for i in range(WINDOW)) / WINDOW


def avg_fwd(x):
    return _avg_pool(x), None


def avg_bwd(_, dy):
    return (sum(jnp.pad(dy, ((0, 0), (i, WINDOW - 1 - i))) for i in range(WINDOW)) / WINDOW,)


avg_pool = plan("avg_pool", _avg_pool, avg_fwd, avg_bwd, normal((3, 6)))
avg_pool.bug("not divided", bwd=lambda _, dy: (avg_bwd(_, dy)[0] * WINDOW,))
avg_pool.bug("divided twice", bwd=lambda _, dy: (avg_bwd(_, dy)[0] / WINDOW,))
avg_pool.bug("shifted by one", bwd=lambda _, dy: (jnp.roll(avg_bwd(_, dy)[0], 1, 1),))
avg_pool.bug(
    "overwrites instead of adding",
    bwd=lambda _, dy: (jnp.pad(dy / WINDOW, ((0, 0), (0, 2))).at[:, 4:].set(dy[:, -1:] / WINDOW),),
)
avg_pool.bug(
    "edges divided by their count",
    bwd=lambda _, dy: (avg_bwd(_, dy)[0] * jnp.asarray([3, 1.5, 1, 1, 1.5, 3], dy.dtype),),
)
avg_pool.bug("flipped", bwd=lambda _, dy: (avg_bwd(_, dy)[0][:, ::-1],))

# ---- dense ----------------------------------------------------------------------------------------------------------


def dot(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)


def _dense(x, w, b):
    return dot(x, w) + b


def dense_fwd(x, w, b):
    return _dense(x, w, b), (x, w)


def dense_bwd(res, dy):
    x, w = res
    return dot(dy, w.T), dot(x.T, dy), dy.sum(0)


dense = plan("dense", _dense, dense_fwd, dense_bwd, normal((5, 4), (4, 4), (4,)))
dense.bug("w not transposed", bwd=lambda res, dy: (dot(dy, res[1]), dot(res[0].T, dy), dy.sum(0)))
dense.bug("dw transposed", bwd=lambda res, dy: (dot(dy, res[1].T), dot(dy.T, res[0]), dy.sum(0)))
dense.bug("db not summed", bwd=lambda res, dy: (dot(dy, res[1].T), dot(res[0].T, dy), dy))
dense.bug("db of the first row", bwd=lambda res, dy: (dot(dy, res[1].T), dot(res[0].T, dy), dy[0]))
dense.bug("dw averaged", bwd=lambda res, dy: (dot(dy, res[1].T), dot(res[0].T, dy) / 5, dy.sum(0)))
dense.bug("sign of db", bwd=lambda res, dy: (dot(dy, res[1].T), dot(res[0].T, dy), -dy.sum(0)))
dense.bug("value doubled under vjp", fwd=lambda x, w, b: (2 * _dense(x, w, b), (x, w)))
dense.bug("cotangent in bfloat16", bwd=lambda res, dy: (*dense_bwd(res, dy)[:2], dy.sum(0).astype(jnp.bfloat16)))
dense.bug(
    "cotangents exchanged between rows", bwd=lambda res, dy: (dot(dy[::-1], res[1].T), dot(res[0].T, dy), dy.sum(0))
)
dense.bug(
    "one entry of dw wrong",
    bwd=lambda res, dy: (dot(dy, res[1].T), dot(res[0].T, dy).at[2, 3].multiply(1.001), dy.sum(0)),
)
dense.bug("gradient clipped", bwd=lambda res, dy: tuple(jnp.clip(g, -8, 8) for g in dense_bwd(res, dy)))
dense.bug("x stopped in dw", bwd=lambda res, dy: (dot(dy, res[1].T), dot(lax.stop_gradient(res[0]).T, dy), dy.sum(0)))

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

# ---- attention ------------------------------------------------------------------------------------------------------

TOKENS, WIDTH = 4, 4


def probabilities(q, k, *, causal=0):
    s = jnp.einsum("htd,hsd->hts", q, k, precision=HIGHEST) * 0.5
    mask = np.tril(np.ones((TOKENS, TOKENS), bool), causal)
    return jax.nn.softmax(jnp.where(mask, s, jnp.asarray(jnp.finfo(s.dtype).min, s.dtype)))


def mix(text, a, b):
    return jnp.einsum(text, a, b, precision=HIGHEST)


def _attention(q, k, v):
    return mix("hts,hsd->htd", probabilities(q, k), v)


def attention_fwd(q, k, v):
    p = probabilities(q, k)
    return mix("hts,hsd->htd", p, v), (q, k, v, p)


def attention_bwd(res, dy, *, scale=0.5, centre=True, sums=-1):
    q, k, v, p = res
    dv = mix("hts,htd->hsd", p, dy)
    dp = mix("htd,hsd->hts", dy, v)
    mean = (dp * p).sum(sums, keepdims=True) if centre else 0
    ds = p * (dp - mean)
    return mix("hts,hsd->htd", ds, k) * scale, mix("hts,htd->hsd", ds, q) * 0.5, dv


attention = plan("attention", _attention, attention_fwd, attention_bwd, normal(*((2, TOKENS, WIDTH),) * 3))
attention.bug("scale missing in dq", bwd=lambda res, dy: attention_bwd(res, dy, scale=1.0))
attention.bug("row sum missing", bwd=lambda res, dy: attention_bwd(res, dy, centre=False))
attention.bug("sum over the queries", bwd=lambda res, dy: attention_bwd(res, dy, sums=-2))
attention.bug("dk with k", bwd=lambda res, dy: attention_bwd((res[1], res[1], *res[2:]), dy))
attention.bug("dq and dk exchanged", bwd=lambda res, dy: (lambda g: (g[1], g[0], g[2]))(attention_bwd(res, dy)))
attention.bug("dv transposed", bwd=lambda res, dy: (*attention_bwd(res, dy)[:2], mix("hts,hsd->htd", res[3], dy)))
attention.bug(
    "heads leak",
    bwd=lambda res, dy: (
        *attention_bwd(res, dy)[:2],
        mix("hts,htd->hsd", res[3], dy + dy[::-1] * jnp.asarray(0.01, dy.dtype)),
    ),
)
attention.bug(
    "mask one off in the backward", fwd=lambda q, k, v: (_attention(q, k, v), (q, k, v, probabilities(q, k, causal=1)))
)
attention.bug("probabilities stopped", bwd=lambda res, dy: attention_bwd((*res[:3], lax.stop_gradient(res[3])), dy))
attention.bug(
    "value in the dtype of half",
    fwd=lambda q, k, v: (_attention(q, k, v).astype(jnp.bfloat16).astype(q.dtype), attention_fwd(q, k, v)[1]),
)

# ---- layer norm -----------------------------------------------------------------------------------------------------

EPS = 2.0**-10


def standardised(x):
    centred = x - x.mean(-1, keepdims=True)
    scale = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + jnp.asarray(EPS, x.dtype))
    return centred * scale, scale


def _layer_norm(x, gain, bias):
    return standardised(x)[0] * gain + bias


def layer_fwd(x, gain, bias):
    return _layer_norm(x, gain, bias), (x, gain)


def layer_bwd(res, dy, *, mean=True, projection=True, times_gain=True, eps=True):
    x, gain = res
    hat, scale = standardised(x)
    g = dy * gain if times_gain else dy
    dx = g
    if mean:
        dx = dx - g.mean(-1, keepdims=True)
    if projection:
        dx = dx - hat * (g * hat).mean(-1, keepdims=True)
    return dx * scale, (dy * hat).sum(0), dy.sum(0)


layer_norm = plan("layer_norm", _layer_norm, layer_fwd, layer_bwd, normal((3, 6), (6,), (6,)))
layer_norm.bug("mean term missing", bwd=lambda res, dy: layer_bwd(res, dy, mean=False))
layer_norm.bug("variance term missing", bwd=lambda res, dy: layer_bwd(res, dy, projection=False))
layer_norm.bug("gain missing", bwd=lambda res, dy: layer_bwd(res, dy, times_gain=False))
layer_norm.bug("n - 1", bwd=lambda res, dy: (layer_bwd(res, dy)[0] * 6 / 5, *layer_bwd(res, dy)[1:]))
layer_norm.bug(
    "gain's cotangent a mean",
    bwd=lambda res, dy: (layer_bwd(res, dy)[0], layer_bwd(res, dy)[1] / 3, layer_bwd(res, dy)[2]),
)
layer_norm.bug(
    "gain's cotangent not summed",
    bwd=lambda res, dy: (layer_bwd(res, dy)[0], dy * standardised(res[0])[0], layer_bwd(res, dy)[2]),
)
layer_norm.bug("bias gets the gain's", bwd=lambda res, dy: (lambda g: (g[0], g[1], g[1]))(layer_bwd(res, dy)))
layer_norm.bug(
    "scale stopped",
    bwd=lambda res, dy: (lambda g: (g[0] * 1.0, lax.stop_gradient(g[1]) + 0 * g[1], g[2]))(layer_bwd(res, dy)),
)

# ---- rules that are not functions -----------------------------------------------------------------------------------


def _square(x):
    return x * x


square = plan("square", _square, lambda x: (x * x, x), lambda x, dy: (2 * x * dy,), normal((3, 5)))
_kept: list[Any] = []


def _keeps_outside(x):
    _kept[:] = [x]
    return x * x, ()


square.bug("residual kept in a global", fwd=_keeps_outside, bwd=lambda _, dy: (2 * _kept[0] * dy,))
square.bug("random factor", bwd=lambda x, dy: (2 * x * dy * jnp.asarray(1 + 0.01 * random.random(), dy.dtype),))
square.bug("right under jit only", bwd=lambda x, dy: (2 * x * dy if isinstance(dy, jax.core.Tracer) else 3 * x * dy,))
square.bug("needs concrete numbers", bwd=lambda x, dy: (2 * x * dy if float(x.sum()) > -1e9 else dy,))
square.bug("sign of the cotangent lost", bwd=lambda x, dy: (2 * x * abs(dy),))
square.bug("cotangent in float16", bwd=lambda x, dy: ((2 * x * dy).astype(jnp.float16),))
square.bug("rounded to half", bwd=lambda x, dy: ((2 * x * dy).astype(jnp.float16).astype(dy.dtype),))
square.bug("wrong at -0", bwd=lambda x, dy: (jnp.where(jnp.signbit(x) & (x == 0), dy, 2 * x * dy),))
square.bug("adds a constant", bwd=lambda x, dy: (2 * x * dy + jnp.asarray(1e-3, dy.dtype),))


@jax.custom_batching.custom_vmap
def _twice(x):
    return 2 * x


@_twice.def_vmap
def _twice_vmap(size, batched, x):
    return 2 * x[::-1], True


square.bug("batch reversed by its vmap", bwd=lambda x, dy: (_twice(x) * dy,))

BUGS = [(name, bug) for name, operation in OPERATIONS.items() for bug in operation.bugs]
