# Winograd's F(4x4, 3x3): 16 outputs of a 3x3 filter at stride 1 from 36 products instead of 144.
#
#     y = A^T [(G w G^T) * (B^T d B)] A       one 4x4 tile of y from a 6x6 tile d of x
#
# `*` takes element by element, so over all tiles and all input and output channels it is 36 matrix
# products. The transforms are in winograd_tile.pxi.
#
# A work item is a block of tiles for a chunk of output channels. One chunk of input channels after
# the other, it transforms tiles and filters into its thread's workspace and adds the 36 products;
# then it transforms the sums to y. What several items share, and is not too large, is transformed
# once, before; filters that are few for the work, by each thread for itself. Where tiles are few, as
# in one image, the transformed filters are kept for the next call, with a copy of w: comparing it takes
# a fifth of the time.
#
# Any value that is not finite, in d or in w or made by an overflow, makes every sum that it enters
# infinite or NaN. So a finite y is what the direct sum gives; otherwise `run` says False, and the
# caller takes the direct algorithm, which puts NaN and infinity exactly where they belong.

from libc.string cimport memcmp

cdef enum:
    C_CHUNK = 64                 # channels; twice that in blocks of half the size. Larger ones
    K_CHUNK = 128                # repeat fewer transforms; here what one product of 36 moves
    BLOCK_TILES = 48
    FEW_ITEMS = 8
    SHARED_BYTES = 8_388_608     # reading larger filters costs more than transforming them anew
    STAGED_BYTES = 4_194_304     # so do tiles
    STAGED_TILES = 32            # transforming fewer tiles twice is faster than handing them around
    KEPT_TILES = 128             # fewer make the transform of the filters a tenth of the work or more
    FEW_TILES = 8                # fewer read more transformed filters than they save products
    SMALL_TILE = 2               # outputs, h and w, of F(2x2, 3x3), which they take
    PANEL = 32                   # vectors of taps; with all nine they take half of L1
    LEAST_OUTPUTS = 48           # pixels; fewer do not repay the transform of the filters
    L2_BYTES = 2_000_000         # of what a block multiplies: L2 is 1 to 2 MB


cdef Py_ssize_t whole_chunk(Py_ssize_t total, Py_ssize_t most, Py_ssize_t unit) noexcept nogil:
    """The first of as few even chunks of `total` as it takes, in whole units."""
    return (even_part(total, most) + unit - 1) // unit * unit


cdef Py_ssize_t tiles_in_l2(Py_ssize_t points, Py_ssize_t most, Py_ssize_t C,
                            Py_ssize_t K) noexcept nogil:
    """Of `most` tiles, those of which products by C x K filters stay in L2; BLOCK_TILES // 2 or more."""
    while (most > BLOCK_TILES // 2
           and points * <Py_ssize_t> sizeof(real) * (most * (C + K) + C * K) > L2_BYTES):
        most -= 12
    return most


