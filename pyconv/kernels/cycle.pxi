# Cyclic tiles: for few output channels, the lanes of a vector share the input channels, too.
#
# With 8 output channels or fewer, vectors along the channels would be half empty. Here LANES lanes are
# [channel, part]: 8 channels by 2 parts, 4 by 4, 2 by 8 or 1 by 16. Part j of P sums the input numbers
# j, P + j, 2 P + j, ... of every run, so that one product takes P neighbours of the input, which are
# read where they lie; at the end neighbouring lanes are added as a tree. LANES is the same for all
# instruction sets, and so are the bits. In dw the same lanes are sums of their own.

cdef extern from *:
    """
    #if defined(__AVX__)
    #include <immintrin.h>
    #endif
    typedef long long long_vec __attribute__((vector_size(VEC_BYTES)));
    /* Vector v of LANES lanes in which the P numbers at p follow each other again and again. */
    static inline __attribute__((always_inline)) vec vec_cycle(
            Py_ssize_t P, const real* p, Py_ssize_t v) {
        const size_t size = P * sizeof(real);
        if (size == 8) {
            long long a;
            memcpy(&a, p, 8);
            return (vec) (a - (long_vec) {0});
        }
    #if defined(__AVX512F__)
        if (size == 16) return (vec) _mm512_broadcast_i32x4(_mm_loadu_si128((const void*) p));
        if (size == 32) return (vec) _mm512_broadcast_i64x4(_mm256_loadu_si256((const void*) p));
    #elif defined(__AVX__)
        if (size == 16) return (vec) _mm256_broadcast_ps((const void*) p);
    #endif
        return *(const vec*) (p + v * VL % P);
    }
    /* Of these, the last `count` of every P. */
    static inline __attribute__((always_inline)) ivec last_parts(
            Py_ssize_t P, Py_ssize_t count, Py_ssize_t v) {
        ivec part;
        for (int l = 0; l < VL; l++) part[l] = (v * VL + l) % P;
        return (ivec) (part >= (whole) (P - count));
    }
    static inline __attribute__((always_inline)) vec vec_keep(ivec mask, vec a) {
        return (vec) ((ivec) a & mask);
    }
    /* Vector v of LANES lanes that hold each number P times, the first one of the vector at p. */
    static inline __attribute__((always_inline)) vec vec_stretch(Py_ssize_t P, vec p, Py_ssize_t v) {
        ivec lane;
        for (int l = 0; l < VL; l++) lane[l] = (v * VL + l) / P - v * VL / P;
        return __builtin_shuffle(p, lane);
    }
    /* Sums of neighbours: those of a, then those of b. */
    static inline __attribute__((always_inline)) vec add_pairs(vec a, vec b) {
        ivec lane;
        for (int l = 0; l < VL; l++) lane[l] = 2 * l;
        return __builtin_shuffle(a, b, lane) + __builtin_shuffle(a, b, lane + 1);
    }
    """
    vec vec_cycle(const Py_ssize_t P, const real* p, Py_ssize_t v) noexcept nogil
    ivec last_parts(const Py_ssize_t P, Py_ssize_t count, Py_ssize_t v) noexcept nogil
    vec vec_keep(ivec mask, vec a) noexcept nogil
    vec vec_stretch(const Py_ssize_t P, vec p, Py_ssize_t v) noexcept nogil
    vec add_pairs(vec a, vec b) noexcept nogil

cdef enum:
    LANES = 16              # LANE_VECTORS * VL, for all instruction sets
    CYCLE_CHANNELS = 8      # at most: more fill more than half of LANES
    CYCLE_ROWS = 12         # pixels of a tile, where they are one vector each


cdef inline Py_ssize_t cycle_parts(Py_ssize_t K, Py_ssize_t length) noexcept nogil:
    """P: so many numbers of a run, of `length` at least, share the lanes of one of K channels."""
    cdef Py_ssize_t parts = LANES
    while parts > 1 and (parts * K > LANES or parts > length):
        parts //= 2
    return parts


