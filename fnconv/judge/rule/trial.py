"""One rule on trial: the rule and its reference as programs, and where to write what is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnconv.base.dtypes import accumulator
from fnconv.base.errors import invalid, mistyped
from fnconv.judge.engine.distances import distance
from fnconv.judge.engine.programs import abstract, precision
from fnconv.judge.engine.replay import continued, equations, has_loops, has_rules, holding, holds, without_rules
from fnconv.judge.engine.running_error import Values
from fnconv.judge.rule.arguments import Function, Signature, is_sampler
from fnconv.judge.rule.data import GIVEN, Draw, Point, symmetric
from fnconv.judge.rule.programs import (
    Flat,
    Program,
    Replayed,
    Task,
    compile_all,
    unsettled,
    value_and_cotangents,
    value_and_tangents,
)
from fnconv.judge.rule.report import RuleReport

SEARCHES = ("searchsorted", "digitize", "interp", "_interp")
LOWER, UPPER = (re.compile(rf"(^|[_.'])({names})($|[_'\]0-9])") for names in ("lo|low|lower|min", "hi|high|upper|max"))
Avals = tuple[Sequence[Any], Sequence[Any]]  # of values and of vectors


@dataclass
class Trial:
    """Programs are compiled once and serve all checks.

    forward: whether tangents are judged, of a rule of forward mode, instead of cotangents.
    domain: of the user's: a predicate of fn's arguments, or a function of `rng` alone that returns arguments.
    """

    call: Signature
    reference: Function | None
    level: str
    seed: int
    report: RuleReport
    forward: bool = False
    domain: Function | None = None
    results: tuple[Any, ...] = ()  # shapes and dtypes of fn's floating results
    others: tuple[Any, ...] = ()  # of those without derivative
    problems: list[str] = field(default_factory=list)  # guesses that a check left for the failure that follows
    symbolic: bool = False  # whether a rule in it asked for symbolic zeros
    compiled: bool = False
    outside: bool = False  # whether any point was refused for what the function does there
    widest: dict[Flat, Avals | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rule_flat: Flat = self.call.flat(self.call.fn)
        own: Flat = without_rules(self.rule_flat)
        self.reference_flat: Flat = own if self.reference is None else self.call.flat(self.reference)
        with precision(self.dtype):
            self.results, self.others = jax.eval_shape(self.rule_flat, *self.kinds)
            judged = has_rules(jax.make_jaxpr(self.rule_flat)(*self.kinds))
        if not self.results and not self.others:
            raise mistyped(self.call.judge, "fn", "must return an array", "a result without any")
        if self.domain is not None and is_sampler(self.domain):
            self.call.sampler(self.domain)(np.random.default_rng(0))
        given = [leaf.value for leaf in self.call.moving if leaf.value is not None]
        if self.domain is not None and len(given) == len(self.call.moving) and not self._permitted(given):
            raise invalid(self.call.judge, "domain", "must hold the arguments given", "others")
        if not judged and self.reference is None:
            self.report.note("it has no custom rule: automatic differentiation was compared with itself")

    @property
    def dtype(self) -> Any:
        return self.call.dtype

    @cached_property
    def kinds(self) -> tuple[Any, ...]:
        """Shapes and dtypes of the moving leaves."""
        return self.call.cast(None)

    @property
    def names(self) -> list[str]:
        return [leaf.name for leaf in self.call.moving]

    @property
    def result_names(self) -> list[str]:
        n = len(self.results)
        return ["value"] if n == 1 else [f"value[{i}]" for i in range(n)]

    @property
    def derivative_names(self) -> list[str]:
        """What a failure calls each derivative: a cotangent by its argument, "tangent", "tangent[1]"."""
        return [n.replace("value", "tangent", 1) for n in self.result_names] if self.forward else self.names

    @property
    def all_names(self) -> list[str]:
        """Of the results and of the derivatives."""
        return [*self.result_names, *self.derivative_names]

    @property
    def of_derivatives(self) -> list[str]:
        """The results or arguments that the derivatives belong to."""
        return self.result_names if self.forward else self.names

    @property
    def of_vectors(self) -> list[str]:
        """The arguments or results that the vectors belong to."""
        return self.names if self.forward else self.result_names

    @property
    def vectors(self) -> tuple[Any, ...]:
        """Shapes and dtypes of what the Jacobian is multiplied by: cotangents of the results, or tangents."""
        return self._vectors(self.kinds, self.results)

    def _vectors(self, kinds: Sequence[Any], results: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(abstract(a.shape, a.dtype) for a in (kinds if self.forward else results))

    def draw(self, seed: int = 0) -> Draw:
        sample = self.call.sampler(self.domain) if self.domain and is_sampler(self.domain) else None
        shapes = [v.shape for v in self.vectors]
        return Draw(self.call.moving, shapes, self.seed * 1000 + seed, self.inside, sample, self.arranged)

    # ---- the domain -------------------------------------------------------------------------------------------------

    def inside(self, values: Sequence[Values]) -> bool:
        """Whether the function is meant for these values: as its user says, and no NaN, and its loops converge there.

        NaN and loops count only if there is none, and these converge, at the arguments given.
        """
        if not self._permitted(values):
            return False
        if not self.compiled or all(a <= b for a, b in zip(self._defined(values), self._at_given, strict=True)):
            return True
        self.outside = True
        return False

    def read_by_half(self) -> tuple[str, ...]:
        """Symmetric arguments of a function that factorises; JAX's factorisations assume symmetric tangents."""
        with precision(self.dtype):
            steps = {e.primitive.name for e in equations(jax.make_jaxpr(self.reference_flat)(*self.kinds))}
        if not steps & {"cholesky", "eigh"}:
            return ()
        names = tuple(a.name for a in self.call.moving if a.value is not None and symmetric(a.value))
        if names:
            self.report.note(
                f"{', '.join(names)}: symmetric wherever tried, and so only the symmetric part is compared"
            )
        return names

    def _permitted(self, values: Sequence[Values]) -> bool:
        if self.domain is None or is_sampler(self.domain):
            return True
        with precision(self.dtype):
            args, kwargs = self.call.merge([jnp.asarray(v, k.dtype) for v, k in zip(values, self.kinds, strict=True)])
            return bool(np.all(np.asarray(self.domain(*args, **kwargs))))

    def _defined(self, values: Sequence[Values]) -> tuple[bool, bool]:
        """(whether the function is NaN somewhere, whether its loops would change it)."""
        program = self.right or self.plain
        if program is None:
            return False, False
        none = tuple(np.zeros(v.shape) for v in self.vectors)
        results = program.exact(values, none)[0]
        lost = any(np.isnan(r).any() for r in results)
        if lost or self._going_on is None:
            return lost, False
        pairs = zip(results, self._going_on.exact(values, none)[0], strict=True)
        return False, any((distance(b, a) > 0).any() and not unsettled(a, b).any() for a, b in pairs)

    @cached_property
    def _at_given(self) -> tuple[bool, bool]:
        values = [leaf.value for leaf in self.call.moving]
        lost, goes_on = (False, False) if any(v is None for v in values) else self._defined(values)  # type: ignore[arg-type]
        if lost:
            self.report.note(f"the function is NaN at {GIVEN}")
        return lost, goes_on

    @cached_property
    def _going_on(self) -> Replayed | None:
        return self._values_of(continued(self.reference_flat)) if self._loops(self.reference_flat) else None

    @cached_property
    def arranged(self) -> Callable[[Sequence[Values]], tuple[Values, ...]]:
        """Values as the function's searches need them: sorted where they are, a lower end below the upper one."""
        given, names = [leaf.value for leaf in self.call.moving], self.names
        with precision(self.dtype):
            steps = equations(jax.make_jaxpr(self.reference_flat)(*self.kinds))
        searches = any(e.params.get("name") in SEARCHES for e in steps)
        rising = [
            searches and v is not None and v.ndim == 1 and v.size > 2 and bool((np.diff(v) > 0).all()) for v in given
        ]
        ends = [
            (i, j)
            for (i, a), (j, b) in permutations(enumerate(given), 2)
            if LOWER.search(names[i]) and UPPER.search(names[j])
            if a is not None and b is not None and a.shape == b.shape and (a <= b).all()
        ]
        kept = [f"{name} sorted" for name, yes in zip(names, rising, strict=True) if yes]
        kept += [f"{names[i]} below {names[j]}" for i, j in ends]
        if kept:
            self.report.note(f"tried with {', '.join(kept)} throughout, as given")

        def arrange(values: Sequence[Values]) -> tuple[Values, ...]:
            found = [_rising(v) if yes else v for v, yes in zip(values, rising, strict=True)]
            for i, j in ends:
                found[i], found[j] = np.minimum(found[i], found[j]), np.maximum(found[i], found[j])
            return tuple(found)

        return arrange

    # ---- programs ---------------------------------------------------------------------------------------------------

    def derivative(self, flat: Flat) -> Program:
        """What is judged: (values, vectors) -> (results, derivatives, results without derivative)."""
        return (value_and_tangents if self.forward else value_and_cotangents)(flat)

    def traced_for(self, flat: Flat) -> Avals | None:
        """Avals of values and vectors in the widest dtype that flat takes."""
        if flat not in self.widest:
            self.widest[flat] = self._widest(flat)
        return self.widest[flat]

    def _widest(self, flat: Flat) -> Avals | None:
        for dtype in (jnp.float64, jnp.float32, None):
            with precision(jnp.float64):
                kinds = self.call.cast(dtype)
                try:
                    vectors = self._vectors(kinds, jax.eval_shape(flat, *kinds)[0])
                    jax.make_jaxpr(self.derivative(flat))(kinds, vectors)
                except Exception:  # a function may insist on its dtypes
                    continue
                return kinds, vectors
        return None

    def task(self, flat: Flat, *, native: bool, limited: bool) -> Task:
        if native:
            with precision(self.dtype):
                avals: Avals = self.kinds, self._vectors(self.kinds, jax.eval_shape(flat, *self.kinds)[0])
        else:
            avals = self.traced_for(flat) or (self.kinds, self.vectors)
        program, further = self.derivative(flat), None
        if flat is self.reference_flat and self._loops(flat):
            further = self.derivative(continued(flat))
        elif flat is self.rule_flat and self._loops(program, avals):
            further = continued(program)
        return Task(program, *avals, self.dtype, limited, further=further)

    def _loops(self, program: Callable[..., Any], operands: Sequence[Any] | None = None) -> bool:
        with precision(jnp.float64):
            try:
                return has_loops(jax.make_jaxpr(program)(*(self.kinds if operands is None else operands)))
            except Exception:  # then what it is needed for says so
                return False

    def compile(self) -> None:
        """The four programs: rule and reference, traced in float64 and, for half precisions, in the own dtype."""
        tasks = [self.task(self.rule_flat, native=False, limited=True)]
        tasks += [self.task(self.reference_flat, native=False, limited=False)]
        if accumulator(self.dtype) != self.dtype:
            tasks += [self.task(self.rule_flat, native=True, limited=True)]
            tasks += [self._reference_task()]
        programs = compile_all(tasks)
        rule, reference = programs[0], programs[1]
        if isinstance(rule, Exception):
            raise rule
        self.rule: Replayed = rule
        self.right: Replayed | None = reference if isinstance(reference, Replayed) else None
        self.no_reference = "" if isinstance(reference, Replayed) else first_line(reference)
        own = [p if isinstance(p, Replayed) else None for p in programs[2:]] or [self.rule, self.right]
        self.rule_rounded: Replayed = own[0] or self.rule
        self.right_rounded: Replayed | None = own[1] or self.right
        self.native: Program = jax.jit(self.derivative(self.rule_flat))
        self.compiled = True

    @cached_property
    def plain(self) -> Replayed | None:
        """The reference's values alone, for where it has no derivative."""
        return self._values_of(self.reference_flat)

    @cached_property
    def held(self) -> Replayed | None:
        """(values, others) -> the reference's results, those of stop_gradient in it taken at the others."""
        with precision(self.dtype):
            stops = holds(jax.make_jaxpr(self.reference_flat)(*self.kinds))
        both = holding(self.reference_flat)
        return self._replayed(lambda values, others: (both(values, others)[0], (), ()), paired=True) if stops else None

    def _values_of(self, flat: Flat) -> Replayed | None:
        return self._replayed(lambda values, _: (flat(*values)[0], (), ()))

    def _replayed(self, program: Program, paired: bool = False) -> Replayed | None:
        task = self.task(self.rule_flat, native=False, limited=True)
        vectors = task.values if paired else task.vectors
        (found,) = compile_all([replace(task, program=program, vectors=vectors, limited=False, further=None)])
        return found if isinstance(found, Replayed) else None

    def _reference_task(self) -> Task:
        try:
            return self.task(self.reference_flat, native=True, limited=False)
        except Exception:  # then its float64 program serves
            return self.task(self.reference_flat, native=False, limited=False)

    @cached_property
    def native_reference(self) -> Program:
        return jax.jit(self.derivative(self.reference_flat))

    def rounded(self, point: Point) -> Point:
        """The nearest point whose numbers the rule's dtypes hold."""
        return point.rounded([k.dtype for k in self.kinds], [v.dtype for v in self.vectors])

    def run_native(self, point: Point, program: Program | None = None) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """(results, derivatives) in their own dtypes, as the rule's author runs it."""
        with precision(self.dtype):
            values = tuple(jnp.asarray(v, k.dtype) for v, k in zip(point.values, self.kinds, strict=True))
            vectors = tuple(jnp.asarray(c, v.dtype) for c, v in zip(point.vectors, self.vectors, strict=True))
            results, derivatives, _ = (program or self.native)(values, vectors)
            return tuple(map(np.asarray, results)), tuple(map(np.asarray, derivatives))


def _rising(value: Values) -> Values:
    """Sorted, without ties."""
    value = np.sort(value)
    return value if (np.diff(value) > 0).all() else value + np.arange(value.size)


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]
