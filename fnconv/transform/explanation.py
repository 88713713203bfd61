"""Which formulation runs where in a program, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from fnconv.base.attach import LinearMap, unmapped
from fnconv.base.errors import mistyped
from fnconv.base.geometry import Axis
from fnconv.base.spec import ConvSpec, PoolSpec
from fnconv.rules import choice

# the maps that have several formulations: the operation and the map that available_rules() lists them under
MAPS = {
    "conv": ("conv", "forward"),
    "conv_input_vjp": ("conv", "input_vjp"),
    "conv_weight_vjp": ("conv", "weight_vjp"),
    "select": ("max_pool", "input_vjp"),
    "unselect": ("max_pool", "input_vjp"),
    "avg_pool": ("avg_pool", "forward"),
    "avg_unpool": ("avg_pool", "input_vjp"),
    "im2col": ("im2col", "forward"),
    "col2im": ("im2col", "input_vjp"),
}


@dataclass(frozen=True)
class Choice:
    """One map of the program.

    Attributes:
      operation, map: as `fnconv.available_rules()` names them.
      geometry: sizes, channels, window, strides, ...
      rule: what runs.
      because: the reason for it.
      times: how often it stands in the program; once in a loop is once.
    """

    operation: str
    map: str
    geometry: str
    rule: str
    because: str
    times: int = 1

    def __str__(self) -> str:
        times = f" ({self.times} times)" if self.times > 1 else ""
        return f"{self.operation} {self.map}, {self.geometry}{times}: {self.rule}; {self.because}"


class Explanation(tuple[Choice, ...]):
    """All maps of a program, in the order in which they appear; its text is a line for each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no map with several formulations"


def explain(fn: Callable[..., Any], *args: Any, platform: str | None = None, **kwargs: Any) -> Explanation:
    """What runs where `fn(*args)` is evaluated: the formulation of every map of fnconv in it, and the reason.

    `fn` is traced, not run; explain a gradient to see the backward maps, those that it needs.  A formulation that was
    asked for by name is reported as such.  Max pooling's forward pass and its gradient share a formulation; the
    gradient shows it.

    Args:
      fn: any function that JAX can trace; `args` and `kwargs` are its arguments, arrays or `jax.ShapeDtypeStruct`s.
      platform: "cpu", "gpu" or "tpu"; None: JAX's default one.

    Returns:
      A tuple of `Choice`s with a readable text.

    Raises:
      TypeError: fn is not callable.

    >>> import jax.numpy as jnp
    >>> from fnconv import conv
    >>> x, w = jnp.zeros((8, 28, 28, 1)), jnp.zeros((5, 5, 1, 6))
    >>> print(explain(lambda x, w: conv(x, w), x, w, platform="gpu"))
    conv forward, 28x28 1->6, window 5x5: lax; the platform's own convolution, in a geometry derived by hand, on gpu
    >>> print(explain(lambda x, w: conv(x, w, rule="im2col"), x, w))
    conv forward, 28x28 1->6, window 5x5: im2col; asked for by name
    """
    if not callable(fn):
        raise mistyped("explain", "fn", "must be a function", type(fn).__name__)
    place = jax.default_backend() if platform is None else platform
    maps = linear_maps(needed(jax.make_jaxpr(fn)(*args, **kwargs).jaxpr))
    counted = Counter(_choice(equation, place) for equation in maps if _has_rules(equation))
    return Explanation(Choice(*key, times) for key, times in counted.items())


Key = tuple[str, str, str, str, str]


def needed(jaxpr: Any) -> Any:
    """Without what no result reads."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def linear_maps(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program, and of the programs in it, that are a `LinearMap`."""
    for equation in jaxpr.eqns:
        if isinstance(equation.params.get("map"), LinearMap):
            yield equation
            continue
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from linear_maps(getattr(inner, "jaxpr", inner))


def _has_rules(equation: Any) -> bool:
    return equation.params["map"].name in MAPS and isinstance(equation.params["spec"], ConvSpec | PoolSpec)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _choice(equation: Any, platform: str) -> Key:
    name, spec, operand = equation.params["map"].name, equation.params["spec"], equation.invars[0].aval
    operation, map_ = MAPS[name]
    asked = spec.rule(map_)
    if asked != "auto":
        rule, because = asked, "asked for by name"
    elif isinstance(spec, PoolSpec):
        rule, because = choice.pool_rule(operation, map_, spec), "the one that auto runs for these windows"
        if operation == "avg_pool" and platform != "cpu" and choice.slides(spec, map_):
            rule, because = "lax", f"the platform's own sum over windows, on {platform}"
        elif name == "unselect" and platform == "tpu" and choice.rescans(spec):
            rule, because = "lax", "the platform's own scatter to the winners, found in x again, on tpu"
        elif name == "unselect" and platform != "cpu" and choice.compares(spec):
            rule, because = "offsets", f"windows side by side: one comparison, on {platform}"
    elif platform == "cpu":
        (batch, *_), copies = unmapped(operand, equation.params["stack"])
        line = choice.conv_choice(map_, spec, operand.dtype, batch * copies, here=True)
        rule, because = line.rule, line.because
    else:
        rule, because = "lax", f"the platform's own convolution, in a geometry derived by hand, on {platform}"
    return operation, map_, _geometry(spec), rule, because


def _geometry(spec: ConvSpec | PoolSpec) -> str:
    parts = ["x".join(str(a.size) for a in spec.axes)]
    if isinstance(spec, ConvSpec):
        parts[0] += f" {spec.in_channels}->{spec.out_channels}"
    parts.append("window " + "x".join(str(a.window) for a in spec.axes))
    sliding = [a for a in spec.axes if isinstance(a, Axis)]
    for what, values in (("stride", [a.stride for a in sliding]), ("dilation", [a.dilation for a in sliding])):
        if any(v > 1 for v in values):
            parts.append(f"{what} " + "x".join(map(str, values)))
    if isinstance(spec, ConvSpec) and spec.groups > 1:
        parts.append(f"groups {spec.groups}")
    return ", ".join(parts)
