"""The operations as plain Python loops, written from the formulas in docs/conventions.md.

What the tests hold pyconv against, so it imports nothing of pyconv. Arrays are containers only:
every sum is a Python float (IEEE double) and is rounded once, to the dtype of the input. The
functions take pyconv's own keywords. `test_oracle.py` checks them against examples worked by hand.
"""

import math
from itertools import product

import numpy as np


def pair(value):
    """`value` for the height and for the width."""
    return (value, value) if isinstance(value, int) else tuple(value)


def axis_geometry(size, kernel, stride, dilation, padding, ceil_mode=False):
    """Output size and the padding before and behind, for one axis.

    `padding` is "valid", "same", "same_lower" or the pair (before, behind).
    """
    reach = (kernel - 1) * dilation + 1
    before, behind = (0, 0) if isinstance(padding, str) else padding
    if padding in ("same", "same_lower"):
        out = math.ceil(size / stride)
        total = max((out - 1) * stride + reach - size, 0)
        before, behind = total // 2, total - total // 2
        if padding == "same_lower":
            before, behind = behind, before
    steps = (size + before + behind - reach) / stride
    out = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
    while ceil_mode and (out - 1) * stride - before >= size:
        out -= 1
    return out, before, behind


def geometry(x_shape, window, stride, padding, dilation, ceil_mode=False):
    """`axis_geometry` of the height and of the width of an NHWC shape."""
    if isinstance(padding, str):
        padding = (padding, padding)
    elif isinstance(padding, int) or isinstance(padding[0], int):
        padding = tuple((p, p) for p in pair(padding))
    return tuple(
        axis_geometry(*axis, ceil_mode)
        for axis in zip(
            x_shape[1:3], pair(window), pair(stride), pair(dilation), padding, strict=True
        )
    )


# ------------------------------------------------------------------------------ convolution


def zero_pad(x, window, stride=1, padding="valid", dilation=1):
    """x with its zeros around it, and where the image lies in it."""
    (_, top, bottom), (_, left, right) = geometry(x.shape, window, stride, padding, dilation)
    image = (slice(None), slice(top, top + x.shape[1]), slice(left, left + x.shape[2]))
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))), image


def products(xp_shape, w_shape, stride=1, dilation=1, groups=1):
    """Every product of a convolution, as its three indices: (in padded x, in w, in y).

    The convolution is bilinear, so this one list defines it and both of its gradients.
    """
    KH, KW, C_group, C_out = w_shape
    (OH, _, _), (OW, _, _) = geometry(xp_shape, (KH, KW), stride, "valid", dilation)
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    for n, oy, ox, o in np.ndindex(xp_shape[0], OH, OW, C_out):
        group = o // (C_out // groups)
        for ky, kx, i in product(range(KH), range(KW), range(C_group)):
            pixel = (oy * sh + ky * dh, ox * sw + kx * dw)
            yield (n, *pixel, group * C_group + i), (ky, kx, i, o), (n, oy, ox, o)


def conv2d(
    x, w, b=None, *, stride=1, padding="valid", dilation=1, groups=1, activation=None
):
    """y[n, oy, ox, o] = b[o] + the sum of x * w over the taps of the window."""
    xp, _ = zero_pad(x, w.shape[:2], stride, padding, dilation)
    (OH, _, _), (OW, _, _) = geometry(x.shape, w.shape[:2], stride, padding, dilation)
    y = np.zeros((x.shape[0], OH, OW, w.shape[3]))
    for in_x, in_w, in_y in products(xp.shape, w.shape, stride, dilation, groups):
        y[in_y] = y.item(in_y) + xp.item(in_x) * w.item(in_w)
    for index in np.ndindex(y.shape if b is not None else 0):
        y[index] = y.item(index) + b.item(index[3])
    y = y.astype(x.dtype)
    return relu(y) if activation == "relu" else y


