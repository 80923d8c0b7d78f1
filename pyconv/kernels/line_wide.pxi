# Few output channels: Winograd along the rows, F(4, r), with vectors along the pixels.
#
#     y[row] = A^T [ sum over kh, c of (G w[kh, :, c]) * (B^T x[row + kh, :, c]) ]
#
# Four neighbouring outputs, a *quad*, take r + 3 products for each kh and c, instead of 4 r, and
# the sum over kh and c runs between the transforms: a row of the input is transformed once, for all
# output channels and all rows of the filter. Lanes of a vector are quads, and the rows of a band
# follow each other as one line of quads, so that short rows fill vectors too:
#
#     x  --split-->  planes[pixel of the quad, c][quad]  --B^T-->  v[part, point, c][quad]
#        --products-->  m[point, k][quad]  --A^T-->  z[pixel of the quad, k][quad]  --join-->  y
#
# As in line.pxi, taps that are not neighbours, or too many, are dealt out to *parts* of r taps at
# most, with a transform of their own but the same points: their products meet in the same sums. At
# stride or dilation s a quad reads every s-th of 4 s pixels; its outputs lie s apart at a dilation,
# and in dx at a stride, where each of the s phases has outputs and sums of its own.
#
# Groups of few channels are split and joined several at a time, a *set*, which fills vectors.
#
# As in winograd.pxi, a finite y is right; otherwise `run` says False, and the caller computes directly.

cdef enum:
    WIDE_MOST = 8           # output channels: their sums for one vector or two fill the registers
    STRIP = 512             # outputs of a strip: its products and outputs, 40 KB at most, stay in L1
    LINE_CHUNK = 16         # input channels: one point of them, in the rows of a band, stays in L1
    FEW_CHANNELS = 24       # no more are not worth a second chunk


cdef struct LineWidePhase:
    Py_ssize_t to_row, to_column    # where output q = 0 goes
    Py_ssize_t rows                 # outputs q
    Py_ssize_t first_run, runs      # (part, row of taps)
    Py_ssize_t filters              # where its transformed filter starts,
    Py_ssize_t m                    # and its m


