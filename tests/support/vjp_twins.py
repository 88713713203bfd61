"""Right rules with a wrong twin, by what may hide the mistake or make the right one look wrong.

A twin is (kind, name): the right rule, the wrong rule, the arguments; either rule may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from vjp_bugs import rule

RNG = np.random.default_rng(3)


@dataclass(frozen=True)
class Twin:
    right: Callable[..., Any] | None
    wrong: Callable[..., Any] | None
    args: tuple[Any, ...]
    options: dict[str, Any]


TWINS: dict[tuple[str, str], Twin] = {}


def twin(
    kind: str, name: str, primal: Any, right: Any, wrong: Any, *args: Any, fwd: Any = None, **options: Any
) -> None:
    """right, wrong: a backward of (arguments, cotangent), a tuple of a forward and a backward, or None."""

    def made(bwd: Any) -> Any:
        if bwd is None:
            return None
        forward, backward = bwd if isinstance(bwd, tuple) else (fwd or (lambda *a: (primal(*a), a)), bwd)
        return rule(primal, forward, backward)

    primal.__name__ = name.replace(" ", "_")
    TWINS[kind, name] = Twin(made(right), made(wrong), args, options)


def normal(*shape: int) -> Any:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def array(*values: Any) -> Any:
    return jnp.asarray(values, jnp.float32)


def where(mask: Any, value: Any) -> Any:
    return jnp.where(mask, value, jnp.zeros_like(value))


# ---- kinks of several operands --------------------------------------------------------------------------------------

K = "kinks"
A, B = normal(3, 4), normal(3, 4)


def larger(a, b):
    return jnp.maximum(a, b)


def sides(first, second):
    return lambda r, dy: (where(first(*r), dy), where(second(*r), dy))


ge, gt = (lambda a, b: a >= b), (lambda a, b: a > b)
le, lt = (lambda a, b: a <= b), (lambda a, b: a < b)
twin(K, "maximum neither", larger, sides(ge, lt), sides(gt, lt), A, B)
twin(K, "maximum both", lambda a, b: jnp.maximum(a, b), sides(gt, le), sides(ge, le), A, B)
twin(K, "minimum both", lambda a, b: jnp.minimum(a, b), sides(le, gt), sides(le, ge), A, B)
twin(K, "minimum neither", lambda a, b: jnp.where(a < b, a, b), sides(lt, ge), sides(lt, gt), A, B)
twin(
    K,
    "relu of a sum",
    lambda a, b: jax.nn.relu(a + b),
    lambda r, dy: (where(r[0] + r[1] > 0, dy),) * 2,
    lambda r, dy: (where(r[0] + r[1] > 0, dy), where(r[0] + r[1] >= 0, dy)),
    A,
    B,
)
twin(
    K,
    "distance",
    lambda a, b: abs(a - b),
    lambda r, dy: (jnp.sign(r[0] - r[1]) * dy, -jnp.sign(r[0] - r[1]) * dy),
    lambda r, dy: (jnp.where(r[0] >= r[1], dy, -dy), jnp.where(r[0] > r[1], -dy, dy)),
    A,
    B,
)
twin(
    K,
    "distance in one",
    lambda a, b: jnp.sum(abs(a - b)),
    lambda r, dy: (jnp.sign(r[0] - r[1]) * dy, -jnp.sign(r[0] - r[1]) * dy),
    lambda r, dy: (jnp.where(r[0] >= r[1], dy, -dy), jnp.where(r[0] > r[1], -dy, dy)),
    A,
    B,
)


def nearest(x, centres):
    return jnp.min(jnp.sum((x[:, None] - centres) ** 2, -1), 1)


def nearest_bwd(share):
    def bwd(r, dy):
        x, c = r
        d = jnp.sum((x[:, None] - c) ** 2, -1)
        m = share(d)
        g = 2 * (x[:, None] - c) * (m * dy[:, None])[..., None]
        return g.sum(1), -g.sum(0)

    return bwd


def first_of(d):
    return jax.nn.one_hot(jnp.argmin(d, 1), d.shape[1], dtype=d.dtype)


def all_of(d):
    return (d == d.min(1, keepdims=True)).astype(d.dtype)


twin(K, "nearest", nearest, nearest_bwd(first_of), nearest_bwd(all_of), normal(5, 2), normal(4, 2))
twin(
    K,
    "nearest, shared",
    lambda x, c: nearest(x, c),
    nearest_bwd(lambda d: all_of(d) / all_of(d).sum(1, keepdims=True)),
    nearest_bwd(lambda d: where((d == d.min(1, keepdims=True)).sum(1, keepdims=True) < 2, all_of(d))),
    array([0, 0], [1, 0], [3, 1]),
    array([-1, 0], [1, 0], [2, 5]),
)


def clip(x, lo, hi):
    return jnp.minimum(jnp.maximum(x, lo), hi)


def clip_bwd(low, high):
    def bwd(r, dy):
        x, lo, hi = r
        at_lo, at_hi = low(x, lo) & (lo <= hi), high(x, hi) & ~(low(x, lo) & (lo <= hi)) | (lo > hi)
        return where(~at_lo & ~at_hi, dy), where(at_lo & ~at_hi, dy), where(at_hi, dy)

    return bwd


def clip_wrong(r, dy):
    x, lo, hi = r
    return where((x >= lo) & (x <= hi), dy), where((x <= lo) & (lo <= hi), dy), where((x >= hi) | (lo > hi), dy)


twin(K, "clip", clip, clip_bwd(lt, gt), clip_wrong, normal(8), normal(8) - 1, normal(8) + 1)
twin(
    K,
    "hinge",
    lambda s, t: jax.nn.relu(1 - s * t).sum(),
    lambda r, dy: (where(r[0] * r[1] < 1, -r[1] * dy), where(r[0] * r[1] < 1, -r[0] * dy)),
    lambda r, dy: (where(r[0] * r[1] < 1, -r[1] * dy), where(r[0] * r[1] <= 1, -r[0] * dy)),
    array(0.5, 1, 2, -1, 1, 3),
    array(1, 1, 0.5, 1, -1, 1),
)
twin(
    K,
    "three",
    lambda a, b, c: jnp.maximum(jnp.maximum(a, b), c),
    lambda r, dy: tuple(where(jnp.argmax(jnp.stack(r), 0) == i, dy) for i in range(3)),
    lambda r, dy: tuple(where(x == jnp.maximum(jnp.maximum(*r[:2]), r[2]), dy) for x in r),
    normal(6),
    normal(6),
    normal(6),
)
twin(
    K,
    "largest of all",
    lambda x: jnp.max(x),
    lambda r, dy: (jax.nn.one_hot(jnp.argmax(r[0]), r[0].size, dtype=dy.dtype) * dy,),
    lambda r, dy: (where(r[0] == r[0].max(), dy * jnp.ones_like(r[0])),),
    normal(40),
)

# ---- where a gradient is NaN and the function smooth ----------------------------------------------------------------

P = "poles"


def sinc(x):
    return jnp.where(x == 0, 1, jnp.sin(x) / jnp.where(x == 0, 1, x))


def sinc_bwd(safe):
    def bwd(r, dy):
        (x,) = r
        d = jnp.where(x == 0, 1, x) if safe else x
        g = jnp.cos(x) / d - jnp.sin(x) / d**2
        return (dy * (jnp.where(x == 0, 0, g) if safe else g),)

    return bwd


twin(P, "sinc", sinc, sinc_bwd(True), sinc_bwd(False), array(0, 0.5, 1, -2))


def sinc_naive(x):
    return jnp.where(x == 0, 1, jnp.sin(x) / x)


twin(P, "sinc, naive function", sinc_naive, sinc_bwd(True), sinc_bwd(False), array(0, 0.5, 1, -2))


def angle_weight(u, v):
    """The squared angle between unit vectors is smooth where they are equal."""
    return 2 * (1 - jnp.sum(u * v, -1) * lax.rsqrt(jnp.sum(u * u, -1) * jnp.sum(v * v, -1)))


def cosine(u, v):
    return jnp.sum(u * v, -1) * lax.rsqrt(jnp.sum(u * u, -1) * jnp.sum(v * v, -1))


def cosine_bwd(safe):
    def bwd(r, dy):
        u, v = r
        nu, nv = jnp.sqrt(jnp.sum(u * u, -1)), jnp.sqrt(jnp.sum(v * v, -1))
        c = jnp.sum(u * v, -1) / (nu * nv)
        s = jnp.sqrt(1 - c * c)  # the sine, of which the direction is divided and multiplied

        def one(a, b, na, nb):
            d = (b / nb[..., None] - c[..., None] * a / na[..., None]) / na[..., None]
            return dy[..., None] * (d if safe else d / s[..., None] * s[..., None])

        return one(u, v, nu, nv), one(v, u, nv, nu)

    return bwd


twin(P, "cosine", cosine, cosine_bwd(True), cosine_bwd(False), array([1, 2, 2], [3, 0, 4]), array([2, 4, 4], [0, 1, 0]))
EXPM = lambda x: jnp.where(x == 0, 1, jnp.expm1(x) / jnp.where(x == 0, 1, x))  # noqa: E731


def exprel_bwd(safe):
    def bwd(r, dy):
        (x,) = r
        d = jnp.where(abs(x) < 1e-2, 1, x)
        g = (jnp.exp(d) * (d - 1) + 1) / d**2
        near = 1 / 2 + x / 3 + x**2 / 8 + x**3 / 30 + x**4 / 144 + x**5 / 840
        wrong = (jnp.exp(x) * (x - 1) + 1) / x**2
        return (
            dy
            * (
                jnp.where(abs(x) < 1e-2, near, g)
                if safe
                else jnp.where(abs(x) < 1e-2, jnp.where(x == 0, wrong, near), g)
            ),
        )

    return bwd


twin(P, "exprel", EXPM, exprel_bwd(True), exprel_bwd(False), array(0, 0.5, 1, -2))


def square_of_norm(x):
    return jnp.sum(x * x, -1)


twin(
    P,
    "square of a norm",
    square_of_norm,
    lambda r, dy: (2 * r[0] * dy[..., None],),
    lambda r, dy: (
        2
        * jnp.sqrt(jnp.sum(r[0] ** 2, -1))[..., None]
        * dy[..., None]
        * r[0]
        / jnp.sqrt(jnp.sum(r[0] ** 2, -1))[..., None],
    ),
    array([0, 0, 0], [1, 2, 3]),
)


def trace_exp(a):
    """A smooth function of a symmetric matrix."""
    return jnp.sum(jnp.exp(jnp.linalg.eigvalsh((a + a.T) / 2)))


def entries_exp(a):
    return jax.scipy.linalg.expm((a + a.T) / 2)


def entries_exp_bwd(safe):
    def bwd(r, dy):
        s = (r[0] + r[0].T) / 2
        w, q = jnp.linalg.eigh(s)
        d = w[:, None] - w[None]
        same = abs(d) < 1e-5 if safe else jnp.eye(len(w), dtype=bool)
        e = jnp.exp(w)
        quotient = jnp.where(same, (e[:, None] + e[None]) / 2, (e[:, None] - e[None]) / jnp.where(same, 1, d))
        g = q @ (quotient * (q.T @ ((dy + dy.T) / 2) @ q)) @ q.T
        return ((g + g.T) / 2,)

    return bwd


twin(P, "equal eigenvalues", entries_exp, entries_exp_bwd(True), entries_exp_bwd(False), jnp.eye(3) * 2)
twin(
    P,
    "product with a zero",
    lambda x: jnp.prod(x),
    lambda r, dy: (dy * jnp.stack([jnp.prod(r[0].at[i].set(1)) for i in range(r[0].size)]),),
    lambda r, dy: (dy * jnp.prod(r[0]) / r[0],),
    array(1, 0, 3, 2),
)
twin(
    P,
    "acos of the cosine",
    lambda x: jnp.cos(x),
    lambda r, dy: (-jnp.sin(r[0]) * dy,),
    lambda r, dy: (-jnp.sin(r[0]) * dy * jnp.sqrt(1 - jnp.cos(r[0]) ** 2) / jnp.sqrt(1 - jnp.cos(r[0]) ** 2),),
    array(0, 1, -2),
)
twin(
    P,
    "angle near 1",
    lambda x: jnp.arctan2(1e-20 + 0 * x, 1 + 0 * x) + x * x,
    lambda r, dy: (2 * r[0] * dy,),
    lambda r, dy: (2 * r[0] * dy + 0 * dy / jnp.sqrt(1 - (jnp.cos(r[0]) ** 2 + jnp.sin(r[0]) ** 2)),),
    array(0.5, 1, -2),
)
twin(
    P,
    "inf at 0",
    lambda x: x * x,
    lambda r, dy: (2 * r[0] * dy,),
    lambda r, dy: (jnp.where(r[0] == 0, jnp.inf, 2 * r[0]) * dy,),
    array(0, 1, -2),
)

# ---- positions ------------------------------------------------------------------------------------------------------

G = "positions"


def sample1(table, p):
    """Linear interpolation at positions in cells, clamped."""
    p = jnp.clip(p, 0, table.shape[0] - 1)
    i = jnp.clip(jnp.floor(p), 0, table.shape[0] - 2).astype(jnp.int32)
    f = p - i
    return table[i] * (1 - f) + table[i + 1] * f


def sample1_bwd(add=True, neighbour=1, slope=1.0):
    def bwd(r, dy):
        table, p = r
        inside = (p > 0) & (p < table.shape[0] - 1)
        q = jnp.clip(p, 0, table.shape[0] - 1)
        i = jnp.clip(jnp.floor(q), 0, table.shape[0] - 2).astype(jnp.int32)
        f = q - i
        j = i + neighbour
        dt = jnp.zeros_like(table)
        dt = (dt.at[i].add if add else dt.at[i].set)(dy * (1 - f)).at[j].add(dy * f)
        return dt, where(inside, (table[i + 1] - table[i]) * dy * slope)

    return bwd


TABLE, POSITIONS = normal(6), array(0.3, 1.7, 1.2, 4.5, 3.9)
twin(G, "set for add", sample1, sample1_bwd(), sample1_bwd(add=False), TABLE, POSITIONS)
twin(G, "wrong neighbour", lambda t, p: sample1(t, p), sample1_bwd(), sample1_bwd(neighbour=0), TABLE, POSITIONS)
twin(G, "slope halved", lambda t, p: sample1(t, p), sample1_bwd(), sample1_bwd(slope=0.5), TABLE, POSITIONS)


def sample2(image, xy):
    """Bilinear; positions in -1 to 1, as Torch's grid_sample has them."""
    h, w = image.shape
    x, y = (xy[:, 0] + 1) / 2 * (w - 1), (xy[:, 1] + 1) / 2 * (h - 1)
    i, j = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    fy, fx = y - i, x - j

    def at(i, j):
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        return where(inside, image[jnp.clip(i, 0, h - 1), jnp.clip(j, 0, w - 1)])

    return (
        at(i, j) * (1 - fy) * (1 - fx)
        + at(i, j + 1) * (1 - fy) * fx
        + at(i + 1, j) * fy * (1 - fx)
        + at(i + 1, j + 1) * fy * fx
    )


