# The arithmetic of Winograd along the rows (see line_wide.pxi): transforms, and the tile of products.
#
# Points are +-1/2, +-2, for r = 4 and 5 also +-1, for r = 3 and 5 also 0, and infinity. Each pair +-p
# shares its even and odd halves. The largest error seen is 7e-6 of the outputs' rms. A^T has powers of
# two only, so that rounding does not depend on which of its products are fused with a sum. For r = 2, 6
# and 7 the points, B^T and errors are those of line_tile.pxi.

cdef extern from *:
    """
    typedef vec vec8[8] __attribute__((aligned(VEC_BYTES)));
    #define EIGHTH ((real) 0.125)
    #define QUARTER ((real) 0.25)
    #define FIVE_QUARTERS ((real) 1.25)
    #define FOUR ((real) 4)
    #define SEVENTEEN_QUARTERS ((real) 4.25)
    #define FIVE ((real) 5)
    #define TWENTYONE_QUARTERS ((real) 5.25)
    #define EIGHT ((real) 8)
    """
    ctypedef vec vec8[8]
    const real EIGHTH, QUARTER, FIVE_QUARTERS, FOUR, SEVENTEEN_QUARTERS
    const real FIVE, TWENTYONE_QUARTERS, EIGHT

cdef list signed(tuple values):
    return [sign * p for p in values for sign in (1, -1)]


cdef dict WIDE_POINTS = {  # finite ones by r, in the order of the transforms
    2: [*signed(LINE_PAIRS[2]), 0],
    3: [0, 0.5, -0.5, 2, -2],
    4: [0.5, -0.5, 1, -1, 2, -2],
    5: [0, 0.5, -0.5, 1, -1, 2, -2],
    6: [*signed(LINE_PAIRS[4]), 0],
    7: [*signed(LINE_PAIRS[4]), 0],
}


cdef inline inlined pair(const vec* d, const real others, const real product, const real p,
                         real* to, Py_ssize_t step) noexcept nogil:
    """The points +p and -p of six inputs; sum and product of the other two points' squares."""
    cdef vec even = (d[4] - others * d[2]) + product * d[0]
    cdef vec odd = (d[5] - others * d[3]) + product * d[1]
    (<vec*> to)[0] = odd + p * even
    (<vec*> (to + step))[0] = odd - p * even


cdef inline inlined small_pair(const vec* d, const real other, const real p, real* to,
                               Py_ssize_t step) noexcept nogil:
    """The points +p and -p where there is only one other pair, whose square is `other`."""
    cdef vec even = d[4] - other * d[2]
    cdef vec odd = d[3] - other * d[1]
    (<vec*> to)[0] = even + p * odd
    (<vec*> (to + step))[0] = even - p * odd


cdef inline inlined line_input(const Py_ssize_t points, const real* x, const Py_ssize_t* offset,
                               real* to, Py_ssize_t step) noexcept nogil:
    """B^T d of a vector of quads; offset[i] is where the i-th input lies."""
    cdef vec8 d
    cdef vec* p = d
    cdef Py_ssize_t i
    for i in range(points):
        d[i] = (<const vec*> (x + offset[i]))[0]
    if points == 6:
        (<vec*> to)[0] = (d[4] + d[0]) - SEVENTEEN_QUARTERS * d[2]
        small_pair(d, FOUR, HALF, to + step, step)
        small_pair(d, QUARTER, TWO, to + 3 * step, step)
        (<vec*> (to + 5 * step))[0] = (d[5] + d[1]) - SEVENTEEN_QUARTERS * d[3]
        return
    if points == 8:
        (<vec*> to)[0] = (d[6] - d[0]) + TWENTYONE_QUARTERS * (d[2] - d[4])
        to = to + step
        p = d + 1
    pair(p, FIVE, FOUR, HALF, to, step)
    pair(p, SEVENTEEN_QUARTERS, 1, 1, to + 2 * step, step)
    pair(p, FIVE_QUARTERS, QUARTER, TWO, to + 4 * step, step)
    (<vec*> (to + 6 * step))[0] = (p[6] - p[0]) + TWENTYONE_QUARTERS * (p[2] - p[4])


