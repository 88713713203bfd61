"""Whether a program stays among the whole numbers that its dtypes hold, so that no step of it rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.judge.own.programs import arithmetic
from fnconv.judge.rule import primal, widen
from fnconv.judge.rule.data import Point
from fnconv.judge.rule.programs import trace

if TYPE_CHECKING:
    from fnconv.judge.rule.trial import Trial


@dataclass
class Watch(widen.Noise):
    """Noise that moves nothing and looks at every number that would have been moved."""

    whole: bool = True

    def move(self, value: Any, roundoff: float, times: Any = 1.0, offset: Any = None) -> Any:
        if isinstance(value, jax.core.Tracer):  # inside a loop nothing can be seen
            self.whole = False
            return value
        seen = np.asarray(value)
        weight = float(times) if np.ndim(times) == 0 else 1.0
        self.whole &= bool((seen == np.round(seen)).all() and (abs(seen) * max(weight, 1) * roundoff <= 1).all())
        return value


def rounds_nowhere(trial: Trial, point: Point) -> bool:
    """Whether the rule meets nothing but whole numbers that its steps hold, here."""
    task = trial.task(trial.rule_flat, native=True, own=False)
    with arithmetic(trial.dtype):
        jaxpr, _ = trace(task)
    with arithmetic(jnp.float64):
        watch = Watch(0.0, 0.0, jnp.zeros(widen.NOISE_LENGTH), 2.0**-53, 1.0, 0.0, True)
        operands = [jnp.asarray(v) for v in (*point.values, *point.cotangents)]
        widen.evaluate(jaxpr, operands, watch)
    return watch.whole and _literals_are_short(jaxpr)


def _literals_are_short(jaxpr: Any) -> bool:
    """No number of the program's own is one that its dtype may have rounded."""
    for e in primal.opened(jaxpr).eqns:
        for v in e.invars:
            value = getattr(v, "val", None)
            if value is not None and np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.floating):
                number = float(value)
                if np.isfinite(number) and number * 256 != round(number * 256):
                    return False
        if not all(map(_literals_are_short, primal.inner(e))):
            return False
    return True
