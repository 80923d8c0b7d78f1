# Padded copies of the input, packed copies of weights and biases, as the tiles read them; and the driver
# of those that pack weights.

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

cdef enum:
    PACK_AHEAD = 16         # rows of weights: a step between them keeps the hardware from fetching
    OWN = 16_384            # numbers of weights that each thread packs for itself: 64 KB stay in L2
    OWN_MOST = 655_360      # or so many, if each
    OWN_USES = 128          # is used so often by a thread: that repays packing or transforming it twice

cdef struct Copy:
    bint made
    char others[124]        # two cache lines: what is made has its own, as in items.pxi

cdef struct Packed:
    # Packed weights: one copy for all threads, or of few weights one for each, which makes it before its
    # first item. To have them from the caches of another core, and to make it give up the last call's,
    # takes longer: half of the time of a convolution of 4 million multiply-adds.
    const real* w
    real* first
    Py_ssize_t own          # numbers from one copy to the next, or 0
    Copy[SHARES] of


cdef inline bint makes_own(Py_ssize_t size, Py_ssize_t uses, int threads) noexcept nogil:
    """Whether each thread packs or transforms `size` numbers of weights that are used `uses` times.

    Half of them from another core's cache take longer, unless they are many for the work. (16 x 16 to
    128 x 128 channels, 3x3: up to 5 % less time on two threads, up to 30 % where these share no L3.)
    """
    return 1 < threads <= SHARES and (size <= OWN or size <= OWN_MOST and uses >= OWN_USES * threads)


