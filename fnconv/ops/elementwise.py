"""More activations, element by element: each is a function and its derivatives, side by side.

`elementwise` makes an operation of them: y = f(x), dx = dy f'(x), in float32 for half precisions.  The activations have
the names, the parameters and at kinks the slopes of jax.nn's, and are finite or saturated where products of a vanishing
and an infinite factor would make NaN: silu(-inf) is -0, its slope 0.  All but `relu6` keep x, floating.  NaN stays NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.attach import LinearMap, attach
from fnconv.base.dtypes import to_accumulator
from fnconv.base.errors import invalid, mistyped
from fnconv.base.spec import as_array, number, same_dtype
from fnconv.base.typing import ArrayLike
from fnconv.ops.activation import _axis, _logistic, _sech, _tangent

FAR = 1000.0  # e^-FAR is 0 in every dtype
Function = Callable[..., jax.Array]
Arrays = tuple[jax.Array, ...]


def elementwise(name: str, function: Function, *slopes: Function, keeps_y: bool = False) -> Function:
    """The operation (options, *operands) -> function(*operands, *options), with a slope for each operand.

    Slopes are differentiated for the next order; they may be masks, where they are 0 or 1.  The cotangent of an operand
    that is broadcast is added up.  keeps_y: the one slope is the same function of y, which is kept in place of x.
    """

    def primal(options: tuple[Any, ...], *operands: jax.Array) -> jax.Array:
        return function(*map(to_accumulator, operands), *options).astype(operands[0].dtype)

    def fwd(options: tuple[Any, ...], *operands: jax.Array) -> tuple[jax.Array, Arrays]:
        y = primal(options, *operands)
        return y, (y,) if keeps_y else operands

    def bwd(options: tuple[Any, ...], kept: Arrays, dy: jax.Array) -> Arrays:
        wide = [*map(to_accumulator, kept)]
        return tuple(summed_to(a, _times(slope(*wide, *options), dy)) for a, slope in zip(kept, slopes, strict=True))

    primal.__name__ = name
    return attach(primal, fwd, bwd)


def _times(slope: jax.Array, dy: jax.Array) -> jax.Array:
    dy = to_accumulator(dy)
    return jnp.where(slope, dy, jnp.zeros((), dy.dtype)) if slope.dtype == jnp.bool_ else dy * slope


def summed_to(a: jax.Array, v: jax.Array) -> jax.Array:
    """v, added up to the shape of a, which has been broadcast, in its dtype."""
    return jnp.sum(v, axis=_broadcast_axes(a.shape, v.shape), keepdims=True).astype(a.dtype)


def _broadcast_axes(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i, (before, after) in enumerate(zip(old, new, strict=True)) if before == 1 != after)


def _array(name: str, x: ArrayLike) -> jax.Array:
    return as_array(name, "x", x, integers=False)


def _broadcast(x: jax.Array, s: jax.Array) -> bool:
    """Whether s, of the same rank, has x's sizes or 1."""
    return x.ndim == s.ndim and all(of_s in (1, size) for size, of_s in zip(x.shape, s.shape, strict=True))


def _near(x: jax.Array) -> jax.Array:
    """x where e^-|x| can be told from 0."""
    return jnp.clip(x, -FAR, FAR)


def _not_far_below(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, -FAR)


