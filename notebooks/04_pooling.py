# %% [markdown]
# # 4 Pooling and activations
#
# Between its convolutions a network *pools*, to make the maps smaller, and applies an *activation*, without which all
# layers together would be one linear map. Neither has weights, so only one gradient is wanted, that of the input.
#
# 1. max pooling: (4.1), (4.2)
# 2. the selection matrix $S$: (4.4)
# 3. the gradient: (4.3), (4.5)
# 4. overlapping windows: (4.6)
# 5. ties
# 6. average pooling
# 7. the norm of a window
# 8. adaptive pooling
# 9. ReLU: (5.1) to (5.3), and sigmoid
# 10. why sigmoid starves a deep network: measured
# 11. three exercises
#
# **Letters of this notebook.** Indices start from 0. Terms are explained in the [glossary](glossary.md).
#
# | letter | meaning |
# |:---|:---|
# | $z$ | the loss |
# | $\mathbf{x}$, $\mathbf{y}$ | input and output of a layer (Wei writes $\mathbf{x}^k$ and $\mathbf{x}^{k+1}$) |
# | $D$ | channels; $d$ is one of them |
# | $H \times W$, $H_w \times W_w$, $H_y \times W_y$ | rows × columns of the input, of a window, of the output |
# | $i$, $j$ and $i'$, $j'$ | row, column in a window, and in the output |
# | $x_i$, $y_o$ | a cell of the input, a cell of the output, where one index is enough |
# | $S$ | the selection matrix |
# | $A_i$ | the windows that cell $i$ has won |
# | $n$, $m$ | number of cells of the input and of the output along one axis |
# | $k$, $s$ | number of cells of a window along one axis, and the stride |
# | $c$ | number of cells that a mean is over |
# | $p$ | exponent of a norm |
# | $f$, $f'$, $\sigma$ | an activation, its slope, the sigmoid |
# | $\delta$ | a cotangent, in the exercises |

# %%
from itertools import pairwise

import fnconv
import jax
import jax.numpy as jnp
import numpy as np
from fnconv import show, textbook
from fnconv.base.geometry import adaptive_axis, window_axes

from exercises import check
from pictures import COLOURS, Canvas, Step, chart, flow


def last(x):
    """One image as the library takes it: with an axis for channels."""
    return jnp.asarray(x, jnp.float32)[..., None]


GRADIENTS = [r"$\partial z/\partial x$", r"$\partial z/\partial y$"]

# %% [markdown]
# ## 1. Max pooling
#
# Cut the input into windows of $H_w \times W_w$ cells and keep the largest cell of each. Every channel is pooled by
# itself, so the output has $D$ channels, too. If the windows do not overlap, and $H_w$ divides $H$ and $W_w$ divides
# $W$, then
#
# $$H_y = \frac{H}{H_w}, \qquad W_y = \frac{W}{W_w} \tag{4.1}$$
#
# and
#
# $$y_{d,i',j'} = \underset{0 \le i < H_w,\; 0 \le j < W_w}{\max} x_{d,\; i'H_w + i,\; j'W_w + j}. \tag{4.2}$$
#
# In the picture each window has its colour, and its largest cell a thick border:

# %%
x = np.array([[3, 1, 0, 2], [2, 4, 7, 1], [5, 0, 2, 2], [1, 1, 8, 3]])
y = fnconv.max_pool(last(x), (2, 2))[:, :, 0]

# %% tags=["hide-input"]
quarters = [["x", "x", "w", "w"]] * 2 + [["g", "g", "d", "d"]] * 2
winners = [(1, 1), (1, 2), (2, 0), (3, 2)]
canvas = Canvas()
canvas.array(x, "$x$", colour=quarters, mark=winners)
canvas.text(r"$\to$")
canvas.array(y, "$y$", colour=[["x", "w"], ["g", "d"]])
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
# $$\operatorname{vec}(\mathbf{y}) = S \operatorname{vec}(\mathbf{x}). \tag{4.4}$$
#
# Each row of $S$ holds exactly one 1. `textbook.selection_matrix` builds it:

# %%
axes = window_axes((4, 4), (2, 2), strides=2)
S = textbook.selection_matrix(jnp.asarray(x, jnp.float32), axes)