cdef bint cycle_pays(Py_ssize_t K, Py_ssize_t C, Py_ssize_t groups, Py_ssize_t columns, step,
                     list phases) except -1:
    """Whether to take these tiles for K output channels: by shape alone, since the sums differ."""
    return cycle_cycles(K, C, groups, columns, phases) + copy_cycles(C, columns, step) < other_cycles(
        K, C, columns, step, phases, False, 1, 1)


cdef real* pack_run(
    const real* w, Py_ssize_t w_tap, Py_ssize_t w_in, Py_ssize_t w_out, const Py_ssize_t* tap,
    Py_ssize_t length, Py_ssize_t C, Py_ssize_t K, Py_ssize_t P, real* to,
) noexcept nogil:
    """The weights of a run of taps, `length` numbers, among zeros: [P numbers at a time][channel, part].

    Returns where they end.
    """
    cdef Py_ssize_t i = 0, j, k, c = 0, part, count, some
    cdef const real* source
    while i < length:
        count = min(P, length - i)
        part = P - count  # the last ones are read with those before
        i += count
        while count:
            # Neighbours of one tap, if they are neighbours in w.
            some = min(count, C - c) if w_in == 1 else 1
            source = w + tap[0] * w_tap + c * w_in
            for k in range(K):
                for j in range(some):
                    to[k * P + part + j] = source[k * w_out + j]
            part, count, c = part + some, count - some, c + some
            if c == C:
                tap, c = tap + 1, 0
        to += LANES
    return to


