# %% [markdown]
# # 2 Convolution
#
# This notebook derives the gradients of a convolution, completely. The plan is the one that notebook 1 ended with:
# write the layer as a matrix product, take vecs, use the chain rule, and take the vecs off again. Numbers in brackets
# are Wei's; every one of them has a function in the library, which is named where it appears.
#
# 1. what a convolution computes: (2.1)
# 2. im2col turns it into a matrix product: (2.2), (2.3)
# 3. channels and several kernels: (2.4) to (2.9)
# 4. two ways to write it as matrix times column: (2.12), (2.13)
# 5. the index map: (2.14) to (2.17)
# 6. the gradient of the kernels: (2.18) to (2.21)
# 7. the matrix $M$: (2.22) to (2.24)
# 8. the gradient of the input: (2.25) to (2.30)
# 9. three formulations, one answer
# 10. three exercises
#
# **Letters of this notebook.** Indices start from 0. Terms are explained in the [glossary](glossary.md).
#
# | letter | meaning |
# |:---|:---|
# | $z$ | the loss |
# | $A$, $K$ | image and kernel of one channel |
# | $\mathbf{x}$, $\kappa$ | image and kernel of $D$ channels |
# | $\mathbf{w}$ | all kernels, $D'$ of them |
# | $\mathbf{y}$ | the output, $D'$ channels |
# | $H \times W$, $H_w \times W_w$, $H_y \times W_y$ | rows × columns of the image, of a kernel, of the output |
# | $d$, $i$, $j$ | channel, row, column in the image or in a kernel |
# | $d'$, $i'$, $j'$ | channel, row, column in the output |
# | $\phi(\mathbf{x})$, $C$, $Y$ | the layer as matrices, $Y = \phi(\mathbf{x})\,C$ |
# | $p$, $q$ | row (output position) and column (kernel entry) of $\phi(\mathbf{x})$ |
# | $m$, $M$ | the index map from $(p, q)$ to a cell, and its matrix |
# | $I$ | the identity matrix |

# %%
import fnconv
import jax
import jax.numpy as jnp
import numpy as np
from fnconv import show, textbook
from fnconv.base.geometry import window_axes

from exercises import check
from pictures import Canvas, Step, flow

# %% [markdown]
# The whole notebook in one picture. It can be read now for an overview, and should be read again at the end:

# %% tags=["hide-input"]
flow(
    [r"$\mathbf{x}$", r"$\phi(\mathbf{x})$", "$Y$"],
    [
        Step("im2col: copy ($M$)", "col2im: add the copies ($M^T$)"),
        Step(
            r"times $C$",
            r"times $C^T$",
            kept=r"$\phi(\mathbf{x})$, $C$",
            weight="$C$",
            weight_gradient=r"$\partial z/\partial C = \phi(\mathbf{x})^T\,\partial z/\partial Y$",
        ),
    ],
    [
        r"$\partial z/\partial\mathbf{x}$",
        r"$\partial z/\partial\phi(\mathbf{x})$",
        r"$\partial z/\partial Y$",
    ],
)

# %% [markdown]
# ## 1. What a convolution computes
#
# Lay the kernel on the upper left corner of the image. Multiply each kernel entry by the cell under it, add the
# products: that is the first output. Move the kernel one step to the right, do the same; at the end of the row go
# back to the left and one step down. The kernel is *not* flipped. Mathematicians call this a correlation; networks
# call it convolution, and so do we. In the example of Wei 2.1,
#
# $$
# A = \begin{pmatrix} 1&3&1&4 \\ 2&8&5&1 \\ 3&2&0&3 \end{pmatrix}, \quad
# K = \begin{pmatrix} 1&0 \\ -1&1 \end{pmatrix}, \quad
# A * K = \begin{pmatrix} 7&0&-3 \\ 1&6&8 \end{pmatrix}. \tag{2.1}
# $$
#
# Its first entry is $1\cdot 1 + 3\cdot 0 + 2\cdot(-1) + 8\cdot 1 = 7$. The function is `fnconv.conv`. It takes a
# batch axis and channels, so we add axes of length 1:

# %%
A = jnp.array([[1.0, 3, 1, 4], [2, 8, 5, 1], [3, 2, 0, 3]])
K = jnp.array([[1.0, 0], [-1, 1]])
y = fnconv.conv(A[None, :, :, None], K[:, :, None, None])[0, :, :, 0]

