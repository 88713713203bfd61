"""Six networks, each written once, as a function of the layers that it is made of.

A layer takes its parameters in the order of the calls; the same list therefore fits JAX's layers, fnconv's and
Torch's.  A small copy has an eighth of the widths and fewer blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Array = Any


class Layers(Protocol):
    """What networks are made of; spatial padding is that of an odd window unless it is given."""

    def block(
        self, x: Array, features: int, window: int, *, padding: int | None = None, pool: int | None = None
    ) -> Array:
        """Convolution + bias + ReLU, and max pooling where a window is given."""

    def conv(
        self,
        x: Array,
        features: int,
        window: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> Array: ...

    def dense(self, x: Array, features: int) -> Array: ...

    def batch_norm(self, x: Array) -> Array:
        """By the statistics of the batch, which no gradient is kept from."""

    def layer_norm(self, x: Array) -> Array:
        """Over the channels."""

    def scaled(self, x: Array) -> Array:
        """A factor for each channel."""

    def max_pool(self, x: Array, window: int, stride: int, padding: int) -> Array: ...

    def relu(self, x: Array) -> Array: ...

    def relu6(self, x: Array) -> Array: ...

    def gelu(self, x: Array) -> Array:
        """Its approximation by tanh."""

    def mean(self, x: Array) -> Array:
        """Over all positions: (N, C)."""

    def flatten(self, x: Array) -> Array:
        """(N, positions * C), channels last."""

    def channels(self, x: Array) -> int: ...


def lenet5(net: Layers, x: Array, small: bool = False) -> Array:
    """LeCun, Bottou, Bengio and Haffner, 1998, with ReLU and max pooling."""
    x = net.block(x, 6, 5, padding=2, pool=2)
    x = net.block(x, 16, 5, padding=0, pool=2)
    x = net.block(x, 15 if small else 120, 5, padding=0)
    x = net.relu(net.dense(net.flatten(x), 10 if small else 84))
    return net.dense(x, 10)


def vgg(net: Layers, x: Array, small: bool = False) -> Array:
    """Simonyan and Zisserman, 2015: pairs of 3x3 convolutions before every pooling; for small images."""
    for features in (8, 16) if small else (64, 128, 256):
        x = net.block(x, features, 3)
        x = net.block(x, features, 3, pool=2)
    x = net.relu(net.dense(net.flatten(x), features))
    return net.dense(x, 10)


def resnet18(net: Layers, x: Array, small: bool = False) -> Array:
    """He, Zhang, Ren and Sun, 2016: a stem, four stages of two basic blocks."""
    widths = (8, 16) if small else (64, 128, 256, 512)
    x = net.relu(net.batch_norm(net.conv(x, widths[0], 7, 2)))
    x = net.max_pool(x, 3, 2, 1)
    for stage, features in enumerate(widths):
        for stride in (2 if stage else 1, 1)[: 1 if small else 2]:
            y = net.relu(net.batch_norm(net.conv(x, features, 3, stride)))
            y = net.batch_norm(net.conv(y, features, 3))
            if stride > 1:
                x = net.batch_norm(net.conv(x, features, 1, stride))
            x = net.relu(x + y)
    return net.dense(net.mean(x), 10 if small else 1000)


def bottlenecks(net: Layers, x: Array, small: bool = False) -> Array:
    """The first stage of ResNet-50 and half of its second: 1x1, 3x3, 1x1, with a projection where the shape changes."""
    for features, stride in ((8, 1), (16, 2)) if small else ((64, 1), (64, 1), (64, 1), (128, 2), (128, 1)):
        y = net.relu(net.batch_norm(net.conv(x, features, 1)))
        y = net.relu(net.batch_norm(net.conv(y, features, 3, stride)))
        y = net.batch_norm(net.conv(y, 4 * features, 1))
        if net.channels(x) != 4 * features:
            x = net.batch_norm(net.conv(x, 4 * features, 1, stride))
        x = net.relu(x + y)
    return net.dense(net.mean(x), 10)


def mobilenet(net: Layers, x: Array, small: bool = False) -> Array:
    """Sandler, Howard, Zhu, Zhmoginov and Chen, 2018: inverted residuals around a depthwise convolution."""
    blocks = ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1))
    x = net.relu6(net.batch_norm(net.conv(x, 4 if small else 32, 3, 2)))
    for number, (features, stride) in enumerate(((4, 2), (4, 1)) if small else blocks):
        inside = 6 * net.channels(x) if number else net.channels(x)
        y = x
        if inside != net.channels(x):
            y = net.relu6(net.batch_norm(net.conv(x, inside, 1)))
        y = net.relu6(net.batch_norm(net.conv(y, inside, 3, stride, groups=inside)))
        y = net.batch_norm(net.conv(y, features, 1))
        x = x + y if stride == 1 and net.channels(x) == features else y
    x = net.relu6(net.batch_norm(net.conv(x, 16 if small else 640, 1)))
    return net.dense(net.mean(x), 10 if small else 100)


def convnext(net: Layers, x: Array, small: bool = False) -> Array:
    """Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, 2022: two stages of blocks with a 7x7 depthwise convolution."""
    for stage, features in enumerate((8, 16) if small else (96, 192)):
        if stage:
            x = net.conv(net.layer_norm(x), features, 2, 2, padding=0, bias=True)
        else:
            x = net.layer_norm(net.conv(x, features, 4, 4, padding=0, bias=True))
        for _ in range(1 if small else 3):
            y = net.layer_norm(net.conv(x, features, 7, groups=features, bias=True))
            y = net.gelu(net.conv(y, 4 * features, 1, bias=True))
            x = x + net.scaled(net.conv(y, features, 1, bias=True))
    return net.dense(net.layer_norm(net.mean(x)), 10 if small else 100)


@dataclass(frozen=True)
class Network:
    """A network, the shape of its input, and that of its small copy."""

    name: str
    build: Callable[[Layers, Array, bool], Array]
    shape: tuple[int, int, int, int]
    small: tuple[int, int, int, int]


NETWORKS: tuple[Network, ...] = (
    Network("LeNet-5", lenet5, (64, 28, 28, 1), (2, 28, 28, 1)),
    Network("VGG-like", vgg, (32, 32, 32, 3), (2, 8, 8, 3)),
    Network("ResNet-18", resnet18, (8, 112, 112, 3), (2, 32, 32, 3)),
    Network("ResNet-50 bottlenecks", bottlenecks, (4, 56, 56, 64), (2, 8, 8, 4)),
    Network("MobileNetV2-like", mobilenet, (8, 96, 96, 3), (2, 16, 16, 3)),
    Network("ConvNeXt-like", convnext, (8, 112, 112, 3), (2, 16, 16, 3)),
)


def fan_in(shape: tuple[int, ...]) -> int:
    """How many products one output of a kernel adds."""
    return math.prod(shape[:-1])
