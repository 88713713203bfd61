"""`show.pool`: max, average and power-average pooling and their gradients, every element written out."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnconv.base.errors import invalid
from fnconv.base.spec import PoolSpec
from fnconv.base.typing import IntOrTuple, Padding, Ties
from fnconv.rules import available as rules
from fnconv.show import interactive, numbers, pool_sections
from fnconv.show.numbers import Numbers, ShapeOrNumbers
from fnconv.show.page import Page
from fnconv.show.pooling import KINDS, NAME, Kind, Pooling
from fnconv.show.tensors import shape_of, with_channels


def pool(
    input: ShapeOrNumbers,
    window: IntOrTuple,
    *,
    kind: Kind = "max",
    cotangent: Numbers | None = None,
    strides: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    ties: Ties = "row_major",
    count_include_pad: bool = True,
    p: float = 2,
    channels: int = 1,
    values: bool = False,
    seed: int = 0,
) -> Page:
    """One pooling written out: forward, S with its ties for max pooling, the gradient, what is left over.

    Args:
      input: the spatial shape of the input; or its numbers, an array or a .npy file of shape (*spatial, channels),
        where one channel's axis may be missing.
      window: the shape of the window; an int where there is one axis.
      kind: "max", "avg" or "lp".
      cotangent: numbers for δ = dL/dO; random integers where they are asked for and not given.
      strides, padding, dilation, ceil_mode, ties, count_include_pad, p: as in `fnconv.max_pool`, `avg_pool`, `lp_pool`.
      channels: of the input, where no array says; each is pooled by itself.
      values: write numbers for the symbols, computed by fnconv's own pooling.  True where an array is given.
      seed: of the random integers.

    Returns:
      a `Page`: text when printed, HTML in a notebook, LaTeX by `.to_latex()`.

    Raises:
      ValueError, TypeError: as `fnconv.max_pool`.

    >>> print(pool((2, 2), (2, 2), kind="avg").find("∂L/∂I_12"))
    ∂L/∂I_12 = 1/4·δ_11
    """
    geometry = {"strides": strides, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    options: dict[str, Any] = {**geometry, "ties": ties, "count_include_pad": count_include_pad, "p": p}
    pooling = _pooling(input, window, kind, cotangent, channels, seed, **options)
    title = f"{pooling.title} pooling of {with_channels(pooling.spec.size, pooling.channels)} with "
    title += f"{shape_of(pooling.relation.window)}, giving {shape_of(pooling.spec.output)}"
    sections = pool_sections.sections(pooling, values or bool(pooling.given))
    return Page(title, tuple(sections), lambda: interactive.section(interactive.pool(pooling)))


def _pooling(
    input: ShapeOrNumbers,
    window: IntOrTuple,
    kind: Kind,
    cotangent: Numbers | None = None,
    channels: int = 1,
    seed: int = 0,
    *,
    ties: Ties = "row_major",
    count_include_pad: bool = True,
    p: float = 2,
    **geometry: Any,
) -> Pooling:
    if kind not in KINDS:
        raise invalid(NAME, "kind", f"must be one of {', '.join(KINDS)}", repr(kind))
    w = numbers.load(NAME, "window", window)
    if isinstance(w, np.ndarray):
        raise invalid(NAME, "window", "must be a shape: pooling has no weights", w.shape)
    x = numbers.load(NAME, "input", input)
    if isinstance(x, np.ndarray):
        channels = x.shape[-1] if x.ndim == len(w) + 1 else channels
    size = x.shape[: len(w)] if isinstance(x, np.ndarray) else x
    if len(size) != len(w):
        raise invalid(NAME, "window", f"must have as many spatial dimensions as the input {size}", w)
    if channels < 1:
        raise invalid(NAME, "channels", "must be at least 1", channels)
    shape = (1, *size, channels)
    kinds: dict[str, Any] = {"ties": ties, "include_pad": count_include_pad, "p": p}
    available = rules.names(KINDS[kind])
    spec = PoolSpec.from_args(NAME, shape, size, w, rule="auto", available=available, **geometry, **kinds)
    if 0 in spec.output:
        raise invalid(NAME, "window", "must fit into the padded input", w, shape)
    given: dict[str, numbers.Array] = {}
    if isinstance(x, np.ndarray):
        given["I"] = numbers.fit(NAME, "input", x, (*spec.size, channels), 1)
    given |= numbers.cotangent(NAME, cotangent, (*spec.output, channels))
    special: dict[str, dict[str, Any]] = {
        "max": {"ties": ties},
        "avg": {"count_include_pad": count_include_pad},
        "lp": {"p": p},
    }
    return Pooling(kind, spec, channels, seed, given, {**geometry, **special[kind]})
