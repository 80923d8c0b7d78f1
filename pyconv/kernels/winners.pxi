# Gradients of a convolution behind which a max pool let only a few outputs have a say.
#
# A *winner* is an output that its pool chose, and its dy. Each adds dy * x to dw, and dy * w to dx, at
# the window of the input that it saw: KH runs of KW * C_in numbers. Channel by channel, in bands of
# pooled rows: the winners are listed, then a tile adds up dw of all of them in registers, and another
# one spreads them over dx.
#
# What a winner adds to dx lies partly over what the one before it has just written. A load of parts of
# two stores waits until both are in the cache, which takes longer than all the rest. So a few copies of
# dx take turns, and are added up at the end. Where many winners see a small image, x and dx are unfolded
# instead: each window has runs of its own, which begin at lines of the cache and lie over no others.

from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

cdef enum:
    UNIT = 16               # numbers: what a run is made of, whatever the width of a vector
    WINNER_ROWS = 6         # of a window, of two units each: 12 sums in 16 registers
    WINNER_BYTES = 24_576   # of x, and of dx: the rest of L1 is left for filters and lists
    WINNER_WORK = 128       # multiply-adds of dense kernels that take as long: to list one,
    UNIT_WORK = 96          # and to add up and spread a unit of its window (see `winners_pay`)
    TURNED = 16             # output channels whose filters are turned round at once: whole lines of HWIO


cdef extern from *:
    """
    typedef struct {
        int32_t at;     /* where its window starts in the padded input */
        real value;     /* its dy */
    } Winner;

    /* Of short runs, 8 numbers at most are looked at: where a vector has 16, half of one crosses fewer
       lines of the cache, and on some CPUs takes half the time. */
    #define SHORT (VL < 8 ? VL : 8)
    typedef real short_vec __attribute__((
        vector_size(SHORT * sizeof(real)), aligned(sizeof(real)), may_alias));

    /* The first of a vector's numbers, 8 if it has more. What is not read crosses no line. */
    static inline __attribute__((always_inline)) vec load_short(const real* p) {
    #if defined(__AVX512F__)
        if (sizeof(real) == 4) return (vec) _mm512_zextps256_ps512(_mm256_loadu_ps((const float*) p));
    #endif
        return *(const vec*) p;
    }

    /* dw[r] += sum over winners of their value * x[at + r * line], in registers; db += their values.
       `ways` winners have sums of their own, since an addition takes four cycles. */
    #define DEFINE_WINNERS_TILE(name, V)                                                               \\
    static inline __attribute__((always_inline)) void name##_add(                                      \\
            const int rows, const int nv, const Winner* winner, const real* x, Py_ssize_t line,        \\
            V* acc, real* total) {                                                                     \\
        const Py_ssize_t lanes = sizeof(V) / sizeof(real);                                             \\
        const V a = winner->value - (V) {0};                                                           \\
        x += winner->at;                                                                               \\
        *total += winner->value;                                                                       \\
        UNROLLED for (int r = 0; r < rows; r++)                                                        \\
            UNROLLED for (int v = 0; v < nv; v++)                                                      \\
                acc[r * nv + v] = acc[r * nv + v] + *(const V*) (x + r * line + v * lanes) * a;        \\
    }                                                                                                  \\
    static inline __attribute__((always_inline)) void name(                                            \\
            const int ways, const int rows, const int nv, const Winner* winners, Py_ssize_t count,     \\
            const real* x, Py_ssize_t line, real* dw, Py_ssize_t dw_row, real* db) {                   \\
        const Py_ssize_t lanes = sizeof(V) / sizeof(real);                                             \\
        V acc[12] = {{0}};                                                                             \\
        real total[4] = {0};                                                                           \\
        for (; count >= ways; winners += ways, count -= ways)                                          \\
            UNROLLED for (int u = 0; u < ways; u++)                                                    \\
                name##_add(rows, nv, winners + u, x, line, acc + u * rows * nv, total + u);            \\
        for (; count > 0; winners++, count--) name##_add(rows, nv, winners, x, line, acc, total);      \\
        UNROLLED for (int u = 1; u < ways; u++) {                                                      \\
            total[0] += total[u];                                                                      \\
            UNROLLED for (int i = 0; i < rows * nv; i++) acc[i] = acc[i] + acc[u * rows * nv + i];     \\
        }                                                                                              \\
        *db += total[0];                                                                               \\
        UNROLLED for (int r = 0; r < rows; r++)                                                        \\
            UNROLLED for (int v = 0; v < nv; v++) {                                                    \\
                V* to = (V*) (dw + r * dw_row + v * lanes);                                            \\
                *to = *to + acc[r * nv + v];                                                           \\
            }                                                                                          \\
    }
    DEFINE_WINNERS_TILE(winners_tile, vec)
    DEFINE_WINNERS_TILE(short_winners_tile, short_vec)

    /* Rows and units alone choose the number of ways, that is the order of the sums. */
    #define WINNER_WAYS(n) ((n) > 6 ? 1 : (n) > 3 ? 2 : 4)
    #define WINNERS(name, rows, units, nv) case rows: \\
        name(WINNER_WAYS((rows) * (units)), rows, nv, winners, count, x, line, dw, dw_row, db); break;
    #define WINNERS_OF(name, units, nv) switch (rows) { \\
        WINNERS(name, 1, units, nv) WINNERS(name, 2, units, nv) WINNERS(name, 3, units, nv) \\
        WINNERS(name, 4, units, nv) WINNERS(name, 5, units, nv) WINNERS(name, 6, units, nv) }

    /* `winners_tile` of 1 to 6 rows, and 1 or 2 vectors of as many units or fewer. */
    static void winners_tile_of(
            Py_ssize_t rows, Py_ssize_t units, Py_ssize_t nv, int is_short, const Winner* winners,
            Py_ssize_t count, const real* x, Py_ssize_t line, real* dw, Py_ssize_t dw_row, real* db) {
        if (units == 1 && is_short) WINNERS_OF(short_winners_tile, 1, 1)
        else if (units == 1) WINNERS_OF(winners_tile, 1, 1)
        else if (nv == 2) WINNERS_OF(winners_tile, 2, 2)
        else WINNERS_OF(winners_tile, 2, 1)
    }
    """
    vec load_short(const real* p) noexcept nogil
    ctypedef struct Winner:
        int32_t at
        real value
    void winners_tile_of(
        Py_ssize_t rows, Py_ssize_t units, Py_ssize_t nv, bint is_short, const Winner* winners,
        Py_ssize_t count, const real* x, Py_ssize_t line, real* dw, Py_ssize_t dw_row,
        real* db) noexcept nogil