cdef class Packer:
    """A driver whose weights are packed in blocks, for a call or until their version is another."""
    cdef Workspace weights, bias, scratch
    cdef Py_ssize_t blocks
    cdef Py_ssize_t version     # of those that were packed last, or 0
    cdef Py_ssize_t items, area  # work items; a thread's part of `scratch`
    cdef readonly Py_ssize_t work
    cdef bint spoiled           # some output is not finite, and all must be computed directly

    def __cinit__(self):
        self.weights, self.bias, self.scratch = Workspace(), Workspace(), Workspace()

    cdef int threads(self, int num_threads) noexcept nogil:
        """Tiny work stays on one thread."""
        return team(self.work, num_threads)

    cdef bint run(self, const real* x, const real* w, const real* b, bint relu, real* y,
                  int num_threads, Py_ssize_t version=0) except -1:
        """Pack the weights, then compute every item; False if all of y must be computed directly.

        Calls of the same `version` have the same w, unless it is 0.
        """
        cdef Shares shares
        cdef Packed packed
        cdef Py_ssize_t thread, item
        cdef int threads = self.threads(num_threads)
        cdef Py_ssize_t slot = apart(self.area)
        cdef real* scratch = self.scratch.take(threads * slot)
        cdef real* bias = self.pack_bias(b)
        self.pack(&packed, w, threads, version)
        self.prepare(x, &packed, threads)
        self.spoiled = False
        share_out(&shares, self.items, threads)
        region_starts(is_shared(self.work))
        with nogil, parallel(num_threads=threads):
            thread = threadid()
            item = next_item(&shares, thread)
            while item >= 0:
                self.run_item(x, self.packed_by(&packed, thread), bias, relu, y,
                              scratch + thread * slot, item)
                item_ends()
                item = next_item(&shares, thread)
        return not self.spoiled

    # What each driver has of its own:

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """Some of y."""

    cdef real* pack_bias(self, const real* b) except? NULL:
        """b, or zeros, as tiles read it."""

    cdef int pack(self, Packed* packed, const real* w, int threads, Py_ssize_t version) except -1:
        """`pack_weights` of as many numbers as there are."""

    cdef int prepare(self, const real* x, Packed* packed, int threads) except -1:
        """What threads do before the first item."""
        return 0

    cdef void pack_block(self, const real* w, real* packed, Py_ssize_t block) noexcept nogil:
        """One block of all that begin at `packed`."""

    cdef bint is_packed(self, Py_ssize_t version) noexcept nogil:
        """Whether the last call had the same weights; 0 is no version."""
        return version and version == self.version

    cdef int pack_weights(self, Packed* packed, const real* w, Py_ssize_t size, int threads,
                          Py_ssize_t version) except -1:
        """All blocks, `size` numbers; or room for copies. What is kept as a version is one copy."""
        cdef Py_ssize_t block
        cdef int t
        packed.w, packed.own = w, 0
        if makes_own(size, self.work // max(1, size), threads) and not version:
            packed.own = apart(size)
            for t in range(threads):
                packed.of[t].made = False
        packed.first = self.weights.take(max(size, threads * packed.own))
        if not (packed.own or self.is_packed(version)):
            region_starts(size > TINY)
            for block in prange(self.blocks, schedule="static",
                                num_threads=threads if size > TINY else 1, nogil=True):
                self.pack_block(w, packed.first, block)
                item_ends()
        self.version = version
        return 0

    cdef const real* packed_by(self, Packed* packed, int thread) noexcept nogil:
        """The weights that a thread reads."""
        cdef Py_ssize_t block
        cdef real* mine = packed.first + thread * packed.own
        if packed.own and not packed.of[thread].made:
            for block in range(self.blocks):
                self.pack_block(packed.w, mine, block)
            packed.of[thread].made = True
        return mine


cdef void pack_panels(
    const real* x, Py_ssize_t H, Py_ssize_t W, Py_ssize_t C, real* band, Py_ssize_t panel,
    Py_ssize_t plane, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t step_h, Py_ssize_t column,
    Py_ssize_t columns, Py_ssize_t step_w, Py_ssize_t channels,
) noexcept nogil:
    """band[c // panel, row, column, c % panel] = x[row, column, c], zeros outside the image.

    Every step-th row and column, from (row, column) on; `plane` numbers from one panel to the next.
    """
    cdef Py_ssize_t i, j, h, c, count
    # The columns before the image, and those inside it.
    cdef Py_ssize_t before = min(columns, max(0, (step_w - 1 - column) // step_w))
    cdef Py_ssize_t inside = max(before, min(columns, (W - column + step_w - 1) // step_w))
    cdef const real* source
    cdef real* to
    for i in range(rows):
        h, c = row + i * step_h, 0
        while c < channels:
            to = band + c // panel * plane + i * columns * panel
            count = min(panel, channels - c)
            if h < 0 or h >= H:
                memset(to, 0, columns * panel * sizeof(real))
                c += panel
                continue
            source = x + (h * W + column) * C + c
            memset(to, 0, before * panel * sizeof(real))
            memset(to + inside * panel, 0, (columns - inside) * panel * sizeof(real))
            if count == panel == C and step_w == 1:
                memcpy(to + before * C, source + before * C, (inside - before) * C * sizeof(real))
            elif count == TILE_2:
                for j in range(before, inside):
                    memcpy(to + j * panel, source + j * step_w * C, TILE_2 * sizeof(real))
            elif count >= 2 * VL:
                for j in range(before, inside):
                    memcpy(to + j * panel, source + j * step_w * C, count * sizeof(real))
            else:
                for j in range(before, inside):
                    copy_short(to + j * panel, source + j * step_w * C, count)
            c += panel


cdef void pad_rows(
    const real* x, Py_ssize_t H, Py_ssize_t W, Py_ssize_t C,
    real* band, Py_ssize_t width, Py_ssize_t pixel,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t channels,
) noexcept nogil:
    """Copy `rows` x `width` input pixels from (row, column) on, with zeros outside the image."""
    pack_panels(x, H, W, C, band, pixel, 0, row, rows, 1, column, width, 1, channels)


cdef void pack_rows(const real* w, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t lanes, real* packed,
                    Py_ssize_t width) noexcept nogil:
    """packed[i, :width] = w[i * step, :lanes], then zeros."""
    cdef Py_ssize_t i, k
    for i in range(rows):
        for k in range(width // VL):
            prefetch(w + PACK_AHEAD * step + k * VL)
            (<vec*> packed)[k] = load_part(w + k * VL, lanes - k * VL)
        if width < VL:
            copy_short(packed, w, width)
        w += step
        packed += width


cdef void pack_columns(const real* w, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t lanes,
                       real* packed, Py_ssize_t width) noexcept nogil:
    """packed[i, :width] = w[:lanes, i], then zeros; a column is `step` long. VL x VL at a time."""
    cdef vec[16] square
    cdef Py_ssize_t k = 0, i, j, columns, count
    while k < lanes:
        columns, i = min(VL, lanes - k), 0
        while i < rows:
            count = min(VL, rows - i)
            for j in range(VL):
                square[j] = vec_set(0)
                if j < columns:
                    square[j] = load_part(w + (k + j) * step + i, count)
            transpose(square)
            for j in range(count):
                if width < VL:
                    copy_short(packed + (i + j) * width, <real*> &square[j], width)
                else:
                    (<vec*> (packed + (i + j) * width + k))[0] = square[j]
            i += VL
        k += VL


cdef bint all_finite(const real* p, Py_ssize_t count) noexcept nogil:
    """Whether no number is infinite or NaN: 0 times such a one is NaN."""
    cdef vec zero[4]
    cdef Py_ssize_t i = 0, k
    for k in range(4):
        zero[k] = vec_set(0)
    while i + 4 * VL <= count:
        for k in range(4):
            zero[k] = zero[k] + (<const vec*> (p + i + k * VL))[0] * vec_set(0)
        i += 4 * VL
    while i < count:
        zero[0] = zero[0] + load_part(p + i, count - i) * vec_set(0)
        i += VL
    return not any_nan(zero[0] + zero[1] + (zero[2] + zero[3]))


cdef real* padded_bias(Workspace to, const real* b, Py_ssize_t blocks, Py_ssize_t blocks_group,
                       Py_ssize_t block, Py_ssize_t K_group) except? NULL:
    """The bias a block of channels at a time, zeros behind a group's last and where there is none."""
    cdef Py_ssize_t i, k
    cdef real* bias = to.take(blocks * block)
    memset(bias, 0, blocks * block * sizeof(real))
    if b != NULL:
        for i in range(blocks):
            k = i % blocks_group * block
            memcpy(bias + i * block, b + i // blocks_group * K_group + k,
                   min(block, K_group - k) * sizeof(real))
    return bias
