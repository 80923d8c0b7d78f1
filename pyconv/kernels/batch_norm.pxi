# Batch normalization of P pixels by C channels: y = relu((x - mean) * scale + shift + r), and back.
#
# Memory takes the time: every pass reads each array once, front to back. Vectors lie along rows of
# K = group * C numbers, which are `group` pixels side by side: whole vectors, and enough of them to
# hide the latency of an addition, whatever C is. So mean, scale and shift are repeated `group` times.
#
# A work item is a number of blocks, and a block some rows. Its sums over the rows, K columns in `real`,
# are folded to C channels, halves onto halves, and added up in double: first block by block, then item
# by item. All of that depends on P and C alone.

from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.string cimport memcpy, memset

cdef enum:
    NORM_ROW = 128       # numbers a row: 8 vectors of 16
    NORM_ROW_MOST = 1024  # repeated parameters stay in L1
    NORM_BLOCK = 8192    # numbers a block: few roundings a sum, and folding is cheap beside it
    NORM_PIXELS = 64     # pixels a block at least: the same for many channels
    NORM_ITEMS = 256     # most items: adding them up is one thread's work


cdef const real* address(array) except? NULL:
    """Where an array (P, C) begins; NULL for None."""
    cdef const real[:, ::1] view = array
    if view is None:
        return NULL
    return &view[0, 0]


cdef inline real moved(double old, double new, double momentum) noexcept nogil:
    """momentum * old + (1 - momentum) * new, with one product: two could be fused in two ways."""
    return <real> (old + (1 - momentum) * (new - old))


