"""Linear maps with their adjoints, as JAX transforms them: nested batches, transposition, zeros, kinds of input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from jax import export, lax
from operations import distinct, integers
from plain import assert_same

import fnconv
from fnconv.base.attach import LinearMap, attach, modes

# spec * a b^T: bilinear, of three different shapes, so that nothing is exchanged unnoticed
_F = LinearMap("outer", lambda spec, a, b: spec * jnp.outer(a, b))
_A = LinearMap("by the first", lambda spec, y, b: spec * (y @ b))
_B = LinearMap("by the second", lambda spec, y, a: spec * (a @ y))
_F.adjoints = (lambda s, y, a, b: _A(s, y, b), lambda s, y, a, b: _B(s, y, a))
_A.adjoints = (lambda s, a, y, b: _F(s, a, b), lambda s, a, y, b: _B(s, y, a))
_B.adjoints = (lambda s, b, y, a: _F(s, a, b), lambda s, b, y, a: _A(s, y, b))
A, B = integers(4, 5, 2), integers(4, 5, 3)


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    return _F(2, a, b)


def plain_outer(a: jax.Array, b: jax.Array) -> jax.Array:
    return 2 * jnp.outer(a, b)


AXES = [axes for axes in product((None, 0, 1), repeat=2) if axes != (None, None)]


@pytest.mark.sample(16)
@pytest.mark.parametrize("inner", AXES, ids=str)
@pytest.mark.parametrize("around", AXES, ids=str)
def test_nested_batches_and_their_transposes(around: Any, inner: Any) -> None:
    """Operands that take part in neither, either or both of two vmaps, at either axis: values and both transposes."""
    operands = []
    for full, outside, inside in zip((A, B), around, inner, strict=True):
        array = full[0, 0]
        if inside is not None:
            array = np.moveaxis(full[0], 0, inside)
        if outside is not None:
            array = np.stack([np.roll(array, k) for k in range(4)], axis=outside)
        operands.append(array)

    def twice(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return jax.vmap(jax.vmap(f, inner), around)

    @compiled
    def everything(*operands: jax.Array) -> Any:
        results = []
        for f in (outer, plain_outer):
            y, vjp = jax.vjp(twice(f), *operands)
            _, dy = jax.jvp(twice(f), operands, tuple(o + 1 for o in operands))
            second = jax.hessian(lambda a, f=f: jnp.sum(twice(f)(a, operands[1]) ** 2))(operands[0])
            results.append((y, vjp(y), dy, second))
        return results

    got, want = everything(*operands)
    assert_same(got, want, exact=True)


@pytest.mark.parametrize("batched", [False, True])
def test_linear_transpose(batched: bool) -> None:
    a, b = A[0], B[0, 0]
    a = a if batched else a[0]
    transposes = []
    for f in (outer, plain_outer):
        of_a = jax.vmap(lambda a, f=f: f(a, b)) if batched else lambda a, f=f: f(a, b)
        transposes.append(jax.linear_transpose(of_a, a)(of_a(a)))
    assert_same(*transposes, exact=True)


def test_an_operand_that_does_not_move_has_no_term() -> None:
    """One product for one moving operand, none for one whose adjoint is None, and zeros are not multiplied out."""
    a, b = A[0, 0], B[0, 0]
    moving = jax.make_jaxpr(lambda a, t: jax.jvp(lambda a: outer(a, b), (a,), (t,)))(a, a)
    assert str(moving).count("fnconv_linear[") == 2
    both = jax.make_jaxpr(lambda a, b: jax.jvp(outer, (a, b), (a, b)))(a, b)
    assert str(both).count("fnconv_linear[") == 3
    still = LinearMap("still", lambda spec, a, b: jnp.outer(a, b))
    still.adjoints = (None, lambda spec, y, a, b: a @ y)
    _, tangent = jax.jvp(lambda a: still((), a, b), (a,), (a,))
    assert not np.asarray(tangent).any()


def test_a_rule_is_traced_once_for_shapes_and_program() -> None:
    traces = []

    def double(spec: Any, x: jax.Array) -> jax.Array:
        traces.append(x.shape)
        return 2 * x

    twice = LinearMap("twice", double)
    run = jax.jit(lambda x: twice(None, twice(None, x)))
    np.testing.assert_array_equal(run(A), 4 * A)
    assert traces == [A.shape]


def test_programs_for_several_platforms() -> None:
    """The platform is known when the exported program runs, inside a branch on it too."""
    x, w = jnp.asarray(integers(4, 5, 2, 6, 6, 4)), jnp.asarray(integers(4, 5, 3, 3, 1, 4))

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return (fnconv.max_pool(fnconv.conv(x, w, groups=4), 2) ** 2).sum()

    gradients = jax.grad(loss, (0, 1))

    def branch(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        return lax.platform_dependent(x, w, cpu=gradients, default=lambda x, w: (x, w))

    want = gradients(x, w)
    for f in (gradients, branch):
        exported = export.export(jax.jit(f), platforms=("cpu", "cuda", "tpu"))(x, w)
        for got, expected in zip(exported.call(x, w), want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_rule_returns_one_cotangent_per_operand_and_none_for_integers() -> None:
    scale = attach(lambda spec, x, n: x * n, lambda spec, x, n: (x * n, n), lambda spec, n, dy: (dy * n, None))
    x, n = jnp.ones(3), jnp.float32(4)
    assert jax.grad(lambda x: scale((), x, n).sum())(x).tolist() == [4, 4, 4]
    assert scale((), jnp.arange(3), jnp.int32(2)).tolist() == [0, 2, 4]


# ---- both modes -----------------------------------------------------------------------------------------------------


def test_the_tangent_is_the_transpose_of_the_rule() -> None:
    """Of a rule that is no derivative: three times the sine's, with an integer operand and an integer result."""

    def scaled(n: jax.Array, x: jax.Array) -> jax.Array:
        return n.astype(x.dtype) * x

    odd = attach(
        lambda spec, x, n: (scaled(n, jnp.sin(x)), n),
        lambda spec, x, n: ((scaled(n, jnp.sin(x)), n), (x, n)),
        lambda spec, kept, dy: (scaled(kept[1], 3 * dy[0] * jnp.cos(kept[0])), None),
    )
    x, n, t = jnp.arange(3.0), jnp.int32([1, 2, 3]), jnp.float32([1, 0, 2])
    none = np.zeros(3, jax.dtypes.float0)
    with modes("both"):
        (y, m), (dy, dm) = jax.jvp(partial(odd, ()), (x, n), (t, none))
        value, pushforward = jax.linearize(lambda x: odd((), x, n)[0], x)
        still = jax.jvp(lambda n: odd((), x, n), (n,), (none,))[1]
        (dx,) = jax.vjp(lambda x: odd((), x, n)[0], x)[1](t)
        curvature = jax.jvp(jax.grad(lambda x: odd((), x, n)[0].sum()), (x,), (t,))[1]
    assert_same((y, m, value), (scaled(n, jnp.sin(x)), n, scaled(n, jnp.sin(x))), exact=True)
    want = scaled(n, 3 * t * jnp.cos(x))
    assert_same((dy, pushforward(t), dx), (want, want, want), exact=True)
    assert_same(curvature, scaled(n, -3 * jnp.sin(x) * t), exact=False)
    assert (dm.dtype, still[1].dtype) == (jax.dtypes.float0, jax.dtypes.float0)
    assert not still[0].any()


