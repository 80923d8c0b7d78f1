# Depthwise dw and db: sums over all pixels of the batch.
#
# The bands of the whole batch are dealt out to fixed parts. For 3x3 filters of 16 channels or more, x is
# read in place, some rows of dy at a time: each of its vectors is loaded once for all products with
# them. Others read padded copies.

from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

cdef enum:
    TILE_TAPS = 9       # a 3x3 filter: 9 sums, and 9 offsets in general registers
    TILE_FILTER = 32    # pixels that a tile of dw sums before it is the next vector's turn
    FILTER_ROWS = 4     # of dy in a strip: at step 1, 18 vectors of x and 9 sums stay in registers
    FILTER_BYTES = 8192  # of x in a short band: in whole vectors it stays in L1, with its dy


cdef extern from *:
    """
    /* sums = (db, dw) += the sums over R rows x `columns` pixels of dy; x from column w on, which is
       what the first pixel reads. 3 columns of x stay in registers. */
    static inline __attribute__((always_inline)) void depthwise_filter_strip(
            const int R, const int step, const depthwise_strips* s, Py_ssize_t c, Py_ssize_t w,
            Py_ssize_t columns, const real* dy, real* sums) {
        const int height = (R - 1) * step + 3;
        vec acc[9], v[9][3], total = *(vec*) sums;
        const real* row[9];
        Py_ssize_t at = w * s->pixel;
        _Pragma("GCC unroll 9")
        for (int i = 0; i < height; i++) row[i] = s->row[i] + c;
        _Pragma("GCC unroll 9")
        for (int k = 0; k < 9; k++) acc[k] = *(vec*) (sums + (1 + k) * VL);
        #define FILTER_COLUMN(j) { \\
            const int inside = (size_t) w < (size_t) s->W; \\
            _Pragma("GCC unroll 9") \\
            for (int i = 0; i < height; i++) { \\
                const real* p = inside ? row[i] + at : s->zeros; \\
                __asm__("" : "+r" (p)); \\
                v[i][j] = *(const vec*) p; \\
                KEEP(v[i][j]); \\
            } \\
            at += s->pixel; w++; \\
        }
        _Pragma("GCC unroll 3")
        for (int j = step; j < 3; j++) FILTER_COLUMN(j)
        for (Py_ssize_t column = 0; column < columns; column++, dy += s->y_step) {
            if (s->ahead) {
                STRIP_FETCH(row, height, step)
                _Pragma("GCC unroll 4")
                for (int r = 0; r < R; r++) prefetch_later(dy + r * s->y_row + columns * s->y_step);
            }
            _Pragma("GCC unroll 9")
            for (int i = 0; i < height; i++)
                _Pragma("GCC unroll 3")
                for (int j = 0; j < 3 - step; j++) v[i][j] = v[i][j + step];
            _Pragma("GCC unroll 3")
            for (int j = 3 - step; j < 3; j++) FILTER_COLUMN(j)
            _Pragma("GCC unroll 4")
            for (int r = 0; r < R; r++) {
                vec d = *(const vec*) (dy + r * s->y_row);
                KEEP(d);
                total += d;
                _Pragma("GCC unroll 9")
                for (int k = 0; k < 9; k++) acc[k] += d * v[r * step + k / 3][k % 3];
            }
        }
        #undef FILTER_COLUMN
        *(vec*) sums = total;
        _Pragma("GCC unroll 9")
        for (int k = 0; k < 9; k++) *(vec*) (sums + (1 + k) * VL) = acc[k];
    }

    /* The same of 1, 2 or, at step 1, 4 rows. */
    static __attribute__((noinline)) void depthwise_filter_strip_of(
            Py_ssize_t R, Py_ssize_t step, const depthwise_strips* s, Py_ssize_t c, Py_ssize_t w,
            Py_ssize_t columns, const real* dy, real* sums) {
        switch (10 * R + step) {
            case 41: depthwise_filter_strip(4, 1, s, c, w, columns, dy, sums); return;
            case 21: depthwise_filter_strip(2, 1, s, c, w, columns, dy, sums); return;
            case 11: depthwise_filter_strip(1, 1, s, c, w, columns, dy, sums); return;
            case 22: depthwise_filter_strip(2, 2, s, c, w, columns, dy, sums); return;
            case 12: depthwise_filter_strip(1, 2, s, c, w, columns, dy, sums); return;
        }
    }
    """
    void depthwise_filter_strip_of(
        Py_ssize_t R, Py_ssize_t step, const DepthwiseStrips* s, Py_ssize_t c, Py_ssize_t w,
        Py_ssize_t columns, const real* dy, real* sums) noexcept nogil


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
        # Bands that share no rows of x are short, so that what is copied is still in L1.
        alone = (kernel[0] - 1) * dilation[0] < stride[0]
        self.prepare(x, self.K, (self.OH, self.OW), stride, taps, False,
                     FILTER_BYTES if alone else BAND_BYTES)
        # By shape alone: the order of the sums differs.
        self.in_place = (kernel == (3, 3) and dilation == (1, 1) and self.K == self.C >= 16
                         and stride in ((1, 1), (2, 2)))
        zeros = 0
        if self.in_place:
            zeros = self.W * self.C
            self.area = 0
            self.cut_in_place(FILTER_ROWS)
        memset(self.zeros.take(zeros + VL), 0, (zeros + VL) * sizeof(real))
        self.parts = max(1, min(ITEMS, self.items, 1 + self.work // ITEM_WORK, pixels // 32))
        self.partial = self.vectors * (1 + self.taps) * VL
        self.dy_area = self.band * self.OW * self.width

    cdef run(self, const real* x, const real* dy, real* dw, real* db, int num_threads):
        """Fill dw and db; either may be NULL."""
        cdef Shares shares
        cdef Py_ssize_t turn, part, v
        cdef int threads = team(self.work, num_threads)
        cdef Py_ssize_t slot = self.area + self.dy_area
        cdef real* partials = self.partials.take(self.parts * self.partial)
        cdef real* scratch = self.scratch.take(threads * slot)
        with nogil:
            share_out(&shares, self.parts, threads)
            region_starts(is_shared(self.work))
            for turn in prange(self.parts, schedule="dynamic", num_threads=threads):
                part = take_item(&shares, threadid())
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
                self.run_strips(x + n * self.H * self.W * self.C, dy + n * self.OH * self.OW * self.K,
                                first, first + rows, partial)
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

    cdef void run_strips(self, const real* x, const real* dy, Py_ssize_t q, Py_ssize_t end,
                         real* partial) noexcept nogil:
        """Rows q to `end` of dy of an image; some columns at a time, which the next vector finds."""
        cdef DepthwiseStrips s
        cdef Py_ssize_t rows, h, i, v, c, column, columns
        s.W, s.pixel, s.zeros = self.W, self.C, <const real*> self.zeros.data
        s.y_row, s.y_step = self.OW * self.K, self.K
        while q < end:
            rows = rows_of_strip(end - q, FILTER_ROWS // self.step_h)
            h, column = q * self.step_h + self.top, 0
            for i in range((rows - 1) * self.step_h + 3):
                s.row[i] = x + (h + i) * self.W * self.C if 0 <= h + i < self.H else s.zeros
            while column < self.OW:
                columns = even_part(self.OW - column,
                                    max(4, self.strip_columns(self.step_w * self.C)))
                s.ahead = self.strip_ahead(column, columns, rows, self.W, self.C)
                for v in range(self.vectors):
                    c = vector_place(v, self.channels)
                    depthwise_filter_strip_of(
                        rows, self.step_h, &s, c, column * self.step_w + self.left, columns,
                        dy + (q * self.OW + column) * self.K + c, partial + v * (1 + self.taps) * VL)
                column += columns
            q += rows

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