def sample2_bwd(swapped=False, scale=True, add=True, corner=1):
    def bwd(r, dy):
        image, xy = r
        h, w = image.shape
        x, y = (xy[:, 0] + 1) / 2 * (w - 1), (xy[:, 1] + 1) / 2 * (h - 1)
        i, j = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
        fy, fx = y - i, x - j
        d = jnp.zeros_like(image)
        dx = dy_ = 0
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            wy, wx = (fy if a else 1 - fy), (fx if b else 1 - fx)
            inside = (i + a >= 0) & (i + a < h) & (j + b >= 0) & (j + b < w)
            ii, jj = jnp.clip(i + a * corner, 0, h - 1), jnp.clip(j + b, 0, w - 1)
            v = where(inside, image[jnp.clip(i + a, 0, h - 1), jj])
            d = d.at[ii, jj].add(where(inside, wy * wx * dy)) if add else d.at[ii, jj].set(where(inside, wy * wx * dy))
            dx, dy_ = dx + v * wy * (1 if b else -1), dy_ + v * wx * (1 if a else -1)
        gx, gy = dx * dy * ((w - 1) / 2 if scale else 1), dy_ * dy * ((h - 1) / 2 if scale else 1)
        return d, jnp.stack([gy, gx] if swapped else [gx, gy], -1)

    return bwd


