# Convolution, bias, ReLU and max pooling as one: only the winners and, unless `indices` is NULL, their
# places are kept.
#
# A work item computes the convolution's rows that a band of pooled rows needs, in its thread's
# workspace, and pools them there. Where F(4x4, 3x3) computes the convolution, which knows tiles and no
# rows, its output goes to a workspace as a whole; Winograd along the rows does know them. Going back,
# only the winners had a say: one position in 64 for an 8x8 pool. Where that is cheaper than the dense
# kernels, dw or dx is a sum over the winners (`winners.pxi`); else dy is spread over a workspace first.

from cython.parallel cimport parallel, threadid
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset


cdef void cut_losers(real* y, int32_t* indices, Py_ssize_t count) noexcept nogil:
    """ReLU of pooled outputs; where it cuts, there is no winner. NaN stays."""
    cdef Py_ssize_t i
    if indices != NULL:
        for i in range(count):
            indices[i] = -1 if y[i] <= 0 else indices[i]
    for i in range(count):
        y[i] = 0 if y[i] <= 0 else y[i]


cdef inline inlined max_planes(
    const Py_ssize_t nk, const Py_ssize_t pixels, const bint places, bint relu, Py_ssize_t rows,
    const real* z, Py_ssize_t plane, Py_ssize_t pixel, Py_ssize_t line, Py_ssize_t half,
    Py_ssize_t place, Py_ssize_t place_row, ivec more, vec* best, ivec* where, Py_ssize_t step,
) noexcept nogil:
    """Maxima of a vector of windows of rows x pixels, in `nk` planes, and their `places`. No NaN.

    The second half of a vector lies `half` behind the first. A place is 1 more a pixel, and `more` is
    added to all; `step` lies between the planes' results.
    """
    cdef vec[4] m
    cdef ivec[4] at
    cdef ivec here
    cdef const real* p
    cdef Py_ssize_t h, i, k
    for k in range(nk):
        m[k], at[k] = load_halves(z + k * plane, z + k * plane + half), ivec_set(place)
    for h in range(rows):
        for i in range(pixels):
            if i == h == 0:
                continue
            here = ivec_set(place + h * place_row + i)
            for k in range(nk):
                p = z + k * plane + i * pixel + h * line
                take_greater(load_halves(p, p + half), here, &m[k], &at[k])
    for k in range(nk):
        at[k] = at[k] + more
        if relu:
            cut_loser(&m[k], &at[k])
        best[k * step] = m[k]
        if places:
            where[k * step] = at[k]


cdef inline inlined max_planes_of(
    const Py_ssize_t nk, Py_ssize_t pixels, const bint places, bint relu, Py_ssize_t rows, const real* z,
    Py_ssize_t plane, Py_ssize_t pixel, Py_ssize_t line, Py_ssize_t half, Py_ssize_t place,
    Py_ssize_t place_row, ivec more, vec* best, ivec* where, Py_ssize_t step,
) noexcept nogil:
    """`max_planes` of 1, 2 or 4 pixels."""
    if pixels == 4:
        max_planes(nk, 4, places, relu, rows, z, plane, pixel, line, half, place, place_row, more, best,
                   where, step)
    elif pixels == rows == 2:
        max_planes(nk, 2, places, relu, 2, z, plane, pixel, line, half, place, place_row, more, best,
                   where, step)
    elif pixels == 2:
        max_planes(nk, 2, places, relu, rows, z, plane, pixel, line, half, place, place_row, more, best,
                   where, step)
    else:
        max_planes(nk, 1, places, relu, rows, z, plane, pixel, line, half, place, place_row, more, best,
                   where, step)


cdef inline inlined max_all_planes(
    Py_ssize_t planes, Py_ssize_t pixels, const bint places, bint relu, Py_ssize_t rows, const real* z,
    Py_ssize_t plane, Py_ssize_t pixel, Py_ssize_t line, Py_ssize_t half, Py_ssize_t place,
    Py_ssize_t place_row, ivec more, vec* best, ivec* where, Py_ssize_t step,
) noexcept nogil:
    """`max_planes` of any number of planes: 4 at a time, whose comparisons need not wait."""
    cdef Py_ssize_t k = 0
    while k + 4 <= planes:
        max_planes_of(4, pixels, places, relu, rows, z + k * plane, plane, pixel, line, half, place,
                      place_row, more, best + k * step, where + k * step, step)
        k += 4
    if k + 2 <= planes:
        max_planes_of(2, pixels, places, relu, rows, z + k * plane, plane, pixel, line, half, place,
                      place_row, more, best + k * step, where + k * step, step)
        k += 2
    if k < planes:
        max_planes_of(1, pixels, places, relu, rows, z + k * plane, plane, pixel, line, half, place,
                      place_row, more, best + k * step, where + k * step, step)


