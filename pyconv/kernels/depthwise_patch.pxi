# Depthwise y and dx: the tile for common filters, a patch of 4 rows x 2 columns in all channels.
#
# One vector of channels comes after the other, so that the pixels are read from end to end, which the
# hardware sees and runs ahead of. Each vector of x is loaded once for all sums that it goes into: for
# 3x3 taps that is 6 x 4 loads of x and 2 x 9 of weights for 9 x 8 products.
#
# Patches are no wider, since pixels lie a power of two apart as a rule, and compete for the same few
# places of L1: 4 x 4 outputs, which load less, take a tenth to a third longer from L3, and the same time
# from L2. Where vectors are half a line, patches of a single row take two: of pixels of 2 KB an L1 of 8
# ways has room for 16, and a line whose second half is wanted later has gone.

cdef extern from *:
    """
    /* An address that is computed here: GCC would compute all of a tile before, and spill them. */
    #define PATCH_HERE(p) __asm__("" : "+r" (p))

    #define PATCH_ROWS 4       /* x 2 columns: 8 sums, 6 of x, 1 of weights in 16 registers: 3x3 */
    #define PATCH_COLUMNS 2
    #define PATCH_VECTORS (VEC_BYTES == 32 ? 2 : 1) /* of one row */

    typedef struct {
        Py_ssize_t shape;          /* of the taps, and the step: PATCH_SHAPE */
        const real* zeros;         /* a pixel; what columns outside 0 .. W - 1 hold */
        Py_ssize_t W, pixel, left; /* input columns, what lies between them, and the first of output 0 */
        Py_ssize_t y_row, y_step;  /* between outputs */
        Py_ssize_t channels, vectors, last;  /* of outputs; where the last vector of a pixel is read */
        Py_ssize_t record, taps;   /* between the weights of vectors; to those of the first tap */
        int streams, relu;         /* streams: past the caches */
        const Py_ssize_t* place;   /* in a pixel, of what each vector is picked from, */
        const ivec* lanes;         /* and of its lanes; NULL where vectors are read as they are */
    } depthwise_patch;

    /* Whether lanes are picked for patches of so many taps; for others the tile does it. */
    #define PATCH_PICKS(taps) ((taps) > 1 && (taps) % 2 == 1)

    /* The first channel of vector v. The last vector is moved back rather than cut. */
    #define PATCH_PLACE(last, v) ((v) * VL < (last) ? (v) * VL : (last))
    #define PATCH_CHANNEL(s, v) PATCH_PLACE((s)->channels - VL, v)

    /* y = b + sum over columns of taps, then rows of taps, of x * w, of V vectors from v on and from
       output `column` on. Only at an EDGE do its taps leave the image. In C, because GCC unrolls
       Cython's loops only in part, and sums that it indexes do not stay in registers. */
    static inline __attribute__((always_inline)) void depthwise_patch_vectors(
            const int V, const int R, const int J, const int reads, const int KH, const int KW,
            const int step, const depthwise_patch* s, const real* const* row, Py_ssize_t w, Py_ssize_t v,
            const real* weights, real* y) {
        const int height = (R - 1) * step + KH, width = (J - 1) * step + KW;
        const real* tap = weights + v * s->record + s->taps;
        Py_ssize_t at = w * s->pixel, c[PATCH_VECTORS], place[PATCH_VECTORS];
        vec acc[PATCH_VECTORS][4][PATCH_COLUMNS];
        ivec lanes[PATCH_VECTORS];
        _Pragma("GCC unroll 2")
        for (int u = 0; u < V; u++) {
            const vec bias = *(const vec*) (weights + (v + u) * s->record);
            c[u] = PATCH_CHANNEL(s, v + u), place[u] = PATCH_PLACE(s->last, v + u);
            if (reads == PICKED) place[u] = s->place[v + u], lanes[u] = s->lanes[v + u];
            _Pragma("GCC unroll 4")
            for (int r = 0; r < R; r++)
                _Pragma("GCC unroll 4")
                for (int j = 0; j < J; j++) acc[u][r][j] = bias;
        }
        PATCH_HERE(tap);
        _Pragma("GCC unroll 16")
        for (int j = 0; j < width; j++, at += s->pixel) {
            const int inside = reads != EDGE || (size_t) (w + j) < (size_t) s->W;
            PATCH_HERE(at);
            _Pragma("GCC unroll 2")
            for (int u = 0; u < V; u++) {
                vec x[8];
                _Pragma("GCC unroll 8")
                for (int i = 0; i < height; i++) {
                    const real* p = (inside ? row[i] + at : s->zeros) + place[u];
                    x[i] = reads == PICKED ? pick_lanes(p, lanes[u]) : *(const vec*) p;
                    KEEP(x[i]);
                }
                _Pragma("GCC unroll 4")
                for (int q = 0; q < J; q++) {
                    const int kw = j - step * q;
                    _Pragma("GCC unroll 5")
                    for (int kh = 0; kh < KH; kh++) {
                        if (kw < 0 || kw >= KW) continue;
                        vec k = *(const vec*) (tap + u * s->record + (kw * KH + kh) * VL);
                        KEEP(k);
                        _Pragma("GCC unroll 4")
                        for (int r = 0; r < R; r++) acc[u][r][q] += k * x[kh + step * r];
                    }
                }
            }
        }
        if (s->relu)
            _Pragma("GCC unroll 2")
            for (int u = 0; u < V; u++)
                _Pragma("GCC unroll 4")
                for (int r = 0; r < R; r++)
                    _Pragma("GCC unroll 4")
                    for (int j = 0; j < J; j++) acc[u][r][j] = vec_relu(acc[u][r][j]);
        #define PATCH_STORE(past) { \\
            real* to = y; \\
            _Pragma("GCC unroll 4") \\
            for (int j = 0; j < J; j++, to += s->y_step) { \\
                PATCH_HERE(to); \\
                _Pragma("GCC unroll 4") \\
                for (int r = 0; r < R; r++) \\
                    _Pragma("GCC unroll 2") \\
                    for (int u = 0; u < V; u++) \\
                        store_line(to + r * s->y_row + c[u], acc[u][r][j], past); \\
            } \\
        }
        if (s->streams) PATCH_STORE(1) else PATCH_STORE(0)
        #undef PATCH_STORE
    }

    /* The same of all vectors. */
    static inline __attribute__((always_inline)) void depthwise_patch_tile(
            const int R, const int J, const int reads, const int KH, const int KW, const int step,
            const depthwise_patch* s, const real* const* row, Py_ssize_t column, const real* weights,
            real* y) {
        const int V = R == 1 ? PATCH_VECTORS : 1;
        const Py_ssize_t w = column * step + s->left;
        Py_ssize_t v = 0;
        y += column * s->y_step;
        for (; v + V <= s->vectors; v += V)
            depthwise_patch_vectors(V, R, J, reads, KH, KW, step, s, row, w, v, weights, y);
        if (V > 1 && v < s->vectors)
            depthwise_patch_vectors(1, R, J, reads, KH, KW, step, s, row, w, v, weights, y);
    }

    /* Whether taps of outputs from `column` on leave the image. */
    static inline int patch_at_edge(const depthwise_patch* s, Py_ssize_t column, Py_ssize_t columns,
                                    Py_ssize_t KW, Py_ssize_t step) {
        const Py_ssize_t w = column * step + s->left;
        return w < 0 || w + (columns - 1) * step + KW > s->W;
    }

    /* Outputs `column` to `end` of R rows, whose taps reach the input's rows from `rows` on. */
    static inline __attribute__((always_inline)) void depthwise_patches(
            const int R, const int KH, const int KW, const int step, const depthwise_patch* of,
            const real* const* rows, Py_ssize_t column, Py_ssize_t end, const real* weights, real* y) {
        const depthwise_patch s = *of;  /* which no store to y can change */
        const int picks = PICKS && PATCH_PICKS(KH * KW) && s.lanes;
        const real* row[8];
        _Pragma("GCC unroll 8")
        for (int i = 0; i < (R - 1) * step + KH; i++) row[i] = rows[i];
        #define PATCH(J, reads) \\
            depthwise_patch_tile(R, J, reads, KH, KW, step, &s, row, column, weights, y)
        #define PATCH_OF(J) { \\
            if (picks) PATCH(J, PICKED); \\
            else if (patch_at_edge(&s, column, J, KW, step)) PATCH(J, EDGE); \\
            else PATCH(J, INSIDE); \\
        }
        for (; column + PATCH_COLUMNS <= end; column += PATCH_COLUMNS) PATCH_OF(PATCH_COLUMNS)
        for (; column < end; column++) PATCH_OF(1)
        #undef PATCH_OF
        #undef PATCH
    }

    #define PATCH_SHAPE(KH, KW, step) (100 * (KH) + 10 * (KW) + (step))
    #define PATCHES(R, KH, KW, step) case 1000 * R + PATCH_SHAPE(KH, KW, step): \\
        depthwise_patches(R, KH, KW, step, s, row, column, end, weights, y); \\
        return
    #define PATCHES_2(KH, KW, step) PATCHES(1, KH, KW, step); PATCHES(2, KH, KW, step)
    #define PATCHES_4(KH, KW) PATCHES_2(KH, KW, 1); PATCHES(4, KH, KW, 1)
    /* The same of 1 or 2 rows or, at step 1, 4, for the shapes that are known. */
    static __attribute__((noinline)) void depthwise_patches_of(
            Py_ssize_t rows, const depthwise_patch* s, const real* const* row, Py_ssize_t column,
            Py_ssize_t end, const real* weights, real* y) {
        switch (1000 * rows + s->shape) {
            PATCHES_2(3, 3, 2); PATCHES_2(5, 5, 2); PATCHES_4(3, 3); PATCHES_4(5, 5);
            PATCHES_4(1, 1); PATCHES_4(1, 2); PATCHES_4(2, 1); PATCHES_4(2, 2);  /* dx of 3x3, step 2 */
            PATCHES_4(2, 3); PATCHES_4(3, 2);  /* and of 5x5 */
            PATCHES_4(1, 3); PATCHES_4(3, 1);
        }
    }
    static int depthwise_patch_is_known(Py_ssize_t KH, Py_ssize_t KW, Py_ssize_t step) {
        return step == 1 ? (KH == 5 && KW == 5) || (1 <= KH && KH <= 3 && 1 <= KW && KW <= 3)
                         : step == 2 && KH == KW && (KH == 3 || KH == 5);
    }
    """
    const Py_ssize_t PATCH_ROWS, PATCH_COLUMNS, PATCH_VECTORS
    bint PATCH_PICKS(Py_ssize_t taps) noexcept nogil
    Py_ssize_t PATCH_SHAPE(Py_ssize_t KH, Py_ssize_t KW, Py_ssize_t step) noexcept nogil
    ctypedef struct DepthwisePatch "depthwise_patch":
        const real* zeros
        Py_ssize_t shape, W, pixel, left, y_row, y_step, channels, vectors, last, record, taps
        bint streams, relu
        const Py_ssize_t* place
        const ivec* lanes
    void depthwise_patches_of(
        Py_ssize_t rows, const DepthwisePatch* s, const real** row, Py_ssize_t column, Py_ssize_t end,
        const real* weights, real* y) noexcept nogil
    bint depthwise_patch_is_known(Py_ssize_t KH, Py_ssize_t KW, Py_ssize_t step) noexcept nogil
