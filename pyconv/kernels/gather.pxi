# The gather: each output pixel sums, over its taps, input channels times packed weights.
#
# It serves y (taps are the filter's), and dx (input dy, the filter transposed). With stride s, the
# pixels of dx fall into s_h * s_w *phases*, each of which is a convolution of its own over some of
# the taps; for y there is one phase. Output q of a phase reads input pixel q * step + tap.
#
# A work item is a band of output rows of one image, for a range of channel blocks. It copies the
# input rows that it needs, padded, into its thread's workspace (they stay in L2), unless all taps lie
# inside the image: then it reads in place. Of images with few outputs, an item of y has several: the
# pixels of a tile are the same one of each, so that more of them share the weights that it reads.

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef struct Phase:
    Py_ssize_t rows, columns      # outputs q of this phase
    Py_ssize_t to_row, to_column  # where output q = 0 goes
    Py_ssize_t first_tap, taps    # its slice of the tap arrays
    Py_ssize_t tap_rows           # the taps are a grid of so many rows
    Py_ssize_t first_span, spans  # all columns, all taps; behind it, cut into columns of the same taps
    Py_ssize_t packed             # where its weights are, in a block's


cdef enum:
    ROW = 48                # pixels: whole tiles of 12 or of 6
    BAND_BYTES = 262_144    # a quarter of a 1 MB L2: the rest is for weights and outputs
    TAPS_BYTES = 262_144    # of weights that all tiles take before the next ones: likewise


cdef tuple in_rows(tuple shape):
    """Pixels that do not know their neighbours, as one image of rows of ROW: (1, rows, ROW, C)."""
    N, H, W, C = shape
    return 1, (N * H * W + ROW - 1) // ROW, ROW, C


