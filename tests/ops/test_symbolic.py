"""Programs exported once for sizes that are variables, and called with several."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import fnconv

W, B = (3, 3, 2, 4), (4,)


def net(strides, x, w):
    y = lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = lax.reduce_window(jax.nn.relu(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.log_softmax(y)


# for images (b, 8, 9, 2), gradients too
BATCH = {
    "conv": (partial(fnconv.conv, padding="SAME", strides=2), W, B),
    "conv-narrow": (partial(fnconv.conv, groups=2), (3, 3, 1, 4), B),
    "conv_block": (partial(fnconv.conv_block, pool=2), W, B),
    "conv_transpose": (lambda x, w: fnconv.conv_transpose(x, w, strides=2), (3, 3, 4, 2)),
    "max_pool": (lambda x: fnconv.max_pool(x, 3, strides=2, padding=1),),
    "adaptive_avg_pool": (lambda x: fnconv.adaptive_avg_pool(x, 3),),
    "lp_pool": (lambda x: fnconv.lp_pool(x, 2),),
    "dense": (lambda x, w: fnconv.dense(fnconv.flatten(x), w), (144, 3)),
    "cross entropy": (lambda x: fnconv.softmax_cross_entropy(x, jnp.zeros_like(x)),),
    "with_manual_rules": (fnconv.with_manual_rules(partial(net, (1, 1))), W),
    "with_manual_rules-fuse": (fnconv.with_manual_rules(partial(net, (1, 1)), fuse=True), W),
}
# for images (b, h, w, 2), gradients too
IMAGES = {
    "conv": (partial(fnconv.conv, padding=1), W, B),
    "conv_block": (partial(fnconv.conv_block, padding=1, pool=2), W, B),
    "max_pool": (lambda x: fnconv.max_pool(x, 3, strides=2, padding=1),),
    "avg_pool": (lambda x: fnconv.avg_pool(x, 3, strides=1, padding=1, count_include_pad=False),),
    "with_manual_rules": (fnconv.with_manual_rules(partial(net, (1, 1))), W),
}
ROUNDED = ("avg_pool", "with_manual_rules")


def _compare(f, sizes, shapes, *calls, whole=True):
    """Whole numbers: the same bits; others within the roundings of sums of 32 terms, in two orders."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (sizes, *shapes)]
    exported = export.export(jax.jit(f))(*shapes)
    rng = np.random.default_rng(0)
    for call in calls:
        args = [jnp.asarray(rng.integers(-3, 4, s), jnp.float32) for s in (call, *(s.shape for s in shapes[1:]))]
        for a, b in zip(jax.tree.leaves(exported.call(*args)), jax.tree.leaves(f(*args)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=0 if whole else 64 * 2**-24 * np.abs(b).max(initial=0))


def gradients(f, parameters):
    return jax.grad(lambda *a: jnp.square(f(*a)).sum(), tuple(range(1 + len(parameters))))


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", BATCH)
def test_a_variable_batch(name):
    f, *parameters = BATCH[name]
    (b,) = export.symbolic_shape("b")
    _compare(gradients(f, parameters), (b, 8, 9, 2), parameters, (1, 8, 9, 2), (5, 8, 9, 2))


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", IMAGES)
def test_images_of_variable_sizes(name):
    f, *parameters = IMAGES[name]
    sizes = export.symbolic_shape("b, h, w", constraints=["h>=4", "w>=4"])
    _compare(gradients(f, parameters), (*sizes, 2), parameters, (2, 8, 9, 2), (1, 5, 4, 2), whole=name not in ROUNDED)


def test_a_strided_forward_pass_of_variable_sizes():
    sizes = export.symbolic_shape("b, h, w", constraints=["h>=4", "w>=4"])
    _compare(partial(fnconv.conv, padding="SAME", strides=2), (*sizes, 2), [W, B], (2, 8, 9, 2), (1, 5, 4, 2))


def test_what_cannot_be_replaced_is_left():
    """JAX's own convolution takes paddings that are variables only within itself."""
    sizes = export.symbolic_shape("b, h, w", constraints=["h>=4", "w>=4"])
    manual = fnconv.with_manual_rules(partial(net, (2, 2)))
    _compare(manual, (*sizes, 2), [W], (2, 8, 9, 2), (1, 5, 4, 2))
    report = manual.replaced(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((*sizes, 2), W)))
    assert [s.operation for s in report.left] == ["conv"]
    assert report.left[0].reason.startswith("sizes that are variables: ")


def test_a_gradient_told_a_variable_shape():
    (b,) = export.symbolic_shape("b")
    f = lambda dy, w: fnconv.conv_input_vjp(dy, w, (dy.shape[0], 8, 9, 2))  # noqa: E731
    _compare(f, (b, 6, 7, 4), [W], (1, 6, 7, 4), (3, 6, 7, 4))
