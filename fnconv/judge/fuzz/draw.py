"""What is drawn: an operation, its geometry and options, a dtype, a rule, a transformation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from random import Random
from typing import Any

import numpy as np

from fnconv.judge.engine.windows import per_axis
from fnconv.judge.fuzz.definition import FORMS, Array, Form, Shape, joined, kernel_shape, split
from fnconv.rules.available import available_rules
from fnconv.rules.conv import ROUNDING

COPIES = 2  # of what is mapped over
FLOATS = ("float32", "float16", "bfloat16", "float64")
HALVES = ("float16", "bfloat16")
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32")
WAYS = ("jit", "jit", "eager", "vmap", "vmap", "scan", "remat", "sharded", "strict")
CONVS = ("conv", "conv_input_vjp", "conv_weight_vjp", "conv_transpose", "conv_block")
RULED = {**dict.fromkeys(CONVS, "conv"), "max_pool_with_indices": "max_pool", "col2im": "im2col"} | {
    name: name for name in ("max_pool", "avg_pool", "lp_pool", "im2col")
}
DENSE = ("kronecker", "jacobian", "selection", "matrix")  # the textbook's matrices: for finite values
WITH_INTEGERS = (
    *CONVS,
    *("max_pool", "max_pool_with_indices", "max_unpool", "adaptive_max_pool", "im2col", "col2im", "dense", "relu"),
    *("flatten", "pixel_shuffle", "pixel_unshuffle"),
)
ACTIVATIONS = ("silu", "softplus", "log_sigmoid", "mish")
BENT = ("elu", "soft_sign", "relu6", "hard_tanh", "hard_sigmoid", "hard_silu")
NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True)
class Problem:
    """One program: everything but the data.

    mapped: which operands vmap and scan run over.  orders: 0 .. orders are judged.
    forward: the last derivative by forward over reverse.  seed: of the data, and of JAX's switches.
    """

    operation: str
    shapes: tuple[Shape, ...]
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    way: str = "jit"
    mapped: tuple[bool, ...] = ()
    orders: int = 1
    forward: bool = False
    seed: int = 0

    @property
    def rule(self) -> str:
        rule = self.options.get("rule", "auto" if self.operation in RULED else "-")
        return rule if isinstance(rule, str) else "mixed"

    @property
    def rules(self) -> set[str]:
        rule = self.options.get("rule", "auto")
        return {rule} if isinstance(rule, str) else set(rule.values())

    @property
    def integer(self) -> bool:
        return "int" in self.dtype

    @property
    def index(self) -> int | None:
        """The operand that holds integers: places of `max_unpool`, classes of `softmax_cross_entropy`."""
        classes = self.operation == "softmax_cross_entropy" and len(self.shapes[1]) < len(self.shapes[0])
        return 1 if classes or self.operation == "max_unpool" else None

    @property
    def formula(self) -> dict[str, Any]:
        """The options that a definition knows."""
        return {name: value for name, value in self.options.items() if name not in ("rule", "precision")}

    def form(self, operands: Sequence[Array]) -> Form:
        typed = [x.astype(self.dtype) if self.integer and a != self.index else x for a, x in enumerate(operands)]
        return FORMS[self.operation](*typed, *self.args, **self.formula)

    def outline(self) -> Shape:
        """The shape of the value, without copies."""
        ones = [np.ones(s, int if a == self.index else float) for a, s in enumerate(self.shapes)]
        match self.operation:
            case "lp_pool":
                options = {name: value for name, value in self.formula.items() if name != "p"}
                return FORMS["avg_pool"](*ones, *self.args, **options).shape
            case "softmax_cross_entropy":
                return self.shapes[0][:-1]
            case operation if operation in FORMS:
                return self.form(ones).shape
        return self.shapes[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Problem:
        return cls(**{name: frozen(value) for name, value in entry.items()})

    def __hash__(self) -> int:
        return hash(repr(self))


def frozen(value: Any) -> Any:
    """Lists of JSON as tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    return {k: frozen(v) for k, v in value.items()} if isinstance(value, dict) else value


