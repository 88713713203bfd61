# %% [markdown]
# # 4 Pooling and activations
#
# Between its convolutions a network *pools*, to make the maps smaller, and applies an *activation*, without which all
# layers together would be one linear map. Neither has weights, so only one gradient is wanted, that of the input.
#
# 1. max pooling: (4.1), (4.2)
# 2. the selection matrix $S$: (4.3), (4.4)
# 3. the gradient: (4.5)
# 4. overlapping windows: (4.6)
# 5. ties
# 6. average pooling
# 7. the norm of a window
# 8. adaptive pooling
# 9. ReLU: (5.1) to (5.3), and sigmoid
# 10. why sigmoid starves a deep network: measured
# 11. three exercises

# %%
from itertools import pairwise

import fnconv
import jax
import jax.numpy as jnp
import numpy as np
from fnconv import show, textbook
from fnconv.base.geometry import adaptive_axis, window_axes

from exercises import check
from pictures import Canvas, chart


def last(x):
    """One image as the library takes it: with an axis for channels."""
    return jnp.asarray(x, jnp.float32)[..., None]


# %% [markdown]
# ## 1. Max pooling
#
# Cut the map into windows of $H \times W$ cells and keep the largest cell of each. If the windows do not overlap and
# $H$, $W$ divide the size $H_k \times W_k$ of the map, then
#
# $$D_{k+1} = D_k, \qquad H_{k+1} = \frac{H_k}{H}, \qquad W_{k+1} = \frac{W_k}{W} \tag{4.1}$$
#
# (every channel is pooled by itself), and, with indices from 0,
#
# $$x^{k+1}_{d,i',j'} = \max_{0 \le i < H,\; 0 \le j < W} x^k_{d,\; i'H + i,\; j'W + j}. \tag{4.2}$$
#
# In the picture each window has its colour, and its largest cell a thick border:

# %%
x = np.array([[3, 1, 0, 2], [2, 4, 7, 1], [5, 0, 2, 2], [1, 1, 8, 3]])
y = fnconv.max_pool(last(x), (2, 2))[:, :, 0]
quarters = [["x", "x", "w", "w"]] * 2 + [["g", "g", "d", "d"]] * 2
winners = [(1, 1), (1, 2), (2, 0), (3, 2)]

canvas = Canvas()
canvas.array(x, "$x^k$", colour=quarters, mark=winners)
canvas.text(r"$\to$")
canvas.array(y, "$x^{k+1}$", colour=[["x", "w"], ["g", "d"]])
canvas.show()

# %% [markdown]
# A program can reuse im2col (GEMM 3.1): put every window into a column, take the maximum of every column.

# %%
columns = fnconv.im2col(last(x), (2, 2), strides=2, order="matlab")
print(columns.astype(int))
print("maximum of each column:", columns.max(axis=0), " vec(y):", textbook.vec(y))

# %% [markdown]
# ## 2. The selection matrix
#
# Taking a maximum is not linear. But *once we know which cells won*, the output is a part of the input, and taking a
# part is linear. Let $S$ have a row for every output and a column for every input cell, with a 1 where the output was
# taken from the cell and 0 elsewhere. Then
#
# $$\operatorname{vec}(\mathbf{x}^{k+1}) = S \operatorname{vec}(\mathbf{x}^k). \tag{4.4}$$
#
# Each row of $S$ holds exactly one 1. `textbook.selection_matrix` builds it:

# %%
axes = window_axes((4, 4), (2, 2), strides=2)
S = textbook.selection_matrix(jnp.asarray(x, jnp.float32), axes)

canvas = Canvas()
canvas.heat(
    S,
    "$S$",
    cell=0.7,
    rows=[f"$y_{{{i}{j}}}$" for j in range(2) for i in range(2)],
    columns=[f"$x_{{{i}{j}}}$" for j in range(4) for i in range(4)],
)
canvas.show()

# %%
print("S vec(x):", S @ textbook.vec(jnp.asarray(x, jnp.float32)))
print("vec(y):  ", textbook.vec(y))

