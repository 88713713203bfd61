# %% [markdown]
# # 8 Check your own rule
#
# With `jax.custom_vjp` anybody can give a function a gradient written by hand. People do so for speed, for memory,
# for numbers that must not overflow. But nobody checks: JAX believes whatever the rule returns, and a network trained
# with a slightly wrong gradient often still learns, only worse. This notebook makes such a mistake, watches ordinary
# tests miss it, finds it with `fnconv.check_vjp`, and mends it.
#
# 1. a rule of our own, and a slip
# 2. the slip, seen
# 3. tests that are easily written, and what they miss
# 4. `check_vjp`
# 5. a gallery of mistakes
# 6. right, until it is differentiated again
# 7. kinks are no mistakes
# 8. three exercises
#
# **Letters of this notebook.** Indices start from 0. Terms are explained in the [glossary](glossary.md).
#
# | letter | meaning |
# |:---|:---|
# | $z$ | the loss |
# | $x_{b,i}$ | cell $i$ of signal $b$ of a batch |
# | $w_k$ | entry $k$ of the kernel |
# | $y_{b,o}$ | output $o$ of signal $b$ |
# | $\delta_{b,o}$ | the cotangent of $y_{b,o}$, in the code `dy` |

# %%
import jax
import jax.numpy as jnp
import numpy as np
from fnconv import check_vjp
from jax import lax

from pictures import Canvas

random = np.random.default_rng(8)


def integers(*shape):
    return jnp.asarray(random.integers(-5, 6, shape), jnp.float32)


# %% [markdown]
# ## 1. A rule of our own, and a slip
#
# The function is the correlation of notebook 6, in one dimension, for a batch of signals and one kernel:
# $y_{b,o} = \sum_k x_{b,o+k}\, w_k$. We write its gradient by hand, as one would in a project of one's own. From the
# sum we read off: $\partial z/\partial x_{b,i} = \sum_k \delta_{b,i-k}\, w_k$ and
# $\partial z/\partial w_k = \sum_{b,o} \delta_{b,o}\, x_{b,o+k}$.


# %%
def correlate(x, w):
    n = x.shape[1] - w.shape[0] + 1
    return sum(x[:, k : k + n] * w[k] for k in range(w.shape[0]))


def input_gradient(dy, w):
    """The sum over k of dy moved by k, times w[k]."""
    last = w.shape[0] - 1
    return sum(jnp.pad(dy, ((0, 0), (k, last - k))) * w[k] for k in range(w.shape[0]))


def kernel_gradient(x, dy):
    n = dy.shape[1]
    return jnp.stack([(x[:, k : k + n] * dy).sum() for k in range(x.shape[1] - n + 1)])


def with_rule(bwd):
    """The correlation with a backward pass of our own: (what was kept, cotangent) -> (dx, dw)."""
    function = jax.custom_vjp(correlate)
    function.defvjp(lambda x, w: (correlate(x, w), (x, w)), bwd)
    return function


# %% [markdown]
# Many remember: "in the backward pass the kernel is turned by 180 degrees". That is true where a *correlation* computes
# the input gradient, as in notebook 3. The sum above moves the cotangent by $k$ instead, and uses the kernel as it is.
# Somebody who turns it all the same writes this:


# %%
def rotated_once_too_often(kept, dy):
    x, w = kept
    return input_gradient(dy, w[::-1]), kernel_gradient(x, dy)


ours = with_rule(rotated_once_too_often)

# %% [markdown]
# ## 2. The slip, seen
#
# One signal, one kernel, one cotangent; on the right what the rule returns and what it should return:

# %%
x, w, dy = jnp.array([[1.0, 2, 0, -1, 3]]), jnp.array([1.0, 2, 4]), jnp.array([[1.0, 0, -1]])
wrong = jax.vjp(ours, x, w)[1](dy)[0]
right = jax.vjp(correlate, x, w)[1](dy)[0]

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(x, "$x$", colour="x")
canvas.array(w[None], "$w$", colour="w")
canvas.array(dy, r"$\delta$", colour="d")
canvas.line()
different = [(0, i) for i in range(5) if wrong[0, i] != right[0, i]]
canvas.array(wrong, "the rule's $dx$", colour="g", mark=different)
canvas.array(right, "the right $dx$", colour="g")
canvas.show()

