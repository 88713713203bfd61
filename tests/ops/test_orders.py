"""Derivatives of orders 1 to 4 of every public operation, along each composition of the modes.

The loss has a fourth derivative in the value that is nowhere 0: a rule whose value carries no tangent, which a linear
or a quadratic loss cannot show, leaves terms out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from agreement import compiled
from jax import lax
from operations import CHANNELS_LAST, SIMILAR, Operation, distinct, each, integers

import fnconv
from fnconv.compat import flax, keras
from fnconv.compat import lax as compat_lax

Scalar = Callable[[jax.Array], jax.Array]


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# ---- what the table of operations has not ---------------------------------------------------------------------------

OVERLAP = ((3, 2), (2, 1), ((1, 0), (0, 1)), (1, 1))


def _minimum(x: jax.Array, *geometry: object) -> jax.Array:
    return -plain.max_pool(-x, *geometry)


def _four(low: int, *spatial: int) -> tuple[int, ...]:
    return (low, *spatial, low)


def _reduce_window(
    computation: Callable[..., jax.Array], neutral: float, **options: object
) -> Callable[..., jax.Array]:
    window, strides, padding, _ = OVERLAP
    pads = ((0, 0), *padding, (0, 0))
    return lambda x: compat_lax.reduce_window(
        x, neutral, computation, _four(1, *window), _four(1, *strides), pads, **options
    )


def _block(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    y = plain.conv(x, w, b, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1)
    return jax.nn.relu(plain.max_pool(y, (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)))


def _network(x: jax.Array) -> jax.Array:
    y = lax.reduce_window(jnp.tanh(x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.relu(y)


DISJOINT = ((2, 2), (2, 2), ((0, -1), (0, 0)), (1, 1))
X = distinct(2, 5, 4, 2)
MORE = (
    Operation(
        "conv_block-pool",
        partial(fnconv.conv_block, pool=(2, 2)),
        _block,
        (integers(1, 5, 5, 2), integers(2, 2, 2, 2), integers(2)),
    ),
    Operation("compat.lax-max", _reduce_window(lax.max, -np.inf), lambda x: plain.max_pool(x, *OVERLAP), (X,)),
    Operation("compat.lax-min", _reduce_window(lax.min, np.inf), lambda x: _minimum(x, *OVERLAP), (X,)),
    Operation("compat.lax-add", _reduce_window(lax.add, 0.0), lambda x: plain.windows(x, *OVERLAP).sum(0), (X,)),
    Operation("compat.flax-max", lambda x: flax.max_pool(x, (2, 2), (2, 2)),
              lambda x: plain.max_pool(x, *DISJOINT), (X,)),
    Operation("compat.flax-min", lambda x: flax.min_pool(x, (2, 2), (2, 2)), lambda x: _minimum(x, *DISJOINT), (X,)),
    Operation("compat.keras-max", lambda x: keras.max_pool(x, 2), lambda x: plain.max_pool(x, *DISJOINT), (X,)),
    Operation("max_pool-long", lambda x: fnconv.max_pool(x, (9, 9), padding=4, strides=3),
              lambda x: plain.max_pool(x, (9, 9), (3, 3), ((4, 4), (4, 4)), (1, 1)), (X,)),
    *(
        Operation(
            f"max_pool-{rule}",
            partial(fnconv.max_pool, window_shape=(3, 2), strides=(2, 1), padding=OVERLAP[2], rule=rule),
            lambda x: plain.max_pool(x, *OVERLAP),
            (X,),
        )
        for rule in ("selection", "segment_sum", "offsets")
    ),
    Operation("with_manual_rules", fnconv.with_manual_rules(_network), _network, (X / 40,), exact=False),
)  # fmt: skip
EVERY = (*CHANNELS_LAST, *MORE)
MAXIMUM = next(o for o in EVERY if o.name == "max_pool-disjoint")

# ---- compositions of modes ------------------------------------------------------------------------------------------

# from the innermost on: reverse, forward, fnconv.jvp, which is forward where nothing inside is reverse yet
WORDS = {
    1: ("R", "J"),
    2: ("RR", "RF", "JR"),
    3: ("RRR", "RFR", "RRF", "JRF"),
    4: ("RRRR", "RFFR", "RRFF"),
}


def _reverse(f: Scalar, u: jax.Array) -> Scalar:
    return lambda v: jax.grad(f)(v) @ u


def _forward(f: Scalar, u: jax.Array) -> Scalar:
    return lambda v: jax.jvp(f, (v,), (u,))[1]


def _transposed_twice(f: Scalar, u: jax.Array) -> Scalar:
    return lambda v: fnconv.jvp(f, (v,), (u,))[1]


MODES = {"R": _reverse, "F": _forward, "J": _transposed_twice}


def along(f: Scalar, modes: str, directions: jax.Array) -> Scalar:
    """The derivative of f along one direction after another."""
    return reduce(lambda g, step: MODES[step[0]](g, step[1]), zip(modes, directions, strict=False), f)


def quartic(fn: Callable[..., jax.Array], args: tuple[np.ndarray, ...]) -> Scalar:
    """All arguments in one vector, and weights times y^4 / 64 + y^3 / 8 + y^2."""
    shapes, ends = [a.shape for a in args], np.cumsum([a.size for a in args])[:-1]

    def loss(v: jax.Array) -> jax.Array:
        y = fn(*(part.reshape(shape) for part, shape in zip(jnp.split(v, ends), shapes, strict=True)))
        weights = (np.arange(y.size) % 3 + 1.0).reshape(y.shape)
        return jnp.sum(weights * y * y * (y * y / 64 + y / 8 + 1))

    return loss


def point(args: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where, and along what: four directions, none of them 0."""
    v = np.concatenate([a.reshape(-1) for a in args]).astype(np.float64)
    return v, np.random.default_rng(v.size).choice([-2.0, -1.0, 1.0, 2.0], (4, v.size))


