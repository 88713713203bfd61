"""Max, average and power-average pooling, sliding and adaptive, and unpooling; resizing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.typing import REDUCTIONS, Reduction, Ties
from fnconv.judge.engine import windows as engine
from fnconv.judge.own import references
from fnconv.judge.own.bounds import Multilinear, Selecting, Traced
from fnconv.judge.own.case import DISTINCT, INTEGERS, NORMAL, TIES, Arrays, Case, DataKind, Function
from fnconv.judge.own.references import Window
from fnconv.ops import functional as ops

BATCH, CHANNELS = 2, 2
MAP_OF = {"y": "forward", "dx": "input_vjp"}

# geometry, tie order
MAX_POOLS: tuple[tuple[Window, Ties], ...] = (
    (Window((4, 6), (2, 2), 2), "row_major"),  # tiles the input
    (Window((5, 4), (2, 3), 1, ((1, 0), (0, 2))), "column_major"),  # overlap, asymmetric padding
    (Window((7,), (3,), 2, "SAME", dilation=2), "row_major"),
    (Window((7, 5), (2, 2), 3), "column_major"),  # leftovers
    (Window((6, 5), (3, 2), 2, (1, 0), ceil_mode=True), "row_major"),
    (Window((3, 4, 3), (2, 2, 2), (1, 2, 1), "SAME_LOWER"), "column_major"),
    (Window((4,), (3,), 2, "INPUT_SIZE"), "row_major"),
    (Window((6, 4), (2, 2), (1, 2), ((-1, 2), (0, -1))), "row_major"),  # cropped; windows wholly in padding
)
WITH_INDICES = (MAX_POOLS[1], MAX_POOLS[3], MAX_POOLS[2])
UNPOOLS = (((3, 2), (5, 4)), ((4,), (6,)), ((2, 1, 2), (2, 3, 2)))

# geometry, count_include_pad
AVG_POOLS = (
    (Window((4, 8), (2, 4), (2, 4)), True),
    (Window((5, 4), (2, 2), 1, ((1, 0), (0, 1))), False),
    (Window((6,), (4,), 3, (1,), ceil_mode=True), True),  # the last window has three cells
    (Window((7, 5), (2, 1), 3, "SAME_LOWER"), False),
    (Window((3, 4, 3), (1, 2, 2), (1, 2, 1), (0, 1, 1), ceil_mode=True), False),
    (Window((6,), (2,), 1, ((2, -1),), dilation=2), True),
)

LP_POOLS = (
    (Window((4, 6), (2, 2), 2), 2),
    (Window((5, 4), (2, 2), (1, 2), "SAME", ceil_mode=True), 1),
    (Window((6,), (3,), 2, ((1, 0),)), 3.5),
    (Window((5, 4), (2, 3), 1, "FULL", dilation=(2, 1)), 2),
    (Window((2, 4, 3), (1, 2, 2), (1, 1, 2)), 3.5),
)

ADAPTIVE = (((7,), (6,)), ((5, 6), (4, 3)), ((4, 5, 3), (4, 2, 1)))  # windows of 2; of 2x2; of 1x3x3
LEVELS = (((4, 4), ((1, 1), (3, 2))), ((7,), ((3,), (2,))))


def cases() -> Iterator[Case]:
    """All cases of this module."""
    yield from (max_pool(g, order) for g, order in MAX_POOLS)
    yield from (max_pool_with_indices(g, order) for g, order in WITH_INDICES)
    yield from (max_unpool(shape, output) for shape, output in UNPOOLS)
    yield from (avg_pool(g, include_pad) for g, include_pad in AVG_POOLS)
    yield from (lp_pool(g, p) for g, p in LP_POOLS)
    yield over_space((5, 4))
    yield resize((4, 3), (8, 6), "linear", _triangle, *_means({16}))  # weights are multiples of 1 / 16
    yield resize((5, 4), (4, 6), "cubic", _keys, NORMAL)
    yield from (adaptive(size, output, pool) for pool in REDUCTIONS for size, output in ADAPTIVE)
    for (size, levels), pool in product(LEVELS, REDUCTIONS):
        yield pyramid(size, levels, pool)


def features(size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"x": (BATCH, *size, CHANNELS)}


# ---- max pooling ----------------------------------------------------------------------------------------------------


def max_pool(g: Window, order: Ties) -> Case:
    """Against lax.reduce_window, where that has the tie order and a gradient; else against stacked slices."""
    native = order == "row_major" and set(g.gaps) == {1}
    reference = partial(references.reduce_window_max, g) if native else partial(_first_maximum, g, order)
    return Case(
        "max_pool",
        f"{g}, ties {order}",
        lambda rule: partial(ops.max_pool, ties=order, rule=rule, **g.pool_options()),
        reference,
        features(g.size),
        Selecting(),
        (DISTINCT, TIES, NORMAL),
        rules="max_pool",
        maps=MAP_OF,
        alternatives=_max_mistakes(g, order),
    )


def max_pool_with_indices(g: Window, order: Ties) -> Case:
    return replace(
        max_pool(g, order),
        operation="max_pool_with_indices",
        manual=lambda rule: partial(ops.max_pool_with_indices, ties=order, rule=rule, **g.pool_options()),
        reference=partial(references.max_pool, g, ties=order),
        auxiliary="indices",
        maps={"indices": "forward", **MAP_OF},
        alternatives={},
        batched=frozenset({"y", "indices", "dx"}),
    )


def _first_maximum(g: Window, order: str, x: Any) -> jax.Array:
    return references.max_pool(g, x, ties=order)[0]


def _max_mistakes(g: Window, order: Ties) -> dict[str, Function]:
    other = "row_major" if order == "column_major" else "column_major"
    mistakes: dict[str, Function] = {
        f"ties are broken in {other} order instead of {order}": partial(_first_maximum, g, other),
        "the padding counts as 0 instead of -inf": lambda x: references.max_pool(g, x, ties=order, fill=0)[0],
    }
    return mistakes | {text: partial(_first_maximum, s, order) for text, s in g.swapped().items()}


def max_unpool(shape: tuple[int, ...], output: tuple[int, ...]) -> Case:
    """Some indices are shared, and some are outside the map."""
    indices = np.random.default_rng(0).integers(-1, math.prod(output) + 1, (BATCH, *shape, CHANNELS), np.int32)
    return Case(
        "max_unpool",
        f"{shape} to {output}",
        lambda rule: lambda y: ops.max_unpool(y, jnp.asarray(indices), output),
        lambda y: references.max_unpool(y, indices, output),
        {"y": indices.shape},
        Multilinear(),
        (INTEGERS, NORMAL),
        value="x",
        batched=frozenset({"x", "dy"}),
    )


# ---- average pooling ------------------------------------------------------------------------------------------------


def avg_pool(g: Window, include_pad: bool) -> Case:
    alternatives: dict[str, Function] = {
        "the padding is counted" if not include_pad else "the padding is not counted": partial(
            references.avg_pool, g, include_pad=not include_pad
        ),
        "ceil_mode's cells past the padding are counted": lambda x: references.windows(g, x).mean(axis=-1),
    }
    for text, swapped in g.swapped().items():
        alternatives[text] = partial(references.avg_pool, swapped, include_pad=include_pad)
    return Case(
        "avg_pool",
        f"{g}, count_include_pad {include_pad}",
        lambda rule: partial(ops.avg_pool, count_include_pad=include_pad, rule=rule, **g.pool_options()),
        partial(references.avg_pool, g, include_pad=include_pad),
        features(g.size),
        Multilinear(scale=math.prod(g.window)),
        _means(references.counted(g, include_pad=include_pad)),
        rules="avg_pool",
        maps=MAP_OF,
        alternatives=alternatives,
    )


def _means(counts: set[int]) -> tuple[DataKind, ...]:
    """Floats, and integers that every mean divides without rest, where the counts are powers of two.

    Other counts are left to the floats: XLA may multiply by their rounded reciprocals.
    """
    unit = max(counts)
    if any(n & (n - 1) for n in counts):
        return (NORMAL,)

    def multiples(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
        return tuple(unit * rng.integers(-reach, reach + 1, shape).astype(np.float64) for shape in shapes)

    return DataKind(f"multiples of {unit}" if unit > 1 else "integers", multiples, exact=True, unit=unit), NORMAL


# ---- power-average pooling ------------------------------------------------------------------------------------------


def lp_pool(g: Window, p: float) -> Case:
    whole = math.prod(g.window) == 4 and g.strides == g.window[0] and g.padding == "VALID"
    samples = [NORMAL, DataKind("floats with zero windows", _sparse)]
    if p == 1:
        samples.append(INTEGERS)
    if p == 2 and whole:
        samples.append(DataKind("integers of one size", _one_size, exact=True))
    ours, reference = partial(ops.lp_pool, p=p, **g.pool_options()), partial(references.lp_pool, g, p=p)
    return Case(
        "lp_pool",
        f"{g}, p {p:g}",
        lambda rule: partial(ours, rule=rule),
        reference,
        features(g.size),
        Multilinear() if p == 1 else Traced(ours, reference),
        samples,
        rules="lp_pool",
        maps=MAP_OF,
        alternatives={text: partial(references.lp_pool, s, p=p) for text, s in g.swapped().items()},
    )


def _sparse(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    x, *rest = shapes
    return (rng.standard_normal(x) * (rng.random(x) < 0.3), *(rng.standard_normal(s) for s in rest))


def _one_size(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], reach: int) -> Arrays:
    """+-a, a a power of two: windows of four have the norm 2a and the slopes +-1/2."""
    x, *rest = shapes
    signs = rng.choice([-1.0, 1.0], x)
    return (4 * signs, *(rng.integers(-reach, reach + 1, s).astype(np.float64) for s in rest))


# ---- adaptive pooling -----------------------------------------------------------------------------------------------


def over_space(size: tuple[int, ...]) -> Case:
    cells, axes = math.prod(size), tuple(range(1, len(size) + 1))
    return Case(
        "global_avg_pool",
        str(size),
        lambda rule: ops.global_avg_pool,
        lambda x: jnp.mean(x, axes),
        features(size),
        Multilinear(scale=cells),
        _means({cells}),
    )


def adaptive(size: tuple[int, ...], output: tuple[int, ...], pool: Reduction) -> Case:
    function = {"max": ops.adaptive_max_pool, "avg": ops.adaptive_avg_pool}[pool]
    return Case(
        function.__name__,
        f"{size} to {output}",
        lambda rule: lambda x: function(x, output),
        lambda x: references.adaptive_pool(x, output, pool),
        features(size),
        *_adaptive_bound(size, [output], pool),
    )


def pyramid(size: tuple[int, ...], levels: tuple[tuple[int, ...], ...], pool: Reduction) -> Case:
    bound, samples = _adaptive_bound(size, levels, pool)
    if isinstance(bound, Multilinear):
        bound = replace(bound, rounded={"dx": len(levels)})
    return Case(
        "spatial_pyramid_pool",
        f"{size}, levels {levels}, {pool}",
        lambda rule: lambda x: ops.spatial_pyramid_pool(x, levels, pool=pool),
        lambda x: references.pyramid(x, levels, pool),
        features(size),
        bound,
        samples,
    )


def _adaptive_bound(
    size: tuple[int, ...], outputs: Any, pool: Reduction
) -> tuple[Multilinear | Selecting, tuple[DataKind, ...]]:
    if pool == "max":
        return Selecting(rounded=len(outputs) - 1), (DISTINCT, TIES, NORMAL)
    windows = (window for output in outputs for window in product(*map(engine.adaptive, size, output)))
    cells = {math.prod(map(len, window)) for window in windows}
    return Multilinear(scale=max(cells)), _means(cells)


# ---- resizing -------------------------------------------------------------------------------------------------------


def resize(size: tuple[int, int], output: tuple[int, int], method: str, kernel: Function, *samples: DataKind) -> Case:
    """The reference multiplies by whole matrices: kernels of |p - j| / width, each row divided by its sum."""
    options: dict[str, Any] = {"shape": (BATCH, *output, CHANNELS), "method": method}
    matrices = []
    for old, new in zip(size, output, strict=True):
        p, j = (np.arange(new)[:, None] + 0.5) * old / new - 0.5, np.arange(old)
        w = kernel(abs(p - j) / max(1, old / new))
        matrices.append(w / w.sum(1, keepdims=True))

    def reference(x: Any) -> jax.Array:
        for axis, w in enumerate(matrices, 1):
            terms = jnp.asarray(w[:, :, None], x.dtype) * jnp.moveaxis(x, axis, -2)[..., None, :, :]
            x = jnp.moveaxis(jnp.sum(terms, -2), -2, axis)
        return jnp.asarray(x)

    manual = partial(ops.resize, **options)
    return Case(
        "resize",
        f"{method}, {size} to {output}",
        lambda rule: manual,
        reference,
        {"x": (BATCH, *size, CHANNELS)},
        Traced(manual, reference),
        samples,
    )


def _triangle(x: Any) -> Any:
    return np.maximum(0, 1 - x)


def _keys(x: Any) -> Any:
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