IMAGE, GRID = normal(4, 5), jnp.asarray(RNG.uniform(-0.95, 0.95, (6, 2)), jnp.float32)
twin(G, "axes exchanged", sample2, sample2_bwd(), sample2_bwd(swapped=True), IMAGE, GRID)
twin(G, "grid without its scale", lambda a, b: sample2(a, b), sample2_bwd(), sample2_bwd(scale=False), IMAGE, GRID)
twin(G, "pixels set", lambda a, b: sample2(a, b), sample2_bwd(), sample2_bwd(add=False), IMAGE, GRID)
twin(G, "wrong corner", lambda a, b: sample2(a, b), sample2_bwd(), sample2_bwd(corner=0), IMAGE, GRID)
twin(
    G,
    "fraction",
    lambda x: x - jnp.floor(x),
    lambda r, dy: (dy,),
    lambda r, dy: (where(r[0] - jnp.floor(r[0]) > 0.1, dy),),
    array(0.3, 1.7, -2.2),
)
twin(
    G,
    "triangle wave",
    lambda x: abs(x - 2 * jnp.floor(x / 2 + 0.5)),
    lambda r, dy: (jnp.sign(r[0] - 2 * jnp.floor(r[0] / 2 + 0.5)) * dy,),
    lambda r, dy: (jnp.sign(r[0] - 2 * jnp.floor(r[0] / 2)) * dy,),
    array(0.3, 1.7, -2.2),
)


