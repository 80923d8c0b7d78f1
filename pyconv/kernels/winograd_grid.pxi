# Where Winograd's tiles are in an image, and the transform of what one reads.
#
# At a dilation d along an axis, outputs d apart share inputs, and inputs are d apart: a tile has such
# outputs. So d x d images, of every d-th row and column each, are computed where they lie.

cdef struct Axis:
    # Tiles along one: those of the first remainder by `step` are first. As many remainders as the size
    # has itself have an output more.
    Py_ssize_t step             # between a tile's outputs, and its inputs: the dilation
    Py_ssize_t more, tiles_more  # such remainders, and the tiles of each
    Py_ssize_t tiles            # of each other
    Py_ssize_t count            # of all


cdef struct Grid:
    # The tiles of N x H x W outputs, row by row.
    Py_ssize_t side             # outputs of a tile, h and w
    Axis down, across
    Py_ssize_t image, tiles     # in an image, and in all


cdef struct Place:              # of a tile's first output
    Py_ssize_t n, row, column


cdef Axis axis_of(Py_ssize_t size, Py_ssize_t step, Py_ssize_t side) noexcept nogil:
    cdef Axis a
    a.step, a.more, a.tiles_more = step, size % step, size // step // side + 1
    a.tiles = (size // step + side - 1) // side
    a.count = a.more * a.tiles_more + (step - a.more) * a.tiles
    return a


cdef Grid grid_of(Py_ssize_t side, Py_ssize_t N, Py_ssize_t H, Py_ssize_t W, Py_ssize_t step_h,
                  Py_ssize_t step_w) noexcept nogil:
    cdef Grid g
    g.side = side
    g.down, g.across = axis_of(H, step_h, side), axis_of(W, step_w, side)
    g.image = g.down.count * g.across.count
    g.tiles = N * g.image
    return g


cdef inline Py_ssize_t first_output(const Axis* a, Py_ssize_t side, Py_ssize_t tile) noexcept nogil:
    cdef Py_ssize_t remainder = 0, tiles = a.tiles_more
    if a.step == 1:  # divisions take a thirtieth of the time of tiles of 16 channels
        return tile * side
    if tile >= a.more * tiles:
        tile -= a.more * tiles
        remainder, tiles = a.more, a.tiles
    return remainder + tile // tiles + tile % tiles * side * a.step


cdef inline Place place_of(const Grid* g, Py_ssize_t tile) noexcept nogil:
    cdef Place place
    place.n = tile // g.image
    place.row = first_output(&g.down, g.side, tile % g.image // g.across.count)
    place.column = first_output(&g.across, g.side, tile % g.across.count)
    return place


cdef Ahead pixels_under(const Grid* g, const real* x, Py_ssize_t H, Py_ssize_t W, Py_ssize_t pixel,
                        Py_ssize_t width, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """The pixels that the tiles from `first` to `end` - 1 add, in whole rows.

    None at a dilation: they are neighbours of those that were read already.
    """
    cdef Ahead ahead
    cdef Py_ssize_t row = rows_before(g, first, H)
    ahead.place = x + row * W * pixel
    ahead.count = (rows_before(g, end, H) - row) * W if g.down.step == g.across.step == 1 else 0
    ahead.step, ahead.width = pixel, width
    ahead.planes, ahead.plane = 1, 0
    return ahead


cdef inline Py_ssize_t rows_before(const Grid* g, Py_ssize_t tile, Py_ssize_t H) noexcept nogil:
    """Rows of all images above the first row of tiles that does not begin before `tile`."""
    return (tile // g.image * H
            + min((tile % g.image + g.across.count - 1) // g.across.count * g.side, H))


cdef inline Py_ssize_t steps_to(Py_ssize_t distance, Py_ssize_t step, Py_ssize_t most) noexcept nogil:
    """Steps until so far, or beyond; 0 to `most`."""
    return max(0, min((distance + step - 1) // step, most)) if distance > 0 else 0


cdef void input_tiles_at(
    const Grid* g, const real* x, Py_ssize_t H, Py_ssize_t W, Py_ssize_t C, Py_ssize_t channels,
    Py_ssize_t row, Py_ssize_t column, real* patch, real* to, Py_ssize_t run_step, Py_ssize_t step,
) noexcept nogil:
    """The transform of the patch at a pixel, zeros outside the image, of all of some channels.

    RUN channels side by side, then `run_step` numbers on. Channels that end within a vector are copied
    to `patch` first, [P, P, whole vectors].
    """
    cdef Py_ssize_t P = g.side + 2, line = g.down.step * W * C, pixel = g.across.step * C, c = 0
    cdef Py_ssize_t first_row = steps_to(-row, g.down.step, P)
    cdef Py_ssize_t last_row = steps_to(H - row, g.down.step, P)
    cdef Py_ssize_t first_column = steps_to(-column, g.across.step, P)
    cdef Py_ssize_t last_column = steps_to(W - column, g.across.step, P)
    if channels % VL == 0:
        x += (row * W + column) * C
    else:
        pixel = (channels + VL - 1) // VL * VL
        pack_panels(x, H, W, C, patch, pixel, 0, row, P, g.down.step, column, P, g.across.step, channels)
        x, line = patch, P * pixel
        first_row = first_column = 0
        last_row = last_column = P
    while c < channels:
        if (first_row == first_column == 0) and last_row == last_column == P:
            input_tile(P, x + c, line, pixel, to + c // RUN * run_step + c % RUN, step)
        else:
            input_tile_at_edge(P, x + c, line, pixel, first_row, last_row, first_column,
                               last_column, to + c // RUN * run_step + c % RUN, step)
        c += VL
