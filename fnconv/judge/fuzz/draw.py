"""What is drawn: an operation, its geometry and options, a dtype, a rule, a transformation; then data for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, nan, prod
from random import Random
from typing import Any

import numpy as np

from fnconv.judge.fuzz.definition import Array, Undefined, all_windows, shaped, tuples
from fnconv.rules.available import available_rules

COPIES = 2  # of what is mapped over
FLOATS = ("float32", "float16", "bfloat16", "float64")
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
    "flatten",
)


@dataclass(frozen=True)
class Problem:
    """One program: everything but the data."""

    operation: str
    shapes: tuple[tuple[int, ...], ...]
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    way: str = "jit"
    mapped: tuple[bool, ...] = ()  # which operands vmap and scan run over
    orders: int = 1  # 0 .. orders are judged
    forward: bool = False  # the second derivative by forward over reverse
    index: int | None = None  # the operand that holds integers below `below`
    below: int = 0
    data_seed: int = 0

    @property
    def rule(self) -> str:
        rule = self.options.get("rule", "-" if self.operation not in RULED else "auto")
        return rule if isinstance(rule, str) else "mixed"

    @property
    def rules(self) -> tuple[str, ...]:
        rule = self.options.get("rule", "auto")
        return (rule,) if isinstance(rule, str) else tuple(rule.values())

    @property
    def integer(self) -> bool:
        return "int" in self.dtype

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Problem:
        frozen = {name: frozen_(value) for name, value in entry.items()}
        return cls(**frozen)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))


def frozen_(value: Any) -> Any:
    """Lists of JSON as tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(frozen_, value))
    return {k: frozen_(v) for k, v in value.items()} if isinstance(value, dict) else value


# ---- geometry -------------------------------------------------------------------------------------------------------


def per_axis(r: Random, n: int, draw: Callable[[], int]) -> Any:
    values = tuple(draw() for _ in range(n))
    return values[0] if len(set(values)) == 1 and r.random() < 0.5 else values


def batch_axes(r: Random) -> tuple[int, ...]:
    return r.choice(((1,), (2,), (2,), (3,), (), (2, 1), (1, 2, 2), (0,)))


def padding(r: Random, n: int, named: bool = True) -> Any:
    kind = r.random()
    if kind < 0.3:
        return "VALID"
    if kind < 0.55 and named:
        return r.choice(("SAME", "SAME_LOWER", "FULL", "INPUT_SIZE"))
    if kind < 0.65:
        return r.choice((0, 1, 2))
    return tuple((r.choice((0, 1, 2, 3, -1)), r.choice((0, 1, 2, 0, -1))) for _ in range(n))


def window(r: Random, n: int) -> dict[str, Any]:
    """Spatial axes, sizes, and the options of a sliding window."""
    longest = {1: 9, 2: 6, 3: 4, 4: 3}[n]
    size = [r.randint(1, longest) for _ in range(n)]
    if r.random() < 0.04:
        size[r.randrange(n)] = 0
    return {
        "size": tuple(size),
        "window": tuple(r.choice((1, 2, 2, 3, 3, 4 if n < 3 else 2)) for _ in range(n)),
        "strides": per_axis(r, n, lambda: r.choice((1, 1, 2, 3))),
        "dilation": per_axis(r, n, lambda: r.choice((1, 1, 1, 2))),
        "padding": padding(r, n),
        "layout": r.choice(("channels_last", "channels_last", "channels_first")),
    }


def outputs(g: Mapping[str, Any], ceil: bool = False) -> tuple[int, ...]:
    rest = (g["window"], g["strides"], g["padding"], g["dilation"], ceil)
    try:
        return tuple(len(ws) for ws in all_windows(g["size"], *rest))
    except Undefined:  # the library refuses it whatever the shapes
        return (1,) * len(g["size"])


def rule(r: Random, operation: str) -> Any:
    """One rule for all maps, one for each, or "auto"."""
    maps = available_rules()[RULED[operation]]
    if r.random() < 0.25:
        return "auto"
    if r.random() < 0.7:
        return r.choice(maps["forward"])
    return {m: r.choice(("auto", *names)) for m, names in maps.items()}


def kernel_shape(w: Sequence[int], c: int, d: int, layout: str) -> tuple[int, ...]:
    return (d, c, *w) if layout == "channels_first" else (*w, c, d)


