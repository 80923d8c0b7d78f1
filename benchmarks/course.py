"""The assignment's functions on the kernels, against the assignment's own loops.

Ten images 64x64x3, eight 4x4 filters, float64. Each result is checked against the loops, then both
are timed: the loops once, on all ten images; `pyconv.course` as the best of 200 runs.

    python benchmarks/course.py
"""

import sys
from time import perf_counter

import numpy as np

import pyconv
from pyconv import course

REQUIRED_RATIO = 1000


# The loops, as the assignment has its readers write them, with one change: `b.item()` where it says
# `float(b)`, which newer NumPy refuses for an array with axes.


def loop_conv_single_step(a_slice_prev, W, b):
    s = np.multiply(a_slice_prev, W)
    Z = np.sum(s)
    return Z + b.item()


def loop_conv_forward(A_prev, W, b, hparameters):
    (m, n_H_prev, n_W_prev, _n_C_prev) = A_prev.shape
    (f, f, _n_C_prev, n_C) = W.shape
    stride = hparameters["stride"]
    pad = hparameters["pad"]
    n_H = int((n_H_prev - f + 2 * pad) / stride) + 1
    n_W = int((n_W_prev - f + 2 * pad) / stride) + 1
    Z = np.zeros((m, n_H, n_W, n_C))
    A_prev_pad = course.zero_pad(A_prev, pad)
    for i in range(m):
        a_prev_pad = A_prev_pad[i]
        for h in range(n_H):
            for w in range(n_W):
                for c in range(n_C):
                    vert_start = h * stride
                    vert_end = vert_start + f
                    horiz_start = w * stride
                    horiz_end = horiz_start + f
                    a_slice_prev = a_prev_pad[vert_start:vert_end, horiz_start:horiz_end, :]
                    Z[i, h, w, c] = loop_conv_single_step(a_slice_prev, W[..., c], b[..., c])
    return Z


def loop_conv_backward(dZ, A_prev, W, b, hparameters):
    (_m, n_H_prev, n_W_prev, n_C_prev) = A_prev.shape
    (f, f, n_C_prev, n_C) = W.shape
    stride = hparameters["stride"]
    pad = hparameters["pad"]
    (m, n_H, n_W, n_C) = dZ.shape
    dA_prev = np.zeros((m, n_H_prev, n_W_prev, n_C_prev))
    dW = np.zeros((f, f, n_C_prev, n_C))
    db = np.zeros((1, 1, 1, n_C))
    A_prev_pad = course.zero_pad(A_prev, pad)
    dA_prev_pad = course.zero_pad(dA_prev, pad)
    for i in range(m):
        a_prev_pad = A_prev_pad[i]
        da_prev_pad = dA_prev_pad[i]
        for h in range(n_H):
            for w in range(n_W):
                for c in range(n_C):
                    vert_start = h * stride
                    vert_end = vert_start + f
                    horiz_start = w * stride
                    horiz_end = horiz_start + f
                    a_slice = a_prev_pad[vert_start:vert_end, horiz_start:horiz_end, :]
                    da_prev_pad[vert_start:vert_end, horiz_start:horiz_end, :] += (
                        W[:, :, :, c] * dZ[i, h, w, c]
                    )
                    dW[:, :, :, c] += a_slice * dZ[i, h, w, c]
                    db[:, :, :, c] += dZ[i, h, w, c]
        dA_prev[i, :, :, :] = da_prev_pad[pad:-pad, pad:-pad, :]
    return dA_prev, dW, db


def loop_pool_forward(A_prev, hparameters):
    (m, n_H_prev, n_W_prev, n_C_prev) = A_prev.shape
    f = hparameters["f"]
    stride = hparameters["stride"]
    n_H = int(1 + (n_H_prev - f) / stride)
    n_W = int(1 + (n_W_prev - f) / stride)
    n_C = n_C_prev
    A = np.zeros((m, n_H, n_W, n_C))
    for i in range(m):
        for h in range(n_H):
            for w in range(n_W):
                for c in range(n_C):
                    vert_start = h * stride
                    vert_end = vert_start + f
                    horiz_start = w * stride
                    horiz_end = horiz_start + f
                    a_prev_slice = A_prev[i, vert_start:vert_end, horiz_start:horiz_end, c]
                    A[i, h, w, c] = np.max(a_prev_slice)
    return A


