# The reduction: dw sums, over all output pixels, an input pixel's channels times dy; db sums dy.
#
# The output rows of the whole batch are cut into fixed *parts*. A work item sums one part for a chunk
# of input by a chunk of output channels into a partial filter of its own, a *band* of about 200 pixels
# at a time: rows of an image, or several small images, between which the sums stay in registers. A
# block of the band's dy, and the input that it meets, are packed as the tiles read them, and come from
# L1 and L2; the tiles fetch the next band of dy meanwhile. At the end the partial filters are added in
# the order of the parts.

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

cdef enum:
    BAND_PIXELS = 224           # x 32 channels x 4 bytes of dy: 28 KB of a 48 KB L1, as AVX-512 has it
    PARTIAL_BYTES = 262_144     # a work item's slice of dw stays in L2 while bands go by,
    IMAGES_BYTES = 262_144      # and so does what a band of several images reads
    PART_PIXELS = 64            # a part of fewer costs more in sums that are written, read and added
    LEAST_PARTS = 8             # than it saves; but threads should all have work
    GAP = 4                     # numbers of a pixel that could come while memory begins with a piece


cdef void add_pixels(const real* x, Py_ssize_t pixels, Py_ssize_t step, Py_ssize_t nv,
                     vec* sums) noexcept nogil:
    """sums += x[p * step], over pixels of one or two vectors, one after the other."""
    cdef Py_ssize_t p
    cdef vec low = sums[0], high = sums[nv - 1]
    for p in range(pixels):
        low = low + (<const vec*> x)[0]
        high = high + (<const vec*> x)[nv - 1]
        x += step
    sums[nv - 1] = high
    sums[0] = low


cdef void add_row_parts(const real* parts, Py_ssize_t count, Py_ssize_t step, real* total,
                        Py_ssize_t size) noexcept nogil:
    """total[k] += parts[k], parts[step + k], ..."""
    cdef Py_ssize_t part, k
    for part in range(count):
        for k in range(size):
            total[k] += parts[part * step + k]


