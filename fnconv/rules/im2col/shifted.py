"""im2col window element by window element: one strided slice each, and one shifted addition for the adjoint."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnconv.base.dtypes import to_accumulator
from fnconv.base.geometry import sliding, taps, volume
from fnconv.base.pairs import pad, tap, tap_adjoint
from fnconv.base.spec import PoolSpec


def forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The cells that each element meets, side by side."""
    axes = sliding(spec.axes)
    xp = pad(x, axes)
    n, c = x.shape[0], x.shape[-1]
    cols = [tap(xp, axes, k).reshape(n, volume(spec.output), c) for _, k in taps(axes)]
    return jnp.stack(cols, axis=2)


def input_vjp(spec: PoolSpec, cols: jax.Array) -> jax.Array:
    """What each element met is put back, and added, Wei (2.30)."""
    axes, wide = sliding(spec.axes), to_accumulator(cols)
    n, c = cols.shape[0], cols.shape[-1]
    total = jnp.zeros((n, *spec.size, c), wide.dtype)
    for q, k in taps(axes):
        total = total + tap_adjoint(wide[:, :, q].reshape(n, *spec.output, c), axes, k)
    return total.astype(cols.dtype)
