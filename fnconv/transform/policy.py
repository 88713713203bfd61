"""Checkpoint policies that ask for products by JAX's name, as `dots_saveable`, are told of fnconv's by that name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jax import lax

from fnconv.transform.contraction import Contraction

Policy = Callable[..., Any]


@lru_cache(maxsize=256)
def translated(policy: Policy) -> Policy:
    """The policy, for primitives of either name; the same one for the same policy."""

    def asked(primitive: Any, *avals: Any, **params: Any) -> Any:
        if primitive.name == "fnconv_linear":
            match params["map"].name:
                case "contraction":
                    numbers = _dimension_numbers(params["spec"], len(params["stack"]))
                    return policy(lax.dot_general_p, *avals, dimension_numbers=numbers)
                case "conv":
                    return policy(lax.conv_general_dilated_p, *avals)
        return policy(primitive, *avals, **params)

    return asked


def _dimension_numbers(spec: Contraction, maps: int) -> Any:
    """`dot_general`'s; every vmap around it adds a leading batch axis."""
    summed = [i for i in spec.a if i in spec.b and i not in spec.y]
    batch = [i for i in spec.a if i in spec.b and i in spec.y]
    outer = tuple(range(maps))

    def axes(labels: tuple[int, ...], of: list[int]) -> tuple[int, ...]:
        return tuple(labels.index(i) + maps for i in of)

    return (
        (axes(spec.a, summed), axes(spec.b, summed)),
        (outer + axes(spec.a, batch), outer + axes(spec.b, batch)),
    )
