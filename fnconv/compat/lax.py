"""`jax.lax`'s convolutions and window reductions, signature for signature, on fnconv's maps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.errors import describe
from fnconv.base.pairs import rot180, swap_channels
from fnconv.base.typing import ArrayLike
from fnconv.compat.arguments import as_operand, check_dtypes, declined, sequence, static, with_sharding_of
from fnconv.compat.windows import Pads, reduce_window, zero_insertion
from fnconv.ops.conv import conv, conv_input_vjp

__all__ = ["conv_general_dilated", "conv_transpose", "reduce_window"]

DimensionNumbers = tuple[str, str, str] | lax.ConvDimensionNumbers | None

# ---- convolution ----------------------------------------------------------------------------------------------------


def conv_general_dilated(
    lhs: ArrayLike,
    rhs: ArrayLike,
    window_strides: Sequence[int],
    padding: Pads,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: DimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` with the gradients of `fnconv.conv`.

    Where lhs is dilated and no stride is taken this is a transposed convolution, computed as
    `fnconv.conv_input_vjp`; with both, zeros are put into lhs first, a linear map whose adjoint takes them out.

    Args:
      lhs, rhs: input and kernels, n + 2 axes each, n >= 0: float16, bfloat16, float32, float64 or integers, one dtype.
      window_strides, padding, lhs_dilation, rhs_dilation: as in lax, one entry per spatial axis; padding "VALID",
        "SAME", "SAME_LOWER" or (low, high) pairs, negative ones cropping.
      dimension_numbers: None (NCHW, OIHW, NCHW), three strings, or a `jax.lax.ConvDimensionNumbers`.
      feature_group_count: groups of channels.
      batch_group_count: groups of the batch, computed as groups of channels.
      precision: as in lax, a `jax.lax.DotAlgorithm` excepted.
      preferred_element_type: dtype of the result; the operands are converted to it first.
      out_sharding: sharding of the result on a mesh with explicit axes.

    Returns:
      What `jax.lax.conv_general_dilated` returns: shape, dtype and value.

    Raises:
      NotImplementedError: complex, boolean and 8-bit floating operands; a `DotAlgorithm`.
      ValueError, TypeError: where lax raises, with its message.

    >>> x, w = jnp.arange(4.).reshape(1, 1, 4), jnp.array([[[1., 10.]]])
    >>> conv_general_dilated(x, w, (1,), [(1, 0)], lhs_dilation=(2,))[0, 0].tolist()
    [0.0, 0.0, 10.0, 1.0, 20.0, 2.0, 30.0]
    >>> jax.grad(lambda w: conv_general_dilated(x, w, (2,), "VALID").sum())(w).tolist()
    [[[2.0, 4.0]]]
    """
    name = "conv_general_dilated"
    lhs, rhs = as_operand(name, "lhs", lhs, 2), as_operand(name, "rhs", rhs, 2)
    sequence(name, "window_strides", window_strides)
    if not hasattr(padding, "__len__"):  # in the words of lax
        rule = "should be a string or a sequence of (low, high) pairs"
        raise ValueError(f"padding argument to conv_general_dilated {rule}, got {padding}")
    padding = padding if isinstance(padding, str) else sequence(name, "padding", padding)
    n = lhs.ndim - 2
    return _conv_general_dilated(
        lhs,
        rhs,
        window_strides=static(window_strides),
        padding=static(padding),
        lhs_dilation=(1,) * n if lhs_dilation is None else static(lhs_dilation),
        rhs_dilation=(1,) * n if rhs_dilation is None else static(rhs_dilation),
        dimension_numbers=_numbers(lhs, rhs, dimension_numbers),
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=tuple(precision) if isinstance(precision, list) else precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )


_STATIC = tuple(inspect.signature(conv_general_dilated).parameters)[2:]


@partial(jax.jit, static_argnames=_STATIC)
def _conv_general_dilated(lhs: jax.Array, rhs: jax.Array, **options: Any) -> jax.Array:
    result = jax.eval_shape(partial(lax.conv_general_dilated, **options), lhs, rhs)  # lax's own checks and messages
    check_dtypes("conv_general_dilated", lhs=lhs, rhs=rhs)
    if isinstance(options["precision"], lax.DotAlgorithm):
        rule = "must not be a DotAlgorithm"
        raise declined("conv_general_dilated", "precision", rule, options["precision"])
    numbers = options["dimension_numbers"]
    order = _canonical_order(numbers.out_spec)
    output = tuple(result.shape[i] for i in order)

    def evaluate(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x = jnp.transpose(lhs, _canonical_order(numbers.lhs_spec)).astype(result.dtype)
        w = jnp.transpose(rhs, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])).astype(result.dtype)
        return jnp.transpose(_convolve(x, w, output, options), [order.index(i) for i in range(len(order))])

    return with_sharding_of(result, evaluate, lhs, rhs)


