"""Normalisation over any axes: one function and its derivative; layer, RMS, group, instance, batch norm name the axes.

With m and v the mean and the variance of x over the axes, n numbers, and r = 1 / sqrt(v + epsilon),

    z = r (x - m)        y = scale z + bias

z does not change if x is shifted, nor, but for epsilon, if it is scaled: of g = scale dy only what is orthogonal to 1
and to z comes through.  dm = sum(dx) / n and dv = 2 sum((x - m) dx) / n in dz = r (dx - dm) - r^3 (x - m) dv / 2 give

    dx = r (g - mean(g) - z mean(g z))        dscale = sum(dy z)        dbias = sum(dy)

(Ioffe and Szegedy, Batch normalization, 2015, whose chain rule through m and v adds up to this line.)  x is kept, and
three numbers for each group; z is computed again.  Sums are in float32 for half precisions.  The variance is the mean
of squares of x less its first number, less the mean of that: a mean that is large against the deviation costs no
digits, and no variance is negative.  On GPUs and TPUs, where passes over x are what costs, the square of that mean is
subtracted at the end: digits are lost where the first number is far from the others.  A constant group has z = 0;
empty sums are 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.attach import attach
from fnconv.base.dtypes import accumulator, to_accumulator
from fnconv.base.errors import invalid, mistyped
from fnconv.base.layout import check_layout
from fnconv.base.spec import as_array, number
from fnconv.base.typing import ArrayLike, Layout
from fnconv.ops.activation import _axis
from fnconv.ops.elementwise import elementwise, summed_to

Arrays = tuple[jax.Array, ...]


class Spec(NamedTuple):
    """centred: 0 where no mean is subtracted; devices: the mapped axis that groups extend over, and its size."""

    axes: tuple[int, ...]
    epsilon: float
    centred: int = 1
    devices: tuple[str, int] | None = None


# ---- the function and its derivative --------------------------------------------------------------------------------


def _primal(spec: Spec, x: jax.Array, scale: jax.Array, bias: jax.Array) -> Arrays:
    return _fwd(spec, x, scale, bias)[0]


def _fwd(spec: Spec, x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[Arrays, Arrays]:
    origin, mean, variance = _moments(spec, x)
    r = lax.rsqrt(variance + spec.epsilon)
    z = _deviation(x, origin, mean) * r
    y = (z * scale.astype(z.dtype) + bias.astype(z.dtype)).astype(x.dtype)
    return (y, origin + mean, variance), (x, scale, bias, origin, mean, r)


def _moments(spec: Spec, x: jax.Array) -> Arrays:
    """Of each group its first number, the mean of x less that, and the variance; not centred: 0, 0, mean(x^2)."""
    n = _count(spec, x)
    if not spec.centred:
        zero = jnp.zeros((1,) * x.ndim, accumulator(x.dtype))
        return zero, zero, _sum(spec, jnp.square(to_accumulator(x))) / n
    first = [slice(None, 1) if i in spec.axes else slice(None) for i in range(x.ndim)]
    origin = to_accumulator(lax.stop_gradient(x[tuple(first)])) if x.size else _sum(spec, to_accumulator(x))
    mean, variance = lax.platform_dependent(x, origin, cpu=partial(_twice, spec), default=partial(_once, spec))
    return (origin, mean, variance) if spec.devices is None else _united(spec.devices, origin, mean, variance)


def _twice(spec: Spec, x: jax.Array, origin: jax.Array) -> Arrays:
    """The mean of x less the origin, and the variance."""
    n = _count(spec, x)
    mean = _sum(spec, _deviation(x, origin, 0)) / n
    return mean, _sum(spec, jnp.square(_deviation(x, origin, mean))) / n


def _once(spec: Spec, x: jax.Array, origin: jax.Array) -> Arrays:
    """The same, x read once: the roundings grow by (mean / deviation)^2, which is at most n."""
    n, d = _count(spec, x), _deviation(x, origin, 0)
    mean = _sum(spec, d) / n
    return mean, jnp.maximum(_sum(spec, jnp.square(d)) / n - jnp.square(mean), 0)


def _united(devices: tuple[str, int], *own: jax.Array) -> Arrays:
    """The moments of equally large groups together: each device's to all of them in one sum."""
    here = jnp.arange(devices[1]) == lax.axis_index(devices[0])
    placed = jnp.where(here.reshape(-1, 1, *[1] * own[0].ndim), jnp.stack(own), jnp.zeros((), own[0].dtype))
    total = _psum(placed, devices[0])
    if not _tracked(devices[0], own[0]):  # each device has moments of its own, and a cotangent
        total = total + 0 * lax.axis_index(devices[0]).astype(total.dtype)
    origins, means, variances = jnp.moveaxis(total, 1, 0)
    origin = lax.stop_gradient(origins[0])
    means = means + (origins - origin)
    mean = jnp.mean(means, axis=0)
    return origin, mean, jnp.mean(variances + jnp.square(means - mean), axis=0)


