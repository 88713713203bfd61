# %% [markdown]
# # 9 Normalisation
#
# Between the layers of nearly every network since 2015 stands a small operation that shifts and scales numbers until
# their mean is 0 and their variance 1. Its gradient looks frightening when it is derived step by step, and is one
# line when it is derived by what the operation does *not* see. This notebook does both, and then measures what
# normalisation does to learning and to memory.
#
# 1. one group of numbers
# 2. what the operation does not see
# 3. the gradient is a projection
# 4. the long way gives the same line
# 5. the small number under the root
# 6. layer, RMS, group, instance, batch
# 7. what it does to learning: conditioning
# 8. what it does to learning: weights without a length
# 9. what must be kept
# 10. three exercises
#
# **Letters of this notebook.** Indices start from 0. Terms are explained in the [glossary](glossary.md).
#
# | letter | meaning |
# |:---|:---|
# | $\mathbf{x}$, $n$ | one group of numbers, and how many they are |
# | $m$, $v$ | their mean and their variance, $v = \frac{1}{n} \sum_i (x_i - m)^2$ |
# | $\varepsilon$, $r$ | a small number, and $r = 1 / \sqrt{v + \varepsilon}$ |
# | $\mathbf{z}$ | the normalised numbers, $z_i = r\,(x_i - m)$ |
# | $\mathbf{1}$ | the vector of $n$ ones |
# | $s$, $b$, $\mathbf{y}$ | scale, bias, and the output $y_i = s\, z_i + b$ |
# | $\mathbf{g}$ | the cotangent of $\mathbf{z}$; $d\mathbf{x}$, $ds$, $db$ are those of $\mathbf{x}$, $s$, $b$ |
# | $J$, $P$ | the Jacobian $\partial \mathbf{z} / \partial \mathbf{x}^T$, and a projection |
# | $A$, $\mathbf{w}$, $L$ | a matrix of inputs, weights, and a loss |
# | $H$, $\kappa$ | the Hessian of a loss, and its condition number |
# | $\alpha$, $c$ | the learning rate, and a positive number |
# | $\overline{\mathbf{a}}$ | the mean of the entries of $\mathbf{a}$, in the code `a.mean()` |

# %%
from itertools import pairwise

import fnconv
import jax
import jax.numpy as jnp
import numpy as np

from exercises import check
from pictures import COLOURS, Canvas, Step, chart, flow

random = np.random.default_rng(9)

# %% [markdown]
# ## 1. One group of numbers
#
# Take $n$ numbers. Subtract their mean, divide by their deviation:
#
# $$ m = \frac{1}{n} \sum_i x_i, \qquad v = \frac{1}{n} \sum_i (x_i - m)^2, \qquad
# z_i = \frac{x_i - m}{\sqrt{v + \varepsilon}} = r\,(x_i - m) . $$
#
# The small $\varepsilon$ keeps the root away from 0; until section 5 it is 0. Numbers at which all is whole:

# %%
x = jnp.array([7.0, 3, 3, 7, 7, 3, 7, 3])
n = x.size
m, v = x.mean(), x.var()
r = 1 / jnp.sqrt(v)
z = r * (x - m)
print("mean", m, " variance", v, " r", r)
print("z", z.astype(int).tolist())
print("fnconv.layer_norm gives the same:", bool((fnconv.layer_norm(x, epsilon=0.0) == z).all()))

# %% [markdown]
# ## 2. What the operation does not see
#
# Add the same number to all $x_i$, and $\mathbf{z}$ stays as it is: $m$ moves along. Stretch the numbers away from
# their mean by a factor $c > 0$, and $\mathbf{z}$ stays as it is: $r$ shrinks as much. So among the $n$ directions in
# which $\mathbf{x}$ can move there are two that the operation does not see:
#
# $$ \mathbf{z}(\mathbf{x} + t\, \mathbf{1}) = \mathbf{z}(\mathbf{x}), \qquad
# \mathbf{z}(\mathbf{x} + t\, (\mathbf{x} - m \mathbf{1})) = \mathbf{z}(\mathbf{x}) . $$
#
# Differentiate both by $t$ at $t = 0$. With the Jacobian $J$ of (1.1), a row for each output, they say
#
# $$ J\, \mathbf{1} = \mathbf{0}, \qquad J\, \mathbf{z} = \mathbf{0}, $$
#
# since $\mathbf{x} - m\mathbf{1}$ is a multiple of $\mathbf{z}$. Another two facts are about what comes out: the sum
# of the $z_i$ is always 0, and the sum of their squares always $n$. So no move of $\mathbf{x}$ changes
# $\mathbf{1}^T \mathbf{z}$ or $\mathbf{z}^T \mathbf{z}$, which says that $\mathbf{1}^T J = \mathbf{0}$ and
# $\mathbf{z}^T J = \mathbf{0}$.

