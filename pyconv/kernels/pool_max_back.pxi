# Going back through max pooling: each gradient goes to the place that won.
#
# Where windows are small and vectors fit along C, each pixel of dx is written once, from those outputs
# near it that it won (`gather_back`). Nobody says what the windows were: that is guessed, and the
# winners found are counted. Where that costs more than to visit the winners alone, or where some winner
# lay elsewhere, zeros and sums (`scatter`). Both add in the order of the outputs.

from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef extern from *:
    """
    #define REAL_IS_float 1
    #define REAL_IS_double 0
    #define REAL_IS_(type) REAL_IS_##type
    #define REAL_IS(type) REAL_IS_(type)
    /* Where `place` is `here`: sum += dy, and `seen` counts down. */
    static inline __attribute__((always_inline)) void add_won(
            vec dy, ivec place, ivec here, vec* sum, ivec* seen) {
    #if defined(__AVX512F__) && REAL_IS(PYCONV_REAL)
        __mmask16 won = _mm512_cmpeq_epi32_mask((__m512i) place, (__m512i) here);
        *sum = (vec) _mm512_mask_add_ps((__m512) *sum, won, (__m512) *sum, (__m512) dy);
        *seen = (ivec) _mm512_mask_sub_epi32((__m512i) *seen, won, (__m512i) *seen,
                                             _mm512_set1_epi32(1));
    #else
        ivec won = (ivec) (place == here);
        *sum += (vec) ((ivec) dy & won);
        *seen += won;
    #endif
    }
    """
    void add_won(vec dy, ivec place, ivec here, vec* sum, ivec* seen) noexcept nogil


cdef struct Back:  # one problem of going back
    Py_ssize_t N, H, W, C, OH, OW
    Py_ssize_t tile_h, tile_w   # the pixels of each output, if windows tile the image
    Py_ssize_t above, below, left, right  # how far a winner may lie outside its tile
    int tile                    # which `usual_tile` this is
    bint streams, direct        # as in `Window`
    Py_ssize_t band, bands      # rows of dx that are scattered together
    int32_t lowest              # that an index may be: -1 if ReLU cut winners off, else 0
    int32_t* reach              # the least and the greatest place of each row of outputs
    const real* dy
    const int32_t* indices
    real* dx


cdef void find_halo(Back* b) noexcept nogil:
    """How far the winners of some channels of one row of outputs lie outside their tiles."""
    cdef Py_ssize_t oh = b.OH // 2, ow, c, h, w
    cdef int32_t place, W = <int32_t> b.W
    b.above = b.below = b.left = b.right = 0
    for ow in range(b.OW):
        for c in range(min(b.C, 8)):
            place = b.indices[(oh * b.OW + ow) * b.C + c]
            if place >= 0:
                h, w = place // W - oh * b.tile_h, place % W - ow * b.tile_w
                b.above, b.left = max(b.above, -h), max(b.left, -w)
                if oh < b.OH - 1:
                    b.below = max(b.below, h - b.tile_h + 1)
                if ow < b.OW - 1:
                    b.right = max(b.right, w - b.tile_w + 1)


cdef inline inlined gather_tile(
    const Py_ssize_t tile_h, const Py_ssize_t tile_w, const Py_ssize_t above,
    const Py_ssize_t below, const Py_ssize_t left, const Py_ssize_t right, const real* dy,
    const int32_t* indices, Py_ssize_t dy_line, Py_ssize_t C, Py_ssize_t W, Py_ssize_t place,
    ivec fresh, bint past, real* dx, Py_ssize_t dx_line, ivec* won,
) noexcept nogil:
    """A tile of dx, its first pixel at `place`: each the sum of those outputs near it that it won.

    dy and indices are the tile's own output's. The last vector ends with C, over lanes that are there
    already; `fresh` are the others.
    """
    cdef Py_ssize_t c = 0, h, w, i, j, at
    cdef vec[4] v
    cdef vec d
    cdef ivec p, seen = ivec_set(0)
    while c < C:
        if c + VL > C:
            c = C - VL
            won[0], seen = won[0] + seen, ivec_set(0)
        for h in range(tile_h * tile_w):
            v[h] = vec_set(0)
        for i in range(-1 if below else 0, 2 if above else 1):
            for j in range(-1 if right else 0, 2 if left else 1):
                at = i * dy_line + j * C + c
                d, p = (<const vec*> (dy + at))[0], load_int32(indices + at)
                for h in range(tile_h - above if i > 0 else 0, below if i < 0 else tile_h):
                    for w in range(tile_w - left if j > 0 else 0, right if j < 0 else tile_w):
                        add_won(d, p, ivec_set(place + h * W + w), &v[h * tile_w + w], &seen)
        for h in range(tile_h):
            for w in range(tile_w):
                store_line(dx + h * dx_line + w * C + c, v[h * tile_w + w], past)
        c += VL
    won[0] = won[0] + (seen & fresh)