cdef void join_halves(const real* planes, Py_ssize_t channels, Py_ssize_t pixels, Py_ssize_t rows,
                      real* y, Py_ssize_t line) noexcept nogil:
    """`join_row` of one or two rows, halves of planes of one vector; `line` numbers of each."""
    cdef vec[16] square
    cdef Py_ssize_t c = (channels - 1) // VL * VL, i, h
    while c >= 0:  # what is written behind the last channel, others write over
        for i in range(VL):
            square[i] = (<const vec*> (planes + (c + i) * VL))[0]
        transpose(square)
        for h in range(rows):
            for i in range(pixels):
                if line > i * channels + c:
                    store_part(y + h * line + i * channels + c, square[h * (VL // 2) + i],
                               line - i * channels - c)
        c -= VL


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
    cdef WinnerSums winners                        # gradients as sums over the winners
    cdef bint winners_dw, winners_dx               # which of them
    cdef LineWide line                             # Winograd along the rows, of few channels, or None
    cdef Line lined                                # of more, an image at a time, or None
    cdef Workspace whole_z
    cdef Py_ssize_t N, H, W, C, K
    cdef Py_ssize_t line_plane, line_area          # of z in quads; a thread's workspace
    cdef Py_ssize_t lined_area
    cdef Py_ssize_t inner                          # neighbours in a quad that are always in one window
    cdef Window across                             # of a row of so much shorter
    cdef Py_ssize_t band, bands, z_rows, z_size, area
    cdef Workspace scratch

    def __init__(self, tuple x, tuple w, tuple z, tuple y, tuple stride, tuple dilation,
                 tuple before, Py_ssize_t groups, tuple window, tuple pool_stride, tuple pool_pads,
                 bint direct=False):
        cdef Py_ssize_t image
        self.conv = ConvPlan(x, w, z, stride, dilation, before, groups, direct)
        self.gather = self.conv.plan_y(False)
        self.g = window_of((1, *z[1:]), (1, *y[1:]), window, pool_stride, (1, 1), pool_pads, False)
        self.N, self.H, self.W, self.C = x
        self.K = w[3]
        self.scratch, self.whole_z = Workspace(), Workspace()
        self.band = self.g.OH
        while self.band > 1 and (
            too_few(self.N * ((self.g.OH + self.band - 1) // self.band), ITEMS, self.gather.work)
            or self.conv_rows() * self.g.W * self.K * <Py_ssize_t> sizeof(real) > BAND_BYTES
        ):
            self.band = (self.band + 1) // 2
        self.bands = (self.g.OH + self.band - 1) // self.band
        self.z_rows = self.conv_rows()
        if self.gather.wide:
            self.gather.planar = (self.g.W + 4 * VL) // VL * VL
        self.z_size = self.z_rows * self.K * max(self.g.W, self.gather.planar)
        self.area = self.gather.area + (self.z_size + 63) // 64 * 64 + (
            max_scratch(&self.g) // <Py_ssize_t> sizeof(real)
            + 2 * self.K * (self.gather.planar + VL) + 64)
        if self.conv.few_y and groups == dilation[1] == 1:
            self.line = self.conv.plan_wide(False)
            self.inner, self.across = 1, self.g
            if self.g.left == 0 and self.g.KW == self.g.stride_w and self.g.OW * self.g.KW <= self.g.W:
                self.inner = 4 if self.g.KW % 4 == 0 else 2 if self.g.KW % 2 == 0 else 1
                self.across.W //= self.inner
                self.across.KW //= self.inner
                self.across.stride_w //= self.inner
            self.line_plane = (self.z_rows * self.line.v_row + 2 * VL) // VL * VL
            self.line_area = (
                self.line.area + (TILE * self.K + VL) * (self.line_plane + 2 * self.line.v_row + 2 * VL)
                + max_scratch(&self.g) // <Py_ssize_t> sizeof(real) + 2 * self.g.OW * self.K + 64)
        if self.conv.lined_y:
            self.conv.line_y = Line(*self.conv.along_rows(False))
            image = self.g.H * self.g.W * self.K
            if self.conv.line_y.items == self.N and image * <Py_ssize_t> sizeof(real) <= BAND_BYTES:
                self.lined = self.conv.line_y
                self.lined_area = self.lined.area + (image + 127) // 64 * 64 + (
                    max_scratch(&self.g) // <Py_ssize_t> sizeof(real))
        self.winners_dw = winners_pay(self.conv, window[0] * window[1], False)
        self.winners_dx = winners_pay(self.conv, window[0] * window[1], True)
        if self.winners_dw or self.winners_dx:
            self.winners = WinnerSums(x, w, z, y, stride, before, window, pool_stride)

    def share(self, Workspaces shared):
        """Use these workspaces, as other plans do that run before or after this one."""
        self.conv.share(shared)
        self.whole_z = shared.z

    def follow(self, Watch watch, w=None):
        """See `ConvPlan.follow`."""
        self.conv.follow(watch, w)

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
        """`forward`; without places where `indices` is NULL."""
        if self.lined is not None:
            self.run_items(self.lined, self.N, self.lined_area, x, w, b, relu, y, indices, num_threads)
            if not self.lined.spoiled:
                return
        if self.conv.winograd_y or self.conv.lined_y or self.conv.few_y and self.line is None:
            self.run_apart(x, w, b, relu, y, indices, num_threads)
            return
        if self.line is not None:
            self.run_items(self.line, self.N * self.bands, self.line_area, x, w, b, relu, y, indices,
                           num_threads)
            if not self.line.spoiled:
                return
        self.run_items(self.gather, self.N * self.bands, self.area, x, w, b, relu, y, indices,
                       num_threads)

    cdef run_apart(self, const real* x, const real* w, const real* b, bint relu, real* y,
                   int32_t* indices, int num_threads):
        cdef Shares shares
        cdef Py_ssize_t thread, item
        cdef Py_ssize_t slot = apart(max_scratch(&self.g) // <Py_ssize_t> sizeof(real) + 1)
        cdef real* z = self.whole_z.take(self.N * self.g.H * self.g.W * self.K)
        cdef int threads = self.gather.threads(num_threads)
        cdef real* scratch = self.scratch.take(threads * slot)
        self.conv.compute_y(x, w, b, False, z, num_threads)
        share_out(&shares, self.N * self.g.OH, threads)
        with nogil, parallel(num_threads=threads):
            thread = threadid()
            item = next_item(&shares, thread)
            while item >= 0:
                self.pool_row(z, relu, y, indices, <char*> (scratch + thread * slot), item)
                item = next_item(&shares, thread)

    cdef void pool_row(self, const real* z, bint relu, real* y, int32_t* indices, char* scratch,
                       Py_ssize_t item) noexcept nogil:
        cdef Py_ssize_t row = item * self.g.OW * self.K
        max_image_row(&self.g, z, y, indices, item, scratch)
        if relu:
            cut_losers(y + row, places_at(indices, row), self.g.OW * self.K)

    cdef run_items(self, Packer driver, Py_ssize_t items, Py_ssize_t area, const real* x, const real* w,
                   const real* b, bint relu, real* y, int32_t* indices, int num_threads):
        """Convolve by one of the drivers and pool; with `area` numbers of workspace a thread."""
        cdef Shares shares
        cdef Py_ssize_t thread, item, slot = apart(area)
        cdef int threads = self.gather.threads(num_threads)
        cdef Packed packed
        cdef real* bias = driver.pack_bias(b)
        cdef real* scratch = self.scratch.take(threads * slot)
        driver.pack(&packed, w, threads, self.conv.version())
        driver.spoiled = False
        share_out(&shares, items, threads)
        with nogil, parallel(num_threads=threads):
            thread = threadid()
            item = next_item(&shares, thread)
            while item >= 0:
                self.run_item(driver, x, driver.packed_by(&packed, thread), bias, relu, y, indices,
                              scratch + thread * slot, item)
                item = next_item(&shares, thread)

    cdef void run_item(self, Packer driver, const real* x, const real* packed, const real* b, bint relu,
                       real* y, int32_t* indices, real* scratch, Py_ssize_t item) noexcept nogil:
        if driver is self.lined:
            self.lined_image(x, packed, b, relu, y, indices, scratch, item)
        elif driver is self.line:
            self.line_item(x, packed, b, relu, y, indices, scratch, item)
        else:
            self.gather_item(x, packed, b, relu, y, indices, scratch, item)

    cdef void lined_image(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                          int32_t* indices, real* scratch, Py_ssize_t n) noexcept nogil:
        """An image."""
        cdef Window* g = &self.g
        cdef Py_ssize_t size = g.H * g.W * self.K, p, at
        cdef real* z = scratch + self.lined.area
        self.lined.run_item(x, packed, b, False, z - n * size, scratch, n)
        for p in range(g.OH):
            at = (n * g.OH + p) * g.OW * self.K
            max_row(g, z, y + at, places_at(indices, at), p, <char*> (z + (size + 127) // 64 * 64))
            if relu:
                cut_losers(y + at, places_at(indices, at), g.OW * self.K)

    cdef void line_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                        int32_t* indices, real* scratch, Py_ssize_t item) noexcept nogil:
        """A band of pooled rows of one image."""
        cdef Window* g = &self.g
        cdef Py_ssize_t n = item // self.bands, size = self.H * self.W * self.C
        cdef Py_ssize_t first = item % self.bands * self.band
        cdef Py_ssize_t end = min(first + self.band, g.OH)
        cdef Py_ssize_t q0 = max(0, first * g.stride_h - g.top)
        cdef Py_ssize_t q1 = min(g.H, (end - 1) * g.stride_h - g.top + g.KH)
        cdef Py_ssize_t q = q0, p = first, at, count
        cdef real* z = scratch + self.line.area
        while q < q1:
            if self.line.run_rows(
                    x + n * size, x + self.N * size, packed, b, False, scratch, q,
                    min(self.line.band, q1 - q), NULL, z + (q - q0) * self.line.v_row,
                    self.line_plane, 0):
                self.line.spoiled = True
            q += self.line.band
        while p < end:
            at = (n * g.OH + p) * g.OW * self.K
            count = 2 if p + 1 < end and self.are_halves(p) else 1
            self.max_line_rows(z - q0 * self.line.v_row, relu, y + at, places_at(indices, at), p, count,
                               <char*> (z + (TILE * self.K + VL) * self.line_plane))
            p += count

    cdef inline bint are_halves(self, Py_ssize_t p) noexcept nogil:
        """Whether this row of outputs and the next are computed as halves of vectors."""
        cdef Span rows = rows_of(&self.g, p), next = rows_of(&self.g, p + 1)
        return (2 * self.line.quads <= VL and self.across.KW == 1 and rows.count == next.count
                and next.start - rows.start == self.g.stride_h)

    cdef void max_line_rows(self, const real* z, bint relu, real* y, int32_t* indices, Py_ssize_t p,
                            Py_ssize_t count, char* scratch) noexcept nogil:
        """One or two rows of outputs from planes of quads: down the columns, then as `max_row`.

        `inner` pixels of a quad that belong to the same window become one before that. NaN can only
        come from the bias, and then is everywhere: so it need not be looked for. ReLU if `relu`.
        """
        cdef Row row = row_in(&self.g, scratch)
        cdef Span rows = rows_of(&self.g, p)
        cdef Py_ssize_t vectors = (self.line.quads + VL - 1) // VL
        cdef Py_ssize_t planes = TILE // self.inner * self.K, v, o, at
        cdef Py_ssize_t line = self.line.v_row, place = rows.start * self.g.W
        cdef Py_ssize_t size = self.g.OW * self.K
        cdef vec* best = <vec*> (scratch + max_scratch(&self.g))
        cdef ivec* where = <ivec*> (best + (planes + VL) * vectors)
        cdef whole* joined = <whole*> (where + (planes + VL) * vectors)
        # `max_across` adds the number of what it compares; the rest of the pixel's number is missing.
        cdef Py_ssize_t counted = 0 if self.across.KW == 1 else 1
        cdef Py_ssize_t pixel = self.K * self.line_plane, half = VL // 2, turn = 0
        cdef bint places = indices != NULL, rectify = relu and not counted
        cdef const real* from_z
        cdef ivec more
        cdef vec ignored = vec_set(0)
        if count == 2:  # what lanes of the second half count from
            half = self.g.stride_h * line
            turn = self.g.stride_h * self.g.W - VL // 2 * TILE
        z += rows.start * line
        for v in range(vectors):
            more = (ivec_set(v * VL) + lane_numbers()) * ivec_set(TILE - counted * TILE // self.inner)
            more = more + ivec_where(lanes_before(VL // 2), ivec_set(0), ivec_set(turn))
            for o in range(TILE // self.inner):
                from_z = z + o * self.inner * pixel + v * VL
                at = o * self.K * vectors + v
                if places:
                    max_all_planes(
                        self.K, self.inner, True, rectify, rows.count, from_z, self.line_plane, pixel,
                        line, half, place + o * (self.inner - counted), self.g.W, more, best + at,
                        where + at, vectors)
                else:
                    max_all_planes(
                        self.K, self.inner, False, rectify, rows.count, from_z, self.line_plane, pixel,
                        line, half, 0, 0, more, best + at, where + at, vectors)
        if counted:
            join_row(<real*> best, vectors * VL, self.line.quads, planes, <real*> row.best)
            if places:
                join_row(<real*> where, vectors * VL, self.line.quads, planes, <real*> row.where)
                max_across(False, True, &self.across, &row, y, indices, &ignored)
            else:
                max_across(False, False, &self.across, &row, y, NULL, &ignored)
            if relu:
                cut_losers(y, indices, size)
            return
        if 2 * self.line.quads <= VL:
            join_halves(<real*> best, planes, self.line.quads, count, y, size)
            if indices != NULL:
                join_halves(<real*> where, planes, self.line.quads, count, <real*> joined, size)
        else:
            join_row(<real*> best, vectors * VL, self.line.quads, planes, row.y)
            memcpy(y, row.y, size * sizeof(real))
            if indices != NULL:
                joined = row.places
                join_row(<real*> where, vectors * VL, self.line.quads, planes, <real*> joined)
        for at in range(count * size if indices != NULL else 0):
            indices[at] = <int32_t> joined[at]

    cdef void gather_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
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
                    x + n * self.H * self.W * self.C, packed, b, False, image, scratch, 1,
                    q, min(self.gather.band, q1 - q), c * self.gather.chunk,
                    min((c + 1) * self.gather.chunk, self.gather.blocks))
            q += self.gather.band
        for p in range(first, end):
            at = (n * g.OH + p) * g.OW * self.K
            if self.gather.planar:
                self.max_planar_row(image, y + at, places_at(indices, at), p, rest)
            else:
                max_row(g, image, y + at, places_at(indices, at), p, rest)
            if relu:
                cut_losers(y + at, places_at(indices, at), g.OW * self.K)

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
        max_across(False, True, g, &row, y, indices, &poison)
        if any_nan(poison):
            max_down(True, z, self.K * plane, g.W, first, rows, 1, best, where, &poison)
            join_row(<real*> best, plane, g.W, self.K, <real*> row.best)
            join_row(<real*> where, plane, g.W, self.K, <real*> row.where)
            max_across(True, True, g, &row, y, indices, &poison)

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
        """Each of dx, dw and db may be NULL."""
        cdef bint few_dx = self.winners_dx and dx != NULL
        cdef bint few_dw = self.winners_dw and (dw != NULL or db != NULL)
        cdef bint all_dx = not self.winners_dx and dx != NULL
        cdef bint all_dw = not self.winners_dw and (dw != NULL or db != NULL)
        cdef Window* g = &self.g
        cdef real* dz = NULL
        if few_dx or few_dw:
            self.winners.run_all(dy, indices, x, w, dx if few_dx else NULL, dw if few_dw else NULL,
                                 db if few_dw else NULL, num_threads)
        if all_dx or all_dw:
            dz = self.whole_z.take(self.N * g.H * g.W * self.K)
            max_pool_back(dy, indices, dz, self.N, g.H, g.W, g.OH, g.OW, self.K, -1, num_threads)
        if all_dx:
            self.conv.compute_dx(dz, w, dx, num_threads)
        if all_dw:
            self.conv.compute_dw(x, dz, dw, db, num_threads)