def _bwd(spec: Spec, residuals: Arrays, cotangents: Arrays) -> Arrays:
    x, scale, bias, origin, mean, r = residuals
    return pull_back(spec, x, scale, bias, _deviation(x, origin, mean), r, *map(to_accumulator, cotangents))


def pull_back(
    spec: Spec,
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    d: jax.Array,
    r: jax.Array,
    dy: jax.Array,
    *moments: Any,
) -> Arrays:
    """Cotangents of x, scale, bias; d = x - m, and the cotangents of m and v if they are results too."""
    z, wide, n = d * r, scale.astype(dy.dtype), _count(spec, x)
    alike = all(p.shape[a] == 1 for p in (scale, bias) for a in spec.axes)  # in a group: mean(g) = scale mean(dy)
    g, factor = (dy, wide) if alike else (dy * wide, jnp.ones((), dy.dtype))
    sums = _sum(spec, g), _sum(spec, g * z)
    mean_g, mean_gz, *of_moments = (v / n for v in _over_devices(spec, x, *sums, *moments))
    dx = r * factor * ((g - mean_g if spec.centred else g) - z * mean_gz)
    if of_moments:
        dm, dv = of_moments
        dx += dm * spec.centred + 2 * d * dv
    d_bias, d_scale = sums if alike else (dy, dy * z)
    return dx.astype(x.dtype), summed_to(scale, d_scale), summed_to(bias, d_bias)


def _deviation(x: jax.Array, origin: jax.Array, mean: jax.Array | float) -> jax.Array:
    return to_accumulator(x) - origin - mean


def _sum(spec: Spec, v: jax.Array) -> jax.Array:
    return jnp.sum(v, axis=spec.axes, keepdims=True)


def _count(spec: Spec, x: jax.Array) -> int:
    """How many numbers a group has on one device; 1 for none."""
    return max(1, math.prod(x.shape[a] for a in spec.axes))


def _over_devices(spec: Spec, x: jax.Array, *each: jax.Array) -> Sequence[jax.Array]:
    """The means over the devices, in one sum; the cotangent of what all share is one already where types tell that."""
    if spec.devices is None:
        return each
    name, size = spec.devices
    differs = [_tracked(name, v) or not _tracked(name, x) for v in each]
    total = iter(_psum([v for v, d in zip(each, differs, strict=True) if d], name))
    return [(next(total) if d else v) / size for v, d in zip(each, differs, strict=True)]


def _tracked(name: str, v: jax.Array) -> bool:
    """Whether the type of v tells that it differs over a mapped axis."""
    return name in jax.typeof(v).manual_axis_type.varying


def _psum(values: Any, devices: str) -> Any:
    return lax.psum(values, devices)  # type: ignore[no-untyped-call]


_norm = attach(_primal, _fwd, _bwd)


# ---- with given moments ---------------------------------------------------------------------------------------------


def _scaled(
    x: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, bias: jax.Array, e: float
) -> jax.Array:
    return (x - mean) * (lax.rsqrt(variance + e) * scale) + bias


_given = elementwise(
    "batch_norm_inference",
    _scaled,
    lambda x, m, v, scale, bias, e: lax.rsqrt(v + e) * scale,
    lambda x, m, v, scale, bias, e: -lax.rsqrt(v + e) * scale,
    lambda x, m, v, scale, bias, e: (x - m) * (lax.rsqrt(v + e) ** 3 * scale / -2),
    lambda x, m, v, scale, bias, e: (x - m) * lax.rsqrt(v + e),
    lambda x, m, v, scale, bias, e: jnp.ones((), x.dtype),
)


