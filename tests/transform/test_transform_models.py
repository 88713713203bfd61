"""`with_manual_rules` on networks written with the real libraries, none of which knows of it."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from extras import needs

needs("oracles", "equinox", "flax", "haiku", "keras")

import equinox as eqx
import zoo
from flax import linen, nnx

from fnconv.transform.manual_rules import with_manual_rules


@pytest.fixture(autouse=True)
def _lenient():
    """The libraries promote dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def build(library, architecture):
    """The model in float64, and an input of its shape."""
    x = jax.ShapeDtypeStruct(zoo.SHAPES[architecture], jnp.float64)
    return zoo.LIBRARIES[library](architecture, jnp.zeros(x.shape, x.dtype)), x


def gradients(apply, params, x, cotangent):
    """(value, state) and the gradient for parameters and input."""

    def loss(params, x):
        y, state = apply(params, x)
        return (y * cotangent).sum(), state

    return compiled(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)


def both(model, params, x, cotangent):
    return [gradients(apply, params, x, cotangent) for apply in (with_manual_rules(model.apply), model.apply)]


def counts(library, architecture):
    """What is to be replaced; Keras evaluates the network of every frame by itself."""
    frames = zoo.SHAPES[zoo.video][1] if library == "keras" and architecture is zoo.video else 1
    return {name: n * frames for name, n in zoo.OPERATIONS[architecture].items()}


GRID = [(library, architecture) for architecture in zoo.ARCHITECTURES for library in zoo.LIBRARIES]


def grid(default):
    """Every architecture in every library, those beyond the default as slow ones."""
    return pytest.mark.parametrize(
        ("library", "architecture"),
        [
            pytest.param(
                library,
                architecture,
                id=f"{library}-{architecture.__name__}",
                marks=() if default(library, architecture) else pytest.mark.slow,
            )
            for library, architecture in GRID
        ],
    )


@pytest.mark.sample(6)
@grid(lambda library, architecture: True)
def test_every_operation_is_replaced(library, architecture):
    with jax.enable_x64(True):
        model, x = build(library, architecture)
        report = with_manual_rules(model.apply).replaced(model.params, x)
    expected = counts(library, architecture)
    assert {name: report.counts[name] for name in ("conv", "max_pool", "avg_pool", "relu")} == {
        name: expected.get(name, 0) for name in ("conv", "max_pool", "avg_pool", "relu")
    }
    assert report.counts["dense"] >= expected.get("dense", 0)
    assert not report.left
    assert not report.late


def integers(rng, shape):
    """At most one entry of two not 0: sums stay far below 2^53."""
    return jnp.asarray(rng.integers(-1, 2, shape) * rng.integers(0, 2, shape), jnp.float64)


def without_norm(architecture):
    """The network with no square root and no quotient but by powers of two."""

    def plain(layers, x):
        layers.norm = lambda y: y
        return architecture(layers, x)

    return plain


@pytest.mark.sample(2)
@pytest.mark.parametrize("library", zoo.LIBRARIES)
@pytest.mark.parametrize(
    "architecture",
    [zoo.lenet, *(pytest.param(a, marks=pytest.mark.slow) for a in (zoo.unet, zoo.mobilenet, zoo.resnet18))],
    ids=lambda a: a.__name__,
)
def test_integers_to_the_bit(library, architecture):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        shape = zoo.SHAPES[architecture]
        model = zoo.LIBRARIES[library](without_norm(architecture), jnp.zeros(shape, jnp.float64))
        params = jax.tree.map(lambda p: integers(rng, p.shape), model.params)
        x = jnp.asarray(rng.integers(-2, 3, shape), jnp.float64)
        y = jax.eval_shape(model.apply, params, x)[0]
        ours, autodiff = both(model, params, x, integers(rng, y.shape))
        jax.tree.map(np.testing.assert_array_equal, ours, autodiff)
        largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(ours[1]))
    assert 0 < largest < 2**40


DEFAULT = {("equinox", zoo.unet), ("nnx", zoo.video), ("linen", zoo.stem)}


@pytest.mark.sample(1)
@grid(lambda library, architecture: (library, architecture) in DEFAULT)
def test_gradients(library, architecture):
    """Within the rounding of either side: gamma(n) of the largest gradient, n the roundings on the longest path.

    Every convolution adds up fewer than 100 terms forward and 100 back, and each sum over a batch and its positions
    (kernel gradients, statistics and their gradients) has as many terms as the input has positions, four of them to
    a layer.  Keras computes statistics and recurrent steps in float32, whatever the dtype.
    """
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        model, x = build(library, architecture)
        params = jax.tree.map(
            lambda p: jnp.asarray(rng.standard_normal(p.shape) / np.sqrt(max(1, np.prod(p.shape[:-1])))), model.params
        )
        x = jnp.asarray(rng.standard_normal(x.shape))
        y = jax.eval_shape(model.apply, params, x)[0]
        ours, autodiff = both(model, params, x, jnp.asarray(rng.standard_normal(y.shape)))
        single = library == "keras" and architecture not in (zoo.lenet, zoo.unet)
        layers = sum(zoo.OPERATIONS[architecture].values()) + 3
        n = layers * (200 + 4 * np.prod(x.shape[:-1]))
        gamma = n * np.finfo(np.float32 if single else np.float64).eps / 2
        for mine, theirs in zip(ours, autodiff, strict=True):
            scale = max(float(jnp.abs(v).max()) for v in jax.tree.leaves(theirs))
            difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), mine, theirs)
            assert max(jax.tree.leaves(difference)) <= 2 * gamma * scale
            assert [v.dtype for v in jax.tree.leaves(mine)] == [v.dtype for v in jax.tree.leaves(theirs)]


