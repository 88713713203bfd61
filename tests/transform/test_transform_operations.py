"""Single operations under `with_manual_rules`, its arguments and its report."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from small_network import ONE, W, X, compiled, net, weigh

from fnconv.transform.manual_rules import with_manual_rules
from fnconv.transform.table import ELEMENTWISE

# ---- single operations ----------------------------------------------------------------------------------------------


RNG = np.random.default_rng(1)
SMOOTH = jnp.asarray(RNG.standard_normal((3, 4)), jnp.float32)
SINGLE = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "softmax, first axis": lambda x: jax.nn.softmax(x, axis=0),
    "log_softmax, first axis": lambda x: jax.nn.log_softmax(x, axis=0),
    "softmax, mapped": jax.vmap(jax.nn.softmax),
    "log_softmax, mapped": jax.vmap(jax.nn.log_softmax),
    "logsumexp": lambda x: jax.nn.logsumexp(x, axis=-1),
    "logsumexp, kept": lambda x: jax.nn.logsumexp(x, axis=0, keepdims=True),
    "logsumexp, mapped": jax.vmap(jax.nn.logsumexp, in_axes=1),
    "softmax, mapped over columns": jax.vmap(jax.nn.softmax, in_axes=1),
    "softmax, mapped back": jax.vmap(jax.nn.softmax, in_axes=1, out_axes=1),
    "log_softmax, mapped over columns": jax.vmap(jax.nn.log_softmax, in_axes=1),
    "softmax, mapped twice": lambda x: jax.vmap(jax.vmap(jax.nn.softmax, 1), 2)(x.reshape(3, 2, 2)),
    "softmax, of a transpose": lambda x: jax.nn.softmax(x.T),
    "softmax, by hand": lambda x: (lambda e: e / e.sum(-1, keepdims=True))(jnp.exp(x - x.max(-1, keepdims=True))),
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
@pytest.mark.parametrize("name", SINGLE)
def test_activation(name, wrap):
    """Replaced in both front ends; each side within 32 roundings of terms that no cotangent's sum exceeds."""
    fn = wrap(SINGLE[name])
    manual = with_manual_rules(fn)
    assert manual.replaced(SMOOTH).counts == {name.split(",")[0]: 1}
    shape = jax.eval_shape(fn, SMOOTH).shape
    weights = np.resize(np.arange(-5.0, 7.0), shape)
    with jax.enable_x64(True):
        x, c = SMOOTH.astype(jnp.float64), jnp.asarray(weights)
        values = compiled(lambda x: [f(x) for f in (manual, fn)])(x)
        ours, theirs = compiled(lambda x: [jax.vjp(f, x)[1](c)[0] for f in (manual, fn)])(x)
    assert values[0].shape == shape
    assert np.abs(values[0] - values[1]).max() <= 32 * np.finfo(np.float64).eps * np.abs(values[1]).max()
    assert np.abs(ours - theirs).max() <= 2 * 32 * np.finfo(np.float64).eps * np.abs(weights).sum()