def conv2d_backward(dy, x, w, *, stride=1, padding="valid", dilation=1, groups=1):
    """(dx, dw, db): the sums of dy * w, of dy * x and of dy that belong to each element."""
    xp, image = zero_pad(x, w.shape[:2], stride, padding, dilation)
    dxp, dw, db = np.zeros(xp.shape), np.zeros(w.shape), np.zeros(w.shape[3])
    for in_x, in_w, in_y in products(xp.shape, w.shape, stride, dilation, groups):
        dxp[in_x] = dxp.item(in_x) + dy.item(in_y) * w.item(in_w)
        dw[in_w] = dw.item(in_w) + dy.item(in_y) * xp.item(in_x)
    for index in np.ndindex(dy.shape):
        db[index[3]] = db.item(index[3]) + dy.item(index)
    return tuple(gradient.astype(x.dtype) for gradient in (dxp[image], dw, db))


def transposed_products(x_shape, w_shape, stride=1, dilation=1, groups=1):
    """Every product of a transposed convolution: (in x, in w, in y before anything is cropped)."""
    KH, KW, C_group, C_in = w_shape
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    for n, h, w, i in np.ndindex(x_shape):
        group = i // (C_in // groups)
        for ky, kx, o in product(range(KH), range(KW), range(C_group)):
            pixel = (h * sh + ky * dh, w * sw + kx * dw)
            yield (n, h, w, i), (ky, kx, o, i), (n, *pixel, group * C_group + o)


def transposed_geometry(
    x_shape, w_shape, stride=1, padding="valid", output_padding=0, dilation=1, groups=1
):
    """Shape of y before cropping, and the slices of it that stay; they may reach behind it."""
    full, kept = [], []
    if isinstance(padding, str):
        padding = (padding, padding)
    elif isinstance(padding, int) or isinstance(padding[0], int):
        padding = tuple((p, p) for p in pair(padding))
    for n, k, s, d, more, crop in zip(
        x_shape[1:3], w_shape[:2], pair(stride), pair(dilation), pair(output_padding), padding,
        strict=True,
    ):
        size = (n - 1) * s + (k - 1) * d + 1 + more
        if crop in ("same", "same_lower"):
            total = max(size - n * s, 0)
            before = total // 2 if crop == "same" else total - total // 2
            end = before + n * s
        else:
            before, behind = (0, 0) if crop == "valid" else crop
            end = size - behind
        full.append(max(size, end))
        kept.append(slice(before, end))
    return (x_shape[0], *full, w_shape[2] * groups), (slice(None), *kept)


def conv2d_transpose(x, w, b=None, *, activation=None, **options):
    """y: every pixel of x adds its products with the filters, `stride` pixels apart; then b."""
    shape, kept = transposed_geometry(x.shape, w.shape, **options)
    products_options = {k: v for k, v in options.items() if k in ("stride", "dilation", "groups")}
    y = np.zeros(shape)
    for in_x, in_w, in_y in transposed_products(x.shape, w.shape, **products_options):
        y[in_y] = y.item(in_y) + x.item(in_x) * w.item(in_w)
    for index in np.ndindex(y.shape if b is not None else 0):
        y[index] = y.item(index) + b.item(index[3])
    y = y[kept].astype(x.dtype)
    return relu(y) if activation == "relu" else y


def conv2d_transpose_backward(dy, x, w, **options):
    """(dx, dw, db): the sums of dy * w, of dy * x and of dy; what was cropped has a dy of 0."""
    shape, kept = transposed_geometry(x.shape, w.shape, **options)
    products_options = {k: v for k, v in options.items() if k in ("stride", "dilation", "groups")}
    whole, dx, dw = np.zeros(shape), np.zeros(x.shape), np.zeros(w.shape)
    whole[kept] = dy
    for in_x, in_w, in_y in transposed_products(x.shape, w.shape, **products_options):
        dx[in_x] = dx.item(in_x) + whole.item(in_y) * w.item(in_w)
        dw[in_w] = dw.item(in_w) + whole.item(in_y) * x.item(in_x)
    db = np.zeros(dy.shape[3])
    for index in np.ndindex(dy.shape):
        db[index[3]] = db.item(index[3]) + dy.item(index)
    return tuple(gradient.astype(x.dtype) for gradient in (dx, dw, db))


