"""The one place for dtypes: which floats the operations take, what their sums are kept in, what lies below every value.

A dtype is a row of FLOATS; everything else that depends on it is read from its row.  Integers need none: they add in
their own dtype, without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DType = np.dtype[Any]


@dataclass(frozen=True)
class Float:
    """A floating dtype that the operations take.

    short: its name in reports and options.
    accumulator: the dtype that sums are kept in.
    lowest: the neutral element of max, with which pooling pads; a dtype without infinities has its smallest number.
    """

    dtype: DType
    short: str
    accumulator: DType
    lowest: float = -np.inf

    @property
    def name(self) -> str:
        return self.dtype.name


_f16, _bf16, _f32, _f64 = map(jnp.dtype, (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))

FLOATS: dict[DType, Float] = {
    row.dtype: row
    for row in (
        Float(_f16, "f16", accumulator=_f32),
        Float(_bf16, "bf16", accumulator=_f32),
        Float(_f32, "f32", accumulator=_f32),
        Float(_f64, "f64", accumulator=_f64),
    )
}


def accepted(dtype: DType, *, integers: bool = True) -> bool:
    """Whether the operations take arrays of this dtype."""
    return dtype in FLOATS or (integers and jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits >= 8)


def accepted_names(*, integers: bool = True) -> str:
    """The accepted dtypes, as error messages list them."""
    return ", ".join(row.name for row in FLOATS.values()) + (
        " or an integer type of 8 bits or more" if integers else ""
    )


def accumulator(dtype: DType) -> DType:
    """The dtype that sums are kept in: half precisions add in float32."""
    row = FLOATS.get(jnp.dtype(dtype))
    return dtype if row is None else row.accumulator


def to_accumulator(a: jax.Array) -> jax.Array:
    """The array in the dtype that its sums are kept in."""
    return a.astype(accumulator(a.dtype))


def lowest(dtype: DType) -> float | int:
    """The neutral element of max."""
    if jnp.issubdtype(dtype, jnp.integer):
        return int(jnp.iinfo(dtype).min)
    row = FLOATS.get(jnp.dtype(dtype))
    return -np.inf if row is None else row.lowest


def unit_roundoff(dtype: DType) -> float:
    """The largest relative error of rounding to the dtype: half the distance from 1 to the next number."""
    return float(jnp.finfo(dtype).eps) / 2


def short_name(dtype: DType) -> str:
    """f32, bf16, int8, ..."""
    row = FLOATS.get(jnp.dtype(dtype))
    return row.short if row is not None else jnp.dtype(dtype).name.replace("float", "f")