def consistent(p: Problem) -> Problem:
    """With the shapes that follow from the others, if there is such a geometry."""
    x, *rest = (np.zeros(s) for s in p.shapes)
    shapes: tuple[Shape, ...]
    try:
        match p.operation:
            case "conv_input_vjp":
                shapes = FORMS["conv"](np.zeros(p.args[0]), *rest, **p.formula).shape, p.shapes[1]
            case "conv_weight_vjp":
                layout = p.options.get("layout", "channels_last")
                c, d = (split(s, len(p.args[0]), layout)[2] for s in p.shapes)
                w = np.zeros(kernel_shape(p.args[0], c // p.options.get("groups", 1), d, layout))
                shapes = p.shapes[0], FORMS["conv"](x, w, **p.formula).shape
            case "col2im":
                shapes = (FORMS["im2col"](np.zeros(p.args[0]), p.args[1], **p.formula).shape,)
            case "max_unpool" | "squared_error":
                shapes = p.shapes[0], p.shapes[0]
            case "softmax_cross_entropy":
                shapes = p.shapes[0], p.shapes[0][:-1] if p.index else p.shapes[0]
            case _:
                return p
    except (ValueError, IndexError):  # the library has to refuse it, or its shapes do not fit together
        return p
    return replace(p, shapes=shapes)


# ---- geometry -------------------------------------------------------------------------------------------------------


def each(r: Random, n: int, draw: Callable[[], int]) -> Any:
    """One number for every axis, or one for all."""
    values = tuple(draw() for _ in range(n))
    return values[0] if len(set(values)) == 1 and r.random() < 0.5 else values


def batch_axes(r: Random) -> Shape:
    return r.choice(((1,), (2,), (2,), (3,), (), (2, 1), (1, 2, 2), (0,)))


def padding(r: Random, n: int) -> Any:
    kind = r.random()
    if kind < 0.3:
        return "VALID"
    if kind < 0.55:
        return r.choice(("SAME", "SAME_LOWER", "FULL", "INPUT_SIZE"))
    if kind < 0.65:
        return r.choice((0, 1, 2))
    return tuple((r.choice((0, 1, 2, 3, -1)), r.choice((0, 1, 2, 0, -1))) for _ in range(n))


def sliding(r: Random, n: int) -> tuple[Shape, Shape, dict[str, Any]]:
    """Spatial axes, a window, and its options."""
    longest = {1: 9, 2: 6, 3: 4, 4: 3}[n]
    size = [max(r.randint(1, longest), r.randint(1, longest)) for _ in range(n)]  # rarely below the window
    if r.random() < 0.04:
        size[r.randrange(n)] = 0
    window = tuple(r.choice((1, 2, 2, 3, 3, 4 if n < 3 else 2)) for _ in range(n))
    options = {
        "strides": each(r, n, lambda: r.choice((1, 1, 2, 3))),
        "dilation": each(r, n, lambda: r.choice((1, 1, 1, 2))),
        "padding": padding(r, n),
        "layout": r.choice(("channels_last", "channels_last", "channels_first")),
    }
    return tuple(size), window, options


def rule(r: Random, operation: str) -> Any:
    """One rule for all maps, one for each, or "auto"."""
    maps = available_rules()[RULED[operation]]
    if r.random() < 0.25:
        return "auto"
    if r.random() < 0.7:
        return r.choice(maps["forward"])
    return {m: r.choice(("auto", *names)) for m, names in maps.items()}


def convolution(r: Random, operation: str) -> dict[str, Any]:
    n, batch = r.choice((1, 1, 2, 2, 2, 3, 4)), batch_axes(r)
    size, window, options = sliding(r, n)
    groups, c, d = r.choice(((1, 1, 1), (1, 2, 3), (1, 3, 2), (2, 1, 1), (2, 2, 1), (3, 1, 2), (2, 1, 3), (1, 4, 4)))
    options["rule"] = rule(r, operation)
    if r.random() < 0.03:  # where "auto" takes the rules that pay for many channels
        size, window, n, batch, groups, c, d = (8, 7), (3, 3), 2, (1,), 1, 32, 32
        options |= {"strides": 1, "dilation": 1, "padding": "VALID", "rule": "auto"}
    options["groups"], layout = groups, options["layout"]
    if r.random() < 0.3:  # then "auto" is right component by component
        options["precision"] = r.choice(("high", "highest"))
    x = joined(batch, size, c * groups, layout)
    w = kernel_shape(window, c, d * groups, layout)
    y = joined(batch, (1,) * n, d * groups, layout)  # as far as it does not follow
    bias = r.random() < 0.3
    match operation:
        case "conv_input_vjp":
            return {"shapes": (y, w), "args": (x,), "options": options}
        case "conv_weight_vjp":
            return {"shapes": (x, y), "args": (window,), "options": options}
        case "conv_transpose":
            if not isinstance(options["padding"], str):
                options["padding"] = tuple((r.choice((0, 1, -1)), r.choice((0, 1))) for _ in range(n))
                steps = (per_axis(options[name], n) for name in ("strides", "dilation"))
                options["output_padding"] = tuple(r.randrange(max(pair)) for pair in zip(*steps, strict=True))
            x = joined(batch, tuple(min(s, 4) for s in size), d * groups, layout)
            return {"shapes": (x, w, *(((c * groups,),) * bias)), "options": options}
        case "conv_block":
            options["activation"] = r.choice(("relu", None))
            if ROUNDING & set(options["rule"].values() if isinstance(options["rule"], dict) else [options["rule"]]):
                options["rule"] = "auto"  # a cell that is rounded may be another maximum
            pooled = {
                "window_shape": sliding(r, n)[1],
                "strides": r.choice((None, 1, 2)),
                "ceil_mode": r.random() < 0.3,
            }
            options["pool"] = pooled if r.random() < 0.8 else None
    return {"shapes": (x, w, *(((d * groups,),) * bias)), "options": options}


def pool(r: Random, operation: str) -> dict[str, Any]:
    n, batch, c = r.choice((1, 1, 2, 2, 2, 3, 4)), batch_axes(r), r.choice((1, 2, 3))
    size, window, options = sliding(r, n)
    options["rule"] = rule(r, operation)
    if r.random() < 0.1:  # long windows and many channels, where compilers vectorise and "auto" changes its rule
        n, size, window, batch, c = 2, (12, 11), r.choice(((9, 9), (3, 3))), (4,), 16
        rules = ("auto", "segment_sum") if RULED[operation] == "max_pool" else ("auto",)
        options |= {"strides": 1, "dilation": 1, "padding": r.choice(("VALID", "SAME")), "rule": r.choice(rules)}
    if r.random() < 0.3:
        options["strides"] = None
    elif r.random() < 0.6:
        options |= {"ceil_mode": True, "strides": each(r, n, lambda: r.choice((1, 2, 3, 3)))}
    if RULED[operation] == "max_pool":
        options["ties"] = r.choice(("row_major", "column_major"))
    if operation == "avg_pool":
        options["count_include_pad"] = r.random() < 0.5
    if operation == "lp_pool":
        options["p"] = r.choice((1, 1.5, 2, 2, 3, 200))
    return {"shapes": (joined(batch, size, c, options["layout"]),), "args": (window,), "options": options}


def adaptive(r: Random, operation: str) -> dict[str, Any]:
    n = r.choice((1, 2, 2, 3))
    size = tuple(r.randint(1, 7) for _ in range(n))
    layout = r.choice(("channels_last", "channels_first"))
    shapes = (joined(batch_axes(r), size, r.choice((1, 2, 16)), layout),)
    bins = tuple(tuple(r.randint(1, 5) for _ in range(n)) for _ in range(r.choice((1, 2, 3))))
    if operation != "spatial_pyramid_pool":
        return {"shapes": shapes, "args": bins[:1], "options": {"layout": layout}}
    return {"shapes": shapes, "args": (bins,), "options": {"layout": layout, "pool": r.choice(("max", "avg"))}}


def unpool(r: Random, operation: str) -> dict[str, Any]:
    n, layout = r.choice((1, 2, 2, 3)), r.choice(("channels_last", "channels_first"))
    size = tuple(r.randint(0 if r.random() < 0.05 else 1, 3) for _ in range(n))
    y = joined(batch_axes(r), size, r.choice((1, 2)), layout)
    return {"shapes": (y, y), "args": (tuple(r.randint(1, 4) for _ in range(n)),), "options": {"layout": layout}}


def patches(r: Random, operation: str) -> dict[str, Any]:
    n = r.choice((1, 2, 2, 3))
    size, window, options = sliding(r, n)
    options |= {"order": r.choice(("c", "matlab")), "rule": rule(r, operation)}
    batch, c = batch_axes(r), r.choice((1, 2, 3))
    x = joined(batch, size, c, options["layout"])
    if operation == "im2col":
        return {"shapes": (x,), "args": (window,), "options": options}
    cols = (*batch, c * prod(window), 1)  # as far as it does not follow
    return {"shapes": (cols,), "args": (x, window), "options": options}


def element_wise(r: Random, operation: str) -> dict[str, Any]:
    shape = r.choice(((), (3,), (7,), (2, 3), (0, 2), (2, 3, 2), (5, 9)))
    if operation == "flatten":
        return {"shapes": (shape or (2,),)}
    if operation == "leaky_relu":
        return {"shapes": (shape,), "args": (r.choice((0.01, 0.5, 0, -2.0, 1e5, 1e30)),)}
    return {"shapes": (shape, shape) if operation == "squared_error" else (shape,)}


def along_axis(r: Random, operation: str) -> dict[str, Any]:
    shape = r.choice(((3,), (1,), (2, 5), (3, 2, 4), (0, 3), (64, 16)))
    if operation == "softmax_cross_entropy":
        return {"shapes": (shape, r.choice((shape, shape[:-1])))}
    return {"shapes": (shape,), "options": {"axis": r.randrange(-len(shape), len(shape))}}


def layer(r: Random, operation: str) -> dict[str, Any]:
    i, o = r.choice((0, 1, 3, 5)), r.choice((1, 2, 4))
    return {"shapes": ((*batch_axes(r), i), (i, o), *(((o,),) * (r.random() < 0.5)))}


def broadcast(r: Random, operation: str) -> dict[str, Any]:
    shape = r.choice(((3,), (2, 3), (0, 2), (2, 3, 2), (5, 9)))
    of_slope = tuple(r.choice((1, s)) for s in shape)
    return {"shapes": (shape, of_slope[r.randint(0, len(shape)) :] if operation == "prelu" else of_slope)}


def normalised(r: Random, operation: str) -> dict[str, Any]:
    shape = r.choice(((3,), (2, 5), (3, 2, 4), (0, 3), (2, 3, 3)))
    axes = tuple(sorted(r.sample(range(len(shape)), r.randint(1, len(shape)))))
    of = tuple(shape[a] for a in axes)
    parameters = r.randint(0, 2 if operation == "layer_norm" else 1)
    return {"shapes": (shape, *[of] * parameters), "options": {"axes": axes, "epsilon": r.choice((1e-6, 0.5))}}


def resized(r: Random, operation: str) -> dict[str, Any]:
    n = r.choice((1, 2, 2, 3))
    shape, target = (tuple(r.choice((1, 2, 3, 5)) for _ in range(n)) for _ in range(2))
    method = r.choice(("linear", "linear", "nearest"))
    return {"shapes": (shape,), "args": (target, method), "options": {"antialias": r.random() < 0.5}}


def shuffled(r: Random, operation: str) -> dict[str, Any]:
    n, layout = r.choice((1, 2, 2, 3)), r.choice(("channels_last", "channels_first"))
    factor, small, c = (*(tuple(r.choice((1, 2, 3)) for _ in range(n)) for _ in range(2)), r.choice((1, 2)))
    large = tuple(s * f for s, f in zip(small, factor, strict=True))
    size, c = (small, c * prod(factor)) if operation == "pixel_shuffle" else (large, c)
    options = {"mode": r.choice(("CRD", "DCR")), "layout": layout}
    return {"shapes": (joined(batch_axes(r), size, c, layout),), "args": (factor,), "options": options}


def over_space(r: Random, operation: str) -> dict[str, Any]:
    layout, size = r.choice(("channels_last", "channels_first")), tuple(r.randint(1, 5) for _ in range(r.randint(1, 3)))
    return {
        "shapes": (joined((r.choice((0, 1, 2)),), size, r.choice((1, 2, 16)), layout),),
        "options": {"layout": layout},
    }


SUMS = ("softmax", "log_softmax", "softmax_cross_entropy")  # along an axis
DRAWS: dict[str, tuple[Callable[[Random, str], dict[str, Any]], int]] = {
    **dict.fromkeys(CONVS, (convolution, 4)),
    **dict.fromkeys(("max_pool", "avg_pool", "lp_pool"), (pool, 4)),
    "max_pool_with_indices": (pool, 2),
    **dict.fromkeys(("adaptive_max_pool", "adaptive_avg_pool", "spatial_pyramid_pool"), (adaptive, 2)),
    "max_unpool": (unpool, 2),
    **dict.fromkeys(("im2col", "col2im"), (patches, 2)),
    **dict.fromkeys(("relu", "leaky_relu", "sigmoid", "tanh", "squared_error", "flatten"), (element_wise, 1)),
    **dict.fromkeys((*ACTIVATIONS, *BENT), (element_wise, 1)),
    **dict.fromkeys(NORMS, (normalised, 2)),
    **dict.fromkeys(("gate", "prelu"), (broadcast, 1)),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), (shuffled, 1)),
    "resize": (resized, 2),
    "global_avg_pool": (over_space, 1),
    **dict.fromkeys(SUMS, (along_axis, 1)),
    "dense": (layer, 1),
}


