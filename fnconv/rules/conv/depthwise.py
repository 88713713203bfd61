"""One element-wise product for each window element: `taps` where a group has few input channels, little to contract.

    y  = sum_k tap_k(x) * w_k          dx = sum_k tap_k*(dy * w_k)          dw_k = sum over cells of tap_k(x) * dy

With a channel multiplier m every input channel stands m times, once for each of its kernels.  Groups of c input
channels are c such convolutions, one for the i-th channel of every group; their results are added.  XLA makes one loop
of a sum: one per element would write too much, one over a long window reads too much at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.chunks import sum_batch
from fnconv.base.dtypes import to_accumulator
from fnconv.base.geometry import Axis, taps, volume, windows
from fnconv.base.lowering import TERMS, by_runs, computed_once, pad_once, per_channel, polyphase
from fnconv.base.pairs import pad, rot180, swap_channels, tap, tap_adjoint
from fnconv.base.spec import ConvSpec

ROWS = 8  # blocks of rows that one loop adds up


def forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """y = sum_k tap_k(x) * w_k: Notes 1 with one channel for each kernel."""
    one, c = _one_channel(spec)
    parts = (
        _correlate(_repeated(one, x[..., i::c]), to_accumulator(w[..., i : i + 1, :]), spec.axes) for i in range(c)
    )
    return reduce(lax.add, parts).astype(x.dtype)


def input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    """Shifted additions or the correlation with rot180 at stride 1; phase by phase otherwise, Notes 2.3."""
    c, d, axes = spec.in_channels // spec.groups, spec.out_channels // spec.groups, spec.axes
    if any(a.stride > 1 for a in axes):
        # the j-th output channel of every group goes to all of its c input channels
        dys = [jnp.repeat(to_accumulator(dy[..., j::d]), c, axis=-1) for j in range(d)]
        kernels = to_accumulator(w).reshape(*windows(axes), c, spec.groups, d).swapaxes(-3, -2)
        kernels = kernels.reshape(*windows(axes), spec.in_channels, d)

        def term(k: tuple[int, ...], *dys: jax.Array) -> jax.Array:
            return reduce(lax.add, (dy * per_channel(kernels[k][:, j], dy) for j, dy in enumerate(dys)))

        dx = polyphase(dys, (0,) * d, axes, term)
    elif c > 1 or volume(windows(axes)) > 9:
        axes = tuple(a.input_gradient() for a in axes)
        back = replace(spec, axes=axes, in_channels=spec.out_channels, out_channels=spec.in_channels)
        return forward(back, dy, swap_channels(rot180(w), spec.groups))
    else:
        dy_wide, kernels = to_accumulator(dy), to_accumulator(w)
        dx = reduce(lax.add, (tap_adjoint(dy_wide * per_channel(kernels[k], dy_wide), axes, k) for _, k in taps(axes)))
        dx = dx.reshape(*dx.shape[:-1], spec.in_channels, d).sum(axis=-1)
    return dx.astype(dy.dtype)


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
    rows = spec.axes[0].output
    terms = min(ROWS, rows)
    block = -(-rows // terms)
    dy_wide = computed_once(to_accumulator(dy))
    xp = computed_once(pad(_repeated(spec, x), spec.axes))
    sums = []
    for _, k in taps(spec.axes):
        cells = tap(xp, spec.axes, k)
        parts = (_rows(cells, i, block) * _rows(dy_wide, i, block) for i in range(-(-rows // block)))
        sums.append(reduce(lax.add, (_filled(part, block) for part in parts)))
    added = jnp.stack(computed_once(sums))
    added = added.reshape(len(sums), -1, added.shape[-1])
    ones = jnp.ones(added.shape[1], added.dtype)
    # (K, N O / ROWS, C) . (N O / ROWS) -> (K, C)
    dw = lax.dot_general(added, ones, (((1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
    return dw.reshape(spec.w_shape)


def _one_channel(spec: ConvSpec) -> tuple[ConvSpec, int]:
    """The convolution of one input channel of every group, and how many there are."""
    return replace(spec, in_channels=spec.groups), spec.in_channels // spec.groups


def _rows(a: jax.Array, i: int, block: int) -> jax.Array:
    return lax.slice_in_dim(a, i * block, min((i + 1) * block, a.shape[1]), axis=1)


def _filled(a: jax.Array, block: int) -> jax.Array:
    """A last block of fewer rows, with rows of zeros."""
    missing = block - a.shape[1]
    return (
        lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), (0, missing, 0), *((0, 0, 0),) * (a.ndim - 2)]) if missing else a
    )


def _correlate(x: jax.Array, w: jax.Array, axes: Sequence[Axis]) -> jax.Array:
    """sum_k tap_k(x) * w_k in one loop, or in one for each row of a long window."""
    elements = [k for _, k in taps(axes)]
    terms = len(elements) if len(elements) <= TERMS else axes[-1].window

    def in_loops(arrays: Sequence[jax.Array], axes: Sequence[Axis]) -> jax.Array:
        xp = pad_once(arrays[0], axes)

        def loop(first: int) -> jax.Array:
            return reduce(lax.add, (tap(xp, axes, k) * per_channel(w[k], xp) for k in elements[first : first + terms]))

        return reduce(
            lambda total, first: computed_once(total) + loop(first), range(terms, len(elements), terms), loop(0)
        )

    y: jax.Array = by_runs(in_loops, (x,), axes)
    return y


def _repeated(spec: ConvSpec, x: jax.Array) -> jax.Array:
    """(N, *S, C) -> (N, *S, C m), every channel m times."""
    return jnp.repeat(to_accumulator(x), spec.out_channels // spec.in_channels, axis=-1)
