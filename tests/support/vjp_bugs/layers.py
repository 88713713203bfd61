"""Convolution, pooling, dense."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vjp_bugs.catalogue import HIGHEST, normal, plan

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
