# A dense layer, or a 1x1 convolution, of very few rows: y = x @ w + b.
#
# A row alone shares its weights with no other: w is read once, where it lies, and takes all the time. Up
# to eight vectors of sums hide the latency of the multiply-add, as the pixels of a tile do elsewhere.

from cython.parallel cimport prange

cdef enum:
    ROWS_FEW = 3            # more have sums enough in a tile (see gather.pxi)
    ROW_SUMS = 8            # 4 cycles of latency, 2 multiply-adds a cycle
    ROW_ITEM = 64           # outputs: whole lines of w
    ROW_SHARED = 131_072    # weights: 512 KB come from beyond L2, for which two cores take half the time


cdef inline inlined row_tile(
    const Py_ssize_t nv, const real* x, Py_ssize_t F, const real* w, Py_ssize_t K, const real* b,
    bint relu, Py_ssize_t lanes, real* y,
) noexcept nogil:
    """y = b + the sum of x[i] * w[i], i = 0, 1, ...; `lanes` outputs in nv vectors."""
    cdef vec[ROW_SUMS] acc
    cdef vec a
    cdef Py_ssize_t i = 0, v
    # The last vector may reach into the next rows; of the last rows only what is there is read.
    cdef Py_ssize_t whole_rows = max(0, F - (nv * VL - lanes + K - 1) // K)
    for v in range(nv):
        acc[v] = vec_set(0) if b == NULL else load_part(b + v * VL, lanes - v * VL)
    while i < whole_rows:
        a = vec_set(x[i])
        for v in range(nv):
            acc[v] = acc[v] + (<const vec*> (w + i * K + v * VL))[0] * a
        i += 1
    while i < F:
        a = vec_set(x[i])
        for v in range(nv):
            acc[v] = acc[v] + load_part(w + i * K + v * VL, lanes - v * VL) * a
        i += 1
    for v in range(nv):
        store_part(y + v * VL, vec_relu(acc[v]) if relu else acc[v], lanes - v * VL)


cdef void row_outputs(const real* x, Py_ssize_t F, const real* w, Py_ssize_t K, const real* b,
                      bint relu, Py_ssize_t count, real* y) noexcept nogil:
    """`count` neighbouring outputs of a row."""
    cdef Py_ssize_t k = 0, lanes, nv
    while k < count:
        lanes = min(ROW_SUMS * VL, count - k)
        nv = (lanes + VL - 1) // VL
        if nv == 8:
            row_tile(8, x, F, w + k, K, b, relu, lanes, y + k)
        elif nv == 7:
            row_tile(7, x, F, w + k, K, b, relu, lanes, y + k)
        elif nv == 6:
            row_tile(6, x, F, w + k, K, b, relu, lanes, y + k)
        elif nv == 5:
            row_tile(5, x, F, w + k, K, b, relu, lanes, y + k)
        elif nv == 4:
            row_tile(4, x, F, w + k, K, b, relu, lanes, y + k)
        elif nv == 3:
            row_tile(3, x, F, w + k, K, b, relu, lanes, y + k)
        elif nv == 2:
            row_tile(2, x, F, w + k, K, b, relu, lanes, y + k)
        else:
            row_tile(1, x, F, w + k, K, b, relu, lanes, y + k)
        k += lanes
        if b != NULL:
            b += lanes


cdef void row_item(const real* x, Py_ssize_t F, const real* w, Py_ssize_t K, const real* b, bint relu,
                   Py_ssize_t rows, real* y, Py_ssize_t item) noexcept nogil:
    """ROW_ITEM outputs of all rows: the second one finds its weights in the cache."""
    cdef Py_ssize_t n, k = item * ROW_ITEM
    if b != NULL:
        b += k
    for n in range(rows):
        row_outputs(x + n * F, F, w + k, K, b, relu, min(ROW_ITEM, K - k), y + n * K + k)


cdef void dense_rows(const real* x, Py_ssize_t F, const real* w, Py_ssize_t K, const real* b, bint relu,
                     Py_ssize_t rows, real* y, int num_threads) noexcept nogil:
    """y (rows, K) = x (rows, F) @ w (F, K) + b, then ReLU if `relu`; `b` may be NULL."""
    cdef Py_ssize_t n, item, items = (K + ROW_ITEM - 1) // ROW_ITEM
    region_starts(F * K > ROW_SHARED)
    if F * K > ROW_SHARED:
        for item in prange(items, num_threads=num_threads):
            row_item(x, F, w, K, b, relu, rows, y, item)
            item_ends()
    else:
        for n in range(rows):
            row_outputs(x + n * F, F, w, K, b, relu, K, y + n * K)
        item_ends()
