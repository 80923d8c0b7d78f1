# Max pooling, a row of outputs at a time: each window in one pass where vectors fit along C and
# windows overlap little; else down the window's rows (over whole image rows, vectors along W and C
# together), then along its columns, which costs KH + KW operations an element, not KH * KW. Both
# take the first maximum in row-major order, so that they agree in every bit.
#
# To look for NaN at each comparison would double the work. So a row is computed as if there were
# none, while `poison` gathers whether there may be (or an infinity); if so, the row is computed again,
# `careful`ly. Going back is in pool_max_back.pxi.

from cython.parallel cimport parallel, threadid
from libc.stdint cimport int32_t
from libc.string cimport memcpy

cdef extern from *:
    """
    /* v if it is greater, else m: one instruction, which the next comparison waits for. */
    static inline __attribute__((always_inline)) vec vec_greater(vec v, vec m) {
    #if defined(__AVX__) && !defined(__AVX512F__)
        return sizeof(real) == 4 ? (vec) _mm256_max_ps((__m256) v, (__m256) m)
                                 : (vec) _mm256_max_pd((__m256d) v, (__m256d) m);
    #else
        return vec_where((ivec) (v > m), v, m);
    #endif
    }
    /* m = the greater of m and v, and `where` follows; of equals m stays. A NaN in v is passed over. */
    static inline __attribute__((always_inline)) void take_greater(
            vec v, ivec here, vec* m, ivec* where) {
    #if defined(__AVX512F__)
        if (sizeof(real) == 4) {
            __mmask16 more = _mm512_cmp_ps_mask((__m512) v, (__m512) *m, _CMP_GT_OQ);
            *where = (ivec) _mm512_mask_mov_epi32((__m512i) *where, more, (__m512i) here);
            *m = (vec) _mm512_max_ps((__m512) v, (__m512) *m);
        } else {
            __mmask8 more = _mm512_cmp_pd_mask((__m512d) v, (__m512d) *m, _CMP_GT_OQ);
            *where = (ivec) _mm512_mask_mov_epi64((__m512i) *where, more, (__m512i) here);
            *m = (vec) _mm512_max_pd((__m512d) v, (__m512d) *m);
        }
    #else
        *where = ivec_where((ivec) (v > *m), here, *where);
        *m = vec_greater(v, *m);
    #endif
    }
    /* ReLU of a maximum; where it cuts, the place becomes -1. NaN stays. */
    static inline __attribute__((always_inline)) void cut_loser(vec* m, ivec* where) {
        ivec lost = (ivec) (*m <= (vec) {0});
        *where |= lost;
        *m = vec_gate(*m, *m);
    }
    /* The same when the two may come in any order: of equals, the one at the smaller place wins. */
    static inline __attribute__((always_inline)) void take_first_greater(
            vec v, ivec here, vec* m, ivec* where) {
        ivec more = (ivec) (v > *m) | ((ivec) (v == *m) & (ivec) (here < *where));
        *where = ivec_where(more, here, *where);
        *m = vec_where(more, v, *m);
    }
    """
    vec vec_greater(vec v, vec m) noexcept nogil
    void take_greater(vec v, ivec here, vec* m, ivec* where) noexcept nogil
    void cut_loser(vec* m, ivec* where) noexcept nogil
    void take_first_greater(vec v, ivec here, vec* m, ivec* where) noexcept nogil


