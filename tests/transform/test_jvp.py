"""Forward products: `fnconv.jvp` on every operation, and what JAX says where it is called instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from operations import CHANNELS_LAST, NETWORK_ARGS, SIMILAR, Operation, each, network
from plain import assert_same

import fnconv

FLOAT0 = jax.dtypes.float0
Both = tuple[jax.Array, jax.Array]


@pytest.fixture(autouse=True)
def _precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Single precision where whole numbers stay whole, double where results are rounded."""
    operation = request.getfixturevalue("operation") if "operation" in request.fixturenames else None
    with jax.enable_x64(operation is not None and not operation.exact):
        yield


def arguments(operation: Operation) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    dtype = np.float32 if operation.exact else np.float64
    args = tuple(a.astype(dtype) for a in operation.args)
    return args, tuple(np.roll(a, 1).reshape(a.shape) + dtype(1) for a in args)


@partial(compiled, static_argnums=(0, 1))
def forward(product: Callable[..., Both], fn: Callable[..., jax.Array], args: Any, tangents: Any) -> dict[str, Both]:
    def along(scale: jax.Array) -> Both:
        return product(fn, args, jax.tree.map(lambda t: scale * t, tangents))

    def gradient(*args: jax.Array) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *args: jnp.sum(fn(*args) ** 2), tuple(range(len(args))))(*args)

    return {
        "product": product(fn, args, tangents),
        "vmap over tangents": jax.vmap(along)(jnp.arange(3, dtype=args[0].dtype)),
        "of the gradient": product(gradient, args, tangents),
    }


@pytest.mark.sample(6)
@each(CHANNELS_LAST, slow=lambda o: o.name in SIMILAR)
def test_jvp_is_jax_jvp_of_a_plain_reference(operation: Operation) -> None:
    args, tangents = arguments(operation)
    got = forward(fnconv.jvp, operation.fn, args, tangents)
    want = forward(jax.jvp, operation.reference, args, tangents)
    for name in want:
        assert_same(got[name], want[name], operation.exact, name)


@each(CHANNELS_LAST, slow=lambda o: o.name in SIMILAR)
def test_jax_forward_mode_is_refused(operation: Operation) -> None:
    args, tangents = arguments(operation)
    refused = pytest.raises(TypeError, match=r"can't apply forward-mode autodiff \(jvp\) to a custom_vjp function")
    with refused:
        jax.jit(lambda args, tangents: jax.jvp(operation.fn, args, tangents)).lower(args, tangents)
    # jax.linearize gives the value; the linear function it returns is refused
    jax.jit(lambda args: jax.linearize(operation.fn, *args)[0]).lower(args)
    with refused:
        jax.jit(lambda args, tangents: jax.linearize(operation.fn, *args)[1](*tangents)).lower(args, tangents)
    with refused:
        jax.jit(jax.jacfwd(operation.fn)).lower(*args)


def test_jvp_of_pytrees() -> None:
    x, w, b, v = NETWORK_ARGS
    params = {"conv": (w, b), "dense": [v]}

    def of_tree(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        return {"loss": network(x, *params["conv"], *params["dense"]), "relu": fnconv.relu(x)}

    tangents = jax.tree.map(lambda a: np.ones_like(a), params), np.zeros_like(x)
    y, dy = fnconv.jvp(of_tree, (params, x), tangents)
    grads = jax.grad(lambda p: network(x, *p["conv"], *p["dense"]))(params)
    assert_same(y["relu"], jnp.maximum(x, 0), exact=True)
    assert_same(dy["relu"], jnp.zeros_like(x), exact=True)
    assert_same(dy["loss"], sum(g.sum() for g in jax.tree.leaves(grads)), exact=False)


def test_integer_arguments_have_float0_tangents() -> None:
    logits, labels = np.float32([[0, 1], [2, 0]]), np.int32([1, 0])
    tangents = (np.ones((2, 2), np.float32), np.zeros((2,), FLOAT0))
    y, dy = fnconv.jvp(fnconv.softmax_cross_entropy, (logits, labels), tangents)
    assert y.shape == dy.shape == (2,)
    assert_same(dy, jnp.zeros(2), exact=False)  # a common shift of the logits changes nothing


def test_integer_outputs_have_float0_tangents() -> None:
    x = np.float32([[1], [5], [7], [2]])
    (y, indices), (dy, d_indices) = fnconv.jvp(lambda x: fnconv.max_pool_with_indices(x, (2,)), (x,), (10 * x,))
    assert (y.tolist(), indices.tolist()) == ([[5], [7]], [[1], [2]])
    assert dy.tolist() == [[50], [70]]
    assert d_indices.dtype == FLOAT0


def test_jvp_of_integers_alone() -> None:
    y, dy = fnconv.jvp(fnconv.relu, (np.int32([-1, 2]),), (np.zeros(2, FLOAT0),))
    assert y.tolist() == [0, 2]
    assert dy.dtype == FLOAT0


def test_an_output_that_depends_on_nothing_has_a_zero_tangent() -> None:
    _, dy = fnconv.jvp(lambda x: (jnp.ones(3), fnconv.relu(x)), (np.float32([1, 2]),), (np.float32([1, 1]),))
    assert_same(dy, (jnp.zeros(3), jnp.ones(2)), exact=True)


def test_jvp_of_jvp_is_the_second_derivative() -> None:
    def first(x: jax.Array) -> jax.Array:
        return fnconv.jvp(lambda x: fnconv.conv(x, x.reshape(2, 1, 1)[::-1])[:, 0], (x,), (jnp.ones_like(x),))[1]

    x = np.float32([[3], [4]])
    # x0 w0 + x1 w1 with w = (x1, x0): 2 x0 x1, along (1, 1): 2 (x0 + x1), again: 4
    assert first(x).tolist() == [14]
    assert fnconv.jvp(first, (x,), (np.ones_like(x),))[1].tolist() == [4]


@pytest.mark.parametrize(
    ("primals", "tangents", "message"),
    [
        (np.float32([1]), np.float32([1]), "must be tuples or lists"),
        ((np.float32([1]),), (), "structure of primals"),
        (
            (np.float32([1]),),
            (np.float32([1, 2]),),
            r"its primal's shape and tangent dtype, \(1,\) float32; got \(2,\)",
        ),
        ((np.float32([1]),), (np.int32([1]),), "float32; got .* int32"),
        ((np.int32([1]),), (np.int32([1]),), "got .* int32"),
    ],
)
def test_bad_tangents_are_refused(primals: Any, tangents: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fnconv.jvp(fnconv.relu, primals, tangents)
