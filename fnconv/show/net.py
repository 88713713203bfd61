"""`show.net`: well-known networks, layer by layer: shapes, parameters, work, receptive fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fnconv.base.errors import invalid
from fnconv.base.geometry import volume, window_axes
from fnconv.show.blocks import Block, Formula, Prose, Section, Table
from fnconv.show.page import Page
from fnconv.show.tensors import shape_of


@dataclass(frozen=True)
class Conv:
    name: str
    out: int
    window: int
    stride: int = 1
    padding: int = 0
    bias: bool = True
    shortcut: bool = False  # beside the layers since the last `Add`, from the same input


@dataclass(frozen=True)
class Pool:
    name: str
    window: int
    stride: int
    padding: int = 0
    kind: str = "max"


@dataclass(frozen=True)
class Dense:
    name: str
    out: int


@dataclass(frozen=True)
class Norm:
    """Batch normalisation: a scale and a shift for every channel."""

    name: str


@dataclass(frozen=True)
class Add:
    """The end of a residual block."""

    name: str


AnyLayer = Conv | Pool | Dense | Norm | Add


@dataclass(frozen=True)
class Net:
    title: str
    size: int
    channels: int
    layers: tuple[AnyLayer, ...]
    remark: str = ""


@dataclass(frozen=True)
class Line:
    """One layer: what comes out of it, its parameters, its multiply-adds, what it sees of the image."""

    name: str
    what: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    field: int
    step: int


def _vgg16() -> Iterator[AnyLayer]:
    for block, (convs, out) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
        for n in range(1, convs + 1):
            yield Conv(f"conv{block}_{n}", out, 3, padding=1)
        yield Pool(f"pool{block}", 2, 2)
    yield from (Dense("fc6", 4096), Dense("fc7", 4096), Dense("fc8", 1000))


def _resnet18() -> Iterator[AnyLayer]:
    yield from (Conv("conv1", 64, 7, 2, 3, bias=False), Norm("bn1"), Pool("pool1", 3, 2, 1))
    for stage, out in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            stride, name = 2 if stage > 1 and block == 1 else 1, f"layer{stage}.{block}"
            if stride == 2:
                yield Conv(f"{name}.shortcut", out, 1, 2, bias=False, shortcut=True)
                yield Norm(f"{name}.bn0")
            yield from (Conv(f"{name}.conv1", out, 3, stride, 1, bias=False), Norm(f"{name}.bn1"))
            yield from (Conv(f"{name}.conv2", out, 3, 1, 1, bias=False), Norm(f"{name}.bn2"), Add(f"{name}.add"))
    yield from (Pool("avgpool", 7, 1, kind="avg"), Dense("fc", 1000))


Name = Literal["lenet5", "alexnet", "vgg16", "resnet18"]
NETS: dict[Name, Net] = {
    "lenet5": Net(
        "LeNet-5",
        28,
        1,
        (
            Conv("c1", 6, 5, padding=2),
            Pool("s2", 2, 2, kind="avg"),
            Conv("c3", 16, 5),
            Pool("s4", 2, 2, kind="avg"),
            Conv("c5", 120, 5),
            Dense("f6", 84),
            Dense("output", 10),
        ),
        "As `fnconv train` trains it: C3 connected to every map of S2, pooling without coefficients of its own.",
    ),
    "alexnet": Net(
        "AlexNet (the single-column variant)",
        224,
        3,
        (
            Conv("conv1", 64, 11, 4, 2),
            Pool("pool1", 3, 2),
            Conv("conv2", 192, 5, padding=2),
            Pool("pool2", 3, 2),
            Conv("conv3", 384, 3, padding=1),
            Conv("conv4", 256, 3, padding=1),
            Conv("conv5", 256, 3, padding=1),
            Pool("pool5", 3, 2),
            Dense("fc6", 4096),
            Dense("fc7", 4096),
            Dense("fc8", 1000),
        ),
    ),
    "vgg16": Net("VGG-16", 224, 3, tuple(_vgg16())),
    "resnet18": Net("ResNet-18", 224, 3, tuple(_resnet18())),
}


def net(name: Name) -> Page:
    """A known network as a table: output shapes, parameters, work and receptive field of every layer.

    Args:
      name: "lenet5", "alexnet", "vgg16" or "resnet18".

    Returns:
      a `Page`.

    Raises:
      ValueError: for another name.

    >>> print(net("lenet5").sections[0].blocks[-1].text)
    61,706 parameters, 0.42 million multiply-adds (0.83 MFLOP) per image forward.
    """
    if name not in NETS:
        raise invalid("show.net", "name", f"must be one of {', '.join(NETS)}", repr(name))
    network, found = NETS[name], lines(NETS[name])
    rows = [("input", "", shape_of((network.size, network.size, network.channels)), "", "", "1", "1")]
    rows += [
        (x.name, x.what, shape_of(x.output), f"{x.parameters:,}", _millions(x.multiply_adds), str(x.field), str(x.step))
        for x in found
    ]
    parameters, work = sum(x.parameters for x in found), sum(x.multiply_adds for x in found)
    blocks: list[Block] = [Prose(network.remark)] if network.remark else []
    heads = ("layer", "what", "output", "parameters", "10⁶ multiply-adds", "field", "step")
    blocks.append(Table(heads, tuple(rows)))
    flops = 2 * work
    unit, size = ("MFLOP", 1e6) if flops < 1e9 else ("GFLOP", 1e9)
    summary = f"{parameters:,} parameters, {_millions(work)} million multiply-adds ({flops / size:,.2f} {unit})"
    blocks.append(Prose(f"{summary} per image forward."))
    return Page(network.title, (Section("Layer by layer", tuple(blocks)), _how_to_read()))


def lines(network: Net) -> list[Line]:
    """Every layer of a network, its sizes from `geometry`."""
    size, channels, field, step = network.size, network.channels, 1, 1
    entry = (size, channels, field, step)  # of the current residual block
    found = []
    for layer in network.layers:
        parameters = work = 0
        match layer:
            case Conv(_, out, window, stride, padding, bias, shortcut):
                before = entry if shortcut else (size, channels, field, step)
                s, c, f, j = before
                (a,) = window_axes((s,), (window,), stride, padding)
                parameters = window * window * c * out + (out if bias else 0)
                work = window * window * c * out * a.output**2
                after = (a.output, out, f + (window - 1) * j, j * stride)
                what = f"conv {window}×{window}" + (f", stride {stride}" if stride > 1 else "")
                if shortcut:
                    found.append(Line(layer.name, what, (after[0],) * 2 + (out,), parameters, work, *after[2:]))
                    continue
                size, channels, field, step = after
            case Pool(_, window, stride, padding, kind):
                (a,) = window_axes((size,), (window,), stride, padding)
                size, field, step = a.output, field + (window - 1) * step, step * stride
                what = f"{kind} pool {window}×{window}" + (f", stride {stride}" if stride != window else "")
            case Dense(_, out):
                inputs = volume((size, size, channels))
                parameters, work = inputs * out + out, inputs * out
                # what sees all of its input sees all of the image that this was computed from
                size, channels, field = 1, out, field + (size - 1) * step
                what = "dense"
            case Norm():
                width = found[-1].output[-1]
                parameters, what = 2 * width, "batch norm"
                found.append(Line(layer.name, what, found[-1].output, parameters, 0, found[-1].field, found[-1].step))
                continue
            case Add():
                what, entry = "residual", (size, channels, field, step)
        if isinstance(layer, Pool):
            entry = (size, channels, field, step)
        found.append(Line(layer.name, what, (size, size, channels), parameters, work, field, step))
    return found


def _millions(n: int) -> str:
    return f"{n / 1e6:,.2f}" if n else ""


def _how_to_read() -> Section:
    return Section(
        "How the columns are found",
        (
            Formula(
                "parameters = k·k·c·c' + c',  multiply-adds = k·k·c·c'·(output positions);  1 multiply-add = 2 FLOP",
                r"\text{parameters} = k^2 c\,c' + c', \qquad \text{multiply-adds} = k^2 c\,c' \cdot H' W'",
            ),
            Formula(
                "field' = field + (k - 1)·step,  step' = step·stride",
                r"f' = f + (k - 1)\, j, \qquad j' = j \cdot \text{stride}",
            ),
            Prose(
                "c and c' are the channels before and behind, k the window.  The (receptive) field is how many pixels "
                "of the image, in one direction, an output depends on; a step is how many pixels lie between two "
                "neighbouring outputs."
            ),
        ),
    )
