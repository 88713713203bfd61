"""`keras.ops`' convolutions and poolings, signature for signature, as its JAX backend computes them."""

from __future__ import annotations

import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.errors import invalid, mistyped
from fnconv.base.spec import native
from fnconv.base.typing import LAYOUTS, ArrayLike, IntOrTuple, Layout
from fnconv.compat.arguments import check_dtypes, declined, sequence
from fnconv.compat.lax import conv_general_dilated
from fnconv.compat.lax import conv_transpose as lax_conv_transpose
from fnconv.ops.avg_pool import avg_pool
from fnconv.ops.max_pool import max_pool as first_max_pool

PADDINGS: dict[str, Literal["VALID", "SAME"]] = {"valid": "VALID", "same": "SAME"}


def conv(
    inputs: ArrayLike,
    kernel: ArrayLike,
    strides: IntOrTuple = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: IntOrTuple = 1,
) -> jax.Array:
    """`keras.ops.conv` with the gradients of `fnconv.conv`.

    Args:
      inputs: (N, *spatial, in) or (N, in, *spatial); converted to the kernel's dtype.
      kernel: (*window, in / groups, out) in either data format; the groups follow from its channels.
      strides, dilation_rate: an int or one per spatial axis.
      padding: "valid" or "same", in any case.
      data_format: "channels_last", "channels_first", or None for Keras' setting, "channels_last" where Keras is not
        in use.

    Returns:
      (N, *output, out) or (N, out, *output).

    Raises:
      NotImplementedError: symbolic tensors; complex, boolean and 8-bit floating dtypes.
      ValueError, TypeError: channels that do not fit, an empty result, and where lax raises.

    >>> x, w = jnp.arange(4.).reshape(1, 4, 1), jnp.array([1., 10.]).reshape(2, 1, 1)
    >>> conv(x, w, padding="same")[0, :, 0].tolist()
    [10.0, 21.0, 32.0, 3.0]
    """
    inputs, kernel, layout, channels = _operands("conv", inputs, kernel, data_format)
    inputs = inputs.astype(kernel.dtype)
    if channels % kernel.shape[-2]:
        rule = f"must have a number of input channels that divides the {channels} of inputs"
        raise invalid("conv", "kernel", rule, kernel.shape, inputs.shape)
    groups = channels // kernel.shape[-2]
    y = _convolve("conv", inputs, kernel, strides, padding, layout, dilation_rate, groups)
    if y.size == 0 and inputs.size:
        raise invalid("conv", "inputs", "must have room for one window", inputs.shape)
    return y


