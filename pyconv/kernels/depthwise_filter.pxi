# Depthwise dw and db: sums over all pixels of the batch.
#
# The bands of the whole batch are dealt out to fixed parts. For 3x3 filters of 16 channels or more, x is
# read in place, a patch of dy at a time, one vector of channels after the other: each vector of x is
# loaded once for all products with it. Others read padded copies.

from cython.parallel cimport parallel, threadid
from libc.string cimport memcpy, memset

cdef enum:
    TILE_TAPS = 9       # a 3x3 filter: 9 sums, and 9 offsets in general registers
    TILE_FILTER = 32    # pixels that a tile of dw sums before it is the next vector's turn
    FILTER_BYTES = 8192  # of x in a short band: in whole vectors it stays in L1, with its dy


cdef extern from *:
    """
    /* sums = (db, dw) += the sums over R rows x J columns of dy, in all channels: 8 vectors of dy and 10
       sums, of which AVX2 keeps a part in L1. Only at an `edge` do their taps leave the image. */
    static inline __attribute__((always_inline)) void depthwise_filter_patch(
            const int R, const int J, const int edge, const int step, const depthwise_patch* s,
            const real* const* rows, Py_ssize_t column, const real* dy, real* sums) {
        const int height = (R - 1) * step + 3, width = (J - 1) * step + 3;
        const Py_ssize_t W = s->W, pixel = s->pixel, y_row = s->y_row, y_step = s->y_step;
        const Py_ssize_t w = column * step + s->left;
        const real* row[8];
        _Pragma("GCC unroll 8")
        for (int i = 0; i < height; i++) row[i] = rows[i] + w * pixel;
        dy += column * y_step;
        for (Py_ssize_t v = 0; v < s->vectors; v++, sums += s->record) {
            const Py_ssize_t c = PATCH_CHANNEL(s, v);
            const real* from = dy + c;
            Py_ssize_t at = c;
            vec acc[9], d[PATCH_ROWS][PATCH_COLUMNS], total = *(vec*) sums;
            _Pragma("GCC unroll 9")
            for (int k = 0; k < 9; k++) acc[k] = *(vec*) (sums + (1 + k) * VL);
            _Pragma("GCC unroll 4")
            for (int j = 0; j < J; j++, from += y_step) {
                PATCH_HERE(from);
                _Pragma("GCC unroll 4")
                for (int r = 0; r < R; r++) {
                    d[r][j] = *(const vec*) (from + r * y_row);
                    KEEP(d[r][j]);
                    total += d[r][j];
                }
            }
            _Pragma("GCC unroll 9")
            for (int column = 0; column < width; column++, at += pixel) {
                const int inside = !edge || (size_t) (w + column) < (size_t) W;
                PATCH_HERE(at);
                _Pragma("GCC unroll 8")
                for (int i = 0; i < height; i++) {
                    vec x = *(const vec*) (inside ? row[i] + at : s->zeros + c);
                    KEEP(x);
                    _Pragma("GCC unroll 4")
                    for (int r = 0; r < R; r++)
                        _Pragma("GCC unroll 4")
                        for (int j = 0; j < J; j++) {
                            const int kh = i - r * step, kw = column - j * step;
                            if (kh >= 0 && kh < 3 && kw >= 0 && kw < 3)
                                acc[3 * kh + kw] += d[r][j] * x;
                        }
                }
            }
            *(vec*) sums = total;
            _Pragma("GCC unroll 9")
            for (int k = 0; k < 9; k++) *(vec*) (sums + (1 + k) * VL) = acc[k];
        }
    }

    static inline __attribute__((always_inline)) void depthwise_filter_patches(
            const int R, const int step, const depthwise_patch* s, const real* const* row,
            Py_ssize_t columns, const real* dy, real* sums) {
        Py_ssize_t column = 0;
        #define FILTER_PATCH(J) \\
            if (patch_at_edge(s, column, J, 3, step)) \\
                depthwise_filter_patch(R, J, 1, step, s, row, column, dy, sums); \\
            else \\
                depthwise_filter_patch(R, J, 0, step, s, row, column, dy, sums);
        for (; column + PATCH_COLUMNS <= columns; column += PATCH_COLUMNS) FILTER_PATCH(PATCH_COLUMNS)
        for (; column < columns; column++) FILTER_PATCH(1)
        #undef FILTER_PATCH
    }

    /* All columns of 1, 2 or, at step 1, 4 rows. */
    static __attribute__((noinline)) void depthwise_filter_patches_of(
            Py_ssize_t rows, Py_ssize_t step, const depthwise_patch* s, const real* const* row,
            Py_ssize_t columns, const real* dy, real* sums) {
        switch (10 * rows + step) {
            case 41: depthwise_filter_patches(4, 1, s, row, columns, dy, sums); return;
            case 21: depthwise_filter_patches(2, 1, s, row, columns, dy, sums); return;
            case 11: depthwise_filter_patches(1, 1, s, row, columns, dy, sums); return;
            case 22: depthwise_filter_patches(2, 2, s, row, columns, dy, sums); return;
            case 12: depthwise_filter_patches(1, 2, s, row, columns, dy, sums); return;
        }
    }
    """
    void depthwise_filter_patches_of(
        Py_ssize_t rows, Py_ssize_t step, const DepthwisePatch* s, const real** row, Py_ssize_t columns,
        const real* dy, real* sums) noexcept nogil


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
            self.cut_in_place(PATCH_ROWS)
        memset(self.zeros.take(zeros + VL), 0, (zeros + VL) * sizeof(real))
        self.parts = max(1, min(ITEMS, self.items, 1 + self.work // ITEM_WORK, pixels // 32))
        self.partial = self.vectors * (1 + self.taps) * VL
        self.dy_area = self.band * self.OW * self.width

    cdef run(self, const real* x, const real* dy, real* dw, real* db, int num_threads):
        """Fill dw and db; either may be NULL."""
        cdef Shares shares
        cdef Py_ssize_t thread, part, v
        cdef int threads = team(self.work, num_threads)
        cdef Py_ssize_t slot = apart(self.area + self.dy_area)
        cdef real* partials = self.partials.take(self.parts * self.partial)
        cdef real* scratch = self.scratch.take(threads * slot)
        with nogil:
            share_out(&shares, self.parts, threads)
            region_starts(is_shared(self.work))
            with parallel(num_threads=threads):
                thread = threadid()
                part = next_item(&shares, thread)
                while part >= 0:
                    self.run_part(x, dy, partials + part * self.partial, scratch + thread * slot,
                                  part, 0 if dw == NULL else self.taps)
                    item_ends()
                    part = next_item(&shares, thread)
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
                self.run_patches(x + n * self.H * self.W * self.C, dy + n * self.OH * self.OW * self.K,
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

    cdef void run_patches(self, const real* x, const real* dy, Py_ssize_t q, Py_ssize_t end,
                          real* partial) noexcept nogil:
        """Rows q to `end` of dy of an image."""
        cdef DepthwisePatch s
        cdef (const real*)[8] row
        cdef Py_ssize_t rows, h, i
        s.zeros = <const real*> self.zeros.data
        s.W, s.pixel, s.left = self.W, self.C, self.left
        s.y_row, s.y_step = self.OW * self.K, self.K
        s.channels, s.vectors, s.record = self.channels, self.vectors, (1 + self.taps) * VL
        while q < end:
            rows = rows_of_tile(end - q, PATCH_ROWS // self.step_h)
            h = q * self.step_h + self.top
            for i in range((rows - 1) * self.step_h + 3):
                row[i] = x + (h + i) * self.W * self.C if 0 <= h + i < self.H else s.zeros
            depthwise_filter_patches_of(rows, self.step_h, &s, row, self.OW,
                                        dy + q * self.OW * self.K, partial)
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
