"""The front end for jaxprs: equations are exchanged where they stand, and nothing else is staged anew.

Donation, names, checkpoint policies and effects are the equation's parameters, which stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.extend import core

from fnconv.base.attach import modes
from fnconv.transform import polynomials
from fnconv.transform.fusion import BLOCK, chains_of
from fnconv.transform.moments import STEPS as MOMENTS
from fnconv.transform.policy import translated
from fnconv.transform.report import Site, types
from fnconv.transform.softmax import ENDS, STEPS, Chains, number
from fnconv.transform.table import (
    CHAINS,
    CUSTOM_JVP,
    FUSED,
    GATE,
    JITTED,
    NORM,
    PARAMETER,
    POLYNOMIALS,
    PRIMITIVES,
    Declined,
    Operation,
    Rule,
    of_jax_nn,
    replacement,
    stays,
)

JAXPRS = tuple({core.Jaxpr, core.ClosedJaxpr})  # one class from JAX 0.12 on

# primitives that evaluate their jaxprs as they stand; any other one that holds jaxprs is opaque
JITS = ("jit", "pjit")
BODIES = (*JITS, "closed_call", "core_call", "remat2", "checkpoint", "scan", "while", "cond", "shard_map")
OPAQUE = {
    "custom_jvp_call": "inside a jax.custom_jvp function, whose own rule stays",
    "custom_vjp_call": "inside a jax.custom_vjp function, whose own rule stays",
}
HIDDEN = "call_hi_primitive"  # of the flags jax_remat3, jax_custom_jvp3, jax_custom_vjp3: no jaxpr to be seen
OF_MOMENTS = {*MOMENTS, *polynomials.ARITHMETIC, *JITS, "broadcast_in_dim", "reshape", "squeeze", "expand_dims"}
_PACKAGE, _JAX = str(Path(__file__).parents[1]), str(Path(jax.__file__).parent)

Selection = frozenset[str]  # of operations; none stands for all
Rewritten = tuple[Any, tuple[Site, ...]]

_memo: WeakKeyDictionary[Any, dict[tuple[Selection, str], Rewritten]] = WeakKeyDictionary()


def rewrite(jaxpr: Any, only: Selection) -> Rewritten:
    """(the jaxpr with its operations replaced, the sites found); the same object for the same jaxpr.

    A jaxpr in which nothing is replaced is returned itself.
    """
    memo, key = _memo.setdefault(jaxpr, {}), (only, modes.value)
    if key not in memo:
        new, sites = _rewrite(jaxpr, only)
        memo[key] = None if new is jaxpr else new, sites  # a value must not keep its own key alive
    new, sites = memo[key]
    return (jaxpr if new is None else new), sites


def _rewrite(jaxpr: Any, only: Selection) -> Rewritten:
    inner = _open(jaxpr)
    if inner is not jaxpr:
        new, found = _rewrite(inner, only)
        return (jaxpr if new is inner else core.ClosedJaxpr(new, jaxpr.consts)), found
    chains = Chains(_constant)
    equations: list[Any] = []
    sites: list[Site] = []
    blocks, inside = _blocks(jaxpr) if FUSED in only else ({}, set())
    changed = False
    for e in _steps(jaxpr.eqns):
        if id(e) in inside:
            changed = True
            continue
        equation, found = blocks[id(e)] if id(e) in blocks else _equation(e, only, chains)
        equations.append(equation)
        changed |= equation is not e
        sites += [s.within(e.source_info.name_stack.stack, e.source_info) for s in found]
        if len(e.outvars) == 1:
            chains.follow(e.primitive.name, e.params, e.invars, e.outvars[0])
    if not changed:
        return jaxpr, tuple(sites)
    high = any(e.primitive.is_high(*(v.aval for v in e.invars), **e.params) for e in equations)
    return jaxpr.replace(eqns=equations, is_high=jaxpr.is_high or high), tuple(sites)


def _blocks(jaxpr: Any) -> tuple[dict[int, Rewritten], set[int]]:
    """By the last equation of each chain what takes its place; and the equations that go with it."""
    blocks: dict[int, Rewritten] = {}
    inside: set[int] = set()
    for chain in chains_of(jaxpr):
        last, names = chain.last, "+".join(e.primitive.name for e in chain.equations)
        avals = [v.aval for v in chain.operands]
        try:
            with last.ctx.manager:
                run = replacement(BLOCK, frozenset(), chain.params, avals, [v.aval for v in last.outvars])
                new = _call(run, avals)
        except Declined:  # its operations are replaced one by one
            continue
        source = chain.equations[0].source_info
        site = Site.at(BLOCK.operation, names, source, types(chain.operands, last.outvars))
        new = new.replace(invars=chain.operands, outvars=last.outvars, source_info=last.source_info, ctx=last.ctx)
        blocks[id(last)] = new, (site,)
        inside |= {id(e) for e in chain.equations[:-1]}
    return blocks, inside


def _equation(e: Any, only: Selection, chains: Chains) -> Rewritten:
    rule, params, operands = find_rule(e.primitive.name, e.params, e.invars, chains)
    if rule is not None:
        site = Site.at(rule.operation, e.primitive.name, e.source_info, types(operands, e.outvars))
        try:
            with e.ctx.manager:  # mesh, compute_on, metadata
                avals = [v.aval for v in operands]
                run = replacement(rule, only, params, avals, [v.aval for v in e.outvars])
                keeping, given = chains.recipes.kept_again(rule.operation, run, operands)
                new = _call(keeping, [v.aval for v in given])
        except Declined as why:
            params, sites = rewrite_declined(rule, e.primitive.name, e.params, only)
            return (e if params is e.params else e.replace(params=params)), (site.left(why), *sites)
        chains.recipes.follow_operation(rule.operation, run, operands, e.outvars[0])
        return new.replace(invars=[*given], outvars=e.outvars, source_info=e.source_info, ctx=e.ctx), (site,)
    if e.primitive.name == "shard_map":
        return _shard_map(e, only)
    params, sites = rewrite_bodies(e.primitive.name, e.params, only)
    return (e if params is e.params else e.replace(params=params)), sites


def find_rule(
    name: str, params: Any, operands: Sequence[Any], chains: Chains
) -> tuple[Rule | None, Any, Sequence[Any]]:
    """The rule for a primitive, with the parameters and the operands that it reads; no rule for most of them."""
    match = chains.match(name, operands)
    if match is not None:
        return CHAINS[match.operation], {"axis": match.axis, "dims": match.dims}, [match.x]
    activation = chains.polynomials.match(name, params, operands)
    if activation is not None:
        return POLYNOMIALS[activation.operation], {}, [activation.x]
    normalised = chains.moments.match(name, operands)
    if normalised is not None:
        return NORM, normalised.params, normalised.operands
    gated = chains.moments.gate(name, operands)
    if gated is not None:
        return GATE, gated.params, gated.operands
    if name in PRIMITIVES:
        return PRIMITIVES[name], params, operands
    rule = _function_rule(name, params)
    if rule is not None and rule.operation in PARAMETER:
        x, *given = operands
        number = chains.constant(given[0]) if given else _written(params["jaxpr"])
        return rule, {PARAMETER[rule.operation]: number}, [x]
    return rule, {}, operands


def _function_rule(name: str, params: Any) -> Rule | None:
    """The rule for a whole function of jax.nn, which its debug information tells."""
    match name:
        case "custom_jvp_call":
            return of_jax_nn(CUSTOM_JVP, _open(params["call_jaxpr"]).debug_info)
        case "jit" | "pjit":
            return of_jax_nn(JITTED, _open(params["jaxpr"]).debug_info)
    return None


def _written(jaxpr: Any) -> float | None:
    """The parameter of a function of jax.nn that is no operand: its factor, or the axis that it splits."""
    for e in _open(jaxpr).eqns:
        match e.primitive.name:
            case "split":
                return int(e.params["axis"])
            case "mul":
                found = [_constant(v) for v in e.invars]
            case name:
                found = [_written(e.params["jaxpr"])] if name in JITS else []
        if any(number is not None for number in found):
            return next(number for number in found if number is not None)
    return None


def rewrite_bodies(name: str, params: Any, only: Selection) -> Rewritten:
    """Parameters with the jaxprs among them rewritten, the same object where nothing was; and the sites."""
    sites: list[Site] = []

    def visit(value: Any) -> Any:
        if isinstance(value, JAXPRS):
            if name in BODIES:
                with modes("both" if name == "while" else modes.value):  # a while loop keeps its forward mode
                    new, found = rewrite(value, only)
                sites.extend(found)
                return new
            sites.extend(_opaque_sites(name, value, only))
        elif type(value) in (tuple, list):
            new = type(value)(visit(v) for v in value)
            return value if all(a is b for a, b in zip(new, value, strict=True)) else new
        return value

    if name == HIDDEN:
        what = type(params.get("_prim")).__name__
        sites.append(Site("unknown", name, "", "", reason=f"{what} hides what it evaluates"))
    if name in JITS:
        body = _open(params["jaxpr"])
        missing = stays(body.debug_info)
        if missing:
            reason = f"fnconv has no {missing}; the operations in it that fnconv has are replaced"
            sites.append(Site(missing, name, "", types(body.invars, body.outvars), reason))
    new = {k: visit(v) for k, v in params.items()}
    if callable(params.get("policy")) and any(s.replaced for s in sites):
        new["policy"] = translated(params["policy"])
    return (params if all(new[k] is params[k] for k in params) else new), tuple(sites)


def rewrite_declined(rule: Rule, name: str, params: Any, only: Selection) -> Rewritten:
    """The parameters of what a rule is not to replace: a function of jax.nn's is one of its parts."""
    if name not in JITS:
        return params, ()
    params, sites = rewrite_bodies(name, params, only)
    return params, tuple(s for s in sites if s.replaced or s.operation != rule.operation)


