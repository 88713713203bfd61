# %% tags=["right-1"]
def softplus_backward(kept, dy):
    (x,) = kept
    return (dy * jax.nn.sigmoid(x),)


# %% tags=["wrong-1"]
def softplus_backward(kept, dy):
    (x,) = kept
    return (dy * jax.nn.sigmoid(-x),)


# %% tags=["right-2"]
def cumsum_backward(kept, dy):
    return (jnp.cumsum(dy[::-1])[::-1],)


# %% tags=["wrong-2"]
def cumsum_backward(kept, dy):
    return (jnp.cumsum(dy),)


# %% tags=["right-3"]
def weighted_mean_backward(kept, dy):
    x, w = kept
    y = x @ w / w.sum()
    return dy[:, None] * w / w.sum(), dy @ (x - y[:, None]) / w.sum()


# %% tags=["wrong-3"]
def weighted_mean_backward(kept, dy):
    x, w = kept
    return dy[:, None] * w / w.sum(), dy @ x / w.sum()
