# The reduction: dw sums, over all output pixels, an input pixel's channels times dy; db sums dy.
#
# The output rows of the whole batch are cut into fixed *parts*. A work item sums one part for a chunk
# of input channels, a band of about 128 pixels at a time (the band's dy, packed by channel blocks, and
# the input that it meets then come from L1 and L2 for every tile), into a partial filter of its own.
# At the end the partial filters are added in the order of the parts.

from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

cdef enum:
    BAND_PIXELS = 128           # x 32 channels x 4 bytes of dy: 16 KB of a 32 to 48 KB L1
    PARTIAL_BYTES = 262_144     # a work item's slice of dw stays in L2 while bands go by
    PARTIALS_BYTES = 16_777_216


cdef void add_pixels(const real* x, Py_ssize_t pixels, Py_ssize_t nv, vec* sums) noexcept nogil:
    """sums += x[p], over pixels of one or two vectors, one after the other."""
    cdef Py_ssize_t p
    cdef vec low = sums[0], high = sums[nv - 1]
    for p in range(pixels):
        low = low + (<const vec*> x)[0]
        high = high + (<const vec*> x)[nv - 1]
        x += nv * VL
    sums[nv - 1] = high
    sums[0] = low


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
    cdef Py_ssize_t chunk, chunks, parts, band, filter_rows, partial, sums
    cdef Py_ssize_t pixel, line, width, area, dy_area, run_taps
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
        cdef Py_ssize_t bytes_row, items
        self.block = 2 * VL if self.K_group > VL else VL
        self.blocks = (self.K_group + self.block - 1) // self.block
        self.padded = self.blocks * self.block
        self.work = self.N * self.OH * self.OW * self.KH * self.KW * self.C_group * self.K
        self.chunk = self.C_group
        bytes_row = self.KH * self.KW * self.K_group * sizeof(real)
        while self.chunk > 16 and bytes_row * self.chunk > PARTIAL_BYTES:
            self.chunk = (self.chunk + 1) // 2
        items = min(ITEMS, 1 + self.work // ITEM_WORK)
        while self.chunk > 16 and self.N * self.OH * (self.C // self.chunk) < items:
            self.chunk = (self.chunk + 1) // 2
        self.chunks = (self.C_group + self.chunk - 1) // self.chunk
        self.filter_rows = self.KH * self.KW * self.C_group
        self.parts = (items + self.groups * self.chunks - 1) // (self.groups * self.chunks)
        self.parts = min(self.parts, self.N * self.OH,
                         1 + PARTIALS_BYTES // max(1, bytes_row * self.C))
        self.parts = max(1, self.parts)
        self.band = max(1, min(self.OH, BAND_PIXELS // max(1, self.OW)))
        self.in_place = (
            self.top <= 0 and self.left <= 0
            and (self.OH - 1) * self.stride_h + span_h - self.top <= self.H
            and (self.OW - 1) * self.stride_w + span_w - self.left <= self.W
        )
        self.width = (self.OW - 1) * self.stride_w + span_w
        self.pixel = self.C if self.in_place else self.chunk
        self.line = self.W * self.C if self.in_place else self.width * self.chunk
        self.area = 0 if self.in_place else ((self.band - 1) * self.stride_h + span_h) * self.line
        self.area = (self.area + 15) // 16 * 16
        self.dy_area = self.band * self.OW * self.padded
        # A filter row's taps are one run of dw's rows where they are neighbours in memory.
        self.run_taps = 1
        if self.dilation_w == 1 and self.pixel == self.chunk == self.C_group:
            self.run_taps = self.KW
        self.sums = self.groups * self.padded
        self.partial = self.filter_rows * self.sums

    cdef run(self, const real* x, const real* dy, real* dw, real* db, int num_threads):
        """Fill dw and db; either may be NULL."""
        cdef Py_ssize_t item, row
        cdef Py_ssize_t chunks = self.groups * (self.chunks if dw != NULL else 1)
        cdef Py_ssize_t slot = self.area + self.dy_area
        cdef Py_ssize_t rows = self.filter_rows if dw != NULL else 0
        cdef real* partials = self.partials.take(self.parts * (self.partial + self.sums))
        cdef real* scratch = self.scratch.take(num_threads * slot)
        cdef real* sums = partials + self.parts * self.partial
        cdef int threads = team(self.work, num_threads)
        with nogil:
            region_starts(is_shared(self.work))
            for item in prange(self.parts * chunks, schedule="dynamic", num_threads=threads):
                self.run_item(x, dy, partials, sums, scratch + threadid() * slot, item, dw != NULL)
                item_ends()
            if self.parts * self.partial < TINY:
                threads = 1
            region_starts(is_shared(self.work) and self.parts * self.partial >= TINY)
            for row in prange(rows, schedule="static", num_threads=threads):
                self.add_parts(partials + row * self.sums, self.partial, dw + row * self.K)
                item_ends()
            if db != NULL:
                self.add_parts(sums, self.sums, db)

    cdef void run_item(self, const real* x, const real* dy, real* partials, real* sums,
                       real* scratch, Py_ssize_t item, bint want_dw) noexcept nogil:
        """One part of the output rows, for one chunk of input channels."""
        cdef Py_ssize_t part = item % self.parts
        cdef Py_ssize_t chunks = self.chunks if want_dw else 1
        cdef Py_ssize_t group = item // self.parts // chunks
        cdef Py_ssize_t c0 = item // self.parts % chunks * self.chunk
        cdef Py_ssize_t channels = min(self.chunk, self.C_group - c0)
        cdef Py_ssize_t row = part * (self.N * self.OH) // self.parts
        cdef Py_ssize_t end = (part + 1) * (self.N * self.OH) // self.parts
        cdef Py_ssize_t n, oh, rows, columns, first, t
        cdef real* packed = scratch + self.area
        cdef real* dw = partials + part * self.partial + group * self.padded
        cdef real* db = sums + part * self.sums + group * self.padded
        cdef const real* image
        cdef const real* band
        if c0 == 0:
            memset(db, 0, self.padded * sizeof(real))
        if want_dw:
            for t in range(self.KH * self.KW):
                for first in range(t * self.C_group + c0, t * self.C_group + c0 + channels):
                    memset(dw + first * self.sums, 0, self.padded * sizeof(real))
        while row < end:
            n, oh = row // self.OH, row % self.OH
            rows = min(self.band, self.OH - oh, end - row)
            if row + rows == self.N * self.OH and self.outputs % self.OW:
                rows = max(1, rows - 1)  # the short row is a band of its own
            columns = min(self.OW, self.outputs - row * self.OW)
            band = self.pack_band(dy + row * self.OW * self.K + group * self.K_group, packed,
                                  rows * columns, db if c0 == 0 else NULL)
            if want_dw:
                image = x + n * self.H * self.W * self.C + group * self.C_group + c0
                self.run_band(image, band, dw + c0 * self.sums, scratch, oh, rows, columns,
                              channels)
            row += rows

    cdef const real* pack_band(self, const real* dy, real* packed, Py_ssize_t pixels,
                               real* db) noexcept nogil:
        """dy as [channel block, pixel, lanes], zeros in lanes without a channel; db += its sums."""
        cdef Py_ssize_t block, k, p, lanes, width, v
        cdef const real* source
        cdef const real* first = packed
        if self.groups == 1 and self.K == self.block:  # it is packed as it is
            if db != NULL:
                add_pixels(dy, pixels, self.K // VL, <vec*> db)
            return dy
        for block in range(self.blocks):
            k = block * self.block
            lanes = min(self.block, self.K_group - k)
            width = (lanes + VL - 1) // VL * VL
            source = dy + k
            for p in range(pixels):
                if lanes == width:
                    for v in range(width // VL):
                        (<vec*> (packed + p * width))[v] = (<const vec*> source)[v]
                else:
                    memcpy(packed + p * width, source, lanes * sizeof(real))
                    memset(packed + p * width + lanes, 0, (width - lanes) * sizeof(real))
                source += self.K
            if db != NULL:
                add_pixels(packed, pixels, width // VL, <vec*> (db + k))
            packed += pixels * width
        return first

    cdef void run_band(self, const real* x, const real* packed, real* dw, real* scratch,
                       Py_ssize_t oh, Py_ssize_t rows, Py_ssize_t columns,
                       Py_ssize_t channels) noexcept nogil:
        """Add a band of one image to the chunk's partial filter."""
        cdef Py_ssize_t first = oh * self.stride_h - self.top
        cdef Py_ssize_t height = (rows - 1) * self.stride_h + (self.KH - 1) * self.dilation_h + 1
        cdef Py_ssize_t block, k, run, nv, i, count, kh, kw
        cdef Py_ssize_t length = channels * self.run_taps
        cdef const real* band = scratch
        cdef const real* tap
        cdef real* to
        if self.in_place:
            band = x + first * self.line - self.left * self.pixel
        else:
            pad_rows(x, self.H, self.W, self.C, scratch, self.width, self.pixel, first, -self.left,
                     height, channels)
        for block in range(self.blocks):
            k = block * self.block
            nv = (min(self.block, self.K_group - k) + VL - 1) // VL
            for run in range(self.KH * self.KW // self.run_taps):
                kh, kw = run * self.run_taps // self.KW, run * self.run_taps % self.KW
                tap = band + kh * self.dilation_h * self.line + kw * self.dilation_w * self.pixel
                to = dw + (kh * self.KW + kw) * self.C_group * self.sums + k
                i = 0
                while i < length:
                    count = even_part(length - i, tile_rows(nv))
                    filter_tile_of(
                        count, nv, tap + i, self.stride_h * self.line, self.stride_w * self.pixel,
                        packed, rows, columns, to + i * self.sums, self.sums)
                    i += count
            packed += rows * columns * nv * VL

    cdef void add_parts(self, const real* parts, Py_ssize_t step, real* total) noexcept nogil:
        """total[k] = sum over parts, in their order, of parts[part * step + padded place of k]."""
        cdef Py_ssize_t group, part, k
        cdef const real* row
        for group in range(self.groups):
            memcpy(total, parts, self.K_group * sizeof(real))
            for part in range(1, self.parts):
                row = parts + part * step
                for k in range(self.K_group):
                    total[k] += row[k]
            total += self.K_group
            parts += self.padded
