"""Activations, element by element, and softmax; forward beside backward."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnconv.base import lowering
from fnconv.base.attach import LinearMap, attach
from fnconv.base.dtypes import accumulator, to_accumulator
from fnconv.base.errors import invalid, mistyped
from fnconv.base.spec import as_array, number
from fnconv.base.typing import ArrayLike

# ---- ReLU -----------------------------------------------------------------------------------------------------------


def relu(x: ArrayLike) -> jax.Array:
    """max(x, 0), Wei (5.1); dx = dy where x > 0, else 0, Wei (5.2), (5.3).  ReLU'(0) = 0; NaN stays NaN, gradient 0.

    Keeps y, which the next layer keeps as well.  x: floating or integer, any shape.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([-1., 0., 2.])
    >>> relu(x).tolist(), jax.grad(lambda x: relu(x).sum())(x).tolist()
    ([0.0, 0.0, 2.0], [0.0, 0.0, 1.0])
    """
    return _relu(as_array("relu", "x", x))


def _relu_primal(x: jax.Array) -> jax.Array:
    return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


def _relu_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = _relu_primal(x)
    return y, y


def _relu_bwd(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, dy, jnp.zeros((), dy.dtype)),)


_relu = attach(_relu_primal, _relu_fwd, _relu_bwd, has_spec=False)


def leaky_relu(x: ArrayLike, slope: float = 0.01) -> jax.Array:
    """x where x > 0, else slope * x; dx = dy where x > 0, else slope * dy: at 0 the left slope, as `relu`.

    Keeps the mask, one byte per element.  x: floating; slope: a number known at trace time, finite in x's dtype.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([-2., 0., 2.])
    >>> leaky_relu(x, 0.5).tolist(), jax.grad(lambda x: leaky_relu(x, 0.5).sum())(x).tolist()
    ([-1.0, 0.0, 2.0], [0.5, 0.5, 1.0])
    """
    x = as_array("leaky_relu", "x", x, integers=False)
    slope = number("leaky_relu", "slope", slope)
    if not math.isfinite(slope) or abs(slope) > float(jnp.finfo(x.dtype).max):  # type: ignore[no-untyped-call]
        raise invalid("leaky_relu", "slope", f"must be finite in {x.dtype.name}", slope)
    return _leaky_relu(slope, x)


def _leaky_relu_primal(slope: float, x: jax.Array) -> jax.Array:
    return _slopes(slope, x > 0, x)


def _leaky_relu_fwd(slope: float, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _leaky_relu_primal(slope, x), x > 0


def _leaky_relu_bwd(slope: float, positive: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (_slopes(slope, positive, dy),)


def _slopes(slope: float, positive: jax.Array, x: jax.Array) -> jax.Array:
    """A diagonal matrix times x, its own adjoint."""
    return x * jnp.where(positive, jnp.ones((), x.dtype), jnp.asarray(slope, x.dtype))


_leaky_relu = attach(_leaky_relu_primal, _leaky_relu_fwd, _leaky_relu_bwd)


# ---- sigmoid and tanh -----------------------------------------------------------------------------------------------


def sigmoid(x: ArrayLike) -> jax.Array:
    """1 / (1 + e^-x), Wei 5, without overflow; dx = dy s(x) s(-x) = dy sech(x/2)^2 / 4, at most dy / 4.

    Without the cancellation that makes y (1 - y) vanish once y rounds to 1.  x: floating.

    >>> import jax
    >>> float(sigmoid(0.)), float(jax.grad(sigmoid)(0.))
    (0.5, 0.25)
    """
    return _sigmoid(as_array("sigmoid", "x", x, integers=False))


@jax.custom_jvp
def _logistic(x: jax.Array) -> jax.Array:
    return _evaluated(lax.logistic, x)


def _sigmoid_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _logistic(x), x


def _sigmoid_bwd(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (_times_square(dy, _sech(to_accumulator(x) / 2) / 2),)


# a second derivative differentiates the value as well: by the same slope, whose own derivatives are of any order
_logistic.defjvp(lambda x, dx: (_logistic(*x), *_sigmoid_bwd(*x, *dx)))
_sigmoid = attach(_logistic, _sigmoid_fwd, _sigmoid_bwd, has_spec=False)


def tanh(x: ArrayLike) -> jax.Array:
    """The hyperbolic tangent; dx = dy (1 - tanh(x)^2) = dy sech(x)^2, without cancellation.  x: floating.

    >>> import jax
    >>> float(tanh(0.)), float(jax.grad(tanh)(0.))
    (0.0, 1.0)
    """
    return _tanh(as_array("tanh", "x", x, integers=False))


@jax.custom_jvp
def _tangent(x: jax.Array) -> jax.Array:
    return _evaluated(lax.tanh, x)


def _tanh_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _tangent(x), x


def _tanh_bwd(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (_times_square(dy, _sech(to_accumulator(x))),)


_tangent.defjvp(lambda x, dx: (_tangent(*x), *_tanh_bwd(*x, *dx)))
_tanh = attach(_tangent, _tanh_fwd, _tanh_bwd, has_spec=False)


def _evaluated(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """f(x).  A TPU takes it in the dtype of sums, as it takes the slope: else it stores what is converted twice."""
    if x.dtype == accumulator(x.dtype):
        return f(x)
    return lax.platform_dependent(x, tpu=lambda x: f(to_accumulator(x)).astype(x.dtype), default=f)


def _times_square(dy: jax.Array, root: jax.Array) -> jax.Array:
    return (to_accumulator(dy) * root * root).astype(dy.dtype)


@jax.custom_jvp
def _sech(x: jax.Array) -> jax.Array:
    """1 / cosh(x) = 2 t / (1 + t^2) with t = e^-|x|: the root of a slope, which underflows later than the slope."""
    t = jnp.exp(-jnp.abs(x))
    return 2 * t / (1 + t * t)


@_sech.defjvp
def _sech_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    y = _sech(x)
    return y, -dx * y * _tangent(x)


# ---- softmax --------------------------------------------------------------------------------------------------------


def softmax(x: ArrayLike, *, axis: int = -1) -> jax.Array:
    """y = e^x / sum e^x along `axis`, the maximum subtracted first; dx = y (dy - sum(dy y)).

    x: floating, with one axis or more.

    >>> import jax.numpy as jnp
    >>> softmax(jnp.array([1e4, 1e4, -1e4])).tolist()
    [0.5, 0.5, 0.0]
    """
    x = as_array("softmax", "x", x, integers=False)
    return _softmax(_axis("softmax", axis, x), x)


def _softmax_primal(axis: int, x: jax.Array) -> jax.Array:
    e = jnp.exp(_centred(x, axis))
    return (e / jnp.sum(e, axis=axis, keepdims=True)).astype(x.dtype)


def _softmax_fwd(axis: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = _softmax_primal(axis, x)
    return y, y


def _softmax_bwd(axis: int, y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    wide, dy_wide = to_accumulator(y), _read_once(axis, dy.astype(accumulator(y.dtype)))
    mean = jnp.sum(dy_wide * wide, axis=axis, keepdims=True)
    return ((wide * (dy_wide - mean)).astype(dy.dtype),)


_read_once = LinearMap("read_once", lowering.rows_read_once)  # dy itself
_read_once.adjoints = (lambda axis, dy, _: _read_once(axis, dy),)
_softmax = attach(_softmax_primal, _softmax_fwd, _softmax_bwd)


def log_softmax(x: ArrayLike, *, axis: int = -1) -> jax.Array:
    """y = x - log(sum e^x) along `axis`, the maximum subtracted first; dx = dy - softmax(x) sum(dy).

    x: floating, with one axis or more.

    >>> import jax.numpy as jnp
    >>> log_softmax(jnp.array([1e4, -1e4])).tolist()
    [0.0, -20000.0]
    """
    x = as_array("log_softmax", "x", x, integers=False)
    return _log_softmax(_axis("log_softmax", axis, x), x)


def log_p(x: jax.Array, axis: int = -1) -> jax.Array:
    """log softmax, in the dtype that sums are kept in."""
    centred = _centred(x, axis)
    return centred - jnp.log(jnp.sum(jnp.exp(centred), axis=axis, keepdims=True))


def _log_softmax_primal(axis: int, x: jax.Array) -> jax.Array:
    return log_p(x, axis).astype(x.dtype)


def _log_softmax_fwd(axis: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _log_softmax_primal(axis, x), _softmax_primal(axis, x)


def _log_softmax_bwd(axis: int, p: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    wide, dy_wide = to_accumulator(p), dy.astype(accumulator(p.dtype))
    return ((dy_wide - wide * jnp.sum(dy_wide, axis=axis, keepdims=True)).astype(dy.dtype),)


_log_softmax = attach(_log_softmax_primal, _log_softmax_fwd, _log_softmax_bwd)


def _centred(x: jax.Array, axis: int) -> jax.Array:
    """x less its maximum, in the dtype that sums are kept in; a row of -inf alone is left as it is."""
    wide = to_accumulator(x)
    return wide - row_top(wide, axis)


def row_top(wide: jax.Array, axis: int) -> jax.Array:
    """The maximum along an axis, which stays with size 1; the largest finite numbers for infinities."""
    limits = np.finfo(wide.dtype)

    def top(rows: jax.Array) -> jax.Array:
        return lax.reduce(rows, limits.min, lax.max, (axis % rows.ndim,))

    found = lax.platform_dependent(
        lax.stop_gradient(wide),
        tpu=lambda rows: top(jnp.minimum(rows, limits.max)),  # a kernel of its own there, after the maximum
        default=lambda rows: jnp.minimum(top(rows), limits.max),
    )
    return jnp.expand_dims(found, axis)


def _axis(name: str, axis: int, x: jax.Array) -> int:
    if x.ndim == 0:
        raise invalid(name, "x", "must have one axis or more", x.shape)
    if isinstance(axis, bool):
        raise mistyped(name, "axis", "must be an integer", axis, x.shape)
    try:
        index = operator.index(axis)
    except TypeError as error:
        raise mistyped(name, "axis", "must be an integer", repr(axis), x.shape) from error
    if not -x.ndim <= index < x.ndim:
        raise invalid(name, "axis", f"must be between {-x.ndim} and {x.ndim - 1}", index, x.shape)
    return index % x.ndim
