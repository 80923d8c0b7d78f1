# Register tiles of the convolution: one block of outputs, summed in registers.
#
# `rows` x `nv` vectors of sums: rows are output pixels (y, dx) or filter rows (dw), vectors lie along
# the output channels. Each product adds into its own sum in the order of the loops, whatever the
# block's shape, so every instruction set and every way of cutting into tiles gives the same bits.
# TILE_2 x 2 (or TILE_1 x 1) sums hide the latency of the multiply-add (4 cycles, 2 a cycle: 8 sums)
# and load 2 vectors and TILE_2 scalars for 2 * TILE_2 multiply-adds.

from libc.string cimport memcpy

cdef enum:
    TILE_1 = 12    # rows of a tile of one vector: 12 sums, 1 of weights, in 16 registers


cdef inline vec load_part(const real* p, Py_ssize_t count) noexcept nogil:
    """The next `count` numbers, at most VL; the lanes behind them are zero."""
    cdef vec a = vec_set(0)
    if count >= VL:
        return (<const vec*> p)[0]
    memcpy(&a, p, count * sizeof(real))
    return a


cdef inline inlined pixel_tile(
    const Py_ssize_t rows, const Py_ssize_t nv,
    const real* x, Py_ssize_t x_step, const Py_ssize_t* offset, Py_ssize_t runs, Py_ssize_t length,
    const real* w, const real* b, Py_ssize_t b_step, bint relu,
    real* y, Py_ssize_t y_step, Py_ssize_t lanes,
) noexcept nogil:
    """y[i, :lanes] = b[i] + sum over runs r, c < length of x[i * x_step + offset[r] + c] * w[r, c]."""
    cdef vec[24] acc
    cdef vec[2] wv
    cdef vec a
    cdef Py_ssize_t i, v, r, c
    cdef const real* p
    for i in range(rows):
        for v in range(nv):
            acc[i * nv + v] = (<const vec*> (b + i * b_step + v * VL))[0]
    for r in range(runs):
        p = x + offset[r]
        for c in range(length):
            for v in range(nv):
                wv[v] = (<const vec*> (w + v * VL))[0]
            w = w + nv * VL
            for i in range(rows):
                a = vec_set(p[i * x_step + c])
                for v in range(nv):
                    acc[i * nv + v] = acc[i * nv + v] + wv[v] * a
    if relu:
        for i in range(rows):
            for v in range(nv):
                acc[i * nv + v] = vec_relu(acc[i * nv + v])
    if lanes == nv * VL:
        for i in range(rows):
            for v in range(nv):
                (<vec*> (y + i * y_step + v * VL))[0] = acc[i * nv + v]
    else:
        for i in range(rows):
            for v in range(nv):
                wv[v] = acc[i * nv + v]
            memcpy(y + i * y_step, &wv[0], lanes * sizeof(real))


