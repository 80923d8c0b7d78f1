# Max pooling, a row of outputs at a time: each window in one pass where vectors fit along C and
# windows overlap little; else down the window's rows (over whole image rows, vectors along W and C
# together), then along its columns, which costs KH + KW operations an element, not KH * KW. Both
# take the first maximum in row-major order, so that they agree in every bit.
#
# Going back, each gradient goes to the place that won. See `max_pool_back`.

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

# ------------------------------------------------------------------------------------------ forward

cdef inline inlined max_tile(
    const Py_ssize_t nv, const bint places, const real* x, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t down, Py_ssize_t right, Py_ssize_t place, Py_ssize_t place_down,
    Py_ssize_t place_right, real* y, int32_t* indices,
) noexcept nogil:
    """`nv` vectors of one window's maximum; x is its first pixel inside the image, at `place`."""
    cdef vec[4] best
    cdef ivec[4] where
    cdef vec v
    cdef ivec take, here
    cdef Py_ssize_t i, h, w
    for i in range(nv):
        best[i] = (<const vec*> (x + i * VL))[0]
        where[i] = ivec_set(place)
    for h in range(rows):
        for w in range(1 if h == 0 else 0, columns):
            here = ivec_set(place + h * place_down + w * place_right)
            for i in range(nv):
                v = (<const vec*> (x + h * down + w * right + i * VL))[0]
                take = beats(v, best[i])
                best[i] = vec_where(take, v, best[i])
                if places:
                    where[i] = ivec_where(take, here, where[i])
    for i in range(nv):
        (<vec*> (y + i * VL))[0] = best[i]
        if places:
            store_int32(indices + i * VL, where[i])


cdef inline inlined max_tiles(
    const bint places, const real* x, Py_ssize_t C, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t down, Py_ssize_t right, Py_ssize_t place, Py_ssize_t place_down,
    Py_ssize_t place_right, real* y, int32_t* indices,
) noexcept nogil:
    """One window, all channels; the last vector ends with C, over lanes that are there already."""
    cdef Py_ssize_t c = 0
    while c + 2 * VL <= C:
        max_tile(2, places, x + c, rows, columns, down, right, place, place_down, place_right,
                 y + c, indices + c)
        c += 2 * VL
    while c < C:
        c = min(c, C - VL)
        max_tile(1, places, x + c, rows, columns, down, right, place, place_down, place_right,
                 y + c, indices + c)
        c += VL


cdef inline inlined max_windows(const bint places, const Window* g, const real* x, real* y,
                                int32_t* indices, Py_ssize_t oh) noexcept nogil:
    """One row of outputs in one pass."""
    cdef Span rows = rows_of(g, oh), columns
    cdef Py_ssize_t ow, place, down = g.dilation_h * g.W, right = g.dilation_w
    for ow in range(g.OW):
        columns = columns_of(g, ow)
        place = rows.start * g.W + columns.start
        if rows.count == 2 and columns.count == 2:  # constants: no loops
            max_tiles(places, x + place * g.C, g.C, 2, 2, down * g.C, right * g.C, place, down,
                      right, y, indices)
        elif rows.count == 3 and columns.count == 3:
            max_tiles(places, x + place * g.C, g.C, 3, 3, down * g.C, right * g.C, place, down,
                      right, y, indices)
        else:
            max_tiles(places, x + place * g.C, g.C, rows.count, columns.count, down * g.C,
                      right * g.C, place, down, right, y, indices)
        y += g.C
        if places:
            indices += g.C