# %% tags=["hide-input"]
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
# \frac{\partial z}{\partial \operatorname{vec}(\mathbf{x})^T}
# = \frac{\partial z}{\partial \operatorname{vec}(\mathbf{y})^T}\,
#   \frac{\partial \operatorname{vec}(\mathbf{y})}{\partial \operatorname{vec}(\mathbf{x})^T}. \tag{4.3}
# $$
#
# Change the cells of $\mathbf{x}$ by so little that no other cell wins. Then $S$ stays the same, and by (4.4) the
# Jacobian is $S$. Transposed,
#
# $$\boxed{\;\frac{\partial z}{\partial \operatorname{vec}(\mathbf{x})}
# = S^T\, \frac{\partial z}{\partial \operatorname{vec}(\mathbf{y})}\;} \tag{4.5}$$
#
# $S^T$ puts each cotangent back where its maximum came from, and 0 everywhere else. Small says it in words (Small,
# pooling): the largest cell gets the gradient of the output, the others get 0. Notes 2.2 call it *upsampling*. The
# layer has to remember where the maxima were; it need not remember their values. (The library keeps one byte for each
# output.)

# %% tags=["hide-input"]
flow(["$x$", "$y$"], [Step("maximum ($S$)", "$S^T$", kept="which cells won")], GRADIENTS)

# %% [markdown]
# With the numbers of section 1:

# %%
dy = np.array([[1, 2], [3, 4]])


def gradient_of(pool, x, dy):
    _, pullback = jax.vjp(pool, last(x))
    return pullback(last(dy))[0][:, :, 0]


dx = gradient_of(lambda x: fnconv.max_pool(x, (2, 2)), x, dy)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(dy, r"$\partial z/\partial y$", colour=[["x", "w"], ["g", "d"]])
canvas.text(r"$S^T \;\to$")
canvas.array(dx, r"$\partial z/\partial x$", colour=quarters, mark=winners, zeros=False)
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
# $$\frac{\partial z}{\partial x_i} = \sum_{o \,\in\, A_{i}} \frac{\partial z}{\partial y_o}. \tag{4.6}$$
#
# It is (2.30) again: copy forward, add backward. The program of GEMM 3.2 adds at the places that the index map names,
# as for a convolution. Here the 8 wins all four windows of $2 \times 2$ at stride 1, and collects all four cotangents:

# %%
x = np.array([[2, 7, 1], [4, 8, 5], [3, 6, 0]])
dx = gradient_of(lambda x: fnconv.max_pool(x, (2, 2), strides=1), x, dy)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(x, "$x$", colour="x", mark=[(1, 1)])
canvas.text(r"$\to$")
canvas.array(np.full((2, 2), 8), "$y$", colour="y")
canvas.text("cotangent:")
canvas.array(dy, r"$\partial z/\partial y$", colour="d")
canvas.text(r"$S^T \;\to$")
canvas.array(dx, r"$\partial z/\partial x$", colour="g", mark=[(1, 1)])
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

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(tied, "input", colour="x", mark=[(0, 1), (1, 0)])
for ties in ("row_major", "column_major"):
    canvas.text("   " if ties == "column_major" else r"$\to$")
    dx = gradient_of(lambda x, ties=ties: fnconv.max_pool(x, (2, 2), ties=ties), tied, [[1]])
    canvas.array(dx, ties.replace("_", "-"), colour="g")
canvas.show()

# %% [markdown]
# A third choice would be to share the cotangent between the tied cells. All three are defensible; what matters is that
# the cells of a window get *one* cotangent in all. For add the same small number to every cell: every maximum grows by
# it, so $\sum_i \partial z/\partial x_i = \sum_o \partial z/\partial y_o$ has to hold. `show.pool` prints, for any
# geometry, which cell each window takes under either rule:

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
# Here the output is the mean of the $c$ cells of its window,
# $y_o = \frac{1}{c} \sum_{i \text{ in window } o} x_i$. Every cell has the factor $1/c$ in it, so every cell gets
# $\frac{1}{c}$ of the cotangent, and a cell of several windows gets the sum of its shares (Notes 2.2):
#
# $$\frac{\partial z}{\partial x_i} = \sum_{o \text{ with } i \text{ in window } o}
# \frac{1}{c}\,\frac{\partial z}{\partial y_o} .$$
#
# Without overlap this is upsampling: repeat each cotangent over its window and divide. Nothing has to be kept, for the
# factors do not depend on $\mathbf{x}$:

# %% tags=["hide-input"]
flow(["$x$", "$y$"], [Step("mean of each window", "times $1/c$, add over the windows")], GRADIENTS)

# %% [markdown]
# The example of Notes, a $5 \times 5$ map, windows of $3 \times 3$, stride 2. The windows share a row and a column;
# the cell in the centre lies in all four:

# %%
dx = gradient_of(lambda x: fnconv.avg_pool(x, (3, 3), strides=2), np.zeros((5, 5)), 9 * dy)
# %% tags=["hide-input"]
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
# padded cells counted in $c$? (`count_include_pad=True`, the default, says yes.) And when the windows do not fit,
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