cdef class LineWide(Packer):
    """y, or dx, of a convolution with few output channels: what the `Gather` g computes directly."""
    cdef Py_ssize_t N, H, W, C, TH, TW, TC, C_group, K, step_h, step_w, stride_h, stride_w
    cdef Py_ssize_t w_tap, w_in, w_out, w_group
    cdef Py_ssize_t phase_count, part_count, run_count, top, left, span_h
    cdef Py_ssize_t taps, points        # of a part: r, and r + 3,
    cdef Py_ssize_t finite              # one of which may be infinity
    cdef Py_ssize_t groups, set, sets   # groups of a set
    cdef Py_ssize_t rows, quads         # of a phase; a row's outputs, in quads
    cdef Py_ssize_t band, bands, chunk
    cdef Py_ssize_t pixels, slots       # of x that a quad is spread over; input rows / step_h
    cdef Py_ssize_t x_row, v_row        # quads from row to row, of the planes and of v
    cdef Quads x_quads
    cdef Py_ssize_t plane, v_plane, v_point, v_part, strip, record
    cdef Py_ssize_t v, m, z, patch, slot  # starts in a thread's workspace, behind the planes
    cdef Py_ssize_t filters             # numbers of a group's transformed filter
    cdef LineWidePhase* phases
    cdef Py_ssize_t* first              # the first column of each part, from `left` on
    cdef Py_ssize_t* offset             # in v, by channel of a group or chunk, and run
    cdef Py_ssize_t* tap_index          # in the filter: `taps` of each run; -1: none
    cdef LineTable table
    cdef double[10][7] g                # G

    def __cinit__(self, Gather g):
        self.N, self.H, self.W, self.C = g.N, g.H, g.W, g.C
        self.TH, self.TW, self.TC = g.TH, g.TW, g.TC
        self.groups, self.C_group, self.K = g.groups, g.C_group, g.K_group
        self.step_h, self.step_w = g.step_h, g.step_w
        self.stride_h, self.stride_w = g.stride_h, g.stride_w
        self.w_tap, self.w_in, self.w_out, self.w_group = g.w_tap, g.w_in, g.w_out, g.w_group
        self.blocks = 1
        self.work, self.top, self.left, self.span_h = g.work, g.top, g.left, g.span_h
        self.rows, self.phase_count = g.rows, g.phase_count
        self.pixels = TILE * self.step_w
        phases = [((g.phases[p].to_row, g.phases[p].to_column),
                   [(g.tap_h[t], g.tap_w[t], g.tap_index[t])
                    for t in range(g.phases[p].first_tap, g.phases[p].first_tap + g.phases[p].taps)])
                  for p in range(g.phase_count)]
        parts = line_parts(phases, self.step_w, self.C_group)
        self.taps = max(2, max([len(part) for of_phase in parts for part in of_phase]))
        self.points = self.taps + TILE - 1
        firsts = sorted({part[0] for of_phase in parts for part in of_phase})
        self.part_count = len(firsts)
        self.cut(g)
        self.fill_transform()
        self.deal_out(phases, parts, firsts)
        self.lay_out()

    def __dealloc__(self):
        free(self.phases)
        free(self.first)
        free(self.offset)

    cdef cut(self, Gather g):
        """Choose bands, chunks and sets. How rows follow each other does not change their outputs."""
        cdef Py_ssize_t in_rows
        self.quads = (g.columns + TILE - 1) // TILE
        self.x_row = ((g.columns - 1) * self.step_w + g.span_w + self.pixels - 1) // self.pixels
        self.v_row = self.quads if self.quads % LANES == 0 else self.x_row
        self.chunk = self.C_group if self.C_group <= FEW_CHANNELS else LINE_CHUNK
        self.set = 1
        if self.chunk == self.C_group:
            self.set = max(1, min(self.groups, LINE_CHUNK // max(self.C_group, self.K)))
        self.sets = (self.groups + self.set - 1) // self.set
        self.record = TILE * self.stride_w * self.set * self.K
        self.band = max(1, self.rows)
        while self.band > 1 and (
            # A low band transforms the rows that it shares with the next one too often.
            self.band_bytes() > (BAND_BYTES if self.band >= 2 * self.span_h else 2 * BAND_BYTES)
            or self.too_few_items()
        ):
            self.band = (self.band + 1) // 2
        self.slots = self.slots_of(self.band)
        in_rows = self.slots * self.step_h
        self.bands = (self.rows + self.band - 1) // self.band
        self.items = self.N * self.bands * self.sets
        # Quads that hang over read what follows, by as much as the taps reach.
        self.plane = (in_rows * self.x_row + (g.span_w + 9 * self.step_w) // self.pixels
                      + 4 * VL) // VL * VL
        self.x_quads = Quads(self.H, self.W, self.C, self.pixels, self.left, self.x_row, self.step_h,
                             self.slots, self.plane)
        self.v_plane = (in_rows * self.v_row + 3 * VL) // VL * VL
        # No multiple of 4096 bytes, as in winograd.pxi.
        self.v_point = self.set * self.chunk * self.v_plane + 16
        self.v_part = self.points * self.v_point
        self.strip = (self.band * self.v_row + VL - 1) // VL * VL
        if self.chunk == self.C_group:
            self.strip = even_part(self.strip // VL, STRIP // self.K // VL) * VL

    cdef Py_ssize_t slots_of(self, Py_ssize_t band):
        """Input rows of a band that share their remainder by step_h."""
        return band - 1 + (self.span_h + self.step_h - 1) // self.step_h

    cdef Py_ssize_t band_bytes(self):
        """Of the planes and v."""
        return (self.slots_of(self.band) * self.step_h * self.x_row * self.set * self.chunk
                * (self.pixels + self.points * self.part_count) * sizeof(real))

    cdef bint too_few_items(self):
        cdef Py_ssize_t items = self.N * ((self.rows + self.band - 1) // self.band) * self.sets
        return too_few(items, ITEMS, self.work)

    cdef fill_transform(self):
        cdef Py_ssize_t e, t
        fill_table(&self.table, max(2, (self.taps + 2) // 2))  # used where line_wide_tile has no other
        points = WIDE_POINTS[self.taps]
        self.finite = len(points)
        for e, point in enumerate(points):
            scale = 1.0
            for other in points[:e] + points[e + 1:]:
                scale *= point - other
            for t in range(self.taps):
                # 29 bits of it: products with a float32 are exact then, fused or not.
                value = point**t / scale
                high = value * (2.0**24 + 1)
                self.g[e][t] = high - (high - value)
        for t in range(self.taps if len(points) < self.points else 0):
            self.g[self.points - 1][t] = t == self.taps - 1

    cdef deal_out(self, list phases, list parts, list firsts):
        """Fill the phases and their runs."""
        cdef Py_ssize_t p, c, h, run = 0, t
        runs = [[(part, h) for part in of_phase for h in sorted({h for h, _, _ in taps})]
                for of_phase, (_, taps) in zip(parts, phases)]
        self.run_count = sum([len(of_phase) for of_phase in runs])
        self.phases = <LineWidePhase*> malloc((self.phase_count + 1) * sizeof(LineWidePhase))
        self.first = <Py_ssize_t*> malloc((self.part_count + 1) * sizeof(Py_ssize_t))
        self.offset = <Py_ssize_t*> malloc(
            ((self.chunk + self.taps) * self.run_count + 1) * sizeof(Py_ssize_t))
        if self.phases == NULL or self.first == NULL or self.offset == NULL:
            raise MemoryError()
        self.tap_index = self.offset + self.chunk * self.run_count
        for p, column in enumerate(firsts):
            self.first[p] = column - self.left
        self.phases[0].filters = self.phases[0].m = 0
        for p, ((to_row, to_column), taps) in enumerate(phases):
            self.phases[p].to_row, self.phases[p].to_column = to_row, to_column
            self.phases[p].rows = max(0, -((to_row - self.TH) // self.stride_h))
            self.phases[p].first_run, self.phases[p].runs = run, len(runs[p])
            self.phases[p + 1].filters = (
                self.phases[p].filters + self.points * len(runs[p]) * self.C_group * self.K)
            self.phases[p + 1].m = self.phases[p].m + self.points * self.K * self.strip
            index = {(h, w): i for h, w, i in taps}
            for t, (part, h) in enumerate(runs[p]):
                for c in range(self.chunk):
                    self.offset[run * self.chunk + c * len(runs[p]) + t] = (
                        firsts.index(part[0]) * self.v_part + c * self.v_plane
                        + ((h - self.top) % self.step_h * self.slots + (h - self.top) // self.step_h)
                        * self.v_row)
                for c in range(self.taps):
                    self.tap_index[(run + t) * self.taps + c] = (
                        index[h, part[c]] if c < len(part) else -1)
            run += len(runs[p])
        self.filters = self.phases[self.phase_count].filters

    cdef lay_out(self):
        """Where things are in a workspace. All of it is read and written in whole vectors."""
        self.v = (self.pixels * self.set * self.chunk + VL) * self.plane
        self.m = self.v + self.part_count * self.v_part
        self.z = self.m + self.phases[self.phase_count].m
        self.patch = self.z + (self.stride_h * self.record + VL) * self.strip
        self.slot = max(self.pixels * self.C, TILE * self.stride_w * self.TC) + 2 * VL
        self.area = (self.patch + (VL + 1) * self.slot + 15) // 16 * 16

    cdef int pack(self, Packed* packed, const real* w, int threads, Py_ssize_t version) except -1:
        return self.pack_weights(packed, w, self.groups * self.filters + WIDE_MOST, threads, version)

    cdef void pack_block(self, const real* w, real* packed, Py_ssize_t block) noexcept nogil:
        """The only one: [group, phase, point, c, run, k]."""
        cdef Py_ssize_t p, h, c, group
        for group in range(self.groups):
            for p in range(self.phase_count):
                for c in range(self.C_group):
                    for h in range(self.phases[p].runs):
                        self.pack_run(
                            &self.phases[p], w + group * self.w_group + c * self.w_in, h,
                            packed + group * self.filters + self.phases[p].filters
                            + (c * self.phases[p].runs + h) * self.K)

    cdef void pack_run(self, const LineWidePhase* phase, const real* w, Py_ssize_t run,
                       real* to) noexcept nogil:
        """G w for a run of taps of one input channel, in double precision."""
        cdef double[7][8] taps
        cdef double[8] total
        cdef Py_ssize_t e, t, k
        cdef const Py_ssize_t* index = self.tap_index + (phase.first_run + run) * self.taps
        memset(taps, 0, sizeof(taps))
        for t in range(self.taps):
            for k in range(self.K if index[t] >= 0 else 0):
                taps[t][k] = w[index[t] * self.w_tap + k * self.w_out]
        for e in range(self.points):
            for k in range(8):
                total[k] = 0
            for t in range(self.taps):
                for k in range(8):
                    total[k] = total[k] + self.g[e][t] * taps[t][k]
            for k in range(self.K):
                to[k] = <real> total[k]
            to += phase.runs * self.C_group * self.K

    cdef real* pack_bias(self, const real* b) except? NULL:
        return padded_bias(self.bias, b, 1, 1, self.TC, self.TC)

    cdef void transform(self, Py_ssize_t part, real* scratch, Py_ssize_t rows,
                        Py_ssize_t channels) noexcept nogil:
        """v = B^T planes: one line of quads, or whole vectors of each row."""
        cdef real* v = scratch + self.v + part * self.v_part
        cdef Py_ssize_t[10] offset
        cdef Py_ssize_t i, h, lines = 1, quads = rows * self.x_row + VL, pixel
        for i in range(self.points):
            pixel = self.first[part] + i * self.step_w
            offset[i] = pixel % self.pixels * channels * self.plane + pixel // self.pixels
        if self.v_row != self.x_row:
            lines, quads = rows, self.quads
        for h in range(lines):
            line_inputs_of(self.points, &self.table, scratch + h * self.x_row, self.plane, offset,
                           quads, channels, v + h * self.v_row, self.v_plane, self.v_point)

    cdef void multiply(self, const LineWidePhase* phase, const real* packed, const real* v, real* m,
                       Py_ssize_t lanes, Py_ssize_t c0, Py_ssize_t channels, const real* ahead,
                       Py_ssize_t fetched) noexcept nogil:
        """m of one phase and group: a strip of quads, a chunk of channels. Asks for what is ahead."""
        cdef Py_ssize_t e = 0, i, k, nv, step = phase.runs * self.C_group * self.K
        cdef Py_ssize_t width = even_part(self.K, TILE_2)
        # Of few channels, all points of a few vectors stay in L1; of a chunk, one point of all.
        cdef Py_ssize_t points = self.points if self.chunk == self.C_group else 1
        packed += phase.filters + phase.runs * c0 * self.K
        while e < self.points:
            i = 0
            while i < lanes:
                nv = line_vectors(width, (lanes - i + VL - 1) // VL)
                if e == 0:
                    fetch_run(ahead + fetched * i // lanes, fetched * nv * VL // lanes)
                k = 0
                while k < self.K:
                    line_wide_tile_of(
                        min(width, self.K - k), nv, points, v + e * self.v_point + i, self.v_point,
                        self.offset + phase.first_run * self.chunk, phase.runs * channels,
                        packed + e * step + k, self.K, step, c0 == 0,
                        m + (e * self.K + k) * self.strip + i, self.strip)
                    k += width
                i += nv * VL
            e += points

    cdef void join(self, const real* z, real* patch, real* y, Py_ssize_t rows, Py_ssize_t s,
                   Py_ssize_t lanes, Py_ssize_t channels) noexcept nogil:
        """y[row * stride_h, quad] = z[:, quad of the line], for `lanes` of them from s on.

        Of one set, whole vectors are written. What hangs over a quad is overwritten by the next one:
        so the last block of numbers comes first. What would hang over the row is copied.
        """
        cdef real* to_quad[16]
        cdef Py_ssize_t size = TILE * self.stride_w * self.TC, line = self.TW * self.TC
        cdef Py_ssize_t whole = (self.record + VL - 1) // VL * VL if self.sets == 1 else size
        cdef Py_ssize_t plain = (line - whole) // size + 1 if line >= whole else 0
        cdef Py_ssize_t p = 0, i, j, n, t, h
        cdef bint ragged
        t, h = s % self.v_row, s // self.v_row
        while p < lanes:
            ragged = False
            i = 0
            while i < VL:
                n = min(VL - i, self.v_row - t)
                for j in range(n):
                    to_quad[i + j] = y + h * self.stride_h * line + (t + j) * size
                for j in range(min(n, max(0, plain - t)) if h < rows else 0, n):
                    to_quad[i + j] = patch + (i + j) * self.slot
                    ragged = True
                i += n
                t += n
                if t == self.v_row:
                    t, h = 0, h + 1
            if self.sets == 1:
                self.join_piece(z + p, to_quad, 0, self.record, whole)
            else:
                for j in range(TILE * self.stride_w):
                    self.join_piece(z + j * self.set * self.K * self.strip + p, to_quad, j * self.TC,
                                    channels, channels)
            for i in range(VL if ragged else 0):
                if to_quad[i] == patch + i * self.slot:
                    self.store_ragged(to_quad[i], y, rows, s + p + i, channels)
            p += VL

    cdef void join_piece(self, const real* z, real** to_quad, Py_ssize_t at, Py_ssize_t length,
                         Py_ssize_t space) noexcept nogil:
        """to_quad[i][at + r] = z[r, i] for r < length; there is room for `space` numbers."""
        cdef Py_ssize_t r = (length - 1) // VL * VL, i
        cdef const real* source
        cdef vec[16] square
        while r >= 0:
            source = z + r * self.strip
            for i in range(VL):
                square[i] = (<const vec*> source)[0]
                source += self.strip
            transpose(square)
            if r + VL <= space:
                for i in range(VL):
                    (<vec*> (to_quad[i] + at + r))[0] = square[i]
            else:
                for i in range(VL):
                    copy_short(to_quad[i] + at + r, <real*> &square[i], space - r)
            r -= VL

    cdef void store_ragged(self, const real* quad, real* y, Py_ssize_t rows, Py_ssize_t s,
                           Py_ssize_t channels) noexcept nogil:
        """What of a quad lies inside its row."""
        cdef Py_ssize_t h = s // self.v_row, w = s % self.v_row * TILE * self.stride_w
        cdef Py_ssize_t last = min(self.TW, w + TILE * self.stride_w)
        y += (h * self.stride_h * self.TW + w) * self.TC
        if h < rows and w < last and self.sets == 1:
            memcpy(y, quad, (last - w) * self.TC * sizeof(real))
        elif h < rows:
            while w < last:
                memcpy(y, quad, channels * sizeof(real))
                y += self.TC
                quad += self.TC
                w += 1

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """A band of rows of one image, for one set of groups."""
        cdef Py_ssize_t n = item // self.sets // self.bands
        cdef Py_ssize_t q0 = item // self.sets % self.bands * self.band
        cdef Py_ssize_t rows = min(self.band, self.rows - q0), size = self.H * self.W * self.C
        if self.run_rows(x + n * size, x + self.N * size, packed, b, relu, scratch, q0, rows,
                         y + (n * self.TH + q0 * self.stride_h) * self.TW * self.TC, NULL, 0,
                         item % self.sets * self.set):
            self.spoiled = True

    cdef bint run_rows(self, const real* x, const real* end, const real* packed, const real* b,
                       bint relu, real* scratch, Py_ssize_t q0, Py_ssize_t rows, real* y, real* z,
                       Py_ssize_t z_plane, Py_ssize_t first) noexcept nogil:
        """Outputs q, from q0 on, of all phases, of a set of groups: into y, or as planes into z.

        Returns whether some are not finite.
        """
        cdef Py_ssize_t in_rows = (rows - 1) * self.step_h + self.span_h, total = rows * self.v_row
        cdef Py_ssize_t groups = min(self.set, self.groups - first), c0 = 0, channels, p, s, lanes
        cdef Py_ssize_t fetched
        cdef LineWidePhase* phase
        cdef vec check = vec_set(0)
        cdef Py_ssize_t line = self.W * self.C, ahead = rows * self.step_h * line
        # What the next band adds.
        cdef const real* next = x + ((q0 + rows - 1) * self.step_h + self.span_h + self.top) * line
        memset(scratch + self.patch, 0, (self.pixels * self.C + 2 * VL) * sizeof(real))
        packed += first * self.filters
        b += first * self.K
        if y != NULL:
            y += first * self.K
        while c0 < self.C_group:
            channels = min(self.chunk, self.C_group - c0)
            self.x_quads.split(x, end, scratch, scratch + self.patch, q0 * self.step_h + self.top,
                               in_rows, first * self.C_group + c0, groups * channels)
            for p in range(self.part_count):
                self.transform(p, scratch, self.x_quads.lines(in_rows), groups * channels)
            s = 0
            while s < total:
                lanes = min(self.strip, total - s)
                for p in range(self.phase_count):
                    phase = &self.phases[p]
                    fetched = ahead * lanes // total if first == c0 == p == 0 else 0
                    if y == NULL:
                        self.run_strip(phase, packed, b, relu, scratch, z + s, z_plane, s, lanes,
                                       groups, c0, channels, next + ahead * s // total, fetched, &check)
                        continue
                    self.run_strip(phase, packed, b, relu, scratch, scratch + self.z, self.strip, s,
                                   lanes, groups, c0, channels, next + ahead * s // total, fetched,
                                   &check)
                    if c0 + channels == self.C_group and (
                            p + 1 == self.phase_count or self.phases[p + 1].to_row != phase.to_row):
                        self.join(scratch + self.z + phase.to_row * self.record * self.strip,
                                  scratch + self.patch + self.slot, y + phase.to_row * self.TW * self.TC,
                                  min(rows, phase.rows - q0), s, lanes, groups * self.K)
                s += lanes
            c0 += channels
        return any_nan(check)

    cdef void run_strip(self, const LineWidePhase* phase, const real* packed, const real* b, bint relu,
                        real* scratch, real* z, Py_ssize_t z_plane, Py_ssize_t s, Py_ssize_t lanes,
                        Py_ssize_t groups, Py_ssize_t c0, Py_ssize_t channels, const real* ahead,
                        Py_ssize_t fetched, vec* check) noexcept nogil:
        """A strip of one phase, group by group: products, and behind the last channel z."""
        cdef real* m = scratch + self.m + phase.m
        cdef Py_ssize_t g, pixel = self.set * self.K * z_plane
        z += phase.to_row * self.record * z_plane + phase.to_column * pixel
        for g in range(groups):
            self.multiply(phase, packed + g * self.filters,
                          scratch + self.v + g * channels * self.v_plane + s, m, lanes, c0, channels,
                          ahead, fetched if g == 0 else 0)
            if c0 + channels == self.C_group:
                line_outputs_of(self.points, &self.table, m, self.strip, self.K, lanes, b + g * self.K,
                                relu, z + g * self.K * z_plane, z_plane, self.stride_w * pixel, check)