def sites_in_rules(jaxpr: Any, only: Selection) -> list[Site]:
    """What stands inside functions with a rule of their own that a handler passed on, in the jaxpr that it led to."""
    sites: list[Site] = []
    for e in _open(jaxpr).eqns:
        match e.primitive.name:
            case "custom_jvp_call" | "custom_vjp_call" as name:
                sites += _opaque_sites(name, e.params["call_jaxpr"], only)
            case "shard_map":
                sites += sites_in_rules(e.params["jaxpr"], only)
    return sites


def _opaque_sites(name: str, jaxpr: Any, only: Selection) -> list[Site]:
    """What a body that stays as it is would have had replaced; in fnconv's own rules nothing is missing."""
    if _written_in(_PACKAGE, _open(jaxpr).debug_info):
        return []
    reason = Declined(OPAQUE.get(name, f"inside {name}, which is evaluated as it is"))
    return [s.left(reason) if s.replaced else s for s in rewrite(jaxpr, only)[1]]


def part_of_chain(name: str, params: Any) -> bool:
    """Whether this is a small function of JAX's own, as jnp.max is, that does a few steps towards a softmax or gelu."""
    if name not in JITS:
        return False
    body = _open(params["jaxpr"])
    steps = {e.primitive.name for e in body.eqns}
    whole = {"reduce_max", "exp"} <= steps
    own = _written_in(_JAX, body.debug_info) and not of_jax_nn(JITTED, body.debug_info) and not stays(body.debug_info)
    arithmetic = steps - {"convert_element_type"} <= polynomials.STEPS.keys() and len(body.eqns) <= 3
    of_softmax = steps <= STEPS.keys() | ENDS.keys() and not whole
    return own and (arithmetic or of_softmax or steps <= OF_MOMENTS)


