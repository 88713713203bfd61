# %% tags=["right-1"]
def my_vec(x):
    return x.T.reshape(-1) if x.ndim < 3 else np.concatenate([my_vec(part) for part in x])


# %% tags=["wrong-1"]
def my_vec(x):
    return x.reshape(-1)


# %% tags=["wrong-1"]
def my_vec(x):
    return x.T.reshape(-1)


# %% tags=["right-2"]
def gradient_of_a(A, X, B, dY):
    return dY @ (X @ B).T


# %% tags=["wrong-2"]
def gradient_of_a(A, X, B, dY):
    return (X @ B).T @ dY


# %% tags=["wrong-2"]
def gradient_of_a(A, X, B, dY):
    return -dY @ (X @ B).T


# %% tags=["right-3"]
def transposing_matrix(m, n):
    T = np.zeros((m * n, m * n))
    for i in range(m):
        for j in range(n):
            T[j + n * i, i + m * j] = 1
    return T


# %% tags=["wrong-3"]
def transposing_matrix(m, n):
    T = np.zeros((m * n, m * n))
    for i in range(m):
        for j in range(n):
            T[i + m * j, j + n * i] = 1
    return T


# %% tags=["wrong-3"]
def transposing_matrix(m, n):
    return np.eye(m * n)