def depthwise_conv(
    inputs: ArrayLike,
    kernel: ArrayLike,
    strides: IntOrTuple = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: IntOrTuple = 1,
) -> jax.Array:
    """`keras.ops.depthwise_conv` with the gradients of `fnconv.conv`.

    Args:
      kernel: (*window, in, multiplier); the dtype is that of inputs.
      inputs, strides, padding, data_format, dilation_rate: as in `conv`.

    Returns:
      (N, *output, in * multiplier) or (N, in * multiplier, *output).

    Raises:
      NotImplementedError, ValueError, TypeError: as `conv`.

    >>> depthwise_conv(jnp.ones((1, 2, 2)), jnp.arange(4.).reshape(1, 2, 2))[0, 0].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    inputs, kernel, layout, channels = _operands("depthwise_conv", inputs, kernel, data_format)
    if kernel.shape[-2] != channels:
        rule = f"must have the {channels} input channels of inputs"
        raise invalid("depthwise_conv", "kernel", rule, kernel.shape, inputs.shape)
    kernel = kernel.reshape(*kernel.shape[:-2], 1, channels * kernel.shape[-1])
    return _convolve("depthwise_conv", inputs, kernel, strides, padding, layout, dilation_rate, channels)


def conv_transpose(
    inputs: ArrayLike,
    kernel: ArrayLike,
    strides: IntOrTuple = 1,
    padding: str = "valid",
    output_padding: IntOrTuple | None = None,
    data_format: str | None = None,
    dilation_rate: IntOrTuple = 1,
) -> jax.Array:
    """`keras.ops.conv_transpose` with the gradients of `fnconv.conv`.

    Args:
      inputs: (N, *spatial, in) or (N, in, *spatial).
      kernel: (*window, out, in), in the dtype of inputs.
      output_padding: cells added at the high end of (size - 1) * stride + span for "valid", of
        (size - 1) * stride + span % 2 for "same"; None for (size - 1) * stride + max(span, stride) and size * stride
        cells.  span is the dilated window.
      strides, padding, data_format, dilation_rate: as in `conv`.

    Returns:
      (N, *output, out) or (N, out, *output).

    Raises:
      NotImplementedError, ValueError, TypeError: as `conv`.

    >>> x, w = jnp.ones((1, 2, 1)), jnp.array([1., 2., 3.]).reshape(3, 1, 1)
    >>> conv_transpose(x, w, strides=2, output_padding=1)[0, :, 0].tolist()
    [1.0, 2.0, 4.0, 2.0, 3.0, 0.0]
    """
    name = "conv_transpose"
    inputs, kernel, layout, channels = _operands(name, inputs, kernel, data_format)
    if kernel.shape[-1] != channels:
        raise invalid(name, "kernel", f"must have the {channels} input channels of inputs", kernel.shape, inputs.shape)
    n = inputs.ndim - 2
    named = _padding(name, padding)
    steps, dilation = _each(name, "strides", strides, n), _each(name, "dilation_rate", dilation_rate, n)
    extra = (None,) * n if output_padding is None else _each(name, "output_padding", output_padding, n)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:-2], dilation, strict=True)]
    pads = [_transposed_pads(named, *axis) for axis in zip(spans, steps, extra, strict=True)]
    numbers = _dimension_numbers(n, layout)
    return lax_conv_transpose(inputs, kernel, steps, pads, dilation, numbers, transpose_kernel=True)


def _transposed_pads(padding: str, span: int, stride: int, output_padding: int | None) -> tuple[int, int]:
    """(low, high) of the dilated input, whose unpadded result has (size - 1) * stride + 2 - span cells."""
    if padding == "VALID":
        extra = max(stride - span, 0) if output_padding is None else output_padding
        return span - 1, span - 1 + extra
    total = span - 2 + (stride if output_padding is None else span % 2 + output_padding)
    low = min(total - total // 2, span - 1)
    return low, total - low


def max_pool(
    inputs: ArrayLike,
    pool_size: IntOrTuple,
    strides: IntOrTuple | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> jax.Array:
    """`keras.ops.max_pool` with the gradient of `fnconv.max_pool`.

    Args:
      inputs: (N, *spatial, C) or (N, C, *spatial).
      pool_size: an int or one per spatial axis.
      strides: an int or one per spatial axis; None for pool_size, as documented (Keras 3.15 on JAX raises).
      padding, data_format: as in `conv`.

    Returns:
      (N, *output, C) or (N, C, *output) in the dtype of inputs.

    Raises:
      NotImplementedError: as `conv`.
      ValueError, TypeError: as `fnconv.max_pool`.

    >>> max_pool(jnp.arange(4.).reshape(1, 4, 1), 2)[0, :, 0].tolist()
    [1.0, 3.0]
    """
    layout, named = _layout("max_pool", data_format), _padding("max_pool", padding)
    x = _tensor("max_pool", "inputs", inputs)
    window = _each("max_pool", "pool_size", pool_size, x.ndim - 2)
    return first_max_pool(x, window, strides=strides, padding=named, layout=layout)


def average_pool(
    inputs: ArrayLike,
    pool_size: IntOrTuple,
    strides: IntOrTuple | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> jax.Array:
    """`keras.ops.average_pool` with the gradient of `fnconv.avg_pool`; padding is not counted.

    Args:
      inputs, pool_size, strides, padding, data_format: as in `max_pool`.

    Returns:
      (N, *output, C) or (N, C, *output) in the dtype of inputs, the default floating one for integers.

    Raises:
      NotImplementedError, ValueError, TypeError: as `max_pool`.

    >>> average_pool(jnp.arange(3.).reshape(1, 3, 1), 2, padding="same")[0, :, 0].tolist()
    [0.5, 2.0]
    """
    layout, named = _layout("average_pool", data_format), _padding("average_pool", padding)
    x = _tensor("average_pool", "inputs", inputs)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))
    window = _each("average_pool", "pool_size", pool_size, x.ndim - 2)
    return avg_pool(x, window, strides=strides, padding=named, count_include_pad=False, layout=layout)


# ---- arguments ------------------------------------------------------------------------------------------------------


def _operands(name: str, inputs: Any, kernel: Any, data_format: str | None) -> tuple[jax.Array, jax.Array, Layout, int]:
    """Checked inputs and kernel, the layout, and the channels of inputs."""
    layout = _layout(name, data_format)
    inputs = _tensor(name, "inputs", inputs)
    kernel = _tensor(name, "kernel", kernel, inputs.ndim)
    return inputs, kernel, layout, inputs.shape[-1 if layout == "channels_last" else 1]


def _convolve(
    name: str,
    inputs: jax.Array,
    kernel: jax.Array,
    strides: IntOrTuple,
    padding: str,
    layout: Layout,
    dilation_rate: IntOrTuple,
    groups: int,
) -> jax.Array:
    n = inputs.ndim - 2
    return conv_general_dilated(
        inputs,
        kernel,
        _each(name, "strides", strides, n),
        _padding(name, padding),
        rhs_dilation=_each(name, "dilation_rate", dilation_rate, n),
        dimension_numbers=_dimension_numbers(n, layout),
        feature_group_count=groups,
    )


def _dimension_numbers(n: int, layout: Layout) -> lax.ConvDimensionNumbers:
    """Features in the layout, kernels (*window, in, out)."""
    features = (0, n + 1, *range(1, n + 1)) if layout == "channels_last" else tuple(range(n + 2))
    return lax.ConvDimensionNumbers(features, (n + 1, n, *range(n)), features)


def _each(name: str, argument: str, value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(sequence(name, argument, value))


def _padding(name: str, padding: Any) -> Literal["VALID", "SAME"]:
    if not isinstance(padding, str):
        raise mistyped(name, "padding", 'must be "valid" or "same"', repr(padding))
    if padding.lower() not in PADDINGS:
        raise invalid(name, "padding", 'must be "valid" or "same"', repr(padding))
    return PADDINGS[padding.lower()]


def _layout(name: str, data_format: str | None) -> Layout:
    if data_format is None:
        keras = sys.modules.get("keras")
        return keras.config.image_data_format() if keras else "channels_last"
    for layout in LAYOUTS:
        if layout == str(data_format).lower():
            return layout
    raise invalid(name, "data_format", f"must be one of {', '.join(LAYOUTS)}", repr(data_format))


def _tensor(name: str, argument: str, x: Any, axes: int = 2) -> jax.Array:
    """A Keras variable or an array as an array of a supported dtype, with so many axes or more."""
    if type(x).__name__ == "KerasTensor":
        raise declined(name, argument, "must not be symbolic (wrap the call in a layer)", x)
    x = native(name, argument, x)
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise mistyped(name, argument, "must be an array", type(x).__name__) from error
    if array.ndim < axes:
        raise invalid(name, argument, f"must have {axes} axes or more", array.shape)
    check_dtypes(name, **{argument: array})
    return array