cdef inline inlined winners_back_tile(
    const Py_ssize_t rows, const Py_ssize_t units, const Winner* winners, Py_ssize_t count,
    const real* w, Py_ssize_t w_row, Py_ssize_t lanes, real* dx, Py_ssize_t line, Py_ssize_t copy,
    Py_ssize_t copies,
) noexcept nogil:
    """dx[at + r * line] += value * w[r] of each winner, in copies by turns; `lanes` of the units.

    Units, not vectors: a winner's next ones come after all other winners, which is an order of sums.
    """
    cdef vec[12 * 8] kept
    cdef vec[2 * 8] a
    cdef real* window
    cdef vec* to
    cdef Py_ssize_t r, v, i
    cdef Py_ssize_t nv = units * LANE_VECTORS
    for r in range(rows):
        for v in range(nv):
            kept[r * nv + v] = (<const vec*> (w + r * w_row + v * VL))[0]
    for i in range(count):
        for v in range(nv):
            a[v] = vec_set(winners[i].value)
            if v >= nv - LANE_VECTORS:  # behind the run w is 0, but infinity * 0 is NaN
                a[v] = first_lanes(a[v], lanes - v * VL)
        window = dx + (i & (copies - 1)) * copy + winners[i].at
        for r in range(rows):
            for v in range(nv):
                to = <vec*> (window + r * line + v * VL)
                to[0] = to[0] + kept[r * nv + v] * a[v]


