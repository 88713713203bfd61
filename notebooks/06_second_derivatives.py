# %% [markdown]
# # 6 Second derivatives
#
# A hand-written gradient is itself a function, and sometimes its derivative is needed: for curvature, for Newton's
# method, for penalties on gradients, for learning rates that are not guessed. This notebook shows why the rules of
# this library can be differentiated again and again without ever leaving the three maps of convolution.
#
# 1. the Hessian, and what it costs
# 2. one sum, three maps
# 3. every derivative is one of the three again
# 4. pooling and ReLU
# 5. what a network's Hessian looks like
# 6. Hessian-vector products
# 7. forward, reverse, and linearise-then-transpose
# 8. an application: the largest learning rate that works
# 9. three exercises
#
# **Letters of this notebook.** Indices start from 0. Terms are explained in the [glossary](glossary.md).
#
# | letter | meaning |
# |:---|:---|
# | $z$ | a loss |
# | $H$, $\lambda$ | its Hessian, and the largest eigenvalue of $H$ |
# | $\mathbf{v}$ | a direction, of the shape of what $z$ is differentiated by |
# | $\mathbf{x}$, $\mathbf{w}$, $\mathbf{d}$ | input, kernel, and the output's cotangent; entries $x_i$, $w_k$, $d_o$ |
# | $C$, $X$, $W$ | the three maps: convolution, input gradient, kernel gradient |
# | $T$ | the trilinear form that they come from |
# | $\mathbf{u}$, $\mathbf{q}$ | cotangents of $X$ and $W$: of the shape of an input and of a kernel |
# | $J$, $\mathbf{t}$ | the Jacobian of an operation, and a tangent of its input |
# | $S$ | the selection matrix of max pooling |
# | $\alpha$, $c$ | the learning rate; a curvature |
# | $N$ | number of outputs |
# | $\langle \mathbf{a}, \mathbf{b} \rangle$ | the sum of the products of the entries, in the code `jnp.vdot` |

# %%
import re

import fnconv
import jax
import jax.numpy as jnp
import numpy as np

from exercises import check
from pictures import COLOURS, Canvas, chart

random = np.random.default_rng(6)


def integers(*shape):
    return jnp.asarray(random.integers(-3, 4, shape), jnp.float32)


# %% [markdown]
# ## 1. The Hessian, and what it costs
#
# For a loss $z$ that depends on $\mathbf{x} \in \mathbb{R}^n$ the **Hessian** is the $n \times n$ matrix of second
# derivatives, $H_{ij} = \partial^2 z / \partial x_i \partial x_j$. It is the Jacobian of the gradient, and it is
# symmetric. It tells how the gradient changes when we move a little, by a small $\varepsilon$, in a direction
# $\mathbf{v}$:
#
# $$\frac{\partial z}{\partial \mathbf{x}}(\mathbf{x} + \varepsilon \mathbf{v})
# \approx \frac{\partial z}{\partial \mathbf{x}}(\mathbf{x}) + \varepsilon\, H \mathbf{v} .$$
#
# LeNet-5 has 61,706 parameters; its Hessian would have 3.8 billion entries. What one can afford is the product
# $H\mathbf{v}$ for a given $\mathbf{v}$, and that costs little more than a gradient (section 6).
#
# ## 2. One sum, three maps
#
# Convolution has an input $\mathbf{x}$ and a kernel $\mathbf{w}$. Multiply its output with a cotangent and add up;
# for one channel in one dimension that is
#
# $$T(\mathbf{x}, \mathbf{w}, \mathbf{d}) = \sum_{o} \sum_{k} d_o\, x_{o+k}\, w_k . $$
#
# Every term has one factor of each kind, so $T$ is linear in each of the three arguments: it is a *trilinear form*. The
# sum can be read in three ways, with one of the three arguments in front of the bracket:
#
# $$
# T = \sum_o d_o \underbrace{\Bigl(\sum_k x_{o+k} w_k\Bigr)}_{C(\mathbf{x}, \mathbf{w})_o}
#   = \sum_i x_i \underbrace{\Bigl(\sum_{o+k=i} d_o w_k\Bigr)}_{X(\mathbf{d}, \mathbf{w})_i}
#   = \sum_k w_k \underbrace{\Bigl(\sum_{o} x_{o+k}\, d_o\Bigr)}_{W(\mathbf{x}, \mathbf{d})_k} .
# $$
#
# The first bracket is the convolution itself. The second is its gradient with respect to the input, (2.30): the sum
# over all $(o, k)$ that meet in cell $i$. The third is the gradient with respect to the kernel, (2.21). Nothing new
# had to be derived: *the three maps are the three partial gradients of one sum*. With strides, padding, dilation,
# groups and more dimensions only the index $o + k$ changes.

