"""Each operation written plainly, as slices, sums and einsum, for JAX to differentiate; and a way to compare.

Features are (N, *S, C) and kernels (*K, in, out); nothing here calls the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

HIGHEST = lax.Precision.HIGHEST
Pairs = Sequence[tuple[int, int]]


def windows(x: jax.Array, window: Sequence[int], strides: Any, padding: Pairs, dilation: Any, fill: float = 0) -> Any:
    """The cells that each window element meets, row-major: (K, N, *O, C) of x (N, *S, C)."""
    x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)])
    geometry = list(zip(x.shape[1:-1], window, strides, dilation, strict=True))
    outputs = [(size - (k - 1) * d - 1) // s + 1 for size, k, s, d in geometry]
    elements = []
    for element in product(*map(range, window)):
        starts = [i * d for i, (_, _, _, d) in zip(element, geometry, strict=True)]
        cells = [slice(b, b + (o - 1) * g[2] + 1, g[2]) for b, o, g in zip(starts, outputs, geometry, strict=True)]
        elements.append(x[(slice(None), *cells)])
    return jnp.stack(elements)


def dropped(x: jax.Array, seed: int = 1) -> jax.Array:
    """Half of x, twice as large."""
    return jnp.where(
        jax.random.bernoulli(jax.random.key(seed), jnp.float32(0.5), x.shape), 2 * x, jnp.zeros((), x.dtype)
    )


def huber(prediction: jax.Array, target: jax.Array) -> jax.Array:
    e = prediction - target
    return jnp.where(abs(e) <= 1, e * e / 2, abs(e) - 0.5)


def kl_divergence(q: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.sum(t * (jnp.log(t) - q), axis=-1)


def binary_cross_entropy(z: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.logaddexp(z, 0.0) - labels * z


def space_to_depth(y: jax.Array, factor: tuple[int, int], mode: str) -> jax.Array:
    """Blocks of (N, H, W, C) as channels, one position of the block after another."""
    parts = [y[:, i :: factor[0], j :: factor[1]] for i in range(factor[0]) for j in range(factor[1])]
    return jnp.stack(parts, -1 if mode == "CRD" else -2).reshape(*parts[0].shape[:-1], -1)


def response_norm(x: jax.Array, beta: float) -> jax.Array:
    """Windows of four channels, from two below to one above; k and alpha / size are 1."""
    squares = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(2, 1)])
    s = 1 + sum(squares[..., i : i + x.shape[-1]] for i in range(4))
    return x * (s if beta == -1 else s**-beta)


def dice(p: jax.Array, t: jax.Array, smooth: float, alpha: float, beta: float, axes: Any) -> jax.Array:
    common, of_p, of_t = (v.sum(axes) for v in (p * t, p, t))
    return 1 - (common + smooth) / (common + alpha * (of_p - common) + beta * (of_t - common) + smooth)


def norm(
    x: jax.Array, axes: tuple[int, ...], scale: Any = 1, bias: Any = 0, epsilon: float = 1, mean: Any = None
) -> Any:
    """Over axes; a mean that is given is subtracted in place of x's own."""
    d = x - (jnp.mean(x, axes, keepdims=True) if mean is None else mean)
    return d / jnp.sqrt(jnp.mean(d * d, axes, keepdims=True) + epsilon) * scale + bias


