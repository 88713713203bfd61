"""Measure on this machine which rule of each convolution in a program is the fastest, and let "auto" follow that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base import user_cache
from fnconv.base.attach import LinearMap, Stack, unmapped
from fnconv.base.errors import invalid, mistyped
from fnconv.base.spec import ConvSpec
from fnconv.rules import choice, measured
from fnconv.transform.explanation import MAPS, linear_maps, needed

ROUNDS = 9
SECONDS = 0.5  # for all rules of one map, after the first three rounds
BEHIND = 2.0  # times the fastest in the first round, from where on a rule is not timed again
WORTH = 0.97  # of what "auto" takes without the measurement: less is noise


@dataclass(frozen=True)
class Measurement:
    """One map of the program.

    Attributes:
      map: in words, as the file of choices has it.
      before: the rule that "auto" took.
      rule: the one that it takes now.
      ms: {rule: milliseconds, the median of some rounds}.
    """

    map: str
    before: str
    rule: str
    ms: dict[str, float]

    def __str__(self) -> str:
        kept = "" if self.rule != self.before else ", as before"
        return f"{self.map}: {self.before} {self.ms[self.before]:.2f} ms; {self.rule} {self.ms[self.rule]:.2f} ms{kept}"


class Tuning(tuple[Measurement, ...]):
    """All maps that were measured; its text is a line for each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no convolution under auto"


def tune(
    fn: Callable[..., Any],
    *args: Any,
    path: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **kwargs: Any,
) -> Tuning:
    """Time the rules of every convolution in `fn(*args)` on this machine's CPU; "auto" takes the fastest from then on.

    `fn` is traced, not run; pass the training step or the gradient to have the backward maps.  What JAX has compiled
    is forgotten, so that `fn` is compiled anew; programs of other processes follow when they start.  The machine
    should be quiet.  Rules that were asked for by name stay, and so do those of pools.

    The choices are kept for this CPU, number of threads, jaxlib and XLA_FLAGS, in a file of JSON, by map, sizes, batch
    and dtype: `path`, else what $FNCONV_CHOICES names, else `choices.json` in the user's cache.  A later process
    follows the file that $FNCONV_CHOICES names, else the one in the cache; `FNCONV_CHOICES=off` ignores both.

    Args:
      fn: any function that JAX can trace; `args` and `kwargs` are its arguments, arrays or `jax.ShapeDtypeStruct`s.
      path: of the file, which this process follows from now on.
      progress: called as progress(map, done, total).

    Returns:
      A tuple of `Measurement`s with a readable text.

    Raises:
      TypeError: fn is not callable.
      ValueError: FNCONV_CHOICES=off and no path is given, so that nothing would follow the choices; or the file cannot
        be written.

    >>> import tempfile, jax, jax.numpy as jnp
    >>> from fnconv import conv
    >>> x, w = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    >>> found = tune(lambda x, w: conv(x, w), x, w, path=tempfile.mkdtemp() + "/choices.json")
    >>> found[0].map
    'forward float32 1x8x8x3 -> 4, 3x3 pad 0+0,0+0'
    """
    if not callable(fn):
        raise mistyped("tune", "fn", "must be a function", type(fn).__name__)
    file = measured.path() if path is None else Path(path)
    if file is None:
        raise invalid("tune", "path", "must name a file where FNCONV_CHOICES is off", None)
    if not user_cache.writable(file):
        raise invalid("tune", "path", "must name a file that can be written", str(file))
    work = dict(_automatic(needed(jax.make_jaxpr(fn)(*args, **kwargs).jaxpr)))
    found = []
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        for done, (words, equation) in enumerate(work.items()):
            if progress is not None:
                progress(words, done, len(work))
            found.append(_measured(words, *equation))
    measured.follow(file)
    measured.add(file, {m.map: {"rule": m.rule, "ms": m.ms} for m in found})
    jax.clear_caches()  # type: ignore[no-untyped-call]
    return Tuning(found)


Equation = tuple[LinearMap, ConvSpec, Stack, Sequence[Any], int]


def _automatic(jaxpr: Any) -> Iterator[tuple[str, Equation]]:
    """The maps of convolutions under "auto", by what the file calls them."""
    for equation in linear_maps(jaxpr):
        map_, spec, stack = (equation.params[name] for name in ("map", "spec", "stack"))
        if map_.name in MAPS and isinstance(spec, ConvSpec) and spec.rule(name := MAPS[map_.name][1]) == "auto":
            avals = [v.aval for v in equation.invars]
            if all(isinstance(n, int) and n for a in avals for n in a.shape):
                (batch, *_), copies = unmapped(avals[0], stack)
                images = batch * copies
                yield measured.key(name, spec, avals[0].dtype, images), (map_, spec, stack, avals, images)


def _measured(
    words: str, map_: LinearMap, spec: ConvSpec, stack: Stack, avals: Sequence[Any], images: int
) -> Measurement:
    name, dtype = MAPS[map_.name][1], avals[0].dtype
    random = np.random.default_rng(0)
    operands = [jnp.asarray(random.standard_normal(a.shape), dtype) for a in avals]
    before = choice.conv_choice(name, spec, dtype, images, here=True).rule
    programs = {}
    for rule in dict.fromkeys((before, *choice.candidates(name, spec, dtype))):
        asked = "auto" if rule == before else rule
        f = partial(map_, replace(spec, rules=(asked, asked, asked)))
        for axes in stack:
            f = jax.vmap(f, in_axes=axes)
        try:
            programs[rule] = jax.jit(f).lower(*operands).compile()
        except ValueError:  # sizes that the rule refuses
            continue
    ms = _times({rule: partial(_ready, program, operands) for rule, program in programs.items()})
    fastest = min(ms, key=ms.__getitem__)
    return Measurement(words, before, fastest if ms[fastest] < WORTH * ms[before] else before, ms)


def _ready(program: Callable[..., Any], operands: Sequence[jax.Array]) -> None:
    for result in jax.tree.leaves(program(*operands)):
        result.block_until_ready()


def _times(thunks: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Milliseconds: in every round each runs in turn, and the median over the rounds counts."""
    first = {name: min(_once(thunk), _once(thunk)) for name, thunk in thunks.items()}
    near = [name for name in thunks if first[name] <= BEHIND * min(first.values())]
    times: dict[str, list[float]] = {name: [] for name in near}
    end = time.perf_counter() + SECONDS
    for n in range(ROUNDS):
        if n >= 3 and time.perf_counter() > end:
            break
        for name in near if n % 2 else reversed(near):
            times[name].append(_once(thunks[name]))
    return {name: round(1e3 * (median(times[name]) if name in near else first[name]), 3) for name in thunks}


def _once(thunk: Callable[[], None]) -> float:
    start = time.perf_counter()
    thunk()
    return time.perf_counter() - start