LINEAR = {
    "conv of x": (lambda x: fnconv.conv(x, KERNEL, padding=1, strides=2), (1, 4, 4, 2)),
    "conv of w": (lambda w: fnconv.conv(IMAGE, w, padding=1, strides=2), (3, 3, 2, 3)),
    "conv_transpose": (lambda x: fnconv.conv_transpose(x, KERNEL), (1, 2, 2, 3)),
    "dense": (lambda x: fnconv.dense(x, KERNEL[0, 0]), (2, 2)),
    "bias": (lambda b: fnconv.dense(IMAGE[0, 0], KERNEL[0, 0], b) - fnconv.dense(IMAGE[0, 0], KERNEL[0, 0]), (3,)),
    "avg_pool": (lambda x: fnconv.avg_pool(x, 2, strides=1, padding=1), (1, 4, 4, 2)),
    "im2col": (lambda x: fnconv.im2col(x, 2), (1, 4, 4, 2)),
    "col2im": (lambda x: fnconv.col2im(x, (3, 3, 1), (2, 2)), (4, 4)),
    "max_unpool": (lambda y: fnconv.max_unpool(y, np.int32([[0], [5]]), (6,)), (2, 1)),
    "flatten": (fnconv.flatten, (1, 4, 4, 2)),
}
KERNEL, IMAGE = jnp.asarray(integers(3, 3, 2, 3)), jnp.asarray(integers(1, 4, 4, 2))


