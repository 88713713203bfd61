"""Attention and layer norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vjp_bugs.catalogue import HIGHEST, normal, plan

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
