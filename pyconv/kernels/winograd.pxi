# Winograd's F(4x4, 3x3): 16 outputs of a 3x3 filter at stride 1 from 36 products instead of 144.
#
#     y = A^T [(G w G^T) * (B^T d B)] A       one 4x4 tile of y from a 6x6 tile d of x
#
# `*` takes element by element, so over all tiles and all input and output channels it is 36 matrix
# products. Interpolation is at 0, +-sqrt(2), +-1/sqrt(2) and infinity: least error of the sets
# tried (a third of that of 0, +-1, +-2), and few operations: a pair +-p shares its even and odd
# halves. (Barabasz et al., arXiv:1803.10986; Alam et al., arXiv:2201.10369.)
#
# A work item is a block of tiles for a chunk of output channels. One chunk of input channels after
# the other, it transforms tiles and filters into its thread's workspace and adds the 36 products;
# then it transforms the sums to y. What several items share, and is not too large, is transformed
# once, before. Where tiles are few, as in one image, the transformed filters are kept for the next
# call, with a copy of w: comparing it takes a fifth of the time.
#
# Any value that is not finite, in d or in w or made by an overflow, makes every sum that it enters
# infinite or NaN. So a finite y is what the direct sum gives; otherwise `run` says False, and the
# caller takes the direct algorithm, which puts NaN and infinity exactly where they belong.

from libc.string cimport memcmp

cdef extern from *:
    """
    typedef vec vec36[36] __attribute__((aligned(VEC_BYTES)));
    typedef vec vec144[144] __attribute__((aligned(VEC_BYTES)));
    typedef vec vec16[16] __attribute__((aligned(VEC_BYTES)));
    #define ROOT_2 ((real) 1.41421356237309504880)
    #define ROOT_HALF ((real) 0.70710678118654752440)
    #define THIRD ((real) (1 / 3.0))
    #define SIXTH ((real) (1 / 6.0))
    #define HALF ((real) 0.5)
    #define TWO ((real) 2)
    #define FIVE_HALVES ((real) 2.5)
    #define prefetch(p) __builtin_prefetch(p)
    """
    ctypedef vec vec36[36]
    ctypedef vec vec16[16]
    ctypedef vec vec144[144]
    void prefetch(const void* p) noexcept nogil
    const real ROOT_2, ROOT_HALF, THIRD, SIXTH, HALF, TWO, FIVE_HALVES


cdef enum:
    TILE = 4                     # outputs, h and w, of a tile
    PATCH = 6                    # inputs, h and w, of a tile
    POINTS = 36
    C_CHUNK = 64                 # channels; twice that in blocks of half the size. Larger ones
    K_CHUNK = 128                # repeat fewer transforms; here what one product of 36 moves
    BLOCK_TILES = 48             # (70 KB) stays in L2, and all 36 (2.5 MB) in L3
    FEW_ITEMS = 8
    SHARED_BYTES = 8_388_608     # reading larger filters costs more than transforming them anew
    STAGED_BYTES = 4_194_304     # so do tiles
    KEPT_TILES = 128             # fewer make the transform of the filters a tenth of the work or more
    AHEAD = 4                    # input channels between reading a filter and fetching its line
    Y_OUTPUTS = 48               # of y or dx; fewer do not repay the transform of the filters
    DW_OUTPUTS = 128             # of dw: pixels of dy


# One-dimensional transforms of lines of vectors, `from_step` and `to_step` numbers apart. A sum of
# two products has an exact one: whichever is fused, v3 and v4 round alike.

cdef inline inlined input_line(
    const real* d, Py_ssize_t from_step, real* to, Py_ssize_t to_step,
) noexcept nogil:
    """B^T d: 6 inputs to 6 points."""
    cdef vec d0 = (<const vec*> d)[0]
    cdef vec d1 = (<const vec*> (d + from_step))[0]
    cdef vec d2 = (<const vec*> (d + 2 * from_step))[0]
    cdef vec d3 = (<const vec*> (d + 3 * from_step))[0]
    cdef vec d4 = (<const vec*> (d + 4 * from_step))[0]
    cdef vec d5 = (<const vec*> (d + 5 * from_step))[0]
    cdef vec even = d4 - HALF * d2
    cdef vec odd = d3 - HALF * d1
    (<vec*> to)[0] = (d0 + d4) - FIVE_HALVES * d2
    (<vec*> (to + to_step))[0] = even + ROOT_2 * odd
    (<vec*> (to + 2 * to_step))[0] = even - ROOT_2 * odd
    even = d4 - TWO * d2
    odd = d3 - TWO * d1
    (<vec*> (to + 3 * to_step))[0] = even + ROOT_HALF * odd
    (<vec*> (to + 4 * to_step))[0] = even - ROOT_HALF * odd
    (<vec*> (to + 5 * to_step))[0] = (d1 + d5) - FIVE_HALVES * d3


