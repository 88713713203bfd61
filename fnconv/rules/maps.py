"""The maps that operations are made of: each runs the rule that its spec names, or the one that "auto" chooses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from fnconv.base.chunks import for_one_device_here, images
from fnconv.base.dtypes import lowest
from fnconv.base.errors import mistyped
from fnconv.base.geometry import volume, windows
from fnconv.base.lowering import computed_once, may_target_tpu, unless_empty
from fnconv.base.spec import ConvSpec, PoolSpec
from fnconv.base.window_sums import window_sum, window_sum_adjoint
from fnconv.rules import avg_pool, conv, im2col, max_pool
from fnconv.rules.choice import compares, conv_choice, pool_rule, rescans, slides
from fnconv.rules.max_pool.segment_sum import offset_dtype

# ---- convolution ----------------------------------------------------------------------------------------------------


def conv_forward(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    return unless_empty(_conv_rule("forward", spec, x), spec.y_shape(x.shape[0]), x, w)(spec, x, w)


def conv_input_vjp(spec: ConvSpec, dy: jax.Array, w: jax.Array) -> jax.Array:
    return unless_empty(_conv_rule("input_vjp", spec, dy), spec.x_shape(dy.shape[0]), dy, w)(spec, dy, w)


def conv_weight_vjp(spec: ConvSpec, x: jax.Array, dy: jax.Array) -> jax.Array:
    return unless_empty(_conv_rule("weight_vjp", spec, x), spec.w_shape, x, dy)(spec, x, dy)


def _conv_rule(map_: str, spec: ConvSpec, operand: jax.Array) -> Callable[..., jax.Array]:
    rules, name, dtype = conv.RULES[map_], spec.rule(map_), operand.dtype
    if name in conv.DIVIDES and not jnp.issubdtype(dtype, jnp.floating):
        raise mistyped("conv", f'rule "{name}" for {map_}', "divides, and takes no integers", dtype.name)
    if name != "auto":
        return rules[name]
    chosen = conv_choice(map_, spec, dtype, images(operand.shape[0]), here=for_one_device_here()).rule
    if chosen == "lax":
        return rules["lax"]
    formulation = rules[chosen]
    if chosen == "merged":  # "auto" once more, for the dense convolutions that the blocks are
        dense = conv_choice(map_, conv.merged.block(spec, map_), dtype).rule
        formulation = partial(formulation, dense=rules[dense])

    def on_cpu(a: jax.Array, b: jax.Array) -> jax.Array:
        # else what the operands come from, and the result, may be computed again for each of their many readers
        return computed_once(formulation(spec, *computed_once((a, b))))

    return lambda spec, a, b: lax.platform_dependent(a, b, cpu=on_cpu, default=partial(rules["lax"], spec))


# ---- pooling --------------------------------------------------------------------------------------------------------


def max_pool_value(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """y alone, where nobody asks for a gradient."""
    if x.size and volume(spec.output) and slides(spec, "forward"):
        return lax.platform_dependent(
            x, cpu=lambda x: max_pool_forward(spec, x)[0], default=partial(max_pool.lax.maximum, spec)
        )
    return max_pool_forward(spec, x)[0]


def max_pool_forward(spec: PoolSpec, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(y, offset of each window's winner)."""
    if not (x.size and volume(spec.output)):
        shape = (x.shape[0], *spec.output, x.shape[-1])
        return jnp.full(shape, lowest(x.dtype), x.dtype), jnp.full(shape, -1, offset_dtype(spec.axes))
    rule = partial(max_pool.RULES["forward"][pool_rule("max_pool", "forward", spec)], spec)
    if not slides(spec, "forward"):
        return rule(x)
    if max_pool.lax.is_reduction(spec):
        return lax.platform_dependent(x, cpu=rule, default=partial(max_pool.lax.winner, spec))
    return lax.platform_dependent(x, tpu=lambda x: (max_pool.lax.maximum(spec, x), rule(x)[1]), default=rule)


def max_pool_witness(spec: PoolSpec, offset: jax.Array, x: jax.Array) -> jax.Array:
    """What `max_pool_input_vjp` finds the winners in besides their offsets: x, on the platforms that scan it again."""
    return x if may_target_tpu() and rescans(spec) else offset


