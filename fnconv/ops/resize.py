"""Resizing: along each axis y = W x, W sparse and known while tracing, and dx = W* dy exactly.

Output i lies at p = (i + 1/2) in / out - 1/2 of the input, or, corners on corners, at i (in - 1) / (out - 1), and

    W[i, j] = h((p - j) / width) / sum over j of the same

h the method's kernel; width = max(1, in / out), or 1 without antialiasing.  "nearest" takes the cell that p lies in,
"area" the mean of what an output covers.  W is computed in float64.  Its rows, and its columns, are runs of few
entries, so y is a sum of that many terms, each a weight times a neighbour: nothing is scattered, and NaN reaches
no output of weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from fnconv.base.attach import LinearMap, adjoint_to_each_other
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid
from fnconv.base.geometry import is_symbolic
from fnconv.base.lowering import TERMS, along, computed_once
from fnconv.base.spec import as_array, check_flag, whole_shape
from fnconv.base.typing import ArrayLike

Matrix = npt.NDArray[np.float64]
Run = tuple[npt.NDArray[np.int32], Matrix]  # the first entry of each row, and entries (run, rows) from there on


class _Axis(NamedTuple):
    """One axis that is resized: from `size` to `output` cells."""

    axis: int
    size: int
    output: int
    method: str
    antialias: bool
    align_corners: bool


Spec = tuple[_Axis, ...]


# ---- weights --------------------------------------------------------------------------------------------------------


def _cubic(a: float, x: Matrix) -> Matrix:
    """Keys' kernel: cubic from 0 to 1 and from 1 to 2, with a continuous slope, a at 1."""
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(radius: int, x: Matrix) -> Matrix:
    return np.where(x < radius, np.sinc(x) * np.sinc(x / radius), 0)


KERNELS: dict[str, Callable[[Matrix], Matrix]] = {  # of |p - j| / width
    "linear": lambda x: np.maximum(0, 1 - x),
    "cubic": lambda x: _cubic(-0.5, x),
    "cubic-pytorch": lambda x: _cubic(-0.75, x),
    "lanczos3": lambda x: _lanczos(3, x),
    "lanczos5": lambda x: _lanczos(5, x),
}
ALIASES = {
    **{name: name for name in ("nearest", "area", *KERNELS)},
    **dict.fromkeys(("bilinear", "trilinear", "triangle"), "linear"),
    **dict.fromkeys(("bicubic", "tricubic"), "cubic"),
    "bicubic-pytorch": "cubic-pytorch",
}


