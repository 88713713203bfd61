# %% [markdown]
# # 1 Notation and the chain rule
#
# A convolutional network is a long chain of functions. To train it we need one number for every weight: how the loss
# changes when that weight changes. The chain rule gives these numbers; everything in these notebooks is the chain
# rule, written so that it can be read, and then rearranged so that it can be computed quickly.
#
# This first notebook fixes the notation. It needs the calculus of several variables and matrix products, nothing
# else. Numbers in brackets, such as (2.11), name equations. They are those of a text by Wei Ran, "Wei" in the library's
# docstrings; the text itself is not needed. The [page of this folder](README.md) lists all equations, and the
# [glossary](glossary.md) explains every term that these notebooks use.
#
# 1. tensors, and how their entries are counted
# 2. gradients and Jacobians: (1.1), (1.2)
# 3. the chain rule: (1.3), (1.4), and why networks apply it from the back
# 4. $\operatorname{vec}$: a tensor as one long column, (2.7)
# 5. the Kronecker product: (2.10)
# 6. $\operatorname{vec}(AXB) = (B^T \otimes A)\operatorname{vec}(X)$: (2.11), with its proof
# 7. a gradient derived with all of this
# 8. three exercises
#
# **Letters of this notebook.** Indices start from 0, as in the code.
#
# | letter | meaning |
# |:---|:---|
# | $z$ | the loss, a scalar |
# | $\mathbf{x}$, $\mathbf{w}$, $\mathbf{y}$ | input, weights and output of a layer |
# | $D$, $H$, $W$ | channels, rows and columns of an image |
# | $d$, $i$, $j$ | channel, row, column of an entry; of a Jacobian, $i$ is the output and $j$ the input |
# | $A$, $B$, $X$, $Y$ | matrices; $a_{ij}$ is the entry of $A$ in row $i$, column $j$ |
# | $\mathbf{x}_k$ | column $k$ of $X$ |
# | $m$, $n$, $p$, $q$ | sizes of matrices |
# | $I$ | the identity matrix |
# | $A^T$ | $A$ transposed |
# | $\otimes$ | the Kronecker product |
# | $\partial z/\partial\mathbf{y}$ | the gradient of $z$ with respect to $\mathbf{y}$, in the code `dy` |

# %%
import jax
import jax.numpy as jnp
import numpy as np
from fnconv import textbook

from exercises import check
from pictures import COLOURS, Canvas, Step, chart, flow

# %% [markdown]
# ## 1. Tensors
#
# A *tensor* of order $n$ is an array with $n$ indices: a vector has order 1, a matrix order 2. An image with several
# channels has order 3; its shape is $D \times H \times W$ (channels, rows, columns), and the entry of channel $d$,
# row $i$, column $j$ is $x_{d,i,j}$.
#
# A tensor of order 3 is a stack of matrices. Here is one with two channels:

# %%
x = jnp.arange(12).reshape(2, 2, 3)

# %% tags=["hide-input"]
canvas = Canvas()
for d in range(2):
    canvas.array(
        x[d],
        f"channel $d = {d}$",
        colour="x",
        rows=["$i=0$", "$i=1$"],
        columns=[f"$j={j}$" for j in range(3)],
    )
canvas.show()

# %% [markdown]
# ## 2. Gradients and Jacobians
#
# Let $z$ be a scalar (a loss) that depends on a column $\mathbf{x} \in \mathbb{R}^n$. Its **gradient** is the column
# of its partial derivatives:
#
# $$
# \frac{\partial z}{\partial \mathbf{x}}
# = \left(\frac{\partial z}{\partial x_0}, \dots, \frac{\partial z}{\partial x_{n-1}}\right)^T \tag{1.1}
# $$
#
# It has the shape of $\mathbf{x}$. That is worth remembering: *a gradient always has the shape of the thing it
# belongs to*, and half of all mistakes in hand-written gradients are caught by looking at shapes.
#
# Let now $\mathbf{y} \in \mathbb{R}^m$ be a column that depends on $\mathbf{x} \in \mathbb{R}^n$. All its partial
# derivatives form an $m \times n$ matrix, the **Jacobian**; row $i$ belongs to $y_i$, column $j$ to $x_j$:
#
# $$
# \frac{\partial \mathbf{y}}{\partial \mathbf{x}^T} =
# \begin{pmatrix}
# \frac{\partial y_0}{\partial x_0} & \cdots & \frac{\partial y_0}{\partial x_{n-1}} \\
# \vdots & \ddots & \vdots \\
# \frac{\partial y_{m-1}}{\partial x_0} & \cdots & \frac{\partial y_{m-1}}{\partial x_{n-1}}
# \end{pmatrix} \tag{1.2}
# $$
#
# The transpose sign in $\partial \mathbf{x}^T$ tells in which direction $\mathbf{x}$ runs: along a row. The most
# important Jacobian is the simplest one. If $\mathbf{y} = A\mathbf{x}$, then $y_i = \sum_j a_{ij} x_j$, therefore
# $\partial y_i / \partial x_j = a_{ij}$, and
#
# $$\frac{\partial (A\mathbf{x})}{\partial \mathbf{x}^T} = A .$$
#
# JAX builds Jacobians entry by entry with `jax.jacobian`. It agrees:

# %%
A = jnp.array([[1.0, 2, 0], [0, -1, 3]])
jacobian = jax.jacobian(lambda x: A @ x)(jnp.array([5.0, 7, 2]))
print(jacobian)
print("the Jacobian of x -> A x is A:", bool((jacobian == A).all()))

# %% [markdown]
# ## 3. The chain rule
#
# Put two layers one after the other: $\mathbf{x} \mapsto \mathbf{y} \mapsto z$. When $x_j$ moves a little, every
# $y_i$ may move, and each of them moves $z$. The effects add up:
#
# $$
# \frac{\partial z}{\partial x_j} = \sum_{i} \frac{\partial z}{\partial y_i}\,\frac{\partial y_i}{\partial x_j}
# \tag{1.4}
# $$
#
# The weights $w_j$ of the layer move the $y_i$, too, so for them it is the same sentence:
#
# $$
# \frac{\partial z}{\partial w_j} = \sum_{i} \frac{\partial z}{\partial y_i}\,\frac{\partial y_i}{\partial w_j}
# \tag{1.3}
# $$
#
# Compare the sums with the definition of a matrix product: they are a row times a matrix. So the chain rule is
#
# $$
# \frac{\partial z}{\partial \mathbf{x}^T}
# = \frac{\partial z}{\partial \mathbf{y}^T}\,\frac{\partial \mathbf{y}}{\partial \mathbf{x}^T},
# \qquad\text{or, transposed,}\qquad
# \frac{\partial z}{\partial \mathbf{x}}
# = \left(\frac{\partial \mathbf{y}}{\partial \mathbf{x}^T}\right)^{T}\frac{\partial z}{\partial \mathbf{y}} .
# $$
#
# The gradient of $z$ with respect to the output of a layer is called the **cotangent** (many texts write $\delta$).
# Read the formula on the right as a recipe: *take the cotangent of the output, multiply by the transposed Jacobian,
# and you have the cotangent of the input*. This multiplication is all that back-propagation asks of a layer. It is
# called the **vector-Jacobian product**, VJP for short; hence the names of the library's functions `conv_input_vjp` and
# `conv_weight_vjp`.
#
# These notebooks draw every layer like this: forward from left to right, backward below it from right to left, and
# dashed what the layer keeps on the way forward because the way back needs it. Weights stand above, their gradients
# below:

# %% tags=["hide-input"]
flow(
    [r"$\mathbf{x}$", r"$\mathbf{y}$", "$z$"],
    [
        Step(
            "layer",
            r"times $(\partial\mathbf{y}/\partial\mathbf{x}^T)^T$",
            kept=r"$\mathbf{x}$, $\mathbf{w}$",
            weight=r"$\mathbf{w}$",
            weight_gradient=r"$\partial z/\partial\mathbf{w}$",
        ),
        Step("the layers behind", "their gradients"),
    ],
    [r"$\partial z/\partial\mathbf{x}$", r"$\partial z/\partial\mathbf{y}$", "$1$"],
)

# %% [markdown]
# With three layers there are three Jacobians, and we may choose where to begin multiplying. The result is the same;
# the work is not.

# %%
sizes = [1000, 800, 600, 1]  # entries of x, y1, y2 and the scalar z

# z's row times the last Jacobian first: always a row times a matrix
from_the_back = sizes[3] * sizes[2] * sizes[1] + sizes[3] * sizes[1] * sizes[0]
# the first two Jacobians first: a matrix times a matrix
from_the_front = sizes[2] * sizes[1] * sizes[0] + sizes[3] * sizes[2] * sizes[0]
print(f"multiplications from the back:  {from_the_back:>11,}")
print(f"multiplications from the front: {from_the_front:>11,}")