def convolution(r: Random, operation: str) -> dict[str, Any]:
    n = r.choice((1, 1, 2, 2, 2, 3, 4))
    g, batch = window(r, n), batch_axes(r)
    groups, c, d = r.choice(((1, 1, 1), (1, 2, 3), (1, 3, 2), (2, 1, 1), (2, 2, 1), (3, 1, 2), (2, 1, 3), (1, 4, 4)))
    wide = r.random() < 0.02
    if wide:  # where "auto" takes the rules that pay for many channels
        g |= {"size": (10, 9), "window": (3, 3), "strides": 1, "dilation": 1, "padding": "VALID"}
        groups, c, d, batch, n = 1, 32, 32, (1,), 2
    options = {name: g[name] for name in ("strides", "padding", "dilation", "layout")} | {"groups": groups}
    x = shaped(batch, g["size"], c * groups, g["layout"])
    w = kernel_shape(g["window"], c, d * groups, g["layout"])
    y = shaped(batch, outputs(g), d * groups, g["layout"])
    options["rule"] = "auto" if wide else rule(r, operation)
    if r.random() < 0.3:  # then "auto" is right component by component
        options["precision"] = r.choice(("high", "highest"))
    bias = ((d * groups,),) if r.random() < 0.3 else ()
    match operation:
        case "conv_input_vjp":
            return {"shapes": (y, w), "args": (x,), "options": options}
        case "conv_weight_vjp":
            return {"shapes": (x, y), "args": (g["window"],), "options": options}
        case "conv_transpose":
            if not isinstance(options["padding"], str):
                options["padding"] = tuple((r.choice((0, 1, -1)), r.choice((0, 1))) for _ in range(n))
                steps = zip(tuples(g["strides"], n), tuples(g["dilation"], n), strict=True)
                options["output_padding"] = tuple(r.randrange(max(s, e)) for s, e in steps)
            x = shaped(batch, tuple(min(s, 4) for s in g["size"]), d * groups, g["layout"])
            return {"shapes": (x, w, *(((c * groups,),) if bias else ())), "options": options}
        case "conv_block":
            options["activation"] = r.choice(("relu", None))
            pool = window(r, n)
            o = outputs(g)
            named: dict[str, Any] = {
                "window_shape": tuple(min(k, max(s, 1)) for k, s in zip(pool["window"], o, strict=True))
            }
            named |= {"strides": (None, 1, 2)[r.randrange(3)], "ceil_mode": r.random() < 0.3}
            options["pool"] = named if r.random() < 0.8 else None
    return {"shapes": (x, w, *bias), "options": options}


def pool(r: Random, operation: str) -> dict[str, Any]:
    n = r.choice((1, 1, 2, 2, 2, 3, 4))
    g, batch, c = window(r, n), batch_axes(r), r.choice((1, 2, 3))
    if r.random() < 0.06:  # long windows and many channels, where compilers vectorise and "auto" changes its rule
        g |= {"size": (12, 11), "window": (9, 9), "strides": 1, "dilation": 1, "padding": r.choice(("VALID", "SAME"))}
        batch, c, n = (2,), 16, 2
    options = {name: g[name] for name in ("strides", "padding", "layout")}
    if r.random() < 0.3:
        options["strides"] = None
    if r.random() < 0.5:
        options["dilation"] = g["dilation"]
    if r.random() < 0.4:
        options["ceil_mode"] = True
    options["rule"] = rule(r, operation)
    if RULED[operation] == "max_pool":
        options["ties"] = r.choice(("row_major", "column_major"))
    if operation == "avg_pool":
        options["count_include_pad"] = r.random() < 0.5
    if operation == "lp_pool":
        options["p"] = r.choice((1, 1.5, 2, 2, 3, 200))
    return {"shapes": (shaped(batch, g["size"], c, g["layout"]),), "args": (g["window"],), "options": options}


def adaptive(r: Random, operation: str) -> dict[str, Any]:
    n = r.choice((1, 2, 2, 3))
    size = tuple(r.randint(1, 7) for _ in range(n))
    layout, batch = r.choice(("channels_last", "channels_first")), batch_axes(r)
    c = r.choice((1, 2, 16))
    shapes = (shaped(batch, size, c, layout),)
    bins = [tuple(r.randint(1, 5) for _ in range(n)) for _ in range(r.choice((1, 2, 3)))]
    if operation != "spatial_pyramid_pool":
        return {"shapes": shapes, "args": (bins[0],), "options": {"layout": layout}}
    return {"shapes": shapes, "args": (tuple(bins),), "options": {"layout": layout, "pool": r.choice(("max", "avg"))}}


def unpool(r: Random, operation: str) -> dict[str, Any]:
    n, batch, layout = r.choice((1, 2, 2, 3)), batch_axes(r), r.choice(("channels_last", "channels_first"))
    y = shaped(batch, tuple(r.randint(0 if r.random() < 0.05 else 1, 3) for _ in range(n)), r.choice((1, 2)), layout)
    output = tuple(r.randint(1, 4) for _ in range(n))
    return {"shapes": (y, y), "args": (output,), "options": {"layout": layout}, "index": 1, "below": prod(output)}


