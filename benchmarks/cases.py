"""What is measured, as data: convolutions and pools, with the shapes of well-known networks.

`tags` say to which group of the summary a case belongs: "51" are the seventeen layers whose three maps have been
measured since the first experiments; the others were added where a different cause of slowness was expected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MAPS = ("fwd", "dW", "dX")
DIRECTIONS = ("bwd", "fwd+bwd")


@dataclass(frozen=True)
class Layer:
    """One convolution: batch x size x channels[0] -> channels[1]; of a transposed one the size that goes in."""

    name: str
    batch: int
    size: tuple[int, ...]
    channels: tuple[int, int]
    window: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    dtype: str = "float32"
    tags: frozenset[str] = frozenset()

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.size, self.channels[0])

    @property
    def w_shape(self) -> tuple[int, ...]:
        """That of the convolution, which for a transposed one maps channels[1] to channels[0]."""
        c, d = self.channels[::-1] if self.transposed else self.channels
        return (*self.window, c // self.groups, d)

    def tiny(self) -> Layer:
        """The same kind of layer on a few cells and channels."""
        size = tuple(min(s, k * self.dilation + self.stride + 2) for s, k in zip(self.size, self.window, strict=True))
        groups = min(self.groups, 4)
        c, d = (min(4, max(1, n // self.groups)) * groups for n in self.channels)
        return replace(self, batch=2, size=size, channels=(c, d), groups=groups)


@dataclass(frozen=True)
class Pool:
    """One pooling, "max" or "avg", of batch x size x channels."""

    name: str
    kind: str
    batch: int
    size: tuple[int, ...]
    channels: int
    window: int
    stride: int
    padding: int = 0
    tags: frozenset[str] = frozenset()

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.size, self.channels)

    def tiny(self) -> Pool:
        """The same kind of pooling on a few cells and channels."""
        return replace(self, batch=2, size=tuple(self.window + 2 * self.stride for _ in self.size), channels=3)


def _layer(
    name: str,
    n: int,
    size: int,
    c: int,
    d: int,
    k: int,
    s: int = 1,
    p: int = 0,
    *tags: str,
    axes: int = 2,
    **options: int,
) -> Layer:
    return Layer(name, n, (size,) * axes, (c, d), (k,) * axes, s, p, tags=frozenset(tags), **options)  # type: ignore[arg-type]


LAYERS: tuple[Layer, ...] = (
    _layer("LeNet conv1 1-6 5x5", 64, 28, 1, 6, 5, 1, 2, "51"),
    _layer("LeNet conv2 6-16 5x5", 64, 14, 6, 16, 5, 1, 0, "51"),
    _layer("3-64 3x3 @32", 32, 32, 3, 64, 3, 1, 1, "51"),
    _layer("64-64 3x3 @32", 32, 32, 64, 64, 3, 1, 1, "51"),
    _layer("128-128 3x3 @16", 32, 16, 128, 128, 3, 1, 1, "51"),
    _layer("256-256 3x3 @8", 32, 8, 256, 256, 3, 1, 1, "51"),
    _layer("512-512 3x3 @8", 32, 8, 512, 512, 3, 1, 1, "51"),
    _layer("512-512 3x3 @4", 32, 4, 512, 512, 3, 1, 1, "51"),
    _layer("64-256 1x1 @56", 8, 56, 64, 256, 1, 1, 0, "51"),
    _layer("256-64 1x1 @56", 8, 56, 256, 64, 1, 1, 0, "51"),
    _layer("256-512 1x1 /2 @56", 8, 56, 256, 512, 1, 2, 0, "51"),
    _layer("128-128 3x3 /2 @56", 8, 56, 128, 128, 3, 2, 1, "51"),
    _layer("stem 3-64 7x7 /2 @224", 8, 224, 3, 64, 7, 2, 3, "51"),
    _layer("depthwise 128 3x3 @56", 8, 56, 128, 128, 3, 1, 1, "51", "depthwise", groups=128),
    _layer("depthwise 128 3x3 /2 @56", 8, 56, 128, 128, 3, 2, 1, "51", "depthwise", groups=128),
    _layer("1-D 64-64 k5 @1024", 16, 1024, 64, 64, 5, 1, 2, "51", axes=1),
    _layer("dilated 64-64 3x3 :2 @32", 16, 32, 64, 64, 3, 1, 2, "51", dilation=2),
    _layer("depthwise 192 5x5 @28", 8, 28, 192, 192, 5, 1, 2, "depthwise", groups=192),
    _layer("depthwise 96 7x7 @56", 8, 56, 96, 96, 7, 1, 3, "depthwise", groups=96),
    _layer("depthwise 32 x2 3x3 @28", 4, 28, 32, 64, 3, 1, 1, "multiplier", groups=32),
    _layer("2 groups 128 3x3 @28", 8, 28, 128, 128, 3, 1, 1, "grouped", groups=2),
    _layer("4 groups 128 3x3 @28", 8, 28, 128, 128, 3, 1, 1, "grouped", groups=4),
    _layer("32 groups 128 3x3 @28", 8, 28, 128, 128, 3, 1, 1, "grouped", groups=32),
    _layer("2 groups 128 3x3 /2 @28", 8, 28, 128, 128, 3, 2, 1, "grouped", groups=2),
    _layer("4 groups 128 3x3 /2 @28", 8, 28, 128, 128, 3, 2, 1, "grouped", groups=4),
    _layer("32 groups 128 3x3 /2 @28", 8, 28, 128, 128, 3, 2, 1, "grouped", groups=32),
    _layer("1-D 16-32 k9 /4 @4096", 8, 4096, 16, 32, 9, 4, 4, "other", axes=1),
    _layer("3-D 16-32 3x3x3 @16", 4, 16, 16, 32, 3, 1, 1, "other", axes=3),
    _layer("dilated 128-128 3x3 :4 @28", 8, 28, 128, 128, 3, 1, 4, "other", dilation=4),
    _layer("transposed 128-64 2x2 /2 @28", 8, 28, 128, 64, 2, 2, 0, "other", transposed=True),
    _layer("transposed 256-128 4x4 /2 @8", 16, 8, 256, 128, 4, 2, 1, "other", transposed=True),
    replace(_layer("bf16 64-64 3x3 @32", 16, 32, 64, 64, 3, 1, 1, "other"), dtype="bfloat16"),
    replace(_layer("bf16 64-256 1x1 @56", 4, 56, 64, 256, 1, 1, 0, "other"), dtype="bfloat16"),
)


def _pools(name: str, n: int, size: int, c: int, k: int, s: int, p: int = 0) -> tuple[Pool, Pool]:
    wide = ("wide",) if c >= 64 else ()
    maximum, average = (
        Pool(f"{kind} {name}", kind, n, (size, size), c, k, s, p, frozenset((kind, *wide))) for kind in ("max", "avg")
    )
    return maximum, average


POOLS: tuple[Pool, ...] = (
    *_pools("2x2 /2 64x28x28x6", 64, 28, 6, 2, 2),
    *_pools("2x2 /2 32x32x32x64", 32, 32, 64, 2, 2),
    *_pools("3x3 /2 8x112x112x64", 8, 112, 64, 3, 2, 1),
    *_pools("3x3 /1 16x28x28x256", 16, 28, 256, 3, 1, 1),
    *_pools("3x3 /3 16x28x28x64", 16, 28, 64, 3, 3),
)
