"""Convolution and its two gradients: three maps closed under differentiation.

    y  = convolution(x, w)          dx = input_gradient(dy, w)          dw = weight_gradient(x, dy)

Each is linear in either operand, and the adjoints of one are the other two.  With u the cotangent of a result, the
cotangents of its operands are

    of convolution(x, w)            dx  = input_gradient(u, w)          dw  = weight_gradient(x, u)
    of input_gradient(dy, w)        ddy = convolution(u, w)             dw  = weight_gradient(u, dy)
    of weight_gradient(x, dy)       dx  = input_gradient(dy, u)         ddy = convolution(x, u)

The adjoints below are this table, row by row, so derivatives of every order are by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnconv.base.attach import LinearMap, attach
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.geometry import Axis
from fnconv.base.layout import (
    canonical,
    canonical_kernel,
    check_layout,
    join_shape,
    restore,
    restore_kernel,
    split_shape,
)
from fnconv.base.lowering import per_channel
from fnconv.base.spec import (
    ConvSpec,
    as_array,
    check_groups,
    paddings,
    per_axis,
    same_dtype,
    spatial_shape,
    whole_shape,
)
from fnconv.base.typing import ArrayLike, IntOrTuple, Layout, Padding, Precision, RuleNames
from fnconv.rules import available, maps

# ---- y = convolution(x, w) ------------------------------------------------------------------------------------------


def conv(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    groups: int = 1,
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
    precision: Precision = None,
) -> jax.Array:
    """Convolution, in any number of spatial dimensions: the correlation of networks, the kernel is not flipped.

    y[o] = sum_k x[o * stride + k * dilation - low] w[k] + b, Notes 1; Y = phi(X) C, Wei (2.9).
    Gradients: dx by Wei (2.28), (2.30), Notes 2.3 (zero insertion, rot180); dw = phi^T dY, Wei (2.21), Notes 3;
    db = the sum of dy, Small (1).

    Args:
      x: input (*batch, *spatial, in), or (*batch, in, *spatial) with layout="channels_first".  Any number of batch
        axes, also none.  float16, bfloat16 (sums are kept in float32), float32, float64, or integers.
      w: kernels (*window, in / groups, out), or (out, in / groups, *window).  Has x's dtype.
      b: bias (out,), or None.
      strides: steps of the window, an int or one per spatial axis.
      padding: "VALID", "SAME" (output = ceil(size / stride), odd cell high), "SAME_LOWER" (odd cell low), "FULL"
        (every window touching the input), "INPUT_SIZE" (output = input size at every stride, the *same* of Notes),
        an int, one int per axis, or (low, high) pairs; negative ones crop.
      dilation: distance between window elements.
      groups: independent groups of channels; in = groups is depthwise.
      layout: "channels_last" or "channels_first".
      rule: formulation, one name for all maps or {"forward": ..., "input_vjp": ..., "weight_vjp": ...};
        see `fnconv.available_rules()`.
      precision: as in `jax.lax.dot`.  None lets "auto" run Winograd's algorithm in float32 on a CPU: of n products the
        error is at most a small multiple of n u max|x| max|w|, u being the unit roundoff.  With "high" or "highest" it
        is at most about n u times the sum of their own moduli, whatever the scales in x and w.

    Returns:
      y (*batch, *output, out) in x's dtype; an output without room for one window has size 0.

    Raises:
      ValueError, TypeError: at trace time, naming the argument, the rule broken, the value and the shape.

    >>> import jax.numpy as jnp
    >>> a = jnp.array([[1., 3, 1, 4], [2, 8, 5, 1], [3, 2, 0, 3]])[None, :, :, None]
    >>> k = jnp.array([[1., 0], [-1, 1]])[:, :, None, None]
    >>> conv(a, k)[0, :, :, 0].astype(int).tolist()  # Wei (2.1)
    [[7, 0, -3], [1, 6, 8]]
    """
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    x, kernel, spec, batch = arguments("conv", x, w, layout, rule, precision, options)
    y = convolution.attached(spec, canonical(x, len(spec.axes), layout), kernel)
    return restore(_add_bias("conv", y, b), batch, layout)


convolution = LinearMap("conv", maps.conv_forward, ((0, 0), (1, -1)))


# ---- dx = input_gradient(dy, w) -------------------------------------------------------------------------------------


def conv_input_vjp(
    dy: ArrayLike,
    w: ArrayLike,
    input_shape: Sequence[int],
    *,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    groups: int = 1,
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
    precision: Precision = None,
) -> jax.Array:
    """Gradient of `conv` with respect to its input: dx = M^T vec(dY C^T), Wei (2.28), (2.30); Notes 2.3.

    What `torch.nn.grad.conv2d_input` is to Torch.  Options are those of the forward `conv`.

    Args:
      dy: cotangent of y, (*batch, *output, out) or (*batch, out, *output).
      w: kernels of the forward convolution.
      input_shape: the whole shape of x, batch axes and channels included.

    Returns:
      dx of shape `input_shape` in dy's dtype.  Cells that no window reached get 0.

    Raises:
      ValueError, TypeError: as `conv`, and where dy is not of the shape that input_shape leads to.

    >>> import jax.numpy as jnp
    >>> w = jnp.array([[1., 2], [3, 4]])[:, :, None, None]
    >>> dy = jnp.ones((1, 2, 2, 1))
    >>> conv_input_vjp(dy, w, (1, 5, 5, 1), strides=2)[0, 0, :, 0].tolist()  # Notes: the fifth column is left over
    [1.0, 2.0, 1.0, 2.0, 0.0]
    """
    name = "conv_input_vjp"
    dy, w, spatial = _features_and_kernel(name, "dy", dy, w, layout)
    input_shape = whole_shape(name, "input_shape", input_shape)
    if len(input_shape) != dy.ndim:
        raise invalid(name, "input_shape", "needs one entry per axis of dy", input_shape, dy.shape, "dy")
    batch, size, in_channels = split_shape(input_shape, spatial, layout)
    kernel = canonical_kernel(w, layout)
    *window, c, out_channels = kernel.shape
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    spec = _spec(name, input_shape, size, window, (in_channels, out_channels), rule, precision, options)
    if c * spec.groups != in_channels:
        rule_broken = f"must have w's {c} x groups {spec.groups} channels"
        raise invalid(name, "input_shape", rule_broken, in_channels, input_shape)
    _check_cotangent(name, spec, dy, batch, layout)
    return restore(input_gradient.attached(spec, canonical(dy, spatial, layout), kernel), batch, layout)


input_gradient = LinearMap("conv_input_vjp", maps.conv_input_vjp, ((0, 0), None))


# ---- dw = weight_gradient(x, dy) ------------------------------------------------------------------------------------


def conv_weight_vjp(
    x: ArrayLike,
    dy: ArrayLike,
    window_shape: IntOrTuple,
    *,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    groups: int = 1,
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
    precision: Precision = None,
) -> jax.Array:
    """Gradient of `conv` with respect to its kernels: dC = phi(x)^T dY, Wei (2.21); Notes 3.

    What `torch.nn.grad.conv2d_weight` is to Torch.  Options are those of the forward `conv`.

    Args:
      x: input of the forward convolution.
      dy: cotangent of y.
      window_shape: of the kernels, one entry per spatial axis, or an int as in `max_pool`.

    Returns:
      dw (*window, in / groups, out) or (out, in / groups, *window) in x's dtype, summed over the batch.

    Raises:
      ValueError, TypeError: as `conv`, and where dy is not of the shape that x leads to.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(16.).reshape(1, 4, 4, 1)
    >>> conv_weight_vjp(x, jnp.ones((1, 2, 2, 1)), (2, 2), strides=2)[:, :, 0, 0].tolist()
    [[20.0, 24.0], [36.0, 40.0]]
    """
    name = "conv_weight_vjp"
    check_layout(name, layout)
    x, dy = as_array(name, "x", x), as_array(name, "dy", dy)
    same_dtype(name, x=x, dy=dy)
    window = spatial_shape(name, "window_shape", window_shape, x.shape, minimum=1)
    spatial = len(window)
    if dy.ndim != x.ndim:
        raise invalid(name, "dy", f"must have {x.ndim} axes as x", dy.shape, x.shape)
    batch, size, in_channels = split_shape(x.shape, spatial, layout)
    _, _, out_channels = split_shape(dy.shape, spatial, layout)
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    spec = _spec(name, x.shape, size, window, (in_channels, out_channels), rule, precision, options)
    if not batch and spatial > 1 and dy.shape != join_shape(batch, spec.y_shape(1)[1:-1], out_channels, layout):
        rule = f"needs one entry per spatial dimension, and to lead from x to dy of shape {dy.shape}"
        raise invalid(name, "window_shape", rule, window, x.shape)
    _check_cotangent(name, spec, dy, batch, layout)
    dw = weight_gradient.attached(spec, canonical(x, spatial, layout), canonical(dy, spatial, layout))
    return restore_kernel(dw, layout)


weight_gradient = LinearMap("conv_weight_vjp", maps.conv_weight_vjp, (None, None))


# ---- the table above ------------------------------------------------------------------------------------------------

convolution.adjoints = (
    lambda spec, u, x, w: input_gradient(spec, u, w),
    lambda spec, u, x, w: weight_gradient(spec, x, u),
)
input_gradient.adjoints = (
    lambda spec, u, dy, w: convolution(spec, u, w),
    lambda spec, u, dy, w: weight_gradient(spec, u, dy),
)
weight_gradient.adjoints = (
    lambda spec, u, x, dy: input_gradient(spec, dy, u),
    lambda spec, u, x, dy: convolution(spec, x, u),
)


# ---- transposed convolution -----------------------------------------------------------------------------------------


def conv_transpose(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    strides: IntOrTuple = 1,
    padding: Padding = "VALID",
    output_padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    layout: Layout = "channels_last",
    rule: RuleNames = "auto",
    precision: Precision = None,
) -> jax.Array:
    """Transposed convolution: `conv_input_vjp` as a layer, plus b, with the arguments of the conv that it transposes.

    <u, conv(v, w)> = <conv_transpose(u, w), v>.  As in Torch, whose weights go in as they are with
    layout="channels_first".  Its gradients are `conv` and `conv_weight_vjp`.

    Args:
      x: input (*batch, *spatial, in) or (*batch, in, *spatial); `in` are the *output* channels of the conv.
      w: kernels of the conv: (*window, out / groups, in), or (in, out / groups, *window).
      b: bias (out,), or None.
      strides, padding, dilation, groups: of the conv.  The output has (size - 1) * stride + span - low - high
        cells, span being the dilated window; for "SAME" and "SAME_LOWER" size * stride, the largest input that a
        SAME conv maps to `size`; for "INPUT_SIZE" size.
      output_padding: cells added at the high end, to choose among the inputs that share an output; less than the
        stride or the dilation, and 0 with "SAME", "SAME_LOWER", "INPUT_SIZE".
      layout, rule, precision: as in `conv`; `rule` names the conv's maps, of which input_vjp runs forward.

    Returns:
      y (*batch, *output, out) in x's dtype.

    Raises:
      ValueError, TypeError: as `conv`.

    >>> import jax.numpy as jnp
    >>> y = conv_transpose(jnp.ones((1, 2, 1)), jnp.array([1., 2, 3])[:, None, None], strides=2, output_padding=1)
    >>> y[0, :, 0].tolist()
    [1.0, 2.0, 4.0, 2.0, 3.0, 0.0]
    """
    name = "conv_transpose"
    x, w, spatial = _features_and_kernel(name, "x", x, w, layout)
    batch, outputs, out_of_conv = split_shape(x.shape, spatial, layout)
    kernel = canonical_kernel(w, layout)
    *window, c, kernels = kernel.shape
    size, pairs = _transposed_geometry(name, x.shape, outputs, window, strides, padding, dilation, output_padding)
    groups = check_groups(name, groups, out_of_conv, 0, x.shape)
    options = {"strides": strides, "padding": pairs, "dilation": dilation, "groups": groups}
    spec = _spec(name, x.shape, size, window, (c * groups, out_of_conv), rule, precision, options)
    if kernels != out_of_conv:
        raise invalid(name, "w", f"must have as many input channels as x, {out_of_conv}", kernels, x.shape)
    y = input_gradient.attached(spec, canonical(x, spatial, layout), kernel)
    return restore(_add_bias(name, y, b), batch, layout)


def _transposed_geometry(
    name: str,
    shape: tuple[int, ...],
    outputs: Sequence[int],
    window: Sequence[int],
    strides: Any,
    padding: Any,
    dilation: Any,
    output_padding: Any,
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Input size and paddings of the conv whose adjoint this is.

    output_padding enlarges the input and is taken off the high padding: the conv's output stays as large as x.
    """
    n = len(window)
    s = per_axis(name, "strides", strides, n, shape, minimum=1)
    d = per_axis(name, "dilation", dilation, n, shape, minimum=1)
    extra = per_axis(name, "output_padding", output_padding, n, shape, minimum=0)
    named = padding.upper() if isinstance(padding, str) else ""
    sizes = [o * t if named in ("SAME", "SAME_LOWER") else o for o, t in zip(outputs, s, strict=True)]
    axes = [Axis(*a) for a in zip(sizes, window, s, d, strict=True)]
    pairs = paddings(name, padding, axes, shape)
    fixed = named in ("SAME", "SAME_LOWER", "INPUT_SIZE")
    if fixed and any(extra):
        raise invalid(name, "output_padding", f"must be 0 with padding {named}", extra, shape)
    if any(e >= max(a.stride, a.dilation) for a, e in zip(axes, extra, strict=True)):
        raise invalid(name, "output_padding", "must be less than the stride or the dilation", extra, shape)
    if not fixed:
        sizes = [
            max(o - 1, 0) * a.stride + a.span - low - high + e if o else 0
            for o, a, (low, high), e in zip(outputs, axes, pairs, extra, strict=True)
        ]
    if any(size < 0 for size in sizes):
        raise invalid(name, "padding", "must leave a non-negative output size", padding, shape)
    taken = [e if o else 0 for e, o in zip(extra, outputs, strict=True)]
    return tuple(sizes), tuple((low, high - e) for (low, high), e in zip(pairs, taken, strict=True))


