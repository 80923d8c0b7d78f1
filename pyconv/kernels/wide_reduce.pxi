# The wide reduction: dw and db of convolutions with few output channels.
#
# Vectors along dy's channels would be mostly empty, so they lie along the pixels of a row: a sum is
# LANES partial sums, lane l over the pixels l, l + LANES, ... of every row, added at the end as a tree.
# LANES is the same for all instruction sets (one to eight of their vectors), and so are the bits.

from cython.parallel cimport parallel, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef enum:
    WIDE_CHANNELS = 8       # at most; more fill vectors of their own
    TILE_WIDTH = 4          # channels of dy a tile at most,
    TILE_HEIGHT = 6         # filter rows: 6 x 4 sums of one vector fill 24 of 32 registers


cdef double wide_reduce_cycles(tuple y, tuple w, tuple stride, groups):
    """About how many cycles an image takes of `WideReduce`, on vectors of 16; infinite if it cannot."""
    KH, KW, C, K = w
    if groups > 1 or K > WIDE_CHANNELS or KH * KW * C * K > 2048 or y[2] < 8:
        return float("inf")
    across = (y[2] + LANES - 1) // LANES
    strides = stride[0] * stride[1]
    return y[1] * across * ((1.1 + 2.2 / across) * KH * KW * C * K + 24 * K + C * strides * (
        24 if strides == 1 and C <= WIDE_CHANNELS else 80))


cdef void deal_lanes(Py_ssize_t C, whole* lanes) noexcept nogil:
    """For `deal_row`: lanes[c, i] picks channel c from what was picked before, and vector i."""
    cdef Py_ssize_t c, i, j, number
    for c in range(C):
        for i in range(1, C):
            for j in range(VL):
                number = j * C + c
                if number // VL == i:
                    lanes[j] = VL + number % VL
                else:
                    lanes[j] = number % VL if i == 1 else j
            lanes += VL


cdef inline inlined deal_row(
    const Py_ssize_t C, const real* x, Py_ssize_t pixels, real* planes, Py_ssize_t plane,
    const ivec* lanes,
) noexcept nogil:
    """planes[c, p] = x[p, c], for 2 to 8 channels: VL pixels are C whole vectors, picked apart."""
    cdef vec a[WIDE_CHANNELS]
    cdef vec picked
    cdef Py_ssize_t p = 0, c, i
    while p < pixels and pixels >= VL:
        p = min(p, pixels - VL)  # the last vectors overlap those before
        for i in range(C):
            a[i] = (<const vec*> (x + p * C + i * VL))[0]
        for c in range(C):
            picked = a[0]
            for i in range(1, C):
                picked = vec_pick(picked, a[i], lanes[c * (C - 1) + i - 1])
            (<vec*> (planes + c * plane + p))[0] = picked
        p += VL
    while p < pixels:
        for c in range(C):
            planes[c * plane + p] = x[p * C + c]
        p += 1


cdef void deal_row_of(
    Py_ssize_t C, const real* x, Py_ssize_t pixels, real* planes, Py_ssize_t plane,
    const ivec* lanes,
) noexcept nogil:
    """`deal_row` of 1 to 8 channels."""
    if C == 8:
        deal_row(8, x, pixels, planes, plane, lanes)
    elif C == 7:
        deal_row(7, x, pixels, planes, plane, lanes)
    elif C == 6:
        deal_row(6, x, pixels, planes, plane, lanes)
    elif C == 5:
        deal_row(5, x, pixels, planes, plane, lanes)
    elif C == 4:
        deal_row(4, x, pixels, planes, plane, lanes)
    elif C == 3:
        deal_row(3, x, pixels, planes, plane, lanes)
    elif C == 2:
        deal_row(2, x, pixels, planes, plane, lanes)
    else:
        memcpy(planes, x, pixels * sizeof(real))


cdef void deal_rows(
    const real* x, Py_ssize_t H, Py_ssize_t W, Py_ssize_t C, real* band, Py_ssize_t plane,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, const whole* lanes,
) noexcept nogil:
    """`planar_rows` of at most 8 channels at step 1."""
    cdef Py_ssize_t h, c, first = max(0, column), last = min(W, column + plane)
    for h in range(row, row + rows):
        if h < 0 or h >= H or first >= last:
            memset(band, 0, C * plane * sizeof(real))
        else:
            deal_row_of(C, x + (h * W + first) * C, last - first, band + first - column, plane,
                        <const ivec*> lanes)
            for c in range(C):
                memset(band + c * plane, 0, (first - column) * sizeof(real))
                memset(band + c * plane + last - column, 0,
                       (plane - last + column) * sizeof(real))
        band += C * plane