cdef class Gather(Packer):
    """One direction of one convolution: geometry, work items, packed weights, workspaces.

    Parameters
    ----------
    source, target : tuple
        (N, H, W, C) read and written.
    groups : int
    step : tuple
        Input pixels (h, w) between outputs q and q + 1 of a phase.
    stride : tuple
        Output pixels (h, w) between them.
    phases : list
        Of (first output (h, w), [(tap_h, tap_w, index of the filter's (kh, kw))]).
    filter_step : tuple
        Elements of the filter between (taps, input channels, output channels, groups).
    clips : bool
        What lies outside the input takes no part. Otherwise it is zeros: the same, unless a weight
        is infinite or NaN, since 0 * infinity is NaN.
    flat : bool
        Whether pixels that do not know their neighbours may be cut into rows anew, and tiles take pixels
        of several images.
    """
    cdef Py_ssize_t N, H, W, C, TH, TW, TC, groups, C_group, K_group
    cdef Py_ssize_t step_h, step_w, stride_h, stride_w
    cdef Py_ssize_t w_in, w_out, w_group, w_tap
    cdef Py_ssize_t phase_count, block, blocks_group
    cdef Py_ssize_t top, left, span_h, span_w      # reach of the taps
    cdef Py_ssize_t rows_read                      # bits: which of step_h rows they read
    cdef Py_ssize_t band, bands, chunk, chunks, rows, columns
    cdef Py_ssize_t images, batches, image         # of an item; so many times; elements of a copy
    cdef Py_ssize_t pixel, line                    # elements of a pixel, a row of the input
    cdef Py_ssize_t outputs                        # of a phase, in all rows; the last may be short
    cdef Py_ssize_t plane                          # columns of a plane, where tiles are wide
    cdef Py_ssize_t planar                         # not 0: y is in planes of that many columns
    cdef Py_ssize_t cycle                          # P of cycle.pxi, or 0
    cdef Py_ssize_t packed_size                    # numbers of a block's weights
    cdef bint in_place, wide, clips, wild          # wild: a weight is not finite
    cdef bint cleared                              # what no tap reaches is 0, set beforehand
    cdef bint few                                  # pixels: too few to repay packing the weights
    cdef const real* w                             # the weights of this call
    cdef Phase* phases
    cdef Columns* spans
    cdef Run* runs
    cdef Py_ssize_t* tap_h
    cdef Py_ssize_t* tap_w
    cdef Py_ssize_t* tap_index
    cdef Py_ssize_t tap_count

    def __cinit__(self, source, target, Py_ssize_t groups, step, stride, list phases, filter_step,
                  bint clips, bint flat=True):
        cdef Py_ssize_t p, t = 0
        self.outputs, self.clips, self.planar = PY_SSIZE_T_MAX, clips, 0
        # A wide tile's vectors lie along a row: worth it if channels would fill half a vector at most,
        # and rows fill theirs by half as much again, which the turning into planes takes.
        K, columns = target[3] // groups, target[2] // stride[1]
        self.cycle = cycle_pays(K, source[3] // groups, groups, columns, step, phases)
        self.wide = (self.cycle == 0 and 2 * K <= VL and 2 * columns >= VL
                     and 3 * K * ((columns + VL - 1) // VL) <= 2 * columns)
        if (flat and not self.wide and step == stride == (1, 1) and source[:3] == target[:3]
                and phases == [((0, 0), [(0, 0, 0)])]):
            self.outputs = target[0] * target[1] * target[2]
            source, target = in_rows(source), in_rows(target)
        self.N, self.H, self.W, self.C = source
        self.TH, self.TW, self.TC = target[1:]
        self.groups, self.C_group, self.K_group = groups, self.C // groups, self.TC // groups
        self.step_h, self.step_w = step
        self.stride_h, self.stride_w = stride
        self.w_tap, self.w_in, self.w_out, self.w_group = filter_step
        self.phase_count = len(phases)
        self.tap_count = sum(len(taps) for _, taps in phases)
        self.phases = <Phase*> malloc(self.phase_count * sizeof(Phase))
        self.tap_h = <Py_ssize_t*> malloc((3 * self.tap_count + 1) * sizeof(Py_ssize_t))
        if self.phases == NULL or self.tap_h == NULL:
            raise MemoryError()
        self.tap_w = self.tap_h + self.tap_count
        self.tap_index = self.tap_w + self.tap_count
        for p, ((to_row, to_column), taps) in enumerate(phases):
            self.phases[p].to_row, self.phases[p].to_column = to_row, to_column
            self.phases[p].rows = max(0, -((to_row - self.TH) // self.stride_h))
            self.phases[p].columns = max(0, -((to_column - self.TW) // self.stride_w))
            self.phases[p].first_tap, self.phases[p].taps = t, len(taps)
            for h, w, index in sorted(taps):
                self.tap_h[t], self.tap_w[t], self.tap_index[t] = h, w, index
                t += 1
        self.cut(flat)
        self.find_runs()
        self.few = (not self.wide and not self.cycle and not clips
                    and min(self.N * self.rows * self.columns, self.outputs) <= TILE_1)

    def __dealloc__(self):
        free(self.phases)
        free(self.tap_h)
        free(self.spans)
        free(self.runs)

    cdef cut(self, bint flat):
        """Choose channel blocks, and the work items: by shape alone, so that sums never move."""
        cdef Py_ssize_t p, t, work = 0
        taps = [(self.tap_h[t], self.tap_w[t]) for t in range(self.tap_count)] or [(0, 0)]
        self.top, self.left = min(h for h, _ in taps), min(w for _, w in taps)
        self.span_h = max(h for h, _ in taps) - self.top + 1
        self.span_w = max(w for _, w in taps) - self.left + 1
        self.rows_read = 0  # a bit for each place of a row within a step of outputs
        for h, _ in taps:
            self.rows_read |= <Py_ssize_t> 1 << min((h - self.top) % self.step_h, 62)
        self.rows = max(self.phases[p].rows for p in range(self.phase_count))
        self.columns = max(self.phases[p].columns for p in range(self.phase_count))
        self.block = 2 * VL if self.K_group > VL else VL
        if self.wide or self.cycle:
            self.block = self.K_group
        self.blocks_group = (self.K_group + self.block - 1) // self.block
        self.blocks = self.groups * self.blocks_group
        for p in range(self.phase_count):
            work += self.phases[p].rows * self.phases[p].columns * self.phases[p].taps
        self.work = self.N * work * self.C_group * self.TC
        bottom = (self.rows - 1) * self.step_h + self.top + self.span_h
        right = (self.columns - 1) * self.step_w + self.left + self.span_w
        self.in_place = (not self.wide and self.top >= 0 and self.left >= 0
                         and bottom <= self.H and right <= self.W)
        self.band, self.chunks = max(1, self.rows), 1
        width = (self.columns - 1) * self.step_w + self.span_w
        self.images = 1
        if flat and not (self.clips or self.wide or self.cycle or self.outputs < PY_SSIZE_T_MAX):
            self.images = images_together(self.N, self.rows * self.columns,
                                          self.band_rows() * width * self.C, self.blocks)
        self.batches = (self.N + self.images - 1) // self.images
        self.in_place = self.in_place and self.images == 1
        # Every band reads all weights. Where they do not stay in L2, bands are better large, and items
        # more by chunks of channels, each of which copies the band.
        far = (self.tap_count * self.C_group * self.TC * <Py_ssize_t> sizeof(real) > 4 * BAND_BYTES
               and not self.in_place)
        while self.band > 1 and self.too_large(width, 2 * BAND_BYTES if far else BAND_BYTES):
            self.band = (self.band + 1) // 2
        while far and self.chunks < self.blocks and self.too_few_items():
            self.chunks = min(2 * self.chunks, self.blocks)
        # Rows that fill no tile make tiles below each other (spans.pxi), if they are enough.
        while (self.band > 1 and (self.columns > TILE_1 or self.band * self.columns > 2 * ROW)
               and self.too_few_items()):
            self.band = (self.band + 1) // 2
        while self.chunks < self.blocks and self.too_few_items():
            self.chunks = min(2 * self.chunks, self.blocks)
        self.bands = (self.rows + self.band - 1) // self.band
        self.chunk = (self.blocks + self.chunks - 1) // self.chunks
        self.chunks = (self.blocks + self.chunk - 1) // self.chunk
        self.items = self.batches * self.bands * self.chunks
        if self.in_place:
            self.pixel, self.line = self.C, self.W * self.C
            self.area = 0
        else:
            groups = min(self.groups, (self.chunk - 2) // self.blocks_group + 2)
            self.pixel = groups * self.C_group
            # The last vectors of a row reach past its end.
            self.plane = (self.span_w - 1) // self.step_w + (self.columns + 4 * VL) // VL * VL
            self.line = self.pixel * (self.step_w * self.plane if self.wide else width)
            self.image = (self.band_rows() * self.line + 15) // 16 * 16
            if self.images > 1:
                self.image |= 16  # an odd number of lines: one place of L1 has no room for 12 images
            self.area = self.images * self.image

    cdef Py_ssize_t band_rows(self):
        return (self.band - 1) * self.step_h + self.span_h

    cdef bint copies_little(self):
        """Whether a band takes few rows more than it is long: its neighbours copy them, too."""
        return self.in_place or self.band * self.step_h >= 2 * self.span_h

    cdef bint too_large(self, Py_ssize_t width, Py_ssize_t most):
        """Whether what a band copies, or reads and writes, is more than stays in L2."""
        if self.in_place:
            return self.band * self.columns * (self.C + self.TC) * <Py_ssize_t> sizeof(real) > most
        return (self.band_rows() * width * self.C * <Py_ssize_t> sizeof(real)
                > (most if self.copies_little() else 4 * BAND_BYTES))

    cdef bint too_few_items(self):
        cdef Py_ssize_t items = self.batches * ((self.rows + self.band - 1) // self.band) * self.chunks
        return too_few(items, ITEMS if self.copies_little() else ITEMS // 4, self.work)

    cdef find_runs(self):
        """Taps that are neighbours in a row and in memory are one run: fewer, longer inner loops."""
        cdef Py_ssize_t p, i
        cdef list spans = [], runs = []
        for p in range(self.phase_count):
            taps = range(self.phases[p].first_tap, self.phases[p].first_tap + self.phases[p].taps)
            rows = sorted({self.tap_h[t] for t in taps})
            columns = sorted({self.tap_w[t] for t in taps})
            self.phases[p].tap_rows, self.phases[p].first_span = len(rows), len(spans)
            cut = []
            if not (self.in_place or self.wide or self.cycle):
                cut = cut_columns(columns, self.phases[p].columns, self.step_w, self.W, self.band,
                                  share_inside(rows, self.phases[p].rows, self.step_h, self.H),
                                  self.images > 1)
            self.phases[p].spans = len(cut)
            for first, last, a, b, upright in [
                    (0, self.phases[p].columns, 0, len(columns), False), *cut]:
                length = neighbours(columns[a:b]) if self.pixel == self.C_group and not self.wide else 1
                spans.append((first, last, len(runs), (b - a) // length, length * self.C_group,
                              upright))
                runs += [(self.offset(h, columns[c]), (r * len(columns) + c) * self.C_group)
                         for r, h in enumerate(rows) for c in range(a, b, length)]
        self.spans = <Columns*> malloc(len(spans) * sizeof(Columns))
        self.runs = <Run*> malloc((len(runs) + 1) * sizeof(Run))
        if self.spans == NULL or self.runs == NULL:
            raise MemoryError()
        for i, (first, last, first_run, count, length, upright) in enumerate(spans):
            self.spans[i] = Columns(first, last, first_run, count, length, upright)
        for i, (x, w) in enumerate(runs):
            self.runs[i] = Run(x, w)
        self.place_weights()

    cdef Py_ssize_t offset(self, Py_ssize_t h, Py_ssize_t w):
        """Where a tap reads, from where its output's band starts."""
        h, w = (h - self.top) * self.line, w - self.left
        return h + (w % self.step_w * self.plane + w // self.step_w if self.wide else w * self.pixel)

    cdef place_weights(self):
        """How many numbers of packed weights a block has, and where those of a phase and a run are."""
        cdef Py_ssize_t p, i, parts
        cdef const Columns* span
        self.packed_size = self.tap_count * self.C_group * self.block
        if self.cycle:
            self.packed_size = 0
            self.cycle = cycle_parts(self.K_group, min(
                [self.spans[p].length for p in range(self.phase_count) if self.spans[p].runs],
                default=1))
        for p in range(self.phase_count if self.cycle else 0):
            self.phases[p].packed = self.packed_size
            span = &self.spans[p]
            parts = (span.length + self.cycle - 1) // self.cycle
            for i in range(self.phases[p].tap_rows * span.runs):
                self.runs[span.first_run + i].w = i * parts
            self.packed_size += self.phases[p].tap_rows * span.runs * parts * LANES

    cdef void pack_block(self, const real* w, real* packed, Py_ssize_t block) noexcept nogil:
        """Weights of one channel block as the tile reads them: [phase, tap, C_group, lanes]."""
        cdef Py_ssize_t group = block // self.blocks_group
        cdef Py_ssize_t k = block % self.blocks_group * self.block
        cdef Py_ssize_t lanes = min(self.block, self.K_group - k)
        cdef Py_ssize_t width = lanes if self.wide else (lanes + VL - 1) // VL * VL
        cdef Py_ssize_t t
        cdef real* first
        if self.few and lanes == self.block:
            return
        packed += block * self.packed_size
        first = packed
        w += group * self.w_group + k * self.w_out
        if self.cycle:
            self.pack_cycles(w, packed)
            packed += self.packed_size
        for t in range(0 if self.cycle else self.tap_count):
            if self.w_out == 1:
                pack_rows(w + self.tap_index[t] * self.w_tap, self.w_in, self.C_group, lanes, packed,
                          width)
            else:
                pack_columns(w + self.tap_index[t] * self.w_tap, self.w_out, self.C_group, lanes,
                             packed, width)
            packed += self.C_group * width
        if not all_finite(first, packed - first):
            self.wild = True

    cdef void pack_cycles(self, const real* w, real* packed) noexcept nogil:
        """The same for cycle.pxi: [phase, run, P numbers at a time][channel, part]."""
        cdef Py_ssize_t p, run, tap
        cdef const Columns* span
        memset(packed, 0, self.packed_size * sizeof(real))
        for p in range(self.phase_count):
            span = &self.spans[self.phases[p].first_span]
            for run in range(self.phases[p].tap_rows * span.runs):
                tap = self.phases[p].first_tap + run * span.length // self.C_group
                packed = pack_run(w, self.w_tap, self.w_in, self.w_out, self.tap_index + tap,
                                  span.length, self.C_group, self.K_group, self.cycle, packed)

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """One band of output rows of one image, or some images, for one range of channel blocks."""
        # Items that share weights follow each other: a chunk of a large filter stays in L2.
        cdef Py_ssize_t n = item // self.bands % self.batches * self.images
        cdef Py_ssize_t q0 = item % self.bands * self.band
        cdef Py_ssize_t block = item // (self.bands * self.batches) * self.chunk
        self.run_rows(x + n * self.H * self.W * self.C, packed, b, relu,
                      y + n * self.TH * self.TW * self.TC, scratch, min(self.images, self.N - n),
                      q0, min(self.band, self.rows - q0), block, min(block + self.chunk, self.blocks))

    cdef void run_rows(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t images, Py_ssize_t q0, Py_ssize_t rows,
                       Py_ssize_t block0, Py_ssize_t block1) noexcept nogil:
        """At most `band` output rows of the images from x on, for channel blocks block0 to block1."""
        cdef Py_ssize_t group0 = block0 // self.blocks_group
        cdef Py_ssize_t groups = (block1 - 1) // self.blocks_group + 1 - group0
        cdef Py_ssize_t row = q0 * self.step_h + self.top
        cdef Py_ssize_t block, channel, p, h, i
        cdef const real* band = scratch
        if self.in_place:
            band = x + row * self.line + self.left * self.pixel + group0 * self.C_group
        elif self.wide:
            planar_rows(x + group0 * self.C_group, self.H, self.W, self.C, scratch, self.plane,
                        self.step_w, row, self.left, (rows - 1) * self.step_h + self.span_h,
                        groups * self.C_group)
        else:
            for i in range(images):
                for h in range((rows - 1) * self.step_h + self.span_h):
                    if self.rows_read >> min(h % self.step_h, 62) & 1:
                        pad_rows(x + i * self.H * self.W * self.C + group0 * self.C_group, self.H,
                                 self.W, self.C, scratch + i * self.image + h * self.line,
                                 self.line // self.pixel, self.pixel, row + h, self.left, 1,
                                 groups * self.C_group)
        if self.cleared:
            self.clear_phases(y, q0, rows, block0, block1)
        for block in range(block0, block1):
            channel = (block // self.blocks_group - group0) * self.C_group
            for p in range(self.phase_count):
                self.run_phase(band + channel * (self.step_w * self.plane if self.wide else 1),
                               packed, b, relu, y, &self.phases[p], images, block, q0, rows)

    cdef Py_ssize_t first_channel(self, Py_ssize_t block) noexcept nogil:
        """The first output channel of a block; C_out behind the last."""
        return block // self.blocks_group * self.K_group + block % self.blocks_group * self.block

    cdef void clear_phases(self, real* y, Py_ssize_t q0, Py_ssize_t rows, Py_ssize_t block0,
                           Py_ssize_t block1) noexcept nogil:
        """Zeros where no tap reaches, in dx: all channels of a pixel at once."""
        cdef Py_ssize_t k = self.first_channel(block0)
        cdef size_t size = (self.first_channel(block1) - k) * sizeof(real)
        cdef Py_ssize_t p, q, column
        cdef Phase* phase
        for p in range(self.phase_count):
            phase = &self.phases[p]
            for q in range(q0, min(q0 + rows, phase.rows) if phase.taps == 0 else q0):
                for column in range(phase.columns):
                    memset(y + ((phase.to_row + q * self.stride_h) * self.TW + phase.to_column
                                + column * self.stride_w) * self.TC + k, 0, size)

    cdef void run_phase(self, const real* band, const real* packed, const real* b, bint relu,
                        real* y, const Phase* phase, Py_ssize_t images, Py_ssize_t block,
                        Py_ssize_t q0, Py_ssize_t rows) noexcept nogil:
        cdef Py_ssize_t group = block // self.blocks_group
        cdef Py_ssize_t k = block % self.blocks_group * self.block
        cdef Py_ssize_t lanes = min(self.block, self.K_group - k)
        cdef Py_ssize_t nv = (lanes + VL - 1) // VL
        cdef Py_ssize_t width = lanes if self.wide else nv * VL
        cdef Py_ssize_t q, column, columns = phase.columns, end = min(q0 + rows, phase.rows), first, last
        cdef bint whole
        cdef Py_ssize_t pixel = self.stride_w * self.TC
        cdef Py_ssize_t row_step = self.stride_h * self.TW * self.TC
        cdef Block tiles
        cdef Py_ssize_t w_step = width
        if self.few and lanes == self.block:
            packed, w_step = self.w + group * self.w_group + k, self.w_in
        else:
            packed += block * self.packed_size + (
                phase.packed if self.cycle else phase.first_tap * width * self.C_group)
        b += block * (LANES if self.cycle else self.block)
        y += (phase.to_row * self.TW + phase.to_column) * self.TC
        if self.planar:
            y += (group * self.K_group + k) * self.planar
            row_step = self.TC * self.planar
        else:
            y += group * self.K_group + k
        if self.cleared and phase.taps == 0:
            return
        if self.clips and self.wild:
            for q in range(q0, end):
                for column in range(min(columns, self.outputs - q * columns)):
                    if self.cycle:
                        self.run_cycles(band, b, phase, group, q, q0, column,
                                        y + q * row_step + column * pixel)
                    else:
                        self.run_pixel(band, packed, b, phase, q, q0, column, nv, lanes,
                                       y + q * row_step + column * pixel)
                    if relu:
                        relu_span(y + q * row_step + column * pixel,
                                  y + q * row_step + column * pixel, lanes)
            return
        tiles = Block(0, 0, self.step_h * self.line, self.step_w * self.pixel, row_step, pixel, NULL, 0,
                      0, 1, w_step, b, relu, phase.taps == 1)
        # Zeros outside the image count where a weight is infinite or NaN; few pixels' are not looked at.
        whole = self.wild or self.few
        first = phase.first_span
        last = first + 1
        if phase.spans and not whole:
            first, last = last, last + phase.spans
        while first < last:
            self.run_span(band, packed, tiles, y, phase, &self.spans[first], lanes, images, q0, end,
                          whole)
            first += 1

    cdef void run_span(self, const real* band, const real* packed, Block tiles, real* y,
                       const Phase* phase, const Columns* span, Py_ssize_t lanes, Py_ssize_t images,
                       Py_ssize_t q0, Py_ssize_t end, bint whole) noexcept nogil:
        """Rows q0 to `end`, without the taps that lie above or below the image unless `whole`."""
        cdef Py_ssize_t q = q0, stop, first, last, pixels
        cdef Py_ssize_t columns = span.last - span.first
        cdef Py_ssize_t nv = (lanes + VL - 1) // VL
        cdef const real* x
        cdef real* to
        band += span.first * tiles.x_step
        y += span.first * tiles.y_step
        tiles.length = span.length
        while q < end:
            x, to = band + (q - q0) * tiles.x_line, y + q * tiles.y_line
            first, last, stop = 0, phase.tap_rows, end
            if not (whole or span.upright or self.in_place):
                stop = self.same_rows(phase, q, end, &first, &last)
            tiles.run = self.runs + span.first_run + first * span.runs
            tiles.runs = (last - first) * span.runs
            tiles.lines, pixels, q = stop - q, columns, stop
            if self.images > 1:
                self.run_images(images, columns, nv, lanes, &tiles, x, packed, to)
                continue
            if span.upright:
                tiles.x_line, tiles.x_step = tiles.x_step, tiles.x_line
                tiles.y_line, tiles.y_step = tiles.y_step, tiles.y_line
                tiles.lines, pixels = pixels, tiles.lines
            elif tiles.x_line == columns * tiles.x_step and tiles.y_line == columns * tiles.y_step:
                # Rows that follow each other without a gap are one.
                pixels = min(columns * tiles.lines, self.outputs - q0 * columns)
                tiles.lines = 1
            if self.wide:
                self.run_wide(x, packed, &tiles, to, columns, lanes)
            elif self.cycle:
                cycle_lines(pixels, self.cycle, lanes, &tiles, x, packed, to)
            else:
                self.run_tiles(pixels, nv, lanes, &tiles, x, packed, to)

    cdef void run_images(self, Py_ssize_t images, Py_ssize_t columns, Py_ssize_t nv, Py_ssize_t lanes,
                         const Block* lines, const real* x, const real* packed, real* y) noexcept nogil:
        """Lines of `columns` pixels, of which the tiles take each one of all images."""
        cdef Block tiles = lines[0]
        cdef Py_ssize_t line
        tiles.lines, tiles.x_line, tiles.y_line = columns, lines.x_step, lines.y_step
        tiles.x_step, tiles.y_step = self.image, self.TH * self.TW * self.TC
        for line in range(lines.lines):
            self.run_tiles(images, nv, lanes, &tiles, x + line * lines.x_line, packed,
                           y + line * lines.y_line)

    cdef void run_tiles(self, Py_ssize_t pixels, Py_ssize_t nv, Py_ssize_t lanes, const Block* tiles,
                        const real* x, const real* packed, real* y) noexcept nogil:
        """`pixel_lines`; where weights are many, all tiles take some of them before the next."""
        cdef Block part = tiles[0]
        cdef Py_ssize_t most = TAPS_BYTES // (nv * VL * <Py_ssize_t> sizeof(real))  # inputs
        cdef Py_ssize_t some, length, c, left = tiles.runs
        if (left * tiles.length <= most or lanes < nv * VL or tiles.lines * pixels <= pixel_rows(nv)):
            pixel_lines(pixels, nv, lanes, tiles, x, packed, y)
            return
        some = even_part(left, max(1, most // tiles.length))  # whole runs,
        length = even_part(tiles.length, most)                # or parts of one
        while left > 0:
            part.runs = min(some, left)
            left -= part.runs
            c = 0
            while c < tiles.length:
                part.length = min(length, tiles.length - c)
                part.relu = tiles.relu and left == 0 and c + part.length == tiles.length
                pixel_lines(pixels, nv, lanes, &part, x + c * tiles.c_step, packed + c * tiles.w_step, y)
                part.b = NULL
                c += part.length
            part.run += part.runs

    cdef Py_ssize_t same_rows(self, const Phase* phase, Py_ssize_t q, Py_ssize_t end,
                              Py_ssize_t* first, Py_ssize_t* last) noexcept nogil:
        """The rows of taps inside the image for output row q; returns the next row that has others."""
        cdef const Py_ssize_t* taps = self.tap_h + phase.first_tap
        cdef Py_ssize_t rows = phase.tap_rows, columns = phase.taps // max(1, rows)
        cdef Py_ssize_t row = q * self.step_h, step = self.step_h
        first[0] = 0
        while first[0] < rows and row + taps[first[0] * columns] < 0:
            first[0] += 1
        last[0] = first[0]
        while last[0] < rows and row + taps[last[0] * columns] < self.H:
            last[0] += 1
        if first[0] > 0:
            end = min(end, (step - 1 - taps[(first[0] - 1) * columns]) // step)
        if last[0] > first[0]:
            end = min(end, (self.H + step - 1 - taps[(last[0] - 1) * columns]) // step)
        return end

    cdef void run_wide(self, const real* x, const real* packed, const Block* tiles, real* y,
                       Py_ssize_t columns, Py_ssize_t lanes) noexcept nogil:
        """Lines by wide tiles: neighbouring vectors of a row, or if they are few, of a column."""
        cdef Py_ssize_t pixel = 1 if self.planar else tiles.y_step
        cdef Py_ssize_t vectors = (columns + VL - 1) // VL
        cdef bint down = wide_vectors(lanes, vectors, False) < wide_vectors(lanes, 4, False)
        cdef Py_ssize_t x_vector = tiles.x_line if down else VL
        cdef Py_ssize_t y_vector = tiles.y_line if down else VL * pixel
        cdef Py_ssize_t q = 0, column = 0, nv
        while q < tiles.lines and column < columns:
            nv = wide_vectors(lanes, tiles.lines - q if down else vectors - column // VL, down)
            wide_tile_of(
                lanes, nv, x + q * tiles.x_line + column, x_vector, self.step_w * self.plane, tiles.run,
                tiles.runs, self.C_group, packed, tiles.b, tiles.relu,
                y + q * tiles.y_line + column * pixel, self.planar, y_vector, pixel, columns - column,
                0 if down else VL)
            if down:
                q += nv
                if q >= tiles.lines:
                    q, column = 0, column + VL
            else:
                column += nv * VL
                if column >= columns:
                    q, column = q + 1, 0

    cdef void run_pixel(self, const real* band, const real* packed, const real* b,
                        const Phase* phase, Py_ssize_t q, Py_ssize_t q0, Py_ssize_t column,
                        Py_ssize_t nv, Py_ssize_t lanes, real* to) noexcept nogil:
        """One output, tap by tap, without the taps outside the input. Steps are 1 here (dx)."""
        cdef real[64] total
        cdef Py_ssize_t t, h, w
        cdef Py_ssize_t width = lanes if self.wide else nv * VL
        cdef Run run = Run(0, 0)
        cdef Block tile = Block(1, 1, 0, 0, 0, 0, &run, 1, self.C_group, 1, width, NULL, False, False)
        memcpy(total, b, width * sizeof(real))
        band += (q - q0) * self.line + column * (1 if self.wide else self.pixel)
        for t in range(phase.first_tap, phase.first_tap + phase.taps):
            h, w = q + self.tap_h[t], column + self.tap_w[t]
            if 0 <= h < self.H and 0 <= w < self.W:
                h, w = self.tap_h[t] - self.top, self.tap_w[t] - self.left
                if self.wide:
                    wide_tile_of(lanes, 1, band + h * self.line + w, 0, self.plane, &run, 1,
                                 self.C_group, packed, total, False, total, 0, 0, lanes, 1, 0)
                else:
                    pixel_lines(1, nv, width, &tile, band + h * self.line + w * self.pixel, packed,
                                total)
            packed += self.C_group * width
        memcpy(to, total, lanes * sizeof(real))

    cdef void run_cycles(self, const real* band, const real* b, const Phase* phase, Py_ssize_t group,
                         Py_ssize_t q, Py_ssize_t q0, Py_ssize_t column, real* to) noexcept nogil:
        """`run_pixel` of K_group channels, by the weights as they came."""
        cdef Py_ssize_t t, c, k, h, w
        cdef const real* source
        cdef real total
        band += (q - q0) * self.line + column * self.pixel
        for k in range(self.K_group):
            total = b[k * self.cycle]
            for t in range(phase.first_tap, phase.first_tap + phase.taps):
                h, w = self.tap_h[t], self.tap_w[t]
                if 0 <= q + h < self.H and 0 <= column + w < self.W:
                    source = self.w + (group * self.w_group + self.tap_index[t] * self.w_tap
                                       + k * self.w_out)
                    h = (h - self.top) * self.line + (w - self.left) * self.pixel
                    for c in range(self.C_group):
                        total = total + band[h + c] * source[c * self.w_in]
            to[k] = total

    cdef int pack(self, Packed* packed, const real* w, int threads, Py_ssize_t version) except -1:
        self.w = w
        if not self.is_packed(version):
            self.wild = False
        return self.pack_weights(packed, w, self.blocks * self.packed_size, threads, version)

    cdef real* pack_bias(self, const real* b) except? NULL:
        self.cleared = self.clips and b == NULL
        if self.cycle:
            return self.cycle_bias(b)
        return padded_bias(self.bias, b, self.blocks, self.blocks_group, self.block, self.K_group)

    cdef real* cycle_bias(self, const real* b) except? NULL:
        """In the first part of each channel: [group][channel, part]."""
        cdef Py_ssize_t k
        cdef real* bias = self.bias.take(self.groups * LANES)
        memset(bias, 0, self.groups * LANES * sizeof(real))
        for k in range(self.TC if b != NULL else 0):
            bias[k // self.K_group * LANES + k % self.K_group * self.cycle] = b[k]
        return bias