cdef inline inlined filter_tile(
    const Py_ssize_t rows, const Py_ssize_t nv,
    const real* x, Py_ssize_t x_row, Py_ssize_t x_step,
    const real* dy, Py_ssize_t OH, Py_ssize_t OW, real* dw, Py_ssize_t dw_step,
    Py_ssize_t x_ahead, const real* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """dw[i] += sum over pixels (h, w) of x[h * x_row + w * x_step + i] * dy[h, w], dy packed.

    A line of what comes later is fetched at each pixel: x_ahead behind x, and at `ahead`.
    """
    cdef vec[24] acc
    cdef vec[2] dv
    cdef vec a
    cdef Py_ssize_t i, v, h, w
    cdef const real* p
    for i in range(rows):
        for v in range(nv):
            acc[i * nv + v] = (<const vec*> (dw + i * dw_step + v * VL))[0]
    for h in range(OH):
        p = x + h * x_row
        for w in range(OW):
            for v in range(nv):
                dv[v] = (<const vec*> (dy + v * VL))[0]
            dy = dy + nv * VL
            for i in range(rows):
                a = vec_set(p[i])
                for v in range(nv):
                    acc[i * nv + v] = acc[i * nv + v] + dv[v] * a
            prefetch_later(p + x_ahead)
            prefetch_later(ahead)
            ahead = ahead + ahead_step
            p = p + x_step
    for i in range(rows):
        for v in range(nv):
            (<vec*> (dw + i * dw_step + v * VL))[0] = acc[i * nv + v]


# A tile's shape must be a constant where it is inlined, hence one line a shape.

cdef void pixel_tile_of(
    Py_ssize_t rows, Py_ssize_t nv,
    const real* x, Py_ssize_t x_step, const Py_ssize_t* offset, Py_ssize_t runs, Py_ssize_t length,
    const real* w, const real* b, Py_ssize_t b_step, bint relu,
    real* y, Py_ssize_t y_step, Py_ssize_t lanes,
) noexcept nogil:
    """`pixel_tile` of 1 to 12 rows and 1 or 2 vectors."""
    if nv == 2:
        if rows == 12:
            pixel_tile(12, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 11:
            pixel_tile(11, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 10:
            pixel_tile(10, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 9:
            pixel_tile(9, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 8:
            pixel_tile(8, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 7:
            pixel_tile(7, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 6:
            pixel_tile(6, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 5:
            pixel_tile(5, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 4:
            pixel_tile(4, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 3:
            pixel_tile(3, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 2:
            pixel_tile(2, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        else:
            pixel_tile(1, 2, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
    else:
        if rows == 12:
            pixel_tile(12, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 11:
            pixel_tile(11, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 10:
            pixel_tile(10, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 9:
            pixel_tile(9, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 8:
            pixel_tile(8, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 7:
            pixel_tile(7, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 6:
            pixel_tile(6, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 5:
            pixel_tile(5, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 4:
            pixel_tile(4, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 3:
            pixel_tile(3, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        elif rows == 2:
            pixel_tile(2, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)
        else:
            pixel_tile(1, 1, x, x_step, offset, runs, length, w, b, b_step, relu, y, y_step, lanes)


cdef void filter_tile_of(
    Py_ssize_t rows, Py_ssize_t nv,
    const real* x, Py_ssize_t x_row, Py_ssize_t x_step,
    const real* dy, Py_ssize_t OH, Py_ssize_t OW, real* dw, Py_ssize_t dw_step,
    Py_ssize_t x_ahead, const real* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """`filter_tile` of 1 to 12 rows and 1 or 2 vectors."""
    if nv == 2:
        if rows == 12:
            filter_tile(12, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 11:
            filter_tile(11, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 10:
            filter_tile(10, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 9:
            filter_tile(9, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 8:
            filter_tile(8, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 7:
            filter_tile(7, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 6:
            filter_tile(6, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 5:
            filter_tile(5, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 4:
            filter_tile(4, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 3:
            filter_tile(3, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 2:
            filter_tile(2, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        else:
            filter_tile(1, 2, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
    else:
        if rows == 12:
            filter_tile(12, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 11:
            filter_tile(11, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 10:
            filter_tile(10, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 9:
            filter_tile(9, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 8:
            filter_tile(8, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 7:
            filter_tile(7, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 6:
            filter_tile(6, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 5:
            filter_tile(5, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 4:
            filter_tile(4, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 3:
            filter_tile(3, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        elif rows == 2:
            filter_tile(2, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)
        else:
            filter_tile(1, 1, x, x_row, x_step, dy, OH, OW, dw, dw_step, x_ahead, ahead,
                        ahead_step)


cdef inline Py_ssize_t tile_rows(Py_ssize_t nv) noexcept nogil:
    """The most rows that a tile of `nv` vectors keeps in registers."""
    return TILE_2 if nv == 2 else TILE_1


cdef inline Py_ssize_t even_part(Py_ssize_t total, Py_ssize_t most) noexcept nogil:
    """The first part of `total` cut into as few parts of at most `most` as it takes, evenly."""
    cdef Py_ssize_t parts = (total + most - 1) // most
    return (total + parts - 1) // parts
