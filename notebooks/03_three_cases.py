# %% [markdown]
# # 3 The input gradient in three cases
#
# Notebook 2 ended with the gradient of the input as a sum over copies. There is another road, which needs no matrices:
# *the gradient of a correlation is again a correlation*, of a prepared cotangent with the kernel turned by 180 degrees.
# This is also how the fast programs of today compute it. The preparation depends on the stride and the padding. We go
# through the three cases of a handwritten text, which the library cites as "Notes":
#
# 1. no padding, stride 1, with an example small enough to write every element down (it is that of the text "Small");
# 2. no padding, a larger stride, where cells may be left over;
# 3. *same*: the output as large as the input, at any stride.
#
# Then the kernel's own gradient, and three exercises. An appendix lists the misprints of the texts, and shows how a
# program finds them.
#
# **Letters of this notebook** are those of Small and of `show`, so indices start **from 1** here. Every array has one
# channel. (With several channels the correlations of all kernels are added.)
#
# | letter | meaning |
# |:---|:---|
# | $I$, $W$, $b$, $O$ | input, kernel, bias, output (in the other notebooks $I$ is the identity matrix) |
# | $L$ | the loss |
# | $\delta = \partial L/\partial O$ | the cotangent of the output |
# | $u$, $v$ | row and column of a cell of the input |
# | $r$, $s$ | row and column of an entry of the kernel |
# | $i$, $j$ | row and column of an output |
# | $k$ | the kernel has $k \times k$ entries |
# | $t$ | the stride |
# | $n$ | number of cells along one axis |
#
# Terms are explained in the [glossary](glossary.md).

# %%
import fnconv
import jax
import jax.numpy as jnp
import numpy as np
from fnconv import show
from fnconv.base.geometry import Axis, named_padding

from exercises import check
from pictures import Canvas, Step, flow

random = np.random.default_rng(3)


def integers(*shape):
    return random.integers(1, 10, shape).astype(np.float32)


def symbols(letter, rows, columns):
    return [[f"${letter}_{{{i}{j}}}$" for j in range(1, columns + 1)] for i in range(1, rows + 1)]


def forward(image, kernel, **options):
    """fnconv.conv for one image and one kernel, without channels."""
    return fnconv.conv(image[:, :, None], kernel[:, :, None, None], **options)[:, :, 0]


def gradients(image, kernel, delta, **options):
    """dL/dI and dL/dW by the library's hand-written rules."""
    _, pullback = jax.vjp(lambda i, w: forward(i, w, **options), image, kernel)
    return pullback(jnp.asarray(delta))


# %% [markdown]
# ## 1. Stride 1, no padding
#
# Small's layer has a $3 \times 3$ input $I$, a $2 \times 2$ kernel $W$, a bias $b$ and a $2 \times 2$ output $O$. The
# forward pass (Small, forward; Notes 1) is
#
# $$O_{ij} = \sum_{r=1}^{2} \sum_{s=1}^{2} I_{i+r-1,\; j+s-1}\, W_{rs} + b .$$

# %% tags=["hide-input"]
flow(
    ["$I$", "$O$"],
    [
        Step(
            "$* \\; W + b$",
            r"pad by $k-1$, $*$ rot180$(W)$",
            kept="$I$, $W$",
            weight="$W$, $b$",
            weight_gradient=r"$\partial L/\partial W = I * \delta$,   $\partial L/\partial b = \sum\delta$",
        )
    ],
    [r"$\partial L/\partial I$", r"$\delta$"],
)

# %% [markdown]
# The lower row of the picture is what this section derives. First the forward pass; `show` writes the four equations
# out:

# %%
page = show.conv((3, 3), (2, 2))
for cell in ("O_11", "O_12", "O_21", "O_22"):
    print(page.find(cell))

