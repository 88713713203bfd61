"""Every operation under its public name, for the floors above: `from fnconv.ops import functional as ops`."""

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

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "col2im",
    "conv",
    "conv_block",
    "conv_input_vjp",
    "conv_transpose",
    "conv_weight_vjp",
    "dense",
    "flatten",
    "im2col",
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
]
