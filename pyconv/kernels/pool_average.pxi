# Average pooling, a row of outputs at a time, in one pass or two as max pooling. Both add down the
# window's columns first, then these sums, so that they agree in every bit.
#
# Going back, dy / count is summed over the rows of windows that cover a row of dx, then over the
# windows of these that cover each pixel. Rows that the same windows cover are copies.

from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

cdef inline bint power_of_2(Py_ssize_t count) noexcept nogil:
    return count & (count - 1) == 0


cdef inline vec over(vec a, Py_ssize_t count) noexcept nogil:
    """a / count; the inverse of a power of 2 is exact, and quicker."""
    return a * vec_set(1 / <real> count) if power_of_2(count) else a / vec_set(<real> count)


# ------------------------------------------------------------------------------------------ forward

cdef inline inlined average_tile(
    const Py_ssize_t nv, const real* x, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t down,
    Py_ssize_t right, Py_ssize_t count, real* y,
) noexcept nogil:
    """`nv` vectors of one window's average; x is its first pixel inside the image."""
    cdef vec[2] total, column
    cdef Py_ssize_t i, h, w
    for i in range(nv):
        total[i] = vec_set(0)
    for w in range(columns):
        for i in range(nv):
            column[i] = (<const vec*> (x + w * right + i * VL))[0]
        for h in range(1, rows):
            for i in range(nv):
                column[i] = column[i] + (<const vec*> (x + h * down + w * right + i * VL))[0]
        for i in range(nv):
            total[i] = column[i] if w == 0 else total[i] + column[i]
    for i in range(nv):
        (<vec*> (y + i * VL))[0] = over(total[i], count)


cdef inline inlined average_tiles(
    const real* x, Py_ssize_t C, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t down,
    Py_ssize_t right, Py_ssize_t count, real* y,
) noexcept nogil:
    """One window, all channels; the last vector ends with C, over lanes that are there already."""
    cdef Py_ssize_t c = 0
    while c + 2 * VL <= C:
        average_tile(2, x + c, rows, columns, down, right, count, y + c)
        c += 2 * VL
    while c < C:
        c = min(c, C - VL)
        average_tile(1, x + c, rows, columns, down, right, count, y + c)
        c += VL


cdef inline Py_ssize_t rows_counted(const Window* g, Py_ssize_t oh) noexcept nogil:
    return count_inside(oh * g.stride_h - g.top, g.dilation_h, g.KH, g.top, g.H, g.padded_h,
                        g.include_pad)


cdef inline Py_ssize_t columns_counted(const Window* g, Py_ssize_t ow) noexcept nogil:
    return count_inside(ow * g.stride_w - g.left, g.dilation_w, g.KW, g.left, g.W, g.padded_w,
                        g.include_pad)