cdef inline inlined line_output(const Py_ssize_t points, const real* m, Py_ssize_t step,
                                vec* y) noexcept nogil:
    """A^T m: 4 outputs."""
    cdef vec even1, odd1, even2, odd2, even3, odd3
    cdef vec first = vec_set(0)
    if points != 7:
        first = (<const vec*> m)[0]
        m = m + step
    even1 = (<const vec*> m)[0] + (<const vec*> (m + step))[0]
    odd1 = (<const vec*> m)[0] - (<const vec*> (m + step))[0]
    even2 = (<const vec*> (m + 2 * step))[0] + (<const vec*> (m + 3 * step))[0]
    odd2 = (<const vec*> (m + 2 * step))[0] - (<const vec*> (m + 3 * step))[0]
    if points == 6:
        y[0] = first + (even1 + even2)
        y[1] = HALF * odd1 + TWO * odd2
        y[2] = QUARTER * even1 + FOUR * even2
        y[3] = (EIGHTH * odd1 + EIGHT * odd2) + (<const vec*> (m + 4 * step))[0]
        return
    even3 = (<const vec*> (m + 4 * step))[0] + (<const vec*> (m + 5 * step))[0]
    odd3 = (<const vec*> (m + 4 * step))[0] - (<const vec*> (m + 5 * step))[0]
    y[0] = (even1 + even2) + even3
    if points == 8:
        y[0] = y[0] + first
    y[1] = (odd2 + HALF * odd1) + TWO * odd3
    y[2] = (even2 + QUARTER * even1) + FOUR * even3
    y[3] = ((odd2 + EIGHTH * odd1) + EIGHT * odd3) + (<const vec*> (m + 6 * step))[0]


cdef inline inlined line_inputs(
    const Py_ssize_t points, const real* x, Py_ssize_t plane, const Py_ssize_t* offset,
    Py_ssize_t quads, Py_ssize_t channels, real* v, Py_ssize_t v_plane, Py_ssize_t v_point,
) noexcept nogil:
    """v = B^T x for `quads` in whole vectors, and all channels."""
    cdef Py_ssize_t s, c
    for c in range(channels):
        s = 0
        while s < quads:
            line_input(points, x + c * plane + s, offset, v + c * v_plane + s, v_point)
            s += VL


cdef void line_inputs_of(
    Py_ssize_t points, const LineTable* table, const real* x, Py_ssize_t plane,
    const Py_ssize_t* offset, Py_ssize_t quads, Py_ssize_t channels, real* v, Py_ssize_t v_plane,
    Py_ssize_t v_point,
) noexcept nogil:
    """`line_inputs` of 6 to 8 points; of 5, 9 or 10 by the transforms of line_tile.pxi."""
    cdef Py_ssize_t c
    if points == 6:
        line_inputs(6, x, plane, offset, quads, channels, v, v_plane, v_point)
    elif points == 7:
        line_inputs(7, x, plane, offset, quads, channels, v, v_plane, v_point)
    elif points == 8:
        line_inputs(8, x, plane, offset, quads, channels, v, v_plane, v_point)
    else:
        for c in range(channels):
            line_in_of((points - 1) // 2, 2 - points % 2, table, x + c * plane, offset, quads,
                       v + c * v_plane, v_point)


cdef inline inlined line_wide_tile(
    const Py_ssize_t K, const Py_ssize_t nv, Py_ssize_t points, const real* v, Py_ssize_t v_point,
    const Py_ssize_t* offset, Py_ssize_t count, const real* w, Py_ssize_t w_step, Py_ssize_t w_point,
    bint fresh, real* m, Py_ssize_t m_plane,
) noexcept nogil:
    """m[point, k] = or += sum over i < count of v[point, offset[i]] * w[point, i, k], nv vectors.

    Of K channels, out of the `w_step` that lie side by side.
    """
    cdef vec[24] acc
    cdef vec[8] xv
    cdef vec a
    cdef Py_ssize_t e, k, i, j
    cdef const real* from_w
    if K * nv > SUMS:
        return
    for e in range(points):
        for k in range(K):
            for j in range(nv):
                acc[k * nv + j] = vec_set(0)
                if not fresh:
                    acc[k * nv + j] = (<const vec*> (m + k * m_plane + j * VL))[0]
        from_w = w + e * w_point
        for i in range(count):
            for j in range(nv):
                xv[j] = (<const vec*> (v + offset[i] + j * VL))[0]
            for k in range(K):
                a = vec_set(from_w[k])
                for j in range(nv):
                    acc[k * nv + j] = acc[k * nv + j] + xv[j] * a
            from_w = from_w + w_step
        for k in range(K):
            for j in range(nv):
                (<vec*> (m + k * m_plane + j * VL))[0] = acc[k * nv + j]
        v = v + v_point
        m = m + w_step * m_plane


