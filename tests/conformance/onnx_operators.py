"""ONNX operators in terms of fnconv: attributes as ONNX names them, features (N, C, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import fnconv

Ints = Sequence[int]
CHANNELS_FIRST = "channels_first"


# ---- sliding windows ------------------------------------------------------------------------------------------------


def padding(auto_pad: str, pads: Ints | None) -> Any:
    """ONNX lists all low paddings, then all high ones."""
    match auto_pad:
        case "NOTSET":
            n = len(pads or ()) // 2
            return tuple(zip(pads[:n], pads[n:], strict=True)) if pads else "VALID"
        case "VALID":
            return "VALID"
        case "SAME_UPPER":
            return "SAME"
        case "SAME_LOWER":
            return "SAME_LOWER"
    raise ValueError(f"auto_pad {auto_pad!r}")


def conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | int = 1,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | int = 1,
) -> jax.Array:
    options = {"strides": strides, "dilation": dilations, "groups": group, "layout": CHANNELS_FIRST}
    return fnconv.conv(x, w, b, padding=padding(auto_pad, pads), **options)


def conv_transpose(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> jax.Array:
    """output_shape sets the sum of the paddings of each axis; auto_pad says which side has the odd cell."""
    ones = (1,) * (w.ndim - 2)
    strides, dilations, extra = strides or ones, dilations or ones, output_padding or (0,) * len(ones)
    around = padding(auto_pad, pads)
    if output_shape is not None:
        geometry = zip(x.shape[2:], w.shape[2:], strides, dilations, extra, output_shape, strict=True)
        totals = [s * (size - 1) + e + (k - 1) * d + 1 - out for size, k, s, d, e, out in geometry]
        halves = [(t // 2, t - t // 2) for t in totals]
        around = tuple(h if auto_pad == "SAME_UPPER" else h[::-1] for h in halves)
    options = {"strides": strides, "dilation": dilations, "groups": group, "layout": CHANNELS_FIRST}
    return fnconv.conv_transpose(x, w, b, padding=around, output_padding=extra, **options)


def pooling(auto_pad: str, ceil_mode: int, dilations: Ints | int, pads: Ints | None, strides: Ints | int) -> dict:
    """The arguments that the poolings share; ONNX's strides default to 1."""
    return {
        "padding": padding(auto_pad, pads),
        "ceil_mode": bool(ceil_mode),
        "dilation": dilations,
        "strides": strides,
        "layout": CHANNELS_FIRST,
    }


