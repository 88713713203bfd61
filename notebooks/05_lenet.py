# %% [markdown]
# # 5 From the fully connected layer to LeNet-5
#
# We have the gradients of convolution (notebooks 2 and 3) and of pooling and ReLU (notebook 4). What is missing for a
# whole network are its last layers, the loss, and the step that uses the gradients. Then we train: LeNet-5 on real
# handwritten digits, with a backward pass that is written out on this page, line by line.
#
# 1. the fully connected layer is a convolution (Wei 3, GEMM 2)
# 2. its gradients, in matrix form (Notes 2.1)
# 3. softmax and cross-entropy: why the gradient is $p - q$
# 4. gradient descent, and how long a step may be
# 5. LeNet-5, forward and backward
# 6. training it
# 7. the same training with automatic gradients: why the weights drift apart
# 8. three exercises
#
# **Letters of this notebook.** Indices start from 0. Terms are explained in the [glossary](glossary.md).
#
# | letter | meaning |
# |:---|:---|
# | $z$ | the loss |
# | $X$, $W$, $b$, $Y$ | inputs, weights, bias and outputs of a fully connected layer, $Y = XW + \mathbf{1}b^T$ |
# | $N$, $n$, $m$ | images in a batch; inputs and outputs of a layer |
# | $\mathbf{1}$, $I$ | a column of ones; the identity matrix |
# | $\mathbf{x}$, $\mathbf{y}$, $\phi(\mathbf{x})$, $C$, $M$ | a convolution's input, output and matrices (notebook 2) |
# | $a$ | the logits, $K$ of them, one per class |
# | $p$, $q$ | the probabilities that softmax gives; the truth, 1 for the right class $r$ and 0 for the others |
# | $\mathbf{w}_t$ | the weights after $t$ steps |
# | $\alpha$, $c$ | the learning rate; a curvature |
# | $v$, $\mu$ | velocity and momentum |
# | $\sigma$ | the sigmoid |

# %%
import fnconv
import jax
import jax.numpy as jnp
import numpy as np
from fnconv import textbook
from fnconv.base.geometry import window_axes
from fnconv.train.data import load_digits
from fnconv.train.lenet import LAYERS, SHAPES, init, logits

from exercises import check
from pictures import COLOURS, Canvas, Step, chart, flow

random = np.random.default_rng(5)


def integers(*shape):
    return jnp.asarray(random.integers(-5, 6, shape), jnp.float32)


# %% [markdown]
# ## 1. The fully connected layer is a convolution
#
# In a fully connected layer every output is a weighted sum of *all* inputs. A convolution with a kernel as large as
# its input does the same: the kernel fits in one position only, so there is one output per kernel, and it sees
# everything.
#
# In the language of notebook 2: $\phi(\mathbf{x})$ has one row per position of the kernel. There is one position, so
# $\phi(\mathbf{x})$ is the single row $\operatorname{vec}(\mathbf{x})^T$, and (2.9) becomes
#
# $$\mathbf{y}^T = \operatorname{vec}(\mathbf{x})^T\, C ,$$
#
# a row times the matrix of weights. Even the matrix $M$ of (2.23), which says where each entry of
# $\phi(\mathbf{x})$ comes from, becomes as simple as can be. Compare it for a $2 \times 2$ kernel, whose windows
# overlap, with a $3 \times 3$ kernel on the same $3 \times 3$ input:

# %% tags=["hide-input"]
canvas = Canvas()
for k, positions in [(2, 4), (3, 0)]:
    M = textbook.matrix_m(window_axes((3, 3), (k, k)), 1, jnp.dtype("float32"))
    canvas.heat(M, f"$M$ for a ${k} \\times {k}$ kernel", cell=0.45, every=(positions, 0))
canvas.show()

