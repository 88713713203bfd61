# %% [markdown]
# # 7 How fast, and why
#
# Automatic differentiation gives the right gradient, but nobody promised that it gives a fast one. It transposes the
# forward program operation by operation, and what comes out is sometimes a very roundabout way to the result. This
# notebook reads the programs that the compiler makes of automatic gradients and of ours, counts their operations, and
# derives two ways to do less work.
#
# 1. reading a compiled program
# 2. memory: what is kept for the way back
# 3. max pooling: a search where a byte would do
# 4. strides: multiplying by zeros
# 5. depthwise convolution: many times the work
# 6. Winograd's trick, derived: four multiplications instead of six
# 7. its price
# 8. the clock
# 9. three exercises
#
# **Letters of this notebook.** Indices start from 0. Terms are explained in the [glossary](glossary.md).
#
# | letter | meaning |
# |:---|:---|
# | $z$ | the loss |
# | $\mathbf{x}$, $\mathbf{w}$, $\mathbf{d}$ | input, kernel, and the output's cotangent; $x_i$, $w_k$, $d_o$ |
# | $\mathbf{y}$, $\mathbf{g}$ | outputs $C(\mathbf{x}, \mathbf{w})$, and input gradient $X(\mathbf{d}, \mathbf{w})$ |
# | $C$, $X$, $W$, $T$ | the three maps and their trilinear form, as in notebook 6 |
# | $s$, $\ell$ | the stride; the number of zeros padded in front |
# | $t$ | the variable of a polynomial |
# | $p_j$, $v_j$ | the points, and a polynomial's values there |
# | $V_n$ | the matrix that takes $n$ coefficients to the values |
# | $c_j$ | the denominators of Lagrange's formula |
# | $B^T$, $G$, $A^T$ | the usual names of Winograd's matrices |
# | $F(m, 3)$ | Winograd's program for $m$ outputs of a kernel of 3 entries |
# | $\odot$ | the product entry by entry |
#
# Numbers that depend on the computer or on the compiler's version are printed by cells of their own, and may differ
# on yours; what is claimed in the text is also printed as a yes-or-no answer.

# %%
import json
import re
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import fnconv
import jax
import jax.numpy as jnp
import numpy as np
from fnconv.base.geometry import Axis
from fnconv.rules.conv.winograd import transforms
from jax import lax

from exercises import check
from pictures import COLOURS, Canvas, chart

random = np.random.default_rng(7)
NHWC = ("NHWC", "HWIO", "NHWC")


def normal(*shape):
    return jnp.asarray(random.normal(size=shape), jnp.float32)


# %% [markdown]
# ## 1. Reading a compiled program
#
# `jax.jit` hands a program to the compiler XLA, which rewrites it until it is a list of machine operations, the
# *HLO*. We can look at that list. `lower(...).compile()` stops after compiling; then `as_text()` is the list,
# `memory_analysis()` tells how much scratch memory a run takes, and `cost_analysis()` how many operations on numbers
# it makes.


# %%
def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def operations(program):
    """How often each kind of operation stands in the program."""
    return Counter(
        re.findall(r"^ *(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][a-z\-]*)\(", program.as_text(), re.MULTILINE)
    )


def backward(function):
    """(arguments, cotangent) -> the gradients."""
    return lambda *given: jax.vjp(function, *given[:-1])[1](given[-1])


def bars(title, unit, values):
    """A small chart with a number on each bar."""
    figure, axes = chart(title, y=unit, size=(4.4, 2.7))
    colours = [COLOURS["w"], COLOURS["y"], COLOURS["x"]][: len(values)]
    drawn = axes.bar(list(values), list(values.values()), 0.5, color=colours)
    axes.bar_label(drawn, fmt="{:.3g}")
    axes.margins(y=0.15)
    return figure


# %% [markdown]
# ## 2. Memory: what is kept for the way back
#
# The gradient of a product needs the factors: for $\partial z/\partial \mathbf{w} = W(\mathbf{x}, \mathbf{d})$ the
# input $\mathbf{x}$ must still be there when the cotangent $\mathbf{d}$ arrives. What is kept from the forward pass
# for the backward pass are the **residuals**. In training they fill the memory, because the residuals of *all* layers
# wait at the same time.
#
# The function that `jax.vjp` returns carries its residuals along, so they can be counted. Take the block of which
# LeNet and VGG are made, convolution, bias, ReLU, max pooling:

# %%
x, w, b = normal(16, 32, 32, 32), normal(3, 3, 32, 32), normal(32)


def block_of_jax(x, w, b):
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC) + b
    return lax.reduce_window(jax.nn.relu(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def block_of_ours(x, w, b):
    return fnconv.max_pool(fnconv.relu(fnconv.conv(x, w, b, padding="SAME")), (2, 2))


def residuals(function, *arguments):
    """Shape, dtype and bytes of everything that waits for the cotangent."""
    kept = jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(function, *a)[1], *arguments))
    return [(leaf.shape, leaf.dtype.name, leaf.size * leaf.dtype.itemsize) for leaf in kept]


def block_in_one(x, w, b):
    return fnconv.conv_block(x, w, b, padding="SAME", pool=2)


blocks = {"autodiff": block_of_jax, "fnconv": block_of_ours, "conv_block": block_in_one}
kept = {name: residuals(block, x, w, b) for name, block in blocks.items()}
total = {name: sum(size for _, _, size in arrays) for name, arrays in kept.items()}
print("fnconv keeps less than autodiff:", total["fnconv"] < total["autodiff"])
print("conv_block keeps even less:     ", total["conv_block"] < total["fnconv"])

# %% tags=["volatile"]
for name, arrays in kept.items():
    print(name)
    for shape, dtype, size in arrays:
        print(f"   {shape!s:20} {dtype:8} {size / 1e6:5.2f} MB")

# %% tags=["volatile", "hide-input"]
bars("What waits for the cotangent", "MB", {name: size / 1e6 for name, size in total.items()})

# %% [markdown]
# All keep $\mathbf{x}$ and $\mathbf{w}$; they have to. Autodiff also keeps what each of its operations happened to
# read. By hand we may *choose*. ReLU needs one bit per value, and its own output, which is there anyway, holds it.
# Max pooling needs to know which cell of each window won: a number from 0 to 3, so one byte (`int8`) per output,
# never the input. And `conv_block`, one rule for all four operations, needs nothing else: exercise 3.
#
# ## 3. Max pooling: a search where a byte would do
#
# How does autodiff go back through max pooling? It has no note of the winners, so it has to search the windows again.
# Let us look at which operations each program consists of, for overlapping windows ($3 \times 3$, stride 2):


# %%
def pool_of_jax(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def pool_of_ours(x):
    return fnconv.max_pool(x, (3, 3), strides=2, padding="SAME")


dy = normal(*pool_of_jax(x).shape)
pools = {
    "autodiff": compiled(backward(pool_of_jax), x, dy),
    "fnconv": compiled(backward(pool_of_ours), x, dy),
}
searching = {name: operations(program)["scatter"] > 0 for name, program in pools.items()}
print("a scatter in autodiff's backward pass:", searching["autodiff"])
print("a scatter in ours:                    ", searching["fnconv"])
scratch = {name: program.memory_analysis().temp_size_in_bytes for name, program in pools.items()}
print("ours needs less scratch memory:       ", scratch["fnconv"] < scratch["autodiff"])

# %% tags=["volatile"]
for name, program in pools.items():
    found = operations(program)
    shown = ("reduce-window", "scatter", "iota", "select", "pad", "slice", "add")
    print(f"{name:9}", {kind: found[kind] for kind in shown if found[kind]})

# %% tags=["volatile", "hide-input"]
bars("Scratch memory of the backward pass", "MB", {name: size / 1e6 for name, size in scratch.items()})

# %% [markdown]
# Autodiff's program builds arrays of *positions* (`iota`), a 32-bit number per axis for every cell of the input,
# drags them through a second pass over all windows (`reduce-window`) to find each winner's position, and then writes
# the cotangents there one by one (`scatter`), which cannot be done in parallel because two windows may have the same
# winner. Ours is the sum (4.6) read cell by cell: every input cell belongs to at most four windows; compare the
# window's byte with the cell's place in it, and take the cotangent or zero (`select`), then `add`. No search, no
# conflict, everything in straight lines through memory.
#
# ## 4. Strides: multiplying by zeros
#
# Notebook 3 derived the input gradient of a strided convolution in three steps: put $s - 1$ zeros between the entries
# of the cotangent, pad, correlate with the kernel turned by 180 degrees. XLA does it in just this way; the program
# says so with the words `lhs_dilate`, "dilate the left operand":


# %%
def strided_of_jax(x):
    return lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=NHWC)