NO_SOFTMAX = {
    "another maximum": lambda x: (lambda e: e / e.sum(-1, keepdims=True))(jnp.exp(x - x[::-1].max(-1, keepdims=True))),
    "another axis": lambda x: (lambda e: e / e.sum(0, keepdims=True))(jnp.exp(x - x.max(-1, keepdims=True))),
    "another axis, turned": lambda x: (lambda e: e / e.sum(0)[:, None])(jnp.exp(x - x.max(-1, keepdims=True))),
    "another sum": lambda x: (lambda e: e / (e * e).sum(-1, keepdims=True))(jnp.exp(x - x.max(-1, keepdims=True))),
    "bounded below": lambda x: (lambda e: e / e.sum(-1, keepdims=True))(
        jnp.exp(x - jnp.maximum(x.max(-1, keepdims=True), 0.0))
    ),
    "masked": lambda x: jax.nn.softmax(x, where=x > 0),
    "two axes": lambda x: jax.nn.softmax(x, axis=(0, 1)),
    "another top": lambda x: jnp.log(jnp.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(0),
    "another zero": lambda x: (lambda t: jnp.log(jnp.exp(x - t).sum(-1, keepdims=True)) + t)(
        jnp.where(jnp.isfinite(x.max(-1, keepdims=True)), x.max(-1, keepdims=True), 1.0)
    ),
    "turned between": lambda x: (lambda e: e / e.sum(-1, keepdims=True).T)(jnp.exp(x - x.max(-1, keepdims=True))),
    "no log": lambda x: (lambda s: s - jnp.exp(s).sum(-1, keepdims=True))(x - x.max(-1, keepdims=True)),
}


@pytest.mark.parametrize("name", NO_SOFTMAX)
def test_what_only_resembles_a_softmax_stays(name):
    square = SMOOTH[:, :3]
    for fn in (NO_SOFTMAX[name], jax.jit(NO_SOFTMAX[name])):
        assert not len(with_manual_rules(fn).replaced(square))
        np.testing.assert_array_equal(with_manual_rules(fn)(square), fn(square))


LABELS = jnp.asarray([1, 3, 0])
CROSS_ENTROPIES = {
    "weights": (lambda z: -(jax.nn.one_hot(LABELS, 4) * jax.nn.log_softmax(z)).sum(), "log_softmax"),
    "indexed": (lambda z: -jax.nn.log_softmax(z)[jnp.arange(3), LABELS].sum(), "log_softmax"),
    "logsumexp": (lambda z: (jax.nn.logsumexp(z, -1) - z[jnp.arange(3), LABELS]).sum(), "logsumexp"),
    "optax, weights": (lambda z: optax.softmax_cross_entropy(z, jax.nn.one_hot(LABELS, 4)).sum(), "log_softmax"),
    "optax, integers": (lambda z: optax.softmax_cross_entropy_with_integer_labels(z, LABELS).sum(), "logsumexp"),
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_cross_entropy(name, wrap):
    """p - y, also of logits that overflow an exponential."""
    fn, operation = CROSS_ENTROPIES[name]
    manual = with_manual_rules(wrap(fn))
    assert manual.replaced(SMOOTH).counts == {operation: 1}
    for logits in (SMOOTH, SMOOTH * 1e4):
        expected = jax.nn.softmax(logits) - jax.nn.one_hot(LABELS, 4)
        assert np.abs(jax.grad(manual)(logits) - expected).max() <= 16 * np.finfo(np.float32).eps


A = jnp.asarray(RNG.integers(-3, 4, (2, 3, 4, 5)), jnp.float32)
B = jnp.asarray(RNG.integers(-3, 4, (5, 3, 2, 6)), jnp.float32)
CONTRACTIONS = {
    "matmul": lambda a, b: a[0, 0] @ b[:, 0, 0],
    "vector": lambda a, b: a[0, 0, 0] @ b[:, 0, 0, 0],
    "batch axes": lambda a, b: lax.dot_general(a, b, (((3,), (0,)), ((0, 1), (2, 1)))),
    "two sums": lambda a, b: jnp.einsum("bijc,ckbl->jkl", a, b),
    "mapped": lambda a, b: jax.vmap(jnp.dot)(a[0, :, 0], b[:, :, 0, 0].T),
    "precision": lambda a, b: jnp.matmul(a[0, 0], b[:, 0, 0], precision="highest"),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contraction(name):
    """First and second derivatives of dot_general, bit for bit."""
    fn = CONTRACTIONS[name]
    manual = with_manual_rules(fn)
    report = manual.replaced(A, B)
    assert report.counts == {"dense": 1}
    assert not report.left

    def derivatives(f):
        def loss(a, b):
            return (f(a, b) ** 2).sum()

        def along(a, b):
            da, db = jax.grad(loss, (0, 1))(a, b)
            return weigh(da) + weigh(db)

        return jax.grad(loss, (0, 1))(A, B), jax.grad(along, (0, 1))(A, B)

    ours, theirs = compiled(lambda: (derivatives(manual), derivatives(fn)))()
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert np.any(ours[1][0])


@pytest.mark.sample(2)
@pytest.mark.parametrize("result", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("float16", "float32"), ("float32", "bfloat16")])
def test_contraction_of_dtypes(dtypes, result):
    """Value and derivatives of two orders to the bit, each cotangent in the dtype of its operand."""
    a, b = (v.astype(dtype) for v, dtype in zip((A[0, 0], B[:, 0, 0]), dtypes, strict=True))

    def fn(a, b):
        return jnp.einsum("ij,jk->ik", a, b, preferred_element_type=result)

    def derivatives(f):
        gradient = jax.grad(lambda a, b: (f(a, b) ** 2).sum(), (0, 1))

        def along(a, b):
            return sum(weigh(d.astype(jnp.float32)) for d in gradient(a, b))

        return f(a, b), gradient(a, b), jax.grad(along, (0, 1))(a, b)

    with jax.numpy_dtype_promotion("standard"):  # of jnp.einsum
        manual = with_manual_rules(fn)
        assert manual.replaced(a, b).counts == {"dense": 1}
        ours, theirs = derivatives(manual), derivatives(fn)
    assert [v.dtype for v in ours[1]] == [v.dtype for v in ours[2]] == list(dtypes)
    assert [v.dtype for v in jax.tree.leaves(ours)] == [v.dtype for v in jax.tree.leaves(theirs)]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert np.any(ours[2][0])


def test_a_wide_cotangent_is_not_rounded_before_it_is_summed():
    """257 is no bfloat16; 257 - 256 is."""
    ones = jnp.ones((1, 2), jnp.bfloat16)

    def fn(a):
        return lax.dot(a, ones, preferred_element_type=jnp.float32)

    (da,) = jax.vjp(with_manual_rules(fn), ones[:, :1])[1](jnp.asarray([[257.0, -256.0]]))
    assert (da.dtype, da.tolist()) == (jnp.bfloat16, [[1.0]])


def test_precision_of_a_contraction_reaches_its_gradient():
    manual = with_manual_rules(CONTRACTIONS["precision"])
    gradient = jax.jit(jax.grad(lambda a, b: manual(a, b).sum(), (0, 1)))
    products = [line for line in gradient.lower(A, B).as_text().splitlines() if "dot_general" in line]
    assert len(products) == 2  # the value is not asked for
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
@pytest.mark.parametrize("options", [(), (0.25,)], ids=["default", "slope"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_leaky_relu(dtype, options, wrap):
    """At 0 the slope is 1, as in jax.nn."""
    x = jnp.asarray([-2.0, -0.0, 0.0, 3.0], dtype)
    fn = wrap(lambda x: jax.nn.leaky_relu(x, *options))
    manual = with_manual_rules(fn)
    assert manual.replaced(x).counts == {"leaky_relu": 1}
    for f in (lambda f: f(x), lambda f: jax.vjp(f, x)[1](x + 1)[0]):
        np.testing.assert_array_equal(f(manual), f(fn))


ACTIVATIONS = {
    **{name: getattr(jax.nn, name) for name in ELEMENTWISE},
    "elu, 0.5": lambda x: jax.nn.elu(x, 0.5),
    "celu, 0.5": lambda x: jax.nn.celu(x, 0.5),
    "swish": jax.nn.swish,
    "glu, first axis": lambda x: jax.nn.glu(x.reshape(2, 5), axis=0),
    "gelu": jax.nn.gelu,
    "gelu, exact": lambda x: jax.nn.gelu(x, approximate=False),
}


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, lambda f: jax.jit(lambda x: f(x))], ids=["values", "jit", "jaxpr"]
)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, wrap):
    """By name, or, gelu, by its formula; jax.nn's numbers, also at kinks, in float64: gelu's tail loses 14 bits."""
    x = np.float64([[-4.0, -3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0, 6.0, 7.0]])
    fn = wrap(ACTIVATIONS[name])
    manual = with_manual_rules(fn)
    with jax.enable_x64(True):
        report = manual.replaced(x)
        ours, theirs = (jax.jit(jax.value_and_grad(lambda x, f=f: f(x).sum()))(x) for f in (manual, fn))
    operation = {"swish": "silu"}.get(name, name.partition(",")[0])
    assert report.counts[operation] == 1
    assert report.counts.keys() <= {operation, "tanh"}
    assert not report.left
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2**-36)