# %% tags=["hide-input"]
first_window = [(0, 0), (0, 1), (1, 0), (1, 1)]
canvas = Canvas()
canvas.array(A, "$A$", colour="x", mark=first_window)
canvas.text("$*$")
canvas.array(K, "$K$", colour="w")
canvas.text("$=$")
canvas.array(y, "$A * K$", colour="y", mark=[(0, 0)])
canvas.show()

# %% [markdown]
# ## 2. im2col: the convolution as a matrix product
#
# Each output is a sum of products, that is, a row times a column. So let us write down, for every output, the cells
# under the kernel as one column, and put all these columns side by side. This is the matrix
# $\operatorname{im2col}(A)$. Inside a column the window is read *column by column* (it is the vec of the window), and
# the windows follow one another column by column, too. (`order="matlab"` asks for this order.)

# %%
windows = fnconv.im2col(A[:, :, None], (2, 2), order="matlab")

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(A, "$A$", colour="x", mark=first_window)
canvas.text(r"$\to$")
canvas.array(
    windows,
    r"im2col$(A)$",
    colour="x",
    mark=[(k, 0) for k in range(4)],
    columns=[f"$p={p}$" for p in range(6)],
)
canvas.show()

# %% [markdown]
# The marked window became the marked column $(1, 2, 3, 8)^T$. Note what has happened to the 8 in the middle of $A$:
# it lies in four windows, so it is copied four times. **Remember these copies: the whole difficulty of the backward
# pass is in them.**
#
# Every output is now the sum of products of two columns: one of this matrix, and $\operatorname{vec}(K) = (1, -1, 0,
# 1)^T$. Transposed, the matrix has a row for each output, and one product gives them all:
#
# $$\operatorname{im2col}(A)^T \operatorname{vec}(K) = (7, 1, 0, 6, -3, 8)^T \tag{2.2}$$
#
# which are the entries of $A * K$, column by column:
#
# $$\operatorname{im2col}(A)^T \operatorname{vec}(K) = \operatorname{vec}(A * K). \tag{2.3}$$

# %%
print("im2col(A)^T vec(K) =", windows.T @ textbook.vec(K))
print("vec(A * K)         =", textbook.vec(y))

# %% [markdown]
# ## 3. Channels and several kernels
#
# An image has $D$ channels $A_0, \dots, A_{D-1}$, and so has a kernel, $\kappa = (K_0, \dots, K_{D-1})$. They are
# convolved channel by channel and *added*:
#
# $$\mathbf{x} * \kappa = \sum_{d=0}^{D-1} A_d * K_d. \tag{2.4}$$
#
# A sum of products again: so the columns of im2col only become longer. The windows of the channels are stacked,
#
# $$
# \operatorname{im2col}(\mathbf{x}) = \begin{pmatrix} \operatorname{im2col}(A_0) \\ \vdots \\
# \operatorname{im2col}(A_{D-1}) \end{pmatrix}, \tag{2.5}
# $$
#
# and the transposed matrix, of which section 2 made use, gets a name:
#
# $$\phi(\mathbf{x}) = \operatorname{im2col}(\mathbf{x})^T . \tag{2.6}$$
#
# **Why the transposed matrix?** $\phi(\mathbf{x})$ has a *row for every output position* and a *column for every
# kernel entry*. Multiplied from the right by a column that holds a kernel, it gives all outputs of that kernel, as a
# column. With $D'$ kernels we put $D'$ columns side by side,
#
# $$C = \bigl(\operatorname{vec}(\kappa_0), \dots, \operatorname{vec}(\kappa_{D'-1})\bigr), \tag{2.8}$$
#
# and one matrix product computes the layer; column $d'$ of the result is the vec of output channel $d'$:
#
# $$\operatorname{vec}\bigl(\phi(\mathbf{x})\,C\bigr) = \operatorname{vec}(\mathbf{y}). \tag{2.9}$$
#
# The functions are `textbook.phi` and `textbook.matrix_c`. Below: two channels of $3 \times 3$, three kernels of
# $2 \times 2$. Wei's layout is channels first.

# %%
random = np.random.default_rng(2)


def integers(*shape):
    return jnp.asarray(random.integers(-4, 6, shape), jnp.float32)


