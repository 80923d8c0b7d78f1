# Wide tiles: vectors along the pixels of a row, for few output channels.
#
# With 8 output channels or fewer, vectors along the channels would be mostly empty. Here the input is
# turned into planes first (one row of numbers a channel), a vector holds neighbouring pixels, and the
# weights are the scalars. Each output is still the same sum in the same order, so the bits are those
# of the other tiles.

from libc.string cimport memset

cdef void planar_rows(
    const real* x, Py_ssize_t H, Py_ssize_t W, Py_ssize_t C,
    real* band, Py_ssize_t plane, Py_ssize_t step,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t channels,
) noexcept nogil:
    """Copy input rows from (row, column) on into planes, with zeros outside the image.

    Pixel column + i of channel c lands at band[row, c, i % step, i // step]; the last axis has
    `plane` numbers.
    """
    cdef Py_ssize_t h, c, w
    cdef Py_ssize_t line = channels * step * plane
    cdef Py_ssize_t first = max(0, column)
    cdef Py_ssize_t last = min(W, column + step * plane)
    for h in range(row, row + rows):
        if h < 0 or h >= H or first >= last:
            memset(band, 0, line * sizeof(real))
        else:
            for c in range(channels * step):
                # The image covers a middle piece of each plane; the rest is padding.
                w = max(0, (first - column - c % step + step - 1) // step)
                memset(band + c * plane, 0, w * sizeof(real))
                w = max(w, (last - column - c % step + step - 1) // step)
                memset(band + c * plane + w, 0, (plane - w) * sizeof(real))
            if step == 1:
                split_row(x + (h * W + first) * C, C, last - first, channels,
                          band + first - column, plane)
            else:
                for w in range(first, last):
                    for c in range(channels):
                        band[(c * step + (w - column) % step) * plane + (w - column) // step] = (
                            x[(h * W + w) * C + c])
        band += line


cdef void split_row(const real* x, Py_ssize_t C, Py_ssize_t pixels, Py_ssize_t channels,
                    real* planes, Py_ssize_t plane) noexcept nogil:
    """planes[c, p] = x[p, c]: squares of VL x VL in registers, the rest one by one."""
    cdef vec[16] square
    cdef Py_ssize_t p = 0, c, i, count
    # A square reads whole vectors: behind the last pixels they would pass the end of the row.
    while p + VL + VL // C < pixels:
        c = 0
        while 2 * (channels - c) >= VL:
            count = min(VL, channels - c)
            for i in range(VL):
                square[i] = (<const vec*> (x + (p + i) * C + c))[0]
            transpose(square)
            for i in range(count):
                (<vec*> (planes + (c + i) * plane + p))[0] = square[i]
            c += count
        while c < channels:
            for i in range(VL):
                planes[c * plane + p + i] = x[(p + i) * C + c]
            c += 1
        p += VL
    while p < pixels:
        for c in range(channels):
            planes[c * plane + p] = x[p * C + c]
        p += 1


cdef void join_row(const real* planes, Py_ssize_t plane, Py_ssize_t pixels, Py_ssize_t channels,
                   real* x) noexcept nogil:
    """x[p, c] = planes[c, p]; VL numbers behind the last pixel are spoiled.

    Whole vectors are written. What hangs over a pixel's channels is overwritten by what comes after:
    so the last block of channels comes first, and pixels in their order.
    """
    cdef vec[16] square
    cdef Py_ssize_t p = 0, c, i, count
    while p < pixels:
        c = (channels - 1) // VL * VL
        while c >= 0:
            count = min(VL, channels - c)
            for i in range(VL):
                square[i] = vec_set(0)
                if i < count:
                    square[i] = (<const vec*> (planes + (c + i) * plane + p))[0]
            transpose(square)
            if pixels - p >= VL:
                for i in range(VL):
                    (<vec*> (x + (p + i) * channels + c))[0] = square[i]
            else:
                for i in range(pixels - p):
                    (<vec*> (x + (p + i) * channels + c))[0] = square[i]
            c -= VL
        p += VL


cdef inline inlined wide_tile(
    const Py_ssize_t K, const Py_ssize_t nv,
    const real* x, Py_ssize_t x_vector, Py_ssize_t plane, const Run* run, Py_ssize_t taps,
    Py_ssize_t C, const real* w, const real* b, bint relu, real* y, Py_ssize_t y_plane,
    Py_ssize_t y_vector, Py_ssize_t y_pixel, Py_ssize_t pixels, Py_ssize_t taken,
) noexcept nogil:
    """y[k, v, p] = b[k] + sum over t, c of x[t.x + c * plane + v * x_vector + p] * w[t.w + c, k].

    Runs t of one tap, channels c; v is one of `nv` vectors, p one of its pixels. y is in planes, where
    whole vectors are written, or with a `y_plane` of 0 in pixels, `pixels` of the first vector and
    `taken` fewer of each after it.
    """
    cdef vec[24] acc
    cdef vec[4] xv
    cdef vec a
    cdef Py_ssize_t k, v, t, c, p
    cdef const real* source
    cdef const real* from_w
    cdef real[384] sums  # 24 vectors, for reading single lanes
    if K * nv > SUMS:
        return
    for k in range(K):
        for v in range(nv):
            acc[k * nv + v] = vec_set(b[k])
    for t in range(taps):
        source, from_w = x + run[t].x, w + run[t].w * K
        for c in range(C):
            for v in range(nv):
                xv[v] = (<const vec*> (source + v * x_vector))[0]
            for k in range(K):
                a = vec_set(from_w[k])
                for v in range(nv):
                    acc[k * nv + v] = acc[k * nv + v] + xv[v] * a
            from_w = from_w + K
            source = source + plane
    for k in range(K):
        for v in range(nv):
            if relu:
                acc[k * nv + v] = vec_relu(acc[k * nv + v])
            if y_plane:
                (<vec*> (y + k * y_plane + v * y_vector))[0] = acc[k * nv + v]
            else:
                (<vec*> (sums + (k * nv + v) * VL))[0] = acc[k * nv + v]
    if y_plane == 0:
        for v in range(nv):
            for p in range(min(VL, pixels - v * taken)):
                for k in range(K):
                    y[v * y_vector + p * y_pixel + k] = sums[(k * nv + v) * VL + p]


cdef void wide_tile_of(
    Py_ssize_t K, Py_ssize_t nv,
    const real* x, Py_ssize_t x_vector, Py_ssize_t plane, const Run* run, Py_ssize_t taps,
    Py_ssize_t C, const real* w, const real* b, bint relu, real* y, Py_ssize_t y_plane,
    Py_ssize_t y_vector, Py_ssize_t y_pixel, Py_ssize_t pixels, Py_ssize_t taken,
) noexcept nogil:
    """`wide_tile` of 1 to 8 channels and 1, 2 or 4 vectors."""
    if nv == 4:
        if K == 6:
            wide_tile(6, 4, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 5:
            wide_tile(5, 4, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 4:
            wide_tile(4, 4, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 3:
            wide_tile(3, 4, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 2:
            wide_tile(2, 4, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        else:
            wide_tile(1, 4, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
    elif nv == 2:
        if K == 8:
            wide_tile(8, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 7:
            wide_tile(7, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 6:
            wide_tile(6, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 5:
            wide_tile(5, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 4:
            wide_tile(4, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 3:
            wide_tile(3, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 2:
            wide_tile(2, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        else:
            wide_tile(1, 2, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
    else:
        if K == 8:
            wide_tile(8, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 7:
            wide_tile(7, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 6:
            wide_tile(6, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 5:
            wide_tile(5, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 4:
            wide_tile(4, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 3:
            wide_tile(3, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        elif K == 2:
            wide_tile(2, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)
        else:
            wide_tile(1, 1, x, x_vector, plane, run, taps, C, w, b, relu, y, y_plane, y_vector,
                      y_pixel, pixels, taken)


cdef inline Py_ssize_t wide_vectors(Py_ssize_t K, Py_ssize_t left, bint rows) noexcept nogil:
    """Vectors of the next wide tile: their sums fill the registers.

    At the end of a row there is room for more than are left, but not where they are rows.
    """
    if left >= (4 if rows else 3) and 4 * K <= SUMS:
        return 4
    return 2 if left > 1 and 2 * K <= SUMS else 1