# %%
options = {"strides": 2, "padding": 1}
x, w = integers(1, 5, 5, 2), integers(3, 3, 2, 3)
d = integers(*fnconv.conv(x, w, **options).shape)

T1 = jnp.vdot(d, fnconv.conv(x, w, **options))
T2 = jnp.vdot(x, fnconv.conv_input_vjp(d, w, x.shape, **options))
T3 = jnp.vdot(w, fnconv.conv_weight_vjp(x, d, (3, 3), **options))
print("<d, C(x, w)> =", T1, "  <x, X(d, w)> =", T2, "  <w, W(x, d)> =", T3)

# %% [markdown]
# The same three numbers, to the last bit. This *dot test* is the cheapest good test of a gradient: no automatic
# differentiation needed, only the forward operation.
#
# ## 3. Every derivative is one of the three again
#
# Now differentiate a gradient. Take $X(\mathbf{d}, \mathbf{w})$, and let $\mathbf{u}$ be the cotangent of its output,
# so that we need the gradients of $\langle \mathbf{u}, X(\mathbf{d}, \mathbf{w}) \rangle$. But this number is
# $T(\mathbf{u}, \mathbf{w}, \mathbf{d})$, the same sum with $\mathbf{u}$ in the place of the input! Its partial
# gradients are therefore already known: $C(\mathbf{u}, \mathbf{w})$ with respect to $\mathbf{d}$, and $W(\mathbf{u},
# \mathbf{d})$ with respect to $\mathbf{w}$. In the same way for all three:
#
# | map, and its cotangent | gradient for its first argument | for its second |
# |---|---|---|
# | $C(\mathbf{x}, \mathbf{w})$, with $\mathbf{d}$ | $X(\mathbf{d}, \mathbf{w})$ | $W(\mathbf{x}, \mathbf{d})$ |
# | $X(\mathbf{d}, \mathbf{w})$, with $\mathbf{u}$ | $C(\mathbf{u}, \mathbf{w})$ | $W(\mathbf{u}, \mathbf{d})$ |
# | $W(\mathbf{x}, \mathbf{d})$, with $\mathbf{q}$ | $X(\mathbf{d}, \mathbf{q})$ | $C(\mathbf{x}, \mathbf{q})$ |
#
# ($\mathbf{u}$ has the shape of an input, $\mathbf{q}$ that of a kernel.) The table is closed: whatever row we start
# from, we end in the table. So three routines, each with its two rules, give derivatives of *every* order. The table
# stands at the head of `fnconv/ops/conv.py`, and as three lines of code below it.
#
# As a picture: an arrow from one map to another says "appears in its derivative".

# %% tags=["hide-input"]
figure, axes = chart(size=(4.6, 2.2))
axes.set_axis_off()
axes.set_xlim(-1.4, 1.4)
axes.set_ylim(-0.25, 1.25)
maps = {
    "$C(x, w)$\nconvolution": (0, 1, "y"),
    "$X(d, w)$\ninput gradient": (-0.9, 0, "x"),
    "$W(x, d)$\nkernel gradient": (0.9, 0, "w"),
}
for words, (x0, y0, role) in maps.items():
    box = {"boxstyle": "round,pad=0.4", "facecolor": COLOURS[role], "alpha": 0.6}
    axes.text(x0, y0, words, ha="center", va="center", bbox=box, fontsize=11)
for start, stop in [((-0.3, 0.68), (-0.68, 0.3)), ((0.3, 0.68), (0.68, 0.3)), ((-0.42, 0), (0.4, 0))]:
    axes.annotate("", start, stop, arrowprops={"arrowstyle": "<->", "linewidth": 1.5})
figure

# %% [markdown]
# JAX can tell us what a computation consists of. We ask for the maps that appear in the first three derivatives of
# a function with a convolution inside, and look for the operations into which automatic differentiation of an
# *indexing* formulation would fall, `scatter-add` for instance. There are none:


# %%
def f(x, w):
    return (fnconv.conv(x, w, padding="SAME") ** 3).sum()


def along(function, directions):
    """The derivative of a function in a direction, in reverse mode: its gradients times the directions."""

    def derivative(*arguments):
        gradients = jax.grad(function, argnums=(0, 1))(*arguments)
        return sum(jnp.vdot(g, v) for g, v in zip(gradients, directions, strict=True))

    return derivative


image, kernel = integers(1, 6, 6, 1), integers(3, 3, 1, 1)
directions = integers(1, 6, 6, 1), integers(3, 3, 1, 1)
derivative = f
for order in (1, 2, 3):
    program = str(jax.make_jaxpr(jax.grad(derivative, argnums=(0, 1)))(image, kernel))
    maps = sorted(set(re.findall(r"map=(\w+)", program)))
    print(f"order {order}:", ", ".join(maps), "| scatter:", "scatter" in program)
    derivative = along(derivative, directions)

# %% [markdown]
# ## 4. Pooling and ReLU
#
# Max pooling is $\operatorname{vec}(\mathbf{y}) = S \operatorname{vec}(\mathbf{x})$ with the selection matrix $S$ of
# (4.4). $S$ depends on $\mathbf{x}$, but only by jumps: as long as the same cells win, it is constant, so its
# derivative is zero. What remains are two linear maps: the gradient of $S$ is $S^T$, and the gradient of $S^T$ is
# $S$. Closed again. ReLU is even simpler, a multiplication by a mask of zeros and ones.
#
# So a network of convolutions, max pooling and ReLU is *piecewise linear in its input*: the gradient with respect to
# the input is constant until something switches. Let us walk along a line of inputs and see:


# %%
def network(parts, x):
    y = fnconv.relu(fnconv.conv(x, parts["conv"]))
    y = fnconv.max_pool(y, (2, 2))
    return fnconv.dense(fnconv.flatten(y), parts["dense"])


parts = {
    "conv": jnp.asarray(random.normal(size=(2, 2, 1, 2)), jnp.float32),
    "dense": jnp.asarray(random.normal(size=(8, 3)) / 3, jnp.float32),
}
start, step = (jnp.asarray(random.normal(size=(1, 5, 5, 1)), jnp.float32) for _ in range(2))

positions = jnp.linspace(-1, 1, 201, dtype=jnp.float32)
values = jax.jit(jax.vmap(lambda t: network(parts, start + t * step)[0, 0]))(positions)
slopes = jax.jit(jax.vmap(jax.grad(lambda t: network(parts, start + t * step)[0, 0])))(positions)

# %% tags=["hide-input"]
figure, axes = chart(
    "One output of the network along a line of inputs", "position on the line", size=(6, 3)
)
axes.plot(positions, values, label="value", color=COLOURS["y"])
axes.plot(positions, slopes, label="derivative", color=COLOURS["d"])
axes.legend()
figure

# %% [markdown]
# The derivative is a staircase: constant pieces, so the second derivative is zero wherever it exists. Every kink of
# the value is a ReLU that switches or a window whose maximum moves. At a kink itself the library follows written
# conventions ($\operatorname{ReLU}'(0) = 0$, the first of equal maxima wins).
#
# ## 5. What a network's Hessian looks like
#
# With respect to its *weights* the network is linear in each layer by itself, but not in two layers at once: the
# weights of one layer multiply what the other one computes. So take as loss a fixed combination of the outputs, and
# compute the full Hessian of this tiny network (8 + 24 weights):


# %%
names = list(parts)
sizes = [parts[name].size for name in names]


def split(flat):
    conv, dense = jnp.split(flat, [sizes[0]])
    return {"conv": conv.reshape(parts["conv"].shape), "dense": dense.reshape(parts["dense"].shape)}


def linear_loss(flat):
    return (network(split(flat), start) * jnp.array([1.0, -2.0, 0.5])).sum()


def cross_entropy(flat):
    return fnconv.softmax_cross_entropy(network(split(flat), start), jnp.array([1])).sum()


flat = jnp.concatenate([parts[name].reshape(-1) for name in names])
of_linear, of_cross_entropy = (jax.jit(jax.hessian(z))(flat) for z in (linear_loss, cross_entropy))

