"""vmap, checkpoint, loops and branches of every operation, of its gradient and of the gradient of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from jax import lax
from operations import CHANNELS_LAST, NETWORK_ARGS, OPERATIONS, SIMILAR, Operation, each, network
from plain import assert_same

BATCH = 3
Arrays = tuple[jax.Array, ...]


@pytest.fixture(autouse=True)
def _precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Single precision where whole numbers stay whole, double where results are rounded."""
    operation = request.getfixturevalue("operation") if "operation" in request.fixturenames else None
    with jax.enable_x64(operation is not None and not operation.exact):
        yield


def stacked(operation: Operation) -> Arrays:
    """BATCH arguments of each kind: the same numbers at other places."""
    dtype = np.float32 if operation.exact else np.float64
    return tuple(np.stack([np.roll(a, i) for i in range(BATCH)]).astype(dtype) for a in operation.args)


def output_shape(operation: Operation) -> tuple[int, ...]:
    return jax.eval_shape(operation.fn, *operation.args).shape


def cotangents(operation: Operation) -> np.ndarray:
    shape = (BATCH, *output_shape(operation))
    return np.random.default_rng(1).integers(-2, 3, shape).astype(np.float32 if operation.exact else np.float64)


def derivatives(fn: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, Arrays, Arrays]]:
    """(c, *args) -> fn(*args), the gradient of <c, y^2 + y>, and its Hessian along the arguments themselves."""

    def evaluate(c: jax.Array, *args: jax.Array) -> tuple[jax.Array, Arrays, Arrays]:
        argnums = tuple(range(len(args)))

        def loss(*args: jax.Array) -> jax.Array:
            y = fn(*args)
            return jnp.sum(c * (y * y + y))

        def slope(*moving: jax.Array) -> jax.Array:
            grads = jax.grad(loss, argnums)(*moving)
            return sum(jnp.vdot(g, a) for g, a in zip(grads, args, strict=True))

        return fn(*args), jax.grad(loss, argnums)(*args), jax.grad(slope, argnums)(*args)

    return evaluate


@partial(compiled, static_argnums=0)
def mapped(fn: Callable[..., jax.Array], c: jax.Array, args: Arrays) -> dict[str, Any]:
    """vmap over everything, over one argument at a time with the axes moved, and nested."""
    one, n = derivatives(fn), len(args)
    results: dict[str, Any] = {"all": jax.vmap(one)(c, *args)}
    results["cotangents"] = jax.vmap(one, (0, *[None] * n))(c, *firsts(args))
    for i in range(n):
        moved = [jnp.moveaxis(a, 0, 1) if j == i else a[0] for j, a in enumerate(args)]
        axes = (None, *(1 if j == i else None for j in range(n)))
        results[f"argument {i}"] = jax.vmap(one, axes, out_axes=-1)(c[0], *moved)
    inner = jax.vmap(one, (None, *[None] * (n - 1), 0))
    last = firsts(args)[: n - 1]
    results["nested"] = jax.vmap(
        lambda c, *first: inner(c, *first, args[-1]), (0, *[0] * bool(last), *[None] * (n - 2))
    )(c, *args[:1] * bool(last), *last[1:])
    return results


def firsts(args: Arrays) -> Arrays:
    return tuple(a[0] for a in args)


@pytest.mark.sample(6)
@each(OPERATIONS, slow=lambda o: o.name in SIMILAR or o not in CHANNELS_LAST)
def test_vmap_is_a_loop(operation: Operation) -> None:
    """Values, gradients and gradients of gradients: inputs, kernels and cotangents, together and one by one."""
    c, args = cotangents(operation), stacked(operation)
    one, n = compiled(derivatives(operation.fn)), len(args)
    got = mapped(operation.fn, c, args)

    def stack(results: list[Any], axis: int = 0) -> Any:
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *results)

    def check(name: str, want: Any) -> None:
        assert_same(got[name], want, operation.exact, name)

    check("all", stack([one(c[k], *(a[k] for a in args)) for k in range(BATCH)]))
    check("cotangents", stack([one(c[k], *firsts(args)) for k in range(BATCH)]))
    for i in range(n):
        loop = [one(c[0], *(a[k] if j == i else a[0] for j, a in enumerate(args))) for k in range(BATCH)]
        check(f"argument {i}", stack(loop, -1))
    rows = []
    for k in range(BATCH):
        first = (args[0][k], *firsts(args)[1:-1])[: n - 1]
        rows.append(stack([one(c[k], *first, args[-1][m]) for m in range(BATCH)]))
    check("nested", stack(rows))


@partial(compiled, static_argnums=0)
def shared(fn: Callable[..., jax.Array], c: jax.Array, args: Arrays) -> list[tuple[Arrays, Arrays]]:
    """For each argument in turn, shared by a vmap over the others: gradient and Hessian of the sum."""
    results = []
    for i in range(len(args)):
        axes = [None if j == i else 0 for j in range(len(args))]
        if all(axis is None for axis in axes):
            continue
        over = jax.vmap(fn, axes)
        results.append(derivatives(over)(c, *(a[0] if j == i else a for j, a in enumerate(args)))[1:])
    return results


