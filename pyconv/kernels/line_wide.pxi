# Few output channels: Winograd along the rows, F(4, KW), with vectors along the pixels.
#
#     y[row] = A^T [ sum over kh, c of (G w[kh, :, c]) * (B^T x[row + kh, :, c]) ]
#
# Four neighbouring outputs, a *quad*, take KW + 3 products for each kh and c, instead of 4 KW, and
# the sum over kh and c runs between the transforms: a row of the input is transformed once, for all
# output channels and all rows of the filter. Lanes of a vector are quads, and the rows of a band
# follow each other as one line of quads, so that short rows fill vectors too:
#
#     x  --split-->  planes[pixel of the quad, c][quad]  --B^T-->  v[point, c][quad]
#        --products-->  m[point, k][quad]  --A^T-->  z[pixel of the quad, k][quad]  --join-->  y
#
# As in winograd.pxi, a finite y is right; otherwise `run` says False, and the caller computes directly.

cdef enum:
    WIDE_MOST = 8           # output channels: their sums for one vector or two fill the registers
    STRIP = 512             # outputs of a strip: its products and outputs, 32 KB at most, stay in L1
    LINE_CHUNK = 16         # input channels: one point of them, in the rows of a band, stays in L1
    FEW_CHANNELS = 24       # no more are not worth a second chunk


cdef struct LineWidePhase:
    Py_ssize_t to_row, to_column    # where output q = 0 goes
    Py_ssize_t rows                 # outputs q
    Py_ssize_t points, shift        # KW + 3; the first tap's pixel in its quad
    Py_ssize_t first_tap, taps      # its rows of taps
    Py_ssize_t filters              # where its transformed filter starts,
    Py_ssize_t v, m                 # and its v (shared by phases with the same columns), and its m
    bint fresh                      # whether it is the first with this v


cdef bint line_wide_pays(tuple source, tuple target, Py_ssize_t groups, tuple step, tuple stride,
                         list phases) except -1:
    """Whether to take Winograd along the rows, by shape alone. Arguments as those of `Gather`.

    The products must outweigh the transforms: so there are rows of at least 8 outputs, 256 of them
    in all, and at least 8 products for each point.
    """
    cdef Py_ssize_t least
    if sizeof(real) != 4 or groups > 1 or target[3] > WIDE_MOST or step != (1, 1):
        return False
    for _, taps in phases:
        columns = sorted({w for _, w, _ in taps})
        neighbours = list(range(columns[0], columns[0] + len(columns))) if columns else []
        if len(columns) not in WIDE_POINTS or columns != neighbours:
            return False
    least = min([len({h for h, _, _ in taps}) for _, taps in phases]) * source[3] * target[3]
    return (least >= 8 and target[2] >= 8 * stride[1]
            and target[0] * target[1] * target[2] >= 256)