# %% [markdown]
# ## 3. The gradient
#
# The chain rule asks for the Jacobian:
#
# $$
# \frac{\partial z}{\partial \operatorname{vec}(\mathbf{x}^k)^T}
# = \frac{\partial z}{\partial \operatorname{vec}(\mathbf{x}^{k+1})^T}\,
#   \frac{\partial \operatorname{vec}(\mathbf{x}^{k+1})}{\partial \operatorname{vec}(\mathbf{x}^k)^T}. \tag{4.3}
# $$
#
# Move the cells by so little that no other cell wins. Then $S$ does not change, and by (4.4) the Jacobian is $S$.
# Transposed,
#
# $$\boxed{\;\frac{\partial z}{\partial \operatorname{vec}(\mathbf{x}^k)}
# = S^T\, \frac{\partial z}{\partial \operatorname{vec}(\mathbf{x}^{k+1})}\;} \tag{4.5}$$
#
# $S^T$ puts each cotangent back where its maximum came from, and 0 everywhere else. Small says it in words (Small,
# pooling): the gradient is $\partial L/\partial O$ at the largest cell, and 0 at the others. Notes 2.2 call it
# *upsampling*. The layer has to remember where the maxima were; it need not remember their values. (The library keeps
# one byte for each output.)

# %%
dy = np.array([[1, 2], [3, 4]])


def gradient_of(pool, x, dy):
    _, pullback = jax.vjp(pool, last(x))
    return pullback(last(dy))[0][:, :, 0]


dx = gradient_of(lambda x: fnconv.max_pool(x, (2, 2)), x, dy)

canvas = Canvas()
canvas.array(dy, r"$\partial z/\partial x^{k+1}$", colour=[["x", "w"], ["g", "d"]])
canvas.text(r"$S^T \;\to$")
canvas.array(dx, r"$\partial z/\partial x^k$", colour=quarters, mark=winners, zeros=False)
canvas.show()

# %%
by_matrix = textbook.unvec(S.T @ textbook.vec(jnp.asarray(dy, jnp.float32)), (4, 4))
print("S^T dy is the library's gradient:", bool((by_matrix == dx).all()))

# %% [markdown]
# ## 4. Overlapping windows
#
# If the stride is smaller than the window, a cell may win in several windows. Nothing in sections 2 and 3 changes:
# $S$ still has one 1 in each row, but now a *column* may hold several. So $S^T$ **adds** the cotangents of all the
# windows that a cell has won. Let $A_i$ be the set of those windows; then
#
# $$\left(\frac{\partial z}{\partial \mathbf{x}^k}\right)_{i}
# = \sum_{o \,\in\, A_{i}} \left(\frac{\partial z}{\partial \mathbf{x}^{k+1}}\right)_{o}. \tag{4.6}$$
#
# It is (2.30) again: copy forward, add backward. In the program of GEMM 3.2 the sum is made at the mapped positions,
# as for a convolution. Here the 8 wins all four windows of $2 \times 2$ at stride 1, and collects all four cotangents:

# %%
x = np.array([[2, 7, 1], [4, 8, 5], [3, 6, 0]])
dx = gradient_of(lambda x: fnconv.max_pool(x, (2, 2), strides=1), x, dy)

canvas = Canvas()
canvas.array(x, "$x^k$", colour="x", mark=[(1, 1)])
canvas.text(r"$\to$")
canvas.array(np.full((2, 2), 8), "$x^{k+1}$", colour="y")
canvas.text("cotangent:")
canvas.array(dy, r"$\partial z/\partial x^{k+1}$", colour="d")
canvas.text(r"$S^T \;\to$")
canvas.array(dx, r"$\partial z/\partial x^k$", colour="g", mark=[(1, 1)])
canvas.show()

# %% [markdown]
# ## 5. Ties
#
# What if two cells of a window are both the largest? Then the maximum has a kink there, and *no* gradient exists:
# raising either cell alone raises the maximum, lowering either changes nothing. Every program has to choose. Two
# rules are in use, both give the whole cotangent to one cell:
#
# - **row-major** (XLA, Torch, the library's default): the first one in reading order;
# - **column-major** (Wei): the smallest column, and in it the smallest row.
#
# After a ReLU, ties between zeros are very common, so the choice is visible in practice:

