"""Derivatives of the first, second and third order of every operation, in each way that JAX composes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from operations import CHANNELS_LAST, OPERATIONS, SIMILAR, Operation, each
from plain import assert_same

import fnconv

Loss = Callable[[jax.Array], jax.Array]


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def loss_of_vector(fn: Callable[..., jax.Array], args: tuple[np.ndarray, ...]) -> Loss:
    """All arguments in one vector, and a loss whose cotangent varies with the position and with the value."""
    shapes = [a.shape for a in args]
    ends = np.cumsum([a.size for a in args])[:-1]

    def loss(v: jax.Array) -> jax.Array:
        y = fn(*(part.reshape(shape) for part, shape in zip(jnp.split(v, ends), shapes, strict=True)))
        weights = (np.arange(y.size) % 3 + 1.0).reshape(y.shape)
        return jnp.sum(weights * (y * y + y))

    return loss


def vector(args: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in args]).astype(np.float64)


def directions(size: int) -> tuple[np.ndarray, np.ndarray]:
    u, t = np.random.default_rng(size).integers(-2, 3, (2, size)).astype(np.float64)
    return u, t


@partial(compiled, static_argnums=(0, 1))
def orders(loss: Loss, plain: bool, v: jax.Array, u: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
    """Each order by reverse mode alone, and, unless `plain`, by its other ways."""

    def along_u(v: jax.Array) -> jax.Array:
        return jax.grad(loss)(v) @ u

    one_way = {
        "value": loss(v),
        "grad": jax.grad(loss)(v),
        "grad of grad": jax.grad(along_u)(v),
        "hessian": jax.hessian(loss)(v),
        "third": jax.grad(lambda v: jax.grad(along_u)(v) @ t)(v),
    }
    if plain:
        return one_way
    return one_way | {
        "jacrev of jacrev": jax.jacrev(jax.jacrev(loss))(v),
        "third, forward over reverse over reverse": jax.jvp(jax.grad(along_u), (v,), (t,))[1],
    }


SAME = {"jacrev of jacrev": "hessian", "third, forward over reverse over reverse": "third"}


# channels_first is a transpose around the same rule: one entry of each kind of operation has it in the default run
OTHER_LAYOUTS = (
    *("max_pool-disjoint", "max_pool-ties-column_major", "max_pool_with_indices"),
    *("avg_pool-disjoint", "lp_pool-1"),
)


def wider(operation: Operation) -> bool:
    name = operation.name.removesuffix("-channels_first")
    first = name != operation.name
    return (name in SIMILAR and operation.name != "conv-3d") or (first and name in OTHER_LAYOUTS)


@pytest.mark.sample(10)
@each(OPERATIONS, slow=wider)
def test_every_order_is_that_of_a_plain_reference(operation: Operation) -> None:
    v = vector(operation.args)
    u, t = directions(v.size)
    got = orders(loss_of_vector(operation.fn, operation.args), False, v, u, t)
    want = orders(loss_of_vector(operation.reference, operation.args), True, v, u, t)
    for name in got:
        assert_same(got[name], want[SAME.get(name, name)], operation.exact, name)
    assert_same(got["jacrev of jacrev"] @ u, got["grad of grad"], operation.exact, "the Hessian times u")
    assert_same(got["hessian"], got["hessian"].T, operation.exact, "symmetry")


@partial(compiled, static_argnums=0)
def differences(loss: Loss, v: jax.Array, u: jax.Array) -> tuple[jax.Array, ...]:
    """Gradient and Hessian along u, and their five-point differences at two steps, which err by the step^4."""
    steps = jnp.asarray([1 / 16, 1 / 32])
    points = v + steps[:, None, None] * jnp.arange(-2.0, 3)[:, None] * u
    values, slopes = jax.vmap(jax.vmap(jax.value_and_grad(loss)))(points)
    stencil = jnp.asarray([1.0, -8.0, 0.0, 8.0, -1.0])
    slope = jnp.einsum("p,sp->s", stencil, values) / (12 * steps)
    curvature = jnp.einsum("p,spi->si", stencil, slopes) / (12 * steps[:, None])
    return jax.grad(loss)(v) @ u, slope, jax.jvp(jax.grad(loss), (v,), (u,))[1], curvature


@pytest.mark.sample(6)
@each([o for o in CHANNELS_LAST if not o.kink], slow=wider)
def test_gradient_and_hessian_are_finite_differences(operation: Operation) -> None:
    """The stencil is exact for polynomials of degree 4; elsewhere halving the step leaves a sixteenth of its error."""
    v = vector(operation.args)
    u, _ = directions(v.size)
    slope, slopes, curvature, curvatures = map(
        np.asarray, differences(loss_of_vector(operation.fn, operation.args), v, u)
    )
    for name, derivative, (coarse, fine) in (("gradient", slope, slopes), ("Hessian", curvature, curvatures)):
        if operation.exact:
            np.testing.assert_array_equal(derivative, fine, err_msg=name)
        rounding = 2**16 * np.finfo(np.float64).eps * np.abs(derivative).max()
        assert np.abs(derivative - fine).max() <= np.abs(coarse - fine).max() + rounding, name


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_lp_pool_has_finite_second_derivatives_at_zero(p: float) -> None:
    """0 in an all-zero window, as the gradient; 0 at a zero beside a maximum, but for p = 2, where it is 1 / y."""

    def loss(x: jax.Array) -> jax.Array:
        return fnconv.lp_pool(x[:, None], (2,), p=p).sum()

    x = np.array([0.0, 0.0, 0.0, 2.0])
    want = np.zeros((4, 4))
    want[2, 2] = 0.5 if p == 2 else 0.0
    np.testing.assert_array_equal(jax.jit(jax.hessian(loss))(x), want)
    np.testing.assert_array_equal(jax.jit(jax.jacrev(jax.jacrev(loss)))(x), want)


@pytest.mark.parametrize("p", [1.5, 2, 3])
def test_a_nan_reaches_the_zeros_in_its_window_of_a_norm(p: float) -> None:
    """dx = dy (|x| / y)^(p - 1) sign(x), where y is NaN; not the cells of other windows."""
    x = np.array([0.0, np.nan, 0.0, 2.0])[:, None]
    dx = jax.grad(lambda x: fnconv.lp_pool(x, (2,), p=p).sum())(x)
    np.testing.assert_array_equal(dx.ravel(), [np.nan, np.nan, 0, 1])


@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("operation", ["dense", "conv", "with_manual_rules"])
def test_jacobians_of_bfloat16(operation: str, operand: int) -> None:
    """Cotangents alone are mapped over: XLA's CPU has no such product of bfloat16 with a result in float32."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.integers(-3, 4, shape), jnp.bfloat16) for shape in ((5, 6), (6, 7)))
    f = {
        "dense": fnconv.dense,
        "conv": lambda x, w: fnconv.conv(x[None], w[None], rule="taps")[0],
        "with_manual_rules": fnconv.with_manual_rules(jnp.matmul),
    }[operation]
    got, want = (jax.jit(jax.jacrev(g, operand))(x, w) for g in (f, jnp.matmul))
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


def test_products_of_bfloat16_that_are_asked_for_in_float32_are_not_rounded() -> None:
    def f(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    a, b = jnp.full((2, 257), 1, jnp.bfloat16), jnp.full((257, 3), 1, jnp.bfloat16)  # 257 is no bfloat16
    assert "tensor<2x3xbf16>" not in jax.jit(fnconv.with_manual_rules(f)).lower(a, b).as_text()
    np.testing.assert_array_equal(fnconv.with_manual_rules(f)(a, b), np.full((2, 3), 257, np.float32))