# ---- what the libraries do besides ----------------------------------------------------------------------------------


class Normalised(nnx.Module):
    """A network with state that training changes in place."""

    def __init__(self):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))


def mean_square(net, x):
    return (net(x) ** 2).mean()


@pytest.mark.sample(2)
@pytest.mark.parametrize("fuse", [False, True], ids=["", "fuse"])
@pytest.mark.parametrize("wrap", [lambda f: f, nnx.jit], ids=["eager", "nnx.jit"])
def test_nnx_state_is_kept(wrap, fuse):
    """Statistics are updated in place, once per call, with and without nnx.jit, under nnx.grad."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 6, 2)), jnp.float32)
    nets = [Normalised(), Normalised()]  # of one seed
    functions = with_manual_rules(mean_square, fuse=fuse), mean_square
    ours, autodiff = (wrap(nnx.grad(f))(net, x) for f, net in zip(functions, nets, strict=True))
    assert not np.array_equal(nets[0].norm.mean[...], jnp.zeros(3))
    kernel = nets[0].conv.kernel[...]
    moduli = jax.lax.conv_general_dilated(
        abs(x), abs(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).max()
    # 18 products, 72 positions, and a few roundings of the update; a variance squares, so errors count twice
    rounding = 2 * (18 + 72 + 8) * np.finfo(np.float32).eps / 2
    for name, size in (("mean", moduli), ("var", 2 * moduli**2)):
        got, want = (getattr(net.norm, name)[...] for net in nets)
        np.testing.assert_allclose(got, want, rtol=0, atol=rounding * float(size))
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(autodiff))
    bound = 2 * 400 * np.finfo(np.float32).eps * largest  # 72 positions, 18 and 27 terms, statistics twice
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=bound), ours, autodiff)


def test_nnx_module_as_an_argument_of_replaced():
    net = Normalised()
    before = net.norm.mean[...]
    report = with_manual_rules(mean_square).replaced(net, jnp.ones((2, 6, 6, 2)))
    assert report.counts == {"conv": 1, "norm": 1, "relu": 1, "max_pool": 1}
    np.testing.assert_array_equal(net.norm.mean[...], before)


def test_nnx_module_that_is_closed_over():
    """It is updated where values are, and refused in words where it is traced."""
    net, x = Normalised(), jnp.ones((2, 6, 6, 2))
    manual = with_manual_rules(lambda x: mean_square(net, x))
    manual(x)
    assert np.any(net.norm.mean[...])
    with pytest.raises(ValueError, match=r"with_manual_rules: fn must not change what it closes over .* an argument"):
        manual.replaced(x)


def test_linen_init_and_apply_are_functions_too():
    net = linen.Conv(2, (3, 3))
    x = jnp.ones((1, 4, 4, 1))
    params = with_manual_rules(net.init)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, net.init(jax.random.key(0), x))
    assert with_manual_rules(net.apply).replaced(params, x).counts == {"conv": 1}


def test_linen_remat_and_attention():
    """Lifted transformations of Flax; its attention is contractions and a softmax."""

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            y = linen.remat(linen.Conv)(2, (3, 3))(x)
            tokens = y.reshape(y.shape[0], -1, y.shape[-1])
            return linen.MultiHeadDotProductAttention(num_heads=2)(tokens)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 3, 2)), jnp.float32)
    shapes = jax.eval_shape(Net().init, jax.random.key(0), x)
    params = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), shapes)

    def loss(params, x):
        return (Net().apply(params, x) ** 2).sum()

    report = with_manual_rules(loss).replaced(params, x)
    assert report.counts == {"conv": 1, "dense": 6, "softmax": 1}
    assert not report.left
    ours, autodiff = (jax.jit(jax.grad(f))(params, x) for f in (with_manual_rules(loss), loss))
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(autodiff))
    bound = 2 * 200 * np.finfo(np.float32).eps * largest  # six products of up to 18 terms, and the way back
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=bound), ours, autodiff)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' own
def test_keras_fit():
    """fit goes through `stateless_call`, where the model takes its own, transformed."""
    import keras

    rng = np.random.default_rng(0)
    x, y = rng.integers(-2, 3, (4, 4, 4, 1)).astype("float32"), rng.integers(-2, 3, (4, 2)).astype("float32")
    weights = []
    for transformed in (False, True):
        net = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Conv2D(2, 3, padding="same", activation="relu", kernel_initializer="ones"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(2, kernel_initializer="ones"),
            ]
        )
        if transformed:
            net.stateless_call = with_manual_rules(net.stateless_call)
        net.compile(optimizer=keras.optimizers.SGD(0.125), loss="mse")
        net.fit(x, y, batch_size=4, epochs=1, verbose=0)
        weights.append([np.asarray(v.value) for v in net.trainable_variables])
    jax.tree.map(np.testing.assert_array_equal, *weights)
    assert not np.array_equal(weights[0][0], np.ones((3, 3, 1, 2)))


def test_equinox_filtered():
    """A module is an argument; what is no array of it stays as it is."""
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 2, 3, key=jax.random.key(0)),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(8, 3, key=jax.random.key(1)),
        ]
    )
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (1, 6, 6)), jnp.float32)

    def loss(net, x):
        return net(x).sum()

    manual = with_manual_rules(loss)
    assert manual.replaced(net, x).counts == {"conv": 1, "relu": 1, "max_pool": 1, "dense": 1}
    ours, autodiff = (eqx.filter_jit(eqx.filter_grad(f))(net, x) for f in (manual, loss))
    assert jax.tree.structure(ours) == jax.tree.structure(autodiff)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(autodiff))
    bound = 2 * 40 * np.finfo(np.float32).eps * largest  # three outputs, sixteen positions, nine terms
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=bound), ours, autodiff)
