"""The front end for values: a trace that wraps none, and passes on every primitive but those with a rule.

It keeps eager control flow, static arguments, closures and objects that are changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.core
from jax.extend import core, source_info_util

from fnconv.transform.jaxpr import JAXPRS, Selection, find_rule, part_of_chain, rewrite_bodies, rewrite_declined
from fnconv.transform.report import Site, types
from fnconv.transform.softmax import Chains, number
from fnconv.transform.table import CUSTOM_JVP, Declined, Operation, Rule, of_jax_nn, replacement

source_info_util.register_exclusion(str(Path(__file__).parent))  # the source of an operation is the user's line


class Handler(jax.core.Trace):
    """Every primitive that is bound while this is the current trace comes here, and goes on to its parent.

    `sites` is filled as operations are met.
    """

    __slots__ = ("caller", "chains", "depth", "only", "parent", "sites")

    def __init__(self, parent: Any, only: Selection, sites: list[Site]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parent, self.only, self.sites = parent, only, sites
        self.chains = Chains(number)
        self.caller: Any = None  # where a function of JAX's own was called that is evaluated step by step
        self.depth = len(source_info_util.current_name_stack().stack)
        # whether an object may be changed in place, or a rule is still open, is for the parent to say
        self._weakref = parent._weakref
        self.requires_low = False

    def process_primitive(self, primitive: Any, operands: Any, params: Any, /) -> Any:
        name = primitive.name
        if part_of_chain(name, params):
            self.caller = source_info_util.current()
            with _current(self):
                results = core.jaxpr_as_fun(params["jaxpr"])(*operands)
            self.caller = None
            return results
        rule, rule_params, values = find_rule(name, params, operands, self.chains)
        if rule is not None:
            run = self._replacement(rule, name, rule_params, values, _results(primitive, params, operands))
            if run is not None:
                result = self._run(rule, run, values)
                if not primitive.multiple_results:
                    self.chains.follow(name, params, operands, result)
                return [result] if primitive.multiple_results else result
            params, sites = rewrite_declined(rule, name, params, self.only)
        else:
            params, sites = rewrite_bodies(name, params, self.only)
        self._record(sites)
        result = self._pass_on(primitive, operands, params)
        if not primitive.multiple_results:
            self.chains.follow(name, params, operands, result)
        return result

    def process_custom_jvp_call(self, primitive: Any, fun: Any, jvp: Any, operands: Any, /, **params: Any) -> Any:
        rule = of_jax_nn(CUSTOM_JVP, fun.debug_info)
        if rule is not None:
            avals = tuple(map(jax.typeof, operands))
            run = self._replacement(
                rule, primitive.name, {}, operands, _types_of(getattr(jax.nn, rule.operation), avals)
            )
            if run is not None:
                jax.make_jaxpr(fun.call_wrapped)(*avals)  # the caller learns the structure of its result by this
                return [self._run(rule, run, operands)]
        return self._pass_on(primitive, operands, {**params, "subfuns": (fun, jvp)})

    def process_custom_vjp_call(
        self, primitive: Any, fun: Any, fwd: Any, bwd: Any, operands: Any, /, **params: Any
    ) -> Any:
        return self._pass_on(primitive, operands, {**params, "subfuns": (fun, fwd, bwd)})

    def process_shard_map(self, primitive: Any, fun: Any, operands: Any, /, **params: Any) -> Any:
        def body(*shards: Any) -> Any:
            with handling(self.only, self.sites):
                return fun(*shards)

        return self._pass_on(primitive, operands, {**params, "subfuns": (body,)})

    def process_call(self, primitive: Any, fun: Any, operands: Any, params: Any, /) -> Any:
        return self._pass_on(primitive, operands, {**params, "subfuns": (fun,)})

    def stage_value(self, value: Any) -> Any:
        staged = self.parent.stage_value(value)
        self.chains.polynomials.name(staged, number(value))
        return staged

    def cur_qdd(self, value: Any) -> Any:
        return self.parent.cur_qdd(value)

    def _replacement(
        self, rule: Rule, name: str, params: Any, values: Sequence[Any], results: Sequence[Any]
    ) -> Operation | None:
        """What takes the place of a primitive; None, and a site that says why, where nothing does."""
        site = Site.at(rule.operation, name, self.caller or source_info_util.current(), types(values, results))
        try:
            run = replacement(rule, self.only, params, list(map(jax.typeof, values)), results)
        except Declined as why:
            self._record([site.left(why)])
            return None
        self._record([site])
        return run

    def _record(self, sites: Sequence[Site]) -> None:
        if sites:
            here = self.caller or source_info_util.current()
            self.sites += [s.within(here.name_stack.stack[self.depth :], here) for s in sites]

    def _run(self, rule: Rule, run: Operation, operands: Sequence[Any]) -> Any:
        keeping, given = self.chains.recipes.kept_again(rule.operation, run, operands)
        with _current(self.parent):
            result = keeping(*given)
        self.chains.recipes.follow_operation(rule.operation, run, operands, result)
        return result

    def _pass_on(self, primitive: Any, operands: Sequence[Any], params: Any) -> Any:
        with _current(self.parent):
            return primitive.bind(*operands, **params)


@contextmanager
def handling(only: Selection, sites: list[Site]) -> Iterator[None]:
    """Evaluate what is inside with fnconv's operations."""
    with core.take_current_trace() as parent:
        pass
    handler = Handler(parent, only, sites)
    try:
        with _current(handler):
            yield
    finally:
        handler.chains = Chains(number)  # a jaxpr that JAX caches may keep the handler, which must keep no array


def _current(trace: Any) -> Any:
    return core.set_current_trace(trace)  # type: ignore[no-untyped-call]


def _results(primitive: Any, params: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Types of what a primitive returns."""
    avals = tuple(map(jax.typeof, operands))
    if any(isinstance(p, JAXPRS) for p in params.values()):  # which a cache must not keep
        return _types_of.__wrapped__(partial(primitive.bind, **params), avals)
    return _bound_types(primitive, tuple(sorted(params.items())), avals)


@lru_cache(maxsize=4096)
def _bound_types(primitive: Any, params: tuple[tuple[str, Any], ...], avals: tuple[Any, ...]) -> Sequence[Any]:
    return _types_of.__wrapped__(partial(primitive.bind, **dict(params)), avals)


@lru_cache(maxsize=4096)
def _types_of(fun: Callable[..., Any], avals: tuple[Any, ...]) -> Sequence[Any]:
    return tuple(jax.make_jaxpr(fun)(*avals).out_avals)
