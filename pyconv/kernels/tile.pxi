# Register tiles of the convolution: one block of outputs, summed in registers.
#
# `rows` x `nv` vectors of sums: rows are output pixels (y, dx) or filter rows (dw), vectors lie along
# the output channels. Each product adds into its own sum in the order of the loops, whatever the
# block's shape, so every instruction set and every way of cutting into tiles gives the same bits.
# TILE_2 x 2 (or TILE_1 x 1) sums hide the latency of the multiply-add (4 cycles, 2 a cycle: 8 sums)
# and load 2 vectors and TILE_2 scalars for 2 * TILE_2 multiply-adds; of pixels PIXELS_2 x 2.

from libc.string cimport memcpy

cdef enum:
    TILE_1 = 12         # rows of a tile of one vector: 12 sums, 1 of weights, in 16 registers
    FEW_BYTES = 32_768  # of weights; with x and y they stay in an L1 of 48 KB
    FEW_TIMES = 4       # tiles that take them


cdef struct Run:
    Py_ssize_t x, w    # where neighbouring inputs start; where their weights do, in steps of one input


cdef struct Block:
    # y[line, pixel] = b + sum over runs r, c < length of
    # x[line * x_line + pixel * x_step + r.x + c * c_step] * w[(r.w + c) * w_step], then ReLU if `relu`;
    # b NULL: added to what y holds. Weights are nv vectors.
    # Fast where w_step is nv vectors and one of c_step and x_step is 1.
    Py_ssize_t lines, tiles
    Py_ssize_t x_line, x_step, y_line, y_step
    const Run* run
    Py_ssize_t runs, length, c_step, w_step
    const real* b
    bint relu
    bint once    # x is read but here, by one tap, from memory


cdef struct Pixels:
    # Those of dy, packed, which a tile of a filter sums over, and where in x one tap meets them: in
    # `rows` that lie x_row apart, and behind each `image` of them x_image more; pixels x_step apart.
    Py_ssize_t rows, columns, x_row, x_step, image, x_image


cdef inline void copy_short(real* to, const real* p, Py_ssize_t count) noexcept nogil:
    """Copy fewer than 2 * VL numbers, or 16: memcpy with a size that is not known is slow."""
    cdef Py_ssize_t size = max(8, VL)
    while size > 0:
        if count & size:
            if size == 16:
                memcpy(to, p, 16 * sizeof(real))
            elif size == 8:
                memcpy(to, p, 8 * sizeof(real))
            elif size == 4:
                memcpy(to, p, 4 * sizeof(real))
            elif size == 2:
                memcpy(to, p, 2 * sizeof(real))
            else:
                to[0] = p[0]
            to += size
            p += size
        size //= 2