# ---------------------------------------------------------------------------------- pooling


def pool_windows(x_shape, window, stride=None, padding="valid", dilation=1, ceil_mode=False):
    """Of each window: its index (oy, ox), its pixels (iy, ix), and its taps in image or padding."""
    stride = window if stride is None else stride
    (_, H, W, _), (KH, KW) = x_shape, pair(window)
    (OH, top, bottom), (OW, left, right) = geometry(
        x_shape, window, stride, padding, dilation, ceil_mode
    )
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    for oy, ox in np.ndindex(OH, OW):
        taps = [
            (oy * sh + ky * dh - top, ox * sw + kx * dw - left)
            for ky, kx in product(range(KH), range(KW))
        ]
        pixels = [(iy, ix) for iy, ix in taps if 0 <= iy < H and 0 <= ix < W]
        yield (oy, ox), pixels, sum(iy < H + bottom and ix < W + right for iy, ix in taps)


def pool_shape(x_shape, window, stride=None, padding="valid", dilation=1, ceil_mode=False):
    """(N, OH, OW, C)."""
    stride = window if stride is None else stride
    (OH, _, _), (OW, _, _) = geometry(x_shape, window, stride, padding, dilation, ceil_mode)
    return (x_shape[0], OH, OW, x_shape[3])


def max_pool2d(x, window, **options):
    """(y, indices): the maximum of each window and h * W + w of the pixel that holds it.

    The first NaN wins, else the first maximum, in row-major order.
    """
    y = np.zeros(pool_shape(x.shape, window, **options), x.dtype)
    indices = np.zeros(y.shape, np.int32)
    for (oy, ox), pixels, _ in pool_windows(x.shape, window, **options):
        for n, c in np.ndindex(x.shape[0], x.shape[3]):
            winner = pixels[0]
            for pixel in pixels[1:]:
                best, value = x.item(n, *winner, c), x.item(n, *pixel, c)
                if value > best or (math.isnan(value) and not math.isnan(best)):
                    winner = pixel
            y[n, oy, ox, c] = x[n, *winner, c]
            indices[n, oy, ox, c] = winner[0] * x.shape[2] + winner[1]
    return y, indices


def max_pool2d_backward(dy, indices, x_shape):
    """dx: every dy goes to the pixel that won its window."""
    dx = np.zeros(x_shape)
    for n, oy, ox, c in np.ndindex(dy.shape):
        iy, ix = divmod(indices.item(n, oy, ox, c), x_shape[2])
        dx[n, iy, ix, c] = dx.item(n, iy, ix, c) + dy.item(n, oy, ox, c)
    return dx.astype(dy.dtype)


def avg_pool2d(x, window, *, count_include_pad=False, **options):
    """The sum of each window over its number of pixels (or of taps in image and padding)."""
    y = np.zeros(pool_shape(x.shape, window, **options))
    for (oy, ox), pixels, padded in pool_windows(x.shape, window, **options):
        for n, c in np.ndindex(x.shape[0], x.shape[3]):
            total = sum(x.item(n, iy, ix, c) for iy, ix in pixels)
            y[n, oy, ox, c] = total / (padded if count_include_pad else len(pixels))
    return y.astype(x.dtype)


def avg_pool2d_backward(dy, x_shape, window, *, count_include_pad=False, **options):
    """dx: every dy is shared out evenly among the pixels of its window."""
    dx = np.zeros(x_shape)
    for (oy, ox), pixels, padded in pool_windows(x_shape, window, **options):
        for (n, c), (iy, ix) in product(np.ndindex(x_shape[0], x_shape[3]), pixels):
            share = dy.item(n, oy, ox, c) / (padded if count_include_pad else len(pixels))
            dx[n, iy, ix, c] = dx.item(n, iy, ix, c) + share
    return dx.astype(dy.dtype)


