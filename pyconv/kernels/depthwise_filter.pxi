# Depthwise dw and db: sums over all pixels of the batch.
#
# The bands of the whole batch are dealt out to fixed parts. For 3x3 filters of 16 channels or more, x is
# read in place, two rows of dy at a time: each of its vectors then serves up to 6 of the 9 sums. Others
# read padded copies.

from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

cdef enum:
    TILE_TAPS = 9       # a 3x3 filter: 9 sums, and 9 offsets in general registers
    TILE_FILTER = 32    # pixels that a tile of dw sums before it is the next vector's turn
    FILTER_COLUMNS = 16  # the same for two rows of dy


cdef inline vec load_inside(const real* p, Py_ssize_t w, Py_ssize_t W) noexcept nogil:
    return (<const vec*> p)[0] if 0 <= w < W else vec_set(0)


cdef inline inlined depthwise_filter_tile(
    const Py_ssize_t taps, const real* x, Py_ssize_t x_row, Py_ssize_t x_step,
    const Py_ssize_t* offset, const real* dy, Py_ssize_t dy_row, Py_ssize_t dy_step,
    Py_ssize_t rows, Py_ssize_t columns, real* dw, real* db,
) noexcept nogil:
    """dw[t] += sum over pixels of x[pixel + offset[t]] * dy[pixel]; db += sum of dy."""
    cdef vec[9] acc
    cdef vec total = (<const vec*> db)[0]
    cdef vec d
    cdef Py_ssize_t t, h, w
    cdef const real* p
    cdef const real* q
    for t in range(taps):
        acc[t] = (<const vec*> (dw + t * VL))[0]
    for h in range(rows):
        p, q = x + h * x_row, dy + h * dy_row
        for w in range(columns):
            d = (<const vec*> q)[0]
            total = total + d
            for t in range(taps):
                acc[t] = acc[t] + d * (<const vec*> (p + offset[t]))[0]
            p, q = p + x_step, q + dy_step
    for t in range(taps):
        (<vec*> (dw + t * VL))[0] = acc[t]
    (<vec*> db)[0] = total


