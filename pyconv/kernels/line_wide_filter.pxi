# dw of few output channels: Winograd along the rows, with vectors along the quads of line_wide.pxi.
#
#     dw[kh, :, c, k] = G^T [ sum over rows and quads of (B^T x) * (A dy) ]
#
# The transposed product: a quad of dy, 4 pixels, and the r + 3 of x that it meets give r taps from
# r + 3 products instead of 4 r. Points, G and B^T are those of `LineWide`, and so are its planes, parts,
# strides, dilations and sets of groups. The rows of a band are one line of quads in x and in dy alike,
# with zeros in dy where quads hang over. So at each point a filter row and a channel of dy take one
# long dot product, in LANES partial sums as in wide_reduce.pxi: by its tile.
#
# Bands of the whole batch are cut into fixed parts, whose filters are added in their order. What is
# not finite is computed again directly (see winograd.pxi).


cdef inline inlined sum_lanes(const vec* sums, real* to) noexcept nogil:
    """VL sums of LANES partial sums each, added as a tree."""
    cdef vec[16] square
    cdef Py_ssize_t i, j, half
    for i in range(VL):
        if LANE_VECTORS == 1:
            square[i] = sums[i]
        elif LANE_VECTORS == 2:
            square[i] = sums[2 * i] + sums[2 * i + 1]
        else:
            square[i] = (sums[4 * i] + sums[4 * i + 2]) + (sums[4 * i + 1] + sums[4 * i + 3])
    transpose(square)
    half = VL // 2
    while half:
        for j in range(half):
            square[j] = square[j] + square[j + half]
        half //= 2
    (<vec*> to)[0] = square[0]