@pytest.mark.parametrize("name", LINEAR)
def test_linear_transpose_of_what_is_linear(name: str) -> None:
    fn, shape = LINEAR[name]
    x = jnp.asarray(integers(*shape))
    with modes("both"):
        y, vjp = jax.vjp(fn, x)
        got = jax.linear_transpose(fn, x)(2 * y)
    assert_same(got, vjp(2 * y), exact=True)
    assert got[0].any()


# ---- kinds of input -------------------------------------------------------------------------------------------------


def test_python_scalars_are_weakly_typed_and_stay_differentiable() -> None:
    """Under strict promotion: a Python number takes part, and derivatives are those of float32."""
    for fn, slope in ((fnconv.relu, 1), (fnconv.leaky_relu, 1), (lambda x: fnconv.squared_error(x, 1.0), 4)):
        assert fn(3.0).dtype == jnp.float32
        assert float(jax.grad(fn)(3.0)) == slope
        assert float(jax.grad(jax.grad(lambda x, fn=fn: fn(x) ** 2))(3.0)) in (2, 48)
    assert float(jax.grad(jax.grad(fnconv.sigmoid))(0.0)) == 0
    assert float(fnconv.jvp(fnconv.tanh, (0.0,), (1.0,))[1]) == 1


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_has_gradients_of_its_own_dtype(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        x, w = jnp.asarray(distinct(1, 4, 4, 2), dtype) / 8, jnp.asarray(integers(2, 2, 2, 2), dtype)

        def loss(x: jax.Array, w: jax.Array) -> jax.Array:
            y = fnconv.avg_pool(fnconv.relu(fnconv.conv(x, w, padding="SAME")), (2, 2))
            z = fnconv.lp_pool(fnconv.max_pool(y, (2, 2), strides=1), (1, 1))
            return fnconv.softmax_cross_entropy(fnconv.log_softmax(fnconv.flatten(z)), np.array([1])).sum()

        grads = jax.jit(jax.grad(loss, (0, 1)))(x, w)
        curvature = jax.jit(jax.hessian(loss))(x, w)
        assert {g.dtype.name for g in (*grads, curvature)} == {dtype}
        assert all(bool(jnp.isfinite(g).all()) for g in (*grads, curvature))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64"])
@pytest.mark.parametrize("double", [False, True])
def test_labels_and_indices_of_every_integer_type(dtype: str, double: bool) -> None:
    """300 classes and 300 cells: more than the smallest types count."""
    with jax.enable_x64(double):
        given = np.array([3, 100]).astype(dtype if double or dtype != "int64" else np.int32)
        logits = np.zeros((2, 300), np.float32)
        grad = jax.grad(lambda z: fnconv.softmax_cross_entropy(z, given).sum())(logits)
        np.testing.assert_array_equal(np.asarray(grad < 0).nonzero(), ([0, 1], [3, 100]))
        x = fnconv.max_unpool(np.float32([[5], [7]]), given[:, None], (300,))
        assert x.shape == (300, 1)
        assert {int(i): float(x[i, 0]) for i in np.asarray(x[:, 0]).nonzero()[0]} == {3: 5, 100: 7}


def test_mixed_dtypes_are_refused_and_not_promoted() -> None:
    with pytest.raises(TypeError, match="one dtype"):
        fnconv.conv(jnp.ones((1, 3, 1)), jnp.ones((2, 1, 1), jnp.bfloat16))