# %%
tied = np.array([[1, 2], [2, 0]])
canvas = Canvas()
canvas.array(tied, "input", colour="x", mark=[(0, 1), (1, 0)])
for ties in ("row_major", "column_major"):
    canvas.text("   " if ties == "column_major" else r"$\to$")
    dx = gradient_of(lambda x, ties=ties: fnconv.max_pool(x, (2, 2), ties=ties), tied, [[1]])
    canvas.array(dx, ties.replace("_", "-"), colour="g")
canvas.show()

# %% [markdown]
# A third choice would be to share the cotangent between the tied cells. All three are defensible; what matters is
# that it is *one* cotangent in all. Their sum is what keeps $\sum_i \partial z/\partial x_i = \sum_o \partial
# z/\partial y_o$ true: add the same small number to every cell, and every maximum grows by it. `show.pool` prints,
# for any geometry, which cell each window takes under either rule:

# %%
random_ties = np.random.default_rng(0).integers(0, 3, (4, 4))
page = show.pool(random_ties, (2, 2))
print(str(page).split("── ")[3])

# %%
for ties in ("row_major", "column_major"):
    dx = gradient_of(lambda x, ties=ties: fnconv.max_pool(x, (2, 2), ties=ties), random_ties, dy)
    print(f"{ties}: the gradients add up to", int(dx.sum()), "as the cotangents,", dy.sum())

# %% [markdown]
# ## 6. Average pooling
#
# Here the output is a mean, $y_o = \frac{1}{n} \sum_{i \in \text{window } o} x_i$. That is linear, with the factor
# $1/n$ for every cell of the window, so every cell gets $\frac{1}{n}$ of the cotangent, and cells of several windows
# get the sum of their shares (Notes 2.2): $\frac{\partial z}{\partial x_i} = \sum_{o \ni i}
# \frac{1}{n}\,\frac{\partial z}{\partial y_o}$. Without overlap this is upsampling: repeat each cotangent over its
# window and divide.
#
# The example of Notes, a $5 \times 5$ map, windows of $3 \times 3$, stride 2. The windows share a row and a column;
# the cell in the centre lies in all four:

# %%
dx = gradient_of(lambda x: fnconv.avg_pool(x, (3, 3), strides=2), np.zeros((5, 5)), 9 * dy)
shared = [
    ["g" if (i == 2) + (j == 2) == 0 else ("w" if i == j == 2 else "y") for j in range(5)]
    for i in range(5)
]

canvas = Canvas()
canvas.array(9 * dy, "cotangent", colour="d")
canvas.text(r"$\to$")
canvas.array(dx, r"$\partial z/\partial x$ (in 1, 2, 4 windows)", colour=shared)
canvas.show()

# %% [markdown]
# Two details in which programs differ, so the library names them. When windows reach into the *padding*, are the
# padded cells counted in $n$? (`count_include_pad=True`, the default, says yes.) And when the windows do not fit,
# cells at the end are *left over*: they have gradient 0, and Notes advise to choose sizes so that this does not
# happen.

# %%
ones = last(np.ones(4))
for count in (True, False):
    y = fnconv.avg_pool(ones, (3,), strides=2, padding=1, count_include_pad=count)
    print(f"count_include_pad={count}: means of ones are", [round(float(v), 3) for v in y[:, 0]])

# %% [markdown]
# ## 7. The norm of a window
#
# Notes also name L2-norm pooling: $y = \sqrt{\sum_i x_i^2}$. By the chain rule for the square root,
#
# $$\frac{\partial y}{\partial x_i} = \frac{2 x_i}{2\sqrt{\sum_j x_j^2}} = \frac{x_i}{y},$$
#
# and in general, for $y = \left(\sum_i |x_i|^p\right)^{1/p}$, it is
# $\operatorname{sign}(x_i) \left(|x_i| / y\right)^{p-1}$. This sits between the two poolings above: for $p = 1$ and
# positive cells all get the same, as from the mean; as $p$ grows, the largest cell gets nearly everything, as from
# the maximum.