# %% [markdown]
# **The bias**, Small (1). $b$ stands in every output with the factor 1, so
# $\frac{\partial L}{\partial b} = \sum_{ij} \delta_{ij}$.
#
# **The kernel**, Small (2). $W_{rs}$ is multiplied by one cell for each output; each output sends back its $\delta$
# times that cell: $\frac{\partial L}{\partial W_{rs}} = \sum_{ij} \delta_{ij}\, I_{i+r-1,\,j+s-1}$.
#
# **The input**, Small (3). In which outputs does $I_{12}$ occur? Look for it above: in $O_{11}$, times $W_{12}$, and
# in $O_{12}$, times $W_{11}$. So

# %%
for cell in ("∂L/∂b", "∂L/∂W_11", "∂L/∂W_12", "∂L/∂I_11", "∂L/∂I_12", "∂L/∂I_22"):
    print(page.find(cell))

# %% [markdown]
# Nine lines can be written by hand. A layer of any size needs one formula.
#
# **The general formula.** The product of the cell $(u, v)$ and the kernel entry $(r, s)$ stands in the output $(i, j)$
# exactly when $i + r - 1 = u$ and $j + s - 1 = v$. For a given output there is one such entry, $r = u - i + 1$,
# $s = v - j + 1$. So
#
# $$\frac{\partial L}{\partial I_{uv}} = \sum_{i,j} \delta_{ij}\, W_{u-i+1,\; v-j+1},$$
#
# where entries outside the kernel count as 0. Compare with the forward pass: there both indices under the sum *grow*
# together, that of the input with that of the kernel. Here the index of $W$ *falls* as that of $\delta$ grows. Turn the
# kernel by 180 degrees, $W'_{rs} = W_{k+1-r,\,k+1-s}$, and both grow again:
#
# $$
# \frac{\partial L}{\partial I_{uv}} = \sum_{r,s} \delta_{u+r-k,\; v+s-k}\; W'_{rs} .
# $$
#
# This is the forward formula with $\delta$ in place of the image, shifted by $k - 1$: **pad $\delta$ with $k-1$ zeros
# on each side and correlate with rot180$(W)$** (Notes 2.3). Look at the upper left corner: the turned kernel touches
# $\delta$ only with its last entry, which is $W_{11}$. Right: $\partial L/\partial I_{11} = \delta_{11} W_{11}$.

# %% tags=["hide-input"]
delta, W = symbols(r"\delta", 2, 2), symbols("W", 2, 2)
padded = [["0"] * 4, ["0", *delta[0], "0"], ["0", *delta[1], "0"], ["0"] * 4]
around = [["padding"] * 4, *[["padding", "d", "d", "padding"]] * 2, ["padding"] * 4]
turned = [row[::-1] for row in W[::-1]]

canvas = Canvas()
canvas.array(delta, r"$\delta$", colour="d")
canvas.text(r"pad $\to$")
canvas.array(padded, "1 zero on each side", colour=around, mark=[(0, 0), (0, 1), (1, 0), (1, 1)])
canvas.text("$*$")
canvas.array(turned, r"rot180$(W)$", colour="w")
canvas.text("$=$")
dI = [[rf"$\partial L/\partial I_{{{i}{j}}}$" for j in (1, 2, 3)] for i in (1, 2, 3)]
canvas.array(dI, "gradient", colour="g", mark=[(0, 0)])
canvas.show()

# %% [markdown]
# In numbers, with our own three lines of NumPy for the correlation:


# %%
def correlate(image, kernel, stride=1):
    """The definition: the sum of products under the kernel, at every place."""
    k, n = kernel.shape[0], (image.shape[0] - kernel.shape[0]) // stride + 1
    at = [stride * i for i in range(n)]
    return np.array([[np.sum(image[i : i + k, j : j + k] * kernel) for j in at] for i in at])


def rot180(kernel):
    return kernel[::-1, ::-1]