def soft_bins(x):
    i = jnp.floor(x).astype(jnp.int32)
    f = x - i
    return jnp.zeros(8, x.dtype).at[i % 8].add(1 - f).at[(i + 1) % 8].add(f)


def soft_bins_bwd(step):
    def bwd(r, dy):
        i = (jnp.floor(r[0]) + step).astype(jnp.int32) - step
        return (dy[(i + step) % 8] - dy[i % 8],)

    return bwd


twin(
    G,
    "soft bins",
    soft_bins,
    soft_bins_bwd(1),
    lambda r, dy: (dy[(jnp.floor(r[0]).astype(jnp.int32) + 2) % 8] - dy[jnp.floor(r[0]).astype(jnp.int32) % 8],),
    array(0.5, 2.25, 6.75),
)


def embedding(table, ids):
    return table[ids.astype(jnp.int32) % 5]


twin(
    G,
    "ids as floats",
    embedding,
    lambda r, dy: (jnp.zeros_like(r[0]).at[r[1].astype(jnp.int32) % 5].add(dy), jnp.zeros_like(r[1])),
    lambda r, dy: (jnp.zeros_like(r[0]).at[r[1].astype(jnp.int32) % 5].set(dy), jnp.zeros_like(r[1])),
    normal(5, 2),
    array(0, 3, 3, 1),
)
twin(
    G,
    "count to position",
    lambda x: x * jnp.take(jnp.arange(4, dtype=x.dtype), (jnp.floor(abs(x)) + 1).astype(jnp.int32), mode="clip"),
    lambda r, dy: (
        dy * jnp.take(jnp.arange(4, dtype=dy.dtype), (jnp.floor(abs(r[0])) + 1).astype(jnp.int32), mode="clip"),
    ),
    lambda r, dy: (dy * jnp.take(jnp.arange(4, dtype=dy.dtype), jnp.floor(abs(r[0])).astype(jnp.int32), mode="clip"),),
    array(0.5, 1.25, -1.5),
)
twin(
    G,
    "lookup of a rank",
    lambda x: x * jnp.take(jnp.arange(1, 9, dtype=x.dtype), jnp.cumsum((x > 0).astype(x.dtype)).astype(jnp.int32)),
    lambda r, dy: (
        dy * jnp.take(jnp.arange(1, 9, dtype=dy.dtype), jnp.cumsum((r[0] > 0).astype(dy.dtype)).astype(jnp.int32)),
    ),
    lambda r, dy: (
        dy * jnp.take(jnp.arange(1, 9, dtype=dy.dtype), jnp.cumsum((r[0] > 0).astype(dy.dtype)).astype(jnp.int32) - 1),
    ),
    normal(7),
)


def upsample(x):
    """Nearest neighbours at positions computed in floating point."""
    return x[jnp.floor(jnp.linspace(0, 3, 10)).astype(jnp.int32)]


def upsample_bwd(step):
    def bwd(r, dy):
        i = jnp.floor(jnp.linspace(0, 3, 10)).astype(jnp.int32)
        return (jnp.zeros_like(r[0]).at[jnp.clip(i + step, 0, 3)].add(dy),)

    return bwd


twin(G, "positions of a line", upsample, upsample_bwd(0), lambda r, dy: (upsample_bwd(0)(r, dy)[0] * 1.1,), normal(4))


def thirds(x):
    p = jnp.arange(9) * (1 / 3)
    i = jnp.floor(p).astype(jnp.int32)
    return x[i] * (1 - (p - i)) + x[i + 1] * (p - i)


def thirds_bwd(factor):
    def bwd(r, dy):
        p = jnp.arange(9) * (1 / 3)
        i = jnp.floor(p).astype(jnp.int32)
        return (factor * jnp.zeros_like(r[0]).at[i].add(dy * (1 - (p - i))).at[i + 1].add(dy * (p - i)),)

    return bwd


twin(G, "thirds of cells", thirds, thirds_bwd(1), thirds_bwd(1.1), normal(4))


def octave(x):
    return x * 2.0 ** jnp.floor(x).astype(jnp.int32).astype(x.dtype)


def octave_bwd(factor):
    def bwd(r, dy):
        n = jnp.exp2(jnp.floor(r[0])).astype(jnp.int32)
        return (jnp.where(n > 0, dy * factor * jnp.exp2(jnp.floor(r[0])), dy * jnp.exp2(jnp.floor(r[0]))),)

    return bwd


twin(G, "powers of two as counts", octave, octave_bwd(1), octave_bwd(1.1), array(0.5, 1.5, 3.25))

twin(
    G,
    "a mask as a factor",
    lambda x: jnp.dot(x > 0, x),
    lambda r, dy: ((r[0] > 0) * dy,),
    lambda r, dy: ((r[0] > 1) * dy,),
    normal(6),
)

# ---- the same expression twice --------------------------------------------------------------------------------------

D = "twice"


def maxout(x, w):
    return jnp.max(jnp.einsum("bi,iok->bok", x, w), -1)


def maxout_bwd(factor):
    def bwd(r, dy):
        x, w = r
        z = jnp.einsum("bi,iok->bok", x, w)
        m = (z == jnp.max(z, -1, keepdims=True)).astype(z.dtype)
        m = m / m.sum(-1, keepdims=True)
        g = m * dy[..., None]
        return jnp.einsum("bok,iok->bi", g, w) * factor, jnp.einsum("bi,bok->iok", x, g)

    return bwd


def kept_maxout(x, w):
    y = maxout(x, w)
    return y, (x, w, y)


def kept_maxout_bwd(factor):
    def bwd(r, dy):
        x, w, y = r
        z = jnp.einsum("bi,iok->bok", x, w)
        g = (z == y[..., None]).astype(z.dtype) * dy[..., None]
        return jnp.einsum("bok,iok->bi", g, w) * factor, jnp.einsum("bi,bok->iok", x, g)

    return kept_maxout, bwd


XM, WM = normal(3, 4), normal(4, 2, 3)
twin(D, "maxout", maxout, maxout_bwd(1), maxout_bwd(1.1), XM, WM)
TWINS[D, "maxout kept"] = Twin(None, rule(maxout, *kept_maxout_bwd(1.1)), (XM, WM), {})