cdef inline inlined max_tile(
    const Py_ssize_t nv, const bint careful, const bint places, const real* x, Py_ssize_t rows,
    Py_ssize_t columns, Py_ssize_t down, Py_ssize_t right, Py_ssize_t place, Py_ssize_t place_down,
    Py_ssize_t place_right, bint past, real* y, int32_t* indices, vec* poison,
) noexcept nogil:
    """`nv` vectors of one window's maximum; x is its first pixel inside the image, at `place`."""
    cdef vec[4] best, bad
    cdef ivec[4] where
    cdef vec v
    cdef ivec take, here
    cdef Py_ssize_t i, h, w
    for i in range(nv):
        best[i] = (<const vec*> (x + i * VL))[0]
        where[i] = ivec_set(place)
        bad[i] = vec_set(0)
    for h in range(rows):
        for w in range(1 if h == 0 else 0, columns):
            here = ivec_set(place + h * place_down + w * place_right)
            for i in range(nv):
                v = (<const vec*> (x + h * down + w * right + i * VL))[0]
                if careful:
                    take = beats(v, best[i])
                    best[i] = vec_where(take, v, best[i])
                    where[i] = ivec_where(take, here, where[i])
                else:
                    take_greater(v, here, &best[i], &where[i])
                    bad[i] = bad[i] + v * vec_set(0)
    for i in range(nv):
        store_line(y + i * VL, best[i], past)
        poison[0] = poison[0] + bad[i]
        if places and past and sizeof(real) == sizeof(int32_t):
            store_line(<real*> indices + i * VL, <vec> where[i], past)
        elif places:
            store_int32(indices + i * VL, where[i])


cdef inline inlined max_tiles(
    const bint careful, const bint places, const real* x, Py_ssize_t C, Py_ssize_t rows,
    Py_ssize_t columns, Py_ssize_t down, Py_ssize_t right, Py_ssize_t place, Py_ssize_t place_down,
    Py_ssize_t place_right, bint past, real* y, int32_t* indices, vec* poison,
) noexcept nogil:
    """One window, all channels; the last vector ends with C, over lanes that are there already."""
    cdef Py_ssize_t c = 0
    while c + 2 * VL <= C:
        max_tile(2, careful, places, x + c, rows, columns, down, right, place, place_down,
                 place_right, past, y + c, indices + c, poison)
        c += 2 * VL
    while c < C:
        c = min(c, C - VL)
        max_tile(1, careful, places, x + c, rows, columns, down, right, place, place_down,
                 place_right, past, y + c, indices + c, poison)
        c += VL


cdef inline inlined max_windows(const bint careful, const bint places, const Window* g,
                                const real* x, real* y, int32_t* indices, Py_ssize_t oh,
                                vec* poison) noexcept nogil:
    """One row of outputs in one pass."""
    cdef Span rows = rows_of(g, oh), columns
    cdef Py_ssize_t ow, place, down = g.dilation_h * g.W, right = g.dilation_w
    cdef vec bad = vec_set(0)
    for ow in range(g.OW):
        columns = columns_of(g, ow)
        place = rows.start * g.W + columns.start
        if not careful and rows.count == 2 and columns.count == 2:  # constants: no loops
            max_tiles(careful, places, x + place * g.C, g.C, 2, 2, down * g.C, right * g.C, place,
                      down, right, g.direct, y, indices, &bad)
        elif not careful and rows.count == 3 and columns.count == 3:
            max_tiles(careful, places, x + place * g.C, g.C, 3, 3, down * g.C, right * g.C, place,
                      down, right, g.direct, y, indices, &bad)
        else:
            max_tiles(careful, places, x + place * g.C, g.C, rows.count, columns.count, down * g.C,
                      right * g.C, place, down, right, g.direct, y, indices, &bad)
        y += g.C
        if places:
            indices += g.C
    poison[0] = bad


cdef inline inlined max_columns(
    const Py_ssize_t nv, const bint careful, const real* x, Py_ssize_t line, Py_ssize_t W,
    Py_ssize_t row, Py_ssize_t rows, Py_ssize_t dilation, Py_ssize_t count, vec* best, ivec* where,
    vec* poison,
) noexcept nogil:
    """`nv` vectors of `max_down`; x is the first row's, and has `count` numbers more."""
    cdef vec[4] m, bad
    cdef ivec[4] j
    cdef vec v
    cdef ivec take, here = ivec_set(row * W)
    cdef Py_ssize_t i, k
    for i in range(nv):
        m[i], j[i] = load_part(x + i * VL, count - i * VL), here
        bad[i] = vec_set(0)
    for k in range(1, rows):
        x = x + dilation * line
        here = ivec_set((row + k * dilation) * W)
        for i in range(nv):
            v = load_part(x + i * VL, count - i * VL)
            if careful:
                take = beats(v, m[i])
                m[i] = vec_where(take, v, m[i])
                j[i] = ivec_where(take, here, j[i])
            else:
                take_greater(v, here, &m[i], &j[i])
                bad[i] = bad[i] + v * vec_set(0)
    for i in range(nv):
        best[i], where[i] = m[i], j[i]
        poison[0] = poison[0] + bad[i]