cdef inline inlined depthwise_3x3_tile(
    const Py_ssize_t rows, const Py_ssize_t step, const real* x, Py_ssize_t x_row, Py_ssize_t x_step,
    Py_ssize_t w, Py_ssize_t W, const real* dy, Py_ssize_t dy_row, Py_ssize_t dy_step,
    Py_ssize_t columns, real* sums,
) noexcept nogil:
    """sums = (db, dw) += the sums over `rows` x `columns` pixels of dy.

    x is at column w, the first that the first pixel reads; columns outside 0 .. W - 1 are zeros.
    """
    cdef vec[9] acc
    cdef vec[15] v      # 3 columns of the rows of x
    cdef vec total = (<const vec*> sums)[0]
    cdef vec d
    cdef Py_ssize_t i, j, k, r, column
    for k in range(9):
        acc[k] = (<const vec*> (sums + (1 + k) * VL))[0]
    for j in range(3 - step):
        for i in range((rows - 1) * step + 3):
            v[i * 3 + step + j] = load_inside(x + i * x_row, w + j, W)
        x = x + x_step
    w += 3 - step
    for column in range(columns):
        for i in range((rows - 1) * step + 3):
            for j in range(3 - step):
                v[i * 3 + j] = v[i * 3 + j + step]
        for j in range(3 - step, 3):
            for i in range((rows - 1) * step + 3):
                v[i * 3 + j] = load_inside(x + i * x_row, w, W)
            x, w = x + x_step, w + 1
        for r in range(rows):
            d = (<const vec*> (dy + r * dy_row))[0]
            total = total + d
            for k in range(9):
                acc[k] = acc[k] + d * v[(r * step + k // 3) * 3 + k % 3]
        dy = dy + dy_step
    (<vec*> sums)[0] = total
    for k in range(9):
        (<vec*> (sums + (1 + k) * VL))[0] = acc[k]


# A tile's shape must be a constant where it is inlined, hence one line a shape.

cdef void depthwise_filter_tile_of(
    Py_ssize_t taps, const real* x, Py_ssize_t x_row, Py_ssize_t x_step,
    const Py_ssize_t* offset, const real* dy, Py_ssize_t dy_row, Py_ssize_t dy_step,
    Py_ssize_t rows, Py_ssize_t columns, real* dw, real* db,
) noexcept nogil:
    """`depthwise_filter_tile` of 0 (db alone) to 9 taps."""
    if taps == 9:
        depthwise_filter_tile(9, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 8:
        depthwise_filter_tile(8, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 7:
        depthwise_filter_tile(7, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 6:
        depthwise_filter_tile(6, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 5:
        depthwise_filter_tile(5, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 4:
        depthwise_filter_tile(4, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 3:
        depthwise_filter_tile(3, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 2:
        depthwise_filter_tile(2, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    elif taps == 1:
        depthwise_filter_tile(1, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)
    else:
        depthwise_filter_tile(0, x, x_row, x_step, offset, dy, dy_row, dy_step, rows, columns,
                              dw, db)


cdef void depthwise_3x3_tile_of(
    Py_ssize_t rows, Py_ssize_t step, const real* x, Py_ssize_t x_row, Py_ssize_t x_step,
    Py_ssize_t w, Py_ssize_t W, const real* dy, Py_ssize_t dy_row, Py_ssize_t dy_step,
    Py_ssize_t columns, real* sums,
) noexcept nogil:
    """`depthwise_3x3_tile` of 1 or 2 rows, at step 1 or 2."""
    if step == 1:
        if rows == 2:
            depthwise_3x3_tile(2, 1, x, x_row, x_step, w, W, dy, dy_row, dy_step, columns, sums)
        else:
            depthwise_3x3_tile(1, 1, x, x_row, x_step, w, W, dy, dy_row, dy_step, columns, sums)
    elif rows == 2:
        depthwise_3x3_tile(2, 2, x, x_row, x_step, w, W, dy, dy_row, dy_step, columns, sums)
    else:
        depthwise_3x3_tile(1, 2, x, x_row, x_step, w, W, dy, dy_row, dy_step, columns, sums)


cdef class DepthwiseReduce(Depthwise):
    """dw and db of one depthwise convolution. Parameters as for `Reduce`.

    Each part has a partial filter of its own, and these are added in their order.
    """
    cdef Py_ssize_t OH, OW, K, parts, partial, dy_area
    cdef Workspace partials
    cdef bint in_place

    def __cinit__(self, x, dy, kernel, stride, dilation, before):
        cdef Py_ssize_t pixels = dy[0] * dy[1] * dy[2]
        self.OH, self.OW, self.K = dy[1:]
        self.partials = Workspace()
        taps = [(kh * dilation[0] - before[0], kw * dilation[1] - before[1])
                for kh in range(kernel[0]) for kw in range(kernel[1])]
        self.work = pixels * len(taps) * self.K
        self.prepare(x, self.K, (self.OH, self.OW), stride, taps)
        self.parts = max(1, min(ITEMS, self.items, 1 + self.work // ITEM_WORK, pixels // 32))
        # By shape alone: the order of the sums differs.
        self.in_place = (kernel == (3, 3) and dilation == (1, 1) and self.K == self.C >= 16
                         and stride in ((1, 1), (2, 2)))
        if self.in_place:
            self.area = max(self.area, (self.step_h + 3) * self.W * self.C)
        self.partial = self.vectors * (1 + self.taps) * VL
        self.dy_area = self.band * self.OW * self.width

    cdef run(self, const real* x, const real* dy, real* dw, real* db, int num_threads):
        """Fill dw and db; either may be NULL."""
        cdef Py_ssize_t part, v
        cdef int threads = team(self.work, num_threads)
        cdef Py_ssize_t slot = self.area + self.dy_area
        cdef real* partials = self.partials.take(self.parts * self.partial)
        cdef real* scratch = self.scratch.take(threads * slot)
        with nogil:
            region_starts(is_shared(self.work))
            for part in prange(self.parts, schedule="dynamic", num_threads=threads):
                self.run_part(x, dy, partials + part * self.partial, scratch + threadid() * slot,
                              part, 0 if dw == NULL else self.taps)
                item_ends()
            for v in range(self.vectors):
                self.add_parts(partials + v * (1 + self.taps) * VL,
                               vector_place(v, self.K) if self.in_place and dw != NULL else v * VL,
                               dw, db)

    cdef void run_part(self, const real* x, const real* dy, real* partial, real* scratch,
                       Py_ssize_t part, Py_ssize_t taps) noexcept nogil:
        """Sum one part, into [vector, db and then taps, VL]."""
        cdef Py_ssize_t item, n, first, rows, q, count
        cdef const real* end = dy + self.N * self.OH * self.OW * self.K
        cdef real* packed = scratch + self.area
        memset(partial, 0, self.partial * sizeof(real))
        for item in range(part * self.items // self.parts, (part + 1) * self.items // self.parts):
            n, first = item // self.bands, item % self.bands * self.band
            rows = min(self.band, self.rows - first)
            if taps and self.in_place:
                q = first
                while q < first + rows:
                    count = min(2, first + rows - q)
                    self.run_3x3(x + n * self.H * self.W * self.C,
                                 dy + (n * self.OH + q) * self.OW * self.K, q, count, partial, scratch)
                    q += count
                continue
            if taps:
                self.read(x, n, first, rows, scratch)
            pad_pixels(dy + (n * self.OH + first) * self.OW * self.K, end, self.K, rows * self.OW,
                       packed, self.vectors)
            q = 0
            while q < rows:
                count = even_part(rows - q, max(1, TILE_FILTER // self.OW))
                self.run_rows(scratch + q * self.step_h * self.line,
                              packed + q * self.OW * self.width, count, partial, taps)
                q += count

    cdef void run_3x3(self, const real* x, const real* dy, Py_ssize_t q, Py_ssize_t rows,
                      real* partial, real* scratch) noexcept nogil:
        """One or two rows of dy, from row q on; some columns at a time, which the next vector finds."""
        cdef Py_ssize_t h = q * self.step_h + self.top, height = (rows - 1) * self.step_h + 3
        cdef Py_ssize_t line = self.W * self.C, column = 0, columns, v, c, i, w
        cdef real* sums
        if h >= 0 and h + height <= self.H:
            x += h * line
        else:  # rows of zeros above or below
            for i in range(height):
                if 0 <= h + i < self.H:
                    memcpy(scratch + i * line, x + (h + i) * line, line * sizeof(real))
                else:
                    memset(scratch + i * line, 0, line * sizeof(real))
            x = scratch
        while column < self.OW:
            columns = min(FILTER_COLUMNS, self.OW - column)
            sums = partial
            w = column * self.step_w + self.left
            for v in range(self.vectors):
                c = vector_place(v, self.channels)
                depthwise_3x3_tile_of(rows, self.step_h, x + w * self.C + c, line, self.C, w, self.W,
                                      dy + column * self.K + c, self.OW * self.K, self.K, columns,
                                      sums)
                sums += (1 + self.taps) * VL
            column += columns

    cdef void run_rows(self, const real* x, const real* dy, Py_ssize_t rows, real* partial,
                       Py_ssize_t taps) noexcept nogil:
        """Some pixels at a time, which stay in L1 for the next vector; the first taps sum db too."""
        cdef Py_ssize_t x_step = self.step_w * self.pixel
        cdef Py_ssize_t column = 0, columns, v, t, count
        cdef vec ignored = vec_set(0)
        cdef real* sums
        # A part of one row, or a few rows: for each channel the pixels come in their order.
        while column < self.OW:
            columns = even_part(self.OW - column, TILE_FILTER)
            sums = partial
            for v in range(self.vectors):
                t = 0
                while t == 0 or t < taps:
                    count = 0 if taps == 0 else even_part(taps - t, TILE_TAPS)
                    depthwise_filter_tile_of(
                        count, x + v * VL, self.step_h * self.line, x_step, self.offset + t,
                        dy + v * VL, self.OW * self.width, self.width, rows, columns,
                        sums + (1 + t) * VL, sums if t == 0 else <real*> &ignored)
                    t += max(1, count)
                sums += (1 + self.taps) * VL
            x, dy = x + columns * x_step, dy + columns * self.width
            column += columns

    cdef void add_parts(self, const real* parts, Py_ssize_t c, real* dw, real* db) noexcept nogil:
        """Channels c to c + VL of db and dw: the sums over parts, in their order."""
        cdef Py_ssize_t t, part, size = min(VL, self.K - c) * sizeof(real)
        cdef vec a
        for t in range(-1, self.taps if dw != NULL else 0):
            a = (<const vec*> (parts + (1 + t) * VL))[0]
            for part in range(1, self.parts):
                a = a + (<const vec*> (parts + part * self.partial + (1 + t) * VL))[0]
            if t >= 0:
                memcpy(dw + t * self.K + c, &a, size)
            elif db != NULL:
                memcpy(db + c, &a, size)
