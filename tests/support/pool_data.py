"""Inputs of poolings, and the geometries that Torch has too."""

from __future__ import annotations

import numpy as np
from cases import Pool


def distinct(case: Pool, largest: int = 256) -> np.ndarray:
    """No value twice in an image."""
    rng = np.random.default_rng(1)
    size = int(np.prod(case.x_shape[1:]))
    assert size <= 2 * largest
    return np.stack([rng.permutation(size) - size // 2 for _ in range(case.images)]).reshape(case.x_shape)


def tied(case: Pool) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 3, case.x_shape)


def not_finite(case: Pool) -> np.ndarray:
    """Small integers, every fourth -inf, some NaN and +inf; the first image is -inf throughout."""
    rng = np.random.default_rng(4)
    x = rng.integers(-1, 2, case.x_shape).astype(np.float64)
    x[rng.random(x.shape) < 0.25] = -np.inf
    x[rng.random(x.shape) < 0.08] = np.inf
    x[rng.random(x.shape) < 0.08] = np.nan
    x[0] = -np.inf
    return x


TORCH_POOLS = [
    ((7, 6), {"kernel_size": (3, 2), "stride": (2, 2)}),
    ((7, 8), {"kernel_size": (3, 3), "stride": (2, 3), "padding": (1, 1)}),
    ((7, 8), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (2, 3)}),
    ((6, 7), {"kernel_size": (2, 3), "stride": (2, 3), "padding": (1, 1), "ceil_mode": True}),
    ((5, 6), {"kernel_size": (2, 2), "stride": (3, 4), "padding": (1, 1), "ceil_mode": True}),
    ((2, 2), {"kernel_size": (3, 3), "stride": (2, 2), "ceil_mode": True}),
    ((9,), {"kernel_size": (3,), "stride": (2,), "padding": (1,), "dilation": (2,), "ceil_mode": True}),
    ((5, 4, 6), {"kernel_size": (2, 3, 2), "stride": (2, 1, 3), "padding": (1, 1, 0), "ceil_mode": True}),
]
OUR_WORDS = {"kernel_size": "window_shape", "stride": "strides"}


def both(function: str, size, options, **extra):
    """Torch's function of that rank, and ours with the same arguments in our words."""
    import torch

    theirs = getattr(torch.nn.functional, f"{function}{len(size)}d")
    ours = {OUR_WORDS.get(k, k): v for k, v in {**options, **extra}.items()}
    return (lambda x, **more: theirs(x, **options, **extra, **more)), ours


def tensor(a):
    import torch

    return torch.tensor(np.asarray(a, np.float64))