# ---- which axes -----------------------------------------------------------------------------------------------------


def layer_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axes: int | Sequence[int] = -1,
    epsilon: float = 1e-6,
) -> jax.Array:
    """Mean 0 and variance 1 over `axes`, times scale plus bias (Ba et al., 2016); for the gradient see the top.

    Args:
      x: floating, with these axes.
      scale, bias: of the sizes of `axes`, as they lie in x; of x's dtype or that of its sums.  None: 1 and 0.
      axes: an axis or several.
      epsilon: added to the variance; a finite number, at least 0.

    Returns:
      y as x.

    Raises:
      ValueError, TypeError: at trace time, naming the argument, the rule broken, the value and the shape.

    >>> layer_norm(jnp.array([[1., 3.], [1000., 1002.]]), epsilon=0.).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """
    return _over_axes("layer_norm", x, axes, epsilon, 1, scale, bias)


def rms_norm(
    x: ArrayLike, scale: ArrayLike | None = None, *, axes: int | Sequence[int] = -1, epsilon: float = 1e-6
) -> jax.Array:
    """z = r x, r = 1 / sqrt(mean(x^2) + epsilon), times scale (Zhang and Sennrich, 2019); dx = r (g - z mean(g z)).

    Arguments and errors as `layer_norm`'s.

    >>> rms_norm(jnp.array([3., -3.]), epsilon=0.).tolist()
    [1.0, -1.0]
    """
    return _over_axes("rms_norm", x, axes, epsilon, 0, scale)