cdef inline inlined filter_line(
    const real* g, Py_ssize_t from_step, real* to, Py_ssize_t to_step,
) noexcept nogil:
    """G g: 3 taps to 6 points."""
    cdef vec g0 = (<const vec*> g)[0]
    cdef vec g1 = (<const vec*> (g + from_step))[0]
    cdef vec g2 = (<const vec*> (g + 2 * from_step))[0]
    cdef vec even = g0 + TWO * g2
    (<vec*> to)[0] = g0
    (<vec*> (to + to_step))[0] = SIXTH * (even + ROOT_2 * g1)
    (<vec*> (to + 2 * to_step))[0] = SIXTH * (even - ROOT_2 * g1)
    even = g0 + HALF * g2
    (<vec*> (to + 3 * to_step))[0] = -TWO * THIRD * (even + ROOT_HALF * g1)
    (<vec*> (to + 4 * to_step))[0] = -TWO * THIRD * (even - ROOT_HALF * g1)
    (<vec*> (to + 5 * to_step))[0] = g2


cdef inline inlined output_line(
    const real* m, Py_ssize_t from_step, real* to, Py_ssize_t to_step,
) noexcept nogil:
    """A^T m: 6 points to 4 outputs."""
    cdef vec m0 = (<const vec*> m)[0]
    cdef vec m1 = (<const vec*> (m + from_step))[0]
    cdef vec m2 = (<const vec*> (m + 2 * from_step))[0]
    cdef vec m3 = (<const vec*> (m + 3 * from_step))[0]
    cdef vec m4 = (<const vec*> (m + 4 * from_step))[0]
    cdef vec m5 = (<const vec*> (m + 5 * from_step))[0]
    cdef vec even1 = m1 + m2, odd1 = m1 - m2
    cdef vec even2 = m3 + m4, odd2 = m3 - m4
    (<vec*> to)[0] = m0 + (even1 + even2)
    (<vec*> (to + to_step))[0] = ROOT_2 * (odd1 + HALF * odd2)
    (<vec*> (to + 2 * to_step))[0] = TWO * even1 + HALF * even2
    (<vec*> (to + 3 * to_step))[0] = (m5 + TWO * ROOT_2 * odd1) + (HALF * ROOT_HALF) * odd2


# Two-dimensional transforms of one tile, a vector of channels at a time: `step` between points.

cdef void input_tile(
    const real* x, Py_ssize_t line, Py_ssize_t pixel, Py_ssize_t channels,
    real* to, Py_ssize_t step,
) noexcept nogil:
    """to = B^T d B of the 6x6 pixels at x."""
    cdef vec36 t
    cdef real* s = <real*> t
    cdef Py_ssize_t i, j, c = 0
    while c < channels:
        for i in range(PATCH):  # what the next tile adds
            for j in range(TILE):
                prefetch(x + c + i * line + (PATCH + j) * pixel)
        for i in range(PATCH):
            input_line(x + c + i * pixel, line, s + i * VL, PATCH * VL)
        for i in range(PATCH):
            input_line(s + i * PATCH * VL, VL, to + c + i * PATCH * step, step)
        c += VL


cdef void input_tile_at(
    const real* x, Py_ssize_t H, Py_ssize_t W, Py_ssize_t C, Py_ssize_t channels,
    Py_ssize_t row, Py_ssize_t column, real* patch, real* to, Py_ssize_t pixel, Py_ssize_t step,
) noexcept nogil:
    """`input_tile` at a pixel; a padded copy of it if it passes an edge or ends within a vector."""
    if (row >= 0 and row + PATCH <= H and column >= 0 and column + PATCH <= W
            and channels % VL == 0):
        input_tile(x + (row * W + column) * C, W * C, C, channels, to, step)
    else:
        pad_rows(x, H, W, C, patch, PATCH, pixel, row, column, PATCH, channels)
        input_tile(patch, PATCH * pixel, pixel, channels, to, step)