x, w = integers(2, 3, 3), integers(3, 2, 2, 2)  # (D, H, W) and (D', D, H_w, W_w)
axes = window_axes((3, 3), (2, 2))
phi, C = textbook.phi(x, axes), textbook.matrix_c(w)

# %% tags=["hide-input"]
halves = [["x"] * 4 + ["g"] * 4] * 4
canvas = Canvas()
canvas.array(phi, r"$\phi(x)$: channel 0, channel 1", colour=halves)
canvas.array(C, "$C$", colour="w")
canvas.text("$=$")
canvas.array(phi @ C, r"$\phi(x)\, C$", colour="y")
canvas.show()

# %%
y = fnconv.conv(x[None], w, layout="channels_first")[0]
print("shapes: phi", phi.shape, " C", C.shape, " y", y.shape)
print("(2.9) holds:", bool((textbook.vec(phi @ C) == textbook.vec(y)).all()))

# %% [markdown]
# This is not only theory. It is how Caffe computed convolutions, because matrix products are what every computer has
# the fastest programs for (GEMM 1.1 tells that story). In the library it is the rule `"im2col"`, and it is one of
# several formulations that can be asked for by name:

# %%
named = fnconv.available_rules()["conv"]["forward"]
print(
    "there are:", [name for name in ("kronecker", "jacobian", "im2col", "correlation") if name in named]
)
by_im2col = fnconv.conv(x[None], w, layout="channels_first", rule="im2col")[0]
print("the same:", bool((by_im2col == y).all()))

# %% [markdown]
# ## 4. Matrix times column
#
# The chain rule wants Jacobians, and Jacobians want a column in and a column out. (2.11) of notebook 1 provides
# them. In $\phi(\mathbf{x})\,C$ we may put an identity matrix on either side.
#
# - $\phi\,C = \phi\,C\,I$: in the middle stands $C$, so the vec of the **kernels** comes out,
# $$\operatorname{vec}(\mathbf{y}) = \bigl(I \otimes \phi(\mathbf{x})\bigr)\operatorname{vec}(C). \tag{2.12}$$
# - $\phi\,C = I\,\phi\,C$: in the middle stands $\phi$, so the vec of $\phi$ of the **input** comes out,
# $$\operatorname{vec}(\mathbf{y}) = \bigl(C^T \otimes I\bigr)\operatorname{vec}(\phi(\mathbf{x})). \tag{2.13}$$
#
# The same vector twice, written as a linear function once of the kernels and once of the (copied) input. In the
# picture a cell is the darker, the larger its entry; pink ones are negative, white ones zero:

# %% tags=["hide-input"]
canvas = Canvas()
jacobian_of_kernels = textbook.jacobian_by_kernel(x, 3, axes)
canvas.heat(
    jacobian_of_kernels, r"$I \otimes \phi(x)$: $12 \times 24$", cell=0.36, colour="x", every=(4, 8)
)
canvas.heat(
    jnp.kron(C.T, jnp.eye(4)), r"$C^T \otimes I$: $12 \times 32$", cell=0.36, colour="w", every=(4, 4)
)
canvas.show()

# %%
forward = {
    "(2.12)": textbook.forward_by_kernel(x, w, axes),
    "(2.13)": textbook.forward_by_input(x, w, axes),
}
for label, column in forward.items():
    print(label, bool((column == textbook.vec(y)).all()))

# %% [markdown]
# ## 5. The index map
#
# (2.13) is not finished: it is linear in $\phi(\mathbf{x})$, not in $\mathbf{x}$. Between them stand the copies. So
# we ask: **where does the entry $(p, q)$ of $\phi(\mathbf{x})$ come from?** Indices start at 0.
#
# - Row $p$ is an output position $(i', j')$, counted column by column: $p = i' + H_{y}\, j'$, where $H_y$ is the
#   height of the output. (2.14)
# - Column $q$ is a kernel entry $(d, i, j)$, counted channel by channel and inside a channel column by column:
#   $q = H_w W_w\, d + H_w\, j + i$. (2.15)
# - The kernel's corner lies on cell $(i', j')$ of the image, so its entry $(i, j)$ lies on row $i' + i$ (2.16) and
#   column $j' + j$ (2.17) of the image.
#
# Together they are a map $m: (p, q) \mapsto (d,\; i' + i,\; j' + j)$. `textbook.index_map` tabulates it; it gives the
# position in $\operatorname{vec}(\mathbf{x})$. For one channel of $3 \times 3$:

