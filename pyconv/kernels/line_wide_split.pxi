# Rows of an image as planes of quads: [pixel of the quad, c][row, quad] (see line_wide.pxi).

cdef class Quads:
    """How the rows of images are cut into quads of `pixels` pixels, from column `left` on.

    `row` of them follow each other in a row, and rows without a gap; if step_h is more than 1, then
    those first that share their remainder by it, `slots` of each.
    """
    cdef Py_ssize_t H, W, C, pixels, left, row, step_h, slots
    cdef Py_ssize_t inside0, inside1    # quads of a row that pass no edge
    cdef Py_ssize_t plane               # numbers from plane to plane; a multiple of VL
    cdef Py_ssize_t behind              # zeros behind the last row that there is room for
    cdef Py_ssize_t slot                # of the patches, VL + 1 of them: the first is zeros

    def __cinit__(self, Py_ssize_t H, Py_ssize_t W, Py_ssize_t C, Py_ssize_t pixels, Py_ssize_t left,
                  Py_ssize_t row, Py_ssize_t step_h, Py_ssize_t slots, Py_ssize_t plane):
        self.H, self.W, self.C, self.pixels, self.left = H, W, C, pixels, left
        self.row, self.step_h, self.slots, self.plane = row, step_h, slots, plane
        self.inside0 = (max(0, -left) + pixels - 1) // pixels
        self.inside1 = max(self.inside0, (W - left) // pixels)
        self.behind = plane - slots * step_h * row
        self.slot = pixels * C + 2 * VL

    cdef void split(self, const real* x, const real* end, real* planes, real* patch, Py_ssize_t row,
                    Py_ssize_t rows, Py_ssize_t c0, Py_ssize_t channels) noexcept nogil:
        """Input rows of one image into planes: [pixel of the quad, c][row, quad].

        VL quads at a time become squares of registers, turned over, or what is left of one.
        """
        cdef const real* from_quad[16]
        cdef vec[16] square
        cdef real* to
        cdef Py_ssize_t lanes = self.lines(rows) * self.row, s = 0, i, j, r
        # A quad of few channels is one piece; of some of many channels, a piece a pixel.
        cdef Py_ssize_t pieces = 1 if channels == self.C else self.pixels
        cdef Py_ssize_t length = self.pixels * channels if channels == self.C else channels
        cdef Py_ssize_t line = max(1, UNIT // (self.pixels * self.C))  # quads in a line of the cache
        while s < lanes:
            self.find_quads(from_quad, x, end, patch, row, rows, s)
            for j in range(pieces):
                r = 0
                while r < length:
                    to = planes + (j * channels + r) * self.plane + s
                    if r % UNIT == 0:
                        i = 0
                        while i < VL:
                            prefetch(from_quad[i] + (VL * self.pixels + j) * self.C + c0 + r)
                            i += line
                    if length - r > VL - BLOCK:
                        for i in range(VL):
                            square[i] = (<const vec*> (from_quad[i] + j * self.C + c0 + r))[0]
                        transpose(square)
                        for i in range(VL):
                            (<vec*> to)[0] = square[i]
                            to += self.plane
                        r += VL
                    else:
                        transpose_block(from_quad, j * self.C + c0 + r, to, self.plane)
                        r += BLOCK
            s += VL
        for r in range(self.pixels * channels):
            memset(planes + r * self.plane + s, 0,
                   max(0, min(self.plane, lanes + self.behind) - s) * sizeof(real))
        self.clear_edges(planes, self.lines(rows), channels)

    cdef inline Py_ssize_t lines(self, Py_ssize_t rows) noexcept nogil:
        """Rows of the planes and of v, for so many input rows."""
        return rows if self.step_h == 1 else self.step_h * self.slots

    cdef void find_quads(self, const real** from_quad, const real* x, const real* end, real* patch,
                         Py_ssize_t row, Py_ssize_t rows, Py_ssize_t s) noexcept nogil:
        """Where VL quads of the line start.

        One that passes an edge of the image reads its neighbours in memory, for `clear_edges` to clear;
        if they are not there, it is copied, padded.
        """
        cdef Py_ssize_t size = self.pixels * self.C, i = 0, n, t, line, h, j, inside0, inside1
        cdef const real* first
        t, line = s % self.row, s // self.row
        while i < VL:
            n = min(VL - i, self.row - t)
            h = line
            if self.step_h > 1:
                h = line % self.slots * self.step_h + line // self.slots
            h = row + h if h < rows else -1
            if h < 0 or h >= self.H:
                for j in range(n):
                    from_quad[i + j] = patch
            else:
                first = x + (h * self.W + t * self.pixels + self.left) * self.C
                for j in range(n):
                    from_quad[i + j] = first + j * size
                inside0, inside1 = 0, n
                if h * self.W + t * self.pixels + self.left < 0:
                    inside0 = min(n, self.inside0 - t)
                while inside1 > 0 and first + inside1 * size + VL > end:
                    inside1 -= 1
                for j in range(inside0):
                    from_quad[i + j] = self.pad_quad(x, h, t + j, patch + (i + j + 1) * self.slot)
                for j in range(inside1, n):
                    from_quad[i + j] = self.pad_quad(x, h, t + j, patch + (i + j + 1) * self.slot)
            i += n
            t, line = 0, line + 1

    cdef void clear_edges(self, real* planes, Py_ssize_t lines, Py_ssize_t channels) noexcept nogil:
        """Zeros where quads hang over an edge of the image."""
        cdef Py_ssize_t t, j, c, line, column
        cdef real* plane
        for t in range(self.row):
            if self.inside0 <= t < self.inside1:
                continue
            for j in range(self.pixels):
                column = t * self.pixels + self.left + j
                for c in range(0 if 0 <= column < self.W else channels):
                    plane = planes + (j * channels + c) * self.plane + t
                    for line in range(lines):
                        plane[line * self.row] = 0

    cdef const real* pad_quad(self, const real* x, Py_ssize_t h, Py_ssize_t t,
                              real* to) noexcept nogil:
        """A copy of one quad with zeros outside the image."""
        cdef Py_ssize_t column = t * self.pixels + self.left
        cdef Py_ssize_t first = max(0, column), last = min(self.W, column + self.pixels)
        memset(to, 0, self.pixels * self.C * sizeof(real))
        if first < last:
            memcpy(to + (first - column) * self.C, x + (h * self.W + first) * self.C,
                   (last - first) * self.C * sizeof(real))
        return to