FORMULAS = {
    "silu": lambda x: x * jax.nn.sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
    "gelu, factored": lambda x: x * (0.5 * (jnp.tanh(x * 0.7978845608 * (1 + 0.044715 * x**2)) + 1)),
    "gelu, sigmoid": lambda x: x * jax.nn.sigmoid(1.5957691216 * (x + 0.044715 * x**3)),
    "gelu, erf": lambda x: x * (1 + lax.erf(x / 1.41421356)) / 2,
    "gelu, halves": lambda x: jax.nn.gelu(x.astype(jnp.bfloat16)).astype(jnp.float32),
    "gelu, exact halves": lambda x: jax.nn.gelu(x.astype(jnp.float16), approximate=False).astype(jnp.float32),
    "gelu, of a scaled x": lambda x: jax.nn.gelu(x / 3 + 1),
}
OTHERS = {
    "another constant": lambda x: 0.5 * x * (1 + jnp.tanh(0.7978 * (x + 0.044715 * x**3))),
    "another square": lambda x: 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**2))),
    "a quick gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "the next constant": lambda x: (lambda x: x * jax.nn.sigmoid(1.0078125 * x))(x.astype(jnp.bfloat16)),
    "another x": lambda x: (x + 1) * jax.nn.sigmoid(x),
    "x of another row": lambda x: x * jax.nn.sigmoid(x[::-1]),
}


