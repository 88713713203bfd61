"""The table of dtypes: what it says, and that a row is all that a new dtype needs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import width
from cases import random_integers

import fnconv
from fnconv.base import dtypes

# name, short name, what sums are kept in, significant bits
ROWS = (
    ("float16", "f16", "float32", 11),
    ("bfloat16", "bf16", "float32", 8),
    ("float32", "f32", "float32", 24),
    ("float64", "f64", "float64", 53),
)


def test_the_table():
    rows = dtypes.FLOATS.values()
    assert [(r.name, r.short, r.accumulator.name) for r in rows] == [row[:3] for row in ROWS]
    assert [dtypes.unit_roundoff(r.dtype) for r in rows] == [2.0 ** -row[3] for row in ROWS]
    assert all(r.dtype == key and r.lowest == -np.inf for key, r in dtypes.FLOATS.items())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_integers_add_in_their_own_dtype(dtype):
    dtype = np.dtype(dtype)
    assert dtypes.accumulator(dtype) == dtype
    assert dtypes.lowest(dtype) == np.iinfo(dtype).min
    assert dtypes.accepted(dtype)
    assert not dtypes.accepted(dtype, integers=False)


@pytest.mark.parametrize("dtype", [np.bool_, np.complex64, jnp.float8_e4m3fn])
def test_nothing_else_is_accepted(dtype):
    assert not dtypes.accepted(jnp.dtype(dtype))


F8 = jnp.dtype(jnp.float8_e4m3fn)  # no infinities: its lowest number is -448
CALLS = {
    "conv": (lambda x, w: fnconv.conv(x, w, padding=1), (3, 3, 2, 3)),
    "conv, im2col": (lambda x, w: fnconv.conv(x, w, strides=2, rule="im2col"), (3, 3, 2, 3)),
    "max_pool": (lambda x: fnconv.max_pool(x, 3, strides=2, padding=1), None),
    "max_pool, segment_sum": (lambda x: fnconv.max_pool(x, 2, rule="segment_sum"), None),
    "avg_pool": (lambda x: fnconv.avg_pool(x, 3, strides=1, padding=1), None),
    "relu": (fnconv.relu, None),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_dtype_is_one_row(name, monkeypatch):
    """With a row for an eight-bit float, values and gradients are those of float32, rounded once."""
    call, w_shape = CALLS[name]
    x = -1 - np.abs(random_integers([1], (2, 6, 6, 2), 7))  # negative: the padding of a maximum is below them
    operands = [x] if w_shape is None else [x, random_integers([2], w_shape, 1)]
    with pytest.raises(TypeError, match=r"must have dtype float16, bfloat16, float32, float64.* got float8_e4m3fn"):
        call(*(jnp.asarray(o, F8) for o in operands))
    monkeypatch.setitem(dtypes.FLOATS, F8, dtypes.Float(F8, "f8", dtypes.FLOATS[jnp.dtype("float32")].dtype, -448.0))

    def run(dtype):
        y, pullback = jax.vjp(call, *(jnp.asarray(o, dtype) for o in operands))
        dy = random_integers([3], y.shape, 2)
        return y, *pullback(jnp.asarray(dy, dtype))

    with width("float32"):
        for got, want in zip(run(F8), run(jnp.float32), strict=True):
            assert got.dtype == F8
            np.testing.assert_array_equal(got.astype(np.float32), want.astype(F8).astype(np.float32))