# %% tags=["hide-input"]
canvas = Canvas()
canvas.heat(of_linear, "linear loss", cell=0.24, every=(sizes[0], sizes[0]))
canvas.heat(of_cross_entropy, "cross-entropy", cell=0.24, every=(sizes[0], sizes[0]))
canvas.show()

# %%
inside = [of_linear[: sizes[0], : sizes[0]], of_linear[sizes[0] :, sizes[0] :]]
print("blocks of one layer with itself are zero:", all(bool((block == 0).all()) for block in inside))
print("the block of one layer with the other is:", bool((of_linear[: sizes[0], sizes[0] :] == 0).all()))
print("symmetric up to rounding:", bool(jnp.allclose(of_cross_entropy, of_cross_entropy.T, atol=1e-5)))

# %% [markdown]
# (Lines every 8 weights; the first 8 are the convolution's.) On the left, with the linear loss, a layer has no second
# derivative with itself: those blocks are exactly zero, as we predicted. On the right the loss itself is curved, and
# fills them.
#
# ## 6. Hessian-vector products
#
# $H\mathbf{v}$ is a derivative of the gradient in the direction $\mathbf{v}$. A derivative can be computed in two
# modes. *Reverse mode* is what these notebooks have done so far: from the loss backwards, with a cotangent. *Forward
# mode* goes along with the computation and carries a *tangent*: how much each value changes when the input moves in a
# given direction. So there are two ways to get $H\mathbf{v}$ from a gradient that was computed in reverse:
#
# * **reverse over reverse**: $H\mathbf{v} = \frac{\partial}{\partial \mathbf{x}} \left\langle \frac{\partial
#   z}{\partial \mathbf{x}}, \mathbf{v} \right\rangle$, since $H$ is symmetric: the gradient of a scalar (exercise 1);
# * **forward over reverse**: push the tangent $\mathbf{v}$ through the gradient. `jax.jvp` of `jax.grad` does it
#   here, too, because every rule is made of the linear maps above. `fnconv.jvp` does the same with reverse rules
#   only.


# %%
def hessian_times(z, x, v):
    """H v, forward over reverse."""
    return jax.jvp(jax.grad(z), (x,), (v,))[1]


v = jnp.asarray(random.normal(size=flat.shape), jnp.float32)
by_product = jax.jit(lambda x, v: hessian_times(cross_entropy, x, v))(flat, v)
by_library = fnconv.jvp(jax.grad(cross_entropy), (flat,), (v,))[1]
by_matrix = of_cross_entropy @ v
print("H v without H, as with H:", bool(jnp.allclose(by_product, by_matrix, rtol=1e-4, atol=1e-5)))
print("the same by fnconv.jvp:  ", bool(jnp.allclose(by_library, by_matrix, rtol=1e-4, atol=1e-5)))


def convolutions(function, *arguments):
    """How often one of the three maps is computed."""
    return len(re.findall(r"map=conv", str(jax.make_jaxpr(function)(*arguments))))


print("convolutions in the loss:", convolutions(cross_entropy, flat))
print("... in its gradient:     ", convolutions(jax.grad(cross_entropy), flat))
print("... in H v:              ", convolutions(lambda x: hessian_times(cross_entropy, x, v), flat))
print("... in H, column by column, about", len(flat), "times as many")

# %% [markdown]
# The product $H\mathbf{v}$ costs two or three gradients, whatever the number of weights. (The counts are of the
# program as JAX writes it down; what it does not need in the end, such as the gradient for the image, the compiler
# drops.)
#
# ## 7. Forward, reverse, and linearise-then-transpose
#
# So far forward mode came after reverse mode. Can we have it by itself, from the same rules by hand? At a point, the
# derivative of an operation is a linear map $J$; its rule computes $\mathbf{d} \mapsto J^T \mathbf{d}$ and is
# itself linear in $\mathbf{d}$. The transpose of *that* map is $\mathbf{t} \mapsto J\, \mathbf{t}$, the tangent. And
# since every rule is made of maps whose transposes we know, no new rule is needed: the transpose of
# $S^T \mathbf{d}$ in pooling is $S\, \mathbf{t}$, and that of the pair $X(\mathbf{d}, \mathbf{w})$,
# $W(\mathbf{x}, \mathbf{d})$ is the sum $C(\mathbf{t}_x, \mathbf{w}) + C(\mathbf{x}, \mathbf{t}_w)$. Inside
# `fnconv.both_modes` every operation has both modes:

