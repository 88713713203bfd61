"""Bugs to plant in the package, each with the check of `test_mutations` that must find it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnconv.base import chunks, dtypes, geometry, lowering, window_sums
from fnconv.base.attach import attach
from fnconv.base.spec import ConvSpec
from fnconv.ops import activation, conv, elementwise, loss, lp_pool, max_pool, norm, resize, response_norm
from fnconv.rules import choice
from fnconv.rules import conv as conv_rules
from fnconv.rules import max_pool as max_rules
from fnconv.rules.avg_pool import divide
from fnconv.rules.conv import blocked, correlation, depthwise, im2col, merged, unit_stride, winograd
from fnconv.rules.conv import lax as lax_rule
from fnconv.rules.conv.rewrite import Rewrite
from fnconv.rules.max_pool import offsets, segment_sum
from fnconv.textbook import matrices as textbook

Patch = pytest.MonkeyPatch


def rebind(rules: dict, map_: str, name: str, change: Callable) -> Callable[[Patch], None]:
    """One formulation of one map runs `change(original)`."""
    return lambda patch: patch.setitem(rules[map_], name, change(rules[map_][name]))


def swap_sides(method: str) -> Callable[[Patch], None]:
    """The low and the high padding of a backward correlation change places."""
    original = getattr(geometry.Axis, method)

    def wrong(axis: geometry.Axis) -> geometry.Axis:
        a = original(axis)
        return dataclasses.replace(a, low=a.high, high=a.low)

    return lambda patch: patch.setattr(geometry.Axis, method, wrong)


def leftover_dropped(patch: Patch) -> None:
    """The cotangent is taken to reach the end of the input: the formula without leftovers, then shifted to fit."""
    original = geometry.Axis.input_gradient

    def wrong(axis: geometry.Axis) -> geometry.Axis:
        a = original(axis)
        return dataclasses.replace(a, low=a.low + axis.leftover, high=a.high - axis.leftover)

    patch.setattr(geometry.Axis, "input_gradient", wrong)


def leftover_uncropped(patch: Patch) -> None:
    """The weight gradient keeps the cells that no window reached: one result too many."""
    original = geometry.Axis.weight_gradient

    def wrong(axis: geometry.Axis) -> geometry.Axis:
        return dataclasses.replace(original(axis), high=axis.high)

    patch.setattr(geometry.Axis, "weight_gradient", wrong)


def strides_and_dilations_kept(patch: Patch) -> None:
    """Stride and dilation do not change places in the weight gradient."""
    original = geometry.Axis.weight_gradient

    def wrong(axis: geometry.Axis) -> geometry.Axis:
        a = original(axis)
        return dataclasses.replace(a, stride=a.dilation, dilation=a.stride)

    patch.setattr(geometry.Axis, "weight_gradient", wrong)


def scale_one_element(forward: Callable) -> Callable:
    return lambda spec, x, w: forward(spec, x, w.at[(0,) * w.ndim].multiply(jnp.asarray(1.0005, w.dtype)))


def leak_between_images(rule: Callable) -> Callable:
    """The first image of the batch leaks into the last."""
    return lambda spec, x, w: (y := rule(spec, x, w)).at[-1].add(y[0] * jnp.asarray(2**-8, y.dtype))


def only_the_first_image(rule: Callable) -> Callable:
    return lambda spec, x, dy: rule(spec, x[:1], dy[:1])


def mean_of_delta(patch: Patch) -> None:
    def bwd(residuals: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return dy, jnp.mean(dy, axis=tuple(range(dy.ndim - 1)))

    patch.setattr(conv, "bias", attach(conv._bias_primal, conv._bias_fwd, bwd, has_spec=False))


def overwrite_instead_of_add(cols: jax.Array, axes: tuple) -> jax.Array:
    """Wei (2.30) as if m were injective, as the text has it."""
    n, c = cols.shape[0], cols.shape[-1]
    cells = geometry.volume(geometry.sizes(axes))
    table = geometry.flat_table(axes).reshape(-1)
    dx = jnp.zeros((n, cells, c), cols.dtype)
    return (
        dx.at[:, np.where(table < 0, cells, table)]
        .set(cols.reshape(n, -1, c), mode="drop")
        .reshape(n, *geometry.sizes(axes), c)
    )


def index_map_one_off(patch: Patch) -> None:
    original = textbook.index_map
    patch.setattr(textbook, "index_map", lambda axes, channels: np.roll(original(axes, channels), 1, axis=1))


def residues_exchanged(patch: Patch) -> None:
    """Results of one residue of a dilation are put where those of the next belong."""
    original = unit_stride._joined
    patch.setattr(unit_stride, "_joined", lambda y, steps: original(jnp.roll(y, 1, axis=0), steps))


def dilation_ignored(patch: Patch) -> None:
    original = blocked._elements
    patch.setattr(blocked, "_elements", lambda a, t, n: original(dataclasses.replace(a, dilation=1), t, n))


def channels_tiled(spec: ConvSpec, x: jax.Array) -> jax.Array:
    """A channel multiplier that repeats all channels, and not each of them."""
    return jnp.concatenate([dtypes.to_accumulator(x)] * (spec.out_channels // spec.in_channels), axis=-1)


def off_the_diagonal(patch: Patch) -> None:
    """The weight gradient of merged groups takes the other groups' blocks as well."""
    original = merged._merge

    def wrong(spec: ConvSpec, map_: str) -> Rewrite:
        merge = original(spec, map_)
        *window, c, _ = spec.w_shape
        return dataclasses.replace(merge, w=(merge.w[0], lambda w: w.reshape(*window, -1, c, w.shape[-1]).sum(axis=-3)))

    patch.setattr(merged, "_merge", wrong)