# %%
window = np.array([1.0, 2, 3, 4], np.float32)
figure, axes_ = chart(
    "Who gets the cotangent?", "cell of the window $(1, 2, 3, 4)$", "share", size=(5.5, 3)
)
for n, p in enumerate((1, 2, 4, 16)):
    share = jax.grad(lambda x, p=p: fnconv.lp_pool(x, (4,), p=p).sum())(window[:, None])[:, 0]
    axes_.bar(np.arange(1, 5) + 0.2 * (n - 1.5), share, width=0.18, label=f"$p = {p}$")
axes_.set_xticks([1, 2, 3, 4])
axes_.set_ylim(0, 1.3)
axes_.legend(frameon=False, ncol=4, loc="upper center")
figure

# %% [markdown]
# At a window of zeros $x_i / y$ is $0/0$. An automatic gradient gives NaN there, and one NaN ruins a whole training
# run. The hand-written rule says what is meant, 0:

# %%
zeros = jnp.zeros((4, 1))
by_hand = jax.grad(lambda x: fnconv.lp_pool(x, (4,)).sum())(zeros)[:, 0]
automatic = jax.grad(lambda x: jnp.sqrt((x**2).sum()))(zeros)[:, 0]
print("by hand:", by_hand, " automatic:", automatic)

# %% [markdown]
# ## 8. Adaptive pooling
#
# Sometimes the *output* size is prescribed, so that images of different sizes give features of one size. Output $o$
# of $m$ covers the cells from $\lfloor o\,n/m \rfloor$ up to, not including, $\lceil (o+1)\,n/m \rceil$. Where $m$
# does not divide $n$, neighbouring windows share a cell, and windows may differ in length. Each divides by its own
# length. A row of 7 cells pooled to 4:

# %%
axis = adaptive_axis(size=7, output=4)
member = np.zeros((4, 7), int)
for o, cells in enumerate(axis.positions()):
    member[o, cells[cells >= 0]] = 1
lengths = member.sum(axis=1)

canvas = Canvas()
canvas.array(
    member,
    "cells of each window",
    colour=[["y" if c else "none" for c in row] for row in member],
    zeros=False,
)
canvas.array(lengths, "lengths")
canvas.show()

# %%
delta = np.array([2.0, 30, 300, 2000], np.float32)
_, pullback = jax.vjp(lambda x: fnconv.adaptive_avg_pool(x, (4,)), jnp.zeros((7, 1)))
(dx,) = pullback(last(delta))
expected = (member / lengths[:, None]).T @ delta
print("gradient:", [round(v, 3) for v in dx[:, 0].tolist()])
print("the matrix, transposed, times the cotangent:", bool(np.allclose(dx[:, 0], expected)))

# %% [markdown]
# ## 9. ReLU and sigmoid
#
# An activation works on each entry alone, so its Jacobian is diagonal, and the chain rule is a product entry by
# entry: $\frac{\partial z}{\partial x_i} = \frac{\partial z}{\partial y_i}\, f'(x_i)$. Notes call every activation
# $\sigma$ and write $\delta \odot \sigma'$, with $\odot$ for the product entry by entry.
#
# $$\operatorname{ReLU}(x) = \begin{cases} x & x > 0 \\ 0 & \text{otherwise}\end{cases} \tag{5.1}$$
#
# $$\operatorname{ReLU}'(x) = \begin{cases} 1 & x > 0 \\ 0 & \text{otherwise}\end{cases} \tag{5.2}$$
#
# (5.2) is a *definition* at $x = 0$, where ReLU has a kink; any value from 0 to 1 would do, and 0 is the custom. So
#
# $$\left(\frac{\partial z}{\partial \mathbf{x}^k}\right)_i = \begin{cases}
# \left(\frac{\partial z}{\partial \mathbf{x}^{k+1}}\right)_i & x^k_i > 0 \\ 0 & \text{otherwise} \end{cases}
# \tag{5.3}$$
#
# The older activation is the sigmoid (Wei 5), $\sigma(x) = 1/(1 + e^{-x})$. Its derivative is
#
# $$\sigma'(x) = \frac{e^{-x}}{(1 + e^{-x})^2} = \sigma(x)\,\sigma(-x) = \sigma(x)\,(1 - \sigma(x)) \;\le\; \frac14
# ,$$
#
# for $s(1-s)$ is largest at $s = \frac12$, that is, at $x = 0$.