def global_max_pool2d(x):
    """(y, indices) of one window that is the whole image."""
    y, indices = max_pool2d(x, x.shape[1:3])
    return y[:, 0, 0], indices[:, 0, 0]


def global_avg_pool2d(x):
    """The mean of each channel."""
    return avg_pool2d(x, x.shape[1:3])[:, 0, 0]


# ------------------------------------------------------------------------------ normalization


def channel_values(x):
    """Of each channel, the last axis, its values as Python floats."""
    return [[float(v) for v in x[..., c].ravel()] for c in range(x.shape[-1])]


def batch_norm(
    x, gamma, beta, *, mean=None, var=None, epsilon=1e-3, residual=None, activation=None
):
    """(y, mean, var): y = (x - mean) / sqrt(var + epsilon) * gamma + beta + residual."""
    if mean is None:
        values = channel_values(x)
        mean = [math.fsum(v) / len(v) for v in values]
        var = [
            math.fsum((a - m) ** 2 for a in v) / len(v)
            for v, m in zip(values, mean, strict=True)
        ]
    mean, var = np.array(mean, float), np.array(var, float)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        c = index[-1]
        scale = gamma.item(c) / math.sqrt(var.item(c) + epsilon)
        y[index] = (x.item(index) - mean.item(c)) * scale + beta.item(c)
        if residual is not None:
            y[index] += residual.item(index)
    y = y.astype(x.dtype)
    return relu(y) if activation == "relu" else y, mean.astype(x.dtype), var.astype(x.dtype)


def batch_norm_backward(dy, x, gamma, mean, var, *, epsilon=1e-3, y=None):
    """(dx, dgamma, dbeta, dresidual); with y, of a ReLU's output, dy counts where y > 0 alone."""
    g, n = np.zeros(x.shape), np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        c = index[-1]
        g[index] = 0.0 if y is not None and y.item(index) <= 0 else dy.item(index)
        n[index] = (x.item(index) - float(mean[c])) / math.sqrt(float(var[c]) + epsilon)
    dbeta = [math.fsum(values) for values in channel_values(g)]
    dgamma = [math.fsum(values) for values in channel_values(g * n)]
    dx, pixels = np.zeros(x.shape), x.size // x.shape[-1]
    for index in np.ndindex(x.shape):
        c = index[-1]
        rest = g.item(index) - dbeta[c] / pixels - n.item(index) * dgamma[c] / pixels
        dx[index] = gamma.item(c) / math.sqrt(float(var[c]) + epsilon) * rest
    return tuple(np.array(array).astype(x.dtype) for array in (dx, dgamma, dbeta, g))


# -------------------------------------------------------------- dense layers, losses, updates


def dense(x, w, b=None, *, activation=None):
    """y[n, o] = b[o] + the sum of x[n, i] * w[i, o]."""
    y = np.zeros((x.shape[0], w.shape[1]))
    for n, o in np.ndindex(y.shape):
        total = sum(x.item(n, i) * w.item(i, o) for i in range(x.shape[1]))
        y[n, o] = total if b is None else total + b.item(o)
    y = y.astype(x.dtype)
    return relu(y) if activation == "relu" else y


def dense_backward(dy, x, w):
    """(dx, dw, db) of `dense`."""
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[1])
    for n, o in np.ndindex(dy.shape):
        db[o] = db.item(o) + dy.item(n, o)
        for i in range(x.shape[1]):
            dx[n, i] = dx.item(n, i) + dy.item(n, o) * w.item(i, o)
            dw[i, o] = dw.item(i, o) + dy.item(n, o) * x.item(n, i)
    return dx.astype(x.dtype), dw.astype(x.dtype), db.astype(x.dtype)


def relu(x):
    """The larger of x and 0; a NaN stays."""
    y = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        y[index] = 0.0 if x.item(index) < 0 else x.item(index)
    return y


