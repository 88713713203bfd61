"""fnconv: convolutional-network operations in JAX with backward passes derived by hand."""

import ast as _ast
from importlib import import_module as _import_module
from pkgutil import get_data as _get_data
from typing import Any


def _imported(source: str) -> dict[str, str]:
    """{public name: the module that it comes from} of the imports in a file, a star being those of its own module."""
    found: dict[str, str] = {}
    for node in _ast.parse(_get_data(__name__, source) or b"").body:
        if isinstance(node, _ast.ImportFrom):
            module = str(node.module)
            starred = node.names[0].name == "*"
            found |= _imported(module.partition(".")[2].replace(".", "/") + ".py") if starred else {}
            found |= {alias.name: module for alias in node.names if not starred}
    return found


# A public name is imported when it is first asked for (PEP 562), so that `fnconv --help` needs no jax.
_ORIGIN = _imported("__init__.pyi")
__all__ = sorted(_ORIGIN)


def __getattr__(name: str) -> Any:
    if name not in _ORIGIN:
        raise AttributeError(f"module 'fnconv' has no attribute {name!r}")
    module = _ORIGIN[name]
    value = _import_module(f"fnconv.{name}") if module == "fnconv" else getattr(_import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
