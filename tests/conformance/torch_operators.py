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
    """

    ours: Callable[..., Any]
    spatial: int = 0
    operands: tuple[str, ...] = ("input",)
    bound: Callable[[dict[str, Any]], Bound] | None = None
    numbers: str = "own"

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


def interpolate(input, size=None, scale_factor=None, mode="area", align_corners=None, recompute_scale_factor=None):
    """By areas: adaptive average pooling to floor(size * scale)."""
    spatial = input.shape[2:]
    scale = (scale_factor,) * len(spatial) if isinstance(scale_factor, float) else scale_factor
    wanted = size or tuple(math.floor(s * f) for s, f in zip(spatial, scale, strict=True))
    return fnconv.adaptive_avg_pool(input, wanted, **FIRST)


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


def mse_loss(input, target, reduction="mean"):
    each = fnconv.squared_error(input, target)
    return {"none": each, "sum": each.sum(), "mean": each.sum() / each.size}[reduction]


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """Classes are axis 1; ignored labels become -1, which has no weight."""
    logits, integer = jnp.moveaxis(input, 1, -1), jnp.issubdtype(target.dtype, jnp.integer)
    labels = jnp.where(target == ignore_index, -1, target) if integer else jnp.moveaxis(target, 1, -1)
    hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) if integer else labels
    hot = hot if weight is None else hot * weight
    each = fnconv.softmax_cross_entropy(logits, labels if weight is None else hot)
    total = hot.sum() if integer else each.size
    return {"none": each, "sum": each.sum(), "mean": each.sum() / total}[reduction]


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


def traced(ours: Callable[..., Any], *others: str, theirs: Callable[..., Any] | None = None) -> Callable[..., Bound]:
    """Of the input and `others`.  theirs: as Torch computes the slope, if not as we do."""

    def bound(arguments: dict[str, Any]) -> Bound:
        arrays = {k: v.numpy() for k, v in arguments.items() if hasattr(v, "numpy")}
        names = [k for k in ("input", *others) if arrays[k].dtype.kind == "f"]

        def function(*operands: jax.Array) -> jax.Array:
            dtype = operands[0].dtype
            constants = {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in arrays.items()}
            return ours(**arguments | constants | dict(zip(names, operands, strict=True)))

        return Traced(function, theirs or function, ("x", *names[1:]))

    return bound


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