def problem(r: Random, operations: Sequence[str] = (), devices: int = 1) -> Problem:
    names = operations or tuple(DRAWS)
    (operation,) = r.choices(names, [DRAWS[name][1] for name in names])
    drawn = DRAWS[operation][0](r, operation)
    shapes = drawn["shapes"]
    integer = operation in WITH_INTEGERS and r.random() < 0.2
    dtype = r.choice(INTEGERS) if integer else r.choices(FLOATS, (5, 2, 2, 2))[0]
    way = r.choice(WAYS)
    if way == "sharded" and (devices < 2 or not shapes[0] or shapes[0][0] % 2 or not shapes[0][0]):
        way = "remat"
    if way == "sharded" and operation in CONVS:  # spatial axes are not: XLA's partitioner errs where paddings are wide
        axes = len(drawn["args"][0]) if operation == "conv_weight_vjp" else len(shapes[1]) - 2
        way = way if len(shapes[0]) > axes + 1 else "remat"
    mapped = tuple(way in ("vmap", "scan") and r.random() < 0.6 for _ in shapes)
    if way in ("vmap", "scan") and not any(mapped):
        mapped = (True, *mapped[1:])
    orders = r.choice((1, 1, 2, 3))
    first = (
        way == "eager"
        or dtype in HALVES
        or operation in (*BENT, *NORMS)
        or (operation == "leaky_relu" and drawn["args"][0] > 1e6)
    )  # or overflow
    orders = 0 if integer else min(orders, 1) if first else orders
    drawn |= {"dtype": dtype, "way": way, "mapped": mapped, "orders": orders}
    return consistent(Problem(operation, **drawn, forward=r.random() < 0.5, seed=r.randrange(2**32)))