cdef inline inlined cycle_tiles(
    const Py_ssize_t rows, const Py_ssize_t P, const Block* block, Py_ssize_t K, const real* x,
    const real* w, real* y,
) noexcept nogil:
    """As `sum_tiles`, of K channels. Bias and weights are packed: LANES for each P numbers of a run.

    What is left of a run, fewer than P numbers, is read with those before it, which are masked.
    """
    cdef vec[32] acc  # rows * LANE_VECTORS of them are used
    cdef vec[16] wv
    cdef ivec[16] last
    cdef vec a
    cdef Py_ssize_t i, v, r, c, t, line, rest = block.length % P
    cdef const real* from_x
    cdef const real* from_w
    cdef const real* p
    cdef real* to
    cdef real[384] sums
    if rows * LANE_VECTORS > SUMS:
        return
    for v in range(LANE_VECTORS):
        last[v] = last_parts(P, rest, v)
    for line in range(block.lines):
        from_x = x + line * block.x_line
        to = y + line * block.y_line
        for t in range(block.tiles):
            for i in range(rows):
                for v in range(LANE_VECTORS):
                    acc[i * LANE_VECTORS + v] = (<const vec*> (block.b + v * VL))[0]
            for r in range(block.runs):
                p = from_x + block.run[r].x
                from_w = w + block.run[r].w * LANES
                for c in range(block.length // P):
                    for v in range(LANE_VECTORS):
                        wv[v] = (<const vec*> (from_w + v * VL))[0]
                    for i in range(rows):
                        for v in range(LANE_VECTORS):
                            acc[i * LANE_VECTORS + v] = (
                                acc[i * LANE_VECTORS + v]
                                + wv[v] * vec_cycle(P, p + i * block.x_step, v))
                    from_w = from_w + LANES
                    p = p + P
                if rest:
                    p = p + rest - P
                    for i in range(rows):
                        for v in range(LANE_VECTORS):
                            a = vec_keep(last[v], vec_cycle(P, p + i * block.x_step, v))
                            acc[i * LANE_VECTORS + v] = (
                                acc[i * LANE_VECTORS + v] + (<const vec*> (from_w + v * VL))[0] * a)
                    from_w = from_w + LANES
            # [pixel, channel, part], in the end [pixel, channel]. One vector too many is spoiled.
            if rows * LANE_VECTORS % 2:
                acc[rows * LANE_VECTORS] = vec_set(0)
            for i in range((rows * LANE_VECTORS + 1) // 2):
                acc[i] = add_pairs(acc[2 * i], acc[2 * i + 1])
            for i in range((rows * LANE_VECTORS + 3) // 4 if P > 2 else 0):
                acc[i] = add_pairs(acc[2 * i], acc[2 * i + 1])
            for i in range((rows * LANE_VECTORS + 7) // 8 if P > 4 else 0):
                acc[i] = add_pairs(acc[2 * i], acc[2 * i + 1])
            for i in range((rows * LANE_VECTORS + 15) // 16 if P > 8 else 0):
                acc[i] = add_pairs(acc[2 * i], acc[2 * i + 1])
            if block.relu:
                for i in range((rows * LANE_VECTORS + P - 1) // P):
                    acc[i] = vec_relu(acc[i])
            if block.y_step == K == LANES // P:
                for i in range((rows * LANE_VECTORS + P - 1) // P):
                    store_part(to + i * VL, acc[i], rows * (LANES // P) - i * VL)
            else:
                for i in range((rows * LANE_VECTORS + P - 1) // P):
                    (<vec*> (sums + i * VL))[0] = acc[i]
                for i in range(rows):
                    copy_short(to + i * block.y_step, sums + i * (LANES // P), K)
            from_x = from_x + rows * block.x_step
            to = to + rows * block.y_step


cdef inline inlined cycle_tiles_of(
    Py_ssize_t rows, const Py_ssize_t P, const Block* block, Py_ssize_t K, const real* x,
    const real* w, real* y,
) noexcept nogil:
    """`cycle_tiles` of the rows that `cycle_rows` finds."""
    if rows == 12:
        cycle_tiles(12, P, block, K, x, w, y)
    elif rows == 10:
        cycle_tiles(10, P, block, K, x, w, y)
    elif rows == 8:
        cycle_tiles(8, P, block, K, x, w, y)
    elif rows == 7:
        cycle_tiles(7, P, block, K, x, w, y)
    elif rows == 6:
        cycle_tiles(6, P, block, K, x, w, y)
    elif rows == 4:
        cycle_tiles(4, P, block, K, x, w, y)
    elif rows == 2:
        cycle_tiles(2, P, block, K, x, w, y)
    else:
        cycle_tiles(1, P, block, K, x, w, y)


cdef Py_ssize_t cycle_rows(Py_ssize_t pixels) noexcept nogil:
    """Rows of the tiles that take the least to cover `pixels`; the last tile overlaps another."""
    cdef Py_ssize_t[8] sizes = [12, 10, 8, 7, 6, 4, 2, 1]
    cdef Py_ssize_t i, tiles, best = 1, least = PY_SSIZE_T_MAX
    for i in range(8):
        if sizes[i] <= min(pixels, min(CYCLE_ROWS, SUMS // LANE_VECTORS)):
            tiles = (pixels + sizes[i] - 1) // sizes[i]
            # a tile's loads of weights, loop and end take as long as 2 rows
            if tiles * (sizes[i] + 2) < least:
                best, least = sizes[i], tiles * (sizes[i] + 2)
    return best


cdef void cycle_lines(
    Py_ssize_t pixels, Py_ssize_t P, Py_ssize_t K, const Block* block, const real* x, const real* w,
    real* y,
) noexcept nogil:
    """`pixel_lines` of K channels in [channel, part] lanes."""
    cdef Block part = block[0]
    cdef Py_ssize_t rows = cycle_rows(pixels)
    part.tiles = pixels // rows
    while part.tiles:
        if P == 16:
            cycle_tiles_of(rows, 16, &part, K, x, w, y)
        elif P == 8:
            cycle_tiles_of(rows, 8, &part, K, x, w, y)
        elif P == 4:
            cycle_tiles_of(rows, 4, &part, K, x, w, y)
        else:
            cycle_tiles_of(rows, 2, &part, K, x, w, y)
        pixels -= rows * part.tiles
        if pixels == 0:
            return
        # What is left: a tile that ends with the line.
        x += (rows * part.tiles + pixels - rows) * part.x_step
        y += (rows * part.tiles + pixels - rows) * part.y_step
        part.tiles, pixels = 1, rows


cdef inline inlined cycle_filter_tile(
    const Py_ssize_t rows, const Py_ssize_t P, const Pixels* pixels, const real* x, const real* dy,
    real* dw, Py_ssize_t dw_step, const real* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """As `filter_tile`: dw[i, k, j] += sum over pixels of x[pixel, i * P + j] * dy[pixel, k]."""
    cdef vec[32] acc  # rows * LANE_VECTORS of them are used
    cdef vec[16] dv
    cdef Py_ssize_t i, v, h, w, left = pixels.image, columns = pixels.columns, step = pixels.x_step
    cdef const real* p
    if rows * LANE_VECTORS > SUMS:
        return
    for i in range(rows):
        for v in range(LANE_VECTORS):
            acc[i * LANE_VECTORS + v] = (<const vec*> (dw + i * dw_step + v * VL))[0]
    for h in range(pixels.rows):
        p = x
        for w in range(columns):
            for v in range(LANE_VECTORS):
                dv[v] = (<const vec*> (dy + v * VL))[0]
            dy = dy + LANES
            for i in range(rows):
                for v in range(LANE_VECTORS):
                    acc[i * LANE_VECTORS + v] = (
                        acc[i * LANE_VECTORS + v] + dv[v] * vec_cycle(P, p + i * P, v))
            prefetch_later(ahead)
            ahead = ahead + ahead_step
            p = p + step
        x = next_row(x, pixels, &left)
    for i in range(rows):
        for v in range(LANE_VECTORS):
            (<vec*> (dw + i * dw_step + v * VL))[0] = acc[i * LANE_VECTORS + v]


cdef inline inlined cycle_filter_rows(
    Py_ssize_t rows, const Py_ssize_t P, const Pixels* pixels, const real* x, const real* dy, real* dw,
    Py_ssize_t dw_step, const real* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """`cycle_filter_tile` of 1 to 12 rows."""
    if rows == 12:
        cycle_filter_tile(12, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 11:
        cycle_filter_tile(11, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 10:
        cycle_filter_tile(10, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 9:
        cycle_filter_tile(9, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 8:
        cycle_filter_tile(8, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 7:
        cycle_filter_tile(7, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 6:
        cycle_filter_tile(6, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 5:
        cycle_filter_tile(5, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 4:
        cycle_filter_tile(4, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 3:
        cycle_filter_tile(3, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif rows == 2:
        cycle_filter_tile(2, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    else:
        cycle_filter_tile(1, P, pixels, x, dy, dw, dw_step, ahead, ahead_step)


cdef void cycle_filter_tile_of(
    Py_ssize_t rows, Py_ssize_t P, const Pixels* pixels, const real* x, const real* dy, real* dw,
    Py_ssize_t dw_step, const real* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """`cycle_filter_tile` of 1 to 12 rows and 2, 4, 8 or 16 parts."""
    if P == 2:
        cycle_filter_rows(rows, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif P == 4:
        cycle_filter_rows(rows, 4, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    elif P == 8:
        cycle_filter_rows(rows, 8, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    else:
        cycle_filter_rows(rows, 16, pixels, x, dy, dw, dw_step, ahead, ahead_step)


cdef inline inlined stretch_pixels(
    const Py_ssize_t P, const real* dy, Py_ssize_t step, Py_ssize_t pixels, Py_ssize_t K, real* to,
) noexcept nogil:
    """to[pixel, k, j] = dy[pixel, k] for j < P; pixels are `step` apart."""
    cdef Py_ssize_t p, v, left
    for p in range(pixels):
        left = (pixels - p - 1) * step + K
        for v in range(LANE_VECTORS):
            (<vec*> (to + v * VL))[0] = vec_stretch(
                P, load_part(dy + v * VL // P, left - v * VL // P), v)
        to += LANES
        dy += step


cdef void stretch_pixels_of(
    Py_ssize_t P, const real* dy, Py_ssize_t step, Py_ssize_t pixels, Py_ssize_t K, real* to,
) noexcept nogil:
    if P == 2:
        stretch_pixels(2, dy, step, pixels, K, to)
    elif P == 4:
        stretch_pixels(4, dy, step, pixels, K, to)
    elif P == 8:
        stretch_pixels(8, dy, step, pixels, K, to)
    else:
        stretch_pixels(16, dy, step, pixels, K, to)