# %% [markdown]
# On the right $M$ is the identity: every input is used exactly once, nothing overlaps, nothing has to be added up on
# the way back. So the general rule (2.28), $\operatorname{vec}(\partial z/\partial \mathbf{x}) = M^T
# \operatorname{vec}(\partial z/\partial Y\, C^T)$, is only a matrix product.
#
# The code agrees. `flatten` counts an image row by row, channels last, and the kernel has to be counted the same way:

# %%
x = integers(4, 3, 3, 2)  # 4 images, 3 x 3, 2 channels
w = integers(3, 3, 2, 5)  # 5 kernels as large as the images

as_conv = fnconv.conv(x, w)  # (4, 1, 1, 5)
as_dense = fnconv.dense(fnconv.flatten(x), w.reshape(-1, 5))  # (4, 5)
print(as_conv.shape, as_dense.shape, "equal:", bool((as_conv[:, 0, 0] == as_dense).all()))

# %% [markdown]
# ## 2. Its gradients
#
# Take the examples of a batch as the rows of $X$ ($N \times n$), so that $Y = XW + \mathbf{1}b^T$. Section 7 of
# notebook 1 derived the gradient of a product $AXB$; with $A = I$ it says
#
# $$
# \frac{\partial z}{\partial X} = \frac{\partial z}{\partial Y}\, W^T,
# \qquad
# \frac{\partial z}{\partial W} = X^T\, \frac{\partial z}{\partial Y},
# \qquad
# \frac{\partial z}{\partial b} = \sum_{\text{rows}} \frac{\partial z}{\partial Y} .
# $$
#
# These are the formulas of Notes 2.1 ($\delta^L = \delta^{L+1} w^T$, $\Delta w = \delta\, a^T$, $\Delta b = \delta$).
# In Notes $\delta^L$ is also multiplied by $\sigma'$: that is the next layer on the way back, the activation, which
# we keep apart. The product $X^T\,\partial z/\partial Y$ *adds over the batch*: one weight serves every example, so
# its effects on the loss add up.

# %% tags=["hide-input"]
flow(
    ["$X$", "$Y$"],
    [
        Step(
            "times $W$, plus $b$",
            r"times $W^T$",
            kept="$X$, $W$",
            weight="$W$, $b$",
            weight_gradient=r"$\partial z/\partial W = X^T\,\partial z/\partial Y$,   "
            r"$\partial z/\partial b$ = sum of the rows",
        )
    ],
    [r"$\partial z/\partial X$", r"$\partial z/\partial Y$"],
)

# %%
X, W, b, dY = integers(4, 3), integers(3, 2), integers(2), integers(4, 2)
_, recipe = jax.vjp(lambda X, W, b: X @ W + b, X, W, b)
automatic = recipe(dY)
by_hand = (dY @ W.T, X.T @ dY, dY.sum(axis=0))
for name, ours, theirs in zip(["dX", "dW", "db"], by_hand, automatic, strict=True):
    print(name, ours.shape, "equal:", bool((ours == theirs).all()))

# %% tags=["hide-input"]
canvas = Canvas()
canvas.array(X.T, "$X^T$", colour="x")
canvas.array(dY, r"$\partial z/\partial Y$", colour="d")
canvas.text("$=$")
canvas.array(by_hand[1], r"$\partial z/\partial W$", colour="g")
canvas.show()

# %% [markdown]
# ## 3. Softmax and cross-entropy
#
# The last layer gives one number per class, the *logits* $a_0, \dots, a_{K-1}$. **Softmax** turns them into
# probabilities, and **cross-entropy** charges the negative logarithm of the probability that was given to the right
# class $r$:
#
# $$
# p_i = \frac{e^{a_i}}{\sum_k e^{a_k}}, \qquad z = -\log p_r = \log \sum_k e^{a_k} - a_r .
# $$
#
# The form on the right makes the derivative easy. The derivative of $\log \sum_k e^{a_k}$ with respect to $a_i$ is
# $\frac{e^{a_i}}{\sum_k e^{a_k}} = p_i$, and that of $a_r$ is $1$ at $i = r$ and 0 elsewhere:
#
# $$
# \frac{\partial z}{\partial a_i} = p_i - q_i, \qquad q_i = \begin{cases} 1 & i = r \\ 0 & \text{otherwise.}
# \end{cases}
# $$
#
# *Prediction minus truth*: a step against the gradient pushes the right class up by what it lacks, and all others down
# by what they have. The entries add up to zero.