# ---- bias -----------------------------------------------------------------------------------------------------------


def _add_bias(name: str, y: jax.Array, b: Any) -> jax.Array:
    return y if b is None else bias(y, checked_bias(name, y, b, y.shape[-1]))


def checked_bias(name: str, x: jax.Array, b: Any, channels: int) -> jax.Array:
    b = as_array(name, "b", b)
    same_dtype(name, x=x, b=b)
    if b.shape != (channels,):
        raise invalid(name, "b", f"must have one entry per output channel, shape {(channels,)}", b.shape)
    return b


def _bias_primal(y: jax.Array, b: jax.Array) -> jax.Array:
    return y + per_channel(b, y)


def _bias_fwd(y: jax.Array, b: jax.Array) -> tuple[jax.Array, None]:
    return _bias_primal(y, b), None


def _bias_bwd(residuals: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, bias_vjp(dy)


def bias_vjp(dy: jax.Array) -> jax.Array:
    """db = the sum of delta over batch and positions, Small (1), Notes 2.1."""
    db = jnp.sum(to_accumulator(dy), axis=tuple(range(dy.ndim - 1)))
    return db.astype(dy.dtype)


bias = attach(_bias_primal, _bias_fwd, _bias_bwd, has_spec=False)


# ---- operands -------------------------------------------------------------------------------------------------------


def arguments(
    name: str, x: Any, w: Any, layout: Layout, rule: RuleNames, precision: Precision, options: dict[str, Any]
) -> tuple[jax.Array, jax.Array, ConvSpec, tuple[int, ...]]:
    """A convolution's checked x, its kernel (*window, in / groups, out), its spec and its batch axes."""
    x, w, spatial = _features_and_kernel(name, "x", x, w, layout)
    batch, size, in_channels = split_shape(x.shape, spatial, layout)
    kernel = canonical_kernel(w, layout)
    *window, c, out_channels = kernel.shape
    spec = _spec(name, x.shape, size, window, (in_channels, out_channels), rule, precision, options)
    if c * spec.groups != in_channels:
        rule_broken = f"must have {in_channels // spec.groups} input channels per group, x's {in_channels} / groups"
        raise invalid(name, "w", rule_broken, c, x.shape)
    return x, kernel, spec, batch


def _features_and_kernel(
    name: str, argument: str, x: ArrayLike, w: ArrayLike, layout: Layout
) -> tuple[jax.Array, jax.Array, int]:
    """Checked x and w, and the number of spatial dimensions, which w tells."""
    check_layout(name, layout)
    x, w = as_array(name, argument, x), as_array(name, "w", w)
    same_dtype(name, **{argument: x}, w=w)
    spatial = w.ndim - 2
    if spatial < 1:
        raise invalid(name, "w", "must have a window axis or more and two channel axes", w.shape, x.shape, argument)
    if x.ndim < spatial + 1:
        rule = f"must have {spatial} spatial axes, as w of shape {w.shape}, and one for channels"
        raise invalid(name, argument, rule, x.shape)
    return x, w, spatial


def _spec(
    name: str,
    shape: tuple[int, ...],
    size: Sequence[int],
    window: Sequence[int],
    channels: tuple[int, int],
    rule: RuleNames,
    precision: Precision,
    options: dict[str, Any],
) -> ConvSpec:
    named = {**options, "rule": rule, "precision": precision, "available": available.names("conv")}
    return ConvSpec.from_args(name, shape, size, window, channels[0], channels[1], **named)


def _check_cotangent(name: str, spec: ConvSpec, dy: jax.Array, batch: tuple[int, ...], layout: Layout) -> None:
    _, *outputs, channels = spec.y_shape(1)
    expected = join_shape(batch, tuple(outputs), channels, layout)
    if dy.shape != expected:
        raise invalid(name, "dy", f"must have the shape of conv's output, {expected}", dy.shape)