cdef inline inlined gather_pixel(
    const real* dy, const int32_t* indices, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0,
    Py_ssize_t j1, Py_ssize_t dy_line, Py_ssize_t C, Py_ssize_t place, ivec fresh, real* dx,
    ivec* won,
) noexcept nogil:
    """One pixel of dx, from the outputs [i0, i1) x [j0, j1) around its tile's; as `gather_tile`."""
    cdef Py_ssize_t c = 0, i, j, at
    cdef vec v
    cdef ivec here = ivec_set(place), seen = ivec_set(0)
    while c < C:
        if c + VL > C:
            c = C - VL
            won[0], seen = won[0] + seen, ivec_set(0)
        v = vec_set(0)
        for i in range(i0, i1):
            for j in range(j0, j1):
                at = i * dy_line + j * C + c
                add_won((<const vec*> (dy + at))[0], load_int32(indices + at), here, &v, &seen)
        (<vec*> (dx + c))[0] = v
        c += VL
    won[0] = won[0] + (seen & fresh)


cdef int usual_tile(const Back* b) noexcept nogil:
    """Windows of 2x2 side by side (1), of 3x3 at stride 2 (2, 3) and 1 (4), or others (0)."""
    if b.tile_h != b.tile_w or b.above != b.left or b.below != b.right:
        return 0
    if b.tile_h == 2:
        return 0 if b.above and b.below else 3 if b.above else 2 if b.below else 1
    return 4 if b.tile_h == b.above == b.below == 1 else 0


