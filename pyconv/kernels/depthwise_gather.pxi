# Depthwise y and dx: each output sums over its taps.
#
# A tile is 4 rows of outputs, some columns, and one vector of channels. It goes through the columns of
# taps, then the rows of the input, each of whose vectors serves all rows of outputs that it reaches: for
# 3x3 taps 6 loads for 12 products. What a tile reads is in place, or where taps leave the image a
# padded copy of its own, or else the item's copy (see depthwise.pxi).

from math import gcd as _gcd

from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #if defined(__AVX512F__)
    #define TILE_COLUMNS 4  /* x 4 rows: 16 sums, 5 of weights, in 32 registers */
    #else
    #define TILE_COLUMNS 2  /* 8 sums, 5 of weights, in 16 registers */
    #endif

    typedef struct {        /* the taps of a phase, as its tiles read them */
        Py_ssize_t rows, columns;   /* of taps; columns times planes */
        Py_ssize_t down, across;    /* rows of the input between rows of taps, and the same of columns */
        Py_ssize_t top, left;       /* the first tap */
        Py_ssize_t first;           /* of the taps of all phases */
        Py_ssize_t strip;           /* their shape, if `depthwise_strip` knows it, or 0 */
        Py_ssize_t* offset;         /* of each column of taps, in the input that is read */
        Py_ssize_t* patch_offset;   /* and in a tile's own copy */
    } depthwise_taps;

    typedef struct {        /* between the vectors that a tile reads and writes */
        Py_ssize_t step_h;  /* input rows between outputs */
        Py_ssize_t x_row, x_step, y_row, y_step;
        int streams;        /* past the caches */
    } depthwise_steps;

    static inline __attribute__((always_inline)) void depthwise_store(
            const int rows, const int columns, const depthwise_steps* s, const vec* acc, int relu,
            real* y) {
        _Pragma("GCC unroll 4")
        for (int r = 0; r < rows; r++)
            _Pragma("GCC unroll 4")
            for (int j = 0; j < columns; j++) {
                vec v = relu ? vec_relu(acc[r * columns + j]) : acc[r * columns + j];
                real* to = y + r * s->y_row + j * s->y_step;
    #if defined(__AVX512F__)
                if (s->streams) _mm512_stream_si512((void*) to, (__m512i) v);
                else
    #endif
                *(vec*) to = v;
            }
    }

    /* y = b + sum over columns of taps, then rows of taps, of x * w; in C, because GCC unrolls Cython's
       loops only in part, and sums that it indexes do not stay in registers.
       KH and step_h are constants, of taps without dilation, or 0: any, and no load is shared. */
    static inline __attribute__((always_inline)) void depthwise_tile(
            const int rows, const int columns, const int KH, const int step_h,
            const depthwise_taps* taps, const Py_ssize_t* offset, const depthwise_steps* s,
            const real* x, const real* w, const real* b, int relu, real* y) {
        vec acc[16], wv[5];
        _Pragma("GCC unroll 16")
        for (int i = 0; i < rows * columns; i++) acc[i] = *(const vec*) b;
        for (Py_ssize_t o = 0; o < taps->columns; o++) {
            const real* p = x + offset[o];
            if (KH == 0) {
                for (Py_ssize_t k = 0; k < taps->rows; k++, w += VL, p += taps->down * s->x_row) {
                    wv[0] = *(const vec*) w;
                    _Pragma("GCC unroll 4")
                    for (int r = 0; r < rows; r++)
                        _Pragma("GCC unroll 4")
                        for (int j = 0; j < columns; j++)
                            acc[r * columns + j] += wv[0] * *(const vec*) (
                                p + r * s->step_h * s->x_row + j * s->x_step);
                }
                continue;
            }
            _Pragma("GCC unroll 5")
            for (int k = 0; k < KH; k++) wv[k] = *(const vec*) (w + k * VL);
            w += KH * VL;
            _Pragma("GCC unroll 16")
            for (int i = 0; i < (rows - 1) * step_h + KH; i++, p += s->x_row)
                _Pragma("GCC unroll 4")
                for (int j = 0; j < columns; j++) {
                    vec v = *(const vec*) (p + j * s->x_step);
                    KEEP(v);
                    _Pragma("GCC unroll 4")
                    for (int r = 0; r < rows; r++)
                        if (r * step_h <= i && i < r * step_h + KH)
                            acc[r * columns + j] += wv[i - r * step_h] * v;
                }
        }
        depthwise_store(rows, columns, s, acc, relu, y);
    }
    """
    const Py_ssize_t TILE_COLUMNS
    ctypedef struct DepthwiseTaps "depthwise_taps":
        Py_ssize_t rows, columns, down, across, top, left, first, strip
        Py_ssize_t* offset
        Py_ssize_t* patch_offset
    ctypedef struct DepthwiseSteps "depthwise_steps":
        Py_ssize_t step_h, x_row, x_step, y_row, y_step
        bint streams
    void depthwise_tile(
        const Py_ssize_t rows, const Py_ssize_t columns, const Py_ssize_t KH,
        const Py_ssize_t step_h, const DepthwiseTaps* taps, const Py_ssize_t* offset,
        const DepthwiseSteps* s, const real* x, const real* w, const real* b, bint relu, real* y,
    ) noexcept nogil

cdef enum:
    TILE_ROWS = 4
    EDGY = 20       # columns of outputs


# A tile's shape must be a constant where it is inlined, hence one line a shape.

cdef void depthwise_tile_of(
    Py_ssize_t rows, Py_ssize_t columns, const DepthwiseTaps* taps, const Py_ssize_t* offset,
    const DepthwiseSteps* s, const real* x, const real* w, const real* b, bint relu, real* y,
) noexcept nogil:
    """`depthwise_tile` of TILE_ROWS, 2 or 1 rows, TILE_COLUMNS or 1 columns."""
    cdef Py_ssize_t KH = taps.rows if taps.down == 1 else 0
    if columns == 1:
        if rows == TILE_ROWS:
            depthwise_tile(TILE_ROWS, 1, 0, 0, taps, offset, s, x, w, b, relu, y)
        elif rows == 2:
            depthwise_tile(2, 1, 0, 0, taps, offset, s, x, w, b, relu, y)
        else:
            depthwise_tile(1, 1, 0, 0, taps, offset, s, x, w, b, relu, y)
    elif rows == 2:
        depthwise_tile(2, TILE_COLUMNS, 0, 0, taps, offset, s, x, w, b, relu, y)
    elif rows == 1:
        depthwise_tile(1, TILE_COLUMNS, 0, 0, taps, offset, s, x, w, b, relu, y)
    elif KH == 3 and s.step_h == 1:
        depthwise_tile(TILE_ROWS, TILE_COLUMNS, 3, 1, taps, offset, s, x, w, b, relu, y)
    elif KH == 3 and s.step_h == 2:
        depthwise_tile(TILE_ROWS, TILE_COLUMNS, 3, 2, taps, offset, s, x, w, b, relu, y)
    elif KH == 5 and s.step_h == 1:
        depthwise_tile(TILE_ROWS, TILE_COLUMNS, 5, 1, taps, offset, s, x, w, b, relu, y)
    elif KH == 2 and s.step_h == 1:
        depthwise_tile(TILE_ROWS, TILE_COLUMNS, 2, 1, taps, offset, s, x, w, b, relu, y)
    else:
        depthwise_tile(TILE_ROWS, TILE_COLUMNS, 0, 0, taps, offset, s, x, w, b, relu, y)


cdef class DepthwiseGather(Depthwise):
    """y or dx of one depthwise convolution. Parameters as for `Gather`."""
    cdef Py_ssize_t TH, TW, stride_h, stride_w, phase_count, patch, patch_columns
    cdef Phase* phases
    cdef DepthwiseTaps* of_phase
    cdef Py_ssize_t* tap_index      # in the filter, of each tap as it is packed
    cdef Py_ssize_t* tap_plane
    cdef Workspace weights
    cdef bint clips, copies, streams, strips

    def __cinit__(self, source, target, step, stride, list phases, bint clips):
        cdef Py_ssize_t p, t, n = 0, split = max(1, source[3] // target[3]), high = 1, count, pixel
        cdef DepthwiseTaps* taps
        self.TH, self.TW, self.clips = target[1], target[2], clips
        self.stride_h, self.stride_w = stride
        self.phase_count = len(phases)
        self.weights = Workspace()
        self.phases = <Phase*> malloc(self.phase_count * sizeof(Phase))
        self.of_phase = <DepthwiseTaps*> malloc(self.phase_count * sizeof(DepthwiseTaps))
        count = split * sum(len(of_phase) for _, of_phase in phases) + 1
        self.tap_index = <Py_ssize_t*> malloc(4 * count * sizeof(Py_ssize_t))
        if self.phases == NULL or self.of_phase == NULL or self.tap_index == NULL:
            raise MemoryError()
        self.tap_plane = self.tap_index + count
        for p, ((to_row, to_column), of_phase) in enumerate(phases):
            self.phases[p].to_row, self.phases[p].to_column = to_row, to_column
            self.phases[p].rows = max(0, -((to_row - self.TH) // self.stride_h))
            self.phases[p].columns = max(0, -((to_column - self.TW) // self.stride_w))
            self.work += self.phases[p].rows * self.phases[p].columns * len(of_phase)
        self.work *= source[0] * max(source[3], target[3])
        outputs = (max(self.phases[p].rows for p in range(self.phase_count)),
                   max(self.phases[p].columns for p in range(self.phase_count)))
        # Vectors along rows of few channels, where taps are 3x3 or 5x5 in neighbouring rows.
        flat = 0
        if step == stride == (1, 1) and source[3] == target[3] < VL and len(phases[0][1]) in (9, 25):
            rows = {h for h, _, _ in phases[0][1]}
            if len(rows) in (3, 5) and max(rows) - min(rows) == len(rows) - 1:
                flat = len(rows)
        self.prepare(source, target[3], outputs, step,
                     [tap[:2] for _, of_phase in phases for tap in of_phase], flat)
        # Taps in the order in which tiles read them, and where each column of them starts.
        self.patch_columns, self.strips = 1, True
        for p, (_, of_phase) in enumerate(phases):
            rows, columns = sorted({h for h, _, _ in of_phase}), sorted({w for _, w, _ in of_phase})
            index = {(h, w): i for h, w, i in of_phase}
            down, across = (b[1] - b[0] if len(b) > 1 else 1 for b in (rows, columns))
            taps = &self.of_phase[p]
            taps.rows, taps.columns = len(rows), len(columns) * split
            taps.down, taps.across = down, across
            taps.top, taps.left = (rows[0], columns[0]) if rows else (0, 0)
            taps.first = n
            taps.strip = 0
            if (split == down == across == 1 and self.step_h == self.step_w and target[3] >= VL
                    and depthwise_strip_is_known(taps.rows, taps.columns, self.step_h)):
                taps.strip = 100 * taps.rows + 10 * taps.columns + self.step_h
            self.strips = self.strips and taps.strip > 0
            high = max(high, (TILE_ROWS - 1) * self.step_h + (len(rows) - 1) * down + 1)
            self.patch_columns = max(self.patch_columns, (TILE_COLUMNS - 1) * self.step_w
                                     + (len(columns) - 1) * across + 1)
            for w in columns:
                for plane in range(split):
                    for h in rows:
                        self.tap_index[n], self.tap_plane[n] = index[h, w], plane
                        n += 1
        if self.flat:  # so many vectors on, lanes hold the same channels again
            self.vectors = self.C // _gcd(self.C, VL)
        self.patch = high * self.patch_columns * VL
        # Copies of tiles at the edges cost more than one of the band where most tiles lie there.
        self.copies = (source[3] != target[3] or target[3] < VL
                       or not self.strips and target[2] < EDGY * stride[1])
        n = 0
        pixel = self.pixel if self.copies else self.C
        for p in range(self.phase_count):
            taps = &self.of_phase[p]
            taps.offset = self.tap_index + 2 * count + n
            taps.patch_offset = taps.offset + count
            for t in range(taps.columns):
                taps.offset[t] = t // split * taps.across * pixel + t % split * self.width
                taps.patch_offset[t] = t // split * taps.across * VL
            n += taps.columns
        zeros = VL
        if not self.copies:
            self.area = (self.patch + 15) // 16 * 16
            self.cut_in_place(TILE_ROWS)
            zeros = self.W * self.C + VL
        memset(self.zeros.take(zeros), 0, zeros * sizeof(real))

    def __dealloc__(self):
        free(self.phases)
        free(self.of_phase)
        free(self.tap_index)

    cdef real* pack(self, const real* w, const real* b) except? NULL:
        """[vector, bias and then taps in their order, VL]; zeros where there is no channel."""
        cdef Py_ssize_t v, t, c, first, lanes = min(VL, self.channels)
        cdef Py_ssize_t size = self.vectors * (1 + self.taps) * VL
        cdef const real* row    # flat: `first` is 0, and split 1
        cdef real* packed = self.weights.take(size)
        cdef real* to = packed
        memset(packed, 0, size * sizeof(real))
        for v in range(self.vectors):
            first = vector_place(v, self.channels)
            if b != NULL and self.flat:
                for c in range(VL):
                    to[c] = b[(v * VL + c) % self.C]
            elif b != NULL:
                memcpy(to, b + first, lanes * sizeof(real))
            to += VL
            for t in range(self.taps):
                row = w + (self.tap_index[t] * self.channels + first) * self.split
                if self.flat:
                    for c in range(VL):
                        to[c] = row[(v * VL + c) % self.C]
                    to += VL
                    continue
                for c in range(lanes):
                    to[c] = row[c * self.split + self.tap_plane[t]]
                to += VL
        return packed

    cdef bint finite(self, const real* packed) noexcept nogil:
        cdef vec zero = vec_set(0)
        cdef Py_ssize_t i
        for i in range(self.vectors * (1 + self.taps)):
            zero = zero + (<const vec*> (packed + i * VL))[0] * vec_set(0)
        return not any_nan(zero)

    cdef bint run(self, const real* x, const real* w, const real* b, bint relu, real* y,
                  int num_threads) except -1:
        """Fill y. False if nothing was done: weights that are not finite must not meet the padding."""
        cdef Shares shares
        cdef Py_ssize_t turn, item
        cdef int threads = team(self.work, num_threads)
        cdef real* packed = self.pack(w, b)
        cdef real* scratch = self.scratch.take(threads * self.area)
        if self.clips and not self.finite(packed):
            return False
        # In whole lines, if there are more than the caches hold.
        self.streams = (
            (self.N * (self.H * self.W * self.C + self.TH * self.TW * self.channels)
             * <Py_ssize_t> sizeof(real)) > STREAM_BYTES
            and (<size_t> y) % 64 == 0 and self.channels * sizeof(real) % 64 == 0)
        share_out(&shares, self.items, threads)
        region_starts(is_shared(self.work))
        for turn in prange(self.items, schedule="dynamic", chunksize=handful(self.items),
                           num_threads=threads, nogil=True):
            item = take_item(&shares, threadid())
            self.run_item(x, packed, relu, y, scratch + threadid() * self.area, item)
            item_ends()
        return True

    cdef void run_item(self, const real* x, const real* packed, bint relu, real* y, real* scratch,
                       Py_ssize_t item) noexcept nogil:
        """One band of output rows of one image, some rows at a time: phases share what they read."""
        cdef Py_ssize_t n = item // self.bands, first = item % self.bands * self.band, q, p, at
        cdef Py_ssize_t end = min(first + self.band, self.rows), last, count
        cdef const real* source = x + n * self.H * self.W * self.C
        if self.copies:
            self.read(x, n, first, end - first, scratch)
            source = scratch - (first * self.step_h + self.top) * self.line - self.left * self.pixel
        y += n * self.TH * self.TW * self.channels
        if self.flat:
            self.run_flat(scratch, packed, relu, y + first * self.TW * self.C, end - first)
            return
        q = first
        while q < end:
            for p in range(0 if self.strips else self.phase_count):
                last = min(end, self.phases[p].rows)
                # The last tile is moved back rather than cut, if it can be.
                at = max(first, min(q, last - TILE_ROWS))
                while at < last and at < q + TILE_ROWS:
                    count = TILE_ROWS if last - at >= TILE_ROWS else 2 if last - at >= 2 else 1
                    self.run_rows(source, packed, relu, y, p, at, count, scratch)
                    at += count
            if self.strips:
                self.run_strips(source, packed, relu, y, q, min(end, q + TILE_ROWS))
            q += TILE_ROWS

    cdef void run_flat(self, const real* x, const real* packed, bint relu, real* y,
                       Py_ssize_t rows) noexcept nogil:
        """All rows of a band whose copy is `x`, as if a row were one pixel."""
        cdef DepthwiseStrips s
        cdef Py_ssize_t q = 0, count, i, v
        s.relu, s.y_row = relu, self.TW * self.C
        while q < rows:
            count = STRIP_ROWS if rows - q >= STRIP_ROWS else 2 if rows - q >= 2 else 1
            for i in range(count + self.flat - 1):
                s.row[i] = x + (q + i) * self.line
            for v in range(self.vectors):
                depthwise_flat_of(count, self.flat, &s, self.of_phase[0].across * self.C, v * VL,
                                  self.vectors * VL, self.TW * self.C,
                                  packed + v * (1 + self.taps) * VL, y + q * s.y_row)
            q += count

    cdef void run_strips(self, const real* x, const real* packed, bint relu, real* y, Py_ssize_t q,
                         Py_ssize_t end) noexcept nogil:
        """At most TILE_ROWS rows from q on of all phases, some columns at a time, which share lines."""
        cdef Py_ssize_t pixels = max(self.step_w * self.step_w, self.stride_w)
        cdef Py_ssize_t most_columns = max(4 // self.step_w, self.strip_columns(self.channels * pixels))
        cdef Py_ssize_t column = 0, columns, p, at, rows, last, most
        while column < self.columns:
            columns = even_part(self.columns - column, most_columns)
            for p in range(self.phase_count):
                at, last = q, min(end, self.phases[p].rows)
                while at < last:
                    # 5x5 taps of four rows would not stay in registers, nor 9 rows of input in L1.
                    most = 2 if self.of_phase[p].rows > 3 or self.step_h > 1 else STRIP_ROWS
                    rows = most if last - at >= most else 2 if last - at >= 2 else 1
                    self.run_strip(x, packed, relu, y, p, at, rows, column,
                                   min(columns, self.phases[p].columns - column))
                    at += rows
            column += columns

    cdef void run_strip(self, const real* x, const real* packed, bint relu, real* y, Py_ssize_t p,
                        Py_ssize_t q, Py_ssize_t rows, Py_ssize_t column,
                        Py_ssize_t columns) noexcept nogil:
        cdef const Phase* phase = &self.phases[p]
        cdef const DepthwiseTaps* taps = &self.of_phase[p]
        cdef DepthwiseStrips s
        cdef Py_ssize_t i, v, c, h = q * self.step_h + taps.top, w = column * self.step_w + taps.left
        cdef Py_ssize_t line = self.line if self.copies else self.W * self.C
        cdef const real* b
        s.pixel = self.pixel if self.copies else self.C
        # Phases read the same.
        s.ahead = columns * self.step_w * s.pixel if self.long_rows and p == 0 else 0
        s.W, s.zeros, s.relu, s.streams = self.W, <const real*> self.zeros.data, relu, self.streams
        s.y_row, s.y_step = self.stride_h * self.TW * self.channels, self.stride_w * self.channels
        if self.copies:  # and padded: columns count from the copy's first
            x += self.left * self.pixel
            s.W, w = line // self.pixel, w - self.left
        for i in range((rows - 1) * self.step_h + taps.rows):
            s.row[i] = x + (h + i) * line if self.copies or 0 <= h + i < self.H else s.zeros
        y += (((phase.to_row + q * self.stride_h) * self.TW + phase.to_column) * self.channels
              + column * s.y_step)
        for v in range(self.vectors):
            c = vector_place(v, self.channels)
            b = packed + v * (1 + self.taps) * VL
            depthwise_strip_of(rows, taps.strip, &s, c, w, columns, b, b + (1 + taps.first) * VL, y + c)

    cdef void run_rows(self, const real* x, const real* packed, bint relu, real* y, Py_ssize_t p,
                       Py_ssize_t q, Py_ssize_t rows, real* scratch) noexcept nogil:
        """Rows q on of a phase of an image."""
        cdef const Phase* phase = &self.phases[p]
        cdef const DepthwiseTaps* taps = &self.of_phase[p]
        cdef DepthwiseSteps steps
        cdef Py_ssize_t line = self.line if self.copies else self.W * self.C
        cdef Py_ssize_t pixel = self.pixel if self.copies else self.C
        cdef Py_ssize_t column = 0, columns = TILE_COLUMNS if phase.columns >= TILE_COLUMNS else 1
        cdef Py_ssize_t at, h = q * self.step_h + taps.top, w, v, c, i, j
        cdef Py_ssize_t height = (rows - 1) * self.step_h + (taps.rows - 1) * taps.down + 1
        cdef Py_ssize_t width = ((columns - 1) * self.step_w
                                 + (taps.columns // self.split - 1) * taps.across + 1)
        cdef bint inside, fetches = not self.copies and p == 0  # phases read the same
        cdef const real* b
        steps.step_h, steps.x_row, steps.x_step = self.step_h, line, self.step_w * pixel
        steps.streams = self.streams
        steps.y_row = self.stride_h * self.TW * self.channels
        steps.y_step = self.stride_w * self.channels
        y += ((phase.to_row + q * self.stride_h) * self.TW + phase.to_column) * self.channels
        while column < phase.columns:
            at = min(column, phase.columns - columns)  # moved back rather than cut
            w = at * self.step_w + taps.left
            inside = self.copies or (h >= 0 and w >= 0 and h + height <= self.H
                                     and w + width <= self.W)
            for v in range(self.vectors):
                c = vector_place(v, self.channels)
                b = packed + v * (1 + self.taps) * VL
                if inside and self.channels >= VL:
                    # What the next tile is the first to read, in its order in memory: the tiles' own, a
                    # pixel apart, is none that the hardware fetches by itself.
                    for i in range(height if fetches else 0):
                        for j in range(columns * self.step_w):
                            prefetch(x + (h + i) * line + (w + width) * pixel
                                     + (v * columns * self.step_w + j) * VL)
                    depthwise_tile_of(rows, columns, taps, taps.offset, &steps,
                                      x + h * line + w * pixel + c, b + (1 + taps.first) * VL, b,
                                      relu, y + at * steps.y_step + c)
                else:
                    self.run_patch(x + c, h, w, height, width, rows, columns, taps, &steps,
                                   b + (1 + taps.first) * VL, b, relu, y + at * steps.y_step + c,
                                   scratch)
            column += columns

    cdef void run_patch(self, const real* x, Py_ssize_t h, Py_ssize_t w, Py_ssize_t height,
                        Py_ssize_t width, Py_ssize_t rows, Py_ssize_t columns,
                        const DepthwiseTaps* taps, const DepthwiseSteps* in_place,
                        const real* weights, const real* b, bint relu, real* y,
                        real* scratch) noexcept nogil:
        """A tile at the image's edge, or of few channels: on a padded copy of what it reads."""
        cdef DepthwiseSteps steps = in_place[0]
        cdef Py_ssize_t i, j, w0, w1
        cdef real[256] part     # TILE_ROWS x TILE_COLUMNS vectors of at most 16
        cdef vec* to
        cdef const real* row
        if self.copies:
            x += h * in_place.x_row + w * self.pixel
        else:
            w0, w1 = min(max(0, -w), width), max(0, min(width, self.W - w))
            for i in range(height):
                to, row = <vec*> scratch + i * self.patch_columns, x + ((h + i) * self.W + w) * self.C
                if h + i < 0 or h + i >= self.H or w1 <= w0:
                    for j in range(width):
                        to[j] = vec_set(0)
                    continue
                for j in range(w0):
                    to[j] = vec_set(0)
                for j in range(w1, width):
                    to[j] = vec_set(0)
                if self.channels >= VL:
                    for j in range(w0, w1):
                        to[j] = (<const vec*> (row + j * self.C))[0]
                else:
                    for j in range(w0, w1):
                        to[j] = load_part(row + j * self.C, self.channels)
            x = scratch
            steps.x_row, steps.x_step = self.patch_columns * VL, self.step_w * VL
        if self.channels >= VL:
            depthwise_tile_of(rows, columns, taps, taps.patch_offset, &steps, x, weights, b, relu, y)
            return
        steps.y_row, steps.y_step, steps.streams = columns * VL, VL, False
        depthwise_tile_of(rows, columns, taps, taps.offset if self.copies else taps.patch_offset,
                          &steps, x, weights, b, relu, part)
        for i in range(rows):
            for j in range(columns):
                store_few(part + (i * columns + j) * VL,
                          y + i * in_place.y_row + j * in_place.y_step, self.channels)
