# Average pooling, a row of outputs at a time, in one pass or two as max pooling. Both add down the
# window's columns first, then these sums, so that they agree in every bit.
#
# Going back, dy / count is summed over the rows of windows that cover a row of dx, then over the
# windows of these that cover each pixel. Rows that the same windows cover are copies.

from cython.parallel cimport parallel, threadid
from libc.string cimport memcpy, memset

cdef inline bint power_of_2(Py_ssize_t count) noexcept nogil:
    return count & (count - 1) == 0


cdef inline vec over(vec a, Py_ssize_t count) noexcept nogil:
    """a / count; the inverse of a power of 2 is exact, and quicker."""
    return a * vec_set(1 / <real> count) if power_of_2(count) else a / vec_set(<real> count)


# ------------------------------------------------------------------------------------------ forward

cdef inline inlined average_tile(
    const Py_ssize_t nv, const real* x, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t down,
    Py_ssize_t right, Py_ssize_t count, bint past, real* y,
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
        store_line(y + i * VL, over(total[i], count), past)


cdef inline inlined average_tiles(
    const real* x, Py_ssize_t C, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t down,
    Py_ssize_t right, Py_ssize_t count, bint past, real* y,
) noexcept nogil:
    """One window, all channels; the last vector ends with C, over lanes that are there already."""
    cdef Py_ssize_t c = 0
    while c + 2 * VL <= C:
        average_tile(2, x + c, rows, columns, down, right, count, past, y + c)
        c += 2 * VL
    while c < C:
        c = min(c, C - VL)
        average_tile(1, x + c, rows, columns, down, right, count, past, y + c)
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
    cdef real* to
    cdef vec v
    cdef bint copies = g.streams and not g.direct
    x += (item // g.OH * g.H + rows.start) * line
    y += item * g.OW * g.C
    if in_one_pass(g):
        to = y_row if copies else y
        for ow in range(g.OW):
            columns = columns_of(g, ow)
            count = counted * columns_counted(g, ow)
            if rows.count == 2 and columns.count == 2:  # constants: no loops
                average_tiles(x + columns.start * g.C, g.C, 2, 2, down, right, count,
                              g.direct, to)
            elif rows.count == 3 and columns.count == 3:
                average_tiles(x + columns.start * g.C, g.C, 3, 3, down, right, count,
                              g.direct, to)
            else:
                average_tiles(x + columns.start * g.C, g.C, rows.count, columns.count, down, right,
                              count, g.direct, to)
            to += g.C
        if copies:
            stream(y, y_row, g.OW * g.C * sizeof(real))
        return
    for h in range(rows.count):
        for i in range((line + VL - 1) // VL):
            v = load_part(x + h * down + i * VL, line - i * VL)
            total[i] = v if h == 0 else total[i] + v
    for ow in range(g.OW):
        average_along(g, <real*> total, ow, counted * columns_counted(g, ow), y_row)
    if g.streams:
        stream(y, y_row, g.OW * g.C * sizeof(real))
    else:
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


cdef void average_rows(const Window* g, const real* x, real* y, Py_ssize_t row, Py_ssize_t end,
                       char* scratch) noexcept nogil:
    while row < end:
        average_row(g, x, y, row, scratch)
        row += 1


def average_pool(const real[:, :, :, ::1] x, real[:, :, :, ::1] y, tuple kernel, tuple stride,
                 tuple dilation, tuple pads, bint include_pad, Workspace scratch, int num_threads):
    """Fill y."""
    cdef Window g = window_of((<object> x).shape, (<object> y).shape, kernel, stride, dilation, pads,
                              include_pad)
    if y.size:
        average_all(g, &x[0, 0, 0, 0], &y[0, 0, 0, 0], scratch, num_threads)


cdef average_all(Window g, const real* x, real* y, Workspace scratch, int num_threads):
    """Fill y, which is not empty."""
    cdef Shares shares
    cdef Py_ssize_t thread, item, rows = g.N * g.OH, group = handful(rows)
    cdef Py_ssize_t items = (rows + group - 1) // group
    cdef Py_ssize_t slot = apart(g.W * g.C + g.OW * g.C + 6 * VL)
    cdef int threads = num_threads if rows * g.W * g.C * g.KH > ITEM_WORK // 8 else 1
    cdef real* memory = scratch.take(threads * slot)
    g.streams = is_large(&g, 1)
    g.direct = g.streams and in_one_pass(&g) and streams_lines(y, g.C)
    share_out(&shares, items, threads)
    with nogil, parallel(num_threads=threads):
        thread = threadid()
        item = next_item(&shares, thread)
        while item >= 0:
            average_rows(&g, x, y, item * group, min(rows, (item + 1) * group),
                         <char*> (memory + thread * slot))
            item = next_item(&shares, thread)


# ----------------------------------------------------------------------------------------- backward

cdef struct Cover:  # the windows along one axis that cover a pixel: first, first + step, ...
    Py_ssize_t first, step, count
    Py_ssize_t alike    # so many pixels from here on are covered by the same


cdef struct AverageBack:  # what going back needs to know of every row
    Window g
    Py_ssize_t band         # rows of dx of a work item
    Py_ssize_t line         # numbers of a row of shares, and room for a vector behind
    Py_ssize_t windows      # the most rows of windows that cover a band
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
    for k in range(size - 1, -1, -1):
        to = covers + k
        to.alike = 1
        if k + 1 < size and to[0].first == to[1].first and to[0].count == to[1].count:
            to.alike += to[1].alike


cdef void share_row(const AverageBack* s, const real* dy, Py_ssize_t oh, vec* shares) noexcept nogil:
    """shares = dy / count, for one row of windows; dy is its row."""
    cdef Py_ssize_t i, line = s.g.OW * s.g.C, rows = rows_counted(&s.g, oh)
    cdef bint exact = s.exact and power_of_2(rows)
    cdef vec scale = vec_set(1 / <real> rows if exact else <real> rows)
    cdef vec v
    for i in range((line + VL - 1) // VL):
        v = load_part(dy + i * VL, line - i * VL)
        shares[i] = v * (scale * s.inverses[i]) if exact else v / (scale * s.counts[i])


cdef Span windows_of(const AverageBack* s, Py_ssize_t h0, Py_ssize_t h1) noexcept nogil:
    """The rows of windows that cover rows h0 to h1 of dx: the first, and how many to the last."""
    cdef Span span
    cdef Py_ssize_t h, end = 0
    span.start = s.g.OH
    for h in range(h0, h1):
        if s.rows[h].count:
            span.start = min(span.start, s.rows[h].first)
            end = max(end, s.rows[h].first + (s.rows[h].count - 1) * s.rows[h].step + 1)
    span.count = max(0, end - span.start)
    return span


cdef void average_back(const AverageBack* s, const real* dy, real* dx, Py_ssize_t item,
                       real* shares) noexcept nogil:
    """A band of rows of dx."""
    cdef const Window* g = &s.g
    cdef Py_ssize_t bands = (g.H + g.top + s.band - 1) // s.band
    cdef Py_ssize_t n = item // bands, start = item % bands * s.band - g.top
    cdef Py_ssize_t h0 = max(0, start), h1 = min(g.H, start + s.band)
    cdef Py_ssize_t line = g.W * g.C, h, j
    cdef Span windows = windows_of(s, h0, h1)
    cdef real* sums = shares + s.windows * s.line
    cdef real* row = sums + s.line
    cdef const real* source = sums
    cdef const Cover* over
    dy += (n * g.OH + windows.start) * g.OW * g.C
    dx += (n * g.H + h0) * line
    for j in range(windows.count):
        share_row(s, dy + j * g.OW * g.C, windows.start + j, <vec*> (shares + j * s.line))
    for h in range(h0, h1):
        over = s.rows + h
        if h == h0 or s.rows[h - 1].alike == 1:
            source = shares + (over.first - windows.start) * s.line
            if over.count > 1:
                add_rows(source, over.count, over.step * s.line, g.OW * g.C, sums)
                source = sums
            elif over.count == 0:
                memset(row, 0, line * sizeof(real))
            if over.count > 0 and not g.direct:
                spread(s.columns, source, g.W, g.C, False, row)
        if g.direct and over.count > 0:
            spread(s.columns, source, g.W, g.C, True, dx)
        elif g.streams:
            stream(dx, row, line * sizeof(real))
        else:
            memcpy(dx, row, line * sizeof(real))
        dx += line


cdef void add_rows(const real* rows, Py_ssize_t count, Py_ssize_t step, Py_ssize_t line,
                   real* sums) noexcept nogil:
    """sums = the sum of `count` rows, `step` apart."""
    cdef Py_ssize_t i = 0, j
    cdef vec v
    while i < line:
        v = (<const vec*> (rows + i))[0]
        for j in range(1, count):
            v = v + (<const vec*> (rows + j * step + i))[0]
        (<vec*> (sums + i))[0] = v
        i += VL


cdef inline inlined spread_pixels(const Py_ssize_t nv, const Cover* column, const real* sums,
                                  Py_ssize_t C, bint past, real* to) noexcept nogil:
    """`nv` vectors of the pixels of dx that the same windows cover: the sum over these."""
    cdef const real* at = sums + column.first * C
    cdef vec[2] v
    cdef Py_ssize_t i, j
    for i in range(nv):
        v[i] = (<const vec*> (at + i * VL))[0] if column.count > 0 else vec_set(0)
    for j in range(1, column.count):
        at += column.step * C
        for i in range(nv):
            v[i] = v[i] + (<const vec*> (at + i * VL))[0]
    for j in range(column.alike):
        for i in range(nv):
            store_line(to + i * VL, v[i], past)
        to += C


cdef void spread(const Cover* columns, const real* sums, Py_ssize_t W, Py_ssize_t C, bint past,
                 real* to) noexcept nogil:
    """A row of dx. Lanes behind C are overwritten by the next pixel, whose first vectors come last."""
    cdef Py_ssize_t w = 0, v
    while w < W:
        v = (C + VL - 1) // VL
        if v % 2:
            v -= 1
            spread_pixels(1, columns + w, sums + v * VL, C, past, to + v * VL)
        while v > 0:
            v -= 2
            spread_pixels(2, columns + w, sums + v * VL, C, past, to + v * VL)
        to += columns[w].alike * C
        w += columns[w].alike


cdef void average_back_bands(const AverageBack* s, const real* dy, real* dx, Py_ssize_t band,
                             Py_ssize_t end, real* shares) noexcept nogil:
    while band < end:
        average_back(s, dy, dx, band, shares)
        band += 1


def average_pool_backward(const real[:, :, :, ::1] dy, real[:, :, :, ::1] dx, tuple kernel,
                          tuple stride, tuple dilation, tuple pads, bint include_pad,
                          Workspace scratch, int num_threads):
    """Fill dx."""
    cdef Window g = window_of((<object> dx).shape, (<object> dy).shape, kernel, stride, dilation, pads,
                              include_pad)
    if dx.size:
        average_back_all(g, &dy[0, 0, 0, 0], &dx[0, 0, 0, 0], scratch, num_threads)


cdef average_back_all(Window window, const real* dy, real* dx, Workspace scratch, int num_threads):
    """Fill dx, which is not empty."""
    cdef AverageBack s
    cdef Window* g = &s.g
    cdef Shares shares
    cdef Py_ssize_t thread, item, items, bands, group, slot, line, table, i, ow, count
    cdef real inverse
    cdef int threads
    cdef real* memory
    cdef real* work
    s.g = window
    threads = num_threads if g.N * g.H * g.W * g.C > ITEM_WORK // 8 else 1
    line = (g.OW * g.C + 2 * VL) // VL * VL
    table = (g.H + g.W) * <Py_ssize_t> sizeof(Cover) // <Py_ssize_t> sizeof(real)
    # Whole steps of windows, which share their rows; and more than one item an image.
    s.band = 8 // g.stride_h * g.stride_h if g.stride_h < 8 else 8
    # Windows that reach a band: no more than start in it, and before it by less than they span.
    s.windows = min(g.OH, (s.band + (g.KH - 1) * g.dilation_h) // g.stride_h + 1)
    s.line, g.streams = line, is_large(g, 1)
    g.direct = g.streams and streams_lines(dx, g.C)
    slot = apart((s.windows + 1) * line + g.W * g.C + 2 * VL + 16)
    memory = scratch.take(2 * line + table + threads * slot)
    s.counts, s.inverses = <vec*> memory, <vec*> (memory + line)
    s.rows = <Cover*> (memory + 2 * line)
    s.columns = s.rows + g.H
    work = memory + 2 * line + table
    cover(s.rows, g.OH, g.stride_h, g.top, g.dilation_h, g.KH, g.H)
    cover(s.columns, g.OW, g.stride_w, g.left, g.dilation_w, g.KW, g.W)
    s.exact = True
    for ow in range(g.OW + 1):
        count = columns_counted(g, ow) if ow < g.OW else 1  # and behind the row
        s.exact = s.exact and power_of_2(count)
        inverse = 1 / <real> count
        for i in range(ow * g.C, (ow + 1) * g.C if ow < g.OW else line):
            memory[i], memory[line + i] = count, inverse
    bands = g.N * ((g.H + g.top + s.band - 1) // s.band)
    group = handful(bands)
    items = (bands + group - 1) // group
    share_out(&shares, items, threads)
    with nogil, parallel(num_threads=threads):
        thread = threadid()
        item = next_item(&shares, thread)
        while item >= 0:
            average_back_bands(&s, dy, dx, item * group, min(bands, (item + 1) * group),
                               work + thread * slot)
            item = next_item(&shares, thread)
