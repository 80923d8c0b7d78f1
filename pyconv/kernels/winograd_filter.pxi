# dw by Winograd: the transforms of winograd.pxi, transposed.
#
#     dw = G^T [sum over tiles of (B^T d B) * (A dy A^T)] G    from 6x6 tiles d of x and 4x4 of dy
#
# As in reduce.pxi, the tiles of the whole batch are cut into fixed parts. A work item sums one part
# for a chunk of input by a chunk of output channels, a block of tiles at a time, in its thread's
# workspace; then it transforms the sum to a partial filter. The first part's partial filter is dw
# itself, and the others are added to it in their order. db comes with the transform of dy.

@final
cdef class WinogradFilter:
    """dw and db of a convolution with 3x3 filters, stride 1 and one group.

    Parameters
    ----------
    x, dy : tuple
        Shapes (N, H, W, C) and (N, OH, OW, K).
    dilation, before : tuple
        (h, w) each; `before` is the zeros above and to the left of x.
    """
    cdef Py_ssize_t C, K
    cdef Grid grid
    cdef Py_ssize_t most, parts                     # tiles of a block
    cdef Py_ssize_t block, c_chunk, k_chunk, c_chunks, k_chunks
    cdef Py_ssize_t v_step, d_step, q_step, area
    cdef Workspace partials, scratch
    cdef readonly Py_ssize_t work
    cdef bint spoiled                               # some of dw is not finite

    def __cinit__(self, x, dy, dilation, before):
        self.C, self.K = x[3], dy[3]
        self.grid = Grid(TILE, x, dy, before, dilation)
        self.partials, self.scratch = Workspace(), Workspace()
        self.cut()

    cdef share(self, Workspaces shared):
        """Use these workspaces."""
        self.partials, self.scratch = shared.partials, shared.scratch

    cdef cut(self):
        """Choose chunks, parts and blocks: by shape alone, so that sums never move."""
        cdef Py_ssize_t tiles = self.grid.tiles
        self.block = 2 * VL if self.K > VL else VL
        self.c_chunk = whole_chunk(self.C, C_CHUNK, 16)
        self.k_chunk = whole_chunk(self.K, K_CHUNK, 32)
        self.c_chunks = (self.C + self.c_chunk - 1) // self.c_chunk
        self.k_chunks = (self.K + self.k_chunk - 1) // self.k_chunk
        self.parts = (ITEMS + self.c_chunks * self.k_chunks - 1) // (self.c_chunks * self.k_chunks)
        self.parts = max(1, min(self.parts, tiles // BLOCK_TILES))
        self.most = even_part((tiles + self.parts - 1) // self.parts, tiles_in_l2(
            POINTS, BLOCK_TILES, self.c_chunk, self.k_chunk))
        self.work = 9 * TILE * TILE * tiles * self.C * self.K  # of the direct sum
        # 16 numbers more, as in winograd.pxi.
        self.v_step = self.most * self.c_chunk + 16
        self.d_step = self.most * self.k_chunk + 16
        self.q_step = self.c_chunk * self.k_chunk + 16
        self.area = POINTS * (self.v_step + self.d_step + self.q_step + self.c_chunk)
        self.area += TILE * TILE * self.k_chunk

    cdef bint run(self, const real* x, const real* dy, real* dw, real* db,
                  int num_threads) except -1:
        """Fill dw, and db if not NULL; False if dw is not finite and must be computed directly."""
        cdef Shares shares
        cdef Py_ssize_t thread, item, row, size = 9 * self.C * self.K
        cdef Py_ssize_t k_padded = self.k_chunks * self.k_chunk
        cdef Py_ssize_t rows = 9 * self.C if self.parts > 1 else 0
        cdef real* partials = self.partials.take((self.parts - 1) * size + self.parts * k_padded)
        cdef real* sums = partials + (self.parts - 1) * size
        cdef Py_ssize_t slot = apart(self.area)
        cdef real* scratch = self.scratch.take(num_threads * slot)
        cdef int threads = team(self.work, num_threads)
        self.spoiled = False
        with nogil:
            share_out(&shares, self.parts * self.c_chunks * self.k_chunks, threads)
            region_starts(is_shared(self.work))
            with parallel(num_threads=threads):
                thread = threadid()
                item = next_item(&shares, thread)
                while item >= 0:
                    self.run_item(x, dy, dw, partials, sums if db != NULL else NULL,
                                  scratch + thread * slot, item)
                    item_ends()
                    item = next_item(&shares, thread)
            region_starts(is_shared(self.work))
            for row in prange(rows, schedule="static", num_threads=threads):
                add_row_parts(partials + row * self.K, self.parts - 1, size, dw + row * self.K, self.K)
                item_ends()
            if db != NULL:
                memcpy(db, sums, self.K * sizeof(real))
                add_row_parts(sums + k_padded, self.parts - 1, k_padded, db, self.K)
        return not self.spoiled

    cdef void run_item(self, const real* x, const real* dy, real* dw, real* partials, real* sums,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """One part, for one chunk by one chunk of channels."""
        cdef Py_ssize_t k0 = item % self.k_chunks * self.k_chunk
        cdef Py_ssize_t c0 = item // self.k_chunks % self.c_chunks * self.c_chunk
        cdef Py_ssize_t part = item // self.k_chunks // self.c_chunks
        cdef Py_ssize_t channels = min(self.c_chunk, self.C - c0)
        cdef Py_ssize_t width = min(self.k_chunk, self.K - k0)
        cdef Py_ssize_t tile = part * self.grid.tiles // self.parts
        cdef Py_ssize_t end = (part + 1) * self.grid.tiles // self.parts
        cdef Py_ssize_t count, next, i, c, k
        cdef Place place
        cdef bint first = True
        cdef real* d = scratch + POINTS * self.v_step
        cdef real* q = d + POINTS * self.d_step
        cdef real* patch = q + POINTS * self.q_step
        cdef real* db = NULL
        cdef vec check = vec_set(0)
        cdef Ahead[AHEADS] ahead
        nothing_ahead(ahead)
        memset(patch + POINTS * self.c_chunk, 0, TILE * TILE * self.k_chunk * sizeof(real))
        if sums != NULL and c0 == 0:
            db = sums + part * self.k_chunks * self.k_chunk + k0
            memset(db, 0, self.k_chunk * sizeof(real))
        while tile < end:
            count = min(self.most, end - tile)
            place = self.grid.place_of(tile)
            for i in range(count):
                input_tiles_at(self.grid, &place, x + c0, channels, patch,
                               scratch + i * self.c_chunk, RUN, self.v_step)
                self.spread_tile_at(&place, dy + k0, width, patch + POINTS * self.c_chunk, d, i, db)
                self.grid.move_on(&place)
            tile += count
            next = min(tile + self.most, self.grid.tiles)
            ahead[0] = self.grid.pixels_under(x + c0, &self.grid.source, channels, tile, next)
            ahead[1] = self.grid.pixels_under(dy + k0, &self.grid.target, width, tile, next)
            self.multiply(scratch, d, q, count, channels, width, first, ahead)
            first = False
        dw = (dw if part == 0 else partials + (part - 1) * 9 * self.C * self.K) + c0 * self.K + k0
        for c in range(channels):
            k = 0
            while k < width:
                taps_tile(q + in_blocks(k, width, self.block, channels, c), self.q_step,
                          dw + c * self.K + k, self.C * self.K, 2 * self.K, min(VL, width - k), &check)
                k += VL
        if any_nan(check):
            self.spoiled = True

    cdef void spread_tile_at(self, const Place* place, const real* dy, Py_ssize_t width, real* patch,
                             real* d, Py_ssize_t i, real* db) noexcept nogil:
        """Tile i of the block, packed by channel blocks: [point, block, tile, lanes]."""
        cdef const Strip* row = &self.grid.rows[place.row]
        cdef const Strip* column = &self.grid.columns[place.column]
        cdef Py_ssize_t OH = self.grid.target.H, OW = self.grid.target.W, k = 0
        cdef Py_ssize_t line = self.grid.step_h * OW * self.K, pixel = self.grid.step_w * self.K
        cdef const real* p
        dy += place.n * OH * OW * self.K
        p = dy + (row.output * OW + column.output) * self.K
        if row.outputs < TILE or column.outputs < TILE or width % VL:
            line, pixel = TILE * self.k_chunk, self.k_chunk
            pack_panels(dy, OH, OW, self.K, patch, pixel, 0, row.output, TILE, self.grid.step_h,
                        column.output, TILE, self.grid.step_w, width)
            p = patch
        while k < width:
            spread_tile(p + k, line, pixel, d + in_blocks(k, width, self.block, self.most, i),
                        self.d_step, NULL if db == NULL else db + k)
            k += VL

    cdef void multiply(self, const real* v, const real* d, real* q, Py_ssize_t count,
                       Py_ssize_t channels, Py_ssize_t width, bint first,
                       const Ahead* ahead) noexcept nogil:
        """q = (if first) or += the 36 products of a block of tiles of x and of dy.

        q is [point, block, c, lanes].
        """
        at_all_points(
            channels_at_points, POINTS, channels, 1, width, self.block, first, v, self.v_step, count,
            self.c_chunk, d, self.d_step, self.most, q, self.q_step, channels, ahead)
