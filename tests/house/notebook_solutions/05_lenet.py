# %% tags=["right-1"]
def dense_relu_backward(X, W, b, dY):
    d = dY * (X @ W + b > 0)
    return d @ W.T, X.T @ d, d.sum(axis=0)


# %% tags=["wrong-1"]
def dense_relu_backward(X, W, b, dY):  # no ReLU
    return dY @ W.T, X.T @ dY, dY.sum(axis=0)


# %% tags=["wrong-1"]
def dense_relu_backward(X, W, b, dY):  # the mask without the bias
    d = dY * (X @ W > 0)
    return d @ W.T, X.T @ d, d.sum(axis=0)


# %% tags=["right-2"]
def binary_gradient(a, t):
    return 1 / (1 + jnp.exp(-a)) - t


# %% tags=["wrong-2"]
def binary_gradient(a, t):
    return t - 1 / (1 + jnp.exp(-a))


# %% tags=["wrong-2"]
def binary_gradient(a, t):
    p = 1 / (1 + jnp.exp(-a))
    return (p - t) * p * (1 - p)


# %% tags=["right-3"]
def momentum_step(w, v, g, alpha, mu):
    v = mu * v + g
    return w - alpha * v, v


# %% tags=["wrong-3"]
def momentum_step(w, v, g, alpha, mu):  # steps along the old velocity
    return w - alpha * v, mu * v + g


# %% tags=["wrong-3"]
def momentum_step(w, v, g, alpha, mu):
    return w - alpha * g, mu * v + g
