# Winograd along the rows, F(4, r): 4 neighbouring outputs of r taps from r + 3 products instead of 4 r.
#
#     y = A^T [sum over kernel rows and channels of (G w) * (B^T d)]    4 outputs from r + 3 inputs d
#
# For kernels that winograd.pxi does not take: few input channels, 4x4, 5x5, 7x7, 1x7, strides,
# dilations. The sum runs over kernel rows and channels, so at each of the r + 3 points it is a matrix
# product of transformed pixels (scalars) with transformed filters (vectors of output channels). A row
# of input is transformed once for all kernel rows and output channels that read it.
#
# Taps that are not neighbours are dealt out to *parts*, each with a transform of its own: at stride 2,
# 7 taps are 4 even and 3 odd ones, which read even and odd pixels: 7 + 6 products instead of 28. Parts
# share the points, with one fewer where they have a tap less, hence also the sums and A^T.
#
# As in winograd.pxi, any value that is not finite makes every sum that it enters infinite or NaN; then
# `run` says False, and the caller computes all of it directly.

cdef enum:
    LINE_TILES = 24           # of 4 outputs: their sums at all points (30 KB) stay in L1
    LINE_LONG = 256           # sums longer than this take 3 pairs at most: the error grows with both
    LINE_LONGEST = 4096       # and none may be longer
    LINE_BYTES = 524_288      # of transformed pixels: half of L2
    SHORT_SUM = 12            # products: see `line_pair`
    ASKED = 4                 # tiles whose outputs are asked for ahead: 32 lines, some 400 cycles
    COMB_QUADS = 4            # of a row at once: a line of the cache for each pixel


cdef struct LinePart:
    Py_ssize_t first          # column of the first tap, from `left`
    Py_ssize_t[LINE_POINTS] read  # where its inputs are in a combed row
    Py_ssize_t kind           # it has 2 * pairs + kind points
    Py_ssize_t plane          # its first plane of transformed pixels


cdef struct LinePhase:
    Py_ssize_t rows, columns      # outputs q of this phase
    Py_ssize_t to_row, to_column  # where output q = 0 goes
    Py_ssize_t kind               # points at 0 and infinity
    Py_ssize_t first_run, runs    # (part, kernel row), those of parts with all points first
    Py_ssize_t whole_runs         # so many are there at the last point
    Py_ssize_t first_u            # runs * points of the phases before


cdef list spread_columns(list phases, Py_ssize_t d, Py_ssize_t columns):
    """At dilation d along the rows, outputs d pixels apart share their inputs: d phases for each."""
    return phases if d == 1 else [
        ((row, r), [(h, w + r, index) for h, w, index in taps])
        for (row, _), taps in phases for r in range(min(d, columns))]


cdef Py_ssize_t longest_sum(list phases, Py_ssize_t C) except -1:
    """Kernel rows times C input channels."""
    return C * max([len({h for h, _, _ in taps}) for _, taps in phases])


cdef Py_ssize_t most_taps(list phases, Py_ssize_t C) except -1:
    """Those of a part."""
    return TAPS if longest_sum(phases, C) <= LINE_LONG else TAPS - 2


cdef list line_parts(list phases, Py_ssize_t step, Py_ssize_t C):
    """Of each phase, its parts: columns of taps that are `step` apart.

    None if there is no transform: taps are alone, or apart, or sums would be too long.
    """
    cdef Py_ssize_t most
    combs, parts = [], []
    for _, taps in phases:
        columns = sorted({w for _, w, _ in taps})
        of_phase = [[w for w in columns if w % step == r] for r in range(step)]
        if any([b - a != step for comb in of_phase for a, b in zip(comb, comb[1:])]):
            return None
        combs.append(of_phase)
    longest = max([len(comb) for of_phase in combs for comb in of_phase])
    if longest < 2 or longest_sum(phases, C) > LINE_LONGEST:
        return None
    most = even_part(longest, most_taps(phases, C))
    for of_phase in combs:
        cut = []
        for comb in of_phase:
            while comb:
                cut.append(comb[:even_part(len(comb), most)])
                comb = comb[even_part(len(comb), most):]
        parts.append(cut)
    return parts