# %%
m = textbook.index_map(axes, channels=1)
cells = jnp.arange(9).reshape(3, 3).T  # each cell holds its position in vec(x)
centre = [(int(p), int(q)) for p, q in np.argwhere(m == 4)]

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(cells, r"positions in vec$(x)$", colour="x", mark=[(1, 1)])
canvas.array(
    m,
    "$m(p, q)$",
    mark=centre,
    rows=[f"$p={p}$" for p in range(4)],
    columns=[f"$q={q}$" for q in range(4)],
)
canvas.show()

# %% [markdown]
# The cell in the centre, position 4, is found in four places of the table: these are its copies. Every $(p, q)$ has
# exactly one source, so $m$ is a function. But different $(p, q)$ may have the *same* source, so $m$ is **not
# injective**, and $m^{-1}$ of a cell is a set of places:

# %%
for cell in range(9):
    places = [(int(p), int(q)) for p, q in np.argwhere(m == cell)]
    print(f"m^-1({cell}) = {places}")

# %% [markdown]
# ## 6. The gradient of the kernels
#
# Suppose that the cotangent $\partial z/\partial\mathbf{y}$ has arrived from the layers behind. The chain rule is
#
# $$
# \frac{\partial z}{\partial \operatorname{vec}(\mathbf{w})^T}
# = \frac{\partial z}{\partial \operatorname{vec}(\mathbf{y})^T}\,
#   \frac{\partial \operatorname{vec}(\mathbf{y})}{\partial \operatorname{vec}(\mathbf{w})^T} \tag{2.18}
# $$
#
# and $\operatorname{vec}(\mathbf{w}) = \operatorname{vec}(C)$. By (2.12), $\operatorname{vec}(\mathbf{y})$ is a
# constant matrix times $\operatorname{vec}(C)$; the Jacobian of such a function is the matrix:
#
# $$\frac{\partial \operatorname{vec}(\mathbf{y})}{\partial \operatorname{vec}(\mathbf{w})^T}
# = I \otimes \phi(\mathbf{x}). \tag{2.19}$$
#
# Write $Y = \phi(\mathbf{x})\,C$ and put (2.19) into (2.18), transposed:
#
# $$
# \begin{aligned}
# \frac{\partial z}{\partial \operatorname{vec}(C)}
# &= \bigl(I \otimes \phi(\mathbf{x})\bigr)^T \operatorname{vec}\!\left(\frac{\partial z}{\partial Y}\right)
#  = \bigl(I \otimes \phi(\mathbf{x})^T\bigr) \operatorname{vec}\!\left(\frac{\partial z}{\partial Y}\right)
#  && \text{by (2.10)} \\
# &= \operatorname{vec}\!\left(\phi(\mathbf{x})^T\, \frac{\partial z}{\partial Y}\right) && \text{by (2.11)}
# \end{aligned} \tag{2.20}
# $$
#
# Both sides are vecs of matrices of one shape. Take the vec off:
#
# $$\boxed{\;\frac{\partial z}{\partial C} = \phi(\mathbf{x})^T\, \frac{\partial z}{\partial Y}\;} \tag{2.21}$$
#
# One matrix product, with the matrix that the forward pass has used. Each column of $\partial z/\partial C$ is the
# gradient of one kernel. Here it is, beside JAX's automatic gradient:

# %%
dy = integers(3, 2, 2)  # the cotangent, of y's shape
dY = textbook.vec(dy).reshape(3, 4).T  # as a matrix: a column per channel
dC = phi.T @ dY

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(phi.T, r"$\phi(x)^T$", colour="x")
canvas.array(dY, r"$\partial z/\partial Y$", colour="d")
canvas.text("$=$")
canvas.array(dC, r"$\partial z/\partial C$", colour="g")
canvas.show()


# %%
def automatic(x, w, dy):
    """JAX's own convolution, differentiated by JAX."""
    _, pullback = jax.vjp(lambda x, w: jax.lax.conv(x[None], w, (1, 1), "VALID")[0], x, w)
    return pullback(dy)


dx_automatic, dw_automatic = automatic(x, w, dy)
print("(2.21) is the automatic gradient:", bool((dC == textbook.matrix_c(dw_automatic)).all()))
long_way = textbook.jacobian_by_kernel(x, 3, axes).T @ textbook.vec(dy)
print("so is (2.18) with the Jacobian (2.19):", bool((long_way == textbook.vec(dC)).all()))