strided = compiled(backward(strided_of_jax), x, dy).as_text()
found = re.search(r"convolution\(.*?(window=\{[^}]*\})", strided)
print("autodiff inserts zeros:", "lhs_dilate=2x2" in found.group(1))

# %% tags=["volatile"]
print(found.group(1))

# %% [markdown]
# It is a good way to *derive* the gradient and a wasteful way to *compute* it: with stride 2 three of four entries
# are zeros. Which multiplications are not wasted? Along one axis, output $o$ multiplies kernel entry $k$ with the
# input cell $i = s\,o + k - \ell$. So the gradient of cell $i$ contains only those $k$ for which $i + \ell - k$ is
# divisible by $s$. Apart from the rim, these $k$ depend on the **phase** $i \bmod s$ alone. Here is the number of
# kernel entries that really contribute, for a $3 \times 3$ kernel at stride 2:

# %%
axis = Axis(size=7, window=3, stride=2, low=1, high=1)
cells = axis.positions()
meeting = [int((cells == i).sum()) for i in range(axis.size)]  # along one axis
counts = np.outer(meeting, meeting)

# %% tags=["hide-input"]
phases = [["x", "w"], ["y", "g"]]
colours = [[phases[i % 2][j % 2] for j in range(axis.size)] for i in range(axis.size)]
canvas = Canvas()
canvas.array(counts, "kernel entries that reach each cell", colour=colours)
canvas.show()

# %%
print("multiplications with zeros inserted:", counts.size * 9)
print("multiplications that count:         ", int(counts.sum()))

# %% [markdown]
# Every colour is a phase: its cells have the same number of terms, at the same kernel entries. So one computes four
# small gradients, one per phase, each an ordinary convolution of the cotangent with a part of the kernel, and
# interleaves them: less than a quarter of the multiplications, no zeros anywhere. (Signal processing calls it the
# *polyphase* form.)
#
# ## 5. Depthwise convolution: many times the work
#
# In a depthwise convolution every channel has its own kernel and nothing is summed over channels. How many operations
# are needed is easy to count: for each of the two gradients a multiplication and an addition for every output and
# every kernel entry.


# %%
def depthwise_of_jax(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=32
    )


def depthwise_of_ours(x, w):
    return fnconv.conv(x, w, padding="SAME", groups=32)


small, kernels, cotangent = normal(4, 32, 32, 32), normal(3, 3, 1, 32), normal(4, 32, 32, 32)
needed = 2 * 2 * cotangent.size * 9
flops = {
    name: compiled(backward(f), small, kernels, cotangent).cost_analysis()["flops"]
    for name, f in {"autodiff": depthwise_of_jax, "fnconv": depthwise_of_ours}.items()
}
print(f"needed: {needed / 1e6:.1f} million operations")
print("fnconv needs at most 1.5 times that:     ", flops["fnconv"] < 1.5 * needed)
print("autodiff needs more than ten times that: ", flops["autodiff"] > 10 * needed)

# %% tags=["volatile", "hide-input"]
bars(
    "Gradients of a depthwise convolution",
    "million operations",
    {name: n / 1e6 for name, n in flops.items()},
)