@jax.custom_jvp
def log_one_plus_exp(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@log_one_plus_exp.defjvp
def _log_one_plus_exp_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return log_one_plus_exp(x), dx * _logistic(x)


# ---- gates: x times a distribution function -------------------------------------------------------------------------


def silu(x: ArrayLike) -> jax.Array:
    """x s(x), s the sigmoid; dx = dy s(x) (1 + x s(-x)).  Also called swish (Elfwing et al., 2018).

    >>> float(silu(0.)), float(jax.grad(silu)(0.))
    (0.0, 0.5)
    """
    return _silu((), _array("silu", x))


def gelu(x: ArrayLike, approximate: bool = True) -> jax.Array:
    """x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel, 2016); dx = dy (Phi(x) + x Phi'(x)).

    Phi is computed as erfc(-x / sqrt 2) / 2, or, approximate, as s(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), which is
    (1 + tanh u) / 2 without its cancellation.

    >>> float(gelu(0.)), float(jax.grad(gelu)(0.))
    (0.0, 0.5)
    """
    if not isinstance(approximate, bool):
        raise mistyped("gelu", "approximate", "must be a bool", repr(approximate))
    return _gelu((approximate,), _array("gelu", x))


def mish(x: ArrayLike) -> jax.Array:
    """x tanh(p), p = softplus(x) (Misra, 2019); dx = dy (tanh(p) + x sech(p)^2 s(x)), s the sigmoid.

    >>> float(mish(0.)), round(float(jax.grad(mish)(0.)), 6)
    (0.0, 0.6)
    """
    return _mish((), _array("mish", x))


def glu(x: ArrayLike, axis: int = -1) -> jax.Array:
    """a s(b), a and b the halves of x along `axis`, s the sigmoid (Dauphin et al., 2017).

    da = dy s(b), db = dy a s(b) s(-b).

    >>> glu(jnp.array([3., 0.])).tolist(), jax.grad(lambda x: glu(x).sum())(jnp.array([4., 0.])).tolist()
    ([1.5], [0.5, 1.0])
    """
    x = _array("glu", x)
    axis = _axis("glu", axis, x)
    if x.shape[axis] % 2:
        raise invalid("glu", "axis", "must have an even size", axis, x.shape)
    a, b = jnp.split(x, 2, axis)
    return _glu((), a, b)


def gate(x: ArrayLike, s: ArrayLike) -> jax.Array:
    """x s, s broadcast to x: squeeze-and-excite, layer scale; dx = dy s, ds = dy x, added up.  Keeps both.

    x, s: floating, of one dtype and rank; every size of s is x's or 1.

    >>> jax.grad(lambda s: gate(jnp.array([1., 2.]), s).sum())(jnp.array([5.])).tolist()
    [3.0]
    """
    x, s = _array("gate", x), as_array("gate", "s", s, integers=False)
    same_dtype("gate", x=x, s=s)
    if not _broadcast(x, s):
        raise invalid("gate", "s", f"must have sizes 1 or those of {x.shape}", s.shape)
    return gate_map.attached(s.shape, x, s)


def _silu_slope(x: jax.Array) -> jax.Array:
    return _logistic(x) * (1 + _near(x) * _logistic(-x))


def _gelu_value(x: jax.Array, approximate: bool) -> jax.Array:
    near = _near(x)
    return _not_far_below(x) * (_logistic(_cubic(near)) if approximate else _normal(near))


def _gelu_slope(x: jax.Array, approximate: bool) -> jax.Array:
    x = _near(x)
    if not approximate:
        return _normal(x) + x * jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    u, steepness = _cubic(x), CUBIC * (1 + 3 * 0.044715 * x * x)
    return _logistic(u) * (1 + x * steepness * _logistic(-u))


CUBIC = 2 * math.sqrt(2 / math.pi)


def _cubic(x: jax.Array) -> jax.Array:
    return CUBIC * (x + 0.044715 * x * x * x)


def _normal(x: jax.Array) -> jax.Array:
    return lax.erfc(x * -math.sqrt(0.5)) / 2


def _mish_slope(x: jax.Array) -> jax.Array:
    x = _near(x)
    p = log_one_plus_exp(x)
    return _tangent(p) + x * _sech(p) ** 2 * _logistic(x)


_silu = elementwise("silu", lambda x: _not_far_below(x) * _logistic(x), _silu_slope)
_gelu = elementwise("gelu", _gelu_value, _gelu_slope)
_mish = elementwise("mish", lambda x: _not_far_below(x) * _tangent(log_one_plus_exp(x)), _mish_slope)
_glu = elementwise(
    "glu", lambda a, b: a * _logistic(b), lambda a, b: _logistic(b), lambda a, b: _logistic(b) * _logistic(-b) * a
)

# x s, and the sums of a b in the shape of s: either is linear in both operands, and their adjoints are the two again
gate_map = LinearMap("gate", lambda shape, x, s: x * s)
gate_sums = LinearMap("gate_sums", lambda shape, a, b: _product_sums(shape, a, b))
gate_map.adjoints = (lambda shape, dy, _, s: gate_map(shape, dy, s), lambda shape, dy, x, _: gate_sums(shape, dy, x))
gate_sums.adjoints = (lambda shape, ds, _, b: gate_map(shape, b, ds), lambda shape, ds, a, _: gate_map(shape, a, ds))


def _product_sums(shape: tuple[int, ...], a: jax.Array, b: jax.Array) -> jax.Array:
    products = to_accumulator(a) * to_accumulator(b)
    return jnp.sum(products, axis=_broadcast_axes(shape, a.shape), keepdims=True).astype(a.dtype)


# ---- smooth ramps ---------------------------------------------------------------------------------------------------


def softplus(x: ArrayLike) -> jax.Array:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|); dx = dy s(x), s the sigmoid.

    >>> float(softplus(-1e4)), float(softplus(1e4)), float(jax.grad(softplus)(0.))
    (0.0, 10000.0, 0.5)
    """
    return _softplus((), _array("softplus", x))


def log_sigmoid(x: ArrayLike) -> jax.Array:
    """log s(x) = -log(1 + e^-x), s the sigmoid; dx = dy s(-x).

    >>> float(log_sigmoid(-1e4)), float(jax.grad(log_sigmoid)(0.))
    (-10000.0, 0.5)
    """
    return _log_sigmoid((), _array("log_sigmoid", x))


def elu(x: ArrayLike, alpha: float = 1.0) -> jax.Array:
    """x where x > 0, else alpha (e^x - 1) (Clevert et al., 2015); dx = dy, or dy alpha e^x: at 0 the left slope alpha.

    alpha: a finite number known at trace time.

    >>> float(elu(-1e4)), float(elu(2.)), float(jax.grad(elu)(0., 0.5))
    (-1.0, 2.0, 0.5)
    """
    return _elu((1.0, _alpha("elu", alpha), 1.0), _array("elu", x))


def selu(x: ArrayLike) -> jax.Array:
    """1.0507 elu(x, 1.6733): constants that keep mean 0 and variance 1 from layer to layer (Klambauer et al., 2017).

    >>> round(float(selu(1.)), 4), round(float(jax.grad(selu)(0.)), 4)
    (1.0507, 1.7581)
    """
    return _elu((1.0507009873554804934, 1.6732632423543772848, 1.0), _array("selu", x))


def celu(x: ArrayLike, alpha: float = 1.0) -> jax.Array:
    """x where x > 0, else alpha (e^(x / alpha) - 1) (Barron, 2017); dx = dy, or dy e^(x / alpha): 1 at 0.

    alpha: a finite number, not 0, known at trace time.

    >>> float(celu(-1e4, 2.)), float(celu(2.)), float(jax.grad(celu)(0., 2.))
    (-2.0, 2.0, 1.0)
    """
    alpha = _alpha("celu", alpha)
    if alpha == 0:
        raise invalid("celu", "alpha", "must not be 0", alpha)
    return _elu((1.0, alpha, alpha), _array("celu", x))


def soft_sign(x: ArrayLike) -> jax.Array:
    """x / (1 + |x|); dx = dy / (1 + |x|)^2.

    >>> float(soft_sign(1.)), float(jax.grad(soft_sign)(1.))
    (0.5, 0.25)
    """
    return _soft_sign((), _array("soft_sign", x))


def _alpha(name: str, alpha: float) -> float:
    alpha = number(name, "alpha", alpha)
    if not math.isfinite(alpha):
        raise invalid(name, "alpha", "must be finite", alpha)
    return alpha


def _elu_value(x: jax.Array, scale: float, alpha: float, width: float) -> jax.Array:
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(_left(x) / width))


def _elu_slope(x: jax.Array, scale: float, alpha: float, width: float) -> jax.Array:
    return scale * jnp.where(x > 0, jnp.ones((), x.dtype), alpha / width * jnp.exp(_left(x) / width))


def _left(x: jax.Array) -> jax.Array:
    """x where it is not positive: exponentials of the rest are not taken."""
    return jnp.where(x > 0, jnp.zeros((), x.dtype), x)


def _soft_sign_value(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isinf(x), jnp.sign(x), x / (1 + jnp.abs(x)))


_softplus = elementwise("softplus", log_one_plus_exp, _logistic)
_log_sigmoid = elementwise("log_sigmoid", lambda x: -log_one_plus_exp(-x), lambda x: _logistic(-x))
_elu = elementwise("elu", _elu_value, _elu_slope)
_soft_sign = elementwise("soft_sign", _soft_sign_value, lambda x: (1 / (1 + jnp.abs(x))) ** 2)


# ---- piecewise linear -----------------------------------------------------------------------------------------------


def relu6(x: ArrayLike) -> jax.Array:
    """min(max(x, 0), 6) (Krizhevsky, 2010); dx = dy where 0 < x < 6, else 0, also at 0 and 6.  Keeps y.

    >>> [(float(relu6(x)), float(jax.grad(relu6)(x))) for x in (-1., 0., 2., 6., 7.)]
    [(0.0, 0.0), (0.0, 0.0), (2.0, 1.0), (6.0, 0.0), (6.0, 0.0)]
    """
    return _relu6((), _array("relu6", x))


def hard_tanh(x: ArrayLike) -> jax.Array:
    """min(max(x, -1), 1); dx = dy where -1 <= x <= 1, else 0.

    >>> [(float(hard_tanh(x)), float(jax.grad(hard_tanh)(x))) for x in (-2., -1., 0., 1.)]
    [(-1.0, 0.0), (-1.0, 1.0), (0.0, 1.0), (1.0, 1.0)]
    """
    return _hard_tanh((), _array("hard_tanh", x))


def hard_sigmoid(x: ArrayLike) -> jax.Array:
    """relu6(x + 3) / 6; dx = dy / 6 where -3 < x < 3, else 0.

    >>> [(float(hard_sigmoid(x)), round(float(jax.grad(hard_sigmoid)(x)), 4)) for x in (-3., 0., 3.)]
    [(0.0, 0.0), (0.5, 0.1667), (1.0, 0.0)]
    """
    return _hard_sigmoid((), _array("hard_sigmoid", x))


def hard_silu(x: ArrayLike) -> jax.Array:
    """x relu6(x + 3) / 6, also called hard swish (Howard et al., 2019); dx = dy (2 x + 3) / 6 where -3 < x < 3.

    dx is 0 below, also at -3, and dy above, also at 3.

    >>> [(float(hard_silu(x)), float(jax.grad(hard_silu)(x))) for x in (-3., 0., 3.)]
    [(-0.0, 0.0), (0.0, 0.5), (3.0, 1.0)]
    """
    return _hard_silu((), _array("hard_silu", x))


def prelu(x: ArrayLike, slope: ArrayLike) -> jax.Array:
    """x where x > 0, else slope x (He et al., 2015); dx = dy, or dy slope; d slope = dy min(x, 0), added up.

    At 0 the left slope, as `leaky_relu`.  Keeps both operands.

    x, slope: floating, of one dtype; slope is broadcast to x as NumPy does: () for one number, (C,) for one a channel
    where channels are last, (C, 1, 1) for images with channels first.

    >>> x = jnp.array([-2., 0., 3.])
    >>> prelu(x, 0.5).tolist(), jax.grad(lambda s: prelu(x, s).sum())(0.5).tolist()
    ([-1.0, 0.0, 3.0], -2.0)
    """
    x, slope = _array("prelu", x), as_array("prelu", "slope", slope, integers=False)
    same_dtype("prelu", x=x, slope=slope)
    ranked = slope.reshape((1,) * (x.ndim - slope.ndim) + slope.shape)
    if not _broadcast(x, ranked):
        raise invalid("prelu", "slope", f"must have sizes 1 or the last ones of {x.shape}", slope.shape)
    return _prelu(x, ranked)


def _inside(x: jax.Array) -> jax.Array:
    return (x > 0) & (x < 6)


def _clipped(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def _hard_silu_slope(x: jax.Array) -> jax.Array:
    return jnp.where(_inside(x + 3), x + (x + 3), lax.stop_gradient(_clipped(x + 3))) / 6


def _prelu_primal(x: jax.Array, s: jax.Array) -> jax.Array:
    wide = to_accumulator(x)
    return jnp.where(x > 0, wide, wide * to_accumulator(s)).astype(x.dtype)


def _prelu_bwd(kept: Arrays, dy: jax.Array) -> Arrays:
    """A NaN of dy where x > 0 does not reach the slope, which has no part there."""
    x, s = kept
    wide, dy = to_accumulator(x), to_accumulator(dy)
    dx = dy * jnp.where(x > 0, jnp.ones((), wide.dtype), to_accumulator(s))
    return dx.astype(x.dtype), summed_to(s, jnp.where(x > 0, jnp.zeros((), wide.dtype), dy * wide))


_prelu = attach(_prelu_primal, lambda x, s: (_prelu_primal(x, s), (x, s)), _prelu_bwd, has_spec=False)
_relu6 = elementwise("relu6", _clipped, _inside, keeps_y=True)
_hard_tanh = elementwise("hard_tanh", lambda x: jnp.clip(x, -1, 1), lambda x: jnp.abs(x) <= 1)
_hard_sigmoid = elementwise("hard_sigmoid", lambda x: _clipped(x + 3) / 6, lambda x: _inside(x + 3).astype(x.dtype) / 6)
_hard_silu = elementwise("hard_silu", lambda x: _not_far_below(x) * (_clipped(x + 3) / 6), _hard_silu_slope)
