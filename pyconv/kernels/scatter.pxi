# The scatter: each input pixel times all taps at once, added to the outputs that the taps reach.
#
# It serves dx, and so the transposed convolution, of few channels: vectors along these would be mostly
# empty (gather.pxi). Here the lanes are [kh, kw, channel], KH * KW * K numbers of each input pixel, by a
# product of matrices that reads the input in place. This is col2im, but a few rows at a time, so that
# the products stay near; of few images, all of them, which fit into L2. A row of outputs is summed in
# two steps, by vectors at any address:
#
#     t[q, kw, k] = sum over kh of products[row of kh, q, kh, kw, k]
#     y[q * stride + j, k] = sum over i of t[q - i, i * stride + j, k]
#
# (Dilated taps are a multiple of the stride apart, and j is 0: see `share`.) What padding cuts off is
# never added, so nothing beside the image is multiplied.

from cython.parallel cimport parallel, threadid
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

cdef enum:
    GROUP_PIXELS = 48           # multiplied at once, where rows are short: whole tiles of 12 or of 6
    SCATTER_ROWS = 16           # of a filter, at most
    PRODUCTS_BYTES = 2_097_152  # of a whole batch: these stay in the L2 of two CPUs


cdef inline inlined add_taps(
    const Py_ssize_t nv, const Py_ssize_t count, const real** rows, Py_ssize_t step,
    Py_ssize_t pixels, Py_ssize_t lanes, real* to, Py_ssize_t to_step,
) noexcept nogil:
    """to[p, i] = sum over `count` rows of row[p, i] for i < lanes, zeros behind up to nv vectors."""
    cdef vec[16] acc
    cdef Py_ssize_t p, v, r, at = 0
    for p in range(pixels):
        for v in range(nv):
            acc[v] = vec_set(0)
        for r in range(count):
            for v in range(nv):
                acc[v] = acc[v] + (<const vec*> (rows[r] + at + v * VL))[0]
        for v in range(nv):
            (<vec*> (to + v * VL))[0] = first_lanes(acc[v], lanes - v * VL)
        at += step
        to += to_step


cdef inline inlined add_rows_of(
    const Py_ssize_t nv, Py_ssize_t count, const real** rows, Py_ssize_t step, Py_ssize_t pixels,
    Py_ssize_t lanes, real* to, Py_ssize_t to_step,
) noexcept nogil:
    """`add_taps`, unrolled for up to 5 rows of taps."""
    if count == 5:
        add_taps(nv, 5, rows, step, pixels, lanes, to, to_step)
    elif count == 4:
        add_taps(nv, 4, rows, step, pixels, lanes, to, to_step)
    elif count == 3:
        add_taps(nv, 3, rows, step, pixels, lanes, to, to_step)
    elif count == 2:
        add_taps(nv, 2, rows, step, pixels, lanes, to, to_step)
    elif count == 1:
        add_taps(nv, 1, rows, step, pixels, lanes, to, to_step)
    else:
        add_taps(nv, count, rows, step, pixels, lanes, to, to_step)


cdef void add_taps_of(
    const real** rows, Py_ssize_t count, Py_ssize_t step, Py_ssize_t pixels, Py_ssize_t lanes,
    real* to, Py_ssize_t to_step,
) noexcept nogil:
    """`add_taps`, at most 2 * LANES numbers at a time."""
    cdef Py_ssize_t r
    while lanes > LANES:
        add_rows_of(2 * LANE_VECTORS, count, rows, step, pixels, lanes, to, to_step)
        lanes -= 2 * LANES
        to += 2 * LANES
        for r in range(count):
            rows[r] += 2 * LANES
    if lanes > 0:
        add_rows_of(LANE_VECTORS, count, rows, step, pixels, lanes, to, to_step)


cdef inline inlined join_taps(
    const Py_ssize_t turns, const real* t, Py_ssize_t pitch, Py_ssize_t back, Py_ssize_t share,
    Py_ssize_t step, Py_ssize_t pixels, real* y,
) noexcept nogil:
    """y[p * step + i] = sum over j < turns of t[p * pitch - j * back + i] for i < share, 0 up to `step`.

    VL numbers more are spoiled.
    """
    cdef Py_ssize_t p, i, j
    cdef vec acc
    for p in range(pixels):
        i = 0
        while i < step:
            acc = vec_set(0)
            for j in range(turns):
                acc = acc + (<const vec*> (t + i - j * back))[0]
            (<vec*> (y + i))[0] = first_lanes(acc, share - i)
            i += VL
        t += pitch
        y += step