def patches(r: Random, operation: str) -> dict[str, Any]:
    n = r.choice((1, 2, 2, 3))
    g, batch, c = window(r, n), batch_axes(r), r.choice((1, 2, 3))
    options = {name: g[name] for name in ("strides", "padding", "dilation", "layout")}
    options |= {"order": r.choice(("c", "matlab")), "rule": rule(r, operation)}
    x = shaped(batch, g["size"], c, g["layout"])
    if operation == "im2col":
        return {"shapes": (x,), "args": (g["window"],), "options": options}
    cols = (*batch, c * prod(g["window"]), prod(outputs(g)))
    return {"shapes": (cols,), "args": (x, g["window"]), "options": options}


def element_wise(r: Random, operation: str) -> dict[str, Any]:
    shape = r.choice(((), (3,), (7,), (2, 3), (0, 2), (2, 3, 2), (5, 9)))
    if operation == "flatten":
        return {"shapes": (shape or (2,),)}
    if operation == "leaky_relu":
        return {"shapes": (shape,), "args": (r.choice((0.01, 0.5, 0, -2.0, 1e5, 1e30)),)}
    return {"shapes": (shape, shape) if operation == "squared_error" else (shape,)}


def along_axis(r: Random, operation: str) -> dict[str, Any]:
    shape = r.choice(((3,), (1,), (2, 5), (3, 2, 4), (0, 3), (64, 16)))
    if operation != "softmax_cross_entropy":
        return {"shapes": (shape,), "options": {"axis": r.randrange(-len(shape), len(shape))}}
    if r.random() < 0.5:
        return {"shapes": (shape, shape)}
    return {"shapes": (shape, shape[:-1]), "index": 1, "below": shape[-1]}


def layer(r: Random, operation: str) -> dict[str, Any]:
    i, o = r.choice((0, 1, 3, 5)), r.choice((1, 2, 4))
    return {"shapes": ((*batch_axes(r), i), (i, o), *(((o,),) if r.random() < 0.5 else ()))}


DRAWS: dict[str, tuple[Callable[[Random, str], dict[str, Any]], int]] = {
    **dict.fromkeys(CONVS, (convolution, 4)),
    **dict.fromkeys(("max_pool", "avg_pool", "lp_pool"), (pool, 4)),
    "max_pool_with_indices": (pool, 2),
    **dict.fromkeys(("adaptive_max_pool", "adaptive_avg_pool", "spatial_pyramid_pool"), (adaptive, 2)),
    "max_unpool": (unpool, 2),
    **dict.fromkeys(("im2col", "col2im"), (patches, 2)),
    **dict.fromkeys(("relu", "leaky_relu", "sigmoid", "tanh", "squared_error", "flatten"), (element_wise, 1)),
    **dict.fromkeys(("softmax", "log_softmax", "softmax_cross_entropy"), (along_axis, 1)),
    "dense": (layer, 1),
}


def problem(r: Random, operations: Sequence[str] = (), devices: int = 1) -> Problem:
    names = operations or tuple(DRAWS)
    (operation,) = r.choices(names, [DRAWS[name][1] for name in names])
    drawn = DRAWS[operation][0](r, operation)
    shapes = drawn["shapes"]
    integers = operation in WITH_INTEGERS and r.random() < 0.2
    way = r.choice(WAYS)
    mapped: tuple[bool, ...] = ()
    if way in ("vmap", "scan"):
        mapped = tuple(r.random() < 0.6 for _ in shapes)
        mapped = mapped if any(mapped) else (True, *mapped[1:])
    if way == "sharded" and (devices < 2 or not shapes[0] or shapes[0][0] % 2 or not shapes[0][0]):
        way = "remat"
    return Problem(
        operation,
        shapes,
        drawn.get("args", ()),
        drawn.get("options", {}),
        dtype=r.choice(INTEGERS) if integers else r.choices(FLOATS, (5, 2, 2, 2))[0],
        way=way,
        mapped=mapped,
        orders=0 if integers else 1 if way == "eager" else r.choice((1, 1, 2, 3)),
        forward=r.random() < 0.5,
        index=drawn.get("index"),
        below=drawn.get("below", 0),
        data_seed=r.randrange(2**32),
    )


# ---- data -----------------------------------------------------------------------------------------------------------

Data = dict[str, Any]  # kind, target, operands, directions, c, dy