# %% tags=["hide-input"]
flow(
    ["$x$", "$y$"],
    [
        Step(
            "norm of each window",
            r"times $\mathrm{sign}(x)\,(|x|/y)^{p-1}$, add over the windows",
            kept="$x$, $y$",
        )
    ],
    GRADIENTS,
)

# %%
window = np.array([1.0, 2, 3, 4], np.float32)
shares = {
    p: jax.grad(lambda x, p=p: fnconv.lp_pool(x, (4,), p=p).sum())(window[:, None])[:, 0]
    for p in (1, 2, 4, 16)
}

# %% tags=["hide-input"]
figure, axes_ = chart("Who gets the cotangent?", "value of the cell", "share", size=(5.5, 3))
for n, (p, share) in enumerate(shares.items()):
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
# Sometimes the *output* size is prescribed, so that images of different sizes give features of one size. A row of $n$
# cells is pooled to $m$ outputs; window $o$ covers the cells from $\lfloor o\,n/m \rfloor$ up to, not including,
# $\lceil (o+1)\,n/m \rceil$. Windows may differ in length, and each mean divides by the length of its own window.
#
# Do neighbouring windows overlap? Window $o$ ends where $(o+1)\,n/m$ is rounded up, and window $o+1$ starts where the
# same number is rounded down. So they share one cell if it is not a whole number, and none if it is. For $n = 10$ and
# $m = 4$ the numbers are $2.5$, $5$ and $7.5$, and the windows

# %%
print([cells[cells >= 0].tolist() for cells in adaptive_axis(size=10, output=4).positions()])

# %% [markdown]
# share a cell, none, and a cell. Forward and backward are those of section 6, with a $c_o$ of its own for each window
# $o$:

# %% tags=["hide-input"]
flow(
    ["$x$", "$y$"],
    [Step("mean of each window", "times $1/c_o$, add over the windows")],
    GRADIENTS,
)

# %% [markdown]
# A row of 7 cells pooled to 4:

# %%
axis = adaptive_axis(size=7, output=4)
member = np.zeros((4, 7), int)
for o, cells in enumerate(axis.positions()):
    member[o, cells[cells >= 0]] = 1
lengths = member.sum(axis=1)

# %% tags=["hide-input"]
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
dy = np.array([2.0, 30, 300, 2000], np.float32)
_, pullback = jax.vjp(lambda x: fnconv.adaptive_avg_pool(x, (4,)), jnp.zeros((7, 1)))
(dx,) = pullback(last(dy))
expected = (member / lengths[:, None]).T @ dy
print("gradient:", [round(v, 3) for v in dx[:, 0].tolist()])
print("the matrix, transposed, times the cotangent:", bool(np.allclose(dx[:, 0], expected)))

# %% [markdown]
# ## 9. ReLU and sigmoid
#
# An activation $f$ works on each entry alone, so its Jacobian is diagonal, and the chain rule is a product entry by
# entry: $\frac{\partial z}{\partial x_i} = \frac{\partial z}{\partial y_i}\, f'(x_i)$. The product entry by entry of
# two arrays is written $\odot$. (Notes call every activation $\sigma$, and write $\delta \odot \sigma'$.)

# %% tags=["hide-input"]
flow(
    ["$x$", "$y$"],
    [Step("$f$, entry by entry", r"$\odot \; f\,'(x)$", kept="$x$, or $y$ where that is enough")],
    GRADIENTS,
)

# %% [markdown]
# $$\operatorname{ReLU}(x) = \begin{cases} x & x > 0 \\ 0 & \text{otherwise}\end{cases} \tag{5.1}$$
#
# $$\operatorname{ReLU}'(x) = \begin{cases} 1 & x > 0 \\ 0 & \text{otherwise}\end{cases} \tag{5.2}$$
#
# (5.2) is a *definition* at $x = 0$, where ReLU has a kink; any value from 0 to 1 would do, and 0 is the custom. So
#
# $$\frac{\partial z}{\partial x_i} = \begin{cases} \frac{\partial z}{\partial y_i} & x_i > 0 \\
# 0 & \text{otherwise} \end{cases} \tag{5.3}$$
#
# The older activation is the sigmoid (Wei 5), $\sigma(x) = 1/(1 + e^{-x})$. Its derivative is
#
# $$\sigma'(x) = \frac{e^{-x}}{(1 + e^{-x})^2} = \sigma(x)\,\sigma(-x) = \sigma(x)\,(1 - \sigma(x)) \;\le\; \frac14
# ,$$
#
# for a product of two numbers with the sum 1 is largest where both are $\frac12$, that is, at $x = 0$.

# %%
x = np.linspace(-6, 6, 241).astype(np.float32)
slopes = {f.__name__: jax.vmap(jax.grad(f))(x) for f in (fnconv.relu, fnconv.sigmoid)}