@partial(compiled, static_argnums=0)
def by_every_word(loss: Scalar, v: jax.Array, directions: jax.Array) -> dict[str, jax.Array]:
    return {w: along(loss, w, directions)(v) for words in WORDS.values() for w in words}


@partial(compiled, static_argnums=0)
def gradients(loss: Scalar, v: jax.Array, directions: jax.Array) -> list[jax.Array]:
    """Of the derivative along the first n - 1 directions, for n = 1, .., 4, of a loss that forward mode reaches."""
    return [jax.grad(along(loss, "F" * n, directions))(v) for n in range(4)]


def check_orders(operation: Operation) -> None:
    v, directions = point(operation.args)
    with jax.enable_x64(True):
        got = by_every_word(quartic(operation.fn, operation.args), v, directions)
        want = gradients(quartic(operation.reference, operation.args), v, directions)
    for order, words in WORDS.items():
        gradient, u = np.asarray(want[order - 1]), directions[order - 1]
        assert np.abs(gradient).max() > 0, "a derivative that vanishes shows nothing"
        bound = 2**14 * np.finfo(np.float64).eps * np.abs(gradient * u).sum()
        for word in words:
            np.testing.assert_allclose(got[word], gradient @ u, rtol=0, atol=bound, err_msg=f"{operation}: {word}")


def similar(operation: Operation) -> bool:
    """Maps of a convolution are each other's adjoints in every geometry."""
    return operation.name in SIMILAR or operation.name.endswith(("-groups-dilated", "-depthwise"))


@pytest.mark.sample(7)
@each(EVERY, slow=similar)
def test_every_order_in_every_composition_is_that_of_a_plain_reference(operation: Operation) -> None:
    check_orders(operation)


@partial(compiled, static_argnums=0)
def differences(loss: Scalar, v: jax.Array, directions: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Each derivative along the directions, and the differences of the one below at two steps, five points each."""
    steps, stencil = jnp.asarray([1 / 32, 1 / 64]), jnp.asarray([1.0, -8.0, 0.0, 8.0, -1.0])
    found = []
    for n, u in enumerate(directions):
        below = along(loss, ("R" + "F" * n)[:n], directions)
        points = v + steps[:, None, None] * jnp.arange(-2.0, 3)[:, None] * u / jnp.abs(u).max()
        slopes = jax.vmap(jax.vmap(below))(points) @ stencil / (12 * steps) * jnp.abs(u).max()
        found.append((along(loss, "R" + "F" * n, directions)(v), slopes))
    return found


FEW = ("conv-strided", "max_pool-disjoint", "lp_pool-2", "tanh", "softmax", "squared_error")


@pytest.mark.sample(2)
@each([o for o in EVERY if not o.kink], slow=lambda o: o.name not in FEW)
def test_every_order_is_the_difference_of_the_one_below(operation: Operation) -> None:
    """Halving the step leaves a sixteenth of what the stencil errs by."""
    v, directions = point(operation.args)
    for n, (derivative, (coarse, fine)) in enumerate(
        differences(quartic(operation.fn, operation.args), v, directions), start=1
    ):
        rounding = 2**20 * np.finfo(np.float64).eps * abs(float(derivative))
        assert abs(derivative - fine) <= abs(coarse - fine) + rounding, f"order {n}"


# ---- within a scan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: fnconv.max_pool(x, (2,)),
        lambda x: fnconv.adaptive_max_pool(x, (3,)),
        lambda x: fnconv.conv_block(x, jnp.ones((1, 2, 2)), pool=2),
    ],
    ids=["max_pool", "adaptive_max_pool", "conv_block"],
)
def test_selection_within_a_scan_is_that_of_each_step(f, order):
    """Where a value carries a tangent by `custom_jvp` alone, a scan that is differentiated twice forgets it."""
    x = jnp.asarray(np.random.default_rng(0).permutation(24).reshape(3, 4, 2), float) - 8

    def scanned(x):
        return lax.scan(lambda carry, step: (carry, f(step)), None, x)[1]

    def derivative(g):
        def of_order(n):
            if n == 0:
                return lambda x: (g(x) ** 3).sum()
            lower = of_order(n - 1)
            return lambda x: jax.grad(lower)(x).sum()

        return jax.grad(of_order(order - 1))(x)

    want = derivative(jax.vmap(f))
    assert np.abs(want).max() > 0
    np.testing.assert_array_equal(derivative(scanned), want)