@pytest.mark.parametrize("name", [*FORMULAS, *OTHERS])
def test_activations_by_their_formula(name):
    """However it is written, and nothing else."""
    fn = {**FORMULAS, **OTHERS}[name]
    manual = with_manual_rules(jax.jit(lambda x: fn(x)))
    counts = manual.replaced(SMOOTH).counts
    assert [o for o in counts if o not in ("tanh", "sigmoid")] == [name.partition(",")[0]] * (name in FORMULAS)
    ours, theirs = compiled(lambda x: [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (manual, fn)])(SMOOTH)
    roundings = 2**-18 if "halves" not in name and name != "the next constant" else 2**-4
    np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=roundings, atol=roundings)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
def test_arithmetic_of_other_numbers_stays(wrap):
    """Integers, complex numbers, booleans, keys: no polynomial is sought in them."""

    def fn(i, z):
        key = jax.random.fold_in(jax.random.key(0), i[0])
        return -(i * i) + 2 * i, z * z / 2, (i > 1) | (i < 0), jax.random.normal(key, (2,)) * 0.5, i**3

    args = jnp.arange(3), jnp.asarray([0, 1j, 2j])
    manual = with_manual_rules(wrap(fn))
    assert not manual.replaced(*args).replaced
    jax.tree.map(np.testing.assert_array_equal, manual(*args), wrap(fn)(*args))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["values", "jaxpr"])
def test_the_parts_of_an_activation_that_is_not_selected(wrap):
    """The sigmoid of a silu; and one that fnconv does not have is named."""
    report = with_manual_rules(wrap(lambda x: jax.nn.silu(x)), only=["sigmoid"]).replaced(SMOOTH)
    assert report.counts == {"sigmoid": 1}
    assert [(s.operation, s.reason) for s in report.left] == [("silu", "not in `only`")]
    report = with_manual_rules(wrap(lambda x: jax.nn.tanh(jax.nn.squareplus(x)))).replaced(SMOOTH)
    assert report.counts == {"tanh": 1}
    assert [(s.operation, s.types) for s in report.left] == [("squareplus", "f32[3,4] -> f32[3,4]")]
    assert "test_transform_operations.py" in report.left[0].source


