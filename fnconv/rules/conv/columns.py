"""im2col without a gather: the columns are slices side by side, and one matrix product contracts them.

    Y = phi(x) C, Wei (2.9)            dC = phi(x)^T dY, Wei (2.21)

`im2col` looks every cell of phi up in a table; here each window element is one strided slice, copied row by row.  A
chunk of the batch at a time, phi being K times as large as x.  The input gradient, a product and shifted additions
after it, is the one of `taps`.

N images, O output positions, K window elements, g groups of c input and d output channels each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnconv.base.chunks import map_batch, sum_batch
from fnconv.base.geometry import outputs, taps, volume, windows
from fnconv.base.pairs import pad, split_groups, tap
from fnconv.base.spec import ConvSpec
from fnconv.rules.conv.products import by_cotangent, by_kernel
from fnconv.rules.conv.taps import input_vjp

__all__ = ["forward", "input_vjp", "weight_vjp"]


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Y = phi(x) C."""
    kernel = w.reshape(-1, spec.out_channels)  # (K c, g d)
    return map_batch(lambda x: by_kernel(spec, phi(spec, x), kernel).astype(x.dtype), _bytes(spec, x), x)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dC = phi(x)^T dY, chunks added."""
    dw = sum_batch(lambda x, dy: by_cotangent(spec, phi(spec, x), dy), _bytes(spec, x), x, dy)
    return dw.reshape(spec.w_shape).astype(x.dtype)


def phi(spec: ConvSpec, x: jax.Array) -> jax.Array:
    """The columns of x, (N, *S, g c) -> (N, *O, g K c)."""
    xp = pad(x, spec.axes)
    cells = [tap(xp, spec.axes, k) for _, k in taps(spec.axes)]
    if spec.groups == 1:
        return jnp.concatenate(cells, axis=-1)
    stacked = jnp.concatenate([split_groups(a, spec.groups) for a in cells], axis=-1)
    return stacked.reshape(*stacked.shape[:-2], -1)


def _bytes(spec: ConvSpec, x: jax.Array) -> int:
    cells = volume(windows(spec.axes)) * spec.in_channels + spec.out_channels
    return x.shape[0] * volume(outputs(spec.axes)) * cells * x.dtype.itemsize