@pytest.mark.sample(3)
@each([o for o in CHANNELS_LAST if len(o.args) > 1], slow=lambda o: o.name in SIMILAR)
def test_gradients_of_a_shared_argument_add_up(operation: Operation) -> None:
    """grad and grad of grad of a vmap that one argument does not take part in: the sum over the loop."""
    c, args = cotangents(operation), stacked(operation)
    one = compiled(derivatives(operation.fn))
    for i, got in enumerate(shared(operation.fn, c, args)):
        loop = [one(c[k], *(a[0] if j == i else a[k] for j, a in enumerate(args)))[1:] for k in range(BATCH)]
        joined = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
        want = tuple(tuple(g.sum(0) if j == i else g for j, g in enumerate(grads)) for grads in joined)
        assert_same(got, want, operation.exact, f"argument {i} shared")


POLICIES = {
    "none": None,
    "everything": jax.checkpoint_policies.everything_saveable,
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
}


@partial(compiled, static_argnums=0)
def control_flow(fn: Callable[..., jax.Array], c: jax.Array, args: Arrays) -> dict[str, tuple[Any, Any]]:
    """By construct: value and gradients through it, and those without it."""
    argnums = tuple(range(1, len(args) + 1))

    def loss(c: jax.Array, *args: jax.Array) -> jax.Array:
        y = fn(*args)
        return jnp.sum(c * (y * y + y))

    def total(c: jax.Array, *args: jax.Array) -> jax.Array:
        return sum(loss(c[k], *(a[k] for a in args)) for k in range(BATCH))

    def scanned(c: jax.Array, *args: jax.Array) -> jax.Array:
        return lax.scan(lambda sum_, one: (sum_ + loss(*one), None), jnp.zeros((), c.dtype), (c, *args))[0]

    def mapped(c: jax.Array, *args: jax.Array) -> jax.Array:
        return jnp.sum(lax.map(lambda one: jax.checkpoint(loss)(*one), (c, *args)))

    def step(k: jax.Array, sum_: jax.Array) -> jax.Array:
        return sum_ + loss(c[k], *(a[k] for a in args))

    def branched(c: jax.Array, *args: jax.Array) -> jax.Array:
        return lax.cond(jnp.all(c < 3), loss, lambda c, *args: jnp.zeros((), c.dtype), c, *args)

    def grad(f: Callable[..., jax.Array], example: Arrays) -> Any:
        return jax.value_and_grad(f, argnums)(*example)

    zero, everything, one = jnp.zeros((), c.dtype), (c, *args), firsts((c, *args))
    alone, all_ = grad(loss, one), grad(total, everything)
    results = {f"checkpoint {n}": (grad(jax.checkpoint(loss, policy=p), one), alone) for n, p in POLICIES.items()}
    results["cond"] = grad(branched, one), alone
    results |= {"scan": (grad(scanned, everything), all_), "map": (grad(mapped, everything), all_)}
    states = lax.while_loop(lambda state: state[0] < BATCH, lambda s: (s[0] + 1, step(*s)), (jnp.int32(0), zero))
    return {**results, "while_loop": (states[1], all_[0])}


@pytest.mark.sample(6)
@each(CHANNELS_LAST, slow=lambda o: o.name in SIMILAR)
def test_checkpoint_loops_and_branches_change_nothing(operation: Operation) -> None:
    results = control_flow(operation.fn, cotangents(operation), stacked(operation))
    for name, (got, want) in results.items():
        assert_same(got, want, operation.exact, name)


@pytest.mark.sample(6)
@each(CHANNELS_LAST, slow=lambda o: o.name in SIMILAR)
def test_eager_is_jit_and_has_no_nan(operation: Operation) -> None:
    """On NumPy arguments, value and gradient, with `jax.debug_nans` looking on."""
    c, args = cotangents(operation)[0], firsts(stacked(operation))

    def loss(*args: jax.Array) -> jax.Array:
        return jnp.sum(c * operation.fn(*args))

    argnums = tuple(range(len(args)))
    with jax.debug_nans(True):
        eager = operation.fn(*args), jax.grad(loss, argnums)(*map(jnp.asarray, args))
    assert_same(
        eager, jax.jit(lambda *args: (operation.fn(*args), jax.grad(loss, argnums)(*args)))(*args), operation.exact
    )


@pytest.mark.sample(6)
@each(CHANNELS_LAST, slow=lambda o: o.name in SIMILAR)
def test_nothing_leaks_out_of_a_trace(operation: Operation) -> None:
    c, args = cotangents(operation)[0], firsts(stacked(operation))

    def loss(*args: jax.Array) -> jax.Array:
        return jnp.sum(c * operation.fn(*args) ** 2)

    with jax.checking_leaks():
        jax.make_jaxpr(jax.jit(jax.grad(loss, tuple(range(len(args))))))(*args)


def test_donated_buffers() -> None:
    step = jax.grad(network, argnums=(0, 1, 2, 3))
    want = jax.jit(step)(*NETWORK_ARGS)
    args = tuple(map(jnp.array, NETWORK_ARGS))
    got = jax.jit(step, donate_argnums=(0, 1, 2, 3))(*args)
    assert_same(got, want, exact=True)
    assert all(a.is_deleted() for a in args)


def test_an_exported_network_has_its_gradient() -> None:
    """The value, and the derivative by the exported program's own vjp."""
    args = tuple(map(jnp.asarray, NETWORK_ARGS))
    exported = jax.export.export(jax.jit(network))(*args)
    assert exported.has_vjp()
    got = jax.value_and_grad(exported.call, argnums=(0, 1, 2, 3))(*args)
    assert_same(got, jax.jit(jax.value_and_grad(network, argnums=(0, 1, 2, 3)))(*args), exact=False)