def _convolve(x: jax.Array, w: jax.Array, output: tuple[int, ...], options: dict[str, Any]) -> jax.Array:
    """x (N, *S, C), w (*K, C / g, D) -> y of shape output, (N, *O, D)."""
    x = _batch_groups_to_channels(x, options["batch_group_count"])
    groups = options["feature_group_count"] * options["batch_group_count"]  # one of them is 1
    inserted, strides, dilation = options["lhs_dilation"], options["window_strides"], options["rhs_dilation"]
    common: dict[str, Any] = {"groups": groups, "precision": options["precision"]}
    if not strides:  # a product of matrices is a convolution over one cell
        return conv(x[:, None], w[None], **common)[:, 0]
    common["dilation"] = dilation
    reach = [(k - 1) * d for k, d in zip(w.shape[:-2], dilation, strict=True)]
    pads = options["padding"]
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[1:-1], [r + 1 for r in reach], strides, pads)
    if max(inserted) == 1:
        return conv(x, w, strides=strides, padding=pads, **common)
    if max(strides) > 1 or 0 in output:
        return conv(zero_insertion.attached(inserted, x), w, strides=strides, padding=pads, **common)
    # the convolution that this one is the adjoint of, see Axis.input_gradient
    pads = [(r - low, r - high) for r, (low, high) in zip(reach, pads, strict=True)]
    return conv_input_vjp(x, swap_channels(rot180(w), groups), output, strides=inserted, padding=pads, **common)


def _batch_groups_to_channels(x: jax.Array, groups: int) -> jax.Array:
    """(g * N, *S, C) -> (N, *S, g * C)."""
    if groups == 1:
        return x
    batch, *size, channels = x.shape
    grouped = jnp.moveaxis(x.reshape(groups, batch // groups, *size, channels), 0, -2)
    return grouped.reshape(batch // groups, *size, groups * channels)


def _canonical_order(spec: Sequence[int]) -> tuple[int, ...]:
    """lax's (batch, feature, *spatial) axes as (batch, *spatial, feature)."""
    return (spec[0], *spec[2:], spec[1])


def _numbers(lhs: jax.Array, rhs: jax.Array, dimension_numbers: DimensionNumbers) -> lax.ConvDimensionNumbers:
    specs = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return lax.ConvDimensionNumbers(*map(tuple, specs))


# ---- transposed convolution -----------------------------------------------------------------------------------------


def conv_transpose(
    lhs: ArrayLike,
    rhs: ArrayLike,
    strides: Sequence[int],
    padding: Pads,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: DimensionNumbers = None,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: Any = None,
    use_consistent_padding: bool = False,
) -> jax.Array:
    """`jax.lax.conv_transpose` with the gradients of `fnconv.conv`.

    Args:
      lhs, rhs, rhs_dilation, precision, preferred_element_type: as in `conv_general_dilated`.
      strides: cells of the result for one of lhs, per spatial axis.
      padding: "SAME" (output = size * stride), "VALID", or (low, high) pairs: of the dilated lhs, or, with
        use_consistent_padding, of the convolution that is transposed.
      dimension_numbers: None for channels last with kernels (*window, in, out), else as in `conv_general_dilated`.
      transpose_kernel: flip the window and exchange the kernel's in and out axes, as the gradient of a convolution
        does.

    Returns:
      What `jax.lax.conv_transpose` returns: shape, dtype and value.

    Raises:
      NotImplementedError, ValueError, TypeError: as `conv_general_dilated`.

    >>> x, w = jnp.ones((1, 2, 1)), jnp.array([1., 2., 3.]).reshape(3, 1, 1)
    >>> conv_transpose(x, w, (2,), "VALID")[0, :, 0].tolist()
    [3.0, 2.0, 4.0, 2.0, 1.0]
    """
    name = "conv_transpose"
    lhs, rhs = as_operand(name, "lhs", lhs), as_operand(name, "rhs", rhs)
    if lhs.ndim != rhs.ndim or lhs.ndim < 2:
        rule = "must have as many axes as rhs, two or more"
        raise ValueError(describe("conv_transpose", "lhs", rule, (lhs.shape, rhs.shape)))
    sequence(name, "strides", strides)
    padding = padding if isinstance(padding, str) else sequence(name, "padding", padding)
    n = lhs.ndim - 2
    if dimension_numbers is None:
        if n > 3:
            raise ValueError(describe("conv_transpose", "dimension_numbers", "has no default for lhs", lhs.shape))
        letters = "HWD"[:n]
        dimension_numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    numbers = _numbers(lhs, rhs, dimension_numbers)
    rhs_dilation = (1,) * n if rhs_dilation is None else rhs_dilation
    pads = padding
    if use_consistent_padding or padding in ("SAME", "VALID"):
        spans = [(rhs.shape[i] - 1) * d + 1 for i, d in zip(numbers.rhs_spec[2:], rhs_dilation, strict=True)]
        each = [padding] * n if isinstance(padding, str) else padding
        pads = [_transposed_pads(k, s, p) for k, s, p in zip(spans, strides, each, strict=True)]
    if transpose_kernel:
        rhs = jnp.flip(rhs, numbers.rhs_spec[2:]).swapaxes(numbers.rhs_spec[0], numbers.rhs_spec[1])
    return conv_general_dilated(
        lhs,
        rhs,
        (1,) * n,
        pads,
        strides,
        rhs_dilation,
        numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _transposed_pads(span: int, stride: int, padding: Any) -> tuple[int, int]:
    """Paddings of the dilated lhs from those of the convolution that is transposed.

    The sizes are (size - 1) * stride + max(span, stride) for VALID and size * stride for SAME.
    """
    match padding:
        case "VALID":
            return span - 1, max(span, stride) - 1
        case "SAME":
            total = span + stride - 2
            low = min(span - 1, total - total // 2)
            return low, total - low
        case (low, high):
            return span - 1 - low, span - 1 - high
    raise ValueError(describe("conv_transpose", "padding", 'must be "SAME", "VALID" or (low, high) pairs', padding))