def group_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    groups: int,
    epsilon: float = 1e-6,
    layout: Layout = "channels_last",
) -> jax.Array:
    """Each image over space and over `groups` groups of neighbouring channels, each by itself (Wu and He, 2018).

    x (N, *spatial, C) or (N, C, *spatial), groups a divisor of C, scale and bias (C,); the rest as in `layer_norm`.

    >>> group_norm(jnp.array([[1., 3., 10., 20.]]), groups=2, epsilon=0.).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    x, at = _features("group_norm", x, layout)
    channels = x.shape[at]
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or channels % groups:
        raise invalid("group_norm", "groups", f"must divide the {channels} channels", repr(groups), x.shape)
    given = _parameters("group_norm", x, (at,), scale=scale, bias=bias)
    apart = {channels: (groups, channels // groups), 1: (1, 1)}
    parts = [p.reshape(*p.shape[:at], *apart[p.shape[at]], *p.shape[at + 1 :]) for p in (x, *given)]
    spec = Spec(tuple(i for i in range(1, x.ndim + 1) if i != at), _epsilon("group_norm", epsilon))
    y: jax.Array = _norm(spec, *parts)[0]
    return y.reshape(x.shape)


def instance_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    epsilon: float = 1e-6,
    layout: Layout = "channels_last",
) -> jax.Array:
    """Each channel of each image over space (Ulyanov et al., 2016); arguments and errors as `group_norm`'s.

    >>> instance_norm(jnp.array([[[1., 5.], [3., 5.]]]), epsilon=0.).tolist()[0][0][0]
    -1.0
    """
    x, at = _features("instance_norm", x, layout)
    spec = Spec(tuple(i for i in range(1, x.ndim) if i != at), _epsilon("instance_norm", epsilon))
    y: jax.Array = _norm(spec, x, *_parameters("instance_norm", x, (at,), scale=scale, bias=bias))[0]
    return y


class BatchNorm(NamedTuple):
    """y; and for each channel, in the dtype of sums, what running averages are made of.

    variance: the mean of squares, by which y is divided; unbiased_variance: that times n / (n - 1), 0 for n = 1.
    """

    y: jax.Array
    mean: jax.Array
    variance: jax.Array
    unbiased_variance: jax.Array


def batch_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    epsilon: float = 1e-5,
    layout: Layout = "channels_last",
    axis_name: str | None = None,
) -> BatchNorm:
    """Each channel over the batch and over space, in training (Ioffe and Szegedy, 2015).

    Arguments and errors as `group_norm`'s.  The moments have a gradient too: dx gets (dm + 2 (x - m) dv) / n.
    axis_name: of `jax.shard_map`, `jax.pmap` or `jax.vmap`, over which the batch extends in equal parts: each direction
    takes one sum over it.

    >>> y, mean, variance, unbiased = batch_norm(jnp.array([[1.], [3.]]), epsilon=0.)
    >>> y.tolist(), mean.tolist(), variance.tolist(), unbiased.tolist()
    ([[-1.0], [1.0]], [2.0], [1.0], [2.0])
    """
    x, at = _features("batch_norm", x, layout)
    if not isinstance(axis_name, str | None):
        raise mistyped("batch_norm", "axis_name", "must be a name", repr(axis_name))
    devices = None if axis_name is None else (axis_name, int(lax.axis_size(axis_name)))
    spec = Spec(tuple(i for i in range(x.ndim) if i != at), _epsilon("batch_norm", epsilon), devices=devices)
    y, mean, variance = _norm(spec, x, *_parameters("batch_norm", x, (at,), scale=scale, bias=bias))
    n = _count(spec, x) * (devices[1] if devices else 1)
    mean, variance = mean.reshape(-1), variance.reshape(-1)
    return BatchNorm(y, mean, variance, variance * (n / (n - 1) if n > 1 else 0))


def batch_norm_inference(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    epsilon: float = 1e-5,
    layout: Layout = "channels_last",
) -> jax.Array:
    """With given moments (C,): dx = r scale dy; they, scale and bias have gradients as well.  See `batch_norm`.

    >>> batch_norm_inference(jnp.array([[5.]]), jnp.array([1.]), jnp.array([4.]), epsilon=0.).tolist()
    [[2.0]]
    """
    name = "batch_norm_inference"
    x, at = _features(name, x, layout)
    given = _parameters(name, x, (at,), mean=mean, variance=variance, scale=scale, bias=bias)
    return _given((_epsilon(name, epsilon),), x, *given)


def _over_axes(name: str, x: ArrayLike, axes: Any, epsilon: float, centred: int, *scale_bias: Any) -> jax.Array:
    x = as_array(name, "x", x, integers=False)
    named = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    chosen = tuple(sorted({_axis(name, a, x) for a in named}))
    if not named or len(chosen) < len(named):
        raise invalid(name, "axes", "must name an axis or several, each once", axes, x.shape)
    spec, (scale, bias) = Spec(chosen, _epsilon(name, epsilon), centred), (*scale_bias, None)[:2]
    y: jax.Array = _norm(spec, x, *_parameters(name, x, chosen, scale=scale, bias=bias))[0]
    return y


def _features(name: str, x: ArrayLike, layout: Layout) -> tuple[jax.Array, int]:
    """x and its axis of channels."""
    x = as_array(name, "x", x, integers=False)
    check_layout(name, layout)
    if x.ndim < 2:
        raise invalid(name, "x", "must have a batch axis and a channel axis", x.shape)
    return x, x.ndim - 1 if layout == "channels_last" else 1


def _parameters(name: str, x: jax.Array, axes: tuple[int, ...], **given: Any) -> list[jax.Array]:
    """Each with the rank of x, of size 1 in all but these axes; a single 1 or 0 for None."""
    shape, kinds = tuple(x.shape[a] for a in axes), (x.dtype, accumulator(x.dtype))
    arrays = []
    for argument, value in given.items():
        if value is None:
            arrays.append(jnp.full((1,) * x.ndim, argument == "scale", x.dtype))
            continue
        value = as_array(name, argument, value, integers=False)
        if value.dtype not in kinds:
            rule = f"must have dtype {' or '.join(dict.fromkeys(k.name for k in kinds))}"
            raise mistyped(name, argument, rule, value.dtype.name, x.shape)
        if value.shape != shape:
            raise invalid(name, argument, f"must have the shape {shape}", value.shape, x.shape)
        arrays.append(value.reshape([size if i in axes else 1 for i, size in enumerate(x.shape)]))
    return arrays


def _epsilon(name: str, epsilon: float) -> float:
    epsilon = number(name, "epsilon", epsilon)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise invalid(name, "epsilon", "must be finite and at least 0", epsilon)
    return epsilon
