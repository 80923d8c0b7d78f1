# Dense layers, or 1x1 convolutions, of few rows. First y = x @ w + b of very few.
#
# A row alone shares its weights with no other: w is read once, where it lies, and takes all the time. Up
# to eight vectors of sums hide the latency of the multiply-add, as the pixels of a tile do elsewhere.

from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

cdef enum:
    ROWS_FEW = 3            # more have sums enough in a tile (see gather.pxi)
    ROW_SUMS = 8            # 4 cycles of latency, 2 multiply-adds a cycle
    ROW_ITEM = 64           # outputs: whole lines of w
    BLOCK_ROWS = 128        # of x; of more, w is packed for all threads at once (gather.pxi)
    BLOCK_SUMS = 1024       # terms of a sum: 128 KB of packed weights
    OUTER_ITEM = 24         # rows of dw: whole tiles
    OUTER_NUMBERS = 16_384  # of dy
    TILE_2_MOST = 12
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


# --------------------------------------------------------------------------------------- y and dx
#
# An item packs a block of weights for itself: no thread waits for what another one has written.

cdef void block_item(const real* x, Py_ssize_t N, Py_ssize_t R, const real* w, bint turned,
                     Py_ssize_t M, const real* b, bint relu, real* y, real* packed, Py_ssize_t m,
                     Py_ssize_t lanes) noexcept nogil:
    """Outputs m to m + lanes of all rows; `packed` has room for their weights and biases."""
    cdef Py_ssize_t nv = (lanes + VL - 1) // VL
    cdef Run run = Run(0, 0)
    cdef real* bias = packed + R * nv * VL
    cdef Block tiles = Block(1, 0, 0, R, 0, M, &run, 1, R, 1, nv * VL, bias, relu, True)
    if turned:
        pack_columns(w + m * R, R, R, lanes, packed, nv * VL)
    else:
        pack_rows(w + m, M, R, lanes, packed, nv * VL)
    memset(bias, 0, nv * VL * sizeof(real))
    if b != NULL:
        memcpy(bias, b + m, lanes * sizeof(real))
    pixel_lines(N, nv, lanes, &tiles, x, packed, y + m)


cdef bint block_pays(Py_ssize_t N, Py_ssize_t R, Py_ssize_t M, bint turned) noexcept:
    """Whether to take `dense_product`: its blocks stay in L2."""
    return (TILE_1 < N <= BLOCK_ROWS and CYCLE_CHANNELS < min(R, M) and R <= BLOCK_SUMS
            and (turned or R * M <= ROW_SHARED))  # pieces of rows from beyond L2 come slowly


cdef dense_product(const real* x, Py_ssize_t N, Py_ssize_t R, const real* w, bint turned,
                   Py_ssize_t M, const real* b, bint relu, real* y, Workspace workspace,
                   int num_threads):
    """y (N, M) = x (N, R) @ w (R, M) + b, then ReLU if `relu`; `turned`: w is (M, R).

    `b` may be NULL.
    """
    cdef Py_ssize_t item, block = 2 * VL if M >= 6 * VL else VL, items = (M + block - 1) // block
    cdef int threads = team(N * R * M, num_threads)
    cdef Py_ssize_t slot = apart((R + 1) * block)
    cdef real* packed = workspace.take(threads * slot)
    region_starts(is_shared(N * R * M))
    for item in prange(items, schedule="static", num_threads=threads, nogil=True):
        block_item(x, N, R, w, turned, M, b, relu, y, packed + threadid() * slot,
                   item * block, min(block, M - item * block))
        item_ends()


# ------------------------------------------------------------------------------------------ dw, db
#
# The sums of all rows stay in registers, and nothing is copied: vectors may reach into the next row of
# dy, but not behind the last one.