# %% tags=["hide-input"]
figure, axes_ = chart("Slopes", "$x$", "slope", size=(5.5, 3))
axes_.plot(x, slopes["relu"], color=COLOURS["w"], label="ReLU'")
axes_.plot(x, slopes["sigmoid"], color=COLOURS["x"], label=r"$\sigma'$")
axes_.axhline(0.25, color="#888888", linestyle=":", linewidth=1)
axes_.set_yticks([0, 0.25, 0.5, 1])
axes_.legend(frameon=False, loc="center left")
figure

# %%
steepest = slopes["sigmoid"].argmax()
print(
    "largest slope of sigmoid:",
    float(slopes["sigmoid"][steepest]),
    "at x =",
    round(float(x[steepest]), 3),
)
print("slopes of ReLU at -1, 0, 1:", [float(jax.grad(fnconv.relu)(v)) for v in (-1.0, 0.0, 1.0)])

# %% [markdown]
# ## 10. Why sigmoid starves a deep network
#
# The cotangent passes through *every* activation on its way to the first layer, and each sigmoid multiplies it by at
# most $\frac14$: nine sigmoids by at most $4^{-9} \approx 4 \cdot 10^{-6}$. An *active* ReLU multiplies by 1. Let us
# measure it: a network of ten fully connected layers of 32 units, nine activations between them, once of each kind,
# same images (512 of the $8 \times 8$ digits that come with scikit-learn), same loss, and starting weights of a size
# that suits each (variance 2/32 for ReLU, 1/32 for sigmoid).

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

# %% tags=["hide-input"]
figure, axes_ = chart("Norm of the loss's gradient, layer by layer", "layer", "norm", size=(5.5, 3.2))
for (name, values), colour in zip(norms.items(), (COLOURS["w"], COLOURS["x"]), strict=True):
    axes_.semilogy(range(1, DEPTH + 1), values, "o-", color=colour, label=name)
axes_.set_xticks(range(1, DEPTH + 1))
axes_.legend(frameon=False, loc="lower right")
figure

# %% [markdown]
# From layer 10 back to layer 1 the gradient shrinks so much with sigmoids that the first layers stand still. With ReLU
# it hardly changes.

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

# %% tags=["volatile", "hide-input"]
figure, axes_ = chart("Training", "step", "loss", size=(5.5, 3))
for (name, curve), colour in zip(curves.items(), (COLOURS["w"], COLOURS["x"]), strict=True):
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
# Build $S$ for a row of $n$ numbers and windows of $k$ cells at stride $s$ (no padding). Of several maxima the first
# wins.
#
# <details><summary>Hint</summary>
#
# There are $\lfloor (n-k)/s \rfloor + 1$ windows, and window $o$ starts at cell $o\,s$. `np.argmax` returns the first
# of several maxima.
#
# </details>


# %% tags=["exercise-1"]
def selection(x, k, s):
    return ...


# %% tags=["check-1"]
def selection_by_the_library(x, k, s):
    return np.asarray(textbook.selection_matrix(jnp.asarray(x), window_axes(x.shape, (k,), strides=s)))


rows = [
    np.array(r, np.float32)
    for r in ([3, 1, 4, 1, 5, 9], [2, 2, 1, 2, 2], [0, 0, 0, 0, 0, 0, 0], [5, 6, 6, 5])
]
check(
    selection, selection_by_the_library, [(r, k, s) for r in rows for k, s in ((2, 2), (3, 1), (2, 1))]
)

# %% [markdown]
# ### Exercise 2: the gradient of average pooling
#
# One dimension, $n$ cells, windows of $k$ at stride $s$, no padding: return the gradient of the input for a cotangent
# $\delta$. Mind the overlap, and the cells that are left over.
#
# <details><summary>Hint</summary>
#
# Start from `np.zeros(n)` and go through the outputs: each adds its share to all cells of its window, a slice.
# Left-over cells need no code of their own.
#
# </details>


# %% tags=["exercise-2"]
def average_gradient(delta, n, k, s):
    return ...


# %% tags=["check-2"]
def average_by_the_library(delta, n, k, s):
    _, pullback = jax.vjp(lambda x: fnconv.avg_pool(x, (k,), strides=s), jnp.zeros((n, 1)))
    return pullback(last(delta))[0][:, 0]


cases = [(6, 2, 2), (7, 3, 2), (5, 3, 1), (8, 3, 3)]
deltas = [
    np.random.default_rng(n).integers(1, 9, (n - k) // s + 1).astype(np.float32) for n, k, s in cases
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
#
# <details><summary>Hint</summary>
#
# (5.3) with another second line. `jnp.where(condition, this, that)` chooses entry by entry.
#
# </details>


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