def max_pool_input_vjp(spec: PoolSpec, offset: jax.Array, witness: jax.Array, dy: jax.Array) -> jax.Array:
    """S^T dy; a platform that does not read the witness does not keep it, where both passes are one program."""
    rules = max_pool.RULES["input_vjp"]
    rule = rules[pool_rule("max_pool", "input_vjp", spec)]
    shape = (dy.shape[0], *spec.size, dy.shape[-1])
    others = dict[str, Callable[..., jax.Array]]()
    if compares(spec):
        others["cuda"] = others["tpu"] = lambda offset, _, dy: rules["offsets"](spec, offset, dy)
    if jnp.issubdtype(witness.dtype, jnp.floating):
        others["tpu"] = lambda _, x, dy: max_pool.lax.input_vjp(spec, x, dy)
    if 0 in (*shape, *dy.shape) or not others:
        return unless_empty(rule, shape, offset, dy)(spec, offset, dy)
    dx: jax.Array = lax.platform_dependent(
        offset, witness, dy, default=lambda offset, _, dy: rule(spec, offset, dy), **others
    )
    return dx


def max_pool_select(spec: PoolSpec, offset: jax.Array, witness: jax.Array, x: jax.Array) -> jax.Array:
    """S x, the adjoint of `max_pool_input_vjp`."""
    rule = max_pool.ADJOINTS[pool_rule("max_pool", "input_vjp", spec)]
    return unless_empty(rule, offset.shape, offset, x)(spec, offset, x)


def avg_pool_forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    return unless_empty(_avg_pool_rule("forward", spec), (x.shape[0], *spec.output, x.shape[-1]), x)(spec, x)


def avg_pool_input_vjp(spec: PoolSpec, dy: jax.Array) -> jax.Array:
    return unless_empty(_avg_pool_rule("input_vjp", spec), (dy.shape[0], *spec.size, dy.shape[-1]), dy)(spec, dy)


def _avg_pool_rule(map_: str, spec: PoolSpec) -> Callable[..., jax.Array]:
    rules = avg_pool.RULES[map_]
    rule = rules[pool_rule("avg_pool", map_, spec)]
    if not slides(spec, map_):
        return rule
    repeats = map_ == "input_vjp" and max_pool.offsets.tile(spec.axes)
    by = {"cpu": rule, "tpu": rules["lax"], "default": rule if repeats else rules["lax"]}
    return lambda spec, v: lax.platform_dependent(v, **{name: partial(f, spec) for name, f in by.items()})


def sums_of_windows(spec: PoolSpec, x: jax.Array) -> jax.Array:
    """The sum of every window, zeros in the padding, whatever rule the spec names."""
    shape = (x.shape[0], *spec.output, x.shape[-1])
    return unless_empty(_by_platform(window_sum, avg_pool.lax.sums), shape, x)(spec, x)


def spread_over_windows(spec: PoolSpec, y: jax.Array) -> jax.Array:
    """The adjoint of `sums_of_windows`; where windows are disjoint, each cell has its window's entry."""
    shape = (y.shape[0], *spec.size, y.shape[-1])
    return unless_empty(_by_platform(window_sum_adjoint, avg_pool.lax.sums_adjoint), shape, y)(spec, y)


def _by_platform(on_cpu: Callable[..., jax.Array], elsewhere: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda spec, v: lax.platform_dependent(
        v, cpu=partial(on_cpu, axes=spec.axes), default=partial(elsewhere, axes=spec.axes)
    )


def im2col_forward(spec: PoolSpec, x: jax.Array) -> jax.Array:
    rule = im2col.RULES["forward"][pool_rule("im2col", "forward", spec)]
    shape = (x.shape[0], volume(spec.output), volume(windows(spec.axes)), x.shape[-1])
    return unless_empty(rule, shape, x)(spec, x)


def im2col_input_vjp(spec: PoolSpec, cols: jax.Array) -> jax.Array:
    rule = im2col.RULES["input_vjp"][pool_rule("im2col", "input_vjp", spec)]
    return unless_empty(rule, (cols.shape[0], *spec.size, cols.shape[-1]), cols)(spec, cols)