image, W, delta = integers(3, 3), integers(2, 2), integers(2, 2)
by_correlation = correlate(np.pad(delta, 1), rot180(W))
dI, dW = gradients(image, W, delta)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(np.pad(delta, 1), r"$\delta$, padded", colour=around)
canvas.text("$*$")
canvas.array(rot180(W), r"rot180$(W)$", colour="w")
canvas.text("$=$")
canvas.array(by_correlation, r"$\partial L/\partial I$", colour="g")
canvas.show()

# %%
print("the library's gradient is the same:", np.array_equal(by_correlation, dI))
named = fnconv.conv_input_vjp(delta[:, :, None], W[:, :, None, None], (3, 3, 1), rule="correlation")
print("and so is its rule of this name:   ", np.array_equal(by_correlation, named[:, :, 0]))

# %% [markdown]
# ## 2. A larger stride, and cells that are left over
#
# Take a $5 \times 5$ input, a $2 \times 2$ kernel and stride 2. The output has
# $\lfloor (5-2)/2 \rfloor + 1 = 2$ rows and columns: the windows cover rows 1, 2 and 3, 4. Row and column 5 are
# covered by no window. They are *left over*:

# %%
axis = Axis(size=5, window=2, stride=2)
print("output:", axis.output, "  cells reached:", axis.reach, "  left over:", axis.leftover)

# %% tags=["hide-input"]
covered = [["x" if i < 4 and j < 4 else "none" for j in range(5)] for i in range(5)]
canvas = Canvas()
canvas.array(
    symbols("I", 5, 5), "white: left over", colour=covered, mark=[(0, 2), (0, 3), (1, 2), (1, 3)]
)
canvas.text("$*$")
canvas.array(symbols("W", 2, 2), "kernel, stride 2", colour="w")
canvas.text("$=$")
canvas.array(symbols("O", 2, 2), "output", colour="y", mark=[(0, 1)])
canvas.show()

# %% [markdown]
# With a stride $t$, the window of output row $i$ starts $(i-1)\,t$ cells further down, so its kernel row $r$ lies on
# the input row $u = (i-1)\,t + r$. Solve for $r$ as before:
#
# $$\frac{\partial L}{\partial I_{uv}} = \sum_{i,j} \delta_{ij}\; W_{u-(i-1)t,\; v-(j-1)t} .$$
#
# Now the index of $W$ falls by $t$ when the index of $\delta$ grows by 1. The trick is to **put $t - 1$ zeros between
# the entries of $\delta$**; then the index falls by 1 for each step again, and everything is as in the first case:

# %% tags=["hide-input"]
flow(
    ["$I$", "$O$"],
    [
        Step(
            r"$* \; W$ at stride $t$",
            r"1. insert zeros   2. pad   3. $*$ rot180$(W)$ at stride 1",
            kept="$W$",
        )
    ],
    [r"$\partial L/\partial I$", r"$\delta$"],
)

# %% [markdown]
# The left-over cells only ask for more padding at the lower and right end; there the kernel meets nothing but zeros.


# %%
def insert_zeros(delta, stride):
    n = (delta.shape[0] - 1) * stride + 1
    wide = np.zeros((n, n), delta.dtype)
    wide[::stride, ::stride] = delta
    return wide


image, W, delta = integers(5, 5), integers(2, 2), integers(2, 2)
with_zeros = insert_zeros(delta, 2)
prepared = np.pad(with_zeros, (1, 1 + axis.leftover))  # k - 1 low; k - 1 and what is left over high
by_correlation = correlate(prepared, rot180(W))

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(delta, r"$\delta$", colour="d")
canvas.text(r"insert $\to$")
canvas.array(with_zeros, "1.", colour=[["d" if v else "none" for v in row] for row in with_zeros])
canvas.text(r"pad $\to$")
colours = [["padding"] * 6 for _ in range(6)]
for i in range(3):
    for j in range(3):
        colours[i + 1][j + 1] = "none" if (i % 2 or j % 2) else "d"
