# %% tags=["right-1"]
def my_hessian_times(z, x, v):
    return jax.grad(lambda x: jnp.vdot(jax.grad(z)(x), v))(x)


# %% tags=["wrong-1"]
def my_hessian_times(z, x, v):
    return jax.grad(lambda x: jnp.vdot(jax.grad(z)(x), x))(v)


# %% tags=["wrong-1"]
def my_hessian_times(z, x, v):
    return jax.grad(z)(x) * v


# %% tags=["right-2"]
def gradients_of_weight_vjp(x, d, v):
    return fnconv.conv_input_vjp(d, v, x.shape), fnconv.conv(x, v)


# %% tags=["wrong-2"]
def gradients_of_weight_vjp(x, d, v):
    return fnconv.conv_input_vjp(d, v[::-1, ::-1], x.shape), fnconv.conv(x, v)


# %% tags=["wrong-2"]
def gradients_of_weight_vjp(x, d, v):
    return fnconv.conv(x, v), fnconv.conv_input_vjp(d, v, x.shape)


# %% tags=["right-3"]
def hessian_times_by_hand(x, w, v):
    return fnconv.conv_weight_vjp(x, fnconv.conv(x, v), (3, 3))


# %% tags=["wrong-3"]
def hessian_times_by_hand(x, w, v):
    return fnconv.conv_weight_vjp(x, fnconv.conv(x, w), (3, 3)) * v


# %% tags=["wrong-3"]
def hessian_times_by_hand(x, w, v):
    return 2 * fnconv.conv_weight_vjp(x, fnconv.conv(x, v), (3, 3))
