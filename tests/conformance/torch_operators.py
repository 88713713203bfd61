"""Torch's functions in terms of fnconv: arguments as Torch names them, features (N, C, *spatial) or (C, *spatial).

Beside each stands how its results are judged: bit for bit, or within a bound.  Reductions, index conventions and
the divisor of an average are composed around the operations.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import onnx_operators

import fnconv
from fnconv.judge.own import references
from fnconv.judge.own.bounds import Bound, Multilinear, Traced
from fnconv.judge.own.references import Window

FIRST = {"layout": "channels_first"}
GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")


@dataclass(frozen=True)
class Operator:
    """ours: Torch's signature.  spatial: axes that an int stands for.  operands: what is differentiated.

    bound: None for results that are exact; a function of the arguments otherwise.
    numbers: the sample's "own", their "moduli", or "whole" ones instead, on which sums of products are exact.
    declared: why a call is not ours, of its arguments; "" for those that are.
    """

    ours: Callable[..., Any]
    spatial: int = 0
    operands: tuple[str, ...] = ("input",)
    bound: Callable[[dict[str, Any]], Bound] | None = None
    numbers: str = "own"
    declared: Callable[[dict[str, Any]], str] = lambda arguments: ""

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name; geometry with one entry per axis, so that equal calls look the same."""
        bound = inspect.signature(self.ours).bind(**given)
        bound.apply_defaults()
        return {k: self._per_axis(v) if k in GEOMETRY else v for k, v in bound.arguments.items()}

    def _per_axis(self, value: Any) -> Any:
        if isinstance(value, int):
            return (value,) * self.spatial
        if isinstance(value, Sequence) and not isinstance(value, str):
            return (tuple(value) * self.spatial if len(value) == 1 else tuple(value)) or None
        return value


# ---- convolution ----------------------------------------------------------------------------------------------------