cdef Py_ssize_t gather_back(const Back* g, Py_ssize_t item, real* scratch) noexcept nogil:
    """The rows of dx in a row of tiles: each pixel looks which outputs near it were won there.

    Returns how many winners the row of outputs has, less how many were found in its rows of dx: in
    all 0, unless a winner lies where nobody looked.
    """
    cdef Back b = g[0]
    cdef Py_ssize_t oh = item % b.OH, C = b.C, line = b.OW * C, dx_line = b.W * C, missing = 0
    cdef Py_ssize_t h0 = oh * b.tile_h
    cdef Py_ssize_t h1 = b.H if oh == b.OH - 1 else min(h0 + b.tile_h, b.H)
    cdef Py_ssize_t ow, w0, w1, h, w, i
    cdef const real* dy = b.dy + item * line
    cdef const int32_t* indices = b.indices + item * line
    cdef real* dx = b.dx + (item // b.OH * b.H + h0) * dx_line
    cdef bint copies = b.streams and not b.direct
    cdef real* rows = scratch if copies else dx
    cdef real* to
    cdef ivec won = ivec_set(0), fresh = ~lanes_before((VL - C % VL) % VL)
    if b.lowest == 0:
        missing = line
    else:
        for i in range(line):
            missing += indices[i] >= 0
    for ow in range(b.OW):
        w0 = ow * b.tile_w
        w1 = b.W if ow == b.OW - 1 else min(w0 + b.tile_w, b.W)
        to, w = rows + w0 * C, h0 * b.W + w0
        if b.tile == 0 or h1 - h0 != b.tile_h or w1 - w0 != b.tile_w or b.tile > 1 and (
                oh == 0 or oh == b.OH - 1 or ow == 0 or ow == b.OW - 1):
            for h in range(h0, h1):
                for w in range(w0, w1):
                    gather_pixel(
                        dy, indices, -1 if oh > 0 and h - h0 < b.below else 0,
                        2 if oh < b.OH - 1 and h - h0 >= b.tile_h - b.above else 1,
                        -1 if ow > 0 and w - w0 < b.right else 0,
                        2 if ow < b.OW - 1 and w - w0 >= b.tile_w - b.left else 1,
                        line, C, h * b.W + w, fresh, rows + (h - h0) * dx_line + w * C, &won)
        elif b.tile == 1:  # constants: no loops
            gather_tile(2, 2, 0, 0, 0, 0, dy, indices, line, C, b.W, w, fresh, b.direct, to,
                        dx_line, &won)
        elif b.tile == 2:
            gather_tile(2, 2, 0, 1, 0, 1, dy, indices, line, C, b.W, w, fresh, b.direct, to,
                        dx_line, &won)
        elif b.tile == 3:
            gather_tile(2, 2, 1, 0, 1, 0, dy, indices, line, C, b.W, w, fresh, b.direct, to,
                        dx_line, &won)
        else:
            gather_tile(1, 1, 1, 1, 1, 1, dy, indices, line, C, b.W, w, fresh, b.direct, to,
                        dx_line, &won)
        dy, indices = dy + C, indices + C
    if copies:
        stream(dx, rows, (h1 - h0) * dx_line * sizeof(real))
    for i in range(VL):
        missing += (<whole*> &won)[i]
    return missing


cdef Py_ssize_t gather_rows(const Back* b, Py_ssize_t row, Py_ssize_t end,
                            real* scratch) noexcept nogil:
    cdef Py_ssize_t missing = 0
    while row < end:
        missing += gather_back(b, row, scratch)
        row += 1
    return missing


cdef bint find_reach(const Back* b, Py_ssize_t item) noexcept nogil:
    """Note the least and the greatest place in a row of outputs; returns whether one is outside."""
    cdef Py_ssize_t i, line = b.OW * b.C
    cdef const int32_t* indices = b.indices + item * line
    cdef int32_t low = indices[0], high = indices[0]
    for i in range(1, line):
        low = min(low, indices[i])
        high = max(high, indices[i])
    b.reach[2 * item], b.reach[2 * item + 1] = low, high
    return low < b.lowest or high >= b.H * b.W


cdef void scatter(const Back* b, Py_ssize_t item) noexcept nogil:
    """Some rows of an image. Zeros go just ahead of the sums, which then hit the cache."""
    cdef Py_ssize_t n = item // b.bands, first = item % b.bands * b.band, C = b.C
    cdef Py_ssize_t end = min(first + b.band, b.H) * b.W, cleared, oh, ow, c, to
    cdef const real* dy = b.dy + n * b.OH * b.OW * C
    cdef const int32_t* indices = b.indices + n * b.OH * b.OW * C
    cdef const int32_t* reach = b.reach + 2 * n * b.OH
    cdef real* dx = b.dx + n * b.H * b.W * C
    first *= b.W
    cleared = first
    for oh in range(b.OH):
        if reach[0] < end and reach[1] >= first:
            to = min(end, <Py_ssize_t> reach[1] + 1)
            if to > cleared:
                memset(dx + cleared * C, 0, (to - cleared) * C * sizeof(real))
                cleared = to
            if reach[0] >= first and reach[1] < end:
                for ow in range(b.OW):
                    for c in range(C):
                        dx[indices[c] * C + c] += dy[c]
                    dy, indices = dy + C, indices + C
            else:
                for ow in range(b.OW):
                    for c in range(C):
                        if first <= indices[c] < end:
                            dx[indices[c] * C + c] += dy[c]
                    dy, indices = dy + C, indices + C
        else:
            dy, indices = dy + b.OW * C, indices + b.OW * C
        reach += 2
    memset(dx + cleared * C, 0, (end - cleared) * C * sizeof(real))


cdef bint max_pool_back(const real* dy, const int32_t* indices, real* dx, Py_ssize_t N, Py_ssize_t H,
                        Py_ssize_t W, Py_ssize_t OH, Py_ssize_t OW, Py_ssize_t C, int lowest,
                        int num_threads) except -1:
    """Fill dx; False if an index is outside lowest .. H * W - 1. -1: ReLU cut the winner off."""
    cdef Back b
    cdef Py_ssize_t item, missing = 1, looks
    cdef int threads = num_threads if N * H * W * C > ITEM_WORK // 8 else 1
    b.N, b.H, b.W, b.C, b.OH, b.OW = N, H, W, C, OH, OW
    b.tile_h, b.tile_w = (2 * H + OH - 1) // (2 * OH), (2 * W + OW - 1) // (2 * OW)
    b.dy, b.indices, b.dx, b.lowest = dy, indices, dx, lowest
    if C >= VL and b.tile_h > 0 and b.tile_w > 0:
        find_halo(&b)
        # For each output, tile_h * tile_w vectors of dx, and so many looks at its winners. Scattering
        # does VL lanes one by one.
        looks = (b.tile_h + b.above + b.below) * (b.tile_w + b.left + b.right)
        if (max(max(b.above, b.below), max(b.left, b.right)) <= 1
                and looks + b.tile_h * b.tile_w < 2 * VL):
            missing = gather_all(&b, threads)
    return missing == 0 or scatter_all(&b, threads)


cdef Py_ssize_t gather_all(Back* b, int threads) except? -1:
    cdef Shares shares
    cdef Py_ssize_t rows = b.N * b.OH, group = handful(rows), items = (rows + group - 1) // group
    cdef Py_ssize_t thread, item, missing = 0, slot = 0
    cdef real* scratch = NULL
    cdef Py_ssize_t bytes = (b.H * b.W + 2 * b.OH * b.OW) * b.N * b.C * <Py_ssize_t> sizeof(real)
    b.tile, b.streams = usual_tile(b), bytes > STREAM_BYTES
    b.direct = b.streams and streams_lines(b.dx, b.C)
    if b.streams and not b.direct:
        slot = apart(max(b.tile_h, b.H - (b.OH - 1) * b.tile_h) * b.W * b.C)
        scratch = <real*> malloc(threads * slot * sizeof(real))
        if scratch == NULL:
            raise MemoryError()
    share_out(&shares, items, threads)
    for thread in prange(threads, num_threads=threads, nogil=True):  # not `parallel`: it adds up
        item = next_item(&shares, thread)
        while item >= 0:
            missing += gather_rows(b, item * group, min(rows, (item + 1) * group),
                                   scratch + thread * slot)
            item = next_item(&shares, thread)
    free(scratch)
    return missing


cdef bint scatter_all(Back* b, int threads) except -1:
    cdef Shares shares
    cdef Py_ssize_t thread, item, outside = 0, parts = (ITEMS // 2 + b.N - 1) // b.N
    b.band = (b.H + parts - 1) // parts
    b.bands = (b.H + b.band - 1) // b.band
    b.reach = <int32_t*> malloc(2 * b.N * b.OH * sizeof(int32_t))
    if b.reach == NULL:
        raise MemoryError()
    for item in prange(b.N * b.OH, schedule="static", num_threads=threads, nogil=True):
        outside += find_reach(b, item)
    if outside == 0:
        share_out(&shares, b.N * b.bands, threads)
        with nogil, parallel(num_threads=threads):
            thread = threadid()
            item = next_item(&shares, thread)
            while item >= 0:
                scatter(b, item)
                item = next_item(&shares, thread)
    free(b.reach)
    return outside == 0


def max_pool_backward(const real[:, :, :, ::1] dy, const int32_t[:, :, :, ::1] indices,
                      real[:, :, :, ::1] dx, int num_threads):
    """Fill dx; False if an index is outside the image."""
    return not (dx.size and dy.size) or max_pool_back(
        &dy[0, 0, 0, 0], &indices[0, 0, 0, 0], &dx[0, 0, 0, 0], dx.shape[0], dx.shape[1],
        dx.shape[2], dy.shape[1], dy.shape[2], dx.shape[3], 0, num_threads)


def indices_fit(const int32_t[:, :, :, ::1] indices, Py_ssize_t least, Py_ssize_t size):
    """Whether every index lies in least .. size - 1."""
    cdef Py_ssize_t i, count = indices.size
    cdef int32_t low = 0, high = 0
    cdef const int32_t* p
    if count:
        p = &indices[0, 0, 0, 0]
        low = high = p[0]
        for i in range(count):
            low = min(low, p[i])
            high = max(high, p[i])
    return count == 0 or (low >= least and high < size)
