"""fnconv: convolutional-network operations in JAX with backward passes derived by hand."""

from fnconv.check.vjp.entry import check_vjp
from fnconv.comparison.compare import compare
from fnconv.explanation import explain
from fnconv.forward_mode import jvp
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
from fnconv.rules.dispatch import available_rules
from fnconv.transform.manual_rules import with_manual_rules
from fnconv.tune import tune_cpu

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "available_rules",
    "avg_pool",
    "check_vjp",
    "col2im",
    "compare",
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
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "spatial_pyramid_pool",
    "squared_error",
    "tanh",
    "tune_cpu",
    "with_manual_rules",
]
