"""From two arrays that should agree to a guess at why they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, combinations, permutations

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fnconv.base.dtypes import unit_roundoff
from fnconv.judge.engine.running_error import Values

Hypothesis = tuple[str, Values]

EXPLAINED = 0.02  # a hypothesis explains a difference when it leaves no more than this part of it
NOISE = 8  # and differences of this many units in the last place of the largest entry are rounding
AXES_TRIED = 4  # flips and transpositions are tried on arrays of at most this many axes that are longer than 1

UNKNOWN = "no known pattern"


def diagnose(
    got: npt.ArrayLike,
    want: npt.ArrayLike,
    *,
    alternatives: Mapping[str, Callable[[], npt.ArrayLike]] | None = None,
    components: Mapping[str, Callable[[], npt.ArrayLike]] | None = None,
    counts: Mapping[str, int] | None = None,
    batch_axis: int | None = None,
    axis_names: Sequence[str] | None = None,
    tolerance: float | None = None,
) -> str:
    """A guess at what turned `want` into `got`, from the pattern of the difference; the first that explains it.

    Tried in turn: shapes, values that are not finite, all zero, the alternatives, one ratio for all entries, axes
    flipped, axes transposed, a component weighted wrongly, entries of other batch members, shifts by whole cells,
    the same values in other places, and, where nothing explains the values, where the wrong ones lie.

    Args:
      got, want: the result and the right one.
      alternatives: what would have come out if a certain mistake was made, by the name of the mistake.
      components: parts whose sum is `want`, by name: one of them may be missing or weighted.
      counts: numbers of which a sum may be a mean, by name, such as {"batch": 8}.
      batch_axis: the axis whose entries should not influence each other, if there is one.
      axis_names: one for each axis; "axis 0", ... otherwise.
      tolerance: differences up to this are rounding; by default 8 units in the last place of the largest entry.

    Returns:
      One line; "no known pattern: ..." if nothing fits.

    >>> import numpy as np
    >>> want = np.arange(1.0, 7.0).reshape(2, 3)
    >>> diagnose(want[::-1, ::-1], want)
    'flipped along axis 0 and axis 1'
    >>> diagnose(want / 4, want, counts={"batch": 4})
    'every entry is 0.25 times the right one: a mean over batch (4) instead of a sum?'
    """
    a, b = np.asarray(got), np.asarray(want)
    names = list(axis_names or [f"axis {i}" for i in range(b.ndim)])
    if a.shape != b.shape:
        return _shapes(a, b)
    noise = _noise(a, b) if tolerance is None else tolerance
    a, b = a.astype(np.float64), b.astype(np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return "no difference"
    strange = ~np.isfinite(a) & np.isfinite(b)
    if strange.any():
        kind = "NaN" if np.isnan(a[strange]).any() else "infinite"
        return f"{kind} where the right value is finite ({strange.sum()} of {a.size} entries), {_where(strange, names)}"
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0, np.where(finite, np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)), np.inf))
    largest = difference[finite].max(initial=0)
    wrong = difference > noise
    if not wrong.any():
        return "rounding only: a lower precision or another order of operations"
    if not a.any():
        return "all zero"
    size = np.abs(a[finite]).max(initial=0)

    def explains(hypothesis: npt.ArrayLike) -> bool:
        h = np.asarray(hypothesis)
        with np.errstate(invalid="ignore"):  # inf - inf
            left = np.where(a == h, 0, np.abs(a - h)) if h.shape == a.shape else np.array(np.inf)
        return bool(left.max() <= EXPLAINED * min(largest, size) + noise)

    for name, alternative in (alternatives or {}).items():
        if explains(alternative()):
            return name
    if finite.all():
        for text, h in chain(
            _ratio(a, b, counts or {}),
            _flips(b, names),
            _transpositions(b),
            _components(a, b, components or {}),
            _batch(a, b, batch_axis),
        ):
            if explains(h):
                return text
        shift = _shifted(a, b, noise, names)
        if shift:
            return shift
    if np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)):
        return f"the same values in other places, {_where(wrong, names)}"
    if finite.all():
        ratio = _ratio_of_wrong(a, b, wrong, noise)
        if ratio:
            return f"{ratio}, {_where(wrong, names)}"
    scale = difference.max() / max(np.abs(b[finite]).max(initial=0), noise, 1e-300)
    slight = f"; small: {scale:.1e} of the largest entry, a lower precision?" if scale < 2e-3 else ""
    total = a[finite].sum(), b[finite].sum()
    moved = "; the totals agree: entries went to other places" if abs(total[0] - total[1]) <= noise * a.size else ""
    place = _where(wrong, names)
    start = f"wrong {place}" if "only" in place or "single" in place else f"{UNKNOWN}: wrong {place}"
    return start + moved + slight


def _noise(a: np.ndarray, b: np.ndarray) -> float:
    eps = 2 * unit_roundoff(a.dtype if jnp.issubdtype(a.dtype, jnp.floating) else np.dtype(np.float64))
    largest = np.abs(np.where(np.isfinite(b), b, 0).astype(np.float64)).max(initial=0)
    return float(NOISE * eps * largest)


def _shapes(a: np.ndarray, b: np.ndarray) -> str:
    if sorted(a.shape) == sorted(b.shape):
        return f"axes are exchanged: the shape is {a.shape} instead of {b.shape}"
    return f"the shape is {a.shape} instead of {b.shape}"


def _ratio(a: Values, b: Values, counts: Mapping[str, int]) -> Iterator[Hypothesis]:
    power = float((b * b).sum())
    if power == 0:
        return
    r = float((a * b).sum()) / power
    text = "the sign is flipped" if abs(r + 1) < 1e-3 else f"every entry is {r:.6g} times the right one"
    for name, n in counts.items():
        if n > 1 and abs(r * n - 1) < 1e-2:
            text += f": a mean over {name} ({n}) instead of a sum?"
            break
        if n > 1 and abs(r / n - 1) < 1e-2:
            text += f": a sum over {name} ({n}) instead of a mean?"
            break
    yield text, r * b


def _ratio_of_wrong(a: Values, b: Values, wrong: npt.NDArray[np.bool_], noise: float) -> str:
    """One ratio that all wrong entries have in common, the others being right."""
    if wrong.all() or wrong.sum() < 2:
        return ""
    x, y = a[wrong], b[wrong]
    if not x.any():
        return "zero where it should not be"
    r = float((x * y).sum() / max((y * y).sum(), 1e-300))
    if abs(x - r * y).max() > EXPLAINED * min(abs(x).max(), abs(x - y).max()) + noise:
        return ""
    whole = f" = 1/{round(1 / r)}" if r and abs(1 / r) > 1.5 and abs(1 / r - round(1 / r)) < 1e-3 / abs(r) * 0.1 else ""
    return (
        "the sign of every wrong entry is flipped"
        if abs(r + 1) < 1e-3
        else (f"every wrong entry is {r:.6g}{whole} times the right one")
    )


def _flips(b: Values, names: Sequence[str]) -> Iterator[Hypothesis]:
    long = [i for i, n in enumerate(b.shape) if n > 1]
    if len(long) > AXES_TRIED + 1:
        return
    for k in range(1, len(long) + 1):
        for axes in combinations(long, k):
            yield f"flipped along {' and '.join(names[i] for i in axes)}", np.flip(b, axes)


def _transpositions(b: Values) -> Iterator[Hypothesis]:
    if b.ndim > AXES_TRIED:
        return
    for order in permutations(range(b.ndim)):
        if order != tuple(range(b.ndim)):
            yield f"transposed: axes in the order {order}", np.transpose(b, order)
            yield f"axes {order} read as if they were in order", np.transpose(b, order).reshape(b.shape)


def _components(a: Values, b: Values, parts: Mapping[str, Callable[[], npt.ArrayLike]]) -> Iterator[Hypothesis]:
    """want plus a multiple of one component, fitted."""
    for name, part in parts.items():
        component = np.asarray(part(), np.float64)
        factor = _fit(a - b, component)
        if factor is not None:
            weight = 1 + factor
            text = f"{name} is left out" if abs(weight) < 1e-3 else f"{name} counts {weight:.6g} times"
            yield text, b + factor * component


def _batch(a: Values, b: Values, axis: int | None) -> Iterator[Hypothesis]:
    if axis is None or b.shape[axis] < 2:
        return
    n = b.shape[axis]
    for k in range(1, n):
        yield f"batch members are exchanged: each has the values of the one {k} before it", np.roll(b, k, axis)
    total = b.sum(axis, keepdims=True)
    yield "every batch member has the sum over the batch", np.broadcast_to(total, b.shape)
    yield "every batch member has the mean over the batch", np.broadcast_to(total / n, b.shape)
    leaks = [("the whole batch", np.broadcast_to(total, b.shape)), ("the others", total - b)]
    leaks += [(f"the one {k} before it", np.roll(b, k, axis)) for k in range(1, n)]
    leaks += [(f"member {i}", np.broadcast_to(np.take(b, [i], axis), b.shape)) for i in range(n)]
    for name, leak in leaks:
        factor = _fit(a - b, leak)
        if factor is not None:
            yield f"the batch leaks: {factor:.6g} times {name} is added to each member", b + factor * leak


def _fit(difference: Values, part: Values) -> float | None:
    """The multiple of `part` nearest to the difference, by least squares."""
    if part.shape != difference.shape or not part.any():
        return None
    return float((difference * part).sum() / (part * part).sum())


def _shifted(a: Values, b: Values, noise: float, names: Sequence[str]) -> str:
    """Moved along one axis by fewer cells than half of it, whatever came in at the edge."""
    for axis, n in enumerate(b.shape):
        for k in range(1, (n + 1) // 2):
            for low, high, text in ((k, 0, "up"), (0, k, "down")):
                source = np.take(b, range(high, n - low), axis)
                target = np.take(a, range(low, n - high), axis)
                if np.ptp(source) > noise and np.abs(source - target).max() <= noise:
                    cells = f"{k} cell" if k == 1 else f"{k} cells"
                    return f"shifted {text} by {cells} along {names[axis]}: low and high padding exchanged, or one off?"
    return ""


def _where(wrong: npt.NDArray[np.bool_], names: Sequence[str]) -> str:
    """Which part of each axis the wrong entries keep to."""
    parts = []
    for axis, n in enumerate(wrong.shape):
        hit = np.flatnonzero(wrong.any(axis=tuple(i for i in range(wrong.ndim) if i != axis)))
        if n == 1 or len(hit) == n:
            continue
        if hit[0] == n - len(hit):
            parts.append(f"only in the last {len(hit)} of {n} along {names[axis]} (leftover or high padding?)")
        elif hit[-1] == len(hit) - 1:
            parts.append(f"only in the first {len(hit)} of {n} along {names[axis]} (low padding?)")
        elif len(hit) == 1:
            parts.append(f"only at {hit[0]} of {n} along {names[axis]}")
        elif list(hit) == [0, n - 1]:
            parts.append(f"only at both ends of {names[axis]} (padding?)")
        else:
            parts.append(f"only at {', '.join(map(str, hit))} of {n} along {names[axis]}")
    if wrong.sum() == 1:
        return f"in a single entry, {tuple(int(i) for i in np.argwhere(wrong)[0])}"
    share = f"in {int(wrong.sum())} of {wrong.size} entries"
    return f"{' and '.join(parts)}, {share}" if parts else share
