# Depthwise convolution: each output channel reads one input channel, so vectors lie along the channels.
#
# y[q, c] = b[c] + sum over taps of x[q + tap, c] * w[tap, c]; nothing is summed across channels. There
# are so few products for each number read that loads and memory take most of the time. So tiles load
# each vector once for several of the sums that it goes into, and read in place where they can.
#
# Where they cannot, a work item, a band of output rows of one image, copies the input rows that it
# needs, padded, into its thread's workspace. With C_out / C_in = m > 1, output channel o reads input
# channel o // m. Then the copy repeats each channel m times for y and dw; for dx, which sums m products
# a tap, it splits the channels of dy into m planes a pixel. Its pixels are whole vectors. Where vectors
# can be made in registers, from half of one, y reads a padded copy of x as it is: it is m times smaller.

from math import gcd as _gcd

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    /* Lanes of a, then of b, picked by index. */
    #define shuffle_two(a, b, index) __builtin_shuffle((a), (b), (index))

    /* What a tile reads: pixels that are all INSIDE, or pixels of which some may be zeros outside the
       image, at an EDGE; or a few numbers of which the lanes are PICKED. */
    enum { INSIDE, EDGE, PICKED };
    """
    vec shuffle_two(vec a, vec b, ivec index) noexcept nogil


cdef enum:
    WAY_BYTES = 4096    # of an L1: addresses so far apart compete
    WAYS = 8            # for this many places; Intel's newer ones have 12
    DX_MULTIPLIER = 4   # the most planes that dy is split into: splitting takes m * m shuffles


cdef inline vec load_until(const real* p, const real* end) noexcept nogil:
    """The next VL numbers; zeros from `end` on."""
    return load_part(p, end - p)


cdef void pad_pixels(const real* x, const real* end, Py_ssize_t C, Py_ssize_t pixels, real* to,
                     Py_ssize_t vectors) noexcept nogil:
    """Copy pixels of C numbers to pixels of whole vectors; lanes behind C hold anything.

    Whole vectors are read, as far as `end`, where the array ends.
    """
    cdef Py_ssize_t p, u, width = vectors * VL
    cdef Py_ssize_t safe = max(0, min(pixels, (end - x - width + C) // C))
    if C == width:
        memcpy(to, x, pixels * C * sizeof(real))
        return
    for p in range(safe):
        for u in range(vectors):
            (<vec*> (to + p * width + u * VL))[0] = (<const vec*> (x + p * C + u * VL))[0]
    for p in range(safe, pixels):
        for u in range(vectors):
            (<vec*> (to + p * width + u * VL))[0] = load_until(x + p * C + u * VL, end)


cdef inline inlined pick_pixels(const Py_ssize_t size, const real* x, Py_ssize_t step,
                                Py_ssize_t pixels, real* to, Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(pixels):
        memcpy(to + p * C, x + p * step, size * sizeof(real))


cdef void pick_pixels_of(const real* x, Py_ssize_t step, const real* end, Py_ssize_t pixels, real* to,
                         Py_ssize_t C) noexcept nogil:
    """Copy pixels of C <= 16 numbers that are `step` numbers apart, to be neighbours.

    4, 8 or 16 numbers are copied of each, what comes behind its own to be overwritten by the next one's;
    behind the last they spoil fewer than VL numbers. Nothing is read from `end` on.
    """
    cdef Py_ssize_t size = 4 if C <= 4 else 8 if C <= 8 else 16, safe = pixels, p
    while safe > 0 and end - x < (safe - 1) * step + size:
        safe -= 1
    if size == 4:
        pick_pixels(4, x, step, safe, to, C)
    elif size == 8:
        pick_pixels(8, x, step, safe, to, C)
    else:
        pick_pixels(16, x, step, safe, to, C)
    for p in range(safe, pixels):
        memcpy(to + p * C, x + p * step, C * sizeof(real))


cdef inline inlined pick_channels(
    const Py_ssize_t split, const real* x, Py_ssize_t C, Py_ssize_t safe, const real* end,
    Py_ssize_t pixels, const ivec* lane, real* to, Py_ssize_t pixel,
) noexcept nogil:
    """One vector of each pixel, of lanes of `split` vectors; those of `safe` pixels end before `end`."""
    cdef Py_ssize_t p, i
    cdef vec a
    for p in range(min(safe, pixels)):
        a = vec_set(0)
        for i in range(split):
            a = shuffle_two(a, (<const vec*> (x + i * VL))[0], lane[i])
        (<vec*> to)[0] = a
        x, to = x + C, to + pixel
    for p in range(max(0, safe), pixels):
        a = vec_set(0)
        for i in range(split):
            a = shuffle_two(a, load_until(x + i * VL, end), lane[i])
        (<vec*> to)[0] = a
        x, to = x + C, to + pixel


cdef inline void clear(real* to, Py_ssize_t count) noexcept nogil:
    """`count` zeros, and fewer than VL behind them."""
    cdef Py_ssize_t i = 0
    while i < count:
        (<vec*> (to + i))[0] = vec_set(0)
        i += VL


cdef inline Py_ssize_t vector_place(Py_ssize_t v, Py_ssize_t channels) noexcept nogil:
    """The first channel of vector v. The last vector is moved back rather than cut, if it can be."""
    return max(0, min(v * VL, channels - VL))


cdef inline Py_ssize_t rows_of_tile(Py_ssize_t left, Py_ssize_t most) noexcept nogil:
    """4, 2 or 1 rows, which tiles know: of those that are left, at most `most`."""
    left = min(left, most)
    return 4 if left >= 4 else min(left, 2)


cdef class Depthwise:
    """What y, dx and dw of a depthwise convolution share: the bands, and the copies that they read.

    Everything that decides the order of a sum follows from the shape alone, not from VL.
    """
    cdef Py_ssize_t N, H, W, C                 # of the input
    cdef Py_ssize_t channels, vectors, width   # along which vectors lie; width = vectors * VL
    cdef Py_ssize_t repeat, split              # channels = C * repeat / split
    cdef Py_ssize_t rows, columns, step_h, step_w  # outputs q read from input pixel q * step + tap on
    cdef Py_ssize_t top, left, span_h, span_w  # reach of the taps
    cdef Py_ssize_t band, bands, items, taps
    cdef bint flat                             # vectors lie along rows
    cdef bint moves_back                       # a copy's last vector, as that of the outputs
    cdef bint picks                            # tiles repeat the channels, not the copy
    cdef Py_ssize_t planes, plane              # flat: of a row's copy, each of every `planes`-th pixel
    cdef Py_ssize_t pixel, line, area          # elements of a pixel, a row and all of a copy
    cdef Py_ssize_t* offset                    # of each tap in the copy
    cdef Py_ssize_t* place                     # where in a pixel vector u of a copied pixel starts
    cdef whole* lane                           # and the lanes that it takes of each vector read there
    cdef Workspace scratch, zeros              # zeros: a row of the input outside the image
    cdef readonly Py_ssize_t work

    def __dealloc__(self):
        free(self.offset)
        free(self.place)
        free(self.lane)

    cdef prepare(self, source, Py_ssize_t channels, outputs, step, list taps, bint flat=False,
                 Py_ssize_t most=BAND_BYTES):
        """Read `source` for `outputs` (rows, columns) of `channels` each, by all `taps` (h, w).

        Copies are of whole vectors a pixel, or if `flat` as `source` is, the pixels of neighbouring
        outputs side by side.
        """
        cdef Py_ssize_t t
        self.N, self.H, self.W, self.C = source
        self.channels = channels
        self.repeat, self.split = max(1, channels // self.C), max(1, self.C // channels)
        self.vectors = (channels + VL - 1) // VL
        self.width = self.vectors * VL
        self.rows, self.columns = outputs
        self.step_h, self.step_w = step
        self.taps = len(taps) * self.split
        reach = taps or [(0, 0)]
        self.top, self.left = min(h for h, _ in reach), min(w for _, w in reach)
        self.span_h = max(h for h, _ in reach) - self.top + 1
        self.span_w = max(w for _, w in reach) - self.left + 1
        self.scratch, self.zeros = Workspace(), Workspace()
        self.flat = flat
        self.pixel = self.C if flat or self.picks else self.split * self.width
        if flat:    # so many vectors on, lanes hold the same channels again
            self.vectors = channels // _gcd(channels, VL)
        self.planes = self.step_w if flat else 1
        width = (self.columns - 1) * self.step_w + self.span_w
        self.plane = (width + self.planes - 1) // self.planes * self.pixel
        # VL: room for what `pick_pixels_of` spoils
        self.line = self.planes * self.plane + (VL if self.planes > 1 else 0)
        self.cut(most)
        self.offset = <Py_ssize_t*> malloc((self.taps + 1) * sizeof(Py_ssize_t))
        if self.offset == NULL:
            raise MemoryError()
        for t in range(self.taps):
            h, w = taps[t // self.split]
            self.offset[t] = ((h - self.top) * self.line + self.column(w - self.left)
                              + t % self.split * self.width)
        self.find_lanes()

    cdef Py_ssize_t column(self, Py_ssize_t w) noexcept nogil:
        """Where column w of a copied row is."""
        return w % self.planes * self.plane + w // self.planes * self.pixel

    cdef cut(self, Py_ssize_t most):
        """Cut the outputs into bands of which the input, or its copy, has at most so many bytes."""
        cdef Py_ssize_t line = self.line // self.pixel * max(self.C, self.channels) * sizeof(real)
        self.band = max(1, self.rows)
        while self.band > 1 and (self.band_rows() * line > most or self.too_few_items()):
            self.band = (self.band + 1) // 2
        self.bands = self.bands_of()
        self.items = self.N * self.bands
        self.area = (self.band_rows() * self.line + VL + 15) // 16 * 16

    cdef cut_in_place(self, Py_ssize_t rows):
        """Without copies: few bands of whole tiles, since two read what lies at their border."""
        self.band = max(1, self.rows)
        while (self.band > rows and self.N * self.bands_of() < ITEMS
               and self.work > ITEM_WORK * self.N * self.bands_of()):
            self.band = (self.band // 2 + rows - 1) // rows * rows
        self.bands = self.bands_of()
        self.items = self.N * self.bands

    cdef Py_ssize_t band_rows(self):
        return (self.band - 1) * self.step_h + self.span_h

    cdef Py_ssize_t bands_of(self):
        return max(1, (self.rows + self.band - 1) // self.band)

    cdef bint too_few_items(self):
        cdef Py_ssize_t items = self.N * self.bands_of()
        return too_few(items, ITEMS, self.work)

    cdef find_lanes(self):
        """Channel c of plane s is number (c * split) // repeat + s of its pixel."""
        cdef Py_ssize_t u, i, j, c, number
        cdef Py_ssize_t count = self.split * self.vectors
        self.place = <Py_ssize_t*> malloc(count * sizeof(Py_ssize_t))
        self.lane = <whole*> malloc(count * self.split * VL * sizeof(whole))
        if self.place == NULL or self.lane == NULL:
            raise MemoryError()
        for u in range(count):
            c = u % self.vectors * VL
            if self.moves_back:
                c = vector_place(u % self.vectors, self.channels)
            self.place[u] = c * self.split // self.repeat
            for i in range(self.split):
                for j in range(VL):
                    number = (c + j) * self.split // self.repeat
                    number += u // self.vectors - self.place[u]
                    self.lane[(u * self.split + i) * VL + j] = picked(number, i, j)

    cdef void read(self, const real* images, Py_ssize_t n, Py_ssize_t q, Py_ssize_t rows,
                   real* to) noexcept nogil:
        """Copy what `rows` output rows from q on of image n read, with zeros outside the image."""
        cdef Py_ssize_t i, p, before, inside, row = q * self.step_h + self.top
        cdef Py_ssize_t columns = self.plane // self.pixel
        cdef const real* end = images + self.N * self.H * self.W * self.C
        cdef real* plane
        images += n * self.H * self.W * self.C
        for p in range(self.planes):
            before = min(columns, self.columns_before(-self.left - p))
            inside = max(0, min(columns, self.columns_before(self.W - self.left - p)) - before)
            for i in range((rows - 1) * self.step_h + self.span_h):
                if not self.reads_row(i):
                    continue
                plane = to + i * self.line + p * self.plane
                if row + i < 0 or row + i >= self.H or inside == 0:
                    clear(plane, self.plane)
                    continue
                clear(plane, before * self.pixel)
                self.copy_pixels(
                    images + ((row + i) * self.W + self.left + p + before * self.planes) * self.C, end,
                    plane + before * self.pixel, inside)
                # What it clears too much is copied later, or room: the planes' rows have some.
                clear(plane + (before + inside) * self.pixel,
                      (columns - before - inside) * self.pixel)

    cdef inline bint reads_row(self, Py_ssize_t i) noexcept nogil:
        """Whether an output reads the input's row i, counted from the first; strides may skip some."""
        return i % self.step_h < self.span_h

    cdef inline Py_ssize_t columns_before(self, Py_ssize_t w) noexcept nogil:
        """How many columns 0, `planes`, 2 * `planes`, ... are less than w."""
        return (w + self.planes - 1) // self.planes if w > 0 else 0

    cdef void copy_pixels(self, const real* x, const real* end, real* to,
                          Py_ssize_t pixels) noexcept nogil:
        cdef Py_ssize_t u, safe, C = self.C, split = self.split, count = split * self.vectors
        cdef const ivec* lane = <const ivec*> self.lane
        cdef Py_ssize_t pixel = self.pixel
        if self.flat and self.planes > 1:
            pick_pixels_of(x, self.planes * self.C, end, pixels, to, self.C)
            return
        if self.flat or self.picks:
            memcpy(to, x, pixels * self.C * sizeof(real))
            return
        if self.channels == self.C:
            pad_pixels(x, end, self.C, pixels, to, self.vectors)
            return
        # Pixels of which all vectors end before the array does.
        safe = (end - x - self.place[count - 1] - split * VL + self.C) // self.C
        for u in range(count):
            if split == 1:
                pick_channels(1, x + self.place[u], C, safe, end, pixels, lane, to + u * VL, pixel)
            else:
                pick_channels(split, x + self.place[u], C, safe, end, pixels, lane, to + u * VL, pixel)
            lane = lane + split
