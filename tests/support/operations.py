"""Every public operation with small arguments and a plain reference: the table that the derivative tests run over.

All arguments are whole numbers.  Features are (N, *S, C) and kernels (*K, in, out) throughout: entries of the other
layout transpose them on the way in and back on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

import fnconv


@dataclass(frozen=True)
class Operation:
    """fn and its reference, functions of args alone, all of them differentiable.

    `exact`: piecewise polynomial with integer or dyadic coefficients, so that derivatives of every order are compared
    bit for bit.  `kink`: the arguments lie on one, where differences of the value say nothing.  `wide`: left to the
    slow run.
    """

    name: str
    fn: Callable[..., jax.Array]
    reference: Callable[..., jax.Array]
    args: tuple[np.ndarray, ...]
    exact: bool = True
    kink: bool = False
    wide: bool = False

    def __repr__(self) -> str:
        return self.name


# ---- layouts --------------------------------------------------------------------------------------------------------


def channels_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def channels_last(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 1, -1)


INTO = {"x": channels_first, "w": lambda w: jnp.moveaxis(w, (-1, -2), (0, 1)), ".": lambda a: a}
BACK = {"x": channels_last, "w": lambda w: jnp.moveaxis(w, (0, 1), (-1, -2)), ".": lambda a: a}


def both_layouts(
    name: str,
    fn: Any,
    reference: Any,
    args: tuple[np.ndarray, ...],
    kinds: str,
    exact: bool = True,
    kink: bool = False,
    wide: bool = False,
) -> Iterator[Operation]:
    """kinds: for every argument and for the result, x features, w kernels, . neither."""

    def first(*arrays: jax.Array) -> jax.Array:
        y = fn(*(INTO[k](a) for k, a in zip(kinds, arrays, strict=False)), layout="channels_first")
        return BACK[kinds[-1]](y)

    yield Operation(name, fn, reference, args, exact, kink)
    yield Operation(f"{name}-channels_first", first, reference, args, exact, kink, wide)


def with_shape(fn: Any, keyword: str, shape: tuple[int, ...]) -> Any:
    """fn told a whole shape (N, *S, C), in the order of its layout."""

    def told(*arrays: jax.Array, layout: str = "channels_last", **options: Any) -> jax.Array:
        order = shape if layout == "channels_last" else (shape[0], shape[-1], *shape[1:-1])
        return fn(*arrays, **{keyword: order}, layout=layout, **options)

    return told


# ---- the table ------------------------------------------------------------------------------------------------------

_RNG = np.random.default_rng(20)


def integers(*shape: int) -> np.ndarray:
    """Whole numbers from -3 to 3 without 0, where several operations have a kink."""
    return (_RNG.integers(1, 4, shape) * _RNG.choice((-1, 1), shape)).astype(np.float32)


def distinct(*shape: int) -> np.ndarray:
    return (_RNG.permutation(int(np.prod(shape))) - np.prod(shape) // 2).reshape(shape).astype(np.float32)


def _convolutions() -> Iterator[Operation]:
    geometries = {
        "strided": ((2, 5, 4, 2), (2, 3, 2, 2), {"strides": (2, 1), "padding": ((1, 0), (1, 2))}),
        "groups-dilated": ((2, 7, 4), (2, 2, 4), {"dilation": (2,), "padding": ((2, 1),), "groups": 2}),
        "depthwise": ((2, 4, 3, 2), (2, 2, 1, 4), {"strides": (2, 2), "groups": 2}),
        "cropped": ((2, 5, 1), (2, 1, 2), {"strides": (2,), "padding": ((-1, 3),)}),
        "3d": ((1, 3, 2, 3, 1), (2, 2, 2, 1, 2), {"strides": (1, 1, 2)}),
    }
    for name, (x, w, given) in geometries.items():
        n = len(x) - 2
        options = {"strides": (1,) * n, "padding": ((0, 0),) * n, "dilation": (1,) * n, "groups": 1, **given}
        output = jax.eval_shape(partial(plain.conv, **options), jnp.zeros(x), jnp.zeros(w)).shape
        args, wide = (integers(*x), integers(*w), integers(w[-1])), name != "strided"
        yield from both_layouts(
            f"conv-{name}", partial(fnconv.conv, **options), partial(plain.conv, **options), args, "xw.x", wide=wide
        )
        yield from both_layouts(
            f"conv_input_vjp-{name}",
            partial(with_shape(fnconv.conv_input_vjp, "input_shape", x), **options),
            partial(plain.conv_input_vjp, input_shape=x, **options),
            (integers(*output), integers(*w)),
            "xwx",
            wide=wide,
        )
        told = {"window_shape": w[:-2], **options}
        yield from both_layouts(
            f"conv_weight_vjp-{name}",
            partial(fnconv.conv_weight_vjp, **told),
            partial(plain.conv_weight_vjp, **told),
            (integers(*x), integers(*output)),
            "xxw",
            wide=wide,
        )
    options = {"strides": (2, 1), "dilation": (1, 2), "groups": 2}
    yield from both_layouts(
        "conv_transpose",
        partial(fnconv.conv_transpose, padding=1, output_padding=(1, 0), **options),
        partial(plain.conv_transpose, size=(4, 3), padding=((1, 0), (1, 1)), **options),
        (integers(2, 2, 3, 2), integers(3, 2, 2, 2), integers(4)),
        "xw.x",
    )


def _pools() -> Iterator[Operation]:
    padded = ((1, 0), (0, 1))
    x, row = distinct(2, 5, 4, 2), {"strides": (2, 1), "padding": padded}
    ties = np.abs(integers(2, 5, 4, 2))
    for name, fn, reference, arg, kink in (
        (
            "overlapping",
            partial(fnconv.max_pool, window_shape=(3, 2), **row),
            ((3, 2), (2, 1), padded, (1, 1)),
            x,
            False,
        ),
        (
            "disjoint",
            partial(fnconv.max_pool, window_shape=(2, 2)),
            ((2, 2), (2, 2), ((0, -1), (0, 0)), (1, 1)),
            x,
            False,
        ),
        (
            "dilated-ceil",
            partial(fnconv.max_pool, window_shape=(2, 2), strides=(2, 3), dilation=(2, 1), ceil_mode=True),
            ((2, 2), (2, 3), ((0, 0), (0, 1)), (2, 1)),
            x,
            False,
        ),
        ("ties", partial(fnconv.max_pool, window_shape=(3, 2), **row), ((3, 2), (2, 1), padded, (1, 1)), ties, True),
        (
            "ties-column_major",
            partial(fnconv.max_pool, window_shape=(3, 2), ties="column_major", **row),
            ((3, 2), (2, 1), padded, (1, 1), tuple(np.arange(6).reshape(3, 2).T.reshape(-1))),
            ties,
            True,
        ),
    ):
        yield from both_layouts(
            f"max_pool-{name}", fn, lambda x, geometry=reference: plain.max_pool(x, *geometry), (arg,), "xx", kink=kink
        )

    def values(x: jax.Array, **options: Any) -> jax.Array:
        return fnconv.max_pool_with_indices(x, (3, 2), **row, **options)[0]

    yield from both_layouts(
        "max_pool_with_indices", values, lambda x: plain.max_pool(x, (3, 2), (2, 1), padded, (1, 1)), (x,), "xx"
    )
    indices = np.stack([_RNG.permutation(12)[:4] for _ in range(4)]).reshape(2, 2, 2, 2).astype(np.int32)
    yield from both_layouts(
        "max_unpool",
        lambda y, layout="channels_last": fnconv.max_unpool(
            y, channels_first(indices) if layout == "channels_first" else indices, (4, 3), layout=layout
        ),
        partial(plain.unpool, indices=indices, output_shape=(4, 3)),
        (integers(2, 2, 2, 2),),
        "xx",
    )
    x = integers(2, 5, 4, 2)
    for name, options, geometry in (
        ("overlapping", {"strides": (2, 1), "padding": padded}, ((2, 2), (2, 1), padded)),
        ("uncounted", {"strides": 1, "padding": padded, "count_include_pad": False}, ((2, 2), (1, 1), padded, False)),
        ("disjoint", {}, ((2, 2), (2, 2), ((0, 0), (0, 0)))),
    ):
        yield from both_layouts(
            f"avg_pool-{name}",
            partial(fnconv.avg_pool, window_shape=(2, 2), **options),
            lambda x, geometry=geometry: plain.avg_pool(x, *geometry),
            (x,),
            "xx",
        )
    for p in (1, 2, 3):
        yield from both_layouts(
            f"lp_pool-{p}",
            partial(fnconv.lp_pool, window_shape=(3, 2), p=p, **row),
            lambda x, p=p: plain.lp_pool(x, (3, 2), (2, 1), padded, p),
            (integers(2, 4, 3, 2),),
            "xx",
            exact=p == 1,
        )
    yield from both_layouts(
        "global_avg_pool", fnconv.global_avg_pool, lambda x: jnp.mean(x, (1, 2)), (integers(2, 4, 4, 3),), "x."
    )
    shapes = {"max": ((3, 2), jnp.max), "avg": ((4, 2), jnp.mean)}
    for pool, (output, reduce) in shapes.items():
        yield from both_layouts(
            f"adaptive_{pool}_pool",
            partial(getattr(fnconv, f"adaptive_{pool}_pool"), output_shape=output),
            lambda x, output=output, reduce=reduce: plain.adaptive(reduce, x, output),
            (distinct(2, 6, 4, 2),),
            "xx",
        )
        for first in (False, True):
            layout = "channels_first" if first else "channels_last"
            yield Operation(
                f"spatial_pyramid_pool-{pool}-{layout}",
                lambda x, pool=pool, layout=layout, first=first: fnconv.spatial_pyramid_pool(
                    channels_first(x) if first else x, (2, 1), pool=pool, layout=layout
                ),
                partial(plain.pyramid, reduce, levels=(2, 1), first=first),
                (distinct(2, 4, 4, 2),),
            )


def _columns() -> Iterator[Operation]:
    x, geometry = integers(2, 4, 3, 2), {"window_shape": (2, 2), "strides": (2, 1), "padding": ((1, 0), (0, 1))}
    for order in ("channels_last", "channels_first", "matlab"):
        first = order == "channels_first"
        options = {**geometry, "order": "matlab"} if order == "matlab" else geometry
        layout = "channels_first" if first else "channels_last"
        unfold = partial(plain.im2col, window=(2, 2), strides=(2, 1), padding=((1, 0), (0, 1)), order=order)

        def im2col_fn(x: jax.Array, options: Any = options, layout: str = layout, first: bool = first) -> jax.Array:
            return fnconv.im2col(channels_first(x) if first else x, **options, layout=layout)

        def col2im_fn(cols: jax.Array, options: Any = options, layout: str = layout, first: bool = first) -> jax.Array:
            shape = (2, 2, 4, 3) if first else (2, 4, 3, 2)
            y = fnconv.col2im(cols, shape, **options, layout=layout)
            return channels_last(y) if first else y

        def fold(cols: jax.Array, unfold: Any = unfold) -> jax.Array:
            return jax.vjp(unfold, jnp.zeros(x.shape, cols.dtype))[1](cols)[0]

        yield Operation(f"im2col-{order}", im2col_fn, unfold, (x,))
        yield Operation(f"col2im-{order}", col2im_fn, fold, (integers(*jax.eval_shape(unfold, x).shape),))


def _resizes() -> Iterator[Operation]:
    """Weights of quarters and eighths; and others."""
    x = integers(2, 3, 2, 2)
    for method, shape, exact in (
        ("linear", (2, 6, 8, 2), True),
        ("nearest", (2, 5, 1, 2), True),
        ("cubic", (2, 2, 3, 2), False),
    ):
        fn, reference = (partial(f, shape=shape, method=method) for f in (fnconv.resize, jax.image.resize))
        yield Operation(f"resize-{method}", fn, reference, (x,), exact=exact)


def _shuffles() -> Iterator[Operation]:
    for mode in ("CRD", "DCR"):
        unfold = partial(plain.space_to_depth, factor=(2, 3), mode=mode)

        def fold(x: jax.Array, unfold: Any = unfold) -> jax.Array:
            return jax.linear_transpose(unfold, jnp.zeros((2, 4, 3, 2), x.dtype))(x)[0]

        options = {"factor": (2, 3), "mode": mode}
        x = integers(2, 2, 1, 12)
        yield from both_layouts(
            f"pixel_shuffle-{mode}", partial(fnconv.pixel_shuffle, **options), fold, (x,), "xx", wide=mode == "DCR"
        )
        unshuffle = partial(fnconv.pixel_unshuffle, **options)
        y = integers(2, 4, 3, 2)
        yield from both_layouts(f"pixel_unshuffle-{mode}", unshuffle, unfold, (y,), "xx", wide=mode == "DCR")


def _pointwise() -> Iterator[Operation]:
    x, labels = integers(3, 4), np.int32([2, 0, 3])
    yield Operation("dense", fnconv.dense, lambda x, w, b: x @ w + b, (integers(2, 3), integers(3, 4), integers(4)))
    yield Operation("flatten", fnconv.flatten, lambda x: x.reshape(2, -1), (integers(2, 3, 2),))
    yield Operation("relu", fnconv.relu, jax.nn.relu, (x,))
    yield Operation(
        "leaky_relu", partial(fnconv.leaky_relu, slope=0.5), partial(jax.nn.leaky_relu, negative_slope=0.5), (x,)
    )
    for name in ("sigmoid", "tanh", "softmax", "log_softmax"):
        yield Operation(name, getattr(fnconv, name), getattr(jax.nn, name), (x,), exact=False)
    for name in (*GATES, "softplus", "log_sigmoid", "elu", "celu", "selu", "soft_sign"):
        yield Operation(name, getattr(fnconv, name), getattr(jax.nn, name), (x,), exact=False)
    for name in ("relu6", "hard_tanh", "hard_sigmoid", "hard_silu"):  # between the kinks, which are whole numbers
        fn, reference = (partial(lambda f, x: f(0.75 * x), getattr(m, name)) for m in (fnconv, jax.nn))
        yield Operation(name, fn, reference, (x,), exact=name in ("relu6", "hard_tanh"))
    yield Operation("prelu", fnconv.prelu, lambda x, s: jnp.where(x > 0, x, s * x), (x, integers(4)))
    yield Operation("glu", fnconv.glu, jax.nn.glu, (x,), exact=False)
    yield Operation("gate", fnconv.gate, lambda x, s: x * s, (x, integers(3, 1)))
    yield Operation("dropout", lambda x: fnconv.dropout(x, jax.random.key(1)), plain.dropped, (x,))
    pair = (x, integers(3, 4) + 0.5)
    yield Operation("absolute_error", fnconv.absolute_error, lambda p, t: abs(p - t), pair)
    yield Operation("huber_loss", fnconv.huber_loss, plain.huber, pair)
    yield Operation("kl_divergence", fnconv.kl_divergence, plain.kl_divergence, (x, np.abs(x)), exact=False)
    binary = fnconv.sigmoid_binary_cross_entropy
    yield Operation("sigmoid_binary_cross_entropy", binary, plain.binary_cross_entropy, pair, exact=False)
    exact = {"approximate": False}
    yield Operation("gelu-exact", partial(fnconv.gelu, **exact), partial(jax.nn.gelu, **exact), (x,), exact=False)
    yield Operation("softmax-axis", partial(fnconv.softmax, axis=0), partial(jax.nn.softmax, axis=0), (x,), exact=False)
    yield Operation(
        "softmax_cross_entropy-integer",
        lambda logits: fnconv.softmax_cross_entropy(logits, labels),
        lambda logits: plain.cross_entropy(logits, jax.nn.one_hot(labels, 4, dtype=logits.dtype)),
        (x,),
        exact=False,
    )
    args = (x, integers(3, 4))
    yield Operation(
        "softmax_cross_entropy-weights", fnconv.softmax_cross_entropy, plain.cross_entropy, args, exact=False
    )
    weights, smooth = np.float32([1, 3, 0, 2]), 0.75 * np.eye(4)[[2, 0, 1]] + 0.0625
    yield Operation(
        "softmax_cross_entropy-smooth",
        lambda logits, w: fnconv.softmax_cross_entropy(
            logits, np.int32([2, 0, 1]), class_weights=w, label_smoothing=0.25
        ),
        lambda logits, w: plain.cross_entropy(logits, jnp.asarray(smooth, logits.dtype) * w),
        (x, weights),
        exact=False,
    )
    yield Operation(
        "nll_loss",
        lambda logs, w: fnconv.nll_loss(logs, labels, class_weights=w),
        lambda logs, w: -(jax.nn.one_hot(labels, 4, dtype=logs.dtype) * w * logs).sum(-1),
        (x, weights),
    )
    yield Operation("nll_loss-weights", fnconv.nll_loss, lambda logs, t: -(t * logs).sum(-1), args)
    options = {"smooth": 2.0, "alpha": 0.25, "beta": 0.75}
    yield Operation(
        "dice_loss",
        partial(fnconv.dice_loss, **options),
        partial(plain.dice, **options, axes=(1,)),
        (np.abs(integers(2, 3, 2)) / 4, np.abs(integers(2, 3, 2)) / 4),
        exact=False,
    )
    yield Operation("squared_error", fnconv.squared_error, lambda p, t: (p - t) ** 2, (integers(3, 4), integers(3, 4)))


def _norms() -> Iterator[Operation]:
    """With epsilon = 1; no group is constant."""
    x, three = distinct(2, 3, 2, 4) / 8, (integers(4), integers(4))
    yield Operation(
        "layer_norm",
        partial(fnconv.layer_norm, epsilon=1),
        lambda x, *p: plain.norm(x, (-1,), *p),
        (x, *three),
        exact=False,
    )
    yield Operation(
        "rms_norm",
        partial(fnconv.rms_norm, epsilon=1),
        lambda x, p: plain.norm(x, (-1,), p, mean=0),
        (x, three[0]),
        exact=False,
    )

    def moments(*arrays: jax.Array, **options: Any) -> jax.Array:
        """y, and what depends on the mean and the variance."""
        y, mean, variance, _ = fnconv.batch_norm(*arrays, epsilon=1, **options)
        shape = (1, -1, 1, 1) if options.get("layout") == "channels_first" else (1, 1, 1, -1)
        return y + (mean * variance).reshape(shape)

    def plain_moments(x: jax.Array, *p: jax.Array) -> jax.Array:
        return plain.norm(x, (0, 1, 2), *p) + x.mean((0, 1, 2)) * x.var((0, 1, 2))

    def plain_groups(x: jax.Array, *p: jax.Array) -> jax.Array:
        parts = (a.reshape(*a.shape[:-1], 2, 2) for a in (x, *p))
        return plain.norm(next(parts), (1, 2, 4), *parts).reshape(x.shape)

    yield from both_layouts("batch_norm", moments, plain_moments, (x, *three), "x..x", exact=False)
    group = partial(fnconv.group_norm, groups=2, epsilon=1)
    yield from both_layouts("group_norm", group, plain_groups, (x, *three), "x..x", exact=False)
    instance = partial(fnconv.instance_norm, epsilon=1)
    for beta in (-1, 0.75):  # a polynomial, and the usual one
        yield from both_layouts(
            f"local_response_norm-{beta}",
            partial(fnconv.local_response_norm, size=4, alpha=4, beta=beta, k=1),
            partial(plain.response_norm, beta=beta),
            (integers(2, 3, 2, 5) if beta < 0 else x,),
            "xx",
            exact=beta < 0,
            wide=beta < 0,
        )
    yield from both_layouts(
        "instance_norm", instance, lambda x, *p: plain.norm(x, (1, 2), *p), (x, *three), "x..x", exact=False
    )

    def given(x: jax.Array, mean: jax.Array, deviation: jax.Array, *p: jax.Array, **options: Any) -> jax.Array:
        return fnconv.batch_norm_inference(x, mean, deviation**2, *p, epsilon=1, **options)

    yield from both_layouts(
        "batch_norm_inference",
        given,
        lambda x, mean, deviation, scale, bias: (x - mean) / jnp.sqrt(deviation**2 + 1) * scale + bias,
        (x, integers(4), integers(4), *three),
        "x....x",
        exact=False,
    )


GATES = ("silu", "gelu", "mish")
OPERATIONS = (*_convolutions(), *_pools(), *_columns(), *_resizes(), *_shuffles(), *_pointwise(), *_norms())
# Those whose rules another entry runs as well, in a plainer geometry.
SIMILAR = (
    *(f"conv{map_}-{name}" for map_ in ("", "_input_vjp", "_weight_vjp") for name in ("cropped", "3d")),
    *(f"conv{map_}-groups-dilated" for map_ in ("_input_vjp", "_weight_vjp")),
    *("max_pool-dilated-ceil", "max_pool-ties", "avg_pool-uncounted", "lp_pool-3", "softmax-axis"),
    *("mish", "softplus", "log_sigmoid", "elu", "celu", "selu", "soft_sign", "gelu-exact"),
    *("hard_tanh", "hard_sigmoid", "hard_silu", "instance_norm"),
    *("resize-nearest", "pixel_shuffle-DCR", "pixel_unshuffle-CRD", "pixel_unshuffle-DCR"),
    *("glu", "absolute_error", "huber_loss", "kl_divergence"),
    *("spatial_pyramid_pool-avg-channels_last", "im2col-channels_last", "col2im-channels_last"),
)
CHANNELS_LAST = tuple(o for o in OPERATIONS if not o.name.endswith("-channels_first"))


def each(operations: Sequence[Operation], slow: Callable[[Operation], bool] = lambda o: False) -> pytest.MarkDecorator:
    """One test for every operation, the wide ones in the slow run."""
    cases = [pytest.param(o, id=o.name, marks=[pytest.mark.slow] if o.wide or slow(o) else []) for o in operations]
    return pytest.mark.parametrize("operation", cases)


def network(x: jax.Array, w: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
    """Convolution, activation, pooling, dense layer and loss; whole numbers as far as the logits."""
    y = fnconv.max_pool(fnconv.relu(fnconv.conv(x, w, b, padding="SAME")), (2, 2))
    logits = fnconv.dense(fnconv.flatten(y), v)
    return fnconv.softmax_cross_entropy(logits, np.arange(x.shape[0], dtype=np.int32) % v.shape[-1]).sum()


NETWORK_ARGS = (integers(2, 4, 4, 1), integers(3, 3, 1, 2), integers(2), integers(8, 3) / 8)