# %%
t = np.linspace(-6, 6, 241).astype(np.float32)
figure, axes_ = chart("Slopes", "$x$", "slope", size=(5.5, 3))
axes_.plot(t, jax.vmap(jax.grad(fnconv.relu))(t), color="#E69F00", label="ReLU'")
axes_.plot(t, jax.vmap(jax.grad(fnconv.sigmoid))(t), color="#56B4E9", label=r"$\sigma'$")
axes_.axhline(0.25, color="#888888", linestyle=":", linewidth=1)
axes_.set_yticks([0, 0.25, 0.5, 1])
axes_.legend(frameon=False, loc="center left")
figure

# %%
slopes = jax.vmap(jax.grad(fnconv.sigmoid))(t)
print("largest slope of sigmoid:", float(slopes.max()), "at x =", round(float(t[slopes.argmax()]), 3))
print("slopes of ReLU at -1, 0, 1:", [float(jax.grad(fnconv.relu)(v)) for v in (-1.0, 0.0, 1.0)])

# %% [markdown]
# ## 10. Why sigmoid starves a deep network
#
# The cotangent passes through *every* activation on its way to the first layer, and each sigmoid multiplies it by at
# most $\frac14$. Behind nine sigmoids not more than $4^{-9} \approx 4 \cdot 10^{-6}$ is left of the slopes' product.
# An *active* ReLU multiplies by 1. Let us measure it: a network of ten fully connected layers of 32 units, nine
# activations between them, once of each kind, same images (512 of the $8 \times 8$ digits that come with scikit-learn),
# same loss, and starting weights of a size that suits each (variance 2/32 for ReLU, 1/32 for sigmoid).

# %%
from sklearn.datasets import load_digits

digits = load_digits()
images = jnp.asarray(digits.data[:512] / 16, jnp.float32)
labels = jnp.asarray(digits.target[:512])
DEPTH, WIDTH = 10, 32


def start(variance):
    random = np.random.default_rng(4)
    sizes = [64, *[WIDTH] * (DEPTH - 1), 10]
    return [
        jnp.asarray(random.normal(0, (variance / a) ** 0.5, (a, b)), jnp.float32)
        for a, b in pairwise(sizes)
    ]


def loss(weights, activation):
    a = images
    for w in weights[:-1]:
        a = activation(fnconv.dense(a, w))
    return fnconv.softmax_cross_entropy(fnconv.dense(a, weights[-1]), labels).mean()


networks = {"ReLU": (fnconv.relu, start(2.0)), "sigmoid": (fnconv.sigmoid, start(1.0))}
norms = {}
for name, (activation, weights) in networks.items():
    gradients = jax.grad(loss)(weights, activation)
    norms[name] = np.array([float(jnp.linalg.norm(g)) for g in gradients])

figure, axes_ = chart("Norm of the loss's gradient, layer by layer", "layer", "norm", size=(5.5, 3.2))
for (name, values), colour in zip(norms.items(), ("#E69F00", "#56B4E9"), strict=True):
    axes_.semilogy(range(1, DEPTH + 1), values, "o-", color=colour, label=name)
axes_.set_xticks(range(1, DEPTH + 1))
axes_.legend(frameon=False, loc="lower right")
figure

# %% [markdown]
# From layer 10 to layer 1 the gradient shrinks by a factor with sigmoids that makes the first layers stand still;
# with ReLU it hardly changes.

# %%
for name, values in norms.items():
    factor = values[-1] / values[0]
    print(f"{name:7} shrinks less than tenfold: {factor < 10},  more than 100,000-fold: {factor > 1e5}")

# %% [markdown]
# And what it does to learning, by plain gradient descent, 300 steps. (The curves depend a little on the machine, the
# verdict below does not.)