cdef class BatchNormPlan:
    """Batch normalization of P pixels by C channels: its partition, and its workspace.

    Arrays are flat, P * C numbers; `r`, `dr`, `dx`, `moving_mean` and `moving_var` may be NULL. `y`
    may be `r`; `dr` may be `dy`; `dx` may be `dy`, `dr` or `x`.
    """
    cdef readonly Py_ssize_t P, C
    cdef Py_ssize_t group, K, size, block, pixels, items
    cdef Workspace workspace
    # In the workspace: sums of each item; sums of a thread; parameters, repeated
    cdef double* parts
    cdef double* sums
    cdef real* scratch
    cdef real* mean
    cdef real* scale
    cdef real* shift
    cdef real* slope
    cdef real* offset

    def __init__(self, Py_ssize_t P, Py_ssize_t C):
        cdef Py_ssize_t blocks
        self.P, self.C = P, C
        self.group = 1
        while (self.group * C % NORM_ROW and self.group * C < NORM_ROW_MOST
               or self.group * C % 16) and 2 * self.group <= P:
            self.group *= 2
        self.K = self.group * C
        self.size = (self.K + 31) // 16 * 16  # whole vectors may be read behind the end
        self.block = max(1, NORM_BLOCK // self.K, NORM_PIXELS // self.group) * self.group
        blocks = (P + self.block - 1) // self.block
        self.pixels = (blocks + NORM_ITEMS - 1) // NORM_ITEMS * self.block
        self.items = (P + self.pixels - 1) // self.pixels if P else 0
        self.workspace = Workspace()

    cdef int allot(self, int num_threads) except -1:
        """Places in the workspace, before the passes below run on at most so many threads."""
        cdef int threads = self.team(num_threads)
        cdef Py_ssize_t doubles = 2 * self.C * (self.items + threads)
        cdef Py_ssize_t reals = self.size * (5 + 3 * threads)
        self.parts = <double*> self.workspace.take(
            reals + doubles * <Py_ssize_t> (sizeof(double) // sizeof(real)))
        self.sums = self.parts + 2 * self.C * self.items
        self.scratch = <real*> (self.parts + doubles)
        self.mean = self.scratch + 3 * self.size * threads
        self.scale = self.mean + self.size
        self.shift = self.scale + self.size
        self.slope = self.shift + self.size
        self.offset = self.slope + self.size
        return 0

    cdef inline int team(self, int num_threads) noexcept nogil:
        return num_threads if self.P * self.C > TINY else 1

    cdef void repeat(self, real* a) noexcept nogil:
        """The first pixel of `a` as all of its row."""
        cdef Py_ssize_t done = self.C
        while done < self.K:  # K / C is a power of 2
            memcpy(a + done, a, done * sizeof(real))
            done *= 2

    cdef void moments_block(self, const real* x, Py_ssize_t n, const real* center, real* total,
                            real* square, double* sums) noexcept nogil:
        """Add the sums of n pixels to 2 C `sums`."""
        cdef Py_ssize_t K = self.K, rows = n // self.group, h, c = 0
        memset(total, 0, self.size * sizeof(real))
        memset(square, 0, self.size * sizeof(real))
        if K % VL == 0:
            while c + SUM_VECTORS * VL <= K:
                moments_tile(SUM_VECTORS, x + c, rows, K, center + c, total + c, square + c)
                c += SUM_VECTORS * VL
            while c < K:
                moments_tile(1, x + c, rows, K, center + c, total + c, square + c)
                c += VL
        else:
            for h in range(rows):
                moments_rest(x + h * K, K, center, total, square)
        moments_rest(x + rows * K, (n - rows * self.group) * self.C, center, total, square)
        self.add_columns(total, square, sums)

    cdef void add_columns(self, real* a, real* b, double* sums) noexcept nogil:
        cdef Py_ssize_t c, C = self.C
        fold(a, self.group, C)
        fold(b, self.group, C)
        for c in range(C):
            sums[c] += a[c]
            sums[C + c] += b[c]

    cdef void moments_item(self, const real* x, Py_ssize_t item, int thread) noexcept nogil:
        """An item's mean, and its sum of squares about it, of each channel.

        Sums of d = x - center are exact enough unless center is far off: it is the first pixel, or
        at a second try the mean that this gave. Then the squares lose at most a factor of 20.
        """
        cdef Py_ssize_t C = self.C, start = item * self.pixels, n = min(self.pixels, self.P - start)
        cdef Py_ssize_t at, c
        cdef double* mean = self.parts + item * 2 * C
        cdef double* sums = self.sums + thread * 2 * C
        cdef real* center = self.scratch + thread * 3 * self.size
        cdef double lost
        cdef int trial
        cdef bint again
        x += start * C
        for trial in range(2):
            again = False
            for c in range(C):
                center[c] = <real> mean[c] if trial else x[c]
                if center[c] - center[c] != 0:  # not finite: inf - inf would hide an infinite mean
                    center[c] = 0
            self.repeat(center)
            memset(sums, 0, 2 * C * sizeof(double))
            at = 0
            while at < n:
                self.moments_block(x + at * C, min(self.block, n - at), center, center + self.size,
                                   center + 2 * self.size, sums)
                at += self.block
            for c in range(C):
                mean[c] = center[c] + sums[c] / n
                lost = sums[c] * (sums[c] / n)
                again |= lost > 0.95 * sums[C + c]
                mean[C + c] = sums[C + c] - lost
                if mean[C + c] < 0:
                    mean[C + c] = 0
            if not again:
                break

    cdef inline double pixels_of(self, Py_ssize_t item) noexcept nogil:
        return min(self.pixels, self.P - item * self.pixels)

    cdef void add_moments(self, real* mean, real* var) noexcept nogil:
        """Mean and variance over all items."""
        cdef Py_ssize_t item, c, C = self.C
        cdef double* total = self.sums
        cdef double* square = self.sums + C
        cdef const double* part
        cdef double n
        memset(total, 0, 2 * C * sizeof(double))
        for item in range(self.items):
            part, n = self.parts + item * 2 * C, self.pixels_of(item)
            for c in range(C):
                total[c] += n * part[c]
        for c in range(C):
            total[c] /= self.P
        for item in range(self.items):
            part, n = self.parts + item * 2 * C, self.pixels_of(item)
            for c in range(C):
                square[c] += part[C + c] + n * ((part[c] - total[c]) * (part[c] - total[c]))
        for c in range(C):
            mean[c] = <real> total[c]
            var[c] = <real> (square[c] / self.P)

    cdef void set_scale(self, const real* gamma, const real* beta, const real* mean,
                        const real* var, double epsilon) noexcept nogil:
        cdef Py_ssize_t c
        for c in range(self.C):
            self.mean[c] = mean[c]
            self.scale[c] = <real> (gamma[c] / sqrt(<double> var[c] + epsilon))
            self.shift[c] = beta[c]
        self.repeat(self.mean)
        self.repeat(self.scale)
        self.repeat(self.shift)

    cdef void normalize_item(self, const real* x, const real* r, bint relu, real* y,
                             Py_ssize_t item) noexcept nogil:
        cdef Py_ssize_t start = item * self.pixels * self.C, at
        cdef Py_ssize_t end = min(start + self.pixels * self.C, self.P * self.C)
        while start < end:
            at, start = start, start + self.K
            if r == NULL and relu:
                normalize_row(False, True, x + at, r, min(self.K, end - at), self.mean, self.scale,
                              self.shift, y + at)
            elif r == NULL:
                normalize_row(False, False, x + at, r, min(self.K, end - at), self.mean, self.scale,
                              self.shift, y + at)
            else:
                normalize_row(True, relu, x + at, r + at, min(self.K, end - at), self.mean,
                              self.scale, self.shift, y + at)

    cdef void normalize(self, const real* x, const real* r, bint relu, real* y,
                        int threads) noexcept nogil:
        cdef Py_ssize_t item
        region_starts(threads > 1)
        for item in prange(self.items, schedule="static", num_threads=threads):
            self.normalize_item(x, r, relu, y, item)
            item_ends()

    cdef void run_inference(
        self, const real* x, const real* gamma, const real* beta, const real* mean,
        const real* var, double epsilon, const real* r, bint relu, real* y, int num_threads,
    ) noexcept nogil:
        """y from given statistics."""
        cdef int threads = self.team(num_threads)
        self.set_scale(gamma, beta, mean, var, epsilon)
        self.normalize(x, r, relu, y, threads)

    cdef void run_forward(
        self, const real* x, const real* gamma, const real* beta, double epsilon, const real* r,
        bint relu, real* y, real* mean, real* var, real* moving_mean, real* moving_var,
        double momentum, int num_threads,
    ) noexcept nogil:
        """Statistics of x, then y from them; the moving ones follow."""
        cdef Py_ssize_t c
        cdef int part, threads = self.team(num_threads)
        region_starts(threads > 1)
        for part in prange(threads, schedule="static", chunksize=1, num_threads=threads):
            self.moments_part(x, part, threads)
        self.add_moments(mean, var)
        if moving_mean != NULL:
            for c in range(self.C):
                moving_mean[c] = moved(moving_mean[c], mean[c], momentum)
                moving_var[c] = moved(moving_var[c], var[c], momentum)
        self.set_scale(gamma, beta, mean, var, epsilon)
        self.normalize(x, r, relu, y, threads)

    # The first pass of two over the same arrays goes backwards: it begins with what the layer before
    # wrote last, and ends with what the second pass reads first. All that is still in L2.

    cdef void moments_part(self, const real* x, int part, int parts) noexcept nogil:
        """A thread's items."""
        cdef Py_ssize_t item
        for item in range(self.items * (part + 1) // parts - 1, self.items * part // parts - 1, -1):
            self.moments_item(x, item, part)
            item_ends()

    cdef void gradient_part(self, int mask, const real* dy, const real* more, const real* y,
                            const real* x, real* dr, int part, int parts) noexcept nogil:
        cdef Py_ssize_t item
        for item in range(self.items * (part + 1) // parts - 1, self.items * part // parts - 1, -1):
            self.gradient_item(mask, dy, more, y, x, dr, item, part)
            item_ends()

    cdef void gradient_item(self, int mask, const real* dy, const real* more, const real* y,
                            const real* x, real* dr, Py_ssize_t item, int thread) noexcept nogil:
        """An item's sums of g and of g * (x - mean)."""
        cdef Py_ssize_t C = self.C, K = self.K, end = min((item + 1) * self.pixels, self.P)
        cdef Py_ssize_t start = item * self.pixels, n, rows, c, h, at
        cdef real* total = self.scratch + thread * 3 * self.size
        cdef real* product = total + self.size
        cdef double* sums = self.parts + item * 2 * C
        memset(sums, 0, 2 * C * sizeof(double))
        while start < end:
            n = min(self.block, end - start)
            rows = n // self.group
            memset(total, 0, self.size * sizeof(real))
            memset(product, 0, self.size * sizeof(real))
            c, at = 0, start * C
            start += self.block
            if K % VL == 0:
                while c + SUM_VECTORS * VL <= K:
                    self.gradient_columns(SUM_VECTORS, mask, dy, more, y, x, dr, at, rows, c, total,
                                          product)
                    c += SUM_VECTORS * VL
                while c < K:
                    self.gradient_columns(1, mask, dy, more, y, x, dr, at, rows, c, total, product)
                    c += VL
            else:
                for h in range(rows):
                    self.gradient_row(mask, dy, more, y, x, dr, at + h * K, K, total, product)
            self.gradient_row(mask, dy, more, y, x, dr, at + rows * K, (n - rows * self.group) * C,
                              total, product)
            self.add_columns(total, product, sums)

    cdef inline void gradient_columns(
        self, Py_ssize_t nv, int mask, const real* dy, const real* more, const real* y, const real* x,
        real* dr, Py_ssize_t at, Py_ssize_t rows, Py_ssize_t c, real* total, real* product,
    ) noexcept nogil:
        """`gradient_tile` of SUM_VECTORS or 1 vectors; its sizes must be constants."""
        cdef const real* mean = self.mean + c
        cdef const real* scale = self.scale + c
        cdef const real* shift = self.shift + c
        cdef Py_ssize_t K = self.K
        dy, x, total, product = dy + at + c, x + at + c, total + c, product + c
        if mask == RELU_OF_Y:
            y = y + at + c
        if dr != NULL:
            dr = dr + at + c
        if more != NULL:
            more = more + at + c
        if nv == 1:
            if dr != NULL and mask == RELU_OF_Y:
                gradient_tile(1, RELU_OF_Y, True, dy, more, y, x, rows, K, mean, scale,
                              shift, dr, total, product)
            elif mask == RELU_OF_Y:
                gradient_tile(1, RELU_OF_Y, False, dy, more, y, x, rows, K, mean, scale,
                              shift, dr, total, product)
            elif mask == RELU_OF_X:
                gradient_tile(1, RELU_OF_X, False, dy, more, y, x, rows, K, mean, scale,
                              shift, dr, total, product)
            else:
                gradient_tile(1, NO_RELU, False, dy, more, y, x, rows, K, mean, scale,
                              shift, dr, total, product)
        elif dr != NULL and mask == RELU_OF_Y:
            gradient_tile(SUM_VECTORS, RELU_OF_Y, True, dy, more, y, x, rows, K, mean, scale,
                          shift, dr, total, product)
        elif mask == RELU_OF_Y:
            gradient_tile(SUM_VECTORS, RELU_OF_Y, False, dy, more, y, x, rows, K, mean, scale,
                          shift, dr, total, product)
        elif mask == RELU_OF_X:
            gradient_tile(SUM_VECTORS, RELU_OF_X, False, dy, more, y, x, rows, K, mean, scale,
                          shift, dr, total, product)
        else:
            gradient_tile(SUM_VECTORS, NO_RELU, False, dy, more, y, x, rows, K, mean, scale,
                          shift, dr, total, product)

    cdef inline void gradient_row(
        self, int mask, const real* dy, const real* more, const real* y, const real* x, real* dr,
        Py_ssize_t at, Py_ssize_t count, real* total, real* product,
    ) noexcept nogil:
        gradient_rest(mask, dr != NULL, dy + at, more + at if more != NULL else NULL,
                      y + at if mask == RELU_OF_Y else NULL, x + at, count, self.mean, self.scale,
                      self.shift, dr + at if dr != NULL else NULL, total, product)

    cdef void add_gradients(self, const real* gamma, const real* var, double epsilon, real* dgamma,
                            real* dbeta) noexcept nogil:
        """dgamma and dbeta, and what dx needs of them."""
        cdef Py_ssize_t item, c, C = self.C
        cdef double* total = self.sums
        cdef double* product = self.sums + C
        cdef const double* part
        cdef double inverse
        memset(total, 0, 2 * C * sizeof(double))
        for item in range(self.items):
            part = self.parts + item * 2 * C
            for c in range(2 * C):
                total[c] += part[c]
        for c in range(C):
            inverse = 1 / sqrt(<double> var[c] + epsilon)
            dgamma[c] = <real> (inverse * product[c])
            dbeta[c] = <real> total[c]
            self.slope[c] = <real> (-gamma[c] * inverse * inverse * inverse * (product[c] / self.P))
            self.offset[c] = <real> (-gamma[c] * inverse * (total[c] / self.P))
        self.repeat(self.slope)
        self.repeat(self.offset)

    cdef void dx_item(self, int mask, const real* dy, const real* y, const real* x, real* dx,
                      Py_ssize_t item) noexcept nogil:
        cdef Py_ssize_t start = item * self.pixels * self.C, at
        cdef Py_ssize_t end = min(start + self.pixels * self.C, self.P * self.C)
        while start < end:
            at, start = start, start + self.K
            if mask == RELU_OF_Y:
                dx_row(RELU_OF_Y, dy + at, y + at, x + at, min(self.K, end - at), self.mean,
                       self.scale, self.shift, self.slope, self.offset, dx + at)
            elif mask == RELU_OF_X:
                dx_row(RELU_OF_X, dy + at, y, x + at, min(self.K, end - at), self.mean,
                       self.scale, self.shift, self.slope, self.offset, dx + at)
            else:
                dx_row(NO_RELU, dy + at, y, x + at, min(self.K, end - at), self.mean,
                       self.scale, self.shift, self.slope, self.offset, dx + at)

    cdef void run_backward(
        self, const real* dy, const real* more, const real* x, const real* gamma, const real* beta,
        const real* mean, const real* var, double epsilon, bint relu, const real* y, real* dx,
        real* dgamma, real* dbeta, real* dr, int num_threads,
    ) noexcept nogil:
        """Gradients. With relu, its mask is y's, or without a y that of x; dr needs a y.

        With a dr, the gradient by y is dy + `more`, if that is not NULL.
        """
        cdef Py_ssize_t item
        cdef int part, threads = self.team(num_threads)
        cdef int mask = NO_RELU if not relu else (RELU_OF_X if y == NULL else RELU_OF_Y)
        self.set_scale(gamma, beta, mean, var, epsilon)
        region_starts(threads > 1)
        for part in prange(threads, schedule="static", chunksize=1, num_threads=threads):
            self.gradient_part(mask, dy, more, y, x, dr, part, threads)
        self.add_gradients(gamma, var, epsilon, dgamma, dbeta)
        if dx != NULL:
            if dr != NULL:  # dy behind its mask
                dy, mask = dr, NO_RELU
            region_starts(threads > 1)
            for item in prange(self.items, schedule="static", num_threads=threads):
                self.dx_item(mask, dy, y, x, dx, item)
                item_ends()

    def forward(
        self, const real[:, ::1] x, const real[::1] gamma, const real[::1] beta, double epsilon, r,
        bint relu, real[:, ::1] y, real[::1] mean, real[::1] var, moving, double momentum,
        int num_threads,
    ):
        """y, mean and var; `r` like x or None, `moving` a pair of (C,) to update or None."""
        cdef real[::1] moving_mean = None, moving_var = None
        cdef real* m = NULL
        cdef real* v = NULL
        if moving is not None:
            moving_mean, moving_var = moving
            m, v = &moving_mean[0], &moving_var[0]
        cdef const real* added = address(r)
        self.allot(num_threads)
        with nogil:
            self.run_forward(&x[0, 0], &gamma[0], &beta[0], epsilon, added, relu, &y[0, 0], &mean[0],
                             &var[0], m, v, momentum, num_threads)

    def inference(
        self, const real[:, ::1] x, const real[::1] gamma, const real[::1] beta,
        const real[::1] mean, const real[::1] var, double epsilon, r, bint relu, real[:, ::1] y,
        int num_threads,
    ):
        """y from given statistics; `r` like x or None."""
        cdef const real* added = address(r)
        self.allot(num_threads)
        with nogil:
            self.run_inference(&x[0, 0], &gamma[0], &beta[0], &mean[0], &var[0], epsilon, added, relu,
                               &y[0, 0], num_threads)

    def backward(
        self, const real[:, ::1] dy, const real[:, ::1] x, const real[::1] gamma,
        const real[::1] beta, const real[::1] mean, const real[::1] var, double epsilon, bint relu,
        y, real[:, ::1] dx, real[::1] dgamma, real[::1] dbeta, real[:, ::1] dr, int num_threads,
    ):
        """dx and dr, like x, or None; dgamma and dbeta; `y` or None."""
        cdef real* to_x = NULL
        cdef real* to_r = NULL
        if dx is not None:
            to_x = &dx[0, 0]
        if dr is not None:
            to_r = &dr[0, 0]
        cdef const real* output = address(y)
        self.allot(num_threads)
        with nogil:
            self.run_backward(&dy[0, 0], NULL, &x[0, 0], &gamma[0], &beta[0], &mean[0], &var[0],
                              epsilon, relu, output, to_x, &dgamma[0], &dbeta[0], to_r, num_threads)


# ------------------------------------------------------------------------------ folded into weights

cdef void fold_row(const real* w, const real* scale, real* y, Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(C):
        y[c] = w[c] * scale[c]


cdef void fold_into(
    const real* w, const real* b, const real* gamma, const real* beta, const real* mean,
    const real* var, double epsilon, Py_ssize_t inputs, Py_ssize_t C, real* scale, real* to_w,
    real* to_b, int num_threads,
) noexcept nogil:
    """to_w (inputs, C) = w * scale, to_b = (b - mean) * scale + beta; b may be NULL."""
    cdef Py_ssize_t i, c
    cdef int threads = num_threads if inputs * C > TINY else 1
    cdef double factor, start
    for c in range(C):
        factor = gamma[c] / sqrt(<double> var[c] + epsilon)
        start = 0 if b == NULL else b[c]
        scale[c] = <real> factor
        to_b[c] = <real> ((start - mean[c]) * factor + beta[c])
    for i in prange(inputs, schedule="static", num_threads=threads):
        fold_row(w + i * C, scale, to_w + i * C, C)


def fold_batch_norm(
    const real[:, ::1] w, const real[::1] b, const real[::1] gamma, const real[::1] beta,
    const real[::1] mean, const real[::1] var, double epsilon, real[:, ::1] to_w, real[::1] to_b,
    int num_threads,
):
    """Weights (inputs, C), and a bias (C,), with the normalization in them; `b` may be None."""
    cdef Workspace workspace = Workspace()
    cdef real* scale = workspace.take(w.shape[1])
    cdef const real* start = NULL
    if b is not None:
        start = &b[0]
    with nogil:
        fold_into(&w[0, 0], start, &gamma[0], &beta[0], &mean[0], &var[0], epsilon, w.shape[0],
                  w.shape[1], scale, &to_w[0, 0], &to_b[0], num_threads)