cdef double reduce_cycles(tuple y, tuple w, tuple stride, groups):
    """About how many cycles an image and a group take of `Reduce`, on vectors of 16 (choice.pxi)."""
    KH, KW, C, K = w
    K //= groups
    pixels, x = y[1] * y[2], C * stride[0] * stride[1]
    if K <= CYCLE_CHANNELS and C > 1:
        parts = cycle_parts(K, C)
        rows = (KW * C + parts - 1) // parts
        tiles = (rows + TILE_1 - 1) // TILE_1
        # Fewer sums than 8 wait for each other.
        return pixels * (KH * max(9 * tiles, 2 * tiles + (1.1 if parts < 16 else 2.9) * rows)
                         + 0.8 * x + (15 if groups > 1 else 0))  # pieces of pixels, to pack
    length = KW * C if C <= TILE_1 else C
    tiles = KH * KW * C // length * ((length + TILE_1 - 1) // TILE_1)
    bands = (pixels + BAND_PIXELS - 1) // BAND_PIXELS
    if 2 * pixels <= BAND_PIXELS:
        size = ((y[1] - 1) * stride[0] + KH) * ((y[2] - 1) * stride[1] + KW) * C * 4
        bands = 1 / max(1, min(y[0], BAND_PIXELS // pixels, IMAGES_BYTES // size))
    return (K + 15) // 16 * (pixels * (0.89 * KH * KW * C + 5.3 * tiles) + 7.6 * bands * KH * KW * C) + (
        pixels * (0.27 * K + 0.13 * x))


cdef class Reduce:
    """dw and db of one convolution: work items and workspaces.

    Parameters
    ----------
    x, dy : tuple
        Shapes (N, H, W, C) and (N, OH, OW, K).
    groups : int
    kernel, stride, dilation, before : tuple
        (h, w) each; `before` is the padding at the top and at the left.
    """
    cdef Py_ssize_t N, H, W, C, OH, OW, K, groups, C_group, K_group
    cdef Py_ssize_t KH, KW, stride_h, stride_w, dilation_h, dilation_w, top, left
    cdef Py_ssize_t block, blocks, padded        # channel blocks of dy in a group
    cdef Py_ssize_t chunk, chunks, k_chunk, k_chunks, parts, filter_rows, partial, sums
    cdef Py_ssize_t band, images                 # rows of a band; if they are all, of so many images
    cdef Py_ssize_t panel, plane, pixel, line, width, area, dy_area, run_taps
    cdef Py_ssize_t cycle                        # P of cycle.pxi; 1: vectors lie along dy's channels
    cdef Py_ssize_t run_rows                     # of sums, of a run of taps; each has P rows of dw
    cdef Py_ssize_t step_h, step_w               # between rows and columns of x that are packed
    cdef Py_ssize_t outputs                      # pixels of dy; the last row may be short
    cdef bint in_place
    cdef Workspace partials, scratch
    cdef readonly Py_ssize_t work

    def __cinit__(self, x, dy, Py_ssize_t groups, kernel, stride, dilation, before):
        self.outputs = dy[0] * dy[1] * dy[2]
        if kernel == stride == (1, 1) and x[:3] == dy[:3] and before == (0, 0):
            x, dy = in_rows(x), in_rows(dy)
        self.N, self.H, self.W, self.C = x
        self.OH, self.OW, self.K = dy[1:]
        self.groups, self.C_group, self.K_group = groups, self.C // groups, self.K // groups
        self.KH, self.KW = kernel
        self.stride_h, self.stride_w = stride
        self.dilation_h, self.dilation_w = dilation
        self.top, self.left = before
        self.partials, self.scratch = Workspace(), Workspace()
        self.cut()

    cdef cut(self):
        """Choose blocks, chunks, parts and bands: by shape alone, so that sums never move."""
        cdef Py_ssize_t span_h = (self.KH - 1) * self.dilation_h + 1
        cdef Py_ssize_t span_w = (self.KW - 1) * self.dilation_w + 1
        cdef Py_ssize_t most
        self.block = 2 * VL if self.K_group > VL else VL
        self.cycle = 1
        if self.K_group <= CYCLE_CHANNELS:
            self.cycle = cycle_parts(self.K_group, self.C_group)
        if self.cycle > 1:
            self.block = LANES
        self.blocks = (self.K_group + self.block - 1) // self.block
        self.padded = self.blocks * self.block
        self.work = self.N * self.OH * self.OW * self.KH * self.KW * self.C_group * self.K
        self.filter_rows = self.KH * self.KW * self.C_group
        # Packing does not repay itself where a number meets two vectors of dy or fewer.
        self.in_place = (
            self.blocks == 1 and self.C_group % self.cycle == 0 and self.top <= 0 and self.left <= 0
            and (self.OH - 1) * self.stride_h + span_h - self.top <= self.H
            and (self.OW - 1) * self.stride_w + span_w - self.left <= self.W
        )
        # Where a filter has one row or column, those of x between strides are not packed at all.
        self.step_h = self.stride_h if self.KH == 1 and not self.in_place else 1
        self.step_w = self.stride_w if self.KW == 1 and not self.in_place else 1
        self.choose_chunks(min(ITEMS, 1 + self.work // ITEM_WORK,
                               max(LEAST_PARTS, self.outputs // PART_PIXELS)))
        self.band = even_part(self.OH, max(1, BAND_PIXELS // max(1, self.OW)))
        self.width = ((self.OW - 1) * self.stride_w + span_w - 1) // self.step_w + 1
        # Panels as wide as a tile are read one number after the other; narrower pixels in one piece.
        self.panel = min(self.chunk, TILE_2) if self.cycle == 1 else self.chunk
        self.pixel, self.line = self.panel, self.width * self.panel
        self.images = 1
        if 1 <= self.band == self.OH:
            most = self.height(self.OH) * self.width * self.chunk * <Py_ssize_t> sizeof(real)
            most = min(BAND_PIXELS // max(1, self.OH * self.OW), IMAGES_BYTES // max(1, most))
            self.images = even_part(max(1, self.N // self.parts), max(1, most))
        self.plane = self.images * self.height(self.band) * self.line
        self.area = ((self.chunk + self.panel - 1) // self.panel * self.plane + 15) // 16 * 16
        if self.in_place:
            self.pixel, self.line, self.plane, self.area = self.C, self.W * self.C, self.panel, 0
        self.dy_area = self.images * self.band * self.OW * self.block
        # A filter row's taps are one run of dw's rows where they are neighbours in memory.
        self.run_taps = 1
        if self.dilation_w == 1 and self.pixel == self.panel == self.C_group:
            self.run_taps = self.KW
        self.run_rows = (self.run_taps * self.C_group + self.cycle - 1) // self.cycle
        self.filter_rows = self.KH * self.KW // self.run_taps * self.run_rows
        self.sums = self.groups * self.padded
        self.partial = self.filter_rows * self.sums

    cdef Py_ssize_t height(self, Py_ssize_t rows) noexcept nogil:
        """Rows of x that so many rows of dy meet, as they are packed."""
        return ((rows - 1) * self.stride_h + (self.KH - 1) * self.dilation_h) // self.step_h + 1

    cdef choose_chunks(self, Py_ssize_t items):
        """Chunks of channels and parts of rows: those of which the least goes through memory.

        Each chunk of input channels reads dy, each of output channels x; partial filters are set to
        zero, read, written, and read again to be added.
        """
        cdef Py_ssize_t c = self.C_group, k, tiles, parts, least = PY_SSIZE_T_MAX, cost
        cdef Py_ssize_t pixels = self.N * self.OH * self.OW
        cdef Py_ssize_t x_size = self.C * min(self.N * self.H * self.W, pixels * self.KH * self.KW)
        cdef Py_ssize_t dw_size = self.filter_rows * self.K
        cdef Py_ssize_t most = PARTIAL_BYTES // <Py_ssize_t> sizeof(real)
        while True:
            k = self.K_group
            while True:
                tiles = (self.groups * ((self.C_group + c - 1) // c)
                         * ((self.K_group + k - 1) // k))
                parts = max(1, min((items + tiles - 1) // tiles, self.N * self.OH))
                cost = (
                    (1 if self.in_place else 3) * x_size * ((self.K_group + k - 1) // k)
                    # short pieces of pixels, that the hardware does not see coming
                    * (c if c == self.C else c + GAP) // c
                    + pixels * self.K * ((self.C_group + c - 1) // c)
                    + dw_size * (4 * parts if parts > 1 else 2)
                    # a slice that leaves L2 comes back for every band
                    + (pixels // BAND_PIXELS * dw_size if self.KH * self.KW * c * k > most else 0)
                )
                cost = cost * max(items, tiles * parts) // (tiles * parts)  # too few items
                if cost < least:
                    least, self.chunk, self.k_chunk, self.parts = cost, c, k, parts
                if k <= 32:
                    break
                k = (k // 2 + 31) // 32 * 32
            if c <= 16:
                break
            c = (c + 1) // 2 if self.cycle == 1 else (c // 2 + 15) // 16 * 16
        self.chunks = (self.C_group + self.chunk - 1) // self.chunk
        self.k_chunks = (self.K_group + self.k_chunk - 1) // self.k_chunk

    cdef run(self, const real* x, const real* dy, real* dw, real* db, int num_threads):
        """Fill dw and db; either may be NULL."""
        cdef Shares shares
        cdef Py_ssize_t thread, item, row
        cdef Py_ssize_t tiles = self.groups * self.k_chunks * (self.chunks if dw != NULL else 1)
        cdef Py_ssize_t slot = apart(self.area + self.dy_area)
        cdef bint whole = self.parts == 1 and self.sums == self.K
        cdef Py_ssize_t rows = self.filter_rows if dw != NULL and not whole else 0
        cdef real* sums = self.partials.take(self.parts * (self.partial + self.sums))
        cdef real* partials = sums + self.parts * self.sums
        cdef real* scratch = self.scratch.take(num_threads * slot)
        cdef int threads = team(self.work, num_threads)
        if whole:
            partials = dw  # the only part is all
        with nogil:
            share_out(&shares, self.parts * tiles, threads)
            region_starts(is_shared(self.work))
            with parallel(num_threads=threads):
                thread = threadid()
                item = next_item(&shares, thread)
                while item >= 0:
                    self.run_item(x, dy, partials, sums, scratch + thread * slot, item, dw != NULL)
                    item_ends()
                    item = next_item(&shares, thread)
            if self.parts * self.partial < TINY:
                threads = 1
            region_starts(is_shared(self.work) and self.parts * self.partial >= TINY)
            for row in prange(rows, schedule="static", num_threads=threads):
                self.add_row(partials + row * self.sums, dw, row)
                item_ends()
            if db != NULL:
                self.add_parts(sums, self.sums, db, 0)

    cdef void run_item(self, const real* x, const real* dy, real* partials, real* sums,
                       real* scratch, Py_ssize_t item, bint want_dw) noexcept nogil:
        """One part of the output rows, for one chunk of input by one chunk of output channels."""
        cdef Py_ssize_t chunks = self.chunks if want_dw else 1
        cdef Py_ssize_t k0 = item % self.k_chunks * self.k_chunk
        cdef Py_ssize_t c0 = item // self.k_chunks % chunks * self.chunk
        cdef Py_ssize_t group = item // self.k_chunks // chunks % self.groups
        cdef Py_ssize_t part = item // self.k_chunks // chunks // self.groups
        cdef Py_ssize_t channels = min(self.chunk, self.C_group - c0)
        cdef Py_ssize_t width = min(self.k_chunk, self.K_group - k0)
        cdef Py_ssize_t row = part * (self.N * self.OH) // self.parts
        cdef Py_ssize_t end = (part + 1) * (self.N * self.OH) // self.parts
        cdef Py_ssize_t rows, columns, first, t
        cdef Py_ssize_t zeros = width if self.cycle == 1 else LANES
        cdef Py_ssize_t length = (channels * self.run_taps + self.cycle - 1) // self.cycle
        cdef real* dw = partials + part * self.partial + group * self.padded + k0
        cdef real* db = NULL
        x += group * self.C_group + c0
        dy += group * self.K_group + k0
        if c0 == 0:
            db = sums + part * self.sums + group * self.padded + k0
            memset(db, 0, zeros * sizeof(real))
        if want_dw:
            dw += c0 // self.cycle * self.sums
            for t in range(self.filter_rows // self.run_rows):
                for first in range(t * self.run_rows, t * self.run_rows + length):
                    memset(dw + first * self.sums, 0, zeros * sizeof(real))
        while row < end:
            rows = band_rows(row, end, self.OH, self.band, self.images)
            if row + rows == self.N * self.OH and self.outputs % self.OW:
                rows = max(1, rows - 1)  # the short row is a band of its own
            columns = min(self.OW, self.outputs - row * self.OW)
            self.run_band(x + row // self.OH * self.H * self.W * self.C, dy + row * self.OW * self.K,
                          dw if want_dw else NULL, db, scratch, row % self.OH,
                          rows, columns, channels, width,
                          rows * self.OW * self.K if row + rows < end else 0)
            row += rows

    cdef const real* pack_block(self, const real* dy, real* packed, Py_ssize_t pixels,
                                Py_ssize_t lanes, real* db) noexcept nogil:
        """dy of a channel block as [pixel, lanes], zeros behind the last channel; db += its sums."""
        cdef Py_ssize_t p, width = (lanes + VL - 1) // VL * VL
        cdef real* to = packed
        if self.cycle > 1:
            stretch_pixels_of(self.cycle, dy, self.K, pixels, lanes, packed)
            for p in range((LANE_VECTORS + 1) // 2 if db != NULL else 0):
                add_pixels(packed + 2 * p * VL, pixels, LANES, min(2, LANE_VECTORS),
                           <vec*> (db + 2 * p * VL))
            return packed
        if self.K == lanes == width:  # it is packed as it is
            if db != NULL:
                add_pixels(dy, pixels, width, width // VL, <vec*> db)
            return dy
        for p in range(pixels):
            if lanes == 2 * VL:
                (<vec*> to)[0] = (<const vec*> dy)[0]
                (<vec*> (to + VL))[0] = (<const vec*> (dy + VL))[0]
            else:
                if lanes > VL:
                    (<vec*> to)[0] = (<const vec*> dy)[0]
                (<vec*> (to + width - VL))[0] = load_part(dy + width - VL, lanes - width + VL)
            to += width
            dy += self.K
        if db != NULL:
            add_pixels(packed, pixels, width, width // VL, <vec*> db)
        return packed

    cdef void run_band(self, const real* x, const real* dy, real* dw, real* db, real* scratch,
                       Py_ssize_t oh, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t channels,
                       Py_ssize_t width, Py_ssize_t ahead) noexcept nogil:
        """Add a band to the chunk's partial filter, and fetch the next one's dy."""
        cdef Py_ssize_t k = 0, run, lanes, nv, c, i, count, kh, kw, tile
        cdef Py_ssize_t runs = self.KH * self.KW // self.run_taps if dw != NULL else 0
        cdef Py_ssize_t length
        cdef Py_ssize_t across = self.width if columns == self.OW else columns  # a short row: 1x1
        cdef Py_ssize_t image = min(rows, self.OH), lines = self.height(image), n
        cdef Pixels pixels = Pixels(rows, columns, self.stride_h // self.step_h * self.line,
                                    self.stride_w // self.step_w * self.pixel, image, 0)
        cdef const real* band = scratch
        cdef const real* tap
        cdef const real* packed
        cdef real* to
        if self.in_place:
            band = x + (oh * self.stride_h - self.top) * self.line - self.left * self.pixel
            lines = self.H
        else:
            for n in range(rows // image if dw != NULL else 0):
                pack_panels(x + n * self.H * self.W * self.C, self.H, self.W, self.C,
                            scratch + n * lines * self.line, self.panel, self.plane,
                            oh * self.stride_h - self.top, lines, self.step_h, -self.left,
                            across, self.step_w, channels)
        pixels.x_image = lines * self.line - image * pixels.x_row
        while k < width:
            lanes = min(self.block, width - k)
            nv, tile = (lanes + VL - 1) // VL, 0
            packed = self.pack_block(dy + k, scratch + self.area, rows * columns, lanes,
                                     NULL if db == NULL else db + k)
            for run in range(runs):
                kh, kw = run * self.run_taps // self.KW, run * self.run_taps % self.KW
                tap = band + kh * self.dilation_h * self.line + kw * self.dilation_w * self.pixel
                to = dw + run * self.run_rows * self.sums + k
                c = 0
                while c < channels:
                    length, i = min(self.panel, channels - c) * self.run_taps, 0
                    if self.cycle > 1:
                        self.run_cycles(&pixels, tap, packed, (length + self.cycle - 1) // self.cycle,
                                        to, dy + ahead)
                        length = 0
                    while i < length:
                        count = even_part(length - i, tile_rows(nv))
                        filter_tile_of(
                            count, nv, &pixels, tap + i, packed, to + i * self.sums, self.sums,
                            dy + ahead + k + tile % nv * VL, self.K)
                        i += count
                        tile += 1
                    tap += self.plane
                    to += self.panel * self.sums
                    c += self.panel
            k += self.block

    cdef void run_cycles(self, const Pixels* pixels, const real* x, const real* packed,
                         Py_ssize_t length, real* dw, const real* ahead) noexcept nogil:
        """`length` rows of sums, for a run of taps; fetch some of what lies ahead."""
        cdef Py_ssize_t i = 0, count, most = min(TILE_1, SUMS // LANE_VECTORS)
        while i < length:
            count = even_part(length - i, most)
            cycle_filter_tile_of(
                count, self.cycle, pixels, x + i * self.cycle, packed, dw + i * self.sums, self.sums,
                ahead, self.K)
            i += count

    cdef void add_row(self, const real* parts, real* dw, Py_ssize_t row) noexcept nogil:
        """dw = the sum of all parts, of a row of sums."""
        cdef Py_ssize_t run = row // self.run_rows, j, i
        cdef Py_ssize_t length = self.run_taps * self.C_group
        for j in range(self.cycle):
            i = row % self.run_rows * self.cycle + j
            if i < length:
                self.add_parts(parts, self.partial, dw + (run * length + i) * self.K, j)

    cdef void add_parts(self, const real* parts, Py_ssize_t step, real* total,
                        Py_ssize_t j) noexcept nogil:
        """total[k] = sum over parts, in their order, of parts[part * step + place of k, j]."""
        cdef Py_ssize_t group, part, k
        for group in range(self.groups):
            if self.cycle == 1:
                memcpy(total, parts, self.K_group * sizeof(real))
                add_row_parts(parts + step, self.parts - 1, step, total, self.K_group)
            for k in range(self.K_group if self.cycle > 1 else 0):
                total[k] = parts[k * self.cycle + j]
                for part in range(1, self.parts):
                    total[k] += parts[part * step + k * self.cycle + j]
            total += self.K_group
            parts += self.padded