canvas.array(prepared, "2.", colour=colours)
canvas.text("$*$")
canvas.line()
canvas.array(rot180(W), r"rot180$(W)$", colour="w")
canvas.text("$=$")
left_over = [["g" if i < 4 and j < 4 else "none" for j in range(5)] for i in range(5)]
canvas.array(by_correlation, r"3. $\partial L/\partial I$", colour=left_over)
canvas.show()

# %%
dI, dW = gradients(image, W, delta, strides=2)
print("the library's gradient is the same:", np.array_equal(by_correlation, dI))
page = show.conv((5, 5), (2, 2), strides=2)
for j in range(1, 6):
    print(page.find(f"∂L/∂I_1{j}"))

# %% [markdown]
# The last line is the left-over cell: its gradient is 0, for it changes nothing.
#
# ## 3. *Same* at any stride
#
# In Notes, *same* means that the output is as large as the input **whatever the stride**. For a $5 \times 5$ input, a
# $3 \times 3$ kernel and stride 2 the padded input must have $n$ rows with $\lfloor (n-3)/2 \rfloor + 1 = 5$.
# $n = 11$ is the least such number: three zeros on each side. The library calls this padding `"INPUT_SIZE"`, because
# JAX, TensorFlow and others use the word `"SAME"` for something else, an output of
# $\lceil \text{size} / \text{stride} \rceil$:

# %%
ones, kernel = np.ones((5, 5), np.float32), np.ones((3, 3), np.float32)
for name in ("INPUT_SIZE", "SAME"):
    y = forward(ones, kernel, strides=2, padding=name)
    print(name, "pads", named_padding(name, size=5, span=3, stride=2), "and gives", y.shape)

# %% [markdown]
# Padding the input and convolving are two steps, so the gradient goes back through two steps: first through the
# convolution of the *padded* input, which is case 2; then through the padding, which is easy: **the padding is no
# part of the input, so its gradient is cut off.** In our sizes:

# %% tags=["hide-input"]
flow(
    [r"$I$: $5 \times 5$", r"$11 \times 11$", r"$O$: $5 \times 5$"],
    [
        Step("pad by 3", "cut off 3"),
        Step(
            r"$* \; W$ at stride 2",
            r"insert: $9 \times 9$, pad by 2: $13 \times 13$, $*$ rot180$(W)$",
            kept="$W$",
        ),
    ],
    [r"$\partial L/\partial I$: $5 \times 5$", r"$11 \times 11$", r"$\delta$: $5 \times 5$"],
)

# %%
image, W, delta = integers(5, 5), integers(3, 3), integers(5, 5)
with_zeros = insert_zeros(delta, 2)
padded = np.pad(with_zeros, 2)
of_padded_input = correlate(padded, rot180(W))
by_correlation = of_padded_input[3:8, 3:8]
steps = (delta, with_zeros, padded, of_padded_input, by_correlation)
print("sizes:", *(a.shape for a in steps))

# %% tags=["hide-input"]
inner = [["g" if 3 <= i < 8 and 3 <= j < 8 else "padding" for j in range(11)] for i in range(11)]
canvas = Canvas()
canvas.array(of_padded_input, "gradient of the padded input; yellow: of the input", colour=inner)
canvas.show()

# %%
dI, dW = gradients(image, W, delta, strides=2, padding="INPUT_SIZE")
print("the library's gradient is the same:", np.array_equal(by_correlation, dI))

# %% [markdown]
# Why compute the grey rim at all? Padding by 2 and cutting off 3 afterwards is padding by $2 - 3 = -1$ at once: cut one
# row off on each side, correlate, and only the yellow part comes out. That is what the library does:
# `Axis.input_gradient` gives the paddings of the backward correlation, negative ones included.

# %%
forward_axis = Axis(size=5, window=3, stride=2, low=3, high=3)
backward_axis = forward_axis.input_gradient()
print("padding forward: ", (forward_axis.low, forward_axis.high))
print("padding backward:", (backward_axis.low, backward_axis.high))
cropped = with_zeros[1:-1, 1:-1]
print("the same 5x5:", np.array_equal(correlate(cropped, rot180(W)), dI))