# %%
a = jnp.array([2.0, 0.0, -1.0, 0.5])
right = jnp.array(1)
p = fnconv.softmax(a)
gradient = jax.grad(fnconv.softmax_cross_entropy)(a, right)
print("p            ", np.asarray(p).round(3))
print("p - q        ", np.asarray(p.at[1].add(-1)).round(3))
print("our gradient ", np.asarray(gradient).round(3))
print("equal up to rounding:", bool(jnp.allclose(gradient, p.at[1].add(-1), rtol=1e-6, atol=1e-6)))

# %% [markdown]
# Why not differentiate the two in turn? Softmax alone has the Jacobian $\operatorname{diag}(p) - p\,p^T$, and the
# logarithm divides by $p_r$. When the network is badly wrong, $p_r$ underflows to $0$, and $1/p_r$ is infinite,
# although the product of the two is the harmless $p - q$. So the pair is one operation, and it subtracts the largest
# logit before it takes exponentials, which changes nothing in $p$:

# %%
extreme = jnp.array([0.0, 200.0])


def naive(a):
    return -jnp.log(jnp.exp(a) / jnp.exp(a).sum())[0]


print("in two steps:", jax.value_and_grad(naive)(extreme))
print("in one:      ", jax.value_and_grad(fnconv.softmax_cross_entropy)(extreme, jnp.array(0)))

# %% [markdown]
# The Jacobian of softmax for the logits above, beside the probabilities:

# %% tags=["hide-input"]
jacobian = jax.jacrev(fnconv.softmax)(a)
canvas = Canvas()
names = [f"$a_{i}$" for i in range(4)]
canvas.array(np.round(p, 2), "$p$", colour="y", rows=[f"$p_{i}$" for i in range(4)])
canvas.heat(
    jacobian, r"diag$(p) - p\,p^T$", cell=1.0, rows=[f"$p_{i}$" for i in range(4)], columns=names
)
canvas.show()

# %% [markdown]
# (Green: raising this logit raises this probability; pink: lowers it. Only the diagonal is green, for the
# probabilities compete.)
#
# ## 4. Gradient descent
#
# The gradient points where the loss grows fastest, so we take a step the other way (Wei 1.2):
#
# $$\mathbf{w}_{t+1} = \mathbf{w}_t - \alpha\, \frac{\partial z}{\partial \mathbf{w}_t} .$$
#
# $\alpha$ is the **learning rate**. How long may the step be? Look at the simplest loss, $z = \frac{1}{2} c\, w^2$,
# whose gradient is $c\,w$. One step gives $w_{t+1} = (1 - \alpha c)\, w_t$: the weight is multiplied by the same
# factor every time. It shrinks if $|1 - \alpha c| < 1$, that is $0 < \alpha < 2/c$; beyond that it grows, alternating
# in sign.

# %% tags=["hide-input"]
figure, axes = chart("$w_t$ for $z = w^2/2$", "step $t$", "$w_t$")
for alpha in (0.1, 1.0, 1.8, 2.1):
    axes.plot([(1 - alpha) ** t for t in range(13)], marker=".", label=f"$\\alpha = {alpha}$")
axes.axhline(0, color="#999999", linewidth=0.8)
axes.legend(ncols=2)
figure