def loop_pool_backward(dA, A_prev, hparameters):
    stride = hparameters["stride"]
    f = hparameters["f"]
    (m, n_H, n_W, n_C) = dA.shape
    dA_prev = np.zeros(A_prev.shape)
    for i in range(m):
        a_prev = A_prev[i]
        for h in range(n_H):
            for w in range(n_W):
                for c in range(n_C):
                    vert_start = h * stride
                    vert_end = vert_start + f
                    horiz_start = w * stride
                    horiz_end = horiz_start + f
                    a_prev_slice = a_prev[vert_start:vert_end, horiz_start:horiz_end, c]
                    mask = a_prev_slice == np.max(a_prev_slice)
                    dA_prev[i, vert_start:vert_end, horiz_start:horiz_end, c] += np.multiply(
                        mask, dA[i, h, w, c]
                    )
    return dA_prev


def timed(function, *arguments):
    start = perf_counter()
    result = function(*arguments)
    return result, perf_counter() - start


def compare(name, ours, loops):
    """Print one line of the table; return how many times faster `ours` is than `loops`."""
    expected, loop_seconds = timed(loops)
    actual, _ = timed(ours)  # the first run also starts the threads
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    seconds = min(timed(ours)[1] for _ in range(200))
    ratio = loop_seconds / seconds
    print(f"{name:14} {loop_seconds * 1e3:11.1f} {seconds * 1e3:11.3f} {ratio:8,.0f}", flush=True)
    return ratio


def main():
    rng = np.random.default_rng(1)
    A_prev = rng.standard_normal((10, 64, 64, 3))
    W = rng.standard_normal((4, 4, 3, 8))
    b = rng.standard_normal((1, 1, 1, 8))
    hparameters = {"stride": 1, "pad": 2}
    pool = {"f": 4, "stride": 2}
    Z, conv_cache = course.conv_forward(A_prev, W, b, hparameters)
    dZ = rng.standard_normal(Z.shape)
    A, pool_cache = course.pool_forward(Z, pool)
    dA = rng.standard_normal(A.shape)

    info = pyconv.info()
    print(
        f"pyconv {pyconv.__version__}, {info['isa']}, {pyconv.get_num_threads()} threads, float64"
    )
    print(f"A_prev {A_prev.shape}, W {W.shape}, {hparameters}; pooling {Z.shape}, {pool}\n")
    print(f"{'function':14} {'loops, ms':>11} {'pyconv, ms':>11} {'ratio':>8}")
    ratios = {
        name: compare(name, ours, loops)
        for name, ours, loops in (
            (
                "conv_forward",
                lambda: [course.conv_forward(A_prev, W, b, hparameters)[0]],
                lambda: [loop_conv_forward(A_prev, W, b, hparameters)],
            ),
            (
                "conv_backward",
                lambda: course.conv_backward(dZ, conv_cache),
                lambda: loop_conv_backward(dZ, A_prev, W, b, hparameters),
            ),
            (
                "pool_forward",
                lambda: [course.pool_forward(Z, pool)[0]],
                lambda: [loop_pool_forward(Z, pool)],
            ),
            (
                "pool_backward",
                lambda: [course.pool_backward(dA, pool_cache)],
                lambda: [loop_pool_backward(dA, Z, pool)],
            ),
        )
    }
    reached = ratios["conv_forward"] >= REQUIRED_RATIO
    verdict = "reaches" if reached else "MISSES"
    print(f"\nAll results equal. conv_forward {verdict} {REQUIRED_RATIO:,} times.")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