cdef inline inlined sum_tiles(
    const Py_ssize_t rows, const Py_ssize_t nv, const bint many, const Block* block,
    Py_ssize_t x_step, Py_ssize_t c_step, Py_ssize_t w_step, const real* x, const real* w, real* y,
) noexcept nogil:
    """Sums of `block.lines` x `block.tiles` tiles of `rows` pixels by `nv` vectors; see `Block`.

    What comes next is fetched: the weights, if they are so `many` that they do not stay in L1, else x
    (which 1x1 filters read but once, from memory).

    The loops over tiles are here, not around a call: only inside of them does GCC unroll the loops
    over `rows` and `nv` so early that the sums never leave their registers.
    """
    cdef Py_ssize_t y_step = block.y_step
    cdef vec[28] acc
    cdef vec[2] wv
    cdef vec a
    cdef Py_ssize_t i, v, r, c, t, line
    cdef const real* from_x
    cdef const real* from_w
    cdef const real* p[5]  # of every third row: the two behind it are one register away, and two
    cdef const real* next_x
    cdef real* to
    cdef real* to_y
    for line in range(block.lines):
        from_x = x + line * block.x_line
        to_y = y + line * block.y_line
        for t in range(block.tiles):
            if block.b == NULL:
                for i in range(rows):
                    for v in range(nv):
                        acc[i * nv + v] = (<vec*> (to_y + i * y_step + v * VL))[0]
            else:
                for i in range(rows):
                    for v in range(nv):
                        acc[i * nv + v] = (<const vec*> (block.b + v * VL))[0]
            for i in range(rows):
                for v in range(nv):
                    prefetch_to_write(to_y + (rows + i) * y_step + v * VL)
            for r in range(block.runs):
                for i in range((rows + 2) // 3):
                    p[i] = opaque(from_x + block.run[r].x + 3 * i * x_step)
                from_w = w + block.run[r].w * w_step
                next_x = p[0] + rows * x_step
                for c in range(block.length):
                    for v in range(nv):
                        wv[v] = (<const vec*> (from_w + v * VL))[0]
                        if many and v % HALVES == 0:
                            prefetch(from_w + WEIGHTS_AHEAD * w_step + v * VL)
                    from_w = from_w + w_step
                    for i in range(rows):
                        a = vec_set(p[i // 3][i % 3 * x_step])
                        for v in range(nv):
                            acc[i * nv + v] = add_product(nv, acc[i * nv + v], wv[v], a)
                    for i in range((rows + 2) // 3):
                        p[i] = opaque(p[i] + c_step)
                    if not many:
                        prefetch(next_x)
                        next_x = next_x + rows
            if block.relu:
                for i in range(rows):
                    for v in range(nv):
                        acc[i * nv + v] = vec_relu(acc[i * nv + v])
            to = to_y
            for i in range(rows):
                for v in range(nv):
                    (<vec*> (to + v * VL))[0] = acc[i * nv + v]
                to = to + y_step
            from_x = from_x + rows * x_step
            to_y = to_y + rows * y_step


cdef inline inlined pixel_tiles(
    const Py_ssize_t rows, const Py_ssize_t nv, const Block* block,
    const real* x, const real* w, real* y,
) noexcept nogil:
    """`sum_tiles` with steps that are constants: all together do not find enough registers."""
    if rows * nv > 2 * PIXELS_2:
        return
    if block.w_step != nv * VL:
        sum_tiles(rows, nv, True, block, block.x_step, block.c_step, block.w_step, x, w, y)
    elif block.c_step != 1:
        sum_tiles(rows, nv, False, block, 1, block.c_step, nv * VL, x, w, y)
    elif (not block.once and block.runs * block.length * nv * VL * <Py_ssize_t> sizeof(real) > FEW_BYTES
          or block.lines * block.tiles <= FEW_TIMES):
        sum_tiles(rows, nv, True, block, block.x_step, 1, nv * VL, x, w, y)
    else:
        sum_tiles(rows, nv, False, block, block.x_step, 1, nv * VL, x, w, y)


cdef inline inlined filter_tile(
    const Py_ssize_t rows, const Py_ssize_t nv, const Pixels* pixels, const real* x, const real* dy,
    real* dw, Py_ssize_t dw_step, const real* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """dw[i] += sum over pixels of x[pixel + i] * dy[pixel].

    A line of what comes later is fetched at each pixel, at `ahead`.
    """
    cdef vec[24] acc
    cdef vec[2] dv
    cdef vec a
    cdef Py_ssize_t i, v, h, w, left = pixels.image, columns = pixels.columns, step = pixels.x_step
    cdef const real* p
    if rows * nv > SUMS:
        return
    for i in range(rows):
        for v in range(nv):
            acc[i * nv + v] = (<const vec*> (dw + i * dw_step + v * VL))[0]
    for h in range(pixels.rows):
        p = x
        for w in range(columns):
            for v in range(nv):
                dv[v] = (<const vec*> (dy + v * VL))[0]
            dy = dy + nv * VL
            for i in range(rows):
                a = vec_set(p[i])
                for v in range(nv):
                    acc[i * nv + v] = add_product(nv, acc[i * nv + v], dv[v], a)
            prefetch_later(ahead)
            ahead = ahead + ahead_step
            p = p + step
        x = next_row(x, pixels, &left)
    for i in range(rows):
        for v in range(nv):
            (<vec*> (dw + i * dw_step + v * VL))[0] = acc[i * nv + v]


cdef inline const real* next_row(const real* x, const Pixels* pixels, Py_ssize_t* left) noexcept nogil:
    """The next row of x, of which `left` are left in this image."""
    left[0] -= 1
    if left[0]:
        return x + pixels.x_row
    left[0] = pixels.image
    return x + pixels.x_row + pixels.x_image


cdef inline Py_ssize_t band_rows(Py_ssize_t row, Py_ssize_t end, Py_ssize_t OH, Py_ssize_t band,
                                 Py_ssize_t images) noexcept nogil:
    """Rows of dy's next band, from `row` of the batch on: of one image, or all of some images."""
    cdef Py_ssize_t rows = min(band, OH - row % OH, end - row)
    return min(images, (end - row) // OH) * OH if rows == OH else rows


# A tile's shape must be a constant where it is inlined, hence one line a shape.

cdef void pixel_tiles_of(
    Py_ssize_t rows, Py_ssize_t nv, const Block* block, const real* x, const real* w, real* y,
) noexcept nogil:
    """`pixel_tiles` of 1 to 14 rows and 1 or 2 vectors."""
    if nv == 2:
        if rows == 14:
            pixel_tiles(14, 2, block, x, w, y)
        elif rows == 13:
            pixel_tiles(13, 2, block, x, w, y)
        elif rows == 12:
            pixel_tiles(12, 2, block, x, w, y)
        elif rows == 11:
            pixel_tiles(11, 2, block, x, w, y)
        elif rows == 10:
            pixel_tiles(10, 2, block, x, w, y)
        elif rows == 9:
            pixel_tiles(9, 2, block, x, w, y)
        elif rows == 8:
            pixel_tiles(8, 2, block, x, w, y)
        elif rows == 7:
            pixel_tiles(7, 2, block, x, w, y)
        elif rows == 6:
            pixel_tiles(6, 2, block, x, w, y)
        elif rows == 5:
            pixel_tiles(5, 2, block, x, w, y)
        elif rows == 4:
            pixel_tiles(4, 2, block, x, w, y)
        elif rows == 3:
            pixel_tiles(3, 2, block, x, w, y)
        elif rows == 2:
            pixel_tiles(2, 2, block, x, w, y)
        else:
            pixel_tiles(1, 2, block, x, w, y)
    else:
        if rows == 12:
            pixel_tiles(12, 1, block, x, w, y)
        elif rows == 11:
            pixel_tiles(11, 1, block, x, w, y)
        elif rows == 10:
            pixel_tiles(10, 1, block, x, w, y)
        elif rows == 9:
            pixel_tiles(9, 1, block, x, w, y)
        elif rows == 8:
            pixel_tiles(8, 1, block, x, w, y)
        elif rows == 7:
            pixel_tiles(7, 1, block, x, w, y)
        elif rows == 6:
            pixel_tiles(6, 1, block, x, w, y)
        elif rows == 5:
            pixel_tiles(5, 1, block, x, w, y)
        elif rows == 4:
            pixel_tiles(4, 1, block, x, w, y)
        elif rows == 3:
            pixel_tiles(3, 1, block, x, w, y)
        elif rows == 2:
            pixel_tiles(2, 1, block, x, w, y)
        else:
            pixel_tiles(1, 1, block, x, w, y)


cdef void pixel_lines(
    Py_ssize_t pixels, Py_ssize_t nv, Py_ssize_t lanes, const Block* block,
    const real* x, const real* w, real* y,
) noexcept nogil:
    """`block.lines` lines of `pixels` pixels: as few tiles as it takes, the last in a line smaller."""
    cdef Block part = block[0]
    cdef Py_ssize_t rows = even_part(pixels, pixel_rows(nv)) if pixels > 0 else 1
    part.tiles = pixels // rows
    if lanes < nv * VL:
        clipped_lines(pixels, rows, nv, lanes, block, x, w, y)
        return
    if part.tiles:
        pixel_tiles_of(rows, nv, &part, x, w, y)
    pixels -= part.tiles * rows
    if pixels:
        rows *= part.tiles
        part.tiles = 1
        pixel_tiles_of(pixels, nv, &part, x + rows * part.x_step, w, y + rows * part.y_step)


cdef void clipped_lines(
    Py_ssize_t pixels, Py_ssize_t rows, Py_ssize_t nv, Py_ssize_t lanes, const Block* block,
    const real* x, const real* w, real* y,
) noexcept nogil:
    """`pixel_lines` of fewer channels than their vectors hold: by way of a tile that has room.

    (Tiles that store parts themselves take a fifth more time: GCC then moves the sums about.)
    """
    cdef vec[28] tile
    cdef Block part = block[0]
    cdef Py_ssize_t line, pixel, i, count, last = (nv - 1) * VL
    cdef real* to
    part.lines = part.tiles = 1
    part.y_step = nv * VL
    for line in range(block.lines):
        pixel = 0
        while pixel < pixels:
            to = y + line * block.y_line + pixel * block.y_step
            count = min(rows, pixels - pixel)
            pixel_tiles_of(count, nv, &part, x + line * block.x_line + pixel * block.x_step, w,
                           <real*> tile)
            for i in range(count):
                if last:
                    (<vec*> to)[0] = tile[2 * i]
                store_part(to + last, tile[nv * i + nv - 1], lanes - last)
                to += block.y_step
            pixel += count


cdef void filter_tile_of(
    Py_ssize_t rows, Py_ssize_t nv, const Pixels* pixels, const real* x, const real* dy, real* dw,
    Py_ssize_t dw_step, const real* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """`filter_tile` of 1 to 12 rows and 1 or 2 vectors."""
    if nv == 2:
        if rows == 12:
            filter_tile(12, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 11:
            filter_tile(11, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 10:
            filter_tile(10, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 9:
            filter_tile(9, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 8:
            filter_tile(8, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 7:
            filter_tile(7, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 6:
            filter_tile(6, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 5:
            filter_tile(5, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 4:
            filter_tile(4, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 3:
            filter_tile(3, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 2:
            filter_tile(2, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        else:
            filter_tile(1, 2, pixels, x, dy, dw, dw_step, ahead, ahead_step)
    else:
        if rows == 12:
            filter_tile(12, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 11:
            filter_tile(11, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 10:
            filter_tile(10, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 9:
            filter_tile(9, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 8:
            filter_tile(8, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 7:
            filter_tile(7, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 6:
            filter_tile(6, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 5:
            filter_tile(5, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 4:
            filter_tile(4, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 3:
            filter_tile(3, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        elif rows == 2:
            filter_tile(2, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)
        else:
            filter_tile(1, 1, pixels, x, dy, dw, dw_step, ahead, ahead_step)


cdef inline Py_ssize_t tile_rows(Py_ssize_t nv) noexcept nogil:
    """The most rows that a tile of `nv` vectors keeps in registers."""
    return TILE_2 if nv == 2 else TILE_1


cdef inline Py_ssize_t pixel_rows(Py_ssize_t nv) noexcept nogil:
    """The same of pixels, whose rows are often 14 or a multiple of it: of 12, two tiles of 7 each."""
    return PIXELS_2 if nv == 2 else TILE_1


cdef inline Py_ssize_t even_part(Py_ssize_t total, Py_ssize_t most) noexcept nogil:
    """The first part of `total` cut into as few parts of at most `most` as it takes, evenly."""
    cdef Py_ssize_t parts = (total + most - 1) // most
    return (total + parts - 1) // parts