# %% [markdown]
# ## 3. Tests that are easily written, and what they miss
#
# Side by side: four tests that people write, and six rules, one right and five wrong, each in its own way.


# %%
def mean_over_the_batch(kept, dy):
    x, w = kept
    return input_gradient(dy, w), kernel_gradient(x, dy) / x.shape[0]


def forgets_the_cotangent(kept, dy):
    x, w = kept
    return input_gradient(jnp.ones_like(dy), w), kernel_gradient(x, jnp.ones_like(dy))


def loses_a_sign(kept, dy):
    x, w = kept
    return input_gradient(dy, jnp.abs(w)), kernel_gradient(x, dy)


def stops_the_gradient(kept, dy):
    x, w = kept
    return input_gradient(dy, lax.stop_gradient(w)), kernel_gradient(x, dy)


def correct(kept, dy):
    x, w = kept
    return input_gradient(dy, w), kernel_gradient(x, dy)


rules = {
    "correct": correct,
    "rotated once\ntoo often": rotated_once_too_often,
    "mean instead\nof sum": mean_over_the_batch,
    "forgets the\ncotangent": forgets_the_cotangent,
    "loses a sign": loses_a_sign,
    "stops the\ngradient": stops_the_gradient,
}


# %%
def right_shapes(f):
    x, w = integers(4, 6), integers(3)
    gradients = jax.grad(lambda x, w: f(x, w).sum(), argnums=(0, 1))(x, w)
    return [g.shape for g in gradients] == [x.shape, w.shape]


def friendly_numbers(f):
    """Ones, a symmetric kernel, the sum as loss: what one can check in one's head."""
    x, w = jnp.ones((4, 6)), jnp.array([1.0, 2, 1])
    theirs, own = (jax.grad(lambda x, w, g=g: g(x, w).sum(), (0, 1))(x, w) for g in (correlate, f))
    return all(bool((a == b).all()) for a, b in zip(theirs, own, strict=True))


def linear_in_the_cotangent(f):
    y, recipe = jax.vjp(f, integers(4, 6), integers(3))
    dy = integers(*y.shape)
    return all(bool((2 * a == b).all()) for a, b in zip(recipe(dy), recipe(2 * dy), strict=True))


def dot_test(f):
    """<dy, y> = <x, dx> = <w, dw>, for the correlation is linear in each argument."""
    x, w = integers(4, 6), integers(3)
    y, recipe = jax.vjp(f, x, w)
    dy = integers(*y.shape)
    dx, dw = recipe(dy)
    return bool(jnp.vdot(dy, y) == jnp.vdot(x, dx)) and bool(jnp.vdot(dy, y) == jnp.vdot(w, dw))


tests = {
    "the shapes are right": right_shapes,
    "friendly numbers": friendly_numbers,
    "linear in the cotangent": linear_in_the_cotangent,
    "dot test": dot_test,
}
passed = {test: [f(with_rule(bwd)) for bwd in rules.values()] for test, f in tests.items()}


# %% tags=["hide-input"]
def picture_of(passed):
    canvas = Canvas()
    canvas.array(
        [["passes" if ok else "fails" for ok in row] for row in passed.values()],
        colour=[["y" if ok else "d" for ok in row] for row in passed.values()],
        rows=list(passed),
        columns=list(rules),
    )
    return canvas.show()


picture_of(passed)

