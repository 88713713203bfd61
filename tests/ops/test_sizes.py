"""Sizes that no int32 reaches, and tables that no memory holds: refused at once, in the usual sentence, or answered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import of, refused

import fnconv

X, W, DY = of((2, 8, 8, 3)), of((3, 3, 3, 4)), of((2, 6, 6, 4))
HUGE = {"2**31": 2**31, "10**12": 10**12, "2**63": 2**63, "10**400": 10**400, "10**5000": 10**5000}
WINDOWED = {
    "conv": (lambda **o: lambda x, w: fnconv.conv(x, w, **o), (X, W)),
    "conv_block": (lambda **o: lambda x, w: fnconv.conv_block(x, w, **o), (X, W)),
    "conv_input_vjp": (lambda **o: lambda dy, w: fnconv.conv_input_vjp(dy, w, X.shape, **o), (DY, W)),
    "conv_weight_vjp": (lambda **o: lambda x, dy: fnconv.conv_weight_vjp(x, dy, (3, 3), **o), (X, DY)),
    "conv_transpose": (lambda **o: lambda x, w: fnconv.conv_transpose(x, w, **o), (DY, W)),
    "max_pool": (lambda window=2, **o: lambda x: fnconv.max_pool(x, window, **o), (X,)),
    "max_pool_with_indices": (lambda window=2, **o: lambda x: fnconv.max_pool_with_indices(x, window, **o)[0], (X,)),
    "avg_pool": (lambda window=2, **o: lambda x: fnconv.avg_pool(x, window, **o), (X,)),
    "lp_pool": (lambda window=2, **o: lambda x: fnconv.lp_pool(x, window, **o), (X,)),
    "im2col": (lambda window=2, **o: lambda x: fnconv.im2col(x, window, **o), (X,)),
    "col2im": (lambda window=2, **o: lambda c: fnconv.col2im(c, X.shape, window, **o), (of((2, 12, 49)),)),
}
POOLS = [name for name in WINDOWED if not name.startswith("conv")]
FITS = "must fit an int32, at most 2147483647; got "


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("argument", ["strides", "padding", "dilation"])
@pytest.mark.parametrize("name", WINDOWED)
def test_entries_beyond_int32(name, argument, value):
    call, arrays = WINDOWED[name]
    refused(ValueError, f"{name}: {argument} {FITS}", call(**{argument: HUGE[value]}), *arrays)


def test_the_message_stays_readable():
    shape = "for x of shape (2, 8, 8, 3)"
    refused(ValueError, f"conv: strides {FITS}1e400 {shape}", lambda x, w: fnconv.conv(x, w, strides=10**400), X, W)
    refused(
        ValueError,
        f"conv: padding {FITS}-1000000000000 {shape}",
        lambda x, w: fnconv.conv(x, w, padding=-(10**12)),
        X,
        W,
    )


@pytest.mark.parametrize("name", POOLS)
def test_windows_of_too_many_cells(name):
    call, arrays = WINDOWED[name]
    refused(ValueError, f"{name}: window_shape {FITS}10000000000", call(window=10**10), *arrays)
    refused(ValueError, f"{name}: window_shape must have at most 2147483647 cells; got", call(window=10**9), *arrays)


@pytest.mark.parametrize("padding", [10**9, ((0, 2**31 - 1), (0, 2**31 - 1))])
@pytest.mark.parametrize("name", [n for n in WINDOWED if n not in ("conv_transpose", "col2im")])
def test_padded_images_of_too_many_cells(name, padding):
    call, arrays = WINDOWED[name]
    refused(
        ValueError, f"{name}: the padded image must have at most 2147483647 cells; got", call(padding=padding), *arrays
    )


def test_transposed_convolutions_of_too_many_cells():
    message = "conv_transpose: the image must have at most 2147483647 cells; got"
    refused(ValueError, message, lambda x, w: fnconv.conv_transpose(x, w, strides=2**20), DY, W)


@pytest.mark.parametrize("name", ["adaptive_max_pool", "adaptive_avg_pool"])
@pytest.mark.parametrize("output", [20_000, (2**31 - 1, 1), (10**9, 10**9)])
def test_adaptive_pools_of_too_many_windows(name, output):
    most = 2**31 - 1 if output == (10**9, 10**9) else 2**27
    message = f"{name}: output_shape must have at most {most} cells; got"
    refused(ValueError, message, lambda x: getattr(fnconv, name)(x, output), X)


def test_pyramids_and_maps_of_too_many_cells():
    refused(ValueError, "adaptive_max_pool: output_shape must have at most 134217728 cells",
            lambda x: fnconv.spatial_pyramid_pool(x, (1, 20_000)), X)  # fmt: skip
    refused(ValueError, "max_unpool: output_shape must have at most 2147483647 cells; got (1000000, 1000000)",
            lambda y: fnconv.max_unpool(y, jnp.zeros(y.shape, jnp.int32), (10**6, 10**6)), X)  # fmt: skip
    refused(ValueError, "conv_weight_vjp: window_shape must have at most 2147483647 cells",
            lambda x, dy: fnconv.conv_weight_vjp(x, dy, (10**9, 10**9)), X, DY)  # fmt: skip


def test_powers_beyond_floating_numbers():
    refused(ValueError, "lp_pool: p must not exceed the largest floating number; got 1e400",
            lambda x: fnconv.lp_pool(x, 2, p=10**400), X)  # fmt: skip
    refused(ValueError, "leaky_relu: slope must not exceed the largest floating number; got -1e400",
            lambda x: fnconv.leaky_relu(x, -(10**400)), X)  # fmt: skip


@pytest.mark.parametrize("name", WINDOWED)
def test_a_stride_longer_than_the_image_takes_one_step(name):
    """Also backward, where every phase of the stride would be a piece of the program."""
    call, arrays = WINDOWED[name]
    long, short = ({"strides": s, "padding": "VALID"} for s in (2**31 - 1, 8))
    if name in ("conv_input_vjp", "conv_weight_vjp"):
        arrays = [of((2, 1, 1, 4)) if a is DY else a for a in arrays]
    if name == "conv_transpose":
        arrays = [of((2, 1, 1, 4)), W]
    if name == "col2im":
        arrays = [of((2, 12, 1))]
    rng = np.random.default_rng(0)
    values = [jnp.asarray(rng.integers(-3, 4, a.shape), a.dtype) for a in arrays]
    for f in (lambda g: g, lambda g: jax.grad(lambda *a: (g(*a) ** 2).sum())):
        np.testing.assert_array_equal(f(call(**long))(*values), f(call(**short))(*values))


def test_index_tables_are_no_larger_than_what_they_index():
    """Moving averages and maxima and the positions of maxima need none; a moving maximum by columns would."""
    line = of((1, 10**6, 1))
    for pool in (fnconv.avg_pool, fnconv.max_pool):
        jax.eval_shape(jax.grad(lambda x, pool=pool: pool(x, (10**4,), strides=1).sum()), line)
    photo = of((1, 20_000, 20_000, 1))
    jax.eval_shape(jax.grad(lambda x: fnconv.max_pool_with_indices(x, 2)[0].sum()), photo)
    message = "window_shape must unfold into at most 134217728 table entries; got 990001 windows of 10000 cells"
    refused(ValueError, message, lambda x: fnconv.max_pool(x, (10**4,), strides=1, rule="segment_sum"), line)


LARGE = {
    "max_pool": (lambda x: fnconv.max_pool(x, (9, 9), strides=1), (1, 256, 256, 1)),
    "avg_pool": (lambda x: fnconv.avg_pool(x, (9, 9), strides=1, padding=4, count_include_pad=False), (1, 256, 256, 1)),
    "adaptive_max_pool": (lambda x: fnconv.adaptive_max_pool(x, (700, 700)), (1, 300, 300, 1)),
    "adaptive_avg_pool": (lambda x: fnconv.adaptive_avg_pool(x, (700, 700)), (1, 300, 300, 1)),
}


@pytest.mark.parametrize("name", LARGE)
def test_programs_hold_constants_of_single_axes_alone(name):
    """Not one for each cell or window of the image, of which there are 60,000 or more."""
    f, shape = LARGE[name]
    program = jax.jit(jax.grad(lambda x: (f(x) ** 2).sum())).lower(of(shape)).as_text()
    assert len(program) < 200_000
