"""The float64 replay of a program, and what it takes for rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_network import conv

from fnconv.judge.engine.programs import InFloat64
from fnconv.judge.engine.rounding import CHANCE, quantile

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 5, 4, 3)), jnp.float32)
W = jnp.asarray(RNG.standard_normal((3, 3, 3, 2)), jnp.float32)
V = X[0, 0]  # (4, 3)
U = np.finfo(np.float32).eps / 2
TINY = float(np.finfo(np.float32).tiny)


def run(fn, *operands, samples=4, seed=0):
    """(results, deviations) of a function of arrays."""
    jaxpr = jax.make_jaxpr(lambda *a: jax.tree.leaves(fn(*a)))(*operands)
    program = InFloat64(jaxpr, operands)
    return program.exact(operands), program.deviation(operands, samples=samples, seed=seed)


# ---- without rounding -----------------------------------------------------------------------------------------------


def loop(x):
    return lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + i.astype(jnp.float32), x)


def scanned(x):
    carry, ys = lax.scan(lambda c, row: (c * 0.7 + row, (jnp.cos(c), row.argmax())), x[0], x, reverse=True)
    return carry, ys


REPLAYED = {  # programs, and the same in NumPy or float64
    "conv": lambda x: conv(W.astype(x.dtype), x),
    "scan": lambda x: scanned(x[0, 0]),
    "while": lambda x: lax.while_loop(lambda c: c.sum() < 99, lambda c: c + abs(x), x),
    "fori": loop,
    "cond": lambda x: lax.cond(x.sum() > 1e9, jnp.sin, jnp.cos, x),
    "switch": lambda x: lax.switch((x.sum() < 1e9).astype(jnp.int32), [jnp.sin, jnp.cos, jnp.tanh], x),
    "jit, checkpoint": jax.jit(jax.checkpoint(lambda x: jnp.exp(x) / 3)),
    "custom rules": lambda x: jax.nn.relu(x) + jax.nn.relu6(x),
    "gradient of gather": lambda x: jax.vjp(lambda v: jnp.sin(v[:, jnp.array([1, 1, 2])]), x)[1](
        jnp.ones((2, 3, 4, 3), x.dtype)
    ),
    "scatters": lambda x: x.at[0].multiply(0.3).at[1].max(0.1).at[:, 1].set(0.7).at[:, :1].min(0.2),
    "sorted": lambda x: (jnp.sort(x, axis=1), jnp.argsort(x, axis=2), jnp.median(x)),
    "gradient of max pooling": lambda x: jax.vjp(
        lambda v: lax.reduce_window(v, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"), x
    )[1](jnp.full((2, 3, 2, 3), 0.1, x.dtype)),
    "a reduction of its own": lambda x: lax.reduce(x, np.asarray(1, x.dtype)[()], lambda a, b: a * b + a, (1,)),
    "product, cumulative sum": lambda x: (x.prod(axis=1), x.cumsum(axis=2), jnp.linalg.norm(x)),
    "integers, comparisons": lambda x: (x > 0, x.astype(jnp.int32), jnp.floor(x) * 0.1, x**3),
    "half precision inside": lambda x: x.astype(jnp.float32).astype(jnp.float32) * 0.5,
    "bits": lambda x: lax.bitcast_convert_type(jnp.ones(3, jnp.int32) * 0x3F800001, jnp.float32),
}


@pytest.mark.parametrize("name", REPLAYED)
def test_replay_is_float64(name):
    """The same function of float64 operands; each program's constants are those of float32."""
    fn = REPLAYED[name]
    got = run(fn, X)[0]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        want = jax.tree.leaves(jax.jit(fn)(X.astype(jnp.float64)))
    for a, b in zip(got, want, strict=True):
        # Python's 0.1 and 0.7 are numbers of float32 in the program
        np.testing.assert_allclose(a, np.asarray(b, np.float64), rtol=3e-7, atol=3e-7)
    assert len(got) == len(want)


def test_replay_has_no_rounding_of_its_own():
    """Of 1 / 3 the digits that float32 does not have; random numbers are those of the program."""
    (third,), _ = run(lambda x: x / jnp.float32(3), jnp.ones(2))
    assert third.tolist() == [1 / 3] * 2

    def draw(x):
        return jax.random.normal(jax.random.key(0), (5,)) * x

    np.testing.assert_allclose(run(draw, jnp.ones(()))[0][0], draw(jnp.ones(())), rtol=1e-6)