# %% [markdown]
# For its gradient with respect to the kernels XLA has no depthwise form: it computes the gradient of a *dense*
# convolution, every channel with every other one, and then keeps the diagonal.
#
# ## 6. Winograd's trick, derived
#
# So far we stopped doing useless work. Now we do *useful* work with fewer multiplications. Take one dimension, a
# kernel of three entries, and two neighbouring outputs:
#
# $$y_0 = x_0 w_0 + x_1 w_1 + x_2 w_2, \qquad y_1 = x_1 w_0 + x_2 w_1 + x_3 w_2 .$$
#
# Six multiplications. Four are enough, and this is why.
#
# **Step 1: go to the gradient.** Notebook 6 wrote convolution and its gradients as three readings of one sum,
# $T = \sum_{o,k} d_o\, x_{o+k}\, w_k$. Look at the input gradient, $g_i = \sum_{o + k = i} d_o w_k$. These are the
# coefficients of a product of two polynomials!
#
# $$(d_0 + d_1 t)\,(w_0 + w_1 t + w_2 t^2) = g_0 + g_1 t + g_2 t^2 + g_3 t^3 .$$
#
# **Step 2: polynomials by their values** (the method of Toom and Cook). A polynomial of degree 3 is known once its
# values at four points are known. And the value of the product is the product of the values: *one* multiplication per
# point. Four points, four multiplications. We take the points $0$, $1$, $-1$ and "$\infty$". By the value at $\infty$
# we mean the leading coefficient, and that of a product is again the product of those of the factors. Values at
# points are a matrix times the coefficients:
#
# $$
# V_n = \begin{pmatrix} 1 & p_0 & \cdots & p_0^{n-1} \\ \vdots & & & \vdots \\ 0 & 0 & \cdots & 1 \end{pmatrix}
# \quad \text{(a row for each point, the last one for } \infty),
# \qquad
# V_4\, \mathbf{g} = (V_2\, \mathbf{d}) \odot (V_3\, \mathbf{w}) .
# $$
#
# **Step 3: back to coefficients, by Lagrange.** The polynomial with values $v_j$ at the finite points $p_j$ and
# leading coefficient $v_\infty$ can be written down at once:
#
# $$
# g(t) = \sum_j v_j \underbrace{\prod_{i \ne j} \frac{t - p_i}{p_j - p_i}}_{1 \text{ at } p_j,\ 0 \text{ at the
# others}} {}+ v_\infty \underbrace{\prod_i (t - p_i)}_{0 \text{ at all } p_i} .
# $$
#
# The coefficients of these polynomials are the columns of $V_4^{-1}$. With fractions instead of floating-point
# numbers everything is exact:


# %%
def times(a, b):
    """The product of two polynomials, lists of coefficients from the constant one up."""
    product = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            product[i + j] += p * q
    return product


def values_at(points, n):
    """V: from n coefficients to the values at the points, and the leading coefficient."""
    return np.array(
        [[Fraction(p) ** k for k in range(n)] for p in points]
        + [[Fraction(k == n - 1) for k in range(n)]]
    )


def from_values(points):
    """The inverse of V, its columns by Lagrange's formula."""
    columns = []
    for p in points:
        polynomial = [Fraction(1)]
        for q in points:
            if q != p:
                polynomial = times(polynomial, [Fraction(-q, p - q), Fraction(1, p - q)])
        columns.append([*polynomial, Fraction(0)])
    everywhere_zero = [Fraction(1)]
    for q in points:
        everywhere_zero = times(everywhere_zero, [Fraction(-q), Fraction(1)])
    return np.array([*columns, everywhere_zero]).T


def written(matrix):
    """Fractions as strings, to be shown."""
    return [[str(v).replace("-", "\N{MINUS SIGN}") for v in row] for row in matrix]


points = (0, 1, -1)
V4, inverse = values_at(points, 4), from_values(points)
print("V times its inverse is I:", bool((V4 @ inverse == np.eye(4, dtype=int)).all()))

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(written(V4), "$V_4$", rows=["$0$", "$1$", "$-1$", r"$\infty$"], colour="x")
canvas.array(written(inverse), r"$V_4^{-1}$", colour="y")
canvas.show()

# %% [markdown]
# **Step 4: back to the convolution.** We have $\mathbf{g} = V_4^{-1} [(V_2 \mathbf{d}) \odot (V_3 \mathbf{w})]$, so
#
# $$
# T = \mathbf{x}^T \mathbf{g} = \sum_{j=0}^{3} (V_4^{-T} \mathbf{x})_j \; (V_2\, \mathbf{d})_j \; (V_3\, \mathbf{w})_j
# .
# $$
#
# Three vectors of length four, multiplied entry by entry and summed. Everything else is notebook 6: the partial
# gradients of $T$ are the three maps, and *each of them* now costs four multiplications:
#
# $$
# C(\mathbf{x}, \mathbf{w}) = V_2^T [\,V_4^{-T}\mathbf{x} \odot V_3 \mathbf{w}\,], \qquad
# X(\mathbf{d}, \mathbf{w}) = V_4^{-1} [\,V_2 \mathbf{d} \odot V_3 \mathbf{w}\,], \qquad
# W(\mathbf{x}, \mathbf{d}) = V_3^T [\,V_4^{-T}\mathbf{x} \odot V_2 \mathbf{d}\,].
# $$
#
# The first one is known as Winograd's $F(2, 3)$: two outputs, three kernel entries. Let us check all three on
# integers, where nothing is rounded:

# %%
V2, V3 = values_at(points, 2), values_at(points, 3)
x1, w1, d1 = (random.integers(-9, 10, n) for n in (4, 3, 2))

by_winograd = {
    "C(x, w)": V2.T @ ((inverse.T @ x1) * (V3 @ w1)),
    "X(d, w)": inverse @ ((V2 @ d1) * (V3 @ w1)),
    "W(x, d)": V3.T @ ((inverse.T @ x1) * (V2 @ d1)),
}
directly = {
    "C(x, w)": np.correlate(x1, w1, "valid"),
    "X(d, w)": np.convolve(d1, w1),
    "W(x, d)": np.correlate(x1, d1, "valid"),
}
for name, value in by_winograd.items():
    print(name, [str(v) for v in value], "equal:", bool((value == directly[name]).all()))

# %% [markdown]
# The matrices transform both factors before the multiplication and the result after it. That pays where a transformed
# array is used often: in a convolutional layer each piece of $\mathbf{x}$ is multiplied with *all* kernels, each kernel
# with *all* pieces, and the four products become four matrix products over the channels. To make the transform of
# $\mathbf{x}$ as cheap as possible, one moves the fractions to the kernel:
# multiply row $j$ of $V_4^{-T}$ by $c_j = \prod_{i \ne j}(p_j - p_i)$, the denominator in Lagrange's formula, and
# divide row $j$ of $V_3$ by it. The products stay the same. The three matrices that come out are usually called
# $B^T$, $G$ and $A^T$:
#
# $$
# \mathbf{y} = C(\mathbf{x}, \mathbf{w}) = A^T [\,(G\,\mathbf{w}) \odot (B^T \mathbf{x})\,],
# \qquad B^T = \operatorname{diag}(c)\, V_4^{-T}, \quad G = \operatorname{diag}(c)^{-1} V_3, \quad A = V_2 .
# $$

# %%
c = [np.prod([p - q for q in points if q != p]) for p in points] + [1]
for_input = [[v * int(k) for v in row] for row, k in zip(inverse.T, c, strict=True)]
for_kernel = [[v / int(k) for v in row] for row, k in zip(V3, c, strict=True)]

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(written(for_input), "$B^T$, for the input", colour="x")
canvas.array(written(for_kernel), "$G$, for the kernel", colour="w")
canvas.array(written(V2.T), "$A^T$, for the output", colour="y")
canvas.show()

# %% [markdown]
# The library has the rule `"winograd"`, which makes its matrices in the same way:

# %%
ready = transforms(2, 3)
same = [(ready.bt == for_input).all(), (ready.g == for_kernel).all(), (ready.at == V2.T).all()]
print("the library's B^T, G and A^T are these:", *map(bool, same))

# %% [markdown]
# The input is only added and subtracted now. In two dimensions the trick is applied along rows and along columns: a
# tile of $m \times m$ outputs of a $3 \times 3$ kernel takes $(m + 2)^2$ multiplications instead of $9 m^2$.

# %%
for m in (2, 4, 6):
    fast, direct = (m + 2) ** 2, 9 * m * m
    print(f"F({m}x{m}, 3x3): {fast:3} instead of {direct:3} multiplications, {direct / fast:.2f} to 1")

# %% [markdown]
# ## 7. Its price
#
# Why not large tiles, then? More points are needed, and there are no more small ones: after $0, \pm 1$ come $\pm 2$,
# $\pm \frac{1}{2}$. Their powers are large and small numbers, the transforms add and subtract quantities of different
# size, and floating-point arithmetic loses digits. Let us measure the error of one tile in float32, against exact
# arithmetic:


