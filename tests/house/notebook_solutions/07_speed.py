# %% tags=["right-1"]
def multiplications(size, window, s):
    return size * window, ((size - window) // s + 1) * window


# %% tags=["wrong-1"]
def multiplications(size, window, s):
    return size * window, size * window // s


# %% tags=["wrong-1"]
def multiplications(size, window, s):
    return size * window, ((size - window) // s) * window


# %% tags=["right-2"]
def two_outputs(x, w):
    a = (x[0] - x[2]) * w[0]
    b = (x[1] + x[2]) * ((w[0] + w[1] + w[2]) / 2)
    c = (x[2] - x[1]) * ((w[0] - w[1] + w[2]) / 2)
    d = (x[1] - x[3]) * w[2]
    return a + b + c, b - c - d


# %% tags=["wrong-2"]
def two_outputs(x, w):  # right, with six products
    return x[0] * w[0] + x[1] * w[1] + x[2] * w[2], x[1] * w[0] + x[2] * w[1] + x[3] * w[2]


# %% tags=["wrong-2"]
def two_outputs(x, w):
    a = (x[0] - x[2]) * w[0]
    b = (x[1] + x[2]) * ((w[0] + w[1] + w[2]) / 2)
    c = (x[2] - x[1]) * ((w[0] - w[1] + w[2]) / 2)
    d = (x[1] - x[3]) * w[2]
    return a + b + c, b - c + d


# %% tags=["right-3"]
def least_bytes(n, height, width, c_in, c_out):
    return 4 * n * height * width * c_in + 4 * 9 * c_in * c_out + n * (height // 2) * (width // 2) * c_out


# %% tags=["wrong-3"]
def least_bytes(n, height, width, c_in, c_out):
    return 4 * n * height * width * c_in + 4 * 9 * c_in * c_out + n * height * width * c_out


# %% tags=["wrong-3"]
def least_bytes(n, height, width, c_in, c_out):
    return 4 * n * height * width * c_in + n * (height // 2) * (width // 2) * c_out