cdef inline inlined dy_points(
    const Py_ssize_t points, const real* at, const real* dy, Py_ssize_t step, Py_ssize_t blocks,
    real* to, Py_ssize_t to_step, vec* db,
) noexcept nogil:
    """A dy of 4 planes, `step` apart, to planes of points; db += their sum; LANES at a time."""
    cdef vec y0, y1, y2, y3, even, odd, p, square
    cdef Py_ssize_t i, j, v, e, first = points == 6 or points == 8  # 0 comes first there
    cdef real* pair
    for i in range(blocks):
        for v in range(LANE_VECTORS):
            j = i * LANES + v * VL
            y0, y1 = (<const vec*> (dy + j))[0], (<const vec*> (dy + step + j))[0]
            y2, y3 = (<const vec*> (dy + 2 * step + j))[0], (<const vec*> (dy + 3 * step + j))[0]
            db[v] = db[v] + ((y0 + y1) + (y2 + y3))
            if first:
                (<vec*> (to + j))[0] = y0
            for e in range((points - 1) // 2):
                p = vec_set(at[2 * e + first])
                square = p * p
                even, odd = y0 + square * y2, y1 + square * y3
                pair = to + (2 * e + first) * to_step + j
                (<vec*> pair)[0] = even + p * odd
                (<vec*> (pair + to_step))[0] = even - p * odd
            if points == 5 or points > 8:
                (<vec*> (to + (points - 1) // 2 * 2 * to_step + j))[0] = y0
            if 6 <= points <= 8 or points == 10:
                (<vec*> (to + (points - 1) * to_step + j))[0] = y3


cdef void dy_points_of(
    Py_ssize_t points, const real* at, const real* dy, Py_ssize_t step, Py_ssize_t blocks,
    real* to, Py_ssize_t to_step, vec* db,
) noexcept nogil:
    """`dy_points` of 5 to 10 points."""
    if points == 5:
        dy_points(5, at, dy, step, blocks, to, to_step, db)
    elif points == 6:
        dy_points(6, at, dy, step, blocks, to, to_step, db)
    elif points == 7:
        dy_points(7, at, dy, step, blocks, to, to_step, db)
    elif points == 8:
        dy_points(8, at, dy, step, blocks, to, to_step, db)
    elif points == 9:
        dy_points(9, at, dy, step, blocks, to, to_step, db)
    else:
        dy_points(10, at, dy, step, blocks, to, to_step, db)


cdef class LineWideFilter:
    """dw and db of the convolution whose y is `line`'s; as `Reduce`."""
    cdef LineWide line
    cdef Quads dy_quads
    cdef Py_ssize_t N, OH, OW, K, parts, chunks, lanes, rows, size
    cdef Py_ssize_t planes, d, d_point, q, q_point, sums, area  # starts in a thread's workspace
    cdef real[10] at                              # the points
    cdef Workspace partials, scratch
    cdef readonly Py_ssize_t work
    cdef bint spoiled                             # some of dw is not finite

    def __cinit__(self, LineWide line, Py_ssize_t size):
        cdef Py_ssize_t channels = line.set * line.K, dilation = line.stride_w, e
        self.line, self.size, self.work = line, size, line.work
        self.N, self.OH, self.OW, self.K = line.N, line.TH, line.TW, line.TC
        self.partials, self.scratch = Workspace(), Workspace()
        for e, point in enumerate(WIDE_POINTS[line.taps]):
            self.at[e] = point
        self.chunks = (line.C_group + line.chunk - 1) // line.chunk
        items = min(ITEMS, 1 + self.work // ITEM_WORK)
        self.parts = max(1, min(items // (line.sets * self.chunks), self.N * line.bands))
        self.rows = line.set * line.chunk * line.phases[0].runs  # of the filter, in an item
        self.lanes = (line.band * line.v_row + LANES - 1) // LANES * LANES
        self.dy_quads = Quads(self.OH, self.OW, self.K, TILE * dilation, 0, line.v_row, 1, 0,
                              self.lanes + 16)
        self.planes = line.area
        self.d = self.planes + (TILE * dilation * channels + VL) * self.dy_quads.plane
        self.d_point = channels * self.dy_quads.plane
        self.q = self.d + line.points * self.d_point + (VL + 1) * self.dy_quads.slot
        self.q_point = (self.rows * line.K + VL) * LANES
        self.sums = self.q + line.points * self.q_point
        self.area = self.sums + (channels + VL) * LANES + line.points * self.q_point // LANES

    cdef bint run(self, const real* x, const real* dy, real* dw, real* db, int num_threads) except -1:
        """Fill dw, and db if not NULL; False if dw is not finite and must be computed directly."""
        cdef Shares shares
        cdef Py_ssize_t thread, item
        cdef real* sums = self.partials.take(self.parts * (self.K + self.size))
        cdef real* partials = sums + self.parts * self.K
        cdef Py_ssize_t slot = apart(self.area)
        cdef real* scratch = self.scratch.take(num_threads * slot)
        cdef int threads = team(self.work, num_threads)
        self.spoiled = False
        share_out(&shares, self.parts * self.line.sets * self.chunks, threads)
        region_starts(is_shared(self.work))
        with nogil, parallel(num_threads=threads):
            thread = threadid()
            item = next_item(&shares, thread)
            while item >= 0:
                self.run_item(x, dy, partials, sums, scratch + thread * slot, item)
                item_ends()
                item = next_item(&shares, thread)
        memcpy(dw, partials, self.size * sizeof(real))
        add_row_parts(partials + self.size, self.parts - 1, self.size, dw, self.size)
        if db != NULL:
            memcpy(db, sums, self.K * sizeof(real))
            add_row_parts(sums + self.K, self.parts - 1, self.K, db, self.K)
        return not self.spoiled

    cdef void run_item(self, const real* x, const real* dy, real* partials, real* sums, real* scratch,
                       Py_ssize_t item) noexcept nogil:
        """One part of the bands, for one set of groups and one chunk of its input channels."""
        cdef Py_ssize_t part = item // (self.line.sets * self.chunks)
        cdef Py_ssize_t first = item // self.chunks % self.line.sets * self.line.set
        cdef Py_ssize_t c0 = item % self.chunks * self.line.chunk
        cdef Py_ssize_t groups = min(self.line.set, self.line.groups - first)
        cdef Py_ssize_t channels = min(self.line.chunk, self.line.C_group - c0)
        cdef Py_ssize_t band = part * (self.N * self.line.bands) // self.parts
        cdef Py_ssize_t end = (part + 1) * (self.N * self.line.bands) // self.parts
        cdef Py_ssize_t n, q0, rows, in_rows, p, lanes, k
        cdef Py_ssize_t size = self.line.H * self.line.W * self.line.C
        cdef Py_ssize_t dy_size = self.OH * self.OW * self.K
        cdef real* patch = scratch + self.q - (VL + 1) * self.dy_quads.slot
        memset(scratch + self.line.patch, 0, self.line.x_quads.slot * sizeof(real))
        memset(patch, 0, self.dy_quads.slot * sizeof(real))
        memset(scratch + self.q, 0, (self.sums - self.q + groups * self.line.K * LANES) * sizeof(real))
        while band < end:
            n, q0 = band // self.line.bands, band % self.line.bands * self.line.band
            rows = min(self.line.band, self.line.rows - q0)
            in_rows = (rows - 1) * self.line.step_h + self.line.span_h
            self.dy_quads.split(dy + n * dy_size, dy + self.N * dy_size, scratch + self.planes, patch,
                                q0, rows, first * self.line.K, groups * self.line.K)
            self.line.x_quads.split(
                x + n * size, x + self.N * size, scratch, scratch + self.line.patch,
                q0 * self.line.step_h + self.line.top, in_rows, first * self.line.C_group + c0,
                groups * channels)
            for p in range(self.line.part_count):
                self.line.transform(p, scratch, self.line.x_quads.lines(in_rows), groups * channels)
            for p in range(self.line.phase_count):
                self.transform_dy(scratch, self.line.phases[p].to_column, groups * self.line.K,
                                  rows * self.line.v_row)
                self.multiply(&self.line.phases[p], scratch, groups, channels, rows * self.line.v_row)
            band += 1
        self.write_taps(scratch, partials + part * self.size + first * self.line.K, groups, c0, channels)
        if c0 == 0:
            for k in range(groups * self.line.K):
                if k % VL == 0:
                    sum_lanes(<vec*> (scratch + self.sums + k * LANES), scratch)
                sums[part * self.K + first * self.line.K + k] = scratch[k % VL]

    cdef void transform_dy(self, real* scratch, Py_ssize_t column, Py_ssize_t channels,
                           Py_ssize_t lanes) noexcept nogil:
        """d = A dy of one phase: [point, k][row, quad]; its sums to db's."""
        cdef Py_ssize_t plane = self.dy_quads.plane, k, points = self.line.points
        cdef Py_ssize_t step = channels * plane * self.line.stride_w
        cdef real* to = scratch + self.d
        cdef vec* db
        lanes = (lanes + LANES - 1) // LANES
        for k in range(channels):
            db = <vec*> (scratch + self.sums + k * LANES)
            dy_points_of(points, self.at, scratch + self.planes + (column * channels + k) * plane,
                         step, lanes, to + k * plane, self.d_point, db)

    cdef void multiply(self, const LineWidePhase* phase, real* scratch, Py_ssize_t groups,
                       Py_ssize_t channels, Py_ssize_t lanes) noexcept nogil:
        """q[point, group, (c, run), k] += products of one phase."""
        cdef Py_ssize_t e, g, row, k, height, width, rows = channels * phase.runs
        cdef const Py_ssize_t* offset = self.line.offset + phase.first_run * self.line.chunk
        cdef const real* v
        cdef const real* d
        cdef real* q
        for e in range(self.line.points):
            for g in range(groups):
                v = scratch + self.line.v + e * self.line.v_point + g * channels * self.line.v_plane
                d = scratch + self.d + e * self.d_point + g * self.line.K * self.dy_quads.plane
                q = scratch + self.q + e * self.q_point + g * rows * self.line.K * LANES
                row = 0
                while row < rows:
                    height = even_part(rows - row, wide_filter_height())
                    k = 0
                    while k < self.line.K:
                        width = even_part(self.line.K - k, wide_filter_width(height))
                        wide_filter_tile_of(
                            height, width, v, 0, offset + row, d + k * self.dy_quads.plane, 0,
                            self.dy_quads.plane, 1, lanes,
                            <vec*> (q + (row * self.line.K + k) * LANES), self.line.K * LANE_VECTORS)
                        k += width
                    row += height

    cdef void write_taps(self, real* scratch, real* dw, Py_ssize_t groups, Py_ssize_t c0,
                         Py_ssize_t channels) noexcept nogil:
        """dw = G^T q, VL numbers at a time."""
        cdef Py_ssize_t runs = self.line.phases[0].runs, count = groups * channels * runs * self.line.K
        cdef Py_ssize_t padded = (count + VL - 1) // VL * VL, taps = self.line.taps
        cdef Py_ssize_t e, i = 0, t, g, c, run, k
        cdef real* s = scratch + self.sums + (groups * self.line.K + VL) * LANES
        cdef const real* source
        cdef const Py_ssize_t* tap
        cdef real* to
        cdef vec[10] q
        cdef vec check = vec_set(0)
        cdef vec total
        while i < count:
            for e in range(self.line.points):
                sum_lanes(<const vec*> (scratch + self.q + e * self.q_point + i * LANES),
                          <real*> &q[e])
            for t in range(taps):
                total = vec_set(0)
                for e in range(self.line.points):
                    total = total + vec_set(<real> self.line.g[e][t]) * q[e]
                check = check + 0 * first_lanes(total, count - i)
                (<vec*> (s + t * padded + i))[0] = total
            i += VL
        if any_nan(check):
            self.spoiled = True
        for t in range(taps):
            source = s + t * padded
            for g in range(groups):
                for c in range(channels):
                    for run in range(runs):
                        tap = self.line.tap_index + run * taps + t
                        to = dw + (tap[0] * self.line.C_group + c0 + c) * self.K + g * self.line.K
                        for k in range(self.line.K if tap[0] >= 0 else 0):
                            to[k] = source[k]
                        source += self.line.K