# %%
J = jax.jacobian(lambda x: fnconv.layer_norm(x, epsilon=0.0))(x)
for name, product in (
    ("J 1", J @ jnp.ones(n)),
    ("J z", J @ z),
    ("1' J", jnp.ones(n) @ J),
    ("z' J", z @ J),
):
    print(f"{name:4} is 0:", bool((product == 0).all()))

# %% [markdown]
# ## 3. The gradient is a projection
#
# In the directions that are orthogonal to $\mathbf{1}$ and to $\mathbf{z}$ neither $m$ nor $v$ changes to first order,
# so there the operation is nothing but the multiplication by $r$: $J \mathbf{u} = r\, \mathbf{u}$. That is all there
# is to know. $J$ is $r$ times the map that deletes two directions and keeps the rest, an orthogonal **projection**:
#
# $$ J = r P, \qquad P = I - \frac{1}{n} \mathbf{1} \mathbf{1}^T - \frac{1}{n} \mathbf{z} \mathbf{z}^T . $$
#
# (Both directions have the squared length $n$, and they are orthogonal to each other, as the $z_i$ add up to 0.)
# $P$ is symmetric, so $J^T = J$, and the cotangent $\mathbf{g}$ of $\mathbf{z}$ becomes that of $\mathbf{x}$ by
# $d\mathbf{x} = J^T \mathbf{g}$. Written out:
#
# $$ d\mathbf{x} = r\, \bigl( \mathbf{g} - \overline{\mathbf{g}}\, \mathbf{1} - \overline{\mathbf{g} \mathbf{z}}\,
# \mathbf{z} \bigr) . $$
#
# One line: take from $\mathbf{g}$ its mean, and what it has in common with $\mathbf{z}$.


# %%
def normalise_backward(z, r, g):
    return r * (g - g.mean() - z * (g * z).mean())


P = J / r
g = jnp.asarray(random.integers(-8, 9, n) * 4.0)
_, pullback = jax.vjp(lambda x: (x - x.mean()) / jnp.sqrt(x.var()), x)
print("P P = P:", bool((P @ P == P).all()), "  P symmetric:", bool((P == P.T).all()))
print("dx by hand                  ", normalise_backward(z, r, g))
print(
    "automatic, up to rounding:",
    bool(jnp.allclose(normalise_backward(z, r, g), pullback(g)[0], atol=1e-5)),
)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array((n * jnp.eye(n)).astype(int), "$n\\,I$", zeros=False)
canvas.text("$-$")
canvas.array(jnp.ones((n, n), int), "$1\\,1^T$")
canvas.line()
canvas.text("$-$")
canvas.array(jnp.outer(z, z).astype(int), "$z\\,z^T$")
canvas.text("$=$")
canvas.array((n * P).astype(int), "$n\\,P$", colour="x", zeros=False)
canvas.show()

# %% [markdown]
# For the eight numbers above. Every row and every column of $P$ adds up to 0: that is the first direction. Numbers of
# the two kinds, 7 and 3, do not see each other: that is the second.
#
# ## 4. The long way gives the same line
#
# The paper that introduced batch normalisation (Ioffe and Szegedy, 2015) goes by the chain rule (1.4) through every
# intermediate value: $\mathbf{x}$ acts directly, through $v$, and through $m$. In this order:
#
# $$ dv = \sum_i g_i\, (x_i - m) \cdot \left( -\tfrac12 r^3 \right), \qquad
# dm = -r \sum_i g_i, \qquad
# dx_i = r\, g_i + \frac{2 (x_i - m)}{n} dv + \frac{1}{n} dm . $$
#
# ($m$ also acts on $v$, but $\partial v / \partial m = -\frac{2}{n} \sum_i (x_i - m) = 0$.) Put $dv$ and $dm$ in, with
# $x_i - m = z_i / r$: the second term becomes $-r z_i\, \overline{\mathbf{g} \mathbf{z}}$, the third
# $-r\, \overline{\mathbf{g}}$. It is the line of section 3.