# %%
both = fnconv.both_modes(cross_entropy)
gradient = jax.grad(cross_entropy)(flat)
tangent = jax.jvp(both, (flat,), (v,))[1]
print("the tangent is <gradient, v>:", bool(jnp.allclose(tangent, gradient @ v, rtol=1e-4)))

# %% [markdown]
# This is also how JAX itself computes every gradient, in two steps. `jax.linearize` goes forward once and returns the
# linear function $\mathbf{t} \mapsto J\, \mathbf{t}$, with what it needs from the forward pass inside; transposing that
# function, step by step from its end to its beginning, is reverse mode.

# %%
value, pushforward = jax.linearize(both, flat)
(transposed,) = jax.linear_transpose(pushforward, flat)(jnp.ones(()))
print("linearised, then transposed:", bool(jnp.allclose(transposed, gradient, rtol=1e-4, atol=1e-6)))

print("convolutions in the loss:        ", convolutions(both, flat))
print("... in the loss and its tangent: ", convolutions(lambda t: jax.jvp(both, (flat,), (t,)), v))
print("... in the linear function alone:", convolutions(pushforward, v))
print("... in the loss and its gradient:", convolutions(jax.value_and_grad(both), flat))

# %% [markdown]
# A tangent costs about one more forward pass and keeps nothing. But it is one number, the slope in one direction, where
# the gradient has all 32. So forward mode is for few inputs, or few directions, and many outputs; reverse mode for one
# output and many inputs. Hessian-vector products may now take any order of the two modes:


# %%
def directional(z):
    """x -> <gradient of z at x, v>, in forward mode."""
    return lambda x: jax.jvp(z, (x,), (v,))[1]


orders = {
    "forward over reverse": lambda x: jax.jvp(jax.grad(both), (x,), (v,))[1],
    "reverse over forward": jax.grad(directional(both)),
    "reverse over reverse": jax.grad(lambda x: jax.grad(both)(x) @ v),
    "forward over forward": jax.jacfwd(directional(both)),
}
for name, product in orders.items():
    right = bool(jnp.allclose(jax.jit(product)(flat), by_matrix, rtol=1e-4, atol=1e-5))
    print(f"{name}: {right}, convolutions {convolutions(product, flat)}")

# %% [markdown]
# (Forward over forward finds the 32 entries of $H\mathbf{v}$ by 32 tangents at once, which the count of the program's
# lines does not show.)
#
# ## 8. An application: the largest learning rate that works
#
# Notebook 5 found that gradient descent on $\frac{1}{2} c w^2$ converges if $\alpha < 2/c$. For a loss of many
# weights the number $c$ becomes the largest eigenvalue $\lambda$ of the Hessian: along its eigenvector the loss is
# most curved, and there descent breaks first. We can find $\lambda$ without $H$, by *power iteration*: multiply any
# vector by $H$ again and again, scaling it back to length 1; it turns towards that eigenvector.
#
# The task: find the kernel that turns one image into another, $z = \frac{1}{2N} \lVert C(\mathbf{x}, \mathbf{w}) -
# \mathbf{y} \rVert^2$. It is quadratic in $\mathbf{w}$, so the prediction should be exact.

# %%
true_kernel = jnp.array([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])[:, :, None, None]  # Sobel's
source = jnp.asarray(random.normal(size=(1, 12, 12, 1)), jnp.float32)
target = fnconv.conv(source, true_kernel)


@jax.jit
def loss(w):
    return fnconv.squared_error(fnconv.conv(source, w), target).mean() / 2


product = jax.jit(lambda v: hessian_times(loss, true_kernel, v))
v = jnp.ones_like(true_kernel)
for _ in range(200):
    v = product(v)
    v = v / jnp.linalg.norm(v)
largest = float(jnp.vdot(v, product(v)))

eigenvalues = np.linalg.eigvalsh(np.asarray(jax.hessian(loss)(true_kernel)).reshape(9, 9))
print(
    "power iteration finds the largest eigenvalue:",
    bool(np.isclose(largest, eigenvalues[-1], rtol=1e-3)),
)