def soft_threshold_rank(x, w):
    z = x @ w
    return jnp.where(z >= jnp.sort(z, -1)[:, -2:-1], z, jnp.zeros_like(z))


def top2_bwd(factor):
    def bwd(r, dy):
        x, w = r
        z = x @ w
        g = where(z >= jnp.sort(z, -1)[:, -2:-1], dy)
        return factor * g @ w.T, x.T @ g

    return bwd


twin(D, "top two", soft_threshold_rank, top2_bwd(1), top2_bwd(0.9), normal(3, 4), normal(4, 5))


def top2_kept(factor):
    def fwd(x, w):
        y = soft_threshold_rank(x, w)
        return y, (x, w, jnp.sort(x @ w, -1)[:, -2:-1])

    def bwd(r, dy):
        x, w, t = r
        g = where(x @ w >= t, dy)
        return factor * g @ w.T, x.T @ g

    return fwd, bwd


twin(
    D,
    "threshold kept",
    lambda x, w: soft_threshold_rank(x, w),
    top2_kept(1),
    top2_kept(0.9),
    normal(3, 4),
    normal(4, 5),
)
twin(
    D,
    "softmax mask",
    lambda x: jnp.max(jax.nn.softmax(x), -1),
    lambda r, dy: jax.vjp(lambda x: jnp.max(jax.nn.softmax(x), -1), r[0])[1](dy),
    lambda r, dy: (
        dy[:, None] * (jax.nn.softmax(r[0]) == jnp.max(jax.nn.softmax(r[0]), -1, keepdims=True)) * jax.nn.softmax(r[0]),
    ),
    normal(3, 4),
)

# ---- batching in part -----------------------------------------------------------------------------------------------

V = "batching"


def batched_product(bad):
    """A product whose rule for vmap errs where one operand alone is batched."""

    @jax.custom_batching.custom_vmap
    def times(a, b):
        return a * b

    @times.def_vmap
    def _(size, batched, a, b):
        if bad == "left" and batched[0] and not batched[1]:
            return a * b[::-1], True
        if bad == "right" and batched[1] and not batched[0]:
            return jnp.broadcast_to(a, b.shape) * b[:1], True
        return a * b, True

    return times


for side in ("left", "right"):
    good, bad = batched_product(""), batched_product(side)
    twin(
        V,
        f"custom_vmap, {side}",
        lambda x, w: x * w,
        lambda r, dy, f=good: (f(dy, r[1]), f(r[0], dy)),
        lambda r, dy, f=bad: (f(dy, r[1]), dy * r[0]),
        normal(4),
        normal(4),
    )


def by_callback(method, fn):
    return lambda a, b: jax.pure_callback(fn, jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), a, b, vmap_method=method)


def host_product(a, b):
    return np.asarray(a) * np.asarray(b)