cdef void join_taps_of(
    Py_ssize_t turns, const real* t, Py_ssize_t pitch, Py_ssize_t back, Py_ssize_t share,
    Py_ssize_t step, Py_ssize_t pixels, real* y,
) noexcept nogil:
    """`join_taps`, unrolled for up to 5 turns."""
    if turns == 5:
        join_taps(5, t, pitch, back, share, step, pixels, y)
    elif turns == 4:
        join_taps(4, t, pitch, back, share, step, pixels, y)
    elif turns == 3:
        join_taps(3, t, pitch, back, share, step, pixels, y)
    elif turns == 2:
        join_taps(2, t, pitch, back, share, step, pixels, y)
    elif turns == 1:
        join_taps(1, t, pitch, back, share, step, pixels, y)
    else:
        join_taps(turns, t, pitch, back, share, step, pixels, y)


cdef class Scatter(Packer):
    """dx of a convolution of one group: geometry, work items, packed weights, workspaces.

    Parameters
    ----------
    source, target : tuple
        (N, H, W, C) read and written: shapes of dy and dx.
    kernel, stride, dilation, before : tuple
        (h, w) each; tap k of input pixel q adds to output q * stride + k * dilation - before. The
        dilation along the width is 1, or a multiple of the stride.
    """
    cdef Py_ssize_t N, H, W, C, TH, TW, K, KH, stride, dilation, above
    cdef Py_ssize_t before            # numbers of a row that padding cuts off
    cdef Py_ssize_t taps, lanes       # numbers of a row of taps; of all, in whole LANES
    cdef Py_ssize_t step              # numbers of a row from a pixel's outputs to those of the next
    cdef Py_ssize_t turns, back       # pixels that add to the same outputs; how far back in t each is
    cdef Py_ssize_t share             # and how many numbers it adds
    cdef Py_ssize_t edge              # pixels of zeros beside t
    cdef Py_ssize_t pitch             # of t
    cdef Py_ssize_t width             # numbers of a row of outputs, with what padding cuts off
    cdef Py_ssize_t group, ring       # rows of products made at once, and kept
    cdef Py_ssize_t band, bands
    cdef bint whole                   # few images: all products are made first, then added
    cdef Py_ssize_t chunk, chunks     # pixels of the batch that are then multiplied at once
    cdef Workspace products, zeros

    def __cinit__(self, tuple source, tuple target, tuple kernel, tuple stride, tuple dilation,
                  tuple before):
        cdef Py_ssize_t KW, stride_w, dilation_w
        self.N, self.H, self.W, self.C = source
        self.TH, self.TW, self.K = target[1:]
        self.products, self.zeros = Workspace(), Workspace()
        self.KH, KW = kernel
        self.stride, stride_w = stride
        self.dilation, dilation_w = dilation
        self.above = before[0]
        self.taps, self.step = KW * self.K, stride_w * self.K
        # As many taps as a step is long go to the same outputs; if dilated, each to outputs of its own.
        self.share = self.step if dilation_w == 1 else self.K
        self.turns = (self.taps + self.share - 1) // self.share
        self.edge = (self.turns - 1) * max(1, dilation_w // stride_w)
        self.lanes = (self.KH * self.taps + LANES - 1) // LANES * LANES
        self.blocks = (self.KH * self.taps + 2 * VL - 1) // (2 * VL)
        self.pitch = (self.turns * self.share + LANES - 1) // LANES * LANES
        self.back = max(1, dilation_w // stride_w) * self.pitch - self.share
        self.before = before[1] * self.K
        self.width = max((self.W + self.edge) * self.step, self.before + self.TW * self.K)
        self.width = (self.width + LANES - 1) // LANES * LANES
        self.group = max(1, min(self.H, GROUP_PIXELS // self.W))
        self.ring = (self.KH - 1) * self.dilation // self.stride + self.group
        self.ring = (self.ring + self.group - 1) // self.group * self.group
        self.work = self.N * self.H * self.W * self.KH * self.taps * self.C
        self.cut()
        self.area = (self.W + 2 * self.edge) * self.pitch + self.width + 4 * LANES
        if not self.whole:
            self.area += self.ring * self.W * self.lanes + 2 * LANES

    cdef cut(self):
        """Bands of output rows; each multiplies its input rows, unless all are multiplied before."""
        cdef Py_ssize_t pixels = self.N * self.H * self.W, blocks = (self.lanes + 31) // 32
        cdef Py_ssize_t most = max(GROUP_PIXELS, BAND_BYTES // (self.C * <Py_ssize_t> sizeof(real)))
        self.band = self.TH
        self.whole = (self.too_few_items()
                      and pixels * self.lanes * <Py_ssize_t> sizeof(real) <= PRODUCTS_BYTES)
        while (self.band > (1 if self.whole else 2 * (self.KH - 1) * self.dilation + 1)
               and self.too_few_items()):
            self.band = (self.band + 1) // 2
        self.bands = (self.TH + self.band - 1) // self.band
        self.items = self.N * self.bands
        self.chunk = min(most, (pixels * blocks + ITEMS - 1) // ITEMS)
        self.chunk = (self.chunk + GROUP_PIXELS - 1) // GROUP_PIXELS * GROUP_PIXELS
        self.chunks = (pixels + self.chunk - 1) // self.chunk
        if self.whole:
            self.ring = self.H

    cdef bint too_few_items(self):
        cdef Py_ssize_t items = self.N * ((self.TH + self.band - 1) // self.band)
        return too_few(items, ITEMS, self.work)

    cdef double cycles(self):
        """An estimate, as those of choice.pxi, and fitted like them."""
        cdef double rows = self.N * self.H if self.whole else self.items * min(<double> self.H, (
            self.band + (self.KH - 1) * self.dilation) / <double> self.stride)
        cdef double adds = 1 + min(self.KH, self.H) / <double> self.stride  # rows of products, and t
        cdef Py_ssize_t joins = (self.turns + 1) * (self.W + self.edge)
        cdef Py_ssize_t taps = (self.taps + LANES - 1) // LANES, step = (self.step + LANES - 1) // LANES
        cdef bint far = self.ring * self.W * self.lanes * <Py_ssize_t> sizeof(real) > FAR_BYTES
        if not self.whole and too_few(self.items, FEW_ITEMS, self.work):
            return INFINITY  # threads would wait for each other
        return (
            rows * self.W * self.lanes / LANES * (0.735 * self.C + (20 if far else 5))
            + self.N * self.TH * (self.W * taps * adds + 2.1 * step * joins + 80
                                  + 0.15 * self.TW * self.K)
            + 0.85 * self.lanes * self.C + (4000 if self.whole else 0))  # of another region

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* t, Py_ssize_t item) noexcept nogil:
        """A band of output rows of one image."""
        cdef Py_ssize_t n = item // self.bands, row0 = item % self.bands * self.band, row, last, count
        cdef Py_ssize_t done = row0 + self.above - (self.KH - 1) * self.dilation
        cdef Py_ssize_t first = (done + self.stride - 1) // self.stride if done > 0 else 0
        cdef Py_ssize_t row_end = min(row0 + self.band, self.TH)
        cdef Py_ssize_t end = min(self.H, (row_end - 1 + self.above) // self.stride + 1)
        cdef real* sums = t + (self.W + 2 * self.edge) * self.pitch
        cdef real* products = sums + self.width + 4 * LANES
        cdef const real* rows[SCATTER_ROWS]
        if self.whole:
            products = <real*> self.products.data + n * self.H * self.W * self.lanes
            first = 0
        memset(t, 0, (self.W + 2 * self.edge) * self.pitch * sizeof(real))
        x += n * self.H * self.W * self.C
        y += (n * self.TH + row0) * self.TW * self.K
        done = first
        for row in range(row0, row_end):
            last = min(self.H - 1, (row + self.above) // self.stride)
            while done <= last and not self.whole:
                self.multiply(x + done * self.W * self.C, packed,
                              products + (done - first) % self.ring * self.W * self.lanes,
                              min(self.group, end - done) * self.W, 0, self.lanes)
                done += self.group
            count = self.find_rows(row, first, products, rows)
            add_taps_of(rows, count, self.lanes, self.W, self.taps, t + self.edge * self.pitch,
                        self.pitch)
            join_taps_of(self.turns, t + self.edge * self.pitch, self.pitch, self.back, self.share,
                         self.step, self.W + self.edge, sums)
            count = (self.W + self.edge) * self.step
            memset(sums + count, 0, (self.width - count) * sizeof(real))
            self.finish(sums + self.before, b, relu, y)
            y += self.TW * self.K

    cdef Py_ssize_t find_rows(self, Py_ssize_t row, Py_ssize_t first, const real* products,
                              const real** rows) noexcept nogil:
        """The rows of products that a row of outputs adds: of each row of taps that meets the input."""
        cdef Py_ssize_t kh, h, count = 0
        for kh in range(self.KH):
            h = row + self.above - (self.KH - 1 - kh) * self.dilation
            if h >= 0 and h % self.stride == 0 and h // self.stride < self.H:
                h = (h // self.stride - first) % self.ring
                rows[count] = products + h * self.W * self.lanes + (self.KH - 1 - kh) * self.taps
                count += 1
        return count

    cdef void finish(self, const real* sums, const real* b, bint relu, real* y) noexcept nogil:
        """A row of outputs, with bias and ReLU if there are any."""
        cdef Py_ssize_t i
        if b == NULL:
            memcpy(y, sums, self.TW * self.K * sizeof(real))
        else:
            for i in range(self.TW * self.K):
                y[i] = sums[i] + b[i]
        if relu:
            relu_span(y, y, self.TW * self.K)

    cdef void run_chunk(self, const real* x, const real* packed, Py_ssize_t item) noexcept nogil:
        """Products of some pixels, for 2 vectors of lanes."""
        cdef Py_ssize_t first = item % self.chunks * self.chunk, lane = item // self.chunks * 2 * VL
        cdef Py_ssize_t pixels = min(self.chunk, self.N * self.H * self.W - first)
        self.multiply(x + first * self.C, packed, <real*> self.products.data + first * self.lanes,
                      pixels, lane, min(self.lanes, lane + 2 * VL))

    cdef void multiply(self, const real* x, const real* packed, real* products, Py_ssize_t pixels,
                       Py_ssize_t lane, Py_ssize_t end) noexcept nogil:
        """products[pixel, lane] = sum over c of x[pixel, c] * packed[lane // 2 VL, c, lane % 2 VL]."""
        cdef Py_ssize_t nv
        cdef Run run = Run(0, 0)
        cdef Block tiles = Block(1, 0, 0, self.C, 0, self.lanes, &run, 1, self.C, 1, 0,
                                 <const real*> self.zeros.data, False, True)
        while lane < end:
            nv = min(2, (end - lane) // VL)
            tiles.w_step = nv * VL
            pixel_lines(pixels, nv, nv * VL, &tiles, x, packed + lane * self.C, products + lane)
            lane += 2 * VL

    cdef void pack_block(self, const real* w, real* packed, Py_ssize_t block) noexcept nogil:
        """Weights w[kh, kw, k, c] of 2 VL lanes [kh, kw, k] as the tile reads them: [c, lane]."""
        cdef Py_ssize_t lane = block * 2 * VL
        pack_columns(w + lane * self.C, self.C, self.C, min(2 * VL, self.KH * self.taps - lane),
                     packed + lane * self.C, min(2 * VL, self.lanes - lane))

    cdef int pack(self, Packed* packed, const real* w, int threads, Py_ssize_t version) except -1:
        return self.pack_weights(packed, w, self.lanes * self.C, threads, version)

    cdef real* pack_bias(self, const real* b) except? NULL:
        """A row of outputs."""
        cdef Py_ssize_t i
        cdef real* bias = NULL
        if b != NULL:
            bias = self.bias.take(self.TW * self.K)
            for i in range(self.TW * self.K):
                bias[i] = b[i % self.K]
        return bias

    cdef int prepare(self, const real* x, Packed* packed, int threads) except -1:
        """All products, if they are made first."""
        cdef Shares shares
        cdef Py_ssize_t thread, item, items = self.blocks * self.chunks
        self.zeros.take(2 * VL)
        if self.whole:
            self.products.take(self.N * self.H * self.W * self.lanes + 2 * LANES)
            share_out(&shares, items, threads)
            region_starts(is_shared(self.work))
            with nogil, parallel(num_threads=threads):
                thread = threadid()
                item = next_item(&shares, thread)
                while item >= 0:
                    self.run_chunk(x, self.packed_by(packed, thread), item)
                    item_ends()
                    item = next_item(&shares, thread)
        return 0
