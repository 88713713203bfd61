"""Bad geometry: refused at trace time, in words that name function, argument, rule, value and shape."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import DY, STATIC, WT, W, X, of, refused

import fnconv

# ---- the words, whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "value"), [((2, 2, 2, 2), "(2, 2, 2, 2)"), ((), "()"), ((1,) * 6, "(1, 1, 1, 1, 1, 1)")]
)
@pytest.mark.parametrize("name", ["max_pool", "max_pool_with_indices", "avg_pool", "lp_pool", "im2col"])
def test_the_whole_message(name, window, value):
    message = f"{name}: window_shape needs one entry per spatial dimension; got {value} for x of shape (8, 28, 28, 3)"
    with pytest.raises(ValueError) as raised:
        jax.eval_shape(lambda x: getattr(fnconv, name)(x, window), X)
    assert str(raised.value) == message


# ---- an int for all spatial axes -------------------------------------------------------------------------------------

AN_INT = {
    "max_pool": fnconv.max_pool,
    "max_pool_with_indices": fnconv.max_pool_with_indices,
    "avg_pool": fnconv.avg_pool,
    "lp_pool": fnconv.lp_pool,
    "im2col": fnconv.im2col,
    "col2im": lambda x, k: fnconv.col2im(fnconv.im2col(x, entries(x, k)), x.shape, k),
    "conv_weight_vjp": lambda x, k: fnconv.conv_weight_vjp(x, fnconv.conv(x, kernel(x)), k),
    "max_unpool": lambda y, size: fnconv.max_unpool(y, jnp.arange(y.size).reshape(y.shape), size),
    "adaptive_max_pool": fnconv.adaptive_max_pool,
    "adaptive_avg_pool": fnconv.adaptive_avg_pool,
    "spatial_pyramid_pool": lambda x, bins: fnconv.spatial_pyramid_pool(x, (bins,)),
}


def entries(x, k):
    """What an int stands for: one axis of an x without a batch, the spatial axes of an x with one batch axis."""
    return k if isinstance(k, tuple) else (k,) * max(1, x.ndim - 2)


def kernel(x):
    return jnp.ones((*entries(x, 2), x.shape[-1], 1))


@pytest.mark.sample(12)
@pytest.mark.parametrize("shape", [(6, 3), (2, 4, 5, 3), (2, 4, 3, 5, 2)])
@pytest.mark.parametrize("name", AN_INT)
def test_an_int_means_one_batch_axis_or_two_axes_without(name, shape):
    x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    found, want = AN_INT[name](x, 2), AN_INT[name](x, entries(x, 2))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, want)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found, want))


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", AN_INT)
def test_an_int_for_three_axes_is_refused(name, layout):
    """They are a batch and one spatial axis, or the two of an image; either is one entry away."""
    argument = {"max_unpool": "output_shape", "spatial_pyramid_pool": "levels"}.get(name, "window_shape")
    argument = "output_shape" if name.startswith("adaptive") else argument
    of_ = "y" if name == "max_unpool" else "x"
    message = (
        f"{name}: {argument} must tell how many axes are spatial: (2,) for one, or (2, 2) for two and no batch axis; "
        f"got 2 for {of_} of shape (6, 5, 3)"
    )
    x = jnp.ones((6, 5, 3))
    whole = {
        "col2im": lambda k: fnconv.col2im(jnp.ones((6, 6, 4)), x.shape, k, layout=layout),
        "conv_weight_vjp": lambda k: fnconv.conv_weight_vjp(x, x, k, layout=layout),
        "max_unpool": lambda k: fnconv.max_unpool(x, jnp.zeros(x.shape, int), k, layout=layout),
        "spatial_pyramid_pool": lambda k: fnconv.spatial_pyramid_pool(x, (k,), layout=layout),
    }
    call = whole.get(name, lambda k: getattr(fnconv, name)(x, k, layout=layout))
    for two in (2, np.int64(2), np.array(2)):
        with pytest.raises(ValueError) as raised:
            call(two)
        assert str(raised.value) == message


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool"])
def test_what_the_refusal_says_to_write(name):
    pool, image = getattr(fnconv, name), jnp.ones((6, 8, 3))
    shapes = pool(image, (2,)).shape, pool(image, (2, 2)).shape
    assert shapes == (((6, 2, 3), (2, 2, 3)) if name.startswith("adaptive") else ((6, 4, 3), (3, 4, 3)))


@pytest.mark.parametrize("two", [2, np.int64(2)])
def test_conv_block_reads_the_axes_off_the_kernel(two):
    image, w = jnp.ones((6, 8, 3)), jnp.ones((1, 1, 3, 1))
    assert fnconv.conv_block(image, w, pool=two).shape == (3, 4, 1)
    assert fnconv.conv_block(image, w[0], pool=two).shape == (6, 4, 1)


# ---- geometry, the same words for every operation with windows ------------------------------------------------------

WINDOWED = {
    "conv": (lambda **o: lambda x, w: fnconv.conv(x, w, **o), (X, W)),
    "conv_input_vjp": (lambda **o: lambda dy, w: fnconv.conv_input_vjp(dy, w, (8, 28, 28, 3), **o), (DY, W)),
    "conv_weight_vjp": (lambda **o: lambda x, dy: fnconv.conv_weight_vjp(x, dy, (3, 3), **o), (X, DY)),
    "conv_transpose": (lambda **o: lambda x, w: fnconv.conv_transpose(x, w, **o), (X, WT)),
    "max_pool": (lambda **o: lambda x: fnconv.max_pool(x, (2, 2), **o), (X,)),
    "max_pool_with_indices": (lambda **o: lambda x: fnconv.max_pool_with_indices(x, (2, 2), **o), (X,)),
    "avg_pool": (lambda **o: lambda x: fnconv.avg_pool(x, (2, 2), **o), (X,)),
    "lp_pool": (lambda **o: lambda x: fnconv.lp_pool(x, (2, 2), **o), (X,)),
    "im2col": (lambda **o: lambda x: fnconv.im2col(x, (2, 2), **o), (X,)),
    "col2im": (lambda **o: lambda c: fnconv.col2im(c, (8, 28, 28, 3), (2, 2), **o), (of((8, 12, 729)),)),
}
GEOMETRY = {
    "stride 0": ({"strides": 0}, ValueError, "strides must be at least 1; got (0, 0)"),
    "stride 0 on one axis": ({"strides": (1, 0)}, ValueError, "strides must be at least 1; got (1, 0)"),
    "three strides": (
        {"strides": (1, 1, 1)},
        ValueError,
        "strides needs one entry per spatial dimension; got (1, 1, 1)",
    ),
    "stride 1.5": ({"strides": 1.5}, TypeError, f"strides {STATIC} 1.5"),
    "stride True": ({"strides": True}, TypeError, "strides must be integers; got True"),
    "dilation -1": ({"dilation": (1, -1)}, ValueError, "dilation must be at least 1; got (1, -1)"),
    "three dilations": (
        {"dilation": (1, 1, 1)},
        ValueError,
        "dilation needs one entry per spatial dimension; got (1, 1, 1)",
    ),
    "padding SANE": (
        {"padding": "SANE"},
        ValueError,
        "padding must be one of VALID, SAME, SAME_LOWER, FULL, INPUT_SIZE,",
    ),
    "three paddings": (
        {"padding": (1, 1, 1)},
        ValueError,
        "padding needs one entry per spatial dimension; got (1, 1, 1)",
    ),
    "a triple": (
        {"padding": ((0, 0, 0), (0, 0, 0))},
        ValueError,
        "padding needs (low, high) pairs; got ((0, 0, 0), (0,",
    ),
    "padding 1.0": ({"padding": 1.0}, TypeError, f"padding {STATIC} 1.0"),
    "padding True": ({"padding": True}, TypeError, "padding must be integers; got True"),
    "padding None": ({"padding": None}, TypeError, f"padding {STATIC} None"),
    "paddings of words": ({"padding": ("SAME", "VALID")}, TypeError, f"padding {STATIC} 'SAME'"),
    "layout NHWC": ({"layout": "NHWC"}, ValueError, "layout must be one of channels_last, channels_first; got 'NHWC'"),
    "layout None": ({"layout": None}, ValueError, "layout must be one of channels_last, channels_first; got None"),
}
RULES = {
    "rule fastest": ({"rule": "fastest"}, ValueError, "rule for forward must be one of auto, "),
    "rule for a map": ({"rule": {"input_vjp": "fastest"}}, ValueError, "rule for input_vjp must be one of auto, "),
    "rule for no map": ({"rule": {"backward": "auto"}}, ValueError, "rule may name the maps forward, input_vjp"),
    "rule None": ({"rule": None}, TypeError, "rule must be a name or a mapping from map to name; got None"),
}
CEIL = {"ceil_mode": ({"ceil_mode": 1}, TypeError, "ceil_mode must be True or False; got 1")}
CROP = {
    "crop of all": (
        {"padding": -15},
        ValueError,
        "padding must not crop more than the input has; got ((-15, -15), (-15,",
    )
}
CASES = [
    (name, case)
    for name in WINDOWED
    for case in {
        **GEOMETRY,
        **RULES,
        **(CEIL if name.endswith(("pool", "indices")) else {}),
        **({} if name == "conv_transpose" else CROP),
    }
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_geometry_and_rules(name, case):
    call, arrays = WINDOWED[name]
    options, error, message = {**GEOMETRY, **RULES, **CEIL, **CROP}[case]
    refused(error, f"{name}: {message}", call(**options), *arrays)


@pytest.mark.parametrize("argument", ["strides", "padding", "dilation"])
@pytest.mark.parametrize("name", WINDOWED)
def test_traced_geometry(name, argument):
    """Shapes depend on it, so that it must be known; the word for it is static."""
    call, arrays = WINDOWED[name]
    one = of((), jnp.int32)
    refused(TypeError, f"{name}: {argument} {STATIC}", lambda k, *a: call(**{argument: k})(*a), one, *arrays)
    refused(TypeError, f"{name}: {argument} {STATIC}", lambda k, *a: call(**{argument: (k, k)})(*a), one, *arrays)


@pytest.mark.parametrize("name", ["max_pool", "max_pool_with_indices", "avg_pool", "lp_pool"])
def test_ceil_mode_does_not_crop(name):
    """A window past the end would meet cells that were cropped away."""
    call, arrays = WINDOWED[name]
    message = f"{name}: padding must not crop the high end with ceil_mode; got ((0, 0), (0, -1))"
    refused(ValueError, message, call(ceil_mode=True, padding=((0, 0), (0, -1))), *arrays)


# ---- the dense textbook forms ---------------------------------------------------------------------------------------

LARGE = of((1, 128, 128, 8)), of((3, 3, 8, 8))
DENSE = [
    *(
        ("conv", m, r, 'use rule="im2col" instead', lambda x, w, rule: fnconv.conv(x, w, rule=rule).sum(), LARGE)
        for m in ("forward", "input_vjp", "weight_vjp")
        for r in ("kronecker", "jacobian")
    ),
    *(
        ("max_pool", m, "selection", 'use rule="offsets" instead',
         lambda x, rule: fnconv.max_pool(x, (2, 2), rule=rule).sum(), LARGE[:1])
        for m in ("forward", "input_vjp")
    ),
    *(
        ("avg_pool", m, "matrix", 'use rule="upsample" instead',
         lambda x, rule: fnconv.avg_pool(x, (2, 2), rule=rule).sum(), LARGE[:1])
        for m in ("forward", "input_vjp")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "map_", "rule", "instead", "call", "arrays"), DENSE)
def test_dense_forms_refuse_what_would_not_fit(name, map_, rule, instead, call, arrays):
    """Before anything is allocated: the matrix's size, the limit, and the rule to use."""
    argnums = 1 if map_ == "weight_vjp" else 0
    f = lambda *a: call(*a, {map_: rule})  # noqa: E731
    f = f if map_ == "forward" else jax.grad(f, argnums=argnums)
    size = r"the dense matrix must have at most 16777216 elements; got (\d+) x (\d+) = (\d+)"
    with pytest.raises(ValueError, match=size) as raised:
        jax.eval_shape(f, *arrays)
    rows, columns, product = map(int, re.search(size, str(raised.value)).groups())
    assert rows * columns == product > 2**24
    assert str(raised.value).endswith(instead)