# %% [markdown]
# *Stochastic* gradient descent computes the gradient from a few examples (a mini-batch), others for every step. That is
# noisier, but dozens of such steps cost as much as one over the whole set. *Momentum* keeps a running sum of the
# gradients, $v \leftarrow \mu v + \partial z/\partial w$, and steps along $v$; exercise 3 is about it.
#
# ## 5. LeNet-5, forward and backward
#
# LeCun's network of 1998, with ReLU and max pooling as one would build it today. The column on the right is the shape
# of the activations for a batch of $N$:
#
# | layer | what it does | shape after it |
# |:---|:---|:---|
# | image | | `(N, 28, 28, 1)` |
# | C1 | convolution 5×5, padding 2, 6 kernels, ReLU | `(N, 28, 28, 6)` |
# | S2 | max pooling 2×2 | `(N, 14, 14, 6)` |
# | C3 | convolution 5×5, 16 kernels, ReLU | `(N, 10, 10, 16)` |
# | S4 | max pooling 2×2 | `(N, 5, 5, 16)` |
# | C5 | convolution 5×5, 120 kernels, ReLU | `(N, 1, 1, 120)` |
# | F6 | fully connected, ReLU | `(N, 84)` |
# | output | fully connected | `(N, 10)` |
#
# C5 is the convolution of section 1: its kernel is as large as its input.

# %%
count = {name: int(np.prod(shape)) for name, shape in SHAPES.items()}
for layer in ("c1", "c3", "c5", "f6", "output"):
    print(f"{layer:7}{count[layer + '.w'] + count[layer + '.b']:>7,} parameters")
print(f"{'in all':7}{sum(count.values()):>7,}")

# %% [markdown]
# Now the whole gradient, by hand. Read `gradients` from top to bottom and then see how the second half mirrors the
# first: for every forward line, in reverse order, there is one line that turns the cotangent of its output into the
# cotangent of its input, and one that gives the gradients of its weights. Every such line is a formula of these
# notebooks:
#
# * convolution: `conv_input_vjp` is (2.28), `conv_weight_vjp` is (2.21), the bias gets a sum (Small (1))
# * max pooling: $S^T$ of (4.5) puts each cotangent back where the maximum stood; `indices` remembers where that was
# * ReLU: the cotangent where the output is positive, 0 elsewhere (5.3)


# %%
def gradients(params, images, labels):
    """The mean loss of a batch and its gradient with respect to every parameter, written out by hand."""
    w, b = ({k[:-2]: v for k, v in params.items() if k.endswith(end)} for end in (".w", ".b"))

    # forward, keeping what the way back needs
    c1 = fnconv.relu(fnconv.conv(images, w["c1"], b["c1"], padding=2))
    s2, at2 = fnconv.max_pool_with_indices(c1, (2, 2))
    c3 = fnconv.relu(fnconv.conv(s2, w["c3"], b["c3"]))
    s4, at4 = fnconv.max_pool_with_indices(c3, (2, 2))
    c5 = fnconv.relu(fnconv.conv(s4, w["c5"], b["c5"]))
    flat = c5.reshape(len(images), 120)
    f6 = fnconv.relu(fnconv.dense(flat, w["f6"], b["f6"]))
    output = fnconv.dense(f6, w["output"], b["output"])
    loss = fnconv.softmax_cross_entropy(output, labels).mean()

    # backward: d is the cotangent, from the last layer to the first
    g = {}
    d = (fnconv.softmax(output) - jax.nn.one_hot(labels, 10)) / len(images)  # p - q, of the mean
    g["output.w"], g["output.b"] = f6.T @ d, d.sum(axis=0)
    d = d @ w["output"].T
    d = d * (f6 > 0)
    g["f6.w"], g["f6.b"] = flat.T @ d, d.sum(axis=0)
    d = d @ w["f6"].T
    d = d.reshape(c5.shape) * (c5 > 0)
    g["c5.w"], g["c5.b"] = fnconv.conv_weight_vjp(s4, d, (5, 5)), d.sum(axis=(0, 1, 2))
    d = fnconv.conv_input_vjp(d, w["c5"], s4.shape)
    d = fnconv.max_unpool(d, at4, (10, 10)) * (c3 > 0)
    g["c3.w"], g["c3.b"] = fnconv.conv_weight_vjp(s2, d, (5, 5)), d.sum(axis=(0, 1, 2))
    d = fnconv.conv_input_vjp(d, w["c3"], s2.shape)
    d = fnconv.max_unpool(d, at2, (28, 28)) * (c1 > 0)
    g["c1.w"] = fnconv.conv_weight_vjp(images, d, (5, 5), padding=2)
    g["c1.b"] = d.sum(axis=(0, 1, 2))
    return loss, g


