# Convolution, bias, ReLU and max pooling as one: only the winners and their places are kept.
#
# A work item computes the convolution's rows that a band of pooled rows needs, in its thread's
# workspace, and pools them there. Where F(4x4, 3x3) computes the convolution, which knows tiles and no
# rows, its output goes to a workspace as a whole; Winograd along the rows does know them. Going back,
# only the winners had a say: one position in 64 for an 8x8 pool. Where that is cheaper than the dense
# kernels, dw and dx are sums over the winners; elsewhere dy is spread over a workspace first.

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset


cdef void cut_losers(real* y, int32_t* indices, Py_ssize_t count) noexcept nogil:
    """ReLU of pooled outputs; where it cuts, there is no winner. NaN stays."""
    cdef Py_ssize_t i
    for i in range(count):
        indices[i] = -1 if y[i] <= 0 else indices[i]
        y[i] = 0 if y[i] <= 0 else y[i]


cdef struct Winner:
    Py_ssize_t at       # where its window starts in the padded input
    real value          # its dy


cdef enum:
    WINNER_ROWS = 6     # of a window, of two vectors each: 12 sums in 16 registers


cdef inline inlined winners_tile(
    const Py_ssize_t rows, const Py_ssize_t nv, const Winner* winners, Py_ssize_t count,
    const real* x, Py_ssize_t line, real* dw, Py_ssize_t dw_row,
) noexcept nogil:
    """dw[r] += sum over winners of their value * x[at + r * line], in registers."""
    cdef vec acc[2 * WINNER_ROWS]
    cdef vec a
    cdef const real* p
    cdef Py_ssize_t r, v, i
    for r in range(rows):
        for v in range(nv):
            acc[r * nv + v] = (<const vec*> (dw + r * dw_row + v * VL))[0]
    for i in range(count):
        a, p = vec_set(winners[i].value), x + winners[i].at
        for r in range(rows):
            for v in range(nv):
                acc[r * nv + v] = acc[r * nv + v] + (<const vec*> (p + r * line + v * VL))[0] * a
    for r in range(rows):
        for v in range(nv):
            (<vec*> (dw + r * dw_row + v * VL))[0] = acc[r * nv + v]


cdef inline inlined spread_tile_back(
    const Py_ssize_t rows, const Py_ssize_t nv, const Winner* winners, Py_ssize_t count,
    const real* w, Py_ssize_t w_row, Py_ssize_t lanes, real* dx, Py_ssize_t line,
) noexcept nogil:
    """dx[at + r * line] += value * w[r] of each winner; `lanes` of the last vector."""
    cdef vec kept[2 * WINNER_ROWS]
    cdef vec a, total
    cdef vec* to
    cdef ivec inside = lanes_before(lanes)
    cdef Py_ssize_t r, v, i
    for r in range(rows):
        for v in range(nv):
            kept[r * nv + v] = (<const vec*> (w + r * w_row + v * VL))[0]
    for i in range(count):
        a = vec_set(winners[i].value)
        for r in range(rows):
            for v in range(nv):
                to = <vec*> (dx + winners[i].at + r * line + v * VL)
                total = to[0] + kept[r * nv + v] * a
                # Behind the run is the next pixel; infinity * 0 must not reach it.
                to[0] = vec_where(inside, total, to[0]) if v == nv - 1 else total


