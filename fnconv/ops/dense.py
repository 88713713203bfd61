"""The fully connected layer, a convolution whose kernel is as large as its input (Wei 3, GEMM 2, Notes 1)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fnconv.base.attach import LinearMap
from fnconv.base.dtypes import accumulator
from fnconv.base.errors import invalid
from fnconv.base.spec import as_array, check_precision, same_dtype
from fnconv.base.typing import ArrayLike, Precision
from fnconv.ops.conv import bias
from fnconv.ops.rearrange import fold


def dense(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None) -> jax.Array:
    """y = x w + b; dx = dy w^T, dw = x^T dy, db = the sum of dy (Notes 2.1, matrix form).

    Args:
      x: (*batch, in).
      w: (in, out), of x's dtype.
      b: (out,), or None.

    Returns:
      y (*batch, out) in x's dtype; half precisions are summed in float32.

    Raises:
      ValueError, TypeError: at trace time, naming the argument, the rule broken, the value and the shape.

    >>> import jax, jax.numpy as jnp
    >>> x, w = jnp.array([[1., 2.]]), jnp.array([[1., 0., 2.], [0., 1., 3.]])
    >>> dense(x, w, jnp.ones(3)).tolist()
    [[2.0, 3.0, 9.0]]
    >>> jax.grad(lambda w: dense(x, w).sum())(w).tolist()
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """
    x, w = as_array("dense", "x", x), as_array("dense", "w", w)
    same_dtype("dense", x=x, w=w)
    if w.ndim != 2:
        raise invalid("dense", "w", "must have the shape (in, out)", w.shape)
    if x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise invalid("dense", "x", f"must end in an axis of w's {w.shape[0]} inputs", x.shape)
    batch = x.shape[:-1]
    rows = x if x.ndim == 2 else x.reshape(math.prod(batch), x.shape[-1])
    y = product.attached(check_precision("dense", None), rows, w)
    if b is not None:
        b = as_array("dense", "b", b)
        same_dtype("dense", x=x, b=b)
        if b.shape != w.shape[1:]:
            raise invalid("dense", "b", f"must have the shape {w.shape[1:]}", b.shape)
        y = bias(y, b)
    return y.reshape(*batch, w.shape[1])


def _matmul(precision: Precision, x: jax.Array, w: jax.Array) -> jax.Array:
    # (N, in) . (in, out) -> (N, out)
    return jnp.matmul(x, w, precision=precision, preferred_element_type=accumulator(x.dtype)).astype(x.dtype)


def _matmul_of_rows(precision: Precision, x: jax.Array, dy: jax.Array) -> jax.Array:
    """(N, in) . (N, out) -> (in, out); bfloat16 by XLA's own choice of where to sum, which is float32.

    Told so, its CPU has no product where dy alone is mapped over, as for a Jacobian.
    """
    wide = None if x.dtype == jnp.bfloat16 else accumulator(x.dtype)
    return jnp.matmul(x.T, dy, precision=precision, preferred_element_type=wide).astype(x.dtype)


product = LinearMap("dense", _matmul, ((0, 0), (1, -1)))
product_of_rows = LinearMap("dense_weight", _matmul_of_rows, ((0, -1), (1, -1)))
# delta^L = delta^{L+1} w^T and Delta w = (a^L)^T delta^{L+1}, Notes 2.1, and theirs
product.adjoints = (
    lambda precision, dy, x, w: product(precision, dy, w.T),
    lambda precision, dy, x, w: product_of_rows(precision, x, dy),
)
product_of_rows.adjoints = (
    lambda precision, dw, x, dy: product(precision, dy, dw.T),
    lambda precision, dw, x, dy: product(precision, x, dw),
)


def flatten(x: ArrayLike) -> jax.Array:
    """(N, ...) -> (N, features), row-major; the gradient restores the shape (Notes 2.2, step i).

    >>> import jax.numpy as jnp
    >>> flatten(jnp.ones((2, 3, 4))).shape
    (2, 12)
    """
    x = as_array("flatten", "x", x)
    if x.ndim < 1:
        raise invalid("flatten", "x", "must have a batch axis", x.shape)
    return fold(x, 1)