# %% [markdown]
# (`max_unpool` is $S^T$ here because the windows do not overlap; for overlapping ones two cotangents may meet in one
# cell and have to be added, and `max_pool`'s own rule does that.)
#
# ## 6. Training
#
# The data are 1,797 handwritten digits, 8 × 8 pixels, enlarged to 28 × 28: scikit-learn brings them along,
# nothing is downloaded. 1,437 are for training, 360 for the test.

# %%
data = load_digits()
print("training images", data.train_images.shape, " test images", data.test_images.shape)

# %% tags=["hide-input"]
figure, axes = chart(size=(6.5, 1.1))
strip = np.concatenate(list(data.train_images[:10, :, :, 0]), axis=1)
axes.imshow(strip, cmap="gray_r", interpolation="nearest")
axes.set_axis_off()
for at, label in enumerate(data.train_labels[:10]):
    axes.text(28 * at + 14, -3, str(label), ha="center", va="bottom")
figure

# %% [markdown]
# First the check: on one batch, our gradient against the one that JAX finds by itself, in a network built of JAX's own
# operations. The two add the same numbers in different orders, so the last bits may differ. We therefore ask that no
# entry is off by more than $10^{-5}$ of its gradient's largest entry.

# %%
params = init("modern", seed=0)
images, labels = jnp.asarray(data.train_images[:32]), jnp.asarray(data.train_labels[:32])


@jax.jit
def automatic_gradients(params, images, labels):
    layers = LAYERS["modern", "autodiff"]
    return jax.value_and_grad(lambda p: layers.loss(logits(layers, p, images), labels).mean())(params)


by_hand_gradients = jax.jit(gradients)
_, ours = by_hand_gradients(params, images, labels)
_, theirs = automatic_gradients(params, images, labels)


def distance(a, b):
    return float(jnp.abs(a - b).max() / jnp.abs(b).max())


for name in SHAPES:
    print(f"{name:9} {SHAPES[name]!s:15} agree to 5 digits:", distance(ours[name], theirs[name]) < 1e-5)

# %% [markdown]
# Now four epochs of stochastic gradient descent with momentum. Only our own gradients are used.


# %%
def batches(epochs, size=32):
    order = np.random.default_rng(0)
    for _ in range(epochs):
        shuffled = order.permutation(len(data.train_labels))
        for first in range(0, len(shuffled) - size + 1, size):
            chosen = shuffled[first : first + size]
            yield jnp.asarray(data.train_images[chosen]), jnp.asarray(data.train_labels[chosen])


@jax.jit
def update(params, velocity, g, alpha, mu=0.9):
    velocity = {k: mu * velocity[k] + g[k] for k in g}
    return {k: params[k] - alpha * velocity[k] for k in g}, velocity


def train(gradient_function, params, alpha, epochs):
    """Yield the loss and the new parameters, step by step."""
    velocity = {k: jnp.zeros_like(v) for k, v in params.items()}
    for images, labels in batches(epochs):
        loss, g = gradient_function(params, images, labels)
        params, velocity = update(params, velocity, g, alpha)
        yield float(loss), params


history = list(train(by_hand_gradients, params, alpha=0.02, epochs=4))
trained = history[-1][1]
predicted = logits(LAYERS["modern", "manual"], trained, jnp.asarray(data.test_images)).argmax(-1)
right = float((predicted == data.test_labels).mean())
print("steps:", len(history))
print("more than 90% of the test images right:", right > 0.9)

# %% tags=["volatile"]
print(f"test images right: {right:.1%}  (guessing: 10%)")

