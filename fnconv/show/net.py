"""`show.net`: well-known networks, layer by layer: shapes, parameters, work, receptive fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


class Maps(NamedTuple):
    """Feature maps: their size and number, what an entry sees of the image, the pixels between neighbours."""

    size: int
    channels: int
    field: int = 1
    step: int = 1

    def through(self, window: int, stride: int, padding: int, out: int) -> Maps:
        """What a window makes of them."""
        (a,) = window_axes((self.size,), (window,), stride, padding)
        return Maps(a.output, out, self.field + (window - 1) * self.step, self.step * stride)


@dataclass(frozen=True)
class LayerLine:
    """One layer: what comes out of it, its parameters, its multiply-adds."""

    name: str
    what: str
    maps: Maps
    parameters: int
    multiply_adds: int

    @property
    def output(self) -> tuple[int, ...]:
        return self.maps.size, self.maps.size, self.maps.channels

    def cells(self) -> tuple[str, ...]:
        numbers = f"{self.parameters:,}", _millions(self.multiply_adds), str(self.maps.field), str(self.maps.step)
        return self.name, self.what, shape_of(self.output), *numbers


def _lenet5() -> Iterator[AnyLayer]:
    yield from (Conv("c1", 6, 5, padding=2), Pool("s2", 2, 2, kind="avg"))
    yield from (Conv("c3", 16, 5), Pool("s4", 2, 2, kind="avg"))
    yield from (Conv("c5", 120, 5), Dense("f6", 84), Dense("output", 10))


def _alexnet() -> Iterator[AnyLayer]:
    yield from (Conv("conv1", 64, 11, 4, 2), Pool("pool1", 3, 2))
    yield from (Conv("conv2", 192, 5, padding=2), Pool("pool2", 3, 2))
    yield from (Conv(f"conv{n}", out, 3, padding=1) for n, out in ((3, 384), (4, 256), (5, 256)))
    yield from (Pool("pool5", 3, 2), Dense("fc6", 4096), Dense("fc7", 4096), Dense("fc8", 1000))


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
TRAINED = "As `fnconv train` trains it: C3 connected to every map of S2, pooling without coefficients of its own."
NETS: dict[Name, Net] = {
    "lenet5": Net("LeNet-5", 28, 1, tuple(_lenet5()), TRAINED),
    "alexnet": Net("AlexNet (the single-column variant)", 224, 3, tuple(_alexnet())),
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
    rows: list[tuple[str, ...]] = [
        ("input", "", shape_of((network.size, network.size, network.channels)), "", "", "1", "1")
    ]
    rows += [line.cells() for line in found]
    parameters, work = sum(x.parameters for x in found), sum(x.multiply_adds for x in found)
    blocks: list[Block] = [Prose(network.remark)] if network.remark else []
    heads = ("layer", "what", "output", "parameters", "10⁶ multiply-adds", "field", "step")
    blocks.append(Table(heads, tuple(rows)))
    flops = 2 * work
    unit, size = ("MFLOP", 1e6) if flops < 1e9 else ("GFLOP", 1e9)
    summary = f"{parameters:,} parameters, {_millions(work)} million multiply-adds ({flops / size:,.2f} {unit})"
    blocks.append(Prose(f"{summary} per image forward."))
    return Page(network.title, (Section("Layer by layer", tuple(blocks)), _how_to_read()))


def lines(network: Net) -> list[LayerLine]:
    """Every layer of a network, its sizes from `geometry`."""
    maps = last = entry = Maps(network.size, network.channels)  # of the network, the last layer, the residual block
    found = []
    for layer in network.layers:
        parameters = work = 0
        match layer:
            case Conv(_, out, window, stride, padding, bias, shortcut):
                before = entry if shortcut else maps
                last = before.through(window, stride, padding, out)
                maps = maps if shortcut else last
                weights = window * window * before.channels * out
                parameters, work = weights + (out if bias else 0), weights * last.size**2
                what = f"conv {window}×{window}" + (f", stride {stride}" if stride > 1 else "")
            case Pool(_, window, stride, padding, kind):
                maps = last = entry = maps.through(window, stride, padding, maps.channels)
                what = f"{kind} pool {window}×{window}" + (f", stride {stride}" if stride != window else "")
            case Dense(_, out):
                what, work = "dense", volume((maps.size, maps.size, maps.channels)) * out
                parameters = work + out
                # what sees all of its input sees all of the image that this was computed from
                maps = last = Maps(1, out, maps.field + (maps.size - 1) * maps.step, maps.step)
            case Norm():
                what, parameters = "batch norm", 2 * last.channels
            case Add():
                what, last, entry = "residual", maps, maps
        found.append(LayerLine(layer.name, what, last, parameters, work))
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
