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


def global_average(x: jax.Array) -> jax.Array:
    return fnconv.global_avg_pool(x, layout=CHANNELS_FIRST)[(..., *[None] * (x.ndim - 2))]


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


# ---- other sizes ----------------------------------------------------------------------------------------------------


def depth_to_space(x: jax.Array, *, blocksize: int, mode: str = "DCR") -> jax.Array:
    return fnconv.pixel_shuffle(x, (blocksize,) * 2, mode=mode, layout=CHANNELS_FIRST)


def space_to_depth(x: jax.Array, *, blocksize: int, mode: str = "DCR") -> jax.Array:
    return fnconv.pixel_unshuffle(x, (blocksize,) * 2, mode=mode, layout=CHANNELS_FIRST)


def resize(
    x: jax.Array,
    roi: Ints | None = None,
    scales: Sequence[float] | None = None,
    sizes: Ints | None = None,
    *,
    mode: str,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    keep_aspect_ratio_policy: str = "stretch",
) -> jax.Array:
    """To floor(size * scale); sizes that keep the ratio are the largest within, or the smallest around."""
    at = range(x.ndim) if axes is None else axes
    wanted = list(x.shape)
    if sizes is not None and keep_aspect_ratio_policy != "stretch":
        choose = min if keep_aspect_ratio_policy == "not_larger" else max
        scale = choose(new / x.shape[i] for i, new in zip(at, sizes, strict=True))
        sizes = [math.floor(x.shape[i] * scale + 0.5) for i in at]
    for k, i in enumerate(at):
        wanted[i] = math.floor(x.shape[i] * scales[k]) if sizes is None else int(sizes[k])
    method = "cubic-pytorch" if mode == "cubic" and cubic_coeff_a == -0.75 and not exclude_outside else mode
    corners = coordinate_transformation_mode == "align_corners"
    return fnconv.resize(x, wanted, method, antialias=bool(antialias), align_corners=corners)


# ---- normalisation --------------------------------------------------------------------------------------------------


def batch_normalization(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    is_test: int = 1,
) -> Any:
    """In training the running moments too, of the biased variance."""
    options = {"epsilon": epsilon, "layout": CHANNELS_FIRST}
    if not training_mode:
        return fnconv.batch_norm_inference(x, mean, variance, scale, bias, **options)
    y, *found, _ = fnconv.batch_norm(x, scale, bias, **options)
    return y, *(momentum * old + (1 - momentum) * new for old, new in zip((mean, variance), found, strict=True))


def layer_normalization(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, axis: int = -1, epsilon: float = 1e-5
) -> tuple[jax.Array, ...]:
    """y, the mean and the inverse deviation; the last two are those of `batch_norm` with the groups as channels."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    groups = x.reshape(-1, math.prod(x.shape[axes[0] :])).T
    _, mean, variance, _ = fnconv.batch_norm(groups)
    kept = (*x.shape[: axes[0]], *[1] * len(axes))
    y = fnconv.layer_norm(x, scale, bias, axes=axes, epsilon=epsilon)
    return y, mean.reshape(kept), jax.lax.rsqrt(variance + epsilon).reshape(kept)


def rms_normalization(x: jax.Array, scale: jax.Array, *, axis: int = -1, epsilon: float = 1e-5) -> jax.Array:
    return fnconv.rms_norm(x, scale, axes=tuple(range(axis % x.ndim, x.ndim)), epsilon=epsilon)


def group_normalization(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, num_groups: int, epsilon: float = 1e-5
) -> jax.Array:
    return fnconv.group_norm(x, scale, bias, groups=num_groups, epsilon=epsilon, layout=CHANNELS_FIRST)


def instance_normalization(x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float = 1e-5) -> jax.Array:
    return fnconv.instance_norm(x, scale, bias, epsilon=epsilon, layout=CHANNELS_FIRST)


def lrn(x: jax.Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> jax.Array:
    return fnconv.local_response_norm(x, size, alpha=alpha, beta=beta, k=bias, layout=CHANNELS_FIRST)


# ---- pointwise and losses -------------------------------------------------------------------------------------------


def leaky_relu(x: jax.Array, *, alpha: float = 0.01) -> jax.Array:
    return fnconv.leaky_relu(x, alpha)


def prelu(x: jax.Array, slope: jax.Array, *, opset: int) -> jax.Array:
    """Before opset 7 a slope (C,) lies along axis 1."""
    return fnconv.prelu(x, slope.reshape(-1, *[1] * (x.ndim - 2)) if opset < 7 and slope.size > 1 else slope)


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
    each = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * (1 if weights is None else weights)
    loss = fnconv.softmax_cross_entropy(logits, labels, class_weights=weights)
    reduced = {"none": loss, "sum": loss.sum(), "mean": loss.sum() / each.sum()}[reduction]
    return reduced, fnconv.log_softmax(scores, axis=1)


def negative_log_likelihood_loss(
    logs: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Classes are axis 1, as above; the mean divides by the weights of the labels."""
    logs = jnp.moveaxis(logs, 1, -1)
    labels = labels if ignore_index is None else jnp.where(labels == ignore_index, -1, labels)
    loss = fnconv.nll_loss(logs, labels, class_weights=weights)
    each = jax.nn.one_hot(labels, logs.shape[-1], dtype=logs.dtype) * (1 if weights is None else weights)
    return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / each.sum()}[reduction]


# An operator takes its inputs in order and its attributes by name.
OPERATORS: dict[str, Callable[..., Any]] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Celu": celu,
    "Col2Im": col2im,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Elu": elu,
    "Flatten": flatten,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_average,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": partial(global_pool, fnconv.adaptive_max_pool),
    "GroupNormalization": group_normalization,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": fnconv.hard_silu,
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LeakyRelu": leaky_relu,
    "LogSoftmax": partial(softmax, fnconv.log_softmax),
    "LpPool": lp_pool,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
    "Mish": fnconv.mish,
    "NegativeLogLikelihoodLoss": negative_log_likelihood_loss,
    "PRelu": prelu,
    "RMSNormalization": rms_normalization,
    "Relu": fnconv.relu,
    "Resize": resize,
    "Selu": selu,
    "Sigmoid": fnconv.sigmoid,
    "Softmax": partial(softmax, fnconv.softmax),
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy_loss,
    "SpaceToDepth": space_to_depth,
    "Softplus": fnconv.softplus,
    "Softsign": fnconv.soft_sign,
    "Tanh": fnconv.tanh,
}
SHAPE_INPUTS = {
    "Col2Im": slice(1, 3),
    "MaxUnpool": slice(2, 3),
    "Resize": slice(1, 4),
}  # inputs that are read while tracing
