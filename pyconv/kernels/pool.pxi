# Max and average pooling, a row of outputs at a time, in two passes: down the window's rows (over
# whole image rows, vectors along W and C together), then along its columns. A window of KH x KW
# costs KH + KW operations an element. What lies outside the image is left out, never read.

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

cdef struct Window:  # one pooling problem; (h, w) pairs as in geometry.PoolGeometry
    Py_ssize_t N, H, W, C, OH, OW, KH, KW
    Py_ssize_t stride_h, stride_w, dilation_h, dilation_w, top, left
    Py_ssize_t padded_h, padded_w  # image and padding together; to count elements
    bint include_pad


cdef Window window_of(tuple x, tuple y, tuple kernel, tuple stride, tuple dilation, tuple pads,
                      bint include_pad):
    cdef Window g
    g.N, g.H, g.W, g.C = x
    g.OH, g.OW = y[1:3]
    g.KH, g.KW = kernel
    g.stride_h, g.stride_w = stride
    g.dilation_h, g.dilation_w = dilation
    (g.top, bottom), (g.left, right) = pads
    g.padded_h, g.padded_w = g.H + g.top + bottom, g.W + g.left + right
    g.include_pad = include_pad
    return g


cdef inline Py_ssize_t first_inside(Py_ssize_t start, Py_ssize_t dilation) noexcept nogil:
    """The first k with start + k * dilation >= 0."""
    return 0 if start >= 0 else (-start + dilation - 1) // dilation