cdef inline inlined outer_tile(
    const Py_ssize_t rows, const Py_ssize_t nv, const real* x, Py_ssize_t F, const real* dy,
    Py_ssize_t N, real* dw, Py_ssize_t K, Py_ssize_t lanes,
) noexcept nogil:
    """dw[f] = the sum of x[n, f] * dy[n], n = 0, 1, ...; `lanes` of nv vectors."""
    cdef vec[2 * TILE_2_MOST] acc
    cdef vec[2] d
    cdef vec a
    cdef Py_ssize_t whole_rows = max(0, N - (nv * VL - lanes + K - 1) // K)
    cdef Py_ssize_t n, f, v
    if rows * nv > SUMS:
        return
    for f in range(rows * nv):
        acc[f] = vec_set(0)
    for n in range(whole_rows):
        for v in range(nv):
            d[v] = (<const vec*> (dy + n * K + v * VL))[0]
        for f in range(rows):
            a = vec_set(x[n * F + f])
            for v in range(nv):
                acc[f * nv + v] = acc[f * nv + v] + d[v] * a
    for n in range(whole_rows, N):
        for v in range(nv):
            d[v] = load_part(dy + n * K + v * VL, lanes - v * VL)
        for f in range(rows):
            a = vec_set(x[n * F + f])
            for v in range(nv):
                acc[f * nv + v] = acc[f * nv + v] + d[v] * a
    for f in range(rows):
        for v in range(nv):
            store_part(dw + f * K + v * VL, acc[f * nv + v], lanes - v * VL)


cdef void outer_tile_of(
    Py_ssize_t rows, Py_ssize_t nv, const real* x, Py_ssize_t F, const real* dy, Py_ssize_t N, real* dw,
    Py_ssize_t K, Py_ssize_t lanes,
) noexcept nogil:
    """`outer_tile` of 12, 6, 4 or 1 rows and 1 or 2 vectors."""
    if rows == 12 and nv == 2:
        outer_tile(12, 2, x, F, dy, N, dw, K, lanes)
    elif rows == 12:
        outer_tile(12, 1, x, F, dy, N, dw, K, lanes)
    elif rows == 6 and nv == 2:
        outer_tile(6, 2, x, F, dy, N, dw, K, lanes)
    elif rows == 6:
        outer_tile(6, 1, x, F, dy, N, dw, K, lanes)
    elif rows == 4 and nv == 2:
        outer_tile(4, 2, x, F, dy, N, dw, K, lanes)
    elif rows == 4:
        outer_tile(4, 1, x, F, dy, N, dw, K, lanes)
    elif nv == 2:
        outer_tile(1, 2, x, F, dy, N, dw, K, lanes)
    else:
        outer_tile(1, 1, x, F, dy, N, dw, K, lanes)


cdef inline Py_ssize_t tile_of_few(Py_ssize_t left) noexcept nogil:
    """How many of `left` rows the next tile takes."""
    return TILE_2 if left >= TILE_2 else 6 if left >= 6 else 4 if left >= 4 else 1


cdef void outer_item(const real* x, Py_ssize_t F, const real* dy, Py_ssize_t K, Py_ssize_t N, real* dw,
                     Py_ssize_t item) noexcept nogil:
    """OUTER_ITEM rows of dw."""
    cdef Py_ssize_t k = 0, f, rows, end = min((item + 1) * OUTER_ITEM, F)
    while k < K:
        f = item * OUTER_ITEM
        while f < end:
            rows = tile_of_few(end - f)
            outer_tile_of(rows, 2 if K - k > VL else 1, x + f, F, dy + k, N, dw + f * K + k, K, K - k)
            f += rows
        k += 2 * VL


cdef void outer_or_sum(const real* x, Py_ssize_t F, const real* dy, Py_ssize_t K, Py_ssize_t N, real* dw,
                       real* db, Py_ssize_t item, Py_ssize_t items) noexcept nogil:
    """One of the items of dw, or behind them db."""
    if item < items:
        outer_item(x, F, dy, K, N, dw, item)
    elif db != NULL:
        memcpy(db, dy, K * sizeof(real))
        add_row_parts(dy + K, N - 1, K, db, K)


cdef bint outer_pays(Py_ssize_t N, Py_ssize_t F, Py_ssize_t K) noexcept:
    """Whether to take `dense_filter`: dy stays in L1 or next to it."""
    return CYCLE_CHANNELS < K and F * K <= ROW_SHARED and N * (K + 32) <= OUTER_NUMBERS


cdef dense_filter(const real* x, const real* dy, Py_ssize_t N, Py_ssize_t F, Py_ssize_t K, real* dw,
                  real* db, int num_threads):
    """dw (F, K) = the transpose of x (N, F), times dy (N, K); db = the sum of dy. Each may be NULL."""
    cdef Py_ssize_t item, items = (F + OUTER_ITEM - 1) // OUTER_ITEM if dw != NULL else 0
    cdef int threads = team(N * F * K, num_threads)
    region_starts(is_shared(N * F * K))
    for item in prange(items + 1, schedule="static", num_threads=threads, nogil=True):
        outer_or_sum(x, F, dy, K, N, dw, db, item, items)
        item_ends()