cdef void line_wide_tile_of(
    Py_ssize_t K, Py_ssize_t nv, Py_ssize_t points, const real* v, Py_ssize_t v_point,
    const Py_ssize_t* offset, Py_ssize_t count, const real* w, Py_ssize_t w_step, Py_ssize_t w_point,
    bint fresh, real* m, Py_ssize_t m_plane,
) noexcept nogil:
    """`line_wide_tile` of 1 to 8 channels and 1, 2, 3, 4 or 8 vectors."""
    if nv == 8:
        if K == 2:
            line_wide_tile(2, 8, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        else:
            line_wide_tile(1, 8, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
    elif nv == 4:
        if K == 6:
            line_wide_tile(6, 4, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 5:
            line_wide_tile(5, 4, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 4:
            line_wide_tile(4, 4, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 3:
            line_wide_tile(3, 4, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 2:
            line_wide_tile(2, 4, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        else:
            line_wide_tile(1, 4, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
    elif nv == 3:
        if K == 8:
            line_wide_tile(8, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 7:
            line_wide_tile(7, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 6:
            line_wide_tile(6, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 5:
            line_wide_tile(5, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 4:
            line_wide_tile(4, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 3:
            line_wide_tile(3, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 2:
            line_wide_tile(2, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        else:
            line_wide_tile(1, 3, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
    elif nv == 2:
        if K == 8:
            line_wide_tile(8, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 7:
            line_wide_tile(7, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 6:
            line_wide_tile(6, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 5:
            line_wide_tile(5, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 4:
            line_wide_tile(4, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 3:
            line_wide_tile(3, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 2:
            line_wide_tile(2, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        else:
            line_wide_tile(1, 2, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
    else:
        if K == 8:
            line_wide_tile(8, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 7:
            line_wide_tile(7, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 6:
            line_wide_tile(6, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 5:
            line_wide_tile(5, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 4:
            line_wide_tile(4, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 3:
            line_wide_tile(3, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        elif K == 2:
            line_wide_tile(2, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)
        else:
            line_wide_tile(1, 1, points, v, v_point, offset, count, w, w_step, w_point, fresh, m,
                           m_plane)


cdef inline Py_ssize_t line_vectors(Py_ssize_t K, Py_ssize_t left) noexcept nogil:
    """Vectors of the next tile. With their sums they fill the registers: 30 of 32, or 15 of 16."""
    cdef Py_ssize_t most = 5 * TILE_2 // 2 // (K + 1)
    if most >= 8 and left >= 8:
        return 8
    return even_part(left, min(most, 4))


cdef inline inlined pair_output(
    const Py_ssize_t pairs, const Py_ssize_t kind, const LineTable* table, const real* m,
    Py_ssize_t step, vec* y,
) noexcept nogil:
    """A^T m by the points of line_tile.pxi."""
    cdef vec even, odd
    cdef Py_ssize_t k
    y[0] = (<const vec*> (m + 2 * pairs * step))[0]
    y[1] = y[2] = y[3] = vec_set(0)
    if kind == 2:
        y[3] = (<const vec*> (m + (2 * pairs + 1) * step))[0]
    for k in range(pairs):
        even = (<const vec*> (m + 2 * k * step))[0] + (<const vec*> (m + (2 * k + 1) * step))[0]
        odd = (<const vec*> (m + 2 * k * step))[0] - (<const vec*> (m + (2 * k + 1) * step))[0]
        y[0] = y[0] + even
        y[1] = y[1] + table.power[k][0] * odd
        y[2] = y[2] + table.power[k][1] * even
        y[3] = y[3] + table.power[k][2] * odd


cdef inline inlined line_outputs(
    const Py_ssize_t points, const LineTable* table, const real* m, Py_ssize_t m_plane, Py_ssize_t K,
    Py_ssize_t lanes, const real* b, bint relu, real* z, Py_ssize_t z_plane, Py_ssize_t z_pixel,
    vec* check,
) noexcept nogil:
    """z = A^T m + b of K channels and a strip; check becomes NaN where one is not finite."""
    cdef vec[4] y
    cdef vec a, bias, bad = check[0]
    cdef Py_ssize_t k, s, j
    for k in range(K):
        bias = vec_set(b[k])
        s = 0
        while s < lanes:
            if 6 <= points <= 8:
                line_output(points, m + k * m_plane + s, K * m_plane, y)
            else:
                pair_output((points - 1) // 2, 2 - points % 2, table, m + k * m_plane + s, K * m_plane,
                            y)
            bad = bad + 0 * ((y[0] + y[1]) + (y[2] + y[3]))
            for j in range(TILE):
                a = y[j] + bias
                if relu:
                    a = vec_relu(a)
                (<vec*> (z + j * z_pixel + k * z_plane + s))[0] = a
            s += VL
    check[0] = bad


cdef void line_outputs_of(
    Py_ssize_t points, const LineTable* table, const real* m, Py_ssize_t m_plane, Py_ssize_t K,
    Py_ssize_t lanes, const real* b, bint relu, real* z, Py_ssize_t z_plane, Py_ssize_t z_pixel,
    vec* check,
) noexcept nogil:
    """`line_outputs` of 5 to 10 points."""
    if points == 5:
        line_outputs(5, table, m, m_plane, K, lanes, b, relu, z, z_plane, z_pixel, check)
    elif points == 6:
        line_outputs(6, table, m, m_plane, K, lanes, b, relu, z, z_plane, z_pixel, check)
    elif points == 7:
        line_outputs(7, table, m, m_plane, K, lanes, b, relu, z, z_plane, z_pixel, check)
    elif points == 8:
        line_outputs(8, table, m, m_plane, K, lanes, b, relu, z, z_plane, z_pixel, check)
    elif points == 9:
        line_outputs(9, table, m, m_plane, K, lanes, b, relu, z, z_plane, z_pixel, check)
    else:
        line_outputs(10, table, m, m_plane, K, lanes, b, relu, z, z_plane, z_pixel, check)