# %%
def the_long_way(x, g):
    m, v = x.mean(), x.var()
    r = 1 / jnp.sqrt(v)
    dv = (g * (x - m)).sum() * (-(r**3) / 2)
    dm = -r * g.sum()
    return r * g + 2 * (x - m) / x.size * dv + dm / x.size


print("the same numbers:", bool((the_long_way(x, g) == normalise_backward(z, r, g)).all()))

# %% [markdown]
# Scale and bias come after, $y_i = s z_i + b$, so with the cotangent $d\mathbf{y}$ of the output
# $\mathbf{g} = s\, d\mathbf{y}$, and $ds = \sum_i dy_i\, z_i$, $db = \sum_i dy_i$. The whole layer, forward and
# backward:

# %% tags=["hide-input"]
flow(
    ["$x$", "$z$", "$y$"],
    [
        Step("$r\\,(x - m)$", "$r\\,(g - \\overline{g} - z\\,\\overline{g z})$", kept="x, m, r"),
        Step(
            "$s\\,z + b$", "$s\\,dy$", weight="$s,\\ b$", weight_gradient="$\\sum dy\\,z,\\ \\sum dy$"
        ),
    ],
    ["$dx$", "$g$", "$dy$"],
)

# %% [markdown]
# ## 5. The small number under the root
#
# With $\varepsilon > 0$ the line stays as it is: $J = r\,(I - \frac{1}{n} \mathbf{1}\mathbf{1}^T - \frac{1}{n}
# \mathbf{z} \mathbf{z}^T)$ still holds, with the $r$ and the $\mathbf{z}$ that have $\varepsilon$ in them. What changes
# is the length of $\mathbf{z}$: now $\mathbf{z}^T \mathbf{z} = n\, v / (v + \varepsilon)$, a little below $n$. So the
# direction of $\mathbf{z}$ is not deleted but multiplied by
# $1 - v / (v + \varepsilon) = \varepsilon / (v + \varepsilon)$.
# For a group of equal numbers $v = 0$ and $\mathbf{z} = \mathbf{0}$, and only the mean is taken away.

# %%
for epsilon in (0.0, 1.0, 4.0):
    J = jax.jacobian(lambda x, e=epsilon: fnconv.layer_norm(x, epsilon=e))(x)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.asarray(J) * np.sqrt(float(v) + epsilon)))
    print(f"epsilon {epsilon}: eigenvalues of J / r:", (np.round(eigenvalues, 5) + 0.0).tolist())

# %% [markdown]
# One is 0, one is $\varepsilon / (4 + \varepsilon)$, all others are 1.
#
# How $v$ is *computed* matters as well. The formula $v = \overline{\mathbf{x}^2} - m^2$ needs one pass over the
# data, but subtracts two large numbers when the mean is large. The library subtracts the group's first number before
# anything else, which changes nothing in exact arithmetic:

# %%
far = jnp.asarray(10_000 + random.standard_normal(1000), jnp.float32)
exact = np.var(np.asarray(far, np.float64))
one_pass = float((far**2).mean() - far.mean() ** 2)
ours = float(fnconv.batch_norm(far[:, None]).variance[0])
print("one pass is off by more than the variance itself:", abs(one_pass - exact) > exact)
print("ours has five digits:", abs(ours - exact) < 1e-5 * exact)

# %% [markdown]
# ## 6. Layer, RMS, group, instance, batch
#
# All normalisations are this one function. They differ in *which numbers are a group*. Let a batch of images be
# numbers $x[i, p, k]$: image $i$, position $p$, channel $k$.
#
# | | one group is | its axes | from |
# |:---|:---|:---|:---|
# | batch norm | one channel, over all images and positions | $i, p$ | Ioffe and Szegedy, 2015 |
# | instance norm | one channel of one image | $p$ | Ulyanov et al., 2016 |
# | group norm | some neighbouring channels of one image | $p$ and a part of $k$ | Wu and He, 2018 |
# | layer norm | all channels at one position of one image | $k$ | Ba et al., 2016 |
# | RMS norm | the same; the mean is not subtracted | $k$ | Zhang and Sennrich, 2019 |
#
# Here for two images with three positions and four channels; cells with one number are one group:

# %% tags=["hide-input"]
i, p, k = np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing="ij")
groups = {
    "batch": k,
    "instance": 4 * i + k,
    "group, 2 groups": 2 * i + k // 2,
    "layer": 3 * i + p,
}
canvas = Canvas()
for number, (name, cells) in enumerate(groups.items()):
    if number == 2:
        canvas.line()
    for image in range(2):
        labels = {"rows": [f"p={a}" for a in range(3)]} if image == 0 else {}
        colours = [["x" if cell == 0 else "none" for cell in row] for row in cells[image]]
        canvas.array(cells[image], f"{name}, image {image}", colour=colours, **labels)
canvas.show()

# %% [markdown]
# For RMS norm only stretching is not seen, so only one direction is deleted: $d\mathbf{x} = r\,(\mathbf{g} -
# \overline{\mathbf{g} \mathbf{z}}\, \mathbf{z})$ with $r = 1 / \sqrt{\overline{\mathbf{x}^2} + \varepsilon}$. Batch
# norm is the odd one out: its groups go across images, so the output for one image depends on the others, and at test
# time one puts averages from training in the place of $m$ and $v$. Then it is a multiplication and an addition.

# %%
batch = jnp.asarray(random.integers(-9, 10, (2, 3, 4)), jnp.float32)
pairs = {
    "batch": (fnconv.batch_norm(batch, epsilon=0.1).y, (0, 1)),
    "instance": (fnconv.instance_norm(batch, epsilon=0.1), (1,)),
    "layer": (fnconv.layer_norm(batch, epsilon=0.1), (2,)),
}
for name, (y, axes) in pairs.items():
    print(f"{name} norm is layer_norm over the axes {axes}:",
          bool(jnp.allclose(y, fnconv.layer_norm(batch, axes=axes, epsilon=0.1), atol=1e-6)))  # fmt: skip

# %% [markdown]
# ## 7. What it does to learning: conditioning
#
# How fast gradient descent is, is decided by the Hessian (notebook 6): the largest eigenvalue limits the learning rate,
# and along the eigenvector of the smallest one descent is slow. The quotient of the two is the **condition number**
# $\kappa$; the number of steps is proportional to it. For a linear layer with squared error, $L = \frac{1}{2N} \lVert A
# \mathbf{w} - \mathbf{t} \rVert^2$ with a row of $A$ for each of $N$ examples, $H = \frac{1}{N} A^T A$: *the Hessian
# is made of the layer's inputs*. Inputs with a large mean have one large eigenvalue, in the direction of the mean;
# inputs of different sizes have eigenvalues of different sizes. Normalisation of each input over the examples
# repairs both.

# %%
N = 256
common = random.standard_normal((N, 1))  # the six inputs are related, as neighbouring pixels are
raw = (random.standard_normal((N, 6)) + common) * [1, 1, 2, 4, 0.5, 1] + [0, 3, 3, 0, 2, 5]
raw = jnp.asarray(raw, jnp.float32)
normal = fnconv.batch_norm(raw, epsilon=0.0).y
truth = jnp.asarray(random.standard_normal(6), jnp.float32)


def condition(A):
    eigenvalues = np.linalg.eigvalsh(np.asarray(A.T @ A, np.float64) / N)
    return eigenvalues[-1] / eigenvalues[0], eigenvalues[-1]


def descend(A, steps):
    """Errors of descent at the largest eigenvalue's inverse, towards targets that can be reached."""
    target, alpha = A @ truth, 1 / condition(A)[1]

    def step(w, _):
        error = A @ w - target
        return w - alpha * (A.T @ error) / N, (error**2).mean() / 2

    return jax.lax.scan(step, jnp.zeros(6), None, length=steps)[1]


errors = {"raw": descend(raw, 1000), "normalised": descend(normal, 1000)}
for name, A in (("raw", raw), ("normalised", normal)):
    reached = np.asarray(errors[name]) < 1e-4 * errors[name][0]
    steps = next((limit for limit in (50, 100, 200, 1000) if reached[:limit].any()), None)
    within = f"within {steps} steps" if steps else "not within 1000 steps"
    print(f"{name} inputs: condition number {condition(A)[0]:.0f}, one part in 10,000 {within}")

# %% tags=["hide-input"]
figure, axes = chart("Descent on the same task", "step", "loss", size=(6, 3))
for (name, curve), colour in zip(errors.items(), (COLOURS["d"], COLOURS["y"]), strict=True):
    axes.semilogy(np.maximum(curve, 1e-12), label=f"{name} inputs", color=colour)
