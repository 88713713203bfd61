"""fnconv: convolutional-network operations in JAX with backward passes derived by hand."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fnconv import compat, show, testing, textbook, train
    from fnconv.base.cpu_settings import tune_cpu
    from fnconv.base.version import __version__
    from fnconv.judge.model.compare import compare
    from fnconv.judge.rule.entry import check_vjp
    from fnconv.ops.activation import leaky_relu, log_softmax, relu, sigmoid, softmax, tanh
    from fnconv.ops.avg_pool import adaptive_avg_pool, avg_pool
    from fnconv.ops.conv import conv, conv_input_vjp, conv_transpose, conv_weight_vjp
    from fnconv.ops.conv_block import conv_block
    from fnconv.ops.dense import dense, flatten
    from fnconv.ops.loss import softmax_cross_entropy, squared_error
    from fnconv.ops.lp_pool import lp_pool
    from fnconv.ops.max_pool import adaptive_max_pool, max_pool, max_pool_with_indices, max_unpool
    from fnconv.ops.patches import col2im, im2col
    from fnconv.ops.pyramid import spatial_pyramid_pool
    from fnconv.rules.available import available_rules
    from fnconv.transform.explanation import explain
    from fnconv.transform.forward_mode import jvp
    from fnconv.transform.manual_rules import with_manual_rules

# A public name is imported when it is first asked for, so that `fnconv --help` needs no jax (PEP 562).
_MODULES = ("compat", "show", "testing", "textbook", "train")
_SOURCES = {
    "base.cpu_settings": ("tune_cpu",),
    "base.version": ("__version__",),
    "judge.model.compare": ("compare",),
    "judge.rule.entry": ("check_vjp",),
    "ops.activation": ("leaky_relu", "log_softmax", "relu", "sigmoid", "softmax", "tanh"),
    "ops.avg_pool": ("adaptive_avg_pool", "avg_pool"),
    "ops.conv": ("conv", "conv_input_vjp", "conv_transpose", "conv_weight_vjp"),
    "ops.conv_block": ("conv_block",),
    "ops.dense": ("dense", "flatten"),
    "ops.loss": ("softmax_cross_entropy", "squared_error"),
    "ops.lp_pool": ("lp_pool",),
    "ops.max_pool": ("adaptive_max_pool", "max_pool", "max_pool_with_indices", "max_unpool"),
    "ops.patches": ("col2im", "im2col"),
    "ops.pyramid": ("spatial_pyramid_pool",),
    "rules.available": ("available_rules",),
    "transform.explanation": ("explain",),
    "transform.forward_mode": ("jvp",),
    "transform.manual_rules": ("with_manual_rules",),
}
_ORIGIN = {name: module for module, names in _SOURCES.items() for name in names}

__all__ = [
    "__version__",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "available_rules",
    "avg_pool",
    "check_vjp",
    "col2im",
    "compare",
    "compat",
    "conv",
    "conv_block",
    "conv_input_vjp",
    "conv_transpose",
    "conv_weight_vjp",
    "dense",
    "explain",
    "flatten",
    "im2col",
    "jvp",
    "leaky_relu",
    "log_softmax",
    "lp_pool",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "relu",
    "show",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "spatial_pyramid_pool",
    "squared_error",
    "tanh",
    "testing",
    "textbook",
    "train",
    "tune_cpu",
    "with_manual_rules",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _import_module(f"fnconv.{name}")
    if name not in _ORIGIN:
        raise AttributeError(f"module 'fnconv' has no attribute {name!r}")
    value = getattr(_import_module(f"fnconv.{_ORIGIN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