def _weights(a: _Axis) -> Matrix:
    """W, (output, size)."""
    i, j = np.arange(a.output)[:, None], np.arange(a.size)
    if a.method == "nearest":
        return (j == (2 * i + 1) * a.size // (2 * a.output)).astype(np.float64)
    if a.method == "area":  # in units of 1 / output
        return (
            np.maximum(
                0, np.minimum(i * a.size + a.size, j * a.output + a.output) - np.maximum(i * a.size, j * a.output)
            )
            / a.size
        )
    cells, steps = (a.size - 1, max(1, a.output - 1)) if a.align_corners else (a.size, a.output)
    p = np.asarray(i * cells / steps if a.align_corners else ((2 * i + 1) * cells - steps) / (2 * steps), np.float64)
    if a.method == "cubic-pytorch" and not a.antialias:  # cells past the border are those at the border
        k = np.arange(-2, a.size + 2)
        return KERNELS[a.method](np.abs(p - k)) @ (np.clip(k, 0, a.size - 1)[:, None] == j)
    method = "cubic" if a.method == "cubic-pytorch" else a.method
    w = KERNELS[method](np.abs(p - j) / (max(1.0, cells / steps) if a.antialias else 1))
    w = w / w.sum(1, keepdims=True)
    return np.where(np.abs(w) < 1e-12, 0, w)  # which are 0 but for rounding


@lru_cache
def _runs(a: _Axis) -> tuple[Run, Run]:
    """Of W and of its transpose the rows, each from its first to its last entry that is not 0."""

    def run(w: Matrix) -> Run:
        some = w != 0
        first = some.argmax(1)
        end = np.where(some.any(1), w.shape[1] - some[:, ::-1].argmax(1), first)
        at = first + np.arange((end - first).max())[:, None]
        entries = np.take_along_axis(w.T, np.minimum(at, w.shape[1] - 1), 0)
        return first.astype(np.int32), np.where(at < end, entries, 0)

    w = _weights(a)
    return run(w), run(w.T)


# ---- the map and its adjoint ----------------------------------------------------------------------------------------


def _product(x: jax.Array, run: Run, axis: int) -> jax.Array:
    """The matrix of this run times x along an axis."""
    first, entries = run
    weights = jnp.asarray(entries, x.dtype)

    def term(k: int | jax.Array) -> jax.Array:
        taken = jnp.take(x, jnp.asarray(first) + k, axis=axis, mode="clip")
        w = along(weights[k], axis, x.ndim)
        if not isinstance(k, int) or not entries[k].all():
            return jnp.where(w == 0, jnp.zeros((), x.dtype), taken * w)
        return taken if (entries[k] == 1).all() else taken * w

    if len(entries) <= TERMS:
        return reduce(lax.add, map(term, range(len(entries))))
    return lax.fori_loop(np.int32(1), np.int32(len(entries)), lambda k, total: total + term(k), term(0))


def _each(spec: Spec, x: jax.Array, *, back: bool) -> jax.Array:
    """One product after the other; what is a sum is stored before the next one reads it several times."""
    sizes = {a.axis: a.size if back else a.output for a in spec}
    shape = [sizes.get(i, n) for i, n in enumerate(x.shape)]
    if 0 in (*x.shape, *shape):
        return jnp.zeros(shape, x.dtype)
    y, terms = to_accumulator(x), 1
    for a in reversed(spec) if back else spec:
        run = _runs(a)[back]
        y, terms = _product(computed_once(y) if terms > 1 else y, run, a.axis), len(run[1])
    return y.astype(x.dtype)


_resize, _resize_adjoint = (
    LinearMap(name, partial(_each, back=back)) for name, back in (("resize", False), ("resize_input_vjp", True))
)
adjoint_to_each_other(_resize, _resize_adjoint)


def resize(
    x: ArrayLike, shape: Sequence[int], method: str = "linear", *, antialias: bool = True, align_corners: bool = False
) -> jax.Array:
    """x at other sizes, along whichever axes `shape` has others: `jax.image.resize` and Torch's `interpolate`.

    Linear in x; dx is the adjoint of dy, each output's weights times its cotangent, added up.  Keeps nothing.

    Args:
      x: floating; for "nearest" also integers.
      shape: of the result, an entry for every axis of x.
      method: "nearest", "linear" (also "bilinear", "trilinear"), "cubic" ("bicubic", "tricubic"), "cubic-pytorch",
        "lanczos3", "lanczos5", "area", as jax.image names them.  "cubic-pytorch" is Torch's "bicubic".
      antialias: widen the kernel where an axis becomes smaller.
      align_corners: the outermost cells lie on the outermost cells, as Torch has it, not border on border; not for
        "nearest" and "area".

    Torch does not antialias unless asked.  Its "nearest-exact" is "nearest" here; so is its "nearest" where sizes
    are multiples, and its "area" is `adaptive_avg_pool`.

    Returns:
      y of this shape in x's dtype; half precisions are summed in float32.  0 where an axis of x was empty.

    Raises:
      ValueError, TypeError: at trace time.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([0., 4.])
    >>> resize(x, (4,)).tolist(), resize(x, (3,), align_corners=True).tolist()
    ([0.0, 1.0, 3.0, 4.0], [0.0, 2.0, 4.0])
    >>> jax.grad(lambda x: (resize(x, (4,)) * jnp.array([4., 4., 0., 0.])).sum())(x).tolist()
    [7.0, 1.0]
    """
    if not isinstance(method, str) or method not in ALIASES:
        raise invalid("resize", "method", f"must be one of {', '.join(ALIASES)}", repr(method))
    method = ALIASES[method]
    x = as_array("resize", "x", x, integers=method == "nearest")
    sizes = whole_shape("resize", "shape", shape)
    if len(sizes) != x.ndim:
        raise invalid("resize", "shape", "needs one entry per axis", sizes, x.shape)
    antialias = check_flag("resize", "antialias", antialias)
    if check_flag("resize", "align_corners", align_corners) and method in ("nearest", "area"):
        raise invalid("resize", "align_corners", f"must be False for {method}", align_corners)
    changed = [i for i, (old, new) in enumerate(zip(x.shape, sizes, strict=True)) if old is not new and old != new]
    if any(is_symbolic(v) for i in changed for v in (x.shape[i], sizes[i])):
        raise invalid("resize", "shape", "must have known sizes on every axis that it changes", sizes, x.shape)
    axes = [_Axis(i, x.shape[i], sizes[i], method, antialias, align_corners) for i in changed]
    axes.sort(key=lambda a: a.output / max(1, a.size))  # what becomes smaller first
    return _resize.attached(tuple(axes), x) if axes else x