# %% tags=["volatile", "hide-input"]
figure, axes = chart("LeNet-5, gradients by hand", "step", "loss")
axes.plot([loss for loss, _ in history], color=COLOURS["y"])
figure

# %% [markdown]
# (The exact percentage depends on the last bits of the arithmetic, so it differs between computers. Section 7
# explains why.) What did the first layer learn? Its six kernels, each 5 × 5; green is positive, pink negative:

# %% tags=["hide-input"]
canvas = Canvas()
for k in range(6):
    canvas.heat(trained["c1.w"][:, :, 0, k], f"kernel {k}", cell=0.45)
canvas.show()

# %% [markdown]
# ## 7. The same training with automatic gradients
#
# On one batch, our gradients and JAX's agree to five digits or more. Train with the one and with the other: do the
# weights stay together? First recall what a computer's addition is like. float32 keeps about 7 digits, so each sum is
# rounded, and the result depends on the order in which the terms are added:

# %%
one, large = np.float32(1), np.float32(1e8)
print("(large + 1) - large =", (large + one) - large)
print("(large - large) + 1 =", (large - large) + one)

# %% [markdown]
# A gradient of a kernel is a sum over thousands of positions. Our rules and JAX's add the same terms in different
# orders: neither is more right than the other. To see what such a difference does, we train three copies:
#
# * **by hand**: our gradients,
# * **automatic**: JAX's gradients,
# * **one bit**: JAX's gradients again, but *one* of the 61,706 initial parameters is changed in its last bit.
#
# and look at how far "by hand" and "one bit" go away from "automatic". The learning rate is larger than before, 0.05:
# it makes training rougher, and the effect easier to see.

# %%
w = np.array(params["c3.w"])
w[0, 0, 0, 0] = np.nextafter(w[0, 0, 0, 0], np.float32(1))
one_bit = params | {"c3.w": jnp.asarray(w)}


