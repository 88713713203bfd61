"""One element-wise product for each window element: `taps` where a group has few input channels, little to contract.

    y  = sum_k tap_k(x) * w_k          dx = sum_k tap_k*(dy * w_k)          dw_k = sum over cells of tap_k(x) * dy

With a channel multiplier m every input channel stands m times, once for each of its kernels.  Groups of c input
channels are c such convolutions, one for the i-th channel of every group; their results are added.  Sums are cut into
rows of the window, each of which XLA makes one loop of: a loop over all elements would read its operands too often
from afar, a loop per element writes too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.chunks import sum_batch
from fnconv.geometry import Axis, volume, windows
from fnconv.linear import pad, polyphase, rot180, swap_channels, tap, tap_adjoint, wide, window_elements
from fnconv.spec import ConvSpec

ROWS = 8  # terms of one fused sum


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """y = sum_k tap_k(x) * w_k: Notes 1 with one channel for each kernel."""
    one, c = _one_channel(spec)
    parts = (_correlate(_repeated(one, x[..., i::c]), wide(w[..., i : i + 1, :]), spec.axes) for i in range(c))
    return reduce(lax.add, parts).astype(x.dtype)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """Shifted additions or the correlation with rot180 at stride 1; phase by phase otherwise, Notes 2.3."""
    one, c = _one_channel(spec)
    if c > 1 and all(a.stride == 1 for a in spec.axes):
        axes = tuple(a.input_gradient() for a in spec.axes)
        back = replace(spec, axes=axes, in_channels=spec.out_channels, out_channels=spec.in_channels)
        return forward(back, dy, swap_channels(rot180(w), spec.groups))
    parts = [_input_vjp(one, dy, w[..., i : i + 1, :]) for i in range(c)]
    dx = parts[0] if c == 1 else jnp.stack(parts, axis=-1).reshape(spec.x_shape(dy.shape[0]))
    return dx.astype(dy.dtype)


def _input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    dy_wide, kernels = wide(dy), wide(w)
    if any(a.stride > 1 for a in spec.axes):
        dx = polyphase((dy_wide,), (0,), spec.axes, lambda k, cells: cells * kernels[k])
    elif volume(windows(spec.axes)) <= 9:
        dx = reduce(lax.add, (tap_adjoint(dy_wide * kernels[k], spec.axes, k) for k in window_elements(spec.axes)))
    else:
        dx = _correlate(dy_wide, rot180(kernels), [a.input_gradient() for a in spec.axes])
    channels = spec.in_channels
    return dx.reshape(*dx.shape[:-1], channels, spec.out_channels // channels).sum(axis=-1)


def weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """dw_k = sum over images and positions of tap_k(x) * dy: Wei (2.21) with nothing to contract but positions.

    A few images at a time, since every window element reads all of them: they stay in the cache.
    """
    one, c = _one_channel(spec)
    size, limit = (x.size + dy.size) * dy.dtype.itemsize, (8 if volume(windows(spec.axes)) <= 9 else 4) * 2**20

    def dw(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.concatenate([_weight_vjp(one, x[..., i::c], dy) for i in range(c)], axis=-2)

    return sum_batch(dw, size, x, dy, limit=limit).astype(x.dtype)


def _weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    """Rows of the first spatial axis are added first, element by element, in ROWS terms of one loop each; what is left
    is contracted with ones.
    """
    first = spec.axes[0]
    terms = min(ROWS, first.output)
    block = -(-first.output // terms)
    extra = terms * block - first.output
    dy_wide = lax.optimization_barrier(pad(wide(dy), _lengthened(spec.axes, extra, of_output=True)))
    axes = _lengthened(spec.axes, extra * first.stride, of_output=False)
    xp = lax.optimization_barrier(pad(_repeated(spec, x), axes))
    sums = []
    for k in window_elements(spec.axes):
        cells = tap(xp, axes, k)
        sums.append(reduce(lax.add, (_rows(cells, i, block) * _rows(dy_wide, i, block) for i in range(terms))))
    rows = jnp.stack(lax.optimization_barrier(sums))
    rows = rows.reshape(len(sums), -1, rows.shape[-1])
    ones = jnp.ones(rows.shape[1], rows.dtype)
    # (K, N O / ROWS, C) . (N O / ROWS) -> (K, C)
    dw = lax.dot_general(rows, ones, (((1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
    return dw.reshape(spec.w_shape)


def _one_channel(spec: ConvSpec) -> tuple[ConvSpec, int]:
    """The convolution of one input channel of every group, and how many there are."""
    return replace(spec, in_channels=spec.groups), spec.in_channels // spec.groups


def _lengthened(axes: Sequence[Axis], extra: int, *, of_output: bool) -> list[Axis]:
    """The axes with `extra` more cells at the high end of the first."""
    first = axes[0]
    if of_output:
        return [Axis(first.output, 1, high=extra), *(Axis(a.output, 1) for a in axes[1:])]
    # cells after the last window go, so that `extra` more make just as many windows as wanted
    return [replace(first, high=first.high - first.leftover + extra), *axes[1:]]


def _rows(a: jax.Array, i: int, block: int) -> jax.Array:
    return lax.slice_in_dim(a, i * block, (i + 1) * block, axis=1)


def _correlate(x: jax.Array, w: jax.Array, axes: Sequence[Axis]) -> jax.Array:
    """sum_k tap_k(x) * w_k, one row of the window after another."""
    xp = lax.optimization_barrier(pad(x, axes))
    *rows, row = windows(axes)

    def part(k: tuple[int, ...]) -> jax.Array:
        return reduce(lax.add, (tap(xp, axes, (*k, i)) * w[(*k, i)] for i in range(row)))

    def add_row(total: jax.Array, k: tuple[int, ...]) -> jax.Array:
        return lax.optimization_barrier(total + part(k))

    first, *others = product(*map(range, rows))
    return reduce(add_row, others, lax.optimization_barrier(part(first)))


def _repeated(spec: ConvSpec, x: jax.Array) -> jax.Array:
    """(N, *S, C) -> (N, *S, C m), every channel m times."""
    return jnp.repeat(wide(x), spec.out_channels // spec.in_channels, axis=-1)