def kinds(p: Problem) -> tuple[str, ...]:
    if p.integer:
        return ("integers", "wrapping", "wrapping")
    found = ["integers", "integers", "ties"]
    if p.operation == "conv_block":
        return (*found, "integers")
    found += ["normal", "normal", "scales"]
    if not set(p.rules) & set(DENSE) and p.options.get("p") != 200:
        found += ["special", "special", "mask"]
    if p.operation not in (*CONVS, "dense", "squared_error"):
        found += ["denormal"] * (p.operation != "max_pool_with_indices")  # which CPUs take for equal, as zeros
        if "avg" not in p.operation and p.options.get("pool") != "avg":  # the sum may overflow
            found.append("largest")
    return tuple(found)


def highest_order(p: Problem, kind: str) -> int:
    """The order up to which the data are judged: powers of extremes overflow, and a norm has no curvature at 0."""
    if kind == "normal" or (kind in ("integers", "ties") and p.operation != "lp_pool"):
        return 3
    return 0 if kind == "denormal" else 1


def array(r: np.random.Generator, kind: str, shape: Sequence[int], p: Problem, factor: int) -> Array:
    """One operand as float64, or int64 for integers; not yet rounded to the dtype."""
    import jax.numpy as jnp

    half = p.dtype in ("float16", "bfloat16")
    if p.integer:
        info = np.iinfo(p.dtype)
        low, high = (max(info.min, -3), 4) if kind == "integers" else (info.min, info.max + 1)
        return r.integers(low, high, shape, dtype=np.int64)
    few = 2 if half else 4
    small = (r.integers(-few, few + 1, shape) * factor).astype(np.float64)
    top = float(jnp.finfo(p.dtype).max)  # type: ignore[no-untyped-call]
    normal = r.choice((-1, 1), shape) * np.exp(r.normal(0, 0.7, shape))
    match kind:
        case "integers":
            return small
        case "ties":
            return np.sign(small) * factor
        case "normal":
            return normal
        case "scales":
            return normal * 10.0 ** r.uniform(-2 if half else -4, 2 if half else 4, shape)
        case "special":
            chosen = r.choice((nan, inf, -inf), shape)
            return np.where(r.random(shape) < r.choice((0.1, 0.3, 0.6)), chosen, small)
        case "mask":
            return np.where(r.random(shape) < r.choice((0.3, 0.8, 1.0)), -inf, small)
        case "largest":
            cells = prod(p.args[0]) if p.operation == "lp_pool" else 1  # so that no norm overflows
            return np.asarray(r.choice((-1, 1), shape) * top / cells * r.uniform(0.1, 0.99, shape))
        case "denormal":
            return normal * float(jnp.finfo(p.dtype).smallest_normal) * r.choice((0.3, 2.0), shape)  # type: ignore
    raise ValueError(f"no data of kind {kind}")


def data(p: Problem, number: int, factor: int = 1) -> Data:
    """Operands, directions, weights of the loss and a cotangent, as the numbers that the dtype holds."""
    r = np.random.default_rng((p.data_seed, number))
    choices = kinds(p)
    kind = choices[number] if number < len(choices) else choices[int(r.integers(len(choices)))]
    shapes = [(COPIES, *s) if m else s for s, m in zip(p.shapes, p.mapped or (False,) * len(p.shapes), strict=True)]
    floats = [a for a in range(len(shapes)) if a != p.index]
    places = [*floats, "dy"]
    # one operand is extreme, the others are plain; scales are everywhere
    target = places[int(r.integers(len(places)))] if kind in ("special", "mask", "largest", "denormal") else None
    along = DRAWS[p.operation][0] is along_axis and kind == "largest"  # sums of huge cotangents or labels overflow
    if kind in ("mask", "denormal") or along or (target != "dy" and p.operation in CONVS):
        target = 0 if p.operation != "conv_input_vjp" else target

    def draw(place: Any, shape: Sequence[int]) -> Array:
        if place == p.index:
            return np.array(r.integers(-2, p.below + 2, shape))
        plain = kind if target is None or place == target else "integers"
        return held(array(r, plain, shape, p, factor), p.dtype)

    operands = [draw(a, s) for a, s in enumerate(shapes)]
    moving = "normal" if kind == "normal" else "integers"
    directions = [
        np.zeros(s) if a == p.index else held(array(r, moving, s, p, factor), p.dtype) for a, s in enumerate(shapes)
    ]
    return {"kind": kind, "target": target, "operands": operands, "directions": directions, "draw": draw}


def held(values: Array, dtype: str) -> Array:
    """The numbers of the dtype nearest to these, as float64."""
    values = np.array(values)  # an array without axes, no scalar
    if "int" in dtype:
        return values
    import jax.numpy as jnp

    with np.errstate(all="ignore"):
        return np.array(values.astype(jnp.dtype(dtype)).astype(np.float64))