cdef void average_row(const Window* g, const real* x, real* y, Py_ssize_t item,
                      char* scratch) noexcept nogil:
    """One row of outputs."""
    cdef Py_ssize_t oh = item % g.OH, line = g.W * g.C
    cdef Py_ssize_t down = g.dilation_h * line, right = g.dilation_w * g.C
    cdef Py_ssize_t counted = rows_counted(g, oh), count, ow, i, h
    cdef Span rows = rows_of(g, oh), columns
    cdef vec* total = <vec*> scratch               # the rows' sum, for each (w, c)
    cdef real* y_row = <real*> (total + (line + 2 * VL) // VL)
    cdef vec v
    x += (item // g.OH * g.H + rows.start) * line
    y += item * g.OW * g.C
    if in_one_pass(g):
        for ow in range(g.OW):
            columns = columns_of(g, ow)
            count = counted * columns_counted(g, ow)
            if rows.count == 2 and columns.count == 2:  # constants: no loops
                average_tiles(x + columns.start * g.C, g.C, 2, 2, down, right, count, y)
            elif rows.count == 3 and columns.count == 3:
                average_tiles(x + columns.start * g.C, g.C, 3, 3, down, right, count, y)
            else:
                average_tiles(x + columns.start * g.C, g.C, rows.count, columns.count, down, right,
                              count, y)
            y += g.C
        return
    for h in range(rows.count):
        for i in range((line + VL - 1) // VL):
            v = load_part(x + h * down + i * VL, line - i * VL)
            total[i] = v if h == 0 else total[i] + v
    for ow in range(g.OW):
        average_along(g, <real*> total, ow, counted * columns_counted(g, ow), y_row)
    memcpy(y, y_row, g.OW * g.C * sizeof(real))


cdef inline void average_along(const Window* g, const real* total, Py_ssize_t ow,
                               Py_ssize_t count, real* y_row) noexcept nogil:
    """One output pixel from the rows' sums. Lanes behind C are overwritten by the next pixel."""
    cdef Span columns = columns_of(g, ow)
    cdef Py_ssize_t c, w, at
    cdef vec s
    for c in range((g.C + VL - 1) // VL):
        at = columns.start * g.C + c * VL
        s = (<const vec*> (total + at))[0]
        for w in range(1, columns.count):
            at += g.dilation_w * g.C
            s = s + (<const vec*> (total + at))[0]
        (<vec*> (y_row + ow * g.C + c * VL))[0] = over(s, count)


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


# ----------------------------------------------------------------------------------------- backward

cdef struct Cover:  # the windows along one axis that cover a pixel: first, first + step, ...
    Py_ssize_t first, step, count


cdef struct Shares:  # what going back needs to know of every row
    Window g
    Py_ssize_t band         # rows of dx of a work item
    Cover* rows             # of each h
    Cover* columns          # of each w
    vec* counts             # columns in the window, for each (ow, c)
    vec* inverses           # 1 / counts
    bint exact              # whether all counts are powers of 2


cdef void cover(Cover* covers, Py_ssize_t windows, Py_ssize_t stride, Py_ssize_t before,
                Py_ssize_t dilation, Py_ssize_t K, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t window, k
    cdef Span span
    cdef Cover* to
    memset(covers, 0, size * sizeof(Cover))
    for window in range(windows):
        span = span_of(window, stride, before, dilation, K, size)
        for k in range(span.count):
            to = covers + span.start + k * dilation
            if to.count == 0:
                to.first = window
            elif to.count == 1:
                to.step = window - to.first
            to.count += 1


cdef void share_rows(const Shares* s, const real* dy, Py_ssize_t oh, bint first,
                     vec* sums) noexcept nogil:
    """sums = dy / count, or += that, for one row of windows; dy is its row."""
    cdef Py_ssize_t i, line = s.g.OW * s.g.C, rows = rows_counted(&s.g, oh)
    cdef bint exact = s.exact and power_of_2(rows)
    cdef vec scale = vec_set(1 / <real> rows if exact else <real> rows)
    cdef vec v
    for i in range((line + VL - 1) // VL):
        v = load_part(dy + i * VL, line - i * VL)
        if exact:
            v = v * (scale * s.inverses[i])
        else:
            v = v / (scale * s.counts[i])
        sums[i] = v if first else sums[i] + v


cdef void average_back(const Shares* s, const real* dy, real* dx, Py_ssize_t item,
                       real* sums) noexcept nogil:
    """A band of rows of dx."""
    cdef const Window* g = &s.g
    cdef Py_ssize_t bands = (g.H + g.top + s.band - 1) // s.band
    cdef Py_ssize_t n = item // bands, start = item % bands * s.band - g.top
    cdef Py_ssize_t line = g.W * g.C, h, j, w
    cdef real* row = sums + (g.OW * g.C + 2 * VL) // VL * VL
    cdef const Cover* windows
    cdef const Cover* before
    for h in range(max(0, start), min(g.H, start + s.band)):
        windows = s.rows + h
        before = windows - 1
        if (h == max(0, start) or windows.first != before.first
                or windows.count != before.count):
            for j in range(windows.count):
                share_rows(s, dy + (n * g.OH + windows.first + j * windows.step) * g.OW * g.C,
                           windows.first + j * windows.step, j == 0, <vec*> sums)
            for w in range(g.W):
                spread(s.columns + w, sums, g.C, windows.count == 0, row + w * g.C)
        memcpy(dx + (n * g.H + h) * line, row, line * sizeof(real))


cdef inline void spread(const Cover* windows, const real* sums, Py_ssize_t C, bint nothing,
                        real* to) noexcept nogil:
    """One pixel of dx. Lanes behind C are overwritten by the next pixel."""
    cdef Py_ssize_t c, j, at
    cdef vec v
    for c in range((C + VL - 1) // VL):
        v = vec_set(0)
        if windows.count > 0 and not nothing:
            at = windows.first * C + c * VL
            v = (<const vec*> (sums + at))[0]
            for j in range(1, windows.count):
                at += windows.step * C
                v = v + (<const vec*> (sums + at))[0]
        (<vec*> (to + c * VL))[0] = v


def average_pool_backward(const real[:, :, :, ::1] dy, real[:, :, :, ::1] dx, tuple kernel,
                          tuple stride, tuple dilation, tuple pads, bint include_pad,
                          Workspace scratch, int num_threads):
    """Fill dx."""
    cdef Shares s
    cdef Window* g = &s.g
    cdef Py_ssize_t item, items, size, line, table, i, count
    cdef int threads
    cdef real* memory
    cdef real* work
    s.g = window_of((<object> dx).shape, (<object> dy).shape, kernel, stride, dilation, pads,
                    include_pad)
    if g.N * g.H * g.W * g.C == 0:
        return
    threads = num_threads if g.N * g.H * g.W * g.C > ITEM_WORK // 8 else 1
    line = (g.OW * g.C + 2 * VL) // VL * VL
    size = (line + g.W * g.C + 2 * VL + 31) // 16 * 16
    table = (g.H + g.W) * <Py_ssize_t> sizeof(Cover) // <Py_ssize_t> sizeof(real)
    memory = scratch.take(2 * line + table + threads * size)
    s.counts, s.inverses = <vec*> memory, <vec*> (memory + line)
    s.rows = <Cover*> (memory + 2 * line)
    s.columns = s.rows + g.H
    work = memory + 2 * line + table
    cover(s.rows, g.OH, g.stride_h, g.top, g.dilation_h, g.KH, g.H)
    cover(s.columns, g.OW, g.stride_w, g.left, g.dilation_w, g.KW, g.W)
    s.exact = True
    for i in range(line):
        count = columns_counted(g, i // g.C) if i < g.OW * g.C else 1
        memory[i], memory[line + i] = count, 1 / <real> count
        s.exact = s.exact and power_of_2(count)
    s.band = min(g.stride_h, 8)  # rows that the same windows cover, and more than one item an image
    items = g.N * ((g.H + g.top + s.band - 1) // s.band)
    cdef const real* source = &dy[0, 0, 0, 0]
    cdef real* target = &dx[0, 0, 0, 0]
    for item in prange(items, schedule="dynamic", chunksize=2, num_threads=threads, nogil=True):
        average_back(&s, source, target, item, work + threadid() * size)
