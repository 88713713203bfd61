# %% tags=["right-1"]
def prepare(delta, t, k, left_over):
    return np.pad(insert_zeros(delta, t), (k - 1, k - 1 + left_over))


# %% tags=["wrong-1"]
def prepare(delta, t, k, left_over):
    return np.pad(insert_zeros(delta, t), k - 1)


# %% tags=["wrong-1"]
def prepare(delta, t, k, left_over):
    return np.pad(delta, (k - 1, k - 1 + left_over))


# %% tags=["right-2"]
def input_gradient_1d(delta, w, n, t, low):
    dx = np.zeros(n)
    for u in range(n):
        for i in range(len(delta)):
            r = u + low - i * t
            if 0 <= r < len(w):
                dx[u] += delta[i] * w[r]
    return dx


# %% tags=["wrong-2"]
def input_gradient_1d(delta, w, n, t, low):
    dx = np.zeros(n)
    for u in range(n):
        for i in range(len(delta)):
            r = u - i * t
            if 0 <= r < len(w):
                dx[u] += delta[i] * w[r]
    return dx


# %% tags=["wrong-2"]
def input_gradient_1d(delta, w, n, t, low):
    dx = np.zeros(n)
    for u in range(n):
        for i in range(len(delta)):
            r = u + low - i * t
            if 0 <= r < len(w):
                dx[u] += delta[i] * w[len(w) - 1 - r]
    return dx


# %% tags=["right-3"]
def same_padding(n, k, t):
    total = max(0, (n - 1) * t + k - n)
    return total // 2, total - total // 2


# %% tags=["wrong-3"]
def same_padding(n, k, t):
    total = max(0, (n - 1) * t + k - n)
    return total // 2, total // 2


# %% tags=["wrong-3"]
def same_padding(n, k, t):
    total = max(0, (-(-n // t) - 1) * t + k - n)
    return total // 2, total - total // 2
