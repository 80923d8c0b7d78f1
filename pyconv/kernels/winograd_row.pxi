# dw by a one-dimensional Winograd along the rows: filters that the two-dimensional one does not take.
#
#     dw[kh] = G^T [sum over rows and tiles of (B^T d) * (A dy)]    d of P points, dy of R outputs
#
# P points serve M = P - R + 1 taps: P products for what the direct sum does with R * M. At stride s
# along the row, s neighbours count as one pixel of s times the channels, and ceil(KW / s) as the taps.
# At a dilation d along an axis, an image is d images of every d-th row, or column.
# Interpolation is at 0, at pairs +-p, which share their even and odd halves, and at infinity.
#
# Over all tiles of a band of rows each point is a product of matrices, (taps down and input channels) x
# (output channels): the tiles of tile.pxi. As in reduce.pxi the rows of the whole batch are cut into
# fixed parts, and channels into chunks; the first part's filter is dw itself, and the others are added
# to it in their order. What is not finite is computed again directly (see winograd.pxi).

cdef enum:
    ROW_POINTS = 10             # at most
    ROW_PAIRS = 4
    ROW_BAND = 96               # tiles of a band: sums are read and written once in so many products
    ROW_BYTES = 393_216         # points of a band's x and dy: with the sums, what L2 holds

cdef struct RowTransform:
    Py_ssize_t pairs, points, outputs, taps
    real p[ROW_PAIRS]           # interpolation at 0, +-p, infinity
    real square[ROW_PAIRS]      # p^2
    real tap[ROW_POINTS][ROW_PAIRS]     # p^tap / the product of p's distances to the others
    real factor[ROW_PAIRS][ROW_PAIRS]   # of the product of (z - q^2) over the other pairs q
    real product[ROW_PAIRS + 1]         # of that over all pairs


cdef struct Pixel:
    Py_ssize_t n, row, column


cdef tuple ROW_PLACES = ((0.5, 1.0), (0.5, 1.0, 2.0), (0.5, 0.5 ** 0.5, 2.0 ** 0.5, 2.0))


cdef list polynomial(zeros):
    """Coefficients of the product of (z - zero), lowest first."""
    factors = [1.0]
    for zero in zeros:
        factors = [low - zero * high for low, high in zip([0.0, *factors], [*factors, 0.0])]
    return factors