cdef inline inlined wide_filter_tile(
    const Py_ssize_t R, const Py_ssize_t K,
    const real* x, Py_ssize_t x_row, const Py_ssize_t* offset,
    const real* dy, Py_ssize_t dy_row, Py_ssize_t dy_plane,
    Py_ssize_t OH, Py_ssize_t OW, vec* sums, Py_ssize_t sums_row,
) noexcept nogil:
    """sums[r, k] += x[h, offset[r] + p] * dy[h, k, p], for all pixels (h, p), LANES at a time."""
    cdef vec[24] acc  # R * K * LANE_VECTORS of them are used
    cdef vec a, inside
    cdef Py_ssize_t h, p, r, k, v, chunk
    if R * K * LANE_VECTORS > SUMS:
        return
    for r in range(R):
        for k in range(K * LANE_VECTORS):
            acc[r * K * LANE_VECTORS + k] = sums[r * sums_row + k]
    for h in range(OH):
        for chunk in range(OW // LANES):
            p = chunk * LANES
            for v in range(LANE_VECTORS):
                for r in range(R):
                    a = (<const vec*> (x + offset[r] + p + v * VL))[0]
                    for k in range(K):
                        acc[(r * K + k) * LANE_VECTORS + v] = (
                            acc[(r * K + k) * LANE_VECTORS + v]
                            + a * (<const vec*> (dy + k * dy_plane + p + v * VL))[0])
        if OW % LANES:
            p = OW - OW % LANES
            for v in range(LANE_VECTORS):
                for r in range(R):
                    # Beyond the row dy is 0, but x may be infinite.
                    a = first_lanes((<const vec*> (x + offset[r] + p + v * VL))[0],
                                    OW - p - v * VL)
                    for k in range(K):
                        acc[(r * K + k) * LANE_VECTORS + v] = (
                            acc[(r * K + k) * LANE_VECTORS + v]
                            + a * (<const vec*> (dy + k * dy_plane + p + v * VL))[0])
        x = x + x_row
        dy = dy + dy_row
    for r in range(R):
        for k in range(K * LANE_VECTORS):
            sums[r * sums_row + k] = acc[r * K * LANE_VECTORS + k]


cdef void wide_filter_tile_of(
    Py_ssize_t R, Py_ssize_t K,
    const real* x, Py_ssize_t x_row, const Py_ssize_t* offset,
    const real* dy, Py_ssize_t dy_row, Py_ssize_t dy_plane,
    Py_ssize_t OH, Py_ssize_t OW, vec* sums, Py_ssize_t sums_row,
) noexcept nogil:
    """`wide_filter_tile` of 1 to 6 filter rows and 1 to 4 channels."""
    if K == 4:
        if R == 6:
            wide_filter_tile(6, 4, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 5:
            wide_filter_tile(5, 4, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 4:
            wide_filter_tile(4, 4, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 3:
            wide_filter_tile(3, 4, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 2:
            wide_filter_tile(2, 4, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        else:
            wide_filter_tile(1, 4, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
    elif K == 3:
        if R == 6:
            wide_filter_tile(6, 3, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 5:
            wide_filter_tile(5, 3, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 4:
            wide_filter_tile(4, 3, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 3:
            wide_filter_tile(3, 3, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 2:
            wide_filter_tile(2, 3, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        else:
            wide_filter_tile(1, 3, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
    elif K == 2:
        if R == 6:
            wide_filter_tile(6, 2, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 5:
            wide_filter_tile(5, 2, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 4:
            wide_filter_tile(4, 2, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 3:
            wide_filter_tile(3, 2, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 2:
            wide_filter_tile(2, 2, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        else:
            wide_filter_tile(1, 2, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
    else:
        if R == 6:
            wide_filter_tile(6, 1, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 5:
            wide_filter_tile(5, 1, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 4:
            wide_filter_tile(4, 1, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 3:
            wide_filter_tile(3, 1, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        elif R == 2:
            wide_filter_tile(2, 1, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)
        else:
            wide_filter_tile(1, 1, x, x_row, offset, dy, dy_row, dy_plane, OH, OW, sums, sums_row)


cdef inline Py_ssize_t wide_filter_height() noexcept nogil:
    """Filter rows of a tile: 6, 3 or 1.

    With a tile's width they fill the registers, and are as even as that allows: what a tile of 1 x 4
    loads takes longer than its products.
    """
    cdef Py_ssize_t sums = SUMS // LANE_VECTORS
    return TILE_HEIGHT if sums >= TILE_HEIGHT * TILE_WIDTH else 3 if sums >= 6 else 1


cdef inline Py_ssize_t wide_filter_width(Py_ssize_t height) noexcept nogil:
    """Channels of dy of a tile."""
    return max(1, min(TILE_WIDTH, SUMS // LANE_VECTORS // height))


cdef class WideReduce:
    """dw and db of one convolution of one group with at most WIDE_CHANNELS outputs; as `Reduce`."""
    cdef Py_ssize_t N, H, W, C, OH, OW, K, KH, KW, stride_h, stride_w, dilation_h, dilation_w
    cdef Py_ssize_t top, left, parts, band, plane, line, dy_plane, area, slot, rows, partial
    cdef whole* x_lanes                           # for `deal_row`
    cdef whole* dy_lanes
    cdef Py_ssize_t* offset                       # where filter row (kh, kw, c) reads
    cdef Workspace partials, scratch, lanes
    cdef readonly Py_ssize_t work

    def __cinit__(self, x, dy, kernel, stride, dilation, before):
        cdef Py_ssize_t height, kh, kw, c, row = 0
        self.N, self.H, self.W, self.C = x
        self.OH, self.OW, self.K = dy[1:]
        self.KH, self.KW = kernel
        self.stride_h, self.stride_w = stride
        self.dilation_h, self.dilation_w = dilation
        self.top, self.left = before
        self.partials, self.scratch, self.lanes = Workspace(), Workspace(), Workspace()
        self.x_lanes = <whole*> self.lanes.take(2 * WIDE_CHANNELS * WIDE_CHANNELS * VL)
        self.dy_lanes = self.x_lanes + WIDE_CHANNELS * WIDE_CHANNELS * VL
        deal_lanes(min(self.C, WIDE_CHANNELS), self.x_lanes)
        deal_lanes(self.K, self.dy_lanes)
        self.rows = self.KH * self.KW * self.C
        self.work = self.N * self.OH * self.OW * self.rows * self.K
        self.parts = max(1, min(ITEMS, 1 + self.work // ITEM_WORK, self.N * self.OH))
        self.partial = (self.rows + 1) * self.K * LANES  # the last row is db's
        self.dy_plane = (self.OW + LANES - 1) // LANES * LANES
        self.plane = (self.KW - 1) * self.dilation_w // self.stride_w + 1 + self.dy_plane
        self.line = self.C * self.stride_w * self.plane
        self.band = self.OH
        while True:
            height = (self.band - 1) * self.stride_h + (self.KH - 1) * self.dilation_h + 1
            self.area = (height * self.line + LANES - 1) // LANES * LANES
            self.slot = self.area + self.band * self.K * self.dy_plane
            if self.band == 1 or self.slot * <Py_ssize_t> sizeof(real) <= BAND_BYTES:
                break
            self.band = (self.band + 1) // 2
        self.offset = <Py_ssize_t*> malloc(self.rows * sizeof(Py_ssize_t))
        if self.offset == NULL:
            raise MemoryError()
        for kh in range(self.KH):
            for kw in range(self.KW):
                for c in range(self.C):
                    self.offset[row] = (
                        kh * self.dilation_h * self.line
                        + (c * self.stride_w + kw * self.dilation_w % self.stride_w) * self.plane
                        + kw * self.dilation_w // self.stride_w)
                    row += 1

    def __dealloc__(self):
        free(self.offset)

    cdef run(self, const real* x, const real* dy, real* dw, real* db, int num_threads):
        """Fill dw and db; either may be NULL."""
        cdef Shares shares
        cdef Py_ssize_t thread, part
        cdef real* partials = self.partials.take(self.parts * self.partial)
        cdef Py_ssize_t slot = apart(self.slot)
        cdef real* scratch = self.scratch.take(num_threads * slot)
        cdef int threads = team(self.work, num_threads)
        with nogil:
            share_out(&shares, self.parts, threads)
            region_starts(is_shared(self.work))
            with parallel(num_threads=threads):
                thread = threadid()
                part = next_item(&shares, thread)
                while part >= 0:
                    self.run_part(x, dy, partials + part * self.partial,
                                  scratch + thread * slot, part, dw != NULL)
                    item_ends()
                    part = next_item(&shares, thread)
            if dw != NULL:
                self.add_parts(partials, dw, self.rows * self.K)
            if db != NULL:
                self.add_parts(partials + self.rows * self.K * LANES, db, self.K)

    cdef void run_part(self, const real* x, const real* dy, real* sums, real* scratch,
                       Py_ssize_t part, bint want_dw) noexcept nogil:
        """The partial sums of one part of the output rows, a band at a time."""
        cdef Py_ssize_t row = part * (self.N * self.OH) // self.parts
        cdef Py_ssize_t end = (part + 1) * (self.N * self.OH) // self.parts
        cdef Py_ssize_t n, oh, rows
        memset(sums, 0, self.partial * sizeof(real))
        while row < end:
            n, oh = row // self.OH, row % self.OH
            rows = min(self.band, self.OH - oh, end - row)
            deal_rows(dy + n * self.OH * self.OW * self.K, self.OH, self.OW, self.K,
                      scratch + self.area, self.dy_plane, oh, 0, rows, self.dy_lanes)
            if want_dw and self.stride_w == 1 and self.C <= WIDE_CHANNELS:
                deal_rows(x + n * self.H * self.W * self.C, self.H, self.W, self.C, scratch,
                          self.plane, oh * self.stride_h - self.top, -self.left,
                          (rows - 1) * self.stride_h + (self.KH - 1) * self.dilation_h + 1,
                          self.x_lanes)
            elif want_dw:
                planar_rows(x + n * self.H * self.W * self.C, self.H, self.W, self.C, scratch,
                            self.plane, self.stride_w, oh * self.stride_h - self.top, -self.left,
                            (rows - 1) * self.stride_h + (self.KH - 1) * self.dilation_h + 1, self.C)
            if want_dw:
                self.run_band(scratch, scratch + self.area, sums, rows)
            self.add_dy(scratch + self.area, <vec*> (sums + self.rows * self.K * LANES), rows)
            row += rows

    cdef void run_band(self, const real* x, const real* dy, real* sums,
                       Py_ssize_t rows) noexcept nogil:
        cdef Py_ssize_t row = 0, k, height, width
        while row < self.rows:
            height = even_part(self.rows - row, wide_filter_height())
            k = 0
            while k < self.K:
                width = even_part(self.K - k, wide_filter_width(height))
                wide_filter_tile_of(
                    height, width, x, self.stride_h * self.line, self.offset + row,
                    dy + k * self.dy_plane, self.K * self.dy_plane, self.dy_plane, rows, self.OW,
                    <vec*> (sums + (row * self.K + k) * LANES), self.K * LANE_VECTORS)
                k += width
            row += height

    cdef void add_dy(self, const real* dy, vec* sums, Py_ssize_t rows) noexcept nogil:
        """sums[k] += dy[h, k], LANES at a time; dy is 0 beyond the row."""
        cdef Py_ssize_t h, k, v
        cdef const vec* plane
        for h in range(rows):
            for k in range(self.K):
                plane = <const vec*> (dy + (h * self.K + k) * self.dy_plane)
                for v in range(self.dy_plane // VL):
                    sums[k * LANE_VECTORS + v % LANE_VECTORS] = (
                        sums[k * LANE_VECTORS + v % LANE_VECTORS] + plane[v])

    cdef void add_parts(self, const real* sums, real* total, Py_ssize_t count) noexcept nogil:
        """total[i] = the sum of all parts' lanes: parts in their order, lanes as a tree."""
        cdef real[LANES] lane
        cdef Py_ssize_t i, j, part, half
        for i in range(count):
            memcpy(lane, sums + i * LANES, LANES * sizeof(real))
            for part in range(1, self.parts):
                for j in range(LANES):
                    lane[j] += sums[part * self.partial + i * LANES + j]
            half = LANES // 2
            while half:
                for j in range(half):
                    lane[j] += lane[j + half]
                half //= 2
            total[i] = lane[0]