cdef inline inlined max_down(
    const bint careful, const real* x, Py_ssize_t line, Py_ssize_t W, Py_ssize_t row,
    Py_ssize_t rows, Py_ssize_t dilation, vec* best, ivec* where, vec* poison,
) noexcept nogil:
    """best[i] = the maximum of x[h, i] over `rows` rows h from `row` on; where[i] = its h * W."""
    cdef Py_ssize_t i = 0
    cdef vec bad = vec_set(0)
    x += row * line
    while (i + 4) * VL <= line:
        max_columns(4, careful, x + i * VL, line, W, row, rows, dilation, 4 * VL, best + i, where + i,
                    &bad)
        i += 4
    while i * VL < line:
        max_columns(1, careful, x + i * VL, line, W, row, rows, dilation, line - i * VL, best + i,
                    where + i, &bad)
        i += 1
    poison[0] = poison[0] + bad


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


cdef inline inlined max_row_as(const bint careful, const Window* g, const real* x, real* y,
                               int32_t* indices, Py_ssize_t oh, char* scratch,
                               vec* poison) noexcept nogil:
    cdef Row row
    cdef Span rows
    if in_one_pass(g):
        if indices == NULL:
            max_windows(careful, False, g, x, y, indices, oh, poison)
        else:
            max_windows(careful, True, g, x, y, indices, oh, poison)
    else:
        row = row_in(g, scratch)
        rows = rows_of(g, oh)
        row.best[(g.W * g.C + VL - 1) // VL] = vec_set(0)  # the last pixel's vectors reach so far
        max_down(careful, x, g.W * g.C, g.W, rows.start, rows.count, g.dilation_h, row.best,
                 row.where, poison)
        max_across(careful, True, g, &row, y, indices, poison)


cdef void max_row_careful(const Window* g, const real* x, real* y, int32_t* indices,
                          Py_ssize_t oh, char* scratch) noexcept nogil:
    cdef vec ignored = vec_set(0)
    max_row_as(True, g, x, y, indices, oh, scratch, &ignored)


cdef void max_row(const Window* g, const real* x, real* y, int32_t* indices,
                  Py_ssize_t oh, char* scratch) noexcept nogil:
    """One row of outputs of the image x, and the winners' places h * W + w."""
    cdef vec poison = vec_set(0)
    max_row_as(False, g, x, y, indices, oh, scratch, &poison)
    if any_nan(poison):
        max_row_careful(g, x, y, indices, oh, scratch)


cdef inline inlined max_across(const bint careful, const bint located, const Window* g, const Row* row,
                               real* y, int32_t* indices, vec* poison) noexcept nogil:
    """The second pass: the row's outputs from the columns' maxima.

    Unless they are `located`, it does not matter which of 0 and -0 comes first.
    """
    cdef Py_ssize_t i
    cdef vec bad = vec_set(0)
    for i in range(g.OW):
        max_along(careful, located, g, <real*> row.best, <whole*> row.where, i, row.y, row.places, &bad)
    poison[0] = poison[0] + bad
    memcpy(y, row.y, g.OW * g.C * sizeof(real))
    if indices != NULL:
        for i in range(g.OW * g.C):
            indices[i] = <int32_t> row.places[i]


cdef inline int32_t* places_at(int32_t* indices, Py_ssize_t place) noexcept nogil:
    return NULL if indices == NULL else indices + place


cdef void max_image_row(const Window* g, const real* x, real* y, int32_t* indices,
                        Py_ssize_t item, char* scratch) noexcept nogil:
    cdef Py_ssize_t line = g.OW * g.C, row = item * line
    cdef real* y_row = y + row
    cdef int32_t* places = places_at(indices, row)
    cdef bint copies = g.streams and not g.direct
    if copies:
        y_row = <real*> (scratch + max_scratch(g))
        if indices != NULL:
            places = <int32_t*> (y_row + line)
    max_row(g, x + item // g.OH * g.H * g.W * g.C, y_row, places, item % g.OH, scratch)
    if copies:
        stream(y + row, y_row, line * sizeof(real))
        if indices != NULL:
            stream(indices + row, places, line * sizeof(int32_t))


cdef inline inlined max_along(
    const bint careful, const bint located, const Window* g, const real* best, const whole* where,
    Py_ssize_t ow, real* y_row, whole* places, vec* poison,
) noexcept nogil:
    """One output pixel from the rows' maxima. Lanes behind C are overwritten by the next pixel."""
    cdef Span columns = columns_of(g, ow)
    cdef Py_ssize_t c, w, at
    cdef vec m, v, bad = vec_set(0)
    cdef ivec j, i, take
    for c in range((g.C + VL - 1) // VL):
        at = columns.start * g.C + c * VL
        m = (<const vec*> (best + at))[0]
        if located:
            j = (<const ivec*> (where + at))[0] + ivec_set(columns.start)
        for w in range(1, columns.count):
            at += g.dilation_w * g.C
            v = (<const vec*> (best + at))[0]
            if not located:
                m = vec_greater(v, m)
                bad = bad + v * vec_set(0)
                continue
            i = (<const ivec*> (where + at))[0] + ivec_set(columns.start + w * g.dilation_w)
            if careful:
                take = beats_at(v, i, m, j)
                m = vec_where(take, v, m)
                j = ivec_where(take, i, j)
            else:
                take_first_greater(v, i, &m, &j)
                bad = bad + v * vec_set(0)
        (<vec*> (y_row + ow * g.C + c * VL))[0] = m
        if located:
            (<ivec*> (places + ow * g.C + c * VL))[0] = j
    poison[0] = poison[0] + bad


cdef void max_rows(const Window* g, const real* x, real* y, int32_t* indices, Py_ssize_t row,
                   Py_ssize_t end, char* scratch) noexcept nogil:
    while row < end:
        max_image_row(g, x, y, indices, row, scratch)
        row += 1


def max_pool(const real[:, :, :, ::1] x, real[:, :, :, ::1] y, int32_t[:, :, :, ::1] indices,
             tuple kernel, tuple stride, tuple dilation, tuple pads, Workspace scratch,
             int num_threads):
    """Fill y, and `indices` unless it is None."""
    cdef Window g = window_of((<object> x).shape, (<object> y).shape, kernel, stride, dilation, pads,
                              False)
    cdef int32_t* places = NULL
    if y.size:
        if indices is not None:
            places = &indices[0, 0, 0, 0]
        max_all(g, &x[0, 0, 0, 0], &y[0, 0, 0, 0], places, scratch, num_threads)


cdef max_all(Window g, const real* x, real* y, int32_t* indices, Workspace scratch, int num_threads):
    """Fill y, which is not empty, and `indices` unless that is NULL."""
    cdef Shares shares
    cdef Py_ssize_t thread, item, rows = g.N * g.OH, group = handful(rows)
    cdef Py_ssize_t items = (rows + group - 1) // group
    cdef Py_ssize_t slot = apart(max_scratch(&g) // <Py_ssize_t> sizeof(real) + 1 + g.OW * g.C * 2)
    cdef int threads = num_threads if rows * g.W * g.C * g.KH > ITEM_WORK // 8 else 1
    cdef real* memory
    g.streams = is_large(&g, 1 if indices == NULL else 2)
    g.direct = g.streams and in_one_pass(&g) and streams_lines(y, g.C) and (
        indices == NULL or streams_lines(indices, g.C))
    memory = scratch.take(threads * slot)
    share_out(&shares, items, threads)
    with nogil, parallel(num_threads=threads):
        thread = threadid()
        item = next_item(&shares, thread)
        while item >= 0:
            max_rows(&g, x, y, indices, item * group, min(rows, (item + 1) * group),
                     <char*> (memory + thread * slot))
            item = next_item(&shares, thread)