@final
cdef class Winograd:
    """y, or dx, of a convolution with 3x3 filters and stride 1.

    Parameters
    ----------
    source, target : tuple
        (N, H, W, C) read and written.
    groups : int
    dilation, before : tuple
        (h, w) each; `before` is the zeros above and to the left of the source.
    flipped : bool
        False: y = x * w. True: dx = dy * w with the taps turned round and the channels exchanged.
    """
    cdef Py_ssize_t C, K                                # of a group
    cdef Py_ssize_t groups, w_row, w_tap
    cdef Grid grid
    cdef Py_ssize_t patch, points                       # of a tile: inputs a side, products
    cdef Py_ssize_t most                                # tiles of an item
    cdef Py_ssize_t block, c_chunk, k_chunk, c_chunks, k_chunks, items
    cdef Py_ssize_t u_step, v_step, m_step, area        # between points; a thread's workspace
    cdef Py_ssize_t v_size                              # of all tiles
    cdef readonly Py_ssize_t work
    cdef bint flipped, shared, staged                   # filters, tiles transformed before
    cdef bint kept                                      # filters stay transformed until w changes
    cdef bint known                                     # there are such filters
    cdef Py_ssize_t version                             # of the weights that they were made from
    cdef bint spoiled                                   # some output is not finite
    cdef Workspace filters, last_w, inputs, scratch, bias

    def __cinit__(self, source, target, Py_ssize_t groups, dilation, before, bint flipped):
        self.groups, self.C, self.K = groups, source[3] // groups, target[3] // groups
        self.w_row = source[3] if flipped else target[3]
        self.w_tap = self.w_row * (self.K if flipped else self.C)
        self.flipped = flipped
        self.filters, self.last_w, self.inputs = Workspace(), Workspace(), Workspace()
        self.scratch, self.bias = Workspace(), Workspace()
        self.known = False
        self.cut((source, target, before, dilation))

    cdef share(self, Workspaces shared, bint filters):
        """Use these workspaces; for `filters` too, unless they are kept."""
        self.scratch = shared.scratch
        if filters and not self.kept:
            self.filters = shared.filters

    cdef cut(self, tuple shapes):
        """Choose tiles, chunks and work items: by shape alone."""
        cdef Py_ssize_t blocks, tiles, most = K_CHUNK
        cdef bint small
        self.grid = Grid(TILE, *shapes)
        if self.grid.tiles <= FEW_TILES:
            self.grid = Grid(SMALL_TILE, *shapes)
        self.patch = self.grid.side + 2
        self.points = self.patch * self.patch
        small = self.points * self.C * self.K * <Py_ssize_t> sizeof(real) <= SHARED_BYTES
        tiles = self.grid.tiles
        self.block = 2 * VL if self.K > VL else VL
        self.most = even_part(tiles, BLOCK_TILES if small else 2 * BLOCK_TILES)
        while (small and self.grid.side == TILE and self.most > 12
               and tiles * self.grid.target.C < ITEMS * self.most * most):
            self.most = max(12, self.most - 12)
        if small:
            self.most = tiles_in_l2(self.points, self.most, min(self.C, C_CHUNK), min(self.K, K_CHUNK))
        self.most = even_part(tiles, self.most)
        blocks = (tiles + self.most - 1) // self.most
        while most > 32 and self.groups * blocks * ((self.K + most - 1) // most) < FEW_ITEMS:
            most //= 2
        self.kept = small and not self.flipped and tiles < KEPT_TILES
        self.shared = small and blocks > 1 or self.kept
        self.c_chunk = whole_chunk(
            self.C, 2 * C_CHUNK if self.shared and 2 * self.most <= BLOCK_TILES else C_CHUNK, 16)
        self.k_chunk = whole_chunk(self.K, most, 32)
        self.c_chunks = (self.C + self.c_chunk - 1) // self.c_chunk
        self.k_chunks = (self.K + self.k_chunk - 1) // self.k_chunk
        self.items = self.groups * blocks * self.k_chunks
        self.staged = (
            self.k_chunks > 1 and tiles >= STAGED_TILES and self.points * tiles * self.grid.source.C
            * <Py_ssize_t> sizeof(real) <= STAGED_BYTES)
        self.work = (9 * self.grid.side * self.grid.side * tiles  # of the direct sum
                     * self.C * self.grid.target.C)
        # 16 numbers more: lines of the 36 points that are a multiple of 4096 bytes apart would
        # compete for the same few places of L1.
        self.u_step = self.c_chunk * self.k_chunk + 16
        self.v_step = self.most * self.c_chunk + 16
        self.v_size = blocks * self.c_chunks * self.points * self.v_step if self.staged else 0
        self.m_step = self.most * self.k_chunk + 16
        self.area = self.points * (self.v_step + self.m_step + self.c_chunk)
        if not self.shared:
            self.area += self.points * self.u_step

    cdef bint run(self, const real* x, const real* w, const real* b, bint relu, real* y,
                  int num_threads, Py_ssize_t version=0, const real* added=NULL) except -1:
        """Compute y; False if some of it is not finite and all of it must be computed directly.

        Calls of the same `version` have the same w, unless it is 0. `added`, like y, is added before
        the ReLU if it is not NULL.
        """
        cdef Shares shares
        cdef Py_ssize_t thread, item
        # Items to prepare: filters and rows of tiles for all threads, or filters by each for itself; and
        # how far these filters are apart.
        cdef Py_ssize_t filters = 0, inputs = 0, mine = 0, own = 0
        cdef Py_ssize_t u_size = self.groups * self.c_chunks * self.k_chunks * self.points * self.u_step
        cdef real* u
        cdef real* last_w = self.last_w.take(9 * self.C * self.grid.target.C if self.kept else 0)
        cdef real* v = self.inputs.take(self.groups * self.v_size)
        cdef Py_ssize_t slot = apart(self.area)
        cdef real* scratch = self.scratch.take(num_threads * slot)
        cdef real* bias = padded_bias(self.bias, b, self.groups, 1, self.k_chunks * self.k_chunk, self.K)
        cdef int threads = team(self.work, num_threads)
        self.spoiled = False
        if self.shared and not (version and version == self.version):
            filters = self.groups * self.k_chunks * ((self.C + 15) // 16)
        if (filters and makes_own(u_size, self.grid.tiles, threads)
                and not (self.kept or self.staged or version)):
            mine, filters, own = filters, 0, apart(u_size)
        u = self.filters.take(max(u_size, threads * own) if self.shared else 0)
        if self.staged:
            inputs = self.groups * self.c_chunks * self.grid.tiles // self.grid.across
        with nogil:
            if filters + inputs:
                share_out(&shares, filters + inputs, threads)
                region_starts(is_shared(self.work))
                with parallel(num_threads=threads):
                    thread = threadid()
                    item = next_item(&shares, thread)
                    while item >= 0:
                        self.prepare_item(x, w, u, last_w, v, scratch + thread * slot, filters, item)
                        item_ends()
                        item = next_item(&shares, thread)
            self.known, self.version = True, version
            share_out(&shares, self.items, threads)
            region_starts(is_shared(self.work))
            with parallel(num_threads=threads):
                thread = threadid()
                for item in range(mine):
                    self.prepare_item(x, w, u + thread * own, last_w, v, scratch + thread * slot, mine,
                                      item)
                item = next_item(&shares, thread)
                while item >= 0:
                    self.run_item(x, w, u + thread * own, v, bias, added, relu, y,
                                  scratch + thread * slot, item)
                    item_ends()
                    item = next_item(&shares, thread)
        return not self.spoiled

    cdef void prepare_item(self, const real* x, const real* w, real* u, real* last_w, real* v,
                           real* patch, Py_ssize_t filters, Py_ssize_t item) noexcept nogil:
        """Transform the filters of 16 by one chunk of channels, or a row of tiles of one chunk."""
        cdef Py_ssize_t group, k_index, c, lines = (self.C + 15) // 16
        if item >= filters:
            item -= filters
            group = item % self.groups
            self.transform_row(x + group * self.C, v + group * self.v_size, patch, item // self.groups)
            return
        group, k_index = item // lines // self.k_chunks, item // lines % self.k_chunks
        c = item % lines * 16
        w += group * (self.C if self.flipped else self.K)
        last_w += group * self.K
        if not self.kept or self.renew(w, last_w, c, min(c + 16, self.C), k_index * self.k_chunk):
            u += ((group * self.k_chunks + k_index) * self.c_chunks + c // self.c_chunk
                  ) * self.points * self.u_step
            self.transform_filters(w, u, k_index, c, min(c + 16, self.C))

    cdef bint renew(self, const real* w, real* last_w, Py_ssize_t c, Py_ssize_t c_end,
                    Py_ssize_t k) noexcept nogil:
        """Bring last_w up to w for a range by one chunk of channels; whether anything had changed."""
        cdef size_t size = (min(k + self.k_chunk, self.K) - k) * sizeof(real)
        cdef Py_ssize_t tap, i, at
        cdef bint changed = not self.known
        for tap in range(9):
            for i in range(c, c_end):
                at = tap * self.w_tap + i * self.w_row + k
                if changed or memcmp(w + at, last_w + at, size) != 0:
                    memcpy(last_w + at, w + at, size)
                    changed = True
        return changed

    cdef void transform_filters(self, const real* w, real* u, Py_ssize_t k_index, Py_ssize_t c,
                                Py_ssize_t c_end) noexcept nogil:
        """Filters c to c_end of one chunk by one chunk of channels: [point, block, c, lanes]."""
        cdef Py_ssize_t c0 = c // self.c_chunk * self.c_chunk, k = k_index * self.k_chunk
        cdef Py_ssize_t channels = min(self.c_chunk, self.C - c0)
        cdef Py_ssize_t width = min(self.k_chunk, self.K - k), vectors = (width + VL - 1) // VL
        cdef Py_ssize_t count, v, some, i, j
        cdef vec[9 * PANEL] taps
        if width % VL:  # lanes that `copy_taps` leaves out
            memset(taps, 0, sizeof(taps))
        while c < c_end:
            some = 1 if self.flipped else min(vectors, PANEL)
            count = min(VL if self.flipped else PANEL // some, c_end - c)
            v = 0
            while v < vectors:
                some = min(some, vectors - v)
                if self.flipped:
                    self.turn_taps(w, taps, c, count, k + v * VL, min(VL, width - v * VL))
                else:
                    self.copy_taps(w, taps, c, count, k + v * VL, min(some * VL, width - v * VL))
                for i in range(count):
                    for j in range(some):
                        filter_tile_in(
                            self.patch, <real*> (taps + i * some + j), PANEL * VL, u + in_blocks(
                                (v + j) * VL, width, self.block, channels, c - c0 + i), self.u_step)
                v += some
            c += count

    cdef Ahead next_filters(self, const real* w, Py_ssize_t c_index, Py_ssize_t k_index) noexcept nogil:
        """The filters that are transformed after those of two chunks."""
        cdef Ahead ahead
        cdef Py_ssize_t c, k
        c_index += 1
        if c_index == self.c_chunks:
            c_index, k_index = 0, (k_index + 1) % self.k_chunks
        c, k = c_index * self.c_chunk, k_index * self.k_chunk
        ahead.place = w + (k * self.w_row + c if self.flipped else c * self.w_row + k)
        ahead.width, ahead.count = min(self.k_chunk, self.K - k), min(self.c_chunk, self.C - c)
        if self.flipped:
            ahead.width, ahead.count = ahead.count, ahead.width
        ahead.step, ahead.planes, ahead.plane, ahead.some = self.w_row, 9, self.w_tap, 0
        return ahead

    cdef void copy_taps(self, const real* w, vec* taps, Py_ssize_t c, Py_ssize_t channels,
                        Py_ssize_t k, Py_ssize_t width) noexcept nogil:
        """The 9 taps of `channels` x `width` filters: [tap, c, k] in whole vectors, PANEL a tap.

        In place, those of a filter would compete for the same places of the caches: they are often
        a multiple of 4096 bytes apart.
        """
        cdef Py_ssize_t t, i
        for t in range(9):
            for i in range(channels):
                memcpy(taps + t * PANEL + i * ((width + VL - 1) // VL),
                       w + t * self.w_tap + (c + i) * self.w_row + k, width * sizeof(real))

    cdef void turn_taps(self, const real* w, vec* taps, Py_ssize_t c, Py_ssize_t channels,
                        Py_ssize_t k, Py_ssize_t lanes) noexcept nogil:
        """The 9 taps, turned round, of `channels` x `lanes` filters that lie as [k, c]: [tap, c, k]."""
        cdef vec[16] a
        cdef Py_ssize_t t, i
        cdef const real* p
        for t in range(9):
            p = w + t * self.w_tap + k * self.w_row + c
            for i in range(VL):
                prefetch(p + i * self.w_row + VL)
            for i in range(VL):
                a[i] = load_part(p + i * self.w_row, channels) if i < lanes else vec_set(0)
            transpose(a)
            memcpy(taps + (8 - t) * PANEL, a, VL * sizeof(vec))

    cdef void transform_row(self, const real* x, real* v, real* patch, Py_ssize_t item) noexcept nogil:
        """A row of tiles of one image, for one chunk of channels."""
        cdef Py_ssize_t c_index = item % self.c_chunks, across = self.grid.across
        cdef Py_ssize_t first = item // self.c_chunks * across, tile, chunk
        cdef Place place = self.grid.place_of(first)
        for tile in range(first, first + across):
            chunk = (tile // self.most * self.c_chunks + c_index) * self.points * self.v_step
            self.transform_input(x, &place, c_index, patch, v + chunk + tile % self.most * RUN)
            self.grid.move_on(&place)

    cdef void transform_input(self, const real* x, const Place* place, Py_ssize_t c_index, real* patch,
                              real* v) noexcept nogil:
        """One tile of one chunk of input channels: [point, channel // RUN, tile, channel % RUN]."""
        cdef Py_ssize_t c0 = c_index * self.c_chunk
        input_tiles_at(self.grid, place, x + c0, min(self.c_chunk, self.C - c0), patch, v,
                       self.most * RUN, self.v_step)

    cdef void run_item(self, const real* x, const real* w, const real* u, const real* v,
                       const real* b, const real* added, bint relu, real* y, real* scratch,
                       Py_ssize_t item) noexcept nogil:
        """One block of tiles for one chunk of channels."""
        cdef Py_ssize_t k_index = item % self.k_chunks
        cdef Py_ssize_t group = item // self.k_chunks % self.groups
        cdef Py_ssize_t first = item // self.k_chunks // self.groups * self.most
        cdef Py_ssize_t count = min(self.most, self.grid.tiles - first)
        cdef Py_ssize_t k0 = k_index * self.k_chunk
        cdef Py_ssize_t c_index, channels, i
        cdef real* m = scratch + self.points * self.v_step
        cdef real* patch = m + self.points * self.m_step
        cdef real* own_u = patch + self.points * self.c_chunk
        cdef const real* from_u = own_u
        cdef const real* from_v = scratch
        cdef Place place
        cdef vec check = vec_set(0)
        cdef Ahead[AHEADS] ahead
        x += group * self.C
        y += group * self.K
        if added != NULL:
            added += group * self.K
        w += group * (self.C if self.flipped else self.K)
        u += group * self.k_chunks * self.c_chunks * self.points * self.u_step
        v += group * self.v_size
        b += group * self.k_chunks * self.k_chunk
        nothing_ahead(ahead)
        if not self.staged and k_index == self.k_chunks - 1:  # the next item's
            ahead[0] = self.grid.pixels_under(x, &self.grid.source, self.C, first + count,
                                              min(first + count + self.most, self.grid.tiles))
        if not self.flipped:  # outputs of a network: dx is mostly where another one was
            ahead[1] = self.grid.pixels_under(y + k0, &self.grid.target, min(self.k_chunk, self.K - k0),
                                              first, first + count)
            if added != NULL:
                ahead[2] = ahead[1]
                ahead[2].place = added + (ahead[1].place - y)
        for c_index in range(self.c_chunks):
            channels = min(self.c_chunk, self.C - c_index * self.c_chunk)
            if self.shared:
                from_u = u + (k_index * self.c_chunks + c_index) * self.points * self.u_step
            else:
                self.transform_filters(w, own_u, k_index, c_index * self.c_chunk,
                                       c_index * self.c_chunk + channels)
            if self.staged:
                from_v = v + (first // self.most * self.c_chunks + c_index) * self.points * self.v_step
            else:
                place = self.grid.place_of(first)
                for i in range(count):
                    self.transform_input(x, &place, c_index, patch, scratch + i * RUN)
                    self.grid.move_on(&place)
            if not self.shared:
                ahead[3] = self.next_filters(w, c_index, k_index)
            self.multiply(from_v, from_u, c_index == 0, m, count, channels, k0, ahead)
            nothing_ahead(ahead)
        place = self.grid.place_of(first)
        for i in range(count):
            self.transform_output(m, i, b, added, relu, y, &place, k0, &check)
            self.grid.move_on(&place)
        if any_nan(check):
            self.spoiled = True

    cdef void multiply(self, const real* v, const real* u, bint fresh, real* m, Py_ssize_t count,
                       Py_ssize_t channels, Py_ssize_t k0, const Ahead* ahead) noexcept nogil:
        """m = (if fresh) or += the 36 products of a block of tiles and a chunk of filters.

        m is [point, block, tile, lanes].
        """
        at_all_points(
            tiles_at_points, self.points, count, RUN, min(self.k_chunk, self.K - k0), self.block, fresh,
            v, self.v_step, channels, self.most * RUN, u, self.u_step, channels, m, self.m_step,
            self.most, ahead)

    cdef void transform_output(self, const real* m, Py_ssize_t i, const real* b, const real* added,
                               bint relu, real* y, const Place* place, Py_ssize_t k0,
                               vec* check) noexcept nogil:
        """One tile of y, the block's i-th, for a chunk of channels."""
        cdef const Strip* row = &self.grid.rows[place.row]
        cdef const Strip* column = &self.grid.columns[place.column]
        cdef const Frame* of = &self.grid.target
        cdef Py_ssize_t k = 0, width = min(self.k_chunk, self.K - k0), line = of.W * of.C
        cdef Py_ssize_t at = (place.n * of.H + row.output) * line + column.output * of.C + k0
        while k < width:
            output_tile(self.patch, row.outputs, column.outputs, min(VL, width - k),
                        m + in_blocks(k, width, self.block, self.most, i), self.m_step, b + k0 + k,
                        NULL if added == NULL else added + at + k, relu, y + at + k,
                        self.grid.step_h * line, self.grid.step_w * of.C, check)
            k += VL