cdef inline Py_ssize_t end_inside(Py_ssize_t start, Py_ssize_t dilation, Py_ssize_t K,
                                  Py_ssize_t size) noexcept nogil:
    """One past the last k < K with start + k * dilation < size."""
    return max(0, min(K, (size - 1 - start + dilation) // dilation)) if start < size else 0


cdef inline Py_ssize_t count_inside(Py_ssize_t start, Py_ssize_t dilation, Py_ssize_t K,
                                    Py_ssize_t before, Py_ssize_t size, Py_ssize_t padded,
                                    bint include_pad) noexcept nogil:
    """Elements of one axis of a window that average pooling divides by."""
    if include_pad:
        return end_inside(start + before, dilation, K, padded)
    return end_inside(start, dilation, K, size) - first_inside(start, dilation)


# ------------------------------------------------------------------------------------------ maximum

cdef void max_down(const real* x, Py_ssize_t line, Py_ssize_t W, Py_ssize_t row, Py_ssize_t rows,
                   Py_ssize_t dilation, vec* best, ivec* where) noexcept nogil:
    """best[i] = the maximum of x[h, i] over `rows` rows h from `row` on; where[i] = its h * W."""
    cdef Py_ssize_t k, i, h
    cdef const real* p
    cdef vec v
    cdef ivec take, place
    for k in range(rows):
        h = row + k * dilation
        p = x + h * line
        place = ivec_set(h * W)
        for i in range((line + VL - 1) // VL):
            v = load_part(p + i * VL, line - i * VL)
            if k == 0:
                best[i], where[i] = v, place
            else:
                take = beats(v, best[i])
                best[i] = vec_where(take, v, best[i])
                where[i] = ivec_where(take, place, where[i])


cdef struct Row:  # the parts of a thread's workspace for one row of outputs
    vec* best       # the maximum down each column, for each (w, c)
    ivec* where     # h * W of it
    real* y
    whole* places


cdef Row row_in(const Window* g, char* scratch) noexcept nogil:
    cdef Row row
    cdef Py_ssize_t padded = (g.W * g.C + 2 * VL) // VL
    row.best = <vec*> scratch
    row.where = <ivec*> (row.best + padded)
    row.y = <real*> (row.where + padded)
    row.places = <whole*> (row.y + (g.OW * g.C + 2 * VL) // VL * VL)
    return row


cdef void max_row(const Window* g, const real* x, real* y, int32_t* indices,
                  Py_ssize_t oh, char* scratch) noexcept nogil:
    """One row of outputs of the image x, and the winners' places h * W + w."""
    cdef Row row = row_in(g, scratch)
    cdef Py_ssize_t start = oh * g.stride_h - g.top
    cdef Py_ssize_t first = first_inside(start, g.dilation_h)
    max_down(x, g.W * g.C, g.W, start + first * g.dilation_h,
             end_inside(start, g.dilation_h, g.KH, g.H) - first, g.dilation_h, row.best, row.where)
    max_across(g, &row, y, indices)


cdef void max_across(const Window* g, const Row* row, real* y,
                     int32_t* indices) noexcept nogil:
    """The second pass: the row's outputs from the columns' maxima."""
    cdef Py_ssize_t i
    for i in range(g.OW):
        max_along(g, <real*> row.best, <whole*> row.where, i, row.y, row.places)
    memcpy(y, row.y, g.OW * g.C * sizeof(real))
    if indices != NULL:
        for i in range(g.OW * g.C):
            indices[i] = <int32_t> row.places[i]


cdef void max_image_row(const Window* g, const real* x, real* y, int32_t* indices,
                        Py_ssize_t item, char* scratch) noexcept nogil:
    cdef Py_ssize_t row = item * g.OW * g.C
    max_row(g, x + item // g.OH * g.H * g.W * g.C, y + row,
            NULL if indices == NULL else indices + row, item % g.OH, scratch)


cdef inline void max_along(const Window* g, const real* best, const whole* where, Py_ssize_t ow,
                           real* y_row, whole* places) noexcept nogil:
    """One output pixel from the rows' maxima. Lanes behind C are overwritten by the next pixel."""
    cdef Py_ssize_t start = ow * g.stride_w - g.left
    cdef Py_ssize_t first = first_inside(start, g.dilation_w)
    cdef Py_ssize_t end = end_inside(start, g.dilation_w, g.KW, g.W)
    cdef Py_ssize_t c, k, at
    cdef vec m, v
    cdef ivec j, i, take
    for c in range((g.C + VL - 1) // VL):
        at = (start + first * g.dilation_w) * g.C + c * VL
        m = (<const vec*> (best + at))[0]
        j = (<const ivec*> (where + at))[0] + ivec_set(start + first * g.dilation_w)
        for k in range(first + 1, end):
            at += g.dilation_w * g.C
            v = (<const vec*> (best + at))[0]
            i = (<const ivec*> (where + at))[0] + ivec_set(start + k * g.dilation_w)
            take = beats_at(v, i, m, j)
            m = vec_where(take, v, m)
            j = ivec_where(take, i, j)
        (<vec*> (y_row + ow * g.C + c * VL))[0] = m
        (<ivec*> (places + ow * g.C + c * VL))[0] = j


cdef Py_ssize_t max_scratch(const Window* g) noexcept nogil:
    """Bytes that `max_row` needs."""
    return 2 * sizeof(real) * (g.W * g.C + g.OW * g.C + 6 * VL) // 64 * 64 + 64


def max_pool(const real[:, :, :, ::1] x, real[:, :, :, ::1] y, int32_t[:, :, :, ::1] indices,
             tuple kernel, tuple stride, tuple dilation, tuple pads, Workspace scratch,
             int num_threads):
    """Fill y, and `indices` unless it is None."""
    cdef Window g = window_of((<object> x).shape, (<object> y).shape, kernel, stride, dilation, pads,
                              False)
    cdef Py_ssize_t item, items = g.N * g.OH
    cdef Py_ssize_t size = max_scratch(&g)
    cdef int threads = num_threads if items * g.W * g.C * g.KH > ITEM_WORK // 8 else 1
    cdef char* memory
    cdef const real* source
    if items == 0:
        return
    memory = <char*> scratch.take(threads * size // <Py_ssize_t> sizeof(real))
    source = &x[0, 0, 0, 0]
    cdef real* target = &y[0, 0, 0, 0]
    cdef int32_t* places = NULL if indices is None else &indices[0, 0, 0, 0]
    for item in prange(items, schedule="dynamic", chunksize=4, num_threads=threads, nogil=True):
        max_image_row(&g, source, target, places, item, memory + threadid() * size)


def indices_fit(const int32_t[:, :, :, ::1] indices, Py_ssize_t least, Py_ssize_t size):
    """Whether every index lies in least .. size - 1."""
    cdef Py_ssize_t i, count = indices.size
    cdef bint bad = False
    cdef const int32_t* p
    if count:
        p = &indices[0, 0, 0, 0]
        for i in range(count):
            bad |= p[i] < least or p[i] >= size
    return not bad


cdef void max_back(const real* dy, const int32_t* indices, real* dx, Py_ssize_t C,
                   Py_ssize_t pixels, Py_ssize_t outputs, Py_ssize_t c0,
                   Py_ssize_t c1) noexcept nogil:
    """Channels c0 to c1 of one image: each gradient goes to the place that won."""
    cdef Py_ssize_t i, c
    if c0 == 0 and c1 == C:
        memset(dx, 0, pixels * C * sizeof(real))
    else:
        for i in range(pixels):
            memset(dx + i * C + c0, 0, (c1 - c0) * sizeof(real))
    for i in range(outputs):
        for c in range(c0, c1):
            if indices[i * C + c] >= 0:  # -1: ReLU cut the winner off
                dx[indices[i * C + c] * C + c] += dy[i * C + c]


cdef max_pool_back(const real* dy, const int32_t* indices, real* dx, Py_ssize_t N,
                   Py_ssize_t pixels, Py_ssize_t outputs, Py_ssize_t C, int num_threads):
    """Fill dx; a work item is an image, or in small batches 16 of its channels."""
    cdef Py_ssize_t chunk = C if N >= ITEMS else min(C, 16)
    cdef Py_ssize_t chunks = (C + chunk - 1) // chunk
    cdef Py_ssize_t item
    cdef int threads = num_threads if N * pixels * C > ITEM_WORK // 8 else 1
    for item in prange(N * chunks, schedule="dynamic", num_threads=threads, nogil=True):
        max_back(dy + item // chunks * outputs * C, indices + item // chunks * outputs * C,
                 dx + item // chunks * pixels * C, C, pixels, outputs,
                 item % chunks * chunk, min(item % chunks * chunk + chunk, C))


def max_pool_backward(const real[:, :, :, ::1] dy, const int32_t[:, :, :, ::1] indices,
                      real[:, :, :, ::1] dx, int num_threads):
    """Fill dx."""
    if dx.size and dy.size:
        max_pool_back(&dy[0, 0, 0, 0], &indices[0, 0, 0, 0], &dx[0, 0, 0, 0], dx.shape[0],
                      dx.shape[1] * dx.shape[2], dy.shape[1] * dy.shape[2], dx.shape[3], num_threads)


# ------------------------------------------------------------------------------------------ average

cdef void average_row(const Window* g, const real* x, real* y, Py_ssize_t item,
                      char* scratch) noexcept nogil:
    """One row of outputs."""
    cdef Py_ssize_t n = item // g.OH, oh = item % g.OH
    cdef Py_ssize_t line = g.W * g.C
    cdef vec* total = <vec*> scratch               # the rows' sum, for each (w, c)
    cdef real* y_row = <real*> (total + (line + 2 * VL) // VL)
    cdef Py_ssize_t start = oh * g.stride_h - g.top
    cdef Py_ssize_t rows = count_inside(start, g.dilation_h, g.KH, g.top, g.H, g.padded_h,
                                        g.include_pad)
    cdef Py_ssize_t first = first_inside(start, g.dilation_h)
    cdef Py_ssize_t h, i
    cdef const real* row
    for h in range(first, end_inside(start, g.dilation_h, g.KH, g.H)):
        row = x + (n * g.H + start + h * g.dilation_h) * line
        for i in range((line + VL - 1) // VL):
            if h == first:
                total[i] = load_part(row + i * VL, line - i * VL)
            else:
                total[i] = total[i] + load_part(row + i * VL, line - i * VL)
    for i in range(g.OW):
        average_along(g, <real*> total, i, rows, y_row)
    memcpy(y + item * g.OW * g.C, y_row, g.OW * g.C * sizeof(real))


cdef inline void average_along(const Window* g, const real* total, Py_ssize_t ow, Py_ssize_t rows,
                               real* y_row) noexcept nogil:
    """One output pixel from the rows' sums. Lanes behind C are overwritten by the next pixel."""
    cdef Py_ssize_t start = ow * g.stride_w - g.left
    cdef Py_ssize_t first = first_inside(start, g.dilation_w)
    cdef Py_ssize_t end = end_inside(start, g.dilation_w, g.KW, g.W)
    cdef real count = rows * count_inside(start, g.dilation_w, g.KW, g.left, g.W, g.padded_w,
                                          g.include_pad)
    cdef Py_ssize_t c, k, at
    cdef vec s
    for c in range((g.C + VL - 1) // VL):
        at = (start + first * g.dilation_w) * g.C + c * VL
        s = (<const vec*> (total + at))[0]
        for k in range(first + 1, end):
            at += g.dilation_w * g.C
            s = s + (<const vec*> (total + at))[0]
        (<vec*> (y_row + ow * g.C + c * VL))[0] = s / vec_set(count)


def average_pool(const real[:, :, :, ::1] x, real[:, :, :, ::1] y, tuple kernel, tuple stride,
                 tuple dilation, tuple pads, bint include_pad, Workspace scratch, int num_threads):
    """Fill y."""
    cdef Window g = window_of((<object> x).shape, (<object> y).shape, kernel, stride, dilation, pads,
                              include_pad)
    cdef Py_ssize_t item, items = g.N * g.OH
    cdef Py_ssize_t size = sizeof(real) * (g.W * g.C + g.OW * g.C + 6 * VL) // 64 * 64 + 64
    cdef int threads = num_threads if items * g.W * g.C * g.KH > ITEM_WORK // 8 else 1
    cdef char* memory
    cdef const real* source
    if items == 0:
        return
    memory = <char*> scratch.take(threads * size // <Py_ssize_t> sizeof(real))
    source = &x[0, 0, 0, 0]
    cdef real* target = &y[0, 0, 0, 0]
    for item in prange(items, schedule="dynamic", chunksize=4, num_threads=threads, nogil=True):
        average_row(&g, source, target, item, memory + threadid() * size)


cdef void average_back(const Window* g, const real* dy, real* dx, Py_ssize_t item,
                       real* sums) noexcept nogil:
    """One row of dx: what each window that covers a pixel gave it."""
    cdef Py_ssize_t n = item // g.H, h = item % g.H
    cdef Py_ssize_t k, oh, ow, w, i, start, rows, columns
    cdef const real* row
    cdef real* to
    memset(sums, 0, g.OW * g.C * sizeof(real))
    dx += item * g.W * g.C
    memset(dx, 0, g.W * g.C * sizeof(real))
    for k in range(g.KH):
        oh = h + g.top - k * g.dilation_h
        if oh < 0 or oh % g.stride_h != 0 or oh // g.stride_h >= g.OH:
            continue
        oh = oh // g.stride_h
        rows = count_inside(oh * g.stride_h - g.top, g.dilation_h, g.KH, g.top, g.H, g.padded_h,
                            g.include_pad)
        row = dy + (n * g.OH + oh) * g.OW * g.C
        for i in range(g.OW * g.C):
            sums[i] += row[i] / <real> rows
    for ow in range(g.OW):
        start = ow * g.stride_w - g.left
        columns = count_inside(start, g.dilation_w, g.KW, g.left, g.W, g.padded_w, g.include_pad)
        row = sums + ow * g.C
        for k in range(first_inside(start, g.dilation_w),
                       end_inside(start, g.dilation_w, g.KW, g.W)):
            to = dx + (start + k * g.dilation_w) * g.C
            for i in range(g.C):
                to[i] += row[i] / <real> columns


def average_pool_backward(const real[:, :, :, ::1] dy, real[:, :, :, ::1] dx, tuple kernel,
                          tuple stride, tuple dilation, tuple pads, bint include_pad,
                          Workspace scratch, int num_threads):
    """Fill dx."""
    cdef Window g = window_of((<object> dx).shape, (<object> dy).shape, kernel, stride, dilation,
                              pads, include_pad)
    cdef Py_ssize_t item, items = g.N * g.H
    cdef Py_ssize_t size = (g.OW * g.C + 31) // 16 * 16
    cdef int threads = num_threads if items * g.W * g.C > ITEM_WORK // 8 else 1
    cdef real* memory
    if items * g.W * g.C == 0:
        return
    memory = scratch.take(threads * size)
    cdef const real* source = &dy[0, 0, 0, 0]
    cdef real* target = &dx[0, 0, 0, 0]
    for item in prange(items, schedule="dynamic", chunksize=4, num_threads=threads, nogil=True):
        average_back(&g, source, target, item, memory + threadid() * size)