# ---- with it --------------------------------------------------------------------------------------------------------


SIZES = {
    "product": (lambda x: x * jnp.float32(0.3), lambda y: U * abs(y)),
    "exponential": (jnp.exp, lambda y: 8 * U * abs(y)),
    "power": (lambda x: lax.integer_pow(x, 3), lambda y: 3 * U * abs(y)),
    "nothing": (lambda x: jnp.maximum(-x.T[::-1], 0.0), lambda y: 0 * y),
    "an exact product": (lambda x: 4.0 * x, lambda y: 0 * y),
}


@pytest.mark.parametrize("name", SIZES)
def test_every_result_moves_by_its_rounding(name):
    """Up or down by the same amount, so that the standard deviation is that."""
    fn, size = SIZES[name]
    (y,), (deviation,) = run(fn, V)
    np.testing.assert_allclose(deviation, np.asarray(size(y)), rtol=1e-6, atol=2 * TINY)


def test_sums_move_by_their_magnitude():
    """sqrt(n + 2) u (|a| * |b|), n the number of products."""
    wide, w = np.asarray(X, np.float64), np.asarray(W, np.float64)
    found = {
        "dot": (run(lambda v: v @ v.T, V)[1][0], 3, abs(wide[0, 0]) @ abs(wide[0, 0]).T),
        "sum": (run(lambda x: x.sum(axis=(0, 2)), X)[1][0], 8, abs(wide).sum(axis=(0, 2))),
        "window": (
            run(lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"), X)[1][0],
            4,
            sum(abs(wide)[:, i : i + 4, j : j + 3] for i in (0, 1) for j in (0, 1)),
        ),
        "conv": (
            run(
                lambda x: lax.conv_general_dilated(x, W, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")), X
            ),
            27,
            np.stack(
                [
                    np.einsum("nijc,ijco->no", abs(wide)[:, r : r + 3, s : s + 3], abs(w))
                    for r in range(3)
                    for s in range(2)
                ],
                axis=1,
            ).reshape(2, 3, 2, 2),
        ),
        "scatter": (
            run(lambda v: jnp.zeros((2, 3)).at[jnp.array([0, 0, 0, 1])].add(v), V)[1][0],
            np.array([[4], [2]]),  # the zero that it is added to is a term
            np.stack([abs(wide[0, 0, :3]).sum(axis=0), abs(wide[0, 0, 3])]),
        ),
    }
    for name, (deviation, n, magnitude) in found.items():
        got = deviation[1][0] if name == "conv" else deviation
        expected = np.broadcast_to(np.sqrt(n + 2.0) * U * magnitude, got.shape)
        moves = got > 0  # a single term needs no rounding
        assert moves.any()
        np.testing.assert_allclose(got[moves], expected[moves], rtol=1e-6, err_msg=name)


def test_errors_are_independent():
    """Of every entry, sample and iteration: a sum of n of them grows as sqrt(n)."""
    many = jnp.asarray(RNG.standard_normal(4000), jnp.float32)

    def steps(x):
        return lax.scan(lambda c, _: (c * jnp.float32(1 + 2**-9), c * jnp.float32(1 + 2**-9)), x, None, length=16)[1]

    (y,), (deviation,) = run(steps, many, samples=8)
    powers = (1 + 2.0**-9) ** np.arange(1, 17)
    np.testing.assert_allclose(y, powers[:, None] * np.asarray(many, np.float64), rtol=1e-14)
    relative = deviation / abs(np.asarray(many, np.float64))
    growth = np.sqrt((relative**2).mean(axis=1)) / U
    np.testing.assert_allclose(growth, np.sqrt(np.arange(1, 17)), rtol=0.1)


def test_samples_differ_and_repeat():
    fn = lambda v: jnp.exp(jnp.exp(v))  # noqa: E731
    first, again, other = (run(fn, V, samples=2, seed=seed)[1][0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("samples", [2, 16, 100000])
def test_quantile(samples):
    """Where the tail of `rounding.py`, of that many samples, is CHANCE over the entries."""
    entries = 1000
    t = quantile(entries, samples)
    assert 2 * (1 + t**2 / samples) ** (-samples / 2) * entries == pytest.approx(CHANCE, rel=1e-6)
    if samples == 100000:  # that of Hoeffding's inequality itself
        assert t == pytest.approx(np.sqrt(2 * np.log(2 * entries / CHANCE)), rel=1e-3)