cdef void winners_tile_of(
    Py_ssize_t rows, Py_ssize_t nv, const Winner* winners, Py_ssize_t count,
    const real* x, Py_ssize_t line, real* dw, Py_ssize_t dw_row,
) noexcept nogil:
    """`winners_tile` of 1 to 6 rows and 1 or 2 vectors."""
    if nv == 2:
        if rows == 6:
            winners_tile(6, 2, winners, count, x, line, dw, dw_row)
        elif rows == 5:
            winners_tile(5, 2, winners, count, x, line, dw, dw_row)
        elif rows == 4:
            winners_tile(4, 2, winners, count, x, line, dw, dw_row)
        elif rows == 3:
            winners_tile(3, 2, winners, count, x, line, dw, dw_row)
        elif rows == 2:
            winners_tile(2, 2, winners, count, x, line, dw, dw_row)
        else:
            winners_tile(1, 2, winners, count, x, line, dw, dw_row)
    else:
        if rows == 6:
            winners_tile(6, 1, winners, count, x, line, dw, dw_row)
        elif rows == 5:
            winners_tile(5, 1, winners, count, x, line, dw, dw_row)
        elif rows == 4:
            winners_tile(4, 1, winners, count, x, line, dw, dw_row)
        elif rows == 3:
            winners_tile(3, 1, winners, count, x, line, dw, dw_row)
        elif rows == 2:
            winners_tile(2, 1, winners, count, x, line, dw, dw_row)
        else:
            winners_tile(1, 1, winners, count, x, line, dw, dw_row)


cdef void spread_tile_back_of(
    Py_ssize_t rows, Py_ssize_t nv, const Winner* winners, Py_ssize_t count,
    const real* w, Py_ssize_t w_row, Py_ssize_t lanes, real* dx, Py_ssize_t line,
) noexcept nogil:
    """`spread_tile_back` of 1 to 6 rows and 1 or 2 vectors."""
    if nv == 2:
        if rows == 6:
            spread_tile_back(6, 2, winners, count, w, w_row, lanes, dx, line)
        elif rows == 5:
            spread_tile_back(5, 2, winners, count, w, w_row, lanes, dx, line)
        elif rows == 4:
            spread_tile_back(4, 2, winners, count, w, w_row, lanes, dx, line)
        elif rows == 3:
            spread_tile_back(3, 2, winners, count, w, w_row, lanes, dx, line)
        elif rows == 2:
            spread_tile_back(2, 2, winners, count, w, w_row, lanes, dx, line)
        else:
            spread_tile_back(1, 2, winners, count, w, w_row, lanes, dx, line)
    else:
        if rows == 6:
            spread_tile_back(6, 1, winners, count, w, w_row, lanes, dx, line)
        elif rows == 5:
            spread_tile_back(5, 1, winners, count, w, w_row, lanes, dx, line)
        elif rows == 4:
            spread_tile_back(4, 1, winners, count, w, w_row, lanes, dx, line)
        elif rows == 3:
            spread_tile_back(3, 1, winners, count, w, w_row, lanes, dx, line)
        elif rows == 2:
            spread_tile_back(2, 1, winners, count, w, w_row, lanes, dx, line)
        else:
            spread_tile_back(1, 1, winners, count, w, w_row, lanes, dx, line)


cdef inline void max_pixels(
    const real* z, Py_ssize_t pixels, Py_ssize_t pixel, Py_ssize_t rows, Py_ssize_t line,
    Py_ssize_t place, Py_ssize_t place_row, vec* best, ivec* where,
) noexcept nogil:
    """The maximum of a vector of windows of rows x pixels, and its place: 1 more a pixel. No NaN."""
    cdef Py_ssize_t h, i
    cdef vec v, m, most
    cdef ivec take, j, at
    for i in range(pixels):
        m, j = (<const vec*> (z + i * pixel))[0], ivec_set(place + i)
        for h in range(1, rows):
            v = (<const vec*> (z + i * pixel + h * line))[0]
            take = exceeds(v, m)
            m = vec_where(take, v, m)
            j = ivec_where(take, ivec_set(place + i + h * place_row), j)
        if i == 0:
            most, at = m, j
        else:
            take = exceeds_at(m, j, most, at)
            most = vec_where(take, m, most)
            at = ivec_where(take, j, at)
    best[0], where[0] = most, at