cdef Py_ssize_t row_pairs(Py_ssize_t taps, Py_ssize_t columns):
    """Pairs of points with which rows of `columns` outputs take the fewest products; 0: no gain."""
    cdef Py_ssize_t pairs, outputs, best = 0
    cost = 0.75 * taps * columns  # transforms cost something too
    for pairs in range(2, ROW_PAIRS + 1):
        outputs = 2 * pairs + 3 - taps
        if taps >= 2 and outputs >= 2:
            products = (2 * pairs + 2) * ((columns + outputs - 1) // outputs) * (1 + 0.04 * pairs)
            if products < cost:
                best, cost = pairs, products
    return best


cdef tuple row_chunks(Py_ssize_t rows, Py_ssize_t C, Py_ssize_t K):
    """Chunks of input and output channels whose sums, `rows` for one of each, stay in L2."""
    cdef Py_ssize_t chunk = C, k_chunk = K
    while rows * chunk * k_chunk * <Py_ssize_t> sizeof(real) > PARTIAL_BYTES:
        if k_chunk > max(32, 2 * chunk) or k_chunk > 32 >= chunk:
            k_chunk = (k_chunk // 2 + 31) // 32 * 32
        elif chunk > 8:
            chunk = (chunk + 1) // 2
        else:
            break
    return chunk, k_chunk


cdef RowTransform row_transform(Py_ssize_t pairs, Py_ssize_t taps):
    cdef RowTransform g
    cdef Py_ssize_t i, j
    places = ROW_PLACES[pairs - 2]
    g.pairs, g.points, g.taps = pairs, 2 * pairs + 2, taps
    g.outputs = g.points - taps + 1
    for j, factor in enumerate(polynomial([p * p for p in places])):
        g.product[j] = factor
    for i, p in enumerate(places):
        g.p[i], g.square[i] = p, p * p
        distance = 2 * p * p
        for q in places:
            if q != p:
                distance *= p * p - q * q
        for j in range(taps):
            g.tap[j][i] = p ** j / distance
        for j, factor in enumerate(polynomial([q * q for q in places if q != p])):
            g.factor[i][j] = factor
    return g


# The same as vectors, which stay in registers: what is written might be them, for all C knows.
cdef struct RowVectors:
    vec p[ROW_PAIRS]
    vec square[ROW_PAIRS]
    vec factor[ROW_PAIRS][ROW_PAIRS]
    vec product[ROW_PAIRS + 1]


cdef inline inlined row_vectors(
    const Py_ssize_t pairs, const RowTransform* g, RowVectors* s,
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(pairs):
        s.p[i], s.square[i] = vec_set(g.p[i]), vec_set(g.square[i])
        s.product[i] = vec_set(g.product[i])
        for j in range(pairs - 1):
            s.factor[i][j] = vec_set(g.factor[i][j])


# One vector of each point. A sum of two products never has two inexact ones: v3 and v4 round alike.

cdef inline inlined row_of_x(
    const Py_ssize_t pairs, const RowVectors* s, const vec* d, real* to, Py_ssize_t step,
) noexcept nogil:
    """B^T d: as many points as inputs, `step` numbers apart."""
    cdef vec low = d[2 * pairs], high = d[2 * pairs + 1]
    cdef Py_ssize_t i, j
    for j in range(pairs):
        low = low + s.product[pairs - 1 - j] * d[2 * (pairs - 1 - j)]
        high = high + s.product[pairs - 1 - j] * d[2 * (pairs - 1 - j) + 1]
    (<vec*> to)[0] = low
    (<vec*> (to + (2 * pairs + 1) * step))[0] = high
    for i in range(pairs):
        high, low = d[2 * pairs], d[2 * pairs - 1]
        for j in range(pairs - 1):
            high = high + s.factor[i][pairs - 2 - j] * d[2 * (pairs - 1 - j)]
            low = low + s.factor[i][pairs - 2 - j] * d[2 * (pairs - 1 - j) - 1]
        (<vec*> (to + (2 * i + 1) * step))[0] = high + s.p[i] * low
        (<vec*> (to + (2 * i + 2) * step))[0] = high - s.p[i] * low


cdef inline inlined row_of_dy(
    const Py_ssize_t pairs, const RowVectors* s, const vec* y, vec more, vec last, real* to,
    Py_ssize_t step,
) noexcept nogil:
    """A y: outputs y, zeros behind them, one more or zero, and the last one again, to points."""
    cdef vec even, odd
    cdef Py_ssize_t i, j
    (<vec*> to)[0] = y[0]
    (<vec*> (to + (2 * pairs + 1) * step))[0] = last
    for i in range(pairs):
        even, odd = y[2 * pairs - 2] + s.square[i] * more, y[2 * pairs - 1]
        for j in range(pairs - 1):
            even = y[2 * (pairs - 2 - j)] + s.square[i] * even
            odd = y[2 * (pairs - 2 - j) + 1] + s.square[i] * odd
        (<vec*> (to + (2 * i + 1) * step))[0] = even + s.p[i] * odd
        (<vec*> (to + (2 * i + 2) * step))[0] = even - s.p[i] * odd


cdef inline inlined row_taps(
    const Py_ssize_t pairs, const RowTransform* g, const real* q, Py_ssize_t step, vec* to,
) noexcept nogil:
    """G^T q: points, `step` numbers apart, to taps."""
    cdef vec plus[ROW_PAIRS]
    cdef vec minus[ROW_PAIRS]
    cdef vec total
    cdef Py_ssize_t i, j
    for i in range(pairs):
        plus[i] = (<const vec*> (q + (2 * i + 1) * step))[0]
        minus[i] = plus[i] - (<const vec*> (q + (2 * i + 2) * step))[0]
        plus[i] = plus[i] + (<const vec*> (q + (2 * i + 2) * step))[0]
    for j in range(g.taps):
        total = vec_set(0)
        if j == 0:
            total = (<const vec*> q)[0] * vec_set(1 / g.product[0])
        elif j == g.taps - 1:
            total = (<const vec*> (q + (2 * pairs + 1) * step))[0]
        for i in range(pairs):
            total = total + vec_set(g.tap[j][i]) * (minus[i] if j % 2 else plus[i])
        to[j] = total


cdef inline inlined row_x_tiles(
    const Py_ssize_t pairs, const RowTransform* g, const real* x, Py_ssize_t line, Py_ssize_t pixel,
    Py_ssize_t height, Py_ssize_t tiles, real* to, Py_ssize_t step,
) noexcept nogil:
    """Points of a band of padded rows as [point, tile, row, channel]; `pixel` channels.

    Whole vectors are written, from front to back: what hangs over is overwritten by what comes next.
    """
    cdef vec[ROW_POINTS] d
    cdef RowVectors s
    cdef Py_ssize_t t, h, c, j
    row_vectors(pairs, g, &s)
    for t in range(tiles):
        for h in range(height):
            c = 0
            while c < pixel:
                for j in range(2 * pairs + 2):
                    d[j] = (<const vec*> (x + h * line + (t * g.outputs + j) * pixel + c))[0]
                row_of_x(pairs, &s, d, to + c, step)
                c += VL
            to = to + pixel


cdef inline inlined row_dy_tiles(
    const Py_ssize_t pairs, const RowTransform* g, const real* dy, Py_ssize_t line, Py_ssize_t pixel,
    Py_ssize_t inside, Py_ssize_t OW, Py_ssize_t rows, Py_ssize_t tiles, Py_ssize_t lanes, real* to,
    Py_ssize_t to_pixel, Py_ssize_t step, real* db,
) noexcept nogil:
    """Points of a vector of channels of `rows` rows as [point, row, tile]; db += the sums of dy.

    There are `inside` rows of OW pixels; what is beyond is 0.
    """
    cdef vec[ROW_POINTS] y
    cdef vec[ROW_POINTS] edge
    cdef vec zero = vec_set(0), total = vec_set(0), more, last, sums
    cdef const real* source
    cdef RowVectors s
    cdef Py_ssize_t h, t, i, left, between
    row_vectors(pairs, g, &s)
    if db != NULL:
        total = (<vec*> db)[0]
    for h in range(rows):
        for t in range(tiles):
            left = max(0, min(g.outputs, OW - t * g.outputs)) if h < inside else 0
            source, between = dy + h * line + t * g.outputs * pixel, pixel
            if lanes < VL:
                for i in range(left):
                    edge[i] = load_part(source + i * pixel, lanes)
                source, between = <const real*> edge, VL
            sums = zero
            for i in range(2 * pairs):
                y[i] = (<const vec*> (source + i * between if i < left else <const real*> &zero))[0]
                sums = sums + y[i]
            last = (<const vec*> (source + (left - 1) * between if left == g.outputs
                                  else <const real*> &zero))[0]
            more = last if g.outputs > 2 * pairs else zero  # for two taps there are so many
            total = total + (sums + more)
            row_of_dy(pairs, &s, y, more, last, to, step)
            to = to + to_pixel
    if db != NULL:
        (<vec*> db)[0] = total


cdef void row_x_tiles_of(
    const RowTransform* g, const real* x, Py_ssize_t line, Py_ssize_t pixel, Py_ssize_t height,
    Py_ssize_t tiles, real* to, Py_ssize_t step,
) noexcept nogil:
    if g.pairs == 2:
        row_x_tiles(2, g, x, line, pixel, height, tiles, to, step)
    elif g.pairs == 3:
        row_x_tiles(3, g, x, line, pixel, height, tiles, to, step)
    else:
        row_x_tiles(4, g, x, line, pixel, height, tiles, to, step)


cdef void row_dy_tiles_of(
    const RowTransform* g, const real* dy, Py_ssize_t line, Py_ssize_t pixel, Py_ssize_t inside,
    Py_ssize_t OW, Py_ssize_t rows, Py_ssize_t tiles, Py_ssize_t lanes, real* to, Py_ssize_t to_pixel,
    Py_ssize_t step, real* db,
) noexcept nogil:
    if g.pairs == 2:
        row_dy_tiles(2, g, dy, line, pixel, inside, OW, rows, tiles, lanes, to, to_pixel, step, db)
    elif g.pairs == 3:
        row_dy_tiles(3, g, dy, line, pixel, inside, OW, rows, tiles, lanes, to, to_pixel, step, db)
    else:
        row_dy_tiles(4, g, dy, line, pixel, inside, OW, rows, tiles, lanes, to, to_pixel, step, db)


cdef void row_taps_of(
    const RowTransform* g, const real* q, Py_ssize_t step, vec* to,
) noexcept nogil:
    if g.pairs == 2:
        row_taps(2, g, q, step, to)
    elif g.pairs == 3:
        row_taps(3, g, q, step, to)
    else:
        row_taps(4, g, q, step, to)


@final
cdef class RowWinogradFilter:
    """dw and db of one convolution; as `Reduce`."""
    cdef Py_ssize_t N, H, W, C, OH, OW, K, groups, C_group, K_group, KH, KW
    cdef Py_ssize_t stride_h, stride_w, dilation_h, dilation_w, top, left
    cdef Py_ssize_t remainders, beside            # by the dilation: of an image, and of its columns
    cdef Py_ssize_t rows, columns                 # outputs of a remainder
    cdef Py_ssize_t block, chunk, chunks, k_chunk, k_chunks, padded, parts, tiles, run
    cdef Py_ssize_t band, images                  # rows of a band; if those are all, of so many images
    cdef Py_ssize_t width, x_area, x_step, d_step, q_step, area
    cdef RowTransform g
    cdef Workspace partials, scratch
    cdef readonly Py_ssize_t work
    cdef bint spoiled                             # some of dw is not finite

    def __cinit__(self, x, dy, Py_ssize_t groups, kernel, stride, dilation, before):
        self.N, self.H, self.W, self.C = x
        self.OH, self.OW, self.K = dy[1:]
        self.groups, self.C_group, self.K_group = groups, self.C // groups, self.K // groups
        self.KH, self.KW = kernel
        self.stride_h, self.stride_w = stride
        self.dilation_h, self.dilation_w = dilation
        self.top, self.left = before
        self.beside = min(self.dilation_w, self.OW)
        self.remainders = min(self.dilation_h, self.OH) * self.beside
        self.rows = (self.OH + self.dilation_h - 1) // self.dilation_h
        self.columns = (self.OW + self.dilation_w - 1) // self.dilation_w
        self.partials, self.scratch = Workspace(), Workspace()
        taps = (self.KW + self.stride_w - 1) // self.stride_w
        self.g = row_transform(row_pairs(taps, self.columns), taps)
        self.cut()

    cdef cut(self):
        """Choose chunks, parts and bands: by shape alone, so that sums never move."""
        cdef Py_ssize_t height, images = self.N * self.remainders
        self.tiles = (self.columns + self.g.outputs - 1) // self.g.outputs
        self.work = self.N * self.OH * self.OW * self.KH * self.KW * self.C_group * self.K
        self.chunk, self.k_chunk = row_chunks(self.g.points * self.KH * self.stride_w, self.C_group,
                                              self.K_group)
        self.chunks = (self.C_group + self.chunk - 1) // self.chunk
        self.k_chunks = (self.K_group + self.k_chunk - 1) // self.k_chunk
        items = min(ITEMS, 1 + self.work // (4 * ITEM_WORK),
                    max(LEAST_PARTS, self.N * self.OH * self.OW // PART_PIXELS))
        slices = self.groups * self.chunks * self.k_chunks
        self.parts = max(1, min((items + slices - 1) // slices, images * self.rows))
        self.block = 2 * VL if self.k_chunk > VL else VL
        self.padded = (self.k_chunk + self.block - 1) // self.block * self.block
        self.run = self.KH * self.stride_w * self.chunk
        self.width = ((self.tiles - 1) * self.g.outputs + self.g.points) * self.stride_w
        self.band = max(1, min(self.rows, ROW_BAND // self.tiles))
        self.images = 1
        if self.band == self.rows:
            self.images = even_part(max(1, images // self.parts),
                                    max(1, ROW_BAND // max(1, self.rows * self.tiles)))
        while True:
            height = (self.band - 1) * self.stride_h + self.KH
            # 16 numbers more, so that points do not share the same lines of a cache.
            self.x_area = height * self.width * self.chunk + 32
            self.x_step = self.images * self.tiles * height * self.stride_w * self.chunk + 16
            self.d_step = self.images * self.band * self.tiles * self.block + 16
            if self.band == self.images == 1 or (
                    self.g.points * (self.x_step + self.d_step) * <Py_ssize_t> sizeof(real)
                    <= ROW_BYTES):
                break
            if self.images > 1:
                self.images = (self.images + 1) // 2
            else:
                self.band = (self.band + 1) // 2
        self.q_step = self.run * self.padded + 16
        self.x_area = (self.x_area + 15) // 16 * 16
        self.area = self.x_area + self.g.points * (self.x_step + self.d_step + self.q_step) + 64

    cdef bint run_all(self, const real* x, const real* dy, real* dw, real* db,
                      int num_threads) except -1:
        """Fill dw, and db if not NULL; False if dw is not finite and must be computed directly."""
        cdef Shares shares
        cdef Py_ssize_t thread, item, row, size = self.KH * self.KW * self.C_group * self.K
        cdef Py_ssize_t k_padded = self.groups * self.k_chunks * self.padded
        cdef Py_ssize_t rows = self.KH * self.KW * self.C_group if self.parts > 1 else 0
        cdef real* sums = self.partials.take((self.parts - 1) * size + self.parts * k_padded)
        cdef real* partials = sums + self.parts * k_padded
        cdef Py_ssize_t slot = apart(self.area)
        cdef real* scratch = self.scratch.take(num_threads * slot)
        cdef int threads = team(self.work, num_threads)
        self.spoiled = False
        with nogil:
            share_out(&shares, self.groups * self.chunks * self.k_chunks * self.parts, threads)
            region_starts(is_shared(self.work))
            with parallel(num_threads=threads):
                thread = threadid()
                item = next_item(&shares, thread)
                while item >= 0:
                    self.run_item(x, dy, dw, partials, sums if db != NULL else NULL,
                                  scratch + thread * slot, item)
                    item_ends()
                    item = next_item(&shares, thread)
            if self.parts * size < TINY:
                threads = 1
            region_starts(is_shared(self.work) and self.parts * size >= TINY)
            for row in prange(rows, schedule="static", num_threads=threads):
                add_row_parts(partials + row * self.K, self.parts - 1, size, dw + row * self.K, self.K)
                item_ends()
            if db != NULL:
                for row in range(self.groups * self.k_chunks):
                    add_row_parts(sums + k_padded + row * self.padded, self.parts - 1, k_padded,
                                  sums + row * self.padded, self.padded)
                for row in range(self.K):
                    item = row % self.K_group
                    db[row] = sums[(row // self.K_group * self.k_chunks + item // self.k_chunk)
                                   * self.padded + item % self.k_chunk]
        return not self.spoiled

    cdef void run_item(self, const real* x, const real* dy, real* dw, real* partials, real* sums,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """One part of the rows, for one chunk of input by one chunk of output channels."""
        cdef Py_ssize_t k_index = item % self.k_chunks
        cdef Py_ssize_t k0 = k_index * self.k_chunk
        cdef Py_ssize_t c0 = item // self.k_chunks % self.chunks * self.chunk
        cdef Py_ssize_t group = item // self.k_chunks // self.chunks % self.groups
        cdef Py_ssize_t part = item // self.k_chunks // self.chunks // self.groups
        cdef Py_ssize_t channels = min(self.chunk, self.C_group - c0)
        cdef Py_ssize_t width = min(self.k_chunk, self.K_group - k0)
        cdef Py_ssize_t all_rows = self.N * self.remainders * self.rows
        cdef Py_ssize_t row = part * all_rows // self.parts, end = (part + 1) * all_rows // self.parts
        cdef Py_ssize_t rows, image, height, n, k, lanes, nv, ahead
        cdef Py_ssize_t pixel = self.stride_w * channels, plane
        cdef Pixel place
        cdef real* v = scratch + self.x_area
        cdef real* d = v + self.g.points * self.x_step
        cdef real* q = d + self.g.points * self.d_step
        cdef real* db = NULL
        cdef const real* source
        cdef Pixels pixels
        x += group * self.C_group + c0
        dy += group * self.K_group + k0
        if sums != NULL and c0 == 0:
            db = sums + ((part * self.groups + group) * self.k_chunks + k_index) * self.padded
            memset(db, 0, self.padded * sizeof(real))
        memset(q, 0, self.g.points * self.q_step * sizeof(real))
        while row < end:
            rows = band_rows(row, end, self.rows, self.band, self.images)
            image = min(rows, self.rows)
            height = (image - 1) * self.stride_h + self.KH
            plane = self.tiles * height * pixel
            for n in range(rows // image):
                place = self.first_of(row + n * image)
                pack_panels(x + place.n * self.H * self.W * self.C, self.H, self.W, self.C, scratch,
                            channels, 0, place.row * self.stride_h - self.top, height, self.dilation_h,
                            place.column * self.stride_w - self.left, self.width, self.dilation_w,
                            channels)
                row_x_tiles_of(&self.g, scratch, self.width * channels, pixel, height, self.tiles,
                               v + n * plane, self.x_step)
            pixels = Pixels(rows, self.tiles, self.stride_h * pixel, height * pixel, image,
                            plane - image * self.stride_h * pixel)
            k = 0
            while k < width:
                lanes = min(self.block, width - k)
                nv = (lanes + VL - 1) // VL
                for n in range(rows // image):
                    self.transform_dy(dy + k, row + n * image, image, lanes,
                                      d + n * image * self.tiles * nv * VL,
                                      NULL if db == NULL else db + k)
                ahead = row + rows if k + self.block >= width and row + rows < end else row
                source = dy + self.offset_of(self.first_of(ahead))
                if ahead == row:
                    source += k + self.block
                self.multiply(&pixels, v, d, q + k, self.KH * pixel, nv, source)
                k += self.block
            row += rows
        dw = dw if part == 0 else partials + (part - 1) * self.KH * self.KW * self.C_group * self.K
        self.write_taps(q, dw + c0 * self.K + group * self.K_group + k0, channels, width)

    cdef Pixel first_of(self, Py_ssize_t row) noexcept nogil:
        """The first output of a row: each image's remainders are behind each other."""
        cdef Py_ssize_t remainder = row // self.rows % self.remainders
        cdef Pixel place
        place.n = row // self.rows // self.remainders
        place.row = remainder // self.beside + row % self.rows * self.dilation_h
        place.column = remainder % self.beside
        return place

    cdef Py_ssize_t offset_of(self, Pixel place) noexcept nogil:
        """Where it is in dy."""
        return ((place.n * self.OH + place.row) * self.OW + place.column) * self.K

    cdef void transform_dy(self, const real* dy, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t lanes,
                           real* to, real* db) noexcept nogil:
        """Points of a block of channels of some rows."""
        cdef Pixel first = self.first_of(row)
        cdef Py_ssize_t i, nv = (lanes + VL - 1) // VL
        dy += self.offset_of(first)
        for i in range(nv):
            row_dy_tiles_of(
                &self.g, dy + i * VL, self.dilation_h * self.OW * self.K, self.dilation_w * self.K,
                steps_to(self.OH - first.row, self.dilation_h, rows),
                steps_to(self.OW - first.column, self.dilation_w, self.columns), rows, self.tiles,
                lanes - i * VL, to + i * VL, nv * VL, self.d_step, NULL if db == NULL else db + i * VL)

    cdef void multiply(self, const Pixels* pixels, const real* v, const real* d, real* q,
                       Py_ssize_t run, Py_ssize_t nv, const real* ahead) noexcept nogil:
        """q += the products of a band's points of x and of a block of dy.

        The tiles fetch what is transformed next, from `ahead` on: a line of a pixel each.
        """
        cdef Py_ssize_t e, i, count, tile = 0, step = pixels.rows * self.tiles * self.K
        for e in range(self.g.points):
            i = 0
            while i < run:
                count = even_part(run - i, tile_rows(nv))
                filter_tile_of(
                    count, nv, pixels, v + i, d, q + i * self.padded, self.padded,
                    ahead + tile % nv * VL + min(tile // nv, self.g.outputs - 1) * step, self.K)
                i += count
                tile += 1
            v += self.x_step
            d += self.d_step
            q += self.q_step

    cdef void write_taps(self, const real* q, real* dw, Py_ssize_t channels,
                         Py_ssize_t width) noexcept nogil:
        """dw = G^T q, for one chunk; s taps at a stride s come as channels of one."""
        cdef Py_ssize_t kh, kw, phase, c, k
        cdef vec check = vec_set(0), a
        cdef vec[ROW_POINTS] taps
        for kh in range(self.KH):
            for phase in range(self.stride_w):
                for c in range(channels):
                    k = 0
                    while k < width:
                        row_taps_of(&self.g, q + k, self.q_step, taps)
                        kw = phase
                        while kw < self.KW:
                            a = first_lanes(taps[kw // self.stride_w], width - k)
                            check = check + 0 * a
                            store_part(dw + ((kh * self.KW + kw) * self.C_group + c) * self.K + k,
                                       a, width - k)
                            kw += self.stride_w
                        k += VL
                    q += self.padded
        if any_nan(check):
            self.spoiled = True