def last_chunk_alone(f: Callable, size: int, *arrays: jax.Array, limit: int = chunks.BYTES) -> jax.Array:
    n = chunks.chunks(arrays[0].shape[0], size, limit)
    return f(*(a[a.shape[0] - a.shape[0] // n :] for a in arrays))


def padding_zero(patch: Patch) -> None:
    for module in (offsets, segment_sum):
        patch.setattr(module, "lowest", lambda dtype: 0)


def ties_swapped(patch: Patch) -> None:
    other = {"row_major": "column_major", "column_major": "row_major"}
    patch.setattr(offsets, "taps", lambda axes, order="row_major": geometry.taps(axes, other[order]))


def all_ties_win(unselect: Callable) -> Callable:
    """Every window element, not its winner alone, takes dy: what no maximum does."""
    return lambda spec, offset, dy: unselect(spec, offset, dy) + unselect(spec, jnp.maximum(offset - 1, 0), dy)


def blind_to_nan(forward: Callable) -> Callable:
    return lambda spec, x: forward(spec, jnp.where(jnp.isnan(x), jnp.asarray(-jnp.inf, x.dtype), x))


def overshoot(change: Callable[[geometry.Axis, int], int]) -> Callable[[Patch], None]:
    original = geometry.ceil_overshoot
    return lambda patch: patch.setattr(geometry, "ceil_overshoot", lambda axis: change(axis, original(axis)))


def past_the_input(axis: geometry.Axis, cells: int) -> int:
    """A last window wherever cells are left over."""
    leftover = axis.padded - axis.reach
    return axis.stride - leftover if leftover > 0 else cells


def first_writer(output: tuple[int, ...], indices: jax.Array) -> jax.Array:
    n, c, cells = indices.shape[0], indices.shape[-1], geometry.volume(output)
    flat = indices.reshape(n, -1, c)
    hit = flat[:, None] == jnp.arange(cells, dtype=flat.dtype)[None, :, None, None]
    return jnp.where(hit.any(axis=2), hit.argmax(axis=2).astype(jnp.int32), -1)


def windows_do_not_overlap(patch: Patch) -> None:
    """Adaptive windows that start where the last one stopped."""

    def start(axis: geometry.AdaptiveAxis) -> np.ndarray:
        return -(-np.arange(axis.output) * axis.size // axis.output).astype(np.int32)

    patch.setattr(geometry.AdaptiveAxis, "starts", start)


def output_padding_low(patch: Patch) -> None:
    original = conv._transposed_geometry

    def wrong(name, shape, outputs, window, strides, padding, dilation, output_padding):
        size, pairs = original(name, shape, outputs, window, strides, padding, dilation, output_padding)
        return size, tuple((low - e, high + e) for (low, high), e in zip(pairs, output_padding, strict=True))

    patch.setattr(conv, "_transposed_geometry", wrong)


def padding_always_counts(patch: Patch) -> None:
    patch.setattr(divide, "counts", lambda a, include_pad: lowering.counts(a, True))


def overshoot_counts(patch: Patch) -> None:
    patch.setattr(geometry.Axis, "counts", lambda axis, include_pad: np.full(axis.output, axis.window, np.int32))


def no_safe_divisor(spec, entries, x, y):
    """Where a norm was kept: p = 1 keeps none, its slopes are signs."""
    cells = entries.unfold(x)
    if y is None:
        return jnp.sign(cells)
    return jnp.sign(cells) * (jnp.abs(cells) / entries.spread(y)) ** jnp.asarray(spec.p - 1, cells.dtype)


def exponent_p(patch: Patch) -> None:
    original = lp_pool._slopes
    patch.setattr(lp_pool, "_slopes", lambda spec, *rest: original(dataclasses.replace(spec, p=spec.p + 1), *rest))


def relu_slope_one_at_zero(patch: Patch) -> None:
    def bwd(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
        return (jnp.where(y >= 0, dy, jnp.zeros((), dy.dtype)),)

    patch.setattr(activation, "_relu", attach(activation._relu_primal, activation._relu_fwd, bwd, has_spec=False))


def y_times_one_minus_y(patch: Patch) -> None:
    def bwd(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
        y = activation._logistic(x)
        return (dy * y * (1 - y),)

    patch.setattr(activation, "_sigmoid", attach(activation._logistic, activation._sigmoid_fwd, bwd, has_spec=False))


def without_the_maximum(patch: Patch) -> None:
    patch.setattr(activation, "_centred", lambda x, axis: x)


def labels_not_summed(patch: Patch) -> None:
    """p - y where the labels do not add to 1."""

    def bwd(residuals: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        logits, labels = residuals
        hot = jax.nn.one_hot(labels, logits.shape[-1]) if jnp.issubdtype(labels.dtype, jnp.integer) else labels
        d_logits = (jnp.exp(activation.log_p(logits)) - hot) * dy[..., None]
        return d_logits, None if jnp.issubdtype(labels.dtype, jnp.integer) else jnp.zeros_like(labels)

    patch.setattr(
        loss, "_cross_entropy", attach(loss._cross_entropy_primal, loss._cross_entropy_fwd, bwd, has_spec=False)
    )


def half_the_slope(patch: Patch) -> None:
    def bwd(error: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return error * dy, -error * dy

    patch.setattr(
        loss, "_squared_error", attach(loss._squared_error_primal, loss._squared_error_fwd, bwd, has_spec=False)
    )


def halves_add_in_halves(patch: Patch) -> None:
    for module in (correlation, im2col, dtypes):
        patch.setattr(module, "accumulator", lambda dtype: dtype)


def value_without_tangent(patch: Patch) -> None:
    """dy = S dx of a y that has no tangent: derivatives from the third on miss terms."""
    wrong = jax.custom_jvp(lambda spec, offset, witness, x, y: y, nondiff_argnums=(0,))
    wrong.defjvp(lambda spec, primals, tangents: (primals[3], max_pool.select(spec, *primals[:2], tangents[2])))
    patch.setattr(max_pool, "_as_selected", wrong)


def trust_the_maximum(patch: Patch) -> None:
    """A NaN wins if XLA's maximum finds it."""

    def wrong(values: jax.Array, inside: np.ndarray, axis: int = -1) -> jax.Array:
        top = jnp.max(values, axis=axis, keepdims=True)
        return jnp.argmax(((values == top) | (jnp.isnan(top) & jnp.isnan(values))) & inside, axis=axis)

    patch.setattr(segment_sum, "first_maximum", wrong)


def four_times_dy(patch: Patch) -> None:
    def bwd(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
        return (4 * dy * activation._logistic(2 * x) * activation._logistic(-2 * x),)

    patch.setattr(activation, "_tanh", attach(activation._tangent, activation._tanh_fwd, bwd, has_spec=False))


def one_minus_sigmoid(patch: Patch) -> None:
    slope = lambda x: 1 - activation._logistic(x)  # noqa: E731
    value = lambda x: -elementwise.log_one_plus_exp(-x)  # noqa: E731
    patch.setattr(elementwise, "_log_sigmoid", elementwise.elementwise("log_sigmoid", value, slope))


def cdf_by_tanh(patch: Patch) -> None:
    """(1 + tanh u) / 2, which cancels where u is negative."""
    patch.setattr(elementwise, "_logistic", lambda u: (1 + jnp.tanh(u / 2)) / 2)
    patch.setattr(
        elementwise, "_gelu", elementwise.elementwise("gelu", elementwise._gelu_value, elementwise._gelu_slope)
    )


def flat_only_outside(patch: Patch) -> None:
    """A ReLU6 whose slope at 6 is 1."""
    inside = lambda y: (y > 0) & (y <= 6)  # noqa: E731
    relu6 = elementwise.elementwise("relu6", elementwise._clipped, inside, keeps_y=True)
    patch.setattr(elementwise, "_relu6", relu6)


def square_of_the_mean_subtracted(patch: Patch) -> None:
    """mean(x^2) - mean(x)^2."""

    def moments(spec: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        n = norm._count(spec, x)
        mean, square = (norm._sum(spec, v) / n for v in (x, x * x))
        return jnp.zeros_like(mean), mean, square - mean * mean

    patch.setattr(norm, "_moments", moments)


def costs_exchanged(patch):
    def bwd(spec, residuals, dy):
        return loss._dice_bwd(spec._replace(alpha=spec.beta, beta=spec.alpha), residuals, dy)

    patch.setattr(loss, "_dice", attach(loss._dice_primal, loss._dice_fwd, bwd))


def resized_back(spec, dy, x):
    return resize._resize(tuple(a._replace(size=a.output, output=a.size) for a in spec), dy)


def sigmoid_minus_label(patch: Patch) -> None:
    slopes = lambda z, labels: activation._logistic(z) - labels, lambda z, labels: -z
    wrong = elementwise.elementwise("sigmoid_binary_cross_entropy", loss._binary_cross_entropy_value, *slopes)
    patch.setattr(loss, "_binary_cross_entropy", wrong)


def not_orthogonal_to_z(patch: Patch) -> None:
    """The gradient through the mean, and none through the variance."""
    original = norm._over_devices
    patch.setattr(norm, "_over_devices", lambda spec, x, g, gz, *rest: original(spec, x, g, 0 * gz, *rest))


def zeros_times_nan(patch: Patch) -> None:
    def wrong(x: jax.Array, first: np.ndarray, count: np.ndarray, i: int) -> jax.Array:
        cells = np.arange(x.shape[i])[:, None]
        member = jnp.asarray((cells >= first) & (cells < first + count), x.dtype)
        return jnp.moveaxis(jnp.tensordot(x, member, ((i,), (0,))), -1, i)

    patch.setattr(window_sums, "_sum_runs", wrong)


def axes_exchanged(forward: Callable) -> Callable:
    """Of equal maxima the first along the other axis."""
    other = {"row_major": "column_major", "column_major": "row_major"}
    return lambda spec, x: forward(dataclasses.replace(spec, ties=other[spec.ties]), x)


CONV_RULES, MAX_RULES = conv_rules.RULES, max_rules.RULES
# What plants the bug, the check that finds it and, where it lies in one, the formulation: no other is then compiled.
BUGS: dict[str, tuple[Callable[[Patch], None], str] | tuple[Callable[[Patch], None], str, str]] = {
    "rot180 missing": (
        lambda patch: patch.setattr(correlation, "rot180", lambda w: w), "conv: integers", "correlation"),
    "rot180 missing in lax": (lambda patch: patch.setattr(lax_rule, "rot180", lambda w: w), "conv: integers", "lax"),
    "sides of the padding swapped, dx": (swap_sides("input_gradient"), "conv: integers", "correlation"),
    "sides of the padding swapped, dw": (swap_sides("weight_gradient"), "conv: integers", "correlation"),
    "leftover dropped, dx": (leftover_dropped, "conv: integers", "correlation"),
    "leftover not cropped, dw": (leftover_uncropped, "conv: integers", "correlation"),
    "stride and dilation not exchanged, dw": (strides_and_dilations_kept, "conv: integers", "correlation"),
    "one kernel element scaled by 1.0005": (
        rebind(CONV_RULES, "forward", "lax", scale_one_element), "conv: bounds", "lax"),
    "one kernel element scaled, integers": (
        rebind(CONV_RULES, "forward", "im2col", scale_one_element), "conv: integers", "im2col"),
    "db is a mean": (mean_of_delta, "conv: integers", "lax"),
    "batch leak, y": (
        rebind(CONV_RULES, "forward", "correlation", leak_between_images), "conv: integers", "correlation"),
    "batch leak, dx": (rebind(CONV_RULES, "input_vjp", "lax", leak_between_images), "conv: bounds", "lax"),
    "batch not summed, dw": (
        rebind(CONV_RULES, "weight_vjp", "kronecker", only_the_first_image), "conv: integers", "kronecker"),
    "groups mixed": (
        lambda patch: patch.setattr(lax_rule, "swap_channels", lambda w, groups: jnp.swapaxes(w, -1, -2).reshape(
            *w.shape[:-2], w.shape[-1] // groups, groups * w.shape[-2])), "conv: integers", "lax"),
    "col2im overwrites": (
        lambda patch: patch.setattr(im2col, "col2im", overwrite_instead_of_add), "conv: integers", "im2col"),
    "index map one off": (index_map_one_off, "conv: integers", "jacobian"),
    "rot180 missing in winograd": (
        lambda patch: patch.setattr(winograd, "rot180", lambda w: w), "conv: integers", "winograd"),
    "residues of a dilation exchanged": (residues_exchanged, "conv: integers", "space_to_depth"),
    "dilation ignored by blocks": (dilation_ignored, "conv: integers", "blocked"),
    "blocks off the diagonal, dw": (off_the_diagonal, "conv: integers", "merged"),
    "channel multiplier tiles": (
        lambda patch: patch.setattr(depthwise, "_repeated", channels_tiled), "conv: integers, depthwise", "auto"),
    "last chunk of the batch alone": (
        lambda patch: patch.setattr(winograd, "sum_batch", last_chunk_alone), "conv: a batch in chunks"),
    "halves added in halves": (halves_add_in_halves, "conv: bounds in bfloat16", "blocked"),
    "output padding at the low end": (output_padding_low, "conv_transpose: integers"),
    "max pads with 0": (padding_zero, "max_pool: negative integers", "offsets"),
    "tie order swapped": (ties_swapped, "max_pool: ties", "offsets"),
    "axes exchanged in maxima": (
        rebind(MAX_RULES, "forward", "separable", axes_exchanged), "max_pool: ties", "separable"),
    "gradient to a loser as well": (
        rebind(MAX_RULES, "input_vjp", "offsets", all_ties_win), "max_pool: ties", "offsets"),
    "NaN loses": (
        rebind(MAX_RULES, "forward", "segment_sum", blind_to_nan), "max_pool: NaN and infinities", "segment_sum"),
    "where all is -inf, the padding wins": (
        lambda patch: patch.setattr(offsets, "_first_inside", lambda axes: jnp.zeros(geometry.outputs(axes), int)),
        "max_pool: NaN and infinities", "offsets"),
    "ceil mode adds no window": (overshoot(lambda axis, cells: 0), "max_pool: ceil mode", "auto"),
    "ceil overshoot off by one": (
        overshoot(lambda axis, cells: cells - 1 if cells else 0), "max_pool: ceil mode", "auto"),
    "ceil window past the input": (overshoot(past_the_input), "max_pool: a window past the input", "auto"),
    "overshoot counts in averages": (overshoot_counts, "avg_pool: integers", "auto"),
    "count_include_pad ignored": (padding_always_counts, "avg_pool: integers", "auto"),
    "first of the duplicates unpooled": (
        lambda patch: patch.setattr(max_pool, "_last_writer", first_writer), "max_unpool: duplicates"),
    "adaptive windows disjoint": (windows_do_not_overlap, "adaptive_max_pool: windows"),
    "norm of zeros divided by": (
        lambda patch: patch.setattr(lp_pool, "_slopes", no_safe_divisor), "lp_pool: window of zeros"),
    "exponent p for p - 1": (exponent_p, "lp_pool: bounds"),
    "ReLU'(0) = 1": (relu_slope_one_at_zero, "relu: kink"),
    "sigmoid' as y (1 - y)": (y_times_one_minus_y, "sigmoid: saturation"),
    "softmax without its maximum": (without_the_maximum, "cross-entropy: large logits"),
    "p - y for soft labels": (labels_not_summed, "cross-entropy: bounds"),
    "squared error without its 2": (half_the_slope, "squared_error: integers"),
    "maximum without a tangent": (value_without_tangent, "max_pool: third derivative"),
    "NaN lost by a maximum": (trust_the_maximum, "max_pool: NaN in larger arrays"),
    "small integers summed as int32": (
        rebind(CONV_RULES, "weight_vjp", "merged", lambda rule: lambda *a, **k: rule(*a, **k).astype(jnp.int32)),
        "conv: integers modulo 2^8"),
    "4 dy before the slope": (four_times_dy, "tanh: extremes"),
    "powers of what they are": (
        lambda patch: patch.setattr(lp_pool, "_root_of_squares", lambda spec, x: lp_pool.total(spec, x * x) ** 0.5),
        "lp_pool: extremes"),
    "log sigmoid' as 1 - s": (one_minus_sigmoid, "log_sigmoid: digits"),
    "gelu by 1 + tanh": (cdf_by_tanh, "gelu: digits"),
    "ReLU6'(6) = 1": (flat_only_outside, "relu6: kinks"),
    "variance as mean(x^2) - m^2": (square_of_the_mean_subtracted, "layer_norm: a large mean"),
    "no gradient through the variance": (not_orthogonal_to_z, "layer_norm: two values"),
    "alpha and beta exchanged on the way back": (costs_exchanged, "dice_loss: digits"),
    "resized back to the old size": (
        lambda patch: patch.setattr(resize._resize, "adjoints", (resized_back,)), "resize: whole numbers"),
    "windows of channels not turned round": (
        lambda patch: patch.setattr(response_norm._Window, "turned", property(lambda w: w)),
        "local_response_norm: digits"),
    "s - label, which cancels": (sigmoid_minus_label, "sigmoid_binary_cross_entropy: digits"),
    "an ignored label's logits count": (
        lambda patch: patch.setattr(loss, "_asked", lambda logits, labels: labels == labels),
        "cross-entropy: ignored labels"),
    "0 * NaN in averages": (zeros_times_nan, "adaptive_avg_pool: one NaN"),
    "Winograd at the highest precision": (
        lambda patch: patch.setattr(choice.Traits, "winograd", property(lambda s: s.dense and s.short)),
        "conv: accuracy by component"),
}  # fmt: skip
SHAPE_ERRORS = (
    "leftover not cropped, dw",
    "stride and dilation not exchanged, dw",
    "ceil mode adds no window",
    "ceil overshoot off by one",
    "ceil window past the input",
    "small integers summed as int32",
)