# %% [markdown]
# A $4 \times 4$ input with a $2 \times 2$ kernel and stride 3 needs 11 rows, so 7 zeros. But 7 is odd, so the sides
# differ: 3 and 4. With 3 and 3 only three windows fit.

# %%
print("library:", named_padding("INPUT_SIZE", size=4, span=2, stride=3))
for low, high in ((3, 4), (3, 3)):
    print("outputs with", (low, high), "zeros:", Axis(4, 2, stride=3, low=low, high=high).output)

# %% [markdown]
# ## 4. The gradient of the kernel
#
# With a stride the formula of Small (2) becomes (Notes 3)
#
# $$\frac{\partial L}{\partial W_{rs}} = \sum_{i,j} \delta_{ij}\; I_{(i-1)t + r,\; (j-1)t + s} .$$
#
# Read it as a correlation once more: $\delta$, **with the same zeros inserted**, plays the kernel and runs over the
# (padded) input at stride 1. Nothing is turned this time, for both indices grow. It fits in as many places as the
# kernel has entries. Left-over cells are cut off first; with them it would fit in more places.

# %% tags=["hide-input"]
flow(
    ["$W$", "$O$"],
    [Step(r"$I \; * \; W$ at stride $t$", r"$I \; *$ ($\delta$ with zeros) at stride 1", kept="$I$")],
    [r"$\partial L/\partial W$", r"$\delta$"],
    colour="w",
)

# %%
image, delta = integers(4, 4), integers(2, 2)
W = integers(2, 2)
with_zeros = insert_zeros(delta, 2)
dW_by_hand = correlate(image, with_zeros)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(image, "$I$", colour="x", mark=[(i, j) for i in (0, 2) for j in (0, 2)])
canvas.text("$*$")
canvas.array(
    with_zeros,
    r"$\delta$ with zeros",
    colour=[["d" if v else "none" for v in row] for row in with_zeros],
)
canvas.text("$=$")
canvas.array(dW_by_hand, r"$\partial L/\partial W$", colour="g", mark=[(0, 0)])
canvas.show()

# %%
dI, dW = gradients(image, W, delta, strides=2)
print("the library's gradient is the same:", np.array_equal(dW_by_hand, dW))

# a 3x3 kernel at stride 2: one output; the last row and column are left over
one = delta[:1, :1]
dI, dW = gradients(image, integers(3, 3), one, strides=2)
print("with cells left over:", np.array_equal(correlate(image[:3, :3], insert_zeros(one, 2)), dW))

# %% [markdown]
# ## 5. Exercises
#
# ### Exercise 1: the preparation
#
# For no padding: given $\delta$ ($n \times n$), the stride $t$, the kernel's size $k$ and the number of left-over
# rows, return the array that is correlated with rot180$(W)$.
#
# <details><summary>Hint</summary>
#
# The steps 1 and 2 of section 2: `insert_zeros` is defined there, and `np.pad(array, (low, high))` pads both axes.
# What does the number of left-over rows add, and on which side?
#
# </details>


# %% tags=["exercise-1"]
def prepare(delta, t, k, left_over):
    return ...


# %% tags=["check-1"]
def by_one_pad(delta, t, k, left_over):
    # JAX pads low, high and between the entries in one operation
    return jax.lax.pad(jnp.asarray(delta), jnp.float32(0), [(k - 1, k - 1 + left_over, t - 1)] * 2)


cases = [(2, 1, 2, 0), (2, 2, 2, 1), (3, 3, 2, 2), (1, 2, 3, 1)]
check(prepare, by_one_pad, [(integers(n, n), t, k, rest) for n, t, k, rest in cases])