gradient = jax.jit(jax.grad(loss))
curves = {}
for part in (0.95, 1.05):
    w, curves[part] = jnp.zeros_like(true_kernel), []
    for _ in range(120):
        curves[part].append(float(loss(w)))
        w = w - part * 2 / largest * gradient(w)
    print(
        f"learning rate {part} of the predicted limit: loss {'falls' if curves[part][-1] < 1 else 'grows'}"
    )

# %% tags=["hide-input"]
figure, axes = chart("Descent just below and just above the limit", "step", "loss", size=(6, 3))
for part, colour in zip(curves, (COLOURS["y"], COLOURS["d"]), strict=True):
    axes.semilogy(curves[part], label=f"{part} of the limit", color=colour)
axes.legend(loc="upper left")
figure

# %% [markdown]
# ## 9. Exercises
#
# ### Exercise 1: a Hessian-vector product with two gradients
#
# Write $H\mathbf{v}$ by reverse over reverse, with `jax.grad` twice and `jnp.vdot`, for a scalar function `z` of one
# array `x`.
#
# <details><summary>Hint</summary>
#
# Define a function of `x` that returns the scalar $\left\langle \frac{\partial z}{\partial \mathbf{x}}, \mathbf{v}
# \right\rangle$, and differentiate it.
#
# </details>


# %% tags=["exercise-1"]
def my_hessian_times(z, x, v):
    return ...


# %% tags=["check-1"]
cubes = integers(2, 2, 1, 1), integers(2, 2, 1, 1)
check(
    my_hessian_times,
    hessian_times,
    [
        (lambda w: (fnconv.conv(image, w) ** 3).sum(), *cubes),
        (lambda w: w[0] * w[1] ** 2, jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0])),
    ],
)

# %% [markdown]
# ### Exercise 2: the gradients of a gradient
#
# `fnconv.conv_weight_vjp(x, d, (3, 3))` is $W(\mathbf{x}, \mathbf{d})$. Given the cotangent `q` of its output (of the
# shape of a kernel), return its gradients with respect to `x` and to `d`, using only the functions `fnconv.conv`,
# `fnconv.conv_input_vjp` and `fnconv.conv_weight_vjp`.
#
# <details><summary>Hint</summary>
#
# The last row of the table in section 3. $X(\mathbf{d}, \mathbf{q})$ is `fnconv.conv_input_vjp(d, q, shape)`, where
# `shape` is that of the input.
#
# </details>


# %% tags=["exercise-2"]
def gradients_of_weight_vjp(x, d, q):
    return ..., ...


# %% tags=["check-2"]
def automatic_gradients_of_weight_vjp(x, d, q):
    def plain(x, d):  # the same map, by automatic differentiation of JAX's own convolution
        def y(w):
            dimensions = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=dimensions)

        return jax.vjp(y, jnp.zeros(q.shape))[1](d)[0]

    return jax.vjp(plain, x, d)[1](q)


check(
    gradients_of_weight_vjp,
    automatic_gradients_of_weight_vjp,
    [(integers(2, 5, 6, 2), integers(2, 3, 4, 3), integers(3, 3, 2, 3))],
)

# %% [markdown]
# ### Exercise 3: a Hessian by hand
#
# Let $z = \frac{1}{2} \lVert C(\mathbf{x}, \mathbf{w}) \rVert^2$. Find a formula for $H\mathbf{v}$, where $H$ is the
# Hessian with respect to $\mathbf{w}$ and $\mathbf{v}$ has the shape of a $3 \times 3$ kernel, and write it with the
# functions of exercise 2, without `jax.grad`.
#
# <details><summary>Hint</summary>
#
# The gradient is $W(\mathbf{x}, C(\mathbf{x}, \mathbf{w}))$, and it is linear in $\mathbf{w}$. What is the derivative
# of a linear map in the direction $\mathbf{v}$?
#
# </details>


# %% tags=["exercise-3"]
def hessian_times_by_hand(x, w, v):
    return ...


# %% tags=["check-3"]
check(
    hessian_times_by_hand,
    lambda x, w, v: hessian_times(lambda w: (fnconv.conv(x, w) ** 2).sum() / 2, w, v),
    [(integers(1, 6, 5, 2), integers(3, 3, 2, 2), integers(3, 3, 2, 2))],
)

# %% [markdown]
# **Next:** [7 How fast, and why](07_speed.ipynb).