cdef class ConvPoolPlan:
    """A convolution followed by max pooling: geometry, work items, workspaces.

    Parameters
    ----------
    x, w, z, y : tuple
        Shapes of the input, the filter, the convolution's output and the pooled output.
    stride, dilation, before, groups
        The convolution's, as in `ConvPlan`.
    window, pool_stride, pool_pads : tuple
        (h, w), (h, w), ((top, bottom), (left, right)).
    direct : bool
        Refuse Winograd.
    """
    cdef Window g                                  # of one image of the convolution's output
    cdef Gather gather
    cdef ConvPlan conv                             # Winograd, and the dense gradients
    cdef readonly bint sparse                      # whether to sum over the winners
    cdef LineWide line                             # Winograd along the rows, or None
    cdef Workspace whole_z
    cdef Py_ssize_t N, H, W, C, K, KH, KW, stride_h, stride_w, top, left
    cdef Py_ssize_t line_plane, line_slot          # of z in quads; a thread's workspace
    cdef Py_ssize_t inner                          # neighbours in a quad that are always in one window
    cdef Window across                             # of a row of so much shorter
    cdef Py_ssize_t band, bands, z_rows, z_size, slot, run, run_padded, padded_w, padded_size, parts
    cdef Py_ssize_t row_factor
    cdef Workspace scratch, partials, transposed

    def __init__(self, tuple x, tuple w, tuple z, tuple y, tuple stride, tuple dilation,
                 tuple before, Py_ssize_t groups, tuple window, tuple pool_stride, tuple pool_pads,
                 bint direct=False):
        cdef Py_ssize_t area
        self.conv = ConvPlan(x, w, z, stride, dilation, before, groups, direct)
        self.gather = self.conv.plan_y(False)
        self.g = window_of((1, *z[1:]), (1, *y[1:]), window, pool_stride, (1, 1), pool_pads, False)
        self.N, self.H, self.W, self.C = x
        self.KH, self.KW, _, self.K = w
        self.stride_h, self.stride_w = stride
        self.top, self.left = before
        self.scratch, self.partials, self.transposed = Workspace(), Workspace(), Workspace()
        self.whole_z = Workspace()
        self.band = self.g.OH
        while self.band > 1 and (
            self.N * ((self.g.OH + self.band - 1) // self.band) < ITEMS
            or self.conv_rows() * self.g.W * self.K * <Py_ssize_t> sizeof(real) > BAND_BYTES
        ):
            self.band = (self.band + 1) // 2
        self.bands = (self.g.OH + self.band - 1) // self.band
        self.z_rows = self.conv_rows()
        if self.gather.wide:
            self.gather.planar = (self.g.W + 4 * VL) // VL * VL
        self.z_size = self.z_rows * self.K * max(self.g.W, self.gather.planar)
        self.slot = self.gather.area + (self.z_size + 63) // 64 * 64 + (
            max_scratch(&self.g) // <Py_ssize_t> sizeof(real)
            + 2 * self.K * (self.gather.planar + VL) + 64)
        if self.conv.few_y and groups == dilation[1] == 1:
            self.line = self.conv.plan_wide_y()
            self.inner, self.across = 1, self.g
            if self.g.left == 0 and self.g.KW == self.g.stride_w and self.g.OW * self.g.KW <= self.g.W:
                self.inner = 4 if self.g.KW % 4 == 0 else 2 if self.g.KW % 2 == 0 else 1
                self.across.W //= self.inner
                self.across.KW //= self.inner
                self.across.stride_w //= self.inner
            self.line_plane = (self.z_rows * self.line.v_row + 2 * VL) // VL * VL
            self.line_slot = (
                self.line.area + (TILE * self.K + VL) * (self.line_plane + 2 * self.line.v_row + 2 * VL)
                + max_scratch(&self.g) // <Py_ssize_t> sizeof(real) + 64)
        # The cost of a winner, in cycles: a run of (kw, c) is a few vectors, read, added, written.
        # The dense kernels spend a multiply-add on every position of the window, 22 of them in a
        # cycle (32 at the peak); Winograd does the work of 50.
        self.run = self.KW * self.C
        self.run_padded = (self.run + 15) // 16 * 16
        self.padded_w = (z[2] - 1) * self.stride_w + self.KW
        self.padded_size = ((z[1] - 1) * self.stride_h + self.KH) * self.padded_w * self.C + 16
        area = window[0] * window[1]
        self.sparse = (
            groups == 1 and dilation == (1, 1) and self.padded_size < 262_144
            and area * self.KH * self.run > (
                50 if self.conv.winograd_dw or self.conv.rows_dw else 22) * (
                10 + 3 * self.KH * (self.run_padded // 16) // 2))
        self.parts = max(1, min(ITEMS, self.N))
        # place * row_factor >> 40 is place // W, exactly as long as place * W < 2^40.
        self.row_factor = ((<Py_ssize_t> 1 << 40) + self.g.W - 1) // self.g.W

    cdef Py_ssize_t conv_rows(self):
        """Rows of the convolution that a band of pooled rows needs."""
        return min(self.g.H, (self.band - 1) * self.g.stride_h + self.g.KH)

    # ------------------------------------------------------------------------------------- forward

    def forward(self, const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, const real[::1] b,
                bint relu, real[:, :, :, ::1] y, int32_t[:, :, :, ::1] indices, int num_threads):
        """y = max pool of (x * w + b), then ReLU if `relu`; indices are -1 where that cut off."""
        cdef const real* bias = NULL
        if self.N == 0:
            return
        if b is not None:
            bias = &b[0]
        self.compute(&x[0, 0, 0, 0], &w[0, 0, 0, 0], bias, relu, &y[0, 0, 0, 0],
                     &indices[0, 0, 0, 0], num_threads)

    cdef compute(self, const real* x, const real* w, const real* b, bint relu, real* y,
                 int32_t* indices, int num_threads):
        if self.conv.winograd_y or self.conv.lined_y or self.conv.few_y and self.line is None:
            self.run_apart(x, w, b, relu, y, indices, num_threads)
        elif not (self.line is not None and self.run_line(x, w, b, relu, y, indices, num_threads)):
            self.run_fused(x, w, b, relu, y, indices, num_threads)

    cdef run_apart(self, const real* x, const real* w, const real* b, bint relu, real* y,
                   int32_t* indices, int num_threads):
        cdef Py_ssize_t item, size = max_scratch(&self.g)
        cdef real* z = self.whole_z.take(self.N * self.g.H * self.g.W * self.K)
        cdef int threads = self.gather.threads(num_threads)
        cdef char* scratch = <char*> self.scratch.take(threads * size // <Py_ssize_t> sizeof(real))
        self.conv.compute_y(x, w, b, False, z, num_threads)
        for item in prange(self.N * self.g.OH, schedule="dynamic",
                           chunksize=handful(self.N * self.g.OH), num_threads=threads, nogil=True):
            self.pool_row(z, relu, y, indices, scratch + threadid() * size, item)

    cdef void pool_row(self, const real* z, bint relu, real* y, int32_t* indices, char* scratch,
                       Py_ssize_t item) noexcept nogil:
        cdef Py_ssize_t row = item * self.g.OW * self.K
        max_image_row(&self.g, z, y, indices, item, scratch)
        if relu:
            cut_losers(y + row, indices + row, self.g.OW * self.K)

    cdef run_fused(self, const real* x, const real* w, const real* b, bint relu, real* y,
                   int32_t* indices, int num_threads):
        cdef Py_ssize_t item
        cdef int threads = self.gather.threads(num_threads)
        cdef real* packed = self.gather.pack(w, num_threads)
        cdef real* bias = self.gather.pack_bias(b)
        cdef real* scratch = self.scratch.take(threads * self.slot)
        for item in prange(self.N * self.bands, schedule="dynamic",
                           chunksize=handful(self.N * self.bands), num_threads=threads, nogil=True):
            self.run_item(x, packed, bias, relu, y, indices, scratch + threadid() * self.slot, item)

    cdef bint run_line(self, const real* x, const real* w, const real* b, bint relu, real* y,
                       int32_t* indices, int num_threads) except -1:
        """By Winograd along the rows; False if all must be computed directly."""
        cdef Py_ssize_t item
        cdef int threads = self.gather.threads(num_threads)
        cdef real* packed = self.line.pack(w)
        cdef real* bias = self.line.pack_bias(b)
        cdef real* scratch = self.scratch.take(threads * self.line_slot)
        self.line.spoiled = False
        for item in prange(self.N * self.bands, schedule="dynamic",
                           chunksize=handful(self.N * self.bands), num_threads=threads, nogil=True):
            self.line_item(x, packed, bias, relu, y, indices,
                           scratch + threadid() * self.line_slot, item)
        return not self.line.spoiled

    cdef void line_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                        int32_t* indices, real* scratch, Py_ssize_t item) noexcept nogil:
        """A band of pooled rows of one image."""
        cdef Window* g = &self.g
        cdef Py_ssize_t n = item // self.bands, size = self.H * self.W * self.C
        cdef Py_ssize_t first = item % self.bands * self.band
        cdef Py_ssize_t end = min(first + self.band, g.OH)
        cdef Py_ssize_t q0 = max(0, first * g.stride_h - g.top)
        cdef Py_ssize_t q1 = min(g.H, (end - 1) * g.stride_h - g.top + g.KH)
        cdef Py_ssize_t q = q0, p, at
        cdef real* z = scratch + self.line.area
        while q < q1:
            if self.line.run_rows(
                    x + n * size, x + self.N * size, packed, b, False, scratch, q,
                    min(self.line.band, q1 - q), NULL, z + (q - q0) * self.line.v_row,
                    self.line_plane, 0):
                self.line.spoiled = True
            q += self.line.band
        for p in range(first, end):
            at = (n * g.OH + p) * g.OW * self.K
            self.max_line_row(z - q0 * self.line.v_row, y + at, indices + at, p,
                              <char*> (z + (TILE * self.K + VL) * self.line_plane))
            if relu:
                cut_losers(y + at, indices + at, g.OW * self.K)

    cdef void max_line_row(self, const real* z, real* y, int32_t* indices, Py_ssize_t p,
                           char* scratch) noexcept nogil:
        """One row of outputs from planes of quads: down the columns, then as `max_row`.

        `inner` pixels of a quad that belong to the same window become one before that. NaN can only
        come from the bias, and then is everywhere: so it need not be looked for.
        """
        cdef Row row = row_in(&self.g, scratch)
        cdef Span rows = rows_of(&self.g, p)
        cdef Py_ssize_t vectors = (self.line.v_row + VL - 1) // VL
        cdef Py_ssize_t planes = TILE // self.inner * self.K, i = 0, v, o, k, line = self.line.v_row
        cdef vec* best = <vec*> (scratch + max_scratch(&self.g))
        cdef ivec* where = <ivec*> (best + (planes + VL) * vectors)
        # `max_across` adds the number of what it compares; the rest of the pixel's number is missing.
        cdef Py_ssize_t counted = 0 if self.across.KW == 1 else 1
        cdef vec ignored = vec_set(0)
        z += rows.start * line
        for o in range(TILE // self.inner):
            for k in range(self.K):
                for v in range(vectors):
                    max_pixels(z + (o * self.inner * self.K + k) * self.line_plane + v * VL, self.inner,
                               self.K * self.line_plane, rows.count, line,
                               rows.start * self.g.W + o * (self.inner - counted), self.g.W,
                               best + i, where + i)
                    where[i] = where[i] + (ivec_set(v * VL) + lane_numbers()) * ivec_set(
                        TILE - counted * TILE // self.inner)
                    i += 1
        if counted:
            join_row(<real*> best, vectors * VL, self.line.quads, planes, <real*> row.best)
            join_row(<real*> where, vectors * VL, self.line.quads, planes, <real*> row.where)
            max_across(False, &self.across, &row, y, indices, &ignored)
        else:
            join_row(<real*> best, vectors * VL, self.line.quads, planes, row.y)
            memcpy(y, row.y, self.g.OW * self.K * sizeof(real))
            join_row(<real*> where, vectors * VL, self.line.quads, planes, <real*> row.places)
            for i in range(self.g.OW * self.K):
                indices[i] = <int32_t> row.places[i]

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       int32_t* indices, real* scratch, Py_ssize_t item) noexcept nogil:
        """A band of pooled rows of one image."""
        cdef Window* g = &self.g
        cdef Py_ssize_t n = item // self.bands
        cdef Py_ssize_t first = item % self.bands * self.band
        cdef Py_ssize_t end = min(first + self.band, g.OH)
        cdef Py_ssize_t q0 = max(0, first * g.stride_h - g.top)
        cdef Py_ssize_t q1 = min(g.H, (end - 1) * g.stride_h - g.top + g.KH)
        cdef Py_ssize_t line = self.K * (self.gather.planar if self.gather.planar else g.W)
        cdef real* z = scratch + self.gather.area
        cdef char* rest = <char*> (z + (self.z_size + 63) // 64 * 64)
        cdef real* image = z - q0 * line
        cdef Py_ssize_t q, p, c, at
        q = q0
        while q < q1:
            for c in range(self.gather.chunks):
                self.gather.run_rows(
                    x + n * self.H * self.W * self.C, packed, b, False, image, scratch,
                    q, min(self.gather.band, q1 - q), c * self.gather.chunk,
                    min((c + 1) * self.gather.chunk, self.gather.blocks))
            q += self.gather.band
        for p in range(first, end):
            at = (n * g.OH + p) * g.OW * self.K
            if self.gather.planar:
                self.max_planar_row(image, y + at, indices + at, p, rest)
            else:
                max_row(g, image, y + at, indices + at, p, rest)
            if relu:
                cut_losers(y + at, indices + at, g.OW * self.K)

    cdef void max_planar_row(self, const real* z, real* y, int32_t* indices, Py_ssize_t p,
                             char* scratch) noexcept nogil:
        """One row of outputs from planes: down the columns, then pixel by pixel as `max_row`."""
        cdef Window* g = &self.g
        cdef Py_ssize_t plane = self.gather.planar
        cdef Row row = row_in(g, scratch)
        cdef vec* best = <vec*> (scratch + max_scratch(g))
        cdef ivec* where = <ivec*> (best + self.K * plane // VL)
        cdef Py_ssize_t first = max(0, p * g.stride_h - g.top)
        cdef Py_ssize_t rows = min(g.H, p * g.stride_h - g.top + g.KH) - first
        cdef vec poison = vec_set(0)
        row.best[(g.W * self.K + VL - 1) // VL] = vec_set(0)
        max_down(False, z, self.K * plane, g.W, first, rows, 1, best, where, &poison)
        join_row(<real*> best, plane, g.W, self.K, <real*> row.best)
        join_row(<real*> where, plane, g.W, self.K, <real*> row.where)
        max_across(False, g, &row, y, indices, &poison)
        if any_nan(poison):
            max_down(True, z, self.K * plane, g.W, first, rows, 1, best, where, &poison)
            join_row(<real*> best, plane, g.W, self.K, <real*> row.best)
            join_row(<real*> where, plane, g.W, self.K, <real*> row.where)
            max_across(True, g, &row, y, indices, &poison)

    # ------------------------------------------------------------------------------------ backward

    def backward(self, const real[:, :, :, ::1] dy, const int32_t[:, :, :, ::1] indices,
                 const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, real[:, :, :, ::1] dx,
                 real[:, :, :, ::1] dw, real[::1] db, int num_threads):
        """Fill dx, dw and db; each may be None. N is at least 1."""
        cdef real* to_x = NULL
        cdef real* to_w = NULL
        cdef real* to_b = NULL
        if dx is not None:
            to_x = &dx[0, 0, 0, 0]
        if dw is not None:
            to_w = &dw[0, 0, 0, 0]
        if db is not None:
            to_b = &db[0]
        self.compute_back(&dy[0, 0, 0, 0], &indices[0, 0, 0, 0], &x[0, 0, 0, 0], &w[0, 0, 0, 0],
                          to_x, to_w, to_b, num_threads)

    cdef compute_back(self, const real* dy, const int32_t* indices, const real* x, const real* w,
                      real* dx, real* dw, real* db, int num_threads):
        if self.sparse:
            self.run_sparse(dy, indices, x, w, dx, dw, db, num_threads)
        else:
            self.run_dense(dy, indices, x, w, dx, dw, db, num_threads)

    cdef run_dense(self, const real* dy, const int32_t* indices, const real* x, const real* w,
                   real* dx, real* dw, real* db, int num_threads):
        cdef Window* g = &self.g
        cdef real* dz = self.whole_z.take(self.N * g.H * g.W * self.K)
        max_pool_back(dy, indices, dz, self.N, g.H, g.W, g.OH, g.OW, self.K, -1, num_threads)
        if dx != NULL:
            self.conv.compute_dx(dz, w, dx, num_threads)
        if dw != NULL or db != NULL:
            self.conv.compute_dw(x, dz, dw, db, num_threads)

    cdef run_sparse(self, const real* dy, const int32_t* indices, const real* x, const real* w,
                    real* dx, real* dw, real* db, int num_threads):
        cdef Py_ssize_t part, size = self.K * self.KH * self.run_padded + (self.K + 15) // 16 * 16
        # An image of x, one of dx, and the winners of a channel: two or four numbers each.
        cdef Py_ssize_t slot = (self.padded_size + 15) // 16 * 32 + 16 + (
            (self.g.OH * self.g.OW + 1) * <Py_ssize_t> (sizeof(Winner) // sizeof(real)))
        cdef int threads = self.gather.threads(num_threads)
        cdef real* sums = self.partials.take(self.parts * size)
        cdef real* scratch = self.scratch.take(threads * slot)
        cdef real* wt = self.transposed.take(self.K * self.KH * self.run_padded)
        if dx != NULL:
            self.transpose_filter(w, wt)
        for part in prange(self.parts, schedule="dynamic", num_threads=threads, nogil=True):
            self.run_part(dy, indices, x, wt, dx, dw != NULL, sums + part * size,
                          scratch + threadid() * slot, part)
        self.add_parts(sums, size, dw, db)

    cdef void transpose_filter(self, const real* w, real* wt) noexcept nogil:
        """wt[k, kh, (kw, c)] = w[kh, kw, c, k], zeros behind each run."""
        cdef Py_ssize_t k, kh, i
        memset(wt, 0, self.K * self.KH * self.run_padded * sizeof(real))
        for kh in range(self.KH):
            for i in range(self.run):
                for k in range(self.K):
                    wt[(k * self.KH + kh) * self.run_padded + i] = w[(kh * self.run + i) * self.K + k]

    cdef void run_part(self, const real* dy, const int32_t* indices, const real* x,
                       const real* wt, real* dx, bint want_dw, real* sums, real* scratch,
                       Py_ssize_t part) noexcept nogil:
        """A fixed range of images: their dx, and their share of dw and db."""
        cdef Py_ssize_t outputs = self.g.OH * self.g.OW
        cdef Py_ssize_t height = (self.padded_size - 16) // (self.padded_w * self.C)
        cdef Py_ssize_t n, h, k, count, inside
        cdef real* padded = scratch + (self.padded_size + 15) // 16 * 16
        cdef Winner* winners = <Winner*> (padded + (self.padded_size + 15) // 16 * 16)
        cdef real* db = sums + self.K * self.KH * self.run_padded
        memset(sums, 0, (self.K * self.KH * self.run_padded + (self.K + 15) // 16 * 16) * sizeof(real))
        for n in range(part * self.N // self.parts, (part + 1) * self.N // self.parts):
            if want_dw:
                pad_rows(x + n * self.H * self.W * self.C, self.H, self.W, self.C, scratch,
                         self.padded_w, self.C, -self.top, -self.left, height, self.C)
            if dx != NULL:
                memset(padded, 0, self.padded_size * sizeof(real))
            for k in range(self.K):
                count = self.list_winners(dy + n * outputs * self.K + k,
                                          indices + n * outputs * self.K + k, winners, db + k)
                if want_dw:
                    self.add_winners(winners, count, scratch, sums + k * self.KH * self.run_padded)
                if dx != NULL:
                    self.spread_winners(winners, count, wt + k * self.KH * self.run_padded, padded)
            if dx != NULL:
                for h in range(self.H):
                    memset(dx + (n * self.H + h) * self.W * self.C, 0,
                           self.W * self.C * sizeof(real))
                    inside = min(self.W, self.padded_w - self.left)
                    if h + self.top < height and inside > 0:
                        memcpy(dx + (n * self.H + h) * self.W * self.C,
                               padded + ((h + self.top) * self.padded_w + self.left) * self.C,
                               inside * self.C * sizeof(real))

    cdef Py_ssize_t list_winners(self, const real* dy, const int32_t* indices, Winner* winners,
                                 real* db) noexcept nogil:
        """The winners of one channel of one image; db += their dy. Returns how many there are."""
        cdef Py_ssize_t i, h, count = 0
        cdef int32_t place
        cdef real total = db[0]
        for i in range(self.g.OH * self.g.OW):
            place = indices[i * self.K]
            # Written in any case and kept if it won: a branch would be guessed wrong too often.
            h = place * self.row_factor >> 40
            winners[count].at = (h * self.stride_h * self.padded_w
                                 + (place - h * self.g.W) * self.stride_w) * self.C
            winners[count].value = dy[i * self.K]
            total += dy[i * self.K] if place >= 0 else 0
            count += place >= 0
        db[0] = total
        return count

    cdef void add_winners(self, const Winner* winners, Py_ssize_t count, const real* x,
                          real* dw) noexcept nogil:
        """dw[kh, :] += dy * x[window of the winner], for one channel."""
        cdef Py_ssize_t kh = 0, rows, v, nv, vectors = (self.run + VL - 1) // VL
        while kh < self.KH:
            rows = even_part(self.KH - kh, WINNER_ROWS)
            v = 0
            while v < vectors:
                nv = min(2, vectors - v)
                winners_tile_of(rows, nv, winners, count, x + kh * self.padded_w * self.C + v * VL,
                                self.padded_w * self.C, dw + kh * self.run_padded + v * VL,
                                self.run_padded)
                v += nv
            kh += rows

    cdef void spread_winners(self, const Winner* winners, Py_ssize_t count, const real* wt,
                             real* dx) noexcept nogil:
        """dx[window of the winner] += dy * w[:, :, :, k], for one channel, in the padded input."""
        cdef Py_ssize_t kh = 0, rows, v, nv, vectors = (self.run + VL - 1) // VL
        while kh < self.KH:
            rows = even_part(self.KH - kh, WINNER_ROWS)
            v = 0
            while v < vectors:
                nv = min(2, vectors - v)
                spread_tile_back_of(rows, nv, winners, count, wt + kh * self.run_padded + v * VL,
                                    self.run_padded, self.run - (v + nv - 1) * VL,
                                    dx + kh * self.padded_w * self.C + v * VL,
                                    self.padded_w * self.C)
                v += nv
            kh += rows

    cdef void add_parts(self, real* sums, Py_ssize_t size, real* dw, real* db) noexcept nogil:
        """Parts in their order, added to the first; dw back into HWIO."""
        cdef Py_ssize_t part, k, kh, i
        for part in range(1, self.parts):
            for i in range(size):
                sums[i] += sums[part * size + i]
        for k in range(self.K if dw != NULL else 0):
            for kh in range(self.KH):
                for i in range(self.run):
                    dw[(kh * self.run + i) * self.K + k] = sums[(k * self.KH + kh) * self.run_padded + i]
        if db != NULL:
            memcpy(db, sums + self.K * self.KH * self.run_padded, self.K * sizeof(real))