def conv(x: jax.Array, w: jax.Array, b: Any = None, *, strides: Any, padding: Pairs, dilation: Any, groups: int) -> Any:
    *window, c, out = w.shape
    cols = windows(x, window, strides, padding, dilation)
    cols = cols.reshape(*cols.shape[:-1], groups, c)
    y = jnp.einsum("kn...gc,kcgd->n...gd", cols, w.reshape(-1, c, groups, out // groups), precision=HIGHEST)
    y = y.reshape(*y.shape[:-2], out)
    return y if b is None else y + b


def conv_input_vjp(dy: jax.Array, w: jax.Array, *, input_shape: Sequence[int], **options: Any) -> jax.Array:
    return jax.vjp(lambda x: conv(x, w, **options), jnp.zeros(input_shape, w.dtype))[1](dy)[0]


def conv_weight_vjp(x: jax.Array, dy: jax.Array, *, window_shape: Sequence[int], **options: Any) -> jax.Array:
    shape = (*window_shape, x.shape[-1] // options["groups"], dy.shape[-1])
    return jax.vjp(lambda w: conv(x, w, **options), jnp.zeros(shape, x.dtype))[1](dy)[0]


def conv_transpose(x: jax.Array, w: jax.Array, b: jax.Array, *, size: Sequence[int], **options: Any) -> jax.Array:
    shape = (x.shape[0], *size, w.shape[-2] * options["groups"])
    return conv_input_vjp(x, w, input_shape=shape, **options) + b


def max_pool(
    x: jax.Array, window: Sequence[int], strides: Any, padding: Pairs, dilation: Any, order: Any = None
) -> Any:
    """The first maximum of each window, the elements taken in `order`."""
    cols = windows(x, window, strides, padding, dilation, -np.inf)
    cols = cols if order is None else cols[np.asarray(order)]
    return jnp.take_along_axis(cols, lax.stop_gradient(jnp.argmax(cols, axis=0))[None], axis=0)[0]


def avg_pool(x: jax.Array, window: Sequence[int], strides: Any, padding: Pairs, include_pad: bool = True) -> jax.Array:
    ones = (1,) * len(window)
    total = windows(x, window, strides, padding, ones).sum(axis=0)
    counted = (
        float(np.prod(window)) if include_pad else windows(jnp.ones_like(x), window, strides, padding, ones).sum(0)
    )
    return total / counted


def adaptive(reduce: Callable[..., jax.Array], x: jax.Array, output: Sequence[int]) -> jax.Array:
    def bins(size: int, out: int) -> list[slice]:
        return [slice(o * size // out, -(-(o + 1) * size // out)) for o in range(out)]

    spatial = tuple(range(1, x.ndim - 1))
    cells = [reduce(x[(slice(None), *b)], axis=spatial) for b in product(*map(bins, x.shape[1:-1], output))]
    return jnp.stack(cells, axis=1).reshape(x.shape[0], *output, x.shape[-1])


def pyramid(reduce: Callable[..., jax.Array], x: jax.Array, levels: Sequence[int], first: bool = False) -> jax.Array:
    maps = [adaptive(reduce, x, (level,) * (x.ndim - 2)) for level in levels]
    return jnp.concatenate([(jnp.moveaxis(m, -1, 1) if first else m).reshape(x.shape[0], -1) for m in maps], axis=1)


def lp_pool(x: jax.Array, window: Sequence[int], strides: Any, padding: Pairs, p: int) -> jax.Array:
    cols = windows(x, window, strides, padding, (1,) * len(window))
    return (jnp.abs(cols) ** p).sum(axis=0) ** (1 / p) if p > 1 else jnp.abs(cols).sum(axis=0)


def im2col(x: jax.Array, window: Sequence[int], strides: Any, padding: Pairs, order: str) -> jax.Array:
    """Rows (*window, C), (C, *window) or, both reversed, MATLAB's."""
    cols = windows(x, window, strides, padding, (1,) * len(window))
    n, axes = len(window), tuple(range(len(window)))
    cols = cols.reshape(*window, *cols.shape[1:])  # (*K, N, *O, C)
    output = tuple(range(n + 1, 2 * n + 1))
    if order == "matlab":
        axes, output = axes[::-1], output[::-1]
    rows = (*axes, 2 * n + 1) if order == "channels_last" else (2 * n + 1, *axes)
    return cols.transpose(n, *rows, *output).reshape(x.shape[0], np.prod(window) * x.shape[-1], -1)


def unpool(y: jax.Array, *, indices: np.ndarray, output_shape: Sequence[int]) -> jax.Array:
    """Distinct indices, one map of (N, C) at a time."""
    n, c = y.shape[0], y.shape[-1]
    flat = jnp.zeros((n, int(np.prod(output_shape)), c), y.dtype)
    image, channel = np.ogrid[:n, :c]
    return (
        flat.at[image[:, None], indices.reshape(n, -1, c), channel[:, None]]
        .set(y.reshape(n, -1, c))
        .reshape(n, *output_shape, c)
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -(labels * jax.nn.log_softmax(logits)).sum(-1)


def assert_same(got: Any, want: Any, exact: bool, message: str = "") -> None:
    """Trees of arrays, bit for bit, or within 2^12 ulp of the largest entry: sums of fewer than 2^12 rounded terms."""
    assert jax.tree.structure(got) == jax.tree.structure(want), message
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        g, w = np.asarray(g), np.asarray(w)
        assert (g.shape, g.dtype) == (w.shape, w.dtype), message
        bound = 0 if exact else 2**12 * np.finfo(g.dtype).eps * max(1.0, np.abs(w).max(initial=0))
        np.testing.assert_allclose(g, w, rtol=0, atol=bound, err_msg=message)