cdef void filter_tile_in(const real* w, Py_ssize_t tap, Py_ssize_t ahead, real* to,
                         Py_ssize_t step) noexcept nogil:
    """to = G w G^T of the 3x3 taps, `tap` apart, of a vector of output channels.

    `ahead` is where a later call will read: lines come slowly from memory, 9 places at once.
    """
    cdef vec36 t
    cdef real* s = <real*> t
    cdef Py_ssize_t i
    if ahead:
        for i in range(9):
            prefetch(w + i * tap + ahead)
    for i in range(3):
        filter_line(w + i * tap, 3 * tap, s + i * VL, 3 * VL)
    for i in range(PATCH):
        filter_line(s + i * 3 * VL, VL, to + i * PATCH * step, step)


cdef inline inlined output_tile(
    const Py_ssize_t rows, const Py_ssize_t columns, const real* m, Py_ssize_t step,
    const real* b, bint relu, real* y, Py_ssize_t line, Py_ssize_t pixel, const Py_ssize_t lanes,
    vec* check,
) noexcept nogil:
    """y = A^T m A + b of rows x columns outputs; check becomes NaN where one is not finite."""
    cdef vec36 t
    cdef vec[4] r
    cdef vec a
    cdef real* s = <real*> t
    cdef Py_ssize_t i, j
    for j in range(PATCH):
        output_line(m + j * step, PATCH * step, s + j * VL, PATCH * VL)
    for i in range(rows):
        output_line(s + i * PATCH * VL, VL, <real*> r, VL)
        check[0] = check[0] + 0 * ((r[0] + r[1]) + (r[2] + r[3]))
        for j in range(columns):
            a = r[j] + (<const vec*> b)[0]
            if relu:
                a = vec_relu(a)
            if lanes == VL:
                (<vec*> (y + i * line + j * pixel))[0] = a
            else:
                memcpy(y + i * line + j * pixel, &a, lanes * sizeof(real))


cdef Py_ssize_t whole_chunk(Py_ssize_t total, Py_ssize_t most, Py_ssize_t unit) noexcept nogil:
    """The first of as few even chunks of `total` as it takes, in whole units."""
    return (even_part(total, most) + unit - 1) // unit * unit


cdef bint winograd_pays(source, target, Py_ssize_t least) except -1:
    """Whether to take Winograd, by shape alone: float32, `least` outputs, and at least 16 channels.

    The products must outweigh the transforms: of the filters where outputs are few, of the tiles
    where channels are few. A third of the tiles' outputs must lie inside the image.
    """
    cdef Py_ssize_t N = target[0], H = target[1], W = target[2]
    cdef Py_ssize_t tiles = (H + TILE - 1) // TILE * ((W + TILE - 1) // TILE)
    return (sizeof(real) == 4 and min(source[3], target[3]) >= 16 and N * H * W >= least
            and 3 * H * W >= TILE * TILE * tiles)