# %% [markdown]
# ## 7. The matrix M
#
# For the input the chain rule reads
#
# $$
# \frac{\partial z}{\partial \operatorname{vec}(\mathbf{x})^T}
# = \frac{\partial z}{\partial \operatorname{vec}(\mathbf{y})^T}\,
#   \frac{\partial \operatorname{vec}(\mathbf{y})}{\partial \operatorname{vec}(\mathbf{x})^T}. \tag{2.22}
# $$
#
# We know $\operatorname{vec}(\mathbf{y})$ as a function of $\operatorname{vec}(\phi(\mathbf{x}))$, (2.13). What is
# missing is $\operatorname{vec}(\phi(\mathbf{x}))$ as a function of $\operatorname{vec}(\mathbf{x})$. It only copies
# entries; so it is linear, and its matrix holds ones and zeros. Row $(p, q)$ has its 1 in the column of the cell that
# $\phi(\mathbf{x})_{p,q}$ was copied from:
#
# $$
# M_{(p,q),\,(d,i,j)} = \begin{cases} 1 & \text{if } m(p, q) = (d, i, j) \\ 0 & \text{otherwise}\end{cases} \tag{2.23}
# $$
#
# $$\operatorname{vec}(\phi(\mathbf{x})) = M \operatorname{vec}(\mathbf{x}). \tag{2.24}$$
#
# Look at the picture of $M$ (`textbook.matrix_m`) for one channel of $3 \times 3$ and for one of $5 \times 5$. Rows
# are places in $\phi$, columns are cells. **Every row holds a single 1. A column holds as many as its cell has
# copies.**

# %%
M = textbook.matrix_m(axes, 1, jnp.float32)
larger = textbook.matrix_m(window_axes((5, 5), (3, 3)), 1, jnp.float32)

# %% tags=["hide-input"]
canvas = Canvas()
canvas.heat(M, r"$M$: $16 \times 9$", cell=0.5, every=(4, 0))
canvas.heat(larger.T, r"$M^T$ for $5 \times 5$, $3 \times 3$: $25 \times 81$", cell=0.22, every=(0, 9))
canvas.show()

# %%
one_channel = x[:1]
gathered = M @ textbook.vec(one_channel)
print("(2.24) holds:", bool((gathered == textbook.vec(textbook.phi(one_channel, axes))).all()))
print("ones per row:   ", sorted({int(n) for n in M.sum(axis=1)}))
print("ones per column:", M.sum(axis=0).astype(int), "(the cells of the image, column by column)")

# %% [markdown]
# ## 8. The gradient of the input
#
# Put (2.24) into (2.13): $\operatorname{vec}(\mathbf{y}) = (C^T \otimes I)\,M\operatorname{vec}(\mathbf{x})$. A
# constant matrix times $\operatorname{vec}(\mathbf{x})$, so
#
# $$\frac{\partial \operatorname{vec}(\mathbf{y})}{\partial \operatorname{vec}(\mathbf{x})^T}
# = (C^T \otimes I)\,M . \tag{2.25}$$
#
# With (2.22),
#
# $$\frac{\partial z}{\partial \operatorname{vec}(\mathbf{x})^T}
# = \frac{\partial z}{\partial \operatorname{vec}(Y)^T}\,(C^T \otimes I)\,M . \tag{2.26}$$
#
# The first two factors are, transposed,
#
# $$
# (C \otimes I)\,\operatorname{vec}\!\left(\frac{\partial z}{\partial Y}\right)
# = \operatorname{vec}\!\left(\frac{\partial z}{\partial Y}\,C^T\right), \tag{2.27}
# $$
#
# by (2.10) and (2.11). So
#
# $$\boxed{\;\frac{\partial z}{\partial \operatorname{vec}(\mathbf{x})}
# = M^T \operatorname{vec}\!\left(\frac{\partial z}{\partial Y}\,C^T\right)\;} \tag{2.28}$$
#
# Read it from the inside. The matrix
#
# $$\frac{\partial z}{\partial Y}\,C^T \tag{2.29}$$
#
# has the shape of $\phi(\mathbf{x})$: it is the gradient with respect to **every copy**. And $M^T$ brings the copies
# home. What does $M^T$ do? Row $(d, i, j)$ of $M^T$ is a column of $M$: it has its ones at the places that were
# copied from that cell. Multiplying by it *adds the gradients of all copies*:
#
# $$\boxed{\;\left(\frac{\partial z}{\partial \mathbf{x}}\right)_{(d,i,j)}
# = \sum_{(p,q)\,\in\, m^{-1}(d,i,j)} \left(\frac{\partial z}{\partial Y}\,C^T\right)_{(p,q)}\;} \tag{2.30}$$
#
# A copy in the forward pass is a sum in the backward pass. In the picture, one channel and one kernel: the four copies
# of the centre are marked, and their sum is the gradient of the centre.

