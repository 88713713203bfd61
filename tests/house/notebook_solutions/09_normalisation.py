# %% tags=["right-1"]
def rms_backward(x, g, epsilon):
    r = 1 / jnp.sqrt((x**2).mean() + epsilon)
    z = r * x
    return r * (g - z * (g * z).mean())


# %% tags=["wrong-1"]
def rms_backward(x, g, epsilon):
    r = 1 / jnp.sqrt((x**2).mean() + epsilon)
    return normalise_backward(r * x, r, g)


# %% tags=["wrong-1"]
def rms_backward(x, g, epsilon):
    r = 1 / jnp.sqrt((x**2).mean())
    return r * (g - r * x * (g * r * x).mean())


# %% tags=["right-2"]
def my_group_norm(x, groups):
    parts = x.reshape(*x.shape[:-1], groups, -1)
    return fnconv.layer_norm(parts, axes=(1, 2, 4)).reshape(x.shape)


# %% tags=["wrong-2"]
def my_group_norm(x, groups):
    parts = x.reshape(*x.shape[:-1], -1, groups)
    return fnconv.layer_norm(parts, axes=(1, 2, 3)).reshape(x.shape)


# %% tags=["wrong-2"]
def my_group_norm(x, groups):
    parts = x.reshape(*x.shape[:-1], groups, -1)
    return fnconv.layer_norm(parts, axes=(0, 1, 2, 4)).reshape(x.shape)


# %% tags=["right-3"]
def backward_from_output(y, s, b, r, dy):
    return normalise_backward((y - b) / s, r, s * dy)


# %% tags=["wrong-3"]
def backward_from_output(y, s, b, r, dy):
    return normalise_backward((y - b) / s, r, dy)


# %% tags=["wrong-3"]
def backward_from_output(y, s, b, r, dy):
    return normalise_backward(y, r, s * dy)
