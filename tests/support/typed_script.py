"""A user's script, which type checkers read and nobody runs; a call marked "wrong" is one that they must refuse."""

from collections.abc import Callable
from typing import assert_type

import jax
import numpy as np

import fnconv
from fnconv import max_pool
from fnconv.compat import flax, keras, lax

x, w, b = (jax.random.normal(jax.random.key(0), shape) for shape in ((2, 6, 6, 3), (3, 3, 3, 3), (3,)))
image, labels = np.ones((6, 6, 3), np.float32), np.arange(6)

# ---- operations -----------------------------------------------------------------------------------------------------

assert_type(fnconv.conv(x, w, b, strides=(2, 1), padding="SAME", rule={"forward": "im2col"}), jax.Array)
fnconv.conv(image, np.asarray(w), padding=((1, 1), (0, 2)), layout="channels_last", precision="highest")
fnconv.conv(x, w, padding=[1, 2], precision=jax.lax.Precision.HIGHEST, rule="auto")
fnconv.conv_input_vjp(x, w, x.shape, padding=1)
fnconv.conv_weight_vjp(x, x, 3, padding=1)
fnconv.conv_transpose(x, w, output_padding=1, strides=2)
fnconv.conv_block(x, w, b, pool={"window_shape": 3, "strides": 2}, activation=None)
fnconv.dense(image, np.asarray(w[0, 0]), None)
assert_type(max_pool(x, 2), jax.Array)
max_pool(image, (2, 2), strides=2, ties="column_major", ceil_mode=True)
y, indices = fnconv.max_pool_with_indices(x, 2)
assert_type(fnconv.max_unpool(y, indices, (6, 6)), jax.Array)
fnconv.avg_pool(x, [2, 2], padding="SAME", count_include_pad=False)
fnconv.lp_pool(x, 2, p=3)
fnconv.adaptive_avg_pool(fnconv.adaptive_max_pool(x, 5), (3, 3), layout="channels_first")
fnconv.spatial_pyramid_pool(x, (1, (2, 3)), pool="avg")
fnconv.im2col(x, 3, order="matlab")
fnconv.relu(fnconv.leaky_relu(-1.0, 0.1))
fnconv.softmax(fnconv.log_softmax(image), axis=0)
assert_type(fnconv.softmax_cross_entropy(fnconv.flatten(image), labels), jax.Array)
fnconv.squared_error(1.0, 2.0)

fnconv.conv(x)  # wrong: no kernel
fnconv.conv(x, w, (2, 2))  # wrong: strides are named
fnconv.conv(x, w, stride=2)  # wrong: strides
fnconv.conv(x, w, padding="SANE")  # wrong
fnconv.conv(x, w, padding=1.5)  # wrong
fnconv.conv(x, w, layout="NHWC")  # wrong
fnconv.conv(x, w, rule=3)  # wrong
fnconv.conv(x, w, precision=1)  # wrong
fnconv.conv("x", w)  # wrong: no array
fnconv.conv_block(x, w, activation="tanh")  # wrong
max_pool(x, "2")  # wrong
max_pool(x, 2.0)  # wrong
max_pool(x, 2, ties="first")  # wrong
fnconv.im2col(x, 2, order="f")  # wrong
fnconv.spatial_pyramid_pool(x, (1, 2), pool="mean")  # wrong
fnconv.adaptive_max_pool(x, None)  # wrong
fnconv.average_pool(x, 2)  # wrong: avg_pool

# ---- programs -------------------------------------------------------------------------------------------------------


def loss(w: jax.Array, x: jax.Array, *, scale: float = 1.0) -> jax.Array:
    return scale * fnconv.relu(fnconv.conv(x, w)).sum()


manual = fnconv.with_manual_rules(loss, modes="both", only=("conv", "relu"))
assert_type(manual(w, x, scale=2.0), jax.Array)
as_before: Callable[[jax.Array, jax.Array], jax.Array] = manual
print(manual.replaced(w, x), manual.replaced(w, x).left)
assert_type(fnconv.both_modes(loss)(w, x, scale=2.0), jax.Array)
value, tangent = fnconv.jvp(loss, (w, x), (w, x))
assert_type(tangent, jax.Array)
assert_type(fnconv.check_vjp(fnconv.relu, image[0], level="full").ok, bool)
print(
    fnconv.compare(loss, w, x, rounds=0), fnconv.explain(loss, w, x, platform="cpu"), fnconv.available_rules()["conv"]
)

manual(w)  # wrong: no x
manual(w, x, scales=2.0)  # wrong: scale
manual(w, "x")  # wrong
fnconv.both_modes(loss)(w)  # wrong: no x
fnconv.with_manual_rules(loss, modes="forward")  # wrong
fnconv.with_manual_rules(3)  # wrong: no function
fnconv.check_vjp(loss, w, x, level="slow")  # wrong

# ---- modules that `import fnconv` shows -----------------------------------------------------------------------------

print(fnconv.show.conv((3, 3), (2, 2)).to_latex(), fnconv.textbook.vec(x[0]), fnconv.__version__)
assert_type(fnconv.show.conv(image, [2, 2], channels=3, strides=(2, 1), padding=((1, 1), (0, 0))), fnconv.show.Page)
fnconv.show.conv([[1.0, 2.0], [3.0, 4.0]], np.ones((2, 1)), cotangent=np.ones((1, 2)), dilation=1, padding="VALID")
fnconv.show.dense(3, weights=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], cotangent=labels[:2]).find("y_1")
fnconv.show.pool((4, 4), (2, 2), kind="max", ties="column_major", ceil_mode=True, strides=None, padding="SAME")
fnconv.show.pool(5, 2, kind="lp", p=3, values=True).to_html()
fnconv.show.net("vgg16").to_text(width=80)
fnconv.testing.assert_vjp(fnconv.relu, image[0], level="quick", order=1)
fnconv.train.lenet.init("modern", 0)
assert_type(fnconv.compat.flax.max_pool(image, (2, 2), padding="SAME"), jax.Array)
flax.avg_pool(x, (2, 2))
keras.max_pool(x, 2)
lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

fnconv.show.layer((3, 3))  # wrong: conv, dense, pool or net
fnconv.show.conv((3, 3))  # wrong: no kernel
fnconv.show.conv((3, 3), (2, 2), stride=2)  # wrong: strides
fnconv.show.conv((3, 3), (2, 2), strides="2")  # wrong
fnconv.show.conv((3, 3), (2, 2), padding="valid ")  # wrong
fnconv.show.conv({3, 4}, (2, 2))  # wrong: no order
fnconv.show.dense(3, 2.5)  # wrong
fnconv.show.dense(3, weights=object())  # wrong
fnconv.show.pool((4, 4), (2, 2), kind="mean")  # wrong
fnconv.show.pool((4, 4), (2, 2), ties="first")  # wrong
fnconv.show.pool((4, 4), np.ones((2, 2)))  # wrong: pooling has no weights
fnconv.show.net("vgg")  # wrong
flax.max_pool(image, (2, 2), padding="SANE")  # wrong
keras.max_pool()  # wrong
