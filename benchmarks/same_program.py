"""Whether two lowered programs are one: then a compiler is asked once."""

from __future__ import annotations

import hashlib
from typing import Any

Known = dict[Any, str]


def fingerprint(lowered: Any) -> list[str]:
    """Of each result of a program: a hash of the operation that makes it, its attributes and its operands' hashes.

    Calls, and choices that have one branch, are read as what is in them.
    """
    module = lowered.compiler_ir("stablehlo")
    functions = {f.sym_name.value: f for f in module.body.operations if f.operation.name == "func.func"}

    def body(block: Any, known: Known, depth: int) -> list[str]:
        for op in (o.operation for o in block.operations):
            given = [known[v] for v in op.operands]
            if op.name.endswith("return"):
                return given
            known.update(zip(op.results, results(op, given, known, depth), strict=True))
        raise ValueError(f"a block must end by a return; got {block}")

    def results(op: Any, given: list[str], known: Known, depth: int) -> list[str]:
        blocks = [block for region in op.regions for block in region.blocks]
        if op.name == "func.call":
            called = functions[op.attributes["callee"].value].regions[0].blocks[0]
            return body(called, dict(zip(called.arguments, given, strict=True)), depth)
        if op.name == "stablehlo.case" and len(blocks) == 1:
            return body(blocks[0], dict(known), depth)
        inside = [body(block, {**known, **_arguments(block, depth + 1)}, depth + 1) for block in blocks]
        attributes = {name: str(op.attributes[name]) for name in op.attributes}
        whole = repr((op.name, sorted(attributes.items()), given, inside, [str(r.type) for r in op.results]))
        digest = hashlib.sha256(whole.encode()).hexdigest()
        return [f"{digest} {i}" for i in range(len(op.results))]

    main = functions["main"].regions[0].blocks[0]
    return body(main, _arguments(main, 0), 0)


def _arguments(block: Any, depth: int) -> Known:
    return {a: f"argument {i} {a.type} of a block in {depth} others" for i, a in enumerate(block.arguments)}
