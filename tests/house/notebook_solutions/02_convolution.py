# %% tags=["right-1"]
def my_map(p, q, H, W, h, w, s):
    rows = (H - h) // s + 1
    j_out, i_out = divmod(p, rows)
    d, rest = divmod(q, h * w)
    j, i = divmod(rest, h)
    return d, s * i_out + i, s * j_out + j


# %% tags=["wrong-1"]
def my_map(p, q, H, W, h, w, s):
    rows = (H - h) // s + 1
    j_out, i_out = divmod(p, rows)
    d, rest = divmod(q, h * w)
    j, i = divmod(rest, h)
    return d, i_out + i, j_out + j


# %% tags=["wrong-1"]
def my_map(p, q, H, W, h, w, s):
    columns = (W - w) // s + 1
    i_out, j_out = divmod(p, columns)
    d, rest = divmod(q, h * w)
    i, j = divmod(rest, w)
    return d, s * i_out + i, s * j_out + j


# %% tags=["right-2"]
def my_col2im(m, G, n):
    dx = np.zeros(n)
    for p in range(m.shape[0]):
        for q in range(m.shape[1]):
            dx[m[p, q]] += G[p, q]
    return dx


# %% tags=["wrong-2"]
def my_col2im(m, G, n):
    dx = np.zeros(n)
    dx[m] += G
    return dx


# %% tags=["wrong-2"]
def my_col2im(m, G, n):
    return G.sum(axis=0)


# %% tags=["right-3"]
def copies_of_each_cell(H, W, h, w):
    def along(size, window):
        return np.array([min(i, size - window) - max(0, i - window + 1) + 1 for i in range(size)])

    return np.outer(along(H, h), along(W, w))


# %% tags=["wrong-3"]
def copies_of_each_cell(H, W, h, w):
    return np.full((H, W), h * w)


# %% tags=["wrong-3"]
def copies_of_each_cell(H, W, h, w):
    along = lambda size, window: np.array([min(i + 1, window, size - i) for i in range(size)])
    return np.outer(along(W, w), along(H, h))