def _steps(equations: Iterable[Any]) -> Iterator[Any]:
    """The equations, with the bodies of small functions in the place of their calls."""
    for e in equations:
        if not part_of_chain(e.primitive.name, e.params) or e.params["jaxpr"].consts:
            yield e
            continue
        body = _open(e.params["jaxpr"])
        inner = dict(zip((*body.invars, *body.outvars), (*e.invars, *e.outvars), strict=True))
        if len(inner) < len(body.invars) + len(body.outvars) or any(isinstance(v, core.Literal) for v in body.outvars):
            yield e
            continue

        def outer(v: Any, inner: dict[Any, Any] = inner) -> Any:
            return v if isinstance(v, core.Literal) else inner.setdefault(v, core.Var(v.aval))

        yield from _steps(
            [
                s.replace(invars=[*map(outer, s.invars)], outvars=[*map(outer, s.outvars)], source_info=e.source_info)
                for s in body.eqns
            ]
        )


def _call(run: Operation, avals: Sequence[Any]) -> Any:
    """The equation that calls a jitted operation."""
    (equation,) = _open(jax.make_jaxpr(run)(*avals)).eqns
    if len(equation.invars) != len(avals):
        raise Declined("its constants would become operands")
    return equation


def _shard_map(e: Any, only: Selection) -> tuple[Any, tuple[Site, ...]]:
    """A body that is rewritten inside the mesh, where its types have their meaning."""
    sites: list[Site] = []

    def body(*shards: Any) -> Any:
        new, found = rewrite(e.params["jaxpr"], only)
        sites[:] = found
        return tuple(core.jaxpr_as_fun(_close(new))(*shards))

    with e.ctx.manager:
        new = _call(over_shards(body, e), [v.aval for v in e.invars])
    if not any(s.replaced for s in sites):
        return e, tuple(sites)
    return new.replace(invars=e.invars, outvars=e.outvars, source_info=e.source_info, ctx=e.ctx), tuple(sites)


def over_shards(body: Callable[..., Any], e: Any) -> Callable[..., Any]:
    """The body over the mesh of a shard_map equation, as that equation maps its own."""
    q = e.params
    mapped: Callable[..., Any] = jax.shard_map(
        body,
        mesh=q["mesh"],
        in_specs=tuple(q["in_specs"]),
        out_specs=tuple(q["out_specs"]),
        axis_names=set(q["newly_manual_axes"]),
        check_vma=q["check_vma"],
    )
    return mapped


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if len(JAXPRS) == 2 and isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _close(jaxpr: Any) -> Any:
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def _written_in(folder: str, debug_info: Any) -> bool:
    return f" at {folder}" in (debug_info.func_src_info or "")


def _constant(v: Any) -> float | None:
    return number(v.val) if isinstance(v, core.Literal) else None