@pytest.mark.parametrize(
    ("computation", "neutral", "operation"), [(lax.min, np.inf, "min_pool"), (lax.add, 0.0, "avg_pool")]
)
def test_other_window_reductions(computation, neutral, operation):
    def fn(x):
        return weigh(lax.reduce_window(x, neutral, computation, (1, 3, 2, 1), (1, 2, 2, 1), "SAME"))

    manual = with_manual_rules(fn)
    assert manual.replaced(X).counts == {operation: 1}
    np.testing.assert_array_equal(jax.grad(manual)(X), jax.grad(fn)(X))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_transposed_and_grouped_convolutions(strides):
    def fn(w, x):
        up = lax.conv_transpose(x, w, strides, "SAME")
        options = {"rhs_dilation": (2, 1), "feature_group_count": 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return weigh(lax.conv_general_dilated(up, w[:, :, :1], strides, "SAME", **options))

    manual = with_manual_rules(fn)
    assert manual.replaced(W, X).counts == {"conv": 2}
    ours, theirs = compiled(lambda w, x: [jax.grad(f, (0, 1))(w, x) for f in (manual, fn)])(W, X)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# ---- arguments and report -------------------------------------------------------------------------------------------


def test_only():
    manual = with_manual_rules(net, only=("conv", "max_pool"))
    report = manual.replaced(W, X)
    assert report.counts == {"conv": 1, "max_pool": 1}
    assert [(s.operation, s.reason) for s in report.left] == [("relu", "not in `only`")]
    np.testing.assert_array_equal(jax.grad(manual)(W, X), jax.grad(net)(W, X))
    inner = jax.jit(net)  # one jaxpr, two selections
    assert with_manual_rules(inner, only=["relu"]).replaced(W, X).counts == {"relu": 1}
    assert with_manual_rules(inner).replaced(W, X).counts == ONE


@pytest.mark.parametrize(
    ("only", "error", "message"),
    [
        ("conv", TypeError, r"with_manual_rules: only must be a collection of names; got 'conv'"),
        (3, TypeError, "only must be a collection of names; got 3"),
        (("conv", "pool"), ValueError, r"only must name operations among conv, max_pool, .*; got \['pool'\]"),
        ((), ValueError, r"only must name operations among .*; got \(\)"),
    ],
)
def test_only_is_checked(only, error, message):
    with pytest.raises(error, match=message):
        with_manual_rules(net, only=only)


def test_fn_is_checked():
    with pytest.raises(TypeError, match="with_manual_rules: fn must be a function; got int"):
        with_manual_rules(3)


def test_report():
    report = with_manual_rules(net).replaced(jax.ShapeDtypeStruct(W.shape, W.dtype), X)
    assert len(report) == 3
    assert [s.primitive for s in report] == ["conv_general_dilated", "custom_jvp_call", "reduce_window_max"]
    assert report[0].types == "f32[2,6,6,2], f32[3,3,2,2] -> f32[2,6,6,2]"
    assert "(conv)" in report[0].source
    assert repr(report) == "<Report on net: 3 replaced, 0 left>"
    lines = str(report).splitlines()
    assert lines[0] == "net: 3 replaced, 0 left as they were"
    assert [line.split()[0] for line in lines[1:]] == ["conv", "relu", "max_pool"]


def test_the_line_of_each_caller():
    """Functions of JAX's own are traced once; their callers are told apart."""

    def fn(x):
        y = jnp.matmul(x, x)
        return jnp.matmul(y, x)

    x = jnp.ones((7, 7))  # a shape of this test's alone
    for f in (jax.jit(fn), fn):
        lines = [s.source.split(":")[1] for s in with_manual_rules(f).replaced(x)]
        assert int(lines[1]) == int(lines[0]) + 1


def test_name_and_signature_stay():
    manual = with_manual_rules(net)
    assert manual.__name__ == "net"
    assert manual.__wrapped__ is net