# %% [markdown]
# Read it column by column. The rotation is invisible to the friendly numbers because $(1, 2, 1)$ reads the same
# backwards. The forgotten cotangent is invisible where the loss is a sum, whose cotangent *is* one. A lost sign needs
# negative numbers to show. And the last rule passes everything one usually thinks of (section 6). Two lessons:
#
# * test with *ugly* numbers: random, of both signs, no symmetry, a cotangent that is not constant;
# * small **integers** in floating-point arithmetic make every comparison exact, so that no tolerance can hide
#   anything.
#
# ## 4. `check_vjp`
#
# `fnconv.check_vjp(function, *arguments)` does all this and more. It compares the rule with automatic
# differentiation of the same function *without* its rule: in float64, where only mistakes make a difference; in the
# function's own precision, against what rounding can explain; on integers, bit for bit. It tests linearity, the dot
# test, finite differences, second derivatives, `jit`, `vmap` and others; and where something is wrong it shows the
# worst element and looks for an explanation.

# %%
signals, kernel = integers(4, 6), jnp.array([1.0, -2, 4])
report = check_vjp(ours, signals, kernel)
print("ok:", report.ok)
print("wrong:", sorted({failure.argument for failure in report.failures}))

# %% tags=["volatile"]
print(report)

# %% [markdown]
# The cotangent of `x` is wrong and that of `w` is not, and the diagnosis names the cause: what comes out is what
# would be right for the reversed kernel. We take the rotation out:

# %%
mended = with_rule(correct)
report = check_vjp(mended, signals, kernel)
print("ok:", report.ok)

# %% [markdown]
# In a test suite one line does it; where it fails, the report is the message:
#
# ```python
# from fnconv.testing import assert_vjp
#
# def test_my_rule():
#     assert_vjp(my_rule, x, w)
# ```
#
# ## 5. A gallery of mistakes
#
# The other rules, too? Here is the table of section 3 again, with one more line:

# %%
reports = {"correct": report}
reports |= {name: check_vjp(with_rule(rules[name]), signals, kernel) for name in list(rules)[1:]}
passed["check_vjp"] = [reports[name].ok for name in rules]

# %% tags=["hide-input"]
picture_of(passed)

# %% [markdown]
# And these are the causes that `check_vjp` names:

# %% tags=["volatile"]
for name in list(rules)[1:]:
    first = reports[name].failures[0]
    print(name.replace("\n", " "))
    print(f"    d{first.argument}: {first.diagnosis}")

# %% [markdown]
# ## 6. Right, until it is differentiated again
#
# The last rule returns the right gradient, always. But it says `stop_gradient`: when *it* is differentiated, for a
# Hessian or a gradient penalty, the dependence of $dx$ on $w$ is lost without a word. The same happens with residuals
# that are computed outside of JAX. `check_vjp` therefore compares second derivatives, too, unless `order=1` asks for
# first ones only.

# %%
stopped = with_rule(stops_the_gradient)
print("first derivatives:      ", check_vjp(stopped, signals, kernel, order=1).ok)
print("second ones as well:    ", reports["stops the\ngradient"].ok)


def penalty(f):
    """The squared size of the gradient with respect to x, as a function of w."""
    return lambda w: (jax.grad(lambda x: (f(x, w) ** 2).sum())(jnp.ones((1, 5))) ** 2).sum()


print("gradient of a penalty:  ", jax.grad(penalty(stopped))(jnp.array([1.0, 2, 4])))
print("what it should be:      ", jax.grad(penalty(correlate))(jnp.array([1.0, 2, 4])))

# %% [markdown]
# ## 7. Kinks are no mistakes
#
# $\operatorname{ReLU}$ has no derivative at 0. The library takes 0 there, as (5.2) does; somebody else may take 1,
# and would not be wrong: every number between the slopes of the two sides is a *subgradient*. `check_vjp` lets it
# pass, and notes it; a slope outside of the two sides is an error.


# %%
def relu_with(slope_at_zero):
    def relu(x):
        return jnp.maximum(x, 0)

    def backward(x, dy):
        return (jnp.where(x == 0, slope_at_zero, x > 0) * dy,)

    function = jax.custom_vjp(relu)
    function.defvjp(lambda x: (relu(x), x), backward)
    return function