# %% tags=["hide-input"]
millions = [from_the_back / 1e6, from_the_front / 1e6]
figure, axes = chart("Products of three Jacobians", y="million multiplications", size=(4.2, 2.8))
bars = axes.bar(["from the back", "from the front"], millions, 0.5, color=[COLOURS["y"], COLOURS["w"]])
axes.bar_label(bars, fmt="{:.1f}")
axes.margins(y=0.15)
figure

# %% [markdown]
# This is the whole reason why networks are differentiated backwards: the loss is a *single* number, so from the back
# we only ever carry one row.
#
# In JAX, `jax.vjp` gives a function's value together with its recipe. Let us see that the recipe is the transposed
# Jacobian, without building that Jacobian:

# %%
y, recipe = jax.vjp(lambda x: A @ x, jnp.array([5.0, 7, 2]))
dy = jnp.array([10.0, 1])  # a cotangent: dz/dy
(dx,) = recipe(dy)
print("recipe(dy) =", dx, "  A^T dy =", A.T @ dy)

# %% [markdown]
# ## 4. vec: a tensor as one long column
#
# (1.1) and (1.2) know columns only, but images and kernels are tensors. So we make columns of them.
# $\operatorname{vec}(X)$ stacks the **columns** of the matrix $X$, the first one on top:

# %%
X = jnp.array([[1, 2, 3], [4, 5, 6]])
column = textbook.vec(X)

# %% tags=["hide-input"]
canvas = Canvas()
shown = [["x", "w", "y"]] * 2
canvas.array(X, "$X$", colour=shown)
canvas.text("$\\to$")
canvas.array(column, r"vec$(X)$", colour=[["x"], ["x"], ["w"], ["w"], ["y"], ["y"]], rows=range(6))
canvas.show()

# %% [markdown]
# For a tensor of higher order, the parts $\mathbf{y}_0, \dots, \mathbf{y}_{D-1}$ along the first index come one after
# the other:
#
# $$
# \operatorname{vec}(\mathbf{y}) =
# \begin{pmatrix} \operatorname{vec}(\mathbf{y}_0) \\ \vdots \\ \operatorname{vec}(\mathbf{y}_{D-1}) \end{pmatrix}
# \tag{2.7}
# $$
#
# So the image of shape $D \times H \times W$ becomes channel after channel, and inside a channel column after column.
# In other words, $x_{d,i,j}$ lands at position $HW\,d + H\,j + i$. Let us check that for the image above:

# %%
D, H, W = x.shape
v = textbook.vec(x)
print("vec(x) =", v)
positions = {(d, i, j): H * W * d + H * j + i for d in range(D) for i in range(H) for j in range(W)}
print("x[d, i, j] is at H W d + H j + i:", all(v[at] == x[cell] for cell, at in positions.items()))

# %% [markdown]
# **A trap.** NumPy and JAX store arrays *row by row*, so `X.reshape(-1)` is not $\operatorname{vec}(X)$ but
# $\operatorname{vec}(X^T)$. Formulas of the texts become wrong without any error message when the two are mixed up.

# %%
print("X.reshape(-1)  ", X.reshape(-1))
print("vec(X)         ", textbook.vec(X))
print("vec(X.T)       ", textbook.vec(X.T))

# %% [markdown]
# Nothing is lost by $\operatorname{vec}$: `textbook.unvec` puts the entries back. And sums of products survive, which
# is why gradients may be computed on columns and reshaped afterwards:
# $\sum_{ij} a_{ij} b_{ij} = \operatorname{vec}(A)^T \operatorname{vec}(B)$.

# %%
back = textbook.unvec(textbook.vec(x), x.shape)
B2 = jnp.array([[2, 0, 1], [1, 1, 1]])
print("unvec undoes vec:", bool((back == x).all()))
print("sum of products:", int((X * B2).sum()), "=", int(textbook.vec(X) @ textbook.vec(B2)))

# %% [markdown]
# ## 5. The Kronecker product
#
# The *Kronecker product* $A \otimes B$ of an $m \times n$ matrix with **any** other matrix is made of blocks: every
# entry $a_{ij}$ is replaced by the whole matrix $a_{ij} B$.
#
# $$
# A \otimes B = \begin{pmatrix} a_{0,0} B & \cdots & a_{0,n-1} B \\ \vdots & & \vdots \\
# a_{m-1,0} B & \cdots & a_{m-1,n-1} B \end{pmatrix}
# $$

