"""Options given as scalars and arrays of NumPy and JAX: the program is that of Python's numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import of

import fnconv

X, W = of((2, 9, 8, 4)), of((3, 2, 2, 6))
INTEGERS = [np.int64, np.uint8, np.array, jnp.int32]
NUMBERS = [np.float32, np.float64, np.float16, np.array, jnp.float32, jnp.bfloat16]


def program(f: Callable[..., Any], *arrays: Any) -> str:
    """What is traced, forward and backward; objects without their addresses."""

    def both(*arrays: jax.Array) -> Any:
        y, pullback = jax.vjp(f, *arrays)
        return y, pullback(y)

    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(both)(*arrays)))


@pytest.mark.parametrize("integer", INTEGERS)
def test_integers(integer: Callable[[int], Any]) -> None:
    three, two, one = integer(3), integer(2), integer(1)
    pairs = [(one, two), (two, one)]

    def conv(strides: Any, padding: Any, groups: Any, dilation: Any) -> Callable[..., jax.Array]:
        options = {"strides": strides, "padding": padding, "groups": groups, "dilation": dilation}
        return lambda x, w: fnconv.conv(x, w, **options)

    assert program(conv(two, one, two, (one, two)), X, W) == program(conv(2, 1, 2, (1, 2)), X, W)
    assert program(conv((two, one), pairs, two, one), X, W) == program(conv((2, 1), [(1, 2), (2, 1)], 2, 1), X, W)
    assert program(lambda x: fnconv.max_pool(x, two), X) == program(lambda x: fnconv.max_pool(x, 2), X)
    assert program(lambda x: fnconv.softmax(x, axis=one), X) == program(lambda x: fnconv.softmax(x, axis=1), X)
    assert program(lambda x: fnconv.lp_pool(x, (2, 2), p=three), X) == program(
        lambda x: fnconv.lp_pool(x, (2, 2), p=3), X
    )
    assert program(lambda x: fnconv.leaky_relu(x, two), X) == program(lambda x: fnconv.leaky_relu(x, 2), X)


def test_arrays_of_integers() -> None:
    two, pairs = np.array([2, 2]), np.array([[1, 2], [0, 1]])

    def pool(window: Any, strides: Any, padding: Any) -> Callable[..., jax.Array]:
        return lambda x: fnconv.max_pool(x, window, strides=strides, padding=padding)

    def levels(given: Any) -> Callable[..., jax.Array]:
        return lambda x: fnconv.spatial_pyramid_pool(x, given)

    assert program(pool(two, two, pairs), X) == program(pool((2, 2), (2, 2), ((1, 2), (0, 1))), X)
    assert program(levels(np.array([1, 2])), X) == program(levels((1, 2)), X)
    assert program(levels(np.array([[1, 2], [3, 4]])), X) == program(levels(((1, 2), (3, 4))), X)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers(number: Callable[[float], Any]) -> None:
    p, quarter = number(1.5), number(0.25)
    assert program(lambda x: fnconv.lp_pool(x, (2, 2), p=p), X) == program(
        lambda x: fnconv.lp_pool(x, (2, 2), p=1.5), X
    )
    assert program(lambda x: fnconv.leaky_relu(x, quarter), X) == program(lambda x: fnconv.leaky_relu(x, 0.25), X)


@pytest.mark.parametrize("true", [np.bool_(True), np.array([True])[0]])
def test_flags(true: np.bool_) -> None:
    options = {"strides": 2, "padding": 1}

    def pool(flag: Any) -> Callable[..., jax.Array]:
        return lambda x: fnconv.avg_pool(x, (3, 3), ceil_mode=flag, count_include_pad=flag, **options)

    assert program(pool(true), X) == program(pool(True), X) != program(pool(False), X)


NO_NUMBERS = [True, np.bool_(True), np.array(True), np.array([2.0]), jnp.ones(1), [2.0], "2", None, 2j, np.complex64(2)]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^lp_pool: p must be a number known at trace time; got "):
        jax.eval_shape(lambda x: fnconv.lp_pool(x, (2, 2), p=value), X)
    with pytest.raises(TypeError, match=r"^leaky_relu: slope must be a number known at trace time; got "):
        jax.eval_shape(lambda x: fnconv.leaky_relu(x, value), X)


@pytest.mark.parametrize("value", [np.float64(2), np.bool_(True), np.array(True)], ids=repr)
def test_what_is_no_integer(value: Any) -> None:
    for argument in ("strides", "padding", "dilation", "groups"):
        with pytest.raises(TypeError, match=rf"^conv: {argument} must be static integers"):
            jax.eval_shape(lambda x, w, argument=argument: fnconv.conv(x, w, **{argument: value}), X, W)


@pytest.mark.parametrize("value", [1, np.int64(1), np.array([True, False]), "True"], ids=repr)
def test_what_is_no_flag(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^max_pool: ceil_mode must be True or False; got "):
        jax.eval_shape(lambda x: fnconv.max_pool(x, (2, 2), ceil_mode=value), X)
