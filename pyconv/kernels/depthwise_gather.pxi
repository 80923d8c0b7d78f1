# Depthwise y and dx: each output sums over its taps.
#
# What tiles read is in place, where rows outside the image are rows of zeros, or the item's padded copy
# (see depthwise.pxi). Vectors lie along the channels; if these would leave lanes empty, along all
# numbers of a row, whose channels come again after so many vectors.

from math import gcd as _gcd

from cython.parallel cimport parallel, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset


cdef enum:
    PHASE_LINE = 128    # numbers of a phase in a row: more lines come back to L1 for the phases between


cdef Py_ssize_t patch_of(list taps, step) except -1:
    """The shape of the taps of a phase, if `depthwise_patches_of` knows it, or 0."""
    rows, columns = sorted({h for h, _, _ in taps}), sorted({w for _, w, _ in taps})
    KH, KW = len(rows), len(columns)
    if (step[0] == step[1] and KH and rows[KH - 1] - rows[0] == KH - 1
            and columns[KW - 1] - columns[0] == KW - 1 and depthwise_patch_is_known(KH, KW, step[0])):
        return PATCH_SHAPE(KH, KW, step[0])
    return 0


cdef class DepthwiseGather(Depthwise):
    """y or dx of one depthwise convolution. Parameters as for `Gather`."""
    cdef Py_ssize_t TH, TW, stride_h, stride_w, phase_count
    cdef Py_ssize_t block           # rows of outputs that are computed together
    cdef Py_ssize_t some            # columns of a phase before the next one's, which lie between them
    cdef Phase* phases
    cdef DepthwiseTaps* of_phase
    cdef DepthwisePatch* patch      # of each phase
    cdef Py_ssize_t* tap_index      # in the filter, of each tap as it is packed
    cdef Py_ssize_t* tap_plane
    cdef const real** none          # rows of zeros
    cdef Workspace weights
    cdef Py_ssize_t flat_rows       # of taps, where `depthwise_flat` knows them, or 0
    cdef bint clips, copies, streams
    cdef bint patches               # taps are those of known patches
    cdef bint narrow                # patches of one row
    cdef bint inside                # copies pixels as they lie, of which none is padding

    def __cinit__(self, source, target, step, stride, list phases, bint clips):
        cdef Py_ssize_t p, t, n = 0, split = max(1, source[3] // target[3]), count, zeros, g
        cdef Py_ssize_t apart = 1
        cdef DepthwiseTaps* taps
        self.TH, self.TW, self.clips = target[1], target[2], clips
        self.stride_h, self.stride_w = stride
        self.phase_count = len(phases)
        self.weights = Workspace()
        self.phases = <Phase*> malloc(self.phase_count * sizeof(Phase))
        self.of_phase = <DepthwiseTaps*> malloc(self.phase_count * sizeof(DepthwiseTaps))
        self.patch = <DepthwisePatch*> malloc(self.phase_count * sizeof(DepthwisePatch))
        count = split * sum(len(of_phase) for _, of_phase in phases) + 1
        self.tap_index = <Py_ssize_t*> malloc(3 * count * sizeof(Py_ssize_t))
        if (self.phases == NULL or self.of_phase == NULL or self.patch == NULL
                or self.tap_index == NULL):
            raise MemoryError()
        self.tap_plane = self.tap_index + count
        for p, ((to_row, to_column), of_phase) in enumerate(phases):
            self.phases[p].to_row, self.phases[p].to_column = to_row, to_column
            self.phases[p].rows = max(0, -((to_row - self.TH) // self.stride_h))
            self.phases[p].columns = max(0, -((to_column - self.TW) // self.stride_w))
            self.work += self.phases[p].rows * self.phases[p].columns * len(of_phase)
        self.work *= source[0] * max(source[3], target[3])
        outputs = (max(self.phases[p].rows for p in range(self.phase_count)),
                   max(self.phases[p].columns for p in range(self.phase_count)))
        # 3x3 or 5x5 taps in neighbouring rows have rows of their own (depthwise_flat.pxi).
        self.flat_rows = 0
        if step == stride == (1, 1) and source[3] == target[3] < VL and len(phases[0][1]) in (9, 25):
            rows = {h for h, _, _ in phases[0][1]}
            if len(rows) in (3, 5) and max(rows) - min(rows) == len(rows) - 1:
                self.flat_rows = len(rows)
        self.picks = PICKS and source[3] < target[3]
        self.patches = (split == 1 and target[3] >= VL
                        and all([patch_of(of_phase, step) for _, of_phase in phases])
                        and (not self.picks or PATCH_PICKS(len(phases[0][1]))))
        reach = [tap[:2] for _, of_phase in phases for tap in of_phase]
        self.narrow = self.patches and self.crowds(source[3], reach, step)
        flat = (not self.patches and stride[1] == 1 and target[3] % VL != 0
                and source[3] == target[3] < (2 * VL if step[1] == 1 else VL))
        self.moves_back = not flat  # aligned vectors are read faster
        self.prepare(source, target[3], outputs, step, reach, flat)
        self.copies = flat or source[3] != target[3] or target[3] < VL
        self.inside = (flat and self.planes == 1 and min(self.top, self.left) >= 0
                       and (self.rows - 1) * self.step_h + self.top + self.span_h <= self.H
                       and self.columns - 1 + self.left + self.span_w <= self.W
                       and self.W * self.C >= VL)
        # Taps in the order in which tiles read them, and where each column of them starts.
        for p, (_, of_phase) in enumerate(phases):
            rows, columns = sorted({h for h, _, _ in of_phase}), sorted({w for _, w, _ in of_phase})
            index = {(h, w): i for h, w, i in of_phase}
            down, across = (b[1] - b[0] if len(b) > 1 else 1 for b in (rows, columns))
            g = _gcd(down, self.step_h)
            taps = &self.of_phase[p]
            taps.rows, taps.columns = len(rows), len(columns) * split
            taps.down, taps.across = down, across
            taps.top, taps.left = (rows[0], columns[0]) if rows else (0, 0)
            taps.first = n
            taps.patch = patch_of(of_phase, step) if split == 1 else 0
            taps.classes = max(1, min(self.step_h // g, len(rows)))
            if taps.patch:  # in the order of patches, though vectors were too long for these
                taps.classes = max(1, taps.rows) if self.step_h > 1 else 1
            taps.least, taps.more = taps.rows // taps.classes, taps.rows % taps.classes
            taps.apart, taps.down_class = down // g, down * self.step_h // g
            apart = max(apart, taps.apart)
            taps.offset = self.tap_plane + count + n
            for t in range(taps.columns):
                taps.offset[t] = t % split * self.width + (
                    self.column(t // split * across) if self.copies else t // split * across * self.C)
            for w in columns:
                for plane in range(split):
                    for t in range(taps.classes):
                        for h in rows[t::taps.classes]:
                            self.tap_index[n], self.tap_plane[n] = index[h, w], plane
                            n += 1
        self.block = TILE_ROWS * apart
        self.some = self.columns
        if self.phase_count > 1:
            self.some = (PHASE_LINE + self.channels - 1) // self.channels
            if self.some > 1:
                self.some = self.some // PATCH_COLUMNS * PATCH_COLUMNS
        zeros = VL
        if not self.copies:
            self.area = 0
            self.cut_in_place(self.block)
            zeros = self.W * self.C + VL
        memset(self.zeros.take(zeros), 0, zeros * sizeof(real))
        count = self.block * self.step_h + self.span_h
        self.none = <const real**> malloc(count * sizeof(real*))
        if self.none == NULL:
            raise MemoryError()
        for t in range(count):
            self.none[t] = <const real*> self.zeros.data

    def __dealloc__(self):
        free(self.phases)
        free(self.of_phase)
        free(self.patch)
        free(self.tap_index)
        free(self.none)

    cdef bint crowds(self, Py_ssize_t C, list taps, step) except -1:
        """Whether the pixels of a patch drive each other out of L1, with lines of which half is read."""
        h, w = [[tap[axis] for tap in taps] for axis in (0, 1)]
        pixels = (((PATCH_ROWS - 1) * step[0] + max(h) - min(h) + 1)
                  * ((PATCH_COLUMNS - 1) * step[1] + max(w) - min(w) + 1))
        return (PATCH_VECTORS > 1
                and pixels > WAYS * WAY_BYTES // _gcd(C * <Py_ssize_t> sizeof(real), WAY_BYTES))

    cdef real* pack(self, const real* w, const real* b) except? NULL:
        """[vector, bias and then taps in their order, VL]; zeros where there is no channel."""
        cdef Py_ssize_t v, t, c, first, lanes = min(VL, self.channels)
        cdef Py_ssize_t size = self.vectors * (1 + self.taps) * VL
        cdef const real* row    # flat: split is 1
        cdef real* packed = self.weights.take(size)
        cdef real* to = packed
        memset(packed, 0, size * sizeof(real))
        for v in range(self.vectors):
            first = 0 if self.flat else vector_place(v, self.channels)
            if b != NULL and self.flat:
                for c in range(VL):
                    to[c] = b[(v * VL + c) % self.C]
            elif b != NULL:
                memcpy(to, b + first, lanes * sizeof(real))
            to += VL
            for t in range(self.taps):
                row = w + (self.tap_index[t] * self.channels + first) * self.split
                if self.flat:
                    for c in range(VL):
                        to[c] = row[(v * VL + c) % self.C]
                    to += VL
                    continue
                for c in range(lanes):
                    to[c] = row[c * self.split + self.tap_plane[t]]
                to += VL
        return packed

    cdef bint run(self, const real* x, const real* w, const real* b, bint relu, real* y,
                  int num_threads) except -1:
        """Fill y. False if nothing was done: weights that are not finite must not meet the padding."""
        cdef Shares shares
        cdef Py_ssize_t thread, item
        cdef int threads = team(self.work, num_threads)
        cdef real* packed = self.pack(w, b)
        # The copy, and where its rows start.
        cdef Py_ssize_t pointer = sizeof(real*) // sizeof(real)
        cdef Py_ssize_t slot = apart(self.area + self.band_rows() * pointer + 16)
        cdef real* scratch = self.scratch.take(threads * slot)
        if self.clips and not all_finite(packed, self.vectors * (1 + self.taps) * VL):
            return False
        # In whole lines, if there are more than the caches hold.
        self.streams = (
            (self.N * (self.H * self.W * self.C + self.TH * self.TW * self.channels)
             * <Py_ssize_t> sizeof(real)) > STREAM_BYTES
            and (<size_t> y) % 64 == 0 and self.channels * sizeof(real) % 64 == 0)
        if self.patches:
            self.fill_patches(relu)
        share_out(&shares, self.items, threads)
        region_starts(is_shared(self.work))
        with nogil, parallel(num_threads=threads):
            thread = threadid()
            item = next_item(&shares, thread)
            while item >= 0:
                self.run_item(x, packed, relu, y, scratch + thread * slot, item)
                item_ends()
                item = next_item(&shares, thread)
        return True

    cdef void run_item(self, const real* x, const real* packed, bint relu, real* y, real* scratch,
                       Py_ssize_t item) noexcept nogil:
        """One band of output rows of one image, some rows and columns at a time."""
        cdef Py_ssize_t n = item // self.bands, first = item % self.bands * self.band, q, p, i, h
        cdef Py_ssize_t end = min(first + self.band, self.rows), column, columns
        cdef Py_ssize_t line = self.W * self.C
        cdef Py_ssize_t group = TILE_COLUMNS * max(1, 8 // self.vectors)
        cdef const real** row = <const real**> (scratch + self.area)
        # Vectors reach into the next row, which follows all but the last item.
        cdef bint copies = self.copies and not (self.inside and item + 1 < self.items)
        if copies:
            self.read(x, n, first, end - first, scratch)
        x += n * self.H * line + (self.left * self.C if self.copies else 0)
        for i in range((end - first - 1) * self.step_h + self.span_h):
            h = first * self.step_h + self.top + i
            row[i] = (scratch + i * self.line if copies
                      else x + h * line if 0 <= h < self.H else <const real*> self.zeros.data)
        y += n * self.TH * self.TW * self.channels
        if self.flat_rows:
            self.run_flat(row, packed, relu, y + first * self.TW * self.C, end - first)
            return
        columns = self.columns
        if self.flat:
            columns = (columns * self.channels + self.vectors * VL - 1) // (self.vectors * VL)
        q = first
        while self.patches and q < end:
            column = 0
            while column < columns:
                for p in range(self.phase_count):
                    self.run_patches(row - first * self.step_h, packed, y, p, q,
                                     min(q + PATCH_ROWS, end), column, column + self.some)
                column += self.some
            q += PATCH_ROWS
        while q < end:
            column = 0
            while column < columns:
                for p in range(self.phase_count):
                    self.run_block(row - first * self.step_h, packed, relu, y, p, first, q,
                                   min(q + self.block, end), column, group)
                column += group
            q += self.block

    cdef void run_flat(self, const real** row, const real* packed, bint relu, real* y,
                       Py_ssize_t rows) noexcept nogil:
        """All rows of a band whose copy is in `row`, as if a row were one pixel."""
        cdef DepthwiseFlatRows s
        cdef Py_ssize_t q = 0, count, i, v
        s.relu, s.y_row = relu, self.TW * self.C
        while q < rows:
            count = rows_of_tile(rows - q, FLAT_ROWS)
            for i in range(count + self.flat_rows - 1):
                s.row[i] = row[q + i]
            for v in range(self.vectors):
                depthwise_flat_of(count, self.flat_rows, &s, self.of_phase[0].across * self.C, v * VL,
                                  self.vectors * VL, self.TW * self.C,
                                  packed + v * (1 + self.taps) * VL, y + q * s.y_row)
            q += count

    cdef void run_block(self, const real** row, const real* packed, bint relu, real* y, Py_ssize_t p,
                        Py_ssize_t first, Py_ssize_t q, Py_ssize_t end, Py_ssize_t column,
                        Py_ssize_t columns) noexcept nogil:
        """Rows q to `end` of a phase, from `column` on. Tiles may begin at `first`, above q."""
        cdef const DepthwiseTaps* taps = &self.of_phase[p]
        cdef Py_ssize_t last = min(end, self.phases[p].rows), at, i, count
        for i in range(taps.apart):
            at = q + i
            while at < last:
                count = (last - at + taps.apart - 1) // taps.apart
                if count == 3 and at - taps.apart >= first:     # moved back rather than cut
                    at, count = at - taps.apart, 4
                count = 4 if count >= 4 else 2 if count >= 2 else 1
                self.run_tiles(row + at * self.step_h + taps.top - self.top, packed, relu, y, p, at,
                               count, column, columns)
                at += count * taps.apart

    cdef void run_tiles(self, const real** row, const real* packed, bint relu, real* y, Py_ssize_t p,
                        Py_ssize_t q, Py_ssize_t rows, Py_ssize_t column,
                        Py_ssize_t columns) noexcept nogil:
        """Some columns of `rows` rows of a phase, from q on."""
        cdef const Phase* phase = &self.phases[p]
        cdef const DepthwiseTaps* taps = &self.of_phase[p]
        cdef DepthwisePlace s
        cdef Py_ssize_t v, c, first = column, i, end, count, w, total = phase.columns
        cdef Py_ssize_t reach = (taps.columns // self.split - 1) * taps.across
        cdef Py_ssize_t next = self.vectors * VL    # flat: where lanes hold the same channels again
        cdef Py_ssize_t x_at = taps.left * self.C
        cdef bint edge = False
        cdef const real* b
        s.row, s.none, s.relu, s.step_w, s.W = row, self.none, relu, self.step_w, self.W
        s.lanes = NULL
        s.x_step, s.y_step = self.step_w * self.C, self.stride_w * self.channels
        s.y_row = self.stride_h * taps.apart * self.TW * self.channels
        if self.copies:     # which are padded
            s.W = PY_SSIZE_T_MAX
            x_at = (taps.left - self.left) * self.pixel
            s.x_step = self.step_w * self.pixel
        if self.flat:
            s.x_step = s.y_step = next
        y += ((phase.to_row + q * self.stride_h) * self.TW + phase.to_column) * self.channels
        while first < column + columns:
            for v in range(self.vectors):
                c = v * VL if self.flat else vector_place(v, self.channels)
                if self.flat:
                    total = (self.TW * self.channels - c + next - 1) // next
                b = packed + v * (1 + self.taps) * VL
                if self.picks:
                    s.lanes = <const ivec*> self.lane + v
                i, end = first, min(first + TILE_COLUMNS, total)
                while i < end:
                    if end - i == 3 and i > 0:  # moved back rather than cut
                        i -= 1
                    count = 4 if end - i >= 4 else 2 if end - i >= 2 else 1
                    w = i * self.step_w + taps.left
                    s.at, s.channel, s.column = x_at + i * s.x_step + c, c, w
                    if self.copies:
                        s.column = 0
                        if not self.flat:
                            s.at += (self.place[v] if self.picks else v * VL) - c
                    else:
                        edge = w < 0 or w + (count - 1) * self.step_w + reach >= self.W
                    self.run_tile(rows, count, edge, taps, &s, b, b + (1 + taps.first) * VL,
                                  y + i * s.y_step + c,
                                  self.TW * self.channels - c - (i + count - 1) * next if self.flat
                                  else self.channels)
                    i += count
            first += TILE_COLUMNS

    cdef void run_tile(self, Py_ssize_t rows, Py_ssize_t columns, bint edge, const DepthwiseTaps* taps,
                       DepthwisePlace* s, const real* b, const real* w, real* y,
                       Py_ssize_t room) noexcept nogil:
        """A tile, in whose last column there is `room` for so many numbers; if not flat, in all."""
        cdef Py_ssize_t i, j, y_row = s.y_row, y_step = s.y_step
        cdef real[256] part     # TILE_ROWS x TILE_COLUMNS vectors of at most 16
        s.streams = self.streams
        if room >= VL:
            depthwise_tile_of(rows, columns, edge, taps, s, b, w, y)
            return
        s.y_row, s.y_step, s.streams = columns * VL, VL, False
        depthwise_tile_of(rows, columns, edge, taps, s, b, w, part)
        s.y_row, s.y_step = y_row, y_step
        for i in range(rows):
            for j in range(columns):
                store_part(y + i * y_row + j * y_step, (<vec*> part)[i * columns + j],
                           VL if self.flat and j < columns - 1 else room)

    cdef void fill_patches(self, bint relu) noexcept nogil:
        cdef const DepthwiseTaps* taps
        cdef DepthwisePatch* s
        cdef Py_ssize_t p
        for p in range(self.phase_count):
            s, taps = &self.patch[p], &self.of_phase[p]
            s.shape = taps.patch
            s.pixel, s.last, s.W, s.left = self.C, self.channels - VL, self.W, taps.left
            if self.copies:  # and padded: columns count from the copy's first
                s.pixel, s.last = self.pixel, self.width - VL
                s.W, s.left = self.line // self.pixel, taps.left - self.left
            s.place, s.lanes = self.place, <const ivec*> self.lane if self.picks else NULL
            s.zeros, s.relu, s.streams = <const real*> self.zeros.data, relu, self.streams
            s.y_row, s.y_step = self.stride_h * self.TW * self.channels, self.stride_w * self.channels
            s.channels, s.vectors, s.record = self.channels, self.vectors, (1 + self.taps) * VL
            s.taps = (1 + taps.first) * VL

    cdef void run_patches(self, const real** row, const real* packed, real* y, Py_ssize_t p,
                          Py_ssize_t q, Py_ssize_t end, Py_ssize_t column,
                          Py_ssize_t end_column) noexcept nogil:
        """Outputs of a phase: rows q to `end`, `column` to `end_column`."""
        cdef const Phase* phase = &self.phases[p]
        cdef Py_ssize_t last = min(end, phase.rows), rows
        row += self.of_phase[p].top - self.top
        y += (phase.to_row * self.TW + phase.to_column) * self.channels
        while q < last:
            rows = rows_of_tile(last - q, 1 if self.narrow else PATCH_ROWS if self.step_h == 1 else 2)
            depthwise_patches_of(rows, &self.patch[p], row + q * self.step_h, column,
                                 min(end_column, phase.columns), packed,
                                 y + q * self.stride_h * self.TW * self.channels)
            q += rows