# %% [markdown]
# ### Exercise 2: the gradient in one dimension
#
# Input of $n$ cells, a kernel $w$ of size $k$, stride $t$, `low` zeros in front. Write the gradient of the input by
# the formula: $\partial L/\partial I_u = \sum_i \delta_i\, w_{?}$. Code counts from 0; so may you.
#
# <details><summary>Hint</summary>
#
# From 0: cell $u$ is cell $u + \text{low}$ of the padded input, and window $i$ starts at $i\,t$ there. So which entry
# of the kernel lies on the cell? Skip the pair if there is no such entry.
#
# </details>


# %% tags=["exercise-2"]
def input_gradient_1d(delta, w, n, t, low):
    return ...


# %% tags=["check-2"]
def by_the_library(delta, w, n, t, low):
    high = (len(delta) - 1) * t + len(w) - n - low  # such that the outputs are as many as delta has
    options = {"strides": t, "padding": [(low, high)]}
    return fnconv.conv_input_vjp(delta[:, None], w[:, None, None], (n, 1), **options)[:, 0]


cases = [(4, 2, 5, 1, 0), (2, 2, 5, 2, 0), (5, 3, 5, 2, 3), (3, 3, 4, 1, 1), (2, 3, 7, 3, 0)]
check(
    input_gradient_1d,
    by_the_library,
    [(integers(o), integers(k), n, t, low) for o, k, n, t, low in cases],
)

# %% [markdown]
# ### Exercise 3: the padding of *same*
#
# Return (low, high) such that the output is as large as the input of size $n$, for a kernel of size $k$ and stride
# $t$. If the number of zeros is odd, the larger half comes last.
#
# <details><summary>Hint</summary>
#
# The last of $n$ windows starts at $(n-1)\,t$ (from 0) and has $k$ cells. How many cells are that, and how many are
# missing? The number is never negative: try $n = 1$, $k = 1$.
#
# </details>


# %% tags=["exercise-3"]
def same_padding(n, k, t):
    return ...


# %% tags=["check-3"]
sizes = [(5, 3, 2), (4, 2, 3), (6, 3, 1), (7, 4, 1), (1, 1, 4), (3, 5, 2)]
check(same_padding, lambda n, k, t: named_padding("INPUT_SIZE", n, k, t), sizes)

# %% [markdown]
# ## Appendix: misprints of the texts
#
# For whoever reads the four texts beside these pages. Everything above, and the library, holds the right formulas.
#
# $\partial L/\partial I_{uv}$ is a sum of products $\delta_{ij} W_{rs}$. To find out *which* products occur, feed
# unit arrays: with $\delta$ zero except for a 1 at $(i, j)$ and $W$ zero except for a 1 at $(r, s)$, the gradient at
# $(u, v)$ is 1 if the product occurs in it, and 0 if not. Nothing is rounded and nothing is left to judgement. JAX's
# automatic gradient can be asked in the same way, so that the library is not its own witness:


# %%
def units(n):
    return np.eye(n * n, dtype=np.float32).reshape(n * n, n, n)


def products(size, window, output, **options):
    """For every cell the products delta_ij W_rs in its gradient, by JAX's own convolution and autodiff."""

    def gradient(kernel, delta):
        strides = (options.get("strides", 1),) * 2

        def conv(image):
            return jax.lax.conv(image[None, None], kernel[None, None], strides, "VALID")[0, 0]

        return jax.vjp(conv, jnp.zeros((size, size)))[1](delta)[0]

    found = jax.vmap(lambda w: jax.vmap(lambda d: gradient(w, d))(units(output)))(units(window))

    def name(n, at):
        return f"{at // n + 1}{at % n + 1}"

    return {
        name(size, cell): [
            f"δ_{name(output, d)}·W_{name(window, k)}"
            for d in range(output**2)
            for k in range(window**2)
            if found[k, d].reshape(-1)[cell] == 1
        ]
        for cell in range(size**2)
    }


small, notes = products(3, 2, 2), products(5, 2, 2, strides=2)
print("Small, dI_12: printed  δ_11·W_22 + δ_12·W_11,  found ", " + ".join(small["12"]))
print("Notes, dI_12: printed  δ_12·W_12,              found ", " + ".join(notes["12"]))

