"""XLA's own convolution for each map, in the geometry derived by hand.

The same three correlations as in `correlation`, with the zeros left to XLA: lhs_dilation instead of inserting them
into the cotangent, rhs_dilation instead of inserting them into the kernel.  Negative paddings are cropped away
first: XLA's CPU convolution reads out of bounds where one meets lhs_dilation, which is how JAX's own input gradient
goes wrong for asymmetric paddings as large as the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.geometry import Axis, crop_instead_of_negative, is_symbolic
from fnconv.base.pairs import rot180, swap_channels
from fnconv.base.spec import ConvSpec


def spreads(spec: ConvSpec, map_: str) -> bool:
    """Into the other groups, by what XLA makes of a batch in groups."""
    return map_ == "weight_vjp" and spec.groups > 1


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """The correlation of Notes 1 and Wei (2.4)."""
    return _correlate(spec, x, w, spec.axes, features="last", feature_groups=spec.groups)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """Correlate the cotangent, dilated by the stride, with rot180(w), Notes 2.3.

    Off the CPU the channels of the reversed kernel change places by name alone: where the reversed kernel itself is
    the operand, XLA's GPU compiler knows cuDNN's backward-data call.
    """
    correlate = partial(
        _correlate, spec, axes=[a.input_gradient() for a in spec.axes], inserted=[a.stride for a in spec.axes]
    )

    def swapped(dy: jax.Array, w: jax.Array) -> jax.Array:
        return correlate(dy, swap_channels(rot180(w), spec.groups), features="last", feature_groups=spec.groups)

    def named(dy: jax.Array, w: jax.Array) -> jax.Array:
        return correlate(dy, rot180(w), features="transposed")

    return swapped(dy, w) if spec.groups > 1 else lax.platform_dependent(dy, w, cpu=swapped, default=named)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """Correlate the input with the cotangent dilated by the stride, summing over the batch, Notes 3.

    The cells that were left over are cropped by a copy on a CPU, elsewhere by a negative padding, which costs nothing.
    """
    axes = [a.weight_gradient() for a in spec.axes]
    cropped = partial(_correlate, spec, axes=axes, features="first", batch_groups=spec.groups)
    if all(a.high >= 0 for a in axes if not is_symbolic(a.high)):
        return cropped(x, dy)
    return lax.platform_dependent(x, dy, cpu=cropped, default=partial(cropped, crop_high=False))


def _correlate(
    spec: ConvSpec,
    x: jax.Array,
    w: jax.Array,
    axes: Sequence[Axis],
    *,
    features: str,
    feature_groups: int = 1,
    batch_groups: int = 1,
    inserted: Sequence[int] | None = None,
    crop_high: bool = True,
) -> jax.Array:
    """lax.conv_general_dilated on canonical arrays.

    features="last":   x (N, *S, C),  w (*K, C, D)   -> (N, *O, D), contracting C
    features="transposed":  the same of w (*K, D, C)
    features="first":  x (N, *S, C),  w (N, *K, D)   -> (*O, C, D), contracting N
    """
    n = len(axes)
    inserted = inserted or (1,) * n
    if any(
        is_symbolic(p) for a in axes for p in (a.low, a.high)
    ):  # which lax.pad takes, and crops by, but no convolution
        widths = [(a.low, a.high, s - 1) for a, s in zip(axes, inserted, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *widths, (0, 0, 0)])
        axes, inserted = [replace(a, low=0, high=0) for a in axes], (1,) * n
    kept, lows, highs = zip(
        *(
            crop_instead_of_negative(x.shape[1 + i], inserted[i], a.low, a.high if crop_high else 0)
            for i, a in enumerate(axes)
        ),
        strict=True,
    )
    if not crop_high:
        highs = tuple(a.high for a in axes)
    x = x[(slice(None), *kept)]
    spatial = tuple(range(1, n + 1))
    if features != "first":
        d, c = (n + 1, n) if features == "last" else (n, n + 1)
        numbers = lax.ConvDimensionNumbers(
            lhs_spec=(0, n + 1, *spatial), rhs_spec=(d, c, *range(n)), out_spec=(0, n + 1, *spatial)
        )
        shape: tuple[int, ...] = (x.shape[0], *(a.output for a in axes), w.shape[d])
    else:
        numbers = lax.ConvDimensionNumbers(
            lhs_spec=(n + 1, 0, *spatial), rhs_spec=(n + 1, 0, *spatial), out_spec=(n, n + 1, *range(n))
        )
        shape = spec.w_shape
    if 0 in x.shape:  # nothing but padding is left
        return jnp.zeros(shape, x.dtype)
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=[a.stride for a in axes],
        padding=list(zip(lows, highs, strict=True)),
        lhs_dilation=inserted,
        rhs_dilation=[a.dilation for a in axes],
        dimension_numbers=numbers,
        feature_group_count=feature_groups,
        batch_group_count=batch_groups,
        precision=spec.precision,
    )