def apart(a, b):
    """Relative distance of two sets of parameters."""
    a, b = (np.concatenate([np.ravel(p[k]) for k in SHAPES]).astype(float) for p in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


drift = {"by hand": [], "one bit": []}
runs = zip(
    train(by_hand_gradients, params, alpha=0.05, epochs=2),
    train(automatic_gradients, params, alpha=0.05, epochs=2),
    train(automatic_gradients, one_bit, alpha=0.05, epochs=2),
    strict=True,
)
for (_, hand), (_, automatic), (_, changed) in runs:
    drift["by hand"].append(apart(hand, automatic))
    drift["one bit"].append(apart(changed, automatic))

print("by hand, after the first step, less than a millionth:", drift["by hand"][0] < 1e-6)
print("one bit, after the first step, less than a millionth:", drift["one bit"][0] < 1e-6)
growth = {name: max(values) / values[0] for name, values in drift.items()}
print("each grows more than tenfold:", all(g > 10 for g in growth.values()))

# %% tags=["volatile", "hide-input"]
figure, axes = chart("Distance from the automatic copy", "step", "relative distance", size=(6, 3.2))
for (name, values), colour in zip(drift.items(), (COLOURS["y"], COLOURS["w"]), strict=True):
    axes.semilogy(values, label=name, color=colour)
axes.legend(loc="lower right")
print({name: f"{values[0]:.1e} -> {values[-1]:.1e}" for name, values in drift.items()})
figure

# %% [markdown]
# Both curves start at rounding errors, about $10^{-8}$, and both climb. Nothing is wrong with either gradient:
# training itself magnifies every small difference. Each step adds new rounding, and passes the old difference on
# through a nonlinear network. Where a ReLU switches, or another cell becomes the maximum of its window, a tiny
# difference suddenly becomes a large one (the steep part of the curves). A single flipped bit does the same. The
# honest test of a gradient is therefore *one step from the same weights* (section 6), never the weights after many
# steps; and what should agree after training is the quality of the networks, not their weights.
#
# ## 8. Exercises
#
# ### Exercise 1: the backward pass of a fully connected layer
#
# Given $X$ ($N \times n$), $W$ ($n \times m$) and the cotangent $\partial z/\partial Y$ ($N \times m$) of
# $Y = \operatorname{ReLU}(XW + \mathbf{1}b^T)$, return $(\partial z/\partial X, \partial z/\partial W, \partial
# z/\partial b)$. Do not forget the ReLU.
#
# <details><summary>Hint</summary>
#
# Go backwards. First the ReLU: multiply `dY` by the mask `X @ W + b > 0`. What comes out is the cotangent of
# $XW + \mathbf{1}b^T$, for which section 2 has the three formulas.
#
# </details>


# %% tags=["exercise-1"]
def dense_relu_backward(X, W, b, dY):
    return ...


# %% tags=["check-1"]
def automatic_dense_relu_backward(X, W, b, dY):
    return jax.vjp(lambda X, W, b: fnconv.relu(fnconv.dense(X, W, b)), X, W, b)[1](dY)


cases = [
    (integers(n, k), integers(k, m), 10 * integers(m), integers(n, m))
    for n, k, m in [(4, 3, 2), (6, 2, 5)]
]
check(dense_relu_backward, automatic_dense_relu_backward, cases)

# %% [markdown]
# ### Exercise 2: two classes
#
# For two classes one logit $a$ is enough: $p = \sigma(a) = 1/(1 + e^{-a})$ is the probability of class 1, and for the
# truth $q \in \{0, 1\}$ the loss is $z = -q \log p - (1 - q)\log(1 - p)$. Derive $\partial z/\partial a$, simplify it
# as far as it goes, and write it for arrays `a` and `q`.
#
# <details><summary>Hint</summary>
#
# $\frac{\partial z}{\partial p} = -\frac{q}{p} + \frac{1-q}{1-p}$, and $\sigma' = p\,(1-p)$ by notebook 4, section 9.
# Multiply the two; the denominators cancel.
#
# </details>


# %% tags=["exercise-2"]
def binary_gradient(a, q):
    return ...


# %% tags=["check-2"]
def automatic_binary_gradient(a, q):
    def loss(a):
        p = fnconv.sigmoid(a)
        return -(q * jnp.log(p) + (1 - q) * jnp.log(1 - p)).sum()

    return jax.grad(loss)(a)


check(
    binary_gradient,
    automatic_binary_gradient,
    [(jnp.array([0.0, 2.0, -1.0]), jnp.array([1.0, 0.0, 1.0])), (jnp.array([0.5]), jnp.array([0.0]))],
)

# %% [markdown]
# ### Exercise 3: momentum
#
# Write the momentum step: from a weight `w`, a velocity `v`, and the gradient `g`, with learning rate `alpha` and
# momentum `mu`, the new pair `(w, v)`. The velocity is updated first: $v \leftarrow \mu v + g$, then
# $w \leftarrow w - \alpha v$. (How large does $v$ become under a constant gradient, after many steps?)
#
# <details><summary>Hint</summary>
#
# Two lines, in the order of the formulas; the second uses the *new* velocity. The question in brackets is a geometric
# series, $g\,(1 + \mu + \mu^2 + \dots)$.
#
# </details>


# %% tags=["exercise-3"]
def momentum_step(w, v, g, alpha, mu):
    return ...


# %% tags=["check-3"]
def momentum_by_the_library(w, v, g, alpha, mu):
    new, velocity = update(
        {"w": jnp.asarray(w)}, {"w": jnp.asarray(v)}, {"w": jnp.asarray(g)}, alpha, mu
    )
    return new["w"], velocity["w"]


check(momentum_step, momentum_by_the_library, [(1.0, 0.0, 2.0, 0.5, 0.75), (4.0, 8.0, -2.0, 0.25, 0.5)])

# %% [markdown]
# **Next:** [6 Second derivatives](06_second_derivatives.ipynb).
