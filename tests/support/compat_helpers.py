"""What the drop-in tests share: integer data, and value, gradients and second derivatives of one call."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled


def integers(seed, shape, low=-3, high=4, dtype=np.float32):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def distinct(seed, shape, dtype=np.float32):
    """A permutation of consecutive integers around 0: no ties."""
    size = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(size) - size // 2).reshape(shape).astype(dtype)


def weights(shape, seed=0):
    """The cotangent that `derivatives` pulls back: -1, 0 and 1."""
    return integers(seed + 11, shape, -1, 2)


def derivatives(f, operands, nonlinear=False, order=2):
    """[f, its gradients, the gradients of a functional of the gradients], all integers where f and the data are.

    `nonlinear` squares f first: a function linear in its only operand has no second derivative.
    """

    def functional(*operands):
        y = f(*operands)
        return jnp.sum((y * y if nonlinear else y) * weights(y.shape).astype(y.dtype))

    moving = tuple(range(len(operands)))
    gradients = jax.grad(functional, moving)

    def second(*operands):
        return sum(jnp.sum(g * weights(g.shape, i).astype(g.dtype)) for i, g in enumerate(gradients(*operands), 1))

    curvature = jax.grad(second, moving)(*operands) if order == 2 else ()
    return [f(*operands), *gradients(*operands), *curvature]


def assert_identical(got, want):
    """Equal trees: shapes, dtypes and every bit but the sign of zero."""
    for i, (g, w) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)):
        assert g.dtype == w.dtype, i
        np.testing.assert_array_equal(np.asarray(g), np.asarray(w), err_msg=f"leaf {i}", strict=True)


def parameters(f):
    """What a drop-in must share with the original: names, order, kinds and defaults."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]


def assert_hand_derived(f, *operands):
    """Autodiff meets a custom rule, not f's own operations: forward mode is refused."""
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(f, operands, tuple(map(np.ones_like, operands)))


def both(ours, original, operands, *arguments, nonlinear=False, order=2, **options):
    """`derivatives` of the drop-in and of the original, compiled as one program, quickly: the results are exact."""

    @compiled
    def everything(*operands):
        calls = [partial(lambda f, *o: f(*o, *arguments, **options), f) for f in (ours, original)]
        return [derivatives(f, operands, nonlinear, order) for f in calls]

    return everything(*operands)
