"""The public operations, one line each: `from fnconv.ops import functional as ops` on the floors above."""

from fnconv.ops.activation import leaky_relu as leaky_relu
from fnconv.ops.activation import log_softmax as log_softmax
from fnconv.ops.activation import relu as relu
from fnconv.ops.activation import sigmoid as sigmoid
from fnconv.ops.activation import softmax as softmax
from fnconv.ops.activation import tanh as tanh
from fnconv.ops.avg_pool import adaptive_avg_pool as adaptive_avg_pool
from fnconv.ops.avg_pool import avg_pool as avg_pool
from fnconv.ops.conv import conv as conv
from fnconv.ops.conv import conv_input_vjp as conv_input_vjp
from fnconv.ops.conv import conv_transpose as conv_transpose
from fnconv.ops.conv import conv_weight_vjp as conv_weight_vjp
from fnconv.ops.conv_block import conv_block as conv_block
from fnconv.ops.dense import dense as dense
from fnconv.ops.dense import flatten as flatten
from fnconv.ops.loss import softmax_cross_entropy as softmax_cross_entropy
from fnconv.ops.loss import squared_error as squared_error
from fnconv.ops.lp_pool import lp_pool as lp_pool
from fnconv.ops.max_pool import adaptive_max_pool as adaptive_max_pool
from fnconv.ops.max_pool import max_pool as max_pool
from fnconv.ops.max_pool import max_pool_with_indices as max_pool_with_indices
from fnconv.ops.max_pool import max_unpool as max_unpool
from fnconv.ops.patches import col2im as col2im
from fnconv.ops.patches import im2col as im2col
from fnconv.ops.pyramid import spatial_pyramid_pool as spatial_pyramid_pool
