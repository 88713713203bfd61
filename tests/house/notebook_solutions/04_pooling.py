# %% tags=["right-1"]
def selection(x, k, t):
    n = (len(x) - k) // t + 1
    S = np.zeros((n, len(x)))
    for o in range(n):
        S[o, o * t + np.argmax(x[o * t : o * t + k])] = 1
    return S


# %% tags=["wrong-1"]
def selection(x, k, t):
    n = (len(x) - k) // t + 1
    S = np.zeros((n, len(x)))
    for o in range(n):
        S[o, o * t + k - 1 - np.argmax(x[o * t : o * t + k][::-1])] = 1
    return S


# %% tags=["wrong-1"]
def selection(x, k, t):
    n = (len(x) - k) // t + 1
    S = np.zeros((n, len(x)))
    for o in range(n):
        window = x[o * t : o * t + k]
        S[o, o * t : o * t + k] = window == window.max()
    return S


# %% tags=["right-2"]
def average_gradient(delta, n, k, t):
    dx = np.zeros(n)
    for o, d in enumerate(delta):
        dx[o * t : o * t + k] += d / k
    return dx


# %% tags=["wrong-2"]
def average_gradient(delta, n, k, t):
    dx = np.zeros(n)
    for o, d in enumerate(delta):
        dx[o * t : o * t + k] = d / k
    return dx


# %% tags=["wrong-2"]
def average_gradient(delta, n, k, t):
    dx = np.zeros(n)
    for o, d in enumerate(delta):
        dx[o * t : o * t + k] += d
    return dx


# %% tags=["right-3"]
def leaky_gradient(x, dy, a):
    return jnp.where(x > 0, dy, a * dy)


# %% tags=["wrong-3"]
def leaky_gradient(x, dy, a):
    return jnp.where(x >= 0, dy, a * dy)


# %% tags=["wrong-3"]
def leaky_gradient(x, dy, a):
    return jnp.where(dy > 0, dy, a * dy)