# %%
def train(weights, activation, rate):
    def step(weights, _):
        value, gradients = jax.value_and_grad(loss)(weights, activation)
        return [w - rate * g for w, g in zip(weights, gradients, strict=True)], value

    return np.asarray(jax.jit(lambda w: jax.lax.scan(step, w, None, length=300))(weights)[1])


curves = {
    name: train(weights, activation, rate=0.01) for name, (activation, weights) in networks.items()
}

# %% tags=["volatile"]
figure, axes_ = chart("Training", "step", "loss", size=(5.5, 3))
for (name, curve), colour in zip(curves.items(), ("#E69F00", "#56B4E9"), strict=True):
    axes_.plot(curve, color=colour, label=name)
axes_.axhline(np.log(10), color="#888888", linestyle=":", linewidth=1)
axes_.legend(frameon=False)
figure

# %%
guessing = np.log(10)
for name, curve in curves.items():
    print(f"{name}: loss below half of guessing's, ln 10: {bool(curve.min() < guessing / 2)}")

# %% [markdown]
# The dotted line is the loss of guessing. The sigmoid network has not left it: only its last layer receives a
# gradient worth the name, and the features it sees come from layers that do not move. (Shallow networks do learn with
# sigmoids, and normalisation layers or residual connections help deep ones; but ReLU made the problem smaller with
# one line.)
#
# ## 11. Exercises
#
# ### Exercise 1: the selection matrix in one dimension
#
# Build $S$ for a row of $n$ numbers and windows of $k$ cells at stride $t$ (no padding). Of several maxima the first
# wins.


# %% tags=["exercise-1"]
def selection(x, k, t):
    return ...


# %% tags=["check-1"]
def selection_by_the_library(x, k, t):
    return np.asarray(textbook.selection_matrix(jnp.asarray(x), window_axes(x.shape, (k,), strides=t)))


rows = [
    np.array(r, np.float32)
    for r in ([3, 1, 4, 1, 5, 9], [2, 2, 1, 2, 2], [0, 0, 0, 0, 0, 0, 0], [5, 6, 6, 5])
]
check(
    selection, selection_by_the_library, [(r, k, t) for r in rows for k, t in ((2, 2), (3, 1), (2, 1))]
)

# %% [markdown]
# ### Exercise 2: the gradient of average pooling
#
# One dimension, $n$ cells, windows of $k$ at stride $t$, no padding: return the gradient of the input for a cotangent
# $\delta$. Mind the overlap, and the cells that are left over.


# %% tags=["exercise-2"]
def average_gradient(delta, n, k, t):
    return ...


# %% tags=["check-2"]
def average_by_the_library(delta, n, k, t):
    _, pullback = jax.vjp(lambda x: fnconv.avg_pool(x, (k,), strides=t), jnp.zeros((n, 1)))
    return pullback(last(delta))[0][:, 0]


cases = [(6, 2, 2), (7, 3, 2), (5, 3, 1), (8, 3, 3)]
deltas = [
    np.random.default_rng(n).integers(1, 9, (n - k) // t + 1).astype(np.float32) for n, k, t in cases
]
check(
    average_gradient,
    average_by_the_library,
    [(d, *case) for d, case in zip(deltas, cases, strict=True)],
)

# %% [markdown]
# ### Exercise 3: a leaky activation
#
# `leaky_relu` is $x$ for $x > 0$ and $a x$ otherwise, so that no unit is ever quite dead. Write its backward pass:
# given $x$, the cotangent and $a$, return the gradient. At $x = 0$ take the left slope.


# %% tags=["exercise-3"]
def leaky_gradient(x, dy, a):
    return ...


# %% tags=["check-3"]
def leaky_by_the_library(x, dy, a):
    return jax.vjp(lambda x: fnconv.leaky_relu(x, a), x)[1](dy)[0]


inputs, cotangents = jnp.array([-2.0, -0.5, 0, 0.5, 3]), jnp.array([1.0, 2, 4, -8, 16])
check(leaky_gradient, leaky_by_the_library, [(inputs, cotangents, a) for a in (0.01, 0.5, 0.0)])

# %% [markdown]
# **Next:** [5 LeNet-5](05_lenet.ipynb).
