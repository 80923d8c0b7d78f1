# Depthwise convolution: each output channel reads one input channel, so vectors lie along the channels.
#
# y[q, c] = b[c] + sum over taps of x[q + tap, c] * w[tap, c]; nothing is summed across channels. There
# are so few products for each number read that memory takes most of the time. A work item is a band of
# output rows of one image. It copies the input rows that it needs, padded, into its thread's workspace:
# read front to back, and aligned, which pays although nothing is used very often. (Read in place, a
# tile's vectors lie a whole pixel apart, a pattern that the prefetcher does not follow: 8 images of
# 56x56x128 take twice as long.) The pixels of the copy are padded to whole vectors.
#
# With C_out / C_in = m > 1, output channel o reads input channel o // m. Then the copy repeats each
# channel m times for y and dw; for dx, which sums m products a tap, it splits the channels of dy into
# m planes a pixel.

from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    /* Lanes of a, then of b, picked by index. */
    #define shuffle_two(a, b, index) __builtin_shuffle((a), (b), (index))
    """
    vec shuffle_two(vec a, vec b, ivec index) noexcept nogil


cdef enum:
    TILE_PIXELS = 8     # sums that hide the latency of the multiply-add, as in tile.pxi
    TILE_TAPS = 9       # a 3x3 filter: 9 sums, and 9 offsets in general registers
    TILE_FILTER = 32    # pixels that a tile of dw sums before it is the next vector's turn
    DX_MULTIPLIER = 4   # the most planes that dy is split into: splitting takes m * m shuffles


cdef inline inlined depthwise_tile(
    const Py_ssize_t pixels, const real* x, Py_ssize_t x_step, const Py_ssize_t* offset,
    Py_ssize_t taps, const real* w, const real* b, bint relu, real* y, Py_ssize_t y_step,
) noexcept nogil:
    """y[i] = b + sum over taps t of x[i * x_step + offset[t]] * w[t], one vector each."""
    cdef vec[8] acc
    cdef vec wv
    cdef const real* p
    cdef Py_ssize_t i, t
    for i in range(pixels):
        acc[i] = (<const vec*> b)[0]
    for t in range(taps):
        wv = (<const vec*> (w + t * VL))[0]
        p = x + offset[t]
        for i in range(pixels):
            acc[i] = acc[i] + wv * (<const vec*> (p + i * x_step))[0]
    for i in range(pixels):
        (<vec*> (y + i * y_step))[0] = vec_relu(acc[i]) if relu else acc[i]


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

cdef void depthwise_tile_of(
    Py_ssize_t pixels, const real* x, Py_ssize_t x_step, const Py_ssize_t* offset,
    Py_ssize_t taps, const real* w, const real* b, bint relu, real* y, Py_ssize_t y_step,
) noexcept nogil:
    """`depthwise_tile` of 1 to 8 pixels."""
    if pixels == 8:
        depthwise_tile(8, x, x_step, offset, taps, w, b, relu, y, y_step)
    elif pixels == 7:
        depthwise_tile(7, x, x_step, offset, taps, w, b, relu, y, y_step)
    elif pixels == 6:
        depthwise_tile(6, x, x_step, offset, taps, w, b, relu, y, y_step)
    elif pixels == 5:
        depthwise_tile(5, x, x_step, offset, taps, w, b, relu, y, y_step)
    elif pixels == 4:
        depthwise_tile(4, x, x_step, offset, taps, w, b, relu, y, y_step)
    elif pixels == 3:
        depthwise_tile(3, x, x_step, offset, taps, w, b, relu, y, y_step)
    elif pixels == 2:
        depthwise_tile(2, x, x_step, offset, taps, w, b, relu, y, y_step)
    else:
        depthwise_tile(1, x, x_step, offset, taps, w, b, relu, y, y_step)


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


cdef inline vec load_until(const real* p, const real* end) noexcept nogil:
    """The next VL numbers; zeros from `end` on."""
    return (<const vec*> p)[0] if end - p >= VL else load_part(p, max(0, end - p))


cdef inline void store_few(const real* source, real* to, Py_ssize_t count) noexcept nogil:
    """Copy fewer than 16 numbers, without a call."""
    if count & 8:
        memcpy(to, source, 8 * sizeof(real))
        source, to = source + 8, to + 8
    if count & 4:
        memcpy(to, source, 4 * sizeof(real))
        source, to = source + 4, to + 4
    if count & 2:
        memcpy(to, source, 2 * sizeof(real))
        source, to = source + 2, to + 2
    if count & 1:
        to[0] = source[0]


cdef void pad_pixels(const real* x, const real* end, Py_ssize_t C, Py_ssize_t pixels, real* to,
                     Py_ssize_t vectors) noexcept nogil:
    """Copy pixels of C numbers to pixels of whole vectors; lanes behind C hold anything.

    Whole vectors are read, as far as `end`, where the array ends.
    """
    cdef Py_ssize_t p, u, width = vectors * VL
    cdef Py_ssize_t safe = max(0, min(pixels, (end - x - width + C) // C))
    if C == width:
        memcpy(to, x, pixels * C * sizeof(real))
        return
    for p in range(safe):
        for u in range(vectors):
            (<vec*> (to + p * width + u * VL))[0] = (<const vec*> (x + p * C + u * VL))[0]
    for p in range(safe, pixels):
        for u in range(vectors):
            (<vec*> (to + p * width + u * VL))[0] = load_until(x + p * C + u * VL, end)


cdef inline Py_ssize_t vector_place(Py_ssize_t v, Py_ssize_t channels) noexcept nogil:
    """The first channel of vector v. The last vector is moved back rather than cut, if it can be."""
    return max(0, min(v * VL, channels - VL))


cdef class Depthwise:
    """What y, dx and dw of a depthwise convolution share: the bands, and the copies that they read.

    Everything that decides the order of a sum follows from the shape alone, not from VL.
    """
    cdef Py_ssize_t N, H, W, C                 # of the input
    cdef Py_ssize_t channels, vectors, width   # along which vectors lie; width = vectors * VL
    cdef Py_ssize_t repeat, split              # channels = C * repeat / split
    cdef Py_ssize_t rows, columns, step_h, step_w  # outputs q read from input pixel q * step + tap on
    cdef Py_ssize_t top, left, span_h, span_w  # reach of the taps
    cdef Py_ssize_t band, bands, items, taps
    cdef Py_ssize_t pixel, line, area          # elements of a pixel, a row and all of a copy
    cdef Py_ssize_t* offset                    # of each tap in the copy
    cdef Py_ssize_t* place                     # where in a pixel vector u of a copied pixel starts
    cdef whole* lane                           # and the lanes that it takes of each vector read there
    cdef Workspace scratch
    cdef readonly Py_ssize_t work

    def __dealloc__(self):
        free(self.offset)
        free(self.place)
        free(self.lane)

    cdef prepare(self, source, Py_ssize_t channels, outputs, step, list taps):
        """Read `source` for `outputs` (rows, columns) of `channels` each, by all `taps` (h, w)."""
        cdef Py_ssize_t t
        self.N, self.H, self.W, self.C = source
        self.channels = channels
        self.repeat, self.split = max(1, channels // self.C), max(1, self.C // channels)
        self.vectors = (channels + VL - 1) // VL
        self.width = self.vectors * VL
        self.rows, self.columns = outputs
        self.step_h, self.step_w = step
        self.taps = len(taps) * self.split
        reach = taps or [(0, 0)]
        self.top, self.left = min(h for h, _ in reach), min(w for _, w in reach)
        self.span_h = max(h for h, _ in reach) - self.top + 1
        self.span_w = max(w for _, w in reach) - self.left + 1
        self.scratch = Workspace()
        self.pixel = self.split * self.width
        self.line = ((self.columns - 1) * self.step_w + self.span_w) * self.pixel
        self.cut()
        self.offset = <Py_ssize_t*> malloc((self.taps + 1) * sizeof(Py_ssize_t))
        if self.offset == NULL:
            raise MemoryError()
        for t in range(self.taps):
            h, w = taps[t // self.split]
            self.offset[t] = ((h - self.top) * self.line + (w - self.left) * self.pixel
                              + t % self.split * self.width)
        self.find_lanes()

    cdef cut(self):
        """Cut the outputs into bands whose input stays in L2."""
        cdef Py_ssize_t line = self.line // self.width * self.channels * sizeof(real)
        self.band = max(1, self.rows)
        while self.band > 1 and (self.band_rows() * line > BAND_BYTES or self.too_few_items()):
            self.band = (self.band + 1) // 2
        self.bands = self.bands_of()
        self.items = self.N * self.bands
        self.area = (self.band_rows() * self.line + 15) // 16 * 16

    cdef Py_ssize_t band_rows(self):
        return (self.band - 1) * self.step_h + self.span_h

    cdef Py_ssize_t bands_of(self):
        return max(1, (self.rows + self.band - 1) // self.band)

    cdef bint too_few_items(self):
        cdef Py_ssize_t items = self.N * self.bands_of()
        return items < ITEMS and self.work > 2 * ITEM_WORK * items

    cdef find_lanes(self):
        """Channel c of plane s is number (c * split) // repeat + s of its pixel."""
        cdef Py_ssize_t u, i, j, number
        cdef Py_ssize_t count = self.split * self.vectors
        self.place = <Py_ssize_t*> malloc(count * sizeof(Py_ssize_t))
        self.lane = <whole*> malloc(count * self.split * VL * sizeof(whole))
        if self.place == NULL or self.lane == NULL:
            raise MemoryError()
        for u in range(count):
            self.place[u] = u % self.vectors * VL * self.split // self.repeat
            for i in range(self.split):
                for j in range(VL):
                    number = (u % self.vectors * VL + j) * self.split // self.repeat
                    number += u // self.vectors - self.place[u]
                    self.lane[(u * self.split + i) * VL + j] = (
                        VL + number % VL if number // VL == i else j)

    cdef void read(self, const real* images, Py_ssize_t n, Py_ssize_t q, Py_ssize_t rows,
                   real* to) noexcept nogil:
        """Copy what `rows` output rows from q on of image n read, with zeros outside the image."""
        cdef Py_ssize_t h, row = q * self.step_h + self.top
        cdef Py_ssize_t columns = self.line // self.pixel
        cdef Py_ssize_t before = min(max(0, -self.left), columns), first = max(0, self.left)
        cdef Py_ssize_t inside = max(0, min(self.W, self.left + columns) - first)
        cdef const real* end = images + self.N * self.H * self.W * self.C
        images += n * self.H * self.W * self.C
        for h in range(row, row + (rows - 1) * self.step_h + self.span_h):
            if h < 0 or h >= self.H or inside == 0:
                memset(to, 0, self.line * sizeof(real))
            else:
                memset(to, 0, before * self.pixel * sizeof(real))
                self.copy_pixels(images + (h * self.W + first) * self.C, end,
                                 to + before * self.pixel, inside)
                memset(to + (before + inside) * self.pixel, 0,
                       (columns - before - inside) * self.pixel * sizeof(real))
            to += self.line

    cdef void copy_pixels(self, const real* x, const real* end, real* to,
                          Py_ssize_t pixels) noexcept nogil:
        cdef Py_ssize_t u, p, i, split = self.split, count = split * self.vectors
        cdef Py_ssize_t reach = self.place[count - 1] + split * VL
        cdef const Py_ssize_t* place = self.place
        cdef const whole* lane
        cdef const real* source
        cdef vec a
        if self.channels == self.C:
            pad_pixels(x, end, self.C, pixels, to, self.vectors)
            return
        for p in range(pixels):
            lane = self.lane
            for u in range(count):
                source = x + place[u]
                a = vec_set(0)
                for i in range(split):
                    a = shuffle_two(a, (<const vec*> (source + i * VL))[0] if end - x >= reach
                                    else load_until(source + i * VL, end),
                                    (<const ivec*> lane)[0])
                    lane += VL
                (<vec*> (to + u * VL))[0] = a
            x, to = x + self.C, to + self.pixel


cdef class DepthwiseGather(Depthwise):
    """y or dx of one depthwise convolution. Parameters as for `Gather`."""
    cdef Py_ssize_t TH, TW, stride_h, stride_w, phase_count
    cdef Phase* phases
    cdef Py_ssize_t* tap_index
    cdef Workspace weights
    cdef bint clips

    def __cinit__(self, source, target, step, stride, list phases, bint clips):
        cdef Py_ssize_t p, t = 0, split = max(1, source[3] // target[3])
        self.TH, self.TW, self.clips = target[1], target[2], clips
        self.stride_h, self.stride_w = stride
        self.phase_count = len(phases)
        self.weights = Workspace()
        taps = [tap for _, of_phase in phases for tap in sorted(of_phase)]
        self.phases = <Phase*> malloc(self.phase_count * sizeof(Phase))
        self.tap_index = <Py_ssize_t*> malloc((len(taps) + 1) * sizeof(Py_ssize_t))
        if self.phases == NULL or self.tap_index == NULL:
            raise MemoryError()
        for p, ((to_row, to_column), of_phase) in enumerate(phases):
            self.phases[p].to_row, self.phases[p].to_column = to_row, to_column
            self.phases[p].rows = max(0, -((to_row - self.TH) // self.stride_h))
            self.phases[p].columns = max(0, -((to_column - self.TW) // self.stride_w))
            self.phases[p].first_tap, self.phases[p].taps = t * split, len(of_phase) * split
            self.work += self.phases[p].rows * self.phases[p].columns * len(of_phase)
            t += len(of_phase)
        for t in range(len(taps)):
            self.tap_index[t] = taps[t][2]
        self.work *= source[0] * max(source[3], target[3])
        outputs = (max(self.phases[p].rows for p in range(self.phase_count)),
                   max(self.phases[p].columns for p in range(self.phase_count)))
        self.prepare(source, target[3], outputs, step, [tap[:2] for tap in taps])

    def __dealloc__(self):
        free(self.phases)
        free(self.tap_index)

    cdef real* pack(self, const real* w, const real* b) except? NULL:
        """[vector, bias and then taps in their order, VL]; zeros where there is no channel."""
        cdef Py_ssize_t v, t, c, first, lanes = min(VL, self.channels)
        cdef Py_ssize_t size = self.vectors * (1 + self.taps) * VL
        cdef const real* row
        cdef real* packed = self.weights.take(size)
        cdef real* to = packed
        memset(packed, 0, size * sizeof(real))
        for v in range(self.vectors):
            first = vector_place(v, self.channels)
            if b != NULL:
                memcpy(to, b + first, lanes * sizeof(real))
            to += VL
            for t in range(self.taps):
                row = w + (self.tap_index[t // self.split] * self.channels + first) * self.split
                for c in range(lanes):
                    to[c] = row[c * self.split + t % self.split]
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
        cdef Py_ssize_t item
        cdef int threads = team(self.work, num_threads)
        cdef real* packed = self.pack(w, b)
        cdef real* scratch = self.scratch.take(threads * self.area)
        if self.clips and not self.finite(packed):
            return False
        region_starts(is_shared(self.work))
        for item in prange(self.items, schedule="dynamic", num_threads=threads, nogil=True):
            self.run_item(x, packed, relu, y, scratch + threadid() * self.area, item)
            item_ends()
        return True

    cdef void run_item(self, const real* x, const real* packed, bint relu, real* y, real* scratch,
                       Py_ssize_t item) noexcept nogil:
        """One band of output rows of one image, row by row: phases share the rows that they read."""
        cdef Py_ssize_t n = item // self.bands, first = item % self.bands * self.band, q, p
        cdef Py_ssize_t rows = min(self.band, self.rows - first)
        cdef const Phase* phase
        self.read(x, n, first, rows, scratch)
        for q in range(first, first + rows):
            for p in range(self.phase_count):
                phase = &self.phases[p]
                if q < phase.rows:
                    self.run_row(scratch + (q - first) * self.step_h * self.line, packed, relu, phase,
                                 y + ((n * self.TH + phase.to_row + q * self.stride_h) * self.TW
                                      + phase.to_column) * self.channels)

    cdef void run_row(self, const real* x, const real* packed, bint relu, const Phase* phase,
                      real* y) noexcept nogil:
        cdef Py_ssize_t x_step = self.step_w * self.pixel
        cdef Py_ssize_t y_step = self.stride_w * self.channels
        cdef Py_ssize_t column = 0, count, v, c, i
        cdef const Py_ssize_t* offset = self.offset + phase.first_tap
        cdef const real* w
        cdef real[128] part  # 8 vectors of at most 16 lanes
        while column < phase.columns:
            count = even_part(phase.columns - column, TILE_PIXELS)
            w = packed
            for v in range(self.vectors):
                c = vector_place(v, self.channels)
                if self.channels < VL:
                    depthwise_tile_of(count, x, x_step, offset, phase.taps,
                                      w + (1 + phase.first_tap) * VL, w, relu, part, VL)
                    for i in range(count):
                        store_few(part + i * VL, y + i * y_step, self.channels)
                else:
                    depthwise_tile_of(count, x + c, x_step, offset, phase.taps,
                                      w + (1 + phase.first_tap) * VL, w, relu, y + c, y_step)
                w += (1 + self.taps) * VL
            x, y = x + count * x_step, y + count * y_step
            column += count


cdef class DepthwiseReduce(Depthwise):
    """dw and db of one depthwise convolution. Parameters as for `Reduce`.

    The bands of the whole batch are dealt out to fixed parts. Each part has a partial filter of its
    own, and these are added in their order.
    """
    cdef Py_ssize_t OH, OW, K, parts, partial, dy_area
    cdef Workspace partials

    def __cinit__(self, x, dy, kernel, stride, dilation, before):
        cdef Py_ssize_t pixels = dy[0] * dy[1] * dy[2]
        self.OH, self.OW, self.K = dy[1:]
        self.partials = Workspace()
        taps = [(kh * dilation[0] - before[0], kw * dilation[1] - before[1])
                for kh in range(kernel[0]) for kw in range(kernel[1])]
        self.work = pixels * len(taps) * self.K
        self.prepare(x, self.K, (self.OH, self.OW), stride, taps)
        self.parts = max(1, min(ITEMS, self.items, 1 + self.work // ITEM_WORK, pixels // 32))
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
                self.add_parts(partials + v * (1 + self.taps) * VL, v * VL, dw, db)

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
