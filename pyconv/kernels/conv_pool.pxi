# Convolution, bias, ReLU and max pooling as one: only the winners and their places are kept.
#
# A work item computes the convolution's rows that a band of pooled rows needs, in its thread's
# workspace, and pools them there. Where Winograd computes the convolution, which knows tiles and no
# rows, its output goes to a workspace as a whole. Going back, only the winners had a say: one
# position in 64 for an 8x8 pool. Where that is cheaper than the dense kernels, dw and dx are sums over
# the winners; elsewhere dy is spread over a workspace first.

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset


cdef void cut_losers(real* y, int32_t* indices, Py_ssize_t count) noexcept nogil:
    """ReLU of pooled outputs; where it cuts, there is no winner. NaN stays."""
    cdef Py_ssize_t i
    for i in range(count):
        indices[i] = -1 if y[i] <= 0 else indices[i]
        y[i] = 0 if y[i] <= 0 else y[i]


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
    cdef Workspace whole_z
    cdef Py_ssize_t N, H, W, C, K, KH, KW, stride_h, stride_w, top, left
    cdef Py_ssize_t band, bands, z_rows, z_size, slot, run, run_padded, padded_w, padded_size, parts
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
            and area * self.KH * self.run > (50 if self.conv.winograd_dw else 22) * (
                10 + 3 * self.KH * (self.run_padded // 16) // 2))
        self.parts = max(1, min(ITEMS, self.N))

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
        if self.conv.winograd_y:
            self.run_apart(&x[0, 0, 0, 0], &w[0, 0, 0, 0], bias, relu, &y[0, 0, 0, 0],
                           &indices[0, 0, 0, 0], num_threads)
        else:
            self.run_fused(&x[0, 0, 0, 0], &w[0, 0, 0, 0], bias, relu, &y[0, 0, 0, 0],
                           &indices[0, 0, 0, 0], num_threads)

    cdef run_apart(self, const real* x, const real* w, const real* b, bint relu, real* y,
                   int32_t* indices, int num_threads):
        cdef Py_ssize_t item, size = max_scratch(&self.g)
        cdef real* z = self.whole_z.take(self.N * self.g.H * self.g.W * self.K)
        cdef int threads = self.gather.threads(num_threads)
        cdef char* scratch = <char*> self.scratch.take(threads * size // <Py_ssize_t> sizeof(real))
        self.conv.compute_y(x, w, b, False, z, num_threads)
        for item in prange(self.N * self.g.OH, schedule="dynamic", chunksize=4, num_threads=threads,
                           nogil=True):
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
        for item in prange(self.N * self.bands, schedule="dynamic", num_threads=threads,
                           nogil=True):
            self.run_item(x, packed, bias, relu, y, indices, scratch + threadid() * self.slot, item)

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
        if self.sparse:
            self.run_sparse(&dy[0, 0, 0, 0], &indices[0, 0, 0, 0], &x[0, 0, 0, 0], &w[0, 0, 0, 0],
                            to_x, to_w, to_b, num_threads)
        else:
            self.run_dense(&dy[0, 0, 0, 0], &indices[0, 0, 0, 0], &x[0, 0, 0, 0], &w[0, 0, 0, 0],
                           to_x, to_w, to_b, num_threads)

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
        cdef Py_ssize_t slot = (self.padded_size + 15) // 16 * 16
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
        cdef Py_ssize_t n, h, inside
        cdef real* db = sums + self.K * self.KH * self.run_padded
        memset(sums, 0, (self.K * self.KH * self.run_padded + self.K) * sizeof(real))
        for n in range(part * self.N // self.parts, (part + 1) * self.N // self.parts):
            if want_dw:
                pad_rows(x + n * self.H * self.W * self.C, self.H, self.W, self.C, scratch,
                         self.padded_w, self.C, -self.top, -self.left, height, self.C)
            self.add_winners(dy + n * outputs * self.K, indices + n * outputs * self.K, scratch,
                             sums if want_dw else NULL, db)
            if dx != NULL:
                memset(scratch, 0, self.padded_size * sizeof(real))
                self.spread_winners(dy + n * outputs * self.K, indices + n * outputs * self.K, wt,
                                    scratch)
                for h in range(self.H):
                    memset(dx + (n * self.H + h) * self.W * self.C, 0,
                           self.W * self.C * sizeof(real))
                    inside = min(self.W, self.padded_w - self.left)
                    if h + self.top < height and inside > 0:
                        memcpy(dx + (n * self.H + h) * self.W * self.C,
                               scratch + ((h + self.top) * self.padded_w + self.left) * self.C,
                               inside * self.C * sizeof(real))

    cdef inline Py_ssize_t corner(self, Py_ssize_t place) noexcept nogil:
        """Where, in the padded input, the window of the convolution's output `place` starts."""
        return (place // self.g.W * self.stride_h * self.padded_w
                + place % self.g.W * self.stride_w) * self.C

    cdef void add_winners(self, const real* dy, const int32_t* indices, const real* x, real* dw,
                          real* db) noexcept nogil:
        """dw[k, kh, :] += dy * x[window of the winner]; db[k] += dy."""
        cdef Py_ssize_t i, k, kh, v
        cdef const vec* source
        cdef vec* to
        cdef vec a
        for i in range(self.g.OH * self.g.OW):
            for k in range(self.K):
                if indices[i * self.K + k] < 0:
                    continue
                db[k] += dy[i * self.K + k]
                if dw == NULL:
                    continue
                a = vec_set(dy[i * self.K + k])
                for kh in range(self.KH):
                    source = <const vec*> (
                        x + self.corner(indices[i * self.K + k]) + kh * self.padded_w * self.C)
                    to = <vec*> (dw + (k * self.KH + kh) * self.run_padded)
                    for v in range((self.run + VL - 1) // VL):
                        to[v] = to[v] + source[v] * a

    cdef void spread_winners(self, const real* dy, const int32_t* indices, const real* wt,
                             real* dx) noexcept nogil:
        """dx[window of the winner] += dy * w[:, :, :, k], in the padded input."""
        cdef Py_ssize_t i, k, kh, v
        cdef const vec* source
        cdef vec* to
        cdef vec a
        for i in range(self.g.OH * self.g.OW):
            for k in range(self.K):
                if indices[i * self.K + k] < 0:
                    continue
                a = vec_set(dy[i * self.K + k])
                for kh in range(self.KH):
                    source = <const vec*> (wt + (k * self.KH + kh) * self.run_padded)
                    to = <vec*> (
                        dx + self.corner(indices[i * self.K + k]) + kh * self.padded_w * self.C)
                    for v in range((self.run + VL - 1) // VL):
                        # Behind the run is the next pixel; infinity * 0 must not reach it.
                        to[v] = to[v] + first_lanes(source[v] * a, self.run - v * VL)

    cdef void add_parts(self, const real* sums, Py_ssize_t size, real* dw, real* db) noexcept nogil:
        """Parts in their order; dw back into HWIO."""
        cdef Py_ssize_t part, k, kh, i
        cdef real total
        for k in range(self.K if dw != NULL else 0):
            for kh in range(self.KH):
                for i in range(self.run):
                    total = 0
                    for part in range(self.parts):
                        total += sums[part * size + (k * self.KH + kh) * self.run_padded + i]
                    dw[(kh * self.run + i) * self.K + k] = total
        for k in range(self.K if db != NULL else 0):
            total = 0
            for part in range(self.parts):
                total += sums[part * size + self.K * self.KH * self.run_padded + k]
            db[k] = total