# %%
A = jnp.array([[1, 2], [0, 3]])
B = jnp.array([[1, -1, 4], [5, 0, 1]])
product = jnp.kron(A, B)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(A, "$A$", colour=[["x", "w"], ["none", "y"]])
canvas.text(r"$\otimes$")
canvas.array(B, "$B$")
canvas.text("$=$")
blocks = [[["x", "w"], ["none", "y"]][i // 2][j // 3] for i in range(4) for j in range(6)]
canvas.array(product, r"$A \otimes B$", colour=[blocks[6 * i : 6 * i + 6] for i in range(4)])
canvas.show()

# %% [markdown]
# Each colour is one entry of $A$ with the copy of $B$ that it multiplies.
#
# **Claim (2.10).** $(A \otimes B)^T = A^T \otimes B^T$.
#
# *Proof.* The block of $A \otimes B$ in block row $i$ and block column $j$ is $a_{ij} B$. Transposing a matrix of
# blocks does two things: the blocks change places, and every block is transposed in itself. So the block of
# $(A \otimes B)^T$ in block row $j$ and block column $i$ is $(a_{ij} B)^T = a_{ij} B^T$. But $a_{ij}$ is the entry
# $(j, i)$ of $A^T$, so this is exactly the block $(j, i)$ of $A^T \otimes B^T$. $\square$
#
# Note that the order is kept, unlike in $(AB)^T = B^T A^T$. The identity is one of integers, so the code may ask for
# equality, not for "nearly equal":

# %%
random = np.random.default_rng(0)


def integers(*shape):
    return jnp.asarray(random.integers(-9, 10, shape))


for shapes in [((2, 3), (4, 2)), ((1, 5), (3, 3)), ((4, 1), (2, 6))]:
    A, B = (integers(*shape) for shape in shapes)
    left, right = jnp.kron(A, B).T, jnp.kron(A.T, B.T)
    print(*shapes, bool((left == right).all()))

# %% [markdown]
# ## 6. The identity behind every convolution
#
# **Claim (2.11).** For matrices $A$, $X$, $B$ whose product exists,
#
# $$\operatorname{vec}(AXB) = (B^T \otimes A)\,\operatorname{vec}(X). \tag{2.11}$$
#
# In words: the map $X \mapsto AXB$ is linear, so on columns it must be *some* matrix; (2.11) says which one.
#
# *Proof.* Let $\mathbf{x}_0, \dots, \mathbf{x}_{p-1}$ be the columns of $X$, and $b_{kj}$ the entries of $B$.
#
# 1. Column $j$ of $XB$ is the combination of the columns of $X$ with the coefficients of column $j$ of $B$:
#    $\sum_k b_{kj}\,\mathbf{x}_k$.
# 2. Multiplying by $A$ from the left acts on each column by itself, so column $j$ of $AXB$ is
#    $\sum_k b_{kj}\, A\mathbf{x}_k$.
# 3. $\operatorname{vec}(AXB)$ stacks these columns. Its $j$-th piece is therefore
#    $\sum_k b_{kj} A\,\mathbf{x}_k
#    = \bigl(\,b_{0,j}A \;\; b_{1,j}A \;\cdots\; b_{p-1,j}A\,\bigr)\operatorname{vec}(X)$,
#    because $\operatorname{vec}(X)$ is $\mathbf{x}_0, \dots, \mathbf{x}_{p-1}$ one below the other.
# 4. In this row of blocks, block $k$ is $b_{kj}A = (B^T)_{jk}A$: the row is block row $j$ of $B^T \otimes A$. This
#    holds for every $j$. $\square$
#
# Here are the two sides for small matrices. Follow one entry of the result: the marked row of $B^T \otimes A$ times
# $\operatorname{vec}(X)$ is the marked entry of $AXB$.

# %%
A = jnp.array([[1, 2], [0, 1]])
X = jnp.array([[1, 2, 3], [4, 5, 6]])
B = jnp.array([[1, 0], [0, 1], [2, -1]])
product, by_kronecker = textbook.kron_times_vec(B, X, A)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(A, "$A$")
canvas.array(X, "$X$", colour="x")
canvas.array(B, "$B$", colour="w")
canvas.text("$=$")
canvas.array(A @ X @ B, "$AXB$", colour="y", mark=[(0, 1)])
canvas.line()
canvas.array(jnp.kron(B.T, A), r"$B^T \otimes A$", colour="w", mark=[(2, j) for j in range(6)])
canvas.array(textbook.vec(X), r"vec$(X)$", colour="x")
canvas.text("$=$")
canvas.array(by_kronecker, r"vec$(AXB)$", colour="y", mark=[(2, 0)])
canvas.show()

# %%
for m, n, p, q in [(2, 2, 3, 2), (3, 4, 2, 5), (1, 3, 3, 1), (5, 2, 4, 3)]:
    left, right = textbook.kron_times_vec(integers(p, q), integers(n, p), integers(m, n))
    print(f"A {m}x{n}, X {n}x{p}, B {p}x{q}: both sides equal:", bool((left == right).all()))

# %% [markdown]
# Two special cases do all the work in the next notebook, with $I$ the identity matrix:
#
# $$
# \operatorname{vec}(AX) = (I \otimes A)\operatorname{vec}(X), \qquad
# \operatorname{vec}(XB) = (B^T \otimes I)\operatorname{vec}(X).
# $$
#
# The first is a copy of $A$ for every column of $X$ along the diagonal; the second spreads the entries of $B$ over
# diagonals.

# %%
A = jnp.array([[1, 2], [3, 4]])
B = jnp.array([[1, 2], [3, 4], [5, 6]])
eye = jnp.eye(3, dtype=int)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.heat(jnp.kron(eye, A), r"$I \otimes A$", cell=0.7, colour="w", every=(2, 2))
canvas.heat(jnp.kron(B.T, eye), r"$B^T \otimes I$", cell=0.7, colour="x", every=(3, 3))
canvas.show()

# %% [markdown]
# ## 7. A gradient derived with all of this
#
# Let $Y = AXB$ and let $z$ be a loss that depends on $Y$. Suppose we know the cotangent $\partial z/\partial Y$. What
# is $\partial z / \partial X$?
#
# $$
# \begin{aligned}
# \frac{\partial z}{\partial \operatorname{vec}(X)^T}
# &= \frac{\partial z}{\partial \operatorname{vec}(Y)^T}\,
#    \frac{\partial \operatorname{vec}(Y)}{\partial \operatorname{vec}(X)^T}
# && \text{chain rule (1.4)} \\
# &= \frac{\partial z}{\partial \operatorname{vec}(Y)^T}\,(B^T \otimes A)
# && \text{(2.11)} \\
# \frac{\partial z}{\partial \operatorname{vec}(X)}
# &= (B^T \otimes A)^T \operatorname{vec}\!\left(\frac{\partial z}{\partial Y}\right)
#  = (B \otimes A^T) \operatorname{vec}\!\left(\frac{\partial z}{\partial Y}\right)
# && \text{transposed, (2.10)} \\
# &= \operatorname{vec}\!\left(A^T \frac{\partial z}{\partial Y}\, B^T\right)
# && \text{(2.11) from right to left}
# \end{aligned}
# $$
#
# Both sides are the $\operatorname{vec}$ of a matrix with the shape of $X$, so the vec may be taken off:
#
# $$\frac{\partial z}{\partial X} = A^T\, \frac{\partial z}{\partial Y}\, B^T .$$

# %% tags=["hide-input"]
flow(
    ["$X$", "$AX$", "$Y$"],
    [
        Step(r"$A$ times", r"$A^T$ times", kept="$A$"),
        Step(r"times $B$", r"times $B^T$", kept="$B$"),
    ],
    [
        r"$\partial z/\partial X$",
        r"$\partial z/\partial(AX)$",
        r"$\partial z/\partial Y$",
    ],
)

# %% [markdown]
# The huge matrix $B^T \otimes A$ appeared only on paper. This is the pattern of every derivation in the next
# notebook: *vec, chain rule, transpose with (2.10), back with (2.11), vec off*. The automatic gradient is the same,
# to the last bit:

# %%
A, X, B = (integers(*s).astype(jnp.float32) for s in [(2, 3), (3, 4), (4, 2)])
dY = integers(2, 2).astype(jnp.float32)

_, recipe = jax.vjp(lambda X: A @ X @ B, X)
(automatic,) = recipe(dY)
by_hand = A.T @ dY @ B.T
print(by_hand)
print("equal to the automatic gradient:", bool((by_hand == automatic).all()))

# %% [markdown]
# How large would the matrix on paper have been? The next notebook writes a convolution as such a product, with
# $A = I$ and a kernel in each column of $B$. $X$ then has a row for every position of the kernel, which holds the
# cells that the kernel covers there. Take one image in a middle layer of VGG-16: $28 \times 28$ positions, 256
# channels, so $3 \cdot 3 \cdot 256$ covered cells each, and 512 kernels. $B^T \otimes I$ has a row for every entry of
# $Y$ and a column for every entry of $X$:

# %%
positions, covered, kernels = 28 * 28, 3 * 3 * 256, 512
entries = (positions * kernels) * (positions * covered)
print(f"{entries:,} entries, {entries * 4 / 1e12:.1f} TB in float32")

# %% [markdown]
# ## 8. Exercises
#
# Write your answer in place of `...`, run the cell, then run the check below it. Every exercise has a hint, folded
# away.
#
# ### Exercise 1: vec
#
# Write $\operatorname{vec}$ for a tensor of any order, by the recursion of (2.7), with NumPy only: a matrix gives its
# columns one below the other; a tensor of higher order gives the vecs of its parts one below the other. (A vector is
# its own vec.)
#
# <details><summary>Hint</summary>
#
# `x.T.reshape(-1)` stacks the columns of a matrix. For more than two indices call `my_vec` on every `x[d]` and join the
# results with `np.concatenate`.
#
# </details>


# %% tags=["exercise-1"]
def my_vec(x):
    return ...


# %% tags=["check-1"]
tensors = [
    np.arange(6).reshape(2, 3),
    np.arange(4),
    np.arange(24).reshape(4, 2, 3),
    np.arange(24).reshape(2, 3, 2, 2),
]
check(my_vec, lambda x: np.asarray(textbook.vec(jnp.asarray(x))), [(t,) for t in tensors])

# %% [markdown]
# ### Exercise 2: the gradient of the other factor
#
# In section 7 we found $\partial z/\partial X$ for $Y = AXB$. Derive $\partial z/\partial A$ in the same way. Check the
# shape before you run it.
#
# <details><summary>Hint</summary>
#
# Write $Y = I A\,(XB)$ and call the product in brackets one matrix. Now $A$ stands in the middle, where $X$ stood in
# section 7, with $I$ on its left.
#
# </details>


# %% tags=["exercise-2"]
def gradient_of_a(A, X, B, dY):
    return ...


# %% tags=["check-2"]
def automatic_gradient_of_a(A, X, B, dY):
    return jax.vjp(lambda A: A @ X @ B, A)[1](dY)[0]


shapes = [[(2, 3), (3, 4), (4, 5), (2, 5)], [(1, 2), (2, 2), (2, 3), (1, 3)]]
check(
    gradient_of_a,
    automatic_gradient_of_a,
    [tuple(integers(*s).astype(float) for s in case) for case in shapes],
)

# %% [markdown]
# ### Exercise 3: a matrix that rearranges
#
# Transposing is linear, so there is a matrix $P$ with $\operatorname{vec}(X^T) = P \operatorname{vec}(X)$ for every
# $m \times n$ matrix $X$. Every row of $P$ holds a single 1, for every entry of $\operatorname{vec}(X^T)$ comes from
# one entry of $\operatorname{vec}(X)$. Build $P$. (The matrix $M$ of the next notebook is of this kind: it says where
# each entry comes from.)
#
# <details><summary>Hint</summary>
#
# Where does $x_{ij}$ lie in $\operatorname{vec}(X)$? Section 4: at $m\,j + i$. In $\operatorname{vec}(X^T)$ it lies at
# $n\,i + j$. The 1 belongs in the row of the second position and the column of the first.
#
# </details>


# %% tags=["exercise-3"]
def transposing_matrix(m, n):
    return ...


# %% tags=["check-3"]
def from_its_columns(m, n):
    units = np.eye(m * n).reshape(m * n, m, n)  # the matrix with a single 1, at each place in turn
    order = [int(np.argmax(textbook.vec(jnp.asarray(u)))) for u in units]
    columns = np.array([textbook.vec(jnp.asarray(u.T)) for u in units]).T
    return columns[:, np.argsort(order)]


check(transposing_matrix, from_its_columns, [(2, 3), (3, 3), (4, 1)])

# %% [markdown]
# **Next:** [2 Convolution](02_convolution.ipynb) writes a convolution as a matrix product and finds its three
# gradients with exactly these tools.