cdef void winners_back_tile_of(
    Py_ssize_t rows, Py_ssize_t units, const Winner* list, Py_ssize_t count, const real* w,
    Py_ssize_t w_row, Py_ssize_t lanes, real* dx, Py_ssize_t line, Py_ssize_t copy, Py_ssize_t copies,
) noexcept nogil:
    """`winners_back_tile` of 1 to 6 rows, and 1 or 2 units."""
    if units == 2:
        if rows == 6:
            winners_back_tile(6, 2, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 5:
            winners_back_tile(5, 2, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 4:
            winners_back_tile(4, 2, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 3:
            winners_back_tile(3, 2, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 2:
            winners_back_tile(2, 2, list, count, w, w_row, lanes, dx, line, copy, copies)
        else:
            winners_back_tile(1, 2, list, count, w, w_row, lanes, dx, line, copy, copies)
    else:
        if rows == 6:
            winners_back_tile(6, 1, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 5:
            winners_back_tile(5, 1, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 4:
            winners_back_tile(4, 1, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 3:
            winners_back_tile(3, 1, list, count, w, w_row, lanes, dx, line, copy, copies)
        elif rows == 2:
            winners_back_tile(2, 1, list, count, w, w_row, lanes, dx, line, copy, copies)
        else:
            winners_back_tile(1, 1, list, count, w, w_row, lanes, dx, line, copy, copies)


cdef bint winners_pay(ConvPlan conv, Py_ssize_t area, bint to_dx):
    """Whether sums over the winners of windows of `area` outputs take less time than the dense kernels.

    In cycles: of an output of the pool, which it is listed in, and whose units are read, added and,
    in dx, written again; against the multiply-adds of all outputs of its window, so many in a cycle.
    """
    KH, KW, C, K = conv.w
    cdef Py_ssize_t units = KH * ((KW * C + UNIT - 1) // UNIT)
    cdef double dense = area * KH * KW * C, many = 5 * UNIT  # a longer run reads the list many times
    if conv.groups > 1 or conv.dilation != (1, 1) or (
            (conv.y[1] * conv.stride[0] + KH) * (conv.y[2] * conv.stride[1] + KW) * C >= 1 << 30):
        return False  # places are of 32 bits
    if to_dx:
        return 4 + 4.2 * units < dense / (13 if C <= WIDE_CHANNELS else 30)
    return 4 + (1.3 if KW * C <= many else 2) * units < 3 + dense / (
        40 if conv.winograd_dw or conv.rows_dw else 8 if K <= WIDE_CHANNELS else 22)


cdef class WinnerSums:
    """dx, dw and db from the winners of each window.

    Parameters
    ----------
    x, w, z, y : tuple
        Shapes of the input, the filter, the convolution's output and the pooled output.
    stride, before : tuple
        The convolution's.
    window, pool_stride : tuple
        Of the pool, (h, w).
    """
    cdef Py_ssize_t N, H, W, C, KH, KW, K, OH, OW, top, left
    cdef Py_ssize_t run, padded_run, padded_w, padded_line, height  # of the padded input
    cdef Py_ssize_t step                    # its columns from one window to the next
    cdef bint unfolded
    cdef Py_ssize_t line                    # numbers of a row, unfolded or not
    cdef Py_ssize_t image, copies           # numbers of x, and of each copy of dx; how many copies
    cdef Py_ssize_t parts, size, band, area
    cdef int32_t* places                    # `at` of an output; something for -1, too
    cdef int32_t* holders                   # of a column: first and last + 1 of the runs that hold it
    cdef Workspace tables, scratch, partials, turned

    def __init__(self, tuple x, tuple w, tuple z, tuple y, tuple stride, tuple before, tuple window,
                 tuple pool_stride):
        cdef Py_ssize_t h, j, rows, pitch, outputs = z[1] * z[2]
        self.N, self.H, self.W, self.C = x
        self.KH, self.KW, _, self.K = w
        self.OH, self.OW = y[1:3]
        self.top, self.left = before
        self.run = self.KW * self.C
        self.padded_run = (self.run + UNIT - 1) // UNIT * UNIT
        self.padded_w = (z[2] - 1) * stride[1] + self.KW
        self.padded_line = (self.padded_w * self.C + UNIT - 1) // UNIT * UNIT
        self.height = (z[1] - 1) * stride[0] + self.KH
        self.step = stride[1]
        # A run that mostly crosses lines of the cache is worth the copy if many winners read it.
        self.unfolded = (
            self.run > UNIT // 2 and self.step <= self.KW
            and self.K * self.OH * self.OW * self.KH >= 4 * self.height * z[2]
            and self.height * z[2] * self.padded_run * <Py_ssize_t> sizeof(real) <= WINNER_BYTES)
        pitch = self.padded_run if self.unfolded else self.step * self.C
        self.line = z[2] * pitch if self.unfolded else self.padded_line
        self.image = self.height * self.line + UNIT
        rows = self.KH * self.padded_run // UNIT
        self.copies = 1 if self.unfolded or rows > 24 else 2 if rows > 12 else 4
        self.parts = max(1, min(ITEMS // 2, self.N))  # each hands sums over, as large as dw
        self.size = self.K * self.KH * self.padded_run + (self.K + UNIT - 1) // UNIT * UNIT
        # A band is as many pooled rows as see what stays in L1.
        self.band = self.OH
        while self.band > 1:
            rows = ((self.band - 1) * pool_stride[0] + window[0] - 1) * stride[0] + self.KH
            if min(rows, self.height) * self.line * <Py_ssize_t> sizeof(real) <= WINNER_BYTES:
                break
            self.band = (self.band + 1) // 2
        self.area = self.image * (1 + self.copies) + (
            (self.band * self.OW + 1) * <Py_ssize_t> sizeof(Winner) // <Py_ssize_t> sizeof(real) + UNIT
        ) // UNIT * UNIT
        self.tables, self.scratch = Workspace(), Workspace()
        self.partials, self.turned = Workspace(), Workspace()
        self.places = <int32_t*> self.tables.take(UNIT + outputs + 2 * self.W) + UNIT
        self.holders = self.places + outputs
        for j in range(self.W):
            h = j + self.left
            self.holders[2 * j] = max(0, h - self.KW + self.step) // self.step
            self.holders[2 * j + 1] = min(z[2], h // self.step + 1)
        (self.places - 1)[0] = 0
        for h in range(z[1]):
            for j in range(z[2]):
                self.places[h * z[2] + j] = h * stride[0] * self.line + j * pitch

    cdef run_all(self, const real* dy, const int32_t* indices, const real* x, const real* w, real* dx,
                 real* dw, real* db, int num_threads):
        """Each of dx, dw and db may be NULL. N is at least 1."""
        cdef Shares shares
        cdef Py_ssize_t thread, item
        cdef Py_ssize_t work = self.N * self.OH * self.OW * self.K * (
            WINNER_WORK + self.KH * self.padded_run * UNIT_WORK // UNIT)
        cdef Py_ssize_t turned = (self.K + TURNED - 1) // TURNED
        cdef int threads = team(work, num_threads)
        cdef int few = team(self.size * TURNED, num_threads)
        cdef real* sums = self.partials.take(self.parts * self.size)
        cdef Py_ssize_t slot = apart(self.area)
        cdef real* scratch = self.scratch.take(threads * slot)
        cdef real* wt = self.turned.take(self.K * self.KH * self.padded_run)
        if dx != NULL:
            region_starts(few > 1)
            for item in prange(turned, num_threads=few, nogil=True):
                self.turn_filters(w, wt, item)
                item_ends()
        share_out(&shares, self.parts, threads)
        region_starts(threads > 1)
        with nogil, parallel(num_threads=threads):
            thread = threadid()
            item = next_item(&shares, thread)
            while item >= 0:
                self.run_part(dy, indices, x, wt, dx, dw != NULL or db != NULL, sums + item * self.size,
                              scratch + thread * slot, item)
                item_ends()
                item = next_item(&shares, thread)
        if dw != NULL or db != NULL:
            few = num_threads if self.parts * self.size > TINY else 1
            region_starts(few > 1)
            for item in prange(turned * self.KH, num_threads=few, nogil=True):
                self.add_parts(sums, dw, db, item)
                item_ends()

    cdef void turn_filters(self, const real* w, real* wt, Py_ssize_t item) noexcept nogil:
        """wt[k, kh, kw, c] = w[kh, kw, c, k], with zeros behind each run."""
        cdef Py_ssize_t k, kh, kw, c, k0 = item * TURNED, k1 = min(k0 + TURNED, self.K)
        cdef real* to
        memset(wt + k0 * self.KH * self.padded_run, 0,
               (k1 - k0) * self.KH * self.padded_run * sizeof(real))
        for kh in range(self.KH):
            for kw in range(self.KW):
                for c in range(self.C):
                    to = wt + kh * self.padded_run + kw * self.C + c
                    for k in range(k0, k1):
                        to[k * self.KH * self.padded_run] = w[k]
                    w += self.K

    cdef void run_part(self, const real* dy, const int32_t* indices, const real* x, const real* wt,
                       real* dx, bint want_sums, real* sums, real* scratch,
                       Py_ssize_t part) noexcept nogil:
        """A fixed range of images: their dx, and their share of dw and db."""
        cdef Py_ssize_t n, k, p, count, at, size = self.H * self.W * self.C
        cdef Py_ssize_t bands = (self.OH + self.band - 1) // self.band
        # Of the next image, for each list of winners. x comes from memory: it was read long ago.
        cdef Py_ssize_t fetched = size // (self.K * bands) if want_sums else 0
        cdef real* copies = scratch + self.image
        cdef Winner* winners = <Winner*> (copies + self.copies * self.image)
        cdef real* db = sums + self.K * self.KH * self.padded_run
        memset(sums, 0, self.size * sizeof(real))
        for n in range(part * self.N // self.parts, (part + 1) * self.N // self.parts):
            if want_sums:
                self.read_image(x + n * size, copies, scratch)
            if dx != NULL:
                memset(copies, 0, self.copies * self.image * sizeof(real))
            p = 0
            while p < self.OH:
                at = (n * self.OH + p) * self.OW * self.K
                for k in range(self.K):
                    count = self.list_winners(dy + at + k, indices + at + k,
                                              min(self.band, self.OH - p) * self.OW, winners,
                                              x + (n + 1) * size + (p // self.band * self.K + k)
                                              * fetched, fetched)
                    if want_sums:
                        self.add_winners(winners, count, scratch,
                                         sums + k * self.KH * self.padded_run, db + k)
                    if dx != NULL:
                        self.spread_winners(winners, count, wt + k * self.KH * self.padded_run, copies)
                p += self.band
            if dx != NULL:
                self.write_image(copies, dx + n * size)

    cdef void read_image(self, const real* x, real* copies, real* to) noexcept nogil:
        """An image as windows see it; what `copies` hold is lost."""
        if self.unfolded:
            self.pad_image(x, copies)
            self.unfold(copies, to)
        else:
            self.pad_image(x, to)

    cdef void write_image(self, const real* copies, real* dx) noexcept nogil:
        """dx of an image."""
        if self.unfolded:
            self.fold(copies, dx)
        else:
            self.join_copies(copies, dx)

    cdef void pad_image(self, const real* x, real* to) noexcept nogil:
        """An image with the zeros around it; and behind its rows, where subnormals would take long."""
        cdef Py_ssize_t h, used = self.padded_w * self.C
        for h in range(self.height):
            pad_rows(x, self.H, self.W, self.C, to, self.padded_w, self.C, h - self.top, -self.left, 1,
                     self.C)
            memset(to + used, 0, (self.padded_line - used) * sizeof(real))
            to += self.padded_line
        memset(to, 0, UNIT * sizeof(real))

    cdef void unfold(self, const real* x, real* to) noexcept nogil:
        """Of each row of the padded image, the run of each window, one behind the other."""
        cdef Py_ssize_t h, j, v
        for h in range(self.height):
            for j in range(self.line // self.padded_run):
                for v in range(self.padded_run // VL):
                    (<vec*> (to + v * VL))[0] = (<const vec*> (x + j * self.step * self.C + v * VL))[0]
                to += self.padded_run
            x += self.padded_line

    cdef Py_ssize_t list_winners(self, const real* dy, const int32_t* indices, Py_ssize_t outputs,
                                 Winner* winners, const real* ahead,
                                 Py_ssize_t fetched) noexcept nogil:
        """The winners of one channel, while memory is asked for numbers ahead. Returns how many."""
        cdef Py_ssize_t i = 0, count = 0, end, step = 8 * fetched // max(1, outputs) + 1
        while i < outputs:
            end = min(i + 8, outputs)
            fetch_run(ahead, step if fetched else 0)
            ahead += step
            while i < end:
                # Written in any case and kept if it won: a branch would be guessed wrong too often.
                winners[count].at = self.places[indices[i * self.K]]
                winners[count].value = dy[i * self.K]
                count += indices[i * self.K] >= 0
                i += 1
        return count

    cdef void add_winners(self, const Winner* winners, Py_ssize_t count, const real* x, real* dw,
                          real* db) noexcept nogil:
        """dw[kh, :] += dy * x[window of the winner], and db += dy, for one channel."""
        cdef Py_ssize_t kh = 0, rows, unit, units, v, nv
        cdef bint short = self.run <= 8
        cdef real again = 0
        while kh < self.KH:
            rows = even_part(self.KH - kh, WINNER_ROWS)
            unit = 0
            while unit < self.padded_run:
                units = min(2, (self.padded_run - unit) // UNIT)
                v = unit
                while v < (8 if short else unit + units * UNIT):
                    nv = 2 if units == 2 and VL == UNIT else 1
                    winners_tile_of(rows, units, nv, short, winners, count, x + kh * self.line + v,
                                    self.line,
                                    dw + kh * self.padded_run + v, self.padded_run,
                                    db if kh == 0 and v == 0 else &again)
                    v += nv * VL
                unit += units * UNIT
            kh += rows

    cdef void spread_winners(self, const Winner* winners, Py_ssize_t count, const real* wt,
                             real* copies) noexcept nogil:
        """dx[window of the winner] += dy * w[:, :, :, k], for one channel."""
        cdef Py_ssize_t kh = 0, rows, unit, units
        while kh < self.KH:
            rows = even_part(self.KH - kh, WINNER_ROWS)
            unit = 0
            while unit < self.run:
                units = 2 if unit + UNIT < self.run else 1
                winners_back_tile_of(rows, units, winners, count, wt + kh * self.padded_run + unit,
                                     self.padded_run, self.run - unit, copies + kh * self.line + unit,
                                     self.line, self.image, self.copies)
                unit += units * UNIT
            kh += rows

    cdef void join_copies(self, const real* copies, real* dx) noexcept nogil:
        """dx of an image: the sum of its copies, without the padding."""
        cdef Py_ssize_t h, i, copy, inside = max(0, min(self.W, self.padded_w - self.left)) * self.C
        cdef vec total
        copies += self.top * self.line + self.left * self.C
        for h in range(self.H):
            if h + self.top >= self.height:
                inside = 0
            i = 0
            while i < inside:
                total = (<const vec*> (copies + i))[0]
                for copy in range(1, self.copies):
                    total = total + (<const vec*> (copies + copy * self.image + i))[0]
                store_part(dx + i, total, inside - i)
                i += VL
            memset(dx + inside, 0, (self.W * self.C - inside) * sizeof(real))
            copies += self.line
            dx += self.W * self.C

    cdef void fold(self, const real* runs, real* dx) noexcept nogil:
        """dx of an image: each pixel the sum of all runs that hold it."""
        cdef Py_ssize_t h, w, c, i, j, end, next = self.padded_run - self.step * self.C
        cdef const real* pixel
        cdef vec total
        for h in range(self.top, self.top + self.H):
            for w in range(self.W):
                j, end = self.holders[2 * w], self.holders[2 * w + 1] if h < self.height else 0
                pixel = runs + h * self.line + (w + self.left) * self.C + j * next
                c = 0
                while c < self.C:
                    total = vec_set(0)
                    if self.C - c <= 8:
                        for i in range(end - j):
                            total = total + load_short(pixel + i * next + c)
                    else:
                        for i in range(end - j):
                            total = total + (<const vec*> (pixel + i * next + c))[0]
                    store_part(dx + c, total, self.C - c)
                    c += VL
                dx += self.C

    cdef void add_parts(self, real* sums, real* dw, real* db, Py_ssize_t item) noexcept nogil:
        """A row of some filters: parts in their order, added to the first; dw back into HWIO."""
        cdef Py_ssize_t part, k, kh = item % self.KH, i
        cdef Py_ssize_t k0 = item // self.KH * TURNED, k1 = min(k0 + TURNED, self.K)
        cdef real* row
        cdef vec total
        for k in range(k0, k1 if dw != NULL else k0):
            row = sums + (k * self.KH + kh) * self.padded_run
            i = 0
            while i < self.padded_run:
                total = (<const vec*> (row + i))[0]
                for part in range(1, self.parts):
                    total = total + (<const vec*> (row + part * self.size + i))[0]
                (<vec*> (row + i))[0] = total
                i += VL
            for i in range(self.run):
                dw[(kh * self.run + i) * self.K + k] = row[i]
        if kh == 0 and db != NULL:
            sums += self.K * self.KH * self.padded_run
            for k in range(k0, k1):
                db[k] = sums[k]
                for part in range(1, self.parts):
                    db[k] += sums[part * self.size + k]