cdef class LineWide:
    """y, or dx, of a convolution with few output channels: what the `Gather` g computes directly."""
    cdef Py_ssize_t N, H, W, C, TH, TW, K, stride_h, stride_w
    cdef Py_ssize_t w_tap, w_in, w_out
    cdef Py_ssize_t phase_count, top, left, span_h
    cdef Py_ssize_t rows, quads         # of a phase; a row's outputs, in quads
    cdef Py_ssize_t band, bands, items, chunk
    cdef Py_ssize_t x_row, v_row        # quads from row to row, of the planes and of v
    cdef Py_ssize_t inside0, inside1    # quads of a row of x that pass no edge
    cdef Py_ssize_t plane, v_plane, v_point, strip, record
    cdef Py_ssize_t m, z, patch, area   # where they start in a thread's workspace, behind the planes
    cdef readonly Py_ssize_t work
    cdef bint spoiled
    cdef LineWidePhase* phases
    cdef Py_ssize_t* offset             # in v, of each channel of a chunk, and row of taps
    cdef Py_ssize_t* tap_index          # in the filter
    cdef double[9][8][5] g              # G by KW + 3 points
    cdef Workspace weights, scratch, bias

    def __cinit__(self, Gather g):
        cdef Py_ssize_t p
        self.N, self.H, self.W, self.C = g.N, g.H, g.W, g.C
        self.TH, self.TW, self.K = g.TH, g.TW, g.TC
        self.stride_h, self.stride_w = g.stride_h, g.stride_w
        self.w_tap, self.w_in, self.w_out = g.w_tap, g.w_in, g.w_out
        self.weights, self.scratch, self.bias = Workspace(), Workspace(), Workspace()
        self.work, self.top, self.left, self.span_h = g.work, g.top, g.left, g.span_h
        self.rows, self.phase_count = g.rows, g.phase_count
        self.phases = <LineWidePhase*> malloc((self.phase_count + 1) * sizeof(LineWidePhase))
        self.cut(g)
        self.tap_index = <Py_ssize_t*> malloc((g.tap_count + 1) * sizeof(Py_ssize_t))
        self.offset = <Py_ssize_t*> malloc((g.tap_count * self.chunk + 1) * sizeof(Py_ssize_t))
        if self.phases == NULL or self.tap_index == NULL or self.offset == NULL:
            raise MemoryError()
        memset(self.phases, 0, (self.phase_count + 1) * sizeof(LineWidePhase))
        self.phases[0].v = TILE * self.chunk * self.plane + VL * self.plane
        for p in range(self.phase_count):
            self.add_phase(g, p)
        self.lay_out()

    def __dealloc__(self):
        free(self.phases)
        free(self.tap_index)
        free(self.offset)

    cdef cut(self, Gather g):
        """Choose bands and chunks. How rows follow each other does not change their outputs."""
        cdef Py_ssize_t in_rows
        self.quads = (g.columns + TILE - 1) // TILE
        self.x_row = (g.columns + g.span_w - 1 + TILE - 1) // TILE
        self.v_row = self.quads if self.quads % VL == 0 else self.x_row
        self.inside0 = (max(0, -self.left) + TILE - 1) // TILE
        self.inside1 = max(self.inside0, (self.W - self.left) // TILE)
        self.record = TILE * self.stride_w * self.K
        self.chunk = self.C if self.C <= FEW_CHANNELS else LINE_CHUNK
        self.band = max(1, self.rows)
        while self.band > 1 and (
            # A low band transforms the rows that it shares with the next one too often.
            self.band_bytes() > (BAND_BYTES if self.band >= 2 * self.span_h else 2 * BAND_BYTES)
            or self.too_few_items()
        ):
            self.band = (self.band + 1) // 2
        in_rows = self.band + self.span_h - 1
        self.bands = (self.rows + self.band - 1) // self.band
        self.items = self.N * self.bands
        self.plane = (in_rows * self.x_row + 4 * VL) // VL * VL
        self.v_plane = (in_rows * self.v_row + 3 * VL) // VL * VL
        self.v_point = self.chunk * self.v_plane + 16  # no multiple of 4096 bytes, as in winograd.pxi
        self.strip = (self.band * self.v_row + VL - 1) // VL * VL
        if self.chunk == self.C:
            self.strip = even_part(self.strip // VL, STRIP // self.K // VL) * VL

    cdef Py_ssize_t band_bytes(self):
        """Of the planes and one v."""
        return (self.band + self.span_h - 1) * self.x_row * self.chunk * (TILE + 8) * sizeof(real)

    cdef bint too_few_items(self):
        cdef Py_ssize_t items = self.N * ((self.rows + self.band - 1) // self.band)
        return items < ITEMS and self.work > 2 * ITEM_WORK * items

    cdef lay_out(self):
        """Where things are in a workspace. All of it is read and written in whole vectors."""
        cdef LineWidePhase* end = &self.phases[self.phase_count]
        self.m = end.v
        self.z = self.m + end.m
        self.patch = self.z + (self.stride_h * self.record + VL) * self.strip
        self.area = self.patch + (VL + 1) * (max(TILE * self.C, self.record) + 2 * VL)
        self.area = (self.area + 15) // 16 * 16

    cdef add_phase(self, Gather g, Py_ssize_t p):
        """Fill phase p, and say where the next one's things start."""
        cdef LineWidePhase* phase = &self.phases[p]
        cdef LineWidePhase* next = &self.phases[p + 1]
        cdef Py_ssize_t t, c, KW, e, first = g.phases[p].first_tap
        taps = sorted((g.tap_h[t], g.tap_w[t], g.tap_index[t])
                      for t in range(first, first + g.phases[p].taps))
        KW = len({w for _, w, _ in taps})
        phase.to_row, phase.to_column = g.phases[p].to_row, g.phases[p].to_column
        phase.rows = g.phases[p].rows
        phase.points, phase.shift = KW + 3, min(w for _, w, _ in taps) - self.left
        phase.first_tap, phase.taps = first, len(taps) // KW
        phase.fresh = True
        for t in range(p):
            if self.phases[t].points == phase.points and self.phases[t].shift == phase.shift:
                phase.fresh, next.v, phase.v = False, phase.v, self.phases[t].v
                break
        else:
            next.v = phase.v + phase.points * self.v_point
        next.filters = phase.filters + phase.points * phase.taps * self.C * self.K
        next.m = phase.m + phase.points * self.K * self.strip
        for c in range(self.chunk):
            for t, (h, _, _) in enumerate(taps[::KW]):
                self.offset[first * self.chunk + c * phase.taps + t] = (
                    c * self.v_plane + (h - self.top) * self.v_row)
        for t, (_, _, index) in enumerate(taps):
            self.tap_index[first + t] = index
        points = WIDE_POINTS[KW]
        for e, point in enumerate(points):
            scale = 1.0
            for other in points[:e] + points[e + 1:]:
                scale *= point - other
            for t in range(KW):
                # 29 bits of it: products with a float32 are exact then, fused or not.
                value = point**t / scale
                high = value * (2.0**24 + 1)
                self.g[KW + 3][e][t] = high - (high - value)
        for t in range(KW):
            self.g[KW + 3][KW + 2][t] = t == KW - 1

    cdef real* pack(self, const real* w) except? NULL:
        """The filter, transformed: [phase, point, c, kh, k]."""
        cdef Py_ssize_t p, h, c
        cdef real* packed = self.weights.take(self.phases[self.phase_count].filters + WIDE_MOST)
        for p in range(self.phase_count):
            for c in range(self.C):
                for h in range(self.phases[p].taps):
                    self.pack_row(&self.phases[p], w + c * self.w_in, h, packed
                                  + self.phases[p].filters + (c * self.phases[p].taps + h) * self.K)
        return packed

    cdef void pack_row(self, const LineWidePhase* phase, const real* w, Py_ssize_t row,
                       real* to) noexcept nogil:
        """G w for a row of taps of one input channel, in double precision."""
        cdef double[5][8] taps
        cdef double[8] total
        cdef Py_ssize_t e, t, k, KW = phase.points - 3
        cdef const real* tap
        memset(taps, 0, sizeof(taps))
        for t in range(KW):
            tap = w + self.tap_index[phase.first_tap + row * KW + t] * self.w_tap
            for k in range(self.K):
                taps[t][k] = tap[k * self.w_out]
        for e in range(phase.points):
            for k in range(8):
                total[k] = 0
            for t in range(KW):
                for k in range(8):
                    total[k] = total[k] + self.g[phase.points][e][t] * taps[t][k]
            for k in range(self.K):
                to[k] = <real> total[k]
            to += phase.taps * self.C * self.K

    cdef real* pack_bias(self, const real* b) except? NULL:
        """The bias, or zeros."""
        cdef real* bias = self.bias.take(WIDE_MOST)
        memset(bias, 0, WIDE_MOST * sizeof(real))
        if b != NULL:
            memcpy(bias, b, self.K * sizeof(real))
        return bias

    cdef void split(self, const real* x, const real* end, real* planes, real* patch, Py_ssize_t row,
                    Py_ssize_t rows, Py_ssize_t c0, Py_ssize_t channels) noexcept nogil:
        """Input rows of one image into planes: [pixel of the quad, c][row, quad].

        VL quads at a time become squares of registers, turned over.
        """
        cdef const real* from_quad[16]
        cdef vec[16] square
        cdef real* to
        cdef Py_ssize_t lanes = rows * self.x_row, s = 0, i, j, r
        # A quad of few channels is one piece; of a chunk of many channels, a piece a pixel.
        cdef Py_ssize_t pieces = 1 if channels == self.C else TILE
        cdef Py_ssize_t length = TILE * channels if channels == self.C else channels
        while s < lanes:
            self.find_quads(from_quad, x, end, patch, row, rows, s)
            for j in range(pieces):
                r = 0
                while r < length:
                    for i in range(VL):
                        square[i] = (<const vec*> (from_quad[i] + j * self.C + c0 + r))[0]
                        prefetch(from_quad[i] + VL * TILE * self.C + j * self.C + c0 + r)
                    transpose(square)
                    to = planes + (j * channels + r) * self.plane + s
                    for i in range(VL):
                        (<vec*> to)[0] = square[i]
                        to += self.plane
                    r += VL
            s += VL
        for r in range(TILE * channels):
            memset(planes + r * self.plane + s, 0, (self.plane - s) * sizeof(real))

    cdef void find_quads(self, const real** from_quad, const real* x, const real* end, real* patch,
                         Py_ssize_t row, Py_ssize_t rows, Py_ssize_t s) noexcept nogil:
        """Where VL quads of the line start. One that passes an edge of the image is copied, padded."""
        cdef Py_ssize_t size = TILE * self.C, slot = size + 2 * VL, i = 0, n, t, h, j
        cdef Py_ssize_t inside0, inside1
        cdef const real* first
        t, h = s % self.x_row, row + s // self.x_row
        while i < VL:
            n = min(VL - i, self.x_row - t)
            if h < 0 or h >= self.H or h >= row + rows:
                for j in range(n):
                    from_quad[i + j] = patch
            else:
                first = x + (h * self.W + t * TILE + self.left) * self.C
                for j in range(n):
                    from_quad[i + j] = first + j * size
                inside0, inside1 = min(n, self.inside0 - t), max(0, self.inside1 - t)
                while inside1 > 0 and first + inside1 * size + VL > end:
                    inside1 -= 1
                for j in range(inside0):
                    from_quad[i + j] = self.pad_quad(x, h, t + j, patch + (i + j + 1) * slot)
                for j in range(inside1, n):
                    from_quad[i + j] = self.pad_quad(x, h, t + j, patch + (i + j + 1) * slot)
            i += n
            t, h = 0, h + 1

    cdef const real* pad_quad(self, const real* x, Py_ssize_t h, Py_ssize_t t,
                              real* to) noexcept nogil:
        """A copy of one quad with zeros outside the image."""
        cdef Py_ssize_t column = t * TILE + self.left
        cdef Py_ssize_t first = max(0, column), last = min(self.W, column + TILE)
        memset(to, 0, TILE * self.C * sizeof(real))
        if first < last:
            memcpy(to + (first - column) * self.C, x + (h * self.W + first) * self.C,
                   (last - first) * self.C * sizeof(real))
        return to

    cdef void transform(self, const LineWidePhase* phase, real* scratch, Py_ssize_t rows,
                        Py_ssize_t channels) noexcept nogil:
        """v = B^T planes: one line of quads, or whole vectors of each row."""
        cdef real* v = scratch + phase.v
        cdef Py_ssize_t[8] offset
        cdef Py_ssize_t i, h, lines = 1, quads = rows * self.x_row + VL
        for i in range(8):
            offset[i] = ((phase.shift + i) % TILE * channels * self.plane
                         + (phase.shift + i) // TILE)
        if self.v_row != self.x_row:
            lines, quads = rows, self.quads
        for h in range(lines):
            if phase.points == 6:
                line_inputs(6, scratch + h * self.x_row, self.plane, offset, quads, channels,
                            v + h * self.v_row, self.v_plane, self.v_point)
            elif phase.points == 7:
                line_inputs(7, scratch + h * self.x_row, self.plane, offset, quads, channels,
                            v + h * self.v_row, self.v_plane, self.v_point)
            else:
                line_inputs(8, scratch + h * self.x_row, self.plane, offset, quads, channels,
                            v + h * self.v_row, self.v_plane, self.v_point)

    cdef void multiply(self, const LineWidePhase* phase, const real* packed, real* scratch,
                       Py_ssize_t s, Py_ssize_t lanes, Py_ssize_t c0, Py_ssize_t channels,
                       ) noexcept nogil:
        """m of one phase: a strip of quads, a chunk of channels."""
        cdef Py_ssize_t e = 0, i, nv, step = phase.taps * self.C * self.K
        # Of few channels, all points of a few vectors stay in L1; of a chunk, one point of all.
        cdef Py_ssize_t points = phase.points if self.chunk == self.C else 1
        packed += phase.filters + phase.taps * c0 * self.K
        while e < phase.points:
            i = 0
            while i < lanes:
                nv = line_vectors(self.K, (lanes - i + VL - 1) // VL)
                line_wide_tile_of(
                    self.K, nv, points, scratch + phase.v + e * self.v_point + s + i, self.v_point,
                    self.offset + phase.first_tap * self.chunk, phase.taps * channels,
                    packed + e * step, step, c0 == 0,
                    scratch + self.m + phase.m + e * self.K * self.strip + i, self.strip)
                i += nv * VL
            e += points

    cdef void finish(self, const LineWidePhase* phase, const real* b, bint relu, real* scratch, real* z,
                     Py_ssize_t z_plane, Py_ssize_t lanes, vec* check) noexcept nogil:
        """z of one phase, a strip of quads."""
        cdef const real* m = scratch + self.m + phase.m
        cdef Py_ssize_t z_pixel = self.stride_w * self.K * z_plane
        z += (phase.to_row * self.record + phase.to_column * self.K) * z_plane
        if phase.points == 6:
            line_outputs(6, m, self.strip, self.K, lanes, b, relu, z, z_plane, z_pixel, check)
        elif phase.points == 7:
            line_outputs(7, m, self.strip, self.K, lanes, b, relu, z, z_plane, z_pixel, check)
        else:
            line_outputs(8, m, self.strip, self.K, lanes, b, relu, z, z_plane, z_pixel, check)

    cdef void join(self, const real* z, real* patch, real* y, Py_ssize_t rows, Py_ssize_t s,
                   Py_ssize_t lanes) noexcept nogil:
        """y[row * stride_h, quad] = z[:, quad of the line], for `lanes` of them from s on.

        Whole vectors are written. What hangs over a quad is overwritten by the next one: so the last
        block of numbers comes first. What would hang over the row is copied.
        """
        cdef real* to_quad[16]
        cdef Py_ssize_t size = self.record, slot = size + 2 * VL, line = self.TW * self.K
        cdef Py_ssize_t whole = (size + VL - 1) // VL * VL
        cdef Py_ssize_t plain = (line - whole) // size + 1 if line >= whole else 0
        cdef Py_ssize_t p = 0, i, j, n, r, t, h
        cdef const real* source
        cdef bint ragged
        cdef vec[16] square
        t, h = s % self.v_row, s // self.v_row
        while p < lanes:
            ragged = False
            i = 0
            while i < VL:
                n = min(VL - i, self.v_row - t)
                for j in range(n):
                    to_quad[i + j] = y + h * self.stride_h * line + (t + j) * size
                for j in range(min(n, max(0, plain - t)) if h < rows else 0, n):
                    to_quad[i + j] = patch + (i + j) * slot
                    ragged = True
                i += n
                t += n
                if t == self.v_row:
                    t, h = 0, h + 1
            r = (size - 1) // VL * VL
            while r >= 0:
                source = z + r * self.strip + p
                for i in range(VL):
                    square[i] = (<const vec*> source)[0]
                    source += self.strip
                transpose(square)
                for i in range(VL):
                    (<vec*> (to_quad[i] + r))[0] = square[i]
                r -= VL
            for i in range(VL if ragged else 0):
                if to_quad[i] == patch + i * slot:
                    self.store_ragged(to_quad[i], y, rows, s + p + i)
            p += VL

    cdef void store_ragged(self, const real* quad, real* y, Py_ssize_t rows,
                           Py_ssize_t s) noexcept nogil:
        """What of a quad lies inside its row."""
        cdef Py_ssize_t h = s // self.v_row, at = s % self.v_row * self.record
        cdef Py_ssize_t line = self.TW * self.K
        if h < rows and at < line:
            memcpy(y + h * self.stride_h * line + at, quad,
                   min(self.record, line - at) * sizeof(real))

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """A band of rows of one image."""
        cdef Py_ssize_t n = item // self.bands, q0 = item % self.bands * self.band
        cdef Py_ssize_t rows = min(self.band, self.rows - q0), size = self.H * self.W * self.C
        if self.run_rows(x + n * size, x + self.N * size, packed, b, relu, scratch, q0, rows,
                         y + (n * self.TH + q0 * self.stride_h) * self.TW * self.K, NULL, 0):
            self.spoiled = True

    cdef bint run_rows(self, const real* x, const real* end, const real* packed, const real* b,
                       bint relu, real* scratch, Py_ssize_t q0, Py_ssize_t rows, real* y, real* z,
                       Py_ssize_t z_plane) noexcept nogil:
        """Outputs q, from q0 on, of all phases: into y, or if it is NULL, as planes into z.

        Returns whether some are not finite.
        """
        cdef Py_ssize_t in_rows = rows + self.span_h - 1, total = rows * self.v_row
        cdef Py_ssize_t c0 = 0, channels, p, s, lanes
        cdef LineWidePhase* phase
        cdef vec check = vec_set(0)
        memset(scratch + self.patch, 0, (TILE * self.C + 2 * VL) * sizeof(real))
        while c0 < self.C:
            channels = min(self.chunk, self.C - c0)
            self.split(x, end, scratch, scratch + self.patch, q0 + self.top, in_rows, c0, channels)
            for p in range(self.phase_count):
                if self.phases[p].fresh:
                    self.transform(&self.phases[p], scratch, in_rows, channels)
            s = 0
            while s < total:
                lanes = min(self.strip, total - s)
                for p in range(self.phase_count):
                    phase = &self.phases[p]
                    self.multiply(phase, packed, scratch, s, lanes, c0, channels)
                    if c0 + channels == self.C and y != NULL:
                        self.finish(phase, b, relu, scratch, scratch + self.z, self.strip, lanes,
                                    &check)
                        if p + 1 == self.phase_count or self.phases[p + 1].to_row != phase.to_row:
                            self.join(scratch + self.z + phase.to_row * self.record * self.strip,
                                      scratch + self.patch + TILE * self.C + 2 * VL,
                                      y + phase.to_row * self.TW * self.K,
                                      min(rows, phase.rows - q0), s, lanes)
                    elif c0 + channels == self.C:
                        self.finish(phase, b, relu, scratch, z + s, z_plane, lanes, &check)
                s += lanes
            c0 += channels
        return any_nan(check)

    cdef bint run(self, const real* x, const real* w, const real* b, bint relu, real* y,
                  int num_threads) except -1:
        """Compute y; False if some of it is not finite and all of it must be computed directly."""
        cdef Py_ssize_t item
        cdef int threads = team(self.work, num_threads)
        cdef real* packed = self.pack(w)
        cdef real* bias = self.pack_bias(b)
        cdef real* scratch = self.scratch.take(threads * self.area)
        self.spoiled = False
        region_starts(is_shared(self.work))
        for item in prange(self.items, schedule="dynamic", chunksize=handful(self.items),
                           num_threads=threads, nogil=True):
            self.run_item(x, packed, bias, relu, y, scratch + threadid() * self.area, item)
            item_ends()
        return not self.spoiled