# %%
kernel, cotangent = w[:1, :1], dy[:1]
d_copies = textbook.vec(cotangent).reshape(1, 4).T @ textbook.matrix_c(kernel).T  # (2.29)
dx = textbook.unvec(M.T @ textbook.vec(d_copies), (1, 3, 3))[0]

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(textbook.vec(cotangent), r"$\partial z/\partial Y$", colour="d")
canvas.array(textbook.matrix_c(kernel).T, "$C^T$", colour="w")
canvas.text("$=$")
canvas.array(d_copies, "gradient of every copy", colour="g", mark=centre)
canvas.text(r"$\to$")
canvas.array(dx, r"$\partial z/\partial x$", colour="g", mark=[(1, 1)])
canvas.show()

# %%
terms = [int(d_copies[p, q]) for p, q in centre]
print("the copies of the centre:", terms, " their sum:", sum(terms), " (2.30):", int(dx[1, 1]))

# %% [markdown]
# Nobody builds $M$. Adding entries at the places that a table names is one instruction in most array languages; in
# NumPy it is `np.add.at` (GEMM 1.2 does it so), and the whole operation is called **col2im**. It is the *adjoint* of
# im2col, that is, its matrix is the transposed one: im2col multiplies by $M$, col2im by $M^T$.
# In the library it is `fnconv.col2im`, and (2.30) is the rule `"im2col"` of `conv_input_vjp`.

# %%
scattered = np.zeros(9)
np.add.at(scattered, m, d_copies)  # scattered[m[p, q]] += d_copies[p, q], copies included
print("np.add.at at the places of m: ", bool((scattered == textbook.vec(dx)).all()))
by_col2im = fnconv.col2im(d_copies.T, (3, 3, 1), (2, 2), order="matlab")[:, :, 0]
print("fnconv.col2im:                ", bool((by_col2im == dx).all()))

# %% [markdown]
# A warning for the exercise below: `scattered[m] += d_copies` would be *wrong*. With repeated indices, NumPy's `+=`
# keeps only the last copy.
#
# ## 9. Three formulations, one answer
#
# Let us do the whole layer, two channels and three kernels, in three ways, and once automatically:
#
# 1. the dense matrices of (2.28), the rule `"kronecker"`;
# 2. the sum (2.30), the rule `"im2col"`;
# 3. a correlation of the cotangent with the kernel turned by 180 degrees, the rule `"correlation"`. That this is the
#    same is the subject of [notebook 3](03_three_cases.ipynb).

# %%
for rule in ("kronecker", "im2col", "correlation"):
    dx = fnconv.conv_input_vjp(dy[None], w, (1, 2, 3, 3), layout="channels_first", rule=rule)[0]
    dw = fnconv.conv_weight_vjp(x[None], dy[None], (2, 2), layout="channels_first", rule=rule)
    print(f"{rule:12}", bool((dx == dx_automatic).all()), bool((dw == dw_automatic).all()))

# %% [markdown]
# All are equal to the last bit, because the numbers are small integers and floating point adds those exactly. The
# *cost* differs a lot. For one image of $28 \times 28$ with 16 channels, and 32 kernels of $3 \times 3$:

# %%
D, H, W, kernels, H_w, W_w = 16, 28, 28, 32, 3, 3
positions, entries = (H - H_w + 1) * (W - W_w + 1), H_w * W_w * D
print(f"M, dense:       {positions * entries * D * H * W:>14,} numbers")
print(f"C^T (x) I:      {positions * kernels * positions * entries:>14,} numbers")
print(f"phi(x):         {positions * entries:>14,} numbers")
print(f"x itself:       {D * H * W:>14,} numbers")