# %%
def tile_error(m, points):
    """Root mean square error of F(m x m, 3 x 3) in float32, relative to the size of the outputs."""
    n = m + 2
    scale = np.array(
        [float(np.prod([Fraction(p) - q for q in points if q != p])) for p in points] + [1.0]
    )
    for_input = (from_values(points).T.astype(float) * scale[:, None]).astype(np.float32)
    for_kernel = (values_at(points, 3).astype(float) / scale[:, None]).astype(np.float32)
    for_output = values_at(points, m).T.astype(np.float32)
    rng = np.random.default_rng(0)
    x, w = (
        rng.normal(size=(500, n, n)).astype(np.float32),
        rng.normal(size=(500, 3, 3)).astype(np.float32),
    )
    fast = for_output @ ((for_input @ x @ for_input.T) * (for_kernel @ w @ for_kernel.T)) @ for_output.T
    wide = np.lib.stride_tricks.sliding_window_view(x.astype(float), (3, 3), axis=(1, 2))
    exact = np.einsum("bijkl,bkl->bij", wide, w.astype(float))
    return np.sqrt(np.mean((fast - exact) ** 2) / np.mean(exact**2))


half = Fraction(1, 2)
errors = {
    2: tile_error(2, (0, 1, -1)),
    4: tile_error(4, (0, 1, -1, 2, -2)),
    6: tile_error(6, (0, 1, -1, 2, -2, half, -half)),
}
print("the error grows with the tile:", errors[2] < errors[4] < errors[6])
print("all below a ten-thousandth:   ", max(errors.values()) < 1e-4)

# %% tags=["volatile", "hide-input"]
figure, axes = chart(
    "Error of Winograd's convolution", "outputs of a tile", "relative error", size=(4.6, 2.8)
)
axes.semilogy([f"{m}x{m}" for m in errors], list(errors.values()), marker="o", color=COLOURS["d"])
figure

# %% [markdown]
# So every larger tile is faster and less exact. Rounding errors of $10^{-6}$ are far below the noise of stochastic
# gradient descent. Still, a library should not choose the least exact rule without being asked.
#
# ## 8. The clock
#
# Operation counts are not times: a computer may wait for memory more than for arithmetic. So measure. The next cell
# times a few gradients, both sides in the same process, and takes the median of several runs.


# %% tags=["volatile"]
def milliseconds(function, *arguments, runs=7):
    run = jax.jit(function)
    jax.block_until_ready(run(*arguments))
    clock = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        clock.append(time.perf_counter() - start)
    return 1000 * sorted(clock)[runs // 2]


one_by_one = normal(1, 1, 32, 64)
cases = {
    "max pooling": (pool_of_jax, pool_of_ours, (x, dy)),
    "depthwise": (depthwise_of_jax, depthwise_of_ours, (small, kernels, cotangent)),
    "1×1 kernel": (
        lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC),
        lambda x, w: fnconv.conv(x, w),
        (x, one_by_one, normal(16, 32, 32, 64)),
    ),
}
ratios = {}
for name, (theirs, ours, given) in cases.items():
    t, o = milliseconds(backward(theirs), *given), milliseconds(backward(ours), *given)
    ratios[name] = t / o
    print(f"{name:12} autodiff {t:7.2f} ms   fnconv {o:7.2f} ms   {t / o:5.1f} to 1")

# %% [markdown]
# One computer, a few shapes, and other programs running beside: good for an impression only. `python -m benchmarks`
# measures many layers carefully, and its results are kept in `benchmarks/results`. If they are there, this is their
# summary (`fwd` is the forward map, `dX`, `dW` and `bwd` are gradients, `step` is a whole step of training; `tuned` and
# `gpu` mark other settings and machines), otherwise once more the measurements from above.

# %% tags=["volatile", "hide-input"]
kept = {}
for file in sorted(Path("../benchmarks/results").glob("*.json")):
    if file.stem.split("-")[0] not in ("layers", "pools", "models"):
        continue
    for row in json.loads(file.read_text())["rows"]:
        clock = {side: found.get("ms") for side, found in row["times"].items()}
        if clock.get("autodiff") and clock.get("fnconv"):
            group = f"{file.stem}: {row['map']}"
            kept.setdefault(group, []).append(clock["autodiff"] / clock["fnconv"])
means = {group: float(np.exp(np.mean(np.log(values)))) for group, values in kept.items()} or ratios

title = "Time of autodiff over time of fnconv" + (", geometric means" if kept else "")
figure, axes = chart(title, "above 1: fnconv is faster", size=(6.2, 1.2 + 0.32 * len(means)))
drawn = axes.barh(list(means), list(means.values()), 0.6, color=COLOURS["y"])
axes.bar_label(drawn, fmt="{:.1f}", padding=3)
axes.axvline(1, color="#666666", linewidth=0.8)
axes.invert_yaxis()
axes.margins(x=0.12)
figure