for at_zero in (1.0, 2.0):
    report = check_vjp(relu_with(at_zero), jnp.array([-1.0, 0, 2]))
    print(f"slope {at_zero} at 0: ok {report.ok}")

# %% [markdown]
# ## 8. Exercises
#
# In all three you write a backward pass, and `check_vjp` judges it.


# %%
def judge(forward, bwd, *arguments):
    """Print what comes of the rule `bwd` for `forward`."""
    rule = jax.custom_vjp(forward)
    rule.defvjp(lambda *given: (forward(*given), given), bwd)
    answer = bwd(arguments, jnp.ones_like(forward(*arguments)))
    if answer is ... or any(part is ... for part in answer):
        print("not done yet")
        return
    report = check_vjp(rule, *arguments)
    if report.ok:
        print("right")
    else:
        print(f"wrong: d{report.failures[0].argument}: {report.failures[0].diagnosis}")


# %% [markdown]
# ### Exercise 1: softplus
#
# $\operatorname{softplus}(x) = \log(1 + e^x)$ is a smooth ReLU. Write its backward pass: from the tuple `kept` (here
# the one argument `x`) and the cotangent `dy`, return a tuple with one gradient.
#
# <details><summary>Hint</summary>
#
# The derivative of softplus is the sigmoid of notebook 4, $e^x / (1 + e^x) = 1 / (1 + e^{-x})$. The comma in
# `(...,)` makes a tuple of one entry.
#
# </details>


# %% tags=["exercise-1"]
def softplus_backward(kept, dy):
    (x,) = kept
    return (...,)


# %% tags=["check-1"]
judge(lambda x: jnp.logaddexp(x, 0), softplus_backward, jnp.array([-2.0, 0.5, 3]))

# %% [markdown]
# ### Exercise 2: a running sum
#
# `y = jnp.cumsum(x)` has $y_i = x_0 + \dots + x_i$. Write the backward pass (for a vector `x`) without `jax.vjp` and
# the like.
#
# <details><summary>Hint</summary>
#
# $x_i$ stands in $y_i$ and in all outputs after it, each time with the factor 1. So its gradient is a sum from $i$ to
# the end: a running sum, from the other side.
#
# </details>


# %% tags=["exercise-2"]
def cumsum_backward(kept, dy):
    return (...,)


# %% tags=["check-2"]
judge(lambda x: jnp.cumsum(x), cumsum_backward, jnp.array([1.0, -2, 3, 0.5]))

# %% [markdown]
# ### Exercise 3: mend a rule
#
# A weighted mean over the last axis, $y_b = \sum_i x_{b,i}\, w_i \,\big/ \sum_i w_i$, and a backward pass that
# somebody wrote for it. Look at the report, find the mistake, and write the right one below.
#
# <details><summary>Hint</summary>
#
# $w_i$ stands in the numerator *and* in the denominator. By the quotient rule
# $\frac{\partial y_b}{\partial w_i} = (x_{b,i} - y_b) \,\big/ \sum_j w_j$.
#
# </details>


# %% tags=["volatile"]
def weighted_mean(x, w):
    return x @ w / w.sum()


def somebodys_backward(kept, dy):
    x, w = kept
    return dy[:, None] * w / w.sum(), dy @ x / w.sum()


points = jnp.array([[1.0, 2, 4], [0, -3, 5]]), jnp.array([2.0, 1, 1])
judge(weighted_mean, somebodys_backward, *points)


# %% tags=["exercise-3"]
def weighted_mean_backward(kept, dy):
    x, w = kept
    return ..., ...


# %% tags=["check-3"]
judge(weighted_mean, weighted_mean_backward, *points)

# %% [markdown]
# The library's own rules stand beside the equations they come from, in `fnconv/rules` and `fnconv/ops`; with what you
# know now you can read all of them.
#
# **Next:** [9 Normalisation](09_normalisation.ipynb).