cdef class Line(Packer):
    """y or dx of a convolution by one-dimensional transforms. Parameters as for `Gather`.

    The output channels of a group should fill vectors.
    """
    cdef Py_ssize_t N, H, W, C, TH, TW, TC, C_group, K_group
    cdef Py_ssize_t step_h, step_w, stride_h, stride_w
    cdef Py_ssize_t w_in, w_out, w_group, w_tap
    cdef Py_ssize_t block, blocks_group
    cdef Py_ssize_t pairs, kind, taps, planes              # of the longest part; of all parts
    cdef Py_ssize_t top, left, span_h, reach               # reach of the taps
    cdef Py_ssize_t rows, columns, band, bands, chunk, chunks
    cdef Py_ssize_t across, slots                          # tiles side by side; input rows / step_h
    cdef Py_ssize_t comb, count                            # an input row's plane, and its pixels
    cdef Py_ssize_t quads, quad_step, v_step, u_size
    cdef Py_ssize_t part_count, phase_count, run_count
    cdef LinePart* parts
    cdef LinePhase* phases
    cdef Py_ssize_t* place                                 # of a pixel in a combed row
    cdef Py_ssize_t* run_offset
    cdef Py_ssize_t* run_kind
    cdef Py_ssize_t* run_tap                               # [run, TAPS]; -1: none
    cdef LineTable table

    def __cinit__(self, source, target, Py_ssize_t groups, step, stride, list phases, filter_step):
        self.N, self.H, self.W, self.C = source
        self.TH, self.TW, self.TC = target[1:]
        self.C_group, self.K_group = self.C // groups, self.TC // groups
        self.step_h, self.step_w = step
        self.stride_h, self.stride_w = stride
        self.w_tap, self.w_in, self.w_out, self.w_group = filter_step
        self.block = 2 * VL if self.K_group > VL else VL
        self.blocks_group = (self.K_group + self.block - 1) // self.block
        self.blocks = groups * self.blocks_group
        dealt = self.deal_out(phases)
        self.cut()
        self.place_runs(dealt)

    def __dealloc__(self):
        free(self.parts)
        free(self.phases)
        free(self.run_offset)
        free(self.place)

    cdef list deal_out(self, list phases):
        """Find the parts; for each phase, its runs: (plane, kind, kernel row, indices of the taps)."""
        cdef Py_ssize_t p, i, count
        cdef dict planes = {}
        cdef list dealt = []
        rows = [sorted({h for h, _, _ in taps}) for _, taps in phases]
        columns = [sorted({w for _, w, _ in taps}) for _, taps in phases]
        combs = [[[w for w in ws if w % self.step_w == r] for r in range(self.step_w)]
                 for ws in columns]
        self.taps = max(2, even_part(max([len(comb) for of_phase in combs for comb in of_phase]),
                                     most_taps(phases, self.C_group)))
        self.pairs = (self.taps + TILE - 2) // 2
        self.kind = self.taps + TILE - 1 - 2 * self.pairs
        fill_table(&self.table, self.pairs)
        self.top = min(h for hs in rows for h in hs)
        self.left = min(w for ws in columns for w in ws)
        self.span_h = max(h for hs in rows for h in hs) - self.top + 1
        self.planes = self.reach = 0
        for p, (_, taps) in enumerate(phases):
            index = {(h, w): i for h, w, i in taps}
            parts = []
            for comb in combs[p]:
                while comb:
                    count = even_part(len(comb), self.taps)
                    parts.append((comb[0], self.kind - (count < self.taps), comb[:count]))
                    comb = comb[count:]
            runs = []
            for first, kind, ws in ([part for part in parts if part[1] == self.kind]
                                    + [part for part in parts if part[1] != self.kind]):
                if (first, kind) not in planes:
                    planes[first, kind] = self.planes
                    self.planes += 2 * self.pairs + kind
                    self.reach = max(self.reach, first - self.left
                                     + (2 * self.pairs + kind - 1) * self.step_w)
                runs += [(planes[first, kind], kind, h, [index[h, w] for w in ws]) for h in rows[p]]
            dealt.append((phases[p][0], runs))
        self.part_count = len(planes)
        self.parts = <LinePart*> malloc(self.part_count * sizeof(LinePart))
        if self.parts == NULL:
            raise MemoryError()
        for i, ((first, kind), plane) in enumerate(planes.items()):
            self.parts[i].first, self.parts[i].kind = first - self.left, kind
            self.parts[i].plane = plane
        self.rows = max(-((to_row - self.TH) // self.stride_h) for (to_row, _), _ in phases)
        self.columns = max(-((to_column - self.TW) // self.stride_w) for (_, to_column), _ in phases)
        self.work = self.N * self.C_group * self.TC * sum(
            -((row - self.TH) // self.stride_h) * -((column - self.TW) // self.stride_w) * len(taps)
            for (row, column), taps in phases)
        return dealt

    cdef cut(self):
        """Choose work items and how many tiles lie side by side: by shape alone."""
        cdef Py_ssize_t i, j
        cdef Py_ssize_t tiles = (self.columns + TILE - 1) // TILE
        self.across, self.band, self.chunks = tiles, self.rows, 1
        while self.band > 1 and (
            self.band > 2 * self.span_h and (self.too_large() or self.too_few_items(ITEMS))
            or self.too_few_items(FEW_ITEMS)
        ):
            self.band = (self.band + 1) // 2
        while self.too_large() and self.across > 4:
            self.across = (self.across + 1) // 2
        self.across = even_part(tiles, self.across)
        while self.too_large() and self.band > 1:
            self.band = (self.band + 1) // 2
        while self.chunks < self.blocks and self.too_few_items(ITEMS):
            self.chunks = min(2 * self.chunks, self.blocks)
        self.bands = (self.rows + self.band - 1) // self.band
        self.chunk = (self.blocks + self.chunks - 1) // self.chunks
        self.chunks = (self.blocks + self.chunk - 1) // self.chunk
        self.items = self.N * self.bands * self.chunks
        self.slots = self.slots_of(self.band)
        self.count = self.across + self.reach // (TILE * self.step_w) + 1
        # What is transformed is whole vectors, hence the slack behind a row.
        self.quads = (self.C_group + QUAD - 1) // QUAD
        self.comb = (min(self.quads, COMB_QUADS) * self.count * QUAD + 31) // 16 * 16
        self.quad_step = (self.step_h * self.slots * self.across * QUAD + 31) // 16 * 16
        self.v_step = self.quads * self.quad_step
        self.place = <Py_ssize_t*> malloc(self.count * TILE * self.step_w * sizeof(Py_ssize_t))
        if self.place == NULL:
            raise MemoryError()
        for i in range(self.count * TILE * self.step_w):
            self.place[i] = (i % (TILE * self.step_w) * self.comb
                             + i // (TILE * self.step_w) * QUAD)
        for i in range(self.part_count):
            for j in range(2 * self.pairs + self.parts[i].kind):
                self.parts[i].read[j] = self.place[self.parts[i].first + j * self.step_w]
        self.area = (self.planes * self.v_step + TILE * self.step_w * self.comb
                     + LINE_POINTS * LINE_TILES * self.block + 15) // 16 * 16

    cdef Py_ssize_t slots_of(self, Py_ssize_t band):
        """Input rows of a band that share their remainder by step_h."""
        return band - 1 + (self.span_h + self.step_h - 1) // self.step_h

    cdef bint too_large(self):
        return (self.planes * self.slots_of(self.band) * self.step_h * self.across * self.C_group
                * <Py_ssize_t> sizeof(real) > LINE_BYTES)

    cdef bint too_few_items(self, Py_ssize_t wanted):
        cdef Py_ssize_t items = self.N * ((self.rows + self.band - 1) // self.band) * self.chunks
        return too_few(items, wanted, self.work)

    cdef place_runs(self, list dealt):
        cdef Py_ssize_t p, i, j, run = 0, u = 0
        self.phase_count = len(dealt)
        self.run_count = sum(len(runs) for _, runs in dealt)
        self.phases = <LinePhase*> malloc(self.phase_count * sizeof(LinePhase))
        self.run_offset = <Py_ssize_t*> malloc(
            (self.C_group + TAPS + 1) * self.run_count * sizeof(Py_ssize_t))
        if self.phases == NULL or self.run_offset == NULL:
            raise MemoryError()
        self.run_kind = self.run_offset + self.C_group * self.run_count
        self.run_tap = self.run_kind + self.run_count
        for p, ((to_row, to_column), runs) in enumerate(dealt):
            kind = max([kind for _, kind, _, _ in runs], default=0)
            self.phases[p].rows = -((to_row - self.TH) // self.stride_h)
            self.phases[p].columns = -((to_column - self.TW) // self.stride_w)
            self.phases[p].to_row, self.phases[p].to_column = to_row, to_column
            self.phases[p].kind = kind
            self.phases[p].first_run, self.phases[p].runs = run, len(runs)
            self.phases[p].whole_runs = sum(k == kind for _, k, _, _ in runs)
            self.phases[p].first_u = u
            u += len(runs) * (2 * self.pairs + kind)
            for plane, k, h, taps in runs:
                i = h - self.top
                for j in range(self.C_group):
                    self.run_offset[run * self.C_group + j] = (
                        plane * self.v_step + j // QUAD * self.quad_step + j % QUAD
                        + (i % self.step_h * self.slots + i // self.step_h) * self.across * QUAD)
                self.run_kind[run] = k
                for j in range(TAPS):
                    self.run_tap[run * TAPS + j] = taps[j] if j < len(taps) else -1
                run += 1
        self.u_size = u * self.C_group * self.block

    cdef void pack_block(self, const real* w, real* packed, Py_ssize_t block) noexcept nogil:
        """Transformed filters of one block of channels: [phase, point, run, C_group, lanes]."""
        cdef Py_ssize_t k = block % self.blocks_group * self.block
        cdef Py_ssize_t lanes = min(self.block, self.K_group - k)
        cdef Py_ssize_t width = (lanes + VL - 1) // VL * VL
        cdef Py_ssize_t p, run, c, v
        cdef const LinePhase* phase
        cdef real* to
        packed += block * self.u_size
        w += block // self.blocks_group * self.w_group + k * self.w_out
        for p in range(self.phase_count):
            phase = &self.phases[p]
            for run in range(phase.runs):
                for c in range(self.C_group):
                    to = packed + ((phase.first_u + run) * self.C_group + c) * width
                    for v in range(width // VL):
                        self.pack_taps(w + c * self.w_in + v * VL * self.w_out,
                                       min(VL, lanes - v * VL), phase.first_run + run, to + v * VL,
                                       phase.runs * self.C_group * width)

    cdef void pack_taps(self, const real* w, Py_ssize_t lanes, Py_ssize_t run, real* to,
                        Py_ssize_t step) noexcept nogil:
        """to = G w for the taps of a run and a vector of output channels; `step` between points."""
        cdef Py_ssize_t kind = self.run_kind[run], e, j, i
        cdef const Py_ssize_t* tap = self.run_tap + run * TAPS
        cdef const real* from_w
        cdef real[16] single
        cdef vec[TAPS] g
        cdef vec a
        cdef Py_ssize_t taps = 0
        while taps < TAPS and tap[taps] >= 0:
            from_w = w + tap[taps] * self.w_tap
            if self.w_out == 1:
                g[taps] = load_part(from_w, lanes)
            else:
                for i in range(VL):
                    single[i] = from_w[i * self.w_out] if i < lanes else 0
                g[taps] = (<vec*> single)[0]
            taps += 1
        for e in range(2 * self.pairs + kind):
            a = vec_set(0)
            for j in range(taps):
                a = a + self.table.filter[kind][e][j] * g[j]
            (<vec*> (to + e * step))[0] = a

    cdef void transform_rows(self, const real* x, const real* end, Py_ssize_t row, Py_ssize_t rows,
                             Py_ssize_t column, real* v, real* comb) noexcept nogil:
        """Rows of one group, transformed: [plane, quad, row % step_h, row // step_h, tile, QUAD].

        A few quads of all rows, then the next: rows share lines of v, which meet in L1.
        """
        cdef Py_ssize_t line = self.W * self.C, quad = self.count * QUAD
        cdef Py_ssize_t before = max(0, -column), first = max(0, column)
        cdef Py_ssize_t pixels = max(0, min(self.W, column + self.count * TILE * self.step_w) - first)
        cdef Py_ssize_t c0 = 0, r, i, c
        cdef const real* from_x
        cdef real* to
        memset(comb, 0, TILE * self.step_w * self.comb * sizeof(real))  # what lies outside stays so
        x += row * line + first * self.C
        while c0 < self.quads:
            for r in range(self.step_h):  # in the order of their places: each spoils a vector behind it
                i = r
                while i < rows:
                    if 0 <= row + i < self.H:
                        from_x = x + i * line + c0 * QUAD
                        # Of wider pixels, each pass reads a line: the hardware follows that better.
                        if self.C <= COMB_QUADS * QUAD and row + i + self.step_h < self.H:
                            fetch_row(from_x + self.step_h * line, pixels * self.C)
                        comb_row(from_x, self.C, min(self.C_group - c0 * QUAD, COMB_QUADS * QUAD), end,
                                 pixels, self.place + before, comb, quad)
                    to = v + (r * self.slots + i // self.step_h) * self.across * QUAD
                    for c in range(c0, min(c0 + COMB_QUADS, self.quads)):
                        self.transform_quad(0 <= row + i < self.H, comb + (c - c0) * quad,
                                            to + c * self.quad_step)
                    i += self.step_h
            c0 += COMB_QUADS

    cdef void transform_quad(self, bint inside, const real* comb, real* to) noexcept nogil:
        """A row of a quad by all parts; outside the image, zeros."""
        cdef Py_ssize_t length = self.across * QUAD, e, j
        cdef const LinePart* part
        for e in range(self.part_count):
            part = &self.parts[e]
            if inside:
                line_in_of(self.pairs, part.kind, &self.table, comb, part.read, length,
                           to + part.plane * self.v_step, self.v_step)
            else:
                for j in range(part.plane, part.plane + 2 * self.pairs + part.kind):
                    memset(to + j * self.v_step, 0, length * sizeof(real))

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """One band of output rows of one image, for one range of channel blocks."""
        cdef Py_ssize_t n = item // self.bands % self.N
        cdef Py_ssize_t q0 = item % self.bands * self.band
        cdef Py_ssize_t block = item // (self.bands * self.N) * self.chunk
        self.run_rows(x + n * self.H * self.W * self.C, packed, b, relu,
                      y + n * self.TH * self.TW * self.TC, scratch,
                      q0, min(self.band, self.rows - q0), block, min(block + self.chunk, self.blocks))

    cdef void run_rows(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t q0, Py_ssize_t rows, Py_ssize_t block0,
                       Py_ssize_t block1) noexcept nogil:
        """At most `band` output rows of the image x, for channel blocks block0 to block1."""
        cdef Py_ssize_t group, tile, block, p
        cdef real* comb = scratch + self.planes * self.v_step
        cdef real* m = comb + TILE * self.step_w * self.comb
        cdef const real* end = x + self.H * self.W * self.C
        cdef vec check = vec_set(0)
        for group in range(block0 // self.blocks_group, (block1 - 1) // self.blocks_group + 1):
            tile = 0
            while tile * TILE < self.columns:
                self.transform_rows(x + group * self.C_group, end, q0 * self.step_h + self.top,
                                    (rows - 1) * self.step_h + self.span_h,
                                    tile * TILE * self.step_w + self.left, scratch, comb)
                for block in range(max(block0, group * self.blocks_group),
                                   min(block1, (group + 1) * self.blocks_group)):
                    for p in range(self.phase_count):
                        self.run_phase(scratch, packed, b, relu, y, m, &self.phases[p], block, q0,
                                       rows, tile, &check)
                tile += self.across
        if any_nan(check):
            self.spoiled = True

    cdef void run_phase(self, const real* v, const real* packed, const real* b, bint relu, real* y,
                        real* m, const LinePhase* phase, Py_ssize_t block, Py_ssize_t q0,
                        Py_ssize_t rows, Py_ssize_t tile, vec* check) noexcept nogil:
        """The tiles of a band, row after row, as one long row."""
        cdef Py_ssize_t group = block // self.blocks_group
        cdef Py_ssize_t k = block % self.blocks_group * self.block
        cdef Py_ssize_t lanes = min(self.block, self.K_group - k)
        cdef Py_ssize_t nv = (lanes + VL - 1) // VL
        cdef Py_ssize_t tiles = (min(q0 + rows, phase.rows) - q0) * self.across
        cdef Py_ssize_t points = 2 * self.pairs + phase.kind
        cdef Py_ssize_t i = 0, j, e, count, q, t, fetched
        cdef Py_ssize_t line = self.stride_h * self.TW * self.TC, pixel = self.stride_w * self.TC
        cdef Py_ssize_t most = (even_part(max(1, tiles), SUMS // nv) + 1) // 2 * 2
        cdef Py_ssize_t u_step = phase.runs * self.C_group * nv * VL
        cdef Py_ssize_t step = LINE_TILES * nv * VL
        packed += block * self.u_size + phase.first_u * self.C_group * nv * VL
        b += block * self.block
        y += ((q0 * self.stride_h + phase.to_row) * self.TW + phase.to_column) * self.TC
        y += group * self.K_group + k
        # 24 sums want 32 registers.
        if (SUMS == 24 and lanes == 2 * VL and self.pairs == 2 and phase.kind == 2
                and phase.whole_runs == phase.runs and phase.runs * self.C_group <= SHORT_SUM):
            self.run_pairs(v, packed, b, relu, y, phase, tiles, tile, check)
            return
        while i < tiles:
            count = min(LINE_TILES // most * most, tiles - i)
            q, t, fetched = i // self.across, tile + i % self.across, 0
            for e in range(points):
                j = 0
                while j < count:
                    while fetched * points < e * count + j + min(most, count - j):
                        fetch_tile(y + q * line + t * TILE * pixel, pixel,
                                   min(TILE, phase.columns - t * TILE), lanes)
                        fetched, t = fetched + 1, t + 1
                        if t == tile + self.across:
                            q, t = q + 1, tile
                    line_tile_of(
                        min(most, count - j), nv, v + e * self.v_step + (i + j) * QUAD,
                        self.run_offset + phase.first_run * self.C_group,
                        (phase.runs if e < points - 1 else phase.whole_runs) * self.C_group,
                        packed + e * u_step, m + e * step + j * nv * VL)
                    j += most
            finish_of(self, phase, m, step, b, relu, y, i, count, tile, lanes, check)
            i += count

    cdef void run_pairs(self, const real* v, const real* packed, const real* b, bint relu, real* y,
                        const LinePhase* phase, Py_ssize_t tiles, Py_ssize_t tile,
                        vec* check) noexcept nogil:
        """The tiles of a band by `line_pair`: two at a time, from first to last in registers."""
        cdef Py_ssize_t pixel = self.stride_w * self.TC, line = self.stride_h * self.TW * self.TC
        cdef Py_ssize_t i = 0, j, k, q = 0, t = tile, asked = 0, ahead_q = 0, ahead_t = tile
        cdef const Py_ssize_t* offset = self.run_offset + phase.first_run * self.C_group
        cdef Py_ssize_t length = phase.runs * self.C_group
        cdef vec[6] power
        cdef vec[16] edge               # [2, TILE, 2]: outputs of tiles that pass an edge
        cdef real* place[2]
        cdef real* to[2]
        cdef Py_ssize_t[2] step
        cdef Py_ssize_t[2] columns
        for k in range(2):
            for j in range(3):
                power[3 * k + j] = vec_set(self.table.power[k][j])
        while i < tiles:
            while asked < min(i + ASKED, tiles):
                fetch_tile(y + ahead_q * line + ahead_t * TILE * pixel, pixel,
                           min(TILE, phase.columns - ahead_t * TILE), 2 * VL)
                asked, ahead_t = asked + 1, ahead_t + 1
                if ahead_t == tile + self.across:
                    ahead_q, ahead_t = ahead_q + 1, tile
            for j in range(2):
                # A second one that there is not has no columns; nor has one beyond a shorter phase.
                columns[j] = min(TILE, phase.columns - t * TILE) if i + j < tiles else 0
                place[j] = y + q * line + t * TILE * pixel
                to[j], step[j] = place[j], pixel
                if columns[j] < TILE:
                    to[j], step[j] = <real*> (edge + 2 * TILE * j), 2 * VL
                t += 1
                if t == tile + self.across:
                    q, t = q + 1, tile
            check[0] = check[0] + line_pair(
                power, v + i * QUAD, self.v_step, offset, length, packed, length * 2 * VL, b, relu, to,
                step, columns)
            for j in range(2):
                if columns[j] < TILE:
                    for k in range(columns[j]):
                        memcpy(place[j] + k * pixel, to[j] + k * 2 * VL, 2 * VL * sizeof(real))
            i += 2

    cdef real* pack_bias(self, const real* b) except? NULL:
        return padded_bias(self.bias, b, self.blocks, self.blocks_group, self.block, self.K_group)

    cdef int pack(self, Packed* packed, const real* w, int threads, Py_ssize_t version) except -1:
        return self.pack_weights(packed, w, self.blocks * self.u_size, threads, version)


cdef inline inlined finish(
    Line self, const Py_ssize_t pairs, const Py_ssize_t kind, const LinePhase* phase, const real* m,
    Py_ssize_t step, const real* b, bint relu, real* y, Py_ssize_t first, Py_ssize_t count,
    Py_ssize_t tile, Py_ssize_t lanes, vec* check,
) noexcept nogil:
    """Some tiles of 4 outputs at all points to y: whole ones, then those that pass an edge."""
    cdef Py_ssize_t width = (lanes + VL - 1) // VL * VL
    cdef Py_ssize_t pixel = self.stride_w * self.TC, line = self.stride_h * self.TW * self.TC
    cdef Py_ssize_t q, t, j, k, i
    cdef vec power[3 * PAIRS]
    cdef vec edge[TILE]
    cdef vec seen = check[0]
    for k in range(pairs):
        for i in range(3):
            power[3 * k + i] = vec_set(self.table.power[k][i])
    q, t = first // self.across, tile + first % self.across
    for j in range(count):
        k = 0
        while k < lanes and (t + 1) * TILE <= phase.columns:
            seen = seen + line_out(pairs, kind, power, m + j * width + k, step,
                                   (<const vec*> (b + k))[0], relu,
                                   y + q * line + t * TILE * pixel + k, pixel, lanes - k)
            k += VL
        t += 1
        if t == tile + self.across:
            q, t = q + 1, tile
    j = count
    if (tile + self.across) * TILE > phase.columns:
        q, t, j = first // self.across, tile + first % self.across, 0
    while j < count:
        k = 0
        while k < lanes and t * TILE < phase.columns < (t + 1) * TILE:
            seen = seen + line_out(pairs, kind, power, m + j * width + k, step,
                                   (<const vec*> (b + k))[0], relu, <real*> edge, VL, VL)
            for i in range(phase.columns - t * TILE):
                memcpy(y + q * line + (t * TILE + i) * pixel + k, &edge[i],
                       min(VL, lanes - k) * sizeof(real))
            k += VL
        j, t = j + 1, t + 1
        if t == tile + self.across:
            q, t = q + 1, tile
    check[0] = seen


cdef void finish_of(Line self, const LinePhase* phase, const real* m, Py_ssize_t step, const real* b,
                    bint relu, real* y, Py_ssize_t first, Py_ssize_t count, Py_ssize_t tile,
                    Py_ssize_t lanes, vec* check) noexcept nogil:
    """`finish` for each number of points."""
    if self.pairs == 2:
        if phase.kind == 0:
            finish(self, 2, 0, phase, m, step, b, relu, y, first, count, tile, lanes, check)
        elif phase.kind == 1:
            finish(self, 2, 1, phase, m, step, b, relu, y, first, count, tile, lanes, check)
        else:
            finish(self, 2, 2, phase, m, step, b, relu, y, first, count, tile, lanes, check)
    elif self.pairs == 3:
        if phase.kind == 0:
            finish(self, 3, 0, phase, m, step, b, relu, y, first, count, tile, lanes, check)
        elif phase.kind == 1:
            finish(self, 3, 1, phase, m, step, b, relu, y, first, count, tile, lanes, check)
        else:
            finish(self, 3, 2, phase, m, step, b, relu, y, first, count, tile, lanes, check)
    else:
        if phase.kind == 0:
            finish(self, 4, 0, phase, m, step, b, relu, y, first, count, tile, lanes, check)
        elif phase.kind == 1:
            finish(self, 4, 1, phase, m, step, b, relu, y, first, count, tile, lanes, check)
        else:
            finish(self, 4, 2, phase, m, step, b, relu, y, first, count, tile, lanes, check)