def elementwise(f, *arrays):
    """f of the numbers of each place."""
    y = np.zeros(arrays[0].shape)
    for index in np.ndindex(y.shape):
        y[index] = f(*(array.item(index) for array in arrays))
    return y.astype(arrays[0].dtype)


def leaky_relu(x, negative_slope=0.2):
    return elementwise(lambda v: v if v > 0 else negative_slope * v, x)


def leaky_relu_backward(dy, y, negative_slope=0.2):
    return elementwise(lambda g, v: negative_slope * g if v <= 0 else g, dy, y)


def elu(x, alpha=1.0):
    return elementwise(lambda v: v if v > 0 else alpha * math.expm1(v), x)


def elu_backward(dy, y, alpha=1.0):
    return elementwise(lambda g, v: (v + alpha) * g if v <= 0 else g, dy, y)


def sigmoid(x):
    """1 / (1 + exp(-x)), by exp(x) / (1 + exp(x)) below 0, where the former would overflow."""
    return elementwise(
        lambda v: math.exp(v) / (1 + math.exp(v)) if v < 0 else 1 / (1 + math.exp(-v)), x
    )


def sigmoid_backward(dy, y):
    return elementwise(lambda g, v: g * v * (1 - v), dy, y)


def tanh(x):
    return elementwise(math.tanh, x)


def tanh_backward(dy, y):
    return elementwise(lambda g, v: g * (1 - v * v), dy, y)


def philox(counter, key):
    """Philox 4x32-10 of a counter and a key of 64 bits: four words of 32 bits."""
    words = [counter % 2**32, counter >> 32, 0, 0]
    k0, k1 = key % 2**32, key >> 32
    for _ in range(10):
        a, b = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [(b >> 32) ^ words[1] ^ k0, b % 2**32, (a >> 32) ^ words[3] ^ k1, a % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return words


def dropout(x, rate, seed):
    """0 where the draw of an element is below rate * 2^32, else x / (1 - rate).

    Elements are taken 64 at a time: 16 counters give them a word each, then a second one, ...
    """
    flat, y = x.ravel(), np.zeros(x.size)
    scale = x.dtype.type(1 / (1 - rate)).item()
    for i in range(x.size):
        block, place = divmod(i, 64)
        if philox(16 * block + place % 16, seed)[place // 16] >= int(rate * 2**32):
            y[i] = flat.item(i) * scale
    return y.astype(x.dtype).reshape(x.shape)


def softmax(logits):
    """exp(z - max z) over its sum, row by row."""
    y = np.zeros(logits.shape)
    for n in range(logits.shape[0]):
        row = logits[n].tolist()
        powers = [math.exp(z - max(row)) for z in row]
        y[n] = [power / math.fsum(powers) for power in powers]
    return y.astype(logits.dtype)


def softmax_backward(dy, y):
    """y (dy - the sum of dy * y), row by row."""
    dx = np.zeros(y.shape)
    for n in range(y.shape[0]):
        total = math.fsum(g * p for g, p in zip(dy[n].tolist(), y[n].tolist(), strict=True))
        dx[n] = [p * (g - total) for g, p in zip(dy[n].tolist(), y[n].tolist(), strict=True)]
    return dx.astype(y.dtype)


def softmax_cross_entropy(
    logits, labels, *, label_smoothing=0.0, class_weight=None, sample_weight=None
):
    """(loss, dlogits): the mean of weight * sum(t (log(sum(exp(z))) - z)), and its gradient.

    `labels` are class numbers or rows t; `class_weight` has C numbers, `sample_weight` N.
    """
    N, C = logits.shape
    loss, dlogits = 0.0, np.zeros(logits.shape)
    for n in range(N):
        row = logits[n].tolist()
        t = labels[n].tolist() if labels.ndim == 2 else [float(k == labels[n]) for k in range(C)]
        weight = 1.0 if sample_weight is None else float(sample_weight[n])
        if class_weight is not None:
            weight *= float(class_weight[t.index(max(t))])
        t = [(1 - label_smoothing) * p + label_smoothing / C for p in t]
        powers = [math.exp(z - max(row)) for z in row]
        whole = max(row) + math.log(math.fsum(powers))
        loss += weight * math.fsum(p * (whole - z) for p, z in zip(t, row, strict=True)) / N
        for k, power in enumerate(powers):
            slope = power / math.fsum(powers) * math.fsum(t) - t[k]
            dlogits[n, k] = weight * slope / N
    return loss, dlogits.astype(logits.dtype)


def binary_cross_entropy(logits, labels, *, label_smoothing=0.0, sample_weight=None):
    """(loss, dlogits): the mean of weight * (-t log(p) - (1 - t) log(1 - p)), p the sigmoid."""
    loss, dlogits = 0.0, np.zeros(logits.shape)
    for index in np.ndindex(logits.shape):
        z = logits.item(index)
        t = (1 - label_smoothing) * float(labels[index]) + label_smoothing / 2
        weight = 1.0 if sample_weight is None else float(sample_weight[index[0]])
        # -log(p) = log(1 + exp(-z)), and -log(1 - p) = log(1 + exp(z))
        small = math.log1p(math.exp(-abs(z)))
        loss += weight * (t * (max(-z, 0) + small) + (1 - t) * (max(z, 0) + small)) / logits.size
        p = 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))
        dlogits[index] = weight * (p - t) / logits.size
    return loss, dlogits.astype(logits.dtype)