cdef class Winograd:
    """y, or dx, of a convolution with 3x3 filters, stride 1 and one group.

    Parameters
    ----------
    source, target : tuple
        (N, H, W, C) read and written.
    before : tuple
        Zeros (h, w) above and to the left of the source.
    flipped : bool
        False: y = x * w. True: dx = dy * w with the taps turned round and the channels exchanged.
    """
    cdef Py_ssize_t N, H, W, C, TH, TW, K, top, left
    cdef Py_ssize_t across, tiles_image, tiles, most    # tiles in a row, an image, all; of an item
    cdef Py_ssize_t block, c_chunk, k_chunk, c_chunks, k_chunks, items
    cdef Py_ssize_t u_step, v_step, m_step, area        # between points; a thread's workspace
    cdef Py_ssize_t v_size                              # of all tiles
    cdef readonly Py_ssize_t work
    cdef bint flipped, shared, staged                   # filters, tiles transformed before
    cdef bint kept                                      # filters stay transformed until w changes
    cdef bint known                                     # there are such filters
    cdef bint spoiled                                   # some output is not finite
    cdef Workspace filters, last_w, inputs, scratch, bias

    def __cinit__(self, source, target, before, bint flipped):
        self.N, self.H, self.W, self.C = source
        self.TH, self.TW, self.K = target[1:]
        self.top, self.left = before
        self.flipped = flipped
        self.filters, self.last_w, self.inputs = Workspace(), Workspace(), Workspace()
        self.scratch, self.bias = Workspace(), Workspace()
        self.known = False
        self.cut()

    cdef cut(self):
        """Choose chunks and work items: by shape alone."""
        cdef bint small = POINTS * self.C * self.K * <Py_ssize_t> sizeof(real) <= SHARED_BYTES
        cdef Py_ssize_t blocks, most = K_CHUNK
        self.across = (self.TW + TILE - 1) // TILE
        self.tiles_image = (self.TH + TILE - 1) // TILE * self.across
        self.tiles = self.N * self.tiles_image
        self.block = 2 * VL if self.K > VL else VL
        self.most = even_part(self.tiles, BLOCK_TILES if small else 2 * BLOCK_TILES)
        while small and self.most > 12 and self.tiles * self.K < ITEMS * self.most * most:
            self.most = max(12, self.most - 12)
        self.most = even_part(self.tiles, self.most)
        blocks = (self.tiles + self.most - 1) // self.most
        while most > 32 and blocks * ((self.K + most - 1) // most) < FEW_ITEMS:
            most //= 2
        self.kept = small and not self.flipped and self.tiles < KEPT_TILES
        self.shared = small and blocks > 1 or self.kept
        self.c_chunk = whole_chunk(
            self.C, 2 * C_CHUNK if self.shared and 2 * self.most <= BLOCK_TILES else C_CHUNK, 16)
        self.k_chunk = whole_chunk(self.K, most, 32)
        self.c_chunks = (self.C + self.c_chunk - 1) // self.c_chunk
        self.k_chunks = (self.K + self.k_chunk - 1) // self.k_chunk
        self.items = blocks * self.k_chunks
        self.staged = (self.k_chunks > 1 and POINTS * self.C * self.tiles * <Py_ssize_t> sizeof(real)
                       <= STAGED_BYTES)
        self.work = 9 * TILE * TILE * self.tiles * self.C * self.K  # of the direct sum
        # 16 numbers more: lines of the 36 points that are a multiple of 4096 bytes apart would
        # compete for the same few places of L1.
        self.u_step = self.c_chunk * self.k_chunk + 16
        self.v_step = self.most * self.c_chunk + 16
        self.v_size = blocks * self.c_chunks * POINTS * self.v_step if self.staged else 0
        self.m_step = self.most * self.k_chunk + 16
        self.area = POINTS * (self.v_step + self.m_step + self.c_chunk)
        if not self.shared:
            self.area += POINTS * self.u_step

    cdef bint run(self, const real* x, const real* w, const real* b, bint relu, real* y,
                  int num_threads) except -1:
        """Compute y; False if some of it is not finite and all of it must be computed directly."""
        cdef Py_ssize_t item
        cdef Py_ssize_t filters = self.k_chunks * ((self.C + 15) // 16) if self.shared else 0
        cdef Py_ssize_t inputs = self.c_chunks * self.tiles // self.across if self.staged else 0
        cdef real* u = self.filters.take(
            self.c_chunks * self.k_chunks * POINTS * self.u_step if self.shared else 0)
        cdef real* last_w = self.last_w.take(9 * self.C * self.K if self.kept else 0)
        cdef real* v = self.inputs.take(self.v_size)
        cdef real* scratch = self.scratch.take(num_threads * self.area)
        cdef real* bias = self.bias.take(self.k_chunks * self.k_chunk + self.block)
        cdef int threads = team(self.work, num_threads)
        self.spoiled = False
        memset(bias, 0, (self.k_chunks * self.k_chunk + self.block) * sizeof(real))
        if b != NULL:
            memcpy(bias + self.block, b, self.K * sizeof(real))  # after zeros, where products start
        with nogil:
            region_starts(is_shared(self.work))
            for item in prange(filters + inputs, schedule="dynamic",
                               chunksize=handful(filters + inputs), num_threads=threads):
                self.prepare_item(x, w, u, last_w, v, scratch + threadid() * self.area, filters, item)
                item_ends()
            self.known = True
            region_starts(is_shared(self.work))
            for item in prange(self.items, schedule="dynamic", chunksize=handful(self.items),
                               num_threads=threads):
                self.run_item(x, w, u, v, bias, relu, y, scratch + threadid() * self.area, item)
                item_ends()
        return not self.spoiled

    cdef void prepare_item(self, const real* x, const real* w, real* u, real* last_w, real* v,
                           real* patch, Py_ssize_t filters, Py_ssize_t item) noexcept nogil:
        """Transform the filters of 16 by one chunk of channels, or a row of tiles of one chunk."""
        cdef Py_ssize_t k_index, c, lines
        if item >= filters:
            self.transform_row(x, v, patch, item - filters)
            return
        lines = (self.C + 15) // 16
        k_index, c = item // lines, item % lines * 16
        if not self.kept or self.renew(w, last_w, c, min(c + 16, self.C), k_index * self.k_chunk):
            u += (k_index * self.c_chunks + c // self.c_chunk) * POINTS * self.u_step
            self.transform_filters(w, u, k_index, c, min(c + 16, self.C))

    cdef bint renew(self, const real* w, real* last_w, Py_ssize_t c, Py_ssize_t c_end,
                    Py_ssize_t k) noexcept nogil:
        """Bring last_w up to w for a range by one chunk of channels; whether anything had changed."""
        cdef size_t size = (min(k + self.k_chunk, self.K) - k) * sizeof(real)
        cdef Py_ssize_t tap, i, at
        cdef bint changed = not self.known
        for tap in range(9):
            for i in range(c, c_end):
                at = (tap * self.C + i) * self.K + k
                if changed or memcmp(w + at, last_w + at, size) != 0:
                    memcpy(last_w + at, w + at, size)
                    changed = True
        return changed

    cdef void transform_filters(self, const real* w, real* u, Py_ssize_t k_index, Py_ssize_t c,
                                Py_ssize_t c_end) noexcept nogil:
        """Filters c to c_end of one chunk by one chunk of channels: [point, block, c, lanes]."""
        cdef Py_ssize_t c0 = c // self.c_chunk * self.c_chunk, k = k_index * self.k_chunk
        cdef Py_ssize_t channels = min(self.c_chunk, self.C - c0)
        cdef Py_ssize_t end = min(k + self.k_chunk, self.K), tap = self.C * self.K
        cdef Py_ssize_t groups = (c_end - c + VL - 1) // VL, vectors = (end - k + VL - 1) // VL
        cdef Py_ssize_t first, v, width, g, i
        cdef real* to
        cdef vec144 taps
        if not self.flipped and (end - k) % VL == 0:  # from w, as it lies
            for i in range(c, c_end):
                for g in range(vectors):
                    v = g * VL
                    to = u + v // self.block * self.block * channels + v % self.block
                    width = min(self.block, end - k - v // self.block * self.block)
                    filter_tile_in(w + i * self.K + k + v, tap, AHEAD * self.K if i + AHEAD < self.C
                                   else 0, to + (i - c0) * width, self.u_step)
            return
        for g in range(groups * vectors):  # along the rows of w
            first, v = (g % groups, g // groups) if self.flipped else (g // vectors, g % vectors)
            first, v = c + first * VL, v * VL
            self.load_taps(w, taps, first, min(VL, c_end - first), k + v, min(VL, end - k - v))
            to = u + v // self.block * self.block * channels + v % self.block
            width = (min(self.block, end - k - v // self.block * self.block) + VL - 1) // VL * VL
            for i in range(min(VL, c_end - first)):
                filter_tile_in(<real*> (taps + 9 * i), VL, 0, to + (first - c0 + i) * width,
                               self.u_step)

    cdef void load_taps(self, const real* w, vec* taps, Py_ssize_t c, Py_ssize_t channels,
                        Py_ssize_t k, Py_ssize_t lanes) noexcept nogil:
        """The 9 taps of `channels` x `lanes` filters: [c, tap, lanes]."""
        cdef vec16 a
        cdef Py_ssize_t t, i, row = k if self.flipped else c, column = c if self.flipped else k
        cdef Py_ssize_t rows = lanes if self.flipped else channels
        cdef Py_ssize_t columns = channels if self.flipped else lanes
        cdef Py_ssize_t length = self.C if self.flipped else self.K
        cdef const real* p
        for t in range(9):
            p = w + t * self.C * self.K + row * length + column
            for i in range(VL):
                prefetch(p + i * length + VL)
            for i in range(VL):
                if columns == VL and i < rows:
                    a[i] = (<const vec*> (p + i * length))[0]
                else:
                    a[i] = vec_set(0)
                    if i < rows:
                        memcpy(&a[i], p + i * length, columns * sizeof(real))
            if self.flipped:
                transpose(a)
            for i in range(VL):
                taps[9 * i + (8 - t if self.flipped else t)] = a[i]

    cdef void transform_row(self, const real* x, real* v, real* patch, Py_ssize_t item) noexcept nogil:
        """A row of tiles of one image, for one chunk of channels."""
        cdef Py_ssize_t c_index = item % self.c_chunks, first = item // self.c_chunks * self.across
        cdef Py_ssize_t tile, chunk
        for tile in range(first, first + self.across):
            chunk = (tile // self.most * self.c_chunks + c_index) * POINTS * self.v_step
            self.transform_input(x, tile, c_index, patch, v + chunk + tile % self.most * self.c_chunk)

    cdef void transform_input(self, const real* x, Py_ssize_t tile, Py_ssize_t c_index, real* patch,
                              real* v) noexcept nogil:
        """One tile of one chunk of input channels."""
        cdef Py_ssize_t c0 = c_index * self.c_chunk
        input_tile_at(
            x + tile // self.tiles_image * self.H * self.W * self.C + c0,
            self.H, self.W, self.C, min(self.c_chunk, self.C - c0),
            tile % self.tiles_image // self.across * TILE - self.top,
            tile % self.across * TILE - self.left, patch, v, self.c_chunk, self.v_step)

    cdef void run_item(self, const real* x, const real* w, const real* u, const real* v,
                       const real* b, bint relu, real* y, real* scratch,
                       Py_ssize_t item) noexcept nogil:
        """One block of tiles for one chunk of channels."""
        cdef Py_ssize_t first = item // self.k_chunks * self.most
        cdef Py_ssize_t count = min(self.most, self.tiles - first)
        cdef Py_ssize_t k_index = item % self.k_chunks
        cdef Py_ssize_t k0 = k_index * self.k_chunk
        cdef Py_ssize_t c_index, channels, i
        cdef real* m = scratch + POINTS * self.v_step
        cdef real* patch = m + POINTS * self.m_step
        cdef real* own_u = patch + POINTS * self.c_chunk
        cdef const real* from_u = own_u
        cdef const real* from_v = scratch
        cdef vec check = vec_set(0)
        for c_index in range(self.c_chunks):
            channels = min(self.c_chunk, self.C - c_index * self.c_chunk)
            if self.shared:
                from_u = u + (k_index * self.c_chunks + c_index) * POINTS * self.u_step
            else:
                self.transform_filters(w, own_u, k_index, c_index * self.c_chunk,
                                       c_index * self.c_chunk + channels)
            if self.staged:
                from_v = v + (first // self.most * self.c_chunks + c_index) * POINTS * self.v_step
            else:
                for i in range(count):
                    self.transform_input(x, first + i, c_index, patch, scratch + i * self.c_chunk)
            self.multiply(from_v, from_u, b if c_index == 0 else NULL, m, count, channels, k0)
        for i in range(count):
            self.transform_output(m + i * self.k_chunk, b + self.block, relu, y, first + i, k0,
                                  &check)
        if any_nan(check):
            self.spoiled = True

    cdef void multiply(self, const real* v, const real* u, const real* zeros, real* m,
                       Py_ssize_t count, Py_ssize_t channels, Py_ssize_t k0) noexcept nogil:
        """m = or += the 36 products of a block of tiles and a chunk of filters, over `channels`."""
        cdef Py_ssize_t width = min(self.k_chunk, self.K - k0)
        cdef Py_ssize_t e, k, nv, no_offset = 0
        cdef Block tiles = Block(1, 0, 0, self.c_chunk, 0, self.k_chunk, &no_offset, 1, channels, 1, 0,
                                 zeros, False)
        cdef const real* from_u
        for e in range(POINTS):
            from_u = u + e * self.u_step
            k = 0
            while k < width:
                nv = (min(self.block, width - k) + VL - 1) // VL
                tiles.w_step = nv * VL
                pixel_lines(count, nv, nv * VL, &tiles, v + e * self.v_step, from_u,
                            m + e * self.m_step + k)
                from_u += channels * nv * VL
                k += self.block

    cdef void transform_output(self, const real* m, const real* b, bint relu, real* y,
                               Py_ssize_t tile, Py_ssize_t k0, vec* check) noexcept nogil:
        """One tile of y for a chunk of channels."""
        cdef Py_ssize_t row = tile % self.tiles_image // self.across * TILE
        cdef Py_ssize_t column = tile % self.across * TILE
        cdef Py_ssize_t rows = min(TILE, self.TH - row), columns = min(TILE, self.TW - column)
        cdef Py_ssize_t k = k0, end = min(k0 + self.k_chunk, self.K), line = self.TW * self.K
        y += tile // self.tiles_image * self.TH * line + row * line + column * self.K
        while k < end:
            if rows == TILE and columns == TILE and k + VL <= end:
                output_tile(TILE, TILE, m, self.m_step, b + k, relu, y + k, line, self.K, VL, check)
            else:
                output_tile(rows, columns, m, self.m_step, b + k, relu, y + k, line, self.K,
                            min(VL, end - k), check)
            m += VL
            k += VL