# %% [markdown]
# ## 9. Exercises
#
# ### Exercise 1: counting zeros
#
# One dimension, no padding, input of `size` cells, kernel of `window` entries, stride `s`. How many multiplications
# does the input gradient take (a) with zeros inserted, when every one of the `size` cells is a sum of `window`
# products, and (b) when only pairs (output, kernel entry) count? Return both numbers.
#
# <details><summary>Hint</summary>
#
# (a) is one product. For (b): there are $\lfloor (\text{size} - \text{window}) / s \rfloor + 1$ outputs, and without
# padding every output forms a pair with every entry of the kernel.
#
# </details>


# %% tags=["exercise-1"]
def multiplications(size, window, s):
    return ..., ...


# %% tags=["check-1"]
def counted_in_the_table(size, window, s):
    axis = Axis(size, window, s)
    return axis.size * axis.window, int(axis.valid().sum())


check(multiplications, counted_in_the_table, [(8, 2, 2), (7, 3, 2), (28, 5, 1), (10, 3, 4)])

# %% [markdown]
# ### Exercise 2: four multiplications
#
# Write $F(2, 3)$ out: from $x_0 \dots x_3$ and $w_0, w_1, w_2$ the two outputs $y_0, y_1$, with four products only.
# Dividing by the number 2 is allowed and not counted. The check hands you numbers that count how often two of them are
# multiplied.
#
# <details><summary>Hint</summary>
#
# Read them off the three matrices of section 6. Row $j$ of $B^T$ and row $j$ of $G$ give the factors of product $j$;
# the rows of $A^T$ say with which signs the four products are added.
#
# </details>


# %% tags=["exercise-2"]
def two_outputs(x, w):
    return ..., ...


# %% tags=["check-2"]
class Counted:
    """A fraction that counts the multiplications of two of its kind."""

    products = 0

    def __init__(self, value):
        self.value = Fraction(value)

    def __add__(self, other):
        return Counted(self.value + other.value)

    def __sub__(self, other):
        return Counted(self.value - other.value)

    def __neg__(self):
        return Counted(-self.value)

    def __truediv__(self, number):
        return Counted(self.value / number)

    def __mul__(self, other):
        if isinstance(other, Counted):
            Counted.products += 1
            return Counted(self.value * other.value)
        return Counted(self.value * other)

    __rmul__ = __mul__


def outputs_and_products(x, w):
    Counted.products = 0
    y = two_outputs([Counted(v) for v in x], [Counted(v) for v in w])
    return tuple(... if v is ... else float(v.value) for v in y), Counted.products


check(
    outputs_and_products,
    lambda x, w: (tuple(float(v) for v in np.correlate(x, w, "valid")), 4),
    [([1, 2, 3, 4], [1, 0, -1]), ([5, -2, 0, 7], [2, 3, 4])],
)

# %% [markdown]
# ### Exercise 3: the least that can be kept
#
# Why is it enough for `conv_block` of section 2 to keep the input, the kernels and *one byte per pooled output*? The
# maximum of ReLUs is the ReLU of the maximum. So the byte only has to say which of the four cells won, or that the
# maximum was not positive and ReLU lets nothing through. How many bytes are that in all, with float32 for input and
# kernels (4 bytes an entry), for `n` images of `height` × `width` with `c_in` channels, and `c_out` kernels of
# $3 \times 3$? (Padding "SAME", even height and width.)
#
# <details><summary>Hint</summary>
#
# Three terms: the entries of the input and those of the kernels, 4 bytes each, and the pooled outputs, 1 byte each.
# Pooling by 2 halves height and width.
#
# </details>


# %% tags=["exercise-3"]
def least_bytes(n, height, width, c_in, c_out):
    return ...


# %% tags=["check-3"]
def counted_in_the_rule(n, height, width, c_in, c_out):
    shapes = [(n, height, width, c_in), (3, 3, c_in, c_out), (c_out,)]
    kept = residuals(block_in_one, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    return sum(size for _, _, size in kept)


check(least_bytes, counted_in_the_rule, [(16, 32, 32, 32, 32), (1, 4, 6, 1, 2), (64, 28, 28, 1, 6)])

# %% [markdown]
# **Next:** [8 Check your own rule](08_check_your_own_rule.ipynb).