def max_pool(
    x: jax.Array,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | int = 1,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Indices count through the whole (N, C, *spatial); storage_order 1 counts the spatial axes column-major."""
    options = pooling(auto_pad, ceil_mode, dilations, pads, strides)
    y, flat = fnconv.max_pool_with_indices(x, kernel_shape, **options)
    size = x.shape[2:]
    if storage_order:
        position = jnp.unravel_index(flat, size)
        flat = jnp.ravel_multi_index(position[::-1], size[::-1], mode="clip")
    maps = jnp.arange(math.prod(x.shape[:2]), dtype=flat.dtype).reshape(*x.shape[:2], *(1,) * len(size))
    return y, flat + maps * math.prod(size)


def max_unpool(
    x: jax.Array,
    indices: jax.Array,
    output_shape: Ints | None = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> jax.Array:
    """Indices belong to the smallest map that the pooling could have had; a larger output_shape appends zeros."""
    n = len(kernel_shape)
    pads, strides = pads or (0,) * 2 * n, strides or (1,) * n
    geometry = zip(x.shape[2:], kernel_shape, strides, pads[:n], pads[n:], strict=True)
    size = tuple((out - 1) * s + k - low - high for out, k, s, low, high in geometry)
    y = fnconv.max_unpool(x, indices % math.prod(size), size, layout=CHANNELS_FIRST)
    larger = size if output_shape is None else tuple(map(int, output_shape[2:]))
    return jnp.pad(y, [(0, 0), (0, 0), *((0, a - b) for a, b in zip(larger, size, strict=True))])


def average_pool(
    x: jax.Array,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | int = 1,
    pads: Ints | None = None,
    strides: Ints | int = 1,
) -> jax.Array:
    options = pooling(auto_pad, ceil_mode, dilations, pads, strides)
    return fnconv.avg_pool(x, kernel_shape, count_include_pad=bool(count_include_pad), **options)


def lp_pool(
    x: jax.Array,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | int = 1,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | int = 1,
) -> jax.Array:
    return fnconv.lp_pool(x, kernel_shape, p=p, **pooling(auto_pad, ceil_mode, dilations, pads, strides))


def global_pool(pool: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    return pool(x, (1,) * (x.ndim - 2), layout=CHANNELS_FIRST)


def global_lp_pool(x: jax.Array, *, p: int = 2) -> jax.Array:
    return fnconv.lp_pool(x, x.shape[2:], p=p, layout=CHANNELS_FIRST)


def col2im(
    cols: jax.Array,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: Ints | int = 1,
    pads: Ints | None = None,
    strides: Ints | int = 1,
) -> jax.Array:
    image, block = tuple(map(int, image_shape)), tuple(map(int, block_shape))
    shape = (cols.shape[0], cols.shape[1] // math.prod(block), *image)
    options = {"strides": strides, "padding": padding("NOTSET", pads), "dilation": dilations}
    return fnconv.col2im(cols, shape, block, **options, layout=CHANNELS_FIRST)


# ---- matrices -------------------------------------------------------------------------------------------------------


def gemm(
    a: jax.Array,
    b: jax.Array,
    c: jax.Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> jax.Array:
    """alpha A B + beta C; C is broadcast, whether or not an old model says so.

    A plain bias goes in as one, every other C is added by the caller.
    """
    x, w = a.T if transA else a, b.T if transB else b
    x = x if alpha == 1 else x * jnp.asarray(alpha, x.dtype)
    if c is not None and beta == 1 and c.shape == w.shape[1:]:
        return fnconv.dense(x, w, c)
    y = fnconv.dense(x, w)
    return y if c is None else y + jnp.asarray(beta, c.dtype) * c


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """NumPy's matmul; a batch of right-hand sides is a vmap of dense."""
    if b.ndim == 1:
        return matmul(a, b[:, None])[..., 0]
    if a.ndim == 1:
        return matmul(a[None], b)[..., 0, :]
    if b.ndim == 2:
        return fnconv.dense(a, b)
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = jnp.broadcast_to(a, (*batch, *a.shape[-2:])).reshape(math.prod(batch), *a.shape[-2:])
    right = jnp.broadcast_to(b, (*batch, *b.shape[-2:])).reshape(math.prod(batch), *b.shape[-2:])
    y = jax.vmap(fnconv.dense)(left, right)
    return y.reshape(*batch, *y.shape[-2:])


def flatten(x: jax.Array, *, axis: int = 1) -> jax.Array:
    """Axes before `axis` are merged by the caller: flatten keeps exactly one."""
    axis = axis % x.ndim if axis < 0 else axis
    return fnconv.flatten(x.reshape(math.prod(x.shape[:axis]), *x.shape[axis:]))


# ---- pointwise and losses -------------------------------------------------------------------------------------------


def leaky_relu(x: jax.Array, *, alpha: float = 0.01) -> jax.Array:
    return fnconv.leaky_relu(x, alpha)


def elu(x: jax.Array, *, alpha: float = 1.0) -> jax.Array:
    return fnconv.elu(x, alpha)


def celu(x: jax.Array, *, alpha: float = 1.0) -> jax.Array:
    return fnconv.celu(x, alpha)


def selu(
    x: jax.Array, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> jax.Array:
    return gamma * fnconv.elu(x, alpha)


def gelu(x: jax.Array, *, approximate: str = "none") -> jax.Array:
    return fnconv.gelu(x, approximate == "tanh")


def hard_sigmoid(x: jax.Array, *, alpha: float = 0.2, beta: float = 0.5) -> jax.Array:
    return fnconv.hard_sigmoid(6 * (alpha * x + beta) - 3)


def softmax(function: Callable[..., jax.Array], x: jax.Array, *, axis: int | None = None, opset: int) -> jax.Array:
    """Before opset 13 all axes from `axis` on count as one."""
    if opset >= 13:
        return function(x, axis=-1 if axis is None else axis)
    return function(x.reshape(math.prod(x.shape[: 1 if axis is None else axis]), -1)).reshape(x.shape)


def softmax_cross_entropy_loss(
    scores: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[jax.Array, jax.Array]:
    """Classes are axis 1; ignored labels become -1, which has no weight; the reduction is the caller's."""
    logits = jnp.moveaxis(scores, 1, -1)
    kept = jnp.full(labels.shape, True) if ignore_index is None else labels != ignore_index
    labels = jnp.where(kept, labels, -1)
    each = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if weights is None:
        loss = fnconv.softmax_cross_entropy(logits, labels)
    else:
        each = each * weights
        loss = fnconv.softmax_cross_entropy(logits, each)
    reduced = {"none": loss, "sum": loss.sum(), "mean": loss.sum() / each.sum()}[reduction]
    return reduced, fnconv.log_softmax(scores, axis=1)


# An operator takes its inputs in order and its attributes by name.
OPERATORS: dict[str, Callable[..., Any]] = {
    "AveragePool": average_pool,
    "Celu": celu,
    "Col2Im": col2im,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Elu": elu,
    "Flatten": flatten,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": partial(global_pool, fnconv.adaptive_avg_pool),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": partial(global_pool, fnconv.adaptive_max_pool),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": fnconv.hard_silu,
    "LeakyRelu": leaky_relu,
    "LogSoftmax": partial(softmax, fnconv.log_softmax),
    "LpPool": lp_pool,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
    "Mish": fnconv.mish,
    "Relu": fnconv.relu,
    "Selu": selu,
    "Sigmoid": fnconv.sigmoid,
    "Softmax": partial(softmax, fnconv.softmax),
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy_loss,
    "Softplus": fnconv.softplus,
    "Softsign": fnconv.soft_sign,
    "Tanh": fnconv.tanh,
}
SHAPE_INPUTS = {"Col2Im": slice(1, 3), "MaxUnpool": slice(2, 3)}  # inputs that are read while tracing