cdef void max_down(const real* x, Py_ssize_t line, Py_ssize_t W, Py_ssize_t row, Py_ssize_t rows,
                   Py_ssize_t dilation, vec* best, ivec* where) noexcept nogil:
    """best[i] = the maximum of x[h, i] over `rows` rows h from `row` on; where[i] = its h * W."""
    cdef Py_ssize_t k, i, h
    cdef const real* p
    cdef vec v
    cdef ivec take, place
    for k in range(rows):
        h = row + k * dilation
        p = x + h * line
        place = ivec_set(h * W)
        for i in range((line + VL - 1) // VL):
            v = load_part(p + i * VL, line - i * VL)
            if k == 0:
                best[i], where[i] = v, place
            else:
                take = beats(v, best[i])
                best[i] = vec_where(take, v, best[i])
                where[i] = ivec_where(take, place, where[i])


cdef struct Row:  # the parts of a thread's workspace for one row of outputs
    vec* best       # the maximum down each column, for each (w, c)
    ivec* where     # h * W of it
    real* y
    whole* places


cdef Row row_in(const Window* g, char* scratch) noexcept nogil:
    cdef Row row
    cdef Py_ssize_t padded = (g.W * g.C + 2 * VL) // VL
    row.best = <vec*> scratch
    row.where = <ivec*> (row.best + padded)
    row.y = <real*> (row.where + padded)
    row.places = <whole*> (row.y + (g.OW * g.C + 2 * VL) // VL * VL)
    return row


cdef Py_ssize_t max_scratch(const Window* g) noexcept nogil:
    """Bytes that `max_row` needs."""
    return 2 * sizeof(real) * (g.W * g.C + g.OW * g.C + 6 * VL) // 64 * 64 + 64


cdef void max_row(const Window* g, const real* x, real* y, int32_t* indices,
                  Py_ssize_t oh, char* scratch) noexcept nogil:
    """One row of outputs of the image x, and the winners' places h * W + w."""
    cdef Row row
    cdef Span rows
    if in_one_pass(g):
        if indices == NULL:
            max_windows(False, g, x, y, indices, oh)
        else:
            max_windows(True, g, x, y, indices, oh)
        return
    row = row_in(g, scratch)
    rows = rows_of(g, oh)
    max_down(x, g.W * g.C, g.W, rows.start, rows.count, g.dilation_h, row.best, row.where)
    max_across(g, &row, y, indices)


cdef void max_across(const Window* g, const Row* row, real* y,
                     int32_t* indices) noexcept nogil:
    """The second pass: the row's outputs from the columns' maxima."""
    cdef Py_ssize_t i
    for i in range(g.OW):
        max_along(g, <real*> row.best, <whole*> row.where, i, row.y, row.places)
    memcpy(y, row.y, g.OW * g.C * sizeof(real))
    if indices != NULL:
        for i in range(g.OW * g.C):
            indices[i] = <int32_t> row.places[i]


cdef void max_image_row(const Window* g, const real* x, real* y, int32_t* indices,
                        Py_ssize_t item, char* scratch) noexcept nogil:
    cdef Py_ssize_t row = item * g.OW * g.C
    max_row(g, x + item // g.OH * g.H * g.W * g.C, y + row,
            NULL if indices == NULL else indices + row, item % g.OH, scratch)


cdef inline void max_along(const Window* g, const real* best, const whole* where, Py_ssize_t ow,
                           real* y_row, whole* places) noexcept nogil:
    """One output pixel from the rows' maxima. Lanes behind C are overwritten by the next pixel."""
    cdef Span columns = columns_of(g, ow)
    cdef Py_ssize_t c, w, at
    cdef vec m, v
    cdef ivec j, i, take
    for c in range((g.C + VL - 1) // VL):
        at = columns.start * g.C + c * VL
        m = (<const vec*> (best + at))[0]
        j = (<const ivec*> (where + at))[0] + ivec_set(columns.start)
        for w in range(1, columns.count):
            at += g.dilation_w * g.C
            v = (<const vec*> (best + at))[0]
            i = (<const ivec*> (where + at))[0] + ivec_set(columns.start + w * g.dilation_w)
            take = beats_at(v, i, m, j)
            m = vec_where(take, v, m)
            j = ivec_where(take, i, j)
        (<vec*> (y_row + ow * g.C + c * VL))[0] = m
        (<ivec*> (places + ow * g.C + c * VL))[0] = j


def max_pool(const real[:, :, :, ::1] x, real[:, :, :, ::1] y, int32_t[:, :, :, ::1] indices,
             tuple kernel, tuple stride, tuple dilation, tuple pads, Workspace scratch,
             int num_threads):
    """Fill y, and `indices` unless it is None."""
    cdef Window g = window_of((<object> x).shape, (<object> y).shape, kernel, stride, dilation, pads,
                              False)
    cdef Py_ssize_t item, items = g.N * g.OH
    cdef Py_ssize_t size = max_scratch(&g)
    cdef int threads = num_threads if items * g.W * g.C * g.KH > ITEM_WORK // 8 else 1
    cdef char* memory
    cdef const real* source
    if items == 0:
        return
    memory = <char*> scratch.take(threads * size // <Py_ssize_t> sizeof(real))
    source = &x[0, 0, 0, 0]
    cdef real* target = &y[0, 0, 0, 0]
    cdef int32_t* places = NULL if indices is None else &indices[0, 0, 0, 0]
    for item in prange(items, schedule="dynamic", chunksize=4, num_threads=threads, nogil=True):
        max_image_row(&g, source, target, places, item, memory + threadid() * size)


# ----------------------------------------------------------------------------------------- backward

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


cdef struct Back:  # one problem of going back
    Py_ssize_t N, H, W, C, OH, OW
    Py_ssize_t tile_h, tile_w   # the pixels of each output, if windows tile the image
    Py_ssize_t halo             # how far a winner may lie outside its tile
    Py_ssize_t chunk, chunks    # of channels that are scattered together
    const real* dy
    const int32_t* indices
    real* dx


cdef Py_ssize_t halo_of(const Back* b) noexcept nogil:
    """How far the winners of some channels of one row of outputs lie outside their tiles."""
    cdef Py_ssize_t oh = b.OH // 2, ow, c, place, h, w, halo = 0
    for ow in range(b.OW):
        for c in range(min(b.C, 8)):
            place = b.indices[(oh * b.OW + ow) * b.C + c]
            if place >= 0:
                h, w = place // b.W - oh * b.tile_h, place % b.W - ow * b.tile_w
                halo = max(halo, -h, -w)
                if oh < b.OH - 1:
                    halo = max(halo, h - b.tile_h + 1)
                if ow < b.OW - 1:
                    halo = max(halo, w - b.tile_w + 1)
    return halo


cdef inline inlined gather_pixel(
    const Py_ssize_t rows, const Py_ssize_t columns, const real* dy, const int32_t* indices,
    Py_ssize_t line, Py_ssize_t C, Py_ssize_t place, ivec fresh, real* dx, ivec* won,
) noexcept nogil:
    """One pixel of dx: the sum of those of rows x columns outputs whose winner it is.

    The last vector ends with C, over lanes that are there already; `fresh` are the others.
    """
    cdef Py_ssize_t c = 0, i, j, at
    cdef vec v
    cdef ivec hit, here = ivec_set(place), seen = ivec_set(0)
    while c < C:
        if c + VL > C:
            c = C - VL
            won[0], seen = won[0] + seen, ivec_set(0)
        v = vec_set(0)
        for i in range(rows):
            for j in range(columns):
                at = i * line + j * C + c
                hit = ivec_equal(load_int32(indices + at), here)
                seen = seen + hit
                v = v + vec_where(hit, (<const vec*> (dy + at))[0], vec_set(0))
        (<vec*> (dx + c))[0] = v
        c += VL
    won[0] = won[0] + (seen & fresh)


cdef Py_ssize_t gather_back(const Back* g, Py_ssize_t item) noexcept nogil:
    """The rows of dx in a row of tiles: each pixel looks which outputs near it were won there.

    Returns how many winners the row of outputs has, less how many were found in its rows of dx: in
    all 0, unless a winner lies where nobody looked.
    """
    cdef Back b = g[0]
    cdef Py_ssize_t oh = item % b.OH, C = b.C, line = b.OW * C, missing = 0
    cdef Py_ssize_t h0 = oh * b.tile_h, h1 = b.H if oh == b.OH - 1 else h0 + b.tile_h
    cdef Py_ssize_t ow, w0, w1, h, w, i0, i1, j0, j1, i, at, place
    cdef const real* dy = b.dy + (item - oh) * line
    cdef const int32_t* indices = b.indices + (item - oh) * line
    cdef real* dx = b.dx + item // b.OH * b.H * b.W * C
    cdef ivec won = ivec_set(0), fresh = ~lanes_before((VL - C % VL) % VL)
    for i in range(oh * line, (oh + 1) * line):
        missing += indices[i] >= 0  # -1: ReLU cut the winner off
    for h in range(h0, min(h1, b.H)):
        i0 = max(0, oh - (h - h0 < b.halo))
        i1 = min(b.OH, oh + 1 + (h - h0 >= b.tile_h - b.halo))
        for ow in range(b.OW):
            w0 = ow * b.tile_w
            w1 = b.W if ow == b.OW - 1 else w0 + b.tile_w
            for w in range(w0, min(w1, b.W)):
                j0 = max(0, ow - (w - w0 < b.halo))
                j1 = min(b.OW, ow + 1 + (w - w0 >= b.tile_w - b.halo))
                at, place = i0 * line + j0 * C, h * b.W + w
                if i1 - i0 == 1 and j1 - j0 == 1:  # constants: no loops
                    gather_pixel(1, 1, dy + at, indices + at, line, C, place, fresh,
                                 dx + place * C, &won)
                elif i1 - i0 == 2 and j1 - j0 == 2:
                    gather_pixel(2, 2, dy + at, indices + at, line, C, place, fresh,
                                 dx + place * C, &won)
                else:
                    gather_pixel(i1 - i0, j1 - j0, dy + at, indices + at, line, C, place, fresh,
                                 dx + place * C, &won)
    for i in range(VL):
        missing += (<whole*> &won)[i]
    return missing


cdef void scatter(const Back* b, Py_ssize_t item) noexcept nogil:
    """Some channels of an image. Zeros go just ahead of the sums, which then hit the cache."""
    cdef Py_ssize_t n = item // b.chunks, C = b.C
    cdef Py_ssize_t c0 = item % b.chunks * b.chunk, c1 = min(c0 + b.chunk, C)
    cdef Py_ssize_t line = b.OW * C, cleared = 0, end, oh, ow, i, c
    cdef const real* dy = b.dy + n * b.OH * line
    cdef const int32_t* indices = b.indices + n * b.OH * line
    cdef real* dx = b.dx + n * b.H * b.W * C
    cdef int32_t far
    for oh in range(b.OH):
        far = -1
        for i in range(line):
            far = max(far, indices[i])
        end = max(cleared, <Py_ssize_t> far + 1)
        clear(dx, cleared, end, C, c0, c1)
        cleared = end
        for ow in range(b.OW):
            for c in range(c0, c1):
                if indices[c] >= 0:
                    dx[indices[c] * C + c] += dy[c]
            dy += C
            indices += C
    clear(dx, cleared, b.H * b.W, C, c0, c1)


cdef void clear(real* dx, Py_ssize_t first, Py_ssize_t end, Py_ssize_t C, Py_ssize_t c0,
                Py_ssize_t c1) noexcept nogil:
    """dx[first:end, c0:c1] = 0."""
    cdef Py_ssize_t i
    if first < end and c1 - c0 == C:
        memset(dx + first * C, 0, (end - first) * C * sizeof(real))
    else:
        for i in range(first, end):
            memset(dx + i * C + c0, 0, (c1 - c0) * sizeof(real))


cdef max_pool_back(const real* dy, const int32_t* indices, real* dx, Py_ssize_t N, Py_ssize_t H,
                   Py_ssize_t W, Py_ssize_t OH, Py_ssize_t OW, Py_ssize_t C, int num_threads):
    """Fill dx. Nobody says what the windows were: guess that they tile the image, or nearly.

    Then each pixel of dx is written once, from the outputs of its tile and, in its halo, of the
    next. Where that costs more than to visit the winners alone, or when it turns out that a winner
    lay elsewhere, zeros and sums: a work item is then an image, or in small batches some of its
    channels. Both add in the order of the outputs.
    """
    cdef Back b
    cdef Py_ssize_t item, missing = 1, looks, parts = (ITEMS // 2 + N - 1) // N
    cdef int threads = num_threads if N * H * W * C > ITEM_WORK // 8 else 1
    b.N, b.H, b.W, b.C, b.OH, b.OW = N, H, W, C, OH, OW
    b.tile_h, b.tile_w = (2 * H + OH - 1) // (2 * OH), (2 * W + OW - 1) // (2 * OW)
    b.chunk = min(C, ((C + parts - 1) // parts + 15) // 16 * 16)
    b.chunks = (C + b.chunk - 1) // b.chunk
    b.dy, b.indices, b.dx = dy, indices, dx
    if C >= VL and b.tile_h > 0 and b.tile_w > 0:
        b.halo = halo_of(&b)
        # For each output, tile_h * tile_w vectors of dx, and so many looks at its winners. Scattering
        # does VL lanes one by one.
        looks = (b.tile_h + 2 * b.halo) * (b.tile_w + 2 * b.halo)
        if b.halo <= 1 and looks + b.tile_h * b.tile_w < 2 * VL:
            missing = 0
            for item in prange(N * OH, schedule="dynamic", chunksize=4, num_threads=threads,
                               nogil=True):
                missing += gather_back(&b, item)
    if missing != 0:
        for item in prange(N * b.chunks, schedule="dynamic", num_threads=threads, nogil=True):
            scatter(&b, item)


def max_pool_backward(const real[:, :, :, ::1] dy, const int32_t[:, :, :, ::1] indices,
                      real[:, :, :, ::1] dx, int num_threads):
    """Fill dx."""
    if dx.size and dy.size:
        max_pool_back(&dy[0, 0, 0, 0], &indices[0, 0, 0, 0], &dx[0, 0, 0, 0], dx.shape[0],
                      dx.shape[1], dx.shape[2], dy.shape[1], dy.shape[2], dx.shape[3], num_threads)