def conv(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    padding = padding.upper() if isinstance(padding, str) else padding
    return fnconv.conv(input, weight, bias, strides=stride, padding=padding, dilation=dilation, groups=groups, **FIRST)


def conv_transpose(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    options = {"strides": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return fnconv.conv_transpose(input, weight, bias, groups=groups, **options, **FIRST)


def linear(input, weight, bias=None):
    return fnconv.dense(input, weight.T, bias)


def matmul(input, other):
    return onnx_operators.matmul(input, other)


# ---- pooling --------------------------------------------------------------------------------------------------------


def max_pool(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    pool = fnconv.max_pool_with_indices if return_indices else fnconv.max_pool
    return pool(input, kernel_size, strides=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode, **FIRST)


def max_unpool(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    return fnconv.max_unpool(input, indices, output_size[-len(kernel_size) :], **FIRST)


def avg_pool(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """With a divisor of its own: the mean of the cells inside, times their number, which is a 1-norm of ones."""
    options = {"strides": stride, "padding": padding, "ceil_mode": ceil_mode, **FIRST}
    if divisor_override is None:
        return fnconv.avg_pool(input, kernel_size, count_include_pad=count_include_pad, **options)
    inside = fnconv.lp_pool(jnp.ones_like(input), kernel_size, p=1, **options)
    return fnconv.avg_pool(input, kernel_size, count_include_pad=False, **options) * inside / divisor_override


def lp_pool(input, norm_type, kernel_size, stride=None, ceil_mode=False):
    return fnconv.lp_pool(input, kernel_size, p=norm_type, strides=stride, ceil_mode=ceil_mode, **FIRST)


def adaptive_max_pool(input, output_size, return_indices=False):
    """Without indices, of which the gradient tells: every cotangent is at its winner."""
    return fnconv.adaptive_max_pool(input, sizes(input, output_size), **FIRST)


def adaptive_avg_pool(input, output_size):
    return fnconv.adaptive_avg_pool(input, sizes(input, output_size), **FIRST)


def sizes(input, output_size):
    """None stands for the input's own size."""
    return tuple(o or s for o, s in zip(output_size, input.shape[-len(output_size) :], strict=True))


def interpolate(
    input, size=None, scale_factor=None, mode="area", align_corners=None, recompute_scale_factor=None, antialias=False
):
    """To floor(size * scale); by areas: adaptive average pooling."""
    spatial = input.shape[2:]
    scale = (scale_factor,) * len(spatial) if isinstance(scale_factor, float) else scale_factor
    wanted = size or tuple(math.floor(s * f) for s, f in zip(spatial, scale, strict=True))
    if mode == "area":
        return fnconv.adaptive_avg_pool(input, wanted, **FIRST)
    method = {"nearest-exact": "nearest", "bicubic": "cubic-pytorch"}.get(mode, mode)
    options = {"antialias": antialias, "align_corners": bool(align_corners)}
    return fnconv.resize(input, (*input.shape[:2], *wanted), method, **options)


def own_scale(arguments):
    """Torch takes the factor that it is given for the positions, even where the sizes have another ratio."""
    factor = arguments["scale_factor"] is not None and not arguments["recompute_scale_factor"]
    return "positions by a factor that is not the ratio of the sizes" * (factor and not arguments["align_corners"])


def pixel_shuffle(input, upscale_factor):
    return fnconv.pixel_shuffle(input, (upscale_factor,) * 2, **FIRST)


def pixel_unshuffle(input, downscale_factor):
    return fnconv.pixel_unshuffle(input, (downscale_factor,) * 2, **FIRST)


def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    return fnconv.im2col(input, kernel_size, strides=stride, padding=padding, dilation=dilation, **FIRST)


def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    *batch, rows, _ = input.shape
    shape = (*batch, rows // math.prod(kernel_size), *output_size)
    return fnconv.col2im(input, shape, kernel_size, strides=stride, padding=padding, dilation=dilation, **FIRST)


# ---- pointwise and losses -------------------------------------------------------------------------------------------


def relu(input):
    return fnconv.relu(input)


def leaky_relu(input, negative_slope=0.01):
    return fnconv.leaky_relu(input, negative_slope)


def sigmoid(input):
    return fnconv.sigmoid(input)


def tanh(input):
    return fnconv.tanh(input)


def elementwise(input, function=None):
    return function(input)


def elu(input, alpha=1.0):
    return fnconv.elu(input, alpha)


def celu(input, alpha=1.0):
    return fnconv.celu(input, alpha)


def gelu(input, approximate="none"):
    return fnconv.gelu(input, approximate == "tanh")


def hard_tanh(input, min_val=-1.0, max_val=1.0):
    middle, half = (max_val + min_val) / 2, (max_val - min_val) / 2
    return middle + half * fnconv.hard_tanh((input - middle) / (half or 1.0))


def softmax(input, dim, dtype=None, function=fnconv.softmax):
    """A scalar counts as a row of one."""
    x = input if dtype is None else input.astype(str(dtype).removeprefix("torch."))
    return function(x, axis=dim) if x.ndim else function(x[None], axis=dim)[0]


def prelu(input, weight):
    """A slope for each channel, axis 1."""
    channels = weight.ndim and weight.size > 1
    return fnconv.prelu(input, weight.reshape(-1, *[1] * (input.ndim - 2)) if channels else weight.reshape(()))


def glu(input, dim=-1):
    return fnconv.glu(input, dim)


def softplus(input, beta=1, threshold=20):
    """Torch's is x where beta x is above the threshold, up to e^-threshold away."""
    return jnp.where(input * beta > threshold, input, fnconv.softplus(beta * input) / beta)


def reduced(each, reduction, total=None):
    return {"none": each, "sum": each.sum(), "mean": each.sum() / (each.size if total is None else total)}[reduction]


def mse_loss(input, target, reduction="mean"):
    return reduced(fnconv.squared_error(input, target), reduction)


def l1_loss(input, target, reduction="mean"):
    return reduced(fnconv.absolute_error(input, target), reduction)


def huber_loss(input, target, reduction="mean", delta=1.0):
    return reduced(fnconv.huber_loss(input, target, delta), reduction)


def smooth_l1_loss(input, target, reduction="mean", beta=1.0):
    each = fnconv.huber_loss(input, target, beta) / beta if beta else fnconv.absolute_error(input, target)
    return reduced(each, reduction)


def kl_div(input, target, reduction="mean", log_target=False):
    """Element by element: the sum over an axis of one."""
    each = fnconv.kl_divergence(input[..., None], (jnp.exp(target) if log_target else target)[..., None])
    return each.sum() / input.shape[0] if reduction == "batchmean" else reduced(each, reduction)


def binary_cross_entropy_with_logits(
    input, target, weight=None, reduction="mean", pos_weight=None, loss=fnconv.sigmoid_binary_cross_entropy
):
    """pos_weight multiplies the part of the label 1, which is linear in the label."""
    each = loss(input, target)
    if pos_weight is not None:
        each = each + (pos_weight - 1) * target * loss(input, jnp.ones_like(target))
    return reduced(each if weight is None else each * weight, reduction)


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """Classes are axis 1; ignored labels become -1, which has no weight."""
    logits, integer = jnp.moveaxis(input, 1, -1), jnp.issubdtype(target.dtype, jnp.integer)
    labels = jnp.where(target == ignore_index, -1, target) if integer else jnp.moveaxis(target, 1, -1)
    hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) if integer else labels
    each = fnconv.softmax_cross_entropy(logits, labels, class_weights=weight)
    return reduced(each, reduction, (hot if weight is None else hot * weight).sum() if integer else None)


def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
    logs, labels = (
        jnp.moveaxis(input, 1, -1) if input.ndim > 1 else input,
        jnp.where(target == ignore_index, -1, target),
    )
    hot = jax.nn.one_hot(labels, logs.shape[-1], dtype=logs.dtype)
    each = fnconv.nll_loss(logs, labels, class_weights=weight)
    return reduced(each, reduction, (hot if weight is None else hot * weight).sum())


_cancelling = fnconv.ops.elementwise.elementwise(
    "cancelling",
    lambda z, labels: (1 - labels) * z + jnp.maximum(-z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))),
    lambda z, labels: jax.nn.sigmoid(z) - labels,
    lambda z, labels: -z,
)


def cancelling(**arguments):
    """As Torch computes it, with the slope s - label."""
    return binary_cross_entropy_with_logits(**arguments | {"loss": partial(_cancelling, ())})


# ---- normalisation --------------------------------------------------------------------------------------------------


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    return fnconv.layer_norm(input, weight, bias, axes=tuple(range(-len(normalized_shape), 0)), epsilon=eps)


def rms_norm(input, normalized_shape, weight=None, eps=None):
    axes = tuple(range(-len(normalized_shape), 0))
    return fnconv.rms_norm(input, weight, axes=axes, epsilon=float(jnp.finfo(input.dtype).eps) if eps is None else eps)


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    return fnconv.group_norm(input, weight, bias, groups=num_groups, epsilon=eps, **FIRST)


def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    return fnconv.instance_norm(input, weight, bias, epsilon=eps, **FIRST)


def batch_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    if training:
        return fnconv.batch_norm(input, weight, bias, epsilon=eps, **FIRST).y
    return fnconv.batch_norm_inference(input, running_mean, running_var, weight, bias, epsilon=eps, **FIRST)


def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    return fnconv.local_response_norm(input, size, alpha=alpha, beta=beta, k=k, **FIRST)


def outside(arguments):
    if (arguments["eps"] or 0) < 0:
        return "an epsilon below 0 is refused"
    if arguments["input"].ndim < 2 and "training" in arguments:
        return "no axis of channels"
    return "the deviation of one number is not 0 in Torch" * (arguments.get("normalized_shape") == (1,))


# ---- bounds ---------------------------------------------------------------------------------------------------------


def averages(arguments: dict[str, Any]) -> Bound:
    """A result that is 1 for ones has at most as many terms as a window has cells; a mean times a count: twice more."""
    shape = arguments["input"].shape
    cells = math.prod(arguments.get("kernel_size") or shape[-len(arguments.get("output_size") or shape[2:]) :])
    divisor = arguments.get("divisor_override")
    return Multilinear(scale=cells * abs(divisor or 1), rounded={"y": 4, "dx": 4})


def power_averages(arguments: dict[str, Any]) -> Bound:
    """Beside the p-norm of stacked slices."""
    *batch, channels = arguments["input"].shape[: -len(arguments["kernel_size"])]
    window = arguments["kernel_size"]
    size, back = arguments["input"].shape[-len(window) :], (-1, -len(window) - 1)
    g = Window(size, window, arguments["stride"] or window)

    def theirs(x: jax.Array) -> jax.Array:
        features = jnp.moveaxis(x, *reversed(back)).reshape(-1, *size, channels)
        y = references.lp_pool(g, features, p=float(arguments["norm_type"]))
        return jnp.moveaxis(y.reshape(*batch, *y.shape[1:]), *back)

    return traced(lp_pool, theirs=theirs)(arguments)


def traced(
    ours: Callable[..., Any],
    *others: str,
    theirs: Callable[..., Any] | None = None,
    plain: Callable[..., Any] | None = None,
) -> Callable[..., Bound]:
    """Of the input and `others`.  theirs: as Torch computes it, if not as we do, of the input; plain: of all."""

    def bound(arguments: dict[str, Any]) -> Bound:
        arrays = {k: v.numpy() for k, v in arguments.items() if hasattr(v, "numpy")}
        names = [k for k in ("input", *others) if k in arrays and arrays[k].dtype.kind == "f"]

        def called(f: Callable[..., Any], *operands: jax.Array) -> jax.Array:
            dtype = operands[0].dtype
            constants = {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in arrays.items()}
            return f(**arguments | constants | dict(zip(names, operands, strict=True)))

        return Traced(partial(called, ours), theirs or partial(called, plain or ours), ("x", *names[1:]))

    return bound


@dataclass(frozen=True)
class Resized:
    """The bound of a sum whose weights are off by d in the oracle, which rounds positions up to n."""

    traced: Bound
    terms: int
    n: int

    def errors(self, run: Any, operands: Any, cotangent: Any, dtype: Any) -> Any:
        d = 2**-53 * 48 * self.n * self.terms
        largest = {"y": abs(operands[0]).max(initial=0), "dx": self.n * abs(cotangent).max(initial=0)}
        return {k: v + d * largest[k] for k, v in self.traced.errors(run, operands, cotangent, dtype).items()}


def resized(arguments: dict[str, Any]) -> Resized:
    x = arguments["input"]
    return Resized(traced(interpolate)(arguments), 4 ** (x.ndim - 2), 2 * max(x.shape))


def along(ours: Callable[..., Any]) -> Callable[[dict[str, Any]], Bound]:
    """A scalar, a row of one, and an empty array round nothing."""
    sums = traced(ours)
    return lambda arguments: (
        sums(arguments) if arguments["input"].ndim and arguments["input"].numel() else Multilinear()
    )


# ---- the table ------------------------------------------------------------------------------------------------------

PARAMETERS = ("input", "weight", "bias")
OPERATORS: dict[str, Operator] = {
    "matmul": Operator(matmul, operands=("input", "other"), numbers="whole"),
    "nn.functional.linear": Operator(linear, operands=PARAMETERS, numbers="whole"),
    "nn.functional.unfold": Operator(unfold, 2),
    "nn.functional.fold": Operator(fold, 2, numbers="whole"),
    "nn.functional.interpolate area": Operator(interpolate, bound=averages),
    "nn.functional.relu": Operator(relu),
    "nn.functional.leaky_relu": Operator(leaky_relu, bound=traced(leaky_relu)),
    "nn.functional.elu": Operator(elu, bound=traced(elu)),
    "nn.functional.celu": Operator(celu, bound=traced(celu)),
    "nn.functional.gelu": Operator(gelu, bound=traced(gelu, theirs=jax.nn.gelu)),
    "nn.functional.hardtanh": Operator(hard_tanh, bound=traced(hard_tanh)),
    "nn.functional.mse_loss": Operator(mse_loss, 0, ("input", "target"), traced(mse_loss, "target")),
    "nn.functional.cross_entropy": Operator(cross_entropy, 0, ("input", "target"), traced(cross_entropy, "target")),
    "nn.functional.prelu": Operator(prelu, 0, ("input", "weight"), traced(prelu, "weight")),
    "nn.functional.glu": Operator(glu, bound=traced(glu)),
    "nn.functional.softplus": Operator(softplus, bound=traced(softplus)),
    "nn.functional.pixel_shuffle": Operator(pixel_shuffle),
    "nn.functional.pixel_unshuffle": Operator(pixel_unshuffle),
    "nn.functional.nll_loss": Operator(nll_loss, bound=traced(nll_loss)),
    "nn.functional.local_response_norm": Operator(local_response_norm, bound=traced(local_response_norm)),
    "sigmoid": Operator(sigmoid, bound=traced(sigmoid, theirs=jax.nn.sigmoid)),
    "tanh": Operator(tanh, bound=traced(tanh, theirs=jnp.tanh)),
}  # fmt: skip
for _name, _function in {
    "silu": fnconv.silu,
    "mish": fnconv.mish,
    "selu": fnconv.selu,
    "relu6": fnconv.relu6,
    "hardswish": fnconv.hard_silu,
    "logsigmoid": fnconv.log_sigmoid,
    "softsign": fnconv.soft_sign,
}.items():
    _ours = partial(elementwise, function=_function)
    OPERATORS[f"nn.functional.{_name}"] = Operator(_ours, bound=traced(_ours))
for _loss in (l1_loss, huber_loss, smooth_l1_loss, kl_div, binary_cross_entropy_with_logits):
    _plain = cancelling if _loss is binary_cross_entropy_with_logits else None
    _bound = traced(_loss, "target", plain=_plain)
    OPERATORS[f"nn.functional.{_loss.__name__}"] = Operator(_loss, 0, ("input", "target"), _bound)
for _norm in (layer_norm, rms_norm, group_norm, instance_norm, batch_norm):
    _bound = traced(_norm, *PARAMETERS[1:])
    OPERATORS[f"nn.functional.{_norm.__name__}"] = Operator(_norm, 0, PARAMETERS, _bound, declared=outside)
for _mode in ("nearest-exact", "linear", "bilinear", "bicubic", "trilinear"):
    _bound = None if _mode == "nearest-exact" else resized
    OPERATORS[f"nn.functional.interpolate {_mode}"] = Operator(interpolate, bound=_bound, declared=own_scale)
for _variant in ("", " with_dtype"):
    _log = partial(softmax, function=fnconv.log_softmax)
    OPERATORS |= {
        f"softmax{_variant}": Operator(softmax, bound=along(softmax)),
        f"log_softmax{_variant}": Operator(_log, bound=along(_log)),
    }
for _n in (1, 2, 3):
    OPERATORS |= {
        f"nn.functional.conv{_n}d": Operator(conv, _n, PARAMETERS, numbers="whole"),
        f"nn.functional.conv_transpose{_n}d": Operator(conv_transpose, _n, PARAMETERS, numbers="whole"),
        f"nn.functional.max_pool{_n}d": Operator(max_pool, _n, numbers="whole"),
        f"nn.functional.max_unpool{_n}d": Operator(max_unpool, _n),
        f"nn.functional.max_unpool{_n}d grad": Operator(max_unpool, _n),
        f"nn.functional.avg_pool{_n}d": Operator(avg_pool, _n, bound=averages),
        f"nn.functional.lp_pool{_n}d": Operator(lp_pool, _n, bound=power_averages, numbers="moduli"),
        f"nn.functional.adaptive_max_pool{_n}d": Operator(adaptive_max_pool, _n, numbers="whole"),
        f"nn.functional.adaptive_avg_pool{_n}d": Operator(adaptive_avg_pool, _n, bound=averages),
    }