def mean_squared_error(y, targets, *, sample_weight=None):
    """(loss, dy): the mean of weight * (y - targets)^2, and 2 weight (y - targets) / size."""
    loss, dy = 0.0, np.zeros(y.shape)
    for index in np.ndindex(y.shape):
        difference = y.item(index) - float(targets[index])
        weight = 1.0 if sample_weight is None else float(sample_weight[index[0]])
        loss += weight * difference * difference / y.size
        dy[index] = 2 * weight * difference / y.size
    return loss, dy.astype(y.dtype)


def adam_step(
    param, grad, m, v, *, step, learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7, weight_decay=0.0
):
    """(param, m, v) after one step of Adam, epsilon outside the corrected root (TensorFlow 1).

    With decay, a share of each parameter is taken off first (AdamW).
    """
    rate = learning_rate * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    param, m, v = param.astype(float), m.astype(float), v.astype(float)
    for i, g in enumerate(grad.tolist()):
        m[i] = beta_1 * m.item(i) + (1 - beta_1) * g
        v[i] = beta_2 * v.item(i) + (1 - beta_2) * g * g
        param[i] = param.item(i) - learning_rate * weight_decay * param.item(i)
        param[i] = param.item(i) - rate * m.item(i) / (math.sqrt(v.item(i)) + epsilon)
    return tuple(array.astype(grad.dtype) for array in (param, m, v))


def sgd_step(param, grad, velocity, *, learning_rate, momentum=0.0, nesterov=False):
    """(param, velocity) after one step of gradient descent (Keras's formula)."""
    param, velocity = param.astype(float), velocity.astype(float)
    for i, g in enumerate(grad.tolist()):
        velocity[i] = momentum * velocity.item(i) - learning_rate * g
        move = momentum * velocity.item(i) - learning_rate * g if nesterov else velocity.item(i)
        param[i] = param.item(i) + move
    return param.astype(grad.dtype), velocity.astype(grad.dtype)


def rmsprop_step(param, grad, v, velocity, *, learning_rate, rho=0.9, momentum=0.0, epsilon=1e-7):
    """(param, v, velocity) after one step of RMSprop, epsilon under the root (Keras's formula)."""
    param, v, velocity = param.astype(float), v.astype(float), velocity.astype(float)
    for i, g in enumerate(grad.tolist()):
        v[i] = rho * v.item(i) + (1 - rho) * g * g
        velocity[i] = momentum * velocity.item(i) + learning_rate * g / math.sqrt(v.item(i) + epsilon)
        param[i] = param.item(i) - velocity.item(i)
    return tuple(array.astype(grad.dtype) for array in (param, v, velocity))