# %% [markdown]
# All cells of both examples can be compared so, and with them the symbols that `show` prints,
# which are generated from the index tables:

# %%
small_page, notes_page = show.conv((3, 3), (2, 2)), show.conv((5, 5), (2, 2), strides=2)
for name, found, page in (("3x3, 2x2", small, small_page), ("5x5, 2x2, stride 2", notes, notes_page)):
    same = [
        page.find(f"∂L/∂I_{cell} ") == f"∂L/∂I_{cell} = {' + '.join(terms) or '0'}"
        for cell, terms in found.items()
    ]
    print(f"{name}: {sum(same)} of {len(same)} lines of show are what autodiff says")

# %% [markdown]
# A general formula is tested by putting numbers in. Here is that of section 2, with the $+1$ that Notes first print
# and without it, against autodiff:


# %%
def by_formula(delta, W, size, t, plus):
    """dL/dI_uv = the sum of delta_ij W_rs, with r = u - (i-1) t + plus and s likewise."""
    gradient = np.zeros((size, size), np.float32)
    for u, v, i, j in np.ndindex(size, size, *delta.shape):
        r, s = u - i * t + plus, v - j * t + plus  # from 0: the 1s cancel
        if 0 <= r < W.shape[0] and 0 <= s < W.shape[1]:
            gradient[u, v] += delta[i, j] * W[r, s]
    return gradient


W, delta = integers(2, 2), integers(2, 2)


def convolution_of_jax(image):
    return jax.lax.conv(image[None, None], W[None, None], (2, 2), "VALID")[0, 0]


automatic = jax.vjp(convolution_of_jax, jnp.zeros((5, 5)))[1](jnp.asarray(delta))[0]
for plus, name in ((1, "as first printed, with +1:"), (0, "as corrected:             ")):
    right = np.asarray(automatic == by_formula(delta, W, 5, 2, plus))
    print(f"{name} {right.sum():2} of 25 cells are right")

# %% [markdown]
# All misprints that we have found in the four texts:
#
# | where | it prints | it is | how it shows |
# |---|---|---|---|
# | Small, (iii) | $W_{22}$ in $\partial L/\partial I_{12}$ | $W_{12}$ | unit arrays |
# | Small, forward | a summation index $b$ beside the bias $b$ | another letter | `show` needs one name for each |
# | Notes, forward | $a_{i+p-1+j+q-1}$ | $a_{i+p-1,j+q-1}$ | an image has two indices |
# | Notes, backward | $w_{w-(a-1)t+1}$ | $w_{w-(a-1)t}$ | numbers put in |
# | Notes, 5×5 | $w_{12}\delta_{12}$ | $w_{12}\delta_{11}$ | unit arrays |
# | Notes, kernel | $a^{L+1}$, an index each | $a^{L}$, both indices | $a^{L+1}$ is too small for them |
# | Notes, 4×4 *same* | 3 zeros on each side | 3 and 4 | the output has 3 rows, not 4 |
# | Notes, forward, fully connected | $\sum_k w_{k,n} a_n$ | $\sum_n$ | $k$ is the output that is computed |
# | Notes, average pooling | one window gives four cells of 0.3 | one cell of 0.3 | shapes, notebook 4 |
# | Wei, before (2.1) | $0 \times 0$ in the second window | $0 \times 1$ | the window holds 3, 1, 8, 5 |
# | Wei, (2.3) | $(\operatorname{vec} K)^T$ | $\operatorname{vec} K$ | shapes, notebook 2 |
# | Wei, after (2.17) | $m$ is injective | it is not | $m^{-1}(4)$ has 4 places, notebook 2 |
# | Wei, (4.6) | $\mathbf{x}^{k}$ on the right | $\mathbf{x}^{k+1}$ | shapes, notebook 4 |

# %% [markdown]
# **Next:** [4 Pooling and activations](04_pooling.ipynb).