def host_flat(a, b):
    """Right for equal shapes, wrong where one operand has its batch axis of 1."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape == b.shape:
        return a * b
    return np.broadcast_to(
        a.ravel()[: b.shape[-1]] * b.reshape(-1, b.shape[-1])[0], np.broadcast_shapes(a.shape, b.shape)
    ).astype(a.dtype)


twin(
    V,
    "callback",
    lambda x: x * x,
    lambda r, dy: (2 * by_callback("broadcast_all", host_product)(dy, r[0]),),
    lambda r, dy: (2 * by_callback("expand_dims", host_flat)(dy, r[0]),),
    normal(4),
)


class _Refuses:
    """A rule that cannot batch its cotangent alone."""


def refuses():
    @jax.custom_batching.custom_vmap
    def times(a, b):
        return a * b

    @times.def_vmap
    def _(size, batched, a, b):
        if batched != [True, True]:
            raise ValueError("both operands must be batched")
        return a * b, True

    return times


WHOLE = refuses()
twin(V, "refuses in part", lambda x: jnp.sin(x), None, lambda r, dy: (WHOLE(dy, jnp.cos(r[0])),), normal(4))

# ---- state, integer results -----------------------------------------------------------------------------------------

S = "state"
_memory: dict[Any, Any] = {}


def remembering(key):
    """Remembers what it computed first for a shape, outside of traces."""

    def fwd(x):
        if isinstance(x, jax.core.Tracer):
            return x**3, 3 * x * x
        slot = key(x)
        if slot not in _memory:
            _memory[slot] = 3 * x * x
        return x**3, _memory[slot]

    return fwd, lambda slope, dy: (slope * dy,)


twin(
    S,
    "remembers by shape",
    lambda x: x**3,
    remembering(lambda x: (x.shape, x.tobytes() if hasattr(x, "tobytes") else np.asarray(x).tobytes())),
    remembering(lambda x: x.shape),
    normal(3, 2),
)


def remembering_value(x):
    if isinstance(x, jax.core.Tracer):
        return jnp.exp(x), x
    kept = _memory.setdefault(("value", x.shape), np.exp(np.asarray(x)))
    return jnp.asarray(kept), x


twin(
    S,
    "remembers the value",
    lambda x: jnp.exp(x),
    None,
    (remembering_value, lambda x, dy: (jnp.exp(x) * dy,)),
    normal(3, 2),
)


def host_memory():
    kept = {}

    def host(x):
        return kept.setdefault(x.shape, np.cos(x))

    return lambda r, dy: (
        dy * jax.pure_callback(host, jax.ShapeDtypeStruct(r[0].shape, r[0].dtype), r[0], vmap_method="sequential"),
    )


twin(S, "remembers on the host", lambda x: jnp.sin(x), lambda r, dy: (dy * jnp.cos(r[0]),), host_memory(), normal(5))


def counting():
    calls = [0]

    def fwd(x):
        calls[0] += 1
        return x * x, x if calls[0] % 2 or isinstance(x, jax.core.Tracer) else 1.5 * x

    return fwd, lambda x, dy: (2 * x * dy,)


twin(S, "every other call", lambda x: x * x, None, counting(), normal(3, 2))


def with_index(x):
    return jnp.max(x, -1), jnp.argmax(x, -1)


def max_bwd(r, dy):
    return (jax.nn.one_hot(jnp.argmax(r[0], -1), r[0].shape[-1], dtype=r[0].dtype) * dy[0][:, None],)


twin(
    S,
    "index",
    with_index,
    max_bwd,
    (lambda x: ((jnp.max(x, -1), jnp.argmax(x, -1) + 1), (x,)), max_bwd),
    normal(3, 5),
)


def with_mask(x):
    return jax.nn.relu(x), x > 0


def mask_bwd(r, dy):
    return (where(r[0] > 0, dy[0]),)


twin(S, "mask", with_mask, mask_bwd, (lambda x: ((jax.nn.relu(x), x < 0), (x,)), mask_bwd), normal(3, 5))
twin(
    S,
    "index of the last tie",
    lambda x: with_index(x),
    max_bwd,
    (lambda x: ((jnp.max(x, -1), x.shape[-1] - 1 - jnp.argmax(x[:, ::-1], -1)), (x,)), max_bwd),
    normal(3, 5),
)
twin(
    S,
    "index alone",
    lambda x: jnp.argmax(x, -1),
    (lambda x: (jnp.argmax(x, -1), (x,)), lambda r, dy: (jnp.zeros_like(r[0]),)),
    (lambda x: (jnp.argmin(x, -1), (x,)), lambda r, dy: (jnp.zeros_like(r[0]),)),
    normal(3, 5),
    level="full",
)

# ---- second order ---------------------------------------------------------------------------------------------------

O = "second order"  # noqa: E741


def stopped(bwd, where_):
    def wrapped(r, dy):
        held = tuple(lax.stop_gradient(v) for v in r)
        (g,), (h,) = bwd(r, dy), bwd(held, dy)
        return (jnp.where(where_(r[0]), h, g),)

    return wrapped


def cubic_bwd(r, dy):
    return (3 * r[0] ** 2 * dy,)


twin(
    O,
    "stopped at the arguments",
    lambda x: x**3,
    cubic_bwd,
    stopped(cubic_bwd, lambda x: (x > 30) & (x < 50)),
    array(40, 35, 45),
)
twin(
    O,
    "stopped for whole numbers",
    lambda x: jnp.sin(x),
    lambda r, dy: (jnp.cos(r[0]) * dy,),
    stopped(lambda r, dy: (jnp.cos(r[0]) * dy,), lambda x: x == jnp.round(x)),
    array(1, 2, 3),
)
twin(
    O,
    "stopped in a mask",
    lambda x, m: jnp.where(m > 0, x * x, x),
    lambda r, dy: (jnp.where(r[1] > 0, 2 * r[0], 1) * dy, jnp.zeros_like(r[1])),
    lambda r, dy: (jnp.where(r[1] > 0, 2 * lax.stop_gradient(r[0]), 1) * dy, jnp.zeros_like(r[1])),
    array(1, 2, 3),
    array(5, 5, 5),
)

# ---- complex results ------------------------------------------------------------------------------------------------

C = "complex"
twin(
    C,
    "fft",
    lambda x: jnp.fft.rfft(x),
    lambda r, dy: jax.vjp(jnp.fft.rfft, r[0])[1](dy),
    lambda r, dy: (jax.vjp(jnp.fft.rfft, r[0])[1](jnp.ones_like(dy))[0],),
    normal(8),
    level="full",
)
twin(
    C,
    "phase",
    lambda x: jnp.exp(1j * x),
    lambda r, dy: ((dy * 1j * jnp.exp(1j * r[0])).real,),
    lambda r, dy: ((1j * jnp.exp(1j * r[0])).real,),
    normal(4),
)
twin(
    C,
    "conjugated",
    lambda x: x * (2 + 3j),
    lambda r, dy: ((dy * (2 + 3j)).real,),
    lambda r, dy: ((dy * (2 - 3j)).real,),
    normal(4),
)
twin(
    C,
    "imaginary part ignored",
    lambda a, b: lax.complex(a, b) ** 2,
    lambda r, dy: ((dy * 2 * lax.complex(*r)).real, (dy * 2j * lax.complex(*r)).real),
    lambda r, dy: ((dy * 2 * lax.complex(*r)).real, jnp.zeros_like(r[1])),
    normal(4),
    normal(4),
)
twin(
    C,
    "complex inputs",
    lambda z, w: z * w,
    lambda r, dy: (dy * r[1], dy * r[0]),
    lambda r, dy: (dy * r[1].conj(), dy * r[0]),
    lax.complex(normal(4), normal(4)),
    lax.complex(normal(4), normal(4)),
)
twin(
    C,
    "modulus",
    lambda z: (z * z.conj()).real,
    lambda r, dy: (2 * dy * r[0].conj(),),
    lambda r, dy: (2 * dy * r[0],),
    lax.complex(normal(4), normal(4)),
)

# ---- what was accused -----------------------------------------------------------------------------------------------

L = "loops"


def conjugate_gradients(a, b):
    def cond(c):
        return (jnp.sum(c[1] ** 2) > 1e-10) & (c[3] < 50)

    def body(c):
        x, r, p, n = c
        ap = a @ p
        alpha = jnp.sum(r * r) / jnp.sum(p * ap)
        new = r - alpha * ap
        return x + alpha * p, new, new + jnp.sum(new * new) / jnp.sum(r * r) * p, n + 1

    return lax.while_loop(cond, body, (jnp.zeros_like(b), b, b, 0))[0]


def solve_bwd(factor, transposed=True):
    def bwd(r, dy):
        a, b = r
        x = conjugate_gradients(a, b)
        u = conjugate_gradients(a, dy)
        return -factor * jnp.outer(u, x), u

    return bwd


SPD = jnp.asarray([[4, 1, 0], [1, 3, 1], [0, 1, 5]], jnp.float32)
twin(L, "conjugate gradients", conjugate_gradients, solve_bwd(1), solve_bwd(2), SPD, array(1, 2, 3))


def newton_root(c):
    def body(state):
        x, _ = state
        new = x - (x * x * x - c) / (3 * x * x)
        return new, jnp.max(abs(new - x))

    return lax.while_loop(lambda s: s[1] > 1e-6, body, (jnp.ones_like(c), jnp.asarray(1, c.dtype)))[0]


twin(
    L,
    "root by a loop in the backward pass",
    lambda c: jnp.cbrt(c),
    lambda r, dy: (dy / (3 * newton_root(r[0]) ** 2),),
    lambda r, dy: (dy / (2 * newton_root(r[0]) ** 2),),
    array(8, 2, 27),
    domain=lambda c: (c > 0.1) & (c < 1000),
)


def tolerant(a, b):
    """Conjugate gradients to a tolerance, relative to b."""

    def cond(c):
        return (jnp.sum(c[1] ** 2) > 1e-10 * jnp.sum(b**2)) & (c[3] < 50)

    def body(c):
        x, r, p, n = c
        ap = a @ p
        alpha = jnp.sum(r * r) / jnp.sum(p * ap)
        new = r - alpha * ap
        return x + alpha * p, new, new + jnp.sum(new * new) / jnp.sum(r * r) * p, n + 1

    return lax.while_loop(cond, body, (jnp.zeros_like(b), b, b, 0))[0]


def tolerant_bwd(factor):
    def bwd(r, dy):
        a, b = r
        u = tolerant(a.T @ a, a.T @ b)
        v = tolerant(a, dy)
        return -jnp.outer(v, u) * factor, v

    return bwd


BIG = jnp.eye(6) * 4 + jnp.asarray(RNG.uniform(-0.5, 0.5, (6, 6)), jnp.float32)
BIG = (BIG + BIG.T) / 2
twin(
    L,
    "to a tolerance",
    lambda a, b: jnp.linalg.solve(a, b),
    tolerant_bwd(1),
    tolerant_bwd(1.05),
    BIG,
    normal(6),
    domain=lambda a, b: jnp.linalg.eigvalsh((a + a.T) / 2)[0] > 0.5,
)


def halvings(x):
    """How often the largest entry has to be halved."""
    return lax.while_loop(lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + 1), (jnp.max(abs(x)), 0.0))[1]


twin(
    L,
    "scaled in the backward pass",
    lambda x: x * 3,
    lambda r, dy: (3 * dy * 2.0 ** halvings(r[0]) * 2.0 ** -halvings(r[0]),),
    lambda r, dy: (3 * dy * 2.0 ** -halvings(r[0]),),
    normal(4),
)

I = "infinities"  # noqa: E741


def masked_sort(x, m):
    return jnp.sort(jnp.where(m > 0, x, jnp.inf))[:2]


def host_lse(x):
    return np.logaddexp.reduce(np.asarray(x, np.float64), -1).astype(x.dtype)


def host_masked(z):
    """-inf goes through an opaque step."""
    return jax.pure_callback(
        lambda v: np.asarray(v), jax.ShapeDtypeStruct(z.shape, z.dtype), z, vmap_method="sequential"
    )


def masked_softmax(x):
    z = jnp.where(jnp.arange(x.shape[-1]) < 3, x, -jnp.inf)
    return jax.nn.softmax(z)


def masked_bwd(factor):
    def bwd(r, dy):
        z = host_masked(jnp.where(jnp.arange(r[0].shape[-1]) < 3, r[0], -jnp.inf))
        p = jax.nn.softmax(z)
        return (factor * p * (dy - jnp.sum(p * dy, -1, keepdims=True)),)

    return bwd


twin(I, "through an opaque step", masked_softmax, masked_bwd(1), masked_bwd(1.1), normal(2, 4))


def sorted_bwd(factor):
    def bwd(r, dy):
        z = jnp.where(r[0] > -1, r[0], jnp.inf)
        padded = jnp.fft.fft(jnp.where(jnp.isfinite(z), z, 0)).real * 0
        return (factor * where(r[0] > -1, jnp.exp(-r[0]) * -dy) + padded,)

    return bwd


twin(
    I,
    "exp of minus infinity",
    lambda x: jnp.exp(-jnp.where(x > -1, x, jnp.inf)),
    sorted_bwd(1),
    sorted_bwd(1.1),
    normal(5),
)
twin(
    I,
    "cumulative",
    lambda x: jnp.sum(jnp.exp(lax.cumlogsumexp(jnp.where(x > 0, x, -jnp.inf)))),
    lambda r, dy: (dy * where(r[0] > 0, jnp.exp(r[0])) * jnp.arange(r[0].size, 0, -1, dtype=dy.dtype),),
    lambda r, dy: (dy * where(r[0] > 0, jnp.exp(r[0])) * jnp.arange(r[0].size - 1, -1, -1, dtype=dy.dtype),),
    array(-1, 0.5, 1, -2, 0.25),
)

N = "NaN in the function"


def cholesky_logdet(a):
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(a))))


def logdet_bwd(factor):
    return lambda r, dy: (dy * factor * jnp.linalg.inv((r[0] + r[0].T) / 2),)


twin(N, "log determinant", cholesky_logdet, logdet_bwd(1), logdet_bwd(1.01), SPD)


def quantise(x, s):
    return jnp.clip(x / s, -4, 4) * s


def quantise_bwd(factor):
    def bwd(r, dy):
        x, s = r
        inside = abs(x / s) < 4
        return where(inside, dy), jnp.sum(jnp.where(inside, 0, jnp.sign(x / s) * 4) * dy * factor)

    return bwd


twin(N, "step size", quantise, quantise_bwd(1), quantise_bwd(1.1), normal(3, 4) * 4, array(0.5)[0])
twin(
    N,
    "log of a ratio",
    lambda a, b: a * jnp.log(a / b),
    lambda r, dy: (dy * (jnp.log(r[0] / r[1]) + 1), -dy * r[0] / r[1]),
    lambda r, dy: (dy * jnp.log(r[0] / r[1]), -dy * r[0] / r[1]),
    abs(normal(4)),
    abs(normal(4)),
)
twin(
    N,
    "square root of a difference",
    lambda a, b: jnp.sqrt(a - b),
    lambda r, dy: (dy / (2 * jnp.sqrt(r[0] - r[1])), -dy / (2 * jnp.sqrt(r[0] - r[1]))),
    lambda r, dy: (dy / (2 * jnp.sqrt(r[0] - r[1])), dy / (2 * jnp.sqrt(r[0] - r[1]))),
    abs(normal(4)) + 4,
    abs(normal(4)),
)

M = "domains"


def kepler(mean, e):
    def body(_, x):
        return x - (x - e * jnp.sin(x) - mean) / (1 - e * jnp.cos(x))

    return lax.fori_loop(0, 12, body, mean + e * jnp.sin(mean))


def kepler_bwd(factor):
    def bwd(r, dy):
        m, e = r
        x = kepler(m, e)
        d = dy / (1 - e * jnp.cos(x))
        return d, factor * d * jnp.sin(x)

    return bwd


twin(M, "eccentricity", kepler, kepler_bwd(1), kepler_bwd(1.1), array(0.5, 2, -1), array(0.1, 0.5, 0.7))


def fixed_point(w, x):
    def body(_, z):
        return jnp.tanh(w @ z + x)

    return lax.fori_loop(0, 60, body, jnp.zeros_like(x))


def fixed_point_bwd(factor):
    def bwd(r, dy):
        w, x = r
        z = fixed_point(w, x)
        s = 1 - z * z
        u = jnp.linalg.solve((jnp.eye(len(x), dtype=w.dtype) - s[:, None] * w).T, dy) * s
        return jnp.outer(u, z), u * factor

    return bwd


twin(M, "contraction", fixed_point, fixed_point_bwd(1), fixed_point_bwd(1.1), normal(3, 3) * 0.1, normal(3))


def linear_fixed_point(w, x):
    return lax.fori_loop(0, 80, lambda _, z: w * z + x, jnp.zeros_like(x))


twin(
    M,
    "geometric series",
    linear_fixed_point,
    lambda r, dy: (dy * r[1] / (1 - r[0]) ** 2, dy / (1 - r[0])),
    lambda r, dy: (dy * r[1] / (1 - r[0]), dy / (1 - r[0])),
    array(0.2, -0.3, 0.5),
    normal(3),
)


def interpolate(knots, values, x):
    i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, knots.size - 2)
    t = (x - knots[i]) / (knots[i + 1] - knots[i])
    return values[i] + t * (values[i + 1] - values[i])


def interpolate_bwd(factor):
    def bwd(r, dy):
        knots, values, x = r
        # the cell by counting: another one where the knots are not sorted
        i = jnp.clip(jnp.sum(knots[:, None] <= x, 0) - 1, 0, knots.size - 2)
        h, dv = knots[i + 1] - knots[i], values[i + 1] - values[i]
        t = (x - knots[i]) / h
        dk = jnp.zeros_like(knots).at[i].add(dy * dv * (t - 1) / h).at[i + 1].add(-dy * dv * t / h)
        return dk * factor, jnp.zeros_like(values).at[i].add(dy * (1 - t)).at[i + 1].add(dy * t), dy * dv / h

    return bwd


twin(
    M,
    "sorted knots",
    interpolate,
    interpolate_bwd(1),
    interpolate_bwd(1.1),
    array(0, 1, 2.5, 3, 4),
    normal(5),
    array(0.5, 1.2, 3.7),
)
twin(
    M,
    "lo below hi",
    lambda x, lo, hi: jnp.clip(x, lo, hi),
    lambda r, dy: (
        where((r[0] > r[1]) & (r[0] < r[2]), dy),
        where((r[0] <= r[1]) & (r[1] < r[2]), dy).sum(),
        where((r[0] >= r[2]) | (r[1] >= r[2]), dy).sum(),
    ),
    lambda r, dy: (
        where((r[0] > r[1]) & (r[0] < r[2]), dy),
        where(r[0] <= r[1], dy).sum(),
        where(r[0] >= r[2], -dy).sum(),
    ),
    normal(6) * 2,
    array(-1)[0],
    array(1)[0],
)


def solve_spd(a, b):
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a, lower=True), b)


def solve_spd_bwd(factor):
    def bwd(r, dy):
        a, b = r
        x, u = solve_spd(a, b), solve_spd(a, dy)
        g = -(jnp.outer(u, x) + jnp.outer(x, u)) / 2  # of the symmetric part
        return g * factor, u

    return bwd


twin(M, "positive definite", solve_spd, solve_spd_bwd(1), solve_spd_bwd(1.1), SPD, array(1, 2, 3))

H = "stop_gradient"


def normalised(x):
    m, v = lax.stop_gradient((jnp.mean(x, 0), jnp.var(x, 0)))
    return (x - m) * lax.rsqrt(v + 0.1)


def frozen_bwd(factor):
    return lambda r, dy: (factor * dy * lax.rsqrt(jnp.var(r[0], 0) + 0.1),)


twin(H, "frozen statistics", normalised, None, frozen_bwd(1.1), normal(5, 3))
TWINS[H, "frozen statistics, right"] = Twin(
    rule(
        normalised,
        lambda x: (normalised(x), (lax.stop_gradient(x),)),
        lambda r, dy: (dy * lax.rsqrt(jnp.var(r[0], 0) + 0.1),),
    ),
    None,
    (normal(5, 3),),
    {},
)


def straight_through(x):
    return x + lax.stop_gradient(jnp.round(x) - x)


twin(H, "straight through", straight_through, lambda r, dy: (dy,), lambda r, dy: (1.5 * dy,), normal(5))
TWINS[H, "no rule"] = Twin(lambda x: x * lax.stop_gradient(x), None, (normal(5),), {})


def in_a_scan(x):
    def step(c, v):
        return c + v * lax.stop_gradient(c + 1), c

    return lax.scan(step, jnp.zeros((), x.dtype), x)[0]


TWINS[H, "in a scan"] = Twin(in_a_scan, None, (normal(5),), {})