axes.legend(loc="upper right")
figure

# %% [markdown]
# Inside a network nobody can normalise the inputs of a layer beforehand, for they move while the layers before them
# learn. A normalisation *in* the network does it at every step.
#
# The digits of notebook 5, in a network of eight narrow layers, with weights drawn twice too large, as they might be
# after an unlucky start. We ask of every learning rate $2^{-8}, \dots, 2^{1}$ whether 60 steps of descent bring the
# loss below half of what guessing costs.

# %%
from sklearn.datasets import load_digits

digits = load_digits()
images = jnp.asarray(digits.data[:512] / 16, jnp.float32)
labels = jnp.asarray(digits.target[:512])
DEPTH, WIDTH = 8, 32
sizes = [64, *[WIDTH] * (DEPTH - 1), 10]
start = [
    jnp.asarray(2 * random.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)
    for shape in pairwise(sizes)
]


def loss(weights, normalised):
    y = images
    for w in weights[:-1]:
        y = fnconv.dense(y, w)
        y = fnconv.relu(fnconv.batch_norm(y).y if normalised else y)
    return fnconv.softmax_cross_entropy(fnconv.dense(y, weights[-1]), labels).mean()


def train(normalised, alpha):
    def step(weights, _):
        value, gradients = jax.value_and_grad(loss)(weights, normalised)
        return [w - alpha * g for w, g in zip(weights, gradients, strict=True)], value

    return jax.lax.scan(step, start, None, length=60)[1]


rates = 2.0 ** np.arange(-8, 2)
curves = {kind: jax.jit(jax.vmap(lambda a, k=kind: train(k, a)))(rates) for kind in (False, True)}
works = {kind: np.asarray(curve[:, -1]) < np.log(10) / 2 for kind, curve in curves.items()}
print("learning rates that work, without:", int(works[False].sum()) <= 2 and "two at most")
print("learning rates that work, with batch norm:", int(works[True].sum()) >= 5 and "five or more")

# %% tags=["hide-input", "volatile"]
figure, axes = chart("After 60 steps", "learning rate", "loss", size=(6, 3))
for kind, colour in ((False, COLOURS["d"]), (True, COLOURS["y"])):
    last = np.nan_to_num(np.asarray(curves[kind][:, -1]), nan=10, posinf=10)
    axes.plot(
        rates, np.minimum(last, 10), "o-", label="with batch norm" if kind else "without", color=colour
    )
axes.set_xscale("log", base=2)
axes.legend(loc="upper left")
figure

# %% [markdown]
# (What is drawn at 10 is 10 or more, or no number any more.)
#
# ## 8. What it does to learning: weights without a length
#
# Why so many learning rates work has a reason that can be proved. The layer before a normalisation multiplies by
# weights $\mathbf{w}$. If they are all multiplied by $c > 0$, the numbers are stretched, and the normalisation does
# not see it: $L(c\, \mathbf{w}) = L(\mathbf{w})$. Differentiate this by $c$ at $c = 1$, and by $\mathbf{w}$:
#
# $$ \left\langle \mathbf{w}, \frac{\partial L}{\partial \mathbf{w}} \right\rangle = 0, \qquad
# \frac{\partial L}{\partial \mathbf{w}}(c\, \mathbf{w})
# = \frac{1}{c} \frac{\partial L}{\partial \mathbf{w}}(\mathbf{w}) . $$
#
# The gradient is orthogonal to the weights, so by Pythagoras every step makes them *longer*; and the longer they
# are, the smaller is the gradient. A learning rate that is too large corrects itself. Without normalisation too long a
# step leads to a place where gradients are larger still.

# %%
first = jax.jit(jax.grad(lambda w: loss([w, *start[1:]], True)))
w = start[0]
d = first(w)
cosine = jnp.vdot(w, d) / jnp.linalg.norm(w) / jnp.linalg.norm(d)
print("orthogonal, up to epsilon and rounding:", bool(abs(cosine) < 1e-3))
print(
    "four times the weights, a quarter of the gradient:",
    bool(jnp.allclose(first(4 * w), d / 4, atol=1e-4)),
)
print("a step makes the weights longer:", bool(jnp.linalg.norm(w - d) > jnp.linalg.norm(w)))

