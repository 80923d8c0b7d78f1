# Where Winograd's tiles are in an image, and the transform of what one reads.
#
# At a dilation d along an axis, outputs d apart share inputs, and inputs are d apart: a tile has such
# outputs. So d x d images, of every d-th row and column each, are computed where they lie.

from cython cimport final
from libc.stdlib cimport free, malloc


cdef struct Strip:
    # A row of tiles, or a column.
    Py_ssize_t output, outputs  # its first, and how many there are of a tile
    Py_ssize_t input            # the patch's first, which may lie in the padding
    Py_ssize_t first, last      # inputs of the patch inside the image: the last one excluded


cdef struct Frame:              # one image of a tensor
    Py_ssize_t H, W, C


cdef struct Place:              # of a tile
    Py_ssize_t n, row, column   # its image, and its strips


cdef Py_ssize_t tiles_along(Py_ssize_t size, Py_ssize_t step, Py_ssize_t side) noexcept nogil:
    """Tiles of `side` outputs along an axis: of each remainder by `step`, whole ones and a rest."""
    cdef Py_ssize_t longer = size % step  # so many remainders have an output more than the others
    return (longer * (size // step // side + 1)
            + (step - longer) * ((size // step + side - 1) // side))


cdef Py_ssize_t steps_to(Py_ssize_t distance, Py_ssize_t step, Py_ssize_t most) noexcept nogil:
    """Steps until so far, or beyond; 0 to `most`."""
    return max(0, min((distance + step - 1) // step, most)) if distance > 0 else 0


cdef void cut_strips(Strip* strips, Py_ssize_t side, Py_ssize_t outputs, Py_ssize_t inputs,
                     Py_ssize_t before, Py_ssize_t step) noexcept nogil:
    """Those of all remainders by `step`, one remainder after the other."""
    cdef Py_ssize_t remainder, output
    for remainder in range(min(step, outputs)):
        output = remainder
        while output < outputs:
            strips.output, strips.outputs = output, steps_to(outputs - output, step, side)
            strips.input = output - before
            strips.first = steps_to(-strips.input, step, side + 2)
            strips.last = steps_to(inputs - strips.input, step, side + 2)
            strips += 1
            output += side * step


@final
cdef class Grid:
    """The tiles of all images, row by row.

    Parameters
    ----------
    side : int
        Outputs of a tile, h and w.
    source, target : tuple
        (N, H, W, C) read and written.
    before, step : tuple
        (h, w) each: zeros above and to the left of the source; between outputs, and between inputs.
    """
    cdef Frame source, target
    cdef Py_ssize_t side, step_h, step_w
    cdef Py_ssize_t down, across, image, tiles  # in a column, a row, an image, and all
    cdef Strip* rows
    cdef Strip* columns

    def __cinit__(self, Py_ssize_t side, source, target, before, step):
        self.source = Frame(source[1], source[2], source[3])
        self.target = Frame(target[1], target[2], target[3])
        self.side = side
        self.step_h, self.step_w = step
        self.down = tiles_along(target[1], self.step_h, side)
        self.across = tiles_along(target[2], self.step_w, side)
        self.image = self.down * self.across
        self.tiles = target[0] * self.image
        self.rows = <Strip*> malloc((self.down + self.across) * sizeof(Strip))
        if self.rows == NULL:
            raise MemoryError()
        self.columns = self.rows + self.down
        cut_strips(self.rows, side, target[1], source[1], before[0], self.step_h)
        cut_strips(self.columns, side, target[2], source[2], before[1], self.step_w)

    def __dealloc__(self):
        free(self.rows)

    cdef Place place_of(self, Py_ssize_t tile) noexcept nogil:
        cdef Place place
        place.n, place.row = tile // self.image, tile % self.image // self.across
        place.column = tile % self.across
        return place

    cdef void move_on(self, Place* place) noexcept nogil:
        """To the next tile."""
        place.column += 1
        if place.column == self.across:
            place.row, place.column = place.row + 1, 0
        if place.row == self.down:
            place.n, place.row = place.n + 1, 0

    cdef Ahead pixels_under(self, const real* x, const Frame* of, Py_ssize_t channels,
                            Py_ssize_t first, Py_ssize_t end) noexcept nogil:
        """The pixels of x that the tiles from `first` to `end` - 1 add, in whole rows.

        None at a dilation: they are neighbours of those that were read already.
        """
        cdef Ahead ahead
        cdef Py_ssize_t row = self.rows_before(first, of.H)
        ahead.place = x + row * of.W * of.C
        ahead.count = (self.rows_before(end, of.H) - row) * of.W
        if self.step_h > 1 or self.step_w > 1:
            ahead.count = 0
        ahead.step, ahead.width = of.C, channels
        ahead.planes, ahead.plane, ahead.some = 1, 0, 0
        return ahead

    cdef Py_ssize_t rows_before(self, Py_ssize_t tile, Py_ssize_t H) noexcept nogil:
        """Rows of all images above the first row of tiles that does not begin before `tile`."""
        return (tile // self.image * H
                + min((tile % self.image + self.across - 1) // self.across * self.side, H))


cdef void input_tiles_at(
    Grid g, const Place* place, const real* x, Py_ssize_t channels, real* patch, real* to,
    Py_ssize_t run_step, Py_ssize_t step,
) noexcept nogil:
    """The transform of the patch of a tile, zeros outside the image, of all of some channels.

    RUN channels side by side, then `run_step` numbers on. Channels that end within a vector are copied
    to `patch` first, [P, P, whole vectors].
    """
    cdef Strip row = g.rows[place.row], column = g.columns[place.column]
    cdef Py_ssize_t H = g.source.H, W = g.source.W, C = g.source.C, P = g.side + 2
    cdef Py_ssize_t line = g.step_h * W * C, pixel = g.step_w * C, c = 0
    cdef bint whole
    x += place.n * H * W * C
    if channels % VL == 0:
        x += (row.input * W + column.input) * C
    else:
        pixel = (channels + VL - 1) // VL * VL
        pack_panels(x, H, W, C, patch, pixel, 0, row.input, P, g.step_h, column.input, P, g.step_w,
                    channels)
        x, line = patch, P * pixel
        row.first = column.first = 0
        row.last = column.last = P
    whole = row.first == column.first == 0 and row.last == column.last == P
    while c < channels:
        if whole:
            input_tile(P, x + c, line, pixel, to + c // RUN * run_step + c % RUN, step)
        else:
            input_tile_at_edge(P, x + c, line, pixel, row.first, row.last, column.first, column.last,
                               to + c // RUN * run_step + c % RUN, step)
        c += VL