# %% [markdown]
# That is why the matrices stay on paper (and in tests), $\phi(\mathbf{x})$ is used where memory allows, and the
# fastest rules avoid even that.
#
# Everything on this page holds for any stride, padding and dilation: only the index map changes. `show.conv` writes
# any geometry out in full, generated from its index tables. (The same in a terminal:
# `fnconv show conv --input 2x3 --kernel 1x2 --stride 1`.)

# %%
show.conv((2, 3), (1, 2))

# %% [markdown]
# ## 10. Exercises
#
# ### Exercise 1: the index map with a stride
#
# (2.16) and (2.17) are for stride 1. Write $m$ for an image of $D$ channels, a stride $s$ and no padding: given $p$ and
# $q$, return channel, row and column of the cell. (With the stride $s$ the kernel moves by $s$ cells at a time.)
#
# <details><summary>Hint</summary>
#
# First take $p$ and $q$ apart. The output has $H_y = \lfloor (H - H_w)/s \rfloor + 1$ rows, and `divmod(p, H_y)` gives
# $(j', i')$ of (2.14); two `divmod` give $(d, j, i)$ of (2.15). The corner of window $(i', j')$ lies on cell
# $(s\,i', s\,j')$.
#
# </details>


# %% tags=["exercise-1"]
def my_map(p, q, H, W, H_w, W_w, s):
    return ...


# %% tags=["check-1"]
def map_of_the_library(p, q, H, W, H_w, W_w, s):
    table = textbook.index_map(window_axes((H, W), (H_w, W_w), strides=s), channels=2)
    d, position = divmod(int(table[p, q]), H * W)
    return d, position % H, position // H


cases = [(p, q, 5, 7, 2, 3, s) for s in (1, 2) for p in (0, 3, 5) for q in (0, 4, 7, 11)]
check(my_map, map_of_the_library, cases)

# %% [markdown]
# ### Exercise 2: col2im
#
# Given the table $m$ (a matrix of positions), the matrix $G$ of (2.29), and the number of cells $n$, compute
# $\partial z/\partial\operatorname{vec}(\mathbf{x})$ by (2.30) with plain loops.
#
# <details><summary>Hint</summary>
#
# Start from `np.zeros(n)`. Visit every place $(p, q)$ of the table once, and add the entry of $G$ there to the cell
# that the table names.
#
# </details>


# %% tags=["exercise-2"]
def my_col2im(m, G, n):
    return ...


# %% tags=["check-2"]
def through_the_matrix(m, G, n):
    return (m.T.reshape(-1)[:, None] == np.arange(n)).T.astype(float) @ G.T.reshape(-1)


tables = [textbook.index_map(window_axes(*sizes), 1) for sizes in (((3, 3), (2, 2)), ((4, 3), (3, 1)))]
matrices = [np.asarray(random.integers(-9, 10, t.shape), float) for t in tables]
check(
    my_col2im,
    through_the_matrix,
    [(t, g, int(t.max()) + 1) for t, g in zip(tables, matrices, strict=True)],
)

# %% [markdown]
# ### Exercise 3: how many copies?
#
# In how many windows does each cell lie, for an $H \times W$ image, an $H_w \times W_w$ kernel and stride 1? Return an
# $H \times W$ array of integers. (These are the column sums of $M$.)
#
# <details><summary>Hint</summary>
#
# Find a formula for one axis; the two axes multiply (`np.outer`). A window that starts at row $i'$ holds row $i$ if
# $i' \le i < i' + H_w$, and $i'$ runs from 0 to $H - H_w$: count those $i'$.
#
# </details>


# %% tags=["exercise-3"]
def copies_of_each_cell(H, W, H_w, W_w):
    return ...


# %% tags=["check-3"]
def column_sums(H, W, H_w, W_w):
    M = textbook.matrix_m(window_axes((H, W), (H_w, W_w)), 1, jnp.int32)
    return np.asarray(textbook.unvec(M.sum(axis=0), (H, W)))


check(copies_of_each_cell, column_sums, [(3, 3, 2, 2), (5, 4, 3, 2), (6, 6, 1, 5), (4, 7, 4, 1)])

# %% [markdown]
# **Next:** [3 The input gradient in three cases](03_three_cases.ipynb): strides, left-over cells, padding, and the same
# gradient as a correlation with the kernel turned around.