# %% [markdown]
# ## 9. What must be kept
#
# The line of section 3 needs $\mathbf{z}$ and $r$. Keep $\mathbf{x}$, which the layer before has made anyway, and $m$
# and $r$, two numbers a group; then $\mathbf{z}$ is one subtraction and one multiplication away. Automatic
# differentiation keeps what each step of the formula happens to need. A count of the arrays as large as
# $\mathbf{x}$, for the sequence of normalisation, ReLU and convolution that most networks repeat:


# %%
def formula(x, scale, bias):
    m = x.mean((0, 1, 2), keepdims=True)
    v = ((x - m) ** 2).mean((0, 1, 2), keepdims=True)
    return (x - m) / jnp.sqrt(v + 1e-5) * scale + bias


def ours(x, scale, bias):
    return fnconv.batch_norm(x, scale, bias).y


def kept(function, *arguments):
    """How many arrays of x's size the pullback holds."""
    held = jax.tree.leaves(jax.vjp(function, *arguments)[1])
    return sum(getattr(a, "size", 0) == arguments[0].size for a in held)


features = jnp.asarray(random.standard_normal((4, 8, 8, 16)), jnp.float32)
ones, zeros = jnp.ones(16), jnp.zeros(16)
print(
    "the formula, differentiated automatically:",
    kept(formula, features, ones, zeros) >= 3,
    "(three or more)",
)
print("by hand:", kept(ours, features, ones, zeros))

# %% [markdown]
# In a network these add up: every convolution is followed by a normalisation and an activation, and each of the three
# would keep an array of its own. What *must* be kept is one array: from the convolution's output follow, by
# cheap arithmetic, $\mathbf{z}$, the ReLU's mask, and the next convolution's input. A convolution is too dear to be
# computed twice, the rest is not.
#
# ## 10. Exercises
#
# ### Exercise 1: RMS norm
#
# Write the gradient of RMS norm: `x` is one group, `g` the cotangent of $\mathbf{z} = r\,\mathbf{x}$, with
# $r = 1 / \sqrt{\overline{\mathbf{x}^2} + \varepsilon}$.
#
# <details><summary>Hint</summary>
#
# Which of the two directions of section 2 is still not seen? Its projection is all that is left of the line.
#
# </details>


# %% tags=["exercise-1"]
def rms_backward(x, g, epsilon):
    return ...


# %% tags=["check-1"]
check(
    rms_backward,
    lambda x, g, e: jax.vjp(lambda x: x / jnp.sqrt((x**2).mean() + e), x)[1](g)[0],
    [(x, g, 0.0), (jnp.array([1.0, -2, 4]), jnp.array([3.0, 0, 1]), 0.5)],
)

# %% [markdown]
# ### Exercise 2: group norm by layer norm
#
# Write group norm of `x` $(N, H, W, C)$ with `groups` groups, without scale and bias, by `fnconv.layer_norm` and
# `reshape`; `epsilon` is $10^{-6}$ in both.
#
# <details><summary>Hint</summary>
#
# Read the channels as `groups` times `C // groups`. Which three of the five axes are one group?
#
# </details>


# %% tags=["exercise-2"]
def my_group_norm(x, groups):
    return ...


# %% tags=["check-2"]
check(
    my_group_norm,
    lambda x, groups: fnconv.group_norm(x, groups=groups),
    [(features, 4), (features[:, :3, :2], 1), (features[:1, :, :, :6], 3)],
)

# %% [markdown]
# ### Exercise 3: from the output alone
#
# Suppose that $\mathbf{x}$ was thrown away, and only `y` $= s\,\mathbf{z} + b$ of one group is left, with `s` (not 0),
# `b` and `r`. Compute $d\mathbf{x}$ from the cotangent `dy` of `y`.
#
# <details><summary>Hint</summary>
#
# First find $\mathbf{z}$; then do not forget that $\mathbf{g}$ is not $d\mathbf{y}$.
#
# </details>


# %% tags=["exercise-3"]
def backward_from_output(y, s, b, r, dy):
    return ...


# %% tags=["check-3"]
check(
    backward_from_output,
    lambda y, s, b, r, dy: normalise_backward((y - b) / s, r, s * dy),
    [(2 * z + 1, 2.0, 1.0, r, g), (-z, -1.0, 0.0, r, g)],
)

# %% [markdown]
# This is how some networks save even the one array of section 9: an activation that can be inverted, such as
# leaky ReLU, leads back from its output to $\mathbf{y}$, and $\mathbf{y}$ to $\mathbf{z}$.
