"""The state of a training run: everything from which the rest of the run follows, bit for bit."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from fnconv.base.errors import invalid
from fnconv.train.data import Data
from fnconv.train.lenet import IMAGE_SHAPE, Gradients, Model, Params, init

Mode = Literal["manual", "autodiff", "both"]


@dataclass(frozen=True)
class Config:
    """The hyperparameters of a run.

    Epoch e, counted from 0, learns at the rate `learning_rate / (1 + decay * e)` from images moved at random by up to
    `shift` pixels each way.
    """

    model: Model = "classic"
    gradients: Mode = "manual"
    batch_size: int = 32
    learning_rate: float = 0.05
    decay: float = 0.1
    momentum: float = 0.9
    shift: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, rule, holds in (
            ("model", f"one of {get_args(Model)}", self.model in get_args(Model)),
            ("gradients", f"one of {get_args(Mode)}", self.gradients in get_args(Mode)),
            ("batch_size", "at least 1", self.batch_size >= 1),
            ("learning_rate", "positive and finite", 0 < self.learning_rate < math.inf),
            ("decay", "at least 0 and finite", 0 <= self.decay < math.inf),
            ("momentum", "at least 0 and less than 1", 0 <= self.momentum < 1),
            ("shift", f"at least 0 and less than {IMAGE_SHAPE[0]}", 0 <= self.shift < IMAGE_SHAPE[0]),
            ("seed", "at least 0 and less than 2**32", 0 <= self.seed < 2**32),
        ):
            if not holds:
                raise invalid("Config", name, f"must be {rule}", repr(getattr(self, name)))

    @property
    def copies(self) -> tuple[Gradients, ...]:
        """The networks that the run trains, each called after its gradients."""
        return ("manual", "autodiff") if self.gradients == "both" else (self.gradients,)


class Copy(NamedTuple):
    """One network in training: its parameters, and the velocity that momentum gives them."""

    params: Params
    velocity: Params


@dataclass(frozen=True)
class Metrics:
    """Mean loss and share of right answers, over an epoch of training and over the test set after it."""

    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class Drift:
    """How far two copies of the parameters lie apart."""

    max_abs: float
    relative_l2: float


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to, per copy."""

    metrics: dict[Gradients, Metrics]
    drift: Drift | None


@dataclass(frozen=True)
class Run:
    """A run after `len(history)` epochs; `data` is the digest of its training set."""

    config: Config
    data: str
    copies: dict[Gradients, Copy]
    history: tuple[Epoch, ...] = ()

    @classmethod
    def start(cls, config: Config, data: Data) -> "Run":
        """A run before its first epoch: every copy starts from the same parameters, at rest."""
        params = init(config.model, config.seed)
        rest = {name: jnp.asarray(np.zeros(w.shape, w.dtype)) for name, w in params.items()}
        return cls(config, data.digest(), dict.fromkeys(config.copies, Copy(params, rest)))

    def drift(self) -> Drift | None:
        """How far the manual copy lies from the autodiff one, if the run has both."""
        if self.config.gradients != "both":
            return None
        manual, autodiff = (
            np.concatenate([np.ravel(w).astype(np.float64) for w in self.copies[copy].params.values()])
            for copy in self.config.copies
        )
        apart = manual - autodiff
        return Drift(float(np.abs(apart).max()), float(np.linalg.norm(apart) / np.linalg.norm(autodiff)))
